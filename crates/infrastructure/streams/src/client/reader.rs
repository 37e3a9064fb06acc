//! All events of a stream. Segments are read side by side; a segment begins when all that it follows have ended, so a key's events come in order.
//!
//! A connection that is lost is made anew, and reading goes on where it was: an event comes once. A server that is away is waited for, for a while. [`Reader::history`] ends with what
//! is there when it begins.

use super::{
    Client,
    connection::{self, Connection, Read, Reply},
    not_too_many,
};
use crate::{Error, Result, catalog::SegmentNo, proto::stream_info::AccessOperation};
use bytes::{Buf, Bytes, BytesMut};
use futures::future::BoxFuture;
use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::{Duration, Instant},
};
use tokio::{sync::mpsc, task::JoinSet};

/// Bytes asked for at once, at most and at least: a connection that breaks in the middle of an answer gives nothing of it, so the next one is asked for half.
const READ_BYTES: i32 = 1 << 20;
const READ_BYTES_MIN: i32 = 4 << 10;
/// Reads of a segment that are under way at a time: while the answer to one is on its way, the server gets the next one.
const READS: usize = 2;
/// Pieces that wait for the program, over all segments.
const PIECES_MAX: usize = 8;

/// How long a server that is away is waited for, and the pause between two tries.
const AWAY_MAX: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);
/// Between two reads that fail, though the server can be reached, at most.
const FAILING_PAUSE_MAX: Duration = Duration::from_secs(1);

/// A server that is away for longer is told of.
pub(super) const SILENT_MAX: Duration = Duration::from_secs(5);

/// Whether the same question may have another answer soon: nobody answers, or the server has too much to do.
pub(super) fn is_away(e: &Error) -> bool {
    matches!(e, Error::Unavailable(_) | Error::Exhausted(_))
}

/// Asks until there is an answer, or the server has been away for too long.
pub(super) async fn patiently<T>(mut ask: impl FnMut() -> BoxFuture<'static, Result<T>>) -> Result<T> {
    let (began, mut told) = (Instant::now(), false);
    loop {
        match ask().await {
            Err(e) if is_away(&e) && began.elapsed() < AWAY_MAX => {
                if began.elapsed() > SILENT_MAX && !std::mem::replace(&mut told, true) {
                    tracing::warn!(error = %e, "the stream's server does not answer; tried again for a minute");
                }
                tokio::time::sleep(PAUSE).await;
            }
            answer => return answer,
        }
    }
}

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    Head,
    Tail,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub segment: SegmentNo,
    /// Offset of the event in its segment.
    pub offset: u64,
    pub data: Bytes,
}

enum Piece {
    Bytes(SegmentNo, u64, Bytes),
    /// It is sealed, and nothing comes behind what was read.
    End(SegmentNo),
    /// It was truncated as a whole; what follows it may be there.
    Gone(SegmentNo),
    /// All was read that is to be.
    Reached(SegmentNo),
}

pub struct Reader {
    client: Client,
    scope: String,
    stream: String,
    pieces: mpsc::Receiver<Piece>,
    sender: mpsc::Sender<Piece>,
    tasks: JoinSet<Result<()>>,
    /// An event's first part, and where it begins.
    rest: HashMap<SegmentNo, (u64, BytesMut)>,
    /// Of which nothing more comes.
    ended: HashSet<SegmentNo>,
    started: HashSet<SegmentNo>,
    ready: VecDeque<Event>,
    /// Up to where segments are read, and none that is not named; `None`: all of them, for ever.
    ends: Option<HashMap<SegmentNo, u64>>,
}

