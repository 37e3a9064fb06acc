//! What can be asked of the state. Nothing here changes it, so many may look at a time.

use super::*;
use std::ops::Bound;

fn folder_of<'a>(key: &'a str, below: &str, delimiter: Option<char>) -> Option<&'a str> {
    let delimiter = delimiter?;
    let rest = key.strip_prefix(below)?;
    let at = rest.find(delimiter)?;
    Some(&key[..below.len() + at + delimiter.len_utf8()])
}

impl State {
    pub(super) fn bucket(&self, bucket: &BucketName) -> Result<u32> {
        self.bucket_of.get(bucket).copied().ok_or_else(|| Error::NoBucket { bucket: bucket.to_string() })
    }

    pub(super) fn find_name(&self, bucket: u32, key: &str) -> Option<u32> {
        self.by_key.find(hash_of(bucket, key), |slot| {
            let name = self.names.get(slot);
            name.bucket == bucket && *name.key == *key
        })
    }

    pub(super) fn find_content(&self, id: u128) -> Option<u32> {
        let id = halves(id);
        self.by_id.find(hash_of_id(whole(id)), |slot| self.contents.get(slot).id == id)
    }

    pub(super) fn missing(bucket: &BucketName, key: &Key) -> Error {
        Error::NotFound { bucket: bucket.to_string(), key: key.to_string() }
    }

    pub(super) fn need(&self, bucket: &BucketName, key: &Key) -> Result<u32> {
        let number = self.bucket_of.get(bucket).ok_or_else(|| Self::missing(bucket, key))?;
        self.find_name(*number, key.as_str()).ok_or_else(|| Self::missing(bucket, key))
    }

    pub(super) fn need_epoch(&self, bucket: &BucketName, key: &Key, epoch: u64) -> Result<u32> {
        let name = self.need(bucket, key)?;
        let current = self.contents.get(self.names.get(name).content).epoch;
        if current != epoch {
            return Err(Error::Stale { bucket: bucket.to_string(), key: key.to_string(), epoch, current });
        }
        Ok(name)
    }

    pub(super) fn meta(&self, name: u32) -> ObjectMeta {
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

    /// What [`State::lookup`] finds, lent and not copied.
    pub fn look<T>(&self, bucket: &BucketName, key: &Key, told: impl FnOnce(Facts<'_>) -> T) -> Result<T> {
        let name = self.names.get(self.need(bucket, key)?);
        let content = self.contents.get(name.content);
        let site = |number: u16| {
            let site = &self.sites[number as usize];
            (site.name.as_str(), site.address.as_str())
        };
        let (one, many);
        let sites: &[(&str, &str)] = match (content.holders, &content.extra) {
            ([0, 0], None) => &[],
            ([number, 0] | [0, number], None) => {
                one = [site(number - 1)];
                &one
            }
            _ => {
                let mut all: Vec<_> = content.holders().into_iter().map(site).collect();
                all.sort_unstable();
                many = all;
                &many
            }
        };
        Ok(told(Facts {
            bucket: bucket.as_str(),
            key: &name.key,
            id: content.id(),
            epoch: content.epoch,
            size: content.size,
            checksum: content.checksum,
            sites,
            persisted: content.persisted(),
            created_ms: content.created_ms(),
        }))
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

    /// At most `max` of those after a name, in their order.
    pub fn bucket_names(&self, after: &str, max: usize) -> Vec<BucketName> {
        // Who pages goes through thousands at most.
        self.bucket_of.keys().skip_while(|bucket| bucket.as_str() <= after).take(max).cloned().collect()
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
        // One that is gone and forgotten, too, is no place to go on from: then all of it again.
        let slot_of = |id: ObjectId| self.find_content(id.0).or_else(|| Some(self.gone_of.get(&id.0)?.1).filter(|slot| *slot != NONE));
        let after = start_after.and_then(slot_of);
        let compare = |slot: u32| if after.is_some_and(|after| slot <= after) { Ordering::Less } else { Ordering::Greater };
        let held = self.sites[*site as usize].held.from(|last| compare(*last), compare).take(PAGE_MAX as usize);
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
            let before = |key: &str| {
                let skipped = key <= cursor.as_str() || skip.is_some_and(|folder| key < folder || key.starts_with(folder));
                if skipped || key < prefix.below.as_str() { Ordering::Less } else { Ordering::Greater }
            };
            for slot in order.from(|last| before(last), |slot| before(&self.names.get(slot).key)) {
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

    pub(super) fn names_under(&self, bucket: u32, prefix: &Prefix) -> Vec<u32> {
        let order = &self.buckets[bucket as usize].order;
        let below = order.from(|last| (**last).cmp(prefix.below.as_str()), |slot| (*self.names.get(slot).key).cmp(prefix.below.as_str()));
        let exact = prefix.exact.as_deref().and_then(|key| self.find_name(bucket, key));
        exact.into_iter().chain(below.take_while(|slot| self.names.get(*slot).key.starts_with(&prefix.below))).collect()
    }

    /// At most `max` names whose time, or whose job's time, is over, without those that `known` names.
    pub fn expired(&self, now_ms: u64, max: usize, known: impl Fn(&(BucketName, Key)) -> bool) -> Vec<(BucketName, Key)> {
        let over = self.expiry.iter().take_while(|(at, _)| *at <= now_ms).map(|(_, name)| *name);
        let jobs = self.jobs.iter().filter(|(_, (_, until))| *until > 0 && *until <= now_ms);
        let theirs = jobs.flat_map(|(job, _)| self.job_names.range((*job, 0)..(job + 1, 0)).map(|(_, name)| *name));
        let both = over.chain(theirs).map(|slot| {
            let name = self.names.get(slot);
            (self.buckets[name.bucket as usize].name.clone(), Key::known(name.key.clone()))
        });
        both.filter(|name| !known(name)).take(max).collect()
    }

    /// The jobs that hold leases: at most `max` of those after a name, in the order of their names.
    pub fn job_names(&self, after: &str, max: usize) -> Vec<String> {
        self.job_of.range::<str, _>((Bound::Excluded(after), Bound::Unbounded)).take(max).map(|(job, _)| job.clone()).collect()
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
        // All who wait ask again at each batch, whatever bucket it changed: for a quiet one the walk below would go through everybody else's events each time.
        if after == seq {
            return Ok(Watched { events: Vec::new(), next: after, resync: false });
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
}
