//! One running instance of a module with its memory: started, stopped at a safe point, written down, gone on with.
//!
//! ```text
//!  new ──▶ run ──▶ Exited | Failed | Killed
//!           │ ▲
//!           ▼ │ run (rewinds)
//!         Stopped ──▶ freeze ──▶ state + pages ──▶ thaw, somewhere else ──▶ run
//! ```
//!
//! A stop begins at a safe point: at a poll, of which nothing is heard here until `_start` has returned, or in a host call that waits, which sets the
//! guest's global `state` and returns. The guest's functions save their locals into `__cloudskin_unwind` and return one after the other. To
//! go on, `_start` is called again: each function takes its locals back and calls down to the safe point. If that is a host call, it is told that it is
//! called again by [`Mode::Rewinding`] and finds what it was doing in [`Host::pending`]. Machine code and native stack hold nothing meanwhile,
//! so a cell may go on in another process, under another engine. `docs/design/safe-points.md` has the guest's half. A cell with threads has stopped when the
//! stacks of all have been unwound (`threads`).

use crate::control::Control;
use crate::engine::{Engine, Lines, PAGE, Program, SafePoints, THROWN_BYTES};
use crate::error::{Error, Result};
use crate::mpi_host::Pending;
use crate::processes::{self, Place, Waiting};
use crate::threads::{self, Life, Threads};
use crate::turn::Held;
use crate::toolchain::{CXX_TAG, FLAGS, STATE, TERMINATE, UNCAUGHT, UNCAUGHT_BYTES, instrument::UNWINDING, lines};
use crate::wasi::{self, Errno};
use base::unit::Bytes;
use mpi::{Fabric, Memory as GuestMemory, Rank};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use wasmtime::{AsContext, Caller, Extern, Instance, Memory, Mutability, ResourceLimiter, SharedMemory, Store, StoreLimits, StoreLimitsBuilder, Tag, ThrownException, TypedFunc, UpdateDeadline, Val, WasmBacktrace};

/// What a cell is to be.
#[derive(Clone)]
pub struct Spec {
    pub rank: Rank,
    /// Ranks of the job.
    pub size: u32,
    pub args: Vec<String>,
    pub env: Vec<String>,
    /// Of this cell. Beyond it `memory.grow` says no, and the program decides.
    pub memory_max: u64,
    /// Of all cells that share it. Beyond it the cell that asks fails.
    pub budget: Arc<Budget>,
    pub mounts: wasi::Mounts,
    pub output: Arc<dyn wasi::Output>,
    pub fabric: Arc<Fabric>,
    /// What `MPI_Get_processor_name` says.
    pub place: String,
    /// How often a waiting call looks for messages before it sleeps: [`SPIN`], or 0 where ranks share cores.
    pub spin: u32,
}

/// Bytes that a cell's memory has at most: what 32 bits address.
pub(crate) const MEMORY_MAX: u64 = 1 << 32;

/// [`Spec::spin`] where every rank has a core to itself: some 50 µs, several times what a message takes.
pub const SPIN: u32 = 2000;

/// [`Spec::spin`] for ranks that run side by side on so many cores.
pub fn spin(ranks: usize, cores: usize) -> u32 {
    if ranks <= cores { SPIN } else { 0 }
}

/// Bytes of linear memory that cells may have together: what a site gives to its ranks. Without it they take what they want until the system ends
/// the agent, and all ranks with it.
#[derive(Debug)]
pub struct Budget {
    max: u64,
    used: AtomicU64,
    /// Processes that ranks have made by `fork` and that run.
    children: AtomicU32,
}

/// No bound.
impl Default for Budget {
    fn default() -> Budget {
        Budget::new(u64::MAX)
    }
}

impl Budget {
    pub fn new(max: u64) -> Budget {
        Budget { max, used: AtomicU64::new(0), children: AtomicU32::new(0) }
    }

