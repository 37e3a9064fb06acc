//! Objects as the hub sees them: the catalog (GEDS' namenode, [`crate::names`]) is here, the bytes are at the sites.
//!
//! ```text
//! PUT ──▶ hub ── geds/1 ──▶ the agent of a site, which seals it and tells the catalog
//! GET ◀── hub ◀─ geds/1 ─── a connected holder, or any connected site when only the persistency tier has it
//! ```
//!
//! A bucket that a site binds to a place in its persistency tier has more in it than the catalog knows; what it is asked about, the hub asks that site.
//!
//! Bytes pass through in chunks; no object is ever whole in the hub's memory. The hub keeps no copy and no object of its own, so
//! what no connected site can reach can't be read here either.

mod follow;

use crate::{
    Error,
    hub::{Hub, Site},
    names::{Names, Standby},
    state,
    tiers::{SiteTiers, Tiers},
};
use base::{
    Kind, SiteId,
    identity::{Dialer, Identity},
};
use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use geds::{Attributes, BucketName, Catalog, Deadline, Event, Happened, Imported, Key, Namenode, ObjectMeta, Page, PeerClient, Range, Searches};
use serde::Serialize;
use sqlx::Row;
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// The bucket of snapshots.
pub const CHECKPOINTS: &str = "checkpoints";
/// Objects in one listing; `after` goes on.
pub const LIST_MAX: usize = 10_000;

/// How long a site may take to tell its figures to people who look at all sites at once.
const FIGURES_MAX: Duration = Duration::from_secs(2);

/// Bytes on their way in.
pub type Content = BoxStream<'static, Result<Bytes, String>>;
/// Bytes on their way out.
pub type Download = BoxStream<'static, geds::Result<Bytes>>;

/// The catalog, and the way to the sites' stores.
pub struct Objects {
    pub catalog: Arc<dyn Catalog>,
    pub names: Names,
    dialer: Dialer,
    /// Places of those who follow what grows, and what they look for.
    followed: Arc<follow::Places>,
    searches: Searches,
    /// The catalog of an older installation.
    older: PathBuf,
}

impl Objects {
    /// Opens the catalog, `names` in the hub's folder. `own` is the hub's identity; `address`: where the standby's site was last.
    pub async fn open(folder: &Path, own: &Identity, standby: Option<Standby>, address: String) -> Result<Objects, Error> {
        let (names, catalog) = Names::open(&folder.join("names"), own, standby, address).await?;
        Ok(Objects { catalog, names, dialer: own.dialer().map_err(Error::internal)?, followed: Arc::default(), searches: Searches::default(), older: folder.join("geds.sqlite") })
    }

    /// Makes the catalog what the hub needs, and gives the jobs that hold leases. Of a pair it can fail until one of the two leads; done twice is done once.
    pub async fn settle(&self) -> Result<Vec<String>, Error> {
        if let Some(own) = self.names.leading() {
            take_over(&self.older, &own).await?;
        }
        self.catalog.create_bucket(&BucketName::new(CHECKPOINTS)?).await?;
        Ok(self.catalog.jobs().await?)
    }
}

