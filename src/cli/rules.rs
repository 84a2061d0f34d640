//! `wgpu-optim rules`: every rule, what it keeps, and what others call it.

use std::process::ExitCode;

use serde_json::json;
use wgpu_optim::{Extent, rules};

use super::{Outcome, say, table};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only rules whose name, or whose name elsewhere, contains this.
    text: Option<String>,
    /// One JSON object a rule.
    #[arg(long)]
    json: bool,
}

/// By [`AnyRule::name`](wgpu_optim::AnyRule::name): the paper, and what PyTorch, Keras, optax and Burn call the rule.
/// pytorch-optimizer has the names that rules have here.
const ELSEWHERE: [(&str, &str, [&str; 4]); 41] = [
    ("sgd", "Robbins and Monro 1951", ["SGD", "SGD", "sgd", "Sgd"]),
    ("momentum", "Polyak 1964, Sutskever 2013", ["SGD", "SGD", "sgd", "Sgd"]),
    ("adagrad", "Duchi 2011", ["Adagrad", "Adagrad", "adagrad", "AdaGrad"]),
    ("rmsprop", "Tieleman and Hinton 2012", ["RMSprop", "RMSprop", "rmsprop", "RmsProp"]),
    ("adadelta", "Zeiler 2012", ["Adadelta", "Adadelta", "adadelta", ""]),
    ("adam", "Kingma 2015, Reddi 2018", ["Adam, AdamW", "Adam, AdamW", "adam, adamw, amsgrad", "Adam, AdamW"]),
    ("adamax", "Kingma 2015", ["Adamax", "Adamax", "adamax", ""]),
    ("nadam", "Dozat 2016", ["NAdam", "Nadam", "nadam", ""]),
    ("ademamix", "arXiv:2409.03137", ["", "", "ademamix", ""]),
    ("lion", "arXiv:2302.06675", ["", "Lion", "lion", "Lion"]),
    ("signum", "arXiv:1802.04434", ["", "", "signum, sign_sgd", ""]),
    ("radam", "arXiv:1908.03265", ["RAdam", "", "radam", ""]),
    ("schedule_free", "arXiv:2405.15682", ["", "ScheduleFreeAdamW", "schedule_free_sgd, …_adamw", ""]),
    ("adabelief", "arXiv:2010.07468", ["", "", "adabelief", ""]),
    ("rprop", "Riedmiller and Braun 1993", ["Rprop", "", "rprop", ""]),
    ("asgd", "Polyak and Juditsky 1992", ["ASGD", "", "", ""]),
    ("adopt", "arXiv:2411.02853", ["", "", "adopt", ""]),
    ("adan", "arXiv:2208.06677", ["", "", "adan", "Adan"]),
    ("yogi", "Zaheer 2018", ["", "", "yogi", ""]),
    ("laprop", "arXiv:2002.04839", ["", "", "", ""]),
    ("ftrl", "McMahan 2013", ["", "Ftrl", "", ""]),
    ("sophia", "arXiv:2305.14342", ["", "", "sophia", ""]),
    ("madgrad", "arXiv:2101.11075", ["", "", "madgrad", ""]),
    ("cocob", "arXiv:1705.07795", ["", "", "cocob", ""]),
    ("optimistic_gradient_descent", "arXiv:1901.08511", ["", "", "optimistic_gradient_descent", ""]),
    ("adabound", "arXiv:1902.09843", ["", "", "", ""]),
    ("adamod", "arXiv:1910.12249", ["", "", "", ""]),
    ("diffgrad", "arXiv:1909.11015", ["", "", "", ""]),
    ("acprop", "arXiv:2110.05454", ["", "", "acprop", ""]),
    ("pnm", "arXiv:2103.17182", ["", "", "", ""]),
    ("adapnm", "arXiv:2103.17182", ["", "", "", ""]),
    ("aggmo", "arXiv:1804.00325", ["", "", "", ""]),
    ("qhm", "arXiv:1810.06801", ["", "", "", ""]),
    ("qhadam", "arXiv:1810.06801", ["", "", "", ""]),
    ("accsgd", "arXiv:1803.05591", ["", "", "", ""]),
    ("pid", "An 2018", ["", "", "", ""]),
    ("adagrad_norm", "arXiv:1806.01811", ["", "", "", ""]),
    ("fromage", "arXiv:2002.03432", ["", "", "fromage", ""]),
    ("lamb", "arXiv:1904.00962", ["", "Lamb", "lamb", "Lamb"]),
    ("lars", "arXiv:1708.03888", ["", "", "lars", ""]),
    ("novograd", "arXiv:1905.11286", ["", "", "novograd", ""]),
];

pub(crate) fn run(args: &Args) -> Outcome {
    let text = args.text.as_deref().unwrap_or_default().to_lowercase();
    let mut rows = Vec::new();
    for (name, rule) in rules::all() {
        let known = ELSEWHERE.into_iter().find(|(known, ..)| *known == rule.name());
        let (_, paper, others) = known.ok_or_else(|| format!("the table lacks `{}`", rule.name()))?;
        let searched = format!("{name} {}", others.join(" ")).to_lowercase();
        if !searched.contains(&text) {
            continue;
        }
        let extent = |extent| if extent == Extent::Element { "" } else { " (one number)" };
        let states = rule.storage().into_iter().map(|state| format!("{}{}", state.name, extent(state.extent)));
        let (states, bytes) = (states.collect::<Vec<_>>(), rule.bytes_per_parameter());
        let [torch, keras, optax, burn] = others;
        if args.json {
            let line = json!({
                "rule": name, "states": states, "bytes": bytes, "lr": rule.default_lr(), "paper": paper,
                "torch": torch, "keras": keras, "optax": optax, "burn": burn,
            });
            say(None, &line.to_string());
        }
        let bytes = bytes.to_string();
        rows.push([name, &states.join(", "), &bytes, paper, torch, keras, optax, burn].map(str::to_owned).to_vec());
    }
    if rows.is_empty() {
        return Err(format!("no rule's name, here or elsewhere, contains {text:?}").into());
    }
    if !args.json {
        let header = ["rule", "states", "bytes", "paper", "PyTorch", "Keras", "optax", "Burn"];
        say(None, &table(&header, rows.into_iter()).to_string());
        say(None, "bytes: that a step moves for each f32 parameter, with the parameter and its gradient");
    }
    Ok(ExitCode::SUCCESS)
}
