//! Threads of a cell: each is a thread of the agent's, with an instance of the module of its own over the cell's one memory.
//!
//! ```text
//! guest: pthread_create ─▶ spawn ─▶ new thread: instantiate, __stack_pointer, __cloudskin_thread(..) ─▶ its word becomes 1, who joins is woken
//! guest: a lock is taken ─▶ wait32 ─▶ Parked, the cell's table of who sleeps where ◀─ notify ◀─ guest: the lock is free
//! the first thread ends, exits or fails, any other exits or fails, the cell is killed ─▶ all threads end ─▶ `run` says what came first
//! a stop ─▶ each thread unwinds, also out of its sleep, and leaves its instance behind (`Life`) ─▶ the last has: `run` of the first says that the cell has stopped
//!                                                               `run` again ─▶ a thread for each `Life`, which winds its stack up ◀─ `Frozen`, from elsewhere
//! ```
//!
//! What threads have in common is here: memory, files, output, limits, and MPI's state, with which one at a time has its turn (`turn`).
//! `docs/design/threads.md` has the reasons.
//!
//! Who sleeps when the cell is stopped looks at its word again when it goes on, as if it had come to it only then: nothing is kept of where it stood in the queue,
//! and a wake-up that comes for its word meanwhile finds nobody, and has changed the word.
//!
//! A thread can be ended wherever it is. In its code it looks at its flag words, or without safe points at the engine's clock. Asleep it is in [`Parked`],
//! since modules with waiting instructions of their own are refused (`toolchain::inspect`).

use crate::cell::{Budget, End, Ended, Full, Host, Mode, Number, Share, Spec};
use crate::control::Control;
use crate::engine::{Engine, Program, THREAD_STACK};
use crate::error::{Error, Result};
use crate::mpi_host::Pending;
use crate::toolchain::{END, TOP, instrument::UNWINDING};
use crate::turn::Turn;
use crate::{cell, wasi};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use wasmtime::{Caller, Instance, InstancePre, Linker, MemoryType, SharedMemory, Store, ThrownException, TypedFunc, Val};

/// The module of what threads ask of the host.
pub const MODULE: &str = "cloudskin_thread";
/// Its functions.
pub const NAMES: [&str; 7] = ["spawn", "wait32", "wait64", "notify", "grow", "exit", "processors"];
/// Threads that a cell may have at once, the first one with them.
pub const THREADS_MAX: u32 = 128;
/// Bytes in a page of linear memory.
const PAGE_BYTES: u64 = 64 << 10;
/// No word has this address: who sleeps here is woken by time alone.
const NOWHERE: u32 = u32::MAX;
/// WASI's "try again": what `pthread_create` answers when there is no thread to be had.
const EAGAIN: i32 = 6;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// Who sleeps at which address of a cell's memory. One lock for all: who comes here has no work to do.
#[derive(Default)]
pub(crate) struct Parked(Mutex<Places>);

#[derive(Default)]
struct Places {
    over: bool,
    /// All are to stop: who sleeps leaves, and nobody begins to.
    halted: bool,
    asleep: HashMap<u32, VecDeque<Arc<Sleeper>>>,
}

#[derive(Default)]
struct Sleeper {
    woken: AtomicBool,
    bell: Condvar,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    Notified,
    /// The word was another one already.
    Changed,
    Late,
    /// The cell is to stop.
    Stopped,
    /// The cell ends.
    Over,
}

