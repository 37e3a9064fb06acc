//! Programs with threads: what POSIX promises them, also while they are moved, and that they end when they are told to, whatever they are doing.

use crate::{alone, crafted, moving::*};
use cells::toolchain::{driver::Lang, inspect};
use cells::{Budget, Cell, Control, Ended, Spec, engine, threads::THREADS_MAX};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn threaded(name: &str) -> Vec<u8> {
    compiled(name, "-pthread")
}

/// The source of a program, in C or C++.
fn source(name: &str) -> (Lang, PathBuf) {
    let path = programs().join("threads").join(name);
    let (c, cxx) = (path.with_extension("c"), path.with_extension("cc"));
    if c.is_file() { (Lang::C, c) } else { (Lang::Cxx, cxx) }
}

fn compiled(name: &str, option: &str) -> Vec<u8> {
    let (lang, source) = source(name);
    let out = make(lang, &Path::new(name).with_extension("wasm"), ["-O2".into(), option.into(), source.into_os_string()].into_iter());
    std::fs::read(out.unwrap_or_else(|e| panic!("compile {name}: {e}"))).unwrap()
}

/// Begins a run on a thread of its own. How it ended comes through the channel.
fn begin(wasm: &[u8], spec: Spec) -> (Arc<Control>, std::sync::mpsc::Receiver<Ended>) {
    let program = the_engine().load(wasm).unwrap();
    let control: Arc<Control> = Arc::default();
    let theirs = control.clone();
    let (end, ended) = std::sync::mpsc::channel();
    let body = move || end.send(Cell::new(the_engine(), &program, &spec, theirs).unwrap().run());
    std::thread::Builder::new().stack_size(engine::THREAD_STACK).spawn(body).unwrap();
    (control, ended)
}

/// Runs to the end; what it printed, and how it ended.
fn whole(wasm: &[u8], args: &[&str], change: impl FnOnce(&mut Spec)) -> (String, Ended) {
    let log = Arc::new(Log::default());
    let mut spec = alone(args, log.clone());
    change(&mut spec);
    let ended = begin(wasm, spec).1.recv_timeout(LONGEST).expect("it ends");
    (log.text(1), ended)
}

#[test]
fn threads_do_what_posix_promises() {
    let expected = native("threads", "-pthread", &[]);
    let wasm = threaded("threads.c");
    for _ in 0..3 {
        let (text, ended) = whole(&wasm, &["threads"], |_| {});
        assert_eq!(ended, Ended::Exited(0), "{text}");
        // What all threads print at the same time: each line whole, and none lost.
        let (mut lines, rest): (Vec<&str>, Vec<&str>) = text.lines().partition(|l| l.ends_with("all of it"));
        assert_eq!(rest, expected.lines().collect::<Vec<_>>());
        lines.sort_unstable();
        lines.dedup();
        assert_eq!(lines.len(), 400);
    }
}

#[test]
fn a_kill_ends_all_threads() {
    let wasm = threaded("endless.c");
    for what in ["asleep", "busy", "naps"] {
        let (control, ended) = begin(&wasm, alone(&["endless", what], Arc::new(cells::wasi::Discard)));
        assert!(ended.recv_timeout(Duration::from_millis(300)).is_err(), "{what} ends by itself");
        control.kill("cancelled by its owner");
        // `run` comes back when the last of them has.
        let ended = ended.recv_timeout(Duration::from_secs(5)).unwrap_or_else(|_| panic!("{what} still runs 5 s after it was killed"));
        assert_eq!(ended, Ended::Killed("cancelled by its owner".into()), "{what}");
    }
}

#[test]
fn one_thread_can_end_the_others() {
    let wasm = threaded("endless.c");
    assert_eq!(whole(&wasm, &["endless", "main ends"], |_| {}).1, Ended::Exited(5));
    assert_eq!(whole(&wasm, &["endless", "exits"], |_| {}).1, Ended::Exited(3));
    let Ended::Failed { message, backtrace, .. } = whole(&wasm, &["endless", "breaks"], |_| {}).1 else { panic!("it goes on after a trap") };
    assert!(message.starts_with("rank 1: "), "{message}");
    assert!(backtrace.contains("breaks") && backtrace.contains("__cloudskin_thread"), "{backtrace}");
}

