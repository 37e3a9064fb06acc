//! How fast, and how often: a bandwidth that several share, and the pauses between tries of what fails.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

/// A bandwidth: who wants to send is told when. Of uploads, and of what moves of cells send ahead.
#[derive(Debug, Default)]
pub struct Pace {
    bytes_per_second: Option<u64>,
    free_at: Mutex<Option<Instant>>,
}

impl Pace {
    /// `None`: as fast as it goes.
    pub fn new(bytes_per_second: Option<u64>) -> Pace {
        Pace { bytes_per_second, free_at: Mutex::new(None) }
    }

    fn time(rate: u64, bytes: u64) -> Duration {
        Duration::try_from_secs_f64(bytes as f64 / rate.max(1) as f64).unwrap_or(Duration::MAX)
    }

    /// How long to wait before `bytes` are sent, which are counted from now on.
    pub fn book(&self, bytes: u64, now: Instant) -> Duration {
        let Some(rate) = self.bytes_per_second else { return Duration::ZERO };
        let mut free_at = self.free_at.lock().unwrap_or_else(|e| e.into_inner());
        let start = free_at.map_or(now, |at| at.max(now));
        // What would end after all times is never sent.
        *free_at = Some(start.checked_add(Pace::time(rate, bytes)).unwrap_or(start));
        start - now
    }

    /// How long `bytes` take at most, behind what was booked before.
    pub fn at_most(&self, bytes: u64, now: Instant) -> Duration {
        let Some(rate) = self.bytes_per_second else { return Duration::ZERO };
        let free_at = self.free_at.lock().unwrap_or_else(|e| e.into_inner());
        let before = free_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        before.saturating_add(Pace::time(rate, bytes))
    }

    /// Waits until `bytes` may be sent. What was booked before is waited for, so the mean over time is the bandwidth.
    pub async fn wait(&self, bytes: u64) {
        let wait = self.book(bytes, Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

/// The pause after so many failures before this one: twice as long each time, up to the longest.
pub fn pause(failures: u32, first: Duration, longest: Duration) -> Duration {
    first.saturating_mul(1u32.checked_shl(failures).unwrap_or(u32::MAX)).min(longest)
}

/// [`pause`], shortened by chance to between half of it and all: who failed together doesn't come back together.
pub fn pause_by_chance(failures: u32, first: Duration, longest: Duration) -> Duration {
    pause(failures, first, longest).mul_f64(rand::Rng::random_range(&mut rand::rng(), 0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bandwidth_is_kept_over_time() {
        let pace = Pace::new(Some(1_000_000));
        let now = Instant::now();
        assert_eq!(pace.book(500_000, now), Duration::ZERO);
        assert_eq!(pace.book(250_000, now).as_millis(), 500);
        assert_eq!(pace.book(1, now).as_millis(), 750);
        assert_eq!(pace.at_most(250_000, now).as_millis(), 1000);
        // What was not used is not saved up.
        assert_eq!(pace.book(1, now + Duration::from_secs(60)), Duration::ZERO);
        assert_eq!(Pace::new(None).book(u64::MAX, now), Duration::ZERO);
    }

    #[test]
    fn pauses_grow_up_to_the_longest_and_by_chance_are_at_least_half_as_long() {
        let (first, longest) = (Duration::from_millis(100), Duration::from_secs(2));
        let pauses: Vec<_> = [0, 1, 4, 5, 31, 32, u32::MAX].map(|n| pause(n, first, longest).as_millis()).into();
        assert_eq!(pauses, [100, 200, 1600, 2000, 2000, 2000, 2000]);
        let some: Vec<_> = (0..100).map(|_| pause_by_chance(3, first, longest)).collect();
        assert!(some.iter().all(|pause| (400..=800).contains(&pause.as_millis())), "{some:?}");
        assert!(some.iter().any(|pause| *pause != some[0]), "they differ");
    }
}
