//! When a stream splits and when it merges: from rates to a decision, as a pure function, and the task that asks it.
//!
//! Rates are means that forget with the length of a window. A segment is *hot* when one of the windows says that it has more than so many times
//! its target, *cold* when none says more than the target and the longest says less than half of it. Hot segments split, neighbours that are
//! cold together merge, and after a scale the stream is left alone for a while.
//!
//! Advice from outside says how many segments a stream should have at least, until a time. It only ever adds, within [`ADVICE_MAX`] times what the policy asks
//! for, and is as if it had never been given when its time is over.

use crate::{
    Error, Store,
    catalog::{Range, Scaling, SegmentNo, Stream},
    lock, plan,
    segment::{Load, State},
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// Windows and factors of one way to scale.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Hot: more than so many times the target in a window. Shortest window first.
    pub up: Vec<(Duration, f64)>,
    /// The window that must be below half of the target, besides the others below it.
    pub down: Duration,
    /// Between two scales of a stream.
    pub rest: Duration,
}

impl Profile {
    /// Pravega's rule.
    pub fn pravega() -> Profile {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        Profile { up: vec![(minutes(2), 5.0), (minutes(5), 2.0), (minutes(10), 1.0)], down: minutes(20), rest: minutes(10) }
    }

    /// For rates that change within seconds.
    pub fn fast() -> Profile {
        let seconds = Duration::from_secs;
        Profile { up: vec![(seconds(3), 2.0), (seconds(10), 1.0)], down: seconds(30), rest: seconds(10) }
    }

    fn windows(&self) -> impl Iterator<Item = Duration> + '_ {
        self.up.iter().map(|(w, _)| *w).chain([self.down])
    }
}

/// Advice may ask for this many times the policy's own minimum, and no more.
pub const ADVICE_MAX: u32 = 16;

/// Mean rates of one segment, in units of the policy per second.
#[derive(Clone, Debug)]
pub struct Meter {
    total: f64,
    age: Duration,
    /// A rate per window of the profile.
    rates: Vec<f64>,
}

impl Meter {
    pub fn new(profile: &Profile, total: f64) -> Meter {
        Meter { total, age: Duration::ZERO, rates: profile.windows().map(|_| 0.0).collect() }
    }

    /// `total` is what the segment has had so far, `passed` the time since the last call.
    pub fn update(&mut self, profile: &Profile, total: f64, passed: Duration) {
        let seconds = passed.as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        let now = (total - self.total).max(0.0) / seconds;
        for (rate, window) in self.rates.iter_mut().zip(profile.windows()) {
            *rate += (now - *rate) * (1.0 - (-seconds / window.as_secs_f64()).exp());
        }
        self.total = total;
        self.age += passed;
    }

    /// The rate over the shortest window.
    pub fn rate(&self) -> f64 {
        self.rates.first().copied().unwrap_or(0.0)
    }

    /// The highest rate of a window that says so, if one does and the segment is as old as the window.
    fn hot(&self, profile: &Profile, target: f64) -> Option<f64> {
        let windows = profile.up.iter().zip(&self.rates);
        let hot = windows.filter(|((window, times), rate)| self.age >= *window && **rate > target * times).map(|(_, rate)| *rate);
        hot.max_by(f64::total_cmp)
    }

    fn cold(&self, profile: &Profile, target: f64) -> bool {
        self.age >= profile.down && self.rates.iter().all(|r| *r < target) && self.rates.last().is_some_and(|r| *r < target / 2.0)
    }
}

/// A scale to ask for.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    pub seal: Vec<SegmentNo>,
    pub ranges: Vec<(f64, f64)>,
}

fn parts(range: &Range, n: u32) -> impl Iterator<Item = (f64, f64)> {
    let (low, high) = (range.low, range.high);
    let at = move |i: u32| if i == n { high } else { low + (high - low) * f64::from(i) / f64::from(n) };
    (0..n).map(move |i| (at(i), at(i + 1)))
}

