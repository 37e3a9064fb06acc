//! A node: the objects of one agent, and the way to everybody else's.
//!
//! The life of an open: ask the catalog; if the id is here, map the file; else fetch it from a holder, else from the persistency tier,
//! check it, keep it, tell the catalog. Copies are found by id, so a rename costs nothing and a stale copy can't be taken for the new one.
//!
//! The order of steps is what keeps data alive, and each step may be the last one before a crash:
//! seal: file durable → catalog → acknowledged. Fetch: file durable → catalog. Spill: uploaded and read back → catalog knows the upload →
//! catalog forgets the copy → file removed. So the catalog never counts a copy that isn't there.
//!
//! It never spills by itself: when the limit is reached, writes are refused.

use crate::{
    BucketName, Catalog, Error, Holder, Key, Listing, NewObject, Object, ObjectId, ObjectMeta, Page, PeerClient, Persist,
    Result, State,
    local::{Draft, Folder, Local, Refused},
    metrics::{self, Counters, add},
    peer,
};
use base::{Kind, SiteId, identity::Dialer, unit::Bytes as Size};
use bytes::Bytes;
use futures::TryStreamExt;
use std::{
    collections::{HashMap, HashSet},
    future::Future,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    runtime::Handle,
};

/// How often a seal is repeated when its answer got lost, and the first wait between; each wait is twice the one before.
const SEAL_TRIES: u32 = 8;
const SEAL_WAIT: Duration = Duration::from_millis(100);
/// How often an open starts again because the object moved or changed while it was being fetched.
const OPEN_TRIES: u32 = 3;
/// How long a plain thread's call goes on while the catalog or a holder is away, and the pause between its tries.
const AWAY_MAX: Duration = Duration::from_secs(20);
const AWAY_PAUSE: Duration = Duration::from_millis(200);
/// How long the persistency tier may be silent in the middle of an object.
const PERSIST_SILENCE: Duration = Duration::from_secs(30);

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

/// Cheap to clone; all clones are the same node.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    site: SiteId,
    dialer: Dialer,
    catalog: Arc<dyn Catalog>,
    persist: Option<Persist>,
    folder: Folder,
    held: Mutex<HashMap<ObjectId, Arc<Local>>>,
    /// Seals whose answer is awaited or was lost: the catalog may not know them yet.
    sealing: Mutex<HashSet<ObjectId>>,
    /// One fetch, spill or release of an object at a time.
    turns: Mutex<HashMap<ObjectId, Weak<tokio::sync::Mutex<()>>>>,
    /// Buckets that are known to exist. They are never removed.
    buckets: Mutex<HashSet<BucketName>>,
    counters: Counters,
    handle: Handle,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section here is a single map operation, so a panic elsewhere leaves the map whole.
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// Runs what may wait for a disk or hold a core.
async fn compute<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    joined(tokio::task::spawn_blocking(work).await)
}

fn joined<T>(done: Result<T, tokio::task::JoinError>) -> Result<T> {
    done.map_err(|e| Error::Remote { kind: Kind::Internal, message: format!("a task of the store ended early: {e}") })
}

impl Node {
    /// Opens the folder, takes back the objects that the catalog says are here, and removes what nobody was told of.
    ///
    /// Needs the catalog: without it nobody can tell an object from a leftover. Must be called in a tokio runtime, which the blocking
    /// calls use too.
    pub async fn open(options: Options) -> Result<Node> {
        let Options { site, folder, limit, dialer, catalog, persist, address } = options;
        let (folder, found) = compute(move || Folder::open(&folder, limit.0)).await??;
        if !address.is_empty() {
            catalog.announce(&site, &address).await?;
        }
        let mut recorded = HashMap::new();
        let mut last = None;
        loop {
            let page = catalog.held(&site, last).await?;
            let Some(end) = page.last().map(|meta| meta.id) else { break };
            last = Some(end);
            recorded.extend(page.into_iter().map(|meta| (meta.id, meta)));
        }
        let mut held = HashMap::new();
        for local in found {
            match recorded.remove(&local.id) {
                Some(meta) if meta.size == local.size && meta.checksum == local.checksum => {
                    held.insert(local.id, local);
                }
                Some(meta) => {
                    tracing::error!(bucket = %meta.bucket, key = %meta.key, id = %meta.id, "an object is not what the catalog says; not used");
                }
                None => local.doom(),
            }
        }
        for meta in recorded.into_values() {
            match catalog.drop_holder(&meta.bucket, &meta.key, meta.epoch, &site).await {
                Ok(_) => tracing::warn!(bucket = %meta.bucket, key = %meta.key, "the copy on this site is lost; others have it"),
                Err(e) => {
                    tracing::error!(bucket = %meta.bucket, key = %meta.key, error = %e, "the copy on this site is lost");
                }
            }
        }
        tracing::info!(%site, objects = held.len(), bytes = folder.space.used(), "store opened");
        let inner = Inner {
            site,
            dialer,
            catalog,
            persist,
            folder,
            held: Mutex::new(held),
            sealing: Mutex::default(),
            turns: Mutex::default(),
            buckets: Mutex::default(),
            counters: Counters::default(),
            handle: Handle::current(),
        };
        Ok(Node { inner: Arc::new(inner) })
    }

