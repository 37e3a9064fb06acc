//! Events into a stream: in order per key, once, however often the connection is lost or the stream scaled.
//!
//! A writer may be *alone* with a stream of one segment ([`Writer::alone`]): then it knows where each of its events lies before it is there. That takes three things. It has an
//! id that all such writers have, so with its set-up the turn goes to it, and what is still on its way from one that was killed (an outage may hold that back for hours) is refused. It
//! leaves its mark in an attribute of the segment before that: an earlier one that connects again takes the turn back, sees that another has come, and ends without an
//! append. And each acknowledgement tells how long the segment is, so that it ends as soon as anyone else's bytes come between.

use super::{
    Client,
    connection::{Reply, frame},
    key_position, not_too_many,
    reader::{is_away, patiently, SILENT_MAX},
};
use crate::{
    Error, Result,
    catalog::{Range, TxnId},
    proto::stream_info::AccessOperation,
    tier::AbortOnDrop,
};
use bytes::{BufMut, Bytes, BytesMut};
use futures::future::BoxFuture;
use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::{Duration, Instant},
};
use tokio::sync::{Notify, Semaphore, SemaphorePermit, mpsc, watch};

/// Bytes that are not acknowledged; a writer that has more waits.
const IN_FLIGHT_MAX: usize = 32 << 20;
/// What an event counts besides its bytes, so that small ones have a bound too.
const EVENT_COST: usize = 64;
/// A block of events that is sent at once, bytes and events.
const BLOCK_BYTES: usize = 1 << 20;
const BLOCK_EVENTS: usize = 10_000;
/// Largest event, bytes.
const EVENT_MAX: usize = 8 << 20;
/// The id of all writers that are alone with their segment; turns and event numbers are kept for each segment by itself.
const ALONE: u128 = 0x8f2b_6d0e_51c7_4a93_b6e4_07d9_3c5a_f182;
/// The attribute with the mark of the one that was opened last.
const OWNER: u128 = 0x8f2b_6d0e_51c7_4a93_b6e4_07d9_3c5a_f183;
/// Between tries to connect again.
const PAUSE: Duration = Duration::from_millis(100);

fn cost(data: &Bytes) -> u32 {
    (data.len() + EVENT_COST) as u32
}

/// Called with an event's tag when it is durable.
pub type Acknowledged = Arc<dyn Fn(u64) + Send + Sync>;

struct Pending {
    position: f64,
    data: Bytes,
    tag: u64,
}

#[derive(Default)]
struct Done {
    written: AtomicU64,
    acknowledged: AtomicU64,
    changed: Notify,
    /// That nothing is acknowledged has been told, since something was.
    told: AtomicBool,
}

impl Done {
    fn counts(&self) -> (u64, u64) {
        let acknowledged = self.acknowledged.load(Acquire);
        (self.written.load(Relaxed), acknowledged)
    }

    /// Says so, once each time, when something waits and nothing is acknowledged for some seconds.
    async fn watch(self: Arc<Done>) {
        let mut before = self.counts();
        loop {
            tokio::time::sleep(SILENT_MAX).await;
            let (written, acknowledged) = self.counts();
            if before.1 == acknowledged && before.0 > acknowledged && !self.told.swap(true, Relaxed) {
                tracing::warn!(waiting = written - acknowledged, "the stream's server acknowledges nothing: it has no room, perhaps, which its own log says; waited for until it does");
            }
            before = (written, acknowledged);
        }
    }
}

/// Writes to one stream. [`Writer::flush`] before it is dropped, or what is not sent is lost.
pub struct Writer {
    queue: mpsc::UnboundedSender<Pending>,
    room: Arc<Semaphore>,
    done: Arc<Done>,
    failed: watch::Receiver<Option<Error>>,
    _watch: AbortOnDrop<()>,
}

