//! Who is there: agents that come, are cut off, come back and don't.
//!
//! ```text
//!              ┌──────────── silent for Hub::patience ─────────────┐
//!              │                                                   ▼
//! Hello ──▶ connected ──cut──▶ away ──not back in Hub::away_max──▶ lost: its ranks are given up, it stays listed
//!               ▲               │
//!               └─same instance─┘   its ranks go on; what it does not hold after all is given up
//! ```
//!
//! Silence alone says little on a busy machine: after [`Hub::late`] people see it, and only much later it counts. A connection that
//! closes says that the agent's process has died, or that it will be back at once. And a hub that stood still itself (stopped by a signal, paused with
//! its machine) has heard nobody: time in which it did not run counts against nobody ([`awake`]).
//!
//! Another instance of the agent holds nothing of what the last one had. A hub that was started anew has all its sites
//! away and waits [`Hub::grace`] for them. What may have been lost on a cut way is said again when the agent is back; every
//! order may come twice. A job that lost ranks starts again from its last checkpoint ([`Hub::recover`]), or fails with the reason.

use crate::{
    Error,
    hub::{Held, Hub, Site, World, finite, number},
    jobs::{Job, JobState},
    migrations::{Migration, MigrationState},
    proto::{self, ToAgent, to_agent::Body},
};
use base::{clock::now_ms, unit::Span};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{Notify, mpsc};

/// How long ranks may take to stop when they are told to, in milliseconds.
pub const STOP_MAX_MS: u64 = 30_000;
/// The least time that an agent has to come back: it tries again after at most two seconds.
const AWAY_MIN: Duration = Duration::from_secs(3);

/// How long the platform may take to stop.
const CLOSING_MAX: Duration = Duration::from_secs(60);

/// A job that runs while the platform is stopped.
#[derive(Clone, Debug, serde::Serialize, utoipa::ToSchema)]
pub struct Stopped {
    pub job: String,
    /// It goes on from its last one at the next start; without one it fails then.
    pub checkpoint: bool,
}

/// Steps in which the hub waits, so that it notices when it stood still itself.
const NAP: Duration = Duration::from_millis(250);
/// A step that takes so much longer than it should says that the hub stood still.
const STILL: Duration = Duration::from_secs(1);

/// Waits until the hub has been running for `time`. If it stood still meanwhile, the wait begins anew: what others said in that time is still to be
/// read, and who wanted to come back has still to be let in.
pub async fn awake(time: Duration) {
    let mut left = time;
    while !left.is_zero() {
        let (nap, began) = (left.min(NAP), Instant::now());
        tokio::time::sleep(nap).await;
        left = if began.elapsed() > nap + STILL { time } else { left - nap };
    }
}

impl Hub {
    /// Three heartbeats: after so much silence a site is shown as late.
    pub fn late(&self) -> Duration {
        3 * self.heartbeat
    }

    /// How long an agent whose connection has closed may be away: it comes back at once, or its process has died.
    pub fn away_max(&self) -> Duration {
        self.late().max(AWAY_MIN).min(self.patience)
    }

