//! HTTP beside the two ports of the protocol: what people, dashboards and advisers ask for.
//!
//! | path | is |
//! | --- | --- |
//! | `GET /metrics` | Prometheus's text; no user is asked for, but for what it says by the names of segments, and it has no event's content |
//! | `GET /v1/streams` | what there is: streams with sizes and rates, tiers, time left in an outage |
//! | `GET /video/…` | video to watch, see [`video::play`] |
//! | `POST /v1/advice` | `{"stream": "road/camera", "segments": 4, "for": "60s"}`: at least so many segments for a while, within the stream's policy |
//!
//! Where users are asked for at the controller's port, they are asked for under `/v1`, too. There is no transport security here: the port is meant for this
//! machine, or for a proxy in front of it.

use crate::{
    Store,
    access::{self, Access, NoLogin, Want},
    catalog::Scaling,
    listener::Bounded,
    metrics,
    scale::{Rate, Scaler},
    segment::State as Streams,
    tier::Tier,
    video,
};
use axum::{
    Json, Router,
    extract::{ConnectInfo, FromRequestParts, State, connect_info::Connected, rejection::JsonRejection},
    http::{StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::IncomingStream,
};
use base::unit::Span;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, sync::watch};

/// What handlers have at hand.
#[derive(Clone)]
pub struct App {
    pub store: Store,
    pub tier: Option<Arc<Tier>>,
    pub scaler: Scaler,
    pub access: Access,
    pub told: Arc<video::told::Told>,
}

/// Advice is for this long at most; whoever means longer says it again.
const ADVICE_MAX: Duration = Duration::from_secs(3600);
/// Streams that are told of at once, and their segments.
const STREAMS_MAX: usize = 1000;
const SEGMENTS_MAX: usize = 10_000;
/// Of one stream, so many segments that are written to are told of one by one.
const STREAM_SEGMENTS_MAX: usize = 100;
/// Damaged parts that are told of one by one.
const DAMAGED_MAX: usize = 100;
/// Connections at a time; more wait in the kernel's queue.
pub(crate) const CONNECTIONS_MAX: usize = 256;
/// A connection over which nothing goes for so long gives its place to another one.
pub(crate) const IDLE_MAX: Duration = Duration::from_secs(60);

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
    let router = router.into_make_service_with_connect_info::<Peer>();
    if let Err(e) = axum::serve(Bounded::new(listener, CONNECTIONS_MAX, IDLE_MAX), router).with_graceful_shutdown(ended).await {
        tracing::error!(error = %e, "HTTP ended");
    }
}

pub(crate) fn refuse(status: StatusCode, message: &str) -> Response {
    (status, Json(serde_json::json!({"error": {"message": message}}))).into_response()
}

/// From where a connection comes.
#[derive(Clone)]
struct Peer(IpAddr);

impl Connected<IncomingStream<'_, Bounded>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Bounded>) -> Peer {
        Peer(stream.remote_addr().ip())
    }
}

/// Who asks: as whom, and from where.
pub(crate) struct Asker {
    authorization: Option<String>,
    peer: Option<IpAddr>,
}

impl<S: Sync> FromRequestParts<S> for Asker {
    type Rejection = Infallible;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Asker, Infallible> {
        let authorization = parts.headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).map(str::to_string);
        Ok(Asker { authorization, peer: parts.extensions.get::<ConnectInfo<Peer>>().map(|info| info.0.0) })
    }
}

impl App {
    /// Whether who asks may do this; if not, what to answer.
    pub(crate) async fn may(&self, asker: &Asker, resource: &str, want: Want) -> Result<(), Response> {
        let user = self.access.user(asker.authorization.as_deref(), asker.peer).await.map_err(|no| match no {
            NoLogin::Busy(why) => refuse(StatusCode::TOO_MANY_REQUESTS, &why),
            NoLogin::Wrong(why) => {
                let mut answer = refuse(StatusCode::UNAUTHORIZED, &why);
                answer.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Basic realm=\"streams\""));
                answer
            }
        })?;
        match self.access.most(user.as_deref(), resource) {
            Some(most) if most >= want => Ok(()),
            _ => Err(refuse(StatusCode::FORBIDDEN, &Access::refusal(user.as_deref(), resource, want))),
        }
    }
}

/// Sums for everyone, as scrapers seldom log in; segments by their names for who may list all streams.
async fn text(State(app): State<App>, asker: Asker) -> Response {
    let named = app.may(&asker, &access::root(), Want::Read).await;
    match named {
        // Who gives a name and a password learns that they are wrong.
        Err(answer) if asker.authorization.is_some() && answer.status() != StatusCode::FORBIDDEN => answer,
        named => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics::text(&app.store, app.tier.as_deref(), &app.scaler, named.is_ok())).into_response(),
    }
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
    /// The log's number, as `--restore` takes it.
    log: String,
    /// Other work of this machine does not hold up the log: the server may give its threads real-time priority.
    log_real_time: bool,
    /// Why nothing can be written until the next start, if that is so.
    stopped: Option<String>,
    /// What writers wait for, if they do.
    waits_for: Option<String>,
}

#[derive(Serialize)]
struct LongTerm {
    name: String,
    away: bool,
    /// Why it takes nothing, and what helps, if it is away.
    away_because: Option<String>,
    /// Bytes in the overflow, which are part of the backlog, and how many it takes; 0 without one.
    overflow_bytes: u64,
    overflow_max_bytes: u64,
    /// What only the log or the overflow has and can't be read there, so that it never gets there, and what readers have not found there as it was put: how many parts, and of some of them which bytes, and why.
    damaged_parts: usize,
    damaged: Vec<String>,
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
    bytes_per_second: f64,
}

