//! Whose turn it is with a rank's MPI state, where several threads have the rank in common.
//!
//! ```text
//! a call of MPI ─▶ begin: the thread takes the state into its own store, first come first served ─▶ the call ─▶ end: back to where the others find it
//!    it must wait ─▶ give ─▶ pause: one leads, and sleeps on the rank's bell (`mpi::fabric`) ─▶ take, look again
//!                            the others follow, and sleep in `Parked`, until a call that ends has brought news
//! ```
//!
//! So only one thread at a time is in MPI, and none that waits there is. What a thread waits for travels with it (`Host::pending`), as that of a rank of one thread
//! does; who is stopped in `pause` leaves by unwinding and asks again when it has come back. A function of the program's that MPI calls runs in its caller's turn.
//!
//! The state of a rank of one thread is in its store all the time, and none of this is done.

use crate::cell::{End, Host, MpiFlags};
use crate::control::Control;
use crate::threads::{Parked, Woken};
use mpi::{Fabric, Rank};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// No word has this address: who follows sleeps here.
const FOLLOWERS: u32 = u32::MAX - 1;
/// How often who waits for its turn looks whether the cell has ended.
const LOOK: Duration = Duration::from_millis(20);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// A rank's MPI state as a store has it: always, or between `begin` and `end` of a call.
pub(crate) struct Held(Option<Box<mpi::State>>);

impl Held {
    pub(crate) fn new(state: mpi::State) -> Held {
        Held(Some(Box::new(state)))
    }

    /// Of a thread that is in no call.
    pub(crate) fn nothing() -> Held {
        Held(None)
    }

    pub(crate) fn is_here(&self) -> bool {
        self.0.is_some()
    }
}

impl std::ops::Deref for Held {
    type Target = mpi::State;

    #[inline]
    fn deref(&self) -> &mpi::State {
        self.0.as_deref().expect("who asks MPI for something has its turn")
    }
}

impl std::ops::DerefMut for Held {
    #[inline]
    fn deref_mut(&mut self) -> &mut mpi::State {
        self.0.as_deref_mut().expect("who asks MPI for something has its turn")
    }
}

/// What the threads of a rank have in common of MPI.
pub(crate) struct Turn {
    seat: Mutex<Seat>,
    /// Told when the state is there again and somebody waits for it.
    free: Condvar,
    /// Grows with what a waiting call may wait for.
    news: AtomicU64,
    /// One of those that wait sleeps on the rank's bell.
    led: AtomicBool,
    /// The others.
    followers: AtomicU32,
}

struct Seat {
    /// Nothing: a thread has it.
    state: Option<Box<mpi::State>>,
    flags: MpiFlags,
    /// Numbers of who comes next and of whose turn it is: nobody who asks again and again keeps another from it.
    next: u64,
    serving: u64,
    /// [`mpi::State::news`] as it was told last.
    told: u64,
}

impl Turn {
    pub(crate) fn new(state: mpi::State) -> Turn {
        let seat = Seat { state: Some(Box::new(state)), flags: MpiFlags::default(), next: 0, serving: 0, told: 0 };
        Turn { seat: Mutex::new(seat), free: Condvar::new(), news: AtomicU64::new(0), led: AtomicBool::new(false), followers: AtomicU32::new(0) }
    }

    /// Waits until it is this thread's turn. `None`: the cell has ended, also if nobody else has the state: who waits in MPI learns of it here.
    fn take(&self, over: impl Fn() -> bool) -> Option<(Box<mpi::State>, MpiFlags)> {
        let mut seat = lock(&self.seat);
        let mine = seat.next;
        seat.next += 1;
        loop {
            // The number is lost, and with it all turns: nobody takes one in a cell that has ended.
            if over() {
                return None;
            }
            if seat.serving == mine
                && let Some(state) = seat.state.take()
            {
                return Some((state, seat.flags));
            }
            seat = self.free.wait_timeout(seat, LOOK).unwrap_or_else(|e| e.into_inner()).0;
        }
    }

