//! The handle by which the agent stops, kills and watches a cell that runs on another thread.

use crate::engine::PAGE;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

/// Shared between a cell's thread and everybody who wants something of it.
#[derive(Default)]
pub struct Control {
    stop: AtomicBool,
    kill: AtomicBool,
    /// How many of the guest's functions a host call is waiting for.
    held: AtomicU32,
    reason: Mutex<String>,
    /// The cell's memory while it exists.
    memory: Mutex<Option<View>>,
    /// Linux thread id, for run-queue statistics; 0: not running.
    pub thread: AtomicU32,
    /// Bytes of linear memory, also while it runs.
    pub memory_bytes: AtomicU64,
    /// When the guest last left its work for a stop.
    pub(crate) left_at: Mutex<Option<Instant>>,
    /// It has come back to its work since the last [`Control::stop`].
    pub(crate) back: AtomicBool,
    /// What it is in: an index of [`crate::DOING`].
    pub doing: AtomicU32,
}

/// A live cell's memories, seen from outside its thread.
struct View {
    base: *mut u8,
    /// Two words: stop, die.
    flags: Option<*const AtomicU32>,
}

// SAFETY: the pointers are only used under `Control::memory`'s lock, and `Attached` takes it away before the memory is given back.
unsafe impl Send for View {}

/// While it lives, a cell's memory can be reached through its [`Control`]. Its end takes the memory away, also when a panic ends the cell's thread:
/// the pool gives the memory to another cell afterwards.
pub(crate) struct Attached(Arc<Control>);

impl Drop for Attached {
    fn drop(&mut self) {
        *self.0.view() = None;
        self.0.thread.store(0, Ordering::Relaxed);
    }
}

impl Control {
    fn view(&self) -> std::sync::MutexGuard<'_, Option<View>> {
        self.memory.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Called by the cell's thread when its memories exist. `flags`: where its flag words are.
    ///
    /// # Safety
    /// Eight bytes from `flags` on must stay mapped and writable, and what is at `base` must be the cell's memory, until the answer is dropped. The
    /// words must be aligned. Linear memory of the pool never moves and never shrinks.
    pub(crate) unsafe fn attach(self: &Arc<Self>, base: *mut u8, flags: Option<*mut u8>) -> Attached {
        let flags = flags.map(|f| f.cast_const().cast::<AtomicU32>());
        assert!(flags.is_none_or(|f| f.is_aligned()), "the flag words are not aligned");
        *self.view() = Some(View { base, flags });
        if self.stop.load(Ordering::SeqCst) || self.kill.load(Ordering::SeqCst) {
            self.raise();
        }
        Attached(self.clone())
    }

    /// Sets one of the flag words as long as the lock of `view` is held.
    fn word(view: &Option<View>, index: usize, value: u32) {
        if let Some(View { flags: Some(flags), .. }) = view {
            // SAFETY: both words are there and aligned, by the promise to `attach`; while the lock is held `Attached` can't end, so they are
            // this cell's. The guest reads them with atomic loads.
            unsafe { &*flags.add(index) }.store(value, Ordering::SeqCst);
        }
    }

    fn raise(&self) {
        let view = self.view();
        if self.killed() {
            Control::word(&view, 1, 1);
        } else if self.held() {
            return;
        }
        Control::word(&view, 0, 1);
    }

    /// A host call is about to call a function of the guest's: until [`Control::release`] a stop waits, since a poll in that function would unwind into the
    /// host. A kill does not wait; who calls must look for it when the function has returned.
    pub fn hold(&self) {
        self.held.fetch_add(1, Ordering::SeqCst);
        let view = self.view();
        if !self.killed() {
            Control::word(&view, 0, 0);
        }
    }

    /// Whether a host call waits for a function of the guest's.
    pub(crate) fn held(&self) -> bool {
        self.held.load(Ordering::SeqCst) > 0
    }

    /// The function has returned.
    pub fn release(&self) {
        self.held.fetch_sub(1, Ordering::SeqCst);
        if self.stopping() {
            self.raise();
        }
    }

    /// Asks the cell to stop at its next safe point. Wake it if it may be waiting.
    pub fn stop(&self) {
        self.back.store(false, Ordering::SeqCst);
        self.stop.store(true, Ordering::SeqCst);
        self.raise();
    }

    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// The stop was seen, or is not wanted any more.
    pub fn clear(&self) {
        self.stop.store(false, Ordering::SeqCst);
        // Under the lock that `raise` takes: what was set by a kill stays set.
        let view = self.view();
        if !self.killed() {
            Control::word(&view, 0, 0);
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
        let Some(View { base, .. }) = &*view else { return 0 };
        let left = self.memory_bytes.load(Ordering::Relaxed).saturating_sub(at);
        let want = into.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        // An error is the end of what is mapped: a growth that was announced and then refused.
        let got = own_memory.read_at(&mut into[..want], *base as u64 + at).unwrap_or(0);
        got - got % PAGE
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
}
