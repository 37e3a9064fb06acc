//! Appendable objects: they grow at their end, can be read meanwhile, and go on growing when their head was spilled.
//!
//! ```text
//! <folder>/append/<id>.log       what it is called, its parts, its committed length: records with checksums, one behind the other
//! <folder>/append/<id>.<n>       part n: bytes n × part size and on
//!
//! │ part 0: away │ part 1: away │ part 2: here, full │ part 3: here, grows │
//!                                                         committed ▲
//! ```
//!
//! An append writes the bytes behind the committed length and then a record that moves it. Bytes below it never change, so readers take no lock of the writer. After a
//! kill everything that was acknowledged is there, after a power cut what [`Appendable::sync`] had returned for, and of the rest what is whole: a record may reach the disk before its bytes do, so it has their
//! checksum, and what was not synced is read once when the node starts again. Where the disk is encrypted, an append is a piece (in each part that it touches)
//! which is encrypted by itself, and its record says where it lies: bytes that nobody was told of may be written over, since each piece has a nonce of its own. A log that is mostly
//! lengths of the past is written anew, to `<id>.new`, which then takes its name. A full part may be uploaded: verified, then recorded,
//! then freed. A seal copies all of it into an ordinary object, which the catalog records; until then only
//! this node knows it, and other nodes read it from here (`follow.rs`).

use crate::{
    BucketName, Error, Key, Node, ObjectId, ObjectMeta, Persist, Result, Writer,
    catalog::PAGE_MAX,
    cipher::{self, Cipher},
    format,
    local::{BLOCK, Refused, Sound, Tier, file},
    metrics::{Source, add},
    names::Prefix,
    node::{Inner, Upload, compute, joined},
    segment::allocate,
    space::Reservation,
    writer::Carried,
};
use base::Kind;
use bytes::Bytes;
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use std::{
    collections::{HashMap, VecDeque},
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tokio::sync::Notify;
use tracing::Instrument;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// A part is a quarter of a segment, so at most 16 MiB.
const PARTS_PER_SEGMENT: u64 = 4;
/// What was sealed lately of which it is known what it became. Who reads more slowly is told that it is gone.
const SEALED_MAX: usize = 1024;
/// So many parts that came back from the persistency tier are kept in memory: a segment's worth of bytes.
const FETCHED_MAX: usize = PARTS_PER_SEGMENT as usize;
/// Read at a time, when it is looked whether something is there.
const READ_BYTES: u64 = 1 << 20;
/// Blocks of a part are allocated so many bytes ahead.
const GROWTH: u64 = 256 << 10;
/// Room in the log that is paid for before an append: more than its record, if it has no more than a few pieces.
const RECORD_BYTES: u64 = 256;
/// A log is worth a rewrite from here on, or from a part's length if that is less.
const LOG_BYTES_MIN: u64 = 1 << 20;
const LOG_BYTES_LEAST: u64 = 64 << 10;
/// The longest record: a name and numbers, or the pieces of one append: 16 bytes for each 16 MiB of it, about.
const RECORD_BYTES_MAX: usize = 1 << 20;

#[derive(Debug, Serialize, Deserialize)]
enum Record {
    Name { bucket: BucketName, key: Key, part_bytes: u64 },
    /// Part `n` begins; it will be uploaded under this id.
    Part { n: u64, id: ObjectId },
    /// So much is durable. (Before there was `Appended`: so much was appended, and nobody can look whether it is there.)
    Committed { len: u64 },
    /// Uploaded and compared.
    Away { n: u64, location: String },
    /// It becomes this object. If the catalog has that, this one is over.
    Sealing { id: ObjectId },
    /// Like `Appended`, where the disk is encrypted: what came, in the parts from `n` on. Each piece proves itself.
    Grown { len: u64, n: u64, pieces: Vec<Piece> },
    /// Like `Away`, with the xxh3 of the part's content: what comes back is compared.
    Stored { n: u64, location: String, sum: u64 },
    /// The length that an append has led to, with the xxh3 of what came.
    Appended { len: u64, sum: u64 },
}

/// An append of which a log tells, and that may not be durable.
struct Append {
    from: u64,
    len: u64,
    /// `None`: it is in pieces.
    sum: Option<u64>,
    /// Each with the number of its part.
    pieces: Vec<(u64, Piece)>,
}

/// What one append put into a part, encrypted. Pieces lie one behind the other.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Piece {
    /// Where it begins: of the part's content, and in its file.
    start: u64,
    place: u64,
    /// Of the content, in bytes.
    len: u64,
}

enum Place {
    Here { file: Arc<File>, blocks: u64 },
    /// `sum`: of the content; parts that were uploaded before it was recorded have none.
    Away { location: String, sum: Option<u64> },
}

/// On this node, or in the persistency tier and recorded so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WherePart {
    Here,
    Away,
}

/// What a site says of something that grows there, or did.
#[derive(Clone, Debug)]
pub enum Grew {
    /// This has so many committed bytes, and these are there from the offset on.
    To { id: ObjectId, len: u64, bytes: Bytes },
    /// It was sealed, and is this object.
    Into(ObjectId),
}

struct Part {
    id: ObjectId,
    place: Place,
    /// Where the disk is encrypted.
    pieces: Vec<Piece>,
}

impl Part {
    /// Where the next piece goes.
    fn end(&self) -> u64 {
        self.pieces.last().map_or(0, |last| last.place + cipher::stored(last.len))
    }
}

struct State {
    log: Arc<File>,
    log_len: u64,
    /// Of `paid`, for the log.
    log_paid: u64,
    /// Its length when it was last rewritten; 0: much of that may have become superfluous since.
    log_was: u64,
    /// So many records were written.
    records: u64,
    parts: Vec<Part>,
    sealing: Option<ObjectId>,
    sealed: bool,
    /// The answer to a seal is missing: the catalog has it or not. Nothing is appended until somebody who opens it has asked.
    unsure: bool,
    /// It is being removed: its parts are nobody's soon.
    removing: bool,
    paid: Reservation,
}

pub(crate) struct Growing {
    id: ObjectId,
    bucket: BucketName,
    key: Key,
    part_bytes: u64,
    folder: PathBuf,
    cipher: Option<Arc<Cipher>>,
    committed: AtomicU64,
    /// For who waits for more.
    grew: Notify,
    /// One append, spill or seal at a time; taken before `synced`, and that before `state`, which is never held during a wait.
    turn: Mutex<()>,
    sound: Arc<Sound>,
    /// So many records, and the bytes that they tell of, are durable. Held during a sync.
    synced: Mutex<u64>,
    /// The log says of so many bytes that they are durable.
    durable: AtomicU64,
    state: Mutex<State>,
}

