//! The [`Schedule`] of a golden file.

use serde_json::{Map, Value};

use crate::{Mode, ReduceOnPlateau, Schedule, Threshold};

/// What a golden file's rates are compared with: a base rate and a schedule, or a plateau.
pub(crate) enum Rates {
    Schedule(f64, Schedule),
    Plateau(ReduceOnPlateau),
}

type Skip = String;

/// The hyperparameters of a file, and those that were read: each must be.
struct Hyper<'a>(&'a Map<String, Value>, Vec<&'static str>);

impl Hyper<'_> {
    fn value(&mut self, key: &'static str) -> &Value {
        self.1.push(key);
        self.0.get(key).unwrap_or(&Value::Null)
    }
    fn number(&mut self, key: &'static str) -> Result<f64, Skip> {
        self.value(key).as_f64().ok_or_else(|| format!("`{key}` is not a number"))
    }
    fn number_or(&mut self, key: &'static str, default: f64) -> Result<f64, Skip> {
        if self.value(key).is_null() { Ok(default) } else { self.number(key) }
    }
    fn steps(&mut self, key: &'static str) -> Result<u64, Skip> {
        self.number(key).map(|x| x as u64)
    }
    fn text(&mut self, key: &'static str) -> Result<String, Skip> {
        self.value(key).as_str().map(str::to_owned).ok_or_else(|| format!("`{key}` is not a text"))
    }
    fn flag(&mut self, key: &'static str) -> bool {
        self.value(key) == &Value::Bool(true)
    }
    fn numbers(&mut self, key: &'static str) -> Result<Vec<f64>, Skip> {
        let numbers = self.value(key).as_array().and_then(|v| v.iter().map(Value::as_f64).collect());
        numbers.ok_or_else(|| format!("`{key}` is not a list of numbers"))
    }
    /// The boundaries and scales of optax as points (boundary, value), from `init` on.
    fn scales(&mut self, init: f64) -> Result<Vec<(f64, f64)>, Skip> {
        let scales = self.value("boundaries_and_scales").as_object().ok_or("`boundaries_and_scales` is not a map")?;
        let pair = |(at, scale): (&String, &Value)| at.parse::<f64>().ok().zip(scale.as_f64());
        let mut pairs: Vec<_> = scales.iter().filter_map(pair).collect();
        pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut value = init;
        let point = |(at, scale)| {
            value *= scale;
            (at, value)
        };
        Ok(std::iter::once((0.0, init)).chain(pairs.into_iter().map(point)).collect())
    }
}

/// The rates of a golden file, from its scheduler and hyperparameters.
pub(crate) fn rates(scheduler: &str, hyper: &Map<String, Value>) -> Result<Rates, Skip> {
    let mut h = Hyper(hyper, Vec::new());
    let rates = named(scheduler, &mut h)?;
    let neutral = |key: &str, value: &Value| match key {
        "warmup_target" | "epochs" | "steps_per_epoch" | "end_value" => value.is_null(),
        "warmup_steps" => value == 0,
        "staircase" | "cycle" => value == false,
        _ => false,
    };
    for (key, value) in hyper {
        if !h.1.contains(&key.as_str()) && !neutral(key, value) {
            return Err(format!("`{key}` = {value} is not implemented"));
        }
    }
    if let Rates::Schedule(_, schedule) = &rates {
        schedule.check().map_err(|e| e.to_string())?;
    }
    Ok(rates)
}

