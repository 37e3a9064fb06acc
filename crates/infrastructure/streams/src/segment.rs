//! Segments, and what the log's records do to them. No input or output: decisions read the state, [`State::apply`] changes it, and
//! [`State::land`] adds what became durable.
//!
//! A segment has two ends: `length`, up to which appends were decided, and `durable`, up to which readers may read. In between, bytes are on
//! their way to the disk. The same holds for its end of life: `sealed`, `deleted` are decided, `ended` has landed.
//!
//! Bytes are found by *extents*, in the order of their offsets: so many bytes with this checksum lie there. Splicing a segment into another moves
//! extents and no bytes.

use crate::{
    Error, Result,
    catalog::{self, Catalog},
    log::{self, FileNo, Place, Seq},
    table::{self, Table},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};
use tokio::sync::Notify;

/// What an attribute has when it was never set.
pub const NO_VALUE: i64 = i64::MIN;

/// The longest extent: what a reader has to read to check any byte of it.
pub const EXTENT_BYTES: usize = 256 << 10;

/// Number of a segment, never used again; names are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SegmentId(pub u64);

/// Number of a chunk in long-term storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChunkId(pub u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    Log(Place),
    Chunk(ChunkId, u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Offset in the segment.
    pub start: u64,
    pub len: u32,
    pub crc: u32,
    /// An append ends here: what lies before can stand without what comes after.
    pub whole: bool,
    pub source: Source,
}

impl Extent {
    pub fn end(&self) -> u64 {
        self.start + u64::from(self.len)
    }

    /// Its bytes, if only the log has them.
    pub fn in_log(&self) -> u64 {
        if matches!(self.source, Source::Log(_)) { self.len.into() } else { 0 }
    }
}

/// A part of an append that becomes an extent: length and checksum.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Piece {
    pub len: u32,
    pub crc: u32,
}

/// Cuts an append's bytes into pieces.
pub fn pieces(data: &[u8]) -> Vec<Piece> {
    data.chunks(EXTENT_BYTES).map(|c| Piece { len: c.len() as u32, crc: log::crc32c(c) }).collect()
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Chunk {
    /// What `geds::Persist` calls it.
    pub location: String,
    pub bytes: u32,
    pub segment: SegmentId,
    /// Who reads from it has a clone of this, and as long as one lives it is not removed.
    #[serde(skip)]
    held: Arc<()>,
}

impl Chunk {
    pub(crate) fn new(location: String, bytes: u32, segment: SegmentId) -> Chunk {
        Chunk { location, bytes, segment, held: Arc::default() }
    }

    /// Someone reads from it.
    pub fn is_held(&self) -> bool {
        Arc::strong_count(&self.held) > 1
    }
}

/// One change, as the log has it. It was decided; applying it can't fail.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Record {
    Create { id: SegmentId, name: String, table: bool, at_ms: u64 },
    Append { id: SegmentId, writer: u128, event: i64, at_ms: u64, pieces: Vec<Piece> },
    Seal { id: SegmentId },
    Truncate { id: SegmentId, start: u64 },
    Delete { id: SegmentId },
    /// The source's bytes become the target's last ones, and the source is gone.
    Merge { source: SegmentId, target: SegmentId },
    Attribute { id: SegmentId, key: u128, value: i64 },
    Table { id: SegmentId, changes: Vec<table::Change> },
    Catalog(Box<catalog::Change>),
    /// A chunk has the bytes that begin at `start`, in these pieces.
    Flushed { chunk: ChunkId, id: SegmentId, location: String, start: u64, pieces: Vec<Piece> },
    /// The chunk's object was removed from long-term storage.
    ChunkGone { chunk: ChunkId },
    /// All of them or none.
    Many(Vec<Record>),
    /// A chunk's bytes are now found there.
    Moved { chunk: ChunkId, location: String },
}

