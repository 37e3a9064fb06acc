//! The one thread that changes the namenode: takes what waits, makes it durable in one go, applies it, answers.
//!
//! ```text
//! queue ─▶ batch ─▶ log (write, fdatasync) ─▶ apply, 128 at a time under the lock ─▶ fences fall ─▶ answers ─▶ a snapshot, when the log is long
//! ```
//!
//! What is in the state is on disk, so a reader never sees what a crash takes back.

use super::{
    change::{Answer, Change, Once},
    leases::{Fence, Holder, Leases},
    log::{self, Batch, Failed, Log},
    pair::{self, Lead},
    server::Outbox,
    snapshot,
    state::State,
};
use crate::{Error, Result};
use base::{Kind, SiteId, clock::now_ms};
use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    io,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Instant,
};
use tokio::sync::{Notify, oneshot};

/// Commands in one batch, and bytes.
const BATCH_MAX: usize = 4096;
const BATCH_BYTES: usize = 4 << 20;
/// Commands that may wait.
const QUEUE_MAX: usize = 262_144;
/// Bytes of them, about.
const QUEUE_BYTES_MAX: usize = 128 << 20;
/// Commands applied under one hold of the lock: below half a millisecond.
const APPLY: usize = 128;

/// Who gets the answer.
pub enum Reply {
    Call(oneshot::Sender<Result<Answer>>),
    /// A request, and what it weighs.
    Wire(Arc<Outbox>, u64, usize),
}

impl Reply {
    pub fn send(self, answer: Result<Answer>) {
        match self {
            // Who doesn't wait any more doesn't want to know.
            Reply::Call(waiting) => drop(waiting.send(answer)),
            Reply::Wire(outbox, request, weight) => outbox.answer(request, weight, answer),
        }
    }
}

pub struct Item {
    pub change: Change,
    /// Of a request that may be asked again.
    pub once: Option<Once>,
    pub reply: Reply,
    pub fence: Option<Fence>,
    /// After it, what is not on its way to the disk is not done.
    pub deadline: Option<Instant>,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
    stop: bool,
    /// There is something to do besides.
    nudged: bool,
    /// Why nothing is taken any more.
    broken: Option<String>,
}

/// What readers, the committer and connections share.
pub struct Core {
    pub state: RwLock<State>,
    pub leases: Arc<Leases>,
    /// Wakes watchers after changes.
    pub changed: Notify,
    /// Sites that have a connection, and how many.
    pub there: Mutex<HashMap<SiteId, usize>>,
    /// Connections that have asked what they are called.
    pub sessions: Mutex<HashMap<u128, Arc<Holder>>>,
    /// Of one of a pair.
    pub lead: OnceLock<Arc<Lead>>,
    queue: Mutex<Queue>,
    wake: Condvar,
    stopping: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

pub fn late() -> Error {
    Error::Remote { kind: Kind::DeadlineExceeded, message: "the namenode was too busy to begin with it within its deadline; nothing was changed".into() }
}

impl Core {
    pub fn new(state: State, leases: Arc<Leases>) -> Core {
        Core {
            state: RwLock::new(state),
            leases,
            changed: Notify::new(),
            there: Mutex::default(),
            sessions: Mutex::default(),
            lead: OnceLock::new(),
            queue: Mutex::default(),
            wake: Condvar::new(),
            stopping: AtomicBool::new(false),
        }
    }

    pub fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(|e| e.into_inner())
    }

    /// Whether this one may say what it knows.
    pub fn leads(&self) -> Result<()> {
        match self.lead.get() {
            Some(lead) if !lead.holds() => Err(pair::denied(lead.why_not())),
            _ => Ok(()),
        }
    }