impl Reader {
    /// Reads a stream from its head or its tail, and goes on with what comes.
    pub fn open<'a>(client: &'a Client, scope: &'a str, stream: &'a str, from: From) -> BoxFuture<'a, Result<Reader>> {
        Reader::start_at(client, scope, stream, from, None)
    }

    /// Reads what is in a stream now, and ends: also when some of it is truncated meanwhile.
    pub fn history<'a>(client: &'a Client, scope: &'a str, stream: &'a str) -> BoxFuture<'a, Result<Reader>> {
        Box::pin(async move {
            let segments = client.segments(scope, stream).await?;
            // One that is sealed is read to its end, so that those behind it begin.
            let end = |(segment, (_, length, sealed))| (segment, if sealed { u64::MAX } else { length });
            Reader::start_at(client, scope, stream, From::Head, Some(segments.into_iter().map(end).collect())).await
        })
    }

    fn start_at<'a>(client: &'a Client, scope: &'a str, stream: &'a str, from: From, ends: Option<HashMap<SegmentNo, u64>>) -> BoxFuture<'a, Result<Reader>> {
        Box::pin(async move {
            let (sender, pieces) = mpsc::channel(PIECES_MAX);
            let mut reader = Reader {
                client: client.clone(),
                scope: scope.into(),
                stream: stream.into(),
                pieces,
                sender,
                tasks: JoinSet::new(),
                rest: HashMap::new(),
                ended: HashSet::new(),
                started: HashSet::new(),
                ready: Default::default(),
                ends,
            };
            let begin = match from {
                From::Head => client.head(scope, stream).await?,
                From::Tail => client.tail(scope, stream).await?,
            };
            not_too_many(scope, stream, begin.len())?;
            for (segment, offset) in begin {
                reader.start(segment, offset).await?;
            }
            Ok(reader)
        })
    }

    async fn start(&mut self, segment: SegmentNo, offset: u64) -> Result<()> {
        if self.started.insert(segment) {
            let (connection, token) = dial(&self.client, &self.scope, &self.stream).await?;
            let task = SegmentTask {
                client: self.client.clone(),
                scope: self.scope.clone(),
                stream: self.stream.clone(),
                name: segment.name(&self.scope, &self.stream),
                reads: Reads::over(connection),
                token,
                pieces: self.sender.clone(),
                end: self.end(segment),
            };
            self.tasks.spawn(task.read(segment, offset));
        }
        Ok(())
    }

    /// Up to where a segment is to be read.
    fn end(&self, segment: SegmentNo) -> u64 {
        self.ends.as_ref().map_or(u64::MAX, |ends| ends.get(&segment).copied().unwrap_or(0))
    }

    /// The next event; `None` when all has been read that is to be, or the stream is sealed and there is no more.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            if self.ended.len() == self.started.len() {
                return Ok(None);
            }
            tokio::select! {
                biased;
                piece = self.pieces.recv() => match piece {
                    Some(Piece::Bytes(segment, offset, data)) => self.cut(segment, offset, data)?,
                    Some(Piece::Reached(segment)) => drop(self.ended.insert(segment)),
                    Some(end @ (Piece::End(segment) | Piece::Gone(segment))) => {
                        if let (Some((at, part)), Piece::End(_)) = (self.rest.remove(&segment), end) {
                            return Err(self.half(segment, at, part.len() as u64));
                        }
                        self.ended.insert(segment);
                        let (client, scope, stream) = (self.client.clone(), self.scope.clone(), self.stream.clone());
                        let ask = || -> BoxFuture<'static, _> {
                            let (client, scope, stream) = (client.clone(), scope.clone(), stream.clone());
                            Box::pin(async move { client.successors(&scope, &stream, segment).await })
                        };
                        for (next, before) in patiently(ask).await? {
                            if before.iter().all(|b| self.ended.contains(b)) {
                                self.start(next.segment, 0).await?;
                            }
                        }
                    }
                    None => return Ok(None),
                },
                Some(task) = self.tasks.join_next() => {
                    task.map_err(|e| Error::Unavailable(format!("a reader's task ended: {e}")))??;
                }
            }
        }
    }

    /// A segment does not end where an event does.
    fn half(&self, segment: SegmentNo, at: u64, bytes: u64) -> Error {
        let (scope, stream, segment) = (&self.scope, &self.stream, segment.0);
        Error::Invalid(format!(
            "segment {segment} of {scope}/{stream} has no whole event from {at} on, where its last {bytes} bytes lie: it was truncated in the middle of an event, or written as bytes; truncate it to where an event begins, as a read with places tells"
        ))
    }

    fn cut(&mut self, segment: SegmentNo, offset: u64, data: Bytes) -> Result<()> {
        let (first, rest) = joined(self.rest.remove(&segment), offset, data);
        if let Some((at, event)) = first {
            self.events(segment, at, event)?;
        }
        let (at, data) = rest;
        self.events(segment, at, data)
    }

    /// Makes events of bytes that lie at `at`, and keeps the first part of one.
    fn events(&mut self, segment: SegmentNo, mut at: u64, mut left: Bytes) -> Result<()> {
        // An append is there as a whole, so a segment's end is where an event ends; a piece that is read is cut anywhere.
        let end = self.end(segment);
        while left.len() >= 8 && at < end {
            let (kind, length) = (i32::from_be_bytes(left[..4].try_into().expect("four bytes")), i32::from_be_bytes(left[4..8].try_into().expect("four bytes")));
            if kind != 0 || length < 0 {
                return Err(Error::Invalid(format!("{}/{} has no event that begins at {at} of segment {}: it was truncated in the middle of one, or written as bytes; truncate it to where an event begins, as a read with places tells", self.scope, self.stream, segment.0)));
            }
            let whole = 8 + length as usize;
            if left.len() < whole {
                break;
            }
            left.advance(8);
            self.ready.push_back(Event { segment, offset: at, data: left.split_to(whole - 8) });
            at += whole as u64;
        }
        if left.is_empty() || at >= end {
            return Ok(());
        }
        if at + left.len() as u64 >= end {
            return Err(self.half(segment, at, end - at));
        }
        self.rest.insert(segment, (at, BytesMut::from(&left[..])));
        Ok(())
    }
}

