//! The peer protocol `geds/1`: requests one after another on a connection that mutual TLS has opened.
//!
//! ```text
//! frame    u32 length of the rest (little endian, 1 to 16 MiB) │ u8 sort: 0 header, 1 data │ header in postcard, or bytes
//! Get      → Object, then data frames with exactly the bytes announced
//! Put      → Ready; client: data frames, then Commit or Abort → Meta
//! others   → one header
//! any      → Failed{kind, message}; the connection goes on with the next request
//! ```
//!
//! A length is checked before anything is allocated, and every wait has an end. The certificate's name decides what a peer may ask:
//! sites read, ask for more copies and tell that copies may be freed; only the hub and users write, delete and spill.

use crate::{Attributes, BucketName, Error, Holder, Key, Listing, Node, Object, ObjectId, ObjectMeta, Page, Result, Writer, append::Grew, eager::Eager};
use base::{
    Kind, SiteId,
    identity::{self, Dialer},
};
use bytes::{BufMut, Bytes};
use futures::{Stream, StreamExt, TryStreamExt, future::BoxFuture, stream::BoxStream};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::HashMap,
    fmt,
    io::IoSlice,
    pin::Pin,
    sync::Mutex,
    time::{Duration, Instant},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use xxhash_rust::xxh3::Xxh3;

/// The protocol's name in the TLS handshake.
pub const ALPN: &str = "geds/1";

/// The longest frame.
const FRAME_BYTES_MAX: usize = 16 << 20;
/// The longest header: two keys, names and numbers fit many times.
const HEADER_BYTES_MAX: usize = 64 << 10;
/// Data sent in one frame. Encrypting it takes about a tenth of a millisecond, which a task may.
const CHUNK_BYTES: usize = 256 << 10;
/// How long a peer may be silent within a request, and how long it may take to accept a frame.
const SILENCE: Duration = Duration::from_secs(10);
/// How long a client waits for what takes the other side work: a seal, a spill, an object that must be fetched first.
const WORK: Duration = Duration::from_secs(600);
/// How long for what takes it a look only: at its namenode, which may be asked twice for 10 s, or at the persistency tier.
const LOOK: Duration = Duration::from_secs(30);
/// How fast it reads a copy at least, which it does once before the first answer, to compare the checksum.
const READ_RATE_MIN: u64 = 32 << 20;
/// How long a connection may be idle between requests, and how long the asking side keeps one for later.
const IDLE: Duration = Duration::from_secs(60);
const KEPT: Duration = Duration::from_secs(45);
/// Connections to one site that are kept.
const KEPT_MAX: usize = 4;

/// What is sent of an object that grows at once, and how long it is waited for.
pub(crate) const GROWN_MAX: u64 = 4 << 20;
const GROWN_WAIT_MAX: Duration = Duration::from_secs(5);

const HEADER: u8 = 0;
const DATA: u8 = 1;

#[derive(Debug, Serialize, Deserialize)]
enum Request {
    Get {
        bucket: BucketName,
        key: Key,
        /// Only this content, and only if the peer has it; else whatever has the key now, fetched if need be.
        copy: Option<(ObjectId, u64)>,
        offset: u64,
        len: u64,
    },
    Put {
        bucket: BucketName,
        key: Key,
        /// Bytes to come, if known: then space is reserved at once.
        size: Option<u64>,
        if_absent: bool,
        attributes: Attributes,
    },
    Commit {
        checksum: u64,
    },
    Abort,
    Stat {
        bucket: BucketName,
        key: Key,
    },
    Free {
        id: ObjectId,
    },
    Keep {
        bucket: BucketName,
        key: Key,
    },
    Remove {
        bucket: BucketName,
        key: Key,
    },
    Spill {
        bucket: BucketName,
        prefix: String,
    },
    Metrics,
    List {
        bucket: BucketName,
        prefix: String,
        delimiter: Option<char>,
        start_after: String,
        limit: u32,
    },
    /// Bytes of what grows there, at most [`GROWN_MAX`]; `id`: of this and no other. Waits for the first of them.
    Grown {
        bucket: BucketName,
        key: Key,
        id: Option<ObjectId>,
        offset: u64,
        len: u64,
        wait_ms: u64,
    },
    Flush {
        bucket: BucketName,
        prefix: String,
        deadline_ms: u64,
    },
}

