//! Buckets and objects: bytes stream in and out, through the hub and never into it.

use super::{App, Asked, api::ErrorBody, grants::Over};
use crate::{
    Error,
    objects::{Content, Counted, Detail, Happenings, LIST_MAX, Object, Put},
    tiers::SiteTiers,
};
use axum::{
    Extension, Json,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base::{Kind, unit::Span};
use futures::{StreamExt, stream};
use geds::{Attributes, ObjectId, Range};
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
    /// `now_ms`: by the catalog's clock.
    async fn put(self, size: Option<u64>, now_ms: impl Future<Output = geds::Result<u64>>) -> Result<Put, Error> {
        let expires_ms = match self.ttl {
            None => 0,
            Some(ttl) => {
                let Span(time) = ttl.parse().map_err(|e| Error::new(Kind::InvalidArgument, format!("ttl: {e}")))?;
                now_ms.await?.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
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
    let put = ask.put(length(&headers), app.hub.objects.catalog.now_ms()).await?;
    app.hub.put_object(&bucket, &key, &put, &mut content).await.map(Json)
}

/// An answer of bytes that nobody should keep or take for a page.
pub const BYTES: [(header::HeaderName, &str); 3] =
    [(header::CONTENT_TYPE, "application/octet-stream"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff"), (header::CACHE_CONTROL, "no-store")];

/// Which bytes of an object of this size are asked for: `bytes=FIRST-LAST`, `bytes=FIRST-` or `bytes=-LAST`. What is no such range, and several at once, ask for all of it, as RFC 9110 says. `Err`: it has none of them.
fn part(headers: &HeaderMap, size: u64) -> Result<Option<Range>, u64> {
    let asked = headers.get(header::RANGE).and_then(|text| text.to_str().ok()?.strip_prefix("bytes=")?.split_once('-'));
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
    let (offset, len) = match asked {
        Some(("", last)) => match number(last) {
            Some(last) => (size.saturating_sub(last), last),
            None => return Ok(None),
        },
        Some((first, "")) => match number(first) {
            Some(first) => (first, u64::MAX),
            None => return Ok(None),
        },
        Some((first, last)) => match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => (first, (last - first).saturating_add(1)),
            _ => return Ok(None),
        },
        None => return Ok(None),
    };
    if offset >= size || len == 0 { Err(offset) } else { Ok(Some(Range { offset, len })) }
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct GetAsk {
    /// Also of what still grows at a site, and not before it is sealed is that the end: its bytes as they are appended.
    #[serde(default)]
    follow: bool,
    /// For `follow`: from this byte on.
    offset: Option<u64>,
    /// For `follow`: the `ETag` of an earlier answer, without its quotes: the bytes of that one, or 404 when it is gone, whatever has the key.
    of: Option<String>,
}

/// All of it, or with a `Range` header some of its bytes. An answer that ends too early is an object that broke off on its way.
#[utoipa::path(get, path = "/v1/objects/{bucket}/{key}", tag = "objects", params(GetAsk, ("Range" = Option<String>, Header, description = "one range, such as `bytes=0-99`")),
    responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream"), (status = 206, body = Vec<u8>, content_type = "application/octet-stream"), (status = 404, body = ErrorBody),
        (status = 416, body = ErrorBody, description = "it has none of these bytes"), (status = 429, body = ErrorBody, description = "of this bucket there are followed as many as there are places left, of 128"), (status = 503, body = ErrorBody, description = "no site that holds it is connected")))]
pub async fn get(State(app): State<App>, Path((bucket, key)): Path<(String, String)>, Asked(ask): Asked<GetAsk>, headers: HeaderMap) -> Result<Response, Error> {
    if ask.follow {
        let bad = |of: &String| Error::new(Kind::InvalidArgument, format!("`of` is the ETag of an earlier answer, without its quotes; {of:?} is none"));
        let of = ask.of.as_ref().map(|of| of.parse::<ObjectId>().map_err(|_| bad(of))).transpose()?;
        let (id, bytes) = app.hub.follow_object(&bucket, &key, ask.offset.unwrap_or(0), of).await?;
        return Ok((BYTES, [(header::ETAG, format!("\"{id}\""))], Body::from_stream(bytes)).into_response());
    }
    if ask.offset.is_some() || ask.of.is_some() {
        return Err(Error::new(Kind::InvalidArgument, "`offset` and `of` are for `follow=true`; without it ask for some bytes with the header `Range`"));
    }
    let meta = app.hub.stat_object(&bucket, &key).await?;
    let wanted = match part(&headers, meta.size) {
        Ok(wanted) => wanted,
        Err(offset) => return Ok(past_end(&bucket, &key, offset, meta.size)),
    };
    let range = wanted.unwrap_or_default();
    let (object, len, bytes) = app.hub.read_object(&meta, range).await?;
    let (status, place) = match wanted {
        None => (StatusCode::OK, None),
        // It was written again meanwhile, and is shorter now.
        Some(_) if len == 0 => return Ok(past_end(&bucket, &key, range.offset, object.size)),
        Some(_) => (StatusCode::PARTIAL_CONTENT, Some([(header::CONTENT_RANGE, format!("bytes {}-{}/{}", range.offset, range.offset + len - 1, object.size))])),
    };
    let about = [(header::CONTENT_LENGTH, len.to_string()), (header::ACCEPT_RANGES, "bytes".into())];
    Ok((status, BYTES, about, place, Body::from_stream(bytes)).into_response())
}

fn past_end(bucket: &str, key: &str, offset: u64, size: u64) -> Response {
    let message = format!("object {bucket}/{key} has {size} bytes; {offset} is past the last one");
    let mut answer = super::refuse(StatusCode::RANGE_NOT_SATISFIABLE, "invalid_argument", &message);
    if let Ok(size) = HeaderValue::from_str(&format!("bytes */{size}")) {
        answer.headers_mut().insert(header::CONTENT_RANGE, size);
    }
    answer
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
    /// For `rename`: fail if anything has a name at `to` or below it.
    #[serde(default)]
    if_absent: bool,
    /// For `flush`: how long it may take, such as `90s`; 10 minutes without it, and at most.
    within: Option<String>,
}

/// What takes long and may be broken off; by the caller's token, if that ends.
async fn within<T>(over: Option<Extension<Over>>, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match over {
        Some(Extension(over)) => over.within(call).await,
        None => call.await,
    }
}

/// Whether a call for a bucket changes no other.
pub fn stays_in(uri: &axum::http::Uri, bucket: &str) -> bool {
    /// Of all calls that name another one.
    #[derive(Deserialize)]
    struct Target {
        to_bucket: Option<String>,
    }
    let asked = axum::extract::Query::<Target>::try_from_uri(uri);
    asked.is_ok_and(|ask| ask.0.to_bucket.is_none_or(|to| to == bucket))
}

#[utoipa::path(post, path = "/v1/objects/{bucket}", tag = "objects", params(MoveAsk),
    responses((status = 200, body = Counted, description = "what has new names, in one step; no data was moved; or what was spilled"), (status = 404, body = ErrorBody), (status = 409, body = ErrorBody, description = "a name is taken")))]
