//! MPICH's own test suite on ranks that are moved about while it runs: a judge that nobody here wrote.
//!
//! `setup/setup.sh test` fetches the programs (`setup/suites.sh`), `tests/suites/mpich/list.txt` says which are run. All of them take some minutes,
//! so a run takes one part of [`PARTS`], another one each day; `CLOUDSKIN_SUITE_PART=all` takes all, and a number that part. `cargo run --release -p tests
//! --bin suites` runs them without moves, each in a process of its own, and reports on all.

use cells::{Ended, toolchain::driver::Lang};
use crate::moving::*;
use std::path::{Path, PathBuf};

const PARTS: u64 = 8;
/// Stops of each rank of a run.
const MOVES: u32 = 3;

/// Programs that pass elsewhere and not here, and why. A program that passes must not be listed.
const FAIL: &[(&str, &str)] = &[
    ("coll/coll_large", "calls with 64-bit counts (MPI_..._c) are not declared"),
    ("datatype/type_large", "calls with 64-bit counts (MPI_..._c) are not declared"),
    ("pt2pt/pt2pt_large", "calls with 64-bit counts (MPI_..._c) are not declared"),
    ("datatype/struct_no_real_types", "a type of markers alone has no extent here"),
    ("init/session", "MPI's sessions are not declared"),
    ("init/session_psets", "MPI's sessions are not declared"),
    ("init/session_self", "MPI's sessions are not declared"),
    ("pt2pt/isendrecv", "MPI_Isendrecv is not declared"),
    ("pt2pt/isendrecv_replace", "MPI_Isendrecv is not declared"),
    ("pt2pt/sendrecv3", "MPI_Isendrecv is not declared"),
    ("topo/cartsuball", "wants no communicator where MPI 4 gives one without dimensions"),
];

struct Program {
    path: String,
    ranks: u32,
    args: Vec<String>,
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
    let program = |line: &str| {
        let columns: Vec<&str> = line.split('\t').collect();
        let args = columns[3].split_whitespace().filter(|a| *a != "-").map(str::to_string).collect();
        Program { path: columns[1].into(), ranks: columns[2].parse().unwrap(), args }
    };
    let all = list.lines().filter(|l| !l.starts_with('#')).enumerate();
    all.filter(|(i, _)| part.is_none_or(|p| *i as u64 % PARTS == p)).map(|(_, line)| program(line)).collect()
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
    let object = |name: &str| {
        let source = suite.join("util").join(name).with_extension("c");
        make(Lang::C, &Path::new(name).with_extension("o"), words([Path::new("-c"), &source]).into_iter()).unwrap()
    };
    let util = ["mtest", "mtest_common", "dtypes", "mtest_thread"].map(object);
    let (mut wrong, mut moved) = (Vec::new(), 0);
    for (i, p) in programs_of_today().iter().enumerate() {
        let source = suite.join(&p.path).with_extension("c");
        let name = p.path.replace('/', "-") + ".wasm";
        let built = make(Lang::C, Path::new(&name), words(std::iter::once(source.as_path()).chain(util.iter().map(PathBuf::as_path))).into_iter());
        let outcome = built.and_then(|wasm| {
            let args: Vec<&str> = p.args.iter().map(String::as_str).collect();
            let run = run(&std::fs::read(wasm).unwrap(), p.ranks, &args, None, MOVES, i as u64);
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
            (Err(e), None) => wrong.push(format!("{} on {}, seed {i}: {e}", p.path, p.ranks)),
        }
    }
    println!("{moved} moves");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(moved > 0, "no rank was moved");
}
