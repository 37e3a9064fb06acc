//! How long messages between two ranks on two cores take, against Open MPI and, where it is installed, MPICH with the same sources.

use crate::{compile, figure, median, root};
use anyhow::{Context, Result};
use cells::wasi::{Mounts, Output};
use cells::{Engine, Program, engine, local};
use mpi::Rank;
use serde_json::{Value, json};
use std::process::Command;
use std::sync::{Arc, Mutex};

/// Runs of each, in turn; each run gives a median.
const RUNS: usize = 5;
/// Of the better peer's time.
const GOAL: f64 = 0.8;

#[derive(Default)]
struct Text(Mutex<Vec<u8>>);

impl Output for Text {
    fn write(&self, _: Rank, _: bool, _: u64, data: &[u8]) {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).extend_from_slice(data);
    }
}

/// A program, as it is run by an MPI of this machine.
struct Peer {
    name: &'static str,
    run: &'static str,
    args: &'static [&'static str],
    program: tempfile::TempPath,
}

impl Peer {
    fn built(name: &'static str, [cc, run]: [&'static str; 2], args: &'static [&'static str], source: &str) -> Option<Peer> {
        let program = tempfile::NamedTempFile::new().ok()?.into_temp_path();
        let built = Command::new(cc).args(["-O3", "-o"]).arg(&program).arg(root().join("bench/programs").join(source)).status();
        built.is_ok_and(|s| s.success()).then_some(Peer { name, run, args, program })
    }

    fn all(source: &str) -> Vec<Peer> {
        // Debian and Ubuntu have both side by side under these names.
        let open = Peer::built("openmpi", ["mpicc.openmpi", "mpirun.openmpi"], &["--allow-run-as-root", "--oversubscribe"], source);
        let mpich = Peer::built("mpich", ["mpicc.mpich", "mpirun.mpich"], &[], source);
        [open, mpich].into_iter().flatten().collect()
    }

    fn time(&self, args: &[&str]) -> Result<f64> {
        let output = Command::new(self.run).args(self.args).args(["-np", "2"]).arg(&self.program).args(args).output()?;
        let said = || format!("{}: {}", self.run, String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().parse().with_context(said)
    }
}

/// Microseconds, as the program prints them.
fn ours(engine: &Engine, program: &Arc<Program>, args: &[&str]) -> Result<f64> {
    let text = Arc::new(Text::default());
    let job = local::Job {
        size: 2,
        args: std::iter::once("program").chain(args.iter().copied()).map(str::to_string).collect(),
        env: Vec::new(),
        memory_max: 1 << 30,
        mounts: Mounts::default(),
        output: text.clone(),
        spin: cells::SPIN, // as an agent whose ranks have a core each
    };
    let ended = local::run(engine, program, &job)?;
    let printed = String::from_utf8(text.0.lock().unwrap_or_else(|e| e.into_inner()).clone())?;
    printed.trim().parse().with_context(|| format!("{ended:?} {printed:?}"))
}

/// A figure for each list of arguments; the peer is the better of those that are here.
fn against_peers(source: &str, figures: &[(&str, &[&str])]) -> Result<Vec<Value>> {
    let peers = Peer::all(source);
    if peers.is_empty() {
        let missing = |(name, _): &(&str, _)| json!({"name": name, "not_run": "neither Open MPI nor MPICH is here; setup/setup.sh test installs Open MPI"});
        return Ok(figures.iter().map(missing).collect());
    }
    let engine = Engine::new(&engine::Options { cells_max: 8, ..Default::default() })?;
    let program = engine.load(&compile(source)?)?;
    let measure = |(name, args): &(&str, &[&str])| {
        let (mut times, mut theirs) = (Vec::new(), vec![Vec::new(); peers.len()]);
        for _ in 0..RUNS {
            times.push(ours(&engine, &program, args)?);
            for (peer, times) in peers.iter().zip(&mut theirs) {
                times.push(peer.time(args)?);
            }
        }
        let theirs: Vec<f64> = theirs.into_iter().map(median).collect();
        let (time, best) = (median(times), theirs.iter().copied().fold(f64::INFINITY, f64::min));
        let mut figure = figure(name, "µs", &format!("ratio <= {GOAL}"), time, Some(best), RUNS, time / best <= GOAL);
        for (peer, time) in peers.iter().zip(theirs) {
            figure[peer.name] = time.into();
        }
        Ok(figure)
    };
    figures.iter().map(measure).collect()
}

/// Half of a round trip.
pub fn pingpong() -> Result<Vec<Value>> {
    let sizes: [(&str, &[&str]); 4] = [
        ("pingpong.64B.half-round-trip", &["64"]),
        ("pingpong.8KiB.half-round-trip", &["8192"]),
        ("pingpong.64KiB.half-round-trip", &["65536"]),
        ("pingpong.1MiB.half-round-trip", &["1048576"]),
    ];
    against_peers("pingpong.c", &sizes)
}

/// Eight bytes.
pub fn allreduce() -> Result<Vec<Value>> {
    against_peers("allreduce.c", &[("allreduce.8B", &[])])
}
