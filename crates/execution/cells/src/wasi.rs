//! WASI preview 1 for cells: buckets as folders, standard output to the job's log, clocks, arguments. Nothing else of the machine is visible.
//!
//! Written here rather than taken, because open files must be able to move: the table of descriptors becomes plain data ([`Saved`]) and is opened
//! again from it. A file that is being written is private until it is closed; then it is a sealed object. Paths are resolved as text below a
//! mount, so there is nothing to escape to: `..` above a mount is refused, and there are no links.
//!
//! Links and file times are not offered (`ENOTSUP`), nor sockets but those that `socketpair` makes ([`pipes`]).

mod folders;
mod listing;
mod pipes;
mod saved;
mod written;

use crate::cell::{End, Host, Spec};
use crate::processes::Process;
use crate::{mpi_host, threads};
use folders::Folders;
use listing::Listing;
use written::Written;
pub(crate) use pipes::resume;
pub use saved::Saved;
use mpi::Memory;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use wasmtime::{Caller, Linker};

pub const MODULE: &str = "wasi_snapshot_preview1";
/// Open files of one cell.
const FDS_MAX: usize = 1024;
/// Bytes of a path, from its mount on.
const PATH_MAX: usize = 4096;
/// Bytes that one call prints. A list of vectors may name the same memory many times, and is gathered here; a program may be told that less was
/// written than it asked for, and goes on with the rest.
const PRINT_MAX: usize = 1 << 20;
/// Bytes that one call reads from a file or writes to it, as on Linux: what was done is told in 31 bits.
const TRANSFER_MAX: u64 = 0x7fff_f000;
/// The same for a cell with threads, whose memory is copied once more.
const COPY_MAX: u64 = 1 << 20;

/// The functions of preview 1, all of which have a body here.
pub const NAMES: [&str; 46] = [
    "args_get", "args_sizes_get", "environ_get", "environ_sizes_get", "clock_res_get", "clock_time_get", "fd_advise", "fd_allocate", "fd_close",
    "fd_datasync", "fd_fdstat_get", "fd_fdstat_set_flags", "fd_fdstat_set_rights", "fd_filestat_get", "fd_filestat_set_size",
    "fd_filestat_set_times", "fd_pread", "fd_prestat_get", "fd_prestat_dir_name", "fd_pwrite", "fd_read", "fd_readdir", "fd_renumber", "fd_seek",
    "fd_sync", "fd_tell", "fd_write", "path_create_directory", "path_filestat_get", "path_filestat_set_times", "path_link", "path_open",
    "path_readlink", "path_remove_directory", "path_rename", "path_symlink", "path_unlink_file", "poll_oneoff", "proc_exit", "proc_raise",
    "random_get", "sched_yield", "sock_accept", "sock_recv", "sock_send", "sock_shutdown",
];

/// Error numbers of preview 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Errno {
    Acces = 2,
    Again = 6,
    Badf = 8,
    Busy = 10,
    Child = 12,
    Exist = 20,
    Fault = 21,
    Fbig = 22,
    Inval = 28,
    Io = 29,
    Isdir = 31,
    Mfile = 33,
    Nametoolong = 37,
    Nfile = 41,
    Noent = 44,
    Nomem = 48,
    Nospc = 51,
    Nosys = 52,
    Notdir = 54,
    Notempty = 55,
    Notsup = 58,
    Perm = 63,
    Pipe = 64,
    Spipe = 70,
    Srch = 71,
    Xdev = 75,
    Notcapable = 76,
}
type Result<T> = std::result::Result<T, Errno>;

/// A file's or folder's description.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stat {
    pub folder: bool,
    pub size: u64,
}

/// A file that never changes while it is open.
pub trait Source: Send {
    fn len(&self) -> u64;
    /// Tells this content from what the path names later. 0: the mount doesn't tell them apart.
    fn version(&self) -> u64;
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<usize>;
}

/// A file that is being written and is not visible to others until `commit`.
pub trait Sink: Send {
    fn len(&self) -> u64;
    fn set_len(&mut self, len: u64) -> Result<()>;
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<usize>;
    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<()>;
    fn commit(self: Box<Self>) -> Result<()>;
}

/// What a cell sees as a folder. Paths are relative, normalised, without `.` and `..`; empty for the folder itself.
pub trait Mount: Send + Sync {
    fn stat(&self, path: &str) -> Result<Stat>;
    fn open(&self, path: &str) -> Result<Box<dyn Source>>;
    /// The content that a cell had open before it moved, and no other. The error is for who moves the cell: it names the file and both versions.
    fn open_version(&self, path: &str, version: u64) -> std::result::Result<Box<dyn Source>, String> {
        let file = self.open(path).map_err(|e| format!("file {path} can't be opened here ({e:?})"))?;
        match file.version() {
            same if same == version => Ok(file),
            other => Err(format!("file {path} is at version {other}, not {version}: it was written again meanwhile")),
        }
    }
    /// A new version of a file; with `keep`, beginning with the present content.
    fn create(&self, path: &str, keep: bool) -> Result<Box<dyn Sink>>;
    /// Names directly below `path`.
    fn list(&self, path: &str) -> Result<Vec<(String, Stat)>>;
    fn remove(&self, path: &str) -> Result<()>;
    /// Removes a folder that holds nothing, where a mount has such.
    fn remove_folder(&self, _path: &str) -> Result<()> {
        Ok(())
    }
    /// The folder that it goes to may be one that only the cell knows.
    fn rename(&self, from: &str, to: &str) -> Result<()>;
}

/// The other side of a cell's standard streams: takes what it prints, and has what it reads.
pub trait Output: Send + Sync {
    /// `offset`: the bytes that the rank printed before these, on both streams together. It goes on counting where the rank moves.
    fn write(&self, rank: mpi::Rank, stderr: bool, offset: u64, data: &[u8]);
    /// Fills in what comes next of standard input, and says how many bytes; 0 at its end. It is empty where nobody is there who could type.
    fn read(&self, _rank: mpi::Rank, _into: &mut [u8]) -> Result<usize> {
        Ok(0)
    }
    /// Whether stream `n` (0, 1 or 2) is a terminal. What a cell prints to one goes out line by line, so that a log grows while the program runs.
    fn terminal(&self, _n: u8) -> bool {
        true
    }
}

/// Output that nobody wants.
pub struct Discard;
impl Output for Discard {
    fn write(&self, _: mpi::Rank, _: bool, _: u64, _: &[u8]) {}
}

/// The folders of a cell: name (`scenes`, seen as `/scenes`) and what is behind. `workdir`: where relative paths begin, as mount and path.
#[derive(Clone, Default)]
pub struct Mounts {
    pub folders: Vec<(String, Arc<dyn Mount>)>,
    pub workdir: Option<(usize, String)>,
}

