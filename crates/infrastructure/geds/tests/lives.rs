//! The whole store through random lives, against a map: two nodes, their namenode, and a persistency tier that fails as stores do on bad days.
//!
//! Buckets differ in what their objects owe: nothing, an upload soon or at once, a place in memory, a copy at the other node. Objects also grow, and are sealed when they are ready.
//!
//! A *step* is one call of a user's, a failure, or an end: of a node, of the namenode and both nodes, or of a node in the middle of a call. After each, what the map says has to be there: contents, lists,
//! bytes that somebody has open, the limit of the disk. What a call may answer while the persistency tier fails is written at the call.
//!
//! It runs twice: over real threads and clocks (`GEDS_STEPS` says how many steps, `GEDS_SEED` repeats calls and failures, not how threads take their turns), and in the simulator, where a seed repeats all of it
//! (`SEEDS`, `SIMULATED`). Processes that are really killed, at any instruction, are in `tests/kills.sh`.

mod common;

use base::Kind;
use common::{weather::Weather, *};
use futures::{FutureExt, TryStreamExt};
use geds::{Appendable, BucketPolicy, Catalog, Error, Mode, Node, Object, ObjectMeta, Page, Persist, Place, RestKey, SecondCopy, SpillOptions, Tuning};
use object_store::ObjectStore;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

// --- a life -----------------------------------------------------------------------------------------------------------------------

const BUCKETS: [&str; 5] = ["data", "behind", "through", "memory", "twice"];
const THROUGH: usize = 2;
const MEMORY: usize = 3;
const TWICE: usize = 4;
const NODES: [&str; 2] = ["edge", "cloud"];
/// Objects that grow at a node at a time.
const GROWING_MAX: usize = 3;
/// Names so large a folder of names is emptied, not copied.
const NAMES_MAX: usize = 150;
/// Steps of one life; the next one has a folder, tiers and weather of its own.
const LIFE: u64 = 500;
/// So many in the simulator.
const LIVES: u64 = 20;

/// What was written: it says all bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Written {
    seed: u64,
    len: usize,
    /// It lay in the memory of this node, in this life of it, when it was sealed.
    memory_of: Option<(usize, u64)>,
    /// It was acknowledged when the other node had it, too.
    twice: bool,
}

impl Written {
    fn bytes(&self) -> Vec<u8> {
        content(self.seed, self.len)
    }
}

struct Life {
    here: Installation,
    nodes: Vec<Option<Running>>,
    weather: Weather,
    random: StdRng,
    model: BTreeMap<(usize, String), Written>,
    /// What grows, by node.
    growing: BTreeMap<(usize, usize, String), Written>,
    /// Names that may go with a node that ends, because what they mean is in its memory and nowhere else.
    fleeting: [Vec<(usize, String)>; 2],
    /// How often each node has begun.
    lives: [u64; 2],
    /// What is open, where, and what it was.
    readers: Vec<(usize, Object, Written)>,
    /// Of the run and this life, for messages.
    place: String,
}

fn below(key: &str, prefix: &str) -> bool {
    prefix.is_empty() || key == prefix || key.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'))
}

