//! A connection to the segment store, from the client's side: requests as bytes, and the few replies that this client asks for.

use crate::{Error, Result, wire::codec};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

/// A reply, as far as this client tells them apart.
#[derive(Debug)]
pub(super) enum Reply {
    Hello,
    Setup { last: i64 },
    /// With the segment's length behind the event, if the store tells it.
    Appended { event: i64, length: Option<u64> },
    /// With the number of the request, -1 if the reply has none, as of old servers.
    Read { id: i64, read: Read },
    Info { start: u64, length: u64, sealed: bool },
    Attribute { value: i64 },
    AttributeSet { done: bool },
    /// With the number of the request, -1 if the reply has none.
    Failed { id: i64, error: Error },
}

/// Bytes of a segment.
#[derive(Debug)]
pub(super) struct Read {
    pub offset: u64,
    /// Nothing was behind them when they were read.
    pub at_tail: bool,
    /// The segment has ended before them.
    pub end: bool,
    pub data: Bytes,
}

/// Writes one frame; `fields` writes its payload.
pub(super) fn frame(out: &mut BytesMut, kind: i32, fields: impl FnOnce(&mut BytesMut)) {
    let begin = out.len();
    out.put_i32(kind);
    out.put_i32(0);
    fields(out);
    let length = (out.len() - begin - codec::FRAME_HEADER) as i32;
    out[begin + 4..begin + 8].copy_from_slice(&length.to_be_bytes());
}

pub(super) fn string(out: &mut BytesMut, text: &str) {
    out.put_u16(text.len() as u16);
    out.put_slice(text.as_bytes());
}

fn lost(what: &str) -> impl FnOnce(std::io::Error) -> Error {
    let address = what.to_string();
    move |e| Error::Unavailable(format!("talk to {address}: {e}"))
}

pub(super) struct Receiver {
    address: String,
    half: Box<dyn AsyncRead + Send + Sync + Unpin>,
    buffer: BytesMut,
}

pub(super) struct Sender {
    address: String,
    half: Box<dyn AsyncWrite + Send + Sync + Unpin>,
}

pub(super) struct Connection {
    pub receiver: Receiver,
    pub sender: Sender,
}

impl Sender {
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.half.write_all(bytes).await.map_err(lost(&self.address))?;
        // TLS keeps what it has not sent.
        self.half.flush().await.map_err(lost(&self.address))
    }
}