    /// Registers a session, compares what the agent holds with what the hub believes, and says again what is open.
    /// Returns the session's number and what tells it to end.
    pub async fn begin(self: &Arc<Hub>, site: &str, from: Option<std::net::SocketAddr>, hello: proto::Hello, orders: mpsc::Sender<Result<ToAgent, tonic::Status>>) -> Result<(u64, Arc<Notify>), Error> {
        let mut world = self.world.lock().await;
        let world = &mut *world;
        let (mut history, mut anew, mut stopped) = (Default::default(), false, false);
        if let Some(old) = world.sites.remove(site) {
            self.fail_checkpoints(world, Some(site), None, &format!("site {site:?} has a new session")).await;
            history = old.history;
            anew = old.hello.instance != hello.instance;
            stopped = self.was_stopped && old.session == 0;
        }
        self.state.save_site(site, &hello, now_ms()).await?;
        let name = base::SiteId::new(site).map_err(Error::internal)?;
        // First: the namenode may be there, and can't be asked before.
        let moved = self.objects.names.met(site, &hello.data_address);
        self.objects.catalog.announce(&name, &hello.data_address).await?;
        world.sessions += 1;
        let (session, behind) = (world.sessions, Arc::new(Notify::new()));
        let running = hello.running.clone();
        let plural = |one: bool| if one { "" } else { "s" };
        let detail = format!("{} core{}, {} slot{}", hello.cores, plural(hello.cores == 1.0), hello.slots, plural(hello.slots == 1));
        let entry = Site {
            session,
            orders: Some(orders),
            behind: behind.clone(),
            hello,
            telemetry: Default::default(),
            last_seen_ms: now_ms(),
            from,
            lost: false,
            history,
        };
        world.sites.insert(site.into(), entry);
        let mut outputs = Vec::new();
        for held in &running {
            if let Some(n) = number(&held.job).filter(|n| world.jobs.contains_key(n)) {
                outputs.push(proto::OutputAt { job: held.job.clone(), rank: held.rank, offset: self.logs.next(n, held.rank) });
            }
        }
        let (hub_instance, heartbeat_ms) = (self.instance.clone(), self.heartbeat.as_millis() as u32);
        world.tell(site, Body::Welcome(proto::Welcome { hub_instance, heartbeat_ms, outputs }));
        if let Some(standby) = self.objects.names.told() {
            world.tell(site, Body::Standby(standby.clone()));
            for other in world.sites.keys().filter(|other| moved && *other != site) {
                world.tell(other, Body::Standby(standby.clone()));
            }
        }
        self.events.add("site.ready", site, detail).await;
        if anew {
            let why = if stopped { "the platform was stopped" } else { "its agent was started anew" };
            self.lose_ranks(world, site, why).await?;
            return Ok((session, behind));
        }
        self.compare(world, site, &running);
        let waited: Vec<_> = world.asked.iter().filter_map(|id| world.migrations.get(id)).filter(|m| m.to == site).cloned().collect();
        for m in waited {
            self.ready(world, &m.from, &proto::MigrationReady { migration: m.id, job: m.job.clone(), ranks: m.ranks.clone() }).await?;
        }
        Ok((session, behind))
    }

    /// What the agent holds against what it should, and what it may not have heard.
    fn compare(self: &Arc<Hub>, world: &mut World, site: &str, running: &[proto::RankRef]) {
        let waiting = || running.iter().filter(|h| h.restored_waiting);
        // A verdict that was told while the session was cut is known to nobody here.
        let decided: BTreeMap<u64, (&Migration, bool)> = waiting().filter_map(|h| world.decided(site, h)).map(|d| (d.0.id, d)).collect();
        for (m, run) in decided.values() {
            if *run {
                self.send_verdict(world, m, site);
            } else {
                let reason = if m.reason.is_empty() { format!("job {} has ended or started again meanwhile", m.job) } else { m.reason.clone() };
                world.tell(site, Body::Verdict(proto::MigrationVerdict { migration: m.id, commit: false, places: Vec::new(), reason }));
            }
        }
        for held in running {
            if world.job(&held.job).map_or(true, |job| job.state.ended()) {
                let reason = "the hub has given it up, or it has ended".to_string();
                world.tell(site, Body::Cancel(proto::Cancel { job: held.job.clone(), reason }));
                world.tell(site, Body::Forget(proto::Forget { job: held.job.clone() }));
            }
        }
        let mut missing: Vec<Held> = Vec::new();
        let jobs: Vec<Job> = world.jobs.values().filter(|j| !j.state.ended() && j.involved().iter().any(|s| s == site)).cloned().collect();
        for job in &jobs {
            let mut start = Vec::new();
            for r in job.ranks.iter().filter(|r| r.site == site && r.state.alive()) {
                let counts = |h: &proto::RankRef| if h.restored_waiting { world.decided(site, h).is_some_and(|d| d.1) } else { h.epoch == r.epoch };
                if running.iter().any(|h| h.job == job.id && h.rank == r.rank && counts(h)) {
                    world.unconfirmed.remove(&(job.n, r.rank, r.epoch));
                } else if r.state == crate::jobs::RankState::Pending && job.cancelling.is_none() {
                    world.unconfirmed.remove(&(job.n, r.rank, r.epoch));
                    start.push(r.rank);
                } else {
                    missing.push((job.n, r.rank, r.epoch));
                }
            }
            world.tell_start(job, &start);
            world.tell_routes(job);
            if job.cancelling.is_some() {
                world.tell_cancel(job);
            }
        }
        for m in world.migrations.values().filter(|m| m.open() && (m.from == site || m.to == site)) {
            match m.state {
                MigrationState::Committed if m.from == site => self.send_verdict(world, m, site),
                // Whose source waits for the verdict needs neither.
                MigrationState::Running if !world.asked.contains(&m.id) => drop(self.send_order(world, m)),
                _ => {}
            }
        }
        if !missing.is_empty() {
            // The last words on these ranks may still be on their way.
            world.unconfirmed.extend(missing.iter().copied());
            let (hub, why) = (self.clone(), format!("its agent at {site:?} came back without it"));
            self.later(self.patience, async move {
                let mut world = hub.world.lock().await;
                hub.give_up(&mut world, &missing, &why).await
            });
        }
    }

