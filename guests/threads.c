/*
 * Threads of a cell, linked into each program that is built with -pthread or -fopenmp.
 *
 *   pthread_create   one block of memory: what is known of the thread, its thread-local variables, room for its calls while the cell is stopped, its stack
 *        │           host_spawn: a thread of the agent's, with an instance of the module of its own over the same memory,
 *        ▼           whose __stack_pointer the agent sets to the end of that stack
 *   __cloudskin_thread   the instance's thread-local variables, then the program's function
 *        ▼
 *   the agent writes 1 into `gone` and wakes who joins: only then does nothing of the thread use its stack any more
 *
 * All waiting is the host's (`host_wait32`), because a thread that slept in an instruction of WebAssembly's own could be reached by nobody. The
 * C library is the one of single threads: its allocator and its streams are put behind one lock each (the linker's --wrap). Nothing here
 * knows of OpenMP; that is in openmp.c, on top of this.
 *
 * Not here: cancellation (pthread_cancel), priorities, robust mutexes, a guard below a thread's stack.
 */

#include "threads.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <wchar.h>

/* What a thread gets unless its attributes say another size, in bytes; as much as the main thread has. */
#define STACK_BYTES (1u << 20)
#define STACK_BYTES_MIN (16u << 10)
/* And the largest stack that it is given. */
#define STACK_BYTES_MAX (1u << 30)
/* What a thread's calls may take at least while the cell is stopped. They are kept without what lies on the stack itself. */
#define AREA_BYTES_MIN (256u << 10)
/* Of a power of two bytes, which is what the allocator takes, for its own use. */
#define SPARE_BYTES 4096
/* Looks at a lock before its waiter sleeps: some microseconds, which is what most locks are held. */
#define SPINS 200

struct __pthread {
    struct __pthread *self;
    void *(*start)(void *);
    void *arg;
    void *result;
    void *tls;
    /* The block that all of it lies in, to be freed. */
    void *block;
    struct host_thread host;
    int detached;
    struct __pthread *next_detached;
    struct __ptcb *cleanup;
    struct departure *departures;
    void *values[PTHREAD_KEYS_MAX];
};

static struct __pthread first;
static _Thread_local struct __pthread *me = &first;

/* --- waiting -------------------------------------------------------------------------------------------------------- */

#define LOAD(p) __atomic_load_n(p, __ATOMIC_SEQ_CST)
#define STORE(p, v) __atomic_store_n(p, v, __ATOMIC_SEQ_CST)
#define ADD(p, v) __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST)
#define SWAP(p, v) __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST)

