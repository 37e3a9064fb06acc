/* Threads of a rank that wait in MPI for what never comes, and how that ends. Argument: what happens. Knows nothing of cells. */
#include <mpi.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *what;

static void *receives(void *tag) {
    int got;
    MPI_Recv(&got, 1, MPI_INT, 0, (int)(size_t)tag, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    return NULL;
}

static void *asks(void *tag) {
    int flag = 0;
    while (!flag)
        MPI_Iprobe(0, (int)(size_t)tag, MPI_COMM_WORLD, &flag, MPI_STATUS_IGNORE);
    return NULL;
}

static void *ends(void *nothing) {
    // Until the others wait: each of these is answered.
    for (int i = 0; i < 200; i++) {
        int out = i, in = -1;
        MPI_Sendrecv(&out, 1, MPI_INT, 0, 1, &in, 1, MPI_INT, 0, 1, MPI_COMM_SELF, MPI_STATUS_IGNORE);
        if (in != i)
            exit(8);
    }
    if (strcmp(what, "aborts") == 0)
        MPI_Abort(MPI_COMM_WORLD, 7);
    if (strcmp(what, "exits") == 0)
        exit(3);
    if (strcmp(what, "fails") == 0)
        MPI_Send(&what, 1, MPI_INT, 99, 0, MPI_COMM_WORLD);
    return nothing;
}

int main(int argc, char **argv) {
    int provided;
    pthread_t thread;
    what = argc > 1 ? argv[1] : "waits";
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
    for (size_t i = 1; i <= 3; i++)
        pthread_create(&thread, NULL, receives, (void *)i);
    pthread_create(&thread, NULL, asks, (void *)9);
    pthread_create(&thread, NULL, ends, NULL);
    receives((void *)8);
    return 1;
}
