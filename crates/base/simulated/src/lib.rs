//! A simulated processor, clock and network under a whole program, threads, locks and runtimes included: one thread runs at a time, which one is drawn from a seed where it
//! could be several, and time passes when all of them wait. The same seed gives the same run, step by step, and a minute of waiting takes no time.
//!
//! The program knows nothing of it. A test binary that names this crate has its own definitions of the functions of the C library through which Rust's standard library waits, starts
//! threads, talks over sockets, and asks for the time and for random bytes; the linker prefers them to the library's. Outside of [`run`] they pass on what they are asked.
//!
//! ```text
//!   wait for a lock, sleep, wait for a socket, join ─▶ the thread's state says for what ─▶ choose: of those that can go on, one ─▶ it runs, the others stand still
//!                                                                        none can ─▶ the clock jumps to the first deadline
//! ```
//!
//! * *Simulated* (here, and in `functions.rs`, `sockets.rs` and `process.rs`): how threads take turns, time, chance, TCP over IPv4 as far as this machine's own addresses go, ends of processes.
//! * *Real:* the memory, and files, which do their work in the call that asks for it. What is to be on the disk takes the time of a disk, and is not brought there: no power is lost here.
//! * *Not found:* races between plain atomics, for a thread is stopped where it calls one of these functions and nowhere else; and what a memory does that orders less than this processor's.
//!
//! A package whose tests use it needs the line of this one's `build.rs`: some libraries look `getrandom` up by its name while they run.
//!
//! ```no_run
//! #[test]
//! fn nothing_is_lost() {
//!     simulated::each("nothing_is_lost", 20, |seed| println!("a program with threads, which fails by panicking, and draws from {seed}"));
//! }
//! ```

#![cfg(target_os = "linux")]

mod functions;
mod process;
mod seeds;
mod sockets;

pub use {process::Process, seeds::each};

use std::{
    cell::{Cell, UnsafeCell},
    ffi::{c_int, c_void},
    fmt,
    sync::atomic::{AtomicU32, Ordering::SeqCst},
    time::Duration,
};

/// Where the simulated clocks begin, ns: the one that only goes on, and what that of the day has more.
const BEGIN: u64 = 1_000_000_000_000;
const EPOCH: u64 = 1_800_000_000_000_000_000;
/// What it costs to look at the clock, and at most to change to another thread, ns.
const LOOK: u64 = 200;
const CHANGE: u64 = 40_000;
/// A thread that does one of these things lets others go on meanwhile, once in so many times.
const AT_LOOK: u64 = 64;
const AT_WAKE: u64 = 4;
const AT_START: u64 = 2;
const AT_POLL: u64 = 8;
const AT_FILE: u64 = 4;
/// What a disk needs to have something for good, at most, ns; once in so many times it is busy with something else.
const SYNC: u64 = 400_000;
const BUSY: u64 = 200_000_000;
const AT_BUSY: u64 = 100;
/// How often a file's lock is tried again, ns.
const LOCKED: u64 = 1_000_000;
/// What comes from outside takes no longer, in ms of real time.
const OUTSIDE_MS: u32 = 5000;
const NOBODY: usize = usize::MAX;

thread_local! {
    /// Which thread of the simulation this is.
    static ME: Cell<usize> = const { Cell::new(NOBODY) };
}

/// What a thread does, or waits for.
#[derive(Clone, Copy, PartialEq, Debug)]
enum State {
    Ready,
    Futex { at: usize, bits: u32 },
    Poll { fd: c_int, events: i16 },
    Sleep,
    Join(usize),
    Ended,
}

struct Thread {
    /// 1: it is this one's turn.
    go: AtomicU32,
    state: State,
    /// ns of the simulated clock.
    deadline: Option<u64>,
    timed_out: bool,
    handle: libc::pthread_t,
    /// The step since which it waits: who waits longest is woken first.
    since: u64,
    /// One of [`World::processes`].
    process: usize,
}

/// A socket, or a file with a lock.
#[derive(Clone, Copy)]
struct Descriptor {
    /// Whose it is.
    process: usize,
    /// A TCP socket's own port, and that of its other end.
    ports: Option<[u16; 2]>,
}

