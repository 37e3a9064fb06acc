//! What an agent and the processes that are attached to it say over their socket.
//!
//! ```text
//! frame     as on the namenode's connections (`namenode/wire.rs`), with an object's bytes behind the body; a process's up to 2 MiB, the agent's up to 8 MiB
//! process   Ask, each with a number of its own; those without an answer have the number 0
//! agent     one Told for each number, in any order; `Welcome` and `Lent` bring descriptors with them
//! ```

use super::{NAMES, SLOTS};
use crate::{Attributes, BucketName, Error, Key, Listing, ObjectId, ObjectMeta, Watched, namenode::wire};
use base::Kind;
use serde::{Deserialize, Serialize};
use std::fmt;

pub const ASK_BYTES_MAX: usize = 2 << 20;
pub const TOLD_BYTES_MAX: usize = 8 << 20;
/// Bytes of an object in one message; what is longer comes in several.
pub const PART_BYTES: usize = 1 << 20;
/// Both sides say it first: who doesn't understand the other says so.
pub const VERSION: u32 = 3;

#[derive(Debug, Serialize, Deserialize)]
pub enum Ask {
    Hello { version: u32 },
    Open { bucket: BucketName, key: Key, slot: u32 },
    /// What was lent under these is not needed any more. No answer.
    Unpin { slots: Vec<u32> },
    /// The last reader of what the agent wants back is gone. No answer.
    Released { slot: u32 },
    Create { writer: u32, bucket: BucketName, key: Key, if_absent: bool },
    /// With bytes.
    Write { writer: u32, offset: u64 },
    Seal { writer: u32, here: bool, attributes: Attributes },
    /// No answer.
    Abort { writer: u32 },
    /// With bytes. Create, write and seal of what fits into one message.
    Put { bucket: BucketName, key: Key, if_absent: bool, here: bool, attributes: Attributes },
    CreateBucket { bucket: BucketName },
    Buckets,
    Stat { bucket: BucketName, key: Key },
    Attributes { bucket: BucketName, key: Key },
    List { bucket: BucketName, prefix: String, delimiter: Option<char>, start_after: String, limit: u32 },
    Delete { bucket: BucketName, key: Key },
    Rename { bucket: BucketName, from: Key, to: Key },
    DeletePrefix { bucket: BucketName, prefix: String },
    RenamePrefix { bucket: BucketName, from: String, to_bucket: BucketName, to: String, if_absent: bool },
    Spill { bucket: BucketName, prefix: String },
    Settle,
    RenameTo { bucket: BucketName, from: Key, to_bucket: BucketName, to: Key, if_absent: bool },
    Copy { bucket: BucketName, from: Key, to_bucket: BucketName, to: Key, if_absent: bool },
    CopyPrefix { bucket: BucketName, from: String, to_bucket: BucketName, to: String },
    /// At most [`PART_BYTES`].
    ReadRange { bucket: BucketName, key: Key, offset: u64, len: u64 },
    /// 0: until it is dropped.
    KeepJob { job: String, ms: u64 },
    DropJob { job: String },
    Flush { bucket: BucketName, prefix: String, deadline_ms: u64 },
    WaitDurable { bucket: BucketName, key: Key, deadline_ms: u64 },
    Watch { bucket: BucketName, after: u64, wait_ms: u64 },
    /// What grows on the node, and lies at a prefix or below it.
    Growing { bucket: BucketName, prefix: String, start_after: String },
    Appendable { bucket: BucketName, key: Key, act: Act },
    /// Begins to read, under this number, what grows at whichever node.
    Follow { follower: u32, bucket: BucketName, key: Key },
    /// At most [`PART_BYTES`].
    Followed { follower: u32, offset: u64, len: u64, wait_ms: u64 },
    /// No answer.
    Unfollow { follower: u32 },
}

/// What is done with an object that grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Act {
    /// Begins it, unless it grows already; `new`: then that is an error.
    Begin { new: bool },
    Length,
    /// With bytes.
    Append { offset: u64 },
    /// At most [`PART_BYTES`].
    Read { offset: u64, len: u64 },
    Sync,
    Seal,
    Discard,
}

impl Ask {
    fn has_bytes(&self) -> bool {
        matches!(self, Ask::Write { .. } | Ask::Put { .. } | Ask::Appendable { act: Act::Append { .. }, .. })
    }

