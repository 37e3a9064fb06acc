/* Parallel sample sort of int32: sort locally, choose splitters from everyone's samples, exchange with Alltoallv, sort again,
 * check the order across ranks. Argument: numbers over all ranks (2000000). */
#include <inttypes.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

static int compare(const void *left, const void *right)
{
    int32_t a = *(const int32_t *)left, b = *(const int32_t *)right;
    return (a > b) - (a < b);
}

static void *need(int64_t count, int64_t size)
{
    void *memory = calloc(count > 0 ? (size_t)count : 1, (size_t)size);
    if (memory == NULL)
        MPI_Abort(MPI_COMM_WORLD, 1);
    return memory;
}

/* The number at place i of the whole input, whoever holds it. */
static int32_t number(int64_t i)
{
    uint64_t x = (uint64_t)i * 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 31)) * 0xbf58476d1ce4e5b9u;
    return (int32_t)(uint32_t)(x >> 32);
}

/* ranks - 1 splitters, the same on all ranks. */
static void splitters_choose(const int32_t *sorted, int32_t count, int ranks, int32_t *splitters)
{
    int32_t *own = need(ranks, 4), *all = need((int64_t)ranks * ranks, 4);
    for (int i = 0; i < ranks; i++)
        own[i] = count > 0 ? sorted[(int64_t)count * i / ranks] : 0;
    MPI_Allgather(own, ranks, MPI_INT32_T, all, ranks, MPI_INT32_T, MPI_COMM_WORLD);
    qsort(all, (size_t)ranks * (size_t)ranks, 4, compare);
    for (int i = 1; i < ranks; i++)
        splitters[i - 1] = all[(int64_t)i * ranks];
    free(own);
    free(all);
}

int main(int argc, char **argv)
{
    int rank, ranks;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    int64_t all = argc > 1 ? atoi(argv[1]) : 2000000, first = all * rank / ranks;
    int32_t count = (int32_t)(all * (rank + 1) / ranks - first), got = 0;
    int32_t *numbers = need(count, 4), *splitters = need(ranks, 4);
    int *counts = need(ranks, sizeof(int)), *starts = need(ranks, sizeof(int));
    int *in_counts = need(ranks, sizeof(int)), *in_starts = need(ranks, sizeof(int));
    for (int32_t i = 0; i < count; i++)
        numbers[i] = number(first + i);
    qsort(numbers, (size_t)count, 4, compare);
    splitters_choose(numbers, count, ranks, splitters);
    for (int32_t i = 0, to = 0; i < count; i++) {
        while (to < ranks - 1 && numbers[i] >= splitters[to])
            to++;
        counts[to]++;
    }
    MPI_Alltoall(counts, 1, MPI_INT, in_counts, 1, MPI_INT, MPI_COMM_WORLD);
    for (int r = 0, at = 0; r < ranks; at += counts[r], got += in_counts[r], r++) {
        starts[r] = at;
        in_starts[r] = got;
    }
    int32_t *sorted = need(got, 4);
    MPI_Alltoallv(numbers, counts, starts, MPI_INT32_T, sorted, in_counts, in_starts, MPI_INT32_T, MPI_COMM_WORLD);
    qsort(sorted, (size_t)got, 4, compare);

    /* Weighted by the place in the whole order, so that a swap would show. */
    int64_t own = got, before = 0;
    MPI_Exscan(&own, &before, 1, MPI_INT64_T, MPI_SUM, MPI_COMM_WORLD);
    if (rank == 0)
        before = 0;
    uint64_t sums[2] = {0, 0}, totals[2];
    for (int32_t i = 0; i < got; i++) {
        sums[0] += (uint64_t)(before + i + 1) * (uint32_t)sorted[i];
        sums[1] += i > 0 && sorted[i - 1] > sorted[i];
    }
    int32_t edge[2] = {got > 0 ? sorted[0] : 0, got > 0 ? sorted[got - 1] : 0}, left = INT32_MIN;
    MPI_Sendrecv(&edge[1], 1, MPI_INT32_T, rank + 1 < ranks ? rank + 1 : MPI_PROC_NULL, 0, &left, 1, MPI_INT32_T,
                 rank > 0 ? rank - 1 : MPI_PROC_NULL, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    sums[1] += got > 0 && left > edge[0];
    MPI_Reduce(sums, totals, 2, MPI_UINT64_T, MPI_SUM, 0, MPI_COMM_WORLD);
    if (rank == 0)
        printf("numbers %" PRId64 " disorder %" PRIu64 " checksum %" PRIu64 "\n", all, totals[1], totals[0]);
    free(numbers);
    free(splitters);
    free(counts);
    free(starts);
    free(in_counts);
    free(in_starts);
    free(sorted);
    MPI_Finalize();
    return 0;
}
