//! Bytes leave the log: for long-term storage, or for the [`overflow`] while that is away, and from there for long-term storage when it is back.

use super::{
    Tier,
    damage::{Failed, Look},
    ended, lock, remedy, storage,
};
use crate::{
    Error, Result, Store,
    log::{Seq, crc32c},
    manifest::{self, Owner},
    overflow::{self, Overflow},
    segment::{Chunk, ChunkId, Extent, Landed, Record, Segment, SegmentId, Source, State, pieces},
};
use base::{Kind, behind};
use bytes::Bytes;
use geds::Persist;
use rand::Rng;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// How often the flusher looks at what there is to do.
const TICK: Duration = Duration::from_millis(250);
/// Pauses between tries while the storage is away: from, to.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// A storage that does not answer for so long is told of, before it is known why, and the log may flow over beside what it was asked for.
const SILENT_MAX: Duration = Duration::from_secs(3);
/// So long it is looked why.
const WHY_MAX: Duration = Duration::from_millis(500);
/// So many of the newest chunks are looked for, of which one has to be there.
const NEWEST: usize = 3;
/// Chunks that are removed in one look.
const REMOVE_MAX: usize = 64;
/// How long what failed to be written is asked to go; with the storage away, no longer.
const REMOVE_WAIT: Duration = Duration::from_secs(2);
/// A manifest may cost this many bytes per second in the mean; a larger one comes less often.
const MANIFEST_RATE: f64 = 1e6;

impl Tier {
    /// Flushes and removes until it is dropped or the log stops. An error says that another server has taken over, or that the storage is not the log's.
    pub async fn run(self: Arc<Self>, store: Store) -> Result<()> {
        match &self.overflow {
            Some(overflow) => {
                if let Err(e) = overflow.take_stock(&store, &self).await {
                    tracing::warn!(error = %e, "the overflow can't be read");
                }
            }
            None => {
                let missing: Vec<ChunkId> = store.peek(|state| overflow::needed(state).map(|(id, _)| id).collect());
                self.lose_all(missing, "it is in an overflow folder, and this server has none");
            }
        }
        let mut flusher = Flusher { tier: self.clone(), store: store.clone(), since: HashMap::new(), owner: None, told: None, unneeded: BTreeMap::new(), moved: Vec::new() };
        let mut pause = PAUSE.0;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.spare.sweep();
            // A flush that fails after half a minute would keep its bytes from the overflow for as long.
            if (self.is_away() || flusher.owner.is_none())
                && let Err(e) = self.probe(&store).await
            {
                self.miss(e.kind(), format!("{e}{}", remedy(e.kind())));
                self.overflowing(&store, tokio::time::sleep(pause), || true).await;
                pause = (pause * 2).min(PAUSE.1);
                continue;
            }
            match self.overflowing(&store, flusher.look(), || self.is_silent()).await {
                Ok(()) => {
                    self.reach();
                    pause = PAUSE.0;
                }
                Err(Error::Stopped(_)) => return Ok(()),
                Err(e @ (Error::Fenced(_) | Error::Elsewhere(_))) => {
                    tracing::error!(error = %e, "nothing is written any more");
                    store.bar(&e);
                    flusher.store.log().stop(&e.to_string());
                    return Err(e);
                }
                // Of this machine, and not of the storage: a full disk may get room.
                Err(e @ Error::Conflict(_)) => {
                    tracing::warn!(error = %e, "no manifest now; tried again");
                    tokio::time::sleep(PAUSE.0).await;
                }
                Err(e) => {
                    self.miss(e.kind(), e.to_string());
                    let jitter = rand::rng().random_range(0.5..1.0);
                    self.overflowing(&store, tokio::time::sleep(pause.mul_f64(jitter)), || true).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
    }

    /// Refuses storage that has not what this log has brought there last: its history could not be read here, and what came now would be missing there. And storage that has more of this log than the folder:
    /// what came later would be removed there, as chunks that nothing points to.
    pub(crate) async fn belongs(&self, store: &Store) -> Result<()> {
        let (chunks, bytes, newest) = store.peek(|state| {
            let there = state.chunks.iter().filter(|(id, c)| !overflow::has(&c.location) && state.live.chunk_bytes.get(id).is_some_and(|b| *b > 0));
            // Those of one storage that this log had for a while are not enough: the newest ones say where it was the last time.
            let newest: Vec<String> = there.clone().rev().take(NEWEST).map(|(_, c)| c.location.clone()).collect();
            let (chunks, bytes) = there.fold((0u64, 0u64), |(chunks, bytes), (_, c)| (chunks + 1, bytes + u64::from(c.bytes)));
            (chunks, bytes, newest)
        });
        let (log, epoch) = store.log().identity();
        if let Some(Seq(next)) = manifest::ahead(&self.persist, log, epoch, store.log().begun()).await? {
            return Err(Error::Elsewhere(format!(
                "this folder's log {log:016x} ends before block {}, and {} knows it up to block {}: the folder is a copy from before, and what came later would be lost there; start with the folder that went on, or if it is lost, begin an empty one with `--restore {log:016x}`",
                store.log().begun().0,
                self.persist,
                next - 1
            )));
        }
        if chunks == 0 || manifest::has_any(&self.persist, log, epoch, &newest).await? {
            return Ok(());
        }
        let (chunks, bytes, home) = (base::unit::count(chunks, "chunk"), base::unit::Bytes(bytes), manifest::home(log));
        Err(Error::Elsewhere(format!(
            "{} has not what this folder's log {log:016x} has brought to long-term storage last: {chunks} ({bytes}) lie in the one that it had before: start with that one; to move it, copy {home} from there to the same place here while no server runs; if it is lost for good, begin with an empty folder",
            self.persist
        )))
    }

    /// Does something, and lets the log flow over beside it while it `may`. When it is done, no further chunk is begun.
    async fn overflowing<T>(self: &Arc<Self>, store: &Store, work: impl Future<Output = T>, may: impl Fn() -> bool) -> T {
        let Some(overflow) = &self.overflow else { return work.await };
        let mut work = std::pin::pin!(work);
        let (mut told, mut done, is_done) = (false, None, AtomicBool::new(false));
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = tokio::time::sleep(TICK) => {}
                () = store.until_full() => {}
            }
            let mut flown = std::pin::pin!(self.flow_over(store, overflow, || may() && !is_done.load(Relaxed)));
            // The chunk under way is waited for also then: one that is not recorded would stay until the next start.
            let flown = loop {
                tokio::select! {
                    d = &mut work, if done.is_none() => {
                        done = Some(d);
                        is_done.store(true, Relaxed);
                    }
                    flown = &mut flown => break flown,
                }
            };
            match flown {
                Err(e) if !std::mem::replace(&mut told, true) => tracing::warn!(error = %e, "the overflow takes nothing; bytes stay in the log"),
                Ok(true) if self.is_silent() && !self.is_away() && !self.told_silent.swap(true, Relaxed) => {
                    tracing::warn!(storage = %self.persist, "long-term storage has not answered for {SILENT_MAX:?} and the log is half full: until it does, what comes goes to the overflow");
                }
                _ => {}
            }
            if let Some(done) = done {
                return done;
            }
        }
    }

