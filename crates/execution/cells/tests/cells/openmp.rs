//! LLVM's tests of its OpenMP runtime on cells that are moved about while they run: a judge that nobody here wrote. And a program of our own, against gcc's.
//!
//! `setup/setup.sh test` fetches the programs (`setup/suites.sh`), `tests/suites/openmp/list.txt` says which are run, with arguments and environment. A
//! program passes when it exits with 0. Some take long by design (they sleep), so a run takes one part of [`PARTS`], another one each day;
//! `CLOUDSKIN_SUITE_PART=all` takes all, and a number that part.

use crate::{alone, moving::*, threads::moves_like_native};
use cells::toolchain::driver::Lang;
use cells::{Cell, Control, Ended, engine};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PARTS: u64 = 8;
/// Of each run, and microseconds between two of them.
const MOVES: u32 = 6;
const PAUSE_US: std::ops::Range<u64> = 50..20_000;
/// Of each run; the longest sleep for most of a minute.
const LIMIT: Duration = Duration::from_secs(300);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..")
}

struct Test {
    path: String,
    args: Vec<String>,
    env: Vec<String>,
}

fn tests_of_today() -> Vec<Test> {
    let part = match std::env::var("CLOUDSKIN_SUITE_PART") {
        Ok(part) if part == "all" => None,
        Ok(part) => Some(part.parse().expect("CLOUDSKIN_SUITE_PART is a number or \"all\"")),
        Err(_) => Some(std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() / 86_400 % PARTS),
    };
    let only = std::env::var("CLOUDSKIN_SUITE_ONLY").unwrap_or_default();
    let list = std::fs::read_to_string(root().join("tests/suites/openmp/list.txt")).unwrap();
    let words = |text: &str| text.split_whitespace().map(str::to_string).collect();
    let test = |line: &str| {
        let columns: Vec<&str> = line.split('\t').collect();
        Test { path: columns[1].into(), args: words(columns[2]), env: words(columns[3]) }
    };
    let all = list.lines().filter(|l| !l.starts_with('#')).enumerate();
    let all = all.filter(|(i, _)| part.is_none_or(|p| *i as u64 % PARTS == p)).map(|(_, line)| test(line));
    all.filter(|t| t.path.contains(&only)).collect()
}

/// How often it was moved.
fn passes(test: &Test, suite: &Path, seed: u64) -> Result<usize, String> {
    let name = test.path.replace('/', "-") + ".wasm";
    let words = ["-O1", "-w", "-fopenmp", "-I"].map(Into::into).into_iter().chain([suite.to_path_buf().into_os_string(), suite.join(&test.path).into_os_string(), "-lm".into()]);
    let wasm = std::fs::read(make(Lang::C, Path::new(&name), words)?).unwrap();
    let args: Vec<&str> = test.args.iter().map(String::as_str).collect();
    // Without a number in the test's environment, four threads, as its authors have it, however many processors there are.
    let mut env = test.env.clone();
    if !env.iter().any(|e| e.starts_with("OMP_NUM_THREADS=")) {
        env.push("OMP_NUM_THREADS=4".into());
    }
    let run = run_as(engines(), &wasm, &How { args: &args, env: &env, moves: MOVES, pause_us: PAUSE_US, seed, longest: LIMIT, ..How::default() });
    match &run.ended[0] {
        Ended::Exited(0) => Ok(run.moves),
        ended => Err(format!("{ended:?} after {} moves: {}", run.moves, run.texts[0].chars().take(500).collect::<String>())),
    }
}

#[test]
fn the_outside_tests_of_openmp_pass_while_their_teams_move() {
    let suite = root().join(".setup/suites/openmp");
    assert!(suite.join("omp_testsuite.h").is_file(), "{} has no tests; `setup/setup.sh test` fetches them", suite.display());
    let (mut wrong, mut moved) = (Vec::new(), 0);
    let tests = tests_of_today();
    for (seed, test) in tests.iter().enumerate() {
        let begin = Instant::now();
        match passes(test, &suite, seed as u64) {
            Ok(moves) => {
                println!("{} passes in {:.1?} after {moves} moves", test.path, begin.elapsed());
                moved += moves;
            }
            Err(e) => {
                println!("{} fails: {e}", test.path);
                wrong.push(format!("{}, seed {seed}: {e}", test.path));
            }
        }
    }
    println!("{moved} moves");
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), tests.len(), wrong.join("\n"));
    // Some of the tests end before anything can be moved.
    assert!(moved > 0 || std::env::var("CLOUDSKIN_SUITE_ONLY").is_ok(), "no team was moved");
}