enum Fd {
    Standard(u8),
    /// `listing`: since it was first read.
    Folder { mount: usize, path: String, preopened: Option<String>, listing: Option<Box<Listing>> },
    Reading { mount: usize, path: String, at: u64, file: Box<dyn Source> },
    /// `write`: not by a descriptor that was opened to read what is being written.
    Writing { mount: usize, path: String, at: u64, append: bool, write: bool, file: Written },
    Stream(pipes::Ends),
}

/// What a descriptor means: with `dup` and `fork` several mean the same, and have one position in it.
type Descriptor = Arc<Mutex<Fd>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each step under these locks leaves what it works on whole.
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

pub(crate) struct State {
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub memory_max: u64,
    mounts: Mounts,
    output: Arc<dyn Output>,
    rank: mpi::Rank,
    /// Once it has made another process or a pipe. First of the fields that are dropped: the rank's other processes end before its files are closed.
    pub(crate) process: Option<Process>,
    fds: Vec<Option<Descriptor>>,
    /// Of all processes of the rank.
    folders: Arc<Mutex<Folders>>,
    /// Bytes on both streams, of all processes of the rank.
    printed: Arc<Mutex<u64>>,
    /// For what its open folders have listed, of all processes of the rank.
    room: Arc<listing::Room>,
}

/// The folder that a normalised path lies in; `""`: the mount's own.
fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// `a/./b//c` → `a/b/c`; refuses what leads above the start, and what becomes too long on its way from folder to folder.
fn normal(base: &str, path: &str) -> Result<String> {
    if path.starts_with('/') || path.contains('\0') {
        return Err(Errno::Notcapable);
    }
    let mut out: Vec<&str> = base.split('/').filter(|s| !s.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                out.pop().ok_or(Errno::Notcapable)?;
            }
            name => out.push(name),
        }
    }
    let path = out.join("/");
    if path.len() > PATH_MAX { Err(Errno::Nametoolong) } else { Ok(path) }
}

impl State {
    /// `knows_workdir`: the program begins in the folder that PWD names. For another one that folder is opened as `.`, below which the C library
    /// then looks for every path that is in none of the folders.
    pub fn new(spec: &Spec, knows_workdir: bool) -> State {
        let new = |fd: Fd| Some(Arc::new(Mutex::new(fd)));
        let mut fds: Vec<Option<Descriptor>> = (0..3).map(|n| new(Fd::Standard(n))).collect();
        for (mount, (name, _)) in spec.mounts.folders.iter().enumerate() {
            fds.push(new(Fd::Folder { mount, path: String::new(), preopened: Some(format!("/{name}")), listing: None }));
        }
        let mut env = spec.env.clone();
        if knows_workdir {
            env.retain(|e| !e.starts_with("PWD="));
            let workdir = spec.mounts.workdir.as_ref().map(|(mount, path)| format!("/{}/{path}", spec.mounts.folders[*mount].0));
            env.extend(workdir.and_then(|w| normal("", w.trim_start_matches('/')).ok()).map(|w| format!("PWD=/{w}")));
        } else if let Some((mount, path)) = &spec.mounts.workdir {
            fds.push(new(Fd::Folder { mount: *mount, path: path.clone(), preopened: Some(".".into()), listing: None }));
        }
        State {
            args: spec.args.clone(),
            env,
            memory_max: spec.memory_max,
            mounts: spec.mounts.clone(),
            output: spec.output.clone(),
            rank: spec.rank,
            process: None,
            fds,
            folders: Arc::default(),
            printed: Arc::default(),
            room: Arc::default(),
        }
    }

    /// What a process has at its beginning that this one makes.
    pub(crate) fn of_child(&self, process: Process) -> State {
        State {
            args: self.args.clone(),
            env: self.env.clone(),
            memory_max: self.memory_max,
            mounts: self.mounts.clone(),
            output: self.output.clone(),
            rank: self.rank,
            process: Some(process),
            fds: self.fds.clone(),
            folders: self.folders.clone(),
            printed: self.printed.clone(),
            room: self.room.clone(),
        }
    }

    /// Closes what the program left open, as a system does at the end of a process.
    pub fn close_all(&mut self) -> std::result::Result<(), String> {
        for fd in self.fds.drain(..).flatten() {
            if let Some(Fd::Writing { path, file, .. }) = last(fd) {
                file.close().map_err(|e| format!("file {path} could not be sealed at the end ({e:?})"))?;
            }
        }
        Ok(())
    }

    fn descriptor(&self, fd: u32) -> Result<&Descriptor> {
        self.fds.get(fd as usize).and_then(Option::as_ref).ok_or(Errno::Badf)
    }

