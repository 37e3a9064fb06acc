//! The bodies of the fuzz targets in `fuzz/`, over random changes of good messages: each way in takes any bytes without a panic, and allocates in proportion to them.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

struct Counting;

thread_local! {
    /// Bytes that this thread has allocated and not given back, and the most of it. Constants, so that looking allocates nothing.
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static MOST: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: all is done by the system's allocator; only sums are kept besides.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.get().saturating_add(layout.size());
        LIVE.set(live);
        MOST.set(MOST.get().max(live));
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get().saturating_sub(layout.size()));
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// One of the changes that break readers: bits, lengths, cuts, copies of parts.
fn mutate(random: &mut StdRng, data: &mut Vec<u8>, other: &[u8]) {
    let at = random.random_range(0..=data.len());
    match random.random_range(0..7) {
        0 if at < data.len() => data[at] ^= 1 << random.random_range(0..8),
        1 if at < data.len() => data[at] = *[0, 1, 0x7f, 0x80, 0xff].choose(random).unwrap(),
        2 => data.truncate(at),
        3 => data.insert(at, random.random()),
        // A huge length, as little endian or as a number of variable length.
        4 => {
            let huge: &[u8] = [&[0xff; 4][..], &[0xff; 9], &[0xff, 0xff, 0xff, 0xff, 0x0f]].choose(random).unwrap();
            let end = data.len().min(at + huge.len());
            data.splice(at..end, huge.iter().copied());
        }
        5 => {
            let from = random.random_range(0..=other.len());
            data.splice(at..at, other[from..].iter().copied().take(64));
        }
        _ => data.extend(std::iter::repeat_n(b'/', random.random_range(0..5))),
    }
}

/// `GEDS_FUZZ` says how many, `GEDS_SEED` which.
#[test]
fn no_bytes_lead_to_a_panic() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (rounds, seed) = (number("GEDS_FUZZ").unwrap_or(60_000), number("GEDS_SEED").unwrap_or_else(rand::random));
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let seeds = geds::fuzz::seeds();
    for _ in 0..rounds {
        let mut data = seeds.choose(&mut random).unwrap().clone();
        let other = seeds.choose(&mut random).unwrap();
        for _ in 0..random.random_range(0..6) {
            mutate(&mut random, &mut data, other);
        }
        for (name, target) in geds::fuzz::ALL {
            let before = LIVE.get();
            MOST.set(before);
            let caught = std::panic::catch_unwind(|| target(&data));
            assert!(caught.is_ok(), "target {name}, seed {seed}, {data:?}");
            let most = MOST.get() - before;
            assert!(most <= geds::fuzz::BYTES_MAX + 64 * data.len(), "target {name}, seed {seed}: {most} bytes are allocated for {data:?}");
        }
    }
}

#[test]
fn each_target_has_its_file() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    for (name, _) in geds::fuzz::ALL {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        let target = std::fs::read_to_string(folder.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(target.contains(&format!("geds::fuzz::{name}(data)")), "{name}");
    }
}