/// What a stream should do now. `segments` are those written to, in the order of their keys; `rested` is the time since its last scale; `advised` the
/// number of segments that valid advice asks for.
pub fn decide(policy: &Scaling, profile: &Profile, segments: &[(Range, Meter)], rested: Duration, advised: Option<u32>) -> Option<Decision> {
    let automatic = policy.kind != Scaling::FIXED && policy.target_rate > 0;
    if !automatic || segments.is_empty() {
        return None;
    }
    let target = f64::from(policy.target_rate);
    let least = policy.min_segments.max(1) as u32;
    let wanted = advised.map_or(least, |a| a.min(least.saturating_mul(ADVICE_MAX)).max(least));
    // A policy of before there was a bound for it may ask for more than a stream may have.
    let mut left = (plan::SEGMENTS_MAX as u32).saturating_sub(segments.len() as u32);
    let missing = wanted.saturating_sub(segments.len() as u32).min(left);
    if missing > 0 {
        // The widest splits; it has the most keys.
        let (widest, _) = segments.iter().max_by(|a, b| (a.0.high - a.0.low).total_cmp(&(b.0.high - b.0.low)))?;
        return Some(Decision { seal: vec![widest.segment], ranges: parts(widest, missing + 1).collect() });
    }
    if rested < profile.rest {
        return None;
    }
    let hot: Vec<(&Range, f64)> = segments.iter().filter_map(|(r, m)| Some((r, m.hot(profile, target)?))).collect();
    if !hot.is_empty() {
        let most = policy.factor.max(2) as u32;
        let mut decision = Decision { seal: Vec::new(), ranges: Vec::new() };
        for (range, rate) in hot {
            let into = ((rate / target).ceil() as u32).clamp(2, most).min(left.saturating_add(1));
            if into < 2 {
                break;
            }
            left -= into - 1;
            decision.seal.push(range.segment);
            decision.ranges.extend(parts(range, into));
        }
        return (!decision.seal.is_empty()).then_some(decision);
    }
    if segments.len() as u32 <= wanted {
        return None;
    }
    // Neighbours that would be cold together.
    let pair = segments.windows(2).find(|p| p.iter().all(|(_, m)| m.cold(profile, target)) && p[0].1.rate() + p[1].1.rate() < target)?;
    Some(Decision { seal: pair.iter().map(|(r, _)| r.segment).collect(), ranges: vec![(pair[0].0.low, pair[1].0.high)] })
}

/// Measures and scales all streams; cheap to clone.
#[derive(Clone)]
pub struct Scaler {
    store: Store,
    profile: Arc<Profile>,
    advice: Arc<Mutex<HashMap<(String, String), (u32, Instant)>>>,
    rates: Arc<Mutex<BTreeMap<String, Rate>>>,
}

/// What a segment has had in a second.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rate {
    pub events: f64,
    pub bytes: f64,
}

/// How often rates are looked at.
const TICK: Duration = Duration::from_secs(1);

/// What a segment has had so far, with what open transactions have written that is for it: a commit brings all of it at once, and it was not written then.
fn had(state: &State, scope: &str, name: &str, stream: &Stream, segment: SegmentNo) -> Load {
    let segment = segment.name(scope, name);
    let of = |name: &str| state.segment(name).map(|s| s.load).unwrap_or_default();
    stream.open.keys().map(|id| of(&id.segment(&segment))).fold(of(&segment), |sum, load| Load { events: sum.events + load.events, bytes: sum.bytes + load.bytes })
}

impl Scaler {
    pub fn new(store: Store, profile: Profile) -> Scaler {
        Scaler { store, profile: Arc::new(profile), advice: Arc::default(), rates: Arc::default() }
    }

    /// Asks for at least this many segments until `until`. Later advice takes the place of earlier.
    pub fn advise(&self, scope: &str, stream: &str, segments: u32, until: Instant) {
        let mut advice = lock(&self.advice);
        advice.retain(|_, (_, until)| *until > Instant::now());
        advice.insert((scope.into(), stream.into()), (segments, until));
    }

    /// Of each segment that is written to, by name, over the shortest window.
    pub fn rates(&self) -> BTreeMap<String, Rate> {
        lock(&self.rates).clone()
    }