    fn fd(&self, fd: u32) -> Result<MutexGuard<'_, Fd>> {
        self.descriptor(fd).map(|descriptor| lock(descriptor))
    }

    fn add(&mut self, new: Fd) -> Result<u32> {
        self.put(Arc::new(Mutex::new(new)))
    }

    fn put(&mut self, new: Descriptor) -> Result<u32> {
        let slot = match self.fds.iter().position(Option::is_none) {
            Some(i) => i,
            None if self.fds.len() < FDS_MAX => {
                self.fds.push(None);
                self.fds.len() - 1
            }
            None => return Err(Errno::Mfile),
        };
        self.fds[slot] = Some(new);
        Ok(slot as u32)
    }

    /// The mount and the path that a descriptor of a folder and a path below it mean.
    fn at(&mut self, fd: u32, path: &str) -> Result<(usize, String)> {
        match &*self.fd(fd)? {
            Fd::Folder { mount, path: base, preopened, .. } => {
                // What was opened by the program may not lead out of the mount; a preopened one not out of itself.
                let start = if preopened.is_some() { String::new() } else { base.clone() };
                let below = normal(&start, path)?;
                let full = if preopened.is_some() { normal(base, &below)? } else { below };
                Ok((*mount, full))
            }
            _ => Err(Errno::Notdir),
        }
    }

    fn stat(&self, mount: usize, path: &str) -> Result<Stat> {
        if path.is_empty() || lock(&self.folders).contains(mount, path) {
            return Ok(Stat { folder: true, size: 0 });
        }
        match self.written(mount, path) {
            Some(file) => Ok(Stat { folder: false, size: file.len() }),
            None => self.mounts.folders[mount].1.stat(path),
        }
    }

    /// The files that are being written, with their mounts and paths.
    fn all_written(&self) -> impl Iterator<Item = (usize, String, Written)> {
        self.fds.iter().flatten().filter_map(|fd| match &*lock(fd) {
            Fd::Writing { mount, path, file, .. } if !file.is_unlinked() => Some((*mount, path.clone(), file.clone())),
            _ => None,
        })
    }

    /// What a path means that is being written.
    fn written(&self, mount: usize, path: &str) -> Option<Written> {
        self.all_written().find(|(m, p, _)| *m == mount && p == path).map(|(.., file)| file)
    }

    fn unlink(&mut self, mount: usize, path: &str) -> Result<()> {
        if lock(&self.folders).contains(mount, path) {
            return Err(Errno::Isdir);
        }
        let written = self.written(mount, path);
        match self.mounts.folders[mount].1.remove(path) {
            // It has never been anything else.
            Err(Errno::Noent) if written.is_some() => {}
            done => done?,
        }
        written.inspect(Written::unlink);
        self.emptied(mount, path);
        Ok(())
    }

    /// What a folder holds, those that the cell has made too, by name.
    fn list(&self, mount: usize, path: &str) -> Result<BTreeMap<String, Stat>> {
        let mut names: BTreeMap<_, _> = lock(&self.folders).below(mount, path).map(|name| (name.to_string(), Stat { folder: true, size: 0 })).collect();
        match self.mounts.folders[mount].1.list(path) {
            Ok(found) => names.extend(found),
            Err(Errno::Noent) => {}
            Err(e) => return Err(e),
        }
        let below = self.all_written().filter(|(m, p, _)| *m == mount && parent(p) == path);
        names.extend(below.map(|(_, p, file)| (p[parent(&p).len()..].trim_start_matches('/').to_string(), Stat { folder: false, size: file.len() })));
        Ok(names)
    }

    /// A folder that loses what it holds is still there, in a store of objects too.
    fn emptied(&mut self, mount: usize, path: &str) {
        let folder = parent(path);
        if !folder.is_empty() {
            // One too many is only forgotten earlier.
            let _ = lock(&self.folders).add(mount, folder.to_string());
        }
    }

    fn remove_folder(&mut self, mount: usize, path: &str) -> Result<()> {
        if path.is_empty() {
            // What is mounted is not the program's to remove.
            return Err(Errno::Busy);
        }
        if !self.stat(mount, path)?.folder {
            return Err(Errno::Notdir);
        }
        if !self.list(mount, path)?.is_empty() {
            return Err(Errno::Notempty);
        }
        self.mounts.folders[mount].1.remove_folder(path)?;
        lock(&self.folders).remove(mount, path);
        self.emptied(mount, path);
        Ok(())
    }

    fn rename(&mut self, mount: usize, from: &str, to: &str) -> Result<()> {
        let what = self.stat(mount, from)?;
        if from.is_empty() || to.is_empty() {
            return Err(Errno::Busy);
        }
        if from == to {
            return Ok(());
        }
        if to.strip_prefix(from).is_some_and(|rest| rest.starts_with('/')) {
            return Err(Errno::Inval);
        }
        match self.stat(mount, to) {
            Ok(Stat { folder: true, .. }) if !what.folder => return Err(Errno::Isdir),
            Ok(Stat { folder: true, .. }) if !self.list(mount, to)?.is_empty() => return Err(Errno::Notempty),
            Ok(Stat { folder: true, .. }) => {} // an empty one is replaced
            Ok(_) if what.folder => return Err(Errno::Notdir),
            Ok(_) | Err(Errno::Noent) => {}
            Err(e) => return Err(e),
        }
        // It would be committed under its old name, where the folder is gone.
        let below = |path: &str| path.strip_prefix(from).is_some_and(|rest| rest.starts_with('/'));
        if self.all_written().any(|(m, path, _)| m == mount && below(&path)) {
            return Err(Errno::Busy);
        }
        let behind = &self.mounts.folders[mount].1;
        // A folder may be one that only the cell knows.
        let there = !what.folder
            || match behind.stat(from) {
                Ok(_) => true,
                Err(Errno::Noent) => false,
                Err(e) => return Err(e),
            };
        // Before anything has moved: there may be no room for longer names.
        let mut known = lock(&self.folders);
        let folders = known.renamed(mount, from, to)?;
        if there {
            behind.rename(from, to)?;
        }
        *known = folders;
        drop(known);
        self.emptied(mount, from);
        Ok(())
    }

    fn open(&mut self, mount: usize, path: String, flags: u32, write: bool, append: bool) -> Result<Fd> {
        let (create, folder, exclusive, truncate) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0, flags & 8 != 0);
        let found = self.stat(mount, &path);
        match found {
            Ok(_) if create && exclusive => return Err(Errno::Exist),
            Ok(Stat { folder: true, .. }) if write || truncate => return Err(Errno::Isdir),
            Ok(Stat { folder: true, .. }) => return Ok(Fd::Folder { mount, path, preopened: None, listing: None }),
            Ok(_) if folder => return Err(Errno::Notdir),
            Err(Errno::Noent) if create && !folder => {}
            Err(e) => return Err(e),
            Ok(_) => {}
        }
        if let Some(file) = self.written(mount, &path) {
            if truncate {
                file.set_len(0)?;
            }
            return Ok(Fd::Writing { mount, path, at: 0, append, write, file });
        }
        let behind = &self.mounts.folders[mount].1;
        if write || (create && found.is_err()) {
            let file = Written::new(behind.create(&path, found.is_ok() && !truncate)?);
            return Ok(Fd::Writing { mount, path, at: 0, append, write: true, file });
        }
        Ok(Fd::Reading { file: behind.open(&path)?, mount, path, at: 0 })
    }

    fn close(&mut self, fd: u32) -> Result<()> {
        self.descriptor(fd)?;
        match self.fds[fd as usize].take().and_then(last) {
            Some(Fd::Writing { file, .. }) => file.close(),
            _ => Ok(()),
        }
    }

    /// `dup`, and with `at` `dup2`: another descriptor that means the same.
    pub(crate) fn duplicate(&mut self, fd: u32, at: Option<u32>) -> Result<u32> {
        let same = self.descriptor(fd)?.clone();
        let Some(at) = at else { return self.put(same) };
        if at as usize >= FDS_MAX {
            return Err(Errno::Badf);
        }
        if at != fd {
            // What was there is closed without a word about how that went, as POSIX has it.
            let _ = self.close(at);
            if self.fds.len() <= at as usize {
                self.fds.resize(at as usize + 1, None);
            }
            self.fds[at as usize] = Some(same);
        }
        Ok(at)
    }

    /// The mount and the path that a name means which is not below a descriptor: a file of MPI's.
    fn locate(&self, name: &str) -> Result<(usize, String)> {
        let Some(absolute) = name.strip_prefix('/') else {
            let (mount, base) = self.mounts.workdir.as_ref().ok_or(Errno::Noent)?;
            return Ok((*mount, normal(base, name)?));
        };
        let (folder, path) = absolute.trim_start_matches('/').split_once('/').ok_or(Errno::Noent)?;
        let mount = self.mounts.folders.iter().position(|(n, _)| n == folder).ok_or(Errno::Noent)?;
        Ok((mount, normal("", path.trim_start_matches('/'))?))
    }

    /// Opens a file of MPI's: its descriptor, bytes and version.
    pub(crate) fn open_named(&mut self, name: &str, write: bool, create: bool, exclusive: bool) -> Result<(u32, u64, u64)> {
        let (mount, path) = self.locate(name)?;
        let opened = self.open(mount, path, u32::from(create) | u32::from(exclusive) << 2, write, false)?;
        let (size, version) = match &opened {
            Fd::Reading { file, .. } => (file.len(), file.version()),
            Fd::Writing { file, .. } => (file.len(), 0),
            _ => return Err(Errno::Isdir),
        };
        Ok((self.add(opened)?, size, version))
    }

    pub(crate) fn close_descriptor(&mut self, fd: u32) -> Result<()> {
        self.close(fd)
    }

    pub(crate) fn remove_named(&mut self, name: &str) -> Result<()> {
        let (mount, path) = self.locate(name)?;
        self.unlink(mount, &path)
    }

    pub(crate) fn size_of(&mut self, fd: u32) -> Result<u64> {
        Ok(kind_and_size(&*self.fd(fd)?).1)
    }

    pub(crate) fn resize(&mut self, fd: u32, bytes: u64) -> Result<()> {
        match &mut *self.fd(fd)? {
            Fd::Writing { file, write: true, .. } => file.set_len(bytes),
            _ => Err(Errno::Badf),
        }
    }

    /// As many bytes as there are.
    pub(crate) fn read_from(&mut self, fd: u32, offset: u64, into: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < into.len() {
            let at = offset.saturating_add(done as u64);
            let n = match &*self.fd(fd)? {
                Fd::Reading { file, .. } => file.read_at(at, &mut into[done..])?,
                Fd::Writing { file, .. } => file.read_at(at, &mut into[done..])?,
                _ => return Err(Errno::Badf),
            };
            if n == 0 {
                break;
            }
            done += n;
        }
        Ok(done)
    }

    pub(crate) fn write_to(&mut self, fd: u32, offset: u64, data: &[u8]) -> Result<()> {
        match &mut *self.fd(fd)? {
            Fd::Writing { file, write: true, .. } => file.write_at(offset, data),
            _ => Err(Errno::Badf),
        }
    }

    pub(crate) fn print(&mut self, n: u8, data: &[u8]) {
        // Under the lock: where the next bytes are to be is not known before.
        let mut printed = lock(&self.printed);
        self.output.write(self.rank, n == 2, *printed, data);
        *printed += data.len() as u64;
    }
}

