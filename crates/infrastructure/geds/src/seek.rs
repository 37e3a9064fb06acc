//! Finding what grows, or what it became: for a node, and for the hub, which is none.
//!
//! ```text
//! sealed, says the catalog ─▶ that one │ else all sites that are there are asked, once │ nobody has it: no │ some don't say: later again
//! ```
//!
//! The catalog knows nothing of what grows, so a search is a question to each site and two to the catalog. When a site is away, all who follow what it has want to know where that is now, again and again.
//! So they share: one search at a time for the same, whoever wants it here; and behind one that could not tell there is a pause for all of them, twice as long each time, up to [`PAUSE_MAX`].
//!
//! Nothing here reads an object, or keeps what it has found.

use crate::{BucketName, Error, Holder, Key, ObjectId, ObjectMeta, PeerClient, Result, append::Grew};
use base::{Kind, identity::Dialer, pace::pause_by_chance};
use futures::{StreamExt, future::BoxFuture};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// Sites that are asked at a time, and how long one of them.
const ASKED: usize = 16;
const ASKED_MAX: Duration = Duration::from_secs(5);
/// The pause behind a search that could not tell, and the longest.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// What is known of searches that failed: of so many, and so long after their pause.
const KNOWN_MAX: usize = 4096;
const KNOWN_FOR: Duration = Duration::from_secs(60);

/// Who looks for what grows.
pub trait Seeker: Send + Sync + 'static {
    fn searches(&self) -> &Searches;
    fn dialer(&self) -> &Dialer;
    /// The sites that are there, without one's own.
    fn sites(&self) -> BoxFuture<'_, Result<Vec<Holder>>>;
    /// What is sealed under the name.
    fn named<'a>(&'a self, bucket: &'a BucketName, key: &'a Key) -> BoxFuture<'a, Result<ObjectMeta>>;
    /// What has this id and is sealed.
    fn find(&self, id: ObjectId) -> BoxFuture<'_, Result<Option<ObjectMeta>>>;
}

/// Where it is.
#[derive(Clone)]
pub enum Found {
    Grows { holder: Holder, id: ObjectId, asked: Asked },
    Sealed(ObjectMeta),
}

/// The connection over which a site was asked, for the first who goes on with it.
#[derive(Clone, Default)]
pub struct Asked(Arc<Mutex<Option<PeerClient>>>);

impl Asked {
    pub fn take(&self) -> Option<PeerClient> {
        lock(&self.0).take()
    }
}

/// What is looked for: what has the name, or only what had this id while it grew or has it now.
type Wanted = (BucketName, Key, Option<ObjectId>);
/// Of a search that all wait for. `None`: not yet.
type Outcome = Option<Result<Found, Arc<Error>>>;

/// Searches that are under way here, and those that could not tell.
#[derive(Default)]
pub struct Searches(Mutex<HashMap<Wanted, Search>>);

struct Search {
    /// In a row, that could not tell.
    failures: u32,
    state: State,
}

enum State {
    Looks(watch::Receiver<Outcome>),
    Rests { until: Instant, error: Arc<Error> },
}

enum Turn {
    /// Somebody looks, or one begins to with the sender.
    Waits(watch::Receiver<Outcome>, Option<watch::Sender<Outcome>>),
    Rests { until: Instant, error: Arc<Error> },
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section here is a few operations of a map, so a panic elsewhere leaves it whole.
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Searches {
    fn turn(&self, wanted: &Wanted, now: Instant) -> Turn {
        let mut known = lock(&self.0);
        let failures = match known.get(wanted) {
            // What looked and ended without a word ended with its runtime.
            Some(Search { state: State::Looks(looks), failures }) => match looks.has_changed() {
                Ok(_) => return Turn::Waits(looks.clone(), None),
                Err(_) if looks.borrow().is_some() => return Turn::Waits(looks.clone(), None),
                Err(_) => *failures,
            },
            Some(Search { state: State::Rests { until, error }, .. }) if *until > now => return Turn::Rests { until: *until, error: error.clone() },
            Some(search) => search.failures,
            None => 0,
        };
        let (sender, looks) = watch::channel(None);
        if known.len() >= KNOWN_MAX {
            known.retain(|_, search| !matches!(search.state, State::Rests { until, .. } if until + KNOWN_FOR < now));
        }
        // Where there are too many, this one is shared with nobody.
        if known.len() < KNOWN_MAX || known.contains_key(wanted) {
            known.insert(wanted.clone(), Search { failures, state: State::Looks(looks.clone()) });
        }
        Turn::Waits(looks, Some(sender))
    }

    /// Whoever comes after this looks anew, after a pause if this one could not tell.
    fn ended(&self, wanted: &Wanted, outcome: &Result<Found, Arc<Error>>, now: Instant) {
        let mut known = lock(&self.0);
        match (outcome, known.get_mut(wanted)) {
            (Err(error), Some(search)) if error.is_away() => {
                search.state = State::Rests { until: now + pause_by_chance(search.failures, PAUSE, PAUSE_MAX), error: error.clone() };
                search.failures = search.failures.saturating_add(1);
            }
            _ => drop(known.remove(wanted)),
        }
    }
}

/// Finds it; `of`: that one and what it became, whatever has the key. Where it can't be told because somebody is away, says so at `end` at the latest, or with the first search if that is over by then.
pub async fn seek<S: Seeker>(seeker: &Arc<S>, bucket: &BucketName, key: &Key, of: Option<ObjectId>, end: Instant) -> Result<Found> {
    let wanted = (bucket.clone(), key.clone(), of);
    loop {
        let mut looks = match seeker.searches().turn(&wanted, Instant::now()) {
            Turn::Rests { until, error } => {
                tokio::time::sleep_until(until.min(end).into()).await;
                if until >= end {
                    return Err(again(&error));
                }
                continue;
            }
            Turn::Waits(looks, None) => looks,
            Turn::Waits(looks, Some(tell)) => {
                // A task of its own: who wanted it first may stop waiting, and others want it.
                let (seeker, wanted) = (seeker.clone(), wanted.clone());
                tokio::spawn(async move {
                    let outcome = search(&*seeker, &wanted).await.map_err(Arc::new);
                    seeker.searches().ended(&wanted, &outcome, Instant::now());
                    let _ = tell.send(Some(outcome)); // nobody may wait any more
                });
                looks
            }
        };
        let outcome = match looks.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().expect("it was waited for"),
            Err(_) => return Err(Error::Remote { kind: Kind::Unavailable, message: format!("the search for {bucket}/{key} ended early") }),
        };
        return outcome.map_err(|error| again(&error));
    }
}