async fn dial(client: &Client, scope: &str, stream: &str) -> Result<(Connection, String)> {
    patiently(|| {
        let (client, scope, stream) = (client.clone(), scope.to_string(), stream.to_string());
        Box::pin(async move { client.dial(&scope, &stream, AccessOperation::Any).await })
    })
    .await
}

/// A read that is under way.
struct Asked {
    id: i64,
    offset: u64,
    length: i32,
    /// Its answer, if that has come before one that is in front of it.
    come: Option<Read>,
}

/// Reads of a segment over a connection, up to [`READS`] of them under way. They are for bytes that follow each other, if none brings less than was asked for.
struct Reads {
    connection: Connection,
    /// In the order of the segment's bytes.
    asked: VecDeque<Asked>,
    /// The next request's number.
    id: i64,
    /// The last one has brought all that was asked for, and there is more.
    more: bool,
}

impl Reads {
    fn over(connection: Connection) -> Reads {
        Reads { connection, asked: VecDeque::new(), id: 0, more: false }
    }

    /// What is at an offset of the segment, up to `most` bytes. What lies behind `end` will not be asked for.
    async fn next(&mut self, segment: &str, token: &str, at: u64, end: u64, most: i32) -> Result<Read> {
        // Who is not answered for any more is not known any more, and its answer is passed over.
        if self.asked.front().is_some_and(|first| first.offset != at) {
            self.asked.clear();
        }
        let more = std::mem::take(&mut self.more);
        let mut behind = self.asked.back().map_or(at, |last| last.offset + last.length as u64);
        while self.asked.is_empty() || (more && self.asked.len() < READS && behind < end) {
            self.connection.sender.send(&connection::read(self.id, segment, token, behind, most)).await?;
            self.asked.push_back(Asked { id: self.id, offset: behind, length: most, come: None });
            self.id += 1;
            behind += most as u64;
        }
        loop {
            if let Some(read) = self.asked[0].come.take() {
                self.more = read.data.len() == self.asked[0].length as usize && !read.at_tail;
                self.asked.pop_front();
                return Ok(read);
            }
            match self.connection.receiver.next().await? {
                Reply::Read { id, read } => {
                    let Some(asked) = self.asked.iter_mut().find(|asked| asked.id == id || (id < 0 && asked.offset == read.offset)) else { continue };
                    if read.offset != asked.offset {
                        return Err(Error::Invalid(format!("the segment store answered a read of {segment} at {} with what is at {}", asked.offset, read.offset)));
                    }
                    asked.come = Some(read);
                }
                // Apache Pravega refuses a token with the read's offset as the number.
                Reply::Failed { id, error } if id < 0 || id == self.asked[0].id || matches!(error, Error::Denied(_)) => {
                    self.asked.pop_front();
                    return Err(error);
                }
                // It may be another matter when that place is what is wanted: it is asked for again then.
                Reply::Failed { id, .. } => self.asked.retain(|asked| asked.id != id),
                other => return Err(Error::Invalid(format!("the segment store answered a read of {segment} at {at} with {other:?}"))),
            }
        }
    }
}

struct SegmentTask {
    client: Client,
    scope: String,
    stream: String,
    name: String,
    reads: Reads,
    token: String,
    pieces: mpsc::Sender<Piece>,
    /// Up to where it reads.
    end: u64,
}

impl SegmentTask {
    /// With a new connection and a new token.
    async fn connect(&mut self) -> Result<()> {
        let (connection, token) = dial(&self.client, &self.scope, &self.stream).await?;
        (self.reads, self.token) = (Reads::over(connection), token);
        Ok(())
    }

