//! What a server has done and how long it took, in Prometheus text form.
//!
//! Counters and histograms are atomics that every part adds to; what is a state (bytes, files, segments) is looked up when someone asks.

use crate::{Store, overflow, scale::{Rate, Scaler}, tier::Tier};
use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Upper ends of the classes, µs: from a quick disk to a stuck one, each twice the one before.
const CLASSES_US: [u64; 16] = {
    let mut ends = [125; 16];
    let mut i = 1;
    while i < 16 {
        ends[i] = ends[i - 1] * 2;
        i += 1;
    }
    ends
};

/// Durations in classes.
#[derive(Debug, Default)]
pub struct Histogram {
    classes: [AtomicU64; CLASSES_US.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    pub fn note(&self, took: Duration) {
        let us = took.as_micros().min(u64::MAX.into()) as u64;
        self.classes[CLASSES_US.partition_point(|end| *end < us)].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(us, Relaxed);
    }

    fn text(&self, out: &mut String, name: &str, help: &str) {
        let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} histogram\n");
        let mut count = 0;
        for (class, end) in self.classes.iter().zip(CLASSES_US) {
            count += class.load(Relaxed);
            let _ = writeln!(out, "{name}_bucket{{le=\"{}\"}} {count}", end as f64 / 1e6);
        }
        count += self.classes[CLASSES_US.len()].load(Relaxed);
        let sum = self.sum_us.load(Relaxed) as f64 / 1e6;
        let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_sum {sum}\n{name}_count {count}");
    }

    /// The upper end of the class in which the given part of all durations ends; `None` while there are none.
    pub fn quantile(&self, part: f64) -> Option<Duration> {
        let counts: Vec<u64> = self.classes.iter().map(|c| c.load(Relaxed)).collect();
        let wanted = (counts.iter().sum::<u64>() as f64 * part).ceil() as u64;
        let mut seen = 0;
        let class = counts.iter().position(|c| {
            seen += c;
            seen >= wanted && wanted > 0
        })?;
        Some(Duration::from_micros(CLASSES_US.get(class).copied().unwrap_or(2 * CLASSES_US[CLASSES_US.len() - 1])))
    }
}

/// What parts of a server add to.
#[derive(Debug, Default)]
pub struct Metrics {
    /// From an append's arrival to its acknowledgement, which waits for the disk.
    pub write: Histogram,
    /// From an append's arrival to a waiting reader that gets its bytes.
    pub end_to_end: Histogram,
    /// From the beginning of a chunk's upload to its record.
    pub flush: Histogram,
    pub events: AtomicU64,
    pub bytes: AtomicU64,
    pub read_bytes: AtomicU64,
    pub held: AtomicU64,
    pub refused: AtomicU64,
    pub connections: AtomicU64,
}

/// Segments whose own counters are shown; a scraper pays for each.
const SEGMENTS_MAX: usize = 1000;

fn one(out: &mut String, name: &str, sort: &str, help: &str, value: f64) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {sort}\n{name} {value}");
}

