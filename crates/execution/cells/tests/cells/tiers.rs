//! The tiers against each other: the same output, the same failures, and cells that change the tier with each move.

use crate::{alone, moving::*};
use cells::toolchain::driver::Lang;
use cells::{Cell, Control, Ended, Engine, Machine, Tier, engine};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Like `same` of the other programs' tests, but that the second agent has the fast tier.
fn changes(name: &str, size: u32, args: &[&str], moves: u32) {
    let wasm = compile(&programs().join(name));
    let (quick, fast) = (the_engine(), the_fast_engine());
    let stayed = run_on([quick, quick], &wasm, size, args, None, 0, 0);
    exited(&stayed);
    let mut total = 0;
    for (seed, engines, moves) in [(0, [fast, fast], 0), (1, [quick, fast], moves), (2, [fast, quick], moves), (3, [fast, fast], moves)] {
        let moved = run_on(engines, &wasm, size, args, None, moves, seed);
        exited(&moved);
        assert_eq!(moved.texts, stayed.texts, "{name}, seed {seed}");
        total += moved.moves;
    }
    println!("{name}: {total} moves");
    assert!(total > 0, "{name}: no rank was moved; the program is too short for this test");
}

#[test]
fn a_cell_changes_the_tier_in_the_middle_of_its_work() {
    changes("exchange.c", 4, &[], 12);
    changes("loop.c", 2, &[], 8);
    changes("persistent.c", 3, &[], 12);
}

/// All three of them, each after each other; what the interpreter has to do is short, since it takes its time.
fn goes_round(wasm: &[u8], size: u32, args: &[&str], moves: u32, expected: [Tier; 3]) {
    let (quick, interpreted, fast) = (the_engine(), the_interpreter(), the_fast_engine());
    let tiers = [quick, interpreted, fast].map(|engine| engine.load(wasm).unwrap().tier());
    assert_eq!(tiers, expected, "{args:?}");
    let stayed = run_on([quick], wasm, size, args, None, 0, 0);
    exited(&stayed);
    let alone = run_on([interpreted], wasm, size, args, None, 0, 0);
    exited(&alone);
    assert_eq!(alone.texts, stayed.texts, "{args:?}, interpreted throughout");
    let mut total = 0;
    for (seed, engines) in [(0, [quick, interpreted, fast]), (1, [interpreted, quick, fast]), (2, [interpreted; 3])] {
        let moved = run_on(engines, wasm, size, args, None, moves, seed);
        exited(&moved);
        assert_eq!(moved.texts, stayed.texts, "{args:?}, seed {seed}");
        total += moved.moves;
    }
    println!("{args:?}: {total} moves");
    assert!(total >= 3, "{args:?}: {total} moves; the program is too short for this test");
}

#[test]
fn a_cell_goes_from_machine_code_to_the_interpreter_and_back() {
    let all = [Tier::Quick, Tier::Interpreter, Tier::Fast];
    goes_round(&compile(&programs().join("exchange.c")), 3, &[], 12, all);
    goes_round(&compile(&programs().join("loop.c")), 2, &["12", "20"], 8, all);
    goes_round(&compile(&programs().join("persistent.c")), 3, &[], 12, all);
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/programs");
    for name in ["exceptions.cc", "jumps.c"] {
        goes_round(&compile(&shared.join(name)), 2, &[], 12, all);
    }
}

/// The interpreter takes none, and who asks for it is told why.
#[test]
fn programs_with_threads_change_the_tier_too() {
    let source = programs().join("threads/threads.c");
    let out = make(Lang::C, Path::new("tiers-threads.wasm"), ["-O2".into(), "-pthread".into(), source.into_os_string()].into_iter()).unwrap();
    let wasm = std::fs::read(out).unwrap();
    for (tier, expected, why) in [(Tier::Interpreter, Tier::Quick, Some("memory that threads share")), (Tier::Fast, Tier::Fast, None)] {
        let program = the_fast_engine().load_in(&wasm, tier).unwrap();
        assert_eq!(program.tier(), expected);
        assert!(why.is_none_or(|why| program.instead().is_some_and(|text| text.contains(why))), "{:?}", program.instead());
    }
    assert_eq!(the_engine().load(&wasm).unwrap().instead(), None);
    let lines = |engines: &[&Engine], moves| {
        let run = run_as(engines, &wasm, &How { moves, seed: 5, ..How::default() });
        exited(&run);
        let mut lines: Vec<String> = run.texts[0].lines().map(str::to_string).collect();
        // Threads print when they come to it.
        lines.sort();
        (lines, run.moves)
    };
    let (stayed, _) = lines(&[the_engine()], 0);
    let (moved, moves) = lines(&[the_engine(), the_interpreter(), the_fast_engine()], 20);
    assert_eq!(moved, stayed);
    assert!(moves > 0, "it was not moved");
}

