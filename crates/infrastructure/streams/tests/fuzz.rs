//! Both ports against random inputs, for as long as a test may take, or as many as `STREAMS_FUZZ` says. `fuzz/` has the same for libFuzzer.

mod faulty;
mod inputs;

use rand::{Rng, SeedableRng, rngs::StdRng};
use std::time::{Duration, Instant};

/// At least so many inputs, and for so long.
const INPUTS: u32 = 1500;
const SPAN: Duration = Duration::from_secs(15);

fn throw(mut one: impl FnMut(&[u8])) {
    let seed: u64 = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("SEED={seed}");
    let wanted: u32 = std::env::var("STREAMS_FUZZ").ok().and_then(|s| s.parse().ok()).unwrap_or(INPUTS);
    let (mut rng, began, mut count) = (StdRng::seed_from_u64(seed), Instant::now(), 0);
    while count < wanted || began.elapsed() < SPAN {
        let length = rng.random_range(0..600);
        // Small numbers are choices that lead somewhere.
        let input: Vec<u8> = (0..length).map(|_| if rng.random_bool(0.3) { rng.random_range(0..8) } else { rng.random() }).collect();
        one(&input);
        count += 1;
    }
    println!("{count} inputs");
}

#[test]
fn the_segment_stores_port_survives_random_conversations() {
    let mut world = inputs::World::new();
    throw(|input| world.wire(input));
}

/// The same where there are users: whatever is said with tokens for one stream, spoilt ones among them, nothing else is made, changed or removed.
#[test]
fn tokens_for_one_stream_change_no_other_in_random_conversations() {
    let mut world = inputs::World::guarded();
    throw(|input| world.wire(input));
    assert!(world.appended, "no token let anybody in");
}

#[test]
fn the_controller_survives_random_calls() {
    let mut world = inputs::World::new();
    throw(|input| world.controller(input));
}
