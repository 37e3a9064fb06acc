//! The bodies of the fuzz targets in `fuzz/`, over random changes of good modules, snapshots and frames: each way in takes any bytes without a panic.

use cells::toolchain::driver::{self, Lang};
use cells::wasi::{Discard, Mounts};
use cells::{Cell, Control, Ended, Engine, Spec, engine, snapshot};
use mpi::{Fabric, Message, Rank, Wire};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use std::path::Path;
use std::sync::Arc;

/// One of the changes that break readers: bits, lengths, cuts, copies of parts.
fn mutate(random: &mut StdRng, data: &mut Vec<u8>, other: &[u8]) {
    let at = random.random_range(0..=data.len());
    match random.random_range(0..6) {
        0 if at < data.len() => data[at] ^= 1 << random.random_range(0..8),
        1 if at < data.len() => data[at] = *[0, 1, 0x7f, 0x80, 0xff].choose(random).unwrap(),
        2 if random.random_bool(0.2) => data.truncate(at),
        3 => data.insert(at, random.random()),
        4 => {
            let huge: &[u8] = [&[0xff; 4][..], &[0xff; 9], &[0xff, 0xff, 0xff, 0xff, 0x0f]].choose(random).unwrap();
            let end = data.len().min(at + huge.len());
            data.splice(at..end, huge.iter().copied());
        }
        _ => {
            let from = random.random_range(0..=other.len());
            data.splice(at..at, other[from..].iter().copied().take(64));
        }
    }
}

/// A frame as it is sent.
fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32 + 1).to_le_bytes()[..], &[kind], body].concat()
}

/// Kind and head of a frame of packed pages: rank, and how large the memory is to be.
const PACKED: u8 = 24;
const HEAD: usize = 12;

/// A move with changes: frames that are missing, come twice, in another order or as others, and bodies that are not what they were, in packed pages also before they are packed. What is
/// not changed stays whole, so that the rest gets as far as the cells.
fn changed_move(random: &mut StdRng, good: &[(u8, Vec<u8>)], other: &[u8]) -> Vec<u8> {
    let mut frames = good.to_vec();
    for _ in 0..random.random_range(0..4) {
        let (at, to) = (random.random_range(0..frames.len()), random.random_range(0..frames.len()));
        match random.random_range(0..8) {
            0 => frames.insert(to, frames[at].clone()),
            1 if frames.len() > 1 => drop(frames.remove(at)),
            2 => frames.swap(at, to),
            3 => frames[at].0 = random.random_range(16..=PACKED),
            _ => {
                let (kind, body) = &mut frames[at];
                let unpacked = (*kind == PACKED && random.random_bool(0.5)).then(|| unpacked(body)).flatten();
                let packs = unpacked.is_some();
                let mut changes = unpacked.unwrap_or_else(|| body.clone());
                // Numbers are in front.
                let behind = changes.split_off(if random.random_bool(0.5) { changes.len().min(40) } else { changes.len() });
                mutate(random, &mut changes, other);
                changes.extend(behind);
                *body = match packs && changes.len() >= HEAD {
                    true => [&changes[..HEAD], &lz4_flex::block::compress_prepend_size(&changes[HEAD..])].concat(),
                    false => changes,
                };
            }
        }
    }
    frames.iter().flat_map(|(kind, body)| frame(*kind, body)).collect()
}

/// A frame of packed pages as one that is not.
fn unpacked(body: &[u8]) -> Option<Vec<u8>> {
    let (head, packed) = body.split_at_checked(HEAD)?;
    let length = u32::from_le_bytes(*packed.first_chunk()?) as usize;
    let runs = (length < 1 << 20).then(|| lz4_flex::block::decompress(&packed[4..], length).ok()).flatten()?;
    Some([head, &runs].concat())
}

