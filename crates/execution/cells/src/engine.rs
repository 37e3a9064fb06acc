//! From WebAssembly bytes to something that starts in microseconds.
//!
//! Compiled code is kept (`cache`), keyed by the module's SHA-256 and by the engine's own compatibility hash (version, target, settings), with a
//! checksum: a file of another engine is simply another name, and a damaged one is compiled again. Beside it lies what the inspection has found (`Verdict`), which takes as long as all else
//! at a start from the cache. Memory comes from a pool of 4 GiB reservations
//! with guard pages, so a bounds check costs nothing, and starts as a copy-on-write image of the module's data.
//!
//! Programs with safe points look at the agent's flag words themselves, which `toolchain::verify` has proved. A program without them (`fixed`), or
//! of which that can't be proved, would loop for ever whatever is asked of it, so it is compiled for a second engine, whose code looks at a clock
//! at each loop header and function: `Half`. That costs such programs some speed and the others nothing. What is movable is decided by
//! `toolchain::inspect` alone, here as at submission. A third engine is for programs with threads: it has no pool, since each
//! of their threads is an instance and their memory is made for the cell and not for the instance; and a fourth for those of them without safe points, with the
//! clock. A fifth one is for movable programs with exceptions, and a sixth for those of them with threads:
//! what is thrown lies in a heap that the engine collects, which costs each instance of theirs something and the others nothing. Those that the interpreter
//! runs have engines of their own, for bytecode.
//!
//! Code for another machine than this one is made by `Engine::compile_for`, as a file that the cache of an agent there has by the same name: `Machine`.

use crate::cache::Cache;
use crate::cell::Host;
use crate::error::{Error, Result};
use crate::toolchain::inspect::{self, Refusal, Report};
use crate::toolchain::lines;
use crate::{interpreter, mpi_host, native, perf, processes, threads, wasi};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use wasmtime::{Collector, Config, InstanceAllocationStrategy, InstancePre, Linker, Module, ModuleExport, PoolingAllocationConfig, SharedMemory};

/// The unit in which memory is compared and sent.
pub const PAGE: usize = 4096;
/// Stack that a guest's calls may use.
pub(crate) const GUEST_STACK: usize = 2 << 20;
/// Stack of a rank's thread: the guest's and ours.
pub const THREAD_STACK: usize = GUEST_STACK + (2 << 20);
/// Largest module that is taken.
pub const MODULE_MAX: usize = 256 << 20;
/// Cells with exceptions at once: each has a third reservation, and there is an end to addresses.
const THROWING_MAX: u32 = 1024;
/// Of the heap of what one thread of a program with threads has thrown. A movable one holds numbers in place of references (`toolchain::exceptions`), so what was thrown is collected when
/// this is full; one without safe points can hold some ten thousand exceptions at once.
pub(crate) const THROWN_BYTES: usize = 1 << 20;
/// How often a program without safe points is made to look whether it has been killed.
const TICK: Duration = Duration::from_millis(100);

#[derive(Clone, Debug)]
pub struct Options {
    /// What has been compiled before; `None`: compile at each load.
    pub cache: Option<Cache>,
    /// Cells at once.
    pub cells_max: u32,
    /// In which tier programs run of whose job nothing else was said.
    pub tier: Tier,
    /// `perf` is told what their functions are called ([`crate::perf`]).
    pub perf_map: bool,
}

/// What makes a program's code. The results are the same bit for bit, and a stopped cell may go on in another tier. A program that a tier does not take runs in the quick one, and
/// [`Program::instead`] says why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Cranelift: within a fraction of a second.
    #[default]
    Quick,
    /// LLVM: seconds, for code as fast as a C compiler's (`native`). It does not take programs without safe points and the few that `native` has no translation for, and is not there
    /// where the toolchain is not installed.
    Fast,
    /// Pulley: bytecode that is interpreted, on machines of any kind (`interpreter`). It does not take threads.
    Interpreter,
}

impl Tier {
    pub const ALL: [Tier; 3] = [Tier::Quick, Tier::Fast, Tier::Interpreter];
}

impl std::fmt::Display for Tier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Tier::Quick => "quick",
            Tier::Fast => "fast",
            Tier::Interpreter => "interpreter",
        })
    }
}

