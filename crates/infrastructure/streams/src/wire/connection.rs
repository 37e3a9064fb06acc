//! One connection: a task that reads requests, a task that writes replies, and one for each read that waits.
//!
//! ```text
//!   socket ─▶ frames ─▶ store ──(block number, reply)──▶ outbox ──(when durable, in order)──▶ socket
//!                         └─ reads of bytes, each a task ──▶ outbox, at once
//! ```
//!
//! Bounds, at which no more is read from the socket: [`UNACKNOWLEDGED_MAX`] bytes of appends that are not durable, what the store has room for ([`Store::room`]), [`OUTBOX_MAX`] bytes of
//! replies that the client doesn't take, [`READS_MAX`] reads at work, and the store's own. Reads at the tail, where there is nothing yet, hold up nothing: beyond [`TAILS_MAX`] of them one is
//! answered with nothing after [`READ_WAIT_SHORT`]. A client that breaks the protocol loses its
//! connection and nothing else. Commands of more than [`READ_BUFFER`] bytes, and bytes that were read and not taken, have places in memory that all
//! connections share ([`Held`]).

use super::{
    codec::{self, AttributeUpdate, Bad, Effect, Frames, KeyRange, Reply, Request, TableKey},
    outbox::{LEAVE_TOGETHER, OUTBOX_MAX, OUTBOX_SHORT, Outbox},
};
use crate::{
    Error, Result, Store,
    access::{Access, Refused, Want},
    catalog,
    log::Seq,
    plan,
    segment::{NO_VALUE, Record, Segment, State},
    store::{Append, Gated, Held, Info, READ_MAX, Turn},
    table::{self, Change},
    tier::AbortOnDrop,
};
use bytes::{Bytes, BytesMut};
use std::{
    collections::{HashMap, VecDeque},
    ops::Bound,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};

const UNACKNOWLEDGED_MAX: u64 = 16 << 20;
const READS_MAX: usize = 32;
/// Reads of a connection that wait at the tail of their segments: a client may follow many over one.
const TAILS_MAX: usize = 1024;
/// A read at the tail is answered with nothing after this long. Clients give up after 30 s.
const READ_WAIT: Duration = Duration::from_secs(10);
/// The same beyond [`TAILS_MAX`].
const READ_WAIT_SHORT: Duration = Duration::from_millis(100);
/// A reply with table entries stops at this many bytes.
const TABLE_REPLY_MAX: usize = 4 << 20;
/// Writers that one connection may have set up.
const WRITERS_MAX: usize = 100_000;
/// Attributes of a segment beyond which none is added by a command of its own; a writer's last number always is.
const ATTRIBUTES_MAX: usize = 100_000;
/// What is written to the socket before others have their turn.
const WRITE_AT_ONCE: usize = 64 << 10;
/// What is read from the socket at once, at least.
const READ_BUFFER: usize = 64 << 10;
/// A client says something within this time …
const FIRST_WORD: Duration = Duration::from_secs(10);
/// Of a client that has gone, a request that waits for room waits no longer: its connection is one of those that there may be.
const GONE_MAX: Duration = Duration::from_secs(10);
/// … and a command that needs a place in memory comes as a whole within this, as do the two parts of a block of events.
const COMMAND_MAX: Duration = Duration::from_secs(120);

/// The beginning of a block of events, until its end comes.
struct Block {
    writer: u128,
    data: Bytes,
    since: tokio::time::Instant,
    /// Its place in memory, if it is large.
    _held: Option<Held>,
}

