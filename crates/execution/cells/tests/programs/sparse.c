/* Makes the file that its argument names large without writing anything to it, waits for a message, and makes it small again. */
#include <fcntl.h>
#include <mpi.h>
#include <unistd.h>

int main(int argc, char **argv) {
    int x;
    MPI_Init(&argc, &argv);
    int f = open(argv[1], O_RDWR | O_CREAT, 0644);
    if (f < 0 || ftruncate(f, 9LL << 30) != 0) return 1;
    MPI_Recv(&x, 1, MPI_INT, 0, 5, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    return ftruncate(f, 7) != 0 || close(f) != 0;
}
