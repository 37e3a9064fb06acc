/* Threads that do not end by themselves, and threads without number. The first argument says which. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t never = PTHREAD_COND_INITIALIZER;
static volatile unsigned turns;

static void *asleep(void *p) {
    pthread_mutex_lock(&lock);
    for (;;)
        pthread_cond_wait(&never, &lock);
    return p;
}

static void *busy(void *p) {
    for (;;)
        turns++;
    return p;
}

static void *naps(void *p) {
    for (;;)
        sleep(1000);
    return p;
}

__attribute__((noinline)) static void innermost(volatile int *p) {
    *p = 1;
    __builtin_trap();
}

static void *breaks(void *p) {
    int here;
    innermost(&here);
    return p;
}

static void *leaves(void *p) {
    exit(3);
    return p;
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    pthread_t t;
    if (strcmp(what, "many") == 0) {
        int made = 1;
        while (pthread_create(&t, NULL, asleep, NULL) == 0)
            made++;
        printf("%d threads\n", made);
        return 0;
    }
    if (strcmp(what, "memory") == 0) {
        size_t mb = 0;
        void *volatile kept; /* what nobody keeps is not asked for */
        while ((kept = malloc(1 << 20)) != NULL)
            mb++;
        printf("%d\n", mb > 16 && mb < 64);
        return 0;
    }
    void *(*body)(void *) = strcmp(what, "busy") == 0 ? busy : strcmp(what, "naps") == 0 ? naps : asleep;
    for (int i = 0; i < 3; i++)
        pthread_create(&t, NULL, body, NULL);
    if (strcmp(what, "main ends") == 0)
        return 5;
    if (strcmp(what, "breaks") == 0)
        pthread_create(&t, NULL, breaks, NULL);
    if (strcmp(what, "exits") == 0)
        pthread_create(&t, NULL, leaves, NULL);
    pthread_join(t, NULL);
    return 0;
}
