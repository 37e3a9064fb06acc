//! The namenode's state: all names and contents in memory, and what each command does to them.
//!
//! ```text
//! bucket ── order of names ──▶ name (key, attributes) ──▶ content (id, epoch, size, checksum, holders, place in the persistency tier)
//!              hash of names ──▶                            ▲ hash of ids, order of ids at each site
//! ```
//!
//! [`State::apply`] is a function of the state and the command alone: no clock, no randomness, no input or output, so that a replay of the log ends in
//! the same state. A command either fails and changes nothing, or is done as a whole. It knows no leases and no log.

use super::table::{Index, NONE, Order, Record, Slab};
use crate::{
    Attributes, BucketName, Error, Event, Happened, Holder, Key, Listing, Mode, ObjectId, ObjectMeta, Page, Result, State as Sealing,
    catalog::{Garbage, METADATA_BYTES_MAX, PAGE_MAX, Watched},
    names::{KEY_BYTES_MAX, Prefix},
};
use base::SiteId;
use serde::{Deserialize, Serialize};
use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Events that are kept for watchers, over all buckets.
const EVENTS_MAX: usize = 65_536;
/// Seals that are remembered after their object is gone, so that a seal that is asked again is not done again: this long, and so many.
const GONE_MS: u64 = 600_000;
const GONE_MAX: usize = 262_144;
/// The longest place in the persistency tier and the longest name of a job or tenant, in bytes.
const TEXT_BYTES_MAX: usize = 1024;
/// Ids in one command.
const IDS_MAX: usize = 10_000;

/// What can be asked to be changed. Written to the log as it is: variants and fields are only ever added at the end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Change {
    CreateBucket { bucket: BucketName },
    SetMode { bucket: BucketName, mode: Mode },
    /// Puts a bucket's objects on a tenant's account.
    SetTenant { bucket: BucketName, tenant: String },
    /// `u64::MAX`: no limit.
    SetQuota { tenant: String, objects_max: u64, bytes_max: u64 },
    Announce { site: SiteId, address: String },
    Seal(Seal),
    Remove { bucket: BucketName, key: Key },
    RemovePrefix { bucket: BucketName, prefix: String },
    Rename { bucket: BucketName, from: Key, to_bucket: BucketName, to: Key, if_absent: bool },
    RenamePrefix { bucket: BucketName, from: String, to_bucket: BucketName, to: String },
    Copy { bucket: BucketName, from: Key, to_bucket: BucketName, to: Key, if_absent: bool },
    CopyPrefix { bucket: BucketName, from: String, to_bucket: BucketName, to: String },
    MarkPersisted { bucket: BucketName, key: Key, epoch: u64, location: String },
    AddHolder { bucket: BucketName, key: Key, epoch: u64, site: SiteId },
    DropHolder { bucket: BucketName, key: Key, epoch: u64, site: SiteId },
    SetMetadata { bucket: BucketName, key: Key, metadata: Vec<u8> },
    /// 0: lives until it is deleted.
    Touch { bucket: BucketName, key: Key, expires_ms: u64 },
    /// Begins or extends a job's lease on its objects; 0: until it is dropped.
    KeepJob { job: String, until_ms: u64 },
    DropJob { job: String },
    /// Removes those of these names whose time is over.
    Expire { names: Vec<(BucketName, Key)> },
    /// A site has freed its copies of what is gone; no site: they are out of the persistency tier.
    Collected { site: Option<SiteId>, ids: Vec<u128> },
    /// From now on leases may be out there when this process ends.
    Leasing,
    /// An object of an older catalog, with its epoch and holders.
    Import(Box<Import>),
    /// A site's copy is lost; if it was the only one, the name goes.
    Lose { bucket: BucketName, key: Key, epoch: u64, site: SiteId },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seal {
    pub bucket: BucketName,
    pub key: Key,
    pub id: u128,
    /// Bytes.
    pub size: u64,
    pub checksum: u64,
    pub site: SiteId,
    pub if_absent: bool,
    pub metadata: Vec<u8>,
    /// Unix milliseconds; 0: never.
    pub expires_ms: u64,
    pub job: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Import {
    pub bucket: BucketName,
    pub key: Key,
    pub id: u128,
    pub epoch: u64,
    pub size: u64,
    pub checksum: u64,
    pub sites: Vec<SiteId>,
    pub persisted: Option<String>,
    pub created_ms: u64,
}

/// What came of a change.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Done,
    /// Whether it is new.
    Created(bool),
    Object(ObjectMeta),
    /// `replaced`: what has no name any more.
    Sealed { object: ObjectMeta, replaced: Option<ObjectMeta> },
    /// `last`: its content has no other name; of what was lost: nothing is recorded of it any more.
    Removed { object: ObjectMeta, last: bool },
    Counted { objects: u64, bytes: u64 },
}

#[derive(Clone)]
pub(super) struct Name {
    pub key: Box<str>,
    pub content: u32,
    pub bucket: u32,
    pub extra: Option<Box<NameExtra>>,
}

/// What few names have.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct NameExtra {
    pub metadata: Box<[u8]>,
    pub expires_ms: u64,
    /// 0: none.
    pub job: u32,
}

impl Default for Name {
    fn default() -> Name {
        Name { key: Box::default(), content: NONE, bucket: NONE, extra: None }
    }
}
impl Record for Name {
    fn is_vacant(&self) -> bool {
        self.content == NONE
    }
}

/// One cache line.
#[derive(Clone)]
pub(super) struct Content {
    /// Two halves: a `u128` would be aligned to 16 bytes and cost 16 more.
    pub id: [u64; 2],
    pub epoch: u64,
    pub size: u64,
    pub checksum: u64,
    /// The lowest bit: it is in the persistency tier at the place that its id names.
    created: u64,
    /// One of its names.
    pub name: u32,
    /// Sites, each one more than its number; 0: none. More are in `extra`.
    holders: [u16; 2],
    extra: Option<Box<ContentExtra>>,
}

#[derive(Clone, Default)]
struct ContentExtra {
    names: BTreeSet<u32>,
    holders: Vec<u16>,
    persisted: Option<Box<str>>,
}

impl Default for Content {
    fn default() -> Content {
        Content { id: [0; 2], epoch: 0, size: 0, checksum: 0, created: 0, name: NONE, holders: [0; 2], extra: None }
    }
}
impl Record for Content {
    fn is_vacant(&self) -> bool {
        // Epochs begin with 1. A content has no name for a moment, while its last one is taken away.
        self.epoch == 0
    }
}

impl Change {
    /// Refuses what is too long to be written to the log, whatever the state would say to it.
    pub fn check(&self) -> Result<()> {
        match self {
            Change::Seal(seal) => {
                check_metadata(&seal.metadata)?;
                seal.job.as_deref().map_or(Ok(()), |job| bounded("job", job))
            }
            Change::SetMetadata { metadata, .. } => check_metadata(metadata),
            Change::MarkPersisted { location, .. } => bounded("place in the persistency tier", location),
            Change::Announce { address, .. } => bounded("address", address),
            Change::SetTenant { tenant, .. } | Change::SetQuota { tenant, .. } => bounded("tenant", tenant),
            Change::KeepJob { job, .. } | Change::DropJob { job } => bounded("job", job),
            Change::RemovePrefix { prefix, .. } => Prefix::new(prefix).map(|_| ()),
            Change::RenamePrefix { from, to, .. } | Change::CopyPrefix { from, to, .. } => Moving::new(from, to).map(|_| ()),
            Change::Collected { ids, .. } if ids.len() > IDS_MAX => {
                Err(Error::BadValue { what: "number of ids", value: ids.len().to_string(), rule: "tell of at most 10000 at a time" })
            }
            _ => Ok(()),
        }
    }
}

