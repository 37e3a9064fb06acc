//! What a store must look like after any sequence of changes, in as few words as possible: whole vectors of bytes, and no log, tier or extent.
//!
//! There is one log, and one task that changes the store. So after a crash a store looks as the model does after *some* number of changes, and not fewer than
//! were acknowledged: nothing is missing in the middle, nothing is there in part, nothing is there twice.

use rand::{Rng, rngs::StdRng};
use std::collections::BTreeMap;
use streams::{
    Store,
    catalog::{Range, SegmentNo, TxnId},
};

pub const SCOPE: &str = "s";
/// Ids of those who append.
pub const WRITERS: std::ops::Range<u128> = 1..4;

/// A change, with what was answered to it.
#[derive(Clone, Debug)]
pub enum Change {
    Create { name: String, table: bool },
    Append { name: String, writer: u128, event: i64, data: Vec<u8> },
    Merge { source: String, target: String },
    TruncateSegment { name: String, start: u64 },
    Delete { name: String },
    Put { table: String, key: Vec<u8>, value: Vec<u8> },
    Remove { table: String, key: Vec<u8> },
    CreateStream { stream: String, ranges: Vec<Range> },
    Scale { stream: String, seal: Vec<SegmentNo>, new: Vec<Range> },
    Begin { stream: String, id: TxnId },
    Commit { stream: String, id: TxnId },
    Abort { stream: String, id: TxnId },
    /// At places in the segments that are written to.
    Truncate { stream: String, cut: BTreeMap<SegmentNo, u64> },
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Segment {
    pub start: u64,
    pub length: u64,
    pub sealed: bool,
    /// From the start on.
    pub bytes: Vec<u8>,
    pub writers: BTreeMap<u128, i64>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stream {
    pub current: Vec<Range>,
    pub epoch: u32,
    pub next: u32,
    pub head: BTreeMap<SegmentNo, u64>,
    /// With the ranges of the moment at which they began.
    pub open: BTreeMap<TxnId, Vec<Range>>,
}

/// What can be seen of a store.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    pub segments: BTreeMap<String, Segment>,
    pub tables: BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>,
    pub streams: BTreeMap<String, Stream>,
}

pub fn name(stream: &str, range: &Range) -> String {
    range.segment.name(SCOPE, stream)
}

/// Whether a segment is of a stream, and not of one of its transactions.
fn is_of(segment: &str, stream: &str) -> bool {
    segment.starts_with(&format!("{SCOPE}/{stream}/")) && !segment.contains("#transaction")
}

impl Segment {
    fn take(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        self.bytes.extend_from_slice(bytes);
    }

    fn truncate(&mut self, start: u64) {
        if start > self.start {
            self.bytes.drain(..(start - self.start) as usize);
            self.start = start;
        }
    }
}

impl Model {
    pub fn apply(&mut self, change: &Change) {
        let Model { segments, tables, streams } = self;
        let find = |streams: &mut BTreeMap<String, Stream>, stream: &str| -> Stream { streams[stream].clone() };
        match change {
            Change::Create { name, table: false } => drop(segments.insert(name.clone(), Segment::default())),
            Change::Create { name, table: true } => drop(tables.insert(name.clone(), BTreeMap::new())),
            Change::Append { name, writer, event, data } => {
                let segment = segments.get_mut(name).unwrap();
                segment.take(data);
                segment.writers.insert(*writer, *event);
            }
            Change::Merge { source, target } => {
                let gone = segments.remove(source).unwrap();
                segments.get_mut(target).unwrap().take(&gone.bytes);
            }
            Change::TruncateSegment { name, start } => segments.get_mut(name).unwrap().truncate(*start),
            Change::Delete { name } => drop(segments.remove(name)),
            Change::Put { table, key, value } => drop(tables.get_mut(table).unwrap().insert(key.clone(), value.clone())),
            Change::Remove { table, key } => drop(tables.get_mut(table).unwrap().remove(key)),
            Change::CreateStream { stream, ranges } => {
                ranges.iter().for_each(|r| drop(segments.insert(name(stream, r), Segment::default())));
                let head = ranges.iter().map(|r| (r.segment, 0)).collect();
                streams.insert(stream.clone(), Stream { current: ranges.clone(), next: ranges.len() as u32, head, ..Stream::default() });
            }
            Change::Scale { stream, seal, new } => {
                let mut of = find(streams, stream);
                of.current.retain(|r| !seal.contains(&r.segment));
                seal.iter().for_each(|s| segments.get_mut(&s.name(SCOPE, stream)).unwrap().sealed = true);
                new.iter().for_each(|r| drop(segments.insert(name(stream, r), Segment::default())));
                of.current.extend(new);
                of.current.sort_by(|a, b| a.low.total_cmp(&b.low));
                (of.epoch, of.next) = (of.epoch + 1, of.next + new.len() as u32);
                streams.insert(stream.clone(), of);
            }
            Change::Begin { stream, id } => {
                let mut of = find(streams, stream);
                of.current.iter().for_each(|r| drop(segments.insert(id.segment(&name(stream, r)), Segment::default())));
                of.open.insert(*id, of.current.clone());
                streams.insert(stream.clone(), of);
            }
            Change::Commit { stream, id } => {
                let mut of = find(streams, stream);
                let own = of.open.remove(id).unwrap();
                let mut source = |r: &Range| segments.remove(&id.segment(&name(stream, r))).unwrap().bytes;
                let brought: Vec<(Range, Vec<u8>)> = own.iter().map(|r| (*r, source(r))).collect();
                if own.iter().all(|r| of.current.contains(r)) {
                    brought.iter().for_each(|(r, bytes)| segments.get_mut(&name(stream, r)).unwrap().take(bytes));
                } else {
                    // The stream was scaled since: the transaction's ranges come again, with its bytes, and then those of now.
                    let (again, mut next) = (of.epoch + 1, of.next);
                    let mut number = |epoch: u32| {
                        next += 1;
                        SegmentNo::new(epoch, next - 1)
                    };
                    for (_, bytes) in brought {
                        let segment = Segment { length: bytes.len() as u64, bytes, sealed: true, ..Segment::default() };
                        segments.insert(number(again).name(SCOPE, stream), segment);
                    }
                    for r in &mut of.current {
                        segments.get_mut(&name(stream, r)).unwrap().sealed = true;
                        r.segment = number(again + 1);
                        segments.insert(name(stream, r), Segment::default());
                    }
                    (of.epoch, of.next) = (again + 1, next);
                }
                streams.insert(stream.clone(), of);
            }
            Change::Abort { stream, id } => {
                let own = streams.get_mut(stream).unwrap().open.remove(id).unwrap();
                own.iter().for_each(|r| drop(segments.remove(&id.segment(&name(stream, r)))));
            }
            Change::Truncate { stream, cut } => {
                segments.retain(|n, _| !is_of(n, stream) || cut.keys().any(|s| s.name(SCOPE, stream) == *n));
                cut.iter().for_each(|(s, start)| segments.get_mut(&s.name(SCOPE, stream)).unwrap().truncate(*start));
                streams.get_mut(stream).unwrap().head = cut.clone();
            }
        }
    }