    pub fn site(&self) -> &SiteId {
        &self.inner.site
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
        if !lock(&self.inner.buckets).contains(bucket) {
            // Fails if the bucket isn't there: better now than after the data.
            self.inner.catalog.list(bucket, "", None, Page { limit: 1, ..Page::default() }).await?;
            lock(&self.inner.buckets).insert(bucket.clone());
        }
        let draft = self.inner.folder.create(ObjectId::random()?)?;
        Ok(Writer { inner: self.inner.clone(), bucket: bucket.clone(), key: key.clone(), if_absent, draft })
    }

    /// Writes a whole object.
    pub async fn put(&self, bucket: &BucketName, key: &Key, content: Bytes) -> Result<ObjectMeta> {
        let writer = self.create(bucket, key).await?;
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
        let mut meta = self.inner.catalog.lookup(bucket, key).await?;
        for _ in 1..OPEN_TRIES {
            let error = match self.inner.open(&meta).await {
                Ok(object) => return Ok(object),
                Err(e) => e,
            };
            // It may have been spilled, moved or replaced since; only then is there hope.
            let now = self.inner.catalog.lookup(bucket, key).await?;
            if now == meta {
                return Err(error);
            }
            meta = now;
        }
        self.inner.open(&meta).await
    }

    pub async fn stat(&self, bucket: &BucketName, key: &Key) -> Result<ObjectMeta> {
        self.inner.catalog.lookup(bucket, key).await
    }

    /// A page of the objects with a prefix; `foo` means `foo` and `foo/…`, never `foobar`.
    pub async fn list(&self, bucket: &BucketName, prefix: &str, delimiter: Option<char>, page: Page) -> Result<Listing> {
        self.inner.catalog.list(bucket, prefix, delimiter, page).await
    }

    /// Removes an object. Who has it open keeps it; other holders and the persistency tier are told in the background.
    pub async fn delete(&self, bucket: &BucketName, key: &Key) -> Result<ObjectMeta> {
        let meta = self.inner.catalog.delete(bucket, key).await?;
        self.inner.release(meta.clone());
        Ok(meta)
    }

    /// Gives an object another key at once, without moving data; what had that key is replaced.
    pub async fn rename(&self, bucket: &BucketName, from: &Key, to: &Key) -> Result<ObjectMeta> {
        let done = self.inner.catalog.rename(bucket, from, to).await?;
        if let Some(old) = done.replaced {
            self.inner.release(old);
        }
        Ok(done.object)
    }

    /// Moves this node's copies of the objects with a prefix (a whole key is one too) to the persistency tier.
    ///
    /// Returns how many objects and bytes left this node. What changes meanwhile is passed over; the first other failure ends it.
    pub async fn spill(&self, bucket: &BucketName, prefix: &str) -> Result<(u64, u64)> {
        let persist = self.inner.persist.clone().ok_or_else(|| Error::NoPersist { bucket: bucket.to_string() })?;
        let (mut objects, mut bytes) = (0, 0);
        let mut page = Page::default();
        loop {
            let listing = self.inner.catalog.list(bucket, prefix, None, page).await?;
            for meta in &listing.objects {
                if self.inner.spill(&persist, meta).await? {
                    objects += 1;
                    bytes += meta.size;
                }
            }
            match listing.next {
                Some(next) => page = Page { start_after: next, ..Page::default() },
                None => return Ok((objects, bytes)),
            }
        }
    }