fn named(scheduler: &str, h: &mut Hyper<'_>) -> Result<Rates, Skip> {
    let ramps = |points, cosine| Schedule::Ramps { points, cosine, momentum: Vec::new() };
    let cosine = |from, to, steps, exponent| Schedule::Cosine { from, to, steps, exponent, periodic: false };
    let schedule = match scheduler {
        "inv_sqrt_t" => (h.number("base")?, Schedule::InverseSqrt { warmup: 1 }),
        "inverse_sqrt_warmup" => (h.number("base")?, Schedule::InverseSqrt { warmup: h.steps("warmup")? }),
        "noam" => {
            let (d_model, warmup) = (h.steps("d_model")?, h.steps("warmup")?);
            (h.number("factor")?, Schedule::Noam { d_model, warmup })
        }
        "warmup_stable_decay_linear" => {
            let [warmup, stable, decay] = [h.steps("warmup")?, h.steps("stable")?, h.steps("decay")?];
            (h.number("base")?, Schedule::warmup_stable_decay(warmup, stable, decay, h.number("min_ratio")?))
        }
        "CosineDecay" => {
            let (alpha, steps) = (h.number("alpha")?, h.steps("decay_steps")?);
            (h.number("initial_learning_rate")?, cosine(1.0, alpha, steps, 1.0))
        }
        "CosineDecayRestarts" => {
            let (to, steps) = (h.number("alpha")?, h.steps("first_decay_steps")?);
            let (t_mult, m_mult) = (h.number("t_mul")?, h.number("m_mul")?);
            (h.number("initial_learning_rate")?, Schedule::CosineRestarts { to, steps, t_mult, m_mult })
        }
        "ExponentialDecay" => {
            let schedule = exponential(h, "decay_steps")?;
            (h.number("initial_learning_rate")?, schedule)
        }
        "InverseTimeDecay" => {
            let (rate, steps) = (h.number("decay_rate")?, h.number("decay_steps")?);
            let every = h.flag("staircase").then_some(steps as u64);
            (h.number("initial_learning_rate")?, Schedule::InverseLinear { rate: rate / steps, every })
        }
        "PiecewiseConstantDecay" => {
            // Keras changes after the boundary, we at the first step of the new piece.
            let boundaries = h.numbers("boundaries")?.into_iter().map(|b| (b as u64).saturating_add(1)).collect();
            (1.0, Schedule::Piecewise { boundaries, values: h.numbers("values")? })
        }
        "PolynomialDecay" => {
            let (from, to) = (h.number("initial_learning_rate")?, h.number("end_learning_rate")?);
            let (steps, power, cycle) = (h.steps("decay_steps")?, h.number("power")?, h.flag("cycle"));
            (1.0, Schedule::Polynomial { from, to, steps, power, cycle })
        }
        "cosine_decay_schedule" => {
            let (to, exponent) = (h.number("alpha")?, h.number("exponent")?);
            // optax raises the cosine before it blends.
            (h.number("init_value")?, cosine(1.0, to, h.steps("decay_steps")?, exponent))
        }
        "cosine_onecycle_schedule" | "linear_onecycle_schedule" => {
            let (steps, up, peak) = (h.number("transition_steps")?, h.number("pct_start")?, h.number("peak_value")?);
            let (div, final_div) = (h.number("div_factor")?, h.number("final_div_factor")?);
            let mut points = vec![(0.0, 1.0 / div), ((up * steps).floor(), 1.0)];
            if scheduler == "linear_onecycle_schedule" {
                points.push(((h.number("pct_final")? * steps).floor(), 1.0 / div));
            }
            points.push((steps, 1.0 / (div * final_div)));
            (peak, ramps(points, scheduler == "cosine_onecycle_schedule"))
        }
        "exponential_decay" => {
            let begin = h.steps("transition_begin")?;
            let schedule = exponential(h, "transition_steps")?;
            (h.number("init_value")?, delayed(begin, schedule))
        }
        "linear_schedule" | "polynomial_schedule" => {
            let (from, to, steps) = (h.number("init_value")?, h.number("end_value")?, h.steps("transition_steps")?);
            let power = h.number_or("power", 1.0)?;
            let way = Schedule::Polynomial { from, to, steps, power, cycle: false };
            let wait = (h.steps("transition_begin")?, Schedule::Constant(from));
            (1.0, Schedule::Sequence(vec![wait, (0, way)]))
        }
        "piecewise_constant_schedule" => {
            let init = h.number("init_value")?;
            let (boundaries, values): (Vec<_>, Vec<_>) = h.scales(init)?.into_iter().unzip();
            let boundaries = boundaries[1..].iter().map(|b| *b as u64).collect();
            (1.0, Schedule::Piecewise { boundaries, values })
        }
        "piecewise_interpolate_schedule" => {
            let init = h.number("init_value")?;
            let points = h.scales(init)?;
            (1.0, ramps(points, h.text("interpolate_type")? == "cosine"))
        }
        "sgdr_schedule" => {
            let cycles = h.value("cosine_kwargs").as_array().ok_or("`cosine_kwargs` is not a list")?.clone();
            let cycle = |cycle: &Value| -> Result<(u64, Schedule), Skip> {
                let mut h = Hyper(cycle.as_object().ok_or("a cycle is not a map")?, Vec::new());
                let schedule = warmup_cosine(&mut h)?;
                Ok((h.steps("decay_steps")?, schedule))
            };
            (1.0, Schedule::Sequence(cycles.iter().map(cycle).collect::<Result<_, _>>()?))
        }
        "warmup_constant_schedule" => {
            let (from, to, steps) = (h.number("init_value")?, h.number("peak_value")?, h.steps("warmup_steps")?);
            (1.0, Schedule::linear(from, to, steps))
        }
        "warmup_cosine_decay_schedule" => (1.0, warmup_cosine(h)?),
        "warmup_exponential_decay_schedule" => {
            let (from, to, steps) = (h.number("init_value")?, h.number("peak_value")?, h.steps("warmup_steps")?);
            let begin = h.steps("transition_begin")?;
            let then =
                Schedule::Product(vec![Schedule::Constant(to), delayed(begin, exponential(h, "transition_steps")?)]);
            (1.0, Schedule::Sequence(vec![(steps, Schedule::linear(from, to, steps)), (0, then)]))
        }
        _ => return torch(scheduler, h),
    };
    Ok(Rates::Schedule(schedule.0, schedule.1))
}

