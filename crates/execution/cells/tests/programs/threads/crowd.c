/* Threads that begin, end, sleep and take and give memory all the time, until one of them ends the program: after so many milliseconds. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t never = PTHREAD_COND_INITIALIZER;
static volatile int spins;

static void *brief(void *p) {
    const size_t bytes = (size_t)p;
    void *room = malloc(bytes);
    if (room != NULL)
        memset(room, 1, bytes);
    return room;
}

static void *makes(void *p) {
    for (size_t n = 1;; n = n % 63 + 1) {
        pthread_t t;
        void *room;
        if (pthread_create(&t, NULL, brief, (void *)(n << 12)) == 0 && pthread_join(t, &room) == 0)
            free(room);
    }
    return p;
}

static void *detaches(void *p) {
    for (;;) {
        pthread_t t;
        if (pthread_create(&t, NULL, brief, NULL) == 0)
            pthread_detach(t);
        usleep(200);
    }
    return p;
}

static void *sleeps(void *p) {
    pthread_mutex_lock(&lock);
    for (;;)
        pthread_cond_wait(&never, &lock);
    return p;
}

static void *ends(void *p) {
    usleep((unsigned)(size_t)p * 1000);
    exit(3);
}

int main(int argc, char **argv) {
    pthread_t t;
    pthread_create(&t, NULL, makes, NULL);
    pthread_create(&t, NULL, makes, NULL);
    pthread_create(&t, NULL, detaches, NULL);
    pthread_create(&t, NULL, sleeps, NULL);
    pthread_create(&t, NULL, ends, (void *)(size_t)(argc > 1 ? atoi(argv[1]) : 0));
    while (__atomic_load_n(&spins, __ATOMIC_SEQ_CST) == 0)
        ;
    return 1;
}
