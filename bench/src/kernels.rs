//! How fast cells compute, and what it costs that they can be stopped anywhere.
//!
//! `kernels`: small programs of several kinds as cells in the fast tier against the better of `gcc -O3` and `clang -O3`. `instrumentation`: the same programs with safe points
//! against without, in both tiers, and how long it takes from a request until a cell has stopped. Processor time, the least of several runs, in turn. All of them must
//! print the same, bit for bit: sums are rounded twice everywhere (`-ffp-contract=off`), and no kernel asks the C library for more than a square root.

use crate::{figure, root};
use anyhow::{Context, Result, bail};
use cells::toolchain::driver::{self, Lang};
use cells::wasi::{Mounts, Output};
use cells::{Cell, Control, Ended, Engine, Program, Spec, Tier, engine};
use mpi::{Fabric, Message, Rank, Wire};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Runs of each variant of a kernel, of which the fastest counts.
const RUNS: usize = 7;
/// Stops of each kernel.
const STOPS: usize = 40;

struct Kernel {
    name: String,
    ours: Arc<Program>,
    /// In the fast tier.
    fast: Arc<Program>,
    /// Both without safe points.
    plain: Arc<Program>,
    fast_plain: Arc<Program>,
    native: Vec<tempfile::TempPath>,
}

fn kernels(engine: &Engine, fast: &Engine, compilers: &[&str]) -> Result<Vec<Kernel>> {
    let folder = root().join("bench/programs/kernels");
    let mut sources: Vec<std::path::PathBuf> = std::fs::read_dir(&folder)?.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
    sources.sort();
    let chosen = std::env::var("CLOUDSKIN_KERNELS").ok();
    sources.retain(|s| chosen.as_ref().is_none_or(|c| c.split(',').any(|c| s.file_stem().is_some_and(|n| n == c))));
    let build = |source: &Path| -> Result<Kernel> {
        let native = compilers.iter().map(|c| native(c, source)).collect::<Result<_>>()?;
        let name = source.file_stem().and_then(|n| n.to_str()).unwrap_or("?").to_string();
        let (module, bare) = (cell(source, true)?, cell(source, false)?);
        Ok(Kernel { name, ours: engine.load(&module)?, fast: fast.load(&module)?, plain: engine.load_bare(&bare)?, fast_plain: fast.load_bare(&bare)?, native })
    };
    sources.iter().map(|s| build(s).with_context(|| s.display().to_string())).collect()
}

fn cell(source: &Path, safe_points: bool) -> Result<Vec<u8>> {
    let out = tempfile::NamedTempFile::new()?.into_temp_path();
    let mut args = vec![source.as_os_str().to_owned(), "-O3".into(), "-o".into(), out.as_os_str().to_owned()];
    if !safe_points {
        args.push("-fno-safe-points".into());
    }
    if driver::main(Lang::C, args)? != 0 {
        bail!("it does not compile");
    }
    Ok(std::fs::read(&out)?)
}

fn native(compiler: &str, source: &Path) -> Result<tempfile::TempPath> {
    let out = tempfile::NamedTempFile::new()?.into_temp_path();
    let status = Command::new(compiler).args(["-O3", "-ffp-contract=off", "-o"]).arg(&out).arg(source).arg("-lm").status();
    if !status.with_context(|| format!("{compiler}; setup/setup.sh test installs it"))?.success() {
        bail!("{compiler} does not compile it");
    }
    Ok(out)
}

#[derive(Default)]
struct Text(Mutex<Vec<u8>>);

impl Output for Text {
    fn write(&self, _: Rank, _: bool, _: u64, data: &[u8]) {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).extend_from_slice(data);
    }
}

struct NoWire;

impl Wire for NoWire {
    fn send(&self, _: Message) {}
    fn acknowledge(&self, _: Rank, _: Rank, _: u64) {}
}

pub fn start(engine: &Engine, program: &Arc<Program>, output: Arc<dyn Output>, control: Arc<Control>) -> Result<Cell> {
    let fabric = Arc::new(Fabric::new(1, Box::new(NoWire)));
    fabric.arrive(Rank(0), Vec::new());
    let spec = Spec {
        rank: Rank(0),
        size: 1,
        args: vec!["kernel".into()],
        env: Vec::new(),
        memory_max: 1 << 30,
        budget: Arc::default(),
        mounts: Mounts::default(),
        output,
        fabric,
        place: "here".into(),
        spin: 0,
    };
    Ok(Cell::new(engine, program, &spec, control)?)
}