impl Parked {
    /// Sleeps at an address if the word there is `unchanged`. Between that look and the sleep no [`Parked::notify`] can be missed. `stops`: it can be stopped.
    pub(crate) fn wait(&self, at: u32, unchanged: impl Fn() -> bool, longest: Option<Duration>, stops: bool) -> Woken {
        // A time that no clock will show is none.
        let end = longest.and_then(|longest| Instant::now().checked_add(longest));
        let mut places = lock(&self.0);
        if places.over {
            return Woken::Over;
        }
        if !unchanged() {
            return Woken::Changed;
        }
        if places.halted && stops {
            return Woken::Stopped;
        }
        let me: Arc<Sleeper> = Arc::default();
        places.asleep.entry(at).or_default().push_back(me.clone());
        loop {
            places = match end.map(|end| end.saturating_duration_since(Instant::now())) {
                None => me.bell.wait(places).unwrap_or_else(|e| e.into_inner()),
                Some(Duration::ZERO) => {
                    places.leave(at, &me);
                    return Woken::Late;
                }
                Some(left) => me.bell.wait_timeout(places, left).unwrap_or_else(|e| e.into_inner()).0,
            };
            if places.over {
                return Woken::Over;
            }
            // Before a stop: a wake-up that was counted is not lost.
            if me.woken.load(Ordering::Relaxed) {
                return Woken::Notified;
            }
            if places.halted && stops {
                places.leave(at, &me);
                return Woken::Stopped;
            }
        }
    }

    /// Wakes up to `count` that sleep at an address, longest sleepers first; how many there were.
    pub(crate) fn notify(&self, at: u32, count: u32) -> u32 {
        let mut places = lock(&self.0);
        let Some(here) = places.asleep.get_mut(&at) else { return 0 };
        let mut woken = 0;
        while woken < count
            && let Some(sleeper) = here.pop_front()
        {
            sleeper.woken.store(true, Ordering::Relaxed);
            sleeper.bell.notify_one();
            woken += 1;
        }
        if here.is_empty() {
            places.asleep.remove(&at);
        }
        woken
    }

    /// Wakes all, and nobody who can be stopped sleeps here until [`Parked::go_on`].
    pub(crate) fn halt(&self) {
        let mut places = lock(&self.0);
        places.halted = true;
        places.asleep.values().flatten().for_each(|sleeper| sleeper.bell.notify_one());
    }

    /// The stop is over, or was taken back; who has not left yet sleeps on.
    pub(crate) fn go_on(&self) {
        lock(&self.0).halted = false;
    }

    /// Wakes all, and nobody sleeps here any more.
    pub(crate) fn end(&self) {
        let mut places = lock(&self.0);
        places.over = true;
        places.asleep.drain().flat_map(|(_, here)| here).for_each(|sleeper| sleeper.bell.notify_one());
    }
}

impl Places {
    fn leave(&mut self, at: u32, me: &Arc<Sleeper>) {
        if let Some(here) = self.asleep.get_mut(&at) {
            here.retain(|other| !Arc::ptr_eq(other, me));
            if here.is_empty() {
                self.asleep.remove(&at);
            }
        }
    }
}

/// What a cell's threads have in common.
pub(crate) struct Threads {
    pub(crate) memory: SharedMemory,
    pub(crate) wasi: Mutex<wasi::State>,
    pub(crate) turn: Turn,
    pre: InstancePre<Host>,
    engine: wasmtime::Engine,
    program: Arc<Program>,
    spec: Spec,
    pub(crate) control: Arc<Control>,
    memory_max: u64,
    share: Mutex<Share>,
    team: Mutex<Team>,
    all_gone: Condvar,
    /// The same as `team.ended.is_some()`, for who looks often.
    over: AtomicBool,
}

#[derive(Default)]
struct Team {
    /// Threads beside the first one that have not ended and not stopped.
    running: u32,
    /// Those that have stopped. The first thread takes them all when the others have come, or the cell ends.
    stopped: Vec<Life>,
    /// It has been said that there are too many.
    told: bool,
    /// How the first that ended the cell did so.
    ended: Option<Ended>,
}

/// A thread of the agent's that is not there any more, also after a panic.
struct Leaves {
    threads: Arc<Threads>,
    /// The word that says that the guest's thread has ended.
    gone: u32,
    /// That thread goes on some time.
    stopped: Option<Life>,
}

impl Leaves {
    /// What is to go on some time stays.
    fn behind(&mut self, life: Option<Life>) {
        self.stopped = life;
    }
}

