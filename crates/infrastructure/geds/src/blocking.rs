//! A node's calls for threads that compute.
//!
//! A program knows nothing of hubs that start again and agents that come back: what fails because somebody is away is tried again for a while.

use crate::{
    Appendable, BucketName, Follower, Grown, Key, Listing, Node, Object, ObjectMeta, Page, Range, Result, Watched, Writer,
    deadline::Deadline,
    metrics::Source,
    spans,
};
use base::{Kind, pace::pause_by_chance};
use bytes::Bytes;
use std::{future::Future, time::Duration};

/// How long a plain thread's call goes on while the catalog or a holder is away, unless its caller says how long; the pause between its first tries, and the longest.
const AWAY_MAX: Duration = Duration::from_secs(20);
const AWAY_PAUSE: Duration = Duration::from_millis(100);
const AWAY_PAUSE_MAX: Duration = Duration::from_secs(1);

/// A node's calls for plain threads. They are not for a thread of the runtime, which must not be blocked: there they panic, but for what is found without the runtime.
///
/// A program knows nothing of hubs that start again and agents that come back: what fails because somebody is away is tried again for
/// [`AWAY_MAX`].
#[derive(Clone)]
pub struct Blocking {
    pub(crate) node: Node,
}

impl Blocking {
    fn wait<T>(&self, call: impl Future<Output = T>) -> T {
        self.node.inner.handle.block_on(call)
    }

    /// Calls until the answer is not that somebody is away. What may have been done is not asked for anew: of a change the catalog's client asks for the answer itself.
    fn patient<T, F: Future<Output = Result<T>>>(&self, call: impl Fn() -> F) -> Result<T> {
        self.until(Deadline::after(AWAY_MAX), |_| call())
    }

