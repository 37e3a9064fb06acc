//! A stopped cell as bytes: one file format for checkpoints and for what a migration sends.
//!
//! ```text
//!  8  magic   "CSKSNAP\0" one cell   |  "CSKARCH\0" a job: a manifest and its cells
//!  4  version, little endian         |  of this layout and of everything serialised in it
//!  8  length of the body
//! 16  XXH3-128 of the body: finds damage, does not authenticate
//!     body of a cell:    u32 length, `Frozen` (postcard), in which is a list of its threads; runs of pages: u32 first, u32 count, count × 4096 bytes
//!     body of a job:     postcard of (manifest, [(name, bytes)])
//! ```
//!
//! Pages that are equal to a fresh instance's are left out: whoever restores has them from the module.

use crate::cell::{Cell, Frozen, Spec};
use crate::control::Control;
use crate::engine::{Engine, PAGE, Program};
use crate::error::{Error, Result};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_128;

/// Version of the format. Raised with every change of what is serialised.
pub const VERSION: u32 = 9;
const CELL: &[u8; 8] = b"CSKSNAP\0";
const JOB: &[u8; 8] = b"CSKARCH\0";
const HEAD: usize = 36;

fn envelope(magic: &[u8; 8], body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD + body.len());
    out.extend_from_slice(magic);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&(body.len() as u64).to_le_bytes());
    out.extend_from_slice(&xxh3_128(body).to_le_bytes());
    out.extend_from_slice(body);
    out
}

fn open<'b>(magic: &[u8; 8], what: &str, bytes: &'b [u8]) -> Result<&'b [u8]> {
    if bytes.len() < HEAD || &bytes[..8] != magic {
        return Err(Error::Snapshot(format!("not a {what} of CloudSkin (its first bytes are not those of one)")));
    }
    let version = u32::from_le_bytes(bytes[8..12].try_into().expect("four bytes"));
    if version != VERSION {
        return Err(Error::Snapshot(format!(
            "the {what} has format version {version}, this CloudSkin reads version {VERSION}; restore it with the release that wrote it"
        )));
    }
    let body = &bytes[HEAD..];
    let length = u64::from_le_bytes(bytes[12..20].try_into().expect("eight bytes"));
    if length != body.len() as u64 {
        let how = if (body.len() as u64) < length { format!("cut: {} of {length} bytes are there", body.len()) } else { format!("too long: it has {} bytes, and says that it has {length}", body.len()) };
        return Err(Error::Snapshot(format!("the {what} (format version {version}, this CloudSkin reads {VERSION}) is {how}")));
    }
    if xxh3_128(body).to_le_bytes() != bytes[20..36] {
        return Err(Error::Snapshot(format!("the {what} (format version {version}, this CloudSkin reads {VERSION}) is damaged: its checksum is wrong; make it anew, or take another copy")));
    }
    Ok(body)
}

/// A body as a snapshot of a cell and as one of a job, whatever it holds: the checksum keeps nobody out who wants in.
pub(crate) fn sealed(body: &[u8]) -> [Vec<u8>; 2] {
    [envelope(CELL, body), envelope(JOB, body)]
}

/// A whole job's checkpoint as one file.
pub struct Archive;

impl Archive {
    /// `manifest` says what the job is; `parts` are its cells' snapshots by name.
    pub fn write(manifest: &[u8], parts: Vec<(String, Vec<u8>)>) -> Vec<u8> {
        let body = postcard::to_allocvec(&(manifest, parts)).expect("byte strings always serialise");
        envelope(JOB, &body)
    }

    #[allow(clippy::type_complexity)]
    pub fn read(bytes: &[u8]) -> Result<(Vec<u8>, Vec<(String, Vec<u8>)>)> {
        postcard::from_bytes(open(JOB, "checkpoint", bytes)?).map_err(|e| Error::Snapshot(format!("the checkpoint can't be read: {e}")))
    }
}

/// Pages of `memory` that differ from `known` (checksums by page; pages beyond are known to be zero), as numbers in order.
pub(crate) fn changed(memory: &[u8], known: &[u128]) -> Vec<(u32, u128)> {
    let zero = xxh3_128(&[0; PAGE]);
    memory
        .chunks(PAGE)
        .enumerate()
        .filter_map(|(i, page)| {
            let sum = xxh3_128(page);
            (sum != *known.get(i).unwrap_or(&zero)).then_some((i as u32, sum))
        })
        .collect()
}

