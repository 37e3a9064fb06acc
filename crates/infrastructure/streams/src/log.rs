//! The one log: entries go in, are grouped into blocks while the disk is busy, and come out *landed*, in order, when they are durable.
//!
//! ```text
//!   push ─▶ open block ─▶ a free hand: number, link, checksum, place ─▶ write ─▶ in order: landed ─▶ durable = number
//! ```
//!
//! A hand is a thread with one write under way; blocks are numbered and chained in the order in which they are taken, written side by
//! side, and landed in order again. No timer holds an entry back when nothing is under way. While something is, the next hand starts after
//! a share of the time that a write takes, so that blocks don't become smaller than the disk deserves. Where writes are short, the hand that
//! has ended one takes what has come meanwhile.
//!
//! Whoever pushes may *lend* a hand ([`Log::lending`]): it writes a small block itself, where nothing is under way and writes are short (`log/lent.rs`).
//!
//! Files are *slots* that are used again (`log/slots.rs`); the number in a block's header says which file of the log it belongs to. An entry's payload is
//! placed beside the others of its *group* in the block, so that a reader of one group finds few, long pieces.
//!
//! A write that fails stops the log for good: [`Error::Stopped`] to all who wait and all who come. The log does not know what entries mean,
//! and it never frees a file by itself: [`Log::release`].

mod block;
mod lent;
mod recovery;
mod slots;

pub use block::{BLOCK, crc32c, crc32c_join};
pub use recovery::Recovered;

use crate::{Error, Result, disk::Disk, disk::DiskFile, lock};
use block::Header;
use bytes::Bytes;
use lent::Lent;
use serde::{Deserialize, Serialize};
use slots::Slots;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    io::{self, IoSlice},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// Number of a block, counted from 1 over the log's whole life. An entry is durable when its block and all before it are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Seq(pub u64);

/// Number of a file of the log, counted from 1; a slot on the disk holds one at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FileNo(pub u64);

/// Where a payload lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub file: FileNo,
    pub at: u32,
}

/// Where the chain can be taken up: the block that would come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub log: u64,
    pub epoch: u64,
    pub next: Seq,
    pub link: u32,
    pub file: FileNo,
    pub at: u32,
}

#[derive(Clone, Debug)]
pub struct Options {
    /// Size of a file, bytes. The largest entry must fit into one.
    pub file_bytes: u64,
    /// Most files at a time. When they are all in use, writing waits for one to be released.
    pub files_max: usize,
    /// Writes under way at a time.
    pub hands: usize,
    /// After this long without an entry an empty block says that the last one is durable.
    pub note_after: Duration,
    /// Files that nothing has needed for this long are removed: a long outage of what is behind the log leaves many.
    pub spare_for: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options { file_bytes: 64 << 20, files_max: 160, hands: 4, note_after: Duration::from_millis(20), spare_for: Duration::from_secs(600) }
    }
}

/// A block's entries stop at this many bytes, or at a quarter of a file (a larger entry gets a block of its own).
const BLOCK_BYTES: usize = 4 << 20;
/// From this many bytes on, a block is worth a write of its own however busy the disk is.
const BLOCK_WORTH: usize = 256 << 10;
/// Less time than this between two writes is not worth a timer and another thread's waking.
const SHARE_MIN: Duration = Duration::from_micros(200);
/// Where writes are that short, what comes waits for the one that is under way. One that is late holds it up for no longer than this.
const LATE: Duration = Duration::from_micros(1600);

/// An entry that is on the disk. `note` is what was pushed with it.
pub struct Landed<N> {
    pub note: N,
    pub place: Place,
}

struct Entry<N> {
    head: Vec<u8>,
    data: Bytes,
    group: u64,
    note: N,
}

struct Open<N> {
    seq: Seq,
    bytes: usize,
    since: Instant,
    entries: Vec<Entry<N>>,
}

struct Queue<N> {
    blocks: VecDeque<Open<N>>,
    /// Number of the last block that entries were pushed to, or that was written as a note.
    last: Seq,
    under_way: usize,
    last_start: Instant,
    /// When a hand will look without being rung for: the others sleep meanwhile.
    watch: Option<Instant>,
    /// The last block was a note: nothing more to prove.
    noted: bool,
    /// The open block takes nothing more.
    cut: bool,
    /// Somebody who lends a hand is writing.
    lent: Option<Lent>,
}

