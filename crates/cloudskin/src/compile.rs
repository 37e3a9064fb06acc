//! `cc`, `c++`, `ar`, `ranlib` and `inspect`: doors to the toolchain in `cells`.

use crate::{failure::fail, progress::moved, table};
use anyhow::Context;
use base::Kind;
use cells::toolchain::{Error, driver, inspect};
use std::{ffi::OsString, path::Path};

/// The commands whose arguments are taken as they are.
pub const RAW: [&str; 4] = ["cc", "c++", "ar", "ranlib"];

pub fn main(tool: &str, args: &[OsString]) -> anyhow::Result<u8> {
    let args = args.to_vec();
    let done = match tool {
        "cc" => driver::main(driver::Lang::C, args),
        "c++" => driver::main(driver::Lang::Cxx, args),
        "ar" => driver::archiver(driver::Archiver::Ar, args),
        _ => driver::archiver(driver::Archiver::Ranlib, args),
    };
    done.map_err(|e| {
        let kind = match &e {
            Error::NoCompiler(_) | Error::NoWasmOpt(_) => Kind::FailedPrecondition,
            Error::Io { source, .. } | Error::Spawn { source, .. } if source.kind() == std::io::ErrorKind::NotFound => Kind::NotFound,
            Error::Usage(_) | Error::Malformed(_) | Error::NotMovable(_) | Error::Io { .. } => Kind::InvalidArgument,
            _ => Kind::Internal,
        };
        fail(kind, e.to_string())
    })
}

pub fn inspect(file: &Path) -> anyhow::Result<u8> {
    let name = file.display();
    let bytes = std::fs::metadata(file).with_context(|| format!("read {name}"))?.len();
    if bytes > cells::engine::MODULE_MAX as u64 {
        return Err(fail(Kind::InvalidArgument, format!("{name}: {} are more than a module may have ({})", moved(bytes), moved(cells::engine::MODULE_MAX as u64))));
    }
    let wasm = std::fs::read(file).with_context(|| format!("read {name}"))?;
    let report = inspect::inspect(&wasm).map_err(|e| fail(Kind::InvalidArgument, format!("{name}: {e}")))?;
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
    fn what_is_no_module_is_refused_with_its_name() {
        let folder = crate::files::tests::temp("inspect");
        let file = folder.join("x.wasm");
        std::fs::write(&file, "hello").unwrap();
        let e = inspect(&file).unwrap_err();
        assert!(e.to_string().contains("x.wasm") && crate::failure::kind(&e) == Kind::InvalidArgument, "{e}");
        assert_eq!(crate::failure::kind(&inspect(&folder.join("none")).unwrap_err()), Kind::NotFound);
    }
}
