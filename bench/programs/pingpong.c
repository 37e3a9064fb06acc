/* Half of the round trip of so many bytes (the argument, 64 without it) between two ranks: the median of many windows, in microseconds. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv) {
    enum { WINDOWS = 200 };
    int me, bytes;
    static double all[WINDOWS];
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &me);
    bytes = argc > 1 ? atoi(argv[1]) : 64;
    /* So that each window takes some milliseconds. */
    int window = bytes <= 1024 ? 2000 : bytes <= 65536 ? 200 : 20;
    char *data = malloc(bytes);
    memset(data, me, bytes);
    for (int w = 0; w < WINDOWS; w++) {
        MPI_Barrier(MPI_COMM_WORLD);
        double start = MPI_Wtime();
        for (int i = 0; i < window; i++) {
            if (me == 0) {
                MPI_Send(data, bytes, MPI_CHAR, 1, 0, MPI_COMM_WORLD);
                MPI_Recv(data, bytes, MPI_CHAR, 1, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            } else {
                MPI_Recv(data, bytes, MPI_CHAR, 0, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
                MPI_Send(data, bytes, MPI_CHAR, 0, 0, MPI_COMM_WORLD);
            }
        }
        all[w] = (MPI_Wtime() - start) / window / 2 * 1e6;
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