impl Request {
    fn verb(&self) -> &'static str {
        match self {
            Request::Get { .. } => "read objects",
            Request::Put { .. } | Request::Commit { .. } | Request::Abort => "write objects",
            Request::Stat { .. } => "look up objects",
            Request::Free { .. } => "free copies",
            Request::Keep { .. } => "ask for copies",
            Request::Remove { .. } => "delete objects",
            Request::Spill { .. } => "spill objects",
            Request::Metrics => "read metrics",
            Request::List { .. } => "list objects",
            Request::Grown { .. } => "read objects that grow",
            Request::Flush { .. } => "upload objects",
        }
    }

    /// What it is about, where it is about one object or prefix.
    fn about(&self) -> Option<(&BucketName, &str)> {
        match self {
            Request::Get { bucket, key, .. }
            | Request::Put { bucket, key, .. }
            | Request::Stat { bucket, key }
            | Request::Keep { bucket, key }
            | Request::Remove { bucket, key }
            | Request::Grown { bucket, key, .. } => Some((bucket, key.as_str())),
            Request::Spill { bucket, prefix } | Request::List { bucket, prefix, .. } | Request::Flush { bucket, prefix, .. } => Some((bucket, prefix)),
            Request::Commit { .. } | Request::Abort | Request::Free { .. } | Request::Metrics => None,
        }
    }

    fn allowed(&self, peer: &str) -> bool {
        match self {
            _ if peer == identity::HUB || peer == identity::USER => true,
            Request::Get { .. } | Request::Stat { .. } | Request::Free { .. } | Request::Keep { .. } | Request::Grown { .. } => {
                identity::site_of(peer).is_some()
            }
            _ => false,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
enum Reply {
    Object { meta: ObjectMeta, len: u64 },
    Ready,
    Meta(ObjectMeta),
    Freed { bytes: u64 },
    Spilled { objects: u64, bytes: u64 },
    /// That many bytes of data follow.
    Metrics { bytes: u64 },
    Failed { kind: Kind, message: String },
    /// That many bytes of data follow.
    Listing { bytes: u64 },
    /// The same, of what grows and has `len` committed bytes.
    Grown { id: ObjectId, len: u64, bytes: u64 },
    /// It grows no more and is this object.
    Became { id: ObjectId },
}

/// Which bytes of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub offset: u64,
    /// Cut at the object's end.
    pub len: u64,
}

impl Default for Range {
    /// The whole object.
    fn default() -> Range {
        Range { offset: 0, len: u64::MAX }
    }
}

pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

enum Frame {
    Header(Vec<u8>),
    Data(Bytes),
}

/// A connection with frames on it.
struct Wire<S> {
    stream: S,
    peer: String,
    eager: Eager,
}

impl<S: Io> Wire<S> {
    fn gone(&self, message: impl fmt::Display) -> Error {
        Error::Peer { peer: self.peer.clone(), message: message.to_string() }
    }

    fn broken(&self, message: impl fmt::Display) -> Error {
        Error::Protocol { peer: self.peer.clone(), message: message.to_string() }
    }

    /// The next frame; `None` when the peer hung up between frames. `wait` is for its first byte.
    async fn read(&mut self, wait: Duration) -> Result<Option<Frame>> {
        self.read_soon(wait, false).await
    }

    /// [`Wire::read`]; `soon`: it takes no work to answer, so it is looked for before it is slept for.
    async fn read_soon(&mut self, wait: Duration, soon: bool) -> Result<Option<Frame>> {
        let peer = self.peer.clone();
        let stream = &mut self.stream;
        let eager = &mut self.eager;
        let mut head = [0u8; 5];
        let first = async {
            let mut into = ReadBuf::new(&mut head[..1]);
            match eager.until(soon, |cx| Pin::new(&mut *stream).poll_read(cx, &mut into)).await {
                Ok(()) => Ok(into.filled().len()),
                // A peer that is killed does not say goodbye in TLS.
                Err(e) if matches!(e.kind(), std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset) => Ok(0),
                Err(e) => Err(e),
            }
        };
        let silent = |limit: Duration| Error::Remote {
            kind: Kind::DeadlineExceeded,
            message: format!("peer {peer} was silent for {} s", limit.as_secs()),
        };
        let gone = |e: std::io::Error| Error::Peer { peer: peer.clone(), message: e.to_string() };
        if tokio::time::timeout(wait, first).await.map_err(|_| silent(wait))?.map_err(gone)? == 0 {
            return Ok(None);
        }
        let rest = async {
            stream.read_exact(&mut head[1..]).await.map_err(gone)?;
            let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
            let max = if head[4] == HEADER { HEADER_BYTES_MAX } else { FRAME_BYTES_MAX };
            let refuse = |message| Err(Error::Protocol { peer: peer.clone(), message });
            if length == 0 || length > max {
                return refuse(format!("a frame of {length} bytes; 1 to {max} are allowed"));
            }
            // A length alone costs a peer nothing: the rest is taken as it comes.
            let mut body = Vec::with_capacity((length - 1).min(CHUNK_BYTES));
            while body.len() < length - 1 {
                let rest = length - 1 - body.len();
                if stream.read_buf(&mut (&mut body).limit(rest)).await.map_err(gone)? == 0 {
                    return Err(gone(std::io::ErrorKind::UnexpectedEof.into()));
                }
            }
            match head[4] {
                HEADER => Ok(Frame::Header(body)),
                DATA => Ok(Frame::Data(body.into())),
                sort => refuse(format!("a frame of unknown sort {sort}")),
            }
        };
        tokio::time::timeout(SILENCE, rest).await.map_err(|_| silent(SILENCE))?.map(Some)
    }

    fn header<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T> {
        postcard::from_bytes(body).map_err(|e| self.broken(format!("a header can't be read: {e}")))
    }

    fn header_frame(&self, header: &impl Serialize) -> Result<Vec<u8>> {
        let mut frame = vec![0, 0, 0, 0, HEADER];
        frame = postcard::to_extend(header, frame).map_err(|e| self.broken(format!("a header can't be written: {e}")))?;
        let length = frame.len() - 4;
        if length > HEADER_BYTES_MAX {
            let value = format!("{length} bytes");
            return Err(Error::BadValue { what: "header of a message to a peer", value, rule: "names and user metadata have at most 64 KiB together, metadata 16 KiB" });
        }
        frame[..4].copy_from_slice(&(length as u32).to_le_bytes());
        Ok(frame)
    }

    async fn send(&mut self, header: &impl Serialize) -> Result<()> {
        let frame = self.header_frame(header)?;
        self.send_frame(&frame).await
    }

    async fn send_frame(&mut self, frame: &[u8]) -> Result<()> {
        let stream = &mut self.stream;
        let io = async {
            stream.write_all(frame).await?;
            stream.flush().await
        };
        let done = tokio::time::timeout(SILENCE, io).await;
        self.sent(done)
    }

    async fn send_data(&mut self, data: &[u8]) -> Result<()> {
        self.send_behind(Vec::new(), data).await
    }

    /// Sends data behind what is to go before it, as if it were one piece: a small object and its header are one record of TLS and one call, and the reader is woken once.
    async fn send_behind(&mut self, mut before: Vec<u8>, data: &[u8]) -> Result<()> {
        assert!(data.len() < FRAME_BYTES_MAX, "callers cut data into chunks");
        before.extend_from_slice(&(data.len() as u32 + 1).to_le_bytes());
        before.push(DATA);
        let stream = &mut self.stream;
        let io = async {
            let mut pieces = &mut [IoSlice::new(&before), IoSlice::new(data)][..];
            while !pieces.is_empty() {
                match stream.write_vectored(pieces).await? {
                    0 => return Err(std::io::ErrorKind::WriteZero.into()),
                    n => IoSlice::advance_slices(&mut pieces, n),
                }
            }
            Ok(())
        };
        let done = tokio::time::timeout(SILENCE, io).await;
        self.sent(done)
    }

    fn sent(&self, done: Result<std::io::Result<()>, tokio::time::error::Elapsed>) -> Result<()> {
        match done {
            Ok(io) => io.map_err(|e| self.gone(e)),
            Err(_) => Err(Error::Remote {
                kind: Kind::DeadlineExceeded,
                message: format!("peer {} took nothing for {} s", self.peer, SILENCE.as_secs()),
            }),
        }
    }

    async fn flush(&mut self) -> Result<()> {
        let done = tokio::time::timeout(SILENCE, self.stream.flush()).await;
        self.sent(done)
    }
}

// --- the serving side -------------------------------------------------------------------------------------------------------------

/// Answers until the peer hangs up or breaks the protocol.
///
/// Boxed twice, so that it is compiled here and not in each program that serves peers.
pub(crate) fn serve<'a>(node: &'a Node, stream: Box<dyn Io + 'a>, peer: &'a str) -> BoxFuture<'a, Result<()>> {
    Box::pin(answer(node, stream, peer))
}

