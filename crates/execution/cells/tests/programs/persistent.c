/* Persistent requests and the attached buffer, by the letter of the standard: what is inactive, what is freed early, what does not fit. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 400, PARTS = 3 };

static int rank, ranks;

static void check(int right, const char *what)
{
    if (!right) {
        printf("rank %d: %s\n", rank, what);
        exit(1);
    }
}

static void buffers(void)
{
    static char buffer[2 * (1000 + MPI_BSEND_OVERHEAD)];
    char message[2200] = "";
    void *was;
    int size;
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    check(MPI_Bsend(message, 0, MPI_CHAR, rank, 5, MPI_COMM_WORLD) == MPI_ERR_BUFFER, "a buffered send without a buffer");
    check(MPI_Buffer_detach(&was, &size) == MPI_ERR_BUFFER, "nothing to detach");
    check(MPI_Buffer_attach(buffer, sizeof buffer) == MPI_SUCCESS, "attach");
    check(MPI_Buffer_attach(buffer, sizeof buffer) == MPI_ERR_BUFFER, "a second buffer");
    check(MPI_Bsend(message, sizeof buffer, MPI_CHAR, rank, 5, MPI_COMM_WORLD) == MPI_ERR_BUFFER, "no room for the overhead");
    check(MPI_Bsend(message, sizeof buffer - MPI_BSEND_OVERHEAD, MPI_CHAR, rank, 5, MPI_COMM_WORLD) == MPI_SUCCESS, "the largest message");
    MPI_Recv(message, sizeof message, MPI_CHAR, rank, 5, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    check(MPI_Bsend(message, sizeof message, MPI_CHAR, MPI_PROC_NULL, 5, MPI_COMM_WORLD) == MPI_SUCCESS, "nobody needs no buffer");
    check(MPI_Buffer_detach(&was, &size) == MPI_SUCCESS && was == buffer && size == sizeof buffer, "what was attached comes back");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_ARE_FATAL);
}

/* More than the way holds, to a receiver that doesn't look: the buffer fills, and then says so. */
static void flood(void)
{
    enum { SIZE = 1000, ROOM = 40 };
    int bytes = ROOM * (SIZE + MPI_BSEND_OVERHEAD), sent = 0;
    char *buffer = malloc(bytes), *message = malloc(SIZE);
    int next = (rank + 1) % ranks, previous = (rank + ranks - 1) % ranks, theirs;
    MPI_Buffer_attach(buffer, bytes);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    for (; sent < 120; sent++) {
        memset(message, sent, SIZE);
        if (MPI_Bsend(message, SIZE, MPI_CHAR, next, 6, MPI_COMM_WORLD) != MPI_SUCCESS)
            break;
    }
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_ARE_FATAL);
    check(sent >= ROOM, "the attached buffer holds what it promises");
    MPI_Sendrecv(&sent, 1, MPI_INT, next, 7, &theirs, 1, MPI_INT, previous, 7, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    for (int i = 0; i < theirs; i++) {
        MPI_Recv(message, SIZE, MPI_CHAR, previous, 6, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        check(message[0] == i && message[SIZE - 1] == i, "a buffered message");
    }
    MPI_Buffer_detach(&buffer, &bytes);
    check(bytes == ROOM * (SIZE + MPI_BSEND_OVERHEAD), "the flooded buffer comes back");
    free(buffer);
    free(message);
}

static void requests(void)
{
    int next = (rank + 1) % ranks, previous = (rank + ranks - 1) % ranks;
    int out[PARTS][2], in[PARTS][4], index, flag, done, indices[2 * PARTS];
    long sum = 0;
    MPI_Request all[2 * PARTS];
    MPI_Status status;
    MPI_Datatype strided;
    MPI_Type_vector(2, 1, 2, MPI_INT, &strided);
    MPI_Type_commit(&strided);
    MPI_Send_init(out[0], 2, MPI_INT, next, 0, MPI_COMM_WORLD, &all[0]);
    MPI_Ssend_init(out[1], 2, MPI_INT, next, 1, MPI_COMM_WORLD, &all[1]);
    MPI_Rsend_init(out[2], 2, MPI_INT, MPI_PROC_NULL, 2, MPI_COMM_WORLD, &all[2]);
    for (int i = 0; i < PARTS - 1; i++)
        MPI_Recv_init(in[i], 1, strided, i ? MPI_ANY_SOURCE : previous, i, MPI_COMM_WORLD, &all[PARTS + i]);
    MPI_Recv_init(in[2], 1, strided, MPI_PROC_NULL, 2, MPI_COMM_WORLD, &all[2 * PARTS - 1]);
    MPI_Type_free(&strided); /* the requests have it */
    MPI_Datatype other;
    MPI_Type_contiguous(100, MPI_DOUBLE, &other); /* takes the handle, if it is free */
    MPI_Type_commit(&other);

    MPI_Wait(&all[0], &status);
    check(status.MPI_SOURCE == MPI_ANY_SOURCE && all[0] != MPI_REQUEST_NULL, "an inactive request is complete and empty");
    MPI_Waitany(2 * PARTS, all, &index, &status);
    check(index == MPI_UNDEFINED, "nothing active");
    MPI_Testany(2 * PARTS, all, &index, &flag, &status);
    check(flag && index == MPI_UNDEFINED, "nothing active to test");
    MPI_Testsome(2 * PARTS, all, &done, indices, MPI_STATUSES_IGNORE);
    check(done == MPI_UNDEFINED, "none of some");

    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < PARTS; i++) {
            out[i][0] = rank * 1000 + round * 10 + i;
            out[i][1] = -out[i][0];
            in[i][0] = in[i][1] = in[i][2] = 7;
        }
        for (int i = PARTS; i < 2 * PARTS; i++)
            MPI_Start(&all[i]);
        MPI_Startall(PARTS, all);
        if (round % 3 == 0) {
            MPI_Status statuses[2 * PARTS];
            MPI_Waitall(2 * PARTS, all, statuses);
            check(statuses[PARTS + 1].MPI_SOURCE == previous && statuses[2 * PARTS - 1].MPI_SOURCE == MPI_PROC_NULL, "where they came from");
        } else if (round % 3 == 1) {
            for (int i = 0; i < 2 * PARTS; i++) {
                MPI_Waitany(2 * PARTS, all, &index, MPI_STATUS_IGNORE);
                check(index != MPI_UNDEFINED, "one of those that are left");
            }
            MPI_Waitany(2 * PARTS, all, &index, MPI_STATUS_IGNORE);
            check(index == MPI_UNDEFINED, "each only once");
        } else {
            for (int left = 2 * PARTS; left > 0; left -= done)
                MPI_Waitsome(2 * PARTS, all, &done, indices, MPI_STATUSES_IGNORE);
        }
        for (int i = 0; i < PARTS - 1; i++) {
            check(in[i][0] == previous * 1000 + round * 10 + i && in[i][2] == -in[i][0] && in[i][1] == 7, "what came");
            sum += in[i][0];
        }
    }
    /* Freed while it runs: the message arrives all the same. */
    out[1][0] = 4711;
    MPI_Start(&all[1]);
    MPI_Request_free(&all[1]);
    check(all[1] == MPI_REQUEST_NULL, "a freed handle is null");
    MPI_Start(&all[PARTS + 1]);
    MPI_Wait(&all[PARTS + 1], &status);
    check(in[1][0] == 4711, "the message of a freed request");
    /* A receive that nothing comes for. */
    MPI_Start(&all[PARTS]);
    MPI_Cancel(&all[PARTS]);
    MPI_Wait(&all[PARTS], &status);
    MPI_Test_cancelled(&status, &flag);
    check(flag && all[PARTS] != MPI_REQUEST_NULL, "a cancelled receive can be started again");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Request plain;
    MPI_Irecv(in[0], 1, MPI_INT, previous, 99, MPI_COMM_WORLD, &plain);
    check(MPI_Start(&plain) == MPI_ERR_REQUEST, "only persistent requests start");
    MPI_Cancel(&plain);
    MPI_Wait(&plain, MPI_STATUS_IGNORE);
    MPI_Start(&all[PARTS]);
    check(MPI_Start(&all[PARTS]) == MPI_ERR_REQUEST, "not twice");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_ARE_FATAL);
    MPI_Cancel(&all[PARTS]);
    MPI_Wait(&all[PARTS], MPI_STATUS_IGNORE);
    for (int i = 0; i < 2 * PARTS; i++)
        if (all[i] != MPI_REQUEST_NULL)
            MPI_Request_free(&all[i]);
    MPI_Type_free(&other);
    printf("rank %d: sum %ld\n", rank, sum);
}

