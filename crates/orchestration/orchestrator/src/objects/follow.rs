//! Following what grows at a site, for who has no node: bytes go out as they are appended, until it is sealed or nobody wants them any more.
//!
//! ```text
//! where is it? (`geds::seek`) ─▶ sealed: its bytes, and the end │ it grows at a site
//! each turn ─▶ the site: bytes up to the committed length │ none for 5 s: again │ "it became this object" ─▶ the rest of that, and the end
//! ```
//!
//! It is known by an id, that of what grows or of what is sealed, which goes out with the first answer. Who comes back with it reads on in that one, or is told that it is gone; what has the
//! key by then is never taken for it.
//!
//! One that is not reached for a minute ends the stream with an error, so that its reader can't take that for the end. The hub keeps at most two answers of each, half a megabyte each.
//!
//! There are only so many places ([`Places`]), so nobody keeps one who doesn't use it: a reader that takes nothing for a minute of what is there for it loses its place with an error, one whose connection ends at
//! once, and one whose machine is gone when the kernel has found that out (`base::net`).

use super::{Download, Store};
use crate::{Error, hub::Hub};
use base::{Kind, identity::Dialer, pace::pause_by_chance};
use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt, TryStreamExt, future::BoxFuture, stream};
use geds::{BucketName, Found, Grew, Holder, Key, ObjectId, ObjectMeta, PeerClient, Range, Searches, Seeker, gone, seek};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, watch};

/// Streams at a time, of all buckets.
pub const FOLLOWED_MAX: usize = 128;
/// What is asked for at once, and how long a site waits for the first of it.
const BYTES: u64 = 512 << 10;
const WAIT: Duration = Duration::from_secs(5);
/// How long a reader may take nothing of what is there for it.
const UNTAKEN_MAX: Duration = Duration::from_secs(60);
/// How long what grows may be out of reach; the first pause between two tries, and the longest.
const AWAY_MAX: Duration = Duration::from_secs(60);
const AWAY_PAUSE: Duration = Duration::from_millis(250);
const AWAY_PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long who begins to follow waits behind a search that could not tell.
const BEGIN_WAIT: Duration = Duration::from_secs(6);

/// The places of those who follow, by bucket. A bucket may have as many as it leaves free: one alone half of them, a second one half of the rest. So whatever one does, another one finds a place.
#[derive(Default)]
pub struct Places(Mutex<HashMap<BucketName, usize>>);

impl Places {
    fn taken(&self) -> MutexGuard<'_, HashMap<BucketName, usize>> {
        // A few operations of a map, so a panic elsewhere leaves it whole.
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn take(self: &Arc<Self>, bucket: &BucketName, key: &Key) -> Result<Place, Error> {
        let mut taken = self.taken();
        let (own, free) = (taken.get(bucket).copied().unwrap_or(0), FOLLOWED_MAX - taken.values().sum::<usize>());
        if own >= free {
            let message = format!("{own} objects of bucket {bucket} are followed at this hub already, and of {FOLLOWED_MAX} places {free} are left, for other buckets; end some before {bucket}/{key}");
            return Err(Error::new(Kind::ResourceExhausted, message));
        }
        taken.insert(bucket.clone(), own + 1);
        Ok(Place { places: self.clone(), bucket: bucket.clone() })
    }
}

/// One of them.
struct Place {
    places: Arc<Places>,
    bucket: BucketName,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        if let Some(own) = taken.get_mut(&self.bucket) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.bucket);
            }
        }
    }
}

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

