//! Advice: the Learning Plane at work in the hub.
//!
//! ```text
//! Telemetry ─▶ reports, a bounded list ─┐  one task, each heartbeat
//! what may move, and where to ──────────┴▶ Plane, on a thread that may compute ─▶ SQLite ─▶ Hub::migrate ─▶ taken or refused
//!                                            └▶ forecasts, for GET /v1/sites                   when the move has ended: settled
//! ```
//!
//! A recommendation is in SQLite with all its inputs before anyone acts on it. The plane belongs to the task alone, so no message of
//! an agent waits for a forecast; if the plane panics, it starts anew without history, an event says so, and the hub goes on.
//!
//! Nothing here decides what should move: that is `learning`. And [`Hub::migrate`] may still say no.

use crate::{
    Error,
    hub::{Hub, World, finite},
    jobs::{Job, JobState, RankState},
    proto::Telemetry,
};
use base::{JobId, SiteId, clock::now_ms};
use learning::{Forecast, JobLoad, JobView, Observation, Outcome, Plane, Recommendation, SiteView};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Reports that wait for the task; the oldest are dropped beyond it. Some heartbeats of a thousand sites.
const REPORTS_MAX: usize = 8192;
/// The plane has recovered from a panic when it has worked for so long, in milliseconds.
const CALM_MS: u64 = 60_000;

/// What became of a recommendation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AdviceState {
    Proposed,
    /// It became a migration.
    Taken,
    /// Nobody acts on it.
    Refused,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Ended {
    pub at_ms: u64,
    /// Whether the job has moved.
    pub moved: bool,
    /// Why not, or what else there is to say.
    pub why: String,
}

/// A recommendation as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Advised {
    pub recommendation: Recommendation,
    pub state: AdviceState,
    pub migration: Option<u64>,
    /// `None` until it is refused or its migration has ended.
    pub ended: Option<Ended>,
}

impl Advised {
    fn refuse(&mut self, why: String) {
        self.state = AdviceState::Refused;
        self.ended = Some(Ended { at_ms: now_ms(), moved: false, why });
    }
}

/// What the rest of the hub shares with the task that advises.
pub struct Advice {
    options: learning::Options,
    act: bool,
    reports: Mutex<VecDeque<Observation>>,
    forecasts: Mutex<BTreeMap<SiteId, Forecast>>,
}

/// Nothing that holds one of these locks can leave its value half made.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Advice {
    /// `act`: whether recommendations become migrations, or are only written down.
    pub fn new(options: learning::Options, act: bool) -> Advice {
        Advice { options, act, reports: Mutex::default(), forecasts: Mutex::default() }
    }

    /// Keeps a report for the next heartbeat. The time is the hub's: agents' clocks may differ.
    pub fn observe(&self, site: &str, cores: f64, telemetry: &Telemetry, at_ms: u64) {
        let Ok(site) = SiteId::new(site) else { return };
        let mut jobs: BTreeMap<JobId, JobLoad> = BTreeMap::new();
        for load in &telemetry.ranks {
            let Ok(job) = JobId::new(load.job.as_str()) else { continue };
            let sum = jobs.entry(job).or_insert(JobLoad { cpu_used: 0.0, cpu_wanted: 0.0, ranks: 0 });
            sum.cpu_used += finite(load.cpu_used);
            sum.cpu_wanted += finite(load.cpu_wanted);
            sum.ranks += 1;
        }
        let (cpu_used, cpu_wanted) = (finite(telemetry.cpu_used), finite(telemetry.cpu_wanted));
        let mut reports = lock(&self.reports);
        if reports.len() >= REPORTS_MAX {
            reports.pop_front();
        }
        reports.push_back(Observation { at_ms, site, cores, cpu_used, cpu_wanted, jobs });
    }

    /// The last forecast of a site's demand per core, if the site is not silent.
    pub fn forecast(&self, site: &str) -> Option<Forecast> {
        lock(&self.forecasts).get(&SiteId::new(site).ok()?).cloned()
    }
}

