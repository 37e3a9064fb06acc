/* Counts the words of text files by their first letters. Under MPI the ranks share out the lines; without it there is one. */
#include "config.h"
#include "tally.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#ifdef HAVE_MPI_H
#include <mpi.h>
#endif

int main(int argc, char **argv)
{
    int rank = 0, ranks = 1;
#ifdef HAVE_MPI_H
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
#endif
    int status = argc > 1 ? 0 : 64;
    if (status != 0 && rank == 0)
        fprintf(stderr, "usage: tally FILE...\n");
    for (int i = 1; i < argc; i++) {
        struct tally mine = {0}, all = {0};
        if (tally_file(argv[i], rank, ranks, &mine) != 0) {
            if (rank == 0)
                fprintf(stderr, "tally: %s: %s\n", argv[i], strerror(errno));
            status = 2;
            continue;
        }
#ifdef HAVE_MPI_H
        MPI_Reduce(&mine, &all, sizeof mine / sizeof(long long), MPI_LONG_LONG, MPI_SUM, 0, MPI_COMM_WORLD);
#else
        all = mine;
#endif
        const char *name = strrchr(argv[i], '/');
        if (rank == 0)
            tally_print(name != NULL ? name + 1 : argv[i], &all);
    }
#ifdef HAVE_MPI_H
    MPI_Finalize();
#endif
    return status;
}
