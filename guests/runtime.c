/*
 * The part of CloudSkin that is linked into each cell: a piece of memory whose address the agent must know (the
 * linker exports it as an immutable global), where relative paths begin, and calls of MPI that are made of other calls.
 *
 * No poll is written in C: it would keep LLVM from vectorising the loop. The polls are put into the linked module
 * (`cells::toolchain::instrument`).
 */

#include "mpi.h"

#include <limits.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* Where the call stack is kept while a cell is stopped; of a program with threads that of the first one, set to zero when it begins. The engine's own stack
   has 2 MiB, and calls take no more here than there. */
#ifdef _REENTRANT
__attribute__((used, aligned(64))) unsigned char __cloudskin_unwind[2 * 1024 * 1024];
#else
__attribute__((used, aligned(64))) unsigned char __cloudskin_unwind[8 * 1024 * 1024];
#endif

/*
 * Relative paths begin where PWD says. By itself the C library takes them, and also each absolute path that is in no folder of the
 * cell, for paths below the folder that was opened as ".": writing to /etc/motd would write into the working directory. An agent
 * that sees this export opens no such folder, so that such a path is what it is: not there. The export also links the part of
 * the C library that minds `__wasilibc_cwd`.
 */
extern char *__wasilibc_cwd;
int __wasilibc_find_relpath_alloc(const char *, const char **, char **, size_t *, int);
__attribute__((used)) int (*const __cloudskin_workdir)(const char *, const char **, char **, size_t *, int) = __wasilibc_find_relpath_alloc;

__attribute__((constructor(101))) static void begin_in_workdir(void) {
    const char *folder = getenv("PWD");
    char *kept = folder != NULL && folder[0] == '/' ? strdup(folder) : NULL;
    if (kept != NULL)
        __wasilibc_cwd = kept;
}

/* Memory for what MPI hands to the program's own functions, by the program's own allocator. The agent calls it. */
__attribute__((used)) void *__cloudskin_room(void *old, size_t bytes) {
    if (bytes > 0)
        return realloc(old, bytes);
    free(old);
    return NULL;
}

/*
 * MPI_Dist_graph_create: each rank names edges between any ranks. All learn all edges and keep their own, in the order in which the ranks
 * named them. What is made of other calls alone is written here, where it moves with the program like any code of its own.
 */
int PMPI_Dist_graph_create(MPI_Comm comm, int n, const int sources[], const int degrees[], const int destinations[], const int weights[],
                           MPI_Info info, int reorder, MPI_Comm *newcomm) {
    int size, rank, edges = 0, all = 0;
    int code = PMPI_Comm_size(comm, &size);
    if (code != MPI_SUCCESS || (code = PMPI_Comm_rank(comm, &rank)) != MPI_SUCCESS)
        return code;
    for (int i = 0; i < n; i++)
        edges += degrees[i];
    const int weighted = weights != MPI_UNWEIGHTED;
    int *counts = calloc((size_t)2 * size, sizeof(int)), *starts = counts + size;
    int *mine = malloc(((size_t)edges + 1) * 3 * sizeof(int)), *table = NULL, *own = NULL;
    code = counts == NULL || mine == NULL ? MPI_ERR_NO_MEM : MPI_SUCCESS;
    for (int i = 0, e = 0; code == MPI_SUCCESS && i < n; i++)
        for (int k = 0; k < degrees[i]; k++, e++) {
            mine[3 * e] = sources[i];
            mine[3 * e + 1] = destinations[e];
            mine[3 * e + 2] = weighted && weights != MPI_WEIGHTS_EMPTY ? weights[e] : 0;
        }
    const int words = 3 * edges;
    if (code == MPI_SUCCESS)
        code = PMPI_Allgather(&words, 1, MPI_INT, counts, 1, MPI_INT, comm);
    if (code == MPI_SUCCESS) {
        for (int r = 0; r < size; r++) {
            starts[r] = all;
            all += counts[r];
        }
        table = malloc(((size_t)all + 1) * sizeof(int));
        own = malloc(((size_t)all + 1) * 2 * sizeof(int));
        code = table == NULL || own == NULL ? MPI_ERR_NO_MEM : PMPI_Allgatherv(mine, words, MPI_INT, table, counts, starts, MPI_INT, comm);
    }
    if (code == MPI_SUCCESS) {
        int *from = own, *from_weights = own + all / 3, *to = own + 2 * (all / 3), *to_weights = own + all;
        int in = 0, out = 0;
        for (int e = 0; e < all; e += 3) {
            if (table[e + 1] == rank) {
                from[in] = table[e];
                from_weights[in++] = table[e + 2];
            }
            if (table[e] == rank) {
                to[out] = table[e + 1];
                to_weights[out++] = table[e + 2];
            }
        }
        code = PMPI_Dist_graph_create_adjacent(comm, in, from, weighted ? from_weights : MPI_UNWEIGHTED, out, to,
                                               weighted ? to_weights : MPI_UNWEIGHTED, info, reorder, newcomm);
    }
    free(own);
    free(table);
    free(mine);
    free(counts);
    return code;
}

