//! The compiler's outside: where the pinned clang is, with which flags it runs, and where results are kept.
//!
//! The compiler is `zig cc`, a clang 22 that brings wasi-libc and libc++ as sources and builds them on first use. All that
//! it builds goes to a cache folder of ours (`CLOUDSKIN_CACHE`, else the user's cache folder), which may be deleted
//! at any time. `guests/` is embedded in this program and written there, so an installed binary needs no source tree.
//!
//! Several compilers may run at once (`make -j`): files appear in the cache by rename only.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use sha2::{Digest, Sha256};

use super::Error;
use crate::fence::files::{May, Reach};

/// What lies in `guests/`: headers for programs, and what is linked into them.
const GUESTS: &[(&str, &str)] = &[
    ("mpi.h", include_str!("../../../../../guests/mpi.h")),
    ("omp.h", include_str!("../../../../../guests/omp.h")),
    ("pthread.h", include_str!("../../../../../guests/pthread.h")),
    ("sys/resource.h", include_str!("../../../../../guests/sys/resource.h")),
    ("posix/unistd.h", include_str!("../../../../../guests/posix/unistd.h")),
    ("posix/stdlib.h", include_str!("../../../../../guests/posix/stdlib.h")),
    ("posix/setjmp.h", include_str!("../../../../../guests/posix/setjmp.h")),
    ("posix/signal.h", include_str!("../../../../../guests/posix/signal.h")),
    ("posix/pwd.h", include_str!("../../../../../guests/posix/pwd.h")),
    ("posix/sys/stat.h", include_str!("../../../../../guests/posix/sys/stat.h")),
    ("posix/stdio.h", include_str!("../../../../../guests/posix/stdio.h")),
    ("posix/sys/socket.h", include_str!("../../../../../guests/posix/sys/socket.h")),
    ("posix/sys/wait.h", include_str!("../../../../../guests/posix/sys/wait.h")),
    ("posix/sys/utsname.h", include_str!("../../../../../guests/posix/sys/utsname.h")),
    ("posix.c", include_str!("../../../../../guests/posix.c")),
    ("processes.c", include_str!("../../../../../guests/processes.c")),
    ("signals.c", include_str!("../../../../../guests/signals.c")),
    ("threads.h", include_str!("../../../../../guests/threads.h")),
    ("runtime.c", include_str!("../../../../../guests/runtime.c")),
    ("threads.c", include_str!("../../../../../guests/threads.c")),
    ("openmp.c", include_str!("../../../../../guests/openmp.c")),
    ("departures.c", include_str!("../../../../../guests/departures.c")),
    ("exceptions.cc", include_str!("../../../../../guests/exceptions.cc")),
    ("exceptions.s", include_str!("../../../../../guests/exceptions.s")),
    ("jumps.s", include_str!("../../../../../guests/jumps.s")),
];

/// The version of `zig` that is pinned; another one makes other code.
const ZIG: &str = "0.17.1";
/// What is written into each module's mark.
pub const TOOLCHAIN: &str = "ziglang 0.17.1, clang 22";

/// What is linked, and the libraries of C: without what only exceptions need.
pub(crate) const TARGET: &[&str] = &[
    "-target",
    "wasm32-wasi",
    "-mcpu=mvp+simd128+bulk_memory+sign_ext+mutable_globals+nontrapping_fptoint",
];

/// What programs without threads are compiled for: an exception that was caught is a reference, beside its address.
pub(crate) const TARGET_THROWING: &[&str] = &[
    "-target",
    "wasm32-wasi",
    "-mcpu=mvp+simd128+bulk_memory+sign_ext+mutable_globals+nontrapping_fptoint+exception_handling+multivalue+reference_types",
];

/// Flags of each compilation: `longjmp` by exceptions, of the kind that became the standard. The names of other systems mean
/// the same; those of POSIX are in `guests/posix/setjmp.h`.
pub(crate) const JUMPS: &[&str] = &[
    "-mllvm",
    "-wasm-enable-sjlj",
    "-mllvm",
    "-wasm-use-legacy-eh=false",
    "-D_setjmp=setjmp",
    "-D_longjmp=longjmp",
];

