//! From WebAssembly bytes to something that starts in microseconds.
//!
//! Compiled code is kept in a cache folder, keyed by the module's SHA-256 and by the engine's own compatibility hash (version, target, settings), with a
//! checksum: a file of another engine is simply another name, and a damaged one is compiled again. Memory comes from a pool of 4 GiB reservations
//! with guard pages, so a bounds check costs nothing, and starts as a copy-on-write image of the module's data.

use crate::cell::Host;
use crate::error::{Error, Result};
use crate::{mpi_host, wasi};
use sha2::{Digest, Sha256};
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use wasmtime::{Config, InstanceAllocationStrategy, InstancePre, Linker, Module, PoolingAllocationConfig};

/// The unit in which memory is compared and sent.
pub const PAGE: usize = 4096;
/// Stack that a guest's calls may use.
const GUEST_STACK: usize = 2 << 20;
/// Stack of a rank's thread: the guest's and ours.
pub const THREAD_STACK: usize = GUEST_STACK + (2 << 20);
/// Largest module that is taken.
pub const MODULE_MAX: usize = 256 << 20;

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
    inner: wasmtime::Engine,
    linker: Arc<Linker<Host>>,
    cache: Option<PathBuf>,
}

/// A module that is ready to be instantiated.
pub struct Program {
    pub sha256: String,
    pub(crate) pre: InstancePre<Host>,
    /// Address of the words by which a running cell is asked to stop, and of the area where its stack is kept meanwhile.
    /// `None`: not built by `cloudskin cc`, so it runs but can't be moved.
    pub(crate) safe_points: Option<SafePoints>,
    /// It begins in the folder that PWD names.
    pub(crate) knows_workdir: bool,
    base: OnceLock<Vec<u128>>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct SafePoints {
    pub flags: u32,
    pub unwind: u32,
    pub unwind_len: u32,
}

/// Bytes of `__cloudskin_unwind` in `guests/runtime.c`.
const UNWIND_LEN: u32 = 8 << 20;

fn failed(e: wasmtime::Error) -> Error {
    Error::Engine(format!("{e:#}"))
}

impl Engine {
    pub fn new(options: &Options) -> Result<Engine> {
        let mut pool = PoolingAllocationConfig::default();
        pool.total_core_instances(options.cells_max)
            .total_memories(options.cells_max)
            .total_tables(options.cells_max)
            .table_elements(100_000)
            .max_memory_size(1 << 32)
            .max_unused_warm_slots(options.cells_max)
            .linear_memory_keep_resident(1 << 20)
            .table_keep_resident(1 << 16);
        let mut config = Config::new();
        config
            .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
            .memory_init_cow(true)
            .max_wasm_stack(GUEST_STACK)
            .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(64));
        let inner = wasmtime::Engine::new(&config).map_err(failed)?;
        let mut linker = Linker::new(&inner);
        wasi::link(&mut linker).map_err(failed)?;
        mpi_host::link(&mut linker).map_err(failed)?;
        if let Some(folder) = &options.cache {
            std::fs::create_dir_all(folder).map_err(Error::io(format!("create cache folder {}", folder.display())))?;
        }
        Ok(Engine { inner, linker: Arc::new(linker), cache: options.cache.clone() })
    }

    pub(crate) fn inner(&self) -> &wasmtime::Engine {
        &self.inner
    }

    /// Whether the host has this import. Calls of MPI that are not there yet stop the job when they are made, with their name.
    pub fn provides(&self, module: &str, name: &str) -> bool {
        module == "cloudskin_mpi" || wasi::NAMES.contains(&name) && module == wasi::MODULE || (module, name) == ("cloudskin", "poll")
    }

