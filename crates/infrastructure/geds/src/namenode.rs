//! The namenode: the catalog in memory, durable through a log. It lives in the hub.
//!
//! ```text
//!  Catalog (in process) ─┐                                           ┌─▶ look: `state`, under a shared lock
//!  `serve` (wire) ───────┼─▶ fence, revoke (`leases`) ─▶ queue ──────┴─▶ `commit`: one thread: `log`, then `state`, then the answer; `snapshot`
//! ```
//!
//! A change is answered when it is on disk and applied, in that order; so nobody ever sees what a crash takes back, and all see the same. It never dials
//! anyone: freeing what was replaced is up to the caller, who gets it returned; what goes in bulk becomes garbage that nodes collect. The design and its
//! reasons are in `docs/design/namenode.md`.

mod answers;
mod change;
mod client;
mod commit;
mod direct;
mod leases;
mod log;
mod pair;
mod paired;
mod record;
mod referee;
mod server;
mod snapshot;
mod state;
mod table;
#[cfg(test)]
mod tests;
pub(crate) mod wire;

pub use client::RemoteCatalog;
pub use paired::{Paired, STANDBY_ALPN, Seat};
pub use referee::{Referee, Reign};
pub use server::Caller;
pub use wire::META_ALPN;
pub(crate) use pair::{read_said, some_said};
pub(crate) use wire::{read_ask, read_told, some_frames};

use crate::{
    socket,
    Attributes, BucketName, Catalog, Error, Garbage, Holder, Key, Lease, LeaseHolder, Listing, Mode, NewObject, ObjectId, ObjectMeta, Page, Result,
    Sealed, Watched,
};
use base::{Kind, SiteId, clock::now_ms};
use change::{Answer, Change};
use commit::{Committer, Core, Item, Reply, Walker};
use futures::{FutureExt, future::BoxFuture};
use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, Weak},
    thread::JoinHandle,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
    sync::oneshot,
    task::JoinSet,
};

/// Bytes of log after which a snapshot is made, if the last one is not longer than twice that: 200,000 creations, carried out again within a second at a restart.
const SNAPSHOT_AFTER: u64 = 16 << 20;
/// How often expired names are looked for, and how many go at a time.
const EXPIRY_EVERY: Duration = Duration::from_millis(250);
const EXPIRY_MAX: usize = 1000;
/// Expired names that wait for leases on them at a time.
const ALONE_MAX: usize = 4096;

/// Cheap to clone; all clones are the same. The last one that is dropped closes the folder.
#[derive(Clone)]
pub struct Namenode {
    inner: Arc<Inner>,
}

struct Inner {
    core: Arc<Core>,
    committer: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.core.stop();
        let committer = self.committer.get_mut().unwrap_or_else(|e| e.into_inner()).take();
        // At most one batch and a block of a snapshot: whoever opens the folder next must find it closed.
        if let Some(committer) = committer {
            let _ = committer.join();
        }
    }
}

/// An object of an older catalog.
#[derive(Clone, Debug)]
pub struct Imported {
    pub object: ObjectMeta,
    /// Its holders; their addresses are announced again.
    pub sites: Vec<SiteId>,
}

impl Namenode {
    /// Opens or makes the folder, which one process at a time may use. To be called in a tokio runtime.
    pub async fn open(folder: impl Into<PathBuf>) -> Result<Namenode> {
        Namenode::open_with(folder, SNAPSHOT_AFTER).await
    }

    /// [`Namenode::open`] with other snapshots: after this many bytes of log.
    pub async fn open_with(folder: impl Into<PathBuf>, snapshot_after: u64) -> Result<Namenode> {
        let folder = folder.into();
        paired::alone(&folder)?;
        let ended = |e| Error::Remote { kind: Kind::Internal, message: format!("opening the namenode ended early: {e}") };
        let (core, committer) = tokio::task::spawn_blocking(move || commit::open(folder, snapshot_after)).await.map_err(ended)??;
        Namenode::start(core, committer, Walker::default())
    }

    fn start(core: Arc<Core>, committer: Committer, walker: Walker) -> Result<Namenode> {
        let path = committer.folder.clone();
        let thread = std::thread::Builder::new().name("namenode".into()).spawn(move || committer.run(walker));
        let thread = thread.map_err(|source| Error::File { action: "start a thread for", path, source })?;
        let inner = Arc::new(Inner { core, committer: Mutex::new(Some(thread)) });
        tokio::spawn(expire(Arc::downgrade(&inner)));
        Ok(Namenode { inner })
    }

