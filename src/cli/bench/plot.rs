//! GB/s against size, each rule with its copy.

use std::path::Path;

use plotters::prelude::*;

use super::report;
use super::row::Row;

/// Draws the rows of one tensor: a panel for each device, a colour for each rule, the copy dashed.
pub(super) fn draw(file: &Path, rows: &[Row]) -> Result<(), Box<dyn std::error::Error>> {
    let rows: Vec<_> = rows.iter().filter(|row| row.shape.lens.len() == 1).collect();
    let mut devices: Vec<Option<&str>> = Vec::new();
    let mut variants: Vec<String> = Vec::new();
    let several = rows.iter().any(|row| row.memory != rows[0].memory);
    let name = |row: &Row| match several {
        true => format!("{}, {}", row.variant, report::memory(row)),
        false => row.variant.clone(),
    };
    for row in &rows {
        let (device, variant) = (row.adapter.as_deref(), name(row));
        if !devices.contains(&device) {
            devices.push(device);
        }
        if !variants.contains(&variant) {
            variants.push(variant);
        }
    }
    crate::cli::font()?;
    let root = SVGBackend::new(file, (720, 320 * devices.len() as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    for (area, device) in root.split_evenly((devices.len(), 1)).iter().zip(&devices) {
        let ours: Vec<_> = rows.iter().filter(|row| row.adapter.as_deref() == *device).collect();
        let size = |row: &Row| (row.shape.elements() as f64).log2();
        let sizes = ours.iter().map(|row| size(row));
        let (low, high) = sizes.fold((f64::MAX, 0.0f64), |(low, high), x| (low.min(x), high.max(x)));
        let most = ours.iter().map(|row| row.gbps().max(row.copy_gbps())).fold(0.0, f64::max);
        let mut chart = ChartBuilder::on(area)
            .caption(format!("{} (dashed: a copy of the same traffic)", device.unwrap_or("CPU")), ("sans-serif", 16))
            .margin(10)
            .x_label_area_size(36)
            .y_label_area_size(48)
            .build_cartesian_2d((low.floor() - 1.0..high.ceil() + 1.0).step(2.0), 0.0..most * 1.1)?;
        let power = |x: &f64| format!("2^{x:.0}");
        let mut mesh = chart.configure_mesh();
        mesh.x_desc("parameters")
            .y_desc("GB/s")
            .x_label_formatter(&power)
            .x_labels(12)
            .light_line_style(WHITE)
            .draw()?;
        for (k, variant) in variants.iter().enumerate() {
            let colour = Palette99::pick(k).to_rgba();
            let points = |y: fn(&Row) -> f64| {
                let of = |row: &&&&Row| name(row) == *variant;
                let mut points: Vec<_> = ours.iter().filter(of).map(|row| (size(row), y(row))).collect();
                points.sort_by(|a, b| a.0.total_cmp(&b.0));
                points
            };
            let key = move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2));
            chart.draw_series(LineSeries::new(points(Row::gbps), colour.stroke_width(2)))?.label(variant).legend(key);
            chart.draw_series(points(Row::gbps).into_iter().map(|at| Circle::new(at, 3, colour.filled())))?;
            chart.draw_series(DashedLineSeries::new(points(Row::copy_gbps), 5, 5, colour.stroke_width(1)))?;
        }
        let mut key = chart.configure_series_labels();
        key.position(SeriesLabelPosition::UpperLeft).background_style(WHITE).border_style(BLACK).draw()?;
    }
    Ok(root.present()?)
}
