//! A snapshot in the making: which pages it has, copied while the cell runs as far as that helps.
//!
//! ```text
//!  the cell runs        ahead ──▶ copies of the pages that its snapshot will need, each with its checksum
//!  the cell stands      take  ──▶ state, sums of all pages, copies of those that have changed since
//!  the cell runs        write ──▶ the file; from then on what is [`Known`] of it is enough for the next one, an increment
//! ```
//!
//! What it costs while the cell stands is a look at all of its memory (several GB a second, over the machine's processors) and a copy of what has changed since the
//! last round of `ahead`. What is kept between two snapshots is 16 bytes a page: 4 MiB for each GiB of memory. No page's content is kept, so a page
//! of which one byte has changed is written as a whole.
//!
//! Copies are bounded by whoever gives the room for them. Pages for which there was none are written out of the memory of the cell, which then has to stand until
//! that is done.

use crate::cell::Cell;
use crate::control::Control;
use crate::engine::{Engine, PAGE, Program};
use crate::error::{Error, Result};
use crate::snapshot::{Parent, Written, each_piece, state, write_pieces};
use std::fs::File;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_128;

/// Rounds of copying ahead.
const ROUNDS_MAX: u32 = 3;
/// A round that copied no more than this was small.
const SMALL: usize = 512 << 10;
/// Memory looked at in one go.
const WINDOW: usize = 1 << 20;
/// Copies lie in pieces of this size, so that they never move.
const CHUNK: usize = 1 << 20;
/// Memory below this is summed up by one thread; a second one would take longer to start.
const ALONE: usize = 4 << 20;
/// Threads that sum up a large memory.
const THREADS_MAX: usize = 4;
/// Bytes that are written in one go.
const BATCH: usize = 1 << 20;

/// The page is not part of the snapshot.
const OUT: u32 = u32::MAX;
/// It is, and has no copy.
const IN_PLACE: u32 = u32::MAX - 1;

/// What is kept of a snapshot, by which the next can be an increment.
pub struct Known {
    parent: Parent,
    sums: Vec<u128>,
}

impl Known {
    /// How people call it.
    pub fn name(&self) -> &str {
        &self.parent.name
    }
}

pub struct Draft {
    parent: Option<Arc<Known>>,
    /// By page: [`OUT`], [`IN_PLACE`], or where its copy is.
    slots: Vec<u32>,
    /// By page: of its copy, where it has one; of every page once it is taken.
    sums: Vec<u128>,
    copies: Vec<Vec<u8>>,
    copied: u32,
    /// Parent and state, once it is taken.
    state: Vec<u8>,
    increment: bool,
}

fn at(sums: &[u128], page: usize, zero: u128) -> u128 {
    sums.get(page).copied().unwrap_or(zero)
}

impl Draft {
    /// `parent`: what is known of the snapshot on which this one is to stand.
    pub fn new(parent: Option<Arc<Known>>) -> Draft {
        Draft { parent, slots: Vec::new(), sums: Vec::new(), copies: Vec::new(), copied: 0, state: Vec::new(), increment: false }
    }

    /// Copies while the cell runs. `room` is asked for bytes before they are taken, `go_on` before each MiB is looked at.
    pub fn ahead(&mut self, engine: &Engine, program: &Program, control: &Control, room: &mut dyn FnMut(usize) -> bool, mut go_on: impl FnMut() -> bool) -> Result<()> {
        let memory = File::open("/proc/self/mem").map_err(Error::io("open this process's memory"))?;
        let (base, zero, parent) = (program.base(engine)?, xxh3_128(&[0; PAGE]), self.parent.clone());
        let known = parent.as_ref().map_or(base, |p| &p.sums);
        let mut window = vec![0; WINDOW];
        let mut before = usize::MAX;
        for _ in 0..ROUNDS_MAX {
            let (mut offset, mut sum_of_copies) = (0, 0);
            loop {
                let got = if go_on() { control.peek(&memory, offset as u64, &mut window) } else { 0 };
                if got == 0 {
                    break;
                }
                self.reach((offset + got) / PAGE);
                for (i, page) in window[..got].chunks(PAGE).enumerate() {
                    let (number, sum) = (offset / PAGE + i, xxh3_128(page));
                    let there = self.slots[number] != OUT && self.sums[number] == sum;
                    // Without room it is left to `take`.
                    if sum != at(known, number, zero) && !there && self.copy(number, page, room) {
                        self.sums[number] = sum;
                        sum_of_copies += PAGE;
                    }
                }
                offset += got;
            }
            if sum_of_copies <= SMALL || sum_of_copies > before / 10 * 9 {
                break;
            }
            before = sum_of_copies;
        }
        Ok(())
    }

    fn reach(&mut self, pages: usize) {
        if self.slots.len() < pages {
            self.slots.resize(pages, OUT);
            self.sums.resize(pages, 0);
        }
    }

