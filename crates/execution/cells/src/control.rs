//! The handle by which the agent stops, kills and watches a cell that runs on another thread, or on several.
//!
//! A cell with threads stops as a whole or not at all: the first of them that leaves its work calls the others ([`Control::gather`]), and from then on a stop that is
//! taken back is taken back when all stand still. But none stands still while a host call waits for a function of the guest's, which may want a lock of another
//! thread's: who has left by then comes back ([`Control::hold`]).

use crate::engine::PAGE;
use crate::threads::Parked;
use crate::written::{Run, Watch};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Shared between a cell's thread and everybody who wants something of it.
#[derive(Default)]
pub struct Control {
    stop: AtomicBool,
    kill: AtomicBool,
    /// How many of the guest's functions a host call is waiting for.
    held: AtomicU32,
    reason: Mutex<String>,
    /// The cell's memories while they can be reached.
    memory: Mutex<View>,
    /// Bytes of linear memory, also while it runs.
    pub memory_bytes: AtomicU64,
    /// One of its threads has left its work, so all of them do, until the cell goes on. Changed under the lock of `memory`.
    gathering: AtomicBool,
    /// When the guest last left its work for a stop.
    left_at: Mutex<Option<Instant>>,
    /// It has come back to its work since the last [`Control::stop`].
    pub(crate) back: AtomicBool,
    /// What it is in: an index of [`crate::DOING`].
    pub doing: AtomicU32,
    /// Where its threads sleep, if it has some.
    pub(crate) parked: Parked,
    /// See [`Control::offer_processors`]; 0: nobody has.
    processors: AtomicU32,
    /// Nanoseconds that its first thread has waited in calls, and since when it waits now ([`nanoseconds`]; 0: it does not).
    waited: AtomicU64,
    waiting_since: AtomicU64,
    /// When it was asked to stop, if it has not left its work since.
    asked_at: Mutex<Option<Instant>>,
    /// Nanoseconds from the last such moment until it left its work; 0: never.
    stopped_after: AtomicU64,
    writes: Mutex<Writes>,
}

/// What a running cell tells of itself beside its memory and what it does.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// How long its first thread has waited in calls since it came here, without what ended within the spinning of a short receive.
    pub waited: Duration,
    /// How long it last took from being asked to stop to leaving its work.
    pub stopped_after: Option<Duration>,
    /// Bytes per second of the pages that it writes: each page counts once in a second. An estimate from a part of its memory; `None`: not known yet, or the kernel can't tell.
    pub written: Option<f64>,
}

/// Looks at a part of the memory for a moment now and then: what is watched costs the program a fault per page.
#[derive(Default)]
struct Writes {
    /// And since when, and what share of the memory it is.
    watch: Option<(Watch, Instant, f64)>,
    /// The page with which the next part begins.
    next: usize,
    /// Looks that are left out before.
    rest: u32,
    rate: Option<f64>,
    /// While somebody else watches all of the memory.
    taken: std::sync::Weak<()>,
}

/// Pages that are watched at a time.
const PART: usize = (32 << 20) / PAGE;
/// Looks that are left out between two parts.
const REST: u32 = 4;

/// A watch of all of a cell's memory, as long as which nobody else watches it.
pub(crate) struct Whole {
    pub watch: Watch,
    _taken: Arc<()>,
}

/// Since this process first asked; never 0.
fn nanoseconds() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64 + 1
}

/// While it lives, a cell's first thread waits.
pub(crate) struct Waiting(Arc<Control>);

impl Drop for Waiting {
    fn drop(&mut self) {
        let since = self.0.waiting_since.swap(0, Ordering::Relaxed);
        self.0.waited.fetch_add(nanoseconds().saturating_sub(since), Ordering::Relaxed);
    }
}

/// A live cell's memories, seen from outside its threads.
#[derive(Default)]
struct View {
    /// Where its memory begins, while it runs.
    base: Option<*mut u8>,
    /// Of each of its threads that runs, two words: stop, die.
    flags: Vec<*const AtomicU32>,
    /// Linux thread ids of those that run.
    threads: Vec<u32>,
    /// One of its threads has ended the cell, so all of them end.
    over: bool,
}

