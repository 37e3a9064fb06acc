//! A node: the objects of one agent, and the way to everybody else's.
//!
//! The life of an open: ask the catalog; if the id is here, map the file; else fetch it from a holder, else from the persistency tier,
//! check it, keep it, tell the catalog. Copies are found by id, so a rename costs nothing and a stale copy can't be taken for the new one.
//!
//! The order of steps is what keeps data alive, and each step may be the last one before a crash:
//! seal: file durable → catalog → acknowledged. Fetch: file durable → catalog. Spill: uploaded and compared → catalog knows the upload →
//! catalog forgets the copy → file removed. So the catalog never counts a copy that isn't there.
//!
//! How a copy is fetched is in `fetch.rs`. When the limit is near, the spiller makes room (`spill.rs`); when it is reached, writers wait (`writer.rs`).

use crate::{
    Blocking, BucketName, Catalog, Error, Key, LeaseHolder, Listing, NewObject, Object, ObjectId, ObjectMeta, Page,
    PeerClient, Persist, RestKey, Result, Sealed, State, Writer,
    agent::Lending,
    append::Appendables,
    begun::Begun,
    bound,
    catalog::PAGE_MAX,
    collect::Collector,
    epochs::Epochs,
    fetch::{PERSIST_SILENCE, damaged},
    leases::{Names, Wanted},
    local::{Kept, Local, Refused, Tier},
    metrics::{self, BucketCounts, Buckets, Counters, Source, add},
    names::Prefix,
    peer::{self, Peers},
    persist::There,
    second::{Seconds, wants_second},
    seek::Searches,
    spans,
    spill::{self, BucketPolicy, Mode, Place, SpillOptions, Spiller},
    writer::{Carried, Publisher},
};
use base::{Kind, Pace, SiteId, identity::Dialer, unit::Bytes as Size};
use bytes::Bytes;
use futures::TryStreamExt;
use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, OnceLock, Weak, atomic::Ordering::SeqCst},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    runtime::Handle,
};
use tracing::{Instrument, Span};

/// How often a seal is repeated when its answer got lost, and the first wait between; each wait is twice the one before.
const SEAL_TRIES: u32 = 8;
const SEAL_WAIT: Duration = Duration::from_millis(100);
/// How often an open starts again because the object moved or changed while it was being fetched.
const OPEN_TRIES: u32 = 3;
/// How often something is done under the name that an object has, when it is renamed meanwhile.
pub(crate) const NAME_TRIES: u32 = 8;
/// What an upload may take besides: so many bytes per second are expected of any store.
const PERSIST_RATE_MIN: u64 = 256 << 10;
/// Objects that one sweep asks for, a thousand at a time: what is swept costs the same however much there is, and a million is through in a hundred sweeps.
const SWEEP_MAX: usize = 10_000;
/// How long a writer waits for room, unless it is told otherwise. Below the silence that a peer bears.
const WAIT: Duration = Duration::from_secs(8);

/// Bytes of decrypted objects that are kept, unless it is told otherwise.
const DECRYPTED: u64 = 64 << 20;

/// What a node is made of.
pub struct Options {
    pub site: SiteId,
    /// Where objects lie. One node at a time may use it.
    pub folder: PathBuf,
    /// How much of the disk objects may use; 10 GiB is the default of [`crate::Config`].
    pub limit: Size,
    pub dialer: Dialer,
    pub catalog: Arc<dyn Catalog>,
    pub persist: Option<Persist>,
    /// host:port of this site's data port, told to the catalog; empty if the hub knows it already.
    pub address: String,
}

/// What may be set besides; every default works on a laptop.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// The limit of the memory tier; `None`: there is none.
    pub memory: Option<Size>,
    /// What is on the disk is encrypted with this; `None`: it is not.
    pub key: Option<RestKey>,
    /// Bytes of decrypted objects that are kept in memory although nobody has them open.
    pub decrypted: u64,
    /// How long a writer waits for room before it is refused.
    pub wait: Duration,
    pub spill: SpillOptions,
    /// For buckets that are not named below.
    pub policy: BucketPolicy,
    pub buckets: HashMap<BucketName, BucketPolicy>,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning {
            memory: None,
            key: None,
            decrypted: DECRYPTED,
            wait: WAIT,
            spill: SpillOptions::default(),
            policy: BucketPolicy::default(),
            buckets: HashMap::new(),
        }
    }
}

impl Tuning {
    pub fn policy(&self, bucket: &BucketName) -> &BucketPolicy {
        self.buckets.get(bucket).unwrap_or(&self.policy)
    }
}

/// What goes to the persistency tier.
pub(crate) struct Upload<'a> {
    pub bucket: &'a BucketName,
    pub key: &'a Key,
    pub id: ObjectId,
    pub content: Bytes,
    pub checksum: u64,
    pub source: Source,
}

/// How much of a tier is in use, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Objects, and what writers have reserved for them.
    pub used: u64,
    /// The same with padding and with what is dead but not given back yet: what the limit holds for.
    pub charged: u64,
    pub limit: u64,
}

