//! A bounded queue from one rank to another on the same agent: one thread pushes, one thread pops, no lock.
//!
//! Records lie one after the other in a byte ring: a fixed head, then the payload. Payloads above [`INLINE_MAX`] stay on the heap and only
//! their address travels, within [`HEAP_MAX`] bytes per ring, so a sender that outruns its receiver waits instead of filling the memory. Those that
//! are lent ([`Loan`]) lie with their sender meanwhile, and are counted alike, because they may be copied.
//!
//! A record is there when the last word of its head is: the consumer looks at that word alone, so a short message reaches it with the one or two cache
//! lines that it lies in. The producer clears the word of the next record before it sets that of this one. Positions are for who is neither.
//!
//! The consumer side may pass from the receiving rank's thread to the agent's sweeper when the rank has left; a mutex outside
//! (`Mailbox::consumer`) makes sure that only one of them pops.

use crate::loan::Loan;
use crate::message::{Header, Kind, Rank};
use std::cell::{Cell, UnsafeCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// Bytes of a ring. 16 ranks on an agent have at most 256 rings, 8 MiB.
const SIZE: usize = 32 * 1024;
/// Larger payloads go by reference.
pub const INLINE_MAX: usize = 4 * 1024;
/// Bytes on the heap that a ring may own at a time; a single larger message is let through when there is no other.
const HEAP_MAX: usize = 16 << 20;
/// seq 8, context 4, tag 4, token 4, the word (length with flags) 4, and the payload from a multiple of 8 on.
const HEAD: usize = 24;
/// Where the word is.
const WORD: usize = 20;
/// Words: no record yet; none before the ring begins again. That of a record has [`PRESENT`].
const NOTHING: u32 = 0;
const SKIP: u32 = u32::MAX;
const HEAP_FLAG: u32 = 1 << 31;
const LOAN_FLAG: u32 = 1 << 30;
const PRESENT: u32 = 1 << 29;
const KIND_SHIFT: u32 = 24;
const KIND_MASK: u32 = 0x1f;
const LEN_MASK: u32 = 0x00ff_ffff;

/// What one side writes, on cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Side {
    position: AtomicUsize,
    /// Of the producer: what it last saw of the consumer's position.
    seen: Cell<usize>,
}

pub struct Ring {
    producer: Side,
    consumer: Side,
    heap_bytes: AtomicUsize,
    bytes: Box<[UnsafeCell<u64>]>,
}

/// A record that is there, and where the consumer is when it has taken it.
struct Front {
    record: *mut u8,
    word: u32,
    after: usize,
}

impl Front {
    #[inline]
    fn inline(&self) -> bool {
        self.word & (HEAP_FLAG | LOAN_FLAG) == 0
    }

    #[inline]
    fn header(&self, src: Rank, dst: Rank) -> Header {
        let kind = match (self.word >> KIND_SHIFT) & KIND_MASK {
            0 => Kind::Data,
            1 => Kind::Synchronous,
            2 => Kind::Matched,
            3 => Kind::OneSided,
            _ => Kind::File,
        };
        // SAFETY: a whole head lies at `record`, which the producer leaves alone until the consumer's position is beyond it.
        unsafe {
            Header {
                src,
                dst,
                seq: self.record.cast::<u64>().read(),
                context: self.record.add(8).cast::<u32>().read(),
                tag: self.record.add(12).cast::<i32>().read(),
                kind,
                token: self.record.add(16).cast::<u32>().read(),
            }
        }
    }
}

// SAFETY: `push` is called by one thread at a time (of the sending rank, whose threads hand a lock on with that right) and `pop` by one at a time (who holds the mailbox's consumer right).
// Each side writes only its own position, and only the producer its `seen`. A record is written before its word is released and read after that was
// acquired, and its bytes are reused only after the consumer's position was released. Words that both may look at are atomic: the consumer reads that of the
// next record only, which the producer has cleared before it released the one before. So no byte is written by one while the other reads it.
unsafe impl Sync for Ring {}
// SAFETY: as above; the heap payloads that it owns are plain bytes.
unsafe impl Send for Ring {}

impl Default for Ring {
    fn default() -> Ring {
        Ring {
            producer: Side::default(),
            consumer: Side::default(),
            heap_bytes: AtomicUsize::new(0),
            bytes: (0..SIZE / 8).map(|_| UnsafeCell::new(0)).collect(),
        }
    }
}

#[inline]
fn padded(len: usize) -> usize {
    HEAD + len.next_multiple_of(8)
}

/// Where a head from this position on really begins, and how far the end of the ring is from there: what is left of it may be too short for one.
#[inline]
fn begin(position: usize) -> (usize, usize) {
    let to_end = SIZE - position % SIZE;
    if to_end < HEAD { (position + to_end, SIZE) } else { (position, to_end) }
}