impl std::str::FromStr for Tier {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Tier, String> {
        let tier = Tier::ALL.into_iter().find(|tier| tier.to_string() == text);
        tier.ok_or_else(|| format!("{text:?} is no tier: choose quick (Cranelift), fast (LLVM) or interpreter (Pulley)"))
    }
}

impl Default for Options {
    fn default() -> Options {
        Options { cache: None, cells_max: 256, tier: Tier::default(), perf_map: false }
    }
}

/// The compiler and the pool of memories. One per process.
#[derive(Clone)]
pub struct Engine {
    /// Each is made when the first program is loaded that needs it; the one for movable programs that are compiled at once: most agents never have another.
    halves: Arc<Mutex<HashMap<(Kind, Code), Half>>>,
    options: Options,
}

/// For what an engine's code is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Code {
    /// This processor, with all that it can do.
    Here,
    /// The interpreter.
    Bytecode,
    /// Any processor of a kind: made elsewhere.
    For(Machine),
}

/// A kind of machine that code can be made for, elsewhere than there. It is what all processors of the kind have, so it may be a little slower than what is compiled on the spot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Machine {
    X86_64,
    Aarch64,
}

impl Machine {
    pub const ALL: [Machine; 2] = [Machine::X86_64, Machine::Aarch64];
    /// This one, if it is one of them.
    pub const HERE: Option<Machine> = if cfg!(target_arch = "x86_64") {
        Some(Machine::X86_64)
    } else if cfg!(target_arch = "aarch64") {
        Some(Machine::Aarch64)
    } else {
        None
    };

    fn triple(self) -> &'static str {
        match self {
            Machine::X86_64 => "x86_64-unknown-linux-gnu",
            Machine::Aarch64 => "aarch64-unknown-linux-gnu",
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Machine::X86_64 => "x86_64",
            Machine::Aarch64 => "aarch64",
        })
    }
}

impl std::str::FromStr for Machine {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Machine, String> {
        let machine = Machine::ALL.into_iter().find(|machine| machine.to_string() == text || machine.triple() == text);
        machine.ok_or_else(|| format!("{text:?} is no machine that code can be made for: choose x86_64 or aarch64"))
    }
}

/// The interpreter's machine: with 64 bits and the low byte first, as those that an agent is built for.
const PULLEY: &str = "pulley64";

/// What a program needs of its engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Movable,
    /// It is movable, and has exceptions.
    Throwing,
    /// It has no safe points.
    Fixed,
    /// It is movable, and has threads.
    Threaded,
    /// It is movable, and has threads and exceptions.
    ThreadedThrowing,
    /// It has threads and no safe points.
    ThreadedFixed,
}

impl Kind {
    /// It has no flag words to look at, so its code looks at a clock.
    pub(crate) fn has_clock(self) -> bool {
        matches!(self, Kind::Fixed | Kind::ThreadedFixed)
    }

    fn has_threads(self) -> bool {
        matches!(self, Kind::Threaded | Kind::ThreadedThrowing | Kind::ThreadedFixed)
    }

    /// Movable programs have exceptions only where they ask for them.
    fn throws(self) -> bool {
        matches!(self, Kind::Throwing | Kind::ThreadedThrowing | Kind::Fixed | Kind::ThreadedFixed)
    }
}

/// What the engine has to know of a module that has passed [`inspect::check`].
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Verdict {
    /// Size of its unwind area, if its ranks can be moved.
    unwind_bytes: Option<u32>,
    /// Why they can't.
    fixed_because: Vec<String>,
    exceptions: bool,
    shared_pages: Option<(u64, u64)>,
}

impl Verdict {
    fn of(report: &Report) -> Verdict {
        let unwind_bytes = report.mark.as_ref().filter(|_| report.movable()).map(|mark| mark.unwind_bytes);
        Verdict { unwind_bytes, fixed_because: report.fixed_because.clone(), exceptions: report.exceptions, shared_pages: report.shared_pages }
    }

    fn movable(&self) -> bool {
        self.fixed_because.is_empty()
    }

    fn kind(&self) -> Kind {
        match (self.shared_pages.is_some(), self.movable()) {
            (true, true) if self.exceptions => Kind::ThreadedThrowing,
            (true, true) => Kind::Threaded,
            (true, false) => Kind::ThreadedFixed,
            (false, true) => self.kind_if_movable(),
            (false, false) => Kind::Fixed,
        }
    }

