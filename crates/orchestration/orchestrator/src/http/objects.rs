//! Buckets and objects: bytes stream in and out, through the hub and never into it.

use super::{App, Asked, api::ErrorBody};
use crate::{
    Error,
    objects::{Content, Counted, Detail, Happenings, LIST_MAX, Object, Put},
    tiers::SiteTiers,
};
use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use base::{Kind, clock::now_ms, unit::Span};
use futures::{StreamExt, stream};
use geds::Attributes;
use serde::Deserialize;
use std::time::Duration;

/// How long a body may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long a flush may take, and a watch wait for something to happen.
const FLUSH_MAX: Duration = Duration::from_secs(600);
const WATCH_MAX: Duration = Duration::from_secs(30);

/// A time that may be given and has a most; without it the most.
fn span(name: &str, given: Option<String>, most: Duration) -> Result<Duration, Error> {
    let Some(given) = given else { return Ok(most) };
    let Span(time) = given.parse().map_err(|e| Error::new(Kind::InvalidArgument, format!("{name}: {e}")))?;
    Ok(time.min(most))
}

/// A body as it comes; silence for too long is its end, with an error.
pub fn content(body: Body) -> Content {
    stream::unfold(Some(body.into_data_stream()), |data| async move {
        let mut data = data?;
        match tokio::time::timeout(SILENCE_MAX, data.next()).await {
            Err(_) => Some((Err(format!("nothing came for {} s", SILENCE_MAX.as_secs())), None)),
            Ok(None) => None,
            Ok(Some(Err(e))) => Some((Err(e.to_string()), None)),
            Ok(Some(Ok(bytes))) => Some((Ok(bytes), Some(data))),
        }
    })
    .boxed()
}

/// What the header says of a body's length, in bytes.
pub fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[utoipa::path(get, path = "/v1/buckets", tag = "objects", responses((status = 200, body = [String])))]
pub async fn buckets(State(app): State<App>) -> Result<Json<Vec<String>>, Error> {
    Ok(Json(app.hub.objects.catalog.buckets().await?.into_iter().map(String::from).collect()))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListAsk {
    /// A key, or a folder of keys: `a` is `a` and all below `a/`, never `ab`.
    #[serde(default)]
    prefix: String,
    /// Only keys after this one.
    #[serde(default)]
    after: String,
    /// At most so many; 10000 without it, and at most.
    limit: Option<usize>,
}

#[utoipa::path(get, path = "/v1/objects/{bucket}", tag = "objects", params(ListAsk),
    responses((status = 200, body = [Object], description = "by key"), (status = 404, body = ErrorBody)))]
pub async fn objects(State(app): State<App>, Path(bucket): Path<String>, Asked(ask): Asked<ListAsk>) -> Result<Json<Vec<Object>>, Error> {
    let limit = ask.limit.unwrap_or(LIST_MAX).min(LIST_MAX);
    Ok(Json(app.hub.list_objects(&bucket, &ask.prefix, ask.after, limit).await?))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PutAsk {
    /// Where to keep it; the first connected site that takes it without one.
    site: Option<String>,
    /// Fail if the key is taken.
    #[serde(default)]
    if_absent: bool,
    /// How long it stays, such as `90s` or `2h`; without it until it is deleted.
    ttl: Option<String>,
    /// The user's own, at most 16 KiB.
    #[serde(default)]
    metadata: String,
    /// It goes when this job ends.
    job: Option<String>,
}

impl PutAsk {
    fn put(self, size: Option<u64>) -> Result<Put, Error> {
        let expires_ms = match self.ttl {
            None => 0,
            Some(ttl) => {
                let Span(time) = ttl.parse().map_err(|e| Error::new(Kind::InvalidArgument, format!("ttl: {e}")))?;
                now_ms().saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
            }
        };
        let attributes = Attributes { metadata: self.metadata.into_bytes(), expires_ms, job: self.job };
        Ok(Put { site: self.site, size, if_absent: self.if_absent, attributes })
    }
}

#[utoipa::path(put, path = "/v1/objects/{bucket}/{key}", tag = "objects", params(PutAsk), request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, body = Object, description = "sealed; it replaces what had the key"), (status = 404, body = ErrorBody, description = "no such site"),
        (status = 409, body = ErrorBody, description = "the key is taken, or the job has ended"), (status = 429, body = ErrorBody, description = "no room at the site"), (status = 503, body = ErrorBody, description = "the site is not connected")))]