/// A program of ours, one by hand, and one that has been stopped.
fn seeds() -> Vec<Vec<u8>> {
    struct Nowhere;
    impl Wire for Nowhere {
        fn send(&self, _: Message) {}
        fn acknowledge(&self, _: Rank, _: Rank, _: u64) {}
    }
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzzed.wasm");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/pure.c");
    let words = ["-Os".into(), "-o".into(), out.clone().into_os_string(), source.into_os_string()];
    assert_eq!(driver::main(Lang::C, words.to_vec()).unwrap(), 0);
    let program = std::fs::read(out).unwrap();
    let engine = Engine::new(&engine::Options { cells_max: 2, ..Default::default() }).unwrap();
    let loaded = engine.load(&program).unwrap();
    let fabric = Arc::new(Fabric::new(1, Box::new(Nowhere)));
    fabric.arrive(Rank(0), Vec::new());
    let spec = Spec {
        rank: Rank(0),
        size: 1,
        args: vec!["pure".into(), "after".into()],
        env: vec!["A=b".into()],
        memory_max: 1 << 30,
        budget: Arc::default(),
        mounts: Mounts::default(),
        output: Arc::new(Discard),
        fabric: fabric.clone(),
        place: "here".into(),
        spin: 0,
    };
    let control: Arc<Control> = Arc::default();
    control.stop();
    let stopped = std::thread::scope(|scope| {
        let body = || {
            let mut cell = Cell::new(&engine, &loaded, &spec, control.clone()).unwrap();
            assert_eq!(cell.run(), Ended::Stopped);
            fabric.hold(Rank(0));
            snapshot::write(&engine, &mut cell).unwrap()
        };
        std::thread::Builder::new().stack_size(engine::THREAD_STACK).spawn_scoped(scope, body).unwrap().join().unwrap()
    });
    // The head of a snapshot lies behind 36 bytes of envelope; the first kilobytes are what is read.
    let body = stopped[36..stopped.len().min(6000)].to_vec();
    let text = r#"(module (import "a" "b" (func (param i32) (result i64))) (memory (export "memory") 1) (table 3 funcref) (elem (i32.const 0) $f $f)
        (global $g (mut i32) (i32.const 4)) (data (i32.const 8) "abc")
        (func $f (param i32) (result i32) (block $b (result i32) (loop $l (br_if $l (i32.eqz (global.get $g)))) (br_table $b $b (local.get 0) (i32.const 1))))
        (func (export "_start") (drop (call_indirect (param i32) (result i32) (i32.const 3) (i32.const 1))) (drop (call 0 (i32.const 5)))))"#;
    let job = b"\x05job-1\x02\x01\x00\x03\x07\x02\x00\x00\x00\x01abc";
    vec![program, wat::parse_str(text).unwrap(), stopped, body, [frame(1, job), frame(2, job), frame(3, job)].concat(), Vec::new()]
}

/// `CELLS_FUZZ` says how many, `CELLS_SEED` which. What the changes begin with is written into the folder `CELLS_CORPUS`, for libFuzzer.
#[test]
fn no_bytes_lead_to_a_panic() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (rounds, seed) = (number("CELLS_FUZZ").unwrap_or(3_000), number("CELLS_SEED").unwrap_or_else(rand::random));
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (mut seeds, moved) = (seeds(), cells::fuzz::moved());
    seeds.push(moved.iter().flat_map(|(kind, body)| frame(*kind, body)).collect());
    if let Ok(folder) = std::env::var("CELLS_CORPUS") {
        for (n, seed) in seeds.iter().enumerate() {
            std::fs::write(Path::new(&folder).join(n.to_string()), seed).unwrap();
        }
    }
    let tried = |name: &str, target: fn(&[u8]), data: &[u8]| {
        if std::panic::catch_unwind(|| target(data)).is_err() {
            let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("panicked");
            std::fs::write(&file, data).unwrap();
            panic!("target {name}, seed {seed}: the bytes are in {}", file.display());
        }
    };
    for _ in 0..rounds {
        let mut data = seeds.choose(&mut random).unwrap().clone();
        let other = seeds.choose(&mut random).unwrap();
        for _ in 0..random.random_range(0..5) {
            mutate(&mut random, &mut data, other);
        }
        for (name, target) in cells::fuzz::ALL {
            tried(name, target, &data);
        }
        // These are many in the time of one of the others.
        for _ in 0..10 {
            tried("frames", cells::fuzz::frames, &changed_move(&mut random, &moved, other));
        }
    }
}

#[test]
fn each_target_has_its_file() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    for (name, _) in cells::fuzz::ALL {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        let target = std::fs::read_to_string(folder.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(target.contains(&format!("cells::fuzz::{name}(data)")), "{name}");
    }
}
