//! The controller's decisions: from the state and a request to the one record that makes it true. No input or output, no clock.
//!
//! A record holds what a decision means for the catalog *and* for the segments, so a scale or a commit is there as a whole or not at all.

use crate::{
    Error, Result,
    catalog::{self, Change, Config, Epoch, Group, KeyValueTable, Range, SegmentNo, Stream, Txn, TxnId, TxnState, covers, even},
    segment::{Record, State},
    watermark,
};
use std::collections::BTreeMap;

/// A record to write, if anything changes, and what to answer then.
pub type Plan<T> = Result<(Option<Record>, T)>;

/// Segments that a stream may have at a time.
pub const SEGMENTS_MAX: usize = 10_000;
/// Segments of all streams, tables and open transactions, and those that clients make by themselves: each takes memory and its part of every checkpoint.
pub const SEGMENTS_ALL: usize = 200_000;
/// Open transactions of a stream.
pub const OPEN_MAX: usize = 10_000;
/// Ranges in the epochs of all streams: each scale notes all segments of its stream.
pub const RANGES_ALL: usize = 4_000_000;
/// Scopes.
pub const SCOPES_MAX: usize = 100_000;
/// Tags of a stream, and the bytes of one.
pub const TAGS_MAX: (usize, usize) = (128, 256);
/// Bytes of a reader group's configuration.
pub const GROUP_BYTES_MAX: usize = 1 << 20;
/// The longest lease of a transaction, ms.
pub const LEASE_MAX_MS: i64 = 24 * 3600 * 1000;

fn catalog(change: Change) -> Record {
    Record::Catalog(Box::new(change))
}

/// Letters, digits, `.`, `-` and `_`: what Pravega allows, with the underscore that its own clients put before internal names.
pub fn valid_name(what: &'static str, name: &str) -> Result<()> {
    let good = (1..=255).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) && name != "." && name != "..";
    match good {
        true => Ok(()),
        false => Err(Error::Invalid(format!("{what} name {name:?} is not valid: use 1 to 255 letters, digits, '.', '-' and '_'"))),
    }
}

fn full(scope: &str, stream: &str) -> String {
    format!("{scope}/{stream}")
}

/// The stream, or which of the two names is wrong.
pub fn find<'a>(state: &'a State, scope: &str, stream: &str) -> Result<&'a Stream> {
    let found = state.catalog.scopes.get(scope).ok_or_else(|| Error::NoScope(scope.into()))?;
    found.streams.get(stream).ok_or_else(|| Error::NoStream(full(scope, stream)))
}

/// Makes records of new segments, each with the next number.
struct Numbers<'a> {
    state: &'a State,
    used: usize,
    at_ms: u64,
}

impl Numbers<'_> {
    fn segment(&mut self, name: String, table: bool) -> Result<Record> {
        if self.state.names.contains_key(&name) {
            return Err(Error::SegmentExists(name));
        }
        room_for_segment(self.state, self.used)?;
        let id = self.state.new_id(self.used);
        self.used += 1;
        Ok(Record::Create { id, name, table, at_ms: self.at_ms })
    }
    fn segments(&mut self, scope: &str, stream: &str, ranges: &[Range]) -> Result<Vec<Record>> {
        ranges.iter().map(|r| self.segment(r.segment.name(scope, stream), false)).collect()
    }
}

fn numbers(state: &State, at_ms: u64) -> Numbers<'_> {
    Numbers { state, used: 0, at_ms }
}

/// The record that seals a segment, if it is there and open.
fn seal(state: &State, name: &str) -> Option<Record> {
    state.find(name).ok().filter(|(_, s)| !s.sealed).map(|(id, _)| Record::Seal { id })
}

fn delete(state: &State, name: &str) -> Option<Record> {
    state.find(name).ok().map(|(id, _)| Record::Delete { id })
}

pub fn create_scope(state: &State, scope: &str) -> Plan<()> {
    valid_name("scope", scope)?;
    if state.catalog.scopes.contains_key(scope) {
        return Err(Error::ScopeExists(scope.into()));
    }
    if state.catalog.scopes.len() >= SCOPES_MAX {
        return Err(Error::TooLarge { what: "scopes".into(), limit: SCOPES_MAX as u64, wanted: SCOPES_MAX as u64 + 1 });
    }
    Ok((Some(catalog(Change::CreateScope { scope: scope.into() })), ()))
}