    /// Finishes what waits and lets go of the folder. Afterwards it still knows what it knew, and takes no changes.
    pub async fn close(&self) {
        self.core().stop();
        let committer = self.inner.committer.lock().unwrap_or_else(|e| e.into_inner()).take();
        if let Some(committer) = committer {
            // An error is a committer that panicked; it holds the folder no more either.
            let _ = tokio::task::spawn_blocking(move || committer.join()).await;
        }
    }

    fn core(&self) -> &Arc<Core> {
        &self.inner.core
    }

    /// Answers a client until it hangs up. To be called after the TLS handshake has chosen [`META_ALPN`] and told who it is, or for a connection that only the site's own user may open.
    pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S, caller: Caller) -> Result<()> {
        let mut stream = stream;
        server::serve(self, &mut stream, caller, false).await.map(drop)
    }

    /// The same on a UNIX socket, where a connection may become one for a thread.
    async fn serve_socket(&self, mut stream: UnixStream, caller: Caller, threads: &Arc<direct::Threads>) -> Result<()> {
        match server::serve(self, &mut stream, caller, true).await? {
            None => Ok(()),
            Some(becomes) => {
                let begun = stream.into_std().and_then(|stream| threads.begin(self.core(), becomes.session, stream, becomes.request));
                begun.map_err(|e| Error::Peer { peer: "a thread that asks the namenode".into(), message: e.to_string() })
            }
        }
    }

    /// Takes clients on a UNIX socket that only this user may open, until this is dropped. They may do what `caller` may.
    pub async fn listen(&self, socket: &Path, caller: Caller) -> Result<()> {
        self.listen_with(socket, caller, Arc::default()).await
    }

    /// `threads`: what connections for threads become; they end when this is dropped and nobody else has them.
    async fn listen_with(&self, socket: &Path, caller: Caller, threads: Arc<direct::Threads>) -> Result<()> {
        let each = |stream| {
            let (namenode, caller, threads) = (self.clone(), caller.clone(), threads.clone());
            async move {
                if let Err(error) = namenode.serve_socket(stream, caller, &threads).await {
                    tracing::debug!(%error, "a client of the namenode");
                }
            }
        };
        socket::serve(socket::listen(socket)?, each).await
    }

    /// Carries out a change: fence, revocations, log, state.
    async fn change(&self, change: Change) -> Result<Answer> {
        let core = self.core();
        change.check()?;
        if let Some(answer) = server::known(core, &change) {
            return Ok(answer);
        }
        let (fence, waits) = server::fence(core, &change);
        if let Some(waits) = waits {
            waits.done().await;
        }
        self.fenced(change, fence).await
    }

    /// Log and state. The fence that it needs is up, and what it revoked void.
    async fn fenced(&self, change: Change, fence: Option<leases::Fence>) -> Result<Answer> {
        let (waiting, answer) = oneshot::channel();
        self.core().enqueue(Item { change, once: None, reply: Reply::Call(waiting), fence, deadline: None });
        answer.await.unwrap_or_else(|_| Err(Error::Broken { why: "it ended while it worked on this".into() }))
    }

    /// Tells where a site's data port is (host:port). The hub calls it when an agent says hello.
    pub async fn set_site_address(&self, site: &SiteId, address: &str) -> Result<()> {
        self.change(Change::Announce { site: site.clone(), address: address.into() }).await.map(|_| ())
    }

    /// Takes over an object of an older catalog, with its epoch. What is there already stays.
    pub async fn import(&self, imported: Imported) -> Result<()> {
        let Imported { object, sites } = imported;
        let import = change::Import {
            bucket: object.bucket,
            key: object.key,
            id: object.id.0,
            epoch: object.epoch,
            size: object.size,
            checksum: object.checksum,
            sites,
            persisted: object.persisted,
            created_ms: object.created_ms,
        };
        self.change(Change::Import(Box::new(import))).await.map(|_| ())
    }

    /// What a bucket's objects owe the persistency tier.
    pub async fn set_mode(&self, bucket: &BucketName, mode: Mode) -> Result<()> {
        self.change(Change::SetMode { bucket: bucket.clone(), mode }).await.map(|_| ())
    }

    /// A bucket's mode, and how many objects and bytes it has.
    pub fn bucket_info(&self, bucket: &BucketName) -> Result<(Mode, u64, u64)> {
        self.core().read().bucket_info(bucket)
    }

    /// Names, and contents, which may have several.
    pub fn counts(&self) -> (usize, usize) {
        self.core().read().counts()
    }
}