impl Life {
    async fn begin(seed: u64, place: String) -> Life {
        let mut random = StdRng::seed_from_u64(seed);
        let weather = Weather::new(random.random());
        let mut here = Installation::new().await;
        for bucket_name in BUCKETS {
            here.namenode.create_bucket(&bucket(bucket_name)).await.unwrap();
        }
        here.limit = *[700 << 10, 2 << 20].choose(&mut random).unwrap();
        here.persist = Some(Persist::over(Arc::new(weather.clone()), "weather"));
        here.tuning = Tuning {
            wait: Duration::ZERO,
            spill: SpillOptions { automatic: random.random_bool(0.7), ..SpillOptions::default() },
            key: random.random_bool(0.25).then(|| RestKey::new(&[7; 32])),
            memory: Some(base::unit::Bytes(*[300 << 10, 1 << 20].choose(&mut random).unwrap())),
            ..Tuning::default()
        };
        for (name, mode) in [(1, Mode::WriteBehind), (THROUGH, Mode::WriteThrough)] {
            here.tuning.buckets.insert(bucket(BUCKETS[name]), BucketPolicy { mode, ..BucketPolicy::default() });
        }
        here.tuning.buckets.insert(bucket(BUCKETS[MEMORY]), BucketPolicy { tier: Place::Memory, ..BucketPolicy::default() });
        let twice = BucketPolicy { second_copy: Some(SecondCopy::Required), copy_wait: Some(base::unit::Span(Duration::from_secs(60))), ..BucketPolicy::default() };
        here.tuning.buckets.insert(bucket(BUCKETS[TWICE]), twice);
        let (nodes, model, growing) = (vec![None, None], BTreeMap::new(), BTreeMap::new());
        let mut life = Life { here, nodes, weather, random, model, growing, fleeting: Default::default(), lives: [0; 2], readers: Vec::new(), place };
        life.start(0).await;
        life.start(1).await;
        life
    }

    async fn start(&mut self, n: usize) {
        self.nodes[n] = Some(self.here.node(NODES[n]).await);
        self.lives[n] += 1;
        for (b, name) in std::mem::take(&mut self.fleeting[n]) {
            if self.here.namenode.lookup(&bucket(BUCKETS[b]), &key(&name)).await.is_err() {
                self.model.remove(&(b, name));
            }
        }
    }

    async fn stop(&mut self, n: usize) {
        for ((b, name), written) in &self.model {
            if written.memory_of == Some((n, self.lives[n])) {
                let meta = self.here.namenode.lookup(&bucket(BUCKETS[*b]), &key(name)).await.unwrap();
                // Where nothing is spilled by itself, the other node may let go of its copy: the catalog says that this one has it.
                let alone = meta.sites.iter().all(|holder| holder.site.as_str() == NODES[n]) || !self.here.tuning.spill.automatic;
                if meta.persisted.is_none() && alone {
                    self.fleeting[n].push((*b, name.clone()));
                }
            }
        }
        // What is open keeps files alive and not the node; in a process that ends, nothing is open.
        self.readers.retain(|(at, ..)| *at != n);
        if let Some(node) = self.nodes[n].take() {
            node.stop().await;
        }
    }

    fn node(&self, n: usize) -> Node {
        self.nodes[n].as_ref().unwrap().node.clone()
    }

    fn key(&mut self) -> String {
        let depth = self.random.random_range(1..4);
        (0..depth).map(|_| *["a", "b", "ab"].choose(&mut self.random).unwrap()).collect::<Vec<_>>().join("/")
    }

    fn written(&mut self) -> Written {
        let len = match self.random.random_range(0..20) {
            0 => 0,
            1 | 2 => self.random.random_range(20_000..70_000),
            3 => 150_000,
            _ => self.random.random_range(0..6000),
        };
        Written { seed: self.random.random(), len, memory_of: None, twice: false }
    }

    /// What the model knows of an object that was sealed in a bucket by a node.
    async fn sealed(&self, n: usize, b: usize, name: &str, mut written: Written, owes: bool) -> Written {
        if b == MEMORY {
            written.memory_of = Some((n, self.lives[n]));
        }
        if b == TWICE && !owes {
            let meta = self.here.namenode.lookup(&bucket(BUCKETS[b]), &key(name)).await.unwrap();
            assert!(meta.sites.len() > 1 || meta.persisted.is_some(), "{}: {name} was acknowledged with one copy", self.place);
            written.twice = true;
        }
        written
    }

    /// Whether this is the error of an object that is sealed, and owes something yet: an upload, or a second copy.
    fn owes(&self, b: usize, error: &Error, before: u64, what: &str) -> bool {
        match b {
            _ if error.kind() == Kind::ResourceExhausted => false,
            THROUGH => {
                self.excused(error, before, what);
                true
            }
            TWICE => matches!(error, Error::Alone { .. }),
            _ => false,
        }
    }

