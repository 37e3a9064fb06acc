//! A process's end: names that it may answer by itself, mappings of the agent's segments, and calls for everything else.
//!
//! ```text
//! open ─▶ known, board unchanged, term not over, slot counted up? ─▶ a slice of the mapping           no system call
//!       └▶ ask the agent: place and descriptor ─▶ map the segment, unless it is ─▶ keep the name
//! ```
//!
//! Calls block, and may be made from any thread. One thread of this process hears what the agent says. When the agent is gone, what is open stays readable, and the next call attaches
//! anew; of a change that was on its way nobody knows whether it was done, and the error says so.

use super::{
    Board, NAMES, READERS, SLOTS, TAKEN, WANTED, hash, lock,
    shm::{self, Born, Words},
    wire::{self, Act, Ask, Blob, PART_BYTES, Place, Seen, TOLD_BYTES_MAX, Told, VERSION},
};
use crate::{Attributes, BucketName, Error, Grown, Key, Listing, ObjectId, ObjectMeta, Page, Range, Result, Watched, bound, by_hash::ByHash, deadline::Deadline, local::file, namenode::wire as frames};
use base::{Kind, pace::pause_by_chance};
use memmap2::{Mmap, MmapOptions};
use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    io::{ErrorKind, Write},
    net::Shutdown,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, TryLockError, Weak,
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc,
    },
    time::Duration,
};

/// An agent that has not answered by then is given up, and with it the session.
const ANSWER_MAX: Duration = Duration::from_secs(180);
/// How long looking goes on while there is no agent, unless its caller says how long; the pause between its first tries, and the longest.
const AWAY_MAX: Duration = Duration::from_secs(20);
const AWAY_PAUSE: Duration = Duration::from_millis(20);
const AWAY_PAUSE_MAX: Duration = Duration::from_millis(500);
/// How soon it is looked again whether another thread has attached by now.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
const SHARDS: usize = 64;
/// Names of a shard that are let go of at a time, when there are no slots left.
const LET_GO: usize = 64;

fn away(message: impl std::fmt::Display) -> Error {
    Error::Remote { kind: Kind::Unavailable, message: format!("the node's agent can't be reached: {message}") }
}

fn odd<T>() -> Result<T> {
    Err(Error::Protocol { peer: "the agent".into(), message: "an answer to another question".into() })
}

// --- what is lent -----------------------------------------------------------------------------------------------------------------

/// A slot of this process, with what it stands for.
struct Pin {
    session: Arc<Session>,
    slot: u32,
    /// `None`: an empty object.
    map: Option<Arc<Mmap>>,
    offset: usize,
    len: usize,
}

impl Pin {
    /// Counts a reader, unless the agent wants it back.
    fn count(&self) -> bool {
        let word = self.session.slots.at(self.slot as usize);
        word.fetch_update(SeqCst, SeqCst, |now| (now & (TAKEN | WANTED) == 0 && now & READERS < READERS).then_some(now + 1)).is_ok()
    }

    fn uncount(&self) {
        // A child that was forked has readers of its own, which nobody counts; what they read is mapped there, too.
        if self.session.born.is_here() {
            let before = self.session.slots.at(self.slot as usize).fetch_sub(1, SeqCst);
            if before & READERS == 1 && before & WANTED != 0 {
                self.session.tell(&Ask::Released { slot: self.slot });
            }
        }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if self.session.born.is_here() {
            let before = self.session.slots.at(self.slot as usize).swap(TAKEN, SeqCst);
            self.session.give_back(self.slot, before & TAKEN == 0);
        }
    }
}

/// A sealed object that lies with the agent, mapped in this process. Its bytes stay as they are for as long as a handle lives, whatever happens to the key or to the agent meanwhile.
pub struct Lent {
    meta: Arc<ObjectMeta>,
    pin: Arc<Pin>,
}

impl Lent {
    pub fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
    /// Bytes.
    pub fn len(&self) -> u64 {
        self.pin.len as u64
    }
    pub fn is_empty(&self) -> bool {
        self.pin.len == 0
    }
    pub fn bytes(&self) -> &[u8] {
        self.pin.map.as_ref().map_or(&[], |map| &map[self.pin.offset..self.pin.offset + self.pin.len])
    }
    /// Copies from `offset` on; the number of bytes copied is smaller than the buffer only at the end of the object.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> usize {
        let rest = usize::try_from(offset).ok().and_then(|at| self.bytes().get(at..)).unwrap_or(&[]);
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        n
    }
}

impl Clone for Lent {
    fn clone(&self) -> Lent {
        // Also where it is wanted back: it can't go before this one does.
        if self.pin.session.born.is_here() {
            self.pin.session.slots.at(self.pin.slot as usize).fetch_add(1, SeqCst);
        }
        Lent { meta: self.meta.clone(), pin: self.pin.clone() }
    }
}
impl Drop for Lent {
    fn drop(&mut self) {
        self.pin.uncount();
    }
}
impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}
impl std::fmt::Debug for Lent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lent({}/{} epoch {})", self.meta.bucket, self.meta.key, self.meta.epoch)
    }
}

// --- the session ------------------------------------------------------------------------------------------------------------------

type Answer = Result<(Told, Vec<OwnedFd>)>;
type Waiting = mpsc::SyncSender<Answer>;

fn unless_failed(answer: (Told, Vec<OwnedFd>)) -> Answer {
    match answer {
        (Told::Failed { kind, message }, _) => Err(Error::Remote { kind, message }),
        answer => Ok(answer),
    }
}