impl Drop for Leaves {
    fn drop(&mut self) {
        let Leaves { threads, gone, stopped } = self;
        if std::thread::panicking() {
            threads.end(Ended::Failed { message: format!("rank {}: the agent's thread behind one of its threads panicked", threads.spec.rank.0), backtrace: String::new(), code: None });
        }
        if stopped.is_none() {
            threads.word(*gone).store(1, Ordering::SeqCst);
            threads.control.parked.notify(*gone, u32::MAX);
        }
        // Last: who has seen the count go down reads the memory.
        let mut team = lock(&threads.team);
        match stopped.take() {
            // It was called back before it came here.
            Some(life) if !threads.control.gathering() => {
                drop(team);
                threads.back(life);
            }
            stopped => {
                team.running -= 1;
                team.stopped.extend(stopped);
                threads.all_gone.notify_all();
            }
        }
    }
}

/// A thread of the guest's beside the first one, with an instance of the module of its own.
pub(crate) struct Life {
    store: Store<Host>,
    instance: Instance,
    start: TypedFunc<u32, ()>,
    /// What the guest knows it by.
    thread: u32,
    gone: u32,
}

/// The same as it travels.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Frozen {
    thread: u32,
    /// The word that becomes 1 when it has ended, which the agent has promised to whoever joins.
    gone: u32,
    globals: Vec<(String, Number)>,
    /// The call in which it sleeps.
    pending: Option<Pending>,
}

/// Why a thread is not at work any more.
enum Left {
    Ended,
    /// And the cell with it.
    All(Ended),
    Stopped,
}

impl Life {
    /// An instance that has not begun.
    fn new(threads: &Arc<Threads>, thread: u32, gone: u32) -> wasmtime::Result<Life> {
        let mut store = cell::store_of(&threads.engine, &threads.program, &threads.spec, threads.control.clone(), Some(threads.clone()));
        let instance = threads.pre.instantiate(&mut store)?;
        let start = instance.get_typed_func::<u32, ()>(&mut store, "__cloudskin_thread")?;
        store.data_mut().thread = thread;
        Ok(Life { store, instance, start, thread, gone })
    }

    /// At the beginning. `area`: where its calls are kept while the cell is stopped, as address and bytes.
    fn born(threads: &Arc<Threads>, stack: u32, thread: u32, gone: u32, area: Option<(u32, u32)>) -> wasmtime::Result<Life> {
        let mut life = Life::new(threads, thread, gone)?;
        let mut set = |name: &str, value: u32| {
            let global = life.instance.get_global(&mut life.store, name).expect("`inspect` made sure that it is there");
            global.set(&mut life.store, Val::I32(value as i32))
        };
        set("__stack_pointer", stack)?;
        if let Some((at, bytes)) = area {
            set(TOP, at)?;
            set(END, at.saturating_add(bytes))?;
        }
        Ok(life)
    }

    /// One that has stopped.
    pub(crate) fn freeze(&mut self) -> Result<Frozen> {
        let globals = cell::globals(&mut self.store, &self.instance)?;
        Ok(Frozen { thread: self.thread, gone: self.gone, globals, pending: self.store.data().pending.clone() })
    }

