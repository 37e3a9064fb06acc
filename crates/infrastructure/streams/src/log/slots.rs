//! Files of the log: slots on the disk that are used again, some of them kept ready.
//!
//! ```text
//!   prepare (its own thread): make ─▶ ready ─▶ take_slot: in use ─▶ Log::release: ready again ─▶ … ─▶ give_back: removed
//! ```

use super::{FileNo, Options, Shared, lock, recovery};
use crate::disk::DiskFile;
use std::{
    cell::Cell,
    collections::BTreeMap,
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

/// Files that are kept ready. With one, a disk that others fill at once would leave nothing to the records by which files become free.
const READY: usize = 2;
/// A pause behind a piece of a new file is so many times as long as that took, as far as it is not longer than this.
const PAUSES: u32 = 4;
const PIECE_MAX: Duration = Duration::from_millis(20);
/// Where a file would be full sooner than that, the next ones are needed as soon as the disk can make them.
const LASTS: Duration = Duration::from_secs(1);
/// How often a disk that is full is asked again.
const FULL_RETRY: Duration = Duration::from_millis(200);

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

    /// Makes a new file. As long as another one is ready and they last, it leaves the disk to the log between two pieces: each write of the log would wait behind a piece, ten times as long
    /// as it takes, and that for a tenth of a second.
    fn make(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let last = Cell::new((Instant::now(), self.block_bytes.load(Relaxed)));
        self.disk.create(name, self.options.file_bytes, &|took| {
            let (now, bytes) = (Instant::now(), self.block_bytes.load(Relaxed));
            let (then, before) = last.replace((now, bytes));
            let lasts = (now - then).as_secs_f64() * self.options.file_bytes as f64 >= LASTS.as_secs_f64() * (bytes - before) as f64;
            let end = now + took.min(PIECE_MAX) * PAUSES;
            let mut slots = lock(&self.slots);
            while slots.ready() > 0 {
                if self.stopped.load(Relaxed) || self.closing.load(Relaxed) {
                    return Err(io::Error::other("the log is closed"));
                }
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() || !lasts {
                    break;
                }
                slots = self.slot_bell.wait_timeout(slots, left).unwrap_or_else(|e| e.into_inner()).0;
            }
            Ok(())
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