/* Collectives keep the datatypes that they were made with. */
static void collectives(void)
{
    MPI_Datatype every_other;
    MPI_Request r[2];
    int data[32], all[32 * 8];
    MPI_Type_vector(16, 1, 2, MPI_INT, &every_other);
    MPI_Type_commit(&every_other);
    MPI_Bcast_init(data, 1, every_other, 1, MPI_COMM_WORLD, MPI_INFO_NULL, &r[0]);
    MPI_Allgather_init(data, 1, every_other, all, 16, MPI_INT, MPI_COMM_WORLD, MPI_INFO_NULL, &r[1]);
    MPI_Type_free(&every_other);
    for (int step = 0; step < 20; step++) {
        for (int i = 0; i < 32; i++)
            data[i] = step * 1000 + rank * 100 + i;
        MPI_Start(&r[0]);
        MPI_Wait(&r[0], MPI_STATUS_IGNORE);
        check(data[4] == step * 1000 + 100 + 4 && data[5] == step * 1000 + rank * 100 + 5, "a broadcast of every other number");
        data[0] = rank;
        MPI_Start(&r[1]);
        MPI_Wait(&r[1], MPI_STATUS_IGNORE);
        for (int k = 0; k < ranks; k++)
            check(all[16 * k] == k && all[16 * k + 3] == step * 1000 + 100 + 6, "every other number of all");
    }
    MPI_Request_free(&r[0]);
    MPI_Request_free(&r[1]);
    /* Counts of 64 bits that fit 32 are the same; others are an error. */
    MPI_Count wide[8], four = 4;
    MPI_Aint displacements[8];
    int lists[8 * 4];
    for (int i = 0; i < ranks; i++) {
        wide[i] = 4;
        displacements[i] = 4 * (ranks - 1 - i);
    }
    MPI_Allgatherv_c(data, four, MPI_INT, lists, wide, displacements, MPI_INT, MPI_COMM_WORLD);
    check(lists[0] == ranks - 1 && lists[4 * (ranks - 1)] == 0, "a gather with counts of 64 bits");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    check(MPI_Send_c(data, (MPI_Count)1 << 32, MPI_CHAR, 0, 0, MPI_COMM_WORLD) == MPI_ERR_COUNT, "more than there is memory");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_ARE_FATAL);
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    buffers();
    for (int i = 0; i < 3; i++)
        flood();
    requests();
    collectives();
    MPI_Finalize();
    return 0;
}