// SAFETY: the pointers are only used under `Control::memory`'s lock, and `Attached` and `Joined` take them away before the memory is given back.
unsafe impl Send for View {}

impl View {
    /// Sets one of the flag words of all threads.
    fn set(&self, index: usize, value: u32) {
        for flags in &self.flags {
            // SAFETY: both words are there and aligned, by the promises to `attach` and `join`; this is called under the lock, without which `Joined` can't
            // end, so they are this cell's. The guest reads them with atomic loads.
            unsafe { &*flags.add(index) }.store(value, Ordering::SeqCst);
        }
    }
}

/// While it lives, a cell's memory can be reached through its [`Control`]. Its end takes the memory away, also when a panic ends the cell's thread:
/// the pool gives the memory to another cell afterwards.
pub(crate) struct Attached {
    control: Arc<Control>,
    _joined: Joined,
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.control.view().base = None;
    }
}

/// While it lives, one of the cell's threads runs, and its flag words can be reached.
pub(crate) struct Joined {
    control: Arc<Control>,
    flags: Option<*const AtomicU32>,
    thread: u32,
}

impl Drop for Joined {
    fn drop(&mut self) {
        let mut view = self.control.view();
        view.flags.retain(|flags| Some(*flags) != self.flags);
        view.threads.retain(|thread| *thread != self.thread);
    }
}

impl Control {
    /// Linux thread ids of the cell's threads that run, for run-queue statistics; none while it stands still.
    pub fn threads(&self) -> Vec<u32> {
        self.view().threads.clone()
    }

    fn view(&self) -> std::sync::MutexGuard<'_, View> {
        self.memory.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Called by the cell's thread when its memories exist. `flags`: where its flag words are.
    ///
    /// # Safety
    /// Eight bytes from `flags` on must stay mapped and writable, and what is at `base` must be the cell's memory, until the answer is dropped. The
    /// words must be aligned. Linear memory of the pool never moves and never shrinks.
    pub(crate) unsafe fn attach(self: &Arc<Self>, base: *mut u8, flags: Option<*mut u8>) -> Attached {
        // SAFETY: as promised.
        let joined = unsafe { self.join(flags) };
        self.view().base = Some(base);
        if self.stop.load(Ordering::SeqCst) || self.kill.load(Ordering::SeqCst) {
            self.raise();
        }
        Attached { control: self.clone(), _joined: joined }
    }

    /// Called by each thread of the cell before it goes to work, on that thread. `flags`: where its flag words are.
    ///
    /// # Safety
    /// Eight bytes from `flags` on must stay mapped and writable until the answer is dropped. The words must be aligned.
    pub(crate) unsafe fn join(self: &Arc<Self>, flags: Option<*mut u8>) -> Joined {
        let flags = flags.map(|f| f.cast_const().cast::<AtomicU32>());
        assert!(flags.is_none_or(|f| f.is_aligned()), "the flag words are not aligned");
        let mut view = self.view();
        if let Some(flags) = flags {
            // What the others have.
            let stops = self.leaving();
            let ends = view.over || self.killed();
            for (index, value) in [(1, ends), (0, stops || ends)] {
                // SAFETY: both words are there and aligned, as the caller promises. The guest reads them with atomic loads.
                unsafe { &*flags.add(index) }.store(value.into(), Ordering::SeqCst);
            }
            view.flags.push(flags);
        }
        // SAFETY: gettid has no arguments and no failure.
        let thread = unsafe { libc::syscall(libc::SYS_gettid) } as u32;
        view.threads.push(thread);
        drop(view);
        Joined { control: self.clone(), flags, thread }
    }

    fn raise(&self) {
        let view = self.view();
        if self.killed() {
            view.set(1, 1);
        } else if self.held() || !self.stopping() {
            return;
        }
        view.set(0, 1);
        self.parked.halt();
    }

    /// Takes back what [`Control::raise`] has done for a stop. What was set for an end stays set.
    fn lower(&self, view: &View) {
        if !self.killed() && !view.over {
            view.set(0, 0);
        }
        self.parked.go_on();
    }

