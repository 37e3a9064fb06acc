//! Who may answer for a while what a key means, and who must be told before that changes.
//!
//! The rule is at [`crate::LeaseHolder`]. A change puts up a [`Fence`] over its keys, sends revocations, waits for [`Waits`] and is written only then; the
//! fence falls when the change has been applied. Keys are known by their hashes here: two that collide are fenced together, which
//! costs a question and no more. It knows nothing of what keys mean.

use crate::{BucketName, Key, LeaseHolder, by_hash::ByHash};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{sync::oneshot, time::Instant};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// How long a lease over a session holds.
pub const TERM: Duration = Duration::from_secs(5);
/// Leases of one session.
const LEASES_MAX: usize = 65_536;

pub fn hash(bucket: &BucketName, key: &Key) -> u64 {
    xxh3_64_with_seed(key.as_str().as_bytes(), xxh3_64(bucket.as_str().as_bytes()))
}

/// The other end of a connection.
pub trait Session: Send + Sync {
    /// Asks it to void what it knows of a key, or all, and to confirm with this number.
    fn revoke(&self, number: u64, key: Option<(&BucketName, &Key)>);
}

/// A session that may have leases.
pub struct Holder {
    session: Weak<dyn Session>,
    leases: AtomicUsize,
    revoking: Mutex<Revoking>,
}

#[derive(Default)]
struct Revoking {
    next: u64,
    waiting: HashMap<u64, oneshot::Sender<()>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section here leaves its maps whole.
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Holder {
    pub fn new(session: Weak<dyn Session>) -> Arc<Holder> {
        Arc::new(Holder { session, leases: AtomicUsize::new(0), revoking: Mutex::default() })
    }

    /// There is nobody who could be told that a lease is void.
    pub fn is_gone(&self) -> bool {
        self.session.strong_count() == 0
    }

    /// The session has confirmed a revocation.
    pub fn confirm(&self, number: u64) {
        if let Some(waiting) = lock(&self.revoking).waiting.remove(&number) {
            let _ = waiting.send(());
        }
    }

    fn revoke(&self, key: Option<(&BucketName, &Key)>) -> oneshot::Receiver<()> {
        let (confirmed, receiver) = oneshot::channel();
        let number = {
            let mut revoking = lock(&self.revoking);
            revoking.waiting.retain(|_, waiting| !waiting.is_closed());
            revoking.next += 1;
            let number = revoking.next;
            revoking.waiting.insert(number, confirmed);
            number
        };
        // One that is gone confirms nothing; then the term decides.
        if let Some(session) = self.session.upgrade() {
            session.revoke(number, key);
        }
        receiver
    }
}

struct Grant {
    holder: Arc<Holder>,
    until: Instant,
}

#[derive(Default)]
struct Inner {
    fences: ByHash<u32>,
    /// Fences over all keys.
    all: u32,
    granted: ByHash<Vec<Grant>>,
    local: Vec<Weak<dyn LeaseHolder>>,
    /// Leases of an earlier life of the namenode may hold until then.
    grace: Option<Instant>,
}

#[derive(Default)]
pub struct Leases {
    inner: Mutex<Inner>,
}

/// Keys for which no lease is granted, until this is dropped.
pub struct Fence {
    leases: Arc<Leases>,
    keys: Vec<u64>,
    all: bool,
}

impl Fence {
    /// Takes over the keys of another one.
    pub fn join(&mut self, mut other: Fence) {
        self.keys.append(&mut other.keys);
        self.all |= std::mem::take(&mut other.all);
    }
}

impl Drop for Fence {
    fn drop(&mut self) {
        let mut inner = lock(&self.leases.inner);
        if self.all {
            inner.all -= 1;
        }
        for key in &self.keys {
            if let Some(count) = inner.fences.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    inner.fences.remove(key);
                }
            }
        }
    }
}

/// Revocations that are not confirmed yet.
pub struct Waits {
    leases: Arc<Leases>,
    waits: Vec<(Option<u64>, Arc<Holder>, oneshot::Receiver<()>, Instant)>,
    grace: Option<Instant>,
}

impl Waits {
    pub fn is_empty(&self) -> bool {
        self.waits.is_empty() && self.grace.is_none()
    }

    /// Returns when every lease is void.
    pub async fn done(self) {
        for (key, holder, confirmed, until) in self.waits {
            match tokio::time::timeout_at(until, confirmed).await {
                // The fence stands, so the session has got no other lease since.
                Ok(Ok(())) => self.leases.forget(key, &holder),
                Ok(Err(_)) => tokio::time::sleep_until(until).await,
                Err(_) => {}
            }
        }
        if let Some(grace) = self.grace {
            tokio::time::sleep_until(grace).await;
        }
    }
}

