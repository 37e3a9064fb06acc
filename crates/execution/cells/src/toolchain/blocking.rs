//! Which host calls may find the stack unwound when they "return".
//!
//! The list decides the cost: what isn't on it is never unwound through. So imports that answer at once (`MPI_Comm_rank`, `fd_write`) stay off it.

/// Calls of `cloudskin_mpi` that the agent answers without waiting for anybody.
const LOCAL: &[&str] = &[
    "Abort", "Address", "Alloc_mem", "Buffer_attach", "Cart_coords", "Cart_get", "Cart_map", "Cart_rank", "Cart_shift",
    "Cartdim_get", "Comm_call_errhandler", "Comm_compare", "Comm_create_errhandler", "Comm_create_keyval", "Comm_delete_attr",
    "Comm_free_keyval", "Comm_get_attr", "Comm_get_errhandler", "Comm_get_info", "Comm_get_name", "Comm_get_parent",
    "Comm_group", "Comm_rank", "Comm_remote_group", "Comm_remote_size", "Comm_set_attr", "Comm_set_errhandler",
    "Comm_set_info", "Comm_set_name", "Comm_size", "Comm_test_inter", "Dims_create", "Dist_graph_neighbors",
    "Dist_graph_neighbors_count", "Finalized", "Free_mem", "Get_address", "Get_count", "Get_elements", "Get_elements_x",
    "Get_library_version", "Get_processor_name", "Get_version", "Graph_get", "Graph_map", "Graph_neighbors",
    "Graph_neighbors_count", "Graphdims_get", "Initialized", "Is_thread_main", "Isendrecv", "Isendrecv_replace", "Pack", "Pack_external",
    "Pack_external_size", "Pack_size", "Pcontrol", "Query_thread", "Reduce_local", "Request_free", "Status_set_cancelled",
    "Status_set_elements", "Status_set_elements_x", "Test_cancelled", "Topo_test", "Unpack", "Unpack_external", "Wtick",
    "Wtime", "Win_attach", "Win_call_errhandler", "Win_create_errhandler", "Win_create_keyval", "Win_delete_attr", "Win_detach",
    "Win_free_keyval", "Win_get_attr", "Win_get_errhandler", "Win_get_group", "Win_get_info", "Win_get_name", "Win_post", "Win_set_attr",
    "File_call_errhandler", "File_create_errhandler", "File_delete", "File_get_amode", "File_get_atomicity", "File_get_byte_offset",
    "File_get_errhandler", "File_get_group", "File_get_info", "File_get_position", "File_get_type_extent", "File_get_view", "File_set_atomicity",
    "File_set_errhandler", "File_set_info", "Win_set_errhandler", "Win_set_info", "Win_set_name", "Win_shared_query", "Win_sync", "Win_test",
];

/// Families of such calls.
const LOCAL_PREFIXES: &[&str] =
    &["Add_error_", "Aint_", "Attr_", "Errhandler_", "Error_", "Group_", "Info_", "Keyval_", "Op_", "Session_", "Type_"];

/// Whether a call of this import may find the stack unwound when it "returns": a safe point in a host call. The agent must
/// start an unwind in no other import.
pub fn can_block(module: &str, name: &str) -> bool {
    match module {
        "cloudskin_mpi" => {
            let short = name.strip_prefix("MPI_").unwrap_or(name);
            !LOCAL.contains(&short) && !LOCAL_PREFIXES.iter().any(|p| short.starts_with(p))
        }
        "wasi_snapshot_preview1" => name == "poll_oneoff",
        crate::processes::MODULE => matches!(name, "fork" | "wait" | "fd_read" | "fd_write" | "sock_recv" | "sock_send"),
        crate::threads::MODULE => matches!(name, "wait32" | "wait64"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_calls_that_wait_are_unwound_through() {
        let check = |module: &str, name: &str, expected: bool| assert_eq!(can_block(module, name), expected, "{module}.{name}");
        for name in ["MPI_Send", "MPI_Recv", "MPI_Test", "MPI_Iprobe", "MPI_Init", "MPI_Finalize", "MPI_Comm_split", "MPI_Comm_dup", "MPI_Win_create", "MPI_Put", "MPI_Win_lock_all", "MPI_Win_flush_local"] {
            check("cloudskin_mpi", name, true);
        }
        for name in ["MPI_Comm_rank", "MPI_Wtime", "MPI_Type_vector", "MPI_Get_count", "MPI_Abort", "MPI_Op_create", "MPI_Win_post"] {
            check("cloudskin_mpi", name, false);
        }
        check("wasi_snapshot_preview1", "poll_oneoff", true);
        check("wasi_snapshot_preview1", "fd_write", false);
        check("cloudskin_thread", "wait32", true);
        check("cloudskin_thread", "spawn", false);
        check("cloudskin_process", "fork", true);
        check("cloudskin_process", "fd_write", true);
        check("cloudskin_process", "pipe", false);
        check("env", "poll", false);
    }
}
