/* Rotations and sums of 32 bits: SHA-256 of a few megabytes. */
#include <stdint.h>
#include <stdio.h>
enum { BYTES = 1 << 20, TIMES = 20 };
static unsigned char data[BYTES];
static uint32_t k[64], h[8];
static uint32_t turn(uint32_t v, int n) { return v >> n | v << (32 - n); }
static void block(const unsigned char *p) {
    uint32_t w[64];
    for (int i = 0; i < 16; i++) w[i] = (uint32_t)p[4 * i] << 24 | p[4 * i + 1] << 16 | p[4 * i + 2] << 8 | p[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        uint32_t a = turn(w[i - 15], 7) ^ turn(w[i - 15], 18) ^ w[i - 15] >> 3;
        uint32_t b = turn(w[i - 2], 17) ^ turn(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + a + w[i - 7] + b;
    }
    uint32_t s[8];
    for (int i = 0; i < 8; i++) s[i] = h[i];
    for (int i = 0; i < 64; i++) {
        uint32_t e = turn(s[4], 6) ^ turn(s[4], 11) ^ turn(s[4], 25), c = (s[4] & s[5]) ^ (~s[4] & s[6]);
        uint32_t t = s[7] + e + c + k[i] + w[i];
        uint32_t a = turn(s[0], 2) ^ turn(s[0], 13) ^ turn(s[0], 22), m = (s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]);
        for (int j = 7; j > 0; j--) s[j] = s[j - 1];
        s[4] += t;
        s[0] = t + a + m;
    }
    for (int i = 0; i < 8; i++) h[i] += s[i];
}
int main(void) {
    uint32_t x = 1;
    for (int i = 0; i < 64; i++) k[i] = x = x * 1664525 + 1013904223;
    for (int i = 0; i < BYTES; i++) data[i] = (unsigned char)(i * 7 + (i >> 8));
    for (int t = 0; t < TIMES; t++)
        for (int i = 0; i < BYTES; i += 64) block(data + i);
    printf("%08x%08x\n", h[0], h[7]);
    return 0;
}
