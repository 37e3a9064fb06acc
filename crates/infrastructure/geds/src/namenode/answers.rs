//! What was answered to requests that may be asked again, because their answers may have got lost.
//!
//! Part of the state, so that a restart and a standby know it too. The last [`ANSWERS_MAX`] are kept; a request that is asked again after so many others that its answer may have been
//! forgotten is refused, since nobody can tell any more whether it was done. Seals are not here: their ids say it (`State::gone`).

use super::change::{Answer, Once};
use crate::{Error, Result};
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

/// Some 200 B each. A client asks again for 20 s.
const ANSWERS_MAX: usize = 65_536;

#[derive(Clone, Default)]
pub struct Answers {
    /// Requests and when they were answered, the oldest first.
    order: VecDeque<(u128, u64)>,
    /// In postcard: a clone, which each snapshot begins with, copies none of them.
    of: HashMap<u128, Arc<[u8]>>,
    /// When the last one was answered that is forgotten; 0: none is.
    forgotten_ms: u64,
}

/// A request, when it was answered and what.
pub type AnswerRow<T> = (u128, u64, T);

impl Answers {
    /// What a request was answered, if it was carried out before. An error: nobody knows.
    pub fn find(&self, once: &Once, now_ms: u64) -> Result<Option<Answer>> {
        if let Some(answer) = self.of.get(&once.request) {
            return Ok(Some(postcard::from_bytes(answer).expect("it was written by `keep`, and read once by `load`")));
        }
        if once.since_ms > 0 && self.forgotten_ms > 0 && now_ms.saturating_sub(once.since_ms) <= self.forgotten_ms {
            let why = format!("its answer was lost, and {ANSWERS_MAX} others have been given since");
            return Err(Error::Unsure { why });
        }
        Ok(None)
    }

    pub fn keep(&mut self, request: u128, now_ms: u64, answer: &Answer) {
        let bytes = postcard::to_stdvec(answer).expect("a vector takes everything");
        self.insert(request, now_ms, bytes.into());
    }

    fn insert(&mut self, request: u128, at_ms: u64, answer: Arc<[u8]>) {
        if self.of.len() >= ANSWERS_MAX {
            if let Some((oldest, at_ms)) = self.order.pop_front() {
                self.of.remove(&oldest);
                self.forgotten_ms = at_ms;
            }
        }
        self.order.push_back((request, at_ms));
        self.of.insert(request, answer);
    }

    /// For a snapshot: all of them, the oldest first, and when the last one was answered that is forgotten.
    pub fn rows(&self) -> (u64, Vec<AnswerRow<&[u8]>>) {
        (self.forgotten_ms, self.order.iter().map(|(request, at_ms)| (*request, *at_ms, &*self.of[request])).collect())
    }

    /// [`Answers::rows`], read back. `None`: one of them can't be read.
    pub fn load((forgotten_ms, rows): (u64, Vec<AnswerRow<Vec<u8>>>)) -> Option<Answers> {
        let mut answers = Answers { forgotten_ms, ..Answers::default() };
        for (request, at_ms, answer) in rows {
            postcard::from_bytes::<Answer>(&answer).ok()?;
            answers.insert(request, at_ms, answer.into());
        }
        Some(answers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_forgotten_is_not_called_new() {
        let mut answers = Answers::default();
        let answer = |n: u64| Answer::Counted { objects: n, bytes: n };
        let again = |request, since_ms| Once { request, since_ms };
        // One a millisecond, from the first on.
        for n in 1..=ANSWERS_MAX as u64 {
            answers.keep(u128::from(n), n, &answer(n));
        }
        let now = ANSWERS_MAX as u64;
        assert_eq!(answers.find(&again(1, 20_000), now).unwrap(), Some(answer(1)));
        assert_eq!(answers.find(&again(0, 20_000), now).unwrap(), None, "nothing is forgotten, so it was never done");
        answers.keep(u128::MAX, now, &answer(0));
        // The first is gone. What was asked for the first time after it was answered can't be it.
        let first = answers.find(&again(1, now - 1), now);
        assert!(matches!(first, Err(Error::Unsure { .. })), "{first:?}");
        assert_eq!(answers.find(&again(1, now - 2), now).unwrap(), None);
        assert_eq!(answers.find(&again(1, 0), now).unwrap(), None, "a first try is what it says");
        let (forgotten, rows) = answers.rows();
        let rows = rows.into_iter().map(|(request, at, answer)| (request, at, answer.to_vec())).collect();
        let loaded = Answers::load((forgotten, rows)).unwrap();
        assert_eq!(loaded.rows(), answers.rows());
        assert!(loaded.find(&again(1, now - 1), now).is_err());
        assert_eq!(loaded.find(&again(2, 20_000), now).unwrap(), Some(answer(2)));
    }
}
