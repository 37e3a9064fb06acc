//! What the log, or the overflow, can't read any more, because a disk has failed there: it stays where it is, and all else leaves without waiting for it. And what a reader has not found in long-term
//! storage as it was put there.

use super::{Tier, flusher::Due, lock};
use crate::{
    Store,
    segment::{ChunkId, Extent, SegmentId, Source, State},
};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;

/// Between two tries to read what was damaged in the log, at most.
const DAMAGED_PAUSE_MAX: Duration = Duration::from_secs(3600);
/// How long a chunk is left alone that the overflow's disk can't read or remove.
const LOST_PAUSE: Duration = Duration::from_secs(60);
/// Segments that are examined for damage at a time, and as many that are examined again.
const EXAMINED_AT_ONCE: usize = 2;

/// Bytes that can't be read where they are. If only the log, or only the overflow, has them, they stay there, and what lies behind them goes to long-term storage all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub segment: String,
    /// Offset in the segment.
    pub start: u64,
    pub bytes: u64,
    pub why: String,
}

impl Damage {
    /// Tells of what was found, and what helps.
    fn tell(&self, whose: &str) {
        let Damage { segment, start, bytes, why } = self;
        tracing::error!(%segment, offset = start, bytes, error = %why, "bytes that only {whose} has can't be read: they stay out of long-term storage, and a restore of the segment ends there; `stream truncate --at` behind them lets the stream begin there");
    }
}

/// Damage in the log.
pub(super) struct Found {
    damage: Damage,
    extent: Extent,
    /// When it was read the last time, and how long after that it is read again.
    tried: Instant,
    pause: Duration,
}

pub(super) type Damaged = BTreeMap<(SegmentId, u64), Found>;

/// What the overflow could not do with a chunk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failed {
    Read,
    Remove,
}

/// Chunks of the overflow that could not be read or removed there: what of these, why, and when it was tried. They hold up no others, and it is tried again after [`LOST_PAUSE`].
pub(super) type Lost = HashMap<ChunkId, (Failed, String, Instant)>;

/// What readers have not found in long-term storage as it was put there, by segment and offset.
pub(super) type Spoilt = BTreeMap<(String, u64), Damage>;

/// Of these so many are noted.
const SPOILT_MAX: usize = 10_000;

