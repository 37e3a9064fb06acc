//! When objects go to the persistency tier, and when their copies here go.
//!
//! ```text
//! sealed ─┬─ ephemeral ───────────────▶ uploaded only when room is wanted
//!         ├─ write-behind ─▶ queue ───▶ uploaded soon, within the bandwidth, not while the breaker is open
//!         └─ write-through ───────────▶ uploaded before the seal returns
//! room wanted, and nothing is spilled by itself ─▶ copies go of what is in the persistency tier, or was fetched from another site
//! room wanted (above `high`, or a writer waits) ─▶ copies of what is uploaded go, also while the tier does not answer ─▶ victims: idle × size ─▶ upload, verify, commit, free ─▶ until `low`
//! it fails ─┬─ the store (its errors, its silence) ─▶ the breaker: all wait, then one tries, and not the same as before
//!           ├─ the catalog ─────────────────────────▶ all wait a moment
//!           └─ the object (damaged, unreadable) ────▶ it rests, longer and longer; the others go on
//! ```
//!
//! The decisions are functions of their arguments: [`victims`], [`Breaker`], [`Pace`]. One task per node acts on them; it has nothing to do when
//! nobody writes. The queue holds ids, so it is never longer than what the node holds; after a restart the catalog says what is still to be uploaded. The steps of an
//! upload and a spill are in `node.rs`, the store's own retries in `persist.rs`.

use crate::{
    BucketName, Error, Key, ObjectId, ObjectMeta, Page, Result, SecondCopy,
    deadline::Deadline,
    leases::Wanted,
    local::Local,
    names::Prefix,
    node::{Inner, Node, Tuning, compute, joined},
    persist::{Persist, There},
};
use base::{Kind, Pace, behind::Behind, unit::Span};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex, Weak,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// Uploads at a time.
pub(crate) const UPLOADS: usize = 4;
/// The first pause after a failure, and the longest; each is twice the one before.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long it is waited for the persistency tier's word whether it has something.
const LOOK_MAX: Duration = Duration::from_secs(1);
/// When nothing was found that is uploaded already, it is not looked for again before that: it costs a look at all objects.
const NONE_UPLOADED: Duration = Duration::from_secs(1);
/// So often a drain looks what has come since it last looked.
const DRAIN_ROUNDS: usize = 3;
/// Objects of which it is known that they failed, besides those that rest.
const FAILED_MAX: usize = 4096;

/// What a bucket's objects owe the persistency tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Nothing: they are uploaded only when room is wanted.
    #[default]
    Ephemeral,
    /// They are uploaded soon after they are sealed.
    WriteBehind,
    /// A seal returns when they are uploaded and verified.
    WriteThrough,
}

/// Where a bucket's objects lie at first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    #[default]
    Disk,
    /// In the memory tier, if the node has one. They end with the process, unless they were uploaded.
    Memory,
}

/// How long objects stay that cells write into a bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lifetime {
    /// Until they are deleted.
    #[default]
    Kept,
    /// Until the job that wrote them has ended.
    Job,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BucketPolicy {
    pub mode: Mode,
    pub tier: Place,
    pub lifetime: Lifetime,
    /// A place in the persistency tier, such as `landsat/2024`; `""`: all of it. What others have put below it can be read under the bucket's name.
    pub bind: Option<String>,
    /// How long the tier's answer about such an object is believed; without it, it is asked at each open.
    pub fresh: Option<Span>,
    /// Whether a seal waits until another site has a copy, too; and for how long, 5 s without it.
    pub second_copy: Option<SecondCopy>,
    pub copy_wait: Option<Span>,
}

/// That what is promised can be kept: without a persistency tier nothing is uploaded before a seal returns, or ever.
pub(crate) fn check_modes(tuning: &Tuning, persist: Option<&Persist>) -> Result<()> {
    let all = tuning.buckets.values().chain([&tuning.policy]);
    let mode = match all.map(|policy| policy.mode).find(|mode| persist.is_none() && *mode != Mode::Ephemeral) {
        None => return Ok(()),
        Some(Mode::WriteBehind) => "write-behind",
        Some(_) => "write-through",
    };
    Err(Error::BadValue { what: "`mode` in [geds]", value: mode.into(), rule: "it is about the persistency tier; set `persist` in [geds], or take `ephemeral`" })
}

#[derive(Clone, Copy, Debug)]
pub struct SpillOptions {
    /// Spill without being asked, when there is a persistency tier.
    pub automatic: bool,
    /// The share of the limit above which objects are spilled, and the share at which that ends.
    pub high: f64,
    pub low: f64,
    /// Bytes per second of uploads that nobody waits for.
    pub bandwidth: Option<u64>,
}

impl Default for SpillOptions {
    fn default() -> SpillOptions {
        SpillOptions { automatic: true, high: 0.80, low: 0.65, bandwidth: None }
    }
}

// --- decisions --------------------------------------------------------------------------------------------------------------------