    fn kind_if_movable(&self) -> Kind {
        if self.exceptions { Kind::Throwing } else { Kind::Movable }
    }
}

/// What a tier makes of a module, for the engine to compile.
enum Translated {
    /// Nothing: the quick tier.
    Not,
    Native(native::Split),
    Bytecode(Vec<u8>),
}

/// An engine of wasmtime's with the host's functions: one for each [`Kind`] and [`Code`].
#[derive(Clone)]
struct Half {
    inner: wasmtime::Engine,
    linker: Arc<Linker<Host>>,
    kind: Kind,
    code: Code,
}

/// A module that is ready to be instantiated.
pub struct Program {
    pub sha256: String,
    /// `None`: it has threads, and is made ready for each cell with its memory, by [`Program::over`].
    pub(crate) pre: Option<InstancePre<Host>>,
    /// Of a program with threads: the pages that its memory begins with, and the most that it can use.
    pub(crate) shared_pages: Option<(u64, u64)>,
    /// `_start` and `memory`, found once for all cells.
    pub(crate) start: ModuleExport,
    pub(crate) memory: ModuleExport,
    /// The area where a cell's stack is kept while it is stopped. `None`: not built by `cloudskin cc`, so it runs but can't be moved.
    pub(crate) safe_points: Option<SafePoints>,
    /// It begins in the folder that PWD names.
    pub(crate) knows_workdir: bool,
    pub(crate) kind: Kind,
    /// What has made its code, whatever was asked for, and why it is not what was.
    tier: Tier,
    instead: Option<String>,
    fixed_because: String,
    pub(crate) lines: Lines,
    module: Module,
    linker: Arc<Linker<Host>>,
    base: OnceLock<Vec<u128>>,
}

/// Whether a backtrace of a program has lines.
#[derive(Clone)]
pub(crate) enum Lines {
    /// It was not compiled with `-g`.
    None,
    /// As they stand in the module (`toolchain::lines`): read when a cell has failed, and not before.
    Known(Arc<[u8]>),
    /// They are of the module's code, and what runs is what LLVM has made of it.
    InOtherTiers,
}

/// Where a movable program keeps what the agent must reach. Checked by [`inspect`]: inside of the memory that the program starts with, and aligned to 16.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SafePoints {
    pub unwind_len: u32,
}

fn failed(e: wasmtime::Error) -> Error {
    Error::Engine(format!("{e:#}"))
}

/// Slots of a pool are address space; only those that have been used hold memory. `heaps`: of what is thrown.
fn pool(options: &Options, kind: Kind, heaps: u32) -> PoolingAllocationConfig {
    let cells = if kind == Kind::Throwing { heaps } else { options.cells_max };
    // What ranks make of themselves by `fork` is beside them.
    let children = if kind == Kind::Fixed { 0 } else { processes::CHILDREN_SITE_MAX };
    let (cells, heaps) = (cells + children, if heaps > 0 { heaps + children } else { 0 });
    let mut pool = PoolingAllocationConfig::default();
    pool.total_core_instances(cells)
        // The program's own and that of its flag words; and the heap of what is thrown.
        .total_memories(2 * cells + heaps)
        .total_gc_heaps(heaps)
        .max_memories_per_module(2)
        .total_tables(cells)
        .table_elements(100_000)
        .max_memory_size(crate::cell::MEMORY_MAX as usize)
        .max_unused_warm_slots(2 * cells)
        // A slot's memory goes back to the system with its cell. Setting the first MiB to zero instead, to save the next cell its page faults, took
        // 25 µs, pushed all else out of the cache and kept that MiB for each slot; most of it is stack that nobody had touched. To ask the system
        // which pages are dirty is no way: those that are swapped out are not named, and the next tenant would read them.
        .linear_memory_keep_resident(0)
        .table_keep_resident(1 << 16);
    pool
}

