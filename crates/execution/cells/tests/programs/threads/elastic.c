/* A team is as large as the agent allows at each region; ends when it is five. Before that, sums that must have the same bits each time. */
#include <omp.h>
#include <stdio.h>
#include <unistd.h>

static double sum(void) {
    double s = 0;
#pragma omp parallel for reduction(+ : s) num_threads(3)
    for (int i = 1; i <= 3000; i++)
        s += 1.0 / i;
    return s;
}

int main(void) {
    const double first = sum();
    int differ = 0, last = 0;
    for (int i = 0; i < 200; i++)
        differ += sum() != first;
    printf("differ %d\n", differ);
    while (last != 5) {
        int n = 0;
#pragma omp parallel
#pragma omp single
        n = omp_get_num_threads();
        if (n != last)
            printf("%d\n", n);
        fflush(stdout);
        last = n;
        usleep(1000);
    }
    return 0;
}