    /// As long as the log is half full and it `may`, what is longest in one of its segments goes to the overflow. Whether anything did. Of the backlog, what long-term storage is being
    /// given does not count, in what is there nor in what may be: with much of it, each append would be a chunk.
    async fn flow_over(self: &Arc<Self>, store: &Store, overflow: &Overflow, may: impl Fn() -> bool) -> Result<bool> {
        // A segment that can't be read now comes again the next time, or a disk that fails now and then would keep everybody here.
        let (mut unreadable, mut flown) = (HashSet::new(), false);
        if may() {
            self.tidy(store, overflow).await?;
        }
        while may() {
            let room = overflow.room();
            // What is begun where it gives way ends there, however urgent it becomes: so it is less, until there is little room.
            let most = if store.is_filling() { self.options.chunk_bytes } else { self.options.chunk_bytes / 4 };
            let largest = most.min(usize::try_from(room).unwrap_or(usize::MAX));
            let due = store.peek(|state| {
                let full = pressed(store, state, lock(&self.under_way).iter().map(|((_, start), end)| end - start).sum());
                let examining = lock(&self.examining.segments);
                let due = state.segments.iter().filter(|(id, s)| full && !s.deleted && s.landed.unflushed > 0 && !examining.contains(id) && !unreadable.contains(*id));
                let due = due.map(|(id, s)| Due::new(*id, &s.name, self.next_run(*id, &s.landed, largest)));
                let longest = due.filter(|d| d.bytes() <= room).max_by_key(Due::bytes).filter(|d| d.bytes() > 0);
                longest.map(|due| self.under_way(due))
            });
            let Some(due) = due else { break };
            match self.flush(store, due, &overflow.persist, &overflow::chunks(store.log().identity().0)).await? {
                Some(unread) => {
                    unreadable.insert(unread.id);
                    self.examine_beside(store, unread, Look::First);
                }
                None => flown = true,
            }
        }
        Ok(flown)
    }

