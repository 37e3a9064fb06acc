//! Cells: WebAssembly programs as movable processes.
//!
//! * [`toolchain`]: from C and C++ to a module with safe points;
//! * [`engine`]: from a module to something that starts in microseconds;
//! * `native`: the same module through LLVM, for what runs for long;
//! * [`cell`]: one running instance: run, stop, write down, go on;
//! * [`control`]: stopping, killing and watching a cell from another thread;
//! * [`local`]: a whole job in this process;
//! * `mpi_host`, [`wasi`], [`threads`], [`processes`]: what the guest calls; `turn`: threads in MPI, one at a time;
//! * [`snapshot`]: a stopped cell as bytes, with version and checksum;
//! * [`link`]: messages between agents; [`transfer`]: cells that move between them;
//! * [`fence`]: system calls that an agent gives up;
//! * [`fuzz`]: what is made of bytes that anybody may send.
//!
//! The only crate that names `wasmtime`. It places nothing and decides nothing: a planner above says what runs and moves where.

mod bucket;
pub mod cache;
pub mod cell;
pub mod control;
pub mod draft;
pub mod engine;
pub mod error;
pub mod fence;
pub mod folder;
pub mod fuzz;
mod interpreter;
pub mod link;
pub mod local;
mod mpi_host;
mod native;
mod perf;
pub mod processes;
pub mod snapshot;
pub mod threads;
pub mod toolchain;
pub mod transfer;
mod turn;
pub mod wasi;
mod written;

pub use bucket::Bucket;
pub use cache::Cache;
pub use cell::{Budget, Cell, Ended, SPIN, Spec, spin};
pub use control::{Control, Figures};
pub use draft::Draft;
pub use engine::{Engine, GivenUp, Machine, Program, Tier};
pub use error::{Error, Result};
pub use link::Link;
pub use mpi_host::DOING;
