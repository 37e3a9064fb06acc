//! The local tier: what this node holds, on its disk and in its memory.
//!
//! ```text
//! <folder>/lock                                    held by the node that uses the folder
//! <folder>/open/<copy>                             a large object being written; worth nothing after a restart
//! <folder>/sealed/<id>-<size>-<checksum>-<copy>    a large object; never changes again; all in hexadecimal
//! <folder>/segments/<number>                       small objects, one behind the other
//! <folder>/journal                                 which small object lies where
//! <folder>/attached                                locked by the processes that share the folder (`agent.rs`)
//! <folder>/cipher                                  there if what is on the disk is encrypted (`cipher.rs`)
//! ```
//!
//! A small object is a buffer until it is sealed, then a range of a segment and a record in the journal. A large one is a file from the moment it is too
//! large for a segment, and its name is its record. `copy` is random: an object that is spilled while it is read and then fetched again has two files for a
//! while, and the old one must not take the new one with it when its last reader goes.
//!
//! What is kept survives a kill at once, and a power cut after [`Tier::sync`]. What the catalog doesn't know is a seal that nobody was told of. Nothing here
//! talks to the catalog or the network, or knows a bucket or a key: whose figures an object counts in it is told (`metrics.rs`).

mod draft;
mod object;
mod sound;

pub(crate) use draft::{Draft, Refused};
pub use object::Object;
pub(crate) use object::Local;
pub(crate) use sound::Sound;

use crate::{
    Error, ObjectId, RestKey, Result,
    agent::ATTACHED,
    catalog::IN_MEMORY,
    cipher::{self, Cipher},
    journal::{Journal, Place, Record},
    metrics::BucketCounts,
    private,
    segment::{Segment, padded},
    space::{Reservation, Space},
};
use draft::Body;
use object::{Own, Plain, Where};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fs::{self, File, OpenOptions},
    hash::{BuildHasherDefault, Hasher},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst},
    },
};

/// What is read at a time to compute a checksum.
const CHUNK: usize = 1 << 20;
/// The largest segment, and what is small in it.
const SEGMENT_BYTES_MAX: u64 = 64 << 20;
const SEGMENT_BYTES_MIN: u64 = 64 << 10;
const SMALL_BYTES_MAX: u64 = 1 << 20;
/// A file's blocks come in multiples of this, and so does the charge of a large object and of a closed segment.
pub(crate) const BLOCK: u64 = 4096;
const SHARDS: usize = 64;

pub(crate) fn file(action: &'static str, path: &Path) -> impl Fn(io::Error) -> Error + use<> {
    let path = path.to_path_buf();
    move |source| Error::File { action, path: path.clone(), source }
}

/// Every change of the disk passes here first, so that a test can end the "process" before any of them.
#[cfg(not(test))]
pub(crate) fn step() -> io::Result<()> {
    Ok(())
}
#[cfg(test)]
pub(crate) use tests::{at_sync, step, tears};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What the locks here guard is changed by single operations of maps and numbers, so a panic elsewhere leaves it whole.
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// Seconds of a clock that never goes back. It costs a third of what an [`std::time::Instant`] does, which counts where each open looks at it.
fn coarse_seconds() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to `now` only.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &mut now) };
    assert_eq!(done, 0, "each Linux has this clock");
    now.tv_sec as u64
}

/// Ids are random already.
#[derive(Default)]
pub(crate) struct IdHasher(u64);
impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("ids are hashed as one number")
    }
    fn write_u128(&mut self, id: u128) {
        // The low half counts, the high half tells nodes apart. Within a shard the low bits are all the same, so the high ones are folded in.
        let mixed = (id as u64 ^ (id >> 64) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = mixed ^ (mixed >> 32);
    }
}
pub(crate) type IdMap<V> = HashMap<ObjectId, V, BuildHasherDefault<IdHasher>>;

/// Disk or memory: a space with segments in it.
struct Arena {
    space: Arc<Space>,
    /// `None`: memory.
    folder: Option<PathBuf>,
    segment_bytes: u64,
    small_max: u64,
    open: Mutex<Option<Arc<Segment>>>,
    all: Mutex<BTreeMap<u32, Arc<Segment>>>,
    next: AtomicU32,
    /// A file was made since the folder was synced.
    grown: AtomicBool,
    /// The limit, or what was there when the node was opened if that is more.
    ceiling: AtomicU64,
}

