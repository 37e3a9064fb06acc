//! A connection to the namenode, its end.
//!
//! One task for each: reads what is there, answers what needs no disk at once, hands changes to the committer, and writes all that is ready in one
//! call. A connection is a session: leases belong to it, revocations go over it. Who calls is told by who accepted it; nobody's word is trusted,
//! and a site may record copies only for itself.

use super::{
    Namenode,
    change::{Answer, Change, Once},
    commit::{Core, Item, Reply, late},
    leases::{self, Session, TERM, hash},
    wire::{self, ASK_BYTES_MAX, Ask, LOOKUPS_MAX, Question, Seen, Told, Writing},
};
use crate::{BucketName, Error, Holder, Key, ObjectId, Page, Result, catalog::PAGE_MAX, eager::Eager};
use base::SiteId;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Notify,
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A peer that says nothing for so long is gone; clients ping every two seconds.
const SILENCE: Duration = Duration::from_secs(10);
/// How long it may take to accept what it is told.
const WRITE_MAX: Duration = Duration::from_secs(10);
/// Requests of one connection without an answer, their bytes, and bytes of answers that it has not taken; then nothing more is read, nor done of what has been read.
const PENDING_MAX: usize = 65_536;
const PENDING_BYTES_MAX: usize = 16 << 20;
const OUT_BYTES_MAX: usize = 8 << 20;
/// Bytes that are told in one call, about: then reading has its turn.
const READ_BYTES: usize = 64 << 10;
/// The longest wait of a watch.
const WATCH_MAX: Duration = Duration::from_secs(60);
/// Sites that are named as partners for a copy: who finds none of so many able is better off waiting.
const PARTNERS_MAX: usize = 4;
/// Sites that are named at all.
const SITES_MAX: usize = 1000;
/// Events in one answer.
pub const EVENTS_MAX: usize = 1000;

/// Who calls, as the connection proves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// May do everything.
    Hub,
    /// May do everything but speak for other sites.
    Site(SiteId),
    /// May do nothing, and is told so. The name in its certificate, if it has one.
    Stranger(Option<String>),
}

impl Caller {
    /// Who has this name in its certificate.
    pub fn of(name: Option<&str>) -> Caller {
        match name.map(|name| (name, base::identity::site_of(name))) {
            Some((base::identity::HUB, _)) => Caller::Hub,
            Some((_, Some(site))) => Caller::Site(site),
            Some((name, None)) => Caller::Stranger(Some(name.into())),
            None => Caller::Stranger(None),
        }
    }

    fn refused(&self, question: &Question) -> Option<Error> {
        let about = question.about().map_or_else(String::new, |(bucket, key)| format!(" about {bucket}/{key}"));
        match self {
            Caller::Stranger(Some(name)) => Some(Error::Denied { who: format!("{name:?}"), what: format!("ask the namenode{about}: it is neither a site nor the hub") }),
            Caller::Stranger(None) => {
                let message = format!("a client certificate is needed to ask the namenode{about}; join first");
                Some(Error::Remote { kind: base::Kind::Unauthenticated, message })
            }
            _ => None,
        }
    }

    /// `object`: what is said of one, where it is about one.
    fn speaks_for(&self, wanted: &SiteId, object: Option<(&BucketName, &Key)>) -> Result<()> {
        match self {
            Caller::Site(site) if site != wanted => {
                let object = object.map_or_else(String::new, |(bucket, key)| format!(", here of {bucket}/{key}"));
                Err(Error::Denied { who: format!("site {site}"), what: format!("change what is recorded of site {wanted}{object}") })
            }
            _ => Ok(()),
        }
    }

    fn allowed(&self, change: &Change) -> Result<()> {
        match change {
            Change::Announce { site, .. } | Change::AddHolder { site, .. } | Change::DropHolder { site, .. } | Change::Lose { site, .. } => self.speaks_for(site, change.about()),
            Change::Collected { site: Some(site), .. } => self.speaks_for(site, None),
            Change::Seal(seal) => self.speaks_for(&seal.site, change.about()),
            Change::Expire { .. } | Change::Leasing | Change::Import(_) => {
                Err(Error::Denied { who: "a client".into(), what: "give the namenode's own orders".into() })
            }
            Change::SetQuota { .. } | Change::SetTenant { .. } if *self != Caller::Hub => {
                Err(Error::Denied { who: format!("{self:?}"), what: "change quotas: only the hub may".into() })
            }
            _ => Ok(()),
        }
    }
}