static int replaces(volatile int *p, int expected, int value) {
    return __atomic_compare_exchange_n(p, &expected, value, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

void __cloudskin_sleep_on(volatile int *p, int value) {
    host_wait32(p, value, -1, 0);
}

void __cloudskin_wake(volatile int *p, unsigned count) {
    host_notify(p, count, 0);
}

/* Nanoseconds until a point in time, or -1 for no end. */
static long long left(clockid_t clock, const struct timespec *until) {
    struct timespec now;
    if (until == NULL)
        return -1;
    clock_gettime(clock, &now);
    long long ns = (until->tv_sec - now.tv_sec) * 1000000000LL + (until->tv_nsec - now.tv_nsec);
    return ns > 0 ? ns : 0;
}

/* 0: woken or of another value, else ETIMEDOUT. */
static int wait_until(volatile int *p, int value, clockid_t clock, const struct timespec *until) {
    if (until != NULL && (until->tv_nsec < 0 || until->tv_nsec >= 1000000000L))
        return EINVAL;
    return host_wait32(p, value, left(clock, until), 0) == 2 ? ETIMEDOUT : 0;
}

/* A lock in one word: 0 free, 1 held, 2 held and somebody sleeps. */
static int lock_until(volatile int *word, const struct timespec *until) {
    for (int i = 0; i < SPINS; i++)
        if (LOAD(word) == 0 && replaces(word, 0, 1))
            return 0;
    while (SWAP(word, 2) != 0) {
        int error = wait_until(word, 2, CLOCK_REALTIME, until);
        if (error != 0)
            return error;
    }
    return 0;
}

void __cloudskin_lock(volatile int *word) {
    if (!replaces(word, 0, 1))
        lock_until(word, NULL);
}

int __cloudskin_try_lock(volatile int *word) {
    return replaces(word, 0, 1);
}

void __cloudskin_unlock(volatile int *word) {
    if (SWAP(word, 0) == 2)
        host_notify(word, 1, 0);
}

/* Keeps the host's calls in the module, which the toolchain puts in the place of instructions that wait and grow memory. */
__attribute__((export_name("__cloudskin_calls"))) long long __cloudskin_calls(void *p) {
    return host_wait32(p, 0, 0, 0) + host_wait64(p, 0, 0, 0) + host_notify(p, 0, 0) + host_grow(0);
}

/* --- beginning and end ------------------------------------------------------------------------------------------------ */

/* Threads that nobody joins; the block of one that has ended is freed when the next thread is made. */
static struct __pthread *detached;
static volatile int detached_lock;
/* Threads beside the first one that have not ended. */
static volatile int others;

static void free_detached(void) {
    __cloudskin_lock(&detached_lock);
    for (struct __pthread **p = &detached; *p != NULL;) {
        struct __pthread *t = *p;
        if (LOAD(&t->host.gone)) {
            *p = t->next_detached;
            free(t->block);
        } else
            p = &t->next_detached;
    }
    __cloudskin_unlock(&detached_lock);
}

static size_t up(size_t n, size_t to) {
    return (n + to - 1) & ~(to - 1);
}

int pthread_create(pthread_t *into, const pthread_attr_t *attr, void *(*start)(void *), void *arg) {
    free_detached();
    size_t stack = STACK_BYTES, own = 0;
    void *given = NULL;
    int alone = 0;
    if (attr != NULL) {
        size_t wanted;
        if (pthread_attr_getstack(attr, &given, &own) != 0)
            given = NULL;
        else
            stack = own;
        if (given == NULL && pthread_attr_getstacksize(attr, &wanted) == 0 && wanted > STACK_BYTES_MIN)
            stack = wanted < STACK_BYTES ? STACK_BYTES : wanted; /* the library's default is a small machine's */
        pthread_attr_getdetachstate(attr, &alone);
    }
    const size_t align = __builtin_wasm_tls_align() > 16 ? __builtin_wasm_tls_align() : 16;
    const size_t head = up(sizeof(struct __pthread), align), variables = up(__builtin_wasm_tls_size(), 16);
    if (stack > STACK_BYTES_MAX || variables > STACK_BYTES_MAX)
        return EAGAIN;
    const size_t on_block = given == NULL ? up(stack, 16) : 0, area = stack / 4 > AREA_BYTES_MIN ? stack / 4 : AREA_BYTES_MIN;
    /* The room for its calls has what is left of a power of two. */
    size_t bytes = 1u << 16;
    while (bytes - SPARE_BYTES < head + variables + area + on_block) {
        if (bytes > STACK_BYTES_MAX)
            return EAGAIN;
        bytes *= 2;
    }
    bytes -= up(SPARE_BYTES, align);
    char *block = aligned_alloc(align, bytes);
    if (block == NULL)
        return EAGAIN;
    struct __pthread *t = (struct __pthread *)block;
    memset(t, 0, sizeof *t);
    t->self = t;
    t->start = start;
    t->arg = arg;
    t->block = block;
    t->tls = block + head;
    t->host.area = block + head + variables;
    t->host.area_bytes = bytes - head - variables - on_block;
    char *end = given == NULL ? block + bytes : (char *)given + own;
    end -= (size_t)end % 16;
    t->detached = alone == PTHREAD_CREATE_DETACHED;
    *into = t;
    ADD(&others, 1);
    if (host_spawn(end, t, &t->host) != 0) {
        ADD(&others, -1);
        free(block);
        return EAGAIN;
    }
    /* Not before the agent has a thread that will set `gone`. */
    if (alone == PTHREAD_CREATE_DETACHED) {
        __cloudskin_lock(&detached_lock);
        t->next_detached = detached;
        detached = t;
        __cloudskin_unlock(&detached_lock);
    }
    return 0;
}

/* What C++ does with a variable of a thread's own when the thread ends; the last that was made comes first. */
struct departure {
    void (*f)(void *);
    void *object;
    struct departure *next;
};

/* C++ programs call it. The first thread does what it has registered before what all have registered with atexit. */
int __cxa_thread_atexit(void (*f)(void *), void *object, void *library) {
    (void)library;
    struct departure *d = malloc(sizeof *d);
    if (d == NULL)
        return -1;
    *d = (struct departure){f, object, me->departures};
    me->departures = d;
    return 0;
}

static void depart(void) {
    while (me->departures != NULL) {
        struct departure *d = me->departures;
        me->departures = d->next;
        d->f(d->object);
        free(d);
    }
}

static void run_destructors(void);

static void leave(void *result) {
    me->result = result;
    while (me->cleanup != NULL) {
        struct __ptcb *c = me->cleanup;
        me->cleanup = c->__next;
        c->__f(c->__x);
    }
    depart();
    run_destructors();
}

/* Not inlined: nothing thread-local may be touched before the caller has given the instance its own. */
__attribute__((noinline)) static void run(struct __pthread *t) {
    me = t;
    leave(t->start(t->arg));
    if (ADD(&others, -1) == 1)
        host_notify(&others, INT_MAX, 0);
}

extern void __wasm_init_tls(void *);

/* Called by the agent in a new instance. */
__attribute__((export_name("__cloudskin_thread"))) void __cloudskin_thread(struct __pthread *t) {
    __wasm_init_tls(t->tls);
    run(t);
}

_Noreturn void pthread_exit(void *result) {
    leave(result);
    if (me == &first) {
        for (int n; (n = LOAD(&others)) > 0;)
            host_wait32(&others, n, -1, 0);
        exit(0);
    }
    if (ADD(&others, -1) == 1)
        host_notify(&others, INT_MAX, 0);
    host_exit();
}

static int join_until(pthread_t t, void **result, const struct timespec *until) {
    if (t == me)
        return EDEADLK;
    if (t->detached)
        return EINVAL;
    while (!LOAD(&t->host.gone)) {
        int error = wait_until(&t->host.gone, 0, CLOCK_REALTIME, until);
        if (error != 0)
            return error;
    }
    if (result != NULL)
        *result = t->result;
    free(t->block);
    return 0;
}

int pthread_join(pthread_t t, void **result) {
    return join_until(t, result, NULL);
}

int pthread_timedjoin_np(pthread_t t, void **result, const struct timespec *until) {
    return join_until(t, result, until);
}

int pthread_tryjoin_np(pthread_t t, void **result) {
    return LOAD(&t->host.gone) ? join_until(t, result, NULL) : EBUSY;
}

int pthread_detach(pthread_t t) {
    if (t->detached)
        return EINVAL;
    t->detached = 1;
    if (t == &first)
        return 0;
    __cloudskin_lock(&detached_lock);
    t->next_detached = detached;
    detached = t;
    __cloudskin_unlock(&detached_lock);
    return 0;
}

pthread_t pthread_self(void) {
    return me;
}

void _pthread_cleanup_push(struct __ptcb *c, void (*f)(void *), void *x) {
    c->__f = f;
    c->__x = x;
    c->__next = me->cleanup;
    me->cleanup = c;
}

void _pthread_cleanup_pop(struct __ptcb *c, int execute) {
    me->cleanup = c->__next;
    if (execute)
        c->__f(c->__x);
}

/* --- values of a thread's own ------------------------------------------------------------------------------------------- */

static struct {
    int used;
    void (*destructor)(void *);
} keys[PTHREAD_KEYS_MAX];
static volatile int keys_lock;

int pthread_key_create(pthread_key_t *key, void (*destructor)(void *)) {
    int error = EAGAIN;
    __cloudskin_lock(&keys_lock);
    for (unsigned k = 0; k < PTHREAD_KEYS_MAX; k++)
        if (!keys[k].used) {
            keys[k].used = 1;
            keys[k].destructor = destructor;
            *key = k;
            error = 0;
            break;
        }
    __cloudskin_unlock(&keys_lock);
    return error;
}

int pthread_key_delete(pthread_key_t key) {
    if (key >= PTHREAD_KEYS_MAX)
        return EINVAL;
    __cloudskin_lock(&keys_lock);
    keys[key].used = 0;
    keys[key].destructor = NULL;
    __cloudskin_unlock(&keys_lock);
    return 0;
}

void *pthread_getspecific(pthread_key_t key) {
    return key < PTHREAD_KEYS_MAX ? me->values[key] : NULL;
}

int pthread_setspecific(pthread_key_t key, const void *value) {
    if (key >= PTHREAD_KEYS_MAX)
        return EINVAL;
    me->values[key] = (void *)value;
    return 0;
}

static void run_destructors(void) {
    for (int round = 0, again = 1; again && round < PTHREAD_DESTRUCTOR_ITERATIONS; round++) {
        again = 0;
        for (unsigned k = 0; k < PTHREAD_KEYS_MAX; k++) {
            void *value = me->values[k];
            void (*destructor)(void *) = keys[k].destructor;
            if (value == NULL || destructor == NULL)
                continue;
            me->values[k] = NULL;
            destructor(value);
            again = 1;
        }
    }
}

/* --- locks ------------------------------------------------------------------------------------------------------------ */

/* Words of the library's types; their initialisers and attributes are the library's: a mutex's first word is its type. */
#define TYPE(m) ((m)->__u.__i[0] & 3)
#define WORD(m) (&(m)->__u.__vi[1])
#define OWNER(m) ((m)->__u.__p[3])
#define DEPTH(m) ((m)->__u.__i[5])

static int mutex_lock(pthread_mutex_t *m, const struct timespec *until, int try) {
    if (TYPE(m) != PTHREAD_MUTEX_NORMAL && __atomic_load_n(&OWNER(m), __ATOMIC_RELAXED) == me) {
        if (TYPE(m) == PTHREAD_MUTEX_ERRORCHECK)
            return try ? EBUSY : EDEADLK;
        if (DEPTH(m) == INT_MAX)
            return EAGAIN;
        DEPTH(m)++;
        return 0;
    }
    if (!replaces(WORD(m), 0, 1)) {
        int error = try ? EBUSY : lock_until(WORD(m), until);
        if (error != 0)
            return error;
    }
    if (TYPE(m) != PTHREAD_MUTEX_NORMAL) {
        __atomic_store_n(&OWNER(m), me, __ATOMIC_RELAXED);
        DEPTH(m) = 1;
    }
    return 0;
}

int pthread_mutex_lock(pthread_mutex_t *m) {
    return mutex_lock(m, NULL, 0);
}

int pthread_mutex_trylock(pthread_mutex_t *m) {
    return mutex_lock(m, NULL, 1);
}

int pthread_mutex_timedlock(pthread_mutex_t *m, const struct timespec *until) {
    return mutex_lock(m, until, 0);
}

int pthread_mutex_unlock(pthread_mutex_t *m) {
    if (TYPE(m) != PTHREAD_MUTEX_NORMAL) {
        if (__atomic_load_n(&OWNER(m), __ATOMIC_RELAXED) != me)
            return EPERM;
        if (--DEPTH(m) > 0)
            return 0;
        __atomic_store_n(&OWNER(m), NULL, __ATOMIC_RELAXED);
    }
    __cloudskin_unlock(WORD(m));
    return 0;
}

int pthread_spin_init(pthread_spinlock_t *s, int shared) {
    (void)shared;
    *s = 0;
    return 0;
}

int pthread_spin_destroy(pthread_spinlock_t *s) {
    (void)s;
    return 0;
}

int pthread_spin_lock(pthread_spinlock_t *s) {
    __cloudskin_lock(s);
    return 0;
}

int pthread_spin_trylock(pthread_spinlock_t *s) {
    return replaces(s, 0, 1) ? 0 : EBUSY;
}

int pthread_spin_unlock(pthread_spinlock_t *s) {
    __cloudskin_unlock(s);
    return 0;
}

/* --- conditions --------------------------------------------------------------------------------------------------------- */

#define SEQUENCE(c) (&(c)->__u.__vi[2])
#define SLEEPERS(c) (&(c)->__u.__vi[3])
#define CLOCK(c) ((c)->__u.__i[4])

int pthread_cond_init(pthread_cond_t *c, const pthread_condattr_t *attr) {
    clockid_t clock = CLOCK_REALTIME;
    if (attr != NULL)
        pthread_condattr_getclock(attr, &clock);
    memset(c, 0, sizeof *c);
    CLOCK(c) = clock == CLOCK_MONOTONIC;
    return 0;
}

int pthread_cond_destroy(pthread_cond_t *c) {
    (void)c;
    return 0;
}

int pthread_cond_timedwait(pthread_cond_t *c, pthread_mutex_t *m, const struct timespec *until) {
    const int sequence = LOAD(SEQUENCE(c)), depth = DEPTH(m);
    if (until != NULL && (until->tv_nsec < 0 || until->tv_nsec >= 1000000000L))
        return EINVAL;
    ADD(SLEEPERS(c), 1);
    if (TYPE(m) == PTHREAD_MUTEX_RECURSIVE)
        DEPTH(m) = 1;
    int error = pthread_mutex_unlock(m);
    if (error == 0) {
        error = wait_until(SEQUENCE(c), sequence, CLOCK(c) ? CLOCK_MONOTONIC : CLOCK_REALTIME, until);
        pthread_mutex_lock(m);
        if (TYPE(m) == PTHREAD_MUTEX_RECURSIVE)
            DEPTH(m) = depth;
    }
    ADD(SLEEPERS(c), -1);
    return error;
}

int pthread_cond_wait(pthread_cond_t *c, pthread_mutex_t *m) {
    return pthread_cond_timedwait(c, m, NULL);
}

static int wake(pthread_cond_t *c, unsigned count) {
    if (LOAD(SLEEPERS(c)) > 0) {
        ADD(SEQUENCE(c), 1);
        host_notify(SEQUENCE(c), count, 0);
    }
    return 0;
}

int pthread_cond_signal(pthread_cond_t *c) {
    return wake(c, 1);
}

int pthread_cond_broadcast(pthread_cond_t *c) {
    return wake(c, INT_MAX);
}

/* --- barriers, once, readers and writers, semaphores --------------------------------------------------------------------- */

/* Words: who has come, which time it is, how many are wanted, who is inside. */
int pthread_barrier_init(pthread_barrier_t *b, const pthread_barrierattr_t *attr, unsigned count) {
    (void)attr;
    if (count == 0 || count > INT_MAX)
        return EINVAL;
    memset(b, 0, sizeof *b);
    b->__u.__i[2] = (int)count;
    return 0;
}

int pthread_barrier_wait(pthread_barrier_t *b) {
    volatile int *come = &b->__u.__vi[0], *time = &b->__u.__vi[1], *inside = &b->__u.__vi[3];
    const int now = LOAD(time);
    ADD(inside, 1);
    const int last = ADD(come, 1) + 1 == b->__u.__i[2];
    if (last) {
        STORE(come, 0);
        ADD(time, 1);
        host_notify(time, INT_MAX, 0);
    } else {
        for (int i = 0; i < SPINS && LOAD(time) == now; i++)
            ;
        while (LOAD(time) == now)
            host_wait32(time, now, -1, 0);
    }
    if (ADD(inside, -1) == 1)
        host_notify(inside, INT_MAX, 0);
    return last ? PTHREAD_BARRIER_SERIAL_THREAD : 0;
}

/* Who is told to be the last may do this while others are on their way out. */
int pthread_barrier_destroy(pthread_barrier_t *b) {
    volatile int *inside = &b->__u.__vi[3];
    for (int n; (n = LOAD(inside)) > 0;)
        host_wait32(inside, n, -1, 0);
    return 0;
}

int pthread_once(pthread_once_t *once, void (*f)(void)) {
    enum { NEVER, RUNNING, DONE };
    for (;;) {
        int now = LOAD(once);
        if (now == DONE)
            return 0;
        if (now == NEVER && replaces(once, NEVER, RUNNING)) {
            f();
            STORE(once, DONE);
            host_notify(once, INT_MAX, 0);
            return 0;
        }
        host_wait32(once, RUNNING, -1, 0);
    }
}

/* Words: readers, or -1 for a writer; writers that wait, before whom no new reader goes. */
static int rw_lock(pthread_rwlock_t *l, int write, int try, const struct timespec *until) {
    volatile int *state = &l->__u.__vi[0], *writers = &l->__u.__vi[1];
    int error = 0;
    if (write)
        ADD(writers, 1);
    for (;;) {
        int now = LOAD(state);
        if (write ? now == 0 : now >= 0 && (LOAD(writers) == 0 || now == 0)) {
            if (replaces(state, now, write ? -1 : now + 1))
                break;
            continue;
        }
        if (try) {
            error = EBUSY;
            break;
        }
        if ((error = wait_until(state, now, CLOCK_REALTIME, until)) != 0)
            break;
    }
    if (write && ADD(writers, -1) == 1 && error != 0)
        host_notify(state, INT_MAX, 0);
    return error;
}

int pthread_rwlock_init(pthread_rwlock_t *l, const pthread_rwlockattr_t *attr) {
    (void)attr;
    memset(l, 0, sizeof *l);
    return 0;
}

int pthread_rwlock_destroy(pthread_rwlock_t *l) {
    (void)l;
    return 0;
}

int pthread_rwlock_rdlock(pthread_rwlock_t *l) {
    return rw_lock(l, 0, 0, NULL);
}

int pthread_rwlock_wrlock(pthread_rwlock_t *l) {
    return rw_lock(l, 1, 0, NULL);
}

int pthread_rwlock_tryrdlock(pthread_rwlock_t *l) {
    return rw_lock(l, 0, 1, NULL);
}

int pthread_rwlock_trywrlock(pthread_rwlock_t *l) {
    return rw_lock(l, 1, 1, NULL);
}

int pthread_rwlock_timedrdlock(pthread_rwlock_t *l, const struct timespec *until) {
    return rw_lock(l, 0, 0, until);
}

int pthread_rwlock_timedwrlock(pthread_rwlock_t *l, const struct timespec *until) {
    return rw_lock(l, 1, 0, until);
}

int pthread_rwlock_unlock(pthread_rwlock_t *l) {
    volatile int *state = &l->__u.__vi[0];
    const int now = LOAD(state) == -1 ? (STORE(state, 0), 0) : ADD(state, -1) - 1;
    if (now == 0)
        host_notify(state, INT_MAX, 0);
    return 0;
}

int sem_init(sem_t *s, int shared, unsigned value) {
    (void)shared;
    memset(s, 0, sizeof *s);
    if (value > INT_MAX) {
        errno = EINVAL;
        return -1;
    }
    s->__val[0] = (int)value;
    return 0;
}

int sem_destroy(sem_t *s) {
    (void)s;
    return 0;
}

static int sem_take(sem_t *s, int try, const struct timespec *until) {
    for (;;) {
        int now = LOAD(&s->__val[0]), error;
        if (now > 0) {
            if (replaces(&s->__val[0], now, now - 1))
                return 0;
            continue;
        }
        error = try ? EAGAIN : wait_until(&s->__val[0], 0, CLOCK_REALTIME, until);
        if (error != 0) {
            errno = error;
            return -1;
        }
    }
}

int sem_wait(sem_t *s) {
    return sem_take(s, 0, NULL);
}

int sem_trywait(sem_t *s) {
    return sem_take(s, 1, NULL);
}

int sem_timedwait(sem_t *s, const struct timespec *until) {
    return sem_take(s, 0, until);
}

int sem_post(sem_t *s) {
    ADD(&s->__val[0], 1);
    host_notify(&s->__val[0], 1, 0);
    return 0;
}

int sem_getvalue(sem_t *s, int *value) {
    *value = LOAD(&s->__val[0]);
    return 0;
}

/* --- the C library behind locks --------------------------------------------------------------------------------------------- */

/* The toolchain puts a call of LOCKED(f) in the place of each call of f, but for those in here (`toolchain/threads.rs`). */
#define LOCKED(name) __attribute__((export_name("__cloudskin_locked_" #name)))

static volatile int memory_lock;
/* An allocator's functions call one another. */
static _Thread_local int allocating;

static void begin_allocating(void) {
    if (allocating++ == 0)
        __cloudskin_lock(&memory_lock);
}

static void end_allocating(void) {
    if (--allocating == 0)
        __cloudskin_unlock(&memory_lock);
}

#define ALLOCATES(name, params, args)                                                                                              \
    LOCKED(name) void *locked_##name params {                                                                                      \
        begin_allocating();                                                                                                        \
        void *room = name args;                                                                                                    \
        end_allocating();                                                                                                          \
        return room;                                                                                                               \
    }

void *memalign(size_t align, size_t n);

ALLOCATES(malloc, (size_t n), (n))
ALLOCATES(calloc, (size_t n, size_t each), (n, each))
ALLOCATES(realloc, (void *p, size_t n), (p, n))
ALLOCATES(reallocarray, (void *p, size_t n, size_t each), (p, n, each))
ALLOCATES(aligned_alloc, (size_t align, size_t n), (align, n))
ALLOCATES(memalign, (size_t align, size_t n), (align, n))

LOCKED(free) void locked_free(void *p) {
    begin_allocating();
    free(p);
    end_allocating();
}

LOCKED(posix_memalign) int locked_posix_memalign(void **p, size_t align, size_t n) {
    begin_allocating();
    int error = posix_memalign(p, align, n);
    end_allocating();
    return error;
}

/* One lock for all streams, which a thread may take again: streams call one another. */
static pthread_mutex_t streams = {{{PTHREAD_MUTEX_RECURSIVE}}};

#define STREAMS(type, name, params, args)                                                                                          \
    LOCKED(name) type locked_##name params {                                                                                       \
        pthread_mutex_lock(&streams);                                                                                              \
        type result = name args;                                                                                                   \
        pthread_mutex_unlock(&streams);                                                                                            \
        return result;                                                                                                             \
    }

