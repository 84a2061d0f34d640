//! The classes of the npm package `wgpu-optim`, and the way from a device and buffers that JavaScript made to wgpu's.
//!
//! With the feature `js`, on `wasm32-unknown-unknown`. `src/js/build` makes the package; its README shows how it is
//! used. Rust code that shares a page with JavaScript uses [`adopt_device`] and [`adopt_buffer`].

mod adopt;
#[cfg(feature = "check")]
mod check;
mod errors;
mod evaluate;
mod optimizer;
mod options;
mod shared;

pub use adopt::{adopt_buffer, adopt_device};
#[cfg(feature = "check")]
pub use check::JsCheck;
pub use optimizer::JsOptimizer;

use wasm_bindgen::prelude::*;

#[wasm_bindgen(typescript_custom_section)]
const TYPES: &str = include_str!("types.ts");

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = console, js_name = error)]
    fn console_error(text: &str);
    #[wasm_bindgen(js_namespace = console, js_name = warn)]
    fn console_warn(text: &str);
    #[wasm_bindgen(js_namespace = console, js_name = info)]
    fn console_info(text: &str);
}

/// What the crate logs goes to the console: errors, warnings, and which device was chosen.
struct Console;

impl log::Log for Console {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target().starts_with("wgpu_optim")
    }
    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let text = format!("wgpu-optim: {}", record.args());
            match record.level() {
                log::Level::Error => console_error(&text),
                log::Level::Warn => console_warn(&text),
                _ => console_info(&text),
            }
        }
    }
    fn flush(&self) {}
}

#[wasm_bindgen(start)]
fn start() {
    // A panic is a defect of ours, and what the page shows of it is only "unreachable".
    std::panic::set_hook(Box::new(|panic| console_error(&panic.to_string())));
    if log::set_logger(&Console).is_ok() {
        log::set_max_level(log::LevelFilter::Info);
    }
}