    /// What is asked for, as far as somebody may wait for it in vain.
    pub fn about(&self) -> String {
        match self {
            Ask::Watch { bucket, .. } => format!("the watch of bucket {bucket}"),
            Ask::Flush { bucket, prefix, .. } => format!("the flush of {bucket}/{prefix}"),
            Ask::WaitDurable { bucket, key, .. } => format!("the upload of {bucket}/{key}"),
            Ask::Follow { bucket, key, .. } => format!("the search for {bucket}/{key}"),
            Ask::Followed { offset, .. } => format!("the read of what is followed, from byte {offset} on,"),
            _ => "what was asked for".into(),
        }
    }

    /// Whether its answer may be long in coming because of others, and not of work.
    pub fn waits(&self) -> bool {
        matches!(self, Ask::Flush { .. } | Ask::WaitDurable { .. } | Ask::Watch { .. } | Ask::Followed { wait_ms: 1.., .. })
    }
}

/// Bytes, as such: without it each would be written as a number of its own.
#[derive(Clone, PartialEq, Eq)]
pub struct Blob(pub Vec<u8>);

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}
impl Serialize for Blob {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&self.0)
    }
}
impl<'a> Deserialize<'a> for Blob {
    fn deserialize<D: serde::Deserializer<'a>>(from: D) -> Result<Blob, D::Error> {
        struct Taken;
        impl serde::de::Visitor<'_> for Taken {
            type Value = Blob;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            // They lie in the frame, whose length is bounded.
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Blob, E> {
                Ok(Blob(bytes.to_vec()))
            }
        }
        from.deserialize_bytes(Taken)
    }
}

/// Appends a frame, with an object's bytes at its end.
pub fn put(out: &mut Vec<u8>, request: u64, ask: &Ask, bytes: &[u8]) {
    debug_assert!(ask.has_bytes() || bytes.is_empty());
    let at = out.len();
    wire::put(out, request, ask);
    out.extend_from_slice(bytes);
    let len = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&len.to_le_bytes());
}

/// What a body says, and the bytes behind it.
pub fn read(body: &[u8]) -> Result<(Ask, &[u8]), String> {
    match postcard::take_from_bytes::<Ask>(body) {
        Ok((ask, bytes)) if bytes.is_empty() || ask.has_bytes() => Ok((ask, bytes)),
        Ok((_, rest)) => Err(format!("{} bytes too many in a message", rest.len())),
        Err(e) => Err(format!("a message can't be read: {e}")),
    }
}

/// Where the bytes of what is lent lie in the file whose descriptor comes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Of a file that others of this session lie in, too: whether it is memory, and its number.
    pub shared: Option<(bool, u32)>,
    pub offset: u64,
    /// How much of the file is to be mapped.
    pub room: u64,
}

/// What the board said before the answer was looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub all: u64,
    pub name: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Told {
    Failed { kind: Kind, message: String },
    /// With the descriptors of the board, of this session's slots, and of the lock that says that the process lives.
    Welcome { version: u32, names: u32, slots: u32 },
    /// With one descriptor. `until_ns`: how long the name may be believed without asking, on the machine's clock; 0: not at all.
    Lent { meta: ObjectMeta, place: Place, seen: Seen, until_ns: u64 },
    Done,
    Created(bool),
    Object(ObjectMeta),
    Attributes(Attributes),
    Counted { objects: u64, bytes: u64 },
    Listing { objects: Vec<ObjectMeta>, prefixes: Vec<String>, next: Option<String> },
    Buckets(Vec<BucketName>),
    Part { meta: ObjectMeta, bytes: Blob },
    Read(Blob),
    Length(u64),
    Watched(Watched),
    /// In the order of their keys; a page that is empty is the end.
    Growing(Vec<(Key, u64)>),
    /// What grows; `None`: it is sealed.
    Following { id: ObjectId, growing: bool },
    Grown { bytes: Blob, len: u64, sealed: bool },
}

impl Told {
    /// Descriptors that come with it.
    pub fn fds(&self) -> usize {
        match self {
            Told::Welcome { .. } => 3,
            Told::Lent { .. } => 1,
            _ => 0,
        }
    }

