//! A stopped cell as bytes: one file format for checkpoints and for what a migration sends.
//!
//! ```text
//!  8  magic   "CSKSNAP\0" one cell   |  "CSKARCH\0" a job: a manifest and its cells
//!  4  version, little endian         |  of this layout and of everything serialised in it
//!  8  length of the body
//! 16  XXH3-128 of the body: finds damage, does not authenticate
//!     body of a cell:    u32 length, postcard of (`Option<Parent>`, `Frozen`), in which is a list of its threads;
//!                        runs of pages: u32 first, u32 count, count × 4096 bytes
//!     body of a job:     postcard of (manifest, [(name, bytes)])
//! ```
//!
//! Pages that are equal to a fresh instance's are left out: whoever restores has them from the module. A snapshot with a [`Parent`] is an *increment*: it has
//! all of a cell's state but of its memory only the pages that have changed since its parent was written, and names that one by its checksum. So one
//! that is damaged is found by its own checksum, and one that is another than it should be by the increment's. A [`Chain`] is an increment with all that it
//! stands on; from it a cell goes on, or one snapshot is made that needs no other. How snapshots are written: [`Draft`](crate::Draft).

use crate::cell::{Cell, Frozen, Spec};
use crate::control::Control;
use crate::draft::Draft;
use crate::engine::{Engine, PAGE, Program};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// Version of the format. Raised with every change of what is serialised.
pub const VERSION: u32 = 12;
/// Snapshots that may stand on each other. Who writes them ends a chain long before.
pub const CHAIN_MAX: usize = 64;
const CELL: &[u8; 8] = b"CSKSNAP\0";
const JOB: &[u8; 8] = b"CSKARCH\0";
const HEAD: usize = 36;

/// What comes before a body.
fn head(magic: &[u8; 8], length: u64, checksum: u128) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..8].copy_from_slice(magic);
    head[8..12].copy_from_slice(&VERSION.to_le_bytes());
    head[12..20].copy_from_slice(&length.to_le_bytes());
    head[20..].copy_from_slice(&checksum.to_le_bytes());
    head
}

fn envelope(magic: &[u8; 8], body: &[u8]) -> Vec<u8> {
    [&head(magic, body.len() as u64, xxh3_128(body))[..], body].concat()
}

/// What the file of a snapshot is: its length in bytes and its body's checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    pub bytes: u64,
    pub checksum: u128,
}

/// Writes a snapshot whose body comes in pieces, without having it in one. `pieces` gives them to whom it is handed, twice and both times the same.
pub(crate) fn write_pieces<E>(pieces: impl Fn(&mut dyn FnMut(&[u8]) -> std::result::Result<(), E>) -> std::result::Result<(), E>, mut out: impl FnMut(&[u8]) -> std::result::Result<(), E>) -> std::result::Result<Written, E> {
    let (mut digest, mut length) = (Xxh3::new(), 0u64);
    pieces(&mut |piece| {
        digest.update(piece);
        length += piece.len() as u64;
        Ok(())
    })?;
    let checksum = digest.digest128();
    out(&head(CELL, length, checksum))?;
    pieces(&mut out)?;
    Ok(Written { bytes: HEAD as u64 + length, checksum })
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

/// Writes a stopped cell down, as a snapshot that needs no other. The fabric must hold its rank.
pub fn write(engine: &Engine, cell: &mut Cell) -> Result<Vec<u8>> {
    let mut draft = Draft::new(None);
    draft.take(engine, cell, &mut |_| false)?;
    let mut bytes = Vec::new();
    let done: std::result::Result<Written, Infallible> = draft.write(Some(cell.memory()), |piece| {
        bytes.extend_from_slice(piece);
        Ok(())
    });
    let Ok(_) = done;
    Ok(bytes)
}

/// What an increment stands on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// How people call it: the prefix of its checkpoint. It is found by whoever restores, not by this name.
    pub name: String,
    /// Of the body of its file.
    pub checksum: u128,
}

/// A snapshot that has been checked.
pub struct Snapshot<'b> {
    pub frozen: Frozen,
    /// Of an increment.
    pub parent: Option<Parent>,
    checksum: u128,
    pages: &'b [u8],
}