/// All that grow on this node.
pub(crate) struct Appendables {
    folder: PathBuf,
    /// What was sealed lately, and as what; the oldest first.
    sealed: Mutex<VecDeque<(ObjectId, ObjectId)>>,
    /// Parts that were brought back and looked through, for the next piece of them; the one that was used last is the last.
    fetched: Mutex<VecDeque<(ObjectId, Bytes)>>,
    all: Mutex<HashMap<(BucketName, Key), Arc<Growing>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

fn frame(record: &Record) -> Result<Vec<u8>> {
    let mut out = vec![0; 12];
    out = postcard::to_extend(record, out).map_err(|e| Error::BadValue {
        what: "record of an appendable object",
        value: e.to_string(),
        rule: "names and numbers can be written",
    })?;
    let len = (out.len() - 12) as u32;
    let sum = xxh3_64(&out[12..]);
    out[..4].copy_from_slice(&len.to_le_bytes());
    out[4..12].copy_from_slice(&sum.to_le_bytes());
    Ok(out)
}

/// The first record and its length in the log, if it is whole. `Err` of its sort: it is, and nobody here knows it.
fn unframe(bytes: &[u8]) -> Option<(Result<Record, u8>, usize)> {
    let len = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let sum = u64::from_le_bytes(bytes.get(4..12)?.try_into().ok()?);
    let body = bytes.get(12..12 + len).filter(|_| len <= RECORD_BYTES_MAX)?;
    if len == 0 || sum != xxh3_64(body) {
        return None;
    }
    Some((postcard::from_bytes(body).map_err(|_| body[0]), 12 + len))
}

impl Appendables {
    /// Takes back what grew here. What was not committed is not there.
    pub fn open(folder: &Path, tier: &Tier) -> Result<Appendables> {
        crate::private::folder(folder).map_err(file("create", folder))?;
        let mut all = HashMap::new();
        let (mut logs, mut parts) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(folder).map_err(file("list", folder))? {
            let path = entry.map_err(file("list", folder))?.path();
            let name = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.split_once('.'));
            match name.and_then(|(id, rest)| Some((id.parse::<ObjectId>().ok()?, rest.to_string()))) {
                Some((id, rest)) if rest == "log" => logs.push(id),
                Some((id, rest)) => parts.push((id, rest, path)),
                None => tracing::warn!(path = %path.display(), "not a part of an appendable object; left alone"),
            }
        }
        for id in logs {
            match Growing::reopen(folder, id, tier)? {
                Some(growing) => {
                    all.insert((growing.bucket.clone(), growing.key.clone()), Arc::new(growing));
                }
                None => {
                    // Ended before it had a name.
                    let path = folder.join(format!("{id}.log"));
                    fs::remove_file(&path).map_err(file("remove", &path))?;
                }
            }
        }
        for (id, rest, path) in parts {
            let wanted = all.values().any(|growing| growing.id == id && growing.has_here(&rest));
            if !wanted {
                fs::remove_file(&path).map_err(file("remove", &path))?;
            }
        }
        Ok(Appendables { folder: folder.into(), sealed: Mutex::default(), fetched: Mutex::default(), all: Mutex::new(all) })
    }

    fn get(&self, bucket: &BucketName, key: &Key) -> Option<Arc<Growing>> {
        lock(&self.all).get(&(bucket.clone(), key.clone())).cloned()
    }

    /// Whether this is the id of a part of what grows here, and where that is.
    pub fn part(&self, id: ObjectId) -> Option<WherePart> {
        self.every().iter().find_map(|growing| {
            let state = lock(&growing.state);
            let part = state.parts.iter().find(|part| part.id == id)?;
            Some(if matches!(part.place, Place::Away { .. }) && !state.removing { WherePart::Away } else { WherePart::Here })
        })
    }

    fn every(&self) -> Vec<Arc<Growing>> {
        lock(&self.all).values().cloned().collect()
    }

    /// Keeps in mind what has become of one, for readers that are behind.
    fn became(&self, growing: ObjectId, object: ObjectId) {
        let mut sealed = lock(&self.sealed);
        if sealed.len() == SEALED_MAX {
            sealed.pop_front();
        }
        sealed.push_back((growing, object));
    }

    fn what_became_of(&self, growing: ObjectId) -> Option<ObjectId> {
        lock(&self.sealed).iter().rev().find(|(id, _)| *id == growing).map(|(_, object)| *object)
    }

    /// `away`: its parts in the persistency tier.
    fn forget(&self, growing: &Growing, away: &[ObjectId]) {
        lock(&self.all).remove(&(growing.bucket.clone(), growing.key.clone()));
        lock(&self.fetched).retain(|(id, _)| !away.contains(id));
    }

    fn fetched(&self, id: ObjectId) -> Option<Bytes> {
        let mut fetched = lock(&self.fetched);
        let at = fetched.iter().position(|(there, _)| *there == id)?;
        let used = fetched.remove(at)?;
        fetched.push_back(used.clone());
        Some(used.1)
    }

    fn keep_fetched(&self, id: ObjectId, part: Bytes) {
        let mut fetched = lock(&self.fetched);
        if fetched.len() == FETCHED_MAX {
            fetched.pop_front();
        }
        fetched.push_back((id, part));
    }
}

impl Append {
    /// Takes its pieces for what is there.
    fn known(self, grown: &mut HashMap<u64, Vec<Piece>>) {
        self.pieces.into_iter().for_each(|(n, piece)| grown.entry(n).or_default().push(piece));
    }
}

/// Looks after a restart whether the bytes of an append have reached the disk.
struct Looked<'a> {
    folder: &'a Path,
    id: ObjectId,
    part_bytes: u64,
    cipher: Option<Arc<Cipher>>,
}

