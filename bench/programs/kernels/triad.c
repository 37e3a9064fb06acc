/* Stream: three arrays that do not fit into the second cache, and one that does. */
#include <stdio.h>
enum { N = 1500000, TIMES = 30, SMALL = 4000, MANY = 12000 };
static double a[N], b[N], c[N];
int main(void) {
    for (int i = 0; i < N; i++) {
        b[i] = i % 13;
        c[i] = i % 7;
    }
    for (int t = 0; t < TIMES; t++)
        for (int i = 0; i < N; i++) a[i] = b[i] + (t + 0.5) * c[i];
    for (int t = 0; t < MANY; t++)
        for (int i = 0; i < SMALL; i++) a[i] = b[i] + (t + 0.5) * c[i];
    double s = 0;
    for (int i = 0; i < N; i += 997) s += a[i];
    printf("%.17g\n", s);
    return 0;
}