async fn answer(node: &Node, stream: Box<dyn Io + '_>, peer: &str) -> Result<()> {
    let mut wire = Wire { stream, peer: peer.to_string(), eager: Eager::default() };
    // Who has just had a small answer often has the next question ready.
    let mut soon = false;
    loop {
        let request: Request = match wire.read_soon(IDLE, std::mem::take(&mut soon)).await {
            Ok(None) => return Ok(()),
            // Nothing was asked for, so nothing is lost.
            Err(e) if e.kind() == Kind::DeadlineExceeded => return Ok(()),
            Ok(Some(Frame::Header(body))) => match wire.header(&body) {
                Ok(request) => request,
                Err(e) => return refuse(&mut wire, e).await,
            },
            Ok(Some(Frame::Data(_))) => {
                let e = wire.broken("data where a request should be");
                return refuse(&mut wire, e).await;
            }
            Err(e @ Error::Protocol { .. }) => return refuse(&mut wire, e).await,
            Err(e) => return Err(e),
        };
        if !request.allowed(peer) {
            let about = request.about().map_or_else(String::new, |(bucket, name)| format!(", here {bucket}/{name}"));
            fail(&mut wire, &Error::Denied { who: peer.to_string(), what: format!("{}{about}", request.verb()) }).await?;
            continue;
        }
        let done = match request {
            Request::Get { bucket, key, copy, offset, len } => {
                let part = match copy {
                    Some(_) => Ok(None),
                    None => node.inner.part_of(&bucket, &key, Range { offset, len }).await,
                };
                let found = match (part, copy) {
                    (Ok(Some((meta, len, stream))), _) => {
                        send_part(node, &mut wire, meta, len, stream).await?;
                        continue;
                    }
                    (Err(e), _) => Err(e),
                    (Ok(None), Some((id, epoch))) => node.copy(&bucket, &key, id, epoch).await,
                    (Ok(None), None) => node.open_object(&bucket, &key).await,
                };
                match found.and_then(|object| cut(&bucket, &key, object.len(), offset, len).map(|len| (object, len))) {
                    Ok((object, len)) => {
                        soon = len <= CHUNK_BYTES as u64;
                        send_object(node, &mut wire, &object, offset, len).await?;
                        continue;
                    }
                    Err(e) => Err(e),
                }
            }
            Request::Put { bucket, key, size, if_absent, attributes } => match start(node, &bucket, &key, size, if_absent).await {
                Ok(mut writer) => {
                    writer.set_attributes(attributes);
                    wire.send(&Reply::Ready).await?;
                    take(&mut wire, writer).await?
                }
                Err(e) => Err(e),
            },
            Request::Commit { .. } | Request::Abort => {
                let e = wire.broken("an end of data without a Put");
                return refuse(&mut wire, e).await;
            }
            Request::Stat { bucket, key } => node.stat(&bucket, &key).await.map(Reply::Meta),
            Request::Free { id } => node.free_copy(id).await.map(|bytes| Reply::Freed { bytes }),
            Request::Keep { bucket, key } => node.keep(&bucket, &key).await.map(Reply::Meta),
            Request::Remove { bucket, key } => node.delete(&bucket, &key).await.map(Reply::Meta),
            Request::Spill { bucket, prefix } => {
                node.spill(&bucket, &prefix).await.map(|(objects, bytes)| Reply::Spilled { objects, bytes })
            }
            // Up to 2 MiB with all buckets that have lines of their own.
            Request::Metrics => {
                let text = node.metrics();
                send_body(&mut wire, &Reply::Metrics { bytes: text.len() as u64 }, text.as_bytes()).await?;
                continue;
            }
            Request::Grown { bucket, key, id, offset, len, wait_ms } => {
                let wait = Duration::from_millis(wait_ms).min(GROWN_WAIT_MAX);
                match node.inner.grown(&bucket, &key, id, offset, len.min(GROWN_MAX), wait).await {
                    Ok(Grew::To { id, len, bytes }) => {
                        send_body(&mut wire, &Reply::Grown { id, len, bytes: bytes.len() as u64 }, &bytes).await?;
                        node.served(bytes.len() as u64);
                        continue;
                    }
                    Ok(Grew::Into(id)) => Ok(Reply::Became { id }),
                    Err(e) => Err(e),
                }
            }
            Request::Flush { bucket, prefix, deadline_ms } => {
                let deadline = Duration::from_millis(deadline_ms).min(WORK);
                node.flush(&bucket, &prefix, deadline).await.map(|(objects, bytes)| Reply::Spilled { objects, bytes })
            }
            Request::List { bucket, prefix, delimiter, start_after, limit } => {
                match node.list(&bucket, &prefix, delimiter, Page { start_after, limit }).await {
                    Ok(listing) => {
                        send_listing(&mut wire, listing).await?;
                        continue;
                    }
                    Err(e) => Err(e),
                }
            }
        };
        match done {
            Ok(reply) => wire.send(&reply).await?,
            Err(e) => fail(&mut wire, &e).await?,
        }
    }
}