/// The task's own.
struct Adviser {
    hub: Arc<Hub>,
    plane: Plane,
    /// The next recommendation's number.
    next: u64,
    /// Taken, and their migrations have not ended.
    open: BTreeMap<u64, Advised>,
    /// Whether a site's forecast is the reactive rule's because no model works on it.
    fallen: BTreeMap<SiteId, bool>,
    /// When the plane panicked last (Unix ms), until it has recovered.
    panicked_ms: Option<u64>,
    /// Whether a module's ranks can move, of the running jobs' modules that could be looked at.
    movable: BTreeMap<String, bool>,
}

impl Hub {
    /// Asks the plane for advice at each heartbeat, and acts on it. What an earlier life of the hub left open is closed first.
    pub async fn keep_advising(self: &Arc<Hub>) -> Result<(), Error> {
        let (plane, next) = (Plane::new(self.advice.options.clone()), self.state.last_recommendation().await? + 1);
        let mut adviser =
            Adviser { hub: self.clone(), plane, next, open: BTreeMap::new(), fallen: BTreeMap::new(), panicked_ms: None, movable: BTreeMap::new() };
        adviser.plane.number_from(next);
        for mut advised in self.state.open_recommendations().await? {
            let id = advised.recommendation.id;
            if advised.state == AdviceState::Proposed {
                // The migration is stored with the recommendation's number before anything else is told of it.
                advised.migration = self.world.lock().await.migrations.values().find(|m| m.recommendation == Some(id)).map(|m| m.id);
                advised.state = AdviceState::Taken;
                if advised.migration.is_none() {
                    advised.refuse("the hub stopped before it was acted upon".into());
                }
                adviser.tell(&advised).await?;
            }
            if advised.ended.is_none() {
                adviser.open.insert(id, advised);
            }
        }
        let (hub, mut stop) = (self.clone(), self.stop.subscribe());
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => return,
                    () = tokio::time::sleep(hub.heartbeat) => {}
                }
                if let Err(error) = adviser.beat().await {
                    tracing::error!(%error, "advise");
                }
            }
        });
        Ok(())
    }
}

impl Adviser {
    async fn beat(&mut self) -> Result<(), Error> {
        self.look_at_modules().await;
        self.settle().await?;
        let now = now_ms();
        let world = view(&*self.hub.world.lock().await, &self.movable, now);
        let reports = std::mem::take(&mut *lock(&self.hub.advice.reports));
        let thought = self.think(move |plane| {
            reports.into_iter().for_each(|report| plane.observe(report));
            let made = plane.advise(now, &world);
            let forecast = |view: &SiteView| Some((view.site.clone(), plane.forecast(&view.site, now)?));
            (made, world.sites.iter().filter_map(forecast).collect::<BTreeMap<_, _>>())
        });
        let Some((made, forecasts)) = thought.await else { return Ok(()) };
        self.say_fallbacks(&forecasts).await;
        *lock(&self.hub.advice.forecasts) = forecasts;
        for recommendation in made {
            self.act(recommendation).await?;
        }
        Ok(())
    }

