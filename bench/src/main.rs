//! Benchmarks: ours and a peer in turn in one run, a line of JSON per figure.
//!
//! `cargo run --release -p bench -- instantiate` (or another of the names in `main`, or `all`). Exit code 0 when it could measure, whatever it found; what can't be measured
//! here is a line with `"not_run"` and the reason. `all` also writes `bench/report.md`.

mod geds;
mod geds_meta;
mod kernels;
mod geds_tiers;
mod migrate;
mod platform;
mod stream_life;
mod streams;

use anyhow::{Context, Result, bail};
use cells::toolchain::driver::{self, Lang};
use cells::wasi::{Discard, Mounts, Output};
use cells::{Cell, Engine, Spec, engine, local};
use mpi::{Fabric, Message, Rank, Wire};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Instant;

fn main() -> Result<()> {
    let name = std::env::args().nth(1).unwrap_or_default();
    if name == geds_meta::SERVER {
        return geds_meta::serve(Path::new(&std::env::args().nth(2).context("the server of geds-meta needs a folder")?));
    }
    let all: [(&str, fn() -> Result<Vec<Value>>); 20] = [
        ("instantiate", instantiate),
        ("kernels", kernels::kernels_bench),
        ("instrumentation", kernels::instrumentation),
        ("pingpong", pingpong),
        ("migrate", migrate::migrate),
        ("geds-read", geds::read),
        ("geds-scan", geds::scan),
        ("geds-write", geds::write),
        ("geds-meta", geds_meta::geds_meta),
        ("geds-peer", geds_tiers::peer),
        ("geds-spill", geds_tiers::spill),
        ("geds-outage", geds_tiers::outage),
        ("geds-at-rest", geds_tiers::at_rest),
        ("stream-latency", streams::latency),
        ("stream-throughput", streams::throughput),
        ("stream-video", stream_life::video),
        ("stream-scale", stream_life::scale),
        ("stream-catchup", stream_life::catchup),
        ("stream-outage", stream_life::outage),
        ("stream-footprint", stream_life::footprint),
    ];
    let chosen: Vec<_> = all.iter().filter(|(n, _)| name == "all" || name == *n).collect();
    if chosen.is_empty() {
        bail!("no benchmark {name:?}: choose {} or all", all.map(|(name, _)| name).join(", "));
    }
    let mut figures = Vec::new();
    for (_, bench) in chosen {
        for mut figure in bench()? {
            if let Some(f) = figure.as_object_mut() {
                f.insert("cpu".into(), cpu().into());
                f.insert("load".into(), load().into());
            }
            println!("{figure}");
            figures.push(figure);
        }
    }
    if name == "all" {
        report(&figures)?;
    }
    Ok(())
}

fn report(figures: &[Value]) -> Result<()> {
    let mut text = String::from("# Benchmarks\n\nWritten by `cargo run --release -p bench -- all`; not edited by hand.\n\n");
    text += "| figure | ours | peer | ratio | unit | goal | met |\n| --- | --- | --- | --- | --- | --- | --- |\n";
    for f in figures {
        let cell = |key: &str| match &f[key] {
            Value::String(s) => s.clone(),
            Value::Number(n) => n.as_f64().map_or(String::new(), |n| format!("{n:.3}")),
            Value::Null => "–".into(),
            other => other.to_string(),
        };
        text += &format!(
            "| {} | {} | {} | {} | {} | {} | {} |\n",
            cell("name"), cell("ours"), cell("peer"), cell("ratio"), cell("unit"), cell("goal"), cell("met")
        );
    }
    let path = root().join("bench/report.md");
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))
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

/// `better(ours, peer)` decides whether the goal is met.
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
    let mut out = vec![figure("instantiate.p50", "µs", "<= 5", new, (!process.is_empty()).then(|| median(process)), CELLS, new <= 5.0)];
    out.push(figure("instantiate-and-drop.p50", "µs", "reported", whole, None, CELLS, true));
    if container.is_empty() {
        out.push(json!({"name": "instantiate.bwrap", "not_run": "bwrap does not start here"}));
    } else {
        let samples = container.len();
        let container = median(container);
        out.push(figure("instantiate.bwrap", "µs", "ratio <= 0.001", new, Some(container), samples, new / container <= 0.001));
    }
    Ok(out)
}

/// Half of a 64-byte round trip between two ranks on two cores, against Open MPI with the same source.
fn pingpong() -> Result<Vec<Value>> {
    const RUNS: usize = 5;
    #[derive(Default)]
    struct Text(Mutex<Vec<u8>>);
    impl Output for Text {
        fn write(&self, _: Rank, _: bool, _: u64, data: &[u8]) {
            self.0.lock().unwrap_or_else(|e| e.into_inner()).extend_from_slice(data);
        }
    }
    let engine = Engine::new(&engine::Options { cells_max: 8, ..Default::default() })?;
    let program = engine.load(&compile("pingpong.c")?)?;
    let folder = tempfile::tempdir()?;
    let native = folder.path().join("pingpong");
    let built = Command::new("mpicc").arg("-O3").arg("-o").arg(&native).arg(root().join("bench/programs/pingpong.c")).status();
    if !built.is_ok_and(|s| s.success()) {
        return Ok(vec![json!({"name": "pingpong.64B", "not_run": "mpicc is missing; setup/setup.sh test installs it"})]);
    }
    let (mut ours, mut peer) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let text = Arc::new(Text::default());
        let job = local::Job {
            size: 2,
            args: vec!["pingpong".into()],
            env: Vec::new(),
            memory_max: 1 << 30,
            mounts: Mounts::default(),
            output: text.clone(),
            spin: cells::SPIN, // as an agent whose ranks have a core each
        };
        let ended = local::run(&engine, &program, &job)?;
        let printed = String::from_utf8(text.0.lock().unwrap_or_else(|e| e.into_inner()).clone())?;
        ours.push(printed.trim().parse::<f64>().with_context(|| format!("{ended:?} {printed:?}"))?);
        let output = Command::new("mpirun").args(["--allow-run-as-root", "--oversubscribe", "-np", "2"]).arg(&native).output()?;
        peer.push(String::from_utf8(output.stdout)?.trim().parse::<f64>().context("mpirun printed no figure")?);
    }
    let (ours, peer) = (median(ours), median(peer));
    Ok(vec![figure("pingpong.64B.half-round-trip", "µs", "ratio <= 2.0", ours, Some(peer), RUNS, ours / peer <= 2.0)])
}