/// What a descriptor meant, if it was the last that did.
fn last(descriptor: Descriptor) -> Option<Fd> {
    Arc::into_inner(descriptor).map(|fd| fd.into_inner().unwrap_or_else(|e| e.into_inner()))
}

/// Guest memory with checked access. That of a cell with threads is only ever copied, and what is looked at is the copy.
struct Mem<'m>(Memory<'m>);

impl Mem<'_> {
    /// Bytes that one call may read or write of a file: as much as is told in its result, or as is worth a copy.
    fn most(&self) -> u64 {
        match self.0 {
            Memory::Own(_) => TRANSFER_MAX,
            Memory::Shared(_) => COPY_MAX,
        }
    }
    fn bytes(&self, at: u32, len: u32) -> Result<Cow<'_, [u8]>> {
        self.0.bytes(at as usize..at as usize + len as usize).ok_or(Errno::Fault)
    }
    fn byte(&self, at: u32) -> Result<u8> {
        Ok(self.bytes(at, 1)?[0])
    }
    /// Lets `f` write to `len` bytes.
    fn fill<T>(&mut self, at: u32, len: u32, f: impl FnOnce(&mut [u8]) -> Result<T>) -> Result<T> {
        if let Memory::Own(memory) = &mut self.0 {
            return f(memory.get_mut(at as usize..at as usize + len as usize).ok_or(Errno::Fault)?);
        }
        let mut copy = self.bytes(at, len)?.into_owned();
        let done = f(&mut copy)?;
        self.put(at, &copy)?;
        Ok(done)
    }
    fn put(&mut self, at: u32, data: &[u8]) -> Result<()> {
        self.0.write(at as usize, data).ok_or(Errno::Fault)
    }
    fn u32(&self, at: u32) -> Result<u32> {
        Ok(u32::from_le_bytes(self.bytes(at, 4)?[..].try_into().expect("four bytes")))
    }
    fn u64(&self, at: u32) -> Result<u64> {
        Ok(u64::from_le_bytes(self.bytes(at, 8)?[..].try_into().expect("eight bytes")))
    }
    fn put_u32(&mut self, at: u32, v: u32) -> Result<()> {
        self.put(at, &v.to_le_bytes())
    }
    fn put_u64(&mut self, at: u32, v: u64) -> Result<()> {
        self.put(at, &v.to_le_bytes())
    }
    fn text(&self, at: u32, len: u32) -> Result<String> {
        if len as usize > PATH_MAX {
            return Err(Errno::Nametoolong);
        }
        String::from_utf8(self.bytes(at, len)?.into_owned()).map_err(|_| Errno::Inval)
    }
    /// The (address, length) pairs of a scatter or gather list.
    fn vectors(&self, at: u32, count: u32) -> Result<Vec<(u32, u32)>> {
        if count > 1024 {
            return Err(Errno::Inval);
        }
        (0..count).map(|i| Ok((self.u32(at + 8 * i)?, self.u32(at + 8 * i + 4)?))).collect()
    }
}

fn call(c: &mut Caller<'_, Host>, f: impl FnOnce(&mut Mem<'_>, &mut State) -> Result<()>) -> wasmtime::Result<i32> {
    if let Some(threads) = &c.data().threads {
        let mut state = threads.wasi.lock().unwrap_or_else(|e| e.into_inner());
        // Looked at under the lock, where others may have waited for long.
        if threads.over() {
            return Err(wasmtime::Error::new(End::Over));
        }
        return Ok(f(&mut Mem(Memory::Shared(threads.memory.data())), &mut state).map_or_else(|e| e as i32, |()| 0));
    }
    let memory = c.data().memory.expect("a running cell has its memory");
    let (mem, host) = memory.data_and_store_mut(c);
    if host.control.killed() {
        return Err(wasmtime::Error::msg("killed"));
    }
    Ok(match f(&mut Mem(Memory::Own(mem)), &mut host.wasi) {
        Ok(()) => 0,
        Err(e) => e as i32,
    })
}

