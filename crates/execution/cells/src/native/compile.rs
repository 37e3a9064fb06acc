//! IR to a library on disk, by the toolchain's clang in a process of its own.
//!
//! The input is a tenant's, if at second hand: the compiler has a limit of processor time, of memory and of what it may write, and where the kernel has
//! Landlock it reads the toolchain, its scratch folder and what the kernel tells of processes and processors, writes only to the scratch folder, and opens no
//! TCP connection. A library is kept (`cache`) under the module's
//! SHA-256, the version of the translation and the machine's kind of processor.

use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::toolchain::compiler::{Compiler, Scratch};
use crate::native::VERSION;
use crate::native::translate::Stays;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const NATIVE_C: &str = include_str!("../../../../../guests/native.c");
/// Limits of the compiler: seconds of processor time, bytes of address space, bytes of a file.
const SECONDS: u64 = 600;
const MEMORY: u64 = 8 << 30;
const FILE: u64 = 1 << 30;

/// A library on disk, to be loaded.
pub(super) struct Library {
    pub path: PathBuf,
    /// Where it was made, if there is no cache to keep it in: the file goes away with this.
    _scratch: Option<Scratch>,
}

/// The library of a module. `ir` is asked only if it is not in the cache; `None` if it has none.
pub(super) fn library(sha256: &str, cache: Option<&Cache>, ir: impl FnOnce() -> Result<String, Stays>) -> Result<Option<Library>> {
    let name = format!("{sha256}-{VERSION}-{:016x}.so", processor());
    if let Some(path) = cache.and_then(|cache| cache.library(&name)) {
        return Ok(Some(Library { path, _scratch: None }));
    }
    let ir = match ir() {
        Ok(ir) => ir,
        Err(why) => {
            tracing::info!(sha256, why, "the program has no translation for the fast tier");
            return Ok(None);
        }
    };
    let scratch = Scratch::new().map_err(|e| Error::Resources(e.to_string()))?;
    let made = compile(&scratch, &ir)?;
    let Some(cache) = cache else { return Ok(Some(Library { path: made, _scratch: Some(scratch) })) };
    let bytes = std::fs::read(&made).map_err(Error::io(format!("read {}", made.display())))?;
    Ok(Some(Library { path: cache.put_library(&name, bytes)?, _scratch: None }))
}

