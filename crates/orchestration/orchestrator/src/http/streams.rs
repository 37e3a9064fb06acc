//! Answers that go on: what a job prints, and what happens.
//!
//! Both read what is stored and sleep until there is more, so nobody who is slow makes the hub keep anything for him.

use super::{App, Asked, api::ErrorBody};
use crate::{
    Error,
    events::Event,
    hub::Hub,
    logs::{self, Span},
};
use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Path, State},
    http::{HeaderMap, header},
    response::{
        IntoResponse, Response, Sse,
        sse::{self, KeepAlive},
    },
};
use base::Kind;
use futures::stream;
use serde::Deserialize;
use std::{collections::VecDeque, convert::Infallible, io, path::PathBuf, sync::Arc};
use tokio::{
    fs::File,
    io::AsyncReadExt,
    sync::{broadcast, watch},
};

/// Bytes of a log that are read at once.
const READ: u64 = 64 << 10;
/// Events in one answer, and those read from the database at once.
const EVENTS_MAX: u32 = 10_000;
const EVENTS_READ: u32 = 500;

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LogsAsk {
    /// Go on until the job ends.
    #[serde(default)]
    follow: bool,
    /// Only this rank's; all in order of arrival without it.
    rank: Option<u32>,
    /// In pieces that say which stream they were printed on: `o` or `e` (standard output, standard error), the length in four bytes, little end first, and
    /// so many bytes. Not with `rank`.
    #[serde(default)]
    marked: bool,
}

/// What of a log is standard error, as far as it has been read.
struct Marks {
    path: PathBuf,
    file: Option<File>,
    /// Bytes of the log that are marked.
    at: u64,
    part: Vec<u8>,
    spans: VecDeque<Span>,
}

impl Marks {
    /// The next bytes of the log with their marks.
    async fn put(&mut self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        if self.file.is_none() {
            self.file = File::open(&self.path).await.ok(); // made with the first of standard error
        }
        if let Some(file) = &mut self.file {
            file.read_to_end(&mut self.part).await?;
            self.spans.extend(logs::spans(&mut self.part));
        }
        let marked = logs::marked(bytes, self.at, &mut self.spans);
        self.at += bytes.len() as u64;
        Ok(marked)
    }
}

/// A log that is being read.
struct Tail {
    hub: Arc<Hub>,
    job: u64,
    path: PathBuf,
    file: Option<File>,
    marks: Option<Marks>,
    /// Tells of more; `None` when there will be no more.
    more: Option<watch::Receiver<u64>>,
    stop: watch::Receiver<bool>,
}

impl Tail {
    async fn next(mut self) -> Option<(io::Result<Bytes>, Tail)> {
        loop {
            // In this order, so that what is written while we read wakes us, and what came before the end is read.
            let ended = match &mut self.more {
                None => true,
                Some(more) => {
                    more.borrow_and_update();
                    self.hub.world.lock().await.jobs.get(&self.job).is_none_or(|j| j.state.ended())
                }
            };
            if self.file.is_none() {
                self.file = File::open(&self.path).await.ok(); // made with the first output
            }
            if let Some(file) = &mut self.file {
                let mut bytes = Vec::new();
                match file.take(READ).read_to_end(&mut bytes).await {
                    Ok(0) => {}
                    Ok(_) => {
                        let piece = match &mut self.marks {
                            Some(marks) => marks.put(&bytes).await,
                            None => Ok(bytes),
                        };
                        return Some((piece.map(Bytes::from), self));
                    }
                    Err(e) => return Some((Err(e), self)),
                }
            }
            if ended {
                return None;
            }
            let Some(more) = &mut self.more else { return None };
            let closed = tokio::select! {
                _ = self.stop.wait_for(|stop| *stop) => return None,
                changed = more.changed() => changed.is_err(),
            };
            if closed {
                self.more = None;
            }
        }
    }
}

