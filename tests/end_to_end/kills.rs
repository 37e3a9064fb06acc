//! `kill -9` of an agent or the hub at any moment of a migration: each rank runs in exactly one place or is reported lost, and sealed
//! objects are there.
//!
//! A round moves two jobs from one site to the other and kills the source, the destination or the hub at a random moment of that: one job
//! with checkpoints, which must end as if nothing had happened; one without, which must do the same, or fail and say which ranks were
//! lost with which site. What is right is known from a run that nobody disturbed.

use crate::platform::{PATIENCE, Platform, both, compile, root};
use rand::{Rng, SeedableRng, rngs::StdRng};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

/// Ranks of each job.
const RANKS: u32 = 2;
/// A rank that runs in two places for longer than this does so by mistake: an older life may take a moment to notice that it is over.
const OVERLAP_MAX: Duration = Duration::from_secs(1);
/// Steps of the program; each sleeps for 10 ms.
const STEPS: &str = "250";

#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    Source,
    Destination,
    Hub,
}

/// When the kill comes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Moment {
    /// While memory goes ahead.
    Early,
    /// Anywhere.
    Any,
    /// The source has said `Ready` and has no verdict: the hub does not move meanwhile.
    Ready,
    /// Just after the commit.
    Committed,
}

/// What a job prints and writes when nobody disturbs it: rank by rank, the log and the file.
type Right = Vec<(String, Vec<u8>)>;

fn steps() -> PathBuf {
    compile("faults_steps", &[root().join("tests/programs/faults/steps.c")])
}

fn output(p: &Platform, job: &str, folder: &str) -> Right {
    let rank = |r: u32| {
        let log = p.ok(&["logs", job, "--rank", &r.to_string()]);
        let file = p.data().join(format!("{job}-{r}.got"));
        p.ok(&["store", "get", &format!("out/{folder}/rank-{r}.txt"), file.to_str().unwrap()]);
        (log, std::fs::read(file).unwrap())
    };
    (0..RANKS).map(rank).collect()
}

/// How many threads with a rank's name live in both agents together.
fn threads(p: &Platform) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for part in ["edge", "cloud"] {
        let Some(pid) = p.pid_now(part) else { continue };
        let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for task in tasks.flatten() {
            let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            if name.starts_with("rank ") {
                *found.entry(name.trim().to_string()).or_default() += 1;
            }
        }
    }
    found
}