/// What decides the code that is made; where memory comes from is the caller's.
fn config(kind: Kind, code: Code) -> Result<Config> {
    let mut config = Config::new();
    if kind.has_threads() {
        config.shared_memory(true);
        if kind.throws() {
            // Each thread has a heap for what it throws, and there is an end to addresses.
            config.gc_heap_reservation(THROWN_BYTES as u64).gc_heap_guard_size(65536).gc_heap_reservation_for_growth(0);
        }
    }
    config
        .memory_init_cow(true)
        // What native code relies on as well: an address of 32 bits and an offset below the guard reach nothing else. The interpreter compares each address.
        .memory_reservation(4 << 30)
        .memory_guard_size(native::GUARD)
        .epoch_interruption(kind.has_clock())
        .gc_support(kind.throws())
        .wasm_exceptions(kind.throws())
        // What was thrown and is not needed any more must go, since a program may throw as often as it likes.
        .collector(Collector::DeferredReferenceCounting)
        // One result on each machine and in each tier.
        .relaxed_simd_deterministic(true)
        // Safe points are in the code all the time and taken rarely: the hints keep them out of the way.
        .wasm_branch_hinting(true)
        .max_wasm_stack(GUEST_STACK)
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(64));
    match code {
        Code::Here => {}
        Code::Bytecode => _ = config.target(PULLEY).map_err(failed)?,
        Code::For(machine) => _ = config.target(machine.triple()).map_err(failed)?,
    }
    Ok(config)
}

/// The extension of code's names in the cache.
const CODE: &str = "cwasm";

/// Under which name the cache keeps what has this key and depends on an engine, such as the code that it makes: that of another version, kind, processor or with other settings has another name.
fn cache_name(engine: &wasmtime::Engine, key: &str, what: &str) -> String {
    let mut hash = std::hash::DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hash);
    format!("{key}-{:016x}.{what}", hash.finish())
}

impl Half {
    /// But for movable ones, programs are made to look at a clock of this engine, which gets a thread that moves it on.
    fn new(options: &Options, kind: Kind, code: Code) -> Result<Half> {
        let (ticks, throws) = (kind.has_clock(), kind.throws());
        let mut config = config(kind, code)?;
        if !kind.has_threads() {
            let heaps = if throws { options.cells_max.min(THROWING_MAX) } else { 0 };
            config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(options, kind, heaps)));
        }
        let inner = wasmtime::Engine::new(&config).map_err(failed)?;
        let mut linker = Linker::new(&inner);
        wasi::link(&mut linker).map_err(failed)?;
        mpi_host::link(&mut linker).map_err(failed)?;
        threads::link(&mut linker).map_err(failed)?;
        processes::link(&mut linker).map_err(failed)?;
        if ticks {
            // The thread ends with the engine. A clock that goes on by itself can't be missed, as a single push at the moment of a kill could.
            let weak = inner.weak();
            let tick = move || {
                while let Some(engine) = weak.upgrade() {
                    engine.increment_epoch();
                    drop(engine);
                    std::thread::sleep(TICK);
                }
            };
            std::thread::Builder::new().name("cells ticks".into()).spawn(tick).map_err(Error::io("start the thread that ends loops"))?;
        }
        Ok(Half { inner, linker: Arc::new(linker), kind, code })
    }

    fn compile(&self, wasm: &[u8], key: &str, cache: Option<&Cache>) -> Result<Module> {
        let module = Module::new(&self.inner, wasm).map_err(|e| Error::Module(format!("{e:#}")))?;
        if let Some(cache) = cache {
            cache.put(&cache_name(&self.inner, key, CODE), module.serialize().map_err(failed)?);
        }
        Ok(module)
    }

    /// Code from the cache: what was made here, or else what was made elsewhere for all machines of this kind, or by another agent on a machine like this one.
    fn find(&self, key: &str, cache: &Cache) -> Option<Module> {
        let name = cache_name(&self.inner, key, CODE);
        let own = |name: &str| self.load(name, cache.own(name)?);
        own(&name).or_else(|| own(&self.elsewhere(key)?)).or_else(|| self.load(&name, cache.others(&name)?))
    }

    /// The name of code that was made elsewhere for all machines of this kind.
    fn elsewhere(&self, key: &str) -> Option<String> {
        let machine = Machine::HERE.filter(|_| self.code == Code::Here)?;
        let engine = wasmtime::Engine::new(&config(self.kind, Code::For(machine)).ok()?).ok()?;
        Some(cache_name(&engine, key, CODE))
    }

    /// A name is no proof of what lies behind it. What is not for this engine is not run, and who looks into the log finds why the program is compiled again.
    fn load(&self, name: &str, code: Vec<u8>) -> Option<Module> {
        // SAFETY: the code is that of `compile`, of this agent or of another one of its installation that has signed it (`Shared`), or of `Engine::compile_for`, put by this user into
        // a folder that only this user can enter (`Engine::new` sees to that; files 0600). Its checksum is right, and wasmtime itself refuses code of another version, with other
        // settings or for a processor that this one is not.
        let module = unsafe { Module::deserialize(&self.inner, &code) };
        module.inspect_err(|error| tracing::warn!(name, error = %format!("{error:#}"), "compiled code is not run: it is not for this machine and version")).ok()
    }
}

