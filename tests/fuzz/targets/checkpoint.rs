//! Any bytes are loaded or refused: no panic, and a refused file changes nothing. The first byte picks how, the rest is
//! the file; a file that starts with `{` gets the length before its header that it lacks, so that the fuzzer need not
//! guess it.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use wgpu_optim::{Device, LoadOptions, LossScaler, Optimizer, SaveOptions, Schedule, TorchOptions, rules::Adam};

fn optimizer() -> Optimizer {
    let mut optimizer = Optimizer::new(&Device::Cpu, Adam::default(), 0.1).unwrap();
    optimizer.set_schedule(0, Schedule::cosine(10)).unwrap();
    optimizer.set_loss_scaler(LossScaler::default()).unwrap();
    optimizer.add(0, "w", &[1.0f32, 2.0, 3.0]).unwrap();
    optimizer.write_gradient("w", &[1.0f32; 3]).unwrap();
    optimizer.step().unwrap();
    optimizer
}

/// An executor for futures that never wait: on the CPU nothing does.
fn saved(optimizer: &mut Optimizer) -> Vec<u8> {
    let mut bytes = Vec::new();
    {
        let future = std::pin::pin!(optimizer.save_to(&mut bytes, SaveOptions::default()));
        let ready = future.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
        assert!(matches!(ready, std::task::Poll::Ready(Ok(()))));
    }
    bytes
}

use std::future::Future;

fuzz_target!(|data: &[u8]| {
    let Some((how, file)) = data.split_first() else { return };
    let mut optimizer = optimizer();
    let file = match file.first() {
        Some(b'{') => {
            let header = file.iter().position(|byte| *byte == 0).unwrap_or(file.len());
            [&(header as u64).to_le_bytes(), file].concat()
        }
        _ => file.to_vec(),
    };
    let before = saved(&mut optimizer);
    let mut reader = Cursor::new(&file);
    let strict = how & 1 == 0;
    let loaded = match how & 2 {
        0 => optimizer.load_from(&mut reader, LoadOptions { strict, ..LoadOptions::default() }).map(drop),
        _ => {
            let options = TorchOptions { strict, ..TorchOptions::default() };
            optimizer.load_torch_from_with(&mut reader, options).map(drop)
        }
    };
    match loaded {
        Ok(()) => _ = optimizer.step(),
        Err(_) => assert_eq!(saved(&mut optimizer), before),
    }
});
