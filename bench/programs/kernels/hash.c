/* A hash table with open addresses: insertions, searches, removals. */
#include <stdint.h>
#include <stdio.h>
enum { SLOTS = 1 << 19, KEYS = 300000, ROUNDS = 6 };
static uint64_t key[SLOTS], count[SLOTS];
static uint32_t place(uint64_t k) {
    k ^= k >> 33;
    k *= 0xff51afd7ed558ccdull;
    k ^= k >> 33;
    k *= 0xc4ceb9fe1a85ec53ull;
    return (uint32_t)(k ^ k >> 33) & (SLOTS - 1);
}
static uint64_t *find(uint64_t k) {
    for (uint32_t i = place(k);; i = (i + 1) & (SLOTS - 1)) {
        if (key[i] == k) return &count[i];
        if (key[i] == 0) {
            key[i] = k;
            return &count[i];
        }
    }
}
int main(void) {
    uint64_t sum = 0;
    for (int round = 0; round < ROUNDS; round++)
        for (uint64_t i = 1; i <= KEYS; i++) *find(i * 2654435761u % 1000003 + 1) += i ^ round;
    for (uint32_t i = 0; i < SLOTS; i++) sum = sum * 31 + count[i] * (key[i] + 1);
    printf("%llu\n", (unsigned long long)sum);
    return 0;
}
