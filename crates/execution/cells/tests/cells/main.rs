//! C programs through the toolchain, run as ranks, stopped at random moments and moved between two agents in this process.
//!
//! What is checked is what the program prints and leaves: equal to a run that stayed. The two "agents" here are two fabrics in one process with a wire
//! that is a function call; real processes and sockets are the business of the end-to-end tests.

use cells::toolchain::inspect;
use cells::wasi::{Mounts, Output};
use cells::{Cell, Control, Ended, Program, Spec, engine, folder::Folder, snapshot};
use mpi::{Fabric, Message, Rank, Wire};
use moving::*;
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

mod exceptions;
mod increments;
mod lines;
mod moving;
mod mpich;
mod network;
mod openmp;
mod outside;
mod processes;
mod threads;
mod tiers;

/// The same with and without moves.
fn same(name: &str, size: u32, args: &[&str], moves: u32, seeds: std::ops::Range<u64>) {
    let wasm = compile(&programs().join(name));
    let stayed = run(&wasm, size, args, None, 0, 0);
    exited(&stayed);
    let mut total = 0;
    for seed in seeds {
        let moved = run(&wasm, size, args, None, moves, seed);
        exited(&moved);
        assert_eq!(moved.texts, stayed.texts, "{name}, seed {seed}");
        total += moved.moves;
    }
    println!("{name}: {total} moves, the same output: {}", stayed.texts[0].lines().last().unwrap_or(""));
    assert!(moves == 0 || total > 0, "{name}: no rank was moved; the program is too short for this test");
}

#[test]
fn messages_and_collectives_survive_moves() {
    same("exchange.c", 4, &[], 12, 1..9);
}

#[test]
fn persistent_requests_and_buffered_sends_survive_moves() {
    same("persistent.c", 3, &[], 12, 1..6);
}

#[test]
fn windows_survive_moves() {
    same("windows.c", 4, &[], 12, 1..7);
}

/// What ranks write into one file, in every way that MPI has, is the same whoever of them has moved, also the one that has the file.
#[test]
fn files_of_mpi_survive_moves() {
    let wasm = compile(&programs().join("mpi_files.c"));
    let mut seen = Vec::new();
    for (seed, moves) in [(0, 0), (1, 12), (2, 12), (3, 12)] {
        let folder = tempfile::tempdir().unwrap();
        let done = run(&wasm, 4, &[], Some(folder.path()), moves, seed);
        exited(&done);
        assert!(moves == 0 || done.moves > 0, "no rank was moved");
        let mut files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().path()).map(|p| (p.file_name().unwrap().to_owned(), std::fs::read(&p).unwrap())).collect();
        files.sort();
        seen.push((done.texts, files));
    }
    let (texts, files) = &seen[0];
    let names: Vec<_> = files.iter().map(|(name, _)| name.to_str().unwrap()).collect();
    assert_eq!(names, ["big", "matrix", "ordered", "shared"], "{texts:?}");
    assert!(texts[0].ends_with("missing: no such file\nread only: refused\n"), "{}", texts[0]);
    // A matrix of 64 x 64 whose blocks the ranks have, in rows as any program would read it.
    let numbers: Vec<i32> = files[1].1.chunks(4).map(|b| i32::from_le_bytes(b.try_into().unwrap())).collect();
    assert_eq!(numbers, (0..64 * 64).collect::<Vec<i32>>());
    assert_eq!(&files[0].1[..8], [0, 0, 0, 1, 0, 0, 0, 2], "external32 has the largest byte first");
    for other in &seen[1..] {
        assert!(*other == seen[0], "{:?} is not {texts:?}", other.0);
    }
}

#[test]
fn a_loop_without_calls_is_reached() {
    same("loop.c", 2, &[], 8, 1..5);
}