    /// A place for a process beside a rank's first one, if there is one.
    pub(crate) fn take_child(&self) -> bool {
        let more = |children| (children < processes::CHILDREN_SITE_MAX).then_some(children + 1);
        self.children.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    pub(crate) fn give_back_child(&self) {
        self.children.fetch_sub(1, Ordering::Relaxed);
    }

    /// Bytes that cells have now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

/// A cell's part of a budget; given back with the cell.
pub(crate) struct Share {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Share {
    pub(crate) fn new(budget: Arc<Budget>) -> Share {
        Share { budget, bytes: 0 }
    }

    /// Takes what is missing to `bytes`, or gives back what is more. `Err`: what all have, and it can't be that much more.
    pub(crate) fn resize(&mut self, bytes: u64) -> std::result::Result<(), u64> {
        let Budget { max, used, .. } = &*self.budget;
        let new = |used: u64| (used - self.bytes).checked_add(bytes).filter(|new| *new <= *max || bytes <= self.bytes);
        used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, new)?;
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A site's memory is used up.
#[derive(Debug, thiserror::Error)]
#[error(
    "site {place} has no memory for {} more: its ranks have {} of {}; start fewer ranks there, move some away (`cloudskin migrate`), or give its agent more with --memory",
    Bytes(*more), Bytes(*used), Bytes(*max)
)]
pub(crate) struct Full {
    place: String,
    more: u64,
    used: u64,
    max: u64,
}

impl Full {
    pub(crate) fn new(place: &str, more: u64, used: u64, budget: &Budget) -> Full {
        Full { place: place.into(), more, used, max: budget.max }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Running,
    Unwinding,
    Rewinding,
}

/// What host calls find in the store.
pub struct Host {
    /// `None` while it is made, and of a program with threads, whose memory is in `threads`.
    pub(crate) memory: Option<Memory>,
    pub(crate) threads: Option<Arc<Threads>>,
    pub(crate) rank: Rank,
    /// What the guest knows this thread by; 0: the first one.
    pub(crate) thread: u32,
    /// Of a program with threads it is here during a call of MPI alone, with the flags.
    pub(crate) mpi: Held,
    /// Calls of MPI that this thread is in: one, and those of functions that MPI has called.
    pub(crate) calls: u32,
    /// Functions of the guest's that this thread is in and that the host waits for, one within another. The other threads are not in them: they may sleep and be stopped.
    pub(crate) within: u32,
    /// A call has found nothing, and others may have the processor.
    pub(crate) idle: bool,
    pub(crate) wasi: wasi::State,
    pub(crate) pending: Option<Pending>,
    pub(crate) mode: Mode,
    pub(crate) flags: MpiFlags,
    pub(crate) fabric: Arc<Fabric>,
    pub(crate) control: Arc<Control>,
    pub(crate) place: String,
    pub(crate) spin: u32,
    pub(crate) size: u32,
    /// Set for a cell that can be stopped.
    points: Option<SafePoints>,
    /// The way to its native code, in the fast tier, and the function of it that trapped.
    pub(crate) native: Option<crate::native::Bridge>,
    pub(crate) trapped_in: Option<String>,
    lines: Lines,
    limits: StoreLimits,
    share: Share,
    memory_max: usize,
    /// Bytes of all its memories, and what they were before one of them was last allowed to grow.
    memories: usize,
    memories_before: usize,
}

/// The limits, and a note of how large the memory has become for who watches from outside.
impl ResourceLimiter for Host {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        // The memory of a program with threads grows by a call of the host. What is made here is the page with the flag words, and the heap of what a thread has thrown.
        if self.threads.is_some() {
            return Ok(desired <= THROWN_BYTES);
        }
        // A movable program has two memories, of which that with the flag words is one page and is not the job's to pay for.
        let flags = if self.points.is_some() { FLAGS_BYTES } else { 0 };
        let memories = self.memories.saturating_sub(current).saturating_add(desired);
        let wanted = memories.saturating_sub(flags);
        if wanted > self.memory_max || !self.limits.memory_growing(current, desired, maximum)? {
            return Ok(false);
        }
        // All processes of a rank have together what it may have. Here it is the program again that decides.
        if self.wasi.process.as_mut().is_some_and(|process| process.share.resize(wanted as u64).is_err()) {
            return Ok(false);
        }
        let Share { budget, bytes } = &self.share;
        let (max, more) = (budget.max, (wanted as u64).saturating_sub(*bytes));
        // An error and no plain refusal: whether another job is as large just now is nothing that a program can be written for, and one that does
        // not look at what `malloc` gives would go on with a null pointer, which is a good address here.
        self.share.resize(wanted as u64).map_err(|used| Full { place: self.place.clone(), more, used, max })?;
        self.memories_before = std::mem::replace(&mut self.memories, memories);
        self.control.memory_bytes.store(wanted as u64, Ordering::Relaxed);
        Ok(true)
    }
    /// It was allowed, and there was no room for it after all. What it was counted with is taken back at the next growth.
    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.memories = self.memories_before;
        self.limits.memory_grow_failed(error)
    }
    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        self.limits.table_growing(current, desired, maximum)
    }
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct MpiFlags {
    pub initialized: bool,
    pub finalized: bool,
    /// `MPI_THREAD_MULTIPLE` or less, as it was granted.
    pub level: i32,
    /// [`Host::thread`] of the thread that has begun.
    pub main: u32,
}

/// A guest's way to end early, as an error through the engine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    #[error("exit {0}")]
    Exit(i32),
    #[error("MPI_Abort with code {0}")]
    Abort(i32),
    /// `pthread_exit`.
    #[error("the thread has ended")]
    Thread,
    /// Another thread has ended the cell.
    #[error("the cell has ended")]
    Over,
}

/// Why `run` came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// At a safe point, as asked; `run` goes on.
    Stopped,
    Exited(i32),
    /// The program is at fault: what happened, and where in it. `code`: what it gave to MPI_Abort.
    Failed { message: String, backtrace: String, code: Option<i32> },
    /// `Control::kill`, with its reason.
    Killed(String),
}

pub struct Cell {
    store: Store<Host>,
    instance: Instance,
    start: TypedFunc<(), ()>,
    memory: Linear,
    program: Arc<Program>,
    stopped: bool,
    /// Its threads beside the first one, while it is stopped.
    lives: Vec<Life>,
    /// What would have ended it natively, if it has failed.
    signal: i32,
}

/// A cell's memory: its instance's own, or that of all of its threads' instances.
pub(crate) enum Linear {
    Own(Memory),
    Shared(SharedMemory),
}

impl Linear {
    pub(crate) fn base(&self, store: impl AsContext) -> *mut u8 {
        match self {
            Linear::Own(memory) => memory.data_ptr(store),
            Linear::Shared(memory) => memory.data().as_ptr().cast_mut().cast(),
        }
    }

    pub(crate) fn bytes(&self, store: impl AsContext) -> usize {
        match self {
            Linear::Own(memory) => memory.data_size(store),
            Linear::Shared(memory) => memory.data_size(),
        }
    }
}

/// All of a cell but its memory, as it travels.
#[derive(Serialize, Deserialize)]
pub struct Frozen {
    pub rank: Rank,
    pub size: u32,
    pub program_sha256: String,
    pub memory_bytes: u64,
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub memory_max: u64,
    globals: Vec<(String, Number)>,
    pub(crate) mpi: mpi::State,
    pub(crate) wasi: wasi::Saved,
    pub(crate) pending: Option<Pending>,
    /// Beside the first one, whose globals and pending call are those above.
    threads: Vec<threads::Frozen>,
    flags: MpiFlags,
    unacknowledged: Vec<mpi::Message>,
    /// For whom the counts go on where it does.
    traffic: Vec<mpi::Traffic>,
}