impl From<Found> for Where {
    fn from(found: Found) -> Where {
        match found {
            Found::Grows { holder, id, asked } => Where::Grows { store: Store { site: holder.site, address: holder.address }, id, client: asked.take() },
            Found::Sealed(meta) => Where::Sealed(meta),
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
    /// Since when it is out of reach, and failures since then.
    away: Option<Instant>,
    failures: u32,
    stop: watch::Receiver<bool>,
}

fn again(e: &geds::Error) -> bool {
    matches!(e.kind(), Kind::Unavailable | Kind::DeadlineExceeded | Kind::NotFound)
}

impl Hub {
    /// Bytes from `offset` on of what grows under the key, or was sealed under it, as they come; and by what it is known. `of`: that one and what it became, whatever has the key.
    pub async fn follow_object(self: &Arc<Self>, bucket: &str, key: &str, offset: u64, of: Option<ObjectId>) -> Result<(ObjectId, Download), Error> {
        let (bucket, key) = (BucketName::new(bucket)?, Key::new(key)?);
        let place = self.objects.followed.take(&bucket, &key)?;
        let at = Where::from(seek(self, &bucket, &key, of, Instant::now() + BEGIN_WAIT).await?);
        let id = at.id();
        if let Where::Sealed(meta) = &at
            && offset > meta.size
        {
            return Err(geds::Error::PastEnd { bucket: bucket.to_string(), key: key.to_string(), offset, size: meta.size }.into());
        }
        let reader = format!("the reader of {bucket}/{key}");
        let following = Following { hub: self.clone(), bucket, key, at, offset, rest: None, away: None, failures: 0, stop: self.stop.subscribe() };
        let pieces = stream::try_unfold(following, |mut following| async move { Ok(following.next().await?.map(|bytes| (bytes, following))) });
        Ok((id, handed_on(pieces, reader, UNTAKEN_MAX, place)))
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

impl Seeker for Hub {
    fn searches(&self) -> &Searches {
        &self.objects.searches
    }
    fn dialer(&self) -> &Dialer {
        &self.objects.dialer
    }
    fn sites(&self) -> BoxFuture<'_, geds::Result<Vec<Holder>>> {
        async { Ok(self.stores().await.into_iter().map(|store| Holder { site: store.site, address: store.address }).collect()) }.boxed()
    }
    fn named<'a>(&'a self, bucket: &'a BucketName, key: &'a Key) -> BoxFuture<'a, geds::Result<ObjectMeta>> {
        let remote = |e: Error| geds::Error::Remote { kind: e.kind, message: e.to_string() };
        async move { self.stat_object(bucket.as_str(), key.as_str()).await.map_err(remote) }.boxed()
    }
    fn find(&self, id: ObjectId) -> BoxFuture<'_, geds::Result<Option<ObjectMeta>>> {
        self.objects.catalog.find(id)
    }
}

/// Pieces as their reader takes them, whom they run ahead of by one. The place is given back when they end, when their reader is gone, and when it has taken nothing for so long of what is there.
fn handed_on(pieces: impl Stream<Item = geds::Result<Bytes>> + Send + 'static, reader: String, untaken_max: Duration, place: impl Send + 'static) -> Download {
    let (to, taken) = mpsc::channel(1);
    let handing = tokio::spawn(async move {
        let _place = place;
        let mut pieces = std::pin::pin!(pieces);
        loop {
            let piece = tokio::select! {
                piece = pieces.next() => piece,
                // Who is gone wants to hear of no error either.
                () = to.closed() => return Ok(()),
            };
            let Some(piece) = piece.transpose()? else { return Ok(()) };
            match tokio::time::timeout(untaken_max, to.send(piece)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Ok(()),
                Err(_) => {
                    let message = format!("{reader} has taken nothing for {} s; go on from the last byte", untaken_max.as_secs_f64());
                    tracing::info!("{message}");
                    return Err(geds::Error::Remote { kind: Kind::DeadlineExceeded, message });
                }
            }
        }
    });
    let pieces = stream::try_unfold((taken, Some(handing)), |(mut taken, handing)| async move {
        if let Some(piece) = taken.recv().await {
            return Ok(Some((piece, (taken, handing))));
        }
        let Some(handing) = handing else { return Ok(None) };
        let ended = handing.await.unwrap_or_else(|e| Err(geds::Error::Remote { kind: Kind::Internal, message: format!("a task of the hub ended early: {e}") }));
        ended.map(|()| None)
    });
    pieces.boxed()
}

