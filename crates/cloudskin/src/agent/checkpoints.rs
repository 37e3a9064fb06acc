//! This agent's part in a checkpoint of a whole job: copy, stop, go on, write.
//!
//! ```text
//!  AHEAD  ranks run      pages that the snapshots will need are copied
//!  STOP   ranks stand    what they sent arrives
//!  COPY   ranks stand    state, and what has changed since AHEAD
//!  WRITE  ranks run      the copies become objects, with second copies at another site
//!  RESUME ends it in any phase
//! ```
//!
//! After STOP no message is under way: every rank stands still and all it had sent to other agents has arrived there. So what COPY takes, here and at the
//! other sites, fits together. Copies of all checkpoints together are bounded; a rank for which there is no room is written in COPY, while it stands.

use super::{Agent, background, jobs::{CHECKPOINTS, Held, Job, within}, lock};
use anyhow::Context;
use base::SiteId;
use cells::{Draft, draft::Known, snapshot::Written};
use mpi::Rank;
use orchestrator::proto::{CheckpointOrder, CheckpointStep, checkpoint_order::Phase, from_agent::Body};
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::{AtomicU64, Ordering}},
    time::{Duration, Instant},
};

/// For all ranks to come to a safe point, and for what they sent to arrive.
const STOP_MAX: Duration = Duration::from_secs(20);

/// Copies of pages, of all checkpoints that are being made here. Never more than a quarter of what the ranks may have.
const COPIES_MAX: u64 = 1 << 30;

/// A checkpoint on its way from the ranks' memory to the store.
#[derive(Default)]
pub struct Taking {
    drafts: BTreeMap<u32, Taken>,
}

/// A rank's part of it.
struct Taken {
    draft: Draft,
    room: Room,
    /// Written already, while the rank stood still.
    written: Option<Written>,
}

/// A part of what copies may have; given back with it.
struct Room {
    used: Arc<AtomicU64>,
    max: u64,
    bytes: u64,
}

