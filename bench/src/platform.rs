//! How long a rank stands still in a real platform: `cloudskin up` with its three processes, asked to migrate as a user asks. Beside what two ends
//! alone take, this has the hub's verdict in it, with its commit to SQLite and the way there and back.

use crate::{compile, figure, median, root};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// For everything that is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two moves, so that the rank works.
const WORK: Duration = Duration::from_millis(500);

/// Dropped, it ends, and its processes with it.
struct Platform {
    program: PathBuf,
    folder: tempfile::TempDir,
    up: Child,
}

impl Platform {
    fn start(program: PathBuf) -> Result<Platform> {
        let folder = tempfile::tempdir()?;
        let mut command = Command::new(&program);
        command.args(["up", "--http", "127.0.0.1:0", "--data"]).arg(folder.path()).stdin(Stdio::null()).stdout(Stdio::null());
        let up = command.spawn().with_context(|| format!("start {}", program.display()))?;
        let mut platform = Platform { program, folder, up };
        let end = Instant::now() + PATIENCE;
        while !platform.folder.path().join("up.json").exists() {
            if let Some(status) = platform.up.try_wait()? {
                bail!("`cloudskin up` ended with {status}");
            }
            ensure!(Instant::now() < end, "`cloudskin up` is not up after {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(platform)
    }

    /// What `cloudskin <args>` prints.
    fn ask(&self, args: &[&str]) -> Result<String> {
        let output = Command::new(&self.program).args(args).env("CLOUDSKIN_DATA", self.folder.path()).env_remove("CLOUDSKIN_HUB").output()?;
        ensure!(output.status.success(), "cloudskin {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        let _ = self.ask(&["down"]);
        let _ = self.up.kill();
        let _ = self.up.wait();
    }
}

/// The program of this checkout, as it is now. `Err`: why there is none.
fn cloudskin() -> std::result::Result<PathBuf, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo).args(["build", "--release", "--quiet", "--workspace", "--bins"]).current_dir(root()).status();
    if !built.is_ok_and(|s| s.success()) {
        return Err("the platform does not compile: cargo build --release".into());
    }
    // Beside this program, wherever cargo puts programs.
    let here = std::env::current_exe().map_err(|e| e.to_string())?;
    let program = here.with_file_name("cloudskin");
    if program.is_file() { Ok(program) } else { Err(format!("{} is missing: cargo build --release", program.display())) }
}

/// How the moves of a platform's ranks look to its user. `copied`: what stop-and-copy of 64 MB takes, in ms.
pub fn moves(runs: usize, copied: f64) -> Result<Vec<Value>> {
    let program = match cloudskin() {
        Ok(program) => program,
        Err(why) => return Ok(vec![json!({"name": "migrate.platform_downtime", "not_run": why})]),
    };
    let platform = Platform::start(program)?;
    let mut figures = downtime(&platform, runs, copied)?;
    figures.push(whole_job(&platform)?);
    Ok(figures)
}

/// How much longer a job of four ranks that exchange halos takes when all of it moves once, half way.
fn whole_job(platform: &Platform) -> Result<Value> {
    /// Pairs of a run with a move and one without.
    const PAIRS: usize = 5;
    /// So that a run takes some 13 seconds on two cores.
    const STEPS: &str = "1500";
    let module = platform.folder.path().join("halos.wasm");
    std::fs::write(&module, compile("halos.c")?)?;
    let run = |moved: bool| -> Result<(f64, String)> {
        let told = platform.ask(&["-o", "json", "run", "--detach", "--pinned", "-n", "4", "--site", "edge", path(&module)?, "--", STEPS])?;
        let job: Value = serde_json::from_str(&told).with_context(|| told.clone())?;
        let job = job["id"].as_str().context("the job has no id")?.to_string();
        let wait = |text: &str| -> Result<String> {
            let end = Instant::now() + 2 * PATIENCE;
            loop {
                let logs = platform.ask(&["logs", &job])?;
                if logs.contains(text) {
                    return Ok(logs);
                }
                ensure!(Instant::now() < end, "the program did not say {text:?} within {:?}: {logs}", 2 * PATIENCE);
                std::thread::sleep(Duration::from_millis(200));
            }
        };
        wait("ready")?;
        std::thread::sleep(Duration::from_secs(4));
        if moved {
            platform.ask(&["migrate", &job, "--to", "cloud", "--wait"])?;
        }
        let logs = wait("seconds, sum")?;
        let line = logs.lines().find_map(|l| l.split_once(" seconds, ")).context("it says no time")?;
        let took = line.0.rsplit(' ').next().and_then(|s| s.parse().ok()).with_context(|| format!("it says {line:?}"))?;
        Ok((took, line.1.to_string()))
    };
    let (mut moved, mut stayed) = (Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        let ((with, sum), (without, same)) = (run(true)?, run(false)?);
        ensure!(sum == same, "the job that moved says {sum:?}, the other one {same:?}");
        moved.push(with);
        stayed.push(without);
    }
    let (moved, stayed) = (median(moved), median(stayed));
    Ok(figure("migrate.whole_job", "s", "<= 1.05x", moved, Some(stayed), PAIRS, moved <= 1.05 * stayed))
}

/// Moves one rank of 64 MB, which rewrites 10 % of its memory per second, to and fro `runs` times.
fn downtime(platform: &Platform, runs: usize, copied: f64) -> Result<Vec<Value>> {
    let module = platform.folder.path().join("rewrite.wasm");
    std::fs::write(&module, compile("rewrite.c")?)?;
    let told = platform.ask(&["-o", "json", "run", "--detach", "--pinned", "--site", "edge", path(&module)?])?;
    let job: Value = serde_json::from_str(&told).with_context(|| told.clone())?;
    let job = job["id"].as_str().context("the job has no id")?;
    let end = Instant::now() + PATIENCE;
    while !platform.ask(&["logs", job])?.contains("ready") {
        ensure!(Instant::now() < end, "the program did not get ready within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
    let (mut downtimes, mut totals) = (Vec::new(), Vec::new());
    for to in ["cloud", "edge"].iter().cycle().take(runs) {
        std::thread::sleep(WORK);
        let told = platform.ask(&["-o", "json", "migrate", job, "--to", to, "--wait"])?;
        let migration: Value = serde_json::from_str(&told).with_context(|| told.clone())?;
        let ms = |key: &str| migration[key].as_f64().filter(|ms| *ms > 0.0).with_context(|| format!("no {key} in {migration}"));
        ensure!(migration["state"] == "done", "{migration}");
        downtimes.push(ms("downtime_ms")?);
        totals.push(ms("total_ms")?);
    }
    platform.ask(&["cancel", job])?;
    let worst = downtimes.iter().copied().fold(0.0, f64::max);
    let downtime = median(downtimes);
    Ok(vec![
        figure("migrate.platform_downtime.p50", "ms", "<= 10", downtime, Some(copied), runs, downtime <= 10.0),
        figure("migrate.platform_downtime.max", "ms", "reported", worst, None, runs, true),
        figure("migrate.platform_total.p50", "ms", "reported", median(totals), None, runs, true),
    ])
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}
