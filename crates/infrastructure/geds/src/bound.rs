//! Buckets that are bound to a place in the persistency tier: what others have put there is read here under its own name, without import.
//!
//! ```text
//! open ─▶ the catalog has the key? ─▶ that one
//!     └▶ HEAD <place>/<key> ─▶ is a copy of exactly this content here? ─▶ that one
//!                          └▶ GET, if it is still that content ─▶ kept as a copy, which goes when anybody wants its room
//! ```
//!
//! The store is asked at each open (unless `fresh` says how long its answer is believed), and a content is told by its place, size, entity tag and time: what is written over is another
//! object, with another id and epoch, and a reader keeps what it has open. The catalog knows nothing of these objects: they can't be deleted, renamed or
//! copied here, only be hidden by an object of the same name. A copy is worth nothing after a restart, when nobody can tell what it is of.

use crate::{
    BucketName, Error, Key, Listing, Object, ObjectId, ObjectMeta, Page, Persist, Range, Result, State,
    catalog::{Lease, PAGE_MAX},
    fetch::damaged,
    leases::Ticket,
    local::Local,
    metrics::Source,
    names::Prefix,
    node::{Inner, Tuning, compute},
    peer,
    persist::Found,
    spans,
};
use base::Kind;
use bytes::Bytes;
use futures::stream::BoxStream;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::Ordering::{Relaxed, SeqCst},
    },
    time::{Duration, Instant},
};
use tracing::Instrument;
use xxhash_rust::xxh3::xxh3_128;

/// How often an open starts again because the object was written over while it was fetched.
const OPEN_TRIES: u32 = 3;
/// Where this store keeps what it has spilled; not shown in a bucket that is bound to all of the tier.
const OWN: &str = "objects";
/// The most that [`crate::Node::read_range`] gives at once.
pub const RANGE_BYTES_MAX: u64 = 64 << 20;
/// Names that one look through the store finds: about 10 MB in memory. Of how many listings, and how long.
const NAMES_AHEAD: usize = 50_000;
const LISTINGS_MAX: usize = 4;
const AHEAD_FOR: Duration = Duration::from_secs(60);
/// Epochs of the catalog are below; those of others tell contents apart and don't rise.
const FOREIGN: u64 = 1 << 63;

/// Refuses what is too much at once.
pub(crate) fn check_range(range: Range) -> Result<()> {
    match range.len <= RANGE_BYTES_MAX {
        true => Ok(()),
        false => Err(Error::BadValue { what: "length", value: range.len.to_string(), rule: "read at most 64 MiB at once, or open the object" }),
    }
}

/// The copies that are here of what the catalog doesn't know, by id.
#[derive(Default)]
pub(crate) struct Copies {
    all: Mutex<HashMap<ObjectId, (BucketName, Key)>>,
}

