//! The store: one lock over the state, the log behind it, and the output rule.
//!
//! Every change is [`Store::commit`]: look at the state, decide, push the record, apply it. What comes back is [`Gated`]: the result and the block
//! that must be durable before anyone may hear of it, errors included, for an error may tell of a change that is not durable yet.
//!
//! Reads of bytes see what has landed and wait for nothing but more of it. A checkpoint needs no pause: see the design note.

mod checkpoint;
mod read;

pub(crate) use checkpoint::{Checkpoint, Unread};
pub use read::{READ_MAX, Read};

use crate::{
    Error, Result,
    disk::Disk,
    lock,
    log::{self, FileNo, Log, Mark, Recovered, Seq},
    metrics::Metrics,
    segment::{self, Physical, Record, SegmentId, State},
    tier::Tier,
};
use bytes::Bytes;
use checkpoint::decided;
use serde::Serialize;
use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

#[derive(Clone, Debug)]
pub struct Options {
    pub log: log::Options,
    /// Bytes on their way to the disk, over all connections; at this many, appends wait.
    pub queued_max: u64,
    /// Bytes that only the log has; at this many, or when nearly all of the log's files are in use, or when the disk has no room for more of them, appends
    /// wait for long-term storage.
    pub backlog_max: u64,
    /// Keys and values of all tables, with what it takes to find them; updates that want more are refused.
    pub table_bytes_max: u64,
    /// A checkpoint is taken after this many bytes of the log.
    pub checkpoint_bytes: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            log: log::Options::default(),
            queued_max: 64 << 20,
            backlog_max: 8 << 30,
            table_bytes_max: 256 << 20,
            checkpoint_bytes: 64 << 20,
        }
    }
}

/// Memory for the parts of commands that have not come as a whole, of these the ends of blocks, and for bytes that readers have not taken, over all connections.
const COMMANDS_BYTES: usize = 256 << 20;
const ENDS_BYTES: usize = 64 << 20;
const READS_BYTES: usize = 128 << 20;
/// Reads that wait at the tail of a segment, over all connections, of some kB each.
const TAILS_MAX: usize = 32 << 10;
/// Memory for what connections know of the writers that they have set up, over all of them.
const SETUPS_BYTES: usize = 128 << 20;
/// What a writer costs a connection beside the name of its segment, with its [`Turn`].
const SETUP: usize = 250;
/// Files that appends leave to what is on its way and to the flusher's records: without those, no file would ever become free.
const FILES_KEPT: usize = 6;
/// Of these, so many must be there or have room on the disk.
const DISK_KEPT: usize = 3;
/// How often it is told that writers wait for long-term storage.
const FULL_AGAIN: Duration = Duration::from_secs(60);
/// How often the housekeeping thread looks at what there is to do.
const TICK: Duration = Duration::from_millis(100);
/// Says in the log's folder that another server has gone on from a copy of it: with each start this log would count one opening more, and take back what is that one's.
const BARRED: &str = "fenced";
/// Two files are written in turn, so that one is always whole.
const CHECKPOINTS: [&str; 2] = ["checkpoint-a", "checkpoint-b"];

/// A result that may be told when block `seq` is durable.
#[must_use = "nothing may be told before its block is durable"]
pub struct Gated<T> {
    pub seq: Seq,
    pub result: Result<T>,
}

/// A connection's right to append as a writer to a segment, until the writer sets up appends over another connection: what is still on its way over the first
/// one then would come between what the writer sends again, cut into other blocks.
pub(crate) struct Turn {
    turns: Arc<Turns>,
    of: (SegmentId, u128),
    over: Arc<AtomicBool>,
}

/// Whose turn it is, by segment and writer; as many as connections have set up.
type Turns = Mutex<HashMap<(SegmentId, u128), Arc<AtomicBool>>>;

impl Turn {
    /// Another connection has it now.
    pub fn is_over(&self) -> bool {
        self.over.load(Relaxed)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut turns = lock(&self.turns);
        if turns.get(&self.of).is_some_and(|over| Arc::ptr_eq(over, &self.over)) {
            turns.remove(&self.of);
        }
    }
}

