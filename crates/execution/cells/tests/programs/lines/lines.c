/* Fails in the way that its argument names. The line where it then is, and those of the calls that lead there, are marked with the names that the test looks for. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OUTSIDE 0xfffffff0u

volatile int zero;
static int (*volatile nowhere)(int);
static unsigned table[64];

static inline __attribute__((always_inline)) int divided(int x) {
    x += 7;
    return x / zero; /* at: divided */
}

__attribute__((noinline)) static int innermost(int x) {
    int sum = 0;
    for (int i = 0; i < x * 1000; i++) sum ^= i * x;
    sum += divided(x); /* at: innermost */
    return sum + 1;
}

__attribute__((noinline)) static int outer(int x) {
    MPI_Barrier(MPI_COMM_SELF);
    int y = innermost(x * 2); /* at: outer */
    MPI_Barrier(MPI_COMM_SELF);
    return y + 1;
}

/* A loop that counts, which is cut into pieces. */
__attribute__((noinline)) static int counts(int *to, const volatile int *by, int n) {
    for (int i = 0; i < n; i++)
        to[i] =
            1000 / by[i]; /* at: counts */
    return to[n - 1];
}

/* One that does not, and is written down several times. */
__attribute__((noinline)) static unsigned follows(unsigned at) {
    do
        at = *(volatile unsigned *)(table + at); /* at: follows */
    while (at != 77);
    return at;
}

__attribute__((noinline)) static int indirect(int x) {
    MPI_Barrier(MPI_COMM_SELF);
    return nowhere(x) + 1; /* at: indirect */
}

__attribute__((noinline)) static int deep(int n) {
    if (n == 0) return 1000 / zero; /* at: bottom */
    return deep(n - 1) * 2 + n; /* at: deep */
}

__attribute__((noinline)) static void gives_up(void) {
    if (!zero) abort(); /* at: gives_up */
    puts("not yet");
}

int main(int argc, char **argv) {
    MPI_Init(&argc, &argv);
    const char *what = argc > 1 ? argv[1] : "";
    int to[64];
    int by[64];
    for (int i = 0; i < 64; i++) by[i] = 50 - i, table[i] = i + 1;
    table[60] = OUTSIDE / sizeof *table;
    int result = 0;
    if (!strcmp(what, "innermost")) result = outer(argc); /* at: main innermost */
    if (!strcmp(what, "counts")) result = counts(to, by, 64); /* at: main counts */
    if (!strcmp(what, "follows")) result = (int)follows((unsigned)argc); /* at: main follows */
    if (!strcmp(what, "indirect")) result = indirect(argc); /* at: main indirect */
    if (!strcmp(what, "deep")) result = deep(argc + 6); /* at: main deep */
    if (!strcmp(what, "gives_up")) gives_up(); /* at: main gives_up */
    printf("%d\n", result);
    MPI_Finalize();
    return 0;
}
