//! The state as a file: `snapshot-<sequence number of the last command in it>`.
//!
//! ```text
//! 16 bytes of mark │ block │ block │ …       block: bytes u32 │ sort u32 │ xxh3 u64 │ body in postcard
//! sorts: the rest (once, first), answers that may be asked for again (at most once), contents, names, the end (with their numbers)
//! ```
//!
//! It is written under another name and gets its own when it is whole and on disk. So one that can't be read is damaged, and is refused.

use super::{
    answers::Answers,
    log::{numbered, sync_folder},
    state::{ContentRow, NameRow, Rest, State},
};
use crate::{Error, Result, format};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        RwLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

const MARK: &[u8; 16] = b"cloudskin snap 1";
/// Slots in a block: the lock is held for as long as it takes to write them into memory, below a millisecond.
const SLOTS: u32 = 1024;

const REST: u32 = 0;
const CONTENTS: u32 = 1;
const NAMES: u32 = 2;
const END: u32 = 3;
const ANSWERS: u32 = 4;

fn block(file: &mut impl Write, sort: u32, body: &impl Serialize) -> io::Result<u64> {
    raw(file, sort, &postcard::to_stdvec(body).map_err(io::Error::other)?)
}

fn raw(file: &mut impl Write, sort: u32, body: &[u8]) -> io::Result<u64> {
    file.write_all(&(body.len() as u32).to_le_bytes())?;
    file.write_all(&sort.to_le_bytes())?;
    file.write_all(&xxh3_64_with_seed(body, u64::from(sort)).to_le_bytes())?;
    file.write_all(body)?;
    Ok(16 + body.len() as u64)
}

/// Rows on their way into a block: written while they are borrowed, so that nothing is copied but into the block.
#[derive(Default)]
struct Rows {
    count: u64,
    rows: Vec<u8>,
    body: Vec<u8>,
    /// Of all blocks.
    all: u64,
}

impl Rows {
    fn push(&mut self, row: &impl Serialize) {
        self.rows = postcard::to_extend(row, std::mem::take(&mut self.rows)).expect("a vector takes everything");
        self.count += 1;
    }

    /// What has been pushed, as a sequence.
    fn body(&mut self) -> &[u8] {
        self.body.clear();
        self.body = postcard::to_extend(&self.count, std::mem::take(&mut self.body)).expect("a vector takes everything");
        self.body.append(&mut self.rows);
        self.all += std::mem::take(&mut self.count);
        &self.body
    }
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
    let mut bytes = 16 + block(&mut file, REST, &rest)? + block(&mut file, ANSWERS, &rest.answers.rows())?;
    drop(rest);
    let locked = || state.write().unwrap_or_else(|e| e.into_inner());
    let mut rows = Rows::default();
    loop {
        let more = locked().pass_contents(SLOTS, |row| rows.push(&row));
        bytes += raw(&mut file, CONTENTS, rows.body())?;
        if stopped() {
            return Ok(None);
        }
        if !more {
            break;
        }
    }
    let contents = std::mem::take(&mut rows.all);
    loop {
        let more = locked().pass_names(SLOTS, |row| rows.push(&row));
        bytes += raw(&mut file, NAMES, rows.body())?;
        if stopped() {
            return Ok(None);
        }
        if !more {
            break;
        }
    }
    let names = rows.all;
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
    format::check(&path, &bytes[..bytes.len().min(MARK.len())], MARK)?;
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
        let mut rest: Rest = self.next(REST)?;
        // An older release wrote none.
        if self.sort()? == ANSWERS {
            rest.answers = Answers::load(self.next(ANSWERS)?)?;
        }
        let (mut contents, mut names) = (Vec::new(), Vec::new());
        // First only where the blocks are: rows are made when they are put in, and borrow their keys from the file's bytes.
        while self.sort()? == CONTENTS {
            contents.push(self.body(CONTENTS)?);
        }
        while self.sort()? == NAMES {
            names.push(self.body(NAMES)?);
        }
        let counts: (u64, u64) = self.next(END)?;
        fn rows<'b, T: Deserialize<'b> + Send + 'b>(bodies: Vec<&'b [u8]>, readable: &'b AtomicBool) -> impl Iterator<Item = T> + Send + 'b {
            bodies.into_iter().flat_map(move |body| {
                postcard::from_bytes::<Vec<T>>(body).unwrap_or_else(|_| {
                    readable.store(false, Relaxed);
                    Vec::new()
                })
            })
        }
        let readable = AtomicBool::new(true);
        // A count is believed only as far as there are bytes for it.
        let about = |count: u64| usize::try_from(count).unwrap_or(usize::MAX).min(self.bytes.len() / 4);
        let state = State::load(
            rest,
            (about(counts.0), about(counts.1)),
            rows::<ContentRow>(contents, &readable),
            rows::<NameRow>(names, &readable),
        )?;
        let (names, contents) = state.counts();
        let whole = readable.load(Relaxed) && self.at == self.bytes.len() && counts == (contents as u64, names as u64);
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