/// Takes over the catalog of an installation that kept it in SQLite, if there is one, and puts its file aside. Broken off in its middle, it begins again:
/// what was taken over is known.
async fn take_over(file: &Path, catalog: &Namenode) -> Result<(), Error> {
    if !file.exists() {
        return Ok(());
    }
    let pool = state::pool(file).await?;
    for bucket in sqlx::query_scalar::<_, String>("SELECT name FROM geds_buckets").fetch_all(&pool).await? {
        catalog.create_bucket(&BucketName::new(bucket)?).await?;
    }
    let rows = sqlx::query(
        "SELECT o.bucket, o.key, o.id, o.epoch, o.size, o.checksum, o.persisted, o.created_ms, \
         (SELECT group_concat(h.site) FROM geds_holders AS h WHERE h.id = o.id) AS sites FROM geds_objects AS o ORDER BY o.epoch",
    );
    let mut rows = rows.fetch(&pool);
    let mut waiting = Vec::new();
    let mut objects = 0;
    loop {
        let row = rows.next().await.transpose()?;
        let end = row.is_none();
        if let Some(row) = row {
            let number = |column| row.try_get::<i64, _>(column).map(|n| u64::from_ne_bytes(n.to_ne_bytes()));
            let sites: Option<String> = row.try_get("sites")?;
            let object = ObjectMeta {
                bucket: BucketName::new(row.try_get::<String, _>("bucket")?)?,
                key: Key::new(row.try_get::<String, _>("key")?)?,
                id: row.try_get::<String, _>("id")?.parse()?,
                epoch: number("epoch")?,
                size: number("size")?,
                state: geds::State::Sealed,
                checksum: number("checksum")?,
                sites: Vec::new(),
                persisted: row.try_get("persisted")?,
                created_ms: number("created_ms")?,
            };
            // What is not a site's name was not written by us; a holder that nobody can dial is as good as none.
            let sites = sites.iter().flat_map(|all| all.split(',')).filter_map(|site| SiteId::new(site).ok()).collect();
            waiting.push(catalog.import(Imported { object, sites }));
        }
        // Together, so that they share the waits for the disk.
        if end || waiting.len() == 1000 {
            objects += waiting.len();
            futures::future::try_join_all(waiting.drain(..)).await?;
        }
        if end {
            break;
        }
    }
    drop(rows);
    pool.close().await;
    let aside = file.with_extension("sqlite.imported");
    std::fs::rename(file, &aside).map_err(|e| Error::internal(format!("put {} aside: {e}", file.display())))?;
    tracing::info!(objects, aside = %aside.display(), "the catalog was taken over from SQLite");
    Ok(())
}

/// An object as people see it.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Object {
    pub bucket: String,
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// `sealed`: the catalog knows no others.
    pub state: &'static str,
    /// Who holds a copy.
    pub sites: Vec<String>,
    /// It is in the persistency tier.
    pub persisted: bool,
    /// Rises with each writing of the key.
    pub epoch: u64,
    pub created_ms: u64,
}

/// An object with what its name carries besides.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Detail {
    #[serde(flatten)]
    pub object: Object,
    /// xxh3 of the content, in hexadecimal.
    pub checksum: String,
    /// The user's own. What is no UTF-8 in it is replaced.
    pub metadata: String,
    /// When it goes by itself; absent: it stays.
    pub expires_ms: Option<u64>,
    /// It goes when this job ends.
    pub job: Option<String>,
}

/// How many objects an operation was about, and their bytes.
#[derive(Clone, Copy, Debug, Serialize, utoipa::ToSchema)]
pub struct Counted {
    pub objects: u64,
    pub bytes: u64,
}

/// Something that has happened in a bucket.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Happening {
    /// Counts the bucket's changes, without a gap.
    pub seq: u64,
    /// `sealed`: the key means this content now; `removed`; `changed`: its metadata are others. `prefix_sealed`: all at the prefix and below it may be new; `prefix_removed`.
    pub what: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

impl From<Event> for Happening {
    fn from(event: Event) -> Happening {
        let none = |what| Happening { seq: event.seq, what, key: None, prefix: None, epoch: None, size: None };
        match event.what {
            Happened::Sealed { key, epoch, size, .. } => Happening { key: Some(key.into()), epoch: Some(epoch), size: Some(size), ..none("sealed") },
            Happened::Removed { key } => Happening { key: Some(key.into()), ..none("removed") },
            Happened::Changed { key } => Happening { key: Some(key.into()), ..none("changed") },
            Happened::PrefixSealed { prefix } => Happening { prefix: Some(prefix), ..none("prefix_sealed") },
            Happened::PrefixRemoved { prefix } => Happening { prefix: Some(prefix), ..none("prefix_removed") },
        }
    }
}