#[test]
fn files_open_for_writing_move_along() {
    let wasm = compile(&programs().join("files.c"));
    let mut seen = Vec::new();
    for (seed, moves) in [(0, 0), (1, 10), (2, 10)] {
        let folder = tempfile::tempdir().unwrap();
        let done = run(&wasm, 2, &["/data"], Some(folder.path()), moves, seed);
        exited(&done);
        let mut files: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|e| (e.as_ref().unwrap().file_name(), std::fs::read(e.unwrap().path()).unwrap()))
            .collect();
        files.sort();
        seen.push((done.texts, files));
    }
    assert_eq!(seen[0].1.len(), 2);
    assert!(seen[0] == seen[1] && seen[0] == seen[2]);
}

/// Who can write there decides what code an agent runs.
#[test]
fn the_cache_of_compiled_code_is_its_users_alone_also_if_it_was_not() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    std::fs::create_dir(&cache).unwrap();
    let open = |mode| {
        std::fs::set_permissions(&cache, std::fs::Permissions::from_mode(mode)).unwrap();
        cells::Engine::new(&engine::Options { cache: Some(cache.clone().into()), cells_max: 2, ..Default::default() }).map(drop).map_err(|e| e.to_string())
    };
    for mode in [0o777, 0o755, 0o700] {
        open(mode).unwrap();
        assert_eq!(cache.metadata().unwrap().permissions().mode() & 0o7777, 0o700, "{mode:o}");
    }
    assert!(open(0o1777).unwrap_err().contains("everybody's"), "as a folder for temporary files is");
}

/// Programs that know nothing of cells print the same under Open MPI, as cells that stay, and as cells that are moved about. `CLOUDSKIN_SUITE_ONLY` chooses
/// those with this in their name.
#[test]
fn programs_agree_with_open_mpi() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/programs");
    let build = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mut disagree = Vec::new();
    let only = std::env::var("CLOUDSKIN_SUITE_ONLY").unwrap_or_default();
    for (name, args) in PROGRAMS.into_iter().filter(|(name, _)| name.contains(&only)) {
        let (source, mpicc) = match sources.join(name).with_extension("cc") {
            cxx if cxx.exists() => (cxx, "mpicxx"),
            cxx => (cxx.with_extension("c"), "mpicc"),
        };
        let native = build.join(format!("{name}-native"));
        let tool = |command: &mut std::process::Command| {
            let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}; `make setup` and `setup/setup.sh test` install it"));
            assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
            String::from_utf8(out.stdout).unwrap()
        };
        tool(std::process::Command::new(mpicc).args(["-O2", "-o"]).arg(&native).arg(&source).arg("-lm"));
        let folder = tempfile::tempdir().unwrap();
        let place = |args: &[&str], folder: &str| args.iter().map(|a| a.replace("DIR", folder)).collect::<Vec<_>>();
        let expected = tool(
            std::process::Command::new("mpirun")
                .args(["--allow-run-as-root", "--oversubscribe", "--mca", "mpi_yield_when_idle", "1", "-np", "4"])
                .arg(&native)
                .args(place(args, folder.path().to_str().unwrap())),
        );
        let wasm = compile(&source);
        let args = place(args, "/data");
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        for (seed, moves) in [(0, 0), (1, 10), (2, 10)] {
            let folder = tempfile::tempdir().unwrap();
            let run = run(&wasm, 4, &args, Some(folder.path()), moves, seed);
            if run.ended.iter().any(|e| *e != Ended::Exited(0)) || run.texts.concat() != expected {
                disagree.push(format!("{name}, seed {seed}: {:?}\n{}--- not\n{expected}", run.ended, run.texts.concat()));
                break;
            }
            println!("{name}: agrees after {} moves", run.moves);
        }
    }
    assert!(disagree.is_empty(), "{}", disagree.join("\n"));
}