struct World {
    /// Boxed, since each is looked at where it lies by the thread that it stands for.
    threads: Vec<Box<Thread>>,
    now: u64,
    rng: u64,
    steps: u64,
    sum: u64,
    /// Each step, if somebody wants to read them.
    told: Option<Vec<(usize, u64)>>,
    /// The last one that was given out.
    port: u16,
    /// By their numbers.
    descriptors: Vec<Option<Descriptor>>,
    /// The first is that of the run itself.
    processes: Vec<process::Going>,
    /// What tells of threads' ends.
    key: libc::pthread_key_t,
}

/// Whoever's turn it is has it alone.
struct Owned(UnsafeCell<Option<World>>);
// SAFETY: it is touched by the thread whose turn it is and by nobody else; turns are passed on by `go`, which orders what is before and after.
unsafe impl Sync for Owned {}
static WORLD: Owned = Owned(UnsafeCell::new(None));

/// What a run was. Two runs of one seed are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// How often a thread was chosen.
    pub steps: u64,
    /// A sum over which thread it was each time, and when.
    pub sum: u64,
    /// How long it took by its own clock.
    pub took: Duration,
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} steps, {:.3} s by their clock, sum {:016x}", self.steps, self.took.as_secs_f64(), self.sum)
    }
}

/// Names a file that gets each step of a run: the thread's number, and ns of its clock. Where two runs of one seed differ, their files say from where on.
const STEPS: &str = "SIMULATED_STEPS";

/// Runs `work` in a thread of the simulation. Once in a process: what it leaves behind stands still for ever.
pub fn run<T: Send + 'static>(seed: u64, work: impl FnOnce() -> T + Send + 'static) -> (std::thread::Result<T>, Run) {
    functions::link();
    let steps = std::env::var_os(STEPS);
    let told = steps.is_some().then(Vec::new);
    let root = std::thread::Builder::new().name("simulated".into()).stack_size(16 << 20).spawn(move || {
        let mut key = 0;
        // SAFETY: `ended` is a function for keys' values, and lives for ever.
        let made = unsafe { libc::pthread_key_create(&mut key, Some(functions::ended)) };
        assert_eq!(made, 0, "no key for threads' ends");
        let root = Box::new(Thread::of(0));
        let world = World { threads: vec![root], now: BEGIN, rng: seed, steps: 0, sum: 0xcbf2_9ce4_8422_2325, told, port: 20_000, descriptors: Vec::new(), processes: vec![process::Going::On], key };
        // SAFETY: no thread is of the simulation yet.
        let slot = unsafe { &mut *WORLD.0.get() };
        assert!(slot.is_none(), "one simulation in a process");
        *slot = Some(world);
        ME.set(0);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        let (world, _) = here().expect("nobody else has been chosen");
        let run = Run { steps: world.steps, sum: world.sum, took: Duration::from_nanos(world.now - BEGIN) };
        let told = world.told.take();
        ME.set(NOBODY);
        (result, run, told)
    });
    let (result, run, told) = root.expect("a thread can be started").join().expect("what it runs may panic, not it");
    if let (Some(file), Some(told)) = (steps, told) {
        let lines: String = told.iter().map(|(id, at)| format!("{id} {at}\n")).collect();
        std::fs::write(&file, lines).unwrap_or_else(|e| panic!("write {STEPS}={}: {e}", file.display()));
    }
    (result, run)
}

/// The world and this thread's number in it, if it is in it.
fn here() -> Option<(&'static mut World, usize)> {
    let me = ME.get();
    // SAFETY: a thread of the simulation runs when it is its turn, and then the world is its own.
    (me != NOBODY).then(|| (unsafe { (*WORLD.0.get()).as_mut() }.expect("it is there before its threads"), me))
}

impl Thread {
    fn of(process: usize) -> Thread {
        Thread { go: AtomicU32::new(0), state: State::Ready, deadline: None, timed_out: false, handle: 0, since: 0, process }
    }
}