#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub id: ObjectId,
    pub size: u64,
    /// Seconds since it was opened.
    pub idle: u32,
    pub persisted: bool,
    /// Attempts that have failed since one worked.
    pub failures: u32,
}

/// What to spill to free `bytes`: what is uploaded already first, for it costs nothing; then what has been idle for long and is large. What failed before comes behind what did not, or one that
/// always fails would be the only one that is ever tried.
pub(crate) fn victims(mut all: Vec<Candidate>, bytes: u64) -> Vec<ObjectId> {
    let worth = |c: &Candidate| (Reverse(c.failures), c.persisted, (u128::from(c.idle) + 1) * u128::from(c.size.max(1)));
    all.sort_by(|a, b| worth(b).cmp(&worth(a)).then(a.id.cmp(&b.id)));
    let mut sum = 0;
    let chosen = all.iter().take_while(|c| {
        let more = sum < bytes;
        sum += c.size.max(1);
        more
    });
    chosen.map(|c| c.id).collect()
}

/// How long it is waited after so many failures before this one.
fn pause(failures: u32) -> Duration {
    base::pace::pause(failures, PAUSE, PAUSE_MAX)
}

/// Keeps a store that fails from being asked all the time: closed, open until a time, then one try that decides.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Breaker {
    failures: u32,
    until: Option<Instant>,
}

impl Breaker {
    /// How many may try now; if none, when.
    pub fn allows(&self, now: Instant) -> Result<usize, Instant> {
        match self.until {
            None => Ok(UPLOADS),
            Some(until) if now >= until => Ok(1),
            Some(until) => Err(until),
        }
    }

    pub fn succeeded(&mut self) {
        *self = Breaker::default();
    }

    pub fn failed(&mut self, now: Instant) {
        if self.until.is_some_and(|until| now < until) {
            return; // one of several that were under way
        }
        self.until = Some(now + pause(self.failures));
        self.failures = self.failures.saturating_add(1);
    }

    pub fn is_open(&self) -> bool {
        self.until.is_some()
    }
}

/// What an attempt that failed says something of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blame {
    Store,
    Catalog,
    Object,
}

fn blame(error: &Error) -> Blame {
    match error {
        Error::Persist { .. } => Blame::Store,
        Error::Upload { source, .. } => match &**source {
            Error::Persist { .. } | Error::Remote { kind: Kind::DeadlineExceeded, .. } => Blame::Store,
            // It came back with other bytes, for instance.
            _ => Blame::Object,
        },
        Error::Remote { .. } | Error::Broken { .. } | Error::Unsure { .. } if error.is_uncertain() => Blame::Catalog,
        _ => Blame::Object,
    }
}

/// What could not be brought away when it was tried last.
#[derive(Clone, Copy, Debug)]
struct Failed {
    times: u32,
    /// It is not tried before.
    rests_until: Option<Instant>,
}

// --- acting -----------------------------------------------------------------------------------------------------------------------

/// To be uploaded.
#[derive(Default)]
struct Queue {
    /// In the order of their seals; what has failed is behind.
    waiting: VecDeque<ObjectId>,
    under_way: HashSet<ObjectId>,
}

