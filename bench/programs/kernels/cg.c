/* Sparse algebra: conjugate gradients on rows of different lengths. */
#include <stdio.h>
enum { N = 60000, PER_ROW = 9, STEPS = 60 };
static int first[N + 1], column[N * PER_ROW];
static double value[N * PER_ROW], x[N], r[N], p[N], q[N];
static void multiply(const double *in, double *out) {
    for (int i = 0; i < N; i++) {
        double s = 0;
        for (int k = first[i]; k < first[i + 1]; k++) s += value[k] * in[column[k]];
        out[i] = s;
    }
}
static double dot(const double *u, const double *v) {
    double s = 0;
    for (int i = 0; i < N; i++) s += u[i] * v[i];
    return s;
}
int main(void) {
    int n = 0;
    for (int i = 0; i < N; i++) {
        first[i] = n;
        column[n] = i;
        value[n++] = 20 + i % 5;
        for (int k = 1; k <= 2 + i % 3; k++) {
            int j = i + k * k * 13;
            if (j < N) {
                column[n] = j;
                value[n++] = -1;
            }
            if (i - k * k * 13 >= 0) {
                column[n] = i - k * k * 13;
                value[n++] = -1;
            }
        }
        x[i] = 0;
        r[i] = p[i] = 1 + i % 11;
    }
    first[N] = n;
    double rr = dot(r, r);
    for (int step = 0; step < STEPS; step++) {
        multiply(p, q);
        double alpha = rr / dot(p, q);
        for (int i = 0; i < N; i++) {
            x[i] += alpha * p[i];
            r[i] -= alpha * q[i];
        }
        double next = dot(r, r), beta = next / rr;
        rr = next;
        for (int i = 0; i < N; i++) p[i] = r[i] + beta * p[i];
    }
    printf("%.17g %.17g\n", rr, x[N / 2]);
    return 0;
}