    /// What is to be seen of a store; all of it is read.
    pub async fn of(store: &Store, read: impl AsyncFn(&Store, &str, u64) -> Vec<u8>) -> Model {
        let mut model = store.peek(|state| {
            state.check().unwrap();
            let mut model = Model::default();
            for (name, id) in &state.names {
                let found = &state.segments[id];
                match &found.table {
                    Some(table) => {
                        let all = table.since(0, usize::MAX, usize::MAX).0;
                        model.tables.insert(name.clone(), all.into_iter().map(|(k, v, _)| (k.to_vec(), v.to_vec())).collect());
                    }
                    None => {
                        let writers = WRITERS.filter_map(|w| Some((w, found.attribute(w))).filter(|(_, n)| *n >= 0)).collect();
                        let segment = Segment { start: found.start, length: found.length, sealed: found.sealed, bytes: Vec::new(), writers };
                        model.segments.insert(name.clone(), segment);
                    }
                }
            }
            for (_, name, of) in state.catalog.streams() {
                let open = of.open.iter().map(|(id, txn)| (*id, of.epoch(txn.epoch).unwrap().segments.clone())).collect();
                let stream = Stream { current: of.current().segments.clone(), epoch: of.epoch_number(), next: of.next_number, head: of.head(), open };
                // A reader finds its way from the beginning to the segments that are written to, and each on it is there.
                let way = of.between(&of.head(), &BTreeMap::new());
                assert!(stream.current.iter().all(|r| way.contains(&r.segment)), "{name} does not lead from {:?} to its end", stream.head);
                assert!(way.iter().all(|s| state.segment(&s.name(SCOPE, name)).is_ok()), "a segment of {name} is gone");
                model.streams.insert(name.to_string(), stream);
            }
            model
        });
        for (name, segment) in &mut model.segments {
            segment.bytes = read(store, name, segment.start).await;
        }
        model
    }

    /// Where two differ, in a line that can be read.
    pub fn differs(&self, other: &Model) -> Option<String> {
        if self.streams != other.streams {
            return Some(format!("streams {:?} and {:?}", self.streams, other.streams));
        }
        if self.tables != other.tables {
            let of = |m: &Model| m.tables.iter().map(|(n, t)| (n.clone(), t.len())).collect::<Vec<_>>();
            return Some(format!("tables with {:?} and {:?} entries, or other ones", of(self), of(other)));
        }
        let names = self.segments.keys().chain(other.segments.keys());
        names.into_iter().find(|n| self.segments.get(*n) != other.segments.get(*n)).map(|n| {
            let of = |m: &Model| m.segments.get(n).map(|s| (s.start, s.length, s.sealed, s.bytes.len(), s.writers.clone()));
            format!("segment {n}: {:?} and {:?}", of(self), of(other))
        })
    }

    /// Names of segments that take bytes.
    pub fn open(&self) -> Vec<&String> {
        self.segments.iter().filter(|(_, s)| !s.sealed).map(|(n, _)| n).collect()
    }
}

/// One of several.
pub fn one<'a, T>(rng: &mut StdRng, of: &'a [T]) -> Option<&'a T> {
    (!of.is_empty()).then(|| &of[rng.random_range(0..of.len())])
}