impl<'b> Snapshot<'b> {
    pub fn read(bytes: &'b [u8]) -> Result<Snapshot<'b>> {
        let short = || Error::Snapshot("the snapshot's parts don't fit together".into());
        let body = open(CELL, "snapshot", bytes)?;
        let checksum = u128::from_le_bytes(bytes[20..HEAD].try_into().expect("sixteen bytes"));
        let (length, rest) = body.split_at_checked(4).ok_or_else(short)?;
        let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
        let (head, pages) = rest.split_at_checked(length).ok_or_else(short)?;
        let (parent, frozen) = postcard::from_bytes(head).map_err(|e| Error::Snapshot(format!("the snapshot can't be read: {e}")))?;
        Ok(Snapshot { frozen, parent, checksum, pages })
    }

    /// A cell with this state. It runs after [`Cell::arrive`] and [`Cell::run`]. Refused for an increment, of which [`Chain::thaw`] makes one.
    pub fn thaw(&self, engine: &Engine, program: &Arc<Program>, spec: &Spec, control: Arc<Control>) -> Result<Cell> {
        thaw(std::slice::from_ref(self), engine, program, spec, control)
    }
}

/// A cell of these snapshots, the newest first.
fn thaw(snapshots: &[Snapshot], engine: &Engine, program: &Arc<Program>, spec: &Spec, control: Arc<Control>) -> Result<Cell> {
    whole(snapshots)?;
    let frozen = &snapshots[0].frozen;
    let mut cell = Cell::thaw(engine, program, frozen, spec, control)?;
    let written = snapshots.iter().rev().try_for_each(|snapshot| write_pages(&mut cell, snapshot.pages));
    written.inspect_err(|_| spec.fabric.depart(frozen.rank))?;
    Ok(cell)
}

/// Refuses what needs another one that is not there.
fn whole(snapshots: &[Snapshot]) -> Result<()> {
    let Some(parent) = snapshots.last().and_then(|oldest| oldest.parent.as_ref()) else { return Ok(()) };
    Err(Error::Snapshot(format!("it holds only what has changed since checkpoint {}, which is not there; use a complete one: `cloudskin checkpoint JOB --out FILE` writes such files", parent.name)))
}

/// A snapshot and what it stands on, down to one that needs no other.
pub struct Chain<'b> {
    /// The newest first; never empty.
    snapshots: Vec<Snapshot<'b>>,
}