/// Programs of `tests/programs` with their arguments; `DIR` is a folder that they may write to.
const PROGRAMS: [(&str, &[&str]); 25] = [
    ("ring", &[]),
    ("pingpong", &[]),
    ("wildcard", &[]),
    ("storm", &[]),
    ("reduce_ops", &[]),
    ("collectives", &[]),
    ("communicators", &[]),
    ("datatypes", &[]),
    ("heat", &[]),
    ("matmul", &[]),
    ("sort", &[]),
    ("cg", &[]),
    ("life", &[]),
    ("primes", &[]),
    ("queens", &[]),
    ("mandelbrot", &[]),
    ("unmatched", &[]),
    ("files", &["DIR"]),
    ("twice", &["DIR"]),
    ("recursion", &[]),
    ("send_modes", &[]),
    ("longloop", &["1"]),
    ("exceptions", &[]),
    ("jumps", &[]),
    ("streams", &["DIR"]),
];

/// However much a program asks to print in one call, the host gathers little of it at a time, and nothing is lost.
#[test]
fn a_call_prints_a_part_and_the_program_goes_on_with_the_rest() {
    /// The largest piece, how often each byte came, and what went to standard error.
    struct Sizes(Mutex<(usize, [usize; 256], String)>);
    impl Output for Sizes {
        fn write(&self, _: Rank, stderr: bool, _: u64, data: &[u8]) {
            let mut sizes = self.0.lock().unwrap();
            if stderr {
                return sizes.2.push_str(std::str::from_utf8(data).unwrap());
            }
            sizes.0 = sizes.0.max(data.len());
            data.iter().for_each(|b| sizes.1[*b as usize] += 1);
        }
    }
    let program = the_engine().load(&compile(&programs().join("prints.c"))).unwrap();
    let sizes = Arc::new(Sizes(Mutex::new((0, [0; 256], String::new()))));
    let spec = alone(&["prints"], sizes.clone());
    let body = move || Cell::new(the_engine(), &program, &spec, Arc::default()).unwrap().run();
    let thread = std::thread::Builder::new().stack_size(engine::THREAD_STACK).spawn(body).unwrap();
    assert_eq!(thread.join().unwrap(), Ended::Exited(0));
    let sizes = sizes.0.lock().unwrap();
    assert!(sizes.0 <= 1 << 20, "{} bytes are gathered at once", sizes.0);
    let told: usize = sizes.2.trim().parse().unwrap();
    assert!(told > 0 && sizes.1[b'x' as usize] == told, "{told} bytes are said to be printed, {} are", sizes.1[b'x' as usize]);
    assert_eq!(sizes.1[b'y' as usize], 5 << 20);
}

/// A rank with a large file open for writing is not written down, says which file it is, and goes on.
#[test]
fn a_large_unfinished_file_keeps_its_rank_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let program = the_engine().load(&compile(&programs().join("sparse.c"))).unwrap();
    let control: Arc<Control> = Arc::default();
    let mut spec = alone(&["sparse", "/data/large"], Arc::new(cells::wasi::Discard));
    spec.mounts.folders.push(("data".into(), Arc::new(Folder { root: folder.path().into() })));
    let theirs = control.clone();
    let body = move || {
        let engine = the_engine();
        let mut cell = Cell::new(engine, &program, &spec, theirs).unwrap();
        assert_eq!(cell.run(), Ended::Stopped, "it waits for the other rank");
        spec.fabric.hold(Rank(1));
        let message = snapshot::write(engine, &mut cell).unwrap_err().to_string();
        assert!(message.contains("/data/large has 9663676416 bytes"), "{message}");
        spec.fabric.release(Rank(1));
        let header = mpi::Header { src: Rank(0), dst: Rank(1), seq: 0, context: 0, tag: 5, kind: mpi::Kind::Data, token: 0 };
        assert!(spec.fabric.send(&header, &[0; 4]));
        assert_eq!(cell.run(), Ended::Exited(0), "it goes on where it was");
        assert_eq!(std::fs::metadata(folder.path().join("large")).unwrap().len(), 7);
    };
    let thread = std::thread::Builder::new().stack_size(engine::THREAD_STACK).spawn(body).unwrap();
    let receiving = cells::DOING.iter().position(|d| *d == "MPI wait").unwrap() as u32;
    while control.doing.load(std::sync::atomic::Ordering::Relaxed) != receiving && !thread.is_finished() {
        std::thread::yield_now();
    }
    control.stop();
    thread.join().unwrap();
}