fn check_metadata(metadata: &[u8]) -> Result<()> {
    if metadata.len() <= METADATA_BYTES_MAX {
        return Ok(());
    }
    let value = format!("{} bytes", metadata.len());
    Err(Error::BadValue { what: "user metadata", value, rule: "it has at most 16384 bytes; put more into an object" })
}

fn halves(id: u128) -> [u64; 2] {
    [id as u64, (id >> 64) as u64]
}
fn whole(halves: [u64; 2]) -> u128 {
    u128::from(halves[0]) | u128::from(halves[1]) << 64
}

fn place_of(id: u128) -> String {
    format!("objects/{}", ObjectId(id))
}

impl Content {
    pub fn id(&self) -> u128 {
        whole(self.id)
    }
    pub fn created_ms(&self) -> u64 {
        self.created >> 1
    }
    pub fn persisted(&self) -> Option<String> {
        match &self.extra {
            _ if self.created & 1 == 1 => Some(place_of(self.id())),
            Some(extra) => extra.persisted.as_deref().map(String::from),
            None => None,
        }
    }
    fn set_persisted(&mut self, location: &str) {
        if location == place_of(self.id()) {
            self.created |= 1;
        } else {
            self.created &= !1;
            self.extra.get_or_insert_default().persisted = Some(location.into());
        }
    }
    /// Numbers of sites, in their order.
    pub fn holders(&self) -> Vec<u16> {
        let inline = self.holders.iter().filter(|h| **h > 0).map(|h| h - 1);
        let mut all: Vec<u16> = inline.chain(self.extra.iter().flat_map(|extra| extra.holders.iter().copied())).collect();
        all.sort_unstable();
        all
    }
    fn holds(&self, site: u16) -> bool {
        self.holders.contains(&(site + 1)) || self.extra.as_ref().is_some_and(|extra| extra.holders.contains(&site))
    }
    fn add_holder(&mut self, site: u16) {
        match self.holders.iter_mut().find(|h| **h == 0) {
            Some(free) => *free = site + 1,
            None => self.extra.get_or_insert_default().holders.push(site),
        }
    }
    fn drop_holder(&mut self, site: u16) {
        self.holders.iter_mut().filter(|h| **h == site + 1).for_each(|h| *h = 0);
        if let Some(extra) = &mut self.extra {
            extra.holders.retain(|h| *h != site);
        }
    }
    fn add_name(&mut self, name: u32) {
        match self.name {
            NONE => self.name = name,
            _ => {
                self.extra.get_or_insert_default().names.insert(name);
            }
        }
    }
    fn drop_name(&mut self, name: u32) {
        if self.name == name {
            self.name = self.extra.as_mut().and_then(|extra| extra.names.pop_first()).unwrap_or(NONE);
        } else if let Some(extra) = &mut self.extra {
            extra.names.remove(&name);
        }
    }
}

pub(super) struct Bucket {
    pub name: BucketName,
    pub mode: Mode,
    /// 0: none.
    pub tenant: u32,
    /// Changes so far.
    pub seq: u64,
    pub objects: u64,
    pub bytes: u64,
    order: Order,
}

struct Site {
    name: SiteId,
    address: String,
    /// Contents that it holds, by id.
    held: Order,
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct Tenant {
    name: String,
    objects_max: u64,
    bytes_max: u64,
    #[serde(skip)]
    objects: u64,
    #[serde(skip)]
    bytes: u64,
}

#[derive(Clone, Serialize, Deserialize)]
struct Discarded {
    sites: BTreeSet<u16>,
    persisted: Option<String>,
}

/// A seal whose object is gone.
#[derive(Clone, Serialize, Deserialize)]
struct Gone {
    at_ms: u64,
    id: u128,
    epoch: u64,
    created_ms: u64,
}

/// What a snapshot has besides names and contents.
#[derive(Clone, Serialize, Deserialize)]
pub struct Rest {
    pub seq: u64,
    epoch: u64,
    clock_ms: u64,
    leasing: bool,
    buckets: Vec<(BucketName, Mode, u32, u64)>,
    sites: Vec<(SiteId, String)>,
    tenants: Vec<Tenant>,
    jobs: BTreeMap<u32, (String, u64)>,
    next_job: u32,
    garbage: BTreeMap<u128, Discarded>,
    gone: VecDeque<Gone>,
}

#[derive(Clone, Serialize, Deserialize)]
pub struct NameRow {
    slot: u32,
    bucket: u32,
    content: u32,
    key: String,
    extra: Option<Box<NameExtra>>,
}

#[derive(Clone, Serialize, Deserialize)]
pub struct ContentRow {
    slot: u32,
    id: u128,
    epoch: u64,
    size: u64,
    checksum: u64,
    created_ms: u64,
    holders: Vec<u16>,
    persisted: Option<String>,
}

/// See the top of the file.
#[derive(Default)]
pub struct State {
    seq: u64,
    epoch: u64,
    clock_ms: u64,
    leasing: bool,
    buckets: Vec<Bucket>,
    bucket_of: BTreeMap<BucketName, u32>,
    sites: Vec<Site>,
    site_of: BTreeMap<SiteId, u16>,
    /// The first is nobody's.
    tenants: Vec<Tenant>,
    jobs: BTreeMap<u32, (String, u64)>,
    job_of: HashMap<String, u32>,
    next_job: u32,
    job_names: BTreeSet<(u32, u32)>,
    names: Slab<Name>,
    contents: Slab<Content>,
    by_key: Index,
    by_id: Index,
    expiry: BTreeSet<(u64, u32)>,
    garbage: BTreeMap<u128, Discarded>,
    gone: VecDeque<Gone>,
    gone_of: HashMap<u128, u64>,
    events: VecDeque<(u32, Event)>,
}

fn hash_of(bucket: u32, key: &str) -> u64 {
    xxh3_64_with_seed(key.as_bytes(), u64::from(bucket))
}

fn hash_of_id(id: u128) -> u64 {
    // Ids are random, but those of tests are small numbers.
    let [low, high] = halves(id);
    (low ^ high.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29).wrapping_mul(0xBF58_476D_1CE4_E5B9)
}

fn folder_of<'a>(key: &'a str, below: &str, delimiter: Option<char>) -> Option<&'a str> {
    let delimiter = delimiter?;
    let rest = key.strip_prefix(below)?;
    let at = rest.find(delimiter)?;
    Some(&key[..below.len() + at + delimiter.len_utf8()])
}

