//! The segment store's protocol as bytes: frames of type, length, payload, all big-endian.
//!
//! Later versions only append fields, so a request may end early or have more than is known here: what is missing has its default, what is
//! more is ignored. Replies have all fields, since some readers go by position. Lengths are checked against what is there before anything is
//! allocated. Nothing here knows what commands do.

use crate::table::{ANY_VERSION, NO_KEY};
use bytes::{Buf, BufMut, Bytes, BytesMut};

pub const VERSION: i32 = 17;
pub const OLDEST_VERSION: i32 = 5;
/// The largest payload of a frame.
pub const PAYLOAD_MAX: usize = 0x00FF_FFFF;
pub const FRAME_HEADER: usize = 8;
/// The longest name of a segment, bytes: names come back in replies, which are kept until the client takes them.
pub const NAME_MAX: usize = 1024;
/// Segments that are merged by one command.
const SOURCES_MAX: usize = 10_000;

/// Why bytes are not a command.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    #[error("a frame of {0} bytes; {PAYLOAD_MAX} is the most")]
    Length(i32),
    #[error("command {0} ends in the middle of a field")]
    Short(i32),
    #[error("command {0} has a length or number that can't be: {1}")]
    Field(i32, i64),
    #[error("{0}")]
    Order(&'static str),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableKey {
    pub key: Bytes,
    pub version: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttributeUpdate {
    pub key: u128,
    /// 0: if it has none, 1: replace, 2: if the new one is greater, 3: add, 4: replace if it has the old value.
    pub kind: u8,
    pub new: i64,
    pub old: i64,
}

/// Which keys of a table are asked for, both ends among them; what is empty is no limit. A client that asks so wants them in the order of their bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRange {
    pub prefix: Bytes,
    pub from: Bytes,
    pub to: Bytes,
}

/// What clients ask for. `id` is the request's number, which the reply has too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    Hello { high: i32, low: i32 },
    KeepAlive,
    Padding,
    SetupAppend { id: i64, writer: u128, segment: String, token: String },
    AppendBlock { writer: u128, data: Bytes },
    AppendBlockEnd { id: i64, writer: u128, whole: i32, data: Bytes, events: i32, last: i64 },
    /// Both conditional forms; `data` is what is stored.
    ConditionalAppend { id: i64, writer: u128, event: i64, expected: i64, data: Bytes },
    Read { id: i64, segment: String, offset: i64, length: i32, token: String },
    Info { id: i64, segment: String, token: String },
    Create { id: i64, segment: String, token: String },
    CreateTransient { id: i64, writer: u128, parent: String, token: String },
    UpdatePolicy { id: i64, segment: String, token: String },
    Seal { id: i64, segment: String, token: String },
    Delete { id: i64, segment: String, token: String },
    Truncate { id: i64, segment: String, offset: i64, token: String },
    Locate { id: i64, segment: String, offset: i64, token: String },
    Merge { id: i64, target: String, source: String, token: String, updates: Vec<AttributeUpdate> },
    MergeBatch { id: i64, target: String, sources: Vec<String>, token: String },
    GetAttribute { id: i64, segment: String, key: u128, token: String },
    SetAttribute { id: i64, segment: String, key: u128, new: i64, expected: i64, token: String },
    CreateTable { id: i64, segment: String, token: String },
    DeleteTable { id: i64, segment: String, if_empty: bool, token: String },
    TableInfo { id: i64, segment: String, token: String },
    TableUpdate { id: i64, segment: String, token: String, entries: Vec<(TableKey, Bytes)>, at: i64 },
    TableRemove { id: i64, segment: String, token: String, keys: Vec<TableKey>, at: i64 },
    TableRead { id: i64, segment: String, token: String, keys: Vec<TableKey> },
    TableKeys { id: i64, segment: String, token: String, count: i32, after: Bytes, of: KeyRange },
    TableEntries { id: i64, segment: String, token: String, count: i32, after: Bytes, of: KeyRange },
    TableDelta { id: i64, segment: String, token: String, from: i64, count: i32 },
    /// A command that this server doesn't have. `id` as far as it can be told.
    Other { kind: i32, id: i64 },
}

/// What a request does to what the server keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It only looks.
    Nothing,
    /// It ends something, or joins what is there.
    Ends,
    /// There is more than before.
    Grows,
}

