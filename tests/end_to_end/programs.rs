//! Small MPI programs agree with Open MPI, also when their ranks are at two sites and move between them.

use crate::moves::Mover;
use crate::platform::{Platform, mpirun, native, program, root, run};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Programs of `tests/programs` with arguments that keep them at work for a second or more; `DIR` is a folder that they may write to.
const PROGRAMS: [(&str, &[&str]); 21] = [
    ("ring", &["30000"]),
    ("pingpong", &["60"]),
    ("wildcard", &["20000"]),
    ("storm", &["140"]),
    ("reduce_ops", &["2000"]),
    ("collectives", &["3000"]),
    ("communicators", &["3000"]),
    ("datatypes", &["8000"]),
    ("heat", &["6000"]),
    ("matmul", &["576", "8"]),
    ("sort", &["6000000"]),
    ("cg", &["2000"]),
    ("life", &["2000"]),
    ("primes", &["800000000"]),
    ("queens", &["14"]),
    ("mandelbrot", &["800", "2000"]),
    ("unmatched", &["150", "200"]),
    ("files", &["DIR", "200000"]),
    ("recursion", &["36"]),
    ("send_modes", &["5000"]),
    ("longloop", &["1"]),
];
/// Migrations of one job; then it is left alone, with its ranks wherever they are.
const MIGRATIONS_MAX: usize = 12;

fn program_native(name: &str) -> PathBuf {
    native(name, &[root().join("tests/programs").join(name).with_extension("c")], &["-O2"])
}

fn with_folder(args: &[&str], folder: &str) -> Vec<String> {
    args.iter().map(|a| a.replace("DIR", folder)).collect()
}

#[test]
fn programs_at_two_sites_agree_with_open_mpi_slow() {
    let platform = Platform::start();
    let mut all = Mover::new("programs");
    let mut wrong = Vec::new();
    for (name, args) in PROGRAMS {
        let folder = tempfile::tempdir().unwrap();
        let expected = run(mpirun(4, &program_native(name)).args(with_folder(args, folder.path().to_str().unwrap())));

        let began = Instant::now();
        let (done, splits) = (all.done.len(), all.splits);
        let args = with_folder(args, &format!("/{}-out", name.replace('_', "-")));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let job = platform.submit(&program(name), &["--pinned", "--np", "4", "--site", "edge"], &args);
        platform.wait("the ranks to run", |p| p.job(&job)["state"] != "pending");
        all.migrate(&platform, &job, "cloud", &[2, 3]);
        while all.done.len() - done < MIGRATIONS_MAX && all.move_some(&platform, &job) {
            all.pause(Duration::from_millis(100));
        }
        let ended = platform.ended(&job);
        let printed = platform.ok(&["logs", &job]);
        let (done, splits) = (all.done.len() - done, all.splits - splits);
        println!("{name}: {done} migrations, {splits} of them left it at two sites, in {:.1} s", began.elapsed().as_secs_f64());
        if ended["state"] != "succeeded" || printed != expected {
            wrong.push(format!("{name}: {}: {}\n{printed}--- not\n{expected}", ended["state"], ended["reason"]));
        } else if splits == 0 {
            wrong.push(format!("{name}: it never was at two sites; give it more to do"));
        }
    }
    all.report("programs");
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), platform.logs());
}

/// Two ranks at two sites change places, one after the other, while 100000 messages are under way between them.
#[test]
fn messages_find_ranks_that_both_move_slow() {
    const MESSAGES: &str = "50000";
    let expected = run(mpirun(2, &program_native("exchange")).arg(MESSAGES));
    let platform = Platform::start();
    let mut mover = Mover::new("exchange");
    let job = platform.submit(&program("exchange"), &["--pinned", "--np", "2", "--site", "edge"], &[MESSAGES]);
    platform.wait("the ranks to run", |p| p.job(&job)["state"] != "pending");
    let began = Instant::now();
    let mut swaps = 0;
    if mover.migrate(&platform, &job, "cloud", &[1]) {
        let (mut first, mut second) = ((0, "cloud"), (1, "edge"));
        while platform.job(&job)["state"] == "running" {
            mover.pause(Duration::from_millis(50));
            let moved = mover.migrate(&platform, &job, first.1, &[first.0]) && mover.migrate(&platform, &job, second.1, &[second.0]);
            swaps += u32::from(moved);
            (first, second) = ((first.0, second.1), (second.0, first.1));
        }
    }
    platform.succeeded(&job);
    assert_eq!(platform.ok(&["logs", &job]), expected);
    mover.report(&format!("exchange, {swaps} times both ranks changed places in {:.1} s", began.elapsed().as_secs_f64()));
    assert!(swaps >= 5, "only {swaps} times both ranks changed places; give it more to do");
}
