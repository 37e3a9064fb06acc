//! OpenMP in cells: what its parts cost and how fast programs are on two threads, in the fast tier, against the better of `gcc -fopenmp` (libgomp) and `clang -fopenmp` (libomp) with the same sources;
//! and what a second processor is worth that is given to a running program half way.

use crate::{figure, kernels, median, root};
use anyhow::{Context, Result, bail};
use cells::toolchain::driver::{self, Lang};
use cells::wasi::Output;
use cells::{Control, Ended, Engine, Program, Tier};
use mpi::Rank;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Runs of each, in turn.
const RUNS: usize = 5;
const THREADS: u32 = 2;

fn compile(source: &str) -> Result<Vec<u8>> {
    let out = tempfile::NamedTempFile::new()?.into_temp_path();
    let source = root().join("bench/programs/openmp").join(source);
    let args = [source.as_os_str(), "-O3".as_ref(), "-fopenmp".as_ref(), "-o".as_ref(), out.as_os_str(), "-lm".as_ref()].map(|a| a.to_os_string());
    if driver::main(Lang::C, args.to_vec())? != 0 {
        bail!("{} does not compile", source.display());
    }
    Ok(std::fs::read(&out)?)
}

/// Sums are rounded twice, as in a cell.
fn native(compiler: &str, source: &str) -> Result<tempfile::TempPath> {
    let out = tempfile::NamedTempFile::new()?.into_temp_path();
    let mut command = Command::new(compiler);
    command.args(["-O3", "-fopenmp", "-ffp-contract=off", "-o"]).arg(&out).arg(root().join("bench/programs/openmp").join(source)).arg("-lm");
    if !command.status().with_context(|| format!("{compiler}; setup/setup.sh test installs it"))?.success() {
        bail!("{compiler} does not compile {source}; setup/setup.sh test installs its OpenMP");
    }
    Ok(out)
}

/// What a program prints, and a call for each line.
struct Lines<F>(Mutex<String>, F);

impl<F: Fn(&str) + Send + Sync> Output for Lines<F> {
    fn write(&self, _: Rank, _: bool, _: u64, data: &[u8]) {
        let mut text = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let part = String::from_utf8_lossy(data);
        text.push_str(&part);
        part.lines().for_each(&self.1);
    }
}

/// Seconds of a run in a cell that begins with so many processors, and what it printed; `at_line` hears each line of that.
fn run(engine: &Engine, program: &Arc<Program>, processors: u32, at_line: impl Fn(&Control, &str) + Send + Sync + 'static) -> Result<(f64, String)> {
    let control: Arc<Control> = Arc::default();
    control.offer_processors(processors);
    let asked = control.clone();
    let lines = Arc::new(Lines(Mutex::default(), move |line: &str| at_line(&asked, line)));
    let output = lines.clone();
    let time = kernels::on_thread(move || {
        let mut cell = kernels::start(engine, program, output, control)?;
        let begin = Instant::now();
        match cell.run() {
            Ended::Exited(0) => Ok(begin.elapsed().as_secs_f64()),
            other => bail!("{other:?}"),
        }
    })?;
    let text = lines.0.lock().unwrap_or_else(|e| e.into_inner()).clone();
    Ok((time, text))
}

fn run_native(program: &Path) -> Result<String> {
    let output = Command::new(program).env("OMP_NUM_THREADS", THREADS.to_string()).env("OMP_PROC_BIND", "true").output()?;
    Ok(String::from_utf8(output.stdout)?)
}

fn numbers(text: &str) -> Result<Vec<f64>> {
    text.split_whitespace().map(|word| word.parse().with_context(|| format!("{text:?} is no line of numbers"))).collect()
}

/// Who runs a program, in turn.
const FAST: usize = 0;
const QUICK: usize = 1;
const GCC: usize = 2;
const CLANG: usize = 3;

/// The numbers that a program prints by each of these: of each, all runs.
fn in_turn(source: &str) -> Result<[Vec<Vec<f64>>; 4]> {
    let wasm = compile(source)?;
    let cells = [Tier::Fast, Tier::Quick].map(|tier| kernels::the_engine(tier).and_then(|engine| Ok((engine.load(&wasm)?, engine))));
    let [fast, quick] = cells;
    let (fast, quick) = (fast?, quick?);
    let natives = [native("gcc", source)?, native("clang", source)?];
    let mut all = [const { Vec::new() }; 4];
    for _ in 0..RUNS {
        for (who, (program, engine)) in [(FAST, &fast), (QUICK, &quick)] {
            all[who].push(numbers(&run(engine, program, THREADS, |_, _| {})?.1)?);
        }
        for (who, native) in [(GCC, &natives[0]), (CLANG, &natives[1])] {
            all[who].push(numbers(&run_native(native)?)?);
        }
    }
    Ok(all)
}