#[test]
fn failures_stay_with_their_job() {
    let wasm = compile(&programs().join("faults.c"));
    let fails = |what: &str| match run(&wasm, 2, &[what], None, 0, 0).ended[1].clone() {
        Ended::Failed { message, backtrace, .. } => (message, backtrace),
        other => panic!("{what}: {other:?}"),
    };
    let (message, backtrace) = fails("trap");
    assert!(message.starts_with("rank 1: "), "{message}");
    assert!(backtrace.contains("innermost") && backtrace.contains("main"), "{backtrace}");
    assert!(fails("abort").0.contains("MPI_Abort with code 7"));
    assert!(fails("rank").0.contains("MPI_Send: rank 99 is not in this communicator of 2 ranks"));
    assert!(fails("missing").0.contains("MPI_Comm_spawn is not in this version"));
    let run_ = run(&wasm, 2, &["memory"], None, 0, 0);
    assert_eq!(run_.ended[1], Ended::Exited(3), "malloc says no, the program decides");
    let run_ = run(&wasm, 2, &["escape"], None, 0, 0);
    assert_eq!(run_.texts[1], "denied\n");
}

/// Rank 1 of 2, of whom the other never comes.
fn alone(args: &[&str], output: Arc<dyn Output>) -> Spec {
    struct Nowhere;
    impl Wire for Nowhere {
        fn send(&self, _: Message) {}
        fn acknowledge(&self, _: Rank, _: Rank, _: u64) {}
    }
    let fabric = Arc::new(Fabric::new(2, Box::new(Nowhere)));
    fabric.arrive(Rank(1), Vec::new());
    Spec {
        rank: Rank(1),
        size: 2,
        args: args.iter().map(|a| a.to_string()).collect(),
        env: Vec::new(),
        memory_max: 1 << 30,
        budget: Arc::default(),
        mounts: Mounts::default(),
        output,
        fabric,
        place: "edge".into(),
        spin: 0,
    }
}

#[test]
fn endless_loops_can_be_killed() {
    let forever = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/programs/faults/forever.c");
    let mine = |name: &str| programs().join(name);
    let sources =
        [(mine("faults.c"), "spin"), (mine("faults.c"), "recursion"), (mine("faults.c"), "wait"), (forever, ""), (mine("pure.c"), "after"), (mine("pure.c"), "within")];
    for (tier, (source, what)) in [the_engine(), the_fast_engine(), the_interpreter()].into_iter().flat_map(|e| sources.iter().map(move |s| (e, s))) {
        let program = tier.load(&compile(source)).unwrap();
        let control: Arc<Control> = Arc::default();
        let (theirs, spec) = (control.clone(), alone(&["faults", what], Arc::new(cells::wasi::Discard)));
        let (end, ended) = std::sync::mpsc::channel();
        let body = move || end.send(Cell::new(tier, &program, &spec, theirs).unwrap().run());
        std::thread::Builder::new().stack_size(engine::THREAD_STACK).spawn(body).unwrap();
        let what = format!("{} {what}", source.display());
        assert!(ended.recv_timeout(Duration::from_millis(300)).is_err(), "{what} ends by itself");
        control.kill("time limit of 100ms reached");
        // A thread that can't be ended would keep the test from saying so: it is not waited for.
        let ended = ended.recv_timeout(Duration::from_secs(5)).unwrap_or_else(|_| panic!("{what} still runs 5 s after it was killed"));
        assert_eq!(ended, Ended::Killed("time limit of 100ms reached".into()), "{what}");
    }
}

