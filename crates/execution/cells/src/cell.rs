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
//! so a cell may go on in another process, under another engine. `docs/design/safe-points.md` has the guest's half.

use crate::control::Control;
use crate::engine::{Engine, PAGE, Program, SafePoints};
use crate::error::{Error, Result};
use crate::mpi_host::Pending;
use crate::toolchain::{FLAGS, STATE, instrument::UNWINDING};
use crate::wasi;
use base::unit::Bytes;
use mpi::{Fabric, Rank};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use wasmtime::{Caller, Instance, Memory, Mutability, ResourceLimiter, Store, StoreLimits, StoreLimitsBuilder, TypedFunc, UpdateDeadline, Val, WasmBacktrace};

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

/// [`Spec::spin`] where every rank has a core to itself: some 50 µs, several times what a message takes.
pub const SPIN: u32 = 2000;

/// Bytes of linear memory that cells may have together: what a site gives to its ranks. Without it they take what they want until the system ends
/// the agent, and all ranks with it.
#[derive(Debug)]
pub struct Budget {
    max: u64,
    used: AtomicU64,
}

/// No bound.
impl Default for Budget {
    fn default() -> Budget {
        Budget::new(u64::MAX)
    }
}

impl Budget {
    pub fn new(max: u64) -> Budget {
        Budget { max, used: AtomicU64::new(0) }
    }

