//! A persistency tier in memory that a test can stop: puts that wait, answers that are lost, deletes that fail.

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, UploadPart, memory::InMemory, path::Path,
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
    gets: Arc<AtomicUsize>,
    /// Uploads in parts that were begun, and neither ended nor taken back.
    in_parts: Arc<AtomicUsize>,
    lose_puts: Arc<AtomicBool>,
    fail_deletes: Arc<AtomicBool>,
    refuse: Arc<AtomicBool>,
    /// Nothing is answered.
    hangs: Arc<watch::Sender<bool>>,
}

impl Default for Gate {
    fn default() -> Gate {
        Gate {
            store: Arc::default(),
            open: Arc::new(watch::Sender::new(true)),
            waiting: Arc::default(),
            gets: Arc::default(),
            in_parts: Arc::default(),
            lose_puts: Arc::default(),
            fail_deletes: Arc::default(),
            refuse: Arc::default(),
            hangs: Arc::new(watch::Sender::new(false)),
        }
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
    /// Answers nothing any more, or all that waits for an answer.
    pub fn hang(&self, hang: bool) {
        self.hangs.send_replace(hang);
    }
    async fn answers(&self) {
        self.hangs.subscribe().wait_for(|hangs| !hangs).await.expect("the sender is here");
    }
    pub fn waiting(&self) -> usize {
        self.waiting.load(SeqCst)
    }
    /// How often something was read.
    pub fn gets(&self) -> usize {
        self.gets.load(SeqCst)
    }
    pub fn in_parts(&self) -> usize {
        self.in_parts.load(SeqCst)
    }
    /// Puts are done, and an error comes.
    pub fn lose_puts(&self, lose: bool) {
        self.lose_puts.store(lose, SeqCst);
    }
    /// Takes nothing, as a store does that doesn't know the keys.
    pub fn refuse(&self, refuse: bool) {
        self.refuse.store(refuse, SeqCst);
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

#[derive(Debug)]
struct InParts {
    inner: Box<dyn MultipartUpload>,
    gate: Gate,
}

#[async_trait]
impl MultipartUpload for InParts {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (gate, done) = (self.gate.clone(), self.inner.put_part(bytes::Bytes::copy_from_slice(&bytes::Bytes::from(data)).into()));
        Box::pin(async move {
            gate.waiting.fetch_add(1, SeqCst);
            let _waits = Waits(gate.waiting.clone());
            let _ = gate.open.subscribe().wait_for(|open| *open).await; // the sender is in `gate`
            done.await
        })
    }

    async fn complete(&mut self) -> object_store::Result<PutResult> {
        let done = self.inner.complete().await?;
        self.gate.in_parts.fetch_sub(1, SeqCst);
        Ok(done)
    }

    async fn abort(&mut self) -> object_store::Result<()> {
        self.inner.abort().await?;
        self.gate.in_parts.fetch_sub(1, SeqCst);
        Ok(())
    }
}

#[async_trait]
impl ObjectStore for Gate {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> object_store::Result<PutResult> {
        self.answers().await;
        if self.refuse.load(SeqCst) {
            return Err(object_store::Error::PermissionDenied { path: location.to_string(), source: "the keys are not known".into() });
        }
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
        let inner = self.store.put_multipart_opts(location, opts).await?;
        self.in_parts.fetch_add(1, SeqCst);
        Ok(Box::new(InParts { inner, gate: self.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.answers().await;
        self.gets.fetch_add(1, SeqCst);
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
