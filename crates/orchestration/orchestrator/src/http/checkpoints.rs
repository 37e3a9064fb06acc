//! Checkpoints: the list, one as a file, and a job from such a file.

use super::{App, Asked, api::ErrorBody, objects};
use crate::{
    Error,
    archive::{ARCHIVE_MAX, too_large},
    checkpoints::Checkpoint,
    jobs::Job,
    objects::room,
};
use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use base::Kind;
use futures::StreamExt;
use serde::Deserialize;
use std::time::Duration;

/// How long the bytes of a file may take to arrive.
const UPLOAD_TIME_MAX: Duration = Duration::from_secs(600);

fn id(text: &str) -> Result<u64, Error> {
    text.parse().map_err(|_| Error::new(Kind::NotFound, format!("there is no checkpoint {text:?}; `cloudskin get checkpoints` lists those that there are")))
}

#[utoipa::path(get, path = "/v1/checkpoints", tag = "checkpoints", responses((status = 200, body = [Checkpoint])))]
pub async fn checkpoints(State(app): State<App>) -> Result<Json<Vec<Checkpoint>>, Error> {
    app.hub.checkpoints().await.map(Json)
}

/// Its snapshots go a little later.
#[utoipa::path(delete, path = "/v1/checkpoints/{id}", tag = "checkpoints",
    responses((status = 200, body = Checkpoint, description = "what it was"), (status = 404, body = ErrorBody)))]
pub async fn delete(State(app): State<App>, Path(n): Path<String>) -> Result<Json<Checkpoint>, Error> {
    Ok(Json(app.hub.delete_checkpoint(id(&n)?).await?))
}

#[utoipa::path(get, path = "/v1/checkpoints/{id}/archive", tag = "checkpoints",
    responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream"), (status = 404, body = ErrorBody),
        (status = 503, body = ErrorBody, description = "no site that holds a snapshot is connected")))]
pub async fn archive(State(app): State<App>, Path(n): Path<String>) -> Result<Response, Error> {
    let bytes = app.hub.archive(id(&n)?).await?;
    Ok((objects::BYTES, bytes).into_response())
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RestoreAsk {
    /// Where to start it; where there is room without one.
    site: Option<String>,
    /// A checkpoint that is stored here, in place of a body.
    checkpoint: Option<u64>,
}

/// From a file, or from a checkpoint that is stored here.
#[utoipa::path(post, path = "/v1/restore", tag = "checkpoints", params(RestoreAsk), request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 201, body = Job), (status = 400, body = ErrorBody, description = "damaged, or of another version; says which"),
        (status = 409, body = ErrorBody, description = "no room; lists the sites")))]
pub async fn restore(State(app): State<App>, Asked(ask): Asked<RestoreAsk>, headers: HeaderMap, body: Body) -> Result<Response, Error> {
    if let Some(id) = ask.checkpoint {
        let job = app.hub.restore_stored(id, ask.site).await?;
        return Ok((StatusCode::CREATED, Json(job)).into_response());
    }
    let told = objects::length(&headers).unwrap_or(0);
    let mut content = objects::content(body);
    if told > ARCHIVE_MAX {
        return Err(too_large(told));
    }
    let _turn = app.hub.archiving.acquire().await.map_err(Error::internal)?;
    let receive = async {
        let mut bytes = room(told)?;
        while let Some(chunk) = content.next().await {
            let chunk = chunk.map_err(|e| Error::new(Kind::InvalidArgument, format!("the checkpoint's file broke off after {} bytes: {e}", bytes.len())))?;
            let length = bytes.len() as u64 + chunk.len() as u64;
            if length > ARCHIVE_MAX {
                return Err(too_large(length));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    };
    let late = |_| Error::new(Kind::DeadlineExceeded, format!("the checkpoint's file did not arrive within {} s", UPLOAD_TIME_MAX.as_secs()));
    let bytes = tokio::time::timeout(UPLOAD_TIME_MAX, receive).await.map_err(late)??;
    let job = app.hub.restore(bytes, ask.site).await?;
    Ok((StatusCode::CREATED, Json(job)).into_response())
}