impl Arena {
    fn new(limit: u64, folder: Option<PathBuf>) -> Arena {
        let segment_bytes = (limit / 16).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX).next_multiple_of(BLOCK);
        Arena {
            space: Space::new(limit),
            folder,
            segment_bytes,
            small_max: SMALL_BYTES_MAX.min(segment_bytes / 4),
            open: Mutex::default(),
            all: Mutex::default(),
            next: AtomicU32::new(1),
            grown: AtomicBool::new(false),
            ceiling: AtomicU64::new(limit),
        }
    }

    /// Puts bytes behind the last object, into a new segment if need be.
    fn place(&self, id: ObjectId, data: &[u8], paid: Reservation) -> Result<(Arc<Segment>, u64)> {
        let len = data.len() as u64;
        assert!(len <= self.small_max && paid.bytes() == padded(len), "what is placed is small and paid for");
        let (segment, offset) = {
            let mut open = lock(&self.open);
            loop {
                if let Some(segment) = &*open {
                    if let Some(offset) = segment.take(len, self.segment_bytes / 4)? {
                        break (segment.clone(), offset);
                    }
                    segment.close();
                }
                let number = self.next.fetch_add(1, SeqCst);
                let path = self.folder.as_ref().map(|folder| folder.join(format!("{number:08x}")));
                let segment = Arc::new(Segment::create(number, self.segment_bytes, path, &self.space)?);
                self.grown.store(true, SeqCst);
                lock(&self.all).insert(number, segment.clone());
                *open = Some(segment);
            }
        };
        if let Err(e) = segment.write(offset, data, paid) {
            segment.release(len);
            return Err(e);
        }
        lock(&segment.ids).push(id);
        Ok((segment, offset))
    }

    /// Lets go of segments without a live object.
    fn tidy(&self) {
        lock(&self.all).retain(|_, segment| {
            let empty = segment.is_closed() && segment.live() == 0;
            if empty {
                segment.doom();
            }
            !empty
        });
    }

    /// Closes the open segment if less than half of it lives.
    fn close_if_stale(&self) {
        let mut open = lock(&self.open);
        if open.as_ref().is_some_and(|segment| segment.live() * 2 < segment.head()) {
            open.take().inspect(|segment| segment.close());
        }
    }
}

/// Decrypted objects that somebody may open again soon.
struct Decrypted {
    bytes_max: u64,
    /// The oldest first, and the bytes of all.
    kept: Mutex<(VecDeque<Arc<Plain>>, u64)>,
}

impl Decrypted {
    fn new(bytes_max: u64) -> Decrypted {
        Decrypted { bytes_max, kept: Mutex::default() }
    }

    fn keep(&self, plain: &Arc<Plain>) {
        let mut kept = lock(&self.kept);
        kept.1 += plain.len() as u64;
        kept.0.push_back(plain.clone());
        while kept.1 > self.bytes_max {
            let Some(old) = kept.0.pop_front() else { break };
            kept.1 -= old.len() as u64;
        }
    }
}

/// What [`Tier::keep`] has kept.
pub(crate) struct Kept {
    pub local: Arc<Local>,
    /// False: a good copy was here before, and this is that one.
    pub came: bool,
}

/// Who waits for a sync, and who does it.
#[derive(Default)]
struct Syncs {
    /// Everything written up to this count is durable.
    done: u64,
    running: bool,
}

/// The objects of one node.
pub(crate) struct Tier {
    path: PathBuf,
    disk: Arena,
    memory: Option<Arena>,
    objects: Vec<Mutex<IdMap<Arc<Local>>>>,
    journal: Mutex<Journal>,
    /// Objects that the journal has to know.
    recorded: AtomicU64,
    written: AtomicU64,
    syncs: Mutex<Syncs>,
    synced: Condvar,
    sound: Arc<Sound>,
    /// The folder itself, to sync the names in it whatever else is open.
    root: File,
    compacting: Mutex<()>,
    rewriting: AtomicBool,
    ids: AtomicU64,
    id_base: u128,
    /// In seconds of [`coarse_seconds`].
    started: u64,
    /// What is on the disk is encrypted, all of it; what is in memory never.
    cipher: Option<Arc<Cipher>>,
    decrypted: Decrypted,
    /// Other processes may map what is here: what they need for that is kept.
    lends: AtomicBool,
    /// Processes that shared this folder in an earlier life still have files of it mapped.
    watched: bool,
    /// Held as long as the folder is used.
    _lock: File,
}

