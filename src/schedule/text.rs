//! Schedules as text: `cosine(1000).warmup(100)`, `step(every: 30, gamma: 0.1)`.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::Schedule;

/// What may stand before a parenthesis.
struct Word {
    name: &'static str,
    kind: Kind,
    example: &'static str,
}

enum Kind {
    /// A variant that holds one value.
    Single,
    /// A variant with fields; these may be given by position.
    Variant(&'static [&'static str]),
    /// A constructor; its arguments may be given by position.
    Constructor(&'static [&'static str]),
}
use Kind::{Constructor, Single, Variant};

const WORDS: [Word; 19] = [
    word("constant", Single, "constant(0.5)"),
    word("step", Variant(&["every", "gamma"]), "step(30, 0.1)"),
    word("multi_step", Variant(&["milestones", "gamma"]), "multi_step([30, 60], 0.1)"),
    word("exponential", Variant(&["gamma", "every"]), "exponential(0.99)"),
    word("linear", Constructor(&["from", "to", "steps"]), "linear(1, 0, 1000)"),
    word("polynomial", Variant(&[]), "polynomial(steps: 1000, power: 2)"),
    word("cosine", Variant(&["steps"]), "cosine(1000)"),
    word("cosine_restarts", Variant(&["steps"]), "cosine_restarts(100, t_mult: 2)"),
    word("inverse_sqrt", Variant(&["warmup"]), "inverse_sqrt(100)"),
    word("inverse_linear", Variant(&["rate"]), "inverse_linear(0.01)"),
    word("robbins_monro", Constructor(&[]), "robbins_monro()"),
    word("noam", Variant(&["d_model", "warmup"]), "noam(512, 4000)"),
    word(
        "warmup_stable_decay",
        Constructor(&["warmup", "stable", "decay", "to"]),
        "warmup_stable_decay(100, 700, 200, 0)",
    ),
    word(
        "one_cycle",
        Variant(&["steps", "up", "div", "final_div", "cosine", "three_phase", "momentum"]),
        "one_cycle(1000)",
    ),
    word("cyclic", Variant(&["low", "up", "down"]), "cyclic(0.1, 200, 200)"),
    word("piecewise", Variant(&["boundaries", "values"]), "piecewise([300, 600], [1, 0.1, 0.01])"),
    word("ramps", Variant(&["points"]), "ramps([(0, 0), (100, 1), (1000, 0.1)])"),
    word("sequence", Single, "sequence([(100, linear(0.1, 1, 100)), (0, cosine(900))])"),
    word("product", Single, "product([constant(0.5), cosine(1000)])"),
];

const fn word(name: &'static str, kind: Kind, example: &'static str) -> Word {
    Word { name, kind, example }
}

/// The constructors that are no variant of [`Schedule`].
#[derive(Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Constructed {
    Linear {
        from: f64,
        to: f64,
        steps: u64,
    },
    RobbinsMonro {},
    WarmupStableDecay {
        warmup: u64,
        stable: u64,
        decay: u64,
        #[serde(default)]
        to: f64,
    },
}

impl From<Constructed> for Schedule {
    fn from(constructed: Constructed) -> Self {
        match constructed {
            Constructed::Linear { from, to, steps } => Self::linear(from, to, steps),
            Constructed::RobbinsMonro {} => Self::robbins_monro(),
            Constructed::WarmupStableDecay { warmup, stable, decay, to } => {
                Self::warmup_stable_decay(warmup, stable, decay, to)
            }
        }
    }
}

/// Reads a whole text, or says where it is wrong, and what would be right.
pub(super) fn parse(text: &str) -> Result<Schedule, String> {
    let mut reader = Reader { text, at: 0, depth: 0 };
    let schedule = reader.schedule()?;
    reader.space();
    match reader.rest().chars().next() {
        None => Ok(schedule),
        Some(more) => Err(reader.wrong(reader.at, format!("the schedule ends before `{more}`"))),
    }
}

/// Values within values; what people write has few.
const DEPTH: usize = 64;

