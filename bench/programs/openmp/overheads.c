/* What OpenMP's own parts cost on two threads: microseconds of each, the median of many windows. A line of numbers: fork and join, barrier, loop with a
 * static schedule, one iteration of a loop with a dynamic one, reduction, critical section. */
#include <omp.h>
#include <stdio.h>

enum { WINDOWS = 41, TIMES = 500, CHUNKS = 64 };

static volatile int seen;
static int shared;

static double median(double *all) {
    for (int i = 1; i < WINDOWS; i++) {
        double x = all[i];
        int j = i;
        for (; j > 0 && all[j - 1] > x; j--) all[j] = all[j - 1];
        all[j] = x;
    }
    return all[WINDOWS / 2];
}

static void fork_join(void) {
    for (int i = 0; i < TIMES; i++) {
#pragma omp parallel
        seen = i;
    }
}

static void barrier(void) {
#pragma omp parallel
    for (int i = 0; i < TIMES; i++) {
#pragma omp barrier
    }
}

static void fixed(void) {
#pragma omp parallel
    for (int i = 0; i < TIMES; i++) {
#pragma omp for schedule(static)
        for (int j = 0; j < 2; j++) seen = j;
    }
}

static void dynamic(void) {
#pragma omp parallel
    for (int i = 0; i < TIMES / 10; i++) {
#pragma omp for schedule(dynamic)
        for (int j = 0; j < CHUNKS; j++) seen = j;
    }
}

static void reduction(void) {
    for (int i = 0; i < TIMES; i++) {
        int sum = 0;
#pragma omp parallel reduction(+ : sum)
        sum += 1;
        seen = sum;
    }
}

static void critical(void) {
#pragma omp parallel
    for (int i = 0; i < TIMES; i++) {
#pragma omp critical
        shared++;
    }
}

static double of(void (*part)(void), int times) {
    double all[WINDOWS];
    part();
    for (int w = 0; w < WINDOWS; w++) {
        double start = omp_get_wtime();
        part();
        all[w] = (omp_get_wtime() - start) / times * 1e6;
    }
    return median(all);
}

int main(void) {
    double f = of(fork_join, TIMES), b = of(barrier, TIMES), s = of(fixed, TIMES);
    double d = of(dynamic, TIMES / 10 * CHUNKS), r = of(reduction, TIMES), c = of(critical, 2 * TIMES);
    printf("%.4f %.4f %.4f %.4f %.4f %.4f\n", f, b, s, d, r, c);
    return 0;
}