/// What is left to do when a record has landed.
#[derive(Clone, Debug)]
pub enum Physical {
    Nothing,
    /// `arrived` is when the process had its bytes.
    Append { id: SegmentId, pieces: Vec<Piece>, arrived: Instant },
    Seal(SegmentId),
    Truncate(SegmentId, u64),
    Delete(SegmentId),
    Merge { source: SegmentId, target: SegmentId },
    Flushed { chunk: ChunkId, id: SegmentId, start: u64, pieces: Vec<Piece> },
    ChunkGone(ChunkId),
    Many(Vec<Physical>),
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Segment {
    pub name: String,
    pub start: u64,
    pub length: u64,
    pub sealed: bool,
    pub deleted: bool,
    pub modified_ms: u64,
    /// What clients have set; in what comes from the first versions also writers' last event numbers.
    pub attributes: HashMap<u128, i64>,
    pub table: Option<Table>,
    /// A checkpoint has it behind the rest.
    #[serde(skip)]
    pub writers: Writers,
    #[serde(skip)]
    pub landed: Landed,
    /// What was appended since the start of the process.
    #[serde(skip)]
    pub load: Load,
    /// The last block with a change of this segment alone.
    #[serde(skip)]
    changed: Seq,
}

/// The last event number of each writer of a segment, of those that wrote last: in two generations. Who writes is in the young one; when that is full, the
/// old one is forgotten and the young one becomes old. So one is forgotten when a whole generation of others has written since, and comes back as a new one.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Writers {
    young: HashMap<u128, i64>,
    old: HashMap<u128, i64>,
}

/// Writers of a generation; each takes about 50 bytes.
const GENERATION_MAX: usize = 50_000;
/// From so many remembered ones in all segments on, each has its share of as many for a generation.
const WRITERS_MANY: usize = 1_000_000;
/// So many a segment remembers however many segments there are.
const GENERATION_MIN: usize = 10;

/// How many writers a generation has in each of so many segments, which remember so many in all.
fn generation(segments: usize, remembered: usize) -> usize {
    match remembered < WRITERS_MANY {
        true => GENERATION_MAX,
        false => (WRITERS_MANY / segments.max(1)).clamp(GENERATION_MIN, GENERATION_MAX),
    }
}

impl Writers {
    fn get(&self, writer: u128) -> Option<i64> {
        self.young.get(&writer).or_else(|| self.old.get(&writer)).copied()
    }

    fn note(&mut self, writer: u128, event: i64, generation: usize) {
        if self.young.insert(writer, event).is_none() {
            self.old.remove(&writer);
            if self.young.len() >= generation {
                self.old = std::mem::take(&mut self.young);
            }
        }
    }

    fn forget(&mut self, writer: u128) {
        self.young.remove(&writer);
        self.old.remove(&writer);
    }

    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    pub events: u64,
    pub bytes: u64,
}

/// The durable side of a segment.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Landed {
    pub start: u64,
    pub durable: u64,
    pub ended: bool,
    /// Long-term storage has the bytes before this offset.
    pub flushed: u64,
    /// Bytes that only the log has.
    pub unflushed: u64,
    pub extents: VecDeque<Extent>,
    /// What the newest block with bytes of this segment brought.
    #[serde(skip)]
    pub fresh: Option<Fresh>,
    #[serde(skip)]
    pub waiting: Arc<Notify>,
}

