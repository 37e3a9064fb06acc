//! `kill -9` of an agent or the hub at any moment of a migration: each rank runs in exactly one place or is reported lost, and sealed
//! objects are there.
//!
//! A round moves two jobs from one site to the other and kills the source, the destination or the hub at a chosen moment of that: one job
//! with checkpoints, which must end as if nothing had happened; one without, which must do the same, or fail and say which ranks were
//! lost with which site. What is right is known from a run that nobody disturbed.
//!
//! Where ranks run is not asked of the platform, which might be wrong about it, but of the kernel: a running rank is a thread that is named
//! after its rank and job. That also tells the moments apart, with the hub alive or not: before the ranks of a move stop they are at the
//! source, then nowhere, and after the verdict at the destination.

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
const STEPS: &str = "300";
/// Ranks that run nowhere for this long, with a hub that is stopped, have been sent whole and wait for its verdict.
const SENT_WHOLE: Duration = Duration::from_millis(400);
/// How often a move is begun until it is met at the moment that is wanted; those that were not met go back first.
const TRIES_MAX: u32 = 30;
/// Ranks whose destination says nothing any more stand still no longer than this: the agents' 3 s, and what the commands take through which it is seen. It would be 30 s if nobody noticed.
const HELD_UP_MAX: Duration = Duration::from_secs(15);
/// How long they are watched when they were not to stand still at all.
const WATCHED: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    Source,
    Destination,
    Hub,
}

/// When the kill comes: seen from the job without checkpoints, whose ranks stand still for its moves only.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Moment {
    /// Before the ranks stop: while memory goes ahead.
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

/// Where each rank's threads are, by their name: `r0 job-7`.
fn threads(p: &Platform) -> BTreeMap<String, Vec<&'static str>> {
    let mut found: BTreeMap<String, Vec<&'static str>> = BTreeMap::new();
    for part in ["edge", "cloud"] {
        let Some(pid) = p.pid_now(part) else { continue };
        let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for task in tasks.flatten() {
            let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            let name = name.trim();
            if name.strip_prefix('r').and_then(|n| n.split_once(" job-")).is_some_and(|(rank, _)| rank.parse::<u32>().is_ok()) {
                found.entry(name.to_string()).or_default().push(part);
            }
        }
    }
    found
}

/// Where the ranks of a job run, rank by rank.
fn sites(p: &Platform, job: &str) -> Vec<Vec<&'static str>> {
    let mut threads = threads(p);
    (0..RANKS).map(|rank| threads.remove(&format!("r{rank} {job}")).unwrap_or_default()).collect()
}

fn all_at(p: &Platform, job: &str, site: &'static str) -> bool {
    sites(p, job).iter().all(|at| *at == [site])
}

fn nowhere(p: &Platform, job: &str) -> bool {
    sites(p, job).iter().all(Vec::is_empty)
}

/// Watches until `stop` that each rank of each job has one thread at most. Says what it saw otherwise.
fn watch(p: &Platform, stop: &AtomicBool) -> Result<(), String> {
    let mut since: BTreeMap<String, Instant> = BTreeMap::new();
    while !stop.load(Ordering::SeqCst) {
        let twice: BTreeMap<String, Vec<&str>> = threads(p).into_iter().filter(|(_, at)| at.len() > 1).collect();
        since.retain(|name, _| twice.contains_key(name));
        for (name, at) in &twice {
            if since.entry(name.clone()).or_insert_with(Instant::now).elapsed() > OVERLAP_MAX {
                return Err(format!("{name} runs at {at:?} at once"));
            }
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    Ok(())
}

/// Does something while [`watch`] watches.
fn watched<T>(p: &Platform, context: &str, work: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(p, &stop));
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::SeqCst);
        let seen = watcher.join().unwrap();
        let done = done.unwrap_or_else(|why| {
            eprintln!("{context}; where ranks run: {seen:?}");
            std::panic::resume_unwind(why)
        });
        assert!(seen.is_ok(), "{context}: {}\n{}", seen.unwrap_err(), p.logs());
        done
    })
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
    // Also that the threads have the names by which they are looked for.
    p.wait("the ranks without checkpoints to run", |p| all_at(p, &jobs[1], from));
    p.wait("a checkpoint", |p| p.json(&["get", "checkpoints"]).as_array().unwrap().iter().any(|c| c["job"] == jobs[0]));
    watched(p, &context, || disturb(p, &jobs, round, part, &mut random, &context, &folders, right));
}

