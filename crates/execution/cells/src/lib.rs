//! Cells: WebAssembly programs as movable processes.
