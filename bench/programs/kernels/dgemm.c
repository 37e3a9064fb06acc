/* Dense algebra: a product of matrices, rows by rows. */
#include <stdio.h>
enum { N = 512, TIMES = 2 };
static double a[N][N], b[N][N], c[N][N];
int main(void) {
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            a[i][j] = (i * 3 + j) % 17 - 8;
            b[i][j] = (i + j * 5) % 19 - 9;
        }
    for (int t = 0; t < TIMES; t++)
        for (int i = 0; i < N; i++)
            for (int k = 0; k < N; k++) {
                double f = a[i][k] + t;
                for (int j = 0; j < N; j++) c[i][j] += f * b[k][j];
            }
    double s = 0;
    for (int i = 0; i < N; i++) s += c[i][(i * 7) % N] * (i + 1);
    printf("%.17g\n", s);
    return 0;
}
