//! A move of ranks from one site to another, as the hub remembers it.
//!
//! `running` until the source asks for the verdict; `committed` once the new places are in the database (only then is the
//! verdict sent); `done` or `failed` at the end. What was decided is kept apart from how it ended, because a commit stands even
//! if the rest went wrong: see [`Migration::verdict`].

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MigrationState {
    Running,
    Committed,
    Done,
    Failed,
}

#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Migration {
    pub id: u64,
    pub job: String,
    pub ranks: Vec<u32>,
    pub from: String,
    pub to: String,
    pub state: MigrationState,
    pub reason: String,
    pub recommendation: Option<u64>,
    /// Ranks at other sites that are to follow when it has ended.
    #[serde(default)]
    pub rest: Vec<u32>,
    /// The migration in which they do.
    #[serde(default)]
    pub next: Option<u64>,
    /// When the new places were recorded, if they were (Unix ms).
    #[serde(default)]
    pub committed_ms: Option<u64>,
    pub started_ms: u64,
    pub ended_ms: Option<u64>,
    pub downtime_ms: f64,
    pub state_bytes: u64,
    pub moved_bytes: u64,
    pub moved_stopped_bytes: u64,
    pub rounds: u32,
    pub total_ms: f64,
}

impl Migration {
    /// What was decided, if it was: the same answer however often it is asked.
    pub fn verdict(&self) -> Option<bool> {
        match (self.committed_ms, self.state) {
            (Some(_), _) | (None, MigrationState::Committed | MigrationState::Done) => Some(true),
            (None, MigrationState::Running) => None,
            (None, MigrationState::Failed) => Some(false),
        }
    }

    /// Whether its ranks have moved and others are to follow that don't yet.
    pub fn followed(&self) -> bool {
        !self.open() && self.verdict() == Some(true) && !self.rest.is_empty() && self.next.is_none()
    }

    /// Whether it still has something to wait for.
    pub fn open(&self) -> bool {
        matches!(self.state, MigrationState::Running | MigrationState::Committed)
    }
}
