/* A rank of so many MB (the argument) that rewrites 6.4 MB each second, 10 % of 64 MB, in blocks of 16 pages, until it is ended. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGE 4096
#define BLOCK (16 * PAGE)
#define RATE 6.4e6

/* Seen from elsewhere, so that the compiler keeps what is written there. */
unsigned char *volatile seen;

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    unsigned bytes = (argc > 1 ? atoi(argv[1]) : 64) * 1048576u;
    unsigned char *memory = seen = malloc(bytes);
    unsigned state = 1;
    for (unsigned i = 0; i < bytes; i++) {
        state = state * 1664525u + 1013904223u;
        memory[i] = state >> 24;
    }
    puts("ready");
    fflush(stdout);
    double start = MPI_Wtime();
    for (unsigned long step = 0;; step++) {
        state = state * 1664525u + 1013904223u;
        unsigned block = (state >> 8) % (bytes / BLOCK);
        memset(seen + (size_t)block * BLOCK, (int)step, BLOCK);
        /* Blocks for 10 % a second: sleep until this one's time has come. */
        double due = start + (step + 1) * (BLOCK / RATE);
        double left = due - MPI_Wtime();
        if (left > 0)
            usleep((unsigned)(left * 1e6));
    }
}