fn torch(scheduler: &str, h: &mut Hyper<'_>) -> Result<Rates, Skip> {
    let base = h.number("base_lr_of_optimizer")?;
    let schedule = match scheduler {
        "ReduceLROnPlateau" => {
            let threshold = h.number("threshold")?;
            return Ok(Rates::Plateau(ReduceOnPlateau {
                mode: if h.text("mode")? == "min" { Mode::Min } else { Mode::Max },
                factor: h.number("factor")?,
                patience: h.steps("patience")?,
                threshold: match h.text("threshold_mode")?.as_str() {
                    "rel" => Threshold::Relative(threshold),
                    _ => Threshold::Absolute(threshold),
                },
                cooldown: h.steps("cooldown")?,
                min_lr: h.number("min_lr")?,
                eps: h.number("eps")?,
                ..ReduceOnPlateau::new(base)
            }));
        }
        "ChainedScheduler" => {
            let (a, b) = (h.text("a")?, h.text("b")?);
            Schedule::Product(vec![called(&a)?, called(&b)?])
        }
        "SequentialLR" => {
            let (warmup, then) = (h.text("warmup")?, h.text("then")?);
            let milestone = *h.numbers("milestones")?.first().ok_or("`milestones` is empty")? as u64;
            Schedule::Sequence(vec![(milestone, called(&warmup)?), (0, called(&then)?)])
        }
        "CosineAnnealingLR" => {
            let (to, steps) = (h.number("eta_min")? / base, h.steps("T_max")?);
            Schedule::Cosine { from: 1.0, to, steps, exponent: 1.0, periodic: true }
        }
        "CosineAnnealingWarmRestarts" => Schedule::CosineRestarts {
            to: h.number("eta_min")? / base,
            steps: h.steps("T_0")?,
            t_mult: h.number("T_mult")?,
            m_mult: 1.0,
        },
        "CyclicLR" => {
            let (low, high, gamma) = (h.number("base_lr")?, h.number("max_lr")?, h.number("gamma")?);
            let up = h.steps("step_size_up")?;
            let down = h.number_or("step_size_down", up as f64)? as u64;
            let (per_cycle, per_step) = match h.text("mode")?.as_str() {
                "triangular" => (1.0, 1.0),
                "triangular2" => (0.5, 1.0),
                _ => (1.0, gamma),
            };
            h.1.push("scale_mode"); // of a scale_fn, which no file has
            let cycled = h.flag("cycle_momentum");
            let momentum = (h.number("base_momentum")?, h.number("max_momentum")?);
            let momentum = cycled.then_some(momentum);
            let cyclic = Schedule::Cyclic { low: low / high, up, down, per_cycle, per_step, momentum };
            return Ok(Rates::Schedule(high, cyclic));
        }
        "OneCycleLR" => {
            let (steps, up) = (h.steps("total_steps")?, h.number("pct_start")?);
            let (div, final_div) = (h.number("div_factor")?, h.number("final_div_factor")?);
            let momentum = [h.number_or("base_momentum", 0.85)?, h.number_or("max_momentum", 0.95)?];
            let (cosine, three) = (h.text("anneal_strategy")? == "cos", h.flag("three_phase"));
            let mut schedule = Schedule::one_cycle(steps, up, div, final_div, cosine, three, momentum);
            if let (false, Schedule::OneCycle { momentum, .. }) = (h.flag("cycle_momentum"), &mut schedule) {
                *momentum = None;
            }
            return Ok(Rates::Schedule(h.number("max_lr")?, schedule));
        }
        "SWALR" => {
            let to = h.number("swa_lr")? / base;
            let points = vec![(0.0, 1.0), (h.number("anneal_epochs")?, to)];
            Schedule::Ramps { points, cosine: h.text("anneal_strategy")? == "cos", momentum: Vec::new() }
        }
        "ConstantLR" | "LinearLR" | "ExponentialLR" | "MultiplicativeLR" | "StepLR" | "MultiStepLR"
        | "PolynomialLR" => simple(scheduler, h)?,
        other => return Err(format!("scheduler `{other}` is not implemented")),
    };
    Ok(Rates::Schedule(base, schedule))
}

