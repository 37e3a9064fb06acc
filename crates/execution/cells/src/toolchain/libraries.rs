//! What programs with exceptions or `longjmp` are linked with, made once, of the sources that come with the compiler.
//!
//! zig builds its C++ library for this target without exceptions, and has `setjmp.h` with nothing behind it. But it carries what LLVM and wasi-libc have
//! for both, so this makes libraries of it in the cache folder, as zig does with its own:
//!
//! ```text
//! libcxx.a     libcxx/src, libcxxabi/src, libunwind/src/Unwind-wasm.c, guests/exceptions.cc, the tag of C++ exceptions
//! libjumps.a   wasi-libc's rt.c, the tag of longjmp
//! ```
//!
//! Who comes while somebody else is building waits for that. What this doesn't do: libraries for programs with threads, which have neither.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Error;
use super::compiler::{COMPILE, Compiler, EXCEPTIONS, JUMPS, TARGET_THROWING, TOOLCHAIN, key, unique};

/// Sources of libc++ that are for threads, or for files by streams: this target has neither.
const LEFT_OUT: &[&str] = &["atomic", "barrier", "condition_variable", "condition_variable_destructor", "fstream", "future", "mutex", "mutex_destructor", "shared_mutex", "thread"];

/// Sources of libc++abi.
const ABI: &[&str] = &[
    "abort_message", "cxa_aux_runtime", "cxa_default_handlers", "cxa_demangle", "cxa_exception", "cxa_exception_storage", "cxa_guard", "cxa_handlers", "cxa_personality",
    "cxa_vector", "cxa_virtual", "fallback_malloc", "private_typeinfo", "stdlib_exception", "stdlib_new_delete", "stdlib_stdexcept", "stdlib_typeinfo",
];

/// Flags of all of them. They are LLVM's and not ours to warn about.
const LIBRARY: &[&str] = &["-O2", "-w", "-DNDEBUG", "-fvisibility=hidden"];
/// Those of libc++ and libc++abi.
const CXX: &[&str] = &[
    "-std=c++23", "-fvisibility-inlines-hidden", "-D_LIBCPP_BUILDING_LIBRARY", "-DLIBCXX_BUILDING_LIBCXXABI", "-D_LIBCXXABI_BUILDING_LIBRARY", "-D_LIBCXXABI_HAS_NO_THREADS",
    "-D_LIBCPP_HAS_NO_PRAGMA_SYSTEM_HEADER", "-DLIBC_NAMESPACE=__llvm_libc_common_utils",
];
/// Of the unwinder.
const UNWINDER: &[&str] = &["-std=c23", "-fdeclspec", "-D_LIBUNWIND_HIDE_SYMBOLS"];

struct Source {
    path: PathBuf,
    tool: &'static str,
    flags: Vec<String>,
}

impl Source {
    fn new(path: PathBuf, tool: &'static str, flags: &[&str]) -> Source {
        Source { path, tool, flags: flags.iter().map(|f| f.to_string()).collect() }
    }
}

/// The C++ library with exceptions.
pub(super) fn cxx(compiler: &Compiler) -> Result<PathBuf, Error> {
    let lib = compiler.sources();
    let include = |folder: &str| format!("-I{}", lib.join(folder).display());
    let includes = [include("libcxx/src"), include("libcxx/libc"), include("libcxxabi/include")];
    let mut sources = Vec::new();
    let mut add = |path: PathBuf| {
        let mut source = Source::new(path, "c++", &[LIBRARY, CXX].concat());
        source.flags.extend(includes.iter().cloned());
        sources.push(source);
    };
    for folder in ["libcxx/src", "libcxx/src/ryu"] {
        let folder = lib.join(folder);
        let entries = std::fs::read_dir(&folder).map_err(|e| Error::io("read", &folder, e))?;
        let mut files: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.extension().is_some_and(|e| e == "cpp")).collect();
        files.retain(|p| !p.file_stem().and_then(|s| s.to_str()).is_some_and(|s| LEFT_OUT.contains(&s)));
        files.sort();
        files.into_iter().for_each(&mut add);
    }
    ABI.iter().for_each(|name| add(lib.join("libcxxabi/src").join(name).with_extension("cpp")));
    let mut unwinder = Source::new(lib.join("libunwind/src/Unwind-wasm.c"), "cc", &[LIBRARY, UNWINDER].concat());
    unwinder.flags.push(include("libunwind/include"));
    sources.push(unwinder);
    let guests = compiler.include()?;
    sources.push(Source::new(guests.join("exceptions.cc"), "c++", &["-O2"]));
    sources.push(Source::new(guests.join("exceptions.s"), "cc", &[]));
    library(compiler, "libcxx.a", sources, Some("cloudskin: building the C++ library with exceptions once, which takes about two minutes ..."))
}

