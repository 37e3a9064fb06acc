/* A program that has begun and waits for what never comes: a message in a cell, a signal in a process of its own. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef __wasm__
#include <mpi.h>
#else
#include <unistd.h>
#endif

int main(int argc, char **argv) {
    /* Something that it has made for itself. */
    char *memory = malloc(4096);
    memset(memory, argc, 4096);
    printf("ready\n");
    fflush(stdout);
#ifdef __wasm__
    MPI_Init(&argc, &argv);
    MPI_Recv(memory, 1, MPI_CHAR, MPI_ANY_SOURCE, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    MPI_Finalize();
#else
    pause();
#endif
    return memory[7];
}
