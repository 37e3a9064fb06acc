//! The plane: keeps the series, remembers how long a gain has lasted, which jobs rest and what is proposed.
//!
//! [`Plane::observe`] for each report, [`Plane::advise`] as often as reports come, [`Plane::settle`] when something became of
//! a recommendation. At most one recommendation is open for each site at a time: a move changes the load on both its sites, so
//! that what was seen before says little about the next move; the hold time starts anew when it is settled.
//!
//! The plane remembers nothing across a restart of its process: it then waits for enough reports again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tracing::{debug, info};

use crate::forecast::Forecast;
pub use crate::policy::Options;
use crate::policy::{self, Decision, Inputs, Moved, Seen, SiteInputs, State};
use crate::sensor::{Observation, Series};
use crate::{JobId, SiteId, milli};

/// What may be moved, and where to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct World {
    pub sites: Vec<SiteView>,
    /// Only what may be moved now: movable, not pinned, running, not already on its way, all ranks on one site.
    pub jobs: Vec<JobView>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SiteView {
    pub site: SiteId,
    pub cores: f64,
    /// Ranks that it would still take.
    pub slots_free: u32,
    pub alive: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobView {
    pub job: JobId,
    /// Where all its ranks are.
    pub site: SiteId,
    pub ranks: u32,
    /// What a migration would have to send.
    pub state_bytes: u64,
    pub running_for_ms: u64,
}

/// An advice to move a job, with everything it was made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recommendation {
    pub id: u64,
    pub at_ms: u64,
    pub job: JobId,
    pub from: SiteId,
    pub to: SiteId,
    /// How many times as fast the job would run.
    pub gain: f64,
    /// The models of both forecasts.
    pub model: String,
    /// Demand per core at the present site, and at the destination without the job.
    pub forecast_from: Forecast,
    pub forecast_to: Forecast,
    pub inputs: Inputs,
    /// One sentence with figures.
    pub reason: String,
}

/// What became of a recommendation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Someone acts on it; one of the others follows.
    Taken,
    /// Nobody will.
    Refused,
    /// The job has moved.
    Done,
    /// It was tried, and the job is where it was.
    Failed,
}

/// Reports of one job's load that are kept.
const LOADS_MAX: usize = 8;

/// Points that [`Plane::history`] returns at most.
const HISTORY_MAX: usize = 240;

#[derive(Debug)]
struct Site {
    series: Series,
    loads: BTreeMap<JobId, Series>,
}

#[derive(Debug)]
struct Open {
    job: JobId,
    from: SiteId,
    to: SiteId,
    /// When it is forgotten if nobody settles it.
    until_ms: u64,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    since_ms: u64,
    last_ms: u64,
}

/// The Learning Plane.
#[derive(Debug)]
pub struct Plane {
    options: Options,
    sites: BTreeMap<SiteId, Site>,
    /// Gains that last, by job and destination.
    held: BTreeMap<(JobId, SiteId), Held>,
    open: BTreeMap<u64, Open>,
    /// Jobs that rest, and until when.
    resting: BTreeMap<JobId, u64>,
    moved: BTreeMap<JobId, Moved>,
    next_id: u64,
}

