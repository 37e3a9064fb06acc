//! The segment store's port against what libFuzzer finds. What is thrown, and what must hold, is with the tests.
#![no_main]

#[path = "../../tests/faulty/mod.rs"]
mod faulty;
#[path = "../../tests/inputs/mod.rs"]
#[allow(dead_code)] // The other target's half.
mod inputs;

use std::sync::{LazyLock, Mutex};

static WORLD: LazyLock<Mutex<inputs::World>> = LazyLock::new(|| Mutex::new(inputs::World::new()));

libfuzzer_sys::fuzz_target!(|input: &[u8]| WORLD.lock().unwrap().wire(input));