/// Cheap to clone; all clones are the same node.
#[derive(Clone)]
pub struct Node {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub site: SiteId,
    pub dialer: Dialer,
    pub peers: Peers,
    pub catalog: Arc<dyn Catalog>,
    pub persist: Option<Persist>,
    pub tuning: Tuning,
    pub tier: Arc<Tier>,
    pub names: Arc<Names>,
    /// The same, as the catalog knows it.
    pub holder: Arc<dyn LeaseHolder>,
    pub publisher: Publisher,
    pub spiller: Spiller,
    pub collector: Collector,
    pub appendables: Appendables,
    pub searches: Searches,
    pub begun: Begun,
    pub epochs: Epochs,
    pub copies: bound::Copies,
    /// Of objects that lie elsewhere: how many bytes were read of them by parts.
    pub read_in_parts: Mutex<HashMap<ObjectId, u64>>,
    pub listings: bound::Listings,
    pub seconds: Seconds,
    /// What other processes have of this node's, if it shares.
    pub lending: OnceLock<Arc<Lending>>,
    /// Seals whose answer is awaited or was lost: the catalog may not know them yet.
    sealing: Mutex<HashSet<ObjectId>>,
    /// Those of them that nobody waits for any more: the catalog was away for too long.
    unsure: Mutex<HashSet<ObjectId>>,
    /// How far the last sweep came, where one does not come around.
    swept: Mutex<Option<ObjectId>>,
    /// One fetch, spill or release of an object at a time.
    turns: Mutex<HashMap<ObjectId, Weak<tokio::sync::Mutex<()>>>>,
    /// Buckets that are known to exist. They are never removed.
    buckets: Mutex<HashSet<BucketName>>,
    pub counters: Counters,
    buckets_counted: Arc<Buckets>,
    pub handle: Handle,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section here is a single map operation, so a panic elsewhere leaves the map whole.
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// Runs what may wait for a disk or hold a core.
pub(crate) async fn compute<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    joined(tokio::task::spawn_blocking(work).await)
}

pub(crate) fn joined<T>(done: Result<T, tokio::task::JoinError>) -> Result<T> {
    done.map_err(|e| Error::Remote { kind: Kind::Internal, message: format!("a task of the store ended early: {e}") })
}

impl Node {
    /// [`Node::open_with`] the defaults. Where nothing can be spilled, waiting for room helps only if somebody deletes, so writers are refused at once.
    pub async fn open(options: Options) -> Result<Node> {
        let wait = if options.persist.is_some() { WAIT } else { Duration::ZERO };
        Node::open_with(options, Tuning { wait, ..Tuning::default() }).await
    }

    /// Opens the folder, takes back the objects that the catalog says are here, and removes what nobody was told of.
    ///
    /// Needs the catalog: without it nobody can tell an object from a leftover. Must be called in a tokio runtime, which the blocking
    /// calls use too.
    pub async fn open_with(options: Options, tuning: Tuning) -> Result<Node> {
        let Options { site, folder, limit, dialer, catalog, persist, address } = options;
        let memory = tuning.memory.map(|size| size.0);
        let bound = bound::check_all(&tuning, persist.as_ref())?;
        spill::check_modes(&tuning, persist.as_ref())?;
        let (key, decrypted) = (tuning.key.clone(), tuning.decrypted);
        let (tier, appendables, begun, epochs) = compute(move || {
            let tier = Tier::open_with(&folder, limit.0, memory, key, decrypted)?;
            let appendables = Appendables::open(&folder.join("append"), &tier)?;
            Ok::<_, Error>((tier, appendables, Begun::open(&folder.join("uploads"))?, Epochs::open(&folder)?))
        })
        .await??;
        if !address.is_empty() {
            catalog.announce(&site, &address).await?;
        }
        for bucket in &bound {
            catalog.create_bucket(bucket).await?;
        }
        let buckets_counted = Arc::<Buckets>::default();
        let mut lost = Vec::new();
        let (mut owed, mut alone) = (Vec::new(), Vec::new());
        let mut known = |meta: ObjectMeta| match tier.get(meta.id) {
            Some(local) if meta.size == local.size && meta.checksum == local.checksum => {
                tier.count_for(&local, buckets_counted.of(&meta.bucket));
                local.persisted.store(meta.persisted.is_some(), SeqCst);
                if meta.persisted.is_none() && tuning.policy(&meta.bucket).mode != Mode::Ephemeral {
                    owed.push(meta.id);
                }
                if wants_second(&tuning, &meta) {
                    alone.push(meta.id);
                }
            }
            Some(_) => {
                tracing::error!(bucket = %meta.bucket, key = %meta.key, id = %meta.id, "an object is not what the catalog says; not used");
            }
            None => lost.push(meta),
        };
        let mut last = None;
        loop {
            let page = catalog.held(&site, last).await?;
            let Some(end) = page.last().map(|meta| meta.id) else { break };
            last = Some(end);
            page.into_iter().for_each(&mut known);
        }
        // A namenode that is started anew, or another one that takes over, may have its contents in another order: pages of the two don't fit together, and an object
        // may be on none of them. So each is asked for by its id before it is freed.
        for some in tier.unnamed().chunks(PAGE_MAX as usize) {
            // A seal of this node's life before may still wait for its turn there.
            catalog.give_up(some).await?;
            let found = catalog.find_all(some).await?.into_iter().flatten();
            found.filter(|meta| meta.sites.iter().any(|holder| holder.site == site)).for_each(&mut known);
        }
        if epochs.may_free(epochs.seen(), catalog.epoch().await?) {
            compute({
                let tier = tier.clone();
                move || tier.unnamed().into_iter().for_each(|id| {
                    tier.free(id);
                })
            })
            .await?;
        }
        let epochs = compute(move || epochs.save().map(|()| epochs)).await??;
        for meta in lost {
            match catalog.drop_holder(&meta.bucket, &meta.key, meta.epoch, &site).await {
                Ok(_) => tracing::warn!(bucket = %meta.bucket, key = %meta.key, "the copy on this site is lost; others have it"),
                // It ended with the process that had it, as the tier of its bucket says, or of the one where it was made: it is not there, and nobody should be told that it is.
                Err(Error::OnlyCopy { .. } | Error::Remote { kind: Kind::FailedPrecondition, .. })
                    if meta.id.was_in_memory() || tuning.policy(&meta.bucket).tier == Place::Memory =>
                {
                    forget(&*catalog, meta.clone(), &site).await?;
                    tracing::info!(bucket = %meta.bucket, key = %meta.key, "an object in memory has ended with the process that had it");
                }
                Err(e) => {
                    tracing::error!(bucket = %meta.bucket, key = %meta.key, error = %e, "the copy on this site is lost");
                }
            }
        }
        tracing::info!(%site, objects = tier.count(), bytes = tier.space(false).used(), "store opened");
        let names = Names::new(buckets_counted.clone());
        let inner = Arc::new_cyclic(|weak| Inner {
            site,
            dialer,
            peers: Peers::default(),
            catalog,
            persist,
            spiller: Spiller::new(&tuning.spill),
            tuning,
            tier,
            holder: names.clone(),
            names,
            publisher: Publisher::start(weak.clone()),
            collector: Collector::start(weak.clone()),
            appendables,
            begun,
            epochs,
            copies: bound::Copies::default(),
            read_in_parts: Mutex::default(),
            searches: Searches::default(),
            listings: bound::Listings::default(),
            seconds: Seconds::new(alone),
            lending: OnceLock::new(),
            sealing: Mutex::default(),
            unsure: Mutex::default(),
            swept: Mutex::default(),
            turns: Mutex::default(),
            buckets: Mutex::default(),
            counters: Counters::default(),
            buckets_counted,
            handle: Handle::current(),
        });
        inner.spiller.run(Arc::downgrade(&inner));
        inner.seconds.run(Arc::downgrade(&inner));
        owed.into_iter().for_each(|id| inner.spiller.owe(id));
        inner.watch_level(false);
        Ok(Node { inner })
    }