/// What is to be said on a connection.
#[derive(Default)]
pub struct Outbox {
    bytes: Mutex<Vec<u8>>,
    ready: Notify,
    pending: AtomicUsize,
    pending_bytes: AtomicUsize,
    /// Who has watched tells it one after the other, when there is room.
    telling: tokio::sync::Mutex<()>,
    taken: Notify,
}

impl Outbox {
    fn put(&self, request: u64, told: &Told) {
        wire::put(&mut self.bytes.lock().unwrap_or_else(|e| e.into_inner()), request, told);
    }
    fn begin(&self, weight: usize) {
        self.pending.fetch_add(1, Relaxed);
        self.pending_bytes.fetch_add(weight, Relaxed);
    }
    /// `weight`: as it began.
    pub fn answer_quietly(&self, request: u64, weight: usize, answer: Result<Answer>) {
        self.put(request, &told(answer));
        self.pending.fetch_sub(1, Relaxed);
        self.pending_bytes.fetch_sub(weight, Relaxed);
    }
    pub fn answer(&self, request: u64, weight: usize, answer: Result<Answer>) {
        self.answer_quietly(request, weight, answer);
        self.wake();
    }
    pub fn wake(&self) {
        self.ready.notify_one();
    }
    /// Hands over what there is, if the other end has taken enough of what it was told before.
    fn take(&self, into: &mut Writing) {
        if into.left() < OUT_BYTES_MAX {
            into.append(&mut self.bytes.lock().unwrap_or_else(|e| e.into_inner()));
            self.taken.notify_waiters();
        }
    }
    /// Waits until not too much is to be said already.
    async fn room(&self) {
        loop {
            let mut taken = std::pin::pin!(self.taken.notified());
            // Registered before the look, so that nothing is taken between the two.
            taken.as_mut().enable();
            if self.bytes.lock().unwrap_or_else(|e| e.into_inner()).len() < OUT_BYTES_MAX {
                return;
            }
            taken.await;
        }
    }
}

impl Session for Outbox {
    fn revoke(&self, number: u64, key: Option<(&BucketName, &Key)>) {
        let key = key.map(|(bucket, key)| (bucket.clone(), key.clone()));
        self.put(0, &Told::Revoke { number, key });
        self.wake();
    }
}

fn told<T: Into<Told>>(answer: Result<T>) -> Told {
    answer.map_or_else(Told::from, T::into)
}

/// A site is there for as long as one of its connections is.
struct There {
    core: Arc<Core>,
    site: SiteId,
}

fn there(core: &Core) -> std::sync::MutexGuard<'_, HashMap<SiteId, usize>> {
    core.there.lock().unwrap_or_else(|e| e.into_inner())
}

impl There {
    fn new(core: &Arc<Core>, caller: &Caller) -> Option<There> {
        let Caller::Site(site) = caller else { return None };
        *there(core).entry(site.clone()).or_default() += 1;
        Some(There { core: core.clone(), site: site.clone() })
    }
}

impl Drop for There {
    fn drop(&mut self) {
        let mut there = there(&self.core);
        if let Some(connections) = there.get_mut(&self.site) {
            *connections -= 1;
            if *connections == 0 {
                there.remove(&self.site);
            }
        }
    }
}

/// See [`crate::Catalog::partners`]. Where all sites are in the namenode's own process nobody has a connection, and all that have announced themselves count as there.
pub fn partners(core: &Core, id: ObjectId, site: &SiteId) -> Vec<Holder> {
    let mut partners = connected(core);
    partners.retain(|holder| holder.site != *site);
    // Each id has an order of its own, so that copies spread and a site that comes or goes changes little.
    let seed = id.0 as u64 ^ (id.0 >> 64) as u64;
    partners.sort_by_cached_key(|holder| xxh3_64_with_seed(holder.site.as_str().as_bytes(), seed));
    partners.truncate(PARTNERS_MAX);
    partners
}

fn connected(core: &Core) -> Vec<Holder> {
    let there = there(core).clone();
    let mut sites = core.read().sites();
    sites.retain(|holder| !holder.address.is_empty() && (there.is_empty() || there.contains_key(&holder.site)));
    sites
}