/// What has happened in a bucket after a token.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Happenings {
    pub events: Vec<Happening>,
    /// The token to go on with; good over restarts of the hub.
    pub next: u64,
    /// The token was too old, or of another life of the bucket: events are missing. List the bucket, then go on from `next`.
    pub resync: bool,
}

/// How an object is put.
#[derive(Clone, Debug, Default)]
pub struct Put {
    /// At this site; without one, at the first connected one that takes it.
    pub site: Option<String>,
    /// Bytes, if that is known: lets a site refuse before the first one.
    pub size: Option<u64>,
    /// Fail if the key is taken.
    pub if_absent: bool,
    pub attributes: Attributes,
}

impl From<ObjectMeta> for Object {
    fn from(meta: ObjectMeta) -> Object {
        Object {
            bucket: meta.bucket.into(),
            key: meta.key.into(),
            size: meta.size,
            state: "sealed",
            sites: meta.sites.into_iter().map(|h| h.site.into()).collect(),
            persisted: meta.persisted.is_some(),
            epoch: meta.epoch,
            created_ms: meta.created_ms,
        }
    }
}

/// A connected site's store.
#[derive(Clone, Debug)]
struct Store {
    site: SiteId,
    address: String,
}

fn list(stores: &[Store]) -> String {
    let names: Vec<&str> = stores.iter().map(|s| s.site.as_str()).collect();
    if names.is_empty() { "no site is connected".into() } else { format!("connected sites: {}", names.join(", ")) }
}

/// The last failure of several, with what was tried before it.
fn give_up(error: geds::Error, mut tried: Vec<String>) -> Error {
    let kind = error.kind();
    tried.push(error.to_string());
    Error::new(kind, tried.join("; "))
}

/// An empty buffer with room for this many bytes; an error, not the hub's end, if the machine hasn't the memory.
pub fn room(bytes: u64) -> Result<Vec<u8>, Error> {
    let mut buffer = Vec::new();
    let reserved = usize::try_from(bytes).ok().and_then(|n| buffer.try_reserve_exact(n).ok());
    reserved.ok_or_else(|| Error::new(Kind::ResourceExhausted, format!("the hub's machine has no memory for {bytes} bytes")))?;
    Ok(buffer)
}

impl Hub {
    /// The stores of the connected sites, in the order of their names.
    async fn stores(&self) -> Vec<Store> {
        let world = self.world.lock().await;
        let there = world.sites.iter().filter(|(_, s)| s.connected() && !s.hello.data_address.is_empty());
        there.filter_map(|(name, s)| Some(Store { site: SiteId::new(name.as_str()).ok()?, address: s.hello.data_address.clone() })).collect()
    }

    /// Why there is no store of this site.
    async fn missing(&self, site: &str, there: &[Store]) -> Error {
        match self.world.lock().await.sites.get(site) {
            None => Error::new(Kind::NotFound, format!("there is no site {site:?}; {}", list(there))),
            Some(s) if Site::connected(s) => Error::new(Kind::FailedPrecondition, format!("site {site:?} has no data port; {}", list(there))),
            Some(_) => Error::new(Kind::Unavailable, format!("site {site:?} is not connected; {}", list(there))),
        }
    }

    async fn dial(&self, store: &Store) -> geds::Result<PeerClient> {
        PeerClient::dial(&self.objects.dialer, &store.site, &store.address).await
    }

    /// The metrics of a site's store, as Prometheus reads them.
    pub async fn store_metrics(&self, site: &str) -> Result<String, Error> {
        let stores = self.stores().await;
        let Some(store) = stores.iter().find(|s| s.site.as_str() == site) else { return Err(self.missing(site, &stores).await) };
        Ok(self.dial(store).await?.metrics().await?)
    }