    pub fn site(&self) -> &SiteId {
        &self.inner.site
    }

    /// What is set for a bucket on this node.
    pub fn policy(&self, bucket: &BucketName) -> BucketPolicy {
        self.inner.tuning.policy(bucket).clone()
    }

    /// The buckets that are bound to a place in the persistency tier, so that there is more in them than the catalog knows.
    pub fn bound_buckets(&self) -> Vec<BucketName> {
        let bound = self.inner.tuning.buckets.iter().filter(|(_, policy)| policy.bind.is_some());
        bound.map(|(bucket, _)| bucket.clone()).collect()
    }

    /// Makes sure that a bucket exists. True: it is new.
    pub async fn create_bucket(&self, bucket: &BucketName) -> Result<bool> {
        let new = self.inner.catalog.create_bucket(bucket).await?;
        lock(&self.inner.buckets).insert(bucket.clone());
        Ok(new)
    }

    pub async fn buckets(&self) -> Result<Vec<BucketName>> {
        self.inner.catalog.buckets().await
    }

    /// Starts an object. Nobody sees it before it is sealed; then it replaces what had the key.
    pub async fn create(&self, bucket: &BucketName, key: &Key) -> Result<Writer> {
        self.create_with(bucket, key, false).await
    }

    /// Starts an object whose seal fails with `AlreadyExists` if the key is taken by then.
    pub async fn create_new(&self, bucket: &BucketName, key: &Key) -> Result<Writer> {
        self.create_with(bucket, key, true).await
    }

    pub(crate) async fn create_with(&self, bucket: &BucketName, key: &Key, if_absent: bool) -> Result<Writer> {
        if !self.inner.knows_bucket(bucket) {
            // Fails if the bucket isn't there: better now than after the data.
            self.inner.catalog.list(bucket, "", None, Page { limit: 1, ..Page::default() }).await?;
            lock(&self.inner.buckets).insert(bucket.clone());
        }
        // Nothing can keep others from writing there meanwhile; what is there now is seen.
        if if_absent && self.inner.is_bound(bucket) && self.inner.stat_foreign(bucket, key).await.is_ok() {
            return Err(Error::Exists { bucket: bucket.to_string(), key: key.to_string() });
        }
        Ok(self.inner.writer(bucket, key, if_absent))
    }

    /// Writes a whole object.
    pub async fn put(&self, bucket: &BucketName, key: &Key, content: Bytes) -> Result<ObjectMeta> {
        let mut writer = self.create(bucket, key).await?;
        writer.room(content.len() as u64).await?;
        let (writer, done) = compute(move || {
            let mut writer = writer;
            let done = writer.write_at(0, &content);
            (writer, done)
        })
        .await?;
        done?;
        writer.seal().await
    }

    /// Opens what has the key now, wherever it lies.
    pub async fn open_object(&self, bucket: &BucketName, key: &Key) -> Result<Object> {
        let inner = &self.inner;
        if let Some(object) = inner.known(bucket, key) {
            return Ok(object);
        }
        let span = spans::open(bucket, key);
        self.open_slowly(bucket, key).instrument(span).await
    }

    /// The same by the catalog's answer.
    async fn open_slowly(&self, bucket: &BucketName, key: &Key) -> Result<Object> {
        let inner = &self.inner;
        let mut before = None;
        for attempt in 1.. {
            let ticket = inner.names.ticket(bucket, key);
            let (meta, lease) = match inner.catalog.lease(&inner.holder, bucket, key).await {
                Err(e) if e.kind() == Kind::NotFound && inner.is_bound(bucket) => return inner.open_foreign(bucket, key, ticket).await,
                answer => answer?,
            };
            // It may have been spilled, moved or replaced since the last try; only then is there hope.
            let error = match before.take() {
                Some((old, error)) if old == meta => return Err(error),
                _ => match inner.open(&meta).await {
                    Ok(object) => {
                        if let Some(lease) = lease {
                            inner.names.keep(ticket, &object, lease);
                        }
                        return Ok(object);
                    }
                    Err(e) => e,
                },
            };
            if attempt == OPEN_TRIES {
                return Err(error);
            }
            before = Some((meta, error));
        }
        unreachable!("the last try returns")
    }

    pub async fn stat(&self, bucket: &BucketName, key: &Key) -> Result<ObjectMeta> {
        self.inner.stat(bucket, key).await
    }