/// Begins to move jobs, and gives the numbers of the migrations.
fn migrate(p: &Platform, jobs: &[String; 2], to: &str, context: &str) -> [String; 2] {
    jobs.each_ref().map(|job| {
        let (text, good) = insist(p, &["migrate", job, "--to", to, "-o", "json"]);
        assert!(good, "{context}: {text}");
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["id"].to_string()
    })
}

/// How migrations stand, when none of them is open any more.
fn closed(p: &Platform, migrations: &[String]) -> bool {
    migrations.iter().all(|m| ["done", "failed"].contains(&describe(p, "migration", m)["state"].as_str().unwrap()))
}

/// Moves the jobs until the move of the second is at `moment`, and gives the migrations. What is told to stand still for this stays so.
fn aim(p: &Platform, jobs: &[String; 2], round: &Round, random: &mut StdRng, context: &str) -> [String; 2] {
    let Round { moment, from, to, .. } = *round;
    let sleep = |random: &mut StdRng, most_ms: u64| std::thread::sleep(Duration::from_micros(random.random_range(0..most_ms * 1000)));
    for n in 1..=TRIES_MAX {
        let migrations = migrate(p, jobs, to, context);
        let met = match moment {
            Moment::Any => {
                sleep(random, 250);
                true
            }
            Moment::Early => {
                sleep(random, 3);
                all_at(p, &jobs[1], from)
            }
            Moment::Ready => {
                let end = Instant::now() + PATIENCE;
                while !nowhere(p, &jobs[1]) && !all_at(p, &jobs[1], to) && Instant::now() < end {
                    std::thread::sleep(Duration::from_micros(200));
                }
                signal(p, "hub", libc::SIGSTOP);
                let stopped = Instant::now();
                let mut still = nowhere(p, &jobs[1]);
                while still && stopped.elapsed() < SENT_WHOLE {
                    std::thread::sleep(Duration::from_millis(5));
                    still = nowhere(p, &jobs[1]);
                }
                if !still {
                    signal(p, "hub", libc::SIGCONT);
                }
                still
            }
            Moment::Committed => {
                let mut state = serde_json::Value::Null;
                p.wait("a verdict", |p| {
                    state = p.json(&["describe", "migration", &migrations[1]])["state"].take();
                    state != "running"
                });
                assert_ne!(state, "failed", "{context}: nothing has happened yet\n{}", p.logs());
                sleep(random, 10);
                true
            }
        };
        if met {
            println!("{context}: met at move {n}");
            return migrations;
        }
        p.wait("what was missed to end", |p| closed(p, &migrations));
        let back = migrate(p, jobs, from, context);
        p.wait("the ranks to be back", |p| closed(p, &back));
        assert!(all_at(p, &jobs[1], from), "{context}: {} is not back: {:?}\n{}", jobs[1], sites(p, &jobs[1]), p.logs());
    }
    panic!("{context}: {TRIES_MAX} moves, and none was met at {moment:?}");
}

