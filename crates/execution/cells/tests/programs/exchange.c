/* Point-to-point with wildcards and many requests, collectives, communicators: prints a line per phase, which must not depend on moves. */
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static uint32_t state = 1;
static uint32_t next(void) { return state = state * 1664525u + 1013904223u; }

int main(int argc, char **argv) {
    int me, n;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &me);
    MPI_Comm_size(MPI_COMM_WORLD, &n);
    uint64_t sum = 0;
    for (int round = 0; round < 60; round++) {
        enum { K = 24, MAX = 3000 };
        static int out[K][MAX], in[K][MAX];
        MPI_Request requests[2 * K];
        for (int k = 0; k < K; k++)
            MPI_Irecv(in[k], MAX, MPI_INT, (me + n - 1 - k % (n - 1)) % n, k, MPI_COMM_WORLD, &requests[k]);
        for (int k = 0; k < K; k++) {
            int count = 1 + (int)(next() % MAX);
            for (int i = 0; i < count; i++) out[k][i] = me * 1000003 + round * 1009 + k + i;
            MPI_Isend(out[k], count, MPI_INT, (me + 1 + k % (n - 1)) % n, k, MPI_COMM_WORLD, &requests[K + k]);
        }
        MPI_Status statuses[2 * K];
        MPI_Waitall(2 * K, requests, statuses);
        for (int k = 0; k < K; k++) {
            int count, from = (me + n - 1 - k % (n - 1)) % n;
            MPI_Get_count(&statuses[k], MPI_INT, &count);
            if (statuses[k].MPI_SOURCE != from || statuses[k].MPI_TAG != k) MPI_Abort(MPI_COMM_WORLD, 1);
            for (int i = 0; i < count; i++)
                if (in[k][i] != from * 1000003 + round * 1009 + k + i) MPI_Abort(MPI_COMM_WORLD, 2);
            sum = sum * 31 + (uint64_t)count;
        }
        int64_t mine = me + round, total = 0;
        MPI_Allreduce(&mine, &total, 1, MPI_INT64_T, MPI_SUM, MPI_COMM_WORLD);
        sum = sum * 31 + (uint64_t)total;
        if (round % 10 == 0) {
            MPI_Comm half;
            int size;
            MPI_Comm_split(MPI_COMM_WORLD, me % 2, -me, &half);
            MPI_Comm_size(half, &size);
            int root = me;
            MPI_Bcast(&root, 1, MPI_INT, size - 1, half);
            sum = sum * 31 + (uint64_t)root;
            MPI_Comm_free(&half);
        }
        if (me == 0) {
            int64_t seen = 0;
            for (int i = 1; i < n; i++) {
                MPI_Status s;
                MPI_Probe(MPI_ANY_SOURCE, 99, MPI_COMM_WORLD, &s);
                double x;
                MPI_Recv(&x, 1, MPI_DOUBLE, s.MPI_SOURCE, 99, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
                seen += (int64_t)x;
            }
            sum = sum * 31 + (uint64_t)seen;
        } else {
            double x = me * 10 + round;
            MPI_Ssend(&x, 1, MPI_DOUBLE, 0, 99, MPI_COMM_WORLD);
        }
    }
    printf("rank %d sum %016llx\n", me, (unsigned long long)sum);
    MPI_Finalize();
    return 0;
}