impl Writer {
    /// `acknowledged` hears of each event that is durable.
    pub fn open<'a>(client: &'a Client, scope: &'a str, stream: &'a str, acknowledged: Option<Acknowledged>) -> BoxFuture<'a, Result<Writer>> {
        Box::pin(async move {
            match client.current(scope, stream).await?.len() {
                0 => return Err(Error::StreamSealed(format!("{scope}/{stream}"))),
                segments => not_too_many(scope, stream, segments)?,
            }
            Ok(Writer::start(Router::new(client, scope, stream, acknowledged)))
        })
    }

    /// One that has a stream of one segment for itself, with the place at which its first event will begin: the next one begins where that ends. Who was alone with it before
    /// appends nothing any more. When another one is opened, anyone else appends, or the stream is scaled, this one ends with an error that says so, and has not
    /// acknowledged what does not lie where it has to.
    pub fn alone<'a>(client: &'a Client, scope: &'a str, stream: &'a str) -> BoxFuture<'a, Result<(Writer, u64)>> {
        Box::pin(async move {
            let mut router = Router::new(client, scope, stream, None);
            let [range] = client.current(scope, stream).await?[..] else { return Err(router.not_one()) };
            router.to = To::One;
            let mut task = router.task(&range);
            let end = task.take_over().await?;
            router.start(range, task);
            Ok((Writer::start(router), end))
        })
    }

    /// One that writes to the segments of a transaction, which began when the stream had these ranges.
    pub(super) fn within(client: &Client, scope: &str, stream: &str, transaction: TxnId, ranges: Vec<Range>) -> Writer {
        let mut router = Router { to: To::Transaction(transaction), ..Router::new(client, scope, stream, None) };
        for range in ranges {
            let task = router.task(&range);
            router.start(range, task);
        }
        Writer::start(router)
    }

    fn start(router: Router) -> Writer {
        let (queue, pending) = mpsc::unbounded_channel();
        let (fail, failed) = watch::channel(None);
        let Shared { room, done, .. } = router.shared.clone();
        tokio::spawn(async move {
            let ended = router.run(pending).await;
            let _ = fail.send(Some(ended.err().unwrap_or_else(closed)));
        });
        let watch = AbortOnDrop(tokio::spawn(done.clone().watch()));
        Writer { queue, room, done, failed, _watch: watch }
    }

    /// Takes an event; waits while too many are not acknowledged. `tag` is what [`Acknowledged`] hears.
    pub async fn append(&mut self, key: &str, event: &[u8], tag: u64) -> Result<()> {
        if event.len() > EVENT_MAX {
            return Err(Error::Invalid(format!("an event has at most {EVENT_MAX} bytes, and this one has {}", event.len())));
        }
        let mut data = BytesMut::with_capacity(event.len() + 8);
        data.put_i32(0);
        data.put_i32(event.len() as i32);
        data.put_slice(event);
        self.enqueue(key, data.freeze(), tag).await
    }

    /// Takes bytes as they are, without an event's header: for a stream that is read as bytes.
    pub async fn append_bytes(&mut self, key: &str, bytes: &[u8], tag: u64) -> Result<()> {
        if bytes.len() > EVENT_MAX {
            return Err(Error::Invalid(format!("an append has at most {EVENT_MAX} bytes, and this one has {}", bytes.len())));
        }
        self.enqueue(key, Bytes::copy_from_slice(bytes), tag).await
    }

    async fn enqueue(&mut self, key: &str, data: Bytes, tag: u64) -> Result<()> {
        let cost = cost(&data);
        let mut failed = self.failed.clone();
        match self.room.try_acquire_many(cost) {
            Ok(permit) => permit.forget(),
            Err(_) => tokio::select! {
                permit = self.room.acquire_many(cost) => permit.map(SemaphorePermit::forget).map_err(|_| closed())?,
                e = failed.wait_for(Option::is_some) => return Err(e.ok().and_then(|e| e.clone()).unwrap_or_else(closed)),
            },
        }
        self.done.written.fetch_add(1, Relaxed);
        let pending = Pending { position: key_position(key), data, tag };
        self.queue.send(pending).map_err(|_| self.why())
    }

    fn why(&self) -> Error {
        self.failed.borrow().clone().unwrap_or_else(closed)
    }

    /// Waits until everything taken is durable.
    pub fn flush<'a>(&'a self) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let mut failed = self.failed.clone();
            loop {
                let changed = self.done.changed.notified();
                let (written, acknowledged) = self.done.counts();
                if acknowledged >= written {
                    return Ok(());
                }
                tokio::select! {
                    () = changed => {}
                    _ = failed.wait_for(Option::is_some) => return Err(self.why()),
                }
            }
        })
    }
}

fn closed() -> Error {
    Error::Unavailable("the writer is closed".into())
}

