//! Which pages of a running cell's memory have been written since somebody last asked, as the kernel knows it: without looking at the pages.
//!
//! A userfaultfd protects the memory from writing in its asynchronous way: the first write to a page lifts the protection of that page by itself, in the kernel, and
//! `PAGEMAP_SCAN` (Linux 6.7) says where that has happened and protects these pages again in the same step, so that no write is lost between two questions. A write costs
//! its thread a fault once per page and question, which the kernel sees to by itself; nobody waits for anybody.
//!
//! Where the kernel has none of it, or refuses it, [`Watch::begin`] says so and all pages are looked at, as they always were.

use crate::engine::PAGE;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;

/// Pages from the first one on, and how many.
pub(crate) type Run = (usize, usize);

/// What both need of the kernel, for the whole process. The descriptor can do nothing to other processes' memory.
struct Kernel {
    userfault: OwnedFd,
    pagemap: File,
}

static KERNEL: OnceLock<Option<Kernel>> = OnceLock::new();

/// To be called before the process gives up the system call ([`crate::fence`]); after that it would be refused.
pub fn prepare() {
    KERNEL.get_or_init(|| open().ok());
}

// Of `linux/userfaultfd.h` and `linux/fs.h`.
const USER_MODE_ONLY: libc::c_int = 1;
const API: u64 = 0xAA;
const FEATURE_WP_UNPOPULATED: u64 = 1 << 13;
const FEATURE_WP_ASYNC: u64 = 1 << 15;
const REGISTER_MODE_WP: u64 = 1 << 1;
const UFFDIO_API: libc::Ioctl = request(0xAA, 0x3f, size_of::<ApiWords>(), 3);
const UFFDIO_REGISTER: libc::Ioctl = request(0xAA, 0, size_of::<Register>(), 3);
const UFFDIO_UNREGISTER: libc::Ioctl = request(0xAA, 1, size_of::<Range>(), 2);
const PAGEMAP_SCAN: libc::Ioctl = request(b'f', 16, size_of::<Scan>(), 3);
/// Protects again what it finds; refuses a range that is not watched.
const SCAN_AND_PROTECT: u64 = 1 | 1 << 1;
const PAGE_IS_WRITTEN: u64 = 1 << 1;

/// The number of an ioctl (`asm-generic/ioctl.h`); `direction`: 2 if the kernel answers, 3 if it reads and answers.
const fn request(of: u8, number: u8, size: usize, direction: u32) -> libc::Ioctl {
    (direction << 30 | (size as u32) << 16 | (of as u32) << 8 | number as u32) as libc::Ioctl
}

#[repr(C)]
struct ApiWords {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Range {
    start: u64,
    len: u64,
}

#[repr(C)]
struct Register {
    range: Range,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

#[repr(C)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

fn open() -> io::Result<Kernel> {
    // SAFETY: the call takes plain numbers; the descriptor that it gives is nobody else's.
    let userfault = unsafe {
        match libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK | USER_MODE_ONLY) {
            fd if fd < 0 => return Err(io::Error::last_os_error()),
            fd => OwnedFd::from_raw_fd(fd as i32),
        }
    };
    let mut api = ApiWords { api: API, features: FEATURE_WP_ASYNC | FEATURE_WP_UNPOPULATED, ioctls: 0 };
    // SAFETY: the kernel reads and writes this one struct, which has the layout of its header.
    if unsafe { libc::ioctl(userfault.as_raw_fd(), UFFDIO_API, &raw mut api) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Kernel { userfault, pagemap: File::open("/proc/self/pagemap")? })
}

/// A range of this process's memory that is watched. One at a time for each piece of memory: a second one takes the answers of the first.
pub(crate) struct Watch {
    kernel: &'static Kernel,
    start: usize,
    /// Bytes.
    len: usize,
}

impl Watch {
    /// Watches `len` bytes from `start` on, which are mapped now. `None`: the kernel can't.
    pub fn begin(start: *const u8, len: usize) -> Option<Watch> {
        let kernel = KERNEL.get_or_init(|| open().ok()).as_ref()?;
        let start = start.addr();
        // SAFETY: sysconf has no memory effects.
        let system = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
        if len == 0 || start % system != 0 || len % system != 0 {
            return None;
        }
        let mut register = Register { range: Range { start: start as u64, len: len as u64 }, mode: REGISTER_MODE_WP, ioctls: 0 };
        // SAFETY: the kernel reads and writes this one struct. What it does to the range changes no byte of it, and nobody's access but for the time of it.
        if unsafe { libc::ioctl(kernel.userfault.as_raw_fd(), UFFDIO_REGISTER, &raw mut register) } != 0 {
            return None;
        }
        let mut watch = Watch { kernel, start, len };
        // Whatever was written so far is of no interest, and is protected by the question.
        watch.take().ok()?;
        Some(watch)
    }

    /// Whether it watches memory that begins here.
    pub fn is_of(&self, start: *const u8) -> bool {
        self.start == start.addr()
    }

    /// Whether it watches a part of memory that begins here and has so many pages.
    pub fn is_within(&self, start: *const u8, pages: usize) -> bool {
        self.start >= start.addr() && self.start + self.len <= start.addr() + pages * PAGE
    }

