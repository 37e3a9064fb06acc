/* What OpenMP promises, in numbers and orders that show a lost or doubled step; the argument says how many rounds of it. Knows nothing of cells. */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

enum { THREADS = 4, N = 4000 };

static long own;
#pragma omp threadprivate(own)

static int seen[N];

/* Some work whose result is known. */
static unsigned mix(unsigned x) {
    for (int i = 0; i < 50; i++)
        x = x * 1664525u + 1013904223u;
    return x;
}

static long fib(int n) {
    long a, b;
    if (n < 10)
        return n < 2 ? n : fib(n - 1) + fib(n - 2);
#pragma omp task shared(a)
    a = fib(n - 1);
#pragma omp task shared(b)
    b = fib(n - 2);
#pragma omp taskwait
    return a + b;
}

static unsigned loops(omp_sched_t kind, int chunk) {
    unsigned sum = 0;
    omp_set_schedule(kind, chunk);
#pragma omp parallel for schedule(runtime) reduction(+ : sum)
    for (int i = 0; i < N; i++) {
        seen[i]++;
        sum += mix(i);
    }
    return sum;
}

int main(int argc, char **argv) {
    const int rounds = argc > 1 ? atoi(argv[1]) : 8;
    long critical = 0, atomic = 0, torn = 0, lines = 0, most = 0, phases[THREADS] = {0}, chain = 0;
    unsigned sum = 0;
    double halves = 0;
    omp_lock_t lock;
    long locked = 0;
    omp_init_lock(&lock);
    omp_set_dynamic(0);
    omp_set_num_threads(THREADS);
    for (int round = 0; round < rounds; round++) {
        sum += loops(omp_sched_static, 0) + loops(omp_sched_dynamic, 3) + loops(omp_sched_guided, 2) + loops(omp_sched_static, 7);
        long last = -1;
#pragma omp parallel reduction(+ : halves, atomic) reduction(max : most)
        {
            const int me = omp_get_thread_num();
            own += me + 1;
            for (int i = 0; i < 60; i++) {
#pragma omp critical
                critical++;
                omp_set_lock(&lock);
                locked++;
                omp_unset_lock(&lock);
                atomic++;
                halves += 0.5;
            }
            most = own > most ? own : most;
            for (long i = 0; i < 8; i++) {
                phases[me] = i;
#pragma omp barrier
                for (int k = 0; k < THREADS; k++)
                    if (phases[k] != i)
#pragma omp atomic
                        torn++;
#pragma omp barrier
            }
#pragma omp for ordered schedule(dynamic, 1)
            for (long i = 0; i < 30; i++) {
                const unsigned x = mix(i);
#pragma omp ordered
                {
                    torn += last != i - 1;
                    last = i;
                    lines += x & 15;
                }
            }
            long told = 0;
#pragma omp single copyprivate(told)
            told = 40 + round;
            if (told != 40 + round)
#pragma omp atomic
                torn++;
#pragma omp sections
            {
#pragma omp section
                sum += mix(1);
#pragma omp section
                {
#pragma omp critical
                    lines++;
                }
            }
        }
        long tasks = 0;
#pragma omp parallel
#pragma omp single
        {
            tasks = fib(19);
            for (int i = 0; i < 40; i++) {
#pragma omp task depend(inout : chain)
                chain = chain * 3 % 1000003 + i;
            }
#pragma omp taskloop grainsize(5)
            for (int i = 0; i < 100; i++)
#pragma omp atomic
                lines += mix(i) & 3;
        }
        printf("round %d: tasks %ld, chain %ld, sum %u\n", round, tasks, chain, sum);
        fflush(stdout);
    }
    long kept = 0;
    int wrong = 0;
#pragma omp parallel reduction(+ : kept)
    kept += own;
    for (int i = 0; i < N; i++)
        wrong += seen[i] != 4 * rounds;
    printf("critical %ld, locked %ld, atomic %ld, halves %.1f, most %ld, kept %ld, lines %ld, torn %ld, wrong %d\n", critical, locked, atomic, halves, most, kept,
           lines, torn, wrong);
    return 0;
}