impl Inner {
    fn sweep(&mut self, now: Instant) {
        self.granted.retain(|_, grants| {
            grants.retain(|grant| {
                let holds = grant.until > now;
                if !holds {
                    grant.holder.leases.fetch_sub(1, Relaxed);
                }
                holds
            });
            !grants.is_empty()
        });
    }
}

impl Leases {
    /// Nobody knows what an earlier life granted: for one term, changes of names that are there wait.
    pub fn begin_grace(&self) {
        lock(&self.inner).grace = Some(Instant::now() + TERM);
    }

    /// A lease for a holder in this process, without a term. To be asked *before* the state is.
    pub fn grant_local(&self, holder: &Arc<dyn LeaseHolder>, key: u64) -> bool {
        let mut inner = lock(&self.inner);
        let new = Arc::downgrade(holder);
        if !inner.local.iter().any(|known| known.ptr_eq(&new)) {
            inner.local.retain(|known| known.strong_count() > 0);
            inner.local.push(new);
        }
        inner.all == 0 && !inner.fences.contains_key(&key)
    }

    /// A lease over a session, for [`TERM`]. To be asked *before* the state is: a change that is applied after the look finds it.
    pub fn grant(&self, holder: &Arc<Holder>, key: u64) -> bool {
        let now = Instant::now();
        let mut inner = lock(&self.inner);
        if inner.all > 0 || inner.fences.contains_key(&key) {
            return false;
        }
        if holder.leases.load(Relaxed) >= LEASES_MAX {
            inner.sweep(now);
            if holder.leases.load(Relaxed) >= LEASES_MAX {
                return false;
            }
        }
        let grants = inner.granted.entry(key).or_default();
        match grants.iter_mut().find(|grant| Arc::ptr_eq(&grant.holder, holder)) {
            Some(grant) => grant.until = now + TERM,
            None => {
                holder.leases.fetch_add(1, Relaxed);
                grants.push(Grant { holder: holder.clone(), until: now + TERM });
            }
        }
        true
    }

    /// Puts a fence over keys, or over all with `None`, and revokes what is granted. `existing`: a key may have been leased in an earlier life.
    pub fn fence(self: &Arc<Self>, keys: Option<&[(&BucketName, &Key)]>, existing: bool) -> (Fence, Waits) {
        let now = Instant::now();
        let mut fence = Fence { leases: self.clone(), keys: Vec::new(), all: keys.is_none() };
        let mut found = Vec::new();
        let (local, grace) = {
            let mut inner = lock(&self.inner);
            match keys {
                Some(keys) => {
                    for (n, (bucket, key)) in keys.iter().enumerate() {
                        let hash = hash(bucket, key);
                        fence.keys.push(hash);
                        *inner.fences.entry(hash).or_default() += 1;
                        for grant in inner.granted.get(&hash).into_iter().flatten().filter(|grant| grant.until > now) {
                            found.push((Some((hash, n)), grant.holder.clone(), grant.until));
                        }
                    }
                }
                None => {
                    inner.all += 1;
                    let mut until: HashMap<*const Holder, (Arc<Holder>, Instant)> = HashMap::new();
                    for grant in inner.granted.values().flatten() {
                        let last = until.entry(Arc::as_ptr(&grant.holder)).or_insert_with(|| (grant.holder.clone(), grant.until));
                        last.1 = last.1.max(grant.until);
                    }
                    found.extend(until.into_values().map(|(holder, until)| (None, holder, until)));
                }
            }
            if inner.grace.is_some_and(|grace| grace <= now) {
                inner.grace = None;
            }
            let local: Vec<_> = inner.local.iter().filter_map(Weak::upgrade).collect();
            (local, inner.grace.filter(|_| existing))
        };
        for holder in local {
            match keys {
                Some(keys) => keys.iter().for_each(|(bucket, key)| holder.revoke(bucket, key)),
                None => holder.revoke_all(),
            }
        }
        let waits = found.into_iter().map(|(key, holder, until)| {
            let named = key.zip(keys).map(|((_, n), keys)| keys[n]);
            let confirmed = holder.revoke(named);
            (key.map(|(hash, _)| hash), holder, confirmed, until)
        });
        let waits = Waits { leases: self.clone(), waits: waits.collect(), grace };
        (fence, waits)
    }

    fn forget(&self, key: Option<u64>, holder: &Arc<Holder>) {
        let mut inner = lock(&self.inner);
        let drop_from = |grants: &mut Vec<Grant>| {
            let before = grants.len();
            grants.retain(|grant| !Arc::ptr_eq(&grant.holder, holder));
            holder.leases.fetch_sub(before - grants.len(), Relaxed);
            !grants.is_empty()
        };
        match key {
            Some(key) => {
                if inner.granted.get_mut(&key).is_some_and(|grants| !drop_from(grants)) {
                    inner.granted.remove(&key);
                }
            }
            None => inner.granted.retain(|_, grants| drop_from(grants)),
        }
    }
}