/* Weak, so that a program may put a function of its own in its place and call PMPI_. */
__attribute__((weak)) int MPI_Dist_graph_create(MPI_Comm comm, int n, const int sources[], const int degrees[], const int destinations[],
                                                const int weights[], MPI_Info info, int reorder, MPI_Comm *newcomm) {
    return PMPI_Dist_graph_create(comm, n, sources, degrees, destinations, weights, info, reorder, newcomm);
}

/*
 * Calls with counts of 64 bits, made of those with 32. What does not fit becomes the least number, of which the agent says that it is too large.
 */
static int narrow(MPI_Count n) { return n > INT_MAX || n < -INT_MAX ? INT_MIN : (int)n; }

/* Each is weak, so that a program may put a function of its own in its place and call PMPI_. */
#define LARGE(name, parameters, call)                                      \
    int P##name parameters { return call; }                                \
    __attribute__((weak)) int name parameters { return call; }

LARGE(MPI_Send_c, (const void *buf, MPI_Count count, MPI_Datatype type, int dest, int tag, MPI_Comm comm), PMPI_Send(buf,
      narrow(count), type, dest, tag, comm))
LARGE(MPI_Isend_c, (const void *buf, MPI_Count count, MPI_Datatype type, int dest, int tag, MPI_Comm comm, MPI_Request
      *request), PMPI_Isend(buf, narrow(count), type, dest, tag, comm, request))
LARGE(MPI_Send_init_c, (const void *buf, MPI_Count count, MPI_Datatype type, int dest, int tag, MPI_Comm comm, MPI_Request
      *request), PMPI_Send_init(buf, narrow(count), type, dest, tag, comm, request))
LARGE(MPI_Ssend_c, (const void *buf, MPI_Count count, MPI_Datatype type, int dest, int tag, MPI_Comm comm), PMPI_Ssend(buf,
      narrow(count), type, dest, tag, comm))
LARGE(MPI_Issend_c, (const void *buf, MPI_Count count, MPI_Datatype type, int dest, int tag, MPI_Comm comm, MPI_Request
      *request), PMPI_Issend(buf, narrow(count), type, dest, tag, comm, request))
LARGE(MPI_Ssend_init_c, (const void *buf, MPI_Count count, MPI_Datatype type, int dest, int tag, MPI_Comm comm, MPI_Request
      *request), PMPI_Ssend_init(buf, narrow(count), type, dest, tag, comm, request))
LARGE(MPI_Bsend_c, (const void *buf, MPI_Count count, MPI_Datatype type, int dest, int tag, MPI_Comm comm), PMPI_Bsend(buf,
      narrow(count), type, dest, tag, comm))
LARGE(MPI_Ibsend_c, (const void *buf, MPI_Count count, MPI_Datatype type, int dest, int tag, MPI_Comm comm, MPI_Request
      *request), PMPI_Ibsend(buf, narrow(count), type, dest, tag, comm, request))
LARGE(MPI_Bsend_init_c, (const void *buf, MPI_Count count, MPI_Datatype type, int dest, int tag, MPI_Comm comm, MPI_Request
      *request), PMPI_Bsend_init(buf, narrow(count), type, dest, tag, comm, request))
LARGE(MPI_Rsend_c, (const void *buf, MPI_Count count, MPI_Datatype type, int dest, int tag, MPI_Comm comm), PMPI_Rsend(buf,
      narrow(count), type, dest, tag, comm))
LARGE(MPI_Irsend_c, (const void *buf, MPI_Count count, MPI_Datatype type, int dest, int tag, MPI_Comm comm, MPI_Request
      *request), PMPI_Irsend(buf, narrow(count), type, dest, tag, comm, request))
LARGE(MPI_Rsend_init_c, (const void *buf, MPI_Count count, MPI_Datatype type, int dest, int tag, MPI_Comm comm, MPI_Request
      *request), PMPI_Rsend_init(buf, narrow(count), type, dest, tag, comm, request))
LARGE(MPI_Recv_c, (void *buf, MPI_Count count, MPI_Datatype type, int source, int tag, MPI_Comm comm, MPI_Status *status),
      PMPI_Recv(buf, narrow(count), type, source, tag, comm, status))
LARGE(MPI_Irecv_c, (void *buf, MPI_Count count, MPI_Datatype type, int source, int tag, MPI_Comm comm, MPI_Request *request),
      PMPI_Irecv(buf, narrow(count), type, source, tag, comm, request))
LARGE(MPI_Recv_init_c, (void *buf, MPI_Count count, MPI_Datatype type, int source, int tag, MPI_Comm comm, MPI_Request
      *request), PMPI_Recv_init(buf, narrow(count), type, source, tag, comm, request))