    /// Takes in an agent's report.
    pub fn telemetry(&self, world: &mut World, site: &str, telemetry: proto::Telemetry) {
        for load in &telemetry.ranks {
            let job = number(&load.job).and_then(|n| world.jobs.get_mut(&n));
            let Some((n, rank)) = job.and_then(|j| Some((j.n, j.ranks.get_mut(load.rank as usize)?))) else { continue };
            if rank.site == site {
                rank.observe(load);
                world.unconfirmed.remove(&(n, rank.rank, rank.epoch));
            }
        }
        let Some(here) = world.sites.get_mut(site) else { return };
        let (cores, now) = (here.cores(), now_ms());
        self.advice.observe(site, cores, &telemetry, now);
        here.history.push_back((now, finite(telemetry.cpu_wanted / cores)));
        if here.history.len() > crate::hub::HISTORY {
            here.history.pop_front();
        }
        here.telemetry = telemetry;
    }

    /// The session is over. If the agent isn't back after `left`, its site is lost.
    pub async fn cut(self: &Arc<Hub>, site: &str, session: u64, left: Duration, why: String) {
        {
            let mut world = self.world.lock().await;
            let Some(here) = world.sites.get_mut(site).filter(|s| s.session == session) else { return };
            here.orders = None;
            self.fail_checkpoints(&mut world, Some(site), None, &format!("the session of site {site:?} was cut")).await;
        }
        let (hub, site) = (self.clone(), site.to_string());
        self.later(left, async move {
            // An agent that was stopped with all the others is not lost; what becomes of its ranks is decided at the next start.
            if hub.closing().await {
                awake(CLOSING_MAX).await;
            }
            let mut world = hub.world.lock().await;
            if world.sites.get(&site).is_some_and(|s| s.session == session && !s.connected() && !s.lost) {
                hub.lose(&mut world, &site, &why).await?;
            }
            Ok(())
        });
    }

    async fn closing(&self) -> bool {
        self.world.lock().await.closing.is_some_and(|at| now_ms().saturating_sub(at) < CLOSING_MAX.as_millis() as u64)
    }

    /// All of the platform is about to be stopped. The jobs that run, and whether each has a checkpoint from which it goes on at the next start.
    pub async fn close(&self) -> Result<Vec<Stopped>, Error> {
        let mut world = self.world.lock().await;
        self.state.note_stop(now_ms()).await?;
        world.closing = Some(now_ms());
        let running = world.jobs.values().filter(|j| !j.state.ended());
        let has = |job: &Job| !job.from_checkpoint.is_empty() || world.checkpoints.values().any(|c| c.job == job.id);
        Ok(running.map(|j| Stopped { job: j.id.clone(), checkpoint: has(j) }).collect())
    }

    /// After a start: gives agents [`Hub::grace`] to come back with what they hold.
    pub fn wait_for_agents(self: &Arc<Hub>) {
        let hub = self.clone();
        self.later(self.grace, async move {
            let mut world = hub.world.lock().await;
            let why = format!("it did not come back within {} ms of the hub's start", hub.grace.as_millis());
            let away: Vec<String> = world.sites.iter().filter(|(_, s)| s.session == 0 && !s.lost).map(|(name, _)| name.clone()).collect();
            for site in away {
                hub.lose(&mut world, &site, &why).await?;
            }
            // What connected agents were asked about has its own time; the rest is at sites that nobody knows.
            let nowhere: Vec<Held> = world.unconfirmed.iter().copied().filter(|(n, rank, _)| {
                let site = world.jobs.get(n).and_then(|j| j.ranks.get(*rank as usize)).map(|r| r.site.as_str());
                !site.and_then(|s| world.sites.get(s)).is_some_and(Site::connected)
            }).collect();
            hub.give_up(&mut world, &nowhere, "no agent reported it after the hub's start").await
        });
    }

