//! What is said on a connection to the namenode, `geds-meta/1`.
//!
//! ```text
//! frame     bytes u32 │ request u64 │ body in postcard       little endian; a client's up to 1 MiB, the namenode's up to 8 MiB
//! client    Ask { deadline, question }; request numbers are the client's own, not 0
//! namenode  one Told for each request, in any order; number 0: a revocation, to be confirmed
//! ```
//!
//! Here are only the messages and where a frame begins and ends. A length is checked before anything is allocated for it; that many answers don't pile up is seen to in `server.rs`.

use super::change::{Answer, Change, Once};
use crate::{
    Attributes, BucketName, Error, Garbage, Holder, Key, Listing, ObjectId, ObjectMeta, Result, State, Watched,
};
use base::{Kind, SiteId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// The protocol's name in the TLS handshake.
pub const META_ALPN: &str = "geds-meta/1";

pub const ASK_BYTES_MAX: usize = 1 << 20;
pub const TOLD_BYTES_MAX: usize = 8 << 20;
/// Keys or ids in one question.
pub const LOOKUPS_MAX: usize = 1000;

#[derive(Debug, Serialize, Deserialize)]
pub struct Ask<Q = Question> {
    /// Milliseconds; what has not begun by then is not done.
    pub deadline_ms: u32,
    pub question: Q,
}

/// The questions that are asked most, without copies of the names: they are written like the first two of [`Question`].
#[derive(Clone, Copy, Serialize)]
pub enum Look<'a> {
    Lookup { bucket: &'a BucketName, key: &'a Key },
    Lease { bucket: &'a BucketName, key: &'a Key },
}