impl Frozen {
    /// Whether what was read can be gone on with. The bytes are foreign: their checksum finds damage, not malice.
    pub(crate) fn check(&self) -> Result<()> {
        let refused = Error::Snapshot;
        if self.memory_bytes > MEMORY_MAX {
            return Err(refused(format!("its memory has {} bytes; a cell has {MEMORY_MAX} at most", self.memory_bytes)));
        }
        if self.mpi.me != self.rank {
            return Err(refused(format!("the MPI state of rank {} is in the snapshot of rank {}", self.mpi.me.0, self.rank.0)));
        }
        self.mpi.check(self.size).map_err(|e| refused(e.message))?;
        for m in &self.unacknowledged {
            if m.header.src != self.rank || m.header.dst.0 >= self.size {
                return Err(refused(format!("a message from rank {} to rank {} is among its own, in a job of {} ranks", m.header.src.0, m.header.dst.0, self.size)));
            }
        }
        // One for each peer at most, in order: who counts them looks at all of them.
        if !self.traffic.is_sorted_by(|a, b| a.peer < b.peer) || self.traffic.last().is_some_and(|t| t.peer.0 >= self.size) {
            return Err(refused(format!("what it has exchanged is not with ranks of a job of {}", self.size)));
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) enum Number {
    I32(i32),
    I64(i64),
    F32(u32),
    F64(u64),
    V128(u128),
}

/// The one page of the flag words.
const FLAGS_BYTES: usize = 65536;
/// Longest sleep of a rank that is at its end and waits for acknowledgements: bounds what a lost wake-up could cost.
const DRAIN: Duration = Duration::from_millis(5);
/// The same while something has no room to leave.
const DRAIN_FULL: Duration = Duration::from_micros(50);

fn engine_failed(e: wasmtime::Error) -> Error {
    Error::Engine(format!("{e:#}"))
}

/// What a cell would be that is nobody's.
fn of_nobody() -> Spec {
    struct Nowhere;
    impl mpi::Wire for Nowhere {
        fn send(&self, _: mpi::Message) {}
        fn acknowledge(&self, _: Rank, _: Rank, _: u64) {}
    }
    Spec {
        rank: Rank(0),
        size: 1,
        args: Vec::new(),
        env: Vec::new(),
        memory_max: u64::MAX,
        budget: Arc::default(),
        mounts: wasi::Mounts::default(),
        output: Arc::new(wasi::Discard),
        fabric: Arc::new(Fabric::new(1, Box::new(Nowhere))),
        place: String::new(),
        spin: 0,
    }
}

/// A store that nothing will be made in.
pub(crate) fn nobody(engine: &wasmtime::Engine, program: &Program) -> Store<Host> {
    store_of(engine, program, &of_nobody(), Arc::default(), None)
}

/// What an instance's mutable globals hold, all of which a movable program exports.
pub(crate) fn globals(store: &mut Store<Host>, instance: &Instance) -> Result<Vec<(String, Number)>> {
    let exports: Vec<(String, wasmtime::Global)> = instance.exports(&mut *store).filter_map(|e| Some((e.name().to_string(), e.into_global()?))).collect();
    let mut globals = Vec::new();
    for (name, global) in exports {
        if global.ty(&*store).mutability() == Mutability::Const {
            continue;
        }
        let number = match global.get(&mut *store) {
            Val::I32(v) => Number::I32(v),
            Val::I64(v) => Number::I64(v),
            Val::F32(v) => Number::F32(v),
            Val::F64(v) => Number::F64(v),
            Val::V128(v) => Number::V128(v.as_u128()),
            _ => return Err(Error::NotMovable(format!("global {name} holds a reference, which can't be written down"))),
        };
        globals.push((name, number));
    }
    Ok(globals)
}

/// Gives an instance what [`globals`] has found in another.
pub(crate) fn set_globals(store: &mut Store<Host>, instance: &Instance, globals: &[(String, Number)]) -> Result<()> {
    for (name, number) in globals {
        let global = instance.get_global(&mut *store, name).ok_or_else(|| Error::Snapshot(format!("the program has no global {name}")))?;
        let value = match *number {
            Number::I32(v) => Val::I32(v),
            Number::I64(v) => Val::I64(v),
            Number::F32(v) => Val::F32(v),
            Number::F64(v) => Val::F64(v),
            Number::V128(v) => Val::V128(v.into()),
        };
        global.set(&mut *store, value).map_err(|e| Error::Snapshot(format!("global {name}: {e}")))?;
    }
    Ok(())
}

/// Where the flag words of an instance are, if its program has some.
pub(crate) fn flags(store: &mut Store<Host>, instance: &Instance, program: &Program) -> Option<*mut u8> {
    let memory = program.movable().then(|| instance.get_memory(&mut *store, FLAGS).expect("`inspect` made sure that it is exported"));
    memory.map(|memory| memory.data_ptr(&*store))
}

/// The global `state` of an instance; 0 for a program without safe points.
pub(crate) fn state(store: &mut Store<Host>, instance: &Instance, program: &Program) -> i32 {
    if !program.movable() {
        return 0;
    }
    let state = instance.get_global(&mut *store, STATE).map(|global| global.get(&mut *store));
    state.and_then(|value| value.i32()).expect("`inspect` calls no program movable that does not export it as an i32")
}

/// What is said of a stack that was not wound up to its end.
pub(crate) fn lost(rank: Rank, state: i32) -> Ended {
    let message = format!("rank {}: its stack does not lead back to safe point {state}: it went on from a damaged snapshot, or has overwritten its unwind area", rank.0);
    Ended::Failed { message, backtrace: String::new(), code: None }
}

/// An instance that is only looked at, never run.
pub(crate) fn bare(engine: &Engine, program: &Program) -> Result<(Store<Host>, Instance)> {
    instantiate(&engine.inner(program)?, program, &of_nobody(), Arc::default(), None, None)
}

/// A store for one instance of a program: of a cell, or of one of its threads.
pub(crate) fn store_of(engine: &wasmtime::Engine, program: &Program, spec: &Spec, control: Arc<Control>, threads: Option<Arc<Threads>>) -> Store<Host> {
    let limit = usize::try_from(spec.memory_max).unwrap_or(usize::MAX);
    let host = Host {
        memory: None,
        rank: spec.rank,
        thread: 0,
        mpi: if threads.is_some() { Held::nothing() } else { Held::new(mpi::State::new(spec.rank, spec.size)) },
        calls: 0,
        within: 0,
        idle: false,
        threads,
        wasi: wasi::State::new(spec, program.knows_workdir),
        pending: None,
        mode: Mode::Running,
        flags: MpiFlags::default(),
        fabric: spec.fabric.clone(),
        control,
        place: spec.place.clone(),
        spin: spec.spin,
        size: spec.size,
        points: program.safe_points,
        native: None,
        trapped_in: None,
        lines: program.lines.clone(),
        limits: StoreLimitsBuilder::new().memory_size(limit).build(),
        share: Share::new(spec.budget.clone()),
        memory_max: limit,
        memories: 0,
        memories_before: 0,
    };
    let mut store = Store::new(engine, host);
    store.limiter(|host| host);
    if program.kind.has_clock() {
        // It has no flag words to look at: its engine's clock makes it look here instead, from its start function on.
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|store| {
            let host = store.data();
            match host.control.killed() || host.threads.as_ref().is_some_and(|t| t.over()) {
                true => Err(wasmtime::Error::new(End::Over)),
                false => Ok(UpdateDeadline::Continue(1)),
            }
        });
    }
    store
}

/// `files`: what it has of them, if it does not begin with what all have.
fn instantiate(engine: &wasmtime::Engine, program: &Program, spec: &Spec, control: Arc<Control>, threads: Option<Arc<Threads>>, files: Option<wasi::State>) -> Result<(Store<Host>, Instance)> {
    let mut store = store_of(engine, program, spec, control, threads.clone());
    if let Some(files) = files {
        store.data_mut().wasi = files;
    }
    let pre = match &threads {
        Some(threads) => threads.pre(),
        None => program.pre.as_ref().expect("all programs but those with threads have one"),
    };
    let instance = pre.instantiate(&mut store).map_err(|e| {
        let control = &store.data().control;
        if control.killed() {
            return Error::Killed(control.reason());
        }
        if let Some(full) = e.downcast_ref::<Full>() {
            return Error::Resources(full.to_string());
        }
        Error::Resources(format!("no room for the cell: {e:#}; raise its memory limit of {} bytes or start fewer ranks", spec.memory_max))
    })?;
    let memory = instance.get_module_export(&mut store, &program.memory).and_then(Extern::into_memory);
    store.data_mut().memory = memory;
    Ok((store, instance))
}

impl Cell {
    /// A new cell at the beginning of its program. The fabric already knows that the rank is here.
    pub fn new(engine: &Engine, program: &Arc<Program>, spec: &Spec, control: Arc<Control>) -> Result<Cell> {
        let threads = match program.shared_pages {
            Some(_) => Some(Threads::new(engine, program, spec, control.clone())?),
            None => None,
        };
        Cell::made(&engine.inner(program)?, program, spec, control, threads, None)
    }