    /// Frees local copies that the catalog no longer knows, because the message to free them got lost. Returns the bytes.
    pub async fn sweep(&self) -> Result<u64> {
        let ids: Vec<ObjectId> = lock(&self.inner.held).keys().copied().collect();
        let mut bytes = 0;
        for id in ids {
            if !lock(&self.inner.sealing).contains(&id) && self.inner.catalog.find(id).await?.is_none() {
                bytes += self.inner.free(id);
            }
        }
        Ok(bytes)
    }

    /// Bytes that objects on this node's disk use, with what writers have reserved and what is freed but still open.
    pub fn used_bytes(&self) -> u64 {
        self.inner.folder.space.used()
    }

    /// The same calls for threads that compute.
    pub fn blocking(&self) -> Blocking {
        Blocking { node: self.clone() }
    }

    /// Prometheus text.
    pub fn metrics(&self) -> String {
        let mut out = String::new();
        let gauge = |out: &mut String, name, help, value| metrics::line(out, name, "gauge", help, value);
        gauge(&mut out, "cloudskin_geds_used_bytes", "Bytes used or reserved on the local disk.", self.used_bytes());
        gauge(&mut out, "cloudskin_geds_limit_bytes", "Bytes that may be used.", self.inner.folder.space.limit);
        let objects = lock(&self.inner.held).len() as u64;
        gauge(&mut out, "cloudskin_geds_objects", "Objects on the local disk.", objects);
        self.inner.counters.text(&mut out);
        out
    }

    /// Answers a peer until it hangs up. To be called after the TLS handshake has chosen [`crate::ALPN`]; `peer` is the name that the
    /// peer's certificate proved.
    pub async fn serve_peer<S>(&self, stream: S, peer: &str) -> Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        peer::serve(self, stream, peer).await
    }

    /// A copy that is here, for a peer that knows what it wants.
    pub(crate) async fn copy(&self, bucket: &BucketName, key: &Key, id: ObjectId, epoch: u64) -> Result<Object> {
        let local = self.inner.held(id).ok_or_else(|| Error::NotFound { bucket: bucket.to_string(), key: key.to_string() })?;
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
        map(meta, local).await
    }

    /// Makes sure that this node holds a recorded copy of what has the key now. `Stale` if it was written again meanwhile.
    pub(crate) async fn keep(&self, bucket: &BucketName, key: &Key) -> Result<ObjectMeta> {
        let object = self.open_object(bucket, key).await?;
        let meta = object.meta();
        // Under its turn nobody frees the copy between the look and the record.
        let turn = self.inner.turn(meta.id);
        let _turn = turn.lock().await;
        if self.inner.held(meta.id).is_none() {
            return Err(Error::Unreachable {
                bucket: bucket.to_string(),
                key: key.to_string(),
                tried: format!("site {} fetched it and freed it again at once", self.inner.site),
            });
        }
        self.inner.catalog.add_holder(bucket, key, meta.epoch, &self.inner.site).await
    }

    /// Frees a copy if nobody needs it here: the object is gone, or others have it.
    pub(crate) async fn free_copy(&self, id: ObjectId) -> Result<u64> {
        let turn = self.inner.turn(id);
        let _turn = turn.lock().await;
        if let Some(meta) = self.inner.catalog.find(id).await? {
            if meta.sites.iter().any(|holder| holder.site == self.inner.site) {
                self.inner.catalog.drop_holder(&meta.bucket, &meta.key, meta.epoch, &self.inner.site).await?;
            }
        }
        Ok(self.inner.free(id))
    }

    pub(crate) fn served(&self, bytes: u64) {
        add(&self.inner.counters.served_bytes, bytes);
    }
}

/// Maps a local copy, on a thread of its own if its checksum has to be computed.
async fn map(meta: ObjectMeta, local: Arc<Local>) -> Result<Object> {
    if local.is_ready() { Object::new(meta, local) } else { compute(move || Object::new(meta, local)).await? }
}

/// Writes a chunk where waiting for the disk is allowed.
async fn append(mut draft: Draft, chunk: Bytes) -> Result<(Draft, Result<(), Refused>)> {
    compute(move || {
        let done = draft.write_at(draft.len(), &chunk);
        (draft, done)
    })
    .await
}

impl Inner {
    fn held(&self, id: ObjectId) -> Option<Arc<Local>> {
        lock(&self.held).get(&id).cloned()
    }

