//! The state as rows, for snapshots: a walk over what was there at one moment while changes go on, and the way back.

use super::*;
use crate::{names::KEY_BYTES_MAX, namenode::table::Gathered};
use std::borrow::Cow;

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
    /// In a block of their own.
    #[serde(skip)]
    pub answers: Answers,
}

/// Borrowed from the state or from a snapshot's bytes.
#[derive(Clone, Serialize, Deserialize)]
pub struct NameRow<'a> {
    slot: u32,
    bucket: u32,
    content: u32,
    #[serde(borrow)]
    key: Cow<'a, str>,
    extra: Option<Cow<'a, NameExtra>>,
}

#[cfg(test)]
impl NameRow<'_> {
    pub fn into_owned(self) -> NameRow<'static> {
        let NameRow { slot, bucket, content, key, extra } = self;
        NameRow { slot, bucket, content, key: key.into_owned().into(), extra: extra.map(|extra| Cow::Owned(extra.into_owned())) }
    }
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

impl State {
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
            answers: self.answers.clone(),
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
    pub fn pass_names(&mut self, n: u32, mut each: impl FnMut(NameRow<'_>)) -> bool {
        self.names.pass(n, |slot, name| {
            let (key, extra) = (Cow::Borrowed(&*name.key), name.extra.as_deref().map(Cow::Borrowed));
            each(NameRow { slot, bucket: name.bucket, content: name.content, key, extra })
        })
    }

    pub fn thaw(&mut self) {
        self.names.thaw();
        self.contents.thaw();
    }

    /// Puts a state together again. `None`: the parts do not fit, which a checksum should have told. `counts`: about how many contents and names come.
    ///
    /// The time would go into looking at places that are in no cache. So rows are put where they belong as they come, contents by one thread and names by another; then indices are made part
    /// by part by the one ([`Gathered`]), while the other sorts names, by numbers that lie in a row.
    pub fn load<'a>(
        rest: Rest,
        counts: (usize, usize),
        contents: impl Iterator<Item = ContentRow> + Send,
        names: impl Iterator<Item = NameRow<'a>>,
    ) -> Option<State> {
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
            gone_of: rest.gone.iter().map(|gone| (gone.id, (gone.epoch, NONE))).collect(),
            gone: rest.gone,
            answers: rest.answers,
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
        let (sites, buckets) = (state.sites.len(), state.buckets.len());
        let (contents, names) = std::thread::scope(|threads| {
            let contents = threads.spawn(move || Contents::read(counts.0, sites, contents));
            let names = Names::read(counts.1, buckets, names);
            (contents.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), names)
        });
        let (Contents { slab: mut contents, ids, held }, Names { slab: names, hashes, slots, extras }) = (contents?, names?);
        let (indexed, orders) = std::thread::scope(|threads| {
            let indexing = threads.spawn(|| Some((link(&names, &mut contents, buckets)?, ids.index(), hashes.index())));
            let key = |slot: u32| &*names.get(slot).key;
            let order = |slots: Vec<u32>| Order::from_sorted(&sorted(slots, key), |slot| key(slot).into());
            let orders: Vec<Order<Box<str>>> = slots.into_iter().map(order).collect();
            (indexing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), orders)
        });
        let (counted, by_id, by_key) = indexed?;
        (state.contents, state.by_id, state.names, state.by_key) = (contents, by_id, names, by_key);
        // Rows come in the order of their slots.
        state.sites.iter_mut().zip(held).for_each(|(site, held)| site.held = Order::from_sorted(&held, |slot| slot));
        state.buckets.iter_mut().zip(orders).for_each(|(bucket, order)| bucket.order = order);
        for (bucket, (objects, bytes)) in counted.into_iter().enumerate() {
            state.count(bucket as u32, objects, bytes);
        }
        for (slot, given) in extras {
            state.extra(slot, |extra| *extra = *given);
        }
        Some(state)
    }
}