/// What the next block needs to know of the one before. Held while a block is laid out, so that blocks follow each other.
struct Chain {
    log: u64,
    epoch: u64,
    link: u32,
    next: Seq,
    file: Option<(FileNo, Arc<dyn DiskFile>)>,
    at: u64,
    last_file: FileNo,
}

/// Blocks that are on the disk while one before them is not.
struct Order<N> {
    next: Seq,
    waiting: BTreeMap<Seq, (Mark, Vec<Landed<N>>)>,
}

/// What is told to those who wait.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    pub durable: Seq,
    pub stopped: Option<Arc<str>>,
}

type Sink<N> = Box<dyn Fn(Mark, Vec<Landed<N>>) + Send + Sync>;

struct Shared<N> {
    disk: Arc<dyn Disk>,
    options: Options,
    queue: Mutex<Queue<N>>,
    bell: Condvar,
    chain: Mutex<Chain>,
    slots: Mutex<Slots>,
    slot_bell: Condvar,
    files: RwLock<HashMap<FileNo, Arc<dyn DiskFile>>>,
    order: Mutex<Order<N>>,
    sink: Sink<N>,
    progress: watch::Sender<Progress>,
    stopped: AtomicBool,
    closing: AtomicBool,
    /// The file that is being written. Beside the chain, whose lock is held while a file is waited for.
    current: AtomicU64,
    queued_bytes: AtomicU64,
    /// Mean time of a write, µs, a running mean over the last few.
    write_us: AtomicU64,
    blocks: AtomicU64,
    block_bytes: AtomicU64,
    full: AtomicBool,
    used: AtomicU64,
    /// Files that could be taken beside those in use as far as the disk has room: ready ones, and new ones.
    disk_left: AtomicU64,
    /// The log's own number, and how often it has been opened.
    identity: (u64, u64),
    /// The first block that this opening writes.
    begun: Seq,
    /// Its hands are run as soon as they have something to do.
    real_time: AtomicBool,
}

/// Handle of the log; dropping it writes what was pushed and stops.
pub struct Log<N: Send + 'static> {
    shared: Arc<Shared<N>>,
    hands: Mutex<Vec<JoinHandle<()>>>,
}

/// Asks that the calling thread is run as soon as it has something to do, as threads of the lowest real-time priority are: yes, if this process may have those.
///
/// A hand sleeps until a block is to be written or the disk has it, works for microseconds (for a large block, or behind a cut the checkpoint of a large state, for milliseconds), and many wait for it.
/// Where the processors are busy, such as with sending history, it would wait for what runs there: 2 ms, ten times what the write takes.
fn comes_first() -> bool {
    let lowest = libc::sched_param { sched_priority: 1 };
    // SAFETY: it reads one structure, which is there; 0 is the calling thread. A refusal leaves the thread as it was.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &lowest) == 0 }
}

