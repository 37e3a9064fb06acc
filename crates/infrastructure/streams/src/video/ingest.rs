//! MPEG-TS into a stream and its index, a frame an event.
//!
//! A frame's time is that of its picture: the arrival of the first one, and from there the packets' own clock. An entry of the index is written when its
//! frame is durable, so that it never tells of what is not there.
//!
//! Entries name places, so one ingester at a time writes to a stream and its index, alone ([`Writer::alone`]): one that is started later takes both from the one before,
//! which ends and says why, and what an outage has held back of one that was killed is refused. Anything else that is appended to the stream ends it, too: the next
//! start counts from where the stream ends then.

use super::{DISCONTINUITY, ENTRY, Entry, INDEXED, RANDOM_ACCESS, frame, index_name, tai, ts::{Frame, Framer}, utc};
use crate::{Client, Error, Result, client::Writer, http::IDLE_MAX, listener::Bounded, proto::{ScalingPolicy, StreamConfig}};
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

/// Of an index that is written again, so much is read at once: whole entries.
const COPIED: u64 = 50_000 * ENTRY as u64;
/// The attribute of an index's segment that says how long it was when it was begun to be written again. As long as it begins before that, it is not done.
const REWRITTEN: u128 = 0x8f2b_6d0e_51c7_4a93_b6e4_07d9_3c5a_f184;
/// A last picture that is of so much later than now was taken when a clock was wrong.
const AHEAD: Duration = Duration::from_secs(300);

/// For so long, ns, it is looked how much later than their times pictures arrive, the one that was held up least.
const LOOKED_AT: u64 = 30_000_000_000;
/// By so much at most, ns, the times are moved towards that at once: the drift in that time of a camera's clock that goes 300 millionths wrong.
const SLEW_MAX: i64 = 10_000_000;
/// What arrives so much earlier or later than its time, ns, is no live camera's: a file, as fast as it can be read.
const LIVE_WITHIN: i64 = 5_000_000_000;

/// What was taken in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    pub frames: u64,
    pub bytes: u64,
}

/// From the packets' clock to TAI.
#[derive(Default)]
struct Clock {
    /// No picture is of an earlier time. A camera's clock may have been fast, or this machine's was set back: the index's times go on from where they were.
    least: u64,
    /// The last picture: on the packets' clock, and in TAI.
    last: Option<(u64, u64)>,
    /// How much later than their times pictures have arrived, the least, ns, and since which time.
    late: Option<i64>,
    looked_since: u64,
}

impl Clock {
    /// The time of a picture that arrives at `now_ns` (TAI), and whether the clock made a jump.
    fn time(&mut self, shown: Option<u64>, now_ns: u64) -> (u64, bool) {
        let now_ns = now_ns.max(self.least);
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
        let step = self.last.map_or(0, |(_, before)| at.saturating_sub(before));
        let at = at.saturating_add_signed(self.slew(at, now_ns, step));
        self.last = Some((shown, at));
        (at, jumped)
    }

    /// By how much, ns, a picture's time is moved, so that a camera's clock that is a little fast or slow is not followed for days: it is seen by those that were held up least on their way.
    fn slew(&mut self, at: u64, now_ns: u64, step: u64) -> i64 {
        let late = i64::try_from(now_ns).unwrap_or(i64::MAX).saturating_sub_unsigned(at);
        self.late = Some(self.late.map_or(late, |least| least.min(late)));
        if at.abs_diff(self.looked_since) < LOOKED_AT {
            return 0;
        }
        self.looked_since = at;
        // Not so much that a picture came before the one before it.
        let most = SLEW_MAX.min(i64::try_from(step / 2).unwrap_or(SLEW_MAX));
        self.late.take().filter(|late| late.abs() < LIVE_WITHIN).map_or(0, |late| late.clamp(-most, most))
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
    /// The next picture does not go on from the one before, and nor does the next entry of the index.
    begins: bool,
    cut: bool,
}

impl Ingester {
    /// Makes stream and index if they are not there.
    pub async fn open(client: &Client, scope: &str, stream: &str) -> Result<Ingester> {
        let one = StreamConfig { scaling_policy: Some(ScalingPolicy { min_num_segments: 1, ..ScalingPolicy::default() }), ..StreamConfig::default() };
        for name in [stream, &index_name(stream)] {
            client.ensure(scope, name, one.clone()).await?;
            let current = client.current(scope, name).await?;
            // A stream that was removed and made again does not begin with number 0.
            if current.len() != 1 || !client.head(scope, name).await?.keys().eq([&current[0].segment]) {
                return Err(Error::Conflict(format!("{scope}/{name} has been scaled or sealed: video needs a stream with one segment")));
            }
        }
        // The index first: where another one still writes, it then has no entry of a frame behind the data's end.
        let (mut index, length) = Writer::alone(client, scope, &index_name(stream)).await?;
        let (data, offset) = Writer::alone(client, scope, stream).await?;
        let newest = Ingester::newest(client, scope, &index_name(stream), &mut index, length, offset).await?;
        Ok(Ingester { data, index, offset, clock: Clock::default(), taken: Taken::default(), newest, begins: true, cut: false })
    }

    /// The time of the stream's last picture, ms since 1970 (UTC), if it lies so far ahead of this machine's clock that one of the two must be wrong. What is taken from now on has later
    /// times all the same.
    pub fn ahead(&self) -> Option<u64> {
        self.newest.filter(|newest| newest.saturating_sub(now_ns()) > AHEAD.as_nanos() as u64).map(|newest| utc(newest) / 1_000_000)
    }

