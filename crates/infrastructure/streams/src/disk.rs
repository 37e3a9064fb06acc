//! A folder with files of fixed size, for the log, and small files that are replaced as a whole, for checkpoints.
//!
//! A write has returned when its bytes are on the disk, and not before. There is a trait because tests have a second disk, which tears
//! writes, flips bits, refuses to sync and is full. Nothing here knows what the bytes mean.

use base::piecewise;
use std::{
    ffi::CString,
    fs, io,
    io::IoSlice,
    os::{fd::AsRawFd, unix::ffi::OsStrExt, unix::fs::FileExt, unix::fs::OpenOptionsExt},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

/// How a new file is made; see [`Disk::create`].
pub type Pace<'a> = dyn Fn(usize, Duration) -> io::Result<usize> + 'a;

pub trait Disk: Send + Sync + 'static {
    /// The names of all files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// A new file of `bytes` zeros that are on the disk, so that writing into it later changes no metadata. `pace` is called before each piece with the bytes of
    /// the one before and how long that took, and says how many the next may have, at most [`piecewise::PIECE`]; with its error nothing of the file is left.
    fn create(&self, name: &str, bytes: u64, pace: &Pace) -> io::Result<Arc<dyn DiskFile>>;
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Replaces a small file as a whole: after a crash it is there as it was or as it is now.
    fn put(&self, name: &str, content: &[u8]) -> io::Result<()>;
    fn get(&self, name: &str) -> io::Result<Option<Vec<u8>>>;
    /// Bytes that new files can still have.
    fn free(&self) -> io::Result<u64>;
}

pub trait DiskFile: Send + Sync + 'static {
    fn bytes(&self) -> u64;
    /// Writes the parts one after the other at `at`; they are on the disk when this returns.
    fn write(&self, at: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()>;
    /// Fills the buffer.
    fn read(&self, at: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Fills the buffer if that needs no waiting for a device; `false` when it would, or when it can't be known.
    fn read_now(&self, at: u64, buffer: &mut [u8]) -> bool;
    /// What may only be in the kernel's memory is on the disk when this returns.
    fn sync(&self) -> io::Result<()>;
}

/// A folder of this machine.
pub struct Folder {
    path: PathBuf,
    /// Held as long as the folder is used: two processes would each overwrite the other's log.
    _lock: fs::File,
}

impl Folder {
    /// Opens the folder, makes it if it isn't there, and locks it.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Folder> {
        let path = path.into();
        fs::create_dir_all(&path)?;
        let lock = fs::OpenOptions::new().create(true).truncate(false).write(true).open(path.join("lock"))?;
        lock.try_lock().map_err(|_| {
            io::Error::new(io::ErrorKind::AddrInUse, format!("{} is used by another process; stop it or name another folder", path.display()))
        })?;
        Ok(Folder { path, _lock: lock })
    }

    fn sync_names(&self) -> io::Result<()> {
        fs::File::open(&self.path)?.sync_all()
    }
}

impl Disk for Folder {
    fn list(&self) -> io::Result<Vec<String>> {
        fs::read_dir(&self.path)?.map(|e| Ok(e?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn create(&self, name: &str, bytes: u64, pace: &Pace) -> io::Result<Arc<dyn DiskFile>> {
        let (part, path) = (self.path.join(format!("{name}.new")), self.path.join(name));
        let fill = || {
            let file = fs::File::create(&part)?;
            reserve(&file, bytes)?;
            let zeros = vec![0; piecewise::PIECE.min(bytes as usize)];
            let (mut at, mut n, mut took) = (0, 0, Duration::ZERO);
            while at < bytes {
                n = (bytes - at).min(zeros.len().min(pace(n, took)?) as u64) as usize;
                let start = Instant::now();
                piecewise::write_at(&file, &zeros[..n], at)?;
                took = start.elapsed();
                at += n as u64;
            }
            file.sync_all()?;
            fs::rename(&part, &path)
        };
        if let Err(e) = fill() {
            // What is there of it takes the space that others wait for.
            let _ = fs::remove_file(&part);
            return Err(e);
        }
        self.sync_names()?;
        self.open(name)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = fs::OpenOptions::new().read(true).write(true).custom_flags(libc::O_DSYNC).open(self.path.join(name))?;
        let bytes = file.metadata()?.len();
        Ok(Arc::new(Durable { file, bytes }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn put(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let part = self.path.join(format!("{name}.new"));
        let file = fs::File::create(&part)?;
        piecewise::write_at(&file, content, 0)?;
        file.sync_all()?;
        fs::rename(&part, self.path.join(name))?;
        self.sync_names()
    }

    fn get(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.path.join(name)) {
            Ok(content) => Ok(Some(content)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn free(&self) -> io::Result<u64> {
        let path = CString::new(self.path.as_os_str().as_bytes())?;
        let mut told = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
        // SAFETY: `path` ends with a zero and lives during the call, which writes nothing but the structure that `told` has room for.
        if unsafe { libc::statvfs(path.as_ptr(), told.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: every field is a number, for which zeros are a value; the call has filled it.
        let told = unsafe { told.assume_init() };
        Ok(told.f_bavail.saturating_mul(told.f_frsize))
    }
}

/// Takes the space of a file before it is filled, which takes its time: others could have the rest of it meanwhile. What can't do that takes it by and by.
fn reserve(file: &fs::File, bytes: u64) -> io::Result<()> {
    let Ok(bytes) = bytes.try_into() else { return Ok(()) };
    // SAFETY: it takes numbers only, and the descriptor is open.
    if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, bytes) } == 0 {
        return Ok(());
    }
    let e = io::Error::last_os_error();
    match e.raw_os_error() {
        Some(libc::ENOSYS | libc::EPERM | libc::EOPNOTSUPP | libc::EINTR) => Ok(()),
        _ => Err(e),
    }
}

/// A file opened so that each write waits for the disk.
struct Durable {
    file: fs::File,
    bytes: u64,
}

/// The most parts that the kernel takes in one call.
const PARTS_MAX: usize = 1024;

impl DiskFile for Durable {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn write(&self, mut at: u64, mut parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            let count = parts.len().min(PARTS_MAX) as i32;
            // SAFETY: `IoSlice` has the layout of `iovec`; the slices live and are not written to during the call, and `count` of them are there.
            let n = unsafe { libc::pwritev(self.file.as_raw_fd(), parts.as_ptr().cast(), count, at as i64) };
            match n {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                n if n > 0 => {
                    at += n as u64;
                    IoSlice::advance_slices(&mut parts, n as usize);
                }
                _ => {
                    let e = io::Error::last_os_error();
                    if e.kind() != io::ErrorKind::Interrupted {
                        return Err(e);
                    }
                }
            }
        }
        Ok(())
    }

    fn read(&self, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, at)
    }

    fn read_now(&self, mut at: u64, mut buffer: &mut [u8]) -> bool {
        while !buffer.is_empty() {
            let part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
            // SAFETY: `part` describes `buffer`, which is ours alone for the call.
            let n = unsafe { libc::preadv2(self.file.as_raw_fd(), &part, 1, at as i64, libc::RWF_NOWAIT) };
            if n <= 0 {
                return false;
            }
            at += n as u64;
            buffer = &mut buffer[n as usize..];
        }
        true
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}
