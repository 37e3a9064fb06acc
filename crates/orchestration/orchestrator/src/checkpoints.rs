//! Checkpoints of whole jobs, and going on from them.
//!
//! ```text
//! AHEAD to every site of the job ─▶ STOP ─▶ COPY ─▶ WRITE, and the ranks go on ─▶ in SQLite ─▶ RESUME, and the caller is told
//!   each when all have said ok to the one before;  one says no, is lost, or takes too long ─▶ RESUME; the checkpoint failed, the job goes on
//! ```
//!
//! Ranks stand still from STOP to WRITE: for a look at their memory and a copy of what has changed since AHEAD, not for the store.
//!
//! A checkpoint by schedule has of each rank only the pages that have changed since the one before, its *parent*, if the rank's agent knows that one (it wrote it, and
//! the rank has been there since). Chains have an end: after [`INCREMENTS_MAX`] increments, when these have more bytes together than the complete one, and when
//! a chain has fewer copies than a new one would have, a complete one is written. What a user asked for is always complete, and nothing stands on it: it can be
//! removed at any time. What is kept is kept with all that it stands on, and of the chain before the current one its complete one: one
//! snapshot that is damaged must not cost a job all that it has.
//!
//! Only a checkpoint that is in SQLite counts. When ranks are lost, the job starts again from its last one on the sites that
//! live, all ranks with a new epoch, so that whatever an older life of it still says is out of date. If that one can't be read or not be gone on with,
//! an agent says which of its chain is at fault, and the newest that does not stand on that one is taken. The snapshots themselves
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
/// Increments that stand on each other, on a complete one.
pub const INCREMENTS_MAX: u32 = 8;
/// For the catalog to say where a chain's snapshots are. Without an answer the next checkpoint is a complete one.
const LOOK_MAX: Duration = Duration::from_secs(1);
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
    /// The checkpoint on which its snapshots stand, which then have only what has changed since.
    #[serde(default)]
    pub parent: Option<u64>,
    /// Checkpoints between it and a complete one, that one included.
    #[serde(default)]
    pub increments: u32,
    /// How long ranks stood still for it, the longest of them.
    #[serde(default)]
    pub paused_us: u64,
}

fn one() -> u32 {
    1
}

/// A checkpoint that is being made. A hub that starts anew forgets it; agents whose session was cut resume by themselves.
pub struct Making {
    checkpoint: Checkpoint,
    /// On which increments may stand.
    parent: Option<Checkpoint>,
    increment: bool,
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
        let np = job.np;
        let parent = tokio::time::timeout(LOOK_MAX, self.parent(world, id)).await.unwrap_or_default();
        let n = self.state.new_checkpoint().await?;
        let (prefix, kept) = (format!("{id}/{n}"), tell.is_some());
        let checkpoint = Checkpoint { id: n, job: id.into(), prefix, bytes: 0, ranks: np, copies: u32::MAX, at_ms: now_ms(), kept, parent: None, increments: 0, paused_us: 0 };
        let making = Making { checkpoint, parent, increment: false, phase: Phase::Ahead, waiting: sites.clone(), sites, alone: None, tell };
        making.order(world, Phase::Ahead);
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
        if making.phase == Phase::Write {
            making.checkpoint.bytes = making.checkpoint.bytes.saturating_add(step.bytes);
            making.checkpoint.copies = making.checkpoint.copies.min(step.copies.max(1));
            making.checkpoint.paused_us = making.checkpoint.paused_us.max(step.paused_us);
            making.increment |= step.increment;
            if !step.reason.is_empty() {
                making.alone.get_or_insert_with(|| format!("site {site:?}: {}", step.reason));
            }
        }
        if !making.waiting.is_empty() {
            return Ok(());
        }
        let next = match making.phase {
            Phase::Ahead => Some(Phase::Stop),
            Phase::Stop => Some(Phase::Copy),
            Phase::Copy => Some(Phase::Write),
            _ => None,
        };
        if let Some(next) = next {
            (making.phase, making.waiting) = (next, making.sites.clone());
            let making = &world.making[&step.checkpoint];
            making.order(world, next);
            return Ok(());
        }
        if making.increment && (making.parent.is_none() || making.checkpoint.kept) {
            self.fail_checkpoint(world, step.checkpoint, &format!("site {site:?} wrote what has changed since a checkpoint that there is none of")).await;
            return Ok(());
        }
        let mut done = world.making.remove(&step.checkpoint).expect("it was there a moment ago");
        if let Some(parent) = done.parent.take().filter(|_| done.increment) {
            (done.checkpoint.parent, done.checkpoint.increments) = (Some(parent.id), parent.increments + 1);
            done.checkpoint.copies = done.checkpoint.copies.min(parent.copies);
        }
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
        let since = c.parent.map_or(String::new(), |parent| format!(" of changes since checkpoint {parent}"));
        let paused = c.paused_us as f64 / 1000.0;
        self.events.add("checkpoint.done", &c.job, format!("checkpoint {}: {} bytes{since}, for which ranks stood still for {paused:.1} ms{but}", c.id, c.bytes)).await;
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

