//! The namenode's state: all names and contents in memory, and what each command does to them.
//!
//! ```text
//! bucket ── order of names ──▶ name (key, attributes) ──▶ content (id, epoch, size, checksum, holders, place in the persistency tier)
//!              hash of names ──▶                            ▲ hash of ids, order of ids at each site
//! ```
//!
//! [`State::apply`] is a function of the state and the command alone: no clock, no randomness, no input or output, so that a replay of the log ends in
//! the same state. What can be asked is in `change.rs`, how a record lies in memory in `record.rs`; looking is in `state/look.rs`, and the way into a snapshot and back in `state/rows.rs`. A command either fails and changes nothing, or is done as a whole. It knows no leases and no log.

mod look;
mod rows;

pub use rows::{ContentRow, NameRow, Rest};

use super::{
    answers::Answers,
    change::{Answer, Change, Import, Moving, Once, Seal, bounded},
    record::{Content, Name, NameExtra, halves, whole},
    table::{Index, NONE, Order, Record, Slab},
    wire::Facts,
};
use crate::{
    Attributes, BucketName, Error, Event, Happened, Holder, Key, Listing, Mode, ObjectId, ObjectMeta, Page, Result, State as Sealing,
    catalog::{Garbage, PAGE_MAX, Watched},
    leases::prefetch,
    names::Prefix,
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

pub(super) struct Bucket {
    pub name: BucketName,
    pub mode: Mode,
    /// 0: none.
    pub tenant: u32,
    /// Changes so far.
    pub seq: u64,
    pub objects: u64,
    pub bytes: u64,
    order: Order<Box<str>>,
}

struct Site {
    name: SiteId,
    address: String,
    /// Contents that it holds, by their slots: comparing these looks at no content, and what is new comes last.
    held: Order<u32>,
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

/// In place of the epoch of what was never sealed and never will be.
const GIVEN_UP: u64 = 0;

/// A seal whose object is gone, or that was given up.
#[derive(Clone, Serialize, Deserialize)]
struct Gone {
    at_ms: u64,
    id: u128,
    epoch: u64,
    created_ms: u64,
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
    job_of: BTreeMap<String, u32>,
    next_job: u32,
    job_names: BTreeSet<(u32, u32)>,
    names: Slab<Name>,
    contents: Slab<Content>,
    by_key: Index,
    by_id: Index,
    expiry: BTreeSet<(u64, u32)>,
    garbage: BTreeMap<u128, Discarded>,
    gone: VecDeque<Gone>,
    /// Their epochs, and the slots that they had.
    gone_of: HashMap<u128, (u64, u32)>,
    answers: Answers,
    events: VecDeque<(u32, Event)>,
    /// Nobody waits for answers: those of seals are not put together.
    silent: bool,
}

fn hash_of(bucket: u32, key: &str) -> u64 {
    xxh3_64_with_seed(key.as_bytes(), u64::from(bucket))
}

fn hash_of_id(id: u128) -> u64 {
    // Ids are random, but those of tests are small numbers.
    let [low, high] = halves(id);
    (low ^ high.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29).wrapping_mul(0xBF58_476D_1CE4_E5B9)
}

impl State {
    pub fn new() -> State {
        State { tenants: vec![Tenant { objects_max: u64::MAX, bytes_max: u64::MAX, ..Tenant::default() }], next_job: 1, ..State::default() }
    }

    /// Commands applied so far.
    pub fn seq(&self) -> u64 {
        self.seq
    }
    /// The last that was given to an object.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }
    pub fn clock_ms(&self) -> u64 {
        self.clock_ms
    }
    pub fn leasing(&self) -> bool {
        self.leasing
    }
    /// For a replay: a [`State::apply`] that succeeds may answer just that it was done.
    pub fn be_silent(&mut self, silent: bool) {
        self.silent = silent;
    }
    /// Names, and contents.
    pub fn counts(&self) -> (usize, usize) {
        (self.names.count(), self.contents.count())
    }

    /// [`State::apply`] of a request, which is carried out once however often it is asked.
    pub fn apply_once(&mut self, at_ms: u64, once: Option<&Once>, change: &Change) -> Result<Answer> {
        let Some(once) = once else { return self.apply(at_ms, change) };
        let now = self.clock_ms.max(at_ms);
        match self.answers.find(once, now) {
            // What failed has changed nothing, and is tried anew.
            Ok(None) => self.apply(at_ms, change).inspect(|answer| self.answers.keep(once.request, now, answer)),
            known => {
                self.seq += 1;
                self.clock_ms = now;
                known.map(|answer| answer.expect("`None` is above"))
            }
        }
    }

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
            Change::RenamePrefix { bucket, from, to_bucket, to } => self.rename_prefix(bucket, from, to_bucket, to, false),
            Change::RenamePrefixNew { bucket, from, to_bucket, to } => self.rename_prefix(bucket, from, to_bucket, to, true),
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
            Change::GiveUp { ids } => {
                for id in ids {
                    if self.find_content(*id).is_none() && !self.gone_of.contains_key(id) {
                        self.remember(Gone { at_ms: self.clock_ms, id: *id, epoch: GIVEN_UP, created_ms: 0 }, NONE);
                    }
                }
                Ok(Answer::Done)
            }
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

    /// Refuses what would lead a tenant past its quota; `freed`: the names that go away for it, and their bytes.
    fn check_quota(&self, bucket: u32, key: &str, objects: u64, bytes: u64, freed: (u64, u64)) -> Result<()> {
        let bucket = &self.buckets[bucket as usize];
        let tenant = &self.tenants[bucket.tenant as usize];
        let objects_then = tenant.objects + objects - freed.0;
        let bytes_then = tenant.bytes.saturating_add(bytes) - freed.1;
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
        self.sites[site as usize].held.insert(content, |last| last.cmp(&content), |slot| slot.cmp(&content), |slot| slot, |_, _| {});
    }

    fn unhold(&mut self, content: u32, site: u16) {
        self.sites[site as usize].held.remove(|last| last.cmp(&content), |slot| slot.cmp(&content));
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
        let order = &mut self.buckets[bucket as usize].order;
        let ahead = |slot: u32, again: bool| if again { prefetch(names.get(slot).key.as_ptr()) } else { prefetch(names.get(slot)) };
        order.insert(name, |last| last.cmp(&record.key), |slot| names.get(slot).key.cmp(&record.key), |slot| names.get(slot).key.clone(), ahead);
        let size = self.contents.get(record.content).size;
        self.count(bucket, 1, i128::from(size));
    }

    fn unindex(&mut self, name: u32) {
        let (names, record) = (&self.names, self.names.get(name));
        self.by_key.remove(hash_of(record.bucket, &record.key), name);
        let bucket = record.bucket;
        self.buckets[bucket as usize].order.remove(|last| last.cmp(&record.key), |slot| names.get(slot).key.cmp(&record.key));
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

    /// Gives up a content whose last name has been taken away; `None`: it has others. Its upload is noted as garbage in any case: whoever is told may be gone before it is removed, or have no way
    /// there. With `garbage` it is noted for the sites that hold it, too, because nobody is told of it.
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
        let sites = if garbage { sites.into_iter().collect() } else { BTreeSet::new() };
        let gone = Discarded { sites, persisted };
        if !gone.sites.is_empty() || gone.persisted.is_some() {
            self.garbage.insert(id, gone.clone());
        }
        self.remember(Gone { at_ms: self.clock_ms, id, epoch, created_ms }, content);
        Some(gone)
    }

    /// `content`: the slot that it had.
    fn remember(&mut self, gone: Gone, content: u32) {
        while self.gone.len() >= GONE_MAX || self.gone.front().is_some_and(|old| old.at_ms + GONE_MS < self.clock_ms) {
            let Some(old) = self.gone.pop_front() else { break };
            self.gone_of.remove(&old.id);
        }
        self.gone_of.insert(gone.id, (gone.epoch, content));
        self.gone.push_back(gone);
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
        if let Some((epoch, _)) = self.gone_of.get(&seal.id) {
            if *epoch == GIVEN_UP {
                let message = format!("the seal of {}/{} comes too late: its site has given it up", seal.bucket, seal.key);
                return Err(Error::Remote { kind: base::Kind::FailedPrecondition, message });
            }
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
        self.check_quota(bucket, seal.key.as_str(), 1, seal.size, self.all_of(old))?;
        let job = match &seal.job {
            None => 0,
            Some(job) => {
                let alive = |number: &&u32| self.jobs.get(number).is_some_and(|job| job.1 == 0 || job.1 > self.clock_ms);
                *self.job_of.get(job).filter(alive).ok_or_else(|| Error::NoJob { bucket: seal.bucket.to_string(), key: seal.key.to_string(), job: job.clone() })?
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
        self.tell(&seal.bucket, Happened::Sealed { key: seal.key.clone(), id: ObjectId(seal.id), epoch: self.epoch, size: seal.size });
        Ok(if self.silent { Answer::Done } else { Answer::Sealed { object: self.meta(name), replaced } })
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
            self.check_quota(target, to.as_str(), 1, size, self.all_of(old))?;
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
        self.check_quota(target, to.as_str(), 1, self.contents.get(content).size, self.all_of(old))?;
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
        self.all_of(names.iter().map(|(name, _)| *name)).1
    }

    /// How many names, and the bytes of what they name.
    fn all_of(&self, names: impl IntoIterator<Item = u32>) -> (u64, u64) {
        names.into_iter().fold((0, 0), |(n, bytes), name| (n + 1, bytes + self.contents.get(self.names.get(name).content).size))
    }

    /// What has the new names now.
    fn replaced<'a>(&'a self, target: u32, names: &'a [(u32, Key)]) -> impl Iterator<Item = u32> + 'a {
        names.iter().filter_map(move |(_, key)| self.find_name(target, key.as_str()))
    }

    fn rename_prefix(&mut self, bucket: &BucketName, from: &str, to_bucket: &BucketName, to: &str, if_absent: bool) -> Result<Answer> {
        let (target, names) = self.moving(bucket, from, to_bucket, to)?;
        if let Some(there) = self.names_under(target, &Prefix::new(to)?).first().filter(|_| if_absent) {
            return Err(Error::Exists { bucket: to_bucket.to_string(), key: self.names.get(*there).key.to_string() });
        }
        let (objects, bytes) = (names.len() as u64, self.sum(&names));
        let counted = Answer::Counted { objects, bytes };
        if bucket == to_bucket && from == to {
            return Ok(counted);
        }
        if self.buckets[self.bucket(bucket)? as usize].tenant != self.buckets[target as usize].tenant {
            self.check_quota(target, from, objects, bytes, self.all_of(self.replaced(target, &names)))?;
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
        self.check_quota(target, from, objects, bytes, self.all_of(self.replaced(target, &names)))?;
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
}