/// A loop that waits for another thread loads the word again in each turn, though the module does not say that it is `volatile`.
#[test]
fn who_waits_for_a_word_in_a_loop_sees_it_written() {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("spins.c");
    let source = "#include <pthread.h>\n#include <stdio.h>\n#include <unistd.h>\nstatic volatile int go;\nstatic void *sets(void *p) { usleep(20000); go = 1; return p; }\n\
        int main(void) { pthread_t t; pthread_create(&t, 0, sets, 0); while (!go) ; pthread_join(t, 0); puts(\"went on\"); return 0; }\n";
    std::fs::write(&file, source).unwrap();
    let wasm = std::fs::read(make(Lang::C, Path::new("spins.wasm"), ["-O2".into(), "-pthread".into(), file.into_os_string()].into_iter()).unwrap()).unwrap();
    for engine in [the_engine(), the_fast_engine()] {
        let run = run_as([engine], &wasm, &How::default());
        exited(&run);
        assert_eq!(run.texts[0], "went on\n");
    }
}

/// Without safe points it looks at the clock, in the interpreter too.
#[test]
fn what_has_no_safe_points_is_interpreted_and_can_be_ended() {
    let made = |name: &str, source: &str| {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::write(&file, source).unwrap();
        let words = ["-O1".into(), "-fno-safe-points".into(), file.into_os_string()];
        std::fs::read(make(Lang::C, &Path::new(name).with_extension("wasm"), words.into_iter()).unwrap()).unwrap()
    };
    let begin = |wasm: &[u8], log: Arc<Log>| {
        let program = the_interpreter().load(wasm).unwrap();
        assert_eq!((program.tier(), program.movable()), (Tier::Interpreter, false));
        let (control, spec): (Arc<Control>, _) = (Arc::default(), alone(&["fixed"], log));
        let theirs = control.clone();
        let (end, ended) = std::sync::mpsc::channel();
        let body = move || end.send(Cell::new(the_interpreter(), &program, &spec, theirs).unwrap().run());
        std::thread::Builder::new().stack_size(engine::THREAD_STACK).spawn(body).unwrap();
        (control, ended)
    };
    let log = Arc::new(Log::default());
    let ends = made("interpreted.c", "#include <stdio.h>\nint main(void) { double s = 0; for (int i = 1; i < 1000; i++) s += 1.0 / i; printf(\"%.17g\\n\", s); }");
    assert_eq!(begin(&ends, log.clone()).1.recv_timeout(LONGEST).unwrap(), Ended::Exited(0));
    assert_eq!(log.text(1), "7.4844708605503429\n");
    let (control, ended) = begin(&made("for-ever.c", "volatile int n; int main(void) { for (;;) n++; }"), Arc::default());
    assert!(ended.recv_timeout(Duration::from_millis(200)).is_err(), "it ends by itself");
    control.kill("cancelled by its owner");
    assert_eq!(ended.recv_timeout(Duration::from_secs(5)).expect("a kill ends it"), Ended::Killed("cancelled by its owner".into()));
}

#[test]
fn failures_are_the_same_in_all_tiers() {
    let wasm = compile(&programs().join("traps.c"));
    for what in ["", "rest", "divide", "remainder", "overflow", "load", "store", "copy", "null", "beyond", "signature", "unreachable", "deep"] {
        let end = |engine| {
            let run = run_on([engine, engine], &wasm, 1, &[what], None, 0, 0);
            let ended = match run.ended[0].clone() {
                Ended::Failed { message, code, .. } => Err((message, code)),
                other => Ok(other),
            };
            (ended, run.texts)
        };
        let quick = end(the_engine());
        for engine in [the_fast_engine(), the_interpreter()] {
            assert_eq!(end(engine), quick, "{what}");
        }
        assert_eq!(quick.0.is_ok(), what.is_empty() || what == "rest", "{what}: {quick:?}");
    }
}

/// Of native code the function that trapped is named, and those that the engine knows.
#[test]
fn a_failure_in_native_code_names_its_function() {
    let wasm = compile(&programs().join("faults.c"));
    let run = run_on([the_fast_engine(); 2], &wasm, 2, &["trap"], None, 0, 0);
    match &run.ended[1] {
        Ended::Failed { message, backtrace, .. } => {
            assert!(message.starts_with("rank 1: "), "{message}");
            assert!(backtrace.lines().next().is_some_and(|l| l.contains("innermost") || l.contains("main")), "{backtrace}");
        }
        other => panic!("{other:?}"),
    }
}