impl Room {
    fn take(&mut self, more: usize) -> bool {
        let fits = |used: u64| used.checked_add(more as u64).filter(|used| *used <= self.max);
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok();
        self.bytes += if taken { more as u64 } else { 0 };
        taken
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What an agent has done for a checkpoint.
#[derive(Default)]
struct Done {
    bytes: u64,
    /// Some of the snapshots have only what has changed.
    increment: bool,
    paused: Duration,
    /// Why a snapshot is at this site only, if it was to be at another one, too.
    alone: Option<String>,
}

impl Agent {
    /// `Checkpoint`. Ranks are told to stop and to go on here, on the thread that obeys, so that no order overtakes the one before it: else a
    /// RESUME could come before its STOP, and the ranks stood still for ever. Only what waits has a thread of its own.
    pub fn checkpoint(self: &Arc<Self>, order: CheckpointOrder) {
        let job = self.job(&order.job).context("this agent holds no rank of the job");
        let mut paused = Duration::ZERO;
        let ready = match order.phase() {
            Phase::Unspecified => return,
            Phase::Resume => {
                lock(&self.taking).remove(&order.checkpoint);
                return job.iter().for_each(|job| self.resume(job));
            }
            Phase::Ahead => {
                lock(&self.taking).insert(order.checkpoint, Taking::default());
                job
            }
            Phase::Stop => job.and_then(|job| job.all().iter().try_for_each(|held| held.halt(&job.fabric)).map(|()| job)),
            Phase::Copy => job,
            // What was taken is enough.
            Phase::Write => job.map(|job| {
                let left: Vec<Instant> = job.all().iter().filter_map(|held| held.control.left_at()).collect();
                self.resume(&job);
                paused = left.iter().map(Instant::elapsed).max().unwrap_or_default();
                job
            }),
        };
        let (agent, asked) = (self.clone(), order.clone());
        let spawned = background("checkpoint", move || {
            let done = ready.and_then(|job| match asked.phase() {
                Phase::Ahead => agent.ahead(&job, &asked).map(|()| Done::default()),
                Phase::Stop => agent.await_stop(&job).map(|()| Done::default()),
                Phase::Copy => agent.copy(&job, &asked).map(|()| Done::default()),
                _ => agent.write_all(&job, &asked).map(|done| Done { paused, ..done }),
            });
            agent.answer(&asked, done);
        });
        if let Err(e) = spawned {
            self.answer(&order, Err(e));
        }
    }

    /// Tells the hub how this agent's part went: what was written, or why not.
    fn answer(&self, order: &CheckpointOrder, done: anyhow::Result<Done>) {
        let mut step = CheckpointStep { checkpoint: order.checkpoint, job: order.job.clone(), phase: order.phase, ok: true, ..Default::default() };
        step.ranks = self.job(&order.job).map_or(Vec::new(), |job| job.all().iter().map(|h| h.rank).collect());
        match done {
            Ok(Done { bytes, increment, paused, alone }) => {
                (step.bytes, step.increment, step.paused_us) = (bytes, increment, paused.as_micros() as u64);
                step.copies = if order.copy_site.is_empty() || alone.is_some() { 1 } else { 2 };
                step.reason = alone.unwrap_or_default();
            }
            Err(e) => (step.ok, step.reason) = (false, crate::failure::line(&e)),
        }
        self.outbox.send(Body::Checkpoint(step));
    }

    /// Waits until all ranks of a job here, which have been halted, stand still and nothing of theirs is under way.
    fn await_stop(&self, job: &Job) -> anyhow::Result<()> {
        let until = within(STOP_MAX);
        for held in job.all() {
            held.stand_still(until)?;
            job.fabric.acknowledge_all(Rank(held.rank), true);
        }
        for held in job.all() {
            while !job.fabric.all_acknowledged(Rank(held.rank)) {
                anyhow::ensure!(Instant::now() < until, "messages of rank {} have not arrived in time", held.rank);
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    /// A rank's snapshot that is begun.
    fn begin_taking(&self, held: &Held, order: &CheckpointOrder) -> Taken {
        let mut known = lock(&held.known);
        // What the hub does not name any more no snapshot will stand on.
        known.retain(|k| k.name() == order.parent);
        let parent: Option<Arc<Known>> = known.last().filter(|_| !order.complete).cloned();
        let room = Room { used: self.copies_bytes.clone(), max: COPIES_MAX.min(self.memory_bytes / 4), bytes: 0 };
        Taken { draft: Draft::new(parent), room, written: None }
    }

    /// Copies while the ranks run.
    fn ahead(&self, job: &Job, order: &CheckpointOrder) -> anyhow::Result<()> {
        let program = self.program(&job.spec, &|| false)?;
        for held in job.all() {
            let Taken { mut draft, mut room, written } = self.begin_taking(&held, order);
            draft.ahead(&self.engine, &program, &held.control, &mut |more| room.take(more), || lock(&self.taking).contains_key(&order.checkpoint))?;
            if let Some(taking) = lock(&self.taking).get_mut(&order.checkpoint) {
                taking.drafts.insert(held.rank, Taken { draft, room, written });
            }
        }
        Ok(())
    }

    /// Takes what the stopped ranks are.
    fn copy(self: &Arc<Self>, job: &Arc<Job>, order: &CheckpointOrder) -> anyhow::Result<()> {
        for held in job.all() {
            let begun = lock(&self.taking).get_mut(&order.checkpoint).and_then(|taking| taking.drafts.remove(&held.rank));
            let Taken { mut draft, mut room, .. } = begun.unwrap_or_else(|| self.begin_taking(&held, order));
            let work = |cell: &mut cells::Cell| -> anyhow::Result<Option<Written>> {
                let all = draft.take(&self.engine, cell, &mut |more| room.take(more))?;
                (!all).then(|| self.store(&draft, Some(cell.memory()), &order.prefix, held.rank)).transpose()
            };
            let written = self.with_stopped(job, &held, work).with_context(|| format!("rank {} does not stand still any more", held.rank))??;
            if let Some(taking) = lock(&self.taking).get_mut(&order.checkpoint) {
                taking.drafts.insert(held.rank, Taken { draft, room, written });
            }
        }
        Ok(())
    }

    /// Makes a rank's snapshot an object.
    fn store(&self, draft: &Draft, memory: Option<&[u8]>, prefix: &str, rank: u32) -> anyhow::Result<Written> {
        let (bucket, key) = (geds::BucketName::new(CHECKPOINTS)?, geds::Key::new(format!("{prefix}/rank-{rank}"))?);
        let store = self.node.blocking();
        store.create_bucket(&bucket)?;
        let mut writer = store.create(&bucket, &key)?;
        let mut at = 0;
        let written = draft.write(memory, |piece| {
            writer.write_at(at, piece)?;
            at += piece.len() as u64;
            anyhow::Ok(())
        })?;
        store.seal(writer)?;
        Ok(written)
    }

    fn write_all(&self, job: &Job, order: &CheckpointOrder) -> anyhow::Result<Done> {
        let Taking { drafts } = lock(&self.taking).remove(&order.checkpoint).context("nothing was copied for it here")?;
        let bucket = geds::BucketName::new(CHECKPOINTS)?;
        let mut done = Done::default();
        for (rank, Taken { draft, room, written }) in drafts {
            let written = written.map_or_else(|| self.store(&draft, None, &order.prefix, rank), Ok)?;
            done.bytes += written.bytes;
            done.increment |= draft.increment();
            if let Some(held) = job.held(rank).filter(|_| !order.complete) {
                lock(&held.known).push(Arc::new(draft.known(&order.prefix, written)));
            }
            drop(room);
            if !order.copy_site.is_empty() {
                // One copy dies with this site. If the other can't be made, the checkpoint still helps when another rank's site is lost.
                let key = geds::Key::new(format!("{}/rank-{rank}", order.prefix))?;
                let copied = self.runtime.block_on(async {
                    let site = SiteId::new(&order.copy_site)?;
                    geds::PeerClient::dial(&self.dialer, &site, &order.copy_address).await?.keep(&bucket, &key).await?;
                    anyhow::Ok(())
                });
                if let Err(e) = copied {
                    done.alone.get_or_insert_with(|| format!("rank {rank} has no second copy at {}: {}", order.copy_site, crate::failure::line(&e)));
                }
            }
        }
        Ok(done)
    }

    fn resume(self: &Arc<Self>, job: &Arc<Job>) {
        for held in job.all() {
            self.unhalt(job, &held, None);
        }
    }

    /// The hub is gone: what stands still for a checkpoint goes on. Ranks that move wait for the verdict. Called in the order of the hub's orders,
    /// after the last of the session that was cut.
    pub fn resume_all(self: &Arc<Self>) {
        lock(&self.taking).clear();
        let jobs: Vec<Arc<Job>> = lock(&self.jobs).values().cloned().collect();
        for job in jobs {
            if self.moving(&job.spec.job).is_empty() {
                self.resume(&job);
            }
        }
    }
}
