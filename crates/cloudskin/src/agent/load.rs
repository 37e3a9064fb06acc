//! How much processor time a thread got, and how long it stood in the queue for it: the kernel's own count.

use std::time::Instant;

/// Totals of one thread, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Times {
    ran: u64,
    waited: u64,
}

fn times(thread: u32) -> Option<Times> {
    parse(&std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).ok()?)
}

/// `ran waited slices` (Documentation/scheduler/sched-stats.rst, "/proc/<pid>/schedstat").
fn parse(text: &str) -> Option<Times> {
    let mut numbers = text.split_whitespace().map(str::parse);
    Some(Times { ran: numbers.next()?.ok()?, waited: numbers.next()?.ok()? })
}

/// Looks at one rank's thread from time to time.
#[derive(Default)]
pub struct Meter {
    last: Option<(u32, Instant, Times)>,
}

impl Meter {
    /// Cores that the thread (0: none) got since the last look, and cores that it would have used, the time in the run queue included.
    pub fn look(&mut self, thread: u32) -> (f64, f64) {
        let now = Instant::now();
        let Some(times) = (thread != 0).then(|| times(thread)).flatten() else {
            self.last = None;
            return (0.0, 0.0);
        };
        let before = self.last.replace((thread, now, times));
        // A rank that was stopped goes on with another thread: what it did before the last look of that is counted there.
        let Some((_, at, last)) = before.filter(|(t, ..)| *t == thread) else { return (0.0, 0.0) };
        let passed = now.duration_since(at).as_nanos().max(1) as f64;
        let ran = times.ran.saturating_sub(last.ran) as f64 / passed;
        let waited = times.waited.saturating_sub(last.waited) as f64 / passed;
        // A thread can't want more than one core; the kernel adds a long wait when it ends.
        (ran.min(1.0), (ran + waited).min(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_thread_is_seen() {
        assert_eq!(parse("5 7 9\n"), Some(Times { ran: 5, waited: 7 }));
        assert_eq!(parse("5"), None);
        // SAFETY: gettid has no arguments and no failure.
        let me = unsafe { libc::syscall(libc::SYS_gettid) } as u32;
        let mut meter = Meter::default();
        assert_eq!(meter.look(me), (0.0, 0.0));
        let until = Instant::now() + std::time::Duration::from_millis(200);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        let (used, wanted) = meter.look(me);
        assert!(used > 0.05 && wanted > 0.8 && wanted <= 1.0, "used {used}, wanted {wanted}");
        assert_eq!(meter.look(0), (0.0, 0.0));
    }
}
