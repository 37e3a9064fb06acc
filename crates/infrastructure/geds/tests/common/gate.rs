//! A persistency tier in memory that a test can stop: puts that wait, answers that are lost, deletes that fail.

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, memory::InMemory, path::Path,
};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};
use tokio::sync::watch;

#[derive(Clone)]
pub struct Gate {
    store: Arc<InMemory>,
    open: Arc<watch::Sender<bool>>,
    /// Puts that wait.
    waiting: Arc<AtomicUsize>,
    lose_puts: Arc<AtomicBool>,
    fail_deletes: Arc<AtomicBool>,
}

impl Default for Gate {
    fn default() -> Gate {
        Gate { store: Arc::default(), open: Arc::new(watch::Sender::new(true)), waiting: Arc::default(), lose_puts: Arc::default(), fail_deletes: Arc::default() }
    }
}

impl Gate {
    pub fn persist(&self) -> geds::Persist {
        geds::Persist::over(Arc::new(self.clone()), "gate")
    }
    /// Lets puts through, or makes them wait.
    pub fn let_through(&self, open: bool) {
        self.open.send_replace(open);
    }
    pub fn waiting(&self) -> usize {
        self.waiting.load(SeqCst)
    }
    /// Puts are done, and an error comes.
    pub fn lose_puts(&self, lose: bool) {
        self.lose_puts.store(lose, SeqCst);
    }
    pub fn fail_deletes(&self, fail: bool) {
        self.fail_deletes.store(fail, SeqCst);
    }
    pub async fn names(&self) -> Vec<String> {
        let found: Vec<_> = self.store.list(None).try_collect().await.unwrap();
        found.into_iter().map(|meta| meta.location.to_string()).collect()
    }
}

fn failed() -> object_store::Error {
    object_store::Error::Generic { store: "gate", source: "it is shut".into() }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gate")
    }
}
impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gate")
    }
}

struct Waits(Arc<AtomicUsize>);
impl Drop for Waits {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

#[async_trait]
impl ObjectStore for Gate {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> object_store::Result<PutResult> {
        // The store in memory would keep the node's own mapping, beyond the node's end.
        let bytes = bytes::Bytes::copy_from_slice(&bytes::Bytes::from(payload));
        self.waiting.fetch_add(1, SeqCst);
        let waits = Waits(self.waiting.clone());
        let _ = self.open.subscribe().wait_for(|open| *open).await; // the sender is in `self`
        drop(waits);
        let done = self.store.put_opts(location, bytes.into(), opts).await;
        if self.lose_puts.load(SeqCst) { done.and(Err(failed())) } else { done }
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.store.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, object_store::Result<Path>>) -> BoxStream<'static, object_store::Result<Path>> {
        if self.fail_deletes.load(SeqCst) {
            return futures::stream::iter([Err(failed())]).boxed();
        }
        self.store.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<object_store::ObjectMeta>> {
        self.store.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.store.copy_opts(from, to, options).await
    }
}