    /// Bytes that cells have now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

/// A cell's part of a budget; given back with the cell.
struct Share {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Share {
    /// Takes what is missing to `bytes`, or gives back what is more. `Err`: what all have, and it can't be that much more.
    fn resize(&mut self, bytes: u64) -> std::result::Result<(), u64> {
        let Budget { max, used } = &*self.budget;
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
struct Full {
    place: String,
    more: u64,
    used: u64,
    max: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Running,
    Unwinding,
    Rewinding,
}

/// What host calls find in the store.
pub struct Host {
    pub(crate) memory: Option<Memory>,
    pub(crate) mpi: mpi::State,
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
        // A movable program has two memories, of which that with the flag words is one page and is not the job's to pay for.
        let flags = if self.points.is_some() { FLAGS_BYTES } else { 0 };
        let memories = self.memories.saturating_sub(current).saturating_add(desired);
        let wanted = memories.saturating_sub(flags);
        if wanted > self.memory_max || !self.limits.memory_growing(current, desired, maximum)? {
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
}

/// A guest's way to end early, as an error through the engine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    #[error("exit {0}")]
    Exit(i32),
    #[error("MPI_Abort with code {0}")]
    Abort(i32),
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
    memory: Memory,
    program: Arc<Program>,
    stopped: bool,
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
    flags: MpiFlags,
    unacknowledged: Vec<mpi::Message>,
}

impl Frozen {
    /// Whether what was read can be gone on with. The bytes are foreign: their checksum finds damage, not malice.
    fn check(&self) -> Result<()> {
        let refused = Error::Snapshot;
        if self.mpi.me != self.rank {
            return Err(refused(format!("the MPI state of rank {} is in the snapshot of rank {}", self.mpi.me.0, self.rank.0)));
        }
        self.mpi.check(self.size).map_err(|e| refused(e.message))?;
        for m in &self.unacknowledged {
            if m.header.src != self.rank || m.header.dst.0 >= self.size {
                return Err(refused(format!("a message from rank {} to rank {} is among its own, in a job of {} ranks", m.header.src.0, m.header.dst.0, self.size)));
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Serialize, Deserialize)]
enum Number {
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

/// An instance that is only looked at, never run.
pub(crate) fn bare(engine: &Engine, program: &Program) -> Result<(Store<Host>, Instance)> {
    struct Nowhere;
    impl mpi::Wire for Nowhere {
        fn send(&self, _: mpi::Message) {}
        fn acknowledge(&self, _: Rank, _: Rank, _: u64) {}
    }
    let spec = Spec {
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
    };
    instantiate(engine, program, &spec, Arc::default())
}

fn instantiate(engine: &Engine, program: &Program, spec: &Spec, control: Arc<Control>) -> Result<(Store<Host>, Instance)> {
    let limit = usize::try_from(spec.memory_max).unwrap_or(usize::MAX);
    let host = Host {
        memory: None,
        mpi: mpi::State::new(spec.rank, spec.size),
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
        limits: StoreLimitsBuilder::new().memory_size(limit).build(),
        share: Share { budget: spec.budget.clone(), bytes: 0 },
        memory_max: limit,
        memories: 0,
        memories_before: 0,
    };
    let mut store = Store::new(&engine.inner(!program.ticks)?, host);
    store.limiter(|host| host);
    if program.ticks {
        // It has no flag words to look at: its engine's clock makes it look here instead, from its start function on.
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|store| match store.data().control.killed() {
            true => Err(wasmtime::Error::msg("killed")),
            false => Ok(UpdateDeadline::Continue(1)),
        });
    }
    let instance = program.pre.instantiate(&mut store).map_err(|e| {
        let control = &store.data().control;
        if control.killed() {
            return Error::Killed(control.reason());
        }
        if let Some(full) = e.downcast_ref::<Full>() {
            return Error::Resources(full.to_string());
        }
        Error::Resources(format!("no room for the cell: {e:#}; raise its memory limit of {limit} bytes or start fewer ranks"))
    })?;
    let memory = instance.get_memory(&mut store, "memory");
    store.data_mut().memory = memory;
    Ok((store, instance))
}

impl Cell {
    /// A new cell at the beginning of its program. The fabric already knows that the rank is here.
    pub fn new(engine: &Engine, program: &Arc<Program>, spec: &Spec, control: Arc<Control>) -> Result<Cell> {
        let (mut store, instance) = instantiate(engine, program, spec, control)?;
        let start = instance.get_typed_func::<(), ()>(&mut store, "_start").map_err(engine_failed)?;
        let memory = store.data().memory.expect("`Engine::load` made sure that it is exported");
        Ok(Cell { store, instance, start, memory, program: program.clone(), stopped: false })
    }

    pub fn program(&self) -> &Arc<Program> {
        &self.program
    }

    pub fn rank(&self) -> Rank {
        self.store.data().mpi.me
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
        let control = self.control();
        let flags = self.program.movable().then(|| self.instance.get_memory(&mut self.store, FLAGS).expect("`inspect` made sure that it is exported"));
        // SAFETY: linear memory of the pool begins at a page, never moves and lives as long as the store, which outlives this call; that of the
        // flags has a page, as `inspect` made sure. `attached` ends with the call, also by a panic.
        let attached = unsafe { control.attach(self.memory.data_ptr(&self.store), flags.map(|f| f.data_ptr(&self.store))) };
        control.memory_bytes.store(self.memory.data_size(&self.store) as u64, Ordering::Relaxed);
        // SAFETY: gettid has no arguments and no failure.
        control.thread.store(unsafe { libc::syscall(libc::SYS_gettid) } as u32, Ordering::Relaxed);
        let rank = self.store.data().mpi.me;
        let fabric = self.store.data().fabric.clone();
        fabric.mailbox(rank).bell.attach();
        let ended = self.run_inner();
        let ended = match ended {
            Ended::Exited(code) => self.drain(code),
            other => other,
        };
        control.memory_bytes.store(self.memory.data_size(&self.store) as u64, Ordering::Relaxed);
        drop(attached);
        ended
    }

    fn run_inner(&mut self) -> Ended {
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
            match self.start.call(&mut self.store, ()) {
                Ok(()) => {}
                Err(e) => {
                    return match e.downcast_ref::<End>() {
                        Some(End::Exit(code)) => Ended::Exited(*code),
                        _ => self.failure(e),
                    };
                }
            }
            match self.state() {
                0 => return Ended::Exited(0),
                UNWINDING => {}
                other => {
                    let rank = self.store.data().mpi.me.0;
                    let message = format!("rank {rank}: its stack does not lead back to safe point {other}: it went on from a damaged snapshot, or has overwritten its unwind area");
                    return Ended::Failed { message, backtrace: String::new(), code: None };
                }
            }
            self.stopped = true;
            let host = self.store.data_mut();
            if host.mode != Mode::Unwinding {
                host.left_work();
            }
            host.mode = Mode::Running;
            if host.control.killed() {
                return Ended::Killed(host.control.reason());
            }
            let asked = host.control.stopping();
            host.control.clear();
            if asked {
                return Ended::Stopped;
            }
            // The stop was taken back while the guest was on its way out.
        }
    }

    /// The guest's global `state`; 0 for a program without safe points.
    fn state(&mut self) -> i32 {
        if !self.program.movable() {
            return 0;
        }
        let state = self.instance.get_global(&mut self.store, STATE).map(|global| global.get(&mut self.store));
        state.and_then(|value| value.i32()).expect("`inspect` calls no program movable that does not export it as an i32")
    }

    fn failure(&mut self, e: wasmtime::Error) -> Ended {
        let unwinding = self.state() == UNWINDING;
        let control = &self.store.data().control;
        if control.killed() {
            return Ended::Killed(control.reason());
        }
        let rank = self.store.data().mpi.me.0;
        let code = e.downcast_ref::<End>().and_then(|end| if let End::Abort(code) = end { Some(*code) } else { None });
        let name = |f: &wasmtime::FrameInfo| f.func_name().map_or_else(|| format!("function {}", f.func_index()), str::to_string);
        let calls: Vec<String> = e.downcast_ref::<WasmBacktrace>().map_or(Vec::new(), |trace| trace.frames().iter().map(name).collect());
        // The C library's abort is nothing but this trap.
        let aborted = calls.first().is_some_and(|f| f == "abort") && e.downcast_ref::<wasmtime::Trap>() == Some(&wasmtime::Trap::UnreachableCodeReached);
        let why = match self.store.data().points {
            Some(points) if unwinding => {
                format!("can't be stopped here: its calls are nested so deeply that what they need does not fit in {} bytes", points.unwind_len)
            }
            _ if aborted => "it called abort()".to_string(),
            _ => e.root_cause().to_string(),
        };
        // Who calls MPI_Abort knows where.
        let backtrace = if code.is_some() { String::new() } else { fold(&calls) };
        Ended::Failed { message: format!("rank {rank}: {why}"), backtrace, code }
    }

    /// What the rank has sent must be on its way before it goes. Messages that come meanwhile, acknowledgements and kills ring the bell.
    fn drain(&mut self, code: i32) -> Ended {
        let memory = self.memory;
        let (mem, host) = memory.data_and_store_mut(&mut self.store);
        let (rank, fabric) = (host.mpi.me, host.fabric.clone());
        loop {
            if let Err(e) = host.mpi.progress(mem, &fabric) {
                return Ended::Failed { message: format!("rank {}: at its end: {e}", rank.0), backtrace: String::new(), code: None };
            }
            if host.mpi.flushed() && fabric.all_acknowledged(rank) {
                return match host.wasi.close_all() {
                    Ok(()) => Ended::Exited(code),
                    Err(message) => Ended::Failed { message: format!("rank {}: {message}", rank.0), backtrace: String::new(), code: None },
                };
            }
            if host.control.killed() {
                return Ended::Killed(host.control.reason());
            }
            // Of room in a ring nobody tells, so it is looked for.
            let longest = if host.mpi.flushed() { DRAIN } else { DRAIN_FULL };
            fabric.mailbox(rank).bell.wait(longest, || {
                fabric.waiting(rank) || host.mpi.flushed() && fabric.all_acknowledged(rank) || host.control.killed()
            });
        }
    }

    /// Bytes of linear memory now.
    pub fn memory_bytes(&self) -> usize {
        self.memory.data_size(&self.store)
    }

    /// The memory of a cell that does not run.
    pub fn memory(&self) -> &[u8] {
        self.memory.data(&self.store)
    }

    /// Everything but the memory, of a stopped cell. The fabric must hold the rank ([`Fabric::hold`]).
    pub fn freeze(&mut self) -> Result<Frozen> {
        assert!(self.stopped, "only a stopped cell can be written down");
        let memory = self.memory;
        let (mem, host) = memory.data_and_store_mut(&mut self.store);
        let (rank, fabric) = (host.mpi.me, host.fabric.clone());
        // What lies in rings becomes part of the state, and what this rank sent to ranks that have left becomes unacknowledged.
        fabric.sweep();
        host.mpi.absorb(mem, &fabric).map_err(|e| Error::Snapshot(e.to_string()))?;
        let exports: Vec<(String, wasmtime::Global)> = self
            .instance
            .exports(&mut self.store)
            .filter_map(|e| Some((e.name().to_string(), e.into_global()?)))
            .collect();
        let mut globals = Vec::new();
        for (name, global) in exports {
            if global.ty(&self.store).mutability() == Mutability::Const {
                continue;
            }
            let number = match global.get(&mut self.store) {
                Val::I32(v) => Number::I32(v),
                Val::I64(v) => Number::I64(v),
                Val::F32(v) => Number::F32(v),
                Val::F64(v) => Number::F64(v),
                Val::V128(v) => Number::V128(v.as_u128()),
                _ => return Err(Error::NotMovable(format!("global {name} holds a reference, which can't be written down"))),
            };
            globals.push((name, number));
        }
        let host = self.store.data();
        Ok(Frozen {
            rank,
            size: host.size,
            program_sha256: self.program.sha256.clone(),
            memory_bytes: self.memory.data_size(&self.store) as u64,
            args: host.wasi.args.clone(),
            env: host.wasi.env.clone(),
            memory_max: host.wasi.memory_max,
            globals,
            mpi: host.mpi.clone(),
            wasi: host.wasi.save().map_err(Error::Snapshot)?,
            pending: host.pending.clone(),
            flags: host.flags,
            unacknowledged: fabric.unacknowledged(rank),
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
            return Err(Error::NotMovable("the program was not built with safe points; compile it with `cloudskin cc`".into()));
        }
        if frozen.program_sha256 != self.program.sha256 {
            return Err(Error::Snapshot(format!("it is of program {}, not {}", frozen.program_sha256, self.program.sha256)));
        }
        let host = self.store.data();
        if (frozen.rank, frozen.size) != (host.mpi.me, host.size) {
            return Err(Error::Snapshot(format!("it is of rank {} of {}, not of rank {} of {}", frozen.rank.0, frozen.size, host.mpi.me.0, host.size)));
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
        for (name, number) in &frozen.globals {
            let global = self
                .instance
                .get_global(&mut self.store, name)
                .ok_or_else(|| Error::Snapshot(format!("the program has no global {name}")))?;
            let value = match *number {
                Number::I32(v) => Val::I32(v),
                Number::I64(v) => Val::I64(v),
                Number::F32(v) => Val::F32(v),
                Number::F64(v) => Val::F64(v),
                Number::V128(v) => Val::V128(v.into()),
            };
            global.set(&mut self.store, value).map_err(|e| Error::Snapshot(format!("global {name}: {e}")))?;
        }
        let host = self.store.data_mut();
        host.mpi = frozen.mpi.clone();
        host.pending = frozen.pending.clone();
        host.flags = frozen.flags;
        host.wasi.restore(&frozen.wasi).map_err(Error::Snapshot)?;
        self.stopped = true;
        Ok(())
    }

    /// Makes the memory at least this large; refused beyond the cell's limit.
    pub(crate) fn reach(&mut self, bytes: u64) -> Result<()> {
        if bytes > self.memory_bytes() as u64 {
            self.grow(bytes.next_multiple_of(65536))?;
        }
        Ok(())
    }

    fn grow(&mut self, bytes: u64) -> Result<()> {
        let have = self.memory.data_size(&self.store) as u64;
        if bytes < have || bytes % 65536 != 0 {
            return Err(Error::Snapshot(format!("it says that its memory has {bytes} bytes; the program starts with {have}")));
        }
        let more = (bytes - have) / 65536;
        self.memory.grow(&mut self.store, more).map_err(|e| match e.downcast_ref::<Full>() {
            Some(full) => Error::Resources(full.to_string()),
            None => Error::Resources(format!("no memory for a cell of {bytes} bytes: {e}")),
        })?;
        Ok(())
    }

    /// Writes pages of a cell that does not run.
    pub fn write(&mut self, page: usize, data: &[u8]) -> Result<()> {
        let at = page.checked_mul(PAGE).filter(|at| at + data.len() <= self.memory_bytes());
        let at = at.ok_or_else(|| Error::Snapshot(format!("page {page} is outside of the cell's memory")))?;
        self.memory.data_mut(&mut self.store)[at..at + data.len()].copy_from_slice(data);
        Ok(())
    }

    /// Makes a thawed cell the place where its rank is.
    pub fn arrive(&mut self, frozen: &Frozen) {
        self.store.data().fabric.arrive(frozen.rank, frozen.unacknowledged.clone());
    }
}

impl Host {
    /// A cell that was built with safe points can stop here, unless MPI has called the function that is running.
    pub(crate) fn can_stop(&self) -> bool {
        self.points.is_some() && !self.control.held()
    }

    fn left_work(&self) {
        *self.control.left_at.lock().unwrap_or_else(|e| e.into_inner()) = Some(std::time::Instant::now());
    }
}

/// Begins to unwind: the host call that asked for it returns at once and the guest follows.
pub(crate) fn unwind(caller: &mut Caller<'_, Host>) -> wasmtime::Result<()> {
    caller.data_mut().mode = Mode::Unwinding;
    caller.data().left_work();
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
    let global = caller.get_export(STATE).and_then(wasmtime::Extern::into_global);
    global.ok_or_else(|| wasmtime::Error::msg("the module has lost its global for the state"))?.set(&mut *caller, Val::I32(state))
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
    #[test]
    fn calls_of_a_function_by_itself_are_one_line() {
        let calls = ["leaf", "walk", "walk", "walk", "main"].map(String::from);
        assert_eq!(super::fold(&calls), "  0: leaf\n  1: walk (and 2 more of it)\n  4: main\n");
    }
}
