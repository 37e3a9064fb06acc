//! From WebAssembly bytes to something that starts in microseconds.
//!
//! Compiled code is kept in a cache folder, keyed by the module's SHA-256 and by the engine's own compatibility hash (version, target, settings), with a
//! checksum: a file of another engine is simply another name, and a damaged one is compiled again. Memory comes from a pool of 4 GiB reservations
//! with guard pages, so a bounds check costs nothing, and starts as a copy-on-write image of the module's data.
//!
//! Programs with safe points look at the agent's flag words themselves, which `toolchain::verify` has proved. A program without them (`fixed`), or
//! of which that can't be proved, would loop for ever whatever is asked of it, so it is compiled for a second engine, whose code looks at a clock
//! at each loop header and function: `Half`. That costs such programs some speed and the others nothing. What is movable is decided by
//! `toolchain::inspect` alone, here as at submission.

use crate::cell::Host;
use crate::error::{Error, Result};
use crate::toolchain::inspect::{self, Refusal};
use crate::{mpi_host, wasi};
use sha2::{Digest, Sha256};
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use wasmtime::{Config, InstanceAllocationStrategy, InstancePre, Linker, Module, PoolingAllocationConfig};

/// The unit in which memory is compared and sent.
pub const PAGE: usize = 4096;
/// Stack that a guest's calls may use.
const GUEST_STACK: usize = 2 << 20;
/// Stack of a rank's thread: the guest's and ours.
pub const THREAD_STACK: usize = GUEST_STACK + (2 << 20);
/// Largest module that is taken.
pub const MODULE_MAX: usize = 256 << 20;
/// How often a program without safe points is made to look whether it has been killed.
const TICK: Duration = Duration::from_millis(100);

#[derive(Clone, Debug)]
pub struct Options {
    /// Folder of the ahead-of-time cache; `None`: compile at each load.
    pub cache: Option<PathBuf>,
    /// Cells at once.
    pub cells_max: u32,
}

impl Default for Options {
    fn default() -> Options {
        Options { cache: None, cells_max: 256 }
    }
}

/// The compiler and the pool of memories. One per process.
#[derive(Clone)]
pub struct Engine {
    movable: Half,
    /// Made when the first program without safe points is loaded: most agents never see one.
    fixed: Arc<Mutex<Option<Half>>>,
    options: Options,
}

/// An engine of wasmtime's with the host's functions: one for movable programs, one for fixed ones.
#[derive(Clone)]
struct Half {
    inner: wasmtime::Engine,
    linker: Arc<Linker<Host>>,
}

/// A module that is ready to be instantiated.
pub struct Program {
    pub sha256: String,
    pub(crate) pre: InstancePre<Host>,
    /// The area where a cell's stack is kept while it is stopped. `None`: not built by `cloudskin cc`, so it runs but can't be moved.
    pub(crate) safe_points: Option<SafePoints>,
    /// It begins in the folder that PWD names.
    pub(crate) knows_workdir: bool,
    /// Its code looks at its engine's clock, because it has no safe points.
    pub(crate) ticks: bool,
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
    /// `ticks`: programs are made to look at a clock of this engine, which gets a thread that moves it on.
    fn new(options: &Options, ticks: bool) -> Result<Half> {
        let mut pool = PoolingAllocationConfig::default();
        // Slots of the pool are address space; only those that have been used hold memory.
        pool.total_core_instances(options.cells_max)
            // The program's own and that of its flag words.
            .total_memories(2 * options.cells_max)
            .max_memories_per_module(2)
            .total_tables(options.cells_max)
            .table_elements(100_000)
            .max_memory_size(1 << 32)
            .max_unused_warm_slots(2 * options.cells_max)
            .linear_memory_keep_resident(1 << 20)
            .table_keep_resident(1 << 16);
        let mut config = Config::new();
        config
            .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
            .memory_init_cow(true)
            .epoch_interruption(ticks)
            // Safe points are in the code all the time and taken rarely: the hints keep them out of the way.
            .wasm_branch_hinting(true)
            .max_wasm_stack(GUEST_STACK)
            .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(64));
        let inner = wasmtime::Engine::new(&config).map_err(failed)?;
        let mut linker = Linker::new(&inner);
        wasi::link(&mut linker).map_err(failed)?;
        mpi_host::link(&mut linker).map_err(failed)?;
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
        // SAFETY: the file was written by `compile` in a folder that only this user can write (files 0600), its checksum is right, and wasmtime
        // itself refuses code of another version or with other settings.
        unsafe { Module::deserialize(&self.inner, code) }.ok()
    }
}

