//! Runs a whole job in this process, from its start or from a file, to its end or into a file. It is what carries jobs between kinds of machines in `tests/aarch64.sh`: an agent's
//! engine, snapshots and threads without its network, small enough to be built for another machine.
//!
//! ```text
//! carry PROG.WASM --out DIR [--tier TIER] [--ranks N] [--cache DIR] [--from FILE] [--to FILE --after MS] [-- ARGS]
//! ```
//!
//! What rank n prints is appended to `DIR/rank-n`. Exit code 0: all ranks have exited with 0; 100: they stand still, in the file; 1: anything else. One line on standard error says
//! how it went.

use cells::snapshot::{self, Archive, Snapshot};
use cells::wasi::{Mounts, Output};
use cells::{Cell, Control, Ended, Engine, Program, Spec, Tier, engine};
use mpi::{Fabric, Message, Rank, Wire};
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

/// For all ranks to come to a safe point, on a machine that is emulated.
const STOP_MAX: Duration = Duration::from_secs(60);
/// What it ends with when the ranks stand still.
const STOPPED: i32 = 100;

type Failure = Box<dyn std::error::Error>;

struct Ask {
    module: PathBuf,
    out: PathBuf,
    tier: Tier,
    ranks: u32,
    cache: Option<PathBuf>,
    from: Option<PathBuf>,
    to: Option<PathBuf>,
    after: Duration,
    args: Vec<String>,
}

fn ask() -> Result<Ask, Failure> {
    let (mut module, mut out) = (None, None);
    let mut ask = Ask { module: PathBuf::new(), out: PathBuf::new(), tier: Tier::Quick, ranks: 1, cache: None, from: None, to: None, after: Duration::ZERO, args: vec!["program".into()] };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--out" => out = Some(PathBuf::from(value()?)),
            "--tier" => ask.tier = value()?.parse()?,
            "--ranks" => ask.ranks = value()?.parse()?,
            "--cache" => ask.cache = Some(value()?.into()),
            "--from" => ask.from = Some(value()?.into()),
            "--to" => ask.to = Some(value()?.into()),
            "--after" => ask.after = Duration::from_millis(value()?.parse()?),
            "--" => ask.args.extend(words.by_ref()),
            _ if module.is_none() => module = Some(PathBuf::from(&word)),
            _ => return Err(format!("unknown argument {word:?}").into()),
        }
    }
    (ask.module, ask.out) = (module.ok_or("give a module")?, out.ok_or("give --out")?);
    Ok(ask)
}

/// A file for each rank.
struct Files(Vec<Mutex<File>>);

impl Output for Files {
    fn write(&self, rank: Rank, _: bool, _: u64, data: &[u8]) {
        self.0[rank.index()].lock().expect("nobody panics with it").write_all(data).expect("the folder has room");
    }
}

/// All ranks are here, so what goes to the wire comes back: messages that were on their way when the job was written down, and what acknowledges them.
struct Back(Weak<Fabric>);

impl Wire for Back {
    fn send(&self, message: Message) {
        if let Some(fabric) = self.0.upgrade() {
            fabric.deposit(message);
        }
    }

    fn acknowledge(&self, src: Rank, dst: Rank, seq: u64) {
        if let Some(fabric) = self.0.upgrade() {
            fabric.acknowledged(src, dst, seq);
        }
    }
}

/// Every rank's cell, at its start or from a job's file.
fn cells(ask: &Ask, engine: &Engine, program: &Arc<Program>, spec: impl Fn(Rank) -> Spec) -> Result<Vec<Cell>, Failure> {
    let mut cells = Vec::new();
    let parts = match &ask.from {
        Some(file) => Some(Archive::read(&std::fs::read(file)?)?.1),
        None => None,
    };
    for rank in (0..ask.ranks).map(Rank) {
        let spec = spec(rank);
        let Some(parts) = &parts else {
            spec.fabric.arrive(rank, Vec::new());
            cells.push(Cell::new(engine, program, &spec, Arc::default())?);
            continue;
        };
        let (_, bytes) = parts.get(rank.index()).ok_or("the file has fewer ranks")?;
        let snapshot = Snapshot::read(bytes)?;
        let mut cell = snapshot.thaw(engine, program, &spec, Arc::default())?;
        cell.arrive(&snapshot.frozen);
        cells.push(cell);
    }
    Ok(cells)
}

