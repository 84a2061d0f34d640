//! `wgpu-optim-bindgen WASM FOLDER`: the JavaScript and the types of a wasm file. It is the command `wasm-bindgen`, of
//! the version in Cargo.lock.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1);
    let (Some(wasm), Some(folder)) = (args.next(), args.next()) else {
        return Err("usage: wgpu-optim-bindgen WASM FOLDER".into());
    };
    let mut bindgen = wasm_bindgen_cli_support::Bindgen::new();
    bindgen.input_path(wasm).web(true)?.typescript(true).omit_default_module_path(false);
    Ok(bindgen.generate(folder)?)
}