/// Removes names whose time is over, for as long as the namenode lives.
///
/// Most go in batches. A name on which somebody has a lease goes alone, when that is void: who does not answer must not hold up what others have.
async fn expire(inner: Weak<Inner>) {
    let (mut more, mut alone) = (false, Alone::default());
    loop {
        if !more {
            tokio::time::sleep(EXPIRY_EVERY).await;
        }
        while let Some(ended) = alone.tasks.try_join_next() {
            // One that panicked leaves its name to the next start.
            if let Ok(name) = ended {
                alone.names.remove(&name);
            }
        }
        let Some(inner) = inner.upgrade().filter(|inner| !inner.core.is_stopped()) else { return };
        let namenode = Namenode { inner };
        let (names, dead) = {
            let state = namenode.core().read();
            (state.expired(now_ms(), EXPIRY_MAX, |name| alone.names.contains(name)), state.has_dead_jobs(now_ms()))
        };
        let full = names.len() >= EXPIRY_MAX;
        let (mut batch, mut fences, waited) = (Vec::new(), None::<leases::Fence>, alone.names.len());
        for name in names {
            match namenode.core().leases.fence(Some(&[(&name.0, &name.1)]), true) {
                (fence, waits) if waits.is_empty() => {
                    match &mut fences {
                        None => fences = Some(fence),
                        Some(fences) => fences.join(fence),
                    }
                    batch.push(name);
                }
                (fence, waits) if alone.tasks.len() < ALONE_MAX => alone.wait(Arc::downgrade(&namenode.inner), name, fence, waits),
                // The fence falls, and it is tried again when there is room.
                _ => {}
            }
        }
        // What ends must end as fast as it was made, so a full round is followed by the next at once, but only if it got anywhere.
        more = full && alone.names.len() > waited;
        if !batch.is_empty() || dead {
            match namenode.fenced(Change::Expire { names: batch }, fences).await {
                Ok(answer) => more |= full && counted(answer).is_ok_and(|(objects, _)| objects > 0),
                Err(error) => tracing::warn!(%error, "expired objects are still there"),
            }
        }
    }
}

/// Expired names that wait, each for itself, until leases on them are void.
#[derive(Default)]
struct Alone {
    names: HashSet<(BucketName, Key)>,
    tasks: JoinSet<(BucketName, Key)>,
}

impl Alone {
    fn wait(&mut self, inner: Weak<Inner>, name: (BucketName, Key), fence: leases::Fence, waits: leases::Waits) {
        self.names.insert(name.clone());
        self.tasks.spawn(async move {
            waits.done().await;
            let Some(inner) = inner.upgrade() else { return name };
            if let Err(error) = (Namenode { inner }).fenced(Change::Expire { names: vec![name.clone()] }, Some(fence)).await {
                tracing::warn!(%error, bucket = %name.0, key = %name.1, "an expired object is still there");
            }
            name
        });
    }
}

/// A namenode elsewhere may say anything.
fn odd<T>(answer: Answer) -> Result<T> {
    let sort = match answer {
        Answer::Done => "that it is done",
        Answer::Created(_) => "whether it is new",
        Answer::Object(_) => "an object",
        Answer::Sealed { .. } => "what was sealed",
        Answer::Removed { .. } => "what was removed",
        Answer::Counted { .. } => "counts",
    };
    Err(Error::Protocol { peer: "the namenode".into(), message: format!("it answers a change with {sort}, which is no answer to it") })
}

fn object(answer: Answer) -> Result<ObjectMeta> {
    match answer {
        Answer::Object(object) => Ok(object),
        other => odd(other),
    }
}
fn sealed(answer: Answer) -> Result<Sealed> {
    match answer {
        Answer::Sealed { object, replaced } => Ok(Sealed { object, replaced }),
        other => odd(other),
    }
}
fn counted(answer: Answer) -> Result<(u64, u64)> {
    match answer {
        Answer::Counted { objects, bytes } => Ok((objects, bytes)),
        other => odd(other),
    }
}
fn removed(answer: Answer) -> Result<(ObjectMeta, bool)> {
    match answer {
        Answer::Removed { object, last } => Ok((object, last)),
        other => odd(other),
    }
}
fn created(answer: Answer) -> Result<bool> {
    match answer {
        Answer::Created(new) => Ok(new),
        other => odd(other),
    }
}
fn done(_: Answer) -> Result<()> {
    Ok(())
}