/// Tells all ranks to stop, which run on threads of their own.
fn stop(fabric: &Fabric, controls: &[Arc<Control>]) {
    for (rank, control) in controls.iter().enumerate() {
        control.stop();
        fabric.mailbox(Rank(rank as u32)).bell.ring();
    }
}

fn carry() -> Result<i32, Failure> {
    let (ask, begin) = (ask()?, Instant::now());
    let wasm = std::fs::read(&ask.module)?;
    let wasm = cells::toolchain::driver::module(&wasm);
    // No more slots than ranks: an emulator keeps a note of each page of the pool's addresses.
    let engine = Engine::new(&engine::Options { cache: ask.cache.clone().map(Into::into), cells_max: ask.ranks, tier: ask.tier })?;
    let program = engine.load(wasm)?;
    let loaded = begin.elapsed();
    std::fs::create_dir_all(&ask.out)?;
    let file = |rank: u32| File::options().create(true).append(true).open(ask.out.join(format!("rank-{rank}"))).map(Mutex::new);
    let output = Arc::new(Files((0..ask.ranks).map(file).collect::<Result<_, _>>()?));
    let fabric = Arc::new_cyclic(|fabric: &Weak<Fabric>| Fabric::new(ask.ranks, Box::new(Back(fabric.clone()))));
    let spec = |rank| Spec {
        rank,
        size: ask.ranks,
        args: ask.args.clone(),
        env: Vec::new(),
        memory_max: 1 << 30,
        budget: Arc::default(),
        mounts: Mounts::default(),
        output: output.clone(),
        fabric: fabric.clone(),
        place: "here".into(),
        spin: 0,
    };
    let cells = cells(&ask, &engine, &program, spec)?;
    let controls: Vec<Arc<Control>> = cells.iter().map(Cell::control).collect();
    let run = Instant::now();
    let mut ended: Vec<(Cell, Ended)> = std::thread::scope(|scope| {
        let ranks: Vec<_> = cells
            .into_iter()
            .map(|mut cell| {
                let body = move || {
                    let ended = cell.run();
                    (cell, ended)
                };
                std::thread::Builder::new().stack_size(engine::THREAD_STACK).spawn_scoped(scope, body).expect("there are threads")
            })
            .collect();
        let mut told = false;
        while ranks.iter().any(|r| !r.is_finished()) {
            // As an agent does: a message that met its rank on the way is sent again.
            fabric.sweep();
            fabric.resend_old(64, |_| false);
            if ask.to.is_some() && run.elapsed() >= ask.after && !std::mem::replace(&mut told, true) {
                stop(&fabric, &controls);
            }
            if told && run.elapsed() > ask.after + STOP_MAX {
                controls.iter().for_each(|c| c.kill("it came to no safe point in time"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        ranks.into_iter().map(|r| r.join().expect("a rank's thread does not panic")).collect()
    });
    let ran = run.elapsed();
    let how = |what: &str| {
        eprintln!("{}, {} tier: {what}; loaded in {:.0} ms, ran {:.0} ms", std::env::consts::ARCH, program.tier(), loaded.as_secs_f64() * 1e3, ran.as_secs_f64() * 1e3);
    };
    if program.tier() != ask.tier {
        return Err(format!("not in the {} tier: {}", ask.tier, program.instead().unwrap_or_default()).into());
    }
    if ended.iter().all(|(_, e)| *e == Ended::Exited(0)) {
        how("ended");
        return Ok(0);
    }
    if let Some((_, other)) = ended.iter().find(|(_, e)| *e != Ended::Stopped) {
        return Err(format!("{other:?}, and not every rank so: {:?}", ended.iter().map(|(_, e)| e).collect::<Vec<_>>()).into());
    }
    (0..ask.ranks).map(Rank).for_each(|rank| fabric.hold(rank));
    let parts = ended.iter_mut().enumerate().map(|(rank, (cell, _))| Ok((format!("rank-{rank}"), snapshot::write(&engine, cell)?))).collect::<Result<_, cells::Error>>()?;
    let bytes = Archive::write(b"{}", parts);
    how(&format!("stopped, {} bytes", bytes.len()));
    std::fs::write(ask.to.expect("ranks stop when they are told to"), bytes)?;
    Ok(STOPPED)
}

fn main() {
    match carry() {
        Ok(code) => std::process::exit(code),
        Err(e) => {
            eprintln!("carry: {e}");
            std::process::exit(1);
        }
    }
}
