//! What programs with exceptions, `longjmp`, C++'s threads or its file streams are linked with, made once, of the sources that come with the compiler.
//!
//! zig builds its C++ library for this target without exceptions, threads and files, and has `setjmp.h` with nothing behind it. But it carries what LLVM and wasi-libc have
//! for all of them, so this makes libraries of it in the cache folder, as zig does with its own:
//!
//! ```text
//! libcxx.a     libcxx/src and libcxxabi/src; with exceptions also libunwind/src/Unwind-wasm.c, guests/exceptions.cc, the tag of C++ exceptions:
//!              once for programs that throw, once for those of them with threads, and once for programs with threads that throw nothing
//! libfiles.a   of libcxx/src, what zig leaves out of its own: beside that one, in programs that throw nothing and have no threads
//! libjumps.a   wasi-libc's rt.c, the tag of longjmp; once without and once with threads
//! ```
//!
//! Who comes while somebody else is building waits for that. What this doesn't do: the C library, which is zig's, of one thread, also for programs with threads
//! (`guests/threads.c` has locks for it).

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Error;
use super::compiler::{COMPILE, CXX_THREADS, Compiler, EXCEPTIONS, FILES, JUMPS, OURS, TARGET, TARGET_THREADS, TARGET_THREADS_THROWING, TARGET_THROWING, TOOLCHAIN, key, unique};

/// Sources of libc++ that are for threads.
const LEFT_OUT: &[&str] = &["atomic", "barrier", "condition_variable", "condition_variable_destructor", "future", "mutex", "mutex_destructor", "shared_mutex", "thread"];

/// Sources of libc++abi.
const ABI: &[&str] = &[
    "abort_message", "cxa_aux_runtime", "cxa_default_handlers", "cxa_demangle", "cxa_exception_storage", "cxa_guard", "cxa_handlers",
    "cxa_vector", "cxa_virtual", "fallback_malloc", "private_typeinfo", "stdlib_exception", "stdlib_new_delete", "stdlib_stdexcept", "stdlib_typeinfo",
];
/// And those for exceptions, or for none.
const ABI_THROWING: &[&str] = &["cxa_exception", "cxa_personality"];
const ABI_SILENT: &[&str] = &["cxa_noexception"];

/// Flags of all of them. They are LLVM's and not ours to warn about.
const LIBRARY: &[&str] = &["-w", "-DNDEBUG", "-fvisibility=hidden"];
/// Those of libc++ and libc++abi.
const CXX: &[&str] = &[
    "-std=c++23", "-fvisibility-inlines-hidden", "-D_LIBCPP_BUILDING_LIBRARY", "-DLIBCXX_BUILDING_LIBCXXABI", "-D_LIBCXXABI_BUILDING_LIBRARY",
    "-D_LIBCPP_HAS_NO_PRAGMA_SYSTEM_HEADER", "-DLIBC_NAMESPACE=__llvm_libc_common_utils",
];
/// Without threads.
const ALONE: &[&str] = &["-D_LIBCXXABI_HAS_NO_THREADS"];
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

/// The C++ files of a folder that comes with the compiler.
fn listed(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = std::fs::read_dir(folder).map_err(|e| Error::io("read", folder, e))?;
    let mut files: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.extension().is_some_and(|e| e == "cpp")).collect();
    files.sort();
    Ok(files)
}

/// A source of libc++ or libc++abi.
fn of_cxx(compiler: &Compiler, path: PathBuf, threads: bool) -> Result<Source, Error> {
    let mut source = Source::new(path, "c++", &[LIBRARY, CXX, FILES, if threads { CXX_THREADS } else { ALONE }].concat());
    // First what continues the C library's headers.
    let folders = [compiler.include()?.join("posix")].into_iter().chain(["libcxx/src", "libcxx/libc", "libcxxabi/include"].map(|folder| compiler.sources().join(folder)));
    source.flags.extend(folders.map(|folder| format!("-I{}", folder.display())));
    Ok(source)
}

