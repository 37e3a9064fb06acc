/* Computes for a while in nested loops over its memory and in a recursion, without calling anything of the host. Arguments: steps, and how deep it calls itself. */
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { N = 400 };
static double a[N][N], b[N][N];

static uint32_t fib(uint32_t n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }

int main(int argc, char **argv) {
    int me, steps = argc > 1 ? atoi(argv[1]) : 400, deep = argc > 2 ? atoi(argv[2]) : 31;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &me);
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) a[i][j] = (i * 7 + j * 13 + me) % 101;
    for (int step = 0; step < steps; step++) {
        for (int i = 1; i < N - 1; i++)
            for (int j = 1; j < N - 1; j++) b[i][j] = 0.25 * (a[i - 1][j] + a[i + 1][j] + a[i][j - 1] + a[i][j + 1]);
        for (int i = 1; i < N - 1; i++)
            for (int j = 1; j < N - 1; j++) a[i][j] = b[i][j];
    }
    uint32_t f = fib(deep);
    double sum = 0;
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) sum += a[i][j];
    printf("rank %d: %.17g %u\n", me, sum, f);
    MPI_Finalize();
    return 0;
}
