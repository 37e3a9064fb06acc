/* Fills 32 MiB with what no fresh instance has, says so, and goes on changing a little of it for ever. */
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>

enum { WORDS = 8 << 20 };
static uint32_t memory[WORDS];

int main(int argc, char **argv) {
    MPI_Init(&argc, &argv);
    uint32_t x = 1;
    for (int i = 0; i < WORDS; i++) memory[i] = x = x * 1664525u + 1013904223u;
    printf("full\n");
    fflush(stdout);
    for (uint32_t round = 0;; round++)
        for (int i = 0; i < 1000; i++) memory[(round * 1009u + i) % WORDS] += round;
}
