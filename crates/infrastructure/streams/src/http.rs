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
}

/// Advice is for this long at most; whoever means longer says it again.
const ADVICE_MAX: Duration = Duration::from_secs(3600);
/// Streams that are told of at once.
const STREAMS_MAX: usize = 1000;

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
    if let Err(e) = axum::serve(listener, router).with_graceful_shutdown(ended).await {
        tracing::error!(error = %e, "HTTP ended");
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
    /// It can be watched below `/video/`.
    video: bool,
}

/// All streams with their sizes, by name.
fn list(state: &Streams, rates: &BTreeMap<String, f64>) -> Vec<One> {
    let one = |(scope, name, stream): (&str, &str, &crate::catalog::Stream)| {
        let all = stream.segments();
        let found = || all.keys().filter_map(|s| state.segment(&s.name(scope, name)).ok());
        One {
            stream: format!("{scope}/{name}"),
            segments: if stream.sealed { 0 } else { stream.current().segments.len() },
            sealed: stream.sealed,
            bytes: found().map(|s| s.landed.durable - s.landed.start).sum(),
            log_bytes: found().map(|s| s.landed.unflushed).sum(),
            video: video::is_video(state, scope, name),
            events_per_second: stream.current().segments.iter().filter_map(|r| rates.get(&r.segment.name(scope, name))).sum(),
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
