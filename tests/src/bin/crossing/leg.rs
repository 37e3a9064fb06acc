//! One leg of a crossing: all ranks of a job in this process, from where the job's folder says they are until they have ended or are stopped.
//!
//! ```text
//! rank-0.snapshot    where rank 0 is; without it, at the beginning of its program
//! rank-0.output      what rank 0 has printed, on both streams
//! data/              the files of the job's bucket `data`, which is also where its relative paths begin
//! ```
//!
//! A leg stops all ranks of its job or none: when one of them has ended before the others stood still, they go on to their end, as with a checkpoint.
//! What it did is one line of JSON on standard output. It knows nothing of other machines.

use anyhow::{Context, bail, ensure};
use cells::engine::{self, Options};
use cells::folder::Folder;
use cells::wasi::{Mounts, Output};
use cells::{Cell, Control, Ended, Engine, Program, Spec, Tier, snapshot};
use mpi::{Fabric, Message, Rank, Wire};
use serde_json::{Value, json};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant, SystemTime};

/// A leg that takes longer stands still.
const LONGEST: Duration = Duration::from_secs(600);
/// Ranks that have not all stopped by then never will: one of them waits at its end for what another one should take.
const STANDSTILL: Duration = Duration::from_secs(30);
/// How often messages that nobody has acknowledged are looked at.
const TICK: Duration = Duration::from_millis(2);

pub struct Leg {
    /// Its module, as `cloudskin cc` made it.
    pub program: PathBuf,
    pub tier: Tier,
    pub cache: Option<PathBuf>,
    pub job: PathBuf,
    pub ranks: u32,
    /// After so long all ranks are stopped and written down.
    pub pause: Option<Duration>,
    pub args: Vec<String>,
}

pub fn snapshot_of(job: &Path, rank: u32) -> PathBuf {
    job.join(format!("rank-{rank}.snapshot"))
}

pub fn output_of(job: &Path, rank: u32) -> PathBuf {
    job.join(format!("rank-{rank}.output"))
}

/// What ranks print, behind what they have printed in earlier legs.
struct Log(PathBuf);

impl Output for Log {
    fn write(&self, rank: Rank, _: bool, offset: u64, data: &[u8]) {
        let path = output_of(&self.0, rank.0);
        let mut file = OpenOptions::new().create(true).append(true).open(&path).unwrap_or_else(|e| panic!("open {}: {e}", path.display()));
        let length = file.metadata().map_or(0, |m| m.len());
        assert_eq!(length, offset, "what rank {} prints follows what it has printed", rank.0);
        file.write_all(data).unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
    }

    fn terminal(&self, _: u8) -> bool {
        false
    }
}

/// All ranks are here, so what would go to another agent comes back.
struct Here(Arc<OnceLock<Weak<Fabric>>>);

impl Here {
    fn fabric(&self) -> Option<Arc<Fabric>> {
        self.0.get()?.upgrade()
    }
}

impl Wire for Here {
    fn send(&self, message: Message) {
        if let Some(fabric) = self.fabric() {
            fabric.deposit(message);
        }
    }

    fn acknowledge(&self, src: Rank, dst: Rank, seq: u64) {
        if let Some(fabric) = self.fabric() {
            fabric.acknowledged(src, dst, seq);
        }
    }
}

/// What becomes of ranks that stand still.
#[derive(Clone, Copy, PartialEq)]
enum Verdict {
    Open,
    WriteDown,
    GoOn,
}

/// Where ranks wait that have stopped, until it is known whether all of them have.
struct Standing {
    state: Mutex<(Verdict, u32)>,
    changed: Condvar,
    ranks: u32,
}

impl Standing {
    /// A rank has stopped; `true`: it is to be written down.
    fn stopped(&self) -> bool {
        let mut state = self.state.lock().expect("nobody panics with it");
        state.1 += 1;
        if state.0 == Verdict::Open && state.1 == self.ranks {
            state.0 = Verdict::WriteDown;
            self.changed.notify_all();
        }
        while state.0 == Verdict::Open {
            state = self.changed.wait(state).expect("nobody panics with it");
        }
        state.0 == Verdict::WriteDown
    }

