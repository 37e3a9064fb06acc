//! Moving ranks: the hub's part, in which it is the arbiter.
//!
//! `Expect` goes to the destination, then `Migrate` to the source; the source comes back with `MigrationReady` when the destination
//! holds everything, and asks again in each new session until it has its answer; the new places go to SQLite and then the verdict
//! to the source; `MigrationEnd` closes the move. Ranks that wait at a destination whose session was cut hear the verdict when it is
//! back ([`World::decided`]). Until the commit the ranks belong to the
//! source, whatever happens; after it to the destination, whatever happens. No byte of a rank passes through here.

use crate::{
    Error,
    hub::{Hub, Site, World, finite},
    jobs::{Job, JobState, RankState},
    migrations::{Migration, MigrationState},
    placement,
    proto::{self, to_agent::Body},
    state::MIGRATIONS_KEPT,
};
use base::{Kind, clock::now_ms};
use std::time::Duration;

impl World {
    /// What was decided of a rank that waits at a site, restored: the newest move that could have brought it there, and whether it is
    /// to run. `None`: nothing yet, or there is no such move.
    pub fn decided(&self, site: &str, held: &proto::RankRef) -> Option<(&Migration, bool)> {
        let m = self.migrations.values().rev().find(|m| m.job == held.job && m.to == site && m.ranks.contains(&held.rank))?;
        // Nobody needs it any more when the job has ended or started again since, whatever was decided.
        let here = |job: &Job| job.ranks.get(held.rank as usize).is_some_and(|r| r.site == site && r.state == RankState::Running);
        let needed = self.job(&held.job).is_ok_and(|job| !job.state.ended() && here(job));
        Some((m, m.verdict()? && needed))
    }
}

/// How long ranks that are to follow others are kept from it before that is given up, in milliseconds: a checkpoint takes some time.
const FOLLOW_MAX_MS: u64 = 60_000;
/// How often who waits for a checkpoint's end looks.
const LOOK: Duration = Duration::from_millis(50);
/// How long a source may take to report after the commit, in milliseconds.
const REPORT_MAX_MS: u64 = 60_000;

fn refuse(message: String) -> Error {
    Error::new(Kind::FailedPrecondition, message)
}

/// What is left to do when something can't move because it does not run.
fn may_move(soon: bool) -> &'static str {
    if soon { "try again when it runs" } else { "only running ranks can move" }
}

impl Hub {
    /// Begins to move ranks of a job; all that still run elsewhere when none are named. Each site's move in a migration of their own, one after the other:
    /// the answer is the first, which names the ranks that follow.
    pub async fn migrate(&self, id: &str, to: &str, ranks: Option<Vec<u32>>, recommendation: Option<u64>) -> Result<Migration, Error> {
        self.migrate_in(&mut *self.world.lock().await, id, to, ranks, recommendation).await
    }