impl Tier {
    #[cfg(test)]
    pub fn open(path: &Path, limit: u64, memory: Option<u64>) -> Result<Arc<Tier>> {
        Tier::open_with(path, limit, memory, None, 0)
    }

    /// Opens the folder, removes what was being written, and takes back what was sealed. `memory`: the limit of the memory tier; `decrypted`: bytes of decrypted objects
    /// that are kept although nobody has them open.
    pub fn open_with(path: &Path, limit: u64, memory: Option<u64>, key: Option<RestKey>, decrypted: u64) -> Result<Arc<Tier>> {
        for path in ["", "open", "sealed", "segments"].map(|name| path.join(name)) {
            private::folder(&path).map_err(file("create", &path))?;
        }
        let lock_path = path.join("lock");
        let lock_file = private::lock(&lock_path).map_err(file("open", &lock_path))?;
        lock_file.try_lock().map_err(|e| match e {
            fs::TryLockError::Error(source) => file("lock", &lock_path)(source),
            fs::TryLockError::WouldBlock => Error::BadValue {
                what: "folder",
                value: path.display().to_string(),
                rule: "another node uses it; give each node its own",
            },
        })?;
        let watched = watched(path)?;
        // Before anything else is touched: it says whether this version may.
        let (journal, replayed) = Journal::open(&path.join("journal"))?;
        for path in list(&path.join("open"))? {
            fs::remove_file(&path).map_err(file("remove", &path))?;
        }
        let used = ["sealed", "segments", "append"].iter().any(|name| fs::read_dir(path.join(name)).is_ok_and(|mut found| found.next().is_some()));
        let cipher = Cipher::open(path, key, used)?.map(Arc::new);
        let root = File::open(path).map_err(file("open", path))?;
        if replayed.torn > 0 {
            tracing::warn!(records = replayed.torn, "the journal has records that were not written to their end; nobody was told of them");
        }
        let tier = Tier {
            disk: Arena::new(limit, Some(path.join("segments"))),
            memory: memory.map(|limit| Arena::new(limit, None)),
            objects: (0..SHARDS).map(|_| Mutex::default()).collect(),
            journal: Mutex::new(journal),
            recorded: AtomicU64::new(0),
            written: AtomicU64::new(0),
            syncs: Mutex::default(),
            synced: Condvar::new(),
            sound: Arc::default(),
            root,
            compacting: Mutex::new(()),
            rewriting: AtomicBool::new(false),
            ids: AtomicU64::new(0),
            id_base: ObjectId::random()?.0 << 48,
            started: coarse_seconds(),
            cipher,
            decrypted: Decrypted::new(decrypted),
            path: path.into(),
            lends: AtomicBool::new(false),
            watched,
            _lock: lock_file,
        };
        tier.take_back_large()?;
        tier.take_back_small(replayed.places)?;
        tier.disk.ceiling.fetch_max(tier.disk.space.charged(), SeqCst);
        Ok(Arc::new(tier))
    }

    fn take_back_large(&self) -> Result<()> {
        for path in list(&self.path.join("sealed"))? {
            let Some((id, size, checksum)) = path.file_name().and_then(|n| n.to_str()).and_then(parse) else {
                tracing::warn!(path = %path.display(), "not an object; left alone");
                continue;
            };
            let length = fs::metadata(&path).map_err(file("look up", &path))?.len();
            let stored = self.stored(size, false);
            if length != stored {
                tracing::error!(path = %path.display(), length, "an object has lost its length; set aside as damaged");
                let aside = path.with_extension("damaged");
                fs::rename(&path, &aside).map_err(file("rename", &path))?;
                continue;
            }
            // What is there is counted even above the limit, so that nothing new comes until there is room.
            let charge = self.disk.space.overdraw(stored.next_multiple_of(BLOCK));
            let own = Own {
                path: Some(path),
                memory: None,
                map: OnceLock::new(),
                mapping: Mutex::new(()),
                doomed: AtomicBool::new(false),
                sound: self.sound.clone(),
                _charge: charge,
            };
            self.insert_found(Local::new(self, id, size, checksum, Where::Own(Box::new(own)), false, &self.disk.space));
        }
        Ok(())
    }