#[test]
fn threads_and_memory_have_limits() {
    let wasm = threaded("endless.c");
    let (text, ended) = whole(&wasm, &["endless", "many"], |_| {});
    assert_eq!(ended, Ended::Exited(0));
    let why = format!("a cell may have {THREADS_MAX} threads at once");
    assert!(text.contains(&why) && text.contains(&format!("{THREADS_MAX} threads\n")), "{text}");
    let (text, ended) = whole(&wasm, &["endless", "memory"], |s| s.memory_max = 64 << 20);
    assert_eq!((text.as_str(), ended), ("1\n", Ended::Exited(0)), "malloc says no, the program decides");
    let budget = Arc::new(Budget::new(32 << 20));
    let Ended::Failed { message, .. } = whole(&wasm, &["endless", "memory"], |s| s.budget = budget.clone()).1 else { panic!("the site's memory has no end") };
    assert!(message.contains("site edge has no memory"), "{message}");
    // With the cell, which its thread drops after it has told how it ended.
    let begin = std::time::Instant::now();
    while budget.used() > 0 {
        assert!(begin.elapsed() < LONGEST, "{} bytes are not given back", budget.used());
        std::thread::yield_now();
    }
}

/// Natively, where nothing moves.
pub fn native(name: &str, option: &str, args: &[&str]) -> String {
    // Several tests want the same program.
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join(name);
    let (lang, source) = source(name);
    let compiler = if lang == Lang::C { "gcc" } else { "g++" };
    let built = std::process::Command::new(compiler).args(["-O2", option, "-o"]).arg(&out).arg(source).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    String::from_utf8(std::process::Command::new(&out).args(args).output().unwrap().stdout).unwrap()
}

/// A program prints what it prints natively, wherever it is moved to in the middle of its work, in one tier or between two. `told`: lines that threads print at the same time, each of
/// which must be there once.
pub fn moves_like_native(name: &str, option: &str, seeds: std::ops::Range<u64>, told: usize) {
    let expected = native(name, option, &[]);
    let wasm = compiled(name, option);
    let report = inspect::inspect(&wasm).unwrap();
    assert!(report.movable(), "{:?}", report.fixed_because);
    let mut moves = 0;
    for seed in seeds {
        let engines = if seed % 2 == 0 { vec![the_engine(), the_fast_engine()] } else { engines() };
        let run = run_as(engines, &wasm, &How { moves: 40, seed, ..How::default() });
        let (mut lines, rest): (Vec<&str>, Vec<&str>) = run.texts[0].lines().partition(|l| l.ends_with("all of it"));
        assert_eq!((rest.join("\n") + "\n", &run.ended[0]), (expected.clone(), &Ended::Exited(0)), "{name}, seed {seed}");
        lines.sort_unstable();
        lines.dedup();
        assert_eq!(lines.len(), told, "{name}, seed {seed}");
        moves += run.moves;
    }
    println!("{name}: {moves} moves");
    assert!(moves > 0, "{name}: it was never moved; the program is too short for this test");
}

#[test]
fn threads_move_in_the_middle_of_what_they_do() {
    moves_like_native("threads", "-pthread", 1..4, 400);
}

#[test]
fn threads_throw_and_jump_while_they_move() {
    moves_like_native("throws", "-pthread", 1..4, 0);
}

#[test]
fn threads_of_the_standard_library_move_in_the_middle_of_what_they_do() {
    moves_like_native("standard", "-pthread", 1..4, 0);
}

