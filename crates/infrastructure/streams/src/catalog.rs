//! Scopes, streams, their epochs and transactions: what the controller knows. Plain data, changed by [`Change`]s out of the log.
//!
//! An *epoch* is the set of segments that share a stream's key space out among them from one scale to the next. A segment lives in consecutive
//! epochs; its successors are the new segments of the epoch after its last one, as far as their keys overlap. So successors and predecessors need
//! no lists of their own. Epochs that lie before the stream's beginning are dropped with what was truncated; the others keep their numbers.

use crate::{
    proto::{retention_policy::RetentionPolicyType, scaling_policy::ScalingPolicyType},
    subscribers,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet, HashSet, VecDeque},
    sync::OnceLock,
};

/// A stream's segment: epoch of its making in the high half, number in the low half.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SegmentNo(pub i64);

impl SegmentNo {
    pub fn new(epoch: u32, number: u32) -> SegmentNo {
        SegmentNo(i64::from(epoch) << 32 | i64::from(number))
    }
    pub fn epoch(self) -> u32 {
        (self.0 >> 32) as u32
    }
    pub fn number(self) -> u32 {
        self.0 as u32
    }
    /// The name that it has in the segment store.
    pub fn name(self, scope: &str, stream: &str) -> String {
        format!("{scope}/{stream}/{}.#epoch.{}", self.number(), self.epoch())
    }
}

/// Number of a transaction. Both halves are kept positive: a client widens them with their signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TxnId {
    pub high: i64,
    pub low: i64,
}

impl TxnId {
    /// The segment in which a transaction keeps what is meant for `segment`.
    pub fn segment(self, segment: &str) -> String {
        format!("{segment}{OF_TRANSACTION}{:016x}{:016x}", self.high, self.low)
    }
}

const OF_TRANSACTION: &str = "#transaction.";

/// Whether a segment is one in which a transaction keeps what it is to add.
pub(crate) fn of_transaction(segment: &str) -> bool {
    segment.contains(OF_TRANSACTION)
}

/// A segment's part of the key space: `low` belongs to it, `high` doesn't.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Range {
    pub segment: SegmentNo,
    pub low: f64,
    pub high: f64,
}

