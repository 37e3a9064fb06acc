//! A second copy on another site, before a seal is acknowledged.
//!
//! ```text
//! sealed here, known to the catalog ─▶ Catalog::partners: live sites, best first ─▶ one of them: `Keep`, which fetches it and records itself ─▶ acknowledged
//!                                                 none could in time ─▶ `required`: an error that says so; `wanted`: acknowledged, counted, logged
//!                                                                   └▶ owed: tried again until there is one
//! ```
//!
//! The namenode says who is there; which of them is taken depends on the object's id, so that copies spread. A copy is an ordinary one: its site may spill it, which uploads it
//! first. What is lost later, when a site is gone for good, is not made again by itself.

use crate::{
    Error, Holder, ObjectId, ObjectMeta, PeerClient, Result,
    metrics::add,
    node::{Inner, NAME_TRIES},
};
use base::Kind;
use serde::Deserialize;
use std::{
    collections::HashSet,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};
use tokio::sync::Notify;

/// How long a seal waits for its second copy, unless it is told otherwise.
const COPY_WAIT: Duration = Duration::from_secs(5);
/// How often copies are tried again that could not be made.
const AGAIN: Duration = Duration::from_secs(2);

/// What a bucket's objects owe another site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecondCopy {
    /// A seal waits for it, and goes on without it if nobody can; it is made as soon as somebody can.
    Wanted,
    /// A seal without it is an error, though the object is there; it is made as soon as somebody can.
    Required,
}

/// Objects that have no second copy yet.
pub(crate) struct Seconds {
    owed: Mutex<HashSet<ObjectId>>,
    wake: Arc<Notify>,
}

impl Seconds {
    pub fn new(owed: Vec<ObjectId>) -> Seconds {
        Seconds { owed: Mutex::new(owed.into_iter().collect()), wake: Arc::default() }
    }

    /// Makes what is owed, for as long as the node lives.
    pub fn run(&self, node: Weak<Inner>) {
        let waked = self.wake.clone();
        // What a node that was started anew owes already.
        waked.notify_one();
        tokio::spawn(async move {
            loop {
                waked.notified().await;
                loop {
                    let Some(inner) = node.upgrade() else { return };
                    if inner.seconds.all().is_empty() {
                        break;
                    }
                    inner.make_owed().await;
                    drop(inner);
                    let _ = tokio::time::timeout(AGAIN, waked.notified()).await; // either will do
                }
            }
        });
    }

    fn all(&self) -> Vec<ObjectId> {
        self.owed.lock().unwrap_or_else(|e| e.into_inner()).iter().copied().collect()
    }

    pub fn owe(&self, id: ObjectId) {
        self.owed.lock().unwrap_or_else(|e| e.into_inner()).insert(id);
        self.wake.notify_one();
    }

    fn paid(&self, id: ObjectId) {
        self.owed.lock().unwrap_or_else(|e| e.into_inner()).remove(&id);
    }

    /// Objects that wait for their second copy.
    pub fn count(&self) -> u64 {
        self.owed.lock().unwrap_or_else(|e| e.into_inner()).len() as u64
    }
}

impl Drop for Seconds {
    fn drop(&mut self) {
        // The task sees that the node is gone.
        self.wake.notify_one();
    }
}

impl Inner {
    /// Whether an object of this node should be at another site, too, and isn't.
    pub(crate) fn wants_second(&self, meta: &ObjectMeta) -> bool {
        wants_second(&self.tuning, meta)
    }

    /// What a seal owes another site, once the catalog has it. Gives what the catalog says then.
    pub(crate) async fn second(self: &Arc<Self>, meta: ObjectMeta) -> Result<ObjectMeta> {
        if !self.wants_second(&meta) {
            return Ok(meta);
        }
        let policy = self.tuning.policy(&meta.bucket);
        let wait = policy.copy_wait.map_or(COPY_WAIT, |wait| wait.0);
        let made = tokio::time::timeout(wait, self.make_second(&meta)).await;
        let tried = match made.unwrap_or_else(|_| Err(format!("nobody had it within {} ms", wait.as_millis()))) {
            Ok(now) => return Ok(now.unwrap_or(meta)),
            Err(tried) => tried,
        };
        add(&self.counters.alone, 1);
        self.seconds.owe(meta.id);
        if policy.second_copy == Some(SecondCopy::Required) {
            return Err(Error::Alone { bucket: meta.bucket.to_string(), key: meta.key.to_string(), site: self.site.to_string(), tried });
        }
        tracing::warn!(bucket = %meta.bucket, key = %meta.key, tried, "an object has no second copy yet; it is made as soon as somebody can");
        Ok(meta)
    }

    /// Lets one site after the other try. `None`: the object has been replaced or deleted meanwhile. An error says what was tried.
    async fn make_second(self: &Arc<Self>, meta: &ObjectMeta) -> Result<Option<ObjectMeta>, String> {
        let partners = self.catalog.partners(meta.id, &self.site).await.map_err(|e| e.to_string())?;
        if partners.is_empty() {
            return Err("no other site is there".into());
        }
        let (mut tried, mut named) = (Vec::new(), meta.clone());
        'partners: for partner in partners {
            // Content is often renamed meanwhile, and what was promised for it holds under the new name.
            for _ in 0..NAME_TRIES {
                match self.ask_to_keep(&partner, &named).await {
                    Ok(now) if now.id == meta.id => {
                        add(&self.counters.copied, 1);
                        return Ok(Some(now));
                    }
                    Ok(_) => {}
                    Err(e) if matches!(e.kind(), Kind::NotFound | Kind::FailedPrecondition) => {}
                    Err(e) => {
                        tried.push(format!("site {}: {e}", partner.site));
                        continue 'partners;
                    }
                }
                match self.catalog.find(meta.id).await.map_err(|e| e.to_string())? {
                    Some(now) if self.wants_second(&now) => named = now,
                    gone => return Ok(gone),
                }
            }
            tried.push(format!("site {}: it is renamed again and again", partner.site));
        }
        Err(tried.join("; "))
    }

    async fn ask_to_keep(&self, partner: &Holder, meta: &ObjectMeta) -> Result<ObjectMeta> {
        // One that is kept may have died meanwhile, which shows only when it is used: a new one decides.
        if let Some(mut client) = self.peers.take(partner) {
            match client.keep(&meta.bucket, &meta.key).await {
                Err(Error::Peer { .. }) => {}
                answer => {
                    self.peers.put_back(partner, client);
                    return answer;
                }
            }
        }
        let mut client = PeerClient::dial(&self.dialer, &partner.site, &partner.address).await?;
        let answer = client.keep(&meta.bucket, &meta.key).await;
        self.peers.put_back(partner, client);
        answer
    }

    async fn make_owed(self: &Arc<Self>) {
        for id in self.seconds.all() {
            match self.catalog.find(id).await {
                Ok(Some(meta)) if self.wants_second(&meta) && self.tier.get(id).is_some() => {
                    match self.make_second(&meta).await {
                        Ok(_) => self.seconds.paid(id),
                        // Nobody else will do for the next one either.
                        Err(_) => return,
                    }
                }
                Ok(_) => self.seconds.paid(id),
                Err(_) => return,
            }
        }
    }
}

/// What is in the persistency tier is safe without another site.
pub(crate) fn wants_second(tuning: &crate::Tuning, meta: &ObjectMeta) -> bool {
    tuning.policy(&meta.bucket).second_copy.is_some() && meta.sites.len() < 2 && meta.persisted.is_none()
}
