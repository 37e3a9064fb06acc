/* Long loop: seconds of work in nested loops without a single MPI call, so only a poll in a loop header can stop it. A 64 MB grid;
 * each "second" sweeps one band of 410 of its 4096 rows again and again, so a tenth of the memory is written per second and the
 * rest stays clean. Argument: seconds of work (1; a second of one core of a small server, natively). */
#include <inttypes.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

enum { SIDE = 4096, BAND_ROWS = 410, SWEEPS = 450 };

/* In place: each cell sees its already renewed left and upper neighbours. */
static void sweep(uint32_t *grid, int32_t first, int32_t end, uint32_t turn)
{
    for (int32_t row = first; row < end; row++) {
        uint32_t *line = grid + (int64_t)row * SIDE;
        const uint32_t *above = grid + (int64_t)((row + SIDE - 1) % SIDE) * SIDE;
        const uint32_t *below = grid + (int64_t)((row + 1) % SIDE) * SIDE;
        for (int32_t column = 1; column < SIDE - 1; column++) {
            uint32_t around = (line[column - 1] >> 2) + (line[column + 1] >> 2) + (above[column] >> 2) + (below[column] >> 2);
            line[column] = around + (line[column] >> 5) + turn;
        }
    }
}

static void work(uint32_t *grid, int32_t seconds)
{
    for (int32_t second = 0; second < seconds; second++) {
        int32_t first = (int32_t)((int64_t)second * BAND_ROWS % SIDE);
        int32_t end = first + BAND_ROWS < SIDE ? first + BAND_ROWS : SIDE;
        for (int32_t i = 0; i < SWEEPS; i++)
            sweep(grid, first, end, (uint32_t)(second * SWEEPS + i));
    }
}

static uint32_t checksum(const uint32_t *grid)
{
    uint32_t sum = 2166136261u;
    for (int64_t i = 0; i < (int64_t)SIDE * SIDE; i++)
        sum = (sum ^ grid[i]) * 16777619u;
    return sum;
}

int main(int argc, char **argv)
{
    int rank, ranks;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    int32_t seconds = argc > 1 ? atoi(argv[1]) : 1;
    uint32_t *grid = malloc((size_t)SIDE * SIDE * sizeof *grid), *sums = calloc((size_t)ranks, sizeof *sums);
    if (grid == NULL || sums == NULL)
        MPI_Abort(MPI_COMM_WORLD, 1);
    uint32_t x = (uint32_t)rank + 1;
    for (int64_t i = 0; i < (int64_t)SIDE * SIDE; i++) {
        x = x * 1664525u + 1013904223u;
        grid[i] = x;
    }
    work(grid, seconds);
    uint32_t own = checksum(grid);
    MPI_Gather(&own, 1, MPI_UINT32_T, sums, 1, MPI_UINT32_T, 0, MPI_COMM_WORLD);
    for (int r = 0; r < ranks && rank == 0; r++)
        printf("rank %d checksum %08" PRIx32 "\n", r, sums[r]);
    free(grid);
    free(sums);
    MPI_Finalize();
    return 0;
}
