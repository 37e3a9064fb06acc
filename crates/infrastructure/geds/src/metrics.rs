//! The node's metrics, in Prometheus text form.
//!
//! A warm open counts and is not timed: reading the clock twice would cost a tenth of it.

use crate::BucketName;
use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// Buckets that have lines of their own; what is sealed in others counts in the totals only.
const BUCKETS_MAX: usize = 100;
/// Upper bounds of the histograms' buckets: 16 µs, and each four times the one before, up to 17 s.
const BOUNDS: usize = 11;

macro_rules! counters {
    ($($field:ident $name:literal $help:literal;)*) => {
        /// What a node has done since it was opened.
        #[derive(Default)]
        pub(crate) struct Counters {
            $(pub $field: AtomicU64,)*
        }
        impl Counters {
            pub fn text(&self, out: &mut String) {
                $(line(out, $name, "counter", $help, self.$field.load(Relaxed));)*
            }
        }
    };
}

counters! {
    sealed "cloudskin_geds_sealed_total" "Objects sealed by this node.";
    sealed_bytes "cloudskin_geds_sealed_bytes_total" "Bytes of the objects sealed by this node.";
    opened_local "cloudskin_geds_opened_local_total" "Opens answered from this node's disk.";
    fetched "cloudskin_geds_fetched_total" "Objects fetched from peers or the persistency tier.";
    fetched_bytes "cloudskin_geds_fetched_bytes_total" "Bytes fetched from peers or the persistency tier.";
    served_bytes "cloudskin_geds_served_bytes_total" "Bytes read by peers.";
    spilled "cloudskin_geds_spilled_total" "Objects moved to the persistency tier.";
    spilled_bytes "cloudskin_geds_spilled_bytes_total" "Bytes moved to the persistency tier.";
    uploaded "cloudskin_geds_uploaded_total" "Objects uploaded to the persistency tier, and read back.";
    uploaded_bytes "cloudskin_geds_uploaded_bytes_total" "Bytes of the objects uploaded to the persistency tier.";
    copied "cloudskin_geds_second_copies_total" "Second copies that other sites have made of objects of this node.";
    alone "cloudskin_geds_alone_total" "Seals that no other site had a copy of in time, although their bucket wants one.";
    waited "cloudskin_geds_waits_total" "Writes that had to wait for room.";
    refused "cloudskin_geds_no_space_total" "Writes refused because the limit was reached.";
}

/// How long something took.
#[derive(Default)]
pub(crate) struct Histogram {
    /// By bound, the last for what took longer.
    counts: [AtomicU64; BOUNDS + 1],
    sum_us: AtomicU64,
}

fn bound_us(n: usize) -> u64 {
    16 << (2 * n)
}

impl Histogram {
    pub fn add(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let n = (0..BOUNDS).find(|n| us <= bound_us(*n)).unwrap_or(BOUNDS);
        add(&self.counts[n], 1);
        add(&self.sum_us, us);
    }

    pub fn text(&self, out: &mut String, name: &str, help: &str) {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        let mut so_far = 0;
        for (n, count) in self.counts.iter().enumerate() {
            so_far += count.load(Relaxed);
            let bound = if n < BOUNDS { (bound_us(n) as f64 / 1e6).to_string() } else { "+Inf".into() };
            let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {so_far}");
        }
        let _ = writeln!(out, "{name}_sum {}\n{name}_count {so_far}", self.sum_us.load(Relaxed) as f64 / 1e6);
    }
}

/// How long the slow steps took.
#[derive(Default)]
pub(crate) struct Timings {
    /// From the end of the writing to the catalog's acknowledgement.
    pub seal: Histogram,
    pub fetch: Histogram,
    pub upload: Histogram,
    pub wait: Histogram,
}

impl Timings {
    pub fn text(&self, out: &mut String) {
        self.seal.text(out, "cloudskin_geds_publish_seconds", "From a sealed object's being durable here to the catalog's acknowledgement.");
        self.fetch.text(out, "cloudskin_geds_fetch_seconds", "Fetching an object from a peer or the persistency tier.");
        self.upload.text(out, "cloudskin_geds_upload_seconds", "Uploading an object to the persistency tier and reading it back.");
        self.wait.text(out, "cloudskin_geds_wait_seconds", "How long writers waited for room, with success or not.");
    }
}

/// What was sealed, by bucket: objects and bytes.
#[derive(Default)]
pub(crate) struct Buckets {
    sealed: Mutex<BTreeMap<BucketName, (u64, u64)>>,
}

impl Buckets {
    pub fn sealed(&self, bucket: &BucketName, bytes: u64) {
        let mut sealed = self.sealed.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(counts) = sealed.get_mut(bucket) {
            *counts = (counts.0 + 1, counts.1 + bytes);
        } else if sealed.len() < BUCKETS_MAX {
            sealed.insert(bucket.clone(), (1, bytes));
        }
    }

    pub fn text(&self, out: &mut String) {
        let sealed = self.sealed.lock().unwrap_or_else(|e| e.into_inner());
        let mut family = |name: &str, help: &str, value: fn(&(u64, u64)) -> u64| {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter");
            for (bucket, counts) in &*sealed {
                // A bucket's name has nothing in it that a label's value would have to escape.
                let _ = writeln!(out, "{name}{{bucket=\"{bucket}\"}} {}", value(counts));
            }
        };
        family("cloudskin_geds_bucket_sealed_total", "Objects sealed by this node, by bucket.", |counts| counts.0);
        family("cloudskin_geds_bucket_sealed_bytes_total", "Bytes of the objects sealed by this node, by bucket.", |counts| counts.1);
    }
}

pub(crate) fn line(out: &mut String, name: &str, sort: &str, help: &str, value: u64) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {sort}\n{name} {value}");
}

pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_cumulative_and_in_seconds() {
        let histogram = Histogram::default();
        for us in [1, 16, 17, 1_000_000, 60_000_000] {
            histogram.add(Duration::from_micros(us));
        }
        let mut text = String::new();
        histogram.text(&mut text, "x_seconds", "Help.");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..4], ["# HELP x_seconds Help.", "# TYPE x_seconds histogram", "x_seconds_bucket{le=\"0.000016\"} 2", "x_seconds_bucket{le=\"0.000064\"} 3"]);
        assert_eq!(lines[lines.len() - 4..], ["x_seconds_bucket{le=\"16.777216\"} 4", "x_seconds_bucket{le=\"+Inf\"} 5", "x_seconds_sum 61.000034", "x_seconds_count 5"]);
    }

    #[test]
    fn buckets_count_for_themselves_up_to_a_bound() {
        let buckets = Buckets::default();
        for n in 0..300 {
            buckets.sealed(&BucketName::new(format!("bucket-{n:03}")).unwrap(), 10);
        }
        buckets.sealed(&BucketName::new("bucket-000").unwrap(), 5);
        let mut text = String::new();
        buckets.text(&mut text);
        assert!(text.contains("cloudskin_geds_bucket_sealed_total{bucket=\"bucket-000\"} 2\n"), "{text}");
        assert!(text.contains("cloudskin_geds_bucket_sealed_bytes_total{bucket=\"bucket-000\"} 15\n"), "{text}");
        assert_eq!(text.lines().filter(|line| !line.starts_with('#')).count(), 200);
    }
}