async fn fail<S: Io>(wire: &mut Wire<S>, error: &Error) -> Result<()> {
    let message = error.to_string().chars().take(4096).collect();
    wire.send(&Reply::Failed { kind: error.kind(), message }).await
}

/// Tells the peer why, and hangs up: where the next frame begins is no longer known.
async fn refuse<S: Io>(wire: &mut Wire<S>, error: Error) -> Result<()> {
    // It may have gone already; the error below says what matters.
    let _ = fail(wire, &error).await;
    Err(error)
}

/// How many of the bytes that are wanted are there.
pub(crate) fn cut(bucket: &BucketName, key: &Key, size: u64, offset: u64, len: u64) -> Result<u64> {
    match size.checked_sub(offset) {
        Some(rest) => Ok(rest.min(len)),
        None => Err(Error::PastEnd { bucket: bucket.to_string(), key: key.to_string(), offset, size }),
    }
}

async fn send_object<S: Io>(node: &Node, wire: &mut Wire<S>, object: &Object, offset: u64, len: u64) -> Result<()> {
    let reply = Reply::Object { meta: object.meta().clone(), len };
    if len == 0 {
        return wire.send(&reply).await;
    }
    let mut before = wire.header_frame(&reply)?;
    // `cut` has checked that the range is inside the mapping, so that both fit in memory's addresses.
    for chunk in object.bytes()[offset as usize..(offset + len) as usize].chunks(CHUNK_BYTES) {
        wire.send_behind(std::mem::take(&mut before), chunk).await?;
        node.served(chunk.len() as u64);
    }
    wire.flush().await
}

/// A page has up to 1000 names of up to 1 KiB: too much for a header.
async fn send_listing<S: Io>(wire: &mut Wire<S>, listing: Listing) -> Result<()> {
    let Listing { objects, prefixes, next } = listing;
    let body = postcard::to_stdvec(&(objects, prefixes, next)).map_err(|e| wire.broken(format!("a listing can't be written: {e}")))?;
    send_body(wire, &Reply::Listing { bytes: body.len() as u64 }, &body).await
}

