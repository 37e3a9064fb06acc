/* A Jacobi iteration on a grid that four ranks or so share by rows: 16 MB each, and a row to each neighbour in every step. So many steps (the argument); at the end the time
   that they took, in seconds. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

#define COLUMNS 1024
#define ROWS 1024

int main(int argc, char **argv)
{
    static double grid[2][ROWS + 2][COLUMNS];
    int me, ranks, steps = argc > 1 ? atoi(argv[1]) : 1000;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &me);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    int up = me > 0 ? me - 1 : MPI_PROC_NULL, down = me + 1 < ranks ? me + 1 : MPI_PROC_NULL;
    for (int j = 0; me == 0 && j < COLUMNS; j++)
        grid[0][0][j] = grid[1][0][j] = 1.0;
    MPI_Barrier(MPI_COMM_WORLD);
    if (me == 0) {
        puts("ready");
        fflush(stdout);
    }
    double start = MPI_Wtime();
    for (int step = 0; step < steps; step++) {
        double (*from)[COLUMNS] = grid[step % 2], (*to)[COLUMNS] = grid[1 - step % 2];
        MPI_Sendrecv(from[1], COLUMNS, MPI_DOUBLE, up, 0, from[ROWS + 1], COLUMNS, MPI_DOUBLE, down, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        MPI_Sendrecv(from[ROWS], COLUMNS, MPI_DOUBLE, down, 1, from[0], COLUMNS, MPI_DOUBLE, up, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        /* The outermost rows are as they were: nobody sends any. */
        for (int j = 0; me == 0 && j < COLUMNS; j++)
            from[0][j] = 1.0;
        for (int i = 1; i <= ROWS; i++)
            for (int j = 1; j < COLUMNS - 1; j++)
                to[i][j] = 0.25 * (from[i - 1][j] + from[i + 1][j] + from[i][j - 1] + from[i][j + 1]);
    }
    double sum = 0, all, took = MPI_Wtime() - start;
    for (int i = 1; i <= ROWS; i++)
        for (int j = 0; j < COLUMNS; j++)
            sum += grid[steps % 2][i][j];
    MPI_Reduce(&sum, &all, 1, MPI_DOUBLE, MPI_SUM, 0, MPI_COMM_WORLD);
    if (me == 0)
        printf("%.6f seconds, sum %.17g\n", took, all);
    MPI_Finalize();
    return 0;
}
