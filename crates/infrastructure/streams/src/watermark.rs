//! Event time: what writers say of it, and the watermarks that follow. Decisions are pure functions; one task asks them.
//!
//! A writer *notes* that all it has of a time lies before a position. When all writers that are active have noted a time later than the last watermark, the
//! next one says: what is of a time before the earliest of theirs lies before this cut. The cut is the upper bound of the writers' positions, made whole with
//! segments of its highest epoch and never before the last one. A writer that stays behind for longer than the stream's timeout, or has left, is not waited for.
//!
//! A watermark is an event of the stream's *mark stream*, in the form in which Java's client reads it. That stream is made when a watermark or a client needs it.

use crate::{
    Error, Result, Store,
    catalog::{self, Change, Config, Range, SegmentNo, Stream, Watermark, WriterMark, covers},
    plan::{self, Plan},
    segment::{NO_VALUE, Record, State, pieces},
};
use base::clock::now_ms;
use bytes::{BufMut, Bytes, BytesMut};
use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

/// Writers of a stream that can have a mark at a time.
pub const WRITERS_MAX: usize = 10_000;
/// Bytes of a writer's name.
const WRITER_NAME_MAX: usize = 256;
/// How often watermarks are looked at.
const TICK: Duration = Duration::from_secs(1);
/// Before the name of a stream's mark stream.
const MARK_PREFIX: &str = "_MARK";
/// The attribute under which clients keep where to begin with a mark stream: MurmurHash3 of `RevisionStreamClientMark`, seeded with `SegmentAttribute`.
pub(crate) const MARK_ATTRIBUTE: u128 = 0x7df9_a874_246c_c9d6_9397_cdd1_9ead_68c5;
/// Under which watermarks are appended.
const WRITER: u128 = 0xc10d_5c17_0000_0000_0000_0000_0000_0001;

/// The stream that has the watermarks of `stream`.
pub fn mark_stream(stream: &str) -> String {
    format!("{MARK_PREFIX}{stream}")
}

/// The stream of which this one has the watermarks.
pub fn marked(name: &str) -> Option<&str> {
    name.strip_prefix(MARK_PREFIX)
}

/// What becomes of a note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    Taken,
    /// The writer has said a later time before.
    Earlier,
    /// The writer has been further, or the stream does not have these segments.
    Behind,
}

/// A writer's note.
pub fn note(state: &State, scope: &str, stream: &str, writer: &str, mark: WriterMark) -> Plan<Noted> {
    let found = plan::find(state, scope, stream)?;
    let all = found.segments();
    if mark.position.is_empty() || !mark.position.keys().all(|s| all.contains_key(s)) {
        return Ok((None, Noted::Behind));
    }
    if writer.len() > WRITER_NAME_MAX {
        return Err(Error::Invalid(format!("a writer's name of {} bytes; {WRITER_NAME_MAX} are allowed", writer.len())));
    }
    let told = state.catalog.told(scope, stream);
    match told.and_then(|t| t.writers.get(writer)) {
        Some(before) if before.time > mark.time => return Ok((None, Noted::Earlier)),
        Some(before) if !follows(&before.position, &mark.position) => return Ok((None, Noted::Behind)),
        Some(_) => {}
        None if told.is_some_and(|t| t.writers.len() >= WRITERS_MAX) => {
            return Err(Error::TooLarge { what: format!("writers with a time for {scope}/{stream}"), limit: WRITERS_MAX as u64, wanted: WRITERS_MAX as u64 + 1 });
        }
        None => {}
    }
    let change = Change::NoteWriter { scope: scope.into(), stream: stream.into(), writer: writer.into(), mark: Some(mark) };
    Ok((Some(Record::Catalog(Box::new(change))), Noted::Taken))
}

/// A writer leaves; `false` when it never was there. It counts until its mark is behind a watermark.
pub fn leave(state: &State, scope: &str, stream: &str, writer: &str) -> Plan<bool> {
    plan::find(state, scope, stream)?;
    let Some(mark) = state.catalog.told(scope, stream).and_then(|t| t.writers.get(writer)) else { return Ok((None, false)) };
    let mark = Some(WriterMark { alive: false, ..mark.clone() });
    let change = Change::NoteWriter { scope: scope.into(), stream: stream.into(), writer: writer.into(), mark };
    Ok((Some(Record::Catalog(Box::new(change))), true))
}

