//! What somebody sees who does not know the benchmarks' names; and the one that everybody's data depends on, each time.

use std::process::Command;

fn bench(args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_bench")).args(args).env("RUST_BACKTRACE", "1").output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn who_names_no_benchmark_is_told_all_of_them() {
    let (code, help, said) = bench(&["--help"]);
    assert!(code == 0 && said.is_empty(), "{code} {said}");
    for part in ["Usage: bench [--record] NAME...", "  pingpong ", "  geds-meta ", "  stream-video ", "  all ", "  --record ", "Example: cargo run --release -p bench -- pingpong"] {
        assert!(help.contains(part), "{part} in {help}");
    }
    for (args, why) in [(&[][..], "name a benchmark"), (&["pong"], "there is no benchmark \"pong\""), (&["instantiate", "--fast"], "there is no benchmark \"--fast\"")] {
        let (code, printed, said) = bench(args);
        assert!(code == 2 && printed.is_empty(), "{code} {printed}");
        assert_eq!(said, format!("error: {why}\n\n{help}"), "no trace of a stack, and nothing else");
    }
}

/// An outage of S3 at a tenth of the published one. It ends with an error when a write fails or a byte is another one afterwards; how much the tail waits while it drains is the machine's, too, and no matter here.
#[test]
fn a_tenth_of_the_published_outage_is_survived() {
    let (code, printed, said) = bench(&["stream-outage"]);
    let rows: Vec<serde_json::Value> = printed.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let met = |name: &str| rows.iter().find(|row| row["name"] == name).map(|row| row["met"] == true);
    for name in ["stream-outage.tenth", "stream-outage.memory", "stream-outage.drained-after"] {
        assert_eq!(met(name), Some(true), "{name}: {code} {printed} {said}");
    }
}