pub(crate) struct Spiller {
    wake: Arc<Notify>,
    queue: Mutex<Queue>,
    failed: Mutex<HashMap<ObjectId, Failed>>,
    breaker: Mutex<Breaker>,
    /// What the persistency tier has failed with the last time.
    why: Mutex<String>,
    /// Bytes for which writers want copies to go, on the disk and in memory, where nothing is spilled by itself.
    wanted: [AtomicU64; 2],
    pub pace: Pace,
    pub free_pace: Pace,
    /// When there was nothing uploaded that could go, on the disk and in memory.
    none_uploaded: [Mutex<Option<Instant>>; 2],
    /// Where the task runs, with its copies, checksums and uploads: who writes has the processors first. If it waits for room they are free.
    behind: Behind,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Spiller {
    pub fn new(options: &SpillOptions) -> Spiller {
        Spiller {
            wake: Arc::default(),
            queue: Mutex::default(),
            failed: Mutex::default(),
            breaker: Mutex::default(),
            why: Mutex::default(),
            wanted: [const { AtomicU64::new(0) }; 2],
            pace: Pace::new(options.bandwidth),
            free_pace: Pace::new(None),
            none_uploaded: Default::default(),
            behind: Behind::new("geds-spill", 1),
        }
    }

    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// A writer finds no room for so many bytes.
    pub fn want(&self, memory: bool, bytes: u64) {
        self.wanted[usize::from(memory)].fetch_max(bytes, SeqCst);
        self.wake();
    }

    /// Uploads it when its turn comes.
    pub fn owe(&self, id: ObjectId) {
        lock(&self.queue).waiting.push_back(id);
        self.wake();
    }

    /// Objects that wait for their upload, or are being uploaded.
    pub fn queued(&self) -> u64 {
        let queue = lock(&self.queue);
        (queue.waiting.len() + queue.under_way.len()) as u64
    }

    /// The same by their ids.
    fn owed(&self) -> HashSet<ObjectId> {
        let queue = lock(&self.queue);
        queue.waiting.iter().chain(&queue.under_way).copied().collect()
    }

    /// Takes the first that may be tried now, at most so many.
    fn next(&self, most: usize) -> Vec<ObjectId> {
        let mut queue = lock(&self.queue);
        let mut taken = Vec::new();
        let mut at = 0;
        while taken.len() < most && at < queue.waiting.len() {
            match self.rests(queue.waiting[at]) {
                true => at += 1,
                false => taken.extend(queue.waiting.remove(at)),
            }
        }
        queue.under_way.extend(&taken);
        taken
    }

    /// An attempt for one of these is over.
    fn tried(&self, id: ObjectId, done: bool) {
        let mut queue = lock(&self.queue);
        queue.under_way.remove(&id);
        if !done {
            queue.waiting.push_back(id);
        }
    }

    fn rests(&self, id: ObjectId) -> bool {
        lock(&self.failed).get(&id).and_then(|failed| failed.rests_until).is_some_and(|until| until > Instant::now())
    }

    /// When the first of those that rest may be tried again.
    fn rest_ends(&self) -> Option<Instant> {
        let now = Instant::now();
        lock(&self.failed).values().filter_map(|failed| failed.rests_until).filter(|until| *until > now).min()
    }

    pub fn breaker_open(&self) -> bool {
        lock(&self.breaker).is_open()
    }

    /// Why the persistency tier takes nothing at the moment, if that is so.
    pub fn why_open(&self) -> Option<String> {
        self.breaker_open().then(|| lock(&self.why).clone())
    }

    fn allowed(&self) -> Result<usize, Instant> {
        lock(&self.breaker).allows(Instant::now())
    }

    /// Learns from an attempt. `Ok(false)` says nothing of the store: there was nothing to do. An error says that all have to wait, and until when.
    fn heard(&self, id: ObjectId, answer: &Result<bool>) -> Result<(), Instant> {
        let error = match answer {
            Ok(worked) => {
                lock(&self.failed).remove(&id);
                if *worked {
                    lock(&self.breaker).succeeded();
                }
                return Ok(());
            }
            Err(error) => error,
        };
        let (now, blame) = (Instant::now(), blame(error));
        if blame == Blame::Catalog {
            return Err(now + PAUSE);
        }
        {
            let mut all = lock(&self.failed);
            if all.len() >= FAILED_MAX {
                // What is gone is not asked for again.
                all.retain(|_, failed| failed.rests_until.is_some_and(|until| until > now));
            }
            let failed = all.entry(id).or_insert(Failed { times: 0, rests_until: None });
            failed.rests_until = (blame == Blame::Object).then(|| now + pause(failed.times));
            failed.times = failed.times.saturating_add(1);
        }
        if blame == Blame::Object {
            tracing::warn!(%id, %error, "an object can't be brought away; the others are, and it is tried again later");
            return Ok(());
        }
        let mut breaker = lock(&self.breaker);
        if !breaker.is_open() {
            tracing::warn!(%error, "the persistency tier fails; it is tried again after a pause; until then only copies of what it has go from here");
        }
        *lock(&self.why) = error.to_string();
        breaker.failed(now);
        breaker.allows(now).map(drop)
    }

    /// Ends with the node.
    pub fn run(&self, node: Weak<Inner>) {
        let wake = self.wake.clone();
        self.behind.spawn(async move {
            let mut again: Option<Instant> = None;
            loop {
                match again {
                    None => wake.notified().await,
                    Some(at) => {
                        let _ = tokio::time::timeout_at(at.into(), wake.notified()).await; // either will do
                    }
                }
                let Some(inner) = node.upgrade() else { return };
                again = inner.spill_round().await;
            }
        });
    }
}

impl Inner {
    /// Wakes the spiller when the tier is above its high mark.
    pub(crate) fn watch_level(&self, memory: bool) {
        if self.persist.is_some() && self.tuning.spill.automatic && self.above(memory, self.tuning.spill.high) {
            self.spiller.wake();
        }
    }

    fn above(&self, memory: bool, share: f64) -> bool {
        let space = self.tier.space(memory);
        space.charged() as f64 > space.limit as f64 * share
    }

    /// Compacts. What fails is told in the log: the writer that wanted room hears that there is none.
    pub(crate) fn reclaim(&self, memory: bool) {
        // What other processes keep only in case they need it again keeps a segment from going.
        if self.lending.get().is_some_and(|lending| lending.want_stale(&self.tier)) {
            self.tier.tidy();
        }
        if let Err(error) = self.tier.reclaim(memory) {
            tracing::warn!(%error, "segments can't be compacted");
        }
    }

