//! Runs programs as ranks that are stopped at random moments and moved between two agents in this process: two fabrics with a wire that is a
//! function call. CLOUDSKIN_TIER=fast or interpreter runs them in that tier; with both each move changes between quick and fast, with all it goes on to the next of all three.

use cells::toolchain::driver::{self, Lang};
use cells::wasi::{Mounts, Output};
use cells::{Cell, Control, Ended, Engine, Program, Spec, Tier, engine, folder::Folder, snapshot};
use mpi::{Fabric, Message, Rank, Wire};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::{Duration, Instant};

pub fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs")
}

/// Compiles a program of one source.
pub fn compile(source: &Path) -> Vec<u8> {
    compile_all(source.file_stem().unwrap().to_str().unwrap(), &[source.to_path_buf()])
}

/// Compiles a program, one at a time in this process.
pub fn compile_all(name: &str, sources: &[PathBuf]) -> Vec<u8> {
    let lang = if sources.iter().any(|s| s.extension().is_some_and(|e| e == "cc")) { Lang::Cxx } else { Lang::C };
    let words = std::iter::once("-O2".into()).chain(sources.iter().map(|s| s.clone().into_os_string()));
    let out = make(lang, &Path::new(name).with_extension("wasm"), words).unwrap_or_else(|e| panic!("compile {name}: {e}"));
    std::fs::read(out).unwrap()
}

/// Calls the compiler, once at a time in this process, for `name` in the folder of this build.
pub fn make(lang: Lang, name: &Path, words: impl Iterator<Item = OsString>) -> Result<PathBuf, String> {
    static LOCK: Mutex<()> = Mutex::new(());
    let _one = LOCK.lock().unwrap_or_else(|e| e.into_inner());
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    match driver::main(lang, ["-o".into(), out.clone().into_os_string()].into_iter().chain(words).collect()) {
        Ok(0) => Ok(out),
        Ok(code) => Err(format!("the compiler ended with {code}")),
        Err(e) => Err(e.to_string()),
    }
}

pub fn the_engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| Engine::new(&engine::Options { cells_max: 64, ..Default::default() }).unwrap())
}

pub fn the_fast_engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    // LLVM takes its time, so what it has made is kept between tests, and between runs.
    let cache = Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join("fast").into());
    ENGINE.get_or_init(|| Engine::new(&engine::Options { cells_max: 64, cache, tier: Tier::Fast, ..Default::default() }).unwrap())
}

pub fn the_interpreter() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| Engine::new(&engine::Options { cells_max: 64, tier: Tier::Interpreter, ..Default::default() }).unwrap())
}

/// A rank begins with the first, and each move goes on to the next.
pub fn engines() -> Vec<&'static Engine> {
    match std::env::var("CLOUDSKIN_TIER").as_deref() {
        Ok("fast") => vec![the_fast_engine()],
        Ok("interpreter") => vec![the_interpreter()],
        Ok("both") => vec![the_engine(), the_fast_engine()],
        Ok("all") => vec![the_engine(), the_interpreter(), the_fast_engine()],
        Ok(other) if other != "quick" => panic!("CLOUDSKIN_TIER={other}: quick, fast, interpreter, both or all"),
        _ => vec![the_engine()],
    }
}

/// What all ranks print, by rank: whether on standard error, and after how many bytes.
#[derive(Default)]
pub struct Log(Mutex<Vec<(u32, bool, u64, Vec<u8>)>>);

impl Output for Log {
    fn write(&self, rank: Rank, stderr: bool, offset: u64, data: &[u8]) {
        self.0.lock().unwrap().push((rank.0, stderr, offset, data.to_vec()));
    }
}

impl Log {
    pub fn text(&self, rank: u32) -> String {
        let log = self.0.lock().unwrap();
        let mut text = Vec::new();
        for (_, _, offset, data) in log.iter().filter(|(r, ..)| *r == rank) {
            assert_eq!(*offset, text.len() as u64, "a rank's output has no gap");
            text.extend_from_slice(data);
        }
        String::from_utf8(text).unwrap()
    }

    /// What a rank has printed on one of the two streams.
    pub fn stream(&self, rank: u32, stderr: bool) -> String {
        let log = self.0.lock().unwrap();
        let text: Vec<u8> = log.iter().filter(|(r, e, ..)| (*r, *e) == (rank, stderr)).flat_map(|(.., data)| data.iter().copied()).collect();
        String::from_utf8(text).unwrap()
    }
}