/// Deletes a scope; with `all`, its streams, groups and tables too.
pub fn delete_scope(state: &State, scope: &str, all: bool) -> Plan<()> {
    let found = state.catalog.scopes.get(scope).ok_or_else(|| Error::NoScope(scope.into()))?;
    if !all && !(found.streams.is_empty() && found.groups.is_empty() && found.tables.is_empty()) {
        return Err(Error::ScopeNotEmpty(scope.into()));
    }
    // Segments that clients made by themselves, such as a reader group's table, go with it.
    let prefix = format!("{scope}/");
    let inside = state.segments.iter().filter(|(_, s)| !s.deleted && s.name.starts_with(&prefix));
    let mut records: Vec<Record> = inside.map(|(id, _)| Record::Delete { id: *id }).collect();
    records.push(catalog(Change::DeleteScope { scope: scope.into() }));
    Ok((Some(Record::Many(records)), ()))
}

/// Whether there may be one more segment beside those that are there and `more`.
pub fn room_for_segment(state: &State, more: usize) -> Result<()> {
    let wanted = state.names.len() + more + 1;
    match wanted > SEGMENTS_ALL {
        true => Err(Error::TooLarge { what: "segments in all".into(), limit: SEGMENTS_ALL as u64, wanted: wanted as u64 }),
        false => Ok(()),
    }
}

/// Whether epochs of so many segments may follow.
fn room_for_ranges(state: &State, name: &str, more: usize) -> Result<()> {
    let wanted = state.catalog.ranges() + more;
    match wanted > RANGES_ALL {
        true => Err(Error::TooLarge { what: format!("key ranges of all epochs, with those of {name} (truncating streams makes room)"), limit: RANGES_ALL as u64, wanted: wanted as u64 }),
        false => Ok(()),
    }
}

fn group_bounded(scope: &str, group: &str, config: &[u8]) -> Result<()> {
    match config.len() > GROUP_BYTES_MAX {
        true => Err(Error::TooLarge { what: format!("the configuration of reader group {scope}/{group}"), limit: GROUP_BYTES_MAX as u64, wanted: config.len() as u64 }),
        false => Ok(()),
    }
}

/// A policy that asks for more segments than a stream may have would have them made all at once.
fn bounded(name: &str, config: &Config) -> Result<()> {
    let wanted = config.scaling.min_segments.max(config.scaling.factor);
    if config.tags.len() > TAGS_MAX.0 || config.tags.iter().any(|t| t.len() > TAGS_MAX.1) {
        return Err(Error::TooLarge { what: format!("a tag of {name}, or how many there are"), limit: TAGS_MAX.1 as u64, wanted: config.tags.iter().map(String::len).sum::<usize>() as u64 });
    }
    match usize::try_from(wanted).unwrap_or(0) > SEGMENTS_MAX {
        true => Err(Error::TooLarge { what: format!("segments of {name}"), limit: SEGMENTS_MAX as u64, wanted: wanted as u64 }),
        false => Ok(()),
    }
}

pub fn create_stream(state: &State, scope: &str, stream: &str, config: Config, at_ms: u64) -> Plan<()> {
    valid_name("stream", stream)?;
    if stream.ends_with(TABLE) {
        return Err(Error::Invalid(format!("stream name {stream:?} ends in {TABLE}, as those of tables' parts do: choose another one")));
    }
    let found = state.catalog.scopes.get(scope).ok_or_else(|| Error::NoScope(scope.into()))?;
    if found.streams.contains_key(stream) {
        return Err(Error::StreamExists(full(scope, stream)));
    }
    bounded(&full(scope, stream), &config)?;
    let segments = even(config.scaling.min_segments.max(1) as u32, 0, state.catalog.first_number(scope, stream));
    let mut records = numbers(state, at_ms).segments(scope, stream, &segments)?;
    let epoch = Epoch { at_ms, segments };
    records.push(catalog(Change::CreateStream { scope: scope.into(), stream: stream.into(), config, epoch }));
    Ok((Some(Record::Many(records)), ()))
}