#[derive(Clone)]
struct Shared {
    room: Arc<Semaphore>,
    done: Arc<Done>,
    acknowledged: Option<Acknowledged>,
}

struct Segment {
    range: Range,
    queue: mpsc::UnboundedSender<Pending>,
    /// What was not acknowledged when the segment was sealed.
    back: tokio::task::JoinHandle<Result<Vec<Pending>>>,
}

/// Which segments events go to.
enum To {
    /// The stream's own, whatever those are by now.
    Stream,
    /// The one that there was at first.
    One,
    /// Those of a transaction, for the stream's ranges when it began.
    Transaction(TxnId),
}

struct Router {
    client: Client,
    scope: String,
    stream: String,
    segments: Vec<Segment>,
    to: To,
    shared: Shared,
}

impl Router {
    fn new(client: &Client, scope: &str, stream: &str, acknowledged: Option<Acknowledged>) -> Router {
        let shared = Shared { room: Arc::new(Semaphore::new(IN_FLIGHT_MAX)), done: Arc::default(), acknowledged };
        Router { client: client.clone(), scope: scope.into(), stream: stream.into(), segments: Vec::new(), to: To::Stream, shared }
    }

    fn not_one(&self) -> Error {
        Error::Conflict(format!("{}/{} has been scaled or sealed: who is to know where each event lies needs a stream that keeps its one segment", self.scope, self.stream))
    }

    fn task(&self, range: &Range) -> SegmentTask {
        let segment = range.segment.name(&self.scope, &self.stream);
        SegmentTask {
            client: self.client.clone(),
            scope: self.scope.clone(),
            stream: self.stream.clone(),
            name: if let To::Transaction(id) = self.to { id.segment(&segment) } else { segment },
            id: rand::random(),
            next: 1,
            alone: None,
            unacknowledged: VecDeque::new(),
            reached: false,
            shared: self.shared.clone(),
        }
    }

    fn start(&mut self, range: Range, task: SegmentTask) {
        let (queue, pending) = mpsc::unbounded_channel();
        let back = tokio::spawn(task.run(pending));
        self.segments.push(Segment { range, queue, back });
    }

    async fn run(mut self, mut pending: mpsc::UnboundedReceiver<Pending>) -> Result<()> {
        loop {
            // A segment that was sealed while nothing new came must give back what it has, too.
            let ended = self.segments.iter().position(|s| s.back.is_finished());
            if let Some(i) = ended {
                self.replace(i).await?;
                continue;
            }
            let ended = async {
                if self.segments.is_empty() {
                    return std::future::pending().await;
                }
                let all = self.segments.iter().map(|s| Box::pin(s.queue.closed()));
                futures::future::select_all(all).await;
            };
            let event = tokio::select! {
                event = pending.recv() => event,
                () = ended => {
                    // Its task is about to end.
                    if let Some(i) = self.segments.iter().position(|s| s.queue.is_closed()) {
                        self.replace(i).await?;
                    }
                    continue;
                }
            };
            let Some(event) = event else { return Ok(()) };
            self.route(event).await?;
        }
    }

    async fn route(&mut self, mut event: Pending) -> Result<()> {
        loop {
            let found = self.segments.iter().position(|s| s.range.low <= event.position && event.position < s.range.high);
            let Some(i) = found else {
                self.refresh().await?;
                continue;
            };
            match self.segments[i].queue.send(event) {
                Ok(()) => return Ok(()),
                Err(e) => {
                    event = e.0;
                    self.replace(i).await?;
                }
            }
        }
    }

    /// A segment has ended: what it gives back goes to its successors before anything newer.
    async fn replace(&mut self, i: usize) -> Result<()> {
        let ended = self.segments.swap_remove(i);
        drop(ended.queue);
        let back = ended.back.await.map_err(|e| Error::Unavailable(format!("a writer's task ended: {e}")))??;
        for event in back {
            Box::pin(self.route(event)).await?;
        }
        Ok(())
    }