/// See [`crate::Catalog::sites`].
pub fn sites(core: &Core) -> Vec<Holder> {
    let mut sites = connected(core);
    sites.truncate(SITES_MAX);
    sites
}

struct Connection {
    namenode: Namenode,
    core: Arc<Core>,
    caller: Caller,
    outbox: Arc<Outbox>,
    holder: Arc<leases::Holder>,
    /// What waits for revocations or for something to happen; it ends with the connection.
    waiting: tokio::task::JoinSet<()>,
    /// It is on a socket of this machine.
    socket: bool,
    /// Nothing has been asked yet.
    fresh: bool,
    /// What it is called, if it has asked.
    named: Option<u128>,
    becomes: Option<Becomes>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(name) = self.named {
            sessions(&self.core).remove(&name);
        }
    }
}

fn sessions(core: &Core) -> std::sync::MutexGuard<'_, HashMap<u128, Arc<leases::Holder>>> {
    core.sessions.lock().unwrap_or_else(|e| e.into_inner())
}

/// What a connection has become that asked for it: one for a thread.
pub struct Becomes {
    pub session: Arc<leases::Holder>,
    /// The number of the question, which has no answer yet.
    pub request: u64,
}

/// Answers until the peer hangs up, breaks the protocol or falls silent, or, if it is on a `socket` of this machine, until it asks to be a connection for a thread.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(namenode: &Namenode, stream: &mut S, caller: Caller, socket: bool) -> Result<Option<Becomes>> {
    let outbox = Arc::new(Outbox::default());
    let session: Arc<dyn Session> = outbox.clone();
    let _there = There::new(namenode.core(), &caller);
    let mut connection = Connection {
        namenode: namenode.clone(),
        core: namenode.core().clone(),
        holder: leases::Holder::new(Arc::downgrade(&session) as Weak<dyn Session>),
        outbox: outbox.clone(),
        caller,
        waiting: tokio::task::JoinSet::new(),
        socket,
        fresh: true,
        named: None,
        becomes: None,
    };
    let gone = |message: String| Error::Peer { peer: "a client of the namenode".into(), message };
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (mut input, mut out) = (bytes::BytesMut::with_capacity(READ_BYTES), Writing::default());
    let mut stuck = None;
    // One alarm for all that is waited for, put off only when it rings: each time would cost as much as an answer.
    let mut alarm = std::pin::pin!(tokio::time::sleep(SILENCE));
    let (mut rung, mut quiet) = (false, tokio::time::Instant::now() + SILENCE);
    let mut eager = Eager::default();
    // Questions have come that had to wait.
    let mut left = false;
    loop {
        outbox.take(&mut out);
        let full = connection.is_full(&out);
        if left && !full {
            left = connection.answer(&mut input, &mut out)?;
            continue;
        }
        input.reserve(READ_BYTES);
        let busy = !out.is_done();
        // Since when nobody has taken anything, or nobody has said anything.
        let end = match busy {
            true => *stuck.get_or_insert_with(|| tokio::time::Instant::now() + WRITE_MAX),
            false if rung => quiet,
            false => tokio::time::Instant::now() + SILENCE,
        };
        (rung, quiet) = (false, end);
        // Changes wait for the disk, and their committer wants the processor.
        let soon = !busy && outbox.pending.load(Relaxed) == 0 && connection.waiting.is_empty();
        tokio::select! {
            biased;
            stepped = out.step(&mut writer), if busy => {
                stepped.map_err(|e| gone(e.to_string()))?;
                stuck = None;
            }
            () = outbox.ready.notified() => {}
            read = eager.read(&mut reader, &mut input, soon), if !full => match read {
                Ok(0) => return Ok(None),
                Ok(_) => {
                    left = connection.answer(&mut input, &mut out)?;
                    if let Some(becomes) = connection.becomes.take() {
                        return Ok(Some(becomes));
                    }
                }
                // A peer that is killed does not say goodbye in TLS.
                Err(e) if matches!(e.kind(), std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset) => return Ok(None),
                Err(e) => return Err(gone(e.to_string())),
            },
            Some(_) = connection.waiting.join_next(), if !connection.waiting.is_empty() => {}
            () = &mut alarm, if busy || !full => {
                if tokio::time::Instant::now() < end {
                    alarm.as_mut().reset(end);
                    rung = true;
                    continue;
                }
                let (what, time) = if busy { ("it took nothing", WRITE_MAX) } else { ("it was silent", SILENCE) };
                return Err(gone(format!("{what} for {} s", time.as_secs())));
            }
        }
    }
}

