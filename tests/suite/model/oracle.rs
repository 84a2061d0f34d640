//! What calls do by the documentation, written without the library: who steps, counts, rates, the loss scale, who has
//! an average; and the values of plain SGD.

use std::collections::BTreeMap;

use libtest_mimic::Failed;
use wgpu_optim::{
    Accumulation, Averaging, ClipNorm, LossScaler, NonFinite, Norm, Options, Schedule, Settings, Warmup, WeightDecay,
};

use super::program::{Call, NAMES, Program, Tensor};
use super::world::{OF_GROUP, State};
use crate::compare::{TOLERANCE, close, ensure, same};

pub(super) struct Oracle {
    groups: Vec<Group>,
    parameters: BTreeMap<usize, Parameter>,
    clip: Option<ClipNorm>,
    policy: Option<NonFinite>,
    scaler: Option<LossScaler>,
    report: Known,
    /// The most micro-batches of a parameter since the last step.
    pub(super) window: u32,
    /// Whether the report's norm and `found_inf` are of a step since the last load.
    pub(super) reported: bool,
}

struct Group {
    rule: &'static str,
    settings: Settings,
    schedule: Option<Schedule>,
    step: u64,
    averaging: Option<Averaging>,
    swapped: bool,
}

struct Parameter {
    tensor: Tensor,
    options: Options,
    steps: u64,
    missing: bool,
    batches: u32,
    /// Whether it has an average; `None` where the documentation does not say.
    averaged: Option<bool>,
    /// The step behind which that was to begin.
    begun: u64,
    /// The group that it was added to.
    home: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Known {
    scale: f64,
    tracker: u32,
    skipped: u64,
    found_inf: bool,
}

impl Oracle {
    pub(super) fn new(program: &Program) -> Self {
        let group = |group: &super::program::GroupSetup| Group {
            rule: group.rule,
            settings: group.settings,
            schedule: None,
            step: 0,
            averaging: group.averaging,
            swapped: false,
        };
        let report = Known { scale: 1.0, tracker: 0, skipped: 0, found_inf: false };
        let mut oracle = Self {
            groups: program.groups.iter().map(group).collect(),
            parameters: BTreeMap::new(),
            clip: None,
            policy: None,
            scaler: None,
            report,
            window: 0,
            reported: true,
        };
        program.tensors.iter().for_each(|tensor| oracle.add(*tensor));
        oracle
    }

    fn add(&mut self, tensor: Tensor) {
        let (options, averaged) = (Options::default(), Some(false));
        let (begun, home) = (0, tensor.group);
        let parameter = Parameter { tensor, options, steps: 0, missing: true, batches: 0, averaged, begun, home };
        self.parameters.insert(tensor.name, parameter);
    }

    pub(super) fn averaging(&self) -> Vec<Option<Averaging>> {
        self.groups.iter().map(|group| group.averaging).collect()
    }

    pub(super) fn names(&self) -> Vec<usize> {
        self.parameters.keys().copied().collect()
    }

    pub(super) fn is_missing(&self, name: usize) -> bool {
        self.parameters.get(&name).is_none_or(|parameter| parameter.missing)
    }

    /// Who would step.
    fn members(&self) -> Vec<usize> {
        let steps = |(_, parameter): &(&usize, &Parameter)| !parameter.missing && !parameter.options.frozen;
        self.parameters.iter().filter(steps).map(|(name, _)| *name).collect()
    }

    /// Who would not.
    pub(super) fn others(&self) -> Vec<usize> {
        let members = self.members();
        self.names().into_iter().filter(|name| !members.contains(name)).collect()
    }

    fn measures(&self) -> bool {
        let policy = self.policy.is_some_and(|policy| policy != NonFinite::Propagate);
        let limited = self.groups.iter().any(|group| group.settings.clip_norm.is_some());
        self.clip.is_some() || self.scaler.is_some() || policy || limited
    }