/// Where a block's bytes begin in a segment, and when the first of them arrived.
#[derive(Clone, Copy, Debug)]
pub struct Fresh {
    /// The block before.
    after: Seq,
    pub start: u64,
    pub arrived: Instant,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct State {
    pub segments: BTreeMap<SegmentId, Segment>,
    pub names: HashMap<String, SegmentId>,
    next_segment: u64,
    pub next_chunk: u64,
    pub chunks: BTreeMap<ChunkId, Chunk>,
    pub catalog: Catalog,
    /// Keys and values of all tables, bytes.
    pub table_bytes: u64,
    #[serde(skip)]
    pub live: Live,
}

/// What is counted beside the durable side of segments.
#[derive(Debug, Default)]
pub struct Live {
    /// The last block that landed.
    pub landed: Seq,
    /// Bytes of each file of the log that extents point to.
    pub files: BTreeMap<FileNo, u64>,
    /// Bytes of each chunk that extents point to.
    pub chunk_bytes: BTreeMap<ChunkId, u64>,
    /// Bytes that only the log has.
    pub unflushed: u64,
    /// Entries of all tables.
    pub table_entries: u64,
    /// Writers that segments remember.
    writers: usize,
    /// The last block with a change of the catalog, or of which segments there are.
    decided: Seq,
}

impl Record {
    pub fn physical(&self) -> Physical {
        match self {
            Record::Append { id, pieces, .. } => Physical::Append { id: *id, pieces: pieces.clone(), arrived: Instant::now() },
            Record::Seal { id } => Physical::Seal(*id),
            Record::Truncate { id, start } => Physical::Truncate(*id, *start),
            Record::Delete { id } => Physical::Delete(*id),
            Record::Merge { source, target } => Physical::Merge { source: *source, target: *target },
            Record::Flushed { chunk, id, start, pieces, .. } => {
                Physical::Flushed { chunk: *chunk, id: *id, start: *start, pieces: pieces.clone() }
            }
            Record::ChunkGone { chunk } => Physical::ChunkGone(*chunk),
            Record::Many(all) => Physical::Many(all.iter().map(Record::physical).collect()),
            Record::Create { .. } | Record::Attribute { .. } | Record::Table { .. } | Record::Catalog(_) | Record::Moved { .. } => Physical::Nothing,
        }
    }

    /// Whose payload it has; payloads of one group lie together.
    pub fn group(&self) -> u64 {
        match self {
            Record::Append { id, .. } => id.0 + 1,
            _ => 0,
        }
    }
}

impl Live {
    fn add(&mut self, extent: &Extent) {
        let len = u64::from(extent.len);
        match extent.source {
            Source::Log(place) => {
                *self.files.entry(place.file).or_default() += len;
                self.unflushed += len;
            }
            Source::Chunk(chunk, _) => *self.chunk_bytes.entry(chunk).or_default() += len,
        }
    }
    fn remove(&mut self, extent: &Extent) {
        let len = u64::from(extent.len);
        match extent.source {
            Source::Log(place) => {
                self.unflushed -= len;
                let left = self.files.get_mut(&place.file).expect("counted when it was added");
                *left -= len;
                if *left == 0 {
                    self.files.remove(&place.file);
                }
            }
            Source::Chunk(chunk, _) => {
                *self.chunk_bytes.get_mut(&chunk).expect("counted when it was added") -= len;
            }
        }
    }
}

impl Segment {
    fn new(name: String, table: bool, at_ms: u64) -> Segment {
        Segment {
            name,
            start: 0,
            length: 0,
            sealed: false,
            deleted: false,
            modified_ms: at_ms,
            attributes: HashMap::new(),
            table: table.then(Table::default),
            writers: Writers::default(),
            landed: Landed::default(),
            load: Load::default(),
            changed: Seq::default(),
        }
    }

    /// An attribute, or a writer's last event number, which clients ask for as one.
    pub fn attribute(&self, key: u128) -> i64 {
        self.attributes.get(&key).copied().or_else(|| self.writers.get(key)).unwrap_or(NO_VALUE)
    }

    /// Checks that bytes may be added.
    pub fn writable(&self) -> Result<()> {
        match (&self.table, self.sealed) {
            (Some(_), _) => Err(Error::IsATable(self.name.clone())),
            (_, true) => Err(Error::Sealed { segment: self.name.clone(), offset: self.length }),
            _ => Ok(()),
        }
    }