/// Which bytes of which segments some chunks have, in the order of the segments' names.
fn runs<'a>(state: &State, of: &HashMap<ChunkId, &'a str>) -> Vec<Damage> {
    let mut runs: Vec<Damage> = Vec::new();
    // All extents are looked at, and most are of other chunks.
    let needed = || of.keys().filter(|chunk| state.live.chunk_bytes.get(chunk).is_some_and(|bytes| *bytes > 0));
    let (Some(least), Some(greatest)) = (needed().min(), needed().max()) else { return runs };
    for segment in state.segments.values().filter(|s| !s.deleted) {
        let first = runs.len();
        for extent in &segment.landed.extents {
            let Source::Chunk(chunk, _) = extent.source else { continue };
            if !(*least..=*greatest).contains(&chunk) {
                continue;
            }
            let Some(why) = of.get(&chunk) else { continue };
            match runs[first..].last_mut() {
                Some(run) if run.start + run.bytes == extent.start && run.why == *why => run.bytes += u64::from(extent.len),
                _ => runs.push(Damage { segment: segment.name.clone(), start: extent.start, bytes: extent.len.into(), why: why.to_string() }),
            }
        }
    }
    runs.sort_by(|a, b| (&a.segment, a.start).cmp(&(&b.segment, b.start)));
    runs
}

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
    /// What can't be read in the log, or in the overflow, and was to leave it, and what readers have not found in long-term storage, as far as it is still there.
    pub fn damaged(&self, state: &State) -> Vec<Damage> {
        let mut damaged = lock(&self.damaged);
        prune(&mut damaged, state);
        let mut all: Vec<Damage> = damaged.values().map(|found| found.damage.clone()).collect();
        let mut lost = lock(&self.lost);
        lost.retain(|chunk, _| state.chunks.contains_key(chunk));
        if !lost.is_empty() {
            all.extend(runs(state, &lost.iter().map(|(chunk, (_, why, _))| (*chunk, why.as_str())).collect()));
        }
        let mut spoilt = lock(&self.spoilt);
        spoilt.retain(|(segment, start), damage| state.find(segment).is_ok_and(|(_, s)| s.start < start + damage.bytes));
        all.extend(spoilt.values().cloned());
        all
    }

    /// Notes that a reader has not found bytes of a chunk in long-term storage as they were put there, and tells of it the first time. What is read next comes from there: it may have been put back.
    pub(crate) fn spoil(&self, location: &str, damage: Damage) {
        self.forget(location);
        let Damage { segment, start, bytes, why } = &damage;
        let (mut spoilt, key) = (lock(&self.spoilt), (segment.clone(), *start));
        if !spoilt.contains_key(&key) && spoilt.len() < SPOILT_MAX {
            tracing::error!(%segment, offset = start, bytes, error = %why, "bytes in long-term storage are not there as they were put there: put the object back from a copy, or let the stream begin behind them (`stream truncate --at`)");
            spoilt.insert(key, damage);
        }
    }

    /// These bytes of long-term storage are what they were.
    pub(crate) fn is_well(&self, segment: &str, start: u64, bytes: usize) {
        let mut spoilt = lock(&self.spoilt);
        if !spoilt.is_empty() {
            spoilt.retain(|(of, at), damage| of != segment || at + damage.bytes <= start || start + bytes as u64 <= *at);
        }
    }

    /// Notes that the overflow, and not long-term storage, has failed with a chunk, and tells of the bytes that nothing else has the first time.
    pub(crate) fn lose(&self, store: &Store, chunk: ChunkId, failed: Failed, why: &str) {
        if lock(&self.lost).insert(chunk, (failed, why.into(), Instant::now())).is_none() {
            store.peek(|state| runs(state, &[(chunk, why)].into())).iter().for_each(|run| run.tell("the overflow"));
        }
    }

    /// Notes chunks that this server's overflow, or a server without one, has not.
    pub(crate) fn lose_all(&self, chunks: impl IntoIterator<Item = ChunkId>, why: &str) {
        let mut lost = lock(&self.lost);
        let before = lost.len();
        lost.extend(chunks.into_iter().map(|chunk| (chunk, (Failed::Read, why.into(), Instant::now()))));
        let chunks = lost.len() - before;
        if chunks > 0 {
            tracing::warn!(chunks, "events that were put into an overflow are not in this server's: they can't be read; start it with the same `--overflow` as before; /v1/streams says which they are, and `stream truncate --at` behind them lets a stream begin there");
        }
    }

    /// It was read after all.
    pub(super) fn find(&self, chunk: ChunkId) {
        lock(&self.lost).remove(&chunk);
    }

    /// The overflow has failed with this chunk the last time.
    pub(super) fn was_lost(&self, chunk: ChunkId) -> bool {
        lock(&self.lost).contains_key(&chunk)
    }

    /// The overflow has failed to do this with this chunk a short while ago.
    pub(super) fn has_failed(&self, chunk: ChunkId, to: Failed) -> bool {
        lock(&self.lost).get(&chunk).is_some_and(|(failed, _, tried)| *failed == to && tried.elapsed() < LOST_PAUSE)
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
            due.entry(*id).or_insert_with(|| Due::new(*id, &found.damage.segment, Vec::new())).extents.push(found.extent);
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
                let damage = Damage { segment: due.name.clone(), start: extent.start, bytes: extent.len.into(), why: e.to_string() };
                let found = Found { damage: damage.clone(), extent: *extent, tried: Instant::now(), pause };
                if damaged.insert((due.id, extent.start), found).is_none() {
                    damage.tell("the log");
                }
            }
        }
    }
}