impl Connection {
    fn is_full(&self, out: &Writing) -> bool {
        let (pending, bytes) = (self.outbox.pending.load(Relaxed), self.outbox.pending_bytes.load(Relaxed));
        pending + self.waiting.len() >= PENDING_MAX || bytes >= PENDING_BYTES_MAX || out.left() >= OUT_BYTES_MAX
    }

    /// Takes whole frames from the input, until there are no more or there is too much to be said. True: some may be left.
    fn answer(&mut self, input: &mut bytes::BytesMut, out: &mut Writing) -> Result<bool> {
        let broken = |message: String| Error::Protocol { peer: "a client of the namenode".into(), message };
        let (mut at, now) = (0, Instant::now());
        let mut full = false;
        while let Some((request, body, len)) = wire::next(&input[at..], ASK_BYTES_MAX).map_err(broken)? {
            // A question may be as short as its answer is long, and thousands come at once.
            full = self.is_full(out);
            if full {
                break;
            }
            // One that doesn't lead any more ends the connection, so that its client looks for the one that does.
            self.core.leads()?;
            match wire::read::<Ask>(body) {
                // As the first question, and the only one: nothing is under way that would have to be said over it.
                Ok(Ask { question: Question::Direct { session }, .. }) if self.socket && self.fresh && len == input.len() => {
                    self.becomes = sessions(&self.core).get(&session).map(|session| Becomes { session: session.clone(), request });
                    if self.becomes.is_none() {
                        wire::put(out.bytes(), request, &Told::from(Error::Remote { kind: base::Kind::FailedPrecondition, message: "there is no such session".into() }));
                    }
                }
                Ok(ask) => self.one(request, ask, now, out.bytes()),
                // A bad name is the asker's mistake, not the end of the connection: the frame's length still holds.
                Err(message) => wire::put(out.bytes(), request, &Told::from(broken(message))),
            }
            at += len;
            self.fresh = false;
        }
        bytes::Buf::advance(input, at);
        Ok(full)
    }