/// What is compiled elsewhere for a machine is found here under its name; what is damaged, or for another machine, is not run.
#[test]
fn code_that_was_made_elsewhere_is_taken_from_the_cache() {
    let wasm = compile(&programs().join("prints.c"));
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let open = || Engine::new(&engine::Options { cache: Some(cache.clone().into()), cells_max: 2, ..Default::default() }).unwrap();
    let kept = || std::fs::read_dir(&cache).unwrap().filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|e| e == "cwasm")).count();
    let here = Machine::HERE.expect("agents run on these");
    for machine in Machine::ALL {
        let (name, file) = the_engine().compile_for(&wasm, machine).unwrap();
        // The number of the machine in an ELF file, behind the checksum.
        let number = u16::from_le_bytes(file[16 + 18..16 + 20].try_into().unwrap());
        assert_eq!(number, match machine { Machine::X86_64 => 62, Machine::Aarch64 => 183 }, "{machine}");
        let files = |file: &[u8]| {
            let _ = std::fs::remove_dir_all(&cache);
            let engine = open();
            std::fs::write(cache.join(&name), file).unwrap();
            let program = engine.load(&wasm).unwrap();
            let run = run_on([&engine], &wasm, 1, &["3"], None, 0, 0);
            assert_eq!(program.tier(), Tier::Quick);
            (kept(), run.texts)
        };
        let mut damaged = file.clone();
        *damaged.last_mut().unwrap() ^= 1;
        // Where it is not taken the engine compiles, and keeps that beside it.
        let expected = if machine == here { 1 } else { 2 };
        let ((taken, text), (beside, same)) = (files(&file), files(&damaged));
        assert_eq!((taken, beside), (expected, 2), "{machine}");
        assert_eq!(text, same);
    }
    // Code for another machine under the name of this one's own: the engine looks into it, does not run it, and keeps better code under its own name.
    let (name, _) = the_engine().compile_for(&wasm, here).unwrap();
    for other in Machine::ALL.into_iter().filter(|machine| *machine != here) {
        let (_, file) = the_engine().compile_for(&wasm, other).unwrap();
        let _ = std::fs::remove_dir_all(&cache);
        let engine = open();
        std::fs::write(cache.join(&name), &file).unwrap();
        let run = run_on([&engine], &wasm, 1, &["3"], None, 0, 0);
        exited(&run);
        assert_eq!(kept(), 2, "code of {other} was taken");
        assert_eq!(std::fs::read(cache.join(&name)).unwrap(), file);
    }
}

/// What was found out about a module is kept for the next agent in this folder: of these bytes and no others, and only as long as it is whole.
#[test]
fn a_module_is_inspected_once() {
    let wasm = compile(&programs().join("prints.c"));
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let load = |wasm: &[u8]| {
        let engine = Engine::new(&engine::Options { cache: Some(cache.clone().into()), cells_max: 2, ..Default::default() }).unwrap();
        engine.load(wasm).map(|program| (program.movable(), program.tier()))
    };
    let verdict = || {
        let mut files: Vec<_> = std::fs::read_dir(&cache).unwrap().map(|file| file.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "verdict")).collect();
        files.pop()
    };
    assert_eq!(load(&wasm).unwrap(), (true, Tier::Quick));
    let file = verdict().expect("it is kept");
    let first = std::fs::read(&file).unwrap();
    assert_eq!(load(&wasm).unwrap(), (true, Tier::Quick));
    // What lies there is believed, and what is damaged is not. The checksum is that of the cache's files.
    let made = b"\0\x01\x07because\0\0";
    std::fs::write(&file, [&xxhash_rust::xxh3::xxh3_128(made).to_le_bytes()[..], made].concat()).unwrap();
    assert_eq!(load(&wasm).unwrap(), (false, Tier::Quick), "it is not asked again");
    let mut damaged = first.clone();
    damaged[20] ^= 1;
    std::fs::write(&file, &damaged).unwrap();
    assert_eq!(load(&wasm).unwrap(), (true, Tier::Quick));
    assert_eq!(std::fs::read(&file).unwrap(), first, "and is kept anew");
    // Nothing is kept of what is refused, and another module has another answer.
    std::fs::remove_file(&file).unwrap();
    let mut other = wasm.clone();
    *other.last_mut().unwrap() ^= 1;
    for refused in [&wasm[..wasm.len() - 1], b"no module", &other] {
        assert!(load(refused).is_err());
    }
    assert!(verdict().is_none());
}

/// Each function lies where this process has code that it may run.
#[test]
fn perf_is_told_what_functions_are_called() {
    let wasm = compile(&programs().join("prints.c"));
    let engine = Engine::new(&engine::Options { cells_max: 2, perf_map: true, ..Default::default() }).unwrap();
    let program = engine.load(&wasm).unwrap();
    let told = std::fs::read_to_string(format!("/tmp/perf-{}.map", std::process::id())).unwrap();
    let line = told.lines().find(|line| line.contains(" _start [")).unwrap_or_else(|| panic!("no _start among {told}"));
    let mut words = line.split(' ').map(|word| usize::from_str_radix(word, 16));
    let (Some(Ok(from)), Some(Ok(len))) = (words.next(), words.next()) else { panic!("{line}") };
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let code = maps.lines().filter(|line| line.contains(" r-x")).filter_map(|line| line.split_once(' ')?.0.split_once('-'));
    let mut code = code.map(|(from, to)| [from, to].map(|at| usize::from_str_radix(at, 16).unwrap()));
    assert!(len > 0 && code.any(|[first, end]| first <= from && from + len <= end), "{line} is not in\n{maps}");
    drop(program);
}