/// PyTorch's schedulers without a rate of their own.
fn simple(scheduler: &str, h: &mut Hyper<'_>) -> Result<Schedule, Skip> {
    Ok(match scheduler {
        "ConstantLR" => {
            Schedule::Piecewise { boundaries: vec![h.steps("total_iters")?], values: vec![h.number("factor")?, 1.0] }
        }
        "LinearLR" => {
            Schedule::linear(h.number("start_factor")?, h.number_or("end_factor", 1.0)?, h.steps("total_iters")?)
        }
        "ExponentialLR" => Schedule::Exponential { gamma: h.number("gamma")?, every: 1.0 },
        "MultiplicativeLR" => Schedule::Exponential { gamma: h.number("factor")?, every: 1.0 },
        "StepLR" => Schedule::Step { every: h.steps("step_size")?, gamma: h.number("gamma")? },
        "MultiStepLR" => {
            let milestones = h.numbers("milestones")?.into_iter().map(|m| m as u64).collect();
            Schedule::MultiStep { milestones, gamma: h.number("gamma")? }
        }
        "PolynomialLR" => {
            let (steps, power) = (h.steps("total_iters")?, h.number("power")?);
            Schedule::Polynomial { from: 1.0, to: 0.0, steps, power, cycle: false }
        }
        "CosineAnnealingLR" => {
            let steps = h.steps("T_max")?;
            Schedule::Cosine { from: 1.0, to: 0.0, steps, exponent: 1.0, periodic: true }
        }
        other => return Err(format!("scheduler `{other}` is not implemented")),
    })
}

/// `LinearLR(start_factor=0.1,total_iters=20)`.
fn called(text: &str) -> Result<Schedule, Skip> {
    let (name, rest) = text.split_once('(').ok_or_else(|| format!("{text:?} is not a call"))?;
    let pairs = rest.trim_end_matches(')').split(',').filter_map(|pair| pair.split_once('='));
    let number =
        |text: &str| text.trim().parse::<f64>().map(Value::from).map_err(|_| format!("{text:?} is not a number"));
    let pair = |(key, value): (&str, &str)| Ok::<_, String>((key.trim().to_owned(), number(value)?));
    let hyper: Map<_, _> = pairs.map(pair).collect::<Result<_, _>>()?;
    let mut h = Hyper(&hyper, Vec::new());
    let schedule = simple(name, &mut h)?;
    match hyper.keys().find(|key| !h.1.contains(&key.as_str())) {
        None => Ok(schedule),
        Some(key) => Err(format!("`{key}` in {text:?} is not implemented")),
    }
}

fn exponential(h: &mut Hyper<'_>, steps: &'static str) -> Result<Schedule, Skip> {
    let (gamma, every) = (h.number("decay_rate")?, h.number(steps)?);
    Ok(match h.flag("staircase") {
        true => Schedule::Step { every: every as u64, gamma },
        false => Schedule::Exponential { gamma, every },
    })
}

fn delayed(begin: u64, schedule: Schedule) -> Schedule {
    Schedule::Sequence(vec![(begin, Schedule::Constant(1.0)), (0, schedule)])
}

/// The warm-up of optax: a line from `init_value` to `peak_value`, then a cosine to `end_value`, `decay_steps` in all.
fn warmup_cosine(h: &mut Hyper<'_>) -> Result<Schedule, Skip> {
    let (from, peak) = (h.number("init_value")?, h.number("peak_value")?);
    let (warmup, steps) = (h.steps("warmup_steps")?, h.steps("decay_steps")?);
    let (to, exponent) = (h.number_or("end_value", 0.0)?, h.number_or("exponent", 1.0)?);
    let then = Schedule::Cosine { from: peak, to, steps: steps - warmup.min(steps), exponent, periodic: false };
    Ok(Schedule::Sequence(vec![(warmup, Schedule::linear(from, peak, warmup)), (0, then)]))
}