impl<N: Send + 'static> Log<N> {
    /// Starts writing after what was recovered. `sink` gets each block's entries when they are durable, in order, one block at a
    /// time, with the mark of the block that comes next.
    pub fn start(recovered: Recovered, sink: impl Fn(Mark, Vec<Landed<N>>) + Send + Sync + 'static) -> Result<Log<N>> {
        let Recovered { disk, options, mark, slots, made, last_file } = recovered;
        let durable = Seq(mark.next.0 - 1);
        // It goes on where the chain ended: what was cut off is overwritten, and its epoch is lower.
        let file = slots.used.get(&mark.file).filter(|_| mark.at > 0).map(|s| (mark.file, s.file.clone()));
        let disk_left = slots.disk_left(&options, disk.free());
        let files = slots.used.iter().map(|(no, slot)| (*no, slot.file.clone())).collect();
        let shared = Arc::new(Shared {
            disk,
            queue: Mutex::new(Queue {
                blocks: VecDeque::new(),
                last: durable,
                under_way: 0,
                last_start: Instant::now(),
                watch: None,
                noted: false,
                cut: false,
                lent: None,
            }),
            bell: Condvar::new(),
            chain: Mutex::new(Chain { log: mark.log, epoch: mark.epoch + 1, link: mark.link, next: mark.next, file, at: mark.at.into(), last_file }),
            used: AtomicU64::new(slots.used.len() as u64),
            disk_left: AtomicU64::new(disk_left),
            slots: Mutex::new(Slots { made, ..slots }),
            slot_bell: Condvar::new(),
            files: RwLock::new(files),
            order: Mutex::new(Order { next: mark.next, waiting: BTreeMap::new() }),
            sink: Box::new(sink),
            progress: watch::Sender::new(Progress { durable, stopped: None }),
            stopped: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            current: AtomicU64::new(last_file.0),
            queued_bytes: AtomicU64::new(0),
            write_us: AtomicU64::new(1000),
            blocks: AtomicU64::new(0),
            block_bytes: AtomicU64::new(0),
            full: AtomicBool::new(false),
            identity: (mark.log, mark.epoch + 1),
            begun: mark.next,
            real_time: AtomicBool::new(false),
            options,
        });
        let spawn = |name: String, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name).spawn(work).map_err(Error::file("start a thread for", "the log"))
        };
        let mut hands = Vec::new();
        for i in 0..shared.options.hands.max(1) {
            let shared = shared.clone();
            hands.push(spawn(format!("log-{i}"), Box::new(move || shared.hand()))?);
        }
        let ahead = shared.clone();
        hands.push(spawn("log-slots".into(), Box::new(move || ahead.prepare()))?);
        Ok(Log { shared, hands: Mutex::new(hands) })
    }

    /// Adds an entry to the open block and says which block that is. The caller's lock decides the order.
    pub fn push(&self, head: Vec<u8>, data: Bytes, group: u64, note: N) -> Result<Seq> {
        let shared = &*self.shared;
        let bytes = block::ENTRY + head.len() + data.len();
        let limit = shared.options.file_bytes - 2 * BLOCK;
        if bytes as u64 > limit {
            return Err(Error::TooLarge { what: "an entry of the log".into(), limit, wanted: bytes as u64 });
        }
        if shared.stopped.load(Relaxed) {
            return Err(self.why());
        }
        shared.queued_bytes.fetch_add(bytes as u64, Relaxed);
        let mut queue = lock(&shared.queue);
        let block = BLOCK_BYTES.min(shared.options.file_bytes as usize / 4);
        let fits = !queue.cut && queue.blocks.back().is_some_and(|b| b.bytes + bytes <= block);
        if !fits {
            let seq = Seq(queue.last.0 + 1);
            queue.last = seq;
            queue.cut = false;
            queue.blocks.push_back(Open { seq, bytes: 0, since: Instant::now(), entries: Vec::new() });
        }
        let open = queue.blocks.back_mut().expect("one was pushed if there was none");
        let worth = open.bytes < BLOCK_WORTH && open.bytes + bytes >= BLOCK_WORTH;
        open.bytes += bytes;
        open.entries.push(Entry { head, data, group, note });
        let seq = open.seq;
        let is_small = queue.blocks.len() == 1 && bytes_of(&queue) < BLOCK_WORTH;
        let rings = (!fits || worth) && shared.rings(&queue);
        drop(queue);
        if !(is_small && shared.is_lent()) && rings {
            shared.bell.notify_one();
        }
        Ok(seq)
    }

    /// The number of the last block that anything was pushed to: waiting for it waits for everything so far.
    pub fn last(&self) -> Seq {
        lock(&self.shared.queue).last
    }

    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.shared.progress.subscribe()
    }

    pub fn durable(&self) -> Seq {
        self.shared.progress.borrow().durable
    }

    fn why(&self) -> Error {
        Error::Stopped(self.shared.progress.borrow().stopped.clone().unwrap_or_else(|| "it is closing".into()))
    }

    /// Waits until a block and all before it are durable.
    pub async fn wait(&self, seq: Seq) -> Result<()> {
        let mut progress = self.progress();
        let now = progress.wait_for(|p| p.durable >= seq || p.stopped.is_some()).await;
        match now {
            Ok(p) if p.durable >= seq => Ok(()),
            _ => Err(self.why()),
        }
    }

    /// An error when nothing is written any more.
    pub(crate) fn running(&self) -> Result<()> {
        if self.shared.stopped.load(Relaxed) { Err(self.why()) } else { Ok(()) }
    }

    /// Waits until less than `limit` bytes are on their way to the disk.
    pub async fn room(&self, limit: u64) -> Result<()> {
        if self.queued_bytes() < limit {
            return Ok(());
        }
        let mut progress = self.progress();
        loop {
            if progress.borrow_and_update().stopped.is_some() {
                return Err(self.why());
            }
            if self.queued_bytes() < limit {
                return Ok(());
            }
            if progress.changed().await.is_err() {
                return Err(self.why());
            }
        }
    }

    /// Bytes pushed and not durable.
    pub fn queued_bytes(&self) -> u64 {
        self.shared.queued_bytes.load(Relaxed)
    }

    /// Writing waits for a released file or for space on the disk.
    pub fn is_full(&self) -> bool {
        self.shared.full.load(Relaxed)
    }

    /// Blocks written since the start, and their bytes with padding.
    pub fn written(&self) -> (u64, u64) {
        (self.shared.blocks.load(Relaxed), self.shared.block_bytes.load(Relaxed))
    }

    /// Mean time of a write of late, µs.
    pub fn write_us(&self) -> u64 {
        self.shared.write_us.load(Relaxed)
    }

    /// A file, to read from. It is not used again as long as someone holds it.
    pub fn file(&self, no: FileNo) -> Option<Arc<dyn DiskFile>> {
        self.shared.files.read().unwrap_or_else(|e| e.into_inner()).get(&no).cloned()
    }

    /// How many files are in use.
    pub fn files_used(&self) -> usize {
        self.shared.used.load(Relaxed) as usize
    }

    /// How many more may be.
    pub fn files_left(&self) -> usize {
        self.shared.options.files_max.saturating_sub(self.files_used())
    }

    /// How many more could be, as far as the disk has room; a file's worth is left to checkpoints.
    pub fn disk_left(&self) -> usize {
        self.shared.disk_left.load(Relaxed) as usize
    }

    /// Removes a file that is kept ready, so that the disk has its space.
    pub(crate) fn give_back(&self) {
        self.shared.give_back(1);
    }

    /// The files in use, oldest first, and the size of each.
    pub fn files(&self) -> (Vec<FileNo>, u64) {
        (lock(&self.shared.slots).used.keys().copied().collect(), self.shared.options.file_bytes)
    }

    /// Its hands are threads that other work does not hold up: this process may have real-time priority.
    pub fn is_real_time(&self) -> bool {
        self.shared.real_time.load(Relaxed)
    }

    /// The first block that this opening writes: those before were found.
    pub fn begun(&self) -> Seq {
        self.shared.begun
    }

    /// The log's own number, and how often it has been opened.
    pub fn identity(&self) -> (u64, u64) {
        self.shared.identity
    }

    /// Nothing is written any more, for a reason that the log can't know.
    pub fn stop(&self, why: &str) {
        self.shared.stop(why.into());
    }

    /// Closes the open block: what is pushed from now on comes after it. Returns its number.
    pub fn cut(&self) -> Seq {
        let mut queue = lock(&self.shared.queue);
        queue.cut = true;
        queue.last
    }

    /// Nothing of this file is needed any more: its slot is used again. The file that is being written can't be released.
    pub fn release(&self, no: FileNo) {
        if no.0 >= self.shared.current.load(Relaxed) {
            return;
        }
        self.shared.files.write().unwrap_or_else(|e| e.into_inner()).remove(&no);
        let mut slots = lock(&self.shared.slots);
        let Some(slot) = slots.used.remove(&no) else { return };
        self.shared.used.store(slots.used.len() as u64, Relaxed);
        if slot.file.bytes() == self.shared.options.file_bytes {
            slots.free.push(slot);
        } else if let Err(e) = self.shared.disk.remove(&slot.name) {
            tracing::warn!(error = %e, name = %slot.name, "a file of another size than files have now stays behind");
        }
        self.shared.slot_bell.notify_all();
    }

    /// Writes what was pushed, then ends the threads.
    pub fn close(&self) {
        let shared = &*self.shared;
        // Under the lock, so that no hand looks before and waits after.
        let queue = lock(&shared.queue);
        shared.closing.store(true, Relaxed);
        drop(queue);
        shared.bell.notify_all();
        // Nor whoever makes a file.
        drop(lock(&shared.slots));
        shared.slot_bell.notify_all();
        let mut threads = std::mem::take(&mut *lock(&self.hands));
        let ahead = threads.pop();
        for hand in threads {
            let _ = hand.join();
        }
        shared.stop("it is closed".into());
        // Nor does anyone write who has lent a hand.
        let mut queue = lock(&shared.queue);
        while queue.lent.is_some() {
            queue = shared.bell.wait(queue).unwrap_or_else(|e| e.into_inner());
        }
        drop(queue);
        if let Some(ahead) = ahead {
            let _ = ahead.join();
        }
    }
}

