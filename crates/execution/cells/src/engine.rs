//! From WebAssembly bytes to something that starts in microseconds.
//!
//! Compiled code is kept in a cache folder, keyed by the module's SHA-256 and by the engine's own compatibility hash (version, target, settings), with a
//! checksum: a file of another engine is simply another name, and a damaged one is compiled again. Memory comes from a pool of 4 GiB reservations
//! with guard pages, so a bounds check costs nothing, and starts as a copy-on-write image of the module's data.
//!
//! Programs with safe points look at the agent's flag words themselves, which `toolchain::verify` has proved. A program without them (`fixed`), or
//! of which that can't be proved, would loop for ever whatever is asked of it, so it is compiled for a second engine, whose code looks at a clock
//! at each loop header and function: `Half`. That costs such programs some speed and the others nothing. What is movable is decided by
//! `toolchain::inspect` alone, here as at submission. A third engine is for programs with threads: it has no pool, since each
//! of their threads is an instance and their memory is made for the cell and not for the instance; and a fourth for those of them without safe points, with the
//! clock. A fifth one is for movable programs with exceptions:
//! what is thrown lies in a heap that the engine collects, which costs each instance of theirs something and the others nothing.

use crate::cell::Host;
use crate::error::{Error, Result};
use crate::toolchain::inspect::{self, Refusal, Report};
use crate::{mpi_host, native, threads, wasi};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
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
/// How often a program without safe points is made to look whether it has been killed.
const TICK: Duration = Duration::from_millis(100);

#[derive(Clone, Debug)]
pub struct Options {
    /// Folder of the ahead-of-time cache; `None`: compile at each load.
    pub cache: Option<PathBuf>,
    /// Cells at once.
    pub cells_max: u32,
    /// How movable programs are compiled.
    pub tier: Tier,
}

/// What makes a program's code. The results are the same bit for bit, and a stopped cell may go on in another tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Cranelift: within a fraction of a second.
    #[default]
    Quick,
    /// LLVM: seconds, for code as fast as a C compiler's (`native`). Programs that it does not take are compiled as with `Quick`, as are all where the toolchain
    /// is not installed.
    Fast,
}

impl std::fmt::Display for Tier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Tier::Quick => "quick",
            Tier::Fast => "fast",
        })
    }
}

impl std::str::FromStr for Tier {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Tier, String> {
        match text {
            "quick" => Ok(Tier::Quick),
            "fast" => Ok(Tier::Fast),
            other => Err(format!("{other:?} is no tier: choose quick (Cranelift) or fast (LLVM)")),
        }
    }
}

impl Default for Options {
    fn default() -> Options {
        Options { cache: None, cells_max: 256, tier: Tier::default() }
    }
}

/// The compiler and the pool of memories. One per process.
#[derive(Clone)]
pub struct Engine {
    movable: Half,
    /// Made when the first movable program with exceptions is loaded.
    throwing: Arc<Mutex<Option<Half>>>,
    /// Made when the first program without safe points is loaded: most agents never see one.
    fixed: Arc<Mutex<Option<Half>>>,
    /// Made when the first program with threads is, with and without safe points.
    threaded: Arc<Mutex<Option<Half>>>,
    threaded_fixed: Arc<Mutex<Option<Half>>>,
    options: Options,
}

/// What a program needs of its engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Movable,
    /// It is movable, and has exceptions.
    Throwing,
    /// It has no safe points.
    Fixed,
    /// It is movable, and has threads.
    Threaded,
    /// It has threads and no safe points.
    ThreadedFixed,
}

impl Kind {
    /// It has no flag words to look at, so its code looks at a clock.
    pub(crate) fn has_clock(self) -> bool {
        matches!(self, Kind::Fixed | Kind::ThreadedFixed)
    }

    /// Programs with threads have no exceptions, and the others only where they ask for them.
    fn throws(self) -> bool {
        matches!(self, Kind::Throwing | Kind::Fixed)
    }
}

/// An engine of wasmtime's with the host's functions: one for each [`Kind`].
#[derive(Clone)]
struct Half {
    inner: wasmtime::Engine,
    linker: Arc<Linker<Host>>,
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
    /// What has made its code, whatever was asked for.
    tier: Tier,
    fixed_because: String,
    module: Module,
    linker: Arc<Linker<Host>>,
    base: OnceLock<Vec<u128>>,
}

/// Where a movable program keeps what the agent must reach. Checked by [`inspect`]: inside of the memory that the program starts with, and aligned to 16.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SafePoints {
    pub unwind_len: u32,
}

fn failed(e: wasmtime::Error) -> Error {
    Error::Engine(format!("{e:#}"))
}