    /// Removes from the overflow what nothing points to any more. No manifest knows of that, so it does not wait for one, or for long-term storage.
    async fn tidy(&self, store: &Store, overflow: &Overflow) -> Result<()> {
        let idle = |state: &State| {
            let here = state.chunks.iter().filter(|(id, chunk)| overflow::has(&chunk.location) && !self.has_failed(**id, Failed::Remove));
            here.filter_map(|(id, _)| Some((*id, state.idle_chunk(*id)?.clone()))).take(REMOVE_MAX).collect::<Vec<_>>()
        };
        // As long as these are held, nobody else takes them for idle: what two removed would be counted twice.
        let dead = store.peek(idle);
        if dead.is_empty() {
            return Ok(());
        }
        // After a crash it must not be needed again: what has truncated or deleted it is durable first.
        store.log().wait(store.log().last()).await?;
        for (chunk, gone) in dead {
            if let Err(error) = overflow.remove(&gone).await {
                tracing::warn!(%error, chunk = gone.location, "the overflow can't remove what is not needed any more; it is tried again");
                self.lose(store, chunk, Failed::Remove, &error.to_string());
                continue;
            }
            store.change(|state| Ok((state.chunks.contains_key(&chunk).then_some(Record::ChunkGone { chunk }), ()))).await?;
        }
        Ok(())
    }

    /// What of a segment leaves the log next.
    fn next_run(&self, id: SegmentId, landed: &Landed, max: usize) -> Vec<Extent> {
        let (damaged, under_way) = (self.avoided(id), lock(&self.under_way));
        let is_under_way = |start: u64| under_way.range(..=(id, start)).next_back().is_some_and(|((of, _), end)| *of == id && start < *end);
        take(landed, max, |e| damaged.contains(&e.start) || is_under_way(e.start))
    }

    /// Takes extents for a chunk, of long-term storage or of the overflow: nobody else takes them before this is dropped.
    fn under_way(self: &Arc<Self>, due: Due) -> Due {
        let (Some(first), Some(last)) = (due.extents.first(), due.extents.last()) else { return due };
        let key = (due.id, first.start);
        lock(&self.under_way).insert(key, last.end());
        Due { _under_way: Some(UnderWay(self.clone(), key)), ..due }
    }

    /// Long-term storage has not answered for [`SILENT_MAX`], be it silent or slower than that with one chunk.
    pub(super) fn is_silent(&self) -> bool {
        lock(&self.asked).is_silent(Instant::now())
    }

