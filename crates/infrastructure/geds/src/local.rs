//! The local tier: one file per object in a folder, and mappings of it.
//!
//! ```text
//! <folder>/lock                                    held by the node that uses the folder
//! <folder>/open/<copy>                             being written; worth nothing after a restart
//! <folder>/sealed/<id>-<size>-<checksum>-<copy>    never changes again; all in hexadecimal
//! ```
//!
//! `copy` is random: an object that is spilled while it is read and then fetched again has two files for a while, and the old one must
//! not take the new one with it when its last reader goes.
//!
//! A file is durable before it is renamed to `sealed/`, and it is there before the catalog hears of it. A file that the catalog doesn't
//! know is a seal that nobody was told of. Nothing here talks to the catalog or the network.

use crate::{Error, ObjectId, ObjectMeta, Result};
use memmap2::Mmap;
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// What is read at a time to compute a checksum.
const CHUNK: usize = 1 << 20;

pub(crate) fn file(action: &'static str, path: &Path) -> impl Fn(io::Error) -> Error + use<> {
    let path = path.to_path_buf();
    move |source| Error::File { action, path: path.clone(), source }
}

/// The bytes that objects on this disk use or have reserved. Never more than the limit.
pub(crate) struct Space {
    pub limit: u64,
    used: AtomicU64,
}

impl Space {
    pub fn used(&self) -> u64 {
        self.used.load(SeqCst)
    }

    /// Takes `wanted` bytes, or tells how many are used.
    fn take(&self, wanted: u64) -> Result<(), u64> {
        self.used
            .fetch_update(SeqCst, SeqCst, |used| used.checked_add(wanted).filter(|sum| *sum <= self.limit))
            .map(|_| ())
    }

    fn give(&self, bytes: u64) {
        let before = self.used.fetch_sub(bytes, SeqCst);
        assert!(before >= bytes, "more space given back ({bytes}) than was taken ({before})");
    }
}

/// The folder of one node.
pub(crate) struct Folder {
    path: PathBuf,
    pub space: Arc<Space>,
    /// Held as long as the folder is used.
    _lock: File,
}

impl Folder {
    /// Opens the folder, removes what was being written, and returns what was sealed.
    pub fn open(path: &Path, limit: u64) -> Result<(Folder, Vec<Arc<Local>>)> {
        let space = Arc::new(Space { limit, used: AtomicU64::new(0) });
        for path in [path.to_path_buf(), path.join("open"), path.join("sealed")] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(file("create", &path))?;
        }
        let lock_path = path.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(file("open", &lock_path))?;
        lock.try_lock().map_err(|e| match e {
            fs::TryLockError::Error(source) => file("lock", &lock_path)(source),
            fs::TryLockError::WouldBlock => Error::BadValue {
                what: "folder",
                value: path.display().to_string(),
                rule: "another node uses it; give each node its own",
            },
        })?;
        let open = path.join("open");
        for entry in fs::read_dir(&open).map_err(file("list", &open))? {
            let path = entry.map_err(file("list", &open))?.path();
            fs::remove_file(&path).map_err(file("remove", &path))?;
        }
        let mut found = Vec::new();
        let sealed = path.join("sealed");
        for entry in fs::read_dir(&sealed).map_err(file("list", &sealed))? {
            let path = entry.map_err(file("list", &sealed))?.path();
            let Some((id, size, checksum)) = path.file_name().and_then(|n| n.to_str()).and_then(parse) else {
                tracing::warn!(path = %path.display(), "not an object; left alone");
                continue;
            };
            let length = fs::metadata(&path).map_err(file("look up", &path))?.len();
            if length != size {
                tracing::error!(path = %path.display(), length, "an object has lost its length; set aside as damaged");
                let aside = path.with_extension("damaged");
                fs::rename(&path, &aside).map_err(file("rename", &path))?;
                continue;
            }
            // What is there is counted even above the limit, so that nothing new comes until there is room.
            space.used.fetch_add(size, SeqCst);
            found.push(Arc::new(Local::new(path, id, size, checksum, false, space.clone())));
        }
        Ok((Folder { path: path.into(), space, _lock: lock }, found))
    }

    /// A new private file for an object.
    pub fn create(&self, id: ObjectId) -> Result<Draft> {
        let copy = ObjectId::random()?;
        let path = self.path.join("open").join(copy.to_string());
        let made = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(file("create", &path))?;
        Ok(Draft {
            id,
            copy,
            path,
            sealed: self.path.join("sealed"),
            file: made,
            len: 0,
            reserved: 0,
            hash: Some(Box::new(Xxh3::new())),
            hashed: 0,
            done: false,
            space: self.space.clone(),
        })
    }
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