/// A place in memory, until it is dropped.
pub type Held = Arc<Vec<OwnedSemaphorePermit>>;

#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    log: Log<Physical>,
    options: Options,
    disk: Arc<dyn Disk>,
    housekeeper: Mutex<Option<JoinHandle<()>>>,
    closing: AtomicBool,
    /// In bytes.
    commands: Arc<Semaphore>,
    ends: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    /// Bytes of replies to clients, over all connections, that have no place there.
    replies: Arc<AtomicUsize>,
    tails: Arc<Semaphore>,
    setups: Arc<Semaphore>,
    turns: Arc<Turns>,
}

struct Shared {
    state: Mutex<State>,
    checkpoint: Mutex<Checkpointing>,
    tier: OnceLock<Arc<Tier>>,
    /// Rung when the backlog has become smaller.
    drained: Notify,
    /// Rung when someone begins to wait for that.
    full: Notify,
    /// That the disk is nearly full has been said.
    short: AtomicBool,
    /// When it was told the last time that writers wait for long-term storage.
    told_full: Mutex<Option<Instant>>,
    backlog_max: u64,
    metrics: Metrics,
    rate: Mutex<Rate>,
}

/// Bytes appended per second, a mean that forgets.
struct Rate {
    at: Instant,
    bytes: u64,
    mean: f64,
}

/// What would happen if long-term storage were away from now on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outage {
    /// Bytes that long-term storage does not have, and how many there may be: in the log the bound that was set, or what the disk has room for; and in the overflow.
    pub backlog_bytes: u64,
    pub backlog_max: u64,
    /// Bytes appended per second of late.
    pub rate: f64,
    /// Until writers wait, at this rate; `None` without writers.
    pub left: Option<Duration>,
}

#[derive(Default)]
struct Checkpointing {
    /// The decided state as of a block that has not landed yet.
    begun: Option<(Seq, Vec<u8>)>,
    /// To be written to its file.
    ready: Option<Checkpoint>,
    last_mark: Option<Mark>,
    /// Where the older of the two files begins; what is before is not needed by either.
    older: Option<Mark>,
    newer: Option<Mark>,
    /// Bytes of the log when the last one was begun.
    at_bytes: u64,
    which: usize,
    /// Who asked for one: those that the next one is for, and those that the one that was begun is for.
    wanted: Vec<oneshot::Sender<Arc<Checkpoint>>>,
    begun_for: Vec<oneshot::Sender<Arc<Checkpoint>>>,
}

/// One append as it comes from a connection.
pub struct Append<'a> {
    pub segment: &'a str,
    pub writer: u128,
    /// Number of the last event in `data`.
    pub event: i64,
    pub events: u32,
    /// The length that the segment must have.
    pub expected: Option<u64>,
    pub data: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The segment's length after the append.
    pub length: u64,
    /// The writer's last event number before it.
    pub previous: i64,
}

/// What a segment is like, for those who ask.
#[derive(Clone, Debug)]
pub struct Info {
    pub start: u64,
    pub length: u64,
    pub sealed: bool,
    pub modified_ms: u64,
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("plain data can be written to memory")
}

