//! Long-term storage: bytes leave the log as immutable chunks in a folder or S3, and come back through a bounded cache.
//!
//! ```text
//!   extents in the log ─▶ one chunk, 4 to 16 MiB, or what is 30 s old ─▶ put, read back ─▶ record `Flushed` ─▶ extents in the chunk
//! ```
//!
//! A chunk's name has a random part and is never used twice, so nothing is overwritten, whoever else writes there. A chunk ends where an append does. The
//! catalogue of chunks is the state itself: log and checkpoints, and every now and then a copy beside the chunks, the [`manifest`]. Its numbered names are
//! also the fence: who finds the next number taken has been replaced, and stops. A chunk is removed when neither an extent nor one of the two manifests that
//! stay points into it, nobody reads from it, and some time has passed.
//!
//! Reading history and bringing it there cost a processor much: bytes over a socket, copies, checksums. There is a runtime of its own for that, whose threads give way to
//! those that appends wait for.
//!
//! While the storage is away or full, nothing happens here except a try now and then, beginning with what can be removed: bytes stay in the log, which readers read. What the log may
//! hold is the store's bound, and at that bound appends wait. Before, chunks go to the [`overflow`](crate::overflow), if there is one, as far as its limit; they are
//! moved on when the storage is back. So it is when the storage is silent for some seconds in the middle of something.
//!
//! Here is what readers get from there; [`flusher`] brings it there, and [`damage`] is what the log can't give.

mod damage;
mod flusher;

pub use damage::Damage;

use self::{
    damage::{Damaged, Examining},
    flusher::Asked,
};
use crate::{
    Error, Result,
    overflow::{self, Overflow},
    segment::{Chunk, EXTENT_BYTES, SegmentId},
};
use base::{Kind, behind::Behind};
use bytes::Bytes;
use geds::Persist;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::{OnceCell, OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
};

#[derive(Clone, Debug)]
pub struct Options {
    /// The largest chunk, bytes.
    pub chunk_bytes: usize,
    /// A segment is flushed when it has this many bytes that only the log has …
    pub flush_bytes: u64,
    /// … or has had some for this long.
    pub flush_after: Duration,
    /// What is kept in memory of what was read.
    pub cache_bytes: usize,
    /// Chunks on their way at a time.
    pub uploads: usize,
    /// Between two manifests, at least.
    pub manifest_every: Duration,
    /// A chunk that nothing points to any more stays for this long: a server that begins with a manifest of a moment ago needs what that has.
    pub remove_after: Duration,
    /// What was damaged in the log is read again after this long, and then after twice as long each time: a disk may have failed for a moment.
    pub damaged_after: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            chunk_bytes: 16 << 20,
            flush_bytes: 4 << 20,
            flush_after: Duration::from_secs(30),
            cache_bytes: 64 << 20,
            uploads: 2,
            manifest_every: Duration::from_secs(10),
            remove_after: Duration::from_secs(60),
            damaged_after: Duration::from_secs(60),
        }
    }
}

/// What is fetched at once; a chunk has up to four of them.
const BLOCK: u32 = 4 << 20;
/// Blocks that are fetched at a time; readers beyond wait, and nothing is fetched ahead.
const FETCHES: usize = 16;
type Key = (String, u32);

/// A block in memory, or on its way there.
#[derive(Default)]
struct Block {
    bytes: Arc<OnceCell<Bytes>>,
    /// Its part of what may be fetched ahead, until someone reads it.
    ahead: Option<OwnedSemaphorePermit>,
}

#[derive(Default)]
struct Cache {
    blocks: HashMap<Key, Block>,
    /// Oldest first.
    order: VecDeque<(Key, usize)>,
    bytes: usize,
}

struct Away {
    kind: Kind,
    why: String,
}

/// What helps, behind an error of the storage, where that is not to wait.
fn remedy(kind: Kind) -> &'static str {
    match kind {
        Kind::NotFound => ": is the bucket, or the folder, there? make it, or start with the name of another one",
        Kind::PermissionDenied => ": may these keys, or for a folder the server's user, write there? allow it, or start with others",
        _ => "",
    }
}