    pub fn welcome() -> Told {
        Told::Welcome { version: VERSION, names: NAMES as u32, slots: SLOTS as u32 }
    }
}

impl From<Listing> for Told {
    fn from(listing: Listing) -> Told {
        Told::Listing { objects: listing.objects, prefixes: listing.prefixes, next: listing.next }
    }
}

impl From<Error> for Told {
    fn from(error: Error) -> Told {
        Told::Failed { kind: error.kind(), message: error.to_string().chars().take(4096).collect() }
    }
}

// --- for `fuzz.rs` ----------------------------------------------------------------------------------------------------------------

/// Reads what a process says; what can be read is the same when it is written and read again.
pub(crate) fn read_agent(bytes: &[u8]) {
    let mut bytes = bytes;
    while let Ok(Some((request, body, len))) = wire::next(bytes, ASK_BYTES_MAX) {
        if let Ok((ask, tail)) = read(body) {
            let mut again = Vec::new();
            put(&mut again, request, &ask, tail);
            let (_, body, _) = wire::next(&again, usize::MAX).expect("it was just written").expect("whole");
            let (back, rest) = read(body).expect("it was just written");
            assert_eq!((format!("{ask:?}"), tail), (format!("{back:?}"), rest));
        }
        bytes = &bytes[len..];
    }
}

/// Frames that are well formed.
pub(crate) fn some_asks() -> Vec<Vec<u8>> {
    let (bucket, key) = (BucketName::new("data").expect("a name"), Key::new("a/b").expect("a name"));
    let asks = [
        Ask::Hello { version: VERSION },
        Ask::Open { bucket: bucket.clone(), key: key.clone(), slot: 7 },
        Ask::Unpin { slots: vec![1, 2, 3] },
        Ask::Put { bucket: bucket.clone(), key: key.clone(), if_absent: true, here: false, attributes: Attributes::default() },
        Ask::List { bucket: bucket.clone(), prefix: "a".into(), delimiter: Some('/'), start_after: String::new(), limit: 10 },
        Ask::Watch { bucket: bucket.clone(), after: 7, wait_ms: 1000 },
        Ask::Appendable { bucket: bucket.clone(), key: key.clone(), act: Act::Append { offset: 5 } },
        Ask::Follow { follower: 7, bucket: bucket.clone(), key: key.clone() },
        Ask::Followed { follower: 7, offset: 5, len: u64::MAX, wait_ms: 1000 },
        Ask::Appendable { bucket, key, act: Act::Read { offset: 5, len: u64::MAX } },
    ];
    asks.iter()
        .map(|ask| {
            let mut frame = Vec::new();
            put(&mut frame, 3, ask, if ask.has_bytes() { b"an object's bytes" } else { b"" });
            frame
        })
        .collect()
}

/// Reads what an agent says.
pub(crate) fn read_agent_told(bytes: &[u8]) {
    let mut bytes = bytes;
    while let Ok(Some((request, body, len))) = wire::next(bytes, TOLD_BYTES_MAX) {
        if let Ok(told) = wire::read::<Told>(body) {
            let mut again = Vec::new();
            wire::put(&mut again, request, &told);
            let (_, body, _) = wire::next(&again, usize::MAX).expect("it was just written").expect("whole");
            let back: Told = wire::read(body).expect("what was written can be read");
            assert_eq!(format!("{told:?}"), format!("{back:?}"));
        }
        bytes = &bytes[len..];
    }
}

/// Frames that are well formed.
pub(crate) fn some_told() -> Vec<Vec<u8>> {
    let bucket = BucketName::new("data").expect("a name");
    let all = [
        Told::welcome(),
        Told::Failed { kind: Kind::NotFound, message: "no".into() },
        Told::Listing { objects: Vec::new(), prefixes: vec!["a/".into()], next: Some("a/b".into()) },
        Told::Buckets(vec![bucket; 3]),
        Told::Read(Blob(b"of an object".to_vec())),
        Told::Growing(vec![(Key::new("a/b").expect("a name"), 7)]),
        Told::Following { id: ObjectId(7), growing: true },
        Told::Grown { bytes: Blob(b"of what grows".to_vec()), len: 13, sealed: true },
    ];
    all.iter()
        .map(|told| {
            let mut frame = Vec::new();
            wire::put(&mut frame, 3, told);
            frame
        })
        .collect()
}