/// Writes a word into the guest's memory; what WASI says of how that went.
pub(crate) fn put_word(c: &mut Caller<'_, Host>, at: u32, value: u32) -> wasmtime::Result<i32> {
    call(c, |m, _| m.put_u32(at, value))
}

/// Whether there is a word at this address.
pub(crate) fn word_fits(c: &mut Caller<'_, Host>, at: u32) -> wasmtime::Result<i32> {
    call(c, |m, _| m.u32(at).map(drop))
}

/// What tells a file from others for a program that compares `st_ino`, as a copier does so as not to write over what it reads. The same wherever its cell
/// is. Never 0, for which the C library would ask again.
fn inode(mount: usize, path: &str) -> u64 {
    // FNV-1a.
    let bytes = (mount as u64).to_le_bytes().into_iter().chain(path.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)).max(1)
}

fn put_stat(m: &mut Mem<'_>, at: u32, inode: u64, kind: u8, size: u64) -> Result<()> {
    let mut stat = [0; 64];
    stat[8..16].copy_from_slice(&inode.to_le_bytes());
    stat[16] = kind;
    stat[24] = 1;
    stat[32..40].copy_from_slice(&size.to_le_bytes());
    m.put(at, &stat)
}

/// A pipe; preview 1 has no kind for them.
const UNKNOWN: u8 = 0;
const SOCKET: u8 = 6;
const CHARACTER_DEVICE: u8 = 2;
const FOLDER: u8 = 3;
const FILE: u8 = 4;
/// Flags of a descriptor.
const APPEND: u8 = 1;
const NONBLOCK: u8 = 4;

fn kind_and_size(fd: &Fd) -> (u8, u64) {
    match fd {
        Fd::Standard(_) => (CHARACTER_DEVICE, 0),
        Fd::Folder { .. } => (FOLDER, 0),
        Fd::Reading { file, .. } => (FILE, file.len()),
        Fd::Writing { file, .. } => (FILE, file.len()),
        Fd::Stream(ends) => (if ends.is_socket() { SOCKET } else { UNKNOWN }, 0),
    }
}

/// Reads what there is of standard input, and waits for more only when there is nothing.
fn read_input(m: &mut Mem<'_>, s: &mut State, vectors: u32, count: u32, into: u32) -> Result<()> {
    let mut got = 0;
    for (at, len) in m.vectors(vectors, count)? {
        if got == 0 && len > 0 {
            got = m.fill(at, u64::from(len).min(m.most()) as u32, |buffer| s.output.read(s.rank, buffer))?;
        }
    }
    m.put_u32(into, got as u32)
}

/// Reads at the descriptor's position, which moves, or at `offset`.
fn read(m: &mut Mem<'_>, s: &mut State, fd: u32, vectors: u32, count: u32, offset: Option<u64>, into: u32) -> Result<()> {
    let descriptor = s.descriptor(fd)?.clone();
    let mut file = lock(&descriptor);
    if matches!(*file, Fd::Standard(0)) {
        drop(file);
        return read_input(m, s, vectors, count, into);
    }
    let mut total = 0;
    for (at, len) in m.vectors(vectors, count)? {
        let len = u64::from(len).min(m.most() - total) as u32;
        let got = m.fill(at, len, |buffer| match &*file {
            Fd::Standard(_) => Ok(0),
            Fd::Folder { .. } => Err(Errno::Isdir),
            Fd::Reading { at, file, .. } => file.read_at(offset.map_or(*at, |o| o.saturating_add(total)), buffer),
            Fd::Writing { at, file, .. } => file.read_at(offset.map_or(*at, |o| o.saturating_add(total)), buffer),
            Fd::Stream(_) => Err(Errno::Spipe),
        })? as u64;
        total += got;
        if offset.is_none()
            && let Fd::Reading { at, .. } | Fd::Writing { at, .. } = &mut *file
        {
            *at += got;
        }
        if got < u64::from(len) {
            break;
        }
    }
    m.put_u32(into, total as u32)
}

fn write(m: &mut Mem<'_>, s: &mut State, fd: u32, vectors: u32, count: u32, offset: Option<u64>, into: u32) -> Result<()> {
    let parts = m.vectors(vectors, count)?;
    let descriptor = s.descriptor(fd)?.clone();
    let mut file = lock(&descriptor);
    if let Fd::Standard(n @ 1..=2) = *file {
        drop(file);
        let mut line = Vec::new();
        for (at, len) in parts {
            let data = m.bytes(at, len)?;
            line.extend_from_slice(&data[..data.len().min(PRINT_MAX - line.len())]);
        }
        s.print(n, &line);
        return m.put_u32(into, line.len() as u32);
    }
    let mut total = 0;
    for (at, len) in parts {
        let data = m.bytes(at, u64::from(len).min(m.most() - total) as u32)?;
        let Fd::Writing { at, append, write: true, file, .. } = &mut *file else { return Err(if matches!(*file, Fd::Stream(_)) { Errno::Spipe } else { Errno::Badf }) };
        if *append {
            *at = file.len();
        }
        file.write_at(offset.map_or(*at, |o| o.saturating_add(total)), &data)?;
        if offset.is_none() {
            *at += data.len() as u64;
        }
        total += data.len() as u64;
    }
    m.put_u32(into, total as u32)
}

fn texts(m: &mut Mem<'_>, list: &[String], pointers: u32, mut buffer: u32) -> Result<()> {
    for (i, text) in list.iter().enumerate() {
        m.put_u32(pointers + 4 * i as u32, buffer)?;
        m.put(buffer, text.as_bytes())?;
        m.put(buffer + text.len() as u32, &[0])?;
        buffer += text.len() as u32 + 1;
    }
    Ok(())
}

fn text_sizes(m: &mut Mem<'_>, list: &[String], count: u32, bytes: u32) -> Result<()> {
    m.put_u32(count, list.len() as u32)?;
    m.put_u32(bytes, list.iter().map(|t| t.len() as u32 + 1).sum())
}

fn clock(id: u32) -> Result<u64> {
    let clock = match id {
        0 => libc::CLOCK_REALTIME,
        1 => libc::CLOCK_MONOTONIC,
        2 | 3 => libc::CLOCK_THREAD_CPUTIME_ID,
        _ => return Err(Errno::Inval),
    };
    // A monotonic clock differs between machines: cells measure it by real time, which is the same for all within the machines' own error.
    let clock = if id == 1 { libc::CLOCK_REALTIME } else { clock };
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is a valid place for the result.
    if unsafe { libc::clock_gettime(clock, &mut t) } != 0 {
        return Err(Errno::Inval);
    }
    Ok(t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64)
}