impl Looked<'_> {
    /// `away`: parts that were uploaded and compared. `part_id`: what a part is encrypted for.
    fn has(&self, append: &Append, away: impl Fn(u64) -> bool, part_id: impl Fn(u64) -> Option<ObjectId>) -> Result<bool> {
        let path = |n: u64| self.folder.join(format!("{}.{n}", self.id));
        let whole = |n: u64, read: std::io::Result<()>| match read {
            Ok(()) => Ok(true),
            // There is no such file, or it is too short, or there is something else in it.
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof | ErrorKind::InvalidData) => Ok(false),
            Err(e) => Err(file("read", &path(n))(e)),
        };
        let Some(sum) = append.sum else {
            for (n, piece) in &append.pieces {
                let read = |cipher: &Cipher, id: ObjectId| File::open(path(*n)).and_then(|part| cipher.open_piece(id, &part, piece.place, piece.len, 0..piece.len)).map(drop);
                let good = match (&self.cipher, part_id(*n)) {
                    _ if away(*n) => true,
                    (Some(cipher), Some(id)) => whole(*n, read(cipher, id))?,
                    _ => false,
                };
                if !good {
                    return Ok(false);
                }
            }
            return Ok(true);
        };
        let (mut at, end, mut hash) = (append.from, append.from + append.len, Xxh3::new());
        let mut some = vec![0; READ_BYTES.min(append.len) as usize];
        while at < end {
            let (n, start) = (at / self.part_bytes, at % self.part_bytes);
            if away(n) {
                // All that there was then was synced before it was written down that the part is away.
                return Ok(true);
            }
            let len = (end - at).min(self.part_bytes - start).min(READ_BYTES);
            let some = &mut some[..len as usize];
            if !whole(n, File::open(path(n)).and_then(|part| part.read_exact_at(some, start)))? {
                return Ok(false);
            }
            hash.update(some);
            at += len;
        }
        Ok(hash.digest() == sum)
    }
}