/// A file being written. Dropped unsealed, it is gone.
pub(crate) struct Draft {
    pub id: ObjectId,
    copy: ObjectId,
    path: PathBuf,
    sealed: PathBuf,
    file: File,
    len: u64,
    reserved: u64,
    /// Of the first `hashed` bytes, as long as all writes came in order; then sealing needs no second look at the data.
    hash: Option<Box<Xxh3>>,
    hashed: u64,
    done: bool,
    space: Arc<Space>,
}

/// Why a write was refused: the caller knows the object's name.
pub(crate) enum Refused {
    NoSpace { wanted: u64, used: u64, limit: u64 },
    Error(Error),
}

impl Draft {
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Makes sure that `len` bytes may be written.
    pub fn reserve(&mut self, len: u64) -> Result<(), Refused> {
        if let Some(more) = len.checked_sub(self.reserved) {
            self.space
                .take(more)
                .map_err(|used| Refused::NoSpace { wanted: more, used, limit: self.space.limit })?;
            self.reserved = len;
        }
        Ok(())
    }

    pub fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), Refused> {
        if data.is_empty() {
            return Ok(());
        }
        let end = offset.checked_add(data.len() as u64).filter(|end| *end <= i64::MAX as u64).ok_or_else(|| {
            Refused::Error(Error::BadValue {
                what: "offset",
                value: offset.to_string(),
                rule: "offset and length together stay below 2^63",
            })
        })?;
        self.reserve(end)?;
        if offset != self.hashed {
            self.hash = None;
        }
        if let Err(e) = self.file.write_all_at(data, offset) {
            // Some of it may be in the file.
            self.hash = None;
            return Err(Refused::Error(file("write", &self.path)(e)));
        }
        if let Some(hash) = &mut self.hash {
            hash.update(data);
            self.hashed = end;
        }
        self.len = self.len.max(end);
        Ok(())
    }

    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset.saturating_add(done as u64)) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(file("read", &self.path)(e)),
            }
        }
        Ok(done)
    }

    pub fn set_len(&mut self, len: u64) -> Result<(), Refused> {
        if len == self.len {
            return Ok(());
        }
        self.reserve(len)?;
        self.file.set_len(len).map_err(|e| Refused::Error(file("resize", &self.path)(e)))?;
        self.hash = None;
        if len == 0 {
            (self.hash, self.hashed) = (Some(Box::new(Xxh3::new())), 0);
        }
        self.len = len;
        self.space.give(self.reserved - len);
        self.reserved = len;
        Ok(())
    }

    fn checksum(&self) -> Result<u64> {
        if let Some(hash) = self.hash.as_ref().filter(|_| self.hashed == self.len) {
            return Ok(hash.digest());
        }
        let mut hash = Xxh3::new();
        let mut buf = vec![0; CHUNK];
        let mut at = 0;
        while at < self.len {
            let n = self.read_at(at, &mut buf)?;
            if n == 0 {
                return Err(file("read", &self.path)(io::ErrorKind::UnexpectedEof.into()));
            }
            hash.update(&buf[..n]);
            at += n as u64;
        }
        Ok(hash.digest())
    }

    /// Makes the file durable and puts it among the sealed. Still doomed: `keep` it when the catalog has it.
    pub fn seal(mut self) -> Result<Local> {
        // A write that failed in its middle may have left more than was acknowledged.
        self.file.set_len(self.len).map_err(file("resize", &self.path))?;
        let checksum = self.checksum()?;
        self.file.sync_all().map_err(file("sync", &self.path))?;
        let name = format!("{}-{:x}-{checksum:016x}-{}", self.id, self.len, self.copy);
        let path = self.sealed.join(name);
        fs::rename(&self.path, &path).map_err(file("rename", &self.path))?;
        // From here on the space belongs to `Local`.
        self.done = true;
        self.space.give(self.reserved - self.len);
        let local = Local::new(path, self.id, self.len, checksum, true, self.space.clone());
        local.doomed.store(true, SeqCst);
        File::open(&self.sealed).and_then(|folder| folder.sync_all()).map_err(file("sync", &self.sealed))?;
        Ok(local)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.done {
            if let Err(e) = fs::remove_file(&self.path) {
                tracing::warn!(path = %self.path.display(), error = %e, "an abandoned write can't be removed");
            }
            self.space.give(self.reserved);
        }
    }
}

