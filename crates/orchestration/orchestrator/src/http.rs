//! HTTP: what people and programs say to the hub.
//!
//! A call under `/v1` carries the hub's token (`Authorization: Bearer …`, or the cookie that `GET /?token=…` sets), or one for a bucket (`grants.rs`). [`api`] has the
//! plain calls, [`streams`] those whose answer goes on (logs, events), [`objects`] buckets and objects, [`recommendations`] what was advised, [`ranks`] what runs and uses how much, [`checkpoints`] those as files, [`metrics`] the text for Prometheus. Errors are
//! `{"error": {"kind", "message"}}` everywhere, also for paths that don't exist.
//!
//! Nothing here decides: it reads [`crate::hub::World`] and calls [`Hub`]. Transport security is not here either: the port is meant for this
//! machine, or for a proxy in front of it.

pub mod api;
pub mod checkpoints;
pub mod grants;
pub mod metrics;
pub mod objects;
pub mod ranks;
pub mod recommendations;
pub mod streams;
pub mod tenants;

use crate::{Asset, Error, Streams, hub::Hub};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{FromRequest, FromRequestParts, Query, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use base::{Kind, clock::now_ms};
use futures::StreamExt;
use grants::{Grant, Over};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::sync::Semaphore;

/// Bytes of a JSON body.
const JSON_MAX: usize = 1 << 20;
/// For the rest of a body that was refused, in bytes and time.
const REST_MAX: usize = 1 << 30;
const REST_TIME_MAX: Duration = Duration::from_secs(10);
/// Modules that are taken in at once; the next ones wait.
const UPLOADS_MAX: usize = 2;

/// What every handler has at hand.
#[derive(Clone)]
pub struct App {
    pub hub: Arc<Hub>,
    /// What agents dial.
    pub advertise: Arc<str>,
    pub uploads: Arc<Semaphore>,
    dashboard: Arc<[Asset]>,
    pub streams: Option<Streams>,
}

/// All of HTTP.
pub fn router(hub: Arc<Hub>, advertise: String, dashboard: Vec<Asset>, streams: Option<Streams>) -> Router {
    let app = App { hub, advertise: advertise.into(), uploads: Arc::new(Semaphore::new(UPLOADS_MAX)), dashboard: dashboard.into(), streams };
    Router::new()
        .route("/v1/sites", get(api::sites))
        .route("/v1/sites/{site}", axum::routing::delete(api::remove_site))
        .route("/v1/stopping", post(api::stopping))
        .route("/v1/modules", post(api::add_module))
        .route("/v1/jobs", get(api::jobs).post(api::submit))
        .route("/v1/jobs/{id}", get(api::job))
        .route("/v1/jobs/{id}/cancel", post(api::cancel))
        .route("/v1/jobs/{id}/logs", get(streams::logs))
        .route("/v1/jobs/{id}/migrate", post(api::migrate))
        .route("/v1/jobs/{id}/checkpoint", post(api::checkpoint))
        .route("/v1/ranks", get(ranks::ranks))
        .route("/v1/migrations", get(api::migrations))
        .route("/v1/migrations/{n}", get(api::migration))
        .route("/v1/checkpoints", get(checkpoints::checkpoints))
        .route("/v1/checkpoints/{id}", axum::routing::delete(checkpoints::delete))
        .route("/v1/checkpoints/{id}/archive", get(checkpoints::archive))
        .route("/v1/restore", post(checkpoints::restore))
        .route("/v1/recommendations", get(recommendations::recommendations))
        .route("/v1/recommendations/{n}", get(recommendations::recommendation))
        .route("/v1/buckets", get(objects::buckets))
        .route("/v1/buckets/{bucket}/tokens", post(grants::bucket_token))
        .route("/v1/tenants/{tenant}/quota", post(tenants::set_quota))
        .route("/v1/objects/{bucket}", get(objects::objects).delete(objects::delete_all).post(objects::move_all))
        .route("/v1/stat/{bucket}/{*key}", get(objects::stat))
        .route("/v1/watch/{bucket}", get(objects::watch))
        .route("/v1/sites/{site}/metrics", get(objects::metrics))
        .route("/v1/tiers", get(objects::tiers))
        .route("/v1/objects/{bucket}/{*key}", get(objects::get).put(objects::put).delete(objects::delete).post(objects::act))
        .route("/v1/streams", get(api::streams))
        .route("/v1/video/{*path}", get(api::video))
        .route("/v1/join-tokens", post(api::join_token))
        .route("/v1/events", get(streams::events))
        .route("/v1/events.json", get(streams::events_json))
        .route("/v1/openapi.json", get(api::openapi))
        .route("/metrics", get(metrics::text))
        .fallback(file)
        .method_not_allowed_fallback(not_allowed)
        .layer(middleware::from_fn_with_state(app.clone(), authorize))
        .layer(middleware::from_fn(hear_out))
        .with_state(app)
}

/// An answer with an error's shape.
fn refuse(status: StatusCode, kind: &str, message: &str) -> Response {
    let body = serde_json::json!({"error": {"kind": kind, "message": message}});
    (status, [(header::CACHE_CONTROL, "no-store")], axum::Json(body)).into_response()
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.kind().http()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status.is_server_error() {
            tracing::error!(error = %self, "HTTP answer");
        }
        let kind = serde_json::to_value(self.kind()).unwrap_or_default();
        refuse(status, kind.as_str().unwrap_or("internal"), &self.to_string())
    }
}