/// Their answers, straight from the state: written like those of [`Told`] that have the same place.
#[derive(Serialize)]
pub enum Seen<'a> {
    #[expect(dead_code, reason = "it keeps the others in their places")]
    Failed,
    Object(Facts<'a>),
    Leased { object: Facts<'a>, term_ms: Option<u32> },
}

/// A [`Meta`] that borrows.
#[derive(Serialize)]
pub struct Facts<'a> {
    pub bucket: &'a str,
    pub key: &'a str,
    pub id: u128,
    pub epoch: u64,
    pub size: u64,
    pub checksum: u64,
    /// Names and addresses.
    pub sites: &'a [(&'a str, &'a str)],
    pub persisted: Option<String>,
    pub created_ms: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Question {
    Lookup { bucket: BucketName, key: Key },
    Lease { bucket: BucketName, key: Key },
    Change(Change),
    /// What of these is there.
    Lookups(Vec<(BucketName, Key)>),
    Find { id: u128 },
    Held { site: SiteId, start_after: Option<u128> },
    List { bucket: BucketName, prefix: String, delimiter: Option<char>, start_after: String, limit: u32 },
    /// The first page.
    Buckets,
    Attributes { bucket: BucketName, key: Key },
    Garbage { site: Option<SiteId>, start_after: Option<u128> },
    Watch { bucket: BucketName, after: u64, wait_ms: u32 },
    /// The revocation with this number is carried out. It has no answer.
    Revoked { number: u64 },
    Ping,
    Partners { id: u128, site: SiteId },
    /// Those that hold leases on objects: the first page.
    Jobs,
    /// Several of [`Question::Find`].
    Finds(Vec<u128>),
    Epoch,
    /// [`Question::Buckets`] and [`Question::Jobs`], a page of them: those after a name.
    BucketsAfter(String),
    JobsAfter(String),
    /// Answered with [`Told::Holders`].
    Sites,
    /// [`Question::Change`] of a request that may be asked again.
    Once(Once, Change),
    /// Answered with [`Told::Clock`].
    Clock,
    /// What this connection is called: answered with [`Told::Session`].
    Session,
    /// As the first question of a connection, which becomes one for a thread (`direct.rs`), and belongs to this session.
    Direct { session: u128 },
}

impl Question {
    /// The object that it is about, where it is about one.
    pub fn about(&self) -> Option<(&BucketName, &Key)> {
        match self {
            Question::Lookup { bucket, key } | Question::Lease { bucket, key } | Question::Attributes { bucket, key } => Some((bucket, key)),
            Question::Change(change) | Question::Once(_, change) => change.about(),
            _ => None,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Told {
    Failed { kind: Kind, message: String },
    Object(Meta),
    Leased { object: Meta, term_ms: Option<u32> },
    Sealed { object: Meta, replaced: Option<Meta> },
    Removed { object: Meta, last: bool },
    Created(bool),
    Counted { objects: u64, bytes: u64 },
    Done,
    Found(Option<Meta>),
    Objects(Vec<Option<Meta>>),
    Listing { objects: Vec<Meta>, prefixes: Vec<String>, next: Option<String> },
    Buckets(Vec<BucketName>),
    Attributes(Attributes),
    Garbage(Vec<Garbage>),
    Watched(Watched),
    /// No key: all of them.
    Revoke { number: u64, key: Option<(BucketName, Key)> },
    /// Sites and their data ports.
    Holders(Vec<(String, String)>),
    Jobs(Vec<String>),
    Epoch(u64),
    /// Unix milliseconds.
    Clock(u64),
    Session(u128),
}

/// An object's facts, as they travel.
#[derive(Debug, Serialize, Deserialize)]
pub struct Meta {
    bucket: String,
    key: String,
    id: u128,
    epoch: u64,
    size: u64,
    checksum: u64,
    sites: Vec<(String, String)>,
    persisted: Option<String>,
    created_ms: u64,
}

impl From<ObjectMeta> for Meta {
    fn from(meta: ObjectMeta) -> Meta {
        Meta {
            bucket: meta.bucket.into(),
            key: meta.key.into(),
            id: meta.id.0,
            epoch: meta.epoch,
            size: meta.size,
            checksum: meta.checksum,
            sites: meta.sites.into_iter().map(|holder| (holder.site.into(), holder.address)).collect(),
            persisted: meta.persisted,
            created_ms: meta.created_ms,
        }
    }
}

pub fn holder((site, address): (String, String)) -> Result<Holder> {
    let site = SiteId::new(site).map_err(|e| Error::BadName { what: e.what, name: e.name, rule: "it must be a DNS label" })?;
    Ok(Holder { site, address })
}

impl TryFrom<Meta> for ObjectMeta {
    type Error = Error;
    fn try_from(meta: Meta) -> Result<ObjectMeta> {
        let sites = meta.sites.into_iter().map(holder).collect::<Result<_>>()?;
        Ok(ObjectMeta {
            bucket: BucketName::new(meta.bucket)?,
            key: Key::new(meta.key)?,
            id: ObjectId(meta.id),
            epoch: meta.epoch,
            size: meta.size,
            state: State::Sealed,
            checksum: meta.checksum,
            sites,
            persisted: meta.persisted,
            created_ms: meta.created_ms,
        })
    }
}

impl From<Listing> for Told {
    fn from(listing: Listing) -> Told {
        let objects = listing.objects.into_iter().map(Meta::from).collect();
        Told::Listing { objects, prefixes: listing.prefixes, next: listing.next }
    }
}

impl From<Answer> for Told {
    fn from(answer: Answer) -> Told {
        match answer {
            Answer::Done => Told::Done,
            Answer::Created(new) => Told::Created(new),
            Answer::Object(object) => Told::Object(object.into()),
            Answer::Sealed { object, replaced } => Told::Sealed { object: object.into(), replaced: replaced.map(Meta::from) },
            Answer::Removed { object, last } => Told::Removed { object: object.into(), last },
            Answer::Counted { objects, bytes } => Told::Counted { objects, bytes },
        }
    }
}

impl From<Error> for Told {
    fn from(error: Error) -> Told {
        Told::Failed { kind: error.kind(), message: error.to_string().chars().take(4096).collect() }
    }
}

/// What is to be written on a connection, and how far that has come.
///
/// Both ends read while they write. If both waited for the other to take what they have to say, nobody would read, and many small questions would be on
/// their way for ever.
#[derive(Default)]
pub struct Writing {
    bytes: Vec<u8>,
    written: usize,
    flush: bool,
}

impl Writing {
    /// Takes over all of `more`, which is empty afterwards.
    pub fn append(&mut self, more: &mut Vec<u8>) {
        if self.bytes.is_empty() { std::mem::swap(&mut self.bytes, more) } else { self.bytes().append(more) }
    }
    /// To put more behind what is there.
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        // A connection that is never quiet must not keep all that it ever said.
        if self.written > 1 << 20 {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
        &mut self.bytes
    }
    /// Bytes that nobody has taken yet.
    pub fn left(&self) -> usize {
        self.bytes.len() - self.written
    }
    pub fn is_done(&self) -> bool {
        self.left() == 0 && !self.flush
    }

    /// One step. Dropped before it is done, nothing of it has happened.
    pub async fn step(&mut self, stream: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
        if self.left() > 0 {
            match stream.write(&self.bytes[self.written..]).await? {
                0 => return Err(std::io::ErrorKind::WriteZero.into()),
                n => self.written += n,
            }
            if self.left() == 0 {
                self.written = 0;
                self.flush = true;
                if self.bytes.capacity() > 1 << 20 { self.bytes = Vec::new() } else { self.bytes.clear() }
            }
            return Ok(());
        }
        stream.flush().await?;
        self.flush = false;
        Ok(())
    }
}

/// Appends a frame.
pub fn put(out: &mut Vec<u8>, request: u64, body: &impl Serialize) {
    let at = out.len();
    out.extend([0; 4]);
    out.extend(request.to_le_bytes());
    *out = postcard::to_extend(body, std::mem::take(out)).expect("a vector takes everything");
    let len = (out.len() - at - 4) as u32;
    out[at..at + 4].copy_from_slice(&len.to_le_bytes());
}

/// The first frame: its request, its body and how long it is. `None`: it is not whole yet.
pub fn next(bytes: &[u8], max: usize) -> Result<Option<(u64, &[u8], usize)>, String> {
    let Some(head) = bytes.get(..4) else { return Ok(None) };
    let len = u32::from_le_bytes(head.try_into().expect("four bytes")) as usize;
    if len < 8 || len > max {
        return Err(format!("a frame of {len} bytes; 8 to {max} are allowed"));
    }
    let Some(frame) = bytes.get(4..4 + len) else { return Ok(None) };
    let request = u64::from_le_bytes(frame[..8].try_into().expect("eight bytes"));
    Ok(Some((request, &frame[8..], 4 + len)))
}

pub fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(format!("{} bytes too many in a message", rest.len())),
        Err(e) => Err(format!("a message can't be read: {e}")),
    }
}

// --- for `fuzz.rs` ----------------------------------------------------------------------------------------------------------------

fn each_frame(mut bytes: &[u8], max: usize, mut one: impl FnMut(u64, &[u8])) {
    while let Ok(Some((request, body, len))) = next(bytes, max) {
        assert!(body.len() + 12 == len && len <= bytes.len());
        one(request, body);
        bytes = &bytes[len..];
    }
}

/// Reads questions; what can be read is the same when it is written and read again.
pub(crate) fn read_ask(bytes: &[u8]) {
    each_frame(bytes, ASK_BYTES_MAX, |request, body| {
        let Ok(ask) = read::<Ask>(body) else { return };
        if let Question::Change(change) | Question::Once(_, change) = &ask.question {
            // Whatever it says, it is refused or can be carried out.
            if change.check().is_ok() {
                let _ = super::state::State::new().apply(1, change);
            }
        }
        let mut again = Vec::new();
        put(&mut again, request, &ask);
        each_frame(&again, usize::MAX, |request_again, body| {
            let read = read::<Ask>(body).expect("what was written can be read");
            assert_eq!((request_again, format!("{read:?}")), (request, format!("{ask:?}")));
        });
    });
}

/// Reads what a namenode tells.
pub(crate) fn read_told(bytes: &[u8]) {
    each_frame(bytes, TOLD_BYTES_MAX, |_, body| {
        if let Ok(Told::Object(meta) | Told::Leased { object: meta, .. }) = read::<Told>(body) {
            let _ = ObjectMeta::try_from(meta);
        }
    });
}

/// Some of each sort.
pub(crate) fn some_frames() -> Vec<Vec<u8>> {
    let (bucket, key) = (BucketName::new("data").expect("a good name"), Key::new("a/b").expect("a good name"));
    let site = SiteId::new("edge").expect("a good name");
    let questions = [
        Question::Lookup { bucket: bucket.clone(), key: key.clone() },
        Question::List { bucket: bucket.clone(), prefix: "a".into(), delimiter: Some('/'), start_after: String::new(), limit: 10 },
        Question::Lookups(vec![(bucket.clone(), key.clone()); 3]),
        Question::Held { site: site.clone(), start_after: Some(7) },
        Question::Partners { id: 1, site: site.clone() },
        Question::Finds(vec![1, u128::MAX]),
        Question::Sites,
        Question::Clock,
        Question::Session,
        Question::Direct { session: u128::MAX },
        Question::Change(Change::CreateBucket { bucket: bucket.clone() }),
        Question::Change(Change::Rename { bucket: bucket.clone(), from: key.clone(), to_bucket: bucket.clone(), to: key.clone(), if_absent: true }),
        Question::Change(Change::SetMetadata { bucket: bucket.clone(), key: key.clone(), metadata: vec![1; 40] }),
        Question::Change(Change::Collected { site: Some(site.clone()), ids: vec![1, 2, 3] }),
        Question::Once(Once { request: u128::MAX, since_ms: 1 }, Change::Remove { bucket: bucket.clone(), key: key.clone() }),
    ];
    let tells = [Told::Done, Told::Failed { kind: Kind::NotFound, message: "no".into() }, Told::Holders(vec![("edge".into(), "host:1".into())])];
    let mut frames = Vec::new();
    for (n, question) in questions.into_iter().enumerate() {
        let mut frame = Vec::new();
        put(&mut frame, n as u64 + 1, &Ask { deadline_ms: 1000, question });
        frames.push(frame);
    }
    for told in tells {
        let mut frame = Vec::new();
        put(&mut frame, 1, &told);
        frames.push(frame);
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_borrows_is_written_like_what_owns() {
        let (bucket, key) = (BucketName::new("data").unwrap(), Key::new("a/b").unwrap());
        let written = |body: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            body(&mut out);
            out
        };
        let ask = |question| written(&|out| put(out, 1, &Ask { deadline_ms: 5, question: &question }));
        let look = |question| written(&|out| put(out, 1, &Ask { deadline_ms: 5, question }));
        assert_eq!(look(Look::Lookup { bucket: &bucket, key: &key }), ask(Question::Lookup { bucket: bucket.clone(), key: key.clone() }));
        assert_eq!(look(Look::Lease { bucket: &bucket, key: &key }), ask(Question::Lease { bucket: bucket.clone(), key: key.clone() }));
        let sites = [("cloud", "host:1"), ("edge", "")];
        let facts = || Facts { bucket: "data", key: "a/b", id: 1 << 100, epoch: 7, size: 300, checksum: u64::MAX, sites: &sites, persisted: Some("objects/x".into()), created_ms: 9 };
        let meta = || Meta {
            bucket: "data".into(),
            key: "a/b".into(),
            id: 1 << 100,
            epoch: 7,
            size: 300,
            checksum: u64::MAX,
            sites: sites.iter().map(|(site, address)| (site.to_string(), address.to_string())).collect(),
            persisted: Some("objects/x".into()),
            created_ms: 9,
        };
        let told = |told: Told| written(&|out| put(out, 1, &told));
        let seen = |seen: Seen| written(&|out| put(out, 1, &seen));
        assert_eq!(seen(Seen::Object(facts())), told(Told::Object(meta())));
        let term_ms = Some(5000);
        assert_eq!(seen(Seen::Leased { object: facts(), term_ms }), told(Told::Leased { object: meta(), term_ms }));
    }
}