/// An answer that is too long for a header: the header says how long.
async fn send_body<S: Io>(wire: &mut Wire<S>, header: &Reply, body: &[u8]) -> Result<()> {
    wire.send(header).await?;
    for chunk in body.chunks(CHUNK_BYTES) {
        wire.send_data(chunk).await?;
    }
    wire.flush().await
}

/// Passes on what comes from elsewhere. Breaks off when that does: how much is to come has been told already.
async fn send_part<S: Io>(node: &Node, wire: &mut Wire<S>, meta: ObjectMeta, len: u64, mut stream: BoxStream<'static, Result<Bytes>>) -> Result<()> {
    wire.send(&Reply::Object { meta, len }).await?;
    let mut rest = len;
    while let Some(piece) = stream.try_next().await? {
        rest = rest.checked_sub(piece.len() as u64).ok_or_else(|| wire.gone("the persistency tier sent more than was asked for"))?;
        for chunk in piece.chunks(CHUNK_BYTES) {
            wire.send_data(chunk).await?;
            node.served(chunk.len() as u64);
        }
    }
    if rest > 0 {
        return Err(wire.gone(format!("the persistency tier broke off {rest} bytes before the end")));
    }
    wire.flush().await
}

async fn start(node: &Node, bucket: &BucketName, key: &Key, size: Option<u64>, if_absent: bool) -> Result<Writer> {
    let mut writer = node.create_with(bucket, key, if_absent).await?;
    if let Some(size) = size {
        writer.room(size).await?;
    }
    Ok(writer)
}

/// Takes an upload to its end. The outer error ends the connection; the inner one is the answer.
async fn take<S: Io>(wire: &mut Wire<S>, writer: Writer) -> Result<Result<Reply>> {
    let mut state = Ok(writer);
    loop {
        match wire.read(SILENCE).await? {
            None => return Err(wire.gone("hung up in the middle of an upload")),
            Some(Frame::Data(data)) => {
                // After a failure the rest is read and dropped, so that the answer finds the client listening.
                if let Ok(mut writer) = state {
                    if let Err(e) = writer.room(writer.len().saturating_add(data.len() as u64)).await {
                        state = Err(e);
                        continue;
                    }
                    let written = tokio::task::spawn_blocking(move || {
                        let at = writer.len();
                        writer.write_at(at, &data).map(|()| writer)
                    });
                    state = match written.await {
                        Ok(done) => done,
                        Err(e) => return Err(wire.gone(format!("an upload's task ended early: {e}"))),
                    };
                }
            }
            Some(Frame::Header(body)) => {
                return match wire.header(&body)? {
                    Request::Commit { checksum } => match state {
                        Ok(writer) => Ok(writer.seal_if(Some(checksum)).await.map(Reply::Meta)),
                        Err(e) => Ok(Err(e)),
                    },
                    Request::Abort => Ok(Ok(Reply::Ready)),
                    _ => Err(wire.broken("another request in the middle of an upload")),
                };
            }
        }
    }
}

// --- the asking side --------------------------------------------------------------------------------------------------------------

/// A connection to another site's store.
pub struct PeerClient {
    wire: Wire<Box<dyn Io>>,
    /// In the middle of something that wasn't ended: the next bytes can't be told apart any more.
    busy: bool,
}

/// Connections that nobody uses just now. A handshake costs a hundred times what a small object does.
#[derive(Default)]
pub(crate) struct Peers {
    idle: Mutex<HashMap<(SiteId, String), Vec<(Instant, PeerClient)>>>,
}

impl Peers {
    /// A connection that was used before, if there is one that the other side has not closed for its idleness.
    pub fn take(&self, holder: &Holder) -> Option<PeerClient> {
        let mut idle = self.idle.lock().unwrap_or_else(|e| e.into_inner());
        let connections = idle.get_mut(&(holder.site.clone(), holder.address.clone()))?;
        connections.retain(|(since, _)| since.elapsed() < KEPT);
        connections.pop().map(|(_, client)| client)
    }

    /// Keeps a connection for the next one, if it stands between two requests.
    pub fn put_back(&self, holder: &Holder, client: PeerClient) {
        if client.busy {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(|e| e.into_inner());
        // Sites that are gone or have moved.
        idle.retain(|_, connections| {
            connections.retain(|(since, _)| since.elapsed() < KEPT);
            !connections.is_empty()
        });
        let connections = idle.entry((holder.site.clone(), holder.address.clone())).or_default();
        if connections.len() < KEPT_MAX {
            connections.push((Instant::now(), client));
        }
    }
}

impl PeerClient {
    /// Connects to a site's data port and makes sure that it is that site.
    pub async fn dial(dialer: &Dialer, site: &SiteId, address: &str) -> Result<PeerClient> {
        let name = identity::site_name(site);
        let stream = dialer
            .dial(&name, address, ALPN)
            .await
            .map_err(|e| Error::Peer { peer: name.clone(), message: e.to_string() })?;
        Ok(PeerClient { wire: Wire { stream: Box::new(stream), peer: name, eager: Eager::default() }, busy: false })
    }

