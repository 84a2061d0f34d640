//! What all pictures share: a colour for each rule, a font, and files that are SVG or PNG by their names.

use std::path::Path;
use std::process::ExitCode;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};
use wgpu_optim::{Device, Gpu};

pub(crate) type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Where an example steps.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Where {
    Auto,
    Gpu,
    Cpu,
}

impl Where {
    pub(crate) fn device(self) -> Outcome<Device> {
        Ok(match self {
            Self::Auto => Device::auto_blocking(),
            Self::Gpu => Gpu::new_blocking()?.into(),
            Self::Cpu => Device::Cpu,
        })
    }
}

/// Says what went wrong.
pub(crate) fn exit(outcome: Outcome<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Each rule's colour, in every picture.
const COLOURS: [(&str, RGBColor); 13] = [
    ("sgd", RGBColor(120, 120, 120)),
    ("momentum", RGBColor(31, 119, 180)),
    ("nesterov", RGBColor(23, 190, 207)),
    ("adagrad", RGBColor(44, 160, 44)),
    ("adagrad-norm", RGBColor(0, 110, 60)),
    ("rmsprop", RGBColor(255, 127, 14)),
    ("adadelta", RGBColor(188, 189, 34)),
    ("adam", RGBColor(214, 39, 40)),
    ("adam-uncorrected", RGBColor(255, 152, 150)),
    ("amsgrad", RGBColor(148, 103, 189)),
    ("adamax", RGBColor(227, 119, 194)),
    ("nadam", RGBColor(140, 86, 75)),
    ("lamb", RGBColor(60, 60, 160)),
];

/// A rule's colour; of one that is not listed, one by its name.
pub(crate) fn colour(rule: &str) -> RGBColor {
    let known = COLOURS.iter().find(|(name, _)| *name == rule).map(|(_, colour)| *colour);
    let hash = rule.bytes().fold(7u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
    known.unwrap_or(RGBColor((hash % 200) as u8, (hash / 200 % 200) as u8, (hash / 40_000 % 200) as u8))
}

/// Something to draw, whatever the file.
pub(crate) trait Picture {
    /// Width and height in pixels.
    fn size(&self) -> (u32, u32);
    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Outcome<()>
    where
        B::ErrorType: 'static;
}

/// Draws it to an SVG, or to a PNG.
pub(crate) fn save(picture: &impl Picture, path: &Path) -> Outcome<()> {
    draw(picture, path).map_err(|e| format!("{}: {e}", path.display()).into())
}

fn draw(picture: &impl Picture, path: &Path) -> Outcome<()> {
    font()?;
    if path.extension().is_some_and(|kind| kind == "png") {
        let area = BitMapBackend::new(path, picture.size()).into_drawing_area();
        area.fill(&WHITE)?;
        picture.draw(&area)?;
        Ok(area.present()?)
    } else {
        let area = SVGBackend::new(path, picture.size()).into_drawing_area();
        area.fill(&WHITE)?;
        picture.draw(&area)?;
        Ok(area.present()?)
    }
}

/// Bitmaps bring their font along: a bare machine has none.
pub(crate) fn font() -> Outcome<()> {
    let registered = register_font("sans-serif", FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT);
    registered.map_err(|_| "the font cannot be read".into())
}