/// On a thread with a guest's stack.
pub fn on_thread<T: Send>(body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(engine::THREAD_STACK).spawn_scoped(scope, body)?;
        thread.join().map_err(|_| anyhow::anyhow!("a rank's thread panicked"))?
    })
}

fn seconds(time: libc::timeval) -> f64 {
    time.tv_sec as f64 + time.tv_usec as f64 * 1e-6
}

/// Processor time in seconds of this thread, or of the children that have ended.
fn processor_time(who: libc::c_int) -> f64 {
    // SAFETY: rusage is plain numbers, for which zero is a value; the call fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(who, &mut usage);
        usage
    };
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// Milliseconds of processor time, and what was printed.
fn run(engine: &Engine, program: &Arc<Program>) -> Result<(f64, String)> {
    on_thread(|| {
        let text = Arc::new(Text::default());
        let mut cell = start(engine, program, text.clone(), Arc::default())?;
        let before = processor_time(libc::RUSAGE_THREAD);
        let ended = cell.run();
        let ms = (processor_time(libc::RUSAGE_THREAD) - before) * 1e3;
        if ended != Ended::Exited(0) {
            bail!("{ended:?}");
        }
        let text = text.0.lock().unwrap_or_else(|e| e.into_inner()).clone();
        Ok((ms, String::from_utf8(text)?))
    })
}

fn run_native(program: &Path) -> Result<(f64, String)> {
    let before = processor_time(libc::RUSAGE_CHILDREN);
    let output = Command::new(program).output()?;
    Ok(((processor_time(libc::RUSAGE_CHILDREN) - before) * 1e3, String::from_utf8(output.stdout)?))
}

/// Keeps this thread, and what it starts, on one processor as long as this lives.
struct Pinned(libc::cpu_set_t);

impl Pinned {
    /// Where this thread is now.
    fn here() -> Result<Pinned> {
        // SAFETY: sets of processors are plain numbers, for which zero is a value; the calls fill and read them.
        unsafe {
            let (mut before, mut one): (libc::cpu_set_t, libc::cpu_set_t) = (std::mem::zeroed(), std::mem::zeroed());
            let here = usize::try_from(libc::sched_getcpu())?;
            libc::CPU_SET(here, &mut one);
            let size = size_of::<libc::cpu_set_t>();
            if libc::sched_getaffinity(0, size, &mut before) != 0 || libc::sched_setaffinity(0, size, &one) != 0 {
                bail!("can't stay on one processor: {}", std::io::Error::last_os_error());
            }
            Ok(Pinned(before))
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: the set was filled by the system.
        unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &self.0) };
    }
}

/// The least times of the variants, in turn; all print the same. All on one processor: those of a virtual machine may differ by half, for as long as somebody else is busy beside one of them, and threads that
/// are started in turn come to them in turn.
fn fastest(name: &str, variants: &[&dyn Fn() -> Result<(f64, String)>]) -> Result<Vec<f64>> {
    let _pinned = Pinned::here()?;
    let mut best = vec![f64::INFINITY; variants.len()];
    let mut printed: Option<String> = None;
    for _ in 0..RUNS {
        for (best, variant) in best.iter_mut().zip(variants) {
            let (ms, text) = variant()?;
            *best = best.min(ms);
            if *printed.get_or_insert_with(|| text.clone()) != text {
                bail!("{name} prints {text:?} here and {printed:?} there");
            }
        }
    }
    Ok(best)
}

pub fn geomean(ratios: &[f64]) -> f64 {
    (ratios.iter().map(|r| r.ln()).sum::<f64>() / ratios.len() as f64).exp()
}

fn worst(ratios: &[f64]) -> f64 {
    ratios.iter().copied().fold(0.0, f64::max)
}

/// A figure that is a ratio by itself.
pub fn ratio(name: &str, value: f64, most: f64, samples: usize) -> Value {
    json!({"name": name, "ours": value, "peer": 1.0, "ratio": value, "unit": "ratio", "goal": format!("<= {most}"), "met": value <= most, "samples": samples})
}

pub fn the_engine(tier: Tier) -> Result<Engine> {
    Ok(Engine::new(&engine::Options { cells_max: 8, tier, ..Default::default() })?)
}

