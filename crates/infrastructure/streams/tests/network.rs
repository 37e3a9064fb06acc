//! The whole store on bad days, over real sockets, threads and clocks; see `bad_days/mod.rs`.
//!
//! `SEED=…` repeats what is drawn from a seed, and not the run: which client makes a line's tenth connection, and what is under way when the power fails, is another thing each time. `ROUNDS` says how
//! many seeds, one after the other.

mod bad_days;
mod faulty;

const ROUNDS: u64 = 2;

#[test]
fn what_was_acknowledged_is_there_once_over_a_bad_network_and_a_bad_disk() {
    let seed: u64 = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("SEED={seed}");
    let rounds = std::env::var("ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().expect("ROUNDS is a number"));
    for round in 0..rounds {
        bad_days::run(seed.wrapping_add(round));
    }
}
