//! A segment: one preallocated file, or memory without a name, into which objects are placed one behind the other.
//!
//! ```text
//! 0                         head            blocks             capacity
//! │ live │ dead │ live │ …  │ next goes here │ not allocated yet │        the mapping covers all of it
//! ```
//!
//! A range is given out once and never again, so a slice of it doesn't change while a reader has it. Blocks are allocated before anything is
//! written to them, and what is past them is never touched through the mapping. The file goes, and its charge with it, with the last `Arc`.

use crate::{
    ObjectId, Result,
    local::{BLOCK, Sound, file, step},
    space::{Reservation, Space},
};
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsRawFd, FromRawFd},
        unix::fs::{FileExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
};

/// Where objects begin: what numbers of eight bytes need.
pub(crate) const ALIGN: u64 = 8;

/// What an object takes in a segment. An empty one takes something too, so that a segment that holds it is not taken for empty.
pub(crate) fn padded(len: u64) -> u64 {
    len.max(1).next_multiple_of(ALIGN)
}

/// Allocates blocks up to `len`, and with them the file's length. On a file system that can't, writes may still run into a full disk;
/// that is an error and not a signal, because nothing is written through a mapping.
pub(crate) fn allocate(file: &File, from: u64, to: u64) -> io::Result<()> {
    step()?;
    let offset = |n: u64| libc::off_t::try_from(n).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge));
    let (start, len) = (offset(from)?, offset(to - from)?);
    loop {
        // SAFETY: the call reads its arguments only; the descriptor is open as long as `file` is borrowed.
        let done = unsafe { libc::fallocate(file.as_raw_fd(), 0, start, len) };
        if done == 0 {
            return Ok(());
        }
        match io::Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::EINTR) => {}
            e if e.raw_os_error() == Some(libc::EOPNOTSUPP) => return file.set_len(to),
            e => return Err(e),
        }
    }
}

