//! A folder of this machine as a mount, for tests, benchmarks and single programs. Agents mount buckets instead.

use crate::wasi::{Errno, Mount, Sink, Source, Stat};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Files below `root`. Paths come normalised, without `..`; links in the folder are followed, so it must be the caller's own.
pub struct Folder {
    pub root: PathBuf,
}

fn errno(e: io::Error) -> Errno {
    match e.kind() {
        ErrorKind::NotFound => Errno::Noent,
        ErrorKind::AlreadyExists => Errno::Exist,
        ErrorKind::PermissionDenied => Errno::Acces,
        ErrorKind::StorageFull => Errno::Nospc,
        ErrorKind::IsADirectory => Errno::Isdir,
        ErrorKind::NotADirectory => Errno::Notdir,
        ErrorKind::DirectoryNotEmpty => Errno::Notempty,
        _ => Errno::Io,
    }
}

struct Open {
    file: File,
    /// Where a written file goes when it is committed.
    rename: Option<(PathBuf, PathBuf)>,
}

impl Source for Open {
    fn len(&self) -> u64 {
        self.file.metadata().map_or(0, |m| m.len())
    }
    fn version(&self) -> u64 {
        0
    }
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<usize, Errno> {
        self.file.read_at(into, offset).map_err(errno)
    }
}

impl Sink for Open {
    fn len(&self) -> u64 {
        Source::len(self)
    }
    fn set_len(&mut self, len: u64) -> Result<(), Errno> {
        self.file.set_len(len).map_err(errno)
    }
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<usize, Errno> {
        Source::read_at(self, offset, into)
    }
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.file.write_all_at(data, offset).map_err(errno)
    }
    fn commit(mut self: Box<Self>) -> Result<(), Errno> {
        let (from, to) = self.rename.take().expect("a written file has its name");
        fs::rename(from, to).map_err(errno)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some((temporary, _)) = &self.rename {
            let _ = fs::remove_file(temporary);
        }
    }
}

impl Mount for Folder {
    fn stat(&self, path: &str) -> Result<Stat, Errno> {
        let m = fs::metadata(self.root.join(path)).map_err(errno)?;
        Ok(Stat { folder: m.is_dir(), size: m.len() })
    }
    fn open(&self, path: &str) -> Result<Box<dyn Source>, Errno> {
        Ok(Box::new(Open { file: File::open(self.root.join(path)).map_err(errno)?, rename: None }))
    }
    fn create(&self, path: &str, keep: bool) -> Result<Box<dyn Sink>, Errno> {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let to = self.root.join(path);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(errno)?;
        }
        let name = format!(".writing-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let temporary = to.with_file_name(name);
        if keep {
            fs::copy(&to, &temporary).map_err(errno)?;
        }
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&temporary).map_err(errno)?;
        Ok(Box::new(Open { file, rename: Some((temporary, to)) }))
    }
    fn list(&self, path: &str) -> Result<Vec<(String, Stat)>, Errno> {
        let entries = fs::read_dir(self.root.join(path)).map_err(errno)?;
        Ok(entries
            .flatten()
            .filter_map(|e| {
                let name = e.file_name().into_string().ok().filter(|n| !n.starts_with(".writing-"))?;
                let m = e.metadata().ok()?;
                Some((name, Stat { folder: m.is_dir(), size: m.len() }))
            })
            .collect())
    }
    fn remove(&self, path: &str) -> Result<(), Errno> {
        fs::remove_file(self.root.join(path)).map_err(errno)
    }
    fn remove_folder(&self, path: &str) -> Result<(), Errno> {
        match fs::remove_dir(self.root.join(path)) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(errno(e)),
            _ => Ok(()),
        }
    }
    fn rename(&self, from: &str, to: &str) -> Result<(), Errno> {
        if let Some(parent) = self.root.join(to).parent() {
            fs::create_dir_all(parent).map_err(errno)?;
        }
        fs::rename(self.root.join(from), self.root.join(to)).map_err(errno)
    }
}
