//! Random programs of API calls, applied to an optimizer on the CPU and two on the GPU in step: they agree with each
//! other and with the documentation. A program that fails shrinks to a short one, which is printed.
//!
//! `WGPU_OPTIM_MODEL_CASES` sets how many programs there are, `WGPU_OPTIM_MODEL_SEED` which.

use std::collections::BTreeMap;
use std::mem::discriminant;

use libtest_mimic::Failed;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};
use wgpu_optim::{Device, Error, Gpu};

use self::oracle::Oracle;
use self::program::{Call, Memory, Mode, NAMES, Program, Record, Reload};
use self::world::{OF_GROUP, State, World, gradient};
use crate::compare::{TOLERANCE, close, ensure, same};
use crate::fixture::device_like;
use crate::tests;

mod oracle;
mod program;
mod world;

tests!(random_programs_agree);

/// On each adapter: as many as take some 15 s there.
const CASES: u32 = 80;

fn random_programs_agree(gpu: &Gpu) -> Result<(), Failed> {
    // A device that nobody else polls.
    let gpu = device_like(gpu, |_| {})?;
    let variable = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let cases = variable("WGPU_OPTIM_MODEL_CASES").unwrap_or(CASES.into());
    // Other programs on each adapter.
    let info = gpu.device().adapter_info();
    let own =
        format!("{} {}", info.backend, info.name).bytes().fold(0, |seed, byte| (31 * seed + u64::from(byte)) % 7919);
    let seed = variable("WGPU_OPTIM_MODEL_SEED").unwrap_or(own);
    let mut runner = TestRunner::new(Config {
        cases: cases as u32,
        failure_persistence: None,
        max_shrink_iters: 2000,
        max_shrink_time: 120_000,
        rng_seed: RngSeed::Fixed(seed),
        ..Config::default()
    });
    let checked =
        |program| run(&gpu, &program).map_err(|e| TestCaseError::fail(e.message().unwrap_or("failed").to_owned()));
    match runner.run(&program::programs(), checked) {
        Ok(()) => Ok(()),
        Err(TestError::Fail(reason, program)) => {
            Err(format!("{reason}\n{program}\n// WGPU_OPTIM_MODEL_SEED={seed}").into())
        }
        Err(e) => Err(e.to_string().into()),
    }
}

/// The three optimizers, and what is known of them.
struct Run {
    cpu: World,
    /// On the GPU, one call after the other.
    plain: World,
    /// On the GPU, in the program's manner.
    varied: World,
    oracle: Oracle,
    /// The largest magnitude that each element has had.
    scales: BTreeMap<(usize, String), Vec<f32>>,
    noisy: bool,
}

fn run(gpu: &Gpu, program: &Program) -> Result<(), Failed> {
    let mode = Mode { memory: Memory::Arena, record: Record::Step, reversed: false, settled: false };
    let on = |device: &Device, mode| World::new(device, program, mode);
    let (cpu, plain, varied) = (on(&Device::Cpu, mode), on(&gpu.into(), mode), on(&gpu.into(), program.mode));
    let (mut cpu, plain, varied) = match (cpu, plain, varied) {
        (Ok(cpu), Ok(plain), Ok(varied)) => (cpu, plain, varied),
        (_, Err(Error::OverLimit { .. }), _) | (_, _, Err(Error::OverLimit { .. })) => return Ok(()),
        (cpu, plain, varied) => {
            let [cpu, plain, varied] = [cpu.err(), plain.err(), varied.err()];
            return same_error("the first calls", cpu.as_ref(), plain.as_ref())
                .and_then(|()| same_error("the first calls", cpu.as_ref(), varied.as_ref()));
        }
    };
    let (oracle, state) = (Oracle::new(program), cpu.state()?);
    let noisy = program.groups.iter().any(|group| group.settings.noise.is_some());
    let mut run = Run { cpu, plain, varied, oracle, scales: BTreeMap::new(), noisy };
    run.grow(&state);
    for (k, call) in program.calls.iter().enumerate() {
        let what = |e: Failed| format!("call {}, {call}: {}", k + 1, e.message().unwrap_or("failed"));
        run.call(call).map_err(what)?;
    }
    run.compare()
}

