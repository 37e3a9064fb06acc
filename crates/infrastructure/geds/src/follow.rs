//! Reading at any node what still grows at one of them.
//!
//! ```text
//! grows here? ─▶ that one │ sealed, says the catalog ─▶ an object like any other │ else all sites that are there are asked, once
//! each read ─▶ the site that has it: bytes up to the committed length │ "it became this object" ─▶ that one, from wherever it lies
//! ```
//!
//! The catalog knows nothing of what grows, so that an append costs no message. Who reads has its id from the first answer on: what later has the same key is never taken for it. What a growing one
//! became is known to its site alone, and not for ever: when that has forgotten it, who still follows is told so and may begin anew.

use crate::{
    BucketName, Error, Holder, Key, Node, Object, ObjectId, PeerClient, Result,
    append::Grew,
    node::Inner,
    peer::GROWN_MAX,
};
use base::Kind;
use bytes::Bytes;
use futures::StreamExt;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// The longest that a site is asked to wait for growth at once.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Sites that are asked at a time.
const ASKED: usize = 16;
/// How often a read looks for the object anew, because its site has let go of it or is gone.
const TRIES: u32 = 3;

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
    Sealed(Object),
}

impl Where {
    fn growing(&self) -> Option<ObjectId> {
        match self {
            Where::Here(id) | Where::There { id, .. } => Some(*id),
            Where::Sealed(_) => None,
        }
    }
}

/// A reader of an appendable object, wherever it grows. Goes on when its head is spilled and when it is sealed. Its reads come one after another.
pub struct Follower {
    inner: Arc<Inner>,
    bucket: BucketName,
    key: Key,
    at: tokio::sync::Mutex<Where>,
}