    /// Asks long-term storage for something: only who is asked can be silent, and what this machine does between two requests takes its own time.
    async fn ask<T>(&self, request: impl Future<Output = T>) -> T {
        struct Asking<'a>(&'a Tier);
        impl Drop for Asking<'_> {
            fn drop(&mut self) {
                lock(&self.0.asked).end(Instant::now());
            }
        }
        lock(&self.asked).begin(Instant::now());
        let _asking = Asking(self);
        request.await
    }

    /// Asks for something of this chunk where it is. The overflow's silence is not that of long-term storage.
    async fn ask_of<T>(&self, location: &str, request: impl Future<Output = T>) -> T {
        match overflow::has(location) {
            true => request.await,
            false => self.ask(request).await,
        }
    }

    /// Puts bytes of the log into a chunk in `folder`, of long-term storage or the overflow. What can't be read together is given back, to be examined.
    async fn flush(self: &Arc<Self>, store: &Store, due: Due, persist: &Persist, folder: &str) -> Result<Option<Due>> {
        let Some(first) = due.extents.first().map(|e| e.start) else { return Ok(None) };
        let began = Instant::now();
        // Megabytes are read, copied and summed more than once, which is much for appends to wait behind.
        let data = match self.read_log(store, &due.extents).await {
            Ok(data) => data,
            // That is the log's fault, and neither the storage's nor that of other segments. What can be read of it goes the next time.
            Err(_) => return Ok(Some(due)),
        };
        let location = format!("{folder}/{}/{first}-{}-{:016x}", due.id.0, data.len(), rand::random::<u64>());
        if let Err(e) = self.put(store, persist, &location, &data).await {
            // It may be there all the same. Nothing will ever point to it, and only the next start would find it.
            let _ = tokio::time::timeout(REMOVE_WAIT, self.ask_of(&location, persist.delete(&location))).await;
            return Err(e);
        }
        let pieces = pieces(&data);
        let bytes = data.len() as u64;
        let recorded = store
            .change(|state| {
                let there = state.segments.get(&due.id).is_some_and(|s| !s.deleted && s.length >= first + bytes);
                let chunk = ChunkId(state.next_chunk);
                let record = Record::Flushed { chunk, id: due.id, location: location.clone(), start: first, pieces };
                Ok((there.then_some(record), there))
            })
            .await?;
        match (recorded, &self.overflow) {
            (true, Some(overflow)) if overflow::has(&location) => overflow.added(bytes),
            (true, _) => {
                self.reach();
                self.flushed_bytes.fetch_add(bytes, Relaxed);
                store.metrics().flush.note(began.elapsed());
            }
            // Deleted or merged meanwhile; its bytes went with it.
            (false, _) => self.ask_of(&location, persist.delete(&location)).await.map_err(storage)?,
        }
        Ok(None)
    }

    /// The bytes of extents in the log, read where that holds up no append.
    pub(super) async fn read_log(&self, store: &Store, extents: &[Extent]) -> Result<Bytes> {
        let (there, spare) = (store.in_log(extents)?, self.spare.clone());
        let read = move || {
            let mut lent = spare.take(there.bytes());
            there.read(&mut lent)?;
            Ok(lent.into())
        };
        self.relieving(store, async { ended(&mut tokio::task::spawn_blocking(read)).await }).await
    }

    /// Puts a chunk's bytes under a name that nothing else has, and looks whether they are there. Where it holds up no append.
    async fn put(self: &Arc<Self>, store: &Store, persist: &Persist, location: &str, data: &Bytes) -> Result<()> {
        let (tier, persist, location, data) = (self.clone(), persist.clone(), location.to_string(), data.clone());
        self.relieving(store, async move {
            match tier.ask_of(&location, persist.create_compared(&location, data.clone())).await.map_err(storage)? {
                true => Ok(()),
                false => Err(Error::Spoilt(format!("{location} has other content in {persist} than was put there; it is put again"))),
            }
        })
        .await
    }

    /// Removes a chunk's object from long-term storage, which nothing points to and nobody reads.
    async fn remove(&self, chunk: &Chunk) -> Result<()> {
        self.ask(self.persist.delete(&chunk.location)).await.map_err(storage)
    }

    /// Asks for as little as there is. Where there is no bucket, or no right to write to it, the answer says so more clearly than that to a listing.
    async fn probe(self: &Arc<Self>, store: &Store) -> Result<()> {
        let probe = manifest::probe(store.log().identity().0);
        let asked = async {
            let mut asked = std::pin::pin!(self.persist.create(&probe, Bytes::new()));
            // What is wrong is known when the storage's client gives up, which takes 20 s where nobody answers.
            match tokio::time::timeout(SILENT_MAX, &mut asked).await {
                Ok(done) => done,
                Err(_) => {
                    // Who knows why does not need this.
                    if !self.is_away() {
                        // Which takes no longer than this, or it would not be told of in time.
                        let why = tokio::time::timeout(WHY_MAX, self.persist.why_silent()).await.ok().flatten().map(|why| format!(" ({why})")).unwrap_or_default();
                        self.miss(Kind::DeadlineExceeded, format!("{} has not answered for {SILENT_MAX:?}{why}; it is asked further", self.persist));
                    }
                    asked.await
                }
            }
        };
        self.overflowing(store, self.ask(asked), || true).await.map(drop).map_err(storage)
    }
}

/// Half full, without so many bytes of the backlog: whatever can leave the log shall leave.
fn pressed(store: &Store, state: &State, without: u64) -> bool {
    let (log, backlog_max) = (store.log(), store.options().backlog_max);
    // What was deleted meanwhile is still under way. At three quarters it is always half full.
    let without = without.min(backlog_max / 2);
    state.live.unflushed.saturating_sub(without) > (backlog_max - without) / 2 || log.files_left().min(log.disk_left()) < log.files_used() || store.is_nearly_short()
}

/// Place, length and checksum of the parts of a chunk that something points to.
fn sums(state: &State, id: ChunkId, chunk: &Chunk) -> Vec<(u32, u32, u32)> {
    let of = |segment: &Segment| {
        let extents = segment.landed.extents.iter();
        extents.filter_map(|e| if let Source::Chunk(of, at) = e.source { (of == id).then_some((at, e.len, e.crc)) } else { None }).collect::<Vec<_>>()
    };
    match state.segments.get(&chunk.segment).map(of) {
        Some(sums) if !sums.is_empty() => sums,
        // A transaction's that was committed since.
        _ => state.segments.values().flat_map(of).collect(),
    }
}

/// Requests to long-term storage that have no answer yet.
#[derive(Default)]
pub(super) struct Asked {
    under_way: usize,
    /// When it has answered the last time, or was asked after nothing had been under way.
    since: Option<Instant>,
}

impl Asked {
    fn begin(&mut self, now: Instant) {
        if self.under_way == 0 {
            self.since = Some(now);
        }
        self.under_way += 1;
    }

    /// There is an answer, or nobody waits for it any more.
    fn end(&mut self, now: Instant) {
        self.under_way -= 1;
        self.since = Some(now);
    }

    fn is_silent(&self, now: Instant) -> bool {
        self.under_way > 0 && self.since.is_some_and(|since| now.duration_since(since) > SILENT_MAX)
    }
}

