/* Conjugate gradient for the five-point Laplacian. Each row of the grid gives a partial dot product; all of them are gathered
 * and added in row order, so the result doesn't depend on the number of ranks. Arguments: steps (400), side (256). */
#include <inttypes.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

static int rank, ranks;
static int32_t side, rows;
static int *counts, *starts;
static double *row_dots, *all_dots;

static double *need(int64_t count)
{
    double *memory = calloc((size_t)count, sizeof *memory);
    if (memory == NULL)
        MPI_Abort(MPI_COMM_WORLD, 1);
    return memory;
}

/* Vectors have one halo row on each side. */
static double dot(const double *x, const double *y)
{
    double sum = 0.0;
    for (int32_t row = 0; row < rows; row++) {
        double part = 0.0;
        for (int32_t column = 0; column < side; column++)
            part += x[(int64_t)(row + 1) * side + column] * y[(int64_t)(row + 1) * side + column];
        row_dots[row] = part;
    }
    MPI_Allgatherv(row_dots, rows, MPI_DOUBLE, all_dots, counts, starts, MPI_DOUBLE, MPI_COMM_WORLD);
    for (int32_t row = 0; row < side; row++)
        sum += all_dots[row];
    return sum;
}

static void laplacian(double *x, double *y)
{
    int above = rank > 0 ? rank - 1 : MPI_PROC_NULL, below = rank + 1 < ranks ? rank + 1 : MPI_PROC_NULL;
    MPI_Sendrecv(x + side, side, MPI_DOUBLE, above, 0, x + (int64_t)(rows + 1) * side, side, MPI_DOUBLE, below, 0, MPI_COMM_WORLD,
                 MPI_STATUS_IGNORE);
    MPI_Sendrecv(x + (int64_t)rows * side, side, MPI_DOUBLE, below, 1, x, side, MPI_DOUBLE, above, 1, MPI_COMM_WORLD,
                 MPI_STATUS_IGNORE);
    for (int32_t row = 1; row <= rows; row++) {
        const double *line = x + (int64_t)row * side;
        for (int32_t column = 0; column < side; column++) {
            double around = line[column - side] + line[column + side];
            around += column > 0 ? line[column - 1] : 0.0;
            around += column + 1 < side ? line[column + 1] : 0.0;
            y[(int64_t)row * side + column] = 4.0 * line[column] - around;
        }
    }
}

/* target = x + factor * y */
static void combine(double *target, const double *x, double factor, const double *y)
{
    for (int64_t i = side; i < (int64_t)(rows + 1) * side; i++)
        target[i] = x[i] + factor * y[i];
}

static void solve(int32_t steps, double *solution, double *residual, double *direction, double *image)
{
    double norm = dot(residual, residual);
    for (int32_t step = 1; step <= steps; step++) {
        laplacian(direction, image);
        double length = norm / dot(direction, image);
        combine(solution, solution, length, direction);
        combine(residual, residual, -length, image);
        double fresh = dot(residual, residual);
        combine(direction, residual, fresh / norm, direction);
        norm = fresh;
        if (rank == 0 && step % (steps / 5 > 0 ? steps / 5 : 1) == 0) {
            printf("step %" PRId32 " residual %.9e\n", step, norm);
            fflush(stdout);
        }
    }
    norm = dot(solution, solution);
    if (rank == 0)
        printf("solution %.9e\n", norm);
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    int32_t steps = argc > 1 ? atoi(argv[1]) : 400;
    side = argc > 2 ? atoi(argv[2]) : 256;
    counts = calloc((size_t)ranks, sizeof *counts);
    starts = calloc((size_t)ranks, sizeof *starts);
    if (counts == NULL || starts == NULL || side < ranks)
        MPI_Abort(MPI_COMM_WORLD, 1);
    for (int r = 0; r < ranks; r++) {
        starts[r] = (int)((int64_t)side * r / ranks);
        counts[r] = (int)((int64_t)side * (r + 1) / ranks) - starts[r];
    }
    rows = counts[rank];
    int64_t cells = (int64_t)(rows + 2) * side;
    double *solution = need(cells), *residual = need(cells), *direction = need(cells), *image = need(cells);
    row_dots = need(rows);
    all_dots = need(side);
    for (int64_t i = 0; i < (int64_t)rows * side; i++)
        residual[i + side] = direction[i + side] = (double)(((int64_t)starts[rank] * side + i) * 37 % 101 - 50) / 64.0;
    solve(steps, solution, residual, direction, image);
    free(solution);
    free(residual);
    free(direction);
    free(image);
    free(row_dots);
    free(all_dots);
    free(counts);
    free(starts);
    MPI_Finalize();
    return 0;
}
