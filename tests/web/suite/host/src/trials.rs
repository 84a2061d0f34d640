//! `libtest_mimic`: `run` keeps the trials for JavaScript, which runs each by its number.

use std::cell::RefCell;
use std::fmt::{Debug, Display};
use std::process::ExitCode;

type Runner = Box<dyn FnOnce() -> Result<Completion, Failed>>;

thread_local! {
    static TRIALS: RefCell<Vec<Trial>> = const { RefCell::new(Vec::new()) };
}

#[derive(Debug)]
pub struct Arguments;

impl Arguments {
    pub fn from_args() -> Self {
        Self
    }
}

#[derive(Clone, Debug)]
pub struct Failed(Option<String>);

impl Failed {
    pub fn message(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

impl<M: Display> From<M> for Failed {
    fn from(message: M) -> Self {
        Self(Some(message.to_string()))
    }
}

/// How a trial that did not fail ended: the reason why it was ignored.
#[derive(Debug)]
pub struct Completion(Option<String>);

impl Completion {
    pub fn ignored_with(reason: impl Into<String>) -> Self {
        Self(Some(reason.into()))
    }
}

pub struct Trial {
    name: String,
    runner: Option<Runner>,
}

impl Trial {
    pub fn test(name: impl Into<String>, test: impl FnOnce() -> Result<(), Failed> + 'static) -> Self {
        Self::ignorable_test(name, move || test().map(|()| Completion(None)))
    }

    pub fn ignorable_test(
        name: impl Into<String>,
        test: impl FnOnce() -> Result<Completion, Failed> + 'static,
    ) -> Self {
        Self { name: name.into(), runner: Some(Box::new(test)) }
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}

#[derive(Debug)]
pub struct Conclusion;

impl Conclusion {
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::SUCCESS
    }
}

pub fn run(_: &Arguments, trials: Vec<Trial>) -> Conclusion {
    for trial in &trials {
        crate::tell(&trial.name);
    }
    TRIALS.set(trials);
    Conclusion
}

/// Runs a trial: 0 if it passed, 1 if it failed, 2 if it was ignored; the reason is reported.
#[unsafe(no_mangle)]
extern "C" fn suite_run(number: u32) -> u32 {
    let runner = TRIALS.with_borrow_mut(|trials| trials[number as usize].runner.take());
    let (code, reason) = match runner.map(|run| run()) {
        Some(Ok(Completion(None))) => return 0,
        Some(Ok(Completion(Some(reason)))) => (2, reason),
        Some(Err(failed)) => (1, failed.0.unwrap_or_default()),
        None => (1, "run twice".into()),
    };
    crate::tell(&reason);
    code
}

/// Panics abort here: JavaScript is told why before.
#[unsafe(no_mangle)]
extern "C" fn suite_watch_panics() {
    std::panic::set_hook(Box::new(|info| crate::tell(&info.to_string())));
}