impl Node {
    /// Opens for reading what grows under this key at any node, or was sealed under it.
    pub async fn follow(&self, bucket: &BucketName, key: &Key) -> Result<Follower> {
        let at = self.inner.locate(bucket, key, None).await?;
        Ok(Follower { inner: self.inner.clone(), bucket: bucket.clone(), key: key.clone(), at: at.into() })
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
    pub async fn read(&self, offset: u64, len: u64, wait: Duration) -> Result<Grown> {
        let end = Instant::now() + wait;
        let mut at = self.at.lock().await;
        let mut tries = 0;
        loop {
            let rest = end.saturating_duration_since(Instant::now());
            let failed = match self.ask(&mut at, offset, len.min(GROWN_MAX), rest.min(WAIT_MAX)).await {
                Ok(Some(grown)) if grown.bytes.is_empty() && !grown.sealed && len > 0 && !rest.is_zero() => continue,
                Ok(Some(grown)) => return Ok(grown),
                // It was sealed between two answers; `at` has that by now.
                Ok(None) => continue,
                Err(e) => e,
            };
            tries += 1;
            if tries == TRIES || !matches!(failed.kind(), Kind::NotFound | Kind::Unavailable | Kind::DeadlineExceeded) {
                return Err(failed);
            }
            let Some(id) = at.growing() else { return Err(failed) };
            // Its site has been started anew, or is another one by now.
            *at = self.inner.locate(&self.bucket, &self.key, Some(id)).await?;
        }
    }

    /// Committed bytes, and whether it is sealed.
    pub async fn len(&self) -> Result<(u64, bool)> {
        let grown = self.read(0, 0, Duration::ZERO).await?;
        Ok((grown.len, grown.sealed))
    }

    /// What it reads is known by this, and whether that still grows.
    pub(crate) async fn id(&self) -> (ObjectId, bool) {
        match &*self.at.lock().await {
            Where::Here(id) | Where::There { id, .. } => (*id, true),
            Where::Sealed(object) => (object.meta().id, false),
        }
    }

    /// One try. `None`: it has become an object, which `at` is now.
    async fn ask(&self, at: &mut Where, offset: u64, len: u64, wait: Duration) -> Result<Option<Grown>> {
        let answer = match at {
            Where::Sealed(object) => {
                let size = object.len();
                let past = || Error::PastEnd { bucket: self.bucket.to_string(), key: self.key.to_string(), offset, size };
                let n = size.checked_sub(offset).ok_or_else(past)?.min(len);
                let bytes = Bytes::from_owner(object.clone()).slice(offset as usize..(offset + n) as usize);
                return Ok(Some(Grown { bytes, len: size, sealed: true }));
            }
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
            Grew::To { bytes, len, .. } => Ok(Some(Grown { bytes, len, sealed: false })),
            Grew::Into(id) => {
                *at = self.inner.object(&self.bucket, &self.key, id).await?;
                Ok(None)
            }
        }
    }
}

impl Inner {
    /// Where it is now. `of`: that one and what it became, whatever has the key.
    async fn locate(self: &Arc<Self>, bucket: &BucketName, key: &Key, of: Option<ObjectId>) -> Result<Where> {
        match self.grown(bucket, key, of, 0, 0, Duration::ZERO).await {
            Ok(Grew::To { id, .. }) => return Ok(Where::Here(id)),
            Ok(Grew::Into(id)) => return self.object(bucket, key, id).await,
            Err(_) => {}
        }
        let sealed = async || match of {
            Some(_) => Err(gone(bucket, key)),
            None => self.sealed_object(bucket, key).await,
        };
        let missing = match sealed().await {
            Err(e) if e.kind() == Kind::NotFound => e,
            found => return found,
        };
        let sites = self.catalog.sites().await?.into_iter().filter(|holder| holder.site != self.site && !holder.address.is_empty());
        let mut asked = futures::stream::iter(sites.map(|holder| async move { (self.grows_at(bucket, key, of, &holder).await, holder) })).buffer_unordered(ASKED);
        let mut away = Vec::new();
        while let Some((answer, holder)) = asked.next().await {
            match answer {
                Ok((Grew::To { id, .. }, client)) => return Ok(Where::There { holder, id, client: Some(client) }),
                Ok((Grew::Into(id), _)) if of.is_some() => return self.object(bucket, key, id).await,
                // Nobody said which one was meant.
                Ok((Grew::Into(_), _)) => {}
                Err(e) if e.kind() == Kind::NotFound => {}
                Err(e) => away.push(format!("site {}: {e}", holder.site)),
            }
        }
        // Sealed while the sites were asked.
        match sealed().await {
            Err(e) if e.kind() == Kind::NotFound && away.is_empty() => Err(missing),
            Err(e) if e.kind() == Kind::NotFound => {
                let tried = format!("it is not sealed, and whether it grows these don't say: {}", away.join("; "));
                Err(Error::Unreachable { bucket: bucket.to_string(), key: key.to_string(), tried })
            }
            found => found,
        }
    }

    async fn sealed_object(self: &Arc<Self>, bucket: &BucketName, key: &Key) -> Result<Where> {
        let node = Node { inner: self.clone() };
        Ok(Where::Sealed(node.open_object(bucket, key).await?))
    }

    /// What a growing one was sealed as.
    async fn object(self: &Arc<Self>, bucket: &BucketName, key: &Key, id: ObjectId) -> Result<Where> {
        let meta = self.catalog.find(id).await?.ok_or_else(|| gone(bucket, key))?;
        Ok(Where::Sealed(self.open(&meta).await?))
    }

    async fn grows_at(&self, bucket: &BucketName, key: &Key, of: Option<ObjectId>, holder: &Holder) -> Result<(Grew, PeerClient)> {
        let mut client = PeerClient::dial(&self.dialer, &holder.site, &holder.address).await?;
        Ok((client.grown(bucket, key, of, 0, 0, Duration::ZERO).await?, client))
    }
}

/// What was followed is no more, or nobody knows what it became: what has the key now may be another one.
pub fn gone(bucket: &BucketName, key: &Key) -> Error {
    let message = format!("what was followed under {bucket}/{key} is gone, or its site has been started anew since it was sealed; what has the key now may be another object: open it again to read that");
    Error::Remote { kind: Kind::NotFound, message }
}