/// Serves one client until it goes. The error says why it was sent away.
pub async fn serve<S: AsyncRead + AsyncWrite + Send + 'static>(stream: S, store: Store, access: Access) -> Result<(), String> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let outbox = Arc::new(Outbox::new(store.replies()));
    let (box_, progress, told) = (outbox.clone(), store.log().progress(), store.clone());
    // It goes with this task, or the socket would stay open when the server ends its connections.
    let mut writing = AbortOnDrop(tokio::spawn(async move {
        let mut progress = progress;
        let mut out = Frames::default();
        loop {
            let filled = box_.filled.notified();
            let (durable, stopped) = {
                let now = progress.borrow_and_update();
                (now.durable, now.stopped.is_some())
            };
            let (places, loose, last) = box_.take(durable, &mut out, &told.metrics().write);
            if out.size() > 0 {
                let much = out.size() > LEAVE_TOGETHER;
                let pieces = out.take();
                let sent;
                (writer, sent) = match told.tier().filter(|_| much) {
                    Some(tier) => tier.aside(async move { Ok(send(writer, pieces).await) }).await.map_err(|e| e.to_string())?,
                    None => send(writer, pieces).await,
                };
                sent.map_err(|e| e.to_string())?;
                drop(places);
                box_.sent(loose);
                box_.emptied.notify_waiters();
                continue;
            }
            if last {
                let _ = writer.shutdown().await;
                return Ok(());
            }
            if stopped && box_.waits() {
                // It will never be known to be durable. Who waits for nothing of it may read on.
                return Err("the log has stopped".to_string());
            }
            tokio::select! {
                () = filled => {}
                changed = progress.changed() => changed.map_err(|_| "the log is gone".to_string())?,
            }
        }
    }));
    let mut connection = Connection {
        store: store.clone(),
        access,
        outbox: outbox.clone(),
        writers: HashMap::new(),
        block: None,
        greeted: false,
        unacknowledged: VecDeque::new(),
        unacknowledged_bytes: 0,
        reads: JoinSet::new(),
        permits: Arc::new(Semaphore::new(READS_MAX)),
        tails: Arc::new(Semaphore::new(TAILS_MAX)),
        untaken: Arc::new(Semaphore::new(OUTBOX_MAX)),
        transients: Vec::new(),
    };
    let log = store.log();
    let mut reading = Box::pin(connection.read(&mut reader));
    let served = tokio::select! {
        // What a client has sent is taken first, and then written: what comes meanwhile is the next block.
        served = std::future::poll_fn(|cx| log.lending(|| reading.as_mut().poll(cx))) => served,
        // A client that doesn't take replies, or one whose replies will never be true since the log stopped.
        ended = &mut writing.0 => ended.unwrap_or_else(|e| Err(e.to_string())),
    };
    drop(reading);
    connection.reads.abort_all();
    for name in std::mem::take(&mut connection.transients) {
        // What a large event was being gathered in is of no use to anyone else.
        let _ = store.commit(|state| Ok((state.find(&name).ok().map(|(id, _)| Record::Delete { id }), ())));
    }
    outbox.close();
    if !writing.0.is_finished() {
        // What was acknowledged by then still leaves, if the client takes it.
        let _ = tokio::time::timeout(Duration::from_secs(5), &mut writing.0).await;
    }
    served
}

/// Waits until then; for ever without a time.
async fn until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Sends all of it, and gives the socket back.
async fn send<W: AsyncWrite + Unpin>(mut to: W, pieces: Vec<Bytes>) -> (W, std::io::Result<()>) {
    for piece in pieces {
        for (n, part) in piece.chunks(WRITE_AT_ONCE).enumerate() {
            if n > 0 {
                tokio::task::yield_now().await;
            }
            if let Err(e) = to.write_all(part).await {
                return (to, Err(e));
            }
        }
    }
    (to, Ok(()))
}

struct Writer {
    segment: String,
    last: i64,
    /// When its token ends, ms since 1970.
    until_ms: u64,
    /// None to a segment that was not there.
    turn: Option<Turn>,
    _place: OwnedSemaphorePermit,
}

struct Connection {
    store: Store,
    access: Access,
    outbox: Arc<Outbox>,
    writers: HashMap<u128, Writer>,
    /// The first part of a block, until its end comes, with its place in memory if it has one.
    block: Option<Block>,
    /// It has said hello.
    greeted: bool,
    unacknowledged: VecDeque<(Seq, u64)>,
    unacknowledged_bytes: u64,
    reads: JoinSet<()>,
    permits: Arc<Semaphore>,
    tails: Arc<Semaphore>,
    /// Bytes that were read for the client and that it has not taken.
    untaken: Arc<Semaphore>,
    /// Segments made for one large event each, which are gone when they are merged.
    transients: Vec<String>,
}

impl Connection {
    async fn read<R: AsyncRead + Unpin>(&mut self, reader: &mut R) -> Result<(), String> {
        let mut buffer = BytesMut::with_capacity(READ_BUFFER);
        let opened = tokio::time::Instant::now();
        // Where a large command has its place in memory, and since when.
        let mut place: Option<(Held, tokio::time::Instant)> = None;
        let mut spoken = false;
        loop {
            while let Some((kind, payload)) = self.next(&mut buffer, &mut place).await? {
                spoken = true;
                let request = codec::request(kind, payload).map_err(|e| e.to_string())?;
                let held = place.take().map(|(held, _)| held);
                if held.is_some() {
                    // Or the buffer would stay as large as the largest command.
                    buffer = BytesMut::from(&buffer[..]);
                }
                let mut taking = std::pin::pin!(self.take(request, held));
                let mut gone = None;
                loop {
                    tokio::select! {
                        biased;
                        taken = &mut taking => break taken?,
                        // It may wait for long. Meanwhile as much is read as would be anyway, which tells whether the client is there.
                        more = reader.read_buf(&mut buffer), if gone.is_none() && buffer.len() < READ_BUFFER => match more {
                            Ok(0) => gone = Some(tokio::time::Instant::now() + GONE_MAX),
                            Ok(_) => {}
                            Err(e) => return Err(e.to_string()),
                        },
                        () = until(gone), if gone.is_some() => return Err("the client has gone while its request waited".into()),
                    }
                }
            }
            buffer.reserve(READ_BUFFER);
            // The later of the two, since whoever waits for a place is not slow.
            let since = place.as_ref().map(|(_, since)| *since).or(self.block.as_ref().map(|block| block.since));
            let more = match (since, spoken) {
                (Some(since), _) => tokio::time::timeout_at(since + COMMAND_MAX, reader.read_buf(&mut buffer)).await.map_err(|_| "a command that does not come to its end")?,
                (None, false) => tokio::time::timeout_at(opened + FIRST_WORD, reader.read_buf(&mut buffer)).await.map_err(|_| "a client that says nothing")?,
                (None, true) => reader.read_buf(&mut buffer).await,
            };
            if more.map_err(|e| e.to_string())? == 0 {
                return if buffer.is_empty() { Ok(()) } else { Err("the connection ended in the middle of a command".into()) };
            }
        }
    }