    fn take_back_small(&self, places: IdMap<Place>) -> Result<()> {
        // With a million of them, growing step by step would take as long as all the rest.
        self.objects.iter().for_each(|shard| lock(shard).reserve(places.len() / SHARDS + places.len() / SHARDS / 8));
        let arena = &self.disk;
        let mut heads: HashMap<u32, u64> = HashMap::new();
        let mut last = 0;
        for place in places.values() {
            last = last.max(place.segment);
            let head = heads.entry(place.segment).or_default();
            *head = (*head).max(place.offset.saturating_add(padded(self.stored(place.size, false))));
        }
        for path in list(&self.path.join("segments"))? {
            let name = path.file_name().and_then(|n| n.to_str()).filter(|n| n.len() == 8);
            let Some(number) = name.and_then(|n| u32::from_str_radix(n, 16).ok()) else {
                tracing::warn!(path = %path.display(), "not a segment; left alone");
                continue;
            };
            last = last.max(number);
            match heads.get(&number) {
                None => fs::remove_file(&path).map_err(file("remove", &path))?,
                Some(head) => {
                    let length = fs::metadata(&path).map_err(file("look up", &path))?.len();
                    // Behind the last object that lives there may be one that is gone from the books and that such a process still reads.
                    let head = if self.watched { length } else { (*head).min(length) };
                    let segment = Segment::reopen(number, arena.segment_bytes, &path, head, &arena.space)?;
                    lock(&arena.all).insert(number, Arc::new(segment));
                }
            }
        }
        arena.next.store(last + 1, SeqCst);
        let all = lock(&arena.all).clone();
        for (id, place) in places {
            // A segment that is gone had no live object; then only the record of the drop is missing.
            let Some(segment) = all.get(&place.segment) else { continue };
            let stored = self.stored(place.size, false);
            if place.offset.saturating_add(padded(stored)) > segment.head() {
                tracing::error!(%id, segment = place.segment, offset = place.offset, "an object lies behind the end of its segment; it is lost");
                continue;
            }
            segment.adopt(id, stored);
            let at = Where::Segment { segment: segment.clone(), offset: place.offset, memory: false };
            self.insert_found(Local::new(self, id, place.size, place.checksum, at, false, &arena.space));
            self.recorded.fetch_add(1, SeqCst);
        }
        // The last one goes on if there is room in it; the others are full.
        let mut open = lock(&arena.open);
        for (number, segment) in all.iter().rev() {
            if open.is_none() && *number == last && segment.head() < segment.capacity / 2 {
                *open = Some(segment.clone());
            } else {
                segment.close();
            }
        }
        Ok(())
    }

    fn insert_found(&self, local: Local) {
        local.kept.store(true, SeqCst);
        let id = local.id;
        let mut shard = lock(self.shard(id));
        // Two places of one object, from a spill and a fetch that a kill fell between: one is enough, but not the one of a fetch that a power cut came before the end of.
        if shard.get(&id).is_some_and(|before| local.check().is_err() && before.check().is_ok()) {
            local.doom();
            return;
        }
        if let Some(twice) = shard.insert(id, Arc::new(local)) {
            twice.doom();
        }
    }

    fn shard(&self, id: ObjectId) -> &Mutex<IdMap<Arc<Local>>> {
        &self.objects[(id.0 as u64 ^ (id.0 >> 64) as u64) as usize % SHARDS]
    }

    /// A new id: 80 random bits of this node, counted up. No system call.
    pub fn new_id(&self) -> ObjectId {
        ObjectId(self.id_base | u128::from(self.ids.fetch_add(1, Relaxed) & ((1 << 40) - 1)))
    }

    /// The same for what lies in memory at first: after the end of the process nothing else tells that it did, whatever bucket it has been moved to.
    pub fn new_id_in_memory(&self) -> ObjectId {
        ObjectId(self.new_id().0 | u128::from(IN_MEMORY))
    }

    pub fn get(&self, id: ObjectId) -> Option<Arc<Local>> {
        lock(self.shard(id)).get(&id).cloned()
    }

    /// Everything that is here now.
    pub fn all(&self) -> Vec<Arc<Local>> {
        self.objects.iter().flat_map(|shard| lock(shard).values().cloned().collect::<Vec<_>>()).collect()
    }

    pub fn ids(&self) -> Vec<ObjectId> {
        self.objects.iter().flat_map(|shard| lock(shard).keys().copied().collect::<Vec<_>>()).collect()
    }

