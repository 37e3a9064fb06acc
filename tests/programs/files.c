/* Files: each rank writes `files.<rank>.txt` into a folder with fprintf, seeks back to complete its head, closes; after a barrier
 * rank 0 reads them all and prints their checksums. Arguments: folder ("."), lines per rank (20000). */
#include <errno.h>
#include <inttypes.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_SIZE = 512, HEAD_BYTES = 22 };

static FILE *must_open(const char *folder, int rank, const char *mode)
{
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "%s/files.%d.txt", folder, rank);
    FILE *file = fopen(path, mode);
    if (file == NULL) {
        fprintf(stderr, "files: open %s: %s\n", path, strerror(errno));
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    return file;
}

static void must(int ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "files: %s failed: %s\n", what, strerror(errno));
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
}

/* The head says how many bytes follow; it is known only in the end. */
static void write_own(const char *folder, int rank, int32_t lines)
{
    FILE *file = must_open(folder, rank, "wb");
    uint32_t x = (uint32_t)rank + 1;
    int64_t bytes = 0;
    must(fprintf(file, "%10s %10s\n", "?", "?") == HEAD_BYTES, "writing the head");
    for (int32_t i = 0; i < lines; i++) {
        x = x * 1664525u + 1013904223u;
        int made = fprintf(file, "%" PRId32 ",%d,%.6f,%08" PRIx32 "\n", i, rank, (double)(x >> 8) / 65536.0, x);
        must(made > 0, "writing a line");
        bytes += made;
    }
    must(fseek(file, 0, SEEK_SET) == 0, "seeking to the head");
    must(fprintf(file, "%10" PRId32 " %10" PRId64 "\n", lines, bytes) == HEAD_BYTES, "writing the head again");
    must(fseek(file, 0, SEEK_END) == 0, "seeking to the end");
    must(ftell(file) == HEAD_BYTES + (long)bytes, "telling the size");
    must(fclose(file) == 0, "closing");
}

static void read_one(const char *folder, int rank)
{
    FILE *file = must_open(folder, rank, "rb");
    int64_t bytes = 0, promised = 0;
    int32_t lines = 0, seen = 0;
    uint32_t sum = 2166136261u;
    must(fscanf(file, "%" SCNd32 " %" SCNd64, &lines, &promised) == 2, "reading the head");
    must(fgetc(file) == '\n', "the head's end");
    for (int byte = fgetc(file); byte != EOF; byte = fgetc(file)) {
        sum = (sum ^ (uint32_t)byte) * 16777619u;
        seen += byte == '\n';
        bytes++;
    }
    must(bytes == promised && seen == lines, "the length");
    must(fseek(file, -9, SEEK_END) == 0, "seeking to the last number");
    uint32_t last = 0;
    must(fscanf(file, "%" SCNx32, &last) == 1, "reading the last number");
    fclose(file);
    printf("file %d lines %" PRId32 " bytes %" PRId64 " checksum %08" PRIx32 " last %08" PRIx32 "\n", rank, lines, bytes, sum, last);
}

int main(int argc, char **argv)
{
    int rank, ranks;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    const char *folder = argc > 1 ? argv[1] : ".";
    int32_t lines = argc > 2 ? atoi(argv[2]) : 20000;
    write_own(folder, rank, lines);
    MPI_Barrier(MPI_COMM_WORLD);
    for (int r = 0; r < ranks && rank == 0; r++)
        read_one(folder, r);
    MPI_Finalize();
    return 0;
}
