//! A job and the rules of its life: pure data and pure transitions; `hub.rs` acts on them.

use crate::{
    Error,
    hub::finite,
    proto::{JobSpec, Place, RankLoad, Traffic, rank_event},
};
use base::Kind;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Placements kept of a job, which may move to and fro for months; more, if it has many ranks: each has one at least.
const PLACEMENTS_MAX: usize = 4096;
/// What WebAssembly can address: from a page to all of 32 bits, in bytes.
const MEMORY_MIN: u64 = 64 << 10;
const MEMORY_MAX: u64 = 4 << 30;
/// Peers of a rank that are taken in.
const PEERS_MAX: usize = 64;
/// Characters kept of an agent's reason or backtrace.
const TEXT_MAX: usize = 16 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    Pending,
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

impl JobState {
    pub fn ended(self) -> bool {
        !matches!(self, JobState::Pending | JobState::Running)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RankState {
    Pending,
    Running,
    Exited,
    Failed,
    Cancelled,
    Lost,
}

/// As it is written everywhere: in small letters.
macro_rules! small {
    ($($state:ty),+) => {$(
        impl std::fmt::Display for $state {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&format!("{self:?}").to_lowercase())
            }
        }
    )+};
}
small!(JobState, RankState);

impl RankState {
    /// Has a place that it takes up.
    pub fn alive(self) -> bool {
        matches!(self, RankState::Pending | RankState::Running)
    }
}

#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Rank {
    pub rank: u32,
    pub site: String,
    pub epoch: u64,
    pub state: RankState,
    pub doing: String,
    /// Cores that it got.
    pub cpu_used: f64,
    /// The same plus what it stood ready for and did not get.
    #[serde(default)]
    pub cpu_wanted: f64,
    pub memory_bytes: u64,
    /// Messages since the job began; they move with the rank.
    pub sent: u64,
    pub received: u64,
    #[serde(default)]
    pub sent_bytes: u64,
    #[serde(default)]
    pub received_bytes: u64,
    /// What has made its code, one of [`TIERS`]; empty until it runs.
    #[serde(default)]
    pub tier: String,
    /// Share of the time that it waited in calls, 0 to 1, as its agent said last. This and what follows is not kept: `/v1/ranks` tells of those that run.
    #[serde(skip)]
    pub waiting: f64,
    /// How long it took last to leave its work when it was asked to; 0: never here.
    #[serde(skip)]
    pub stopped_after_ms: f64,
    /// Of the pages that it writes, estimated.
    #[serde(skip)]
    pub written_bytes_per_second: f64,
    /// With whom it has exchanged most.
    #[serde(skip)]
    pub peers: Arc<[Peer]>,
}

/// What a rank has exchanged with another rank of its job.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Peer {
    pub rank: u32,
    /// Messages.
    pub sent: u64,
    pub received: u64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Placement {
    pub rank: u32,
    pub site: String,
    pub from_ms: u64,
    pub to_ms: Option<u64>,
}

/// What may make a program's code, as agents name it (`cells::Tier`).
pub const TIERS: [&str; 3] = ["quick", "fast", "interpreter"];

/// Bucket of the code that agents compile for each other.
pub const CODE_BUCKET: &str = "cloudskin-code";
/// Buckets that no job may have as a folder, and what they hold: who writes there becomes another job.
const OF_THE_HOUSE: [(&str, &str); 2] = [(CODE_BUCKET, "code that agents have compiled for each other"), (crate::objects::CHECKPOINTS, "the states of all jobs")];

/// What a job is to do, apart from where: enough to start it again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Work {
    pub name: String,
    pub tenant: String,
    pub np: u32,
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub buckets: Vec<String>,
    /// SHA-256 of the module.
    pub module: String,
    pub pinned: bool,
    pub workdir: String,
    /// Per rank; 0: the agent's own bound.
    pub memory_max_bytes: u64,
    /// 0: none.
    pub time_max_ms: u64,
    /// 0: never.
    pub checkpoint_every_ms: u64,
    /// One of [`TIERS`]; empty: each site's own.
    #[serde(default)]
    pub tier: String,
}