    /// Runs until it has ended or stopped.
    fn live(&mut self, threads: &Threads) -> Left {
        loop {
            let flags = cell::flags(&mut self.store, &self.instance, &threads.program);
            // SAFETY: that memory has a page, as `inspect` made sure, never moves and lives as long as the store, which outlives this call; `joined` does not.
            let joined = unsafe { threads.control.join(flags) };
            if self.store.data().pending.is_some() {
                self.store.data_mut().mode = Mode::Rewinding;
            }
            let mut done = self.start.call(&mut self.store, self.thread);
            // While its flag words can be reached: the program's own handler runs, and may be ended.
            if let Err(e) = done {
                done = match e.is::<ThrownException>() {
                    true => match cell::uncaught(&mut self.store, &self.instance, e) {
                        Ok(failed) => return Left::All(failed),
                        Err(e) => Err(e),
                    },
                    false => Err(e),
                };
            }
            drop(joined);
            let state = cell::state(&mut self.store, &self.instance, &threads.program);
            return match done {
                Ok(()) => match state {
                    0 => Left::Ended,
                    UNWINDING => {
                        self.store.data_mut().mode = Mode::Running;
                        threads.control.left_work();
                        if !threads.gathers() {
                            continue;
                        }
                        Left::Stopped
                    }
                    other => Left::All(cell::lost(threads.spec.rank, other)),
                },
                Err(e) => match e.downcast_ref::<End>() {
                    Some(End::Thread | End::Over) => Left::Ended,
                    Some(End::Exit(code)) => Left::All(Ended::Exited(*code)),
                    _ => Left::All(cell::failure(self.store.data(), e, state == UNWINDING)),
                },
            };
        }
    }
}

impl Threads {
    /// The memory of a new cell, and what its threads will be made from. `limit`: of its memory, in bytes.
    pub(crate) fn new(engine: &Engine, program: &Arc<Program>, spec: &Spec, control: Arc<Control>) -> Result<Arc<Threads>> {
        let (min, max) = program.shared_pages.expect("only called for programs with threads");
        let limit = spec.memory_max / PAGE_BYTES;
        if limit < min {
            return Err(Error::Resources(format!("no room for the cell: it begins with {} bytes; raise its memory limit of {} bytes", min * PAGE_BYTES, spec.memory_max)));
        }
        let max = limit.min(max);
        let mut share = Share::new(spec.budget.clone());
        share.resize(min * PAGE_BYTES).map_err(|used| Error::Resources(full(spec, &spec.budget, min * PAGE_BYTES, used).to_string()))?;
        let inner = engine.inner(program)?;
        // Both fit in 32 bits: they are of a memory with 32-bit addresses.
        let memory = SharedMemory::new(&inner, MemoryType::shared(min as u32, max as u32)).map_err(|e| Error::Resources(format!("no memory for the cell: {e:#}")))?;
        let pre = program.over(&inner, &memory)?;
        Ok(Arc::new(Threads {
            wasi: Mutex::new(wasi::State::new(spec, program.knows_workdir)),
            turn: Turn::new(mpi::State::new(spec.rank, spec.size)),
            memory,
            pre,
            engine: inner,
            program: program.clone(),
            spec: spec.clone(),
            control,
            memory_max: max * PAGE_BYTES,
            share: Mutex::new(share),
            team: Mutex::default(),
            all_gone: Condvar::new(),
            over: AtomicBool::new(false),
        }))
    }

    pub(crate) fn pre(&self) -> &InstancePre<Host> {
        &self.pre
    }

    /// Whether its threads are to end.
    pub(crate) fn over(&self) -> bool {
        self.over.load(Ordering::Relaxed) || self.control.killed()
    }

    /// Ends all threads; how the cell ended is what the first says who comes here.
    fn end(&self, how: Ended) {
        lock(&self.team).ended.get_or_insert(how);
        self.over.store(true, Ordering::Relaxed);
        self.control.end();
        self.turn.end();
        self.ring();
    }

    /// Wakes who waits for MPI.
    fn ring(&self) {
        self.spec.fabric.mailbox(self.spec.rank).bell.ring();
    }

    /// A thread has left its work for a stop, and calls the others. `false`: it is to go back.
    fn gathers(&self) -> bool {
        let gathers = self.control.gather();
        if gathers {
            self.ring();
        }
        gathers
    }

    /// MPI is about to call a function of the guest's. As long as it runs no thread stands still, for it may want what such a one has: a lock of the allocator's.
    /// Who has left its work already is called back; the stop comes again when the function has returned.
    pub(crate) fn hold(self: &Arc<Self>) {
        if self.control.hold() {
            let mut team = lock(&self.team);
            let stopped = std::mem::take(&mut team.stopped);
            team.running += stopped.len() as u32;
            drop(team);
            stopped.into_iter().for_each(|life| self.back(life));
            self.all_gone.notify_all();
        }
    }

