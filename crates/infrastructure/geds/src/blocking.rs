//! A node's calls for threads that compute.
//!
//! A program knows nothing of hubs that start again and agents that come back: what fails because somebody is away is tried again for a while.

use crate::{
    BucketName, Key, Listing, Node, Object, ObjectMeta, Page, Result, Writer,
    metrics::Source,
    spans,
};
use base::Kind;
use std::{future::Future, time::Duration};

/// How long a plain thread's call goes on while the catalog or a holder is away, and the pause between its tries.
const AWAY_MAX: Duration = Duration::from_secs(20);
const AWAY_PAUSE: Duration = Duration::from_millis(200);

/// A node's calls for plain threads. They panic on a thread of the runtime, which must not be blocked.
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
        if self.node.inner.knows_bucket(bucket) {
            return Ok(self.node.inner.writer(bucket, key, false));
        }
        self.patient(|_| self.node.create(bucket, key))
    }
    pub fn create_new(&self, bucket: &BucketName, key: &Key) -> Result<Writer> {
        self.patient(|_| self.node.create_new(bucket, key))
    }
    /// Opens what may grow; see [`Node::appendable`].
    pub fn appendable(&self, bucket: &BucketName, key: &Key) -> Result<crate::Appendable> {
        self.patient(|_| self.node.appendable(bucket, key))
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
            None => self.patient(|_| self.node.open_object(bucket, key)),
        }
    }

    /// What the catalog says is here. `None`: it is elsewhere.
    fn open_here(&self, bucket: &BucketName, key: &Key) -> Result<Option<Object>> {
        let inner = &self.node.inner;
        let span = spans::open(bucket, key);
        let _in = span.enter();
        let ticket = inner.names.ticket(bucket, key);
        let (meta, lease) = match self.patient(|_| inner.catalog.lease(&inner.holder, bucket, key)) {
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
    /// See [`Node::delete_prefix`]. Tried again, it counts what is left only.
    pub fn delete_prefix(&self, bucket: &BucketName, prefix: &str) -> Result<(u64, u64)> {
        self.patient(|_| self.node.delete_prefix(bucket, prefix))
    }
    /// See [`Node::rename_prefix`]. Tried once: done twice it would mean something else.
    pub fn rename_prefix(&self, bucket: &BucketName, from: &str, to_bucket: &BucketName, to: &str) -> Result<(u64, u64)> {
        self.wait(self.node.rename_prefix(bucket, from, to_bucket, to))
    }
    pub fn attributes(&self, bucket: &BucketName, key: &Key) -> Result<crate::Attributes> {
        self.patient(|_| self.node.attributes(bucket, key))
    }
    pub fn spill(&self, bucket: &BucketName, prefix: &str) -> Result<(u64, u64)> {
        self.wait(self.node.spill(bucket, prefix))
    }
}