impl Growing {
    fn create(folder: &Path, id: ObjectId, bucket: &BucketName, key: &Key, tier: &Tier) -> Result<Growing> {
        let path = folder.join(format!("{id}.log"));
        let log = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path).map_err(file("create", &path))?;
        let part_bytes = tier.segment_bytes() / PARTS_PER_SEGMENT;
        let state = State {
            log: Arc::new(log),
            log_len: 0,
            log_paid: 0,
            log_was: 0,
            records: 0,
            parts: Vec::new(),
            sealing: None,
            unsure: false,
            removing: false,
            sealed: false,
            paid: tier.space(false).overdraw(0),
        };
        let growing = Growing {
            id,
            bucket: bucket.clone(),
            key: key.clone(),
            part_bytes,
            folder: folder.into(),
            cipher: tier.cipher(false).cloned(),
            committed: AtomicU64::new(0),
            grew: Notify::new(),
            turn: Mutex::new(()),
            sound: tier.sound().clone(),
            synced: Mutex::new(0),
            durable: AtomicU64::new(0),
            state: Mutex::new(state),
        };
        growing.record(&Record::Name { bucket: bucket.clone(), key: key.clone(), part_bytes })?;
        Ok(growing)
    }

    fn reopen(folder: &Path, id: ObjectId, tier: &Tier) -> Result<Option<Growing>> {
        let path = folder.join(format!("{id}.log"));
        let log = OpenOptions::new().read(true).write(true).open(&path).map_err(file("open", &path))?;
        let bytes = fs::read(&path).map_err(file("read", &path))?;
        let (mut at, mut records) = (0, 0);
        let mut name = None;
        let (mut ids, mut away, mut committed, mut sealing) = (HashMap::new(), HashMap::new(), 0, None);
        let mut grown: HashMap<u64, Vec<Piece>> = HashMap::new();
        // What nobody has said of that it is durable.
        let mut appends: Vec<Append> = Vec::new();
        while let Some((record, len)) = unframe(&bytes[at..]) {
            let record = record.map_err(|sort| format::newer(&path, format!("a record of sort {sort} at byte {at}, which this version does not know")))?;
            at += len;
            records += 1;
            match record {
                Record::Name { bucket, key, part_bytes } => name = Some((bucket, key, part_bytes.max(1))),
                Record::Part { n, id } => {
                    ids.insert(n, id);
                }
                Record::Committed { len } => {
                    // One that was written beside an append may know less than the append's own record.
                    let durable = appends.iter().take_while(|append| append.from + append.len <= len).count();
                    appends.drain(..durable).for_each(|append| append.known(&mut grown));
                    committed = committed.max(len);
                }
                Record::Appended { len, sum } => {
                    appends.push(Append { from: committed, len: len.saturating_sub(committed), sum: Some(sum), pieces: Vec::new() });
                    committed = committed.max(len);
                }
                Record::Away { n, location } => {
                    away.insert(n, (location, None));
                }
                Record::Stored { n, location, sum } => {
                    away.insert(n, (location, Some(sum)));
                }
                Record::Sealing { id } => sealing = Some(id),
                Record::Grown { len, n, pieces } => {
                    appends.push(Append { from: committed, len: len.saturating_sub(committed), sum: None, pieces: (n..).zip(pieces).collect() });
                    committed = committed.max(len);
                }
            }
        }
        if at < bytes.len() {
            tracing::warn!(path = %path.display(), "the last record was not written to its end; it was not acknowledged");
            log.set_len(at as u64).map_err(file("resize", &path))?;
        }
        let Some((bucket, key, part_bytes)) = name else { return Ok(None) };
        let (told, unsynced) = (committed, !appends.is_empty());
        if unsynced {
            let there = Looked { folder, id, part_bytes, cipher: tier.cipher(false).cloned() };
            committed = appends[0].from;
            for append in appends {
                if !there.has(&append, |n| away.contains_key(&n), |n| ids.get(&n).copied())? {
                    tracing::warn!(%bucket, %key, len = committed, told, "what was appended last and not synced has not reached the disk; it is cut off");
                    break;
                }
                committed = append.from + append.len;
                append.known(&mut grown);
            }
        }
        let mut parts = Vec::new();
        let mut here = 0;
        for n in 0..committed.div_ceil(part_bytes) {
            let lost = || Error::Damaged {
                bucket: bucket.to_string(),
                key: key.to_string(),
                place: "on this site".into(),
                found: format!("part {n} of the appendable object is missing"),
            };
            let part_id = *ids.get(&n).ok_or_else(lost)?;
            let mut part = Part { id: part_id, place: Place::Away { location: String::new(), sum: None }, pieces: grown.remove(&n).unwrap_or_default() };
            part.place = match away.remove(&n) {
                Some((location, sum)) => Place::Away { location, sum },
                None => {
                    let path = folder.join(format!("{id}.{n}"));
                    let opened = OpenOptions::new().read(true).write(true).open(&path).map_err(file("open", &path))?;
                    let blocks = opened.metadata().map_err(file("look up", &path))?.len();
                    let plain = tier.cipher(false).is_none();
                    if blocks < if plain { (committed - n * part_bytes).min(part_bytes) } else { part.end() } {
                        return Err(lost());
                    }
                    here += blocks;
                    Place::Here { file: Arc::new(opened), blocks }
                }
            };
            parts.push(part);
        }
        let space = tier.space(false);
        space.use_more(here);
        let log_paid = (at as u64).next_multiple_of(BLOCK);
        let state = State {
            log: Arc::new(log),
            log_len: at as u64,
            log_paid,
            log_was: 0,
            records,
            parts,
            sealing,
            sealed: false,
            unsure: sealing.is_some(),
            removing: false,
            paid: space.overdraw(here + log_paid),
        };
        let growing = Growing {
            id,
            bucket,
            key,
            part_bytes,
            folder: folder.into(),
            cipher: tier.cipher(false).cloned(),
            committed: AtomicU64::new(committed),
            grew: Notify::new(),
            turn: Mutex::new(()),
            sound: tier.sound().clone(),
            synced: Mutex::new(0),
            durable: AtomicU64::new(if unsynced { 0 } else { committed }),
            state: Mutex::new(state),
        };
        if committed < told {
            // What its log says of the rest must not be believed when other bytes have come there.
            growing.rewrite_log()?;
        } else if unsynced {
            // Nobody looks at it again.
            growing.sync()?;
        }
        Ok(Some(growing))
    }

    fn path(&self, name: impl std::fmt::Display) -> PathBuf {
        self.folder.join(format!("{}.{name}", self.id))
    }

    fn has_here(&self, n: &str) -> bool {
        let state = lock(&self.state);
        let part = n.parse::<usize>().ok().and_then(|n| state.parts.get(n));
        matches!(part, Some(Part { place: Place::Here { .. }, .. }))
    }

    fn len(&self) -> u64 {
        self.committed.load(SeqCst)
    }

    fn record(&self, record: &Record) -> Result<()> {
        let bytes = frame(record)?;
        let mut state = lock(&self.state);
        let at = state.log_len;
        state.log.write_all_at(&bytes, at).map_err(file("write", &self.path("log")))?;
        state.log_len += bytes.len() as u64;
        state.records += 1;
        // What no append has paid for: few bytes, that belong to a part or to the whole.
        if let Some(more) = state.log_len.next_multiple_of(BLOCK).checked_sub(state.log_paid) {
            state.log_paid += more;
            let to = state.paid.bytes() + more;
            state.paid.cover(to);
        }
        Ok(())
    }

    /// The log of many small appends is mostly lengths that were passed since: what still counts takes its place. Within the turn.
    fn shorten_log(&self) -> Result<()> {
        let least = self.part_bytes.clamp(LOG_BYTES_LEAST, LOG_BYTES_MIN);
        let wanted = |state: &State| state.log_len > least.max(2 * state.log_was);
        if wanted(&lock(&self.state)) { self.rewrite_log() } else { Ok(()) }
    }

    fn rewrite_log(&self) -> Result<()> {
        let mut synced = lock(&self.synced);
        // The new log will be durable with all that it tells of, so that has to be there first.
        self.sync_parts()?;
        let log = self.log_now()?;
        let (path, temp) = (self.path("log"), self.path("new"));
        let mut new = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&temp).map_err(file("create", &temp))?;
        new.write_all(&log).map_err(file("write", &temp))?;
        self.sound.sync(&new, &temp)?;
        fs::rename(&temp, &path).map_err(file("rename", &temp))?;
        let covered = {
            let mut state = lock(&self.state);
            (state.log, state.log_len, state.log_was) = (Arc::new(new), log.len() as u64, log.len() as u64);
            let less = state.log_paid.saturating_sub(state.log_len.next_multiple_of(BLOCK));
            state.log_paid -= less;
            let to = state.paid.bytes() - less;
            state.paid.shrink(to);
            state.records
        };
        self.sound.sync_folder(&self.folder)?;
        self.durable.store(self.len(), SeqCst);
        *synced = covered;
        Ok(())
    }

    /// The records of what is so now, and durable.
    fn log_now(&self) -> Result<Vec<u8>> {
        let state = lock(&self.state);
        let len = self.len();
        let mut out = frame(&Record::Name { bucket: self.bucket.clone(), key: self.key.clone(), part_bytes: self.part_bytes })?;
        for (n, part) in (0..).zip(&state.parts) {
            out.extend(frame(&Record::Part { n, id: part.id })?);
            match &part.place {
                Place::Here { .. } => {
                    for piece in &part.pieces {
                        out.extend(frame(&Record::Grown { len, n, pieces: vec![*piece] })?);
                    }
                }
                Place::Away { location, sum: Some(sum) } => out.extend(frame(&Record::Stored { n, location: location.clone(), sum: *sum })?),
                Place::Away { location, sum: None } => out.extend(frame(&Record::Away { n, location: location.clone() })?),
            }
        }
        if let Some(id) = state.sealing {
            out.extend(frame(&Record::Sealing { id })?);
        }
        out.extend(frame(&Record::Committed { len })?);
        Ok(out)
    }

    /// The file and id of part `n`, with blocks for its bytes up to `end`, paid for. The first error is a refusal for lack of room.
    fn prepare(&self, tier: &Tier, n: u64, end: u64) -> Result<(Arc<File>, ObjectId), Refused> {
        let mut state = lock(&self.state);
        if n as usize == state.parts.len() {
            drop(state);
            let id = tier.new_id();
            self.record(&Record::Part { n, id })?;
            let path = self.path(n);
            let made = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path);
            let place = Place::Here { file: Arc::new(made.map_err(file("create", &path))?), blocks: 0 };
            state = lock(&self.state);
            state.parts.push(Part { id, place, pieces: Vec::new() });
        }
        let State { parts, paid, log_len, log_paid, .. } = &mut *state;
        let log = (*log_len + RECORD_BYTES).next_multiple_of(BLOCK);
        if log > *log_paid {
            paid.grow(paid.bytes() + (log - *log_paid))?;
            *log_paid = log;
        }
        let Part { id, place, .. } = &mut parts[n as usize];
        let Place::Here { file: part, blocks } = place else {
            unreachable!("only full parts are away, and appends go behind them")
        };
        if end > *blocks {
            let to = end.next_multiple_of(GROWTH).min(self.part_bytes.max(end));
            paid.grow(paid.bytes() + (to - *blocks))?;
            tier.space(false).use_more(to - *blocks);
            if let Err(e) = allocate(part, *blocks, to) {
                let charge = paid.bytes() - (to - *blocks);
                paid.shrink(charge);
                tier.space(false).use_less(to - *blocks);
                return Err(file("allocate", &self.path(n))(e).into());
            }
            *blocks = to;
        }
        Ok((part.clone(), *id))
    }

    /// Committed bytes of a part, if it is here.
    fn read_here(&self, n: u64, range: std::ops::Range<u64>) -> Result<Option<Vec<u8>>> {
        let (part, id, pieces) = match lock(&self.state).parts.get(n as usize) {
            Some(Part { id, place: Place::Here { file, .. }, pieces }) => (file.clone(), *id, pieces.clone()),
            _ => return Ok(None),
        };
        let read = || -> std::io::Result<Vec<u8>> {
            let Some(cipher) = &self.cipher else {
                let mut content = vec![0; (range.end - range.start) as usize];
                part.read_exact_at(&mut content, range.start)?;
                return Ok(content);
            };
            let mut content = Vec::with_capacity((range.end - range.start) as usize);
            let first = pieces.partition_point(|piece| piece.start + piece.len <= range.start);
            for piece in pieces[first..].iter().take_while(|piece| piece.start < range.end) {
                let wanted = range.start.max(piece.start) - piece.start..range.end.min(piece.start + piece.len) - piece.start;
                content.extend(cipher.open_piece(id, &part, piece.place, piece.len, wanted)?);
            }
            Ok(content)
        };
        match read() {
            Ok(content) if content.len() as u64 == range.end - range.start => Ok(Some(content)),
            Ok(content) => Err(self.damaged(n, format!("{} bytes of {} are there", content.len(), range.end - range.start))),
            Err(e) if e.kind() == ErrorKind::InvalidData => Err(self.damaged(n, e.to_string())),
            Err(e) => Err(file("read", &self.path(n))(e)),
        }
    }

    fn damaged(&self, n: u64, found: String) -> Error {
        let (bucket, key) = (self.bucket.to_string(), self.key.to_string());
        Error::Damaged { bucket, key, place: "on this site".into(), found: format!("part {n} of the appendable object: {found}") }
    }

    /// Where the bytes from `offset` on lie: (part, offset in it, bytes of it).
    fn piece(&self, offset: u64, len: u64) -> (u64, u64, u64) {
        let (n, at) = (offset / self.part_bytes, offset % self.part_bytes);
        (n, at, len.min(self.part_bytes - at))
    }

    /// One at a time: of two that sync the same file only one hears of a failure. Who waited has mostly nothing left to do.
    fn sync(&self) -> Result<()> {
        let mine = lock(&self.state).records;
        let mut synced = lock(&self.synced);
        if *synced >= mine {
            return Ok(());
        }
        let (mut covered, log, len) = {
            let state = lock(&self.state);
            (state.records, state.log.clone(), self.len())
        };
        self.sync_parts()?;
        if self.durable.swap(len, SeqCst) < len {
            self.record(&Record::Committed { len })?;
            // If nothing else was written meanwhile, there is nothing left to do.
            covered += u64::from(lock(&self.state).records == covered + 1);
        }
        self.sound.sync(&log, &self.path("log"))?;
        self.sound.sync_folder(&self.folder)?;
        *synced = covered;
        Ok(())
    }

    fn sync_parts(&self) -> Result<()> {
        let files: Vec<(u64, Arc<File>)> = (0..)
            .zip(&lock(&self.state).parts)
            .filter_map(|(n, part)| match &part.place {
                Place::Here { file, .. } => Some((n, file.clone())),
                Place::Away { .. } => None,
            })
            .collect();
        files.iter().try_for_each(|(n, part)| self.sound.sync(part, &self.path(n)))
    }

    /// Lets go of the file of a part, which `Record::Stored` has been written for.
    fn free_part(&self, tier: &Tier, n: usize, location: String, sum: u64) -> Result<u64> {
        let path = self.path(n);
        let mut state = lock(&self.state);
        let State { parts, paid, log_was, .. } = &mut *state;
        let Place::Here { blocks, .. } = parts[n].place else { return Ok(0) };
        parts[n].place = Place::Away { location, sum: Some(sum) };
        // Nobody asks any more where its pieces lie, and the log need not tell.
        parts[n].pieces = Vec::new();
        *log_was = 0;
        fs::remove_file(&path).map_err(file("remove", &path))?;
        paid.shrink(paid.bytes() - blocks);
        tier.space(false).use_less(blocks);
        Ok(blocks)
    }

    /// The parts that lie in the persistency tier.
    fn away(&self) -> Vec<ObjectId> {
        let state = lock(&self.state);
        state.parts.iter().filter(|part| matches!(part.place, Place::Away { .. })).map(|part| part.id).collect()
    }

    /// Removes the files.
    fn remove(&self, tier: &Tier) -> Result<()> {
        let mut state = lock(&self.state);
        state.sealed = true;
        // The log last: without it nobody finds the parts, and the next start removes them.
        let log = self.path("log");
        fs::remove_file(&log).map_err(file("remove", &log))?;
        let mut here = 0;
        for (n, part) in std::mem::take(&mut state.parts).into_iter().enumerate() {
            if let Place::Here { blocks, .. } = part.place {
                here += blocks;
                let path = self.path(n);
                fs::remove_file(&path).map_err(file("remove", &path))?;
            }
        }
        state.paid.shrink(0);
        tier.space(false).use_less(here);
        Ok(())
    }
}