    /// Lets one that has stopped, and counts as running, go on.
    fn back(self: &Arc<Self>, mut life: Life) {
        let gone = life.gone;
        let body = move |threads: &Arc<Threads>| (life.live(threads), Some(life));
        if let Err(e) = self.start(gone, body) {
            let message = format!("rank {}: no thread of the system's for one of its threads: {e}; raise the agent's limit of threads (`ulimit -u`)", self.spec.rank.0);
            self.end(Ended::Failed { message, backtrace: String::new(), code: None });
        }
    }

    /// The first thread has ended: waits for the others, and says how the cell did. A wait with an end: each of them looks, at its next loop or call or in
    /// its sleep, whether it is over.
    pub(crate) fn finish(&self, first: Ended) -> Ended {
        self.end(first);
        let mut team = lock(&self.team);
        while team.running > 0 {
            team = self.all_gone.wait(team).unwrap_or_else(|e| e.into_inner());
        }
        let stopped = std::mem::take(&mut team.stopped);
        let ended = team.ended.clone().expect("it has just been set");
        drop(team);
        // They hold what they are held by.
        drop(stopped);
        ended
    }

    /// Whether one of the threads has ended the cell.
    pub(crate) fn ended(&self) -> bool {
        lock(&self.team).ended.is_some()
    }

    /// The first thread has left its work for a stop: waits until all others have, or have ended, and gives those that are to go on. `None`: it goes back,
    /// and so do they ([`Threads::hold`]).
    pub(crate) fn gather(&self) -> Option<Vec<Life>> {
        if !self.gathers() {
            return None;
        }
        let mut team = lock(&self.team);
        while team.running > 0 {
            // Under the lock, and before each wait: `hold` ends the gathering first, then takes the lock, then wakes who waits here.
            if !self.control.gathering() {
                return None;
            }
            team = self.all_gone.wait(team).unwrap_or_else(|e| e.into_inner());
        }
        Some(std::mem::take(&mut team.stopped))
    }

    /// Lets those go on that [`Threads::gather`] has given. The first thread is about to.
    pub(crate) fn go_on(self: &Arc<Self>, lives: Vec<Life>) {
        self.control.go_on();
        lock(&self.team).running += lives.len() as u32;
        lives.into_iter().for_each(|life| self.back(life));
    }

    /// Threads that were frozen elsewhere, in a cell that has not begun and whose memory is as large as theirs was.
    pub(crate) fn thaw(self: &Arc<Self>, frozen: &[Frozen]) -> Result<Vec<Life>> {
        if frozen.len() >= THREADS_MAX as usize {
            return Err(Error::Snapshot(format!("it has {} threads, a cell has at most {THREADS_MAX}", frozen.len() + 1)));
        }
        let thaw = |frozen: &Frozen| -> Result<Life> {
            self.address(frozen.gone, 0, 4).map_err(|_| Error::Snapshot(format!("what says that a thread has ended is to be at {:#x}, where there is no aligned word", frozen.gone)))?;
            let mut life = Life::new(self, frozen.thread, frozen.gone).map_err(|e| Error::Resources(format!("no room for a thread of the cell: {e:#}")))?;
            cell::set_globals(&mut life.store, &life.instance, &frozen.globals)?;
            life.store.data_mut().pending = frozen.pending.clone();
            Ok(life)
        };
        frozen.iter().map(thaw).collect()
    }

    /// The aligned word at an address that has been checked.
    fn word(&self, at: u32) -> &AtomicU32 {
        let place = self.memory.data()[at as usize].get().cast::<AtomicU32>();
        assert!(place.is_aligned() && at as usize + 4 <= self.memory.data().len(), "the word at {at:#x} was checked");
        // SAFETY: four bytes from there on are in the memory and aligned, as was just asserted. Shared memory never moves or shrinks, and lives as long as
        // `self.memory`. The guest changes it while this reference lives, which is what an atomic is for.
        unsafe { &*place }
    }