/// Teams in the middle of their regions: loops of all schedules, tasks, barriers, locks, orders, and what is each thread's own.
#[test]
fn teams_move_in_the_middle_of_a_region() {
    moves_like_native("regions", "-fopenmp", 1..4, 0);
}

#[test]
fn teams_throw_and_catch_while_they_move() {
    moves_like_native("regions_throw", "-fopenmp", 1..4, 0);
}

/// The last iteration's value, however the iterations are handed out; a reduction that a thread does not come to because it has cancelled what it belongs to; and a task of several parts that must have
/// something alone.
#[test]
fn the_last_value_is_kept_and_nobody_waits_for_who_has_cancelled() {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("last.c");
    let source = r#"
#include <omp.h>
#include <stdio.h>
int main(void) {
    int a = -1, b = -1, sum = 0, all = 0;
    long c = -1;
#pragma omp parallel for lastprivate(a) schedule(dynamic, 5)
    for (int i = 0; i < 1001; i++) a = i;
#pragma omp parallel for lastprivate(b) schedule(guided, 5)
    for (int i = 0; i < 1000; i++) b = i;
#pragma omp parallel for lastprivate(c) schedule(monotonic : dynamic)
    for (long i = 10; i > 0; i--) c = i;
    printf("%d %d %ld\n", a, b, c);
    for (int n = 0; n < 20; n++) {
#pragma omp parallel sections reduction(+ : sum)
        {
#pragma omp section
            {
#pragma omp cancel sections
            }
#pragma omp section
            sum += 0;
        }
#pragma omp parallel reduction(+ : all)
        all++;
    }
    printf("%d\n", all);
    all = 0;
#pragma omp parallel
#pragma omp single
    for (int n = 0; n < 100; n++) {
#pragma omp task depend(mutexinoutset : all) shared(all) untied
        {
            int before = all;
#pragma omp taskyield
            all = before + 1;
        }
    }
    printf("%d\n", all);
    return 0;
}
"#;
    std::fs::write(&file, source).unwrap();
    let wasm = std::fs::read(make(Lang::C, Path::new("last.wasm"), ["-O2".into(), "-fopenmp".into(), file.into_os_string()].into_iter()).unwrap()).unwrap();
    let env = ["OMP_NUM_THREADS=4".to_string(), "OMP_CANCELLATION=true".to_string()];
    let run = run_as(engines(), &wasm, &How { env: &env, ..How::default() });
    assert_eq!((run.texts[0].as_str(), &run.ended[0]), ("1000 999 1\n80\n100\n", &Ended::Exited(0)));
}

/// What an agent offers while the program runs is what the next region has.
#[test]
fn a_team_grows_and_shrinks_with_what_is_offered() {
    let source = programs().join("threads/elastic.c").into_os_string();
    let wasm = std::fs::read(make(Lang::C, Path::new("elastic.wasm"), ["-O2".into(), "-fopenmp".into(), source].into_iter()).unwrap()).unwrap();
    let program = the_engine().load(&wasm).unwrap();
    let (log, control) = (Arc::new(Log::default()), Arc::<Control>::default());
    let (theirs, spec) = (control.clone(), alone(&["elastic"], log.clone()));
    control.offer_processors(2);
    let (end, ended) = std::sync::mpsc::channel();
    let body = move || end.send(Cell::new(the_engine(), &program, &spec, theirs).unwrap().run());
    std::thread::Builder::new().stack_size(engine::THREAD_STACK).spawn(body).unwrap();
    let begin = Instant::now();
    for (seen, next) in [("2\n", 4), ("4\n", 1), ("1\n", 5)] {
        while !log.text(1).ends_with(seen) {
            assert!(begin.elapsed() < LONGEST, "{}", log.text(1));
            std::thread::sleep(Duration::from_millis(1));
        }
        control.offer_processors(next);
    }
    assert_eq!(ended.recv_timeout(LONGEST), Ok(Ended::Exited(0)));
    assert_eq!(log.text(1), "differ 0\n2\n4\n1\n5\n");
}
