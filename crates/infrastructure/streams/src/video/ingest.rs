//! MPEG-TS into a stream and its index, a frame an event.
//!
//! A frame's time is that of its picture: the arrival of the first one, and from there the packets' own clock. An entry of the index is written when its
//! frame is durable, so that it never tells of what is not there. One ingester writes to a stream at a time; a second one's frames would come in between.

use super::{DISCONTINUITY, Entry, INDEXED, RANDOM_ACCESS, frame, index_name, tai, ts::{Frame, Framer}};
use crate::{Client, Error, Result, catalog::SegmentNo, client::Writer, http::Bounded, proto::ScalingPolicy};
use axum::{
    Router,
    extract::{Request, State},
    http::{Method, StatusCode, header::CONTENT_LENGTH},
    response::{IntoResponse, Response},
};
use futures::{StreamExt, future::BoxFuture};
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf},
    net::TcpListener,
};

/// After so long without a byte a picture is taken to have ended: encoders write it at once, and waiting for the next one would cost its whole time. What
/// comes later of it, over a slow line, is another event with the same time.
const IDLE: Duration = Duration::from_millis(3);
/// The clock of packets, per second, and where it begins anew.
const CLOCK: u64 = 90_000;
const CLOCK_END: u64 = 1 << 33;
/// A step of the packets' clock that is more than this is a new beginning.
const STEP_MAX: u64 = 10 * CLOCK;

/// What was taken in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    pub frames: u64,
    pub bytes: u64,
}

/// From the packets' clock to TAI.
#[derive(Default)]
struct Clock {
    /// The last picture: on the packets' clock, and in TAI.
    last: Option<(u64, u64)>,
}

impl Clock {
    /// The time of a picture that arrives at `now_ns` (TAI), and whether the clock made a jump.
    fn time(&mut self, shown: Option<u64>, now_ns: u64) -> (u64, bool) {
        let Some(shown) = shown else { return (self.last.map_or(now_ns, |(_, at)| at), false) };
        let (at, jumped) = match self.last {
            None => (now_ns, false),
            Some((before, at)) => {
                let ahead = shown.wrapping_sub(before) % CLOCK_END;
                // Pictures come in the order in which they are decoded: some are shown before the one before.
                let behind = CLOCK_END - ahead;
                if ahead <= STEP_MAX {
                    (at + ahead * 1_000_000_000 / CLOCK, false)
                } else if behind <= STEP_MAX {
                    (at.saturating_sub(behind * 1_000_000_000 / CLOCK), false)
                } else {
                    (now_ns.max(at), true)
                }
            }
        };
        self.last = Some((shown, at));
        (at, jumped)
    }
}

fn now_ns() -> u64 {
    tai(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64))
}

/// One stream's video on its way in.
pub struct Ingester {
    data: Writer,
    index: Writer,
    /// Where the next frame begins.
    offset: u64,
    clock: Clock,
    taken: Taken,
    newest: Option<u64>,
}

impl Ingester {
    /// Makes stream and index if they are not there.
    pub async fn open(client: &Client, scope: &str, stream: &str) -> Result<Ingester> {
        let one = ScalingPolicy { min_num_segments: 1, ..ScalingPolicy::default() };
        client.create_scope(scope).await?;
        for name in [stream, &index_name(stream)] {
            client.create_stream(scope, name, one).await?;
            let current = client.current(scope, name).await?;
            if current.len() != 1 || current[0].segment != SegmentNo(0) {
                return Err(Error::Conflict(format!("{scope}/{name} has been scaled or sealed: video needs a stream with one segment")));
            }
        }
        let offset = client.tail(scope, stream).await?.values().next().copied().unwrap_or(0);
        Ok(Ingester {
            data: Writer::open(client, scope, stream, None).await?,
            index: Writer::open(client, scope, &index_name(stream), None).await?,
            offset,
            clock: Clock::default(),
            taken: Taken::default(),
            newest: None,
        })
    }

    /// Takes what a camera plays, until it ends.
    pub fn play(&mut self, camera: super::rtsp::Camera) -> BoxFuture<'_, Result<Taken>> {
        Box::pin(async move {
            let (near, far) = tokio::io::duplex(256 << 10);
            // The end of either is the end of both: its half is dropped with it.
            let (played, taken) = tokio::join!(camera.run(near), self.run(far));
            let taken = taken?;
            played.map(|()| taken)
        })
    }

    /// Takes everything from `input`, to its end.
    pub async fn run(&mut self, mut input: impl AsyncRead + Unpin) -> Result<Taken> {
        let (mut framer, mut buffer, begin) = (Framer::default(), vec![0; 256 << 10], self.taken);
        // Another encoder has another clock.
        self.clock = Clock::default();
        loop {
            let read = match framer.has_frame() {
                false => input.read(&mut buffer).await,
                true => match tokio::time::timeout(IDLE, input.read(&mut buffer)).await {
                    Ok(read) => read,
                    Err(_) => {
                        if let Some(frame) = framer.flush() {
                            self.take(frame).await?;
                        }
                        continue;
                    }
                },
            };
            let n = read.map_err(Error::file("read", "the video"))?;
            if n == 0 {
                break;
            }
            for frame in framer.push(&buffer[..n]) {
                self.take(frame).await?;
            }
        }
        if let Some(frame) = framer.flush() {
            self.take(frame).await?;
        }
        self.data.flush().await?;
        self.index.flush().await?;
        Ok(Taken { frames: self.taken.frames - begin.frames, bytes: self.taken.bytes - begin.bytes })
    }

    async fn take(&mut self, from: Frame) -> Result<()> {
        let (tai_ns, jumped) = self.clock.time(from.shown, now_ns());
        // The index is searched by time, so its times grow.
        let entry = from.random_access && self.newest.is_none_or(|n| n < tai_ns);
        let mut flags = if from.random_access { RANDOM_ACCESS } else { 0 };
        flags |= if entry { INDEXED } else { 0 } | if jumped || self.taken.frames == 0 { DISCONTINUITY } else { 0 };
        let event = frame(flags, tai_ns, &from.packets);
        self.data.append("video", &event, 0).await?;
        if entry {
            self.data.flush().await?;
            self.index.append_bytes("video", &Entry { flags: flags & !INDEXED, tai_ns, offset: self.offset }.bytes(), 0).await?;
            self.newest = Some(tai_ns);
        }
        self.offset += 8 + event.len() as u64;
        self.taken.frames += 1;
        self.taken.bytes += from.packets.len() as u64;
        Ok(())
    }
}