fn random(buffer: &mut [u8]) -> Result<()> {
    for chunk in buffer.chunks_mut(256) {
        // SAFETY: the chunk is writable for its length; up to 256 bytes are never interrupted (getrandom(2)).
        if unsafe { libc::getrandom(chunk.as_mut_ptr().cast(), chunk.len(), 0) } != chunk.len() as isize {
            return Err(Errno::Io);
        }
    }
    Ok(())
}

/// Lists a folder for a descriptor of it that reads from its beginning, or has not listed it.
fn list(s: &mut State, fd: u32, from: u64) -> Result<()> {
    let (mount, path) = match &*s.fd(fd)? {
        Fd::Folder { listing: Some(_), .. } if from > 0 => return Ok(()),
        Fd::Folder { mount, path, .. } => (*mount, path.clone()),
        _ => return Err(Errno::Notdir),
    };
    // Not locked any more when all descriptors are looked at.
    let found = s.list(mount, &path)?.into_iter().map(|(name, stat)| (name, stat.folder));
    let names = [".", ".."].map(|name| (name.to_string(), true)).into_iter().chain(found).collect();
    let room = s.room.clone();
    let done = match &mut *s.fd(fd)? {
        Fd::Folder { listing, .. } => listing.get_or_insert_with(|| Box::new(Listing::new(&room))).refresh(names),
        _ => return Err(Errno::Badf), // another process of the rank has put something else there
    };
    // A program takes an error for the end of its folder, unless it looks at `errno`.
    if done.is_err() && room.tells() {
        let said = format!("cloudskin: readdir of /{}/{path} fails: the folders that a rank has open may have {} bytes of names together, and there are more; close some\n", s.mounts.folders[mount].0, listing::BYTES_MAX);
        s.print(2, said.as_bytes());
    }
    done
}

fn readdir(m: &mut Mem<'_>, s: &mut State, fd: u32, buffer: u32, len: u32, cookie: u64, used: u32) -> Result<()> {
    m.bytes(buffer, len)?;
    list(s, fd, cookie)?;
    let mut out = Vec::new();
    match &*s.fd(fd)? {
        Fd::Folder { mount, path, listing: Some(listing), .. } => {
            for (number, name, folder) in listing.behind(cookie) {
                let mut entry = [0u8; 24];
                entry[..8].copy_from_slice(&u64::from(number).to_le_bytes());
                entry[8..16].copy_from_slice(&normal(path, name).map_or(1, |path| inode(*mount, &path)).to_le_bytes());
                entry[16..20].copy_from_slice(&(name.len() as u32).to_le_bytes());
                entry[20] = if folder { FOLDER } else { FILE };
                out.extend_from_slice(&entry);
                out.extend_from_slice(name.as_bytes());
                if out.len() >= len as usize {
                    break;
                }
            }
        }
        _ => return Err(Errno::Badf),
    }
    out.truncate(len as usize);
    m.put(buffer, &out)?;
    m.put_u32(used, out.len() as u32)
}

