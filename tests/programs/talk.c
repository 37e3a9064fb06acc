/* Talk: an exchange whose messages and bytes can be counted by hand, after which all ranks wait for ever. Each rank sends the next one 1000 messages of
 * 100 bytes; rank 0 sends rank 2 five of 100000 bytes besides, and waits until each is received. */
#include <mpi.h>

int main(int argc, char **argv)
{
    enum { SMALL = 100, LARGE = 100000 };
    static char out[LARGE], in[LARGE];
    int me, size;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &me);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    for (int i = 0; i < 1000; i++)
        MPI_Sendrecv(out, SMALL, MPI_CHAR, (me + 1) % size, 1, in, SMALL, MPI_CHAR, (me + size - 1) % size, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    for (int i = 0; i < 5; i++) {
        if (me == 0)
            MPI_Ssend(out, LARGE, MPI_CHAR, 2, 2, MPI_COMM_WORLD);
        else if (me == 2)
            MPI_Recv(in, LARGE, MPI_CHAR, 0, 2, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    }
    MPI_Recv(in, LARGE, MPI_CHAR, MPI_ANY_SOURCE, 3, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    MPI_Finalize();
    return 0;
}