fn seal_change(bucket: &BucketName, key: &Key, new: NewObject, attributes: Attributes) -> Change {
    Change::Seal(change::Seal {
        bucket: bucket.clone(),
        key: key.clone(),
        id: new.id.0,
        size: new.size,
        checksum: new.checksum,
        site: new.site,
        if_absent: new.if_absent,
        metadata: attributes.metadata,
        expires_ms: attributes.expires_ms,
        job: attributes.job,
    })
}

/// The changes of the [`Catalog`], the same for the namenode itself and for who asks it: `$call` carries out a [`Change`].
macro_rules! changes {
    () => {
        fn announce<'a>(&'a self, site: &'a SiteId, address: &'a str) -> BoxFuture<'a, Result<()>> {
            self.does(Change::Announce { site: site.clone(), address: address.into() }, done)
        }
        fn create_bucket<'a>(&'a self, bucket: &'a BucketName) -> BoxFuture<'a, Result<bool>> {
            self.does(Change::CreateBucket { bucket: bucket.clone() }, created)
        }
        fn seal<'a>(&'a self, bucket: &'a BucketName, key: &'a Key, new: NewObject) -> BoxFuture<'a, Result<Sealed>> {
            self.does(seal_change(bucket, key, new, Attributes::default()), sealed)
        }
        fn seal_with<'a>(
            &'a self,
            bucket: &'a BucketName,
            key: &'a Key,
            new: NewObject,
            attributes: Attributes,
        ) -> BoxFuture<'a, Result<Sealed>> {
            self.does(seal_change(bucket, key, new, attributes), sealed)
        }
        fn delete<'a>(&'a self, bucket: &'a BucketName, key: &'a Key) -> BoxFuture<'a, Result<ObjectMeta>> {
            async move { Ok(self.remove(bucket, key).await?.0) }.boxed()
        }
        fn remove<'a>(&'a self, bucket: &'a BucketName, key: &'a Key) -> BoxFuture<'a, Result<(ObjectMeta, bool)>> {
            self.does(Change::Remove { bucket: bucket.clone(), key: key.clone() }, removed)
        }
        fn rename<'a>(&'a self, bucket: &'a BucketName, from: &'a Key, to: &'a Key) -> BoxFuture<'a, Result<Sealed>> {
            self.rename_to(bucket, from, bucket, to, false)
        }
        fn rename_to<'a>(
            &'a self,
            bucket: &'a BucketName,
            from: &'a Key,
            to_bucket: &'a BucketName,
            to: &'a Key,
            if_absent: bool,
        ) -> BoxFuture<'a, Result<Sealed>> {
            let (bucket, from, to_bucket, to) = (bucket.clone(), from.clone(), to_bucket.clone(), to.clone());
            self.does(Change::Rename { bucket, from, to_bucket, to, if_absent }, sealed)
        }
        fn copy<'a>(
            &'a self,
            bucket: &'a BucketName,
            from: &'a Key,
            to_bucket: &'a BucketName,
            to: &'a Key,
            if_absent: bool,
        ) -> BoxFuture<'a, Result<Sealed>> {
            let (bucket, from, to_bucket, to) = (bucket.clone(), from.clone(), to_bucket.clone(), to.clone());
            self.does(Change::Copy { bucket, from, to_bucket, to, if_absent }, sealed)
        }
        fn remove_prefix<'a>(&'a self, bucket: &'a BucketName, prefix: &'a str) -> BoxFuture<'a, Result<(u64, u64)>> {
            self.does(Change::RemovePrefix { bucket: bucket.clone(), prefix: prefix.into() }, counted)
        }
        fn rename_prefix<'a>(
            &'a self,
            bucket: &'a BucketName,
            from: &'a str,
            to_bucket: &'a BucketName,
            to: &'a str,
            if_absent: bool,
        ) -> BoxFuture<'a, Result<(u64, u64)>> {
            let (bucket, from, to_bucket, to) = (bucket.clone(), from.into(), to_bucket.clone(), to.into());
            let change = if if_absent { Change::RenamePrefixNew { bucket, from, to_bucket, to } } else { Change::RenamePrefix { bucket, from, to_bucket, to } };
            self.does(change, counted)
        }
        fn copy_prefix<'a>(
            &'a self,
            bucket: &'a BucketName,
            from: &'a str,
            to_bucket: &'a BucketName,
            to: &'a str,
        ) -> BoxFuture<'a, Result<(u64, u64)>> {
            let (bucket, to_bucket) = (bucket.clone(), to_bucket.clone());
            self.does(Change::CopyPrefix { bucket, from: from.into(), to_bucket, to: to.into() }, counted)
        }
        fn mark_persisted<'a>(
            &'a self,
            bucket: &'a BucketName,
            key: &'a Key,
            epoch: u64,
            location: &'a str,
        ) -> BoxFuture<'a, Result<ObjectMeta>> {
            self.does(Change::MarkPersisted { bucket: bucket.clone(), key: key.clone(), epoch, location: location.into() }, object)
        }
        fn add_holder<'a>(
            &'a self,
            bucket: &'a BucketName,
            key: &'a Key,
            epoch: u64,
            site: &'a SiteId,
        ) -> BoxFuture<'a, Result<ObjectMeta>> {
            self.does(Change::AddHolder { bucket: bucket.clone(), key: key.clone(), epoch, site: site.clone() }, object)
        }
        fn drop_holder<'a>(
            &'a self,
            bucket: &'a BucketName,
            key: &'a Key,
            epoch: u64,
            site: &'a SiteId,
        ) -> BoxFuture<'a, Result<ObjectMeta>> {
            self.does(Change::DropHolder { bucket: bucket.clone(), key: key.clone(), epoch, site: site.clone() }, object)
        }
        fn set_metadata<'a>(&'a self, bucket: &'a BucketName, key: &'a Key, metadata: Vec<u8>) -> BoxFuture<'a, Result<()>> {
            self.does(Change::SetMetadata { bucket: bucket.clone(), key: key.clone(), metadata }, done)
        }
        fn touch<'a>(&'a self, bucket: &'a BucketName, key: &'a Key, expires_ms: u64) -> BoxFuture<'a, Result<()>> {
            self.does(Change::Touch { bucket: bucket.clone(), key: key.clone(), expires_ms }, done)
        }
        fn keep_job<'a>(&'a self, job: &'a str, until_ms: u64) -> BoxFuture<'a, Result<()>> {
            self.does(Change::KeepJob { job: job.into(), until_ms }, done)
        }
        fn drop_job<'a>(&'a self, job: &'a str) -> BoxFuture<'a, Result<(u64, u64)>> {
            self.does(Change::DropJob { job: job.into() }, counted)
        }
        fn set_tenant<'a>(&'a self, bucket: &'a BucketName, tenant: &'a str) -> BoxFuture<'a, Result<()>> {
            self.does(Change::SetTenant { bucket: bucket.clone(), tenant: tenant.into() }, done)
        }
        fn set_quota<'a>(&'a self, tenant: &'a str, objects_max: u64, bytes_max: u64) -> BoxFuture<'a, Result<()>> {
            self.does(Change::SetQuota { tenant: tenant.into(), objects_max, bytes_max }, done)
        }
        fn lose<'a>(&'a self, bucket: &'a BucketName, key: &'a Key, epoch: u64, site: &'a SiteId) -> BoxFuture<'a, Result<bool>> {
            let change = Change::Lose { bucket: bucket.clone(), key: key.clone(), epoch, site: site.clone() };
            self.does(change, |answer| Ok(removed(answer)?.1))
        }
        fn give_up<'a>(&'a self, ids: &'a [ObjectId]) -> BoxFuture<'a, Result<()>> {
            self.does(Change::GiveUp { ids: ids.iter().map(|id| id.0).collect() }, done)
        }
        fn collected<'a>(&'a self, site: Option<&'a SiteId>, ids: &'a [ObjectId]) -> BoxFuture<'a, Result<()>> {
            self.does(Change::Collected { site: site.cloned(), ids: ids.iter().map(|id| id.0).collect() }, done)
        }
    };
}
use changes;