impl Run {
    fn call(&mut self, call: &Call) -> Result<(), Failed> {
        match call {
            Call::Pause(pause) => return Ok(self.varied.pause(*pause)?),
            Call::DroppedStep if self.oracle.may_drop() => {
                let [plain, varied] = [self.plain.dropped_step().err(), self.varied.dropped_step().err()];
                return same_error("dropped", plain.as_ref(), varied.as_ref());
            }
            Call::RefusedStep(to) if self.oracle.may_refuse(*to) => {
                self.plain.refused_step(*to)?;
                return self.varied.refused_step(*to);
            }
            Call::DroppedStep | Call::RefusedStep(_) => return Ok(()),
            Call::Reload(from) => return self.reload(*from),
            Call::Evaluate(group) if !self.oracle.is_swapped(*group) => {
                self.call(&Call::Swap(*group))?;
                self.compare()?;
                return if self.oracle.is_swapped(*group) { self.call(&Call::Swap(*group)) } else { Ok(()) };
            }
            Call::Evaluate(_) => return Ok(()),
            Call::SetAveraging(group, _) if !self.oracle.may_average(*group) => return Ok(()),
            Call::SetSettings(_, settings) => self.noisy |= settings.noise.is_some(),
            _ => {}
        }
        let before = self.cpu.state()?;
        let refused = self.cpu.apply(call).err();
        let now = self.cpu.state()?;
        if let Some(refused) = &refused {
            unchanged(&before, &now).map_err(|e| format!("{refused} on the CPU, but {}", said(&e)))?;
            let before = self.plain.state()?;
            same_error("on the GPU", Some(refused), self.plain.apply(call).err().as_ref())?;
            unchanged(&before, &self.plain.state()?).map_err(|e| format!("{refused} on the GPU, but {}", said(&e)))?;
            return same_error("varied", Some(refused), self.varied.apply(call).err().as_ref());
        }
        let others = if let Call::Step = call { self.oracle.others() } else { Vec::new() };
        let kept = others.iter().map(|&name| self.plain.untouched(name)).collect::<Result<Vec<_>, _>>()?;
        for (world, what) in [(&mut self.plain, "on the GPU"), (&mut self.varied, "varied")] {
            same_error(what, None, world.apply(call).err().as_ref())?;
        }
        for (&name, kept) in others.iter().zip(kept) {
            for (x, b) in self.plain.untouched(name)?.iter().zip(&kept) {
                same(&format!("{:?} on the GPU, left out", NAMES[name]), x, b)?;
            }
        }
        self.oracle.after(call, &before, &now).map_err(|e| format!("on the CPU: {}", said(&e)))?;
        match call {
            Call::Remove(to) => self.scales.retain(|(name, _), _| name != to),
            Call::Rename(to, new) if to != new => {
                let all = std::mem::take(&mut self.scales).into_iter();
                let renamed = |((name, part), scale)| ((if name == *to { *new } else { name }, part), scale);
                self.scales = all.map(renamed).collect();
            }
            _ => {}
        }
        self.grow(&now);
        Ok(())
    }

    /// Saves, loads as told, and writes gradients, which no file holds.
    fn reload(&mut self, from: Reload) -> Result<(), Failed> {
        let (before, averaging) = (self.cpu.state()?, self.oracle.averaging());
        let (Ok(on_cpu), on_gpu) = (self.cpu.save(), self.plain.save()) else {
            return ensure(self.plain.save().is_err() && self.varied.save().is_err(), "only the CPU refuses to save");
        };
        match from {
            Reload::Own => {
                self.cpu.load_anew(&on_cpu, &averaging)?;
                let varied = self.varied.save()?;
                self.varied.load_anew(&varied, &averaging)?;
            }
            Reload::FromCpu => {
                self.plain.load(&on_cpu)?;
                self.varied.load_anew(&on_cpu, &averaging)?;
            }
            Reload::FromGpu => {
                self.cpu.load_anew(&on_gpu?, &averaging)?;
                let varied = self.varied.save()?;
                self.varied.load(&varied)?;
            }
        }
        for name in self.oracle.names() {
            for world in [&mut self.cpu, &mut self.plain, &mut self.varied] {
                world.write_gradient(name, |len| gradient(len, 200))?;
            }
        }
        let now = self.cpu.state()?;
        self.oracle.after(&Call::Reload(from), &before, &now).map_err(|e| format!("on the CPU: {}", said(&e)))?;
        self.grow(&now);
        let kept = |state: &State| -> Vec<(String, Vec<f32>)> {
            let all = state.vectors.iter().filter(|((_, part), _)| part != "gradient");
            all.map(|((name, part), x)| (format!("{:?} {part}", NAMES[*name]), x.clone())).collect()
        };
        let other = match from {
            Reload::Own => before,
            Reload::FromCpu | Reload::FromGpu => self.plain.state()?,
        };
        ensure(now.numbers == other.numbers, format!("{:?}, loaded from {:?}", now.numbers, other.numbers))?;
        // The CPU keeps a group's number in f64.
        let kept = kept(&now).into_iter().zip(kept(&other)).filter(|((name, _), _)| !name.ends_with(OF_GROUP));
        for ((name, x), (_, b)) in kept {
            same(&format!("{name}, loaded"), &x, &b)?;
        }
        Ok(())
    }

