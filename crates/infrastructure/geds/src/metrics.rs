//! The node's metrics, in Prometheus text form.
//!
//! What is done with an object is counted once: for its bucket, and for the tier that it was done in. The node's totals are sums of these. Some buckets have figures of
//! their own and the rest share those of [`OTHER`], so the text is bounded however many buckets there are; what never happened has no line.
//!
//! A warm open counts and is not timed: reading the clock twice would cost a tenth of it. It finds its counter beside the name (`leases.rs`).

use crate::BucketName;
use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{
        Arc, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// Buckets that have figures of their own.
const BUCKETS_MAX: usize = 100;
/// The label of the others. A bucket of this name is among them, for a series may be there once only.
const OTHER: &str = "other";
/// Upper bounds of the histograms' buckets: 16 µs, and each four times the one before, up to 17 s.
const BOUNDS: usize = 11;
const PEER: Source = Source::Peer;
const PERSISTENCY: Source = Source::Persistency;

/// Where an object lies, or where its bytes came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Disk,
    Memory,
    Peer,
    Persistency,
}

const HERE: [Source; 2] = [Source::Disk, Source::Memory];
const ALL: [Source; 4] = [Source::Disk, Source::Memory, PEER, PERSISTENCY];

impl Source {
    pub fn here(memory: bool) -> Source {
        if memory { Source::Memory } else { Source::Disk }
    }

    /// As the label `tier` and the field of a span have it.
    pub fn name(self) -> &'static str {
        match self {
            Source::Disk => "disk",
            Source::Memory => "memory",
            Source::Peer => "peer",
            Source::Persistency => "persistency",
        }
    }
}

/// What is counted for one bucket in one tier.
#[derive(Default)]
pub(crate) struct Counts {
    /// What is here now.
    pub objects: AtomicU64,
    pub bytes: AtomicU64,
    pub sealed: AtomicU64,
    pub sealed_bytes: AtomicU64,
    /// Opens that were answered from there.
    pub opened: AtomicU64,
    pub fetched_bytes: AtomicU64,
    pub uploaded: AtomicU64,
    pub uploaded_bytes: AtomicU64,
    pub spilled: AtomicU64,
    pub spilled_bytes: AtomicU64,
    pub waited: AtomicU64,
    pub refused: AtomicU64,
    /// From the end of the writing to the catalog's acknowledgement.
    pub seal: Histogram,
    pub fetch: Histogram,
    pub upload: Histogram,
    pub wait: Histogram,
}

/// What is counted for one bucket, by tier.
#[derive(Default)]
pub(crate) struct BucketCounts([Counts; ALL.len()]);

impl BucketCounts {
    pub fn of(&self, source: Source) -> &Counts {
        &self.0[source as usize]
    }
    pub fn here(&self, memory: bool) -> &Counts {
        self.of(Source::here(memory))
    }
}

type Counter = fn(&Counts) -> &AtomicU64;
type Timing = fn(&Counts) -> &Histogram;

/// Sums over all buckets and these tiers.
const TOTALS: [(&str, &str, Counter, &[Source]); 11] = [
    ("cloudskin_geds_sealed_total", "Objects sealed by this node.", |c| &c.sealed, &ALL),
    ("cloudskin_geds_sealed_bytes_total", "Bytes of the objects sealed by this node.", |c| &c.sealed_bytes, &ALL),
    ("cloudskin_geds_opened_local_total", "Opens answered from this node's disk or memory.", |c| &c.opened, &HERE),
    ("cloudskin_geds_fetched_total", "Objects fetched from peers or the persistency tier.", |c| &c.opened, &[PEER, PERSISTENCY]),
    ("cloudskin_geds_fetched_bytes_total", "Bytes fetched from peers or the persistency tier.", |c| &c.fetched_bytes, &ALL),
    ("cloudskin_geds_spilled_total", "Objects moved to the persistency tier.", |c| &c.spilled, &ALL),
    ("cloudskin_geds_spilled_bytes_total", "Bytes moved to the persistency tier.", |c| &c.spilled_bytes, &ALL),
    ("cloudskin_geds_uploaded_total", "Objects uploaded to the persistency tier, and found to be whole there.", |c| &c.uploaded, &ALL),
    ("cloudskin_geds_uploaded_bytes_total", "Bytes of the objects uploaded to the persistency tier.", |c| &c.uploaded_bytes, &ALL),
    ("cloudskin_geds_waits_total", "Writes that had to wait for room.", |c| &c.waited, &ALL),
    ("cloudskin_geds_no_space_total", "Writes refused because the limit was reached.", |c| &c.refused, &ALL),
];