    /// An error that may be: something has gone wrong with the store behind it since `before`, or there was no room.
    fn excused(&self, error: &Error, before: u64, what: &str) {
        let spoiled = self.weather.suffered() > before && matches!(error.kind(), Kind::Unavailable | Kind::DeadlineExceeded | Kind::DataLoss);
        assert!(spoiled || error.kind() == Kind::ResourceExhausted, "{}: {what}: {error}", self.place);
    }

    async fn step(&mut self) {
        let (n, b) = (self.random.random_range(0..2), self.random.random_range(0..BUCKETS.len()));
        let (name, before) = (self.key(), self.weather.suffered());
        let (node, in_bucket) = (self.node(n), bucket(BUCKETS[b]));
        let (at, has) = ((b, name.clone()), self.model.get(&(b, name.clone())).copied());
        let what = format!("{} {}/{name}", NODES[n], BUCKETS[b]);
        let place = self.place.clone();
        let expect = |answer: Result<(), Error>, there: bool| match answer {
            Ok(()) => assert!(there, "{place}: {what} is not there, and was found"),
            Err(e) => assert!(!there && e.kind() == Kind::NotFound, "{place}: {what}: {e}"),
        };
        match self.random.random_range(0..110) {
            0..30 => {
                let new = self.written();
                let owes = match node.put(&in_bucket, &key(&name), new.bytes().into()).await {
                    Ok(meta) => {
                        assert_eq!(meta.size, new.len as u64);
                        false
                    }
                    // It is sealed, and owes something; or there was no room for it, and nothing has changed.
                    Err(e) if self.owes(b, &e, before, &what) => true,
                    Err(e) => {
                        assert_eq!(e.kind(), Kind::ResourceExhausted, "{}: put {what}: {e}", self.place);
                        return self.make_room(n).await;
                    }
                };
                let new = self.sealed(n, b, &name, new, owes).await;
                self.model.insert(at, new);
            }
            30..33 => {
                let new = self.written();
                let mut writer = node.create_new(&in_bucket, &key(&name)).await.unwrap();
                let done = tokio::task::spawn_blocking(move || writer.write_at(0, &new.bytes()).map(|()| writer)).await.unwrap();
                let sealed = match done {
                    Ok(writer) => writer.seal().await,
                    Err(e) => Err(e),
                };
                let owes = match sealed {
                    Ok(_) => {
                        assert!(has.is_none(), "{}: {what} was taken", self.place);
                        false
                    }
                    Err(e) if e.kind() == Kind::AlreadyExists => return assert!(has.is_some(), "{}: {what} was not taken", self.place),
                    Err(e) if has.is_none() && self.owes(b, &e, before, &what) => true,
                    Err(e) => return assert_eq!(e.kind(), Kind::ResourceExhausted, "{}: create {what}: {e}", self.place),
                };
                let new = self.sealed(n, b, &name, new, owes).await;
                self.model.insert(at, new);
            }
            33..58 => self.look(n, b, &name).await,
            58..62 => {
                let found = node.stat(&in_bucket, &key(&name)).await;
                assert_eq!(found.map(|meta| meta.size as usize).ok(), has.map(|written| written.len), "{}: stat {what}", self.place);
            }
            62..66 => self.listed(n, b, &name).await,
            66..75 => {
                let done = node.delete(&in_bucket, &key(&name)).await;
                expect(done.map(drop), has.is_some());
                self.model.remove(&at);
            }
            75..79 => {
                let to = self.key();
                if to != name {
                    let done = node.rename(&in_bucket, &key(&name), &key(&to)).await;
                    expect(done.map(drop), has.is_some());
                    if let Some(written) = self.model.remove(&at) {
                        self.model.insert((b, to), written);
                    }
                }
            }
            79..82 => {
                let (c, to) = (self.random.random_range(0..BUCKETS.len()), self.key());
                let done = node.copy_object(&in_bucket, &key(&name), &bucket(BUCKETS[c]), &key(&to), false).await;
                expect(done.map(drop), has.is_some());
                if let Some(written) = has {
                    self.model.insert((c, to), written);
                }
            }
            82..85 => self.prefix(n, b, &name).await,
            85..91 => {
                // A name, a folder or the whole bucket.
                let prefix = if self.random.random_bool(0.3) { "" } else { &name };
                if let Err(e) = node.spill(&in_bucket, prefix).await {
                    self.excused(&e, before, &format!("spill {what}"));
                }
            }
            91..93 => {
                if let Err(e) = node.collect().await {
                    self.excused(&e, before, "collect");
                }
                node.sweep().await.unwrap();
            }
            93..96 => {
                let part = *[0.0, 0.05, 0.3, 1.0].choose(&mut self.random).unwrap();
                self.weather.set(part);
            }
            96 => {
                drop(node);
                self.stop(n).await;
                self.other_has(n).await;
                self.start(n).await;
            }
            97 => {
                drop(node);
                self.stop(0).await;
                self.stop(1).await;
                self.here.lend_namenode().await;
                self.here.take_namenode_back().await;
                self.start(0).await;
                self.start(1).await;
            }
            98 | 99 => {
                drop(node);
                // What is cut in memory is gone in any case.
                self.cut(n, if b == MEMORY { 0 } else { b }, &name).await;
            }
            _ => {
                drop(node);
                self.grow(n, b, name).await;
            }
        }
    }