    /// The next command, if it is there. One that is large and has not come yet gets a place in memory first.
    async fn next(&self, buffer: &mut BytesMut, place: &mut Option<(Held, tokio::time::Instant)>) -> Result<Option<(i32, Bytes)>, String> {
        let whole = codec::length(buffer).map_err(|e| e.to_string())?.unwrap_or(0);
        if whole > READ_BUFFER && whole > buffer.len() && place.is_none() {
            if !self.greeted {
                return Err(format!("a command of {whole} bytes before hello"));
            }
            let held = match self.block {
                None => self.store.place(whole).await,
                Some(_) => self.store.place_of_end(whole).await,
            };
            *place = Some((held.map_err(|e| e.to_string())?, tokio::time::Instant::now()));
        }
        codec::frame(buffer).map_err(|e| e.to_string())
    }

    async fn take(&mut self, request: Request, held: Option<Held>) -> Result<(), String> {
        tracing::trace!(?request, "request");
        if self.block.is_some() && !matches!(request, Request::AppendBlockEnd { .. }) {
            return Err("a command in the middle of a block of events".into());
        }
        match request {
            Request::Hello { high, low } => {
                self.greeted = true;
                self.outbox.ready(Reply::Hello);
                if high < codec::OLDEST_VERSION || low > codec::VERSION {
                    return Err(format!("a client that speaks versions {low} to {high}"));
                }
            }
            Request::KeepAlive => self.outbox.ready(Reply::KeepAlive),
            Request::Padding => {}
            Request::SetupAppend { id, writer, segment, token } => {
                let Some(until_ms) = self.may(id, &token, &segment, Want::Update) else { return Ok(()) };
                if self.writers.len() >= WRITERS_MAX && !self.writers.contains_key(&writer) {
                    return Err(format!("more than {WRITERS_MAX} writers on one connection"));
                }
                let place = self.store.setup(&segment).ok_or("no memory is left for more writers over all connections: close some, or set up fewer")?;
                let (gated, turn) = self.store.take_turn(&segment, writer);
                self.writers.insert(writer, Writer { segment: segment.clone(), last: 0, until_ms, turn, _place: place });
                self.reply(id, &segment, gated, |last| Reply::AppendSetup { id, segment: segment.clone(), writer, last });
            }
            Request::AppendBlock { writer, data } => {
                if !self.writers.contains_key(&writer) {
                    return Err("an append before its setup".into());
                }
                self.block = Some(Block { writer, data, since: tokio::time::Instant::now(), _held: held });
            }
            Request::AppendBlockEnd { id, writer, whole, data, events, last } => {
                let block = self.block.take();
                let data = match &block {
                    None => data,
                    Some(block) if block.writer == writer => codec::join_block(&block.data, whole, &data).map_err(|e: Bad| e.to_string())?,
                    Some(_) => return Err("a block that another writer ends".into()),
                };
                if events <= 0 {
                    return Err(format!("a block of {events} events"));
                }
                self.append(id, writer, last, events as u32, None, data).await?;
            }
            Request::ConditionalAppend { id, writer, event, expected, data } => {
                // No length is negative: such an append can't succeed, and says so like any other.
                self.append(id, writer, event, 1, Some(u64::try_from(expected).unwrap_or(u64::MAX)), data).await?;
            }
            Request::Read { id, segment, offset, length, token } => {
                if !self.allowed(id, &token, &segment, Want::Read) {
                    return Ok(());
                }
                let tail = u64::try_from(offset).is_ok_and(|offset| self.store.is_tail(&segment, offset));
                let waits = if tail { self.tails.clone().try_acquire_owned().ok().zip(self.store.tail_place()) } else { None };
                // One that has no place to wait gets what there is soon: who asks again at once would do nothing else.
                let wait = if tail && waits.is_none() { READ_WAIT_SHORT } else { READ_WAIT };
                let works = match waits {
                    Some(_) => None,
                    // At the bound no further request is taken from the socket until a read has ended.
                    None => Some(self.permits.clone().acquire_owned().await.map_err(|e| e.to_string())?),
                };
                while self.reads.try_join_next().is_some() {}
                let (store, outbox, untaken) = (self.store.clone(), self.outbox.clone(), self.untaken.clone());
                self.reads.spawn(async move {
                    let max = usize::try_from(length).unwrap_or(0).min(READ_MAX);
                    // Below the first byte is below the start, whatever that is.
                    let read = match u64::try_from(offset) {
                        Ok(offset) => store.read_within(Some(&untaken), &segment, offset, max, wait).await,
                        Err(_) => Err(Error::Invalid(format!("offset {offset} of {segment} is negative"))),
                    };
                    let (reply, held) = match read {
                        Ok(read) => (Reply::SegmentRead { id, segment, offset, at_tail: read.at_tail, end: read.end, data: read.data }, read.held),
                        Err(e) => (failure(id, &segment, offset, e), Held::default()),
                    };
                    outbox.room().await;
                    outbox.held(reply, held);
                    drop((waits, works));
                });
            }
            Request::Locate { id, segment, offset, token } => {
                if !self.allowed(id, &token, &segment, Want::Read) {
                    return Ok(());
                }
                let permit = self.permits.clone().acquire_owned().await.map_err(|e| e.to_string())?;
                while self.reads.try_join_next().is_some() {}
                let (store, outbox) = (self.store.clone(), self.outbox.clone());
                self.reads.spawn(async move {
                    let reply = match store.locate(&segment, u64::try_from(offset).unwrap_or(0)).await {
                        Ok(at) => Reply::Located { id, segment, offset: at as i64 },
                        Err(e) => failure(id, &segment, offset, e),
                    };
                    outbox.room().await;
                    outbox.ready(reply);
                    drop(permit);
                });
            }
            other => {
                match other.effect() {
                    Effect::Nothing => {}
                    Effect::Ends => self.store.room_to_end().await.map_err(|e| e.to_string())?,
                    Effect::Grows => self.store.room_beside().await.map_err(|e| e.to_string())?,
                }
                self.operate(other);
            }
        }
        self.outbox.room().await;
        Ok(())
    }