impl Store {
    /// Recovers what the disk has and starts writing. Blocks for as long as that takes.
    pub fn open(disk: Arc<dyn Disk>, options: Options) -> Result<Store> {
        if let Some(why) = disk.get(BARRED).map_err(Error::file("read", BARRED))? {
            return Err(Error::Fenced(format!("{}, as the file {BARRED} in the log's folder says", String::from_utf8_lossy(&why))));
        }
        let mut found = Vec::new();
        for (i, name) in CHECKPOINTS.into_iter().enumerate() {
            match disk.get(name).map_err(Error::file("read", name))? {
                None => {}
                Some(bytes) => match Checkpoint::parse(&bytes) {
                    Ok(checkpoint) => found.push((i, checkpoint)),
                    Err(Unread::Damaged) => tracing::warn!(%name, "a checkpoint is damaged; the other one is used"),
                    Err(later) => return Err(later.error(name)),
                },
            }
        }
        found.sort_by_key(|(_, c)| c.mark.next);
        let newest = found.pop();
        let older = found.pop().map(|(_, c)| c.mark);
        let which = newest.as_ref().map_or(0, |(i, _)| 1 - i);
        let mut state = State::default();
        let mut mark = None;
        if let Some((i, checkpoint)) = newest {
            let bad = |e| Error::Damaged(format!("{} makes no sense: {e}", CHECKPOINTS[i]));
            state = checkpoint.state().map_err(bad)?;
            mark = Some(checkpoint.mark);
        }
        let mut replayed = 0u64;
        let recovered = Recovered::open(disk.clone(), options.log.clone(), mark, |head, _, place, seq| {
            let record: Record = postcard::from_bytes(head)
                .map_err(|e| Error::Damaged(format!("a record in block {} makes no sense: {e}", seq.0)))?;
            let physical = record.physical();
            state.apply(record);
            state.land(physical, place);
            replayed += 1;
            Ok(())
        })?;
        state.check()?;
        let files: BTreeSet<FileNo> = recovered.files().into_iter().collect();
        if let Some(missing) = state.live.files.keys().find(|f| !files.contains(f)) {
            return Err(Error::Damaged(format!("file {} of the log, which has bytes that nothing else has, is gone", missing.0)));
        }
        state.live.landed = Seq(recovered.next().0 - 1);
        tracing::info!(records = replayed, segments = state.segments.len(), "recovered");
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            // Where recovery ended. Without it a checkpoint that is begun before anything has landed would wait for a block that landed long ago, and no other one would follow.
            checkpoint: Mutex::new(Checkpointing { last_mark: Some(recovered.mark()), older, newer: mark, which, ..Checkpointing::default() }),
            tier: OnceLock::new(),
            drained: Notify::new(),
            full: Notify::new(),
            short: AtomicBool::new(false),
            told_full: Mutex::new(None),
            backlog_max: options.backlog_max,
            metrics: Metrics::default(),
            rate: Mutex::new(Rate { at: Instant::now(), bytes: 0, mean: 0.0 }),
        });
        let sink = shared.clone();
        let log = Log::start(recovered, move |mark, landed| sink.land(mark, landed))?;
        let inner = Arc::new(Inner { shared, log, options, disk, housekeeper: Mutex::new(None), closing: AtomicBool::new(false), commands: Arc::new(Semaphore::new(COMMANDS_BYTES)), ends: Arc::new(Semaphore::new(ENDS_BYTES)), reads: Arc::new(Semaphore::new(READS_BYTES)), replies: Arc::default(), tails: Arc::new(Semaphore::new(TAILS_MAX)), setups: Arc::new(Semaphore::new(SETUPS_BYTES)), turns: Arc::default() });
        let weak = Arc::downgrade(&inner);
        let keeper = std::thread::Builder::new()
            .name("log-keeper".into())
            .spawn(move || keep_house(&weak))
            .map_err(Error::file("start a thread for", "checkpoints"))?;
        *lock(&inner.housekeeper) = Some(keeper);
        Ok(Store(inner))
    }

    /// Writes what was pushed and stops.
    pub fn close(&self) {
        self.0.closing.store(true, Relaxed);
        if let Some(keeper) = lock(&self.0.housekeeper).take() {
            keeper.thread().unpark();
            let _ = keeper.join();
        }
        self.0.log.close();
    }

    pub fn log(&self) -> &Log<Physical> {
        &self.0.log
    }

    pub fn options(&self) -> &Options {
        &self.0.options
    }

    pub fn metrics(&self) -> &Metrics {
        &self.0.shared.metrics
    }

    /// How long it could go on without long-term storage.
    pub fn outage(&self) -> Outage {
        let Inner { shared, log, options, .. } = &*self.0;
        let (backlog_bytes, backlog_max) = (lock(&shared.state).live.unflushed, options.backlog_max);
        let rate = lock(&shared.rate).mean;
        // Small blocks are padded, so files may run out before bytes do, and the disk before either.
        let files = log.files_left().saturating_sub(FILES_KEPT).min(log.disk_left().saturating_sub(DISK_KEPT)) as u64;
        let room = backlog_max.saturating_sub(backlog_bytes).min(files * options.log.file_bytes);
        let (beside, beside_max) = shared.tier.get().and_then(|t| t.overflow()).unwrap_or_default();
        let (backlog_bytes, room) = (backlog_bytes + beside, room + beside_max.saturating_sub(beside));
        let backlog_max = backlog_bytes + room;
        let waits = self.short_of().is_some();
        let left = if waits { Some(Duration::ZERO) } else { (rate >= 1.0).then(|| Duration::from_secs_f64((room as f64 / rate).min(1e9))) };
        Outage { backlog_bytes, backlog_max, rate, left }
    }

    /// Keeps this log from being opened again.
    pub(crate) fn bar(&self, fenced: &Error) {
        let Error::Fenced(why) = fenced else { return };
        if let Err(e) = self.0.disk.put(BARRED, why.as_bytes()) {
            tracing::error!(error = %e, "this server is not to be started again with this folder, and that could not be noted there");
        }
    }

    /// Takes a checkpoint of what is there now, and gives it when it is on the disk.
    pub(crate) async fn checkpoint(&self) -> Result<Arc<Checkpoint>> {
        let (done, mut taken) = oneshot::channel();
        lock(&self.0.shared.checkpoint).wanted.push(done);
        let mut progress = self.0.log.progress();
        tokio::select! {
            taken = &mut taken => taken.map_err(|_| Error::Conflict("no checkpoint could be written".into())),
            // Of what does not land there is no checkpoint.
            () = async { drop(progress.wait_for(|p| p.stopped.is_some()).await) } => Err(self.0.log.wait(Seq(u64::MAX)).await.err().unwrap_or_else(|| Error::Stopped("it is closing".into()))),
        }
    }

    /// Puts a checkpoint into an empty folder, to be opened from there.
    /// Refuses a folder that has a log already.
    pub(crate) fn refuse_begun(disk: &dyn Disk) -> Result<()> {
        let names = disk.list().map_err(Error::file("list", "the log's folder"))?;
        if let Some(there) = names.iter().find(|n| n.starts_with("log-") || n.starts_with("checkpoint-")) {
            return Err(Error::Conflict(format!("the folder has {there} already: start without --restore, or name an empty folder")));
        }
        Ok(())
    }

    pub(crate) fn begin_with(disk: &dyn Disk, checkpoint: &Checkpoint) -> Result<()> {
        Store::refuse_begun(disk)?;
        disk.put(CHECKPOINTS[0], &checkpoint.bytes()).map_err(Error::file("write", CHECKPOINTS[0]))
    }

    /// The log's number, as `--restore` takes it.
    pub fn log_name(&self) -> String {
        format!("{:016x}", self.log().identity().0)
    }

    pub(crate) fn tier(&self) -> Option<&Arc<Tier>> {
        self.0.shared.tier.get()
    }

    /// Where bytes are that the log does not have any more.
    pub fn set_tier(&self, tier: Arc<Tier>) {
        let _ = self.0.shared.tier.set(tier);
    }

    /// Looks at the state. What is seen may not be durable: tell it with [`Store::look`].
    pub fn peek<T>(&self, see: impl FnOnce(&State) -> T) -> T {
        see(&lock(&self.0.shared.state))
    }

    /// Looks at the catalog, at which segments there are, and at what of them has landed; waits until what was seen is durable.
    pub async fn look<T>(&self, see: impl FnOnce(&State) -> Result<T>) -> Result<T> {
        let gated = {
            let state = lock(&self.0.shared.state);
            Gated { result: see(&state), seq: state.decided() }
        };
        self.settle(gated).await
    }

    /// Looks at one segment; for those who keep replies in a queue of their own. Only this segment's own changes are waited for: what another one's
    /// writers do, or a log that has stopped since, is nothing to it.
    pub fn gate<'a, T>(&self, name: &str, see: impl FnOnce(&State) -> Result<T> + 'a) -> Gated<T> {
        let state = lock(&self.0.shared.state);
        Gated { result: see(&state), seq: state.changed(name) }
    }

    /// A change that was refused. That the log has stopped may be told at once; anything else may come of a change that is not durable.
    fn refused<T>(&self, e: Error) -> Gated<T> {
        let seq = if matches!(e, Error::Stopped(_)) { Seq::default() } else { self.0.log.last() };
        Gated { seq, result: Err(e) }
    }

    /// Decides and makes it true. `decide` sees the state and gives the record, if something is to change.
    pub fn commit<T>(&self, decide: impl FnOnce(&State) -> Result<(Option<Record>, T)>) -> Gated<T> {
        let mut state = lock(&self.0.shared.state);
        match decide(&state) {
            Ok((None, out)) => Gated { seq: self.0.log.last(), result: Ok(out) },
            Ok((Some(record), out)) => match self.push(&mut state, record, Bytes::new()) {
                Ok(seq) => Gated { seq, result: Ok(out) },
                Err(e) => self.refused(e),
            },
            Err(e) => self.refused(e),
        }
    }

    /// [`Store::commit`] of a record that brings bytes with it: those of the one append in it.
    pub(crate) fn commit_with(&self, decide: impl FnOnce(&State) -> Result<(Option<Record>, Bytes)>) -> Gated<()> {
        let mut state = lock(&self.0.shared.state);
        let pushed = match decide(&state) {
            Ok((Some(record), data)) => self.push(&mut state, record, data),
            Ok((None, _)) => Ok(self.0.log.last()),
            Err(e) => Err(e),
        };
        match pushed {
            Ok(seq) => Gated { seq, result: Ok(()) },
            Err(e) => self.refused(e),
        }
    }

    /// [`Store::commit`], and waits until it is durable.
    pub async fn change<T>(&self, decide: impl FnOnce(&State) -> Result<(Option<Record>, T)>) -> Result<T> {
        self.settle(self.commit(decide)).await
    }

    pub async fn settle<T>(&self, gated: Gated<T>) -> Result<T> {
        self.0.log.wait(gated.seq).await?;
        gated.result
    }

    fn push(&self, state: &mut State, record: Record, data: Bytes) -> Result<Seq> {
        let seq = self.0.log.push(encode(&record), data, record.group(), record.physical())?;
        state.changes(&record, seq);
        state.apply(record);
        Ok(seq)
    }

    /// Waits until there is room for more: on the way to the disk, in the log's files, and in the backlog of long-term storage.
    pub async fn room(&self) -> Result<()> {
        self.wait_for_room(FILES_KEPT, DISK_KEPT, self.0.options.backlog_max).await
    }

    /// [`Store::room`] for what long-term storage does not take: tables, attributes, new segments. Readers' groups go on while the backlog is full.
    pub(crate) async fn room_beside(&self) -> Result<()> {
        self.wait_for_room(FILES_KEPT, DISK_KEPT, u64::MAX).await
    }

    /// Waits until there is room for the record of what ends or frees something. Of what [`Store::room`] keeps it may take the half: without it
    /// nothing could be freed, and with all of it no checkpoint could follow.
    pub(crate) async fn room_to_end(&self) -> Result<()> {
        self.wait_for_room(FILES_KEPT / 2, DISK_KEPT / 2, u64::MAX).await
    }

    /// [`Store::room_to_end`] for someone who is told when there is still none after so long, and where it is lacking.
    pub(crate) async fn room_to_end_within(&self, longest: Duration) -> Result<()> {
        match tokio::time::timeout(longest, self.room_to_end()).await {
            Ok(room) => room,
            Err(_) => Err(Error::Exhausted(self.lacks(FILES_KEPT / 2, DISK_KEPT / 2).unwrap_or_else(|| {
                format!("{} wait to be written to the log's disk, which is slow; try again later", base::unit::Bytes(self.0.log.queued_bytes()))
            }))),
        }
    }

    /// Why writers wait now, if it is for room that only the disk or long-term storage can give.
    pub fn short_of(&self) -> Option<String> {
        self.lacks(FILES_KEPT, DISK_KEPT).or_else(|| {
            let (unflushed, most) = (lock(&self.0.shared.state).live.unflushed, self.0.options.backlog_max);
            let beside = self.0.shared.tier.get().and_then(|t| t.overflow()).map(|(bytes, max)| format!("; the overflow has {} of {}", base::unit::Bytes(bytes), base::unit::Bytes(max)));
            (unflushed >= most).then(|| format!("{} wait for long-term storage, and the backlog is {}{}", base::unit::Bytes(unflushed), base::unit::Bytes(most), beside.unwrap_or_default()))
        })
    }

    /// Of what may wait for long-term storage, three quarters do: writers will wait soon, if they don't.
    pub(crate) fn is_filling(&self) -> bool {
        lock(&self.0.shared.state).live.unflushed >= self.0.options.backlog_max / 4 * 3 || self.is_nearly_short()
    }

    /// Writers wait for files of the log to become free, or would with the next one.
    pub(crate) fn is_nearly_short(&self) -> bool {
        self.0.log.files_left() <= FILES_KEPT + 1 || self.0.log.disk_left() <= DISK_KEPT + 1
    }

    fn lacks(&self, files_kept: usize, disk_kept: usize) -> Option<String> {
        let Inner { log, options, .. } = &*self.0;
        let (disk, files, each) = (log.disk_left(), log.files_left(), base::unit::Bytes(options.log.file_bytes));
        if disk <= disk_kept {
            return Some(format!("the disk with the log's folder has room for {} of the log, of {each} each, and {} are needed: make space there", base::unit::count(disk as u64, "file"), disk_kept + 1));
        }
        (files <= files_kept).then(|| {
            let all = base::unit::count(options.log.files_max as u64, "file");
            format!("the log may have {all} of {each} and has {} left: long-term storage has to take what is there, or the backlog to be larger", files)
        })
    }

    async fn wait_for_room(&self, files_kept: usize, disk_kept: usize, backlog_max: u64) -> Result<()> {
        let Inner { log, options, shared, .. } = &*self.0;
        let mut waited = false;
        loop {
            // Again each time: those who waited go on together.
            log.room(options.queued_max).await?;
            let drained = shared.drained.notified();
            let (files, room) = (log.files_left() > files_kept, log.disk_left() > disk_kept);
            // What is on its way will be in the backlog.
            if files && room && lock(&shared.state).live.unflushed.saturating_add(log.queued_bytes()) < backlog_max {
                return Ok(());
            }
            log.running()?;
            if room {
                shared.short.store(false, Relaxed);
            } else if !shared.short.swap(true, Relaxed) {
                tracing::warn!("the disk with the log's folder is nearly full: writers wait for space, or for long-term storage to take what is there");
            }
            if room && backlog_max != u64::MAX {
                self.tell_full();
            }
            if !std::mem::replace(&mut waited, true) {
                shared.metrics.held.fetch_add(1, Relaxed);
                shared.full.notify_one();
            }
            drained.await;
        }
    }

    /// Waits until someone begins to wait for room: with little room that is more often than anybody looks.
    pub(crate) async fn until_full(&self) {
        self.0.shared.full.notified().await;
    }

    /// That writers wait for long-term storage: once in a while, since a storage that is slower than they are has them wait all the time.
    fn tell_full(&self) {
        let mut told = lock(&self.0.shared.told_full);
        if told.is_none_or(|at| at.elapsed() > FULL_AGAIN)
            && let Some(why) = self.short_of()
        {
            *told = Some(Instant::now());
            tracing::warn!("writers wait: {why}");
        }
    }

    /// Gives a writer's turn at a segment to who asks, and tells the writer's last event number. None that had it before appends after that.
    pub(crate) fn take_turn(&self, name: &str, writer: u128) -> (Gated<i64>, Option<Turn>) {
        let state = lock(&self.0.shared.state);
        let found = state.find(name).and_then(|(id, segment)| match segment.table {
            Some(_) => Err(Error::IsATable(name.into())),
            None => Ok((id, segment.attribute(writer))),
        });
        let turn = found.as_ref().ok().map(|(id, _)| {
            let turn = Turn { turns: self.0.turns.clone(), of: (*id, writer), over: Arc::default() };
            // Under the lock of the state, which appends take to look at it.
            if let Some(before) = lock(&self.0.turns).insert(turn.of, turn.over.clone()) {
                before.store(true, Relaxed);
            }
            turn
        });
        (Gated { result: found.map(|(_, last)| last), seq: state.changed(name) }, turn)
    }

    /// Appends once: a writer's event number that is not above its last one was stored before, and is only acknowledged.
    pub fn append(&self, append: Append<'_>) -> Gated<Appended> {
        self.append_in_turn(None, append)
    }

    /// [`Store::append`] of a connection, as long as it has its turn.
    pub(crate) fn append_in_turn(&self, turn: Option<&Turn>, append: Append<'_>) -> Gated<Appended> {
        let pieces = segment::pieces(&append.data);
        let at_ms = base::clock::now_ms();
        let mut state = lock(&self.0.shared.state);
        let decided = state.find(append.segment).and_then(|(id, segment)| {
            let previous = segment.attribute(append.writer);
            if turn.is_some_and(Turn::is_over) {
                return Err(Error::TakenOver { segment: append.segment.into(), event: append.event });
            }
            if append.event <= previous {
                return Ok((None, Appended { length: segment.length, previous }));
            }
            segment.writable()?;
            // Of a block that was stored in part, which can't come from one writer's connection, nothing can be taken.
            if previous != segment::NO_VALUE && append.expected.is_none() && append.event.saturating_sub(append.events.into()) < previous {
                return Err(Error::EventNumber { segment: append.segment.into(), event: append.event, last: previous });
            }
            if let Some(expected) = append.expected
                && expected != segment.length
            {
                return Err(Error::NotAt { segment: append.segment.into(), length: segment.length, expected });
            }
            let length = segment.length + append.data.len() as u64;
            let record = Record::Append { id, writer: append.writer, event: append.event, at_ms, pieces };
            Ok((Some(record), Appended { length, previous }))
        });
        let pushed = match decided {
            Ok((Some(record), done)) => {
                let bytes = append.data.len() as u64;
                if let Record::Append { id, .. } = &record
                    && let Some(segment) = state.segments.get_mut(id)
                {
                    segment.load.events += u64::from(append.events);
                    segment.load.bytes += bytes;
                }
                let pushed = self.push(&mut state, record, append.data);
                if pushed.is_ok() {
                    self.0.shared.metrics.bytes.fetch_add(bytes, Relaxed);
                    self.0.shared.metrics.events.fetch_add(append.events.into(), Relaxed);
                }
                pushed.map(|seq| (seq, done))
            }
            Ok((None, done)) => Ok((self.0.log.last(), done)),
            Err(e) => Err(e),
        };
        match pushed {
            Ok((seq, done)) => Gated { seq, result: Ok(done) },
            Err(e) => self.refused(e),
        }
    }

    /// Events and bytes appended since the start.
    pub fn appended(&self) -> (u64, u64) {
        (self.metrics().events.load(Relaxed), self.metrics().bytes.load(Relaxed))
    }

    /// Bytes of replies to clients, over all connections, that have no place in memory.
    pub(crate) fn replies(&self) -> Arc<AtomicUsize> {
        self.0.replies.clone()
    }

    /// A place in memory for what a connection knows of a writer to a segment of this name; `None` when there is none.
    pub(crate) fn setup(&self, name: &str) -> Option<OwnedSemaphorePermit> {
        self.0.setups.clone().try_acquire_many_owned((SETUP + name.len()) as u32).ok()
    }
}

