//! The journal: where the small objects of a node lie, as records of 64 bytes that each carry their checksum.
//!
//! ```text
//! slot 0   "geds journal 1" and zeros
//! slot n   u8 sort: 1 put, 2 drop │ 3 zeros │ u32 segment │ u64 offset │ u128 id │ u64 size │ u64 checksum │ u64 zeros │ u64 xxh3 of the rest
//! ```
//!
//! The last record of an id counts. A record is one `pwrite` under one lock, so after a kill only the last can be torn; after a power cut any that was not
//! synced may be missing. Either way it is one that nobody was told of, and it is passed over. When most records are dead the live ones are written to
//! a new file, which takes the name of the old one when it is durable. Who has what is not here: that is the catalog's.

use crate::{
    Error, ObjectId, Result, format,
    local::{IdMap, file, step},
    segment::allocate,
};
use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};
use xxhash_rust::xxh3::xxh3_64;

pub(crate) const RECORD: usize = 64;
const HEAD: &[u8; 14] = b"geds journal 1";
/// Blocks are allocated so many bytes ahead.
const GROWTH: u64 = 1 << 20;
/// Below so many records it is not worth to rewrite.
const RECORDS_MIN: u64 = if cfg!(test) { 64 } else { 16 << 10 };
/// Read at a time.
const CHUNK: usize = 1 << 20;

/// Where a small object lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub segment: u32,
    pub offset: u64,
    pub size: u64,
    pub checksum: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    Put(ObjectId, Place),
    Drop(ObjectId),
}

impl Record {
    fn encode(&self) -> [u8; RECORD] {
        let mut out = [0; RECORD];
        let id = match self {
            Record::Put(id, place) => {
                out[0] = 1;
                out[4..8].copy_from_slice(&place.segment.to_le_bytes());
                out[8..16].copy_from_slice(&place.offset.to_le_bytes());
                out[32..40].copy_from_slice(&place.size.to_le_bytes());
                out[40..48].copy_from_slice(&place.checksum.to_le_bytes());
                id
            }
            Record::Drop(id) => {
                out[0] = 2;
                id
            }
        };
        out[16..32].copy_from_slice(&id.0.to_le_bytes());
        let sum = xxh3_64(&out[..56]);
        out[56..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Record> {
        let number = |at: usize| bytes[at..at + 8].try_into().map(u64::from_le_bytes).ok();
        if !is_whole(bytes) {
            return None;
        }
        let id = ObjectId(u128::from_le_bytes(bytes[16..32].try_into().ok()?));
        match bytes[0] {
            1 => Some(Record::Put(
                id,
                Place {
                    segment: u32::from_le_bytes(bytes[4..8].try_into().ok()?),
                    offset: number(8)?,
                    size: number(32)?,
                    checksum: number(40)?,
                },
            )),
            2 => Some(Record::Drop(id)),
            _ => None,
        }
    }
}

/// Whether a slot holds a record as it was written, of whatever sort.
fn is_whole(bytes: &[u8]) -> bool {
    bytes.len() == RECORD && bytes[56..] == xxh3_64(&bytes[..56]).to_le_bytes()
}

/// What a journal said when it was opened.
#[derive(Default)]
pub(crate) struct Replayed {
    pub places: IdMap<Place>,
    /// Slots that hold something, but no record.
    pub torn: u64,
}

pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    /// The next free slot.
    next: u64,
    blocks: u64,
}

fn slots(bytes: u64) -> u64 {
    bytes / RECORD as u64
}

impl Journal {
    /// Opens or makes it and reads it to its end.
    pub fn open(path: &Path) -> Result<(Journal, Replayed)> {
        let aside = path.with_extension("new");
        if !path.try_exists().map_err(file("look up", path))? {
            let mut journal = Journal::create(&aside)?;
            // A name without what it names would be no journal to the next start.
            step().and_then(|()| journal.file.sync_all()).map_err(file("sync", &aside))?;
            journal.rename_to(path)?;
            let folder = path.parent().unwrap_or(Path::new("."));
            step().and_then(|()| File::open(folder)?.sync_all()).map_err(file("sync", folder))?;
            return Ok((journal, Replayed::default()));
        }
        let opened = OpenOptions::new().read(true).write(true).open(path).map_err(file("open", path))?;
        let blocks = opened.metadata().map_err(file("look up", path))?.len();
        let mut journal = Journal { path: path.into(), file: opened, next: 1, blocks };
        let replayed = journal.replay()?;
        match fs::remove_file(&aside) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(file("remove", &aside)(e)),
            _ => Ok((journal, replayed)),
        }
    }

