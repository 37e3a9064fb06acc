/* A rank of 64 MB that rewrites 10 % of its memory each second, in blocks of 16 pages, until it is ended. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGE 4096
#define BLOCK (16 * PAGE)
#define BYTES (64u << 20)

/* Seen from elsewhere, so that the compiler keeps what is written there. */
unsigned char *volatile seen;

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    unsigned char *memory = seen = malloc(BYTES);
    unsigned state = 1;
    for (unsigned i = 0; i < BYTES; i++) {
        state = state * 1664525u + 1013904223u;
        memory[i] = state >> 24;
    }
    puts("ready");
    fflush(stdout);
    double start = MPI_Wtime();
    for (unsigned long step = 0;; step++) {
        state = state * 1664525u + 1013904223u;
        unsigned block = (state >> 8) % (BYTES / BLOCK);
        memset(seen + (size_t)block * BLOCK, (int)step, BLOCK);
        /* Blocks for 10 % a second: sleep until this one's time has come. */
        double due = start + (step + 1) * ((double)BLOCK / (BYTES * 0.1));
        double left = due - MPI_Wtime();
        if (left > 0)
            usleep((unsigned)(left * 1e6));
    }
}
