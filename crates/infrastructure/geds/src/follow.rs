//! Reading at any node what still grows at one of them.
//!
//! ```text
//! grows here? ─▶ that one │ else it is looked for (`seek.rs`): sealed ─▶ an object like any other │ a site has it
//! each read ─▶ the site that has it: bytes up to the committed length │ "it became this object" ─▶ that one, from wherever it lies
//! it fails ─▶ looked for anew, with all who follow the same here, until the reader's wait is over
//! ```
//!
//! The catalog knows nothing of what grows, so that an append costs no message. Who reads has its id from the first answer on: what later has the same key is never taken for it. What a growing one
//! became is known to its site alone, and not for ever: when that has forgotten it, who still follows is told so and may begin anew.

use crate::{
    BucketName, Error, Found, Holder, Key, Node, Object, ObjectId, ObjectMeta, PeerClient, Result, Searches, Seeker,
    append::Grew,
    deadline::Deadline,
    node::{Inner, joined},
    peer::GROWN_MAX,
    seek::{gone, seek},
};
use base::{Kind, identity::Dialer, pace::pause_by_chance};
use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;

/// The longest that a site is asked to wait for growth at once.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// The pause after the second failure in a row of one read, and the longest: the first one may be that the site was started anew.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How long who begins to follow waits behind a search that could not tell where it is.
const BEGIN_WAIT: Duration = Duration::from_secs(6);

/// What a read of something that may grow has found.
#[derive(Clone, Debug)]
pub struct Grown {
    /// Fewer than were wanted at the committed end, or because at most 4 MiB come at once.
    pub bytes: Bytes,
    /// Committed bytes by then.
    pub len: u64,
    /// It is an ordinary object by now: nothing more comes.
    pub sealed: bool,
}

enum Where {
    Here(ObjectId),
    There { holder: Holder, id: ObjectId, client: Option<PeerClient> },
    /// It is sealed, and on its way here: a task of its own, since a reader's wait may be over before.
    Comes { id: ObjectId, opening: JoinHandle<Result<Object>> },
    /// It grew when somebody knew last where it is.
    Astray(ObjectId),
    Sealed(Object),
}

impl Where {
    /// What it is known by, and whether that still grows, as far as it is known.
    fn id(&self) -> (ObjectId, bool) {
        match self {
            Where::Here(id) | Where::There { id, .. } | Where::Comes { id, .. } | Where::Astray(id) => (*id, true),
            Where::Sealed(object) => (object.meta().id, false),
        }
    }
}

struct At {
    place: Where,
    /// Committed bytes, as was said last.
    len: u64,
}

/// A reader of an appendable object, wherever it grows. Goes on when its head is spilled and when it is sealed. Its reads come one after another.
pub struct Follower {
    inner: Arc<Inner>,
    bucket: BucketName,
    key: Key,
    at: tokio::sync::Mutex<At>,
}

impl Node {
    /// Opens for reading what grows under this key at any node, or was sealed under it.
    pub async fn follow(&self, bucket: &BucketName, key: &Key) -> Result<Follower> {
        let place = match self.inner.locate(bucket, key, None, Instant::now() + BEGIN_WAIT).await? {
            // Whatever has the key now: nobody knows this follower by an id yet.
            Place::Found(Found::Sealed(_)) => Where::Sealed(self.open_object(bucket, key).await?),
            place => self.inner.to(bucket, key, None, place),
        };
        Ok(Follower { inner: self.inner.clone(), bucket: bucket.clone(), key: key.clone(), at: At { place, len: 0 }.into() })
    }
}

