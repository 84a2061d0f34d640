//! What libraries call the states of their rules.

use super::Setup;
use crate::check::golden::Case;

/// Our name for a state in the file, the tensor that it is of (all of them: `None`), and the factor from its numbers to
/// ours.
pub(crate) fn state_name(case: &Case, setup: &Setup, key: &str) -> Option<(&'static str, Option<usize>, f64)> {
    let (name, tensor) = match case.library.as_str() {
        "keras" => {
            let (tensor, name) = key.split_once("/p")?.1.split_once('_')?;
            (name, Some(tensor.parse().ok()?))
        }
        "optax" => {
            let (name, tensor) = key.rsplit_once('.')?.1.strip_suffix(']')?.split_once('[')?;
            (name, Some(tensor.parse().ok()?))
        }
        _ => (key, None),
    };
    let states = setup.rule.states();
    let rule = setup.rule.name();
    let ours = match (rule, name) {
        (
            "adam" | "nadam" | "adamax" | "lamb" | "novograd" | "lion" | "ademamix" | "radam" | "adabelief" | "acprop"
            | "adan" | "adopt" | "yogi" | "sophia",
            "m" | "m1" | "mu" | "momentum" | "moments" | "state1",
        ) => "exp_avg",
        ("adabelief" | "acprop", "nu") => "exp_avg_var",
        ("adan", "v") => "exp_avg_diff",
        ("adan", "n") => "exp_avg_sq",
        ("adan", "g") => "previous_grad",
        ("sophia", "nu") => "exp_hessian",
        // Keras calls z so.
        ("schedule_free", "momentum") => "z",
        ("signum", "ema" | "exp_avg") => "momentum_buffer",
        ("optimistic_gradient_descent", "previous_gradient") => "previous_grad",
        ("madgrad", "s") => "grad_sum",
        ("cocob", "init_particles") => "x0",
        ("cocob", "subgradients") => "grad_norm_sum",
        ("cocob", "cumulative_gradients") => "grad_sum",
        ("ftrl", "n") => "accumulator",
        ("ftrl", "z") => "linear",
        ("rprop", "step_sizes") => "step_size",
        ("rprop", "prev_updates") => "prev",
        ("ademamix", "m2") => "exp_avg_slow",
        (
            "adam" | "nadam" | "lamb" | "novograd" | "ademamix" | "radam" | "adopt" | "yogi" | "schedule_free",
            "v" | "nu" | "velocity" | "grads_ema" | "state2",
        ) => "exp_avg_sq",
        ("lars", "trace") => "momentum_buffer",
        ("adam", "vmax" | "nu_max" | "velocity_hat") => "max_exp_avg_sq",
        ("adamax", "u" | "nu" | "norm") => "exp_inf",
        ("momentum" | "rmsprop", "trace" | "momentum" | "delta") | ("momentum", "v" | "m" | "state1") => {
            "momentum_buffer"
        }
        ("rmsprop", "s" | "n" | "nu" | "velocity" | "state1") => "square_avg",
        ("rmsprop", "gbar" | "mu" | "average_gradient") => "grad_avg",
        ("adagrad", "s" | "sum_of_squares" | "accumulator") => "sum",
        ("adadelta", "Eg2" | "e_g" | "accumulated_grad") => "square_avg",
        ("adadelta", "Ed2" | "e_x" | "accumulated_delta_var") => "acc_delta",
        _ => states.iter().copied().find(|state| *state == name)?,
    };
    let factor = match (rule, ours) {
        (_, "momentum_buffer") if setup.flipped_momentum => -1.0,
        // With the learning rate inside, against the gradient.
        ("lars", "momentum_buffer") if setup.vectors.is_some() => -setup.settings.lr,
        // pytorch-optimizer keeps it negated.
        ("adan", "previous_grad") if case.library == "pytorch-optimizer" => -1.0,
        // pytorch-optimizer's has the learning rate inside.
        ("laprop", "exp_avg") => 1.0 / setup.settings.lr,
        _ => 1.0,
    };
    states.contains(&ours).then_some((ours, tensor, factor))
}