/// A sealed file of this node. Its space is taken until the last handle is gone.
pub(crate) struct Local {
    pub id: ObjectId,
    pub size: u64,
    pub checksum: u64,
    path: PathBuf,
    /// Remove the file with the last handle.
    doomed: AtomicBool,
    /// The content is known to match the checksum: it was sealed or fetched by this process.
    verified: AtomicBool,
    map: OnceLock<Option<Mmap>>,
    mapping: Mutex<()>,
    space: Arc<Space>,
}

impl Local {
    fn new(path: PathBuf, id: ObjectId, size: u64, checksum: u64, verified: bool, space: Arc<Space>) -> Local {
        Local {
            id,
            size,
            checksum,
            path,
            doomed: AtomicBool::new(false),
            verified: AtomicBool::new(verified),
            map: OnceLock::new(),
            mapping: Mutex::new(()),
            space,
        }
    }

    /// The file stays when the last handle goes.
    pub fn keep(&self) {
        self.doomed.store(false, SeqCst);
    }

    /// The file goes with the last handle.
    pub fn doom(&self) {
        self.doomed.store(true, SeqCst);
    }

    /// Mapping it takes no time: it has been mapped or needs no check.
    pub fn is_ready(&self) -> bool {
        self.verified.load(SeqCst)
    }

    /// Maps the file; after a restart it is checked first. `Err` holds what was found.
    fn map(&self) -> Result<&[u8], Result<String, Error>> {
        if let Some(map) = self.map.get() {
            return Ok(map.as_deref().unwrap_or(&[]));
        }
        let _turn = self.mapping.lock().unwrap_or_else(|e| e.into_inner());
        if self.map.get().is_none() {
            let map = if self.size == 0 { None } else { Some(self.map_file()?) };
            if !self.verified.load(SeqCst) {
                let found = xxh3_64(map.as_deref().unwrap_or(&[]));
                if found != self.checksum {
                    return Err(Ok(format!("its checksum is {found:016x}, not {:016x}", self.checksum)));
                }
                self.verified.store(true, SeqCst);
            }
            let _ = self.map.set(map);
        }
        Ok(self.map.get().and_then(|map| map.as_deref()).unwrap_or(&[]))
    }

    fn map_file(&self) -> Result<Mmap, Result<String, Error>> {
        let opened = File::open(&self.path).map_err(|e| Err(file("open", &self.path)(e)))?;
        let length = opened.metadata().map_err(|e| Err(file("look up", &self.path)(e)))?.len();
        if length != self.size {
            return Err(Ok(format!("its file has {length} bytes, not {}", self.size)));
        }
        // SAFETY: a mapping is sound as long as the file is neither changed nor cut. The file is 0600 in a folder of mode 0700 that this
        // process has locked, no code here opens a file in `sealed/` for writing, and removing a file leaves its mapping whole. Another
        // program of the same user could still change it; such a program could as well change this process.
        unsafe { Mmap::map(&opened) }.map_err(|e| Err(file("map", &self.path)(e)))
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        if *self.doomed.get_mut() {
            if let Err(e) = fs::remove_file(&self.path) {
                tracing::warn!(path = %self.path.display(), error = %e, "an object that was freed can't be removed");
            }
        }
        self.space.give(self.size);
    }
}

/// A sealed object, mapped. Its bytes stay as they are for as long as a handle lives, whatever happens to the key meanwhile.
#[derive(Clone)]
pub struct Object {
    meta: Arc<ObjectMeta>,
    local: Arc<Local>,
}

impl Object {
    pub(crate) fn new(meta: ObjectMeta, local: Arc<Local>) -> Result<Object> {
        match local.map() {
            Ok(_) => Ok(Object { meta: Arc::new(meta), local }),
            Err(Ok(found)) => Err(Error::Damaged {
                bucket: meta.bucket.to_string(),
                key: meta.key.to_string(),
                place: "on this site".into(),
                found,
            }),
            Err(Err(e)) => Err(e),
        }
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
        self.local.map.get().and_then(|map| map.as_deref()).unwrap_or(&[])
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
