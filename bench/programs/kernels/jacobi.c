/* Stencil: Jacobi sweeps with the residual summed in order. */
#include <stdio.h>
enum { N = 600, STEPS = 250 };
static double a[N][N], b[N][N];
int main(void) {
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) a[i][j] = (i * 7 + j * 13) % 101;
    double residual = 0;
    for (int step = 0; step < STEPS; step++) {
        residual = 0;
        for (int i = 1; i < N - 1; i++)
            for (int j = 1; j < N - 1; j++) {
                b[i][j] = 0.25 * (a[i - 1][j] + a[i + 1][j] + a[i][j - 1] + a[i][j + 1]);
                double d = b[i][j] - a[i][j];
                residual += d * d;
            }
        for (int i = 1; i < N - 1; i++)
            for (int j = 1; j < N - 1; j++) a[i][j] = b[i][j];
    }
    printf("%.17g\n", residual);
    return 0;
}