    /// Pages that it watches. What memory has grown by since it does not know.
    pub fn pages(&self) -> usize {
        self.len / PAGE
    }

    /// Runs of pages that were written since this was last asked (or since it began), in order. Some may be named that were not.
    ///
    /// # Errors
    /// The memory is not the one any more that was watched.
    pub fn take(&mut self) -> io::Result<Vec<Run>> {
        let mut regions = [Region::default(); 512];
        let (mut at, end) = (self.start as u64, (self.start + self.len) as u64);
        let mut runs: Vec<Run> = Vec::new();
        while at < end {
            let mut scan = Scan {
                size: size_of::<Scan>() as u64,
                flags: SCAN_AND_PROTECT,
                start: at,
                end,
                walk_end: 0,
                vec: regions.as_mut_ptr().addr() as u64,
                vec_len: regions.len() as u64,
                max_pages: 0,
                category_inverted: 0,
                category_mask: PAGE_IS_WRITTEN,
                category_anyof_mask: 0,
                return_mask: PAGE_IS_WRITTEN,
            };
            // SAFETY: the kernel writes this struct and at most `vec_len` regions of `regions`, which both outlive the call.
            let found = unsafe { libc::ioctl(self.kernel.pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut scan) };
            let found = usize::try_from(found).map_err(|_| io::Error::last_os_error())?;
            for region in &regions[..found.min(regions.len())] {
                let (from, to) = ((region.start as usize - self.start) / PAGE, (region.end as usize - self.start) / PAGE);
                match runs.last_mut() {
                    Some((first, count)) if *first + *count == from => *count = to - *first,
                    _ => runs.push((from, to - from)),
                }
            }
            if scan.walk_end <= at {
                return Err(io::Error::other("the kernel does not get on"));
            }
            at = scan.walk_end;
        }
        Ok(runs)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut range = Range { start: self.start as u64, len: self.len as u64 };
        // SAFETY: as in `begin`. If the memory is gone, the kernel says so and nothing happens; if it is another's by now, that one's answers end with an error.
        let _ = unsafe { libc::ioctl(self.kernel.userfault.as_raw_fd(), UFFDIO_UNREGISTER, &raw mut range) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone)]
    #[repr(align(4096))]
    struct Page([u8; PAGE]);

    fn start(memory: &[Page]) -> *const u8 {
        memory.as_ptr().cast()
    }

    #[test]
    fn what_is_written_is_told_once() {
        let mut memory = vec![Page([0; PAGE]); 1000];
        memory[3].0[0] = 1;
        let Some(mut watch) = Watch::begin(start(&memory), memory.len() * PAGE) else {
            eprintln!("skipped: this kernel does not tell what is written (Linux 6.7 does)");
            return;
        };
        assert_eq!(watch.take().unwrap(), []);
        (memory[3].0[0], memory[4].0[7], memory[900].0[0]) = (2, 3, 4);
        assert_eq!(watch.take().unwrap(), [(3, 2), (900, 1)]);
        assert_eq!(watch.take().unwrap(), [], "told once");
        memory[3].0[0] = 5;
        assert_eq!(watch.take().unwrap(), [(3, 1)], "and watched afresh");
        assert_eq!((memory[3].0[0], memory[4].0[7], memory[900].0[0]), (5, 3, 4));
        // More runs than one question answers, of ends that do not touch.
        (0..1000).step_by(2).for_each(|page| memory[page].0[9] = 9);
        assert_eq!(watch.take().unwrap(), (0..1000).step_by(2).map(|page| (page, 1)).collect::<Vec<_>>());
        (0..1000).for_each(|page| memory[page].0[10] = 9);
        assert_eq!(watch.take().unwrap(), [(0, 1000)]);
        drop(watch);
        assert!(Watch::begin(start(&memory), 0).is_none());
    }

    #[test]
    fn writes_of_another_thread_are_never_lost() {
        const PAGES: usize = 64;
        let mut memory = vec![Page([0; PAGE]); PAGES];
        let Some(mut watch) = Watch::begin(start(&memory), PAGES * PAGE) else { return };
        let at = memory.as_mut_ptr().expose_provenance();
        let writer = std::thread::spawn(move || {
            for i in 0..200_000usize {
                // SAFETY: the memory outlives this thread, which is joined; nobody else accesses it before, but the kernel for who reads through /proc.
                unsafe { std::ptr::with_exposed_provenance_mut::<u8>(at + i * 7 % PAGES * PAGE).write_volatile(i as u8) };
            }
        });
        let own = File::open("/proc/self/mem").unwrap();
        let mut copy = vec![0; PAGES * PAGE];
        let mut look = || {
            for (first, count) in watch.take().unwrap() {
                std::os::unix::fs::FileExt::read_exact_at(&own, &mut copy[first * PAGE..(first + count) * PAGE], (at + first * PAGE) as u64).unwrap();
            }
        };
        while !writer.is_finished() {
            look();
        }
        writer.join().unwrap();
        look();
        let same = copy.chunks(PAGE).zip(&memory).all(|(copy, page)| copy == page.0);
        assert!(same, "the copy lacks a write");
    }
}
