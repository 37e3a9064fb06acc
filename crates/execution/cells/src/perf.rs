//! How `perf` learns the names of a program's functions: `/tmp/perf-PID.map`, a line for each function that this process has compiled or taken from the cache, as `perf`
//! documents it (`tools/perf/Documentation/jit-interface.txt` in the kernel's sources).
//!
//! Code of the quick tier only: what LLVM has made for the fast tier lies in a library of its own, and what is interpreted has no machine code.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Mutex, OnceLock};
use wasmtime::Module;

/// Adds a program's functions to the map of this process.
///
/// # Errors
/// The file can't be made or written; somebody else has one of this name.
pub(crate) fn tell(module: &Module, program: &str) -> io::Result<()> {
    static MAP: OnceLock<Result<Mutex<File>, io::Error>> = OnceLock::new();
    // In a folder where anybody may put links and files: only a new one will do. One that an earlier process of this number has left is not ours to keep.
    let make = || {
        let path = format!("/tmp/perf-{}.map", std::process::id());
        let _ = std::fs::remove_file(&path);
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map(Mutex::new)
    };
    let map = MAP.get_or_init(make).as_ref().map_err(|e| io::Error::new(e.kind(), e.to_string()))?;
    let (mut lines, text) = (Vec::new(), module.text().as_ptr().addr());
    for function in module.functions().filter(|f| f.len > 0) {
        let name = function.name.unwrap_or_else(|| format!("function {}", function.index.as_u32()));
        // A name is the rest of its line.
        let name = name.replace(char::is_control, " ");
        writeln!(lines, "{:x} {:x} {name} [{program}]", text + function.offset, function.len)?;
    }
    map.lock().unwrap_or_else(|e| e.into_inner()).write_all(&lines)
}
