/* All pairs of bodies attract each other. */
#include <math.h>
#include <stdio.h>
enum { N = 700, STEPS = 30 };
static double x[N], y[N], z[N], vx[N], vy[N], vz[N], m[N];
int main(void) {
    for (int i = 0; i < N; i++) {
        x[i] = (i * 37 % 101) * 0.1;
        y[i] = (i * 53 % 103) * 0.1;
        z[i] = (i * 71 % 107) * 0.1;
        m[i] = 1 + i % 3;
    }
    for (int step = 0; step < STEPS; step++) {
        for (int i = 0; i < N; i++) {
            double ax = 0, ay = 0, az = 0;
            for (int j = 0; j < N; j++) {
                double dx = x[j] - x[i], dy = y[j] - y[i], dz = z[j] - z[i];
                double r2 = dx * dx + dy * dy + dz * dz + 0.01;
                double f = m[j] / (r2 * sqrt(r2));
                ax += f * dx;
                ay += f * dy;
                az += f * dz;
            }
            vx[i] += 1e-4 * ax;
            vy[i] += 1e-4 * ay;
            vz[i] += 1e-4 * az;
        }
        for (int i = 0; i < N; i++) {
            x[i] += 1e-4 * vx[i];
            y[i] += 1e-4 * vy[i];
            z[i] += 1e-4 * vz[i];
        }
    }
    double e = 0;
    for (int i = 0; i < N; i++) e += m[i] * (vx[i] * vx[i] + vy[i] * vy[i] + vz[i] * vz[i]);
    printf("%.17g\n", e);
    return 0;
}