    fn can_skip(&self) -> bool {
        self.measures() && self.policy.unwrap_or_default() == NonFinite::Skip
    }

    pub(super) fn is_swapped(&self, group: usize) -> bool {
        self.groups.get(group).is_some_and(|group| group.swapped)
    }

    /// Whether averages of this group can begin: not while memory of another group is among its own.
    pub(super) fn may_average(&self, group: usize) -> bool {
        let moved = |p: &Parameter| p.tensor.group == group && p.home != group;
        let keeps = self.groups.get(group).is_none_or(|group| group.averaging.is_some());
        keeps || !self.parameters.values().any(moved)
    }

    /// Whether a step that is recorded and dropped leaves nothing behind.
    pub(super) fn may_drop(&self) -> bool {
        self.can_skip() && !self.groups.iter().any(|group| group.swapped) && self.window == 0
    }

    /// Whether the step whose gradient of this parameter cannot be read is refused, and its gradient is as before.
    pub(super) fn may_refuse(&self, name: usize) -> bool {
        let unused = self.parameters.get(&name).is_some_and(|parameter| parameter.batches == 0);
        unused && self.members().contains(&name) && !self.groups.iter().any(|group| group.swapped)
    }

    /// After a call that was made, with what could be read before and after it on the CPU.
    pub(super) fn after(&mut self, call: &Call, before: &State, now: &State) -> Result<(), Failed> {
        match call {
            Call::Step => return self.step(before, now),
            Call::WriteGradient { to, .. } | Call::MoveGradient { to, .. } => self.of(*to, |p| {
                (p.missing, p.batches) = (false, 0);
            }),
            Call::WriteGradients(_) => self.parameters.values_mut().for_each(|p| (p.missing, p.batches) = (false, 0)),
            Call::Accumulate { to, .. } => {
                for to in to {
                    self.of(*to, |p| (p.missing, p.batches) = (false, p.batches + 1));
                }
                self.window = self.parameters.values().map(|p| p.batches).fold(self.window, u32::max);
            }
            Call::Missing(to) => self.of(*to, |p| (p.missing, p.batches) = (true, 0)),
            Call::ZeroGrad => self.end_window(),
            Call::SetSteps(to, steps) => self.of(*to, |p| (p.steps, p.averaged) = (*steps, None)),
            Call::SetOptions(to, options) => self.of(*to, |p| p.options = *options),
            Call::SetSettings(group, settings) => self.groups[*group].settings = *settings,
            Call::SetSchedule(group, schedule) => {
                (self.groups[*group].schedule, self.groups[*group].step) = (schedule.clone(), 0);
            }
            Call::SetScheduleStep(group, step) => self.groups[*group].step = *step,
            Call::SetAveraging(group, averaging) => {
                self.groups[*group].averaging = Some(*averaging);
                for p in self.parameters.values_mut().filter(|p| p.tensor.group == *group) {
                    (p.averaged, p.begun) = (p.averaged.filter(|has| !has), p.steps);
                }
            }
            Call::Swap(group) => self.swap(*group, before, now)?,
            Call::SetClipNorm(clip) => self.clip = *clip,
            Call::SetNonFinite(policy) => self.policy = Some(*policy),
            Call::SetLossScaler(scaler) => {
                self.scaler = *scaler;
                (self.report.scale, self.report.tracker) = (scaler.map_or(1.0, |scaler| scaler.init_scale), 0);
            }
            Call::SetLossScale(scale, tracker, skipped) => {
                let found_inf = self.report.found_inf;
                self.report = Known { scale: *scale, tracker: *tracker, skipped: *skipped, found_inf };
            }
            Call::Add(tensor) => self.add(*tensor),
            Call::Remove(to) => _ = self.parameters.remove(to),
            Call::Rename(to, name) => {
                let parameter = self.parameters.remove(to);
                self.parameters.extend(parameter.map(|p| (*name, p)));
            }
            Call::Move(to, group) => self.of(*to, |p| (p.tensor.group, p.averaged) = (*group, None)),
            Call::CopySchedule(from, to) => {
                let Group { schedule, step, .. } = &self.groups[*from];
                let (schedule, step) = (schedule.clone(), *step);
                (self.groups[*to].schedule, self.groups[*to].step) = (schedule, step);
            }
            Call::Reload(_) => {
                self.reported = false;
                self.parameters.values_mut().for_each(|p| (p.missing, p.batches) = (false, 0));
            }
            _ => {}
        }
        self.check(now)
    }

