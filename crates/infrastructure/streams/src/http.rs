//! HTTP beside the two ports of the protocol: what people, dashboards and advisers ask for.
//!
//! | path | is |
//! | --- | --- |
//! | `GET /metrics` | Prometheus's text; no user is asked for, and it has no event's content |
//! | `GET /v1/streams` | what there is: streams with sizes and rates, tiers, time left in an outage |
//! | `GET /video/…` | video to watch, see [`video::play`] |
//! | `POST /v1/advice` | `{"stream": "road/camera", "segments": 4, "for": "60s"}`: at least so many segments for a while, within the stream's policy |
//!
//! Where users are asked for at the controller's port, they are asked for under `/v1`, too. There is no transport security here: the port is meant for this
//! machine, or for a proxy in front of it.

use crate::{
    Store,
    access::{self, Access, Want},
    metrics,
    scale::Scaler,
    segment::State as Streams,
    tier::Tier,
    video,
};
use axum::{
    Json, Router,
    extract::{State, rejection::JsonRejection},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use base::unit::Span;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::Sleep,
};

/// What handlers have at hand.
#[derive(Clone)]
pub struct App {
    pub store: Store,
    pub tier: Option<Arc<Tier>>,
    pub scaler: Scaler,
    pub access: Access,
}

/// Advice is for this long at most; whoever means longer says it again.
const ADVICE_MAX: Duration = Duration::from_secs(3600);
/// Streams that are told of at once, and their segments.
const STREAMS_MAX: usize = 1000;
const SEGMENTS_MAX: usize = 10_000;
/// Of one stream, so many segments that are written to are told of one by one.
const STREAM_SEGMENTS_MAX: usize = 100;
/// Connections at a time; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 256;
/// A connection over which nothing goes for so long gives its place to another one.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Serves until `shutdown` is true.
pub async fn run(listener: TcpListener, app: App, mut shutdown: watch::Receiver<bool>) {
    let router = Router::new()
        .route("/metrics", get(text))
        .route("/v1/streams", get(streams))
        .route("/v1/advice", post(advice))
        .nest("/video", video::play::router())
        .fallback(|| async { refuse(StatusCode::NOT_FOUND, "there is /metrics, /v1/streams, /v1/advice and /video/SCOPE/STREAM/") })
        .with_state(app);
    let ended = async move { drop(shutdown.wait_for(|s| *s).await) };
    if let Err(e) = axum::serve(Bounded::new(listener, CONNECTIONS_MAX), router).with_graceful_shutdown(ended).await {
        tracing::error!(error = %e, "HTTP ended");
    }
}

/// Takes so many connections at a time, each until nothing goes over it any more.
pub(crate) struct Bounded {
    listener: TcpListener,
    places: Arc<Semaphore>,
    idle_max: Duration,
}

impl Bounded {
    pub fn new(listener: TcpListener, connections: usize) -> Bounded {
        Bounded { listener, places: Arc::new(Semaphore::new(connections)), idle_max: IDLE_MAX }
    }
}

