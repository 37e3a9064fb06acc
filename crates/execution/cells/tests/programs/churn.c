/* Fills as many MiB as its first argument says, says so, and then, round after round (its second argument), writes to one page of each ten; prints what all of it adds up to.
   With a third argument it goes on with writing until there is a file of that name: twice the same, which changes nothing of the sum, so that it is as long at work as somebody wants without being told how long that is. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / 4 };

int main(int argc, char **argv) {
    size_t pages = (size_t)atoi(argv[1]) * 256;
    int rounds = atoi(argv[2]);
    unsigned *memory = aligned_alloc(PAGE, pages * PAGE);
    if (argc < 3 || argc > 4 || !memory) return 1;
    for (size_t i = 0; i < pages * WORDS; i++) memory[i] = (unsigned)(i * 2654435761u) | 1;
    printf("ready\n");
    fflush(stdout);
    for (int round = 0; round < rounds; round++)
        for (size_t page = 0; page < pages; page += 10)
            for (int i = 0; i < WORDS; i++) memory[page * WORDS + i] = memory[page * WORDS + i] * 1664525u + (unsigned)round;
    while (argc == 4 && access(argv[3], F_OK))
        for (int twice = 0; twice < 2; twice++)
            for (size_t page = 0; page < pages; page += 10)
                for (int i = 0; i < WORDS; i++) memory[page * WORDS + i] ^= 0x5a5a5a5au;
    unsigned sum = 0;
    for (size_t i = 0; i < pages * WORDS; i++) sum = sum * 31 + memory[i];
    printf("sum %u\n", sum);
    return 0;
}