    /// Runs the plane on a thread that may compute. `None` if it panicked: what it remembered is lost then.
    async fn think<T: Send + 'static>(&mut self, work: impl FnOnce(&mut Plane) -> T + Send + 'static) -> Option<T> {
        let mut fresh = Plane::new(self.hub.advice.options.clone());
        fresh.number_from(self.next);
        let mut plane = std::mem::replace(&mut self.plane, fresh);
        let thought = tokio::task::spawn_blocking(move || {
            let got = work(&mut plane);
            (plane, got)
        });
        let now = now_ms();
        match thought.await {
            Ok((plane, got)) => {
                self.plane = plane;
                if self.panicked_ms.is_some_and(|at| at + CALM_MS < now) {
                    self.panicked_ms = None;
                    self.hub.events.add("recommendation.fallback", "learning", "the Learning Plane works again").await;
                }
                Some(got)
            }
            Err(error) => {
                lock(&self.hub.advice.forecasts).clear();
                if error.is_panic() && self.panicked_ms.replace(now).is_none() {
                    let why = format!("the Learning Plane failed and starts anew without history, please report it: {error}");
                    self.hub.events.add("recommendation.fallback", "learning", why).await;
                }
                None
            }
        }
    }

    /// Says once when the forecasts of a site begin to be the reactive rule's, and when they end to be.
    async fn say_fallbacks(&mut self, forecasts: &BTreeMap<SiteId, Forecast>) {
        for (site, forecast) in forecasts {
            let why = forecast.fallback_reason();
            if self.fallen.insert(site.clone(), why.is_some()).unwrap_or(false) == why.is_some() {
                continue;
            }
            let message = match why {
                Some(why) => format!("forecasts by the reactive rule: {why}"),
                None => format!("forecasts by the model that erred least so far: {}", forecast.model),
            };
            self.hub.events.add("recommendation.fallback", site.as_str(), message).await;
        }
    }

    /// Writes a recommendation down, tries it, and writes down what became of it.
    async fn act(&mut self, recommendation: Recommendation) -> Result<(), Error> {
        let r = recommendation.clone();
        let mut advised = Advised { recommendation, state: AdviceState::Proposed, migration: None, ended: None };
        self.next = self.next.max(r.id + 1);
        if let Err(error) = self.tell(&advised).await {
            self.plane.settle(r.id, Outcome::Refused, now_ms());
            return Err(error);
        }
        let asked = match self.hub.advice.act {
            true => self.hub.migrate(r.job.as_str(), r.to.as_str(), None, Some(r.id)).await.map_err(|e| e.to_string()),
            false => Err("this hub only writes advice down: its option `advise` is off".to_string()),
        };
        match asked {
            Ok(m) => {
                (advised.state, advised.migration) = (AdviceState::Taken, Some(m.id));
                self.plane.settle(r.id, Outcome::Taken, now_ms());
                self.open.insert(r.id, advised.clone());
            }
            Err(why) => {
                advised.refuse(why);
                self.plane.settle(r.id, Outcome::Refused, now_ms());
            }
        }
        self.tell(&advised).await
    }

    /// Stores a recommendation in its new state, then says it.
    async fn tell(&self, advised: &Advised) -> Result<(), Error> {
        self.hub.state.save_recommendation(advised).await?;
        let r = &advised.recommendation;
        let (kind, message) = match (advised.state, advised.migration) {
            (AdviceState::Proposed, _) => ("recommendation.proposed", r.reason.clone()),
            (AdviceState::Taken, m) => ("recommendation.taken", format!("it became migration {}", m.unwrap_or_default())),
            (AdviceState::Refused, _) => ("recommendation.refused", advised.ended.as_ref().map_or(String::new(), |e| e.why.clone())),
        };
        self.hub.events.add(kind, r.job.as_str(), format!("recommendation {}: {message}", r.id)).await;
        Ok(())
    }

    /// Closes the recommendations whose migrations have ended.
    async fn settle(&mut self) -> Result<(), Error> {
        let ended: Vec<(u64, Ended)> = {
            let world = self.hub.world.lock().await;
            let end = |(id, advised): (&u64, &Advised)| match advised.migration.and_then(|n| world.migrations.get(&n)) {
                Some(m) if m.open() => None,
                // A commit stands, whatever came after it.
                Some(m) => Some((*id, Ended { at_ms: m.ended_ms.unwrap_or_else(now_ms), moved: m.verdict() == Some(true), why: m.reason.clone() })),
                None => Some((*id, Ended { at_ms: now_ms(), moved: false, why: "its migration is not known".into() })),
            };
            self.open.iter().filter_map(end).collect()
        };
        for (id, ended) in ended {
            let outcome = if ended.moved { Outcome::Done } else { Outcome::Failed };
            self.plane.settle(id, outcome, now_ms());
            let Some(advised) = self.open.get_mut(&id) else { continue };
            advised.ended = Some(ended);
            self.hub.state.save_recommendation(advised).await?; // if it fails, again at the next heartbeat
            self.open.remove(&id);
        }
        Ok(())
    }

    /// Finds out whether the ranks of running jobs can move at all. A module that can't be looked at may be tried.
    async fn look_at_modules(&mut self) {
        let running: Vec<String> = self.hub.world.lock().await.jobs.values().filter(|j| j.state == JobState::Running).map(|j| j.module.clone()).collect();
        self.movable.retain(|module, _| running.contains(module));
        for module in running {
            if self.movable.contains_key(&module) {
                continue;
            }
            let (hub, sha256) = (self.hub.clone(), module.clone());
            let found = tokio::task::spawn_blocking(move || hub.modules.inspect(&sha256)).await;
            let movable = match found {
                Ok(Ok(info)) => info.movable,
                Ok(Err(error)) => {
                    tracing::warn!(%error, module, "look at a module");
                    true
                }
                Err(_) => true,
            };
            self.movable.insert(module, movable);
        }
    }
}