impl Request {
    pub fn effect(&self) -> Effect {
        match self {
            Request::AppendBlock { .. }
            | Request::AppendBlockEnd { .. }
            | Request::ConditionalAppend { .. }
            | Request::Create { .. }
            | Request::CreateTransient { .. }
            | Request::CreateTable { .. }
            | Request::SetAttribute { .. }
            | Request::TableUpdate { .. } => Effect::Grows,
            Request::Seal { .. }
            | Request::Delete { .. }
            | Request::DeleteTable { .. }
            | Request::Truncate { .. }
            | Request::Merge { .. }
            | Request::MergeBatch { .. }
            | Request::TableRemove { .. } => Effect::Ends,
            Request::Hello { .. }
            | Request::KeepAlive
            | Request::Padding
            | Request::SetupAppend { .. }
            | Request::Read { .. }
            | Request::Info { .. }
            | Request::UpdatePolicy { .. }
            | Request::Locate { .. }
            | Request::GetAttribute { .. }
            | Request::TableInfo { .. }
            | Request::TableRead { .. }
            | Request::TableKeys { .. }
            | Request::TableEntries { .. }
            | Request::TableDelta { .. }
            | Request::Other { .. } => Effect::Nothing,
        }
    }
}

/// How long the next frame will be with its header, as soon as that is there.
pub fn length(buffer: &BytesMut) -> Result<Option<usize>, Bad> {
    let Some(length) = buffer.get(4..FRAME_HEADER) else { return Ok(None) };
    let length = i32::from_be_bytes(length.try_into().expect("four bytes"));
    if length < 0 || length as usize > PAYLOAD_MAX {
        return Err(Bad::Length(length));
    }
    Ok(Some(FRAME_HEADER + length as usize))
}

/// The next frame's type and payload; `None` until it is there as a whole.
pub fn frame(buffer: &mut BytesMut) -> Result<Option<(i32, Bytes)>, Bad> {
    let Some(whole) = length(buffer)? else { return Ok(None) };
    if buffer.len() < whole {
        // Room for the rest of it, and not more than it says.
        buffer.reserve(whole - buffer.len());
        return Ok(None);
    }
    let mut frame = buffer.split_to(whole).freeze();
    let kind = frame.get_i32();
    frame.advance(4);
    Ok(Some((kind, frame)))
}

struct In {
    kind: i32,
    left: Bytes,
}

impl In {
    fn need(&self, bytes: usize) -> Result<(), Bad> {
        if self.left.len() < bytes { Err(Bad::Short(self.kind)) } else { Ok(()) }
    }
    fn u8(&mut self) -> Result<u8, Bad> {
        self.need(1)?;
        Ok(self.left.get_u8())
    }
    fn i32(&mut self) -> Result<i32, Bad> {
        self.need(4)?;
        Ok(self.left.get_i32())
    }
    fn i64(&mut self) -> Result<i64, Bad> {
        self.need(8)?;
        Ok(self.left.get_i64())
    }
    /// A field that older clients don't send.
    fn i64_or(&mut self, missing: i64) -> i64 {
        self.i64().unwrap_or(missing)
    }
    fn uuid(&mut self) -> Result<u128, Bad> {
        self.need(16)?;
        Ok(self.left.get_u128())
    }
    /// Java's modified UTF-8 differs only for U+0000 and beyond U+FFFF, which names don't have.
    fn string(&mut self) -> Result<String, Bad> {
        self.need(2)?;
        let n = self.left.get_u16() as usize;
        self.need(n)?;
        let bytes = self.left.split_to(n);
        String::from_utf8(bytes.to_vec()).map_err(|_| Bad::Field(self.kind, n as i64))
    }
    fn name(&mut self) -> Result<String, Bad> {
        let name = self.string()?;
        if name.len() > NAME_MAX { Err(Bad::Field(self.kind, name.len() as i64)) } else { Ok(name) }
    }
    fn bytes(&mut self) -> Result<Bytes, Bad> {
        let n = self.i32()?;
        if n < 0 {
            return Err(Bad::Field(self.kind, n.into()));
        }
        self.need(n as usize)?;
        Ok(self.left.split_to(n as usize))
    }
    /// A count of items of which each takes at least `least` bytes.
    fn count(&mut self, least: usize) -> Result<usize, Bad> {
        let n = self.i32()?;
        if n < 0 || n as usize > self.left.len() / least {
            return Err(Bad::Field(self.kind, n.into()));
        }
        Ok(n as usize)
    }
    fn key(&mut self) -> Result<TableKey, Bad> {
        let payload = self.i32()?;
        let key = self.bytes()?;
        if payload as i64 != key.len() as i64 + 12 {
            return Err(Bad::Field(self.kind, payload.into()));
        }
        Ok(TableKey { key, version: self.i64()? })
    }
    fn value(&mut self) -> Result<Bytes, Bad> {
        let payload = self.i32()?;
        let value = self.bytes()?;
        if payload as i64 != value.len() as i64 + 4 {
            return Err(Bad::Field(self.kind, payload.into()));
        }
        Ok(value)
    }
    fn keys(&mut self) -> Result<Vec<TableKey>, Bad> {
        (0..self.count(16)?).map(|_| self.key()).collect()
    }
}