/// An object that grows. Cheap to clone; all clones are the same object.
#[derive(Clone)]
pub struct Appendable {
    inner: Arc<Inner>,
    growing: Arc<Growing>,
}

impl Node {
    /// What grows under this key on this node; `None`: nothing does.
    pub async fn growing(&self, bucket: &BucketName, key: &Key) -> Result<Option<Appendable>> {
        let inner = self.inner.clone();
        let Some(growing) = inner.appendables.get(bucket, key) else { return Ok(None) };
        let (was, unsure) = {
            let state = lock(&growing.state);
            (state.sealing, state.unsure)
        };
        let sealed = match was {
            // Under way when the process ended, or without an answer. What was not done by now must not be done when more has been appended.
            Some(id) if unsure => inner.was_sealed(id).await?,
            Some(id) => inner.catalog.find(id).await?.is_some(),
            None => false,
        };
        match was {
            Some(id) if sealed => {
                Appendable { inner, growing }.became(id).await?;
                Ok(None)
            }
            _ => {
                let mut state = lock(&growing.state);
                if std::mem::take(&mut state.unsure) {
                    (state.sealing, state.sealed) = (None, false);
                }
                drop(state);
                Ok(Some(Appendable { inner, growing }))
            }
        }
    }

    /// What grows on this node at a prefix (`foo` means `foo` and `foo/…`, never `foobar`), with its committed length, in the order of the keys from after `start_after`: [`PAGE_MAX`] at most.
    pub fn list_growing(&self, bucket: &BucketName, prefix: &str, start_after: &str) -> Result<Vec<(Key, u64)>> {
        let wanted = Prefix::new(prefix)?;
        let all = self.inner.appendables.every().into_iter();
        let mut found: Vec<(Key, u64)> = all
            .filter(|growing| growing.bucket == *bucket && wanted.contains(growing.key.as_str()) && growing.key.as_str() > start_after)
            .map(|growing| (growing.key.clone(), growing.len()))
            .collect();
        found.sort_unstable();
        found.truncate(PAGE_MAX as usize);
        Ok(found)
    }