/// A number for the instructions that this machine has.
fn processor() -> u64 {
    instructions(std::env::consts::ARCH, &std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
}

/// The same by what the kernel tells of the processors. On x86-64 a processor has a name and flags, on aarch64 numbers of its maker and features.
fn instructions(machine: &str, info: &str) -> u64 {
    let of = |key: &str| info.lines().find(|l| l.starts_with(key)).unwrap_or_default().to_string();
    let mut text = format!("{machine} {} {}", of("model name"), of("flags"));
    if machine == "aarch64" {
        text = format!("{machine} {} {} {}", of("CPU implementer"), of("CPU part"), of("Features"));
    }
    xxhash_rust::xxh3::xxh3_64(text.as_bytes())
}

fn compile(scratch: &Scratch, ir: &str) -> Result<PathBuf> {
    let compiler = Compiler::find().map_err(|e| Error::Resources(e.to_string()))?;
    let write = |name: &str, text: &str| {
        let path = scratch.path(name);
        std::fs::write(&path, text).map_err(Error::io(format!("write {}", path.display()))).map(|()| path)
    };
    let (program, fixed) = (write("program.ll", ir)?, write("native.c", NATIVE_C)?);
    let target = format!("--target={}-linux-gnu", std::env::consts::ARCH);
    let toolchain = compiler.path().parent().unwrap_or(Path::new("/"));
    // `/proc`: where the compiler finds its own file.
    let fence = Fence::new(&[toolchain, Path::new("/proc"), Path::new("/sys/devices/system/cpu")], scratch.folder());
    let mut objects = Vec::new();
    for source in [&program, &fixed] {
        let object = source.with_extension("o");
        let mut command = compiler.command("clang");
        // Sums are rounded twice, on every machine alike; the module's bytes say nothing of the target, which is meant.
        command.args([&target, "-march=native", "-O3", "-ffp-contract=off", "-fPIC", "-fno-stack-protector", "-Wno-override-module", "-c"]);
        run(command.arg(source).arg("-o").arg(&object).env("TMPDIR", scratch.folder()), &fence)?;
        objects.push(object);
    }
    let library = scratch.path("program.so");
    let mut command = compiler.command("ld.lld");
    run(command.args(["-shared", "-Bsymbolic", "-z", "noexecstack", "-o"]).arg(&library).args(&objects).env("TMPDIR", scratch.folder()), &fence)?;
    Ok(library)
}

fn run(command: &mut Command, fence: &Fence) -> Result<()> {
    let ruleset = fence.0.as_ref().map(AsRawFd::as_raw_fd);
    // SAFETY: between fork and exec only system calls with plain numbers are made; nothing allocates or takes a lock.
    unsafe {
        command.pre_exec(move || {
            for (what, most) in [(libc::RLIMIT_CPU, SECONDS), (libc::RLIMIT_AS, MEMORY), (libc::RLIMIT_FSIZE, FILE)] {
                let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
                if libc::setrlimit(what, &limit) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            libc::nice(10);
            if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            if let Some(ruleset) = ruleset
                && libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0) != 0
            {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let output = command.stdin(Stdio::null()).output().map_err(Error::io(format!("run {}", command.get_program().display())))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(Error::Resources(format!("LLVM did not compile the program ({}): {}", output.status, text.lines().take(5).collect::<Vec<_>>().join("; "))))
}

/// A Landlock ruleset that a child takes on; none where the kernel has no Landlock. Numbers and structures are those of the kernel's `landlock.h`.
struct Fence(Option<OwnedFd>);

#[repr(C)]
struct RulesetAttr {
    access_fs: u64,
    access_net: u64,
}

#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent: i32,
}

/// Executing, reading files and reading folders.
const READ: u64 = 1 | 1 << 2 | 1 << 3;
/// Writing and reading a file.
const FILE_READ_WRITE: u64 = 1 << 1 | 1 << 2;
/// All thirteen rights on files of Landlock's first version.
const ALL: u64 = (1 << 13) - 1;
/// Binding and connecting of TCP, from its fourth version on.
const NETWORK: u64 = 3;

impl Fence {
    /// Reading below `read`, everything below `write`; and `/dev/null`.
    fn new(read: &[&Path], write: &Path) -> Fence {
        // SAFETY: landlock_create_ruleset reads a structure of the size that it is given; with no structure it tells its version.
        let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<RulesetAttr>(), 0usize, 1u32) };
        if version < 1 {
            return Fence(None);
        }
        let attr = RulesetAttr { access_fs: ALL, access_net: NETWORK };
        let size = if version >= 4 { size_of::<RulesetAttr>() } else { 8 };
        // SAFETY: as above.
        let ruleset = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &attr, size, 0u32) };
        if ruleset < 0 {
            return Fence(None);
        }
        // SAFETY: a file descriptor that the kernel has just given and nobody else knows.
        let ruleset = unsafe { OwnedFd::from_raw_fd(ruleset as i32) };
        let rules = read.iter().map(|path| (*path, READ)).chain([(write, ALL), (Path::new("/dev/null"), FILE_READ_WRITE)]);
        for (path, allowed) in rules {
            // What is not there need not be read.
            let Ok(parent) = std::fs::File::open(path) else { continue };
            let rule = PathBeneath { allowed, parent: parent.as_raw_fd() };
            // SAFETY: rule type 1 reads this structure; both descriptors are open.
            unsafe { libc::syscall(libc::SYS_landlock_add_rule, ruleset.as_raw_fd(), 1u32, &rule, 0u32) };
        }
        Fence(Some(ruleset))
    }
}

#[cfg(test)]
mod tests {
    use super::instructions;

    /// Code that uses what one processor has is not taken on one that lacks it.
    #[test]
    fn processors_with_other_instructions_have_other_numbers() {
        let arm = |features: &str, part: &str| instructions("aarch64", &format!("processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: {features}\nCPU implementer\t: 0x41\nCPU part\t: {part}\n"));
        assert_eq!(arm("fp asimd", "0xd0c"), arm("fp asimd", "0xd0c"));
        assert_ne!(arm("fp asimd", "0xd0c"), arm("fp asimd sve", "0xd0c"));
        assert_ne!(arm("fp asimd", "0xd0c"), arm("fp asimd", "0xd40"));
        let intel = |flags: &str| instructions("x86_64", &format!("model name\t: A\nflags\t\t: {flags}\n"));
        assert_ne!(intel("sse2"), intel("sse2 avx2"));
        assert_ne!(intel("sse2"), instructions("aarch64", "model name\t: A\nflags\t\t: sse2\n"));
    }
}