struct Session {
    socket: UnixStream,
    born: Born,
    board: Board,
    slots: Words,
    /// The agent's next life looks whether anybody still has it.
    _attached: OwnedFd,
    out: Mutex<Out>,
    waiting: Mutex<HashMap<u64, Waiting>>,
    over: AtomicBool,
    /// Segments that are mapped.
    maps: Mutex<HashMap<(bool, u32), Weak<Mmap>>>,
}

struct Out {
    next: u64,
    writer: u32,
    follower: u32,
    free: Vec<u32>,
    frame: Vec<u8>,
}

impl Drop for Session {
    fn drop(&mut self) {
        // Ends its thread, too.
        self.hang_up();
    }
}

/// What comes from a socket: bytes that are no whole frame yet, and descriptors that belong to later ones.
#[derive(Default)]
struct Input {
    bytes: Vec<u8>,
    fds: VecDeque<OwnedFd>,
}

impl Input {
    /// The next answer. Blocks.
    fn next(&mut self, socket: &UnixStream) -> Result<(u64, Told, Vec<OwnedFd>), String> {
        loop {
            if let Some((request, body, len)) = frames::next(&self.bytes, TOLD_BYTES_MAX)? {
                let told: Told = frames::read(body)?;
                if self.fds.len() < told.fds() {
                    return Err("descriptors are missing".into());
                }
                let fds = self.fds.drain(..told.fds()).collect();
                self.bytes.drain(..len);
                return Ok((request, told, fds));
            }
            let mut part = [0; 16 << 10];
            match shm::receive(socket.as_raw_fd(), &mut part, &mut self.fds) {
                Ok(0) => return Err("it hung up".into()),
                Ok(n) => self.bytes.extend_from_slice(&part[..n]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e.to_string()),
            }
        }
    }
}

impl Session {
    /// `within`: how long the agent may take to say who it is.
    fn begin(path: &Path, within: Duration) -> Result<Arc<Session>> {
        let mut socket = UnixStream::connect(path).map_err(|e| away(format!("{}: {e}", path.display())))?;
        socket.set_read_timeout(Some(within.max(LOOK_AGAIN))).map_err(file("set a deadline on", path))?;
        let mut hello = Vec::new();
        wire::put(&mut hello, 1, &Ask::Hello { version: VERSION }, &[]);
        socket.write_all(&hello).map_err(away)?;
        let mut input = Input::default();
        let fds = match input.next(&socket).map_err(away)? {
            (1, Told::Welcome { version: VERSION, names, slots }, fds) if names as usize == NAMES && slots as usize == SLOTS => fds,
            (1, Told::Failed { kind, message }, _) => return Err(Error::Remote { kind, message }),
            _ => return odd(),
        };
        let [board, slots, attached] = <[OwnedFd; 3]>::try_from(fds).map_err(|_| away("descriptors are missing"))?;
        socket.set_read_timeout(None).map_err(file("set a deadline on", path))?;
        let session = Arc::new(Session {
            board: Board(Words::open(File::from(board), NAMES + 1, false)?),
            slots: Words::open(File::from(slots), SLOTS, true)?,
            born: Born::here()?,
            _attached: attached,
            out: Mutex::new(Out { next: 1, writer: 0, follower: 0, free: (0..SLOTS as u32).rev().collect(), frame: Vec::new() }),
            waiting: Mutex::default(),
            over: AtomicBool::new(false),
            maps: Mutex::default(),
            socket,
        });
        let socket = session.socket.try_clone().map_err(file("share", path))?;
        let weak = Arc::downgrade(&session);
        std::thread::Builder::new()
            .name("geds-attached".into())
            .spawn(move || {
                let why = hear(&socket, input, &weak);
                // From here on nothing is answered by what it knew; and who waits is told.
                if let Some(session) = weak.upgrade() {
                    session.end(&why);
                }
            })
            .map_err(file("start a thread for", path))?;
        Ok(session)
    }

    fn end(&self, why: &str) {
        self.over.store(true, SeqCst);
        let waiting = std::mem::take(&mut *lock(&self.waiting));
        for (_, waiting) in waiting {
            let _ = waiting.send(Err(away(format!("{why}; what was asked may have been done or not"))));
        }
        self.hang_up();
    }