/// The same error, for each who waited.
fn again(error: &Error) -> Error {
    match error {
        Error::NotFound { bucket, key } => Error::NotFound { bucket: bucket.clone(), key: key.clone() },
        Error::NoBucket { bucket } => Error::NoBucket { bucket: bucket.clone() },
        error => Error::Remote { kind: error.kind(), message: error.to_string() },
    }
}

async fn search<S: Seeker>(seeker: &S, (bucket, key, of): &Wanted) -> Result<Found> {
    let of = *of;
    let by_id = async |id| Ok(Found::Sealed(seeker.find(id).await?.ok_or_else(|| gone(bucket, key))?));
    let sealed = async || match of {
        None => seeker.named(bucket, key).await.map(Found::Sealed),
        Some(id) => by_id(id).await,
    };
    let missing = match sealed().await {
        Err(e) if e.kind() == Kind::NotFound => e,
        found => return found,
    };
    let sites = seeker.sites().await?;
    let mut asked = futures::stream::iter(sites.into_iter().map(|holder| async move {
        let asked = async {
            let mut client = PeerClient::dial(seeker.dialer(), &holder.site, &holder.address).await?;
            Ok::<_, Error>((client.grown(bucket, key, of, 0, 0, Duration::ZERO).await?, client))
        };
        let silent = |_| Error::Remote { kind: Kind::DeadlineExceeded, message: format!("it has not answered for {} s", ASKED_MAX.as_secs()) };
        let answer = tokio::time::timeout(ASKED_MAX, asked).await.map_err(silent).and_then(|answer| answer);
        (answer, holder)
    }))
    .buffer_unordered(ASKED);
    let mut away = Vec::new();
    while let Some((answer, holder)) = asked.next().await {
        match answer {
            Ok((Grew::To { id, .. }, client)) => return Ok(Found::Grows { holder, id, asked: Asked(Arc::new(Mutex::new(Some(client)))) }),
            Ok((Grew::Into(id), _)) if of.is_some() => return by_id(id).await,
            // Nobody said which one was meant.
            Ok((Grew::Into(_), _)) => {}
            Err(e) if e.kind() == Kind::NotFound => {}
            Err(e) => away.push(format!("site {}: {e}", holder.site)),
        }
    }
    drop(asked);
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

/// What was followed is no more, or nobody knows what it became: what has the key now may be another one.
pub fn gone(bucket: &BucketName, key: &Key) -> Error {
    let message = format!("what was followed under {bucket}/{key} is gone, or its site has been started anew since it was sealed; what has the key now may be another object: open it again to read that");
    Error::Remote { kind: Kind::NotFound, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_looks_and_behind_one_that_could_not_tell_all_pause() {
        let searches = Searches::default();
        let wanted: Wanted = (BucketName::new("b").unwrap(), Key::new("k").unwrap(), None);
        let begins = |now| match searches.turn(&wanted, now) {
            Turn::Waits(_, begun) => begun,
            Turn::Rests { .. } => None,
        };
        let rests = |now| match searches.turn(&wanted, now) {
            Turn::Rests { until, .. } => until - now,
            Turn::Waits(..) => Duration::ZERO,
        };
        let away = || Err(Arc::new(Error::Unreachable { bucket: "b".into(), key: "k".into(), tried: "site a is away".into() }));
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let looks = begins(now).expect("somebody looks");
            assert!(begins(now).is_none(), "one at a time");
            searches.ended(&wanted, &away(), now);
            drop(looks);
            assert!(begins(now).is_none(), "it rests");
            let pause = rests(now);
            pauses.push(pause);
            now += pause;
        }
        assert!(pauses.windows(2).all(|two| two[1] >= two[0] || two[1] >= PAUSE_MAX / 2), "{pauses:?}");
        assert!(pauses[0] <= PAUSE && pauses[7] >= PAUSE_MAX / 2 && pauses[7] <= PAUSE_MAX, "{pauses:?}");
        // What can be told is not kept, and what went without a word is done again.
        let looks = begins(now).unwrap();
        searches.ended(&wanted, &Err(Arc::new(Error::NotFound { bucket: "b".into(), key: "k".into() })), now);
        drop(looks);
        drop(begins(now).expect("nothing is known of it"));
        assert!(begins(now).is_some());
        assert_eq!(lock(&searches.0).len(), 1);
    }
}