    fn grow(&mut self, state: &State) {
        for (key, values) in &state.vectors {
            let scale = self.scales.entry(key.clone()).or_insert_with(|| vec![0.0; values.len()]);
            scale.iter_mut().zip(values).for_each(|(scale, x)| *scale = scale.max(x.abs()));
        }
    }

    fn compare(&mut self) -> Result<(), Failed> {
        let (cpu, plain, varied) = (self.cpu.state()?, self.plain.state()?, self.varied.state()?);
        let what = |e: Failed| format!("the two on the GPU: {}", said(&e));
        self.equal(&plain, &varied).map_err(what)?;
        ensure(cpu.numbers == plain.numbers, format!("GPU {:?}, CPU {:?}", plain.numbers, cpu.numbers))?;
        let of = |state: &State| {
            let report = state.report;
            let found_inf = self.oracle.reported && report.found_inf;
            (report.loss_scale, report.growth_tracker, report.skipped_steps, found_inf)
        };
        ensure(of(&cpu) == of(&plain), format!("GPU {:?}, CPU {:?}", plain.report, cpu.report))?;
        if self.noisy {
            // Where a gradient is 0 but for noise, which is as exact as a device's logarithm, rules divide it by
            // itself.
            return Ok(());
        }
        let finite = |x: f32| if x.is_nan() { 0.0 } else { x };
        let (x, b) = (plain.report.grad_norm as f32, cpu.report.grad_norm as f32);
        if self.oracle.reported && !(x.is_nan() && b.is_nan()) {
            close("grad_norm, GPU against CPU", &[x], &[b], &[0.0], TOLERANCE)?;
        }
        for (key, b) in self.compared(&cpu) {
            let x = plain.vectors.get(key).ok_or_else(|| format!("the GPU lacks {key:?}"))?;
            let what = format!("{:?} {}, GPU against CPU", NAMES[key.0], key.1);
            ensure(x.iter().zip(b).all(|(x, b)| x.is_nan() == b.is_nan()), format!("{what}: NaN in one"))?;
            let [x, b] = [x, b].map(|x| x.iter().map(|x| finite(*x)).collect::<Vec<_>>());
            // What cancels in a state is only as exact as what went into its neighbours.
            let scale = &self.scales[key];
            let largest = vec![scale.iter().copied().fold(0.0, f32::max); scale.len()];
            close(&what, &x, &b, if key.1 == "parameter" { scale } else { &largest }, TOLERANCE)?;
        }
        Ok(())
    }

    fn compared<'a>(&self, state: &'a State) -> Vec<(&'a (usize, String), &'a Vec<f32>)> {
        let kept = |key: &(usize, String)| key.1 != "gradient" || !self.oracle.is_missing(key.0);
        state.vectors.iter().filter(|(key, _)| kept(key)).collect()
    }

    /// The same bits, whatever the manner.
    fn equal(&self, plain: &State, varied: &State) -> Result<(), Failed> {
        ensure(plain.numbers == varied.numbers, format!("{:?} and {:?}", plain.numbers, varied.numbers))?;
        for (key, b) in self.compared(plain) {
            let x = varied.vectors.get(key).ok_or_else(|| format!("one lacks {key:?}"))?;
            let [x, b] = [x, b].map(|x| x.iter().map(|x| if x.is_nan() { f32::NAN } else { *x }).collect::<Vec<_>>());
            same(&format!("{:?} {}", NAMES[key.0], key.1), &x, &b)?;
        }
        let of = |state: &State| (state.report.loss_scale, state.report.growth_tracker, state.report.skipped_steps);
        let norm = |state: &State| (state.report.grad_norm.to_bits(), state.report.found_inf);
        let reported = !self.oracle.reported || norm(plain) == norm(varied);
        ensure(of(plain) == of(varied) && reported, format!("{:?} and {:?}", plain.report, varied.report))
    }
}

fn said(e: &Failed) -> String {
    e.message().unwrap_or("failed").to_owned()
}

fn same_error(what: &str, a: Option<&Error>, b: Option<&Error>) -> Result<(), Failed> {
    let text = |e: Option<&Error>| e.map_or("Ok".to_owned(), ToString::to_string);
    ensure(a.map(discriminant) == b.map(discriminant), format!("{what}: {}, not {}", text(b), text(a)))
}

/// Nothing that can be read has changed.
fn unchanged(before: &State, now: &State) -> Result<(), Failed> {
    let bits = |state: &State| {
        let bits = |x: &Vec<f32>| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        state.vectors.iter().map(|(key, x)| (key.clone(), bits(x))).collect::<Vec<_>>()
    };
    let report = |state: &State| format!("{:?}", state.report);
    ensure(before.numbers == now.numbers, format!("{:?} became {:?}", before.numbers, now.numbers))?;
    ensure(bits(before) == bits(now), "a vector changed")?;
    ensure(report(before) == report(now), format!("{:?} became {:?}", before.report, now.report))
}
