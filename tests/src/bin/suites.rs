//! Runs MPICH's own test suite, or LLVM's tests of its OpenMP runtime, or whole programs of others, on cells, and says which of the programs pass and why the others don't.
//!
//! ```text
//! suites [--suite mpich|openmp|programs] [--list FILE] [--only TEXT] [--jobs N] [--limit SECONDS] [--json FILE] [--programs FOLDER]
//! ```
//!
//! `setup/suites.sh` fetches the programs. Each is built by `cloudskin cc` and run as a person would run it, `CLOUDSKIN_NP=n ./program`. It passes
//! when it exits with 0 and, in MPICH's suite, prints a line ` No Errors`. Programs that are in the folder given already are not built again. The lists of runs are
//! in `tests/suites/mpich` (`core.txt` is the default) and `tests/suites/openmp`.
//!
//! The whole programs are those with a recipe in `tests/suites/programs`. Each is built twice by its own build system, for this machine and with `cloudskin cc`, and
//! passes when both print and write the same. With `--programs` what was built stays in that folder, with its logs and its output.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use ::tests::outside::{Recipes, difference};

/// One line of a list.
#[derive(Clone)]
struct Run {
    /// Below the suite's folder, without `.c`.
    path: String,
    ranks: u32,
    args: Vec<String>,
    /// `-D` words for the compiler, `-pthread`, and (`+`) sources beside its own.
    tags: Vec<String>,
    /// `NAME=value`.
    env: Vec<String>,
}

impl Run {
    /// What is built of it: another program for other tags.
    fn program(&self) -> String {
        format!("{} {}", self.path, self.tags.join(" "))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    Mpich,
    OpenMp,
    Programs,
}

struct Outcome {
    run: Run,
    /// `None`: it has passed.
    reason: Option<String>,
    seconds: f64,
}

struct Options {
    which: Which,
    list: Option<PathBuf>,
    only: Option<String>,
    jobs: usize,
    limit: Option<Duration>,
    json: Option<PathBuf>,
    programs: Option<PathBuf>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn options() -> Result<Options, String> {
    let mut o = Options {
        which: Which::Mpich,
        list: None,
        only: None,
        jobs: std::thread::available_parallelism().map_or(2, usize::from),
        limit: None,
        json: None,
        programs: None,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--suite" => {
                o.which = match value()?.as_str() {
                    "mpich" => Which::Mpich,
                    "openmp" => Which::OpenMp,
                    "programs" => Which::Programs,
                    other => return Err(format!("--suite {other}: give mpich, openmp or programs")),
                }
            }
            "--list" => o.list = Some(value()?.into()),
            "--only" => o.only = Some(value()?),
            "--jobs" => o.jobs = value()?.parse().map_err(|_| "--jobs needs a number")?,
            "--limit" => o.limit = Some(Duration::from_secs(value()?.parse().map_err(|_| "--limit needs seconds")?)),
            "--json" => o.json = Some(value()?.into()),
            "--programs" => o.programs = Some(value()?.into()),
            _ => return Err(format!("unknown argument {arg:?}; give --suite, --list, --only, --jobs, --limit, --json or --programs")),
        }
    }
    Ok(o)
}

/// `path ranks` on a line, or the columns of `list.txt`: tier, path, ranks, arguments and what is not asked here.
fn read_list(text: &str) -> Vec<Run> {
    let lines = text.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty());
    let run = |line: &str| {
        let columns = line.split('\t').collect::<Vec<_>>();
        if let [_, path, ranks, args, ..] = columns[..] {
            let args = args.split_whitespace().filter(|a| *a != "-").map(str::to_string).collect();
            let tags = columns.get(7).unwrap_or(&"").split_whitespace().filter(|t| t.starts_with("-D") || t.starts_with('+') || *t == "-pthread").map(str::to_string).collect();
            return Some(Run { path: path.into(), ranks: ranks.parse().ok()?, args, tags, env: Vec::new() });
        }
        let mut words = line.split_whitespace();
        Some(Run { path: words.next()?.into(), ranks: words.next()?.parse().ok()?, args: words.map(str::to_string).collect(), tags: Vec::new(), env: Vec::new() })
    };
    lines.filter_map(run).collect()
}

/// The columns of `openmp/list.txt`: kind, path, arguments, environment.
fn read_openmp_list(text: &str) -> Vec<Run> {
    let words = |text: &str| text.split_whitespace().map(str::to_string).collect::<Vec<_>>();
    let run = |line: &str| {
        let columns: Vec<&str> = line.split('\t').collect();
        let mut env = words(columns.get(3)?);
        // As many threads as the tests' authors have, however many processors there are.
        if !env.iter().any(|e| e.starts_with("OMP_NUM_THREADS=")) {
            env.push("OMP_NUM_THREADS=4".into());
        }
        Some(Run { path: columns[1].trim_end_matches(".c").into(), ranks: 1, args: words(columns[2]), tags: Vec::new(), env })
    };
    text.lines().filter(|l| !l.starts_with('#')).filter_map(run).collect()
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
    which: Which,
    folder: PathBuf,
    work: PathBuf,
    cloudskin: PathBuf,
}