    /// While a node is away, the other has what was acknowledged as being at both.
    async fn other_has(&mut self, away: usize) {
        let twice: Vec<_> = self.model.iter().filter(|(_, written)| written.twice).map(|(at, written)| (at.clone(), *written)).collect();
        let Some(((b, name), written)) = twice.choose(&mut self.random) else { return };
        let before = self.weather.suffered();
        match self.node(1 - away).open_object(&bucket(BUCKETS[*b]), &key(name)).await {
            Ok(object) => assert!(object.bytes() == written.bytes(), "{}: {}/{name} has other bytes", self.place, BUCKETS[*b]),
            Err(e) => self.excused(&e, before, &format!("open {}/{name} with one node", BUCKETS[*b])),
        }
    }

    /// Something that is done with an object that grows.
    async fn grow(&mut self, n: usize, b: usize, name: String) {
        let there: Vec<_> = self.growing.keys().filter(|at| at.0 == n).cloned().collect();
        let at = match there.choose(&mut self.random) {
            Some(one) if there.len() >= GROWING_MAX || self.random.random_bool(0.7) => one.clone(),
            _ => (n, b, name),
        };
        let (node, before) = (self.node(n), self.weather.suffered());
        let (in_bucket, name, what) = (bucket(BUCKETS[at.1]), key(&at.2), format!("{} {}/{} that grows", NODES[n], BUCKETS[at.1], at.2));
        let taken = self.model.contains_key(&(at.1, at.2.clone()));
        let log = match node.appendable(&in_bucket, &name).await {
            Ok(log) => log,
            Err(e) => return assert!(taken && !self.growing.contains_key(&at) && e.kind() == Kind::FailedPrecondition, "{}: {what}: {e}", self.place),
        };
        if !self.growing.contains_key(&at) {
            assert!(!taken, "{}: {what} is sealed", self.place);
            self.growing.insert(at.clone(), Written { seed: self.random.random(), len: 0, memory_of: None, twice: false });
        }
        let known = self.growing[&at];
        assert_eq!(log.len(), known.len as u64, "{}: {what} has another length", self.place);
        match self.random.random_range(0..20) {
            0..10 => {
                let more = if self.random.random_bool(0.1) { 60_000 } else { self.random.random_range(0..9000) };
                let longer = Written { len: known.len + more, ..known };
                let new = longer.bytes()[known.len..].to_vec();
                if self.random.random_bool(0.1) {
                    let wrong = log.append(known.len as u64 + 1, new.clone().into()).await.unwrap_err();
                    assert_eq!(wrong.kind(), Kind::FailedPrecondition, "{}: {what}: {wrong}", self.place);
                }
                match log.append(known.len as u64, new.into()).await {
                    Ok(len) => {
                        assert_eq!(len, longer.len as u64, "{}: {what}", self.place);
                        self.growing.insert(at, longer);
                    }
                    Err(e) => {
                        assert_eq!(e.kind(), Kind::ResourceExhausted, "{}: {what}: {e}", self.place);
                        assert_eq!(log.len(), known.len as u64, "{}: {what} has grown by what was refused", self.place);
                    }
                }
            }
            10..13 => {
                if let Err(e) = log.spill_head().await {
                    self.excused(&e, before, &format!("spill the head of {what}"));
                }
            }
            13..16 => {
                let from = self.random.random_range(0..=known.len);
                let len = self.random.random_range(0..=known.len - from + 10);
                match log.read(from as u64, len as u64).await {
                    Ok(bytes) => assert!(bytes == known.bytes()[from..(from + len).min(known.len)], "{}: {what} has other bytes", self.place),
                    Err(e) => self.excused(&e, before, &format!("read {what}")),
                }
            }
            16..19 => self.seal_grown(&log, at, known, taken, before, &what).await,
            _ => {
                log.discard().await.unwrap();
                self.growing.remove(&at);
            }
        }
    }