    /// Copies a page, over its older copy if there is one. `false`: there is no room.
    fn copy(&mut self, number: usize, page: &[u8], room: &mut dyn FnMut(usize) -> bool) -> bool {
        const PER_CHUNK: usize = CHUNK / PAGE;
        let slot = self.slots[number];
        if slot < IN_PLACE {
            let from = slot as usize % PER_CHUNK * PAGE;
            self.copies[slot as usize / PER_CHUNK][from..from + PAGE].copy_from_slice(page);
            return true;
        }
        if self.copied == IN_PLACE || !room(PAGE) {
            return false;
        }
        if self.copied as usize / PER_CHUNK == self.copies.len() {
            self.copies.push(Vec::with_capacity(CHUNK));
        }
        self.copies.last_mut().expect("it was made").extend_from_slice(page);
        self.slots[number] = self.copied;
        self.copied += 1;
        true
    }

    /// Takes a stopped cell's state and the pages that are needed. The fabric must hold its rank. `Ok(false)`: there was no room for all of the pages, and
    /// [`Draft::write`] needs the memory as it is now.
    pub fn take(&mut self, engine: &Engine, cell: &mut Cell, room: &mut dyn FnMut(usize) -> bool) -> Result<bool> {
        // Before the memory: messages that lie in rings are received now, into the guest's buffers.
        let frozen = cell.freeze()?;
        let program = cell.program().clone();
        let (base, zero, memory) = (program.base(engine)?, xxh3_128(&[0; PAGE]), cell.memory());
        let sums = sums(memory);
        self.reach(sums.len());
        // Where all that a complete one would have has changed, an increment would be no smaller, and would need another one.
        let parent = self.parent.take().filter(|p| sums.iter().enumerate().any(|(i, sum)| *sum != at(base, i, zero) && *sum == at(&p.sums, i, zero)));
        let known = parent.as_ref().map_or(base, |p| &p.sums);
        let mut all = true;
        for (number, page) in memory.chunks(PAGE).enumerate() {
            let sum = sums[number];
            if sum == at(known, number, zero) {
                self.slots[number] = OUT;
            } else if self.slots[number] == OUT || self.sums[number] != sum {
                if !self.copy(number, page, room) {
                    self.slots[number] = IN_PLACE;
                    all = false;
                }
            }
        }
        self.sums = sums;
        self.increment = parent.is_some();
        self.state = state(parent.map(|p| p.parent.clone()), &frozen)?;
        Ok(all)
    }

    /// Whether it holds only what has changed since another one, once it is taken.
    pub fn increment(&self) -> bool {
        self.increment
    }

    /// Writes the file of what was taken, in order, in pieces of at most about a MiB. `memory`: of the cell, if not all of its pages could be copied.
    pub fn write<E>(&self, memory: Option<&[u8]>, mut out: impl FnMut(&[u8]) -> std::result::Result<(), E>) -> std::result::Result<Written, E> {
        assert!(!self.state.is_empty(), "a snapshot is taken before it is written");
        let pages: Vec<u32> = (0..self.slots.len() as u32).filter(|page| self.slots[*page as usize] != OUT).collect();
        let page = |number: u32| {
            let slot = self.slots[number as usize] as usize;
            let (from, place) = match slot as u32 {
                IN_PLACE => (memory.expect("who takes a snapshot without room for copies writes it from the memory"), number as usize),
                _ => (&self.copies[slot / (CHUNK / PAGE)][..], slot % (CHUNK / PAGE)),
            };
            &from[place * PAGE..(place + 1) * PAGE]
        };
        let mut batch = Vec::with_capacity(BATCH);
        let written = write_pieces(
            |out| each_piece(&self.state, &pages, page, out),
            |piece| {
                if batch.len() + piece.len() > BATCH && !batch.is_empty() {
                    out(&batch)?;
                    batch.clear();
                }
                if piece.len() > BATCH {
                    return out(piece);
                }
                batch.extend_from_slice(piece);
                Ok(())
            },
        )?;
        if !batch.is_empty() {
            out(&batch)?;
        }
        Ok(written)
    }

    /// What is to be kept of it: `name` is how people call it.
    pub fn known(self, name: &str, written: Written) -> Known {
        Known { parent: Parent { name: name.into(), checksum: written.checksum }, sums: self.sums }
    }
}

/// Of each page.
fn sums(memory: &[u8]) -> Vec<u128> {
    fn of(part: &[u8], into: &mut [u128]) {
        part.chunks(PAGE).zip(into).for_each(|(page, sum)| *sum = xxh3_128(page));
    }
    let mut sums = vec![0; memory.len().div_ceil(PAGE)];
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX).min(memory.len() / ALONE).max(1);
    if threads == 1 {
        of(memory, &mut sums);
        return sums;
    }
    let share = sums.len().div_ceil(threads);
    let all = std::thread::scope(|scope| {
        let mut parts = memory.chunks(share * PAGE).zip(sums.chunks_mut(share));
        parts.all(|(part, into)| std::thread::Builder::new().name("sums".into()).spawn_scoped(scope, move || of(part, into)).is_ok())
    });
    if !all {
        of(memory, &mut sums); // the system has no thread to give
    }
    sums
}