    /// Whether the token allows it; if not, the reply has been given.
    fn allowed(&self, id: i64, token: &str, segment: &str, want: Want) -> bool {
        self.may(id, token, segment, want).is_some()
    }

    /// Until when the token allows it, ms since 1970.
    fn may(&self, id: i64, token: &str, segment: &str, want: Want) -> Option<u64> {
        match self.access.segment(token, segment, want, base::clock::now_ms()) {
            Ok(until_ms) => Some(until_ms),
            Err(Refused { why, expired }) => {
                self.store.metrics().refused.fetch_add(1, Relaxed);
                self.outbox.ready(Reply::TokenFailed { id, why, expired });
                None
            }
        }
    }

    fn reply<T>(&self, id: i64, segment: &str, gated: Gated<T>, make: impl FnOnce(T) -> Reply) {
        let reply = match gated.result {
            Ok(out) => make(out),
            Err(e) => failure(id, segment, -1, e),
        };
        self.outbox.gated(gated.seq, reply, None);
    }

    async fn append(&mut self, id: i64, writer: u128, event: i64, events: u32, expected: Option<u64>, data: Bytes) -> Result<(), String> {
        let arrived = Instant::now();
        let state = self.writers.get_mut(&writer).ok_or("an append before its setup")?;
        // The client comes back with a new token; what was acknowledged stays.
        if !self.access.is_open() && state.until_ms <= base::clock::now_ms() {
            return Err(format!("the token for {} has expired", state.segment));
        }
        if event < state.last {
            return Err(format!("event number {event} after {}", state.last));
        }
        state.last = event;
        let segment = state.segment.clone();
        self.store.room().await.map_err(|e| e.to_string())?;
        let bytes = data.len() as u64;
        let turn = self.writers.get(&writer).and_then(|w| w.turn.as_ref());
        let Gated { seq, result } = self.store.append_in_turn(turn, Append { segment: &segment, writer, event, events, expected, data });
        let (reply, end) = match result {
            Ok(done) => (Reply::DataAppended { id, writer, event, previous: done.previous, length: done.length as i64 }, None),
            Err(Error::NotAt { .. }) => (Reply::ConditionFailed { id, writer, event }, None),
            Err(e @ (Error::EventNumber { .. } | Error::TakenOver { .. })) => (Reply::EventNumber { id, writer, why: e.to_string(), event }, Some(e.to_string())),
            Err(e @ Error::Stopped(_)) => return Err(e.to_string()),
            Err(e) => (failure(id, &segment, -1, e), None),
        };
        let arrived = matches!(reply, Reply::DataAppended { .. }).then_some(arrived);
        self.outbox.gated(seq, reply, arrived);
        if let Some(end) = end {
            return Err(end);
        }
        self.unacknowledged.push_back((seq, bytes));
        self.unacknowledged_bytes += bytes;
        while let Some((seq, bytes)) = self.unacknowledged.front().copied() {
            if self.store.log().durable() < seq {
                if self.unacknowledged_bytes <= UNACKNOWLEDGED_MAX {
                    break;
                }
                self.store.log().wait(seq).await.map_err(|e| e.to_string())?;
            }
            self.unacknowledged_bytes -= bytes;
            self.unacknowledged.pop_front();
        }
        Ok(())
    }

