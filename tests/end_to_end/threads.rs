//! A program with OpenMP as its user has it: moved between two sites in the middle of its regions, written to a file, and restored from that.

use crate::moves::Mover;
use crate::platform::{CLOUDSKIN, Platform, root, run};
use std::process::Command;
use std::time::Duration;

const ROUNDS: &str = "2000";
/// Those of ranks with teams are short.
const HYBRID_STEPS: &str = "24000";
/// Migrations, if the program takes so long.
const MIGRATIONS_MAX: usize = 10;

#[test]
fn a_whole_team_moves_and_is_restored() {
    let source = root().join("crates/execution/cells/tests/programs/threads/regions.c");
    let folder = tempfile::tempdir().unwrap();
    let (native, module) = (folder.path().join("regions"), folder.path().join("regions.wasm"));
    run(Command::new("gcc").args(["-O2", "-fopenmp", "-o"]).arg(&native).arg(&source));
    run(Command::new(CLOUDSKIN).args(["cc", "-O2", "-fopenmp", "-o"]).arg(&module).arg(&source));
    let expected = run(Command::new(&native).arg(ROUNDS));
    let told = run(Command::new(CLOUDSKIN).arg("inspect").arg(&module));
    assert!(told.lines().any(|l| l.contains("can move") && l.contains("yes")), "{told}");

    let platform = Platform::start();
    let mut mover = Mover::new("regions");
    let job = platform.submit(&module, &["--pinned", "--site", "edge"], &[ROUNDS]);
    platform.wait("its first round", |p| p.ok(&["logs", &job]).contains("round 0:"));
    let file = folder.path().join("regions.snapshot");
    platform.ok(&["checkpoint", &job, "--out", file.to_str().unwrap()]);
    while mover.done.len() < MIGRATIONS_MAX && mover.move_some(&platform, &job) {
        mover.pause(Duration::from_millis(50));
    }
    platform.succeeded(&job);
    assert_eq!(platform.ok(&["logs", &job]), expected);
    mover.report("regions");
    assert!(mover.done.len() > 1, "it was hardly moved; give it more rounds");

    let again = platform.json(&["restore", file.to_str().unwrap(), "--site", "cloud"])["id"].as_str().unwrap().to_string();
    platform.succeeded(&again);
    let log = platform.ok(&["logs", &again]);
    let (note, rest) = log.trim_start().split_once('\n').unwrap();
    assert!(note.contains("before the checkpoint"), "{note}");
    assert!(expected.ends_with(rest) && rest.contains("critical"), "it printed the rest: {rest}");
}

/// MPI between two ranks, a team in each, apart and together while the job runs: the same output as where nothing moves.
#[test]
fn ranks_with_teams_move_one_by_one() {
    let source = root().join("crates/execution/cells/tests/programs/threads/hybrid.c");
    let folder = tempfile::tempdir().unwrap();
    let module = folder.path().join("hybrid.wasm");
    run(Command::new(CLOUDSKIN).args(["cc", "-O2", "-fopenmp", "-o"]).arg(&module).arg(&source));
    let told = run(Command::new(CLOUDSKIN).arg("inspect").arg(&module));
    assert!(told.lines().any(|l| l.contains("can move") && l.contains("yes")), "{told}");
    // On this machine by itself, without a platform.
    let expected = run(Command::new(CLOUDSKIN).arg("exec").arg(&module).arg(HYBRID_STEPS).env("CLOUDSKIN_NP", "2").env("OMP_NUM_THREADS", "2"));
    assert!(expected.contains("history"), "{expected}");

    let platform = Platform::start();
    let mut mover = Mover::new("hybrid");
    let job = platform.submit(&module, &["--np", "2", "--pinned", "--site", "edge", "--env", "OMP_NUM_THREADS=2"], &[HYBRID_STEPS]);
    platform.wait("its first steps", |p| p.ok(&["logs", &job]).contains("step 63:"));
    while mover.done.len() < MIGRATIONS_MAX && mover.move_some(&platform, &job) {
        mover.pause(Duration::from_millis(50));
    }
    platform.succeeded(&job);
    assert_eq!(platform.ok(&["logs", &job]), expected);
    mover.report("hybrid");
    assert!(mover.done.len() > 1, "it was hardly moved; give it more steps");
}
