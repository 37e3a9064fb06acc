/* One-sided communication of every kind, by all ranks at once, with work between the calls. Prints sums that depend on each of them. */
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N 4096

static int me, size;

/* Takes long enough for a move to come in between. */
static void work(void) {
    volatile uint32_t x = 1;
    for (int i = 0; i < 20000; i++) x = x * 1664525u + 1013904223u;
}

static unsigned sum(const int *a, int n) {
    unsigned s = 0;
    for (int i = 0; i < n; i++) s = s * 31 + (unsigned)a[i];
    return s;
}

/* Each puts a column into its right neighbour's matrix, and reads one of its left neighbour's. */
static void fences(void) {
    int *m = calloc(N, sizeof *m), column[64], got[64];
    MPI_Win win;
    MPI_Datatype stride;
    MPI_Type_vector(64, 1, 64, MPI_INT, &stride);
    MPI_Type_commit(&stride);
    MPI_Win_create(m, N * sizeof *m, sizeof *m, MPI_INFO_NULL, MPI_COMM_WORLD, &win);
    unsigned s = 0;
    for (int step = 0; step < 40; step++) {
        for (int i = 0; i < 64; i++) column[i] = step * 1000 + me * 100 + i;
        MPI_Win_fence(0, win);
        MPI_Put(column, 64, MPI_INT, (me + 1) % size, step, 1, stride, win);
        work();
        MPI_Win_fence(0, win);
        MPI_Get(got, 64, MPI_INT, (me + size - 1) % size, step, 1, stride, win);
        MPI_Win_fence(MPI_MODE_NOSUCCEED, win);
        s = s * 7 + sum(got, 64);
    }
    printf("fences %u %u\n", s, sum(m, N));
    MPI_Type_free(&stride);
    MPI_Win_free(&win);
    free(m);
}

/* Rounds with the two neighbours only. */
static void groups(void) {
    int *a;
    MPI_Win win;
    MPI_Group world, both;
    MPI_Win_allocate(N * sizeof *a, sizeof *a, MPI_INFO_NULL, MPI_COMM_WORLD, &a, &win);
    memset(a, 0, N * sizeof *a);
    int ranks[2] = {(me + 1) % size, (me + size - 1) % size};
    MPI_Comm_group(MPI_COMM_WORLD, &world);
    MPI_Group_incl(world, 2, ranks, &both);
    for (int step = 0; step < 30; step++) {
        int values[16];
        for (int i = 0; i < 16; i++) values[i] = step + me + i;
        MPI_Win_post(both, 0, win);
        MPI_Win_start(both, 0, win);
        for (int k = 0; k < 2; k++) MPI_Accumulate(values, 16, MPI_INT, ranks[k], (step * 16) % N, 16, MPI_INT, MPI_SUM, win);
        work();
        MPI_Win_complete(win);
        if (step % 2) {
            MPI_Win_wait(win);
        } else {
            int done = 0;
            while (!done) MPI_Win_test(win, &done);
        }
    }
    printf("groups %u\n", sum(a, N));
    MPI_Group_free(&both);
    MPI_Group_free(&world);
    MPI_Win_free(&win);
}