/// Reads a frame's payload.
pub fn request(kind: i32, payload: Bytes) -> Result<Request, Bad> {
    let mut r = In { kind, left: payload };
    Ok(match kind {
        -127 => Request::Hello { high: r.i32()?, low: r.i32()? },
        -1 => Request::Padding,
        1 => Request::SetupAppend { id: r.i64()?, writer: r.uuid()?, segment: r.name()?, token: r.string()? },
        3 => Request::AppendBlock { writer: r.uuid()?, data: r.left },
        4 => {
            let (writer, whole, data, events, last) = (r.uuid()?, r.i32()?, r.bytes()?, r.i32()?, r.i64()?);
            Request::AppendBlockEnd { id: r.i64_or(-1), writer, whole, data, events, last }
        }
        5 => {
            let (writer, event, expected) = (r.uuid()?, r.i64()?, r.i64()?);
            // An event is stored with its own header.
            r.need(8)?;
            let length = i32::from_be_bytes(r.left[4..8].try_into().expect("four bytes"));
            if r.left[..4] != [0; 4] || length < 0 {
                return Err(Bad::Field(kind, length.into()));
            }
            r.need(8 + length as usize)?;
            let data = r.left.split_to(8 + length as usize);
            Request::ConditionalAppend { id: r.i64_or(-1), writer, event, expected, data }
        }
        89 => {
            let (writer, event, expected, data) = (r.uuid()?, r.i64()?, r.i64()?, r.bytes()?);
            Request::ConditionalAppend { id: r.i64_or(-1), writer, event, expected, data }
        }
        9 => {
            let (segment, offset, length, token) = (r.name()?, r.i64()?, r.i32()?, r.string()?);
            Request::Read { id: r.i64_or(-1), segment, offset, length, token }
        }
        11 => Request::Info { id: r.i64()?, segment: r.name()?, token: r.string()? },
        20 => {
            let (id, segment, _rate, _kind) = (r.i64()?, r.name()?, r.i32()?, r.u8()?);
            Request::Create { id, segment, token: r.string()? }
        }
        28 => Request::Seal { id: r.i64()?, segment: r.name()?, token: r.string()? },
        30 => Request::Delete { id: r.i64()?, segment: r.name()?, token: r.string()? },
        32 => {
            let (id, segment, _rate, _kind) = (r.i64()?, r.name()?, r.i32()?, r.u8()?);
            Request::UpdatePolicy { id, segment, token: r.string()? }
        }
        34 => Request::GetAttribute { id: r.i64()?, segment: r.name()?, key: r.uuid()?, token: r.string()? },
        36 => Request::SetAttribute {
            id: r.i64()?,
            segment: r.name()?,
            key: r.uuid()?,
            new: r.i64()?,
            expected: r.i64()?,
            token: r.string()?,
        },
        38 => Request::Truncate { id: r.i64()?, segment: r.name()?, offset: r.i64()?, token: r.string()? },
        41 => Request::Locate { id: r.i64()?, segment: r.name()?, offset: r.i64()?, token: r.string()? },
        40 => Request::CreateTransient { id: r.i64()?, writer: r.uuid()?, parent: r.name()?, token: r.string()? },
        58 => {
            let (id, target, source, token) = (r.i64()?, r.name()?, r.name()?, r.string()?);
            let mut updates = Vec::new();
            if !r.left.is_empty() {
                for _ in 0..r.count(33)? {
                    updates.push(AttributeUpdate { key: r.uuid()?, kind: r.u8()?, new: r.i64()?, old: r.i64()? });
                }
            }
            Request::Merge { id, target, source, token, updates }
        }
        90 => {
            let (id, target) = (r.i64()?, r.name()?);
            let count = r.count(2)?;
            if count > SOURCES_MAX {
                return Err(Bad::Field(kind, count as i64));
            }
            let sources = (0..count).map(|_| r.name()).collect::<Result<_, _>>()?;
            Request::MergeBatch { id, target, sources, token: r.string()? }
        }
        68 => Request::TableInfo { id: r.i64()?, segment: r.name()?, token: r.string()? },
        70 => Request::CreateTable { id: r.i64()?, segment: r.name()?, token: r.string()? },
        71 => Request::DeleteTable { id: r.i64()?, segment: r.name()?, if_empty: r.u8()? != 0, token: r.string()? },
        74 => {
            let (id, segment, token) = (r.i64()?, r.name()?, r.string()?);
            let entries = (0..r.count(24)?).map(|_| Ok((r.key()?, r.value()?))).collect::<Result<_, _>>()?;
            Request::TableUpdate { id, segment, token, entries, at: r.i64_or(-1) }
        }
        76 => {
            let (id, segment, token, keys) = (r.i64()?, r.name()?, r.string()?, r.keys()?);
            Request::TableRemove { id, segment, token, keys, at: r.i64_or(-1) }
        }
        78 => Request::TableRead { id: r.i64()?, segment: r.name()?, token: r.string()?, keys: r.keys()? },
        83 | 85 => {
            let (id, segment, token, count) = (r.i64()?, r.name()?, r.string()?, r.i32()?);
            // Older clients stop after any of them.
            let mut bytes = || if r.left.is_empty() { Ok(Bytes::new()) } else { r.bytes() };
            let (after, of) = (bytes()?, KeyRange { prefix: bytes()?, from: bytes()?, to: bytes()? });
            if kind == 83 {
                Request::TableKeys { id, segment, token, count, after, of }
            } else {
                Request::TableEntries { id, segment, token, count, after, of }
            }
        }
        88 => Request::TableDelta { id: r.i64()?, segment: r.name()?, token: r.string()?, from: r.i64()?, count: r.i32()? },
        100 => Request::KeepAlive,
        // Nearly all requests begin with their number.
        kind => Request::Other { kind, id: r.i64_or(-1) },
    })
}