fn bounded(what: &'static str, text: &str) -> Result<()> {
    if text.len() <= TEXT_BYTES_MAX && !text.contains('\0') {
        return Ok(());
    }
    let value = text.chars().take(80).collect();
    Err(Error::BadValue { what, value, rule: "use at most 1024 bytes without NUL" })
}

/// Where each key of one prefix goes under another.
struct Moving {
    from: Prefix,
    to: Prefix,
    to_text: String,
}

impl Moving {
    fn new(from: &str, to: &str) -> Result<Moving> {
        Ok(Moving { from: Prefix::new(from)?, to: Prefix::new(to)?, to_text: to.into() })
    }

    fn target(&self, key: &str) -> Result<Key> {
        match key.strip_prefix(&self.from.below) {
            Some(rest) => Key::new(format!("{}{rest}", self.to.below)),
            // The prefix itself is a key.
            None => Key::new(self.to_text.clone()),
        }
    }
}

impl State {
    pub fn new() -> State {
        State { tenants: vec![Tenant { objects_max: u64::MAX, bytes_max: u64::MAX, ..Tenant::default() }], next_job: 1, ..State::default() }
    }

    /// Commands applied so far.
    pub fn seq(&self) -> u64 {
        self.seq
    }
    pub fn clock_ms(&self) -> u64 {
        self.clock_ms
    }
    pub fn leasing(&self) -> bool {
        self.leasing
    }
    /// Names, and contents.
    pub fn counts(&self) -> (usize, usize) {
        (self.names.count(), self.contents.count())
    }

    // --- looking ------------------------------------------------------------------------------------------------------------------

    fn bucket(&self, bucket: &BucketName) -> Result<u32> {
        self.bucket_of.get(bucket).copied().ok_or_else(|| Error::NoBucket { bucket: bucket.to_string() })
    }

    fn find_name(&self, bucket: u32, key: &str) -> Option<u32> {
        self.by_key.find(hash_of(bucket, key), |slot| {
            let name = self.names.get(slot);
            name.bucket == bucket && *name.key == *key
        })
    }

    fn find_content(&self, id: u128) -> Option<u32> {
        let id = halves(id);
        self.by_id.find(hash_of_id(whole(id)), |slot| self.contents.get(slot).id == id)
    }

    fn missing(bucket: &BucketName, key: &Key) -> Error {
        Error::NotFound { bucket: bucket.to_string(), key: key.to_string() }
    }

    fn need(&self, bucket: &BucketName, key: &Key) -> Result<u32> {
        let number = self.bucket_of.get(bucket).ok_or_else(|| Self::missing(bucket, key))?;
        self.find_name(*number, key.as_str()).ok_or_else(|| Self::missing(bucket, key))
    }

    fn need_epoch(&self, bucket: &BucketName, key: &Key, epoch: u64) -> Result<u32> {
        let name = self.need(bucket, key)?;
        let current = self.contents.get(self.names.get(name).content).epoch;
        if current != epoch {
            return Err(Error::Stale { bucket: bucket.to_string(), key: key.to_string(), epoch, current });
        }
        Ok(name)
    }

    fn meta(&self, name: u32) -> ObjectMeta {
        let name = self.names.get(name);
        let content = self.contents.get(name.content);
        let holder = |site: u16| {
            let site = &self.sites[site as usize];
            Holder { site: site.name.clone(), address: site.address.clone() }
        };
        let mut sites: Vec<Holder> = content.holders().into_iter().map(holder).collect();
        sites.sort_by(|a, b| a.site.cmp(&b.site));
        ObjectMeta {
            bucket: self.buckets[name.bucket as usize].name.clone(),
            key: Key::known(name.key.clone()),
            id: ObjectId(content.id()),
            epoch: content.epoch,
            size: content.size,
            state: Sealing::Sealed,
            checksum: content.checksum,
            sites,
            persisted: content.persisted(),
            created_ms: content.created_ms(),
        }
    }

    pub fn has(&self, bucket: &BucketName, key: &Key) -> bool {
        self.need(bucket, key).is_ok()
    }

    pub fn lookup(&self, bucket: &BucketName, key: &Key) -> Result<ObjectMeta> {
        Ok(self.meta(self.need(bucket, key)?))
    }

    pub fn find(&self, id: ObjectId) -> Option<ObjectMeta> {
        Some(self.meta(self.contents.get(self.find_content(id.0)?).name))
    }

    pub fn attributes(&self, bucket: &BucketName, key: &Key) -> Result<Attributes> {
        let extra = self.names.get(self.need(bucket, key)?).extra.as_deref();
        Ok(extra.map_or_else(Attributes::default, |extra| Attributes {
            metadata: extra.metadata.to_vec(),
            expires_ms: extra.expires_ms,
            job: self.jobs.get(&extra.job).map(|job| job.0.clone()),
        }))
    }

    pub fn bucket_names(&self) -> Vec<BucketName> {
        self.bucket_of.keys().cloned().collect()
    }

    pub fn has_bucket(&self, bucket: &BucketName) -> bool {
        self.bucket_of.contains_key(bucket)
    }

    /// Mode, objects and bytes of a bucket.
    pub fn bucket_info(&self, bucket: &BucketName) -> Result<(Mode, u64, u64)> {
        let bucket = &self.buckets[self.bucket(bucket)? as usize];
        Ok((bucket.mode, bucket.objects, bucket.bytes))
    }

    pub fn address(&self, site: &SiteId) -> Option<&str> {
        self.site_of.get(site).map(|n| self.sites[*n as usize].address.as_str())
    }

    /// All sites that have ever been told of.
    pub fn sites(&self) -> Vec<Holder> {
        self.sites.iter().map(|site| Holder { site: site.name.clone(), address: site.address.clone() }).collect()
    }

    pub fn held(&self, site: &SiteId, start_after: Option<ObjectId>) -> Vec<ObjectMeta> {
        let Some(site) = self.site_of.get(site) else { return Vec::new() };
        let after = |slot: u32| match start_after {
            Some(id) if self.contents.get(slot).id() <= id.0 => Ordering::Less,
            _ => Ordering::Greater,
        };
        let held = self.sites[*site as usize].held.from(after).take(PAGE_MAX as usize);
        held.map(|slot| self.meta(self.contents.get(slot).name)).collect()
    }