    fn made(engine: &wasmtime::Engine, program: &Arc<Program>, spec: &Spec, control: Arc<Control>, threads: Option<Arc<Threads>>, files: Option<wasi::State>) -> Result<Cell> {
        let (mut store, instance) = instantiate(engine, program, spec, control, threads.clone(), files)?;
        let start = instance.get_module_export(&mut store, &program.start).and_then(Extern::into_func);
        let start = start.expect("`Engine::load` made sure that it is exported").typed(&store).map_err(engine_failed)?;
        let memory = match threads {
            Some(threads) => Linear::Shared(threads.memory.clone()),
            None => Linear::Own(store.data().memory.expect("`Engine::load` made sure that it is exported")),
        };
        Ok(Cell { store, instance, start, memory, program: program.clone(), stopped: false, lives: Vec::new(), signal: 0 })
    }

    pub fn program(&self) -> &Arc<Program> {
        &self.program
    }

    pub fn rank(&self) -> Rank {
        self.store.data().rank
    }

    pub fn fabric(&self) -> &Arc<Fabric> {
        &self.store.data().fabric
    }

    pub fn control(&self) -> Arc<Control> {
        self.store.data().control.clone()
    }

    /// Runs until the program ends or has been stopped. The calling thread is the rank's for this time and needs
    /// a stack of [`crate::engine::THREAD_STACK`] bytes.
    pub fn run(&mut self) -> Ended {
        self.attached(|cell| {
            let rank = cell.rank();
            cell.fabric().clone().mailbox(rank).bell.attach();
            let mut ended = cell.run_inner();
            if let Some(threads) = cell.store.data().threads.clone()
                && (ended != Ended::Stopped || threads.ended())
            {
                ended = threads.finish(ended);
            }
            if ended != Ended::Stopped
                && let Some(process) = &cell.store.data().wasi.process
            {
                process.family.end();
            }
            match ended {
                Ended::Exited(code) => cell.drain(code),
                other => other,
            }
        })
    }

    /// While `body` runs the cell can be reached through its control.
    fn attached(&mut self, body: impl FnOnce(&mut Cell) -> Ended) -> Ended {
        let control = self.control();
        let flags = flags(&mut self.store, &self.instance, &self.program);
        // SAFETY: linear memory begins at a page, never moves and lives as long as the store, which outlives this call; that of the
        // flags has a page, as `inspect` made sure. `attached` ends with the call, also by a panic.
        let attached = unsafe { control.attach(self.memory.base(&self.store), flags) };
        control.memory_bytes.store(self.memory.bytes(&self.store) as u64, Ordering::Relaxed);
        let ended = body(self);
        control.memory_bytes.store(self.memory.bytes(&self.store) as u64, Ordering::Relaxed);
        drop(attached);
        ended
    }

    fn run_inner(&mut self) -> Ended {
        let threads = self.store.data().threads.clone();
        let mut called_back = false;
        loop {
            if std::mem::take(&mut self.stopped) {
                let host = self.store.data_mut();
                if host.pending.is_some() {
                    host.mode = Mode::Rewinding;
                } else {
                    // At a poll the guest is back without asking anybody.
                    host.control.back.store(true, Ordering::SeqCst);
                }
            }
            if let Some(threads) = &threads
                && !std::mem::take(&mut called_back)
            {
                threads.go_on(std::mem::take(&mut self.lives));
            }
            match self.start.call(&mut self.store, ()) {
                Ok(()) => {}
                Err(e) if e.is::<ThrownException>() => {
                    self.signal = processes::signal(&e, true);
                    return uncaught(&mut self.store, &self.instance, e).map_or_else(|e| self.ended(e), |failed| failed);
                }
                Err(e) => return self.ended(e),
            }
            match self.state() {
                0 => return Ended::Exited(0),
                UNWINDING => {}
                other => return lost(self.rank(), other),
            }
            self.stopped = true;
            let host = self.store.data_mut();
            if host.mode != Mode::Unwinding {
                host.control.left_work();
            }
            host.mode = Mode::Running;
            if let Some(threads) = &threads {
                match threads.gather() {
                    Some(lives) => self.lives = lives,
                    None => {
                        called_back = true;
                        continue;
                    }
                }
                if threads.ended() {
                    return Ended::Stopped; // not for long: `run` looks who has
                }
            }
            let host = self.store.data_mut();
            if host.control.killed() {
                return Ended::Killed(host.control.reason());
            }
            let asked = host.control.stopping();
            // Who is to stop forks when it goes on, and then for certain: stops that come one after the other do not keep it from its work. What is asked for is seen when
            // it is back.
            if let Some(Pending::Process(Waiting::Fork { put_off })) = host.pending
                && (put_off || !asked)
            {
                let made = self.fork();
                self.store.data_mut().pending = Some(Pending::Process(Waiting::Forked(made)));
                continue;
            }
            host.control.clear();
            if asked {
                return Ended::Stopped;
            }
            // The stop was taken back while the guest was on its way out.
        }
    }

    /// The guest's global `state`; 0 for a program without safe points.
    fn state(&mut self) -> i32 {
        state(&mut self.store, &self.instance, &self.program)
    }

    /// By an error through the engine.
    fn ended(&mut self, e: wasmtime::Error) -> Ended {
        match e.downcast_ref::<End>() {
            Some(End::Exit(code)) => Ended::Exited(*code),
            _ => self.failure(e),
        }
    }