/// The bytes of a block in two parts: whole events, then padding or the begin of an event that the block's end continues.
pub fn join_block(block: &Bytes, whole: i32, end: &Bytes) -> Result<Bytes, Bad> {
    if whole < 0 || whole as usize > block.len() {
        return Err(Bad::Field(4, whole.into()));
    }
    let mut rest = block.slice(whole as usize..);
    let events = block.slice(..whole as usize);
    if rest.is_empty() {
        return if end.is_empty() { Ok(events) } else { Err(Bad::Order("bytes of an event that has no beginning")) };
    }
    if rest.len() < FRAME_HEADER {
        return Err(Bad::Short(3));
    }
    let (kind, length) = (rest.get_i32(), rest.get_i32());
    if length < 0 || length as usize > rest.len() {
        return Err(Bad::Field(3, length.into()));
    }
    match kind {
        -1 if end.is_empty() => Ok(events),
        -2 => {
            let mut joined = BytesMut::with_capacity(events.len() + length as usize + end.len());
            joined.extend_from_slice(&events);
            joined.extend_from_slice(&rest[..length as usize]);
            joined.extend_from_slice(end);
            Ok(joined.freeze())
        }
        _ => Err(Bad::Order("a block ends with neither padding nor a part of an event")),
    }
}

/// What the server says.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Hello,
    KeepAlive,
    AppendSetup { id: i64, segment: String, writer: u128, last: i64 },
    DataAppended { id: i64, writer: u128, event: i64, previous: i64, length: i64 },
    ConditionFailed { id: i64, writer: u128, event: i64 },
    SegmentRead { id: i64, segment: String, offset: i64, at_tail: bool, end: bool, data: Bytes },
    Info { id: i64, segment: String, sealed: bool, modified_ms: i64, length: i64, start: i64 },
    Created { id: i64, segment: String },
    Sealed { id: i64, segment: String },
    Deleted { id: i64, segment: String },
    PolicyUpdated { id: i64, segment: String },
    Truncated { id: i64, segment: String },
    Located { id: i64, segment: String, offset: i64 },
    Attribute { id: i64, value: i64 },
    AttributeUpdated { id: i64, done: bool },
    Merged { id: i64, target: String, source: String, length: i64 },
    BatchMerged { id: i64, target: String, sources: Vec<(String, i64)> },
    TableInfo { id: i64, segment: String, length: i64, entries: i64 },
    TableUpdated { id: i64, versions: Vec<i64> },
    TableRemoved { id: i64, segment: String },
    TableRead { id: i64, segment: String, entries: Vec<(TableKey, Bytes)> },
    TableKeys { id: i64, segment: String, keys: Vec<TableKey>, next: Bytes },
    TableEntries { id: i64, segment: String, entries: Vec<(TableKey, Bytes)>, next: Bytes },
    TableDelta { id: i64, segment: String, entries: Vec<(TableKey, Bytes)>, clear: bool, end: bool, position: i64 },
    IsSealed { id: i64, segment: String, why: String, offset: i64 },
    Exists { id: i64, segment: String, why: String },
    NoSegment { id: i64, segment: String, why: String, offset: i64 },
    IsTruncated { id: i64, segment: String, start: i64, why: String, offset: i64 },
    EventNumber { id: i64, writer: u128, why: String, event: i64 },
    Unsupported { id: i64, operation: String, why: String },
    TokenFailed { id: i64, why: String, expired: bool },
    Error { id: i64, segment: String, why: String },
    NotEmpty { id: i64, segment: String, why: String },
    NoKey { id: i64, segment: String, why: String },
    BadVersion { id: i64, segment: String, why: String },
}