    async fn seal_grown(&mut self, log: &Appendable, at: (usize, usize, String), known: Written, taken: bool, before: u64, what: &str) {
        let (n, b, name) = (at.0, at.1, at.2.clone());
        let owes = match log.seal().await {
            Ok(meta) => {
                assert!(!taken && meta.size == known.len as u64, "{}: {what}", self.place);
                false
            }
            Err(e) if e.kind() == Kind::AlreadyExists => return assert!(taken, "{}: {what}: {e}", self.place),
            Err(e) => {
                let there = self.here.namenode.lookup(&bucket(BUCKETS[b]), &key(&name)).await.is_ok();
                if taken || !there {
                    // It goes on as it was.
                    return self.excused(&e, before, &format!("seal {what}"));
                }
                assert!(self.owes(b, &e, before, what), "{}: {what} is sealed: {e}", self.place);
                true
            }
        };
        self.growing.remove(&at);
        // What has grown lies on the disk, whatever its bucket says.
        let sealed = self.sealed(n, b, &name, known, owes).await;
        self.model.insert((b, name), Written { memory_of: None, ..sealed });
    }

    /// A node ends in the middle of a call: afterwards all of it is there or nothing.
    async fn cut(&mut self, n: usize, b: usize, name: &str) {
        let (node, in_bucket) = (self.node(n), bucket(BUCKETS[b]));
        let epoch = async |node: &Node| node.stat(&bucket(BUCKETS[b]), &key(name)).await.ok().map(|meta: ObjectMeta| meta.epoch);
        let old = epoch(&node).await;
        let fleeting = self.model.get(&(b, name.to_string())).is_some_and(|written| written.memory_of == Some((n, self.lives[n])));
        let new = self.written();
        let pause = Duration::from_micros(self.random.random_range(0..1500));
        let put = self.random.random_bool(0.7);
        let call = if put {
            let (node, name) = (node.clone(), key(name));
            async move { node.put(&in_bucket, &name, new.bytes().into()).await.map(drop) }.boxed()
        } else {
            let node = node.clone();
            async move { node.spill(&in_bucket, "").await.map(drop) }.boxed()
        };
        let _ = tokio::time::timeout(pause, call).await;
        drop(node);
        self.stop(n).await;
        self.start(n).await;
        let now = epoch(&self.node(n)).await;
        if put && now != old && (now.is_some() || !fleeting) {
            assert!(now.is_some(), "{}: {name} is gone by a put that was cut", self.place);
            self.model.insert((b, name.into()), new);
        } else if !fleeting {
            assert_eq!(now, old, "{}: {name} has changed by itself", self.place);
        }
    }

