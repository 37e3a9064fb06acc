//! Reader groups that a stream's retention waits for: which they are, and the earliest place that all of them have left behind.
//!
//! A group of Java's client subscribes by its configuration. It then says, with [`update`], up to which cut it needs nothing any more.

use crate::{
    Error, Result,
    catalog::{Change, SegmentNo, Stream},
    plan::{self, Plan},
    proto::ReaderGroupConfiguration,
    segment::{Record, State},
};
use prost::Message;
use std::collections::{BTreeMap, HashMap};

type Cut = BTreeMap<SegmentNo, u64>;

/// What a group says of a stream's cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Updated {
    Taken,
    /// There is no such group, or it does not subscribe to the stream.
    Unknown,
    /// The group has been configured anew since.
    OtherGeneration,
    /// It is no cut of the stream, or before the one of before.
    NoCut,
}

fn subscribes(config: &[u8], scope: &str, stream: &str) -> Option<ReaderGroupConfiguration> {
    let config = ReaderGroupConfiguration::decode(config).ok()?;
    let reads = config.starting_stream_cuts.iter().any(|c| c.stream_info.as_ref().is_some_and(|i| i.scope == scope && i.stream == stream));
    (config.retention_type != 0 && reads).then_some(config)
}

/// Scopes and streams that a group of this configuration subscribes to.
pub fn kept(config: &[u8]) -> Vec<(String, String)> {
    let config = ReaderGroupConfiguration::decode(config).unwrap_or_default();
    match config.retention_type {
        0 => Vec::new(),
        _ => config.starting_stream_cuts.into_iter().filter_map(|c| c.stream_info).map(|info| (info.scope, info.stream)).collect(),
    }
}

/// Names of the groups that subscribe to each stream, as `SCOPE/GROUP`.
pub type All<'a> = HashMap<(&'a str, &'a str), Vec<String>>;

/// All of them at once.
pub fn all(state: &State) -> All<'_> {
    let mut all = All::new();
    for (scope, found) in &state.catalog.scopes {
        for (name, group) in &found.groups {
            for (of, stream) in group.keeps() {
                all.entry((of, stream)).or_default().push(format!("{scope}/{name}"));
            }
        }
    }
    all
}

/// A group does not need what lies before `cut`.
pub fn update(state: &State, scope: &str, stream: &str, subscriber: &str, (id, generation): (&str, i64), cut: Cut) -> Plan<Updated> {
    let found = plan::find(state, scope, stream)?;
    let group = subscriber.split_once('/').and_then(|(s, name)| state.catalog.scopes.get(s)?.groups.get(name));
    let Some((group, config)) = group.and_then(|g| Some((g, subscribes(&g.config, scope, stream)?))) else { return Ok((None, Updated::Unknown)) };
    if config.reader_group_id != id {
        return Ok((None, Updated::Unknown));
    }
    if group.generation != generation {
        return Ok((None, Updated::OtherGeneration));
    }
    let before = state.catalog.told(scope, stream).and_then(|t| t.subscribers.get(subscriber));
    let longer = |(segment, offset): (&SegmentNo, &u64)| state.segment(&segment.name(scope, stream)).map_or(*offset > 0, |s| *offset > s.length);
    if !found.is_cut(&cut) || cut.iter().any(longer) || before.is_some_and(|b| !at_or_after(found, &cut, b)) {
        return Ok((None, Updated::NoCut));
    }
    let change = Change::Subscriber { scope: scope.into(), stream: stream.into(), subscriber: subscriber.into(), cut: Some(cut) };
    Ok((Some(Record::Catalog(Box::new(change))), Updated::Taken))
}

/// Whether a cut has nothing that lies before `other`.
pub fn at_or_after(stream: &Stream, cut: &Cut, other: &Cut) -> bool {
    let behind = stream.between(other, &Cut::new());
    cut.iter().all(|(segment, offset)| behind.contains(segment) && other.get(segment).is_none_or(|o| offset >= o))
}

/// What all subscribers have left behind: `None` without subscribers; the stream's beginning as long as one of them has said nothing.
pub fn bound(state: &State, all: &All<'_>, scope: &str, stream: &str) -> Result<Option<Cut>> {
    let found = plan::find(state, scope, stream)?;
    let told = state.catalog.told(scope, stream);
    let mut bound: Option<Cut> = None;
    for subscriber in all.get(&(scope, stream)).into_iter().flatten() {
        let Some(cut) = told.and_then(|t| t.subscribers.get(subscriber)) else { return Ok(Some(found.head())) };
        // One that the stream's policy has left behind needs what the stream begins with.
        let cut = found.known(cut);
        bound = Some(match bound {
            None => cut,
            Some(other) => earlier(found, &other, &cut),
        });
    }
    match bound {
        Some(cut) if !found.is_cut(&cut) => Err(Error::Invalid(format!("the cuts of the subscribers of {scope}/{stream} have no earliest place"))),
        bound => Ok(bound),
    }
}

/// Of each key the earlier of two places.
fn earlier(stream: &Stream, a: &Cut, b: &Cut) -> Cut {
    let ranges = stream.segments();
    let before = |one: &SegmentNo, others: &Cut| others.keys().any(|o| o < one && ranges.get(o).zip(ranges.get(one)).is_some_and(|(o, one)| o.overlaps(one)));
    let mut out = Cut::new();
    for (segment, offset) in a.iter().chain(b) {
        if !before(segment, a) && !before(segment, b) {
            let at = out.entry(*segment).or_insert(*offset);
            *at = (*at).min(*offset);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Catalog, Config, Epoch, Range, even};

    #[test]
    fn the_earlier_of_two_cuts_over_a_scale() {
        let mut catalog = Catalog::default();
        catalog.apply(Change::CreateScope { scope: "s".into() });
        let epoch = Epoch { at_ms: 0, segments: even(2, 0, 0) };
        catalog.apply(Change::CreateStream { scope: "s".into(), stream: "t".into(), config: Config::default(), epoch });
        // The first half splits.
        let part = |n, low, high| Range { segment: SegmentNo::new(1, n), low, high };
        let segments = vec![part(2, 0.0, 0.25), part(3, 0.25, 0.5), even(2, 0, 0)[1]];
        catalog.apply(Change::NewEpoch { scope: "s".into(), stream: "t".into(), epoch: Epoch { at_ms: 1, segments } });
        let stream = catalog.stream("s", "t").unwrap();
        let no = SegmentNo::new;
        let (early, late): (Cut, Cut) = ([(no(0, 0), 50), (no(0, 1), 90)].into(), [(no(1, 2), 1), (no(1, 3), 2), (no(0, 1), 70)].into());
        let expected: Cut = [(no(0, 0), 50), (no(0, 1), 70)].into();
        assert_eq!((earlier(stream, &early, &late), earlier(stream, &late, &early)), (expected.clone(), expected.clone()));
        assert!(at_or_after(stream, &early, &expected) && at_or_after(stream, &late, &expected) && at_or_after(stream, &late, &late));
        assert!(!at_or_after(stream, &late, &early) && !at_or_after(stream, &early, &late));
    }
}