/// What the flusher knows from one look to the next.
struct Flusher {
    tier: Arc<Tier>,
    store: Store,
    /// Since when a segment has bytes that only the log has.
    since: HashMap<SegmentId, Instant>,
    owner: Option<Owner>,
    /// Up to which block the last manifest tells, when it was written, and its bytes.
    told: Option<(Seq, Instant, usize)>,
    /// Chunks that the last manifest does not point to: since when, and how many manifests in a row.
    unneeded: BTreeMap<ChunkId, (Instant, u32)>,
    /// Where chunks were that were moved out of the overflow, and may still be read.
    moved: Vec<Chunk>,
}

/// How long a chunk of the overflow may take to be read.
const READ_MAX: Duration = Duration::from_secs(10);

/// Chunks that leave the overflow in one look; there are four looks in a second.
const MOVE_MAX: usize = 8;

/// So many manifests stay in long-term storage; a chunk of one that stays does, too.
const MANIFESTS: u32 = 2;

impl Flusher {
    /// Flushes what is due, all of it, then removes what is not needed.
    async fn look(&mut self) -> Result<()> {
        if self.owner.is_none() {
            self.claim().await?;
        }
        for due in self.store.peek(|state| self.tier.again(state)) {
            self.tier.examine_beside(&self.store, due, Look::Again);
        }
        let flushed = self.flush_due().await;
        // Storage that is full takes nothing until what is not needed there any more is gone, which may be what it is full of.
        if matches!(flushed, Err(Error::Storage(_))) && self.store.peek(|state| state.chunks.keys().any(|id| state.idle_chunk(*id).is_some())) {
            self.remove().await?;
            self.tell_news().await?;
            self.remove().await?;
        }
        flushed?;
        self.tell_news().await?;
        self.drain().await?;
        self.remove().await
    }

    /// Flushes what is due, until nothing is or a manifest may be: who keeps up only just needs those, too.
    async fn flush_due(&mut self) -> Result<()> {
        let now = Instant::now();
        // A segment that can't be read is examined, and then comes again in the next look: a disk that fails now and then would keep everybody here.
        let mut unreadable = HashSet::new();
        loop {
            let due: Vec<SegmentId> = self.due(now).into_iter().filter(|id| !unreadable.contains(id)).collect();
            if due.is_empty() || now.elapsed() > self.tier.options.manifest_every {
                return Ok(());
            }
            let (mut uploads, mut failed) = (JoinSet::new(), None);
            let mut queue = due.into_iter();
            // While it is away one try at a time is enough.
            let at_a_time = if self.tier.is_away() { 1 } else { self.tier.options.uploads.max(1) };
            loop {
                while uploads.len() < at_a_time
                    && failed.is_none()
                    && let Some(id) = queue.next()
                {
                    let (tier, store) = (self.tier.clone(), self.store.clone());
                    // What it is, is known only now: the overflow may have had some of it meanwhile.
                    let due = store.peek(|state| {
                        let segment = state.segments.get(&id)?;
                        let due = Due::new(id, &segment.name, tier.next_run(id, &segment.landed, tier.options.chunk_bytes));
                        Some(tier.under_way(due)).filter(|due| !due.extents.is_empty())
                    });
                    let Some(due) = due else { continue };
                    let since = self.since.remove(&id);
                    uploads.spawn(async move { (id, since, tier.flush(&store, due, &tier.persist, &manifest::chunks(store.log().identity().0)).await) });
                }
                match uploads.join_next().await {
                    None => break,
                    Some(done) => match done {
                        Ok((_, _, Ok(None))) => {}
                        Ok((id, since, flushed)) => {
                            // It comes again in the next look, and not after another half a minute.
                            self.since.extend(since.map(|since| (id, since)));
                            match flushed {
                                Ok(unread) => {
                                    unreadable.insert(id);
                                    unread.into_iter().for_each(|unread| self.tier.examine_beside(&self.store, unread, Look::First));
                                }
                                // Those under way come to their end: one that is broken off may leave what nobody knows of.
                                Err(e) => failed = failed.or(Some(e)),
                            }
                        }
                        Err(e) => failed = failed.or_else(|| Some(Error::Invalid(format!("a flush ended early: {e}")))),
                    },
                }
            }
            if let Some(e) = failed {
                return Err(e);
            }
        }
    }

    /// Takes the right to write into long-term storage.
    async fn claim(&mut self) -> Result<()> {
        let (log, epoch) = self.store.log().identity();
        // A block of this opening, or the next one would count the same and take us for a stranger.
        self.store.change(|_| Ok((Some(Record::Many(Vec::new())), ()))).await?;
        self.tier.ask(self.tier.belongs(&self.store)).await?;
        let owner = self.tier.ask(Owner::claim(self.tier.persist.clone(), log, epoch)).await?;
        if owner.is_new() {
            self.tier.ask(self.look_around(log)).await;
        }
        self.owner = Some(owner);
        self.tell().await?;
        self.sweep(log).await
    }

