/* Rank 1 misbehaves in the way that its argument names; rank 0 waits for it. */
#include <errno.h>
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int (*volatile nowhere)(int);
__attribute__((noinline)) static int innermost(int x) { return nowhere(x) + 1; }
__attribute__((noinline)) static int outer(int x) { return innermost(x * 2) + 1; }
static uint64_t slow(uint32_t n) { return n < 2 ? n : slow(n - 1) + slow(n - 2); }

int main(int argc, char **argv) {
    int me;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &me);
    const char *what = argc > 1 ? argv[1] : "";
    if (me == 1) {
        if (!strcmp(what, "trap")) return outer(argc);
        if (!strcmp(what, "abort")) MPI_Abort(MPI_COMM_WORLD, 7);
        if (!strcmp(what, "rank")) MPI_Send(&me, 1, MPI_INT, 99, 0, MPI_COMM_WORLD);
        if (!strcmp(what, "missing")) {
            MPI_Comm children;
            MPI_Comm_spawn("another", MPI_ARGV_NULL, 1, MPI_INFO_NULL, 0, MPI_COMM_SELF, &children, MPI_ERRCODES_IGNORE);
        }
        if (!strcmp(what, "memory")) {
            for (;;) {
                char *volatile p = malloc(1 << 20); /* volatile: or the compiler proves that nobody needs it */
                if (!p) return 3;
                memset(p, 1, 1 << 20);
            }
        }
        if (!strcmp(what, "escape")) {
            const char *paths[] = {"/etc/passwd", "../../etc/passwd", "/data/../../etc/passwd", "/proc/self/maps"};
            for (int i = 0; i < 4; i++)
                if (fopen(paths[i], "r")) printf("opened %s\n", paths[i]);
            printf("denied\n");
        }
        if (!strcmp(what, "spin")) {
            uint32_t x = 1;
            do x = x * 5 + 1; while (x != 0 || argc);
            printf("%u\n", (unsigned)x);
        }
        if (!strcmp(what, "recursion")) printf("%llu\n", (unsigned long long)slow(60));
        if (!strcmp(what, "wait")) MPI_Recv(&me, 1, MPI_INT, 0, 5, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    }
    MPI_Finalize();
    return 0;
}