pub fn kernels_bench() -> Result<Vec<Value>> {
    let (quick, fast) = (the_engine(Tier::Quick)?, the_engine(Tier::Fast)?);
    let (mut out, mut ratios, mut quick_ratios) = (Vec::new(), Vec::new(), Vec::new());
    for k in kernels(&quick, &fast, &["gcc", "clang"])? {
        let times = fastest(
            &k.name,
            &[&|| run(&fast, &k.fast), &|| run_native(&k.native[0]), &|| run_native(&k.native[1]), &|| run(&quick, &k.ours)],
        )?;
        let peer = times[1].min(times[2]);
        quick_ratios.push(times[3] / peer);
        ratios.push(times[0] / peer);
        let mut f = figure(&format!("kernels.{}", k.name), "ms", "ratio <= 1.3", times[0], Some(peer), RUNS, times[0] / peer <= 1.3);
        f["gcc"] = times[1].into();
        f["clang"] = times[2].into();
        f["quick_tier"] = times[3].into();
        out.push(f);
    }
    out.push(json!({"name": "kernels.quick-tier.geomean", "ours": geomean(&quick_ratios), "peer": 1.0, "unit": "ratio", "goal": "reported", "met": true}));
    out.push(ratio("kernels.geomean", geomean(&ratios), 1.05, ratios.len()));
    out.push(ratio("kernels.worst", worst(&ratios), 1.3, ratios.len()));
    Ok(out)
}

pub fn instrumentation() -> Result<Vec<Value>> {
    let (quick, fast) = (the_engine(Tier::Quick)?, the_engine(Tier::Fast)?);
    let (mut out, mut stops) = (Vec::new(), Vec::new());
    let mut ratios = [const { Vec::new() }; 2];
    for k in kernels(&quick, &fast, &[])? {
        let times = fastest(&k.name, &[&|| run(&fast, &k.fast), &|| run(&fast, &k.fast_plain), &|| run(&quick, &k.ours), &|| run(&quick, &k.plain)])?;
        for (tier, (times, ratios)) in [Tier::Fast, Tier::Quick].into_iter().zip(times.chunks(2).zip(&mut ratios)) {
            let ratio = times[0] / times[1];
            ratios.push(ratio);
            out.push(figure(&format!("instrumentation.{tier}.{}", k.name), "ms", "ratio <= 1.1", times[0], Some(times[1]), RUNS, ratio <= 1.1));
        }
        stops.extend(stop_times(&quick, &k.ours)?);
    }
    for (tier, ratios) in [Tier::Fast, Tier::Quick].into_iter().zip(&ratios) {
        out.push(ratio(&format!("instrumentation.{tier}.geomean"), geomean(ratios), 1.03, ratios.len()));
        out.push(ratio(&format!("instrumentation.{tier}.worst"), worst(ratios), 1.1, ratios.len()));
    }
    stops.sort_by(f64::total_cmp);
    let at = |share: f64| stops[((stops.len() - 1) as f64 * share) as usize];
    out.push(figure("instrumentation.stop.p50", "ms", "reported", at(0.5), None, stops.len(), true));
    out.push(figure("instrumentation.stop.p99", "ms", "<= 2", at(0.99), None, stops.len(), at(0.99) <= 2.0));
    out.push(figure("instrumentation.stop.max", "ms", "reported", at(1.0), None, stops.len(), true));
    Ok(out)
}

/// Milliseconds from each of [`STOPS`] requests, at different places of the program, to the cell that has stopped.
fn stop_times(engine: &Engine, program: &Arc<Program>) -> Result<Vec<f64>> {
    let control: Arc<Control> = Arc::default();
    let asked: Mutex<Option<Instant>> = Mutex::new(None);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (control, asked, done) = (&control, &asked, &done);
        scope.spawn(move || {
            let mut pause = 300;
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                pause = 300 + (pause * 7919 + 13) % 3000;
                std::thread::sleep(Duration::from_micros(pause));
                let mut asked = asked.lock().unwrap_or_else(|e| e.into_inner());
                if asked.is_none() && !control.threads().is_empty() {
                    *asked = Some(Instant::now());
                    control.stop();
                }
            }
        });
        let times = on_thread(|| {
            let mut times = Vec::new();
            while times.len() < STOPS {
                let mut cell = start(engine, program, Arc::new(cells::wasi::Discard), control.clone())?;
                loop {
                    let ended = cell.run();
                    let now = Instant::now();
                    let since = asked.lock().unwrap_or_else(|e| e.into_inner()).take();
                    match (ended, since) {
                        (Ended::Stopped, Some(since)) => times.push((now - since).as_secs_f64() * 1e3),
                        (Ended::Exited(0), _) => break,
                        other => bail!("{other:?}"),
                    }
                }
                control.clear();
            }
            Ok(times)
        });
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        times
    })
}
