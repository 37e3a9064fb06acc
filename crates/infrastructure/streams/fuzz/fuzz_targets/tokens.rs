//! The segment store's port with users, and tokens for one stream, against what libFuzzer finds. What is thrown, and what must hold, is with the tests.
#![no_main]

#[path = "../../tests/faulty/mod.rs"]
mod faulty;
#[path = "../../tests/inputs/mod.rs"]
#[allow(dead_code)] // The other targets' parts.
mod inputs;

use std::sync::{LazyLock, Mutex};

static WORLD: LazyLock<Mutex<inputs::World>> = LazyLock::new(|| Mutex::new(inputs::World::guarded()));

libfuzzer_sys::fuzz_target!(|input: &[u8]| WORLD.lock().unwrap().wire(input));
