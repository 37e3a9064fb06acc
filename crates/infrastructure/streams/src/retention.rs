//! What a stream forgets by itself: a pure function, and the task that asks it.
//!
//! Now and then the stream's tail is noted as a *mark*: a cut, and the time. Retention truncates at a mark: by time, at the newest that is old
//! enough; by size, at the newest behind which at least so much is left. So a stream keeps at least what it is told to, and somewhat more.

use crate::{
    Error, Store,
    catalog::{Mark, Retention, SegmentNo, Stream},
    plan,
    segment::State,
    subscribers,
};
use base::clock::now_ms;
use std::{collections::BTreeMap, time::Duration};


/// Marks that a stream keeps; beyond, the oldest ones are further apart.
pub const MARKS_MAX: usize = 100;
/// Between two marks: a tenth of the time to keep, within these bounds.
const EVERY_MS: (u64, u64) = (1000, 600_000);
/// How often streams are looked at.
const TICK: Duration = Duration::from_secs(1);

/// The mark to truncate at, if there is one. `left` is how many bytes of the stream lie behind a cut.
pub fn decide(policy: &Retention, marks: &[Mark], now_ms: u64, left: impl Fn(&BTreeMap<SegmentNo, u64>) -> u64) -> Option<usize> {
    let keep = u64::try_from(policy.param).ok()?;
    match policy.kind {
        Retention::BY_TIME => marks.iter().rposition(|m| m.at_ms.saturating_add(keep) <= now_ms),
        Retention::BY_SIZE => marks.iter().rposition(|m| left(&m.cut) >= keep),
        _ => None,
    }
}

/// Where to truncate: at a mark, or, if reader groups subscribe, at what all of them have left behind (`bound`), as far as the policy allows. The policy's
/// parameter is kept for all; beyond its maximum nothing is kept for anyone.
fn place(state: &State, all: &subscribers::All<'_>, (scope, name, stream): (&str, &str, &Stream), policy: &Retention, now_ms: u64) -> Option<BTreeMap<SegmentNo, u64>> {
    let (marks, left) = (&stream.marks, |cut: &BTreeMap<SegmentNo, u64>| bytes_left(state, scope, name, stream, cut));
    let at = |policy: &Retention| decide(policy, marks, now_ms, left).map(|i| marks[i].cut.clone());
    let least = at(policy);
    let bound = match subscribers::bound(state, all, scope, name) {
        Ok(None) => return least,
        Ok(Some(bound)) => Some(bound),
        Err(e) => {
            tracing::warn!(%scope, stream = %name, error = %e, "nothing is truncated for subscribers");
            None
        }
    };
    let consumed = bound.and_then(|bound| {
        if policy.kind == Retention::BY_SIZE && u64::try_from(policy.param).is_ok_and(|keep| left(&bound) >= keep) {
            return Some(bound);
        }
        let least = least?;
        match subscribers::at_or_after(stream, &least, &bound) {
            true => Some(bound),
            // The newest mark before both.
            false => marks.iter().rev().map(|m| &m.cut).find(|m| subscribers::at_or_after(stream, &least, m) && subscribers::at_or_after(stream, &bound, m)).cloned(),
        }
    });
    let most = (policy.max > 0).then(|| at(&Retention { param: policy.max, ..*policy })).flatten();
    let chosen = match (consumed, most) {
        (Some(consumed), Some(most)) if subscribers::at_or_after(stream, &most, &consumed) => most,
        (Some(consumed), _) => consumed,
        (None, most) => most?,
    };
    // There already, or behind it.
    (!subscribers::at_or_after(stream, &stream.head(), &chosen)).then_some(chosen)
}

/// Whether it is time for another mark.
fn due(policy: &Retention, marks: &[Mark], now_ms: u64) -> bool {
    let every = match policy.kind {
        Retention::BY_TIME => (policy.param.max(0) as u64 / 10).clamp(EVERY_MS.0, EVERY_MS.1),
        Retention::BY_SIZE => 10_000,
        _ => return false,
    };
    marks.last().is_none_or(|m| m.at_ms + every <= now_ms)
}

fn bytes_left(state: &State, scope: &str, name: &str, stream: &Stream, cut: &BTreeMap<SegmentNo, u64>) -> u64 {
    let behind = stream.between(cut, &BTreeMap::new());
    let length = |s: &SegmentNo| state.segment(&s.name(scope, name)).map_or(0, |found| found.length);
    behind.iter().map(|s| length(s).saturating_sub(cut.get(s).copied().unwrap_or(0))).sum()
}

/// Notes marks and truncates until it is dropped.
pub async fn run(store: Store) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let now = now_ms();
        let work: Vec<(String, String, Option<BTreeMap<SegmentNo, u64>>, bool)> = store.peek(|state| {
            let (mut work, all) = (Vec::new(), subscribers::all(state));
            for (scope, name, stream) in state.catalog.streams() {
                let Some(policy) = &stream.config.retention else { continue };
                let found = place(state, &all, (scope, name, stream), policy, now);
                // A sealed stream grows no more, so it needs no more marks.
                let mark = !stream.sealed && due(policy, &stream.marks, now);
                if found.is_some() || mark {
                    work.push((scope.to_string(), name.to_string(), found, mark));
                }
            }
            work
        });
        for (scope, stream, cut, mark) in work {
            if let Some(cut) = cut {
                match store.change(|state| plan::truncate_stream(state, &scope, &stream, cut)).await {
                    Ok(()) => tracing::info!(%scope, %stream, "truncated by retention"),
                    Err(Error::Stopped(_)) => return,
                    Err(e) => tracing::debug!(%scope, %stream, error = %e, "not truncated: the stream changed meanwhile"),
                }
            }
            if mark && let Err(Error::Stopped(_)) = store.change(|state| plan::mark(state, &scope, &stream, now)).await {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_time_and_by_size() {
        let mark = |at_ms, offset| Mark { at_ms, cut: [(SegmentNo(0), offset)].into() };
        let marks = [mark(1000, 10), mark(2000, 50), mark(3000, 90)];
        let left = |cut: &BTreeMap<SegmentNo, u64>| 100 - cut[&SegmentNo(0)];
        let policy = |kind, param| Retention { kind, param, max: 0 };
        let at = |kind, param, now| decide(&policy(kind, param), &marks, now, left);
        assert_eq!([at(Retention::BY_TIME, 1500, 2400), at(Retention::BY_TIME, 1500, 3500), at(Retention::BY_TIME, 0, 9000)], [None, Some(1), Some(2)]);
        assert_eq!([at(Retention::BY_SIZE, 95, 0), at(Retention::BY_SIZE, 50, 0), at(Retention::BY_SIZE, 51, 0), at(Retention::BY_SIZE, 0, 0)], [None, Some(1), Some(0), Some(2)]);
        assert_eq!([at(0, 1, 9000), at(Retention::BY_TIME, -1, 9000)], [None, None]);
    }

    #[test]
    fn marks_come_as_often_as_the_time_asks_for() {
        let policy = |param| Retention { kind: Retention::BY_TIME, param, max: 0 };
        let marks = [Mark { at_ms: 5000, cut: BTreeMap::new() }];
        assert!(due(&policy(60_000), &[], 0) && !due(&policy(60_000), &marks, 10_999) && due(&policy(60_000), &marks, 11_000));
        assert!(!due(&policy(1), &marks, 5999) && due(&policy(1), &marks, 6000));
    }
}