/// Programs that nobody put safe points into end as well, whenever they are told to.
#[test]
fn endless_loops_without_safe_points_can_be_killed() {
    let module = |body: &str, start: &str| {
        let text = format!("(module (memory (export \"memory\") 1) (func (export \"_start\") {body}) (func $s (loop (br 0))) {start})");
        the_engine().load(&wat::parse_str(text).unwrap()).unwrap()
    };
    let ends = |what: &str, program: Arc<Program>, before: bool| {
        assert!(!program.movable());
        let control: Arc<Control> = Arc::default();
        let (theirs, spec) = (control.clone(), alone(&[], Arc::new(cells::wasi::Discard)));
        if before {
            control.kill("cancelled by its owner");
        }
        let (end, ended) = std::sync::mpsc::channel();
        let body = move || end.send(Cell::new(the_engine(), &program, &spec, theirs).map(|mut cell| cell.run()));
        std::thread::Builder::new().stack_size(engine::THREAD_STACK).spawn(body).unwrap();
        if !before {
            assert!(ended.recv_timeout(Duration::from_millis(300)).is_err(), "{what} ends by itself");
            control.kill("cancelled by its owner");
        }
        // A thread that can't be ended would keep the test from saying so: it is not waited for.
        ended.recv_timeout(Duration::from_secs(1)).unwrap_or_else(|_| panic!("{what} still runs a second after it was killed, before: {before}"))
    };
    for before in [false, true] {
        let killed = Ended::Killed("cancelled by its owner".into());
        assert_eq!(ends("a loop", module("(loop (br 0))", ""), before).unwrap(), killed);
        let calls = module("(loop (call $nothing) (br 0))) (func $nothing", "");
        assert_eq!(ends("a loop with a call", calls, before).unwrap(), killed);
        let message = ends("a start function", module("", "(start $s)"), before).unwrap_err().to_string();
        assert!(message.contains("cancelled by its owner"), "{message}");
    }
}

/// A module with all that a movable one has, `flags` as the memory of its flag words, and more.
fn marked(flags: &str, section: &str, start: &str, more: &str) -> Vec<u8> {
    let json = r#"{"version":3,"unwind":128,"unwind_bytes":4096,"polls":1,"die_checks":0,"globals":0,"toolchain":""}"#;
    let text = format!(
        r#"(module (memory (export "memory") 1) {flags} (func $_start (export "_start") {start})
            (global (export "__cloudskin_state") (mut i32) (i32.const 0))
            (global (export "__cloudskin_top") (mut i32) (i32.const 128))
            {more} (global (export "__cloudskin_unwind") i32 (i32.const 128))
            (@custom "{section}" "{}"))"#,
        json.replace('"', "\\\"")
    );
    wat::parse_str(text).unwrap()
}

/// What `inspect` tells the user who submits a module is what the agent does with it.
#[test]
fn one_definition_of_movable() {
    let movable = |wasm: &[u8]| {
        let program = the_engine().load(wasm).unwrap().movable();
        assert_eq!(program, inspect::inspect(wasm).unwrap().movable());
        program
    };
    assert!(movable(&marked(FLAGS, "cloudskin", "", "")));
    assert!(movable(&compile(&programs().join("loop.c"))));
    assert!(!movable(&marked(FLAGS, "another", "", "")), "the exports alone make nothing movable");
    for flags in ["", r#"(memory 1 1)"#, r#"(memory (export "__cloudskin_flags") 1)"#, r#"(memory (export "__cloudskin_flags") 1 2)"#] {
        assert!(!movable(&marked(flags, "cloudskin", "", "")), "flags in {flags}");
    }
}

/// A memory of its own for the flag words.
const FLAGS: &str = r#"(memory $flags (export "__cloudskin_flags") 1 1)"#;