    /// The same for eight bytes.
    fn long(&self, at: u32) -> &AtomicU64 {
        let place = self.memory.data()[at as usize].get().cast::<AtomicU64>();
        assert!(place.is_aligned() && at as usize + 8 <= self.memory.data().len(), "the word at {at:#x} was checked");
        // SAFETY: as in `word`.
        unsafe { &*place }
    }

    /// An address and an offset as one, if `bytes` are there and aligned.
    fn address(&self, at: u32, offset: u32, bytes: u32) -> wasmtime::Result<u32> {
        let sum = u64::from(at) + u64::from(offset);
        if sum % u64::from(bytes) != 0 || sum + u64::from(bytes) > self.memory.data_size() as u64 {
            return Err(wasmtime::Error::msg(format!("a thread waits for or wakes what lies at address {sum:#x}, where there is no aligned word")));
        }
        Ok(sum as u32)
    }

    /// More pages; the pages before, or `None` beyond the cell's own limit.
    pub(crate) fn grow(&self, pages: u64) -> wasmtime::Result<Option<u64>> {
        // Under its lock nobody else grows.
        let mut share = lock(&self.share);
        let before = self.memory.size();
        let wanted = before.saturating_add(pages).saturating_mul(PAGE_BYTES);
        if wanted > self.memory_max {
            return Ok(None);
        }
        // An error and no plain refusal, for the reason that `Host::memory_growing` has.
        let had = before * PAGE_BYTES;
        share.resize(wanted).map_err(|used| wasmtime::Error::new(full(&self.spec, &self.spec.budget, wanted - had, used)))?;
        if self.memory.grow(pages).is_err() {
            share.resize(had).expect("giving back is never refused");
            return Ok(None);
        }
        self.control.memory_bytes.store(wanted, Ordering::Relaxed);
        Ok(Some(before))
    }

    fn spawn(self: &Arc<Self>, stack: u32, thread: u32, gone: u32) -> wasmtime::Result<i32> {
        self.address(gone, 0, 4)?;
        // Two words behind the first say where its calls are kept while the cell is stopped (`guests/threads.h`).
        let area = match self.program.movable() {
            true => Some((self.word(self.address(gone, 4, 4)?).load(Ordering::Relaxed), self.word(self.address(gone, 8, 4)?).load(Ordering::Relaxed))),
            false => None,
        };
        let mut team = lock(&self.team);
        if team.running + team.stopped.len() as u32 + 1 >= THREADS_MAX {
            if !std::mem::replace(&mut team.told, true) {
                drop(team);
                let line = format!("cloudskin: pthread_create fails: a cell may have {THREADS_MAX} threads at once, and has them\n");
                lock(&self.wasi).print(2, line.as_bytes());
            }
            return Ok(EAGAIN);
        }
        team.running += 1;
        drop(team);
        let body = move |threads: &Arc<Threads>| match Life::born(threads, stack, thread, gone, area) {
            Ok(mut life) => (life.live(threads), Some(life)),
            Err(e) if e.is::<End>() => (Left::Ended, None),
            Err(e) => {
                let message = format!("rank {}: no room for one of its threads: {e:#}", threads.spec.rank.0);
                (Left::All(Ended::Failed { message, backtrace: String::new(), code: None }), None)
            }
        };
        Ok(if self.start(gone, body).is_ok() { 0 } else { EAGAIN })
    }

    /// Starts a thread of the agent's, which counts as running already, for one of the guest's. It has the limits of the thread that starts it
    /// (`fence::rank`): that is one of the rank's own.
    fn start(self: &Arc<Self>, gone: u32, body: impl FnOnce(&Arc<Threads>) -> (Left, Option<Life>) + Send + 'static) -> std::io::Result<()> {
        // Where the system has none, it is dropped with the body.
        let mut leaves = Leaves { threads: self.clone(), gone, stopped: None };
        let body = move || {
            let (left, life) = body(&leaves.threads);
            match left {
                Left::Stopped => leaves.behind(life),
                Left::All(how) => leaves.threads.end(how),
                Left::Ended => {}
            }
        };
        std::thread::Builder::new().name(format!("rank {}", self.spec.rank.0)).stack_size(THREAD_STACK).spawn(body).map(drop)
    }
}