pub fn update_stream(state: &State, scope: &str, stream: &str, config: Config) -> Plan<()> {
    if find(state, scope, stream)?.sealed {
        return Err(Error::StreamSealed(full(scope, stream)));
    }
    bounded(&full(scope, stream), &config)?;
    Ok((Some(catalog(Change::UpdateStream { scope: scope.into(), stream: stream.into(), config })), ()))
}

/// Ends a stream. Transactions that are open then can't be committed any more and are aborted.
pub fn seal_stream(state: &State, scope: &str, stream: &str) -> Plan<()> {
    let found = find(state, scope, stream)?;
    if found.sealed {
        return Ok((None, ()));
    }
    let mut records = Vec::new();
    for (id, txn) in &found.open {
        records.extend(drop_txn(state, scope, stream, found, *id, txn));
        records.push(catalog(Change::EndTxn { scope: scope.into(), stream: stream.into(), id: *id, state: TxnState::Aborted }));
    }
    records.extend(found.current().segments.iter().filter_map(|r| seal(state, &r.segment.name(scope, stream))));
    records.push(catalog(Change::SealStream { scope: scope.into(), stream: stream.into() }));
    Ok((Some(Record::Many(records)), ()))
}

pub fn delete_stream(state: &State, scope: &str, stream: &str) -> Plan<()> {
    let found = find(state, scope, stream)?;
    if !found.sealed {
        return Err(Error::StreamNotSealed(full(scope, stream)));
    }
    let mut records = Vec::new();
    // Its watermarks go with it.
    let marks = watermark::mark_stream(stream);
    for (name, found) in [(stream, Some(found)), (marks.as_str(), state.catalog.stream(scope, &marks))] {
        if let Some(found) = found {
            records.extend(found.segments().into_keys().filter_map(|s| delete(state, &s.name(scope, name))));
            records.push(catalog(Change::DeleteStream { scope: scope.into(), stream: name.into() }));
        }
    }
    Ok((Some(Record::Many(records)), ()))
}

/// Forgets what lies before a cut.
pub fn truncate_stream(state: &State, scope: &str, stream: &str, mut cut: BTreeMap<SegmentNo, u64>) -> Plan<()> {
    let found = find(state, scope, stream)?;
    if !found.is_cut(&cut) {
        return Err(Error::Invalid(format!("the cut of {} does not cover its keys once with segments that it has", full(scope, stream))));
    }
    let reachable = found.between(&found.head(), &BTreeMap::new());
    if let Some(segment) = cut.keys().find(|s| !reachable.contains(s)) {
        return Err(Error::Invalid(format!("segment {} lies before the beginning of {}", segment.0, full(scope, stream))));
    }
    let mut records = Vec::new();
    for (segment, offset) in &mut cut {
        let name = segment.name(scope, stream);
        let (id, s) = state.find(&name)?;
        if *offset > s.length {
            return Err(Error::BeyondEnd { segment: name, length: s.length, offset: *offset });
        }
        // What lies before is gone already; who reads from the stream's head begins at a place that is there.
        *offset = (*offset).max(s.start);
        if *offset > s.start {
            records.push(Record::Truncate { id, start: *offset });
        }
    }
    records.extend(found.before(&cut).into_iter().filter_map(|s| delete(state, &s.name(scope, stream))));
    records.push(catalog(Change::Truncate { scope: scope.into(), stream: stream.into(), cut }));
    Ok((Some(Record::Many(records)), ()))
}

/// Notes where the tail is, for retention.
pub fn mark(state: &State, scope: &str, stream: &str, at_ms: u64) -> Plan<()> {
    let found = find(state, scope, stream)?;
    let mut cut = BTreeMap::new();
    for range in &found.current().segments {
        cut.insert(range.segment, state.segment(&range.segment.name(scope, stream))?.length);
    }
    // A tail that has not moved is marked already, and gets older with its mark.
    if found.marks.last().is_some_and(|m| m.cut == cut) {
        return Ok((None, ()));
    }
    Ok((Some(catalog(Change::Mark { scope: scope.into(), stream: stream.into(), mark: catalog::Mark { at_ms, cut } })), ()))
}

