/* Send modes: Sendrecv, Sendrecv_replace, Ssend, Issend, Bsend with an attached buffer, Rsend to a waiting receive, persistent
 * requests, MPI_PROC_NULL, and a message to oneself. Argument: repeats (500). */
#include <inttypes.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

enum { WORDS = 200 };

static int rank, ranks, next, previous;
static int32_t out[WORDS], in[WORDS];

static void must(int ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "send_modes: %s is wrong on rank %d\n", what, rank);
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
}

static void fill(int32_t turn)
{
    for (int32_t i = 0; i < WORDS; i++) {
        out[i] = rank * 100000 + turn + i;
        in[i] = -1;
    }
}

static int came(const int32_t *words, int from, int32_t turn)
{
    for (int32_t i = 0; i < WORDS; i++)
        if (words[i] != from * 100000 + turn + i)
            return 0;
    return 1;
}

static void check_pairs(int32_t turn)
{
    MPI_Status status;
    fill(turn);
    MPI_Sendrecv(out, WORDS, MPI_INT32_T, next, 1, in, WORDS, MPI_INT32_T, previous, 1, MPI_COMM_WORLD, &status);
    must(came(in, previous, turn) && status.MPI_SOURCE == previous, "Sendrecv");
    MPI_Sendrecv_replace(out, WORDS, MPI_INT32_T, previous, 2, next, 2, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    must(came(out, next, turn), "Sendrecv_replace");
    fill(turn);
    MPI_Sendrecv(out, WORDS, MPI_INT32_T, rank, 3, in, WORDS, MPI_INT32_T, rank, 3, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    must(came(in, rank, turn), "a message to oneself");
    MPI_Send(out, WORDS, MPI_INT32_T, MPI_PROC_NULL, 4, MPI_COMM_WORLD);
    MPI_Recv(in, WORDS, MPI_INT32_T, MPI_PROC_NULL, 4, MPI_COMM_WORLD, &status);
    must(status.MPI_SOURCE == MPI_PROC_NULL, "MPI_PROC_NULL");
}

static void check_modes(int32_t turn)
{
    MPI_Request request;
    fill(turn);
    /* The last rank receives first, so the chain of synchronous sends comes loose from its end. */
    if (rank != ranks - 1)
        MPI_Ssend(out, WORDS, MPI_INT32_T, next, 5, MPI_COMM_WORLD);
    MPI_Recv(in, WORDS, MPI_INT32_T, previous, 5, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    if (rank == ranks - 1)
        MPI_Ssend(out, WORDS, MPI_INT32_T, next, 5, MPI_COMM_WORLD);
    must(came(in, previous, turn), "Ssend");
    fill(turn + 1);
    MPI_Issend(out, WORDS, MPI_INT32_T, next, 6, MPI_COMM_WORLD, &request);
    MPI_Recv(in, WORDS, MPI_INT32_T, previous, 6, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    must(came(in, previous, turn + 1), "Issend");
    fill(turn + 2);
    MPI_Bsend(out, WORDS, MPI_INT32_T, next, 7, MPI_COMM_WORLD);
    out[0] = -5; /* the buffer has its own copy */
    MPI_Recv(in, WORDS, MPI_INT32_T, previous, 7, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    must(came(in, previous, turn + 2), "Bsend");
    fill(turn + 3);
    MPI_Irecv(in, WORDS, MPI_INT32_T, previous, 8, MPI_COMM_WORLD, &request);
    MPI_Barrier(MPI_COMM_WORLD);
    MPI_Rsend(out, WORDS, MPI_INT32_T, next, 8, MPI_COMM_WORLD);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    must(came(in, previous, turn + 3), "Rsend");
}

static void check_persistent(int32_t turn)
{
    MPI_Request requests[2];
    MPI_Send_init(out, WORDS, MPI_INT32_T, next, 9, MPI_COMM_WORLD, &requests[0]);
    MPI_Recv_init(in, WORDS, MPI_INT32_T, previous, 9, MPI_COMM_WORLD, &requests[1]);
    for (int32_t i = 0; i < 3; i++) {
        fill(turn + i);
        MPI_Startall(2, requests);
        MPI_Waitall(2, requests, MPI_STATUSES_IGNORE);
        must(came(in, previous, turn + i), "a persistent request");
    }
    MPI_Request_free(&requests[0]);
    MPI_Request_free(&requests[1]);
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    int32_t repeats = argc > 1 ? atoi(argv[1]) : 500;
    int size = 8 * (WORDS * 4 + MPI_BSEND_OVERHEAD);
    void *buffer = malloc((size_t)size);
    next = (rank + 1) % ranks;
    previous = (rank + ranks - 1) % ranks;
    MPI_Buffer_attach(buffer, size);
    for (int32_t i = 0; i < repeats; i++) {
        check_pairs(i * 10);
        check_modes(i * 10);
        check_persistent(i * 10);
    }
    MPI_Buffer_detach(&buffer, &size);
    free(buffer);
    if (rank == 0)
        printf("repeats %" PRId32 " ok\n", repeats);
    MPI_Finalize();
    return 0;
}
