//! The step between the log and long-term storage: a folder of this machine, on a larger disk as a rule, that takes chunks while long-term storage is away, or silent,
//! and the log is half full.
//!
//! ```text
//!   extents in the log ─▶ chunk here ─▶ record `Flushed`       while long-term storage is away or silent
//!   chunk here ─▶ the same bytes there ─▶ record `Moved`       when it is back, a few at a time
//! ```
//!
//! A chunk here is a chunk like any other to those who read; only its name says where it is. To a manifest it is as if only the log had it, because whoever begins
//! with long-term storage alone does not have this folder. The folder is one server's own.

use crate::{
    Error, Result, Store,
    segment::{Chunk, ChunkId, State},
    tier::Tier,
};
use geds::Persist;
use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// What names of chunks here begin with.
const HERE: &str = "overflow/";

/// Where a log's chunks are in the folder.
pub(crate) fn chunks(log: u64) -> String {
    format!("{HERE}{log:016x}")
}

/// Whether a chunk is here, and not in long-term storage.
pub(crate) fn has(location: &str) -> bool {
    location.starts_with(HERE)
}

/// Chunks here that something points to; what nothing does is removed.
pub(crate) fn needed(state: &State) -> impl Iterator<Item = (ChunkId, &Chunk)> {
    let here = state.chunks.iter().filter(|(_, chunk)| has(&chunk.location));
    here.filter(|(id, _)| state.live.chunk_bytes.get(id).is_some_and(|bytes| *bytes > 0)).map(|(id, chunk)| (*id, chunk))
}

/// A folder with a limit.
pub struct Overflow {
    pub(crate) persist: Persist,
    /// Bytes that may lie here.
    limit: u64,
    bytes: AtomicU64,
}

impl Overflow {
    /// `persist` is a folder (`geds::Persist::folder`), which takes up to `limit` bytes.
    pub fn new(persist: Persist, limit: u64) -> Overflow {
        Overflow { persist, limit, bytes: AtomicU64::new(0) }
    }

    /// Bytes that lie here, and how many may.
    pub fn fill(&self) -> (u64, u64) {
        (self.bytes.load(Relaxed), self.limit)
    }

    /// Bytes that it still takes.
    pub(crate) fn room(&self) -> u64 {
        self.limit.saturating_sub(self.bytes.load(Relaxed))
    }

    pub(crate) fn added(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Relaxed);
    }

    pub(crate) async fn remove(&self, chunk: &Chunk) -> Result<()> {
        self.persist.delete(&chunk.location).await.map_err(|e| Error::Storage(Arc::new(e)))?;
        self.bytes.fetch_sub(chunk.bytes.into(), Relaxed);
        Ok(())
    }

    /// Counts what is here when a server starts, and removes what was put or moved without being recorded before an earlier process ended.
    pub(crate) async fn take_stock(&self, store: &Store, tier: &Tier) -> Result<()> {
        let known: HashMap<String, u32> =
            store.peek(|state| state.chunks.values().filter(|c| has(&c.location)).map(|c| (c.location.clone(), c.bytes)).collect());
        self.bytes.store(known.values().map(|b| u64::from(*b)).sum(), Relaxed);
        let there = self.persist.list(&chunks(store.log().identity().0)).await.map_err(|e| Error::Storage(Arc::new(e)))?;
        let there: HashSet<String> = there.into_iter().collect();
        let missing: Vec<ChunkId> = store.peek(|state| needed(state).filter(|(_, chunk)| !there.contains(&chunk.location)).map(|(id, _)| id).collect());
        tier.lose_all(missing, "it is not in the overflow folder");
        for location in there {
            if !known.contains_key(&location) {
                self.persist.delete(&location).await.map_err(|e| Error::Storage(Arc::new(e)))?;
            }
        }
        self.persist.forget_unfinished(&chunks(store.log().identity().0)).await.map(drop).map_err(|e| Error::Storage(Arc::new(e)))
    }
}
