//! Errors that a browser reports after the call. Calls that cannot wait leave the pending answer here; a later call
//! returns the error.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::error::{Error, Result};

type Answer = Pin<Box<dyn Future<Output = Option<Error>>>>;

/// Answers that nobody has looked at, the oldest first.
#[derive(Default)]
pub(super) struct Answers(RefCell<VecDeque<Answer>>);

impl Answers {
    pub(super) fn push(&self, answer: impl Future<Output = Option<Error>> + 'static) {
        self.0.borrow_mut().push_back(Box::pin(answer));
    }

    /// The oldest error that has arrived.
    pub(super) fn arrived(&self) -> Result<()> {
        let mut waiting = self.0.borrow_mut();
        while let Some(answer) = waiting.front_mut() {
            let Poll::Ready(answer) = answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) else { break };
            waiting.pop_front();
            answer.map_or(Ok(()), Err)?;
        }
        Ok(())
    }

    /// The oldest error of all that has been asked for by now. The others, which mostly follow from it, are logged.
    pub(super) async fn all(&self) -> Result<()> {
        let mut first = None;
        let count = self.0.borrow().len();
        for _ in 0..count {
            let oldest = self.0.borrow_mut().pop_front();
            let Some(answer) = oldest else { break };
            match (answer.await, &first) {
                (Some(e), None) => first = Some(e),
                (Some(e), Some(_)) => log::info!("and then: {e}"),
                (None, _) => {}
            }
        }
        first.map_or(Ok(()), Err)
    }
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} answers", self.0.borrow().len())
    }
}
