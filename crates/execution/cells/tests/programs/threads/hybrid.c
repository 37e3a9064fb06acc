/* MPI and OpenMP together, as most such programs are: a field is split among ranks and its rows among threads. The borders are exchanged by the main thread
 * (FUNNELED) in one step and by whichever thread comes first (SERIALIZED) in the next. All numbers are whole, so that the same comes out with any number of
 * ranks and threads. Argument: steps. Knows nothing of cells. */
#include <mpi.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WIDTH = 96, HEIGHT = 48 };

static unsigned old[HEIGHT + 2][WIDTH], now[HEIGHT + 2][WIDTH];

static void must(int good, const char *what) {
    if (!good) {
        printf("wrong: %s\n", what);
        MPI_Abort(MPI_COMM_WORLD, 9);
    }
}

int main(int argc, char **argv) {
    int provided, rank, size, level, mine;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_SERIALIZED, &provided);
    MPI_Query_thread(&level);
    MPI_Is_thread_main(&mine);
    must(provided == MPI_THREAD_SERIALIZED && level == provided && mine, "what is granted is what was asked for");
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    const int steps = argc > 1 ? atoi(argv[1]) : 300, rows = HEIGHT / size;
    const int up = (rank + size - 1) % size, down = (rank + 1) % size;
    must(rows * size == HEIGHT, "the ranks divide the field");
    for (int y = 1; y <= rows; y++)
        for (int x = 0; x < WIDTH; x++)
            old[y][x] = (unsigned)(rank * rows + y - 1) * 2654435761u + (unsigned)x * 40503u;
    int others = 0, calls = 0;
    unsigned history = 0;
#pragma omp parallel
    for (int step = 0; step < steps; step++) {
        if (step % 2 == 0) {
#pragma omp master
            {
                MPI_Sendrecv(old[1], WIDTH, MPI_UNSIGNED, up, 1, old[rows + 1], WIDTH, MPI_UNSIGNED, down, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
                MPI_Sendrecv(old[rows], WIDTH, MPI_UNSIGNED, down, 2, old[0], WIDTH, MPI_UNSIGNED, up, 2, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            }
#pragma omp barrier
        } else {
#pragma omp single
            {
                MPI_Request all[4];
                int is_main;
                MPI_Is_thread_main(&is_main);
                others += !is_main;
                calls++;
                must(is_main == (omp_get_thread_num() == 0), "the main thread is the one that has begun");
                MPI_Irecv(old[rows + 1], WIDTH, MPI_UNSIGNED, down, 1, MPI_COMM_WORLD, &all[0]);
                MPI_Irecv(old[0], WIDTH, MPI_UNSIGNED, up, 2, MPI_COMM_WORLD, &all[1]);
                MPI_Isend(old[1], WIDTH, MPI_UNSIGNED, up, 1, MPI_COMM_WORLD, &all[2]);
                MPI_Isend(old[rows], WIDTH, MPI_UNSIGNED, down, 2, MPI_COMM_WORLD, &all[3]);
                MPI_Waitall(4, all, MPI_STATUSES_IGNORE);
            }
        }
#pragma omp for schedule(static)
        for (int y = 1; y <= rows; y++)
            for (int x = 0; x < WIDTH; x++)
                now[y][x] = (old[y - 1][x] + old[y + 1][x] + old[y][(x + 1) % WIDTH] + 3u * old[y][(x + WIDTH - 1) % WIDTH]) * 5u + 1u;
#pragma omp single
        memcpy(old[1], now[1], (size_t)rows * sizeof(now[1]));
        if (step % 16 == 15) {
            static unsigned sum, all;
#pragma omp single
            sum = 0;
            unsigned part = 0;
#pragma omp for
            for (int y = 1; y <= rows; y++)
                for (int x = 0; x < WIDTH; x++)
                    part += old[y][x] * (unsigned)((rank * rows + y) * WIDTH + x + 1);
#pragma omp atomic
            sum += part;
#pragma omp barrier
            // Whichever thread comes last: not the same in each run.
#pragma omp single
            {
                MPI_Allreduce(&sum, &all, 1, MPI_UNSIGNED, MPI_SUM, MPI_COMM_WORLD);
                history = history * 31u + all;
                if (rank == 0 && step % 64 == 63)
                    printf("step %d: %u\n", step, all);
            }
        }
    }
    must(calls == steps / 2 && others <= calls, "each step was made once");
    MPI_Barrier(MPI_COMM_WORLD);
    if (rank == 0)
        printf("history %u\n", history);
    MPI_Finalize();
    return 0;
}