    /// Everything that is decided at once.
    fn operate(&mut self, request: Request) {
        let now_ms = base::clock::now_ms();
        let store = self.store.clone();
        let most = if self.outbox.is_short() { OUTBOX_SHORT } else { TABLE_REPLY_MAX };
        match request {
            Request::Info { id, segment, token } if self.allowed(id, &token, &segment, Want::Read) => {
                let gated = store.gate(&segment, |state| {
                    let s = state.segment(&segment)?;
                    let length = s.table.as_ref().map_or(s.length, |t| t.length());
                    Ok(Info { start: s.start, length, sealed: s.sealed, modified_ms: s.modified_ms })
                });
                self.reply(id, &segment, gated, |i| Reply::Info {
                    id,
                    segment: segment.clone(),
                    sealed: i.sealed,
                    modified_ms: i.modified_ms as i64,
                    length: i.length as i64,
                    start: i.start as i64,
                });
            }
            Request::Create { id, segment, token } if self.allowed(id, &token, &segment, Want::Update) => {
                let gated = store.commit(|state| create(state, &segment, false, now_ms));
                self.reply(id, &segment, gated, |()| Reply::Created { id, segment: segment.clone() });
            }
            Request::CreateTable { id, segment, token } if self.allowed(id, &token, &segment, Want::Update) => {
                let gated = store.commit(|state| create(state, &segment, true, now_ms));
                self.reply(id, &segment, gated, |()| Reply::Created { id, segment: segment.clone() });
            }
            Request::CreateTransient { id, parent, token, .. } if self.allowed(id, &token, &parent, Want::Update) => {
                let name = format!("{parent}#transient.{:032x}", rand::random::<u128>());
                let gated = store.commit(|state| {
                    state.segment(&parent)?.writable()?;
                    create(state, &name, false, now_ms)
                });
                if gated.result.is_ok() {
                    self.transients.push(name.clone());
                }
                self.reply(id, &parent, gated, |()| Reply::Created { id, segment: name });
            }
            Request::UpdatePolicy { id, segment, token } if self.allowed(id, &token, &segment, Want::Update) => {
                // The policy is the stream's; that a segment is told of it changes nothing here.
                let gated = store.gate(&segment, |state| state.segment(&segment).map(|_| ()));
                self.reply(id, &segment, gated, |()| Reply::PolicyUpdated { id, segment: segment.clone() });
            }
            Request::Seal { id, segment, token } if self.allowed(id, &token, &segment, Want::Update) => {
                let gated = store.commit(|state| {
                    let (number, s) = state.find(&segment)?;
                    Ok(((!s.sealed).then_some(Record::Seal { id: number }), ()))
                });
                self.reply(id, &segment, gated, |()| Reply::Sealed { id, segment: segment.clone() });
            }
            Request::Delete { id, segment, token } if self.allowed(id, &token, &segment, Want::Update) => {
                let gated = store.commit(|state| {
                    let (number, s) = state.find(&segment)?;
                    match s.table {
                        Some(_) => Err(Error::IsATable(segment.clone())),
                        None => Ok((Some(Record::Delete { id: number }), ())),
                    }
                });
                self.reply(id, &segment, gated, |()| Reply::Deleted { id, segment: segment.clone() });
            }
            Request::DeleteTable { id, segment, if_empty, token } if self.allowed(id, &token, &segment, Want::Update) => {
                let gated = store.commit(|state| {
                    let (number, s) = state.find(&segment)?;
                    if if_empty && !s.as_table()?.is_empty() {
                        return Err(Error::NotEmpty(segment.clone()));
                    }
                    s.as_table()?;
                    Ok((Some(Record::Delete { id: number }), ()))
                });
                self.reply(id, &segment, gated, |()| Reply::Deleted { id, segment: segment.clone() });
            }
            Request::Truncate { id, segment, offset, token } if self.allowed(id, &token, &segment, Want::Update) => {
                let gated = store.commit(|state| truncate(state, &segment, offset));
                self.reply(id, &segment, gated, |()| Reply::Truncated { id, segment: segment.clone() });
            }
            // What is merged is gone from where it was: that takes the right to both.
            Request::Merge { id, target, source, token, updates } if self.allowed(id, &token, &target, Want::Update) && self.allowed(id, &token, &source, Want::Update) => {
                let mut condition_failed = false;
                let gated = store.commit(|state| {
                    let (number, t) = state.find(&target)?;
                    // Each against the state before, as the protocol's kinds of updates say.
                    let values: Option<Vec<_>> = updates.iter().map(|u| updated(t.attribute(u.key), u)).collect();
                    let Some(values) = values else {
                        condition_failed = true;
                        return Ok((None, t.length));
                    };
                    for update in &updates {
                        room_for_attribute(t, update.key, updates.len())?;
                    }
                    let (record, length) = merge(state, &target, &source, t.length)?;
                    let mut all = vec![record];
                    all.extend(updates.iter().zip(values).map(|(u, value)| Record::Attribute { id: number, key: u.key, value }));
                    Ok((Some(Record::Many(all)), length))
                });
                let named = match &gated.result {
                    Err(Error::NoSegment(name)) => name.clone(),
                    _ => target.clone(),
                };
                // One that was not merged is still there, and goes with its connection.
                if gated.result.is_ok() && !condition_failed {
                    self.transients.retain(|t| *t != source);
                }
                self.reply(id, &named, gated, |length| match condition_failed {
                    true => Reply::ConditionFailed { id, writer: 0, event: length as i64 },
                    false => Reply::Merged { id, target: target.clone(), source, length: length as i64 },
                });
            }
            Request::MergeBatch { id, target, sources, token }
                if self.allowed(id, &token, &target, Want::Update) && sources.iter().all(|s| self.allowed(id, &token, s, Want::Update)) =>
            {
                let gated = store.commit(|state| {
                    let (mut all, mut done) = (Vec::new(), Vec::new());
                    let mut length = state.segment(&target)?.length;
                    for source in &sources {
                        if done.iter().any(|(s, _)| s == source) {
                            return Err(Error::NoSegment(source.clone()));
                        }
                        let record;
                        (record, length) = merge(state, &target, source, length)?;
                        all.push(record);
                        done.push((source.clone(), length as i64));
                    }
                    Ok((Some(Record::Many(all)), done))
                });
                let named = match &gated.result {
                    Err(Error::NoSegment(name)) => name.clone(),
                    _ => target.clone(),
                };
                if let Ok(done) = &gated.result {
                    self.transients.retain(|t| done.iter().all(|(source, _)| source != t));
                }
                self.reply(id, &named, gated, |sources| Reply::BatchMerged { id, target: target.clone(), sources });
            }
            Request::GetAttribute { id, segment, key, token } if self.allowed(id, &token, &segment, Want::Read) => {
                let gated = store.gate(&segment, |state| Ok(state.segment(&segment)?.attribute(key)));
                self.reply(id, &segment, gated, |value| Reply::Attribute { id, value });
            }
            Request::SetAttribute { id, segment, key, new, expected, token } if self.allowed(id, &token, &segment, Want::Update) => {
                let gated = store.commit(|state| {
                    let (number, s) = state.find(&segment)?;
                    let done = s.attribute(key) == expected;
                    if done {
                        room_for_attribute(s, key, 1)?;
                    }
                    Ok((done.then_some(Record::Attribute { id: number, key, value: new }), done))
                });
                self.reply(id, &segment, gated, |done| Reply::AttributeUpdated { id, done });
            }
            Request::TableInfo { id, segment, token } if self.allowed(id, &token, &segment, Want::Read) => {
                let gated = store.gate(&segment, |state| {
                    let table = state.segment(&segment)?.as_table()?;
                    Ok((table.length() as i64, table.len() as i64))
                });
                self.reply(id, &segment, gated, |(length, entries)| Reply::TableInfo { id, segment: segment.clone(), length, entries });
            }
            Request::TableUpdate { id, segment, token, entries, at } if self.allowed(id, &token, &segment, Want::Update) => {
                let limit = store.options().table_bytes_max;
                let gated = store.commit(|state| {
                    let (number, s) = state.find(&segment)?;
                    let table = s.as_table()?;
                    table_at(&segment, table.length(), at)?;
                    // A key may come twice, as reader groups of the Rust client send it: the conditions are about the state before, the last value stays.
                    table.check(&segment, entries.iter().map(|(k, _)| (&k.key[..], k.version)))?;
                    if let Some((k, v)) = entries.iter().find(|(k, v)| k.key.len() > table::KEY_MAX || v.len() > table::VALUE_MAX) {
                        let (key, value) = (k.key.len(), v.len());
                        return Err(Error::Invalid(format!("a key of {key} bytes with a value of {value}; {} and {} are the most", table::KEY_MAX, table::VALUE_MAX)));
                    }
                    let (more, less) = table.cost(entries.iter().map(|(k, v)| (&k.key[..], v.len())));
                    let wanted = (state.table_cost() + more).saturating_sub(less);
                    // What makes no more of it is always taken.
                    if wanted > limit && more > less {
                        return Err(Error::TooLarge { what: "all tables".into(), limit, wanted });
                    }
                    let versions = table.versions(entries.iter().map(|(k, v)| k.key.len() + v.len()));
                    // Copies, or a small value would hold the buffer that it came in.
                    let copy = |b: &Bytes| Bytes::copy_from_slice(b);
                    let changes = entries.iter().map(|(k, v)| Change::Put { key: copy(&k.key), value: copy(v) }).collect();
                    Ok((Some(Record::Table { id: number, changes }), versions))
                });
                self.reply(id, &segment, gated, |versions| Reply::TableUpdated { id, versions });
            }
            Request::TableRemove { id, segment, token, keys, at } if self.allowed(id, &token, &segment, Want::Update) => {
                let gated = store.commit(|state| {
                    let (number, s) = state.find(&segment)?;
                    let table = s.as_table()?;
                    table_at(&segment, table.length(), at)?;
                    table.check(&segment, keys.iter().map(|k| (&k.key[..], k.version)))?;
                    let there = keys.iter().filter(|k| table.get(&k.key).is_some());
                    let changes: Vec<Change> = there.map(|k| Change::Remove { key: Bytes::copy_from_slice(&k.key) }).collect();
                    Ok(((!changes.is_empty()).then_some(Record::Table { id: number, changes }), ()))
                });
                self.reply(id, &segment, gated, |()| Reply::TableRemoved { id, segment: segment.clone() });
            }
            Request::TableRead { id, segment, token, keys } if self.allowed(id, &token, &segment, Want::Read) => {
                let gated = store.gate(&segment, |state| {
                    let table = state.segment(&segment)?.as_table()?;
                    let mut bytes = 0;
                    keys.iter()
                        .map(|k| {
                            let found = table.get(&k.key).map(|(value, version)| (TableKey { key: k.key.clone(), version }, value.clone()));
                            let entry = found.unwrap_or_else(|| codec::missing(&k.key));
                            bytes += entry.0.key.len() + entry.1.len() + 40;
                            if bytes > codec::PAYLOAD_MAX - (128 << 10) {
                                let limit = codec::PAYLOAD_MAX as u64;
                                return Err(Error::TooLarge { what: format!("the values of {} keys", keys.len()), limit, wanted: bytes as u64 });
                            }
                            Ok(entry)
                        })
                        .collect::<Result<Vec<_>>>()
                });
                self.reply(id, &segment, gated, |entries| Reply::TableRead { id, segment: segment.clone(), entries });
            }
            Request::TableKeys { id, segment, token, count, after, of } if self.allowed(id, &token, &segment, Want::Read) => {
                let gated = store.gate(&segment, |state| listed(state, &segment, &after, &of, count, most));
                self.reply(id, &segment, gated, |page| Reply::TableKeys {
                    id,
                    segment: segment.clone(),
                    keys: page.entries.into_iter().map(|(k, _)| k).collect(),
                    next: page.next,
                });
            }
            Request::TableEntries { id, segment, token, count, after, of } if self.allowed(id, &token, &segment, Want::Read) => {
                let gated = store.gate(&segment, |state| listed(state, &segment, &after, &of, count, most));
                self.reply(id, &segment, gated, |page| Reply::TableEntries {
                    id,
                    segment: segment.clone(),
                    entries: page.entries,
                    next: page.next,
                });
            }
            Request::TableDelta { id, segment, token, from, count } if self.allowed(id, &token, &segment, Want::Read) => {
                let gated = store.gate(&segment, |state| since(state, &segment, u64::try_from(from).unwrap_or(0), count, most));
                self.reply(id, &segment, gated, |page| Reply::TableDelta {
                    id,
                    segment: segment.clone(),
                    entries: page.entries,
                    clear: false,
                    end: page.all,
                    position: page.next as i64,
                });
            }
            Request::Other { kind, id } => {
                let why = "this server does not have it".to_string();
                self.outbox.ready(Reply::Unsupported { id, operation: format!("command {kind}"), why });
            }
            // Its token did not allow it, and that was said; the others never come here.
            _ => {}
        }
    }
}