/// Tells contents their names, and gives each bucket's objects and bytes. `None`: a name has no content.
fn link(names: &Slab<Name>, contents: &mut Slab<Content>, buckets: usize) -> Option<Vec<(i64, i128)>> {
    let mut counted = vec![(0, 0); buckets];
    for slot in 0..names.len() {
        let &Name { content, bucket, .. } = names.get(slot);
        if content == NONE {
            continue;
        }
        if content >= contents.len() || contents.get(content).is_vacant() {
            return None;
        }
        let content = contents.get_mut(content);
        content.add_name(slot);
        let (objects, bytes) = &mut counted[bucket as usize];
        (*objects, *bytes) = (*objects + 1, *bytes + i128::from(content.size));
    }
    Some(counted)
}

/// What depends on contents alone.
struct Contents {
    slab: Slab<Content>,
    ids: Gathered,
    /// By site.
    held: Vec<Vec<u32>>,
}

impl Contents {
    fn read(about: usize, sites: usize, rows: impl Iterator<Item = ContentRow>) -> Option<Contents> {
        let (mut slab, mut ids) = (Slab::default(), Gathered::new(about));
        let mut held: Vec<Vec<u32>> = vec![Vec::new(); sites];
        for row in rows {
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
            if !slab.insert_at(row.slot, content) {
                return None;
            }
            ids.push(hash_of_id(row.id), row.slot);
        }
        Some(Contents { slab, ids, held })
    }
}

/// What depends on names alone.
struct Names {
    slab: Slab<Name>,
    hashes: Gathered,
    /// By bucket.
    slots: Vec<Vec<u32>>,
    extras: Vec<(u32, Box<NameExtra>)>,
}

impl Names {
    fn read<'a>(about: usize, buckets: usize, rows: impl Iterator<Item = NameRow<'a>>) -> Option<Names> {
        let (mut slab, mut hashes, mut extras) = (Slab::<Name>::default(), Gathered::new(about), Vec::new());
        let mut slots: Vec<Vec<u32>> = vec![Vec::new(); buckets];
        for NameRow { slot, bucket, content, key, extra } in rows {
            slots.get_mut(bucket as usize)?.push(slot);
            if content == NONE || key.is_empty() || key.len() > KEY_BYTES_MAX {
                return None;
            }
            hashes.push(hash_of(bucket, &key), slot);
            if !slab.insert_at(slot, Name { key: key.into(), content, bucket, extra: None }) {
                return None;
            }
            extras.extend(extra.map(|extra| (slot, extra.into_owned().into())));
        }
        Some(Names { slab, hashes, slots, extras })
    }
}

/// In the order of their keys, which mostly begin alike: compared is what follows their common beginning, as a number, and the keys themselves only where that is the same.
fn sorted<'a>(slots: Vec<u32>, key: impl Fn(u32) -> &'a str) -> Vec<u32> {
    let Some(first) = slots.first().map(|slot| key(*slot).as_bytes()) else { return slots };
    let common = slots.iter().fold(first.len(), |common, slot| {
        let both = first[..common].iter().zip(key(*slot).as_bytes());
        both.take_while(|(a, b)| a == b).count()
    });
    let mut numbered: Vec<(u128, u32)> = slots
        .into_iter()
        .map(|slot| {
            let mut after = [0; 16];
            let rest = &key(slot).as_bytes()[common..];
            let n = rest.len().min(after.len());
            // No key has a NUL in it, so a shorter one comes first, as it should.
            after[..n].copy_from_slice(&rest[..n]);
            (u128::from_be_bytes(after), slot)
        })
        .collect();
    numbered.sort_unstable_by(|(a, one), (b, other)| a.cmp(b).then_with(|| key(*one).cmp(key(*other))));
    numbered.into_iter().map(|(_, slot)| slot).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_sorted_as_they_would_be_alone() {
        let check = |keys: &[&str]| {
            let mut right: Vec<u32> = (0..keys.len() as u32).collect();
            right.sort_by_key(|slot| keys[*slot as usize]);
            assert_eq!(sorted((0..keys.len() as u32).rev().collect(), |slot| keys[slot as usize]), right, "{keys:?}");
        };
        check(&[]);
        check(&["a"]);
        check(&["ab", "a", "abc", "b"]);
        check(&["x/ä", "x/a", "x/", "x"]);
        check(&["stage/0123456789abcdef/2", "stage/0123456789abcdef/1", "stage/0123456789abcdef", "stage/0123456789abcde"]);
    }
}
