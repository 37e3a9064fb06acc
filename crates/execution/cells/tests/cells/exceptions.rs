//! Programs that throw and jump: what they do is compared with what they do natively (`programs_agree_with_open_mpi`); here is how they end, what the others pay,
//! and that they move between all kinds of agents.

use crate::{alone, moving::*};
use cells::toolchain::{driver::Lang, inspect};
use cells::{Cell, Ended, engine};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn of_all(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/programs").join(name)
}

/// How a program ended whose rank is alone, and what it printed.
fn ends(wasm: &[u8], how: &str) -> (Ended, String) {
    let log = Arc::new(Log::default());
    let (program, spec) = (the_engine().load(wasm).unwrap(), alone(&["program", how], log.clone()));
    let body = move || Cell::new(the_engine(), &program, &spec, Arc::default()).unwrap().run();
    let ended = std::thread::Builder::new().stack_size(engine::THREAD_STACK).spawn(body).unwrap().join().unwrap();
    (ended, log.text(1))
}

#[test]
fn what_nobody_catches_ends_the_rank_with_its_name() {
    let wasm = compile(&programs().join("exceptions/uncaught.cc"));
    let fails = |how: &str| match ends(&wasm, how) {
        (Ended::Failed { message, backtrace, code }, text) => (message, backtrace, code, text),
        (other, text) => panic!("{how}: {other:?}, {text}"),
    };
    let (message, backtrace, _, text) = fails("runtime");
    assert_eq!(message, "rank 1: an exception that nothing catches: std::runtime_error: the field is flooded");
    assert!(backtrace.contains("main"), "{backtrace}");
    assert!(text.starts_with("seen\n"), "{text}");
    assert_eq!(fails("number").0, "rank 1: an exception that nothing catches: int");
    assert!(fails("stoi").0.starts_with("rank 1: an exception that nothing catches: std::invalid_argument: "), "{}", fails("stoi").0);
    assert_eq!(fails("longjmp").0, "rank 1: longjmp to a place whose function has returned");
    for how in ["noexceptruntime", "twice"] {
        assert_eq!(fails(how).0, "rank 1: it called abort()", "{how}");
    }
    assert_eq!(fails("aborts").2, Some(9), "MPI_Abort in the handler");
    assert_eq!(ends(&wasm, "handler"), (Ended::Exited(5), "the program's own handler\n".into()));
}

/// A module's exceptions, and whether it moves.
fn about(lang: Lang, name: &str, source: &str, flags: &[&str]) -> (bool, bool, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name);
    std::fs::write(&file, source).unwrap();
    let words = flags.iter().map(OsString::from).chain(["-O2".into(), file.into_os_string()]);
    let out = make(lang, &Path::new(name).with_extension("wasm"), words).unwrap_or_else(|e| panic!("{name}: {e}"));
    let wasm = std::fs::read(out).unwrap();
    let report = inspect::inspect(&wasm).unwrap();
    (report.exceptions, report.movable(), wasm)
}

#[test]
fn who_throws_nothing_has_no_exceptions() {
    let c = "#include <stdio.h>\nint main(void) { return puts(\"a\") < 0; }";
    assert!(matches!(about(Lang::C, "plain.c", c, &[]), (false, true, _)));
    let jumps = "#include <setjmp.h>\njmp_buf b;\nint main(void) { if (setjmp(b) == 0) longjmp(b, 1); return 0; }";
    assert!(matches!(about(Lang::C, "jumps.c", jumps, &[]), (true, true, _)));
    let cxx = "#include <cstdio>\n#include <cmath>\nint main(int n, char **) { return std::puts(\"a\") < 0 || std::sqrt(double(n)) > 9; }";
    assert!(matches!(about(Lang::Cxx, "plain.cc", cxx, &[]), (false, true, _)));
    let owns = "#include <string>\nint main(int n, char **) { std::string s(n, 'a'); return std::stoi(\"1\" + s.substr(1)) != 1; }";
    assert!(matches!(about(Lang::Cxx, "owns.cc", owns, &["-fno-exceptions"]), (false, true, _)));
    assert!(matches!(about(Lang::Cxx, "owns.cc", owns, &[]), (true, true, _)));
    assert!(matches!(about(Lang::Cxx, "owns.cc", owns, &["-fno-safe-points"]), (true, false, _)), "it runs, with the references that the compiler makes");
    let throws = "#include <cstdio>\nint main() { try { throw 3; } catch (int n) { std::printf(\"%d\\n\", n); } }";
    for flags in [&[][..], &["-fno-safe-points"]] {
        let (_, _, wasm) = about(Lang::Cxx, "throws.cc", throws, flags);
        assert_eq!(ends(&wasm, ""), (Ended::Exited(0), "3\n".into()), "{flags:?}");
    }
}