impl Follower {
    pub fn bucket(&self) -> &BucketName {
        &self.bucket
    }
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Bytes from `offset` on, at most `len` and 4 MiB. Where there are none yet, waits for the first of them, at most so long; then, or at the end of what is sealed, none come.
    ///
    /// While nobody says where it is, or what there is of it, that is tried again for as long as the wait; then the error says who was away.
    pub async fn read(&self, offset: u64, len: u64, wait: Duration) -> Result<Grown> {
        let deadline = Deadline::after(wait);
        let mut last = None;
        // Another read may be under way, or a site silent: neither is waited for longer than this one may take.
        let read = tokio::time::timeout_at(deadline.limit().into(), self.read_until(offset, len, &deadline, &mut last)).await;
        if let Ok(read) = read {
            return read;
        }
        let why = match self.at.try_lock().as_deref() {
            // What it is by now is known, and comes.
            Ok(At { place: Where::Comes { .. }, len }) => return Ok(Grown { bytes: Bytes::new(), len: *len, sealed: false }),
            Ok(At { place: Where::There { holder, .. }, .. }) => format!("site {} does not say what there is of it", holder.site),
            Ok(_) => "nobody says where it is".into(),
            Err(_) => "another read by the same follower is under way".into(),
        };
        let tried = match last {
            Some(error) => format!("{why}; before that: {error}"),
            None => why,
        };
        Err(Error::Unreachable { bucket: self.bucket.to_string(), key: self.key.to_string(), tried })
    }

    /// `last`: what went wrong last.
    async fn read_until(&self, offset: u64, len: u64, deadline: &Deadline, last: &mut Option<Error>) -> Result<Grown> {
        let mut at = self.at.lock().await;
        let mut failures = 0;
        loop {
            let rest = deadline.rest();
            let failed = match self.ask(&mut at, offset, len.min(GROWN_MAX), rest.min(WAIT_MAX)).await {
                Ok(Some(grown)) if grown.bytes.is_empty() && !grown.sealed && len > 0 && !rest.is_zero() => continue,
                Ok(Some(grown)) => return Ok(grown),
                // It was sealed between two answers; `at` has that by now.
                Ok(None) => continue,
                Err(e) => e,
            };
            let (id, true) = at.place.id() else { return Err(failed) };
            if !(failed.is_away() || failed.kind() == Kind::NotFound) {
                return Err(failed);
            }
            // The first look is at once, and made in any case: its site may have been started anew, or be another one by now.
            if failures > 0 {
                if rest.is_zero() {
                    return Err(failed);
                }
                tokio::time::sleep(pause_by_chance(failures - 1, PAUSE, PAUSE_MAX).min(rest)).await;
            }
            failures += 1;
            *last = Some(failed);
            match self.inner.locate(&self.bucket, &self.key, Some(id), deadline.ask()).await {
                Ok(place) => at.place = self.inner.to(&self.bucket, &self.key, Some(id), place),
                Err(e) if e.is_away() && !deadline.rest().is_zero() => *last = Some(e),
                Err(e) => return Err(e),
            }
        }
    }

    /// Committed bytes, and whether it is sealed.
    pub async fn len(&self) -> Result<(u64, bool)> {
        let grown = self.read(0, 0, Duration::ZERO).await?;
        Ok((grown.len, grown.sealed))
    }

    /// What it reads is known by this, and whether that still grows.
    pub(crate) async fn id(&self) -> (ObjectId, bool) {
        self.at.lock().await.place.id()
    }

