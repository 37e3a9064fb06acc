/* Three programs on two threads, each the least of several runs in milliseconds: a matrix product, a stencil with a reduction, and bodies that attract
 * each other with iterations handed out as they are asked for. The fourth number is what they have computed: the same everywhere. */
#include <math.h>
#include <omp.h>
#include <stdio.h>

enum { N = 320, GRID = 700, SWEEPS = 20, BODIES = 900, RUNS = 5 };
static double a[N][N], b[N][N], c[N][N];
static double u[GRID][GRID], v[GRID][GRID];
static double at[BODIES][3], force[BODIES][3];

static double product(void) {
#pragma omp parallel for schedule(static)
    for (int i = 0; i < N; i++) {
        for (int j = 0; j < N; j++) c[i][j] = 0;
        for (int k = 0; k < N; k++)
            for (int j = 0; j < N; j++) c[i][j] += a[i][k] * b[k][j];
    }
    return c[N / 3][N / 2];
}

static double stencil(void) {
    double most = 0;
    for (int i = 0; i < GRID; i++)
        for (int j = 0; j < GRID; j++) u[i][j] = i == 0;
    for (int s = 0; s < SWEEPS; s++) {
        most = 0;
#pragma omp parallel
        {
#pragma omp for schedule(static)
            for (int i = 1; i < GRID - 1; i++)
                for (int j = 1; j < GRID - 1; j++) v[i][j] = 0.25 * (u[i - 1][j] + u[i + 1][j] + u[i][j - 1] + u[i][j + 1]);
#pragma omp for schedule(static) reduction(max : most)
            for (int i = 1; i < GRID - 1; i++)
                for (int j = 1; j < GRID - 1; j++) {
                    double change = fabs(v[i][j] - u[i][j]);
                    most = change > most ? change : most;
                    u[i][j] = v[i][j];
                }
        }
    }
    return most;
}

static double bodies(void) {
#pragma omp parallel for schedule(dynamic, 16)
    for (int i = 0; i < BODIES; i++) {
        double x = 0, y = 0, z = 0;
        for (int j = 0; j < BODIES; j++) {
            double dx = at[j][0] - at[i][0], dy = at[j][1] - at[i][1], dz = at[j][2] - at[i][2];
            double r = 1 / sqrt(dx * dx + dy * dy + dz * dz + 0.01);
            r = r * r * r;
            x += dx * r;
            y += dy * r;
            z += dz * r;
        }
        force[i][0] = x;
        force[i][1] = y;
        force[i][2] = z;
    }
    return force[BODIES / 7][1];
}

static double least(double (*kernel)(void), double *sum) {
    double best = 1e9;
    for (int r = 0; r < RUNS; r++) {
        double start = omp_get_wtime();
        *sum += kernel();
        double ms = (omp_get_wtime() - start) * 1e3;
        best = ms < best ? ms : best;
    }
    return best;
}

int main(void) {
    double sum = 0;
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            a[i][j] = (i * 3 + j) % 17 - 8;
            b[i][j] = (i + j * 5) % 19 - 9;
        }
    for (int i = 0; i < BODIES; i++)
        for (int d = 0; d < 3; d++) at[i][d] = (i * (17 + 12 * d)) % 101 / 10.0;
    double p = least(product, &sum), s = least(stencil, &sum), n = least(bodies, &sum);
    printf("%.4f %.4f %.4f %.17g\n", p, s, n, sum);
    return 0;
}
