/* Game of life on a torus in blocks of rows: halo rows by Sendrecv, the population by Reduce. Doesn't depend on the number of
 * ranks. Arguments: generations (400), side (512). */
#include <inttypes.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void halo(uint8_t *world, int32_t rows, int32_t side, int rank, int ranks)
{
    int above = (rank + ranks - 1) % ranks, below = (rank + 1) % ranks;
    MPI_Sendrecv(world + side, side, MPI_UINT8_T, above, 0, world + (int64_t)(rows + 1) * side, side, MPI_UINT8_T, below, 0,
                 MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    MPI_Sendrecv(world + (int64_t)rows * side, side, MPI_UINT8_T, below, 1, world, side, MPI_UINT8_T, above, 1, MPI_COMM_WORLD,
                 MPI_STATUS_IGNORE);
}

static int32_t neighbours(const uint8_t *line, int32_t side, int32_t left, int32_t column, int32_t right)
{
    const uint8_t *above = line - side, *below = line + side;
    return above[left] + above[column] + above[right] + line[left] + line[right] + below[left] + below[column] + below[right];
}

static void generation(const uint8_t *from, uint8_t *to, int32_t rows, int32_t side)
{
    for (int32_t row = 1; row <= rows; row++) {
        const uint8_t *line = from + (int64_t)row * side;
        for (int32_t column = 0; column < side; column++) {
            int32_t left = column > 0 ? column - 1 : side - 1, right = column + 1 < side ? column + 1 : 0;
            int32_t alive = neighbours(line, side, left, column, right);
            to[(int64_t)row * side + column] = alive == 3 || (alive == 2 && line[column]);
        }
    }
}

/* Population, and a sum that knows where the living are. */
static void census(const uint8_t *world, int32_t first, int32_t rows, int32_t side, uint64_t sums[2])
{
    sums[0] = sums[1] = 0;
    for (int64_t i = 0; i < (int64_t)rows * side; i++) {
        uint64_t place = (uint64_t)((int64_t)first * side + i);
        sums[0] += world[i + side];
        sums[1] += world[i + side] ? place * 0x9e3779b97f4a7c15u : 0;
    }
}

int main(int argc, char **argv)
{
    int rank, ranks;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    int32_t generations = argc > 1 ? atoi(argv[1]) : 400, side = argc > 2 ? atoi(argv[2]) : 512;
    int32_t first = (int32_t)((int64_t)side * rank / ranks), rows = (int32_t)((int64_t)side * (rank + 1) / ranks) - first;
    uint8_t *world = calloc((size_t)(rows + 2) * (size_t)side, 1), *fresh = calloc((size_t)(rows + 2) * (size_t)side, 1);
    if (world == NULL || fresh == NULL || rows < 1)
        MPI_Abort(MPI_COMM_WORLD, 1);
    for (int64_t i = 0; i < (int64_t)rows * side; i++) {
        uint32_t x = (uint32_t)((int64_t)first * side + i) * 2654435761u;
        world[i + side] = ((x ^ (x >> 15)) * 2246822519u >> 28) < 5;
    }
    for (int32_t i = 1; i <= generations; i++) {
        halo(world, rows, side, rank, ranks);
        generation(world, fresh, rows, side);
        uint8_t *swapped = world;
        world = fresh;
        fresh = swapped;
        if (i % (generations / 5 > 0 ? generations / 5 : 1) == 0) {
            uint64_t own[2], all[2];
            census(world, first, rows, side, own);
            MPI_Reduce(own, all, 2, MPI_UINT64_T, MPI_SUM, 0, MPI_COMM_WORLD);
            if (rank == 0) {
                printf("generation %" PRId32 " alive %" PRIu64 " places %016" PRIx64 "\n", i, all[0], all[1]);
                fflush(stdout);
            }
        }
    }
    free(world);
    free(fresh);
    MPI_Finalize();
    return 0;
}
