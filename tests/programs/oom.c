/* Out of memory: each rank takes blocks of 1 MiB and writes into every page until malloc answers NULL, gives all back, and rank 0
 * prints who got how many. Ends with 3 when memory ran out on every rank, with 4 when a rank reached the ceiling first.
 * Argument: the ceiling in MiB per rank (4096). Run it natively only under `ulimit -v`: Linux promises more than it has. */
#include <inttypes.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

enum { BLOCK_BYTES = 1 << 20, PAGE_BYTES = 4096 };

/* A block's first bytes point to the block before it. */
struct block {
    struct block *previous;
};

static struct block *take(struct block *previous)
{
    struct block *block = malloc(BLOCK_BYTES);
    if (block == NULL)
        return NULL;
    volatile uint8_t *bytes = (volatile uint8_t *)block;
    for (int32_t at = 0; at < BLOCK_BYTES; at += PAGE_BYTES)
        bytes[at] = (uint8_t)(at / PAGE_BYTES);
    block->previous = previous;
    return block;
}

int main(int argc, char **argv)
{
    int rank, ranks;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    int32_t ceiling = argc > 1 ? atoi(argv[1]) : 4096, taken = 0, least = 0;
    int32_t *all = calloc((size_t)ranks, sizeof *all);
    struct block *last = NULL;
    if (all == NULL)
        MPI_Abort(MPI_COMM_WORLD, 1);
    while (taken < ceiling) {
        struct block *block = take(last);
        if (block == NULL)
            break;
        last = block;
        taken++;
    }
    while (last != NULL) {
        struct block *previous = last->previous;
        free(last);
        last = previous;
    }
    int32_t code = taken < ceiling ? 3 : 4;
    MPI_Gather(&taken, 1, MPI_INT32_T, all, 1, MPI_INT32_T, 0, MPI_COMM_WORLD);
    MPI_Allreduce(&code, &least, 1, MPI_INT32_T, MPI_MAX, MPI_COMM_WORLD);
    for (int r = 0; r < ranks && rank == 0; r++)
        printf("rank %d: %s after %" PRId32 " MiB\n", r, all[r] < ceiling ? "malloc answered NULL" : "the ceiling", all[r]);
    free(all);
    MPI_Finalize();
    return least;
}