/// Runs on; when it has stopped it goes on where it is. `disturb` is called until it has ended, with its control.
fn disturbed(wasm: &[u8], args: &[&str], seed: u64, mut disturb: impl FnMut(&Control, &mut StdRng)) -> (String, Ended, usize) {
    let program = the_engine().load(wasm).unwrap();
    let (log, control) = (Arc::new(Log::default()), Arc::<Control>::default());
    let (theirs, spec) = (control.clone(), alone(args, log.clone()));
    let body = move || {
        let mut cell = Cell::new(the_engine(), &program, &spec, theirs).unwrap();
        let mut stops = 0;
        loop {
            match cell.run() {
                Ended::Stopped => stops += 1,
                ended => return (ended, stops),
            }
        }
    };
    let thread = std::thread::Builder::new().stack_size(engine::THREAD_STACK).spawn(body).unwrap();
    let (mut random, begin) = (StdRng::seed_from_u64(seed), Instant::now());
    while !thread.is_finished() {
        disturb(&control, &mut random);
        if begin.elapsed() > LONGEST {
            control.kill("it took too long");
        }
    }
    let (ended, stops) = thread.join().unwrap();
    (log.text(1), ended, stops)
}

fn pause(random: &mut StdRng, longest_us: u64) {
    std::thread::sleep(Duration::from_micros(random.random_range(0..longest_us)));
}

/// Stops that are asked for and taken back at any moment: all go on, or all have stopped.
#[test]
fn a_stop_that_is_taken_back_leaves_nobody_behind() {
    let expected = native("threads", "-pthread", &[]);
    let wasm = threaded("threads.c");
    for seed in 0..3 {
        let (text, ended, stops) = disturbed(&wasm, &["threads"], seed, |control, random| {
            control.stop();
            pause(random, 300);
            control.clear();
            pause(random, 300);
        });
        let rest: Vec<&str> = text.lines().filter(|l| !l.ends_with("all of it")).collect();
        assert_eq!((rest.join("\n") + "\n", ended), (expected.clone(), Ended::Exited(0)), "seed {seed}");
        println!("seed {seed}: stopped {stops} times");
    }
}

/// Threads begin, end and grow the memory all the time; one of them ends the program, or its owner does.
#[test]
fn an_end_in_the_middle_of_a_stop_is_the_end() {
    let wasm = threaded("crowd.c");
    let mut stops = 0;
    for seed in 0..8 {
        let (_, ended, stopped) = disturbed(&wasm, &["crowd", "30"], seed, |control, random| {
            control.stop();
            pause(random, 2000);
        });
        assert_eq!(ended, Ended::Exited(3), "seed {seed}");
        let begin = Instant::now();
        let ended = disturbed(&wasm, &["crowd", "1000000"], seed, |control, random| {
            control.stop();
            pause(random, 2000);
            if begin.elapsed() > Duration::from_millis(20) {
                control.kill("cancelled by its owner");
            }
        });
        assert_eq!(ended.1, Ended::Killed("cancelled by its owner".into()), "seed {seed}");
        stops += stopped + ended.2;
    }
    println!("{stops} stops");
    assert!(stops > 8, "{stops} stops");
}

/// A program's ranks, each with threads that call MPI, do the same wherever each of them is moved to in the middle of it.
fn ranks_with_threads_move(name: &str, option: &str, size: u32, args: &[&str], seeds: std::ops::Range<u64>) {
    let wasm = compiled(name, option);
    let report = inspect::inspect(&wasm).unwrap();
    assert!(report.movable(), "{:?}", report.fixed_because);
    let env = ["OMP_NUM_THREADS=2".to_string()];
    let how = How { size, args, env: &env, ..How::default() };
    let stayed = run_as(engines(), &wasm, &how);
    exited(&stayed);
    assert!(stayed.texts[0].contains(' '), "{name} has said nothing");
    let mut moves = 0;
    for seed in seeds {
        let moved = run_as(engines(), &wasm, &How { moves: 20, seed, ..how.clone() });
        exited(&moved);
        assert_eq!(moved.texts, stayed.texts, "{name}, seed {seed}");
        moves += moved.moves;
    }
    println!("{name}: {moves} moves, the same output: {}", stayed.texts[0].lines().last().unwrap_or(""));
    assert!(moves > 0, "{name}: no rank was moved; the program is too short for this test");
}