/// The same by bucket and tier.
const FAMILIES: [(&str, &str, &str, Counter); 12] = [
    ("cloudskin_geds_bucket_objects", "gauge", "Objects on this node, by bucket and tier.", |c| &c.objects),
    ("cloudskin_geds_bucket_bytes", "gauge", "Bytes of the objects on this node, by bucket and tier.", |c| &c.bytes),
    ("cloudskin_geds_bucket_sealed_total", "counter", "Objects sealed by this node, by bucket and tier.", |c| &c.sealed),
    ("cloudskin_geds_bucket_sealed_bytes_total", "counter", "Bytes of the objects sealed by this node, by bucket and tier.", |c| &c.sealed_bytes),
    ("cloudskin_geds_bucket_opened_total", "counter", "Opens, by bucket and the tier that answered.", |c| &c.opened),
    ("cloudskin_geds_bucket_fetched_bytes_total", "counter", "Bytes fetched, by bucket and the tier that sent them.", |c| &c.fetched_bytes),
    ("cloudskin_geds_bucket_uploaded_total", "counter", "Objects uploaded and found to be whole there, by bucket and tier that they lie in.", |c| &c.uploaded),
    ("cloudskin_geds_bucket_uploaded_bytes_total", "counter", "Bytes of the objects uploaded, by bucket and tier that they lie in.", |c| &c.uploaded_bytes),
    ("cloudskin_geds_bucket_spilled_total", "counter", "Objects moved to the persistency tier, by bucket and tier that they have left.", |c| &c.spilled),
    ("cloudskin_geds_bucket_spilled_bytes_total", "counter", "Bytes moved to the persistency tier, by bucket and tier that they have left.", |c| &c.spilled_bytes),
    ("cloudskin_geds_bucket_waits_total", "counter", "Writes that had to wait for room, by bucket and tier.", |c| &c.waited),
    ("cloudskin_geds_bucket_no_space_total", "counter", "Writes refused because the limit was reached, by bucket and tier.", |c| &c.refused),
];

/// Of the node, and of a bucket and tier.
const TIMINGS: [(&str, &str, &str, Timing); 4] = [
    (
        "cloudskin_geds_publish_seconds",
        "cloudskin_geds_bucket_publish_seconds",
        "From a sealed object's being durable here to the catalog's acknowledgement.",
        |c| &c.seal,
    ),
    ("cloudskin_geds_fetch_seconds", "cloudskin_geds_bucket_fetch_seconds", "Fetching an object from a peer or the persistency tier.", |c| &c.fetch),
    (
        "cloudskin_geds_upload_seconds",
        "cloudskin_geds_bucket_upload_seconds",
        "Uploading an object to the persistency tier and reading it back.",
        |c| &c.upload,
    ),
    ("cloudskin_geds_wait_seconds", "cloudskin_geds_bucket_wait_seconds", "How long writers waited for room, with success or not.", |c| &c.wait),
];

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

fn head(out: &mut String, name: &str, sort: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {sort}");
}

impl Histogram {
    pub fn add(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let n = (0..BOUNDS).find(|n| us <= bound_us(*n)).unwrap_or(BOUNDS);
        add(&self.counts[n], 1);
        add(&self.sum_us, us);
    }

