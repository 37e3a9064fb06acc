//! MPICH's own test suite on ranks that are moved about while it runs: a judge that nobody here wrote.
//!
//! `setup/setup.sh test` fetches the programs (`setup/suites.sh`), `tests/suites/mpich/list.txt` says which are run. All of them take some minutes,
//! so a run takes one part of [`PARTS`], another one each day; `CLOUDSKIN_SUITE_PART=all` takes all, and a number that part; `CLOUDSKIN_SUITE_ONLY=rma/` those whose path begins so. `cargo run --release -p tests
//! --bin suites` runs them without moves, each in a process of its own, and reports on all.

use cells::{Ended, toolchain::driver::Lang};
use crate::moving::*;
use std::path::{Path, PathBuf};

const PARTS: u64 = 8;
/// Stops of each rank of a run.
const MOVES: u32 = 3;

/// Programs that pass elsewhere and not here, and why. A program that passes must not be listed.
const FAIL: &[(&str, &str)] = &[
    ("datatype/type_large", "types made of lists have no form with 64-bit counts"),
    ("datatype/struct_no_real_types", "a type of markers alone has no extent here"),
    ("io/zero_count", "reads the file of its own program, which a cell does not see"),
    ("rma/win_large_shm", "wants a window of 1 GiB at each rank, as much as a rank has here"),
    ("topo/cartsuball", "wants no communicator where MPI 4 gives one without dimensions"),
];

struct Program {
    /// Its place in the list; also the seed of its moves, so that a run of it alone has the same.
    row: u64,
    path: String,
    ranks: u32,
    args: Vec<String>,
    /// Words for the compiler (also `-pthread`), and sources beside its own.
    defines: Vec<String>,
    more: Vec<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..")
}

fn programs_of_today() -> Vec<Program> {
    let part = match std::env::var("CLOUDSKIN_SUITE_PART") {
        Ok(part) if part == "all" => None,
        Ok(part) => Some(part.parse().expect("CLOUDSKIN_SUITE_PART is a number or \"all\"")),
        Err(_) => Some(std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() / 86_400 % PARTS),
    };
    let list = std::fs::read_to_string(root().join("tests/suites/mpich/list.txt")).unwrap();
    let program = |(row, line): (usize, &str)| {
        let columns: Vec<&str> = line.split('\t').collect();
        let args = columns[3].split_whitespace().filter(|a| *a != "-").map(str::to_string).collect();
        let tags = || columns[7].split_whitespace();
        let defines = tags().filter(|t| t.starts_with("-D") || *t == "-pthread").map(str::to_string).collect();
        let more = tags().filter_map(|t| t.strip_prefix('+')).map(str::to_string).collect();
        Program { row: row as u64, path: columns[1].into(), ranks: columns[2].parse().unwrap(), args, defines, more }
    };
    let only = std::env::var("CLOUDSKIN_SUITE_ONLY").unwrap_or_default();
    let all = list.lines().filter(|l| !l.starts_with('#')).enumerate();
    let today = all.filter(|(i, _)| part.is_none_or(|p| *i as u64 % PARTS == p)).map(program);
    today.filter(|p| p.path.starts_with(&only)).collect()
}

fn words<'a>(words: impl IntoIterator<Item = &'a Path>) -> Vec<std::ffi::OsString> {
    let tests = root().join("tests/suites/mpich");
    let include = root().join(".setup/suites/mpich/include");
    let fixed = ["-O1".into(), "-w".into(), "-I".into(), tests.into_os_string(), "-I".into(), include.into_os_string()];
    fixed.into_iter().chain(words.into_iter().map(|w| w.as_os_str().to_owned())).collect()
}

#[test]
fn the_outside_suite_passes_while_its_ranks_move() {
    let suite = root().join(".setup/suites/mpich");
    assert!(suite.join("util/mtest.c").is_file(), "{} has no suite; `setup/setup.sh test` fetches it", suite.display());
    let object = |name: &str, threads: bool| {
        let source = suite.join("util").join(name).with_extension("c");
        let (option, suffix) = if threads { (Some("-pthread".into()), "-pthread.o") } else { (None, ".o") };
        make(Lang::C, Path::new(&format!("{name}{suffix}")), option.into_iter().chain(words([Path::new("-c"), &source]))).unwrap()
    };
    let util = [false, true].map(|threads| ["mtest", "mtest_common", "dtypes", "mtest_thread"].map(|name| object(name, threads)));
    let (mut wrong, mut moved) = (Vec::new(), 0);
    for p in &programs_of_today() {
        let sources: Vec<PathBuf> = std::iter::once(&p.path).chain(&p.more).map(|s| suite.join(s).with_extension("c")).collect();
        let name = p.path.replace('/', "-") + &p.defines.concat() + ".wasm";
        let threads = p.defines.iter().any(|d| d == "-pthread");
        let files = words(sources.iter().chain(&util[usize::from(threads)]).map(PathBuf::as_path));
        let built = make(Lang::C, Path::new(&name), p.defines.iter().map(Into::into).chain(files));
        let folder = tempfile::tempdir().unwrap();
        let outcome = built.and_then(|wasm| {
            let args: Vec<&str> = p.args.iter().map(String::as_str).collect();
            let run = run(&std::fs::read(wasm).unwrap(), p.ranks, &args, Some(folder.path()), MOVES, p.row);
            moved += run.moves;
            let said = run.texts.iter().any(|t| t.lines().any(|l| l.trim() == "No Errors"));
            match run.ended.iter().find(|e| **e != Ended::Exited(0)) {
                None if said => Ok(run.moves),
                None => Err(format!("says no ` No Errors`: {}", run.texts.concat())),
                Some(ended) => Err(format!("{ended:?}: {}", run.texts.concat())),
            }
        });
        match (outcome, FAIL.iter().find(|(path, _)| *path == p.path)) {
            (Ok(moves), None) => println!("{} on {}: passes after {moves} moves", p.path, p.ranks),
            (Err(_), Some((_, why))) => println!("{} on {}: fails as it is known to: {why}", p.path, p.ranks),
            (Ok(_), Some(_)) => wrong.push(format!("{} passes and is listed as failing", p.path)),
            (Err(e), None) => wrong.push(format!("{} on {}, seed {}: {e}", p.path, p.ranks, p.row)),
        }
    }
    println!("{moved} moves");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Some of the programs end before anything can be moved.
    assert!(moved > 0 || std::env::var("CLOUDSKIN_SUITE_ONLY").is_ok(), "no rank was moved");
}
