//! What is made of bytes that anybody may submit, keep or send: one function for each way in, for `fuzz/` and for the test `fuzz`.
//!
//! Each takes any bytes and must neither panic nor allocate more than a bound. (That an instrumented program does what the plain one does is another
//! test's business: `toolchain/instrument/tests.rs` writes programs from seeds.)

use crate::snapshot::{Archive, Chain, Snapshot, sealed};
use crate::toolchain::{inspect, instrument};
use crate::{link, native, transfer};

/// A module, as it is submitted: inspected, and what is valid then instrumented and translated.
pub fn module(data: &[u8]) {
    if inspect::inspect(data).is_err() {
        return;
    }
    if let Ok(made) = instrument::instrument(data, "fuzz") {
        let report = inspect::inspect(&made).expect("what the pass makes can be read");
        assert!(report.movable(), "what the pass makes can be moved");
    }
    if let Some(residual) = native::translated(data) {
        wasmparser::Validator::new_with_features(wasmparser::WasmFeatures::all()).validate_all(&residual).expect("a residual module is valid");
    }
}

/// A snapshot or a checkpoint, also one whose checksum is right because somebody has made it.
pub fn snapshot(data: &[u8]) {
    for bytes in [data.to_vec()].into_iter().chain(sealed(data)) {
        if let Ok(snapshot) = Snapshot::read(&bytes) {
            let _ = snapshot.frozen.check(); // refused or not: it is what `restore` asks first
        }
        if let Ok(mut chain) = Chain::begin(&bytes) {
            let _ = chain.add(&bytes);
            if let Ok(joined) = chain.join() {
                assert!(joined.len() <= 2 * bytes.len(), "{} bytes out of {}", joined.len(), bytes.len());
            }
        }
        if let Ok((manifest, parts)) = Archive::read(&bytes) {
            let size = manifest.len() + parts.iter().map(|(name, part)| name.len() + part.len()).sum::<usize>();
            assert!(size <= bytes.len(), "{size} bytes out of {}", bytes.len());
        }
    }
}

/// What another agent sends: frames, one behind the other, and in each whatever it may be.
pub fn frames(data: &[u8]) {
    let mut rest = data;
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without drivers");
    while let Ok((_, body)) = runtime.block_on(link::read_frame(&mut rest)) {
        assert!(body.len() < data.len());
        let _ = link::read_message(&body);
        let _ = link::read_acknowledgement(&body);
        let _ = transfer::read_offer(&body);
    }
}

/// The ways in, by the names that they have in `fuzz/`.
pub const ALL: [(&str, fn(&[u8])); 3] = [("module", module), ("snapshot", snapshot), ("frames", frames)];