    fn hang_up(&self) {
        // The socket is one with that of the process that a child was forked from, which goes on with it.
        if self.born.is_here() {
            let _ = self.socket.shutdown(Shutdown::Both);
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(SeqCst)
    }

    fn send(&self, out: &mut Out, request: u64, ask: &Ask, bytes: &[u8]) -> Result<()> {
        let mut frame = std::mem::take(&mut out.frame);
        frame.clear();
        wire::put(&mut frame, request, ask, bytes);
        let done = (&self.socket).write_all(&frame);
        out.frame = frame;
        done.map_err(|e| {
            // Half a frame may be out.
            self.end(&e.to_string());
            away(e)
        })
    }

    /// Says something that has no answer. Who is gone needn't know.
    fn tell(&self, ask: &Ask) {
        if !self.is_over() {
            let _ = self.send(&mut lock(&self.out), 0, ask, &[]);
        }
    }

    fn ask(&self, ask: &Ask, bytes: &[u8]) -> Result<(Told, Vec<OwnedFd>)> {
        let (_, answer) = self.begin_to_ask(ask, bytes)?;
        let answer = answer.recv_timeout(ANSWER_MAX).unwrap_or_else(|_| {
            self.end("it does not answer");
            Err(Error::Remote { kind: Kind::DeadlineExceeded, message: format!("the node's agent did not answer within {} s", ANSWER_MAX.as_secs()) })
        })?;
        unless_failed(answer)
    }

    /// Asks what its caller waits for no longer than this. The agent may be busy: the session goes on, and an answer that comes too late is heard by nobody.
    fn ask_until(&self, ask: &Ask, deadline: &Deadline) -> Result<(Told, Vec<OwnedFd>)> {
        let (request, answer) = self.begin_to_ask(ask, &[])?;
        let answer = answer.recv_timeout(deadline.patience()).unwrap_or_else(|_| {
            lock(&self.waiting).remove(&request);
            Err(deadline.late(ask.about(), "the node's agent does not answer"))
        })?;
        unless_failed(answer)
    }

    fn begin_to_ask(&self, ask: &Ask, bytes: &[u8]) -> Result<(u64, mpsc::Receiver<Answer>)> {
        if !self.born.is_here() {
            let message = "this process was forked from one that is attached; attach anew in it".into();
            return Err(Error::Remote { kind: Kind::FailedPrecondition, message });
        }
        let (waiting, answer) = mpsc::sync_channel(1);
        let mut out = lock(&self.out);
        out.next += 1;
        let request = out.next;
        lock(&self.waiting).insert(request, waiting);
        // After it is known to wait: who ends the session tells all that wait.
        if self.is_over() {
            lock(&self.waiting).remove(&request);
            return Err(away("it is gone"));
        }
        self.send(&mut out, request, ask, bytes)?;
        Ok((request, answer))
    }

    /// A slot comes back; `told`: the agent has to hear of it, before it hears of the slot's next use.
    fn give_back(&self, slot: u32, told: bool) {
        let mut out = lock(&self.out);
        if told && !self.is_over() {
            let _ = self.send(&mut out, 0, &Ask::Unpin { slots: vec![slot] }, &[]);
        }
        out.free.push(slot);
    }

    /// Maps what was lent, or finds it mapped.
    fn map(&self, place: Place, fd: OwnedFd, len: u64) -> Result<Option<Arc<Mmap>>> {
        if len == 0 {
            return Ok(None);
        }
        let fits = place.offset.checked_add(len).is_some_and(|end| end <= place.room);
        let room = usize::try_from(place.room).ok().filter(|_| fits);
        let Some(room) = room else {
            return Err(Error::Protocol { peer: "the agent".into(), message: "an object that does not lie in its file".into() });
        };
        let mut maps = lock(&self.maps);
        if let Some(map) = place.shared.and_then(|segment| maps.get(&segment)?.upgrade()) {
            return Ok(Some(map));
        }
        let file = File::from(fd);
        // SAFETY: the object's range was written before it was lent and is never written, cut or given out again while this process holds the lock `attached`
        // (`agent.rs`); the rest of the mapping is not touched. The descriptor can't be written through. Another program of the same user could change
        // the file; such a program could as well change this process.
        let map = Arc::new(unsafe { MmapOptions::new().len(room).map(&file) }.map_err(crate::local::file("map", Path::new("what the agent lends")))?);
        if let Some(segment) = place.shared {
            maps.retain(|_, map| map.strong_count() > 0);
            maps.insert(segment, Arc::downgrade(&map));
        }
        Ok(Some(map))
    }
}

/// Hands out answers until the connection ends, and says why it did.
fn hear(socket: &UnixStream, mut input: Input, session: &Weak<Session>) -> String {
    loop {
        let (request, told, fds) = match input.next(socket) {
            Ok(answer) => answer,
            Err(why) => return why,
        };
        let Some(session) = session.upgrade() else { return "nobody needs it any more".into() };
        let waiting = lock(&session.waiting).remove(&request);
        // Who doesn't wait any more doesn't want to know.
        if let Some(waiting) = waiting {
            let _ = waiting.send(Ok((told, fds)));
        }
    }
}

// --- the door ---------------------------------------------------------------------------------------------------------------------

/// A name that this process may answer by itself.
struct Entry {
    /// Bucket, NUL, key: neither has a NUL in it.
    name: Box<[u8]>,
    meta: Arc<ObjectMeta>,
    pin: Arc<Pin>,
    seen: Seen,
    until_ns: u64,
}

fn name_of(bucket: &BucketName, key: &Key) -> Box<[u8]> {
    [bucket.as_str().as_bytes(), &[0], key.as_str().as_bytes()].concat().into()
}

fn is_name(name: &[u8], bucket: &BucketName, key: &Key) -> bool {
    let (bucket, key) = (bucket.as_str().as_bytes(), key.as_str().as_bytes());
    name.len() == bucket.len() + 1 + key.len() && name.ends_with(key) && name.starts_with(bucket)
}

/// The store of this machine's agent, for a process that has no node of its own. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Attached {
    inner: Arc<Inner>,
}

struct Inner {
    socket: PathBuf,
    session: Mutex<Arc<Session>>,
    names: Vec<Mutex<ByHash<Entry>>>,
}

impl Attached {
    /// Attaches to the agent that listens on this socket ([`crate::Node::share`]).
    pub fn open(socket: impl Into<PathBuf>) -> Result<Attached> {
        let socket = socket.into();
        let session = Mutex::new(Session::begin(&socket, ANSWER_MAX)?);
        Ok(Attached { inner: Arc::new(Inner { socket, session, names: (0..SHARDS).map(|_| Mutex::default()).collect() }) })
    }

