//! An S3 in memory behind a real socket, which does what networks and services do on bad days: connections that break before or after the work is done,
//! answers that are cut off, "come back later", silence. Only what `geds::Persist` asks for is there.

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::Notify;

/// The part of requests that suffer something.
pub type Weather = (StdRng, f64);

#[derive(Default)]
struct Inner {
    objects: BTreeMap<String, Bytes>,
    weather: Option<Weather>,
    away: bool,
    /// Bytes that fit.
    room: Option<usize>,
    /// No bucket is there, or no right to it.
    refuses: Option<StatusCode>,
    /// Reads of names with this in them wait.
    held: Option<String>,
    waiting: usize,
}

#[derive(Clone, Default)]
pub struct FakeS3 {
    inner: Arc<Mutex<Inner>>,
    freed: Arc<Notify>,
    port: u16,
}

#[allow(dead_code)] // Not every test uses every fault.
impl FakeS3 {
    pub async fn start() -> FakeS3 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let s3 = FakeS3 { port: listener.local_addr().unwrap().port(), ..FakeS3::default() };
        let app = Router::new().fallback(answer).with_state(s3.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        s3
    }

    pub fn persist(&self) -> geds::Persist {
        self.persist_within(None)
    }

    /// One that gives up after this time.
    pub fn persist_within(&self, timeout: Option<Duration>) -> geds::Persist {
        let options = geds::S3Options {
            endpoint: Some(format!("http://127.0.0.1:{}", self.port)),
            bucket: "b".into(),
            access_key: geds::Secret::new("key"),
            secret_key: geds::Secret::new("secret"),
            path_style: true,
            allow_http: true,
            timeout,
            ..geds::S3Options::default()
        };
        geds::Persist::s3(options).unwrap()
    }

    /// From now on this part of all requests, chosen by this seed, suffers something.
    pub fn weather(&self, seed: u64, part: f64) {
        self.inner.lock().unwrap().weather = (part > 0.0).then(|| (StdRng::seed_from_u64(seed), part));
    }

    /// Connections are refused work, or not.
    pub fn away(&self, away: bool) {
        self.inner.lock().unwrap().away = away;
    }

    /// So many bytes fit, from now on.
    pub fn room(&self, bytes: usize) {
        self.inner.lock().unwrap().room = Some(bytes);
    }

    /// All requests are answered with this.
    pub fn refuse(&self, with: Option<StatusCode>) {
        self.inner.lock().unwrap().refuses = with;
    }

    /// Holds up reads of names with this in them, until [`FakeS3::free`].
    pub fn hold(&self, part: &str) {
        self.inner.lock().unwrap().held = Some(part.into());
    }
    pub fn free(&self) {
        self.inner.lock().unwrap().held = None;
        self.freed.notify_waiters();
    }
    /// Reads that are held up now.
    pub fn waiting(&self) -> usize {
        self.inner.lock().unwrap().waiting
    }

    pub fn names(&self, with: &str) -> Vec<String> {
        self.inner.lock().unwrap().objects.keys().filter(|n| n.contains(with)).cloned().collect()
    }

    /// One object's bit is another than what was written.
    pub fn flip(&self, name: &str) {
        let mut inner = self.inner.lock().unwrap();
        let object = inner.objects.get_mut(name).unwrap();
        let mut bytes = object.to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        *object = bytes.into();
    }
}

enum Fate {
    Well,
    /// The connection breaks before anything is done.
    Lost,
    /// It is done, and nobody hears of it.
    Unheard,
    Busy,
    /// Half of the answer comes.
    Cut,
    Slow,
}

/// The connection ends here, without an answer.
fn break_off() -> ! {
    std::panic::resume_unwind(Box::new("the network failed"))
}