    /// Some bytes of what has the key now, at most [`crate::RANGE_BYTES_MAX`], cut at the object's end. Of an object in a bound bucket that is not here, only these are fetched, and so it is
    /// where they are a small part of a large object, or this node could never hold all of it. Such a part is as its source sends it: the object's checksum is of all of it, so nobody can compare a part with it.
    pub async fn read_range(&self, bucket: &BucketName, key: &Key, range: peer::Range) -> Result<(ObjectMeta, Bytes)> {
        bound::check_range(range)?;
        if let Some((meta, len, mut stream)) = self.inner.part_of(bucket, key, range).await? {
            let mut bytes = Vec::with_capacity(len as usize);
            while let Some(chunk) = stream.try_next().await? {
                bytes.extend_from_slice(&chunk);
            }
            if bytes.len() as u64 != len {
                return Err(damaged(&meta, "on its way".into(), format!("{} bytes of {len} came", bytes.len())));
            }
            return Ok((meta, bytes.into()));
        }
        let object = self.open_object(bucket, key).await?;
        let len = peer::cut(bucket, key, object.len(), range.offset, range.len)?;
        let meta = object.meta().clone();
        Ok((meta, Bytes::from_owner(object).slice(range.offset as usize..(range.offset + len) as usize)))
    }

    /// A page of the objects with a prefix; `foo` means `foo` and `foo/…`, never `foobar`.
    pub async fn list(&self, bucket: &BucketName, prefix: &str, delimiter: Option<char>, page: Page) -> Result<Listing> {
        self.inner.names.settle(Wanted::Prefix(bucket, &Prefix::new(prefix)?)).await;
        self.inner.list_both(bucket, prefix, delimiter, page).await
    }

    /// Removes an object. Who has it open keeps it; other holders and the persistency tier are told in the background.
    pub async fn delete(&self, bucket: &BucketName, key: &Key) -> Result<ObjectMeta> {
        self.inner.names.settle(Wanted::Key(bucket, key)).await;
        let (meta, last) = match self.inner.catalog.remove(bucket, key).await {
            Ok(removed) => removed,
            Err(e) => return Err(self.inner.unless_foreign(bucket, key, e).await),
        };
        if last {
            self.inner.release(meta.clone());
        }
        Ok(meta)
    }

    /// Gives an object another key at once, without moving data; what had that key is replaced.
    pub async fn rename(&self, bucket: &BucketName, from: &Key, to: &Key) -> Result<ObjectMeta> {
        self.inner.names.settle(Wanted::Key(bucket, from)).await;
        self.inner.names.settle(Wanted::Key(bucket, to)).await;
        self.renamed(bucket, from, self.inner.catalog.rename(bucket, from, to).await).await
    }

    /// [`Node::rename`], also into another bucket; with `if_absent` it fails with `AlreadyExists` if the key is taken, which is looked at in the same step.
    pub async fn rename_to(&self, bucket: &BucketName, from: &Key, to_bucket: &BucketName, to: &Key, if_absent: bool) -> Result<ObjectMeta> {
        self.inner.names.settle(Wanted::Key(bucket, from)).await;
        self.inner.names.settle(Wanted::Key(to_bucket, to)).await;
        self.renamed(bucket, from, self.inner.catalog.rename_to(bucket, from, to_bucket, to, if_absent).await).await
    }

    async fn renamed(&self, bucket: &BucketName, from: &Key, done: Result<Sealed>) -> Result<ObjectMeta> {
        match done {
            Ok(Sealed { object, replaced }) => {
                if let Some(old) = replaced {
                    self.inner.release(old);
                }
                Ok(object)
            }
            Err(e) => Err(self.inner.unless_foreign(bucket, from, e).await),
        }
    }

    /// Moves this node's copies of the objects with a prefix (a whole key is one too) to the persistency tier.
    ///
    /// Returns how many objects and bytes left this node. What changes meanwhile is passed over; the first other failure ends it.
    pub async fn spill(&self, bucket: &BucketName, prefix: &str) -> Result<(u64, u64)> {
        let persist = self.inner.persist.clone().ok_or_else(|| Error::NoPersist { bucket: bucket.to_string() })?;
        let (mut objects, mut bytes) = (0, 0);
        let mut page = Page::default();
        let wanted = Prefix::new(prefix)?;
        self.inner.names.settle(Wanted::Prefix(bucket, &wanted)).await;
        let dropped = self.inner.drop_copies(bucket, &wanted);
        (objects, bytes) = (objects + dropped.0, bytes + dropped.1);
        loop {
            let listing = self.inner.catalog.list(bucket, prefix, None, page).await?;
            for meta in &listing.objects {
                if self.inner.spill(&persist, meta, &self.inner.spiller.free_pace).await? {
                    objects += 1;
                    bytes += meta.size;
                }
            }
            match listing.next {
                Some(next) => page = Page { start_after: next, ..Page::default() },
                None => break,
            }
        }
        // What is dead in half-empty segments is room too.
        let inner = self.inner.clone();
        compute(move || [false, true].map(|memory| inner.reclaim(memory))).await?;
        Ok((objects, bytes))
    }

    /// Frees local copies that the catalog no longer knows, because the message to free them got lost: of 10,000 objects, and of the next ones with the next call. Returns the bytes. A catalog that is older than what is here frees nothing.
    pub async fn sweep(&self) -> Result<u64> {
        let mut bytes = 0;
        if !self.inner.may_free().await? {
            return Ok(0);
        }
        for some in self.inner.to_sweep().chunks(PAGE_MAX as usize) {
            // What is sealed while the catalog is asked was not among these, or is being sealed still.
            let found = self.inner.catalog.find_all(some).await?;
            for (id, _) in some.iter().zip(found).filter(|(id, found)| found.is_none() && !self.inner.is_sealing(**id)) {
                bytes += self.inner.free(*id);
            }
        }
        Ok(bytes)
    }

    /// Bytes of the objects on this node's disk, with what writers have reserved for theirs and what is freed but still open.
    pub fn used_bytes(&self) -> u64 {
        self.inner.tier.space(false).used()
    }

    /// The disk's usage. Never above the limit but for less than a segment; see [`Node::segment_bytes`].
    pub fn disk(&self) -> Usage {
        usage(&self.inner.tier, false)
    }

