//! Checkpoints of whole jobs, and going on from them.
//!
//! ```text
//! STOP to every site of the job ─▶ all say ok ─▶ WRITE ─▶ all say ok ─▶ in SQLite ─▶ RESUME, and the caller is told
//!                └── one says no, is lost, or takes too long ─▶ RESUME; the checkpoint failed, the job goes on
//! ```
//!
//! Only a checkpoint that is in SQLite counts. When ranks are lost, the job starts again from its last one on the sites that
//! live, all ranks with a new epoch, so that whatever an older life of it still says is out of date. If that one can't be read or not be gone on with,
//! an agent says so, and the one before is taken. The snapshots themselves
//! are objects that the agents write and read (`<prefix>/rank-<n>` in bucket `checkpoints`); no byte of them passes through here.
//!
//! A checkpoint needs all ranks at work: as soon as the first has exited no more are made of the job, which is said as an event.
//!
//! Of a running job the last [`KEPT`] are kept, of one that has ended none, but for those that a user asked for: they stay until a
//! user deletes them. A sweep compares the bucket with what is still wanted, so one that fails half-way is made good by the next.

use crate::{
    Error,
    hub::{Hub, Site, World, number},
    jobs::{CheckpointFailed, Job, JobState, RankState},
    objects::CHECKPOINTS,
    placement,
    proto::{self, checkpoint_order::Phase, to_agent::Body},
};
use base::{Kind, clock::now_ms};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::sync::oneshot;

/// How long the sites of a job may take to write a checkpoint, in milliseconds.
const WRITE_MAX_MS: u64 = 120_000;
/// Checkpoints kept of a running job, besides those that users asked for.
pub const KEPT: usize = 2;
/// How often the bucket is looked through, if nothing calls for it earlier: what a failed checkpoint left is found then.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Objects looked at in one turn of a sweep.
const SWEEP_PAGE: usize = 1000;
/// How often a job is started again before it fails.
pub const RESTARTS_MAX: u32 = 5;

/// A checkpoint that is durable.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Checkpoint {
    pub id: u64,
    pub job: String,
    /// Of the keys in bucket `checkpoints`.
    pub prefix: String,
    pub bytes: u64,
    /// Its snapshots, one of each rank.
    #[serde(default)]
    pub ranks: u32,
    /// Places (sites, the persistency tier) that have each of its snapshots at least. With 1 it is of no use when a site with ranks of the job is lost,
    /// with 0 it is of no use at all.
    #[serde(default = "one")]
    pub copies: u32,
    pub at_ms: u64,
    /// A user asked for it: it stays until a user deletes it.
    #[serde(default)]
    pub kept: bool,
}

fn one() -> u32 {
    1
}

/// A checkpoint that is being made. A hub that starts anew forgets it; agents whose session was cut resume by themselves.
pub struct Making {
    checkpoint: Checkpoint,
    phase: Phase,
    sites: BTreeSet<String>,
    /// Of `sites`, those that have not answered in this phase.
    waiting: BTreeSet<String>,
    /// Why a snapshot is at one site only.
    alone: Option<String>,
    tell: Option<oneshot::Sender<Result<Checkpoint, Error>>>,
}

/// Notes with the job that a checkpoint of it was not made. In memory: it is news, not state.
fn missed(world: &mut World, job: &str, reason: &str) {
    if let Some(job) = number(job).and_then(|n| world.jobs.get_mut(&n)) {
        job.checkpoint_failed = Some(CheckpointFailed { at_ms: now_ms(), reason: reason.into() });
    }
}

fn refuse(message: impl Into<String>) -> Error {
    Error::new(Kind::FailedPrecondition, message)
}

impl Hub {
    /// Makes a checkpoint and returns when it is durable.
    pub async fn checkpoint(&self, id: &str) -> Result<Checkpoint, Error> {
        let (tell, told) = oneshot::channel();
        self.begin_checkpoint(&mut *self.world.lock().await, id, Some(tell)).await?;
        told.await.map_err(|_| Error::new(Kind::Unavailable, "the hub is stopping"))?
    }