    fn of(&mut self, name: usize, change: impl FnOnce(&mut Parameter)) {
        if let Some(parameter) = self.parameters.get_mut(&name) {
            change(parameter);
        }
    }

    fn step(&mut self, before: &State, now: &State) -> Result<(), Failed> {
        let members = self.members();
        let gradients: Vec<_> = members.iter().map(|&name| vector(before, name, "gradient")).collect();
        let bad = self.measures() && gradients.iter().any(|g| g.iter().any(|g| !g.is_finite()));
        let expected = self.sgd(&members, before, bad);
        let skipped = bad && self.can_skip();
        if self.measures() {
            self.reported = true;
            self.report.found_inf = bad;
            self.report.skipped += u64::from(skipped);
            self.rescale(bad);
        }
        let finite = |(_, values): &(usize, Vec<f32>)| values.iter().all(|x| x.is_finite());
        for (name, expected) in expected.into_iter().filter(|of| !skipped && finite(of)) {
            let (x, b) = (vector(now, name, "parameter"), vector(before, name, "parameter"));
            let scale: Vec<_> = b.iter().map(|x| x.abs().max(1.0)).collect();
            close(&format!("{:?} by hand", NAMES[name]), &x, &expected, &scale, TOLERANCE)?;
        }
        for &name in &members {
            let Some(p) = self.parameters.get_mut(&name).filter(|_| !skipped) else { continue };
            p.steps += 1;
            if let (Some(averaging), Some(averaged)) = (self.groups[p.tensor.group].averaging, &mut p.averaged) {
                average(name, averaging, [p.steps, p.begun], averaged, before, now)?;
            }
        }
        for (&name, _) in self.parameters.iter().filter(|(name, _)| skipped || !members.contains(name)) {
            let kept = |part: &str| part != "gradient" && (skipped || part != OF_GROUP);
            for (key, x) in now.vectors.iter().filter(|((of, part), _)| *of == name && kept(part)) {
                same(&format!("{:?} {}, left out", NAMES[name], key.1), x, &before.vectors[key])?;
            }
        }
        if !skipped {
            self.groups.iter_mut().for_each(|group| group.step += 1);
        }
        self.end_window();
        self.check(now)
    }

    fn end_window(&mut self) {
        self.window = 0;
        for p in self.parameters.values_mut().filter(|p| p.batches > 0) {
            (p.missing, p.batches) = (true, 0);
        }
    }

    fn rescale(&mut self, bad: bool) {
        let Some(scaler) = self.scaler else { return };
        if bad {
            (self.report.scale, self.report.tracker) = (self.report.scale * scaler.backoff_factor, 0);
        } else if self.report.tracker + 1 >= scaler.growth_interval {
            (self.report.scale, self.report.tracker) = (self.report.scale * scaler.growth_factor, 0);
        } else {
            self.report.tracker += 1;
        }
    }

