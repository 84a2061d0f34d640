//! Every test that needs a GPU, on every adapter there is; without one they are listed as ignored, with the reason.
//! `WGPU_OPTIM_REQUIRE_GPU=1` makes that a failure.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use wgpu_optim::Gpu;

mod averages;
mod bitsandbytes;
mod blocks;
mod checkpoint;
mod compare;
mod convergence;
mod damage;
mod derivatives;
mod errors;
mod evaluate;
mod files;
mod fits;
mod fixture;
mod formulas;
mod gpu_least_squares;
mod gradient;
mod guard;
mod halves;
mod held;
mod in_flight;
mod infinite;
mod least_squares;
mod limits;
mod look_ahead;
mod lost;
mod memory;
mod mirrors;
mod mismatch;
mod model;
mod moments;
mod newton;
mod numbers;
mod options;
mod order;
mod parameters16;
mod parity;
mod pools;
mod proof;
mod rounding;
mod schedule;
mod sixteen_bits;
mod skips;
mod solve;
mod step;
mod torch;
mod torch_models;
mod watch;
mod windows;

/// A test's name and body.
type Test = (&'static str, fn(&Gpu) -> Result<(), Failed>);

/// Names each function of a module as a test.
macro_rules! tests {
    ($($test:ident),+ $(,)?) => {
        pub(crate) const TESTS: &[crate::Test] = &[$((concat!(module_path!(), "::", stringify!($test)), $test)),+];
    };
}
pub(crate) use tests;

fn main() -> ExitCode {
    let args = Arguments::from_args();
    let tests = [
        averages::TESTS,
        bitsandbytes::TESTS,
        blocks::TESTS,
        checkpoint::TESTS,
        convergence::TESTS,
        errors::TESTS,
        evaluate::TESTS,
        fits::TESTS,
        gradient::TESTS,
        gpu_least_squares::TESTS,
        guard::TESTS,
        halves::TESTS,
        held::TESTS,
        limits::TESTS,
        in_flight::TESTS,
        infinite::TESTS,
        look_ahead::TESTS,
        lost::TESTS,
        memory::TESTS,
        mirrors::TESTS,
        model::TESTS,
        moments::TESTS,
        newton::TESTS,
        numbers::TESTS,
        options::TESTS,
        order::TESTS,
        parameters16::TESTS,
        parity::TESTS,
        pools::TESTS,
        proof::TESTS,
        rounding::TESTS,
        schedule::TESTS,
        sixteen_bits::TESTS,
        skips::TESTS,
        solve::TESTS,
        step::TESTS,
        torch::TESTS,
        windows::TESTS,
        torch_models::TESTS,
    ]
    .concat();
    let mut trials = compare::trials();
    trials.extend(parity::cpu_trials());
    trials.extend(formulas::trials());
    trials.extend(schedule::trials());
    trials.extend(bitsandbytes::trials());
    trials.extend(checkpoint::trials());
    trials.extend(damage::trials());
    trials.extend(derivatives::trials());
    trials.extend(files::trials());
    trials.extend(fits::trials());
    trials.extend(least_squares::trials());
    trials.extend(mismatch::trials());
    trials.extend(solve::trials());
    trials.extend(torch::trials());
    trials.extend(torch_models::trials());
    trials.push(Trial::test("suite::without_an_adapter", without_an_adapter));
    match pollster::block_on(Gpu::adapters()) {
        Ok(adapters) => {
            let mut refusals = Vec::new();
            for adapter in fixture::ADAPTERS.get_or_init(|| adapters) {
                match pollster::block_on(Gpu::from_adapter(adapter)) {
                    Ok(gpu) => trials.extend(on_adapter(&Arc::new(gpu), &tests)),
                    Err(e) => refusals.push((label(&adapter.get_info()), e.to_string())),
                }
            }
            // Where others run, one adapter may refuse: NVIDIA's GL without a display does.
            let required = required() && trials.iter().all(|trial| !trial.name().contains("::step::"));
            let refused = |(label, reason)| without_adapter(&format!("{label}::has_a_device"), reason, required);
            trials.extend(refusals.into_iter().map(refused));
        }
        Err(e) => {
            let reason = e.to_string();
            trials.extend(tests.into_iter().map(|(name, _)| without_adapter(name, reason.clone(), required())));
        }
    }
    watch::start();
    libtest_mimic::run(&args, trials).exit_code()
}

fn required() -> bool {
    std::env::var("WGPU_OPTIM_REQUIRE_GPU").is_ok_and(|v| v == "1")
}

fn label(info: &wgpu::AdapterInfo) -> String {
    format!("{}/{}", info.backend, info.name.split([' ', ',']).next().unwrap_or_default())
}

/// One device for all tests of an adapter.
fn on_adapter(gpu: &Arc<Gpu>, tests: &[Test]) -> Vec<Trial> {
    let info = gpu.device().adapter_info();
    let label = label(&info);
    // wgpu-hal's GL panics in a thread that has waited a second for the context, which another one may compile with.
    let alone = (info.backend == wgpu::Backend::Gl).then(|| Arc::new(Mutex::new(())));
    let trial = |&(name, test): &Test| {
        let gpu = gpu.clone();
        let name = name.trim_start_matches("suite::");
        let alone = alone.clone();
        let name = format!("{label}::{name}");
        let full = name.clone();
        Trial::test(name, move || {
            let _alone = alone.as_ref().map(|alone| alone.lock().unwrap_or_else(PoisonError::into_inner));
            let _running = watch::Running::new(&full);
            test(&gpu)
        })
    };
    tests.iter().map(trial).collect()
}

fn without_adapter(name: &str, reason: String, required: bool) -> Trial {
    Trial::ignorable_test(name.trim_start_matches("suite::").to_owned(), move || match required {
        true => Err(format!("WGPU_OPTIM_REQUIRE_GPU=1, but {reason}").into()),
        false => Ok(Completion::ignored_with(reason)),
    })
}

/// This suite again where no driver is: GPU tests are listed as ignored with the reason, or fail where a GPU is
/// required.
fn without_an_adapter() -> Result<(), Failed> {
    let run = |required: &str| {
        let mut again = std::process::Command::new(std::env::current_exe()?);
        again.args(["--test-threads", "1", "step::"]).env("WGPU_BACKEND", "vulkan");
        again.env("VK_DRIVER_FILES", "/nonexistent").env("VK_ICD_FILENAMES", "/nonexistent");
        again.env("WGPU_OPTIM_REQUIRE_GPU", required).output()
    };
    let (optional, required) = (run("0")?, run("1")?);
    let said = String::from_utf8_lossy(&optional.stdout).into_owned();
    let ignored = said.contains("step::step_waits_for_room") && said.contains("no GPU adapter was found");
    compare::ensure(optional.status.success() && ignored && !said.contains("; 0 ignored"), said)?;
    let said = String::from_utf8_lossy(&required.stdout).into_owned();
    compare::ensure(!required.status.success() && said.contains("WGPU_OPTIM_REQUIRE_GPU=1, but"), said)
}