    /// The session, begun anew if the last one is over.
    fn session(&self) -> Result<Arc<Session>> {
        self.session_in(lock(&self.inner.session), ANSWER_MAX)
    }

    /// The same, by a deadline: another call may be about to attach, to an agent that says nothing.
    fn session_until(&self, deadline: &Deadline) -> Result<Arc<Session>> {
        loop {
            match self.inner.session.try_lock() {
                Err(TryLockError::WouldBlock) if deadline.patience().is_zero() => return Err(away("it does not answer")),
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOOK_AGAIN),
                Err(TryLockError::Poisoned(held)) => return self.session_in(held.into_inner(), deadline.patience()),
                Ok(held) => return self.session_in(held, deadline.patience()),
            }
        }
    }

    fn session_in(&self, mut session: MutexGuard<'_, Arc<Session>>, within: Duration) -> Result<Arc<Session>> {
        if session.is_over() && session.born.is_here() {
            *session = Session::begin(&self.inner.socket, within)?;
            // What was known is of the old one, and good for nothing.
            self.inner.names.iter().for_each(|names| drop(std::mem::take(&mut *lock(names))));
        }
        Ok(session.clone())
    }

    fn ask(&self, ask: &Ask) -> Result<Told> {
        Ok(self.session()?.ask(ask, &[])?.0)
    }

    /// Asks what has to be answered in time.
    fn ask_until(&self, ask: &Ask, deadline: &Deadline) -> Result<Told> {
        Ok(self.session_until(deadline)?.ask_until(ask, deadline)?.0)
    }

    /// Asks until the answer is not that nobody is there: for what does no harm when it is done twice.
    fn patient<T>(&self, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
        self.until(Deadline::after(AWAY_MAX), |_| ask())
    }

    /// The same, for what its caller waits for no longer than this.
    fn until<T>(&self, deadline: Deadline, mut ask: impl FnMut(&Deadline) -> Result<T>) -> Result<T> {
        let mut failures = 0;
        loop {
            match ask(&deadline) {
                Err(e) if e.kind() == Kind::Unavailable && !deadline.rest().is_zero() => {
                    std::thread::sleep(pause_by_chance(failures, AWAY_PAUSE, AWAY_PAUSE_MAX).min(deadline.rest()));
                    failures += 1;
                }
                answer => return answer,
            }
        }
    }

    fn shard(&self, hash: u64) -> std::sync::MutexGuard<'_, ByHash<Entry>> {
        // The map takes its position from the low bits and its tag from the high ones.
        lock(&self.inner.names[(hash >> 32) as usize % SHARDS])
    }

    /// Opens what has the key now. What this process knows already costs no system call.
    pub fn open_object(&self, bucket: &BucketName, key: &Key) -> Result<Lent> {
        let hash = hash(bucket, key);
        let old = {
            let mut shard = self.shard(hash);
            match shard.get(&hash).filter(|entry| is_name(&entry.name, bucket, key)) {
                Some(entry) => {
                    let session = &entry.pin.session;
                    if entry.seen == session.board.now(hash) && shm::clock_ns() < entry.until_ns && !session.is_over() && entry.pin.count() {
                        return Ok(Lent { meta: entry.meta.clone(), pin: entry.pin.clone() });
                    }
                    shard.remove(&hash)
                }
                None => None,
            }
        };
        // Not under the lock: the agent may have to be told.
        drop(old);
        self.patient(|| self.borrow(bucket, key, hash))
    }

    fn borrow(&self, bucket: &BucketName, key: &Key, hash: u64) -> Result<Lent> {
        let session = self.session()?;
        let slot = self.slot(&session)?;
        let asked = session.ask(&Ask::Open { bucket: bucket.clone(), key: key.clone(), slot }, &[]);
        let (told, fds) = match asked {
            Ok(answer) => answer,
            Err(e) => {
                // An error: nothing was pinned under it.
                session.give_back(slot, false);
                return Err(e);
            }
        };
        // From here on it is given back when it is dropped.
        let pin = |map, place: Place, len| Arc::new(Pin { session: session.clone(), slot, map, offset: place.offset as usize, len: len as usize });
        let (Told::Lent { meta, place, seen, until_ns }, Some(fd)) = (told, fds.into_iter().next()) else { return odd() };
        let map = match session.map(place, fd, meta.size) {
            Ok(map) => map,
            Err(e) => {
                drop(pin(None, place, 0));
                return Err(e);
            }
        };
        let lent = Lent { pin: pin(map, place, meta.size), meta: Arc::new(meta) };
        if until_ns > 0 {
            let entry = Entry { name: name_of(bucket, key), meta: lent.meta.clone(), pin: lent.pin.clone(), seen, until_ns };
            let old = self.shard(hash).insert(hash, entry);
            drop(old);
        }
        Ok(lent)
    }

    /// A slot that is free, or that a name had which nobody reads.
    fn slot(&self, session: &Arc<Session>) -> Result<u32> {
        let free = || lock(&session.out).free.pop();
        if let Some(slot) = free() {
            return Ok(slot);
        }
        for names in &self.inner.names {
            let mut shard = lock(names);
            // Whichever come first: the hash has shuffled them.
            let idle = shard.iter().filter(|(_, entry)| entry.pin.session.slots.at(entry.pin.slot as usize).load(SeqCst) & READERS == 0);
            let idle: Vec<u64> = idle.map(|(hash, _)| *hash).take(LET_GO).collect();
            let old: Vec<_> = idle.iter().filter_map(|hash| shard.remove(hash)).collect();
            drop(shard);
            drop(old);
        }
        free().ok_or_else(|| Error::Remote {
            kind: Kind::ResourceExhausted,
            message: format!("this process has {SLOTS} objects open; let go of some"),
        })
    }

    /// Starts an object. Nobody sees it before it is sealed; then it replaces what had the key.
    pub fn create(&self, bucket: &BucketName, key: &Key) -> Result<AttachedWriter> {
        self.create_with(bucket, key, false)
    }

    /// Starts an object whose seal fails with `AlreadyExists` if the key is taken by then.
    pub fn create_new(&self, bucket: &BucketName, key: &Key) -> Result<AttachedWriter> {
        self.create_with(bucket, key, true)
    }

    fn create_with(&self, bucket: &BucketName, key: &Key, if_absent: bool) -> Result<AttachedWriter> {
        let session = self.session()?;
        Ok(AttachedWriter {
            session,
            bucket: bucket.clone(),
            key: key.clone(),
            if_absent,
            attributes: Attributes::default(),
            buffer: Vec::new(),
            number: None,
            len: 0,
        })
    }

    /// Writes a whole object.
    pub fn put(&self, bucket: &BucketName, key: &Key, content: &[u8]) -> Result<ObjectMeta> {
        let mut writer = self.create(bucket, key)?;
        writer.write_at(0, content)?;
        writer.seal()
    }

    /// Makes sure that a bucket exists. True: it is new.
    pub fn create_bucket(&self, bucket: &BucketName) -> Result<bool> {
        match self.patient(|| self.ask(&Ask::CreateBucket { bucket: bucket.clone() }))? {
            Told::Created(new) => Ok(new),
            _ => odd(),
        }
    }
    pub fn buckets(&self) -> Result<Vec<BucketName>> {
        match self.patient(|| self.ask(&Ask::Buckets))? {
            Told::Buckets(buckets) => Ok(buckets),
            _ => odd(),
        }
    }
    pub fn stat(&self, bucket: &BucketName, key: &Key) -> Result<ObjectMeta> {
        object(self.patient(|| self.ask(&Ask::Stat { bucket: bucket.clone(), key: key.clone() })))
    }
    pub fn attributes(&self, bucket: &BucketName, key: &Key) -> Result<Attributes> {
        match self.patient(|| self.ask(&Ask::Attributes { bucket: bucket.clone(), key: key.clone() }))? {
            Told::Attributes(attributes) => Ok(attributes),
            _ => odd(),
        }
    }
    /// See [`crate::Node::list`].
    pub fn list(&self, bucket: &BucketName, prefix: &str, delimiter: Option<char>, page: Page) -> Result<Listing> {
        let Page { start_after, limit } = page;
        let ask = Ask::List { bucket: bucket.clone(), prefix: prefix.into(), delimiter, start_after, limit };
        match self.patient(|| self.ask(&ask))? {
            Told::Listing { objects, prefixes, next } => Ok(Listing { objects, prefixes, next }),
            _ => odd(),
        }
    }
    pub fn delete(&self, bucket: &BucketName, key: &Key) -> Result<ObjectMeta> {
        object(self.ask(&Ask::Delete { bucket: bucket.clone(), key: key.clone() }))
    }
    /// Gives an object another key at once, without moving data; what had that key is replaced.
    pub fn rename(&self, bucket: &BucketName, from: &Key, to: &Key) -> Result<ObjectMeta> {
        object(self.ask(&Ask::Rename { bucket: bucket.clone(), from: from.clone(), to: to.clone() }))
    }
    /// Objects and bytes of what is removed, in one step.
    pub fn delete_prefix(&self, bucket: &BucketName, prefix: &str) -> Result<(u64, u64)> {
        counted(self.ask(&Ask::DeletePrefix { bucket: bucket.clone(), prefix: prefix.into() }))
    }
    /// See [`crate::Node::rename_prefix`].
    pub fn rename_prefix(&self, bucket: &BucketName, from: &str, to_bucket: &BucketName, to: &str, if_absent: bool) -> Result<(u64, u64)> {
        counted(self.ask(&Ask::RenamePrefix { bucket: bucket.clone(), from: from.into(), to_bucket: to_bucket.clone(), to: to.into(), if_absent }))
    }
    /// Moves the node's copies of the objects with a prefix to its persistency tier. Objects and bytes.
    pub fn spill(&self, bucket: &BucketName, prefix: &str) -> Result<(u64, u64)> {
        counted(self.ask(&Ask::Spill { bucket: bucket.clone(), prefix: prefix.into() }))
    }
    /// [`Attached::rename`], also into another bucket; with `if_absent` it fails with `AlreadyExists` if the key is taken.
    pub fn rename_to(&self, bucket: &BucketName, from: &Key, to_bucket: &BucketName, to: &Key, if_absent: bool) -> Result<ObjectMeta> {
        let (bucket, from, to_bucket, to) = (bucket.clone(), from.clone(), to_bucket.clone(), to.clone());
        object(self.ask(&Ask::RenameTo { bucket, from, to_bucket, to, if_absent }))
    }
    /// Gives an object another name too; what had it is replaced, or with `if_absent` the call fails with `AlreadyExists`. No data is copied.
    pub fn copy(&self, bucket: &BucketName, from: &Key, to_bucket: &BucketName, to: &Key, if_absent: bool) -> Result<ObjectMeta> {
        let (bucket, from, to_bucket, to) = (bucket.clone(), from.clone(), to_bucket.clone(), to.clone());
        object(self.ask(&Ask::Copy { bucket, from, to_bucket, to, if_absent }))
    }
    pub fn copy_prefix(&self, bucket: &BucketName, from: &str, to_bucket: &BucketName, to: &str) -> Result<(u64, u64)> {
        counted(self.ask(&Ask::CopyPrefix { bucket: bucket.clone(), from: from.into(), to_bucket: to_bucket.clone(), to: to.into() }))
    }
    /// See [`crate::Node::read_range`]. For what the node would have to fetch as a whole to lend it; what is there is better opened.
    pub fn read_range(&self, bucket: &BucketName, key: &Key, range: Range) -> Result<(ObjectMeta, Vec<u8>)> {
        bound::check_range(range)?;
        let mut read: Option<(ObjectMeta, Vec<u8>)> = None;
        loop {
            let done = read.as_ref().map_or(0, |(_, bytes)| bytes.len() as u64);
            let len = (range.len - done).min(PART_BYTES as u64);
            let ask = Ask::ReadRange { bucket: bucket.clone(), key: key.clone(), offset: range.offset.saturating_add(done), len };
            let Told::Part { meta, bytes: Blob(bytes) } = self.patient(|| self.ask(&ask))? else { return odd() };
            if bytes.len() as u64 > len {
                return odd();
            }
            let end = (bytes.len() as u64) < len || done + len == range.len;
            match &mut read {
                // Bytes of two contents make none.
                Some((first, _)) if (first.id, first.epoch) != (meta.id, meta.epoch) => {
                    return Err(Error::Stale { bucket: bucket.to_string(), key: key.to_string(), epoch: first.epoch, current: meta.epoch });
                }
                Some((_, all)) => all.extend_from_slice(&bytes),
                None => read = Some((meta, bytes)),
            }
            if end {
                return Ok(read.expect("it was just read"));
            }
        }
    }
    /// See [`crate::Node::flush`].
    pub fn flush(&self, bucket: &BucketName, prefix: &str, deadline: Duration) -> Result<(u64, u64)> {
        counted(self.ask_until(&Ask::Flush { bucket: bucket.clone(), prefix: prefix.into(), deadline_ms: ms(deadline) }, &Deadline::after(deadline)))
    }
    /// See [`crate::Node::wait_durable`].
    pub fn wait_durable(&self, bucket: &BucketName, key: &Key, deadline: Duration) -> Result<ObjectMeta> {
        object(self.ask_until(&Ask::WaitDurable { bucket: bucket.clone(), key: key.clone(), deadline_ms: ms(deadline) }, &Deadline::after(deadline)))
    }
    /// See [`crate::Node::keep_job`].
    pub fn keep_job(&self, job: &str, time: Option<Duration>) -> Result<()> {
        done(self.ask(&Ask::KeepJob { job: job.into(), ms: time.map_or(0, |time| ms(time).max(1)) }))
    }
    /// See [`crate::Node::drop_job`].
    pub fn drop_job(&self, job: &str) -> Result<(u64, u64)> {
        counted(self.ask(&Ask::DropJob { job: job.into() }))
    }
    /// See [`crate::Node::watch`].
    pub fn watch(&self, bucket: &BucketName, after: u64, wait: Duration) -> Result<Watched> {
        let ask = |deadline: &Deadline| self.ask_until(&Ask::Watch { bucket: bucket.clone(), after, wait_ms: ms(deadline.rest()) }, deadline);
        match self.until(Deadline::after(wait), ask)? {
            Told::Watched(watched) => Ok(watched),
            _ => odd(),
        }
    }
    /// See [`crate::Node::list_growing`].
    pub fn list_growing(&self, bucket: &BucketName, prefix: &str, start_after: &str) -> Result<Vec<(Key, u64)>> {
        match self.patient(|| self.ask(&Ask::Growing { bucket: bucket.clone(), prefix: prefix.into(), start_after: start_after.into() }))? {
            Told::Growing(page) => Ok(page),
            _ => odd(),
        }
    }
    /// Opens what grows under this key on the agent's node, or begins it; see [`crate::Node::appendable`].
    pub fn appendable(&self, bucket: &BucketName, key: &Key) -> Result<AttachedAppendable> {
        let growing = AttachedAppendable { door: self.clone(), bucket: bucket.clone(), key: key.clone() };
        self.patient(|| growing.number(Act::Begin { new: false }, &[]))?;
        Ok(growing)
    }
    /// Begins what is to grow under this key; see [`crate::Node::appendable_new`].
    pub fn appendable_new(&self, bucket: &BucketName, key: &Key) -> Result<AttachedAppendable> {
        let growing = AttachedAppendable { door: self.clone(), bucket: bucket.clone(), key: key.clone() };
        growing.number(Act::Begin { new: true }, &[])?;
        Ok(growing)
    }
    /// What grows under this key on the agent's node; `None`: nothing does.
    pub fn growing(&self, bucket: &BucketName, key: &Key) -> Result<Option<AttachedAppendable>> {
        let growing = AttachedAppendable { door: self.clone(), bucket: bucket.clone(), key: key.clone() };
        match growing.length() {
            Ok(_) => Ok(Some(growing)),
            Err(e) if e.kind() == Kind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Opens for reading what grows under this key at any node, or was sealed under it; see [`crate::Node::follow`].
    pub fn follow(&self, bucket: &BucketName, key: &Key) -> Result<AttachedFollower> {
        let follower = AttachedFollower { door: self.clone(), bucket: bucket.clone(), key: key.clone(), at: Mutex::default() };
        self.until(Deadline::after(AWAY_MAX), |deadline| follower.at(deadline).map(|_| ()))?;
        Ok(follower)
    }

    /// Waits until everything that was sealed on this node before is published, or has failed to be.
    pub fn settle(&self) -> Result<()> {
        done(self.ask(&Ask::Settle))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // What is open keeps the session; else its thread ends with this.
        self.names.clear();
        let session = lock(&self.session);
        if Arc::strong_count(&session) == 1 {
            session.end("it is closed");
        }
    }
}

fn object(told: Result<Told>) -> Result<ObjectMeta> {
    match told? {
        Told::Object(object) => Ok(object),
        _ => odd(),
    }
}

fn done(told: Result<Told>) -> Result<()> {
    match told? {
        Told::Done => Ok(()),
        _ => odd(),
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn counted(told: Result<Told>) -> Result<(u64, u64)> {
    match told? {
        Told::Counted { objects, bytes } => Ok((objects, bytes)),
        _ => odd(),
    }
}

// --- writing ----------------------------------------------------------------------------------------------------------------------

/// An object being written through the agent: a buffer up to 1 MiB, which goes over with the seal; what is larger goes over as it comes.
///
/// Dropped without a seal, nothing remains of it; nor if this process or the agent ends before.
pub struct AttachedWriter {
    session: Arc<Session>,
    bucket: BucketName,
    key: Key,
    if_absent: bool,
    attributes: Attributes,
    /// All of it, as long as the agent has no writer for it.
    buffer: Vec<u8>,
    number: Option<u32>,
    len: u64,
}

impl AttachedWriter {
    pub fn bucket(&self) -> &BucketName {
        &self.bucket
    }
    pub fn key(&self) -> &Key {
        &self.key
    }
    /// Bytes.
    pub fn len(&self) -> u64 {
        self.len
    }
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Bytes of the user's own that go with the name: at most 16 KiB, or the seal is refused.
    pub fn set_metadata(&mut self, metadata: Vec<u8>) {
        self.attributes.metadata = metadata;
    }
    /// The object goes by itself when this time has passed from now on.
    pub fn expire_after(&mut self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.attributes.expires_ms = base::clock::now_ms().saturating_add(ms);
    }
    /// The object goes when the job's lease ends.
    pub fn lease_to(&mut self, job: impl Into<String>) {
        self.attributes.job = Some(job.into());
    }

    /// Writes anywhere; a gap reads as zeros. Waits for room as long as the node lets writers wait.
    pub fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let end = offset.saturating_add(data.len() as u64);
        match self.number {
            None if end <= PART_BYTES as u64 => {
                let (at, end) = (offset as usize, end as usize);
                if self.buffer.len() < end {
                    self.buffer.resize(end, 0);
                }
                self.buffer[at..end].copy_from_slice(data);
            }
            None => {
                let number = {
                    let mut out = lock(&self.session.out);
                    out.writer = out.writer.wrapping_add(1);
                    out.writer
                };
                let (bucket, key, if_absent) = (self.bucket.clone(), self.key.clone(), self.if_absent);
                self.session.ask(&Ask::Create { writer: number, bucket, key, if_absent }, &[])?;
                self.number = Some(number);
                let buffer = std::mem::take(&mut self.buffer);
                self.send(number, 0, &buffer)?;
                self.send(number, offset, data)?;
            }
            Some(number) => self.send(number, offset, data)?,
        }
        self.len = self.len.max(end);
        Ok(())
    }

    fn send(&self, writer: u32, offset: u64, data: &[u8]) -> Result<()> {
        let mut at = offset;
        for part in data.chunks(PART_BYTES) {
            self.session.ask(&Ask::Write { writer, offset: at }, part)?;
            at += part.len() as u64;
        }
        Ok(())
    }

    fn end(mut self, here: bool) -> Result<ObjectMeta> {
        let attributes = std::mem::take(&mut self.attributes);
        let told = match self.number.take() {
            Some(writer) => self.session.ask(&Ask::Seal { writer, here, attributes }, &[]),
            None => {
                let (bucket, key, if_absent) = (self.bucket.clone(), self.key.clone(), self.if_absent);
                self.session.ask(&Ask::Put { bucket, key, if_absent, here, attributes }, &self.buffer)
            }
        };
        object(told.map(|(told, _)| told))
    }

    /// Makes the object durable, then visible everywhere. It survives this process from the return on.
    pub fn seal(self) -> Result<ObjectMeta> {
        self.end(false)
    }

    /// Makes the object visible to all processes of this node; the agent publishes it, whether this process is there or not. Its epoch is 0 in the answer.
    /// Not for a writer of [`Attached::create_new`].
    pub fn seal_here(self) -> Result<ObjectMeta> {
        self.end(true)
    }

    /// Drops what was written.
    pub fn abort(self) {}
}

impl Drop for AttachedWriter {
    fn drop(&mut self) {
        if let Some(writer) = self.number.filter(|_| self.session.born.is_here()) {
            self.session.tell(&Ask::Abort { writer });
        }
    }
}

// --- what grows -------------------------------------------------------------------------------------------------------------------

/// An object that grows on the agent's node; see [`crate::Appendable`]. It is known by its name only, so it goes on when the agent was started again.
#[derive(Clone)]
pub struct AttachedAppendable {
    door: Attached,
    bucket: BucketName,
    key: Key,
}

impl AttachedAppendable {
    fn ask(&self, act: Act, bytes: &[u8]) -> Result<Told> {
        let ask = Ask::Appendable { bucket: self.bucket.clone(), key: self.key.clone(), act };
        Ok(self.door.session()?.ask(&ask, bytes)?.0)
    }

    fn number(&self, act: Act, bytes: &[u8]) -> Result<u64> {
        match self.ask(act, bytes)? {
            Told::Length(length) => Ok(length),
            _ => odd(),
        }
    }

    /// Committed bytes.
    pub fn length(&self) -> Result<u64> {
        self.door.patient(|| self.number(Act::Length, &[]))
    }

    /// Appends at `offset`, which must be the length. Returns the new length. Up to 1 MiB is there as a whole or not at all; what is longer goes in pieces of
    /// that size, and after an error the first of them may be there: the length says how many. So it does when the agent went away in the middle.
    pub fn append(&self, offset: u64, data: &[u8]) -> Result<u64> {
        let mut at = offset;
        // Nothing is asked, too: the offset may be wrong.
        let pieces = data.chunks(PART_BYTES).chain(data.is_empty().then_some(data));
        for piece in pieces {
            at = self.number(Act::Append { offset: at }, piece)?;
        }
        Ok(at)
    }

    /// Bytes from `offset` on; fewer than `len` only at the committed end.
    pub fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        while (all.len() as u64) < len {
            let act = Act::Read { offset: offset.saturating_add(all.len() as u64), len: (len - all.len() as u64).min(PART_BYTES as u64) };
            match self.door.patient(|| self.ask(act, &[]))? {
                Told::Read(Blob(bytes)) if bytes.is_empty() => break,
                Told::Read(Blob(bytes)) if bytes.len() as u64 <= len - all.len() as u64 => all.extend_from_slice(&bytes),
                _ => return odd(),
            }
        }
        Ok(all)
    }

    /// What was appended before this call survives a power cut when it returns.
    pub fn sync(&self) -> Result<()> {
        done(self.ask(Act::Sync, &[]))
    }

    /// Ends the growth: all of it becomes an ordinary object under the key, durable and visible everywhere.
    pub fn seal(&self) -> Result<ObjectMeta> {
        object(self.ask(Act::Seal, &[]))
    }

    /// Removes it.
    pub fn discard(&self) -> Result<()> {
        done(self.ask(Act::Discard, &[]))
    }
}

/// A reader of what grows, through the agent; see [`crate::Follower`]. Goes on when the agent was started again, if the same still grows, or is still sealed, under its key.
pub struct AttachedFollower {
    door: Attached,
    bucket: BucketName,
    key: Key,
    at: Mutex<Option<Followed>>,
}

/// What the agent knows a reader by.
#[derive(Clone)]
struct Followed {
    session: Arc<Session>,
    number: u32,
    /// What it reads, and whether that grew then.
    what: (ObjectId, bool),
}

impl AttachedFollower {
    /// The agent's end of it, begun anew if that is another agent by now.
    fn at(&self, deadline: &Deadline) -> Result<Followed> {
        let mut at = lock(&self.at);
        if let Some(now) = at.as_ref().filter(|now| !now.session.is_over()) {
            return Ok(now.clone());
        }
        let session = self.door.session_until(deadline)?;
        let number = {
            let mut out = lock(&session.out);
            out.follower = out.follower.wrapping_add(1);
            out.follower
        };
        let ask = Ask::Follow { follower: number, bucket: self.bucket.clone(), key: self.key.clone() };
        let told = session.ask_until(&ask, deadline);
        let mut now = Followed { session, number, what: (ObjectId(0), false) };
        now.what = match told {
            Ok((Told::Following { id, growing }, _)) => (id, growing),
            Ok(_) => return odd(),
            Err(e) => {
                // It may find it later on.
                now.end();
                return Err(e);
            }
        };
        // What was followed is not this, or the agent can't say: it has been sealed, and what it became is forgotten.
        if at.as_ref().is_some_and(|before| before.what != now.what) {
            now.end();
            return Err(crate::gone(&self.bucket, &self.key));
        }
        Ok(at.insert(now).clone())
    }

    /// Bytes from `offset` on, at most `len` and 1 MiB. Where there are none yet, waits for the first of them, at most so long; then, or at the end of what is sealed, none come.
    pub fn read(&self, offset: u64, len: u64, wait: Duration) -> Result<Grown> {
        self.door.until(Deadline::after(wait), |deadline| {
            let now = self.at(deadline)?;
            let ask = Ask::Followed { follower: now.number, offset, len, wait_ms: ms(deadline.rest()) };
            match now.session.ask_until(&ask, deadline)?.0 {
                Told::Grown { bytes: Blob(bytes), len: committed, sealed } if bytes.len() as u64 <= len => Ok(Grown { bytes: bytes.into(), len: committed, sealed }),
                _ => odd(),
            }
        })
    }
}

impl Followed {
    fn end(&self) {
        if self.session.born.is_here() {
            self.session.tell(&Ask::Unfollow { follower: self.number });
        }
    }
}

impl Drop for AttachedFollower {
    fn drop(&mut self) {
        if let Some(now) = &*lock(&self.at) {
            now.end();
        }
    }
}