    pub fn as_table(&self) -> Result<&Table> {
        self.table.as_ref().ok_or_else(|| Error::NotATable(self.name.clone()))
    }
}

impl Landed {
    /// The extents that cover `offset` and up to `max` bytes from there.
    pub fn covering(&self, offset: u64, max: u64) -> Vec<Extent> {
        let first = self.extents.partition_point(|e| e.end() <= offset);
        self.extents.range(first..).take_while(|e| e.start < offset + max).copied().collect()
    }

    fn push(&mut self, extent: Extent, live: &mut Live) {
        debug_assert_eq!(extent.start, self.durable);
        live.add(&extent);
        self.unflushed += extent.in_log();
        self.durable = extent.end();
        // Appends that lie beside each other in a block are one extent.
        if let (Some(last), Source::Log(place)) = (self.extents.back_mut(), extent.source)
            && let Source::Log(before) = last.source
            && before.file == place.file
            && before.at + last.len == place.at
            && last.end() == extent.start
            && (last.len + extent.len) as usize <= EXTENT_BYTES
        {
            last.crc = log::crc32c_join(last.crc, extent.crc, extent.len.into());
            last.len += extent.len;
            last.whole = extent.whole;
            return;
        }
        self.extents.push_back(extent);
    }

    fn truncate(&mut self, start: u64, live: &mut Live) {
        self.start = self.start.max(start);
        while let Some(first) = self.extents.front()
            && first.end() <= self.start
        {
            live.remove(first);
            self.unflushed -= first.in_log();
            self.extents.pop_front();
        }
        self.flushed = self.flushed.max(self.start.min(self.durable));
    }
}

impl State {
    /// A chunk into which no extent points any more, and from which nobody reads. What is decided and has not landed still counts as pointing.
    pub fn idle_chunk(&self, id: ChunkId) -> Option<&Chunk> {
        self.chunks.get(&id).filter(|c| self.live.chunk_bytes.get(&id) == Some(&0) && !c.is_held())
    }

    pub fn find(&self, name: &str) -> Result<(SegmentId, &Segment)> {
        let id = self.names.get(name).ok_or_else(|| Error::NoSegment(name.into()))?;
        Ok((*id, &self.segments[id]))
    }

    pub fn segment(&self, name: &str) -> Result<&Segment> {
        Ok(self.find(name)?.1)
    }

    /// The number that the `n`th new segment from now on gets.
    pub fn new_id(&self, n: usize) -> SegmentId {
        SegmentId(self.next_segment + n as u64)
    }

    /// A record is in this block. Called before it is applied.
    pub(crate) fn changes(&mut self, record: &Record, seq: Seq) {
        match record {
            Record::Create { .. } | Record::Delete { .. } | Record::Catalog(_) => self.live.decided = seq,
            Record::Append { id, .. } | Record::Seal { id } | Record::Truncate { id, .. } | Record::Attribute { id, .. } | Record::Table { id, .. } => {
                // One that the same record makes is among what is decided.
                if let Some(segment) = self.segments.get_mut(id) {
                    segment.changed = seq;
                }
            }
            Record::Merge { target, .. } => {
                self.live.decided = seq;
                if let Some(segment) = self.segments.get_mut(target) {
                    segment.changed = seq;
                }
            }
            // Where bytes are is nobody's business.
            Record::Flushed { .. } | Record::ChunkGone { .. } | Record::Moved { .. } => {}
            Record::Many(all) => all.iter().for_each(|r| self.changes(r, seq)),
        }
    }

    /// The block that must be durable before the catalog is told, or which segments there are.
    pub(crate) fn decided(&self) -> Seq {
        self.live.decided
    }

    /// The block that must be durable before anything of a segment is told, and be it that there is none.
    pub(crate) fn changed(&self, name: &str) -> Seq {
        self.find(name).map_or(Seq::default(), |(_, s)| s.changed).max(self.live.decided)
    }

    fn at(&mut self, id: SegmentId) -> &mut Segment {
        self.segments.get_mut(&id).expect("a record names segments that are there")
    }