pub async fn put(State(app): State<App>, Path((bucket, key)): Path<(String, String)>, Asked(ask): Asked<PutAsk>, headers: HeaderMap, body: Body) -> Result<Json<Object>, Error> {
    let mut content = content(body);
    let put = ask.put(length(&headers))?;
    app.hub.put_object(&bucket, &key, &put, &mut content).await.map(Json)
}

/// An answer of bytes that nobody should keep or take for a page.
pub const BYTES: [(header::HeaderName, &str); 3] =
    [(header::CONTENT_TYPE, "application/octet-stream"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff"), (header::CACHE_CONTROL, "no-store")];

/// An answer that ends too early is an object that broke off on its way.
#[utoipa::path(get, path = "/v1/objects/{bucket}/{key}", tag = "objects",
    responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream"), (status = 404, body = ErrorBody),
        (status = 503, body = ErrorBody, description = "no site that holds it is connected")))]
pub async fn get(State(app): State<App>, Path((bucket, key)): Path<(String, String)>) -> Result<Response, Error> {
    let (object, bytes) = app.hub.get_object(&bucket, &key).await?;
    let length = [(header::CONTENT_LENGTH, object.size.to_string())];
    Ok((BYTES, length, Body::from_stream(bytes)).into_response())
}

/// The figures of a site's object store, for Prometheus.
#[utoipa::path(get, path = "/v1/sites/{site}/metrics", tag = "objects",
    responses((status = 200, body = String, content_type = "text/plain"), (status = 404, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn metrics(State(app): State<App>, Path(site): Path<String>) -> Result<Response, Error> {
    let text = app.hub.store_metrics(&site).await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}

/// The tiers of every connected site, in a few numbers.
#[utoipa::path(get, path = "/v1/tiers", tag = "objects", responses((status = 200, body = [SiteTiers])))]
pub async fn tiers(State(app): State<App>) -> Json<Vec<SiteTiers>> {
    Json(app.hub.tiers().await)
}

/// What an object is, without its bytes.
#[utoipa::path(get, path = "/v1/stat/{bucket}/{key}", tag = "objects", responses((status = 200, body = Detail), (status = 404, body = ErrorBody)))]
pub async fn stat(State(app): State<App>, Path((bucket, key)): Path<(String, String)>) -> Result<Json<Detail>, Error> {
    Ok(Json(app.hub.describe_object(&bucket, &key).await?))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PrefixAsk {
    /// `a` is `a` and all below `a/`, never `ab`.
    prefix: String,
}

#[utoipa::path(delete, path = "/v1/objects/{bucket}", tag = "objects", params(PrefixAsk),
    responses((status = 200, body = Counted, description = "what was removed, in one step"), (status = 404, body = ErrorBody)))]
pub async fn delete_all(State(app): State<App>, Path(bucket): Path<String>, Asked(ask): Asked<PrefixAsk>) -> Result<Json<Counted>, Error> {
    Ok(Json(app.hub.delete_objects(&bucket, &ask.prefix).await?))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct MoveAsk {
    /// `rename`, or `copy`: under both names then. `spill`: to the persistency tier, and off the sites. `flush`: to the persistency tier, and the sites keep it.
    action: String,
    /// A key, or a folder of keys; empty: the whole bucket.
    from: String,
    /// The same bucket without it.
    to_bucket: Option<String>,
    /// For `rename` and `copy`.
    to: Option<String>,
    /// For `flush`: how long it may take, such as `90s`; 10 minutes without it, and at most.
    within: Option<String>,
}

/// Whether a call for a bucket changes no other.
pub fn stays_in(uri: &axum::http::Uri, bucket: &str) -> bool {
    // What can't be read is refused by the call itself.
    let asked = axum::extract::Query::<MoveAsk>::try_from_uri(uri);
    asked.map_or(true, |ask| ask.0.to_bucket.is_none_or(|to| to == bucket))
}

#[utoipa::path(post, path = "/v1/objects/{bucket}", tag = "objects", params(MoveAsk),
    responses((status = 200, body = Counted, description = "what has new names, in one step; no data was moved; or what was spilled"), (status = 404, body = ErrorBody)))]