/// A module that says it has safe points and loops without minding them: it ends all the same when it is told to.
#[test]
fn a_forged_mark_does_not_make_a_program_endless() {
    let start = Instant::now();
    let exponential: String = (0..60).map(|i| format!("(func $f{i} (call $f{}) (call $f{}))", i + 1, i + 1)).collect();
    let look = "(if (i32.atomic.load $flags offset=4 (i32.const 0)) (then unreachable))";
    for (what, start, more) in [
        ("a bare loop", "(loop (br 0))", ""),
        ("a look before the loop", &format!("{look} (loop (br 0))"), ""),
        ("a look that clears the words", &format!("(loop (i32.store $flags (i32.const 4) (i32.const 0)) {look} (br 0))"), ""),
        ("calls of calls", "(call $f0)", &format!("{exponential} (func $f60)")),
        ("calls of tails", "(return_call $f0)", "(func $f0 (return_call $f1)) (func $f1 (return_call $f0))"),
    ] {
        let wasm = marked(FLAGS, "cloudskin", start, more);
        let report = inspect::inspect(&wasm).unwrap();
        assert!(!report.movable(), "{what}");
        let program = the_engine().load(&wasm).unwrap();
        let control: Arc<Control> = Arc::default();
        let (theirs, spec) = (control.clone(), alone(&[], Arc::new(cells::wasi::Discard)));
        let (end, ended) = std::sync::mpsc::channel();
        let body = move || end.send(Cell::new(the_engine(), &program, &spec, theirs).unwrap().run());
        std::thread::Builder::new().stack_size(engine::THREAD_STACK).spawn(body).unwrap();
        assert!(ended.recv_timeout(Duration::from_millis(300)).is_err(), "{what} ends by itself");
        control.kill("cancelled by its owner");
        let ended = ended.recv_timeout(Duration::from_secs(2)).unwrap_or_else(|_| panic!("{what} still runs after it was killed"));
        assert_eq!(ended, Ended::Killed("cancelled by its owner".into()), "{what}");
    }
    println!("{:?}", start.elapsed());
}

/// Whatever the passes make of a program, the proof follows: all that the toolchain makes of good programs can be moved.
#[test]
fn what_the_toolchain_makes_can_be_moved() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    let sources = |folder: &str| {
        let files = std::fs::read_dir(root.join(folder)).unwrap().map(|e| e.unwrap().path());
        files.filter(|f| f.extension().is_some_and(|e| e == "c" || e == "cc")).collect::<Vec<_>>()
    };
    let mut seen = 0;
    for folder in ["tests/programs", "tests/programs/faults", "crates/execution/cells/tests/programs", "examples/tenant"] {
        for source in sources(folder) {
            let wasm = compile(&source);
            let report = inspect::inspect(&wasm).unwrap();
            assert!(report.movable(), "{}: {}", source.display(), report.fixed_because.join("; "));
            seen += 1;
        }
    }
    assert!(seen > 30);
    let report = inspect::inspect(&compile_all("vegetation", &sources("examples/vegetation"))).unwrap();
    assert!(report.movable(), "vegetation: {}", report.fixed_because.join("; "));
}

/// When a rank's thread panics, its memory is another cell's soon: who holds its control can't reach it any more.
#[test]
fn a_panic_takes_the_memory_away() {
    struct Breaks;
    impl Output for Breaks {
        fn write(&self, _: Rank, _: bool, _: u64, _: &[u8]) {
            panic!("the output breaks");
        }
    }
    let text = r#"(module (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1) (func (export "_start") (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;
    let program = the_engine().load(&wat::parse_str(text).unwrap()).unwrap();
    let control: Arc<Control> = Arc::default();
    let (theirs, spec) = (control.clone(), alone(&[], Arc::new(Breaks)));
    let body = move || Cell::new(the_engine(), &program, &spec, theirs).unwrap().run();
    let thread = std::thread::Builder::new().stack_size(engine::THREAD_STACK).spawn(body).unwrap();
    assert!(thread.join().is_err(), "it panics");
    let mut page = vec![0; engine::PAGE];
    assert_eq!(control.peek(&std::fs::File::open("/proc/self/mem").unwrap(), 0, &mut page), 0);
    assert!(control.threads().is_empty());
    control.kill("late");
}