    fn turn(&self, id: ObjectId) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = lock(&self.turns);
        if let Some(turn) = turns.get(&id).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::new(tokio::sync::Mutex::new(()));
        turns.insert(id, Arc::downgrade(&turn));
        turn
    }

    /// Forgets a copy; its file goes with the last reader. Returns its bytes.
    fn free(&self, id: ObjectId) -> u64 {
        match lock(&self.held).remove(&id) {
            Some(local) => {
                local.doom();
                local.size
            }
            None => 0,
        }
    }

    fn refused(&self, bucket: &BucketName, key: &Key, refused: Refused) -> Error {
        match refused {
            Refused::Error(e) => e,
            Refused::NoSpace { wanted, used, limit } => {
                add(&self.counters.refused, 1);
                Error::NoSpace { bucket: bucket.to_string(), key: key.to_string(), wanted, used, limit }
            }
        }
    }

    /// Frees the copies of an object that the catalog has forgotten: here at once, elsewhere in the background.
    fn release(self: &Arc<Self>, meta: ObjectMeta) {
        self.free(meta.id);
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
            if let (Some(location), Some(persist)) = (&meta.persisted, &inner.persist) {
                if let Err(e) = persist.delete(location).await {
                    tracing::warn!(%location, error = %e, "a deleted object stays in the persistency tier");
                }
            }
        });
    }

    /// Tells the catalog of a sealed file. Runs to its end once started: its outcome decides about the file.
    async fn commit(self: Arc<Self>, bucket: BucketName, key: Key, local: Local, if_absent: bool) -> Result<ObjectMeta> {
        let (id, size, checksum) = (local.id, local.size, local.checksum);
        // From the moment the catalog has it, peers may ask for it, and it must outlive this process.
        local.keep();
        lock(&self.sealing).insert(id);
        lock(&self.held).insert(id, Arc::new(local));
        let mut wait = SEAL_WAIT;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let new = NewObject { id, size, checksum, site: self.site.clone(), if_absent };
            match self.catalog.seal(&bucket, &key, new).await {
                Ok(sealed) => {
                    lock(&self.sealing).remove(&id);
                    add(&self.counters.sealed, 1);
                    add(&self.counters.sealed_bytes, size);
                    if let Some(old) = sealed.replaced {
                        self.release(old);
                    }
                    return Ok(sealed.object);
                }
                Err(e) if e.is_uncertain() && attempt < SEAL_TRIES => {
                    tracing::warn!(%bucket, %key, attempt, error = %e, "the namenode's answer to a seal is missing; asking again");
                    tokio::time::sleep(wait).await;
                    wait *= 2;
                }
                // The catalog may have it. The next start finds out; until then the file stays.
                Err(e) if e.is_uncertain() => return Err(e),
                Err(e) => {
                    self.free(id);
                    lock(&self.sealing).remove(&id);
                    return Err(e);
                }
            }
        }
    }

    /// Opens exactly this epoch.
    async fn open(self: &Arc<Self>, meta: &ObjectMeta) -> Result<Object> {
        if let Some(local) = self.held(meta.id) {
            match map(meta.clone(), local).await {
                Ok(object) => {
                    add(&self.counters.opened_local, 1);
                    return Ok(object);
                }
                Err(e @ Error::Damaged { .. }) => self.discard(meta, e).await?,
                Err(e) => return Err(e),
            }
        }
        self.fetch(meta).await
    }

    /// Gives up a damaged copy, if others have the object. Else the error stands and the file stays for who wants to save it.
    async fn discard(&self, meta: &ObjectMeta, error: Error) -> Result<()> {
        match self.catalog.drop_holder(&meta.bucket, &meta.key, meta.epoch, &self.site).await {
            Ok(_) => {
                tracing::error!(%error, "fetching another copy");
                self.free(meta.id);
                Ok(())
            }
            Err(refused) => {
                tracing::error!(%error, %refused, "a damaged copy can't be replaced");
                Err(error)
            }
        }
    }

    /// Gets a copy from wherever there is one, keeps and opens it.
    async fn fetch(self: &Arc<Self>, meta: &ObjectMeta) -> Result<Object> {
        let turn = self.turn(meta.id);
        let _turn = turn.lock().await;
        if let Some(local) = self.held(meta.id) {
            return map(meta.clone(), local).await;
        }
        let mut tried = Vec::new();
        let others = meta.sites.iter().filter(|holder| holder.site != self.site);
        for holder in others {
            if holder.address.is_empty() {
                tried.push(format!("site {}: its address is not known", holder.site));
                continue;
            }
            match self.receive(meta, self.from_peer(meta, holder)).await {
                Ok(local) => return self.adopt(meta, local).await,
                Err(e @ Error::NoSpace { .. }) => return Err(e),
                Err(e) => tried.push(format!("site {}: {e}", holder.site)),
            }
        }
        match (&meta.persisted, &self.persist) {
            (Some(location), Some(persist)) => match self.receive(meta, self.from_persist(meta, persist, location)).await {
                Ok(local) => return self.adopt(meta, local).await,
                Err(e @ Error::NoSpace { .. }) => return Err(e),
                Err(e) => tried.push(e.to_string()),
            },
            (Some(_), None) => tried.push("it is in a persistency tier that this site doesn't have".into()),
            (None, _) => {}
        }
        if tried.is_empty() {
            tried.push(format!("the catalog names no copy but the one on site {}, which is lost", self.site));
        }
        Err(Error::Unreachable { bucket: meta.bucket.to_string(), key: meta.key.to_string(), tried: tried.join("; ") })
    }

    async fn from_peer(&self, meta: &ObjectMeta, holder: &Holder) -> Result<Draft> {
        let mut client = PeerClient::dial(&self.dialer, &holder.site, &holder.address).await?;
        let mut download = client.get_copy(meta).await?;
        let mut draft = self.draft(meta)?;
        while let Some(chunk) = download.chunk().await? {
            let done;
            (draft, done) = append(draft, chunk).await?;
            done.map_err(|refused| self.refused(&meta.bucket, &meta.key, refused))?;
        }
        Ok(draft)
    }

    async fn from_persist(&self, meta: &ObjectMeta, persist: &Persist, location: &str) -> Result<Draft> {
        let mut draft = self.draft(meta)?;
        let silent = |_| Error::Remote {
            kind: Kind::DeadlineExceeded,
            message: format!("{persist} sent nothing of {location} for {} s", PERSIST_SILENCE.as_secs()),
        };
        let mut stream = tokio::time::timeout(PERSIST_SILENCE, persist.get(location)).await.map_err(silent)??;
        while let Some(chunk) = tokio::time::timeout(PERSIST_SILENCE, stream.try_next()).await.map_err(silent)?? {
            if draft.len() + chunk.len() as u64 > meta.size {
                return Err(damaged(meta, format!("in {persist}"), "it is longer than it should be".into()));
            }
            let done;
            (draft, done) = append(draft, chunk).await?;
            done.map_err(|refused| self.refused(&meta.bucket, &meta.key, refused))?;
        }
        Ok(draft)
    }

    /// A place for a copy, with its space reserved before the first byte comes.
    fn draft(&self, meta: &ObjectMeta) -> Result<Draft> {
        let mut draft = self.folder.create(meta.id)?;
        draft.reserve(meta.size).map_err(|refused| self.refused(&meta.bucket, &meta.key, refused))?;
        Ok(draft)
    }

    /// Seals what came, if it is what the catalog says.
    async fn receive(&self, meta: &ObjectMeta, draft: impl Future<Output = Result<Draft>>) -> Result<Local> {
        let draft = draft.await?;
        let local = compute(move || draft.seal()).await??;
        if local.size != meta.size || local.checksum != meta.checksum {
            let found = format!("{} bytes of {} came, with checksum {:016x}", local.size, meta.size, local.checksum);
            return Err(damaged(meta, "on its way or at its source".into(), found));
        }
        Ok(local)
    }

    /// Keeps a fetched copy if the object is still there, and opens it in any case.
    async fn adopt(&self, meta: &ObjectMeta, local: Local) -> Result<Object> {
        add(&self.counters.fetched, 1);
        add(&self.counters.fetched_bytes, local.size);
        local.keep();
        let local = Arc::new(local);
        lock(&self.held).insert(meta.id, local.clone());
        match self.catalog.add_holder(&meta.bucket, &meta.key, meta.epoch, &self.site).await {
            Ok(_) => {}
            // If the catalog counts this copy, it must stay; if not, a sweep finds it.
            Err(e) if e.is_uncertain() => {
                tracing::warn!(bucket = %meta.bucket, key = %meta.key, error = %e, "a copy may not be recorded");
            }
            // Replaced, deleted or renamed meanwhile: for this reader only.
            Err(_) => {
                self.free(meta.id);
            }
        }
        map(meta.clone(), local).await
    }

    /// Uploads one object and frees the copy here. False: there was nothing to do, or the object changed meanwhile.
    async fn spill(self: &Arc<Self>, persist: &Persist, meta: &ObjectMeta) -> Result<bool> {
        let turn = self.turn(meta.id);
        let _turn = turn.lock().await;
        let Some(local) = self.held(meta.id) else { return Ok(false) };
        let uploaded = match &meta.persisted {
            Some(location) => persist.size(location).await.is_ok_and(|size| size == meta.size),
            None => false,
        };
        if !uploaded {
            let object = map(meta.clone(), local).await?;
            let location = persist.put(meta.id, Bytes::from_owner(object), meta.checksum).await?;
            if let Err(e) = self.catalog.mark_persisted(&meta.bucket, &meta.key, meta.epoch, &location).await {
                if e.is_uncertain() {
                    return Err(e);
                }
                // Renamed, it may be uploaded by others at this same place; only what is gone for good is removed.
                if self.catalog.find(meta.id).await?.is_none() {
                    persist.delete(&location).await?;
                }
                return Ok(false);
            }
        }
        match self.catalog.drop_holder(&meta.bucket, &meta.key, meta.epoch, &self.site).await {
            Ok(_) => {}
            Err(e) if matches!(e.kind(), Kind::NotFound | Kind::FailedPrecondition) => return Ok(false),
            Err(e) => return Err(e),
        }
        self.free(meta.id);
        add(&self.counters.spilled, 1);
        add(&self.counters.spilled_bytes, meta.size);
        Ok(true)
    }
}

