//! The names that this node may answer by itself: those it holds a lease for, and those it has sealed and not yet published.
//!
//! ```text
//! open(bucket, key) ─▶ sealed here, not published? ─▶ that one
//!                   └▶ leased, and its object still here? ─▶ that one: no system call, no question
//!                   └▶ ticket ─▶ Catalog::lease ─▶ open ─▶ kept, unless something in the shard was revoked since the ticket
//! ```
//!
//! A lease says which id and epoch a key means, not where copies lie. An entry does not keep an object: when it is freed or moved, the entry is worth
//! nothing and is asked for anew. The rule that makes this safe is at [`crate::catalog::LeaseHolder`].

use crate::{
    by_hash::ByHash,
    BucketName, Key, Object, ObjectId, ObjectMeta,
    agent::Board,
    catalog::{Lease, LeaseHolder},
    local::Local,
    metrics::{BucketCounts, Buckets, Source, add},
    names::Prefix,
};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, Weak,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tokio::sync::watch;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

const SHARDS: usize = 64;
/// Leased names that are kept, in each shard; 262 144 together, about 100 bytes each besides the name.
const ENTRIES_MAX: usize = 4096;

/// What lies before the value that an `Arc` points to: two counters. Only asked for ahead, so nothing depends on it.
const COUNTERS: usize = 16;
/// Cache lines of an object that are asked for when its name is found.
const LINES: usize = 8;

struct Entry {
    /// Bucket, NUL, key: in one piece, because each place that has to be looked at costs a tenth of a microsecond.
    name: Box<[u8]>,
    meta: Arc<ObjectMeta>,
    local: Weak<Local>,
    /// Where the bytes were when this was kept. Only a hint of what will be read next: never dereferenced.
    start: *const u8,
    /// `None`: until it is revoked.
    until: Option<Instant>,
    /// Where an open is counted. Few are used by all, so they are in the cache.
    counts: Arc<BucketCounts>,
    tier: Source,
}

// SAFETY: all but `start` may be sent, and `start` is an address that is never dereferenced.
unsafe impl Send for Entry {}

/// Asks the processor for a cache line, so that several that are needed come at the same time and not one after the other.
pub(crate) fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint; it reads nothing that the program sees and faults at no address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Sealed on this node; the catalog does not know it yet.
struct Pending {
    object: Object,
    published: watch::Receiver<bool>,
    counts: Arc<BucketCounts>,
}

#[derive(Default)]
struct Shard {
    /// Rises with each revocation.
    version: u64,
    leased: ByHash<Entry>,
    pending: HashMap<(BucketName, Key), Pending>,
}

/// Taken before the catalog is asked.
#[derive(Clone, Copy)]
pub(crate) struct Ticket {
    hash: u64,
    version: u64,
    asked: Instant,
}

pub(crate) struct Names {
    shards: Vec<Mutex<Shard>>,
    pending: AtomicUsize,
    /// What other processes of the machine look at before they answer by themselves.
    board: OnceLock<Arc<Board>>,
    counted: Arc<Buckets>,
}

fn name_of(bucket: &BucketName, key: &Key) -> Box<[u8]> {
    [bucket.as_str().as_bytes(), &[0], key.as_str().as_bytes()].concat().into()
}

/// Neither name has a NUL in it.
fn is_name(name: &[u8], bucket: &BucketName, key: &Key) -> bool {
    let (bucket, key) = (bucket.as_str().as_bytes(), key.as_str().as_bytes());
    name.len() == bucket.len() + 1 + key.len() && name.ends_with(key) && name.starts_with(bucket)
}

/// The same number for a name in all processes.
pub(crate) fn hash(bucket: &BucketName, key: &Key) -> u64 {
    xxh3_64_with_seed(key.as_str().as_bytes(), xxh3_64(bucket.as_str().as_bytes()))
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(|e| e.into_inner())
}