/// A snapshot whose state somebody has changed, with a good checksum: refused, or gone on with to whatever end, but no panic.
#[test]
fn a_crafted_snapshot_does_not_panic() {
    crafted(&compile(&programs().join("exchange.c")), &["exchange"], 4000);
}

/// Of a program that does not end by itself.
fn crafted(wasm: &[u8], args: &'static [&'static str], seeds: u64) {
    let engine = the_engine();
    let program = engine.load(wasm).unwrap();
    let control: Arc<Control> = Arc::default();
    let (theirs, ours) = (control.clone(), program.clone());
    let body = move || {
        let spec = alone(args, Arc::new(cells::wasi::Discard));
        let mut cell = Cell::new(engine, &ours, &spec, theirs).unwrap();
        assert_eq!(cell.run(), Ended::Stopped, "it waits for ever");
        spec.fabric.hold(Rank(1));
        snapshot::write(engine, &mut cell).unwrap()
    };
    let thread = std::thread::Builder::new().stack_size(engine::THREAD_STACK).spawn(body).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    control.stop();
    let good = thread.join().unwrap();
    // 36 bytes of envelope, four of length, then the state.
    let state = 40..40 + u32::from_le_bytes(good[36..40].try_into().unwrap()) as usize;
    let body = move || {
        let (mut refused, mut ran) = (0u64, 0u64);
        for seed in 0..seeds {
            let mut random = StdRng::seed_from_u64(seed);
            let mut bytes = good.clone();
            for _ in 0..random.random_range(1..4) {
                // The head holds most of the structure, the rest is mostly the bytes of messages.
                let end = if random.random() { state.start + 400 } else { state.end };
                let at = random.random_range(state.start..end.min(state.end));
                bytes[at] = if random.random() { random.random() } else { bytes[at].wrapping_add(1) };
            }
            let sum = xxhash_rust::xxh3::xxh3_128(&bytes[36..]).to_le_bytes();
            bytes[20..36].copy_from_slice(&sum);
            let go_on = || -> cells::Result<()> {
                let read = snapshot::Snapshot::read(&bytes)?;
                let control: Arc<Control> = Arc::default();
                let spec = alone(args, Arc::new(cells::wasi::Discard));
                let mut cell = read.thaw(engine, &program, &spec, control.clone())?;
                cell.arrive(&read.frozen);
                control.kill("seen enough");
                cell.run();
                Ok(())
            };
            match std::panic::catch_unwind(std::panic::AssertUnwindSafe(go_on)) {
                Ok(Ok(())) => ran += 1,
                Ok(Err(e)) => {
                    refused += 1;
                    assert!(!e.to_string().is_empty());
                }
                Err(_) => panic!("the snapshot of seed {seed} makes the agent panic"),
            }
        }
        println!("{refused} refused, {ran} ran");
        assert!(refused > seeds / 40 && ran > seeds / 40, "{refused} refused, {ran} ran");
    };
    std::thread::Builder::new().stack_size(engine::THREAD_STACK).spawn(body).unwrap().join().unwrap();
}

