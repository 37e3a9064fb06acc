//! Spans for tracing: how long the slow steps of an object's life took, and whose they were.
//!
//! `geds.seal`, `geds.open` (one that had to ask the catalog), `geds.fetch`, `geds.spill` and `geds.upload`, each with the fields `bucket`, `key`, `bytes` and `tier`; what is known at the end
//! only is recorded then. They are of the level `debug` and of the target `geds::spans`, so a filter turns them on by themselves. Where nobody wants them a step costs one look at a flag more; a warm
//! open and the writing of an object have none.

use crate::{BucketName, Key, metrics::Source};
use tracing::{Span, debug_span, field::Empty};

macro_rules! spans {
    ($($(#[$doc:meta])* $function:ident $name:literal;)*) => {
        $($(#[$doc])*
        pub(crate) fn $function(bucket: &BucketName, key: &Key) -> Span {
            debug_span!(target: "geds::spans", $name, %bucket, %key, bytes = Empty, tier = Empty)
        })*
    };
}

spans! {
    /// From the end of the writing to the acknowledgement.
    seal "geds.seal";
    open "geds.open";
    fetch "geds.fetch";
    /// Upload and free.
    spill "geds.spill";
    /// Upload and comparison.
    upload "geds.upload";
}

/// What is known of it by now.
pub(crate) fn note(span: &Span, bytes: u64, tier: Source) {
    span.record("bytes", bytes).record("tier", tier.name());
}