    /// The time of the last entry of an index of `length` bytes. After a lost disk the index may have come back further than the data, and its last entries would tell of wrong
    /// places as soon as other frames lie there. Then those of frames before `end` are written again, and all that was there before is truncated; where that was begun and
    /// broken off, it is done anew.
    async fn newest(client: &Client, scope: &str, name: &str, index: &mut Writer, length: u64, end: u64) -> Result<Option<u64>> {
        let [only] = client.current(scope, name).await?[..] else { return Ok(None) };
        let (segment, size) = (only.segment, ENTRY as u64);
        let (start, ..) = client.segment(scope, name, segment).await?;
        let noted = client.attribute(scope, name, segment, REWRITTEN).await?;
        let begun = u64::try_from(noted).ok().filter(|begun| start < *begun);
        // Behind that are copies, and perhaps not all.
        let until = begun.map_or(length, |begun| begun.min(length));
        let (first, last) = (start.div_ceil(size), until / size);
        let entry = async |n: u64| -> Result<Entry> {
            let bytes = client.read(scope, name, segment, n * size, ENTRY as i32).await?;
            Entry::parse(&bytes).pop().ok_or_else(|| Error::Invalid(format!("{scope}/{name} has no entry at {}", n * size)))
        };
        if first >= last {
            return Ok(None);
        }
        let newest = entry(last - 1).await?;
        if begun.is_none() {
            if newest.offset < end {
                return Ok(Some(newest.tai_ns));
            }
            if !client.set_attribute(scope, name, segment, REWRITTEN, noted, length as i64).await? {
                return Err(Error::Conflict(format!("another process writes {scope}/{name} again at the same time; start this one when it has ended")));
            }
        }
        let (mut kept, mut high) = (first, last);
        while kept < high {
            let middle = kept + (high - kept) / 2;
            match entry(middle).await?.offset < end {
                true => kept = middle + 1,
                false => high = middle,
            }
        }
        tracing::warn!(stream = %format!("{scope}/{name}"), entries = last - kept, "entries of frames that are lost are forgotten");
        let mut at = first * size;
        while at < kept * size {
            let bytes = client.read(scope, name, segment, at, (kept * size - at).min(COPIED) as i32).await?;
            index.append_bytes("video", &bytes, 0).await?;
            at += bytes.len() as u64;
        }
        index.flush().await?;
        client.truncate(scope, name, &[(segment, length)].into()).await?;
        Ok(Some(newest.tai_ns))
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
        self.clock = Clock { least: self.newest.map_or(0, |n| n + 1), ..Clock::default() };
        self.begins = true;
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
        let begins = std::mem::take(&mut self.begins) || jumped;
        self.cut |= begins;
        flags |= if entry { INDEXED } else { 0 } | if begins || (entry && self.cut) { DISCONTINUITY } else { 0 };
        let event = frame(flags, tai_ns, &from.packets);
        self.data.append("video", &event, 0).await?;
        if entry {
            self.data.flush().await?;
            self.index.append_bytes("video", &Entry { flags: flags & !INDEXED, tai_ns, offset: self.offset }.bytes(), 0).await?;
            self.newest = Some(tai_ns);
            self.cut = false;
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
        let serving = tokio::spawn(async move { axum::serve(Bounded::new(listener, CONNECTIONS_MAX, IDLE_MAX), app).await });
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
        let mut clock = Clock { least: 700 * second, ..Clock::default() };
        assert_eq!(clock.time(Some(0), 500 * second), (700 * second, false), "the one before it had a fast clock");
        assert_eq!(clock.time(Some(90_000), 500 * second), (701 * second, false));
    }

    #[test]
    fn a_cameras_clock_that_goes_wrong_is_not_followed_for_days() {
        // So many pictures in a second for some hours, each held up by another time on its way.
        let end = |wrong: i64, rate: u64| {
            let seconds = 4 * 3600;
            let mut clock = Clock::default();
            let (mut at, mut before) = (0, 0);
            for n in 0..rate * seconds {
                let true_ns = 1_000_000_000_000 + n * 1_000_000_000 / rate;
                let shown = (n * CLOCK / rate).saturating_add_signed((n * CLOCK / rate) as i64 * wrong / 1_000_000);
                (at, _) = clock.time(Some(shown % CLOCK_END), true_ns + (n.wrapping_mul(2_654_435_761) >> 8) % 80 * 1_000_000);
                assert!(at > before, "{at} ns comes after {before}");
                before = at;
            }
            at as i64 - (1_000_000_000_000 + ((rate * seconds - 1) * 1_000_000_000 / rate) as i64)
        };
        for (wrong, rate) in [-100, 0, 100].into_iter().flat_map(|wrong| [1, 30, 120].map(|rate| (wrong, rate))) {
            let off = end(wrong, rate);
            assert!(off.abs() < 60_000_000, "{wrong} millionths at {rate} pictures/s: {off} ns off");
        }
        // A file is read as fast as it goes, and keeps its own times.
        let mut clock = Clock::default();
        let (first, _) = clock.time(Some(0), 0);
        let last = (1..=100_000u64).map(|n| clock.time(Some(n * 3000), n * 1000).0).last().unwrap();
        assert!((last - first).abs_diff(100_000 * 1_000_000_000 / 30) < 40_000_000, "{first} to {last}");
    }
}