/// Offers preview 1 to modules.
pub(crate) fn link(l: &mut Linker<Host>) -> wasmtime::Result<()> {
    macro_rules! offer {
        ($name:literal, ($($arg:ident: $type:ty),*), $body:expr) => {
            l.func_wrap(MODULE, $name, |mut c: Caller<'_, Host>, $($arg: $type),*| -> wasmtime::Result<i32> {
                call(&mut c, |m, s| {
                    #[allow(clippy::redundant_closure_call)]
                    ($body)(m, s)
                })
            })?;
        };
    }
    offer!("args_get", (p: u32, b: u32), |m: &mut Mem, s: &mut State| texts(m, &s.args, p, b));
    offer!("args_sizes_get", (n: u32, b: u32), |m: &mut Mem, s: &mut State| text_sizes(m, &s.args, n, b));
    offer!("environ_get", (p: u32, b: u32), |m: &mut Mem, s: &mut State| texts(m, &s.env, p, b));
    offer!("environ_sizes_get", (n: u32, b: u32), |m: &mut Mem, s: &mut State| text_sizes(m, &s.env, n, b));
    offer!("clock_res_get", (id: u32, into: u32), |m: &mut Mem, _: &mut State| clock(id).and_then(|_| m.put_u64(into, 1)));
    offer!("clock_time_get", (id: u32, _precision: u64, into: u32), |m: &mut Mem, _: &mut State| m.put_u64(into, clock(id)?));
    offer!("fd_advise", (fd: u32, _a: u64, _b: u64, _c: i32), |_: &mut Mem, s: &mut State| s.fd(fd).map(|_| ()));
    offer!("fd_allocate", (_fd: u32, _a: u64, _b: u64), |_: &mut Mem, _: &mut State| Err(Errno::Notsup));
    offer!("fd_close", (fd: u32), |_: &mut Mem, s: &mut State| s.close(fd));
    offer!("fd_datasync", (fd: u32), |_: &mut Mem, s: &mut State| s.fd(fd).map(|_| ()));
    offer!("fd_sync", (fd: u32), |_: &mut Mem, s: &mut State| s.fd(fd).map(|_| ()));
    offer!("fd_fdstat_get", (fd: u32, into: u32), |m: &mut Mem, s: &mut State| {
        let terminal = if let Fd::Standard(n) = *s.fd(fd)? { s.output.terminal(n) } else { false };
        let fd = s.fd(fd)?;
        let mut stat = [0u8; 24];
        stat[0] = kind_and_size(&fd).0;
        stat[2] = match &*fd {
            Fd::Writing { append: true, .. } => APPEND,
            Fd::Stream(ends) if ends.nonblocking => NONBLOCK,
            _ => 0,
        };
        // A character device without the right to seek or tell is what the guest's libc takes for a terminal.
        let rights: u64 = match &*fd {
            Fd::Stream(ends) => ends.rights(),
            _ if terminal => !(1 << 2 | 1 << 5),
            _ => u64::MAX,
        };
        stat[8..16].copy_from_slice(&rights.to_le_bytes());
        stat[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
        m.put(into, &stat)
    });
    offer!("fd_fdstat_set_flags", (fd: u32, flags: u32), |_: &mut Mem, s: &mut State| match &mut *s.fd(fd)? {
        Fd::Writing { append, .. } => {
            *append = flags & u32::from(APPEND) != 0;
            Ok(())
        }
        Fd::Stream(ends) => {
            ends.nonblocking = flags & u32::from(NONBLOCK) != 0;
            Ok(())
        }
        _ => Ok(()),
    });
    offer!("fd_fdstat_set_rights", (fd: u32, _a: u64, _b: u64), |_: &mut Mem, s: &mut State| s.fd(fd).map(|_| ()));
    offer!("fd_filestat_get", (fd: u32, into: u32), |m: &mut Mem, s: &mut State| {
        let fd = s.fd(fd)?;
        let (kind, size) = kind_and_size(&fd);
        let inode = match &*fd {
            Fd::Stream(ends) => ends.inode(),
            Fd::Standard(n) => u64::from(*n) + 1,
            Fd::Folder { mount, path, .. } | Fd::Reading { mount, path, .. } | Fd::Writing { mount, path, .. } => inode(*mount, path),
        };
        put_stat(m, into, inode, kind, size)
    });
    offer!("fd_filestat_set_size", (fd: u32, size: u64), |_: &mut Mem, s: &mut State| match &mut *s.fd(fd)? {
        Fd::Writing { file, write: true, .. } => file.set_len(size),
        _ => Err(Errno::Inval),
    });
    offer!("fd_filestat_set_times", (fd: u32, _a: u64, _b: u64, _c: u32), |_: &mut Mem, s: &mut State| s.fd(fd).map(|_| ()));
    offer!("fd_pread", (fd: u32, v: u32, n: u32, offset: u64, into: u32), |m: &mut Mem, s: &mut State| read(m, s, fd, v, n, Some(offset), into));
    offer!("fd_pwrite", (fd: u32, v: u32, n: u32, offset: u64, into: u32), |m: &mut Mem, s: &mut State| write(m, s, fd, v, n, Some(offset), into));
    offer!("fd_prestat_get", (fd: u32, into: u32), |m: &mut Mem, s: &mut State| match &*s.fd(fd)? {
        Fd::Folder { preopened: Some(name), .. } => {
            let len = name.len() as u32;
            m.put_u32(into, 0)?;
            m.put_u32(into + 4, len)
        }
        _ => Err(Errno::Badf),
    });
    offer!("fd_prestat_dir_name", (fd: u32, into: u32, len: u32), |m: &mut Mem, s: &mut State| match &*s.fd(fd)? {
        Fd::Folder { preopened: Some(name), .. } => m.put(into, &name.as_bytes()[..name.len().min(len as usize)]),
        _ => Err(Errno::Badf),
    });
    offer!("fd_readdir", (fd: u32, b: u32, n: u32, cookie: u64, used: u32), |m: &mut Mem, s: &mut State| readdir(m, s, fd, b, n, cookie, used));
    offer!("fd_renumber", (from: u32, to: u32), |_: &mut Mem, s: &mut State| {
        s.descriptor(from)?;
        s.close(to)?;
        s.fds[to as usize] = s.fds[from as usize].take();
        Ok(())
    });
    offer!("fd_seek", (fd: u32, offset: i64, whence: u32, into: u32), |m: &mut Mem, s: &mut State| {
        let mut fd = s.fd(fd)?;
        let (at, size) = match &mut *fd {
            Fd::Reading { at, file, .. } => (at, file.len()),
            Fd::Writing { at, file, .. } => (at, file.len()),
            _ => return Err(Errno::Spipe),
        };
        let start = match whence {
            0 => 0,
            1 => *at,
            2 => size,
            _ => return Err(Errno::Inval),
        };
        *at = start.checked_add_signed(offset).ok_or(Errno::Inval)?;
        m.put_u64(into, *at)
    });
    offer!("fd_tell", (fd: u32, into: u32), |m: &mut Mem, s: &mut State| match &*s.fd(fd)? {
        Fd::Reading { at, .. } | Fd::Writing { at, .. } => m.put_u64(into, *at),
        _ => Err(Errno::Spipe),
    });
    offer!("path_create_directory", (fd: u32, p: u32, n: u32), |m: &mut Mem, s: &mut State| {
        let (mount, path) = s.at(fd, &m.text(p, n)?)?;
        if s.stat(mount, &path).is_ok() {
            return Err(Errno::Exist);
        }
        lock(&s.folders).add(mount, path)
    });
    offer!("path_filestat_get", (fd: u32, _flags: u32, p: u32, n: u32, into: u32), |m: &mut Mem, s: &mut State| {
        let (mount, path) = s.at(fd, &m.text(p, n)?)?;
        let stat = s.stat(mount, &path)?;
        put_stat(m, into, inode(mount, &path), if stat.folder { FOLDER } else { FILE }, stat.size)
    });
    offer!("path_open", (fd: u32, _dirflags: u32, p: u32, n: u32, flags: u32, rights: u64, _inherited: u64, fdflags: u32, into: u32),
        |m: &mut Mem, s: &mut State| {
            let (mount, path) = s.at(fd, &m.text(p, n)?)?;
            let opened = s.open(mount, path, flags, rights & 1 << 6 != 0, fdflags & 1 != 0)?;
            let fd = s.add(opened)?;
            m.put_u32(into, fd)
        });
    offer!("path_remove_directory", (fd: u32, p: u32, n: u32), |m: &mut Mem, s: &mut State| {
        let (mount, path) = s.at(fd, &m.text(p, n)?)?;
        s.remove_folder(mount, &path)
    });
    offer!("path_rename", (fd: u32, p: u32, n: u32, fd2: u32, p2: u32, n2: u32), |m: &mut Mem, s: &mut State| {
        let (from, to) = (s.at(fd, &m.text(p, n)?)?, s.at(fd2, &m.text(p2, n2)?)?);
        if from.0 != to.0 {
            // What copies then, as between file systems.
            return Err(Errno::Xdev);
        }
        s.rename(from.0, &from.1, &to.1)
    });
    offer!("path_unlink_file", (fd: u32, p: u32, n: u32), |m: &mut Mem, s: &mut State| {
        let (mount, path) = s.at(fd, &m.text(p, n)?)?;
        s.unlink(mount, &path)
    });
    offer!("path_filestat_set_times", (_fd: u32, _f: u32, _p: u32, _n: u32, _a: u64, _m: u64, _s: u32), |_: &mut Mem, _: &mut State| Ok(()));
    offer!("path_link", (_a: u32, _b: u32, _c: u32, _d: u32, _e: u32, _f: u32, _g: u32), |_: &mut Mem, _: &mut State| Err(Errno::Notsup));
    offer!("path_readlink", (_a: u32, _b: u32, _c: u32, _d: u32, _e: u32, _f: u32), |_: &mut Mem, _: &mut State| Err(Errno::Inval));
    offer!("path_symlink", (_a: u32, _b: u32, _c: u32, _d: u32, _e: u32), |_: &mut Mem, _: &mut State| Err(Errno::Notsup));
    offer!("random_get", (b: u32, n: u32), |m: &mut Mem, _: &mut State| m.fill(b, n, random));
    offer!("proc_raise", (_signal: u32), |_: &mut Mem, _: &mut State| Err(Errno::Notsup));
    offer!("sock_accept", (_a: u32, _b: u32, _c: u32), |_: &mut Mem, _: &mut State| Err(Errno::Notsup));
    pipes::link(l)?;
    l.func_wrap(MODULE, "proc_exit", |_: Caller<'_, Host>, code: i32| -> wasmtime::Result<()> { Err(wasmtime::Error::new(End::Exit(code))) })?;
    l.func_wrap(MODULE, "sched_yield", |_: Caller<'_, Host>| -> i32 {
        std::thread::yield_now();
        0
    })?;
    l.func_wrap(MODULE, "poll_oneoff", |mut c: Caller<'_, Host>, subscriptions: u32, events: u32, n: u32, into: u32| -> wasmtime::Result<i32> {
        poll_oneoff(&mut c, subscriptions, events, n, into)
    })?;
    Ok(())
}