impl World {
    /// splitmix64 (Steele, Lea and Flood 2014): what draws here may not call what is defined here.
    fn random(&mut self) -> u64 {
        self.rng = self.rng.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.rng;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn wake(&mut self, id: usize, timed_out: bool) {
        let thread = &mut self.threads[id];
        (thread.state, thread.deadline, thread.timed_out) = (State::Ready, None, timed_out);
    }

    /// Whether a thread's process lets it have a turn.
    fn goes(&self, id: usize) -> bool {
        self.processes[self.threads[id].process] == process::Going::On
    }

    /// Whose turn is next.
    fn choose(&mut self) -> usize {
        let mut idle = 0;
        loop {
            for id in 0..self.threads.len() {
                // Of one that is stopped, too: it finds it over when it goes on.
                if self.threads[id].deadline.is_some_and(|due| due <= self.now) {
                    self.wake(id, true);
                }
            }
            let mut can: Vec<usize> = (0..self.threads.len()).filter(|id| matches!(self.threads[*id].state, State::Ready | State::Poll { .. }) && self.goes(*id)).collect();
            while !can.is_empty() {
                let n = self.random() as usize % can.len();
                let id = can.swap_remove(n);
                if let State::Poll { fd, events } = self.threads[id].state {
                    if !is_ready(fd, events) {
                        continue;
                    }
                    self.wake(id, false);
                }
                self.step(id);
                return id;
            }
            match (0..self.threads.len()).filter(|id| self.goes(*id)).filter_map(|id| self.threads[id].deadline).min() {
                Some(due) => self.now = self.now.max(due),
                None if idle < OUTSIDE_MS => {
                    idle += 1;
                    // SAFETY: no descriptors, 1 ms.
                    unsafe { libc::poll(std::ptr::null_mut(), 0, 1) };
                }
                None => self.stuck(),
            }
        }
    }

    fn step(&mut self, id: usize) {
        self.steps += 1;
        self.now += self.random() % CHANGE;
        // FNV-1a.
        for part in [id as u64, self.now] {
            self.sum = (self.sum ^ part).wrapping_mul(0x0100_0000_01b3);
        }
        if let Some(told) = &mut self.told {
            told.push((id, self.now));
        }
    }

    fn stuck(&self) -> ! {
        let states: Vec<String> = self.threads.iter().enumerate().filter(|(id, t)| t.state != State::Ended && self.goes(*id)).map(|(id, t)| format!("{id}: {:?}", t.state)).collect();
        give_up(&format!("all threads wait, for nothing that could come: {}", states.join("; ")))
    }
}

/// Ends the process, for what has no other way to say so.
fn give_up(why: &str) -> ! {
    ME.set(NOBODY);
    eprintln!("the simulation ends: {why}");
    std::process::abort()
}

fn is_ready(fd: c_int, events: i16) -> bool {
    let mut asked = libc::pollfd { fd, events, revents: 0 };
    // SAFETY: one descriptor, which is there for the call.
    unsafe { libc::poll(&mut asked, 1, 0) > 0 }
}

/// Gives the turn to whoever is chosen, and comes back when it is this thread's again.
fn change(world: &mut World, me: usize) {
    let next = world.choose();
    if next != me {
        let go: *const AtomicU32 = &world.threads[me].go;
        pass_to(world, next);
        // SAFETY: threads are boxed and never removed.
        await_turn(unsafe { &*go });
    }
}

/// From here on it is the other one's turn: the world is its own.
fn pass_to(world: &mut World, next: usize) {
    let go: *const AtomicU32 = &world.threads[next].go;
    // SAFETY: threads are boxed and never removed.
    let go = unsafe { &*go };
    go.store(1, SeqCst);
    functions::futex_wake(go);
}

fn await_turn(go: &AtomicU32) {
    while go.swap(0, SeqCst) == 0 {
        functions::futex_wait(go, 0);
    }
}

/// Waits as `state` says, until `deadline`. Whether it was that which ended it.
fn wait(world: &mut World, me: usize, state: State, deadline: Option<u64>) -> bool {
    let since = world.steps;
    let thread = &mut world.threads[me];
    (thread.state, thread.deadline, thread.timed_out, thread.since) = (state, deadline, false, since);
    change(world, me);
    world.threads[me].timed_out
}

/// Others may go on here, once in so many times.
fn maybe_change(world: &mut World, me: usize, one_in: u64) {
    if world.random().is_multiple_of(one_in) {
        change(world, me);
    }
}

/// Passed from whoever starts a thread to that thread.
struct Begin {
    id: usize,
    begin: extern "C" fn(*mut c_void) -> *mut c_void,
    with: *mut c_void,
    go: *const AtomicU32,
    key: libc::pthread_key_t,
}