/// Writes a stopped cell down. The fabric must hold its rank.
pub fn write(engine: &Engine, cell: &mut Cell) -> Result<Vec<u8>> {
    let frozen = cell.freeze()?;
    let program = cell.program().clone();
    let pages: Vec<u32> = changed(cell.memory(), program.base(engine)?).into_iter().map(|(i, _)| i).collect();
    let head = postcard::to_allocvec(&frozen).map_err(|e| Error::Snapshot(e.to_string()))?;
    let mut body = Vec::with_capacity(head.len() + pages.len() * (PAGE + 1));
    body.extend_from_slice(&(head.len() as u32).to_le_bytes());
    body.extend_from_slice(&head);
    put_pages(&mut body, &pages, |page, n| &cell.memory()[page * PAGE..(page + n) * PAGE]);
    Ok(envelope(CELL, &body))
}

/// A snapshot that has been checked and can be thawed.
pub struct Snapshot<'b> {
    pub frozen: Frozen,
    pages: &'b [u8],
}

impl<'b> Snapshot<'b> {
    pub fn read(bytes: &'b [u8]) -> Result<Snapshot<'b>> {
        let short = || Error::Snapshot("the snapshot's parts don't fit together".into());
        let body = open(CELL, "snapshot", bytes)?;
        let (length, rest) = body.split_at_checked(4).ok_or_else(short)?;
        let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
        let (head, pages) = rest.split_at_checked(length).ok_or_else(short)?;
        let frozen = postcard::from_bytes(head).map_err(|e| Error::Snapshot(format!("the snapshot can't be read: {e}")))?;
        Ok(Snapshot { frozen, pages })
    }

    /// A cell with this state. It runs after [`Cell::arrive`] and [`Cell::run`].
    pub fn thaw(&self, engine: &Engine, program: &Arc<Program>, spec: &Spec, control: Arc<Control>) -> Result<Cell> {
        let mut cell = Cell::thaw(engine, program, &self.frozen, spec, control)?;
        write_pages(&mut cell, self.pages).inspect_err(|_| spec.fabric.depart(self.frozen.rank))?;
        Ok(cell)
    }
}

/// Appends runs of pages: `pages` are numbers in order, `memory(page, n)` gives the bytes of `n` pages from there on.
pub(crate) fn put_pages<'m>(out: &mut Vec<u8>, pages: &[u32], memory: impl Fn(usize, usize) -> &'m [u8]) {
    for run in pages.chunk_by(|a, b| a + 1 == *b) {
        out.extend_from_slice(&run[0].to_le_bytes());
        out.extend_from_slice(&(run.len() as u32).to_le_bytes());
        out.extend_from_slice(memory(run[0] as usize, run.len()));
    }
}

/// Writes runs of pages, as [`put_pages`] made them, into a cell that does not run.
pub(crate) fn write_pages(cell: &mut Cell, mut runs: &[u8]) -> Result<()> {
    let short = || Error::Snapshot("the snapshot's pages are cut".into());
    while !runs.is_empty() {
        let (head, after) = runs.split_at_checked(8).ok_or_else(short)?;
        let word = |i: usize| u32::from_le_bytes(head[i..i + 4].try_into().expect("four bytes")) as usize;
        let (data, after) = after.split_at_checked(word(4).saturating_mul(PAGE)).ok_or_else(short)?;
        cell.write(word(0), data)?;
        runs = after;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_and_other_versions_are_named() {
        let good = Archive::write(b"{}", vec![("rank-0".into(), vec![1, 2, 3])]);
        assert_eq!(Archive::read(&good).unwrap().1[0].1, [1, 2, 3]);
        let refused = |change: &dyn Fn(&mut Vec<u8>), expected: &str| {
            let mut bytes = good.clone();
            change(&mut bytes);
            let message = Archive::read(&bytes).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        refused(&|b| *b.last_mut().unwrap() ^= 1, "checksum");
        refused(&|b| b.truncate(b.len() - 1), "cut");
        refused(&|b| b.push(0), "too long");
        refused(&|b| b[0] = 0, "not a checkpoint");
        refused(&|b| b[8] = 9, "version 9, this CloudSkin reads version 8");
        refused(&|b| b.truncate(10), "not a checkpoint");
    }

    #[test]
    fn only_changed_pages_count() {
        let mut memory = vec![0; 4 * PAGE];
        memory[0] = 7;
        let known: Vec<u128> = memory.chunks(PAGE).take(2).map(xxh3_128).collect();
        memory[PAGE + 5] = 1;
        memory[3 * PAGE] = 1;
        let pages: Vec<u32> = changed(&memory, &known).into_iter().map(|(i, _)| i).collect();
        assert_eq!(pages, [1, 3]);
    }
}
