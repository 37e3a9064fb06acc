//! Small MPI programs agree with Open MPI, also when their ranks are at two sites and move between them.

use crate::moves::Mover;
use crate::platform::{Platform, mpirun, native, program, root, run};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Programs of `tests/programs` with arguments that keep them at work for a while, also at one site; `DIR` is a folder that they may write to.
const PROGRAMS: [(&str, &[&str]); 22] = [
    ("ring", &["20000"]),
    ("pingpong", &["30"]),
    ("wildcard", &["40000"]),
    ("storm", &["50"]),
    ("reduce_ops", &["60"]),
    ("collectives", &["500"]),
    ("communicators", &["500"]),
    ("objects", &["1500"]),
    ("datatypes", &["2500"]),
    ("heat", &["2500"]),
    ("matmul", &["576", "6"]),
    ("sort", &["4000000"]),
    ("cg", &["800"]),
    ("life", &["1200"]),
    ("primes", &["400000000"]),
    ("queens", &["14"]),
    ("mandelbrot", &["800", "1000"]),
    ("unmatched", &["150", "100"]),
    ("files", &["DIR", "60000"]),
    ("recursion", &["34"]),
    ("send_modes", &["1000"]),
    ("longloop", &["1"]),
];
/// Migrations of one job; then it is left alone, with its ranks wherever they are.
const MIGRATIONS_MAX: usize = 12;
/// Programs that must have been at two sites at once.
const SPLIT_MIN: u32 = 12;
/// How often a program is started that ends before its ranks are at two sites, as may be on a machine that has other things to do.
const TRIES_MAX: u32 = 3;

fn program_native(name: &str) -> PathBuf {
    native(name, &[root().join("tests/programs").join(name).with_extension("c")], &["-O2"])
}

fn with_folder(args: &[&str], folder: &str) -> Vec<String> {
    args.iter().map(|a| a.replace("DIR", folder)).collect()
}

/// Starts a program and waits until its ranks run.
fn start(platform: &Platform, name: &str, np: u32, site: &str, args: &[String]) -> String {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let job = platform.submit(&program(name), &["--pinned", "--np", &np.to_string(), "--site", site], &args);
    platform.wait("the ranks to run", |p| p.job(&job)["state"] != "pending");
    job
}

/// How a job ended, if not as Open MPI's did.
fn difference(platform: &Platform, job: &str, expected: &str) -> Option<String> {
    let ended = platform.ended(job);
    let printed = platform.ok(&["logs", job]);
    (ended["state"] != "succeeded" || printed != expected)
        .then(|| format!("{job} {}: {}\n{}\n{printed}--- not\n{expected}", ended["state"], ended["reason"], ended["backtrace"]))
}

#[test]
fn programs_at_two_sites_agree_with_open_mpi_slow() {
    let platform = Platform::start();
    let mut mover = Mover::new("programs");
    let mut wrong = Vec::new();
    let mut split = 0;
    for (name, args) in PROGRAMS {
        let folder = tempfile::tempdir().unwrap();
        let expected = run(mpirun(4, &program_native(name)).args(with_folder(args, folder.path().to_str().unwrap())));
        let args = with_folder(args, &format!("/{}-out", name.replace('_', "-")));

        // At one site first; the cloud has it compiled then, and the first migration does not take longer than the job.
        let stays = start(&platform, name, 4, "cloud", &args);
        wrong.extend(difference(&platform, &stays, &expected).map(|d| format!("{name} at one site: {d}")));

        let (mut done, mut splits, mut seconds) = (0, 0, 0.0);
        for _ in 0..TRIES_MAX {
            let before = (mover.done.len(), mover.splits, Instant::now());
            let job = start(&platform, name, 4, "edge", &args);
            mover.migrate(&platform, &job, "cloud", &[2, 3]);
            while mover.done.len() - before.0 < MIGRATIONS_MAX && mover.move_some(&platform, &job) {
                mover.pause(Duration::from_millis(50));
            }
            let different = difference(&platform, &job, &expected);
            (done, splits, seconds) = (mover.done.len() - before.0, mover.splits - before.1, before.2.elapsed().as_secs_f64());
            wrong.extend(different.map(|d| format!("{name} after {done} migrations: {d}")));
            if splits > 0 {
                break;
            }
        }
        println!("{name}: {done} migrations, {splits} of them left it at two sites, in {seconds:.1} s");
        split += u32::from(splits > 0);
    }
    // Some are too short to be caught in the middle on a busy machine; all must agree, and most must have been apart.
    assert!(split >= SPLIT_MIN, "only {split} programs were at two sites");
    mover.report("programs");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Two ranks at two sites change places, one after the other, while hundreds of thousands of messages are under way between them.
#[test]
fn messages_find_ranks_that_both_move_slow() {
    let args = ["200000".to_string()];
    let expected = run(mpirun(2, &program_native("exchange")).args(&args));
    let platform = Platform::start();
    let mut mover = Mover::new("exchange");
    let stays = start(&platform, "exchange", 2, "cloud", &args);
    assert_eq!(difference(&platform, &stays, &expected), None);

    let job = start(&platform, "exchange", 2, "edge", &args);
    let began = Instant::now();
    mover.migrate(&platform, &job, "cloud", &[1]);
    let (mut swaps, mut sites) = (0, ["edge", "cloud"]);
    while platform.job(&job)["state"] == "running" {
        mover.pause(Duration::from_millis(100));
        // For a moment both are at one site.
        if !(mover.migrate(&platform, &job, sites[1], &[0]) && mover.migrate(&platform, &job, sites[0], &[1])) {
            break; // they come to their end
        }
        sites.swap(0, 1);
        swaps += 1;
    }
    assert_eq!(difference(&platform, &job, &expected), None);
    mover.report(&format!("exchange, {swaps} times both ranks changed places in {:.1} s", began.elapsed().as_secs_f64()));
    assert!(swaps >= 5, "only {swaps} times both ranks changed places; give it more to do");
}