fn damaged(meta: &ObjectMeta, place: String, found: String) -> Error {
    Error::Damaged { bucket: meta.bucket.to_string(), key: meta.key.to_string(), place, found }
}

/// An object being written. Its calls wait for the disk, so tasks should make them through `spawn_blocking` when they are large.
///
/// Dropped without [`Writer::seal`], nothing remains of it.
pub struct Writer {
    inner: Arc<Inner>,
    bucket: BucketName,
    key: Key,
    if_absent: bool,
    draft: Draft,
}

impl Writer {
    pub fn bucket(&self) -> &BucketName {
        &self.bucket
    }
    pub fn key(&self) -> &Key {
        &self.key
    }
    pub fn id(&self) -> ObjectId {
        self.draft.id
    }

    /// Writes anywhere; a gap reads as zeros. Refused as a whole if the space limit would be passed.
    pub fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        self.draft.write_at(offset, data).map_err(|refused| self.inner.refused(&self.bucket, &self.key, refused))
    }

    /// Takes the space for `len` bytes before they are written.
    pub fn reserve(&mut self, len: u64) -> Result<()> {
        self.draft.reserve(len).map_err(|refused| self.inner.refused(&self.bucket, &self.key, refused))
    }

    /// Reads what was written; fewer bytes than asked for only at the end.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        if offset >= self.len() {
            return Ok(0);
        }
        let n = buf.len().min(usize::try_from(self.len() - offset).unwrap_or(usize::MAX));
        self.draft.read_at(offset, &mut buf[..n])
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.draft.len()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Cuts the object or extends it with zeros.
    pub fn set_len(&mut self, len: u64) -> Result<()> {
        self.draft.set_len(len).map_err(|refused| self.inner.refused(&self.bucket, &self.key, refused))
    }

    /// Makes the object durable, then visible.
    pub async fn seal(self) -> Result<ObjectMeta> {
        self.seal_if(None).await
    }

    /// Seals only what has this checksum, if one is given.
    pub(crate) async fn seal_if(self, checksum: Option<u64>) -> Result<ObjectMeta> {
        let Writer { inner, bucket, key, if_absent, draft } = self;
        let local = compute(move || draft.seal()).await??;
        if let Some(wanted) = checksum.filter(|wanted| *wanted != local.checksum) {
            return Err(Error::Damaged {
                bucket: bucket.to_string(),
                key: key.to_string(),
                place: "on its way".into(),
                found: format!("checksum {:016x} came, {wanted:016x} was sent", local.checksum),
            });
        }
        // A task of its own, so that a caller who stops waiting doesn't stop it half-way.
        joined(tokio::spawn(inner.commit(bucket, key, local, if_absent)).await)?
    }

    /// [`Writer::seal`] for a plain thread. Panics on a thread of the runtime.
    pub fn seal_blocking(self) -> Result<ObjectMeta> {
        let Writer { inner, bucket, key, if_absent, draft } = self;
        let local = draft.seal()?;
        let handle = inner.handle.clone();
        handle.block_on(inner.commit(bucket, key, local, if_absent))
    }

    /// Drops what was written.
    pub fn abort(self) {}
}