    /// [`Core::read`], to tell others what is found.
    pub fn look(&self) -> Result<RwLockReadGuard<'_, State>> {
        self.leads()?;
        Ok(self.read())
    }

    /// Wakes the committer although there is no change.
    pub fn nudge(&self) {
        lock(&self.queue).nudged = true;
        self.wake.notify_one();
    }

    /// Hands a change to the committer. Its fence must be up, and what it revoked void.
    pub fn enqueue(&self, item: Item) {
        let mut queue = lock(&self.queue);
        let refused = match &queue.broken {
            Some(why) => Error::Broken { why: why.clone() },
            None if queue.stop => Error::Broken { why: "it is being stopped".into() },
            None if queue.items.len() >= QUEUE_MAX => {
                Error::Remote { kind: Kind::ResourceExhausted, message: format!("{QUEUE_MAX} changes wait for the namenode already; try again later") }
            }
            None if queue.bytes >= QUEUE_BYTES_MAX => {
                let message = format!("{} MiB of changes wait for the namenode already; try again later", QUEUE_BYTES_MAX >> 20);
                Error::Remote { kind: Kind::ResourceExhausted, message }
            }
            None => {
                queue.bytes += item.change.weight();
                queue.items.push_back(item);
                if queue.items.len() == 1 {
                    self.wake.notify_one();
                }
                return;
            }
        };
        drop(queue);
        item.reply.send(Err(refused));
    }

    /// Lets the committer finish what it has and end.
    pub fn stop(&self) {
        self.stopping.store(true, Relaxed);
        lock(&self.queue).stop = true;
        self.wake.notify_one();
    }

    pub fn is_stopped(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    /// What waits, at most a batch of it, or nothing after [`Core::nudge`]; `None`: it is over.
    fn take(&self) -> Option<Vec<Item>> {
        let mut queue = lock(&self.queue);
        while queue.items.is_empty() {
            if queue.stop {
                return None;
            }
            if std::mem::take(&mut queue.nudged) {
                return Some(Vec::new());
            }
            queue = self.wake.wait(queue).unwrap_or_else(|e| e.into_inner());
        }
        let n = queue.items.len().min(BATCH_MAX);
        let taken: Vec<Item> = queue.items.drain(..n).collect();
        queue.bytes -= taken.iter().map(|item| item.change.weight()).sum::<usize>();
        Some(taken)
    }
}

/// Who writes a snapshot meanwhile, if anybody does.
#[derive(Default)]
pub struct Walker(Option<JoinHandle<Option<u64>>>);

impl Walker {
    /// Waits for it.
    pub fn end(self) {
        if let Some(walker) = self.0 {
            let _ = walker.join(); // a snapshot that failed has said so
        }
    }
}

/// The committer's own.
pub struct Committer {
    pub core: Arc<Core>,
    pub folder: PathBuf,
    pub log: Log,
    /// Bytes of log after which a snapshot is made, if the last one is not longer than twice that: a command takes several times as long to be carried out again as what it made takes to be read.
    pub snapshot_after: u64,
    pub snapshot_bytes: u64,
    /// Bytes in log files since the last snapshot was begun.
    pub log_bytes: u64,
    /// Nobody else uses the folder while this is open.
    pub lock: File,
}

impl Committer {
    /// Until it is stopped.
    pub fn run(mut self, mut walker: Walker) {
        let mut batch = Batch::default();
        while let Some(items) = self.core.take() {
            self.commit(items, &mut batch);
            self.tend_pair();
            self.tend_snapshot(&mut walker);
        }
        walker.end();
        drop(self.lock);
    }

    fn tend_pair(&self) {
        if let Some(lead) = self.core.lead.get() {
            if let Err(why) = lead.tend(&self.core, &self.folder, self.log.next(), self.log.len()) {
                lock(&self.core.queue).broken.get_or_insert(why);
            }
        }
    }

    fn tend_snapshot(&mut self, walker: &mut Walker) {
        if walker.0.as_ref().is_some_and(JoinHandle::is_finished) {
            if let Some(Ok(Some(bytes))) = walker.0.take().map(JoinHandle::join) {
                self.snapshot_bytes = bytes;
            }
        }
        if walker.0.is_none() && self.log_bytes + self.log.len() > self.snapshot_after.max(self.snapshot_bytes / 2) {
            walker.0 = self.snapshot();
        }
    }

    /// Takes over a batch of the one that leads: on disk, then into the state.
    pub fn follow(&mut self, bytes: &[u8], walker: &mut Walker) -> Result<()> {
        let damaged = |offset: u64, found: String| Error::DamagedLog { path: log::name_of(&self.folder, offset), offset, found };
        let next = self.log.next();
        let commands = self.log.append_from(bytes).map_err(|e| damaged(next, format!("what the leader sends can't be appended: {e}")))?;
        for some in commands.chunks(APPLY) {
            let mut state = self.core.state.write().unwrap_or_else(|e| e.into_inner());
            for command in some {
                let command = Command::read(command).map_err(|e| damaged(next, e.to_string()))?;
                // Its caller is told by the leader what became of it.
                let _ = command.apply(&mut state);
            }
        }
        self.tend_snapshot(walker);
        Ok(())
    }

