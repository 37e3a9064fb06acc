/* Exchange: ranks 0 and 1 send each other numbered messages of uneven length, both ways at once, up to 16 under way; the order,
 * length and bytes of each are checked. Further ranks only wait. Argument: messages each way (50000). */
#include <inttypes.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

enum { WORDS_MAX = 1024, UNDER_WAY_MAX = 16, TAGS = 4 };

static uint32_t mixed(uint32_t a, uint32_t b)
{
    uint32_t x = a * 2654435761u + b * 40503u + 12345u;
    x ^= x >> 15;
    x *= 2246822519u;
    return x ^ x >> 13;
}

/* Most are small; every 50th may be of some kilobytes. */
static int32_t words_of(uint32_t rank, uint32_t number)
{
    return 1 + (int32_t)(mixed(rank, number) % (number % 50 == 0 ? WORDS_MAX : 24));
}

static void fill(uint32_t *words, uint32_t rank, uint32_t number)
{
    int32_t length = words_of(rank, number);
    words[0] = number;
    for (int32_t i = 1; i < length; i++)
        words[i] = mixed(number, rank + (uint32_t)i);
}

static uint32_t check(const uint32_t *words, uint32_t rank, uint32_t number, MPI_Status *status, uint32_t sum)
{
    int count;
    MPI_Get_count(status, MPI_UINT32_T, &count);
    int32_t right = count == words_of(rank, number) && words[0] == number;
    for (int32_t i = 0; i < count && right; i++) {
        right = i == 0 || words[i] == mixed(number, rank + (uint32_t)i);
        sum = (sum ^ words[i]) * 16777619u;
    }
    if (!right) {
        fprintf(stderr, "exchange: from rank %" PRIu32 " came message %" PRIu32 " of %d words, expected %" PRIu32 " of %" PRId32 "\n", rank,
                words[0], count, number, words_of(rank, number));
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    return sum;
}

static uint32_t exchange(uint32_t rank, uint32_t messages)
{
    static uint32_t out[UNDER_WAY_MAX][WORDS_MAX], in[UNDER_WAY_MAX][WORDS_MAX];
    MPI_Request requests[2 * UNDER_WAY_MAX];
    MPI_Status statuses[2 * UNDER_WAY_MAX];
    uint32_t sum = 2166136261u, other = 1 - rank;
    for (uint32_t number = 0, some; number < messages; number += some) {
        some = 1 + mixed(number, 7) % UNDER_WAY_MAX;
        if (some > messages - number)
            some = messages - number;
        for (uint32_t i = 0; i < some; i++) {
            int tag = (int)((number + i) % TAGS);
            fill(out[i], rank, number + i);
            MPI_Irecv(in[i], WORDS_MAX, MPI_UINT32_T, (int)other, tag, MPI_COMM_WORLD, &requests[i]);
            MPI_Isend(out[i], words_of(rank, number + i), MPI_UINT32_T, (int)other, tag, MPI_COMM_WORLD, &requests[some + i]);
        }
        MPI_Waitall((int)(2 * some), requests, statuses);
        for (uint32_t i = 0; i < some; i++)
            sum = check(in[i], other, number + i, &statuses[i], sum);
    }
    return sum;
}

int main(int argc, char **argv)
{
    int rank;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    uint32_t messages = argc > 1 ? (uint32_t)atoi(argv[1]) : 50000, sums[2] = {0, 0};
    if (rank < 2)
        sums[rank] = exchange((uint32_t)rank, messages);
    if (rank == 1)
        MPI_Send(&sums[1], 1, MPI_UINT32_T, 0, TAGS, MPI_COMM_WORLD);
    if (rank == 0) {
        MPI_Recv(&sums[1], 1, MPI_UINT32_T, 1, TAGS, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        for (int r = 0; r < 2; r++)
            printf("rank %d took %" PRIu32 " messages, checksum %08" PRIx32 "\n", r, messages, sums[r]);
    }
    MPI_Finalize();
    return 0;
}