/// What one call asks `poll_oneoff` for.
struct Asked {
    /// The earliest clock, in nanoseconds from now.
    shortest: Option<u64>,
    clocks: Vec<u64>,
    /// What the program knows them by, whether they are to be read or written, and the descriptor.
    descriptors: Vec<(u64, u8, u32)>,
}

fn asked(m: &mut Mem<'_>, subscriptions: u32, n: u32) -> Result<Asked> {
    if n == 0 || n > 1024 {
        return Err(Errno::Inval);
    }
    let mut asked = Asked { shortest: None, clocks: Vec::new(), descriptors: Vec::new() };
    for i in 0..n {
        let at = subscriptions + 48 * i;
        let (user, kind) = (m.u64(at)?, m.byte(at + 8)?);
        if kind != 0 {
            asked.descriptors.push((user, kind, m.u32(at + 16)?));
            continue;
        }
        let (timeout, absolute) = (m.u64(at + 24)?, m.byte(at + 40)? & 1 != 0);
        let wait = if absolute { timeout.saturating_sub(clock(m.u32(at + 16)?)?) } else { timeout };
        asked.shortest = Some(asked.shortest.map_or(wait, |s| s.min(wait)));
        asked.clocks.push(user);
    }
    Ok(asked)
}

/// What is told of one: user's number, kind, errno, and whether the other end is gone.
type Event = (u64, u8, u16, bool);

fn put_events(m: &mut Mem<'_>, found: &[Event], events: u32, into: u32) -> Result<()> {
    for (i, (user, kind, errno, gone)) in found.iter().enumerate() {
        let mut event = [0u8; 32];
        event[..8].copy_from_slice(&user.to_le_bytes());
        event[8..10].copy_from_slice(&errno.to_le_bytes());
        event[10] = *kind;
        event[24] = u8::from(*gone);
        m.put(events + 32 * i as u32, &event)?;
    }
    m.put_u32(into, found.len() as u32)
}

/// Waits for the earliest clock, or until a pipe is ready. Other descriptors are always ready.
fn poll_oneoff(c: &mut Caller<'_, Host>, subscriptions: u32, events: u32, n: u32, into: u32) -> wasmtime::Result<i32> {
    let mut ask = None;
    let code = call(c, |m, _| {
        ask = Some(asked(m, subscriptions, n)?);
        Ok(())
    })?;
    let Some(ask) = ask else { return Ok(code) };
    let mut found: Vec<Event> = Vec::new();
    if ask.descriptors.is_empty() {
        let longest = Duration::from_nanos(ask.shortest.unwrap_or(0));
        // Of a process that is no rank, or a thread, nobody else wants anything meanwhile.
        let unwinds = match c.data().threads.is_some() || c.data().is_child() {
            true => threads::sleep(c, longest)?,
            false => mpi_host::sleep(c, longest.as_nanos().div_ceil(1_000_000) as u64)?,
        };
        if unwinds {
            return Ok(0);
        }
    } else if !pipes::ready(c, &ask.descriptors, ask.shortest.map(Duration::from_nanos), &mut found)? {
        return Ok(0); // the guest unwinds
    }
    if found.is_empty() {
        found.extend(ask.clocks.iter().map(|user| (*user, 0, 0, false)));
    }
    call(c, |m, _| put_events(m, &found, events, into))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_removed_when_empty_and_replaced_when_empty_and_what_is_mounted_stays() {
        let folder = tempfile::tempdir().unwrap();
        let spec = saved::tests::spec(crate::folder::Folder { root: folder.path().into() });
        let mut s = State::new(&spec, true);
        assert_eq!((s.remove_folder(0, ""), s.rename(0, "", "a"), s.remove_folder(0, "none")), (Err(Errno::Busy), Err(Errno::Busy), Err(Errno::Noent)));
        assert!(folder.path().is_dir());
        for path in ["from", "empty", "full"] {
            lock(&s.folders).add(0, path.into()).unwrap();
        }
        std::fs::create_dir(folder.path().join("full")).unwrap();
        std::fs::write(folder.path().join("full/file"), "kept").unwrap();
        assert_eq!((s.remove_folder(0, "full"), s.remove_folder(0, "full/file"), s.rename(0, "from", "full")), (Err(Errno::Notempty), Err(Errno::Notdir), Err(Errno::Notempty)));
        assert_eq!((s.rename(0, "full", "full/in"), s.rename(0, "full/file", "from"), s.rename(0, "from", "full/file")), (Err(Errno::Inval), Err(Errno::Isdir), Err(Errno::Notdir)));
        assert_eq!((s.rename(0, "from", "empty"), s.rename(0, "full", "empty")), (Ok(()), Ok(())));
        assert_eq!(s.list(0, "").unwrap().into_keys().collect::<Vec<_>>(), ["empty"]);
        assert_eq!(std::fs::read_to_string(folder.path().join("empty/file")).unwrap(), "kept");
        // It is there until it is removed, though its last file is gone.
        std::fs::remove_file(folder.path().join("empty/file")).unwrap();
        assert_eq!((s.remove_folder(0, "empty"), s.stat(0, "empty").err()), (Ok(()), Some(Errno::Noent)));
    }

    #[test]
    fn paths_stay_below_their_mount() {
        for (base, path, expected) in [
            ("", "a/./b//c", Ok("a/b/c")),
            ("x/y", "../z", Ok("x/z")),
            ("x", "../..", Err(Errno::Notcapable)),
            ("", "..", Err(Errno::Notcapable)),
            ("", "/etc/passwd", Err(Errno::Notcapable)),
            ("", "a/../../b", Err(Errno::Notcapable)),
            ("", ".", Ok("")),
            (&"a/".repeat(2000), &"b".repeat(200), Err(Errno::Nametoolong)),
        ] {
            assert_eq!(normal(base, path).as_deref().map_err(|e| *e), expected, "{base} + {path}");
        }
    }
}