    /// `wait`: for the first byte of the answer. One that hangs must not hold who could ask another.
    async fn ask(&mut self, request: &Request, wait: Duration) -> Result<Reply> {
        if self.busy {
            return Err(self.wire.gone("an earlier request was not ended; dial again"));
        }
        let frame = self.wire.header_frame(request)?;
        self.busy = true;
        self.wire.send_frame(&frame).await?;
        self.answer(matches!(request, Request::Get { .. } | Request::Stat { .. }), wait).await
    }

    async fn answer(&mut self, soon: bool, wait: Duration) -> Result<Reply> {
        match self.wire.read_soon(wait, soon).await? {
            None => Err(self.wire.gone("hung up without an answer")),
            Some(Frame::Data(_)) => Err(self.wire.broken("data where an answer should be")),
            Some(Frame::Header(body)) => {
                self.busy = false;
                match self.wire.header(&body)? {
                    Reply::Failed { kind, message } => Err(Error::Remote { kind, message }),
                    reply => Ok(reply),
                }
            }
        }
    }

    fn odd<T>(&self) -> Result<T> {
        Err(self.wire.broken("an answer to another question"))
    }

    async fn start_get(&mut self, request: Request, wait: Duration) -> Result<(ObjectMeta, u64)> {
        match self.ask(&request, wait).await? {
            Reply::Object { meta, len } => {
                self.busy = len > 0;
                Ok((meta, len))
            }
            _ => self.odd(),
        }
    }

    /// Reads what has the key now; the site fetches it if it doesn't have it. `ObjectMeta::size` is the whole object's.
    pub async fn get(&mut self, bucket: &BucketName, key: &Key, range: Range) -> Result<(ObjectMeta, Download<'_>)> {
        let (bucket, key) = (bucket.clone(), key.clone());
        let request = Request::Get { bucket, key, copy: None, offset: range.offset, len: range.len };
        let (meta, rest) = self.start_get(request, WORK).await?;
        Ok((meta, Download { client: self, rest }))
    }

    /// Like [`PeerClient::get`], as a stream that owns the connection. Ends after an error.
    pub async fn get_stream(
        mut self,
        bucket: &BucketName,
        key: &Key,
        range: Range,
    ) -> Result<(ObjectMeta, u64, BoxStream<'static, Result<Bytes>>)> {
        let (bucket, key) = (bucket.clone(), key.clone());
        let request = Request::Get { bucket, key, copy: None, offset: range.offset, len: range.len };
        let (meta, len) = self.start_get(request, WORK).await?;
        let stream = futures::stream::try_unfold((self, len), |(mut client, rest)| async move {
            let mut download = Download { client: &mut client, rest };
            let chunk = download.chunk().await?;
            let rest = download.rest;
            Ok(chunk.map(|chunk| (chunk, (client, rest))))
        });
        Ok((meta, len, stream.boxed()))
    }

    /// Reads a part of exactly this content, if the site has it. The range ends within the object.
    pub(crate) async fn get_copy(&mut self, meta: &ObjectMeta, range: Range) -> Result<Download<'_>> {
        let request = Request::Get {
            bucket: meta.bucket.clone(),
            key: meta.key.clone(),
            copy: Some((meta.id, meta.epoch)),
            offset: range.offset,
            len: range.len,
        };
        let wait = SILENCE + Duration::from_secs(meta.size / READ_RATE_MIN);
        let (_, rest) = self.start_get(request, wait).await?;
        if rest != range.len {
            return Err(self.wire.broken(format!("it has {rest} of {} bytes from {} on, of an object of {}", range.len, range.offset, meta.size)));
        }
        Ok(Download { client: self, rest })
    }

    /// [`PeerClient::put_with`] no attributes.
    pub async fn put<E: fmt::Display>(
        &mut self,
        bucket: &BucketName,
        key: &Key,
        size: Option<u64>,
        if_absent: bool,
        content: impl Stream<Item = Result<Bytes, E>> + Send,
    ) -> Result<ObjectMeta> {
        self.put_with(bucket, key, size, if_absent, Attributes::default(), content).await
    }