async fn answer(State(s3): State<FakeS3>, request: Request) -> Response {
    let fate = {
        let mut inner = s3.inner.lock().unwrap();
        let chosen = inner.weather.as_mut().and_then(|(rng, part)| rng.random_bool(*part).then(|| rng.random_range(0..5)));
        match chosen {
            _ if inner.away => Fate::Lost,
            None => Fate::Well,
            Some(0) => Fate::Lost,
            Some(1) => Fate::Unheard,
            Some(2) => Fate::Busy,
            Some(3) => Fate::Cut,
            Some(_) => Fate::Slow,
        }
    };
    match fate {
        Fate::Lost => break_off(),
        Fate::Busy => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Fate::Slow => tokio::time::sleep(Duration::from_millis(30)).await,
        _ => {}
    }
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_else(|_| break_off());
    let name = head.uri.path().trim_start_matches("/b").trim_start_matches('/').to_string();
    let query = head.uri.query().unwrap_or_default().to_string();
    let reads = head.method == Method::GET && !name.is_empty();
    while reads && s3.inner.lock().unwrap().held.as_ref().is_some_and(|h| name.contains(h)) {
        let freed = s3.freed.notified();
        s3.inner.lock().unwrap().waiting += 1;
        let _ = tokio::time::timeout(Duration::from_millis(50), freed).await;
        s3.inner.lock().unwrap().waiting -= 1;
    }
    let done = act(&s3, &head.method, &head.headers, name, &query, body);
    match fate {
        Fate::Unheard => break_off(),
        Fate::Cut if reads && done.status().is_success() => {
            let (mut parts, body) = done.into_parts();
            let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
            parts.headers.insert(header::CONTENT_LENGTH, bytes.len().into());
            let half = bytes.slice(..bytes.len() / 2);
            let broken = futures::stream::iter([Ok(half), Err(std::io::Error::other("the network failed"))]);
            Response::from_parts(parts, Body::from_stream(broken))
        }
        _ => done,
    }
}

const DATE: &str = "Thu, 26 Nov 2026 00:00:00 GMT";

fn act(s3: &FakeS3, method: &Method, headers: &HeaderMap, name: String, query: &str, body: Bytes) -> Response {
    let mut inner = s3.inner.lock().unwrap();
    let told = [(header::ETAG, "\"e\""), (header::LAST_MODIFIED, DATE)];
    if let Some(refused) = inner.refuses {
        return refused.into_response();
    }
    match *method {
        Method::PUT if inner.room.is_some_and(|room| inner.objects.values().map(Bytes::len).sum::<usize>() + body.len() > room) => StatusCode::INSUFFICIENT_STORAGE.into_response(),
        Method::PUT if headers.contains_key(header::IF_NONE_MATCH) && inner.objects.contains_key(&name) => StatusCode::PRECONDITION_FAILED.into_response(),
        Method::PUT => {
            inner.objects.insert(name, body);
            (told, ()).into_response()
        }
        Method::GET if name.is_empty() => {
            let field = |key: &str| query.split('&').find_map(|f| f.strip_prefix(key)?.strip_prefix('=')).unwrap_or_default().replace("%2F", "/");
            let prefix = field("prefix");
            let one = |(name, bytes): (&String, &Bytes)| {
                format!("<Contents><Key>{name}</Key><Size>{}</Size><LastModified>2026-11-26T00:00:00.000Z</LastModified><ETag>e</ETag></Contents>", bytes.len())
            };
            // With a delimiter, folders right below the prefix stand for all that is in them.
            let folder = |name: &str| (!field("delimiter").is_empty()).then(|| name[prefix.len()..].find('/').map(|end| name[..prefix.len() + end + 1].to_string())).flatten();
            let found = || inner.objects.iter().filter(|(name, _)| name.starts_with(&prefix));
            let all: String = found().filter(|(name, _)| folder(name).is_none()).map(one).collect();
            let folders: BTreeSet<String> = found().filter_map(|(name, _)| folder(name)).collect();
            let folders: String = folders.into_iter().map(|folder| format!("<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>")).collect();
            format!("<?xml version=\"1.0\"?><ListBucketResult><IsTruncated>false</IsTruncated>{all}{folders}</ListBucketResult>").into_response()
        }
        Method::GET => {
            let Some(bytes) = inner.objects.get(&name) else { return StatusCode::NOT_FOUND.into_response() };
            let range = headers.get(header::RANGE).and_then(|r| r.to_str().ok()?.strip_prefix("bytes=")?.split_once('-'));
            let Some((from, to)) = range.map(|(from, to)| (from.parse::<usize>().unwrap(), to.parse().unwrap_or(usize::MAX))) else {
                return (told, bytes.clone()).into_response();
            };
            let end = to.saturating_add(1).min(bytes.len());
            let range = [(header::CONTENT_RANGE, format!("bytes {from}-{}/{}", end - 1, bytes.len()))];
            (StatusCode::PARTIAL_CONTENT, told, range, bytes.slice(from.min(end)..end)).into_response()
        }
        Method::POST if query == "delete" || query.starts_with("delete=") => {
            let asked = String::from_utf8_lossy(&body).into_owned();
            let names = asked.split("<Key>").skip(1).map(|part| part.split('<').next().unwrap());
            let gone: String = names.map(|name| { inner.objects.remove(name); format!("<Deleted><Key>{name}</Key></Deleted>") }).collect();
            format!("<?xml version=\"1.0\"?><DeleteResult>{gone}</DeleteResult>").into_response()
        }
        Method::DELETE => {
            inner.objects.remove(&name);
            StatusCode::NO_CONTENT.into_response()
        }
        _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
    }
}