    fn create(path: &Path) -> Result<Journal> {
        step().map_err(file("create", path))?;
        let made = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)
            .map_err(file("create", path))?;
        let mut journal = Journal { path: path.into(), file: made, next: 0, blocks: 0 };
        let mut head = [0; RECORD];
        head[..HEAD.len()].copy_from_slice(HEAD);
        journal.write(&head)?;
        Ok(journal)
    }

    fn replay(&mut self) -> Result<Replayed> {
        let mut replayed = Replayed::default();
        let mut buf = vec![0; CHUNK];
        let (mut slot, mut last) = (0, 0);
        loop {
            let at = slot * RECORD as u64;
            let mut len = 0;
            while len < buf.len() {
                match self.file.read_at(&mut buf[len..], at + len as u64) {
                    Ok(0) => break,
                    Ok(n) => len += n,
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(file("read", &self.path)(e)),
                }
            }
            for bytes in buf[..len].chunks(RECORD) {
                if slot == 0 {
                    if !format::check(&self.path, bytes, HEAD)? {
                        return Err(Error::BadValue {
                            what: "journal",
                            value: self.path.display().to_string(),
                            rule: "it is not a journal; move the folder away, its objects can't be found without it",
                        });
                    }
                } else if bytes.iter().any(|b| *b != 0) {
                    last = slot;
                    match (bytes.len() == RECORD).then(|| Record::decode(bytes)).flatten() {
                        Some(Record::Put(id, place)) => {
                            replayed.places.insert(id, place);
                        }
                        Some(Record::Drop(id)) => {
                            replayed.places.remove(&id);
                        }
                        None if is_whole(bytes) => return Err(format::newer(&self.path, format!("a record of sort {} in slot {slot}, which this version does not know", bytes[0]))),
                        None => replayed.torn += 1,
                    }
                }
                slot += 1;
            }
            if len < buf.len() {
                break;
            }
        }
        // Behind a torn record, which stays what it is.
        self.next = last + 1;
        Ok(replayed)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let at = self.next * RECORD as u64;
        let end = at + bytes.len() as u64;
        if end > self.blocks {
            let to = end.next_multiple_of(GROWTH);
            allocate(&self.file, self.blocks, to).map_err(file("allocate", &self.path))?;
            self.blocks = to;
        }
        #[cfg(test)]
        if crate::local::tears() {
            // What a kill in the middle of the write leaves.
            let _ = self.file.write_all_at(&bytes[..bytes.len() / 2], at);
        }
        let done = step().and_then(|()| self.file.write_all_at(bytes, at));
        // Used up even when it failed: half of it may be there.
        self.next += slots(bytes.len() as u64);
        done.map_err(file("write", &self.path))
    }

    /// Survives a kill when it returns, and a power cut after the next sync.
    pub fn append(&mut self, record: Record) -> Result<()> {
        self.write(&record.encode())
    }

    /// A handle to sync without holding the journal's lock.
    pub fn handle(&self) -> Result<File> {
        self.file.try_clone().map_err(file("open", &self.path))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// More than half of it is dead, and it is long enough to matter.
    pub fn wants_rewrite(&self, live: u64) -> bool {
        self.next > RECORDS_MIN + 2 * live
    }

    /// Where a rewrite that begins now has to go on from.
    pub fn mark(&self) -> u64 {
        self.next
    }

    /// Writes what lives to a new file beside this one, durably. To be called without the lock.
    pub fn prepare(path: &Path, live: impl Iterator<Item = (ObjectId, Place)>) -> Result<Journal> {
        let mut journal = Journal::create(&path.with_extension("new"))?;
        let mut buf = Vec::with_capacity(CHUNK);
        for (id, place) in live {
            buf.extend_from_slice(&Record::Put(id, place).encode());
            if buf.len() >= CHUNK {
                journal.write(&buf)?;
                buf.clear();
            }
        }
        if !buf.is_empty() {
            journal.write(&buf)?;
        }
        step().and_then(|()| journal.file.sync_all()).map_err(file("sync", &journal.path))?;
        Ok(journal)
    }

    /// Puts a prepared journal in the place of this one, with what was recorded here since `mark`. Under the lock, and its name has to be made durable before that is given
    /// back.
    pub fn replace(&mut self, mut new: Journal, mark: u64) -> Result<()> {
        let mut rest = vec![0; (self.next - mark) as usize * RECORD];
        self.file.read_exact_at(&mut rest, mark * RECORD as u64).map_err(file("read", &self.path))?;
        if !rest.is_empty() {
            new.write(&rest)?;
            step().and_then(|()| new.file.sync_all()).map_err(file("sync", &new.path))?;
        }
        let path = self.path.clone();
        new.rename_to(&path)?;
        *self = new;
        Ok(())
    }

    fn rename_to(&mut self, path: &Path) -> Result<()> {
        step().and_then(|()| fs::rename(&self.path, path)).map_err(file("rename", &self.path))?;
        self.path = path.into();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(n: u128) -> Record {
        let n64 = n as u64;
        Record::Put(ObjectId(n), Place { segment: n64 as u32, offset: n64 * 8, size: n64 + 1, checksum: !n64 })
    }

    #[test]
    fn the_last_record_counts_and_damage_is_passed_over() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("journal");
        let (mut journal, replayed) = Journal::open(&path).unwrap();
        assert!(replayed.places.is_empty());
        for n in 0..6 {
            journal.append(put(n)).unwrap();
        }
        journal.append(Record::Drop(ObjectId(1))).unwrap();
        let moved = Place { segment: 9, offset: 0, size: 3, checksum: 4 };
        journal.append(Record::Put(ObjectId(2), moved)).unwrap();
        // Record 4 (slot 5) loses a bit; something torn lies at the end.
        journal.file.write_all_at(&[0xff], 5 * 64 + 20).unwrap();
        journal.file.write_all_at(&[1, 2, 3], journal.next * 64).unwrap();
        drop(journal);
        let (mut journal, replayed) = Journal::open(&path).unwrap();
        let mut ids: Vec<_> = replayed.places.keys().map(|id| id.0).collect();
        ids.sort();
        assert_eq!((ids, replayed.torn, replayed.places[&ObjectId(2)]), (vec![0, 2, 3, 5], 2, moved));
        // What is written now lies behind the damage and is found.
        journal.append(put(7)).unwrap();
        drop(journal);
        assert_eq!(Journal::open(&path).unwrap().1.places.len(), 5);
        fs::write(&path, b"something else").unwrap();
        assert!(Journal::open(&path).err().unwrap().to_string().contains("journal"));
    }

    #[test]
    fn a_rewrite_keeps_what_lives_and_what_came_meanwhile() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("journal");
        let (mut journal, _) = Journal::open(&path).unwrap();
        for n in 0..40_000 {
            journal.append(put(n)).unwrap();
            journal.append(Record::Drop(ObjectId(n))).unwrap();
        }
        journal.append(put(50_000)).unwrap();
        journal.append(put(50_001)).unwrap();
        assert!(journal.wants_rewrite(2) && !journal.wants_rewrite(40_000));
        let mark = journal.mark();
        let Record::Put(id, place) = put(50_000) else { unreachable!() };
        let Record::Put(id1, place1) = put(50_001) else { unreachable!() };
        let new = Journal::prepare(&path, [(id, place), (id1, place1)].into_iter()).unwrap();
        journal.append(put(60_000)).unwrap();
        journal.append(Record::Drop(ObjectId(50_001))).unwrap();
        journal.replace(new, mark).unwrap();
        journal.append(put(60_001)).unwrap();
        drop(journal);
        let (journal, replayed) = Journal::open(&path).unwrap();
        let mut ids: Vec<_> = replayed.places.keys().map(|id| id.0).collect();
        ids.sort();
        assert_eq!((ids, replayed.torn), (vec![50_000, 60_000, 60_001], 0));
        assert!(journal.blocks <= GROWTH);
    }
}
