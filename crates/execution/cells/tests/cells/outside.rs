//! Programs that nobody here wrote, as their makers publish them: built by their own build systems with `cloudskin cc`, they print and write what
//! the same sources built for this machine do, on the spot and while their ranks move.
//!
//! `setup/setup.sh test` fetches the sources, `tests/suites/programs` has a recipe for each. All of them take minutes, so a run of the tests takes one, another one
//! each day; `CLOUDSKIN_SUITE_PART=all` takes all, `CLOUDSKIN_SUITE_ONLY=qhull` those whose names begin so. `cargo run --release -p tests --bin suites -- --suite programs`
//! runs them on the spot. Their build systems call a program, so it is the one that was built last.

#[path = "../../../../../tests/src/outside.rs"]
mod recipes;

use crate::moving::*;
use cells::Ended;
use cells::toolchain::driver;
use recipes::{Described, Recipes, difference};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Stops of each rank of a run.
const MOVES: u32 = 5;

fn names_of_today(recipes: &Recipes) -> Vec<String> {
    let all = recipes.names().unwrap();
    let (here, absent): (Vec<String>, Vec<String>) = all.into_iter().partition(|n| recipes.has_sources(n).unwrap());
    if !absent.is_empty() {
        println!("without the sources of {}: `setup/setup.sh test` says why", absent.join(", "));
    }
    if let Ok(only) = std::env::var("CLOUDSKIN_SUITE_ONLY") {
        return here.into_iter().filter(|n| n.starts_with(&only)).collect();
    }
    let day = match std::env::var("CLOUDSKIN_SUITE_PART") {
        Ok(part) if part == "all" => return here,
        Ok(part) => part.parse().expect("CLOUDSKIN_SUITE_PART is a number or \"all\""),
        Err(_) => std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() / 86_400,
    };
    let quick: Vec<String> = here.into_iter().filter(|n| !recipes.describe(n, Path::new(".")).unwrap().slow).collect();
    let today = (!quick.is_empty()).then(|| quick[(day % quick.len() as u64) as usize].clone());
    today.into_iter().collect()
}

/// Runs a program in `folder/work` while its ranks move, and leaves there what `recipe.sh run` leaves. Gives the number of moves.
fn run_moving(program: &Described, folder: &Path) -> usize {
    let file = std::fs::read(&program.executable).unwrap();
    let work = folder.join("work");
    let mut moves = 0;
    for (i, args) in program.runs.iter().enumerate() {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let run = run(driver::module(&file), program.ranks, &args, Some(&work), MOVES, i as u64);
        moves += run.moves;
        // Of an exit code a process tells eight bits.
        let code = |e: &Ended| match e {
            Ended::Exited(code) => *code & 0xff,
            other => panic!("{args:?}: {other:?}: {}", run.texts.concat()),
        };
        let code = run.ended.iter().map(code).find(|c| *c != 0).unwrap_or(0);
        let (out, err) = (run.outs.concat(), run.errs.concat());
        std::fs::write(work.join(format!("out.{}", i + 1)), format!("{out}exit code {code}\n")).unwrap();
        std::fs::write(work.join(format!("err.{}", i + 1)), err).unwrap();
    }
    moves
}

#[test]
fn outside_programs_agree_with_native_ones() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..").canonicalize().unwrap();
    let recipes = Recipes { cloudskin: root.join("target/release/cloudskin"), root };
    let mut wrong = Vec::new();
    for name in names_of_today(&recipes) {
        assert!(recipes.cloudskin.is_file(), "{} is not there; `cargo build --release` makes it", recipes.cloudskin.display());
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let of = |kind: &str| -> PathBuf { folder.path().join(kind) };
        let step = |kind: &str, folder: &Path, what: &str| {
            let begin = Instant::now();
            let output = recipes.command(&name, kind, folder, what).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{name}, {kind}, {what}: {text}{}", String::from_utf8_lossy(&output.stderr));
            println!("{name}, {kind}, {what}: {:.1} s", begin.elapsed().as_secs_f64());
            text
        };
        for what in ["build", "run"] {
            step("native", &of("native"), what);
        }
        let expected = step("native", &of("native"), "compared");
        assert!(!expected.is_empty(), "{name}: nothing is compared");
        step("cell", &of("cell"), "build");
        // Before it runs there is only its input.
        std::fs::create_dir_all(of("moved").join("work")).unwrap();
        for file in std::fs::read_dir(of("cell").join("work")).unwrap().map(|e| e.unwrap()) {
            std::fs::copy(file.path(), of("moved").join("work").join(file.file_name())).unwrap();
        }
        step("cell", &of("cell"), "run");
        wrong.extend(difference(&expected, &step("cell", &of("cell"), "compared")).map(|d| format!("{name} on the spot: {d}")));

        let program = recipes.describe(&name, &of("cell")).unwrap();
        if program.moves {
            let moves = run_moving(&program, &of("moved"));
            println!("{name}: {moves} moves");
            wrong.extend(difference(&expected, &step("cell", &of("moved"), "compared")).map(|d| format!("{name} after {moves} moves: {d}")));
            assert!(moves > 0, "{name} was never moved; give it more to do");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
