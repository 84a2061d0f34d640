//! How runs went: a picture, and a CSV file.

use std::fmt::Write;

use plotters::coord::Shift;
use plotters::coord::combinators::WithKeyPoints;
use plotters::prelude::*;

use crate::plot::{Outcome, Picture, colour};
use crate::trainer::Curve;

/// Loss and accuracy of some runs, by epochs.
pub(crate) struct Curves<'a>(pub(crate) &'a [Curve]);

impl Curves<'_> {
    /// Each rule's own colour; of one rule at several rates, from blue to red.
    fn colour(&self, k: usize) -> RGBColor {
        let curves = self.0;
        let names_differ = curves.iter().any(|curve| curve.name != curves[0].name);
        if names_differ || curves.len() == 1 {
            return colour(&curves[k].name);
        }
        let hue = 0.66 * (1.0 - k as f64 / (curves.len() - 1) as f64);
        let (r, g, b) = HSLColor(hue, 0.85, 0.42).rgb();
        RGBColor(r, g, b)
    }

    pub(crate) fn csv(&self) -> Outcome<String> {
        let mut text = String::from("optimizer,lr,epoch,loss,test_accuracy\n");
        for Curve { name, lr, losses, accuracy, .. } in self.0 {
            losses.iter().try_for_each(|(epoch, loss)| writeln!(text, "{name},{lr},{epoch},{loss},"))?;
            accuracy.iter().try_for_each(|(epoch, right)| writeln!(text, "{name},{lr},{epoch},,{right}"))?;
        }
        Ok(text)
    }
}

/// A logarithmic axis with some labels, however short: at powers of ten, also at 2 and 5 times them, or between.
fn logarithmic(low: f64, high: f64) -> WithKeyPoints<LogCoord<f64>> {
    let tenths: Vec<_> = (10..100).map(|tenth| f64::from(tenth) / 10.0).collect();
    let ones: Vec<_> = (1..10).map(f64::from).collect();
    let decades = low.log10().floor() as i32..=high.log10().ceil() as i32;
    let labels = |factors: &[f64]| -> Vec<f64> {
        let all = decades.clone().flat_map(|decade| factors.iter().map(move |factor| factor * 10f64.powi(decade)));
        all.filter(|label| (low..=high).contains(label)).collect()
    };
    let mut candidates = [&[1.0][..], &[1.0, 2.0, 5.0], &ones, &tenths].map(labels).into_iter();
    let enough = candidates.find(|labels| labels.len() >= 3).unwrap_or_else(|| vec![low, high]);
    let every = enough.len().div_ceil(10);
    (low..high).log_scale().with_key_points(enough.into_iter().step_by(every).collect())
}

impl Picture for Curves<'_> {
    fn size(&self) -> (u32, u32) {
        (1040, 420)
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Outcome<()>
    where
        B::ErrorType: 'static,
    {
        let all = |of: fn(&Curve) -> &Vec<(f64, f64)>| self.0.iter().flat_map(of).copied();
        let epochs = all(|curve| &curve.losses).map(|(epoch, _)| epoch).fold(1.0, f64::max);
        let losses = all(|curve| &curve.losses).map(|(_, loss)| loss.max(1e-6));
        let (low, high) = losses.fold((f64::INFINITY, 0.0f64), |(low, high), loss| (low.min(loss), high.max(loss)));
        // A loss that explodes does not flatten the others.
        let (low, high) = if low <= high { (low / 1.2, (high * 1.2).min(low.max(1.0) * 1e3)) } else { (0.1, 10.0) };
        let worst = all(|curve| &curve.accuracy).map(|(_, right)| right).fold(0.95, f64::min);
        let (left, right) = area.split_horizontally(520);
        let label = |curve: &Curve| {
            let end = if curve.diverged { "diverges".into() } else { format!("{:.1} %", 100.0 * curve.last()) };
            format!("{}, lr {}: {end}", curve.name, curve.lr)
        };
        let key = |line: RGBColor| move |(x, y)| PathElement::new([(x, y), (x + 16, y)], line.stroke_width(2));
        let mut chart = ChartBuilder::on(&left)
            .caption("training loss, mean of 50 steps", ("sans-serif", 17))
            .margin(8)
            .x_label_area_size(34)
            .y_label_area_size(48)
            .build_cartesian_2d(0.0..epochs, logarithmic(low, high))?;
        let short = |loss: &f64| format!("{}", format!("{loss:.2e}").parse().unwrap_or(*loss));
        chart.configure_mesh().x_desc("epoch").light_line_style(WHITE).y_label_formatter(&short).draw()?;
        for (k, curve) in self.0.iter().enumerate() {
            let line = self.colour(k);
            let points = curve.losses.iter().map(|&(epoch, loss)| (epoch, loss.clamp(low, high)));
            let drawn = chart.draw_series(LineSeries::new(points, line.stroke_width(2)))?;
            drawn.label(label(curve)).legend(key(line));
        }
        let mut names = chart.configure_series_labels();
        names.position(SeriesLabelPosition::UpperRight).background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
        let mut chart = ChartBuilder::on(&right)
            .caption("accuracy on the test images", ("sans-serif", 17))
            .margin(8)
            .x_label_area_size(34)
            .y_label_area_size(48)
            .build_cartesian_2d(0.0..epochs, (worst - 0.02).max(0.0)..1.0)?;
        let percent = |right: &f64| format!("{:.0} %", 100.0 * right);
        chart.configure_mesh().x_desc("epoch").light_line_style(WHITE).y_label_formatter(&percent).draw()?;
        for (k, curve) in self.0.iter().enumerate() {
            let line = self.colour(k);
            chart.draw_series(LineSeries::new(curve.accuracy.iter().copied(), line.stroke_width(2)))?;
            chart.draw_series(curve.accuracy.iter().map(|&at| Circle::new(at, 3, line.filled())))?;
        }
        Ok(())
    }
}