    /// Tells who begins with an empty folder that there are streams in long-term storage: it may not be what was meant.
    async fn look_around(&self, log: u64) {
        match manifest::others(&self.tier.persist, log).await {
            Ok(0) => {}
            Ok(logs) => tracing::warn!(
                storage = %self.tier.persist,
                logs,
                "this folder's log is a new one, and long-term storage has streams of others, which are not served here; to go on from one, stop this server and who writes that log, and start with an empty folder and --restore"
            ),
            Err(e) => tracing::warn!(error = %e, "whether long-term storage has streams of other logs can't be seen"),
        }
    }

    /// Moves chunks from the overflow to long-term storage, oldest first.
    async fn drain(&mut self) -> Result<()> {
        let tier = self.tier.clone();
        let Some(overflow) = &tier.overflow else { return Ok(()) };
        // One that failed before is tried last, and one at a time: many of them, each slow to fail, would keep the others here.
        let here = self.store.peek(|state| {
            let all = || overflow::needed(state);
            let here = all().filter(|(id, _)| !tier.was_lost(*id)).take(MOVE_MAX);
            let again = all().filter(|(id, _)| tier.was_lost(*id) && !tier.has_failed(*id, Failed::Read)).take(1);
            here.chain(again).map(|(id, chunk)| (id, chunk.clone(), sums(state, id, chunk))).collect::<Vec<_>>()
        });
        for (id, chunk, sums) in here {
            let (from, at, bytes) = (overflow.persist.clone(), chunk.location.clone(), chunk.bytes);
            let reading = self.tier.aside(async move {
                let data = from.read(&at, 0..bytes.into()).await.map_err(storage)?;
                if data.len() != bytes as usize {
                    return Err(Error::Spoilt(format!("{at} has {} bytes of {bytes}", data.len())));
                }
                let is_other = |(from, len, sum): &(u32, u32, u32)| {
                    behind::turn();
                    data.get(*from as usize..(*from + *len) as usize).is_none_or(|part| crc32c(part) != *sum)
                };
                match sums.iter().find(|part| is_other(part)) {
                    Some((from, ..)) => Err(Error::Spoilt(format!("{at} has other bytes from {from} on than were put there"))),
                    None => Ok(data),
                }
            });
            let read = match tokio::time::timeout(READ_MAX, reading).await {
                Ok(read) => read,
                Err(_) => Err(Error::Spoilt(format!("{} was not read within {READ_MAX:?}", chunk.location))),
            };
            let data = match read {
                Ok(data) => {
                    tier.find(id);
                    data
                }
                Err(error) => {
                    tier.lose(&self.store, id, Failed::Read, &error.to_string());
                    // What comes in meanwhile is flushed before the next one is tried.
                    break;
                }
            };
            let folder = manifest::chunks(self.store.log().identity().0);
            let location = format!("{folder}/{}/moved-{}-{:016x}", chunk.segment.0, data.len(), rand::random::<u64>());
            if let Err(e) = self.tier.put(&self.store, &self.tier.persist, &location, &data).await {
                // As in [`Tier::flush`].
                let _ = tokio::time::timeout(REMOVE_WAIT, self.tier.ask(self.tier.persist.delete(&location))).await;
                return Err(e);
            }
            let to = location.clone();
            let moved = self.store.change(|state| {
                let there = state.chunks.get(&id).is_some_and(|c| c.location == chunk.location);
                Ok((there.then_some(Record::Moved { chunk: id, location: to }), there))
            });
            if moved.await? {
                self.tier.flushed_bytes.fetch_add(data.len() as u64, Relaxed);
                self.moved.push(chunk);
            } else {
                self.tier.ask(self.tier.persist.delete(&location)).await.map_err(storage)?;
            }
        }
        let (held, free): (Vec<Chunk>, Vec<Chunk>) = std::mem::take(&mut self.moved).into_iter().partition(Chunk::is_held);
        self.moved = held;
        for chunk in free {
            // The next start removes what nothing points to.
            if let Err(error) = overflow.remove(&chunk).await {
                tracing::warn!(%error, chunk = chunk.location, "what is in long-term storage by now can't be removed from the overflow, and takes its space until the next start");
            }
        }
        Ok(())
    }

