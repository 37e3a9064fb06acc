/* A thread begins to wait for a lock while a function that MPI has called runs on another, and waits on when it has returned. Knows nothing of cells. */
#include <mpi.h>
#include <pthread.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static volatile int comes;
static pthread_t thread;

static void *sleeper(void *nothing) {
    comes = 1;
    pthread_mutex_lock(&lock);
    puts("woken");
    pthread_mutex_unlock(&lock);
    return nothing;
}

static void until_it_sleeps(void *in, void *inout, int *n, MPI_Datatype *type) {
    (void)in, (void)inout, (void)n, (void)type;
    pthread_create(&thread, NULL, sleeper, NULL);
    while (!comes)
        usleep(1000);
    usleep(100000);
}

int main(int argc, char **argv) {
    int provided, one = 1, sum = 0;
    MPI_Op op;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
    MPI_Op_create(until_it_sleeps, 1, &op);
    pthread_mutex_lock(&lock);
    MPI_Reduce_local(&one, &sum, 1, MPI_INT, op);
    const time_t begin = time(NULL);
    while (time(NULL) - begin < 2)
        usleep(1000);
    pthread_mutex_unlock(&lock);
    pthread_join(thread, NULL);
    return 0;
}