    /// Takes in what another has.
    fn merge(&self, other: &Histogram) {
        for (mine, theirs) in self.counts.iter().zip(&other.counts) {
            add(mine, theirs.load(Relaxed));
        }
        add(&self.sum_us, other.sum_us.load(Relaxed));
    }

    fn is_empty(&self) -> bool {
        self.counts.iter().all(|count| count.load(Relaxed) == 0)
    }

    /// `labels`: with a comma at their end, or none.
    fn lines(&self, out: &mut String, name: &str, labels: &str) {
        let mut so_far = 0;
        for (n, count) in self.counts.iter().enumerate() {
            so_far += count.load(Relaxed);
            let bound = if n < BOUNDS { (bound_us(n) as f64 / 1e6).to_string() } else { "+Inf".into() };
            let _ = writeln!(out, "{name}_bucket{{{labels}le=\"{bound}\"}} {so_far}");
        }
        let of = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.trim_end_matches(',')) };
        let _ = writeln!(out, "{name}_sum{of} {}\n{name}_count{of} {so_far}", self.sum_us.load(Relaxed) as f64 / 1e6);
    }
}

/// The figures of all buckets.
#[derive(Default)]
pub(crate) struct Buckets {
    named: RwLock<BTreeMap<BucketName, Arc<BucketCounts>>>,
    other: Arc<BucketCounts>,
}

impl Buckets {
    /// Those of one bucket. To be kept where they are wanted often.
    pub fn of(&self, bucket: &BucketName) -> Arc<BucketCounts> {
        if let Some(counts) = self.named.read().unwrap_or_else(|e| e.into_inner()).get(bucket) {
            return counts.clone();
        }
        let mut named = self.named.write().unwrap_or_else(|e| e.into_inner());
        if bucket.as_str() == OTHER || (named.len() >= BUCKETS_MAX && !named.contains_key(bucket)) {
            return self.other.clone();
        }
        named.entry(bucket.clone()).or_default().clone()
    }

    pub fn text(&self, out: &mut String) {
        let mut all: Vec<(String, Arc<BucketCounts>)> = Vec::new();
        {
            let named = self.named.read().unwrap_or_else(|e| e.into_inner());
            all.extend(named.iter().map(|(bucket, counts)| (bucket.to_string(), counts.clone())));
        }
        all.push((OTHER.into(), self.other.clone()));
        for (name, help, counter, tiers) in TOTALS {
            let sum = all.iter().flat_map(|(_, counts)| tiers.iter().map(|tier| counter(counts.of(*tier)).load(Relaxed))).sum();
            line(out, name, "counter", help, sum);
        }
        for (name, _, help, timing) in TIMINGS {
            let sum = Histogram::default();
            all.iter().flat_map(|(_, counts)| &counts.0).for_each(|counts| sum.merge(timing(counts)));
            head(out, name, "histogram", help);
            sum.lines(out, name, "");
        }
        // A bucket's name has nothing in it that a label's value would have to escape.
        let each = || all.iter().flat_map(|(bucket, counts)| ALL.map(|tier| (format!("bucket=\"{bucket}\",tier=\"{}\"", tier.name()), counts.of(tier))));
        for (name, sort, help, counter) in FAMILIES {
            head(out, name, sort, help);
            for (labels, counts) in each() {
                let value = counter(counts).load(Relaxed);
                if value > 0 {
                    let _ = writeln!(out, "{name}{{{labels}}} {value}");
                }
            }
        }
        for (_, name, help, timing) in TIMINGS {
            head(out, name, "histogram", help);
            for (labels, counts) in each().filter(|(_, counts)| !timing(counts).is_empty()) {
                timing(counts).lines(out, name, &format!("{labels},"));
            }
        }
    }
}

/// What is counted of the node and not by bucket.
#[derive(Default)]
pub(crate) struct Counters {
    pub served_bytes: AtomicU64,
    pub copied: AtomicU64,
    pub alone: AtomicU64,
}

