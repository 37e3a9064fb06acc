//! What the hub says, as far as the commands look into it. Fields that a hub leaves out are empty; those unknown here are ignored,
//! and `-o json` prints the hub's own words instead of these.

use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Site {
    pub name: String,
    pub state: String,
    pub address: String,
    pub cores: f64,
    pub memory_bytes: u64,
    pub slots: u32,
    pub affinity: String,
    pub cpu_used: f64,
    pub cpu_wanted: f64,
    pub memory_used_bytes: u64,
    pub store_bytes: u64,
    /// A count or a list, as the hub likes.
    pub ranks: Value,
    pub last_seen_ms: u64,
    pub forecast: Option<Forecast>,
}

impl Site {
    pub fn rank_count(&self) -> u64 {
        self.ranks.as_u64().or_else(|| self.ranks.as_array().map(|a| a.len() as u64)).unwrap_or(0)
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Forecast {
    pub value: f64,
    pub low: f64,
    pub high: f64,
    pub model: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Job {
    pub id: String,
    pub name: String,
    pub tenant: String,
    pub state: String,
    pub reason: String,
    pub np: u32,
    pub args: Vec<String>,
    pub module: String,
    pub pinned: bool,
    pub created_ms: u64,
    pub started_ms: Option<u64>,
    pub ended_ms: Option<u64>,
    pub exit_code: Option<i32>,
    pub backtrace: Option<String>,
    pub restarts: u32,
    pub ranks: Vec<Rank>,
    pub placements: Vec<Placement>,
    pub output_bytes: u64,
    pub checkpoint_every_ms: u64,
    /// What was asked for; empty: nothing.
    pub tier: String,
    pub checkpoint_failed: Option<CheckpointFailed>,
}

/// Why no checkpoint was made when the last one was due.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct CheckpointFailed {
    pub at_ms: u64,
    pub reason: String,
}

impl Job {
    pub fn ended(&self) -> bool {
        !matches!(self.state.as_str(), "pending" | "running" | "")
    }
    pub fn running(&self) -> bool {
        !self.ranks.is_empty() && self.ranks.iter().all(|r| r.state == "running")
    }
    /// From start to end, or until now.
    pub fn seconds(&self, now_ms: u64) -> Option<f64> {
        Some(self.ended_ms.unwrap_or(now_ms).saturating_sub(self.started_ms?) as f64 / 1e3)
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Rank {
    pub rank: u32,
    pub site: String,
    pub epoch: u64,
    pub state: String,
    pub doing: String,
    pub cpu_used: f64,
    pub memory_bytes: u64,
    pub sent: u64,
    pub received: u64,
    pub tier: String,
}

/// A rank that runs, with what it uses.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Load {
    pub job: String,
    pub name: String,
    /// Ranks of the job.
    pub np: u32,
    pub rank: u32,
    pub site: String,
    pub state: String,
    pub doing: String,
    pub cpu_used: f64,
    pub cpu_wanted: f64,
    pub memory_bytes: u64,
    pub sent: u64,
    pub received: u64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
    /// The most used first.
    pub peers: Vec<Peer>,
    pub moves: u32,
    pub tier: String,
    /// Share of the time that it waited in calls.
    pub waiting: f64,
    pub written_bytes_per_second: f64,
}

/// What a rank has exchanged with another one.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Peer {
    pub rank: u32,
    pub sent: u64,
    pub received: u64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Placement {
    pub rank: u32,
    pub site: String,
    pub from_ms: u64,
    pub to_ms: Option<u64>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Migration {
    pub id: u64,
    pub job: String,
    pub ranks: Vec<u32>,
    pub from: String,
    pub to: String,
    pub state: String,
    pub reason: String,
    pub recommendation: Option<u64>,
    pub started_ms: u64,
    pub ended_ms: Option<u64>,
    pub downtime_ms: Option<f64>,
    pub state_bytes: Option<u64>,
    pub moved_bytes: Option<u64>,
    pub moved_stopped_bytes: Option<u64>,
    pub rounds: Option<u32>,
    pub total_ms: Option<f64>,
}

impl Migration {
    pub fn ended(&self) -> bool {
        matches!(self.state.as_str(), "done" | "failed")
    }
    /// Whether there are figures of it: one that never began has none.
    pub fn measured(&self) -> bool {
        self.ended() && self.total_ms.is_some_and(|t| t > 0.0)
    }
    pub fn rank_list(&self) -> String {
        self.ranks.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Recommendation {
    pub id: u64,
    pub at_ms: u64,
    pub job: String,
    pub from: String,
    pub to: String,
    pub reason: String,
    pub state: String,
    pub migration: Option<u64>,
    pub model: String,
    pub explanation: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Object {
    pub bucket: String,
    pub key: String,
    pub size: u64,
    pub state: String,
    pub sites: Vec<String>,
    pub persisted: bool,
    pub created_ms: u64,
}

/// An object with what its name carries besides.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Detail {
    #[serde(flatten)]
    pub object: Object,
    pub epoch: u64,
    pub checksum: String,
    pub metadata: String,
    pub expires_ms: Option<u64>,
    pub job: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Counted {
    pub objects: u64,
    pub bytes: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Checkpoint {
    pub id: u64,
    pub job: String,
    pub bytes: u64,
    pub at_ms: u64,
    /// Places that have all of it; 0: it is gone.
    pub copies: u32,
    /// A user asked for it, so it stays until a user deletes it.
    pub kept: bool,
    /// The checkpoint since which it has what has changed; none if it is complete.
    pub parent: Option<u64>,
    /// How long ranks stood still for it, the longest of them.
    pub paused_us: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Event {
    pub id: u64,
    pub at_ms: u64,
    pub kind: String,
    pub subject: String,
    pub message: String,
}