/// Part of a table.
struct Page<Next> {
    entries: Vec<(TableKey, Bytes)>,
    all: bool,
    /// From where the next part goes on.
    next: Next,
}

/// Oldest versions first.
fn since(state: &State, segment: &str, from: u64, count: i32, most: usize) -> Result<Page<u64>> {
    let table = state.segment(segment)?.as_table()?;
    let (entries, all) = table.since(from, count.max(1) as usize, most);
    let next = match entries.last() {
        Some((_, _, version)) if !all => *version as u64 + 1,
        _ => table.length(),
    };
    Ok(Page { entries: entries.into_iter().map(codec::entry).collect(), all, next })
}

/// In any order, which is that of versions; or of a range of keys, in theirs. Where the part before ended is in `after`: a version, or a key.
fn listed(state: &State, segment: &str, after: &Bytes, of: &KeyRange, count: i32, most: usize) -> Result<Page<Bytes>> {
    if *of == KeyRange::default() {
        let from = after[..].try_into().map_or(0, u64::from_be_bytes);
        let page = since(state, segment, from, count, most)?;
        return Ok(Page { entries: page.entries, all: page.all, next: Bytes::copy_from_slice(&page.next.to_be_bytes()) });
    }
    let table = state.segment(segment)?.as_table()?;
    let begin = if after.is_empty() { Bound::Included((&of.from).max(&of.prefix)) } else { Bound::Excluded(after) };
    let (entries, all) = table.range(begin, &of.to, &of.prefix, count.max(1) as usize, most);
    let next = entries.last().map_or(after.clone(), |(key, ..)| key.clone());
    Ok(Page { entries: entries.into_iter().map(codec::entry).collect(), all, next })
}