    /// A thread has left its work for a stop: all others must, also if the stop is not wanted any more. `false`: it goes back, since a host call waits for a
    /// function of the guest's.
    pub(crate) fn gather(&self) -> bool {
        let view = self.view();
        if self.gathering() {
            return true;
        }
        if self.held() {
            return false;
        }
        self.gathering.store(true, Ordering::SeqCst);
        view.set(0, 1);
        self.parked.halt();
        true
    }

    /// Whether one of its threads has left its work for a stop, and the others are to follow.
    pub(crate) fn gathering(&self) -> bool {
        self.gathering.load(Ordering::SeqCst)
    }

    /// Whether its threads are to leave their work: not for a stop that waits for a function of the guest's.
    pub(crate) fn leaving(&self) -> bool {
        self.gathering() || self.stopping() && !self.held()
    }

    /// One of the threads has ended the cell: the others end where they are.
    pub(crate) fn end(&self) {
        let mut view = self.view();
        view.over = true;
        view.set(1, 1);
        view.set(0, 1);
        drop(view);
        self.parked.end();
    }

    /// All threads stand still and are about to go on.
    pub(crate) fn go_on(&self) {
        let view = self.view();
        self.gathering.store(false, Ordering::SeqCst);
        if !self.stopping() {
            self.lower(&view);
        }
    }

    /// A host call is about to call a function of the guest's: until [`Control::release`] a stop waits, since a poll in that function would unwind into the
    /// host. A kill does not wait; who calls must look for it when the function has returned. `true`: threads have left their work already, and are to be
    /// called back. Only by [`crate::cell::hold`], which remembers which thread is in the function.
    pub(crate) fn hold(&self) -> bool {
        let view = self.view();
        self.held.fetch_add(1, Ordering::SeqCst);
        self.lower(&view);
        self.gathering.swap(false, Ordering::SeqCst)
    }

    /// Whether a host call waits for a function of the guest's.
    pub(crate) fn held(&self) -> bool {
        self.held.load(Ordering::SeqCst) > 0
    }

    /// The function has returned.
    pub(crate) fn release(&self) {
        self.held.fetch_sub(1, Ordering::SeqCst);
        if self.stopping() {
            self.raise();
        }
    }

    /// Asks the cell to stop at its next safe point. Wake it if it may be waiting.
    pub fn stop(&self) {
        self.back.store(false, Ordering::SeqCst);
        self.asked_at.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert_with(Instant::now);
        self.stop.store(true, Ordering::SeqCst);
        self.raise();
    }

    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// The stop was seen, or is not wanted any more.
    pub fn clear(&self) {
        self.stop.store(false, Ordering::SeqCst);
        *self.asked_at.lock().unwrap_or_else(|e| e.into_inner()) = None;
        let view = self.view();
        // Who waits for the others is let go by `go_on`.
        if !self.gathering() {
            self.lower(&view);
        }
    }

    /// The guest leaves its work for a stop. Of several threads the first counts.
    pub(crate) fn left_work(&self) {
        if !self.gathering() {
            let now = Instant::now();
            *self.left_at.lock().unwrap_or_else(|e| e.into_inner()) = Some(now);
            if let Some(asked) = self.asked_at.lock().unwrap_or_else(|e| e.into_inner()).take() {
                self.stopped_after.store((now - asked).as_nanos().max(1) as u64, Ordering::Relaxed);
            }
        }
    }