    async fn refresh(&mut self) -> Result<()> {
        match self.to {
            To::Stream => {}
            To::One => return Err(self.not_one()),
            To::Transaction(id) => return Err(Error::NoTxn(format!("{:x}-{:x} on {}/{}", id.high, id.low, self.scope, self.stream))),
        }
        // A scale and a lost connection come together when a server is lost: neither ends a writer.
        let ask = || -> BoxFuture<'static, _> {
            let (client, scope, stream) = (self.client.clone(), self.scope.clone(), self.stream.clone());
            Box::pin(async move { client.current(&scope, &stream).await })
        };
        let current = patiently(ask).await?;
        if current.is_empty() {
            return Err(Error::StreamSealed(format!("{}/{}", self.scope, self.stream)));
        }
        not_too_many(&self.scope, &self.stream, current.len())?;
        // One that is not written to any more may not have heard of it: its writer hears when it writes. It takes nothing new, and gives back what it has.
        let old = self.segments.iter().position(|s| current.iter().all(|r| r.segment != s.range.segment));
        if let Some(i) = old {
            return Box::pin(self.replace(i)).await;
        }
        for range in current {
            if self.segments.iter().any(|s| s.range.segment == range.segment) {
                continue;
            }
            let task = self.task(&range);
            self.start(range, task);
        }
        Ok(())
    }
}

/// Of a writer that has its segment for itself.
struct Alone {
    /// What the segment has as [`OWNER`] until another one is opened.
    mark: i64,
    /// Where the last event ends that is known to be durable, or that was there before.
    end: u64,
}

struct SegmentTask {
    client: Client,
    scope: String,
    stream: String,
    name: String,
    id: u128,
    /// Number of the next event.
    next: i64,
    alone: Option<Alone>,
    unacknowledged: VecDeque<(i64, Pending)>,
    /// The server has answered to the last set-up.
    reached: bool,
    shared: Shared,
}

