//! From C and C++ source text to a module that can be moved while it runs.
//!
//! The way of one program:
//!
//! ```text
//! prog.c --clang--> prog.o --wasm-ld + guests/runtime.c--> plain module      driver, compiler
//!        --what was caught becomes a number-->                               exceptions
//!        --long inner loops cut into pieces-->                               strip
//!        --safe points: every stack that can reach one unwinds there,
//!          exports of all state, flag words in a memory of their own,
//!          custom section "cloudskin"-->                                     prog (a WebAssembly file): instrument, blocking, flags
//! ```
//!
//! What was compiled with `-g` keeps its lines through all of it (`lines`), for backtraces.
//!
//! [`inspect`] reads such a file back when it is submitted: is it well-formed, does it ask only for what the agent has, can
//! it be moved. It believes nothing: that the program can be ended wherever it is, `verify` proves from the code.
//!
//! With `-pthread` or `-fopenmp` a program gets `guests/threads.c` too, the second also `guests/openmp.c`, and `threads` goes over it before the other passes
//! (`docs/design/threads.md`).
//!
//! Programs that throw, call `longjmp` or have C++'s threads get what they need for it from `libraries`, made of the compiler's own sources.
//!
//! What this doesn't do: it runs no module, and it brings no compiler (`make setup` installs the pinned one).

pub mod blocking;
mod bounded;
pub mod compiler;
pub mod driver;
pub(crate) mod exceptions;
pub(crate) mod flags;
pub mod inspect;
pub mod instrument;
mod libraries;
pub(crate) mod lines;
mod mismatch;
mod outline;
mod processes;
mod strip;
mod threads;
mod verify;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Name of the custom section that marks a module made by this toolchain.
pub const SECTION: &str = "cloudskin";
/// Version of what [`Mark`] says and of the contract between module and agent. Another version is refused.
pub const FORMAT: u32 = 3;
/// Exported memory of one page, the second, which the program only ever reads: its flag words. Word 0 (offset 0) is "stop", word 1 (offset 4) is "die".
pub const FLAGS: &str = "__cloudskin_flags";
/// Exported immutable global: address of the unwind area, where the stack of a stopped cell is kept.
pub const UNWIND: &str = "__cloudskin_unwind";
/// Size of the unwind area in `guests/runtime.c`, in bytes.
pub const UNWIND_BYTES: u32 = 8 << 20;
/// The same of the first thread of a program with threads. The others' areas are what `guests/threads.c` says.
pub const UNWIND_BYTES_THREADS: u32 = 2 << 20;
/// The guest's own allocator, for the agent.
pub(crate) const ROOM: &str = "__cloudskin_room";
/// Exported mutable global: 0 at work, [`instrument::UNWINDING`], or the safe point that is being gone back to.
pub const STATE: &str = "__cloudskin_state";
/// Exported mutable global: the next free byte of the unwind area.
pub const TOP: &str = "__cloudskin_top";
/// Exported mutable global of a program with threads: the end of the unwind area of the thread whose instance it is.
pub const END: &str = "__cloudskin_end";
/// Exported: the module begins in the folder that PWD names, so no folder need be opened as `.` for it (see `guests/runtime.c`).
pub const WORKDIR: &str = "__cloudskin_workdir";
/// The tag of C++ exceptions, exported by programs that have them.
pub(crate) const CXX_TAG: &str = "__cpp_exception";
/// Exported by the same: what an exception is, as a text of at most [`UNCAUGHT_BYTES`] that ends with a zero, and the program's end by `std::terminate`.
pub(crate) const UNCAUGHT: &str = "__cloudskin_uncaught";
pub(crate) const UNCAUGHT_BYTES: usize = 1024;
pub(crate) const TERMINATE: &str = "__cloudskin_terminate";
/// Exported mutable globals are called this and a number from 0 on.
pub const GLOBAL_PREFIX: &str = "__cloudskin_g";
/// The function table's export, when the module has a table.
pub const TABLE: &str = "__indirect_function_table";

/// What the custom section `cloudskin` holds, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// [`FORMAT`] of the toolchain that made the module.
    pub version: u32,
    /// Address of the unwind area.
    pub unwind: u32,
    /// Size of the unwind area in bytes.
    pub unwind_bytes: u32,
    /// Number of places where the module polls the stop flag.
    pub polls: u32,
    /// Number of other places that look only at the die flag.
    pub die_checks: u32,
    /// Number of exported mutable globals of the program's own.
    pub globals: u32,
    /// The compiler, for people.
    pub toolchain: String,
}

/// Why no module came out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Usage(String),
    #[error("no compiler: looked for {0}; `make setup` installs it, or CLOUDSKIN_ZIG=.../zig names a copy of ziglang 0.17.1")]
    NoCompiler(String),
    #[error("{program} is zig {found}, and this version needs zig {needed}; `make setup` installs it, or CLOUDSKIN_ZIG=.../zig names a copy of ziglang {needed}", program = program.display())]
    OtherCompiler { program: PathBuf, found: String, needed: &'static str },
    #[error("run {program}: {source}")]
    Spawn { program: PathBuf, source: std::io::Error },
    #[error("{program} failed: {output}")]
    Tool { program: &'static str, output: String },
    #[error("{what} {path}: {source}", path = path.display())]
    Io { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("malformed module: {0}")]
    Malformed(String),
    #[error("the module can't be moved: {}", .0.join("; "))]
    NotMovable(Vec<String>),
}

impl Error {
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>, source: std::io::Error) -> Error {
        Error::Io { what, path: path.into(), source }
    }
}

impl From<wasmparser::BinaryReaderError> for Error {
    fn from(error: wasmparser::BinaryReaderError) -> Error {
        Error::Malformed(error.to_string())
    }
}

/// The instructions that a module may use: what wasmtime 48 accepts as it stands, with exceptions. Of threads' instructions those that wait and wake
/// are refused by `inspect`.
pub(crate) fn features() -> wasmparser::WasmFeatures {
    use wasmparser::WasmFeatures as F;
    F::WASM2 | F::RELAXED_SIMD | F::TAIL_CALL | F::EXTENDED_CONST | F::MULTI_MEMORY | F::MEMORY64 | F::THREADS | F::EXCEPTIONS
}