impl Range {
    pub fn overlaps(&self, other: &Range) -> bool {
        self.low < other.high && other.low < self.high
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scaling {
    /// [`Scaling::FIXED`], [`Scaling::BY_KIB`] or [`Scaling::BY_EVENTS`].
    pub kind: i32,
    pub target_rate: i32,
    pub factor: i32,
    pub min_segments: i32,
}

/// The protocol's numbers of what a rate is counted in, per second and segment.
impl Scaling {
    pub const FIXED: i32 = ScalingPolicyType::FixedNumSegments as i32;
    pub const BY_KIB: i32 = ScalingPolicyType::ByRateInKbytesPerSec as i32;
    pub const BY_EVENTS: i32 = ScalingPolicyType::ByRateInEventsPerSec as i32;
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Retention {
    /// [`Retention::BY_TIME`] or [`Retention::BY_SIZE`].
    pub kind: i32,
    pub param: i64,
    pub max: i64,
}

/// The protocol's numbers of what is counted: ms, or bytes.
impl Retention {
    pub const BY_TIME: i32 = RetentionPolicyType::Time as i32;
    pub const BY_SIZE: i32 = RetentionPolicyType::Size as i32;
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Config {
    pub scaling: Scaling,
    pub retention: Option<Retention>,
    pub tags: Vec<String>,
    pub timestamp_timeout_ms: i64,
    pub rollover_bytes: i64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    pub at_ms: u64,
    pub segments: Vec<Range>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TxnState {
    Open,
    Committed,
    Aborted,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Txn {
    pub epoch: u32,
    pub lease_ms: u64,
    pub at_ms: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stream {
    pub config: Config,
    pub sealed: bool,
    /// Those that are still of use, oldest first.
    pub epochs: Vec<Epoch>,
    /// The number of the first of them. A checkpoint has it behind the rest: the first ones had all epochs.
    #[serde(skip)]
    pub first_epoch: u32,
    /// Where the stream begins; a segment that is not named begins at its own start.
    pub head: BTreeMap<SegmentNo, u64>,
    pub open: BTreeMap<TxnId, Txn>,
    /// The last transactions that ended, newest last.
    pub ended: VecDeque<(TxnId, TxnState)>,
    pub next_number: u32,
    /// Cuts by which retention truncates, oldest first.
    pub marks: Vec<Mark>,
}

/// Where a stream's tail was at a time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    pub at_ms: u64,
    pub cut: BTreeMap<SegmentNo, u64>,
}

/// As Java's client keeps a reader group: the configuration as it was sent, and its generation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Group {
    pub config: Vec<u8>,
    pub generation: i64,
    /// Scopes and streams that it keeps from being forgotten, read from the configuration when somebody first asks: retention does so each second, of all groups.
    #[serde(skip)]
    keeps: OnceLock<Vec<(String, String)>>,
}

impl Group {
    pub fn new(config: Vec<u8>, generation: i64) -> Group {
        Group { config, generation, keeps: OnceLock::new() }
    }

    /// Scopes and streams whose retention waits for it.
    pub fn keeps(&self) -> &[(String, String)] {
        self.keeps.get_or_init(|| subscribers::kept(&self.config))
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyValueTable {
    pub partitions: i32,
    pub primary_key: i32,
    pub secondary_key: i32,
    pub rollover_bytes: i64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Scope {
    pub streams: BTreeMap<String, Stream>,
    pub groups: BTreeMap<String, Group>,
    pub tables: BTreeMap<String, KeyValueTable>,
    /// First free segment number of streams that were deleted: a writer that still has the old one must not write into the new one.
    pub gone: BTreeMap<String, u32>,
    /// The same for all names that are not there any more because they were too many. A checkpoint has it behind the rest.
    #[serde(skip)]
    pub gone_before: u32,
}

/// What a writer has said of its time: all that it has of an earlier one lies before this position.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WriterMark {
    /// In the writer's own units.
    pub time: i64,
    pub position: BTreeMap<SegmentNo, u64>,
    /// It has not left.
    pub alive: bool,
}

/// What is of a time before `lower` lies before the cut; no writer was beyond `upper`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Watermark {
    pub lower: i64,
    pub upper: i64,
    pub cut: BTreeMap<SegmentNo, u64>,
}

/// What writers and readers have said of a stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Told {
    pub writers: BTreeMap<String, WriterMark>,
    /// The last one.
    pub watermark: Option<Watermark>,
    /// What each reader group that retention waits for does not need any more.
    pub subscribers: BTreeMap<String, BTreeMap<SegmentNo, u64>>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Catalog {
    pub scopes: BTreeMap<String, Scope>,
    pub next_txn: i64,
    /// By scope and stream. A checkpoint has it behind the rest, because the first ones had nothing of it.
    #[serde(skip)]
    pub told: BTreeMap<String, BTreeMap<String, Told>>,
    /// First segment number that is free in each scope that was deleted, whichever the stream; and in all those that were too many to be remembered. A
    /// checkpoint has them behind the rest.
    #[serde(skip)]
    pub gone: BTreeMap<String, u32>,
    #[serde(skip)]
    pub gone_before: u32,
}

/// How many ended transactions a stream remembers.
const ENDED_MAX: usize = 1000;
/// Of how many deleted streams a scope remembers the name, and of how many scopes the catalog; beyond, all of them are as the one that got furthest.
const GONE_MAX: usize = 10_000;
/// Ranges in the epochs that lie before a stream's beginning and stay: a reader whose segment was truncated under it asks what follows.
const RANGES_BEFORE_MAX: usize = 256;
/// Positions in all marks of a stream, so that a stream of many segments has fewer marks; ten it always has.
const MARK_POSITIONS_MAX: usize = 200_000;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Change {
    CreateScope { scope: String },
    DeleteScope { scope: String },
    CreateStream { scope: String, stream: String, config: Config, epoch: Epoch },
    UpdateStream { scope: String, stream: String, config: Config },
    SealStream { scope: String, stream: String },
    DeleteStream { scope: String, stream: String },
    NewEpoch { scope: String, stream: String, epoch: Epoch },
    Truncate { scope: String, stream: String, cut: BTreeMap<SegmentNo, u64> },
    Mark { scope: String, stream: String, mark: Mark },
    BeginTxn { scope: String, stream: String, id: TxnId, txn: Txn },
    EndTxn { scope: String, stream: String, id: TxnId, state: TxnState },
    SetGroup { scope: String, group: String, to: Option<Group> },
    SetTable { scope: String, table: String, to: Option<KeyValueTable> },
    /// `None`: it is not waited for any more.
    NoteWriter { scope: String, stream: String, writer: String, mark: Option<WriterMark> },
    Watermark { scope: String, stream: String, watermark: Watermark },
    Subscriber { scope: String, stream: String, subscriber: String, cut: Option<BTreeMap<SegmentNo, u64>> },
}

impl Catalog {
    pub fn stream(&self, scope: &str, stream: &str) -> Option<&Stream> {
        self.scopes.get(scope)?.streams.get(stream)
    }

    fn stream_mut(&mut self, scope: &str, stream: &str) -> &mut Stream {
        self.scopes.get_mut(scope).and_then(|s| s.streams.get_mut(stream)).expect("a change names a stream that is there")
    }

    pub fn told(&self, scope: &str, stream: &str) -> Option<&Told> {
        self.told.get(scope)?.get(stream)
    }

    fn told_mut(&mut self, scope: String, stream: String) -> &mut Told {
        self.told.entry(scope).or_default().entry(stream).or_default()
    }

    /// All streams, for those who look after them.
    pub fn streams(&self) -> impl Iterator<Item = (&str, &str, &Stream)> {
        self.scopes.iter().flat_map(|(scope, s)| s.streams.iter().map(move |(name, stream)| (scope.as_str(), name.as_str(), stream)))
    }

    /// The first segment number that a stream of this name may use.
    pub fn first_number(&self, scope: &str, stream: &str) -> u32 {
        self.scopes.get(scope).map_or(0, |s| s.gone.get(stream).copied().unwrap_or(s.gone_before))
    }

    /// Ranges in the epochs of all streams.
    pub fn ranges(&self) -> usize {
        self.streams().flat_map(|(_, _, s)| &s.epochs).map(|e| e.segments.len()).sum()
    }

    pub fn apply(&mut self, change: Change) {
        match change {
            Change::CreateScope { scope } => {
                let gone_before = self.gone.get(&scope).copied().unwrap_or(self.gone_before);
                self.scopes.insert(scope, Scope { gone_before, ..Scope::default() });
            }
            Change::DeleteScope { scope } => {
                if let Some(old) = self.scopes.remove(&scope) {
                    let numbers = old.streams.values().map(|s| s.next_number).chain(old.gone.into_values());
                    let first = numbers.fold(old.gone_before, u32::max);
                    if first > self.gone_before {
                        self.gone.insert(scope.clone(), first);
                    }
                    if self.gone.len() > GONE_MAX {
                        self.gone_before = std::mem::take(&mut self.gone).into_values().fold(self.gone_before, u32::max);
                    }
                }
                self.told.remove(&scope);
                self.unsubscribe(&format!("{scope}/"), true);
            }
            Change::CreateStream { scope, stream, config, epoch } => {
                let next_number = epoch.segments.iter().map(|r| r.segment.number() + 1).max().unwrap_or(0);
                let new = Stream {
                    config,
                    sealed: false,
                    epochs: vec![epoch],
                    first_epoch: 0,
                    head: BTreeMap::new(),
                    open: BTreeMap::new(),
                    ended: VecDeque::new(),
                    next_number,
                    marks: Vec::new(),
                };
                self.scopes.get_mut(&scope).expect("a stream is made in a scope").streams.insert(stream, new);
            }
            Change::UpdateStream { scope, stream, config } => self.stream_mut(&scope, &stream).config = config,
            Change::SealStream { scope, stream } => self.stream_mut(&scope, &stream).sealed = true,
            Change::DeleteStream { scope, stream } => {
                if let Some(told) = self.told.get_mut(&scope) {
                    told.remove(&stream);
                }
                let scope = self.scopes.get_mut(&scope).expect("a stream is in a scope");
                if let Some(old) = scope.streams.remove(&stream) {
                    scope.gone.insert(stream, old.next_number);
                    if scope.gone.len() > GONE_MAX {
                        scope.gone_before = scope.gone.values().copied().max().unwrap_or(0).max(scope.gone_before);
                        scope.gone.clear();
                    }
                }
            }
            Change::NewEpoch { scope, stream, epoch } => {
                let stream = self.stream_mut(&scope, &stream);
                let last = epoch.segments.iter().map(|r| r.segment.number() + 1).max().unwrap_or(0);
                stream.next_number = stream.next_number.max(last);
                stream.epochs.push(epoch);
            }
            Change::Truncate { scope, stream, cut } => {
                let stream = self.stream_mut(&scope, &stream);
                // Marks up to the new head are of no use.
                let mut marks = std::mem::take(&mut stream.marks);
                marks.retain(|m| m.cut != cut && subscribers::at_or_after(stream, &m.cut, &cut));
                (stream.marks, stream.head) = (marks, cut);
                stream.forget_epochs();
            }
            Change::Mark { scope, stream, mark } => {
                let marks = &mut self.stream_mut(&scope, &stream).marks;
                let most = (MARK_POSITIONS_MAX / mark.cut.len().max(1)).clamp(10, crate::retention::MARKS_MAX);
                if marks.len() >= most {
                    // Every second of the older half.
                    let mut n = 0;
                    marks.retain(|_| {
                        n += 1;
                        n > most / 2 || n % 2 == 1
                    });
                }
                marks.push(mark);
            }
            Change::BeginTxn { scope, stream, id, txn } => {
                self.next_txn = self.next_txn.max(id.low + 1);
                self.stream_mut(&scope, &stream).open.insert(id, txn);
            }
            Change::EndTxn { scope, stream, id, state } => {
                let stream = self.stream_mut(&scope, &stream);
                stream.open.remove(&id);
                stream.ended.push_back((id, state));
                if stream.ended.len() > ENDED_MAX {
                    stream.ended.pop_front();
                }
            }
            Change::SetGroup { scope, group, to } => {
                if to.is_none() {
                    self.unsubscribe(&format!("{scope}/{group}"), false);
                }
                let groups = &mut self.scopes.get_mut(&scope).expect("a group is in a scope").groups;
                match to {
                    Some(to) => drop(groups.insert(group, to)),
                    None => drop(groups.remove(&group)),
                }
            }
            Change::SetTable { scope, table, to } => {
                let tables = &mut self.scopes.get_mut(&scope).expect("a table is in a scope").tables;
                match to {
                    Some(to) => drop(tables.insert(table, to)),
                    None => drop(tables.remove(&table)),
                }
            }
            Change::NoteWriter { scope, stream, writer, mark } => {
                let writers = &mut self.told_mut(scope, stream).writers;
                match mark {
                    Some(mark) => drop(writers.insert(writer, mark)),
                    None => drop(writers.remove(&writer)),
                }
            }
            Change::Watermark { scope, stream, watermark } => self.told_mut(scope, stream).watermark = Some(watermark),
            Change::Subscriber { scope, stream, subscriber, cut } => {
                let subscribers = &mut self.told_mut(scope, stream).subscribers;
                match cut {
                    Some(cut) => drop(subscribers.insert(subscriber, cut)),
                    None => drop(subscribers.remove(&subscriber)),
                }
            }
        }
    }

    /// Forgets a group, or all groups of a scope, as subscribers of any stream.
    fn unsubscribe(&mut self, name: &str, scope: bool) {
        for told in self.told.values_mut().flat_map(|s| s.values_mut()) {
            told.subscribers.retain(|s, _| if scope { !s.starts_with(name) } else { s != name });
        }
    }
}

impl Stream {
    /// The segments that are written to, unless the stream is sealed.
    pub fn current(&self) -> &Epoch {
        self.epochs.last().expect("a stream has an epoch from its making on")
    }

    pub fn epoch_number(&self) -> u32 {
        self.first_epoch + self.epochs.len() as u32 - 1
    }

    /// An epoch by its number; `None` when it was dropped, or has not come.
    pub fn epoch(&self, number: u32) -> Option<&Epoch> {
        self.epochs.get(number.checked_sub(self.first_epoch)? as usize)
    }

    /// Drops the epochs that lie before the last one of each segment in which the stream begins, and before those in which open transactions began; but
    /// not the last few. What follows a segment of the head is in later ones.
    fn forget_epochs(&mut self) {
        let head = self.head.keys().map(|s| self.last_epoch(*s).unwrap_or(0));
        let open = self.open.values().map(|t| t.epoch.saturating_sub(self.first_epoch) as usize);
        let mut gone = head.chain(open).min().unwrap_or(0);
        let mut ranges = 0;
        while gone > 0 && ranges + self.epochs[gone - 1].segments.len() <= RANGES_BEFORE_MAX {
            gone -= 1;
            ranges += self.epochs[gone].segments.len();
        }
        self.epochs.drain(..gone);
        self.first_epoch += gone as u32;
    }

    /// The cut, or the stream's beginning if the cut lies before all that is known of the stream.
    pub fn known(&self, cut: &BTreeMap<SegmentNo, u64>) -> BTreeMap<SegmentNo, u64> {
        let forgotten = |s: &SegmentNo| s.epoch() < self.first_epoch && self.last_epoch(*s).is_none();
        if cut.is_empty() || cut.keys().any(forgotten) { self.head() } else { cut.clone() }
    }

    /// Every segment of the epochs that are there, with its range.
    pub fn segments(&self) -> BTreeMap<SegmentNo, Range> {
        self.epochs.iter().flat_map(|e| e.segments.iter().map(|r| (r.segment, *r))).collect()
    }

    /// Where among [`Stream::epochs`] a segment's last one is, if it is one of theirs.
    fn last_epoch(&self, segment: SegmentNo) -> Option<usize> {
        self.epochs.iter().rposition(|e| e.segments.iter().any(|r| r.segment == segment))
    }

    /// The segments that go on where `segment` ends, each with all segments that it goes on for. Empty while `segment` is written to.
    pub fn successors(&self, segment: SegmentNo) -> Option<Vec<(Range, Vec<SegmentNo>)>> {
        let last = self.last_epoch(segment)?;
        let Some(next) = self.epochs.get(last + 1) else { return Some(Vec::new()) };
        let before = &self.epochs[last].segments;
        let is_in = |of: &[Range], segment| of.iter().any(|r| r.segment == segment);
        let own = before.iter().find(|r| r.segment == segment)?;
        // Of what overlaps, which is little as a rule; there may be ten thousand of each.
        let new = next.segments.iter().filter(|n| n.overlaps(own) && !is_in(before, n.segment));
        let ended = |n: &Range| before.iter().filter(|e| e.overlaps(n) && !is_in(&next.segments, e.segment)).map(|e| e.segment).collect();
        Some(new.map(|n| (*n, ended(n))).collect())
    }

    /// Where a reader of everything begins. The truncation cut, or the segments of the first epoch.
    pub fn head(&self) -> BTreeMap<SegmentNo, u64> {
        if self.head.is_empty() {
            return self.epochs[0].segments.iter().map(|r| (r.segment, 0)).collect();
        }
        self.head.clone()
    }

    /// The newest place of which it is known that all before it was written by a time: a mark for retention, or where a scale began. `None`: nothing is known
    /// of that time.
    pub fn place(&self, at_ms: u64) -> Option<BTreeMap<SegmentNo, u64>> {
        let mark = self.marks.iter().rev().find(|m| m.at_ms <= at_ms);
        // Where the very first epoch began there was nothing yet.
        let epoch = self.epochs.iter().skip(usize::from(self.first_epoch == 0)).rev().find(|e| e.at_ms <= at_ms);
        match (mark, epoch) {
            (Some(mark), epoch) if epoch.is_none_or(|e| e.at_ms <= mark.at_ms) => Some(mark.cut.clone()),
            (_, epoch) => Some(epoch?.segments.iter().map(|r| (r.segment, 0)).collect()),
        }
    }

    /// The segments between two cuts: those that have bytes at or after `from` and, if `to` is not empty, before `to`.
    pub fn between(&self, from: &BTreeMap<SegmentNo, u64>, to: &BTreeMap<SegmentNo, u64>) -> BTreeSet<SegmentNo> {
        let mut found: BTreeSet<SegmentNo> = self.known(from).into_keys().collect();
        // Epoch by epoch, and not from segment to segment: who holds the state's lock does this for streams of ten thousand segments.
        for pair in self.epochs.windows(2) {
            let (before, next) = (&pair[0].segments, &pair[1].segments);
            let (old, new): (HashSet<SegmentNo>, HashSet<SegmentNo>) = (before.iter().map(|r| r.segment).collect(), next.iter().map(|r| r.segment).collect());
            let mut made: Vec<&Range> = next.iter().filter(|r| !old.contains(&r.segment)).collect();
            made.sort_by(|a, b| a.low.total_cmp(&b.low));
            for ended in before.iter().filter(|r| !new.contains(&r.segment) && !to.contains_key(&r.segment)) {
                if !found.contains(&ended.segment) {
                    continue;
                }
                let first = made.partition_point(|r| r.high <= ended.low);
                found.extend(made[first..].iter().take_while(|r| r.low < ended.high).map(|r| r.segment));
            }
        }
        found
    }

    /// The segments that lie before a cut as a whole: predecessors, of all generations, of the cut's segments.
    pub fn before(&self, cut: &BTreeMap<SegmentNo, u64>) -> BTreeSet<SegmentNo> {
        let after = self.between(cut, &BTreeMap::new());
        self.segments().into_keys().filter(|s| !after.contains(s)).collect()
    }

    /// A cut names segments of this stream that cover the key space once.
    pub fn is_cut(&self, cut: &BTreeMap<SegmentNo, u64>) -> bool {
        let all = self.segments();
        let ranges: Option<Vec<Range>> = cut.keys().map(|s| all.get(s).copied()).collect();
        ranges.is_some_and(|ranges| covers(ranges, &[Range { segment: SegmentNo(0), low: 0.0, high: 1.0 }]))
    }

    pub fn txn_state(&self, id: TxnId) -> Option<TxnState> {
        if self.open.contains_key(&id) {
            return Some(TxnState::Open);
        }
        self.ended.iter().rev().find(|(e, _)| *e == id).map(|(_, s)| *s)
    }
}

/// How much two ends of ranges may differ: clients compute them.
const KEY_ERROR: f64 = 1e-9;

/// Whether two sets of ranges are the same part of the key space, each without overlaps.
pub fn covers(a: Vec<Range>, b: &[Range]) -> bool {
    let merged = |ranges: &[Range]| {
        let mut sorted = ranges.to_vec();
        sorted.sort_by(|a, b| a.low.total_cmp(&b.low));
        let mut out: Vec<(f64, f64)> = Vec::new();
        for r in sorted {
            if !(r.low < r.high && r.low >= 0.0 && r.high <= 1.0) {
                return None;
            }
            match out.last_mut() {
                Some(last) if (last.1 - r.low).abs() <= KEY_ERROR => last.1 = r.high,
                Some(last) if r.low < last.1 => return None,
                _ => out.push((r.low, r.high)),
            }
        }
        Some(out)
    };
    match (merged(&a), merged(b)) {
        (Some(a), Some(b)) => {
            a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| (a.0 - b.0).abs() <= KEY_ERROR && (a.1 - b.1).abs() <= KEY_ERROR)
        }
        _ => false,
    }
}

/// `count` equal ranges over the whole key space, numbered from `first`.
pub fn even(count: u32, epoch: u32, first: u32) -> Vec<Range> {
    let at = |i: u32| f64::from(i) / f64::from(count);
    (0..count).map(|i| Range { segment: SegmentNo::new(epoch, first + i), low: at(i), high: at(i + 1) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> Stream {
        let mut catalog = Catalog::default();
        let (scope, stream) = ("s".to_string(), "t".to_string());
        catalog.apply(Change::CreateScope { scope: scope.clone() });
        let epoch = Epoch { at_ms: 0, segments: even(2, 0, 0) };
        catalog.apply(Change::CreateStream { scope: scope.clone(), stream: stream.clone(), config: Config::default(), epoch });
        // Segment 0 splits in two; then its halves and segment 1 become one.
        let [a, b] = even(2, 0, 0)[..] else { unreachable!() };
        let part = |n, low, high| Range { segment: SegmentNo::new(1, n), low, high };
        let split = vec![part(2, 0.0, 0.25), part(3, 0.25, 0.5), b];
        catalog.apply(Change::NewEpoch { scope: scope.clone(), stream: stream.clone(), epoch: Epoch { at_ms: 1, segments: split } });
        let one = vec![Range { segment: SegmentNo::new(2, 4), low: 0.0, high: 1.0 }];
        catalog.apply(Change::NewEpoch { scope: scope.clone(), stream: stream.clone(), epoch: Epoch { at_ms: 2, segments: one } });
        assert_eq!(a.segment, SegmentNo(0));
        catalog.stream(&scope, &stream).unwrap().clone()
    }

    #[test]
    fn successors_name_all_their_predecessors() {
        let stream = stream();
        let no = SegmentNo::new;
        let after = |s| {
            let found = stream.successors(s).unwrap();
            found.into_iter().map(|(r, p)| (r.segment, p)).collect::<Vec<_>>()
        };
        assert_eq!(after(no(0, 0)), [(no(1, 2), vec![no(0, 0)]), (no(1, 3), vec![no(0, 0)])]);
        assert_eq!(after(no(0, 1)), [(no(2, 4), vec![no(1, 2), no(1, 3), no(0, 1)])]);
        assert_eq!(after(no(2, 4)), []);
        assert!(stream.successors(no(7, 7)).is_none());
    }

    #[test]
    fn cuts() {
        let stream = stream();
        let no = SegmentNo::new;
        let cut = |of: &[SegmentNo]| of.iter().map(|s| (*s, 0)).collect::<BTreeMap<_, _>>();
        assert!(stream.is_cut(&cut(&[no(0, 0), no(0, 1)])) && stream.is_cut(&cut(&[no(1, 2), no(1, 3), no(0, 1)])));
        assert!(!stream.is_cut(&cut(&[no(0, 0)])) && !stream.is_cut(&cut(&[no(0, 0), no(1, 2), no(0, 1)])));
        assert_eq!(stream.before(&cut(&[no(1, 2), no(1, 3), no(0, 1)])), [no(0, 0)].into());
        let between = stream.between(&cut(&[no(0, 0), no(0, 1)]), &cut(&[no(1, 2), no(1, 3), no(0, 1)]));
        assert_eq!(between, [no(0, 0), no(0, 1), no(1, 2), no(1, 3)].into());
    }

    #[test]
    fn epochs_before_the_beginning_are_dropped_and_the_others_keep_their_numbers() {
        let mut catalog = Catalog::default();
        let (scope, name) = (|| "s".to_string(), || "t".to_string());
        catalog.apply(Change::CreateScope { scope: scope() });
        catalog.apply(Change::CreateStream { scope: scope(), stream: name(), config: Config::default(), epoch: Epoch { at_ms: 0, segments: even(2, 0, 0) } });
        let no = SegmentNo::new;
        // The first half is replaced again and again, the second one stays.
        for n in 1..=500u32 {
            let segments = vec![Range { segment: no(n, n + 1), low: 0.0, high: 0.5 }, even(2, 0, 0)[1]];
            catalog.apply(Change::NewEpoch { scope: scope(), stream: name(), epoch: Epoch { at_ms: 1, segments } });
        }
        let txn = TxnId { high: 0, low: 1 };
        let begun = |epoch| Change::BeginTxn { scope: scope(), stream: name(), id: txn, txn: Txn { epoch, lease_ms: 1, at_ms: 1 } };
        let truncate = |n: u32| Change::Truncate { scope: scope(), stream: name(), cut: [(no(n, n + 1), 7), (no(0, 1), 9)].into() };
        let kept = |catalog: &Catalog| {
            let stream = catalog.stream("s", "t").unwrap();
            (stream.first_epoch, stream.epochs.len(), stream.epoch_number())
        };
        assert_eq!(kept(&catalog), (0, 501, 500));
        // Readers that are a little late still learn what follows.
        let late = RANGES_BEFORE_MAX as u32 / 2;
        catalog.apply(truncate(late));
        assert_eq!(kept(&catalog), (0, 501, 500));
        catalog.apply(truncate(300));
        assert_eq!(kept(&catalog), (300 - late, 201 + late as usize, 500));
        let stream = catalog.stream("s", "t").unwrap().clone();
        assert!(stream.epoch(299 - late).is_none() && stream.epoch(501).is_none());
        assert_eq!(stream.epoch(300).unwrap().segments[0].segment, no(300, 301));
        assert_eq!(stream.successors(no(250, 251)).unwrap()[0].0.segment, no(251, 252));
        assert!(stream.successors(no(3, 4)).is_none());
        assert!(stream.is_cut(&[(no(400, 401), 0), (no(0, 1), 0)].into()) && !stream.is_cut(&[(no(3, 4), 0), (no(0, 1), 0)].into()));
        assert_eq!(stream.between(&BTreeMap::new(), &BTreeMap::new()).len(), 202, "from the head on, with the half that stays");
        // What lies before all that is known lies before everything.
        let long_ago = [(no(3, 4), 5), (no(0, 1), 2)].into();
        assert!(subscribers::at_or_after(&stream, &stream.head(), &long_ago) && !subscribers::at_or_after(&stream, &long_ago, &stream.head()));
        // A transaction is committed into the segments of its own epoch.
        catalog.apply(begun(310));
        catalog.apply(truncate(490));
        assert_eq!(kept(&catalog), (310 - late, 191 + late as usize, 500));
        catalog.apply(Change::EndTxn { scope: scope(), stream: name(), id: txn, state: TxnState::Aborted });
        catalog.apply(truncate(500));
        assert_eq!(kept(&catalog), (500 - late, 1 + late as usize, 500));
    }

    #[test]
    fn of_deleted_streams_the_numbers_are_remembered_however_many_there_are() {
        let mut catalog = Catalog::default();
        catalog.apply(Change::CreateScope { scope: "s".into() });
        for n in 0..GONE_MAX as u32 + 10 {
            let (scope, stream) = ("s".to_string(), format!("t{n}"));
            let epoch = Epoch { at_ms: 0, segments: even(1 + n % 3, 0, 0) };
            catalog.apply(Change::CreateStream { scope: scope.clone(), stream: stream.clone(), config: Config::default(), epoch });
            catalog.apply(Change::DeleteStream { scope, stream });
        }
        assert!(catalog.scopes["s"].gone.len() <= GONE_MAX);
        assert!((0..GONE_MAX as u32 + 10).all(|n| catalog.first_number("s", &format!("t{n}")) >= 1 + n % 3));
    }

    #[test]
    fn names_are_pravegas() {
        assert_eq!(SegmentNo::new(3, 7).name("s", "t"), "s/t/7.#epoch.3");
        assert_eq!(SegmentNo::new(3, 7).0, 3 << 32 | 7);
        let txn = TxnId { high: 1 << 32, low: 10 };
        assert_eq!(txn.segment("s/t/0.#epoch.1"), "s/t/0.#epoch.1#transaction.0000000100000000000000000000000a");
    }
}