impl Work {
    /// Refuses what no hub starts.
    pub fn check(&self) -> Result<(), Error> {
        if !(1..=1024).contains(&self.np) {
            return Err(Error::new(Kind::InvalidArgument, format!("np is {}; use 1 to 1024", self.np)));
        }
        if self.name.is_empty() || self.name.len() > 200 {
            return Err(Error::new(Kind::InvalidArgument, "name must have 1 to 200 bytes"));
        }
        if self.memory_max_bytes != 0 && !(MEMORY_MIN..=MEMORY_MAX).contains(&self.memory_max_bytes) {
            let message = format!("memory_max is {} bytes; a rank can have 64 KiB ({MEMORY_MIN} bytes) to 4 GiB ({MEMORY_MAX} bytes)", self.memory_max_bytes);
            return Err(Error::new(Kind::InvalidArgument, message));
        }
        for bucket in &self.buckets {
            geds::BucketName::new(bucket.as_str())?;
            if let Some((_, what)) = OF_THE_HOUSE.iter().find(|(name, _)| bucket == name) {
                return Err(Error::new(Kind::PermissionDenied, format!("bucket {bucket} holds {what}, and no job uses it; choose another name")));
            }
        }
        if !self.tier.is_empty() && !TIERS.contains(&self.tier.as_str()) {
            return Err(Error::new(Kind::InvalidArgument, format!("there is no tier {:?}; choose one of {}, or none for each site's own", self.tier, TIERS.join(", "))));
        }
        Ok(())
    }
}

/// A checkpoint that was not made.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CheckpointFailed {
    pub at_ms: u64,
    pub reason: String,
}

#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Job {
    #[serde(default)]
    pub n: u64,
    pub id: String,
    pub name: String,
    pub tenant: String,
    pub state: JobState,
    pub reason: String,
    pub np: u32,
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub buckets: Vec<String>,
    /// SHA-256 of the module.
    pub module: String,
    pub pinned: bool,
    pub workdir: String,
    /// Per rank; 0: the agent's own bound.
    pub memory_max_bytes: u64,
    /// 0: none.
    pub time_max_ms: u64,
    pub checkpoint_every_ms: u64,
    /// In which tier it was asked to run; empty: each site's own. What a rank runs in is said of the rank.
    #[serde(default)]
    pub tier: String,
    pub created_ms: u64,
    pub started_ms: Option<u64>,
    pub ended_ms: Option<u64>,
    pub exit_code: Option<i32>,
    pub backtrace: String,
    pub restarts: u32,
    /// Prefix of the checkpoint that it was last started from, or empty.
    #[serde(default)]
    pub from_checkpoint: String,
    /// Prefixes of those on which that one stands, the newest first.
    #[serde(default)]
    pub from_parents: Vec<String>,
    pub ranks: Vec<Rank>,
    pub placements: Vec<Placement>,
    pub output_bytes: u64,
    /// Why no checkpoint was made when the last one was due or asked for; null if one was made.
    #[serde(default)]
    pub checkpoint_failed: Option<CheckpointFailed>,
    /// Why the ranks were told to stop, if they were: who asked decides how the job ends.
    pub cancelling: Option<(JobState, String)>,
}

impl Rank {
    /// Takes in what its agent reports.
    pub fn observe(&mut self, load: &RankLoad) {
        let text = |text: &str, most| text.chars().take(most).collect();
        (self.doing, self.tier) = (text(&load.doing, 100), text(&load.tier, 20));
        (self.cpu_used, self.cpu_wanted) = (finite(load.cpu_used), finite(load.cpu_wanted));
        self.memory_bytes = load.memory_bytes;
        (self.sent, self.received) = (load.sent, load.received);
        (self.sent_bytes, self.received_bytes) = (load.sent_bytes, load.received_bytes);
        (self.waiting, self.stopped_after_ms) = (finite(load.waiting), finite(load.stopped_after_ms));
        self.written_bytes_per_second = finite(load.written_bytes_per_second);
        let peer = |t: &Traffic| Peer { rank: t.rank, sent: t.sent, received: t.received, sent_bytes: t.sent_bytes, received_bytes: t.received_bytes };
        self.peers = load.peers.iter().take(PEERS_MAX).map(peer).collect();
    }
}

