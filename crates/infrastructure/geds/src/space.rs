//! Room on a tier: what is charged against its limit, and who waits for some of it.
//!
//! Bytes are taken before they are written and given back when a [`Reservation`] is dropped, so exactly once. `charged` counts what is
//! reserved, what lives and what is dead but still on the disk. It passes the limit only by what a compaction copies
//! ([`Space::overdraw`]) and by the last block of each closed segment ([`Reservation::cover`]). Nothing here knows of files.

use std::{
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

/// How long a thread that waits for room sleeps at most before it looks again: a bound for a signal that got lost, not the usual way.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

pub(crate) struct Space {
    pub limit: u64,
    charged: AtomicU64,
    /// Bytes of objects and of what writers have reserved for them; without padding and without what is dead.
    used: AtomicU64,
    waiting: AtomicUsize,
    turn: Mutex<()>,
    given: Condvar,
    given_async: tokio::sync::Notify,
}

/// There is no room now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full {
    pub wanted: u64,
    pub charged: u64,
    pub limit: u64,
}

impl Space {
    pub fn new(limit: u64) -> Arc<Space> {
        Arc::new(Space {
            limit,
            charged: AtomicU64::new(0),
            used: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            turn: Mutex::new(()),
            given: Condvar::new(),
            given_async: tokio::sync::Notify::new(),
        })
    }

    pub fn charged(&self) -> u64 {
        self.charged.load(SeqCst)
    }

    pub fn used(&self) -> u64 {
        self.used.load(SeqCst)
    }

    /// How many threads and tasks wait for room.
    pub fn waiting(&self) -> usize {
        self.waiting.load(SeqCst)
    }

    pub fn use_more(&self, bytes: u64) {
        self.used.fetch_add(bytes, SeqCst);
    }

    pub fn use_less(&self, bytes: u64) {
        let before = self.used.fetch_sub(bytes, SeqCst);
        assert!(before >= bytes, "more bytes freed ({bytes}) than were used ({before})");
    }

    fn take(&self, wanted: u64) -> Result<(), Full> {
        self.charged
            .fetch_update(SeqCst, SeqCst, |charged| charged.checked_add(wanted).filter(|sum| *sum <= self.limit))
            .map(|_| ())
            .map_err(|charged| Full { wanted, charged, limit: self.limit })
    }

    fn give(&self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let before = self.charged.fetch_sub(bytes, SeqCst);
        assert!(before >= bytes, "more space given back ({bytes}) than was taken ({before})");
        if self.waiting.load(SeqCst) > 0 {
            // Under the lock, so that it doesn't fall between a waiter's look and its sleep.
            let _turn = self.turn.lock().unwrap_or_else(|e| e.into_inner());
            self.given.notify_all();
            self.given_async.notify_waiters();
        }
    }

    #[cfg(test)]
    fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Reservation, Full> {
        self.take(bytes)?;
        Ok(Reservation { space: self.clone(), bytes })
    }

    /// Takes bytes above the limit: only for what frees more than it takes, and for what was there when the node was opened.
    pub fn overdraw(self: &Arc<Self>, bytes: u64) -> Reservation {
        self.charged.fetch_add(bytes, SeqCst);
        Reservation { space: self.clone(), bytes }
    }

    /// Sleeps until something is given back or the deadline has come (false).
    pub fn wait(&self, deadline: Instant) -> bool {
        let now = Instant::now();
        if now >= deadline {
            return false;
        }
        let turn = self.turn.lock().unwrap_or_else(|e| e.into_inner());
        self.waiting.fetch_add(1, SeqCst);
        let _ = self.given.wait_timeout(turn, LOOK_AGAIN.min(deadline - now));
        self.waiting.fetch_sub(1, SeqCst);
        true
    }

    /// [`Space::wait`] for a task.
    pub async fn wait_async(&self, deadline: Instant) -> bool {
        let now = Instant::now();
        if now >= deadline {
            return false;
        }
        struct Waits<'a>(&'a AtomicUsize);
        impl Drop for Waits<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, SeqCst);
            }
        }
        self.waiting.fetch_add(1, SeqCst);
        let _waits = Waits(&self.waiting);
        let _ = tokio::time::timeout(LOOK_AGAIN.min(deadline - now), self.given_async.notified()).await;
        true
    }
}

/// Bytes taken from a [`Space`]; given back when it is dropped.
pub(crate) struct Reservation {
    space: Arc<Space>,
    bytes: u64,
}

impl Reservation {
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn grow(&mut self, to: u64) -> Result<(), Full> {
        if let Some(more) = to.checked_sub(self.bytes) {
            self.space.take(more)?;
            self.bytes = to;
        }
        Ok(())
    }

    /// Takes what is missing up to `to`, above the limit too: it is on the disk already.
    pub fn cover(&mut self, to: u64) {
        if let Some(more) = to.checked_sub(self.bytes) {
            let more = self.space.overdraw(more);
            self.join(more);
        }
    }

    pub fn shrink(&mut self, to: u64) {
        if let Some(less) = self.bytes.checked_sub(to) {
            self.bytes = to;
            self.space.give(less);
        }
    }

    /// Hands all of it to another one of the same space.
    pub fn join(&mut self, mut other: Reservation) {
        assert!(Arc::ptr_eq(&self.space, &other.space), "bytes of one tier can't be given to another");
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.space.give(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_comes_back_once() {
        let space = Space::new(100);
        let mut first = space.reserve(60).unwrap();
        let full = space.reserve(41).err().unwrap();
        assert_eq!(full, Full { wanted: 41, charged: 60, limit: 100 });
        let mut second = space.reserve(40).unwrap();
        assert!(first.grow(61).is_err());
        second.shrink(10);
        first.grow(90).unwrap();
        second.join(first);
        assert_eq!((space.charged(), second.bytes()), (100, 100));
        drop(space.overdraw(50));
        drop(second);
        assert_eq!(space.charged(), 0);
    }

    #[test]
    fn who_waits_is_woken_by_what_comes_back() {
        let space = Space::new(100);
        let all = space.reserve(100).unwrap();
        assert!(!space.wait(Instant::now()));
        let waiter = std::thread::spawn({
            let space = space.clone();
            move || {
                let deadline = Instant::now() + Duration::from_secs(20);
                loop {
                    match space.reserve(1) {
                        Ok(_) => return true,
                        Err(_) if !space.wait(deadline) => return false,
                        Err(_) => {}
                    }
                }
            }
        });
        while space.waiting() == 0 {
            std::thread::yield_now();
        }
        drop(all);
        assert!(waiter.join().unwrap());
    }
}
