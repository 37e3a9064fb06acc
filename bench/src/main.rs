//! Benchmarks: ours and a peer in turn in one run, a line of JSON per figure.
//!
//! `cargo run --release -p bench -- instantiate` (or others of [`BENCHES`], or `all`; `--help` lists them). Exit code 0 when it could measure, whatever it found; what can't be measured
//! here is a line with `"not_run"` and the reason. `--record` keeps what was measured in the tree, too ([`report`]).

mod density;
mod geds;
mod geds_meta;
mod geds_tiers;
mod kernels;
mod messages;
mod migrate;
mod openmp;
mod platform;
mod report;
mod stream_life;
mod streams;

use anyhow::{Context, Result, bail};
use cells::toolchain::driver::{self, Lang};
use cells::wasi::{Discard, Mounts};
use cells::{Cell, Engine, Spec, engine};
use mpi::{Fabric, Message, Rank, Wire};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Instant;

/// A benchmark: its name, what it measures, and how.
type Bench = (&'static str, &'static str, fn() -> Result<Vec<Value>>);

const BENCHES: [Bench; 26] = [
    ("instantiate", "from nothing to a cell that could run; a process and a container beside it", instantiate),
    ("kernels", "programs of several kinds as cells, against gcc and clang", kernels::kernels_bench),
    ("instrumentation", "the same with safe points against without, and how soon they stop", kernels::instrumentation),
    ("pingpong", "messages between two ranks, 64 B to 1 MiB, against Open MPI and MPICH", messages::pingpong),
    ("allreduce", "a sum of 8 bytes over two ranks, against the same", messages::allreduce),
    ("openmp", "OpenMP's own parts and programs on two threads, against gcc -fopenmp and clang -fopenmp", openmp::openmp),
    ("elastic", "what a second processor is worth that a running program is given half way", openmp::elastic),
    ("density", "idle cells in a gigabyte, processes beside them", density::density),
    ("migrate", "how long ranks of 64 MB and of a GB stand still while they move", migrate::migrate),
    ("geds-read", "small objects, opened and read", geds::read),
    ("geds-scan", "large objects, read from end to end", geds::scan),
    ("geds-write", "objects, written and sealed", geds::write),
    ("geds-meta", "names: creating, listing, renaming", geds_meta::geds_meta),
    ("geds-peer", "objects of another site", geds_tiers::peer),
    ("geds-spill", "objects that go to the persistency tier, and come back", geds_tiers::spill),
    ("geds-outage", "an object store that goes away, at a tenth of the published sizes", geds_tiers::outage),
    ("geds-outage-full", "the same at the published sizes, in some ten minutes", geds_tiers::outage_full),
    ("geds-at-rest", "encryption on the disk", geds_tiers::at_rest),
    ("stream-latency", "from an event's writer to its reader", streams::latency),
    ("stream-throughput", "events and bytes in a second", streams::throughput),
    ("stream-video", "video, from its camera to who watches", stream_life::video),
    ("stream-scale", "how soon a stream follows its load", stream_life::scale),
    ("stream-catchup", "a reader that has been away", stream_life::catchup),
    ("stream-outage", "long-term storage that goes away, at a tenth of the published sizes", stream_life::outage),
    ("stream-outage-full", "the same at the published sizes, in some nine minutes", stream_life::outage_full),
    ("stream-footprint", "memory and disk of a store of streams", stream_life::footprint),
];

fn usage() -> String {
    let list: String = BENCHES.iter().map(|(name, what, _)| format!("  {name:18} {what}\n")).collect();
    format!(
        "Runs ours and a peer in turn, and prints a line of JSON per figure.\n\nUsage: bench [--record] NAME...\n\nNames:\n{list}  {:18} all of them\n\n  --record          writes bench/report.md and bench/report.jsonl, too: what these benches had there before is replaced\n\n\
         Example: cargo run --release -p bench -- pingpong\n",
        "all"
    )
}

fn main() -> ExitCode {
    let mut names: Vec<String> = std::env::args().skip(1).collect();
    if names.first().is_some_and(|n| n == stream_life::READER) {
        return done(names.get(1).context("the reader of history needs an address").and_then(|address| stream_life::read_history(address)));
    }
    if names.first().is_some_and(|n| n == geds_meta::SERVER) {
        return done(names.get(1).context("the server of geds-meta needs a folder").and_then(|folder| geds_meta::serve(Path::new(folder))));
    }
    if names.iter().any(|n| n == "--help" || n == "-h") {
        print!("{}", usage());
        return ExitCode::SUCCESS;
    }
    let record = names.iter().any(|n| n == "--record");
    names.retain(|n| n != "--record");
    let all = names.iter().any(|n| n == "all");
    let unknown = names.iter().find(|n| *n != "all" && BENCHES.iter().all(|(name, ..)| name != n));
    if names.is_empty() || unknown.is_some() {
        let why = unknown.map_or("name a benchmark".to_string(), |n| format!("there is no benchmark {n:?}"));
        eprint!("error: {why}\n\n{}", usage());
        return ExitCode::from(2);
    }
    done(run(|name| all || names.iter().any(|n| n == name), record))
}