    /// What is here of which nobody has told yet whose it is ([`Tier::count_for`]).
    pub fn unnamed(&self) -> Vec<ObjectId> {
        self.objects.iter().flat_map(|shard| lock(shard).values().filter(|local| !local.is_counted()).map(|local| local.id).collect::<Vec<_>>()).collect()
    }

    /// How many objects are here.
    pub fn count(&self) -> u64 {
        self.objects.iter().map(|shard| lock(shard).len() as u64).sum()
    }

    fn arena(&self, memory: bool) -> &Arena {
        self.memory.as_ref().filter(|_| memory).unwrap_or(&self.disk)
    }

    /// The space of the memory tier, or of the disk.
    pub fn space(&self, memory: bool) -> &Arc<Space> {
        &self.arena(memory).space
    }

    pub fn folder(&self) -> &Path {
        &self.path
    }

    /// Whether the disk has done what it was asked for.
    pub fn sound(&self) -> &Arc<Sound> {
        &self.sound
    }

    /// From now on other processes may map what is here.
    pub fn lend(&self) {
        self.lends.store(true, SeqCst);
    }

    /// Lets go of segments without a live object.
    pub fn tidy(&self) {
        self.disk.tidy();
        if let Some(memory) = &self.memory {
            memory.tidy();
        }
    }

    /// Keeps what was decrypted for the next one who opens it.
    pub fn opened(&self, object: &Object) {
        if let Some(plain) = object.plain() {
            self.decrypted.keep(plain);
        }
    }

    /// What encrypts an object that lies there.
    pub fn cipher(&self, memory: bool) -> Option<&Arc<Cipher>> {
        self.cipher.as_ref().filter(|_| !(memory && self.memory.is_some()))
    }

    /// What an object of so many bytes takes there, before it is rounded up.
    fn stored(&self, len: u64, memory: bool) -> u64 {
        if self.cipher(memory).is_some() { cipher::stored(len) } else { len }
    }

    pub fn has_memory(&self) -> bool {
        self.memory.is_some()
    }

    /// Bytes of the largest segment: what the disk in use may pass the limit by.
    pub fn segment_bytes(&self) -> u64 {
        self.disk.segment_bytes
    }

    /// Seconds since the tier was opened.
    pub fn age(&self) -> u32 {
        (coarse_seconds() - self.started) as u32
    }

    /// A new object, in memory if it is wanted there and there is such a tier.
    pub fn create(self: &Arc<Self>, id: ObjectId, memory: bool) -> Draft {
        let memory = memory && self.memory.is_some();
        let paid = self.space(memory).overdraw(0);
        Draft { id, tier: self.clone(), memory, body: Body::Buffer(Vec::new()), len: 0, counted: 0, paid }
    }

    /// Lets what was found here count for its bucket, from now on.
    pub fn count_for(&self, local: &Local, counts: Arc<BucketCounts>) {
        // Within the lock, so that it can't go between the two.
        let shard = lock(self.shard(local.id));
        if shard.get(&local.id).is_some_and(|now| std::ptr::eq(&**now, local)) && local.count_for(counts) {
            local.came();
        }
    }

    /// Records a sealed object and makes it one of this node's. It survives a kill from here on, and a power cut after [`Tier::sync`]. On an error nothing came.
    pub fn keep(&self, local: Local) -> Result<Kept> {
        if !local.in_memory() {
            self.sound.check()?;
        }
        // The last record of an id counts, and it may be on the disk before its bytes are: a good copy, which somebody may have been told of, gives way to none. What is
        // damaged has nothing to lose. One object is kept by one caller at a time, so nothing comes in between.
        if let Some(before) = self.get(local.id).filter(|before| (before.size, before.checksum) == (local.size, local.checksum) && before.check().is_ok()) {
            return Ok(Kept { local: before, came: false });
        }
        let local = Arc::new(local);
        let mut shard = lock(self.shard(local.id));
        if let Some(record) = local.record() {
            lock(&self.journal).append(record)?;
            self.recorded.fetch_add(1, SeqCst);
        }
        local.kept.store(true, SeqCst);
        let before = shard.insert(local.id, local.clone());
        local.came();
        before.iter().for_each(|before| before.left());
        drop(shard);
        self.written.fetch_add(1, SeqCst);
        if let Some(before) = before {
            before.doom();
            self.recorded.fetch_sub(u64::from(before.record().is_some()), SeqCst);
        }
        Ok(Kept { local, came: true })
    }