    /// The same, for what its caller waits for no longer than this. `call` is told what is left of it.
    fn until<T, F: Future<Output = Result<T>>>(&self, deadline: Deadline, call: impl Fn(Duration) -> F) -> Result<T> {
        self.wait(async {
            let mut failures = 0;
            loop {
                match call(deadline.rest()).await {
                    Err(e) if e.is_away() && !deadline.rest().is_zero() => {
                        tracing::debug!(error = %e, "tried again");
                        tokio::time::sleep(pause_by_chance(failures, AWAY_PAUSE, AWAY_PAUSE_MAX).min(deadline.rest())).await;
                        failures += 1;
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
        self.patient(|| self.node.create_bucket(bucket))
    }
    pub fn buckets(&self) -> Result<Vec<BucketName>> {
        self.patient(|| self.node.buckets())
    }
    pub fn create(&self, bucket: &BucketName, key: &Key) -> Result<Writer> {
        if self.node.inner.knows_bucket(bucket) {
            return Ok(self.node.inner.writer(bucket, key, false));
        }
        self.patient(|| self.node.create(bucket, key))
    }
    pub fn create_new(&self, bucket: &BucketName, key: &Key) -> Result<Writer> {
        self.patient(|| self.node.create_new(bucket, key))
    }
    /// Opens what may grow; see [`Node::appendable`].
    pub fn appendable(&self, bucket: &BucketName, key: &Key) -> Result<Appendable> {
        self.patient(|| self.node.appendable(bucket, key))
    }
    /// See [`Node::appendable_new`]. Tried once: done twice it would find its own.
    pub fn appendable_new(&self, bucket: &BucketName, key: &Key) -> Result<Appendable> {
        self.wait(self.node.appendable_new(bucket, key))
    }
    pub fn seal(&self, writer: Writer) -> Result<ObjectMeta> {
        writer.seal_blocking()
    }

    /// What is here under a leased name costs no system call; after the catalog's answer, an object that is here is opened by this very thread.
    pub fn open(&self, bucket: &BucketName, key: &Key) -> Result<Object> {
        let inner = &self.node.inner;
        if let Some(object) = inner.known(bucket, key) {
            return Ok(object);
        }
        match self.open_here(bucket, key)? {
            Some(object) => Ok(object),
            None => self.patient(|| self.node.open_object(bucket, key)),
        }
    }

    /// What the catalog says is here. `None`: it is elsewhere.
    fn open_here(&self, bucket: &BucketName, key: &Key) -> Result<Option<Object>> {
        let inner = &self.node.inner;
        let span = spans::open(bucket, key);
        let _in = span.enter();
        let ticket = inner.names.ticket(bucket, key);
        let leased = inner.catalog.lease_blocking(&inner.holder, bucket, key);
        let (meta, lease) = match leased.unwrap_or_else(|| self.patient(|| inner.catalog.lease(&inner.holder, bucket, key))) {
            Err(e) if e.kind() == Kind::NotFound && inner.is_bound(bucket) => return Ok(None),
            answer => answer?,
        };
        if let Some(local) = inner.tier.get(meta.id) {
            let (kept, memory) = (local.is_ready(), local.in_memory());
            match Object::new(meta, local, inner.tier.age()) {
                Ok(object) => {
                    if !kept {
                        inner.tier.opened(&object);
                    }
                    inner.opened(bucket, Source::here(memory));
                    if let Some(lease) = lease {
                        inner.names.keep(ticket, &object, lease);
                    }
                    spans::note(&span, object.len(), Source::here(memory));
                    return Ok(Some(object));
                }
                Err(crate::Error::Damaged { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(None)
    }
    pub fn stat(&self, bucket: &BucketName, key: &Key) -> Result<ObjectMeta> {
        let inner = &self.node.inner;
        // What is published behind its writer is waited for, and what is not there may be in a bucket that lies elsewhere.
        match inner.names.is_settled().then(|| inner.catalog.lookup_blocking(bucket, key)).flatten() {
            Some(answer) if !matches!(&answer, Err(e) if e.kind() == Kind::NotFound && inner.is_bound(bucket)) => answer,
            _ => self.patient(|| self.node.stat(bucket, key)),
        }
    }
    pub fn list(&self, bucket: &BucketName, prefix: &str, delimiter: Option<char>, page: Page) -> Result<Listing> {
        self.patient(|| self.node.list(bucket, prefix, delimiter, page.clone()))
    }
    pub fn delete(&self, bucket: &BucketName, key: &Key) -> Result<ObjectMeta> {
        self.patient(|| self.node.delete(bucket, key))
    }
    pub fn rename(&self, bucket: &BucketName, from: &Key, to: &Key) -> Result<ObjectMeta> {
        self.patient(|| self.node.rename(bucket, from, to))
    }
    /// See [`Node::rename_to`].
    pub fn rename_to(&self, bucket: &BucketName, from: &Key, to_bucket: &BucketName, to: &Key, if_absent: bool) -> Result<ObjectMeta> {
        self.patient(|| self.node.rename_to(bucket, from, to_bucket, to, if_absent))
    }
    /// See [`Node::copy_object`].
    pub fn copy(&self, bucket: &BucketName, from: &Key, to_bucket: &BucketName, to: &Key, if_absent: bool) -> Result<ObjectMeta> {
        self.patient(|| self.node.copy_object(bucket, from, to_bucket, to, if_absent))
    }
    /// See [`Node::delete_prefix`].
    pub fn delete_prefix(&self, bucket: &BucketName, prefix: &str) -> Result<(u64, u64)> {
        self.patient(|| self.node.delete_prefix(bucket, prefix))
    }
    /// See [`Node::rename_prefix`].
    pub fn rename_prefix(&self, bucket: &BucketName, from: &str, to_bucket: &BucketName, to: &str, if_absent: bool) -> Result<(u64, u64)> {
        self.patient(|| self.node.rename_prefix(bucket, from, to_bucket, to, if_absent))
    }
    /// See [`Node::copy_prefix`].
    pub fn copy_prefix(&self, bucket: &BucketName, from: &str, to_bucket: &BucketName, to: &str) -> Result<(u64, u64)> {
        self.patient(|| self.node.copy_prefix(bucket, from, to_bucket, to))
    }
    pub fn attributes(&self, bucket: &BucketName, key: &Key) -> Result<crate::Attributes> {
        self.patient(|| self.node.attributes(bucket, key))
    }
    pub fn spill(&self, bucket: &BucketName, prefix: &str) -> Result<(u64, u64)> {
        self.wait(self.node.spill(bucket, prefix))
    }
    /// See [`Node::read_range`].
    pub fn read_range(&self, bucket: &BucketName, key: &Key, range: Range) -> Result<(ObjectMeta, Bytes)> {
        self.patient(|| self.node.read_range(bucket, key, range))
    }
    /// See [`Node::settle`].
    pub fn settle(&self) {
        self.wait(self.node.settle())
    }
    /// See [`Node::flush`].
    pub fn flush(&self, bucket: &BucketName, prefix: &str, deadline: Duration) -> Result<(u64, u64)> {
        self.wait(self.node.flush(bucket, prefix, deadline))
    }
    /// See [`Node::wait_durable`].
    pub fn wait_durable(&self, bucket: &BucketName, key: &Key, deadline: Duration) -> Result<ObjectMeta> {
        self.wait(self.node.wait_durable(bucket, key, deadline))
    }
    /// See [`Node::keep_job`].
    pub fn keep_job(&self, job: &str, time: Option<Duration>) -> Result<()> {
        self.patient(|| self.node.keep_job(job, time))
    }
    /// See [`Node::drop_job`].
    pub fn drop_job(&self, job: &str) -> Result<(u64, u64)> {
        self.patient(|| self.node.drop_job(job))
    }
    /// See [`Node::watch`].
    pub fn watch(&self, bucket: &BucketName, after: u64, wait: Duration) -> Result<Watched> {
        self.until(Deadline::after(wait), |rest| self.node.watch(bucket, after, rest))
    }
    /// See [`Node::follow`].
    pub fn follow(&self, bucket: &BucketName, key: &Key) -> Result<Follower> {
        self.patient(|| self.node.follow(bucket, key))
    }
    /// See [`Follower::read`].
    pub fn read_followed(&self, follower: &Follower, offset: u64, len: u64, wait: Duration) -> Result<Grown> {
        self.wait(follower.read(offset, len, wait))
    }
    /// See [`Node::growing`].
    pub fn growing(&self, bucket: &BucketName, key: &Key) -> Result<Option<Appendable>> {
        self.patient(|| self.node.growing(bucket, key))
    }
    /// See [`Appendable::read`].
    pub fn read_growing(&self, growing: &Appendable, offset: u64, len: u64) -> Result<Bytes> {
        self.wait(growing.read(offset, len))
    }
    /// See [`Appendable::sync`].
    pub fn sync_growing(&self, growing: &Appendable) -> Result<()> {
        self.wait(growing.sync())
    }
    /// See [`Appendable::seal`].
    pub fn seal_growing(&self, growing: &Appendable) -> Result<ObjectMeta> {
        self.wait(growing.seal())
    }
    /// See [`Appendable::discard`].
    pub fn discard_growing(&self, growing: &Appendable) -> Result<()> {
        self.wait(growing.discard())
    }
}
