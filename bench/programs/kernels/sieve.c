/* Branchy integers: primes, and the number of steps of 3n+1. */
#include <stdint.h>
#include <stdio.h>
enum { N = 3000000, TIMES = 3, STARTS = 150000 };
static unsigned char composite[N];
int main(void) {
    uint32_t sum = 0;
    for (int t = 0; t < TIMES; t++) {
        for (int i = 0; i < N; i++) composite[i] = 0;
        for (int i = 2; i * i < N; i++)
            if (!composite[i])
                for (int j = i * i; j < N; j += i) composite[j] = 1;
        for (int i = 2; i < N; i++)
            if (!composite[i]) sum = sum * 33 + (uint32_t)i;
    }
    for (uint64_t start = 1; start < STARTS; start++) {
        uint32_t steps = 0;
        for (uint64_t n = start; n != 1; steps++) n = n & 1 ? 3 * n + 1 : n / 2;
        sum = sum * 31 + steps;
    }
    printf("%u\n", sum);
    return 0;
}
