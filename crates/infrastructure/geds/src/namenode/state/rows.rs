//! The state as rows, for snapshots: a walk over what was there at one moment while changes go on, and the way back.

use super::*;
use crate::names::KEY_BYTES_MAX;

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