impl Ring {
    #[inline]
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
        let start = self.producer.position.load(Ordering::Relaxed);
        let to_end = SIZE - start % SIZE;
        // A record never crosses the end of the ring.
        let at = if to_end < need { start + to_end } else { start };
        let tail = at + need;
        let (next, _) = begin(tail);
        let beyond = next + HEAD;
        if beyond - self.producer.seen.get() > SIZE {
            self.producer.seen.set(self.consumer.position.load(Ordering::Acquire));
            if beyond - self.producer.seen.get() > SIZE {
                return false;
            }
        }
        let word = word | PRESENT | (header.kind as u32) << KIND_SHIFT;
        // SAFETY: [start, beyond) is free: the consumer's position was acquired above and is at most SIZE behind `beyond`.
        unsafe {
            let p = self.at(at);
            p.cast::<u64>().write(header.seq);
            p.add(8).cast::<u32>().write(header.context);
            p.add(12).cast::<i32>().write(header.tag);
            p.add(16).cast::<u32>().write(header.token);
            fill(p.add(HEAD));
        }
        self.word(next).store(NOTHING, Ordering::Relaxed);
        self.word(at).store(word, Ordering::Release);
        // An end shorter than a head has no room for a mark; the consumer skips it by its size.
        if at > start && to_end >= HEAD {
            self.word(start).store(SKIP, Ordering::Release);
        }
        self.producer.position.store(tail, Ordering::Release);
        true
    }

    /// The word of a head that begins at this position.
    #[inline]
    fn word(&self, position: usize) -> &AtomicU32 {
        // SAFETY: a head at this position lies within the ring ([`begin`]), at a multiple of 8; see `Sync` for who else accesses it.
        unsafe { AtomicU32::from_ptr(self.at(position).add(WORD).cast()) }
    }

    /// The oldest record. Called by the consumer only.
    #[inline]
    fn front(&self) -> Option<Front> {
        let (mut at, to_end) = begin(self.consumer.position.load(Ordering::Relaxed));
        let mut word = self.word(at).load(Ordering::Acquire);
        if word == SKIP {
            at += to_end;
            word = self.word(at).load(Ordering::Acquire);
        }
        if word == NOTHING {
            return None;
        }
        let len = if word & (HEAP_FLAG | LOAN_FLAG) == 0 { (word & LEN_MASK) as usize } else { 16 };
        Some(Front { record: self.at(at), word, after: at + padded(len) })
    }

    /// Whether a message is there. Called by the consumer only.
    #[inline]
    pub fn ready(&self) -> bool {
        let (at, _) = begin(self.consumer.position.load(Ordering::Relaxed));
        self.word(at).load(Ordering::Relaxed) != NOTHING
    }

    /// Takes the oldest message and shows it to `take`. `None`: empty. Called by the consumer only.
    #[inline]
    pub fn pop<T>(&self, src: Rank, dst: Rank, take: impl FnOnce(Header, &[u8]) -> T) -> Option<T> {
        let front = self.front()?;
        let header = front.header(src, dst);
        let out = if front.inline() {
            take(header, self.inline(&front))
        } else {
            // SAFETY: so the producer has written it, and the consumer's position has not passed it: whoever owns the bytes gives them up here, once.
            unsafe {
                let len = front.record.add(HEAD).cast::<usize>().read();
                let data = front.record.add(HEAD + 8).cast::<*mut u8>().read();
                self.heap_bytes.fetch_sub(len, Ordering::AcqRel);
                if front.word & HEAP_FLAG != 0 {
                    take(header, &Box::from_raw(std::ptr::slice_from_raw_parts_mut(data, len)))
                } else {
                    Arc::from_raw(data.cast::<Loan>()).take(|data| take(header, data))
                }
            }
        };
        self.consumer.position.store(front.after, Ordering::Release);
        Some(out)
    }

    /// Shows the oldest message to `take` if it lies in the ring, and takes it if that says something. Called by the consumer only.
    #[inline]
    pub fn pop_if<T>(&self, src: Rank, dst: Rank, take: impl FnOnce(Header, &[u8]) -> Option<T>) -> Option<T> {
        let front = self.front().filter(Front::inline)?;
        let out = take(front.header(src, dst), self.inline(&front))?;
        self.consumer.position.store(front.after, Ordering::Release);
        Some(out)
    }

    /// The bytes of a record that lie behind its head.
    #[inline]
    fn inline(&self, front: &Front) -> &[u8] {
        // SAFETY: so many bytes lie there, which the producer leaves alone until the consumer's position is beyond them; that is set when our caller has done with them.
        unsafe { std::slice::from_raw_parts(front.record.add(HEAD), (front.word & LEN_MASK) as usize) }
    }

    /// Where the ring ends now, for [`Ring::before`].
    pub fn end(&self) -> usize {
        self.producer.position.load(Ordering::Acquire)
    }

    /// Whether the consumer has not come to this end yet: it takes what was there, and a sender that goes on can't keep it for ever.
    pub fn before(&self, end: usize) -> bool {
        self.consumer.position.load(Ordering::Relaxed) < end
    }

    /// Whether the consumer has taken everything: for anyone, and what is just being pushed may be seen or not.
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