fn full(spec: &Spec, budget: &Budget, more: u64, used: u64) -> Full {
    Full::new(&spec.place, more, used, budget)
}

fn of(c: &Caller<'_, Host>) -> wasmtime::Result<Arc<Threads>> {
    let threads = c.data().threads.clone();
    let threads = threads.ok_or_else(|| wasmtime::Error::msg("the program asks for threads and shares no memory: it was not linked by `cloudskin cc -pthread`"))?;
    if threads.over() { Err(wasmtime::Error::new(End::Over)) } else { Ok(threads) }
}

/// Nanoseconds since 1970: what a wait's end is told in where it goes on elsewhere.
fn now_ns() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// Sleeps as the cell's threads do, across stops. `None`: the guest is unwinding.
fn park(c: &mut Caller<'_, Host>, at: u32, unchanged: impl Fn() -> bool, mut longest: Option<Duration>) -> wasmtime::Result<Option<Woken>> {
    if c.data().mode == Mode::Rewinding {
        longest = match c.data_mut().pending.take() {
            Some(Pending::Wait { until_ns }) => until_ns.map(|until| Duration::from_nanos(until.saturating_sub(now_ns()))),
            _ => longest,
        };
        cell::rewound(c)?;
    }
    let begin = Instant::now();
    let host = c.data();
    match host.control.parked.wait(at, unchanged, longest, host.can_stop()) {
        Woken::Over => Err(wasmtime::Error::new(End::Over)),
        Woken::Stopped => {
            let left = longest.map(|longest| longest.saturating_sub(begin.elapsed()));
            let until_ns = left.map(|left| now_ns().saturating_add(u64::try_from(left.as_nanos()).unwrap_or(u64::MAX)));
            c.data_mut().pending = Some(Pending::Wait { until_ns });
            cell::unwind(c)?;
            Ok(None)
        }
        woken => Ok(Some(woken)),
    }
}

/// For WASI's `poll_oneoff`. `true`: the guest is unwinding.
pub(crate) fn sleep(c: &mut Caller<'_, Host>, longest: Duration) -> wasmtime::Result<bool> {
    Ok(park(c, NOWHERE, || true, Some(longest))?.is_none())
}

/// What a wait gives to the guest, in the numbers of WebAssembly's own instruction.
fn wait(c: &mut Caller<'_, Host>, at: u32, unchanged: impl Fn() -> bool, ns: i64) -> wasmtime::Result<i32> {
    Ok(match park(c, at, unchanged, u64::try_from(ns).ok().map(Duration::from_nanos))? {
        Some(Woken::Changed) => 1,
        Some(Woken::Late) => 2,
        _ => 0,
    })
}

