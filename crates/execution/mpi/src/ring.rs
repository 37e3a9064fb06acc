//! A bounded queue from one rank to another on the same agent: one thread pushes, one thread pops, no lock.
//!
//! Records lie one after the other in a byte ring: a fixed head, then the payload. Payloads above [`INLINE_MAX`] stay on the heap and only
//! their address travels, within [`HEAP_MAX`] bytes per ring, so a sender that outruns its receiver waits instead of filling the memory. Those that
//! are lent ([`Loan`]) lie with their sender meanwhile, and are counted alike, because they may be copied.
//!
//! The consumer side may pass from the receiving rank's thread to the agent's sweeper when the rank has left; a mutex outside
//! (`Mailbox::consumer`) makes sure that only one of them pops.

use crate::loan::Loan;
use crate::message::{Header, Kind, Rank};
use std::cell::{Cell, UnsafeCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of a ring. 16 ranks on an agent have at most 256 rings, 8 MiB.
const SIZE: usize = 32 * 1024;
/// Larger payloads go by reference.
pub const INLINE_MAX: usize = 4 * 1024;
/// Bytes on the heap that a ring may own at a time; a single larger message is let through when there is no other.
const HEAP_MAX: usize = 16 << 20;
/// seq 8, context 4, tag 4, token 4, length with flags 4, and the payload from a multiple of 8 on.
const HEAD: usize = 24;
const SKIP: u32 = u32::MAX;
const HEAP_FLAG: u32 = 1 << 31;
const LOAN_FLAG: u32 = 1 << 30;
const KIND_SHIFT: u32 = 24;

#[repr(align(128))]
struct Side {
    position: AtomicUsize,
    /// What this side last saw of the other's position.
    seen: Cell<usize>,
}

pub struct Ring {
    producer: Side,
    consumer: Side,
    heap_bytes: AtomicUsize,
    bytes: Box<[UnsafeCell<u64>]>,
}

// SAFETY: `push` is called by one thread at a time (of the sending rank, whose threads hand a lock on with that right) and `pop` by one at a time (who holds the mailbox's consumer right).
// Each side writes only its own position and its own `seen`; bytes are written before the producer's position is released and read after it is
// acquired, and reused only after the consumer's position was released. So no byte is accessed by both at once.
unsafe impl Sync for Ring {}
// SAFETY: as above; the heap payloads that it owns are plain bytes.
unsafe impl Send for Ring {}

impl Default for Ring {
    fn default() -> Ring {
        let side = || Side { position: AtomicUsize::new(0), seen: Cell::new(0) };
        Ring {
            producer: side(),
            consumer: side(),
            heap_bytes: AtomicUsize::new(0),
            bytes: (0..SIZE / 8).map(|_| UnsafeCell::new(0)).collect(),
        }
    }
}

fn padded(len: usize) -> usize {
    HEAD + len.next_multiple_of(8)
}

impl Ring {
    fn at(&self, position: usize) -> *mut u8 {
        // SAFETY: the offset is below SIZE, the length of the allocation.
        unsafe { UnsafeCell::raw_get(self.bytes.as_ptr()).cast::<u8>().add(position % SIZE) }
    }

    /// Appends a message. `false`: no room now. Called by who runs the sending rank, one thread at a time.
    #[inline]
    pub fn push(&self, header: &Header, data: &[u8]) -> bool {
        if data.len() <= INLINE_MAX {
            // SAFETY: as many bytes are free at `p`.
            return self.record(header, data.len() as u32, data.len(), |p| unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), p, data.len()) });
        }
        self.refer(header, HEAP_FLAG, data.len(), || Box::into_raw(Box::<[u8]>::from(data)).cast())
    }

    /// Appends a message whose bytes stay with the sender. `None`: no room now. Called by who runs the sending rank, one thread at a time.
    ///
    /// # Safety
    ///
    /// Until the loan is over or has been settled the bytes stay where they are, and nobody writes them.
    pub unsafe fn lend(&self, header: &Header, data: *const [u8]) -> Option<Arc<Loan>> {
        // SAFETY: the caller's promise.
        let loan = Arc::new(unsafe { Loan::new(data) });
        self.refer(header, LOAN_FLAG, data.len(), || Arc::into_raw(loan.clone()).cast()).then_some(loan)
    }

    /// Appends a message of which only the address is in the ring.
    fn refer(&self, header: &Header, flag: u32, len: usize, payload: impl FnOnce() -> *const u8) -> bool {
        let held = self.heap_bytes.load(Ordering::Acquire);
        if held > 0 && held + len > HEAP_MAX {
            return false;
        }
        self.record(header, flag, 16, |p| {
            // SAFETY: 16 bytes are free at `p`.
            unsafe {
                p.cast::<usize>().write(len);
                p.add(8).cast::<*const u8>().write(payload());
            }
            self.heap_bytes.fetch_add(len, Ordering::AcqRel);
        })
    }

    /// Appends a record; `fill` writes its payload of `len` bytes.
    #[inline]
    fn record(&self, header: &Header, word: u32, len: usize, fill: impl FnOnce(*mut u8)) -> bool {
        let need = padded(len);
        let mut tail = self.producer.position.load(Ordering::Relaxed);
        let to_end = SIZE - tail % SIZE;
        let total = if to_end < need { to_end + need } else { need };
        if tail + total - self.producer.seen.get() > SIZE {
            self.producer.seen.set(self.consumer.position.load(Ordering::Acquire));
            if tail + total - self.producer.seen.get() > SIZE {
                return false;
            }
        }
        // SAFETY: [tail, tail + total) is free: the consumer's position was acquired above and is at most SIZE behind the new tail. A
        // record never crosses the end of the ring.
        unsafe {
            if to_end < need {
                // An end shorter than a head has no room for a mark; the consumer skips it by its size.
                if to_end >= HEAD {
                    self.at(tail).add(20).cast::<u32>().write(SKIP);
                }
                tail += to_end;
            }
            let p = self.at(tail);
            p.cast::<u64>().write(header.seq);
            p.add(8).cast::<u32>().write(header.context);
            p.add(12).cast::<i32>().write(header.tag);
            p.add(16).cast::<u32>().write(header.token);
            p.add(20).cast::<u32>().write(word | (header.kind as u32) << KIND_SHIFT);
            fill(p.add(HEAD));
        }
        self.producer.position.store(tail + need, Ordering::Release);
        true
    }

    /// Takes the oldest message and shows it to `take`. `None`: empty. Called by the consumer only.
    #[inline]
    pub fn pop<T>(&self, src: Rank, dst: Rank, take: impl FnOnce(Header, &[u8]) -> T) -> Option<T> {
        let mut head = self.consumer.position.load(Ordering::Relaxed);
        if head == self.consumer.seen.get() {
            self.consumer.seen.set(self.producer.position.load(Ordering::Acquire));
            if head == self.consumer.seen.get() {
                return None;
            }
        }
        // SAFETY: the producer's position was acquired and is beyond `head`, so a whole record (or a skip mark followed by one) is there.
        unsafe {
            let mut p = self.at(head);
            let to_end = SIZE - head % SIZE;
            if to_end < HEAD || p.add(20).cast::<u32>().read() == SKIP {
                head += to_end;
                p = self.at(head);
            }
            let word = p.add(20).cast::<u32>().read();
            let kind = match (word >> KIND_SHIFT) & 0x3f {
                0 => Kind::Data,
                1 => Kind::Synchronous,
                2 => Kind::Matched,
                3 => Kind::OneSided,
                _ => Kind::File,
            };
            let header = Header {
                src,
                dst,
                seq: p.cast::<u64>().read(),
                context: p.add(8).cast::<u32>().read(),
                tag: p.add(12).cast::<i32>().read(),
                kind,
                token: p.add(16).cast::<u32>().read(),
            };
            let (out, used) = if word & (HEAP_FLAG | LOAN_FLAG) != 0 {
                let len = p.add(HEAD).cast::<usize>().read();
                let data = p.add(HEAD + 8).cast::<*mut u8>().read();
                self.heap_bytes.fetch_sub(len, Ordering::AcqRel);
                let out = if word & HEAP_FLAG != 0 {
                    take(header, &Box::from_raw(std::ptr::slice_from_raw_parts_mut(data, len)))
                } else {
                    Arc::from_raw(data.cast::<Loan>()).take(|data| take(header, data))
                };
                (out, padded(16))
            } else {
                let len = (word & 0x00ff_ffff) as usize;
                (take(header, std::slice::from_raw_parts(p.add(HEAD), len)), padded(len))
            };
            self.consumer.position.store(head + used, Ordering::Release);
            Some(out)
        }
    }

    /// Where the ring ends now, for [`Ring::before`].
    pub fn end(&self) -> usize {
        self.producer.position.load(Ordering::Acquire)
    }

    /// Whether the consumer has not come to this end yet: it takes what was there, and a sender that goes on can't keep it for ever.
    pub fn before(&self, end: usize) -> bool {
        self.consumer.position.load(Ordering::Relaxed) < end
    }

    /// Whether the consumer has taken everything.
    pub fn is_empty(&self) -> bool {
        self.consumer.position.load(Ordering::Acquire) == self.producer.position.load(Ordering::Acquire)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        while self.pop(Rank(0), Rank(0), |_, _| ()).is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(seq: u64) -> Header {
        Header { src: Rank(3), dst: Rank(4), seq, context: 7, tag: -1, kind: Kind::Data, token: 9 }
    }

    #[test]
    fn two_threads_pass_every_size_in_order() {
        let ring = std::sync::Arc::new(Ring::default());
        let sizes = [0usize, 1, 7, 8, 64, 1000, INLINE_MAX, INLINE_MAX + 1, 100_000];
        let count = 200_000u64;
        let producer = ring.clone();
        let thread = std::thread::spawn(move || {
            for seq in 0..count {
                let size = if seq % 97 == 0 { sizes[(seq / 97 % 9) as usize] } else { (seq % 130) as usize };
                let data = vec![seq as u8; size];
                while !producer.push(&header(seq), &data) {
                    std::thread::yield_now();
                }
            }
        });
        for seq in 0..count {
            let size = if seq % 97 == 0 { sizes[(seq / 97 % 9) as usize] } else { (seq % 130) as usize };
            loop {
                let got = ring.pop(Rank(3), Rank(4), |h, data| {
                    assert_eq!(h, header(seq));
                    assert!(data.len() == size && data.iter().all(|b| *b == seq as u8), "message {seq}");
                });
                if got.is_some() {
                    break;
                }
                std::thread::yield_now();
            }
        }
        thread.join().unwrap();
        assert!(ring.is_empty());
    }

    #[test]
    fn a_full_ring_refuses_and_frees_what_it_owns() {
        let ring = Ring::default();
        let mut pushed = 0;
        while ring.push(&header(pushed), &[0; 1000]) {
            pushed += 1;
        }
        assert!((30..=32).contains(&pushed), "{pushed}");
        let ring = Ring::default();
        assert!(ring.push(&header(0), &vec![1; 20 << 20]), "one message above the limit passes");
        assert!(!ring.push(&header(1), &vec![1; 10_000]), "but not a second one");
    }
}