/* A counter of rank 0's that all take numbers of, and a list that they write what they took into under a lock. */
static void locks(void) {
    enum { EACH = 50 };
    int64_t *a;
    MPI_Win win;
    MPI_Win_allocate((1 + size * EACH) * (int)sizeof *a, sizeof *a, MPI_INFO_NULL, MPI_COMM_WORLD, &a, &win);
    memset(a, 0, (1 + size * EACH) * sizeof *a);
    MPI_Barrier(MPI_COMM_WORLD);
    int64_t one = 1, taken[EACH], all = 0;
    MPI_Win_lock_all(0, win);
    for (int i = 0; i < EACH; i++) {
        MPI_Fetch_and_op(&one, &taken[i], MPI_INT64_T, 0, 0, MPI_SUM, win);
        if (i % 5 == 0) work();
        MPI_Win_flush(0, win);
    }
    MPI_Win_unlock_all(win);
    for (int i = 0; i < EACH; i++) {
        int64_t mark = 1;
        MPI_Win_lock(MPI_LOCK_EXCLUSIVE, 0, 0, win);
        MPI_Put(&mark, 1, MPI_INT64_T, 0, 1 + (int)taken[i], 1, MPI_INT64_T, win);
        MPI_Win_unlock(0, win);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    if (me == 0) {
        MPI_Win_lock(MPI_LOCK_SHARED, 0, 0, win);
        for (int i = 1; i <= size * EACH; i++) all += a[i];
        MPI_Win_unlock(0, win);
        printf("locks: %d taken, %d of them once\n", (int)a[0], (int)all);
    }
    MPI_Win_free(&win);
}

/* A lock of one's own making, by compare and swap, around a number that is read and written in two steps. */
static void swaps(void) {
    int *a, zero = 0, one = 1, old, value;
    MPI_Win win;
    MPI_Win_allocate(2 * sizeof *a, sizeof *a, MPI_INFO_NULL, MPI_COMM_WORLD, &a, &win);
    a[0] = a[1] = 0;
    MPI_Barrier(MPI_COMM_WORLD);
    MPI_Win_lock_all(0, win);
    for (int i = 0; i < 20; i++) {
        do {
            MPI_Compare_and_swap(&one, &zero, &old, MPI_INT, 0, 0, win);
            MPI_Win_flush(0, win);
        } while (old != 0);
        MPI_Get(&value, 1, MPI_INT, 0, 1, 1, MPI_INT, win);
        MPI_Win_flush(0, win);
        value += me + 1;
        MPI_Put(&value, 1, MPI_INT, 0, 1, 1, MPI_INT, win);
        MPI_Win_flush(0, win);
        MPI_Accumulate(&zero, 1, MPI_INT, 0, 0, 1, MPI_INT, MPI_REPLACE, win);
        MPI_Win_flush_local(0, win);
    }
    MPI_Win_unlock_all(win);
    MPI_Barrier(MPI_COMM_WORLD);
    if (me == 0) {
        MPI_Win_sync(win);
        printf("swaps %d\n", a[1]);
    }
    MPI_Win_free(&win);
}

/* Memory that comes and goes, large pieces, and requests of single accesses that are pending all at once. */
static void requests(void) {
    enum { LARGE = 1 << 18, PARTS = 8 };
    int *mine = malloc(LARGE * sizeof *mine), *got = malloc(LARGE * sizeof *got);
    MPI_Win win;
    MPI_Aint at, there;
    MPI_Request r[PARTS];
    for (int i = 0; i < LARGE; i++) mine[i] = me * 7 + i;
    MPI_Win_create_dynamic(MPI_INFO_NULL, MPI_COMM_WORLD, &win);
    MPI_Win_attach(win, mine, LARGE * sizeof *mine);
    MPI_Get_address(mine, &at);
    const int next = (me + 1) % size;
    MPI_Sendrecv(&at, 1, MPI_AINT, (me + size - 1) % size, 3, &there, 1, MPI_AINT, next, 3, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    unsigned s = 0;
    for (int step = 0; step < 6; step++) {
        MPI_Win_lock(MPI_LOCK_SHARED, next, 0, win);
        for (int p = 0; p < PARTS; p++)
            MPI_Rget(got + p * (LARGE / PARTS), LARGE / PARTS, MPI_INT, next, MPI_Aint_add(there, p * (LARGE / PARTS) * (int)sizeof(int)), LARGE / PARTS,
                     MPI_INT, win, &r[p]);
        work();
        MPI_Waitall(PARTS, r, MPI_STATUSES_IGNORE);
        MPI_Win_unlock(next, win);
        s = s * 3 + sum(got, LARGE);
        MPI_Barrier(MPI_COMM_WORLD);
        mine[step] += 5;
        MPI_Barrier(MPI_COMM_WORLD);
    }
    printf("requests %u\n", s);
    /* What is outside is an error of the call that waits for it, and nothing is written. */
    MPI_Win_set_errhandler(win, MPI_ERRORS_RETURN);
    MPI_Win_lock(MPI_LOCK_SHARED, next, 0, win);
    MPI_Put(got, LARGE, MPI_INT, next, there + 4, LARGE, MPI_INT, win);
    int class, code = MPI_Win_unlock(next, win);
    MPI_Error_class(code, &class);
    printf("outside: %s\n", class == MPI_ERR_RMA_RANGE ? "refused" : "allowed");
    MPI_Win_detach(win, mine);
    MPI_Win_free(&win);
    free(mine);
    free(got);
}

int main(int argc, char **argv) {
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &me);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    fences();
    groups();
    locks();
    swaps();
    requests();
    MPI_Finalize();
    return 0;
}