    async fn read(mut self, segment: SegmentNo, mut at: u64) -> Result<()> {
        let (mut renewed, mut failures) = (false, 0);
        // Since when each read has failed, and whether that was told.
        let mut failing: Option<(Instant, bool)> = None;
        let mut most = READ_BYTES;
        while at < self.end {
            match self.reads.next(&self.name, &self.token, at, self.end, most).await {
                Ok(Read { end, data, .. }) => {
                    (renewed, failures, failing) = (false, 0, None);
                    most = READ_BYTES.min(most * 2);
                    let n = data.len() as u64;
                    let gone = n > 0 && self.pieces.send(Piece::Bytes(segment, at, data)).await.is_err();
                    at += n;
                    if gone || end {
                        let _ = self.pieces.send(Piece::End(segment)).await;
                        return Ok(());
                    }
                }
                Err(Error::NoSegment(_)) => {
                    let _ = self.pieces.send(Piece::Gone(segment)).await;
                    return Ok(());
                }
                Err(Error::Truncated { start, .. }) if start > at => at = start,
                // The token has become too old; a new one that is refused as well says something else. What else was asked for with the old one is refused on the old connection.
                Err(Error::Denied(_)) if !std::mem::replace(&mut renewed, true) => self.connect().await?,
                Err(e) if is_away(&e) => {
                    most = READ_BYTES_MIN.max(most / 2);
                    // A server that can be reached and fails at each read is waited for as long as one that can't.
                    let (since, told) = failing.get_or_insert((Instant::now(), false));
                    if since.elapsed() > AWAY_MAX {
                        return Err(e);
                    }
                    if since.elapsed() > SILENT_MAX && !std::mem::replace(told, true) {
                        tracing::warn!(segment = %self.name, error = %e, "the stream's server answers no read; tried again for a minute");
                    }
                    if failures > 0 {
                        tokio::time::sleep(base::pace::pause_by_chance(failures - 1, PAUSE, FAILING_PAUSE_MAX)).await;
                    }
                    failures += 1;
                    self.connect().await?;
                }
                Err(e) => return Err(e),
            }
        }
        let _ = self.pieces.send(Piece::Reached(segment)).await;
        Ok(())
    }
}

/// Bytes, and where in their segment they lie.
type Placed = (u64, Bytes);