impl Job {
    /// A job that has not begun; its ranks have no place yet.
    pub fn new(n: u64, work: Work, from_checkpoint: String, now_ms: u64) -> Job {
        let rank = |rank| Rank {
            rank,
            site: String::new(),
            epoch: 0,
            state: RankState::Pending,
            doing: String::new(),
            cpu_used: 0.0,
            cpu_wanted: 0.0,
            memory_bytes: 0,
            sent: 0,
            received: 0,
            sent_bytes: 0,
            received_bytes: 0,
            tier: String::new(),
            waiting: 0.0,
            stopped_after_ms: 0.0,
            written_bytes_per_second: 0.0,
            peers: Arc::default(),
        };
        Job {
            n,
            id: format!("job-{n}"),
            tenant: work.tenant,
            state: JobState::Pending,
            reason: String::new(),
            np: work.np,
            args: work.args,
            name: work.name,
            env: work.env,
            buckets: work.buckets,
            module: work.module,
            pinned: work.pinned,
            workdir: work.workdir,
            memory_max_bytes: work.memory_max_bytes,
            time_max_ms: work.time_max_ms,
            checkpoint_every_ms: work.checkpoint_every_ms,
            tier: work.tier,
            created_ms: now_ms,
            started_ms: None,
            ended_ms: None,
            exit_code: None,
            backtrace: String::new(),
            restarts: 0,
            from_checkpoint,
            from_parents: Vec::new(),
            ranks: (0..work.np).map(rank).collect(),
            placements: Vec::new(),
            output_bytes: 0,
            checkpoint_failed: None,
            cancelling: None,
        }
    }

    /// What is needed to start it again elsewhere.
    pub fn work(&self) -> Work {
        Work {
            name: self.name.clone(),
            tenant: self.tenant.clone(),
            np: self.np,
            args: self.args.clone(),
            env: self.env.clone(),
            buckets: self.buckets.clone(),
            module: self.module.clone(),
            pinned: self.pinned,
            workdir: self.workdir.clone(),
            memory_max_bytes: self.memory_max_bytes,
            time_max_ms: self.time_max_ms,
            checkpoint_every_ms: self.checkpoint_every_ms,
            tier: self.tier.clone(),
        }
    }

    /// What the agents are told of it.
    pub fn spec(&self) -> JobSpec {
        JobSpec {
            job: self.id.clone(),
            module_sha256: self.module.clone(),
            size: self.np,
            args: self.args.clone(),
            env: self.env.clone(),
            buckets: self.buckets.clone(),
            memory_max_bytes: self.memory_max_bytes,
            tenant: self.tenant.clone(),
            workdir: self.workdir.clone(),
            life: self.restarts,
            tier: self.tier.clone(),
        }
    }

    /// Every rank's place; `address` gives a site's.
    pub fn routes(&self, address: impl Fn(&str) -> String) -> Vec<Place> {
        self.ranks
            .iter()
            .map(|r| Place { rank: r.rank, site: r.site.clone(), address: address(&r.site), epoch: r.epoch })
            .collect()
    }

    /// The sites that ever held a rank of it.
    pub fn involved(&self) -> Vec<String> {
        let mut sites: Vec<String> = self.placements.iter().map(|p| p.site.clone()).collect();
        sites.extend(self.ranks.iter().map(|r| r.site.clone()));
        sites.sort();
        sites.dedup();
        sites
    }

    /// Puts a rank at a site with the next epoch and notes it in the timeline.
    pub fn put(&mut self, rank: u32, site: &str, now_ms: u64) {
        let r = &mut self.ranks[rank as usize];
        r.site = site.into();
        r.epoch += 1;
        for open in self.placements.iter_mut().filter(|p| p.rank == rank && p.to_ms.is_none()) {
            open.to_ms = Some(now_ms);
        }
        self.placements.push(Placement { rank, site: site.into(), from_ms: now_ms, to_ms: None });
        if self.placements.len() > PLACEMENTS_MAX.max(4 * self.ranks.len()) {
            // The oldest, but not the last word of a site: all that had ranks have to hear how the job ends.
            let last = |p: &Placement| self.placements.iter().filter(|o| o.site == p.site).count() == 1;
            if let Some(old) = self.placements.iter().position(|p| p.to_ms.is_some() && !last(p)) {
                self.placements.remove(old);
            }
        }
    }

