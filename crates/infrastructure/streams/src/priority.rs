//! Which of a server's threads a processor takes first: those that an append waits for, and then those that read and write history.
//!
//! A processor that is busy with a thread goes on with it for a slice of some milliseconds, whoever has become ready meanwhile, if the two may do equally much. That is longer than a durable
//! write takes. A thread with a shorter slice goes before one with a longer, on Linux since 6.12 (`sched_setattr(2)`, `sched_runtime`); it gets no more of the processor by that, only earlier. It
//! needs no right. Elsewhere it is as it was.

/// The shortest slice that there is, ns.
const SHORT: u64 = 100_000;
/// How much further threads that nobody waits for give way, as `nice` counts.
const NICE: i32 = 10;

/// The calling thread, and those that it makes, go before others that may do as much. For the first thread of a server's process.
pub fn go_first() {
    set(0, SHORT);
}

/// The calling thread gives way to the others of its process.
pub(crate) fn give_way() {
    // 0: the usual slice.
    set(NICE, 0);
}

#[cfg(not(target_os = "linux"))]
fn set(_: i32, _: u64) {}

/// Of a thread that whoever started the program has given another policy nothing is changed.
#[cfg(target_os = "linux")]
fn set(nicer: i32, slice_ns: u64) {
    // SAFETY: neither has memory to touch, and 0 is the calling thread.
    let (policy, nice) = unsafe { (libc::sched_getscheduler(0), libc::getpriority(libc::PRIO_PROCESS, 0)) };
    if policy != libc::SCHED_OTHER {
        return;
    }
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: policy as u32,
        sched_flags: 0,
        sched_nice: (nice + nicer).min(19),
        sched_priority: 0,
        sched_runtime: slice_ns,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the structure says its own size, is only read, and lives until the call has returned; 0 is the calling thread. That it fails leaves the thread as it was.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &attributes, 0) };
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn here() -> (i32, u64) {
        let mut got = std::mem::MaybeUninit::<libc::sched_attr>::zeroed();
        let size = size_of::<libc::sched_attr>();
        // SAFETY: the kernel writes `size` bytes at most, zero is a value of each field, and 0 is the calling thread.
        let got = unsafe {
            assert_eq!(libc::syscall(libc::SYS_sched_getattr, 0, got.as_mut_ptr(), size as u32, 0), 0);
            got.assume_init()
        };
        (got.sched_nice, got.sched_runtime)
    }

    #[test]
    fn threads_of_the_first_one_go_first_and_those_that_give_way_do_not() {
        let usual = std::thread::spawn(here).join().unwrap();
        std::thread::spawn(move || {
            go_first();
            let first = std::thread::spawn(here).join().unwrap();
            // A kernel that has no slices of one's own leaves it at that.
            assert!(first.0 == usual.0 && first.1 <= usual.1, "{first:?} and usually {usual:?}");
            let behind = std::thread::spawn(|| {
                give_way();
                here()
            });
            let behind = behind.join().unwrap();
            assert!(behind.0 == (usual.0 + NICE).min(19) && behind.1 == usual.1, "{behind:?} and usually {usual:?}");
        })
        .join()
        .unwrap();
    }
}