    fn forget_name(&mut self, id: SegmentId) {
        let name = self.segments[&id].name.clone();
        self.names.remove(&name);
        let segment = self.at(id);
        segment.deleted = true;
        let table = segment.table.take();
        if let Some(table) = table {
            self.table_bytes -= table.bytes();
            self.live.table_entries -= table.len() as u64;
        }
        self.change_writers(id, |writers| *writers = Writers::default());
    }

    fn change_writers(&mut self, id: SegmentId, change: impl FnOnce(&mut Writers)) {
        let writers = &mut self.at(id).writers;
        let before = writers.len();
        change(writers);
        let after = writers.len();
        self.live.writers = self.live.writers + after - before;
    }

    /// What all tables take in memory, about.
    pub fn table_cost(&self) -> u64 {
        self.table_bytes + self.live.table_entries * table::ENTRY_COST
    }

    /// Makes a decided change true.
    pub fn apply(&mut self, record: Record) {
        match record {
            Record::Create { id, name, table, at_ms } => {
                self.next_segment = self.next_segment.max(id.0 + 1);
                self.names.insert(name.clone(), id);
                self.segments.insert(id, Segment::new(name, table, at_ms));
            }
            Record::Append { id, writer, event, at_ms, pieces } => {
                // What replay sees, too: the same writers are forgotten there.
                let generation = generation(self.names.len(), self.live.writers);
                let segment = self.at(id);
                segment.length += pieces.iter().map(|p| u64::from(p.len)).sum::<u64>();
                segment.attributes.remove(&writer);
                segment.modified_ms = at_ms;
                self.change_writers(id, |writers| writers.note(writer, event, generation));
            }
            Record::Seal { id } => self.at(id).sealed = true,
            Record::Truncate { id, start } => {
                let segment = self.at(id);
                segment.start = segment.start.max(start);
            }
            Record::Delete { id } => self.forget_name(id),
            Record::Merge { source, target } => {
                let Segment { length: bytes, load, .. } = self.segments[&source];
                self.forget_name(source);
                let target = self.at(target);
                target.length += bytes;
                // It was written to the target by way of the source: what scales by rates counts it there.
                target.load.events += load.events;
                target.load.bytes += load.bytes;
            }
            Record::Attribute { id, key, value } => {
                self.change_writers(id, |writers| writers.forget(key));
                self.at(id).attributes.insert(key, value);
            }
            Record::Table { id, changes } => {
                let segment = self.segments.get_mut(&id).expect("a record names segments that are there");
                let table = segment.table.as_mut().expect("a table's record names a table");
                let (bytes, entries) = (table.bytes(), table.len() as u64);
                for change in changes {
                    table.apply(change);
                }
                self.table_bytes = self.table_bytes + table.bytes() - bytes;
                self.live.table_entries = self.live.table_entries + table.len() as u64 - entries;
            }
            Record::Catalog(change) => self.catalog.apply(*change),
            Record::Flushed { chunk, id, location, pieces, .. } => {
                self.next_chunk = self.next_chunk.max(chunk.0 + 1);
                let bytes = pieces.iter().map(|p| p.len).sum();
                self.chunks.insert(chunk, Chunk::new(location, bytes, id));
            }
            Record::ChunkGone { chunk } => {
                self.chunks.remove(&chunk);
            }
            Record::Moved { chunk, location } => {
                if let Some(moved) = self.chunks.get_mut(&chunk) {
                    // Who reads at the place of before has that chunk, and not this one.
                    (moved.location, moved.held) = (location, Arc::default());
                }
            }
            Record::Many(records) => records.into_iter().for_each(|r| self.apply(r)),
        }
    }

