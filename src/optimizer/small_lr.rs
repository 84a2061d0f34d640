//! Whether a learning rate is too small for parameters that are rounded to the nearest bf16.

use super::{Optimizer, ParameterId};
use crate::rule::Real;

/// Bits behind the first of a bf16.
const PLACES: f64 = 7.0;

/// Whether an update of a tenth of the learning rate is lost in parameters of this size; of a rate of 0 nothing is.
fn is_lost(lr: f64, largest: f64) -> bool {
    lr > 0.0 && largest > 0.0 && (0.1 * lr).log2() < largest.log2().floor() - (PLACES + 0.49f64.log2())
}

impl Optimizer {
    /// Remembers how large values from the host are, if updates of them may be lost. They are all of a parameter's, or
    /// those from this element on.
    pub(super) fn note_largest<F: Real>(&mut self, ParameterId(id): ParameterId, first: usize, values: &[F]) {
        let Some(parameter) = self.parameters.get_mut(&id) else { return };
        if self.groups[parameter.group].precision.rounds_parameters() {
            let finite = values.iter().filter_map(|x| x.to_f64()).filter(|x| x.is_finite());
            let before = if first == 0 { 0.0 } else { parameter.largest };
            parameter.largest = finite.fold(before, |most, x| most.max(x.abs()));
        }
    }

    /// The first group whose learning rate is too small for one of its parameters.
    pub(super) fn lr_too_small(&self) -> Option<usize> {
        let lost = |k: usize| {
            let lr = self.groups[k].now().effective_lr();
            let ours = self.parameters.values().filter(|parameter| parameter.group == k);
            ours.into_iter().any(|parameter| is_lost(lr * parameter.options.lr_scale, parameter.largest))
        };
        (0..self.groups.len()).find(|&k| self.groups[k].precision.loses_updates() && lost(k))
    }

    /// Says so in the log, once for as long as it is so.
    pub(super) fn warn_of_small_lr(&mut self) {
        let found = self.lr_too_small();
        let before = std::mem::replace(&mut self.warned_of_lr, found);
        if let Some(group) = found.filter(|_| found != before) {
            let lr = self.groups[group].now().effective_lr();
            log::warn!(
                "group {group}: updates at lr {lr:e} are lost where parameters are rounded to the nearest bf16; round \
                 them stochastically, or keep an exact master"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two places of 1 are 2⁻⁶; with FlashOptim's 0.49 a tenth of the rate is too small below 2⁻⁷/0.49.
    #[test]
    fn two_places_are_too_small() {
        let least = 10.0 * 2f64.powi(-7) / 0.49;
        for (lr, largest, lost) in [
            (least * 0.999, 1.0, true),
            (least * 1.001, 1.0, false),
            (least * 0.999, 1.99, true),
            (least * 1.999, 2.0, true),
            (least * 0.999, 0.99, false),
            (1e-3, 0.0, false),
            (0.0, 1.0, false),
        ] {
            assert_eq!(is_lost(lr, largest), lost, "{lr:e} and {largest}");
        }
    }
}
