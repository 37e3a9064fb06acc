//! An object store on bad days, in memory: of what it is asked, a part is not done, or done without an answer, or done by half.

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, memory::InMemory, path::Path,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

enum Fate {
    Well,
    /// Nothing is done, and an error comes.
    Lost,
    /// It is done, and an error comes.
    Unheard,
    /// Half of the bytes come, then an error.
    Cut,
    /// A bit is another.
    Flipped,
}

#[derive(Clone)]
pub struct Weather {
    /// What is in it, on a good day.
    pub store: Arc<InMemory>,
    /// The part of requests that suffer something, and which.
    bad: Arc<Mutex<(StdRng, f64)>>,
    suffered: Arc<AtomicU64>,
    /// Whether bytes suffer, too.
    spoils: bool,
}

impl Weather {
    pub fn new(seed: u64) -> Weather {
        Weather { store: Arc::default(), bad: Arc::new(Mutex::new((StdRng::seed_from_u64(seed), 0.0))), suffered: Arc::default(), spoils: true }
    }

    /// One that has what it is given, if it takes it.
    pub fn honest(seed: u64) -> Weather {
        Weather { spoils: false, ..Weather::new(seed) }
    }

    /// How many of its requests suffered something.
    pub fn suffered(&self) -> u64 {
        self.suffered.load(SeqCst)
    }

    /// Lets this part of its requests suffer.
    pub fn set(&self, part: f64) {
        self.bad.lock().unwrap().1 = part;
    }

    fn fate(&self) -> Fate {
        let mut bad = self.bad.lock().unwrap();
        let part = bad.1;
        if !bad.0.random_bool(part) {
            return Fate::Well;
        }
        self.suffered.fetch_add(1, SeqCst);
        match bad.0.random_range(0..if self.spoils { 4 } else { 2 }) {
            0 => Fate::Lost,
            1 => Fate::Unheard,
            2 => Fate::Cut,
            _ => Fate::Flipped,
        }
    }
}

fn failed() -> object_store::Error {
    object_store::Error::Generic { store: "weather", source: "the network failed".into() }
}

impl fmt::Debug for Weather {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Weather")
    }
}
impl fmt::Display for Weather {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Weather")
    }
}

#[async_trait]
impl ObjectStore for Weather {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> object_store::Result<PutResult> {
        // The store in memory would keep what it is given: the node's own mapping, beyond the node's end.
        let bytes = Bytes::copy_from_slice(&Bytes::from(payload));
        match self.fate() {
            Fate::Well => self.store.put_opts(location, bytes.into(), opts).await,
            Fate::Unheard => self.store.put_opts(location, bytes.into(), opts).await.and(Err(failed())),
            // A store that keeps half of it: reading it back finds that.
            Fate::Cut | Fate::Flipped => self.store.put_opts(location, bytes.slice(..bytes.len() / 2).into(), opts).await,
            Fate::Lost => Err(failed()),
        }
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        let (fate, head) = (self.fate(), options.head);
        if matches!(fate, Fate::Lost | Fate::Unheard) {
            return Err(failed());
        }
        let got = self.store.get_opts(location, options).await?;
        if head || matches!(fate, Fate::Well) {
            return Ok(got);
        }
        let (meta, range, attributes, extensions) = (got.meta.clone(), got.range.clone(), got.attributes.clone(), got.extensions.clone());
        let mut bytes = got.bytes().await?.to_vec();
        let payload = if matches!(fate, Fate::Cut) {
            let half = Bytes::from(bytes[..bytes.len() / 2].to_vec());
            futures::stream::iter([Ok(half), Err(failed())]).boxed()
        } else {
            let middle = bytes.len() / 2;
            bytes.iter_mut().skip(middle).take(1).for_each(|byte| *byte ^= 1);
            futures::stream::iter([Ok(Bytes::from(bytes))]).boxed()
        };
        Ok(GetResult { payload: GetResultPayload::Stream(payload), meta, range, attributes, extensions })
    }

    fn delete_stream(&self, locations: BoxStream<'static, object_store::Result<Path>>) -> BoxStream<'static, object_store::Result<Path>> {
        let weather = self.clone();
        let each = move |location: object_store::Result<Path>| {
            let weather = weather.clone();
            async move {
                let location = location?;
                let fate = weather.fate();
                if matches!(fate, Fate::Lost) {
                    return Err(failed());
                }
                let one = futures::stream::iter([Ok(location.clone())]).boxed();
                weather.store.delete_stream(one).try_collect::<Vec<_>>().await?;
                if matches!(fate, Fate::Well) { Ok(location) } else { Err(failed()) }
            }
        };
        locations.then(each).boxed()
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