STREAMS(int, vfprintf, (FILE * f, const char *format, va_list v), (f, format, v))
STREAMS(int, vfwprintf, (FILE * f, const wchar_t *format, va_list v), (f, format, v))
STREAMS(int, vfscanf, (FILE * f, const char *format, va_list v), (f, format, v))
STREAMS(int, fputs, (const char *s, FILE *f), (s, f))
STREAMS(int, puts, (const char *s), (s))
STREAMS(int, fputc, (int c, FILE *f), (c, f))
STREAMS(int, putc, (int c, FILE *f), (c, f))
STREAMS(int, putchar, (int c), (c))
STREAMS(size_t, fwrite, (const void *p, size_t size, size_t n, FILE *f), (p, size, n, f))
STREAMS(size_t, fread, (void *p, size_t size, size_t n, FILE *f), (p, size, n, f))
STREAMS(char *, fgets, (char *s, int n, FILE *f), (s, n, f))
STREAMS(int, fgetc, (FILE * f), (f))
STREAMS(int, getc, (FILE * f), (f))
STREAMS(int, getchar, (void), ())
STREAMS(int, ungetc, (int c, FILE *f), (c, f))
STREAMS(int, fflush, (FILE * f), (f))
STREAMS(FILE *, fopen, (const char *path, const char *mode), (path, mode))
STREAMS(FILE *, freopen, (const char *path, const char *mode, FILE *f), (path, mode, f))
STREAMS(FILE *, fdopen, (int fd, const char *mode), (fd, mode))
STREAMS(int, fclose, (FILE * f), (f))
STREAMS(int, fseek, (FILE * f, long at, int from), (f, at, from))
STREAMS(int, fseeko, (FILE * f, off_t at, int from), (f, at, from))
STREAMS(long, ftell, (FILE * f), (f))
STREAMS(off_t, ftello, (FILE * f), (f))
STREAMS(int, setvbuf, (FILE * f, char *p, int mode, size_t n), (f, p, mode, n))
STREAMS(ssize_t, getdelim, (char **line, size_t *n, int end, FILE *f), (line, n, end, f))