    /// Opens what grows under this key on this node, or begins it. Fails with `FailedPrecondition` if the key has a sealed object.
    pub async fn appendable(&self, bucket: &BucketName, key: &Key) -> Result<Appendable> {
        match self.growing(bucket, key).await? {
            Some(growing) => Ok(growing),
            None => self.begin(bucket, key, false).await,
        }
    }

    /// Begins what is to grow under this key. Fails with `AlreadyExists` if something grows there on this node, or the key has a sealed object.
    pub async fn appendable_new(&self, bucket: &BucketName, key: &Key) -> Result<Appendable> {
        let exists = || Error::Exists { bucket: bucket.to_string(), key: key.to_string() };
        if self.growing(bucket, key).await?.is_some() {
            return Err(exists());
        }
        match self.begin(bucket, key, true).await {
            Err(Error::SealedAlready { .. }) => Err(exists()),
            answer => answer,
        }
    }

    async fn begin(&self, bucket: &BucketName, key: &Key, new: bool) -> Result<Appendable> {
        let inner = self.inner.clone();
        match self.stat(bucket, key).await {
            Ok(_) => return Err(Error::SealedAlready { bucket: bucket.to_string(), key: key.to_string() }),
            Err(e) if e.kind() == Kind::NotFound => {}
            Err(e) => return Err(e),
        }
        // Says that the bucket is missing, if it is.
        self.create(bucket, key).await?.abort();
        let (bucket, key) = (bucket.clone(), key.clone());
        compute(move || {
            let mut all = lock(&inner.appendables.all);
            // Begun by another meanwhile.
            if let Some(growing) = all.get(&(bucket.clone(), key.clone())).cloned() {
                let (bucket, key) = (bucket.to_string(), key.to_string());
                return if new { Err(Error::Exists { bucket, key }) } else { Ok(Appendable { inner: inner.clone(), growing }) };
            }
            let id = inner.tier.new_id();
            let growing = Arc::new(Growing::create(&inner.appendables.folder, id, &bucket, &key, &inner.tier)?);
            all.insert((bucket, key), growing.clone());
            drop(all);
            Ok(Appendable { inner: inner.clone(), growing })
        })
        .await?
    }
}

impl Appendable {
    pub fn bucket(&self) -> &BucketName {
        &self.growing.bucket
    }
    pub fn key(&self) -> &Key {
        &self.growing.key
    }
    pub(crate) fn id(&self) -> ObjectId {
        self.growing.id
    }

    /// Committed bytes; what is below is there to be read and never changes.
    pub fn len(&self) -> u64 {
        self.growing.len()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn sealed(&self) -> Error {
        Error::SealedAlready { bucket: self.growing.bucket.to_string(), key: self.growing.key.to_string() }
    }

    /// Appends at `offset`, which must be the length: else [`Error::WrongOffset`] tells it and nothing is changed. Returns the new length. All of
    /// `data` is there or nothing of it, after a kill too. Blocks: for the disk, and for room as a [`Writer`] does.
    pub fn append_blocking(&self, offset: u64, data: &[u8]) -> Result<u64> {
        let growing = &self.growing;
        let _turn = lock(&growing.turn);
        if lock(&growing.state).sealed {
            return Err(self.sealed());
        }
        growing.sound.check()?;
        growing.shorten_log()?;
        let length = growing.len();
        if offset != length {
            let (bucket, key) = (growing.bucket.to_string(), growing.key.to_string());
            return Err(Error::WrongOffset { bucket, key, offset, length });
        }
        let mut at = length;
        let mut rest = data;
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let (n, start, len) = growing.piece(at, rest.len() as u64);
            let (piece, later) = rest.split_at(len as usize);
            match &growing.cipher {
                None => {
                    let (part, _) = self.room(n, start + len)?;
                    part.write_all_at(piece, start).map_err(file("write", &growing.path(n)))?;
                }
                Some(cipher) => {
                    let place = lock(&growing.state).parts.get(n as usize).map_or(0, Part::end);
                    let (part, id) = self.room(n, place + cipher::stored(len))?;
                    let sealed = cipher.seal_piece(id, place, piece)?;
                    part.write_all_at(&sealed, place).map_err(file("write", &growing.path(n)))?;
                    pieces.push(Piece { start, place, len });
                }
            }
            rest = later;
            at += len;
        }
        if at > length {
            let (n, _, _) = growing.piece(length, 1);
            match growing.cipher {
                None => growing.record(&Record::Appended { len: at, sum: xxh3_64(data) })?,
                Some(_) => {
                    growing.record(&Record::Grown { len: at, n, pieces: pieces.clone() })?;
                    let parts = &mut lock(&growing.state).parts;
                    parts[n as usize..].iter_mut().zip(pieces).for_each(|(part, piece)| part.pieces.push(piece));
                }
            }
            growing.committed.store(at, SeqCst);
            growing.grew.notify_waiters();
        }
        self.inner.watch_level(false);
        Ok(at)
    }