/// Bytes that a reply takes as they are, from here on: they are not copied.
const APART: usize = 16 << 10;

/// Frames on their way out.
#[derive(Default)]
pub struct Frames {
    bytes: BytesMut,
    /// What belongs between them, and before which one.
    apart: Vec<(usize, Bytes)>,
    apart_bytes: usize,
}

impl Frames {
    /// Bytes in all.
    pub fn size(&self) -> usize {
        self.bytes.len() + self.apart_bytes
    }

    /// The frames in pieces, and none left.
    pub fn take(&mut self) -> Vec<Bytes> {
        let mut pieces = Vec::with_capacity(2 * self.apart.len() + 1);
        let mut cut = 0;
        for (at, data) in self.apart.drain(..) {
            pieces.push(self.bytes.split_to(at - cut).freeze());
            pieces.push(data);
            cut = at;
        }
        pieces.push(self.bytes.split().freeze());
        self.apart_bytes = 0;
        pieces
    }
}

struct Out<'a>(&'a mut Frames);

impl Out<'_> {
    fn i64(&mut self, n: i64) -> &mut Self {
        self.0.bytes.put_i64(n);
        self
    }
    fn i32(&mut self, n: i32) -> &mut Self {
        self.0.bytes.put_i32(n);
        self
    }
    fn u8(&mut self, n: u8) -> &mut Self {
        self.0.bytes.put_u8(n);
        self
    }
    fn uuid(&mut self, n: u128) -> &mut Self {
        self.0.bytes.put_u128(n);
        self
    }
    fn string(&mut self, s: &str) -> &mut Self {
        // Longer than a name can be only when an error quotes something: cut it at a character.
        let mut end = s.len().min(u16::MAX as usize);
        while !s.is_char_boundary(end) {
            end -= 1;
        }
        self.0.bytes.put_u16(end as u16);
        self.0.bytes.put_slice(&s.as_bytes()[..end]);
        self
    }
    fn bytes(&mut self, b: &[u8]) -> &mut Self {
        self.0.bytes.put_i32(b.len() as i32);
        self.0.bytes.put_slice(b);
        self
    }
    /// As [`bytes`](Self::bytes), without a copy where there are many.
    fn data(&mut self, b: &Bytes) -> &mut Self {
        if b.len() < APART {
            return self.bytes(b);
        }
        self.0.bytes.put_i32(b.len() as i32);
        self.0.apart.push((self.0.bytes.len(), b.clone()));
        self.0.apart_bytes += b.len();
        self
    }
    fn key(&mut self, key: &TableKey) -> &mut Self {
        self.i32(key.key.len() as i32 + 12).bytes(&key.key).i64(key.version)
    }
    fn entries(&mut self, entries: &[(TableKey, Bytes)]) -> &mut Self {
        self.i32(entries.len() as i32);
        for (key, value) in entries {
            self.key(key).i32(value.len() as i32 + 4).bytes(value);
        }
        self
    }
}

impl Reply {
    /// About how many bytes it takes until it has left.
    pub fn weight(&self) -> usize {
        use Reply as R;
        let keys = |keys: &[TableKey]| keys.iter().map(|k| k.key.len() + 40).sum::<usize>();
        let entries = |entries: &[(TableKey, Bytes)]| entries.iter().map(|(k, v)| k.key.len() + v.len() + 72).sum::<usize>();
        128 + match self {
            R::Hello | R::KeepAlive | R::DataAppended { .. } | R::ConditionFailed { .. } | R::Attribute { .. } | R::AttributeUpdated { .. } => 0,
            R::AppendSetup { segment, .. }
            | R::Info { segment, .. }
            | R::Created { segment, .. }
            | R::Sealed { segment, .. }
            | R::Deleted { segment, .. }
            | R::PolicyUpdated { segment, .. }
            | R::Truncated { segment, .. }
            | R::Located { segment, .. }
            | R::TableInfo { segment, .. }
            | R::TableRemoved { segment, .. } => segment.len(),
            R::SegmentRead { segment, data, .. } => segment.len() + data.len(),
            R::Merged { target, source, .. } => target.len() + source.len(),
            R::BatchMerged { target, sources, .. } => target.len() + sources.iter().map(|(s, _)| s.len() + 32).sum::<usize>(),
            R::TableUpdated { versions, .. } => 8 * versions.len(),
            R::TableRead { segment, entries: all, .. } | R::TableDelta { segment, entries: all, .. } => segment.len() + entries(all),
            R::TableKeys { segment, keys: all, next, .. } => segment.len() + keys(all) + next.len(),
            R::TableEntries { segment, entries: all, next, .. } => segment.len() + entries(all) + next.len(),
            R::IsSealed { segment, why, .. }
            | R::Exists { segment, why, .. }
            | R::NoSegment { segment, why, .. }
            | R::IsTruncated { segment, why, .. }
            | R::Error { segment, why, .. }
            | R::NotEmpty { segment, why, .. }
            | R::NoKey { segment, why, .. }
            | R::BadVersion { segment, why, .. } => segment.len() + why.len(),
            R::Unsupported { operation, why, .. } => operation.len() + why.len(),
            R::EventNumber { why, .. } | R::TokenFailed { why, .. } => why.len(),
        }
    }

