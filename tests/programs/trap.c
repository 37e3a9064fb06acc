/* Trap: rank 1 dies four named functions deep, so that a backtrace should show main, read_scene, decode_strip, decode_row and
 * decode_cell; the others wait for it. Argument: how: trap (default), null (calls a null function pointer), bounds (reads far
 * outside of memory), divide (by zero), stack (recursion without end), abort. */
#include <inttypes.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEEP __attribute__((noinline))

typedef int32_t (*decoder)(int32_t);

/* Volatile, so that no compiler proves what will happen. */
static decoder volatile missing;
static volatile int32_t zero;

static KEEP int32_t endless(int32_t depth)
{
    volatile char frame[256];
    frame[depth & 255] = (char)depth;
    if (zero != 0)
        return depth;
    return endless(depth + 1) + frame[(depth + 1) & 255];
}

KEEP int32_t decode_cell(const char *how, int32_t cell)
{
    if (strcmp(how, "null") == 0)
        return missing(cell);
    if (strcmp(how, "bounds") == 0)
        return *(volatile int32_t *)(uintptr_t)(0xfffffff0u - (uint32_t)zero);
    if (strcmp(how, "divide") == 0)
        return cell / zero;
    if (strcmp(how, "stack") == 0)
        return endless(cell);
    if (strcmp(how, "abort") == 0)
        abort();
    __builtin_trap();
}

KEEP int32_t decode_row(const char *how, int32_t row)
{
    return decode_cell(how, row * 3) + 1;
}

KEEP int32_t decode_strip(const char *how, int32_t strip)
{
    return decode_row(how, strip * 5) + 2;
}

KEEP int32_t read_scene(const char *how)
{
    return decode_strip(how, 11) + 3;
}

int main(int argc, char **argv)
{
    int rank;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (rank == 0) {
        printf("waiting\n");
        fflush(stdout);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    if (rank == 1)
        printf("never printed %" PRId32 "\n", read_scene(argc > 1 ? argv[1] : "trap"));
    MPI_Barrier(MPI_COMM_WORLD);
    MPI_Finalize();
    return 0;
}