    /// One try. `None`: it has become an object, which `at` is now, or awaits.
    async fn ask(&self, at: &mut At, offset: u64, len: u64, wait: Duration) -> Result<Option<Grown>> {
        let answer = match &mut at.place {
            Where::Sealed(object) => {
                let size = object.len();
                let past = || Error::PastEnd { bucket: self.bucket.to_string(), key: self.key.to_string(), offset, size };
                let n = size.checked_sub(offset).ok_or_else(past)?.min(len);
                let bytes = Bytes::from_owner(object.clone()).slice(offset as usize..(offset + n) as usize);
                return Ok(Some(Grown { bytes, len: size, sealed: true }));
            }
            Where::Comes { id, opening } => {
                let opened = joined((&mut *opening).await).and_then(|opened| opened);
                at.place = Where::Astray(*id);
                at.place = Where::Sealed(opened?);
                return Ok(None);
            }
            Where::Astray(_) => return Err(Error::Unreachable { bucket: self.bucket.to_string(), key: self.key.to_string(), tried: "its site is not known just now".into() }),
            Where::Here(id) => self.inner.grown(&self.bucket, &self.key, Some(*id), offset, len, wait).await?,
            Where::There { holder, id, client } => {
                let mut asked = match client.take() {
                    Some(client) => client,
                    None => PeerClient::dial(&self.inner.dialer, &holder.site, &holder.address).await?,
                };
                let answer = asked.grown(&self.bucket, &self.key, Some(*id), offset, len, wait).await;
                // What broke off is dialled anew.
                *client = Some(asked).filter(|_| !matches!(answer, Err(Error::Peer { .. } | Error::Protocol { .. } | Error::Remote { kind: Kind::DeadlineExceeded, .. })));
                answer?
            }
        };
        match answer {
            Grew::To { bytes, len, .. } => {
                at.len = len;
                Ok(Some(Grown { bytes, len, sealed: false }))
            }
            Grew::Into(object) => {
                at.place = self.inner.comes(&self.bucket, &self.key, at.place.id().0, object);
                Ok(None)
            }
        }
    }
}

/// Where a search has ended.
enum Place {
    Here(ObjectId),
    /// It was sealed here as this.
    Became(ObjectId),
    Found(Found),
}

impl Inner {
    /// Where it is now. `of`: that one and what it became, whatever has the key. `end`: see [`seek`].
    async fn locate(self: &Arc<Self>, bucket: &BucketName, key: &Key, of: Option<ObjectId>, end: Instant) -> Result<Place> {
        match self.grown(bucket, key, of, 0, 0, Duration::ZERO).await {
            Ok(Grew::To { id, .. }) => Ok(Place::Here(id)),
            Ok(Grew::Into(id)) => Ok(Place::Became(id)),
            Err(_) => Ok(Place::Found(seek(self, bucket, key, of, end).await?)),
        }
    }

    /// From where it is read. `of`: what it is known by, if it is known already.
    fn to(self: &Arc<Self>, bucket: &BucketName, key: &Key, of: Option<ObjectId>, place: Place) -> Where {
        match place {
            Place::Here(id) => Where::Here(id),
            Place::Found(Found::Grows { holder, id, asked }) => Where::There { holder, id, client: asked.take() },
            Place::Became(object) => self.comes(bucket, key, of.unwrap_or(object), object),
            Place::Found(Found::Sealed(meta)) => self.comes(bucket, key, of.unwrap_or(meta.id), meta.id),
        }
    }

    /// Fetches what a growing one was sealed as.
    fn comes(self: &Arc<Self>, bucket: &BucketName, key: &Key, id: ObjectId, object: ObjectId) -> Where {
        let (inner, bucket, key) = (self.clone(), bucket.clone(), key.clone());
        let opening = tokio::spawn(async move {
            let meta = inner.catalog.find(object).await?.ok_or_else(|| gone(&bucket, &key))?;
            inner.open(&meta).await
        });
        Where::Comes { id, opening }
    }
}

impl Seeker for Inner {
    fn searches(&self) -> &Searches {
        &self.searches
    }
    fn dialer(&self) -> &Dialer {
        &self.dialer
    }
    fn sites(&self) -> BoxFuture<'_, Result<Vec<Holder>>> {
        async { Ok(self.catalog.sites().await?.into_iter().filter(|holder| holder.site != self.site && !holder.address.is_empty()).collect()) }.boxed()
    }
    fn named<'a>(&'a self, bucket: &'a BucketName, key: &'a Key) -> BoxFuture<'a, Result<ObjectMeta>> {
        self.stat(bucket, key).boxed()
    }
    fn find(&self, id: ObjectId) -> BoxFuture<'_, Result<Option<ObjectMeta>>> {
        self.catalog.find(id)
    }
}
