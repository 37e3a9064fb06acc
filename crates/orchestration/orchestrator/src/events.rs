//! What happened, numbered: stored in SQLite and told to who listens. The oldest are dropped beyond [`KEPT`].

use crate::{Error, state::State};
use serde::Serialize;
use sqlx::Row;
use tokio::sync::broadcast;

/// Events kept in the database.
pub const KEPT: i64 = 100_000;

/// One thing that happened.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Event {
    pub id: u64,
    /// Unix milliseconds.
    pub at_ms: u64,
    /// Such as `job.started`.
    pub kind: String,
    /// The job, site or migration that it is about.
    pub subject: String,
    pub message: String,
}

/// The log of events.
#[derive(Clone)]
pub struct Events {
    state: State,
    tell: broadcast::Sender<Event>,
}

impl Events {
    pub fn new(state: State) -> Events {
        Events { state, tell: broadcast::channel(1024).0 }
    }

    /// Listens for new ones. A listener more than 1024 events behind is told so and reads on from the database.
    pub fn listen(&self) -> broadcast::Receiver<Event> {
        self.tell.subscribe()
    }

    /// Stores and tells. A failure to store is logged, because what it tells of has happened all the same.
    pub async fn add(&self, kind: &str, subject: &str, message: impl Into<String>) {
        let (at_ms, message) = (base::clock::now_ms(), message.into());
        tracing::info!(kind, subject, message, "event");
        let stored = sqlx::query("INSERT INTO hub_events (at_ms, kind, subject, message) VALUES (?, ?, ?, ?)")
            .bind(at_ms as i64)
            .bind(kind)
            .bind(subject)
            .bind(&message)
            .execute(&self.state.pool)
            .await;
        match stored {
            Ok(done) => {
                let id = done.last_insert_rowid();
                if id % 1000 == 0 {
                    let _ = sqlx::query("DELETE FROM hub_events WHERE id <= ?").bind(id - KEPT).execute(&self.state.pool).await;
                }
                let _ = self.tell.send(Event { id: id as u64, at_ms, kind: kind.into(), subject: subject.into(), message });
            }
            Err(error) => tracing::error!(%error, kind, subject, "store event"),
        }
    }

    /// Those after `since`, oldest first, at most `limit`.
    pub async fn since(&self, since: u64, limit: u32) -> Result<Vec<Event>, Error> {
        self.read("SELECT id, at_ms, kind, subject, message FROM hub_events WHERE id > ? ORDER BY id LIMIT ?", since, limit).await
    }

    /// The newest after `since`, oldest first, at most `limit`.
    pub async fn last(&self, since: u64, limit: u32) -> Result<Vec<Event>, Error> {
        let newest = "SELECT id, at_ms, kind, subject, message FROM hub_events WHERE id > ? ORDER BY id DESC LIMIT ?";
        let mut events = self.read(newest, since, limit).await?;
        events.reverse();
        Ok(events)
    }

    async fn read(&self, select: &'static str, since: u64, limit: u32) -> Result<Vec<Event>, Error> {
        let rows = sqlx::query(select).bind(since as i64).bind(limit as i64).fetch_all(&self.state.pool).await?;
        Ok(rows
            .iter()
            .map(|r| Event {
                id: r.get::<i64, _>(0) as u64,
                at_ms: r.get::<i64, _>(1) as u64,
                kind: r.get(2),
                subject: r.get(3),
                message: r.get(4),
            })
            .collect())
    }
}
