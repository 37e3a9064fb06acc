//! A sealed object of this node, and the handle that readers have of it.

use super::{Sound, Tier, file, lock, step};
use crate::{
    Error, ObjectId, ObjectMeta, Result,
    agent::{self, Lendable},
    cipher::Cipher,
    journal::{Place, Record},
    metrics::{BucketCounts, add, take},
    segment::{self, Segment},
    space::{Reservation, Space},
};
use memmap2::Mmap;
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed, Ordering::SeqCst},
    },
};
use xxhash_rust::xxh3::xxh3_64;

/// A large object's own file or memory.
pub(super) struct Own {
    /// `None`: memory, mapped already.
    pub path: Option<PathBuf>,
    /// The memory, for other processes, where there may be some.
    pub memory: Option<File>,
    pub map: OnceLock<Option<Mmap>>,
    pub mapping: Mutex<()>,
    /// Remove the file with the last handle.
    pub doomed: AtomicBool,
    pub sound: Arc<Sound>,
    pub _charge: Reservation,
}

pub(super) enum Where {
    Segment { segment: Arc<Segment>, offset: u64, memory: bool },
    /// Boxed: most objects are small, and lie beside each other in less memory.
    Own(Box<Own>),
}

/// What an encrypted object holds, in memory for as long as somebody has it open.
pub(super) struct Plain(Vec<u8>);

impl std::ops::Deref for Plain {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// How an object is encrypted, and what of it is in memory.
struct Veiled {
    cipher: Arc<Cipher>,
    plain: Mutex<Weak<Plain>>,
}

/// A sealed object of this node. Its bytes are there until the last handle is gone.
///
/// The fields that a warm open touches come first: with the counters of the `Arc` around it they are 64 bytes, one or two lines of the cache (`leases.rs` asks for
/// them ahead). With a cold one in the middle an open took a third longer.
#[repr(C)]
pub(crate) struct Local {
    pub(super) place: Where,
    pub size: u64,
    /// `None`: it lies there as it is.
    veiled: Option<Box<Veiled>>,
    /// When it was last opened, in seconds of [`Tier::age`].
    pub used_at: AtomicU32,
    /// Recorded, or found: it is this node's until it is freed.
    pub(super) kept: AtomicBool,
    /// The content is known to match the checksum: it was sealed or fetched by this process.
    verified: AtomicBool,
    /// The persistency tier has it and the catalog knows.
    pub persisted: AtomicBool,
    /// A copy that a reader here has fetched from another site in this life of the node, and that nobody counts on.
    pub spare: AtomicBool,
    pub checksum: u64,
    pub id: ObjectId,
    space: Arc<Space>,
    /// Whose figures it counts in.
    counts: OnceLock<Arc<BucketCounts>>,
}

const _: () = assert!(std::mem::offset_of!(Local, checksum) <= 48, "what a warm open touches fits beside the counters");

impl Local {
    pub(super) fn new(tier: &Tier, id: ObjectId, size: u64, checksum: u64, place: Where, verified: bool, space: &Arc<Space>) -> Local {
        space.use_more(size);
        let memory = match &place {
            Where::Segment { memory, .. } => *memory,
            Where::Own(own) => own.path.is_none(),
        };
        let cipher = tier.cipher.as_ref().filter(|_| !memory);
        let veiled = cipher.map(|cipher| Box::new(Veiled { cipher: cipher.clone(), plain: Mutex::default() }));
        Local {
            veiled,
            id,
            size,
            checksum,
            place,
            kept: AtomicBool::new(false),
            verified: AtomicBool::new(verified),
            used_at: AtomicU32::new(tier.age()),
            persisted: AtomicBool::new(false),
            spare: AtomicBool::new(false),
            space: space.clone(),
            counts: OnceLock::new(),
        }
    }

    /// Says whose figures it counts in while it is this node's. False: that was said before.
    pub fn count_for(&self, counts: Arc<BucketCounts>) -> bool {
        self.counts.set(counts).is_ok()
    }

    /// Whether it counts for a bucket yet.
    pub(super) fn is_counted(&self) -> bool {
        self.counts.get().is_some()
    }

    pub(super) fn counts(&self) -> Option<Arc<BucketCounts>> {
        self.counts.get().cloned()
    }

    /// It is this node's from now on.
    pub(super) fn came(&self) {
        if let Some(counts) = self.counts.get() {
            let counts = counts.here(self.in_memory());
            add(&counts.objects, 1);
            add(&counts.bytes, self.size);
        }
    }

