//! IR to a library on disk, by the toolchain's clang in a process of its own.
//!
//! The input is a tenant's, if at second hand: the compiler has a limit of processor time, of memory and of what it may write, and where the kernel has
//! Landlock it reads the toolchain, its scratch folder and what the kernel tells of processes and processors, writes only to the scratch folder, and opens no
//! TCP connection. A library is kept (`cache`) under the module's
//! SHA-256, the version of the translation and the machine's kind of processor.

use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::fence::files::{May, Reach};
use crate::toolchain::compiler::{Compiler, Scratch};
use crate::engine::GivenUp;
use crate::native::VERSION;
use crate::native::translate::Stays;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const NATIVE_C: &str = include_str!("../../../../../guests/native.c");
/// Limits of the compiler: seconds of processor time, bytes of address space, bytes of a file.
const SECONDS: u64 = 600;
const MEMORY: u64 = 8 << 30;
const FILE: u64 = 1 << 30;
/// How often it is looked whether the compiler has ended, or was given up: first, and later.
const LOOK: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

/// A library on disk, to be loaded.
pub(super) struct Library {
    pub path: PathBuf,
    /// Where it was made, if there is no cache to keep it in: the file goes away with this.
    _scratch: Option<Scratch>,
}

/// The library of a module. `ir` is asked only if it is not in the cache; `None` if it has none.
pub(super) fn library(sha256: &str, cache: Option<&Cache>, ir: impl FnOnce() -> Result<String, Stays>, given_up: &GivenUp) -> Result<Option<Library>> {
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
    let made = compile(&scratch, &ir, given_up)?;
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

fn compile(scratch: &Scratch, ir: &str, given_up: &GivenUp) -> Result<PathBuf> {
    let compiler = Compiler::find().map_err(|e| Error::Resources(e.to_string()))?;
    let write = |name: &str, text: &str| {
        let path = scratch.path(name);
        std::fs::write(&path, text).map_err(Error::io(format!("write {}", path.display()))).map(|()| path)
    };
    let (program, fixed) = (write("program.ll", ir)?, write("native.c", NATIVE_C)?);
    let target = format!("--target={}-linux-gnu", std::env::consts::ARCH);
    let toolchain = compiler.path().parent().unwrap_or(Path::new("/"));
    // `/proc`: where the compiler finds its own file.
    let reach = [(toolchain, May::Run), (Path::new("/proc"), May::Read), (Path::new("/sys/devices/system/cpu"), May::Read), (Path::new("/dev/null"), May::Write), (scratch.folder(), May::All)];
    let fence = reach.into_iter().fold(Reach::default(), |reach, (path, may)| reach.below(path, may)).offline().descriptor().map_err(Error::io("restrict the compiler"))?;
    let mut objects = Vec::new();
    for source in [&program, &fixed] {
        let object = source.with_extension("o");
        let mut command = compiler.command("clang");
        // Sums are rounded twice, on every machine alike; the module's bytes say nothing of the target, which is meant.
        command.args([&target, "-march=native", "-O3", "-ffp-contract=off", "-fPIC", "-fno-stack-protector", "-Wno-override-module", "-c"]);
        if cfg!(target_arch = "aarch64") {
            // Atomic instructions, and no calls of a library that is not linked.
            command.arg("-mno-outline-atomics");
        }
        run(command.arg(source).arg("-o").arg(&object), scratch, fence.as_ref(), given_up)?;
        objects.push(object);
    }
    let library = scratch.path("program.so");
    let mut command = compiler.command("ld.lld");
    run(command.args(["-shared", "-Bsymbolic", "-z", "noexecstack", "-o"]).arg(&library).args(&objects), scratch, fence.as_ref(), given_up)?;
    Ok(library)
}

/// `fence`: a Landlock ruleset that the child takes on. It ends with an error when it is `given_up`.
fn run(command: &mut Command, scratch: &Scratch, fence: Option<&OwnedFd>, given_up: &GivenUp) -> Result<()> {
    let ruleset = fence.map(AsRawFd::as_raw_fd);
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
            // Nobody waits for what it makes when the agent has gone: the thread that starts it waits for its end.
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(std::io::Error::last_os_error());
            }
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
    // Into a file, since nobody reads while it is looked whether it has ended.
    let said = scratch.path("said");
    let into = std::fs::File::create(&said).map_err(Error::io(format!("write {}", said.display())))?;
    let program = command.get_program().display().to_string();
    let running = |e| Error::io(format!("run {program}"))(e);
    let mut child = command.env("TMPDIR", scratch.folder()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(into).spawn().map_err(running)?;
    let mut pause = LOOK.0;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(running)? {
            break status;
        }
        if given_up() {
            // It may have ended meanwhile; waited for it is in any case.
            let _ = child.kill();
            let _ = child.wait();
            return Err(Error::Killed("nobody waits for the program any more".into()));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LOOK.1);
    };
    if status.success() {
        return Ok(());
    }
    let text = std::fs::read(&said).unwrap_or_default();
    Err(Error::Resources(format!("LLVM did not compile the program ({status}): {}", String::from_utf8_lossy(&text).lines().take(5).collect::<Vec<_>>().join("; "))))
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