pub async fn move_all(State(app): State<App>, Path(bucket): Path<String>, over: Option<Extension<Over>>, Asked(ask): Asked<MoveAsk>) -> Result<Json<Counted>, Error> {
    let copy = match ask.action.as_str() {
        "rename" => false,
        "copy" => true,
        "spill" => return Ok(Json(within(over, app.hub.spill_objects(&bucket, &ask.from)).await?)),
        "flush" => return Ok(Json(within(over, app.hub.flush_objects(&bucket, &ask.from, span("within", ask.within, FLUSH_MAX)?)).await?)),
        other => return Err(Error::new(Kind::InvalidArgument, format!("action {other:?} is not known; there are \"rename\", \"copy\", \"spill\" and \"flush\""))),
    };
    if ask.if_absent && copy {
        return Err(Error::new(Kind::InvalidArgument, "`if_absent` is for the action \"rename\", or for a copy of one object"));
    }
    let to_bucket = ask.to_bucket.as_deref().unwrap_or(&bucket);
    let to = ask.to.ok_or_else(|| Error::new(Kind::InvalidArgument, format!("action {:?} needs `to`", ask.action)))?;
    Ok(Json(app.hub.rename_objects(&bucket, &ask.from, to_bucket, &to, copy, ask.if_absent).await?))
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
    /// `spill`: to the persistency tier, and off the sites. `rename`: to a name that nobody has; `copy`: under both names then.
    action: String,
    /// For `rename` and `copy`: the same bucket without it.
    to_bucket: Option<String>,
    /// For `rename` and `copy`.
    to: Option<String>,
}

#[utoipa::path(post, path = "/v1/objects/{bucket}/{key}", tag = "objects", params(ActAsk),
    responses((status = 200, body = Object, description = "as it is now"), (status = 409, body = ErrorBody, description = "the name is taken, or a site has no persistency tier")))]
pub async fn act(State(app): State<App>, Path((bucket, key)): Path<(String, String)>, over: Option<Extension<Over>>, Asked(ask): Asked<ActAsk>) -> Result<Json<Object>, Error> {
    let copy = match ask.action.as_str() {
        "rename" => false,
        "copy" => true,
        "spill" => return Ok(Json(within(over, app.hub.spill_object(&bucket, &key)).await?)),
        other => return Err(Error::new(Kind::InvalidArgument, format!("action {other:?} is not known; there are \"rename\", \"copy\" and \"spill\""))),
    };
    let to = ask.to.ok_or_else(|| Error::new(Kind::InvalidArgument, format!("action {:?} needs `to`", ask.action)))?;
    Ok(Json(app.hub.name_object(&bucket, &key, ask.to_bucket.as_deref().unwrap_or(&bucket), &to, copy).await?))
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