#[allow(clippy::too_many_arguments)]
fn disturb(p: &Platform, jobs: &[String; 2], round: &Round, part: &str, random: &mut StdRng, context: &str, folders: &[String; 2], right: &Right) {
    let (old, ports) = (p.pid(part), ports(p));
    let migrations = aim(p, jobs, round, random, context);
    p.kill(part);
    if round.moment == Moment::Ready && part != "hub" {
        std::thread::sleep(Duration::from_micros(random.random_range(0..100_000)));
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
        let migration = describe(p, "migration", &migrations[i]);
        ends.push(format!("{job} {state} after {} restarts, migration {} {}", told["restarts"], migration["state"], migration["reason"]));
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

/// The steps that each rank has printed, as far as it is known by now.
fn printed(p: &Platform, job: &str) -> Vec<usize> {
    (0..RANKS).map(|r| p.ok(&["logs", job, "--rank", &r.to_string()]).lines().count()).collect()
}

/// Waits until each rank has printed two lines more: one for each ten steps, so the second is of steps that were made since.
fn goes_on(p: &Platform, job: &str, context: &str) {
    let (before, began) = (printed(p, job), Instant::now());
    while printed(p, job).iter().zip(&before).any(|(now, before)| *now < before + 2) {
        assert!(began.elapsed() < HELD_UP_MAX, "{context}: the ranks have stood still for {HELD_UP_MAX:?}\n{}", p.logs());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A destination that is stopped (`SIGSTOP`, or a machine that swaps, or a network that swallows everything) before it has confirmed.
#[test]
fn a_destination_that_stops_holds_nobody_up() {
    let p = Platform::start();
    // What is rewritten all the time is sent while the ranks stand still: long enough to stop the destination meanwhile.
    let arguments = ["2500", "5", "65536"];
    let start = |folder: &str| p.submit(&steps(), &["--np", "2", "--site", "edge", "--pinned"], &[&[folder], &arguments[..]].concat());
    let (undisturbed, job) = (start("/out/right"), start("/out/held"));
    p.wait("the ranks to run", |p| all_at(p, &job, "edge") && p.job(&job)["state"] == "running");
    watched(&p, "a destination that stops", || {
        for (stands, continued) in [(false, true), (true, true), (false, false), (true, false)] {
            everyone_back(&p);
            let context = format!("the destination stops {}, and {}", if stands { "while the ranks stand still" } else { "before they stop" }, if continued { "goes on" } else { "dies" });
            let migration = stop_destination(&p, &job, stands, &context);
            let stopped = Instant::now();
            goes_on(&p, &job, &context);
            println!("{context}: went on within {:?}", stopped.elapsed());
            while !stands && stopped.elapsed() < WATCHED {
                goes_on(&p, &job, &context);
            }
            assert!(all_at(&p, &job, "edge"), "{context}: {:?}", sites(&p, &job));
            if continued {
                signal(&p, "cloud", libc::SIGCONT);
            } else {
                p.kill("cloud");
            }
            p.wait("the move to end", |p| closed(p, std::slice::from_ref(&migration)));
            let told = describe(&p, "migration", &migration);
            let reason = told["reason"].as_str().unwrap();
            println!("{context}: {} {reason}", told["state"]);
            if told["state"] == "done" && continued && !stands {
                p.ok(&["migrate", &job, "--to", "edge", "--wait"]); // it was late, and that was all
            } else {
                assert!(told["state"] == "failed" && !reason.is_empty(), "{context}: {told:#}");
            }
        }
        // Nothing is left of it: the next move is made.
        everyone_back(&p);
        let (text, good) = insist(&p, &["migrate", &job, "--to", "cloud", "--wait"]);
        assert!(good, "{text}\n{}", p.logs());
        assert!(all_at(&p, &job, "cloud"), "{:?}", sites(&p, &job));
        for job in [&undisturbed, &job] {
            p.succeeded(job);
        }
        assert_eq!(output(&p, &job, "held"), output(&p, &undisturbed, "right"));
    });
}

/// Begins to move a job from the edge to the cloud and stops the cloud before it has confirmed: while the ranks run, or while they stand still.
fn stop_destination(p: &Platform, job: &str, stands: bool, context: &str) -> String {
    for n in 1..=TRIES_MAX {
        let (text, good) = insist(p, &["migrate", job, "--to", "cloud", "-o", "json"]);
        assert!(good, "{context}: {text}");
        let migration = serde_json::from_str::<serde_json::Value>(&text).unwrap()["id"].to_string();
        let end = Instant::now() + PATIENCE;
        while stands && !nowhere(p, job) && !all_at(p, job, "cloud") && Instant::now() < end {
            std::thread::sleep(Duration::from_micros(200));
        }
        signal(p, "cloud", libc::SIGSTOP);
        let met = if stands { nowhere(p, job) } else { all_at(p, job, "edge") };
        // Had it confirmed already, the hub would decide at once.
        std::thread::sleep(SENT_WHOLE);
        if met && describe(p, "migration", &migration)["state"] == "running" {
            println!("{context}: met at move {n}");
            return migration;
        }
        signal(p, "cloud", libc::SIGCONT);
        p.wait("what was missed to end", |p| closed(p, std::slice::from_ref(&migration)));
        if all_at(p, job, "cloud") {
            p.ok(&["migrate", job, "--to", "edge", "--wait"]);
        }
    }
    panic!("{context}: {TRIES_MAX} moves, and none was met");
}
