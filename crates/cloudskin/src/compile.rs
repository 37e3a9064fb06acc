//! `cc`, `c++`, `ar`, `ranlib`, `exec`, `inspect` and `compile`: doors to the toolchain in `cells`, and what it makes, on this machine or for another.

use crate::{failure::fail, progress::moved, table};
use anyhow::Context;
use base::Kind;
use cells::toolchain::{Error, driver, inspect};
use std::{ffi::OsString, path::Path};

/// The commands whose arguments are taken as they are.
pub const RAW: [&str; 5] = ["cc", "c++", "ar", "ranlib", "exec"];

pub fn main(tool: &str, args: &[OsString]) -> anyhow::Result<u8> {
    let args = args.to_vec();
    let done = match tool {
        "cc" => driver::main(driver::Lang::C, args),
        "c++" => driver::main(driver::Lang::Cxx, args),
        "exec" => return exec(&args),
        "ar" => driver::archiver(driver::Archiver::Ar, args),
        _ => driver::archiver(driver::Archiver::Ranlib, args),
    };
    done.map_err(|e| {
        let kind = match &e {
            Error::NoCompiler(_) | Error::OtherCompiler { .. } => Kind::FailedPrecondition,
            Error::Io { source, .. } | Error::Spawn { source, .. } if source.kind() == std::io::ErrorKind::NotFound => Kind::NotFound,
            Error::Usage(_) | Error::Malformed(_) | Error::NotMovable(_) | Error::Io { .. } => Kind::InvalidArgument,
            _ => Kind::Internal,
        };
        fail(kind, e.to_string())
    })
}

/// Bytes of the line that makes a program executable here (see [`driver`]), which is not part of the module.
pub fn launch_line(file: &Path) -> anyhow::Result<u64> {
    use std::io::Read;
    let mut head = Vec::new();
    let name = || format!("read {}", file.display());
    std::fs::File::open(file).with_context(name)?.take(driver::LAUNCH_MAX as u64).read_to_end(&mut head).with_context(name)?;
    Ok((head.len() - driver::module(&head).len()) as u64)
}

/// `exec PROGRAM ARGS...`: runs a program in this process as the user, with the user's files, environment, input and output; `CLOUDSKIN_NP` ranks,
/// `CLOUDSKIN_TIER` quick, fast or interpreter; `CLOUDSKIN_PERF_MAP` for `perf`. It is what an executable made by `cc -o prog` calls, so that `./prog`, configure's probes and `make check` work.
fn exec(args: &[OsString]) -> anyhow::Result<u8> {
    let Some(file) = args.first().map(Path::new) else {
        return Err(fail(Kind::InvalidArgument, "exec needs a program: cloudskin exec PROGRAM [ARGS]"));
    };
    let np = std::env::var_os("CLOUDSKIN_NP").unwrap_or_else(|| "1".into());
    let size: u32 = np.to_str().and_then(|n| n.parse().ok()).filter(|n| (1..=64).contains(n)).with_context(|| format!("CLOUDSKIN_NP is {np:?}; give a number of ranks from 1 to 64"))?;
    let bytes = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
    let text = |a: &OsString| a.to_str().map(str::to_string).with_context(|| format!("argument {a:?} is not UTF-8"));
    let folder = std::env::current_dir().context("find the current folder")?;
    let cache = std::env::var_os("XDG_CACHE_HOME").map(Into::into).or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cache")));
    let cache = cache.map(|c: std::path::PathBuf| c.join("cloudskin")).filter(|c| base::identity::private_folder(c).is_ok());
    let tier = match std::env::var("CLOUDSKIN_TIER") {
        Ok(text) => text.parse().map_err(|e: String| fail(Kind::InvalidArgument, format!("CLOUDSKIN_TIER: {e}")))?,
        Err(_) => cells::Tier::default(),
    };
    let engine = cells::Engine::new(&cells::engine::Options { cache: cache.map(Into::into), cells_max: size.max(2) + 1, tier, perf_map: std::env::var_os("CLOUDSKIN_PERF_MAP").is_some() })?;
    let program = engine.load(driver::module(&bytes)).with_context(|| format!("{}", file.display()))?;
    if let Some(why) = program.instead().filter(|_| std::io::IsTerminal::is_terminal(&std::io::stderr())) {
        eprintln!("note: it runs in the {} tier and not in the {tier} one, as CLOUDSKIN_TIER asks: {why}", program.tier());
    }
    let root: std::sync::Arc<dyn cells::wasi::Mount> = std::sync::Arc::new(cells::folder::Folder { root: "/".into() });
    let job = cells::local::Job {
        size,
        args: args.iter().map(text).collect::<anyhow::Result<_>>()?,
        env: environment(std::env::vars_os()),
        memory_max: 4 << 30,
        mounts: cells::wasi::Mounts {
            folders: vec![(String::new(), root)],
            workdir: Some((0, folder.to_string_lossy().trim_start_matches('/').to_string())),
        },
        output: std::sync::Arc::new(Terminal { alone: size == 1 }),
        spin: cells::spin(size as usize, std::thread::available_parallelism().map_or(1, usize::from)),
    };
    for ended in cells::local::run(&engine, &program, &job)? {
        match ended {
            cells::Ended::Exited(0) => {}
            cells::Ended::Exited(code) => return Ok(u8::try_from(code & 0xff).unwrap_or(1)),
            cells::Ended::Failed { message, backtrace, code } => {
                eprint!("{message}\n{}{backtrace}", if backtrace.is_empty() { "" } else { "where it was, the innermost call first:\n" });
                return Ok(code.map_or(ABORTED, |c| (c & 0xff) as u8));
            }
            // By the failure of another rank, which is reported.
            cells::Ended::Killed(_) | cells::Ended::Stopped => {}
        }
    }
    Ok(0)
}

