/* A function that MPI calls wants what another thread has, and that one may be stopped while it has it. Arguments: rounds. Knows nothing of cells. */
#include <mpi.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static volatile unsigned both;
static volatile int over;

/* Keeps the lock for most of its time. */
static void *keeps(void *nothing) {
    while (!over) {
        pthread_mutex_lock(&lock);
        const unsigned was = both;
        for (volatile int i = 0; i < 3000; i++)
            ;
        both = was + 1;
        pthread_mutex_unlock(&lock);
    }
    return nothing;
}

static void adds(void *in, void *inout, int *n, MPI_Datatype *type) {
    (void)type;
    unsigned *kept = malloc(sizeof(unsigned) * (size_t)*n);
    pthread_mutex_lock(&lock);
    const unsigned was = both;
    for (int i = 0; i < *n; i++)
        kept[i] = ((unsigned *)in)[i] + ((unsigned *)inout)[i];
    both = was + 1;
    pthread_mutex_unlock(&lock);
    for (int i = 0; i < *n; i++)
        ((unsigned *)inout)[i] = kept[i];
    free(kept);
}

int main(int argc, char **argv) {
    const int rounds = argc > 1 ? atoi(argv[1]) : 200;
    int provided, rank;
    unsigned sum[16] = {0}, ones[16];
    pthread_t thread;
    MPI_Op op;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Op_create(adds, 1, &op);
    pthread_create(&thread, NULL, keeps, NULL);
    for (int i = 0; i < 16; i++)
        ones[i] = (unsigned)i;
    for (int round = 0; round < rounds; round++)
        MPI_Reduce_local(ones, sum, 16, MPI_UNSIGNED, op);
    over = 1;
    pthread_join(thread, NULL);
    for (int i = 0; i < 16; i++)
        if (sum[i] != (unsigned)(i * rounds) || both < (unsigned)rounds)
            return 1;
    printf("%d rounds\n", rounds);
    return 0;
}
