//! What the log can't read any more, because a disk has failed there: it stays where it is, and all else leaves the log without waiting for it.

use super::{Tier, flusher::Due, lock};
use crate::{
    Store,
    segment::{Extent, SegmentId, State},
};
use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;

/// Between two tries to read what was damaged in the log, at most.
const DAMAGED_PAUSE_MAX: Duration = Duration::from_secs(3600);
/// Segments that are examined for damage at a time, and as many that are examined again.
const EXAMINED_AT_ONCE: usize = 2;

/// Bytes that only the log has, and that can't be read there: they stay where they are, and what lies behind them goes to long-term storage all the same.
#[derive(Clone, Debug)]
pub struct Damage {
    pub segment: String,
    /// Offset in the segment.
    pub start: u64,
    pub bytes: u32,
    pub why: String,
    extent: Extent,
    /// When it was read the last time, and how long after that it is read again.
    tried: Instant,
    pause: Duration,
}

pub(super) type Damaged = BTreeMap<(SegmentId, u64), Damage>;

/// Of the extents of a segment that can't be read: after a flush that failed, or of what was found damaged before.
#[derive(Clone, Copy)]
pub(super) enum Look {
    First,
    Again,
}

/// The segments in which damage is looked for, some of them at a time. What is read again does not keep those waiting that are not flushed until they are known.
pub(super) struct Examining {
    pub segments: Mutex<HashSet<SegmentId>>,
    turns: Semaphore,
}

impl Default for Examining {
    fn default() -> Examining {
        Examining { segments: Mutex::default(), turns: Semaphore::new(EXAMINED_AT_ONCE) }
    }
}

/// A segment is one of those until this is dropped.
struct Examined<'a>(&'a Examining, SegmentId);

impl Drop for Examined<'_> {
    fn drop(&mut self) {
        lock(&self.0.segments).remove(&self.1);
    }
}

/// Forgets what is not in the log any more.
fn prune(damaged: &mut Damaged, state: &State) {
    damaged.retain(|(id, start), _| state.segments.get(id).is_some_and(|s| !s.deleted && s.landed.covering(*start, 1).iter().any(|e| e.start == *start && e.in_log() > 0)));
}

impl Tier {
    /// What is damaged in the log and was to leave it, as far as it is still there.
    pub fn damaged(&self, state: &State) -> Vec<Damage> {
        let mut damaged = lock(&self.damaged);
        prune(&mut damaged, state);
        damaged.values().cloned().collect()
    }

    /// Where in a segment bytes are damaged.
    pub(super) fn avoided(&self, id: SegmentId) -> HashSet<u64> {
        lock(&self.damaged).range((id, 0)..=(id, u64::MAX)).map(|((_, start), _)| *start).collect()
    }

    /// What was damaged and is to be read again now.
    pub(super) fn again(&self, state: &State) -> Vec<Due> {
        let mut damaged = lock(&self.damaged);
        prune(&mut damaged, state);
        let mut due: BTreeMap<SegmentId, Due> = BTreeMap::new();
        for ((id, _), found) in damaged.iter().filter(|(_, d)| d.tried.elapsed() >= d.pause) {
            due.entry(*id).or_insert_with(|| Due::new(*id, &found.segment, Vec::new())).extents.push(found.extent);
        }
        due.into_values().collect()
    }

    /// Looks for damage in some extents, beside everything else: a disk may take half a minute for each that is bad, and flushes of other segments don't wait for that.
    pub(super) fn examine_beside(self: &Arc<Self>, store: &Store, due: Due, look: Look) {
        if lock(&self.examining(look).segments).insert(due.id) {
            let (tier, store) = (self.clone(), store.clone());
            tokio::spawn(async move {
                let examining = tier.examining(look);
                let _examined = Examined(examining, due.id);
                let _turn = examining.turns.acquire().await;
                tier.examine(&store, &due).await;
            });
        }
    }

    fn examining(&self, look: Look) -> &Examining {
        match look {
            Look::First => &self.examining,
            Look::Again => &self.examining_again,
        }
    }

    /// Finds out which of some extents, that could not be read together, can't be, and notes them. What has left the log meanwhile is not damaged.
    async fn examine(&self, store: &Store, due: &Due) {
        for extent in &due.extents {
            let Err(e) = self.read_log(store, &[*extent]).await else {
                lock(&self.damaged).remove(&(due.id, extent.start));
                continue;
            };
            let there = store.peek(|state| state.segments.get(&due.id).is_some_and(|s| !s.deleted && s.landed.covering(extent.start, 1).first() == Some(extent)));
            if there {
                let mut damaged = lock(&self.damaged);
                let pause = damaged.get(&(due.id, extent.start)).map_or(self.options.damaged_after, |d| (d.pause * 2).min(DAMAGED_PAUSE_MAX));
                let found = Damage { segment: due.name.clone(), start: extent.start, bytes: extent.len, why: e.to_string(), extent: *extent, tried: Instant::now(), pause };
                if damaged.insert((due.id, extent.start), found).is_none() {
                    tracing::error!(segment = %due.name, offset = extent.start, bytes = extent.len, error = %e, "bytes that only the log has can't be read: they stay out of long-term storage, and a restore of the segment ends there; `stream truncate --at` behind them lets the stream begin there");
                }
            }
        }
    }
}