#[test]
fn teams_exchange_messages_while_they_move() {
    ranks_with_threads_move("hybrid", "-fopenmp", 2, &[], 1..4);
}

#[test]
fn threads_of_a_rank_are_in_mpi_at_the_same_time_while_they_move() {
    ranks_with_threads_move("multiple", "-pthread", 3, &[], 1..5);
    ranks_with_threads_move("multiple", "-pthread", 1, &[], 1..2);
}

/// The same numbers as with another MPI, and with any number of ranks.
#[test]
fn a_hybrid_program_agrees_with_open_mpi() {
    let (source, native) = (programs().join("threads/hybrid.c"), Path::new(env!("CARGO_TARGET_TMPDIR")).join("hybrid-native"));
    let tool = |command: &mut std::process::Command| {
        let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}; `make setup` and `setup/setup.sh test` install it"));
        assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    tool(std::process::Command::new("mpicc").args(["-O2", "-fopenmp", "-o"]).arg(&native).arg(&source));
    let mpirun = ["--allow-run-as-root", "--oversubscribe", "--mca", "mpi_yield_when_idle", "1", "-x", "OMP_NUM_THREADS=2", "-np", "2"];
    let expected = tool(std::process::Command::new("mpirun").args(mpirun).arg(&native));
    let wasm = std::fs::read(make(Lang::C, Path::new("hybrid-agrees.wasm"), ["-O2".into(), "-fopenmp".into(), source.into_os_string()].into_iter()).unwrap()).unwrap();
    for (size, threads) in [(2, 2), (1, 3), (3, 1)] {
        let run = run_as(engines(), &wasm, &How { size, env: &[format!("OMP_NUM_THREADS={threads}")], ..How::default() });
        exited(&run);
        assert_eq!(run.texts.concat(), expected, "{size} ranks of {threads} threads");
    }
}

#[test]
fn who_waits_in_mpi_ends_with_its_cell() {
    let wasm = threaded("mpi_ends.c");
    let (control, ended) = begin(&wasm, alone(&["mpi_ends", "waits"], Arc::new(cells::wasi::Discard)));
    assert!(ended.recv_timeout(Duration::from_millis(300)).is_err(), "it ends by itself");
    control.kill("cancelled by its owner");
    let ended = ended.recv_timeout(Duration::from_secs(5)).expect("it still runs 5 s after it was killed");
    assert_eq!(ended, Ended::Killed("cancelled by its owner".into()));
    assert_eq!(whole(&wasm, &["mpi_ends", "exits"], |_| {}).1, Ended::Exited(3));
    let Ended::Failed { message, code, .. } = whole(&wasm, &["mpi_ends", "aborts"], |_| {}).1 else { panic!("it goes on after MPI_Abort") };
    assert_eq!((message.as_str(), code), ("rank 1: MPI_Abort with code 7", Some(7)));
    let Ended::Failed { message, .. } = whole(&wasm, &["mpi_ends", "fails"], |_| {}).1 else { panic!("it goes on after an error") };
    assert!(message.contains("MPI_Send: rank 99 is not in this communicator of 2 ranks"), "{message}");
}

/// The one that has the lock has left its work already: it comes back, for the function runs to its end. A run that was over before anything was asked of it
/// says nothing: longer ones follow.
#[test]
fn a_stop_waits_for_what_mpi_calls_and_for_whom_that_waits() {
    let wasm = threaded("called.c");
    for seed in 0..3 {
        let (mut rounds, mut all) = (200, 0);
        while all < 3 {
            let (text, ended, stops) = disturbed(&wasm, &["called", &rounds.to_string()], seed, |control, random| {
                control.stop();
                pause(random, 2000);
                if seed == 2 {
                    control.clear();
                }
            });
            assert_eq!((text, ended), (format!("{rounds} rounds\n"), Ended::Exited(0)), "seed {seed}");
            println!("seed {seed}, {rounds} rounds: stopped {stops} times");
            all += stops;
            rounds *= 2;
            assert!(rounds < 1 << 20, "seed {seed}: {rounds} rounds and only {all} stops");
        }
    }
}