    /// It is not any more, whoever reads it still.
    pub(super) fn left(&self) {
        if let Some(counts) = self.counts.get() {
            let counts = counts.here(self.in_memory());
            take(&counts.objects, 1);
            take(&counts.bytes, self.size);
        }
    }

    /// What the journal has to say of it, if anything.
    pub(super) fn record(&self) -> Option<Record> {
        match &self.place {
            Where::Segment { segment, offset, memory: false } => {
                let place = Place { segment: segment.number, offset: *offset, size: self.size, checksum: self.checksum };
                Some(Record::Put(self.id, place))
            }
            _ => None,
        }
    }

    pub fn in_memory(&self) -> bool {
        match &self.place {
            Where::Segment { memory, .. } => *memory,
            Where::Own(own) => own.path.is_none(),
        }
    }

    /// Its file goes with the last handle; a segment forgets it then in any case.
    pub(super) fn doom(&self) {
        if let Where::Own(own) = &self.place {
            own.doomed.store(true, SeqCst);
        }
    }

    /// Makes a large object's file durable: those in segments are, after [`Tier::sync`]. Blocks.
    pub fn sync(&self) -> Result<()> {
        if let Where::Own(own) = &self.place
            && let Some(path) = &own.path
        {
            own.sound.sync_all(&File::open(path).map_err(file("open", path))?, path)?;
            own.sound.sync_folder(path.parent().unwrap_or(Path::new(".")))?;
        }
        Ok(())
    }

    /// Opening it takes no time: nothing has to be checked or decrypted.
    pub fn is_ready(&self) -> bool {
        self.is_verified() && self.veiled.as_ref().is_none_or(|veiled| lock(&veiled.plain).strong_count() > 0)
    }

    pub(super) fn is_verified(&self) -> bool {
        self.verified.load(SeqCst)
    }

    /// Bytes on the disk or in memory, before they are rounded up.
    pub(super) fn stored(&self) -> u64 {
        if self.veiled.is_some() { crate::cipher::stored(self.size) } else { self.size }
    }

    fn touch(&self, now: u32) {
        self.used_at.store(now, Relaxed);
    }

    /// As they are stored.
    pub fn bytes(&self) -> &[u8] {
        match &self.place {
            Where::Segment { segment, offset, .. } => segment.bytes(*offset, self.stored()),
            Where::Own(own) => own.map.get().and_then(|map| map.as_deref()).unwrap_or(&[]),
        }
    }

    /// Makes sure that it is mapped and, after a restart, that it is what it was. Gives it decrypted, if it is encrypted. `Err` holds what was found.
    pub(super) fn check(&self) -> Result<Option<Arc<Plain>>, Result<String, Error>> {
        if let Where::Own(own) = &self.place {
            if own.map.get().is_none() {
                let _turn = lock(&own.mapping);
                if own.map.get().is_none() {
                    let map = if self.size == 0 { None } else { Some(self.map_file(own)?) };
                    let _ = own.map.set(map);
                }
            }
        }
        let plain = match &self.veiled {
            None => None,
            Some(veiled) => {
                let mut known = lock(&veiled.plain);
                match known.upgrade() {
                    Some(plain) => Some(plain),
                    None => {
                        let plain = Arc::new(Plain(veiled.cipher.open_all(self.id, self.bytes(), self.size).map_err(Ok)?));
                        *known = Arc::downgrade(&plain);
                        Some(plain)
                    }
                }
            }
        };
        if !self.verified.load(SeqCst) {
            let found = xxh3_64(plain.as_deref().map_or(self.bytes(), |plain| &plain[..]));
            if found != self.checksum {
                return Err(Ok(format!("its checksum is {found:016x}, not {:016x}", self.checksum)));
            }
            self.verified.store(true, SeqCst);
        }
        Ok(plain)
    }

