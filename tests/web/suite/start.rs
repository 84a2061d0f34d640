
/// Makes the trials, which JavaScript then runs.
#[unsafe(no_mangle)]
extern "C" fn suite_start() {
    host::fs::preload(env!("CARGO_MANIFEST_DIR"), FILES);
    _ = main();
}