    /// The memory tier's usage; zeros if there is none.
    pub fn memory(&self) -> Usage {
        if self.inner.tier.has_memory() { usage(&self.inner.tier, true) } else { Usage::default() }
    }

    /// The size of a segment: the bytes on the disk are never more than the limit and this.
    pub fn segment_bytes(&self) -> u64 {
        self.inner.tier.segment_bytes()
    }

    /// Waits until everything that was sealed here before is published, or has failed to be.
    pub async fn settle(&self) {
        self.inner.names.settle(Wanted::All).await;
    }

    /// The same calls for threads that compute.
    pub fn blocking(&self) -> Blocking {
        Blocking { node: self.clone() }
    }

    /// Prometheus text.
    pub fn metrics(&self) -> String {
        let mut out = String::new();
        let gauge = |out: &mut String, name, help, value| metrics::line(out, name, "gauge", help, value);
        let (disk, memory, inner) = (self.disk(), self.memory(), &self.inner);
        gauge(&mut out, "cloudskin_geds_used_bytes", "Bytes used or reserved on the local disk.", disk.used);
        gauge(&mut out, "cloudskin_geds_charged_bytes", "The same, with padding and what is not given back yet.", disk.charged);
        gauge(&mut out, "cloudskin_geds_limit_bytes", "Bytes that may be charged.", disk.limit);
        gauge(&mut out, "cloudskin_geds_memory_used_bytes", "Bytes used or reserved in the memory tier.", memory.used);
        gauge(&mut out, "cloudskin_geds_memory_limit_bytes", "Bytes that the memory tier may hold.", memory.limit);
        gauge(&mut out, "cloudskin_geds_objects", "Objects on this node.", inner.tier.count());
        gauge(&mut out, "cloudskin_geds_persistency_tier", "1 if the node has a persistency tier.", u64::from(inner.persist.is_some()));
        gauge(&mut out, "cloudskin_geds_spill_queue", "Objects that wait for their upload.", inner.spiller.queued());
        gauge(&mut out, "cloudskin_geds_spill_breaker_open", "1 while the persistency tier fails.", u64::from(inner.spiller.breaker_open()));
        let (attached, lent) = inner.lending.get().map_or((0, 0), |lending| lending.counts());
        gauge(&mut out, "cloudskin_geds_attached", "Processes that share this node's tier.", attached);
        gauge(&mut out, "cloudskin_geds_lent_objects", "Objects that such processes have, each counted for itself.", lent);
        gauge(&mut out, "cloudskin_geds_second_copies_owed", "Objects that should be at another site, too, and are not yet.", inner.seconds.count());
        inner.counters.text(&mut out);
        inner.buckets_counted.text(&mut out);
        out
    }

    /// Answers a peer until it hangs up. To be called after the TLS handshake has chosen [`crate::ALPN`]; `peer` is the name that the
    /// peer's certificate proved.
    pub async fn serve_peer<S>(&self, stream: S, peer: &str) -> Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        peer::serve(self, Box::new(stream), peer).await
    }

    /// A copy that is here, for a peer that knows what it wants.
    pub(crate) async fn copy(&self, bucket: &BucketName, key: &Key, id: ObjectId, epoch: u64) -> Result<Object> {
        let local = self.inner.tier.get(id).ok_or_else(|| Error::NotFound { bucket: bucket.to_string(), key: key.to_string() })?;
        let meta = ObjectMeta {
            bucket: bucket.clone(),
            key: key.clone(),
            id,
            epoch,
            size: local.size,
            state: State::Sealed,
            checksum: local.checksum,
            sites: Vec::new(),
            persisted: None,
            created_ms: 0,
        };
        self.inner.map(meta, local).await
    }

    /// Makes sure that this node holds a recorded copy of what has the key now. `Stale` if it was written again meanwhile.
    pub(crate) async fn keep(&self, bucket: &BucketName, key: &Key) -> Result<ObjectMeta> {
        let object = self.open_object(bucket, key).await?;
        let meta = object.meta();
        // Under its turn nobody frees the copy between the look and the record.
        let turn = self.inner.turn(meta.id);
        let _turn = turn.lock().await;
        let Some(local) = self.inner.tier.get(meta.id) else {
            return Err(Error::Unreachable {
                bucket: bucket.to_string(),
                key: key.to_string(),
                tried: format!("site {} fetched it and freed it again at once", self.inner.site),
            });
        };
        // Who has asked for it counts on it.
        local.spare.store(false, SeqCst);
        self.inner.catalog.add_holder(bucket, key, meta.epoch, &self.inner.site).await
    }

    /// Frees a copy if nobody needs it here: the object is gone, or others have it.
    pub(crate) async fn free_copy(&self, id: ObjectId) -> Result<u64> {
        let turn = self.inner.turn(id);
        let _turn = turn.lock().await;
        if let Some(meta) = self.inner.catalog.find(id).await? {
            if meta.sites.iter().any(|holder| holder.site == self.inner.site) {
                self.inner.unrecord(&meta).await?;
            }
        }
        Ok(self.inner.free(id))
    }

    pub(crate) fn served(&self, bytes: u64) {
        add(&self.inner.counters.served_bytes, bytes);
    }
}

/// Takes all names of a content away whose only copy, at this site, is lost.
async fn forget(catalog: &dyn Catalog, meta: ObjectMeta, site: &SiteId) -> Result<()> {
    let mut meta = meta;
    loop {
        match catalog.lose(&meta.bucket, &meta.key, meta.epoch, site).await {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            // Deleted, moved or replaced meanwhile; if it has a name still, that one is next.
            Err(e) if matches!(e.kind(), Kind::NotFound | Kind::FailedPrecondition) => {}
            Err(e) => return Err(e),
        }
        match catalog.find(meta.id).await? {
            Some(next) if next.sites.iter().any(|holder| holder.site == *site) => meta = next,
            _ => return Ok(()),
        }
    }
}