    fn failure(&mut self, e: wasmtime::Error) -> Ended {
        let unwinding = self.state() == UNWINDING;
        let trap = |aborted| processes::signal(&e, aborted);
        let signals = [trap(false), trap(true)];
        let ended = failure(self.store.data(), e, unwinding);
        self.signal = signals[usize::from(matches!(&ended, Ended::Failed { message, .. } if message.ends_with(ABORTED)))];
        ended
    }

    /// What the rank has sent must be on its way before it goes. Messages that come meanwhile, acknowledgements and kills ring the bell.
    fn drain(&mut self, code: i32) -> Ended {
        let (rank, fabric) = (self.rank(), self.store.data().fabric.clone());
        let failed = |message: String| Ended::Failed { message: format!("rank {}: {message}", rank.0), backtrace: String::new(), code: None };
        // Of several threads another one may have slept there last.
        fabric.mailbox(rank).bell.attach();
        let sent = self.alone(|mem, host| {
            if !host.mpi.is_here() {
                return Some(failed("the agent's thread behind one of its threads panicked in a call of MPI".into()));
            }
            Self::send_all(mem, host, &fabric)
        });
        // Nobody else wants the files: its threads are gone.
        sent.unwrap_or_else(|| self.store.data_mut().files(wasi::State::close_all).map_or_else(failed, |()| Ended::Exited(code)))
    }

    /// Until all that the rank has sent has arrived, or it ends in another way.
    fn send_all(mem: &mut GuestMemory<'_>, host: &mut Host, fabric: &Fabric) -> Option<Ended> {
        let rank = host.rank;
        loop {
            if let Err(e) = host.mpi.progress(mem, fabric) {
                return Some(Ended::Failed { message: format!("rank {}: at its end: {e}", rank.0), backtrace: String::new(), code: None });
            }
            if host.mpi.flushed() && fabric.all_acknowledged(rank) {
                return None;
            }
            if host.control.killed() {
                return Some(Ended::Killed(host.control.reason()));
            }
            // Of room in a ring nobody tells, so it is looked for.
            let longest = if host.mpi.flushed() { DRAIN } else { DRAIN_FULL };
            fabric.mailbox(rank).bell.wait(longest, || {
                fabric.waiting(rank) || host.mpi.flushed() && fabric.all_acknowledged(rank) || host.control.killed()
            });
        }
    }

    /// What needs the rank's MPI state, of a cell that does not run.
    fn alone<T>(&mut self, f: impl FnOnce(&mut GuestMemory<'_>, &mut Host) -> T) -> T {
        let (mut mem, host) = parts(&self.memory, &mut self.store);
        let threads = host.threads.clone();
        if let Some((state, flags)) = threads.as_ref().and_then(|t| t.turn.reclaim()) {
            (host.mpi, host.flags) = (state, flags);
        }
        let result = f(&mut mem, host);
        if let Some(threads) = threads {
            threads.turn.put_back(std::mem::replace(&mut host.mpi, Held::nothing()), host.flags);
        }
        result
    }

    /// Bytes of linear memory now.
    pub fn memory_bytes(&self) -> usize {
        self.memory.bytes(&self.store)
    }

    /// The memory of a cell that does not run.
    pub fn memory(&self) -> &[u8] {
        match &self.memory {
            Linear::Own(memory) => memory.data(&self.store),
            Linear::Shared(memory) => {
                let cells = memory.data();
                // SAFETY: nobody writes while this reference lives. The guest's threads run within `run` alone, which has the cell to itself and does not come
                // back before the last has stopped or ended; what else writes needs the cell to itself too. After a panic in `run` the cell is only dropped.
                unsafe { std::slice::from_raw_parts(cells.as_ptr().cast(), cells.len()) }
            }
        }
    }

    /// Everything but the memory, of a stopped cell. The fabric must hold the rank ([`Fabric::hold`]).
    pub fn freeze(&mut self) -> Result<Frozen> {
        assert!(self.stopped, "only a stopped cell can be written down");
        let (rank, fabric) = (self.rank(), self.store.data().fabric.clone());
        // What lies in rings becomes part of the state, and what this rank sent to ranks that have left becomes unacknowledged.
        fabric.sweep();
        let (mpi, flags) = self.alone(|mem, host| host.mpi.absorb(mem, &fabric).map(|()| ((*host.mpi).clone(), host.flags))).map_err(|e| Error::Snapshot(e.to_string()))?;
        let globals = globals(&mut self.store, &self.instance)?;
        let threads = self.lives.iter_mut().map(Life::freeze).collect::<Result<_>>()?;
        let host = self.store.data();
        let wasi = match &host.threads {
            Some(threads) => threads.wasi.lock().unwrap_or_else(|e| e.into_inner()).save(),
            None => host.wasi.save(),
        };
        Ok(Frozen {
            rank,
            size: host.size,
            program_sha256: self.program.sha256.clone(),
            memory_bytes: self.memory.bytes(&self.store) as u64,
            args: host.wasi.args.clone(),
            env: host.wasi.env.clone(),
            memory_max: host.wasi.memory_max,
            globals,
            mpi,
            wasi: wasi.map_err(Error::Snapshot)?,
            pending: host.pending.clone(),
            threads,
            flags,
            unacknowledged: fabric.unacknowledged(rank),
            traffic: fabric.traffic(rank),
        })
    }

    /// A cell that goes on where another was frozen. Its memory has the right size and must be filled with
    /// [`Cell::write`] before `run`. Until [`Cell::arrive`] the fabric keeps what comes for it.
    pub fn thaw(engine: &Engine, program: &Arc<Program>, frozen: &Frozen, spec: &Spec, control: Arc<Control>) -> Result<Cell> {
        let mut cell = Cell::new(engine, program, spec, control)?;
        cell.restore(frozen)?;
        Ok(cell)
    }

    /// Makes a new cell go on where another was frozen; pages may have been written before. The fabric holds the rank afterwards: who gives
    /// the cell up calls [`Fabric::depart`]. If this fails, nothing is held.
    pub fn restore(&mut self, frozen: &Frozen) -> Result<()> {
        if !self.program.movable() {
            return Err(self.program.not_movable());
        }
        if frozen.program_sha256 != self.program.sha256 {
            return Err(Error::Snapshot(format!("it is of program {}, not {}", frozen.program_sha256, self.program.sha256)));
        }
        let host = self.store.data();
        if (frozen.rank, frozen.size) != (host.rank, host.size) {
            return Err(Error::Snapshot(format!("it is of rank {} of {}, not of rank {} of {}", frozen.rank.0, frozen.size, host.rank.0, host.size)));
        }
        frozen.check()?;
        let fabric = host.fabric.clone();
        fabric.hold(frozen.rank);
        self.restore_held(frozen).inspect_err(|_| fabric.depart(frozen.rank))
    }

    fn restore_held(&mut self, frozen: &Frozen) -> Result<()> {
        if self.memory_bytes() as u64 != frozen.memory_bytes {
            self.grow(frozen.memory_bytes)?;
        }
        set_globals(&mut self.store, &self.instance, &frozen.globals)?;
        self.alone(|_, host| (host.mpi, host.flags) = (Held::new(frozen.mpi.clone()), frozen.flags));
        let host = self.store.data_mut();
        host.pending = frozen.pending.clone();
        match &host.threads {
            Some(threads) => {
                threads.wasi.lock().unwrap_or_else(|e| e.into_inner()).restore(&frozen.wasi, &host.control, 0).map_err(Error::Snapshot)?;
                // All of them are made before one goes on: who has no room for them refuses the cell.
                self.lives = threads.thaw(&frozen.threads)?;
            }
            None if !frozen.threads.is_empty() => return Err(Error::Snapshot(format!("it has {} threads, and the program has none", frozen.threads.len() + 1))),
            None => host.wasi.restore(&frozen.wasi, &host.control, frozen.memory_bytes).map_err(Error::Snapshot)?,
        }
        self.stopped = true;
        Ok(())
    }

    /// Makes the memory at least this large; refused beyond the cell's limit.
    pub(crate) fn reach(&mut self, bytes: u64) -> Result<()> {
        if bytes > MEMORY_MAX {
            return Err(Error::Snapshot(format!("it says that its memory has {bytes} bytes; a cell has {MEMORY_MAX} at most")));
        }
        if bytes > self.memory_bytes() as u64 {
            self.grow(bytes.next_multiple_of(65536))?;
        }
        Ok(())
    }

    fn grow(&mut self, bytes: u64) -> Result<()> {
        let have = self.memory.bytes(&self.store) as u64;
        if bytes < have || bytes % 65536 != 0 {
            return Err(Error::Snapshot(format!("it says that its memory has {bytes} bytes; the program starts with {have}")));
        }
        let more = (bytes - have) / 65536;
        let grown = match (&self.memory, self.store.data().threads.clone()) {
            (Linear::Own(memory), _) => memory.grow(&mut self.store, more).map(drop),
            (Linear::Shared(_), threads) => {
                let before = threads.expect("memory is shared by threads alone").grow(more);
                before.and_then(|before| before.map(drop).ok_or_else(|| wasmtime::Error::msg("that is beyond its limit")))
            }
        };
        grown.map_err(|e| match e.downcast_ref::<Full>() {
            Some(full) => Error::Resources(full.to_string()),
            None => Error::Resources(format!("no memory for a cell of {bytes} bytes: {e}")),
        })
    }

    /// Writes pages of a cell that does not run.
    pub fn write(&mut self, page: usize, data: &[u8]) -> Result<()> {
        let at = page.checked_mul(PAGE).filter(|at| at + data.len() <= self.memory_bytes());
        let at = at.ok_or_else(|| Error::Snapshot(format!("page {page} is outside of the cell's memory")))?;
        match &self.memory {
            Linear::Own(memory) => memory.data_mut(&mut self.store)[at..at + data.len()].copy_from_slice(data),
            Linear::Shared(memory) => {
                let cells = &memory.data()[at..at + data.len()];
                // SAFETY: as many bytes are there as `data` has, in cells that may be written through a shared reference; `data` is none of them, for who reads
                // the memory (`Cell::memory`) has the cell. None of the guest's threads runs.
                unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), cells.as_ptr().cast::<u8>().cast_mut(), data.len()) };
            }
        }
        Ok(())
    }

    /// Makes a thawed cell the place where its rank is.
    pub fn arrive(&mut self, frozen: &Frozen) {
        let fabric = &self.store.data().fabric;
        fabric.set_traffic(frozen.rank, &frozen.traffic);
        fabric.arrive(frozen.rank, frozen.unacknowledged.clone());
    }
}

