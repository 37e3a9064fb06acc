/* Matrix product by block rows: A is scattered, blocks of B travel round the ring of ranks, C is gathered. Whole numbers in
 * doubles, so the checksum is exact. Arguments: side (576), repeats (1). */
#include <inttypes.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

static int32_t begin(int32_t side, int ranks, int rank)
{
    return (int32_t)((int64_t)side * rank / ranks);
}

static void multiply(const double *a, const double *b, double *c, int32_t rows, int32_t side, int32_t first, int32_t count)
{
    for (int32_t i = 0; i < rows; i++) {
        for (int32_t k = 0; k < count; k++) {
            double factor = a[(int64_t)i * side + first + k];
            for (int32_t j = 0; j < side; j++)
                c[(int64_t)i * side + j] += factor * b[(int64_t)k * side + j];
        }
    }
}

static void *need(int64_t count)
{
    void *memory = calloc((size_t)count, sizeof(double));
    if (memory == NULL)
        MPI_Abort(MPI_COMM_WORLD, 1);
    return memory;
}

static uint64_t checksum(const double *c, int64_t cells)
{
    uint64_t sum = 0;
    for (int64_t i = 0; i < cells; i++)
        sum = sum * 31 + (uint64_t)(int64_t)c[i];
    return sum;
}

int main(int argc, char **argv)
{
    int rank, ranks;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    int32_t side = argc > 1 ? atoi(argv[1]) : 576, repeats = argc > 2 ? atoi(argv[2]) : 1;
    int32_t own = begin(side, ranks, rank), rows = begin(side, ranks, rank + 1) - own, rows_max = side / ranks + 1;
    int64_t all = (int64_t)side * side;
    double *whole = need(rank == 0 ? all : 1), *a = need((int64_t)rows_max * side), *b = need((int64_t)rows_max * side);
    double *c = need((int64_t)rows_max * side);
    int *counts = need(ranks), *starts = need(ranks);
    for (int r = 0; r < ranks; r++) {
        starts[r] = begin(side, ranks, r) * side;
        counts[r] = begin(side, ranks, r + 1) * side - starts[r];
    }
    for (int64_t i = 0; i < all && rank == 0; i++)
        whole[i] = (double)((i * 7 + i / side * 3) % 19 - 9);
    for (int32_t repeat = 0; repeat < repeats; repeat++) {
        MPI_Scatterv(whole, counts, starts, MPI_DOUBLE, a, counts[rank], MPI_DOUBLE, 0, MPI_COMM_WORLD);
        for (int64_t i = 0; i < (int64_t)rows_max * side; i++) {
            b[i] = (double)(((int64_t)own * side + i) * 5 % 17 - 8);
            c[i] = 0.0;
        }
        for (int turn = 0; turn < ranks; turn++) {
            int owner = (rank + turn) % ranks;
            multiply(a, b, c, rows, side, begin(side, ranks, owner), counts[owner] / side);
            MPI_Sendrecv_replace(b, rows_max * side, MPI_DOUBLE, (rank + ranks - 1) % ranks, turn, (rank + 1) % ranks, turn,
                                 MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        }
        MPI_Gatherv(c, counts[rank], MPI_DOUBLE, whole, counts, starts, MPI_DOUBLE, 0, MPI_COMM_WORLD);
        if (rank == 0)
            printf("product %" PRId32 " checksum %" PRIu64 "\n", repeat, checksum(whole, all));
        /* The next product takes this one's numbers, kept small. */
        for (int64_t i = 0; i < all && rank == 0; i++)
            whole[i] = (double)((int64_t)whole[i] % 13);
    }
    free(whole);
    free(a);
    free(b);
    free(c);
    free(counts);
    free(starts);
    MPI_Finalize();
    return 0;
}
