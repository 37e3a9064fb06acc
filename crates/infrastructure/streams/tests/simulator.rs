//! The whole store on bad days, in the simulator: what `network.rs` has over real sockets, threads and clocks, a seed repeats here to the step, and a run takes a second.
//!
//! `SEED` and `SEEDS` say which runs, `SIMULATED=7` does one of them in this process.

mod bad_days;
mod faulty;

/// As many as a minute has on two processors.
const SEEDS: u64 = 48;

#[test]
fn what_was_acknowledged_is_there_once_and_a_seed_repeats_its_bad_days() {
    simulated::each("what_was_acknowledged_is_there_once_and_a_seed_repeats_its_bad_days", SEEDS, bad_days::run);
}