/// Who measures wants to know what went wrong, and not where in the source.
fn done(outcome: Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(chosen: impl Fn(&str) -> bool, record: bool) -> Result<()> {
    for (name, _, bench) in BENCHES.iter().filter(|(name, ..)| chosen(name)) {
        let occasion = report::Occasion::of(name);
        let mut figures = bench()?;
        for figure in &mut figures {
            occasion.note(figure);
            if let Some(f) = figure.as_object_mut() {
                f.insert("cpu".into(), cpu().into());
                f.insert("load".into(), load().into());
            }
            // Who reads may have seen enough (`| head`): that is no fault of the benches.
            if writeln!(std::io::stdout(), "{figure}").is_err() {
                return Ok(());
            }
        }
        // After each, so that what comes later can't take it away.
        if record {
            report::record(name, &figures)?;
        }
    }
    Ok(())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": ")).map_or("unknown", |(_, m)| m);
    format!("{model}, {} cores", std::thread::available_parallelism().map_or(0, usize::from))
}

fn load() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap_or_default().split(' ').next().unwrap_or("?").to_string()
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// Waits until what was written and deleted before is on the disk and off it: it is not what the next measurement is about.
fn calm() {
    // SAFETY: it has no arguments and can't fail.
    unsafe { libc::sync() };
    // Freed blocks are discarded behind the commit.
    std::thread::sleep(std::time::Duration::from_millis(500));
}

fn figure(name: &str, unit: &str, goal: &str, ours: f64, peer: Option<f64>, samples: usize, met: bool) -> Value {
    json!({"name": name, "ours": ours, "peer": peer, "ratio": peer.map(|p| ours / p), "unit": unit, "goal": goal, "met": met, "samples": samples})
}

fn compile(source: &str) -> Result<Vec<u8>> {
    let out = tempfile::NamedTempFile::new()?.into_temp_path();
    let source = root().join("bench/programs").join(source);
    let args = [source.as_os_str(), "-O3".as_ref(), "-o".as_ref(), out.as_os_str()].map(|a| a.to_os_string());
    if driver::main(Lang::C, args.to_vec())? != 0 {
        bail!("{} does not compile", source.display());
    }
    Ok(std::fs::read(&out)?)
}

/// Milliseconds from a module whose code is in the cache on the disk to its first cell, in an agent that has not seen it.
fn cold_starts(spec: &Spec) -> Result<Vec<f64>> {
    let cache = tempfile::tempdir()?;
    let module = compile("pingpong.c")?;
    let start = || -> Result<f64> {
        let options = engine::Options { cells_max: 64, cache: Some(cache.path().to_path_buf().into()), ..Default::default() };
        let engine = Engine::new(&options)?;
        let start = Instant::now();
        let program = engine.load(&module)?;
        let cell = Cell::new(&engine, &program, spec, Arc::default())?;
        let took = start.elapsed().as_secs_f64() * 1e3;
        drop(cell);
        Ok(took)
    };
    start()?; // compiles it
    (0..25).map(|_| start()).collect()
}

/// Microseconds from nothing to a cell that could run; a process and a container's start beside it.
fn instantiate() -> Result<Vec<Value>> {
    const CELLS: usize = 1000;
    let engine = Engine::new(&engine::Options { cells_max: 64, ..Default::default() })?;
    let program = engine.load(&compile("pingpong.c")?)?;
    struct NoWire;
    impl Wire for NoWire {
        fn send(&self, _: Message) {}
        fn acknowledge(&self, _: Rank, _: Rank, _: u64) {}
    }
    let fabric = Arc::new(Fabric::new(1, Box::new(NoWire)));
    let spec = Spec {
        rank: Rank(0),
        size: 1,
        args: vec!["program".into()],
        env: Vec::new(),
        memory_max: 1 << 30,
        budget: Default::default(),
        mounts: Mounts::default(),
        output: Arc::new(Discard),
        fabric,
        place: "here".into(),
        spin: 0,
    };
    let start_of = |command: &[&str]| -> Option<f64> {
        let start = Instant::now();
        let status = Command::new(command[0]).args(&command[1..]).status().ok()?;
        status.success().then(|| start.elapsed().as_secs_f64() * 1e6)
    };
    let bwrap = ["bwrap", "--ro-bind", "/", "/", "--unshare-all", "true"];
    let (mut new, mut whole, mut process, mut container) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for i in 0..CELLS {
        let start = Instant::now();
        let cell = Cell::new(&engine, &program, &spec, Arc::default())?;
        new.push(start.elapsed().as_secs_f64() * 1e6);
        drop(cell);
        whole.push(start.elapsed().as_secs_f64() * 1e6);
        // The peers in turn with ours, as often as their length allows.
        if i % 20 == 0 {
            process.extend(start_of(&["true"]));
            container.extend(start_of(&bwrap));
        }
    }
    let (new, whole) = (median(new), median(whole));
    let mut out = vec![figure("instantiate.p50", "µs", "<= 2", new, (!process.is_empty()).then(|| median(process)), CELLS, new <= 2.0)];
    out.push(figure("instantiate-and-drop.p50", "µs", "<= 5", whole, None, CELLS, whole <= 5.0));
    let cold = cold_starts(&spec)?;
    let samples = cold.len();
    let cold = median(cold);
    out.push(figure("instantiate.cold.p50", "ms", "<= 3", cold, None, samples, cold <= 3.0));
    if container.is_empty() {
        out.push(json!({"name": "instantiate.bwrap", "not_run": "bwrap does not start here"}));
    } else {
        let samples = container.len();
        let container = median(container);
        out.push(figure("instantiate.bwrap", "µs", "ratio <= 0.001", new, Some(container), samples, new / container <= 0.001));
    }
    Ok(out)
}