    /// Adds what became durable. `place` is where the record's payload lies.
    pub fn land(&mut self, physical: Physical, place: Place) {
        let State { segments, live, .. } = self;
        match physical {
            Physical::Nothing => {}
            Physical::Append { id, pieces, arrived } => {
                let Some(segment) = segments.get_mut(&id) else { return };
                if segment.landed.fresh.is_none_or(|f| f.after != live.landed) {
                    segment.landed.fresh = Some(Fresh { after: live.landed, start: segment.landed.durable, arrived });
                }
                let mut at = place.at;
                let count = pieces.len();
                for (i, piece) in pieces.into_iter().enumerate() {
                    let extent = Extent {
                        start: segment.landed.durable,
                        len: piece.len,
                        crc: piece.crc,
                        whole: i + 1 == count,
                        source: Source::Log(Place { file: place.file, at }),
                    };
                    at += piece.len;
                    segment.landed.push(extent, live);
                }
                segment.landed.waiting.notify_waiters();
            }
            Physical::Seal(id) => {
                if let Some(segment) = segments.get_mut(&id) {
                    segment.landed.ended = true;
                    segment.landed.waiting.notify_waiters();
                }
            }
            Physical::Truncate(id, start) => {
                if let Some(segment) = segments.get_mut(&id) {
                    segment.landed.truncate(start, live);
                    segment.landed.waiting.notify_waiters();
                }
            }
            Physical::Delete(id) => {
                if let Some(segment) = segments.remove(&id) {
                    segment.landed.extents.iter().for_each(|e| live.remove(e));
                    segment.landed.waiting.notify_waiters();
                }
            }
            Physical::Merge { source, target } => {
                let Some(gone) = segments.remove(&source) else { return };
                gone.landed.waiting.notify_waiters();
                let Some(segment) = segments.get_mut(&target) else {
                    gone.landed.extents.iter().for_each(|e| live.remove(e));
                    return;
                };
                let shift = segment.landed.durable;
                // A truncated source begins in the middle of its first extent; checksums are of whole extents, so bytes can't be left out.
                debug_assert_eq!(gone.landed.start, 0);
                for extent in gone.landed.extents {
                    segment.landed.extents.push_back(Extent { start: extent.start + shift, ..extent });
                }
                segment.landed.unflushed += gone.landed.unflushed;
                segment.landed.durable = shift + gone.landed.durable;
                segment.landed.waiting.notify_waiters();
            }
            Physical::Flushed { chunk, id, start, pieces } => {
                live.chunk_bytes.entry(chunk).or_default();
                let Some(segment) = segments.get_mut(&id) else { return };
                let landed = &mut segment.landed;
                let end = start + pieces.iter().map(|p| u64::from(p.len)).sum::<u64>();
                let from = landed.extents.partition_point(|e| e.start < start);
                let to = landed.extents.partition_point(|e| e.end() <= end);
                let mut new = Vec::with_capacity(pieces.len());
                let (mut offset, mut at) = (start, 0);
                let count = pieces.len();
                for (i, piece) in pieces.into_iter().enumerate() {
                    // A chunk ends where an append does; inside, nobody needs to know.
                    let extent = Extent { start: offset, len: piece.len, crc: piece.crc, whole: i + 1 == count, source: Source::Chunk(chunk, at) };
                    offset += u64::from(piece.len);
                    at += piece.len;
                    // What was truncated meanwhile needs no extent.
                    if extent.end() > landed.start {
                        live.add(&extent);
                        new.push(extent);
                    }
                }
                let rest = landed.extents.split_off(to.max(from));
                for old in landed.extents.split_off(from) {
                    live.remove(&old);
                    landed.unflushed -= old.in_log();
                }
                landed.extents.extend(new);
                landed.extents.extend(rest);
                // Up to the first byte that only the log has: one that can't be read there is left behind, and may be truncated or read one day.
                let from = landed.extents.partition_point(|e| e.end() <= landed.flushed);
                if let Some(there) = landed.extents.range(from..).take_while(|e| e.in_log() == 0).last() {
                    landed.flushed = landed.flushed.max(there.end());
                }
            }
            Physical::ChunkGone(chunk) => {
                live.chunk_bytes.remove(&chunk);
            }
            Physical::Many(all) => all.into_iter().for_each(|p| self.land(p, place)),
        }
    }

