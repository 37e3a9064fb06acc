//! The persistency tier: a folder, or a bucket of S3, Google or Azure, behind one interface.
//!
//! An object lies under its id, so nothing is ever overwritten and a name from outside never becomes a path. What was uploaded is
//! compared before anyone relies on it: by the sum that the store has made of what it got, or else by reading it back. Nothing here decides what is uploaded or removed.

use crate::{BucketName, Error, Key, ObjectId, Referee, Result, home::Home, lay::{self, Laid}, names::Prefix, node::compute};
use base::{Kind, Pace, behind};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use md5::{Digest, Md5};
use object_store::{
    Attribute, Attributes, BackoffConfig, ClientOptions, GetOptions, GetResult, GetResultPayload, MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, RetryConfig,
    aws::AmazonS3Builder,
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    gcp::GoogleCloudStorageBuilder,
    path::Path as Location,
};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fmt::{self, Write},
    io, ops,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    runtime::Handle,
    task::{JoinError, JoinSet},
};
use xxhash_rust::xxh3::Xxh3;

/// Larger objects go up in parts of this size, or of a larger one where that would be too many: S3 and Google allow 10 000, Azure 50 000.
const PART_BYTES: usize = 16 << 20;
const PARTS_MAX: usize = 10_000;
/// The longest key, escaped, that goes along with an upload: S3 takes 2 KiB of user metadata and no more.
const DESCRIBED_MAX: usize = 1800;
/// Where it is written down which of two namenodes leads.
const REFEREE: &str = ".cloudskin/namenode";
/// Parts on their way at a time, for one object: 64 MiB.
const PARTS_AT_A_TIME: usize = 4;
/// Memory that is taken for what is read before it comes.
const READ_AT_ONCE: usize = 16 << 20;
/// What is read of a file at a time.
const FILE_CHUNK: usize = 1 << 20;

/// How long a request that got no connection, or an answer that says "later", is tried again: a server that is started anew is waited for.
/// With the last pause and the last try to connect, the caller hears of an outage within 30 s.
const RETRY_MAX: Duration = Duration::from_secs(20);
/// The longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(2);
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// For one request that has a connection: 16 MiB over a slow line.
const REQUEST_MAX: Duration = Duration::from_secs(120);

/// Whether the persistency tier has an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum There {
    Yes,
    /// Another one, or none.
    No,
    /// Nobody answers: it has what it had.
    Silent,
}

/// A word that must not appear in logs.
#[derive(Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(secret: impl Into<String>) -> Secret {
        Secret(secret.into())
    }
    /// Nothing is set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// An S3 bucket and the right to use it.
#[derive(Clone, Debug, Default)]
pub struct S3Options {
    /// Such as `http://127.0.0.1:8333`; `None` for Amazon's own.
    pub endpoint: Option<String>,
    pub bucket: String,
    pub region: String,
    pub access_key: Secret,
    pub secret_key: Secret,
    /// The bucket in the path of the URL and not in its host name.
    pub path_style: bool,
    /// Allow an endpoint without TLS.
    pub allow_http: bool,
    /// The longest that one request may take, and that one which fails is tried again; `None`: 120 s and 20 s.
    pub timeout: Option<Duration>,
}

/// A bucket of Google's and the right to use it.
#[derive(Clone, Debug, Default)]
pub struct GsOptions {
    /// Such as `http://127.0.0.1:4443`; `None` for Google's own.
    pub endpoint: Option<String>,
    pub bucket: String,
    /// The file of a service account's key; `None`: what the machine offers, its application's default or the instance's own account.
    pub key_file: Option<PathBuf>,
    /// Nothing proves who asks: for emulators and public buckets.
    pub anonymous: bool,
    /// Allow an endpoint without TLS.
    pub allow_http: bool,
    /// The longest that one request may take, and that one which fails is tried again; `None`: 120 s and 20 s.
    pub timeout: Option<Duration>,
}

/// A container of Azure's and the right to use it: the account's key or a shared access signature, else the machine's managed identity.
#[derive(Clone, Debug, Default)]
pub struct AzureOptions {
    /// Such as `http://127.0.0.1:10000/account`; `None` for Microsoft's own.
    pub endpoint: Option<String>,
    pub account: String,
    pub container: String,
    pub key: Secret,
    /// `sv=…&sig=…`.
    pub sas: Secret,
    /// Allow an endpoint without TLS.
    pub allow_http: bool,
    /// The longest that one request may take, and that one which fails is tried again; `None`: 120 s and 20 s.
    pub timeout: Option<Duration>,
}

#[derive(Clone)]
pub struct Persist {
    store: Arc<dyn ObjectStore>,
    name: String,
    /// It keeps metadata of objects. Folders don't.
    describes: bool,
    /// The same as `store`, if it is a folder: what is written there is laid down by us, for the sake of others who write to the same disk.
    folder: Option<Home>,
    /// Where it listens, if that was said.
    endpoint: Option<String>,
    /// What its entity tags are, of uploads in one piece and of those in parts: [`UNKNOWN`], [`SUMS`] or [`NO_SUMS`].
    tags: Arc<[AtomicU8; 2]>,
}

