/* Senders that outrun their receiver: every rank but 0 sends many large messages as fast as it can; rank 0 sleeps, then takes
 * those of the last rank first. Nobody may need more memory than a few of them. Arguments: messages of each rank (60), bytes of
 * a message (4000000). */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    int rank, ranks;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    int messages = argc > 1 ? atoi(argv[1]) : 60, bytes = argc > 2 ? atoi(argv[2]) : 4000000;
    unsigned char *data = malloc((size_t)bytes);
    if (data == NULL)
        MPI_Abort(MPI_COMM_WORLD, 1);
    if (rank == 0) {
        usleep(300000);
        for (int from = ranks - 1; from > 0; from--) {
            unsigned sum = 0, wrong = 0;
            for (int i = 0; i < messages; i++) {
                MPI_Recv(data, bytes, MPI_BYTE, from, 7, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
                wrong += data[0] != (unsigned char)(i + from) || data[bytes - 1] != (unsigned char)(i + from);
                sum += data[bytes / 2];
            }
            printf("from %d: sum %u wrong %u\n", from, sum, wrong);
        }
    } else {
        for (int i = 0; i < messages; i++) {
            memset(data, i + rank, (size_t)bytes);
            MPI_Send(data, bytes, MPI_BYTE, 0, 7, MPI_COMM_WORLD);
        }
    }
    free(data);
    MPI_Finalize();
    return 0;
}