fn table_at(segment: &str, length: u64, at: i64) -> Result<()> {
    // The protocol's word for this is that the segment is truncated.
    if at >= 0 && at as u64 != length {
        return Err(Error::Truncated { segment: segment.into(), start: length, offset: at as u64 });
    }
    Ok(())
}

/// Checks a name and makes the record of a new segment.
pub(crate) fn create(state: &State, name: &str, table: bool, at_ms: u64) -> Result<(Option<Record>, ())> {
    if name.is_empty() || name.len() > codec::NAME_MAX {
        return Err(Error::Invalid(format!("a segment's name has 1 to {} bytes, not {}", codec::NAME_MAX, name.len())));
    }
    if state.names.contains_key(name) {
        return Err(Error::SegmentExists(name.into()));
    }
    plan::room_for_segment(state, 0)?;
    Ok((Some(Record::Create { id: state.new_id(0), name: name.into(), table, at_ms }), ()))
}

/// What an attribute has after an update; `None` when its condition does not hold.
fn updated(before: i64, update: &AttributeUpdate) -> Option<i64> {
    let unset = before == NO_VALUE;
    match update.kind {
        // If it was never set.
        0 => unset.then_some(update.new),
        // If it is greater.
        2 => (unset || update.new > before).then_some(update.new),
        // A sum.
        3 => Some(if unset { update.new } else { before.wrapping_add(update.new) }),
        4 => (before == update.old).then_some(update.new),
        _ => Some(update.new),
    }
}

