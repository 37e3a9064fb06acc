/* A sum of one double over all ranks, which each of them gets: the median of many windows, in microseconds. */
#include <mpi.h>
#include <stdio.h>

int main(int argc, char **argv) {
    enum { WINDOW = 200, WINDOWS = 100 };
    int me, size;
    static double all[WINDOWS];
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &me);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    for (int w = 0; w < WINDOWS; w++) {
        double sum = 0, part = me + w;
        MPI_Barrier(MPI_COMM_WORLD);
        double start = MPI_Wtime();
        for (int i = 0; i < WINDOW; i++) MPI_Allreduce(&part, &sum, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
        all[w] = (MPI_Wtime() - start) / WINDOW * 1e6;
        if (sum != size * (size - 1) / 2 + size * w) MPI_Abort(MPI_COMM_WORLD, 1);
    }
    for (int i = 1; i < WINDOWS; i++) {
        double x = all[i];
        int j = i;
        for (; j > 0 && all[j - 1] > x; j--) all[j] = all[j - 1];
        all[j] = x;
    }
    if (me == 0) printf("%.4f\n", all[WINDOWS / 2]);
    MPI_Finalize();
    return 0;
}
