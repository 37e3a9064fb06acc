//! Waiting for what comes within microseconds, without going to sleep for it.
//!
//! A thread that sleeps until its socket has something pays for two changes of context, and in a virtual machine for an interrupt of another processor: more than a small answer takes to
//! make. So the end of a connection that has just asked, or just answered, looks again for a moment; a task lets others have their turn between looks. If nothing came in that time it does so
//! more and more seldom, so a connection with long pauses costs nothing.
//!
//! It only waits; what is read, and whether it is worth it now, its caller says.

use bytes::BytesMut;
use std::{
    future::{Future, poll_fn},
    io,
    pin::pin,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::io::{AsyncRead, AsyncReadExt};

/// How long it is looked for: some round trips over a socket of the same machine.
const LOOK: Duration = Duration::from_micros(40);
/// After so many misses in a row it is not looked more seldom any more: once in 64 times.
const MISSES_MAX: u32 = 6;

/// Who looks just now, in the whole process: at most one for each processor.
static LOOKING: AtomicUsize = AtomicUsize::new(0);

fn processors() -> usize {
    static PROCESSORS: OnceLock<usize> = OnceLock::new();
    *PROCESSORS.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

struct Looking;

impl Looking {
    fn begin() -> Option<Looking> {
        let max = processors();
        let one = Looking;
        // Dropping takes it back, also if there are too many.
        (LOOKING.fetch_add(1, Relaxed) < max).then_some(one)
    }
}
impl Drop for Looking {
    fn drop(&mut self) {
        LOOKING.fetch_sub(1, Relaxed);
    }
}

/// What one end of a connection has learned of the other's pace.
#[derive(Default)]
pub(crate) struct Eager {
    /// In a row.
    misses: u32,
    /// So many times it isn't looked.
    pause: u32,
}

impl Eager {
    /// Whether it is looked this time.
    fn is_due(&mut self) -> bool {
        self.pause = self.pause.saturating_sub(1);
        self.pause == 0
    }
    fn came(&mut self) {
        self.misses = 0;
    }
    fn missed(&mut self) {
        self.misses = (self.misses + 1).min(MISSES_MAX);
        self.pause = 1 << self.misses;
    }

    /// Looks for a moment whether `ready` has something, on a thread that would else sleep for it. Nobody has a turn on its processor between looks, so where there is only one it doesn't.
    pub fn look<T>(&mut self, mut ready: impl FnMut() -> Option<T>) -> Option<T> {
        if processors() == 1 || !self.is_due() {
            return None;
        }
        let _looking = Looking::begin()?;
        let end = Instant::now() + LOOK;
        loop {
            if let Some(done) = ready() {
                self.came();
                return Some(done);
            }
            if Instant::now() >= end {
                self.missed();
                return None;
            }
            std::hint::spin_loop();
        }
    }

    /// Waits until `ready` is. `soon`: something is due. `ready` is asked as a future is polled.
    pub async fn until<T>(&mut self, soon: bool, mut ready: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
        if soon && self.is_due() {
            if let Some(_looking) = Looking::begin() {
                let end = Instant::now() + LOOK;
                loop {
                    if let Poll::Ready(done) = poll_fn(|cx| Poll::Ready(ready(cx))).await {
                        self.came();
                        return done;
                    }
                    if Instant::now() >= end {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
                self.missed();
            }
        }
        poll_fn(ready).await
    }

    /// Reads what there is. Dropped before it is done, nothing has been read.
    pub async fn read(&mut self, reader: &mut (impl AsyncRead + Unpin), input: &mut BytesMut, soon: bool) -> io::Result<usize> {
        self.until(soon, |cx| pin!(reader.read_buf(input)).poll(cx)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[test]
    fn who_is_slow_is_looked_for_seldom() {
        let mut eager = Eager::default();
        let mut looks = 0;
        for _ in 0..1000 {
            if eager.is_due() {
                looks += 1;
                eager.missed();
            }
        }
        assert!((10..40).contains(&looks), "{looks}");
        while !eager.is_due() {}
        eager.came();
        assert!((0..100).all(|_| eager.is_due()), "an answer that came in time makes up for what came before");
    }

    #[tokio::test]
    async fn what_comes_late_comes_too() {
        let (mut one, mut other) = tokio::io::duplex(64);
        let (mut eager, mut input) = (Eager::default(), BytesMut::new());
        for pause in [Duration::ZERO, LOOK * 50] {
            let (read, ()) = tokio::join!(eager.read(&mut one, &mut input, true), async {
                tokio::time::sleep(pause).await;
                other.write_all(b"x").await.unwrap();
            });
            assert_eq!(read.unwrap(), 1);
        }
        drop(other);
        assert_eq!(eager.read(&mut one, &mut input, true).await.unwrap(), 0);
        assert_eq!(&input[..], b"xx");
        // Others in this process may look just now, but none for long.
        while LOOKING.load(Relaxed) > 0 {
            tokio::task::yield_now().await;
        }
    }
}