    /// The tiers of every connected site's store, by its name. One that is silent holds up the others for two seconds at most.
    pub async fn tiers(&self) -> Vec<SiteTiers> {
        let stores = self.stores().await;
        let each = stores.iter().map(|store| async move {
            let asked = async { self.dial(store).await?.metrics().await };
            let told = match tokio::time::timeout(FIGURES_MAX, asked).await {
                Ok(Ok(text)) => Tiers::read(&text),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("it has not answered for {} s", FIGURES_MAX.as_secs())),
            };
            let site = store.site.to_string();
            match told {
                Ok(tiers) => SiteTiers { site, tiers: Some(tiers), reason: String::new() },
                Err(reason) => SiteTiers { site, tiers: None, reason },
            }
        });
        futures::future::join_all(each).await
    }

    /// The connected sites that show more of a bucket than the catalog knows.
    async fn binding(&self, bucket: &BucketName) -> Vec<Store> {
        let bound: Vec<String> = {
            let world = self.world.lock().await;
            let there = world.sites.iter().filter(|(_, site)| site.hello.bound_buckets.iter().any(|name| name == bucket.as_str()));
            there.map(|(name, _)| name.clone()).collect()
        };
        if bound.is_empty() {
            return Vec::new();
        }
        self.stores().await.into_iter().filter(|store| bound.iter().any(|name| name == store.site.as_str())).collect()
    }

    /// The connected sites to ask for an object: its holders, then the others if `others`.
    async fn near(&self, meta: &ObjectMeta, others: bool) -> Vec<Store> {
        let bound = if meta.sites.is_empty() { self.binding(&meta.bucket).await } else { Vec::new() };
        let holds = |store: &Store| meta.sites.iter().any(|h| h.site == store.site) || bound.iter().any(|b| b.site == store.site);
        let (mut holders, rest): (Vec<_>, Vec<_>) = self.stores().await.into_iter().partition(holds);
        if others {
            holders.extend(rest);
        }
        holders
    }

    /// Writes an object. Makes the bucket.
    pub async fn put_object(&self, bucket: &str, key: &str, put: &Put, content: &mut Content) -> Result<Object, Error> {
        let (bucket, key) = (BucketName::new(bucket)?, Key::new(key)?);
        let mut stores = self.stores().await;
        if let Some(site) = put.site.as_deref() {
            let Some(store) = stores.iter().find(|s| s.site.as_str() == site).cloned() else { return Err(self.missing(site, &stores).await) };
            stores = vec![store];
        }
        self.objects.catalog.create_bucket(&bucket).await?;
        let begun = AtomicBool::new(false);
        // An empty one is at its end before it has begun, and another site may ask again.
        let mut content = content.inspect(|_| begun.store(true, Ordering::Relaxed)).fuse();
        let (mut tried, last) = (Vec::new(), stores.len().wrapping_sub(1));
        for (i, store) in stores.iter().enumerate() {
            let sent = async {
                let mut client = self.dial(store).await?;
                client.put_with(&bucket, &key, put.size, put.if_absent, put.attributes.clone(), &mut content).await
            };
            match sent.await {
                Ok(meta) => return Ok(meta.into()),
                // Another site would say the same.
                Err(e) if matches!(e.kind(), Kind::AlreadyExists | Kind::InvalidArgument) => return Err(give_up(e, tried)),
                // What has been taken from the stream can't be sent again.
                Err(e) if i == last || begun.load(Ordering::Relaxed) => return Err(give_up(e, tried)),
                Err(e) => tried.push(e.to_string()),
            }
        }
        Err(Error::new(Kind::Unavailable, format!("no site is connected that could keep {bucket}/{key}; start an agent")))
    }

    /// Writes bytes that are here as an object.
    pub async fn put_bytes(&self, bucket: &str, key: &str, site: &str, bytes: Vec<u8>) -> Result<Object, Error> {
        let put = Put { site: Some(site.into()), size: Some(bytes.len() as u64), ..Put::default() };
        let mut content: Content = futures::stream::iter([Ok(bytes.into())]).boxed();
        self.put_object(bucket, key, &put, &mut content).await
    }

    /// What an object is.
    pub async fn stat_object(&self, bucket: &str, key: &str) -> Result<ObjectMeta, Error> {
        let (bucket, key) = (BucketName::new(bucket)?, Key::new(key)?);
        let missing = match self.objects.catalog.lookup(&bucket, &key).await {
            Err(e) if e.kind() == Kind::NotFound => e,
            found => return Ok(found?),
        };
        let mut last = missing;
        for store in self.binding(&bucket).await {
            match async { self.dial(&store).await?.stat(&bucket, &key).await }.await {
                Ok(meta) => return Ok(meta),
                Err(e) => last = e,
            }
        }
        Err(last.into())
    }

    /// What an object is, and what its name carries besides.
    pub async fn describe_object(&self, bucket: &str, key: &str) -> Result<Detail, Error> {
        let meta = self.stat_object(bucket, key).await?;
        let attributes = match self.objects.catalog.attributes(&meta.bucket, &meta.key).await {
            // It is not the catalog's, or has gone meanwhile.
            Err(e) if e.kind() == Kind::NotFound => Attributes::default(),
            attributes => attributes?,
        };
        let Attributes { metadata, expires_ms, job } = attributes;
        Ok(Detail {
            checksum: format!("{:016x}", meta.checksum),
            object: meta.into(),
            metadata: String::from_utf8_lossy(&metadata).into_owned(),
            expires_ms: (expires_ms > 0).then_some(expires_ms),
            job,
        })
    }

    /// Removes `prefix` and all below it in one step. Sites free their copies a few seconds later.
    pub async fn delete_objects(&self, bucket: &str, prefix: &str) -> Result<Counted, Error> {
        let (objects, bytes) = self.objects.catalog.remove_prefix(&BucketName::new(bucket)?, prefix).await?;
        Ok(Counted { objects, bytes })
    }

    /// Gives `from` and all below it the names at `to` in one step, instead of their own or besides; no data is moved. Makes the bucket.
    /// `if_absent`, of a rename: only if nothing has a name there.
    pub async fn rename_objects(&self, bucket: &str, from: &str, to_bucket: &str, to: &str, copy: bool, if_absent: bool) -> Result<Counted, Error> {
        let (bucket, to_bucket, catalog) = (BucketName::new(bucket)?, BucketName::new(to_bucket)?, &self.objects.catalog);
        catalog.create_bucket(&to_bucket).await?;
        let (objects, bytes) = match copy {
            true => catalog.copy_prefix(&bucket, from, &to_bucket, to).await?,
            false => catalog.rename_prefix(&bucket, from, &to_bucket, to, if_absent).await?,
        };
        Ok(Counted { objects, bytes })
    }

    /// Gives one object another name, or with `copy` a further one, that nobody has; no data is moved. Makes the bucket.
    pub async fn name_object(&self, bucket: &str, key: &str, to_bucket: &str, to: &str, copy: bool) -> Result<Object, Error> {
        let (bucket, key, to_bucket, to, catalog) = (BucketName::new(bucket)?, Key::new(key)?, BucketName::new(to_bucket)?, Key::new(to)?, &self.objects.catalog);
        catalog.create_bucket(&to_bucket).await?;
        let done = match copy {
            true => catalog.copy(&bucket, &key, &to_bucket, &to, true).await?,
            false => catalog.rename_to(&bucket, &key, &to_bucket, &to, true).await?,
        };
        Ok(done.object.into())
    }

    /// Reads an object: what it is, and its bytes, exactly `size` of them unless the stream ends with an error.
    pub async fn get_object(&self, bucket: &str, key: &str) -> Result<(Object, Download), Error> {
        let meta = self.stat_object(bucket, key).await?;
        let (object, _, bytes) = self.read_object(&meta, Range::default()).await?;
        Ok((object, bytes))
    }

    /// Some bytes of what has the name now, cut at its end: what it is, how many they are, and they.
    pub async fn read_object(&self, meta: &ObjectMeta, range: Range) -> Result<(Object, u64, Download), Error> {
        let (bucket, key) = (&meta.bucket, &meta.key);
        let mut tried = Vec::new();
        let mut failed = None;
        for store in self.near(meta, meta.persisted.is_some()).await {
            let got = async { self.dial(&store).await?.get_stream(&meta.bucket, &meta.key, range).await };
            match got.await {
                Ok((meta, len, bytes)) => return Ok((meta.into(), len, bytes)),
                Err(e) => tried.extend(failed.replace(e).map(|e: geds::Error| e.to_string())),
            }
        }
        if let Some(e) = failed {
            return Err(give_up(e, tried));
        }
        let at: Vec<&str> = meta.sites.iter().map(|h| h.site.as_str()).collect();
        let place = match (at.as_slice(), &meta.persisted) {
            (_, Some(_)) => "in the persistency tier, and no site is connected that could fetch it".to_string(),
            (sites, None) => format!("at {} only, which is not connected", sites.join(", ")),
        };
        Err(Error::new(Kind::Unavailable, format!("object {bucket}/{key} is {place}")))
    }

    /// A whole object of at most `max` bytes.
    pub async fn get_bytes(&self, bucket: &str, key: &str, max: u64) -> Result<Vec<u8>, Error> {
        let (object, mut bytes) = self.get_object(bucket, key).await?;
        if object.size > max {
            return Err(Error::new(Kind::ResourceExhausted, format!("object {bucket}/{key} has {} bytes; there is room for {max}", object.size)));
        }
        let mut whole = room(object.size)?;
        while let Some(chunk) = bytes.next().await {
            whole.extend_from_slice(&chunk?);
        }
        Ok(whole)
    }

    /// Removes an object everywhere: a connected site does it, because sites reach the persistency tier.
    pub async fn delete_object(&self, bucket: &str, key: &str) -> Result<Object, Error> {
        let meta = self.stat_object(bucket, key).await?;
        let mut tried = Vec::new();
        for store in self.near(&meta, true).await {
            let removed = async { self.dial(&store).await?.remove(&meta.bucket, &meta.key).await };
            match removed.await {
                Ok(meta) => return Ok(meta.into()),
                // The answer of the one before was lost, not its effect.
                Err(e) if e.kind() == Kind::NotFound && !tried.is_empty() => return Ok(meta.into()),
                Err(e) if e.kind() == Kind::Unavailable => tried.push(e.to_string()),
                Err(e) => return Err(give_up(e, tried)),
            }
        }
        if tried.is_empty() {
            tried.push("no site is connected that could remove it".into());
        }
        Err(Error::new(Kind::Unavailable, format!("object {bucket}/{key} is not removed: {}", tried.join("; "))))
    }

    /// Moves every connected holder's copy to the persistency tier.
    pub async fn spill_object(&self, bucket: &str, key: &str) -> Result<Object, Error> {
        let meta = self.stat_object(bucket, key).await?;
        let holders = self.near(&meta, false).await;
        if holders.is_empty() && meta.persisted.is_none() {
            let at: Vec<&str> = meta.sites.iter().map(|h| h.site.as_str()).collect();
            return Err(Error::new(Kind::Unavailable, format!("object {bucket}/{key} is at {} only, which is not connected", at.join(", "))));
        }
        for store in &holders {
            self.dial(store).await?.spill(&meta.bucket, key).await?;
        }
        Ok(self.stat_object(bucket, key).await?.into())
    }

    /// Moves the connected sites' copies of `prefix` and all below it to the persistency tier.
    pub async fn spill_objects(&self, bucket: &str, prefix: &str) -> Result<Counted, Error> {
        let bucket = BucketName::new(bucket)?;
        let page = Page { limit: 1, ..Page::default() };
        if self.objects.catalog.list(&bucket, prefix, None, page).await?.objects.is_empty() {
            return Err(Error::new(Kind::NotFound, format!("there is no object at or below {bucket}/{prefix}")));
        }
        let mut counted = Counted { objects: 0, bytes: 0 };
        for store in self.stores().await {
            let (objects, bytes) = self.dial(&store).await?.spill(&bucket, prefix).await?;
            (counted.objects, counted.bytes) = (counted.objects + objects, counted.bytes + bytes);
        }
        Ok(counted)
    }

    /// Has the connected sites upload their copies of `prefix` and all below it, which they keep. What this call uploaded; when it returns without an error, all that was there is in the persistency tier.
    pub async fn flush_objects(&self, bucket: &str, prefix: &str, within: Duration) -> Result<Counted, Error> {
        let bucket = BucketName::new(bucket)?;
        let deadline = Deadline::after(within);
        let what = || format!("the flush of {bucket}/{prefix}");
        let mut counted = Counted { objects: 0, bytes: 0 };
        let mut tried = Vec::new();
        for store in self.stores().await {
            match deadline.keep(what, async { self.dial(&store).await?.flush(&bucket, prefix, deadline.rest()).await }).await {
                Ok((objects, bytes)) => (counted.objects, counted.bytes) = (counted.objects + objects, counted.bytes + bytes),
                // Whether that matters, the catalog says below.
                Err(e) => tried.push(format!("site {}: {e}", store.site)),
            }
        }
        let mut page = Page::default();
        loop {
            let listing = deadline.keep(what, self.objects.catalog.list(&bucket, prefix, None, page)).await?;
            if let Some(left) = listing.objects.iter().find(|meta| meta.persisted.is_none()) {
                let at: Vec<&str> = left.sites.iter().map(|h| h.site.as_str()).collect();
                tried.insert(0, format!("object {bucket}/{} is at {} only", left.key, at.join(", ")));
                return Err(Error::new(Kind::Unavailable, format!("not all is in the persistency tier: {}", tried.join("; "))));
            }
            match listing.next {
                Some(next) => page = Page { start_after: next, ..Page::default() },
                None => return Ok(counted),
            }
        }
    }

    /// What has happened in a bucket after a token; waits for the first of it. Without a token it says which one is that of now.
    pub async fn watch_bucket(&self, bucket: &str, after: Option<u64>, wait: Duration) -> Result<Happenings, Error> {
        let bucket = BucketName::new(bucket)?;
        let watch = self.objects.catalog.watch(&bucket, after.unwrap_or(u64::MAX), wait);
        let watched = Deadline::after(wait).keep(|| format!("the watch of bucket {bucket}"), watch).await?;
        let events = watched.events.into_iter().map(Happening::from).collect();
        Ok(Happenings { events, next: watched.next, resync: watched.resync && after.is_some() })
    }

    /// The objects of a bucket whose key is `prefix` or lies below it, by key, at most `limit`, those after the key `after`.
    pub async fn list_objects(&self, bucket: &str, prefix: &str, after: String, limit: usize) -> Result<Vec<Object>, Error> {
        let bucket = BucketName::new(bucket)?;
        let mut objects = Vec::new();
        let mut start = after;
        let mut binding = self.binding(&bucket).await.into_iter();
        let mut from = binding.next();
        loop {
            let page = Page { start_after: start.clone(), ..Page::default() };
            let listing = match &from {
                None => self.objects.catalog.list(&bucket, prefix, None, page).await?,
                Some(store) => match async { self.dial(store).await?.list(&bucket, prefix, None, page).await }.await {
                    Ok(listing) => listing,
                    Err(e) => match binding.next() {
                        Some(other) => {
                            from = Some(other);
                            continue;
                        }
                        // Half of what is there would be worse than an error.
                        None => return Err(e.into()),
                    },
                },
            };
            objects.extend(listing.objects.into_iter().take(limit - objects.len()).map(Object::from));
            match listing.next {
                Some(next) if objects.len() < limit => start = next,
                _ => return Ok(objects),
            }
        }
    }
}
