/* Mandelbrot: rows dealt out in turn, so ranks have unequal work; each row's checksum goes to rank 0 by an own message, received
 * in row order. Branchy floating-point loops. Arguments: side (400), iterations at most (500). */
#include <inttypes.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

static int32_t escape(double re, double im, int32_t most)
{
    double x = 0.0, y = 0.0;
    for (int32_t i = 0; i < most; i++) {
        double xx = x * x, yy = y * y;
        if (xx + yy > 4.0)
            return i;
        y = 2.0 * (x * y) + im;
        x = (xx - yy) + re;
    }
    return most;
}

static uint64_t row_sum(int32_t row, int32_t side, int32_t most)
{
    uint64_t sum = 0;
    double im = ((double)row + 0.5) / side * 2.5 - 1.25;
    for (int32_t column = 0; column < side; column++) {
        double re = ((double)column + 0.5) / side * 3.0 - 2.25;
        sum = sum * 131 + (uint64_t)escape(re, im, most);
    }
    return sum;
}

int main(int argc, char **argv)
{
    int rank, ranks;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    int32_t side = argc > 1 ? atoi(argv[1]) : 400, most = argc > 2 ? atoi(argv[2]) : 500;
    uint64_t all = 0;
    for (int32_t row = 0; row < side; row++) {
        int owner = row % ranks;
        uint64_t sum = 0;
        if (owner == rank) {
            sum = row_sum(row, side, most);
            if (rank != 0)
                MPI_Send(&sum, 1, MPI_UINT64_T, 0, row, MPI_COMM_WORLD);
        }
        if (rank != 0)
            continue;
        if (owner != 0)
            MPI_Recv(&sum, 1, MPI_UINT64_T, owner, row, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        all = all * 1099511628211u + sum;
        if ((row + 1) % (side / 4 > 0 ? side / 4 : 1) == 0) {
            printf("row %" PRId32 " checksum %016" PRIx64 "\n", row + 1, all);
            fflush(stdout);
        }
    }
    MPI_Finalize();
    return 0;
}