/// Asked whether nobody waits for a program any more.
pub type GivenUp<'a> = dyn Fn() -> bool + Sync + 'a;

impl Engine {
    pub fn new(options: &Options) -> Result<Engine> {
        options.cache.as_ref().map_or(Ok(()), Cache::open)?;
        let engine = Engine { halves: Arc::default(), options: options.clone() };
        engine.half(Kind::Movable, Code::Here)?;
        Ok(engine)
    }

    fn half(&self, kind: Kind, code: Code) -> Result<Half> {
        let mut halves = self.halves.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(half) = halves.get(&(kind, code)) {
            return Ok(half.clone());
        }
        let half = Half::new(&self.options, kind, code)?;
        halves.insert((kind, code), half.clone());
        Ok(half)
    }

    /// What runs a program.
    pub(crate) fn inner(&self, program: &Program) -> Result<wasmtime::Engine> {
        let code = if program.tier == Tier::Interpreter { Code::Bytecode } else { Code::Here };
        Ok(self.half(program.kind, code)?.inner)
    }

    /// Whether the host has this import. Calls of MPI that are not there yet stop the job when they are made, with their name.
    pub fn provides(&self, module: &str, name: &str) -> bool {
        module == mpi_host::MODULE || wasi::NAMES.contains(&name) && module == wasi::MODULE || threads::NAMES.contains(&name) && module == threads::MODULE || processes::NAMES.contains(&name) && module == processes::MODULE
    }

    /// Checks a module ([`inspect::check`]) and compiles it, or takes it from the cache.
    pub fn load(&self, wasm: &[u8]) -> Result<Arc<Program>> {
        self.load_in(wasm, self.options.tier)
    }

    /// The same in another tier than the engine's own.
    pub fn load_in(&self, wasm: &[u8], tier: Tier) -> Result<Arc<Program>> {
        self.load_unless(wasm, tier, &|| false)
    }

    /// The same, unless it is `given_up` meanwhile, which is asked for as long as LLVM works: that takes seconds, or minutes.
    ///
    /// # Errors
    /// [`Error::Killed`] if it was given up; nothing of it is kept.
    pub fn load_unless(&self, wasm: &[u8], tier: Tier, given_up: &GivenUp) -> Result<Arc<Program>> {
        let sha256 = if wasm.len() <= MODULE_MAX { sha256(wasm) } else { String::new() };
        let verdict = self.verdict(wasm, &sha256)?;
        self.compile(wasm, sha256, &verdict, verdict.kind(), tier, given_up)
    }

    /// What [`inspect::check`] says of the module with this SHA-256, or has said of it before: the answer depends on the module, on the code that gives it and on what the host has, and all three
    /// are in the name under which it is kept.
    fn verdict(&self, wasm: &[u8], sha256: &str) -> Result<Verdict> {
        let Some(cache) = self.options.cache.as_ref().filter(|_| wasm.len() <= MODULE_MAX) else { return self.check(wasm).map(|report| Verdict::of(&report)) };
        let engine = self.half(Kind::Movable, Code::Here)?.inner;
        let name = cache_name(&engine, &format!("{sha256}-{:016x}", self.inspector()), "verdict");
        if let Some(verdict) = cache.own(&name).and_then(|bytes| postcard::from_bytes(&bytes).ok()) {
            return Ok(verdict);
        }
        let verdict = Verdict::of(&self.check(wasm)?);
        cache.keep(&name, &postcard::to_stdvec(&verdict).expect("numbers and texts always have a form"));
        Ok(verdict)
    }