/// The C++ library with exceptions, threads or both. With neither it is zig's own.
pub(super) fn cxx(compiler: &Compiler, throws: bool, threads: bool) -> Result<PathBuf, Error> {
    let lib = compiler.sources();
    let mut files = Vec::new();
    for folder in ["libcxx/src", "libcxx/src/ryu", "libcxx/src/filesystem"] {
        files.extend(listed(&lib.join(folder))?);
    }
    files.retain(|p| threads || !p.file_stem().and_then(|s| s.to_str()).is_some_and(|s| LEFT_OUT.contains(&s)));
    let abi = ABI.iter().chain(if throws { ABI_THROWING } else { ABI_SILENT });
    files.extend(abi.map(|name| lib.join("libcxxabi/src").join(name).with_extension("cpp")));
    let mut sources = files.into_iter().map(|path| of_cxx(compiler, path, threads)).collect::<Result<Vec<_>, _>>()?;
    if throws {
        let mut unwinder = Source::new(lib.join("libunwind/src/Unwind-wasm.c"), "cc", &[LIBRARY, UNWINDER].concat());
        unwinder.flags.push(format!("-I{}", lib.join("libunwind/include").display()));
        sources.push(unwinder);
        let guests = compiler.include()?;
        sources.push(Source::new(guests.join("exceptions.cc"), "c++", &[]));
        sources.push(Source::new(guests.join("exceptions.s"), "cc", &[]));
    }
    let with = [throws.then_some("exceptions"), threads.then_some("threads")].into_iter().flatten().collect::<Vec<_>>().join(" and ");
    let says = format!("cloudskin: building the C++ library with {with} once, which takes about two minutes ...");
    library(compiler, "libcxx.a", sources, &machine(throws, threads), Some(&says))
}

/// File streams and `std::filesystem` for programs that are linked with zig's C++ library.
pub(super) fn files(compiler: &Compiler) -> Result<PathBuf, Error> {
    let lib = compiler.sources();
    let mut files = ["fstream.cpp", "ios.instantiations.cpp"].map(|name| lib.join("libcxx/src").join(name)).to_vec();
    files.extend(listed(&lib.join("libcxx/src/filesystem"))?);
    let sources = files.into_iter().map(|path| of_cxx(compiler, path, false)).collect::<Result<Vec<_>, _>>()?;
    library(compiler, "libfiles.a", sources, &machine(false, false), None)
}

/// What is behind `setjmp` and `longjmp`.
pub(super) fn jumps(compiler: &Compiler, threads: bool) -> Result<PathBuf, Error> {
    let rt = compiler.sources().join("libc/wasi/libc-top-half/musl/src/setjmp/wasm32/rt.c");
    let sources = vec![Source::new(rt, "cc", LIBRARY), Source::new(compiler.include()?.join("jumps.s"), "cc", &[])];
    library(compiler, "libjumps.a", sources, &machine(true, threads), None)
}

/// Flags of what throws and jumps, or does neither.
fn machine(throws: bool, threads: bool) -> Vec<&'static str> {
    match (throws, threads) {
        (true, false) => [TARGET_THROWING, COMPILE, OURS, JUMPS, EXCEPTIONS].concat(),
        (true, true) => [TARGET_THREADS_THROWING, COMPILE, OURS, JUMPS, EXCEPTIONS].concat(),
        (false, threads) => [if threads { TARGET_THREADS } else { TARGET }, COMPILE, OURS, &["-fno-exceptions"]].concat(),
    }
}

/// An archive of what the sources become with these flags. It is there as a whole or not at all.
fn library(compiler: &Compiler, name: &str, sources: Vec<Source>, flags: &[&str], says: Option<&str>) -> Result<PathBuf, Error> {
    let all = sources.iter().flat_map(|s| std::iter::once(s.path.display().to_string()).chain(s.flags.iter().cloned())).chain(flags.iter().map(|f| f.to_string()));
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
            compile(compiler, &sources[n], flags, &objects[n])?;
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

fn compile(compiler: &Compiler, source: &Source, flags: &[&str], object: &Path) -> Result<(), Error> {
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
