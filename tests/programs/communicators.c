/* Communicators: dup, split by colour with turned order, splits of splits down to single ranks, MPI_UNDEFINED, free, and the
 * promise that equal tags on two communicators never meet. Argument: repeats (300). */
#include <inttypes.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

static void must(int ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "communicators: %s is wrong\n", what);
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
}

/* Sends on both communicators with one tag, receives in the other order. */
static void check_apart(MPI_Comm one, MPI_Comm two)
{
    int rank, ranks, got[2];
    MPI_Request requests[2];
    MPI_Comm_rank(one, &rank);
    MPI_Comm_size(one, &ranks);
    int next = (rank + 1) % ranks, previous = (rank + ranks - 1) % ranks, words[2] = {rank, rank + 1000};
    MPI_Isend(&words[0], 1, MPI_INT, next, 5, one, &requests[0]);
    MPI_Isend(&words[1], 1, MPI_INT, next, 5, two, &requests[1]);
    MPI_Recv(&got[1], 1, MPI_INT, MPI_ANY_SOURCE, MPI_ANY_TAG, two, MPI_STATUS_IGNORE);
    MPI_Recv(&got[0], 1, MPI_INT, MPI_ANY_SOURCE, MPI_ANY_TAG, one, MPI_STATUS_IGNORE);
    MPI_Waitall(2, requests, MPI_STATUSES_IGNORE);
    must(got[0] == previous && got[1] == previous + 1000, "a message's communicator");
}

/* Halves a communicator until one rank is left; answers a number that depends on each level. */
static int64_t halve(MPI_Comm comm, int32_t level)
{
    int rank, ranks;
    int64_t own, sum = 0;
    MPI_Comm half;
    MPI_Comm_rank(comm, &rank);
    MPI_Comm_size(comm, &ranks);
    own = (int64_t)(rank + 1) * (level + 1);
    MPI_Allreduce(&own, &sum, 1, MPI_INT64_T, MPI_SUM, comm);
    must(sum == (int64_t)ranks * (ranks + 1) / 2 * (level + 1), "a sum in a half");
    if (ranks == 1)
        return sum;
    MPI_Comm_split(comm, rank < ranks / 2, rank, &half);
    sum = sum * 31 + halve(half, level + 1);
    MPI_Comm_free(&half);
    must(half == MPI_COMM_NULL, "a freed communicator");
    return sum;
}

static void check_split(int rank, int ranks)
{
    MPI_Comm parity, some;
    int inner, inner_ranks, first;
    /* The key counts down, so the highest rank of each colour comes first. */
    MPI_Comm_split(MPI_COMM_WORLD, rank % 2, -rank, &parity);
    MPI_Comm_rank(parity, &inner);
    MPI_Comm_size(parity, &inner_ranks);
    must(inner_ranks == (ranks + 1 - rank % 2) / 2, "the size of a split");
    must(inner == inner_ranks - 1 - rank / 2, "the order of a split");
    first = rank;
    MPI_Bcast(&first, 1, MPI_INT, 0, parity);
    must(first % 2 == rank % 2 && first >= ranks - 2, "a broadcast in a split");
    MPI_Comm_free(&parity);
    MPI_Comm_split(MPI_COMM_WORLD, rank == 0 ? MPI_UNDEFINED : 1, 0, &some);
    must((some == MPI_COMM_NULL) == (rank == 0), "MPI_UNDEFINED");
    if (some != MPI_COMM_NULL) {
        MPI_Barrier(some);
        MPI_Comm_free(&some);
    }
}

int main(int argc, char **argv)
{
    int rank, ranks, result;
    int64_t own = 0, all = 0;
    MPI_Comm copy, copy_of_copy;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    int32_t repeats = argc > 1 ? atoi(argv[1]) : 300;
    for (int32_t i = 0; i < repeats; i++) {
        MPI_Comm_dup(MPI_COMM_WORLD, &copy);
        MPI_Comm_dup(copy, &copy_of_copy);
        MPI_Comm_compare(copy, copy_of_copy, &result);
        must(result == MPI_CONGRUENT, "a comparison of copies");
        check_apart(copy, copy_of_copy);
        check_apart(MPI_COMM_WORLD, copy);
        check_split(rank, ranks);
        own += halve(copy_of_copy, 0) % 1000003;
        MPI_Comm_free(&copy);
        MPI_Comm_free(&copy_of_copy);
    }
    MPI_Reduce(&own, &all, 1, MPI_INT64_T, MPI_SUM, 0, MPI_COMM_WORLD);
    if (rank == 0)
        printf("repeats %" PRId32 " sum %" PRId64 "\n", repeats, all);
    MPI_Finalize();
    return 0;
}
