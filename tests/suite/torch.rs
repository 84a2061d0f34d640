//! Files that PyTorch 2.15 wrote after step 10 of golden trajectories, by tests/torch/golden.py: we go on to step 20.

use std::io::{Cursor, Read};

use libtest_mimic::{Failed, Trial};
use safetensors::SafeTensors;
use serde_json::Value;
use wgpu_optim::rules::{Adam, Momentum, RmsProp};
use wgpu_optim::{
    Averaging, Device, Error, Gpu, Optimizer, Options, Real, Schedule, Settings, WeightDecay, from_torch, rules,
};

use crate::checkpoint::saved;
use crate::compare::ensure;
use crate::tests;

tests!(pytorch_is_continued,);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("torch::pytorch_is_continued_on_the_cpu", || {
            Golden::open()?.each(|golden, case| {
                golden.continues::<f32>(&Device::Cpu, case)?;
                golden.continues::<f64>(&Device::Cpu, case)
            })
        }),
        Trial::test("torch::an_export_is_what_pytorch_writes", || Golden::open()?.each(Golden::exports)),
        Trial::test("torch::what_does_not_fit_is_refused", what_does_not_fit_is_refused),
    ]
}

const CASES: [&str; 15] = [
    "sgd_momentum",
    "sgd_nesterov",
    "adagrad_lr_decay",
    "rmsprop_centered_momentum",
    "adadelta_wd",
    "adam_plain",
    "adam_amsgrad",
    "adamw_wd0.1",
    "adamax_wd",
    "nadam_plain",
    "nadam_decoupled_wd",
    "radam_plain",
    "radam_decoupled_wd",
    "rprop_plain",
    "asgd_t0_5",
];

fn pytorch_is_continued(gpu: &Gpu) -> Result<(), Failed> {
    Golden::open()?.each(|golden, case| golden.continues::<f32>(&gpu.into(), case))
}

/// The trajectories that the crate carries.
struct Golden(Value);

fn file<F: Real>(case: &str) -> String {
    format!("{}/tests/torch/{case}.{}.safetensors", env!("CARGO_MANIFEST_DIR"), F::NAME)
}

fn numbers<F: Real>(value: &Value) -> Vec<F> {
    value.as_array().into_iter().flatten().filter_map(Value::as_f64).map(F::of).collect()
}

impl Golden {
    fn open() -> Result<Self, Failed> {
        let archive = std::fs::File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden.json.gz"))?;
        let mut text = String::new();
        flate2::read::GzDecoder::new(archive).read_to_string(&mut text)?;
        Ok(Self(serde_json::from_str(&text)?))
    }

    fn each(&self, test: impl Fn(&Self, &str) -> Result<(), Failed>) -> Result<(), Failed> {
        CASES.iter().try_for_each(|case| test(self, case).map_err(|e| format!("{case}: {e:?}").into()))
    }

    fn case(&self, case: &str) -> &Value {
        &self.0[format!("torch_{case}.f64.json")]
    }

    fn start(&self) -> &Value {
        &self.0["inputs_pub.json"]["params0"]
    }

    /// The case's optimizer over parameters that are 0 (or where the case begins).
    fn optimizer<F: Real>(&self, device: &Device, case: &str, begin: bool) -> Result<Optimizer, Failed> {
        let case = self.case(case);
        let (rule, mut settings) =
            from_torch(case["optimizer"].as_str().ok_or("no optimizer")?, &case["hyper"].to_string())?;
        if !begin {
            settings = Settings { zero_grad: true, ..Settings::lr(123.0) };
        }
        let mut optimizer = Optimizer::new(device, rule, settings)?;
        for (k, start) in self.start().as_array().ok_or("no parameters")?.iter().enumerate() {
            let start = numbers::<F>(start);
            optimizer.add(0, &format!("p{k}"), &if begin { start } else { vec![F::zero(); start.len()] })?;
        }
        Ok(optimizer)
    }

    fn train<F: Real>(&self, optimizer: &mut Optimizer, steps: std::ops::Range<usize>) -> Result<(), Failed> {
        for t in steps {
            for (k, gradient) in self.0["inputs_pub.json"]["grads"][t].as_array().into_iter().flatten().enumerate() {
                optimizer.write_gradient(format!("p{k}").as_str(), &numbers::<F>(gradient))?;
            }
            optimizer.step()?;
        }
        Ok(())
    }

