//! A large message's bytes where they lie: in its sender's memory, whose thread waits until the receiver has copied them. One copy instead of two.
//!
//! ```text
//!  sender:   lend ─▶ in the ring ─▶ waits ──────────────▶ over: its call returns
//!                                     └─ won't wait any longer: settle, the bytes are copied and stay with the message
//!  receiver:                  take: reads them where they are, or the copy
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

/// See the module.
#[derive(Debug)]
pub struct Loan {
    bytes: Mutex<Bytes>,
    over: AtomicBool,
}

#[derive(Debug)]
enum Bytes {
    Lent(*const [u8]),
    Own(Box<[u8]>),
    Taken,
}

// SAFETY: the pointer is read under the lock only, and stays good for any thread until the loan is over: that is what `Loan::new` asks for.
unsafe impl Send for Loan {}
// SAFETY: as above.
unsafe impl Sync for Loan {}

impl Loan {
    /// # Safety
    ///
    /// Until the loan is [`over`](Loan::over) or has been [settled](Loan::settle) the bytes stay where they are, and nobody writes them.
    pub(crate) unsafe fn new(bytes: *const [u8]) -> Loan {
        Loan { bytes: Mutex::new(Bytes::Lent(bytes)), over: AtomicBool::new(false) }
    }

    fn lock(&self) -> MutexGuard<'_, Bytes> {
        // Whoever panics while it looks at the bytes has not changed them.
        self.bytes.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Whether the lender's bytes are its own again.
    #[inline]
    pub fn over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// The lender wants its bytes back: what nobody has taken yet is copied. Waits for who is just taking them.
    pub fn settle(&self) {
        let mut bytes = self.lock();
        if let Bytes::Lent(lent) = *bytes {
            // SAFETY: the loan is not over, so the bytes are there and nobody writes them (`new`).
            *bytes = Bytes::Own(unsafe { &*lent }.into());
        }
        self.over.store(true, Ordering::Release);
    }

    /// Shows the bytes to `take`, once, and the loan is over.
    pub(crate) fn take<T>(&self, take: impl FnOnce(&[u8]) -> T) -> T {
        let mut bytes = self.lock();
        let out = match &*bytes {
            // SAFETY: the loan is not over, and can't be before the lock is let go: the bytes are there and nobody writes them (`new`).
            Bytes::Lent(lent) => take(unsafe { &**lent }),
            Bytes::Own(own) => take(own),
            Bytes::Taken => take(&[]),
        };
        *bytes = Bytes::Taken;
        self.over.store(true, Ordering::Release);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_the_lenders_again_when_they_are_taken_or_copied() {
        let bytes = vec![1u8, 2, 3];
        // SAFETY: `bytes` outlives both loans and is not written before they are over.
        let (taken, settled) = unsafe { (Loan::new(&*bytes), Loan::new(&*bytes)) };
        assert!(!taken.over() && !settled.over());
        let there = bytes.as_ptr();
        assert!(taken.take(|data| data == [1, 2, 3] && std::ptr::eq(data.as_ptr(), there)), "read where they lie");
        settled.settle();
        assert!(taken.over() && settled.over());
        drop(bytes);
        taken.settle();
        assert!(settled.take(|data| data == [1, 2, 3]), "the copy stays");
        assert!(settled.take(|data| data.is_empty()), "nothing is taken twice");
    }
}