impl<'b> Chain<'b> {
    /// With the file of the newest snapshot.
    pub fn begin(newest: &'b [u8]) -> Result<Chain<'b>> {
        Ok(Chain { snapshots: vec![Snapshot::read(newest)?] })
    }

    /// What is to be added next; `None` when all of it is there.
    pub fn missing(&self) -> Option<&Parent> {
        self.snapshots.last().expect("never empty").parent.as_ref()
    }

    /// Adds the file of the snapshot that is missing.
    ///
    /// # Errors
    /// It is damaged, of another version, or not the one that the last of the chain was made from.
    pub fn add(&mut self, older: &'b [u8]) -> Result<()> {
        let Some(parent) = self.missing() else { return Err(Error::Snapshot("the snapshot stands on no other, and was given one".into())) };
        if self.snapshots.len() == CHAIN_MAX {
            return Err(Error::Snapshot(format!("more than {CHAIN_MAX} snapshots stand on each other")));
        }
        let named = |e: Error| Error::Snapshot(format!("checkpoint {}, of which the changes are here: {e}", parent.name));
        let read = Snapshot::read(older).map_err(named)?;
        if read.checksum != parent.checksum {
            return Err(Error::Snapshot(format!(
                "it holds what has changed since the snapshot in checkpoint {} with checksum {:032x}; the one that is there has checksum {:032x}: it is another; use an older checkpoint",
                parent.name, parent.checksum, read.checksum
            )));
        }
        // What a checksum can't say of files that somebody has made.
        let (new, old) = (self.frozen(), &read.frozen);
        if (new.rank, new.size, &new.program_sha256) != (old.rank, old.size, &old.program_sha256) || new.memory_bytes < old.memory_bytes {
            return Err(Error::Snapshot(format!("the snapshot in checkpoint {} is of another rank or program, or of a larger memory", parent.name)));
        }
        self.snapshots.push(read);
        Ok(())
    }

    /// The state of the newest.
    pub fn frozen(&self) -> &Frozen {
        &self.snapshots[0].frozen
    }

    /// A cell with the newest state. It runs after [`Cell::arrive`] and [`Cell::run`].
    pub fn thaw(&self, engine: &Engine, program: &Arc<Program>, spec: &Spec, control: Arc<Control>) -> Result<Cell> {
        thaw(&self.snapshots, engine, program, spec, control)
    }

    /// The file of one snapshot that says the same and needs no other.
    pub fn join(&self) -> Result<Vec<u8>> {
        whole(&self.snapshots)?;
        self.frozen().check()?;
        let size = self.frozen().memory_bytes;
        let mut pages: BTreeMap<usize, &[u8]> = BTreeMap::new();
        for snapshot in self.snapshots.iter().rev() {
            runs(snapshot.pages, |first, data| {
                if (first as u64).saturating_mul(PAGE as u64).saturating_add(data.len() as u64) > size {
                    return Err(Error::Snapshot(format!("page {first} is outside of the cell's memory")));
                }
                pages.extend(data.chunks(PAGE).enumerate().map(|(i, page)| (first + i, page)));
                Ok(())
            })?;
        }
        let state = state(None, self.frozen())?;
        let mut bytes = Vec::new();
        let numbers: Vec<u32> = pages.keys().map(|page| *page as u32).collect();
        let pieces = |out: &mut dyn FnMut(&[u8]) -> std::result::Result<(), Infallible>| each_piece(&state, &numbers, |page| pages[&(page as usize)], out);
        let Ok(_) = write_pieces(pieces, |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        });
        Ok(bytes)
    }
}

/// The first part of a body.
pub(crate) fn state(parent: Option<Parent>, frozen: &Frozen) -> Result<Vec<u8>> {
    let state = postcard::to_allocvec(&(parent, frozen)).map_err(|e| Error::Snapshot(e.to_string()))?;
    let length = u32::try_from(state.len()).map_err(|_| Error::Snapshot(format!("what belongs to the rank beside its memory has {} bytes; 4 GiB are the most", state.len())))?;
    Ok([&length.to_le_bytes()[..], &state].concat())
}

/// The pieces of a body: what [`state`] made, and runs of pages, whose numbers are in order.
pub(crate) fn each_piece<'m, E>(state: &[u8], pages: &[u32], memory: impl Fn(u32) -> &'m [u8], out: &mut dyn FnMut(&[u8]) -> std::result::Result<(), E>) -> std::result::Result<(), E> {
    out(state)?;
    for run in pages.chunk_by(|a, b| a + 1 == *b) {
        out(&run[0].to_le_bytes())?;
        out(&(run.len() as u32).to_le_bytes())?;
        run.iter().try_for_each(|page| out(memory(*page)))?;
    }
    Ok(())
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
pub(crate) fn write_pages(cell: &mut Cell, bytes: &[u8]) -> Result<()> {
    runs(bytes, |first, data| cell.write(first, data))
}

/// Each run of pages: the number of its first page, and the pages' bytes.
fn runs<'b>(mut bytes: &'b [u8], mut each: impl FnMut(usize, &'b [u8]) -> Result<()>) -> Result<()> {
    let short = || Error::Snapshot("the snapshot's pages are cut".into());
    while !bytes.is_empty() {
        let (head, after) = bytes.split_at_checked(8).ok_or_else(short)?;
        let word = |i: usize| u32::from_le_bytes(head[i..i + 4].try_into().expect("four bytes")) as usize;
        let (data, after) = after.split_at_checked(word(4).saturating_mul(PAGE)).ok_or_else(short)?;
        each(word(0), data)?;
        bytes = after;
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
        refused(&|b| b[8] = VERSION as u8 + 1, &format!("version {}, this CloudSkin reads version {VERSION}", VERSION + 1));
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
