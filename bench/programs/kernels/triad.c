/* Stream: three arrays that do not fit into the second cache, and a part of them that does. A sweep's factor depends on what the one before has written,
 * elsewhere in the array: with elements that knew only of themselves a compiler may do all sweeps of an element at once (gcc does, and the kernel then measures
 * how well it exchanges two loops), and it is memory that is to be measured. */
#include <stdio.h>
enum { N = 1500000, TIMES = 30, SMALL = 4000, MANY = 12000 };
static double a[N], b[N], c[N];
int main(void) {
    for (int i = 0; i < N; i++) {
        b[i] = i % 13;
        c[i] = i % 7;
    }
    double factor = 0.5;
    for (int t = 0; t < TIMES; t++) {
        for (int i = 0; i < N; i++) a[i] = b[i] + factor * c[i];
        factor = t + 0.001 * a[t * 40009 % N];
    }
    for (int t = 0; t < MANY; t++) {
        for (int i = 0; i < SMALL; i++) a[i] = b[i] + factor * c[i];
        factor = t + 0.001 * a[t * 7 % SMALL];
    }
    double s = 0;
    for (int i = 0; i < N; i += 997) s += a[i];
    printf("%.17g\n", s);
    return 0;
}
