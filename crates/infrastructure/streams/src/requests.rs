//! Requests at the controller's port that have not come as a whole: how much memory they take, and for how long.
//!
//! Who asks has said no password yet when his message comes. So all connections share the memory for messages that are not small, and each message comes to its end in a time.

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    middleware::{self, Next},
    response::Response,
};
use futures::{Stream, StreamExt, stream};
use std::{io, pin::Pin, sync::Arc, time::Duration};
use tokio::{sync::{OwnedSemaphorePermit, Semaphore}, time::Instant};
use tonic::service::Routes;

/// The longest message: a cut of a stream with as many segments as there may be has a quarter of it.
pub(crate) const MESSAGE_MAX: usize = 1 << 20;
/// Requests of one connection at a time; its client keeps the others back.
pub(crate) const REQUESTS_MAX: u32 = 32;
/// What a connection sends before any of it is taken.
pub(crate) const WINDOW: u32 = 64 << 10;
/// Whether a message is compressed, and its length in four bytes.
const HEAD: usize = 5;
/// A message up to this length needs no place.
const SMALL: usize = 8 << 10;
/// Messages over that which come at a time, over all connections.
const LARGE_MAX: usize = 64;
/// A message is there within this time.
const MESSAGE_TIME: Duration = Duration::from_secs(10);

/// The same services, for whose messages there is so much memory.
pub(crate) fn bounded(routes: Routes) -> Routes {
    let places = Arc::new(Semaphore::new(LARGE_MAX));
    Router::from(routes.into_axum_router()).layer(middleware::from_fn_with_state(places, bound)).into()
}

async fn bound(State(places): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let message = Message { pieces: body.into_data_stream().boxed(), bytes: 0, head: Vec::new(), end: Instant::now() + MESSAGE_TIME, places, place: None };
    next.run(Request::from_parts(parts, Body::from_stream(message.pieces()))).await
}

type Pieces = Pin<Box<dyn Stream<Item = Result<Bytes, axum::Error>> + Send>>;

/// A message on its way.
struct Message {
    pieces: Pieces,
    bytes: usize,
    head: Vec<u8>,
    end: Instant,
    places: Arc<Semaphore>,
    place: Option<OwnedSemaphorePermit>,
}

impl Message {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("the request has not come as a whole within {} s", MESSAGE_TIME.as_secs()));
        let come = async {
            let piece = match self.pieces.next().await? {
                Ok(piece) => piece,
                Err(e) => return Some(Err(io::Error::other(e))),
            };
            // In front of a message stands how long it is, and its memory is taken when that is known.
            let missing = HEAD.saturating_sub(self.head.len()).min(piece.len());
            self.head.extend_from_slice(&piece[..missing]);
            let declared = self.head.get(1..HEAD).map_or(0, |length| length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)));
            self.bytes += piece.len();
            if self.bytes.max(declared) > SMALL && self.place.is_none() {
                self.place = self.places.clone().acquire_owned().await.ok();
            }
            Some(Ok(piece))
        };
        tokio::time::timeout_at(self.end, come).await.unwrap_or_else(|e| Some(Err(late(e))))
    }

    fn pieces(self) -> impl Stream<Item = io::Result<Bytes>> + Send {
        stream::unfold(Some(self), |message| async move {
            let mut message = message?;
            let piece = message.next().await?;
            let rest = piece.is_ok().then_some(message);
            Some((piece, rest))
        })
    }
}
