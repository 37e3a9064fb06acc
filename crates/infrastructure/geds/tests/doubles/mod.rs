//! Doubles of stores: Azure's and Google's interfaces as their makers publish them, since neither can be had here, and S3's, for what no real server does when it is asked to: in memory, behind
//! a real socket, with faults. Only what [`geds::Persist`] asks
//! for is there; lists come two names at a time, so that they have to be asked for again.

pub mod azure;
pub mod google;
pub mod s3;

use axum::{
    Router,
    body::Bytes,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::StreamExt;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

pub const DATE: &str = "Thu, 26 Nov 2026 00:00:00 GMT";
const PAGE: usize = 2;

#[derive(Default)]
pub struct Inner {
    /// What was written, and the number of its writing.
    pub objects: BTreeMap<String, (Bytes, u64)>,
    /// By upload (or object) and part.
    pub parts: HashMap<(String, String), Bytes>,
    pub writes: u64,
    /// Requests for objects' content, where the answer counts them.
    pub reads: u64,
    /// Requests that did not prove who asks.
    pub refused: u64,
    /// So many requests are told to come back later.
    pub busy: u64,
    /// What is wrong with the next request of a method.
    pub fates: VecDeque<(Method, Fate)>,
    /// The user metadata that was written with each object.
    pub described: BTreeMap<String, BTreeMap<String, String>>,
}

/// What may be wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It comes so much later, and only then is anything done.
    Stall(Duration),
    /// Its body comes in small pieces.
    Trickle,
    /// Half of the body comes, then the connection ends.
    Short,
    /// 503.
    Busy,
}

impl Inner {
    fn put(&mut self, name: &str, content: Bytes) -> Response {
        self.writes += 1;
        self.objects.insert(name.into(), (content, self.writes));
        (StatusCode::CREATED, told(self.writes)).into_response()
    }

    /// Keeps the user metadata of a request that begins or writes an object.
    pub fn describe(&mut self, name: &str, headers: &HeaderMap) {
        let own = headers.iter().filter_map(|(header, value)| Some((header.as_str().split_once("-meta-")?.1.to_string(), value.to_str().ok()?.to_string())));
        self.described.insert(name.into(), own.collect());
    }

    /// An object or a part of it, if it is what the caller means.
    fn get(&self, name: &str, headers: &HeaderMap) -> Response {
        let Some((content, n)) = self.objects.get(name) else { return StatusCode::NOT_FOUND.into_response() };
        if headers.get(header::IF_MATCH).is_some_and(|tag| tag != tag_of(*n).as_str()) {
            return StatusCode::PRECONDITION_FAILED.into_response();
        }
        let range = headers.get(header::RANGE).and_then(|range| range.to_str().ok()?.strip_prefix("bytes=")?.split_once('-'));
        let Some((from, to)) = range.map(|(from, to)| (from.parse::<usize>().unwrap(), to.parse().unwrap_or(usize::MAX))) else {
            return (told(*n), content.clone()).into_response();
        };
        let end = to.saturating_add(1).min(content.len());
        let range = [(header::CONTENT_RANGE, format!("bytes {from}-{}/{}", end - 1, content.len()))];
        (StatusCode::PARTIAL_CONTENT, told(*n), range, content.slice(from.min(end)..end)).into_response()
    }

    /// A page of names below a prefix after `after`, folders among them if there is a delimiter; and whether that was all.
    fn page(&self, prefix: &str, delimiter: &str, after: &str) -> (Vec<String>, bool) {
        let one = |name: &String| match name[prefix.len()..].find(delimiter).filter(|_| !delimiter.is_empty()) {
            Some(at) => name[..prefix.len() + at + delimiter.len()].to_string(),
            None => name.clone(),
        };
        let names: BTreeSet<String> = self.objects.keys().filter(|name| name.starts_with(prefix)).map(one).filter(|name| name.as_str() > after).collect();
        let page: Vec<String> = names.iter().take(PAGE).cloned().collect();
        let all = page.len() == names.len();
        (page, all)
    }
}

pub fn tag_of(n: u64) -> String {
    format!("\"{n}\"")
}

/// Tag and date of an answer.
fn told(n: u64) -> HeaderMap {
    let text = |text: &str| HeaderValue::from_str(text).unwrap();
    [(header::ETAG, text(&tag_of(n))), (header::LAST_MODIFIED, text(DATE)), ("x-goog-generation".parse().unwrap(), text(&n.to_string()))].into_iter().collect()
}

/// `%20` and the like.
pub fn decoded(text: &str) -> String {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, tail @ ..] = rest {
        let coded = if *first == b'%' { tail.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()) } else { None };
        out.push(coded.unwrap_or(if *first == b'+' { b' ' } else { *first }));
        rest = if coded.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8(out).unwrap()
}

/// A query's fields, decoded.
pub fn fields(query: &str) -> BTreeMap<String, String> {
    query.split('&').filter(|field| !field.is_empty()).map(|field| field.split_once('=').unwrap_or((field, ""))).map(|(name, value)| (decoded(name), decoded(value))).collect()
}

/// A request that has come as a whole.
pub struct Asked {
    pub method: Method,
    /// As it was sent.
    pub path: String,
    pub query: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

pub type Answer = fn(&mut Inner, &Asked) -> Response;

#[derive(Clone)]
pub struct Double {
    pub inner: Arc<Mutex<Inner>>,
    pub port: u16,
    answer: Answer,
}

impl Double {
    pub async fn start(answer: Answer) -> Double {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let double = Double { inner: Arc::default(), port: listener.local_addr().unwrap().port(), answer };
        let app = Router::new().fallback(answered).with_state(double.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        double
    }

    pub fn names(&self) -> Vec<String> {
        self.inner.lock().unwrap().objects.keys().cloned().collect()
    }
}

async fn answered(State(double): State<Double>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let asked = Asked { method: head.method, path: head.uri.path().into(), query: head.uri.query().unwrap_or_default().into(), headers: head.headers, body };
    let fate = {
        let mut inner = double.inner.lock().unwrap();
        let at = inner.fates.iter().position(|(method, _)| *method == asked.method);
        at.and_then(|at| inner.fates.remove(at)).map(|(_, fate)| fate)
    };
    if let Some(Fate::Stall(time)) = fate {
        tokio::time::sleep(time).await;
    }
    let response = {
        let mut inner = double.inner.lock().unwrap();
        if inner.busy > 0 || fate == Some(Fate::Busy) {
            inner.busy = inner.busy.saturating_sub(1);
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
        (double.answer)(&mut inner, &asked)
    };
    match fate {
        Some(Fate::Trickle | Fate::Short) => in_pieces(response, fate == Some(Fate::Short)).await,
        _ => response,
    }
}

/// The same answer in pieces, or half of it.
async fn in_pieces(response: Response, half: bool) -> Response {
    let (mut head, body) = response.into_parts();
    let content = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    head.headers.insert(header::CONTENT_LENGTH, content.len().into());
    let size = (content.len() / 50).max(1);
    let pieces = (0..content.len()).step_by(size).map(move |at| content.slice(at..content.len().min(at + size)));
    let pieces: Vec<_> = if half { pieces.take(25).map(Ok).chain([Err(std::io::Error::other("the line is cut"))]).collect() } else { pieces.map(Ok).collect() };
    let stream = futures::stream::iter(pieces).then(async |piece| {
        tokio::time::sleep(Duration::from_millis(5)).await;
        piece
    });
    Response::from_parts(head, axum::body::Body::from_stream(stream))
}
