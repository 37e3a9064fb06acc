//! What the plane is told, and how it keeps it.
//!
//! An [`Observation`] is one report of one site. A [`Series`] is the last part of one number's history: a ring with a
//! bound, of points at irregular times, that can be read at a fixed step. Nonsense is refused at this border (not finite,
//! negative, absurdly large, older than what is there), so that no model ever sees it.
//!
//! Nothing here smooths, predicts or decides.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::{JobId, SiteId, milli};

/// One report of one site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// When it was measured, Unix milliseconds.
    pub at_ms: u64,
    pub site: SiteId,
    /// Cores that ranks may use there.
    pub cores: f64,
    /// Cores that were busy with ranks, mean over the reporting period.
    pub cpu_used: f64,
    /// Cores that ranks would have used had there been enough: used plus stood ready in the run queue.
    pub cpu_wanted: f64,
    /// The same by job, for the jobs with ranks there.
    #[serde(default)]
    pub jobs: BTreeMap<JobId, JobLoad>,
}

/// The part of one job in an [`Observation`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct JobLoad {
    pub cpu_used: f64,
    pub cpu_wanted: f64,
    pub ranks: u32,
}

/// Largest value a series takes. A run queue of a million per core is a broken sensor.
const VALUE_MAX: f64 = 1e6;

/// A hole in the reports of up to this many steps is bridged with the value before it; a longer one cuts the series.
const GAP_STEPS_MAX: u64 = 8;

/// A bounded history: `(at_ms, value)`, times rising.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    points: VecDeque<(u64, f64)>,
    step_ms: u64,
    capacity: usize,
}

impl Series {
    /// An empty series that keeps the last `capacity` points and is read at steps of `step_ms`. Neither may be zero;
    /// zero is taken as one.
    pub fn new(step_ms: u64, capacity: usize) -> Series {
        Series {
            points: VecDeque::new(),
            step_ms: step_ms.max(1),
            capacity: capacity.max(1),
        }
    }

    /// A series made again from stored points.
    pub fn from_points(step_ms: u64, points: &[(u64, f64)]) -> Series {
        let mut series = Series::new(step_ms, points.len());
        for &(at_ms, value) in points {
            series.push(at_ms, value);
        }
        series
    }

    /// Adds a point, dropping the oldest when the series is full. `false` if the point was refused: not finite, negative,
    /// too large, or before the last one. A second report of the same moment replaces the first.
    pub fn push(&mut self, at_ms: u64, value: f64) -> bool {
        if !value.is_finite() || !(0.0..=VALUE_MAX).contains(&value) {
            return false;
        }
        let value = milli(value);
        match self.points.back_mut() {
            Some(last) if last.0 > at_ms => return false,
            Some(last) if last.0 == at_ms => last.1 = value,
            _ => self.points.push_back((at_ms, value)),
        }
        if self.points.len() > self.capacity {
            self.points.pop_front();
        }
        true
    }

    pub fn len(&self) -> usize {
        self.points.len()
    }

    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    /// Milliseconds between two values of [`Series::resampled`].
    pub fn step_ms(&self) -> u64 {
        self.step_ms
    }

    pub fn last(&self) -> Option<(u64, f64)> {
        self.points.back().copied()
    }

    /// All points, oldest first.
    pub fn points(&self) -> Vec<(u64, f64)> {
        self.points.iter().copied().collect()
    }

    /// The last `count` points, oldest first.
    pub fn recent(&self, count: usize) -> Vec<(u64, f64)> {
        self.points
            .iter()
            .skip(self.points.len().saturating_sub(count))
            .copied()
            .collect()
    }

    /// Median of the last `count` points. A median of three forgets a single wild report, yet a load that lasts `n`
    /// reports stays visible for `n` of them and no longer; a mean would stretch it.
    pub fn median_recent(&self, count: usize) -> Option<f64> {
        median(
            self.points
                .iter()
                .rev()
                .take(count)
                .map(|point| point.1)
                .collect(),
        )
    }

    /// The series at a fixed step, oldest first, ending with the last point: the mean of the points in each step, a short
    /// hole bridged with the value before it. After a hole that is too long to bridge only the newer part is given.
    pub fn resampled(&self) -> Vec<f64> {
        let mut values = Vec::with_capacity(self.points.len());
        let Some(&(end_ms, _)) = self.points.back() else {
            return values;
        };
        // Steps are counted back from the last point and a point belongs to the nearest, so that the newest step is always
        // whole and reports that come a little early or late neither merge nor leave holes.
        let (mut sum, mut count, mut step_back) = (0.0, 0u32, 0u64);
        for &(at_ms, value) in self.points.iter().rev() {
            let at_step = (end_ms - at_ms).saturating_add(self.step_ms / 2) / self.step_ms;
            if at_step != step_back {
                values.push(sum / f64::from(count));
                let hole = at_step - step_back - 1;
                if hole > GAP_STEPS_MAX || values.len() >= self.capacity {
                    count = 0;
                    break;
                }
                values.extend(std::iter::repeat_n(value, hole as usize));
                (sum, count, step_back) = (0.0, 0, at_step);
            }
            sum += value;
            count += 1;
        }
        if count > 0 {
            values.push(sum / f64::from(count));
        }
        values.reverse();
        values
    }
}

/// Median of some numbers, none of which may be NaN; of an even number the mean of the middle two.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    if values.is_empty() {
        return None;
    }
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    Some(if values.len() % 2 == 1 {
        values[middle]
    } else {
        (values[middle - 1] + values[middle]) / 2.0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_resampled(points: &[(u64, f64)], expected: &[f64]) {
        assert_eq!(
            Series::from_points(500, points).resampled(),
            expected,
            "{points:?}"
        );
    }

    #[test]
    fn resampling_averages_bridges_and_cuts() {
        check_resampled(&[], &[]);
        check_resampled(&[(10, 1.0)], &[1.0]);
        check_resampled(&[(0, 1.0), (500, 2.0), (1000, 3.0)], &[1.0, 2.0, 3.0]);
        // Two reports in one step count once.
        check_resampled(
            &[(0, 1.0), (500, 2.0), (900, 2.0), (1000, 4.0)],
            &[1.0, 2.0, 3.0],
        );
        // Two missing reports are bridged with what was before them.
        check_resampled(&[(0, 1.0), (1500, 5.0)], &[1.0, 1.0, 1.0, 5.0]);
        // A minute of silence: what was before says nothing any more.
        check_resampled(&[(0, 1.0), (60_000, 5.0), (60_500, 6.0)], &[5.0, 6.0]);
        // Jitter does not lose or invent steps.
        check_resampled(
            &[(0, 1.0), (490, 2.0), (1010, 3.0), (1490, 4.0)],
            &[1.0, 2.0, 3.0, 4.0],
        );
    }

    #[test]
    fn nonsense_is_refused_and_the_ring_is_bounded() {
        let mut series = Series::new(500, 3);
        for bad in [f64::NAN, f64::INFINITY, -1.0, 1e9] {
            assert!(!series.push(0, bad), "{bad}");
        }
        for i in 0..5 {
            assert!(series.push(i * 500, i as f64));
        }
        assert!(!series.push(100, 1.0), "older than the last");
        assert!(series.push(2000, 9.0), "same moment again");
        assert_eq!(series.points(), [(1000, 2.0), (1500, 3.0), (2000, 9.0)]);
        assert_eq!(series.median_recent(3), Some(3.0));
        assert_eq!(series.recent(2).len(), 2);
    }
}