    pub fn list(&self, bucket: &BucketName, prefix: &str, delimiter: Option<char>, page: &Page) -> Result<Listing> {
        let prefix = Prefix::new(prefix)?;
        let number = self.bucket(bucket)?;
        let order = &self.buckets[number as usize].order;
        let limit = page.limit.clamp(1, PAGE_MAX) as usize;
        let mut listing = Listing::default();
        let mut cursor = page.start_after.clone();
        if let Some(exact) = prefix.exact.as_deref().filter(|exact| **exact > *cursor) {
            if let Some(name) = self.find_name(number, exact) {
                listing.objects.push(self.meta(name));
                cursor = exact.into();
            }
        }
        let mut skip: Option<&str> = None;
        'seek: loop {
            let before = |slot: u32| {
                let key = &*self.names.get(slot).key;
                let skipped = key <= cursor.as_str() || skip.is_some_and(|folder| key < folder || key.starts_with(folder));
                if skipped || key < prefix.below.as_str() { Ordering::Less } else { Ordering::Greater }
            };
            for slot in order.from(before) {
                let key = &*self.names.get(slot).key;
                if !key.starts_with(&prefix.below) {
                    break;
                }
                let folder = folder_of(key, &prefix.below, delimiter);
                let seen = folder.is_some_and(|folder| cursor.starts_with(folder));
                if !seen && listing.objects.len() + listing.prefixes.len() == limit {
                    listing.next = Some(cursor);
                    return Ok(listing);
                }
                match folder {
                    Some(folder) => {
                        if !seen {
                            listing.prefixes.push(folder.into());
                        }
                        // One look finds the end of the folder, however much is in it.
                        cursor = folder.into();
                        skip = Some(folder);
                        continue 'seek;
                    }
                    None => {
                        cursor = key.into();
                        listing.objects.push(self.meta(slot));
                    }
                }
            }
            return Ok(listing);
        }
    }

    fn names_under(&self, bucket: u32, prefix: &Prefix) -> Vec<u32> {
        let order = &self.buckets[bucket as usize].order;
        let below = order.from(|slot| (*self.names.get(slot).key).cmp(prefix.below.as_str()));
        let exact = prefix.exact.as_deref().and_then(|key| self.find_name(bucket, key));
        exact.into_iter().chain(below.take_while(|slot| self.names.get(*slot).key.starts_with(&prefix.below))).collect()
    }

    /// At most `max` names whose time, or whose job's time, is over.
    pub fn expired(&self, now_ms: u64, max: usize) -> Vec<(BucketName, Key)> {
        let over = self.expiry.iter().take_while(|(at, _)| *at <= now_ms).map(|(_, name)| *name);
        let jobs = self.jobs.iter().filter(|(_, (_, until))| *until > 0 && *until <= now_ms);
        let theirs = jobs.flat_map(|(job, _)| self.job_names.range((*job, 0)..(job + 1, 0)).map(|(_, name)| *name));
        let both = over.chain(theirs).take(max);
        both.map(|slot| {
            let name = self.names.get(slot);
            (self.buckets[name.bucket as usize].name.clone(), Key::known(name.key.clone()))
        })
        .collect()
    }

    /// The jobs that hold leases.
    pub fn job_names(&self) -> Vec<String> {
        self.jobs.values().map(|job| job.0.clone()).collect()
    }

    /// A job's time is over, whether it has names or not.
    pub fn has_dead_jobs(&self, now_ms: u64) -> bool {
        self.jobs.values().any(|(_, until)| *until > 0 && *until <= now_ms)
    }

    /// A page of what a site should free, or, without a site, of what should leave the persistency tier.
    pub fn garbage(&self, site: Option<&SiteId>, start_after: Option<ObjectId>) -> Vec<Garbage> {
        let from = match start_after {
            Some(ObjectId(u128::MAX)) => return Vec::new(),
            Some(id) => id.0 + 1,
            None => 0,
        };
        let site = match site {
            Some(site) => match self.site_of.get(site) {
                Some(number) => Some(*number),
                None => return Vec::new(),
            },
            None => None,
        };
        let wanted = self.garbage.range(from..).filter(|(_, gone)| match site {
            Some(site) => gone.sites.contains(&site),
            None => gone.persisted.is_some(),
        });
        let page = wanted.take(PAGE_MAX as usize);
        page.map(|(id, gone)| Garbage { id: ObjectId(*id), location: gone.persisted.clone() }).collect()
    }

    /// What has happened in a bucket after a number.
    pub fn watched(&self, bucket: &BucketName, after: u64, max: usize) -> Result<Watched> {
        let number = self.bucket(bucket)?;
        let seq = self.buckets[number as usize].seq;
        let resync = Watched { events: Vec::new(), next: seq, resync: true };
        if after > seq {
            return Ok(resync);
        }
        let mut events = VecDeque::new();
        let mut oldest = seq + 1;
        for (_, event) in self.events.iter().rev().filter(|(b, _)| *b == number).take_while(|(_, event)| event.seq > after) {
            oldest = event.seq;
            events.push_front(event);
        }
        if oldest > after + 1 {
            return Ok(resync);
        }
        let events: Vec<Event> = events.into_iter().take(max).cloned().collect();
        Ok(Watched { next: events.last().map_or(after, |event| event.seq), events, resync: false })
    }

    // --- changing -----------------------------------------------------------------------------------------------------------------

    /// Carries out the next command of the log. `at_ms` never goes back, whatever the clock of its writer did.
    pub fn apply(&mut self, at_ms: u64, change: &Change) -> Result<Answer> {
        self.seq += 1;
        self.clock_ms = self.clock_ms.max(at_ms);
        match change {
            Change::CreateBucket { bucket } => Ok(Answer::Created(self.create_bucket(bucket))),
            Change::SetMode { bucket, mode } => {
                let number = self.bucket(bucket)?;
                self.buckets[number as usize].mode = *mode;
                Ok(Answer::Done)
            }
            Change::SetTenant { bucket, tenant } => self.set_tenant(bucket, tenant),
            Change::SetQuota { tenant, objects_max, bytes_max } => {
                let number = self.tenant(tenant)?;
                if number > 0 {
                    let tenant = &mut self.tenants[number as usize];
                    (tenant.objects_max, tenant.bytes_max) = (*objects_max, *bytes_max);
                }
                Ok(Answer::Done)
            }
            Change::Announce { site, address } => {
                let number = self.site(site)?;
                self.sites[number as usize].address = address.clone();
                Ok(Answer::Done)
            }
            Change::Seal(seal) => self.seal(seal),
            Change::Remove { bucket, key } => {
                let name = self.need(bucket, key)?;
                let object = self.meta(name);
                let content = self.unlink(name);
                let last = self.discard(content, false).is_some();
                self.tell(bucket, Happened::Removed { key: key.clone() });
                Ok(Answer::Removed { object, last })
            }
            Change::RemovePrefix { bucket, prefix } => {
                let number = self.bucket(bucket)?;
                let names = self.names_under(number, &Prefix::new(prefix)?);
                let (objects, bytes) = self.remove_all(&names);
                if objects > 0 {
                    self.tell(bucket, Happened::PrefixRemoved { prefix: prefix.clone() });
                }
                Ok(Answer::Counted { objects, bytes })
            }
            Change::Rename { bucket, from, to_bucket, to, if_absent } => self.rename(bucket, from, to_bucket, to, *if_absent),
            Change::Copy { bucket, from, to_bucket, to, if_absent } => self.copy(bucket, from, to_bucket, to, *if_absent),
            Change::RenamePrefix { bucket, from, to_bucket, to } => self.rename_prefix(bucket, from, to_bucket, to),
            Change::CopyPrefix { bucket, from, to_bucket, to } => self.copy_prefix(bucket, from, to_bucket, to),
            Change::MarkPersisted { bucket, key, epoch, location } => {
                let name = self.need_epoch(bucket, key, *epoch)?;
                self.contents.get_mut(self.names.get(name).content).set_persisted(location);
                Ok(Answer::Object(self.meta(name)))
            }
            Change::AddHolder { bucket, key, epoch, site } => {
                let name = self.need_epoch(bucket, key, *epoch)?;
                let site = self.site(site)?;
                self.hold(self.names.get(name).content, site);
                Ok(Answer::Object(self.meta(name)))
            }
            Change::DropHolder { bucket, key, epoch, site } => self.drop_holder(bucket, key, *epoch, site),
            Change::SetMetadata { bucket, key, metadata } => {
                let name = self.need(bucket, key)?;
                self.extra(name, |extra| extra.metadata = metadata.as_slice().into());
                self.tell(bucket, Happened::Changed { key: key.clone() });
                Ok(Answer::Done)
            }
            Change::Touch { bucket, key, expires_ms } => {
                let name = self.need(bucket, key)?;
                self.extra(name, |extra| extra.expires_ms = *expires_ms);
                Ok(Answer::Done)
            }
            Change::KeepJob { job, until_ms } => {
                let number = match self.job_of.get(job) {
                    Some(number) => *number,
                    None => {
                        let number = self.next_job;
                        self.next_job += 1;
                        self.job_of.insert(job.clone(), number);
                        number
                    }
                };
                self.jobs.insert(number, (job.clone(), *until_ms));
                Ok(Answer::Done)
            }
            Change::DropJob { job } => {
                let Some(number) = self.job_of.remove(job) else { return Ok(Answer::Counted { objects: 0, bytes: 0 }) };
                self.jobs.remove(&number);
                let names: Vec<u32> = self.job_names.range((number, 0)..(number + 1, 0)).map(|(_, name)| *name).collect();
                let (objects, bytes) = self.remove_each(&names);
                Ok(Answer::Counted { objects, bytes })
            }
            Change::Expire { names } => Ok(self.expire(names)),
            Change::Collected { site, ids } => {
                let site = match site {
                    Some(site) => Some(self.site(site)?),
                    None => None,
                };
                for id in ids {
                    let Some(gone) = self.garbage.get_mut(id) else { continue };
                    match site {
                        Some(site) => drop(gone.sites.remove(&site)),
                        None => gone.persisted = None,
                    }
                    if gone.sites.is_empty() && gone.persisted.is_none() {
                        self.garbage.remove(id);
                    }
                }
                Ok(Answer::Done)
            }
            Change::Leasing => {
                self.leasing = true;
                Ok(Answer::Done)
            }
            Change::Import(import) => self.import(import),
            Change::Lose { bucket, key, epoch, site } => self.lose(bucket, key, *epoch, site),
        }
    }

    fn create_bucket(&mut self, bucket: &BucketName) -> bool {
        if self.bucket_of.contains_key(bucket) {
            return false;
        }
        self.bucket_of.insert(bucket.clone(), self.buckets.len() as u32);
        let new = Bucket { name: bucket.clone(), mode: Mode::default(), tenant: 0, seq: 0, objects: 0, bytes: 0, order: Order::default() };
        self.buckets.push(new);
        true
    }

    fn site(&mut self, site: &SiteId) -> Result<u16> {
        if let Some(number) = self.site_of.get(site) {
            return Ok(*number);
        }
        let number = u16::try_from(self.sites.len()).ok().filter(|n| *n < u16::MAX).ok_or_else(|| Error::BadValue {
            what: "number of sites",
            value: self.sites.len().to_string(),
            rule: "a catalog knows at most 65534 sites",
        })?;
        self.sites.push(Site { name: site.clone(), address: String::new(), held: Order::default() });
        self.site_of.insert(site.clone(), number);
        Ok(number)
    }

    fn tenant(&mut self, tenant: &str) -> Result<u32> {
        if let Some(number) = self.tenants.iter().position(|known| known.name == tenant) {
            return Ok(number as u32);
        }
        let new = Tenant { name: tenant.into(), objects_max: u64::MAX, bytes_max: u64::MAX, ..Tenant::default() };
        self.tenants.push(new);
        Ok(self.tenants.len() as u32 - 1)
    }

    fn set_tenant(&mut self, bucket: &BucketName, tenant: &str) -> Result<Answer> {
        let number = self.bucket(bucket)? as usize;
        let tenant = self.tenant(tenant)?;
        let (objects, bytes) = (self.buckets[number].objects, self.buckets[number].bytes);
        let old = &mut self.tenants[self.buckets[number].tenant as usize];
        (old.objects, old.bytes) = (old.objects - objects, old.bytes - bytes);
        let new = &mut self.tenants[tenant as usize];
        (new.objects, new.bytes) = (new.objects + objects, new.bytes + bytes);
        self.buckets[number].tenant = tenant;
        Ok(Answer::Done)
    }

    /// Refuses what would lead a tenant past its quota; `freed`: the size of what goes away for it.
    fn check_quota(&self, bucket: u32, key: &str, objects: u64, bytes: u64, freed: Option<u64>) -> Result<()> {
        let bucket = &self.buckets[bucket as usize];
        let tenant = &self.tenants[bucket.tenant as usize];
        let objects_then = tenant.objects + objects - u64::from(freed.is_some());
        let bytes_then = tenant.bytes.saturating_add(bytes) - freed.unwrap_or(0);
        let (what, wanted, limit) = match () {
            () if objects_then > tenant.objects_max && objects_then > tenant.objects => ("objects", objects_then, tenant.objects_max),
            () if bytes_then > tenant.bytes_max && bytes_then > tenant.bytes => ("bytes", bytes_then, tenant.bytes_max),
            () => return Ok(()),
        };
        Err(Error::Quota { bucket: bucket.name.to_string(), key: key.into(), tenant: tenant.name.clone(), what, wanted, limit })
    }

    fn count(&mut self, bucket: u32, objects: i64, bytes: i128) {
        let bucket = &mut self.buckets[bucket as usize];
        let tenant = &mut self.tenants[bucket.tenant as usize];
        for (o, b) in [(&mut bucket.objects, &mut bucket.bytes), (&mut tenant.objects, &mut tenant.bytes)] {
            *o = o.wrapping_add_signed(objects);
            *b = (i128::from(*b) + bytes) as u64;
        }
    }

    fn tell(&mut self, bucket: &BucketName, what: Happened) {
        let number = self.bucket_of[bucket];
        let bucket = &mut self.buckets[number as usize];
        bucket.seq += 1;
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back((number, Event { seq: bucket.seq, what }));
    }

    fn hold(&mut self, content: u32, site: u16) {
        if self.contents.get(content).holds(site) {
            return;
        }
        self.contents.get_mut(content).add_holder(site);
        let id = self.contents.get(content).id();
        let contents = &self.contents;
        self.sites[site as usize].held.insert(content, |slot| contents.get(slot).id().cmp(&id));
    }

    fn unhold(&mut self, content: u32, site: u16) {
        let id = self.contents.get(content).id();
        let contents = &self.contents;
        self.sites[site as usize].held.remove(|slot| contents.get(slot).id().cmp(&id));
        self.contents.get_mut(content).drop_holder(site);
    }

    /// Changes what few names have, and keeps the indices of it right.
    fn extra(&mut self, name: u32, change: impl FnOnce(&mut NameExtra)) {
        let record = self.names.get_mut(name);
        let mut extra = record.extra.take().unwrap_or_default();
        let (expires, job) = (extra.expires_ms, extra.job);
        change(&mut extra);
        let (expires_now, job_now) = (extra.expires_ms, extra.job);
        record.extra = (*extra != NameExtra::default()).then_some(extra);
        if expires != expires_now {
            self.expiry.remove(&(expires, name));
            if expires_now > 0 {
                self.expiry.insert((expires_now, name));
            }
        }
        if job != job_now {
            self.job_names.remove(&(job, name));
            if job_now > 0 {
                self.job_names.insert((job_now, name));
            }
        }
    }

    /// Puts a name where it is found.
    fn link(&mut self, bucket: u32, key: &str, content: u32, extra: Option<Box<NameExtra>>) -> u32 {
        let name = self.names.insert(Name { key: key.into(), content, bucket, extra: None });
        self.contents.get_mut(content).add_name(name);
        if let Some(given) = extra {
            self.extra(name, |extra| *extra = *given);
        }
        self.index(name);
        name
    }

    fn index(&mut self, name: u32) {
        let (names, record) = (&self.names, self.names.get(name));
        self.by_key.insert(hash_of(record.bucket, &record.key), name, |slot| {
            let name = names.get(slot);
            hash_of(name.bucket, &name.key)
        });
        let bucket = record.bucket;
        self.buckets[bucket as usize].order.insert(name, |slot| names.get(slot).key.cmp(&record.key));
        let size = self.contents.get(record.content).size;
        self.count(bucket, 1, i128::from(size));
    }

    fn unindex(&mut self, name: u32) {
        let (names, record) = (&self.names, self.names.get(name));
        self.by_key.remove(hash_of(record.bucket, &record.key), name);
        let bucket = record.bucket;
        self.buckets[bucket as usize].order.remove(|slot| names.get(slot).key.cmp(&record.key));
        let size = self.contents.get(record.content).size;
        self.count(bucket, -1, -i128::from(size));
    }

    /// Takes a name away and tells which content has one name less.
    fn unlink(&mut self, name: u32) -> u32 {
        self.unindex(name);
        if self.names.get(name).extra.is_some() {
            self.extra(name, |extra| *extra = NameExtra::default());
        }
        let content = self.names.remove(name).content;
        self.contents.get_mut(content).drop_name(name);
        content
    }

    /// Gives up a content whose last name has been taken away; `None`: it has others. With `garbage` it is noted for who holds it.
    fn discard(&mut self, content: u32, garbage: bool) -> Option<Discarded> {
        let record = self.contents.get(content);
        if record.name != NONE {
            return None;
        }
        let (id, epoch, created_ms, persisted) = (record.id(), record.epoch, record.created_ms(), record.persisted());
        let sites = record.holders();
        for site in &sites {
            self.unhold(content, *site);
        }
        self.by_id.remove(hash_of_id(id), content);
        self.contents.remove(content);
        let gone = Discarded { sites: sites.into_iter().collect(), persisted };
        if garbage && (!gone.sites.is_empty() || gone.persisted.is_some()) {
            self.garbage.insert(id, gone.clone());
        }
        while self.gone.len() >= GONE_MAX || self.gone.front().is_some_and(|old| old.at_ms + GONE_MS < self.clock_ms) {
            let Some(old) = self.gone.pop_front() else { break };
            self.gone_of.remove(&old.id);
        }
        self.gone.push_back(Gone { at_ms: self.clock_ms, id, epoch, created_ms });
        self.gone_of.insert(id, epoch);
        Some(gone)
    }

    /// Takes away what has a key. Returns it if its content has no name any more.
    fn replace(&mut self, bucket: u32, key: &Key) -> Option<ObjectMeta> {
        let old = self.find_name(bucket, key.as_str())?;
        let meta = self.meta(old);
        let content = self.unlink(old);
        self.discard(content, false).map(|_| meta)
    }

    fn remove_all(&mut self, names: &[u32]) -> (u64, u64) {
        let mut bytes = 0;
        for name in names {
            bytes += self.contents.get(self.names.get(*name).content).size;
            let content = self.unlink(*name);
            self.discard(content, true);
        }
        (names.len() as u64, bytes)
    }

    /// The same, with an event for each.
    fn remove_each(&mut self, names: &[u32]) -> (u64, u64) {
        for name in names {
            let record = self.names.get(*name);
            let (bucket, key) = (self.buckets[record.bucket as usize].name.clone(), Key::known(record.key.clone()));
            self.tell(&bucket, Happened::Removed { key });
        }
        self.remove_all(names)
    }

    fn new_content(&mut self, content: Content) -> u32 {
        let id = content.id();
        let slot = self.contents.insert(content);
        let contents = &self.contents;
        self.by_id.insert(hash_of_id(id), slot, |slot| hash_of_id(contents.get(slot).id()));
        slot
    }

    fn seal(&mut self, seal: &Seal) -> Result<Answer> {
        let bucket = self.bucket(&seal.bucket)?;
        if let Some(content) = self.find_content(seal.id) {
            return Ok(Answer::Sealed { object: self.meta(self.contents.get(content).name), replaced: None });
        }
        if let Some(epoch) = self.gone_of.get(&seal.id) {
            // Asked again after others have replaced or deleted it: it was done once, and that is the answer.
            let object = ObjectMeta {
                bucket: seal.bucket.clone(),
                key: seal.key.clone(),
                id: ObjectId(seal.id),
                epoch: *epoch,
                size: seal.size,
                state: Sealing::Sealed,
                checksum: seal.checksum,
                sites: Vec::new(),
                persisted: None,
                created_ms: self.gone.iter().rev().find(|gone| gone.id == seal.id).map_or(0, |gone| gone.created_ms),
            };
            return Ok(Answer::Sealed { object, replaced: None });
        }
        let old = self.find_name(bucket, seal.key.as_str());
        if seal.if_absent && old.is_some() {
            return Err(Error::Exists { bucket: seal.bucket.to_string(), key: seal.key.to_string() });
        }
        let freed = old.map(|old| self.contents.get(self.names.get(old).content).size);
        self.check_quota(bucket, seal.key.as_str(), 1, seal.size, freed)?;
        let job = match &seal.job {
            None => 0,
            Some(job) => {
                let alive = |number: &&u32| self.jobs.get(number).is_some_and(|job| job.1 == 0 || job.1 > self.clock_ms);
                *self.job_of.get(job).filter(alive).ok_or_else(|| Error::NoJob { job: job.clone() })?
            }
        };
        let site = self.site(&seal.site)?;
        let replaced = self.replace(bucket, &seal.key);
        self.epoch += 1;
        let content = Content {
            id: halves(seal.id),
            epoch: self.epoch,
            size: seal.size,
            checksum: seal.checksum,
            created: self.clock_ms << 1,
            ..Content::default()
        };
        let content = self.new_content(content);
        let extra = NameExtra { metadata: seal.metadata.as_slice().into(), expires_ms: seal.expires_ms, job };
        let name = self.link(bucket, seal.key.as_str(), content, (extra != NameExtra::default()).then(|| extra.into()));
        self.hold(content, site);
        let object = self.meta(name);
        let what = Happened::Sealed { key: seal.key.clone(), id: object.id, epoch: object.epoch, size: object.size };
        self.tell(&seal.bucket, what);
        Ok(Answer::Sealed { object, replaced })
    }

    fn rename(&mut self, bucket: &BucketName, from: &Key, to_bucket: &BucketName, to: &Key, if_absent: bool) -> Result<Answer> {
        let name = self.need(bucket, from)?;
        let target = self.bucket(to_bucket)?;
        let same = bucket == to_bucket && from == to;
        let old = self.find_name(target, to.as_str());
        if if_absent && old.is_some() {
            return Err(Error::Exists { bucket: to_bucket.to_string(), key: to.to_string() });
        }
        if same {
            return Ok(Answer::Sealed { object: self.meta(name), replaced: None });
        }
        if self.buckets[self.bucket(bucket)? as usize].tenant != self.buckets[target as usize].tenant {
            let size = self.contents.get(self.names.get(name).content).size;
            let freed = old.map(|old| self.contents.get(self.names.get(old).content).size);
            self.check_quota(target, to.as_str(), 1, size, freed)?;
        }
        let replaced = self.replace(target, to);
        self.unindex(name);
        let record = self.names.get_mut(name);
        (record.bucket, record.key) = (target, to.as_str().into());
        self.index(name);
        let object = self.meta(name);
        self.tell(bucket, Happened::Removed { key: from.clone() });
        self.tell(to_bucket, Happened::Sealed { key: to.clone(), id: object.id, epoch: object.epoch, size: object.size });
        Ok(Answer::Sealed { object, replaced })
    }

    fn copy(&mut self, bucket: &BucketName, from: &Key, to_bucket: &BucketName, to: &Key, if_absent: bool) -> Result<Answer> {
        let name = self.need(bucket, from)?;
        let target = self.bucket(to_bucket)?;
        let old = self.find_name(target, to.as_str());
        if if_absent && old.is_some() {
            return Err(Error::Exists { bucket: to_bucket.to_string(), key: to.to_string() });
        }
        if old == Some(name) {
            return Ok(Answer::Sealed { object: self.meta(name), replaced: None });
        }
        let record = self.names.get(name);
        let (content, extra) = (record.content, record.extra.clone());
        let freed = old.map(|old| self.contents.get(self.names.get(old).content).size);
        self.check_quota(target, to.as_str(), 1, self.contents.get(content).size, freed)?;
        let replaced = self.replace(target, to);
        let name = self.link(target, to.as_str(), content, extra);
        let object = self.meta(name);
        self.tell(to_bucket, Happened::Sealed { key: to.clone(), id: object.id, epoch: object.epoch, size: object.size });
        Ok(Answer::Sealed { object, replaced })
    }

    /// Names under a prefix with the keys that they are to have, checked as a whole before anything is done.
    fn moving(&self, bucket: &BucketName, from: &str, to_bucket: &BucketName, to: &str) -> Result<(u32, Vec<(u32, Key)>)> {
        let moving = Moving::new(from, to)?;
        let (source, target) = (self.bucket(bucket)?, self.bucket(to_bucket)?);
        let mut names = Vec::new();
        for name in self.names_under(source, &moving.from) {
            names.push((name, moving.target(&self.names.get(name).key)?));
        }
        if names.is_empty() {
            return Err(Error::NotFound { bucket: bucket.to_string(), key: from.into() });
        }
        Ok((target, names))
    }

    fn sum(&self, names: &[(u32, Key)]) -> u64 {
        names.iter().map(|(name, _)| self.contents.get(self.names.get(*name).content).size).sum()
    }

    fn rename_prefix(&mut self, bucket: &BucketName, from: &str, to_bucket: &BucketName, to: &str) -> Result<Answer> {
        let (target, names) = self.moving(bucket, from, to_bucket, to)?;
        let (objects, bytes) = (names.len() as u64, self.sum(&names));
        let counted = Answer::Counted { objects, bytes };
        if bucket == to_bucket && from == to {
            return Ok(counted);
        }
        if self.buckets[self.bucket(bucket)? as usize].tenant != self.buckets[target as usize].tenant {
            self.check_quota(target, from, objects, bytes, None)?;
        }
        for (name, _) in &names {
            self.unindex(*name);
        }
        for (name, key) in names {
            if let Some(old) = self.find_name(target, key.as_str()) {
                let content = self.unlink(old);
                self.discard(content, true);
            }
            let record = self.names.get_mut(name);
            (record.bucket, record.key) = (target, key.as_str().into());
            self.index(name);
        }
        self.tell(bucket, Happened::PrefixRemoved { prefix: from.into() });
        self.tell(to_bucket, Happened::PrefixSealed { prefix: to.into() });
        Ok(counted)
    }

    fn copy_prefix(&mut self, bucket: &BucketName, from: &str, to_bucket: &BucketName, to: &str) -> Result<Answer> {
        let (target, names) = self.moving(bucket, from, to_bucket, to)?;
        let (objects, bytes) = (names.len() as u64, self.sum(&names));
        if bucket == to_bucket && from == to {
            return Ok(Answer::Counted { objects, bytes });
        }
        self.check_quota(target, from, objects, bytes, None)?;
        // A target may be another's source: what is copied is what was there before the first step.
        let sources: Vec<_> = names.iter().map(|(name, _)| (self.names.get(*name).content, self.names.get(*name).extra.clone())).collect();
        let mut orphans = Vec::new();
        for ((_, key), (content, extra)) in names.into_iter().zip(sources) {
            if let Some(old) = self.find_name(target, key.as_str()) {
                orphans.push(self.unlink(old));
            }
            self.link(target, key.as_str(), content, extra);
        }
        for content in orphans {
            // One may be there twice, or have got a name again.
            if !self.contents.get(content).is_vacant() {
                self.discard(content, true);
            }
        }
        self.tell(to_bucket, Happened::PrefixSealed { prefix: to.into() });
        Ok(Answer::Counted { objects, bytes })
    }

    fn drop_holder(&mut self, bucket: &BucketName, key: &Key, epoch: u64, site: &SiteId) -> Result<Answer> {
        let name = self.need_epoch(bucket, key, epoch)?;
        let content = self.names.get(name).content;
        let record = self.contents.get(content);
        let number = self.site_of.get(site).copied();
        let others = record.holders().iter().any(|holder| Some(*holder) != number);
        if record.persisted().is_none() && !others {
            return Err(Error::OnlyCopy { bucket: bucket.to_string(), key: key.to_string(), site: site.to_string() });
        }
        if let Some(number) = number.filter(|number| record.holds(*number)) {
            self.unhold(content, number);
        }
        Ok(Answer::Object(self.meta(name)))
    }

    fn lose(&mut self, bucket: &BucketName, key: &Key, epoch: u64, site: &SiteId) -> Result<Answer> {
        match self.drop_holder(bucket, key, epoch, site) {
            Err(Error::OnlyCopy { .. }) => {}
            dropped => return dropped.and_then(|_| Ok(Answer::Removed { object: self.meta(self.need(bucket, key)?), last: true })),
        }
        let name = self.need(bucket, key)?;
        let object = self.meta(name);
        let content = self.unlink(name);
        let last = self.discard(content, false).is_some();
        self.tell(bucket, Happened::Removed { key: key.clone() });
        Ok(Answer::Removed { object, last })
    }

    fn expire(&mut self, names: &[(BucketName, Key)]) -> Answer {
        let mut over = Vec::new();
        for (bucket, key) in names {
            let Ok(name) = self.need(bucket, key) else { continue };
            let Some(extra) = &self.names.get(name).extra else { continue };
            let at = |ms: u64| ms > 0 && ms <= self.clock_ms;
            if at(extra.expires_ms) || self.jobs.get(&extra.job).is_some_and(|job| at(job.1)) {
                over.push(name);
            }
        }
        over.sort_unstable();
        over.dedup();
        let (objects, bytes) = self.remove_each(&over);
        let now = self.clock_ms;
        let dead: Vec<u32> = self.jobs.iter().filter(|(_, (_, until))| *until > 0 && *until <= now).map(|(job, _)| *job).collect();
        for job in dead {
            if self.job_names.range((job, 0)..(job + 1, 0)).next().is_none() {
                if let Some((name, _)) = self.jobs.remove(&job) {
                    self.job_of.remove(&name);
                }
            }
        }
        Answer::Counted { objects, bytes }
    }

    fn import(&mut self, import: &Import) -> Result<Answer> {
        self.create_bucket(&import.bucket);
        let bucket = self.bucket(&import.bucket)?;
        if self.find_content(import.id).is_some() || self.find_name(bucket, import.key.as_str()).is_some() {
            return Ok(Answer::Done);
        }
        self.epoch = self.epoch.max(import.epoch);
        let mut content = Content {
            id: halves(import.id),
            epoch: import.epoch,
            size: import.size,
            checksum: import.checksum,
            created: import.created_ms << 1,
            ..Content::default()
        };
        if let Some(location) = &import.persisted {
            bounded("place in the persistency tier", location)?;
            content.set_persisted(location);
        }
        let content = self.new_content(content);
        self.link(bucket, import.key.as_str(), content, None);
        for site in &import.sites {
            let site = self.site(site)?;
            self.hold(content, site);
        }
        Ok(Answer::Done)
    }

    // --- snapshots ----------------------------------------------------------------------------------------------------------------

    /// Begins a walk over names and contents as they are now, and gives what is besides.
    pub fn freeze(&mut self) -> Rest {
        self.names.freeze();
        self.contents.freeze();
        self.rest()
    }

    fn rest(&self) -> Rest {
        Rest {
            seq: self.seq,
            epoch: self.epoch,
            clock_ms: self.clock_ms,
            leasing: self.leasing,
            buckets: self.buckets.iter().map(|b| (b.name.clone(), b.mode, b.tenant, b.seq)).collect(),
            sites: self.sites.iter().map(|s| (s.name.clone(), s.address.clone())).collect(),
            tenants: self.tenants.clone(),
            jobs: self.jobs.clone(),
            next_job: self.next_job,
            garbage: self.garbage.clone(),
            gone: self.gone.clone(),
        }
    }

    /// The next contents of the walk. False: that was all.
    pub fn pass_contents(&mut self, n: u32, mut each: impl FnMut(ContentRow)) -> bool {
        self.contents.pass(n, |slot, c| {
            each(ContentRow {
                slot,
                id: c.id(),
                epoch: c.epoch,
                size: c.size,
                checksum: c.checksum,
                created_ms: c.created_ms(),
                holders: c.holders(),
                persisted: c.persisted(),
            })
        })
    }

    /// The next names of the walk. False: that was all.
    pub fn pass_names(&mut self, n: u32, mut each: impl FnMut(NameRow)) -> bool {
        self.names.pass(n, |slot, name| {
            let Name { key, content, bucket, extra } = name.clone();
            each(NameRow { slot, bucket, content, key: key.into(), extra })
        })
    }

    pub fn thaw(&mut self) {
        self.names.thaw();
        self.contents.thaw();
    }

    /// Puts a state together again. `None`: the parts do not fit, which a checksum should have told.
    pub fn load(rest: Rest, contents: impl Iterator<Item = ContentRow>, names: impl Iterator<Item = NameRow>) -> Option<State> {
        let mut state = State {
            seq: rest.seq,
            epoch: rest.epoch,
            clock_ms: rest.clock_ms,
            leasing: rest.leasing,
            tenants: rest.tenants,
            job_of: rest.jobs.iter().map(|(number, (name, _))| (name.clone(), *number)).collect(),
            jobs: rest.jobs,
            next_job: rest.next_job,
            garbage: rest.garbage,
            gone_of: rest.gone.iter().map(|gone| (gone.id, gone.epoch)).collect(),
            gone: rest.gone,
            ..State::default()
        };
        for (bucket, mode, tenant, seq) in rest.buckets {
            state.create_bucket(&bucket);
            let new = state.buckets.last_mut()?;
            (new.mode, new.tenant, new.seq) = (mode, tenant, seq);
        }
        for (site, address) in rest.sites {
            let number = state.site(&site).ok()?;
            state.sites[number as usize].address = address;
        }
        let mut held: Vec<Vec<u32>> = vec![Vec::new(); state.sites.len()];
        for row in contents {
            let mut content = Content {
                id: halves(row.id),
                epoch: row.epoch,
                size: row.size,
                checksum: row.checksum,
                created: row.created_ms << 1,
                ..Content::default()
            };
            for site in row.holders {
                content.add_holder(site);
                held.get_mut(site as usize)?.push(row.slot);
            }
            if let Some(location) = &row.persisted {
                content.set_persisted(location);
            }
            if !state.contents.insert_at(row.slot, content) {
                return None;
            }
            let contents = &state.contents;
            state.by_id.insert(hash_of_id(row.id), row.slot, |slot| hash_of_id(contents.get(slot).id()));
        }
        for (site, mut held) in state.sites.iter_mut().zip(held) {
            held.sort_unstable_by_key(|slot| state.contents.get(*slot).id());
            site.held = Order::from_sorted(&held);
        }
        let mut orders: Vec<Vec<u32>> = vec![Vec::new(); state.buckets.len()];
        for row in names {
            let NameRow { slot, bucket, content, key, extra } = row;
            orders.get_mut(bucket as usize)?.push(slot);
            if content >= state.contents.len() || key.is_empty() || key.len() > KEY_BYTES_MAX {
                return None;
            }
            let hash = hash_of(bucket, &key);
            if !state.names.insert_at(slot, Name { key: key.into(), content, bucket, extra: None }) {
                return None;
            }
            state.contents.get_mut(content).add_name(slot);
            if let Some(given) = extra {
                state.extra(slot, |extra| *extra = *given);
            }
            let names = &state.names;
            state.by_key.insert(hash, slot, |slot| {
                let name = names.get(slot);
                hash_of(name.bucket, &name.key)
            });
            let size = state.contents.get(content).size;
            state.count(bucket, 1, i128::from(size));
        }
        for (bucket, mut order) in state.buckets.iter_mut().zip(orders) {
            order.sort_unstable_by(|a, b| state.names.get(*a).key.cmp(&state.names.get(*b).key));
            bucket.order = Order::from_sorted(&order);
        }
        Some(state)
    }
}