/// What may move now, and where to.
fn view(world: &World, movable: &BTreeMap<String, bool>, now_ms: u64) -> learning::World {
    let rooms = world.rooms();
    let site = |(name, site): (&String, &crate::hub::Site)| {
        let slots_free = rooms.iter().find(|r| r.site == *name).map_or(0, |r| r.free());
        Some(SiteView { site: SiteId::new(name.as_str()).ok()?, cores: site.cores(), slots_free, alive: site.connected() && !site.lost })
    };
    let job = |job: &Job| {
        let busy = world.migrations.values().any(|m| m.job == job.id && m.open()) || world.making.values().any(|m| m.job() == job.id);
        let may = job.state == JobState::Running && !job.pinned && job.cancelling.is_none() && movable.get(&job.module) != Some(&false);
        if busy || !may {
            return None;
        }
        let alive: Vec<_> = job.ranks.iter().filter(|r| r.state.alive()).collect();
        let place = &alive.first()?.site;
        if alive.iter().any(|r| r.state != RankState::Running || r.site != *place) {
            return None;
        }
        Some(JobView {
            job: JobId::new(job.id.as_str()).ok()?,
            site: SiteId::new(place.as_str()).ok()?,
            ranks: alive.len() as u32,
            state_bytes: alive.iter().fold(0, |sum: u64, r| sum.saturating_add(r.memory_bytes)),
            running_for_ms: now_ms.saturating_sub(job.started_ms?),
        })
    };
    learning::World { sites: world.sites.iter().filter_map(site).collect(), jobs: world.jobs.values().filter(|j| !j.state.ended()).filter_map(job).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_of_the_plane_is_told_once_and_the_hub_goes_on() {
        base::identity::install_crypto();
        let folder = tempfile::tempdir().unwrap();
        let hub = Hub::open(crate::Options { data: folder.path().into(), ..Default::default() }).await.unwrap();
        let mut adviser = Adviser {
            hub: hub.clone(),
            plane: Plane::new(Default::default()),
            next: 7,
            open: BTreeMap::new(),
            fallen: BTreeMap::new(),
            panicked_ms: None,
            movable: BTreeMap::new(),
        };
        for _ in 0..2 {
            assert_eq!(adviser.think(|_| -> u32 { panic!("a model divides by zero") }).await, None);
        }
        assert_eq!(adviser.think(|_| 5).await, Some(5));
        adviser.beat().await.unwrap();
        let events = hub.events.since(0, 10).await.unwrap();
        let [event] = &events[..] else { panic!("{events:?}") };
        assert!(event.kind == "recommendation.fallback" && event.message.contains("starts anew"), "{event:?}");
        adviser.panicked_ms = Some(1);
        adviser.think(|_| ()).await;
        assert!(hub.events.since(event.id, 10).await.unwrap()[0].message.contains("works again"));
    }

    #[test]
    fn reports_that_nobody_takes_are_bounded() {
        let advice = Advice::new(Default::default(), true);
        for at_ms in 0..REPORTS_MAX as u64 + 10 {
            advice.observe("edge", 1.0, &Telemetry { cpu_wanted: f64::NAN, ..Default::default() }, at_ms);
        }
        let reports = lock(&advice.reports);
        assert_eq!((reports.len(), reports[0].at_ms, reports[0].cpu_wanted), (REPORTS_MAX, 10, 0.0));
    }
}