    fn continues<F: Real>(&self, device: &Device, case: &str) -> Result<(), Failed> {
        let mut optimizer = self.optimizer::<F>(device, case, false)?;
        optimizer.load_torch(file::<F>(case))?;
        ensure(optimizer.settings(0)?.zero_grad, "what PyTorch does not have stays")?;
        let counted = if case.starts_with("sgd") { 1 } else { 10 };
        ensure(optimizer.steps("p0")? == counted, format!("{} steps", optimizer.steps("p0")?))?;
        self.train::<F>(&mut optimizer, 10..20)?;
        let golden = self.case(case);
        // As the golden README says: in f64, and in f32 four times as far off as PyTorch itself.
        let tolerance = if F::NAME == "f64" { 1e-11 } else { golden["suggested_tol_f32"].as_f64().ok_or("none")? };
        for k in [0, 1] {
            let found = optimizer.read_blocking::<F>(format!("p{k}").as_str())?;
            let expected = numbers::<f64>(&golden["params"]["20"][k]);
            let mut scale = numbers::<f64>(&self.start()[k]);
            for (_, recorded) in golden["params"].as_object().into_iter().flatten() {
                scale.iter_mut().zip(numbers::<f64>(&recorded[k])).for_each(|(s, b)| *s = s.abs().max(b.abs()));
            }
            ensure(found.len() == expected.len() && !found.is_empty(), "lengths")?;
            for (i, ((x, b), scale)) in found.iter().zip(expected).zip(scale).enumerate() {
                let error = (x.to_f64().unwrap_or(f64::NAN) - b).abs();
                ensure(error <= tolerance * scale, format!("p{k}[{i}] in {}: {x:?}, golden {b:?}", F::NAME))?;
            }
        }
        Ok(())
    }

    /// After ten steps of ours, the file that PyTorch writes after ten of its own.
    fn exports(&self, case: &str) -> Result<(), Failed> {
        let mut optimizer = self.optimizer::<f64>(&Device::Cpu, case, true)?;
        self.train::<f64>(&mut optimizer, 0..10)?;
        let mut ours = Vec::new();
        pollster::block_on(optimizer.save_torch_to(&mut ours))?;
        let theirs = std::fs::read(file::<f64>(case))?;
        let (a, b) = (SafeTensors::deserialize(&ours)?, SafeTensors::deserialize(&theirs)?);
        let names = |file: &SafeTensors<'_>| file.names().into_iter().map(String::from).collect::<Vec<_>>();
        let (mut of_ours, mut of_theirs) = (names(&a), names(&b));
        of_ours.sort();
        of_theirs.sort();
        ensure(of_ours == of_theirs, format!("{of_ours:?} for {of_theirs:?}"))?;
        for name in of_ours {
            let [x, b] = [(&a, &name), (&b, &name)].map(|(file, name)| file.tensor(name).map(|t| values(&t)));
            for (x, b) in x?.iter().zip(b?) {
                // Counts are f32 in ours, as in PyTorch unless f64 is its default type.
                let count = ["mu_product", "eta", "mu"].iter().any(|count| name.ends_with(count));
                let tolerance = if count { 1e-7 } else { 1e-11 };
                ensure((x - b).abs() <= tolerance * b.abs().max(1.0), format!("{name}: {x} for {b}"))?;
            }
        }
        let (x, b) = (note(&ours)?, note(&theirs)?);
        ensure(x["optimizer"] == b["optimizer"], format!("{} for {}", x["optimizer"], b["optimizer"]))?;
        for (key, value) in x["param_groups"][0].as_object().ok_or("no group")? {
            let theirs = &b["param_groups"][0][key];
            ensure(equal(value, theirs), format!("{key}: {value} for {theirs}"))?;
        }
        let mut again = self.optimizer::<f64>(&Device::Cpu, case, false)?;
        again.load_torch_from(&mut Cursor::new(&ours))?;
        let mut twice = Vec::new();
        pollster::block_on(again.save_torch_to(&mut twice))?;
        ensure(twice == ours, "another file the second time")
    }
}

