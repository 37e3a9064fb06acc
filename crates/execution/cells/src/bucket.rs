//! A bucket of the object store as a folder: what agents mount for cells.
//!
//! An object's key is the path below the bucket, so `/scenes/2024/a.tif` is key `2024/a.tif` of bucket `scenes`; a folder is a prefix that some key
//! has. What is read is a sealed object, mapped on this site; what is written becomes one when the program closes the file. Folders are not renamed:
//! the store has no way to do that in one step.
//!
//! All calls wait for the catalog, so they belong on a cell's thread, never on one of the async runtime.

use crate::wasi::{Errno, Mount, Sink, Source, Stat};
use geds::{Blocking, BucketName, Key, Object, Page, Writer};
use std::collections::BTreeMap;

/// Names in one folder that a program may list.
const LIST_MAX: usize = 1 << 20;

/// Does not need to exist: it is empty until something is written, which creates it.
pub struct Bucket {
    pub store: Blocking,
    pub name: BucketName,
    /// The job with whose end the objects go that are written here; `None`: they stay.
    pub lease: Option<String>,
}

/// What the guest is told. The log has the rest: an error number names neither the object nor the remedy.
fn errno(e: geds::Error) -> Errno {
    use base::Kind;
    let errno = match e.kind() {
        Kind::NotFound => return Errno::Noent,
        Kind::AlreadyExists => return Errno::Exist,
        Kind::InvalidArgument => Errno::Inval,
        Kind::ResourceExhausted => Errno::Nospc,
        Kind::PermissionDenied => Errno::Acces,
        _ => Errno::Io,
    };
    tracing::warn!(error = %e, ?errno, "a cell's file operation failed");
    errno
}

fn key(path: &str) -> Result<Key, Errno> {
    Key::new(path).map_err(errno)
}

/// The prefix of everything below a folder.
fn below(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!("{path}/") }
}

impl Source for Object {
    fn len(&self) -> u64 {
        Object::len(self)
    }
    fn version(&self) -> u64 {
        self.meta().epoch
    }
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<usize, Errno> {
        Ok(Object::read_at(self, offset, into))
    }
}

impl Sink for Writer {
    fn len(&self) -> u64 {
        Writer::len(self)
    }
    fn set_len(&mut self, len: u64) -> Result<(), Errno> {
        Writer::set_len(self, len).map_err(errno)
    }
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<usize, Errno> {
        Writer::read_at(self, offset, into).map_err(errno)
    }
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        Writer::write_at(self, offset, data).map_err(errno)
    }
    fn commit(self: Box<Self>) -> Result<(), Errno> {
        self.seal_blocking().map(|_| ()).map_err(errno)
    }
}

impl Bucket {
    /// Whether some key is below `path`. False for a bucket that doesn't exist.
    fn is_folder(&self, path: &str) -> Result<bool, Errno> {
        match self.store.list(&self.name, &below(path), None, Page { limit: 1, ..Page::default() }) {
            Ok(listing) => Ok(!listing.objects.is_empty()),
            Err(e) if e.kind() == base::Kind::NotFound => Ok(false),
            Err(e) => Err(errno(e)),
        }
    }

    /// `Noent` becomes `Isdir` for what is a folder.
    fn unless_folder(&self, path: &str, e: Errno) -> Errno {
        match self.is_folder(path) {
            Ok(true) if e == Errno::Noent => Errno::Isdir,
            _ => e,
        }
    }
}

impl Mount for Bucket {
    fn stat(&self, path: &str) -> Result<Stat, Errno> {
        if path.is_empty() {
            return Ok(Stat { folder: true, size: 0 });
        }
        match self.store.stat(&self.name, &key(path)?).map_err(errno) {
            Ok(meta) => Ok(Stat { folder: false, size: meta.size }),
            Err(Errno::Noent) if self.is_folder(path)? => Ok(Stat { folder: true, size: 0 }),
            Err(e) => Err(e),
        }
    }

    fn open(&self, path: &str) -> Result<Box<dyn Source>, Errno> {
        Ok(Box::new(self.store.open(&self.name, &key(path)?).map_err(errno)?))
    }

    /// A key names what was sealed last, so an epoch that was written over can't be opened again, and says so.
    fn open_version(&self, path: &str, version: u64) -> Result<Box<dyn Source>, String> {
        let object = Key::new(path).and_then(|key| self.store.open(&self.name, &key)).map_err(|e| e.to_string())?;
        let current = object.meta().epoch;
        if current != version {
            let (bucket, key) = (self.name.to_string(), path.to_string());
            return Err(geds::Error::Stale { bucket, key, epoch: version, current }.to_string());
        }
        Ok(Box::new(object))
    }

    fn create(&self, path: &str, keep: bool) -> Result<Box<dyn Sink>, Errno> {
        let key = key(path)?;
        let mut writer = match self.store.create(&self.name, &key) {
            // All that can be missing for a new object is its bucket.
            Err(e) if e.kind() == base::Kind::NotFound => {
                self.store.create_bucket(&self.name).map_err(errno)?;
                self.store.create(&self.name, &key)
            }
            other => other,
        }
        .map_err(errno)?;
        if let Some(job) = &self.lease {
            writer.lease_to(job);
        }
        if keep {
            let present = self.store.open(&self.name, &key).map_err(errno)?;
            writer.write_at(0, present.bytes()).map_err(errno)?;
        }
        Ok(Box::new(writer))
    }

    fn list(&self, path: &str) -> Result<Vec<(String, Stat)>, Errno> {
        let prefix = below(path);
        let name = |full: &str| full.strip_prefix(&prefix).unwrap_or(full).trim_end_matches('/').to_string();
        // The store may have both `a` and `a/b`: then `a` is a file here, as `stat` says.
        let mut names = BTreeMap::new();
        let mut page = Page::default();
        loop {
            let listing = self.store.list(&self.name, &prefix, Some('/'), page).map_err(errno)?;
            for folder in &listing.prefixes {
                names.entry(name(folder)).or_insert(Stat { folder: true, size: 0 });
            }
            for object in &listing.objects {
                names.insert(name(object.key.as_str()), Stat { folder: false, size: object.size });
            }
            if names.len() > LIST_MAX {
                tracing::warn!(bucket = %self.name, folder = path, "a cell lists a folder of more than {LIST_MAX} names; split it into several");
                return Err(Errno::Nomem);
            }
            match listing.next {
                Some(next) => page = Page { start_after: next, ..Page::default() },
                None => return Ok(names.into_iter().collect()),
            }
        }
    }

    fn remove(&self, path: &str) -> Result<(), Errno> {
        let removed = self.store.delete(&self.name, &key(path)?).map_err(errno);
        removed.map(|_| ()).map_err(|e| self.unless_folder(path, e))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), Errno> {
        let (from, to) = (key(from)?, key(to)?);
        if self.is_folder(to.as_str())? {
            return Err(Errno::Isdir);
        }
        match self.store.rename(&self.name, &from, &to).map_err(errno) {
            Ok(_) => Ok(()),
            Err(Errno::Noent) if self.is_folder(from.as_str())? => Err(Errno::Notsup),
            Err(e) => Err(e),
        }
    }
}