impl axum::serve::Listener for Bounded {
    type Io = Bounden;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Bounden, SocketAddr) {
        let place = self.places.clone().acquire_owned().await.expect("the semaphore is never closed");
        let (stream, peer) = axum::serve::Listener::accept(&mut self.listener).await;
        (Bounden { stream, idle_max: self.idle_max, idle: Box::pin(tokio::time::sleep(self.idle_max)), _place: place }, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection with its place.
pub(crate) struct Bounden {
    stream: TcpStream,
    idle_max: Duration,
    idle: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl Bounden {
    /// Something went over it, or it is looked whether that is too long ago.
    fn look<T>(&mut self, context: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.idle.as_mut().reset(tokio::time::Instant::now() + self.idle_max);
            return done;
        }
        self.idle.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Bounden {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.look(context, read)
    }
}

impl AsyncWrite for Bounden {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.look(context, written)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.look(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

pub(crate) fn refuse(status: StatusCode, message: &str) -> Response {
    (status, Json(serde_json::json!({"error": {"message": message}}))).into_response()
}

impl App {
    /// Whether whoever sent these headers may do this; if not, what to answer.
    pub(crate) async fn may(&self, headers: &HeaderMap, resource: &str, want: Want) -> Result<(), Response> {
        let header = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
        let user = self.access.user(header).await.map_err(|why| {
            let mut answer = refuse(StatusCode::UNAUTHORIZED, &why);
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Basic realm=\"streams\""));
            answer
        })?;
        match self.access.most(user.as_deref(), resource) {
            Some(most) if most >= want => Ok(()),
            _ => Err(refuse(StatusCode::FORBIDDEN, &format!("user {:?} has no right to {resource}", user.unwrap_or_default()))),
        }
    }
}

async fn text(State(app): State<App>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics::text(&app.store, app.tier.as_deref(), &app.scaler)).into_response()
}

#[derive(Serialize)]
struct All {
    streams: Vec<One>,
    /// Of the whole server.
    backlog_bytes: u64,
    backlog_max_bytes: u64,
    long_term: Option<LongTerm>,
    appended_bytes_per_second: f64,
    /// Until writers wait if long-term storage is away, at the present rate; null without writers.
    outage_left_seconds: Option<f64>,
    write_p50_ms: Option<f64>,
    write_p99_ms: Option<f64>,
    /// Why nothing can be written, if that is so.
    stopped: Option<String>,
}

#[derive(Serialize)]
struct LongTerm {
    name: String,
    away: bool,
    flushed_bytes: u64,
    fetched_bytes: u64,
}

#[derive(Serialize)]
struct One {
    stream: String,
    segments: usize,
    sealed: bool,
    /// Of all segments that are still there.
    bytes: u64,
    /// Of these, what only the log has.
    log_bytes: u64,
    events_per_second: f64,
    /// Those that are written to, in the order of their keys; of many, the first ones.
    written: Vec<Written>,
    /// It can be watched below `/video/`.
    video: bool,
}

/// A segment that is written to.
#[derive(Serialize)]
struct Written {
    /// As in the segment's name: `3.#epoch.1`.
    segment: String,
    /// The part of the key space, from 0 to 1.
    low: f64,
    high: f64,
    bytes: u64,
    events_per_second: f64,
}

/// All streams with their sizes, by name.
fn list(state: &Streams, rates: &BTreeMap<String, f64>) -> Vec<One> {
    let mut left = SEGMENTS_MAX;
    let one = |(scope, name, stream): (&str, &str, &crate::catalog::Stream)| {
        let current = if stream.sealed { &[][..] } else { &stream.current().segments[..] };
        let shown = &current[..current.len().min(STREAM_SEGMENTS_MAX).min(left)];
        left -= shown.len();
        let rate = |segment: &str| rates.get(segment).copied().unwrap_or(0.0);
        let written = shown.iter().map(|r| {
            let segment = r.segment.name(scope, name);
            let bytes = state.segment(&segment).map_or(0, |s| s.landed.durable - s.landed.start);
            Written { low: r.low, high: r.high, bytes, events_per_second: rate(&segment), segment: segment.rsplit('/').next().unwrap_or_default().to_string() }
        });
        let all = stream.segments();
        let found = || all.keys().filter_map(|s| state.segment(&s.name(scope, name)).ok());
        One {
            stream: format!("{scope}/{name}"),
            segments: current.len(),
            sealed: stream.sealed,
            bytes: found().map(|s| s.landed.durable - s.landed.start).sum(),
            log_bytes: found().map(|s| s.landed.unflushed).sum(),
            video: video::is_video(state, scope, name),
            events_per_second: current.iter().map(|r| rate(&r.segment.name(scope, name))).sum(),
            written: written.collect(),
        }
    };
    // Watermarks are not what anyone looks for.
    state.catalog.streams().filter(|(_, name, _)| crate::watermark::marked(name).is_none()).take(STREAMS_MAX).map(one).collect()
}

async fn streams(State(app): State<App>, headers: HeaderMap) -> Response {
    if let Err(answer) = app.may(&headers, &access::root(), Want::Read).await {
        return answer;
    }
    let rates = app.scaler.rates();
    // Only what is durable is told.
    let streams = match app.store.look(|state| Ok(list(state, &rates))).await {
        Ok(streams) => streams,
        Err(e) => return refuse(StatusCode::SERVICE_UNAVAILABLE, &e.to_string()),
    };
    let (outage, write) = (app.store.outage(), &app.store.metrics().write);
    let ms = |part| write.quantile(part).map(|d| d.as_secs_f64() * 1000.0);
    Json(All {
        streams,
        backlog_bytes: outage.backlog_bytes,
        backlog_max_bytes: outage.backlog_max,
        long_term: app.tier.as_ref().map(|t| LongTerm { name: t.name(), away: t.is_away(), flushed_bytes: t.moved().0, fetched_bytes: t.moved().1 }),
        appended_bytes_per_second: outage.rate,
        outage_left_seconds: outage.left.map(|l| l.as_secs_f64()),
        write_p50_ms: ms(0.5),
        write_p99_ms: ms(0.99),
        stopped: app.store.log().progress().borrow().stopped.as_deref().map(str::to_string),
    })
    .into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Advice {
    stream: String,
    segments: u32,
    #[serde(rename = "for")]
    span: Span,
}

async fn advice(State(app): State<App>, headers: HeaderMap, advice: Result<Json<Advice>, JsonRejection>) -> Response {
    let advice = match advice {
        Ok(Json(advice)) => advice,
        Err(e) => return refuse(e.status(), &e.body_text()),
    };
    let Some((scope, stream)) = advice.stream.split_once('/') else {
        return refuse(StatusCode::BAD_REQUEST, &format!("{:?} is not SCOPE/STREAM", advice.stream));
    };
    if let Err(answer) = app.may(&headers, &access::stream(scope, stream), Want::Update).await {
        return answer;
    }
    let scales = app.store.peek(|s| s.catalog.stream(scope, stream).map(|s| s.config.scaling.kind != 0));
    match scales {
        None => refuse(StatusCode::NOT_FOUND, &format!("stream {} does not exist", advice.stream)),
        Some(false) => refuse(StatusCode::CONFLICT, &format!("stream {} has a fixed number of segments", advice.stream)),
        Some(true) => {
            app.scaler.advise(scope, stream, advice.segments, Instant::now() + advice.span.0.min(ADVICE_MAX));
            StatusCode::NO_CONTENT.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn connections_wait_for_a_place_which_who_says_nothing_loses() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let bounded = Bounded { idle_max: Duration::from_millis(700), ..Bounded::new(listener, 2) };
        tokio::spawn(async move { axum::serve(bounded, Router::new().route("/", get(|| async { "here" }))).await });
        let ask = async || {
            let mut stream = TcpStream::connect(at).await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.map(|_| answer.ends_with("here"))
        };
        assert!(ask().await.unwrap());
        let mut silent = [TcpStream::connect(at).await.unwrap(), TcpStream::connect(at).await.unwrap()];
        // They have both places, until they have said nothing for long enough.
        let began = Instant::now();
        assert!(ask().await.unwrap());
        assert!((Duration::from_millis(400)..Duration::from_secs(20)).contains(&began.elapsed()), "{:?}", began.elapsed());
        let mut nothing = Vec::new();
        let _ = silent[0].read_to_end(&mut nothing).await;
        assert!(nothing.is_empty());
    }
}
