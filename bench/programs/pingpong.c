/* Half of the round trip of 64 bytes between two ranks: the median of many windows, in microseconds. */
#include <mpi.h>
#include <stdio.h>

int main(int argc, char **argv) {
    enum { WINDOW = 2000, WINDOWS = 200 };
    int me;
    char data[64] = {0};
    static double all[WINDOWS];
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &me);
    for (int w = 0; w < WINDOWS; w++) {
        MPI_Barrier(MPI_COMM_WORLD);
        double start = MPI_Wtime();
        for (int i = 0; i < WINDOW; i++) {
            if (me == 0) {
                MPI_Send(data, 64, MPI_CHAR, 1, 0, MPI_COMM_WORLD);
                MPI_Recv(data, 64, MPI_CHAR, 1, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            } else {
                MPI_Recv(data, 64, MPI_CHAR, 0, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
                MPI_Send(data, 64, MPI_CHAR, 0, 0, MPI_COMM_WORLD);
            }
        }
        all[w] = (MPI_Wtime() - start) / WINDOW / 2 * 1e6;
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