pub struct Tier {
    persist: Persist,
    overflow: Option<Overflow>,
    options: Options,
    cache: Mutex<Cache>,
    /// Why the storage took nothing the last time.
    away: Mutex<Option<Away>>,
    /// What it is asked for just now.
    asked: Mutex<Asked>,
    /// It was told that the overflow is used since the storage is silent.
    told_silent: AtomicBool,
    flushed_bytes: AtomicU64,
    fetched_bytes: AtomicU64,
    /// When the last manifest was written.
    told_at: Mutex<Option<Instant>>,
    damaged: Mutex<Damaged>,
    /// Not flushed until it is known what of them can't be read.
    examining: Examining,
    /// Flushed meanwhile: what is read again is left out.
    examining_again: Examining,
    /// Runs of extents of which someone makes a chunk: segment and begin, end.
    under_way: Mutex<BTreeMap<(SegmentId, u64), u64>>,
    fetches: Arc<Semaphore>,
    /// Half of the cache: so much of it may have been fetched ahead and not been read yet, in bytes.
    ahead: Arc<Semaphore>,
    /// Where history is read.
    behind: Behind,
}

fn storage(e: geds::Error) -> Error {
    Error::Storage(Arc::new(e))
}

impl Tier {
    pub fn new(persist: Persist, overflow: Option<Overflow>, options: Options) -> Tier {
        let ahead = Arc::new(Semaphore::new((options.cache_bytes / 2).min(Semaphore::MAX_PERMITS)));
        Tier {
            persist,
            overflow,
            options,
            cache: Mutex::default(),
            away: Mutex::default(),
            asked: Mutex::default(),
            told_silent: AtomicBool::new(false),
            flushed_bytes: AtomicU64::new(0),
            fetched_bytes: AtomicU64::new(0),
            told_at: Mutex::new(None),
            damaged: Mutex::default(),
            examining: Examining::default(),
            examining_again: Examining::default(),
            under_way: Mutex::default(),
            fetches: Arc::new(Semaphore::new(FETCHES)),
            ahead,
            behind: Behind::new("long-term", 2),
        }
    }

