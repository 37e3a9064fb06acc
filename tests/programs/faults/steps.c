/* Steps: ranks in a ring pass a number on at each step, rewrite a part of their memory with it, and say every so often, on standard
 * output and in a file of their own that stays open, where they are. The same output in every run, however slow. What a rank that was
 * started twice, or lost a message, would print is different.
 * Arguments: folder, steps (300), milliseconds to sleep per step (10), KiB of memory per rank (4096). */
#include <inttypes.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int main(int argc, char **argv)
{
    int rank, ranks;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    const char *folder = argc > 1 ? argv[1] : ".";
    int32_t steps = argc > 2 ? atoi(argv[2]) : 300, sleep_ms = argc > 3 ? atoi(argv[3]) : 10;
    int32_t words = (argc > 4 ? atoi(argv[4]) : 4096) * 256, at = 0;
    uint32_t *memory = calloc((size_t)words, sizeof *memory), sum = (uint32_t)rank + 1;
    char path[256];
    snprintf(path, sizeof path, "%s/rank-%d.txt", folder, rank);
    FILE *file = fopen(path, "w");
    if (memory == NULL || file == NULL) {
        perror(path);
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    struct timespec nap = {0, sleep_ms * 1000000};
    for (int32_t step = 0; step < steps; step++) {
        uint32_t got = 0;
        MPI_Sendrecv(&sum, 1, MPI_UINT32_T, (rank + 1) % ranks, step, &got, 1, MPI_UINT32_T, (rank + ranks - 1) % ranks, step, MPI_COMM_WORLD,
                     MPI_STATUS_IGNORE);
        for (int32_t i = 0; i < words / 16; i++) {
            at = at + 1 < words ? at + 1 : 0;
            memory[at] += got ^ (uint32_t)i;
            sum = sum * 1664525u + memory[at];
        }
        if (step % 10 == 0) {
            printf("rank %d step %" PRId32 " sum %08" PRIx32 "\n", rank, step, sum);
            fflush(stdout);
            fprintf(file, "step %" PRId32 " sum %08" PRIx32 "\n", step, sum);
        }
        if (sleep_ms > 0)
            nanosleep(&nap, NULL);
    }
    fprintf(file, "done %08" PRIx32 "\n", sum);
    fclose(file);
    printf("rank %d done %08" PRIx32 "\n", rank, sum);
    free(memory);
    MPI_Finalize();
    return 0;
}
