//! Writing an object: filling it, and the two steps of its seal.
//!
//! ```text
//! create ─ write… ─┬─ seal ──────────────────────────────▶ synced, recorded by the catalog, visible everywhere
//!                  └─ seal_here ─▶ visible on this node
//!                        └─ (behind it) synced, recorded ─▶ SealedHere::everywhere
//! ```
//!
//! A writer that finds no room lets the tier compact, wakes the spiller and waits, for as long as [`crate::Tuning::wait`] says.

use crate::{
    Attributes, BucketName, Catalog, Error, Key, ObjectId, ObjectMeta, Result, State,
    deadline::Deadline,
    leases::{PUBLISH_WAIT, Wanted},
    local::{Draft, Local, Object, Refused},
    metrics::{Source, add},
    node::{Inner, compute, joined},
    spans,
};
use base::Kind;
use std::{
    collections::{HashSet, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Condvar, Mutex, Weak},
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::Instrument;

/// Publications at a time; those of one key are in one lane, one after another.
const LANES: usize = 16;
/// Publications that wait, in all lanes together.
const PUBLISHING_MAX: usize = 4096;

/// An object being written. Its calls wait for the disk and for room, so tasks should make them through `spawn_blocking`, or reserve with
/// [`Writer::room`] first.
///
/// Dropped without a seal, nothing remains of it.
pub struct Writer {
    pub(crate) inner: Arc<Inner>,
    pub(crate) bucket: BucketName,
    pub(crate) key: Key,
    pub(crate) if_absent: bool,
    pub(crate) carried: Carried,
    pub(crate) draft: Draft,
}

/// What the name will carry. When it ends is known by this machine's clock until the catalog's is asked, since that one decides.
#[derive(Clone, Default)]
pub(crate) struct Carried {
    attributes: Attributes,
    ends: Option<Instant>,
}

impl Carried {
    pub async fn by_the_clock_of(&self, catalog: &dyn Catalog) -> Result<Attributes> {
        let mut attributes = self.attributes.clone();
        if let Some(ends) = self.ends {
            let left = ends.saturating_duration_since(Instant::now());
            attributes.expires_ms = from_now(catalog, left).await?;
        }
        Ok(attributes)
    }
}

/// Unix milliseconds by the catalog's clock, when this time will have passed.
pub(crate) async fn from_now(catalog: &dyn Catalog, time: Duration) -> Result<u64> {
    Ok(catalog.now_ms().await?.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
}

/// Sealed and visible on this node; its publication is under way and needs no help.
pub struct SealedHere {
    object: Object,
    done: oneshot::Receiver<Result<ObjectMeta>>,
}

impl SealedHere {
    /// The object as this node sees it. Its epoch is 0: the catalog gives it one later.
    pub fn object(&self) -> &Object {
        &self.object
    }

    /// Waits until the object is synced and the catalog has acknowledged it: from then on it is visible everywhere and survives a crash. On an error it is not, and
    /// this node no longer shows it; only if the catalog's answer got lost it may be there.
    pub async fn everywhere(self) -> Result<ObjectMeta> {
        self.done.await.unwrap_or_else(|_| {
            Err(Error::Remote { kind: Kind::Unavailable, message: "the node was closed before the object was published".into() })
        })
    }
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

    /// Bytes of the user's own that go with the name: at most 16 KiB, or the seal is refused.
    pub fn set_metadata(&mut self, metadata: Vec<u8>) {
        self.carried.attributes.metadata = metadata;
    }

    /// The object goes by itself when this time has passed from now on. The namenode looks four times a second.
    pub fn expire_after(&mut self, time: Duration) {
        // Later than any clock goes is never.
        self.carried.ends = Instant::now().checked_add(time);
    }

    /// The object goes when the job's lease ends. The seal is refused if there is no such lease; see [`crate::Catalog::keep_job`].
    pub fn lease_to(&mut self, job: impl Into<String>) {
        self.carried.attributes.job = Some(job.into());
    }

    /// As somebody else has said them, by the catalog's clock.
    pub(crate) fn set_attributes(&mut self, attributes: Attributes) {
        self.carried = Carried { attributes, ends: None };
    }

    /// As another process of this machine has said them, by its clock.
    pub(crate) fn set_attributes_here(&mut self, attributes: Attributes) {
        let left = (attributes.expires_ms > 0).then(|| attributes.expires_ms.saturating_sub(base::clock::now_ms()));
        let ends = left.and_then(|ms| Instant::now().checked_add(Duration::from_millis(ms)));
        self.carried = Carried { attributes: Attributes { expires_ms: 0, ..attributes }, ends };
    }

    fn refused(&self, refused: Refused) -> Error {
        self.inner.refused(&self.bucket, &self.key, self.draft.in_memory(), refused)
    }

    /// Writes anywhere; a gap reads as zeros. Refused as a whole if there is no room for it until the deadline.
    pub fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        if !data.is_empty() {
            self.reserve(offset.saturating_add(data.len() as u64))?;
        }
        self.draft.write_at(offset, data).map_err(|refused| self.refused(refused))
    }

    /// Takes the space for `len` bytes before they are written; waits for it if need be.
    pub fn reserve(&mut self, len: u64) -> Result<()> {
        let mut deadline = None;
        loop {
            let Err(refused) = self.draft.reserve(len) else { break };
            let Refused::Full(_) = refused else { return Err(self.refused(refused)) };
            if !self.draft.fits_ever(len) {
                return Err(self.refused(refused));
            }
            self.inner.make_way_for(self.draft.in_memory(), len);
            let Err(refused) = self.draft.reserve(len) else { break };
            let (memory, counted) = (self.draft.in_memory(), self.inner.counted(&self.bucket));
            self.inner.spiller.want(memory, len);
            let space = self.inner.tier.space(memory);
            let end = *deadline.get_or_insert_with(|| {
                add(&counted.here(memory).waited, 1);
                Instant::now() + self.inner.tuning.wait
            });
            let began = Instant::now();
            let came = space.wait(end);
            counted.here(memory).wait.add(began.elapsed());
            if !came {
                return Err(self.refused(refused));
            }
        }
        self.inner.watch_level(self.draft.in_memory());
        Ok(())
    }

    /// [`Writer::reserve`] for a task.
    pub async fn room(&mut self, len: u64) -> Result<()> {
        let (mut waits, mut waited) = (None, false);
        loop {
            let Err(refused) = self.draft.reserve(len) else { break };
            let Refused::Full(_) = refused else { return Err(self.refused(refused)) };
            if !self.draft.fits_ever(len) {
                return Err(self.refused(refused));
            }
            let (inner, memory) = (self.inner.clone(), self.draft.in_memory());
            compute(move || inner.make_way_for(memory, len)).await?;
            let Err(refused) = self.draft.reserve(len) else { break };
            let counted = self.inner.counted(&self.bucket);
            let deadline = *waits.get_or_insert_with(|| Deadline::after(self.inner.tuning.wait));
            if self.inner.evict(memory, len, deadline.rest()).await {
                continue;
            }
            if !waited {
                add(&counted.here(memory).waited, 1);
                waited = true;
            }
            self.inner.spiller.wake();
            let began = Instant::now();
            let came = self.inner.tier.space(memory).wait_async(deadline.end()).await;
            counted.here(memory).wait.add(began.elapsed());
            if !came {
                return Err(self.refused(refused));
            }
        }
        self.inner.watch_level(self.draft.in_memory());
        Ok(())
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
        if len > self.len() {
            self.reserve(len)?;
        }
        self.draft.set_len(len).map_err(|refused| self.refused(refused))
    }

    /// Makes the object durable, then visible: when this returns it is there after a crash of the process or a power cut, for every node.
    pub async fn seal(self) -> Result<ObjectMeta> {
        self.seal_if(None).await
    }

    /// Seals only what has this checksum, if one is given.
    pub(crate) async fn seal_if(self, checksum: Option<u64>) -> Result<ObjectMeta> {
        let Writer { inner, bucket, key, if_absent, carried, draft } = self;
        let memory = draft.in_memory();
        let local = compute(move || draft.seal()).await?.map_err(|refused| inner.refused(&bucket, &key, memory, refused))?;
        if let Some(wanted) = checksum.filter(|wanted| *wanted != local.checksum) {
            return Err(Error::Damaged {
                bucket: bucket.to_string(),
                key: key.to_string(),
                place: "on its way".into(),
                found: format!("checksum {:016x} came, {wanted:016x} was sent", local.checksum),
            });
        }
        inner.names.settle(Wanted::Key(&bucket, &key)).await;
        let span = spans::seal(&bucket, &key);
        spans::note(&span, local.size, Source::here(memory));
        // A task of its own, so that a caller who stops waiting doesn't stop it half-way.
        let sealing = async move {
            let kept = compute({
                let (inner, bucket) = (inner.clone(), bucket.clone());
                move || inner.keep_durably(&bucket, local)
            })
            .await??;
            inner.commit(bucket, key, kept.local, if_absent, carried).await
        };
        joined(tokio::spawn(sealing.instrument(span)).await)?
    }

    /// [`Writer::seal`] for a plain thread. Panics on a thread of the runtime.
    pub fn seal_blocking(self) -> Result<ObjectMeta> {
        let Writer { inner, bucket, key, if_absent, carried, draft } = self;
        let memory = draft.in_memory();
        let local = draft.seal().map_err(|refused| inner.refused(&bucket, &key, memory, refused))?;
        let handle = inner.handle.clone();
        let span = spans::seal(&bucket, &key);
        spans::note(&span, local.size, Source::here(memory));
        let _in = span.enter();
        handle.block_on(inner.names.settle(Wanted::Key(&bucket, &key)));
        let local = inner.keep_durably(&bucket, local)?.local;
        handle.block_on(inner.commit(bucket, key, local, if_absent, carried))
    }

    /// Makes the object visible on this node, and publishes it behind the caller's back.
    ///
    /// When this returns, whoever opens the key on this node gets the object. Nobody else does, and a crash before [`SealedHere::everywhere`] has returned may
    /// take it away. Publications of one key keep their order. With 4096 of them under way it waits for a place, so not to be called on a thread of
    /// the runtime. Not for a writer of [`crate::Node::create_new`]: only the catalog knows whether a key is taken.
    pub fn seal_here(self) -> Result<SealedHere> {
        let Writer { inner, bucket, key, if_absent, carried, draft } = self;
        if if_absent {
            return Err(Error::BadValue {
                what: "seal_here of",
                value: format!("{bucket}/{key}"),
                rule: "whether a key is taken is known to the catalog only; use `seal` for what was created with `create_new`",
            });
        }
        let place = inner.publisher.place().ok_or_else(|| Error::Late {
            what: format!("the seal of {bucket}/{key}"),
            wait: PUBLISH_WAIT,
            rest: format!("{PUBLISHING_MAX} objects wait for the catalog"),
        })?;
        let memory = draft.in_memory();
        let local = draft.seal().map_err(|refused| inner.refused(&bucket, &key, memory, refused))?;
        let id = local.id;
        inner.sealing_begins(id);
        local.count_for(inner.counted(&bucket));
        let local = inner.tier.keep(local).inspect_err(|_| inner.sealing_ends(id))?.local;
        let meta = ObjectMeta {
            bucket,
            key,
            id: local.id,
            epoch: 0,
            size: local.size,
            state: State::Sealed,
            checksum: local.checksum,
            sites: Vec::new(),
            persisted: None,
            created_ms: base::clock::now_ms(),
        };
        let object = Object::new(meta, local, inner.tier.age()).inspect_err(|_| {
            inner.free(id);
            inner.sealing_ends(id);
        })?;
        let shown = inner.names.publish(object.clone());
        let (answer, done) = oneshot::channel();
        inner.publisher.send(Job { object: object.clone(), carried, answer, shown, _place: place });
        inner.watch_level(memory);
        Ok(SealedHere { object, done })
    }

    /// Drops what was written.
    pub fn abort(self) {}
}

// --- publishing -------------------------------------------------------------------------------------------------------------------

struct Job {
    object: Object,
    carried: Carried,
    answer: oneshot::Sender<Result<ObjectMeta>>,
    shown: watch::Sender<bool>,
    _place: Place,
}

#[derive(Default)]
struct Places {
    taken: Mutex<usize>,
    freed: Condvar,
}

/// One of the publications that may wait.
struct Place(Arc<Places>);

impl Drop for Place {
    fn drop(&mut self) {
        *self.0.taken.lock().unwrap_or_else(|e| e.into_inner()) -= 1;
        self.0.freed.notify_one();
    }
}

/// Tells the catalog of what was sealed here, in the order of each key.
pub(crate) struct Publisher {
    lanes: Vec<mpsc::UnboundedSender<Job>>,
    places: Arc<Places>,
}

impl Publisher {
    /// The lanes end with the node.
    pub fn start(node: Weak<Inner>) -> Publisher {
        let lane = |_| {
            let (send, mut jobs) = mpsc::unbounded_channel::<Job>();
            let node = node.clone();
            tokio::spawn(async move {
                let mut waiting = VecDeque::new();
                while let Some(job) = jobs.recv().await {
                    waiting.push_back(job);
                    while let Ok(job) = jobs.try_recv() {
                        waiting.push_back(job);
                    }
                    let Some(inner) = node.upgrade() else { return };
                    publish(&inner, &mut waiting).await;
                }
            });
            send
        };
        Publisher { lanes: (0..LANES).map(lane).collect(), places: Arc::default() }
    }

    /// Waits for a place; `None` if none came free in time.
    fn place(&self) -> Option<Place> {
        let end = Instant::now() + PUBLISH_WAIT;
        let mut taken = self.places.taken.lock().unwrap_or_else(|e| e.into_inner());
        while *taken >= PUBLISHING_MAX {
            let rest = end.checked_duration_since(Instant::now())?;
            taken = self.places.freed.wait_timeout(taken, rest).unwrap_or_else(|e| e.into_inner()).0;
        }
        *taken += 1;
        Some(Place(self.places.clone()))
    }

    fn send(&self, job: Job) {
        let mut hasher = DefaultHasher::new();
        let meta = job.object.meta();
        (meta.bucket.as_str(), meta.key.as_str()).hash(&mut hasher);
        // Without its lane the runtime is gone, and who waits for the answer hears that.
        let _ = self.lanes[hasher.finish() as usize % LANES].send(job);
    }
}

/// One sync for all that wait in a lane, then the catalog: those of one key one after another, others together, so that they share its waits for the disk.
async fn publish(inner: &Arc<Inner>, jobs: &mut VecDeque<Job>) {
    let locals: Vec<Arc<Local>> = jobs.iter().map(|job| job.object.parts().1.clone()).collect();
    let synced = compute({
        let inner = inner.clone();
        move || locals.iter().try_for_each(|local| local.sync()).and_then(|()| inner.tier.sync())
    });
    let synced = synced.await.and_then(|done| done);
    while !jobs.is_empty() {
        let mut keys = HashSet::new();
        let first_again = jobs.iter().position(|job| {
            let meta = job.object.meta();
            !keys.insert((meta.bucket.clone(), meta.key.clone()))
        });
        let together = jobs.drain(..first_again.unwrap_or(jobs.len()));
        futures::future::join_all(together.map(|job| publish_one(inner, job, &synced))).await;
    }
}

async fn publish_one(inner: &Arc<Inner>, job: Job, synced: &Result<()>) {
    let (meta, local) = job.object.parts();
    let done = match synced {
        Ok(()) => {
            let span = spans::seal(&meta.bucket, &meta.key);
            spans::note(&span, local.size, Source::here(local.in_memory()));
            inner.clone().commit(meta.bucket.clone(), meta.key.clone(), local.clone(), false, job.carried).instrument(span).await
        }
        Err(e) => {
            inner.sealing_ends(local.id);
            inner.free(local.id);
            Err(Error::Remote { kind: e.kind(), message: format!("{}/{} is not durable: {e}", meta.bucket, meta.key) })
        }
    };
    if let Err(error) = &done {
        tracing::warn!(bucket = %meta.bucket, key = %meta.key, %error, "an object that was sealed here was not published");
    }
    inner.names.published(&meta.bucket, &meta.key, meta.id);
    let _ = job.shown.send(true); // nobody may wait
    let _ = job.answer.send(done); // nor want the answer
}
