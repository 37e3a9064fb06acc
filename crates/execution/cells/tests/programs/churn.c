/* Fills as many MiB as its first argument says, says so, and then, round after round, writes to one page of each ten; prints what all of it adds up to. */
#include <stdio.h>
#include <stdlib.h>

enum { PAGE = 4096, WORDS = PAGE / 4 };

int main(int argc, char **argv) {
    size_t pages = (size_t)atoi(argv[1]) * 256;
    int rounds = atoi(argv[2]);
    unsigned *memory = aligned_alloc(PAGE, pages * PAGE);
    if (argc != 3 || !memory) return 1;
    for (size_t i = 0; i < pages * WORDS; i++) memory[i] = (unsigned)(i * 2654435761u) | 1;
    printf("ready\n");
    fflush(stdout);
    for (int round = 0; round < rounds; round++)
        for (size_t page = 0; page < pages; page += 10)
            for (int i = 0; i < WORDS; i++) memory[page * WORDS + i] = memory[page * WORDS + i] * 1664525u + (unsigned)round;
    unsigned sum = 0;
    for (size_t i = 0; i < pages * WORDS; i++) sum = sum * 31 + memory[i];
    printf("sum %u\n", sum);
    return 0;
}