    /// Forgets an object; its bytes go with the last reader. Returns its size.
    pub fn free(&self, id: ObjectId) -> u64 {
        let mut shard = lock(self.shard(id));
        let Some(local) = shard.remove(&id) else { return 0 };
        local.left();
        if local.record().is_some() {
            self.recorded.fetch_sub(1, SeqCst);
            if let Err(e) = lock(&self.journal).append(Record::Drop(id)) {
                // It comes back at the next start, when the catalog says that nobody wants it.
                tracing::warn!(%id, error = %e, "the journal does not know that an object is gone");
            }
        }
        drop(shard);
        local.doom();
        let size = local.size;
        drop(local);
        self.tidy();
        size
    }

    /// Makes everything that was kept before this call durable. Many callers share one sync, and its failure: no later one can make up for it. Blocks.
    pub fn sync(&self) -> Result<()> {
        let mine = self.written.load(SeqCst);
        let mut syncs = lock(&self.syncs);
        while syncs.done < mine {
            self.sound.check()?;
            if syncs.running {
                syncs = self.synced.wait(syncs).unwrap_or_else(|e| e.into_inner());
                continue;
            }
            syncs.running = true;
            drop(syncs);
            let covered = self.written.load(SeqCst);
            let done = self.sync_now();
            syncs = lock(&self.syncs);
            syncs.running = false;
            if done.is_ok() {
                syncs.done = syncs.done.max(covered);
            }
            self.synced.notify_all();
            done?;
        }
        Ok(())
    }

    fn sync_now(&self) -> Result<()> {
        let segments: Vec<_> = lock(&self.disk.all).values().cloned().collect();
        for segment in segments {
            segment.sync(&self.sound)?;
        }
        if let Some(folder) = self.disk.folder.as_deref().filter(|_| self.disk.grown.swap(false, SeqCst)) {
            self.sound.sync_folder(folder).inspect_err(|_| self.disk.grown.store(true, SeqCst))?;
        }
        let (handle, path) = {
            let journal = lock(&self.journal);
            (journal.handle()?, journal.path().to_path_buf())
        };
        self.sound.sync(&handle, &path)
    }

    /// Makes room out of what is dead: empty segments go, and of those that are mostly dead the live objects move. Blocks.
    pub fn reclaim(&self, memory: bool) -> Result<()> {
        let _turn = lock(&self.compacting);
        let arena = self.arena(memory);
        arena.close_if_stale();
        arena.tidy();
        if arena.folder.is_some() {
            // Each try would leave copies that nothing can make use of.
            self.sound.check()?;
        }
        let mut victims: Vec<_> =
            lock(&arena.all).values().filter(|s| s.is_closed() && s.live() * 2 < s.head()).cloned().collect();
        victims.sort_by_key(|segment| segment.live());
        for victim in victims {
            // Readers may keep the victim for long, and its copies are paid for above the limit: by less than half a segment at a time.
            if arena.space.charged() + victim.live() > arena.ceiling.load(SeqCst) + arena.segment_bytes / 2 {
                break;
            }
            self.compact(arena, &victim)?;
            drop(victim);
            arena.tidy();
        }
        Ok(())
    }

    /// Moves the live objects of a segment to the open one. Who reads them goes on reading the old place.
    fn compact(&self, arena: &Arena, victim: &Arc<Segment>) -> Result<()> {
        let ids = lock(&victim.ids).clone();
        let mut copies = Vec::new();
        let copied = ids.into_iter().try_for_each(|id| self.copy(arena, victim, id, &mut copies));
        // A record may reach the disk at any time, and the last one of an id counts: it must not name bytes that a power cut can take. Until then the old place is the object's.
        self.sync_moved(arena)?;
        let switched = copies.iter_mut().try_for_each(|(old, new)| self.switch(old, new));
        // The old places, which `copies` holds, must not go before the records of the new ones are safe.
        let synced = self.sync_moved(arena).inspect_err(|_| victim.pin());
        copied.and(switched).and(synced)
    }

    fn sync_moved(&self, arena: &Arena) -> Result<()> {
        if arena.folder.is_none() {
            return Ok(());
        }
        self.written.fetch_add(1, SeqCst);
        self.sync()
    }