/// Whether a writer that was at `before` can be at `now`.
fn follows(before: &BTreeMap<SegmentNo, u64>, now: &BTreeMap<SegmentNo, u64>) -> bool {
    let last = |of: &BTreeMap<SegmentNo, u64>| of.keys().next_back().copied();
    match last(now).cmp(&last(before)) {
        std::cmp::Ordering::Greater => true,
        std::cmp::Ordering::Less => false,
        std::cmp::Ordering::Equal => now.iter().all(|(s, o)| before.get(s).is_none_or(|b| b <= o)),
    }
}

/// What to do about one stream.
#[derive(Debug, Default, PartialEq)]
pub struct Decision {
    pub watermark: Option<Watermark>,
    /// Writers that are not waited for any more.
    pub gone: Vec<String>,
}

/// `behind` is since when writers have been behind the last watermark, ms; it is kept from one decision to the next.
pub fn decide(stream: &Stream, told: &catalog::Told, behind: &mut HashMap<String, u64>, now_ms: u64) -> Decision {
    let last = told.watermark.as_ref();
    let timeout = u64::try_from(stream.config.timestamp_timeout_ms).unwrap_or(0);
    let (mut active, mut gone, mut waits) = (Vec::new(), Vec::new(), false);
    for (name, mark) in &told.writers {
        if last.is_none_or(|l| mark.time > l.lower) {
            behind.remove(name);
            active.push(mark);
        } else {
            let since = *behind.entry(name.clone()).or_insert(now_ms);
            if mark.alive && now_ms.saturating_sub(since) < timeout {
                waits = true;
            } else {
                gone.push(name.clone());
            }
        }
    }
    behind.retain(|name, _| told.writers.contains_key(name) && !gone.contains(name));
    if waits || active.is_empty() {
        return Decision { watermark: None, gone };
    }
    let mut cut = BTreeMap::new();
    let ranges = stream.segments();
    for mark in &active {
        raise(&mut cut, &ranges, &mark.position);
    }
    if let Some(last) = last {
        raise(&mut cut, &ranges, &last.cut);
    }
    if stream.first_epoch > 0 {
        // Positions may lie in segments that nobody knows any more.
        raise(&mut cut, &ranges, &stream.head());
    }
    let times = active.iter().map(|m| m.time);
    let bound = times.clone().min().zip(times.max());
    let watermark = bound.zip(whole(stream, &ranges, cut)).map(|((lower, upper), cut)| Watermark { lower, upper, cut });
    Decision { watermark, gone }
}

/// Makes `cut` an upper bound of `position`, too: of a segment the higher offset, of segments of the same keys the later one.
fn raise(cut: &mut BTreeMap<SegmentNo, u64>, ranges: &BTreeMap<SegmentNo, Range>, position: &BTreeMap<SegmentNo, u64>) {
    for (segment, offset) in position {
        let Some(own) = ranges.get(segment) else { continue };
        let shares = |other: &SegmentNo| other != segment && ranges.get(other).is_some_and(|r| r.overlaps(own));
        if let Some(there) = cut.get_mut(segment) {
            *there = (*there).max(*offset);
        } else if !cut.keys().any(|other| shares(other) && other > segment) {
            cut.retain(|other, _| !shares(other));
            cut.insert(*segment, *offset);
        }
    }
}

/// Fills what keys a bound leaves out with segments of its highest epoch, from their beginning.
fn whole(stream: &Stream, ranges: &BTreeMap<SegmentNo, Range>, mut cut: BTreeMap<SegmentNo, u64>) -> Option<BTreeMap<SegmentNo, u64>> {
    let all = [Range { segment: SegmentNo(0), low: 0.0, high: 1.0 }];
    // Each round adds a segment that was not there, or it is not the last.
    for _ in 0..=ranges.len() {
        let there: Vec<Range> = cut.keys().filter_map(|s| ranges.get(s).copied()).collect();
        if covers(there.clone(), &all) {
            return Some(cut);
        }
        let highest = there.iter().map(|r| r.segment.epoch()).max()?;
        // What was before the beginning has been dropped; the first one that is there has the same keys.
        let epoch = stream.epoch(highest).or(stream.epochs.first())?;
        let covered = |r: &Range| {
            let mut parts: Vec<(f64, f64)> = there.iter().filter(|t| t.overlaps(r)).map(|t| (t.low.max(r.low), t.high.min(r.high))).collect();
            parts.sort_by(|a, b| a.0.total_cmp(&b.0));
            let end = parts.iter().fold(r.low, |end, part| if part.0 <= end + 1e-9 { part.1.max(end) } else { end });
            end >= r.high - 1e-9
        };
        let more: BTreeMap<SegmentNo, u64> = epoch.segments.iter().filter(|r| !covered(r)).map(|r| (r.segment, 0)).collect();
        if more.is_empty() {
            return None;
        }
        raise(&mut cut, ranges, &more);
    }
    None
}