/// The places of a job's ranks, and the wire between the two fabrics.
pub struct Agents {
    fabrics: [OnceLock<Arc<Fabric>>; 2],
    at: Vec<Mutex<usize>>,
}

pub struct Link(Weak<Agents>);

impl Link {
    fn to(&self, rank: Rank, f: impl FnOnce(&Fabric)) {
        if let Some(agents) = self.0.upgrade() {
            let at = *agents.at[rank.index()].lock().unwrap();
            f(agents.fabrics[at].get().unwrap());
        }
    }
}

impl Wire for Link {
    fn send(&self, message: Message) {
        // The place may change between the look and the deposit; then that fabric passes it on.
        self.to(message.header.dst, |f| f.deposit(message.clone()));
    }
    fn acknowledge(&self, src: Rank, dst: Rank, seq: u64) {
        self.to(src, |f| {
            f.acknowledged(src, dst, seq);
        });
    }
}

/// `texts`: what each rank prints on both streams; `outs` and `errs` on each.
pub struct Run {
    pub texts: Vec<String>,
    pub outs: Vec<String>,
    pub errs: Vec<String>,
    pub ended: Vec<Ended>,
    pub moves: usize,
}

/// A run that takes longer stands still.
pub const LONGEST: Duration = Duration::from_secs(120);

/// A rank that is not there any more. When its thread panics the others end too, so that a test fails and doesn't wait for ever.
pub struct Leaves(Arc<std::sync::atomic::AtomicU32>, Vec<Arc<Control>>);

impl Drop for Leaves {
    fn drop(&mut self) {
        self.0.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
        if std::thread::panicking() {
            self.1.iter().for_each(|c| c.kill("another rank panicked"));
        }
    }
}

/// Runs a program on `size` ranks. Each rank is stopped and moved to the other agent up to `moves` times, after random pauses.
pub fn run(wasm: &[u8], size: u32, args: &[&str], root: Option<&Path>, moves: u32, seed: u64) -> Run {
    run_on(engines(), wasm, size, args, root, moves, seed)
}

/// The same with these engines, one after the other.
pub fn run_on<'e>(engines: impl AsRef<[&'e Engine]>, wasm: &[u8], size: u32, args: &[&str], root: Option<&Path>, moves: u32, seed: u64) -> Run {
    run_as(engines, wasm, &How { size, args, root, moves, seed, ..How::default() })
}

/// How a program is run, and what happens to it meanwhile.
#[derive(Clone)]
pub struct How<'a> {
    pub size: u32,
    pub args: &'a [&'a str],
    pub env: &'a [String],
    pub root: Option<&'a Path>,
    /// Of each rank, at most.
    pub moves: u32,
    /// Between two of them, in microseconds.
    pub pause_us: std::ops::Range<u64>,
    pub seed: u64,
    /// Then it is killed.
    pub longest: Duration,
}

impl Default for How<'_> {
    fn default() -> Self {
        How { size: 1, args: &[], env: &[], root: None, moves: 0, pause_us: 50..3000, seed: 0, longest: LONGEST }
    }
}

