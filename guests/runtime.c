/*
 * The part of CloudSkin that is linked into each cell: a piece of memory whose address the agent must know (the
 * linker exports it as an immutable global), where relative paths begin, and calls of MPI that are made of other calls.
 *
 * No poll is written in C: it would keep LLVM from vectorising the loop. The polls are put into the linked module
 * (`cells::toolchain::instrument`).
 */

#include "mpi.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* Where the call stack is kept while a cell is stopped. */
__attribute__((used, aligned(64))) unsigned char __cloudskin_unwind[8 * 1024 * 1024];

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
