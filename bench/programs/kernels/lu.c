/* Dense algebra: LU factors with row pivots, then a solution. */
#include <math.h>
#include <stdio.h>
enum { N = 400, TIMES = 5 };
static double a[N][N], rhs[N];
static void factor(int t) {
    for (int i = 0; i < N; i++) {
        rhs[i] = i % 7;
        for (int j = 0; j < N; j++) a[i][j] = ((i * 31 + j * 17 + t) % 97) / 97.0 + (i == j ? 3 : 0);
    }
    for (int k = 0; k < N; k++) {
        int p = k;
        for (int i = k + 1; i < N; i++)
            if (fabs(a[i][k]) > fabs(a[p][k])) p = i;
        if (p != k) {
            for (int j = 0; j < N; j++) {
                double s = a[k][j];
                a[k][j] = a[p][j];
                a[p][j] = s;
            }
            double s = rhs[k];
            rhs[k] = rhs[p];
            rhs[p] = s;
        }
        for (int i = k + 1; i < N; i++) {
            double f = a[i][k] / a[k][k];
            for (int j = k; j < N; j++) a[i][j] -= f * a[k][j];
            rhs[i] -= f * rhs[k];
        }
    }
    for (int i = N - 1; i >= 0; i--) {
        for (int j = i + 1; j < N; j++) rhs[i] -= a[i][j] * rhs[j];
        rhs[i] /= a[i][i];
    }
}
int main(void) {
    double s = 0;
    for (int t = 0; t < TIMES; t++) {
        factor(t);
        for (int i = 0; i < N; i++) s += rhs[i];
    }
    printf("%.17g\n", s);
    return 0;
}