/// 50 is 50.0.
fn equal(a: &Value, b: &Value) -> bool {
    match (a.as_array(), b.as_array()) {
        (Some(a), Some(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        _ => a == b || a.as_f64().zip(b.as_f64()).is_some_and(|(a, b)| a == b),
    }
}

pub(crate) fn values(tensor: &safetensors::tensor::TensorView<'_>) -> Vec<f64> {
    match tensor.dtype() {
        safetensors::Dtype::F64 => bytemuck::pod_collect_to_vec(tensor.data()),
        _ => bytemuck::pod_collect_to_vec::<u8, f32>(tensor.data()).into_iter().map(f64::from).collect(),
    }
}

pub(crate) fn note(file: &[u8]) -> Result<Value, Failed> {
    let (_, header) = SafeTensors::read_metadata(file)?;
    let note = header.metadata().as_ref().and_then(|notes| notes.get("torch")).ok_or("no note")?;
    Ok(serde_json::from_str(note)?)
}

fn what_does_not_fit_is_refused() -> Result<(), Failed> {
    let golden = Golden::open()?;
    let mut optimizer = golden.optimizer::<f32>(&Device::Cpu, "adam_plain", true)?;
    golden.train::<f32>(&mut optimizer, 0..3)?;
    let before = saved(&mut optimizer)?;
    // Another rule, and so other states; f64 into f32.
    for (case, part) in [("sgd_momentum", "the rule of group 0 (SGD,"), ("adam_amsgrad", "the rule of group 0 (Adam,")]
    {
        let Err(Error::Mismatch(mismatch)) = optimizer.load_torch(file::<f32>(case)) else { return Err(case.into()) };
        ensure(mismatch.different[0].starts_with(part), format!("{mismatch:?}"))?;
    }
    let refused = optimizer.load_torch(file::<f64>("adam_plain"));
    ensure(matches!(refused, Err(Error::Mismatch(_))), format!("{refused:?}"))?;
    ensure(saved(&mut optimizer)? == before, "something was loaded")?;
    // Our own file, and the other way round.
    let refused = optimizer.load_torch_from(&mut Cursor::new(&before));
    ensure(matches!(refused, Err(Error::Checkpoint { .. })), format!("{refused:?}"))?;
    let refused = optimizer.load(file::<f32>("adam_plain"));
    ensure(refused.is_err_and(|e| e.to_string().contains("load_torch")), "no hint at load_torch")?;
    // No such rule there.
    for (rule, settings) in [
        (rules::by_name("lamb")?, Settings::lr(0.1)),
        (Adam::keras().into(), Settings::lr(0.1)),
        (Momentum::keras(0.9).into(), Settings::lr(0.1)),
        (RmsProp::optax().into(), Settings::lr(0.1)),
        (Momentum::default().into(), Settings { weight_decay: WeightDecay::Decoupled(0.1), ..Settings::lr(0.1) }),
    ] {
        let mut ours = Optimizer::new(&Device::Cpu, rule, settings)?;
        let refused = pollster::block_on(ours.save_torch_to(&mut Vec::new()));
        ensure(matches!(refused, Err(Error::Unsupported { .. })), format!("{refused:?}"))?;
    }
    // Groups of AdamW with decay and without are one AdamW; a rate of a parameter's own is none of PyTorch's.
    let decayed = Settings { weight_decay: WeightDecay::Decoupled(0.1), ..Settings::lr(0.1) };
    let mut adamw = Optimizer::new(&Device::Cpu, Adam::default(), decayed)?;
    adamw.add_group(Adam::default(), 0.1)?;
    adamw.add(0, "w", &[1.0f32])?;
    adamw.add(1, "b", &[1.0f32])?;
    let mut both = Vec::new();
    pollster::block_on(adamw.save_torch_to(&mut both))?;
    ensure(note(&both)?["optimizer"] == "AdamW", "the class of both groups")?;
    adamw.load_torch_from(&mut Cursor::new(&both))?;
    adamw.set_options("b", Options { lr_scale: 0.5, ..Options::default() })?;
    let refused = pollster::block_on(adamw.save_torch_to(&mut Vec::new()));
    ensure(matches!(refused, Err(Error::Unsupported { .. })), format!("{refused:?}"))?;
    let mut mixed = Optimizer::new(&Device::Cpu, Adam::default(), 0.1)?;
    mixed.add_group(Momentum::default(), 0.1)?;
    let refused = pollster::block_on(mixed.save_torch_to(&mut Vec::new()));
    ensure(matches!(refused, Err(Error::Unsupported { .. })), format!("{refused:?}"))?;
    let mut averaged = Optimizer::new(&Device::Cpu, Adam::default(), 0.1)?;
    averaged.set_averaging(0, Averaging::Ema(0.9))?;
    let refused = pollster::block_on(averaged.save_torch_to(&mut Vec::new()));
    ensure(matches!(refused, Err(Error::Unsupported { .. })), format!("{refused:?}"))?;
    // Hyperparameters that PyTorch does not have, or that are not all there.
    for group in [r#"{"lr": 0.1}"#, r#"{"lr": 0.1, "rho": 0.9, "eps": 1e-6, "weight_decay": 0, "trick": 1}"#] {
        let refused = from_torch("Adadelta", group);
        ensure(matches!(refused, Err(Error::Checkpoint { .. })), format!("{refused:?}"))?;
    }
    let refused = from_torch("LBFGS", "{}");
    ensure(matches!(refused, Err(Error::UnknownRule { .. })), format!("{refused:?}"))?;
    // A scheduler's base rate, where there is a schedule here, too; a parameter without state begins anew.
    let group = serde_json::json!({ "lr": 0.05, "initial_lr": 0.5, "momentum": 0.9, "dampening": 0, "nesterov": false,
        "weight_decay": 0, "params": ["w"] });
    let text = serde_json::json!({ "optimizer": "SGD", "param_groups": [group] }).to_string();
    let header = serde_json::json!({ "__metadata__": { "torch": text } }).to_string();
    let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
    let mut scheduled = Optimizer::new(&Device::Cpu, Momentum::default(), 0.1)?;
    scheduled.set_schedule(0, Schedule::Step { every: 3, gamma: 0.1 })?;
    scheduled.add(0, "w", &[1.0f32; 3])?;
    scheduled.write_gradient("w", &[1.0f32; 3])?;
    scheduled.step()?;
    scheduled.load_torch_from(&mut Cursor::new(file))?;
    let velocity = scheduled.read_state_blocking::<f32>("w", "momentum_buffer")?;
    let found = (scheduled.settings(0)?.lr, scheduled.steps("w")?, velocity);
    ensure(found == (0.5, 0, vec![0.0; 3]), format!("{found:?}"))
}
