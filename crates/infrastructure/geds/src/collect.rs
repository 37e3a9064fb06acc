//! Names in bulk, and the copies that they leave behind.
//!
//! A prefix operation is one step in the catalog and moves no data. What loses its last name in such a step, expires, or belonged to a job that has ended is
//! *garbage*: the catalog keeps a list of it for each site that holds a copy, and one for the persistency tier. A node asks for its list after what
//! it did itself, at its start and every few seconds; frees; and only then says so. A crash in between frees twice, which is the same as once.
//!
//! What one call removes by its key is not garbage: who asked is told, and tells the holders (`node.rs`).

use crate::{
    Attributes, BucketName, Key, Node, ObjectId, ObjectMeta, Result,
    leases::Wanted,
    names::Prefix,
    node::{Inner, compute},
};
use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::sync::Notify;

/// How often a node asks what it should free, if nothing tells it to ask before.
const COLLECT_EVERY: Duration = Duration::from_secs(5);

/// Wakes the task that collects.
pub(crate) struct Collector {
    wake: Arc<Notify>,
}

impl Collector {
    /// Ends with the node.
    pub fn start(node: Weak<Inner>) -> Collector {
        let wake = Arc::new(Notify::new());
        let waked = wake.clone();
        tokio::spawn(async move {
            loop {
                let _ = tokio::time::timeout(COLLECT_EVERY, waked.notified()).await; // either will do
                let Some(inner) = node.upgrade() else { return };
                if let Err(error) = inner.collect().await {
                    tracing::debug!(%error, "what nobody needs any more is still here");
                }
                let noting = inner.clone();
                if let Err(error) = compute(move || noting.epochs.save()).await.and_then(|saved| saved) {
                    tracing::warn!(%error, "which catalog this node has seen is not written down");
                }
            }
        });
        Collector { wake }
    }

    pub fn wake(&self) {
        self.wake.notify_one();
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        // The task sees that the node is gone.
        self.wake.notify_one();
    }
}

impl Inner {
    /// Frees what the catalog lists for this site, and deletes what it lists for the persistency tier if this site has one.
    pub async fn collect(self: &Arc<Self>) -> Result<()> {
        let mut last = None;
        loop {
            let page = self.catalog.garbage(Some(&self.site), last).await?;
            let Some(end) = page.last().map(|garbage| garbage.id) else { break };
            last = Some(end);
            let ids: Vec<ObjectId> = page.into_iter().map(|garbage| garbage.id).collect();
            for id in &ids {
                // Under its turn, so that it isn't freed in the middle of an upload that would then be recorded for nobody.
                let turn = self.turn(*id);
                let _turn = turn.lock().await;
                self.free(*id);
            }
            self.catalog.collected(Some(&self.site), &ids).await?;
        }
        let Some(persist) = &self.persist else { return Ok(()) };
        let mut last = None;
        loop {
            let page = self.catalog.garbage(None, last).await?;
            let Some(end) = page.last().map(|garbage| garbage.id) else { return Ok(()) };
            last = Some(end);
            let mut ids = Vec::new();
            let mut failed = None;
            for garbage in page {
                match &garbage.location {
                    Some(location) => match persist.delete(location).await {
                        Ok(()) => ids.push(garbage.id),
                        Err(e) => {
                            failed = Some(e);
                            break;
                        }
                    },
                    None => ids.push(garbage.id),
                }
            }
            if !ids.is_empty() {
                self.catalog.collected(None, &ids).await?;
            }
            if let Some(e) = failed {
                return Err(e);
            }
        }
    }
}

impl Node {
    async fn settled(&self, bucket: &BucketName, prefix: &str) -> Result<()> {
        self.inner.names.settle(Wanted::Prefix(bucket, &Prefix::new(prefix)?)).await;
        Ok(())
    }

    /// Removes `prefix` and all below it in one step, at every site. Objects and bytes.
    pub async fn delete_prefix(&self, bucket: &BucketName, prefix: &str) -> Result<(u64, u64)> {
        self.settled(bucket, prefix).await?;
        let removed = self.inner.catalog.remove_prefix(bucket, prefix).await?;
        self.inner.collector.wake();
        Ok(removed)
    }

    /// Moves `from` and all below it in one step, without moving data; what had the new keys is replaced. Objects and bytes.
    pub async fn rename_prefix(&self, bucket: &BucketName, from: &str, to_bucket: &BucketName, to: &str) -> Result<(u64, u64)> {
        self.settled(bucket, from).await?;
        self.settled(to_bucket, to).await?;
        let moved = self.inner.catalog.rename_prefix(bucket, from, to_bucket, to).await?;
        self.inner.collector.wake();
        Ok(moved)
    }

    /// Gives all objects at `from` and below it other names too, in one step. No data is copied: a content goes with its last name.
    pub async fn copy_prefix(&self, bucket: &BucketName, from: &str, to_bucket: &BucketName, to: &str) -> Result<(u64, u64)> {
        self.settled(bucket, from).await?;
        self.settled(to_bucket, to).await?;
        let copied = self.inner.catalog.copy_prefix(bucket, from, to_bucket, to).await?;
        self.inner.collector.wake();
        Ok(copied)
    }

    /// Gives an object another name too; what had it is replaced, or with `if_absent` the call fails with `AlreadyExists`. No data is copied.
    pub async fn copy_object(&self, bucket: &BucketName, from: &Key, to_bucket: &BucketName, to: &Key, if_absent: bool) -> Result<ObjectMeta> {
        self.inner.names.settle(Wanted::Key(bucket, from)).await;
        self.inner.names.settle(Wanted::Key(to_bucket, to)).await;
        let done = self.inner.catalog.copy(bucket, from, to_bucket, to, if_absent).await?;
        if let Some(old) = done.replaced {
            self.inner.release(old);
        }
        Ok(done.object)
    }

    /// An object's user metadata, when it expires, and the job that it is leased to.
    pub async fn attributes(&self, bucket: &BucketName, key: &Key) -> Result<Attributes> {
        self.inner.names.settle(Wanted::Key(bucket, key)).await;
        self.inner.catalog.attributes(bucket, key).await
    }

    pub async fn set_metadata(&self, bucket: &BucketName, key: &Key, metadata: Vec<u8>) -> Result<()> {
        self.inner.names.settle(Wanted::Key(bucket, key)).await;
        self.inner.catalog.set_metadata(bucket, key, metadata).await
    }

    /// Lets an object go by itself when this time has passed from now on; `None`: it stays.
    pub async fn expire_after(&self, bucket: &BucketName, key: &Key, time: Option<Duration>) -> Result<()> {
        self.inner.names.settle(Wanted::Key(bucket, key)).await;
        let at = |time: Duration| base::clock::now_ms().saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        self.inner.catalog.touch(bucket, key, time.map_or(0, at)).await
    }

    /// Frees now what has lost its name, here and in the persistency tier. It is done every few seconds in any case.
    pub async fn collect(&self) -> Result<()> {
        self.inner.collect().await
    }
}