impl fmt::Debug for Persist {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Persist({})", self.name)
    }
}
impl fmt::Display for Persist {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Nothing that was put there has been compared yet.
const UNKNOWN: u8 = 0;
/// Sums of what it got: one was, and what it belongs to came back whole, so that who asks may also read there.
const SUMS: u8 = 1;
/// One was something else.
const NO_SUMS: u8 = 2;

/// What lies in the tier at a name that anybody may write to.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub location: String,
    /// Bytes.
    pub size: u64,
    pub modified_ms: u64,
    /// Changes with the content.
    pub tag: Option<String>,
}

impl From<object_store::ObjectMeta> for Found {
    fn from(meta: object_store::ObjectMeta) -> Found {
        let modified_ms = u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or(0);
        Found { location: meta.location.to_string(), size: meta.size, modified_ms, tag: meta.e_tag }
    }
}

/// The first names of a listing, in their order.
struct Firsts {
    names: BTreeMap<String, Option<Found>>,
    after: String,
    limit: usize,
    more: bool,
}

impl Firsts {
    fn add(&mut self, name: String, found: Option<Found>) {
        if name > self.after {
            self.names.insert(name, found);
            if self.names.len() > self.limit {
                self.names.pop_last();
                self.more = true;
            }
        }
    }
}

fn failed(action: &'static str, location: &str) -> impl Fn(object_store::Error) -> Error + use<> {
    let location = location.to_string();
    move |source| Error::Persist { action, location: location.clone(), source }
}

/// Whether requests can be made to an address. The library finds out when it makes one, and does not say what is wrong, or panics.
fn check(what: &'static str, endpoint: Option<&str>, allow_http: bool) -> Result<()> {
    let Some(endpoint) = endpoint else { return Ok(()) };
    let refused = |rule| Err(Error::BadValue { what, value: endpoint.into(), rule });
    match reqwest::Url::parse(endpoint) {
        Ok(url) if url.scheme() == "https" && url.has_host() => Ok(()),
        Ok(url) if url.scheme() == "http" && url.has_host() && allow_http => Ok(()),
        Ok(url) if url.scheme() == "http" && url.has_host() => {
            refused("what goes over http:// can be read on its way: write https://, or allow it with `s3_allow_http`, `gs_allow_http` or `az_allow_http` (CLOUDSKIN_GEDS__S3_ALLOW_HTTP=true, …)")
        }
        _ => refused("write it with https:// or http:// in front, such as http://127.0.0.1:8333"),
    }
}

/// How requests are made.
fn client(allow_http: bool, timeout: Option<Duration>) -> ClientOptions {
    let longest = timeout.unwrap_or(REQUEST_MAX);
    ClientOptions::new().with_allow_http(allow_http).with_connect_timeout(CONNECT_MAX.min(longest)).with_timeout(longest)
}

/// More tries than the time for them allows. The time is the bound and not the count, because the pauses are random.
const TRIES_MAX: usize = 1000;

fn patience(timeout: Option<Duration>) -> RetryConfig {
    let retry_timeout = timeout.map_or(RETRY_MAX, |timeout| timeout.min(RETRY_MAX));
    RetryConfig { max_retries: TRIES_MAX, retry_timeout, backoff: BackoffConfig { max_backoff: PAUSE_MAX, ..BackoffConfig::default() } }
}

/// What is got, as it comes. A file is read in large pieces: the library's own take 8 KiB, each with a change of threads, which is three quarters of the time of an object of 1 MiB.
fn stream_of(got: GetResult, location: &str) -> BoxStream<'static, Result<Bytes>> {
    let (file, path) = match got.payload {
        GetResultPayload::Stream(stream) => return stream.map_err(failed("read", location)).boxed(),
        GetResultPayload::File(file, path) => (Arc::new(file), path),
    };
    let end = got.range.end;
    let pieces = futures::stream::try_unfold(got.range.start, move |at| {
        let (file, path) = (file.clone(), path.clone());
        async move {
            let most = FILE_CHUNK.min((end - at) as usize);
            let read = move || {
                let mut piece = vec![0; most];
                file.read_exact_at(&mut piece, at).map(|()| piece)
            };
            match most {
                0 => Ok(None),
                _ => {
                    let piece = compute(read).await?.map_err(|source| Error::File { action: "read", path, source })?;
                    Ok(Some((Bytes::from(piece), at + most as u64)))
                }
            }
        }
    });
    pieces.boxed()
}

/// A name as a header may carry it: what is not printable ASCII, spaces and `%` as `%` and two hexadecimal digits for each byte.
fn escaped(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'%' | ..=b' ' | 0x7f.. => {
                let _ = write!(out, "%{byte:02X}"); // a string takes all
            }
            _ => out.push(byte.into()),
        }
    }
    out
}

/// An upload in parts, which is ended or taken back: parts that stay behind cost money and are in no listing. Whoever waits for it may be gone before that.
struct Parts {
    upload: Option<Box<dyn MultipartUpload>>,
    location: String,
}

impl Parts {
    /// Gives the entity tag.
    async fn put(mut self, content: Bytes, pace: &Pace) -> object_store::Result<Option<String>> {
        let done = self.put_all(content, pace).await;
        let upload = self.upload.take();
        if let (Err(_), Some(upload)) = (&done, upload) {
            take_back(upload, &self.location).await;
        }
        done
    }

