//! Runs Binaryen's asyncify over a module: functions that can reach one of the named imports get the code to unwind and to
//! rewind their frame.
//!
//! The list decides the cost: what isn't on it is never unwound through. So imports that answer at once (`MPI_Comm_rank`,
//! `fd_write`) stay off it. Nothing here knows how the agent uses the four exported functions; that is `cells`' cell.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use super::compiler::Scratch;
use super::{Error, instrument::Outline};

/// What `-mcpu` in [`super::compiler`] lets LLVM use; Binaryen refuses what it isn't told of.
const FEATURES: &[&str] = &[
    "--enable-sign-ext",
    "--enable-mutable-globals",
    "--enable-nontrapping-float-to-int",
    "--enable-simd",
    "--enable-bulk-memory",
];

/// Calls of `cloudskin_mpi` that the agent answers without waiting for anybody.
const LOCAL: &[&str] = &[
    "Abort", "Address", "Alloc_mem", "Buffer_attach", "Cart_coords", "Cart_get", "Cart_map", "Cart_rank", "Cart_shift",
    "Cartdim_get", "Comm_call_errhandler", "Comm_compare", "Comm_create_errhandler", "Comm_create_keyval", "Comm_delete_attr",
    "Comm_free_keyval", "Comm_get_attr", "Comm_get_errhandler", "Comm_get_info", "Comm_get_name", "Comm_get_parent",
    "Comm_group", "Comm_rank", "Comm_remote_group", "Comm_remote_size", "Comm_set_attr", "Comm_set_errhandler",
    "Comm_set_info", "Comm_set_name", "Comm_size", "Comm_test_inter", "Dims_create", "Dist_graph_neighbors",
    "Dist_graph_neighbors_count", "Finalized", "Free_mem", "Get_address", "Get_count", "Get_elements", "Get_elements_x",
    "Get_library_version", "Get_processor_name", "Get_version", "Graph_get", "Graph_map", "Graph_neighbors",
    "Graph_neighbors_count", "Graphdims_get", "Initialized", "Is_thread_main", "Pack", "Pack_external",
    "Pack_external_size", "Pack_size", "Pcontrol", "Query_thread", "Reduce_local", "Request_free", "Status_set_cancelled",
    "Status_set_elements", "Status_set_elements_x", "Test_cancelled", "Topo_test", "Unpack", "Unpack_external", "Wtick",
    "Wtime",
];

/// Families of such calls.
const LOCAL_PREFIXES: &[&str] =
    &["Add_error_", "Aint_", "Attr_", "Errhandler_", "Error_", "Group_", "Info_", "Keyval_", "Op_", "Type_"];

/// Whether a call of this import may find the stack unwound when it "returns": a safe point in a host call. The agent must
/// start an unwind in no other import.
pub fn can_block(module: &str, name: &str) -> bool {
    match module {
        "cloudskin" => true,
        "cloudskin_mpi" => {
            let short = name.strip_prefix("MPI_").unwrap_or(name);
            !LOCAL.contains(&short) && !LOCAL_PREFIXES.iter().any(|p| short.starts_with(p))
        }
        "wasi_snapshot_preview1" => matches!(name, "poll_oneoff" | "sched_yield"),
        _ => false,
    }
}

/// Where `wasm-opt` is: `CLOUDSKIN_WASM_OPT`, or on the `PATH`.
pub fn wasm_opt() -> Result<PathBuf, Error> {
    if let Some(path) = std::env::var_os("CLOUDSKIN_WASM_OPT") {
        let path = PathBuf::from(path);
        return if path.is_file() { Ok(path) } else { Err(Error::NoWasmOpt(path.display().to_string())) };
    }
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths)
        .map(|dir| dir.join("wasm-opt"))
        .find(|path| path.is_file())
        .ok_or_else(|| Error::NoWasmOpt("wasm-opt on the PATH".into()))
}

/// `wasm` with asyncify applied to all functions that can reach an import for which [`can_block`] holds. Names are kept.
pub(crate) fn run(wasm: &[u8]) -> Result<Vec<u8>, Error> {
    let program = wasm_opt()?;
    let blocking: Vec<String> = Outline::read(wasm)?
        .imports
        .iter()
        .filter(|(module, name, kind)| *kind == "function" && can_block(module, name))
        .map(|(module, name, _)| format!("{module}.{name}"))
        .collect();
    let scratch = Scratch::new()?;
    let (before, after) = (scratch.path("before.wasm"), scratch.path("after.wasm"));
    std::fs::write(&before, wasm).map_err(|e| Error::io("write", &before, e))?;
    let mut args: Vec<OsString> = vec!["-g".into()];
    args.extend(FEATURES.iter().map(OsString::from));
    args.push("--asyncify".into());
    args.push(format!("--pass-arg=asyncify-imports@{}", blocking.join(",")).into());
    // Asyncify leaves many locals and blocks behind; what runs after it doesn't know about unwinding and can't undo it.
    args.push("-O2".into());
    // LLVM has inlined what is worth it; more would only take names out of backtraces: abort is a function of one instruction.
    args.extend(["-aimfs", "0", "-fimfs", "1", "-ocimfs", "1"].map(OsString::from));
    args.extend([before.as_os_str().to_owned(), "-o".into(), after.as_os_str().to_owned()]);
    let output =
        Command::new(&program).args(&args).output().map_err(|source| Error::Spawn { program: program.clone(), source })?;
    if !output.status.success() {
        // A validation error prints the whole function; its first lines say what it is.
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(Error::Tool { program: "wasm-opt", output: text.lines().take(12).collect::<Vec<_>>().join("\n") });
    }
    std::fs::read(&after).map_err(|e| Error::io("read", &after, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_calls_that_wait_are_unwound_through() {
        let check = |module: &str, name: &str, expected: bool| assert_eq!(can_block(module, name), expected, "{module}.{name}");
        check("cloudskin", "poll", true);
        for name in ["MPI_Send", "MPI_Recv", "MPI_Test", "MPI_Iprobe", "MPI_Init", "MPI_Finalize", "MPI_Comm_split", "MPI_Comm_dup"] {
            check("cloudskin_mpi", name, true);
        }
        for name in ["MPI_Comm_rank", "MPI_Wtime", "MPI_Type_vector", "MPI_Get_count", "MPI_Abort", "MPI_Op_create"] {
            check("cloudskin_mpi", name, false);
        }
        check("wasi_snapshot_preview1", "poll_oneoff", true);
        check("wasi_snapshot_preview1", "fd_write", false);
        check("env", "poll", false);
    }
}