impl Shared {
    fn land(&self, mark: Mark, landed: Vec<log::Landed<Physical>>) {
        let seq = Seq(mark.next.0 - 1);
        let mut state = lock(&self.state);
        let before = state.live.unflushed;
        for entry in landed {
            state.land(entry.note, entry.place);
        }
        state.live.landed = seq;
        let mut checkpoint = lock(&self.checkpoint);
        checkpoint.last_mark = Some(mark);
        if checkpoint.begun.as_ref().is_some_and(|(s, _)| *s == seq) {
            checkpoint.finish(&state, mark);
        }
        if before >= self.backlog_max && state.live.unflushed < self.backlog_max {
            self.drained.notify_waiters();
        }
    }
}

impl Checkpointing {
    fn finish(&mut self, state: &State, mark: Mark) {
        if let Some((_, decided)) = self.begun.take() {
            self.ready = Some(Checkpoint { mark, decided, landed: encode(&state.landed()) });
        }
    }
}

/// Takes checkpoints and releases files of the log that nothing needs.
fn keep_house(weak: &Weak<Inner>) {
    loop {
        std::thread::park_timeout(TICK);
        let Some(inner) = weak.upgrade() else { return };
        if inner.closing.load(Relaxed) {
            return;
        }
        inner.keep_house();
    }
}