LARGE(MPI_Sendrecv_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, int dest, int sendtag, void *recvbuf,
      MPI_Count recvcount, MPI_Datatype recvtype, int source, int recvtag, MPI_Comm comm, MPI_Status *status),
      PMPI_Sendrecv(sendbuf, narrow(sendcount), sendtype, dest, sendtag, recvbuf, narrow(recvcount), recvtype, source, recvtag,
      comm, status))
LARGE(MPI_Isendrecv_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, int dest, int sendtag, void *recvbuf,
      MPI_Count recvcount, MPI_Datatype recvtype, int source, int recvtag, MPI_Comm comm, MPI_Request *request),
      PMPI_Isendrecv(sendbuf, narrow(sendcount), sendtype, dest, sendtag, recvbuf, narrow(recvcount), recvtype, source,
      recvtag, comm, request))
LARGE(MPI_Sendrecv_replace_c, (void *buf, MPI_Count count, MPI_Datatype type, int dest, int sendtag, int source, int recvtag,
      MPI_Comm comm, MPI_Status *status), PMPI_Sendrecv_replace(buf, narrow(count), type, dest, sendtag, source, recvtag, comm,
      status))
LARGE(MPI_Isendrecv_replace_c, (void *buf, MPI_Count count, MPI_Datatype type, int dest, int sendtag, int source, int recvtag,
      MPI_Comm comm, MPI_Request *request), PMPI_Isendrecv_replace(buf, narrow(count), type, dest, sendtag, source, recvtag,
      comm, request))
LARGE(MPI_Mrecv_c, (void *buf, MPI_Count count, MPI_Datatype type, MPI_Message *message, MPI_Status *status), PMPI_Mrecv(buf,
      narrow(count), type, message, status))
LARGE(MPI_Imrecv_c, (void *buf, MPI_Count count, MPI_Datatype type, MPI_Message *message, MPI_Request *request),
      PMPI_Imrecv(buf, narrow(count), type, message, request))
LARGE(MPI_Bcast_c, (void *buf, MPI_Count count, MPI_Datatype type, int root, MPI_Comm comm), PMPI_Bcast(buf, narrow(count),
      type, root, comm))
LARGE(MPI_Ibcast_c, (void *buf, MPI_Count count, MPI_Datatype type, int root, MPI_Comm comm, MPI_Request *request),
      PMPI_Ibcast(buf, narrow(count), type, root, comm, request))
LARGE(MPI_Bcast_init_c, (void *buf, MPI_Count count, MPI_Datatype type, int root, MPI_Comm comm, MPI_Info info, MPI_Request
      *request), PMPI_Bcast_init(buf, narrow(count), type, root, comm, info, request))
LARGE(MPI_Reduce_c, (const void *sendbuf, void *recvbuf, MPI_Count count, MPI_Datatype type, MPI_Op op, int root, MPI_Comm
      comm), PMPI_Reduce(sendbuf, recvbuf, narrow(count), type, op, root, comm))
LARGE(MPI_Ireduce_c, (const void *sendbuf, void *recvbuf, MPI_Count count, MPI_Datatype type, MPI_Op op, int root, MPI_Comm
      comm, MPI_Request *request), PMPI_Ireduce(sendbuf, recvbuf, narrow(count), type, op, root, comm, request))
LARGE(MPI_Reduce_init_c, (const void *sendbuf, void *recvbuf, MPI_Count count, MPI_Datatype type, MPI_Op op, int root, MPI_Comm
      comm, MPI_Info info, MPI_Request *request), PMPI_Reduce_init(sendbuf, recvbuf, narrow(count), type, op, root, comm, info,
      request))
LARGE(MPI_Allreduce_c, (const void *sendbuf, void *recvbuf, MPI_Count count, MPI_Datatype type, MPI_Op op, MPI_Comm comm),
      PMPI_Allreduce(sendbuf, recvbuf, narrow(count), type, op, comm))
LARGE(MPI_Iallreduce_c, (const void *sendbuf, void *recvbuf, MPI_Count count, MPI_Datatype type, MPI_Op op, MPI_Comm comm,
      MPI_Request *request), PMPI_Iallreduce(sendbuf, recvbuf, narrow(count), type, op, comm, request))
LARGE(MPI_Allreduce_init_c, (const void *sendbuf, void *recvbuf, MPI_Count count, MPI_Datatype type, MPI_Op op, MPI_Comm comm,
      MPI_Info info, MPI_Request *request), PMPI_Allreduce_init(sendbuf, recvbuf, narrow(count), type, op, comm, info,
      request))
LARGE(MPI_Scan_c, (const void *sendbuf, void *recvbuf, MPI_Count count, MPI_Datatype type, MPI_Op op, MPI_Comm comm),
      PMPI_Scan(sendbuf, recvbuf, narrow(count), type, op, comm))
