//! Names in bulk, and the copies that they leave behind.
//!
//! A prefix operation is one step in the catalog and moves no data. What loses its last name in such a step, expires, or belonged to a job that has ended is
//! *garbage*: the catalog keeps a list of it for each site that holds a copy, and one for the persistency tier. A node asks for its list after what
//! it did itself, at its start and every few seconds; frees; and only then says so. A crash in between frees twice, which is the same as once.
//!
//! What one call removes by its key is garbage of the persistency tier only: who asked is told of the holders, and tells them (`node.rs`). What an upload that was not recorded may have left
//! there (`begun.rs`) goes with it.

use crate::{
    Attributes, BucketName, Key, Node, ObjectId, ObjectMeta, Persist, Result, Watched,
    append::WherePart,
    deadline::Deadline,
    leases::Wanted,
    names::Prefix,
    node::{Inner, compute},
    writer::from_now,
};
use futures::StreamExt;
use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::sync::Notify;

/// How often a node asks what it should free, if nothing tells it to ask before.
const COLLECT_EVERY: Duration = Duration::from_secs(5);
/// Deletes in the persistency tier at a time, and failures in a row after which the rest waits.
const DELETES: usize = 8;
const FAILURES_MAX: u32 = 8;
/// The longest wait of a watch; the namenode's is the same.
const WATCH_MAX: Duration = Duration::from_secs(60);

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
                if let Err(error) = inner.settle_seals().await {
                    tracing::debug!(%error, "what became of some seals is not known yet");
                }
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
            let Some(end) = page.last().map(|garbage| garbage.id) else { break };
            last = Some(end);
            let mut ids = Vec::new();
            let mut failed = None;
            let mut deleted = futures::stream::iter(page.into_iter().map(|garbage| async move {
                match &garbage.location {
                    Some(location) => persist.delete(location).await.map(|()| garbage.id),
                    None => Ok(garbage.id),
                }
            }))
            .buffered(DELETES);
            let mut in_a_row = 0;
            while let Some(done) = deleted.next().await {
                match done {
                    Ok(id) => {
                        ids.push(id);
                        in_a_row = 0;
                    }
                    // One that can't go stands in the way of nothing; a store that takes nothing is not asked a thousand times.
                    Err(e) => {
                        failed = Some(e);
                        in_a_row += 1;
                        if in_a_row == FAILURES_MAX {
                            break;
                        }
                    }
                }
            }
            drop(deleted);
            if !ids.is_empty() {
                self.catalog.collected(None, &ids).await?;
            }
            match failed {
                Some(e) if in_a_row == FAILURES_MAX => return Err(e),
                Some(error) => tracing::warn!(%error, "a deleted object stays in the persistency tier for now"),
                None => {}
            }
        }
        self.collect_begun(persist).await
    }
}

impl Inner {
    /// Looks after uploads that were begun and not recorded: those of objects that are gone are removed.
    pub(crate) async fn collect_begun(self: &Arc<Self>, persist: &Persist) -> Result<()> {
        let ids = self.begun.ids();
        if ids.is_empty() || !self.may_free().await? {
            return Ok(());
        }
        for id in ids {
            let turn = self.turn(id);
            // In the middle of it; its end says more.
            let Ok(_turn) = turn.try_lock() else { continue };
            let over = match self.appendables.part(id) {
                // Its log knows of it.
                Some(WherePart::Away) => true,
                // It is uploaded again, to the same place.
                Some(WherePart::Here) => false,
                None => match self.catalog.find(id).await? {
                    Some(meta) => meta.persisted.is_some(),
                    None => {
                        persist.delete(&Persist::place(id)).await?;
                        true
                    }
                },
            };
            if over {
                let inner = self.clone();
                compute(move || inner.begun.end(id)).await?;
            }
        }
        Ok(())
    }
}

impl Node {
    /// By the catalog's clock; 0: never.
    async fn until(&self, time: Option<Duration>) -> Result<u64> {
        match time {
            Some(time) => from_now(&*self.inner.catalog, time).await,
            None => Ok(0),
        }
    }

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

    /// Moves `from` and all below it in one step, without moving data; what had the new keys is replaced, or with `if_absent` the call fails with `AlreadyExists` if anything lies at `to` or below it,
    /// which is looked at in the same step. Objects and bytes.
    pub async fn rename_prefix(&self, bucket: &BucketName, from: &str, to_bucket: &BucketName, to: &str, if_absent: bool) -> Result<(u64, u64)> {
        self.settled(bucket, from).await?;
        self.settled(to_bucket, to).await?;
        let moved = self.inner.catalog.rename_prefix(bucket, from, to_bucket, to, if_absent).await?;
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

    /// Begins or extends a job's lease: what is sealed for the job ([`crate::Writer::lease_to`]) goes when it ends. `None`: it ends with [`Node::drop_job`] only.
    pub async fn keep_job(&self, job: &str, time: Option<Duration>) -> Result<()> {
        let until_ms = self.until(time).await?;
        self.inner.catalog.keep_job(job, until_ms).await
    }

    /// Ends a job's lease: its objects go, in one step. Objects and bytes.
    pub async fn drop_job(&self, job: &str) -> Result<(u64, u64)> {
        self.inner.names.settle(Wanted::All).await;
        let removed = self.inner.catalog.drop_job(job).await?;
        self.inner.collector.wake();
        Ok(removed)
    }

    /// What has happened in a bucket after `after`, see [`crate::Watched`]; waits up to `wait` (a minute at most) for something to happen. `u64::MAX`: says where the bucket is now.
    ///
    /// [`crate::Watched::next`] is a token: it stays good over restarts of this node and of the namenode, until more has happened than the namenode keeps; then `resync` says so.
    pub async fn watch(&self, bucket: &BucketName, after: u64, wait: Duration) -> Result<Watched> {
        let wait = wait.min(WATCH_MAX);
        let what = || format!("the watch of bucket {bucket}");
        Deadline::after(wait).keep(what, self.inner.catalog.watch(bucket, after, wait)).await
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
        let expires_ms = self.until(time).await?;
        self.inner.catalog.touch(bucket, key, expires_ms).await
    }

    /// Frees now what has lost its name, here and in the persistency tier, and what was given up because the catalog was away. It is done every few seconds in any case.
    pub async fn collect(&self) -> Result<()> {
        self.inner.settle_seals().await?;
        self.inner.collect().await
    }
}