    /// Segments of which something is to leave the log now.
    fn due(&mut self, now: Instant) -> Vec<SegmentId> {
        let (options, store, since) = (&self.tier.options, &self.store, &mut self.since);
        store.peek(|state| {
            let examining = lock(&self.tier.examining.segments);
            since.retain(|id, _| state.segments.contains_key(id));
            let press = pressed(store, state, 0);
            let mut due = Vec::new();
            for (id, segment) in &state.segments {
                let bytes = segment.landed.unflushed;
                if bytes == 0 || segment.deleted {
                    since.remove(id);
                    continue;
                }
                let first = *since.entry(*id).or_insert(now);
                if examining.contains(id) {
                    continue;
                }
                if bytes >= options.flush_bytes || press || now.duration_since(first) >= options.flush_after {
                    // Nothing, if all that only the log has is damaged.
                    if !self.tier.next_run(*id, &segment.landed, options.chunk_bytes).is_empty() {
                        due.push(*id);
                    }
                }
            }
            due
        })
    }

    /// Writes a manifest, if one is due.
    async fn tell_news(&mut self) -> Result<()> {
        let due = self.told.is_none_or(|(seq, at, bytes)| {
            let pause = self.tier.options.manifest_every.max(Duration::from_secs_f64(bytes as f64 / MANIFEST_RATE));
            let owed = self.unneeded.values().any(|(_, manifests)| *manifests < MANIFESTS);
            (owed || seq != self.store.log().last()) && at.elapsed() >= pause
        });
        if due { self.tell().await } else { Ok(()) }
    }

    /// Writes the next manifest.
    async fn tell(&mut self) -> Result<()> {
        let Some(owner) = &mut self.owner else { return Ok(()) };
        let (seq, began) = (self.store.log().last(), Instant::now());
        let checkpoint = self.store.checkpoint().await?;
        // Some milliseconds per 10 MB, and nobody waits for it.
        let cut = tokio::task::spawn_blocking(move || manifest::cut(&checkpoint));
        let cut = cut.await.map_err(|e| Error::Invalid(format!("a manifest was not made: {e}")))??;
        let bytes = self.tier.ask(owner.publish(cut.checkpoint)).await?;
        let before = std::mem::take(&mut self.unneeded);
        let counted = |id| (id, before.get(&id).map_or((began, 1), |(since, manifests)| (*since, manifests.saturating_add(1))));
        self.unneeded = cut.unneeded.into_iter().map(counted).collect();
        self.told = Some((seq, began, bytes));
        *lock(&self.tier.told_at) = Some(began);
        Ok(())
    }

    /// Removes what neither a stream nor a manifest needs any more, from long-term storage and from the overflow.
    async fn remove(&mut self) -> Result<()> {
        let tier = self.tier.clone();
        if let Some(overflow) = &tier.overflow {
            tier.tidy(&self.store, overflow).await?;
        }
        let due = self.unneeded.iter().filter(|(_, (since, manifests))| *manifests >= MANIFESTS && since.elapsed() >= self.tier.options.remove_after);
        // A manifest ends where only the log has bytes; what lies behind is not in it, and not dead.
        let dead = self.store.peek(|state| {
            let idle = due.filter_map(|(id, _)| Some((*id, state.idle_chunk(*id)?.clone())));
            // Those of the overflow are what was tidied above; of one that this server was not given they are forgotten here, and it is swept when it is there again.
            idle.filter(|(_, chunk)| tier.overflow.is_none() || !overflow::has(&chunk.location)).take(REMOVE_MAX).collect::<Vec<_>>()
        });
        for (chunk, gone) in dead {
            // Nobody can begin to read from it any more: where it is, is known by extents only.
            if !overflow::has(&gone.location) {
                self.tier.remove(&gone).await?;
            }
            self.unneeded.remove(&chunk);
            self.store.change(|state| Ok((state.chunks.contains_key(&chunk).then_some(Record::ChunkGone { chunk }), ()))).await?;
        }
        Ok(())
    }

    /// Removes chunks that were put there and not recorded before an earlier process ended.
    async fn sweep(&self, log: u64) -> Result<()> {
        let there = self.tier.ask(self.tier.persist.list(&manifest::chunks(log))).await.map_err(storage)?;
        let known: HashSet<String> = self.store.peek(|state| state.chunks.values().map(|c| c.location.clone()).collect());
        let lost: Vec<String> = there.into_iter().filter(|l| !known.contains(l)).collect();
        if !lost.is_empty() {
            tracing::info!(chunks = lost.len(), "removed chunks that nothing points to");
        }
        for location in lost {
            self.tier.ask(self.tier.persist.delete(&location)).await.map_err(storage)?;
        }
        self.tier.ask(self.tier.persist.forget_unfinished(&manifest::home(log))).await.map(drop).map_err(storage)
    }
}

pub(super) struct Due {
    pub id: SegmentId,
    pub name: String,
    pub extents: Vec<Extent>,
    _under_way: Option<UnderWay>,
}

/// A run of extents of which someone makes a chunk.
struct UnderWay(Arc<Tier>, (SegmentId, u64));