impl Namenode {
    fn does<T: Send + 'static>(&self, change: Change, answer: fn(Answer) -> Result<T>) -> BoxFuture<'_, Result<T>> {
        async move { answer(self.change(change).await?) }.boxed()
    }
}

impl Catalog for Namenode {
    changes!();

    fn buckets(&self) -> BoxFuture<'_, Result<Vec<BucketName>>> {
        async { Ok(self.core().look()?.bucket_names("", usize::MAX)) }.boxed()
    }
    fn lookup<'a>(&'a self, bucket: &'a BucketName, key: &'a Key) -> BoxFuture<'a, Result<ObjectMeta>> {
        async move { self.core().look()?.lookup(bucket, key) }.boxed()
    }
    fn lease<'a>(
        &'a self,
        holder: &'a Arc<dyn LeaseHolder>,
        bucket: &'a BucketName,
        key: &'a Key,
    ) -> BoxFuture<'a, Result<(ObjectMeta, Option<Lease>)>> {
        async move {
            // Before the look: a change that is applied after it finds the holder.
            // One of a pair can't promise that it will lead when the name changes.
            let granted = self.core().lead.get().is_none() && self.core().leases.grant_local(holder, leases::hash(bucket, key));
            let meta = self.core().look()?.lookup(bucket, key)?;
            Ok((meta, granted.then_some(Lease { term: None })))
        }
        .boxed()
    }
    fn lookup_blocking(&self, bucket: &BucketName, key: &Key) -> Option<Result<ObjectMeta>> {
        self.lookup(bucket, key).now_or_never()
    }
    fn lease_blocking(&self, holder: &Arc<dyn LeaseHolder>, bucket: &BucketName, key: &Key) -> Option<Result<(ObjectMeta, Option<Lease>)>> {
        self.lease(holder, bucket, key).now_or_never()
    }
    fn find(&self, id: ObjectId) -> BoxFuture<'_, Result<Option<ObjectMeta>>> {
        async move { Ok(self.core().look()?.find(id)) }.boxed()
    }
    fn find_all<'a>(&'a self, ids: &'a [ObjectId]) -> BoxFuture<'a, Result<Vec<Option<ObjectMeta>>>> {
        async move {
            let state = self.core().look()?;
            Ok(ids.iter().map(|id| state.find(*id)).collect())
        }
        .boxed()
    }
    fn epoch(&self) -> BoxFuture<'_, Result<Option<u64>>> {
        async { Ok(Some(self.core().look()?.epoch())) }.boxed()
    }
    fn held<'a>(&'a self, site: &'a SiteId, start_after: Option<ObjectId>) -> BoxFuture<'a, Result<Vec<ObjectMeta>>> {
        async move { Ok(self.core().look()?.held(site, start_after)) }.boxed()
    }
    fn list<'a>(
        &'a self,
        bucket: &'a BucketName,
        prefix: &'a str,
        delimiter: Option<char>,
        page: Page,
    ) -> BoxFuture<'a, Result<Listing>> {
        async move { self.core().look()?.list(bucket, prefix, delimiter, &page) }.boxed()
    }
    fn attributes<'a>(&'a self, bucket: &'a BucketName, key: &'a Key) -> BoxFuture<'a, Result<Attributes>> {
        async move { self.core().look()?.attributes(bucket, key) }.boxed()
    }
    fn garbage<'a>(&'a self, site: Option<&'a SiteId>, start_after: Option<ObjectId>) -> BoxFuture<'a, Result<Vec<Garbage>>> {
        async move { Ok(self.core().look()?.garbage(site, start_after)) }.boxed()
    }
    fn partners<'a>(&'a self, id: ObjectId, site: &'a SiteId) -> BoxFuture<'a, Result<Vec<Holder>>> {
        async move { Ok(server::partners(self.core(), id, site)) }.boxed()
    }
    fn sites(&self) -> BoxFuture<'_, Result<Vec<Holder>>> {
        async { Ok(server::sites(self.core())) }.boxed()
    }
    fn jobs(&self) -> BoxFuture<'_, Result<Vec<String>>> {
        async { Ok(self.core().look()?.job_names("", usize::MAX)) }.boxed()
    }
    fn watch<'a>(&'a self, bucket: &'a BucketName, after: u64, wait: Duration) -> BoxFuture<'a, Result<Watched>> {
        async move { server::watch(self.core(), bucket, after, wait, server::EVENTS_MAX).await }.boxed()
    }
}
