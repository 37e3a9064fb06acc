//! The node's metrics, in Prometheus text form.

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

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
    waited "cloudskin_geds_waits_total" "Writes that had to wait for room.";
    refused "cloudskin_geds_no_space_total" "Writes refused because the limit was reached.";
}

pub(crate) fn line(out: &mut String, name: &str, sort: &str, help: &str, value: u64) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {sort}\n{name} {value}");
}

pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Relaxed);
}
