//! What live playlists have told of a stream so far, so that the next ones agree with them: how many discontinuities lie before the first part, and how long a part may be (RFC 8216, 4.3.3 and 6.2.2).
//!
//! The index says where a discontinuity is, and not how many came before; counting from its beginning is too much for one that is old. So the first playlist of a server takes the number of its
//! first part for that of discontinuities, and what comes is counted from there. As there are never more discontinuities than parts, the number does not go back when a server begins again.

use super::{DISCONTINUITY, Entry};
use crate::lock;
use std::{
    collections::HashMap,
    ops::Range,
    sync::{Mutex, MutexGuard},
};

/// It is not counted over more entries than this; then it begins as after a start.
const COUNTED_MAX: u64 = 10_000;
/// A part that is longer, in seconds, counts while it is in the list: a camera's line was down.
const LONGEST_MAX: f64 = 30.0;
/// So many streams are remembered.
const STREAMS_MAX: usize = 10_000;

#[derive(Clone, Copy, Default)]
struct Said {
    /// Of the entry with this number, and how many discontinuities there are up to it.
    count: Option<(u64, u64)>,
    /// In seconds.
    longest: f64,
}

/// By the index's segment.
#[derive(Default)]
pub struct Told(Mutex<HashMap<String, Said>>);

/// How many discontinuities there are up to an entry, when those among some others are known.
pub(super) struct Counting {
    from: (u64, u64),
    entry: u64,
    /// Entries to be looked at.
    pub among: Range<u64>,
}

impl Told {
    fn all(&self) -> MutexGuard<'_, HashMap<String, Said>> {
        let mut all = lock(&self.0);
        if all.len() > STREAMS_MAX {
            all.clear();
        }
        all
    }

    /// The longest part of a stream so far, of which one of these `seconds` is told now.
    pub(super) fn longest(&self, index: &str, seconds: f64) -> f64 {
        let mut all = self.all();
        let said = all.entry(index.into()).or_default();
        said.longest = said.longest.max(seconds.min(LONGEST_MAX));
        said.longest.max(seconds)
    }

    /// Begins to count up to `entry` of an index that has entries from `first` on.
    pub(super) fn count(&self, index: &str, first: u64, entry: u64) -> Counting {
        let said = self.all().get(index).and_then(|said| said.count);
        // Of what was forgotten since nothing is known, and no player that is there needs it.
        let said = said.map(|(of, before)| (of.max(first.saturating_sub(1)), before));
        let from = said.filter(|(of, _)| of.abs_diff(entry) <= COUNTED_MAX).unwrap_or((entry, entry));
        Counting { from, entry, among: from.0.min(entry) + 1..from.0.max(entry) + 1 }
    }

    /// How many there are, with the entries that were to be looked at.
    pub(super) fn counted(&self, index: &str, counting: &Counting, among: &[Entry]) -> u64 {
        let between = among.iter().filter(|entry| entry.flags & DISCONTINUITY != 0).count() as u64;
        let (from, before) = counting.from;
        if counting.entry < from {
            return before.saturating_sub(between);
        }
        let here = before + between;
        // Another playlist may have come further meanwhile.
        let mut all = self.all();
        let said = all.entry(index.into()).or_default();
        if said.count.is_none_or(|(of, _)| of < counting.entry) {
            said.count = Some((counting.entry, here));
        }
        here
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discontinuities_are_counted_on_and_do_not_go_back_with_a_start() {
        let flags = |n: u64| if n % 3 == 0 { DISCONTINUITY } else { 0 };
        let ask = |told: &Told, first: u64, entry: u64| {
            let counting = told.count("index", first, entry);
            let among: Vec<Entry> = counting.among.clone().map(|n| Entry { flags: flags(n), tai_ns: 0, offset: n }).collect();
            assert!(among.len() as u64 <= COUNTED_MAX);
            told.counted("index", &counting, &among)
        };
        let told = Told::default();
        let first = ask(&told, 0, 100);
        for (entry, more) in [(100, 0), (101, 0), (102, 1), (104, 1), (110, 3), (105, 2), (102, 1), (111, 4)] {
            assert_eq!(ask(&told, 0, entry), first + more, "up to entry {entry}");
        }
        let later = ask(&told, 50, 5000);
        assert_eq!(ask(&told, 5006, 5010), later + 2, "those of 5001 to 5005 are not known");
        assert!(ask(&Told::default(), 50, 5001) >= later);
        // What it knew of is gone, or too far away.
        for (first, entry) in [(6000, 6000), (6000, 500_000)] {
            assert!(ask(&told, first, entry) >= later, "up to entry {entry}");
        }
        assert_eq!([2.0, 1.0, 3.0, 900.0, 2.0].map(|seconds| told.longest("index", seconds)), [2.0, 2.0, 3.0, 900.0, 30.0]);
    }
}
