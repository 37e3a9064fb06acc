/* Loops of which nobody knows the length. */
#include <stdio.h>
enum { W = 480, H = 320, MOST = 300 };
int main(void) {
    unsigned sum = 0;
    for (int py = 0; py < H; py++)
        for (int px = 0; px < W; px++) {
            double cx = px * 3.0 / W - 2.2, cy = py * 2.4 / H - 1.2, x = 0, y = 0;
            int n = 0;
            while (n < MOST && x * x + y * y < 4) {
                double t = x * x - y * y + cx;
                y = 2 * x * y + cy;
                x = t;
                n++;
            }
            sum = sum * 31 + n;
        }
    printf("%u\n", sum);
    return 0;
}