    /// Looks at the clocks, four times a second: time limits of jobs, moves that nobody closes.
    pub fn keep_time(self: &Arc<Hub>) {
        let hub = self.clone();
        tokio::spawn(async move {
            let mut stop = hub.stop.subscribe();
            loop {
                let began = Instant::now();
                tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => return,
                    () = tokio::time::sleep(NAP) => {}
                }
                let (now, stood_still) = (now_ms(), began.elapsed() > NAP + STILL);
                let late: Vec<(String, u64)> = {
                    let mut world = hub.world.lock().await;
                    if stood_still {
                        world.stopping.clear(); // ranks may have said meanwhile that they have stopped
                    }
                    if let Err(error) = hub.end_silent_moves(&mut world, now).await {
                        tracing::error!(%error, "close moves");
                    }
                    if let Err(error) = hub.follow_moves(&mut world, now).await {
                        tracing::error!(%error, "begin moves that follow others");
                    }
                    if let Err(error) = hub.end_stuck_jobs(&mut world, now).await {
                        tracing::error!(%error, "end jobs whose ranks don't stop");
                    }
                    hub.keep_checkpoints(&mut world, now).await;
                    let over = |j: &&Job| !j.state.ended() && j.cancelling.is_none() && j.time_max_ms > 0 && j.started_ms.is_some_and(|at| at.saturating_add(j.time_max_ms) < now);
                    world.jobs.values().filter(over).map(|j| (j.id.clone(), j.time_max_ms)).collect()
                };
                for (job, time_max_ms) in late {
                    let reason = format!("it ran longer than its time_max of {}", Span(Duration::from_millis(time_max_ms)));
                    if let Err(error) = hub.cancel(&job, &reason, JobState::Failed).await {
                        tracing::error!(%error, job, "end a job that took too long");
                    }
                }
            }
        });
    }

    /// Ends jobs whose ranks were told to stop and have not said that they did for [`STOP_MAX_MS`]; their agents hear `Forget`.
    pub async fn end_stuck_jobs(&self, world: &mut World, now_ms: u64) -> Result<(), Error> {
        let told: Vec<u64> = world.jobs.values().filter(|j| !j.state.ended() && j.cancelling.is_some()).map(|j| j.n).collect();
        for n in told {
            if *world.stopping.entry(n).or_insert(now_ms) + STOP_MAX_MS < now_ms {
                let mut job = world.jobs[&n].clone();
                let left: Vec<u32> = job.ranks.iter().filter(|r| r.state.alive()).map(|r| r.rank).collect();
                job.lose(&left, "its ranks did not stop");
                self.events.add("rank.stuck", &job.id, format!("ranks {left:?} did not stop within {} s", STOP_MAX_MS / 1000)).await;
                self.keep(world, job, false).await?;
            }
        }
        Ok(())
    }

    /// Does something after a while ([`awake`]), unless the hub stops before.
    fn later(&self, after: Duration, then: impl Future<Output = Result<(), Error>> + Send + 'static) {
        let mut stop = self.stop.subscribe();
        tokio::spawn(async move {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = awake(after) => {}
            }
            if let Err(error) = then.await {
                tracing::error!(%error, "give up what is lost");
            }
        });
    }

    /// A site is lost.
    pub async fn lose(&self, world: &mut World, site: &str, why: &str) -> Result<(), Error> {
        if let Some(here) = world.sites.get_mut(site) {
            (here.lost, here.orders, here.telemetry) = (true, None, Default::default());
        }
        self.events.add("site.lost", site, why).await;
        self.lose_ranks(world, site, why).await
    }

    /// What was at the site is no more: its moves end, its jobs start again or fail.
    async fn lose_ranks(&self, world: &mut World, site: &str, why: &str) -> Result<(), Error> {
        self.end_moves_at(world, site, why).await?;
        let jobs: Vec<Job> = world.jobs.values().filter(|j| !j.state.ended()).cloned().collect();
        for job in jobs {
            let lost: Vec<u32> = job.ranks.iter().filter(|r| r.site == site && r.state.alive()).map(|r| r.rank).collect();
            if !lost.is_empty() {
                self.lost(world, job, &lost, &format!("site {site:?} was lost ({why}) with ranks {lost:?}")).await?;
            }
        }
        Ok(())
    }

    /// Gives up those of the ranks that nobody has spoken of yet.
    async fn give_up(&self, world: &mut World, ranks: &[Held], why: &str) -> Result<(), Error> {
        let mut gone: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
        for held @ (n, rank, epoch) in ranks {
            if world.unconfirmed.remove(held) && world.jobs.get(n).is_some_and(|j| j.holds(*rank, *epoch)) {
                gone.entry(*n).or_default().push(*rank);
            }
        }
        for (n, ranks) in gone {
            let job = world.jobs[&n].clone();
            self.lost(world, job, &ranks, &format!("ranks {ranks:?} are lost: {why}")).await?;
        }
        Ok(())
    }

    /// A job without these ranks: starts again, or fails.
    async fn lost(&self, world: &mut World, mut job: Job, ranks: &[u32], why: &str) -> Result<(), Error> {
        match self.recover(world, job.clone(), why).await? {
            Ok(()) => Ok(()),
            Err(not) => {
                job.lose(ranks, &format!("{why}; {not}"));
                self.keep(world, job, true).await
            }
        }
    }
}