impl<N: Send + 'static> Drop for Log<N> {
    fn drop(&mut self) {
        self.close();
    }
}

/// A hand that is lost must not leave those that wait for it waiting.
struct StopsIfLost<'a, N: Send + 'static> {
    shared: &'a Shared<N>,
    /// It was lost before, for something else.
    lost_before: bool,
}

impl<'a, N: Send + 'static> StopsIfLost<'a, N> {
    fn new(shared: &'a Shared<N>) -> StopsIfLost<'a, N> {
        StopsIfLost { shared, lost_before: std::thread::panicking() }
    }
}

impl<N: Send + 'static> Drop for StopsIfLost<'_, N> {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.lost_before {
            self.shared.stop("a fault in this program; see the log".into());
        }
    }
}

/// Of the block that is next.
fn bytes_of<N>(queue: &Queue<N>) -> usize {
    queue.blocks.front().map_or(0, |block| block.bytes)
}

enum Step {
    End,
    /// Until the bell rings, or, if there is one, this time comes.
    Wait(Option<Instant>),
    /// An empty block tells which ones before it are durable.
    Note,
    Take,
    /// Who has lent a hand has stood still with the disk for long.
    Relieve,
}

/// A block with its place, ready to be written.
struct Laid<N> {
    seq: Seq,
    bytes: usize,
    file: Arc<dyn DiskFile>,
    at: u64,
    front: Vec<u8>,
    data: Vec<Bytes>,
    padding: usize,
    landed: Vec<Landed<N>>,
    mark: Mark,
}