impl Following {
    /// The next bytes; `None`: it is sealed, and that was all.
    async fn next(&mut self) -> geds::Result<Option<Bytes>> {
        loop {
            if let Some(rest) = &mut self.rest {
                match rest.try_next().await {
                    Ok(Some(bytes)) => {
                        self.came(bytes.len());
                        return Ok(Some(bytes));
                    }
                    Ok(None) => return Ok(None),
                    Err(e) => {
                        self.rest = None;
                        self.look(e).await?;
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
                Ok(Some(bytes)) => {
                    self.came(bytes.len());
                    if !bytes.is_empty() {
                        return Ok(Some(bytes));
                    }
                }
                Ok(None) => return Ok(None),
                Err(e) => self.look(e).await?,
            }
        }
    }

    fn came(&mut self, bytes: usize) {
        self.offset += bytes as u64;
        (self.away, self.failures) = (None, 0);
    }

    /// Bytes, or none yet; `None`: there are no more.
    async fn ask(&mut self) -> geds::Result<Option<Bytes>> {
        let answer = match &mut self.at {
            Where::Sealed(meta) if self.offset == meta.size => return Ok(None),
            Where::Sealed(meta) if self.offset > meta.size => {
                return Err(geds::Error::PastEnd { bucket: meta.bucket.to_string(), key: meta.key.to_string(), offset: self.offset, size: meta.size });
            }
            Where::Sealed(meta) => {
                let mut rest = self.hub.rest_of(meta, self.offset).await?;
                let first = rest.try_next().await?;
                self.rest = Some(rest);
                return Ok(first);
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
                self.at = Where::Sealed(self.hub.objects.catalog.find(id).await?.ok_or_else(|| gone(&self.bucket, &self.key))?);
                Ok(Some(Bytes::new()))
            }
        }
    }

    /// After a failure: looks where it is by now, with all who follow the same, unless that is hopeless.
    async fn look(&mut self, error: geds::Error) -> geds::Result<()> {
        if !again(&error) {
            return Err(error);
        }
        let end = *self.away.get_or_insert_with(Instant::now) + AWAY_MAX;
        let mut last = error;
        while Instant::now() < end {
            tokio::time::sleep(pause_by_chance(self.failures, AWAY_PAUSE, AWAY_PAUSE_MAX)).await;
            self.failures += 1;
            match seek(&self.hub, &self.bucket, &self.key, Some(self.at.id()), end).await {
                Ok(found) => {
                    self.at = found.into();
                    return Ok(());
                }
                // Nobody has it, and all have said so.
                Err(e) if e.kind() == Kind::NotFound => return Err(gone(&self.bucket, &self.key)),
                Err(e) => last = e,
            }
        }
        Err(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(bucket: &str) -> (BucketName, Key) {
        (BucketName::new(bucket).unwrap(), Key::new("k").unwrap())
    }

    #[test]
    fn no_bucket_takes_the_places_of_all_others() {
        let places = Arc::new(Places::default());
        let fill = |bucket: &str| {
            let (bucket, key) = names(bucket);
            let mut held = Vec::new();
            while let Ok(place) = places.take(&bucket, &key) {
                held.push(place);
            }
            held
        };
        let all = ["one", "two", "three", "four"].map(fill);
        assert_eq!([0, 1, 2, 3].map(|n| all[n].len()), [64, 32, 16, 8]);
        let refused = places.take(&names("one").0, &names("one").1).err().unwrap();
        assert!(refused.kind == Kind::ResourceExhausted && refused.to_string().contains("one/k") && refused.to_string().contains("64 objects"), "{refused}");
        drop(all);
        assert!(places.taken().is_empty());
        assert_eq!(fill("one").len(), 64);
    }

    /// A place that tells whether it is still taken.
    fn place() -> (Arc<()>, impl Fn(&Arc<()>) -> bool) {
        (Arc::new(()), |place: &Arc<()>| Arc::strong_count(place) > 1)
    }

    #[tokio::test]
    async fn who_takes_nothing_loses_its_place_and_hears_why() {
        let endless = || stream::repeat_with(|| geds::Result::Ok(Bytes::from_static(b"x")));
        let (own, taken) = place();
        let mut idle = handed_on(endless(), "the reader of b/k".into(), Duration::from_millis(300), own.clone());
        // As long as it takes some, however slowly, it keeps it.
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_eq!(idle.next().await.unwrap().unwrap(), "x");
            assert!(taken(&own));
        }
        while taken(&own) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // What was handed on is still its own; then it hears that this is not the end.
        let mut rest = Vec::new();
        while let Some(piece) = idle.next().await {
            rest.push(piece);
        }
        let error = rest.pop().unwrap().unwrap_err();
        assert!(error.kind() == Kind::DeadlineExceeded && error.to_string().contains("b/k") && rest.iter().all(Result::is_ok), "{error}");

        // Nothing to take is no fault of its own, and who leaves is gone at once.
        let (own, taken) = place();
        let quiet = handed_on(stream::pending(), String::new(), Duration::from_millis(50), own.clone());
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(taken(&own));
        drop(quiet);
        while taken(&own) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // An end is one, and a failure is none.
        let two = stream::iter([Ok(Bytes::from_static(b"a")), Ok(Bytes::from_static(b"b"))]);
        let all: Vec<_> = handed_on(two, String::new(), Duration::from_secs(9), ()).try_collect().await.unwrap();
        assert_eq!(all, ["a", "b"]);
        let broken = stream::iter([Ok(Bytes::from_static(b"a")), Err(gone(&names("b").0, &names("b").1))]);
        assert_eq!(handed_on(broken, String::new(), Duration::from_secs(9), ()).try_collect::<Vec<_>>().await.unwrap_err().kind(), Kind::NotFound);
    }
}