    /// The job has ended, as it may while what was taken of it is written. One by its schedule is of no use any more; a user has it all the same.
    pub async fn end_checkpoints_of(&self, world: &mut World, job: &str) {
        let over = |m: &Making| m.checkpoint.job == job && !(m.checkpoint.kept && m.phase == Phase::Write);
        let ids: Vec<(u64, bool)> = world.making.iter().filter(|(_, m)| over(m)).map(|(id, m)| (*id, m.checkpoint.kept)).collect();
        for (id, asked) in ids {
            if asked {
                self.fail_checkpoint(world, id, "the job ended").await;
            } else if let Some(making) = world.making.remove(&id) {
                making.order(world, Phase::Resume);
            }
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

    /// A job can't be started again from the checkpoint from which it was to be, because of `bad`, itself or one on which it stands: starts it from the newest
    /// that does not stand on that. `Err`: there is none, or it can't.
    pub async fn fall_back(&self, world: &mut World, job: Job, bad: &str, why: &str) -> Result<Result<(), String>, Error> {
        // An agent can speak of its own job's alone.
        let bad = job.from_parents.iter().find(|p| *p == bad).unwrap_or(&job.from_checkpoint).clone();
        self.events.add("checkpoint.unusable", &job.id, format!("checkpoint {bad}: {why}")).await;
        world.unusable.entry(job.n).or_default().insert(bad.clone());
        self.recover(world, job, &format!("checkpoint {bad} can't be used: {why}")).await
    }

    /// Ranks of the job are lost: starts all of it from its last checkpoint that is any use. `Err`: it can't, and the job has to fail; the
    /// text says why.
    pub async fn recover(&self, world: &mut World, mut job: Job, why: &str) -> Result<Result<(), String>, Error> {
        let own = world.checkpoints.values().rev().filter(|c| c.job == job.id).map(|c| prefixes(world, c));
        // One that began from a file and has none of its own begins there again.
        let first = Some(std::iter::once(&job.from_checkpoint).chain(&job.from_parents).cloned().collect::<Vec<_>>()).filter(|_| !job.from_checkpoint.is_empty());
        let unusable = world.unusable.get(&job.n);
        let Some(mut parents) = own.chain(first).find(|prefixes| !unusable.is_some_and(|u| prefixes.iter().any(|p| u.contains(p)))) else {
            return Ok(Err(match unusable {
                Some(_) => "no other checkpoint of the job is left".into(),
                None if job.checkpoint_every_ms > 0 => match &job.checkpoint_failed {
                    Some(failed) => format!("it has no checkpoint to go on from: {}", failed.reason),
                    None => "its first checkpoint was not made yet".into(),
                },
                None => "it has no checkpoint to go on from; `cloudskin run --checkpoint-every 10s` makes some".into(),
            }));
        };
        let last = parents.remove(0);
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
        (job.state, job.from_checkpoint, job.from_parents) = (JobState::Pending, last.clone(), parents);
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

/// A checkpoint and those on which it stands, the newest first.
pub fn lineage<'w>(world: &'w World, checkpoint: &'w Checkpoint) -> Vec<&'w Checkpoint> {
    // A parent is older than what stands on it, so this ends.
    let parent = |c: &&'w Checkpoint| c.parent.filter(|p| *p < c.id).and_then(|p| world.checkpoints.get(&p));
    std::iter::successors(Some(checkpoint), parent).collect()
}

fn prefixes(world: &World, checkpoint: &Checkpoint) -> Vec<String> {
    lineage(world, checkpoint).iter().map(|c| c.prefix.clone()).collect()
}

/// The checkpoints that their jobs need no longer.
fn stale(world: &World) -> Vec<u64> {
    let mut wanted: BTreeSet<u64> = world.checkpoints.values().filter(|c| c.kept).map(|c| c.id).collect();
    wanted.extend(world.making.values().filter_map(|m| Some(m.parent.as_ref()?.id)));
    // By job: how many are kept, and the complete one of its newest chain.
    let mut seen: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    let mut before: BTreeSet<&str> = BTreeSet::new();
    for c in world.checkpoints.values().rev().filter(|c| !c.kept && world.alive(&c.job)) {
        let line = lineage(world, c);
        let unusable = number(&c.job).and_then(|n| world.unusable.get(&n));
        if line.iter().any(|c| unusable.is_some_and(|u| u.contains(&c.prefix))) {
            continue;
        }
        let complete = line.last().expect("it is one itself").id;
        let (kept, newest) = seen.entry(&c.job).or_insert((0, complete));
        if *kept < KEPT {
            wanted.insert(c.id);
            *kept += 1;
        }
        if complete != *newest && before.insert(&c.job) {
            wanted.insert(complete);
        }
    }
    let roots: Vec<u64> = wanted.iter().copied().collect();
    wanted.extend(roots.iter().filter_map(|id| world.checkpoints.get(id)).flat_map(|c| lineage(world, c)).map(|c| c.id));
    world.checkpoints.keys().copied().filter(|id| !wanted.contains(id)).collect()
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
        || world.jobs.get(&n).is_some_and(|j| !j.state.ended() && (j.from_checkpoint == prefix || j.from_parents.contains(&prefix)))
}

impl Hub {
    /// The checkpoints that count, with where their snapshots, and those on which they stand, are now: a user may have removed some, or a site forgotten.
    pub async fn checkpoints(&self) -> Result<Vec<Checkpoint>, Error> {
        let mut list: Vec<Checkpoint> = self.world.lock().await.checkpoints.values().cloned().collect();
        let mut copies: BTreeMap<u64, u32> = BTreeMap::new();
        for c in &mut list {
            // Parents have smaller numbers, so they have been looked at.
            let below = c.parent.map_or(u32::MAX, |p| copies.get(&p).copied().unwrap_or(0));
            c.copies = self.copies(c).await?.min(below);
            copies.insert(c.id, c.copies);
        }
        Ok(list)
    }

    /// Places that have each of a checkpoint's own snapshots now. Asks the catalog alone, so the world may be locked meanwhile.
    async fn copies(&self, c: &Checkpoint) -> Result<u32, Error> {
        let (bucket, prefix) = (geds::BucketName::new(CHECKPOINTS)?, format!("{}/", c.prefix));
        let (mut found, mut next) = (Vec::new(), Some(String::new()));
        while let Some(start_after) = next {
            let listing = self.objects.catalog.list(&bucket, &prefix, None, geds::Page { start_after, ..geds::Page::default() }).await?;
            found.extend(listing.objects.into_iter().map(crate::objects::Object::from));
            next = listing.next;
        }
        let copies = |o: &crate::objects::Object| o.sites.len() as u32 + u32::from(o.persisted);
        let whole = found.len() >= c.ranks.max(1) as usize;
        Ok(if whole { found.iter().map(copies).min().unwrap_or(0) } else { 0 })
    }

    /// The checkpoint on which the next of this job may stand. None: it has to be a complete one.
    async fn parent(&self, world: &World, job: &str) -> Option<Checkpoint> {
        let last = world.checkpoints.values().rev().find(|c| c.job == job && !c.kept)?;
        let line = lineage(world, last);
        let (complete, increments) = line.split_last()?;
        let unusable = number(job).and_then(|n| world.unusable.get(&n));
        let good = complete.parent.is_none() && !line.iter().any(|c| unusable.is_some_and(|u| u.contains(&c.prefix)));
        if !good || last.increments >= INCREMENTS_MAX || increments.iter().map(|c| c.bytes).sum::<u64>() > complete.bytes {
            return None;
        }
        let could = world.sites.values().filter(|s| s.connected()).count().min(2) as u32;
        for c in line {
            if self.copies(c).await.ok()? < could.max(1) {
                return None;
            }
        }
        Some(last.clone())
    }

    /// Removes a checkpoint; its objects go with the next sweep, which begins now.
    pub async fn delete_checkpoint(&self, id: u64) -> Result<Checkpoint, Error> {
        let mut world = self.world.lock().await;
        let gone = world.checkpoint(id)?.clone();
        let stands = world.checkpoints.values().find(|c| c.parent == Some(id)).map(|c| c.id);
        if let Some(stands) = stands.or_else(|| world.making.values().find(|m| m.parent.as_ref().is_some_and(|p| p.id == id)).map(|m| m.checkpoint.id)) {
            let why = format!("checkpoint {stands} has only what has changed since checkpoint {id}; it goes by itself when newer ones need it no longer, and with the end of {}", gone.job);
            return Err(refuse(why));
        }
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
            let parent = self.parent.as_ref().map(|p| p.prefix.clone()).unwrap_or_default();
            let order = proto::CheckpointOrder { checkpoint: c.id, job, phase: phase as i32, prefix, copy_site, copy_address, parent, complete: c.kept };
            world.tell(site, Body::Checkpoint(order));
        }
    }
}