/// A node's calls for plain threads. They panic on a thread of the runtime, which must not be blocked.
///
/// A program knows nothing of hubs that start again and agents that come back: what fails because somebody is away is tried again for
/// [`AWAY_MAX`].
#[derive(Clone)]
pub struct Blocking {
    node: Node,
}

impl Blocking {
    fn wait<T>(&self, call: impl Future<Output = T>) -> T {
        self.node.inner.handle.block_on(call)
    }

    /// Calls until the answer is not that somebody is away. The call is told whether an earlier one may have had its effect.
    fn patient<T, F: Future<Output = Result<T>>>(&self, call: impl Fn(bool) -> F) -> Result<T> {
        self.wait(async {
            let end = tokio::time::Instant::now() + AWAY_MAX;
            let mut again = false;
            loop {
                match call(again).await {
                    Err(e) if matches!(e.kind(), Kind::Unavailable | Kind::DeadlineExceeded) && tokio::time::Instant::now() < end => {
                        tracing::debug!(error = %e, "tried again");
                        again = true;
                        tokio::time::sleep(AWAY_PAUSE).await;
                    }
                    answer => return answer,
                }
            }
        })
    }

    pub fn node(&self) -> &Node {
        &self.node
    }
    pub fn create_bucket(&self, bucket: &BucketName) -> Result<bool> {
        self.patient(|_| self.node.create_bucket(bucket))
    }
    pub fn buckets(&self) -> Result<Vec<BucketName>> {
        self.patient(|_| self.node.buckets())
    }
    pub fn create(&self, bucket: &BucketName, key: &Key) -> Result<Writer> {
        self.patient(|_| self.node.create(bucket, key))
    }
    pub fn create_new(&self, bucket: &BucketName, key: &Key) -> Result<Writer> {
        self.patient(|_| self.node.create_new(bucket, key))
    }
    pub fn seal(&self, writer: Writer) -> Result<ObjectMeta> {
        writer.seal_blocking()
    }