    /// Not all of them will stop: one has ended, or they don't come to a standstill.
    fn go_on(&self) {
        let mut state = self.state.lock().expect("nobody panics with it");
        if state.0 == Verdict::Open {
            state.0 = Verdict::GoOn;
            self.changed.notify_all();
        }
    }
}

/// Code in a cache and when each piece was written last. A verdict on a module is none: a cache that got its code from elsewhere makes its own.
fn kept(cache: Option<&Path>) -> Vec<(PathBuf, SystemTime)> {
    let files = cache.and_then(|folder| fs::read_dir(folder).ok()).into_iter().flatten().flatten().filter(|file| file.path().extension().is_none_or(|kind| kind != "verdict"));
    let mut files: Vec<_> = files.filter_map(|file| Some((file.path(), file.metadata().ok()?.modified().ok()?))).collect();
    files.sort();
    files
}

/// Runs it and says what it did.
pub fn run(leg: &Leg) -> anyhow::Result<Value> {
    let bytes = fs::read(&leg.program).with_context(|| format!("read {}", leg.program.display()))?;
    let begin = Instant::now();
    let cache = leg.cache.as_deref();
    // One cell for each rank and no more: an emulator keeps books of each page that is reserved.
    let engine = Engine::new(&Options { cache: cache.map(|c| c.to_path_buf().into()), cells_max: leg.ranks + 1, tier: leg.tier, ..Options::default() })?;
    let before = kept(cache);
    let program = engine.load(cells::toolchain::driver::module(&bytes))?;
    let code = if cache.is_some() && kept(cache) == before { "kept" } else { "compiled" };
    let load_ms = begin.elapsed().as_millis() as u64;

    let place = Arc::new(OnceLock::new());
    let fabric = Arc::new(Fabric::new(leg.ranks, Box::new(Here(place.clone()))));
    assert!(place.set(Arc::downgrade(&fabric)).is_ok(), "set once");
    let cells = cells(leg, &engine, &program, &fabric)?;
    let begin = Instant::now();
    let results = work(leg, cells, &fabric)?;
    let ran_us = begin.elapsed().as_micros() as u64;

    let mut stopped = Vec::new();
    for (rank, result) in results.into_iter().enumerate() {
        match result {
            Ok(cell) => stopped.push(cell),
            Err(Ended::Exited(0)) => {}
            Err(ended) => bail!("rank {rank}: {ended:?}"),
        }
    }
    ensure!(stopped.is_empty() || stopped.len() == leg.ranks as usize, "{} of {} ranks have stopped", stopped.len(), leg.ranks);
    let mut snapshots = Vec::new();
    // All of them before one is written down, whose messages may be for another.
    stopped.iter().for_each(|cell| fabric.hold(cell.rank()));
    for cell in &mut stopped {
        let bytes = snapshot::write(&engine, cell)?;
        snapshots.push(bytes.len());
        let path = snapshot_of(&leg.job, cell.rank().0);
        fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(json!({
        "machine": std::env::consts::ARCH, "tier": program.tier().to_string(), "instead": program.instead(), "code": code,
        "load_ms": load_ms, "ran_us": ran_us, "stopped": !stopped.is_empty(), "snapshot_bytes": snapshots,
    }))
}

/// The job's cells, at the beginning of their program or where they were written down.
fn cells(leg: &Leg, engine: &Engine, program: &Arc<Program>, fabric: &Arc<Fabric>) -> anyhow::Result<Vec<Cell>> {
    let data = leg.job.join("data");
    fs::create_dir_all(&data).with_context(|| format!("make {}", data.display()))?;
    let spec = |rank| Spec {
        rank,
        size: leg.ranks,
        args: std::iter::once("program".to_string()).chain(leg.args.iter().cloned()).collect(),
        env: vec!["LANG=C".into()],
        memory_max: 1 << 30,
        budget: Arc::default(),
        mounts: Mounts { folders: vec![("data".into(), Arc::new(Folder { root: data.clone() }) as _)], workdir: Some((0, String::new())) },
        output: Arc::new(Log(leg.job.clone())),
        fabric: fabric.clone(),
        // The same everywhere: a program may print it.
        place: "here".into(),
        spin: 0,
    };
    let mut written = Vec::new();
    for rank in 0..leg.ranks {
        match fs::read(snapshot_of(&leg.job, rank)) {
            Ok(bytes) => written.push(bytes),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).with_context(|| format!("read the snapshot of rank {rank}")),
        }
    }
    if written.is_empty() {
        (0..leg.ranks).for_each(|rank| fabric.arrive(Rank(rank), Vec::new()));
        let new = |rank| Cell::new(engine, program, &spec(Rank(rank)), Arc::default());
        return Ok((0..leg.ranks).map(new).collect::<cells::Result<_>>()?);
    }
    ensure!(written.len() == leg.ranks as usize, "{} has snapshots of {} ranks, and the job has {}", leg.job.display(), written.len(), leg.ranks);
    let read: Vec<_> = written.iter().map(|bytes| snapshot::Snapshot::read(bytes)).collect::<cells::Result<_>>()?;
    // All of them are held before one arrives and sends again what nobody has acknowledged.
    let mut cells: Vec<Cell> = read.iter().map(|s| s.thaw(engine, program, &spec(s.frozen.rank), Arc::default())).collect::<cells::Result<_>>()?;
    cells.iter_mut().zip(&read).for_each(|(cell, read)| cell.arrive(&read.frozen));
    Ok(cells)
}

