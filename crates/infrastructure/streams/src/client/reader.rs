//! All events of a stream. Segments are read side by side; a segment begins when all that it follows have ended, so a key's events come in order.
//!
//! A connection that is lost is made anew, and reading goes on where it was: an event comes once. A server that is away is waited for, for a while. [`Reader::history`] ends with what
//! is there when it begins.

use super::{Client, connection::Connection, not_too_many};
use crate::{Error, Result, catalog::SegmentNo, proto::stream_info::AccessOperation};
use bytes::{Buf, Bytes, BytesMut};
use futures::future::BoxFuture;
use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};
use tokio::{sync::mpsc, task::JoinSet};

/// Bytes asked for at once, at most and at least: a connection that breaks in the middle of an answer gives nothing of it, so the next one is asked for half.
const READ_BYTES: i32 = 1 << 20;
const READ_BYTES_MIN: i32 = 4 << 10;
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
    ready: std::collections::VecDeque<Event>,
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
                connection,
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
        let (mut at, mut left) = joined(self.rest.remove(&segment), offset, data);
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

struct SegmentTask {
    client: Client,
    scope: String,
    stream: String,
    name: String,
    connection: Connection,
    token: String,
    pieces: mpsc::Sender<Piece>,
    /// Up to where it reads.
    end: u64,
}

impl SegmentTask {
    async fn read(mut self, segment: SegmentNo, mut at: u64) -> Result<()> {
        let (mut renewed, mut failures) = (false, 0);
        // Since when each read has failed, and whether that was told.
        let mut failing: Option<(Instant, bool)> = None;
        let mut most = READ_BYTES;
        while at < self.end {
            match self.connection.read(&self.name, &self.token, at, most).await {
                Ok((end, data)) => {
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
                // The token has become too old; a new one that is refused as well says something else.
                Err(Error::Denied(_)) if !std::mem::replace(&mut renewed, true) => self.token = self.client.token(&self.scope, &self.stream, AccessOperation::Any).await?,
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
                    (self.connection, self.token) = dial(&self.client, &self.scope, &self.stream).await?;
                }
                Err(e) => return Err(e),
            }
        }
        let _ = self.pieces.send(Piece::Reached(segment)).await;
        Ok(())
    }
}

/// What was kept of an event, with the bytes at `offset` behind it. If these are not the next ones, what lay between was truncated, and the kept part with it.
fn joined(kept: Option<(u64, BytesMut)>, offset: u64, data: Bytes) -> (u64, Bytes) {
    match kept {
        Some((at, mut part)) if at + part.len() as u64 == offset => {
            part.extend_from_slice(&data);
            (at, part.freeze())
        }
        _ => (offset, data),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_events_first_part_is_dropped_when_its_rest_was_truncated() {
        let kept = || Some((100, BytesMut::from(&b"first"[..])));
        assert_eq!(joined(kept(), 105, Bytes::from_static(b" rest")), (100, Bytes::from_static(b"first rest")));
        assert_eq!(joined(kept(), 300, Bytes::from_static(b"another")), (300, Bytes::from_static(b"another")));
        assert_eq!(joined(None, 7, Bytes::from_static(b"x")), (7, Bytes::from_static(b"x")));
    }
}
