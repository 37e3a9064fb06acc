/* Spin: an endless innermost loop of integer work without a call, for limits on time, cancelling and moving. The generator never
 * reaches 0 from another state, which no compiler knows. Never ends by itself. No arguments. */
#include <inttypes.h>
#include <mpi.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    int rank;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (rank == 0) {
        printf("spinning\n");
        fflush(stdout);
    }
    uint32_t x = (uint32_t)(argc + rank);
    for (;;) {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        if (x == 0)
            break;
    }
    printf("never printed %" PRIu32 "\n", x);
    MPI_Finalize();
    return 0;
}