    /// The same for a user: a checkpoint of the job that is being made goes first. It has a bound of its own.
    pub async fn migrate_after_checkpoint(&self, id: &str, to: &str, ranks: Option<Vec<u32>>) -> Result<Migration, Error> {
        loop {
            let mut world = self.world.lock().await;
            if !world.making.values().any(|m| m.job() == id) {
                return self.migrate_in(&mut world, id, to, ranks, None).await;
            }
            drop(world);
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn migrate_in(&self, world: &mut World, id: &str, to: &str, ranks: Option<Vec<u32>>, recommendation: Option<u64>) -> Result<Migration, Error> {
        let job = world.job(id)?;
        let mut ranks = ranks.unwrap_or_else(|| {
            job.ranks.iter().filter(|r| r.state == RankState::Running && r.site != to).map(|r| r.rank).collect()
        });
        ranks.sort();
        ranks.dedup();
        self.begin_move(world, id, to, ranks, recommendation).await
    }

    async fn begin_move(&self, world: &mut World, id: &str, to: &str, ranks: Vec<u32>, recommendation: Option<u64>) -> Result<Migration, Error> {
        let job = world.job(id)?.clone();
        if job.state != JobState::Running || job.cancelling.is_some() {
            let state = if job.cancelling.is_some() && !job.state.ended() { "being cancelled".into() } else { job.state.to_string() };
            return Err(refuse(format!("job {id} is not running but {state}; {}", may_move(job.state == JobState::Pending))));
        }
        world.site(to)?;
        let rooms = world.rooms();
        placement::fits(0, to, &rooms).map_err(refuse)?;
        if let Some(bad) = ranks.iter().find(|r| **r >= job.np) {
            return Err(refuse(format!("job {id} has no rank {bad}; it has ranks 0 to {}", job.np - 1)));
        }
        if let Some(bad) = ranks.iter().map(|r| &job.ranks[*r as usize]).find(|r| r.state != RankState::Running) {
            let why = format!("rank {} of job {id} is not running but {}; {}", bad.rank, bad.state, may_move(bad.state == RankState::Pending));
            return Err(refuse(why));
        }
        let at = |rank: &u32| job.ranks[*rank as usize].site.as_str();
        let from = match ranks.first() {
            Some(first) => at(first).to_string(),
            None => return Err(refuse(format!("job {id} has no running rank away from site {to:?}"))),
        };
        if let Some(there) = ranks.iter().find(|r| at(r) == to) {
            return Err(refuse(format!("rank {there} is at site {to:?} already")));
        }
        if let Some(other) = world.migrations.values().find(|m| m.job == job.id && m.open()) {
            return Err(refuse(format!("migration {} of job {id} is still under way; try again when it has ended", other.id)));
        }
        placement::fits(ranks.len() as u32, to, &rooms).map_err(refuse)?;
        if let Some(away) = ranks.iter().map(at).find(|site| !world.sites.get(*site).is_some_and(Site::connected)) {
            return Err(refuse(format!("site {away:?}, where ranks are, is not connected; {}", placement::list(&rooms))));
        }
        if world.making.values().any(|m| m.job() == job.id) {
            return Err(refuse(format!("a checkpoint of job {id} is being made; try again when it is done")));
        }
        // What was to follow an earlier move does what was asked last.
        let earlier: Vec<u64> = world.followed.iter().copied().filter(|m| world.migrations[m].job == job.id).collect();
        for m in earlier {
            self.leave_rest(world, m).await?;
        }
        let (ranks, rest): (Vec<u32>, Vec<u32>) = ranks.iter().partition(|r| at(r) == from);
        let migration = Migration {
            id: world.migrations.last_key_value().map_or(1, |(n, _)| n + 1),
            job: job.id.clone(),
            ranks,
            from: from.clone(),
            to: to.into(),
            state: MigrationState::Running,
            reason: String::new(),
            recommendation,
            rest,
            next: None,
            committed_ms: None,
            started_ms: now_ms(),
            ended_ms: None,
            downtime_ms: 0.0,
            state_bytes: 0,
            moved_bytes: 0,
            moved_stopped_bytes: 0,
            rounds: 0,
            total_ms: 0.0,
        };
        self.state.save(None, Some(&migration)).await?;
        world.migrations.insert(migration.id, migration.clone());
        let old = ..=migration.id.saturating_sub(MIGRATIONS_KEPT);
        let old: Vec<u64> = world.migrations.range(old).filter(|(_, m)| !m.open() && !m.followed()).map(|(id, _)| *id).collect();
        old.iter().for_each(|id| drop(world.migrations.remove(id)));
        self.events.add("migration.started", &job.id, format!("migration {}: {from} to {to}", migration.id)).await;
        if !self.send_order(world, &migration) {
            self.fail_migration(world, migration.id, &format!("site {from:?} or {to:?} is not connected")).await?;
        }
        Ok(world.migrations[&migration.id].clone())
    }

    /// Begins the moves that are to follow others. What can't begin now is tried again for [`FOLLOW_MAX_MS`].
    pub async fn follow_moves(&self, world: &mut World, now_ms: u64) -> Result<(), Error> {
        for id in world.followed.clone() {
            let m = world.migrations[&id].clone();
            let moves = |rank: &u32| world.job(&m.job).is_ok_and(|j| j.ranks[*rank as usize].state == RankState::Running && j.ranks[*rank as usize].site != m.to);
            let ranks: Vec<u32> = m.rest.iter().copied().filter(moves).collect();
            if ranks.is_empty() {
                self.leave_rest(world, id).await?;
                continue;
            }
            match self.begin_move(world, &m.job, &m.to, ranks.clone(), m.recommendation).await {
                Ok(next) => {
                    let m = Migration { next: Some(next.id), ..m };
                    self.state.save(None, Some(&m)).await?;
                    world.migrations.insert(id, m);
                }
                Err(why) if why.kind() == Kind::Internal => return Err(why),
                Err(why) if m.ended_ms.is_none_or(|at| at + FOLLOW_MAX_MS < now_ms) => {
                    self.leave_rest(world, id).await?;
                    self.events.add("migration.failed", &m.job, format!("ranks {ranks:?} don't follow migration {id} to {}: {why}", m.to)).await;
                }
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Nothing follows this migration any more.
    async fn leave_rest(&self, world: &mut World, id: u64) -> Result<(), Error> {
        let m = Migration { rest: Vec::new(), ..world.migrations[&id].clone() };
        self.state.save(None, Some(&m)).await?;
        world.migrations.insert(id, m);
        world.followed.remove(&id);
        Ok(())
    }

    /// Ends a migration that is not committed, and tells the source to go on.
    pub async fn fail_migration(&self, world: &mut World, id: u64, reason: &str) -> Result<(), Error> {
        let Some(mut m) = world.migrations.get(&id).cloned().filter(|m| m.state == MigrationState::Running) else { return Ok(()) };
        (m.state, m.reason, m.ended_ms) = (MigrationState::Failed, reason.into(), Some(now_ms()));
        self.state.save(None, Some(&m)).await?;
        world.migrations.insert(id, m.clone());
        world.asked.remove(&id);
        self.send_verdict(world, &m, &m.from);
        self.send_verdict(world, &m, &m.to);
        self.events.add("migration.failed", &m.job, format!("migration {id}: {reason}")).await;
        Ok(())
    }

    /// Tells the destination what to expect, then the source to move; false if one of them is not there.
    pub fn send_order(&self, world: &World, m: &Migration) -> bool {
        let Ok(job) = world.job(&m.job) else { return false };
        let expect = proto::Expect {
            migration: m.id,
            job: m.job.clone(),
            ranks: m.ranks.clone(),
            from_site: m.from.clone(),
            spec: Some(job.spec()),
            routes: job.routes(|s| world.address(s)),
        };
        let order = proto::Migrate {
            migration: m.id,
            job: m.job.clone(),
            ranks: m.ranks.clone(),
            to_site: m.to.clone(),
            to_address: world.address(&m.to),
        };
        world.tell(&m.to, Body::Expect(expect)) && world.tell(&m.from, Body::Migrate(order))
    }

    /// Tells the source, or the destination, what was decided, if it was.
    pub fn send_verdict(&self, world: &World, m: &Migration, site: &str) {
        let Some(commit) = m.verdict() else { return };
        let places = match world.job(&m.job) {
            Ok(job) => job.routes(|s| world.address(s)).into_iter().filter(|p| m.ranks.contains(&p.rank)).collect(),
            Err(_) => Vec::new(),
        };
        world.tell(site, Body::Verdict(proto::MigrationVerdict { migration: m.id, commit, places, reason: m.reason.clone() }));
    }

    /// The source asks for the verdict. Decided once, in one transaction; asked again, the same answer.
    pub async fn ready(&self, world: &mut World, site: &str, ready: &proto::MigrationReady) -> Result<(), Error> {
        let Some(mut m) = world.migrations.get(&ready.migration).cloned().filter(|m| m.from == site) else {
            let reason = "the hub knows no such migration of this site".to_string();
            world.tell(site, Body::Verdict(proto::MigrationVerdict { migration: ready.migration, commit: false, places: Vec::new(), reason }));
            return Ok(());
        };
        if m.state == MigrationState::Running {
            let mut job = world.job(&m.job)?.clone();
            let here = m.ranks.iter().all(|r| job.ranks[*r as usize].site == m.from);
            let destination = world.sites.get(&m.to);
            if destination.is_some_and(|s| !s.connected() && !s.lost) {
                world.asked.insert(m.id); // decided when it is back, or given up
                return Ok(());
            }
            let refusal = if !destination.is_some_and(Site::connected) {
                Some(format!("site {:?} is not connected", m.to))
            } else if job.state.ended() || job.cancelling.is_some() || !here {
                Some(format!("job {} has ended or restarted meanwhile", job.id))
            } else {
                None
            };
            if let Some(reason) = refusal {
                return self.fail_migration(world, m.id, &reason).await;
            }
            for rank in &m.ranks {
                job.put(*rank, &m.to, now_ms());
            }
            (m.state, m.committed_ms) = (MigrationState::Committed, Some(now_ms()));
            self.state.save(Some(&job), Some(&m)).await?;
            world.jobs.insert(job.n, job.clone());
            world.migrations.insert(m.id, m.clone());
            world.asked.remove(&m.id);
            world.tell_routes(&job);
            self.events.add("migration.committed", &m.job, format!("migration {}: {} to {}", m.id, m.from, m.to)).await;
        }
        self.send_verdict(world, &m, site);
        Ok(())
    }

    /// Takes in the source's last word on a migration.
    pub async fn end(&self, world: &mut World, site: &str, end: &proto::MigrationEnd) -> Result<(), Error> {
        let Some(mut m) = world.migrations.get(&end.migration).cloned().filter(|m| m.from == site) else { return Ok(()) };
        // The report may come after the hub has closed the move without it: then it still brings the figures.
        if !(m.open() || m.state == MigrationState::Done && m.total_ms == 0.0) {
            return Ok(());
        }
        if m.committed_ms.is_none() {
            if end.ok {
                tracing::warn!(migration = m.id, site, "migration reported as done before its verdict; ignored");
                return Ok(());
            }
            return self.fail_migration(world, m.id, &end.reason).await;
        }
        (m.downtime_ms, m.total_ms, m.rounds) = (finite(end.downtime_ms), finite(end.total_ms), end.rounds);
        (m.state_bytes, m.moved_bytes, m.moved_stopped_bytes) = (end.state_bytes, end.moved_bytes, end.moved_stopped_bytes);
        if end.ok {
            let message = format!("stood still for {:.0} ms", m.downtime_ms);
            return self.close_move(world, m, MigrationState::Done, "", &message).await;
        }
        let reason = format!("after the commit: {}; the ranks belong to {:?} all the same", end.reason, m.to);
        self.send_verdict(world, &m, &m.to);
        self.close_move(world, m, MigrationState::Failed, &reason, &reason).await
    }

    async fn close_move(&self, world: &mut World, mut m: Migration, state: MigrationState, reason: &str, message: &str) -> Result<(), Error> {
        (m.state, m.reason) = (state, reason.into());
        m.ended_ms.get_or_insert(now_ms());
        self.state.save(None, Some(&m)).await?;
        let kind = if state == MigrationState::Done { "migration.done" } else { "migration.failed" };
        self.events.add(kind, &m.job, format!("migration {}: {message}", m.id)).await;
        if m.followed() {
            world.followed.insert(m.id);
        }
        world.migrations.insert(m.id, m);
        Ok(())
    }

    /// A site is lost: every move that it takes part in ends. One that is committed goes on at a living destination, which
    /// holds all there is of the ranks; the hub says "go" in the source's place.
    pub async fn end_moves_at(&self, world: &mut World, site: &str, why: &str) -> Result<(), Error> {
        let open: Vec<Migration> = world.migrations.values().filter(|m| m.open() && (m.from == site || m.to == site)).cloned().collect();
        for m in open {
            let reason = format!("site {site:?} was lost: {why}");
            if m.committed_ms.is_none() {
                self.fail_migration(world, m.id, &reason).await?;
            } else if m.to == site {
                let reason = format!("after the commit: {reason}");
                self.close_move(world, m, MigrationState::Failed, &reason, &reason).await?;
            } else {
                self.send_verdict(world, &m, &m.to);
                let reason = format!("{reason}; after the commit, so without its report");
                self.close_move(world, m, MigrationState::Done, &reason, &reason).await?;
            }
        }
        Ok(())
    }

    /// The ranks of the job have to stop: those that stand still for a move must not wait for its end.
    pub async fn call_off_moves_of(&self, world: &mut World, job: &str, why: &str) -> Result<(), Error> {
        let open: Vec<u64> = world.migrations.values().filter(|m| m.state == MigrationState::Running && m.job == job).map(|m| m.id).collect();
        for id in open {
            self.fail_migration(world, id, &format!("the job has to stop: {why}")).await?;
        }
        Ok(())
    }

    /// The job has ended: so have its moves.
    pub async fn end_moves_of(&self, world: &mut World, job: &str) -> Result<(), Error> {
        let open: Vec<Migration> = world.migrations.values().filter(|m| m.open() && m.job == job).cloned().collect();
        for m in open {
            if m.committed_ms.is_none() {
                self.fail_migration(world, m.id, "the job ended before it").await?;
            } else {
                let reason = "the job ended before the source's report";
                self.close_move(world, m, MigrationState::Done, reason, reason).await?;
            }
        }
        Ok(())
    }

    /// Closes committed moves whose source has nothing to say for [`REPORT_MAX_MS`].
    pub async fn end_silent_moves(&self, world: &mut World, now_ms: u64) -> Result<(), Error> {
        let late = |m: &&Migration| m.state == MigrationState::Committed && m.committed_ms.is_none_or(|at| at + REPORT_MAX_MS < now_ms);
        let open: Vec<Migration> = world.migrations.values().filter(late).cloned().collect();
        for m in open {
            let reason = format!("site {:?} did not report within {} s of the commit", m.from, REPORT_MAX_MS / 1000);
            self.send_verdict(world, &m, &m.to);
            self.close_move(world, m, MigrationState::Done, &reason, &reason).await?;
        }
        Ok(())
    }
}