/// Connections of encoders at a time, of which one sends.
const CONNECTIONS_MAX: usize = 16;
/// A sender that is quiet for longer has ended, and the next one is another.
const QUIET: Duration = Duration::from_secs(5);
/// How often it is looked whether that is so.
const TICK: Duration = Duration::from_millis(50);

/// What encoders send by HTTP, one at a time, becomes one stream's video: the body of any `PUT` or `POST`, as long as it lasts. Some encoders make a request of
/// each few packets, so a request's end is not the video's. `told` hears what a sender has brought.
pub fn serve(listener: TcpListener, mut ingester: Ingester, mut told: impl FnMut(Taken) + Send + 'static) -> BoxFuture<'static, Result<()>> {
    Box::pin(async move {
        let (near, mut far) = tokio::io::duplex(256 << 10);
        let door = Door { to: Arc::new(tokio::sync::Mutex::new(near)), hears: Arc::default(), over: Arc::default() };
        let app = Router::new().fallback(body).with_state(door.clone());
        let serving = tokio::spawn(async move { axum::serve(Bounded::new(listener, CONNECTIONS_MAX), app).await });
        let taking = async {
            loop {
                let sender = Sender { from: &mut far, door: door.clone(), last: Instant::now(), tick: Box::pin(tokio::time::sleep(TICK)) };
                let taken = ingester.run(sender).await?;
                if taken.bytes > 0 {
                    told(taken);
                }
            }
        };
        let ended: Result<()> = taking.await;
        serving.abort();
        ended
    })
}

#[derive(Clone)]
struct Door {
    to: Arc<tokio::sync::Mutex<DuplexStream>>,
    /// A request is under way.
    hears: Arc<AtomicBool>,
    /// The sender has ended: a request without a length is all of a video, and one that breaks off its end.
    over: Arc<AtomicBool>,
}

async fn body(State(door): State<Door>, request: Request) -> Response {
    if !matches!(*request.method(), Method::PUT | Method::POST) {
        return (StatusCode::METHOD_NOT_ALLOWED, "send MPEG-TS with PUT or POST\n").into_response();
    }
    let Ok(mut to) = door.to.try_lock() else {
        return (StatusCode::CONFLICT, "another encoder is sending\n").into_response();
    };
    door.hears.store(true, Relaxed);
    let mut hearing = Hearing { door: &door, goes_on: false };
    let piece = request.headers().contains_key(CONTENT_LENGTH);
    let mut body = request.into_body().into_data_stream();
    let mut status = StatusCode::OK;
    while let Some(part) = body.next().await {
        let Ok(part) = part else { return StatusCode::BAD_REQUEST.into_response() };
        if to.write_all(&part).await.is_err() {
            status = StatusCode::SERVICE_UNAVAILABLE;
            break;
        }
    }
    hearing.goes_on = piece;
    status.into_response()
}

/// A request that is under way; it may be given up at any place.
struct Hearing<'a> {
    door: &'a Door,
    /// What follows may belong to the same video.
    goes_on: bool,
}

impl Drop for Hearing<'_> {
    fn drop(&mut self) {
        self.door.over.store(!self.goes_on, Relaxed);
        self.door.hears.store(false, Relaxed);
    }
}

/// What one encoder sends.
struct Sender<'a> {
    from: &'a mut DuplexStream,
    door: Door,
    /// When something came.
    last: Instant,
    tick: Pin<Box<tokio::time::Sleep>>,
}

impl AsyncRead for Sender<'_> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut *self.from).poll_read(context, buffer) {
            if buffer.filled().len() > before {
                self.last = Instant::now();
            }
            return Poll::Ready(read);
        }
        while self.tick.as_mut().poll(context).is_ready() {
            let quiet = self.last.elapsed() >= QUIET && !self.door.hears.load(Relaxed);
            if self.door.over.swap(false, Relaxed) || quiet {
                return Poll::Ready(Ok(()));
            }
            self.tick.as_mut().reset(tokio::time::Instant::now() + TICK);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_follow_the_packets_clock_over_its_end_and_jumps() {
        let mut clock = Clock::default();
        let second = 1_000_000_000;
        assert_eq!(clock.time(Some(CLOCK_END - 45_000), 100 * second), (100 * second, false));
        assert_eq!(clock.time(Some(45_000), 500 * second), (101 * second, false), "arrival doesn't matter");
        assert_eq!(clock.time(Some(0), 500 * second), (100 * second + second / 2, false), "shown before the one before");
        assert_eq!(clock.time(None, 500 * second), (100 * second + second / 2, false));
        assert_eq!(clock.time(Some(CLOCK_END / 2), 500 * second), (500 * second, true));
    }
}
