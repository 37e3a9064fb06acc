//! Following what grows at a site, for who has no node: bytes go out as they are appended, until it is sealed or nobody wants them any more.
//!
//! ```text
//! sealed, says the catalog ─▶ its bytes, and the end │ else all connected sites are asked, once, for what grows
//! each turn ─▶ the site: bytes up to the committed length │ none for 5 s: again │ "it became this object" ─▶ the rest of that, and the end
//! ```
//!
//! It is known by an id, that of what grows or of what is sealed, which goes out with the first answer. Who comes back with it reads on in that one, or is told that it is gone; what has the
//! key by then is never taken for it.
//!
//! One that is not reached for a minute ends the stream with an error, so that its reader can't take that for the end. The hub keeps at most one answer of each, a megabyte.

use super::{Download, Store};
use crate::{Error, hub::Hub};
use base::Kind;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use geds::{BucketName, Grew, Key, ObjectId, ObjectMeta, PeerClient, Range};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, watch};

/// Streams at a time.
pub const FOLLOWED_MAX: usize = 64;
/// What is asked for at once, and how long a site waits for the first of it.
const BYTES: u64 = 1 << 20;
const WAIT: Duration = Duration::from_secs(5);
/// How long what grows may be out of reach, and the pause between two tries.
const AWAY_MAX: Duration = Duration::from_secs(60);
const AWAY_PAUSE: Duration = Duration::from_millis(500);
/// Sites that are asked at a time.
const ASKED: usize = 16;

enum Where {
    Grows { store: Store, id: ObjectId, client: Option<PeerClient> },
    Sealed(ObjectMeta),
}

impl Where {
    fn id(&self) -> ObjectId {
        match self {
            Where::Grows { id, .. } => *id,
            Where::Sealed(meta) => meta.id,
        }
    }
}

struct Following {
    hub: Arc<Hub>,
    bucket: BucketName,
    key: Key,
    at: Where,
    offset: u64,
    /// The rest of what is sealed.
    rest: Option<Download>,
    /// Since when it is out of reach.
    away: Option<Instant>,
    stop: watch::Receiver<bool>,
    _turn: OwnedSemaphorePermit,
}

fn again(e: &geds::Error) -> bool {
    matches!(e.kind(), Kind::Unavailable | Kind::DeadlineExceeded | Kind::NotFound)
}

impl Hub {
    /// Bytes from `offset` on of what grows under the key, or was sealed under it, as they come; and by what it is known. `of`: that one and what it became, whatever has the key.
    pub async fn follow_object(self: &Arc<Self>, bucket: &str, key: &str, offset: u64, of: Option<ObjectId>) -> Result<(ObjectId, Download), Error> {
        let (bucket, key) = (BucketName::new(bucket)?, Key::new(key)?);
        let full = |_| Error::new(Kind::ResourceExhausted, format!("{FOLLOWED_MAX} objects are followed at this hub already; end some before {bucket}/{key}"));
        let turn = self.objects.followed.clone().try_acquire_owned().map_err(full)?;
        let at = self.locate(&bucket, &key, of).await?;
        let id = at.id();
        if let Where::Sealed(meta) = &at
            && offset > meta.size
        {
            return Err(geds::Error::PastEnd { bucket: bucket.to_string(), key: key.to_string(), offset, size: meta.size }.into());
        }
        let following = Following { hub: self.clone(), bucket, key, at, offset, rest: None, away: None, stop: self.stop.subscribe(), _turn: turn };
        let pieces = stream::try_unfold(Some(following), |following| async move {
            let Some(mut following) = following else { return Ok(None) };
            Ok(following.next().await?.map(|bytes| (bytes, Some(following))))
        });
        Ok((id, pieces.boxed()))
    }

    /// Where it is now.
    async fn locate(&self, bucket: &BucketName, key: &Key, of: Option<ObjectId>) -> Result<Where, Error> {
        let sealed = async || match of {
            None => self.stat_object(bucket.as_str(), key.as_str()).await,
            // Of an object that is sealed already.
            Some(id) => Ok(self.objects.catalog.find(id).await?.ok_or_else(|| geds::gone(bucket, key))?),
        };
        let missing = match sealed().await {
            Err(e) if e.kind == Kind::NotFound => e,
            found => return found.map(Where::Sealed),
        };
        let stores = self.stores().await;
        let mut asked = stream::iter(stores.into_iter().map(|store| async move {
            let answer = async {
                let mut client = self.dial(&store).await?;
                let grew = client.grown(bucket, key, of, 0, 0, Duration::ZERO).await?;
                Ok::<_, geds::Error>((grew, client))
            };
            (answer.await, store)
        }))
        .buffer_unordered(ASKED);
        let mut away = Vec::new();
        while let Some((answer, store)) = asked.next().await {
            match answer {
                Ok((Grew::To { id, .. }, client)) => return Ok(Where::Grows { store, id, client: Some(client) }),
                Ok((Grew::Into(id), _)) if of.is_some() => return Ok(Where::Sealed(self.objects.catalog.find(id).await?.ok_or_else(|| geds::gone(bucket, key))?)),
                // Nobody said which one was meant.
                Ok((Grew::Into(_), _)) => {}
                Err(e) if e.kind() == Kind::NotFound => {}
                Err(e) => away.push(format!("site {}: {e}", store.site)),
            }
        }
        drop(asked);
        // Sealed while the sites were asked.
        match sealed().await {
            Err(e) if e.kind == Kind::NotFound && away.is_empty() => Err(missing),
            Err(e) if e.kind == Kind::NotFound => {
                Err(Error::new(Kind::Unavailable, format!("object {bucket}/{key} is not sealed, and whether it grows these don't say: {}", away.join("; "))))
            }
            found => found.map(Where::Sealed),
        }
    }