    /// Makes room that costs nothing: copies of what the persistency tier has for others go, and segments are compacted.
    pub(crate) fn make_way_for(&self, memory: bool, bytes: u64) {
        if !memory {
            self.make_way(bytes);
        }
        self.reclaim(memory);
    }

    /// Does what is due. Returns when to look again, if nobody wakes the task before.
    async fn spill_round(self: &Arc<Self>) -> Option<Instant> {
        let inner = self.clone();
        let maintained = compute(move || inner.tier.maintain()).await;
        if let Err(error) = maintained.and_then(|done| done) {
            tracing::warn!(%error, "the journal can't be rewritten");
        }
        if !self.spills() {
            for memory in [false, true] {
                let wanted = self.spiller.wanted[usize::from(memory)].swap(0, SeqCst);
                if wanted > 0 {
                    self.evict(memory, wanted, self.tuning.wait).await;
                }
            }
            return None;
        }
        let mut again = self.make_room_anywhere().await.err();
        if let Err(at) = self.upload_queued().await {
            again = Some(at);
        }
        again
    }

    /// Whether room is made without being asked, by uploading what is to go.
    fn spills(&self) -> bool {
        self.persist.is_some() && self.tuning.spill.automatic
    }

    /// Makes room where nothing is spilled by itself, for at least so many bytes: what is elsewhere, too, goes from here. Whoever has to say whether a copy may go is waited for so long each time, or a second. False: there was nothing of the sort.
    pub(crate) async fn evict(self: &Arc<Self>, memory: bool, bytes: u64, wait: Duration) -> bool {
        if self.spills() || (memory && !self.tier.has_memory()) {
            return false;
        }
        let inner = self.clone();
        let chosen = compute(move || {
            let now = inner.tier.age();
            let copies = inner.tier.all().into_iter().filter(|local| local.in_memory() == memory && (local.spare.load(SeqCst) || local.persisted.load(SeqCst)));
            let copies = copies.filter(|local| !inner.is_sealing(local.id)).map(|local: Arc<Local>| Candidate {
                id: local.id,
                size: local.size,
                idle: now.saturating_sub(local.used_at.load(Relaxed)),
                persisted: true,
                failures: 0,
            });
            victims(copies.collect(), u64::MAX)
        });
        let (mut freed, mut gone) = (0, 0);
        for id in chosen.await.unwrap_or_default() {
            // A task of its own: what the catalog has let go of is to go here, too, however long that answer takes.
            let inner = self.clone();
            let evicting = tokio::spawn(async move { inner.evict_copy(id).await });
            let what = || format!("the question whether a copy of object {id} may go");
            match Deadline::after(wait).keep(what, async { joined(evicting.await).and_then(|done| done) }).await {
                Ok(Some(size)) => (freed, gone) = (freed + size, gone + 1),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "copies of what is elsewhere can't go: the catalog does not answer");
                    break;
                }
            }
            if freed >= bytes {
                break;
            }
        }
        let inner = self.clone();
        let _ = compute(move || inner.reclaim(memory)).await; // what it frees is seen by who wants it
        gone > 0
    }

    /// Frees a copy, if somebody else has the object and nobody counts on this copy. Its bytes.
    async fn evict_copy(self: &Arc<Self>, id: ObjectId) -> Result<Option<u64>> {
        let turn = self.turn(id);
        // Who fetches another object may wait for room within that one's turn; so nobody is waited for here.
        let Ok(_turn) = turn.try_lock() else { return Ok(None) };
        let Some(local) = self.tier.get(id) else { return Ok(None) };
        let Some(meta) = self.catalog.find(id).await? else { return Ok(None) };
        let stored = match (&meta.persisted, &self.persist) {
            (Some(location), Some(persist)) => matches!(persist.there(location, meta.size, LOOK_MAX).await, Ok(There::Yes | There::Silent)),
            _ => false,
        };
        let spare = local.spare.load(SeqCst) && self.tuning.policy(&meta.bucket).second_copy.is_none();
        if !stored && !(spare && self.is_elsewhere(&meta).await?) {
            return Ok(None);
        }
        match self.catalog.drop_holder(&meta.bucket, &meta.key, meta.epoch, &self.site).await {
            // Others may have counted on this copy when they gave up theirs.
            Ok(now) if !stored && !self.is_elsewhere(&now).await.unwrap_or(false) => {
                self.catalog.add_holder(&meta.bucket, &meta.key, meta.epoch, &self.site).await?;
                Ok(None)
            }
            Ok(_) => Ok(Some(self.free(id))),
            // It is the only copy by now, or something else.
            Err(e) if matches!(e.kind(), Kind::NotFound | Kind::FailedPrecondition) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whether a site that is there has a copy, too: one that is recorded of a site that is gone may be gone with it.
    async fn is_elsewhere(&self, meta: &ObjectMeta) -> Result<bool> {
        if meta.sites.iter().all(|holder| holder.site == self.site) {
            return Ok(false);
        }
        let there = self.catalog.sites().await?;
        Ok(meta.sites.iter().any(|holder| holder.site != self.site && there.iter().any(|site| site.site == holder.site)))
    }

    fn wants_room(&self, memory: bool, started: bool) -> bool {
        let options = &self.tuning.spill;
        self.tier.space(memory).waiting() > 0 || self.above(memory, if started { options.low } else { options.high })
    }

    /// On the disk and in memory, where it is wanted. An error says when to try again.
    async fn make_room_anywhere(self: &Arc<Self>) -> Result<(), Instant> {
        let mut done = Ok(());
        for memory in [false, true] {
            if !memory || self.tier.has_memory() {
                done = self.make_room(memory).await.and(done);
            }
        }
        done
    }

    /// Spills until the low mark. An error says when to try again.
    async fn make_room(self: &Arc<Self>, memory: bool) -> Result<(), Instant> {
        let mut started = false;
        let mut passed_over = HashSet::new();
        while self.wants_room(memory, started) {
            started = true;
            let space = self.tier.space(memory);
            let low = (space.limit as f64 * self.tuning.spill.low) as u64;
            if !memory && self.make_way(space.charged().saturating_sub(low).max(1)) {
                self.reclaim(memory);
                continue;
            }
            // They are the first to go in any case, and whether the store takes something more is of no matter to them.
            if self.free_uploaded(memory).await {
                continue;
            }
            let at_a_time = self.spiller.allowed()?;
            // Full parts of what grows: nobody writes them again.
            if !memory && self.spill_heads().await? {
                continue;
            }
            let inner = self.clone();
            let skip = passed_over.clone();
            let chosen = compute(move || {
                inner.reclaim(memory);
                inner.choose(memory, |local| !skip.contains(&local.id))
            });
            let chosen = chosen.await.unwrap_or_default();
            if chosen.is_empty() {
                return self.spiller.rest_ends().map_or(Ok(()), Err);
            }
            let mut spilled = futures::stream::iter(chosen.into_iter().map(|id| async move { (id, self.spill_id(id).await) }))
                .buffer_unordered(at_a_time);
            let mut goes_on = Ok(());
            while let Some((id, answer)) = spilled.next().await {
                if let Ok(false) = answer {
                    // Changed or not known yet; another time.
                    passed_over.insert(id);
                }
                goes_on = self.spiller.heard(id, &answer);
                if goes_on.is_err() {
                    break;
                }
            }
            drop(spilled);
            let inner = self.clone();
            let _ = compute(move || inner.reclaim(memory)).await; // what it frees is seen above
            goes_on?;
        }
        Ok(())
    }

    /// Uploads full parts of what grows here. True: some have gone.
    async fn spill_heads(self: &Arc<Self>) -> Result<bool, Instant> {
        let mut gone = false;
        for appendable in self.growing().into_iter().filter(|appendable| !self.spiller.rests(appendable.id())) {
            let answer = appendable.spill_head().await.map(|freed| freed > 0);
            gone |= matches!(answer, Ok(true));
            self.spiller.heard(appendable.id(), &answer)?;
        }
        Ok(gone)
    }

    /// Frees what was uploaded and compared before. While the persistency tier is away, who opens it has to wait for the tier, but who writes has room. False: there was nothing of the sort.
    async fn free_uploaded(self: &Arc<Self>, memory: bool) -> bool {
        let looked = &self.spiller.none_uploaded[usize::from(memory)];
        if lock(looked).is_some_and(|at| at.elapsed() < NONE_UPLOADED) {
            return false;
        }
        let inner = self.clone();
        let chosen = compute(move || inner.choose(memory, |local| local.persisted.load(SeqCst))).await.unwrap_or_default();
        let is_silent = AtomicBool::new(false);
        let mut freed = false;
        // Those that are under way when one fails come to their end: what the record has let go of is to go here, too.
        let failed = AtomicBool::new(false);
        let goes_on = async |id| if failed.load(SeqCst) { Ok(false) } else { self.free_one_uploaded(id, &is_silent).await };
        let mut freeing = futures::stream::iter(chosen.into_iter().map(goes_on)).buffer_unordered(UPLOADS);
        while let Some(answer) = freeing.next().await {
            match answer {
                Ok(done) => freed |= done,
                Err(error) => {
                    tracing::debug!(%error, "copies of what the persistency tier should have can't go");
                    failed.store(true, SeqCst);
                }
            }
        }
        drop(freeing);
        let inner = self.clone();
        let _ = compute(move || inner.reclaim(memory)).await; // what it frees is seen by who wants it
        *lock(looked) = (!freed).then(Instant::now);
        freed
    }

    /// `is_silent`: the tier was asked lately and did not answer, so what it had it has. One that answers is asked for each, and one that refuses may have lost all.
    async fn free_one_uploaded(&self, id: ObjectId, is_silent: &AtomicBool) -> Result<bool> {
        let turn = self.turn(id);
        let Ok(_turn) = turn.try_lock() else { return Ok(false) };
        let Some(local) = self.tier.get(id) else { return Ok(false) };
        let Some(meta) = self.catalog.find(id).await? else { return Ok(false) };
        let (Some(location), Some(persist)) = (&meta.persisted, &self.persist) else { return Ok(false) };
        if !is_silent.load(SeqCst) {
            match persist.there(location, meta.size, LOOK_MAX).await? {
                There::Yes => {}
                There::Silent => is_silent.store(true, SeqCst),
                There::No => {
                    tracing::warn!(bucket = %meta.bucket, key = %meta.key, location, "the persistency tier has lost an object; it is brought there again");
                    local.persisted.store(false, SeqCst);
                    self.spiller.owe(id);
                    return Ok(false);
                }
            }
        }
        let memory = local.in_memory();
        drop(local);
        self.let_go(&meta, memory).await
    }

    /// What to free next, of what is `wanted`.
    fn choose(&self, memory: bool, wanted: impl Fn(&Local) -> bool) -> Vec<ObjectId> {
        let space = self.tier.space(memory);
        let low = (space.limit as f64 * self.tuning.spill.low) as u64;
        // A writer that waits below the low mark wants much: then a part at a time.
        let bytes = space.charged().saturating_sub(low).max(if space.waiting() > 0 { space.limit / 16 } else { 0 });
        let now = self.tier.age();
        let candidates = self.tier.all().into_iter().filter(|local| local.in_memory() == memory && wanted(local));
        let candidates = candidates.map(|local: Arc<Local>| Candidate {
            id: local.id,
            size: local.size,
            idle: now.saturating_sub(local.used_at.load(Relaxed)),
            persisted: local.persisted.load(SeqCst),
            failures: lock(&self.spiller.failed).get(&local.id).map_or(0, |failed| failed.times),
        });
        victims(candidates.filter(|c| !self.is_sealing(c.id) && !self.spiller.rests(c.id)).collect(), bytes)
    }

    /// Uploads and frees. False: it is not here any more, or the catalog does not know it.
    async fn spill_id(self: &Arc<Self>, id: ObjectId) -> Result<bool> {
        let Some(persist) = self.persist.clone() else { return Ok(false) };
        match self.catalog.find(id).await? {
            Some(meta) => self.spill(&persist, &meta, &self.spiller.free_pace).await,
            None => Ok(false),
        }
    }

    /// Uploads without freeing. False: there was nothing to do.
    async fn upload_id(self: &Arc<Self>, id: ObjectId) -> Result<bool> {
        let Some(persist) = self.persist.clone() else { return Ok(false) };
        match self.catalog.find(id).await? {
            Some(meta) => Ok(self.upload(&persist, &meta, &self.spiller.pace).await?.is_some()),
            None => Ok(false),
        }
    }

    async fn upload_queued(self: &Arc<Self>) -> Result<(), Instant> {
        loop {
            if lock(&self.spiller.queue).waiting.is_empty() {
                return Ok(());
            }
            let at_a_time = self.spiller.allowed()?;
            let batch = self.spiller.next(at_a_time);
            if batch.is_empty() {
                return self.spiller.rest_ends().map_or(Ok(()), Err);
            }
            let mut uploads = std::pin::pin!(futures::future::join_all(batch.iter().map(|id| self.upload_id(*id))));
            // A store that does not answer is waited for, and meanwhile what it has is to make room.
            let answers = loop {
                tokio::select! {
                    answers = &mut uploads => break answers,
                    () = self.spiller.wake.notified() => {}
                }
                let mut room = std::pin::pin!(self.make_room_anywhere());
                let ended = tokio::select! {
                    answers = &mut uploads => Some(answers),
                    _ = &mut room => None,
                };
                if let Some(answers) = ended {
                    let _ = room.await; // the next look finds what is left
                    break answers;
                }
            };
            let mut goes_on = Ok(());
            for (id, answer) in batch.into_iter().zip(answers) {
                goes_on = goes_on.and(self.spiller.heard(id, &answer));
                self.spiller.tried(id, answer.is_ok());
            }
            goes_on?;
            // Room comes first.
            self.make_room_anywhere().await?;
        }
    }

    /// What a seal owes, once the catalog has it.
    pub(crate) async fn settle_debt(self: &Arc<Self>, meta: ObjectMeta) -> Result<ObjectMeta> {
        // What is uploaded before the seal returns is safe.
        let meta = match self.tuning.policy(&meta.bucket).mode {
            Mode::WriteThrough => meta,
            _ => self.second(meta).await?,
        };
        match self.tuning.policy(&meta.bucket).mode {
            Mode::Ephemeral => Ok(meta),
            Mode::WriteBehind => {
                self.spiller.owe(meta.id);
                Ok(meta)
            }
            Mode::WriteThrough => {
                // `check_modes` has seen to it that there is one.
                let persist = self.persist.clone().ok_or_else(|| Error::NoPersist { bucket: meta.bucket.to_string() })?;
                match self.upload(&persist, &meta, &self.spiller.free_pace).await {
                    Ok(now) => Ok(now.unwrap_or(meta)),
                    Err(e) => {
                        self.spiller.owe(meta.id);
                        Err(Error::Remote {
                            kind: e.kind(),
                            message: format!("{}/{} is sealed, but not yet in the persistency tier: {e}", meta.bucket, meta.key),
                        })
                    }
                }
            }
        }
    }
}

impl Node {
    /// Uploads this node's copies of the objects with a prefix that are not in the persistency tier yet, and keeps them. Returns how many objects and bytes that were.
    ///
    /// A store that fails is tried again until the deadline; then the error names what was wrong. What changes meanwhile is passed over.
    pub async fn flush(&self, bucket: &BucketName, prefix: &str, deadline: Duration) -> Result<(u64, u64)> {
        let inner = &self.inner;
        let persist = inner.persist.clone().ok_or_else(|| Error::NoPersist { bucket: bucket.to_string() })?;
        let deadline = Deadline::after(deadline);
        let what = || format!("the flush of {bucket}/{prefix}");
        let wanted = Prefix::new(prefix)?;
        deadline.keep(what, async { Ok(inner.names.settle(Wanted::Prefix(bucket, &wanted)).await) }).await?;
        let (mut objects, mut bytes) = (0, 0);
        let mut page = Page::default();
        loop {
            let listing = deadline.keep(what, inner.catalog.list(bucket, prefix, None, page)).await?;
            let owed = listing.objects.into_iter().filter(|meta| meta.persisted.is_none() && inner.tier.get(meta.id).is_some());
            // Nothing is borrowed, so that the whole may go on as a task of its own.
            let owed: Vec<ObjectMeta> = owed.collect();
            let mut uploads = futures::stream::iter(owed.into_iter().map(|meta| {
                let (inner, persist) = (inner.clone(), persist.clone());
                async move { (meta.size, inner.upload_until(&persist, &meta, deadline.end()).await) }
            }))
            .buffer_unordered(UPLOADS);
            while let Some((size, answer)) = uploads.next().await {
                match answer {
                    Ok(Some(_)) => {
                        objects += 1;
                        bytes += size;
                    }
                    Ok(None) => {}
                    Err(e) => return Err(deadline.late(what(), format!("{objects} objects were uploaded; {e}"))),
                }
            }
            drop(uploads);
            match listing.next {
                Some(next) => page = Page { start_after: next, ..Page::default() },
                None => return Ok((objects, bytes)),
            }
        }
    }

    /// Waits until what has the key now is in the persistency tier, and sees to it if it is here.
    pub async fn wait_durable(&self, bucket: &BucketName, key: &Key, deadline: Duration) -> Result<ObjectMeta> {
        let inner = &self.inner;
        let persist = inner.persist.clone().ok_or_else(|| Error::NoPersist { bucket: bucket.to_string() })?;
        let deadline = Deadline::after(deadline);
        let what = || format!("the upload of {bucket}/{key}");
        deadline.keep(what, async { Ok(inner.names.settle(Wanted::Key(bucket, key)).await) }).await?;
        loop {
            let meta = deadline.keep(what, inner.catalog.lookup(bucket, key)).await?;
            if meta.persisted.is_some() {
                return Ok(meta);
            }
            if inner.tier.get(meta.id).is_some() {
                match inner.upload_until(&persist, &meta, deadline.end()).await {
                    Ok(Some(meta)) => return Ok(meta),
                    Ok(None) => continue,
                    Err(e) => return Err(deadline.late(what(), e.to_string())),
                }
            }
            if deadline.rest().is_zero() {
                return Err(deadline.late(what(), "the site that holds it has not uploaded it"));
            }
            tokio::time::sleep(Duration::from_millis(50).min(deadline.rest())).await;
        }
    }

    /// Brings away what would be lost or owed when the process ends, for SIGTERM: publishes what was sealed here, and uploads what write-behind owes and what lies
    /// in memory. What lies on the disk stays there for the next start. Returns how many objects were uploaded.
    pub async fn drain(&self, deadline: Duration) -> Result<u64> {
        let inner = &self.inner;
        let deadline = Deadline::after(deadline);
        let what = || "the drain".to_string();
        let settled = tokio::time::timeout_at(deadline.end().into(), inner.names.settle(Wanted::All)).await;
        settled.map_err(|_| deadline.late(what(), "objects that were sealed here are not published"))?;
        let Some(persist) = inner.persist.clone() else {
            return match inner.only_in_memory().len() {
                0 => Ok(0),
                n => Err(deadline.late(what(), format!("{n} objects in memory have nowhere to go; set `persist` in [geds]"))),
            };
        };
        let (mut done, mut tried) = (0, HashSet::new());
        // What others have sealed meanwhile was acknowledged like everything before; but who goes on sealing is not waited for without end.
        for _ in 0..DRAIN_ROUNDS {
            // What is under way is waited for, too: its turn comes after.
            let mut owed = inner.spiller.owed();
            owed.extend(inner.only_in_memory());
            owed.retain(|id| tried.insert(*id));
            if owed.is_empty() {
                break;
            }
            done += self.bring_away(&persist, owed, deadline, done).await?;
        }
        Ok(done)
    }

    /// Uploads these until the deadline; how many that were. `before`: as many were uploaded already, for who is told that it was not all.
    async fn bring_away(&self, persist: &Persist, owed: HashSet<ObjectId>, deadline: Deadline, before: u64) -> Result<u64> {
        let inner = &self.inner;
        let (mut done, mut failed, mut last) = (0, 0, String::new());
        let mut uploads = futures::stream::iter(owed.into_iter().map(|id| {
            async move {
                match deadline.keep(|| format!("the question what object {id} is"), inner.catalog.find(id)).await? {
                    Some(meta) => Ok(inner.upload_until(persist, &meta, deadline.end()).await?.is_some()),
                    None => Ok::<_, Error>(false),
                }
            }
        }))
        .buffer_unordered(UPLOADS);
        while let Some(answer) = uploads.next().await {
            match answer {
                Ok(uploaded) => done += u64::from(uploaded),
                Err(e) => (failed, last) = (failed + 1, e.to_string()),
            }
        }
        match failed {
            0 => Ok(done),
            _ => Err(deadline.late("the drain".into(), format!("{} objects were uploaded, {failed} were not: {last}", before + done))),
        }
    }
}

impl Inner {
    /// What would end with the process.
    fn only_in_memory(&self) -> Vec<ObjectId> {
        self.tier.all().iter().filter(|l| l.in_memory() && !l.persisted.load(SeqCst)).map(|l| l.id).collect()
    }

    /// Tries until `end`, the last time right before it. `None`: it changed meanwhile, or is not here.
    async fn upload_until(self: &Arc<Self>, persist: &crate::Persist, meta: &ObjectMeta, end: Instant) -> Result<Option<ObjectMeta>> {
        let mut pause = PAUSE;
        let mut last: Option<Error> = None;
        loop {
            let rest = end.saturating_duration_since(Instant::now());
            let answer = match tokio::time::timeout(rest, self.upload(persist, meta, &self.spiller.free_pace)).await {
                Ok(answer) => answer,
                Err(_) => {
                    return Err(last.unwrap_or_else(|| Error::Remote {
                        kind: Kind::DeadlineExceeded,
                        message: format!("{persist} did not take {}/{} in time", meta.bucket, meta.key),
                    }));
                }
            };
            let rest = end.saturating_duration_since(Instant::now());
            match answer {
                Ok(done) => return Ok(done),
                Err(e) if rest <= PAUSE => return Err(e),
                Err(e) => {
                    if last.is_none() {
                        tracing::warn!(error = %e, "an object is asked to be in the persistency tier, and is not taken there; tried again for {:.0} s", rest.as_secs_f64());
                    }
                    last = Some(e);
                }
            }
            tokio::time::sleep(pause.min(rest - PAUSE)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

impl Drop for Spiller {
    fn drop(&mut self) {
        // The task sees that the node is gone.
        self.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn victims_are_uploaded_ones_then_idle_and_large_ones() {
        let c = |id: u128, size, idle, persisted| Candidate { id: ObjectId(id), size, idle, persisted, failures: 0 };
        let all = vec![c(1, 100, 0, false), c(2, 100, 50, false), c(3, 10, 3, true), c(4, 1000, 9, false), c(5, 10, 900, false)];
        let chosen = |bytes| victims(all.clone(), bytes).iter().map(|id| id.0).collect::<Vec<_>>();
        assert_eq!(chosen(0), []);
        assert_eq!(chosen(10), [3]);
        assert_eq!(chosen(11), [3, 4]);
        assert_eq!(chosen(1011), [3, 4, 5]);
        assert_eq!(chosen(u64::MAX), [3, 4, 5, 2, 1]);
        let mut failed = all.clone();
        (failed[3].failures, failed[2].failures) = (2, 1);
        assert_eq!(victims(failed, u64::MAX).iter().map(|id| id.0).collect::<Vec<_>>(), [5, 2, 1, 3, 4], "the store may take another");
    }

    #[test]
    fn a_store_that_fails_is_asked_less_and_less_until_one_try_works() {
        let mut breaker = Breaker::default();
        let mut now = Instant::now();
        let start = now;
        assert_eq!(breaker.allows(now), Ok(UPLOADS));
        let mut pauses = Vec::new();
        for _ in 0..9 {
            breaker.failed(now);
            let until = breaker.allows(now).unwrap_err();
            pauses.push((until - now).as_millis());
            now = until;
            assert_eq!(breaker.allows(now), Ok(1), "one may try");
        }
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
        assert!(now > start && breaker.is_open());
        breaker.succeeded();
        assert_eq!(breaker.allows(now), Ok(UPLOADS));
    }
}