/// Whether two texts are the same, in a time that says nothing about where they differ.
fn same(a: &str, b: &str) -> bool {
    let (a, b) = (Sha256::digest(a), Sha256::digest(b));
    a.iter().zip(b.iter()).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

/// The token that a request carries: the header's, or else the cookie's.
fn token(headers: &HeaderMap) -> Option<&str> {
    if let Some(text) = headers.get(header::AUTHORIZATION) {
        let (scheme, token) = text.to_str().ok()?.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then_some(token.trim());
    }
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|c| c.to_str().ok()).flat_map(|c| c.split(';'));
    cookies.filter_map(|c| c.trim().strip_prefix("cloudskin_token=")).next()
}

async fn authorize(State(app): State<App>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if let Some(grant) = token(request.headers()).and_then(|t| Grant::read(t, &app.hub.token)) {
        let now_ms = now_ms();
        return match grant.refuses(request.method(), request.uri(), now_ms) {
            Some((kind, message)) => Error::new(kind, message).into_response(),
            None => until(Over::of(&grant, request.uri(), now_ms), request, next).await,
        };
    }
    if (path == "/v1" || path.starts_with("/v1/")) && !token(request.headers()).is_some_and(|t| same(t, &app.hub.token)) {
        let asked = grants::asked_for(request.uri());
        let message = format!("{asked}: a token is needed: `Authorization: Bearer <token>`; it is in the file hub/token of the hub's data folder");
        let mut answer = refuse(StatusCode::UNAUTHORIZED, "unauthenticated", &message);
        answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return answer;
    }
    next.run(request).await
}

/// A call that its token's end ends.
async fn until(over: Over, request: Request, next: Next) -> Response {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let (parts, body) = request.into_parts();
    let mut request = Request::from_parts(parts, over.body(body));
    request.extensions_mut().insert(over.clone());
    // Of a change that was begun nobody would know whether it was done; those that take long end by themselves.
    let answer = if reads { over.within(async { Ok(next.run(request).await) }).await } else { Ok(next.run(request).await) };
    answer.map_or_else(IntoResponse::into_response, |answer| over.answer(answer))
}

/// Reads on for a while what a refused request still sends: who is cut off in the middle of sending sees a broken connection, and not the answer that
/// says why.
async fn hear_out(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    // The handler and the task below have it in common.
    let body = Arc::new(Mutex::new(body.into_data_stream()));
    let asked = Arc::new(AtomicBool::new(!parts.headers.contains_key(header::EXPECT)));
    let pieces = {
        let (body, asked) = (body.clone(), asked.clone());
        move |cx: &mut Context<'_>| {
            asked.store(true, Ordering::Relaxed);
            body.lock().unwrap_or_else(|e| e.into_inner()).poll_next_unpin(cx)
        }
    };
    let response = next.run(Request::from_parts(parts, Body::from_stream(futures::stream::poll_fn(pieces)))).await;
    let refused = response.status().is_client_error() || response.status().is_server_error();
    // A client that asks first (`Expect: 100-continue`) has sent nothing, and is not made to.
    if refused && asked.load(Ordering::Relaxed) {
        let mut left = REST_MAX;
        tokio::spawn(tokio::time::timeout(REST_TIME_MAX, futures::future::poll_fn(move |cx| {
            loop {
                // An error may come again and again, so it ends this as the end does.
                match std::task::ready!(body.lock().unwrap_or_else(|e| e.into_inner()).poll_next_unpin(cx)) {
                    Some(Ok(piece)) if piece.len() < left => left -= piece.len(),
                    _ => return Poll::Ready(()),
                }
            }
        })));
    }
    response
}

