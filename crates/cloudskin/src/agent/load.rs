//! How much processor time a thread got, and how long it stood in the queue for it: the kernel's own count.

use std::time::{Duration, Instant};

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

/// Looks at one rank's threads from time to time.
#[derive(Default)]
pub struct Meter {
    /// As they were found at the last look.
    last: Vec<(u32, Instant, Times)>,
    /// When it was last asked how long it has waited, and what it said.
    waited: Option<(Instant, Duration)>,
}

impl Meter {
    /// Cores that the threads got since the last look, and cores that they would have used, the time in the run queue included.
    pub fn look(&mut self, threads: &[u32]) -> (f64, f64) {
        let now = Instant::now();
        let found: Vec<_> = threads.iter().filter_map(|thread| Some((*thread, now, times(*thread)?))).collect();
        let before = std::mem::replace(&mut self.last, found);
        let (mut used, mut wanted) = (0.0, 0.0);
        for (thread, _, times) in &self.last {
            // A rank that was stopped goes on with other threads: what one did before it was first looked at is not counted.
            let Some((_, at, last)) = before.iter().find(|(t, ..)| t == thread) else { continue };
            let passed = now.duration_since(*at).as_nanos().max(1) as f64;
            let ran = times.ran.saturating_sub(last.ran) as f64 / passed;
            let waited = times.waited.saturating_sub(last.waited) as f64 / passed;
            // A thread can't want more than one core; the kernel adds a long wait when it ends.
            used += ran.min(1.0);
            wanted += (ran + waited).min(1.0);
        }
        (used, wanted)
    }

    /// Share of the time since the last look that it waited, 0 to 1; `waited`: as long as it has waited in all.
    pub fn waiting(&mut self, waited: Duration) -> f64 {
        let now = Instant::now();
        let before = self.waited.replace((now, waited));
        before.map_or(0.0, |(at, before)| (waited.saturating_sub(before).as_secs_f64() / now.duration_since(at).as_secs_f64().max(1e-9)).min(1.0))
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
        assert_eq!(meter.look(&[me]), (0.0, 0.0));
        let until = Instant::now() + Duration::from_millis(200);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        let (used, wanted) = meter.look(&[me]);
        assert!(used > 0.05 && wanted > 0.8 && wanted <= 1.0, "used {used}, wanted {wanted}");
        assert_eq!(meter.look(&[]), (0.0, 0.0));
    }

    #[test]
    fn all_threads_of_a_rank_count() {
        use std::sync::atomic::{AtomicBool, Ordering};
        let (over, (told, threads)) = (AtomicBool::new(false), std::sync::mpsc::channel());
        let (used, wanted) = std::thread::scope(|scope| {
            for _ in 0..2 {
                let (over, told) = (&over, told.clone());
                scope.spawn(move || {
                    // SAFETY: gettid has no arguments and no failure.
                    told.send(unsafe { libc::syscall(libc::SYS_gettid) } as u32).unwrap();
                    while !over.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
            let (threads, mut meter): (Vec<u32>, _) = (threads.iter().take(2).collect(), Meter::default());
            meter.look(&threads);
            std::thread::sleep(Duration::from_millis(300));
            let seen = meter.look(&threads);
            over.store(true, Ordering::Relaxed);
            seen
        });
        assert!(used > 0.1 && wanted > 1.5 && wanted <= 2.0, "used {used}, wanted {wanted}");
    }
}