/// What was kept of an event, with as many of the bytes at `offset` behind it as it lacks; and the rest of these. If they are not the next ones, what lay between was truncated, and the
/// kept part with it.
fn joined(kept: Option<(u64, BytesMut)>, offset: u64, mut data: Bytes) -> (Option<Placed>, Placed) {
    let Some((at, mut part)) = kept.filter(|(at, part)| at + part.len() as u64 == offset) else { return (None, (offset, data)) };
    let end = offset + data.len() as u64;
    let mut fill = |part: &mut BytesMut, whole: usize| {
        let lacks = whole.saturating_sub(part.len()).min(data.len());
        part.extend_from_slice(&data.split_to(lacks));
    };
    fill(&mut part, 8);
    if let Some(length) = part.get(4..8) {
        // One below zero is found where events are made.
        let length = i32::from_be_bytes(length.try_into().expect("four bytes")).max(0);
        fill(&mut part, 8 + length as usize);
    }
    (Some((at, part.freeze())), (end - data.len() as u64, data))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::codec;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn an_events_first_part_is_dropped_when_its_rest_was_truncated() {
        let kept = || Some((100, BytesMut::from(&[0, 0, 0, 0, 0, 0, 0, 3, 7][..])));
        let bytes = Bytes::from_static;
        assert_eq!(joined(kept(), 109, bytes(&[8, 9, 0, 0])), (Some((100, bytes(&[0, 0, 0, 0, 0, 0, 0, 3, 7, 8, 9]))), (111, bytes(&[0, 0]))));
        assert_eq!(joined(kept(), 109, bytes(&[8])), (Some((100, bytes(&[0, 0, 0, 0, 0, 0, 0, 3, 7, 8]))), (110, bytes(&[]))));
        assert_eq!(joined(kept(), 300, bytes(b"another")), (None, (300, bytes(b"another"))));
        assert_eq!(joined(None, 7, bytes(b"x")), (None, (7, bytes(b"x"))));
        // Its header is cut as well.
        assert_eq!(joined(Some((100, BytesMut::from(&[0; 5][..]))), 105, bytes(&[0, 0, 1, 5, 6])), (Some((100, bytes(&[0, 0, 0, 0, 0, 0, 0, 1, 5]))), (109, bytes(&[6]))));
        assert_eq!(joined(Some((100, BytesMut::from(&[0; 5][..]))), 105, bytes(&[0])), (Some((100, bytes(&[0; 6]))), (106, bytes(&[]))));
    }

    /// A segment store that gives out its reads by hand: what it is asked for, and an answer to it.
    struct ByHand(tokio::net::TcpStream, BytesMut);

    impl ByHand {
        async fn frame(&mut self) -> (i32, Bytes) {
            loop {
                if let Some(frame) = codec::frame(&mut self.1).unwrap() {
                    return frame;
                }
                assert!(self.0.read_buf(&mut self.1).await.unwrap() > 0);
            }
        }

        /// The number, the offset and the length of the read that is asked for next.
        async fn asked(&mut self) -> (i64, i64, i32) {
            let (kind, mut fields) = self.frame().await;
            assert_eq!((kind, fields.split_to(5)), (9, Bytes::from_static(&[0, 3, b's', b'/', b't'])));
            let (offset, length, _token) = (fields.get_i64(), fields.get_i32(), fields.get_u16());
            (fields.get_i64(), offset, length)
        }

        async fn reply(&mut self, reply: codec::Reply) {
            let mut frames = codec::Frames::default();
            reply.put(&mut frames);
            self.0.write_all(&frames.take().concat()).await.unwrap();
        }

        async fn give(&mut self, (id, offset, _): (i64, i64, i32), bytes: usize, at_tail: bool) {
            let data = (offset..).take(bytes).map(|n| n as u8).collect::<Vec<_>>().into();
            self.reply(codec::Reply::SegmentRead { id, segment: "s/t".into(), offset, at_tail, end: false, data }).await;
        }
    }

    #[tokio::test]
    async fn reads_are_answered_in_any_order_and_come_in_the_segments() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let store = async {
            let mut store = ByHand(listener.accept().await.unwrap().0, BytesMut::new());
            assert_eq!(store.frame().await.0, -127);
            store.reply(codec::Reply::Hello).await;
            store
        };
        let (connection, mut store) = tokio::join!(Connection::connect(&address, None), store);
        let mut reads = Reads::over(connection.unwrap());
        async fn next(reads: &mut Reads, at: u64) -> Result<usize> {
            let read = reads.next("s/t", "", at, 70, 10).await?;
            assert!(read.offset == at && read.data.iter().zip(at..).all(|(is, n)| *is == n as u8));
            Ok(read.data.len())
        }
        let script = async {
            let first = store.asked().await;
            assert_eq!(first.1..first.1 + i64::from(first.2), 0..10);
            store.give(first, 10, false).await;
            // All was there: two are under way, and the second one's answer comes first.
            let (second, third) = (store.asked().await, store.asked().await);
            assert_eq!((second.1, third.1), (10, 20));
            store.give(third, 10, false).await;
            store.give(second, 10, false).await;
            // The third is there already. Of the fourth only a part comes, so what was asked for behind it is not what follows: it is asked for anew, and one at a time.
            let (fourth, fifth) = (store.asked().await, store.asked().await);
            assert_eq!((fourth.1, fifth.1), (30, 40));
            store.give(fourth, 5, false).await;
            let anew = store.asked().await;
            assert_eq!(anew.1, 35);
            store.reply(codec::Reply::Error { id: fifth.0, segment: "s/t".into(), why: "beyond the end".into() }).await;
            store.give(anew, 10, false).await;
            // One that failed before it was wanted is asked for again when it is.
            let (sixth, seventh) = (store.asked().await, store.asked().await);
            assert_eq!((sixth.1, seventh.1), (45, 55));
            store.reply(codec::Reply::Error { id: seventh.0, segment: "s/t".into(), why: "beyond the end".into() }).await;
            store.give(sixth, 10, true).await;
            let again = store.asked().await;
            assert_eq!(again.1, 55);
            store.give(again, 10, false).await;
            // Nothing behind the end is asked for, and who is wanted may fail.
            let last = store.asked().await;
            assert_eq!(last.1, 65);
            store.reply(codec::Reply::Error { id: last.0, segment: "s/t".into(), why: "out of order".into() }).await;
            // A token that is too old, as Apache Pravega says so.
            assert_eq!(store.asked().await.1, 66);
            store.reply(codec::Reply::TokenFailed { id: 66, why: "too old".into(), expired: true }).await;
            assert_eq!(store.asked().await.1, 67);
        };
        let reading = async {
            for (at, bytes) in [(0, 10), (10, 10), (20, 10), (30, 5), (35, 10), (45, 10), (55, 10)] {
                assert_eq!(next(&mut reads, at).await.unwrap(), bytes, "at {at}");
            }
            let failed = next(&mut reads, 65).await.unwrap_err();
            assert!(matches!(&failed, Error::Conflict(why) if why == "out of order"), "{failed}");
            assert!(matches!(next(&mut reads, 66).await.unwrap_err(), Error::Denied(_)));
            let _ = next(&mut reads, 67).await;
        };
        tokio::select! {
            () = script => {}
            () = reading => panic!("the last read is not answered"),
            () = tokio::time::sleep(Duration::from_secs(20)) => panic!("somebody waits for what does not come"),
        }
    }
}
