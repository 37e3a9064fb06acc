//! Backtraces with source lines: of what was compiled with `-g`, in each tier that knows them, whatever the passes have made of the code.

use crate::moving::*;
use cells::toolchain::driver::Lang;
use cells::{Ended, Engine};
use std::path::Path;

fn source(name: &str) -> std::path::PathBuf {
    programs().join("lines").join(name)
}

fn made(lang: Lang, name: &str, out: &str, flags: &[&str]) -> Vec<u8> {
    let words = flags.iter().map(Into::into).chain([source(name).into_os_string()]);
    std::fs::read(make(lang, Path::new(out), words).unwrap_or_else(|e| panic!("{out}: {e}"))).unwrap()
}

/// `file:line` of a mark.
fn at(name: &str, mark: &str) -> String {
    let text = std::fs::read_to_string(source(name)).unwrap();
    let line = 1 + text.lines().position(|line| line.ends_with(&format!("at: {mark} */")) || line.ends_with(&format!("at: {mark}"))).unwrap_or_else(|| panic!("no mark {mark}"));
    format!("{name}:{line}")
}

/// What is told of a failure; of the rank that is moved so often before.
fn backtrace(engine: &Engine, wasm: &[u8], args: &[&str], moves: u32) -> String {
    match run_on([engine, engine], wasm, 1, args, None, moves, 7).ended.swap_remove(0) {
        Ended::Failed { backtrace, .. } => backtrace,
        other => panic!("{args:?}: {other:?}"),
    }
}

/// The calls of a backtrace without their numbers, as far as they are given.
fn calls(text: &str, n: usize) -> Vec<String> {
    text.lines().take(n).map(|line| line.split_once(": ").unwrap_or_else(|| panic!("{text}")).1.replace("tests/programs/lines/", "")).collect()
}

#[test]
fn a_backtrace_names_the_lines_of_what_was_compiled_with_g() {
    let wasm = made(Lang::C, "lines.c", "lines.wasm", &["-O2", "-g"]);
    let place = |mark: &str| at("lines.c", mark);
    let main = |what: &str| format!("main ({})", place(&format!("main {what}")));
    let cases: [(&str, Vec<String>); 6] = [
        ("innermost", vec![format!("divided, inlined ({})", place("divided")), format!("innermost ({})", place("innermost")), format!("outer ({})", place("outer")), main("innermost")]),
        ("counts", vec![format!("counts ({})", place("counts")), main("counts")]),
        ("follows", vec![format!("follows ({})", place("follows")), main("follows")]),
        ("indirect", vec![format!("indirect ({})", place("indirect")), main("indirect")]),
        ("deep", vec![format!("deep ({})", place("bottom")), format!("deep ({}) (and 7 more of it)", place("deep")), main("deep")]),
        ("gives_up", vec!["abort".into(), format!("gives_up ({})", place("gives_up")), main("gives_up")]),
    ];
    for (what, expected) in cases {
        for (tier, engine, moves) in [("quick", the_engine(), 0), ("quick", the_engine(), 3), ("interpreter", the_interpreter(), 0)] {
            let text = backtrace(engine, &wasm, &[what], moves);
            assert_eq!(calls(&text, expected.len()), expected, "{what}, {tier}, {moves} moves: {text}");
            assert!(!text.contains(env!("CARGO_MANIFEST_DIR")), "where the user's folder lies is nobody's business: {text}");
        }
        // What LLVM makes of a module has no lines, and that is said.
        let text = backtrace(the_fast_engine(), &wasm, &[what], 0);
        assert!(!text.contains("lines.c:") && text.contains("--tier quick"), "{what}: {text}");
    }
}

#[test]
fn lines_are_known_of_handlers_and_threads_and_without_safe_points() {
    let threads = "-DTHREADS";
    for (out, flags, last) in [
        ("lines-handles.wasm", &["-O2", "-g"][..], "main handles"),
        ("lines-fixed.wasm", &["-O2", "-g", "-fno-safe-points"], "main handles"),
        ("lines-threads.wasm", &["-O2", "-g", "-pthread", threads], "thread"),
    ] {
        let wasm = made(Lang::Cxx, "lines.cc", out, flags);
        let text = backtrace(the_engine(), &wasm, &["x"], 0);
        assert_eq!(calls(&text, 1), [format!("handles(int) ({})", at("lines.cc", "handles"))], "{out}: {text}");
        assert!(text.contains(&format!("{})", at("lines.cc", last))), "{out}: {text}");
    }
}

/// The code is the same; only who asked for lines has them in the file.
#[test]
fn without_g_nothing_is_added() {
    let (plain, with) = (made(Lang::C, "lines.c", "lines-plain.wasm", &["-O2"]), made(Lang::C, "lines.c", "lines-with.wasm", &["-O2", "-g"]));
    let sections = |wasm: &[u8]| {
        let parts = wasmparser::Parser::new(0).parse_all(wasm).map(Result::unwrap).filter_map(|payload| match payload {
            wasmparser::Payload::CustomSection(section) => Some((section.name().to_string(), section.data().to_vec())),
            other => other.as_section().map(|(id, range)| (id.to_string(), wasm[range].to_vec())),
        });
        parts.collect::<Vec<_>>()
    };
    let (mut lines, rest): (Vec<_>, Vec<_>) = sections(&with).into_iter().partition(|(name, _)| name == "cloudskin.lines");
    let (_, data) = lines.pop().expect("-g was given");
    for ((name, data), (same, plain)) in rest.iter().zip(sections(&plain)) {
        assert!(*name == same && *data == plain, "section {name} is not the same to the byte");
    }
    assert_eq!(rest.len(), sections(&plain).len());
    // About this program's own lines and not the C library's, which is ten times as large.
    assert!(data.len() < 4000, "{} bytes", data.len());
    assert!(plain.len() + data.len() + 32 > with.len());
    let text = backtrace(the_engine(), &plain, &["counts"], 0);
    assert!(text.contains("counts") && !text.contains("lines.c"), "{text}");
    for flags in [&["-O2", "-g", "-s"][..], &["-O2", "-g", "-g0"], &["-O2", "-g", "-Wl,--strip-debug"]] {
        assert!(made(Lang::C, "lines.c", "lines-without.wasm", flags) == plain, "{flags:?}");
    }
}
