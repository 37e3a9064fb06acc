/* N queens: rank 0 hands out the places of the first two queens to whoever asks (ANY_SOURCE), workers count by recursion. Who does
 * what is free, the count isn't. Argument: queens (12). */
#include <inttypes.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

enum { TAG_TASK = 1, TAG_RESULT = 2, TAG_STOP = 3, QUEENS_MAX = 18 };

static int64_t place(uint32_t all, uint32_t columns, uint32_t falling, uint32_t rising)
{
    int64_t count = 0;
    if (columns == all)
        return 1;
    for (uint32_t open = all & ~(columns | falling | rising); open != 0; open &= open - 1) {
        uint32_t queen = open & (0u - open);
        count += place(all, columns | queen, (falling | queen) >> 1, (rising | queen) << 1);
    }
    return count;
}

static int64_t solve(int32_t queens, int32_t task)
{
    uint32_t all = (1u << queens) - 1, first = 1u << (task / queens), second = 1u << (task % queens);
    uint32_t falling = first >> 1, rising = first << 1;
    if ((first | falling | rising) & second)
        return 0;
    return place(all, first | second, (falling | second) >> 1, (rising | second) << 1);
}

static void master(int32_t queens, int ranks)
{
    int32_t tasks = queens * queens, next = 0, working = ranks - 1, done = 0;
    int64_t total = 0, result;
    MPI_Status status;
    while (working > 0) {
        MPI_Recv(&result, 1, MPI_INT64_T, MPI_ANY_SOURCE, TAG_RESULT, MPI_COMM_WORLD, &status);
        if (result >= 0) {
            total += result;
            done++;
        }
        if (next < tasks) {
            MPI_Send(&next, 1, MPI_INT32_T, status.MPI_SOURCE, TAG_TASK, MPI_COMM_WORLD);
            next++;
        } else {
            MPI_Send(NULL, 0, MPI_INT32_T, status.MPI_SOURCE, TAG_STOP, MPI_COMM_WORLD);
            working--;
        }
    }
    printf("queens %" PRId32 " tasks %" PRId32 " solutions %" PRId64 "\n", queens, done, total);
}

static void worker(int32_t queens)
{
    int64_t result = -1; /* nothing yet */
    for (;;) {
        int32_t task = 0;
        MPI_Status status;
        MPI_Send(&result, 1, MPI_INT64_T, 0, TAG_RESULT, MPI_COMM_WORLD);
        MPI_Recv(&task, 1, MPI_INT32_T, 0, MPI_ANY_TAG, MPI_COMM_WORLD, &status);
        if (status.MPI_TAG == TAG_STOP)
            return;
        result = solve(queens, task);
    }
}

int main(int argc, char **argv)
{
    int rank, ranks;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    int32_t queens = argc > 1 ? atoi(argv[1]) : 12;
    if (ranks < 2 || queens < 2 || queens > QUEENS_MAX) {
        fprintf(stderr, "queens: %d ranks and %" PRId32 " queens, expected 2 or more and 2 to 18\n", ranks, queens);
        MPI_Abort(MPI_COMM_WORLD, 2);
    }
    if (rank == 0)
        master(queens, ranks);
    else
        worker(queens);
    MPI_Finalize();
    return 0;
}
