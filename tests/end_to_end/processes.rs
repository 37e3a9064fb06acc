//! A program that forks, as its user has it: on the spot, as a job at a site, asked to move while its processes run, and cancelled with them.

use crate::platform::{CLOUDSKIN, Platform, root, run};
use std::process::Command;
use std::time::Duration;

/// Numbers that keep the workers at it until the job is cancelled.
const LONG: &str = "20000000";

#[test]
fn a_job_with_processes_stays_while_they_run_and_ends_with_them() {
    let source = root().join("tests/programs/workers.c");
    let folder = tempfile::tempdir().unwrap();
    let (native, program) = (folder.path().join("native"), folder.path().join("workers"));
    run(Command::new("gcc").args(["-O2", "-o"]).arg(&native).arg(&source));
    run(Command::new(CLOUDSKIN).args(["cc", "-O2", "-o"]).arg(&program).arg(&source));
    let expected = run(Command::new(&native).args(["1000", "3"]));
    assert_eq!(run(Command::new(&program).args(["1000", "3"])), expected, "as ./prog");

    let platform = Platform::start();
    let job = platform.submit(&program, &["--pinned", "--site", "edge"], &["1000", "3"]);
    platform.succeeded(&job);
    assert_eq!(platform.ok(&["logs", &job]), expected);

    let job = platform.submit(&program, &["--pinned", "--site", "edge"], &[LONG, "3"]);
    platform.wait("it is at work", |p| p.job(&job)["state"] == "running");
    // The first that it does is to fork.
    std::thread::sleep(Duration::from_secs(1));
    let (said, _) = platform.fails(&["migrate", &job, "--to", "cloud", "--wait"]);
    assert!(said.contains("processes beside its first one (fork)"), "{said}");
    assert_eq!(platform.job(&job)["state"], "running", "it goes on where it is");
    platform.ok(&["cancel", &job]);
    assert_eq!(platform.ended(&job)["state"], "cancelled");
}