/// All streams with their sizes, by name.
fn list(state: &Streams, rates: &BTreeMap<String, Rate>) -> Vec<One> {
    let mut left = SEGMENTS_MAX;
    let one = |(scope, name, stream): (&str, &str, &crate::catalog::Stream)| {
        let current = if stream.sealed { &[][..] } else { &stream.current().segments[..] };
        let shown = &current[..current.len().min(STREAM_SEGMENTS_MAX).min(left)];
        left -= shown.len();
        let rate = |segment: &str| rates.get(segment).copied().unwrap_or_default();
        let written = shown.iter().map(|r| {
            let segment = r.segment.name(scope, name);
            let bytes = state.segment(&segment).map_or(0, |s| s.landed.durable - s.landed.start);
            let Rate { events: events_per_second, bytes: bytes_per_second } = rate(&segment);
            Written { low: r.low, high: r.high, bytes, events_per_second, bytes_per_second, segment: segment.rsplit('/').next().unwrap_or_default().to_string() }
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
            // The sum of nothing is -0.0.
            events_per_second: current.iter().map(|r| rate(&r.segment.name(scope, name)).events).sum::<f64>() + 0.0,
            written: written.collect(),
        }
    };
    // Watermarks are not what anyone looks for.
    state.catalog.streams().filter(|(_, name, _)| crate::watermark::marked(name).is_none()).take(STREAMS_MAX).map(one).collect()
}

async fn streams(State(app): State<App>, asker: Asker) -> Response {
    if let Err(answer) = app.may(&asker, &access::root(), Want::Read).await {
        return answer;
    }
    let rates = app.scaler.rates();
    // Only what is durable is told.
    let streams = match app.store.look(|state| Ok(list(state, &rates))).await {
        Ok(streams) => streams,
        Err(e) => return refuse(StatusCode::SERVICE_UNAVAILABLE, &e.to_string()),
    };
    let damaged = app.tier.as_ref().map(|t| app.store.peek(|s| t.damaged(s))).unwrap_or_default();
    let damaged_parts = damaged.len();
    let damaged = damaged.into_iter().take(DAMAGED_MAX).map(|d| format!("{} bytes from {} of {}: {}", d.bytes, d.start, d.segment, d.why)).collect();
    let (outage, write) = (app.store.outage(), &app.store.metrics().write);
    let ms = |part| write.quantile(part).map(|d| d.as_secs_f64() * 1000.0);
    Json(All {
        streams,
        backlog_bytes: outage.backlog_bytes,
        backlog_max_bytes: outage.backlog_max,
        long_term: app.tier.as_ref().map(|t| {
            let ((flushed_bytes, fetched_bytes), (overflow_bytes, overflow_max_bytes)) = (t.moved(), t.overflow().unwrap_or_default());
            let away_because = t.why_away();
            LongTerm { name: t.name(), away: away_because.is_some(), away_because, overflow_bytes, overflow_max_bytes, damaged_parts, damaged, flushed_bytes, fetched_bytes }
        }),
        appended_bytes_per_second: outage.rate,
        outage_left_seconds: outage.left.map(|l| l.as_secs_f64()),
        write_p50_ms: ms(0.5),
        write_p99_ms: ms(0.99),
        log: app.store.log_name(),
        log_real_time: app.store.log().is_real_time(),
        stopped: app.store.log().progress().borrow().stopped.as_deref().map(str::to_string),
        waits_for: app.store.short_of(),
    })
    .into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Advice {
    stream: String,
    segments: u32,
    /// From now on …
    #[serde(rename = "for")]
    span: Option<Span>,
    /// … or until a time, ms since 1970: advice that comes too late then is seen to be so.
    until_ms: Option<u64>,
}

impl Advice {
    /// How long it is good from now on; the error is what to answer.
    fn left(&self, now_ms: u64) -> Result<Duration, &'static str> {
        match (self.span, self.until_ms) {
            (Some(span), None) => Ok(span.0),
            (None, Some(until)) if until > now_ms => Ok(Duration::from_millis(until - now_ms)),
            (None, Some(_)) => Err("its time, `until_ms`, is over: ask again with a later one, or with `for`"),
            _ => Err("say how long it is good, with one of `for` (such as \"60s\") and `until_ms` (ms since 1970)"),
        }
    }
}

async fn advice(State(app): State<App>, asker: Asker, advice: Result<Json<Advice>, JsonRejection>) -> Response {
    let advice = match advice {
        Ok(Json(advice)) => advice,
        Err(e) => return refuse(e.status(), &e.body_text()),
    };
    let left = match advice.left(base::clock::now_ms()) {
        Ok(left) => left.min(ADVICE_MAX),
        Err(why) => return refuse(StatusCode::UNPROCESSABLE_ENTITY, why),
    };
    let Some((scope, stream)) = advice.stream.split_once('/') else {
        return refuse(StatusCode::BAD_REQUEST, &format!("{:?} is not SCOPE/STREAM", advice.stream));
    };
    if let Err(answer) = app.may(&asker, &access::stream(scope, stream), Want::Update).await {
        return answer;
    }
    let scales = app.store.peek(|s| s.catalog.stream(scope, stream).map(|s| s.config.scaling.kind != Scaling::FIXED));
    match scales {
        None => refuse(StatusCode::NOT_FOUND, &format!("stream {} does not exist", advice.stream)),
        Some(false) => refuse(StatusCode::CONFLICT, &format!("stream {} has a fixed number of segments", advice.stream)),
        Some(true) => {
            app.scaler.advise(scope, stream, advice.segments, Instant::now() + left);
            StatusCode::NO_CONTENT.into_response()
        }
    }
}