/// And of those with exceptions.
pub(crate) const EXCEPTIONS: &[&str] = &["-fexceptions", "-fwasm-exceptions"];

/// What C++ is told: zig takes this target for one without files, and leaves `<fstream>` and `<filesystem>` out. What is behind them: [`super::libraries`].
pub(crate) const FILES: &[&str] = &["-U_LIBCPP_HAS_FILESYSTEM", "-D_LIBCPP_HAS_FILESYSTEM=1"];

/// The same as [`TARGET`] for programs with threads: with atomic instructions, and variables of each thread's own.
pub(crate) const TARGET_THREADS: &[&str] = &[
    "-target",
    "wasm32-wasi",
    "-mcpu=mvp+simd128+bulk_memory+sign_ext+mutable_globals+nontrapping_fptoint+atomics",
    "-D_REENTRANT=1",
];

/// And what they are compiled for.
pub(crate) const TARGET_THREADS_THROWING: &[&str] = &[
    "-target",
    "wasm32-wasi",
    "-mcpu=mvp+simd128+bulk_memory+sign_ext+mutable_globals+nontrapping_fptoint+atomics+exception_handling+multivalue+reference_types",
    "-D_REENTRANT=1",
];

/// What C++ is told then: zig takes this target for one without threads, and leaves `<thread>`, `<mutex>` and the like empty. What is behind them: [`super::libraries`].
pub(crate) const CXX_THREADS: &[&str] = &["-U_LIBCPP_HAS_THREADS", "-D_LIBCPP_HAS_THREADS=1", "-D_LIBCPP_HAS_THREAD_API_PTHREAD=1"];

/// What the linker is told for programs with threads: the memory comes from outside and may have nearly all that 32 bits can address (all is a number that
/// zig can't read); the cell has a limit of its own. The C library, made for one thread, is reached through locks (`guests/threads.c`).
pub(crate) const LINK_THREADS: &[&str] = &[
    "-Wl,--shared-memory,--import-memory,--export-memory,--max-memory=4294901760",
    "-Wl,--export=__stack_pointer",
];

/// The functions of the C library that have a lock around them, `__cloudskin_locked_` and the name (`guests/threads.c`).
pub(crate) const LOCKED: &[&str] = &[
    "malloc", "calloc", "realloc", "reallocarray", "aligned_alloc", "memalign", "posix_memalign", "free", "vfprintf", "vfwprintf", "vfscanf", "fputs", "puts",
    "fputc", "putc", "putchar", "fwrite", "fread", "fgets", "fgetc", "getc", "getchar", "ungetc", "fflush", "fopen", "freopen", "fdopen", "fclose",
    "fseek", "fseeko", "ftell", "ftello", "setvbuf", "getdelim", "sysconf", "atexit", "__cxa_atexit", "exit", "__wasm_call_dtors",
];

/// Flags of each compilation, before the user's.
pub(crate) const COMPILE: &[&str] = &[
    "-D__CLOUDSKIN__=1",
    // wasi-libc has these only on request; programs expect them.
    "-D_WASI_EMULATED_SIGNAL",
    "-D_WASI_EMULATED_PROCESS_CLOCKS",
    "-D_WASI_EMULATED_GETPID",
    "-D_WASI_EMULATED_MMAN",
    // zig's default is a sanitizer that traps.
    "-fno-sanitize=undefined",
    "-fno-stack-protector",
    // The same bits everywhere: a*b+c is rounded twice on every machine.
    "-ffp-contract=off",
    "-Wno-unused-command-line-argument",
    // An array that moves up by one in a loop is no call of memmove, but eight registers: half the time of a SHA-256.
    "-mllvm",
    "-disable-loop-idiom-memcpy",
    // Sums of floating point numbers stay in order, but the rest of the loop is vectorised: up to half the time.
    "-mllvm",
    "-force-ordered-reductions",
];

/// And of what is compiled for users once: without the debug information that zig gives unless it is told otherwise, or each program would have lines of it.
pub(super) const OURS: &[&str] = &["-O2", "-g0"];

