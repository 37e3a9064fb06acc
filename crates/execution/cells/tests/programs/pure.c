/* Loops that neither write memory nor call: what one of them reads of memory is the same as what one before it has read, or one around it. The second, or
 * the inner one, has no end. Argument: after | within. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv) {
    uint32_t x = (uint32_t)argc * 2654435761u, rounds = 0;
    int within = argc > 1 && strcmp(argv[1], "within") == 0;
    do {
        for (uint32_t i = 0; i < 1000; i++) x = x * 1664525u + 1013904223u;
        // An odd number times an odd number, plus an even one, is odd: it never ends, which no compiler sees.
        if (!within || rounds % 2)
            for (x |= 1; x != 0 && x % 65536 != 32768; ) x = x * 1664525u + ((x >> 7) & 2);
        rounds++;
    } while (x != 1);
    printf("%u\n", rounds);
    return 0;
}
