//! Long-term storage: bytes leave the log as immutable chunks in a folder or S3, and come back through a bounded cache.
//!
//! ```text
//!   extents in the log ─▶ one chunk, 4 to 16 MiB, or what is 30 s old ─▶ put, compared ─▶ record `Flushed` ─▶ extents in the chunk
//! ```
//!
//! A chunk's name has a random part and is never used twice, so nothing is overwritten, whoever else writes there. A chunk ends where an append does. The
//! catalogue of chunks is the state itself: log and checkpoints, and every now and then a copy beside the chunks, the [`manifest`]. Its numbered names are
//! also the fence: who finds the next number taken has been replaced, and stops. A chunk is removed when neither an extent nor one of the two manifests that
//! stay points into it, nobody reads from it, and some time has passed; one of the overflow, of which no manifest knows, as soon as nobody needs it.
//!
//! Reading history and bringing it there cost a processor much: bytes over a socket, copies, checksums. There is a runtime of its own for that, whose threads give way to
//! those that appends wait for.
//!
//! While the storage is away or full, nothing happens here except a try now and then, beginning with what can be removed: bytes stay in the log, which readers read. What the log may
//! hold is the store's bound, and at that bound appends wait. Before, chunks go to the [`overflow`](crate::overflow), if there is one, as far as its limit; they are
//! moved on when the storage is back. So it is when the storage is silent for some seconds in the middle of something.
//!
//! Here is what readers get from there; [`flusher`] brings it there, and [`damage`] is what the log, or the overflow, can't give.

mod damage;
mod flusher;
mod spare;

pub use damage::Damage;
pub(crate) use damage::Failed;

use self::{
    damage::{Damaged, Examining, Lost, Spoilt},
    flusher::Asked,
    spare::Spare,
};
use crate::{
    Error, Result, Store, lock,
    overflow::{self, Overflow},
    segment::{Chunk, EXTENT_BYTES, SegmentId},
};
use base::{Kind, behind::Behind};
use bytes::Bytes;
use geds::Persist;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::Range,
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
/// Who reads less of a block than this has a copy of it, and does not keep the block in memory for it.
const LENT: usize = 256 << 10;
type Key = (String, u32);