    fn commit(&mut self, items: Vec<Item>, batch: &mut Batch) {
        let now = Instant::now();
        let mut items: VecDeque<Item> = items.into();
        while !items.is_empty() {
            let at_ms = now_ms().max(self.core.read().clock_ms());
            batch.clear();
            let mut taken = Vec::with_capacity(items.len());
            while let Some(item) = items.pop_front() {
                if item.deadline.is_some_and(|deadline| deadline < now) {
                    drop(item.fence);
                    item.reply.send(Err(late()));
                    continue;
                }
                batch.push(|bytes| Command::write(at_ms, item.once.as_ref(), &item.change, bytes));
                taken.push(item);
                if batch.len() > BATCH_BYTES {
                    break;
                }
            }
            if taken.is_empty() {
                return;
            }
            let broken = lock(&self.core.queue).broken.clone();
            let done = match broken {
                Some(why) => Err(why),
                None => match self.log.append(batch) {
                    Ok(()) => match self.core.lead.get() {
                        None => Ok(()),
                        Some(lead) => lead.confirm(&self.core, batch.bytes(), self.log.next()).inspect_err(|why| {
                            lock(&self.core.queue).broken = Some(why.clone());
                        }),
                    },
                    Err(Failed::Refused(e)) => {
                        tracing::error!(error = %e, "the namenode's log takes nothing");
                        for item in taken {
                            drop(item.fence);
                            let source = e.raw_os_error().map_or_else(|| io::Error::other(e.to_string()), io::Error::from_raw_os_error);
                            item.reply.send(Err(Error::File { action: "append to the log in", path: self.folder.clone(), source }));
                        }
                        continue;
                    }
                    Err(Failed::Broken(e)) => {
                        let why = format!("its log in {} can't be written: {e}", self.folder.display());
                        tracing::error!(error = %e, "the namenode's log is broken; changes are refused from now on");
                        lock(&self.core.queue).broken = Some(why.clone());
                        Err(why)
                    }
                },
            };
            match done {
                Ok(()) => self.apply(at_ms, taken),
                Err(why) => taken.into_iter().for_each(|item| {
                    // Its fence stays up: after a restart it may turn out to be done.
                    if let Some(fence) = item.fence {
                        std::mem::forget(fence);
                    }
                    item.reply.send(Err(Error::Broken { why: why.clone() }));
                }),
            }
        }
    }

    fn apply(&self, at_ms: u64, items: Vec<Item>) {
        let mut answers = Vec::with_capacity(items.len());
        for some in items.chunks(APPLY) {
            let mut state = self.core.state.write().unwrap_or_else(|e| e.into_inner());
            answers.extend(some.iter().map(|item| state.apply_once(at_ms, item.once.as_ref(), &item.change)));
        }
        let mut wake: Vec<Arc<Outbox>> = Vec::new();
        for (item, answer) in items.into_iter().zip(answers) {
            drop(item.fence);
            match item.reply {
                // All answers of a batch leave in one write.
                Reply::Wire(outbox, request, weight) => {
                    outbox.answer_quietly(request, weight, answer);
                    if wake.last().is_none_or(|last| !Arc::ptr_eq(last, &outbox)) {
                        wake.push(outbox);
                    }
                }
                reply => reply.send(answer),
            }
        }
        wake.into_iter().for_each(|outbox| outbox.wake());
        self.core.changed.notify_waiters();
    }

    /// Turns to a new log file and begins to write the state as it is now.
    fn snapshot(&mut self) -> Option<JoinHandle<Option<u64>>> {
        let next = match Log::create(&self.folder, self.log.next(), self.log.chain()) {
            Ok(next) => next,
            Err(error) => {
                tracing::warn!(%error, "no snapshot: a new log can't be begun");
                // Not again with each batch.
                self.snapshot_bytes = 2 * (self.log_bytes + self.log.len() + self.snapshot_after);
                return None;
            }
        };
        if let Err(error) = std::mem::replace(&mut self.log, next).close() {
            tracing::warn!(%error, "the room ahead in a log is not given back");
        }
        self.log_bytes = 0;
        let rest = self.core.state.write().unwrap_or_else(|e| e.into_inner()).freeze();
        let (core, folder) = (self.core.clone(), self.folder.clone());
        let walk = move || {
            let seq = rest.seq;
            let start = Instant::now();
            let written = snapshot::write(&folder, rest, &core.state, || core.stopping.load(Relaxed));
            let bytes = match written {
                Ok(Some(bytes)) => Some(bytes),
                Ok(None) => None,
                Err(error) => {
                    // The logs are still there, so nothing is lost but the time of a restart.
                    tracing::error!(%error, "a snapshot can't be written");
                    None
                }
            };
            match bytes {
                Some(bytes) => {
                    tracing::info!(seq, bytes, took = ?start.elapsed(), "snapshot");
                    if let Err(error) = snapshot::tidy(&folder, seq) {
                        tracing::warn!(%error, "older logs and snapshots stay");
                    }
                }
                None => core.state.write().unwrap_or_else(|e| e.into_inner()).thaw(),
            }
            bytes
        };
        match std::thread::Builder::new().name("namenode-snap".into()).spawn(walk) {
            Ok(walker) => Some(walker),
            Err(error) => {
                tracing::warn!(%error, "no snapshot: no thread for it");
                self.core.state.write().unwrap_or_else(|e| e.into_inner()).thaw();
                None
            }
        }
    }
}

