//! Buckets and objects: bytes stream in and out, through the hub and never into it.

use super::{App, Asked, api::ErrorBody};
use crate::{
    Error,
    objects::{Content, LIST_MAX, Object},
};
use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use base::Kind;
use futures::{StreamExt, stream};
use geds::Catalog;
use serde::Deserialize;
use std::time::Duration;

/// How long a body may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(60);

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
}

#[utoipa::path(put, path = "/v1/objects/{bucket}/{key}", tag = "objects", params(PutAsk), request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, body = Object, description = "sealed; it replaces what had the key"), (status = 404, body = ErrorBody, description = "no such site"),
        (status = 429, body = ErrorBody, description = "no room at the site"), (status = 503, body = ErrorBody, description = "the site is not connected")))]
pub async fn put(State(app): State<App>, Path((bucket, key)): Path<(String, String)>, Asked(ask): Asked<PutAsk>, headers: HeaderMap, body: Body) -> Result<Json<Object>, Error> {
    let mut content = content(body);
    app.hub.put_object(&bucket, &key, ask.site.as_deref(), length(&headers), &mut content).await.map(Json)
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