    fn one(&mut self, request: u64, ask: Ask, now: Instant, out: &mut Vec<u8>) {
        if let Some(refused) = self.caller.refused(&ask.question) {
            return wire::put(out, request, &Told::from(refused));
        }
        let answer = match ask.question {
            Question::Lookup { bucket, key } => return look(&self.core, request, &bucket, &key, out),
            Question::Change(change) => return self.change(request, change, None, now + Duration::from_millis(u64::from(ask.deadline_ms))),
            Question::Once(once, change) => return self.change(request, change, Some(once), now + Duration::from_millis(u64::from(ask.deadline_ms))),
            Question::Lease { bucket, key } => return self.lease(request, bucket, key, out),
            Question::Lookups(keys) if keys.len() > LOOKUPS_MAX => {
                Error::BadValue { what: "number of keys", value: keys.len().to_string(), rule: "ask for at most 1000 at a time" }.into()
            }
            Question::Lookups(keys) => {
                let state = self.core.read();
                Told::Objects(keys.iter().map(|(bucket, key)| state.lookup(bucket, key).ok().map(Into::into)).collect())
            }
            Question::Finds(ids) if ids.len() > LOOKUPS_MAX => {
                Error::BadValue { what: "number of ids", value: ids.len().to_string(), rule: "ask for at most 1000 at a time" }.into()
            }
            Question::Finds(ids) => {
                let state = self.core.read();
                Told::Objects(ids.iter().map(|id| state.find(ObjectId(*id)).map(Into::into)).collect())
            }
            Question::Find { id } => Told::Found(self.core.read().find(ObjectId(id)).map(Into::into)),
            Question::Held { site, start_after } => told(self.caller.speaks_for(&site, None).map(|()| {
                let held = self.core.read().held(&site, start_after.map(ObjectId));
                Told::Objects(held.into_iter().map(|meta| Some(meta.into())).collect())
            })),
            Question::List { bucket, prefix, delimiter, start_after, limit } => {
                told(self.core.read().list(&bucket, &prefix, delimiter, &Page { start_after, limit }))
            }
            Question::Buckets => Told::Buckets(self.core.read().bucket_names("", PAGE_MAX as usize)),
            Question::BucketsAfter(after) => Told::Buckets(self.core.read().bucket_names(&after, PAGE_MAX as usize)),
            Question::Attributes { bucket, key } => told(self.core.read().attributes(&bucket, &key).map(Told::Attributes)),
            Question::Garbage { site, start_after } => {
                let may = site.as_ref().map_or(Ok(()), |site| self.caller.speaks_for(site, None));
                told(may.map(|()| Told::Garbage(self.core.read().garbage(site.as_ref(), start_after.map(ObjectId)))))
            }
            Question::Watch { bucket, after, wait_ms } => {
                let wait = Duration::from_millis(u64::from(wait_ms)).min(WATCH_MAX);
                let (core, outbox) = (self.core.clone(), self.outbox.clone());
                self.waiting.spawn(async move {
                    let waited = watch(&core, &bucket, after, wait, 1).await;
                    let _turn = outbox.telling.lock().await;
                    outbox.room().await;
                    let seen = waited.and_then(|_| core.look()?.watched(&bucket, after, EVENTS_MAX));
                    outbox.put(request, &told(seen.map(Told::Watched)));
                    outbox.wake();
                });
                return;
            }
            Question::Partners { id, site } => Told::Holders(
                partners(&self.core, ObjectId(id), &site).into_iter().map(|holder| (holder.site.into(), holder.address)).collect(),
            ),
            Question::Sites => Told::Holders(sites(&self.core).into_iter().map(|holder| (holder.site.into(), holder.address)).collect()),
            Question::Jobs => Told::Jobs(self.core.read().job_names("", PAGE_MAX as usize)),
            Question::JobsAfter(after) => Told::Jobs(self.core.read().job_names(&after, PAGE_MAX as usize)),
            Question::Revoked { number } => return self.holder.confirm(number),
            Question::Epoch => Told::Epoch(self.core.read().epoch()),
            Question::Clock => Told::Clock(base::clock::now_ms()),
            Question::Session if self.socket => self.name().map_or_else(Told::from, Told::Session),
            Question::Session => Error::BadValue { what: "question", value: "Session".into(), rule: "it is for connections on a socket of this machine" }.into(),
            Question::Direct { .. } => Error::BadValue { what: "question", value: "Direct".into(), rule: "it is the first one of a connection on a socket of this machine" }.into(),
            Question::Ping => Told::Done,
        };
        wire::put(out, request, &answer);
    }

    fn change(&mut self, request: u64, change: Change, once: Option<Once>, deadline: Instant) {
        let weight = change.weight();
        self.outbox.begin(weight);
        if let Err(e) = self.caller.allowed(&change).and_then(|()| change.check()) {
            return self.outbox.answer(request, weight, Err(e));
        }
        if let Some(answer) = known(&self.core, &change) {
            return self.outbox.answer(request, weight, Ok(answer));
        }
        let (fence, waits) = fence(&self.core, &change);
        let reply = Reply::Wire(self.outbox.clone(), request, weight);
        let item = Item { change, once, reply, fence, deadline: Some(deadline) };
        match waits {
            None => self.core.enqueue(item),
            Some(waits) => {
                let core = self.core.clone();
                self.waiting.spawn(async move {
                    match tokio::time::timeout_at(deadline.into(), waits.done()).await {
                        Ok(()) => core.enqueue(item),
                        Err(_) => {
                            drop(item.fence);
                            item.reply.send(Err(late()));
                        }
                    }
                });
            }
        }
    }

    fn lease(&mut self, request: u64, bucket: BucketName, key: Key, out: &mut Vec<u8>) {
        if !self.core.read().leasing() {
            // The mark must be on disk before the first lease is out.
            let (namenode, outbox, core) = (self.namenode.clone(), self.outbox.clone(), self.core.clone());
            self.waiting.spawn(async move {
                let marked = namenode.change(Change::Leasing).await;
                let answer = marked.and_then(|_| core.look()?.lookup(&bucket, &key));
                outbox.put(request, &told(answer.map(|meta| Told::Leased { object: meta.into(), term_ms: None })));
                outbox.wake();
            });
            return;
        }
        leased(&self.core, &self.holder, request, &bucket, &key, out);
    }