#[utoipa::path(get, path = "/v1/jobs/{id}/logs", tag = "jobs", params(LogsAsk), responses((status = 200, body = String, content_type = "text/plain"), (status = 404, body = ErrorBody)))]
pub async fn logs(State(app): State<App>, Path(id): Path<String>, Asked(ask): Asked<LogsAsk>) -> Result<Response, Error> {
    let hub = app.hub;
    let world = hub.world.lock().await;
    let job = hub.job(&world, &id).await?;
    if let Some(rank) = ask.rank.filter(|r| *r >= job.np) {
        return Err(Error::new(Kind::InvalidArgument, format!("job {id} has no rank {rank}; it has 0 to {}", job.np - 1)));
    }
    if ask.marked && ask.rank.is_some() {
        return Err(Error::new(Kind::InvalidArgument, "`marked` is for the output of all ranks; leave `rank` out"));
    }
    let marks = ask.marked.then(|| Marks { path: hub.logs.errors(job.n), file: None, at: 0, part: Vec::new(), spans: VecDeque::new() });
    let tail = Tail {
        marks,
        job: job.n,
        path: hub.logs.path(job.n, ask.rank),
        file: None,
        more: (ask.follow && !job.state.ended()).then(|| hub.logs.listen(job.n)),
        stop: hub.stop.subscribe(),
        hub: hub.clone(),
    };
    drop(world);
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(stream::unfold(tail, Tail::next))).into_response())
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventsAsk {
    /// Only those with a larger number.
    since: Option<u64>,
    /// At most so many; 1000 without it. Not for the stream.
    limit: Option<u32>,
    /// In place of `limit`: so many of the newest. Not for the stream.
    last: Option<u32>,
}

#[utoipa::path(get, path = "/v1/events.json", tag = "events", params(EventsAsk), responses((status = 200, body = [Event])))]
pub async fn events_json(State(app): State<App>, Asked(ask): Asked<EventsAsk>) -> Result<Json<Vec<Event>>, Error> {
    let (events, since) = (&app.hub.events, ask.since.unwrap_or(0));
    Ok(Json(match ask.last {
        Some(last) => events.last(since, last.min(EVENTS_MAX)).await?,
        None => events.since(since, ask.limit.unwrap_or(1000).min(EVENTS_MAX)).await?,
    }))
}

struct Feed {
    hub: Arc<Hub>,
    since: u64,
    read: VecDeque<Event>,
    /// Only wakes: what is told is read from the database, so that a slow reader misses nothing.
    wake: broadcast::Receiver<Event>,
    stop: watch::Receiver<bool>,
}

impl Feed {
    async fn next(mut self) -> Option<(Result<sse::Event, Infallible>, Feed)> {
        loop {
            if let Some(event) = self.read.pop_front() {
                self.since = event.id;
                let told = sse::Event::default().id(event.id.to_string()).json_data(&event).expect("an event is plain data");
                return Some((Ok(told), self));
            }
            match self.hub.events.since(self.since, EVENTS_READ).await {
                Ok(events) if events.is_empty() => {}
                Ok(events) => {
                    self.read = events.into();
                    continue;
                }
                Err(error) => {
                    tracing::error!(%error, "read events");
                    return None;
                }
            }
            tokio::select! {
                _ = self.stop.wait_for(|stop| *stop) => return None,
                told = self.wake.recv() => if matches!(told, Err(broadcast::error::RecvError::Closed)) { return None },
            }
        }
    }
}

#[utoipa::path(get, path = "/v1/events", tag = "events", params(EventsAsk), responses((status = 200, body = Event, content_type = "text/event-stream")))]
pub async fn events(State(app): State<App>, headers: HeaderMap, Asked(ask): Asked<EventsAsk>) -> impl IntoResponse {
    // A browser that connects again says so; that is later than the `since` in its address.
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()).and_then(|id| id.parse().ok());
    let feed = Feed {
        since: last.or(ask.since).unwrap_or(0),
        read: VecDeque::new(),
        wake: app.hub.events.listen(),
        stop: app.hub.stop.subscribe(),
        hub: app.hub,
    };
    Sse::new(stream::unfold(feed, Feed::next)).keep_alive(KeepAlive::default())
}