    /// A number for the code that inspects modules and for the names that the host provides. Of the parser it has no need: that is the engine's own version's, which stands in the name as well.
    fn inspector(&self) -> u64 {
        static NUMBER: OnceLock<u64> = OnceLock::new();
        *NUMBER.get_or_init(|| {
            let provided = [&wasi::NAMES[..], &threads::NAMES, &processes::NAMES].map(|names| names.join(" "));
            let texts = inspect::SOURCES.iter().copied().chain(provided.iter().map(String::as_str)).chain([mpi_host::MODULE]);
            xxhash_rust::xxh3::xxh3_64(texts.collect::<Vec<_>>().join("\0").as_bytes())
        })
    }

    /// Code of a module for a kind of machine, as name and bytes of a file: an engine of this version there finds it in its cache folder. Made by Cranelift, for the quick tier.
    ///
    /// # Errors
    /// As with [`Engine::load`]; and this CloudSkin was built without the compiler for that machine.
    pub fn compile_for(&self, wasm: &[u8], machine: Machine) -> Result<(String, Vec<u8>)> {
        let verdict = Verdict::of(&self.check(wasm)?);
        let engine = wasmtime::Engine::new(&config(verdict.kind(), Code::For(machine))?).map_err(|e| Error::Engine(format!("no compiler for {machine}: {e:#}")))?;
        let code = engine.precompile_module(wasm).map_err(|e| Error::Module(format!("{e:#}")))?;
        Ok((cache_name(&engine, &sha256(wasm), CODE), Cache::file(&code)))
    }

    /// A program without safe points as it would run with them, for measurements: nothing ends it before its time.
    pub fn load_bare(&self, wasm: &[u8]) -> Result<Arc<Program>> {
        let verdict = Verdict::of(&self.check(wasm)?);
        if verdict.movable() || verdict.shared_pages.is_some() {
            return Err(Error::Module("it has safe points, or threads".into()));
        }
        self.compile(wasm, sha256(wasm), &verdict, verdict.kind_if_movable(), self.options.tier, &|| false)
    }

    fn check(&self, wasm: &[u8]) -> Result<Report> {
        let known = |module: &str, name: &str| self.provides(module, name);
        inspect::check(wasm, MODULE_MAX, &known).map_err(|e: Refusal| Error::Module(e.to_string()))
    }

    fn compile(&self, wasm: &[u8], sha256: String, verdict: &Verdict, kind: Kind, asked: Tier, given_up: &GivenUp) -> Result<Arc<Program>> {
        let lines = lines::of(wasm);
        let safe_points = verdict.unwind_bytes.map(|unwind_len| SafePoints { unwind_len });
        let (translated, instead) = match self.translate(wasm, &sha256, verdict.movable(), kind, asked, given_up) {
            Ok(translated) => (translated, None),
            Err(_) if given_up() => return Err(Error::Killed("nobody waits for the program any more".into())),
            Err(why) => {
                // It runs all the same, with the same results.
                tracing::warn!(program = sha256, asked = %asked, why, "the program runs in the quick tier");
                (Translated::Not, Some(why))
            }
        };
        let (tier, code, wasm, key) = match &translated {
            Translated::Not => (Tier::Quick, Code::Here, wasm, sha256.clone()),
            Translated::Native(split) => (Tier::Fast, Code::Here, &split.residual[..], format!("{sha256}-residual-{}", native::VERSION)),
            Translated::Bytecode(plain) => (Tier::Interpreter, Code::Bytecode, &plain[..], format!("{sha256}-interpreted")),
        };
        let lines = match (lines, tier) {
            (None, _) => Lines::None,
            (Some(_), Tier::Fast) => Lines::InOtherTiers,
            // The interpreter's code has its instructions where the module has them.
            (Some(data), Tier::Quick | Tier::Interpreter) => Lines::Known(data.into()),
        };
        let half = self.half(kind, code)?;
        let cache = self.options.cache.as_ref();
        let module = match cache.and_then(|cache| half.find(&key, cache)) {
            Some(module) => module,
            None => half.compile(wasm, &key, cache)?,
        };
        if self.options.perf_map && code == Code::Here
            && let Err(error) = perf::tell(&module, &sha256[..8])
        {
            tracing::warn!(%error, "perf is not told what the program's functions are called");
        }
        let mut linker = (*half.linker).clone();
        mpi_host::link_missing(&mut linker, &module).map_err(failed)?;
        if let Translated::Native(split) = &translated {
            native::link(&mut linker, &module, &split.native).map_err(failed)?;
        }
        let knows_workdir = module.get_export(crate::toolchain::WORKDIR).is_some();
        let pre = match verdict.shared_pages {
            None => Some(linker.instantiate_pre(&module).map_err(|e| Error::Module(format!("{e:#}")))?),
            Some(_) => None,
        };
        let export = |name: &str| module.get_export_index(name).ok_or_else(|| Error::Module(format!("it does not export `{name}`")));
        let (start, memory) = (export("_start")?, export("memory")?);
        let fixed_because = verdict.fixed_because.join("; ");
        let (shared_pages, linker, base) = (verdict.shared_pages, Arc::new(linker), OnceLock::new());
        Ok(Arc::new(Program { sha256, pre, start, memory, shared_pages, safe_points, knows_workdir, kind, tier, instead, fixed_because, lines, module, linker, base }))
    }