/// The agent's heap of what was thrown is emptied: a program may throw as often as it likes.
#[test]
fn exceptions_leave_nothing_behind() {
    let source = "#include <cstdio>\nint main() { long n = 0; for (int i = 0; i < 300000; i++) { try { throw i; } catch (int k) { n += k & 1; } } std::printf(\"%ld\\n\", n); }";
    let (_, _, wasm) = about(Lang::Cxx, "often.cc", source, &[]);
    let log = Arc::new(Log::default());
    let (program, mut spec) = (the_engine().load(&wasm).unwrap(), alone(&["often"], log.clone()));
    spec.memory_max = 19 << 20;
    let body = move || Cell::new(the_engine(), &program, &spec, Arc::default()).unwrap().run();
    let ended = std::thread::Builder::new().stack_size(engine::THREAD_STACK).spawn(body).unwrap().join().unwrap();
    assert_eq!((ended, log.text(1).as_str()), (Ended::Exited(0), "150000\n"));
}

/// What is thrown is a return in the one tier and the engine's in the other.
#[test]
fn exceptions_and_jumps_move_to_a_site_with_the_fast_tier() {
    for name in ["exceptions.cc", "jumps.c"] {
        let wasm = compile(&of_all(name));
        let stayed = run(&wasm, 2, &[], None, 0, 0);
        exited(&stayed);
        let moved = run_on([the_engine(), the_fast_engine()], &wasm, 2, &[], None, 20, 3);
        exited(&moved);
        assert_eq!(moved.texts, stayed.texts, "{name}");
        assert!(moved.moves > 0, "{name}: no rank was moved");
    }
}

/// As those without threads: who throws nothing is run by an engine that knows no exceptions, whatever it is compiled with.
#[test]
fn threads_that_throw_nothing_have_no_exceptions() {
    let c = "#include <pthread.h>\nstatic void *f(void *p) { return p; }\nint main(void) { pthread_t t; return pthread_create(&t, 0, f, 0) || pthread_join(t, 0); }";
    assert!(matches!(about(Lang::C, "threads-plain.c", c, &["-pthread"]), (false, true, _)));
    let thread = "#include <thread>\nint main() { int n = 1; std::thread([&] { n = 0; }).join(); return n; }";
    for (flags, exceptions) in [(&["-pthread", "-fno-exceptions"][..], false), (&["-pthread"], true)] {
        let (throws, movable, wasm) = about(Lang::Cxx, "threads-one.cc", thread, flags);
        assert_eq!((throws, movable, ends(&wasm, "").0), (exceptions, true, Ended::Exited(0)), "{flags:?}");
    }
    let throws = "#include <cstdio>\n#include <thread>\nint main() { std::thread([] { try { throw 3; } catch (int n) { std::printf(\"%d\\n\", n); } }).join(); }";
    let (_, movable, wasm) = about(Lang::Cxx, "threads-stay.cc", throws, &["-pthread", "-fno-safe-points"]);
    assert_eq!((movable, ends(&wasm, "")), (false, (Ended::Exited(0), "3\n".into())));
}

/// The heap of each thread is small, and emptied.
#[test]
fn exceptions_of_threads_leave_nothing_behind() {
    let source = "#include <cstdio>\n#include <thread>\nint main() { long n[2] = {}; auto f = [](long *n) { for (int i = 0; i < 200000; i++) { try { throw i; } catch (int k) { *n += k & 1; } } };
        std::thread one(f, &n[0]), two(f, &n[1]); one.join(); two.join(); std::printf(\"%ld %ld\\n\", n[0], n[1]); }";
    for flags in [&["-pthread"][..], &["-pthread", "-fno-safe-points"]] {
        let (_, _, wasm) = about(Lang::Cxx, "threads-often.cc", source, flags);
        assert_eq!(ends(&wasm, ""), (Ended::Exited(0), "100000 100000\n".into()), "{flags:?}");
    }
}

/// With one thread and with the library of several.
#[test]
fn variables_of_a_thread_go_with_it() {
    let source = "#include <cstdio>\nstruct A { int n = 1; ~A() { std::printf(\"gone %d\\n\", n); } };\nthread_local A a;\nint main() { a.n = 3; std::puts(\"here\"); }";
    for flags in [&[][..], &["-pthread"], &["-fno-exceptions"]] {
        let (_, _, wasm) = about(Lang::Cxx, "departs.cc", source, flags);
        assert_eq!(ends(&wasm, ""), (Ended::Exited(0), "here\ngone 3\n".into()), "{flags:?}");
    }
}

#[test]
fn threads_of_the_standard_library_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mutex.cc");
    std::fs::write(&file, "#include <mutex>\nstd::mutex m;\nint main() { m.lock(); }").unwrap();
    assert!(make(Lang::Cxx, Path::new("mutex-alone.wasm"), [file.clone().into_os_string()].into_iter()).is_err());
    assert!(make(Lang::Cxx, Path::new("mutex.wasm"), ["-pthread".into(), file.into_os_string()].into_iter()).is_ok());
}