/// Processes.
impl Cell {
    /// Makes a second process of one whose guest has unwound for that: its number, or an errno as a negative one. Both go on in the call that asked.
    fn fork(&mut self) -> i32 {
        let fails = |cell: &mut Cell, why: String, errno: Errno| {
            let wasi = &mut cell.store.data_mut().wasi;
            if wasi.process.as_ref().is_some_and(|process| process.family.tells()) {
                wasi.print(2, format!("cloudskin: fork fails: {why}\n").as_bytes());
            }
            -(errno as i32)
        };
        let host = self.store.data();
        let process = host.wasi.process.as_ref().expect("who asks for a second process is in a family");
        let (family, site) = (process.family.clone(), host.share.budget.clone());
        let place = match family.enter(process.pid, &site) {
            Ok(place) => place,
            Err(why) => return fails(self, why, Errno::Again),
        };
        let child = match self.child(&place) {
            Ok(child) => child,
            Err(e) => {
                family.leave(place);
                return fails(self, e.to_string(), Errno::Nomem);
            }
        };
        let pid = place.pid;
        // It has the limits of the thread that starts it (`fence::rank`): that is one of the rank's own. Where there is none, both are dropped.
        let body = move || {
            // Also after a panic the cell goes first.
            let (mut place, mut child) = (place, child);
            let ended = child.live();
            let (status, said) = processes::status(&ended, child.signal);
            if let Some(said) = said {
                child.store.data_mut().wasi.print(2, format!("cloudskin: process {pid}: {said}").as_bytes());
            }
            drop(child);
            place.ended(status);
        };
        let thread = std::thread::Builder::new().name(format!("rank {} p{pid}", self.rank().0)).stack_size(crate::engine::THREAD_STACK);
        match thread.spawn(body) {
            Ok(_) => pid as i32,
            Err(e) => {
                family.forget(pid);
                fails(self, format!("the system has no thread for it: {e}"), Errno::Again)
            }
        }
    }