pub fn run_as<'e>(engines: impl AsRef<[&'e Engine]>, wasm: &[u8], how: &How<'_>) -> Run {
    let How { size, args, root, moves, seed, .. } = *how;
    let there: Vec<(&Engine, Arc<Program>)> = engines.as_ref().iter().map(|engine| (*engine, engine.load(wasm).unwrap())).collect();
    let agents = Arc::new(Agents { fabrics: Default::default(), at: (0..size).map(|_| Mutex::new(0)).collect() });
    for slot in &agents.fabrics {
        assert!(slot.set(Arc::new(Fabric::new(size, Box::new(Link(Arc::downgrade(&agents)))))).is_ok());
    }
    for rank in 0..size {
        agents.fabrics[0].get().unwrap().arrive(Rank(rank), Vec::new());
    }
    let log = Arc::new(Log::default());
    let mounts = Mounts {
        folders: root.map(|r| ("data".to_string(), Arc::new(Folder { root: r.into() }) as _)).into_iter().collect(),
        workdir: root.map(|_| (0, String::new())),
    };
    let spec = |rank: u32, agent: usize| Spec {
        rank: Rank(rank),
        size,
        args: std::iter::once("program").chain(args.iter().copied()).map(str::to_string).collect(),
        env: std::iter::once("LANG=C".to_string()).chain(how.env.iter().cloned()).collect(),
        memory_max: 1 << 30,
        budget: Arc::default(),
        mounts: mounts.clone(),
        output: log.clone(),
        fabric: agents.fabrics[agent].get().unwrap().clone(),
        place: ["edge", "cloud"][agent].into(),
        spin: 0,
    };
    let controls: Vec<Arc<Control>> = (0..size).map(|_| Arc::default()).collect();
    let running = Arc::new(std::sync::atomic::AtomicU32::new(size));
    std::thread::scope(|scope| {
        let ranks: Vec<_> = (0..size)
            .map(|rank| {
                let (control, agents, running) = (controls[rank as usize].clone(), agents.clone(), running.clone());
                let all = controls.clone();
                let (spec, there) = (&spec, &there);
                let body = move || {
                    let _leaves = Leaves(running, all.clone());
                    let mut cell = Cell::new(there[0].0, &there[0].1, &spec(rank, 0), control.clone()).unwrap();
                    let mut moved = 0;
                    loop {
                        match cell.run() {
                            Ended::Stopped => {
                                moved += 1;
                                let engines = [moved - 1, moved].map(|n: usize| &there[n % there.len()]);
                                cell = relocate(engines, cell, &agents, rank, &|agent| spec(rank, agent), control.clone());
                            }
                            ended => {
                                if !matches!(ended, Ended::Exited(0)) {
                                    all.iter().for_each(|c| c.kill("another rank failed"));
                                }
                                return (ended, moved);
                            }
                        }
                    }
                };
                std::thread::Builder::new().stack_size(engine::THREAD_STACK).spawn_scoped(scope, body).unwrap()
            })
            .collect();
        let mut random = StdRng::seed_from_u64(seed);
        let mut left = moves * size;
        let (begin, mut told) = (Instant::now(), false);
        while running.load(std::sync::atomic::Ordering::SeqCst) > 0 {
            if begin.elapsed() > how.longest && !std::mem::replace(&mut told, true) {
                for (agent, f) in agents.fabrics.iter().map(|f| f.get().unwrap()).enumerate() {
                    for rank in (0..size).map(Rank) {
                        let held: Vec<_> = f.unacknowledged(rank).iter().map(|m| (m.header.dst, m.header.seq)).collect();
                        eprintln!("agent {agent}, {rank:?}: {:?}, messages wait: {}, unacknowledged: {held:?}", f.place(rank), f.waiting(rank));
                    }
                }
                controls.iter().for_each(|c| c.kill("it took too long"));
            }
            std::thread::sleep(Duration::from_micros(random.random_range(how.pause_us.clone())));
            for f in agents.fabrics.iter().map(|f| f.get().unwrap()) {
                f.sweep();
                // An acknowledgement that met its rank on the move is lost, as it may be between agents.
                f.resend_old(64, |_| false);
            }
            if left > 0 {
                left -= 1;
                let rank = random.random_range(0..size);
                controls[rank as usize].stop();
                for f in &agents.fabrics {
                    f.get().unwrap().mailbox(Rank(rank)).bell.ring();
                }
            }
        }
        let results: Vec<_> = ranks.into_iter().map(|r| r.join().unwrap()).collect();
        Run {
            texts: (0..size).map(|r| log.text(r)).collect(),
            outs: (0..size).map(|r| log.stream(r, false)).collect(),
            errs: (0..size).map(|r| log.stream(r, true)).collect(),
            ended: results.iter().map(|(e, _)| e.clone()).collect(),
            moves: results.iter().map(|(_, n)| *n).sum(),
        }
    })
}

/// A migration without its transport: written down by the first engine, read back by the second.
fn relocate(
    engines: [&(&Engine, Arc<Program>); 2],
    mut cell: Cell,
    agents: &Agents,
    rank: u32,
    spec: &dyn Fn(usize) -> Spec,
    control: Arc<Control>,
) -> Cell {
    let from = *agents.at[rank as usize].lock().unwrap();
    let fabric = agents.fabrics[from].get().unwrap();
    fabric.hold(Rank(rank));
    let bytes = snapshot::write(engines[0].0, &mut cell).unwrap();
    drop(cell);
    let read = snapshot::Snapshot::read(&bytes).unwrap();
    let mut cell = read.thaw(engines[1].0, &engines[1].1, &spec(1 - from), control).unwrap();
    *agents.at[rank as usize].lock().unwrap() = 1 - from;
    fabric.depart(Rank(rank));
    cell.arrive(&read.frozen);
    cell
}

pub fn exited(run: &Run) {
    for (rank, ended) in run.ended.iter().enumerate() {
        assert_eq!(*ended, Ended::Exited(0), "rank {rank}");
    }
}