struct Reader<'a> {
    text: &'a str,
    /// Bytes that are read.
    at: usize,
    depth: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    /// Whether `sign` comes next; reads it if so.
    fn sign(&mut self, sign: char) -> bool {
        self.space();
        let next = self.rest().starts_with(sign);
        self.at += if next { sign.len_utf8() } else { 0 };
        next
    }

    /// The next characters of a kind.
    fn take(&mut self, of: impl Fn(char) -> bool) -> &'a str {
        self.space();
        let rest = self.rest();
        let token = &rest[..rest.find(|c| !of(c)).unwrap_or(rest.len())];
        self.at += token.len();
        token
    }

    /// A mistake with its line and column.
    fn wrong(&self, at: usize, what: impl std::fmt::Display) -> String {
        let before = &self.text[..at];
        let line = before.rsplit('\n').next().unwrap_or_default();
        format!("{}:{}: {what}", 1 + before.matches('\n').count(), 1 + line.chars().count())
    }

    /// A word with its arguments, and `.warmup(n)` behind it.
    fn schedule(&mut self) -> Result<Schedule, String> {
        self.space();
        let (start, name) = (self.at, self.name());
        let Some(word) = WORDS.iter().find(|word| word.name == name) else {
            let known = WORDS.map(|word| word.name).join(", ");
            let what = match name.as_str() {
                "" => "a schedule starts with a word".into(),
                "warmup" => "a warm-up stands behind a schedule, as in `cosine(1000).warmup(100)`".into(),
                _ => format!("`{name}` is not known"),
            };
            return Err(self.wrong(start, format!("{what}; there are {known}")));
        };
        let arguments = if self.sign('(') { self.arguments(word)? } else { Vec::new() };
        let mut schedule = self.made(word, start, &arguments)?;
        while self.sign('.') {
            let (start, method) = (self.at, self.name());
            let steps = if method == "warmup" && self.sign('(') { self.value()?.as_u64() } else { None };
            let Some(steps) = steps.filter(|_| self.sign(')')) else {
                let what = "only a warm-up of so many steps may follow, as in `cosine(1000).warmup(100)`";
                return Err(self.wrong(start, what));
            };
            schedule = schedule.warmup(steps);
        }
        Ok(schedule)
    }

    /// A name; `inverse-sqrt` is `inverse_sqrt`.
    fn name(&mut self) -> String {
        self.take(|c| c.is_alphanumeric() || c == '_' || c == '-').replace('-', "_")
    }

    /// Up to the closing parenthesis: each argument's place in the text, its name, its value.
    fn arguments(&mut self, word: &Word) -> Result<Vec<(usize, String, Value)>, String> {
        let mut arguments = Vec::new();
        while !self.sign(')') {
            self.space();
            let start = self.at;
            let mut name = self.name();
            if name.is_empty() || !self.sign(':') {
                self.at = start;
                let by_position: &[&str] = match word.kind {
                    Single => &[""],
                    Variant(names) | Constructor(names) => names,
                };
                name = match by_position.get(arguments.len()) {
                    Some(name) => (*name).to_owned(),
                    None => {
                        let most = by_position.len();
                        let what = format!("`{}` takes {most} arguments without a name", word.name);
                        return Err(self.wrong(start, format!("{what}, as in `{}`", word.example)));
                    }
                };
            }
            arguments.push((start, name, self.value()?));
            if !self.sign(',') && !self.rest().starts_with(')') {
                return Err(self.wrong(self.at, format!("`,` or `)` must follow, as in `{}`", word.example)));
            }
        }
        Ok(arguments)
    }

    fn made(&self, word: &Word, start: usize, arguments: &[(usize, String, Value)]) -> Result<Schedule, String> {
        let as_in = |at: usize, what: &str| self.wrong(at, format!("{what}; for example `{}`", word.example));
        let mut fields = Map::new();
        for (at, name, value) in arguments {
            if fields.insert(name.clone(), value.clone()).is_some() {
                return Err(as_in(*at, &format!("`{name}` is given twice")));
            }
        }
        if fields.is_empty() && !word.example.ends_with("()") {
            return Err(as_in(start, &format!("`{}` needs arguments", word.name)));
        }
        let content = match word.kind {
            Single => fields.remove("").unwrap_or_default(),
            Variant(_) | Constructor(_) => Value::Object(fields),
        };
        let tagged = Value::Object(Map::from_iter([(word.name.to_owned(), content)]));
        let made = match word.kind {
            Constructor(_) => serde_json::from_value::<Constructed>(tagged).map(Schedule::from),
            Single | Variant(_) => serde_json::from_value(tagged),
        };
        made.map_err(|e| {
            let what = e.to_string();
            let named = arguments.iter().find(|(_, name, _)| what.starts_with(&format!("unknown field `{name}`")));
            as_in(named.map_or(start, |(at, ..)| *at), &what)
        })
    }

    /// A number, `true`, `false`, `None`, `Some(value)`, a list, or a schedule.
    fn value(&mut self) -> Result<Value, String> {
        self.space();
        let start = self.at;
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(self.wrong(start, format!("more than {DEPTH} values within each other")));
        }
        let value = match self.rest().chars().next() {
            Some('(' | '[') => self.list()?,
            Some(c) if c.is_ascii_digit() || "+-.".contains(c) => {
                let token = self.take(|c| c.is_ascii_alphanumeric() || "+-._".contains(c));
                match number(&token.replace('_', "")) {
                    Some(number) => number,
                    None => return Err(self.wrong(start, format!("`{token}` is not a number"))),
                }
            }
            Some(c) if c.is_alphabetic() => match self.name().as_str() {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                "None" => Value::Null,
                "Some" if self.sign('(') => {
                    let value = self.value()?;
                    if !self.sign(')') {
                        return Err(self.wrong(self.at, "`)` must follow"));
                    }
                    value
                }
                _ => {
                    self.at = start;
                    let schedule = self.schedule()?;
                    crate::json::value(&schedule).map_err(|e| self.wrong(start, e))?
                }
            },
            _ => return Err(self.wrong(start, "here should be a number, a list or a schedule")),
        };
        self.depth -= 1;
        Ok(value)
    }

    fn list(&mut self) -> Result<Value, String> {
        let end = if self.sign('[') { ']' } else { ')' };
        self.at += usize::from(end == ')');
        let mut values = Vec::new();
        while !self.sign(end) {
            values.push(self.value()?);
            if !self.sign(',') && !self.rest().starts_with(end) {
                return Err(self.wrong(self.at, format!("`,` or `{end}` must follow")));
            }
        }
        Ok(Value::Array(values))
    }
}

/// A whole number as such: step counts are exact up to 2⁶⁴.
fn number(token: &str) -> Option<Value> {
    let whole = token.parse::<u64>().map(Value::from);
    let finite = || token.parse::<f64>().ok().filter(|x| x.is_finite()).map(Value::from);
    whole.ok().or_else(|| token.parse::<i64>().ok().map(Value::from)).or_else(finite)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_has_an_example_that_reads() {
        for word in &WORDS {
            let schedule = Schedule::parse(word.example).unwrap_or_else(|e| panic!("{e}"));
            assert!((0..2000).all(|k| schedule.at(k).is_finite()), "{schedule:?}");
            let bare = parse(word.name);
            let said = bare.err().unwrap_or_default();
            assert_eq!(said.contains(word.example), !word.example.ends_with("()"), "{}: {said}", word.name);
        }
    }
}