    async fn begin_checkpoint(&self, world: &mut World, id: &str, tell: Option<oneshot::Sender<Result<Checkpoint, Error>>>) -> Result<(), Error> {
        let job = world.job(id)?;
        if job.state != JobState::Running || job.cancelling.is_some() || job.ranks.iter().any(|r| r.state != RankState::Running) {
            let why = match job.ranks.iter().find(|r| r.state == RankState::Exited) {
                Some(r) => format!("rank {} has exited", r.rank),
                None => "not all ranks are running".into(),
            };
            return Err(refuse(format!("{why}; a checkpoint of job {id} needs all of its ranks at work")));
        }
        if let Some(m) = world.migrations.values().find(|m| m.job == id && m.open()) {
            return Err(refuse(format!("migration {} of job {id} is under way; try again when it has ended", m.id)));
        }
        if world.making.values().any(|m| m.checkpoint.job == id) {
            return Err(refuse(format!("a checkpoint of job {id} is being made already")));
        }
        let sites: BTreeSet<String> = job.ranks.iter().map(|r| r.site.clone()).collect();
        if let Some(away) = sites.iter().find(|s| !world.sites.get(*s).is_some_and(Site::connected)) {
            return Err(refuse(format!("site {away:?}, where job {id} has ranks, is not connected")));
        }
        let n = self.state.new_checkpoint().await?;
        let checkpoint = Checkpoint { id: n, job: id.into(), prefix: format!("{id}/{n}"), bytes: 0, ranks: job.np, copies: u32::MAX, at_ms: now_ms(), kept: tell.is_some() };
        let making = Making { checkpoint, phase: Phase::Stop, waiting: sites.clone(), sites, alone: None, tell };
        making.order(world, Phase::Stop);
        world.making.insert(n, making);
        Ok(())
    }

    /// Takes in what a site says of its part.
    pub async fn checkpoint_step(&self, world: &mut World, site: &str, step: &proto::CheckpointStep) -> Result<(), Error> {
        let Some(making) = world.making.get_mut(&step.checkpoint).filter(|m| m.phase == step.phase() && m.waiting.contains(site)) else { return Ok(()) };
        if !step.ok {
            self.fail_checkpoint(world, step.checkpoint, &format!("site {site:?}: {}", step.reason)).await;
            return Ok(());
        }
        making.waiting.remove(site);
        making.checkpoint.bytes = making.checkpoint.bytes.saturating_add(step.bytes);
        if making.phase == Phase::Write {
            making.checkpoint.copies = making.checkpoint.copies.min(step.copies.max(1));
            if !step.reason.is_empty() {
                making.alone.get_or_insert_with(|| format!("site {site:?}: {}", step.reason));
            }
        }
        if !making.waiting.is_empty() {
            return Ok(());
        }
        if making.phase == Phase::Stop {
            (making.phase, making.waiting) = (Phase::Write, making.sites.clone());
            let making = &world.making[&step.checkpoint];
            making.order(world, Phase::Write);
            return Ok(());
        }
        let mut done = world.making.remove(&step.checkpoint).expect("it was there a moment ago");
        done.checkpoint.at_ms = now_ms();
        let saved = self.state.save_checkpoint(&done.checkpoint).await;
        done.order(world, Phase::Resume); // also if it could not be stored: the ranks stand still
        if let Err(error) = saved {
            if let Some(tell) = done.tell.take() {
                let _ = tell.send(Err(Error::internal(&error)));
            }
            return Err(error);
        }
        world.checkpoints.insert(done.checkpoint.id, done.checkpoint.clone());
        if let Some(job) = number(&done.checkpoint.job).and_then(|n| world.jobs.get_mut(&n)) {
            job.checkpoint_failed = None;
        }
        self.sweep.notify_one();
        let c = done.checkpoint;
        let alone = done.alone.unwrap_or_else(|| "no other site was connected".into());
        let but = if c.copies < 2 { format!(", at one site only, with which it would be lost ({alone})") } else { String::new() };
        self.events.add("checkpoint.done", &c.job, format!("checkpoint {}: {} bytes{but}", c.id, c.bytes)).await;
        if let Some(tell) = done.tell {
            let _ = tell.send(Ok(c));
        }
        Ok(())
    }