    fn room(&self, n: u64, end: u64) -> Result<(Arc<File>, ObjectId)> {
        let inner = &self.inner;
        let mut deadline = None;
        loop {
            let refused = match self.growing.prepare(&inner.tier, n, end) {
                Ok(part) => return Ok(part),
                Err(refused) => refused,
            };
            let missing = match &refused {
                Refused::Full(full) => Some(full.wanted.max(1)),
                Refused::Error(_) => None,
            };
            if let Some(missing) = missing {
                inner.make_way_for(false, missing);
                if let Ok(part) = self.growing.prepare(&inner.tier, n, end) {
                    return Ok(part);
                }
                inner.spiller.want(false, missing);
            }
            if missing.is_none() {
                return Err(inner.refused(&self.growing.bucket, &self.growing.key, false, refused));
            }
            let counted = inner.counted(&self.growing.bucket);
            let end_of_wait = *deadline.get_or_insert_with(|| {
                add(&counted.here(false).waited, 1);
                Instant::now() + inner.tuning.wait
            });
            let began = Instant::now();
            let came = inner.tier.space(false).wait(end_of_wait);
            counted.here(false).wait.add(began.elapsed());
            if !came {
                return Err(inner.refused(&self.growing.bucket, &self.growing.key, false, refused));
            }
        }
    }

    /// [`Appendable::append_blocking`] for a task.
    pub async fn append(&self, offset: u64, data: Bytes) -> Result<u64> {
        let this = self.clone();
        compute(move || this.append_blocking(offset, &data)).await?
    }

    /// What was appended before this call survives a power cut when it returns.
    pub async fn sync(&self) -> Result<()> {
        let growing = self.growing.clone();
        compute(move || growing.sync()).await?
    }

    /// Bytes from `offset` on; fewer than `len` only at the committed end, and none behind it. What was spilled comes from the persistency tier.
    pub async fn read(&self, offset: u64, len: u64) -> Result<Bytes> {
        let growing = &self.growing;
        let end = offset.saturating_add(len).min(growing.len());
        let mut out = Vec::with_capacity(end.saturating_sub(offset).min(growing.part_bytes) as usize);
        let mut at = offset;
        while at < end {
            let (n, start, len) = growing.piece(at, end - at);
            let away = match lock(&growing.state).parts.get(n as usize).map(|part| (part.id, &part.place)) {
                Some((_, Place::Here { .. })) => None,
                Some((id, Place::Away { location, sum })) => Some((id, location.clone(), *sum)),
                None => return Err(self.sealed()),
            };
            match away {
                None => {
                    let growing = growing.clone();
                    match compute(move || growing.read_here(n, start..start + len)).await?? {
                        Some(piece) => out.extend_from_slice(&piece),
                        // It went meanwhile.
                        None => continue,
                    }
                }
                Some((id, location, sum)) => {
                    let part = self.fetch(n, id, &location, sum, len == growing.part_bytes).await?;
                    let piece = part.get(start as usize..(start + len) as usize);
                    let piece = piece.ok_or_else(|| self.damaged_there(format!("part {n} has {} bytes of {}", part.len(), growing.part_bytes)))?;
                    out.extend_from_slice(piece);
                }
            }
            at += len;
        }
        Ok(out.into())
    }

    /// A part from the persistency tier, compared as a whole. Who reads in pieces would bring it back for each of them, so it is kept, except for who reads all of it at once.
    async fn fetch(&self, n: u64, id: ObjectId, location: &str, sum: Option<u64>, once: bool) -> Result<Bytes> {
        let appendables = &self.inner.appendables;
        if let Some(part) = appendables.fetched(id) {
            return Ok(part);
        }
        // Many readers bring it back once.
        let turn = self.inner.turn(id);
        let _turn = turn.lock().await;
        if let Some(part) = appendables.fetched(id) {
            return Ok(part);
        }
        let stream = self.persist()?.get(location).await?;
        let part = stream.try_fold(Vec::new(), async |mut part, chunk| {
            part.extend_from_slice(&chunk);
            Ok(part)
        });
        let part = Bytes::from(part.await?);
        let found = xxh3_64(&part);
        if sum.is_some_and(|sum| sum != found) {
            return Err(self.damaged_there(format!("part {n} has {} bytes with checksum {found:016x}", part.len())));
        }
        if !once {
            appendables.keep_fetched(id, part.clone());
        }
        Ok(part)
    }

    fn damaged_there(&self, found: String) -> Error {
        let place = self.inner.persist.as_ref().map_or_else(String::new, |persist| format!("in {persist}, or on its way from there"));
        Error::Damaged { bucket: self.growing.bucket.to_string(), key: self.growing.key.to_string(), place, found }
    }

    fn persist(&self) -> Result<Persist> {
        self.inner.persist.clone().ok_or_else(|| Error::NoPersist { bucket: self.growing.bucket.to_string() })
    }

    /// Moves the full parts to the persistency tier; the last one stays and goes on growing. Returns the bytes that left this node.
    pub async fn spill_head(&self) -> Result<u64> {
        let persist = self.persist()?;
        let growing = &self.growing;
        let mut freed = 0;
        for n in 0..(growing.len() / growing.part_bytes) as usize {
            let Some(id) = lock(&growing.state).parts.get(n).map(|part| part.id) else { continue };
            let reader = growing.clone();
            let Some(content) = compute(move || reader.read_here(n as u64, 0..reader.part_bytes)).await?? else { continue };
            let sum = xxh3_64(&content);
            // The id is the part's own, so a second try after a crash writes the same bytes to the same place. Nobody looks after what it may have left there meanwhile.
            let turn = self.inner.turn(id);
            let _turn = turn.lock().await;
            let marking = self.inner.clone();
            compute(move || marking.begun.begin(id)).await??;
            let upload = Upload { bucket: &growing.bucket, key: &growing.key, id, content: content.into(), checksum: sum, source: Source::Disk };
            let location = self.inner.put_within(&persist, upload, &self.inner.spiller.pace).await?;
            let (growing, inner) = (growing.clone(), self.inner.clone());
            let done = compute(move || {
                let _turn = lock(&growing.turn);
                if lock(&growing.state).sealed {
                    return Ok(0);
                }
                // Before: of what is elsewhere nobody can look here whether it is whole.
                growing.sync()?;
                growing.record(&Record::Stored { n: n as u64, location: location.clone(), sum })?;
                growing.sync()?;
                inner.begun.end(id);
                growing.free_part(&inner.tier, n, location, sum)
            });
            freed += done.await??;
        }
        Ok(freed)
    }

    /// Ends the growth: all of it becomes an ordinary object under the key, durable and visible everywhere. Appends from now on fail. Needs room for a copy of the whole.
    /// On an error it goes on as it was, unless the object is there and something else that was owed has failed (its upload, its second copy); or the answer is missing: then it has to be opened again.
    pub async fn seal(&self) -> Result<ObjectMeta> {
        let whole = self.clone();
        // A task of its own, so that a caller who stops waiting doesn't stop it half-way.
        joined(tokio::spawn(async move { whole.seal_to_the_end().await }.in_current_span()).await)?
    }