/// A watermark's event, as Java's client reads it: each object with its format, version and revision, and its length.
fn event(of: &Watermark, ranges: &BTreeMap<SegmentNo, Range>) -> Bytes {
    let object = |out: &mut BytesMut, fields: &[u8]| {
        // Format 0, version 0, one revision, of number 0.
        out.put_slice(&[0, 0, 1, 0]);
        out.put_u32(fields.len() as u32);
        out.put_slice(fields);
    };
    let mut fields = BytesMut::new();
    fields.put_i64(of.lower);
    fields.put_i64(of.upper);
    let count = of.cut.len() as u32;
    match count {
        0..=0x7f => fields.put_u8(count as u8),
        0x80..=0x3fff => fields.put_u16(count as u16 | 0x8000),
        _ => fields.put_u32(count | 0xc000_0000),
    }
    for (segment, offset) in &of.cut {
        let range = ranges.get(segment).copied().unwrap_or(Range { segment: *segment, low: 0.0, high: 1.0 });
        let mut key = BytesMut::new();
        key.put_i64(segment.0);
        key.put_f64(range.low);
        key.put_f64(range.high);
        object(&mut fields, &key);
        fields.put_i64(*offset as i64);
    }
    let mut whole = BytesMut::new();
    object(&mut whole, &fields);
    let mut event = BytesMut::with_capacity(8 + whole.len());
    event.put_i32(0);
    event.put_i32(whole.len() as i32);
    event.put_slice(&whole);
    event.freeze()
}

/// Makes the mark stream of a stream that has none yet.
pub fn make_mark_stream(state: &State, scope: &str, stream: &str, at_ms: u64) -> Plan<()> {
    plan::find(state, scope, stream)?;
    let name = mark_stream(stream);
    if state.catalog.stream(scope, &name).is_some() {
        return Ok((None, ()));
    }
    plan::create_stream(state, scope, &name, Config::default(), at_ms)
}

/// The watermark as an event, where readers begin, and the note of it: one record.
fn tell(state: &State, scope: &str, stream: &str, watermark: &Watermark) -> Result<(Option<Record>, Bytes)> {
    let found = plan::find(state, scope, stream)?;
    let Some(own) = state.catalog.stream(scope, &mark_stream(stream)) else { return Ok((None, Bytes::new())) };
    let segment = own.current().segments[0].segment.name(scope, &mark_stream(stream));
    let (id, marks) = state.find(&segment)?;
    marks.writable()?;
    let data = event(watermark, &found.segments());
    let number = match marks.attribute(WRITER) {
        NO_VALUE => 1,
        n => n + 1,
    };
    let records = vec![
        Record::Append { id, writer: WRITER, event: number, at_ms: now_ms(), pieces: pieces(&data) },
        // Whoever begins now needs the newest one, which begins where the segment ends.
        Record::Attribute { id, key: MARK_ATTRIBUTE, value: marks.length as i64 },
        Record::Catalog(Box::new(Change::Watermark { scope: scope.into(), stream: stream.into(), watermark: watermark.clone() })),
    ];
    Ok((Some(Record::Many(records)), data))
}