/// Watches until `stop` that no rank runs more often than there are jobs. Says what it saw otherwise.
fn watch(p: &Platform, jobs: usize, stop: &AtomicBool) -> Result<(), String> {
    let mut since: Option<Instant> = None;
    while !stop.load(Ordering::SeqCst) {
        let seen = threads(p);
        match seen.iter().find(|(_, n)| **n > jobs) {
            Some(_) if since.is_some_and(|s| s.elapsed() > OVERLAP_MAX) => return Err(format!("{jobs} jobs run, and these threads: {seen:?}")),
            Some(_) => drop(since.get_or_insert_with(Instant::now)),
            None => since = None,
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    Ok(())
}

/// `cloudskin <args>`, again while the hub is away or busy with the job. Says what it printed, and whether it succeeded.
fn insist(p: &Platform, args: &[&str]) -> (String, bool) {
    let end = Instant::now() + PATIENCE;
    loop {
        let output = p.command(args).output().unwrap();
        let text = both(&output);
        let again = ["try again", "no hub answers", "connection to the hub"].iter().any(|t| text.contains(t));
        if output.status.success() || !again || Instant::now() > end {
            return (text, output.status.success());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A description, also while the hub is away.
fn describe(p: &Platform, what: &str, name: &str) -> serde_json::Value {
    let (text, good) = insist(p, &["describe", what, name, "-o", "json"]);
    assert!(good, "{text}");
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn everyone_back(p: &Platform) {
    p.wait("both sites to be ready", |p| {
        let (text, good) = insist(p, &["get", "sites", "-o", "json"]);
        let sites: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        good && sites.as_array().is_some_and(|s| s.len() == 2 && s.iter().all(|s| s["state"] == "ready"))
    });
}

/// Where the hub listens.
fn ports(p: &Platform) -> [String; 2] {
    let up: serde_json::Value = serde_json::from_slice(&std::fs::read(p.data().join("up.json")).unwrap()).unwrap();
    ["http", "grpc"].map(|port| up[port].to_string())
}

fn signal(p: &Platform, part: &str, signal: i32) {
    // SAFETY: kill has no memory effects.
    unsafe { libc::kill(p.pid(part), signal) };
}

struct Round {
    seed: u64,
    victim: Victim,
    moment: Moment,
    from: &'static str,
    to: &'static str,
}

fn round(p: &Platform, n: u64, round: &Round, right: &Right) {
    let mut random = StdRng::seed_from_u64(round.seed);
    let Round { victim, moment, from, to, .. } = *round;
    let part = match victim {
        Victim::Source => from,
        Victim::Destination => to,
        Victim::Hub => "hub",
    };
    let context = format!("seed {}: {victim:?} ({part}), {moment:?}, {from} to {to}", round.seed);
    let program = steps();
    let folders = [format!("{n}-kept"), format!("{n}-bare")];
    let start = |folder: &str, options: &[&str]| {
        let arg = format!("/out/{folder}");
        p.submit(&program, &[&["--np", "2", "--site", from], options].concat(), &[&arg, STEPS])
    };
    let jobs = [start(&folders[0], &["--checkpoint-every", "1s"]), start(&folders[1], &[])];
    p.wait("a checkpoint", |p| p.json(&["get", "checkpoints"]).as_array().unwrap().iter().any(|c| c["job"] == jobs[0]));

    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(p, jobs.len(), &stop));
        let hurt = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| disturb(p, &jobs, part, moment, to, &mut random, &context, &folders, right)));
        stop.store(true, Ordering::SeqCst);
        let seen = watcher.join().unwrap();
        if let Err(why) = hurt {
            eprintln!("{context}");
            std::panic::resume_unwind(why);
        }
        assert!(seen.is_ok(), "{context}: {}\n{}", seen.unwrap_err(), p.logs());
    });
}

#[allow(clippy::too_many_arguments)]
fn disturb(p: &Platform, jobs: &[String; 2], part: &str, moment: Moment, to: &str, random: &mut StdRng, context: &str, folders: &[String; 2], right: &Right) {
    let (old, ports) = (p.pid(part), ports(p));
    let migrations: Vec<String> = jobs
        .iter()
        .map(|job| {
            let (text, good) = insist(p, &["migrate", job, "--to", to, "-o", "json"]);
            assert!(good, "{context}: {text}");
            serde_json::from_str::<serde_json::Value>(&text).unwrap()["id"].to_string()
        })
        .collect();
    let sleep = |random: &mut StdRng, most: u64| std::thread::sleep(Duration::from_micros(random.random_range(0..most * 1000)));
    match moment {
        Moment::Early => sleep(random, 15),
        Moment::Any => sleep(random, 250),
        Moment::Ready => {
            sleep(random, 60);
            signal(p, "hub", libc::SIGSTOP);
            sleep(random, 400);
        }
        Moment::Committed => {
            p.wait("a commit", |p| p.json(&["describe", "migration", &migrations[1]])["state"] != "running");
            sleep(random, 10);
        }
    }
    p.kill(part);
    if moment == Moment::Ready && part != "hub" {
        sleep(random, 100);
        signal(p, "hub", libc::SIGCONT);
    }
    p.wait("the killed part to be started again", |p| p.pid_now(part).is_some_and(|pid| pid != old));

    assert_eq!(self::ports(p), ports, "{context}: who knew the hub must find it again");
    let ended = jobs.each_ref().map(|job| {
        let end = Instant::now() + PATIENCE;
        loop {
            let told = describe(p, "job", job);
            if !["pending", "running"].contains(&told["state"].as_str().unwrap()) {
                return told;
            }
            assert!(Instant::now() < end, "{context}: {job} hangs: {told:#}\n{}", p.logs());
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    everyone_back(p);
    let mut ends = Vec::new();
    for (i, (job, told)) in jobs.iter().zip(&ended).enumerate() {
        let kept = i == 0;
        let state = told["state"].as_str().unwrap();
        if state == "succeeded" {
            let got = output(p, job, &folders[i]);
            for (r, ((log, file), (right_log, right_file))) in got.iter().zip(right).enumerate() {
                assert_eq!(log, right_log, "{context}: {job} rank {r} printed something else; restarts {}\n{}", told["restarts"], p.logs());
                assert_eq!(String::from_utf8_lossy(file), String::from_utf8_lossy(right_file), "{context}: {job} rank {r} wrote something else\n{}", p.logs());
            }
        } else {
            assert!(!kept, "{context}: {job} has checkpoints and {state}: {told:#}\n{}", p.logs());
            assert_ne!(part, "hub", "{context}: a hub takes no rank with it: {told:#}\n{}", p.logs());
            let reason = told["reason"].as_str().unwrap();
            assert!(state == "failed" && reason.contains(&format!("{part:?}")), "{context}: the reason does not name the site: {reason}");
            let lost: Vec<u64> = told["ranks"].as_array().unwrap().iter().filter(|r| r["state"] == "lost").map(|r| r["rank"].as_u64().unwrap()).collect();
            assert!(!lost.is_empty() && reason.contains(&format!("ranks {lost:?}")), "{context}: ranks {lost:?} are lost, and the reason is: {reason}");
            assert!(reason.contains("--checkpoint-every"), "{context}: the reason does not say how to be safe: {reason}");
        }
        ends.push(format!("{job} {state} after {} restarts, migration {}", told["restarts"], describe(p, "migration", &migrations[i])["state"]));
    }
    p.wait(&format!("all ranks to be gone ({context})"), |p| threads(p).is_empty());
    println!("{context}: {}", ends.join("; "));
}

/// Twelve rounds: each victim at each moment.
fn kills(seed: u64) {
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let p = Platform::start();
    let undisturbed = p.submit(&steps(), &["--np", "2", "--site", "edge"], &["/out/right", STEPS]);
    // Objects that were sealed before anything died, at both sites.
    let mut sealed = Vec::new();
    for (i, site) in ["edge", "cloud", "edge", "cloud"].iter().enumerate() {
        let file = p.data().join(format!("sealed-{i}"));
        let bytes: Vec<u8> = (0..300_000 + i * 777_777).map(|_| random.random()).collect();
        std::fs::write(&file, &bytes).unwrap();
        let name = format!("sealed/{i}");
        p.ok(&["store", "put", file.to_str().unwrap(), &name, "--site", site]);
        sealed.push((name, Sha256::digest(&bytes)));
    }
    p.succeeded(&undisturbed);
    let right = output(&p, &undisturbed, "right");
    assert!(right.iter().all(|(log, file)| log.contains("done") && file.ends_with(b"\n")), "{right:?}");

    let victims = [Victim::Source, Victim::Destination, Victim::Hub];
    let moments = [Moment::Early, Moment::Any, Moment::Ready, Moment::Committed];
    for n in 0..12u64 {
        // In turn, because `up` takes a part that dies five times in quick succession for broken.
        let (from, to) = if (n / 3) % 2 == 0 { ("edge", "cloud") } else { ("cloud", "edge") };
        let r = Round { seed: random.random(), victim: victims[n as usize % 3], moment: moments[n as usize % 4], from, to };
        round(&p, n, &r, &right);
        for (name, sum) in &sealed {
            let file = p.data().join("got");
            p.ok(&["store", "get", name, file.to_str().unwrap()]);
            assert_eq!(Sha256::digest(std::fs::read(&file).unwrap()), *sum, "seed {}: {name} is another object now", r.seed);
        }
    }
}

#[test]
fn ranks_are_in_one_place_or_lost_1() {
    kills(1);
}

#[test]
fn ranks_are_in_one_place_or_lost_2() {
    kills(2);
}

#[test]
fn ranks_are_in_one_place_or_lost_3() {
    kills(rand::random());
}
