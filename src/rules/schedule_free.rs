use super::prelude::*;

/// Schedule-Free SGD and AdamW, which need no schedule and no horizon: [Defazio et al.,
/// 2024](https://arxiv.org/abs/2405.15682).
///
/// ```text
/// u = g                                   Schedule-Free SGD
/// u = g / (√(v̂ + eps_root) + ε)           AdamW: v ← β₂v + (1 − β₂)g²,  v̂ = v / (1 − β₂ᵗ)
/// u ← u + λw
/// w ← w + c(z − w) − lrₜ(1 − β(1 − c))·u  c = aₜ / (a₁ + … + aₜ)
/// z ← z − lrₜ·u
/// ```
/// States `z`, which begins as w, and `exp_avg_sq` v for AdamW; 20 bytes of traffic an element, 28 for AdamW. λ is
/// [`WeightDecay::Decoupled`](crate::WeightDecay::Decoupled), at the point w where the gradient is taken.
///
/// The gradient is taken at w = βx + (1 − β)z, and it is x that is to be evaluated and deployed: evaluating w gives
/// worse losses. [`Optimizer::evaluate`](crate::Optimizer::evaluate) moves parameters to x, and
/// [`Optimizer::train`](crate::Optimizer::train) back; in between a step is an error.
///
/// The first `warmup` steps have lrₜ = lr·t/warmup, and then it is lr. aₜ = t^r·(lrₜ/lr)^weight_lr_power: the code of
/// the authors and pytorch-optimizer; optax, but for its warm-up, which takes lr·(t − 1)/warmup for z. Keras has aₜ =
/// 1, and decays w beside the step. Give the group no [`Schedule`](crate::Schedule): it would change lrₜ, but not aₜ.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct ScheduleFree {
    /// β, the part of x in the point where the gradient is taken, in 0 < β < 1.
    pub beta1: f64,
    /// β₂ of AdamW, in 0 ≤ β₂ < 1; `None` is SGD.
    pub beta2: Option<f64>,
    /// ε, 0 or more, outside the root.
    pub eps: f64,
    /// A second ε, inside the root; 0 or more.
    pub eps_root: f64,
    /// Steps in which the learning rate grows.
    pub warmup: u64,
    /// The power of t in the weights of the average, 0 or more.
    pub r: f64,
    /// The power of the learning rate in them, 0 or more.
    pub weight_lr_power: f64,
}

impl Default for ScheduleFree {
    /// The same as [`ScheduleFree::adamw`].
    fn default() -> Self {
        Self::adamw()
    }
}

impl ScheduleFree {
    /// SGD: β = 0.9.
    pub fn sgd() -> Self {
        let (beta1, eps, weight_lr_power) = (0.9, 1e-8, 2.0);
        Self { beta1, beta2: None, eps, eps_root: 0.0, warmup: 0, r: 0.0, weight_lr_power }
    }
    /// AdamW: β = (0.9, 0.999), ε = 1e-8.
    pub fn adamw() -> Self {
        Self { beta2: Some(0.999), ..Self::sgd() }
    }

    /// The part of the learning rate that step t has.
    fn warmed_up(&self, t: u64) -> f64 {
        if t < self.warmup { t as f64 / self.warmup as f64 } else { 1.0 }
    }

    /// c of step t: the part of its weight in the sum of all weights so far.
    pub fn average_rate(&self, t: u64) -> f64 {
        let t = t.max(1);
        let (growth, warm) = (self.r + self.weight_lr_power, t.min(self.warmup));
        let during = power_sum(growth, warm) / (self.warmup.max(1) as f64).powf(self.weight_lr_power);
        let after = power_sum(self.r, t) - power_sum(self.r, warm);
        (t as f64).powf(self.r) * self.warmed_up(t).powf(self.weight_lr_power) / (during + after)
    }
}

fields! {
    /// Coefficients of [`ScheduleFree`].
    pub struct Hyper { average, rate, z_rate, beta2, one_minus_beta2, correction, eps_root, eps, weight_decay, first }
}
fields! {
    /// State of [`ScheduleFree`].
    pub struct State { z, exp_avg_sq }
}

impl Rule for ScheduleFree {
    type Hyper<F: Real> = Hyper<F>;
    type State<F: Real> = State<F>;
    const NAME: &'static str = "schedule_free";
    const SHADER: &'static str = include_str!("../../shaders/schedule_free.wgsl");
    const LR: f64 = 2.5e-3;
    const DECAYS: bool = true;
    stored!();

    fn check(&self) -> Result<()> {
        above_zero("beta1", self.beta1)?;
        check_moments(self.beta1, self.beta2.unwrap_or(0.0), self.eps, self.eps_root)?;
        at_least_zero("r", self.r)?;
        at_least_zero("weight_lr_power", self.weight_lr_power)?;
        let power = self.r + self.weight_lr_power;
        require(power <= 8.0, "r", power, "with weight_lr_power at most 8")
    }

    fn uses(&self, state: &str) -> bool {
        state == "z" || self.beta2.is_some()
    }

    fn overrides(&self) -> Vec<(&'static str, bool)> {
        vec![("ADAPTIVE", self.beta2.is_some())]
    }

    fn evaluation(&self) -> Option<f64> {
        Some((1.0 - self.beta1) / self.beta1)
    }

    fn hyper(&self, step: &Step) -> Hyper<f64> {
        // A schedule's momentum would make another x of w and z.
        let (beta1, beta2, c) = (self.beta1, self.beta2.unwrap_or(0.0), self.average_rate(step.t));
        let lr = step.lr * self.warmed_up(step.t);
        Hyper {
            average: c,
            rate: lr * (1.0 - beta1 * (1.0 - c)),
            z_rate: lr,
            beta2,
            one_minus_beta2: 1.0 - beta2,
            correction: 1.0 / one_minus_power(beta2, step.t),
            eps_root: self.eps_root,
            eps: self.eps,
            weight_decay: step.weight_decay,
            first: first_step(step.t),
        }
    }

    #[inline(always)]
    fn update<F: Real>(&self, w: F, g: F, s: &mut State<F>, h: &Hyper<F>) -> F {
        let z = if h.first == F::one() { w } else { s.z };
        let mut u = g;
        if self.beta2.is_some() {
            let v = h.beta2 * s.exp_avg_sq + h.one_minus_beta2 * g * g;
            s.exp_avg_sq = v;
            u = ratio(g, (h.correction * v + h.eps_root).sqrt() + h.eps);
        }
        u += h.weight_decay * w;
        s.z = z - h.z_rate * u;
        w + h.average * (z - w) - h.rate * u
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The authors' code adds up the weights from step to step.
    #[test]
    fn averages_are_those_of_summed_weights() {
        let base = ScheduleFree::sgd();
        let growing = ScheduleFree { warmup: 100, r: 1.5, ..base };
        for rule in [base, ScheduleFree { warmup: 7, ..base }, growing, ScheduleFree { weight_lr_power: 0.0, ..base }] {
            let mut sum = 0.0;
            for t in 1..=3000u64 {
                let lr = (t as f64 / rule.warmup.max(1) as f64).min(1.0);
                let weight = (t as f64).powf(rule.r) * lr.powf(rule.weight_lr_power);
                sum += weight;
                let (c, expected) = (rule.average_rate(t), weight / sum);
                assert!((c / expected - 1.0).abs() < 1e-11, "{rule:?} at {t}: {c}, not {expected}");
            }
        }
    }
}