LARGE(MPI_Iscan_c, (const void *sendbuf, void *recvbuf, MPI_Count count, MPI_Datatype type, MPI_Op op, MPI_Comm comm,
      MPI_Request *request), PMPI_Iscan(sendbuf, recvbuf, narrow(count), type, op, comm, request))
LARGE(MPI_Scan_init_c, (const void *sendbuf, void *recvbuf, MPI_Count count, MPI_Datatype type, MPI_Op op, MPI_Comm comm,
      MPI_Info info, MPI_Request *request), PMPI_Scan_init(sendbuf, recvbuf, narrow(count), type, op, comm, info, request))
LARGE(MPI_Exscan_c, (const void *sendbuf, void *recvbuf, MPI_Count count, MPI_Datatype type, MPI_Op op, MPI_Comm comm),
      PMPI_Exscan(sendbuf, recvbuf, narrow(count), type, op, comm))
LARGE(MPI_Iexscan_c, (const void *sendbuf, void *recvbuf, MPI_Count count, MPI_Datatype type, MPI_Op op, MPI_Comm comm,
      MPI_Request *request), PMPI_Iexscan(sendbuf, recvbuf, narrow(count), type, op, comm, request))
LARGE(MPI_Exscan_init_c, (const void *sendbuf, void *recvbuf, MPI_Count count, MPI_Datatype type, MPI_Op op, MPI_Comm comm,
      MPI_Info info, MPI_Request *request), PMPI_Exscan_init(sendbuf, recvbuf, narrow(count), type, op, comm, info, request))
LARGE(MPI_Reduce_scatter_block_c, (const void *sendbuf, void *recvbuf, MPI_Count count, MPI_Datatype type, MPI_Op op, MPI_Comm
      comm), PMPI_Reduce_scatter_block(sendbuf, recvbuf, narrow(count), type, op, comm))
LARGE(MPI_Ireduce_scatter_block_c, (const void *sendbuf, void *recvbuf, MPI_Count count, MPI_Datatype type, MPI_Op op, MPI_Comm
      comm, MPI_Request *request), PMPI_Ireduce_scatter_block(sendbuf, recvbuf, narrow(count), type, op, comm, request))
LARGE(MPI_Reduce_scatter_block_init_c, (const void *sendbuf, void *recvbuf, MPI_Count count, MPI_Datatype type, MPI_Op op,
      MPI_Comm comm, MPI_Info info, MPI_Request *request), PMPI_Reduce_scatter_block_init(sendbuf, recvbuf, narrow(count),
      type, op, comm, info, request))
LARGE(MPI_Gather_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf, MPI_Count recvcount,
      MPI_Datatype recvtype, int root, MPI_Comm comm), PMPI_Gather(sendbuf, narrow(sendcount), sendtype, recvbuf,
      narrow(recvcount), recvtype, root, comm))
LARGE(MPI_Igather_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf, MPI_Count recvcount,
      MPI_Datatype recvtype, int root, MPI_Comm comm, MPI_Request *request), PMPI_Igather(sendbuf, narrow(sendcount), sendtype,
      recvbuf, narrow(recvcount), recvtype, root, comm, request))
LARGE(MPI_Gather_init_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf, MPI_Count recvcount,
      MPI_Datatype recvtype, int root, MPI_Comm comm, MPI_Info info, MPI_Request *request), PMPI_Gather_init(sendbuf,
      narrow(sendcount), sendtype, recvbuf, narrow(recvcount), recvtype, root, comm, info, request))
LARGE(MPI_Scatter_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf, MPI_Count recvcount,
      MPI_Datatype recvtype, int root, MPI_Comm comm), PMPI_Scatter(sendbuf, narrow(sendcount), sendtype, recvbuf,
      narrow(recvcount), recvtype, root, comm))
LARGE(MPI_Iscatter_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf, MPI_Count recvcount,
      MPI_Datatype recvtype, int root, MPI_Comm comm, MPI_Request *request), PMPI_Iscatter(sendbuf, narrow(sendcount),
      sendtype, recvbuf, narrow(recvcount), recvtype, root, comm, request))
LARGE(MPI_Scatter_init_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf, MPI_Count recvcount,
      MPI_Datatype recvtype, int root, MPI_Comm comm, MPI_Info info, MPI_Request *request), PMPI_Scatter_init(sendbuf,
      narrow(sendcount), sendtype, recvbuf, narrow(recvcount), recvtype, root, comm, info, request))
LARGE(MPI_Allgather_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf, MPI_Count recvcount,
      MPI_Datatype recvtype, MPI_Comm comm), PMPI_Allgather(sendbuf, narrow(sendcount), sendtype, recvbuf, narrow(recvcount),
      recvtype, comm))
LARGE(MPI_Iallgather_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf, MPI_Count recvcount,
      MPI_Datatype recvtype, MPI_Comm comm, MPI_Request *request), PMPI_Iallgather(sendbuf, narrow(sendcount), sendtype,
      recvbuf, narrow(recvcount), recvtype, comm, request))