/// Libraries behind the emulation macros in [`COMPILE`].
pub(crate) const LINK_LIBRARIES: &[&str] =
    &["-lwasi-emulated-signal", "-lwasi-emulated-process-clocks", "-lwasi-emulated-getpid", "-lwasi-emulated-mman"];

/// The stack that a program gets unless it says `-Wl,-z,stack-size=`, in bytes: what Linux gives, because programs with arrays on their stack were written there.
pub(crate) const STACK_BYTES: u32 = 8 << 20;

/// The pinned compiler, found.
#[derive(Clone, Debug)]
pub struct Compiler {
    zig: PathBuf,
    cache: PathBuf,
}

impl Compiler {
    /// Looks at `CLOUDSKIN_ZIG`, then in `CLOUDSKIN_TOOLCHAIN`, then for `.setup/toolchain` above this program, then in the
    /// user's data folder.
    pub fn find() -> Result<Compiler, Error> {
        let found = |zig: PathBuf| Some(zig).filter(|path| path.is_file());
        let below = |dir: &Path| found(dir.join("ziglang/zig"));
        let (zig, looked) = if let Some(zig) = std::env::var_os("CLOUDSKIN_ZIG") {
            (found(PathBuf::from(&zig)), format!("{} (CLOUDSKIN_ZIG)", zig.display()))
        } else if let Some(dir) = std::env::var_os("CLOUDSKIN_TOOLCHAIN") {
            (below(Path::new(&dir)), format!("ziglang/zig in {} (CLOUDSKIN_TOOLCHAIN)", dir.display()))
        } else {
            let exe = std::env::current_exe().unwrap_or_default();
            let data = user_folder("XDG_DATA_HOME", ".local/share").unwrap_or_default().join("cloudskin/toolchain");
            let zig = exe.ancestors().skip(1).find_map(|dir| below(&dir.join(".setup/toolchain"))).or_else(|| below(&data));
            (zig, format!("ziglang/zig in .setup/toolchain above {} and in {}", exe.display(), data.display()))
        };
        let compiler = Compiler { zig: zig.ok_or(Error::NoCompiler(looked))?, cache: cache_folder()? };
        compiler.check()?;
        Ok(compiler)
    }

    /// Whether it is the pinned version. Asked once of each file, as long as it stays the same: starting it takes longer than compiling a small source.
    fn check(&self) -> Result<(), Error> {
        let about = std::fs::metadata(&self.zig).map_err(|e| Error::io("read", &self.zig, e))?;
        let file = format!("{}, {} bytes of {:?}", self.zig.display(), about.len(), about.modified());
        let known = self.cache.join(format!("zig-{ZIG}-{}", key(&[file.as_bytes()])));
        if known.exists() {
            return Ok(());
        }
        let output = Command::new(&self.zig).arg("version").output().map_err(|source| Error::Spawn { program: self.zig.clone(), source })?;
        let found = String::from_utf8_lossy(&output.stdout).trim().to_string();
        if found != ZIG {
            let found = if found.is_empty() { "of no version that it tells".into() } else { found };
            return Err(Error::OtherCompiler { program: self.zig.clone(), found, needed: ZIG });
        }
        write_atomically(&known, b"")
    }

    /// `zig <tool>` with the caches in our folder.
    pub fn command(&self, tool: &str) -> Command {
        let mut command = Command::new(&self.zig);
        command.arg(tool);
        let zig_cache = self.cache.join("zig");
        command.env("ZIG_GLOBAL_CACHE_DIR", &zig_cache).env("ZIG_LOCAL_CACHE_DIR", &zig_cache);
        command
    }

    /// A file that is there as soon as the library behind a tool has been built; it lies beside what was built, to go with it.
    pub(crate) fn warm(&self, tool: &str) -> PathBuf {
        self.cache.join("zig").join(format!("{tool}-{}", key(&[TOOLCHAIN.as_bytes()])))
    }

    /// The sources of libraries that the compiler brings.
    pub(super) fn sources(&self) -> PathBuf {
        self.zig.with_file_name("lib")
    }

    /// A folder for a library that is built here.
    pub(super) fn library(&self, key: &str) -> PathBuf {
        self.cache.join("libraries").join(key)
    }