pub(crate) fn truncate(state: &State, name: &str, offset: i64) -> Result<(Option<Record>, ())> {
    let (id, segment) = state.find(name)?;
    let offset = u64::try_from(offset).map_err(|_| Error::Invalid(format!("offset {offset} of {name} is negative")))?;
    if segment.table.is_some() {
        return Err(Error::IsATable(name.into()));
    }
    if catalog::of_transaction(name) {
        return Err(Error::Invalid(format!("{name} belongs to a transaction, which is committed as a whole or aborted")));
    }
    if offset > segment.length {
        return Err(Error::BeyondEnd { segment: name.into(), length: segment.length, offset });
    }
    Ok(((offset > segment.start).then_some(Record::Truncate { id, start: offset }), ()))
}

/// The record of a merge into a target of `length` bytes, and the target's length after it.
pub(crate) fn merge(state: &State, target: &str, source: &str, length: u64) -> Result<(Record, u64)> {
    let (target_id, t) = state.find(target)?;
    let (source_id, s) = state.find(source)?;
    t.writable()?;
    if s.table.is_some() {
        return Err(Error::IsATable(source.into()));
    }
    if target_id == source_id || s.start > 0 {
        return Err(Error::Invalid(format!("{source} can't be merged into {target}: it is the same, or truncated")));
    }
    Ok((Record::Merge { source: source_id, target: target_id }, length + s.length))
}

/// Whether a segment may have an attribute that is one of so many to be added.
fn room_for_attribute(segment: &Segment, key: u128, more: usize) -> Result<()> {
    let wanted = segment.attributes.len() + more;
    match wanted > ATTRIBUTES_MAX && !segment.attributes.contains_key(&key) {
        true => Err(Error::TooLarge { what: format!("attributes of {}", segment.name), limit: ATTRIBUTES_MAX as u64, wanted: wanted as u64 }),
        false => Ok(()),
    }
}

/// The reply to a request that failed.
fn failure(id: i64, segment: &str, offset: i64, e: Error) -> Reply {
    let (segment, why) = (segment.to_string(), e.to_string());
    match e {
        Error::NoSegment(_) => Reply::NoSegment { id, segment, why, offset },
        Error::SegmentExists(_) => Reply::Exists { id, segment, why },
        Error::Sealed { offset, .. } => Reply::IsSealed { id, segment, why, offset: offset as i64 },
        Error::Truncated { start, .. } => Reply::IsTruncated { id, segment, start: start as i64, why, offset },
        Error::NotEmpty(_) => Reply::NotEmpty { id, segment, why },
        Error::NoKey(_) => Reply::NoKey { id, segment, why },
        Error::BadVersion(_) => Reply::BadVersion { id, segment, why },
        _ => Reply::Error { id, segment, why },
    }
}


#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_updated_as_the_protocols_kinds_say() {
        let told = |kind, before, new| updated(before, &AttributeUpdate { key: 1, kind, new, old: 5 });
        assert_eq!((told(0, NO_VALUE, 3), told(0, 2, 3)), (Some(3), None));
        assert_eq!((told(1, NO_VALUE, 3), told(1, 9, 3)), (Some(3), Some(3)));
        assert_eq!((told(2, NO_VALUE, 3), told(2, 2, 3), told(2, 3, 3)), (Some(3), Some(3), None));
        assert_eq!((told(3, NO_VALUE, 3), told(3, 2, 3)), (Some(3), Some(5)));
        assert_eq!((told(4, 5, 3), told(4, 4, 3)), (Some(3), None));
    }
}