/// All of it; `named`: also what is told by the names of segments.
pub fn text(store: &Store, tier: Option<&Tier>, scaler: &Scaler, named: bool) -> String {
    let metrics = store.metrics();
    let (mut out, load) = (String::new(), |n: &AtomicU64| n.load(Relaxed) as f64);
    metrics.write.text(&mut out, "cloudskin_streams_write_seconds", "From an append's arrival to its acknowledgement, durable.");
    metrics.end_to_end.text(&mut out, "cloudskin_streams_end_to_end_seconds", "From an append's arrival to a waiting reader that gets its bytes.");
    metrics.flush.text(&mut out, "cloudskin_streams_flush_seconds", "Time that a chunk took into long-term storage.");
    let counters = [
        ("appended_events_total", "Events appended.", load(&metrics.events)),
        ("appended_bytes_total", "Bytes appended.", load(&metrics.bytes)),
        ("read_bytes_total", "Bytes read by clients.", load(&metrics.read_bytes)),
        ("held_total", "Appends that had to wait for room.", load(&metrics.held)),
        ("refused_total", "Requests refused for lack of a right.", load(&metrics.refused)),
        ("flushed_bytes_total", "Bytes moved to long-term storage.", tier.map_or(0.0, |t| t.moved().0 as f64)),
        ("fetched_bytes_total", "Bytes fetched from long-term storage.", tier.map_or(0.0, |t| t.moved().1 as f64)),
    ];
    for (name, help, value) in counters {
        one(&mut out, &format!("cloudskin_streams_{name}"), "counter", help, value);
    }
    let (streams, segments, tables) = store.peek(|s| (s.catalog.streams().count(), s.segments.len(), s.table_bytes));
    let outage = store.outage();
    let gauges = [
        ("streams", "Streams.", streams as f64),
        ("segments", "Segments.", segments as f64),
        ("table_bytes", "Keys and values of all tables.", tables as f64),
        ("connections", "Connections to the segment store.", load(&metrics.connections)),
        ("queued_bytes", "Bytes on their way to the disk.", store.log().queued_bytes() as f64),
        ("log_files", "Files of the log that are in use.", store.log().files_used() as f64),
        ("log_write_seconds", "Mean time of a write to the disk, lately.", store.log().write_us() as f64 / 1e6),
        ("stopped", "1 if a write failed and nothing can be written until the next start.", f64::from(store.log().progress().borrow().stopped.is_some())),
        ("backlog_bytes", "Bytes that long-term storage does not have, in the log and in the overflow.", outage.backlog_bytes as f64),
        ("backlog_max_bytes", "Bytes at which writers wait for long-term storage.", outage.backlog_max as f64),
        ("appended_bytes_per_second", "Bytes appended, mean of the last 10 s.", outage.rate),
        ("long_term_away", "1 if long-term storage did not answer the last time.", f64::from(tier.is_some_and(|t| t.why_away().is_some()))),
    ];
    let gauges = gauges.into_iter().chain(tier.into_iter().flat_map(|t| {
        let damaged: u64 = store.peek(|s| t.damaged(s)).iter().map(|d| d.bytes).sum();
        let there: u64 = store.peek(|s| s.chunks.values().filter(|c| !overflow::has(&c.location)).map(|c| u64::from(c.bytes)).sum());
        [
            ("damaged_bytes", "Bytes that can't be read: those that only the log or the overflow has, which are kept from long-term storage until they can be, and those that readers have not found there as they were put.", damaged as f64),
            ("long_term_bytes", "Bytes of chunks in long-term storage, those that will be removed included.", there as f64),
            ("cache_bytes", "Bytes read from long-term storage that are kept in memory.", t.cached_bytes() as f64),
        ]
    }));
    for (name, help, value) in gauges {
        one(&mut out, &format!("cloudskin_streams_{name}"), "gauge", help, value);
    }
    if let Some((bytes, limit)) = tier.and_then(Tier::overflow) {
        one(&mut out, "cloudskin_streams_overflow_bytes", "gauge", "Of the backlog, bytes in the overflow.", bytes as f64);
        one(&mut out, "cloudskin_streams_overflow_max_bytes", "gauge", "Bytes that the overflow takes.", limit as f64);
    }
    if let Some(age) = tier.and_then(Tier::manifest_age) {
        one(&mut out, "cloudskin_streams_manifest_age_seconds", "gauge", "Since what can be begun with from long-term storage alone.", age.as_secs_f64());
    }
    // Without writers there is no end of it.
    let left = outage.left.map_or(f64::INFINITY, |l| l.as_secs_f64());
    let shown = if left.is_finite() { left.to_string() } else { "+Inf".into() };
    let name = "cloudskin_streams_outage_left_seconds";
    let _ = writeln!(out, "# HELP {name} Time until writers wait, at the present rate, if nothing leaves for long-term storage.\n# TYPE {name} gauge\n{name} {shown}");
    if !named {
        return out;
    }
    let rates = scaler.rates();
    for (what, of) in [("events", (|rate| rate.events) as fn(&Rate) -> f64), ("bytes", |rate| rate.bytes)] {
        let name = format!("cloudskin_streams_segment_{what}_per_second");
        let _ = writeln!(out, "# HELP {name} Rate of a segment that is written to, over the shortest window of the scaling profile.\n# TYPE {name} gauge");
        for (segment, rate) in rates.iter().take(SEGMENTS_MAX) {
            let _ = writeln!(out, "{name}{{segment=\"{segment}\"}} {}", of(rate));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_counted_in_their_class_and_below() {
        let histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        for us in [1, 125, 126, 1_000_000, 3_600_000_000] {
            histogram.note(Duration::from_micros(us));
        }
        let mut out = String::new();
        histogram.text(&mut out, "x_seconds", "Help.");
        for line in ["x_seconds_bucket{le=\"0.000125\"} 2", "x_seconds_bucket{le=\"0.00025\"} 3", "x_seconds_bucket{le=\"1.024\"} 4", "x_seconds_bucket{le=\"4.096\"} 4", "x_seconds_bucket{le=\"+Inf\"} 5", "x_seconds_count 5"] {
            assert!(out.contains(line), "{line} is not in\n{out}");
        }
        assert_eq!(histogram.quantile(0.6), Some(Duration::from_micros(250)));
    }
}
