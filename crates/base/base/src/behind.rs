//! Threads for work that others don't wait for, and that gives way to work that they do.
//!
//! Where a machine's few processors are busy, bringing data to long-term storage would take them from whoever writes it: copies, checksums, and sending on a local socket, which is
//! the receiver's work, too. Here all of that, and what blocks, is done by threads that get a processor when no other thread wants it as much. On an idle machine they are as fast as any.
//!
//! `nice` says how much of a processor a thread gets, and not when: one that has it keeps it for a slice of some milliseconds, also from those that wake up meanwhile. So work on many bytes
//! does some of them at a time and lets others have their [`turn`]. On a busy machine that leaves it little: 64 KiB for each slice of all the others. What has become urgent is done by other threads, whose turns are
//! their own.

use std::{cell::Cell, future::Future};
use tokio::{
    runtime::{Builder, Runtime},
    task::JoinHandle,
};

/// How far the threads give way, as `nice` counts.
const NICE: i32 = 10;

/// So many bytes are read, copied or summed before others have their [`turn`]: some 20 µs of work, and 100 for an MD5.
pub const TURN_BYTES: usize = 64 << 10;

thread_local! {
    static GIVES_WAY: Cell<bool> = const { Cell::new(false) };
}

/// Lets others have this processor, if any wait for it and this thread gives way. Whether it does.
pub fn turn() -> bool {
    let gives_way = GIVES_WAY.get();
    if gives_way {
        std::thread::yield_now();
    }
    gives_way
}

/// A runtime whose threads give way. What it does ends when it is dropped, at its next wait; nobody waits for that.
pub struct Behind(Option<Runtime>);

impl Behind {
    /// With so many threads, besides those that block. Panics where the system gives no thread.
    pub fn new(name: &str, threads: usize) -> Behind {
        let give_way = || {
            // SAFETY: it has no memory to touch. On Linux 0 is the calling thread alone; that it fails leaves the thread as it was.
            unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
            GIVES_WAY.set(true);
        };
        let built = Builder::new_multi_thread().worker_threads(threads).thread_name(name).on_thread_start(give_way).enable_all().build();
        Behind(Some(built.expect("a thread can be started")))
    }

    pub fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.0.as_ref().expect("there is one until it is dropped").spawn(work)
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        // It may be dropped by a task, where nothing may be waited for.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nice() -> i32 {
        // SAFETY: it takes numbers only; 0 is the calling thread.
        unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
    }

    #[tokio::test]
    async fn its_threads_give_way_and_others_do_not() {
        let (behind, before) = (Behind::new("behind", 1), nice());
        let how = || (nice(), turn());
        let there = behind.spawn(async move { (how(), tokio::task::spawn_blocking(how).await.unwrap()) }).await.unwrap();
        let gives_way = (before.max(NICE), true);
        assert_eq!(there, (gives_way, gives_way));
        assert_eq!(how(), (before, false));
    }

    #[tokio::test]
    async fn who_drops_it_waits_for_nothing() {
        let behind = Behind::new("behind", 1);
        let endless = behind.spawn(std::future::pending::<()>());
        drop(behind);
        assert!(endless.await.unwrap_err().is_cancelled());
    }
}