LARGE(MPI_Allgather_init_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf, MPI_Count
      recvcount, MPI_Datatype recvtype, MPI_Comm comm, MPI_Info info, MPI_Request *request), PMPI_Allgather_init(sendbuf,
      narrow(sendcount), sendtype, recvbuf, narrow(recvcount), recvtype, comm, info, request))
LARGE(MPI_Alltoall_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf, MPI_Count recvcount,
      MPI_Datatype recvtype, MPI_Comm comm), PMPI_Alltoall(sendbuf, narrow(sendcount), sendtype, recvbuf, narrow(recvcount),
      recvtype, comm))
LARGE(MPI_Ialltoall_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf, MPI_Count recvcount,
      MPI_Datatype recvtype, MPI_Comm comm, MPI_Request *request), PMPI_Ialltoall(sendbuf, narrow(sendcount), sendtype,
      recvbuf, narrow(recvcount), recvtype, comm, request))
LARGE(MPI_Alltoall_init_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf, MPI_Count
      recvcount, MPI_Datatype recvtype, MPI_Comm comm, MPI_Info info, MPI_Request *request), PMPI_Alltoall_init(sendbuf,
      narrow(sendcount), sendtype, recvbuf, narrow(recvcount), recvtype, comm, info, request))
LARGE(MPI_Neighbor_allgather_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf, MPI_Count
      recvcount, MPI_Datatype recvtype, MPI_Comm comm), PMPI_Neighbor_allgather(sendbuf, narrow(sendcount), sendtype, recvbuf,
      narrow(recvcount), recvtype, comm))
LARGE(MPI_Ineighbor_allgather_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf, MPI_Count
      recvcount, MPI_Datatype recvtype, MPI_Comm comm, MPI_Request *request), PMPI_Ineighbor_allgather(sendbuf,
      narrow(sendcount), sendtype, recvbuf, narrow(recvcount), recvtype, comm, request))
LARGE(MPI_Neighbor_allgather_init_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf, MPI_Count
      recvcount, MPI_Datatype recvtype, MPI_Comm comm, MPI_Info info, MPI_Request *request),
      PMPI_Neighbor_allgather_init(sendbuf, narrow(sendcount), sendtype, recvbuf, narrow(recvcount), recvtype, comm, info,
      request))
LARGE(MPI_Neighbor_alltoall_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf, MPI_Count
      recvcount, MPI_Datatype recvtype, MPI_Comm comm), PMPI_Neighbor_alltoall(sendbuf, narrow(sendcount), sendtype, recvbuf,
      narrow(recvcount), recvtype, comm))
LARGE(MPI_Ineighbor_alltoall_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf, MPI_Count
      recvcount, MPI_Datatype recvtype, MPI_Comm comm, MPI_Request *request), PMPI_Ineighbor_alltoall(sendbuf,
      narrow(sendcount), sendtype, recvbuf, narrow(recvcount), recvtype, comm, request))
LARGE(MPI_Neighbor_alltoall_init_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf, MPI_Count
      recvcount, MPI_Datatype recvtype, MPI_Comm comm, MPI_Info info, MPI_Request *request),
      PMPI_Neighbor_alltoall_init(sendbuf, narrow(sendcount), sendtype, recvbuf, narrow(recvcount), recvtype, comm, info,
      request))
LARGE(MPI_Put_c, (const void *origin, MPI_Count origin_count, MPI_Datatype origin_type, int target, MPI_Aint target_disp,
      MPI_Count target_count, MPI_Datatype target_type, MPI_Win win), PMPI_Put(origin, narrow(origin_count), origin_type,
      target, target_disp, narrow(target_count), target_type, win))
LARGE(MPI_Rput_c, (const void *origin, MPI_Count origin_count, MPI_Datatype origin_type, int target, MPI_Aint target_disp,
      MPI_Count target_count, MPI_Datatype target_type, MPI_Win win, MPI_Request *request), PMPI_Rput(origin,
      narrow(origin_count), origin_type, target, target_disp, narrow(target_count), target_type, win, request))
LARGE(MPI_Get_c, (void *origin, MPI_Count origin_count, MPI_Datatype origin_type, int target, MPI_Aint target_disp, MPI_Count
      target_count, MPI_Datatype target_type, MPI_Win win), PMPI_Get(origin, narrow(origin_count), origin_type, target,
      target_disp, narrow(target_count), target_type, win))
LARGE(MPI_Rget_c, (void *origin, MPI_Count origin_count, MPI_Datatype origin_type, int target, MPI_Aint target_disp, MPI_Count
      target_count, MPI_Datatype target_type, MPI_Win win, MPI_Request *request), PMPI_Rget(origin, narrow(origin_count),
      origin_type, target, target_disp, narrow(target_count), target_type, win, request))