/// As the log holds it: when it was taken, the change, and behind it, if it is of a request that may be asked again, which one.
struct Command {
    at_ms: u64,
    change: Change,
    once: Option<Once>,
}

impl Command {
    fn write(at_ms: u64, once: Option<&Once>, change: &Change, bytes: Vec<u8>) -> Vec<u8> {
        let bytes = postcard::to_extend(&(at_ms, change), bytes).expect("a vector takes everything");
        match once {
            Some(once) => postcard::to_extend(once, bytes).expect("a vector takes everything"),
            None => bytes,
        }
    }

    fn read(bytes: &[u8]) -> Result<Command, postcard::Error> {
        let ((at_ms, change), rest) = postcard::take_from_bytes(bytes)?;
        let once = if rest.is_empty() { None } else { Some(postcard::from_bytes(rest)?) };
        Ok(Command { at_ms, change, once })
    }

    fn apply(&self, state: &mut State) -> Result<Answer> {
        state.apply_once(self.at_ms, self.once.as_ref(), &self.change)
    }
}

/// Applies what is in the log and not in the state. Reading and applying are done by two threads: each takes about as long.
fn replay(folder: &std::path::Path, state: &mut State) -> Result<Option<Log>> {
    const COMMANDS: usize = 1024;
    let first = state.seq() + 1;
    std::thread::scope(|threads| {
        // A few thousand commands are on their way at a time.
        let (read, next) = std::sync::mpsc::sync_channel::<Vec<Command>>(4);
        let applying = threads.spawn(move || {
            state.be_silent(true);
            for command in next.into_iter().flatten() {
                // Its caller was told what became of it.
                let _ = command.apply(state);
            }
            state.be_silent(false);
        });
        let mut some = Vec::with_capacity(COMMANDS);
        let gone = |_| "applying the log has ended early".to_string();
        let log = log::recover(folder, first, |_, bytes| {
            some.push(Command::read(bytes).map_err(|e| e.to_string())?);
            if some.len() < COMMANDS { Ok(()) } else { read.send(std::mem::replace(&mut some, Vec::with_capacity(COMMANDS))).map_err(gone) }
        });
        let _ = read.send(some); // an error is a thread that panicked, which shows below
        drop(read);
        applying.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        log
    })
}

/// Opens a folder: the state as the log says, and who goes on writing it.
pub fn open(folder: PathBuf, snapshot_after: u64) -> Result<(Arc<Core>, Committer)> {
    let fail = |action: &'static str, path: PathBuf| move |source: io::Error| Error::File { action, path, source };
    crate::private::folder(&folder).map_err(fail("create", folder.clone()))?;
    let path = folder.join("lock");
    let lock = crate::private::lock(&path).map_err(fail("open", path.clone()))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => {
            return Err(Error::Denied { who: "a second namenode".into(), what: format!("use {}: another process does", folder.display()) });
        }
        Err(std::fs::TryLockError::Error(source)) => return Err(Error::File { action: "lock", path, source }),
    }
    let start = Instant::now();
    let (mut state, snapshot_bytes) = snapshot::read(&folder)?;
    let (from_snapshot, loaded) = (state.seq(), start.elapsed());
    let log = replay(&folder, &mut state)?;
    for half in ["log.new", "snapshot.new"] {
        match std::fs::remove_file(folder.join(half)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(fail("remove", folder.join(half))(e)),
            _ => {}
        }
    }
    let log = match log {
        Some(log) => log,
        None => Log::create(&folder, from_snapshot + 1, 0)?,
    };
    if log.next() != state.seq() + 1 {
        // A log that ends before the snapshot does: what came between is in the snapshot, but new commands must go on after it.
        return Err(Error::DamagedLog {
            path: log::name_of(&folder, log.next()),
            offset: log.len(),
            found: format!("it ends at {}, the snapshot at {}", log.next() - 1, state.seq()),
        });
    }
    if from_snapshot > 0 {
        snapshot::tidy(&folder, from_snapshot)?;
    }
    let log_bytes = log::files(&folder)?.iter().rev().skip(1).filter_map(|(_, path)| path.metadata().ok()).map(|m| m.len()).sum();
    let (names, contents) = state.counts();
    tracing::info!(names, contents, seq = state.seq(), replayed = state.seq() - from_snapshot, ?loaded, took = ?start.elapsed(), "namenode opened");
    let leases = Arc::new(Leases::default());
    if state.leasing() {
        leases.begin_grace();
    }
    let core = Arc::new(Core::new(state, leases));
    let committer = Committer { core: core.clone(), folder, log, snapshot_after, snapshot_bytes, log_bytes, lock };
    Ok((core, committer))
}