    async fn put_all(&mut self, content: Bytes, pace: &Pace) -> object_store::Result<Option<String>> {
        let upload = self.upload.as_mut().expect("it is taken when this has returned");
        let part_bytes = part_bytes(content.len());
        // Dropped, they are called off.
        let mut under_way = JoinSet::new();
        for at in (0..content.len()).step_by(part_bytes) {
            if under_way.len() == PARTS_AT_A_TIME {
                joined(under_way.join_next().await)?;
            }
            let part = content.slice(at..content.len().min(at + part_bytes));
            pace.wait(part.len() as u64).await;
            under_way.spawn(upload.put_part(part.into()));
        }
        while let Some(part) = under_way.join_next().await {
            joined(Some(part))?;
        }
        upload.complete().await.map(|put| put.e_tag)
    }
}

fn joined(part: Option<Result<object_store::Result<()>, JoinError>>) -> object_store::Result<()> {
    match part {
        Some(Ok(done)) => done,
        Some(Err(e)) => Err(object_store::Error::JoinError { source: e }),
        None => Ok(()),
    }
}

/// Writes an object into a folder, where it has no name yet, in parts and not faster than `pace`.
async fn lay(folder: &Home, location: &str, content: Bytes, pace: &Pace) -> Result<Laid> {
    let path = folder.path_of(&Location::from(location)).map_err(failed("write", location))?;
    let home = folder.clone();
    let mut laid = compute(move || home.check().and_then(|()| Laid::begin(path))).await?.map_err(not_laid(location))?;
    for at in (0..content.len()).step_by(PART_BYTES) {
        let part = content.slice(at..content.len().min(at + PART_BYTES));
        pace.wait(part.len() as u64).await;
        laid = compute(move || laid.write(&part).map(|()| laid)).await?.map_err(not_laid(location))?;
    }
    Ok(laid)
}

/// Gives it its name, which is worth something only if it is in the same folder.
async fn finished<T: Send + 'static>(folder: &Home, location: &str, name: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T> {
    let home = folder.clone();
    let finish = move || {
        let done = name();
        home.check().and(done)
    };
    let done = compute(finish).await?.map_err(not_laid(location))?;
    folder.has(&Location::from(location));
    Ok(done)
}

/// An error of a folder, of the kind that the library's own have.
fn not_laid(location: &str) -> impl Fn(io::Error) -> Error + use<> {
    let location = location.to_string();
    move |e| {
        let (path, kind, source) = (location.clone(), e.kind(), Box::new(e));
        failed("write", &location)(match kind {
            io::ErrorKind::NotFound => object_store::Error::NotFound { path, source },
            io::ErrorKind::PermissionDenied => object_store::Error::PermissionDenied { path, source },
            _ => object_store::Error::Generic { store: "folder", source },
        })
    }
}

async fn take_back(mut upload: Box<dyn MultipartUpload>, location: &str) {
    // The failure of the upload is what the caller must hear of.
    if let Err(e) = upload.abort().await {
        tracing::warn!(%location, error = %e, "parts of a failed upload stay behind");
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        if let (Some(upload), Ok(runtime)) = (self.upload.take(), Handle::try_current()) {
            let location = std::mem::take(&mut self.location);
            runtime.spawn(async move { take_back(upload, &location).await });
        }
    }
}

/// Whether an entity tag is the MD5 of this content, as that of S3 is unless it encrypts with keys of a key service or of the customer's, and Google's; of an upload in parts, the MD5 of the parts' MD5s and how many
/// they are. Others', and Azure's, are something else.
fn is_sum_of(tag: &str, content: &[u8]) -> bool {
    let tag = tag.trim_matches('"');
    let (sum, parts) = tag.split_once('-').map_or((tag, None), |(sum, parts)| (sum, Some(parts)));
    let Some(told) = (sum.len() == 32).then(|| u128::from_str_radix(sum, 16).ok()).flatten() else { return false };
    let part_bytes = if parts.is_some() { part_bytes(content.len()) } else { content.len() };
    if parts.is_some_and(|parts| parts.parse() != Ok(content.len().div_ceil(part_bytes))) {
        return false;
    }
    let made = match parts {
        None => md5(content),
        Some(_) => content.chunks(part_bytes).fold(Md5::new(), |all, part| all.chain_update(md5(part))).finalize(),
    };
    told.to_be_bytes() == made[..]
}

/// The MD5 of some bytes, which takes milliseconds for some MiB, in turn with what others do.
fn md5(bytes: &[u8]) -> md5::digest::Output<Md5> {
    let mut sum = Md5::new();
    in_turns(bytes, |some| sum.update(some));
    sum.finalize()
}

/// The checksum of objects, in the same way.
fn xxh3(bytes: &[u8]) -> u64 {
    let mut sum = Xxh3::new();
    in_turns(bytes, |some| sum.update(some));
    sum.digest()
}

fn in_turns(bytes: &[u8], mut work: impl FnMut(&[u8])) {
    for some in bytes.chunks(behind::TURN_BYTES) {
        work(some);
        behind::turn();
    }
}

