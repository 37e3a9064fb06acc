/* Work in many parallel regions of which each takes some milliseconds; says when the first half is done, and at the end. Who gives it another processor in between
 * is told nothing by the program, and the program nothing by them. */
#include <stdio.h>

enum { REGIONS = 200, ITEMS = 512, WORK = 60000 };
static unsigned result[ITEMS];

int main(void) {
    for (int r = 0; r < REGIONS; r++) {
        if (r == REGIONS / 2) {
            printf("half\n");
            fflush(stdout);
        }
#pragma omp parallel for schedule(static)
        for (int i = 0; i < ITEMS; i++) {
            unsigned x = result[i] + i;
            for (int k = 0; k < WORK; k++) x = x * 1664525u + 1013904223u;
            result[i] = x;
        }
    }
    unsigned sum = 0;
    for (int i = 0; i < ITEMS; i++) sum = sum * 31 + result[i];
    printf("%u\n", sum);
    return 0;
}