/// Memory that has a file's calls.
pub(crate) fn memory(name: &std::ffi::CStr) -> io::Result<File> {
    // SAFETY: the name ends with NUL and outlives the call.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and belongs to nobody else.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// A read-only view of a file's first bytes.
struct View {
    start: *const u8,
    len: usize,
}

// SAFETY: the view is read only, and what is read through it does not change (see `Segment::bytes`).
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl View {
    fn new(file: &File, len: usize) -> io::Result<View> {
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(View { start: start.cast(), len })
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: this very mapping, made in `new`; slices of it borrow its owner, so none is left.
        let done = unsafe { libc::munmap(self.start.cast_mut().cast(), self.len) };
        debug_assert_eq!(done, 0, "a mapping that was made can be taken down");
    }
}

/// What is given out of a segment.
struct Fill {
    head: u64,
    /// Up to here there are blocks.
    blocks: u64,
    /// Nothing more is placed here.
    closed: bool,
}

pub(crate) struct Segment {
    pub number: u32,
    pub capacity: u64,
    /// `None`: memory.
    path: Option<PathBuf>,
    file: File,
    view: View,
    fill: Mutex<Fill>,
    /// Padded bytes of objects that are placed here and not dropped.
    live: AtomicU64,
    /// Written since the last sync.
    dirty: AtomicBool,
    /// Remove the file with the last handle.
    doomed: AtomicBool,
    charge: Mutex<Reservation>,
    /// For other processes: can't be written through.
    lent: OnceLock<Arc<File>>,
    /// What was placed here, dead ones too.
    pub ids: Mutex<Vec<ObjectId>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Segment {
    /// A new one; `None` for `path` is memory. Takes no bytes of the space: those come with the objects.
    pub fn create(number: u32, capacity: u64, path: Option<PathBuf>, space: &Arc<Space>) -> Result<Segment> {
        let shown = path.clone().unwrap_or_else(|| "memory".into());
        step().map_err(file("create", &shown))?;
        let made = match &path {
            Some(path) => OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path),
            None => memory(c"geds-segment"),
        };
        let made = made.map_err(file("create", &shown))?;
        let view = View::new(&made, capacity as usize).map_err(file("map", &shown));
        if view.is_err() && path.is_some() {
            let _ = fs::remove_file(&shown); // empty, and the error is told
        }
        Ok(Segment::with(number, capacity, path, made, view?, Fill { head: 0, blocks: 0, closed: false }, space.overdraw(0)))
    }

    /// One that was there before: its objects end before `head`. Charged for what it has, even above the limit.
    pub fn reopen(number: u32, capacity: u64, path: &Path, head: u64, space: &Arc<Space>) -> Result<Segment> {
        let opened = OpenOptions::new().read(true).write(true).open(path).map_err(file("open", path))?;
        let len = opened.metadata().map_err(file("look up", path))?.len();
        let capacity = capacity.max(len);
        let view = View::new(&opened, capacity as usize).map_err(file("map", path))?;
        let fill = Fill { head, blocks: len, closed: false };
        Ok(Segment::with(number, capacity, Some(path.into()), opened, view, fill, space.overdraw(head)))
    }

    fn with(number: u32, capacity: u64, path: Option<PathBuf>, file: File, view: View, fill: Fill, charge: Reservation) -> Segment {
        Segment {
            number,
            capacity,
            path,
            file,
            view,
            fill: Mutex::new(fill),
            live: AtomicU64::new(0),
            dirty: AtomicBool::new(false),
            doomed: AtomicBool::new(false),
            charge: Mutex::new(charge),
            lent: OnceLock::new(),
            ids: Mutex::default(),
        }
    }

    fn shown(&self) -> PathBuf {
        self.path.clone().unwrap_or_else(|| "memory".into())
    }

    /// Takes a range for an object, with blocks under it. `None`: it doesn't fit. Its bytes count as live from now on.
    pub fn take(&self, len: u64, growth: u64) -> Result<Option<u64>> {
        let len = padded(len);
        let mut fill = lock(&self.fill);
        let end = fill.head + len;
        if fill.closed || end > self.capacity {
            return Ok(None);
        }
        if end > fill.blocks {
            let to = end.max(fill.blocks + growth).min(self.capacity);
            allocate(&self.file, fill.blocks, to).map_err(file("allocate", &self.shown()))?;
            fill.blocks = to;
        }
        let offset = fill.head;
        fill.head = end;
        self.live.fetch_add(len, SeqCst);
        Ok(Some(offset))
    }

    /// Counts an object that was found here as live.
    pub fn adopt(&self, id: ObjectId, len: u64) {
        self.live.fetch_add(padded(len), SeqCst);
        lock(&self.ids).push(id);
    }

    /// Writes the bytes of a range that was taken, with the reservation that pays for it.
    pub fn write(&self, offset: u64, data: &[u8], paid: Reservation) -> Result<()> {
        lock(&self.charge).join(paid);
        let done = step().and_then(|()| self.file.write_all_at(data, offset));
        // After the write: a sync that runs meanwhile must not take it for done.
        self.dirty.store(true, SeqCst);
        done.map_err(file("write", &self.shown()))
    }

    /// An object is dropped.
    pub fn release(&self, len: u64) {
        let before = self.live.fetch_sub(padded(len), SeqCst);
        assert!(before >= padded(len), "segment {} frees {len} bytes of {before}", self.number);
    }

    /// Keeps the file until the next start, whatever becomes of its objects: their other copies are not known to be safe.
    pub fn pin(&self) {
        self.live.fetch_add(ALIGN, SeqCst);
    }

    pub fn live(&self) -> u64 {
        self.live.load(SeqCst)
    }

    pub fn head(&self) -> u64 {
        lock(&self.fill).head
    }

    /// Gives the tail back, to a whole block, which is charged from now on; nothing more is placed here.
    pub fn close(&self) {
        let mut fill = lock(&self.fill);
        fill.closed = true;
        lock(&self.charge).cover(fill.head.next_multiple_of(BLOCK));
        if fill.blocks > fill.head {
            let cut = step().and_then(|()| self.file.set_len(fill.head));
            match cut {
                Ok(()) => fill.blocks = fill.head,
                Err(e) => tracing::warn!(path = %self.shown().display(), error = %e, "a segment's tail can't be given back"),
            }
        }
    }

    pub fn is_closed(&self) -> bool {
        lock(&self.fill).closed
    }

    /// Makes what was written before this call durable.
    pub fn sync(&self, sound: &Sound) -> Result<()> {
        match &self.path {
            Some(path) if self.dirty.swap(false, SeqCst) => sound.sync(&self.file, path).inspect_err(|_| self.dirty.store(true, SeqCst)),
            _ => Ok(()),
        }
    }

    /// The file for another process to map, which can't write through it.
    pub fn lend(&self) -> Result<Arc<File>> {
        if let Some(lent) = self.lent.get() {
            return Ok(lent.clone());
        }
        let lent = crate::agent::read_only(&self.file).map_err(file("share", &self.shown()))?;
        Ok(self.lent.get_or_init(|| Arc::new(lent)).clone())
    }

    /// The file goes with the last handle.
    pub fn doom(&self) {
        self.doomed.store(true, SeqCst);
    }

    /// The bytes of an object that was written here.
    pub fn bytes(&self, offset: u64, len: u64) -> &[u8] {
        assert!(offset + len <= self.capacity, "an object lies in its segment");
        // SAFETY: the range is inside the mapping (asserted) and inside the file: its blocks were allocated before it was given out, or the
        // file was at least that long when it was reopened, and `close` cuts behind the head only. It was written once, before a `Local` for
        // it existed, and ranges are not given out twice. The file is 0600 in a folder of mode 0700 that this process has locked; another
        // program of the same user could still change it, and could as well change this process. A zero length makes no access.
        unsafe { std::slice::from_raw_parts(self.view.start.add(offset as usize), len as usize) }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        if let (true, Some(path)) = (*self.doomed.get_mut(), &self.path) {
            if let Err(e) = step().and_then(|()| fs::remove_file(path)) {
                tracing::warn!(path = %path.display(), error = %e, "an empty segment can't be removed");
            }
        }
    }
}