    /// Lets the next have it, and wakes who may find now what it waits for. Gives the number of the latest news.
    fn give(&self, state: Box<mpi::State>, flags: MpiFlags, parked: &Parked, bell: &mpi::fabric::Bell) -> u64 {
        let mut seat = lock(&self.seat);
        let (news, told) = (state.news(), seat.told);
        (seat.state, seat.flags, seat.told) = (Some(state), flags, news);
        seat.serving += 1;
        let others = seat.next > seat.serving;
        // Within the lock, so that who had its turn before or after this one is before or after this in its news, too.
        let latest = if news == told { self.news.load(Ordering::SeqCst) } else { self.news.fetch_add(1, Ordering::SeqCst) + 1 };
        drop(seat);
        if others {
            self.free.notify_all();
        }
        if news != told {
            // Whoever sleeps was counted before it has looked at the news.
            if self.followers.load(Ordering::SeqCst) > 0 {
                parked.notify(FOLLOWERS, u32::MAX);
            }
            if self.led.load(Ordering::SeqCst) {
                bell.ring();
            }
        }
        latest
    }

    /// The state, for who has the cell to itself: no thread of it runs. `None`: a thread has ended with it, by a panic of ours.
    pub(crate) fn reclaim(&self) -> Option<(Held, MpiFlags)> {
        let mut seat = lock(&self.seat);
        (seat.next, seat.serving) = (0, 0);
        let flags = seat.flags;
        seat.state.take().map(|state| (Held(Some(state)), flags))
    }

    /// Puts back what was reclaimed.
    pub(crate) fn put_back(&self, state: Held, flags: MpiFlags) {
        let mut seat = lock(&self.seat);
        (seat.state, seat.flags) = (state.0, flags);
    }

    /// Wakes who waits for its turn: the cell has ended.
    pub(crate) fn end(&self) {
        self.free.notify_all();
    }

    /// Whoever leads sleeps on the rank's bell, for all who wait. `None`: somebody does.
    pub(crate) fn lead<'t>(&'t self, parked: &'t Parked) -> Option<Lead<'t>> {
        // Made only where nobody leads: one that goes ends that.
        (!self.led.swap(true, Ordering::SeqCst)).then(|| Lead { turn: self, parked })
    }

    /// Sleeps until there may be something new: for all, and for who leads also in the rank's mailbox.
    pub(crate) fn pause(&self, lead: Option<&Lead<'_>>, pause: Pause, control: &Control, fabric: &Fabric, rank: Rank) {
        let Pause { seen, longest, spin, stops } = pause;
        let new = || self.news.load(Ordering::SeqCst) != seen;
        if lead.is_none() {
            self.followers.fetch_add(1, Ordering::SeqCst);
            // Nobody leads any more: this thread may.
            let woken = control.parked.wait(FOLLOWERS, || !new() && self.led.load(Ordering::SeqCst), Some(longest), stops);
            self.followers.fetch_sub(1, Ordering::SeqCst);
            debug_assert!(woken != Woken::Stopped || stops);
            return;
        }
        let ready = || new() || fabric.waiting(rank) || control.killed() || stops && control.leaving();
        for _ in 0..spin {
            if ready() {
                return;
            }
            std::hint::spin_loop();
        }
        let bell = &fabric.mailbox(rank).bell;
        bell.attach();
        bell.wait(longest, ready);
    }
}

/// How a waiting call sleeps.
pub(crate) struct Pause {
    /// The latest news that it knows.
    pub seen: u64,
    pub longest: Duration,
    /// How often who leads looks before it sleeps.
    pub spin: u32,
    /// Whether it can be stopped.
    pub stops: bool,
}

/// Held by who leads. When it goes one of the others is woken to lead.
pub(crate) struct Lead<'t> {
    turn: &'t Turn,
    parked: &'t Parked,
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        self.turn.led.store(false, Ordering::SeqCst);
        if self.turn.followers.load(Ordering::SeqCst) > 0 {
            self.parked.notify(FOLLOWERS, 1);
        }
    }
}

/// A call of MPI begins, maybe within a function of the program's that another one has called.
#[inline]
pub(crate) fn begin(host: &mut Host) -> wasmtime::Result<()> {
    if host.threads.is_none() {
        return Ok(());
    }
    if host.calls == 0 {
        take(host)?;
    }
    host.calls += 1;
    Ok(())
}