    /// Checks and compiles a module, or takes it from the cache.
    pub fn load(&self, wasm: &[u8]) -> Result<Arc<Program>> {
        if wasm.len() > MODULE_MAX {
            return Err(Error::Module(format!("it has {} bytes; the limit is {MODULE_MAX}", wasm.len())));
        }
        if !wasm.starts_with(b"\0asm") {
            let seen = wasm.iter().take(4).map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ");
            return Err(Error::Module(format!("not WebAssembly: it starts with [{seen}]; compile it with `cloudskin cc`")));
        }
        let sha256: String = Sha256::digest(wasm).iter().map(|b| format!("{b:02x}")).collect();
        let module = match self.cached(&sha256) {
            Some(module) => module,
            None => self.compile(wasm, &sha256)?,
        };
        self.program(module, sha256)
    }

    fn compile(&self, wasm: &[u8], sha256: &str) -> Result<Module> {
        let module = Module::new(&self.inner, wasm).map_err(|e| Error::Module(format!("{e:#}")))?;
        if let Some(path) = self.cache_path(sha256) {
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

    fn cache_path(&self, sha256: &str) -> Option<PathBuf> {
        let mut hash = std::hash::DefaultHasher::new();
        self.inner.precompile_compatibility_hash().hash(&mut hash);
        Some(self.cache.as_ref()?.join(format!("{sha256}-{:016x}.cwasm", hash.finish())))
    }

    fn cached(&self, sha256: &str) -> Option<Module> {
        let file = std::fs::read(self.cache_path(sha256)?).ok()?;
        let (sum, code) = file.split_at_checked(16)?;
        if xxhash_rust::xxh3::xxh3_128(code).to_le_bytes() != sum {
            tracing::warn!(sha256, "cached code is damaged and is compiled again");
            return None;
        }
        // SAFETY: the file was written by `compile` in a folder that only this user can write (files 0600), its checksum is right, and wasmtime
        // itself refuses code of another version or with other settings.
        unsafe { Module::deserialize(&self.inner, code) }.ok()
    }

    fn program(&self, module: Module, sha256: String) -> Result<Arc<Program>> {
        if module.get_export("_start").and_then(|e| e.func().cloned()).is_none() {
            return Err(Error::Module("it has no function `_start`: it is a library, not a program".into()));
        }
        if module.get_export("memory").and_then(|e| e.memory().cloned()).is_none() {
            return Err(Error::Module("it does not export its memory; compile it with `cloudskin cc`".into()));
        }
        let missing: Vec<String> = module
            .imports()
            .filter(|i| !self.provides(i.module(), i.name()))
            .map(|i| format!("{}.{}", i.module(), i.name()))
            .collect();
        if !missing.is_empty() {
            return Err(Error::Module(format!("the host does not offer its imports {}", missing.join(", "))));
        }
        let mut linker = (*self.linker).clone();
        mpi_host::link_missing(&mut linker, &module).map_err(failed)?;
        let movable = module.get_export("asyncify_start_unwind").is_some() && module.get_export("__cloudskin_flags").is_some();
        let knows_workdir = module.get_export(crate::toolchain::WORKDIR).is_some();
        let pre = linker.instantiate_pre(&module).map_err(|e| Error::Module(format!("{e:#}")))?;
        let mut program = Program { sha256, pre, safe_points: None, knows_workdir, base: OnceLock::new() };
        if movable {
            let (mut store, instance) = crate::cell::bare(self, &program)?;
            let mut address = |name| match instance.get_global(&mut store, name).map(|g| g.get(&mut store)) {
                Some(wasmtime::Val::I32(a)) => Ok(a as u32),
                _ => Err(Error::Module(format!("its export {name} is not an address; compile it again with this `cloudskin cc`"))),
            };
            let (flags, unwind) = (address("__cloudskin_flags")?, address("__cloudskin_unwind")?);
            let memory = instance.get_memory(&mut store, "memory").expect("checked above").data_size(&store) as u64;
            if u64::from(flags) + 64 > memory || u64::from(unwind) + u64::from(UNWIND_LEN) > memory {
                return Err(Error::Module("its safe-point area lies outside of its memory".into()));
            }
            program.safe_points = Some(SafePoints { flags, unwind, unwind_len: UNWIND_LEN });
        }
        Ok(Arc::new(program))
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
