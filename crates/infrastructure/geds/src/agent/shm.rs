//! What two processes of one machine have together: words of memory, descriptors over a socket, a clock.
//!
//! Nothing here knows of objects. Words are read and written atomically only, so neither side can see half of one.

use crate::{Error, Result, local::file};
use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    path::Path,
    ptr,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};

/// Descriptors that come with one message at most.
pub const FDS_MAX: usize = 4;

fn shown(name: &str) -> impl Fn(io::Error) -> Error {
    file("share", Path::new(name))
}

/// Memory of 64-bit words. Who made it may write; who was handed its descriptor may if the descriptor says so.
pub struct Words {
    start: *const AtomicU64,
    count: usize,
    file: File,
}

// SAFETY: the words are atomics, in a mapping that lives as long as this.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    /// Zeros, in memory that can neither shrink nor grow, so that no access to it can fail.
    pub fn create(count: usize) -> Result<Words> {
        // SAFETY: the name ends with NUL and outlives the call.
        let fd = unsafe { libc::memfd_create(c"geds-words".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
        if fd < 0 {
            return Err(shown("memory")(io::Error::last_os_error()));
        }
        // SAFETY: the descriptor is new and belongs to nobody else.
        let file = unsafe { File::from_raw_fd(fd) };
        file.set_len((count * 8) as u64).map_err(shown("memory"))?;
        // SAFETY: the call reads its arguments only.
        if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL) } < 0 {
            return Err(shown("memory")(io::Error::last_os_error()));
        }
        Words::map(file, count, true)
    }

    /// Those of another process. Refused if they are fewer, or could become fewer.
    pub fn open(file: File, count: usize, writable: bool) -> Result<Words> {
        let odd = |found: &str| Error::Protocol { peer: "the agent".into(), message: format!("the memory it shares is not what it should be: {found}") };
        // SAFETY: the call reads its arguments only.
        let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
        if seals < 0 || seals & libc::F_SEAL_SHRINK == 0 {
            return Err(odd("it could shrink"));
        }
        if file.metadata().map_err(shown("memory"))?.len() < (count * 8) as u64 {
            return Err(odd("it is too short"));
        }
        Words::map(file, count, writable)
    }

    fn map(file: File, count: usize, writable: bool) -> Result<Words> {
        let access = if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe { libc::mmap(ptr::null_mut(), count * 8, access, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(shown("memory")(io::Error::last_os_error()));
        }
        Ok(Words { start: start.cast(), count, file })
    }

    /// A word. To be changed only by who may write.
    pub fn at(&self, n: usize) -> &AtomicU64 {
        assert!(n < self.count, "word {n} of {}", self.count);
        // SAFETY: inside the mapping (asserted), aligned because a page is, and the memory can't shrink (sealed when it was made, looked at when it was opened).
        unsafe { &*self.start.add(n) }
    }

    pub fn file(&self) -> &File {
        &self.file
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: this very mapping, made in `map`; references to words borrow their owner, so none is left.
        unsafe { libc::munmap(self.start.cast_mut().cast(), self.count * 8) };
    }
}

/// The same file, or memory, through a descriptor that can't be written through.
pub fn read_only(file: &File) -> io::Result<File> {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Whether this is still the process that made it, and not a child that was forked from it. Asking makes no system call.
pub struct Born {
    page: *const AtomicU64,
}

// SAFETY: the page holds an atomic and lives as long as this.
unsafe impl Send for Born {}
// SAFETY: as above.
unsafe impl Sync for Born {}

const PAGE: usize = 4096;

impl Born {
    pub fn here() -> Result<Born> {
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let page = unsafe { libc::mmap(ptr::null_mut(), PAGE, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
        if page == libc::MAP_FAILED {
            return Err(shown("a page")(io::Error::last_os_error()));
        }
        let born = Born { page: page.cast() };
        // A child finds zeros there.
        // SAFETY: the page is ours alone, and nothing is in it yet.
        if unsafe { libc::madvise(page, PAGE, libc::MADV_WIPEONFORK) } < 0 {
            return Err(shown("a page")(io::Error::last_os_error()));
        }
        born.word().store(1, SeqCst);
        Ok(born)
    }

    fn word(&self) -> &AtomicU64 {
        // SAFETY: the page was mapped in `here` and is aligned.
        unsafe { &*self.page }
    }

    pub fn is_here(&self) -> bool {
        self.word().load(SeqCst) == 1
    }
}

impl Drop for Born {
    fn drop(&mut self) {
        // SAFETY: this very mapping, made in `here`.
        unsafe { libc::munmap(self.page.cast_mut().cast(), PAGE) };
    }
}

/// Nanoseconds of the clock that all processes of the machine share and that nobody sets. No system call where the kernel has a page for it.
pub fn clock_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is that of `now`, which outlives the call.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    debug_assert_eq!(done, 0, "every Linux has this clock");
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Room for the descriptors of one message, aligned as the kernel wants it.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Sends bytes, and descriptors with the first of them. Returns how many bytes were taken.
pub fn send(socket: RawFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    assert!(fds.len() <= FDS_MAX, "{} descriptors in one message", fds.len());
    let mut control = Control([0; 64]);
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all zeros is an empty message.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    if !fds.is_empty() {
        let size = (fds.len() * size_of::<RawFd>()) as u32;
        message.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: arithmetic only.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(size) } as usize;
        assert!(message.msg_controllen <= control.0.len());
        // SAFETY: the control buffer is long enough for one header and its data (asserted), and aligned.
        unsafe {
            let head = libc::CMSG_FIRSTHDR(&message);
            (*head).cmsg_level = libc::SOL_SOCKET;
            (*head).cmsg_type = libc::SCM_RIGHTS;
            (*head).cmsg_len = libc::CMSG_LEN(size) as usize;
            let data = libc::CMSG_DATA(head).cast::<RawFd>();
            for (n, fd) in fds.iter().enumerate() {
                data.add(n).write_unaligned(fd.as_raw_fd());
            }
        }
    }
    // SAFETY: the message points to `bytes` and `control`, which outlive the call and are not written to.
    let sent = unsafe { libc::sendmsg(socket, &message, libc::MSG_NOSIGNAL) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent as usize) }
}

/// Receives bytes into `into`, and the descriptors that came with them. 0: the other side has hung up.
pub fn receive(socket: RawFd, into: &mut [u8], fds: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
    let mut control = Control([0; 64]);
    let mut part = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    // SAFETY: all zeros is an empty message.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len();
    // SAFETY: the message points to `into` and `control`, which outlive the call and are nobody else's.
    let got = unsafe { libc::recvmsg(socket, &mut message, libc::MSG_CMSG_CLOEXEC) };
    if got < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has filled in the headers and their lengths; descriptors that it made for us belong to nobody else.
    unsafe {
        let mut head = libc::CMSG_FIRSTHDR(&message);
        while !head.is_null() {
            if (*head).cmsg_level == libc::SOL_SOCKET && (*head).cmsg_type == libc::SCM_RIGHTS {
                let count = ((*head).cmsg_len - libc::CMSG_LEN(0) as usize) / size_of::<RawFd>();
                let data = libc::CMSG_DATA(head).cast::<RawFd>();
                fds.extend((0..count).map(|n| OwnedFd::from_raw_fd(data.add(n).read_unaligned())));
            }
            head = libc::CMSG_NXTHDR(&message, head);
        }
    }
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(io::Error::other("descriptors were lost on their way: this process may have too many files open"));
    }
    Ok(got as usize)
}