pub async fn move_all(State(app): State<App>, Path(bucket): Path<String>, Asked(ask): Asked<MoveAsk>) -> Result<Json<Counted>, Error> {
    let copy = match ask.action.as_str() {
        "rename" => false,
        "copy" => true,
        "spill" => return Ok(Json(app.hub.spill_objects(&bucket, &ask.from).await?)),
        "flush" => return Ok(Json(app.hub.flush_objects(&bucket, &ask.from, span("within", ask.within, FLUSH_MAX)?).await?)),
        other => return Err(Error::new(Kind::InvalidArgument, format!("action {other:?} is not known; there are \"rename\", \"copy\", \"spill\" and \"flush\""))),
    };
    let to_bucket = ask.to_bucket.as_deref().unwrap_or(&bucket);
    let to = ask.to.ok_or_else(|| Error::new(Kind::InvalidArgument, format!("action {:?} needs `to`", ask.action)))?;
    Ok(Json(app.hub.rename_objects(&bucket, &ask.from, to_bucket, &to, copy).await?))
}

#[utoipa::path(delete, path = "/v1/objects/{bucket}/{key}", tag = "objects",
    responses((status = 200, body = Object, description = "what it was"), (status = 404, body = ErrorBody)))]
pub async fn delete(State(app): State<App>, Path((bucket, key)): Path<(String, String)>) -> Result<Json<Object>, Error> {
    Ok(Json(app.hub.delete_object(&bucket, &key).await?))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ActAsk {
    /// `spill`: to the persistency tier, and off the sites.
    action: String,
}

#[utoipa::path(post, path = "/v1/objects/{bucket}/{key}", tag = "objects", params(ActAsk),
    responses((status = 200, body = Object, description = "as it is now"), (status = 409, body = ErrorBody, description = "a site has no persistency tier")))]
pub async fn act(State(app): State<App>, Path((bucket, key)): Path<(String, String)>, Asked(ask): Asked<ActAsk>) -> Result<Json<Object>, Error> {
    if ask.action != "spill" {
        return Err(Error::new(Kind::InvalidArgument, format!("action {:?} is not known; there is \"spill\"", ask.action)));
    }
    Ok(Json(app.hub.spill_object(&bucket, &key).await?))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WatchAsk {
    /// `next` of the answer before; 0 is the bucket's beginning. Without it the answer comes at once and has the token of now.
    after: Option<u64>,
    /// How long to wait for something to happen, such as `10s`; 30 seconds without it, and at most.
    wait: Option<String>,
}

/// What has happened in a bucket, in its order and without a gap. Comes as soon as there is something.
#[utoipa::path(get, path = "/v1/watch/{bucket}", tag = "objects", params(WatchAsk),
    responses((status = 200, body = Happenings, description = "at most 1000 events; `resync` says that the token was too old"), (status = 404, body = ErrorBody)))]
pub async fn watch(State(app): State<App>, Path(bucket): Path<String>, Asked(ask): Asked<WatchAsk>) -> Result<Json<Happenings>, Error> {
    Ok(Json(app.hub.watch_bucket(&bucket, ask.after, span("wait", ask.wait, WATCH_MAX)?).await?))
}