    /// Writes an object: it is sealed at the site when the stream has ended, or not at all. `size` reserves its space if it is known.
    pub async fn put_with<E: fmt::Display>(
        &mut self,
        bucket: &BucketName,
        key: &Key,
        size: Option<u64>,
        if_absent: bool,
        attributes: Attributes,
        content: impl Stream<Item = Result<Bytes, E>> + Send,
    ) -> Result<ObjectMeta> {
        let request = Request::Put { bucket: bucket.clone(), key: key.clone(), size, if_absent, attributes };
        match self.ask(&request, WORK).await? {
            Reply::Ready => self.busy = true,
            _ => return self.odd(),
        }
        let mut hash = Xxh3::new();
        let mut content = std::pin::pin!(content);
        let mut failed = None;
        let mut pending = content.next();
        loop {
            // The site waits only so long for data; a slow source is kept apart from a dead one by empty frames.
            match tokio::time::timeout(SILENCE / 2, &mut pending).await {
                Err(_) => {
                    self.wire.send_data(&[]).await?;
                    self.wire.flush().await?;
                }
                Ok(None) => break,
                Ok(Some(Err(e))) => {
                    failed = Some(e.to_string());
                    break;
                }
                Ok(Some(Ok(data))) => {
                    for chunk in data.chunks(CHUNK_BYTES) {
                        hash.update(chunk);
                        self.wire.send_data(chunk).await?;
                    }
                    pending = content.next();
                }
            }
        }
        let end = if failed.is_some() { Request::Abort } else { Request::Commit { checksum: hash.digest() } };
        self.wire.send(&end).await?;
        match (self.answer(false, WORK).await?, failed) {
            (Reply::Meta(meta), None) => Ok(meta),
            (Reply::Ready, Some(message)) => Err(Error::Remote {
                kind: Kind::Unavailable,
                message: format!("the upload of {bucket}/{key} broke off: {message}"),
            }),
            _ => self.odd(),
        }
    }

    pub async fn stat(&mut self, bucket: &BucketName, key: &Key) -> Result<ObjectMeta> {
        match self.ask(&Request::Stat { bucket: bucket.clone(), key: key.clone() }, LOOK).await? {
            Reply::Meta(meta) => Ok(meta),
            _ => self.odd(),
        }
    }

    /// A page of a bucket, as the site sees it: with what lies in the persistency tier, if the bucket is bound there.
    pub async fn list(&mut self, bucket: &BucketName, prefix: &str, delimiter: Option<char>, page: Page) -> Result<Listing> {
        let request = Request::List { bucket: bucket.clone(), prefix: prefix.into(), delimiter, start_after: page.start_after, limit: page.limit };
        let rest = match self.ask(&request, WORK).await? {
            Reply::Listing { bytes } if bytes < FRAME_BYTES_MAX as u64 => bytes,
            _ => return self.odd(),
        };
        let body = self.body(rest).await?;
        let (objects, prefixes, next) = self.wire.header(&body)?;
        Ok(Listing { objects, prefixes, next })
    }

    /// The site's metrics, as Prometheus reads them.
    pub async fn metrics(&mut self) -> Result<String> {
        match self.ask(&Request::Metrics, LOOK).await? {
            Reply::Metrics { bytes } if bytes < FRAME_BYTES_MAX as u64 => {
                let text = self.body(bytes).await?;
                String::from_utf8(text).map_err(|e| self.wire.broken(format!("metrics that are no text: {e}")))
            }
            _ => self.odd(),
        }
    }

    /// So many bytes of data that follow an answer, taken as they come.
    async fn body(&mut self, bytes: u64) -> Result<Vec<u8>> {
        self.busy = bytes > 0;
        let mut body = Vec::new();
        let mut download = Download { client: self, rest: bytes };
        while let Some(chunk) = download.chunk().await? {
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// Lets the site free its copy of this content: it does so if the object is gone or others have it. Returns the bytes.
    pub async fn free(&mut self, id: ObjectId) -> Result<u64> {
        match self.ask(&Request::Free { id }, LOOK).await? {
            Reply::Freed { bytes } => Ok(bytes),
            _ => self.odd(),
        }
    }

    /// Asks the site to hold a copy of what has the key now; it fetches it if it has none. Answers when the copy is durable and
    /// recorded, so the site is among `ObjectMeta::sites`.
    pub async fn keep(&mut self, bucket: &BucketName, key: &Key) -> Result<ObjectMeta> {
        match self.ask(&Request::Keep { bucket: bucket.clone(), key: key.clone() }, WORK).await? {
            Reply::Meta(meta) => Ok(meta),
            _ => self.odd(),
        }
    }

    /// Reads of what grows there, at most 4 MiB from `offset` on, by the committed length; `id`: of this and no other. Where there are no bytes yet, waits for the first of them, at most 5 s. See [`crate::Node::follow`].
    pub async fn grown(&mut self, bucket: &BucketName, key: &Key, id: Option<ObjectId>, offset: u64, len: u64, wait: Duration) -> Result<Grew> {
        let request = Request::Grown { bucket: bucket.clone(), key: key.clone(), id, offset, len, wait_ms: wait.as_millis() as u64 };
        match self.ask(&request, LOOK + GROWN_WAIT_MAX).await? {
            // Never more than was asked for, which callers rely on, and of nothing else.
            Reply::Grown { id: found, len: committed, bytes } if bytes <= len.min(GROWN_MAX) && id.is_none_or(|id| id == found) => {
                Ok(Grew::To { id: found, len: committed, bytes: self.body(bytes).await?.into() })
            }
            Reply::Became { id } => Ok(Grew::Into(id)),
            _ => self.odd(),
        }
    }

    /// Deletes an object everywhere, the persistency tier included.
    pub async fn remove(&mut self, bucket: &BucketName, key: &Key) -> Result<ObjectMeta> {
        match self.ask(&Request::Remove { bucket: bucket.clone(), key: key.clone() }, WORK).await? {
            Reply::Meta(meta) => Ok(meta),
            _ => self.odd(),
        }
    }

    /// Uploads the site's copies; see [`Node::flush`]. Ten minutes are the longest.
    pub async fn flush(&mut self, bucket: &BucketName, prefix: &str, deadline: Duration) -> Result<(u64, u64)> {
        let deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
        match self.ask(&Request::Flush { bucket: bucket.clone(), prefix: prefix.into(), deadline_ms }, deadline.min(WORK) + LOOK).await? {
            Reply::Spilled { objects, bytes } => Ok((objects, bytes)),
            _ => self.odd(),
        }
    }

    /// Spills the site's copies; see [`Node::spill`].
    pub async fn spill(&mut self, bucket: &BucketName, prefix: &str) -> Result<(u64, u64)> {
        match self.ask(&Request::Spill { bucket: bucket.clone(), prefix: prefix.into() }, WORK).await? {
            Reply::Spilled { objects, bytes } => Ok((objects, bytes)),
            _ => self.odd(),
        }
    }
}

/// Bytes on their way. Must be read to its end before the connection can be used again.
pub struct Download<'a> {
    client: &'a mut PeerClient,
    rest: u64,
}

impl Download<'_> {
    /// Bytes to come.
    pub fn remaining(&self) -> u64 {
        self.rest
    }