    /// What a step makes of the parameters of groups with nothing but SGD.
    fn sgd(&self, members: &[usize], before: &State, bad: bool) -> Vec<(usize, Vec<f32>)> {
        let policy = self.policy.unwrap_or_default();
        let reshaped = |group: &Group| group.settings.centralize || group.settings.adaptive_clip.is_some();
        if bad && policy == NonFinite::Propagate || self.clip.is_some() && self.groups.iter().any(reshaped) {
            return Vec::new();
        }
        let inverse = self.scaler.map_or(1.0, |_| 1.0 / self.report.scale);
        let mut scaled = Vec::new();
        for &name in members {
            let (p, mut g) = (&self.parameters[&name], vector(before, name, "gradient"));
            let settings = &self.groups[p.tensor.group].settings;
            let mean = p.batches > 0 && settings.accumulation == Accumulation::Mean;
            let share = if mean { 1.0 / f64::from(self.window) } else { 1.0 };
            let sign = if settings.maximize { -1.0 } else { 1.0 };
            g.iter_mut().filter(|g| bad && !g.is_finite()).for_each(|g| *g = 0.0);
            let g: Vec<_> = g.iter().map(|g| f64::from(*g) * share * sign * settings.grad_scale * inverse).collect();
            scaled.push((name, g));
        }
        if let Some(clip) = self.clip {
            let whole = limit(&clip, scaled.iter().flat_map(|(_, g)| g));
            scaled.iter_mut().flat_map(|(_, g)| g).for_each(|g| *g *= whole);
        }
        let of = |name: &usize| &self.groups[self.parameters[name].tensor.group];
        scaled.retain(|(name, _)| of(name).rule == "sgd" && !reshaped(of(name)) && of(name).settings.noise.is_none());
        let update = |(name, mut g): (usize, Vec<f64>)| {
            let (group, options) = (of(&name), self.parameters[&name].options);
            let settings = group.settings;
            let factor = settings.lr_factor * group.schedule.as_ref().map_or(1.0, |s| s.at(group.step));
            let lr = settings.lr * factor * options.lr_scale;
            if let Some(clip) = settings.clip_norm {
                let own = limit(&clip, &g);
                g.iter_mut().for_each(|g| *g *= own);
            }
            let most = settings.clip_value.unwrap_or(f64::INFINITY);
            let (l2, decay) = match settings.weight_decay {
                _ if !options.weight_decay => (0.0, 0.0),
                WeightDecay::None => (0.0, 0.0),
                WeightDecay::L2(lambda) => (lambda, 0.0),
                WeightDecay::Decoupled(lambda) => (0.0, lr * lambda),
                WeightDecay::DecoupledFromLr(lambda) => (0.0, factor * lambda),
            };
            let w = vector(before, name, "parameter").into_iter().map(f64::from);
            let stepped = w.zip(g).map(|(w, g)| w - decay * w - lr * (g.clamp(-most, most) + l2 * w));
            (name, stepped.map(|w| w as f32).collect())
        };
        scaled.into_iter().map(update).collect()
    }

    fn swap(&mut self, group: usize, before: &State, now: &State) -> Result<(), Failed> {
        let back = self.groups[group].swapped;
        self.groups[group].swapped ^= true;
        for (&name, p) in self.parameters.iter().filter(|(_, p)| p.tensor.group == group) {
            let Some(averaged) = p.averaged else { continue };
            let [w, average] = ["parameter", "average"].map(|part| vector(now, name, part));
            let [old_w, old_average] = ["parameter", "average"].map(|part| vector(before, name, part));
            let (expected_w, expected_average) = if averaged { (old_average, old_w) } else { (old_w, old_average) };
            let what = format!("{:?} swapped{}", NAMES[name], if back { " back" } else { "" });
            same(&what, &w, &expected_w)?;
            same(&format!("{what}, average"), &average, &expected_average)?;
        }
        self.check(now)
    }