fn usage(tier: &Tier, memory: bool) -> Usage {
    let space = tier.space(memory);
    Usage { used: space.used(), charged: space.charged(), limit: space.limit }
}

impl Inner {
    pub async fn stat(&self, bucket: &BucketName, key: &Key) -> Result<ObjectMeta> {
        self.names.settle(Wanted::Key(bucket, key)).await;
        match self.catalog.lookup(bucket, key).await {
            Err(e) if e.kind() == Kind::NotFound && self.is_bound(bucket) => self.stat_foreign(bucket, key).await,
            answer => answer,
        }
    }

    pub fn knows_bucket(&self, bucket: &BucketName) -> bool {
        lock(&self.buckets).contains(bucket)
    }

    /// A writer for a bucket that exists. Makes no system call.
    pub fn writer(self: &Arc<Self>, bucket: &BucketName, key: &Key, if_absent: bool) -> Writer {
        let memory = self.tuning.policy(bucket).tier == Place::Memory;
        let memory = memory && self.tier.has_memory();
        let draft = self.tier.create(if memory { self.tier.new_id_in_memory() } else { self.tier.new_id() }, memory);
        Writer { inner: self.clone(), bucket: bucket.clone(), key: key.clone(), if_absent, carried: Carried::default(), draft }
    }

    /// What a sweep looks at: the next so many of what the catalog should know. Copies in bound buckets are not the catalog's.
    fn to_sweep(&self) -> Vec<ObjectId> {
        self.forget_copies();
        let mut ids: Vec<ObjectId> = self.tier.ids().into_iter().filter(|id| !self.is_sealing(*id) && !self.is_copy(*id)).collect();
        let mut swept = lock(&self.swept);
        if ids.len() > SWEEP_MAX {
            // From where the last one ended, and around.
            ids.sort_unstable();
            let at = ids.partition_point(|id| Some(*id) <= *swept);
            ids.rotate_left(at);
            ids.truncate(SWEEP_MAX);
            *swept = ids.last().copied();
        }
        ids
    }

    /// Whether what the catalog doesn't know may be freed, or this catalog is older than what is here.
    pub async fn may_free(&self) -> Result<bool> {
        let before = self.epochs.seen();
        Ok(self.epochs.may_free(before, self.catalog.epoch().await?))
    }

    /// The figures of a bucket.
    pub fn counted(&self, bucket: &BucketName) -> Arc<BucketCounts> {
        self.buckets_counted.of(bucket)
    }

    /// An open that was answered from there.
    pub fn opened(&self, bucket: &BucketName, source: Source) {
        add(&self.counted(bucket).of(source).opened, 1);
    }

    /// What the key means, if that can be said without asking. Makes no system call.
    pub fn known(&self, bucket: &BucketName, key: &Key) -> Option<Object> {
        self.names.get(bucket, key, self.tier.age())
    }

    /// Opens a local copy, on a thread of its own if its checksum has to be computed.
    pub(crate) async fn map(&self, meta: ObjectMeta, local: Arc<Local>) -> Result<Object> {
        let now = self.tier.age();
        if local.is_ready() {
            return Object::new(meta, local, now);
        }
        let tier = self.tier.clone();
        compute(move || Object::new(meta, local, now).inspect(|object| tier.opened(object))).await?
    }

    pub fn sealing_begins(&self, id: ObjectId) {
        lock(&self.sealing).insert(id);
    }
    pub fn sealing_ends(&self, id: ObjectId) {
        lock(&self.sealing).remove(&id);
    }
    pub fn is_sealing(&self, id: ObjectId) -> bool {
        lock(&self.sealing).contains(&id)
    }

