//! Checkpoints by schedule as their user has them: what they hold and cost is shown, a job goes on from one when its agent is killed, and one that is damaged
//! costs a step back.

use crate::platform::{CLOUDSKIN, PATIENCE, Platform, compile, root, run};
use serde_json::{Value, json};
use std::ops::RangeInclusive;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Memory of the program in MiB, of which it changes a tenth in each round.
const MIB: &str = "64";
/// Seconds of a processor that the job works, if nobody disturbs it.
const WORK: f64 = 10.0;

/// Rounds that take that long on this machine, however busy it is.
fn rounds(module: &Path) -> String {
    let user = |rounds: u32| {
        let output = Command::new("bash").args(["-c", "TIMEFORMAT=%U; time \"$@\"", "bash", CLOUDSKIN, "exec"]).arg(module).args([MIB, &rounds.to_string()]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        said.trim().parse::<f64>().unwrap_or_else(|e| panic!("{e}: {said}"))
    };
    user(0); // compiled once
    ((WORK / (user(1000) - user(0)).max(0.01)) * 1000.0).round().to_string()
}

/// The checkpoints of a job, oldest first.
fn checkpoints(p: &Platform, job: &str) -> Vec<Value> {
    p.json(&["get", "checkpoints"]).as_array().unwrap().iter().filter(|c| c["job"] == *job).cloned().collect()
}

fn id(checkpoint: &Value) -> u64 {
    checkpoint["id"].as_u64().unwrap()
}

/// Waits until the newest checkpoint of a job has a higher number than this and is the last of so many increments. The checkpoints then.
fn chain(p: &Platform, job: &str, after: u64, increments: RangeInclusive<u64>) -> Vec<Value> {
    let mut all = Vec::new();
    p.wait(&format!("{increments:?} increments of {job}"), |p| {
        all = checkpoints(p, job);
        all.last().is_some_and(|c| id(c) > after && increments.contains(&c["increments"].as_u64().unwrap()))
    });
    all
}

/// What a job that succeeds has printed. On a busy machine its work takes longer than anything else.
fn output(p: &Platform, job: &str) -> String {
    let end = Instant::now() + 4 * PATIENCE;
    while p.job(job)["state"] == "running" && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(200));
    }
    p.succeeded(job);
    p.ok(&["logs", job])
}

/// `kill -9` of the agent that has the job's only rank, once it runs. The job as it is when it has begun again so often in all.
fn kill(p: &Platform, job: &str, restarts: u64) -> Value {
    let site = p.job(job)["ranks"][0]["site"].as_str().unwrap().to_string();
    p.kill(&site);
    let mut told = Value::Null;
    p.wait("the job to begin again", |p| {
        told = p.job(job);
        told["restarts"].as_u64().unwrap() >= restarts && told["state"] == "running"
    });
    told
}

#[test]
fn a_job_goes_on_from_increments_and_a_damaged_one_costs_a_step() {
    let source = root().join("crates/execution/cells/tests/programs/churn.c");
    let (module, folder) = (compile("churn", std::slice::from_ref(&source)), tempfile::tempdir().unwrap());
    let native = folder.path().join("churn");
    run(Command::new("gcc").args(["-O2", "-o"]).arg(&native).arg(&source));
    let rounds = rounds(&module);
    let right = run(Command::new(&native).args([MIB, &rounds]));
    let p = Platform::start();
    let job = p.submit(&module, &["--pinned", "--site", "edge", "--checkpoint-every", "1s"], &[MIB, &rounds]);

    // The first is as large as the memory, those after it as what has changed: as it is told, as it is shown, and in the store.
    let made = chain(&p, &job, 0, 2..=4);
    let (said, code) = p.fails(&["checkpoint", &made[0]["id"].to_string(), "--rm"]);
    assert!(code != 0 && said.contains(&format!("has only what has changed since checkpoint {}", made[0]["id"])), "{said}");
    let stored = p.json(&["store", "ls", &format!("checkpoints/{job}/")]);
    let (table, page) = (p.ok(&["get", "checkpoints"]), p.ok(&["describe", "job", &job]));
    println!("{table}{page}");
    let bytes = |c: &Value| c["bytes"].as_u64().unwrap();
    let (complete, increments) = made.split_first().unwrap();
    assert!(complete["parent"].is_null() && bytes(complete) > 64 << 20, "{made:#?}");
    for (c, before) in increments.iter().zip(&made) {
        assert!(c["parent"] == before["id"] && bytes(c) < bytes(complete) / 4, "{made:#?}");
        assert!(c["paused_us"].as_u64().unwrap() > 0, "{c:#}");
        let key = format!("{}/rank-0", c["prefix"].as_str().unwrap());
        assert!(stored.as_array().unwrap().iter().any(|o| o["key"] == key && o["size"] == c["bytes"]), "{stored:#}");
    }
    assert!(table.lines().next().unwrap().contains("HOLDS") && table.contains("all") && table.contains(&format!("since {}", complete["id"])), "{table}");
    assert!(page.contains("MiB of changes since") && page.contains("for which ranks stood still for"), "{page}");

    let last = id(chain(&p, &job, 0, 1..=6).last().unwrap());
    let told = kill(&p, &job, 1);
    assert!(!told["from_parents"].as_array().unwrap().is_empty(), "it went on from an increment: {told:#}");

    // A file of an increment is complete.
    let stored = id(chain(&p, &job, last + 1, 1..=4).last().unwrap()).to_string();
    let file = folder.path().join("job.snapshot");
    p.ok(&["checkpoint", &stored, "--out", file.to_str().unwrap()]);
    assert!(file.metadata().unwrap().len() > 64 << 20);

    // Nothing that stands on a damaged one is of use; the one before it is.
    let damaged = folder.path().join("damaged");
    std::fs::write(&damaged, "nothing of a snapshot").unwrap();
    let made = chain(&p, &job, last + 1, 2..=4);
    let newest = made.last().unwrap();
    let prefix = newest["prefix"].as_str().unwrap();
    p.ok(&["store", "put", damaged.to_str().unwrap(), &format!("checkpoints/{prefix}/rank-0")]);
    let told = kill(&p, &job, 3);
    let before = made.iter().find(|c| c["id"] == newest["parent"]).unwrap();
    assert_eq!((&told["from_checkpoint"], &told["restarts"]), (&before["prefix"], &json!(3)), "one step back, at the price of one restart: {told:#}");
    let events = p.json(&["get", "events"]);
    let unusable: Vec<&str> = events.as_array().unwrap().iter().filter(|e| e["kind"] == "checkpoint.unusable").map(|e| e["message"].as_str().unwrap()).collect();
    assert!(unusable.len() == 1 && unusable[0].starts_with(&format!("checkpoint {prefix}: ")), "{unusable:?}");
    println!("{}", p.ok(&["describe", "job", &job]));

    assert_eq!(output(&p, &job), right, "as if nothing had happened");
    p.wait("the checkpoints of a job that has ended to go", |p| checkpoints(p, &job).is_empty());
    let again = p.json(&["restore", file.to_str().unwrap(), "--site", "cloud"])["id"].as_str().unwrap().to_string();
    let log = output(&p, &again);
    let (note, rest) = log.trim_start().split_once('\n').unwrap();
    assert!(note.contains("before the checkpoint") && right.ends_with(rest) && rest.starts_with("sum "), "{log}");
}
