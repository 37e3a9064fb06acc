//! Runs MPICH's own test suite on cells, and says which of its programs pass and why the others don't.
//!
//! ```text
//! suites [--list FILE] [--only TEXT] [--jobs N] [--limit SECONDS] [--json FILE] [--programs FOLDER]
//! ```
//!
//! `setup/suites.sh` fetches the programs. Each is built by `cloudskin cc` and run as a person would run it, `CLOUDSKIN_NP=n ./program`. It passes
//! when it exits with 0 and prints a line ` No Errors`. Programs that are in the folder given already are not built again. The lists of runs are in `tests/suites/mpich`; `core.txt` is the default.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// One line of a list.
#[derive(Clone)]
struct Run {
    /// Below the suite's folder, without `.c`.
    path: String,
    ranks: u32,
    args: Vec<String>,
}

struct Outcome {
    run: Run,
    /// `None`: it has passed.
    reason: Option<String>,
    seconds: f64,
}

struct Options {
    list: PathBuf,
    only: Option<String>,
    jobs: usize,
    limit: Duration,
    json: Option<PathBuf>,
    programs: Option<PathBuf>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn options() -> Result<Options, String> {
    let mut o = Options {
        list: root().join("tests/suites/mpich/core.txt"),
        only: None,
        jobs: std::thread::available_parallelism().map_or(2, usize::from),
        limit: Duration::from_secs(60),
        json: None,
        programs: None,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--list" => o.list = value()?.into(),
            "--only" => o.only = Some(value()?),
            "--jobs" => o.jobs = value()?.parse().map_err(|_| "--jobs needs a number")?,
            "--limit" => o.limit = Duration::from_secs(value()?.parse().map_err(|_| "--limit needs seconds")?),
            "--json" => o.json = Some(value()?.into()),
            "--programs" => o.programs = Some(value()?.into()),
            _ => return Err(format!("unknown argument {arg:?}; give --list, --only, --jobs, --limit, --json or --programs")),
        }
    }
    Ok(o)
}

/// `path ranks` on a line, or the columns of `list.txt`: tier, path, ranks, arguments and what is not asked here.
fn read_list(text: &str) -> Vec<Run> {
    let lines = text.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty());
    let run = |line: &str| {
        if let [_, path, ranks, args, ..] = line.split('\t').collect::<Vec<_>>()[..] {
            let args = args.split_whitespace().filter(|a| *a != "-").map(str::to_string).collect();
            return Some(Run { path: path.into(), ranks: ranks.parse().ok()?, args });
        }
        let mut words = line.split_whitespace();
        Some(Run { path: words.next()?.into(), ranks: words.next()?.parse().ok()?, args: words.map(str::to_string).collect() })
    };
    lines.filter_map(run).collect()
}

/// The first lines of what went wrong.
fn brief(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty() && *l != "No Errors").take(3).collect();
    lines.join(" | ").chars().take(300).collect()
}

/// Runs to the end or to the limit: exit code (`None`: killed at the limit) and what it printed, standard error first.
fn bounded(command: &mut Command, limit: Duration) -> std::io::Result<(Option<i32>, String)> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    /// More of a program's output than this is not kept.
    const OUTPUT_MAX: u64 = 1 << 20;
    let read = |pipe: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            if let Some(mut pipe) = pipe {
                let _ = (&mut pipe).take(OUTPUT_MAX).read_to_end(&mut text); // what came until then is shown
                let _ = std::io::copy(&mut pipe, &mut std::io::sink()); // so that it never waits for a reader
            }
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let out = read(child.stdout.take().map(|p| Box::new(p) as _));
    let err = read(child.stderr.take().map(|p| Box::new(p) as _));
    let end = Instant::now() + limit;
    let code = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status.code().unwrap_or(-1));
        }
        if Instant::now() >= end {
            child.kill()?;
            child.wait()?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let text = |t: std::thread::JoinHandle<String>| t.join().unwrap_or_default();
    Ok((code, text(err) + &text(out)))
}