/// A block's bytes, with their place among those that are lent, if they have one.
struct Bound {
    bytes: Bytes,
    _place: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Bound {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Bytes of a block, and whether parts of them may be kept by who reads them, for as long as a client takes.
#[derive(Clone)]
struct Fetched {
    bytes: Bytes,
    lent: bool,
}

impl Fetched {
    fn part(&self, range: Range<usize>) -> Bytes {
        match self.lent && range.len() >= LENT {
            true => self.bytes.slice(range),
            false => Bytes::copy_from_slice(&self.bytes[range]),
        }
    }
}

/// A block in memory, or on its way there.
#[derive(Default)]
struct Block {
    fetched: Arc<OnceCell<Fetched>>,
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
    lost: Mutex<Lost>,
    spoilt: Mutex<Spoilt>,
    /// Not flushed until it is known what of them can't be read.
    examining: Examining,
    /// Flushed meanwhile: what is read again is left out.
    examining_again: Examining,
    /// Runs of extents of which someone makes a chunk: segment and begin, end.
    under_way: Mutex<BTreeMap<(SegmentId, u64), u64>>,
    fetches: Arc<Semaphore>,
    /// Half of the cache: so much of it may have been fetched ahead and not been read yet, in bytes.
    ahead: Arc<Semaphore>,
    /// The bytes of blocks that may be lent, as many as the cache has, and those in it are among them. What readers have not given back is not: while that is much, they get copies of what comes.
    lent: Arc<Semaphore>,
    /// Where history is read.
    behind: Behind,
    spare: Spare,
}

/// Of those that read history and bring it away: not more than half of the processors. What they do hand to each other would cost more than they do: with two of them on two processors a
/// reader of history took 1.4 times as much of both, and had 370 MB/s instead of 470.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| (n.get() / 2).max(1))
}

/// What a task came to.
async fn ended<T>(task: &mut JoinHandle<Result<T>>) -> Result<T> {
    task.await.map_err(|e| Error::Invalid(format!("work for long-term storage ended early: {e}")))?
}

fn storage(e: geds::Error) -> Error {
    Error::Storage(Arc::new(e))
}

impl Tier {
    pub fn new(persist: Persist, overflow: Option<Overflow>, options: Options) -> Tier {
        let places = |bytes: usize| Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS)));
        let (ahead, lent) = (places(options.cache_bytes / 2), places(options.cache_bytes));
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
            lost: Mutex::default(),
            spoilt: Mutex::default(),
            examining: Examining::default(),
            examining_again: Examining::default(),
            under_way: Mutex::default(),
            fetches: Arc::new(Semaphore::new(FETCHES)),
            ahead,
            lent,
            behind: Behind::new("long-term", threads()),
            spare: Spare::default(),
        }
    }

    /// Does something where it holds up no append.
    pub(crate) async fn aside<T: Send + 'static>(&self, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        // Who does not wait any more does not need it.
        ended(&mut AbortOnDrop(self.behind.spawn(work)).0).await
    }

    /// Does what makes room in the log: aside, as long as there is some. Writers that wait for it would wait for all that this machine does besides if it gave way to that, so it ceases to before they do.
    async fn relieving<T: Send + 'static>(&self, store: &Store, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        if !store.is_filling() {
            return self.aside(work).await;
        }
        ended(&mut AbortOnDrop(tokio::spawn(work)).0).await
    }

    /// The storage did not answer the last time, or took nothing.
    pub fn is_away(&self) -> bool {
        lock(&self.away).is_some()
    }

    /// Why, and what helps, if it is so.
    pub fn why_away(&self) -> Option<String> {
        let known = lock(&self.away).as_ref().map(|away| away.why.clone());
        known.or_else(|| self.is_silent().then(|| format!("{} has not answered for some seconds; it is asked further", self.persist)))
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
        let end = at + len;
        if end > chunk.bytes {
            return Err(Error::Spoilt(format!("{} in long-term storage has {} bytes, and those up to {end} are asked for", chunk.location, chunk.bytes)));
        }
        let (first, last) = (at / BLOCK, (end - 1) / BLOCK);
        let within = |block: u32| (at.max(block * BLOCK) - block * BLOCK) as usize..(end.min((block + 1) * BLOCK) - block * BLOCK) as usize;
        if first == last {
            return Ok(self.block(chunk, first, None).await?.part(within(first)));
        }
        let mut out = Vec::with_capacity(len as usize);
        for block in first..=last {
            out.extend_from_slice(&self.block(chunk, block, None).await?.bytes[within(block)]);
        }
        Ok(out.into())
    }

    /// Keeps nothing of a chunk in memory.
    fn forget(&self, location: &str) {
        let mut cache = lock(&self.cache);
        let Cache { blocks, order, bytes } = &mut *cache;
        blocks.retain(|(of, _), _| of != location);
        order.retain(|((of, _), size)| {
            let stays = of != location;
            *bytes -= if stays { 0 } else { *size };
            stays
        });
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
    async fn block(&self, chunk: &Chunk, block: u32, places: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>) -> Result<Fetched> {
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
                    there.fetched.clone()
                }
                None => {
                    let there = Block { ahead, ..Block::default() };
                    let (cell, size) = (there.fetched.clone(), (range.end - range.start) as usize);
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
                if got.len() != wanted {
                    return Err(Error::Spoilt(format!("{location} in long-term storage has {} of {wanted} bytes", got.len())));
                }
                Ok(match self.lent.clone().try_acquire_many_owned(wanted as u32) {
                    Ok(place) => Fetched { bytes: Bytes::from_owner(Bound { bytes: got, _place: place }), lent: true },
                    Err(_) => Fetched { bytes: got, lent: false },
                })
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

const _: () = assert!(EXTENT_BYTES < BLOCK as usize);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{segment::Record, store};

    /// Writers stood for up to 33 s where compilers had both processors, and what made room gave way to those.
    #[tokio::test]
    async fn what_makes_room_gives_way_while_there_is_enough_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let tier = Tier::new(Persist::folder(folder.path()).unwrap(), None, Options::default());
        // SAFETY: it takes numbers only; 0 is the calling thread.
        let nice = || unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        let own = nice();
        const BYTES: u64 = 30_000;
        for (backlog_max, gives_way, waits) in [(BYTES * 2, true, false), (BYTES * 5 / 4, false, false), (BYTES, false, true)] {
            let disk = crate::disk::Folder::open(folder.path().join(backlog_max.to_string())).unwrap();
            let log = crate::log::Options { file_bytes: 1 << 20, ..Default::default() };
            let store = Store::open(Arc::new(disk), store::Options { log, backlog_max, ..Default::default() }).unwrap();
            let _ = store.commit(|s| Ok((Some(Record::Create { id: s.new_id(0), name: "a".into(), table: false, at_ms: 1 }), ())));
            let append = store::Append { segment: "a", writer: 1, event: 0, events: 1, expected: None, data: vec![1; BYTES as usize].into() };
            store.settle(store.append(append)).await.unwrap();
            assert_eq!(store.short_of().is_some(), waits);
            let there = tier.relieving(&store, async move { Ok(nice()) }).await.unwrap();
            assert_eq!(there > own, gives_way, "{there} beside {own}");
            store.close();
        }
    }

    #[tokio::test]
    async fn what_readers_keep_of_blocks_is_bounded_and_then_they_have_copies() {
        let folder = tempfile::tempdir().unwrap();
        let persist = Persist::folder(folder.path()).unwrap();
        let byte = |at: usize| (at / 1000) as u8;
        let content: Bytes = (0..4 * BLOCK as usize).map(byte).collect::<Vec<_>>().into();
        assert!(persist.create("chunk", content.clone()).await.unwrap());
        let chunk = Chunk::new("chunk".into(), content.len() as u32, SegmentId(1));
        let tier = Arc::new(Tier::new(persist, None, Options { cache_bytes: 2 * BLOCK as usize, ..Options::default() }));
        let free = || tier.lent.available_permits() / BLOCK as usize;
        let read = async |block: u32, len: u32| {
            let at = block * BLOCK + 5;
            let got = tier.read(&chunk, at, len).await.unwrap();
            assert!(got == content.slice(at as usize..(at + len) as usize), "{len} bytes at {at}");
            got
        };
        let first = read(0, 1 << 20).await;
        assert_eq!(free(), 1);
        let second = read(1, 1 << 20).await;
        assert_eq!(free(), 0);
        // The cache has given up both of them, and who has read them still has them.
        let copies = [read(2, 1 << 20).await, read(3, 1 << 20).await];
        assert_eq!((free(), tier.cached_bytes()), (0, 2 * BLOCK as usize));
        drop(first);
        assert_eq!(free(), 1);
        drop(copies);
        assert_eq!(free(), 1);
        drop(second);
        assert_eq!(free(), 2);
        // Few bytes keep nothing but themselves, and over the end of a block there is a copy.
        let (few, many) = (read(0, 1000).await, read(0, 1 << 20).await);
        assert_eq!(free(), 1, "the block in the cache");
        let block = tier.block(&chunk, 0, None).await.unwrap().bytes.as_ptr_range();
        assert!(block.contains(&many.as_ptr()) && !block.contains(&few.as_ptr()));
        let across = tier.read(&chunk, BLOCK - 10, 2 * BLOCK + 20).await.unwrap();
        assert!(across == content.slice(BLOCK as usize - 10..3 * BLOCK as usize + 10));
        let beyond = tier.read(&chunk, 4 * BLOCK - 10, 11).await.unwrap_err();
        assert!(matches!(&beyond, Error::Spoilt(why) if why.contains("16777217")), "{beyond}");
    }
}
