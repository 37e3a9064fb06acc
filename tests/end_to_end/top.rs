//! `cloudskin top`: who uses what, and who talks to whom, to the last message.

use crate::platform::{CLOUDSKIN, Platform, program};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::process::{Command, Stdio};

/// What a rank has exchanged with each other one, by their numbers: messages sent and received, bytes sent and received.
fn exchanged(load: &Value) -> Vec<[u64; 5]> {
    let of = |p: &Value| ["rank", "sent", "received", "sent_bytes", "received_bytes"].map(|key| p[key].as_u64().unwrap());
    let mut all: Vec<_> = load["peers"].as_array().unwrap().iter().map(of).collect();
    all.sort();
    all
}

#[test]
fn it_counts_each_message_also_when_a_rank_has_moved_and_its_table_lives_on_a_terminal() {
    let platform = Platform::start();
    let job = platform.submit(&program("talk"), &["--np", "3", "--site", "edge", "--pinned"], &[]);
    // As `talk.c` says, whose ranks wait for ever afterwards.
    let counts = [
        vec![[1, 1000, 0, 100_000, 0], [2, 5, 1000, 500_000, 100_000]],
        vec![[0, 0, 1000, 0, 100_000], [2, 1000, 0, 100_000, 0]],
        vec![[0, 1000, 5, 100_000, 500_000], [1, 0, 1000, 0, 100_000]],
    ];
    let totals = |rank: usize| [1, 2, 3, 4].map(|column| counts[rank].iter().map(|c| c[column]).sum::<u64>());
    let until = |what: &str, sites: [&str; 3]| {
        let mut told = Value::Null;
        platform.wait(what, |p| {
            told = p.json(&["top", &job, "--json"]);
            let ranks = told.as_array().unwrap();
            let done = |(rank, load): (usize, &Value)| ["sent", "received"].iter().zip(totals(rank)).all(|(key, total)| load[key] == total);
            ranks.len() == 3 && ranks.iter().zip(sites).all(|(r, site)| r["doing"] == "MPI wait" && r["site"] == site) && ranks.iter().enumerate().all(done)
        });
        told
    };
    let check = |told: &Value, moves: [u64; 3]| {
        for (rank, load) in told.as_array().unwrap().iter().enumerate() {
            assert_eq!(exchanged(load), counts[rank], "{load:#}");
            assert_eq!(totals(rank), ["sent", "received", "sent_bytes", "received_bytes"].map(|k| load[k].as_u64().unwrap()));
            assert_eq!((&load["rank"], &load["moves"], &load["tier"], &load["np"]), (&json!(rank), &json!(moves[rank]), &json!("quick"), &json!(3)));
            assert!(load["memory_bytes"].as_u64() > Some(0), "{load:#}");
        }
        // Most bytes first.
        assert_eq!(told[0]["peers"][0]["rank"], 2);
    };
    check(&until("the exchange to end", ["edge"; 3]), [0; 3]);
    platform.ok(&["migrate", &job, "--to", "cloud", "--rank", "2", "--wait"]);
    check(&until("rank 2 to be seen in the cloud", ["edge", "edge", "cloud"]), [0, 0, 1]);

    let table = platform.ok(&["top"]);
    assert!(!table.contains('\x1b') && table.starts_with("1 job, 3 ranks · cloud "), "{table}");
    let line = |start: &[&str]| {
        let found = table.lines().find(|l| l.split_whitespace().collect::<Vec<_>>().starts_with(start));
        found.unwrap_or_else(|| panic!("no {start:?} in {table}")).to_string()
    };
    assert!(line(&[&job, "talk", "all", "cloud", "1,", "edge", "2"]).contains("3005 ("));
    let second = line(&[&job, "talk", "2", "cloud", "MPI", "wait"]);
    assert!(second.contains("1000 (97.7 KiB)") && second.contains("1005 (585.9 KiB)") && second.contains("0 (585.9 KiB), 1 (97.7 KiB)"), "{second}");
    let (said, code) = platform.fails(&["top", "job-99"]);
    assert!(said.contains("job-99") && code == 66, "{said} {code}");

    // `script` gives it a terminal, and hands on what is typed. Its shell makes room: some shells end by the signal that the program took well.
    let mut script = Command::new("script");
    script.args(["-qec", &format!("exec '{CLOUDSKIN}' top {job} --every 100ms"), "/dev/null"]).env("CLOUDSKIN_DATA", platform.data());
    let mut script = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut typed, mut seen, mut text) = (script.stdin.take().unwrap(), script.stdout.take().unwrap(), Vec::new());
    let mut piece = [0; 4096];
    while String::from_utf8_lossy(&text).matches("\x1b[H1 job, 3 ranks").count() < 3 {
        let n = seen.read(&mut piece).unwrap();
        assert!(n > 0, "it ended by itself: {}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&piece[..n]);
    }
    typed.write_all(b"\x03").unwrap();
    let mut rest = Vec::new();
    seen.read_to_end(&mut rest).unwrap();
    assert!(script.wait().unwrap().success(), "Ctrl-C ends it well: {}", String::from_utf8_lossy(&rest));
    platform.ok(&["cancel", &job]);
}
