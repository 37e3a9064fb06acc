//! Hands that are lent: whoever pushes writes a small block itself, where nothing is under way and writes are short.
//!
//! ```text
//!   lending { work: push, push } ─▶ take_lent: the open block ─▶ write ─▶ landed
//!                                          └▶ not for this thread: the bell, as ever
//! ```
//!
//! Waking another thread for it, and that one waking the first when it is done, take longer than such a write. A disk that stalls keeps the thread; then a hand sees to it that another
//! one of its runtime looks for what comes meanwhile ([`super::Step::Relieve`]).

use super::{BLOCK_WORTH, Chain, Log, Open, Shared, Step, StopsIfLost, block, bytes_of, lock};
use std::{
    cell::Cell,
    sync::{MutexGuard, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};
use tokio::runtime::Handle;

/// Who lends a hand does not where a write takes longer than this, as a mean: it has other things to do.
const LENT_MAX: Duration = Duration::from_millis(1);
/// When a disk keeps who lends a hand for so long, somebody else has to look for what it would look for.
const LENT_LONG: Duration = Duration::from_millis(10);

/// A hand that is lent.
pub(super) struct Lent {
    since: Instant,
    /// To which the thread belongs, until it has been told that it stands still.
    pub(super) runtime: Option<Handle>,
}

impl Lent {
    /// When it will have stood still for long, if that is still to be told.
    pub(super) fn long(&self) -> Option<Instant> {
        self.runtime.as_ref().map(|_| self.since + LENT_LONG)
    }
}

thread_local! {
    /// Where a thread lends a hand: to which log, and whether it has pushed anything that it is to write.
    static LENDS: Cell<Option<(usize, bool)>> = const { Cell::new(None) };
}

impl<N: Send + 'static> Log<N> {
    /// Does `work` that may push, and then lends a hand: what was pushed to this log is written by this thread, if that is soon done, and nobody has to be woken for it. A disk that stalls
    /// keeps the thread; where that belongs to a runtime of tokio, another one of its threads is woken for what comes meanwhile.
    pub fn lending<T>(&self, work: impl FnOnce() -> T) -> T {
        // Also where the work panics: nobody else was told of what it has pushed.
        struct Ends<'a, N: Send + 'static>(&'a Shared<N>);
        impl<N: Send + 'static> Drop for Ends<'_, N> {
            fn drop(&mut self) {
                if LENDS.take() == Some((self.0.address(), true)) {
                    self.0.lend();
                }
            }
        }
        // Who lends one already does so when all is done.
        if LENDS.get().is_some() {
            return work();
        }
        LENDS.set(Some((self.shared.address(), false)));
        let _ends = Ends(&self.shared);
        work()
    }
}

/// A hand that was lent, and is given back when this is dropped.
struct GivesBack<'a, N: Send + 'static>(&'a Shared<N>);

impl<N: Send + 'static> Drop for GivesBack<'_, N> {
    fn drop(&mut self) {
        lock(&self.0.queue).lent = None;
        if self.0.closing.load(Relaxed) {
            self.0.bell.notify_all();
        }
    }
}

impl<N: Send + 'static> Shared<N> {
    /// Whether this thread will write what it has just pushed: it lends a hand to this log.
    pub(super) fn is_lent(&self) -> bool {
        let lent = LENDS.get().is_some_and(|(log, _)| log == self.address());
        if lent {
            LENDS.set(Some((self.address(), true)));
        }
        lent
    }

    /// Which log it is.
    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Writes the block that waits, if that is for who lends a hand, and sees to it that a hand looks for the rest.
    fn lend(&self) {
        let _lost = StopsIfLost::new(self);
        if let Some((chain, open)) = self.take_lent() {
            let _back = GivesBack(self);
            self.finish(self.lay(chain, open));
        }
        if self.rings(&lock(&self.queue)) {
            self.bell.notify_one();
        }
    }

    /// Takes the block that waits, if who lends a hand will soon have written it: then nothing is under way, it is small, writes are short, and neither its place nor its turn has to be
    /// waited for.
    fn take_lent(&self) -> Option<(MutexGuard<'_, Chain>, Open<N>)> {
        if self.write_us.load(Relaxed) > LENT_MAX.as_micros() as u64 {
            return None;
        }
        // In the order of `lay_next`.
        let chain = self.chain.try_lock().ok()?;
        let mut queue = lock(&self.queue);
        let bytes = bytes_of(&queue);
        let has_place = chain.file.as_ref().is_some_and(|(_, file)| chain.at + block::padded(block::HEADER + bytes) as u64 <= file.bytes());
        // Behind a cut the state may be encoded, which takes as long as it has bytes.
        let soon = queue.under_way == 0 && queue.blocks.len() == 1 && bytes < BLOCK_WORTH && has_place && !queue.cut;
        if !soon || self.closing.load(Relaxed) || !matches!(self.step(&queue), Step::Take) {
            return None;
        }
        let open = queue.blocks.pop_front()?;
        queue.noted = false;
        queue.under_way += 1;
        queue.last_start = Instant::now();
        queue.lent = Some(Lent { since: queue.last_start, runtime: Handle::try_current().ok() });
        let unwatched = queue.watch.is_none();
        drop(queue);
        if unwatched {
            self.bell.notify_one();
        }
        Some((chain, open))
    }
}