/// Replaces segments by others with the same keys. Answers the number of the epoch that ends, and the new segments.
pub fn scale(state: &State, scope: &str, stream: &str, seal_: &[SegmentNo], ranges: &[(f64, f64)], at_ms: u64) -> Plan<(u32, Vec<Range>)> {
    let found = find(state, scope, stream)?;
    let name = full(scope, stream);
    if found.sealed {
        return Err(Error::StreamSealed(name));
    }
    let current = &found.current().segments;
    let ending: Vec<Range> = current.iter().filter(|r| seal_.contains(&r.segment)).copied().collect();
    if ending.len() != seal_.len() || ending.is_empty() {
        return Err(Error::Conflict(format!("not all of the {} segments to be replaced are written to in {name}", seal_.len())));
    }
    if current.len() - ending.len() + ranges.len() > SEGMENTS_MAX {
        return Err(Error::TooLarge { what: format!("segments of {name}"), limit: SEGMENTS_MAX as u64, wanted: (current.len() + ranges.len()) as u64 });
    }
    room_for_ranges(state, &name, current.len() + ranges.len())?;
    let epoch = found.epoch_number() + 1;
    let mut sorted = ranges.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let new: Vec<Range> = sorted
        .iter()
        .zip(found.next_number..)
        .map(|((low, high), n)| Range { segment: SegmentNo::new(epoch, n), low: *low, high: *high })
        .collect();
    if !covers(new.clone(), &ending) {
        return Err(Error::Conflict(format!("the new ranges of {name} are not those of the segments that they replace")));
    }
    let mut records = numbers(state, at_ms).segments(scope, stream, &new)?;
    records.extend(ending.iter().filter_map(|r| seal(state, &r.segment.name(scope, stream))));
    let kept = current.iter().filter(|r| !seal_.contains(&r.segment)).copied();
    let mut segments: Vec<Range> = kept.chain(new.iter().copied()).collect();
    segments.sort_by(|a, b| a.low.total_cmp(&b.low));
    records.push(catalog(Change::NewEpoch { scope: scope.into(), stream: stream.into(), epoch: Epoch { at_ms, segments } }));
    Ok((Some(Record::Many(records)), (epoch - 1, new)))
}

/// Opens a transaction: a segment of its own for each that is written to now.
pub fn begin_txn(state: &State, scope: &str, stream: &str, lease_ms: i64, at_ms: u64) -> Plan<(TxnId, Vec<Range>)> {
    let found = find(state, scope, stream)?;
    if found.sealed {
        return Err(Error::StreamSealed(full(scope, stream)));
    }
    if !(1..=LEASE_MAX_MS).contains(&lease_ms) {
        return Err(Error::Invalid(format!("a lease of {lease_ms} ms; 1 to {LEASE_MAX_MS} are allowed")));
    }
    if found.open.len() >= OPEN_MAX {
        return Err(Error::TooLarge { what: format!("open transactions of {}", full(scope, stream)), limit: OPEN_MAX as u64, wanted: OPEN_MAX as u64 + 1 });
    }
    let epoch = found.epoch_number();
    let id = TxnId { high: i64::from(epoch) << 32, low: state.catalog.next_txn };
    let ranges = found.current().segments.clone();
    let mut new = numbers(state, at_ms);
    let mut records = Vec::new();
    for range in &ranges {
        records.push(new.segment(id.segment(&range.segment.name(scope, stream)), false)?);
    }
    let txn = Txn { epoch, lease_ms: lease_ms as u64, at_ms };
    records.push(catalog(Change::BeginTxn { scope: scope.into(), stream: stream.into(), id, txn }));
    Ok((Some(Record::Many(records)), (id, ranges)))
}

/// The segments that were written to when a transaction began.
fn began<'a>(found: &'a Stream, txn: &Txn) -> &'a [Range] {
    &found.epoch(txn.epoch).expect("an epoch stays as long as one of its transactions is open").segments
}

fn drop_txn(state: &State, scope: &str, stream: &str, found: &Stream, id: TxnId, txn: &Txn) -> Vec<Record> {
    began(found, txn).iter().filter_map(|r| delete(state, &id.segment(&r.segment.name(scope, stream)))).collect()
}