    /// Does something where it holds up no append.
    pub(crate) async fn aside<T: Send + 'static>(&self, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        // Who does not wait any more does not need it.
        let mut task = AbortOnDrop(self.behind.spawn(work));
        (&mut task.0).await.map_err(|e| Error::Invalid(format!("work for long-term storage ended early: {e}")))?
    }

    /// The storage did not answer the last time, or took nothing.
    pub fn is_away(&self) -> bool {
        lock(&self.away).is_some()
    }

    /// Why, and what helps, if it is so.
    pub fn why_away(&self) -> Option<String> {
        lock(&self.away).as_ref().map(|away| away.why.clone())
    }

    /// Notes that the storage has taken something.
    fn reach(&self) {
        let was_silent = self.told_silent.swap(false, Relaxed);
        if lock(&self.away).take().is_some() || was_silent {
            // As loud as that it was away.
            tracing::warn!(storage = %self.persist, "long-term storage is back");
        }
    }

    /// Notes why the storage takes nothing, and what helps, and tells of it when it begins or becomes something else.
    fn miss(&self, kind: Kind, why: String) {
        let mut away = lock(&self.away);
        if away.as_ref().is_none_or(|before| before.kind != kind) {
            tracing::warn!(error = %why, storage = %self.persist, "long-term storage is away; bytes stay in the log");
        }
        *away = Some(Away { kind, why });
        self.told_silent.store(false, Relaxed);
    }

    /// How old the last manifest of this process is.
    pub fn manifest_age(&self) -> Option<Duration> {
        lock(&self.told_at).map(|at| at.elapsed())
    }

    /// What long-term storage is called.
    pub fn name(&self) -> String {
        self.persist.to_string()
    }

    /// Bytes in the overflow and how many it takes, if there is one.
    pub fn overflow(&self) -> Option<(u64, u64)> {
        self.overflow.as_ref().map(Overflow::fill)
    }

    /// Where a chunk is.
    fn home(&self, location: &str) -> Result<&Persist> {
        match (&self.overflow, overflow::has(location)) {
            (_, false) => Ok(&self.persist),
            (Some(overflow), true) => Ok(&overflow.persist),
            (None, true) => Err(Error::NotFound(format!("{location} is in an overflow folder, and none is configured; start with the same one as before"))),
        }
    }

    /// Bytes of what was read that are in memory.
    pub fn cached_bytes(&self) -> usize {
        lock(&self.cache).bytes
    }

    /// Bytes flushed and fetched since the start.
    pub fn moved(&self) -> (u64, u64) {
        (self.flushed_bytes.load(Relaxed), self.fetched_bytes.load(Relaxed))
    }

    /// Some bytes of a chunk.
    pub async fn read(self: &Arc<Self>, chunk: &Chunk, at: u32, len: u32) -> Result<Bytes> {
        let (first, last) = (at / BLOCK, (at + len - 1) / BLOCK);
        let begin = self.block(chunk, first, None).await?;
        let from = (at - first * BLOCK) as usize;
        if first == last {
            return Ok(begin.slice(from..from + len as usize));
        }
        // An extent is shorter than a block, so it lies in at most two.
        let end = self.block(chunk, last, None).await?;
        let left = len as usize - (begin.len() - from);
        Ok([&begin[from..], &end[..left]].concat().into())
    }

    /// Begins to fetch what will be read soon, if that takes nothing from those who read now.
    pub fn prefetch(self: &Arc<Self>, chunk: Chunk, at: u32) {
        let block = at / BLOCK;
        if !lock(&self.cache).blocks.contains_key(&(chunk.location.clone(), block)) {
            let tier = self.clone();
            let size = chunk.bytes.min((block + 1) * BLOCK) - block * BLOCK;
            let (Ok(turn), Ok(ahead)) = (self.fetches.clone().try_acquire_owned(), self.ahead.clone().try_acquire_many_owned(size)) else { return };
            self.behind.spawn(async move {
                // Whoever needs it tries again and hears what is wrong.
                let _ = tier.block(&chunk, block, Some((turn, ahead))).await;
            });
        }
    }

    /// A block, for someone who reads it, or with what it takes to fetch it ahead.
    async fn block(&self, chunk: &Chunk, block: u32, places: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>) -> Result<Bytes> {
        let Chunk { location, bytes, .. } = chunk;
        let key = (location.to_string(), block);
        let range = u64::from(block * BLOCK)..u64::from((*bytes).min((block + 1) * BLOCK));
        let (turn, ahead) = places.unzip();
        let cell = {
            let mut cache = lock(&self.cache);
            match cache.blocks.get_mut(&key) {
                Some(there) => {
                    if turn.is_none() {
                        there.ahead = None;
                    }
                    there.bytes.clone()
                }
                None => {
                    let there = Block { ahead, ..Block::default() };
                    let (cell, size) = (there.bytes.clone(), (range.end - range.start) as usize);
                    cache.blocks.insert(key.clone(), there);
                    cache.order.push_back((key.clone(), size));
                    cache.bytes += size;
                    while cache.bytes > self.options.cache_bytes
                        && let Some((old, size)) = cache.order.pop_front()
                    {
                        cache.blocks.remove(&old);
                        cache.bytes -= size;
                    }
                    cell
                }
            }
        };
        // Readers of the same block wait for one fetch.
        let wanted = (range.end - range.start) as usize;
        let got = cell
            .get_or_try_init(|| async {
                let _turn = match turn {
                    Some(turn) => turn,
                    None => self.fetches.clone().acquire_owned().await.map_err(|e| Error::Invalid(e.to_string()))?,
                };
                let got = self.home(location)?.read(location, range).await.map_err(storage)?;
                self.fetched_bytes.fetch_add(got.len() as u64, Relaxed);
                match got.len() == wanted {
                    true => Ok(got),
                    false => Err(Error::Spoilt(format!("{location} in long-term storage has {} of {wanted} bytes", got.len()))),
                }
            })
            .await?;
        Ok(got.clone())
    }
}

pub(crate) struct AbortOnDrop<T>(pub JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

const _: () = assert!(EXTENT_BYTES < BLOCK as usize);