    /// Notes the rates of all segments that are written to, also of streams that do not scale.
    fn measure(&self, meters: &mut BTreeMap<String, [Meter; 2]>, passed: Duration) {
        let loads: BTreeMap<String, Load> = self.store.peek(|state| {
            let streams = state.catalog.streams().filter(|(_, _, s)| !s.sealed);
            let segments = streams.flat_map(|(scope, name, s)| s.current().segments.iter().map(move |r| (scope, name, s, r.segment)));
            segments.map(|(scope, name, s, segment)| (segment.name(scope, name), had(state, scope, name, s, segment))).collect()
        });
        meters.retain(|name, _| loads.contains_key(name));
        for (name, load) in loads {
            let had = [load.events as f64, load.bytes as f64];
            let of_one = meters.entry(name).or_insert_with(|| had.map(|had| Meter::new(&self.profile, had)));
            of_one.iter_mut().zip(had).for_each(|(meter, had)| meter.update(&self.profile, had, passed));
        }
        let rates = meters.iter().map(|(name, [events, bytes])| (name.clone(), Rate { events: events.rate(), bytes: bytes.rate() }));
        *lock(&self.rates) = rates.collect();
    }

    /// Scales until it is dropped.
    pub async fn run(self) {
        let mut meters: BTreeMap<(String, String, SegmentNo), Meter> = BTreeMap::new();
        let mut of_segments = BTreeMap::new();
        let mut last = Instant::now();
        let mut tick = tokio::time::interval(TICK);
        loop {
            tick.tick().await;
            let now = Instant::now();
            let now_ms = base::clock::now_ms();
            let passed = now - std::mem::replace(&mut last, now);
            self.measure(&mut of_segments, passed);
            let advice = {
                let mut advice = lock(&self.advice);
                advice.retain(|_, (_, until)| *until > now);
                advice.clone()
            };
            let streams = self.store.peek(|state| {
                let automatic = state.catalog.streams().filter(|(_, _, s)| !s.sealed && s.config.scaling.kind != Scaling::FIXED);
                let load = |scope: &str, name: &str, s: &Stream, range: &Range| {
                    let (load, kind) = (had(state, scope, name, s, range.segment), s.config.scaling.kind);
                    if kind == Scaling::BY_KIB { load.bytes as f64 / 1024.0 } else { load.events as f64 }
                };
                automatic
                    .map(|(scope, name, s)| {
                        let segments: Vec<(Range, f64)> = s.current().segments.iter().map(|r| (*r, load(scope, name, s, r))).collect();
                        (scope.to_string(), name.to_string(), s.config.scaling, s.current().at_ms, segments)
                    })
                    .collect::<Vec<_>>()
            });
            let before = std::mem::take(&mut meters);
            for (scope, stream, policy, at_ms, segments) in streams {
                let mut measured = Vec::new();
                for (range, total) in segments {
                    let key = (scope.clone(), stream.clone(), range.segment);
                    let mut meter = before.get(&key).cloned().unwrap_or_else(|| Meter::new(&self.profile, total));
                    meter.update(&self.profile, total, passed);
                    meters.insert(key, meter.clone());
                    measured.push((range, meter));
                }
                let rested = Duration::from_millis(now_ms.saturating_sub(at_ms));
                let advised = advice.get(&(scope.clone(), stream.clone())).map(|(n, _)| *n);
                let Some(decision) = decide(&policy, &self.profile, &measured, rested, advised) else { continue };
                match self.store.change(|state| plan::scale(state, &scope, &stream, &decision.seal, &decision.ranges, now_ms)).await {
                    Ok(_) => tracing::info!(%scope, %stream, sealed = decision.seal.len(), new = decision.ranges.len(), "scaled by rate"),
                    Err(Error::Stopped(_)) => return,
                    Err(e) => tracing::debug!(%scope, %stream, error = %e, "not scaled: the stream changed meanwhile"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::even;

    const POLICY: Scaling = Scaling { kind: Scaling::BY_EVENTS, target_rate: 100, factor: 4, min_segments: 1 };

    /// Segments that have had these rates for so many seconds.
    fn steady(profile: &Profile, rates: &[f64], seconds: u64) -> Vec<(Range, Meter)> {
        let ranges = even(rates.len() as u32, 0, 0);
        let meter = |rate: &f64| {
            let mut meter = Meter::new(profile, 0.0);
            (1..=seconds).for_each(|s| meter.update(profile, rate * s as f64, Duration::from_secs(1)));
            meter
        };
        ranges.into_iter().zip(rates.iter().map(meter)).collect()
    }

    fn split(profile: &Profile, rates: &[f64], seconds: u64) -> Option<(usize, usize)> {
        let rested = Duration::from_secs(seconds);
        decide(&POLICY, profile, &steady(profile, rates, seconds), rested, None).map(|d| (d.seal.len(), d.ranges.len()))
    }

    #[test]
    fn pravegas_rule() {
        let rule = Profile::pravega();
        assert_eq!(split(&rule, &[900.0], 119), None, "too young to be known");
        assert_eq!(split(&rule, &[900.0], 600), Some((1, 4)), "as often as the factor allows");
        assert_eq!(split(&rule, &[210.0], 590), None, "it rests");
        assert_eq!(split(&rule, &[210.0, 10.0], 1800), Some((1, 3)));
        assert_eq!(split(&rule, &[90.0, 80.0], 7200), None, "neither hot nor cold");
        assert_eq!(split(&rule, &[30.0, 40.0], 7200), Some((2, 1)));
        assert_eq!(split(&rule, &[30.0, 40.0], 1000), None, "20 minutes have not passed");
    }

    #[test]
    fn the_fast_profile_reacts_within_30_s() {
        let fast = Profile::fast();
        let first = (1..60).find(|s| split(&fast, &[400.0], *s).is_some()).unwrap();
        assert!(first <= 12, "{first} s");
        assert_eq!(split(&fast, &[400.0], first), Some((1, 4)));
        let down = (1..200).find(|s| split(&fast, &[10.0, 10.0, 10.0], *s).is_some()).unwrap();
        assert!((30..=40).contains(&down), "{down} s");
    }

    #[test]
    fn advice_adds_within_bounds_and_never_removes() {
        let fast = Profile::fast();
        let segments = steady(&fast, &[10.0], 5);
        let advised = |n| decide(&POLICY, &fast, &segments, Duration::ZERO, n).map(|d| d.ranges.len());
        assert_eq!((advised(None), advised(Some(1)), advised(Some(3)), advised(Some(1000))), (None, None, Some(3), Some(16)));
        // What is advised is not merged away.
        let three = steady(&fast, &[10.0, 10.0, 10.0], 100);
        assert_eq!(decide(&POLICY, &fast, &three, Duration::from_secs(99), Some(3)), None);
        let fixed = Scaling { kind: Scaling::FIXED, ..POLICY };
        assert_eq!(decide(&fixed, &fast, &segments, Duration::ZERO, Some(3)), None, "a fixed stream stays");
    }

    /// Such a policy may lie in a log from before it was refused, and would ask for gigabytes.
    #[test]
    fn no_policy_asks_for_more_segments_than_a_stream_may_have() {
        let fast = Profile::fast();
        let decided = |policy: Scaling, rates: &[f64]| decide(&policy, &fast, &steady(&fast, rates, 60), Duration::from_secs(60), None).map(|d| (d.seal.len(), d.ranges.len()));
        let max = plan::SEGMENTS_MAX;
        assert_eq!(decided(Scaling { min_segments: i32::MAX, ..POLICY }, &[10.0, 10.0]), Some((1, max - 1)), "one goes, and all that there may be are there");
        assert_eq!(decided(Scaling { factor: i32::MAX, ..POLICY }, &[1e12, 1e12]), Some((1, max - 1)), "the second has nothing left");
    }

    #[test]
    fn parts_cover_what_they_come_from() {
        let range = Range { segment: SegmentNo(0), low: 0.1, high: 0.7 };
        for n in 1..9 {
            let all: Vec<_> = parts(&range, n).collect();
            assert_eq!((all.len() as u32, all[0].0, all[all.len() - 1].1), (n, 0.1, 0.7));
            assert!(all.windows(2).all(|w| w[0].1 == w[1].0));
        }
    }
}