    /// A copy of this cell, as it is when it has unwound, for a process of its family.
    fn child(&mut self, place: &Place) -> Result<Cell> {
        let globals = globals(&mut self.store, &self.instance)?;
        let engine = self.store.engine().clone();
        let host = self.store.data();
        // Its fabric leads nowhere: messages are the first process's.
        let spec = Spec { rank: host.rank, size: host.size, memory_max: host.wasi.memory_max, budget: host.share.budget.clone(), place: host.place.clone(), ..of_nobody() };
        let process = host.wasi.process.as_ref().expect("it is in a family");
        let files = host.wasi.of_child(processes::Process { family: process.family.clone(), pid: place.pid, share: process.family.share() });
        let mut child = Cell::made(&engine, &self.program, &spec, place.control.clone(), None, Some(files))?;
        if child.memory_bytes() != self.memory_bytes() {
            child.grow(self.memory_bytes() as u64)?;
        }
        set_globals(&mut child.store, &child.instance, &globals)?;
        child.store.data_mut().pending = Some(Pending::Process(Waiting::Forked(0)));
        child.stopped = true;
        let (Linear::Own(from), Linear::Own(into)) = (&self.memory, &child.memory) else { unreachable!("programs with threads do not fork") };
        copy(from.data(&self.store), into.data_mut(&mut child.store));
        Ok(child)
    }

    /// Runs a process that is not its rank's first one, until it ends. The calling thread is its own.
    fn live(&mut self) -> Ended {
        let ended = self.attached(|cell| {
            loop {
                match cell.run_inner() {
                    Ended::Stopped => {} // nobody who moves a rank asks its children
                    ended => return ended,
                }
            }
        });
        match self.store.data_mut().wasi.close_all() {
            Err(message) if matches!(ended, Ended::Exited(_)) => Ended::Failed { message, backtrace: String::new(), code: None },
            _ => ended,
        }
    }
}

/// Makes one memory the same as another, of which it has the size and, where that was never touched, the content.
fn copy(from: &[u8], into: &mut [u8]) {
    // SAFETY: sysconf has no memory effects.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(PAGE);
    let Some(touched) = touched(from, page) else {
        // The kernel does not tell.
        for (from, into) in from.chunks(PAGE).zip(into.chunks_mut(PAGE)).filter(|(from, into)| from != into) {
            into.copy_from_slice(from);
        }
        return;
    };
    for (number, ..) in touched.iter().enumerate().filter(|(_, touched)| **touched) {
        let at = number * page..((number + 1) * page).min(from.len());
        into[at.clone()].copy_from_slice(&from[at]);
    }
}

/// By page of the system's, whether somebody has read or written it. All others hold what they began with. `None`: the kernel does not tell.
fn touched(memory: &[u8], page: usize) -> Option<Vec<bool>> {
    use std::os::unix::fs::FileExt;
    /// The page is in memory, or was and is swapped out.
    const TOUCHED: u64 = 0b11 << 62;
    const ENTRY: usize = 8;
    let map = std::fs::File::open("/proc/self/pagemap").ok()?;
    let (first, pages) = (memory.as_ptr().addr() / page, memory.len().div_ceil(page));
    let mut entries = vec![0; pages * ENTRY];
    map.read_exact_at(&mut entries, (first * ENTRY) as u64).ok()?;
    let (entries, _) = entries.as_chunks::<ENTRY>();
    Some(entries.iter().map(|entry| u64::from_ne_bytes(*entry) & TOUCHED != 0).collect())
}

impl Host {
    /// Whether it is a process that its rank's first one has made, or one that such a one has.
    pub(crate) fn is_child(&self) -> bool {
        self.wasi.process.as_ref().is_some_and(|process| process.pid != processes::FIRST)
    }

    /// Bytes of linear memory as they are counted; 0 in a program with threads, whose memory is counted elsewhere.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.share.bytes
    }

    /// A cell that was built with safe points can stop here, unless MPI has called the function that this thread is in. One that another thread is in puts a
    /// stop off for all ([`Control::leaving`]), but is over some time: who begins to sleep meanwhile must not sleep through the stop after it.
    pub(crate) fn can_stop(&self) -> bool {
        self.points.is_some() && self.within == 0
    }

    /// The cell's files.
    pub(crate) fn files<T>(&mut self, f: impl FnOnce(&mut wasi::State) -> T) -> T {
        match &self.threads {
            Some(threads) => f(&mut threads.wasi.lock().unwrap_or_else(|e| e.into_inner())),
            None => f(&mut self.wasi),
        }
    }
}

/// A cell's memory as MPI sees it, and what its host calls share.
fn parts<'s>(memory: &'s Linear, store: &'s mut Store<Host>) -> (GuestMemory<'s>, &'s mut Host) {
    match memory {
        Linear::Own(memory) => {
            let (mem, host) = memory.data_and_store_mut(store);
            (GuestMemory::Own(mem), host)
        }
        Linear::Shared(memory) => (GuestMemory::Shared(memory.data()), store.data_mut()),
    }
}

/// Begins to unwind: the host call that asked for it returns at once and the guest follows.
pub(crate) fn unwind(caller: &mut Caller<'_, Host>) -> wasmtime::Result<()> {
    caller.data_mut().mode = Mode::Unwinding;
    caller.data().control.left_work();
    set_state(caller, UNWINDING)
}

/// The call at which the stack was unwound has been reached again: the guest is at work.
pub(crate) fn rewound(caller: &mut Caller<'_, Host>) -> wasmtime::Result<()> {
    caller.data_mut().mode = Mode::Running;
    set_state(caller, 0)?;
    caller.data().control.back.store(true, Ordering::SeqCst);
    Ok(())
}

/// Looked up when it is needed: stops are rare, starts of cells are not.
fn set_state(caller: &mut Caller<'_, Host>, state: i32) -> wasmtime::Result<()> {
    let global = caller.get_export(STATE).and_then(Extern::into_global);
    global.ok_or_else(|| wasmtime::Error::msg("the module has lost its global for the state"))?.set(&mut *caller, Val::I32(state))
}

/// What is said of a program that has called `abort`.
const ABORTED: &str = "it called abort()";

/// How a cell has ended whose code came back with an error. `unwinding`: while its stack was being saved.
pub(crate) fn failure(host: &Host, e: wasmtime::Error, unwinding: bool) -> Ended {
    if host.control.killed() {
        return Ended::Killed(host.control.reason());
    }
    let rank = host.rank.0;
    let code = e.downcast_ref::<End>().and_then(|end| if let End::Abort(code) = end { Some(*code) } else { None });
    let name = |f: &wasmtime::FrameInfo| f.func_name().map_or_else(|| format!("function {}", f.func_index()), str::to_string);
    let frames = e.downcast_ref::<WasmBacktrace>().map_or(&[][..], |trace| trace.frames());
    // The engine sees no frames of native code, only the stub by which it was entered.
    let innermost = host.trapped_in.clone().or_else(|| frames.first().map(name));
    // The C library's abort is nothing but this trap.
    let aborted = innermost.is_some_and(|f| f == "abort") && e.downcast_ref::<wasmtime::Trap>() == Some(&wasmtime::Trap::UnreachableCodeReached);
    let why = match host.points {
        Some(points) if unwinding => {
            format!("can't be stopped here: its calls are nested so deeply that what they need does not fit in {} bytes", points.unwind_len)
        }
        _ if aborted => ABORTED.to_string(),
        _ => e.root_cause().to_string(),
    };
    // Who calls MPI_Abort knows where.
    let backtrace = if code.is_some() { String::new() } else { backtrace(host, frames.iter().map(|f| (name(f), f.func_index(), f.func_offset())).collect()) };
    Ended::Failed { message: format!("rank {rank}: {why}"), backtrace, code }
}