/// The size of the parts of an object.
fn part_bytes(size: usize) -> usize {
    PART_BYTES.max(size.div_ceil(PARTS_MAX))
}

impl Persist {
    /// A folder, made for this user alone if it isn't there. Several nodes may share it over a network file system.
    pub fn folder(path: impl AsRef<Path>) -> Result<Persist> {
        // Where it lies is told, and does not change with the working directory.
        let path = &std::path::absolute(&path).unwrap_or_else(|_| path.as_ref().into());
        crate::private::folder(path).map_err(|source| Error::File { action: "create", path: path.clone(), source })?;
        // So that its name is on disk before anything in it; who may not open the one above has not made it.
        let _ = lay::sync_folder_of(path);
        let name = format!("file:{}", path.display());
        let home = Home::open(path).map_err(failed("open", &name))?;
        Ok(Persist { folder: Some(home.clone()), describes: false, ..Persist::over(Arc::new(home), name) })
    }

    /// An object there says which of two namenodes leads.
    pub(crate) fn referee(&self) -> Referee {
        Referee::store(self.store.clone(), REFEREE)
    }

    /// Another kind of store, which a program brings along and which keeps objects' metadata. What is told of it is `name`.
    pub fn over(store: Arc<dyn ObjectStore>, name: impl Into<String>) -> Persist {
        Persist { store, name: name.into(), describes: true, folder: None, endpoint: None, tags: Arc::new([const { AtomicU8::new(UNKNOWN) }; 2]) }
    }