impl Counters {
    pub fn text(&self, out: &mut String) {
        line(out, "cloudskin_geds_served_bytes_total", "counter", "Bytes read by peers.", self.served_bytes.load(Relaxed));
        line(
            out,
            "cloudskin_geds_second_copies_total",
            "counter",
            "Second copies that other sites have made of objects of this node.",
            self.copied.load(Relaxed),
        );
        line(
            out,
            "cloudskin_geds_alone_total",
            "counter",
            "Seals that no other site had a copy of in time, although their bucket wants one.",
            self.alone.load(Relaxed),
        );
    }
}

pub(crate) fn line(out: &mut String, name: &str, sort: &str, help: &str, value: u64) {
    head(out, name, sort, help);
    let _ = writeln!(out, "{name} {value}");
}

pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Relaxed);
}

pub(crate) fn take(counter: &AtomicU64, n: u64) {
    counter.fetch_sub(n, Relaxed);
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
        histogram.lines(&mut text, "x_seconds", "");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["x_seconds_bucket{le=\"0.000016\"} 2", "x_seconds_bucket{le=\"0.000064\"} 3"]);
        assert_eq!(lines[lines.len() - 4..], ["x_seconds_bucket{le=\"16.777216\"} 4", "x_seconds_bucket{le=\"+Inf\"} 5", "x_seconds_sum 61.000034", "x_seconds_count 5"]);
        let (sum, mut text) = (Histogram::default(), String::new());
        [&histogram, &histogram].into_iter().for_each(|one| sum.merge(one));
        sum.lines(&mut text, "x_seconds", "bucket=\"a\",");
        assert!(text.starts_with("x_seconds_bucket{bucket=\"a\",le=\"0.000016\"} 4\n"), "{text}");
        assert!(text.ends_with("x_seconds_sum{bucket=\"a\"} 122.000068\nx_seconds_count{bucket=\"a\"} 10\n"), "{text}");
    }

    #[test]
    fn buckets_count_for_themselves_up_to_a_bound_and_the_rest_together() {
        let buckets = Buckets::default();
        let name = |n: usize| BucketName::new(format!("bucket-{n:03}")).unwrap();
        for n in 0..300 {
            add(&buckets.of(&name(n)).here(false).sealed_bytes, 10);
            buckets.of(&name(n)).of(Source::Peer).fetch.add(Duration::from_micros(10));
        }
        add(&buckets.of(&name(0)).here(true).sealed_bytes, 5);
        // One that is called as the rest is does not make a series twice.
        add(&buckets.of(&BucketName::new(OTHER).unwrap()).here(false).sealed_bytes, 1);
        let mut text = String::new();
        buckets.text(&mut text);
        for line in [
            "cloudskin_geds_bucket_sealed_bytes_total{bucket=\"bucket-000\",tier=\"disk\"} 10",
            "cloudskin_geds_bucket_sealed_bytes_total{bucket=\"bucket-000\",tier=\"memory\"} 5",
            "cloudskin_geds_bucket_sealed_bytes_total{bucket=\"other\",tier=\"disk\"} 2001",
            "cloudskin_geds_sealed_bytes_total 3006",
            "cloudskin_geds_bucket_fetch_seconds_count{bucket=\"other\",tier=\"peer\"} 200",
            "cloudskin_geds_fetch_seconds_count 300",
        ] {
            assert!(text.lines().any(|there| there == line), "{line}\n{text}");
        }
        let series: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).map(|line| line.rsplit_once(' ').unwrap().0).collect();
        let different: std::collections::BTreeSet<&str> = series.iter().copied().collect();
        assert_eq!(series.len(), different.len());
        assert_eq!(series.iter().filter(|name| name.starts_with("cloudskin_geds_bucket_sealed_bytes_total")).count(), 102);
    }
}
