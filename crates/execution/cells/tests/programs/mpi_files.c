/* Ranks write into files together and read them back. Run with 4 ranks; prints what each has read. */
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int me, size;

static void work(void) {
    volatile uint32_t x = 1;
    for (int i = 0; i < 30000; i++) x = x * 1664525u + 1013904223u;
}

static unsigned sum(const void *data, int n) {
    unsigned s = 0;
    for (int i = 0; i < n; i++) s = s * 31 + ((const unsigned char *)data)[i];
    return s;
}

/* Each rank has a quarter of a matrix: blocks of rows and columns, written through a view, in pieces. */
static void matrix(void) {
    enum { N = 64, H = N / 2 };
    int sizes[2] = {N, N}, subsizes[2] = {H, H}, starts[2] = {me / 2 * H, me % 2 * H}, mine[H * H], back[H * H];
    MPI_Datatype block;
    MPI_File f;
    MPI_Type_create_subarray(2, sizes, subsizes, starts, MPI_ORDER_C, MPI_INT, &block);
    MPI_Type_commit(&block);
    for (int i = 0; i < H * H; i++) mine[i] = (starts[0] + i / H) * N + starts[1] + i % H;
    MPI_File_open(MPI_COMM_WORLD, "matrix", MPI_MODE_CREATE | MPI_MODE_RDWR, MPI_INFO_NULL, &f);
    MPI_File_set_view(f, 0, MPI_INT, block, "native", MPI_INFO_NULL);
    MPI_Type_free(&block);
    for (int i = 0; i < H; i += 4) {
        MPI_File_write_all(f, mine + i * H, 4 * H, MPI_INT, MPI_STATUS_IGNORE);
        work();
    }
    MPI_Offset at, byte, bytes;
    MPI_Status status;
    int n;
    MPI_File_get_position(f, &at);
    MPI_File_get_byte_offset(f, H, &byte);
    MPI_File_seek(f, -2 * H, MPI_SEEK_CUR);
    MPI_File_read(f, back, 2 * H, MPI_INT, &status);
    MPI_Get_count(&status, MPI_INT, &n);
    MPI_File_sync(f);
    MPI_File_get_size(f, &bytes);
    printf("matrix: at %d, row 1 at byte %d, %d back %s, %d bytes\n", (int)at, (int)byte, n, memcmp(back, mine + (H - 2) * H, n * sizeof(int)) ? "wrong" : "right",
           (int)bytes);
    MPI_File_close(&f);
    /* Read by all, each for itself, with requests that are pending together. */
    MPI_Request r[8];
    MPI_File_open(MPI_COMM_WORLD, "matrix", MPI_MODE_RDONLY, MPI_INFO_NULL, &f);
    memset(back, 0, sizeof back);
    for (int i = 0; i < 8; i++) MPI_File_iread_at(f, (MPI_Offset)(me * 8 + i) * 256, back + i * 64, 64, MPI_INT, &r[i]);
    work();
    MPI_Waitall(8, r, MPI_STATUSES_IGNORE);
    printf("rows %u\n", sum(back, 8 * 64 * 4));
    MPI_File_close(&f);
}

/* Lines in the order of ranks, and lines in any order. */
static void pointers(void) {
    char line[64], back[4096];
    MPI_File f;
    MPI_Status status;
    MPI_Offset at;
    int n, lines = 0;
    MPI_File_open(MPI_COMM_WORLD, "ordered", MPI_MODE_CREATE | MPI_MODE_RDWR, MPI_INFO_NULL, &f);
    for (int step = 0; step < 10; step++) {
        n = snprintf(line, sizeof line, "step %d rank %d%*s\n", step, me, me * 3, "");
        if (step % 2) {
            MPI_File_write_ordered(f, line, n, MPI_CHAR, MPI_STATUS_IGNORE);
        } else {
            MPI_File_write_ordered_begin(f, line, n, MPI_CHAR);
            work();
            MPI_File_write_ordered_end(f, line, MPI_STATUS_IGNORE);
        }
    }
    MPI_File_get_position_shared(f, &at);
    MPI_Barrier(MPI_COMM_WORLD);
    MPI_File_seek_shared(f, 0, MPI_SEEK_SET);
    MPI_File_read_ordered(f, back, 50 + me, MPI_CHAR, &status);
    printf("ordered: at %d, %u\n", (int)at, sum(back, 50 + me));
    MPI_File_close(&f);
    MPI_File_open(MPI_COMM_WORLD, "shared", MPI_MODE_CREATE | MPI_MODE_RDWR | MPI_MODE_APPEND, MPI_INFO_NULL, &f);
    for (int step = 0; step < 10; step++) {
        MPI_File_write_shared(f, "a line of 16 b.\n", 16, MPI_CHAR, MPI_STATUS_IGNORE);
        work();
    }
    MPI_File_seek_shared(f, -32, MPI_SEEK_END);
    MPI_File_get_position_shared(f, &at);
    MPI_File_seek(f, 0, MPI_SEEK_SET);
    do {
        MPI_File_read(f, back, 100, MPI_CHAR, &status);
        MPI_Get_count(&status, MPI_CHAR, &n);
        for (int i = 0; i < n; i++) lines += back[i] == '\n';
    } while (n > 0);
    printf("shared: %d lines, at %d\n", lines, (int)at);
    MPI_File_close(&f);
}

static void numbers(void) {
    enum { LARGE = 1 << 16 };
    int *a = malloc(LARGE * sizeof *a), *b = calloc(LARGE, sizeof *b);
    MPI_File f;
    for (int i = 0; i < LARGE; i++) a[i] = me * LARGE + i + 1;
    MPI_File_open(MPI_COMM_WORLD, "big", MPI_MODE_CREATE | MPI_MODE_RDWR, MPI_INFO_NULL, &f);
    MPI_File_set_view(f, 0, MPI_INT, MPI_INT, "external32", MPI_INFO_NULL);
    MPI_File_preallocate(f, 100);
    MPI_File_write_at_all_begin(f, (MPI_Offset)me * LARGE, a, LARGE, MPI_INT);
    work();
    MPI_File_write_at_all_end(f, a, MPI_STATUS_IGNORE);
    MPI_File_sync(f);
    MPI_Barrier(MPI_COMM_WORLD);
    MPI_File_read_at_all(f, (MPI_Offset)((me + 1) % size) * LARGE, b, LARGE, MPI_INT, MPI_STATUS_IGNORE);
    printf("big: %d %d\n", b[0], b[LARGE - 1]);
    MPI_File_close(&f);
    free(a);
    free(b);
}

int main(int argc, char **argv) {
    MPI_File f;
    int class, code;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &me);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    matrix();
    pointers();
    numbers();
    code = MPI_File_open(MPI_COMM_WORLD, "nothing", MPI_MODE_RDONLY, MPI_INFO_NULL, &f);
    MPI_Error_class(code, &class);
    printf("missing: %s\n", class == MPI_ERR_NO_SUCH_FILE ? "no such file" : "there");
    MPI_File_open(MPI_COMM_SELF, "matrix", MPI_MODE_RDONLY, MPI_INFO_NULL, &f);
    code = MPI_File_write(f, &me, 1, MPI_INT, MPI_STATUS_IGNORE);
    MPI_Error_class(code, &class);
    printf("read only: %s\n", class == MPI_ERR_READ_ONLY ? "refused" : "allowed");
    MPI_File_close(&f);
    MPI_Finalize();
    return 0;
}