async fn not_allowed(request: Request) -> Response {
    let message = format!("{} is not a method of {}; see /v1/openapi.json", request.method(), request.uri().path());
    refuse(StatusCode::METHOD_NOT_ALLOWED, "invalid_argument", &message)
}

/// Files of the dashboard, and what is not there.
async fn file(State(app): State<App>, request: Request) -> Response {
    let (path, method) = (request.uri().path(), request.method());
    let read = method == Method::GET || method == Method::HEAD;
    if path == "/" && read {
        let query = Query::<BTreeMap<String, String>>::try_from_uri(request.uri()).map(|q| q.0).unwrap_or_default();
        if let Some(given) = query.get("token") {
            if !same(given, &app.hub.token) {
                return refuse(StatusCode::UNAUTHORIZED, "unauthenticated", "the token in the address is not the hub's");
            }
            // On to the address without the token, so that it doesn't stay in the history.
            let cookie = format!("cloudskin_token={}; Path=/; HttpOnly; SameSite=Strict", app.hub.token);
            let to = [(header::SET_COOKIE, cookie.as_str()), (header::LOCATION, "/"), (header::CACHE_CONTROL, "no-store")];
            return (StatusCode::SEE_OTHER, to).into_response();
        }
    }
    let asset = app.dashboard.iter().find(|(at, ..)| *at == path || (path == "/" && *at == "/index.html"));
    match asset.filter(|_| read) {
        Some((_, kind, bytes)) => {
            let headers = [
                (header::CONTENT_TYPE, *kind),
                (header::CACHE_CONTROL, "no-cache"),
                (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
                (header::X_FRAME_OPTIONS, "DENY"),
                (header::REFERRER_POLICY, "no-referrer"),
            ];
            (headers, Bytes::from_static(bytes)).into_response()
        }
        None => refuse(StatusCode::NOT_FOUND, "not_found", &format!("there is nothing at {path}; see /v1/openapi.json")),
    }
}

/// A JSON body; an empty one is `{}`.
pub struct In<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for In<T> {
    type Rejection = Error;
    async fn from_request(request: Request, _: &App) -> Result<In<T>, Error> {
        let bytes = read(request.into_body(), JSON_MAX).await?;
        let bytes = if bytes.is_empty() { Bytes::from_static(b"{}") } else { bytes };
        let bad = |e| Error::new(Kind::InvalidArgument, format!("the body is not what this call takes: {e}"));
        serde_json::from_slice(&bytes).map(In).map_err(bad)
    }
}

/// A query string.
pub struct Asked<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<App> for Asked<T> {
    type Rejection = Error;
    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Asked<T>, Error> {
        let bad = |e| Error::new(Kind::InvalidArgument, format!("the query is not what this call takes: {e}"));
        Query::try_from_uri(&parts.uri).map(|q| Asked(q.0)).map_err(bad)
    }
}

/// A whole body of at most `max` bytes.
pub async fn read(body: Body, max: usize) -> Result<Bytes, Error> {
    let bad = |e| Error::new(Kind::InvalidArgument, format!("the body can't be read, or has more than {max} bytes: {e}"));
    axum::body::to_bytes(body, max).await.map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_found_in_header_or_cookie() {
        let check = |name, value: &str, expected: Option<&str>| {
            let headers = HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())]);
            assert_eq!(token(&headers), expected, "{value}");
        };
        check(header::AUTHORIZATION, "Bearer abc", Some("abc"));
        check(header::AUTHORIZATION, "bearer abc", Some("abc"));
        check(header::AUTHORIZATION, "Basic abc", None);
        check(header::AUTHORIZATION, "abc", None);
        check(header::COOKIE, "a=b; cloudskin_token=abc; c=d", Some("abc"));
        check(header::COOKIE, "xcloudskin_token=abc", None);
        assert!(same("abc", "abc") && !same("abc", "abd") && !same("abc", "ab"));
    }
}