    /// The next bytes; `None` at the end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        if self.rest == 0 {
            return Ok(None);
        }
        match self.client.wire.read(SILENCE).await? {
            Some(Frame::Data(data)) if data.len() as u64 <= self.rest && !data.is_empty() => {
                self.rest -= data.len() as u64;
                self.client.busy = self.rest > 0;
                Ok(Some(data))
            }
            Some(_) => Err(self.client.wire.broken(format!("other than the {} bytes that were announced", self.rest))),
            None => Err(self.client.wire.gone(format!("hung up {} bytes before the end", self.rest))),
        }
    }
}

// --- for `fuzz.rs` ----------------------------------------------------------------------------------------------------------------

/// Reads a request; what can be read is the same when it is written and read again.
pub(crate) fn read_request(body: &[u8]) {
    let Ok(request) = postcard::from_bytes::<Request>(body) else { return };
    let again = postcard::to_stdvec(&request).expect("what was read can be written");
    let read: Request = postcard::from_bytes(&again).expect("what was written can be read");
    assert_eq!(format!("{read:?}"), format!("{request:?}"));
    if let Request::Get { bucket, key, offset, len, .. } = request {
        // A range stays inside the object, whatever was asked for.
        for size in [0, 1, offset, u64::MAX] {
            if let Ok(n) = cut(&bucket, &key, size, offset, len) {
                assert!(offset.checked_add(n).is_some_and(|end| end <= size));
            }
        }
    }
}

/// Reads frames as they come from a connection, until one of them is not whole or not one.
pub(crate) fn read_frames(bytes: &[u8]) {
    let mut wire = Wire { stream: Replay(bytes), peer: "a peer".into(), eager: Eager::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime of this thread");
    runtime.block_on(async {
        while let Ok(Some(frame)) = wire.read(SILENCE).await {
            if let Frame::Header(body) = frame {
                read_request(&body);
            }
        }
    });
}

/// What has come already; nothing is ever sent.
struct Replay<'a>(&'a [u8]);

impl AsyncRead for Replay<'_> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>, into: &mut ReadBuf<'_>) -> std::task::Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

impl AsyncWrite for Replay<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut std::task::Context<'_>, data: &[u8]) -> std::task::Poll<std::io::Result<usize>> {
        std::task::Poll::Ready(Ok(data.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

/// Some of each sort.
pub(crate) fn some_requests() -> Vec<Vec<u8>> {
    let (bucket, key) = (BucketName::new("data").expect("a good name"), Key::new("a/b").expect("a good name"));
    let requests = [
        Request::Get { bucket: bucket.clone(), key: key.clone(), copy: Some((ObjectId(5), 7)), offset: 3, len: u64::MAX },
        Request::Put { bucket: bucket.clone(), key: key.clone(), size: Some(9), if_absent: true, attributes: Attributes::default() },
        Request::List { bucket: bucket.clone(), prefix: "a/".into(), delimiter: Some('/'), start_after: "a/b".into(), limit: 5 },
        Request::Free { id: ObjectId(1) },
        Request::Grown { bucket: bucket.clone(), key, id: Some(ObjectId(3)), offset: 1, len: 5, wait_ms: u64::MAX },
        Request::Spill { bucket, prefix: String::new() },
    ];
    let bodies: Vec<Vec<u8>> = requests.iter().map(|request| postcard::to_stdvec(request).expect("a request can be written")).collect();
    let frame = |body: &Vec<u8>| [&(body.len() as u32 + 1).to_le_bytes()[..], &[HEADER], body].concat();
    let frames: Vec<Vec<u8>> = bodies.iter().map(frame).collect();
    bodies.into_iter().chain(frames).collect()
}
