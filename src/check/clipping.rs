//! Golden `grad_util` files: what a step makes of gradients before its rule, and their norm. Momentum at rate 0 keeps
//! the result.

use crate::rules::Momentum;
use crate::{AdaptiveClip, ClipNorm, Device, Error, NonFinite, Norm, Optimizer, Real, Settings};
use serde_json::Value;

use super::comparison::{Engine, F32_FILE, F64, Verdict, Worst, keep_worse, scaled, set_shapes};
use super::golden::{Golden, Tensors, numbers_of, shapes_of, tensors_of};

/// What the file's function is here.
#[derive(Default)]
struct Setup {
    clip: Option<ClipNorm>,
    policy: Option<NonFinite>,
    settings: Option<Settings>,
}

/// One file.
struct Case {
    setup: Setup,
    shapes: Vec<Vec<usize>>,
    params: Tensors,
    input: Tensors,
    output: Tensors,
    norm: Option<f64>,
}

/// Compares a function's output, and the norm that it returns, with a file's. A float32 file is judged by its f64 twin.
pub(crate) async fn verdict(golden: &Golden, name: &str, file: &Value, engines: &[Engine]) -> Result<Verdict, String> {
    let is_f64 = file["dtype"] == "f64";
    let twin = if is_f64 { None } else { golden.of_kind("grad_util", &name.replace(".f32.", ".f64.")) };
    let f32_here = !is_f64 || !golden.has(&name.replace(".f64.", ".f32."));
    let reference = twin.unwrap_or(file);
    let setup = match setup(reference) {
        Ok(setup) => setup,
        Err(why) => return Ok(Verdict::Skipped(why)),
    };
    let params = golden.value("inputs_pub.json").map(|inputs| tensors_of(&inputs["params0"]));
    let case = Case {
        setup,
        shapes: shapes_of(reference),
        params: params.unwrap_or_else(|_| Ok(Vec::new()))?,
        input: tensors_of(&reference["grads_in"])?,
        output: tensors_of(&reference["grads_out"])?,
        norm: if reference["returned"].is_null() { None } else { numbers_of(&reference["returned"])?.first().copied() },
    };
    if case.input.is_empty() || case.input.iter().map(Vec::len).ne(case.output.iter().map(Vec::len)) {
        return Err("`grads_in` and `grads_out` do not fit".into());
    }
    // Where float32 itself overflows in the library, the f64 file is right.
    let comparable = reference["f32_comparable"] != false;
    let suggested = reference["suggested_tol_f32"].as_f64().filter(|_| comparable).unwrap_or(F32_FILE);
    let mut worst: Option<(Worst, String)> = None;
    for engine in engines.iter().filter(|engine| if engine.f64 { is_f64 } else { f32_here }) {
        let tolerance = if engine.f64 { F64 } else { suggested };
        let run = match engine.f64 {
            true => case.run::<f64>(&engine.device).await,
            false => case.run::<f32>(&engine.device).await,
        };
        let found =
            run.map_or_else(|e| Worst::failed(e.to_string()), |(ours, norm)| case.compare(&ours, norm, tolerance));
        keep_worse(&mut worst, found, engine);
    }
    Ok(Verdict::of(worst))
}