impl Suite {
    fn cc(&self, args: &[&str]) -> Result<(), String> {
        let mut command = Command::new(&self.cloudskin);
        command.arg("cc").args(["-O1", "-w"]);
        match self.which {
            Which::Mpich => command.arg("-I").arg(root().join("tests/suites/mpich")).arg("-I").arg(self.folder.join("include")),
            Which::OpenMp => command.arg("-fopenmp").arg("-I").arg(&self.folder),
            Which::Programs => &mut command, // they have build systems of their own
        };
        command.args(args);
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
        self.helpers().iter().map(object).collect()
    }

    fn helpers(&self) -> &'static [&'static str] {
        if self.which == Which::Mpich { &["mtest.c", "mtest_common.c", "dtypes.c", "mtest_thread.c"] } else { &[] }
    }

    fn build(&self, run: &Run, util: &[String]) -> Result<PathBuf, String> {
        let program = self.work.join(run.program().replace(['/', ' '], "-"));
        if program.is_file() {
            return Ok(program);
        }
        let more = run.tags.iter().filter_map(|t| t.strip_prefix('+'));
        let source = |path: &str| self.folder.join(path).with_extension("c").display().to_string();
        let sources: Vec<String> = std::iter::once(run.path.as_str()).chain(more).map(source).collect();
        let words = run.tags.iter().filter(|t| t.starts_with('-'));
        // What is linked into a program with threads has been compiled as one.
        let threads = run.tags.iter().any(|t| t == "-pthread");
        let anew: Vec<String> = self.helpers().iter().map(|name| self.folder.join("util").join(name).display().to_string()).collect();
        let mut args: Vec<&str> = words.chain(&sources).chain(if threads { &anew } else { util }).map(String::as_str).collect();
        let output = program.display().to_string();
        args.extend(["-lm", "-o", &output]);
        self.cc(&args).map(|()| program)
    }

    fn run(&self, program: &Path, run: &Run, limit: Duration) -> Result<(), String> {
        let mut command = Command::new(&self.cloudskin);
        command.arg("exec").arg(program).args(&run.args).env("CLOUDSKIN_NP", run.ranks.to_string()).current_dir(&self.work);
        command.envs(run.env.iter().filter_map(|e| e.split_once('=')));
        let (code, text) = bounded(&mut command, limit).map_err(|e| e.to_string())?;
        match code {
            None => Err(format!("not at its end after {} s: {}", limit.as_secs(), brief(&text))),
            Some(0) if self.which == Which::OpenMp => Ok(()),
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

/// Builds a program in two folders below `folder`, runs both, and gives the ranks, or why they differ.
fn outside_program(recipes: &Recipes, name: &str, folder: &Path, limit: Duration) -> (u32, Option<String>) {
    let mut took = Vec::new();
    let mut step = |kind: &str, what: &str, limit: Duration| {
        let begin = Instant::now();
        let done = bounded(&mut recipes.command(name, kind, &folder.join(kind), what), limit).map_err(|e| e.to_string());
        took.push(format!("{kind} {what} {:.1} s", begin.elapsed().as_secs_f64()));
        match done? {
            (Some(0), text) => Ok(text),
            (None, text) => Err(format!("{kind} {what}: not at its end after {} s: {}", limit.as_secs(), brief(&text))),
            (Some(_), text) => Err(format!("{kind} {what}: {}", brief(&text))),
        }
    };
    let mut work = || {
        let mut compared = |kind: &str| {
            step(kind, "build", BUILD_MAX)?;
            step(kind, "run", limit)?;
            step(kind, "compared", limit)
        };
        let (native, cell) = (compared("native")?, compared("cell")?);
        match difference(&native, &cell) {
            None if native.is_empty() => Err("nothing is compared".to_string()),
            None => Ok(()),
            Some(where_) => Err(where_),
        }
    };
    let reason = work().err();
    println!("{name}: {}", took.join(", "));
    (recipes.describe(name, folder).map_or(0, |d| d.ranks), reason)
}

/// The longest that a program of a suite may take, unless `--limit` says otherwise.
const RUN_MAX: Duration = Duration::from_secs(60);
/// The same of a whole program's runs, and what building it may take.
const BUILD_MAX: Duration = Duration::from_secs(1200);

/// The programs that have recipes, one after the other: each build takes all processors.
fn outside_programs(o: &Options, cloudskin: PathBuf) -> Result<bool, String> {
    let recipes = Recipes { root: root(), cloudskin };
    let names = recipes.names().map_err(|e| format!("read the recipes: {e}"))?;
    let work = o.programs.clone().unwrap_or_else(|| std::env::temp_dir().join(format!("cloudskin-suites-{}", std::process::id())));
    std::fs::create_dir_all(&work).map_err(|e| format!("create {}: {e}", work.display()))?;
    let work = work.canonicalize().map_err(|e| format!("{}: {e}", work.display()))?;
    let mut outcomes = Vec::new();
    for name in names.iter().filter(|n| o.only.as_ref().is_none_or(|only| only.split(',').any(|part| n.contains(part)))) {
        let begin = Instant::now();
        let (ranks, reason) = outside_program(&recipes, name, &work.join(name), o.limit.unwrap_or(BUILD_MAX));
        let run = Run { path: name.clone(), ranks, args: Vec::new(), tags: Vec::new(), env: Vec::new() };
        outcomes.push(Outcome { run, reason, seconds: begin.elapsed().as_secs_f64() });
        if o.programs.is_none() {
            let _ = std::fs::remove_dir_all(work.join(name)); // a leftover in the temporary folder harms nobody
        }
    }
    report(&outcomes, o.json.as_deref())?;
    Ok(outcomes.iter().all(|o| o.reason.is_none()))
}

fn suite(o: &Options) -> Result<bool, String> {
    let cloudskin = root().join("target/release/cloudskin");
    if !cloudskin.is_file() {
        return Err(format!("{} is not there; build it with `cargo build --release`", cloudskin.display()));
    }
    let (name, known, list) = match o.which {
        Which::Programs => return outside_programs(o, cloudskin.canonicalize().map_err(|e| format!("{}: {e}", cloudskin.display()))?),
        Which::Mpich => ("mpich", "util/mtest.c", "tests/suites/mpich/core.txt"),
        Which::OpenMp => ("openmp", "omp_testsuite.h", "tests/suites/openmp/list.txt"),
    };
    let (folder, list) = (root().join(".setup/suites").join(name), o.list.clone().unwrap_or_else(|| root().join(list)));
    if !folder.join(known).is_file() {
        return Err(format!("{} has no suite; fetch it with setup/suites.sh", folder.display()));
    }
    let text = std::fs::read_to_string(&list).map_err(|e| format!("read {}: {e}", list.display()))?;
    let wanted = |r: &Run| o.only.as_ref().is_none_or(|only| only.split(',').any(|part| r.path.contains(part)));
    let runs: Vec<Run> = if o.which == Which::Mpich { read_list(&text) } else { read_openmp_list(&text) }.into_iter().filter(wanted).collect();
    let work = o.programs.clone().unwrap_or_else(|| std::env::temp_dir().join(format!("cloudskin-suites-{}", std::process::id())));
    std::fs::create_dir_all(&work).map_err(|e| format!("create {}: {e}", work.display()))?;
    let suite = Suite { which: o.which, folder, work, cloudskin };
    let util = suite.util()?;
    let programs: BTreeMap<String, &Run> = runs.iter().map(|r| (r.program(), r)).collect();
    let programs: Vec<(&String, &Run)> = programs.iter().map(|(name, run)| (name, *run)).collect();
    // Built once each, then run: the toolchain takes both cores, so that a limit on runs is fair.
    let names = programs.iter().map(|(name, _)| *name);
    let built: BTreeMap<&String, Result<PathBuf, String>> = names.zip(parallel(&programs, o.jobs, |(_, run)| suite.build(run, &util))).collect();
    let outcomes = parallel(&runs, o.jobs, |run| {
        let begin = Instant::now();
        let reason = built[&run.program()].clone().and_then(|program| suite.run(&program, run, o.limit.unwrap_or(RUN_MAX))).err();
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
        let runs = read_list("C\trma/list\t4\t-\t-\t-\t-\t-DONE +rma/two\n");
        assert_eq!(runs[0].tags, ["-DONE", "+rma/two"]);
    }

    #[test]
    fn tests_of_openmp_have_an_environment() {
        let runs = read_openmp_list("# a note\nPURE\tapi/a.c\t\t\nPURE\tfor/b.c\t1 0\tOMP_SCHEDULE=static OMP_NUM_THREADS=3\n");
        assert_eq!((runs[0].path.as_str(), runs[0].env.concat().as_str()), ("api/a", "OMP_NUM_THREADS=4"));
        assert_eq!((runs[1].args.concat().as_str(), runs[1].env.len()), ("10", 2));
    }

    #[test]
    fn a_program_beyond_its_limit_is_ended_and_what_it_said_is_kept() {
        let mut command = Command::new("sh");
        let (code, text) = bounded(command.args(["-c", "echo began; exec sleep 60"]), Duration::from_millis(300)).unwrap();
        assert_eq!((code, text.as_str()), (None, "began\n"));
    }
}
