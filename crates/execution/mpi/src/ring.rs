//! A bounded queue from one rank to another on the same agent: one thread pushes, one thread pops, no lock.
//!
//! Records lie one after the other in a byte ring, each in [`UNIT`]s: a fixed head, then the payload. Payloads above [`INLINE_MAX`] stay on the heap and only
//! their address travels, within [`HEAP_MAX`] bytes per ring, so a sender that outruns its receiver waits instead of filling the memory. Those that
//! are lent ([`Loan`]) lie with their sender meanwhile, and are counted alike, because they may be copied.
//!
//! A record is there when the last word of its head is: the consumer looks at that word alone, so a short message reaches it with the one or two cache
//! lines that it lies in, and nothing else goes from one processor to the other. The word names the lap, how often the ring has begun again, so what an
//! older lap has left is not taken for a record; only where an older payload may lie the producer clears the word of the next record before it sets that of this one.
//! The producer reads the consumer's position when there seems to be no room, and no sooner; its own is for who wants to know where the ring ends.
//!
//! The consumer side may pass from the receiving rank's thread to the agent's sweeper when the rank has left; a right outside
//! (`Mailbox::consumer`) makes sure that only one of them pops.

use crate::lines::Apart;
use crate::loan::Loan;
use crate::message::{Header, Kind, Rank};
use std::cell::{Cell, UnsafeCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Bytes of a ring. 16 ranks on an agent have at most 256 rings, 8 MiB.
const SIZE: usize = 32 * 1024;
/// Larger payloads go by reference.
pub const INLINE_MAX: usize = 4 * 1024;
/// Bytes on the heap that a ring may own at a time; a single larger message is let through when there is no other.
const HEAP_MAX: usize = 16 << 20;
/// A record has a whole number of these, two cache lines each, which processors fetch together. 96 bytes of payload find room in the first.
const UNIT: usize = 128;
/// seq 8, context 4, tag 4, token 4, nothing 4, the word 8 (lap, and length with flags, 4 each), and the payload.
const HEAD: usize = 32;
/// Where the word is.
const WORD: usize = 24;
/// Words without their lap: no record; none before the ring begins again. That of a record has [`PRESENT`].
const NOTHING: u64 = 0;
const SKIP: u32 = u32::MAX;
const HEAP_FLAG: u32 = 1 << 31;
const LOAN_FLAG: u32 = 1 << 30;
const PRESENT: u32 = 1 << 29;
const KIND_SHIFT: u32 = 24;
const KIND_MASK: u32 = 0x1f;
const LEN_MASK: u32 = 0x00ff_ffff;

const _: () = assert!(SIZE.is_multiple_of(64 * UNIT) && WORD + 8 == HEAD && WORD.is_multiple_of(8) && HEAD + 16 <= UNIT && 2 * (HEAD + INLINE_MAX + UNIT) <= SIZE);

/// What the sender writes.
#[derive(Default)]
struct Producer {
    position: AtomicUsize,
    /// What it last saw of the consumer's position.
    seen: Cell<usize>,
    /// A bit for each unit. Where it is not set, 0 lies where a record's word would be, or the word of a record or [`SKIP`], of this lap or the one before.
    covered: [Cell<u64>; SIZE / UNIT / 64],
}

impl Producer {
    fn covered(&self, position: usize) -> (&Cell<u64>, u64) {
        let unit = position % SIZE / UNIT;
        (&self.covered[unit / 64], 1 << (unit % 64))
    }

    /// Whether something else than a word may lie at this position, where the consumer is about to look. The bit is not set any more.
    #[inline]
    fn uncover(&self, position: usize) -> bool {
        let (bits, bit) = self.covered(position);
        let was = bits.get();
        bits.set(was & !bit);
        was & bit != 0
    }

    fn cover(&self, position: usize) {
        let (bits, bit) = self.covered(position);
        bits.set(bits.get() | bit);
    }
}

pub struct Ring {
    producer: Apart<Producer>,
    /// How far the consumer has come.
    consumer: Apart<AtomicUsize>,
    heap_bytes: AtomicUsize,
    bytes: Box<[Apart<UnsafeCell<[u8; UNIT]>>]>,
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
// Each side writes only its own position, and only the producer its `seen` and `covered`. A record is written before its word is released and read after that was
// acquired, and its bytes are reused only after the consumer's position was released. Words that both may look at are atomic. The consumer reads that of the next record, and after
// a SKIP that at the ring's beginning, which was released before the SKIP. Before the producer released the record in front, the next word was one of an older lap or has been
// cleared; the producer's next write there is the word itself, or bytes beside it. So no byte is written by one while the other reads it, and no payload is read as a word.
unsafe impl Sync for Ring {}
// SAFETY: as above; the heap payloads that it owns are plain bytes.
unsafe impl Send for Ring {}

impl Default for Ring {
    fn default() -> Ring {
        Ring {
            producer: Apart::default(),
            consumer: Apart::default(),
            heap_bytes: AtomicUsize::new(0),
            bytes: (0..SIZE / UNIT).map(|_| Apart(UnsafeCell::new([0; UNIT]))).collect(),
        }
    }
}

#[inline]
fn padded(len: usize) -> usize {
    (HEAD + len).next_multiple_of(UNIT)
}

/// How far the end of the ring is.
#[inline]
fn to_end(position: usize) -> usize {
    SIZE - position % SIZE
}

/// How often the ring has begun again at this position. 32 bits are enough to tell a lap from the one before, and no older word is ever looked at (`Producer::covered`).
#[inline]
fn lap(position: usize) -> u32 {
    (position / SIZE) as u32
}

/// A word for a record at this position.
#[inline]
fn lapped(position: usize, word: u32) -> u64 {
    u64::from(lap(position)) << 32 | u64::from(word)
}

impl Ring {
    #[inline]
    fn at(&self, position: usize) -> *mut u8 {
        // SAFETY: the offset is below SIZE, the length of the allocation.
        unsafe { UnsafeCell::raw_get(self.bytes.as_ptr().cast::<UnsafeCell<u8>>()).add(position % SIZE) }
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
        // A record never crosses the end of the ring.
        let at = if to_end(start) < need { start + to_end(start) } else { start };
        let tail = at + need;
        // The consumer looks at the word behind this record before there is another one.
        let beyond = tail + UNIT;
        if beyond - self.producer.seen.get() > SIZE {
            self.producer.seen.set(self.consumer.load(Ordering::Acquire));
            if beyond - self.producer.seen.get() > SIZE {
                return false;
            }
        }
        let word = word | PRESENT | (header.kind as u32) << KIND_SHIFT;
        // SAFETY: [start, beyond) is free but for the words at `start` and `tail`, at which the consumer may look: its position was acquired above and is at most SIZE behind `beyond`.
        unsafe {
            let p = self.at(at);
            p.cast::<u64>().write(header.seq);
            p.add(8).cast::<u32>().write(header.context);
            p.add(12).cast::<i32>().write(header.tag);
            p.add(16).cast::<u32>().write(header.token);
            fill(p.add(HEAD));
        }
        // Neither what lies below the payload nor what is skipped has a word of this lap.
        for without in (start + UNIT..at).step_by(UNIT).chain((at + UNIT..tail).step_by(UNIT)) {
            self.producer.cover(without);
        }
        if self.producer.uncover(tail) {
            self.word(tail).store(NOTHING, Ordering::Relaxed);
        }
        self.word(at).store(lapped(at, word), Ordering::Release);
        if at > start {
            self.word(start).store(lapped(start, SKIP), Ordering::Release);
        }
        self.producer.position.store(tail, Ordering::Release);
        true
    }

    /// The word of a head that begins at this position.
    #[inline]
    fn word(&self, position: usize) -> &AtomicU64 {
        // SAFETY: positions of heads are multiples of UNIT, so that the word lies within the ring at a multiple of 8; see `Sync` for who else accesses it.
        unsafe { AtomicU64::from_ptr(self.at(position).add(WORD).cast()) }
    }

    /// The word at this position without its lap, if it is of this one.
    #[inline]
    fn look(&self, position: usize, order: Ordering) -> Option<u32> {
        let word = self.word(position).load(order);
        ((word >> 32) as u32 == lap(position) && word as u32 & PRESENT != 0).then_some(word as u32)
    }

    /// The oldest record. Called by the consumer only.
    #[inline]
    fn front(&self) -> Option<Front> {
        let mut at = self.consumer.load(Ordering::Relaxed);
        let mut word = self.look(at, Ordering::Acquire)?;
        if word == SKIP {
            at += to_end(at);
            word = self.look(at, Ordering::Acquire)?;
        }
        let len = if word & (HEAP_FLAG | LOAN_FLAG) == 0 { (word & LEN_MASK) as usize } else { 16 };
        Some(Front { record: self.at(at), word, after: at + padded(len) })
    }

    /// Whether a message is there. Called by the consumer only.
    #[inline]
    pub fn ready(&self) -> bool {
        self.look(self.consumer.load(Ordering::Relaxed), Ordering::Relaxed).is_some()
    }

    /// Takes the oldest message and shows it to `take`. `None`: empty. Called by the consumer only.
    #[inline]
    pub fn pop<T>(&self, src: Rank, dst: Rank, take: impl FnOnce(Header, &[u8]) -> T) -> Option<T> {
        let front = self.front()?;
        let header = front.header(src, dst);
        let out = if front.inline() {
            let out = take(header, self.inline(&front));
            self.consumer.store(front.after, Ordering::Release);
            out
        } else {
            // SAFETY: so the producer has written it, and the consumer's position has not passed it: whoever owns the bytes gives them up here, once, also if `take` panics.
            unsafe {
                let len = front.record.add(HEAD).cast::<usize>().read();
                let data = front.record.add(HEAD + 8).cast::<*mut u8>().read();
                self.heap_bytes.fetch_sub(len, Ordering::AcqRel);
                self.consumer.store(front.after, Ordering::Release);
                if front.word & HEAP_FLAG != 0 {
                    take(header, &Box::from_raw(std::ptr::slice_from_raw_parts_mut(data, len)))
                } else {
                    Arc::from_raw(data.cast::<Loan>()).take(|data| take(header, data))
                }
            }
        };
        Some(out)
    }

    /// Shows the oldest message to `take` if it lies in the ring, and takes it if that says something. Called by the consumer only.
    #[inline]
    pub fn pop_if<T>(&self, src: Rank, dst: Rank, take: impl FnOnce(Header, &[u8]) -> Option<T>) -> Option<T> {
        let front = self.front().filter(Front::inline)?;
        let out = take(front.header(src, dst), self.inline(&front))?;
        self.consumer.store(front.after, Ordering::Release);
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
        self.consumer.load(Ordering::Relaxed) < end
    }

    /// Whether the consumer has taken everything: for anyone, and what is just being pushed may be seen or not.
    pub fn is_empty(&self) -> bool {
        self.consumer.load(Ordering::Acquire) == self.producer.position.load(Ordering::Acquire)
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

    /// A payload that is made of the words of laps to come lies where words will be looked for.
    #[test]
    fn a_payload_is_never_taken_for_a_record() {
        let ring = Ring::default();
        for n in 0..2000u64 {
            let lap = (ring.end() / SIZE) as u64;
            let words: Vec<u8> = (0..INLINE_MAX as u64 / 8).flat_map(|i| ((lap + i % 3) << 32 | u64::from(PRESENT)).to_le_bytes()).collect();
            // So that laps differ in where their records begin.
            let data = &words[..(n * n * 37 % INLINE_MAX as u64) as usize];
            assert!(ring.push(&header(n), data) && ring.ready());
            assert_eq!(ring.pop(Rank(3), Rank(4), |h, data| (h.seq, data.len())), Some((n, data.len())));
            assert!(!ring.ready() && ring.front().is_none(), "after message {n}");
        }
    }

    /// The same with as many records in it as find room, and ends that are skipped.
    #[test]
    fn a_ring_that_is_full_goes_on_in_order() {
        let ring = Ring::default();
        let (mut pushed, mut popped) = (0u64, 0u64);
        let size = |n: u64| (n * n * 7 % 1000 * (n % 5)) as usize;
        while ring.end() < 100 * SIZE {
            while ring.push(&header(pushed), &vec![pushed as u8; size(pushed)]) {
                pushed += 1;
            }
            for _ in 0..pushed % 40 {
                let taken = ring.pop(Rank(3), Rank(4), |h, data| (h.seq, data.len(), data.iter().all(|b| *b == h.seq as u8)));
                if popped == pushed {
                    assert!(taken.is_none() && !ring.ready());
                    break;
                }
                assert_eq!(taken, Some((popped, size(popped), true)));
                popped += 1;
            }
        }
        assert!(pushed > 2000 && pushed - popped <= 256, "{pushed} {popped}");
    }

    #[test]
    fn what_is_taken_in_vain_is_freed_once() {
        let ring = Ring::default();
        assert!(ring.push(&header(0), &[7; 10_000]) && ring.push(&header(1), &[8; 10_000]));
        let fails = || ring.pop(Rank(3), Rank(4), |_, _| panic!("so that it unwinds"));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(fails)).is_err());
        assert_eq!(ring.pop(Rank(3), Rank(4), |h, data| (h.seq, data[0])), Some((1, 8)));
        assert_eq!(ring.heap_bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_full_ring_refuses_and_frees_what_it_owns() {
        let ring = Ring::default();
        let mut pushed = 0;
        while ring.push(&header(pushed), &[0; 1000]) {
            pushed += 1;
        }
        assert!((27..=29).contains(&pushed), "{pushed}");
        let ring = Ring::default();
        assert!(ring.push(&header(0), &vec![1; 20 << 20]), "one message above the limit passes");
        assert!(!ring.push(&header(1), &vec![1; 10_000]), "but not a second one");
    }
}