/// Figures of one of the numbers; `of` makes one of all runs.
fn compared(name: &str, unit: &str, goal: &str, runs: &[Vec<Vec<f64>>; 4], at: usize, of: fn(Vec<f64>) -> f64, met: impl Fn(f64) -> bool) -> Result<Value> {
    let mut each = [0.0; 4];
    for (one, runs) in each.iter_mut().zip(runs) {
        *one = of(column(runs, at)?);
    }
    let peer = each[GCC].min(each[CLANG]);
    let mut f = figure(name, unit, goal, each[FAST], Some(peer), RUNS, met(each[FAST] / peer));
    f["quick_tier"] = each[QUICK].into();
    f["gcc"] = each[GCC].into();
    f["clang"] = each[CLANG].into();
    Ok(f)
}

fn column(runs: &[Vec<f64>], at: usize) -> Result<Vec<f64>> {
    runs.iter().map(|r| r.get(at).copied().with_context(|| format!("{r:?} has too few numbers"))).collect()
}

pub fn openmp() -> Result<Vec<Value>> {
    let runs = in_turn("overheads.c")?;
    let mut out = Vec::new();
    for (at, name) in ["fork-join", "barrier", "loop-static", "loop-dynamic.iteration", "reduction", "critical"].iter().enumerate() {
        out.push(compared(&format!("openmp.{name}"), "µs", "ratio <= 1.2", &runs, at, median, |ratio| ratio <= 1.2)?);
    }
    let runs = in_turn("kernels.c")?;
    // What they have computed is the same, bit for bit.
    if let Some(other) = runs.iter().flatten().find(|r| r.last() != runs[FAST][0].last()) {
        bail!("the kernels compute {:?} and {:?}", runs[FAST][0].last(), other.last());
    }
    let least: fn(Vec<f64>) -> f64 = |runs| runs.into_iter().fold(f64::INFINITY, f64::min);
    let mut ratios = Vec::new();
    for (at, name) in ["dgemm", "stencil", "nbody"].iter().enumerate() {
        let f = compared(&format!("openmp.kernels.{name}"), "ms", "reported", &runs, at, least, |_| true)?;
        ratios.push(f["ratio"].as_f64().context("a figure has a ratio to its peer")?);
        out.push(f);
    }
    out.push(kernels::ratio("openmp.kernels.geomean", kernels::geomean(&ratios), 1.05, ratios.len()));
    Ok(out)
}

/// One processor for the first half, two for the second: how much of what that can save at best is saved.
pub fn elastic() -> Result<Vec<Value>> {
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        return Ok(vec![json!({"name": "elastic.gain", "not_run": "it needs two processors"})]);
    }
    let engine = kernels::the_engine(Tier::Quick)?;
    let program = engine.load(&compile("elastic.c")?)?;
    let (mut one, mut two, mut grown) = (Vec::new(), Vec::new(), Vec::new());
    let mut printed = None;
    for _ in 0..RUNS {
        let grow = |control: &Control, line: &str| {
            if line == "half" {
                control.offer_processors(2);
            }
        };
        for (times, result) in [(&mut one, run(&engine, &program, 1, |_, _| {})?), (&mut two, run(&engine, &program, 2, |_, _| {})?), (&mut grown, run(&engine, &program, 1, grow)?)] {
            times.push(result.0);
            if *printed.get_or_insert_with(|| result.1.clone()) != result.1 {
                bail!("it prints {:?} and {:?}", printed, result.1);
            }
        }
    }
    let (one, two, grown) = (median(one), median(two), median(grown));
    // Half of the work at each speed.
    let best = (one + two) / 2.0;
    let gain = (one - grown) / (one - best);
    let mut figure = figure("elastic.time", "s", "reported", grown, Some(best), RUNS, true);
    (figure["one_thread"], figure["two_threads"]) = (one.into(), two.into());
    let gain = json!({"name": "elastic.gain", "ours": gain, "peer": 1.0, "ratio": gain, "unit": "ratio", "goal": ">= 0.95", "met": gain >= 0.95, "samples": RUNS});
    Ok(vec![figure, gain])
}