    async fn fail_checkpoint(&self, world: &mut World, id: u64, reason: &str) {
        let Some(making) = world.making.remove(&id) else { return };
        making.order(world, Phase::Resume);
        let job = &making.checkpoint.job;
        missed(world, job, reason);
        self.events.add("checkpoint.failed", job, format!("checkpoint {id}: {reason}")).await;
        if let Some(tell) = making.tell {
            let _ = tell.send(Err(refuse(format!("the checkpoint of job {job} failed: {reason}"))));
        }
    }

    /// Ends the checkpoints being made that this site or this job takes part in.
    pub async fn fail_checkpoints(&self, world: &mut World, site: Option<&str>, job: Option<&str>, reason: &str) {
        let hit = |m: &Making| site.is_some_and(|s| m.sites.contains(s)) || job.is_some_and(|j| m.checkpoint.job == j);
        let ids: Vec<u64> = world.making.iter().filter(|(_, m)| hit(m)).map(|(id, _)| *id).collect();
        for id in ids {
            self.fail_checkpoint(world, id, reason).await;
        }
    }

    /// Begins the checkpoints that jobs asked for, and ends those that take too long.
    pub async fn keep_checkpoints(&self, world: &mut World, now_ms: u64) {
        let late: Vec<u64> = world.making.iter().filter(|(_, m)| m.checkpoint.at_ms + WRITE_MAX_MS < now_ms).map(|(id, _)| *id).collect();
        for id in late {
            self.fail_checkpoint(world, id, &format!("it took longer than {} s", WRITE_MAX_MS / 1000)).await;
        }
        let due = |j: &&Job| {
            let last = world.tried.get(&j.n).copied().or(j.started_ms).unwrap_or(now_ms);
            // Of a job of which a rank has exited none can be made; an event has said so.
            let whole = !j.ranks.iter().any(|r| r.state == RankState::Exited);
            // One that takes longer than the time between two is no failure.
            let making = world.making.values().any(|m| m.checkpoint.job == j.id);
            j.state == JobState::Running && j.cancelling.is_none() && j.checkpoint_every_ms > 0 && whole && !making && last.saturating_add(j.checkpoint_every_ms) <= now_ms
        };
        let jobs: Vec<(u64, String)> = world.jobs.values().filter(due).map(|j| (j.n, j.id.clone())).collect();
        for (n, id) in jobs {
            world.tried.insert(n, now_ms);
            if let Err(why) = self.begin_checkpoint(world, &id, None).await {
                let why = why.to_string();
                let told = world.jobs.get(&n).and_then(|j| j.checkpoint_failed.as_ref()).is_some_and(|f| f.reason == why);
                missed(world, &id, &why);
                // Once, not each time: the same may be in the way for long.
                if !told {
                    self.events.add("checkpoint.failed", &id, format!("none was made when it was due: {why}")).await;
                }
            }
        }
    }

    /// A job can't be started again from the checkpoint from which it was to be: starts it from the one before. `Err`: there is none, or it can't.
    pub async fn fall_back(&self, world: &mut World, job: Job, why: &str) -> Result<Result<(), String>, Error> {
        let bad = job.from_checkpoint.clone();
        self.events.add("checkpoint.unusable", &job.id, format!("checkpoint {bad}: {why}")).await;
        world.unusable.entry(job.n).or_default().insert(bad.clone());
        self.recover(world, job, &format!("checkpoint {bad} can't be used: {why}")).await
    }