    /// Counts, rates and the report.
    fn check(&self, now: &State) -> Result<(), Failed> {
        let mut expected = Vec::new();
        for (k, group) in self.groups.iter().enumerate() {
            let factor = group.schedule.as_ref().map_or(1.0, |schedule| schedule.at(group.step));
            expected.push((format!("schedule_step({k})"), group.step));
            expected.push((format!("lr({k})"), (group.settings.lr * (group.settings.lr_factor * factor)).to_bits()));
        }
        for (name, p) in &self.parameters {
            expected.push((format!("steps({:?})", NAMES[*name]), p.steps));
        }
        ensure(expected == now.numbers, format!("{:?}, by the documentation {expected:?}", now.numbers))?;
        let report = now.report;
        let found_inf = if self.reported { report.found_inf } else { self.report.found_inf };
        let (scale, tracker, skipped) = (report.loss_scale, report.growth_tracker, report.skipped_steps);
        let found = Known { scale, tracker, skipped, found_inf };
        ensure(found == self.report, format!("{found:?}, by the documentation {:?}", self.report))
    }
}

fn vector(state: &State, name: usize, part: &str) -> Vec<f32> {
    state.vectors.get(&(name, part.to_owned())).cloned().unwrap_or_default()
}

/// The factor that keeps a norm within its limit.
fn limit<'a>(clip: &ClipNorm, g: impl IntoIterator<Item = &'a f64>) -> f64 {
    let g: Vec<_> = g.into_iter().map(|g| g.abs()).collect();
    let squares = || g.iter().map(|g| g * g).sum::<f64>();
    let norm = match clip.norm {
        Norm::L1 => g.iter().sum(),
        Norm::L2 => squares().sqrt(),
        Norm::Max => g.iter().copied().fold(0.0, f64::max),
        Norm::Rms => (squares() / g.len().max(1) as f64).sqrt(),
    };
    let factor = clip.max_norm / (norm + clip.eps);
    if clip.only_down { factor.min(1.0) } else { factor }
}

/// The average after step t of the parameter, from its values after it, where the average began behind another step.
fn average(
    name: usize,
    averaging: Averaging,
    [t, begun]: [u64; 2],
    averaged: &mut bool,
    before: &State,
    now: &State,
) -> Result<(), Failed> {
    let from = match averaging {
        Averaging::EmaFrom { from, .. } | Averaging::Swa { from, .. } => from,
        _ => 1,
    };
    let n = (t + 1).saturating_sub(from.max(begun + 1)) as i32;
    let (old, new) = match averaging {
        _ if n == 0 => (1.0, 0.0),
        Averaging::Ema(_) | Averaging::EmaFrom { .. } if n == 1 => (0.0, 1.0),
        Averaging::Ema(decay) | Averaging::EmaFromZero(decay) => (decay, 1.0 - decay),
        Averaging::EmaFrom { decay, warmup, .. } => {
            let grown = |of: Warmup| 1.0 - (1.0 + f64::from(n - 1) / of.inv_gamma).powf(-of.power);
            let decay = warmup.map_or(decay, |of| decay.min(grown(of)));
            (decay, 1.0 - decay)
        }
        Averaging::EmaDebiased(decay) => {
            let all = 1.0 - decay.powi(n);
            (decay * (1.0 - decay.powi(n - 1)) / all, (1.0 - decay) / all)
        }
        Averaging::Swa { every, .. } if (n as u64 - 1).is_multiple_of(every) => {
            let count = ((n as u64 - 1) / every + 1) as f64;
            ((count - 1.0) / count, 1.0 / count)
        }
        Averaging::Swa { .. } => (1.0, 0.0),
    };
    *averaged |= new > 0.0;
    let (a, w) = (vector(before, name, "average"), vector(now, name, "parameter"));
    let expected: Vec<_> = a.iter().zip(&w).map(|(a, w)| (old * f64::from(*a) + new * f64::from(*w)) as f32).collect();
    let scale: Vec<_> = a.iter().zip(&w).map(|(a, w)| a.abs().max(w.abs())).collect();
    let found = vector(now, name, "average");
    if found.iter().chain(&expected).any(|x| !x.is_finite()) {
        return Ok(());
    }
    close(&format!("{:?} average by hand", NAMES[name]), &found, &expected, &scale, TOLERANCE)
}
