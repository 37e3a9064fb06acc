/* What POSIX threads promise, each counted or ordered so that a lost or doubled step shows. Knows nothing of cells. */
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { THREADS = 4, ROUNDS = 20000 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER, turns = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turned = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t barrier;
static pthread_rwlock_t rw = PTHREAD_RWLOCK_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static sem_t sem;
static _Thread_local int own = 7;
static long counter, turn, pair[2], torn, made, ended, phases[THREADS];

static void make(void) {
    made++;
}

static void at_end(void *value) {
    __atomic_fetch_add(&ended, (long)value, __ATOMIC_SEQ_CST);
}

static void cleaned(void *p) {
    *(int *)p = 1;
}

static void *work(void *arg) {
    const long me = (long)arg;
    pthread_once(&once, make);
    pthread_setspecific(key, (void *)(me + 1));
    own += (int)me;
    for (int i = 0; i < ROUNDS; i++) {
        pthread_mutex_lock(&lock);
        counter++;
        pthread_mutex_unlock(&lock);
    }
    for (int i = 0; i < 200; i++) {
        pthread_mutex_lock(&turns);
        while (turn % THREADS != me)
            pthread_cond_wait(&turned, &turns);
        turn++;
        pthread_cond_broadcast(&turned);
        pthread_mutex_unlock(&turns);
    }
    for (long i = 0; i < 200; i++) {
        phases[me] = i;
        pthread_barrier_wait(&barrier);
        for (int k = 0; k < THREADS; k++)
            if (phases[k] != i)
                __atomic_fetch_add(&torn, 1, __ATOMIC_SEQ_CST);
        pthread_barrier_wait(&barrier);
    }
    for (int i = 0; i < 1000; i++) {
        if (i % 4 == 0) {
            pthread_rwlock_wrlock(&rw);
            pair[0]++;
            pair[1]++;
            pthread_rwlock_unlock(&rw);
        } else {
            pthread_rwlock_rdlock(&rw);
            if (pair[0] != pair[1])
                __atomic_fetch_add(&torn, 1, __ATOMIC_SEQ_CST);
            pthread_rwlock_unlock(&rw);
        }
    }
    /* The allocator: what was written is still there. */
    unsigned seed = (unsigned)me + 1;
    unsigned char *kept[32] = {0};
    size_t sizes[32] = {0};
    for (int i = 0; i < ROUNDS; i++) {
        seed = seed * 1103515245 + 12345;
        const int k = seed >> 8 & 31;
        for (size_t n = 0; n < sizes[k]; n++)
            if (kept[k][n] != (unsigned char)(me * 32 + k))
                __atomic_fetch_add(&torn, 1, __ATOMIC_SEQ_CST);
        free(kept[k]);
        sizes[k] = seed >> 16 & 255;
        kept[k] = malloc(sizes[k] + 1);
        memset(kept[k], (int)(me * 32 + k), sizes[k]);
    }
    for (int k = 0; k < 32; k++)
        free(kept[k]);
    for (int i = 0; i < 100; i++)
        fprintf(stderr, "thread %ld, line %d, all of it\n", me, i);
    sem_post(&sem);
    return (void *)(me * 10 + own);
}

static void *leaves(void *arg) {
    pthread_cleanup_push(cleaned, arg);
    pthread_exit((void *)42);
    pthread_cleanup_pop(0);
}

static void *locks(void *m) {
    const long error = pthread_mutex_lock(m);
    pthread_mutex_unlock(m);
    return (void *)error;
}

int main(void) {
    pthread_t t[THREADS];
    void *result;
    pthread_barrier_init(&barrier, NULL, THREADS);
    pthread_key_create(&key, at_end);
    sem_init(&sem, 0, 0);
    for (long i = 0; i < THREADS; i++)
        if (pthread_create(&t[i], NULL, work, (void *)i) != 0)
            return 1;
    for (int i = 0; i < THREADS; i++)
        sem_wait(&sem);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(t[i], &result);
        printf("thread %d: %ld\n", i, (long)result);
    }
    printf("counter %ld, turns %ld, pair %ld %ld, torn %ld, made %ld, ended %ld, own %d\n", counter, turn, pair[0], pair[1], torn, made, ended, own);

    int flag = 0;
    pthread_create(&t[0], NULL, leaves, &flag);
    pthread_join(t[0], &result);
    printf("left with %ld, cleaned %d\n", (long)result, flag);

    pthread_mutexattr_t attr;
    pthread_mutex_t again, checked;
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&again, &attr);
    pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ERRORCHECK);
    pthread_mutex_init(&checked, &attr);
    const int twice = pthread_mutex_lock(&again) + pthread_mutex_lock(&again) + pthread_mutex_unlock(&again) + pthread_mutex_unlock(&again);
    pthread_mutex_lock(&checked);
    const int refused = pthread_mutex_lock(&checked) != 0;
    pthread_create(&t[0], NULL, locks, &checked);
    pthread_mutex_unlock(&checked);
    pthread_join(t[0], &result);
    printf("recursive %d, checked %d, taken %ld\n", twice, refused, (long)result);

    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 20 * 1000 * 1000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&lock);
    printf("waits in vain: %d\n", pthread_cond_timedwait(&turned, &lock, &until) != 0);
    pthread_mutex_unlock(&lock);

    /* More threads over time than may be there at once, half of them joined by nobody. */
    for (int i = 0; i < 200; i++) {
        if (pthread_create(&t[0], NULL, locks, &again) != 0)
            return 2;
        if (i % 2)
            pthread_detach(t[0]);
        else
            pthread_join(t[0], NULL);
        struct timespec moment = {0, 100000};
        if (i % 2)
            nanosleep(&moment, NULL);
    }
    printf("done\n");
    return 0;
}