    /// Opens a name at a node; keeps it open now and then.
    async fn look(&mut self, n: usize, b: usize, name: &str) {
        let before = self.weather.suffered();
        let has = self.model.get(&(b, name.to_string())).copied();
        match (self.node(n).open_object(&bucket(BUCKETS[b]), &key(name)).await, has) {
            (Ok(object), Some(written)) => {
                assert!(object.bytes() == written.bytes(), "{}: {}/{name} has other bytes", self.place, BUCKETS[b]);
                if self.random.random_bool(0.1) && self.readers.len() < 10 {
                    self.readers.push((n, object, written));
                }
            }
            (Ok(_), None) => panic!("{}: {}/{name} is back", self.place, BUCKETS[b]),
            (Err(e), None) => assert_eq!(e.kind(), Kind::NotFound, "{}: {e}", self.place),
            (Err(e), Some(_)) => self.excused(&e, before, &format!("open {}/{name}", BUCKETS[b])),
        }
    }

    async fn listed(&self, n: usize, b: usize, prefix: &str) {
        let listing = self.node(n).list(&bucket(BUCKETS[b]), prefix, None, Page::default()).await.unwrap();
        let found: Vec<_> = listing.objects.iter().map(|meta| (meta.key.to_string(), meta.size as usize)).collect();
        let expected: Vec<_> = self.model.iter().filter(|((c, name), _)| *c == b && below(name, prefix)).map(|((_, name), written)| (name.clone(), written.len)).collect();
        assert_eq!(found, expected, "{}: {}/{prefix}", self.place, BUCKETS[b]);
    }

    /// Moves, copies or removes all below a name, in one step.
    async fn prefix(&mut self, n: usize, b: usize, from: &str) {
        let (node, c, to) = (self.node(n), self.random.random_range(0..BUCKETS.len()), self.key());
        let moved: Vec<_> = self.model.iter().filter(|((d, name), _)| *d == b && below(name, from)).map(|((_, name), written)| (name.clone(), *written)).collect();
        let size = moved.iter().map(|(_, written)| written.len as u64).sum();
        let sort = if self.model.len() > NAMES_MAX { 0 } else { self.random.random_range(0..3) };
        // Names don't grow, and no folder is put into itself.
        let fits = to.split('/').count() <= from.split('/').count() && !below(&to, from) && !below(from, &to);
        let done = match sort {
            0 => node.delete_prefix(&bucket(BUCKETS[b]), from).await,
            _ if !fits => return,
            1 => node.rename_prefix(&bucket(BUCKETS[b]), from, &bucket(BUCKETS[c]), &to, false).await,
            _ => node.copy_prefix(&bucket(BUCKETS[b]), from, &bucket(BUCKETS[c]), &to).await,
        };
        match done {
            Ok(counted) => assert_eq!(counted, (moved.len() as u64, size), "{}: {}/{from}", self.place, BUCKETS[b]),
            Err(e) => assert!(moved.is_empty() && e.kind() == Kind::NotFound, "{}: {e}", self.place),
        }
        if sort < 2 {
            self.model.retain(|(d, name), _| *d != b || !below(name, from));
        }
        if sort > 0 {
            self.model.extend(moved.into_iter().map(|(name, written)| ((c, format!("{to}{}", &name[from.len()..])), written)));
        }
    }

    /// Removes some names: the store is full, and the one behind it may be away.
    async fn make_room(&mut self, n: usize) {
        let names: Vec<_> = self.model.keys().filter(|_| self.random.random_bool(0.2)).cloned().collect();
        for (b, name) in names {
            self.node(n).delete(&bucket(BUCKETS[b]), &key(&name)).await.unwrap();
            self.model.remove(&(b, name));
        }
    }

    /// What holds after every step.
    fn holds(&mut self) {
        for node in self.nodes.iter().flatten() {
            for usage in [node.disk(), node.memory()] {
                assert!(usage.charged <= usage.limit + node.segment_bytes(), "{}: {usage:?}", self.place);
            }
        }
        if !self.readers.is_empty() {
            let chosen = self.random.random_range(0..self.readers.len());
            let (_, object, written) = &self.readers[chosen];
            assert!(object.bytes() == written.bytes(), "{}: what is open has changed", self.place);
            if self.random.random_bool(0.2) {
                self.readers.swap_remove(chosen);
            }
        }
    }

