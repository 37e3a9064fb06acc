//! Waits end when their callers said, whoever is away meanwhile.
//!
//! A wait is for something to happen: bytes to be appended, an upload to be done. Who has to be asked for it may be silent or gone, and is given up then; what an answer takes comes on top, so
//! a wait is half a second too long at most, and who wants no wait at all (or less than that) gives whom he asks a second.

use crate::{Error, Result};
use std::{
    future::Future,
    time::{Duration, Instant},
};

/// What an answer may take beyond the wait that was asked for.
const ANSWER: Duration = Duration::from_millis(500);
/// What is waited for an answer at least.
const LEAST: Duration = Duration::from_secs(1);
/// As good as for ever, and a time that clocks can add.
const EVER: Duration = Duration::from_secs(365 * 86_400);

/// The end of a wait.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    wait: Duration,
    end: Instant,
    limit: Instant,
}

impl Deadline {
    pub fn after(wait: Duration) -> Deadline {
        let (now, wait) = (Instant::now(), wait.min(EVER));
        Deadline { wait, end: now + wait, limit: now + (wait + ANSWER).max(LEAST) }
    }

    /// Until when there is something to wait for.
    pub fn end(&self) -> Instant {
        self.end
    }

    /// Until when it is worth while to ask anew.
    pub fn ask(&self) -> Instant {
        self.limit - ANSWER
    }

    /// Until when an answer is waited for.
    pub fn limit(&self) -> Instant {
        self.limit
    }

    /// What is left of the wait.
    pub fn rest(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// What is left of the time for an answer.
    pub fn patience(&self) -> Duration {
        self.limit.saturating_duration_since(Instant::now())
    }

    /// `what` was not done, and why, as far as it is known.
    pub fn late(&self, what: String, rest: impl Into<String>) -> Error {
        Error::Late { what, wait: self.wait, rest: rest.into() }
    }

    /// What somebody answers; none in time is an error that says what was asked for.
    pub async fn keep<T>(&self, what: impl FnOnce() -> String, answer: impl Future<Output = Result<T>>) -> Result<T> {
        match tokio::time::timeout_at(self.limit.into(), answer).await {
            Ok(answer) => answer,
            Err(_) => Err(self.late(what(), "no answer has come")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_may_take_a_moment_longer_than_the_wait() {
        for (wait_ms, most_ms) in [(0, 1000), (400, 1000), (500, 1000), (600, 1100), (60_000, 60_500)] {
            let deadline = Deadline::after(Duration::from_millis(wait_ms));
            assert_eq!((deadline.limit - (deadline.end - deadline.wait)).as_millis(), most_ms);
        }
        assert!(Deadline::after(Duration::MAX).rest() > Duration::from_secs(86_400));
    }
}
