//! A rank's memory as MPI sees it: addresses are offsets into it, and nothing outside is ever touched.
//!
//! A program of one thread lends all of its memory for the time of a call, so what is sent is looked at in place. Of a program with several the others go on
//! meanwhile: its memory is only ever copied, and what is looked at is the copy. Who writes where MPI reads, or the other way round, finds a mixture of old
//! and new bytes, as with any MPI, and nothing else comes of it.

use std::borrow::Cow;
use std::cell::UnsafeCell;
use std::ops::Range;

/// See the module.
pub enum Memory<'m> {
    /// Nobody else's as long as this lives.
    Own(&'m mut [u8]),
    /// Other threads of the program may write to it at any moment.
    Shared(&'m [UnsafeCell<u8>]),
}

impl Memory<'_> {
    /// Bytes.
    #[inline]
    #[allow(clippy::len_without_is_empty)] // no program has no memory
    pub fn len(&self) -> usize {
        match self {
            Memory::Own(memory) => memory.len(),
            Memory::Shared(memory) => memory.len(),
        }
    }

    /// What lies there now: in place, or a copy. `None`: not all of it is in the memory.
    #[inline]
    pub fn bytes(&self, range: Range<usize>) -> Option<Cow<'_, [u8]>> {
        match self {
            Memory::Own(memory) => memory.get(range).map(Cow::Borrowed),
            Memory::Shared(memory) => {
                let cells = memory.get(range)?;
                let mut copy = vec![0; cells.len()];
                copy_out(cells, &mut copy);
                Some(Cow::Owned(copy))
            }
        }
    }

    /// Copies as many bytes as `into` has from `at` on. `None`: they are not all in the memory, and nothing has happened.
    #[inline]
    pub fn read(&self, at: usize, into: &mut [u8]) -> Option<()> {
        let range = at..at.checked_add(into.len())?;
        match self {
            Memory::Own(memory) => into.copy_from_slice(memory.get(range)?),
            Memory::Shared(memory) => copy_out(memory.get(range)?, into),
        }
        Some(())
    }

    /// Copies `data` to `at`. `None`: there is no room for all of it in the memory, and nothing has happened.
    #[inline]
    pub fn write(&mut self, at: usize, data: &[u8]) -> Option<()> {
        let range = at..at.checked_add(data.len())?;
        match self {
            Memory::Own(memory) => memory.get_mut(range)?.copy_from_slice(data),
            Memory::Shared(memory) => {
                let cells = memory.get(range)?;
                // SAFETY: as many bytes are there as `data` has, in cells that may be written through a shared reference; `data` is the host's own, which no
                // thread of the guest can reach. That they may use these bytes meanwhile is the guest's affair.
                unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), UnsafeCell::raw_get(cells.as_ptr()), data.len()) };
            }
        }
        Some(())
    }
}

fn copy_out(cells: &[UnsafeCell<u8>], into: &mut [u8]) {
    assert_eq!(cells.len(), into.len());
    // SAFETY: as many bytes are there as `into` has, which is the host's own and no part of them. No reference to the guest's bytes is made: if a thread of
    // the guest writes them meanwhile, the copy is a mixture of old and new.
    unsafe { std::ptr::copy_nonoverlapping(UnsafeCell::raw_get(cells.as_ptr()), into.as_mut_ptr(), into.len()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_answer_alike_and_nothing_outside_is_touched() {
        let mut own = [1u8, 2, 3, 4];
        let shared = [1u8, 2, 3, 4].map(UnsafeCell::new);
        for mut memory in [Memory::Own(&mut own), Memory::Shared(&shared)] {
            assert_eq!(memory.len(), 4);
            assert_eq!(memory.write(1, &[7, 8]), Some(()));
            assert_eq!(memory.bytes(0..4).as_deref(), Some(&[1, 7, 8, 4][..]));
            let mut word = [0; 2];
            assert_eq!((memory.read(2, &mut word), word), (Some(()), [8, 4]));
            assert!(memory.bytes(3..5).is_none() && memory.read(3, &mut word).is_none());
            assert!(memory.write(3, &[0, 0]).is_none());
            assert_eq!((memory.read(usize::MAX, &mut word), memory.write(usize::MAX, &[0, 0])), (None, None));
            assert_eq!((memory.bytes(4..4).as_deref(), memory.bytes(0..4).as_deref()), (Some(&[][..]), Some(&[1, 7, 8, 4][..])), "nothing has changed");
        }
    }
}
