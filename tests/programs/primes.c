/* Prime sieve: rank 0 finds the small primes and broadcasts them, each rank sieves its part in segments, a Reduce counts; twins
 * across the border of two ranks are found by a message. Argument: limit (40000000). */
#include <inttypes.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SEGMENT = 1 << 16, SMALL_MAX = 46341 };

static int32_t small_primes(int32_t *primes)
{
    static uint8_t composite[SMALL_MAX];
    int32_t count = 0;
    for (int32_t i = 2; i < SMALL_MAX; i++) {
        if (composite[i])
            continue;
        primes[count++] = i;
        for (int64_t multiple = (int64_t)i * i; multiple < SMALL_MAX; multiple += i)
            composite[multiple] = 1;
    }
    return count;
}

static void segment_sieve(int64_t low, int64_t high, const int32_t *primes, int32_t count, uint8_t *composite)
{
    memset(composite, 0, SEGMENT);
    for (int32_t p = 0; p < count && (int64_t)primes[p] * primes[p] < high; p++) {
        int64_t prime = primes[p], from = (low + prime - 1) / prime * prime;
        if (from < prime * prime)
            from = prime * prime;
        for (int64_t multiple = from; multiple < high; multiple += prime)
            composite[multiple - low] = 1;
    }
}

int main(int argc, char **argv)
{
    static int32_t primes[SMALL_MAX];
    static uint8_t composite[SEGMENT];
    int rank, ranks, count = 0;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    int64_t limit = argc > 1 ? atoi(argv[1]) : 40000000;
    if (rank == 0)
        count = small_primes(primes);
    MPI_Bcast(&count, 1, MPI_INT, 0, MPI_COMM_WORLD);
    MPI_Bcast(primes, count, MPI_INT32_T, 0, MPI_COMM_WORLD);
    int64_t begin = limit * rank / ranks, end = limit * (rank + 1) / ranks;
    int64_t first = 0, last = 0, own[3] = {0, 0, 0}, all[3]; /* primes, their sum, twins */
    for (int64_t low = begin < 2 ? 2 : begin; low < end; low += SEGMENT) {
        int64_t high = low + SEGMENT < end ? low + SEGMENT : end;
        segment_sieve(low, high, primes, count, composite);
        for (int64_t n = low; n < high; n++) {
            if (composite[n - low])
                continue;
            own[0]++;
            own[1] += n;
            own[2] += last != 0 && n - last == 2;
            first = first == 0 ? n : first;
            last = n;
        }
    }
    int64_t left = 0;
    MPI_Sendrecv(&last, 1, MPI_INT64_T, rank + 1 < ranks ? rank + 1 : MPI_PROC_NULL, 0, &left, 1, MPI_INT64_T,
                 rank > 0 ? rank - 1 : MPI_PROC_NULL, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    own[2] += left != 0 && first - left == 2;
    MPI_Reduce(own, all, 3, MPI_INT64_T, MPI_SUM, 0, MPI_COMM_WORLD);
    if (rank == 0)
        printf("limit %" PRId64 " primes %" PRId64 " sum %" PRId64 " twins %" PRId64 "\n", limit, all[0], all[1], all[2]);
    MPI_Finalize();
    return 0;
}