impl Plane {
    pub fn new(options: Options) -> Plane {
        Plane {
            options,
            sites: BTreeMap::new(),
            held: BTreeMap::new(),
            open: BTreeMap::new(),
            resting: BTreeMap::new(),
            moved: BTreeMap::new(),
            next_id: 1,
        }
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Numbers recommendations from `next` on, for a process that goes on with a stored list.
    pub fn number_from(&mut self, next: u64) {
        self.next_id = self.next_id.max(next);
    }

    /// Takes a report. One that can't be true is dropped and logged.
    pub fn observe(&mut self, observation: Observation) {
        let Observation {
            at_ms,
            site,
            cores,
            cpu_wanted,
            jobs,
            ..
        } = observation;
        let known = self.sites.contains_key(&site);
        if !known && self.sites.len() >= self.options.sites_max {
            debug!(%site, sites_max = self.options.sites_max, "report dropped: too many sites");
            return;
        }
        if !(cores.is_finite() && cores > 0.0) {
            debug!(%site, cores, "report dropped: a site needs more than 0 cores");
            return;
        }
        let (step_ms, series_max, jobs_max) = (
            self.options.step_ms,
            self.options.series_max,
            self.options.sites_max,
        );
        let kept = self.sites.entry(site.clone()).or_insert_with(|| Site {
            series: Series::new(step_ms, series_max),
            loads: BTreeMap::new(),
        });
        if !kept.series.push(at_ms, cpu_wanted / cores) {
            debug!(%site, at_ms, cpu_wanted, "report dropped: out of order or not a sensible number");
            return;
        }
        // A job that is not reported any more is not there any more.
        kept.loads.retain(|job, _| jobs.contains_key(job));
        for (job, load) in jobs.into_iter().take(jobs_max) {
            kept.loads
                .entry(job)
                .or_insert_with(|| Series::new(step_ms, LOADS_MAX))
                .push(at_ms, load.cpu_wanted);
        }
    }

    /// Forgets a site that was removed for good.
    pub fn forget(&mut self, site: &SiteId) {
        self.sites.remove(site);
    }

    /// Forecast of the demand per core; `None` for a site that is unknown or silent.
    pub fn forecast(&self, site: &SiteId, now_ms: u64) -> Option<Forecast> {
        let series = &self.sites.get(site)?.series;
        if !self.fresh(series, now_ms) {
            return None;
        }
        policy::forecast(series, &self.options).ok()
    }

    /// The last demand per core, oldest first, at most 240 points.
    pub fn history(&self, site: &SiteId) -> Vec<(u64, f64)> {
        self.sites
            .get(site)
            .map_or_else(Vec::new, |site| site.series.recent(HISTORY_MAX))
    }

    /// What should move now. At most one recommendation for each site; the greatest gain first.
    pub fn advise(&mut self, now_ms: u64, world: &World) -> Vec<Recommendation> {
        self.expire(now_ms);
        let seen: BTreeMap<&SiteId, Seen> = world
            .sites
            .iter()
            .filter_map(|view| Some((&view.site, self.seen(view, now_ms)?)))
            .collect();

        let mut held = BTreeMap::new();
        let mut candidates: Vec<(Decision, &JobView, &SiteView, &SiteView)> = Vec::new();
        for job in &world.jobs {
            for view in &world.sites {
                let Some((decision, from)) = self.weigh(job, &view.site, &seen, world, now_ms)
                else {
                    continue;
                };
                if !decision.gains {
                    continue;
                }
                let key = (job.job.clone(), view.site.clone());
                let since_ms = self.held_since(&key, now_ms).unwrap_or(now_ms);
                held.insert(
                    key,
                    Held {
                        since_ms,
                        last_ms: now_ms,
                    },
                );
                if decision.advised {
                    candidates.push((decision, job, from, view));
                }
            }
        }
        candidates.sort_by(|(a, job_a, ..), (b, job_b, ..)| {
            b.gain
                .total_cmp(&a.gain)
                .then_with(|| job_a.job.cmp(&job_b.job))
        });
        let mut made = Vec::new();
        for (decision, job, from, to) in candidates {
            if self.busy(&from.site) || self.busy(&to.site) {
                continue;
            }
            // As they were when the decision was made: `held` is replaced only below.
            if let Some(recommendation) = self.recommend(decision, job, from, to, now_ms) {
                made.push(recommendation);
            }
        }
        // Sites that are about to change start anew.
        held.retain(|(_, to), _| !self.busy(to));
        self.held = held;
        made
    }

    /// Tells what became of a recommendation. An unknown number is ignored: it was forgotten, or settled before.
    pub fn settle(&mut self, id: u64, outcome: Outcome, now_ms: u64) {
        let Some(open) = self.open.get_mut(&id) else {
            debug!(id, ?outcome, "nothing to settle");
            return;
        };
        if outcome == Outcome::Taken {
            open.until_ms = now_ms.saturating_add(self.options.open_ms_max.saturating_mul(10));
            return;
        }
        let Some(Open { job, from, to, .. }) = self.open.remove(&id) else {
            return;
        };
        info!(id, %job, %from, %to, ?outcome, "recommendation settled");
        self.resting
            .insert(job.clone(), now_ms.saturating_add(self.options.cooldown_ms));
        if outcome == Outcome::Done {
            // What was held concerned sites that have changed.
            self.held
                .retain(|(_, site), _| *site != from && *site != to);
            self.moved.insert(
                job,
                Moved {
                    at_ms: now_ms,
                    from,
                    to,
                },
            );
        }
    }

    fn fresh(&self, series: &Series, now_ms: u64) -> bool {
        series
            .last()
            .is_some_and(|(at_ms, _)| now_ms.saturating_sub(at_ms) <= self.options.stale_ms)
    }

    fn seen<'a>(&self, view: &'a SiteView, now_ms: u64) -> Option<Seen<'a>> {
        let series = &self.sites.get(&view.site)?.series;
        if !self.fresh(series, now_ms) {
            return None;
        }
        Seen::new(view, series, &self.options).ok()
    }

    /// `None` where there is nothing to decide: unknown or silent sites, a resting job, a site with an open recommendation.
    fn weigh<'w>(
        &self,
        job: &JobView,
        to: &SiteId,
        seen: &BTreeMap<&SiteId, Seen>,
        world: &'w World,
        now_ms: u64,
    ) -> Option<(Decision, &'w SiteView)> {
        let from = world.sites.iter().find(|view| view.site == job.site)?;
        let skip = job.site == *to
            || self.resting.contains_key(&job.job)
            || self.busy(&job.site)
            || self.busy(to);
        if skip {
            return None;
        }
        let load = self.sites.get(&job.site)?.loads.get(&job.job)?;
        let held_since_ms = self.held_since(&(job.job.clone(), to.clone()), now_ms);
        let state = State {
            now_ms,
            held_since_ms,
            moved: self.moved.get(&job.job),
            job_wanted: &load.points(),
        };
        let decision = policy::weigh(
            &self.options,
            job,
            seen.get(&job.site)?,
            seen.get(to)?,
            &state,
        )
        .ok()?;
        Some((decision, from))
    }

    /// A gain that nobody looked at for too long has not lasted.
    fn held_since(&self, key: &(JobId, SiteId), now_ms: u64) -> Option<u64> {
        let held = self.held.get(key)?;
        (now_ms.saturating_sub(held.last_ms) <= self.options.stale_ms).then_some(held.since_ms)
    }

    fn busy(&self, site: &SiteId) -> bool {
        self.open
            .values()
            .any(|open| open.from == *site || open.to == *site)
    }

    fn recommend(
        &mut self,
        decision: Decision,
        job: &JobView,
        from: &SiteView,
        to: &SiteView,
        now_ms: u64,
    ) -> Option<Recommendation> {
        let site = |view: &SiteView| {
            Some(SiteInputs {
                view: view.clone(),
                series: self.sites.get(&view.site)?.series.points(),
            })
        };
        let inputs = Inputs {
            now_ms,
            options: self.options.clone(),
            job: job.clone(),
            job_wanted: self.sites.get(&job.site)?.loads.get(&job.job)?.points(),
            from: site(from)?,
            to: site(to)?,
            held_since_ms: self.held_since(&(job.job.clone(), to.site.clone()), now_ms),
            moved: self.moved.get(&job.job).cloned(),
        };
        debug_assert_eq!(
            policy::replay(&inputs).as_ref(),
            Ok(&decision),
            "a decision follows from its inputs"
        );
        let id = self.next_id;
        self.next_id += 1;
        let until_ms = now_ms.saturating_add(self.options.open_ms_max);
        let (job, from, to) = (job.job.clone(), from.site.clone(), to.site.clone());
        self.open.insert(
            id,
            Open {
                job: job.clone(),
                from: from.clone(),
                to: to.clone(),
                until_ms,
            },
        );
        info!(id, %job, %from, %to, gain = milli(decision.gain), "advised to move");
        let Decision {
            gain,
            forecast_from,
            forecast_to,
            reason,
            ..
        } = decision;
        let model = match (&forecast_from.model, &forecast_to.model) {
            (a, b) if a == b => a.clone(),
            (a, b) => format!("{from}: {a}; {to}: {b}"),
        };
        Some(Recommendation {
            id,
            at_ms: now_ms,
            job,
            from,
            to,
            gain,
            model,
            forecast_from,
            forecast_to,
            inputs,
            reason,
        })
    }

    fn expire(&mut self, now_ms: u64) {
        let forgotten: Vec<u64> = self
            .open
            .iter()
            .filter(|(_, o)| o.until_ms <= now_ms)
            .map(|(id, _)| *id)
            .collect();
        for id in forgotten {
            info!(
                id,
                "nobody settled this recommendation in time; taken as refused"
            );
            self.settle(id, Outcome::Refused, now_ms);
        }
        self.resting.retain(|_, until_ms| *until_ms > now_ms);
        let back_ms = self.options.back_ms;
        self.moved
            .retain(|_, moved| now_ms.saturating_sub(moved.at_ms) < back_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sensor::JobLoad;

    fn site(name: &str) -> SiteId {
        SiteId::new(name).unwrap()
    }

    fn job(name: &str) -> JobId {
        JobId::new(name).unwrap()
    }

    fn report(at_ms: u64, name: &str, cpu_wanted: f64, jobs: &[(&str, f64)]) -> Observation {
        let load = |&(name, cpu_wanted): &(&str, f64)| {
            (
                job(name),
                JobLoad {
                    cpu_used: 1.0,
                    cpu_wanted,
                    ranks: 4,
                },
            )
        };
        Observation {
            at_ms,
            site: site(name),
            cores: 1.0,
            cpu_used: 1.0,
            cpu_wanted,
            jobs: jobs.iter().map(load).collect(),
        }
    }

    fn world(jobs: &[&str]) -> World {
        let view = |name: &str| SiteView {
            site: site(name),
            cores: 1.0,
            slots_free: 8,
            alive: true,
        };
        let movable = |name: &&str| JobView {
            job: job(name),
            site: site("edge"),
            ranks: 4,
            state_bytes: 64 << 20,
            running_for_ms: 30_000,
        };
        World {
            sites: vec![view("edge"), view("cloud")],
            jobs: jobs.iter().map(movable).collect(),
        }
    }

    /// Both sites report each half second; returns when and what was advised.
    fn run(
        plane: &mut Plane,
        from_ms: u64,
        until_ms: u64,
        edge: f64,
        jobs: &[(&str, f64)],
        world: &World,
    ) -> Vec<Recommendation> {
        let mut made = Vec::new();
        for at_ms in (from_ms..until_ms).step_by(500) {
            plane.observe(report(at_ms, "edge", edge, jobs));
            plane.observe(report(at_ms + 20, "cloud", 0.0, &[]));
            made.extend(plane.advise(at_ms + 30, world));
        }
        made
    }

    #[test]
    fn the_job_moves_when_another_tenant_comes_and_not_before() {
        let mut plane = Plane::new(Options::default());
        let world = world(&["job-1"]);
        assert_eq!(
            run(&mut plane, 0, 20_000, 4.0, &[("job-1", 4.0)], &world),
            []
        );
        let made = run(
            &mut plane,
            20_000,
            40_000,
            8.0,
            &[("job-1", 4.0), ("job-2", 4.0)],
            &world,
        );
        let [one] = &made[..] else {
            panic!("{made:#?}")
        };
        assert_eq!(
            (one.id, one.job.as_str(), one.from.as_str(), one.to.as_str()),
            (1, "job-1", "edge", "cloud")
        );
        assert!((1.9..2.1).contains(&one.gain), "{}", one.gain);
        assert!((23_000..26_000).contains(&one.at_ms), "at {}", one.at_ms);
        let again = policy::replay(&one.inputs).unwrap();
        assert_eq!(
            (again.gain, &again.reason, again.advised),
            (one.gain, &one.reason, true)
        );
    }

    #[test]
    fn a_settled_job_rests_and_an_open_one_blocks_its_sites() {
        let loads = [("job-1", 4.0), ("job-2", 4.0)];
        let world = world(&["job-1", "job-2"]);
        let advised = |outcome: Option<Outcome>| {
            let mut plane = Plane::new(Options::default());
            let first = run(&mut plane, 0, 10_000, 8.0, &loads, &world);
            assert_eq!(first.len(), 1, "one at a time");
            assert_eq!(first[0].job.as_str(), "job-1");
            if let Some(outcome) = outcome {
                plane.settle(1, outcome, 10_000);
                plane.settle(1, outcome, 10_000);
                plane.settle(99, outcome, 10_000);
            }
            let then = run(&mut plane, 10_000, 29_000, 8.0, &loads, &world);
            then.into_iter()
                .map(|r| r.job.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(advised(None), [""; 0], "nobody has settled the first");
        assert_eq!(advised(Some(Outcome::Taken)), [""; 0]);
        assert_eq!(advised(Some(Outcome::Refused)), ["job-2"], "job-1 rests");
        assert_eq!(advised(Some(Outcome::Failed)), ["job-2"]);
    }

    #[test]
    fn what_nobody_settles_is_forgotten() {
        let mut plane = Plane::new(Options {
            open_ms_max: 5_000,
            ..Options::default()
        });
        let made = run(
            &mut plane,
            0,
            70_000,
            8.0,
            &[("job-1", 4.0)],
            &world(&["job-1"]),
        );
        let gaps: Vec<_> = made
            .windows(2)
            .map(|pair| pair[1].at_ms - pair[0].at_ms)
            .collect();
        assert_eq!(
            gaps,
            [28_000, 28_000],
            "5 s open, 20 s of rest, 3 s of hold"
        );
    }

    #[test]
    fn silence_is_no_consent() {
        let mut plane = Plane::new(Options::default());
        let world = world(&["job-1"]);
        assert_eq!(
            run(&mut plane, 0, 5_000, 8.0, &[("job-1", 4.0)], &world),
            []
        );
        // The cloud says nothing any more.
        for at_ms in (5_000..30_000).step_by(500) {
            plane.observe(report(at_ms, "edge", 8.0, &[("job-1", 4.0)]));
            assert!(at_ms < 8_000 || plane.advise(at_ms, &world).is_empty());
        }
        assert!(plane.forecast(&site("cloud"), 30_000).is_none());
        assert!(plane.forecast(&site("edge"), 30_000).is_some());
        assert!(plane.forecast(&site("moon"), 30_000).is_none());
    }

    #[test]
    fn nonsense_is_dropped_and_bounds_hold() {
        let mut plane = Plane::new(Options {
            sites_max: 2,
            ..Options::default()
        });
        for (name, cores, wanted) in [
            ("a", 0.0, 1.0),
            ("a", f64::NAN, 1.0),
            ("a", 1.0, f64::NAN),
            ("a", 1.0, -3.0),
        ] {
            plane.observe(Observation {
                cores,
                ..report(0, name, wanted, &[])
            });
            assert_eq!(plane.history(&site("a")), []);
        }
        for name in ["a", "b", "c"] {
            for at_ms in (0..1_000_000).step_by(500) {
                plane.observe(report(at_ms, name, 1.0, &[]));
            }
        }
        assert_eq!(plane.history(&site("a")).len(), 240);
        assert_eq!(plane.history(&site("c")), [], "a third site is too many");
    }
}