    /// The weather gets better: all is there at both nodes, and when all is removed, no byte stays, here or in the store behind.
    async fn end(mut self) {
        self.weather.set(0.0);
        for (_, object, written) in std::mem::take(&mut self.readers) {
            assert!(object.bytes() == written.bytes(), "{}: what is open has changed", self.place);
        }
        for (at, known) in std::mem::take(&mut self.growing) {
            let log = self.node(at.0).appendable(&bucket(BUCKETS[at.1]), &key(&at.2)).await.unwrap();
            assert!(log.read(0, u64::MAX).await.unwrap() == known.bytes(), "{}: {at:?} that grows has other bytes", self.place);
            log.discard().await.unwrap();
        }
        for n in 0..2 {
            // One node has no room for all: what it has goes to the store behind it.
            for b in 0..BUCKETS.len() {
                self.listed(n, b, "").await;
                self.node(n).spill(&bucket(BUCKETS[b]), "").await.unwrap();
            }
            let names: Vec<_> = self.model.keys().cloned().collect();
            for (b, name) in names {
                let written = self.model[&(b, name.clone())];
                let mut found = self.node(n).open_object(&bucket(BUCKETS[b]), &key(&name)).await;
                if found.as_ref().is_err_and(|e| e.kind() == Kind::ResourceExhausted) {
                    for b in 0..BUCKETS.len() {
                        self.node(n).spill(&bucket(BUCKETS[b]), "").await.unwrap();
                    }
                    found = self.node(n).open_object(&bucket(BUCKETS[b]), &key(&name)).await;
                }
                let found = found.unwrap_or_else(|e| panic!("{}: {}/{name} is lost: {e}", self.place, BUCKETS[b]));
                assert!(found.bytes() == written.bytes(), "{}: {}/{name}", self.place, BUCKETS[b]);
            }
        }
        for name in BUCKETS {
            let _ = self.node(0).delete_prefix(&bucket(name), "").await; // it may be empty
        }
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let mut left = 0;
            for n in 0..2 {
                self.node(n).collect().await.unwrap();
                self.node(n).sweep().await.unwrap();
                left += self.node(n).used_bytes() + self.node(n).memory().used;
            }
            let stored: Vec<_> = self.weather.store.list(None).try_collect().await.unwrap();
            if left == 0 && stored.is_empty() {
                break;
            }
            assert!(Instant::now() < end, "{}: {left} bytes stay when nothing has a name, and in the store behind {stored:?}", self.place);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// So many steps, in lives of at most [`LIFE`] each.
async fn lives(seed: u64, steps: u64) {
    let (began, mut told) = (Instant::now(), Instant::now());
    let mut done = 0;
    while done < steps {
        // The first life has the seed that was given, so that a life that failed is repeated alone.
        let own = seed.wrapping_add(done / LIFE);
        let mut life = Life::begin(own, format!("GEDS_SEED={own}")).await;
        for n in 0..LIFE.min(steps - done) {
            life.place = format!("GEDS_SEED={own}, step {n}");
            life.step().await;
            life.holds();
            done += 1;
        }
        life.end().await;
        if told.elapsed() > Duration::from_secs(20) {
            told = Instant::now();
            println!("{done} steps in {:.0} s", began.elapsed().as_secs_f64());
        }
    }
    println!("{done} steps in {:.0} s, none of them wrong", began.elapsed().as_secs_f64());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_lives_of_the_whole_store_are_those_of_a_map() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (steps, seed) = (number("GEDS_STEPS").unwrap_or(2 * LIFE), number("GEDS_SEED").unwrap_or_else(rand::random));
    println!("seed {seed}");
    lives(seed, steps).await;
}

#[test]
fn random_lives_in_the_simulator_are_those_of_a_map_and_a_seed_repeats_them() {
    simulated::each("random_lives_in_the_simulator_are_those_of_a_map_and_a_seed_repeats_them", LIVES, |seed| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(lives(seed, LIFE));
    });
}
