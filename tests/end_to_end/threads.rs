//! A program with OpenMP as its user has it: moved between two sites in the middle of its regions, written to a file, and restored from that.

use crate::moves::Mover;
use crate::platform::{CLOUDSKIN, Platform, root, run};
use std::process::Command;
use std::time::{Duration, Instant};

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

/// Some seconds of LLVM's work for 200 parts.
fn large(parts: usize) -> String {
    let part = |i: usize| format!("__attribute__((noinline)) static void f{i}(double *a) {{ for (int i = 1; i < 9; i++) if (a[i] > {i}) a[0] += a[i] * {i}; else a[i] -= a[0] / a[i - 1]; }}\n");
    let (parts, calls): (String, String) = (0..parts).map(|i| (part(i), format!("f{i}(a);"))).unzip();
    format!("{parts}int main(int n, char **v) {{ double a[9] = {{n}}; {calls} return a[0] == 7; }}\n")
}

/// A job that is cancelled before its program is compiled is over at once, also where another waits for the same program: for that one it is compiled anew, until it is cancelled, too.
#[test]
fn a_cancelled_job_does_not_wait_for_its_compiler() {
    let folder = tempfile::tempdir().unwrap();
    let (source, module) = (folder.path().join("large.c"), folder.path().join("large.wasm"));
    std::fs::write(&source, large(600)).unwrap();
    run(Command::new(CLOUDSKIN).args(["cc", "-O2", "-o"]).arg(&module).arg(&source));
    let platform = Platform::start();
    let submit = || platform.submit(&module, &["--site", "edge", "--tier", "fast"], &[]);
    let compiles = || {
        let told = |task: &std::fs::DirEntry| std::fs::read_to_string(task.path().join("cmdline")).unwrap_or_default();
        let ours = |line: &str| line.contains("program.ll") && line.contains(&format!("cloudskin-{}", platform.pid("edge")));
        std::fs::read_dir("/proc").unwrap().flatten().filter(|task| ours(&told(task))).count()
    };
    let first = submit();
    platform.wait("the compiler", |_| compiles() > 0);
    let second = submit();
    let began = Instant::now();
    platform.ok(&["cancel", &first]);
    assert_eq!(platform.ended(&first)["state"], "cancelled");
    assert!(began.elapsed() < Duration::from_secs(10), "it ended after {:?}", began.elapsed());
    platform.wait("the compiler for the other job", |_| compiles() == 1);
    platform.ok(&["cancel", &second]);
    assert_eq!(platform.ended(&second)["state"], "cancelled");
    platform.wait("the end of the compiler", |_| compiles() == 0);
    let events = platform.ok(&["get", "events"]);
    assert!(!events.contains("rank.stuck"), "{events}");
}

/// Who asks for a tier that can't have the program, and who waits, is told so where they look: at the command that they have given.
#[test]
fn who_runs_a_program_is_told_what_becomes_of_its_tier() {
    let folder = tempfile::tempdir().unwrap();
    let compiled = |name: &str, text: &str| {
        let (source, module) = (folder.path().join(name), folder.path().join(name).with_extension("wasm"));
        std::fs::write(&source, text).unwrap();
        run(Command::new(CLOUDSKIN).args(["cc", "-O2", "-pthread", "-o"]).arg(&module).arg(&source));
        module
    };
    // Over before anybody could look.
    let threads = compiled("threads.c", "#include <pthread.h>\nstatic void *f(void *p) { return p; }\nint main(void) { pthread_t t; pthread_create(&t, 0, f, 0); pthread_join(t, 0); }\n");
    let large = compiled("large.c", &large(200));
    let platform = Platform::start();
    let told = |tier: &str, module: &std::path::Path| {
        let output = platform.command(&["run", "--site", "edge", "--tier", tier]).arg(module).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let notes = told("interpreter", &threads);
    assert!(notes.matches("runs in the quick tier and not in the interpreter one: it has").count() == 1, "{notes}");
    let notes = told("quick", &threads);
    assert!(!notes.contains("tier and not in"), "{notes}");
    let notes = told("fast", &large);
    assert!(notes.contains("has not begun yet: edge first makes the code"), "{notes}");
    assert_eq!(told("fast", &large), "", "its code is there");
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
