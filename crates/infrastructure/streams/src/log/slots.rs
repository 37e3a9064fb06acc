//! Files of the log: slots on the disk that are used again, some of them kept ready.
//!
//! ```text
//!   prepare (its own thread): make ─▶ ready ─▶ take_slot: in use ─▶ Log::release: ready again ─▶ … ─▶ give_back: removed
//! ```

use super::{FileNo, Options, Shared, lock, recovery};
use crate::disk::DiskFile;
use base::piecewise;
use std::{
    cell::Cell,
    collections::BTreeMap,
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

/// Files that are kept ready. With one, a disk that others fill at once would leave nothing to the records by which files become free.
const READY: usize = 2;
/// Bytes of a piece of a new file that there is time for: a larger one keeps a processor for a millisecond, and the disk for as long.
const PIECE: usize = 64 << 10;
/// A pause behind a piece is at least so many times as long as that took, as far as it is not longer than this.
const PAUSES: u32 = 4;
const PIECE_MAX: Duration = Duration::from_millis(20);
/// A new file is to be ready in this part of the time that one lasts at the present rate. No pause is longer than the other for it: the rate may be another one soon.
const READY_IN: f64 = 0.5;
const PAUSE_MAX: Duration = Duration::from_millis(50);
/// Over how long the rate is taken.
const RATE_OVER: Duration = Duration::from_millis(100);
/// Where a file would be full sooner than that, the next ones are needed as soon as the disk can make them.
const LASTS: Duration = Duration::from_secs(1);
/// How often a disk that is full is asked again.
const FULL_RETRY: Duration = Duration::from_millis(200);

/// Bytes of the next piece of a new file, while another one is ready, and how long the log has the disk to itself before. `lasts`: for how many seconds a file lasts at the present rate,
/// infinite where nothing is written. `bytes`, `took`: what the last piece had, and how long that took.
fn next_piece(file_bytes: u64, lasts: f64, bytes: usize, took: Duration) -> (usize, Duration) {
    // Also where it can't be said.
    if lasts.is_nan() || lasts < LASTS.as_secs_f64() {
        return (piecewise::PIECE, Duration::ZERO);
    }
    let least = took.min(PIECE_MAX) * PAUSES;
    let time = if lasts.is_finite() { lasts * READY_IN } else { 0.0 };
    let pieces = file_bytes as f64 / bytes.max(1) as f64;
    // Small ones take a slow disk as long as large ones do, each.
    let slow = lasts.is_finite() && (took + least).as_secs_f64() * pieces > time;
    let spread = (time * PIECE as f64 / file_bytes as f64).min(PAUSE_MAX.as_secs_f64());
    match slow {
        true => (piecewise::PIECE, least),
        false => (PIECE, Duration::from_secs_f64(spread).saturating_sub(took).max(least)),
    }
}

/// Those that are not in use, and those that are.
pub(super) struct Slots {
    pub(super) free: Vec<Slot>,
    /// Which slot a file lies in.
    pub(super) used: BTreeMap<FileNo, Slot>,
    pub(super) made: u64,
}

impl Slots {
    fn ready(&self) -> usize {
        self.free.iter().filter(|s| Arc::strong_count(&s.file) == 1).count()
    }

    /// How many files can be taken as far as the disk has room: those that are ready, and new ones without the last.
    pub(super) fn disk_left(&self, options: &Options, disk_free: io::Result<u64>) -> u64 {
        // A disk that does not say has as much as it takes.
        let room = disk_free.map_or(options.files_max as u64, |bytes| (bytes / options.file_bytes).saturating_sub(1));
        self.free.len() as u64 + room
    }
}

#[derive(Clone)]
pub(super) struct Slot {
    pub(super) name: String,
    pub(super) file: Arc<dyn DiskFile>,
}

impl<N: Send + 'static> Shared<N> {
    /// A free slot for a file. Waits while all are in use or the disk is full.
    pub(super) fn take_slot(&self, no: FileNo) -> io::Result<Arc<dyn DiskFile>> {
        let mut slots = lock(&self.slots);
        loop {
            if self.stopped.load(Relaxed) {
                return Err(io::Error::other("the log has stopped"));
            }
            // One that nobody reads from any more: ours is then the only handle.
            if let Some(i) = slots.free.iter().position(|s| Arc::strong_count(&s.file) == 1) {
                let slot = slots.free.swap_remove(i);
                self.full.store(false, Relaxed);
                self.files.write().unwrap_or_else(|e| e.into_inner()).insert(no, slot.file.clone());
                slots.used.insert(no, slot.clone());
                self.used.store(slots.used.len() as u64, Relaxed);
                self.slot_bell.notify_all();
                return Ok(slot.file);
            }
            if self.closing.load(Relaxed) && self.full.load(Relaxed) {
                return Err(io::Error::new(io::ErrorKind::StorageFull, "it is closing, and there is no file for what is left"));
            }
            slots = self.slot_bell.wait_timeout(slots, FULL_RETRY).unwrap_or_else(|e| e.into_inner()).0;
        }
    }

    /// Removes files that are ready and that nothing waits for.
    pub(super) fn give_back(&self, count: usize) {
        for _ in 0..count {
            let slot = {
                let mut slots = lock(&self.slots);
                let Some(i) = slots.free.iter().position(|s| Arc::strong_count(&s.file) == 1) else { return };
                slots.free.swap_remove(i)
            };
            if let Err(e) = self.disk.remove(&slot.name) {
                tracing::warn!(error = %e, name = %slot.name, "a file of the log that is not in use stays on the disk");
            }
        }
    }

    /// Makes a new file. As long as another one is ready and they last, it comes by and by ([`next_piece`]): each write of the log that comes behind a piece waits for it.
    fn make(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let (since, lasts) = (Cell::new((Instant::now(), self.block_bytes.load(Relaxed))), Cell::new(f64::INFINITY));
        self.disk.create(name, self.options.file_bytes, &|bytes, took| {
            let (now, written) = (Instant::now(), self.block_bytes.load(Relaxed));
            let (then, before) = since.get();
            // One write of the log between two pieces says nothing of its rate.
            if now - then >= RATE_OVER {
                lasts.set((now - then).as_secs_f64() * self.options.file_bytes as f64 / (written - before) as f64);
                since.set((now, written));
            }
            let (piece, pause) = next_piece(self.options.file_bytes, lasts.get(), bytes, took);
            let mut slots = lock(&self.slots);
            while slots.ready() > 0 {
                if self.stopped.load(Relaxed) || self.closing.load(Relaxed) {
                    return Err(io::Error::other("the log is closed"));
                }
                let left = (now + pause).saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Ok(piece);
                }
                slots = self.slot_bell.wait_timeout(slots, left).unwrap_or_else(|e| e.into_inner()).0;
            }
            Ok(piecewise::PIECE)
        })
    }

    /// Keeps [`READY`] slots ready, so that filling a new one with zeros holds nobody up, and not many more for long. Its own thread.
    pub(super) fn prepare(&self) {
        let mut slots = lock(&self.slots);
        // The fewest that were ready, since when.
        let (mut spare, mut since) = (usize::MAX, Instant::now());
        loop {
            if self.stopped.load(Relaxed) {
                return;
            }
            let free = slots.ready();
            spare = spare.min(free);
            if since.elapsed() >= self.options.spare_for {
                drop(slots);
                self.give_back(spare.saturating_sub(READY));
                (spare, since) = (usize::MAX, Instant::now());
                slots = lock(&self.slots);
                continue;
            }
            let left = slots.disk_left(&self.options, self.disk.free());
            self.disk_left.store(left, Relaxed);
            // One that writing waits for may take the last space that there is.
            let more = slots.free.len() + slots.used.len() < self.options.files_max && (free == 0 || left > slots.free.len() as u64 && !self.closing.load(Relaxed));
            if free < READY && more {
                let name = recovery::slot_name(slots.made);
                slots.made += 1;
                drop(slots);
                let made = self.make(&name);
                slots = lock(&self.slots);
                match made {
                    Ok(file) => {
                        slots.free.push(Slot { name, file });
                        self.slot_bell.notify_all();
                        continue;
                    }
                    // It may have stopped meanwhile, and rung before this.
                    Err(_) if self.stopped.load(Relaxed) => return,
                    Err(e) => {
                        if free == 0 && !self.full.swap(true, Relaxed) {
                            tracing::warn!(error = %e, %name, "no new file for the log; writing waits when the last one is full");
                        }
                    }
                }
            } else if free == 0 {
                self.full.store(true, Relaxed);
            }
            slots = self.slot_bell.wait_timeout(slots, FULL_RETRY).unwrap_or_else(|e| e.into_inner()).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_is_made_in_the_time_that_there_is() {
        let (file, took) = (64 << 20, Duration::from_micros(250));
        let small = |lasts, took| next_piece(file, lasts, PIECE, took);
        // Nothing is written, or so little that a file lasts for hours: it may take its time, but not hours.
        assert_eq!(small(f64::INFINITY, took), (PIECE, took * PAUSES));
        assert_eq!(small(1e6, took), (PIECE, PAUSE_MAX - took));
        // A file in 6.4 s: a piece in 3.1 ms, so that 1024 of them take half of that.
        let (piece, pause) = small(6.4, took);
        assert_eq!((piece, ((pause + took).as_secs_f64() * 1024.0 * 10.0).round()), (PIECE, 32.0));
        // As many as that would not be ready in time on a slow disk.
        assert_eq!(small(6.4, Duration::from_millis(1)), (piecewise::PIECE, Duration::from_millis(4)));
        assert_eq!(next_piece(file, 6.4, piecewise::PIECE, Duration::from_micros(400)).0, PIECE, "the disk is fast again");
        // The next one is needed at once, or nothing is known.
        for lasts in [0.9, 0.0, f64::NAN] {
            assert_eq!(small(lasts, took), (piecewise::PIECE, Duration::ZERO));
        }
        assert_eq!(next_piece(0, 6.4, 0, Duration::ZERO).0, PIECE);
    }
}