pub fn abort_txn(state: &State, scope: &str, stream: &str, id: TxnId) -> Plan<()> {
    let found = find(state, scope, stream)?;
    let Some(txn) = found.open.get(&id) else {
        return match found.txn_state(id) {
            Some(TxnState::Aborted) => Ok((None, ())),
            _ => Err(Error::NoTxn(format!("{:x}-{:x}", id.high, id.low))),
        };
    };
    let mut records = drop_txn(state, scope, stream, found, id, txn);
    records.push(catalog(Change::EndTxn { scope: scope.into(), stream: stream.into(), id, state: TxnState::Aborted }));
    Ok((Some(Record::Many(records)), ()))
}

/// Adds a transaction's events to the stream, all at once.
///
/// If the stream was scaled since it began, its events lie in ranges that no segment has any more. Then two epochs follow: one with the ranges of its
/// own epoch, which takes them and ends, and one with the ranges of now. So events of a key keep their order, and readers find their way by
/// successors as ever.
pub fn commit_txn(state: &State, scope: &str, stream: &str, id: TxnId, at_ms: u64) -> Plan<()> {
    let found = find(state, scope, stream)?;
    let Some(txn) = found.open.get(&id) else {
        return match found.txn_state(id) {
            Some(TxnState::Committed) => Ok((None, ())),
            _ => Err(Error::NoTxn(format!("{:x}-{:x}", id.high, id.low))),
        };
    };
    let own = began(found, txn);
    // A truncated one would leave a gap in the target.
    let source = |r: &Range| {
        let (number, segment) = state.find(&id.segment(&r.segment.name(scope, stream)))?;
        match segment.start {
            0 => Ok(number),
            start => Err(Error::Invalid(format!("{} was truncated at {start}; its transaction can only be aborted", segment.name))),
        }
    };
    let mut records = Vec::new();
    let end = Change::EndTxn { scope: scope.into(), stream: stream.into(), id, state: TxnState::Committed };
    let current = &found.current().segments;
    if own.iter().all(|r| current.iter().any(|c| c.segment == r.segment)) {
        for range in own {
            let (target, segment) = state.find(&range.segment.name(scope, stream))?;
            segment.writable()?;
            records.push(Record::Merge { source: source(range)?, target });
        }
        records.push(catalog(end));
        return Ok((Some(Record::Many(records)), ()));
    }
    room_for_ranges(state, &full(scope, stream), own.len() + current.len())?;
    let mut new = numbers(state, at_ms);
    let epoch = found.epoch_number() + 1;
    let number = |of: &[Range], epoch: u32, first: u32| -> Vec<Range> {
        of.iter().zip(first..).map(|(r, n)| Range { segment: SegmentNo::new(epoch, n), ..*r }).collect()
    };
    let again = number(own, epoch, found.next_number);
    let back = number(current, epoch + 1, found.next_number + again.len() as u32);
    for (range, own) in again.iter().zip(own) {
        let create = new.segment(range.segment.name(scope, stream), false)?;
        let Record::Create { id: target, .. } = &create else { unreachable!("a new segment's record makes it") };
        let target = *target;
        records.push(create);
        records.push(Record::Merge { source: source(own)?, target });
        records.push(Record::Seal { id: target });
    }
    records.extend(new.segments(scope, stream, &back)?);
    records.extend(current.iter().filter_map(|r| seal(state, &r.segment.name(scope, stream))));
    for segments in [again, back] {
        records.push(catalog(Change::NewEpoch { scope: scope.into(), stream: stream.into(), epoch: Epoch { at_ms, segments } }));
    }
    records.push(catalog(end));
    Ok((Some(Record::Many(records)), ()))
}

/// Name of the stream in which Java's client keeps a reader group's state.
pub fn group_stream(group: &str) -> String {
    format!("_RG{group}")
}