/// Tells watermarks and forgets writers until it is dropped.
pub async fn run(store: Store) {
    let mut tick = tokio::time::interval(TICK);
    let mut behind: HashMap<(String, String), HashMap<String, u64>> = HashMap::new();
    loop {
        tick.tick().await;
        let now = now_ms();
        let work: Vec<(String, String, Decision)> = store.peek(|state| {
            behind.retain(|(scope, stream), _| state.catalog.told(scope, stream).is_some());
            let mut work = Vec::new();
            for (scope, name, stream) in state.catalog.streams() {
                let Some(told) = state.catalog.told(scope, name).filter(|t| !t.writers.is_empty()) else { continue };
                let decision = decide(stream, told, behind.entry((scope.into(), name.into())).or_default(), now);
                if decision != Decision::default() {
                    work.push((scope.to_string(), name.to_string(), decision));
                }
            }
            work
        });
        for (scope, stream, Decision { watermark, gone }) in work {
            let done = async {
                for writer in gone {
                    store
                        .change(|state| {
                            let there = state.catalog.told(&scope, &stream).is_some_and(|t| t.writers.contains_key(&writer));
                            let change = Change::NoteWriter { scope: scope.clone(), stream: stream.clone(), writer, mark: None };
                            Ok((there.then(|| Record::Catalog(Box::new(change))), ()))
                        })
                        .await?;
                }
                if let Some(watermark) = watermark {
                    store.change(|state| make_mark_stream(state, &scope, &stream, now)).await?;
                    store.settle(store.commit_with(|state| tell(state, &scope, &stream, &watermark))).await?;
                }
                Ok(())
            };
            match done.await {
                Ok(()) => {}
                Err(Error::Stopped(_)) => return,
                Err(e) => tracing::debug!(%scope, %stream, error = %e, "no watermark: the stream changed meanwhile"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Epoch, Told, even};

    fn stream(timeout: i64) -> Stream {
        let mut catalog = catalog::Catalog::default();
        catalog.apply(Change::CreateScope { scope: "s".into() });
        let config = Config { timestamp_timeout_ms: timeout, ..Config::default() };
        catalog.apply(Change::CreateStream { scope: "s".into(), stream: "t".into(), config, epoch: Epoch { at_ms: 0, segments: even(2, 0, 0) } });
        catalog.apply(Change::NewEpoch { scope: "s".into(), stream: "t".into(), epoch: Epoch { at_ms: 1, segments: even(3, 1, 2) } });
        catalog.stream("s", "t").unwrap().clone()
    }

    fn mark(time: i64, position: &[(u32, u32, u64)]) -> WriterMark {
        WriterMark { time, position: position.iter().map(|(e, n, o)| (SegmentNo::new(*e, *n), *o)).collect(), alive: true }
    }

    fn cut(of: &[(u32, u32, u64)]) -> BTreeMap<SegmentNo, u64> {
        mark(0, of).position
    }

    fn told(writers: &[(&str, WriterMark)], watermark: Option<Watermark>) -> Told {
        Told { writers: writers.iter().map(|(n, m)| (n.to_string(), m.clone())).collect(), watermark, ..Told::default() }
    }

    #[test]
    fn the_earliest_time_and_the_furthest_position() {
        let (stream, mut behind) = (stream(1000), HashMap::new());
        let both = told(&[("a", mark(10, &[(0, 0, 50), (0, 1, 70)])), ("b", mark(20, &[(0, 0, 90)]))], None);
        let first = decide(&stream, &both, &mut behind, 0);
        assert_eq!(first, Decision { watermark: Some(Watermark { lower: 10, upper: 20, cut: cut(&[(0, 0, 90), (0, 1, 70)]) }), gone: vec![] });
        // One writer has gone on, over a scale; the other one is waited for until the timeout, and then forgotten.
        let later = told(&[("a", mark(10, &[(0, 0, 50), (0, 1, 70)])), ("b", mark(30, &[(1, 2, 5)]))], first.watermark.clone());
        assert_eq!(decide(&stream, &later, &mut behind, 100), Decision::default());
        assert_eq!(decide(&stream, &later, &mut behind, 1099), Decision::default());
        let second = decide(&stream, &later, &mut behind, 1100);
        // What the bound leaves out is filled from the epoch of the scale: segment 0 gives way as a whole, and with it segment 1.
        let expected = Watermark { lower: 30, upper: 30, cut: cut(&[(1, 2, 5), (1, 3, 0), (1, 4, 0)]) };
        assert_eq!(second, Decision { watermark: Some(expected.clone()), gone: vec!["a".into()] });
        // Nothing new is said without a later time, and one that has left is forgotten.
        let same = told(&[("b", WriterMark { alive: false, ..mark(30, &[(1, 2, 5)]) })], Some(expected));
        assert_eq!(decide(&stream, &same, &mut behind, 1200), Decision { watermark: None, gone: vec!["b".into()] });
    }

    #[test]
    fn javas_form() {
        let mark = Watermark { lower: 1, upper: 2, cut: cut(&[(1, 2, 9)]) };
        let ranges = [(SegmentNo::new(1, 2), Range { segment: SegmentNo::new(1, 2), low: 0.25, high: 1.0 })].into();
        let key = [&[0, 0, 1, 0, 0, 0, 0, 24][..], &[0, 0, 0, 1, 0, 0, 0, 2], &0.25f64.to_be_bytes(), &1f64.to_be_bytes()].concat();
        let fields = [&1i64.to_be_bytes()[..], &2i64.to_be_bytes(), &[1], &key, &9i64.to_be_bytes()].concat();
        let whole = [&[0, 0, 1, 0, 0, 0, 0, fields.len() as u8][..], &fields].concat();
        assert_eq!(event(&mark, &ranges), [&[0, 0, 0, 0, 0, 0, 0, whole.len() as u8][..], &whole].concat());
    }
}