impl Engine {
    pub fn new(options: &Options) -> Result<Engine> {
        if let Some(folder) = &options.cache {
            std::fs::create_dir_all(folder).map_err(Error::io(format!("create cache folder {}", folder.display())))?;
        }
        Ok(Engine { movable: Half::new(options, false)?, fixed: Arc::default(), options: options.clone() })
    }

    fn half(&self, movable: bool) -> Result<Half> {
        if movable {
            return Ok(self.movable.clone());
        }
        let mut fixed = self.fixed.lock().unwrap_or_else(|e| e.into_inner());
        match &*fixed {
            Some(half) => Ok(half.clone()),
            None => Ok(fixed.insert(Half::new(&self.options, true)?).clone()),
        }
    }

    /// What runs programs that are movable, or not.
    pub(crate) fn inner(&self, movable: bool) -> Result<wasmtime::Engine> {
        Ok(self.half(movable)?.inner)
    }

    /// Whether the host has this import. Calls of MPI that are not there yet stop the job when they are made, with their name.
    pub fn provides(&self, module: &str, name: &str) -> bool {
        module == "cloudskin_mpi" || wasi::NAMES.contains(&name) && module == wasi::MODULE
    }

    /// Checks a module ([`inspect::check`]) and compiles it, or takes it from the cache.
    pub fn load(&self, wasm: &[u8]) -> Result<Arc<Program>> {
        let safe_points = self.check(wasm)?;
        self.compile(wasm, safe_points, safe_points.is_none())
    }

    /// A program without safe points as it would run with them, for measurements: nothing ends it before its time.
    pub fn load_bare(&self, wasm: &[u8]) -> Result<Arc<Program>> {
        match self.check(wasm)? {
            None => self.compile(wasm, None, false),
            Some(_) => Err(Error::Module("it has safe points".into())),
        }
    }

    fn check(&self, wasm: &[u8]) -> Result<Option<SafePoints>> {
        let known = |module: &str, name: &str| self.provides(module, name);
        let report = inspect::check(wasm, MODULE_MAX, &known).map_err(|e: Refusal| Error::Module(e.to_string()))?;
        Ok(match &report.mark {
            Some(mark) if report.movable() => Some(SafePoints { unwind_len: mark.unwind_bytes }),
            _ => None,
        })
    }

    fn compile(&self, wasm: &[u8], safe_points: Option<SafePoints>, ticks: bool) -> Result<Arc<Program>> {
        let sha256: String = Sha256::digest(wasm).iter().map(|b| format!("{b:02x}")).collect();
        let half = self.half(!ticks)?;
        let path = half.cache_path(self.options.cache.as_ref(), &sha256);
        let module = match half.cached(path.as_ref()) {
            Some(module) => module,
            None => half.compile(wasm, path)?,
        };
        let mut linker = (*half.linker).clone();
        mpi_host::link_missing(&mut linker, &module).map_err(failed)?;
        let knows_workdir = module.get_export(crate::toolchain::WORKDIR).is_some();
        let pre = linker.instantiate_pre(&module).map_err(|e| Error::Module(format!("{e:#}")))?;
        Ok(Arc::new(Program { sha256, pre, safe_points, knows_workdir, ticks, base: OnceLock::new() }))
    }
}

impl Program {
    pub fn movable(&self) -> bool {
        self.safe_points.is_some()
    }

    /// Checksums of the pages of a fresh instance's memory: what a destination has without being sent anything.
    pub(crate) fn base(&self, engine: &Engine) -> Result<&[u128]> {
        if let Some(base) = self.base.get() {
            return Ok(base);
        }
        let (mut store, instance) = crate::cell::bare(engine, self)?;
        let memory = instance.get_memory(&mut store, "memory").expect("`program` checked it");
        let sums = memory.data(&store).chunks(PAGE).map(xxhash_rust::xxh3::xxh3_128).collect();
        Ok(self.base.get_or_init(|| sums))
    }
}