    /// The rest of exactly this object.
    async fn rest_of(&self, meta: &ObjectMeta, offset: u64) -> geds::Result<Download> {
        let mut last = geds::Error::Unreachable { bucket: meta.bucket.to_string(), key: meta.key.to_string(), tried: "no site is connected that has it, or could fetch it".into() };
        for store in self.near(meta, meta.persisted.is_some()).await {
            let got = async { self.dial(&store).await?.get_stream(&meta.bucket, &meta.key, Range { offset, len: u64::MAX }).await };
            match got.await {
                Ok((found, _, bytes)) if found.id == meta.id => return Ok(bytes),
                Ok((found, ..)) => {
                    return Err(geds::Error::Stale { bucket: meta.bucket.to_string(), key: meta.key.to_string(), epoch: meta.epoch, current: found.epoch });
                }
                Err(e) => last = e,
            }
        }
        Err(last)
    }
}

impl Following {
    /// The next bytes; `None`: it is sealed, and that was all.
    async fn next(&mut self) -> geds::Result<Option<Bytes>> {
        loop {
            if let Some(rest) = &mut self.rest {
                match rest.try_next().await {
                    Ok(Some(bytes)) => {
                        self.offset += bytes.len() as u64;
                        return Ok(Some(bytes));
                    }
                    Ok(None) => return Ok(None),
                    Err(e) => {
                        self.rest = None;
                        self.pause(e).await?;
                        continue;
                    }
                }
            }
            let mut stop = self.stop.clone();
            let asked = tokio::select! {
                asked = self.ask() => asked,
                _ = stop.wait_for(|stop| *stop) => return Err(geds::Error::Remote { kind: Kind::Unavailable, message: "the hub is being stopped; go on from the last byte".into() }),
            };
            match asked {
                Ok(Some(bytes)) if bytes.is_empty() => self.away = None,
                Ok(Some(bytes)) => {
                    self.away = None;
                    self.offset += bytes.len() as u64;
                    return Ok(Some(bytes));
                }
                Ok(None) => return Ok(None),
                Err(e) => self.pause(e).await?,
            }
        }
    }

    /// Bytes, or none yet; `None`: there are no more.
    async fn ask(&mut self) -> geds::Result<Option<Bytes>> {
        let answer = match &mut self.at {
            Where::Sealed(meta) if self.offset == meta.size => return Ok(None),
            Where::Sealed(meta) if self.offset > meta.size => {
                return Err(geds::Error::PastEnd { bucket: meta.bucket.to_string(), key: meta.key.to_string(), offset: self.offset, size: meta.size });
            }
            Where::Sealed(meta) => {
                self.rest = Some(self.hub.rest_of(meta, self.offset).await?);
                return Ok(Some(Bytes::new()));
            }
            Where::Grows { store, id, client } => {
                let mut asked = match client.take() {
                    Some(client) => client,
                    None => self.hub.dial(store).await?,
                };
                let answer = asked.grown(&self.bucket, &self.key, Some(*id), self.offset, BYTES, WAIT).await?;
                *client = Some(asked);
                answer
            }
        };
        match answer {
            Grew::To { bytes, .. } => Ok(Some(bytes)),
            Grew::Into(id) => {
                self.at = Where::Sealed(self.hub.objects.catalog.find(id).await?.ok_or_else(|| geds::gone(&self.bucket, &self.key))?);
                Ok(Some(Bytes::new()))
            }
        }
    }

    /// After a failure: a look where it is by now, unless that is hopeless.
    async fn pause(&mut self, error: geds::Error) -> geds::Result<()> {
        if !again(&error) || self.away.get_or_insert_with(Instant::now).elapsed() > AWAY_MAX {
            return Err(error);
        }
        tokio::time::sleep(AWAY_PAUSE).await;
        match self.hub.locate(&self.bucket, &self.key, Some(self.at.id())).await {
            Ok(now) => {
                self.at = now;
                Ok(())
            }
            // Nobody has it; while sites are away, that says nothing.
            Err(e) if e.kind == Kind::NotFound => Err(geds::gone(&self.bucket, &self.key)),
            Err(_) => Ok(()),
        }
    }
}
