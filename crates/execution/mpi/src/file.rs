//! MPI's files: one file that all ranks of a communicator read and write (MPI 4, chapter 14).
//!
//! ```text
//!  rank r ── Read, Write, Size, Advance ─▶ first rank of the file's communicator, which has it open
//!         ── Together ───────────────────▶   waits until all ranks have asked the same, then does it once
//!         ◀──────────────── Reply, Refused
//! ```
//!
//! A file that is being written is private to one rank until it is closed, so one rank has it and the others ask; each request is one step, in the
//! order in which they come. A file that is open for reading only is open at each rank, and nobody is asked for its content. What lies in it is not known
//! here: whoever runs the rank does what an [`Ask`] says. A file has a communicator of its own, like a window.

use crate::comm;
use crate::datatype;
use crate::error::{Class, Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// A file handle as the guest sees it.
pub type Handle = i32;
/// Far from the handles of communicators and windows.
pub const FIRST: Handle = 0x2000_0000;
/// Files of one rank at a time.
const FILES_MAX: usize = 256;
/// Separate pieces of a file in one access.
const PIECES_MAX: usize = 1 << 22;

/// Modes of `MPI_File_open`, with the numbers of `guests/mpi.h`.
pub mod mode {
    pub const CREATE: i32 = 1;
    pub const RDONLY: i32 = 2;
    pub const WRONLY: i32 = 4;
    pub const RDWR: i32 = 8;
    pub const DELETE_ON_CLOSE: i32 = 16;
    pub const EXCL: i32 = 64;
    pub const APPEND: i32 = 128;
    pub const SEQUENTIAL: i32 = 256;
    pub const ALL: i32 = 511;
}

/// `MPI_SEEK_SET` and its like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Whence {
    Set,
    Current,
    End,
}

/// A run of bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    pub offset: u64,
    pub len: u32,
}

/// Which bytes of a file a rank sees: its file type, again and again from a displacement in bytes on.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct View {
    pub displacement: u64,
    pub etype: datatype::Handle,
    pub filetype: datatype::Handle,
    /// Numbers lie as `external32` says.
    pub external: bool,
}

impl View {
    /// Bytes of `MPI_BYTE`, all of them.
    pub const WHOLE: View = View { displacement: 0, etype: 4, filetype: 4, external: false };

    /// Where bytes `start..start + len` of what is seen lie in the file.
    pub fn pieces(&self, types: &datatype::Table, start: u64, len: u64) -> Result<Vec<Piece>> {
        let t = types.used(self.filetype)?;
        let beyond = || Error::new(Class::Io, format!("an access from byte {start} of the view on is outside of what a file can have"));
        if len == 0 {
            return Ok(Vec::new());
        }
        if t.size == 0 {
            return Err(Error::new(Class::Io, "the file's view shows no bytes: its file type is empty"));
        }
        let size = u64::from(t.size);
        let (mut tile, mut skip, mut left) = (start / size, start % size, len);
        let mut pieces: Vec<Piece> = Vec::new();
        while left > 0 {
            let (whole, base) = (t.contiguous(), i128::from(self.displacement) + i128::from(tile) * i128::from(t.extent));
            if whole {
                // One run, however many tiles it takes.
                let offset = u64::try_from(base + i128::from(skip)).map_err(|_| beyond())?;
                pieces.push(Piece { offset, len: u32::try_from(left).map_err(|_| beyond())? });
                break;
            }
            for b in &t.blocks {
                if skip >= u64::from(b.len) {
                    skip -= u64::from(b.len);
                    continue;
                }
                let offset = u64::try_from(base + i128::from(b.offset) + i128::from(skip)).map_err(|_| beyond())?;
                let take = (u64::from(b.len) - skip).min(left);
                (skip, left) = (0, left - take);
                match pieces.last_mut() {
                    Some(last) if last.offset + u64::from(last.len) == offset && u64::from(last.len) + take <= u64::from(u32::MAX) => last.len += take as u32,
                    _ => pieces.push(Piece { offset, len: take as u32 }),
                }
                if left == 0 {
                    break;
                }
            }
            if pieces.len() > PIECES_MAX {
                return Err(Error::new(Class::Count, format!("an access of more than {PIECES_MAX} separate pieces of a file; do it in parts")));
            }
            tile += 1;
        }
        Ok(pieces)
    }

    /// Elements that a file of so many bytes has in this view; one that is cut counts.
    pub fn end(&self, types: &datatype::Table, bytes: u64) -> Result<u64> {
        let (t, unit) = (types.used(self.filetype)?, u64::from(types.used(self.etype)?.size).max(1));
        let bytes = bytes.saturating_sub(self.displacement);
        let Ok(extent) = u64::try_from(t.extent) else { return Ok(0) };
        if extent == 0 {
            return Ok(0);
        }
        let rest = bytes % extent;
        let seen: u64 = t.blocks.iter().map(|b| u64::from(b.len).min((rest as i64).saturating_sub(i64::from(b.offset)).max(0) as u64)).sum();
        Ok((bytes / extent).saturating_mul(u64::from(t.size)).saturating_add(seen).div_ceil(unit))
    }
}

/// What all ranks of a file do together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Together {
    Open,
    Close,
    SetSize(u64),
    Reserve(u64),
    /// So many elements each, in the order of ranks from the shared pointer on.
    Ordered(u64),
    Seek(i64, Whence),
    View,
    /// A view from the shared pointer on: the answer is the byte where that is.
    ViewHere,
    Sync,
}