    fn map_file(&self, own: &Own) -> Result<Mmap, Result<String, Error>> {
        let path = own.path.as_deref().unwrap_or(Path::new("memory"));
        let opened = File::open(path).map_err(|e| Err(file("open", path)(e)))?;
        let length = opened.metadata().map_err(|e| Err(file("look up", path)(e)))?.len();
        if length != self.stored() {
            return Err(Ok(format!("its file has {length} bytes, not {}", self.stored())));
        }
        // SAFETY: a mapping is sound as long as the file is neither changed nor cut. The file is 0600 in a folder of mode 0700 that this
        // process has locked, no code here opens a file in `sealed/` for writing, and removing a file leaves its mapping whole. Another
        // program of the same user could still change it; such a program could as well change this process.
        unsafe { Mmap::map(&opened) }.map_err(|e| Err(file("map", path)(e)))
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        let stored = self.stored();
        match &mut self.place {
            Where::Segment { segment, .. } => segment.release(stored),
            Where::Own(own) => {
                if let (true, Some(path)) = (*own.doomed.get_mut() || !*self.kept.get_mut(), &own.path) {
                    if let Err(e) = step().and_then(|()| fs::remove_file(path)) {
                        tracing::warn!(path = %path.display(), error = %e, "an object that was freed can't be removed");
                    }
                }
            }
        }
        self.space.use_less(self.size);
    }
}

/// A sealed object, mapped. Its bytes stay as they are for as long as a handle lives, whatever happens to the key meanwhile.
#[derive(Clone)]
pub struct Object {
    meta: Arc<ObjectMeta>,
    local: Arc<Local>,
    /// Of an encrypted one.
    plain: Option<Arc<Plain>>,
}

impl Object {
    pub(crate) fn new(meta: ObjectMeta, local: Arc<Local>, now: u32) -> Result<Object> {
        match local.check() {
            Ok(plain) => {
                local.touch(now);
                Ok(Object { meta: Arc::new(meta), local, plain })
            }
            Err(Ok(found)) => Err(Error::Damaged {
                bucket: meta.bucket.to_string(),
                key: meta.key.to_string(),
                place: "on this site".into(),
                found,
            }),
            Err(Err(e)) => Err(e),
        }
    }

    /// One that was opened before. `None`: it is encrypted, and has to be decrypted anew.
    pub(crate) fn again(meta: Arc<ObjectMeta>, local: Arc<Local>, now: u32) -> Option<Object> {
        let plain = match &local.veiled {
            None => None,
            Some(veiled) => Some(lock(&veiled.plain).upgrade()?),
        };
        local.touch(now);
        Some(Object { meta, local, plain })
    }

    pub(super) fn plain(&self) -> Option<&Arc<Plain>> {
        self.plain.as_ref()
    }

    pub(crate) fn parts(&self) -> (&Arc<ObjectMeta>, &Arc<Local>) {
        (&self.meta, &self.local)
    }

    /// What another process maps to read this. Where the bytes lie in no file as they are (encrypted, or in memory that was taken before anybody shared it), that is a
    /// copy, in memory of its own.
    pub(crate) fn lend(&self) -> Result<Lendable> {
        let shown = Path::new("an object that is lent");
        let of_its_own = || agent::Place::of_its_own(self.len());
        if self.plain.is_none() {
            match &self.local.place {
                Where::Segment { segment, offset, memory } => {
                    let place = agent::Place::in_segment(*memory, segment.number, *offset, segment.capacity);
                    return Ok((segment.lend()?, place));
                }
                Where::Own(own) => match (&own.path, &own.memory) {
                    (Some(path), _) => return Ok((Arc::new(File::open(path).map_err(file("open", path))?), of_its_own())),
                    (None, Some(memory)) => return Ok((Arc::new(agent::read_only(memory).map_err(file("share", shown))?), of_its_own())),
                    (None, None) => {}
                },
            }
        }
        let copy = segment::memory(c"geds-copy").and_then(|mut copy| {
            std::io::Write::write_all(&mut copy, self.bytes())?;
            agent::read_only(&copy)
        });
        Ok((Arc::new(copy.map_err(file("share", shown))?), of_its_own()))
    }

    pub fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
    /// Bytes.
    pub fn len(&self) -> u64 {
        self.local.size
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    pub fn bytes(&self) -> &[u8] {
        match &self.plain {
            None => self.local.bytes(),
            Some(plain) => &plain[..],
        }
    }
    /// Copies from `offset` on; the number of bytes copied is smaller than the buffer only at the end of the object.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> usize {
        let rest = usize::try_from(offset).ok().and_then(|at| self.bytes().get(at..)).unwrap_or(&[]);
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        n
    }
}

impl AsRef<[u8]> for Object {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}
impl std::fmt::Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Object({}/{} epoch {})", self.meta.bucket, self.meta.key, self.meta.epoch)
    }
}