impl Half {
    /// But for movable ones, programs are made to look at a clock of this engine, which gets a thread that moves it on.
    fn new(options: &Options, kind: Kind) -> Result<Half> {
        let (ticks, throws) = (kind.has_clock(), kind.throws());
        let heaps = if throws { options.cells_max.min(THROWING_MAX) } else { 0 };
        let cells = if kind == Kind::Throwing { heaps } else { options.cells_max };
        let mut pool = PoolingAllocationConfig::default();
        // Slots of the pool are address space; only those that have been used hold memory.
        pool.total_core_instances(cells)
            // The program's own and that of its flag words; and the heap of what is thrown.
            .total_memories(2 * cells + heaps)
            .total_gc_heaps(heaps)
            .max_memories_per_module(2)
            .total_tables(cells)
            .table_elements(100_000)
            .max_memory_size(1 << 32)
            .max_unused_warm_slots(2 * cells)
            // A slot's memory goes back to the system with its cell. Setting the first MiB to zero instead, to save the next cell its page faults, took
            // 25 µs, pushed all else out of the cache and kept that MiB for each slot; most of it is stack that nobody had touched. To ask the system
            // which pages are dirty is no way: those that are swapped out are not named, and the next tenant would read them.
            .linear_memory_keep_resident(0)
            .table_keep_resident(1 << 16);
        let mut config = Config::new();
        if matches!(kind, Kind::Threaded | Kind::ThreadedFixed) {
            config.shared_memory(true);
        } else {
            config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        }
        config
            .memory_init_cow(true)
            // What native code relies on as well: an address of 32 bits and an offset below the guard reach nothing else.
            .memory_reservation(4 << 30)
            .memory_guard_size(native::GUARD)
            .epoch_interruption(ticks)
            .gc_support(throws)
            .wasm_exceptions(throws)
            // What was thrown and is not needed any more must go, since a program may throw as often as it likes.
            .collector(Collector::DeferredReferenceCounting)
            // Safe points are in the code all the time and taken rarely: the hints keep them out of the way.
            .wasm_branch_hinting(true)
            .max_wasm_stack(GUEST_STACK)
            .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(64));
        let inner = wasmtime::Engine::new(&config).map_err(failed)?;
        let mut linker = Linker::new(&inner);
        wasi::link(&mut linker).map_err(failed)?;
        mpi_host::link(&mut linker).map_err(failed)?;
        threads::link(&mut linker).map_err(failed)?;
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
        Ok(Half { inner, linker: Arc::new(linker) })
    }

    fn compile(&self, wasm: &[u8], cached: Option<PathBuf>) -> Result<Module> {
        let module = Module::new(&self.inner, wasm).map_err(|e| Error::Module(format!("{e:#}")))?;
        if let Some(path) = cached {
            let code = module.serialize().map_err(failed)?;
            let mut file = xxhash_rust::xxh3::xxh3_128(&code).to_le_bytes().to_vec();
            file.extend_from_slice(&code);
            // Not being able to keep it costs time at the next load and nothing else.
            if let Err(e) = base::identity::write_private(&path, &file) {
                tracing::warn!(error = %e, "compiled module not cached");
            }
        }
        Ok(module)
    }

    fn cache_path(&self, folder: Option<&PathBuf>, sha256: &str) -> Option<PathBuf> {
        let mut hash = std::hash::DefaultHasher::new();
        self.inner.precompile_compatibility_hash().hash(&mut hash);
        Some(folder?.join(format!("{sha256}-{:016x}.cwasm", hash.finish())))
    }

    fn cached(&self, path: Option<&PathBuf>) -> Option<Module> {
        let path = path?;
        let file = std::fs::read(path).ok()?;
        let (sum, code) = file.split_at_checked(16)?;
        if xxhash_rust::xxh3::xxh3_128(code).to_le_bytes() != sum {
            tracing::warn!(path = %path.display(), "cached code is damaged and is compiled again");
            return None;
        }
        // SAFETY: the file was written by `compile` in a folder that only this user can enter (`Engine::new` sees to that; files 0600), its checksum
        // is right, and wasmtime itself refuses code of another version or with other settings.
        unsafe { Module::deserialize(&self.inner, code) }.ok()
    }
}

impl Engine {
    pub fn new(options: &Options) -> Result<Engine> {
        if let Some(folder) = &options.cache {
            base::identity::private_folder(folder).map_err(Error::io(format!("make cache folder {} this user's alone", folder.display())))?;
        }
        let movable = Half::new(options, Kind::Movable)?;
        Ok(Engine { movable, throwing: Arc::default(), fixed: Arc::default(), threaded: Arc::default(), threaded_fixed: Arc::default(), options: options.clone() })
    }

    fn half(&self, kind: Kind) -> Result<Half> {
        let place = match kind {
            Kind::Movable => return Ok(self.movable.clone()),
            Kind::Throwing => &self.throwing,
            Kind::Fixed => &self.fixed,
            Kind::Threaded => &self.threaded,
            Kind::ThreadedFixed => &self.threaded_fixed,
        };
        let mut place = place.lock().unwrap_or_else(|e| e.into_inner());
        match &*place {
            Some(half) => Ok(half.clone()),
            None => Ok(place.insert(Half::new(&self.options, kind)?).clone()),
        }
    }

