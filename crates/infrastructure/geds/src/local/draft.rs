//! An object being written: a buffer while it is small, then a file of its own.
//!
//! Bytes are reserved before they are written, and a file's blocks are there before its bytes. Nobody else sees a draft.

use super::{BLOCK, CHUNK, Local, Own, Tier, Where, file, step};
use crate::{
    Error, ObjectId, Result,
    cipher::Veil,
    segment::{self, padded},
    space::{Full, Reservation},
};
use memmap2::Mmap;
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// The most that is allocated for a large file ahead of its writes.
const AHEAD_BYTES_MAX: u64 = 16 << 20;

/// What is hashed and written at a time: a part of the cache that a processor has for itself.
const PIECE: usize = 256 << 10;

pub(super) enum Body {
    /// Up to what is small.
    Buffer(Vec<u8>),
    Large(Large),
}

/// A file being written.
pub(super) struct Large {
    file: File,
    copy: ObjectId,
    /// `None`: memory.
    path: Option<PathBuf>,
    /// Up to here there are blocks.
    blocks: u64,
    /// Of the first `hashed` bytes, as long as all writes came in order; then sealing needs no second look at the data.
    hash: Option<Box<Xxh3>>,
    hashed: u64,
    /// `None`: it is written as it is.
    veil: Option<Box<Veil>>,
}

impl Large {
    fn shown(&self) -> PathBuf {
        self.path.clone().unwrap_or_else(|| "memory".into())
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        if offset != self.hashed {
            self.hash = None;
        }
        // Piece by piece, so that what the hash has looked at is still near the processor when the system copies it.
        let mut at = offset;
        for piece in data.chunks(PIECE) {
            if let Some(hash) = &mut self.hash {
                hash.update(piece);
                self.hashed += piece.len() as u64;
            }
            let written = step().and_then(|()| match &mut self.veil {
                None => self.file.write_all_at(piece, at),
                Some(veil) => veil.write(&self.file, at, piece),
            });
            if let Err(e) = written {
                // Some of it may be in the file.
                self.hash = None;
                return Err(file("write", &self.shown())(e));
            }
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        if let Some(veil) = &self.veil {
            return veil.read(&self.file, offset, buf).map_err(file("read", &self.shown()));
        }
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset.saturating_add(done as u64)) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(file("read", &self.shown())(e)),
            }
        }
        Ok(done)
    }

    fn checksum(&self, len: u64) -> Result<u64> {
        if let Some(hash) = self.hash.as_ref().filter(|_| self.hashed == len) {
            return Ok(hash.digest());
        }
        let mut hash = Xxh3::new();
        let mut buf = vec![0; CHUNK];
        let mut at = 0;
        while at < len {
            let want = buf.len().min(usize::try_from(len - at).unwrap_or(usize::MAX));
            let n = self.read_at(at, &mut buf[..want])?;
            if n == 0 {
                return Err(file("read", &self.shown())(io::ErrorKind::UnexpectedEof.into()));
            }
            hash.update(&buf[..n]);
            at += n as u64;
        }
        Ok(hash.digest())
    }
}

/// An object being written. Dropped unsealed, it is gone.
pub(crate) struct Draft {
    pub id: ObjectId,
    pub(super) tier: Arc<Tier>,
    pub(super) memory: bool,
    pub(super) body: Body,
    pub(super) len: u64,
    /// Bytes that the gauge of used ones counts for this draft.
    pub(super) counted: u64,
    pub(super) paid: Reservation,
}

/// Why a write was refused: the caller knows the object's name.
#[derive(Debug)]
pub(crate) enum Refused {
    Full(Full),
    Error(Error),
}

impl From<Full> for Refused {
    fn from(full: Full) -> Refused {
        Refused::Full(full)
    }
}
impl From<Error> for Refused {
    fn from(error: Error) -> Refused {
        Refused::Error(error)
    }
}

impl Draft {
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn in_memory(&self) -> bool {
        self.memory
    }

    /// Whether so many bytes go into a segment.
    fn is_small(&self, len: u64) -> bool {
        self.stored(len) <= self.tier.arena(self.memory).small_max
    }

    fn stored(&self, len: u64) -> u64 {
        self.tier.stored(len, self.memory)
    }

    fn charge_of(&self, len: u64) -> u64 {
        match len {
            0 => 0,
            len if self.is_small(len) && matches!(self.body, Body::Buffer(_)) => padded(self.stored(len)),
            len => self.stored(len).next_multiple_of(BLOCK),
        }
    }

