/* Ping-pong: ranks 0 and 1 throw messages of 1 byte to 4 MiB to each other and check each byte that comes back. Covers the
 * way for small messages and the one for large ones. Further ranks only wait. Argument: throws per size (10). */
#include <inttypes.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

enum { SIZE_MAX_BYTES = 4 << 20 };

static uint8_t byte_of(int32_t size, int32_t turn, int32_t at)
{
    uint32_t x = (uint32_t)size * 31u + (uint32_t)turn * 17u + (uint32_t)at;
    x *= 2654435761u;
    return (uint8_t)(x >> 24);
}

static void fill(uint8_t *bytes, int32_t size, int32_t turn)
{
    for (int32_t i = 0; i < size; i++)
        bytes[i] = byte_of(size, turn, i);
}

static void check(const uint8_t *bytes, int32_t size, int32_t turn, const MPI_Status *status)
{
    int count;
    MPI_Get_count(status, MPI_BYTE, &count);
    int32_t wrong = count != size;
    for (int32_t i = 0; i < size && !wrong; i++)
        wrong = bytes[i] != byte_of(size, turn, i);
    if (wrong) {
        fprintf(stderr, "pingpong: size %" PRId32 " turn %" PRId32 ": %d bytes came, or wrong ones\n", size, turn, count);
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
}

static void play(int rank, int32_t size, int32_t throws, uint8_t *bytes)
{
    MPI_Status status;
    for (int32_t turn = 0; turn < throws; turn++) {
        if (turn % 2 == rank) {
            fill(bytes, size, turn);
            MPI_Send(bytes, size, MPI_BYTE, 1 - rank, turn, MPI_COMM_WORLD);
        } else {
            MPI_Recv(bytes, SIZE_MAX_BYTES, MPI_BYTE, 1 - rank, turn, MPI_COMM_WORLD, &status);
            check(bytes, size, turn, &status);
        }
    }
}

int main(int argc, char **argv)
{
    int rank;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    int32_t throws = argc > 1 ? atoi(argv[1]) : 10;
    uint8_t *bytes = calloc(SIZE_MAX_BYTES, 1);
    if (bytes == NULL)
        MPI_Abort(MPI_COMM_WORLD, 1);
    for (int32_t size = 1; size <= SIZE_MAX_BYTES && rank < 2; size *= 4) {
        play(rank, size, throws, bytes);
        /* And sizes beside the powers of two. */
        if (size > 1)
            play(rank, size - 1, throws, bytes);
        if (rank == 0)
            printf("size %" PRId32 " ok\n", size);
    }
    free(bytes);
    MPI_Finalize();
    return 0;
}
