//! A site's object store in a few numbers, for people: read from the text that its node gives Prometheus, so that there is one account of it.
//!
//! It counts nothing itself and keeps nothing.

use serde::Serialize;
use utoipa::ToSchema;

/// What a site's store has and does. Totals are since its agent was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Tiers {
    /// Bytes of the local disk that objects and writers have.
    pub disk_used_bytes: u64,
    pub disk_limit_bytes: u64,
    /// Bytes of the memory tier; both 0: there is none.
    pub memory_used_bytes: u64,
    pub memory_limit_bytes: u64,
    /// Objects that lie here.
    pub objects: u64,
    /// Opens that were answered here.
    pub opened_here: u64,
    /// Objects, and their bytes, that had to be fetched from another site or the persistency tier.
    pub fetched: u64,
    pub fetched_bytes: u64,
    /// Objects that wait for their upload.
    pub queued: u64,
    pub uploaded: u64,
    pub uploaded_bytes: u64,
    /// Objects that were uploaded and left the site.
    pub spilled: u64,
    /// Writes that had to wait for room, and those that were refused.
    pub waited: u64,
    pub refused: u64,
    /// Programs of the machine that share the tier.
    pub attached: u64,
    /// The persistency tier: `none` is configured, it `works`, or it `fails` and is tried again after a pause.
    pub persistency: &'static str,
}

impl Tiers {
    /// Fails with the name of a figure that is missing: the agent is of another version.
    pub fn read(metrics: &str) -> Result<Tiers, String> {
        let figure = |name: &str| {
            let line = metrics.lines().find_map(|line| line.strip_prefix("cloudskin_geds_")?.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|value| value.parse().ok()).ok_or_else(|| format!("its metrics have no cloudskin_geds_{name}"))
        };
        let persistency = match (figure("persistency_tier")?, figure("spill_breaker_open")?) {
            (0, _) => "none",
            (_, 0) => "works",
            _ => "fails",
        };
        Ok(Tiers {
            disk_used_bytes: figure("used_bytes")?,
            disk_limit_bytes: figure("limit_bytes")?,
            memory_used_bytes: figure("memory_used_bytes")?,
            memory_limit_bytes: figure("memory_limit_bytes")?,
            objects: figure("objects")?,
            opened_here: figure("opened_local_total")?,
            fetched: figure("fetched_total")?,
            fetched_bytes: figure("fetched_bytes_total")?,
            queued: figure("spill_queue")?,
            uploaded: figure("uploaded_total")?,
            uploaded_bytes: figure("uploaded_bytes_total")?,
            spilled: figure("spilled_total")?,
            waited: figure("waits_total")?,
            refused: figure("no_space_total")?,
            attached: figure("attached")?,
            persistency,
        })
    }
}

/// A site's tiers, or why they are not known.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SiteTiers {
    pub site: String,
    pub tiers: Option<Tiers>,
    /// Empty, or why there are none.
    pub reason: String,
}