/// Makes a reader group and its stream. Answers the configuration that holds: that of the first who made it.
pub fn create_group(state: &State, scope: &str, group: &str, config: Vec<u8>, at_ms: u64) -> Plan<Group> {
    valid_name("reader group", group)?;
    let found = state.catalog.scopes.get(scope).ok_or_else(|| Error::NoScope(scope.into()))?;
    if let Some(there) = found.groups.get(group) {
        return Ok((None, there.clone()));
    }
    group_bounded(scope, group, &config)?;
    let new = Group::new(config, 0);
    let mut records = Vec::new();
    let stream = group_stream(group);
    if !found.streams.contains_key(&stream) {
        let scaling = catalog::Scaling { min_segments: 1, ..Default::default() };
        records.extend(create_stream(state, scope, &stream, Config { scaling, ..Config::default() }, at_ms)?.0);
    }
    records.push(catalog(Change::SetGroup { scope: scope.into(), group: group.into(), to: Some(new.clone()) }));
    Ok((Some(Record::Many(records)), new))
}

pub fn update_group(state: &State, scope: &str, group: &str, generation: i64, config: Vec<u8>) -> Plan<i64> {
    let there = state.catalog.scopes.get(scope).and_then(|s| s.groups.get(group));
    let there = there.ok_or_else(|| Error::NotFound(format!("reader group {scope}/{group} does not exist")))?;
    if there.generation != generation {
        return Err(Error::Conflict(format!("reader group {scope}/{group} is at generation {}, not {generation}", there.generation)));
    }
    group_bounded(scope, group, &config)?;
    let to = Some(Group::new(config, generation + 1));
    Ok((Some(catalog(Change::SetGroup { scope: scope.into(), group: group.into(), to })), generation + 1))
}

pub fn delete_group(state: &State, scope: &str, group: &str) -> Plan<()> {
    let there = state.catalog.scopes.get(scope).is_some_and(|s| s.groups.contains_key(group));
    if !there {
        return Err(Error::NotFound(format!("reader group {scope}/{group} does not exist")));
    }
    let mut records = vec![catalog(Change::SetGroup { scope: scope.into(), group: group.into(), to: None })];
    let stream = group_stream(group);
    if let Some(found) = state.catalog.stream(scope, &stream) {
        records.extend(found.segments().into_keys().filter_map(|s| delete(state, &s.name(scope, &stream))));
        records.push(catalog(Change::DeleteStream { scope: scope.into(), stream }));
    }
    Ok((Some(Record::Many(records)), ()))
}

/// What the name ends in under which a key-value table's segments are found, which is like a stream's. The controller makes no stream with such a name.
pub const TABLE: &str = "_kvtable";

fn table_stream(table: &str) -> String {
    format!("{table}{TABLE}")
}

pub fn create_table(state: &State, scope: &str, table: &str, to: KeyValueTable, at_ms: u64) -> Plan<()> {
    valid_name("table", table)?;
    let found = state.catalog.scopes.get(scope).ok_or_else(|| Error::NoScope(scope.into()))?;
    if found.tables.contains_key(table) {
        return Err(Error::StreamExists(full(scope, table)));
    }
    if to.partitions < 1 || to.partitions as usize > SEGMENTS_MAX {
        return Err(Error::Invalid(format!("{} partitions; 1 to {SEGMENTS_MAX} are allowed", to.partitions)));
    }
    let mut new = numbers(state, at_ms);
    let mut records = Vec::new();
    for range in even(to.partitions as u32, 0, 0) {
        records.push(new.segment(range.segment.name(scope, &table_stream(table)), true)?);
    }
    records.push(catalog(Change::SetTable { scope: scope.into(), table: table.into(), to: Some(to) }));
    Ok((Some(Record::Many(records)), ()))
}

pub fn delete_table(state: &State, scope: &str, table: &str) -> Plan<()> {
    let found = state.catalog.scopes.get(scope).and_then(|s| s.tables.get(table));
    let found = found.ok_or_else(|| Error::NotFound(format!("table {scope}/{table} does not exist")))?;
    let ranges = even(found.partitions as u32, 0, 0);
    let mut records: Vec<Record> = ranges.iter().filter_map(|r| delete(state, &r.segment.name(scope, &table_stream(table)))).collect();
    records.push(catalog(Change::SetTable { scope: scope.into(), table: table.into(), to: None }));
    Ok((Some(Record::Many(records)), ()))
}