/// Cells that share a budget: the one that would take more than is left fails, and the others go on with what they have.
#[test]
fn who_takes_more_memory_than_is_left_fails_alone() {
    const MIB: u64 = 1 << 20;
    const PAGES: u64 = MIB / 65536;
    // Grows to 30 MiB, says so, and 30 more when it is told to go on.
    let text = format!(
        r#"(module (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") {})
            (func (export "_start")
                (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
                (drop (memory.grow (i32.const {})))
                (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#,
        30 * PAGES,
        30 * PAGES
    );
    let program = the_engine().load(&wat::parse_str(text).unwrap()).unwrap();
    /// Holds the program at its first call until it is let go.
    struct Gate(Mutex<Option<(std::sync::mpsc::Sender<()>, std::sync::mpsc::Receiver<()>)>>);
    impl Output for Gate {
        fn write(&self, _: Rank, _: bool, _: u64, _: &[u8]) {
            if let Some((here, go)) = self.0.lock().unwrap().take() {
                here.send(()).unwrap();
                go.recv().unwrap();
            }
        }
    }
    let budget = Arc::new(cells::Budget::new(100 * MIB));
    let start = || -> cells::Result<_> {
        let (here, is_here) = std::sync::mpsc::channel();
        let (go, told) = std::sync::mpsc::channel();
        let spec = Spec { budget: budget.clone(), ..alone(&[], Arc::new(Gate(Mutex::new(Some((here, told)))))) };
        let mut cell = Cell::new(the_engine(), &program, &spec, Arc::default())?;
        let thread = std::thread::Builder::new().stack_size(engine::THREAD_STACK).spawn(move || cell.run()).unwrap();
        is_here.recv_timeout(Duration::from_secs(30)).unwrap();
        Ok((go, thread))
    };
    let (first, second) = (start().unwrap(), start().unwrap());
    assert_eq!(budget.used(), 60 * MIB);
    first.0.send(()).unwrap();
    assert_eq!(first.1.join().unwrap(), Ended::Exited(0), "there is room for one of them to grow");
    assert_eq!(budget.used(), 30 * MIB, "and it gives back what it had");
    let (third, fourth) = (start().unwrap(), start().unwrap());
    let refused = start().err().expect("a fifth has no room to begin in").to_string();
    for part in ["site edge", "30.0 MiB more", "90.0 MiB of 100.0 MiB", "--memory", "cloudskin migrate"] {
        assert!(refused.contains(part), "{part:?} is not in {refused}");
    }
    second.0.send(()).unwrap();
    match second.1.join().unwrap() {
        Ended::Failed { message, .. } => assert!(message.starts_with("rank 1: site edge has no memory for 30.0 MiB more"), "{message}"),
        other => panic!("{other:?}"),
    }
    for (go, thread) in [third, fourth] {
        go.send(()).unwrap();
        let _ = thread.join().unwrap();
    }
    assert_eq!(budget.used(), 0);
}

/// The numbers of `docs/reference/limits.md`.
#[test]
fn allocations_take_powers_of_two() {
    let wasm = compile(&programs().join("limits.c"));
    const MIB: u64 = 1 << 20;
    for (size, expected) in [
        (100_000, "given 131072"),
        (300 * MIB, &*format!("given {}", 512 * MIB)),
        (512 * MIB - 24, &format!("given {}", 512 * MIB)),
        (512 * MIB - 23, "refused 0"),
    ] {
        let run = run(&wasm, 1, &[&size.to_string()], None, 0, 0);
        assert_eq!(run.texts[0], format!("{size} {expected}\n"), "in a cell of 1 GiB");
    }
    // A block that is free again serves sizes of its own power of two, and no others.
    let sizes = [300 * MIB, 200 * MIB, 400 * MIB].map(|s| s.to_string());
    let run = run(&wasm, 1, &[&*sizes[0], &*sizes[1], &*sizes[2]], None, 0, 0);
    let grown: Vec<&str> = run.texts[0].lines().map(|l| l.split(' ').next_back().unwrap()).collect();
    assert_eq!(grown, [&*(512 * MIB).to_string(), &*(256 * MIB).to_string(), "0"]);
}

#[test]
fn what_is_no_program_is_refused() {
    let refused = |wasm: &[u8], expected: &str| {
        let message = the_engine().load(wasm).err().expect("refused").to_string();
        assert!(message.contains(expected), "{message}");
    };
    refused(b"\x7fELF....", "it is an ELF file");
    refused(&wat::parse_str("(module (func (export \"_start\")) (memory 1))").unwrap()[..20], "module refused");
    refused(&wat::parse_str("(module (memory (export \"memory\") 1))").unwrap(), "_start");
    let strange = "(module (import \"env\" \"fork\" (func)) (func (export \"_start\")) (memory (export \"memory\") 1))";
    refused(&wat::parse_str(strange).unwrap(), "env.fork");
}