    /// The durable side of all segments, for a checkpoint.
    pub fn landed(&self) -> Vec<(SegmentId, &Landed)> {
        self.segments.iter().map(|(id, s)| (*id, &s.landed)).collect()
    }

    /// Puts a checkpoint's durable side back.
    pub fn set_landed(&mut self, landed: Vec<(SegmentId, Landed)>) {
        for (id, landed) in landed {
            landed.extents.iter().for_each(|e| self.live.add(e));
            if let Some(segment) = self.segments.get_mut(&id) {
                segment.landed = landed;
            }
        }
        self.live.writers = self.segments.values().map(|s| s.writers.len()).sum();
        self.live.table_entries = self.segments.values().filter_map(|s| s.table.as_ref()).map(|t| t.len() as u64).sum();
        // Their end had been decided, and has landed.
        self.segments.retain(|_, s| !s.deleted);
        for chunk in self.chunks.keys() {
            self.live.chunk_bytes.entry(*chunk).or_default();
        }
    }

    /// What must be true of any state, for tests and after recovery.
    pub fn check(&self) -> Result<()> {
        let wrong = |name: &str, what: String| Err(Error::Damaged(format!("segment {name}: {what}")));
        let mut live = Live::default();
        for segment in self.segments.values() {
            let landed = &segment.landed;
            if landed.extents.iter().map(Extent::in_log).sum::<u64>() != landed.unflushed {
                return wrong(&segment.name, format!("the count of its {} bytes in the log is wrong", landed.unflushed));
            }
            let mut at = None;
            for extent in &landed.extents {
                live.add(extent);
                if at.is_some_and(|at| at != extent.start) {
                    return wrong(&segment.name, format!("bytes before {} are missing", extent.start));
                }
                at = Some(extent.end());
            }
            if at.unwrap_or(landed.durable) != landed.durable || landed.durable > segment.length || landed.start > segment.length {
                return wrong(&segment.name, format!("{} of {} bytes are there, but {at:?}", landed.durable, segment.length));
            }
            if let Some(first) = landed.extents.front()
                && first.start > landed.start
            {
                return wrong(&segment.name, format!("bytes from {} to {} are missing", landed.start, first.start));
            }
        }
        let entries: u64 = self.segments.values().filter_map(|s| s.table.as_ref()).map(|t| t.len() as u64).sum();
        if entries != self.live.table_entries {
            return wrong("(all)", format!("tables have {entries} entries, {} were counted", self.live.table_entries));
        }
        let writers: usize = self.segments.values().map(|s| s.writers.len()).sum();
        if writers != self.live.writers {
            return wrong("(all)", format!("{writers} writers are remembered, {} were counted", self.live.writers));
        }
        if live.files != self.live.files || live.unflushed != self.live.unflushed {
            return wrong("(all)", "the count of bytes in the log is wrong".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_are_remembered_until_a_whole_generation_has_written_since() {
        let mut writers = Writers::default();
        for round in 1..=3 {
            for writer in 0..99 {
                writers.note(writer, round, 100);
            }
        }
        assert_eq!((writers.get(0), writers.get(98), writers.get(99)), (Some(3), Some(3), None));
        // One that goes on writing stays, however many come and go.
        for n in 1000..100_000 {
            writers.note(n, 1, 100);
            if n % 50 == 0 {
                writers.note(7, n as i64, 100);
            }
            assert!(writers.get(n - 90).is_some() || n < 1090, "{n}");
        }
        assert_eq!((writers.get(7), writers.get(8)), (Some(99_950), None));
        assert!(writers.young.len() + writers.old.len() <= 200);
        // However many segments there are, one has room for many as long as the others remember few.
        assert_eq!([generation(0, 0), generation(200_000, 999_999)], [GENERATION_MAX; 2]);
        assert_eq!([generation(1, 1 << 20), generation(1000, 1 << 20), generation(200_000, 1 << 20)], [GENERATION_MAX, 1000, GENERATION_MIN]);
    }
}
