/* Heat on a plate: Jacobi's method on blocks of rows, halo rows by Irecv and Isend, the residual by Allreduce with MAX. The
 * result doesn't depend on the number of ranks. Arguments: steps (1500), side of the plate (384). */
#include <inttypes.h>
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

static void halo(double *plate, int32_t rows, int32_t width, int rank, int ranks)
{
    MPI_Request requests[4];
    int above = rank > 0 ? rank - 1 : MPI_PROC_NULL, below = rank + 1 < ranks ? rank + 1 : MPI_PROC_NULL;
    MPI_Irecv(plate, width, MPI_DOUBLE, above, 0, MPI_COMM_WORLD, &requests[0]);
    MPI_Irecv(plate + (int64_t)(rows + 1) * width, width, MPI_DOUBLE, below, 1, MPI_COMM_WORLD, &requests[1]);
    MPI_Isend(plate + width, width, MPI_DOUBLE, above, 1, MPI_COMM_WORLD, &requests[2]);
    MPI_Isend(plate + (int64_t)rows * width, width, MPI_DOUBLE, below, 0, MPI_COMM_WORLD, &requests[3]);
    MPI_Waitall(4, requests, MPI_STATUSES_IGNORE);
}

static double step(const double *from, double *to, int32_t rows, int32_t width)
{
    double most = 0.0;
    for (int32_t row = 1; row <= rows; row++) {
        const double *line = from + (int64_t)row * width;
        for (int32_t column = 1; column < width - 1; column++) {
            double value = 0.25 * ((line[column - width] + line[column + width]) + (line[column - 1] + line[column + 1]));
            double change = fabs(value - line[column]);
            to[(int64_t)row * width + column] = value;
            if (change > most)
                most = change;
        }
    }
    return most;
}

int main(int argc, char **argv)
{
    int rank, ranks;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    int32_t steps = argc > 1 ? atoi(argv[1]) : 1500, side = argc > 2 ? atoi(argv[2]) : 384;
    int32_t first = (int32_t)((int64_t)side * rank / ranks), rows = (int32_t)((int64_t)side * (rank + 1) / ranks) - first;
    int64_t cells = (int64_t)(rows + 2) * side;
    double *plate = calloc((size_t)cells, sizeof *plate), *fresh = calloc((size_t)cells, sizeof *fresh);
    if (plate == NULL || fresh == NULL || rows < 1)
        MPI_Abort(MPI_COMM_WORLD, 1);
    /* The left edge is hot, and hotter below. */
    for (int32_t row = 0; row < rows + 2; row++)
        plate[(int64_t)row * side] = fresh[(int64_t)row * side] = 100.0 + (first + row);
    for (int32_t i = 1; i <= steps; i++) {
        double own, residual;
        halo(plate, rows, side, rank, ranks);
        own = step(plate, fresh, rows, side);
        double *swapped = plate;
        plate = fresh;
        fresh = swapped;
        MPI_Allreduce(&own, &residual, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
        if (rank == 0 && i % (steps / 5 > 0 ? steps / 5 : 1) == 0) {
            printf("step %" PRId32 " residual %.12g\n", i, residual);
            fflush(stdout);
        }
    }
    double sample = plate[side + side / 4];
    if (rank == 0)
        printf("sample %.12g\n", sample);
    free(plate);
    free(fresh);
    MPI_Finalize();
    return 0;
}
