//! One test, many seeds: each in a process of its own, for a process has one simulation.

use std::{
    collections::BTreeMap,
    io::{Read, Seek},
    process::{Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

/// The seed of the run that is to be done in this process; for a person, the way to repeat one.
const ONE: &str = "SIMULATED";
/// The first seed and how many, where those that the test asks for are not wanted.
const FIRST: &str = "SEED";
const MANY: &str = "SEEDS";
/// A run that takes longer, of real time, goes round and round.
const PATIENCE: Duration = Duration::from_secs(240);
/// Of what a run that failed has written, as many lines are told.
const LINES: usize = 60;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text:?} is not a number")))
}

/// Runs `work` under `many` seeds, as many at a time as there are processors; the first one twice, and both runs must be the same. `test` is the name of the calling test, which is
/// called again for each.
///
/// `SEED` is the first seed, drawn if it is not given, and `SEEDS` how many; `SIMULATED=7` does seed 7 alone, in this process, where a debugger sees it.
///
/// Panics with what a run has written if that fails, and says how it is repeated.
pub fn each(test: &str, many: u64, work: impl FnOnce(u64) + Send + 'static) {
    if let Some(seed) = number(ONE) {
        let (result, run) = crate::run(seed, move || work(seed));
        println!("seed {seed}: {run}");
        if let Err(panicked) = result {
            std::panic::resume_unwind(panicked);
        }
        return;
    }
    let first = number(FIRST).unwrap_or_else(|| rand::random::<u32>().into());
    let many = number(MANY).unwrap_or(many);
    println!("SEED={first} SEEDS={many}");
    let next = AtomicU64::new(0);
    let (runs, failed) = (Mutex::new(BTreeMap::new()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |n| n.get()) {
            scope.spawn(|| {
                loop {
                    // The first one again comes last.
                    let n = next.fetch_add(1, SeqCst);
                    if n > many {
                        return;
                    }
                    match one(test, first.wrapping_add(n % many)) {
                        Ok(run) => drop(runs.lock().unwrap().insert(n, run)),
                        Err(why) => failed.lock().unwrap().push(why),
                    }
                }
            });
        }
    });
    let (runs, failed) = (runs.into_inner().unwrap(), failed.into_inner().unwrap());
    assert!(failed.is_empty(), "{} of {many} runs failed:\n{}", failed.len(), failed.join("\n\n"));
    runs.iter().take(many as usize).for_each(|(_, run)| println!("{run}"));
    assert_eq!(runs[&0], runs[&many], "seed {first} did not repeat its run; {}=… says where they part", crate::STEPS);
}

/// The line in which a run says what it was; else what it has written.
fn one(test: &str, seed: u64) -> Result<String, String> {
    let mut output = tempfile::tempfile().unwrap();
    let shared = || Stdio::from(output.try_clone().unwrap());
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(ONE, seed.to_string()).stdout(shared()).stderr(shared());
    let mut child = command.spawn().unwrap();
    let end = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status.to_string(),
            None if Instant::now() > end => {
                let _ = child.kill();
                let _ = child.wait();
                break format!("not done after {PATIENCE:?}");
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let mut written = Vec::new();
    output.rewind().and_then(|()| output.read_to_end(&mut written)).unwrap();
    let written = String::from_utf8_lossy(&written);
    let said = written.lines().find(|line| line.starts_with(&format!("seed {seed}: ")) && line.contains(" steps, "));
    match said.filter(|_| status == "exit status: 0") {
        Some(run) => Ok(run.to_string()),
        None => {
            let lines: Vec<&str> = written.lines().collect();
            let last = lines[lines.len().saturating_sub(LINES)..].join("\n");
            Err(format!("seed {seed}, {status}; to repeat it: {ONE}={seed} and `--exact {test} --nocapture`\n{last}"))
        }
    }
}