    /// Whether there is room for `len` bytes when everything else is gone.
    pub fn fits_ever(&self, len: u64) -> bool {
        self.charge_of(len) <= self.tier.space(self.memory).limit
    }

    /// Makes sure that `len` bytes may be written.
    pub fn reserve(&mut self, len: u64) -> Result<(), Refused> {
        if len > i64::MAX as u64 {
            return Err(Refused::Error(Error::BadValue {
                what: "offset",
                value: len.to_string(),
                rule: "offset and length together stay below 2^63",
            }));
        }
        self.paid.grow(self.charge_of(len))?;
        if len > self.counted {
            self.tier.space(self.memory).use_more(len - self.counted);
            self.counted = len;
        }
        Ok(())
    }

    /// A file of its own, with what was written so far.
    fn enlarge(&mut self) -> Result<&mut Large> {
        if let Body::Buffer(buffer) = &self.body {
            let copy = ObjectId::random()?;
            let path = (!self.memory).then(|| self.tier.path.join("open").join(copy.to_string()));
            let shown = path.clone().unwrap_or_else(|| "memory".into());
            step().map_err(file("create", &shown))?;
            let made = match &path {
                Some(path) => OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path),
                None => segment::memory(c"geds-object"),
            };
            let made = made.map_err(file("create", &shown))?;
            let veil = self.tier.cipher(self.memory).map(|cipher| Box::new(Veil::new(cipher.clone(), self.id)));
            let mut large = Large { file: made, copy, path, blocks: 0, hash: Some(Box::new(Xxh3::new())), hashed: 0, veil };
            let done = large.write_at(0, buffer);
            self.body = Body::Large(large);
            done?;
        }
        match &mut self.body {
            Body::Large(large) => Ok(large),
            Body::Buffer(_) => unreachable!("it was made large above"),
        }
    }

    /// Blocks for what will be written, so that the write itself can't run into a full disk.
    fn allocate(&mut self, end: u64) -> Result<(), Refused> {
        let end = self.stored(end);
        let Body::Large(large) = &mut self.body else { return Ok(()) };
        if end <= large.blocks {
            return Ok(());
        }
        // Ahead if there is room, so that a stream of small writes does not allocate at each.
        let ahead = end.max(end.saturating_add((end / 2).min(AHEAD_BYTES_MAX))).next_multiple_of(BLOCK);
        let to = if self.paid.grow(ahead).is_ok() { ahead } else { end.next_multiple_of(BLOCK) };
        segment::allocate(&large.file, large.blocks, to).map_err(file("allocate", &large.shown()))?;
        large.blocks = to;
        Ok(())
    }

    pub fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), Refused> {
        if data.is_empty() {
            return Ok(());
        }
        let end = offset.saturating_add(data.len() as u64);
        self.reserve(end)?;
        let small = self.is_small(end);
        match &mut self.body {
            Body::Buffer(buffer) if small => {
                let (at, end) = (offset as usize, end as usize);
                if at == buffer.len() {
                    buffer.extend_from_slice(data);
                } else {
                    if end > buffer.len() {
                        buffer.resize(end, 0);
                    }
                    buffer[at..end].copy_from_slice(data);
                }
            }
            _ => {
                self.enlarge()?;
                self.allocate(end)?;
                self.enlarge()?.write_at(offset, data)?;
            }
        }
        self.len = self.len.max(end);
        Ok(())
    }

    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        match &self.body {
            Body::Buffer(buffer) => {
                let rest = usize::try_from(offset).ok().and_then(|at| buffer.get(at..)).unwrap_or(&[]);
                let n = rest.len().min(buf.len());
                buf[..n].copy_from_slice(&rest[..n]);
                Ok(n)
            }
            Body::Large(large) => large.read_at(offset, buf),
        }
    }

    pub fn set_len(&mut self, len: u64) -> Result<(), Refused> {
        if len == self.len {
            return Ok(());
        }
        self.reserve(len)?;
        if matches!(self.body, Body::Buffer(_)) && !self.is_small(len) {
            self.enlarge()?;
        }
        match &mut self.body {
            Body::Buffer(buffer) => buffer.resize(len as usize, 0),
            Body::Large(large) => {
                let shown = large.shown();
                // Cut first, so that what comes back when it grows again is zeros.
                let cut = len.min(self.len);
                if let Some(veil) = &mut large.veil {
                    step().and_then(|()| veil.cut(&large.file, cut)).map_err(file("resize", &shown))?;
                }
                let cut = self.tier.stored(cut, self.memory);
                step().and_then(|()| large.file.set_len(cut)).map_err(file("resize", &shown))?;
                large.blocks = large.blocks.min(cut);
                large.hash = None;
                if len == 0 {
                    (large.hash, large.hashed) = (Some(Box::new(Xxh3::new())), 0);
                }
                if len > self.len {
                    self.allocate(len)?;
                    if let Body::Large(Large { veil: Some(veil), file: to, .. }) = &mut self.body {
                        step().and_then(|()| veil.extend(to, len)).map_err(file("resize", &shown))?;
                    }
                }
            }
        }
        self.len = len;
        let charge = match &self.body {
            Body::Large(large) => large.blocks.next_multiple_of(BLOCK).max(self.charge_of(len)),
            Body::Buffer(_) => self.charge_of(len),
        };
        self.paid.shrink(charge);
        self.tier.space(self.memory).use_less(self.counted - len);
        self.counted = len;
        Ok(())
    }

    /// Puts the object where it stays. Not recorded yet: [`Tier::keep`] does that, and dropped before it is gone.
    pub fn seal(mut self) -> Result<Local, Refused> {
        let len = self.len;
        let space = self.tier.space(self.memory).clone();
        let (place, checksum) = match &mut self.body {
            Body::Buffer(buffer) => {
                let buffer = std::mem::take(buffer);
                let checksum = xxh3_64(&buffer);
                let buffer = match self.tier.cipher(self.memory) {
                    None => buffer,
                    Some(cipher) => cipher.seal(self.id, &buffer)?,
                };
                let stored = buffer.len() as u64;
                let mut paid = std::mem::replace(&mut self.paid, space.overdraw(0));
                paid.shrink(padded(stored));
                // An empty object takes a few bytes although none were written; they are not worth a wait.
                paid.join(space.overdraw(padded(stored) - paid.bytes()));
                let (segment, offset) = self.tier.arena(self.memory).place(self.id, &buffer, paid)?;
                let place = Where::Segment { segment, offset, memory: self.memory };
                (place, checksum)
            }
            Body::Large(large) => {
                // Blocks ahead, and what a write left that failed in its middle.
                let stored = self.tier.stored(len, self.memory);
                if let Some(veil) = &mut large.veil {
                    // A gap that was never written is there, too.
                    step().and_then(|()| veil.extend(&large.file, len).and_then(|()| veil.flush(&large.file))).map_err(file("write", &large.path.clone().unwrap_or_default()))?;
                }
                step().and_then(|()| large.file.set_len(stored)).map_err(file("resize", &large.shown()))?;
                let checksum = large.checksum(len)?;
                let map = OnceLock::new();
                let path = match &large.path {
                    None => {
                        // SAFETY: the memory has no name, the descriptor is closed when this draft is dropped, and nobody else has it: the
                        // mapping is all that is left, and it is read only.
                        let view = if len == 0 { None } else { Some(unsafe { Mmap::map(&large.file) }.map_err(file("map", &large.shown()))?) };
                        let _ = map.set(view);
                        None
                    }
                    Some(open) => {
                        let name = format!("{}-{len:x}-{checksum:016x}-{}", self.id, large.copy);
                        let path = self.tier.path.join("sealed").join(name);
                        step().and_then(|()| fs::rename(open, &path)).map_err(file("rename", open))?;
                        Some(path)
                    }
                };
                large.path = None;
                let mut charge = std::mem::replace(&mut self.paid, space.overdraw(0));
                charge.shrink(stored.next_multiple_of(BLOCK));
                let memory = match path {
                    None if self.tier.lends.load(SeqCst) => Some(large.file.try_clone().map_err(file("share", &large.shown()))?),
                    _ => None,
                };
                let sound = self.tier.sound.clone();
                let own = Own { path, memory, map, mapping: Mutex::new(()), doomed: AtomicBool::new(false), sound, _charge: charge };
                (Where::Own(Box::new(own)), checksum)
            }
        };
        Ok(Local::new(&self.tier, self.id, len, checksum, place, true, &space))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Body::Large(Large { path: Some(path), .. }) = &self.body {
            if let Err(e) = step().and_then(|()| fs::remove_file(path)) {
                tracing::warn!(path = %path.display(), error = %e, "an abandoned write can't be removed");
            }
        }
        self.tier.space(self.memory).use_less(self.counted);
    }
}
