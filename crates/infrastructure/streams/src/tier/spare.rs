//! Memory for chunks on their way out of the log, kept from one to the next.
//!
//! Fresh memory of some MiB costs a page fault for each 4 KiB, together as long as reading the chunk; and whoever has the processor for that keeps it from appends.

use super::lock;
use bytes::Bytes;
use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// Without a chunk for so long, it is given back.
const KEPT: Duration = Duration::from_secs(5);
/// What needs less than such a part of it gets memory of its own: a few bytes on their way to a slow storage would keep it from the many behind them.
const PART: usize = 8;

/// The largest buffer of late, when nobody has it; and since when.
#[derive(Clone, Default)]
pub(super) struct Spare(Arc<Mutex<Option<(Vec<u8>, Instant)>>>);

impl Spare {
    /// So many bytes, with anything in them.
    pub fn take(&self, bytes: usize) -> Lent {
        let kept = lock(&self.0).take_if(|(memory, _)| bytes >= memory.len() / PART);
        let mut memory = kept.map(|(memory, _)| memory).unwrap_or_default();
        if memory.len() < bytes {
            // Nothing of it is to be copied. Zeros of the system's are none before they are touched.
            memory = vec![0; bytes];
        }
        Lent { memory, bytes, home: self.clone() }
    }

    /// Gives back what has not been needed for a while.
    pub fn sweep(&self) {
        lock(&self.0).take_if(|(_, since)| since.elapsed() > KEPT);
    }
}

/// Memory that is there again when it is dropped, also as bytes.
pub(super) struct Lent {
    memory: Vec<u8>,
    bytes: usize,
    home: Spare,
}

impl Deref for Lent {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.memory[..self.bytes]
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.bytes]
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Lent> for Bytes {
    fn from(lent: Lent) -> Bytes {
        Bytes::from_owner(lent)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut kept = lock(&self.home.0);
        if kept.as_ref().is_none_or(|(memory, _)| memory.len() < self.memory.len()) {
            *kept = Some((std::mem::take(&mut self.memory), Instant::now()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_with_the_last_of_its_bytes() {
        let spare = Spare::default();
        let mut lent = spare.take(1000);
        lent.fill(7);
        let lent = Bytes::from(lent);
        let (at, part) = (lent.as_ptr(), lent.slice(10..20));
        drop(lent);
        assert_ne!(spare.take(1000).as_ptr(), at, "a part is used still");
        assert_eq!(&part[..], [7; 10]);
        drop(part);
        spare.sweep();
        // The one that was larger, or came first, is kept; a few bytes don't get it.
        let again = spare.take(900);
        assert_eq!(again.len(), 900);
        assert_ne!(spare.take(10).as_ptr(), again.as_ptr());
        drop(again);
        let (few, many) = (spare.take(10), spare.take(1000));
        assert_eq!((few.len(), few.memory.len(), many.len(), many.memory.len()), (10, 10, 1000, 1000));
    }
}