/// The host is about to call a function of the guest's, and waits for it: a stop waits too, until [`release`].
pub(crate) fn hold(host: &mut Host) {
    host.within += 1;
    match &host.threads {
        Some(threads) => threads.hold(),
        None => _ = host.control.hold(),
    }
}

/// It has returned.
pub(crate) fn release(host: &mut Host) {
    host.within -= 1;
    host.control.release();
}

/// How a cell has ended of which a thread has thrown what nothing catches. What it is, the program's own C++ library knows; then `std::terminate` has its turn, which
/// may be the program's. `Err`: that has ended the thread in another way.
pub(crate) fn uncaught(store: &mut Store<Host>, instance: &Instance, e: wasmtime::Error) -> wasmtime::Result<Ended> {
    let (control, rank, threads) = (store.data().control.clone(), store.data().rank.0, store.data().threads.clone());
    // Its stack is gone: there is nothing left that could be stopped.
    hold(store.data_mut());
    let thrown = store.take_pending_exception().and_then(|thrown| {
        let tag = thrown.tag(&mut *store).ok()?;
        let of_cxx = instance.get_tag(&mut *store, CXX_TAG).is_some_and(|cxx| Tag::eq(&cxx, &tag, &*store));
        let address = thrown.field(&mut *store, 0).ok()?.i32()?;
        Some(if of_cxx { Some(address) } else { None })
    });
    let what = match thrown {
        Some(Some(address)) => {
            let at = instance.get_typed_func::<i32, u32>(&mut *store, UNCAUGHT).and_then(|f| f.call(&mut *store, address));
            let mut text = [0; UNCAUGHT_BYTES];
            if let Ok(at) = at {
                let memory = match (&threads, store.data().memory) {
                    (Some(threads), _) => GuestMemory::Shared(threads.memory.data()),
                    (None, Some(memory)) => GuestMemory::Own(memory.data_mut(&mut *store)),
                    (None, None) => unreachable!("a running cell has its memory, or its threads have it"),
                };
                // As much of it as is there.
                let bytes = memory.len().saturating_sub(at as usize).min(text.len());
                let _ = memory.read(at as usize, &mut text[..bytes]);
            }
            let text = text.split(|b| *b == 0).next().unwrap_or(&[]);
            let what = format!("an exception that nothing catches: {}", String::from_utf8_lossy(text));
            let ended = instance.get_typed_func::<(), ()>(&mut *store, TERMINATE).and_then(|f| f.call(&mut *store, ()));
            match ended {
                Err(e) if e.is::<End>() || control.killed() => {
                    // With `pthread_exit` in its handler the others go on.
                    release(store.data_mut());
                    return Err(e);
                }
                _ => what,
            }
        }
        _ => "longjmp to a place whose function has returned".to_string(),
    };
    Ok(match failure(store.data(), e, false) {
        Ended::Failed { backtrace, code, .. } => Ended::Failed { message: format!("rank {rank}: {what}"), backtrace, code },
        other => other,
    })
}

/// The calls of these frames, by function and offset in it, innermost first.
fn backtrace(host: &Host, frames: Vec<(String, u32, Option<usize>)>) -> String {
    let places = match &host.lines {
        Lines::Known(data) => lines::find(data, &frames.iter().map(|(_, function, offset)| Some((*function, (*offset)?))).collect::<Vec<_>>()),
        Lines::None | Lines::InOtherTiers => vec![Vec::new(); frames.len()],
    };
    let mut calls: Vec<String> = host.trapped_in.iter().cloned().collect();
    for ((name, ..), places) in frames.into_iter().zip(places) {
        if places.is_empty() {
            calls.push(name);
            continue;
        }
        for lines::Call { inlined, file, line } in places {
            calls.push(match inlined {
                Some(inlined) => format!("{inlined}, inlined ({file}:{line})"),
                None => format!("{name} ({file}:{line})"),
            });
        }
    }
    let mut text = fold(&calls);
    if let Lines::InOtherTiers = host.lines {
        text += "     (no lines and few calls are known of the fast tier's code: run it with --tier quick to see them)\n";
    }
    text
}

/// Calls, a line each; those of a function that calls itself are one.
fn fold(calls: &[String]) -> String {
    let (mut text, mut at) = (String::new(), 0);
    for same in calls.chunk_by(|a, b| a == b) {
        let times = if same.len() > 1 { format!(" (and {} more of it)", same.len() - 1) } else { String::new() };
        text += &format!("{at:3}: {}{times}\n", same[0]);
        at += same.len();
    }
    text
}

#[cfg(test)]
mod tests {
    /// A gigabyte of addresses costs what was touched of it.
    #[test]
    fn what_was_touched_is_copied() {
        let map = || {
            // SAFETY: a new mapping, at no address of anybody's.
            let at = unsafe { libc::mmap(std::ptr::null_mut(), 64 << 20, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
            assert_ne!(at, libc::MAP_FAILED);
            // SAFETY: so many bytes are there, zero and nobody else's, until the test's process ends.
            unsafe { std::slice::from_raw_parts_mut(at.cast::<u8>(), 64 << 20) }
        };
        let (from, into) = (map(), map());
        for at in [0, 5, 4096 * 77 + 1, (64 << 20) - 1] {
            from[at] = at as u8 | 1;
        }
        super::copy(from, into);
        let seen = super::touched(into, 4096).map(|pages| pages.iter().filter(|touched| **touched).count());
        assert!(seen.is_none_or(|pages| pages < 20_000 / 4), "{seen:?} pages were touched for three");
        assert!(from == into);
    }

    #[test]
    fn calls_of_a_function_by_itself_are_one_line() {
        let calls = ["leaf", "walk", "walk", "walk", "main"].map(String::from);
        assert_eq!(super::fold(&calls), "  0: leaf\n  1: walk (and 2 more of it)\n  4: main\n");
    }
}