    fn copy(&self, arena: &Arena, victim: &Arc<Segment>, id: ObjectId, copies: &mut Vec<(Arc<Local>, Option<Local>)>) -> Result<()> {
        let Some(local) = self.get(id) else { return Ok(()) };
        let Where::Segment { segment, offset, memory } = &local.place else { return Ok(()) };
        if !Arc::ptr_eq(segment, victim) {
            return Ok(());
        }
        let stored = local.stored();
        let paid = arena.space.overdraw(padded(stored));
        // As it is stored: what moves is not looked at.
        let (segment, offset) = arena.place(id, victim.bytes(*offset, stored), paid)?;
        let place = Where::Segment { segment, offset, memory: *memory };
        let new = Local::new(self, id, local.size, local.checksum, place, local.is_verified(), &arena.space);
        copies.push((local, Some(new)));
        Ok(())
    }

    /// Makes a copy the object, unless that went meanwhile. In one step under the lock, so that the record of a free can't come before that of the move, and a rewrite of
    /// the journal, which looks at each shard once, finds the new place here or its record behind the mark.
    fn switch(&self, old: &Arc<Local>, new: &mut Option<Local>) -> Result<()> {
        let mut shard = lock(self.shard(old.id));
        let Some(now) = shard.get_mut(&old.id).filter(|now| Arc::ptr_eq(now, old)) else { return Ok(()) };
        let Some(new) = new.take() else { return Ok(()) };
        if let Some(record) = new.record() {
            lock(&self.journal).append(record)?;
        }
        new.kept.store(true, SeqCst);
        new.used_at.store(old.used_at.load(Relaxed), Relaxed);
        new.persisted.store(old.persisted.load(SeqCst), SeqCst);
        new.spare.store(old.spare.load(SeqCst), SeqCst);
        if let Some(counts) = old.counts() {
            new.count_for(counts);
        }
        *now = Arc::new(new);
        Ok(())
    }

    /// Whether [`Tier::maintain`] has something to do.
    pub fn wants_maintenance(&self) -> bool {
        lock(&self.journal).wants_rewrite(self.recorded.load(SeqCst)) && !self.rewriting.load(SeqCst) && !self.sound.is_lost()
    }

    /// Rewrites the journal if most of it is dead. Blocks.
    pub fn maintain(&self) -> Result<()> {
        let (path, mark) = {
            let journal = lock(&self.journal);
            if !journal.wants_rewrite(self.recorded.load(SeqCst)) || self.sound.is_lost() || self.rewriting.swap(true, SeqCst) {
                return Ok(());
            }
            (journal.path().to_path_buf(), journal.mark())
        };
        // What changes from here on is recorded behind the mark, and the last record counts.
        let live = self.objects.iter().flat_map(|shard| {
            let found: Vec<_> = lock(shard).values().filter_map(|local| local.record()).collect();
            found.into_iter().filter_map(|record| match record {
                Record::Put(id, place) => Some((id, place)),
                Record::Drop(_) => None,
            })
        });
        let done = Journal::prepare(&path, live).and_then(|new| {
            let mut journal = lock(&self.journal);
            journal.replace(new, mark)?;
            // Under the lock: what is recorded in the new file is not durable before its name is.
            self.sound.sync_all(&self.root, &self.path)
        });
        self.rewriting.store(false, SeqCst);
        done
    }
}

/// Whether processes that were attached to an earlier life of the node are still there (`agent.rs`): each has the lock of this file.
fn watched(folder: &Path) -> Result<bool> {
    let path = folder.join(ATTACHED);
    let attached = match OpenOptions::new().write(true).open(&path) {
        Ok(attached) => attached,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(file("open", &path)(e)),
    };
    match attached.try_lock() {
        Ok(()) => Ok(false),
        Err(fs::TryLockError::WouldBlock) => Ok(true),
        Err(fs::TryLockError::Error(source)) => Err(file("lock", &path)(source)),
    }
}

fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(file("list", folder))?;
    entries.map(|entry| entry.map(|e| e.path()).map_err(file("list", folder))).collect()
}

/// `<id>-<size>-<checksum>-<copy>`
fn parse(name: &str) -> Option<(ObjectId, u64, u64)> {
    let mut parts = name.split('-');
    let id = parts.next()?.parse().ok()?;
    let size = u64::from_str_radix(parts.next()?, 16).ok()?;
    let checksum = u64::from_str_radix(parts.next()?, 16).ok()?;
    let _copy: ObjectId = parts.next()?.parse().ok()?;
    parts.next().is_none().then_some((id, size, checksum))
}

#[cfg(test)]
mod tests;