    /// What this connection is called, by a number that nobody guesses.
    fn name(&mut self) -> Result<u128> {
        let name = match self.named {
            Some(name) => name,
            None => ObjectId::random()?.0,
        };
        self.named = Some(name);
        sessions(&self.core).insert(name, self.holder.clone());
        Ok(name)
    }
}

/// Answers a lookup.
pub fn look(core: &Core, request: u64, bucket: &BucketName, key: &Key, out: &mut Vec<u8>) {
    if let Err(missing) = core.read().look(bucket, key, |facts| wire::put(out, request, &Seen::Object(facts))) {
        wire::put(out, request, &Told::from(missing));
    }
}

/// Answers a lookup, with a lease if there may be one. The mark that there are leases is on disk.
pub fn leased(core: &Core, holder: &Arc<leases::Holder>, request: u64, bucket: &BucketName, key: &Key, out: &mut Vec<u8>) {
    let granted = core.read().has(bucket, key) && core.leases.grant(holder, hash(bucket, key));
    let term_ms = granted.then_some(TERM.as_millis() as u32);
    let seen = core.read().look(bucket, key, |object| wire::put(out, request, &Seen::Leased { object, term_ms }));
    if let Err(missing) = seen {
        wire::put(out, request, &Told::from(missing));
    }
}

/// What a change would be answered without being carried out, because it changes nothing.
pub fn known(core: &Core, change: &Change) -> Option<Answer> {
    match change {
        Change::CreateBucket { bucket } if core.read().has_bucket(bucket) => Some(Answer::Created(false)),
        Change::Announce { site, address } if core.read().address(site) == Some(address) => Some(Answer::Done),
        Change::Leasing if core.read().leasing() => Some(Answer::Done),
        _ => None,
    }
}

/// Puts up the fence that a change needs. The waits, if there is anything to wait for.
pub fn fence(core: &Core, change: &Change) -> (Option<super::leases::Fence>, Option<super::leases::Waits>) {
    let (keys, existing): (Option<Vec<(&BucketName, &Key)>>, bool) = match change {
        Change::Seal(seal) => (Some(vec![(&seal.bucket, &seal.key)]), core.read().has(&seal.bucket, &seal.key)),
        Change::Remove { bucket, key } | Change::Lose { bucket, key, .. } => (Some(vec![(bucket, key)]), true),
        Change::Rename { bucket, from, to_bucket, to, .. } => (Some(vec![(bucket, from), (to_bucket, to)]), true),
        Change::Copy { to_bucket, to, .. } => (Some(vec![(to_bucket, to)]), core.read().has(to_bucket, to)),
        Change::RemovePrefix { .. } | Change::RenamePrefix { .. } | Change::RenamePrefixNew { .. } | Change::CopyPrefix { .. } | Change::DropJob { .. } => (None, true),
        Change::Expire { names } => (Some(names.iter().map(|(bucket, key)| (bucket, key)).collect()), true),
        // They change nothing of what a key means.
        Change::CreateBucket { .. }
        | Change::SetMode { .. }
        | Change::SetTenant { .. }
        | Change::SetQuota { .. }
        | Change::Announce { .. }
        | Change::MarkPersisted { .. }
        | Change::AddHolder { .. }
        | Change::DropHolder { .. }
        | Change::SetMetadata { .. }
        | Change::Touch { .. }
        | Change::KeepJob { .. }
        | Change::Collected { .. }
        | Change::Leasing
        | Change::Import(_)
        | Change::GiveUp { .. } => return (None, None),
    };
    let (fence, waits) = core.leases.fence(keys.as_deref(), existing);
    (Some(fence), (!waits.is_empty()).then_some(waits))
}

/// See [`crate::Catalog::watch`]; at most `max` events.
pub async fn watch(core: &Core, bucket: &BucketName, after: u64, wait: Duration, max: usize) -> Result<crate::Watched> {
    let end = tokio::time::Instant::now() + wait;
    loop {
        // Registered before the look, so that nothing happens between the two.
        let mut changed = std::pin::pin!(core.changed.notified());
        changed.as_mut().enable();
        let seen = core.look()?.watched(bucket, after, max)?;
        if seen.resync || !seen.events.is_empty() {
            return Ok(seen);
        }
        if tokio::time::timeout_at(end, changed).await.is_err() {
            return Ok(seen);
        }
    }
}