    /// An S3 bucket, which must exist. A server that is away for a moment is waited for; one that can't be reached is told as an error
    /// within 30 s. (A large object's upload that failed is then taken back, which may take as long again.)
    pub fn s3(options: S3Options) -> Result<Persist> {
        // The HTTP client takes the process's TLS provider.
        base::identity::install_crypto();
        check("`s3_endpoint` in [geds]", options.endpoint.as_deref(), options.allow_http)?;
        let name = format!("s3:{}", options.bucket);
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&options.bucket)
            .with_region(if options.region.is_empty() { "us-east-1" } else { &options.region })
            .with_virtual_hosted_style_request(!options.path_style)
            .with_client_options(client(options.allow_http, options.timeout))
            .with_retry(patience(options.timeout));
        if let Some(endpoint) = &options.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if !options.access_key.is_empty() {
            builder =
                builder.with_access_key_id(&options.access_key.0).with_secret_access_key(&options.secret_key.0);
        }
        let store = Arc::new(builder.build().map_err(failed("open", &name))?);
        Ok(Persist { endpoint: options.endpoint, ..Persist::over(store, name) })
    }

    /// A bucket of Google's, which must exist; with the patience of [`Persist::s3`].
    pub fn gs(options: GsOptions) -> Result<Persist> {
        base::identity::install_crypto();
        check("`gs_endpoint` in [geds]", options.endpoint.as_deref(), options.allow_http)?;
        let name = format!("gs:{}", options.bucket);
        let mut builder = GoogleCloudStorageBuilder::new()
            .with_bucket_name(&options.bucket)
            .with_client_options(client(options.allow_http, options.timeout))
            .with_retry(patience(options.timeout));
        if let Some(endpoint) = &options.endpoint {
            builder = builder.with_base_url(endpoint.trim_end_matches('/'));
        }
        if options.anonymous {
            // The library leaves the proof out when it reads only; what it shows when it writes is empty then.
            builder = builder.with_skip_signature(true).with_bearer_token("");
        } else if let Some(file) = &options.key_file {
            builder = builder.with_service_account_path(file.to_string_lossy());
        }
        let store = Arc::new(builder.build().map_err(failed("open", &name))?);
        Ok(Persist { endpoint: options.endpoint, ..Persist::over(store, name) })
    }

    /// A container of Azure's, which must exist; with the patience of [`Persist::s3`].
    pub fn azure(options: AzureOptions) -> Result<Persist> {
        base::identity::install_crypto();
        check("`az_endpoint` in [geds]", options.endpoint.as_deref(), options.allow_http)?;
        let name = format!("az:{}", options.container);
        if options.account.is_empty() {
            return Err(Error::BadValue { what: "`az_account` in [geds]", value: String::new(), rule: "name the storage account that has the container" });
        }
        let mut builder = MicrosoftAzureBuilder::new()
            .with_account(&options.account)
            .with_container_name(&options.container)
            .with_client_options(client(options.allow_http, options.timeout))
            .with_retry(patience(options.timeout));
        if let Some(endpoint) = &options.endpoint {
            builder = builder.with_endpoint(endpoint.clone());
        }
        if !options.key.is_empty() {
            builder = builder.with_access_key(&options.key.0);
        } else if !options.sas.is_empty() {
            builder = builder.with_config(AzureConfigKey::SasKey, &options.sas.0);
        }
        let store = Arc::new(builder.build().map_err(failed("open", &name))?);
        Ok(Persist { endpoint: options.endpoint, ..Persist::over(store, name) })
    }

    /// Why it does not answer, as far as that is known at once, where its own client tries for long before it says so: its address has no host, or nobody listens there.
    pub async fn why_silent(&self) -> Option<String> {
        let endpoint = self.endpoint.as_deref()?;
        let url = reqwest::Url::parse(endpoint).ok()?;
        let at = (url.host_str()?.trim_matches(['[', ']']).to_string(), url.port_or_known_default()?);
        let why = match tokio::time::timeout(CONNECT_MAX, tokio::net::TcpStream::connect(at)).await {
            Ok(Ok(_)) => "it takes connections".into(),
            Ok(Err(e)) => e.to_string(),
            Err(_) => format!("no connection within {CONNECT_MAX:?}"),
        };
        Some(format!("{endpoint}: {why}"))
    }

    /// Where an object lies that is uploaded.
    pub(crate) fn place(id: ObjectId) -> String {
        format!("objects/{id}")
    }

    /// Uploads an object, not faster than `pace`, and compares what has come there with `checksum`. The location is worth recording only when this returned. `named`: what it is called now, for who
    /// finds it there.
    pub(crate) async fn put(&self, named: (&BucketName, &Key), id: ObjectId, content: Bytes, checksum: u64, pace: &Pace) -> Result<String> {
        let location = Persist::place(id);
        let path = Location::from(location.as_str());
        let (size, sent, in_parts) = (content.len(), content.clone(), content.len() > PART_BYTES);
        let tag = if let Some(folder) = &self.folder {
            let laid = lay(folder, &location, content, pace).await?;
            finished(folder, &location, move || laid.replace()).await?;
            None
        } else if !in_parts {
            pace.wait(size as u64).await;
            self.store.put_opts(&path, content.into(), self.described(named).into()).await.map_err(failed("write", &location))?.e_tag
        } else {
            let upload = self.store.put_multipart_opts(&path, self.described(named).into()).await.map_err(failed("write", &location))?;
            Parts { upload: Some(upload), location: location.clone() }.put(content, pace).await.map_err(failed("write", &location))?
        };
        let (found, equal) = self.compare(&location, tag, in_parts, sent, Some(checksum)).await?;
        if !equal {
            return Err(Error::Peer {
                peer: self.name.clone(),
                message: format!("{location} came back with {found} bytes of {size}, or with other content"),
            });
        }
        Ok(location)
    }

    /// Compares what lies at a location with the content that was put there, of which this is the checksum if it is known: how many bytes there are, and whether it is that. A store whose
    /// entity tags have been sums, and which has given back what it took, is believed when the next one is the sum; any other is read.
    async fn compare(&self, location: &str, tag: Option<String>, in_parts: bool, content: Bytes, checksum: Option<u64>) -> Result<(u64, bool)> {
        let (size, tags) = (content.len() as u64, &self.tags[usize::from(in_parts)]);
        let tag = tag.filter(|_| tags.load(Relaxed) != NO_SUMS);
        // The content is not held while it is read there.
        let (sum, is_sum) = match (tag, checksum) {
            (None, Some(checksum)) => {
                drop(content);
                (checksum, None)
            }
            (tag, _) => compute(move || (xxh3(&content), tag.map(|tag| is_sum_of(&tag, &content)))).await?,
        };
        let checksum = checksum.unwrap_or(sum);
        if is_sum == Some(true) && sum == checksum && tags.load(Relaxed) == SUMS {
            return Ok((size, true));
        }
        let (found, there) = self.look_through(location).await?;
        let equal = found == size && there == checksum;
        if let (true, Some(is_sum)) = (equal, is_sum) {
            tags.store(if is_sum { SUMS } else { NO_SUMS }, Relaxed);
            tracing::debug!(store = %self, in_parts, is_sum, "what its entity tags are");
        }
        Ok((found, equal))
    }

    /// The user metadata of an upload.
    fn described(&self, (bucket, key): (&BucketName, &Key)) -> Attributes {
        let mut attributes = Attributes::new();
        if self.describes {
            attributes.insert(Attribute::Metadata("bucket".into()), bucket.to_string().into());
            let key = escaped(key.as_str());
            if key.len() <= DESCRIBED_MAX {
                attributes.insert(Attribute::Metadata("key".into()), key.into());
            }
        }
        attributes
    }

    /// Reads an object to its end: its length and its checksum.
    async fn look_through(&self, location: &str) -> Result<(u64, u64)> {
        let got = self.store.get(&Location::from(location)).await.map_err(failed("read", location))?;
        let (mut hash, mut found) = (Xxh3::new(), 0u64);
        if let GetResultPayload::File(file, path) = got.payload {
            let range = got.range;
            let read = move || {
                let mut buf = vec![0; behind::TURN_BYTES.min((range.end - range.start) as usize)];
                loop {
                    let most = buf.len().min((range.end - range.start - found) as usize);
                    match file.read_at(&mut buf[..most], range.start + found)? {
                        0 => return Ok((found, hash.digest())),
                        n => {
                            hash.update(&buf[..n]);
                            found += n as u64;
                            behind::turn();
                        }
                    }
                }
            };
            return compute(read).await?.map_err(|source| Error::File { action: "read", path, source });
        }
        let mut stream = stream_of(got, location);
        while let Some(chunk) = stream.try_next().await? {
            in_turns(&chunk, |some| hash.update(some));
            found += chunk.len() as u64;
        }
        Ok((found, hash.digest()))
    }

    /// The content, as it comes.
    pub(crate) async fn get(&self, location: &str) -> Result<BoxStream<'static, Result<Bytes>>> {
        let got = self.store.get(&Location::from(location)).await.map_err(failed("read", location))?;
        Ok(stream_of(got, location))
    }

    /// A name below a place; the place may be all of the tier.
    pub(crate) fn below(&self, place: &str, name: &str) -> String {
        if place.is_empty() || name.is_empty() { format!("{place}{name}") } else { format!("{place}/{name}") }
    }

    /// A name as others wrote it, where [`Location::from`] would escape what it doesn't like. `None`: no name that can be asked for.
    fn exactly(name: &str) -> Option<Location> {
        Location::parse(name).ok()
    }

    /// What lies at a name, if anything does.
    pub(crate) async fn look(&self, location: &str) -> Result<Option<Found>> {
        let Some(path) = Self::exactly(location) else { return Ok(None) };
        match self.store.head(&path).await {
            Ok(meta) => Ok(Some(meta.into())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(failed("look up", location)(e)),
        }
    }

    /// Bytes of what was found, as they come; fails if something else lies there by now.
    pub(crate) async fn read_found(&self, found: &Found, range: ops::Range<u64>) -> Result<BoxStream<'static, Result<Bytes>>> {
        let Some(path) = Self::exactly(&found.location).filter(|_| !range.is_empty()) else { return Ok(futures::stream::empty().boxed()) };
        let options = GetOptions { if_match: found.tag.clone(), range: Some(range.into()), ..GetOptions::default() };
        let got = self.store.get_opts(&path, options).await.map_err(failed("read", &found.location))?;
        Ok(stream_of(got, &found.location))
    }

    /// The first `limit` keys of a place after `after`, with what lies there, and folders if there is a delimiter; and whether there are more.
    ///
    /// Stores differ in the order in which they list, so without the delimiter `/` all that is below the prefix is looked through, whatever the limit. No more than
    /// the limit is kept at a time.
    pub(crate) async fn page(
        &self,
        place: &str,
        prefix: &Prefix,
        delimiter: Option<char>,
        after: &str,
        limit: usize,
        shown: impl Fn(&str) -> bool,
    ) -> Result<(BTreeMap<String, Option<Found>>, bool)> {
        let mut firsts = Firsts { names: BTreeMap::new(), after: after.into(), limit, more: false };
        if let Some(exact) = prefix.exact.as_deref() {
            let found = self.look(&self.below(place, exact)).await?.filter(|found| shown(&found.location));
            found.into_iter().for_each(|found| firsts.add(exact.into(), Some(found)));
        }
        let base = self.below(place, prefix.below.trim_end_matches('/'));
        let Some(path) = Self::exactly(&base) else { return Ok((firsts.names, firsts.more)) };
        let path = Some(&path).filter(|_| !base.is_empty());
        let skip = if place.is_empty() { 0 } else { place.len() + 1 };
        let mut one = |meta: object_store::ObjectMeta| {
            let found = Found::from(meta);
            let key = found.location.get(skip..).filter(|key| Key::new(*key).is_ok() && key.starts_with(&prefix.below) && shown(&found.location));
            let Some(key) = key.map(String::from) else { return };
            match delimiter.and_then(|d| key[prefix.below.len()..].find(d).map(|at| prefix.below.len() + at + d.len_utf8())) {
                Some(end) => firsts.add(key[..end].into(), None),
                None => firsts.add(key, Some(found)),
            }
        };
        if delimiter == Some('/') {
            let listed = match self.store.list_with_delimiter(path).await {
                Err(object_store::Error::NotFound { .. }) => return Ok((firsts.names, firsts.more)),
                listed => listed.map_err(failed("list", &base))?,
            };
            listed.objects.into_iter().for_each(&mut one);
            for folder in listed.common_prefixes {
                let folder = format!("{folder}/");
                if shown(&folder) {
                    folder.get(skip..).into_iter().for_each(|folder| firsts.add(folder.into(), None));
                }
            }
        } else {
            let mut listed = self.store.list(path);
            while let Some(meta) = listed.try_next().await.map_err(failed("list", &base))? {
                one(meta);
            }
        }
        Ok((firsts.names, firsts.more))
    }

    /// How large the stored object is, in bytes.
    pub(crate) async fn size(&self, location: &str) -> Result<u64> {
        Ok(self.store.head(&Location::from(location)).await.map_err(failed("look up", location))?.size)
    }

    /// Whether an object of this size is there. An error is an answer, too, and says nothing of what the store has: a disk that fails has perhaps lost it, and a right that is gone comes back.
    pub(crate) async fn there(&self, location: &str, size: u64, within: Duration) -> Result<There> {
        match tokio::time::timeout(within, self.size(location)).await {
            // A server that refuses connections is tried again for longer than that.
            Err(_) => Ok(There::Silent),
            Ok(Ok(found)) if found == size => Ok(There::Yes),
            Ok(Ok(_)) => Ok(There::No),
            Ok(Err(e)) if e.kind() == Kind::NotFound => Ok(There::No),
            Ok(Err(e)) => Err(e),
        }
    }

    /// Writes an object under a name of the caller's, unless there is one: `false` then. It is there as a whole or not at all.
    pub async fn create(&self, location: &str, content: Bytes) -> Result<bool> {
        Ok(self.create_tagged(location, content).await?.is_some())
    }

    /// The same, for who gives each object a name of its own: whether what is there then is this content. What was there already may be an upload of the caller's whose answer was lost.
    pub async fn create_compared(&self, location: &str, content: Bytes) -> Result<bool> {
        let tag = self.create_tagged(location, content.clone()).await?.flatten();
        Ok(self.compare(location, tag, false, content, None).await?.1)
    }

    /// `None`: there is one already. Else its entity tag, if it got one.
    async fn create_tagged(&self, location: &str, content: Bytes) -> Result<Option<Option<String>>> {
        if let Some(folder) = &self.folder {
            let laid = lay(folder, location, content, &Pace::default()).await?;
            return finished(folder, location, move || laid.create()).await.map(|made| made.then_some(None));
        }
        let path = Location::from(location);
        match self.store.put_opts(&path, content.into(), PutMode::Create.into()).await {
            Ok(put) => Ok(Some(put.e_tag)),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(None),
            Err(e) => Err(failed("write", location)(e)),
        }
    }

    /// Some bytes of an object. Others have their turn between pieces of it.
    pub async fn read(&self, location: &str, range: ops::Range<u64>) -> Result<Bytes> {
        let (at, bytes) = (Location::from(location), (range.end - range.start) as usize);
        let options = GetOptions { range: Some(range.into()), ..GetOptions::default() };
        let got = self.store.get_opts(&at, options).await.map_err(failed("read", location))?;
        if let GetResultPayload::File(file, path) = got.payload {
            let range = got.range;
            let read = move || {
                let mut all = vec![0; (range.end - range.start) as usize];
                for (n, some) in all.chunks_mut(behind::TURN_BYTES).enumerate() {
                    file.read_exact_at(some, range.start + (n * behind::TURN_BYTES) as u64)?;
                    behind::turn();
                }
                Ok(all.into())
            };
            return compute(read).await?.map_err(|source| Error::File { action: "read", path, source });
        }
        let (mut stream, mut all, mut since) = (stream_of(got, location), BytesMut::with_capacity(bytes.min(READ_AT_ONCE)), 0);
        while let Some(piece) = stream.try_next().await? {
            all.extend_from_slice(&piece);
            since += piece.len();
            if since >= behind::TURN_BYTES {
                behind::turn();
                since = 0;
            }
        }
        Ok(all.freeze())
    }

    /// All bytes of an object.
    pub async fn read_all(&self, location: &str) -> Result<Bytes> {
        let got = self.store.get(&Location::from(location)).await.map_err(failed("read", location))?;
        got.bytes().await.map_err(failed("read", location))
    }

    /// The names of objects below a name, which ends at a `/` of theirs.
    pub async fn list(&self, below: &str) -> Result<Vec<String>> {
        let found: Vec<_> = self.store.list(Some(&Location::from(below))).try_collect().await.map_err(failed("list", below))?;
        Ok(found.into_iter().map(|o| o.location.to_string()).collect())
    }

    /// Removes what uploads below a name have left that a crash has ended; gives how many there were. Nobody else may be writing there. Stores other than folders do so by themselves.
    pub async fn forget_unfinished(&self, below: &str) -> Result<u64> {
        let Some(folder) = &self.folder else { return Ok(0) };
        let path = folder.path_of(&Location::from(below)).map_err(failed("look up", below))?;
        let forget = { let path = path.clone(); move || lay::forget(&path) };
        compute(forget).await?.map_err(|source| Error::File { action: "clear", path, source })
    }

    /// The names of the folders right below a name, without that: what lies between it and the next `/`.
    pub async fn folders(&self, below: &str) -> Result<Vec<String>> {
        match self.store.list_with_delimiter(Some(&Location::from(below))).await {
            Ok(found) => Ok(found.common_prefixes.iter().filter_map(|folder| Some(folder.parts().next_back()?.as_ref().to_string())).collect()),
            Err(object_store::Error::NotFound { .. }) => Ok(Vec::new()),
            Err(e) => Err(failed("list", below)(e)),
        }
    }

    /// Removes what `ObjectMeta::persisted` names. That it is gone already is fine.
    pub async fn delete(&self, location: &str) -> Result<()> {
        match self.store.delete(&Location::from(location)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(failed("delete", location)(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{Read, Write as _},
        net::TcpListener,
        time::Instant,
    };

    fn s3(port: u16) -> Persist {
        let options = S3Options {
            endpoint: Some(format!("http://127.0.0.1:{port}")),
            bucket: "b".into(),
            access_key: Secret::new("key"),
            secret_key: Secret::new("secret"),
            path_style: true,
            allow_http: true,
            ..S3Options::default()
        };
        Persist::s3(options).unwrap()
    }

    #[test]
    fn an_object_has_no_more_parts_than_stores_allow() {
        for size in [PART_BYTES + 1, 156 << 30, 157 << 30, 5 << 40] {
            assert!(size.div_ceil(part_bytes(size)) <= PARTS_MAX, "{size}");
        }
        assert_eq!(part_bytes(1 << 30), PART_BYTES);
    }

    /// As `md5sum` and `openssl md5` make them.
    #[test]
    fn an_entity_tag_is_compared_with_what_was_sent_in_one_piece_or_in_parts() {
        assert!(is_sum_of("\"900150983cd24fb0d6963f7d28e17f72\"", b"abc") && is_sum_of("d41d8cd98f00b204e9800998ecf8427e", b""));
        assert!(!is_sum_of("\"900150983cd24fb0d6963f7d28e17f72\"", b"abd"));
        let large = vec![b'a'; PART_BYTES + 1];
        let parts = "48e71d30757e1eff6c4e8a55fe9782fa";
        assert!(is_sum_of(&format!("\"{parts}-2\""), &large));
        assert!(!is_sum_of(&format!("{parts}-2"), &[&large[..PART_BYTES], b"b"].concat()));
        for other in [format!("{parts}-3"), parts.into(), format!("{parts}-"), "-2".into(), String::new(), "\"1\"".into(), "0x8DC0".into()] {
            assert!(!is_sum_of(&other, &large), "{other}");
        }
    }

    #[test]
    fn a_name_goes_into_a_header_and_a_long_one_stays_away() {
        assert_eq!(escaped("a b/\u{e9}%~\n"), "a%20b/%C3%A9%25~%0A");
        let persist = Persist::over(Arc::new(object_store::memory::InMemory::new()), "memory");
        let bucket = BucketName::new("data").unwrap();
        let described = |key: &str| persist.described((&bucket, &Key::new(key).unwrap())).len();
        assert_eq!((described("a"), described(&"a".repeat(1024)), described(&"\u{e9}".repeat(500))), (2, 2, 1));
    }

    #[test]
    fn an_address_that_no_request_can_go_to_is_refused() {
        let refused = |endpoint: &str, allow_http| check("it", Some(endpoint), allow_http).err().map(|e| e.to_string());
        for bad in ["127.0.0.1:8333", "localhost:8333", "ftp://here", "http://", ""] {
            assert!(refused(bad, true).unwrap().contains("http:// in front"), "{bad}");
        }
        assert!(refused("http://here:8333", false).unwrap().contains("S3_ALLOW_HTTP"));
        assert_eq!((refused("http://here:8333", true), refused("https://here", false)), (None, None));
        assert!(check("it", None, false).is_ok());
    }

    #[tokio::test]
    async fn an_object_is_made_once_and_read_in_parts() {
        let folder = tempfile::tempdir().unwrap();
        let persist = Persist::folder(folder.path()).unwrap();
        assert!(persist.create("a/b/1", Bytes::from_static(b"0123456789")).await.unwrap());
        assert!(!persist.create("a/b/1", Bytes::from_static(b"other")).await.unwrap());
        assert_eq!(persist.read("a/b/1", 3..6).await.unwrap(), "345");
        assert_eq!(persist.read_all("a/b/1").await.unwrap(), "0123456789");
        assert_eq!(persist.list("a/b").await.unwrap(), ["a/b/1"]);
        persist.delete("a/b/1").await.unwrap();
        assert!(persist.read("a/b/1", 0..1).await.is_err());
    }

    #[tokio::test]
    async fn what_lies_at_a_name_already_is_compared_too() {
        let persist = Persist::over(Arc::new(object_store::memory::InMemory::new()), "memory");
        for (content, equal) in [("one", true), ("one", true), ("two", false)] {
            assert_eq!(persist.create_compared("a", content.into()).await.unwrap(), equal);
        }
        let wrong = persist.put((&BucketName::new("data").unwrap(), &Key::new("k").unwrap()), ObjectId(1), "abc".into(), 1, &Pace::default()).await;
        assert!(wrong.unwrap_err().to_string().contains("other content"));
    }

    #[tokio::test]
    async fn slow_a_server_that_is_started_anew_is_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let persist = s3(listener.local_addr().unwrap().port());
        let began = Instant::now();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (mut client, mut request) = (client.unwrap(), [0; 4096]);
                let _ = client.read(&mut request);
                let away = began.elapsed() < Duration::from_secs(6);
                let answer = if away { "503 Service Unavailable\r\nContent-Length: 0" } else { "200 OK\r\nContent-Length: 5" };
                let date = "Last-Modified: Wed, 25 Nov 2026 00:00:00 GMT";
                let _ = client.write_all(format!("HTTP/1.1 {answer}\r\n{date}\r\nETag: \"e\"\r\nConnection: close\r\n\r\n").as_bytes());
            }
        });
        assert_eq!(persist.size("objects/1").await.unwrap(), 5);
        assert!(began.elapsed() >= Duration::from_secs(6));
    }

    #[tokio::test]
    async fn slow_a_server_that_is_gone_is_told_within_30_s() {
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let began = Instant::now();
        let error = s3(gone).size("objects/1").await.unwrap_err();
        assert!(error.to_string().contains("persistency tier"), "{error}");
        assert!(began.elapsed() >= RETRY_MAX && began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    }
}