void flockfile(FILE *f) {
    (void)f;
    pthread_mutex_lock(&streams);
}

int ftrylockfile(FILE *f) {
    (void)f;
    return pthread_mutex_trylock(&streams) != 0;
}

void funlockfile(FILE *f) {
    (void)f;
    pthread_mutex_unlock(&streams);
}

/* What is done at the program's end: any thread may add to it. The library's functions call one another, and its allocator. */
static pthread_mutex_t exits = {{{PTHREAD_MUTEX_RECURSIVE}}};

int __cxa_atexit(void (*f)(void *), void *object, void *library);
void __wasm_call_dtors(void);

LOCKED(__cxa_atexit) int locked_cxa_atexit(void (*f)(void *), void *object, void *library) {
    pthread_mutex_lock(&exits);
    int error = __cxa_atexit(f, object, library);
    pthread_mutex_unlock(&exits);
    return error;
}

LOCKED(atexit) int locked_atexit(void (*f)(void)) {
    pthread_mutex_lock(&exits);
    int error = atexit(f);
    pthread_mutex_unlock(&exits);
    return error;
}

/* Before that what the thread that ends the program does by itself: from a call, or from the end of main. */
LOCKED(exit) _Noreturn void locked_exit(int code) {
    depart();
    exit(code);
}

LOCKED(__wasm_call_dtors) void locked_call_dtors(void) {
    depart();
    __wasm_call_dtors();
}

LOCKED(sysconf) long locked_sysconf(int name) {
    if (name == _SC_NPROCESSORS_ONLN || name == _SC_NPROCESSORS_CONF)
        return host_processors();
    return sysconf(name);
}

/* Where the linker has put the first thread's stack. */
extern char __stack_low, __stack_high;

int getrlimit(int what, struct rlimit *limit) {
    limit->rlim_cur = limit->rlim_max = what == RLIMIT_STACK ? (rlim_t)(&__stack_high - &__stack_low) : what == RLIMIT_NOFILE ? 1024 : what == RLIMIT_CORE ? 0 : RLIM_INFINITY;
    return 0;
}

/* The C library looks for the cell's folders when a path is first used, and more than one thread may be the first. */
__attribute__((constructor(102))) static void begin(void) {
    struct stat s;
    first.self = &first;
    stat("/", &s);
}