impl<N: Send + 'static> Shared<N> {
    fn stop(&self, why: Arc<str>) {
        // Under the locks, so that nobody looks before and waits after.
        let (queue, slots) = (lock(&self.queue), lock(&self.slots));
        self.stopped.store(true, Relaxed);
        drop((queue, slots));
        self.progress.send_if_modified(|p| {
            let first = p.stopped.is_none();
            if first {
                p.stopped = Some(why.clone());
            }
            first
        });
        self.bell.notify_all();
        self.slot_bell.notify_all();
    }

    fn hand(&self) {
        self.real_time.fetch_or(comes_first(), Relaxed);
        let _lost = StopsIfLost::new(self);
        while let Some(laid) = self.lay_next() {
            if !self.finish(laid) {
                return;
            }
        }
    }

    /// Writes a block, if it has its place. A failure stops the log: then it is false.
    fn finish(&self, laid: io::Result<Laid<N>>) -> bool {
        let done = laid.and_then(|laid| self.write(laid));
        if let Err(e) = &done {
            tracing::error!(error = %e, "the log stops");
            self.stop(e.to_string().into());
        }
        done.is_ok()
    }

    /// Whether there is something to do that no hand is awake for, or wakes up for in time. Each ring is a thread that wakes up.
    fn rings(&self, queue: &Queue<N>) -> bool {
        match self.step(queue) {
            Step::Take | Step::Relieve => true,
            Step::Note => queue.watch.is_none(),
            Step::Wait(Some(due)) => queue.watch.is_none_or(|watch| due < watch),
            Step::End | Step::Wait(None) => false,
        }
    }

    /// What a hand should do now.
    fn step(&self, queue: &Queue<N>) -> Step {
        if self.stopped.load(Relaxed) {
            return Step::End;
        }
        let now = Instant::now();
        let long = queue.lent.as_ref().and_then(Lent::long);
        if long.is_some_and(|due| now >= due) {
            return Step::Relieve;
        }
        match self.step_for_blocks(queue, now) {
            Step::Wait(due) => Step::Wait(due.into_iter().chain(long).min()),
            step => step,
        }
    }

    fn step_for_blocks(&self, queue: &Queue<N>, now: Instant) -> Step {
        let idle = queue.under_way == 0;
        match queue.blocks.front() {
            None if self.closing.load(Relaxed) => Step::End,
            None if idle && !queue.noted => {
                let due = queue.last_start + self.options.note_after;
                if now >= due { Step::Note } else { Step::Wait(Some(due)) }
            }
            None => Step::Wait(None),
            Some(front) => {
                if idle || front.bytes >= BLOCK_WORTH || queue.blocks.len() > 1 {
                    return Step::Take;
                }
                let write = Duration::from_micros(self.write_us.load(Relaxed));
                let share = if write < SHARE_MIN * 2 { LATE } else { (write / self.options.hands.max(1) as u32).max(SHARE_MIN) };
                let due = queue.last_start.max(front.since) + share;
                if now >= due { Step::Take } else { Step::Wait(Some(due)) }
            }
        }
    }

    /// Takes the next block when it is time for it and gives it its place. `None` when the log ends.
    fn lay_next(&self) -> Option<io::Result<Laid<N>>> {
        loop {
            let mut queue = lock(&self.queue);
            match self.step(&queue) {
                Step::End => return None,
                Step::Wait(Some(due)) if queue.watch.is_none_or(|watch| due < watch) => {
                    queue.watch = Some(due);
                    let time = due.saturating_duration_since(Instant::now());
                    let mut queue = self.bell.wait_timeout(queue, time).unwrap_or_else(|e| e.into_inner()).0;
                    // Another hand may have come to watch for something sooner.
                    queue.watch = queue.watch.filter(|watch| *watch != due);
                    continue;
                }
                Step::Wait(_) => {
                    drop(self.bell.wait(queue));
                    continue;
                }
                Step::Relieve => {
                    let runtime = queue.lent.as_mut().and_then(|lent| lent.runtime.take());
                    drop(queue);
                    // It may have been the one that looks for what has come, which nobody else does before it is woken.
                    if let Some(runtime) = runtime {
                        runtime.spawn(async {});
                    }
                    continue;
                }
                Step::Note | Step::Take => drop(queue),
            }
            // The chain's lock is taken before the queue's, so that blocks are laid out in the order in which they are taken. Not the other way round: it may be held
            // until a file becomes free, and meanwhile others push what makes one free.
            let chain = lock(&self.chain);
            let mut queue = lock(&self.queue);
            queue.noted = match self.step(&queue) {
                Step::Take => false,
                Step::Note => {
                    let seq = Seq(queue.last.0 + 1);
                    queue.last = seq;
                    queue.blocks.push_back(Open { seq, bytes: 0, since: Instant::now(), entries: Vec::new() });
                    true
                }
                // Another hand was there before.
                Step::Wait(_) | Step::Relieve | Step::End => continue,
            };
            queue.under_way += 1;
            queue.last_start = Instant::now();
            let open = queue.blocks.pop_front()?;
            let more = !queue.blocks.is_empty();
            drop(queue);
            if more {
                self.bell.notify_one();
            }
            return Some(self.lay(chain, open));
        }
    }

    fn lay(&self, mut chain: MutexGuard<'_, Chain>, open: Open<N>) -> io::Result<Laid<N>> {
        assert_eq!(open.seq, chain.next, "blocks are laid out in order");
        let heads: usize = open.entries.iter().map(|e| block::ENTRY + e.head.len()).sum();
        let payload: usize = open.entries.iter().map(|e| e.data.len()).sum();
        let whole = block::padded(block::HEADER + heads + payload);
        if chain.file.as_ref().is_none_or(|(_, file)| chain.at + whole as u64 > file.bytes()) {
            let no = FileNo(chain.last_file.0 + 1);
            let slot = self.take_slot(no)?;
            chain.last_file = no;
            self.current.store(no.0, Relaxed);
            chain.file = Some((no, slot));
            chain.at = 0;
        }
        let (no, file) = chain.file.clone().expect("it was just set if there was none");
        // Payloads of a group lie beside each other, groups in the order of their first entry.
        let mut groups: HashMap<u64, (usize, usize)> = HashMap::new();
        for entry in &open.entries {
            let next = groups.len();
            groups.entry(entry.group).or_insert((next, 0)).1 += entry.data.len();
        }
        let mut sizes: Vec<(usize, u64, usize)> = groups.iter().map(|(g, (order, size))| (*order, *g, *size)).collect();
        sizes.sort_unstable();
        let mut start = 0;
        let mut cursor: HashMap<u64, usize> = HashMap::with_capacity(sizes.len());
        for (_, group, size) in sizes {
            cursor.insert(group, start);
            start += size;
        }
        let mut front = vec![0; block::HEADER];
        front.reserve(heads);
        let mut placed: Vec<(usize, Bytes)> = Vec::with_capacity(open.entries.len());
        let mut landed = Vec::with_capacity(open.entries.len());
        let entries = open.entries.len();
        let base = chain.at as usize + block::HEADER + heads;
        for entry in open.entries {
            let at = cursor.get_mut(&entry.group).expect("each entry's group was counted");
            block::put_entry(&mut front, &entry.head, entry.data.len(), *at);
            landed.push(Landed { note: entry.note, place: Place { file: no, at: (base + *at) as u32 } });
            if !entry.data.is_empty() {
                placed.push((*at, entry.data.clone()));
            }
            *at += entry.data.len();
        }
        placed.sort_unstable_by_key(|(at, _)| *at);
        let data: Vec<Bytes> = placed.into_iter().map(|(_, d)| d).collect();
        let header = Header {
            log: chain.log,
            epoch: chain.epoch,
            file: no,
            seq: open.seq,
            durable: self.progress.borrow().durable,
            link: chain.link,
            heads: heads as u32,
            data: payload as u32,
            entries: entries as u32,
        };
        let crc = header.seal(&mut front, &data);
        let at = chain.at;
        chain.link = crc;
        chain.next = Seq(open.seq.0 + 1);
        chain.at += whole as u64;
        Ok(Laid {
            seq: open.seq,
            bytes: open.bytes,
            file,
            at,
            front,
            data,
            padding: whole - block::HEADER - heads - payload,
            landed,
            mark: Mark { log: chain.log, epoch: chain.epoch, next: chain.next, link: crc, file: no, at: chain.at as u32 },
        })
    }

    fn write(&self, laid: Laid<N>) -> io::Result<()> {
        let zeros = [0; BLOCK as usize];
        let whole = laid.front.len() + laid.data.iter().map(Bytes::len).sum::<usize>() + laid.padding;
        let mut parts = Vec::with_capacity(laid.data.len() + 2);
        parts.push(IoSlice::new(&laid.front));
        parts.extend(laid.data.iter().map(|d| IoSlice::new(d)));
        parts.push(IoSlice::new(&zeros[..laid.padding]));
        let start = Instant::now();
        laid.file.write(laid.at, &mut parts)?;
        let took = start.elapsed().as_micros() as u64;
        // Only one update is lost when two hands do this at once.
        let mean = self.write_us.load(Relaxed);
        self.write_us.store((mean * 7 + took) / 8, Relaxed);
        self.blocks.fetch_add(1, Relaxed);
        self.block_bytes.fetch_add(whole as u64, Relaxed);
        drop(parts);
        // Before it is told, so that those who wait for room find it.
        self.queued_bytes.fetch_sub(laid.bytes as u64, Relaxed);
        {
            let mut order = lock(&self.order);
            order.waiting.insert(laid.seq, (laid.mark, laid.landed));
            let mut durable = None;
            loop {
                let next = order.next;
                let Some((mark, landed)) = order.waiting.remove(&next) else { break };
                (self.sink)(mark, landed);
                durable = Some(next);
                order.next = Seq(next.0 + 1);
            }
            // Told under the lock, so that it only grows.
            if let Some(durable) = durable {
                self.progress.send_modify(|p| p.durable = durable);
            }
        }
        lock(&self.queue).under_way -= 1;
        // This hand takes what has come meanwhile. While it closes, all of them wait for the last write to end.
        if self.closing.load(Relaxed) {
            self.bell.notify_all();
        }
        Ok(())
    }
}