    /// Appends the reply's frame.
    pub fn put(&self, out: &mut Frames) {
        let (begin, before) = (out.bytes.len(), out.size());
        out.bytes.put_u64(0);
        let kind = self.fields(&mut Out(out));
        let length = out.size() - before - FRAME_HEADER;
        assert!(length <= PAYLOAD_MAX, "replies are bounded where they are made");
        out.bytes[begin..begin + 4].copy_from_slice(&kind.to_be_bytes());
        out.bytes[begin + 4..begin + 8].copy_from_slice(&(length as i32).to_be_bytes());
    }

    fn fields(&self, w: &mut Out<'_>) -> i32 {
        match self {
            Reply::Hello => {
                w.i32(VERSION).i32(OLDEST_VERSION);
                -127
            }
            Reply::KeepAlive => 100,
            Reply::AppendSetup { id, segment, writer, last } => {
                w.i64(*id).string(segment).uuid(*writer).i64(*last);
                2
            }
            Reply::DataAppended { id, writer, event, previous, length } => {
                w.uuid(*writer).i64(*event).i64(*previous).i64(*id).i64(*length);
                7
            }
            Reply::ConditionFailed { id, writer, event } => {
                w.uuid(*writer).i64(*event).i64(*id);
                8
            }
            Reply::SegmentRead { id, segment, offset, at_tail, end, data } => {
                w.string(segment).i64(*offset).u8((*at_tail).into()).u8((*end).into()).data(data).i64(*id);
                10
            }
            Reply::Info { id, segment, sealed, modified_ms, length, start } => {
                w.i64(*id).string(segment).u8(1).u8((*sealed).into()).u8(0).i64(*modified_ms).i64(*length).i64(*start);
                12
            }
            Reply::Created { id, segment } => {
                w.i64(*id).string(segment);
                21
            }
            Reply::Sealed { id, segment } => {
                w.i64(*id).string(segment);
                29
            }
            Reply::Deleted { id, segment } => {
                w.i64(*id).string(segment);
                31
            }
            Reply::PolicyUpdated { id, segment } => {
                w.i64(*id).string(segment);
                33
            }
            Reply::Truncated { id, segment } => {
                w.i64(*id).string(segment);
                39
            }
            Reply::Located { id, segment, offset } => {
                w.i64(*id).string(segment).i64(*offset);
                42
            }
            Reply::Attribute { id, value } => {
                w.i64(*id).i64(*value);
                35
            }
            Reply::AttributeUpdated { id, done } => {
                w.i64(*id).u8((*done).into());
                37
            }
            Reply::Merged { id, target, source, length } => {
                w.i64(*id).string(target).string(source).i64(*length);
                59
            }
            Reply::BatchMerged { id, target, sources } => {
                // Names first, then offsets, would be another protocol: they alternate.
                w.i64(*id).string(target).i32(sources.len() as i32);
                for (source, length) in sources {
                    w.string(source).i64(*length);
                }
                91
            }
            Reply::TableInfo { id, segment, length, entries } => {
                w.i64(*id).string(segment).i64(0).i64(*length).i64(*entries).i32(0);
                69
            }
            Reply::TableUpdated { id, versions } => {
                w.i64(*id).i32(versions.len() as i32);
                versions.iter().for_each(|v| { w.i64(*v); });
                75
            }
            Reply::TableRemoved { id, segment } => {
                w.i64(*id).string(segment);
                77
            }
            Reply::TableRead { id, segment, entries } => {
                w.i64(*id).string(segment).entries(entries);
                79
            }
            Reply::TableKeys { id, segment, keys, next } => {
                w.i64(*id).string(segment).i32(keys.len() as i32);
                keys.iter().for_each(|k| { w.key(k); });
                w.bytes(next);
                84
            }
            Reply::TableEntries { id, segment, entries, next } => {
                w.i64(*id).string(segment).entries(entries).bytes(next);
                86
            }
            Reply::TableDelta { id, segment, entries, clear, end, position } => {
                w.i64(*id).string(segment).entries(entries).u8((*clear).into()).u8((*end).into()).i64(*position);
                87
            }
            Reply::IsSealed { id, segment, why, offset } => {
                w.i64(*id).string(segment).string(why).i64(*offset);
                51
            }
            Reply::Exists { id, segment, why } => {
                w.i64(*id).string(segment).string(why);
                52
            }
            Reply::NoSegment { id, segment, why, offset } => {
                w.i64(*id).string(segment).string(why).i64(*offset);
                53
            }
            Reply::EventNumber { id, writer, why, event } => {
                w.uuid(*writer).i64(*id).string(why).i64(*event);
                55
            }
            Reply::IsTruncated { id, segment, start, why, offset } => {
                w.i64(*id).string(segment).i64(*start).string(why).i64(*offset);
                56
            }
            Reply::Unsupported { id, operation, why } => {
                w.i64(*id).string(operation).string(why);
                57
            }
            Reply::TokenFailed { id, why, expired } => {
                w.i64(*id).string(why).i32((*expired).into());
                60
            }
            Reply::Error { id, segment, why } => {
                w.i64(*id).string(segment).string(why).i32(-1);
                61
            }
            Reply::NotEmpty { id, segment, why } => {
                w.i64(*id).string(segment).string(why);
                80
            }
            Reply::NoKey { id, segment, why } => {
                w.i64(*id).string(segment).string(why);
                81
            }
            Reply::BadVersion { id, segment, why } => {
                w.i64(*id).string(segment).string(why);
                82
            }
        }
    }
}