impl SegmentTask {
    /// Writes until the segment is sealed or the queue ends; gives back what is not acknowledged.
    async fn run(mut self, mut pending: mpsc::UnboundedReceiver<Pending>) -> Result<Vec<Pending>> {
        // Since when the server is away, and whether that was told.
        let mut away: Option<(Instant, bool)> = None;
        loop {
            let ended = self.connected(&mut pending).await;
            if std::mem::take(&mut self.reached) {
                away = None;
            }
            if let Err(e) = &ended
                && is_away(e)
            {
                let (since, told) = away.get_or_insert((Instant::now(), false));
                if since.elapsed() > SILENT_MAX && !std::mem::replace(told, true) {
                    self.shared.done.told.store(true, Relaxed);
                    tracing::warn!(segment = %self.name, error = %e, waiting = self.unacknowledged.len(), "the stream's server does not take events; tried again until it does");
                }
            }
            match ended {
                Ok(()) => return Ok(Vec::new()),
                Err(Error::Sealed { .. } | Error::NoSegment(_)) => {
                    pending.close();
                    while let Ok(event) = pending.try_recv() {
                        self.unacknowledged.push_back((0, event));
                    }
                    return Ok(self.unacknowledged.into_iter().map(|(_, event)| event).collect());
                }
                Err(e) if is_away(&e) => {
                    tracing::debug!(segment = %self.name, error = %e, "tried again");
                    tokio::time::sleep(PAUSE).await;
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Takes the segment from whoever was alone with it before; gives its length.
    async fn take_over(&mut self) -> Result<u64> {
        let (mut connection, token) = self.client.dial(&self.scope, &self.stream, AccessOperation::Write).await?;
        // First the mark: who sets up after that sees it, and who has set up before has no turn after the next step. So what is asked for last stays true.
        let mark = loop {
            let (before, mark) = (connection.attribute(&self.name, &token, OWNER).await?, rand::random());
            if connection.set_attribute(&self.name, &token, OWNER, before, mark).await? {
                break mark;
            }
        };
        let last = connection.setup(&self.name, &token, ALONE).await?;
        let (_, end, _) = connection.info(&self.name, &token).await?;
        (self.id, self.next, self.alone) = (ALONE, last.max(0) + 1, Some(Alone { mark, end }));
        Ok(end)
    }

    /// Events up to this number are durable, and the segment is so long behind them, as far as that was told.
    fn acknowledge(&mut self, event: i64, length: Option<u64>) -> Result<()> {
        if let (Some(alone), Some(length)) = (&mut self.alone, length) {
            let end = self.unacknowledged.iter().take_while(|(n, _)| *n <= event).fold(alone.end, |end, (_, e)| end + e.data.len() as u64);
            if end != length {
                return Err(Error::Conflict(format!(
                    "{} has {length} bytes where {end} were to be: something else was appended to it, or it was restored without its last bytes; start again, and nothing but this writer is to append there",
                    self.name
                )));
            }
            alone.end = end;
        }
        let mut count = 0;
        let mut bytes = 0;
        while let Some((number, _)) = self.unacknowledged.front()
            && *number <= event
            && let Some((_, done)) = self.unacknowledged.pop_front()
        {
            count += 1;
            bytes += cost(&done.data) as usize;
            if let Some(tell) = &self.shared.acknowledged {
                tell(done.tag);
            }
        }
        self.shared.done.acknowledged.fetch_add(count, Release);
        if count > 0 {
            self.shared.done.told.store(false, Relaxed);
        }
        self.shared.room.add_permits(bytes);
        self.shared.done.changed.notify_waiters();
        Ok(())
    }

    fn block(&self, out: &mut BytesMut, from: usize) {
        let events = self.unacknowledged.range(from..);
        let bytes: usize = events.clone().map(|(_, e)| e.data.len()).sum();
        let last = self.unacknowledged.back().map_or(0, |(n, _)| *n);
        frame(out, 4, |f| {
            f.put_u128(self.id);
            f.put_i32(bytes as i32);
            f.put_i32(bytes as i32);
            events.clone().for_each(|(_, e)| f.put_slice(&e.data));
            f.put_i32(events.len() as i32);
            f.put_i64(last);
            f.put_i64(last);
        });
    }

    async fn connected(&mut self, pending: &mut mpsc::UnboundedReceiver<Pending>) -> Result<()> {
        let (mut connection, token) = self.client.dial(&self.scope, &self.stream, AccessOperation::Write).await?;
        let last = connection.setup(&self.name, &token, self.id).await?;
        self.reached = true;
        let mut length = None;
        if let Some(alone) = &self.alone {
            if connection.attribute(&self.name, &token, OWNER).await? != alone.mark {
                return Err(Error::Conflict(format!(
                    "another process that was started later writes to {}/{}, and one at a time can: this one has ended, and nothing of it lies between what that one writes; stop one of the two",
                    self.scope, self.stream
                )));
            }
            length = Some(connection.info(&self.name, &token).await?.1);
        }
        self.acknowledge(last, length)?;
        let mut out = BytesMut::new();
        let super::connection::Connection { mut receiver, mut sender } = connection;
        // What was sent before and is not there, in blocks as ever.
        let again = std::mem::take(&mut self.unacknowledged);
        let mut again = again.into_iter().peekable();
        while again.peek().is_some() {
            let from = self.unacknowledged.len();
            let mut bytes = 0;
            while let Some(event) = again.next_if(|(_, e)| bytes == 0 || bytes + e.data.len() <= BLOCK_BYTES) {
                bytes += event.1.data.len();
                self.unacknowledged.push_back(event);
            }
            out.clear();
            self.block(&mut out, from);
            if let Err(e) = sender.send(&out).await {
                self.unacknowledged.extend(again);
                return Err(e);
            }
        }
        loop {
            tokio::select! {
                biased;
                reply = receiver.next() => match reply? {
                    Reply::Appended { event, length } => self.acknowledge(event, length)?,
                    Reply::Failed { error, .. } => return Err(error),
                    other => return Err(Error::Invalid(format!("the segment store answered an append with {other:?}"))),
                },
                event = pending.recv() => {
                    let Some(event) = event else {
                        // Nothing more comes; what is under way is waited for by flush.
                        while !self.unacknowledged.is_empty() {
                            match receiver.next().await? {
                                Reply::Appended { event, length } => self.acknowledge(event, length)?,
                                Reply::Failed { error, .. } => return Err(error),
                                other => return Err(Error::Invalid(format!("the segment store answered an append with {other:?}"))),
                            }
                        }
                        return Ok(());
                    };
                    let from = self.unacknowledged.len();
                    let mut bytes = event.data.len();
                    self.take(event);
                    while bytes < BLOCK_BYTES && self.unacknowledged.len() - from < BLOCK_EVENTS {
                        let Ok(event) = pending.try_recv() else { break };
                        bytes += event.data.len();
                        self.take(event);
                    }
                    out.clear();
                    self.block(&mut out, from);
                    sender.send(&out).await?;
                }
            }
        }
    }

    fn take(&mut self, event: Pending) {
        self.unacknowledged.push_back((self.next, event));
        self.next += 1;
    }
}