    async fn seal_to_the_end(&self) -> Result<ObjectMeta> {
        let growing = &self.growing;
        if std::mem::replace(&mut lock(&growing.state).sealed, true) {
            return Err(self.sealed());
        }
        let writer = match self.copy().await {
            Ok(writer) => writer,
            Err(e) => {
                lock(&growing.state).sealed = false;
                return Err(e);
            }
        };
        let id = writer.id();
        let done = writer.seal().await;
        match &done {
            Ok(_) => self.became(id).await?,
            Err(error) => match self.inner.catalog.find(id).await {
                // Appending to it would write what nobody ever sees.
                Ok(Some(_)) => self.became(id).await?,
                Ok(None) if !error.is_uncertain() => lock(&growing.state).sealed = false,
                // Asked late, it may be done yet.
                _ => lock(&growing.state).unsure = true,
            },
        }
        done
    }

    /// All of it in a writer of its own.
    async fn copy(&self) -> Result<Writer> {
        let (inner, growing) = (&self.inner, &self.growing);
        // An append that began before has ended, and none begins.
        let (waited, id) = (growing.clone(), inner.tier.new_id());
        compute(move || {
            drop(lock(&waited.turn));
            lock(&waited.state).sealing = Some(id);
            waited.record(&Record::Sealing { id })
        })
        .await??;
        let draft = inner.tier.create(id, false);
        let (bucket, key) = (growing.bucket.clone(), growing.key.clone());
        let mut writer = Writer { inner: inner.clone(), bucket, key, if_absent: true, carried: Carried::default(), draft };
        writer.room(growing.len()).await?;
        let mut at = 0;
        while at < growing.len() {
            let (_, _, len) = growing.piece(at, growing.len() - at);
            let piece = self.read(at, len).await?;
            at += len;
            let write = move || writer.write_at(writer.len(), &piece).map(|()| writer);
            writer = compute(write).await??;
        }
        Ok(writer)
    }

    /// It is this object from now on; what it was made of goes.
    async fn became(&self, id: ObjectId) -> Result<()> {
        self.inner.appendables.became(self.growing.id, id);
        self.discard().await
    }

    /// Removes it with everything that it left in the persistency tier.
    pub async fn discard(&self) -> Result<()> {
        let (growing, inner) = (self.growing.clone(), self.inner.clone());
        let removed = compute(move || {
            let _turn = lock(&growing.turn);
            // Before the log is gone, which alone knows of them: a crash in between leaves the marks.
            lock(&growing.state).removing = true;
            let away = growing.away();
            away.iter().try_for_each(|id| inner.begun.begin(*id))?;
            growing.remove(&inner.tier)?;
            inner.appendables.forget(&growing, &away);
            growing.grew.notify_waiters();
            Ok::<_, Error>(())
        });
        removed.await??;
        if let Some(persist) = &self.inner.persist {
            if let Err(error) = self.inner.collect_begun(persist).await {
                tracing::debug!(%error, "parts of a removed object stay in the persistency tier for now");
            }
        }
        Ok(())
    }
}

impl Inner {
    /// Reads of what grows here, for who has not begun it; `id`: of this and no other. Waits for the first byte behind `offset`, at most so long.
    pub(crate) async fn grown(self: &Arc<Self>, bucket: &BucketName, key: &Key, id: Option<ObjectId>, offset: u64, len: u64, wait: Duration) -> Result<Grew> {
        let over = || match id.and_then(|id| self.appendables.what_became_of(id)) {
            Some(object) => Ok(Grew::Into(object)),
            None => Err(Error::NotFound { bucket: bucket.to_string(), key: key.to_string() }),
        };
        let Some(growing) = self.appendables.get(bucket, key).filter(|growing| id.is_none_or(|id| id == growing.id)) else { return over() };
        let mut grew = std::pin::pin!(growing.grew.notified());
        // From here on none is missed.
        grew.as_mut().enable();
        if growing.len() <= offset && !wait.is_zero() {
            let _ = tokio::time::timeout(wait, grew).await; // what is there then is told
        }
        match (Appendable { inner: self.clone(), growing: growing.clone() }).read(offset, len).await {
            Ok(bytes) => Ok(Grew::To { id: growing.id, len: growing.len(), bytes }),
            // Its parts went in the middle of it.
            Err(Error::SealedAlready { .. }) => over(),
            Err(e) => Err(e),
        }
    }

    /// All that grow here.
    pub(crate) fn growing(self: &Arc<Self>) -> Vec<Appendable> {
        self.appendables.every().into_iter().map(|growing| Appendable { inner: self.clone(), growing }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::at_sync;

    fn growing(folder: &Path) -> (Arc<Tier>, Growing) {
        let tier = Tier::open(folder, 4 << 20, None).unwrap();
        fs::create_dir_all(folder.join("append")).unwrap();
        let (bucket, key) = (BucketName::new("b").unwrap(), Key::new("k").unwrap());
        let growing = Growing::create(&folder.join("append"), tier.new_id(), &bucket, &key, &tier).unwrap();
        (tier, growing)
    }

    fn append(tier: &Tier, growing: &Growing, data: &[u8]) {
        let at = growing.len();
        let (n, start, len) = growing.piece(at, data.len() as u64);
        assert_eq!(len, data.len() as u64, "in one part");
        let (part, _) = growing.prepare(tier, n, start + len).unwrap();
        part.write_all_at(data, start).unwrap();
        growing.record(&Record::Appended { len: at + len, sum: xxh3_64(data) }).unwrap();
        growing.committed.store(at + len, SeqCst);
    }

    #[test]
    fn a_sync_after_one_that_failed_does_not_say_yes() {
        let temp = tempfile::tempdir().unwrap();
        let (tier, growing) = growing(temp.path());
        append(&tier, &growing, b"durable");
        growing.sync().unwrap();
        append(&tier, &growing, b" lost");
        at_sync(|_| Err(std::io::Error::from_raw_os_error(libc::EIO)));
        assert!(growing.sync().is_err());
        // From here on the system finds nothing to complain of.
        at_sync(|_| Ok(()));
        let error = growing.sync().unwrap_err().to_string();
        assert!(error.contains("started again"), "{error}");
        assert!(tier.sound().check().is_err(), "objects lie on the same disk");
    }
}