LARGE(MPI_Accumulate_c, (const void *origin, MPI_Count origin_count, MPI_Datatype origin_type, int target, MPI_Aint
      target_disp, MPI_Count target_count, MPI_Datatype target_type, MPI_Op op, MPI_Win win), PMPI_Accumulate(origin,
      narrow(origin_count), origin_type, target, target_disp, narrow(target_count), target_type, op, win))
LARGE(MPI_File_read_c, (MPI_File file, void *buf, MPI_Count count, MPI_Datatype type, MPI_Status *status), PMPI_File_read(file,
      buf, narrow(count), type, status))
LARGE(MPI_File_read_all_c, (MPI_File file, void *buf, MPI_Count count, MPI_Datatype type, MPI_Status *status),
      PMPI_File_read_all(file, buf, narrow(count), type, status))
LARGE(MPI_File_read_shared_c, (MPI_File file, void *buf, MPI_Count count, MPI_Datatype type, MPI_Status *status),
      PMPI_File_read_shared(file, buf, narrow(count), type, status))
LARGE(MPI_File_read_ordered_c, (MPI_File file, void *buf, MPI_Count count, MPI_Datatype type, MPI_Status *status),
      PMPI_File_read_ordered(file, buf, narrow(count), type, status))
LARGE(MPI_File_read_at_c, (MPI_File file, MPI_Offset offset, void *buf, MPI_Count count, MPI_Datatype type, MPI_Status
      *status), PMPI_File_read_at(file, offset, buf, narrow(count), type, status))
LARGE(MPI_File_iread_at_c, (MPI_File file, MPI_Offset offset, void *buf, MPI_Count count, MPI_Datatype type, MPI_Request
      *request), PMPI_File_iread_at(file, offset, buf, narrow(count), type, request))
LARGE(MPI_File_read_at_all_c, (MPI_File file, MPI_Offset offset, void *buf, MPI_Count count, MPI_Datatype type, MPI_Status
      *status), PMPI_File_read_at_all(file, offset, buf, narrow(count), type, status))
LARGE(MPI_File_iread_at_all_c, (MPI_File file, MPI_Offset offset, void *buf, MPI_Count count, MPI_Datatype type, MPI_Request
      *request), PMPI_File_iread_at_all(file, offset, buf, narrow(count), type, request))
LARGE(MPI_File_iread_c, (MPI_File file, void *buf, MPI_Count count, MPI_Datatype type, MPI_Request *request),
      PMPI_File_iread(file, buf, narrow(count), type, request))
LARGE(MPI_File_iread_all_c, (MPI_File file, void *buf, MPI_Count count, MPI_Datatype type, MPI_Request *request),
      PMPI_File_iread_all(file, buf, narrow(count), type, request))
LARGE(MPI_File_iread_shared_c, (MPI_File file, void *buf, MPI_Count count, MPI_Datatype type, MPI_Request *request),
      PMPI_File_iread_shared(file, buf, narrow(count), type, request))
LARGE(MPI_File_write_c, (MPI_File file, const void *buf, MPI_Count count, MPI_Datatype type, MPI_Status *status),
      PMPI_File_write(file, buf, narrow(count), type, status))
LARGE(MPI_File_write_all_c, (MPI_File file, const void *buf, MPI_Count count, MPI_Datatype type, MPI_Status *status),
      PMPI_File_write_all(file, buf, narrow(count), type, status))
LARGE(MPI_File_write_shared_c, (MPI_File file, const void *buf, MPI_Count count, MPI_Datatype type, MPI_Status *status),
      PMPI_File_write_shared(file, buf, narrow(count), type, status))
LARGE(MPI_File_write_ordered_c, (MPI_File file, const void *buf, MPI_Count count, MPI_Datatype type, MPI_Status *status),
      PMPI_File_write_ordered(file, buf, narrow(count), type, status))
LARGE(MPI_File_write_at_c, (MPI_File file, MPI_Offset offset, const void *buf, MPI_Count count, MPI_Datatype type, MPI_Status
      *status), PMPI_File_write_at(file, offset, buf, narrow(count), type, status))
LARGE(MPI_File_iwrite_at_c, (MPI_File file, MPI_Offset offset, const void *buf, MPI_Count count, MPI_Datatype type, MPI_Request
      *request), PMPI_File_iwrite_at(file, offset, buf, narrow(count), type, request))
LARGE(MPI_File_write_at_all_c, (MPI_File file, MPI_Offset offset, const void *buf, MPI_Count count, MPI_Datatype type,
      MPI_Status *status), PMPI_File_write_at_all(file, offset, buf, narrow(count), type, status))
LARGE(MPI_File_iwrite_at_all_c, (MPI_File file, MPI_Offset offset, const void *buf, MPI_Count count, MPI_Datatype type,
      MPI_Request *request), PMPI_File_iwrite_at_all(file, offset, buf, narrow(count), type, request))
LARGE(MPI_File_iwrite_c, (MPI_File file, const void *buf, MPI_Count count, MPI_Datatype type, MPI_Request *request),
      PMPI_File_iwrite(file, buf, narrow(count), type, request))