    /// The same, with what the compiler is started from and what it keeps.
    pub fn within(&self, reach: Reach) -> Reach {
        let folder = self.zig.parent().unwrap_or(Path::new("/"));
        reach.below(folder, May::Run).below(&self.cache, May::All)
    }

    /// The program file, for messages.
    pub fn path(&self) -> &Path {
        &self.zig
    }

    /// The folder with `mpi.h` and `omp.h`.
    pub fn include(&self) -> Result<PathBuf, Error> {
        let parts: Vec<&[u8]> = GUESTS.iter().map(|(_, text)| text.as_bytes()).collect();
        let dir = self.cache.join("guests").join(key(&parts));
        for (name, text) in GUESTS {
            let path = dir.join(name);
            if !path.is_file() {
                write_atomically(&path, text.as_bytes())?;
            }
        }
        Ok(dir)
    }

    /// The object file of one of `guests/*.c`, compiled once for each version of compiler, flags and text.
    pub fn runtime(&self, name: &str, target: &[&str]) -> Result<PathBuf, Error> {
        let dir = self.include()?;
        let flags = [target, COMPILE, OURS].concat().join(" ");
        let object = dir.join(format!("{name}-{}.o", key(&[flags.as_bytes(), self.zig.as_os_str().as_encoded_bytes(), TOOLCHAIN.as_bytes()])));
        if object.is_file() {
            return Ok(object);
        }
        let temporary = unique(&object);
        let mut command = self.command("cc");
        command.args(target).args(COMPILE).args(OURS).args(["-D_GNU_SOURCE", "-c", "-I"]).arg(dir.join("posix")).arg("-I").arg(&dir).arg(dir.join(name).with_extension("c")).arg("-o").arg(&temporary);
        let output = command.output().map_err(|source| Error::Spawn { program: self.zig.clone(), source })?;
        if !output.status.success() {
            return Err(Error::Tool { program: "zig cc", output: String::from_utf8_lossy(&output.stderr).into_owned() });
        }
        std::fs::rename(&temporary, &object).map_err(|e| Error::io("rename", &object, e))?;
        Ok(object)
    }
}

fn user_folder(variable: &str, below_home: &str) -> Option<PathBuf> {
    let named = std::env::var_os(variable).map(PathBuf::from).filter(|p| p.is_absolute());
    named.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(below_home)))
}

fn cache_folder() -> Result<PathBuf, Error> {
    let dir = match std::env::var_os("CLOUDSKIN_CACHE") {
        Some(dir) => PathBuf::from(dir),
        None => user_folder("XDG_CACHE_HOME", ".cache")
            .ok_or_else(|| Error::Usage("no cache folder: set HOME or CLOUDSKIN_CACHE".into()))?
            .join("cloudskin"),
    };
    std::fs::create_dir_all(&dir).map_err(|e| Error::io("create", &dir, e))?;
    Ok(std::path::absolute(&dir).unwrap_or(dir))
}

/// A short name for content.
pub(super) fn key(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize()[..8].iter().map(|b| format!("{b:02x}")).collect()
}

/// A name beside `path` that nobody else uses.
pub(super) fn unique(path: &Path) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    path.with_file_name(name)
}

/// Writes beside `path` and renames, so that nobody ever sees half a file. Creates the folder.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    if let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))?;
    }
    let temporary = unique(path);
    let done = std::fs::write(&temporary, bytes).and_then(|()| std::fs::rename(&temporary, path));
    done.map_err(|e| {
        let _ = std::fs::remove_file(&temporary); // what matters is reported
        Error::io("write", path, e)
    })
}

/// A folder for one compilation's intermediate files, deleted when dropped.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Result<Scratch, Error> {
        use std::os::unix::fs::DirBuilderExt;
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let base = std::env::temp_dir();
        for _ in 0..100 {
            let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
            let name = format!("cloudskin-{}-{}-{nanos}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let dir = base.join(name);
            match std::fs::DirBuilder::new().mode(0o700).create(&dir) {
                Ok(()) => return Ok(Scratch(dir)),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(Error::io("create", dir, e)),
            }
        }
        Err(Error::Usage(format!("no free name for a folder in {}", base.display())))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0); // a leftover in the temporary folder harms nobody
    }
}