/// Runs all ranks: `Ok` with the cell of one that has stopped, `Err` with how it has ended.
fn work(leg: &Leg, cells: Vec<Cell>, fabric: &Fabric) -> anyhow::Result<Vec<Result<Cell, Ended>>> {
    let controls: Vec<Arc<Control>> = cells.iter().map(Cell::control).collect();
    let (controls, standing) = (&controls, &Standing { state: Mutex::new((Verdict::Open, 0)), changed: Condvar::new(), ranks: leg.ranks });
    let rank = |mut cell: Cell| loop {
        match cell.run() {
            Ended::Stopped if standing.stopped() => return Ok(cell),
            Ended::Stopped => {}
            ended => {
                standing.go_on();
                if ended != Ended::Exited(0) {
                    controls.iter().for_each(|c| c.kill("another rank failed"));
                }
                return Err(ended);
            }
        }
    };
    std::thread::scope(|scope| {
        let spawn = |cell: Cell| {
            let named = std::thread::Builder::new().name(format!("rank {}", cell.rank().0)).stack_size(engine::THREAD_STACK);
            named.spawn_scoped(scope, move || rank(cell)).context("start a rank's thread")
        };
        let threads: Vec<_> = cells.into_iter().map(spawn).collect::<anyhow::Result<_>>()?;
        let (begin, mut asked, mut late) = (Instant::now(), None, false);
        while threads.iter().any(|t| !t.is_finished()) {
            std::thread::sleep(TICK.min(leg.pause.unwrap_or(TICK)));
            if asked.is_none() && leg.pause.is_some_and(|pause| begin.elapsed() >= pause) {
                asked = Some(Instant::now());
                for (rank, control) in controls.iter().enumerate() {
                    control.stop();
                    fabric.mailbox(Rank(rank as u32)).bell.ring();
                }
            }
            if asked.is_some_and(|asked| asked.elapsed() > STANDSTILL) {
                standing.go_on();
            }
            if begin.elapsed() > LONGEST && !std::mem::replace(&mut late, true) {
                controls.iter().for_each(|c| c.kill("it took too long"));
                standing.go_on();
            }
            fabric.sweep();
            fabric.resend_old(64, |_| false);
        }
        Ok(threads.into_iter().map(|t| t.join().expect("a rank's thread does not panic")).collect())
    })
}