LARGE(MPI_File_iwrite_all_c, (MPI_File file, const void *buf, MPI_Count count, MPI_Datatype type, MPI_Request *request),
      PMPI_File_iwrite_all(file, buf, narrow(count), type, request))
LARGE(MPI_File_iwrite_shared_c, (MPI_File file, const void *buf, MPI_Count count, MPI_Datatype type, MPI_Request *request),
      PMPI_File_iwrite_shared(file, buf, narrow(count), type, request))
LARGE(MPI_Type_contiguous_c, (MPI_Count count, MPI_Datatype oldtype, MPI_Datatype *newtype),
      PMPI_Type_contiguous(narrow(count), oldtype, newtype))
LARGE(MPI_Type_vector_c, (MPI_Count count, MPI_Count blocklength, MPI_Count stride, MPI_Datatype oldtype, MPI_Datatype
      *newtype), PMPI_Type_vector(narrow(count), narrow(blocklength), narrow(stride), oldtype, newtype))
LARGE(MPI_Type_create_hvector_c, (MPI_Count count, MPI_Count blocklength, MPI_Count stride, MPI_Datatype oldtype, MPI_Datatype
      *newtype), PMPI_Type_create_hvector(narrow(count), narrow(blocklength), narrow(stride), oldtype, newtype))
LARGE(MPI_Type_create_resized_c, (MPI_Datatype oldtype, MPI_Count lb, MPI_Count extent, MPI_Datatype *newtype),
      PMPI_Type_create_resized(oldtype, narrow(lb), narrow(extent), newtype))
LARGE(MPI_Reduce_local_c, (const void *inbuf, void *inoutbuf, MPI_Count count, MPI_Datatype type, MPI_Op op),
      PMPI_Reduce_local(inbuf, inoutbuf, narrow(count), type, op))
LARGE(MPI_Type_size_c, (MPI_Datatype type, MPI_Count *size), PMPI_Type_size_x(type, size))
LARGE(MPI_Type_get_extent_c, (MPI_Datatype type, MPI_Count *lb, MPI_Count *extent), PMPI_Type_get_extent_x(type, lb, extent))
LARGE(MPI_Type_get_true_extent_c, (MPI_Datatype type, MPI_Count *lb, MPI_Count *extent), PMPI_Type_get_true_extent_x(type, lb,
      extent))
LARGE(MPI_Get_elements_c, (const MPI_Status *status, MPI_Datatype type, MPI_Count *count), PMPI_Get_elements_x(status, type,
      count))
LARGE(MPI_Status_set_elements_c, (MPI_Status *status, MPI_Datatype type, MPI_Count count), PMPI_Status_set_elements_x(status,
      type, count))

/* Where there is a result to narrow. */
int PMPI_Get_count_c(const MPI_Status *status, MPI_Datatype type, MPI_Count *count) {
    int n;
    const int code = PMPI_Get_count(status, type, &n);
    *count = n;
    return code;
}
__attribute__((weak)) int MPI_Get_count_c(const MPI_Status *status, MPI_Datatype type, MPI_Count *count) { return PMPI_Get_count_c(status, type, count); }
int PMPI_Pack_size_c(MPI_Count count, MPI_Datatype type, MPI_Comm comm, MPI_Count *size) {
    int n;
    const int code = PMPI_Pack_size(narrow(count), type, comm, &n);
    *size = n;
    return code;
}
__attribute__((weak)) int MPI_Pack_size_c(MPI_Count count, MPI_Datatype type, MPI_Comm comm, MPI_Count *size) { return PMPI_Pack_size_c(count, type, comm, size); }

/* The counts of a call with one for each rank that it hears of, or NULL. */
static int *narrowed(const MPI_Count *counts, MPI_Comm comm) {
    int inter = 0, n = 0;
    PMPI_Comm_test_inter(comm, &inter);
    if ((inter ? PMPI_Comm_remote_size(comm, &n) : PMPI_Comm_size(comm, &n)) != MPI_SUCCESS || counts == NULL)
        return NULL;
    int *narrow_counts = malloc((size_t)(n > 0 ? n : 1) * sizeof(int));
    for (int i = 0; narrow_counts != NULL && i < n; i++)
        narrow_counts[i] = narrow(counts[i]);
    return narrow_counts;
}

/* A call has read its counts when it returns, also one that goes on afterwards. */
#define LARGE_V(name, parameters, counts, call)                            \
    int P##name parameters {                                               \
        int *n = narrowed(counts, comm);                                   \
        const int code = call;                                             \
        free(n);                                                           \
        return code;                                                       \
    }                                                                      \
    __attribute__((weak)) int name parameters {                            \
        int *n = narrowed(counts, comm);                                   \
        const int code = call;                                             \
        free(n);                                                           \
        return code;                                                       \
    }