impl Drop for UnderWay {
    fn drop(&mut self) {
        lock(&self.0.under_way).remove(&self.1);
    }
}

impl Due {
    pub fn new(id: SegmentId, name: &str, extents: Vec<Extent>) -> Due {
        Due { id, name: name.into(), extents, _under_way: None }
    }

    fn bytes(&self) -> u64 {
        self.extents.iter().map(|e| u64::from(e.len)).sum()
    }
}

/// The first run of extents in the log, without those to be `avoided`, up to a chunk's size, and to the end of an append: what a manifest
/// tells must make sense without the rest. Of an append that has a part to be avoided, the parts before it are none.
fn take(landed: &Landed, max: usize, avoided: impl Fn(&Extent) -> bool) -> Vec<Extent> {
    let begin = landed.extents.partition_point(|e| e.end() <= landed.flushed);
    let leaves = |e: &Extent| e.in_log() > 0 && !avoided(e);
    let mut left = landed.extents.range(begin..).peekable();
    while left.peek().is_some() {
        let (mut run, mut bytes, mut whole) = (Vec::new(), 0, 0);
        while let Some(extent) = left.next_if(|e| leaves(e)) {
            bytes += extent.len as usize;
            if bytes > max && whole > 0 {
                break;
            }
            run.push(*extent);
            if extent.whole {
                whole = run.len();
            }
        }
        if whole > 0 {
            run.truncate(whole);
            return run;
        }
        while left.next_if(|e| !leaves(e)).is_some() {}
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        log::{FileNo, Place},
        segment::Source,
    };

    /// Extents of these lengths, and whether an append ends with them, of which only the log has the bytes.
    fn landed(of: &[(u32, bool)]) -> Landed {
        let mut landed = Landed::default();
        for (len, whole) in of {
            let source = Source::Log(Place { file: FileNo(1), at: 0 });
            landed.extents.push_back(Extent { start: landed.durable, len: *len, crc: 0, whole: *whole, source });
            landed.durable += u64::from(*len);
        }
        landed
    }

    fn check(of: &[(u32, bool)], max: usize, expected: usize) {
        assert_eq!(take(&landed(of), max, |_| false).len(), expected, "{of:?} in chunks of {max}");
    }

    #[test]
    fn who_is_asked_for_nothing_is_not_silent() {
        let (mut asked, start) = (Asked::default(), Instant::now());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        assert!(!asked.is_silent(at(10)));
        asked.begin(at(10));
        assert!(!asked.is_silent(at(12)) && asked.is_silent(at(14)));
        // One that is answered speaks for those that still wait.
        asked.begin(at(14));
        asked.end(at(15));
        assert!(!asked.is_silent(at(17)) && asked.is_silent(at(19)));
        asked.end(at(19));
        assert!(!asked.is_silent(at(100)), "this machine is busy with something else");
        asked.begin(at(100));
        assert!(!asked.is_silent(at(102)) && asked.is_silent(at(104)));
    }

    #[test]
    fn a_chunk_ends_where_an_append_does() {
        check(&[(100, true), (100, true), (100, true)], 250, 2);
        check(&[(100, true), (100, false), (100, true)], 250, 1);
        check(&[(100, false), (100, false), (100, true), (50, true)], 250, 3);
        check(&[(100, true), (100, false), (100, true)], 1000, 3);
        // What is behind a part that long-term storage has comes in the next one.
        let mut some = landed(&[(100, true), (100, true), (100, true)]);
        some.extents[1].source = Source::Chunk(ChunkId(1), 0);
        assert_eq!(take(&some, 1000, |_| false), [some.extents[0]]);
        some.extents[0].source = Source::Chunk(ChunkId(0), 0);
        some.flushed = 100;
        assert_eq!(take(&some, 1000, |_| false), [some.extents[2]]);
    }

    #[test]
    fn what_is_damaged_and_the_parts_of_its_append_before_it_are_passed_over() {
        let some = landed(&[(100, true), (100, false), (100, false), (100, true), (50, true)]);
        let taken = |avoided: &[u64]| take(&some, 1000, |e| avoided.contains(&e.start)).iter().map(|e| e.start).collect::<Vec<_>>();
        assert_eq!(taken(&[200]), [0], "up to the append");
        let mut some = some;
        (some.extents[0].source, some.flushed) = (Source::Chunk(ChunkId(1), 0), 100);
        let taken = |avoided: &[u64]| take(&some, 1000, |e| avoided.contains(&e.start)).iter().map(|e| e.start).collect::<Vec<_>>();
        assert_eq!(taken(&[200]), [300, 400]);
        assert_eq!(taken(&[]), [100, 200, 300, 400]);
        assert_eq!(taken(&[100, 300, 400]), [0u64; 0]);
    }
}