/// An entry as tables give it, with the version under which it is known.
pub fn entry((key, value, version): (Bytes, Bytes, i64)) -> (TableKey, Bytes) {
    (TableKey { key, version }, value)
}

/// What is answered for a key that isn't there.
pub fn missing(key: &Bytes) -> (TableKey, Bytes) {
    debug_assert!(NO_KEY != ANY_VERSION);
    (TableKey { key: key.clone(), version: NO_KEY }, Bytes::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(write: impl FnOnce(&mut Out<'_>)) -> Bytes {
        let mut frames = Frames::default();
        write(&mut Out(&mut frames));
        frames.take().concat().into()
    }

    #[test]
    fn large_data_is_not_copied_and_the_frames_are_the_same() {
        let read = |n: usize| Reply::SegmentRead { id: 7, segment: "a/b".into(), offset: 9, at_tail: true, end: false, data: vec![n as u8; n].into() };
        let mut frames = Frames::default();
        let replies = [Reply::Hello, read(APART), read(0), read(APART - 1), read(APART + 1), read(3 * APART), Reply::KeepAlive];
        for reply in &replies {
            reply.put(&mut frames);
        }
        let said = frames.size();
        let pieces = frames.take();
        assert_eq!((pieces.len(), said, frames.size()), (7, pieces.iter().map(Bytes::len).sum(), 0));
        let mut stream = BytesMut::from(&pieces.concat()[..]);
        for reply in &replies {
            let (_, payload) = frame(&mut stream).unwrap().unwrap();
            if let Reply::SegmentRead { data, .. } = reply {
                // Name, offset and two flags, then the length, the bytes, and the request's number.
                let at = 2 + 3 + 8 + 2;
                assert_eq!(payload[at..at + 4], (data.len() as i32).to_be_bytes());
                assert!(payload[at + 4..payload.len() - 8] == data[..] && payload[payload.len() - 8..] == 7i64.to_be_bytes());
            }
        }
        assert!(stream.is_empty());
    }

    #[test]
    fn a_frame_is_taken_when_it_is_whole_and_refused_before_it_is_stored() {
        let mut frames = Frames::default();
        Reply::Hello.put(&mut frames);
        let mut buffer = BytesMut::from(&frames.take().concat()[..]);
        let whole = buffer.clone();
        for n in 0..whole.len() {
            assert_eq!(frame(&mut BytesMut::from(&whole[..n])).unwrap(), None);
        }
        let (kind, payload) = frame(&mut buffer).unwrap().unwrap();
        assert_eq!(request(kind, payload).unwrap(), Request::Hello { high: 17, low: 5 });
        for length in [-1, i32::MIN, 0x0100_0000] {
            let mut bad = BytesMut::new();
            bad.put_i32(4);
            bad.put_i32(length);
            assert_eq!(frame(&mut bad), Err(Bad::Length(length)));
            assert!(bad.capacity() < 1 << 16);
        }
    }

    #[test]
    fn fields_may_be_missing_at_the_end_or_more() {
        let payload = |extra: &[u8]| {
            let mut bytes = fields(|w| { w.i64(7).string("s/t/0.#epoch.0").i32(5).u8(1).string("token"); }).to_vec();
            bytes.extend_from_slice(extra);
            Bytes::from(bytes)
        };
        for extra in [&[][..], &[0; 8], &[1, 2, 3]] {
            let expected = Request::Create { id: 7, segment: "s/t/0.#epoch.0".into(), token: "token".into() };
            assert_eq!(request(20, payload(extra)).unwrap(), expected);
        }
        let merge = fields(|w| { w.i64(1).string("a").string("b").string(""); });
        assert!(matches!(request(58, merge).unwrap(), Request::Merge { updates, .. } if updates.is_empty()));
        let update = fields(|w| { w.i64(1).string("t").string("").entries(&[(TableKey { key: "k".into(), version: 3 }, "v".into())]); });
        assert!(matches!(request(74, update).unwrap(), Request::TableUpdate { at: -1, entries, .. } if entries.len() == 1));
    }

    #[test]
    fn counts_are_held_against_what_is_there() {
        for n in [-1, 1, i32::MAX] {
            let keys = fields(|w| { w.i64(1).string("t").string("").i32(n); });
            assert_eq!(request(78, keys), Err(Bad::Field(78, n.into())));
            let sources = fields(|w| { w.i64(1).string("t").i32(n); });
            assert_eq!(request(90, sources), Err(Bad::Field(90, n.into())));
        }
        let long = fields(|w| { w.uuid(1).i32(0).i32(i32::MAX); });
        assert_eq!(request(4, long), Err(Bad::Short(4)));
    }

    /// Any bytes, and any cut of valid ones, are a request or an error.
    #[test]
    fn nonsense_is_an_error() {
        use rand::{Rng, SeedableRng, rngs::StdRng};
        let mut rng = StdRng::seed_from_u64(5);
        for _ in 0..200_000 {
            let bytes: Vec<u8> = (0..rng.random_range(0..80)).map(|_| if rng.random_bool(0.6) { 0 } else { rng.random() }).collect();
            let _ = request(rng.random_range(-5..101), bytes.into());
        }
    }

    /// Replies are bounded by their weight, so whatever a client can make long must be in it; and names are bounded before anything else.
    #[test]
    fn replies_weigh_what_they_hold_and_names_have_a_bound() {
        let long = "n".repeat(60_000);
        for reply in [
            Reply::NoSegment { id: 1, segment: long.clone(), why: long.clone(), offset: 0 },
            Reply::TokenFailed { id: 1, why: long.clone(), expired: false },
            Reply::TableUpdated { id: 1, versions: vec![1; 100_000] },
            Reply::BatchMerged { id: 1, target: "t".into(), sources: vec![(long.clone(), 1); 9] },
            Reply::TableKeys { id: 1, segment: "t".into(), keys: vec![TableKey { key: long.clone().into(), version: 1 }], next: long.clone().into() },
        ] {
            let mut frames = Frames::default();
            reply.put(&mut frames);
            assert!(reply.weight() >= frames.size(), "{} < {}", reply.weight(), frames.size());
        }
        let info = |name: &str| request(11, fields(|w| { w.i64(1).string(name).string(&long); }));
        assert_eq!(info(&long[..NAME_MAX + 1]), Err(Bad::Field(11, NAME_MAX as i64 + 1)));
        assert!(info(&long[..NAME_MAX]).is_ok(), "a token may be longer");
        let batch = fields(|w| { w.i64(1).string("t").i32(20_000); (0..20_000).for_each(|_| { w.string("s"); }); w.string(""); });
        assert_eq!(request(90, batch), Err(Bad::Field(90, 20_000)));
    }

    #[test]
    fn a_block_in_two_parts() {
        let event = |n: usize| fields(|w| { w.i32(0).bytes(&vec![n as u8; n]); });
        let (first, second) = (event(5), event(20));
        let part = |kind: i32, of: &[u8]| fields(|w| { w.i32(kind).bytes(of); });
        let block = [&first[..], &part(-2, &second[..11])].concat().into();
        let joined = join_block(&block, first.len() as i32, &second.slice(11..)).unwrap();
        assert_eq!(joined, [&first[..], &second].concat());
        let padded = [&first[..], &part(-1, &[0; 9])].concat().into();
        assert_eq!(join_block(&padded, first.len() as i32, &Bytes::new()).unwrap(), first);
        assert!(join_block(&padded, first.len() as i32, &second).is_err());
        assert!(join_block(&first, 99, &Bytes::new()).is_err() && join_block(&first, -1, &Bytes::new()).is_err());
        assert_eq!(join_block(&first, first.len() as i32, &Bytes::new()).unwrap(), first);
    }
}
