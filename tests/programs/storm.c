/* Storm: each rank has hundreds of Isend and Irecv pending with all others, of pseudorandom sizes, and completes them by
 * turns with Waitall, Waitany, Waitsome, Testall, Testany, Testsome and Test. Argument: rounds (14, two of each way). */
#include <inttypes.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

enum { PER_PEER = 60, WORDS_MAX = 4000, WAYS = 7 };

static int32_t size_of(int from, int to, int32_t round, int32_t i)
{
    uint32_t x = (uint32_t)from * 73856093u ^ (uint32_t)to * 19349663u ^ (uint32_t)round * 83492791u ^ (uint32_t)i * 2971215073u;
    for (int32_t k = 0; k < 3; k++)
        x = x * 1664525u + 1013904223u;
    /* Most are small, one in eight is large. */
    return (int32_t)((x >> 8) % ((x >> 5) % 8 == 0 ? WORDS_MAX : 64));
}

static uint32_t word_of(int from, int to, int32_t round, int32_t i, int32_t at)
{
    return ((uint32_t)from << 24 ^ (uint32_t)to << 16 ^ (uint32_t)round << 8 ^ (uint32_t)i) * 2654435761u + (uint32_t)at;
}

static void finish(int32_t way, int count, MPI_Request *requests)
{
    int done = 0, some, at, flag;
    int *indices = calloc((size_t)count + 1, sizeof *indices);
    if (indices == NULL)
        MPI_Abort(MPI_COMM_WORLD, 1);
    if (way == 0)
        MPI_Waitall(count, requests, MPI_STATUSES_IGNORE);
    while (way == 1 && done++ < count)
        MPI_Waitany(count, requests, &at, MPI_STATUS_IGNORE);
    for (some = 0; way == 2 && done < count; done += some)
        MPI_Waitsome(count, requests, &some, indices, MPI_STATUSES_IGNORE);
    for (flag = 0; way == 3 && !flag;)
        MPI_Testall(count, requests, &flag, MPI_STATUSES_IGNORE);
    for (; way == 4 && done < count; done += flag)
        MPI_Testany(count, requests, &at, &flag, MPI_STATUS_IGNORE);
    for (some = 0; way == 5 && done < count; done += some)
        MPI_Testsome(count, requests, &some, indices, MPI_STATUSES_IGNORE);
    for (int i = count; way == 6 && i > 0; i--)
        for (flag = 0; !flag;)
            MPI_Test(&requests[i - 1], &flag, MPI_STATUS_IGNORE);
    for (int i = 0; i < count; i++)
        if (requests[i] != MPI_REQUEST_NULL)
            MPI_Abort(MPI_COMM_WORLD, 1);
    free(indices);
}

static uint64_t storm(int rank, int ranks, int32_t round, uint32_t *out, uint32_t *in)
{
    MPI_Request *requests = calloc((size_t)ranks * PER_PEER * 2, sizeof *requests);
    uint64_t sum = 0;
    int count = 0;
    if (requests == NULL)
        MPI_Abort(MPI_COMM_WORLD, 1);
    for (int32_t i = 0; i < PER_PEER; i++) {
        for (int peer = 0; peer < ranks; peer++) {
            uint32_t *place = out + ((int64_t)peer * PER_PEER + i) * WORDS_MAX;
            int32_t words = size_of(rank, peer, round, i);
            for (int32_t at = 0; at < words; at++)
                place[at] = word_of(rank, peer, round, i, at);
            MPI_Isend(place, words, MPI_UINT32_T, peer, i, MPI_COMM_WORLD, &requests[count++]);
            /* Received from the last tag to the first, so that many wait as unexpected. */
            place = in + ((int64_t)peer * PER_PEER + (PER_PEER - 1 - i)) * WORDS_MAX;
            MPI_Irecv(place, WORDS_MAX, MPI_UINT32_T, peer, PER_PEER - 1 - i, MPI_COMM_WORLD, &requests[count++]);
        }
    }
    finish(round % WAYS, count, requests);
    for (int peer = 0; peer < ranks; peer++)
        for (int32_t i = 0; i < PER_PEER; i++)
            for (int32_t at = 0, words = size_of(peer, rank, round, i); at < words; at++) {
                uint32_t word = in[((int64_t)peer * PER_PEER + i) * WORDS_MAX + at];
                if (word != word_of(peer, rank, round, i, at)) {
                    fprintf(stderr, "storm: round %" PRId32 ", message %" PRId32 " from %d to %d is wrong\n", round, i, peer, rank);
                    MPI_Abort(MPI_COMM_WORLD, 1);
                }
                sum += word;
            }
    free(requests);
    return sum;
}

int main(int argc, char **argv)
{
    int rank, ranks;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    int32_t rounds = argc > 1 ? atoi(argv[1]) : 2 * WAYS;
    uint32_t *out = calloc((size_t)ranks * PER_PEER * WORDS_MAX, sizeof *out);
    uint32_t *in = calloc((size_t)ranks * PER_PEER * WORDS_MAX, sizeof *in);
    if (out == NULL || in == NULL)
        MPI_Abort(MPI_COMM_WORLD, 1);
    for (int32_t round = 0; round < rounds; round++) {
        uint64_t own = storm(rank, ranks, round, out, in), all = 0;
        MPI_Reduce(&own, &all, 1, MPI_UINT64_T, MPI_SUM, 0, MPI_COMM_WORLD);
        if (rank == 0)
            printf("round %" PRId32 " sum %" PRIu64 "\n", round, all);
    }
    free(out);
    free(in);
    MPI_Finalize();
    return 0;
}