    /// What runs programs of a kind.
    pub(crate) fn inner(&self, kind: Kind) -> Result<wasmtime::Engine> {
        Ok(self.half(kind)?.inner)
    }

    /// Whether the host has this import. Calls of MPI that are not there yet stop the job when they are made, with their name.
    pub fn provides(&self, module: &str, name: &str) -> bool {
        module == mpi_host::MODULE || wasi::NAMES.contains(&name) && module == wasi::MODULE || threads::NAMES.contains(&name) && module == threads::MODULE
    }

    /// Checks a module ([`inspect::check`]) and compiles it, or takes it from the cache.
    pub fn load(&self, wasm: &[u8]) -> Result<Arc<Program>> {
        let report = self.check(wasm)?;
        let kind = match (report.shared_pages.is_some(), report.movable()) {
            (true, true) => Kind::Threaded,
            (true, false) => Kind::ThreadedFixed,
            (false, true) => movable(&report),
            (false, false) => Kind::Fixed,
        };
        self.compile(wasm, &report, kind)
    }

    /// A program without safe points as it would run with them, for measurements: nothing ends it before its time.
    pub fn load_bare(&self, wasm: &[u8]) -> Result<Arc<Program>> {
        let report = self.check(wasm)?;
        if report.movable() || report.shared_pages.is_some() {
            return Err(Error::Module("it has safe points, or threads".into()));
        }
        self.compile(wasm, &report, movable(&report))
    }

    fn check(&self, wasm: &[u8]) -> Result<Report> {
        let known = |module: &str, name: &str| self.provides(module, name);
        inspect::check(wasm, MODULE_MAX, &known).map_err(|e: Refusal| Error::Module(e.to_string()))
    }

    fn compile(&self, wasm: &[u8], report: &Report, kind: Kind) -> Result<Arc<Program>> {
        let safe_points = report.mark.as_ref().filter(|_| report.movable()).map(|mark| SafePoints { unwind_len: mark.unwind_bytes });
        let sha256: String = Sha256::digest(wasm).iter().map(|b| format!("{b:02x}")).collect();
        let half = self.half(kind)?;
        let split = match self.options.tier {
            // Without a clock to look at: native code has none.
            Tier::Fast if kind == Kind::Movable => native::build(wasm, &sha256, self.options.cache.as_deref()).unwrap_or_else(|error| {
                // It runs all the same, if not as fast.
                tracing::warn!(%error, program = sha256, "compiled without LLVM");
                None
            }),
            Tier::Fast if kind == Kind::Throwing => {
                tracing::info!(program = sha256, "compiled without LLVM: it has exceptions, which that tier does not know");
                None
            }
            _ => None,
        };
        let (wasm, key) = match &split {
            Some(split) => (&split.residual[..], format!("{sha256}-residual-{}", native::VERSION)),
            None => (wasm, sha256.clone()),
        };
        let path = half.cache_path(self.options.cache.as_ref(), &key);
        let module = match half.cached(path.as_ref()) {
            Some(module) => module,
            None => half.compile(wasm, path)?,
        };
        let mut linker = (*half.linker).clone();
        mpi_host::link_missing(&mut linker, &module).map_err(failed)?;
        if let Some(split) = &split {
            native::link(&mut linker, &module, &split.native).map_err(failed)?;
        }
        let knows_workdir = module.get_export(crate::toolchain::WORKDIR).is_some();
        let pre = match report.shared_pages {
            None => Some(linker.instantiate_pre(&module).map_err(|e| Error::Module(format!("{e:#}")))?),
            Some(_) => None,
        };
        let export = |name: &str| module.get_export_index(name).ok_or_else(|| Error::Module(format!("it does not export `{name}`")));
        let (start, memory) = (export("_start")?, export("memory")?);
        let fixed_because = report.fixed_because.join("; ");
        let (shared_pages, linker, base) = (report.shared_pages, Arc::new(linker), OnceLock::new());
        let tier = if split.is_some() { Tier::Fast } else { Tier::Quick };
        Ok(Arc::new(Program { sha256, pre, start, memory, shared_pages, safe_points, knows_workdir, kind, tier, fixed_because, module, linker, base }))
    }
}

fn movable(report: &Report) -> Kind {
    if report.exceptions { Kind::Throwing } else { Kind::Movable }
}

impl Program {
    pub fn movable(&self) -> bool {
        self.safe_points.is_some()
    }

    /// What has made its code: with [`Tier::Fast`] asked for it may be [`Tier::Quick`] all the same.
    pub fn tier(&self) -> Tier {
        self.tier
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