impl Receiver {
    /// The next reply.
    pub async fn next(&mut self) -> Result<Reply> {
        loop {
            if let Some((kind, payload)) = codec::frame(&mut self.buffer).map_err(|e| Error::Invalid(e.to_string()))? {
                return parse(kind, payload).ok_or_else(|| Error::Invalid(format!("a reply of type {kind} from {} is cut off", self.address)));
            }
            self.buffer.reserve(256 << 10);
            if self.half.read_buf(&mut self.buffer).await.map_err(lost(&self.address))? == 0 {
                return Err(lost(&self.address)(std::io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

fn text(left: &mut Bytes) -> Option<String> {
    let n = left.try_get_u16().ok()? as usize;
    (n <= left.len()).then(|| String::from_utf8_lossy(&left.split_to(n)).into_owned())
}

fn parse(kind: i32, mut p: Bytes) -> Option<Reply> {
    Some(match kind {
        -127 => Reply::Hello,
        2 => {
            p.try_get_i64().ok()?;
            text(&mut p)?;
            p.try_get_u128().ok()?;
            Reply::Setup { last: p.try_get_i64().ok()? }
        }
        7 => {
            p.try_get_u128().ok()?;
            let event = p.try_get_i64().ok()?;
            let (_previous, _request) = (p.try_get_i64(), p.try_get_i64());
            Reply::Appended { event, length: p.try_get_i64().ok().and_then(|n| u64::try_from(n).ok()) }
        }
        10 => {
            text(&mut p)?;
            let offset = p.try_get_i64().ok()? as u64;
            let (at_tail, end) = (p.try_get_u8().ok()? != 0, p.try_get_u8().ok()? != 0);
            let n = p.try_get_i32().ok()? as usize;
            let data = (n <= p.len()).then(|| p.split_to(n))?;
            Reply::Read { id: p.try_get_i64().unwrap_or(-1), read: Read { offset, at_tail, end, data } }
        }
        12 => {
            p.try_get_i64().ok()?;
            text(&mut p)?;
            let (_there, sealed, _deleted) = (p.try_get_u8().ok()?, p.try_get_u8().ok()? != 0, p.try_get_u8().ok()?);
            p.try_get_i64().ok()?;
            let length = p.try_get_i64().ok()? as u64;
            Reply::Info { start: p.try_get_i64().ok()? as u64, length, sealed }
        }
        35 => {
            p.try_get_i64().ok()?;
            Reply::Attribute { value: p.try_get_i64().ok()? }
        }
        37 => {
            p.try_get_i64().ok()?;
            Reply::AttributeSet { done: p.try_get_u8().ok()? != 0 }
        }
        51 | 53 | 56 => {
            let (id, segment) = (p.try_get_i64().ok()?, text(&mut p)?);
            let error = match kind {
                51 => Error::Sealed { segment, offset: 0 },
                53 => Error::NoSegment(segment),
                _ => Error::Truncated { segment, start: p.try_get_i64().ok()? as u64, offset: 0 },
            };
            Reply::Failed { id, error }
        }
        // Part of a block is stored: it was under way on a connection that was lost, and came to the store after its writer had asked. Or another connection has set up
        // appends for this writer. The next set-up tells what there is.
        55 => Reply::Failed { id: -1, error: Error::Unavailable("the segment store has a part of this block already, or another connection for its writer".into()) },
        60 => {
            let id = p.try_get_i64().ok()?;
            text(&mut p)?;
            Reply::Failed { id, error: Error::Denied("the segment store did not take the token: it is not for this segment, or too old".into()) }
        }
        61 => {
            let id = p.try_get_i64().ok()?;
            text(&mut p)?;
            Reply::Failed { id, error: Error::Conflict(text(&mut p)?) }
        }
        kind => Reply::Failed { id: -1, error: Error::Conflict(format!("the segment store answered with type {kind}")) },
    })
}

/// Asks for what is behind an offset, up to `length` bytes. The reply has the number `id`: those of several that are under way come in any order.
pub(super) fn read(id: i64, segment: &str, token: &str, offset: u64, length: i32) -> BytesMut {
    let mut request = BytesMut::new();
    frame(&mut request, 9, |f| {
        string(f, segment);
        f.put_i64(offset as i64);
        f.put_i32(length);
        string(f, token);
        f.put_i64(id);
    });
    request
}

impl Connection {
    pub async fn connect(address: &str, tls: Option<&TlsConnector>) -> Result<Connection> {
        let stream = TcpStream::connect(address).await.map_err(lost(address))?;
        stream.set_nodelay(true).map_err(lost(address))?;
        let (read, write): (Box<dyn AsyncRead + Send + Sync + Unpin>, Box<dyn AsyncWrite + Send + Sync + Unpin>) = match tls {
            None => {
                let (read, write) = stream.into_split();
                (Box::new(read), Box::new(write))
            }
            Some(tls) => {
                let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
                let name = ServerName::try_from(host.to_string()).map_err(|e| Error::Invalid(format!("{host:?} is not a server's name: {e}")))?;
                let (read, write) = tokio::io::split(tls.connect(name, stream).await.map_err(lost(address))?);
                (Box::new(read), Box::new(write))
            }
        };
        let mut connection = Connection {
            receiver: Receiver { address: address.into(), half: read, buffer: BytesMut::new() },
            sender: Sender { address: address.into(), half: write },
        };
        let mut hello = BytesMut::new();
        frame(&mut hello, -127, |f| {
            f.put_i32(codec::VERSION);
            f.put_i32(codec::OLDEST_VERSION);
        });
        match connection.ask(&hello).await? {
            Reply::Hello => Ok(connection),
            other => Err(Error::Invalid(format!("{address} is not a segment store: it said {other:?}"))),
        }
    }

    pub async fn ask(&mut self, request: &[u8]) -> Result<Reply> {
        self.sender.send(request).await?;
        match self.receiver.next().await? {
            Reply::Failed { error, .. } => Err(error),
            reply => Ok(reply),
        }
    }

    /// Sets up a writer's appends to a segment, which from now on come over this connection alone; gives the number of its last event there.
    pub async fn setup(&mut self, segment: &str, token: &str, writer: u128) -> Result<i64> {
        let mut request = BytesMut::new();
        frame(&mut request, 1, |f| {
            f.put_i64(0);
            f.put_u128(writer);
            string(f, segment);
            string(f, token);
        });
        match self.ask(&request).await? {
            Reply::Setup { last } => Ok(last),
            other => Err(Error::Invalid(format!("the segment store answered {other:?} to a writer's set-up for {segment}"))),
        }
    }

    /// An attribute of a segment, [`NO_VALUE`](crate::segment::NO_VALUE) if it was never set.
    pub async fn attribute(&mut self, segment: &str, token: &str, key: u128) -> Result<i64> {
        let mut request = BytesMut::new();
        frame(&mut request, 34, |f| {
            f.put_i64(1);
            string(f, segment);
            f.put_u128(key);
            string(f, token);
        });
        match self.ask(&request).await? {
            Reply::Attribute { value } => Ok(value),
            other => Err(Error::Invalid(format!("the segment store answered {other:?} to a question about an attribute of {segment}"))),
        }
    }

    /// Sets an attribute of a segment, if it has the value `before`; whether it had.
    pub async fn set_attribute(&mut self, segment: &str, token: &str, key: u128, before: i64, value: i64) -> Result<bool> {
        let mut request = BytesMut::new();
        frame(&mut request, 36, |f| {
            f.put_i64(1);
            string(f, segment);
            f.put_u128(key);
            f.put_i64(value);
            f.put_i64(before);
            string(f, token);
        });
        match self.ask(&request).await? {
            Reply::AttributeSet { done } => Ok(done),
            other => Err(Error::Invalid(format!("the segment store answered {other:?} when an attribute of {segment} was to be set"))),
        }
    }

    /// What is behind an offset, up to `length` bytes.
    pub async fn read(&mut self, segment: &str, token: &str, offset: u64, length: i32) -> Result<Bytes> {
        match self.ask(&read(0, segment, token, offset, length)).await? {
            Reply::Read { read, .. } if read.offset == offset => Ok(read.data),
            other => Err(Error::Invalid(format!("the segment store answered a read of {segment} at {offset} with {other:?}"))),
        }
    }

    /// Start, length and whether it is sealed.
    pub async fn info(&mut self, segment: &str, token: &str) -> Result<(u64, u64, bool)> {
        let mut request = BytesMut::new();
        frame(&mut request, 11, |f| {
            f.put_i64(1);
            string(f, segment);
            string(f, token);
        });
        match self.ask(&request).await? {
            Reply::Info { start, length, sealed } => Ok((start, length, sealed)),
            other => Err(Error::Invalid(format!("the segment store answered {other:?} to a question about {segment}"))),
        }
    }
}
