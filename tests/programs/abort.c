/* Abort: rank 1 calls MPI_Abort with code 7 while all others wait for a message that never comes. The job ends with 7 and nobody
 * hangs. No arguments. */
#include <mpi.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    int rank, word = 0;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (rank == 0) {
        printf("waiting\n");
        fflush(stdout);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    if (rank == 1)
        MPI_Abort(MPI_COMM_WORLD, 7);
    MPI_Recv(&word, 1, MPI_INT, 1, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    printf("never printed\n");
    MPI_Finalize();
    return 0;
}