    pub fn turn(&self, id: ObjectId) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = lock(&self.turns);
        if let Some(turn) = turns.get(&id).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::new(tokio::sync::Mutex::new(()));
        turns.insert(id, Arc::downgrade(&turn));
        turn
    }

    /// Forgets a copy; its bytes go with the last reader. Returns how many.
    pub fn free(&self, id: ObjectId) -> u64 {
        let bytes = self.tier.free(id);
        // What other processes keep only in case they need it again goes, too.
        if self.lending.get().is_some_and(|lending| lending.want(id)) {
            self.tier.tidy();
        }
        if self.tier.wants_maintenance() {
            self.spiller.wake();
        }
        bytes
    }

    /// What would make room for a writer.
    fn room(&self, memory: bool) -> String {
        let setting = if memory { "memory" } else { "limit" };
        match (&self.persist, self.spiller.why_open()) {
            (Some(persist), Some(why)) => format!("{persist} takes nothing, and what only this node has can't go there ({why}): make it work again, delete objects, or raise the node's `{setting}`"),
            (Some(_), None) => format!("spill or delete objects, or raise the node's `{setting}`"),
            (None, _) => format!("delete objects, raise the node's `{setting}`, or give it a persistency tier (`persist`) to spill them to"),
        }
    }

    pub fn refused(&self, bucket: &BucketName, key: &Key, memory: bool, refused: Refused) -> Error {
        let space = self.tier.space(memory);
        let (wanted, used) = match refused {
            Refused::Full(full) => (full.wanted, full.charged),
            // The disk is full of other people's files: the same to the writer, and nothing is lost.
            Refused::Error(Error::File { action: "allocate", source, .. })
                if matches!(source.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT | libc::ENOMEM)) =>
            {
                tracing::warn!(error = %source, "the device is full before the limit is reached; lower `limit` in [geds]");
                (0, space.charged())
            }
            Refused::Error(e) => return e,
        };
        add(&self.counted(bucket).here(memory).refused, 1);
        Error::NoSpace { bucket: bucket.to_string(), key: key.to_string(), wanted, used, limit: space.limit, remedy: self.room(memory) }
    }

    /// Frees the copies of an object that the catalog has forgotten: here at once, elsewhere in the background. The catalog lists its upload for who has a persistency tier.
    pub fn release(self: &Arc<Self>, meta: ObjectMeta) {
        self.free(meta.id);
        let meta_persisted = meta.persisted.is_some();
        let inner = self.clone();
        self.handle.spawn(async move {
            for holder in meta.sites.iter().filter(|holder| holder.site != inner.site && !holder.address.is_empty()) {
                let told = async {
                    PeerClient::dial(&inner.dialer, &holder.site, &holder.address).await?.free(meta.id).await
                };
                if let Err(e) = told.await {
                    // It is freed at that site's next restart or sweep.
                    tracing::warn!(site = %holder.site, bucket = %meta.bucket, key = %meta.key, error = %e, "a copy is not freed yet");
                }
            }
        });
        if meta_persisted {
            self.collector.wake();
        }
    }

    /// Records a sealed object and makes it durable, before the catalog hears of it. Blocks.
    pub fn keep_durably(&self, bucket: &BucketName, local: Local) -> Result<Kept> {
        let id = local.id;
        self.sealing_begins(id);
        local.count_for(self.counted(bucket));
        let mut came = false;
        let kept = self.tier.keep(local).and_then(|kept| {
            came = kept.came;
            kept.local.sync().and_then(|()| self.tier.sync()).map(|()| kept)
        });
        if kept.is_err() {
            if came {
                self.free(id);
            }
            self.sealing_ends(id);
        }
        kept
    }

    /// Tells the catalog of an object that is durable here. Runs to its end once started: its outcome decides about the object.
    pub async fn commit(
        self: Arc<Self>,
        bucket: BucketName,
        key: Key,
        local: Arc<Local>,
        if_absent: bool,
        carried: Carried,
    ) -> Result<ObjectMeta> {
        let (id, size, checksum, memory) = (local.id, local.size, local.checksum, local.in_memory());
        drop(local);
        let mut wait = SEAL_WAIT;
        let mut attempt = 0;
        let began = Instant::now();
        loop {
            attempt += 1;
            let new = NewObject { id, size, checksum, site: self.site.clone(), if_absent };
            let sealed = async {
                let attributes = carried.by_the_clock_of(&*self.catalog).await?;
                self.catalog.seal_with(&bucket, &key, new, attributes).await
            };
            match sealed.await {
                Ok(sealed) => {
                    self.sealing_ends(id);
                    self.epochs.saw(sealed.object.epoch);
                    let counted = self.counted(&bucket);
                    let counts = counted.here(memory);
                    add(&counts.sealed, 1);
                    add(&counts.sealed_bytes, size);
                    counts.seal.add(began.elapsed());
                    if self.is_bound(&bucket) {
                        // What the name meant before may be kept without a lease of the catalog's.
                        self.holder.revoke(&bucket, &key);
                    }
                    if let Some(old) = sealed.replaced {
                        self.release(old);
                    }
                    return self.settle_debt(sealed.object).await;
                }
                Err(e) if e.is_uncertain() && attempt < SEAL_TRIES => {
                    tracing::warn!(%bucket, %key, attempt, error = %e, "the namenode's answer to a seal is missing; asking again");
                    tokio::time::sleep(wait).await;
                    wait *= 2;
                }
                // The catalog may have it. Until it has said so the file stays.
                Err(e) if e.is_uncertain() => {
                    lock(&self.unsure).insert(id);
                    return Err(e);
                }
                Err(e) => {
                    self.free(id);
                    self.sealing_ends(id);
                    return Err(e);
                }
            }
        }
    }

    /// Whether a seal was done for whose answer nobody waits any more. If not, it never will be.
    pub async fn was_sealed(&self, id: ObjectId) -> Result<bool> {
        self.catalog.give_up(&[id]).await?;
        Ok(self.catalog.find(id).await?.is_some())
    }

    /// Finds out what became of seals for whose answers nobody waits any more: what the catalog does not have is freed, what it has owes what all owe.
    pub async fn settle_seals(&self) -> Result<()> {
        let unsure: Vec<ObjectId> = lock(&self.unsure).iter().copied().collect();
        if unsure.is_empty() || !self.may_free().await? {
            return Ok(());
        }
        for some in unsure.chunks(PAGE_MAX as usize) {
            self.catalog.give_up(some).await?;
            for (id, found) in some.iter().zip(self.catalog.find_all(some).await?) {
                match found {
                    Some(meta) => {
                        self.epochs.saw(meta.epoch);
                        if self.wants_second(&meta) {
                            self.seconds.owe(*id);
                        }
                        if meta.persisted.is_none() && self.tuning.policy(&meta.bucket).mode != Mode::Ephemeral {
                            self.spiller.owe(*id);
                        }
                    }
                    None => drop(self.free(*id)),
                }
                lock(&self.unsure).remove(id);
                self.sealing_ends(*id);
            }
        }
        Ok(())
    }

    /// Uploads one object and frees the copy here. False: there was nothing to do, or the object changed meanwhile.
    pub async fn spill(self: &Arc<Self>, persist: &Persist, meta: &ObjectMeta, pace: &Pace) -> Result<bool> {
        let span = spans::spill(&meta.bucket, &meta.key);
        self.spill_held(persist, meta, pace).instrument(span).await
    }

    async fn spill_held(self: &Arc<Self>, persist: &Persist, meta: &ObjectMeta, pace: &Pace) -> Result<bool> {
        let turn = self.turn(meta.id);
        let _turn = turn.lock().await;
        let memory = self.tier.get(meta.id).is_some_and(|local| local.in_memory());
        spans::note(&Span::current(), meta.size, Source::here(memory));
        let Some(now) = self.upload_held(persist, meta, pace).await? else { return Ok(false) };
        self.let_go(&now, memory).await
    }

    /// Frees the copy here of what the persistency tier has. False: it changed meanwhile.
    pub(crate) async fn let_go(&self, meta: &ObjectMeta, memory: bool) -> Result<bool> {
        match self.unrecord(meta).await {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(false),
            Err(e) if matches!(e.kind(), Kind::NotFound | Kind::FailedPrecondition) => return Ok(false),
            Err(e) => return Err(e),
        }
        let counted = self.counted(&meta.bucket);
        let counts = counted.here(memory);
        self.free(meta.id);
        add(&counts.spilled, 1);
        add(&counts.spilled_bytes, meta.size);
        Ok(true)
    }

    /// Sees to it that the persistency tier has an object of which a copy is here. `None`: it is not here, or changed meanwhile.
    pub async fn upload(self: &Arc<Self>, persist: &Persist, meta: &ObjectMeta, pace: &Pace) -> Result<Option<ObjectMeta>> {
        let turn = self.turn(meta.id);
        let _turn = turn.lock().await;
        // Somebody may have brought it away while its turn was waited for.
        let done = meta.persisted.is_none() && self.tier.get(meta.id).is_some_and(|local| local.persisted.load(SeqCst));
        if done {
            if let Some(now) = self.catalog.find(meta.id).await?.filter(|now| now.persisted.is_some()) {
                return Ok(Some(now));
            }
        }
        self.upload_held(persist, meta, pace).await
    }

    /// Brings bytes to the persistency tier, in bounded time, and compares what has come there.
    pub(crate) async fn put_within(&self, persist: &Persist, upload: Upload<'_>, pace: &Pace) -> Result<String> {
        let Upload { bucket, key, id, content, checksum, source } = upload;
        let size = content.len() as u64;
        let span = spans::upload(bucket, key);
        spans::note(&span, size, source);
        // What the pace costs comes on top: others share it.
        let longest = PERSIST_SILENCE * 4 + Duration::from_secs(size / PERSIST_RATE_MIN);
        let longest = longest.saturating_add(pace.at_most(size.saturating_mul(spill::UPLOADS as u64), Instant::now()));
        let put = tokio::time::timeout(longest, persist.put((bucket, key), id, content, checksum, pace)).instrument(span).await;
        let put = put.unwrap_or_else(|_| {
            Err(Error::Remote { kind: Kind::DeadlineExceeded, message: format!("{persist} did not take it within {} s", longest.as_secs()) })
        });
        put.map_err(|source| Error::Upload { bucket: bucket.to_string(), key: key.to_string(), source: source.into() })
    }

    /// Upload, verify, record; within the object's turn.
    async fn upload_held(self: &Arc<Self>, persist: &Persist, meta: &ObjectMeta, pace: &Pace) -> Result<Option<ObjectMeta>> {
        let Some(local) = self.tier.get(meta.id) else { return Ok(None) };
        if let Some(location) = &meta.persisted {
            match persist.there(location, meta.size, PERSIST_SILENCE).await? {
                There::Yes => {
                    local.persisted.store(true, SeqCst);
                    return Ok(Some(meta.clone()));
                }
                There::No => {}
                // To bring all of it there once more would be of no use.
                There::Silent => {
                    let silent = Error::Remote { kind: Kind::DeadlineExceeded, message: format!("{persist} did not say within {} s whether it has {location}", PERSIST_SILENCE.as_secs()) };
                    return Err(Error::Upload { bucket: meta.bucket.to_string(), key: meta.key.to_string(), source: Box::new(silent) });
                }
            }
        }
        // What was there and is not any more is brought there anew, and must not go before.
        local.persisted.store(false, SeqCst);
        let object = self.map(meta.clone(), local.clone()).await?;
        let began = Instant::now();
        let (marking, id) = (self.clone(), meta.id);
        compute(move || marking.begun.begin(id)).await??;
        let (content, source) = (Bytes::from_owner(object), Source::here(local.in_memory()));
        let upload = Upload { bucket: &meta.bucket, key: &meta.key, id, content, checksum: meta.checksum, source };
        let location = self.put_within(persist, upload, pace).await?;
        let mark = |named: ObjectMeta| {
            let location = &location;
            async move { self.catalog.mark_persisted(&named.bucket, &named.key, named.epoch, location).await }
        };
        match self.under_any_name(meta, mark).await? {
            Some(now) => {
                local.persisted.store(true, SeqCst);
                let marking = self.clone();
                compute(move || marking.begun.end(id)).await?;
                let counted = self.counted(&meta.bucket);
                let counts = counted.here(local.in_memory());
                counts.upload.add(began.elapsed());
                add(&counts.uploaded, 1);
                add(&counts.uploaded_bytes, meta.size);
                Ok(Some(now))
            }
            // The collector removes what was uploaded.
            None => {
                self.collector.wake();
                Ok(None)
            }
        }
    }

    /// Takes this site's copy from the record, before it is freed. Refused for the only copy; `None`: the content has no name any more.
    pub(crate) async fn unrecord(&self, meta: &ObjectMeta) -> Result<Option<ObjectMeta>> {
        self.under_any_name(meta, |named| async move { self.catalog.drop_holder(&named.bucket, &named.key, named.epoch, &self.site).await }).await
    }

    /// Records something under the name that a content has. It is often renamed meanwhile, and what was promised for it, or happens to it, holds under the new name. `None`: it has no name any more.
    async fn under_any_name<F: Future<Output = Result<ObjectMeta>>>(&self, meta: &ObjectMeta, record: impl Fn(ObjectMeta) -> F) -> Result<Option<ObjectMeta>> {
        let mut named = meta.clone();
        for _ in 0..NAME_TRIES {
            let refused = match record(named.clone()).await {
                Ok(now) => return Ok(Some(now)),
                Err(e) if matches!(e.kind(), Kind::NotFound | Kind::FailedPrecondition) => e,
                Err(e) => return Err(e),
            };
            match self.catalog.find(meta.id).await? {
                // Not for its name.
                Some(now) if (&now.bucket, &now.key) == (&named.bucket, &named.key) => return Err(refused),
                Some(now) => named = now,
                None => return Ok(None),
            }
        }
        // Who owes an upload tries again.
        Err(Error::Remote { kind: Kind::Unavailable, message: format!("{}/{} is renamed again and again", named.bucket, named.key) })
    }
}
