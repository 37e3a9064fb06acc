/* Prints a result on standard output and a warning on standard error, and ends with 3. */
#include <mpi.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    int rank;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    fprintf(stderr, "warning of rank %d\n", rank);
    printf("result of rank %d\n", rank);
    MPI_Finalize();
    return 3;
}