struct Suite {
    folder: PathBuf,
    work: PathBuf,
    cloudskin: PathBuf,
}

impl Suite {
    fn cc(&self, args: &[&str]) -> Result<(), String> {
        let mut command = Command::new(&self.cloudskin);
        command.arg("cc").args(["-O1", "-w"]);
        command.arg("-I").arg(root().join("tests/suites/mpich")).arg("-I").arg(self.folder.join("include")).args(args);
        match bounded(&mut command, Duration::from_secs(300)) {
            Ok((Some(0), _)) => Ok(()),
            Ok((code, text)) => {
                let errors: Vec<&str> = text.lines().filter(|l| l.contains("error") || l.contains("undefined")).collect();
                Err(format!("can't be built ({code:?}): {}", brief(if errors.is_empty() { text } else { errors.join("\n") }.as_str())))
            }
            Err(e) => Err(format!("{}: {e}", self.cloudskin.display())),
        }
    }

    /// The suite's own helpers, once for all programs.
    fn util(&self) -> Result<Vec<String>, String> {
        let object = |name: &&str| {
            let (source, object) = (self.folder.join("util").join(name), self.work.join(name).with_extension("o"));
            let (source, object) = (source.display().to_string(), object.display().to_string());
            self.cc(&["-c", &source, "-o", &object]).map(|()| object)
        };
        ["mtest.c", "mtest_common.c", "dtypes.c", "mtest_thread.c"].iter().map(object).collect()
    }

    fn build(&self, path: &str, util: &[String]) -> Result<PathBuf, String> {
        let source = self.folder.join(path).with_extension("c").display().to_string();
        let program = self.work.join(path.replace('/', "-"));
        if program.is_file() {
            return Ok(program);
        }
        let mut args = vec![source.as_str()];
        args.extend(util.iter().map(String::as_str));
        let output = program.display().to_string();
        args.extend(["-lm", "-o", &output]);
        self.cc(&args).map(|()| program)
    }

    fn run(&self, program: &Path, run: &Run, limit: Duration) -> Result<(), String> {
        let mut command = Command::new(&self.cloudskin);
        command.arg("exec").arg(program).args(&run.args).env("CLOUDSKIN_NP", run.ranks.to_string()).current_dir(&self.work);
        let (code, text) = bounded(&mut command, limit).map_err(|e| e.to_string())?;
        match code {
            None => Err(format!("not at its end after {} s: {}", limit.as_secs(), brief(&text))),
            Some(0) if text.lines().any(|l| l.trim() == "No Errors") => Ok(()),
            Some(0) => Err(format!("says no ` No Errors`: {}", brief(&text))),
            Some(code) => Err(format!("exit code {code}: {}", brief(&text))),
        }
    }
}

/// Does `work` on all items, several at a time.
fn parallel<T: Sync, R: Send>(items: &[T], jobs: usize, work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, R)>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some((i, item)) = Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|i| Some((i, items.get(i)?))) {
                    let result = work(item);
                    done.lock().unwrap_or_else(|e| e.into_inner()).push((i, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(|e| e.into_inner());
    done.sort_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, r)| r).collect()
}

fn report(outcomes: &[Outcome], json: Option<&Path>) -> Result<(), String> {
    let mut folders: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for o in outcomes {
        let folder = o.run.path.split('/').next().unwrap_or_default();
        let (passed, all) = folders.entry(folder).or_default();
        *all += 1;
        *passed += usize::from(o.reason.is_none());
        if let Some(reason) = &o.reason {
            println!("{:<40} {:>2}  {reason}", o.run.path, o.run.ranks);
        }
    }
    println!("\n{:<12} {:>7} {:>7}", "folder", "passed", "of");
    for (folder, (passed, all)) in &folders {
        println!("{folder:<12} {passed:>7} {all:>7}");
    }
    let passed = outcomes.iter().filter(|o| o.reason.is_none()).count();
    println!("{:<12} {passed:>7} {:>7}", "all", outcomes.len());
    if let Some(file) = json {
        let runs: Vec<serde_json::Value> = outcomes
            .iter()
            .map(|o| serde_json::json!({ "path": o.run.path, "ranks": o.run.ranks, "passed": o.reason.is_none(), "reason": o.reason, "seconds": o.seconds }))
            .collect();
        let folders: BTreeMap<&str, serde_json::Value> =
            folders.iter().map(|(f, (passed, all))| (*f, serde_json::json!({ "passed": passed, "runs": all }))).collect();
        let all = serde_json::json!({ "passed": passed, "runs": outcomes.len(), "folders": folders, "all": runs });
        std::fs::write(file, all.to_string()).map_err(|e| format!("write {}: {e}", file.display()))?;
    }
    Ok(())
}