    /// Takes in what an agent says of a rank. `None` if it is out of date: another site's, or an older epoch. `Some(true)`
    /// when the others have to be cancelled because this rank failed. The time is the hub's: agents' clocks may differ.
    pub fn rank_event(&mut self, site: &str, event: &crate::proto::RankEvent, now_ms: u64) -> Option<bool> {
        let np = self.np;
        let rank = self.ranks.get_mut(event.rank as usize)?;
        if self.state.ended() || rank.site != site || rank.epoch != event.epoch || !rank.state.alive() {
            return None;
        }
        let mut bad = None;
        match event.state() {
            rank_event::State::Running => {
                rank.state = RankState::Running;
                self.state = JobState::Running;
                self.started_ms.get_or_insert(now_ms);
                return Some(false);
            }
            rank_event::State::Exited => {
                rank.state = RankState::Exited;
                if event.exit_code != 0 {
                    bad = Some(format!("rank {} of {np} exited with code {}", event.rank, event.exit_code));
                }
            }
            rank_event::State::Failed => {
                rank.state = RankState::Failed;
                // The agent names the rank, too.
                let why = event.message.strip_prefix(&format!("rank {}: ", event.rank)).unwrap_or(&event.message);
                bad = Some(format!("rank {} of {np} failed: {why}", event.rank));
            }
            rank_event::State::Cancelled => rank.state = RankState::Cancelled,
            rank_event::State::Unspecified => return None,
        }
        if let Some(mut reason) = bad.filter(|_| self.cancelling.is_none()) {
            if event.state() != rank_event::State::Failed && !event.message.is_empty() && !reason.contains(&event.message) {
                reason = format!("{reason}: {}", event.message);
            }
            self.exit_code = Some(event.exit_code);
            self.backtrace = event.backtrace.chars().take(TEXT_MAX).collect();
            reason = reason.chars().take(TEXT_MAX).collect();
            self.cancelling = Some((JobState::Failed, reason));
            return Some(true);
        }
        Some(false)
    }

    /// Ends the job when no rank is left. True if it ended now.
    pub fn settle(&mut self, now_ms: u64) -> bool {
        if self.state.ended() || self.ranks.iter().any(|r| r.state.alive()) {
            return false;
        }
        (self.state, self.reason) = self.cancelling.take().unwrap_or((JobState::Succeeded, String::new()));
        if self.state == JobState::Succeeded {
            self.exit_code = Some(0);
        }
        self.ended_ms = Some(now_ms);
        for open in self.placements.iter_mut().filter(|p| p.to_ms.is_none()) {
            open.to_ms = Some(now_ms);
        }
        true
    }

    /// Whether the rank has this place and may still run there.
    pub fn holds(&self, rank: u32, epoch: u64) -> bool {
        !self.state.ended() && self.ranks.get(rank as usize).is_some_and(|r| r.epoch == epoch && r.state.alive())
    }

    /// Marks ranks as gone; the job has to fail with the reason unless it was to end anyway.
    pub fn lose(&mut self, ranks: &[u32], reason: &str) {
        for rank in ranks {
            self.ranks[*rank as usize].state = RankState::Lost;
        }
        self.cancelling.get_or_insert((JobState::Failed, reason.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_has_buckets_of_users_only_and_keeps_its_last_places_and_all_its_sites() {
        let work = Work {
            name: "veg".into(),
            tenant: "default".into(),
            np: 2,
            args: Vec::new(),
            env: Vec::new(),
            buckets: Vec::new(),
            module: String::new(),
            pinned: false,
            workdir: "/out".into(),
            memory_max_bytes: 0,
            time_max_ms: 0,
            checkpoint_every_ms: 0,
            tier: String::new(),
        };
        let with = |bucket: &str| Work { buckets: vec![bucket.into()], ..work.clone() }.check();
        assert!(with("scenes").is_ok());
        for ours in ["checkpoints", "cloudskin-code"] {
            let refused = with(ours).unwrap_err();
            assert!(refused.kind == Kind::PermissionDenied && refused.message.contains(ours), "{refused:?}");
        }
        let mut job = Job::new(1, work, String::new(), 0);
        for (rank, site) in [(0, "field"), (1, "edge")] {
            job.put(rank, site, 1);
        }
        for n in 0..10_000 {
            job.put(0, if n % 2 == 0 { "cloud" } else { "edge" }, n);
        }
        assert_eq!(job.placements.len(), PLACEMENTS_MAX);
        assert_eq!(job.involved(), ["cloud", "edge", "field"]);
        let open: Vec<(u32, &str)> = job.placements.iter().filter(|p| p.to_ms.is_none()).map(|p| (p.rank, p.site.as_str())).collect();
        assert_eq!(open, [(1, "edge"), (0, "edge")], "where they are is never dropped");
        assert_eq!(job.placements.last().unwrap().from_ms, 9_999);
    }
}