    /// Ranks of the job are lost: starts all of it from its last checkpoint that is any use. `Err`: it can't, and the job has to fail; the
    /// text says why.
    pub async fn recover(&self, world: &mut World, mut job: Job, why: &str) -> Result<Result<(), String>, Error> {
        let own = world.checkpoints.values().rev().filter(|c| c.job == job.id).map(|c| c.prefix.clone());
        // One that began from a file and has none of its own begins there again.
        let first = Some(job.from_checkpoint.clone()).filter(|prefix| !prefix.is_empty());
        let unusable = world.unusable.get(&job.n);
        let Some(last) = own.chain(first).find(|prefix| !unusable.is_some_and(|u| u.contains(prefix))) else {
            return Ok(Err(match unusable {
                Some(_) => "no other checkpoint of the job is left".into(),
                None if job.checkpoint_every_ms > 0 => match &job.checkpoint_failed {
                    Some(failed) => format!("it has no checkpoint to go on from: {}", failed.reason),
                    None => "its first checkpoint was not made yet".into(),
                },
                None => "it has no checkpoint to go on from; `cloudskin run --checkpoint-every 10s` makes some".into(),
            }));
        };
        if job.cancelling.is_some() {
            return Ok(Err("it was to end anyway".into()));
        }
        if job.restarts >= RESTARTS_MAX {
            return Ok(Err(format!("it was started again {RESTARTS_MAX} times already")));
        }
        // The slots that its living ranks take up are free for it.
        let mut rooms = world.rooms();
        for room in &mut rooms {
            room.held -= job.ranks.iter().filter(|r| r.site == room.site && r.state.alive()).count().min(room.held as usize) as u32;
        }
        let places = match placement::place(job.np, None, &rooms) {
            Ok(places) => places,
            Err(why) => return Ok(Err(why)),
        };
        self.end_moves_of(world, &job.id).await?;
        self.fail_checkpoints(world, None, Some(&job.id), "its job starts again").await;
        let (now, before) = (now_ms(), job.involved());
        for (rank, site) in places.iter().enumerate() {
            job.put(rank as u32, site, now);
            job.ranks[rank].state = RankState::Pending;
        }
        job.restarts += 1;
        (job.state, job.from_checkpoint) = (JobState::Pending, last.clone());
        self.state.save(Some(&job), None).await?;
        world.unconfirmed.retain(|(n, ..)| *n != job.n);
        world.tried.insert(job.n, now);
        world.jobs.insert(job.n, job.clone());
        // Whatever runs of the older life has to go before the order to start comes.
        for site in before {
            let reason = format!("the job starts again from checkpoint {last}: {why}");
            world.tell(&site, Body::Cancel(proto::Cancel { job: job.id.clone(), reason }));
        }
        world.tell_start(&job, &(0..job.np).collect::<Vec<_>>());
        world.tell_routes(&job);
        self.events.add("job.restarted", &job.id, format!("from checkpoint {last} at {}: {why}", places.join(", "))).await;
        Ok(Ok(()))
    }
}

/// The checkpoints that their jobs need no longer.
fn stale(world: &World) -> Vec<u64> {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut stale = Vec::new();
    for c in world.checkpoints.values().rev().filter(|c| !c.kept) {
        if number(&c.job).and_then(|n| world.unusable.get(&n)).is_some_and(|u| u.contains(&c.prefix)) {
            stale.push(c.id);
            continue;
        }
        let newer = seen.entry(&c.job).or_default();
        if *newer >= KEPT || world.job(&c.job).map_or(true, |j| j.state.ended()) {
            stale.push(c.id);
        }
        *newer += 1;
    }
    stale
}

