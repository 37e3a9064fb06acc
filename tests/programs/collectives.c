/* Collectives that move data: Bcast, Gather(v), Scatter(v), Allgather(v), Alltoall(v), Reduce with each root, Scan, Exscan,
 * Reduce_scatter_block, Barrier, and MPI_IN_PLACE, with blocks of different lengths (one empty). Argument: repeats (300). */
#include <inttypes.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

enum { RANKS_MAX = 64, BLOCK_MAX = RANKS_MAX };

static int rank, ranks;
static int32_t own[RANKS_MAX * BLOCK_MAX], got[RANKS_MAX * BLOCK_MAX];
static int counts[RANKS_MAX], starts[RANKS_MAX], back_counts[RANKS_MAX], back_starts[RANKS_MAX];

static int32_t item(int from, int to, int i)
{
    return from * 10000 + to * 100 + i;
}

static void must(int ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "collectives: %s is wrong on rank %d\n", what, rank);
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
}

/* Blocks of 0, 1, 2 ... items, in order without gaps. */
static void growing(void)
{
    for (int r = 0, at = 0; r < ranks; at += r++) {
        counts[r] = r;
        starts[r] = at;
    }
}

static void check_rooted(int root)
{
    int32_t word = rank == root ? 4711 + root : 0;
    MPI_Bcast(&word, 1, MPI_INT32_T, root, MPI_COMM_WORLD);
    must(word == 4711 + root, "Bcast");
    word = item(rank, root, 0);
    MPI_Gather(&word, 1, MPI_INT32_T, got, 1, MPI_INT32_T, root, MPI_COMM_WORLD);
    for (int r = 0; r < ranks && rank == root; r++)
        must(got[r] == item(r, root, 0), "Gather");
    for (int r = 0; r < ranks; r++)
        own[r] = item(root, r, 0);
    MPI_Scatter(own, 1, MPI_INT32_T, &word, 1, MPI_INT32_T, root, MPI_COMM_WORLD);
    must(word == item(root, rank, 0), "Scatter");
    growing();
    for (int i = 0; i < rank; i++)
        own[i] = item(rank, root, i);
    MPI_Gatherv(own, rank, MPI_INT32_T, got, counts, starts, MPI_INT32_T, root, MPI_COMM_WORLD);
    for (int r = 0; r < ranks && rank == root; r++)
        for (int i = 0; i < r; i++)
            must(got[starts[r] + i] == item(r, root, i), "Gatherv");
    for (int r = 0; r < ranks; r++)
        for (int i = 0; i < r; i++)
            own[starts[r] + i] = item(root, r, i);
    MPI_Scatterv(own, counts, starts, MPI_INT32_T, got, rank, MPI_INT32_T, root, MPI_COMM_WORLD);
    for (int i = 0; i < rank; i++)
        must(got[i] == item(root, rank, i), "Scatterv");
    int64_t add = rank + 1, sum = 0;
    MPI_Reduce(&add, &sum, 1, MPI_INT64_T, MPI_SUM, root, MPI_COMM_WORLD);
    must(rank != root || sum == (int64_t)ranks * (ranks + 1) / 2, "Reduce");
    sum = add;
    MPI_Reduce(rank == root ? MPI_IN_PLACE : &sum, &sum, 1, MPI_INT64_T, MPI_SUM, root, MPI_COMM_WORLD);
    must(rank != root || sum == (int64_t)ranks * (ranks + 1) / 2, "Reduce in place");
}

static void check_all(void)
{
    own[0] = item(rank, 0, 0);
    MPI_Allgather(own, 1, MPI_INT32_T, got, 1, MPI_INT32_T, MPI_COMM_WORLD);
    for (int r = 0; r < ranks; r++)
        must(got[r] == item(r, 0, 0), "Allgather");
    growing();
    for (int i = 0; i < rank; i++)
        got[starts[rank] + i] = item(rank, 0, i);
    MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_INT32_T, got, counts, starts, MPI_INT32_T, MPI_COMM_WORLD);
    for (int r = 0; r < ranks; r++)
        for (int i = 0; i < r; i++)
            must(got[starts[r] + i] == item(r, 0, i), "Allgatherv");
    for (int r = 0; r < ranks; r++)
        own[r] = item(rank, r, 0);
    MPI_Alltoall(own, 1, MPI_INT32_T, got, 1, MPI_INT32_T, MPI_COMM_WORLD);
    for (int r = 0; r < ranks; r++)
        must(got[r] == item(r, rank, 0), "Alltoall");
    /* (from + to) mod ranks items go from one to the other; the blocks lie BLOCK_MAX apart. */
    for (int r = 0; r < ranks; r++) {
        counts[r] = back_counts[r] = (rank + r) % ranks;
        starts[r] = back_starts[r] = r * BLOCK_MAX;
        for (int i = 0; i < counts[r]; i++)
            own[starts[r] + i] = item(rank, r, i);
    }
    MPI_Alltoallv(own, counts, starts, MPI_INT32_T, got, back_counts, back_starts, MPI_INT32_T, MPI_COMM_WORLD);
    for (int r = 0; r < ranks; r++)
        for (int i = 0; i < back_counts[r]; i++)
            must(got[back_starts[r] + i] == item(r, rank, i), "Alltoallv");
}

static void check_prefixes(void)
{
    int64_t add = rank + 1, sum = 0, part = 0, each[RANKS_MAX];
    MPI_Scan(&add, &sum, 1, MPI_INT64_T, MPI_SUM, MPI_COMM_WORLD);
    must(sum == (int64_t)(rank + 1) * (rank + 2) / 2, "Scan");
    MPI_Exscan(&add, &part, 1, MPI_INT64_T, MPI_SUM, MPI_COMM_WORLD);
    must(rank == 0 || part == sum - add, "Exscan");
    for (int r = 0; r < ranks; r++)
        each[r] = add * (r + 1);
    MPI_Reduce_scatter_block(each, &part, 1, MPI_INT64_T, MPI_SUM, MPI_COMM_WORLD);
    must(part == (int64_t)ranks * (ranks + 1) / 2 * (rank + 1), "Reduce_scatter_block");
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    int32_t repeats = argc > 1 ? atoi(argv[1]) : 300;
    must(ranks <= RANKS_MAX, "the number of ranks (64 at most)");
    for (int32_t i = 0; i < repeats; i++) {
        for (int root = 0; root < ranks; root++)
            check_rooted(root);
        check_all();
        check_prefixes();
        MPI_Barrier(MPI_COMM_WORLD);
    }
    if (rank == 0)
        printf("repeats %" PRId32 " ok\n", repeats);
    MPI_Finalize();
    return 0;
}