/// What [`Outage::rate`] forgets with.
const RATE_WINDOW: Duration = Duration::from_secs(10);

impl Inner {
    fn measure(&self) {
        let mut rate = lock(&self.shared.rate);
        let (now, bytes) = (Instant::now(), self.shared.metrics.bytes.load(Relaxed));
        let seconds = (now - rate.at).as_secs_f64();
        if seconds > 0.0 {
            let lately = (bytes - rate.bytes) as f64 / seconds;
            rate.mean += (lately - rate.mean) * (1.0 - (-seconds / RATE_WINDOW.as_secs_f64()).exp());
            (rate.at, rate.bytes) = (now, bytes);
        }
    }

    fn keep_house(&self) {
        self.measure();
        let (_, bytes) = self.log.written();
        let ready = {
            let state = lock(&self.shared.state);
            let mut checkpoint = lock(&self.shared.checkpoint);
            // Files become free only by checkpoints, so a log that is nearly full needs one however little was written.
            let (files, _) = self.log.files();
            let free = files.iter().filter(|f| !state.live.files.contains_key(f)).count();
            let full = (self.log.files_left() <= 2 * FILES_KEPT || self.log.disk_left() <= 2 * DISK_KEPT) && free > 1;
            let due = bytes - checkpoint.at_bytes >= self.options.checkpoint_bytes || full || !checkpoint.wanted.is_empty();
            if due && checkpoint.begun.is_none() && checkpoint.ready.is_none() {
                let start = Instant::now();
                checkpoint.at_bytes = bytes;
                let seq = self.log.cut();
                checkpoint.begun = Some((seq, decided(&state)));
                checkpoint.begun_for = std::mem::take(&mut checkpoint.wanted);
                if let (true, Some(mark)) = (state.live.landed == seq, checkpoint.last_mark) {
                    checkpoint.finish(&state, mark);
                }
                tracing::debug!(block = seq.0, took = ?start.elapsed(), "checkpoint begun");
            }
            checkpoint.ready.take()
        };
        if let Some(ready) = ready {
            let bytes = ready.bytes();
            let name = CHECKPOINTS[lock(&self.shared.checkpoint).which];
            match self.disk.put(name, &bytes) {
                Ok(()) => {
                    let mut checkpoint = lock(&self.shared.checkpoint);
                    checkpoint.which = 1 - checkpoint.which;
                    checkpoint.older = checkpoint.newer.replace(ready.mark);
                    let ready = Arc::new(ready);
                    // Who does not wait any more does not need it.
                    checkpoint.begun_for.drain(..).for_each(|to| drop(to.send(ready.clone())));
                }
                // The log stays longer, that is all; the next one is tried when as much has been written again.
                Err(e) => {
                    lock(&self.shared.checkpoint).begun_for.clear();
                    tracing::warn!(error = %e, %name, "no checkpoint was written");
                    // On a disk that others have filled: a file that is only kept ready makes room for the next one.
                    if e.kind() == std::io::ErrorKind::StorageFull {
                        self.log.give_back();
                    }
                }
            }
        }
        // The disk may have got room that nobody tells of.
        self.shared.drained.notify_waiters();
        let Some(older) = lock(&self.shared.checkpoint).older else { return };
        let (files, _) = self.log.files();
        for file in files {
            if file < older.file && !lock(&self.shared.state).live.files.contains_key(&file) {
                self.log.release(file);
                self.shared.drained.notify_waiters();
            }
        }
    }
}