fn setup(file: &Value) -> Result<Setup, String> {
    let hyper = &file["hyper"];
    let number = |key: &str| hyper[key].as_f64().ok_or_else(|| format!("`{key}` is not a number"));
    let base = Settings::lr(0.0);
    let known = |keys: &[&str]| match hyper.as_object().and_then(|h| h.keys().find(|key| !keys.contains(&key.as_str())))
    {
        None => Ok(()),
        Some(key) => Err(format!("`{key}` = {} is not implemented", hyper[key])),
    };
    match file["function"].as_str().unwrap_or_default() {
        "torch.nn.utils.clip_grad_norm_" => {
            known(&["max_norm", "norm_type", "error_if_nonfinite"])?;
            let norm = match numbers_of(&hyper["norm_type"])?[..] {
                [1.0] => Norm::L1,
                [2.0] => Norm::L2,
                [f64::INFINITY] => Norm::Max,
                ref other => return Err(format!("`norm_type` = {other:?} is not implemented")),
            };
            let clip = Some(ClipNorm { norm, ..ClipNorm::torch(number("max_norm")?) });
            Ok(Setup { clip, policy: Some(NonFinite::Propagate), settings: None })
        }
        "torch.nn.utils.clip_grad_value_" => {
            known(&["clip_value"])?;
            let settings = Settings { clip_value: Some(number("clip_value")?), ..base };
            Ok(Setup { settings: Some(settings), ..Setup::default() })
        }
        "optax.clip_by_global_norm" => {
            known(&["max_norm"])?;
            Ok(Setup { clip: Some(ClipNorm::optax(number("max_norm")?)), ..Setup::default() })
        }
        "optax.normalize_by_update_norm" => {
            known(&["scale_factor", "eps"])?;
            let clip = ClipNorm { eps: number("eps")?, ..ClipNorm::normalize(number("scale_factor")?) };
            Ok(Setup { clip: Some(clip), ..Setup::default() })
        }
        "optax.clip" => {
            known(&["max_delta"])?;
            let settings = Settings { clip_value: Some(number("max_delta")?), ..base };
            Ok(Setup { settings: Some(settings), ..Setup::default() })
        }
        "optax.clip_by_block_rms" => {
            known(&["threshold"])?;
            let settings = Settings { clip_norm: Some(ClipNorm::block_rms(number("threshold")?)), ..base };
            Ok(Setup { settings: Some(settings), ..Setup::default() })
        }
        "optax.zero_nans" => {
            known(&[])?;
            Ok(Setup { policy: Some(NonFinite::Zero), ..Setup::default() })
        }
        "optax.centralize" => {
            known(&[])?;
            Ok(Setup { settings: Some(Settings { centralize: true, ..base }), ..Setup::default() })
        }
        "optax.adaptive_grad_clip" => {
            known(&["clipping", "eps", "params"])?;
            if hyper["params"] != "params0 of inputs_pub" {
                return Err(format!("`params` = {} is not known", hyper["params"]));
            }
            let clip = AdaptiveClip { eps: number("eps")?, ..AdaptiveClip::optax(number("clipping")?) };
            Ok(Setup { settings: Some(Settings { adaptive_clip: Some(clip), ..base }), ..Setup::default() })
        }
        other => Err(format!("function `{other}` is not implemented")),
    }
}

impl Case {
    /// The gradients as the rule got them, and their norm before clipping.
    async fn run<F: Real>(&self, device: &Device) -> Result<(Tensors, f64), Error> {
        let cast = |v: &Vec<f64>| v.iter().map(|&x| F::of(x)).collect::<Vec<F>>();
        let settings = self.setup.settings.unwrap_or(Settings::lr(0.0));
        let mut optimizer = Optimizer::new(device, Momentum::default(), settings)?;
        optimizer.set_clip_norm(self.setup.clip)?;
        self.setup.policy.into_iter().for_each(|policy| optimizer.set_non_finite(policy));
        let mut ids = Vec::new();
        for (k, gradient) in self.input.iter().enumerate() {
            let params = self.params.get(k).filter(|params| params.len() == gradient.len());
            let zero = vec![0.0; gradient.len()];
            ids.push(optimizer.add(0, &format!("p{k}"), &cast(params.unwrap_or(&zero)))?);
            optimizer.write_gradient(ids[k], &cast(gradient))?;
        }
        set_shapes(&mut optimizer, &ids, &self.shapes)?;
        optimizer.step()?;
        let ours = super::read_states::<F>(&optimizer, &ids, "momentum_buffer").await?;
        Ok((ours, optimizer.read_report().await?.grad_norm))
    }

    fn compare(&self, ours: &Tensors, norm: f64, tolerance: f64) -> Worst {
        let mut worst = Worst::none();
        for (k, (x, b)) in ours.iter().zip(&self.output).enumerate() {
            for (i, (&x, &b)) in x.iter().zip(b).enumerate() {
                // A centralised gradient is a difference: its error is the original's.
                let scale = b.abs().max(if self.setup.clip.is_none() { self.input[k][i].abs() } else { 0.0 });
                worst.note(scaled(x, b, scale), tolerance, || format!("gradient of p{k}[{i}]"));
            }
        }
        if let Some(b) = self.norm {
            worst.note(scaled(norm, b, b.abs()), tolerance, || "the norm".into());
        }
        worst
    }
}