/// A thread falls asleep while MPI waits for a function that another one is in. When that has returned a stop finds the sleeper too, however long it would sleep on.
#[test]
fn who_fell_asleep_while_mpi_called_a_function_is_stopped_after_it() {
    let (text, ended, stops) = disturbed(&threaded("sleeper.c"), &["sleeper"], 1, |control, random| {
        control.stop();
        pause(random, 2000);
    });
    assert_eq!((text.as_str(), ended), ("woken\n", Ended::Exited(0)));
    assert!(stops > 0);
}

/// As those of programs without threads.
#[test]
fn a_crafted_snapshot_of_threads_does_not_panic() {
    crafted(&threaded("crowd.c"), &["crowd", "1000000"], 400);
}

#[test]
fn a_crafted_snapshot_of_threads_in_mpi_does_not_panic() {
    crafted(&threaded("mpi_ends.c"), &["mpi_ends", "waits"], 200);
}

/// Also while others wait, or throw what they catch.
#[test]
fn what_a_thread_throws_and_nobody_catches_ends_the_rank() {
    let wasm = threaded("uncaught.cc");
    for how in ["thread", "first"] {
        let (text, ended) = whole(&wasm, &["uncaught", how], |_| {});
        let Ended::Failed { message, backtrace, code: None } = ended else { panic!("{how}: {ended:?}, {text}") };
        assert_eq!(message, "rank 1: an exception that nothing catches: std::runtime_error: the field is flooded", "{how}");
        let said = "libc++abi: terminating due to uncaught exception of type std::runtime_error: the field is flooded\n";
        assert_eq!((text.as_str(), backtrace.contains("__cloudskin_thread")), (said, how == "thread"), "{how}: {backtrace}");
    }
    let Ended::Failed { message, .. } = whole(&wasm, &["uncaught", "jumps"], |_| {}).1 else { panic!("it goes on after a longjmp to nowhere") };
    assert_eq!(message, "rank 1: longjmp to a place whose function has returned");
    assert_eq!(whole(&wasm, &["uncaught", "handler"], |_| {}), ("the program's own handler\n".into(), Ended::Exited(5)));
    assert_eq!(whole(&wasm, &["uncaught", "leaves"], |_| {}), ("this thread alone\njoined\n".into(), Ended::Exited(7)));
    assert_eq!(whole(&wasm, &["uncaught", "quiet"], |_| {}), ("joined\n".into(), Ended::Exited(7)));
}

/// A stop that comes at any moment of that.
#[test]
fn a_stop_in_the_middle_of_an_end_by_an_exception_is_the_end() {
    let wasm = threaded("uncaught.cc");
    for seed in 0..6 {
        let (_, ended, _) = disturbed(&wasm, &["uncaught", "thread"], seed, |control, random| {
            control.stop();
            pause(random, 500);
        });
        let Ended::Failed { message, .. } = ended else { panic!("seed {seed}: {ended:?}") };
        assert!(message.ends_with("std::runtime_error: the field is flooded"), "seed {seed}: {message}");
    }
}

/// As movable as it is built.
#[test]
fn without_safe_points_threads_stay_where_they_are() {
    let source = programs().join("threads/threads.c").into_os_string();
    let words = ["-O2".into(), "-pthread".into(), "-fno-safe-points".into(), source];
    let wasm = std::fs::read(make(Lang::C, Path::new("threads-stay.wasm"), words.into_iter()).unwrap()).unwrap();
    let report = inspect::inspect(&wasm).unwrap();
    assert!(!report.movable() && report.fixed_because.concat().contains("no safe points"), "{:?}", report.fixed_because);
    assert_eq!(whole(&wasm, &["threads"], |_| {}).1, Ended::Exited(0));
}
