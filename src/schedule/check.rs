//! Whether a schedule's numbers make a schedule.

use super::Schedule;
use crate::error::{Result, require};

impl Schedule {
    /// Checks that every number is in its range.
    ///
    /// # Errors
    /// [`Error::Hyperparameter`](crate::Error::Hyperparameter) with the first number that is not.
    pub fn check(&self) -> Result<()> {
        let at_least_0 = |name, x: f64| require(x >= 0.0 && x.is_finite(), name, x, "0 or more, and finite");
        let some = |name, k: u64| require((1..1 << 53).contains(&k), name, k as f64, "1 to 2^53");
        let rising = |name, mut at: Vec<f64>| -> Result<()> {
            let sorted = at.iter().all(|x| x.is_finite()) && at.windows(2).all(|w| w[0] <= w[1]);
            require(sorted, name, at.pop().unwrap_or(0.0), "in rising order")
        };
        match self {
            Self::Constant(value) => at_least_0("value", *value),
            Self::Step { every, gamma } => some("every", *every).and(at_least_0("gamma", *gamma)),
            Self::MultiStep { milestones, gamma } => {
                rising("milestones", milestones.iter().map(|m| *m as f64).collect()).and(at_least_0("gamma", *gamma))
            }
            Self::Exponential { gamma, every } => {
                require(*every > 0.0 && every.is_finite(), "every", *every, "above 0")?;
                at_least_0("gamma", *gamma)
            }
            Self::Polynomial { from, to, steps, power, .. } => at_least_0("from", *from)
                .and(at_least_0("to", *to))
                .and(some("steps", *steps))
                .and(at_least_0("power", *power)),
            Self::Cosine { from, to, steps, exponent, .. } => at_least_0("from", *from)
                .and(at_least_0("to", *to))
                .and(some("steps", *steps))
                .and(at_least_0("exponent", *exponent)),
            Self::CosineRestarts { to, steps, t_mult, m_mult } => {
                require(*t_mult >= 1.0 && t_mult.is_finite(), "t_mult", *t_mult, "1 or more")?;
                at_least_0("to", *to).and(some("steps", *steps)).and(at_least_0("m_mult", *m_mult))
            }
            Self::InverseSqrt { warmup } => some("warmup", *warmup),
            Self::InverseLinear { rate, every } => at_least_0("rate", *rate).and(some("every", every.unwrap_or(1))),
            Self::Noam { d_model, warmup } => some("d_model", *d_model).and(some("warmup", *warmup)),
            Self::Ramps { points, momentum, .. } => {
                require(!points.is_empty(), "points", 0.0, "one point or more")?;
                let momenta = momentum.is_empty() || momentum.len() == points.len();
                require(momenta, "momentum", momentum.len() as f64, "as many as points, or none")?;
                points.iter().try_for_each(|p| at_least_0("points", p.1))?;
                let below_1 = |x: &f64| require((0.0..1.0).contains(x), "momentum", *x, "0 to below 1");
                momentum.iter().try_for_each(below_1)?;
                rising("points", points.iter().map(|p| p.0).collect())
            }
            Self::OneCycle { steps, up, div, final_div, momentum, .. } => {
                let (low, high) = momentum.unwrap_or((0.0, 0.0));
                some("steps", *steps)?;
                require((0.0..=1.0).contains(up), "up", *up, "0 to 1")?;
                let divides = |x: f64, by: f64| x > 0.0 && x.is_finite() && (1.0 / by).is_finite();
                require(divides(*div, *div), "div", *div, "above 0, and finite")?;
                require(divides(*final_div, div * final_div), "final_div", *final_div, "above 0, and finite")?;
                let below_1 = (0.0..1.0).contains(&low) && (0.0..1.0).contains(&high);
                require(below_1, "momentum", low.max(high), "0 to below 1")
            }
            Self::Cyclic { low, up, down, per_cycle, per_step, momentum } => {
                let (a, b) = momentum.unwrap_or((0.0, 0.0));
                at_least_0("low", *low).and(some("up", *up)).and(some("down", *down))?;
                at_least_0("per_cycle", *per_cycle).and(at_least_0("per_step", *per_step))?;
                let shrinking = momentum.is_none() || per_cycle.max(*per_step) <= 1.0;
                require(shrinking, "per_cycle", per_cycle.max(*per_step), "at most 1 where the momentum is cycled")?;
                require((0.0..1.0).contains(&a) && (0.0..1.0).contains(&b), "momentum", a.max(b), "0 to below 1")
            }
            Self::Piecewise { boundaries, values } => {
                let one_more = values.len() == boundaries.len() + 1;
                require(one_more, "values", values.len() as f64, "one more than boundaries")?;
                values.iter().try_for_each(|x| at_least_0("values", *x))?;
                rising("boundaries", boundaries.iter().map(|b| *b as f64).collect())
            }
            Self::Sequence(parts) => {
                require(!parts.is_empty(), "sequence", 0.0, "one schedule or more")?;
                parts.iter().try_for_each(|(_, schedule)| schedule.check())
            }
            Self::Product(schedules) => schedules.iter().try_for_each(Self::check),
        }
    }
}
