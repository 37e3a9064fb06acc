/* Ring: one token of 16 numbers goes round all ranks for many laps, each rank stirs it. Blocking send and receive only,
 * so at any moment one rank computes and all others wait in a receive. Argument: laps (20000). */
#include <inttypes.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

enum { WORDS = 16 };

static void stir(uint32_t *token, uint32_t rank)
{
    for (int32_t i = 0; i < WORDS; i++) {
        uint32_t left = token[(i + WORDS - 1) % WORDS];
        token[i] = (token[i] ^ (left >> 7)) * 2654435761u + rank + 1;
    }
}

int main(int argc, char **argv)
{
    uint32_t token[WORDS];
    int rank, ranks;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    int32_t laps = argc > 1 ? atoi(argv[1]) : 20000;
    int next = (rank + 1) % ranks, previous = (rank + ranks - 1) % ranks;
    for (int32_t i = 0; i < WORDS; i++)
        token[i] = (uint32_t)i;
    for (int32_t lap = 0; lap < laps; lap++) {
        if (rank != 0)
            MPI_Recv(token, WORDS, MPI_UINT32_T, previous, lap & 1023, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        stir(token, (uint32_t)rank);
        MPI_Request request;
        MPI_Isend(token, WORDS, MPI_UINT32_T, next, lap & 1023, MPI_COMM_WORLD, &request);
        if (rank == 0) {
            uint32_t back[WORDS];
            MPI_Recv(back, WORDS, MPI_UINT32_T, previous, lap & 1023, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            MPI_Wait(&request, MPI_STATUS_IGNORE);
            for (int32_t i = 0; i < WORDS; i++)
                token[i] = back[i];
            if ((lap + 1) % (laps / 4 > 0 ? laps / 4 : 1) == 0) {
                printf("lap %" PRId32 " token %08" PRIx32 "\n", lap + 1, token[0] ^ token[WORDS - 1]);
                fflush(stdout);
            }
        } else {
            MPI_Wait(&request, MPI_STATUS_IGNORE);
        }
    }
    MPI_Finalize();
    return 0;
}