/// Offers threads to modules.
pub(crate) fn link(l: &mut Linker<Host>) -> wasmtime::Result<()> {
    l.func_wrap(MODULE, "spawn", |c: Caller<'_, Host>, stack: u32, thread: u32, gone: u32| of(&c)?.spawn(stack, thread, gone))?;
    l.func_wrap(MODULE, "wait32", |mut c: Caller<'_, Host>, at: u32, value: u32, ns: i64, offset: u32| {
        let threads = of(&c)?;
        let at = threads.address(at, offset, 4)?;
        let word = threads.word(at);
        wait(&mut c, at, || word.load(Ordering::SeqCst) == value, ns)
    })?;
    l.func_wrap(MODULE, "wait64", |mut c: Caller<'_, Host>, at: u32, value: u64, ns: i64, offset: u32| {
        let threads = of(&c)?;
        let at = threads.address(at, offset, 8)?;
        let word = threads.long(at);
        wait(&mut c, at, || word.load(Ordering::SeqCst) == value, ns)
    })?;
    l.func_wrap(MODULE, "notify", |c: Caller<'_, Host>, at: u32, count: u32, offset: u32| -> wasmtime::Result<u32> {
        let threads = of(&c)?;
        let at = threads.address(at, offset, 4)?;
        Ok(threads.control.parked.notify(at, count))
    })?;
    // Both fit: a memory has at most 65,536 pages.
    l.func_wrap(MODULE, "grow", |c: Caller<'_, Host>, pages: u32| -> wasmtime::Result<i32> { Ok(of(&c)?.grow(pages.into())?.map_or(-1, |before| before as i32)) })?;
    l.func_wrap(MODULE, "exit", |_: Caller<'_, Host>| -> wasmtime::Result<()> { Err(wasmtime::Error::new(End::Thread)) })?;
    l.func_wrap(MODULE, "processors", |c: Caller<'_, Host>| -> u32 { c.data().control.processors() })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits until so many sleep at an address.
    fn asleep(parked: &Parked, at: u32, count: usize) {
        while lock(&parked.0).asleep.get(&at).map_or(0, VecDeque::len) != count {
            std::thread::yield_now();
        }
    }

    #[test]
    fn who_sleeps_is_woken_in_order_and_no_more_than_asked() {
        let parked = Parked::default();
        let woken = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for n in 0..3 {
                let (parked, woken) = (&parked, &woken);
                scope.spawn(move || {
                    assert_eq!(parked.wait(8, || true, None, true), Woken::Notified);
                    lock(woken).push(n);
                });
                asleep(parked, 8, n + 1);
            }
            assert_eq!(parked.notify(4, 9), 0, "nobody sleeps there");
            assert_eq!(parked.notify(8, 1), 1);
            while lock(&woken).len() < 1 {
                std::thread::yield_now();
            }
            assert_eq!(parked.notify(8, 9), 2);
        });
        assert_eq!(woken.into_inner().unwrap()[0], 0);
        assert!(lock(&parked.0).asleep.is_empty());
    }

    #[test]
    fn nobody_sleeps_for_a_word_that_has_changed_or_when_all_is_over() {
        let parked = Parked::default();
        assert_eq!(parked.wait(8, || false, None, true), Woken::Changed);
        assert_eq!(parked.wait(8, || true, Some(Duration::from_millis(2)), true), Woken::Late);
        assert!(lock(&parked.0).asleep.is_empty(), "who leaves is not counted any more");
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| parked.wait(8, || true, None, true));
            asleep(&parked, 8, 1);
            parked.end();
            assert_eq!(sleeper.join().unwrap(), Woken::Over);
        });
        assert_eq!(parked.wait(8, || true, None, true), Woken::Over);
    }

    #[test]
    fn a_stop_wakes_all_who_can_be_stopped_and_loses_no_wake_up() {
        let parked = Parked::default();
        std::thread::scope(|scope| {
            let (one, two, stays) = (scope.spawn(|| parked.wait(8, || true, None, true)), scope.spawn(|| parked.wait(16, || true, None, true)), scope.spawn(|| parked.wait(24, || true, None, false)));
            [8, 16, 24].iter().for_each(|at| asleep(&parked, *at, 1));
            assert_eq!(parked.notify(16, 1), 1);
            parked.halt();
            assert_eq!(one.join().unwrap(), Woken::Stopped);
            assert_eq!(two.join().unwrap(), Woken::Notified, "it was told that one was woken");
            assert_eq!(parked.wait(8, || true, None, true), Woken::Stopped);
            assert_eq!(parked.notify(8, 1), 0, "nobody sleeps there any more");
            parked.go_on();
            asleep(&parked, 24, 1);
            assert_eq!(parked.notify(24, 1), 1);
            assert_eq!(stays.join().unwrap(), Woken::Notified);
            assert_eq!(parked.wait(8, || true, Some(Duration::from_millis(2)), true), Woken::Late);
        });
    }
}
