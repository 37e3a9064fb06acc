//! This agent's part in a checkpoint of a whole job: stop, write, go on.
//!
//! After STOP no message is under way: every rank stands still and all it had sent to other agents has arrived there. So the snapshots that WRITE makes,
//! here and at the other sites, fit together.

use super::{Agent, background, jobs::{CHECKPOINTS, Held, Job, within}, lock};
use anyhow::Context;
use base::SiteId;
use cells::snapshot;
use mpi::Rank;
use orchestrator::proto::{CheckpointOrder, CheckpointStep, checkpoint_order::Phase, from_agent::Body};
use std::{sync::Arc, time::{Duration, Instant}};

/// For all ranks to come to a safe point, and for what they sent to arrive.
const STOP_MAX: Duration = Duration::from_secs(20);

/// What an agent has written for a checkpoint.
#[derive(Default)]
struct Written {
    bytes: u64,
    /// Why a snapshot is at this site only, if it was to be at another one, too.
    alone: Option<String>,
}

impl Agent {
    /// `Checkpoint`. Ranks are told to stop and to go on here, on the thread that obeys, so that no order overtakes the one before it: else a
    /// RESUME could come before its STOP, and the ranks stood still for ever. Only what waits has a thread of its own.
    pub fn checkpoint(self: &Arc<Self>, order: CheckpointOrder) {
        let job = self.job(&order.job).context("this agent holds no rank of the job");
        let ready = match order.phase() {
            Phase::Unspecified => return,
            Phase::Resume => return job.iter().for_each(|job| self.resume(job)),
            Phase::Stop => job.and_then(|job| job.all().iter().try_for_each(|held| held.halt(&job.fabric)).map(|()| job)),
            Phase::Write => job,
        };
        let (agent, asked) = (self.clone(), order.clone());
        let spawned = background("checkpoint", move || {
            let done = ready.and_then(|job| match asked.phase() {
                Phase::Stop => agent.await_stop(&job).map(|()| Written::default()),
                _ => agent.write_all(&job, &asked),
            });
            agent.answer(&asked, done);
        });
        if let Err(e) = spawned {
            self.answer(&order, Err(e));
        }
    }

    /// Tells the hub how this agent's part went: what was written, or why not.
    fn answer(&self, order: &CheckpointOrder, done: anyhow::Result<Written>) {
        let mut step = CheckpointStep { checkpoint: order.checkpoint, job: order.job.clone(), phase: order.phase, ok: true, ..Default::default() };
        step.ranks = self.job(&order.job).map_or(Vec::new(), |job| job.all().iter().map(|h| h.rank).collect());
        match done {
            Ok(Written { bytes, alone }) => {
                step.bytes = bytes;
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

    fn write_all(self: &Arc<Self>, job: &Arc<Job>, order: &CheckpointOrder) -> anyhow::Result<Written> {
        let bucket = geds::BucketName::new(CHECKPOINTS)?;
        let store = self.node.blocking();
        store.create_bucket(&bucket)?;
        let mut done = Written::default();
        for held in job.all() {
            let snapshot = self.snapshot(job, &held)?;
            done.bytes += snapshot.len() as u64;
            let key = geds::Key::new(format!("{}/rank-{}", order.prefix, held.rank))?;
            let mut writer = store.create(&bucket, &key)?;
            writer.write_at(0, &snapshot)?;
            store.seal(writer)?;
            if !order.copy_site.is_empty() {
                // One copy dies with this site. If the other can't be made, the checkpoint still helps when another rank's site is lost.
                let copied = self.runtime.block_on(async {
                    let site = SiteId::new(&order.copy_site)?;
                    geds::PeerClient::dial(&self.dialer, &site, &order.copy_address).await?.keep(&bucket, &key).await?;
                    anyhow::Ok(())
                });
                if let Err(e) = copied {
                    done.alone.get_or_insert_with(|| format!("rank {} has no second copy at {}: {}", held.rank, order.copy_site, crate::failure::line(&e)));
                }
            }
        }
        Ok(done)
    }

    fn snapshot(self: &Arc<Self>, job: &Arc<Job>, held: &Arc<Held>) -> anyhow::Result<Vec<u8>> {
        let written = self.with_stopped(job, held, |cell| snapshot::write(&self.engine, cell));
        Ok(written.with_context(|| format!("rank {} does not stand still any more", held.rank))??)
    }

    fn resume(self: &Arc<Self>, job: &Arc<Job>) {
        for held in job.all() {
            self.unhalt(job, &held, None);
        }
    }

    /// The hub is gone: what stands still for a checkpoint goes on. Ranks that move wait for the verdict. Called in the order of the hub's orders,
    /// after the last of the session that was cut.
    pub fn resume_all(self: &Arc<Self>) {
        let jobs: Vec<Arc<Job>> = lock(&self.jobs).values().cloned().collect();
        for job in jobs {
            if self.moving(&job.spec.job).is_empty() {
                self.resume(&job);
            }
        }
    }
}