/// It has ended.
#[inline]
pub(crate) fn end(host: &mut Host) {
    if host.threads.is_none() {
        return;
    }
    host.calls -= 1;
    if host.calls == 0 {
        give(host);
        if std::mem::take(&mut host.idle) {
            std::thread::yield_now();
        }
    }
}

/// Waits for its turn.
pub(crate) fn take(host: &mut Host) -> wasmtime::Result<()> {
    let threads = host.threads.as_ref().expect("only threads take turns");
    let (state, flags) = threads.turn.take(|| threads.over()).ok_or_else(|| wasmtime::Error::new(End::Over))?;
    (host.mpi, host.flags) = (Held(Some(state)), flags);
    Ok(())
}

/// Lets others have theirs. Gives the number of the latest news. Nothing happens where the cell ended while its turn was waited for.
pub(crate) fn give(host: &mut Host) -> u64 {
    let threads = host.threads.as_ref().expect("only threads take turns");
    let Some(state) = host.mpi.0.take() else { return 0 };
    threads.turn.give(state, host.flags, &host.control.parked, &host.fabric.mailbox(host.rank).bell)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn turn() -> (Turn, Parked, mpi::fabric::Bell) {
        (Turn::new(mpi::State::new(Rank(0), 2)), Parked::default(), mpi::fabric::Bell::default())
    }

    #[test]
    fn turns_are_taken_in_the_order_in_which_they_are_asked_for() {
        let (turn, parked, bell) = turn();
        let never = || false;
        let (first, flags) = turn.take(never).unwrap();
        let order = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for n in 0..4u64 {
                let (turn, parked, bell, order) = (&turn, &parked, &bell, &order);
                scope.spawn(move || {
                    let (state, flags) = turn.take(never).unwrap();
                    lock(order).push(n);
                    turn.give(state, flags, parked, bell);
                });
                // The one that has the state, and those that wait.
                while lock(&turn.seat).next < n + 2 {
                    std::thread::yield_now();
                }
            }
            turn.give(first, flags, &parked, &bell);
        });
        assert_eq!(order.into_inner().unwrap(), [0, 1, 2, 3]);
        assert!(turn.take(|| true).is_none(), "nobody has it, but the cell has ended");
        assert!(turn.reclaim().is_some());
        assert!(turn.take(|| true).is_none(), "whoever has it, the cell has ended");
    }

    #[test]
    fn one_leads_and_the_next_is_woken_when_it_has_what_it_waited_for() {
        let (turn, _, bell) = turn();
        let control: Arc<Control> = Arc::default();
        struct Nowhere;
        impl mpi::Wire for Nowhere {
            fn send(&self, _: mpi::Message) {}
            fn acknowledge(&self, _: Rank, _: Rank, _: u64) {}
        }
        let fabric = Fabric::new(2, Box::new(Nowhere));
        let begun = std::time::Instant::now();
        let pause = |lead: Option<&Lead<'_>>, seen| turn.pause(lead, Pause { seen, longest: Duration::from_secs(60), spin: 0, stops: true }, &control, &fabric, Rank(0));
        let lead = turn.lead(&control.parked).unwrap();
        assert!(turn.lead(&control.parked).is_none());
        std::thread::scope(|scope| {
            let follower = scope.spawn(|| pause(None, 0));
            while turn.followers.load(Ordering::SeqCst) == 0 {
                std::thread::yield_now();
            }
            drop(lead);
            follower.join().unwrap();
            let lead = turn.lead(&control.parked).unwrap();
            let follower = scope.spawn(|| pause(None, 0));
            // What a call of another thread has brought: a generalized request is complete.
            let (mut state, flags) = turn.take(|| false).unwrap();
            let request = state.general_start(mpi::rank::General { query: 0, free: 0, cancel: 0, extra: 0 }).unwrap();
            state.general_complete(request).unwrap();
            assert_eq!(turn.give(state, flags, &control.parked, &bell), 1);
            follower.join().unwrap();
            pause(Some(&lead), 0);
        });
        // Nothing new: only time, or an end.
        let lead = turn.lead(&control.parked).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| pause(None, 1));
            control.kill("enough");
        });
        pause(Some(&lead), 1);
        assert!(begun.elapsed() < Duration::from_secs(30), "each was woken, and none only when its time was over");
    }
}