fn suite(o: &Options) -> Result<bool, String> {
    let cloudskin = root().join("target/release/cloudskin");
    let folder = root().join(".setup/suites/mpich");
    if !cloudskin.is_file() {
        return Err(format!("{} is not there; build it with `cargo build --release`", cloudskin.display()));
    }
    if !folder.join("util/mtest.c").is_file() {
        return Err(format!("{} has no suite; fetch it with setup/suites.sh", folder.display()));
    }
    let text = std::fs::read_to_string(&o.list).map_err(|e| format!("read {}: {e}", o.list.display()))?;
    let wanted = |r: &Run| o.only.as_ref().is_none_or(|only| only.split(',').any(|part| r.path.contains(part)));
    let runs: Vec<Run> = read_list(&text).into_iter().filter(wanted).collect();
    let work = o.programs.clone().unwrap_or_else(|| std::env::temp_dir().join(format!("cloudskin-suites-{}", std::process::id())));
    std::fs::create_dir_all(&work).map_err(|e| format!("create {}: {e}", work.display()))?;
    let suite = Suite { folder, work, cloudskin };
    let util = suite.util()?;
    let mut paths: Vec<&String> = runs.iter().map(|r| &r.path).collect();
    paths.dedup();
    // Built once each, then run: the toolchain takes both cores, so that a limit on runs is fair.
    let built: BTreeMap<&String, Result<PathBuf, String>> = paths.iter().copied().zip(parallel(&paths, o.jobs, |p| suite.build(p, &util))).collect();
    let outcomes = parallel(&runs, o.jobs, |run| {
        let begin = Instant::now();
        let reason = built[&run.path].clone().and_then(|program| suite.run(&program, run, o.limit)).err();
        Outcome { run: run.clone(), reason, seconds: begin.elapsed().as_secs_f64() }
    });
    report(&outcomes, o.json.as_deref())?;
    if o.programs.is_none() {
        let _ = std::fs::remove_dir_all(&suite.work); // a leftover in the temporary folder harms nobody
    }
    Ok(outcomes.iter().all(|o| o.reason.is_none()))
}

fn main() {
    match options().and_then(|o| suite(&o)) {
        Ok(true) => {}
        Ok(false) => std::process::exit(1),
        Err(e) => {
            eprintln!("suites: {e}");
            std::process::exit(2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_list_are_read() {
        let runs = read_list("# a note\nattr/attrt 2\nA\tcoll/bcast\t4\t-x 3\tMPICH\tPASS\t0.1s\t-\nB\tcoll/none\t1\t-\tX\n");
        let seen: Vec<(&str, u32, usize)> = runs.iter().map(|r| (r.path.as_str(), r.ranks, r.args.len())).collect();
        assert_eq!(seen, [("attr/attrt", 2, 0), ("coll/bcast", 4, 2), ("coll/none", 1, 0)]);
    }

    #[test]
    fn a_program_beyond_its_limit_is_ended_and_what_it_said_is_kept() {
        let mut command = Command::new("sh");
        let (code, text) = bounded(command.args(["-c", "echo began; exec sleep 60"]), Duration::from_millis(300)).unwrap();
        assert_eq!((code, text.as_str()), (None, "began\n"));
    }
}
