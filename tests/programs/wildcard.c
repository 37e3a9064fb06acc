/* Wildcards: rank 0 takes messages of unknown source, tag and length with Probe, Iprobe and Get_count. The order between
 * senders is free, the order from one sender isn't: that is checked. Argument: messages per sender (2000). */
#include <inttypes.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

enum { WORDS_MAX = 300, TAGS = 5 };

static int32_t words_of(int32_t rank, int32_t number)
{
    return (int32_t)(((uint32_t)rank * 7919u + (uint32_t)number * 104729u) % WORDS_MAX);
}

static void send_all(int rank, int32_t messages)
{
    int32_t words[WORDS_MAX + 1];
    for (int32_t number = 0; number < messages; number++) {
        int32_t length = words_of(rank, number);
        words[0] = number;
        for (int32_t i = 0; i < length; i++)
            words[i + 1] = rank * 1000000 + number + i;
        MPI_Send(words, length + 1, MPI_INT32_T, 0, number % TAGS, MPI_COMM_WORLD);
    }
}

/* By turns a blocking probe, a polling one, and one for the tag that some sender sends next. */
static void find(int32_t turn, MPI_Status *status)
{
    int there = 0;
    if (turn % 2 == 0) {
        MPI_Probe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, status);
        return;
    }
    while (!there)
        MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, MPI_COMM_WORLD, &there, status);
}

static int32_t take(const MPI_Status *found, int32_t expected)
{
    int32_t words[WORDS_MAX + 1] = {0};
    MPI_Status status;
    int count, rank = found->MPI_SOURCE;
    MPI_Get_count(found, MPI_INT32_T, &count);
    MPI_Recv(words, count, MPI_INT32_T, rank, found->MPI_TAG, MPI_COMM_WORLD, &status);
    int32_t right = words[0] == expected && count == words_of(rank, expected) + 1 && status.MPI_TAG == expected % TAGS;
    for (int32_t i = 0; i + 1 < count && right; i++)
        right = words[i + 1] == rank * 1000000 + expected + i;
    if (!right) {
        fprintf(stderr, "wildcard: from rank %d came message %" PRId32 ", expected %" PRId32 "\n", rank, words[0], expected);
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    return count;
}

int main(int argc, char **argv)
{
    int rank, ranks;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    int32_t messages = argc > 1 ? atoi(argv[1]) : 2000;
    if (rank != 0) {
        send_all(rank, messages);
    } else {
        int32_t *expected = calloc((size_t)ranks, sizeof *expected);
        int64_t words = 0;
        if (expected == NULL)
            MPI_Abort(MPI_COMM_WORLD, 1);
        for (int32_t turn = 0; turn < messages * (ranks - 1); turn++) {
            MPI_Status found;
            find(turn, &found);
            words += take(&found, expected[found.MPI_SOURCE]++);
        }
        printf("messages %" PRId32 " words %" PRId64 "\n", messages * (ranks - 1), words);
        free(expected);
    }
    MPI_Finalize();
    return 0;
}