    /// After the catalog's answer, an object that is here is mapped by this very thread.
    pub fn open(&self, bucket: &BucketName, key: &Key) -> Result<Object> {
        let inner = &self.node.inner;
        let meta = self.patient(|_| inner.catalog.lookup(bucket, key))?;
        if let Some(local) = inner.held(meta.id) {
            match Object::new(meta, local) {
                Ok(object) => {
                    add(&inner.counters.opened_local, 1);
                    return Ok(object);
                }
                Err(Error::Damaged { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        self.patient(|_| self.node.open_object(bucket, key))
    }
    pub fn stat(&self, bucket: &BucketName, key: &Key) -> Result<ObjectMeta> {
        self.patient(|_| self.node.stat(bucket, key))
    }
    pub fn list(&self, bucket: &BucketName, prefix: &str, delimiter: Option<char>, page: Page) -> Result<Listing> {
        self.patient(|_| self.node.list(bucket, prefix, delimiter, page.clone()))
    }
    pub fn delete(&self, bucket: &BucketName, key: &Key) -> Result<ObjectMeta> {
        let meta = self.stat(bucket, key)?;
        self.patient(|again| {
            let known = meta.clone();
            async move {
                match self.node.delete(bucket, key).await {
                    // By the call whose answer was lost.
                    Err(e) if again && e.kind() == Kind::NotFound => Ok(known),
                    answer => answer,
                }
            }
        })
    }
    pub fn rename(&self, bucket: &BucketName, from: &Key, to: &Key) -> Result<ObjectMeta> {
        let meta = self.stat(bucket, from)?;
        self.patient(|again| async move {
            match self.node.rename(bucket, from, to).await {
                Err(e) if again && e.kind() == Kind::NotFound => match self.node.stat(bucket, to).await {
                    // By the call whose answer was lost.
                    Ok(there) if there.id == meta.id => Ok(there),
                    _ => Err(e),
                },
                answer => answer,
            }
        })
    }
    pub fn spill(&self, bucket: &BucketName, prefix: &str) -> Result<(u64, u64)> {
        self.wait(self.node.spill(bucket, prefix))
    }
}