LARGE_V(MPI_Gatherv_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf, const MPI_Count
        recvcounts[], const MPI_Aint displs[], MPI_Datatype recvtype, int root, MPI_Comm comm), recvcounts,
        PMPI_Gatherv(sendbuf, narrow(sendcount), sendtype, recvbuf, n, (const int *)displs, recvtype, root, comm))
LARGE_V(MPI_Igatherv_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf, const MPI_Count
        recvcounts[], const MPI_Aint displs[], MPI_Datatype recvtype, int root, MPI_Comm comm, MPI_Request *request),
        recvcounts, PMPI_Igatherv(sendbuf, narrow(sendcount), sendtype, recvbuf, n, (const int *)displs, recvtype, root, comm,
        request))
LARGE_V(MPI_Scatterv_c, (const void *sendbuf, const MPI_Count sendcounts[], const MPI_Aint displs[], MPI_Datatype sendtype,
        void *recvbuf, MPI_Count recvcount, MPI_Datatype recvtype, int root, MPI_Comm comm), sendcounts, PMPI_Scatterv(sendbuf,
        n, (const int *)displs, sendtype, recvbuf, narrow(recvcount), recvtype, root, comm))
LARGE_V(MPI_Iscatterv_c, (const void *sendbuf, const MPI_Count sendcounts[], const MPI_Aint displs[], MPI_Datatype sendtype,
        void *recvbuf, MPI_Count recvcount, MPI_Datatype recvtype, int root, MPI_Comm comm, MPI_Request *request), sendcounts,
        PMPI_Iscatterv(sendbuf, n, (const int *)displs, sendtype, recvbuf, narrow(recvcount), recvtype, root, comm, request))
LARGE_V(MPI_Allgatherv_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf, const MPI_Count
        recvcounts[], const MPI_Aint displs[], MPI_Datatype recvtype, MPI_Comm comm), recvcounts, PMPI_Allgatherv(sendbuf,
        narrow(sendcount), sendtype, recvbuf, n, (const int *)displs, recvtype, comm))
LARGE_V(MPI_Iallgatherv_c, (const void *sendbuf, MPI_Count sendcount, MPI_Datatype sendtype, void *recvbuf, const MPI_Count
        recvcounts[], const MPI_Aint displs[], MPI_Datatype recvtype, MPI_Comm comm, MPI_Request *request), recvcounts,
        PMPI_Iallgatherv(sendbuf, narrow(sendcount), sendtype, recvbuf, n, (const int *)displs, recvtype, comm, request))
int PMPI_Alltoallv_c(const void *sendbuf, const MPI_Count sendcounts[], const MPI_Aint sdispls[], MPI_Datatype sendtype,
                    void *recvbuf, const MPI_Count recvcounts[], const MPI_Aint rdispls[], MPI_Datatype recvtype, MPI_Comm comm) {
    int *from = sendbuf == MPI_IN_PLACE ? NULL : narrowed(sendcounts, comm), *into = narrowed(recvcounts, comm);
    const int code = PMPI_Alltoallv(sendbuf, from, (const int *)sdispls, sendtype, recvbuf, into, (const int *)rdispls, recvtype, comm);
    free(from);
    free(into);
    return code;
}
__attribute__((weak)) int MPI_Alltoallv_c(const void *sendbuf, const MPI_Count sendcounts[], const MPI_Aint sdispls[], MPI_Datatype sendtype,
                    void *recvbuf, const MPI_Count recvcounts[], const MPI_Aint rdispls[], MPI_Datatype recvtype, MPI_Comm comm) {
    return PMPI_Alltoallv_c(sendbuf, sendcounts, sdispls, sendtype, recvbuf, recvcounts, rdispls, recvtype, comm);
}
int PMPI_Ialltoallv_c(const void *sendbuf, const MPI_Count sendcounts[], const MPI_Aint sdispls[], MPI_Datatype sendtype,
                    void *recvbuf, const MPI_Count recvcounts[], const MPI_Aint rdispls[], MPI_Datatype recvtype, MPI_Comm comm, MPI_Request *request) {
    int *from = sendbuf == MPI_IN_PLACE ? NULL : narrowed(sendcounts, comm), *into = narrowed(recvcounts, comm);
    const int code = PMPI_Ialltoallv(sendbuf, from, (const int *)sdispls, sendtype, recvbuf, into, (const int *)rdispls, recvtype, comm, request);
    free(from);
    free(into);
    return code;
}
__attribute__((weak)) int MPI_Ialltoallv_c(const void *sendbuf, const MPI_Count sendcounts[], const MPI_Aint sdispls[], MPI_Datatype sendtype,
                    void *recvbuf, const MPI_Count recvcounts[], const MPI_Aint rdispls[], MPI_Datatype recvtype, MPI_Comm comm, MPI_Request *request) {
    return PMPI_Ialltoallv_c(sendbuf, sendcounts, sdispls, sendtype, recvbuf, recvcounts, rdispls, recvtype, comm, request);
}
