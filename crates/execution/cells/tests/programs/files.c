/* Each rank writes a file line by line with work in between, goes back in it, and reads its neighbour's at the end. */
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv) {
    int me, n;
    char name[256];
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &me);
    MPI_Comm_size(MPI_COMM_WORLD, &n);
    snprintf(name, sizeof name, "%s/rank%d.txt", argv[1], me);
    FILE *f = fopen(name, "w");
    if (!f) { perror(name); MPI_Abort(MPI_COMM_WORLD, 1); }
    volatile uint32_t x = 1;
    for (int line = 0; line < 400; line++) {
        for (int i = 0; i < 100; i++)
            for (int j = 0; j < 300; j++) x = x * 1664525u + 1013904223u;
        fprintf(f, "%06d %08x\n", line, (unsigned)x);
        if (line % 50 == 0) fflush(f);
    }
    fseek(f, 7, SEEK_SET);
    fprintf(f, "XXXXXXXX");
    if (fclose(f)) MPI_Abort(MPI_COMM_WORLD, 2);
    MPI_Barrier(MPI_COMM_WORLD);
    snprintf(name, sizeof name, "%s/rank%d.txt", argv[1], (me + 1) % n);
    f = fopen(name, "r");
    if (!f) { perror(name); MPI_Abort(MPI_COMM_WORLD, 3); }
    uint32_t sum = 0;
    int c;
    while ((c = getc(f)) != EOF) sum = sum * 31 + (uint32_t)c;
    fclose(f);
    printf("rank %d read %08x\n", me, (unsigned)sum);
    MPI_Finalize();
    return 0;
}