/// What a message of a file says. Packed bytes follow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Note {
    Read { pieces: Vec<Piece>, id: u32 },
    Write { pieces: Vec<Piece>, id: u32 },
    /// Moves the shared pointer by so many elements; the answer is where it was.
    Advance { by: u64, id: u32 },
    Size { id: u32 },
    Together(Together, u32),
    Reply { id: u32, value: u64 },
    Refused { id: u32, class: i32, text: String },
}

/// What is to be done with a file of a rank's, by whoever runs the rank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// The answer is its size, and (as bytes) its version.
    Open,
    /// Opens the same version for this rank's own reading, if it is there.
    OpenHere { version: u64 },
    Close,
    Size,
    SetSize(u64),
    /// At least so many bytes.
    Reserve(u64),
    /// The answer is the size, from which the shared pointer is set.
    SeekEnd(i64),
    /// The answer is how many bytes were there, and these.
    Read(Vec<Piece>),
    Write(Vec<Piece>, Vec<u8>),
}

/// To be done with a file, and who is answered: ranks of the file and the numbers of their requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    pub file: Handle,
    pub(crate) to: Vec<(u32, u32)>,
    pub what: What,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct File {
    /// 0: it is being opened.
    pub comm: comm::Handle,
    pub(crate) context: u32,
    pub mode: i32,
    pub path: String,
    pub view: View,
    /// Of this rank, in elements of the view.
    pub position: u64,
    pub atomic: bool,
    /// This rank's descriptor of it: of the rank that has it, or of one that only reads.
    pub descriptor: Option<u32>,
    /// The request of a collective access that has begun and not ended.
    pub(crate) split: Option<i32>,
    /// At the first rank: the shared pointer, in elements, and what each rank waits for together with the others.
    pub(crate) shared: u64,
    pub(crate) together: Vec<VecDeque<(Together, u32)>>,
}

/// A rank's files.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Table {
    files: Vec<Option<File>>,
    /// What errors do that are of no file (`MPI_FILE_NULL`), and what new files begin with.
    pub handler: i32,
}

impl Default for Table {
    fn default() -> Table {
        Table { files: Vec::new(), handler: comm::RETURN }
    }
}

fn invalid(handle: Handle) -> Error {
    Error::new(Class::File, format!("file handle {handle} is not valid"))
}

impl Table {
    fn index(handle: Handle) -> Option<usize> {
        usize::try_from(i64::from(handle) - i64::from(FIRST)).ok()
    }

    pub fn get(&self, handle: Handle) -> Result<&File> {
        Table::index(handle).and_then(|i| self.files.get(i)).and_then(Option::as_ref).ok_or_else(|| invalid(handle))
    }

    pub fn get_mut(&mut self, handle: Handle) -> Result<&mut File> {
        Table::index(handle).and_then(|i| self.files.get_mut(i)).and_then(Option::as_mut).ok_or_else(|| invalid(handle))
    }

    pub(crate) fn add(&mut self, file: File) -> Result<Handle> {
        let slot = self.files.iter().position(Option::is_none).unwrap_or(self.files.len());
        if slot >= FILES_MAX {
            return Err(Error::new(Class::Other, format!("this rank has {FILES_MAX} files open; close some with MPI_File_close")));
        }
        if slot == self.files.len() {
            self.files.push(None);
        }
        self.files[slot] = Some(file);
        Ok(FIRST + slot as Handle)
    }

    pub(crate) fn remove(&mut self, handle: Handle) -> Option<File> {
        self.files.get_mut(Table::index(handle)?)?.take()
    }

    pub(crate) fn with_context(&self, context: u32) -> Option<Handle> {
        self.files.iter().position(|f| f.as_ref().is_some_and(|f| f.comm != 0 && f.context == context)).map(|i| FIRST + i as Handle)
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.files.iter().all(Option::is_none)
    }

    /// Whether files that were read from elsewhere are of communicators that are there.
    pub(crate) fn check(&self, comms: &comm::Table) -> Result<()> {
        for f in self.files.iter().flatten().filter(|f| f.comm != 0) {
            if comms.used(f.comm).is_none_or(|c| c.context != f.context || c.remote.is_some() || f.together.len() != c.size() as usize) {
                return Err(Error::new(Class::File, format!("file {} is of other ranks than it says", f.path)));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INT: i32 = 8;

    #[test]
    fn a_view_shows_every_third_number() {
        let mut types = datatype::Table::default();
        let third = types.make_resized(INT, 0, 12).unwrap();
        let view = View { displacement: 100, etype: INT, filetype: third, external: false };
        let places = |start, len| view.pieces(&types, start, len).unwrap().iter().map(|p| (p.offset, p.len)).collect::<Vec<_>>();
        assert_eq!(places(0, 8), [(100, 4), (112, 4)]);
        assert_eq!(places(6, 4), [(114, 2), (124, 2)]);
        for (bytes, elements) in [(0, 0), (100, 0), (101, 1), (104, 1), (112, 1), (116, 2), (125, 3)] {
            assert_eq!(view.end(&types, bytes).unwrap(), elements, "of {bytes} bytes");
        }
        let whole = View { displacement: 7, ..View::WHOLE };
        assert_eq!(whole.pieces(&types, 1 << 40, 5).unwrap(), [Piece { offset: (1 << 40) + 7, len: 5 }]);
        assert_eq!(whole.end(&types, 17).unwrap(), 10);
        let back = types.make_resized(INT, 0, -400).unwrap();
        let view = View { displacement: 0, etype: INT, filetype: back, external: false };
        assert_eq!(view.pieces(&types, 4, 4).unwrap_err().class, Class::Io);
    }
}
