/* Fourier transforms there and back, radix two, factors from a table. */
#include <math.h>
#include <stdio.h>
enum { LOG = 15, N = 1 << LOG, TIMES = 20 };
static double re[N], im[N], wr[N / 2], wi[N / 2];
static void transform(int sign) {
    for (int i = 1, j = 0; i < N; i++) {
        int bit = N >> 1;
        for (; j & bit; bit >>= 1) j ^= bit;
        j ^= bit;
        if (i < j) {
            double t = re[i];
            re[i] = re[j];
            re[j] = t;
            t = im[i];
            im[i] = im[j];
            im[j] = t;
        }
    }
    for (int half = 1; half < N; half *= 2) {
        int step = N / 2 / half;
        for (int start = 0; start < N; start += 2 * half)
            for (int k = 0; k < half; k++) {
                double c = wr[k * step], s = sign * wi[k * step];
                int p = start + k, q = p + half;
                double tr = c * re[q] - s * im[q], ti = c * im[q] + s * re[q];
                re[q] = re[p] - tr;
                im[q] = im[p] - ti;
                re[p] += tr;
                im[p] += ti;
            }
    }
}
int main(void) {
    /* By halving angles with square roots, which are the same everywhere; sine and cosine are not. */
    for (int i = 0; i < N / 2; i++) {
        double c = 1, s = 0, hc = -1, hs = 0;
        for (int bit = N / 2; bit >= 1; bit /= 2) {
            if (i & bit) {
                double t = c * hc - s * hs;
                s = c * hs + s * hc;
                c = t;
            }
            double nc = sqrt((1 + hc) / 2);
            hs = nc == 0 ? 1 : hs / (2 * nc);
            hc = nc;
        }
        wr[i] = c;
        wi[i] = s;
    }
    for (int i = 0; i < N; i++) re[i] = i % 23 - 11;
    for (int t = 0; t < TIMES; t++) {
        transform(1);
        transform(-1);
        for (int i = 0; i < N; i++) {
            re[i] /= N;
            im[i] /= N;
        }
    }
    double s = 0;
    for (int i = 0; i < N; i += 37) s += re[i] * (i % 5) + im[i];
    printf("%.17g\n", s);
    return 0;
}