/// What a cell gets of an environment: it takes text only, so a variable that is none stays outside.
fn environment(vars: impl Iterator<Item = (OsString, OsString)>) -> Vec<String> {
    vars.filter_map(|(name, value)| Some(format!("{}={}", name.to_str()?, value.to_str()?))).collect()
}

/// What a shell says of a program that was aborted: 128 and SIGABRT.
const ABORTED: u8 = 134;

/// Standard input, output and error of this process. As under mpirun, the first of several ranks has the input, and each line of theirs goes out by itself.
struct Terminal {
    alone: bool,
}

impl cells::wasi::Output for Terminal {
    fn read(&self, rank: mpi::Rank, into: &mut [u8]) -> Result<usize, cells::wasi::Errno> {
        use std::io::Read;
        if rank.0 != 0 {
            return Ok(0);
        }
        std::io::stdin().read(into).map_err(|_| cells::wasi::Errno::Io)
    }

    fn terminal(&self, n: u8) -> bool {
        use std::io::IsTerminal;
        match n {
            0 => std::io::stdin().is_terminal(),
            1 => !self.alone || std::io::stdout().is_terminal(),
            _ => !self.alone || std::io::stderr().is_terminal(),
        }
    }

    fn write(&self, _: mpi::Rank, stderr: bool, _: u64, data: &[u8]) {
        use std::io::Write;
        // Nobody reads any more: the program finds out by itself or doesn't mind.
        let _ = if stderr { std::io::stderr().write_all(data) } else { std::io::stdout().write_all(data).and_then(|()| std::io::stdout().flush()) };
    }
}

/// A module's file, if it is not too large for one.
fn module(file: &Path) -> anyhow::Result<Vec<u8>> {
    let name = file.display();
    let bytes = std::fs::metadata(file).with_context(|| format!("read {name}"))?.len();
    if bytes > cells::engine::MODULE_MAX as u64 {
        return Err(fail(Kind::InvalidArgument, format!("{name}: {} are more than a module may have ({})", moved(bytes), moved(cells::engine::MODULE_MAX as u64))));
    }
    std::fs::read(file).with_context(|| format!("read {name}"))
}

/// `compile`: code for another kind of machine.
pub fn ahead(ask: &crate::args::Compile) -> anyhow::Result<u8> {
    let wasm = module(&ask.file)?;
    let engine = cells::Engine::new(&cells::engine::Options { cells_max: 1, ..Default::default() })?;
    let (name, code) = engine.compile_for(driver::module(&wasm), ask.target).with_context(|| format!("{}", ask.file.display()))?;
    std::fs::create_dir_all(&ask.into).with_context(|| format!("make folder {}", ask.into.display()))?;
    let path = ask.into.join(name);
    base::identity::write_private(&path, &code).map_err(|e| fail(Kind::FailedPrecondition, format!("{e}; choose a folder that you may write with --into")))?;
    table::say(&format!("{}\n", path.display()))?;
    Ok(0)
}

pub fn inspect(file: &Path) -> anyhow::Result<u8> {
    let name = file.display();
    let wasm = module(file)?;
    let bytes = wasm.len() as u64;
    let report = inspect::inspect(driver::module(&wasm)).map_err(|e| fail(Kind::InvalidArgument, format!("{name}: {e}")))?;
    let mut imports: Vec<String> = report.imports.iter().map(|i| format!("{}.{}", i.module, i.name)).collect();
    imports.dedup();
    let moves = match report.movable() {
        true => format!("yes, at {} safe points", report.safe_points()),
        false => format!("no: {}", report.fixed_because.join("; ")),
    };
    let memory = format!("{} at the start, {}", moved(report.memory_min_bytes), report.memory_max_bytes.map_or("no limit of its own".into(), |m| format!("{} at most", moved(m))));
    let text = table::pairs(&[
        ("module", name.to_string()),
        ("size", moved(bytes)),
        ("can move", moves),
        ("exceptions", if report.exceptions { "yes" } else { "no" }.to_string()),
        ("memory", memory),
        ("compiler", report.mark.as_ref().map(|m| m.toolchain.clone()).unwrap_or_default()),
        ("imports", imports.join("\n")),
    ]);
    table::say(&table::safe(&text))?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_is_no_text_stays_outside() {
        use std::os::unix::ffi::OsStringExt;
        let broken = || OsString::from_vec(vec![b'x', 0xff]);
        let vars = [("A".into(), "ä=1".into()), ("B".into(), broken()), (broken(), "c".into()), ("D".into(), "".into())];
        assert_eq!(environment(vars.into_iter()), ["A=ä=1", "D="]);
    }

    #[test]
    fn what_is_no_module_is_refused_with_its_name() {
        let folder = crate::files::tests::temp("inspect");
        let file = folder.join("x.wasm");
        std::fs::write(&file, "hello").unwrap();
        let e = inspect(&file).unwrap_err();
        assert!(e.to_string().contains("x.wasm") && crate::failure::kind(&e) == Kind::InvalidArgument, "{e}");
        assert_eq!(crate::failure::kind(&inspect(&folder.join("none")).unwrap_err()), Kind::NotFound);
    }
}