    /// What another tier than the quick one makes of a module.
    ///
    /// # Errors
    /// Why that tier does not take it.
    fn translate(&self, wasm: &[u8], sha256: &str, movable: bool, kind: Kind, asked: Tier, given_up: &GivenUp) -> std::result::Result<Translated, String> {
        match asked {
            Tier::Quick => Ok(Translated::Not),
            Tier::Interpreter => interpreter::module(wasm, movable).map(Translated::Bytecode),
            Tier::Fast => match kind {
                Kind::Movable | Kind::Throwing | Kind::Threaded | Kind::ThreadedThrowing => match native::build(wasm, sha256, self.options.cache.as_ref(), given_up) {
                    Ok(Some(split)) => Ok(Translated::Native(split)),
                    Ok(None) => Err("it has something that this tier has no translation for".into()),
                    Err(error) => Err(error.to_string()),
                },
                // Native code has no clock to look at.
                Kind::Fixed | Kind::ThreadedFixed => Err("it has no safe points, without which nothing could end it there".into()),
            },
        }
    }
}

fn sha256(wasm: &[u8]) -> String {
    Sha256::digest(wasm).iter().map(|b| format!("{b:02x}")).collect()
}

impl Program {
    pub fn movable(&self) -> bool {
        self.safe_points.is_some()
    }

    /// What has made its code: whatever was asked for, it may be [`Tier::Quick`] all the same.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// Why it is not in the tier that was asked for, if it is not.
    pub fn instead(&self) -> Option<&str> {
        self.instead.as_deref()
    }

    /// What is said to who wants to move it.
    pub(crate) fn not_movable(&self) -> Error {
        Error::NotMovable(match self.shared_pages {
            Some(_) => format!("the program can't be moved: {}", self.fixed_because),
            None => "the program was not built with safe points; compile it with `cloudskin cc`".into(),
        })
    }

    /// A program with threads, ready to be instantiated over a cell's memory.
    pub(crate) fn over(&self, engine: &wasmtime::Engine, memory: &SharedMemory) -> Result<InstancePre<Host>> {
        let mut linker = (*self.linker).clone();
        // Shared memory belongs to no store; one is asked for, to know the engine.
        let store = crate::cell::nobody(engine, self);
        linker.define(&store, inspect::SHARED.0, inspect::SHARED.1, memory.clone()).map_err(failed)?;
        linker.instantiate_pre(&self.module).map_err(|e| Error::Module(format!("{e:#}")))
    }

    /// Checksums of the pages of a fresh instance's memory: what a destination has without being sent anything.
    pub(crate) fn base(&self, engine: &Engine) -> Result<&[u128]> {
        if let Some(base) = self.base.get() {
            return Ok(base);
        }
        // That of a movable program with threads is empty until `_start` fills it.
        if self.shared_pages.is_some() {
            return Ok(self.base.get_or_init(Vec::new));
        }
        let (mut store, instance) = crate::cell::bare(engine, self)?;
        let memory = instance.get_memory(&mut store, "memory").expect("`program` checked it");
        let sums = memory.data(&store).chunks(PAGE).map(xxhash_rust::xxh3::xxh3_128).collect();
        Ok(self.base.get_or_init(|| sums))
    }
}
