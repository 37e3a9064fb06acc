/* Unmatched: each rank sends lots of messages early (own buffers, Isend), then all compute for a while with nothing received, then
 * each takes them in an odd order: by tag from the last to the first, sources by turns. A rank that moves in between has to
 * take its mailbox along. Arguments: messages per pair (150), work (60). */
#include <inttypes.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

enum { WORDS_MAX = 700 };

static int32_t words_of(int from, int to, int32_t i)
{
    return 1 + (int32_t)(((uint32_t)from * 40503u + (uint32_t)to * 30011u + (uint32_t)i * 2654435761u) >> 7) % WORDS_MAX;
}

static uint32_t word_of(int from, int to, int32_t i, int32_t at)
{
    return (uint32_t)from * 16777619u ^ (uint32_t)to * 65599u ^ (uint32_t)i * 31u ^ (uint32_t)at * 2654435761u;
}

/* Busy for a while, without MPI. */
static uint32_t compute(uint32_t seed, int32_t work)
{
    static uint32_t table[4096];
    for (int32_t turn = 0; turn < work; turn++) {
        for (int32_t row = 0; row < 256; row++) {
            for (int32_t i = 0; i < 4096; i++) {
                seed = seed * 1664525u + 1013904223u + table[(seed >> 20) & 4095];
                table[i] ^= seed >> 3;
            }
        }
    }
    return seed;
}

static void check(const uint32_t *words, int count, int from, int to, int32_t i)
{
    int32_t right = count == words_of(from, to, i);
    for (int32_t at = 0; at < count && right; at++)
        right = words[at] == word_of(from, to, i, at);
    if (!right) {
        fprintf(stderr, "unmatched: message %" PRId32 " from %d to %d is wrong\n", i, from, to);
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
}

int main(int argc, char **argv)
{
    int rank, ranks;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    int32_t messages = argc > 1 ? atoi(argv[1]) : 150, work = argc > 2 ? atoi(argv[2]) : 60;
    int64_t all = (int64_t)messages * ranks;
    uint32_t *out = calloc((size_t)all * WORDS_MAX, 4), in[WORDS_MAX];
    MPI_Request *requests = calloc((size_t)all, sizeof *requests);
    if (out == NULL || requests == NULL)
        MPI_Abort(MPI_COMM_WORLD, 1);
    for (int32_t i = 0; i < messages; i++) {
        for (int to = 0; to < ranks; to++) {
            uint32_t *words = out + ((int64_t)i * ranks + to) * WORDS_MAX;
            int32_t count = words_of(rank, to, i);
            for (int32_t at = 0; at < count; at++)
                words[at] = word_of(rank, to, i, at);
            MPI_Isend(words, count, MPI_UINT32_T, to, i, MPI_COMM_WORLD, &requests[(int64_t)i * ranks + to]);
        }
    }
    uint32_t busy = compute((uint32_t)rank + 1, work), words = 0;
    for (int32_t i = messages - 1; i >= 0; i--) {
        for (int turn = 0; turn < ranks; turn++) {
            MPI_Status status;
            int from = (turn * (ranks - 1) + i) % ranks, count;
            MPI_Recv(in, WORDS_MAX, MPI_UINT32_T, from, i, MPI_COMM_WORLD, &status);
            MPI_Get_count(&status, MPI_UINT32_T, &count);
            check(in, count, from, rank, i);
            words += (uint32_t)count;
        }
    }
    MPI_Waitall((int)all, requests, MPI_STATUSES_IGNORE);
    uint32_t own[2] = {busy, words}, sums[2];
    MPI_Reduce(own, sums, 2, MPI_UINT32_T, MPI_SUM, 0, MPI_COMM_WORLD);
    if (rank == 0)
        printf("messages %" PRId64 " words %" PRIu32 " work %08" PRIx32 "\n", all * ranks, sums[1], sums[0]);
    free(out);
    free(requests);
    MPI_Finalize();
    return 0;
}
