//! The ranks that run now, with what they use and whom they talk to: what `cloudskin top` shows.
//!
//! Everything here is as agents reported it last, every heartbeat; nothing of it is kept.

use super::{
    App, Asked,
    api::ErrorBody,
};
use crate::{
    Error,
    hub::World,
    jobs::{Peer, RankState},
};
use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A rank that has not ended.
#[derive(Debug, Serialize, ToSchema)]
pub struct Load {
    pub job: String,
    /// The job's.
    pub name: String,
    pub tenant: String,
    /// Ranks of the job.
    pub np: u32,
    pub rank: u32,
    pub site: String,
    pub state: RankState,
    /// Such as `compute`, `MPI wait` or `paused`.
    pub doing: String,
    /// Cores that it got.
    pub cpu_used: f64,
    /// The same plus what it stood ready for and did not get.
    pub cpu_wanted: f64,
    pub memory_bytes: u64,
    /// Messages since the job began.
    pub sent: u64,
    pub received: u64,
    pub sent_bytes: u64,
    pub received_bytes: u64,
    /// With whom it has exchanged most bytes, most first; 64 at most.
    pub peers: Vec<Peer>,
    /// How often it has changed its place, by a migration or a new start.
    pub moves: u32,
    /// What has made its code: `quick` or `fast`; empty until it runs.
    pub tier: String,
    /// Share of the last second that its first thread waited in calls for others, 0 to 1.
    pub waiting: f64,
    /// Milliseconds from being asked to stop to leaving its work, the last time where it runs now; 0 if never.
    pub stopped_after_ms: f64,
    /// Bytes per second of the pages that it writes: each page counts once in a second. Estimated from a part of its memory.
    pub written_bytes_per_second: f64,
}

/// By job and rank; of one job, if it is named.
pub fn list(world: &World, only: Option<u64>) -> Vec<Load> {
    let jobs = world.jobs.values().filter(|j| !j.state.ended() && only.is_none_or(|n| j.n == n));
    jobs.flat_map(|job| {
        let alive = job.ranks.iter().filter(|r| r.state.alive());
        alive.map(|r| Load {
            job: job.id.clone(),
            name: job.name.clone(),
            tenant: job.tenant.clone(),
            np: job.np,
            rank: r.rank,
            site: r.site.clone(),
            state: r.state,
            doing: r.doing.clone(),
            cpu_used: r.cpu_used,
            cpu_wanted: r.cpu_wanted,
            memory_bytes: r.memory_bytes,
            sent: r.sent,
            received: r.received,
            sent_bytes: r.sent_bytes,
            received_bytes: r.received_bytes,
            peers: r.peers.to_vec(),
            // The first epoch is that of the start.
            moves: u32::try_from(r.epoch.saturating_sub(1)).unwrap_or(u32::MAX),
            tier: r.tier.clone(),
            waiting: r.waiting,
            stopped_after_ms: r.stopped_after_ms,
            written_bytes_per_second: r.written_bytes_per_second,
        })
    })
    .collect()
}

/// Which of them.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RanksAsk {
    /// Only this job's.
    job: Option<String>,
}

/// Every rank that has not ended, with what it uses and with whom it exchanges messages.
#[utoipa::path(get, path = "/v1/ranks", tag = "jobs", params(RanksAsk), responses((status = 200, body = [Load]), (status = 404, body = ErrorBody)))]
pub async fn ranks(State(app): State<App>, Asked(ask): Asked<RanksAsk>) -> Result<Json<Vec<Load>>, Error> {
    let world = app.hub.world.lock().await;
    let only = match ask.job {
        Some(id) => Some(app.hub.job(&world, &id).await?.n),
        None => None,
    };
    Ok(Json(list(&world, only)))
}