/// Whether an object of the bucket has to stay. What doesn't look like a snapshot of ours is a user's.
fn wanted(world: &World, key: &str) -> bool {
    let parts: Vec<&str> = key.split('/').collect();
    let [job, which, rank] = parts[..] else { return true };
    let Some(n) = number(job) else { return true };
    let ours = (which == "restored" || which.parse::<u64>().is_ok()) && rank.strip_prefix("rank-").is_some_and(|r| r.parse::<u32>().is_ok());
    let prefix = format!("{job}/{which}");
    !ours
        || world.restoring.contains(&n)
        || world.checkpoints.values().any(|c| c.prefix == prefix)
        || world.making.values().any(|m| m.checkpoint.prefix == prefix)
        || world.jobs.get(&n).is_some_and(|j| !j.state.ended() && j.from_checkpoint == prefix)
}

impl Hub {
    /// The checkpoints that count, with where their snapshots are now: a user may have removed some, or a site forgotten.
    pub async fn checkpoints(&self) -> Result<Vec<Checkpoint>, Error> {
        let mut list: Vec<Checkpoint> = self.world.lock().await.checkpoints.values().cloned().collect();
        for c in &mut list {
            let found = self.list_objects(CHECKPOINTS, &format!("{}/", c.prefix), String::new(), SWEEP_PAGE + 24).await?;
            let copies = |o: &crate::objects::Object| o.sites.len() as u32 + u32::from(o.persisted);
            let whole = found.len() >= c.ranks.max(1) as usize;
            c.copies = if whole { found.iter().map(copies).min().unwrap_or(0) } else { 0 };
        }
        Ok(list)
    }

    /// Removes a checkpoint; its objects go with the next sweep, which begins now.
    pub async fn delete_checkpoint(&self, id: u64) -> Result<Checkpoint, Error> {
        let mut world = self.world.lock().await;
        let gone = world.checkpoint(id)?.clone();
        self.state.drop_checkpoint(id).await?;
        world.checkpoints.remove(&id);
        self.sweep.notify_one();
        self.events.add("checkpoint.deleted", &gone.job, format!("checkpoint {id}")).await;
        Ok(gone)
    }

    /// Removes what nobody needs of checkpoints, for as long as the hub lives.
    pub fn keep_swept(self: &Arc<Hub>) {
        let hub = self.clone();
        tokio::spawn(async move {
            let mut stop = hub.stop.subscribe();
            loop {
                tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => return,
                    () = hub.sweep.notified() => {}
                    () = tokio::time::sleep(SWEEP_EVERY) => {}
                }
                if let Err(error) = hub.sweep_checkpoints().await {
                    tracing::warn!(%error, "old checkpoints are not removed yet");
                }
            }
        });
    }

    async fn sweep_checkpoints(&self) -> Result<(), Error> {
        {
            let mut world = self.world.lock().await;
            for id in stale(&world) {
                self.state.drop_checkpoint(id).await?;
                world.checkpoints.remove(&id);
            }
        }
        let mut after = String::new();
        loop {
            let page = self.list_objects(CHECKPOINTS, "", after, SWEEP_PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.key.clone();
            let old: Vec<String> = {
                let world = self.world.lock().await;
                page.into_iter().map(|o| o.key).filter(|key| !wanted(&world, key)).collect()
            };
            for key in old {
                match self.delete_object(CHECKPOINTS, &key).await {
                    Err(e) if e.kind() != Kind::NotFound => return Err(e),
                    _ => {}
                }
            }
        }
    }
}

impl Making {
    pub fn job(&self) -> &str {
        &self.checkpoint.job
    }

    fn order(&self, world: &World, phase: Phase) {
        let c = &self.checkpoint;
        for site in &self.sites {
            // A snapshot that is at its rank's site only would be lost with it.
            let other = world.sites.iter().find(|(name, s)| phase == Phase::Write && *name != site && s.connected());
            let (copy_site, copy_address) = other.map(|(name, s)| (name.clone(), s.hello.data_address.clone())).unwrap_or_default();
            let (job, prefix) = (c.job.clone(), c.prefix.clone());
            let order = proto::CheckpointOrder { checkpoint: c.id, job, phase: phase as i32, prefix, copy_site, copy_address };
            world.tell(site, Body::Checkpoint(order));
        }
    }
}