    /// When a cell that has stopped left its work.
    pub fn left_at(&self) -> Option<Instant> {
        *self.left_at.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Whether the guest is at work again after a stop.
    pub fn back(&self) -> bool {
        self.back.load(Ordering::SeqCst)
    }

    /// Copies memory of a running cell from byte `at` on into `into`, as far as there is some; how much that is, in whole pages.
    ///
    /// The copy may mix older and newer bytes, since the guest goes on writing. It is read through `/proc/self/mem` (`own_memory`), so the copy
    /// is the kernel's and no Rust reference to memory that changes exists.
    pub fn peek(&self, own_memory: &File, at: u64, into: &mut [u8]) -> usize {
        // While the lock is held the memory can't be given back.
        let view = self.view();
        let Some(base) = view.base else { return 0 };
        let left = self.memory_bytes.load(Ordering::Relaxed).saturating_sub(at);
        let want = into.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        // An error is the end of what is mapped: a growth that was announced and then refused.
        let got = own_memory.read_at(&mut into[..want], base as u64 + at).unwrap_or(0);
        got - got % PAGE
    }

    /// Watches what a running cell writes from now on. `None`: it does not run, the kernel can't tell, or somebody watches it already.
    pub(crate) fn watch(&self) -> Option<Whole> {
        let mut writes = self.writes.lock().unwrap_or_else(|e| e.into_inner());
        if writes.taken.upgrade().is_some() {
            return None;
        }
        writes.watch = None;
        let view = self.view();
        let watch = Watch::begin(view.base?, self.pages() * PAGE)?;
        let taken = Arc::new(());
        writes.taken = Arc::downgrade(&taken);
        Some(Whole { watch, _taken: taken })
    }

    /// How it gets on. To be asked about once a second: how much it writes is found out between two questions.
    pub fn figures(&self) -> Figures {
        let since = self.waiting_since.load(Ordering::Relaxed);
        let now = if since == 0 { 0 } else { nanoseconds().saturating_sub(since) };
        let stopped_after = self.stopped_after.load(Ordering::Relaxed);
        Figures {
            waited: Duration::from_nanos(self.waited.load(Ordering::Relaxed) + now),
            stopped_after: (stopped_after > 0).then(|| Duration::from_nanos(stopped_after)),
            written: self.look_at_writes(),
        }
    }

    fn look_at_writes(&self) -> Option<f64> {
        let mut writes = self.writes.lock().unwrap_or_else(|e| e.into_inner());
        // While the lock is held the memory can't be given back.
        let view = self.view();
        match writes.watch.take() {
            Some((mut watch, since, share)) => {
                if let (Some(base), Ok(runs)) = (view.base, watch.take())
                    && watch.is_within(base, self.pages())
                {
                    let pages: usize = runs.iter().map(|(_, count)| count).sum();
                    writes.rate = Some((pages * PAGE) as f64 / share / since.elapsed().as_secs_f64());
                }
                writes.rest = REST;
            }
            None if writes.rest > 0 => writes.rest -= 1,
            None if writes.taken.upgrade().is_some() => {}
            None => {
                let pages = self.pages();
                let first = if writes.next < pages { writes.next } else { 0 };
                let count = PART.min(pages - first);
                writes.next = first + count;
                writes.watch = view.base.and_then(|base| {
                    let watch = Watch::begin(base.wrapping_add(first * PAGE), count * PAGE)?;
                    Some((watch, Instant::now(), count as f64 / pages as f64))
                });
            }
        }
        writes.rate
    }

    /// Its first thread waits from now on.
    pub(crate) fn wait(self: &Arc<Self>) -> Waiting {
        self.waiting_since.store(nanoseconds(), Ordering::Relaxed);
        Waiting(self.clone())
    }

    /// What a running cell has written, of the memory that is watched.
    pub(crate) fn written(&self, watch: &mut Watch) -> io::Result<Vec<Run>> {
        // While the lock is held the memory can't be given back.
        let view = self.view();
        match view.base {
            Some(base) if watch.is_of(base) => watch.take(),
            _ => Err(io::Error::other("the cell does not run there")),
        }
    }

    /// Pages of its memory now.
    pub(crate) fn pages(&self) -> usize {
        self.memory_bytes.load(Ordering::Relaxed) as usize / PAGE
    }

    /// Ends the cell at its next loop or call; the first reason counts.
    pub fn kill(&self, reason: &str) {
        let mut text = self.reason.lock().unwrap_or_else(|e| e.into_inner());
        if text.is_empty() {
            *text = reason.to_string();
        }
        drop(text);
        self.kill.store(true, Ordering::SeqCst);
        self.raise();
        self.parked.end();
    }

    /// How many processors the cell may use from now on. An OpenMP program whose teams have the size that it leaves open follows at its next parallel region.
    pub fn offer_processors(&self, count: u32) {
        self.processors.store(count.max(1), Ordering::Relaxed);
    }

    /// What was offered last, or all that the machine has.
    pub(crate) fn processors(&self) -> u32 {
        match self.processors.load(Ordering::Relaxed) {
            0 => {
                // To find out takes reading files, and each parallel region asks.
                static MACHINE: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
                *MACHINE.get_or_init(|| std::thread::available_parallelism().map_or(1, |n| n.get() as u32))
            }
            offered => offered,
        }
    }

    /// The word behind [`Control::processors`], for who reads it without a call. It is never 0.
    pub(crate) fn processors_word(&self) -> &AtomicU32 {
        let _ = self.processors.compare_exchange(0, self.processors(), Ordering::Relaxed, Ordering::Relaxed);
        &self.processors
    }

    pub fn killed(&self) -> bool {
        self.kill.load(Ordering::SeqCst)
    }

    pub fn reason(&self) -> String {
        self.reason.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_waits_for_functions_that_the_host_calls() {
        let control: Arc<Control> = Arc::default();
        let words = [AtomicU32::new(0), AtomicU32::new(0)];
        // SAFETY: the words live as long as what is attached; nobody looks at the memory.
        let attached = unsafe { control.attach(std::ptr::null_mut(), Some(words.as_ptr().cast::<u8>().cast_mut())) };
        let now = || [words[0].load(Ordering::SeqCst), words[1].load(Ordering::SeqCst)];
        control.stop();
        assert_eq!(now(), [1, 0]);
        control.hold();
        assert_eq!(now(), [0, 0]);
        control.stop();
        control.hold();
        control.release();
        assert_eq!(now(), [0, 0], "one function is still running");
        control.release();
        assert_eq!(now(), [1, 0]);
        control.clear();
        control.hold();
        control.release();
        assert_eq!(now(), [0, 0], "nobody has asked");
        control.hold();
        control.kill("cancelled");
        assert_eq!(now(), [1, 1], "a kill waits for nothing");
        drop(attached);
    }

    /// A stop that is taken back when one thread has left its work already: all leave, and are let go together.
    #[test]
    fn who_has_left_its_work_calls_the_others() {
        let control: Arc<Control> = Arc::default();
        let words = [const { AtomicU32::new(0) }; 6];
        let pair = |thread: usize| Some(words[2 * thread..].as_ptr().cast::<u8>().cast_mut());
        let stops = || [0, 2, 4].map(|i| words[i].load(Ordering::SeqCst));
        // SAFETY: the words live as long as who has joined; nobody looks at the memory.
        let (first, second) = unsafe { (control.attach(std::ptr::null_mut(), pair(0)), control.join(pair(1))) };
        control.stop();
        control.clear();
        assert_eq!(stops(), [0, 0, 0], "nobody has seen it");
        control.stop();
        assert!(control.gather());
        control.clear();
        // SAFETY: as above.
        let third = unsafe { control.join(pair(2)) };
        assert_eq!(stops(), [1, 1, 1], "nor may one that begins meanwhile go on alone");
        drop(second);
        control.go_on();
        assert_eq!(stops(), [0, 1, 0], "who is gone is not looked at");
        control.stop();
        assert!(!control.hold() && !control.gather(), "nobody had left, and nobody may while MPI's function runs");
        assert_eq!(stops(), [0, 1, 0]);
        control.release();
        assert!(control.gather());
        assert!(control.hold() && !control.gathering(), "who has left is called back");
        assert_eq!(stops(), [0, 1, 0]);
        control.release();
        assert_eq!(stops(), [1, 1, 1], "the stop was only put off");
        control.clear();
        assert!(control.gather());
        control.stop();
        control.go_on();
        assert_eq!(stops(), [1, 1, 1], "asked again before they went on");
        control.end();
        control.clear();
        control.go_on();
        assert_eq!([words[1].load(Ordering::SeqCst), words[5].load(Ordering::SeqCst)], [1, 1], "the end is not taken back");
        drop((first, third));
    }
}