/// What is behind `setjmp` and `longjmp`.
pub(super) fn jumps(compiler: &Compiler) -> Result<PathBuf, Error> {
    let rt = compiler.sources().join("libc/wasi/libc-top-half/musl/src/setjmp/wasm32/rt.c");
    let sources = vec![Source::new(rt, "cc", LIBRARY), Source::new(compiler.include()?.join("jumps.s"), "cc", &[])];
    library(compiler, "libjumps.a", sources, None)
}

/// An archive of what the sources become. It is there as a whole or not at all.
fn library(compiler: &Compiler, name: &str, sources: Vec<Source>, says: Option<&str>) -> Result<PathBuf, Error> {
    let flags: Vec<String> = [TARGET_THROWING, COMPILE, JUMPS, EXCEPTIONS].concat().iter().map(|f| f.to_string()).collect();
    let all = sources.iter().flat_map(|s| std::iter::once(s.path.display().to_string()).chain(s.flags.iter().cloned())).chain(flags.iter().cloned());
    let folder = compiler.library(&key(&[all.collect::<Vec<_>>().join(" ").as_bytes(), TOOLCHAIN.as_bytes()]));
    let archive = folder.join(name);
    if archive.is_file() {
        return Ok(archive);
    }
    std::fs::create_dir_all(&folder).map_err(|e| Error::io("create", &folder, e))?;
    let lock = folder.join("lock");
    let file = std::fs::File::create(&lock).map_err(|e| Error::io("create", &lock, e))?;
    file.lock().map_err(|e| Error::io("lock", &lock, e))?;
    if archive.is_file() {
        return Ok(archive);
    }
    if let Some(says) = says {
        eprintln!("{says}");
    }
    let objects: Vec<PathBuf> = (0..sources.len()).map(|n| folder.join(format!("{n}.o"))).collect();
    let next = AtomicUsize::new(0);
    let work = || -> Result<(), Error> {
        while let Some(n) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|n| *n < sources.len()) {
            compile(compiler, &sources[n], &flags, &objects[n])?;
        }
        Ok(())
    };
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|w| w.join().expect("a compilation does not panic"))
    })?;
    let temporary = unique(&archive);
    let mut command = compiler.command("ar");
    command.arg("rcs").arg(&temporary).args(&objects);
    run(compiler, command, "zig ar")?;
    std::fs::rename(&temporary, &archive).map_err(|e| Error::io("rename", &archive, e))?;
    for object in objects {
        let _ = std::fs::remove_file(object); // it is in the archive
    }
    Ok(archive)
}

fn compile(compiler: &Compiler, source: &Source, flags: &[String], object: &Path) -> Result<(), Error> {
    let mut command = compiler.command(source.tool);
    command.args(flags).args(&source.flags).arg("-c").arg(&source.path).arg("-o").arg(object);
    run(compiler, command, if source.tool == "cc" { "zig cc" } else { "zig c++" })
}

fn run(compiler: &Compiler, mut command: std::process::Command, program: &'static str) -> Result<(), Error> {
    let output = command.output().map_err(|source| Error::Spawn { program: compiler.path().into(), source })?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Tool { program, output: String::from_utf8_lossy(&output.stderr).into_owned() })
}
