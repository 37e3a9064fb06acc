/* Recursion: deep and wide call trees with MPI at the bottom of them: Fibonacci by two calls (a message now and then), Ackermann, a
 * descent of thousands of frames that meets a barrier-like exchange at its deepest point, mutual recursion through a function
 * pointer. A stop may come while hundreds of frames are alive. Argument: scale (30, the Fibonacci number). */
#include <inttypes.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

#define KEEP __attribute__((noinline))

enum { DEPTH = 2000, EVERY = 200000 };

static int rank, ranks;
static int64_t calls;

/* One word to the next rank, one from the previous. */
static KEEP int64_t pass(int64_t word)
{
    int64_t got = 0;
    MPI_Sendrecv(&word, 1, MPI_INT64_T, (rank + 1) % ranks, 0, &got, 1, MPI_INT64_T, (rank + ranks - 1) % ranks, 0, MPI_COMM_WORLD,
                 MPI_STATUS_IGNORE);
    return got;
}

static KEEP int64_t fibonacci(int32_t n)
{
    if (++calls % EVERY == 0)
        pass(calls);
    if (n < 2)
        return n;
    int64_t first = fibonacci(n - 1);
    return first + fibonacci(n - 2);
}

static KEEP int64_t ackermann(int64_t m, int64_t n)
{
    if (m == 0)
        return n + 1;
    if (n == 0)
        return ackermann(m - 1, 1);
    return ackermann(m - 1, ackermann(m, n - 1));
}

/* Each frame keeps numbers of its own across the call below it. */
static KEEP int64_t descend(int32_t depth, int64_t seed)
{
    int64_t own[4] = {seed, seed ^ depth, seed + depth, depth};
    if (depth == 0)
        return pass(seed);
    int64_t below = descend(depth - 1, (seed * 31 + depth) % 1000003);
    return (below + own[depth & 3] * 7 + own[0]) % 1000000007;
}

typedef int64_t (*step)(int32_t depth, int64_t value);
static int64_t odd(int32_t depth, int64_t value);
static int64_t even(int32_t depth, int64_t value);
static const step steps[2] = {even, odd};

static KEEP int64_t odd(int32_t depth, int64_t value)
{
    return depth == 0 ? pass(value) : steps[depth & 1](depth - 1, value + depth) + 1;
}

static KEEP int64_t even(int32_t depth, int64_t value)
{
    return depth == 0 ? pass(value) : steps[(depth >> 1) & 1](depth - 1, value * 3 % 1000003) + 2;
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    int32_t scale = argc > 1 ? atoi(argv[1]) : 30;
    int64_t own[4], *all = calloc((size_t)ranks * 4, sizeof *all);
    own[0] = fibonacci(scale);
    own[1] = ackermann(2, 200 + rank);
    own[2] = own[3] = 0;
    for (int32_t i = 0; i < 200; i++) {
        own[2] += descend(DEPTH, rank + i);
        own[3] += even(DEPTH / 2, rank + i);
    }
    MPI_Gather(own, 4, MPI_INT64_T, all, 4, MPI_INT64_T, 0, MPI_COMM_WORLD);
    for (int r = 0; r < ranks && rank == 0; r++)
        printf("rank %d fibonacci %" PRId64 " ackermann %" PRId64 " descent %" PRId64 " steps %" PRId64 "\n", r, all[4 * r],
               all[4 * r + 1], all[4 * r + 2], all[4 * r + 3]);
    free(all);
    MPI_Finalize();
    return 0;
}
