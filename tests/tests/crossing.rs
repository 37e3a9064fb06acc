//! The tool that sends programs from one machine to another (`src/bin/crossing`), with this machine on both sides: what is left to `make aarch64` is the other processor alone.

use serde_json::Value;
use std::process::Command;

#[test]
fn programs_go_from_process_to_process_by_files_in_the_middle_of_their_work() {
    let json = tempfile::NamedTempFile::new().unwrap();
    let seed = rand::random::<u32>().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_crossing"));
    command.args(["prove", "--only", "numbers.c", "--only", "programs/files.c", "--seed", &seed, "--json"]).arg(json.path());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "seed {seed}: {}", output.status);
    assert!(text.contains("this shows nothing of another processor"), "it says what it has not shown");
    let lines: Vec<Value> = std::fs::read_to_string(json.path()).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let summary = &lines.last().unwrap()["summary"];
    let rows = lines.iter().filter(|line| line["route"].is_string());
    assert_eq!(summary["rows"], rows.clone().count());
    assert_eq!(summary["right"], summary["rows"]);
    // Each route but the first of each program moves at least once, and the way back and forth three times.
    let least = rows.map(|row| match row["route"].as_str().unwrap() { "back and forth" => 3, route if route.starts_with("stays") => 0, _ => 1 }).sum::<u64>();
    assert!(least > 20 && summary["moves"].as_u64().unwrap() >= least, "{summary}, at least {least} moves");
}
