//! The state as a file: `snapshot-<sequence number of the last command in it>`.
//!
//! ```text
//! 16 bytes of mark │ block │ block │ …       block: bytes u32 │ sort u32 │ xxh3 u64 │ body in postcard
//! sorts: the rest (once, first), contents, names, the end (with their numbers)
//! ```
//!
//! It is written under another name and gets its own when it is whole and on disk. So one that can't be read is damaged, and is refused.

use super::{
    log::{numbered, sync_folder},
    state::{ContentRow, NameRow, Rest, State},
};
use crate::{Error, Result};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::RwLock,
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

const MARK: &[u8; 16] = b"cloudskin snap 1";
/// Slots in a block: the lock is held for as long as it takes to write them into memory, below a millisecond.
const SLOTS: u32 = 1024;

const REST: u32 = 0;
const CONTENTS: u32 = 1;
const NAMES: u32 = 2;
const END: u32 = 3;

fn block(file: &mut impl Write, sort: u32, body: &impl Serialize) -> io::Result<u64> {
    let body = postcard::to_stdvec(body).map_err(io::Error::other)?;
    file.write_all(&(body.len() as u32).to_le_bytes())?;
    file.write_all(&sort.to_le_bytes())?;
    file.write_all(&xxh3_64_with_seed(&body, u64::from(sort)).to_le_bytes())?;
    file.write_all(&body)?;
    Ok(16 + body.len() as u64)
}

pub fn name_of(folder: &Path, seq: u64) -> PathBuf {
    folder.join(format!("snapshot-{seq:020}"))
}

/// Writes what [`State::freeze`] froze and takes away what the snapshot makes superfluous. Bytes written; `None`: it was stopped.
pub fn write(folder: &Path, rest: Rest, state: &RwLock<State>, stopped: impl Fn() -> bool) -> io::Result<Option<u64>> {
    let (temp, seq) = (folder.join("snapshot.new"), rest.seq);
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temp)?;
    let mut file = io::BufWriter::with_capacity(1 << 20, file);
    file.write_all(MARK)?;
    let mut bytes = 16 + block(&mut file, REST, &rest)?;
    drop(rest);
    let locked = || state.write().unwrap_or_else(|e| e.into_inner());
    let (mut contents, mut names) = (0u64, 0u64);
    loop {
        let mut rows: Vec<ContentRow> = Vec::new();
        let more = locked().pass_contents(SLOTS, |row| rows.push(row));
        contents += rows.len() as u64;
        bytes += block(&mut file, CONTENTS, &rows)?;
        if stopped() {
            return Ok(None);
        }
        if !more {
            break;
        }
    }
    loop {
        let mut rows: Vec<NameRow> = Vec::new();
        let more = locked().pass_names(SLOTS, |row| rows.push(row));
        names += rows.len() as u64;
        bytes += block(&mut file, NAMES, &rows)?;
        if stopped() {
            return Ok(None);
        }
        if !more {
            break;
        }
    }
    bytes += block(&mut file, END, &(contents, names))?;
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    std::fs::rename(&temp, name_of(folder, seq))?;
    File::open(folder)?.sync_all()?;
    Ok(Some(bytes))
}

/// Removes older snapshots, and logs that end before this one.
pub fn tidy(folder: &Path, seq: u64) -> Result<()> {
    let logs = super::log::files(folder)?;
    let old_logs = logs.windows(2).filter(|two| two[1].0 <= seq + 1).map(|two| two[0].1.clone());
    let old_snapshots = numbered(folder, "snapshot-")?.into_iter().filter(|(number, _)| *number < seq).map(|(_, path)| path);
    for path in old_logs.chain(old_snapshots) {
        std::fs::remove_file(&path).map_err(|source| Error::File { action: "remove", path, source })?;
    }
    sync_folder(folder)
}

/// The newest snapshot, with its size; an empty state if there is none.
pub fn read(folder: &Path) -> Result<(State, u64)> {
    let Some((seq, path)) = numbered(folder, "snapshot-")?.pop() else { return Ok((State::new(), 0)) };
    let bytes = std::fs::read(&path).map_err(|source| Error::File { action: "read", path: path.clone(), source })?;
    let mut blocks = Blocks { bytes: &bytes, at: 0 };
    let state = blocks.state();
    match state {
        Some(state) if state.seq() == seq => Ok((state, bytes.len() as u64)),
        _ => Err(Error::DamagedLog { path, offset: blocks.at as u64, found: "a block of the snapshot is not what was written".into() }),
    }
}

struct Blocks<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Blocks<'a> {
    fn state(&mut self) -> Option<State> {
        if !self.bytes.starts_with(MARK) {
            return None;
        }
        self.at = MARK.len();
        let rest: Rest = self.next(REST)?;
        let (mut contents, mut names) = (Vec::new(), Vec::new());
        // First only where the blocks are: rows are made when they are put in, so that they are not there twice.
        while self.sort()? == CONTENTS {
            contents.push(self.body(CONTENTS)?);
        }
        while self.sort()? == NAMES {
            names.push(self.body(NAMES)?);
        }
        let counts: (u64, u64) = self.next(END)?;
        let mut whole = true;
        fn rows<'b, T: DeserializeOwned + 'b>(bodies: Vec<&'b [u8]>, whole: &'b std::cell::Cell<bool>) -> impl Iterator<Item = T> + 'b {
            bodies.into_iter().flat_map(move |body| {
                postcard::from_bytes::<Vec<T>>(body).unwrap_or_else(|_| {
                    whole.set(false);
                    Vec::new()
                })
            })
        }
        let readable = std::cell::Cell::new(true);
        let state = State::load(rest, rows::<ContentRow>(contents, &readable), rows::<NameRow>(names, &readable))?;
        let (names, contents) = state.counts();
        whole &= readable.get() && self.at == self.bytes.len() && counts == (contents as u64, names as u64);
        whole.then_some(state)
    }

    fn sort(&self) -> Option<u32> {
        let head = self.bytes.get(self.at + 4..self.at + 8)?;
        Some(u32::from_le_bytes(head.try_into().expect("four bytes")))
    }

    fn body(&mut self, sort: u32) -> Option<&'a [u8]> {
        if self.sort()? != sort {
            return None;
        }
        let len = u32::from_le_bytes(self.bytes[self.at..self.at + 4].try_into().expect("four bytes")) as usize;
        let sum = self.bytes.get(self.at + 8..self.at + 16)?;
        let body = self.bytes.get(self.at + 16..)?.get(..len)?;
        if sum != xxh3_64_with_seed(body, u64::from(sort)).to_le_bytes() {
            return None;
        }
        self.at += 16 + len;
        Some(body)
    }

    fn next<T: DeserializeOwned>(&mut self, sort: u32) -> Option<T> {
        postcard::from_bytes(self.body(sort)?).ok()
    }
}