impl Copies {
    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectId, (BucketName, Key)>> {
        // Each use is a single operation of a map, so a panic elsewhere leaves it whole.
        self.all.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// What a listing of the store found behind the page that was asked for.
struct Ahead {
    bucket: BucketName,
    prefix: String,
    /// The last name that was given.
    after: String,
    names: BTreeMap<String, Option<Found>>,
    /// There are others behind these.
    more: bool,
    until: Instant,
}

/// Listings that are likely to go on. Stores differ in the order in which they list, so a page of all that is below a prefix needs the store's listing to its end: it is read once for many pages, which
/// show what was there at the first of them.
#[derive(Default)]
pub(crate) struct Listings {
    /// The oldest first.
    kept: Mutex<VecDeque<Ahead>>,
}

impl Listings {
    fn take(&self, bucket: &BucketName, prefix: &str, after: &str) -> Option<Ahead> {
        let mut kept = self.kept.lock().unwrap_or_else(|e| e.into_inner());
        let now = Instant::now();
        kept.retain(|ahead| now < ahead.until);
        let at = kept.iter().position(|ahead| ahead.bucket == *bucket && ahead.prefix == prefix && ahead.after == after)?;
        kept.remove(at)
    }

    fn keep(&self, ahead: Ahead) {
        let mut kept = self.kept.lock().unwrap_or_else(|e| e.into_inner());
        if kept.len() == LISTINGS_MAX {
            kept.pop_front();
        }
        kept.push_back(ahead);
    }
}

/// Whether a bucket may be bound to a place.
pub(crate) fn check(place: &str) -> Result<()> {
    let own = place == OWN || place.starts_with("objects/");
    let rule = match place.is_empty() || (Key::new(place).is_ok() && !place.contains(|c: char| c.is_ascii_control())) {
        false => "a bucket is bound to a name as keys have them, without '/' at its ends, or to \"\" for all of the persistency tier",
        true if own => "what is below `objects` is this store's own",
        true => return Ok(()),
    };
    Err(Error::BadValue { what: "`bind` in [geds.buckets]", value: place.chars().take(80).collect(), rule })
}

/// That the buckets of a node that are bound have something to be bound to.
pub(crate) fn check_all(tuning: &Tuning, persist: Option<&Persist>) -> Result<Vec<BucketName>> {
    let mut bound = Vec::new();
    for (bucket, policy) in &tuning.buckets {
        let Some(place) = &policy.bind else { continue };
        check(place)?;
        if persist.is_none() {
            return Err(Error::BadValue {
                what: "`bind` in [geds.buckets]",
                value: bucket.to_string(),
                rule: "a bucket is bound to a place in the persistency tier; set `persist` in [geds]",
            });
        }
        bound.push(bucket.clone());
    }
    Ok(bound)
}

fn meta(bucket: &BucketName, key: &Key, persist: &Persist, found: &Found) -> ObjectMeta {
    let what = format!("{persist}\0{}\0{}\0{}\0{}", found.location, found.size, found.modified_ms, found.tag.as_deref().unwrap_or(""));
    let id = xxh3_128(what.as_bytes());
    ObjectMeta {
        bucket: bucket.clone(),
        key: key.clone(),
        id: ObjectId(id),
        epoch: id as u64 | FOREIGN,
        size: found.size,
        state: State::Sealed,
        // Nobody has looked at the bytes; see `Object::meta` for what was read.
        checksum: 0,
        sites: Vec::new(),
        persisted: Some(found.location.clone()),
        created_ms: found.modified_ms,
    }
}

/// Written over while it was read: there is hope if it is asked for again.
fn changed(e: &Error) -> bool {
    matches!(e, Error::Persist { source: object_store::Error::Precondition { .. } | object_store::Error::NotFound { .. }, .. })
}

impl Inner {
    /// Where a bucket's foreign objects are.
    fn bound(&self, bucket: &BucketName) -> Option<(&Persist, &str)> {
        let place = self.tuning.policy(bucket).bind.as_deref()?;
        Some((self.persist.as_ref()?, place))
    }

    pub(crate) fn is_bound(&self, bucket: &BucketName) -> bool {
        self.bound(bucket).is_some()
    }

    fn fresh(&self, bucket: &BucketName) -> Duration {
        self.tuning.policy(bucket).fresh.map_or(Duration::ZERO, |fresh| fresh.0)
    }

    async fn find_foreign(&self, bucket: &BucketName, key: &Key) -> Result<(Found, ObjectMeta)> {
        let missing = || Error::NotFound { bucket: bucket.to_string(), key: key.to_string() };
        let (persist, place) = self.bound(bucket).ok_or_else(missing)?;
        let location = persist.below(place, key.as_str());
        if place.is_empty() && location.starts_with("objects/") {
            return Err(missing());
        }
        let found = persist.look(&location).await?.ok_or_else(missing)?;
        let meta = meta(bucket, key, persist, &found);
        Ok((found, meta))
    }

    /// What the store has under a key that the catalog doesn't know.
    pub(crate) async fn stat_foreign(&self, bucket: &BucketName, key: &Key) -> Result<ObjectMeta> {
        Ok(self.find_foreign(bucket, key).await?.1)
    }

    /// Says of a key that the catalog doesn't know that it is somebody else's, if it is.
    pub(crate) async fn unless_foreign(&self, bucket: &BucketName, key: &Key, error: Error) -> Error {
        if error.kind() != Kind::NotFound || !self.is_bound(bucket) {
            return error;
        }
        match self.find_foreign(bucket, key).await {
            Ok((found, _)) => Error::Foreign { bucket: bucket.to_string(), key: key.to_string(), location: found.location },
            Err(_) => error,
        }
    }

    /// Whether a copy here is of what the catalog doesn't know.
    pub(crate) fn is_copy(&self, id: ObjectId) -> bool {
        self.copies.lock().contains_key(&id)
    }

    /// Forgets copies that are not here any more.
    pub(crate) fn forget_copies(&self) {
        self.copies.lock().retain(|id, _| self.tier.get(*id).is_some());
    }

    fn copy_of(&self, id: ObjectId) -> Option<Arc<Local>> {
        self.copies.lock().contains_key(&id).then(|| self.tier.get(id)).flatten()
    }

    /// Opens what the store has under a key that the catalog doesn't know.
    pub(crate) async fn open_foreign(self: &Arc<Self>, bucket: &BucketName, key: &Key, ticket: Ticket) -> Result<Object> {
        for attempt in 1.. {
            let (found, mut meta) = self.find_foreign(bucket, key).await?;
            let local = match self.copy_of(meta.id) {
                Some(local) => {
                    self.opened(bucket, Source::here(local.in_memory()));
                    local
                }
                None => match self.fetch_foreign(&meta, &found).await {
                    Err(e) if changed(&e) && attempt < OPEN_TRIES => continue,
                    fetched => fetched?,
                },
            };
            meta.checksum = local.checksum;
            let object = self.map(meta, local).await?;
            let fresh = self.fresh(bucket);
            if !fresh.is_zero() {
                self.names.keep(ticket, &object, Lease { term: Some(fresh) });
            }
            return Ok(object);
        }
        unreachable!("the last try returns")
    }

    async fn fetch_foreign(self: &Arc<Self>, meta: &ObjectMeta, found: &Found) -> Result<Arc<Local>> {
        let turn = self.turn(meta.id);
        let _turn = turn.lock().await;
        if let Some(local) = self.copy_of(meta.id) {
            return Ok(local);
        }
        let Some(persist) = &self.persist else { return Err(Error::NoPersist { bucket: meta.bucket.to_string() }) };
        let began = Instant::now();
        let span = spans::fetch(&meta.bucket, &meta.key);
        spans::note(&span, meta.size, Source::Persistency);
        let draft = self.pour(meta, persist, &found.location, persist.read_found(found, 0..found.size)).instrument(span).await?;
        let local = compute(move || draft.seal()).await?;
        let local = local.map_err(|refused| self.refused(&meta.bucket, &meta.key, false, refused))?;
        if local.size != meta.size {
            return Err(damaged(meta, format!("in {persist} or on its way"), format!("{} bytes of {} came", local.size, meta.size)));
        }
        let inner = self.clone();
        // As one that is being sealed, so that no sweep takes it before it is known what it is.
        self.sealing_begins(meta.id);
        local.count_for(self.counted(&meta.bucket));
        let (id, known) = (meta.id, (meta.bucket.clone(), meta.key.clone()));
        // To its end, also when nobody waits for it any more.
        let keep = move || {
            let local = inner.tier.keep(local).map(|kept| {
                kept.local.persisted.store(true, SeqCst);
                inner.copies.lock().insert(id, known);
                kept.local
            });
            inner.sealing_ends(id);
            local
        };
        let local = compute(keep).await??;
        self.fetched(meta, Source::Persistency, began.elapsed());
        Ok(local)
    }

    /// A part of what the store has under a key, as it comes, without keeping a copy. `None`: the key is the catalog's, a copy is here, or all of it is wanted.
    pub(crate) async fn part_of_foreign(
        &self,
        bucket: &BucketName,
        key: &Key,
        range: Range,
    ) -> Result<Option<(ObjectMeta, u64, BoxStream<'static, Result<Bytes>>)>> {
        if !self.is_bound(bucket) || range == Range::default() {
            return Ok(None);
        }
        match self.catalog.lookup(bucket, key).await {
            Err(e) if e.kind() == Kind::NotFound => {}
            found => return found.map(|_| None),
        }
        let (found, meta) = self.find_foreign(bucket, key).await?;
        let len = peer::cut(bucket, key, meta.size, range.offset, range.len)?;
        if self.copy_of(meta.id).is_some() || len == meta.size {
            return Ok(None);
        }
        let Some(persist) = &self.persist else { return Ok(None) };
        let stream = persist.read_found(&found, range.offset..range.offset + len).await?;
        Ok(Some((meta, len, stream)))
    }

    /// A page of both: what the catalog has, and what it doesn't know.
    pub(crate) async fn list_both(&self, bucket: &BucketName, prefix: &str, delimiter: Option<char>, page: Page) -> Result<Listing> {
        let own = self.catalog.list(bucket, prefix, delimiter, page.clone()).await?;
        let Some((persist, place)) = self.bound(bucket) else { return Ok(own) };
        let limit = page.limit.clamp(1, PAGE_MAX) as usize;
        let known = Some(&page.start_after).filter(|after| delimiter.is_none() && !after.is_empty());
        let known = known.and_then(|after| self.listings.take(bucket, prefix, after)).filter(|ahead| ahead.names.len() >= limit || !ahead.more);
        let (theirs, theirs_more, until) = match known {
            Some(Ahead { names, more, until, .. }) => (names, more, until),
            None => {
                let most = if delimiter.is_none() { NAMES_AHEAD } else { limit };
                let shown = |location: &str| !place.is_empty() || !location.starts_with("objects/");
                let until = Instant::now() + AHEAD_FOR;
                let (names, more) = persist.page(place, &Prefix::new(prefix)?, delimiter, &page.start_after, most, shown).await?;
                (names, more, until)
            }
        };
        let mut more = theirs_more || own.next.is_some();
        // Each gives its first so many, so the first so many of both are among them.
        let mut all = theirs;
        let objects = own.objects.into_iter().map(|object| (object.key.to_string(), Some(object)));
        let mut known: HashMap<String, ObjectMeta> = HashMap::new();
        for (name, object) in objects.chain(own.prefixes.into_iter().map(|folder| (folder, None))) {
            all.insert(name.clone(), None);
            known.extend(object.map(|object| (name, object)));
        }
        let mut listing = Listing::default();
        let mut last = None;
        let mut all = all.into_iter();
        while let Some((name, found)) = all.next() {
            if listing.objects.len() + listing.prefixes.len() == limit {
                more = true;
                if let Some(last) = last.clone().filter(|_| delimiter.is_none()) {
                    let names = std::iter::once((name, found)).chain(all).filter(|(_, found)| found.is_some()).collect();
                    let (bucket, prefix) = (bucket.clone(), prefix.to_string());
                    self.listings.keep(Ahead { bucket, prefix, after: last, names, more: theirs_more, until });
                }
                break;
            }
            match (known.remove(&name), found) {
                (Some(object), _) => listing.objects.push(object),
                (None, Some(found)) => listing.objects.push(meta(bucket, &Key::new(name.as_str())?, persist, &found)),
                (None, None) => listing.prefixes.push(name.clone()),
            }
            last = Some(name);
        }
        listing.next = last.filter(|_| more);
        Ok(listing)
    }

    /// Frees copies of a bucket's foreign objects under a prefix. Objects and bytes.
    pub(crate) fn drop_copies(&self, bucket: &BucketName, prefix: &Prefix) -> (u64, u64) {
        let all = self.copies.lock();
        let ids: Vec<ObjectId> = all.iter().filter(|(_, (b, k))| b == bucket && prefix.contains(k.as_str())).map(|(id, _)| *id).collect();
        drop(all);
        ids.into_iter().fold((0, 0), |sum, id| {
            self.copies.lock().remove(&id);
            (sum.0 + 1, sum.1 + self.free(id))
        })
    }

    /// Frees copies of foreign objects for at least so many bytes: the store has them, so that costs nothing but another fetch. False: there was none.
    pub(crate) fn make_way(&self, bytes: u64) -> bool {
        let now = self.tier.age();
        let candidates: Vec<_> = self.copies.lock().keys().copied().collect();
        let candidates = candidates.into_iter().map(|id| match self.tier.get(id) {
            Some(local) => crate::spill::Candidate { id, size: local.size, idle: now.saturating_sub(local.used_at.load(Relaxed)), persisted: true, failures: 0 },
            None => crate::spill::Candidate { id, size: 0, idle: u32::MAX, persisted: true, failures: 0 },
        });
        let chosen = crate::spill::victims(candidates.collect(), bytes);
        for id in &chosen {
            self.copies.lock().remove(id);
            self.free(*id);
        }
        !chosen.is_empty()
    }
}