impl Names {
    pub fn new(counted: Arc<Buckets>) -> Arc<Names> {
        Arc::new(Names { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), pending: AtomicUsize::new(0), board: OnceLock::new(), counted })
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        // The map takes its position from the low bits and its tag from the high ones.
        lock(&self.shards[(hash >> 32) as usize % SHARDS])
    }

    /// What the key means, if this node may say so and has it; that counts as an open. `now`: the tier's age in seconds.
    pub fn get(&self, bucket: &BucketName, key: &Key, now: u32) -> Option<Object> {
        let hash = hash(bucket, key);
        let mut shard = self.shard(hash);
        if !shard.pending.is_empty() {
            if let Some(pending) = shard.pending.get(&(bucket.clone(), key.clone())) {
                add(&pending.counts.here(pending.object.parts().1.in_memory()).opened, 1);
                return Some(pending.object.clone());
            }
        }
        let entry = shard.leased.get(&hash)?;
        // Name, counters and bytes lie in places that have nothing to do with each other. The processor goes on by itself after the first lines.
        prefetch(entry.name.as_ptr());
        prefetch(entry.local.as_ptr().wrapping_byte_sub(COUNTERS));
        prefetch(entry.local.as_ptr());
        prefetch(Arc::as_ptr(&entry.meta).wrapping_byte_sub(COUNTERS));
        (0..LINES).for_each(|line| prefetch(entry.start.wrapping_add(line * 64)));
        if !is_name(&entry.name, bucket, key) {
            return None;
        }
        match entry.local.upgrade().filter(|_| entry.until.is_none_or(|until| Instant::now() < until)) {
            Some(local) => Object::again(entry.meta.clone(), local, now).inspect(|_| add(&entry.counts.of(entry.tier).opened, 1)),
            None => {
                shard.leased.remove(&hash);
                None
            }
        }
    }

    /// Lets other processes see what is revoked.
    pub fn show(&self, board: Arc<Board>) {
        let _ = self.board.set(board); // by the one who made it, once
    }

    /// [`Names::get`] for another process, and until when it may answer so by itself. `None`: it may not, because nobody could tell it in time that this is over.
    pub fn get_for_others(&self, bucket: &BucketName, key: &Key, now: u32) -> Option<(Object, Option<Instant>)> {
        let hash = hash(bucket, key);
        let shard = self.shard(hash);
        if let Some(pending) = shard.pending.get(&(bucket.clone(), key.clone())) {
            return Some((pending.object.clone(), None));
        }
        let entry = shard.leased.get(&hash).filter(|entry| is_name(&entry.name, bucket, key))?;
        let local = entry.local.upgrade().filter(|_| entry.until.is_none_or(|until| Instant::now() < until))?;
        let object = Object::again(entry.meta.clone(), local, now)?;
        // A lease without a term is one within this process, and ends with it; others would not notice at once.
        Some((object, entry.until))
    }

    pub fn ticket(&self, bucket: &BucketName, key: &Key) -> Ticket {
        let hash = hash(bucket, key);
        Ticket { hash, version: self.shard(hash).version, asked: Instant::now() }
    }

    /// Keeps what was opened under a lease that was granted to the bearer of this ticket.
    pub fn keep(&self, ticket: Ticket, object: &Object, lease: Lease) {
        let (meta, local) = object.parts();
        let until = match lease.term {
            None => None,
            // The clocks of two machines may differ in speed.
            Some(term) => match ticket.asked.checked_add(term - term / 10) {
                Some(until) => Some(until),
                None => return,
            },
        };
        let start = object.bytes().as_ptr();
        let (counts, tier) = (self.counted.of(&meta.bucket), Source::here(local.in_memory()));
        let entry = Entry { name: name_of(&meta.bucket, &meta.key), meta: meta.clone(), local: Arc::downgrade(local), start, until, counts, tier };
        let mut shard = self.shard(ticket.hash);
        if shard.version != ticket.version {
            return;
        }
        if shard.leased.len() >= ENTRIES_MAX && !shard.leased.contains_key(&ticket.hash) {
            // Whichever comes first: the hash has shuffled them.
            let some: Vec<u64> = shard.leased.keys().take(ENTRIES_MAX / 16).copied().collect();
            some.iter().for_each(|hash| {
                shard.leased.remove(hash);
            });
        }
        shard.leased.insert(ticket.hash, entry);
    }

    /// Makes a sealed object visible here. The sender is told true when its publication has ended, well or not.
    pub fn publish(&self, object: Object) -> watch::Sender<bool> {
        let (done, published) = watch::channel(false);
        let (bucket, key) = (object.meta().bucket.clone(), object.meta().key.clone());
        let (hash, counts) = (hash(&bucket, &key), self.counted.of(&bucket));
        let mut shard = self.shard(hash);
        if shard.pending.insert((bucket, key), Pending { object, published, counts }).is_none() {
            self.pending.fetch_add(1, SeqCst);
        }
        drop(shard);
        if let Some(board) = self.board.get() {
            board.revoke(hash);
        }
        done
    }

    /// Ends what [`Names::publish`] began, unless a later seal of the key has taken its place.
    pub fn published(&self, bucket: &BucketName, key: &Key, id: ObjectId) {
        let mut shard = self.shard(hash(bucket, key));
        let name = (bucket.clone(), key.clone());
        if shard.pending.get(&name).is_some_and(|pending| pending.object.meta().id == id) {
            shard.pending.remove(&name);
            self.pending.fetch_sub(1, SeqCst);
        }
    }

    /// No publication is under way.
    pub fn is_settled(&self) -> bool {
        self.pending.load(SeqCst) == 0
    }

    /// Waits for the publications of a key, or of all keys that `wanted` names.
    pub async fn settle(&self, wanted: Wanted<'_>) {
        if self.is_settled() {
            return;
        }
        let mut waits = Vec::new();
        match wanted {
            Wanted::Key(bucket, key) => {
                let shard = self.shard(hash(bucket, key));
                waits.extend(shard.pending.get(&(bucket.clone(), key.clone())).map(|pending| pending.published.clone()));
            }
            Wanted::Prefix(bucket, prefix) => {
                for shard in &self.shards {
                    let shard = lock(shard);
                    let matching = shard.pending.iter().filter(|((b, k), _)| b == bucket && prefix.contains(k.as_str()));
                    waits.extend(matching.map(|(_, pending)| pending.published.clone()));
                }
            }
            Wanted::All => {
                for shard in &self.shards {
                    waits.extend(lock(shard).pending.values().map(|pending| pending.published.clone()));
                }
            }
        }
        for mut published in waits {
            // An error is a sender that is gone: nothing is published any more.
            let _ = published.wait_for(|done| *done).await;
        }
    }
}

/// Whose publications are waited for.
pub(crate) enum Wanted<'a> {
    Key(&'a BucketName, &'a Key),
    Prefix(&'a BucketName, &'a Prefix),
    All,
}

impl LeaseHolder for Names {
    fn revoke(&self, bucket: &BucketName, key: &Key) {
        let hash = hash(bucket, key);
        let mut shard = self.shard(hash);
        shard.version += 1;
        shard.leased.remove(&hash);
        drop(shard);
        if let Some(board) = self.board.get() {
            board.revoke(hash);
        }
    }

    fn revoke_all(&self) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            shard.version += 1;
            shard.leased.clear();
        }
        if let Some(board) = self.board.get() {
            board.revoke_all();
        }
    }
}

/// How long a `seal_here` may wait for a place among those that are being published, at most.
pub(crate) const PUBLISH_WAIT: Duration = Duration::from_secs(30);
