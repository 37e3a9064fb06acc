/*
 * OpenMP for cells: the entry points that clang calls (__kmpc_*), and what programs call (omp_*), on the threads of threads.c.
 *
 *   parallel   fork ─▶ a team: members 0..n-1, of whom 0 is the thread that forks; the others are its own workers, always the same for the same number,
 *                      so that threadprivate variables stay where they are ─▶ each calls the outlined function ─▶ barrier ─▶ the workers sleep
 *   barrier    all have come and no task is left; who waits does tasks meanwhile
 *   loops      each loop of a team is one of LOOPS shared records; a thread that is so many loops ahead waits
 *   tasks      one queue for each team, newest first; who has dependences is queued by the last of those that it depends on
 *
 * A thread that waits looks for a while and then sleeps on its team's word `event`. Whoever changes what members may be waiting for calls `tell`. So all
 * waiting of OpenMP is in one place, `help_until`, which is where the members of a team that wait are stopped.
 *
 * How many threads a team has, where the program leaves it open, is asked of the agent at each parallel region (host_processors), so that a cell
 * follows when it is given more processors or fewer. Reductions combine in the order of the threads' numbers: the same result in each run.
 *
 * Not here: devices, affinity, tools (OMPT). The teams of a league run one after the other.
 */

#include "omp.h"
#include "threads.h"

#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

typedef int kmp_int32;
typedef long long kmp_int64;
typedef unsigned kmp_uint32;
typedef unsigned long long kmp_uint64;
typedef struct ident ident_t;
typedef void (*microtask)(int *, int *, ...);

#define LOAD(p) __atomic_load_n(p, __ATOMIC_SEQ_CST)
#define STORE(p, v) __atomic_store_n(p, v, __ATOMIC_SEQ_CST)
#define ADD(p, v) __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST)
#define REPLACES(p, expected, v) __atomic_compare_exchange_n(p, expected, v, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)

/* Loops that a team may have open at once, because threads need not wait at their ends. */
#define LOOPS 8
/* Tasks that wait in a team's queue for each of its threads; the next one is done at once by who makes it. */
#define QUEUED_MAX 64
/* Levels of nested parallel regions; deeper ones have one thread. */
#define LEVELS_MAX 64
/* Captured variables of a parallel region, which are arguments of its function. */
#define ARGS_MAX 64
/* Looks before a thread sleeps, where every thread can have a processor: some tens of microseconds. Whether it can, the host is asked after the first few. */
#define SPINS 4000
#define FIRST_SPINS 100
/* What one processor takes from another at once: words that are written together lie together, and apart from those that others only read. */
#define LINE 64
/* Captured variables that lie in one line with the word that a worker waits for. */
#define ARGS_NEAR 9
/* In `left` of a team: somebody sleeps until it is 0. */
#define AWAITED (1 << 30)
/* Teams that a thread keeps for its next regions. The members of the last one may still be on their way out of it. */
#define SPARES 2

enum { SCHED_STATIC_CHUNKED = 33, SCHED_STATIC, SCHED_DYNAMIC, SCHED_GUIDED, SCHED_RUNTIME, SCHED_AUTO, SCHED_TRAPEZOIDAL };
enum { CANCEL_PARALLEL = 1, CANCEL_LOOP, CANCEL_SECTIONS, CANCEL_TASKGROUP, CANCEL_BITS = 3 };

/* What a program may set, of each thread of a team its own. */
struct settings {
    int threads; /* 0: left open */
    int dynamic;
    int levels;
    omp_sched_t kind;
    int chunk;
    omp_allocator_handle_t allocator;
};

/* --- what there is ------------------------------------------------------------------------------------------------------ */

/* A task as clang lays it out; private variables follow. */
typedef struct kmp_task {
    void *shareds;
    kmp_int32 (*routine)(kmp_int32, struct kmp_task *);
    kmp_int32 part;
    union {
        kmp_int32 priority;
        kmp_int32 (*destructors)(kmp_int32, struct kmp_task *);
    } first, second;
} kmp_task_t;

enum { TIED = 1, FINAL = 2, DESTRUCTORS = 8, PROXY = 16, PRIORITY = 32, DETACHABLE = 64 };

struct group {
    struct group *outer;
    volatile int count;
    volatile int cancelled;
    struct reductions *reductions;
};

struct task {
    struct task *parent;
    struct team *team;
    struct group *group;
    struct task *newer, *older; /* in the queue */
    struct table *table;        /* dependences between its children */
    struct node *node;
    size_t bytes; /* of all of it */
    size_t shareds_at;
    int flags;
    int priority;
    int begun;                   /* it counts for its parent, group and team */
    int holds;                   /* it has what it must have alone, from its first part to its end */
    volatile int refs;           /* itself, until it is complete, and its children */
    volatile int children;       /* that are not complete */
    volatile int parts;          /* an untied task's parts that are queued or run */
    volatile int detach;         /* 1: an event must happen; 2: it has; 3: the body has ended and waits for it */
    int implicit;
    kmp_task_t task __attribute__((aligned(16)));
};

static struct task *task_of(kmp_task_t *t) {
    return (struct task *)((char *)t - offsetof(struct task, task));
}

struct loop {
    volatile unsigned turn; /* which of the team's loops may use it */
    volatile int lock;
    int ready;
    int done; /* threads that have no more of it */
    int kind;
    kmp_uint64 trip, chunk;
    volatile kmp_uint64 next;
    volatile kmp_uint64 ordered; /* the iteration whose ordered part is next */
    volatile unsigned *flags;    /* doacross: a bit for each iteration that has posted */
    kmp_int64 *dims;             /* its loops: lower, upper, stride */
    int dims_count;
};

struct team {
    struct team *outer;
    struct member *forked_by;
    int size, level, active_level;
    void **argv;
    struct settings settings;
    /* The end of a region or a barrier is made of these. `left`: members beside the first one that may still touch the team. */
    volatile int come __attribute__((aligned(LINE)));
    volatile int generation, left;
    volatile int event, sleepers;
    volatile int queued, outstanding; /* tasks */
    volatile unsigned singles __attribute__((aligned(LINE))), turn;
    void *volatile copyprivate;
    volatile int cancel; /* what is cancelled, and above that how many reductions the one that did had come to */
    struct loop loops[LOOPS];
    volatile int tasks_lock;
    struct task *newest, *oldest;
    struct reductions *volatile reductions[2]; /* of the region, of a loop */
    volatile int reductions_lock, reductions_left[2];
};

/* A thread's place in a team. */
struct member {
    struct team *team;
    int tid;
    struct member *outer;
    struct task *now;
    struct settings settings;
    unsigned singles, loops, reductions, barriers;
    /* The loop that it is in. */
    struct loop *loop;
    int kind, adds;
    kmp_uint64 trip, chunk;
    kmp_uint64 first, mine, lower_index;
    kmp_int64 lower, stride;
    int bumped;
    struct loop *across;
    struct task implicit;
};

struct worker {
    struct thread *thread;
    volatile int go, asleep;
    struct team *team;
    int tid;
    /* Its part of the next region; more variables than these lie with the team's. */
    microtask body;
    int argc;
    void *args[ARGS_NEAR];
} __attribute__((aligned(LINE)));

/* An OpenMP thread. */
struct thread {
    int gtid;
    struct member *at;
    struct worker **workers;
    int workers_count;
    int workers_busy; /* the first ones, in regions around this one */
    int wanted_threads, wanted_teams, teams_limit;
    int league, league_size;
    struct team *spares[SPARES];
};

static _Thread_local struct thread *self_thread;
static volatile int threads_made, threads_living;

static struct settings initial;
static int threads_list[LEVELS_MAX], threads_levels;
static int max_threads = 0, passive, cancellation, max_priority, teams_count, teams_thread_limit, stack_bytes = 2 << 20;

static struct thread *self(void);

static void fail(const char *what) {
    fprintf(stderr, "cloudskin: OpenMP: %s\n", what);
    abort();
}

static void *room(size_t bytes) {
    void *p = calloc(1, bytes);
    if (p == NULL)
        fail("no memory for a team or a task; give the program a higher memory limit");
    return p;
}

/* The same, of whole lines. */
static void *lines(size_t bytes) {
    void *p = aligned_alloc(LINE, bytes);
    if (p == NULL)
        fail("no memory for a team; give the program a higher memory limit");
    return memset(p, 0, bytes);
}

/* --- waiting ----------------------------------------------------------------------------------------------------------------- */

/* Something has changed that members of the team may wait for. */
static void tell(struct team *team) {
    /* Who sleeps has counted itself, and looked again behind that. */
    if (LOAD(&team->sleepers) > 0) {
        ADD(&team->event, 1);
        __cloudskin_wake(&team->event, INT_MAX);
    }
}

static struct task *take(struct team *team, struct task *above);
static void execute(struct thread *t, struct task *x);

typedef int (*condition)(void *a, kmp_uint64 b);

/* Which tasks a waiting thread may do. */
enum tasks { NONE, BELOW, ANY };

static int spins(void) {
    return threads_living > host_processors() ? 0 : SPINS;
}

static void help_until(struct thread *t, condition met, void *a, kmp_uint64 b, enum tasks which) {
    struct member *m = t->at;
    struct team *team = m->team;
    /* A tied task that waits may only do what comes from it, or it could be held up by what waits for it. */
    struct task *above = which == BELOW && !m->now->implicit ? m->now : NULL;
    const int first = passive || team->size == 1 ? 0 : FIRST_SPINS;
    for (int looks = 0, most = first; !met(a, b);) {
        struct task *x = which != NONE && LOAD(&team->queued) > 0 ? take(team, above) : NULL;
        if (x != NULL) {
            execute(t, x);
            looks = 0, most = first;
            continue;
        }
        if (looks++ < most)
            continue;
        if (most == FIRST_SPINS && (most = spins()) > 0)
            continue;
        ADD(&team->sleepers, 1);
        const int event = LOAD(&team->event);
        if (!met(a, b) && (x = which != NONE ? take(team, above) : NULL) == NULL)
            __cloudskin_sleep_on(&team->event, event);
        ADD(&team->sleepers, -1);
        if (x != NULL)
            execute(t, x);
        looks = 0, most = first;
    }
}

static int is(void *word, kmp_uint64 value) {
    return LOAD((volatile int *)word) == (int)value;
}

static int reaches(void *word, kmp_uint64 value) {
    return LOAD((volatile kmp_uint64 *)word) >= value;
}

static int cancelled(struct team *team) {
    return LOAD(&team->cancel) & ((1 << CANCEL_BITS) - 1);
}

static int barrier_is_over(void *p, kmp_uint64 generation) {
    struct team *team = p;
    int all = team->size;
    if (LOAD(&team->generation) != (int)generation)
        return 1;
    if (LOAD(&team->come) == all && LOAD(&team->outstanding) == 0 && REPLACES(&team->come, &all, 0)) {
        ADD(&team->generation, 1);
        tell(team);
        return 1;
    }
    return 0;
}

static void barrier(struct thread *t) {
    struct team *team = t->at->team;
    /* All members have come to as many barriers of the team. */
    const unsigned generation = t->at->barriers++;
    if (team->size > 1 && ADD(&team->come, 1) + 1 < team->size) {
        help_until(t, barrier_is_over, team, generation, ANY);
        return;
    }
    if (team->size == 1)
        STORE(&team->come, 1);
    help_until(t, barrier_is_over, team, generation, ANY);
}

/* --- teams --------------------------------------------------------------------------------------------------------------------- */

static struct thread *new_thread(void) {
    struct thread *t = room(sizeof *t);
    t->gtid = ADD(&threads_made, 1);
    ADD(&threads_living, 1);
    return t;
}

static struct team *new_team(struct thread *t, int size) {
    struct team *team = NULL;
    for (int i = 0; i < SPARES && team == NULL; i++)
        if (t->spares[i] != NULL && LOAD(&t->spares[i]->left) == 0) {
            team = memset(t->spares[i], 0, sizeof *team);
            t->spares[i] = NULL;
        }
    if (team == NULL)
        team = lines(sizeof *team);
    team->size = size;
    for (unsigned i = 0; i < LOOPS; i++)
        team->loops[i].turn = i;
    return team;
}

/* Nothing of the team is touched after the last one has said so. */
static void let_go(struct team *team) {
    if (ADD(&team->left, -1) == (AWAITED | 1))
        __cloudskin_wake(&team->left, INT_MAX);
}

/* Its members have come to the end of their region. */
static void free_team(struct thread *t, struct team *team) {
    for (int i = 0; i < SPARES; i++)
        if (t->spares[i] == NULL) {
            t->spares[i] = team;
            return;
        }
    while (LOAD(&team->left) > 0) {
        const int left = __atomic_fetch_or(&team->left, AWAITED, __ATOMIC_SEQ_CST) | AWAITED;
        if (left == AWAITED)
            break;
        __cloudskin_sleep_on(&team->left, left);
    }
    free(team);
}

static void enter(struct thread *t, struct member *m, struct team *team, int tid) {
    memset(m, 0, sizeof *m);
    m->team = team;
    m->tid = tid;
    m->outer = t->at;
    m->settings = team->settings;
    m->implicit.team = team;
    m->implicit.implicit = 1;
    m->implicit.flags = TIED;
    m->implicit.refs = 1;
    m->now = &m->implicit;
    t->at = m;
}

static void free_table(struct task *x);

static void leave(struct thread *t, struct member *m) {
    free_table(&m->implicit);
    t->at = m->outer;
}

/* The thread that calls, which is its own initial team when it comes here for the first time. */
static struct thread *self(void) {
    if (self_thread == NULL) {
        self_thread = new_thread();
        struct team *team = new_team(self_thread, 1);
        team->settings = initial;
        self_thread->league_size = 1;
        enter(self_thread, room(sizeof(struct member)), team, 0);
    }
    return self_thread;
}

#define A1(n) , argv[n]
#define A4(n) A1(n) A1(n + 1) A1(n + 2) A1(n + 3)
#define A16(n) A4(n) A4(n + 4) A4(n + 8) A4(n + 12)
#define P1 , void *
#define P4 P1 P1 P1 P1
#define P16 P4 P4 P4 P4
#define OPEN(...) __VA_ARGS__
/* A call through the table must have just the arguments that the function has. Lists are in brackets, to be one argument of a macro. */
#define CASE(n, P, A)                                                                                                              \
    case n:                                                                                                                        \
        ((void (*)(int *, int *OPEN P))body)(gtid, tid OPEN A);                                                                    \
        break;
#define CASES4(n, P, A)                                                                                                            \
    CASE(n, P, A)                                                                                                                  \
    CASE(n + 1, (OPEN P P1), (OPEN A A1(n)))                                                                                       \
    CASE(n + 2, (OPEN P P1 P1), (OPEN A A1(n) A1(n + 1)))                                                                          \
    CASE(n + 3, (OPEN P P1 P1 P1), (OPEN A A1(n) A1(n + 1) A1(n + 2)))
#define CASES16(n, P, A)                                                                                                           \
    CASES4(n, P, A)                                                                                                                \
    CASES4(n + 4, (OPEN P P4), (OPEN A A4(n)))                                                                                     \
    CASES4(n + 8, (OPEN P P4 P4), (OPEN A A4(n) A4(n + 4)))                                                                        \
    CASES4(n + 12, (OPEN P P4 P4 P4), (OPEN A A4(n) A4(n + 4) A4(n + 8)))

static void call(microtask body, int *gtid, int *tid, int argc, void **argv) {
    switch (argc) {
        CASES16(0, (), ())
        CASES16(16, (P16), (A16(0)))
        CASES16(32, (P16 P16), (A16(0) A16(16)))
        CASES16(48, (P16 P16 P16), (A16(0) A16(16) A16(32)))
    default:
        fail("a parallel region uses more than 63 variables from outside; put them into a struct");
    }
}

static void take_part(struct thread *t, struct team *team, int tid, microtask body, int argc, void **argv) {
    struct member m;
    int gtid = t->gtid, number = tid;
    enter(t, &m, team, tid);
    call(body, &gtid, &number, argc, argv);
    barrier(t);
    leave(t, &m);
}

static void *work(void *p) {
    struct worker *w = p;
    struct thread *t = w->thread;
    self_thread = t;
    for (int seen = 0;; seen++) {
        for (int looks = 0, most = passive ? 0 : FIRST_SPINS; LOAD(&w->go) == seen;) {
            if (looks++ < most || (most == FIRST_SPINS && (most = spins()) > 0))
                continue;
            STORE(&w->asleep, 1);
            while (LOAD(&w->go) == seen)
                __cloudskin_sleep_on(&w->go, seen);
            STORE(&w->asleep, 0);
        }
        struct team *team = w->team;
        take_part(t, team, w->tid, w->body, w->argc, w->argc <= ARGS_NEAR ? w->args : team->argv);
        let_go(team);
    }
    return NULL;
}

/* So many workers of this thread's own as are free or can be had, up to `wanted`. */
static int workers(struct thread *t, int wanted) {
    const int count = t->workers_busy + wanted;
    if (count > t->workers_count) {
        struct worker **more = realloc(t->workers, count * sizeof *more);
        if (more == NULL)
            return t->workers_count - t->workers_busy;
        t->workers = more;
    }
    while (t->workers_count < count) {
        struct worker *w = lines(sizeof *w);
        pthread_attr_t attr;
        pthread_t id;
        w->thread = new_thread();
        w->thread->league_size = 1;
        pthread_attr_init(&attr);
        pthread_attr_setstacksize(&attr, stack_bytes);
        pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
        if (pthread_create(&id, &attr, work, w) != 0) {
            ADD(&threads_living, -1);
            free(w->thread);
            free(w);
            break;
        }
        t->workers[t->workers_count++] = w;
    }
    return (count < t->workers_count ? count : t->workers_count) - t->workers_busy;
}

static int wanted(struct thread *t) {
    struct member *m = t->at;
    int n = t->wanted_threads > 0 ? t->wanted_threads : m->settings.threads > 0 ? m->settings.threads : host_processors();
    const int limit = t->teams_limit > 0 ? t->teams_limit : 0;
    t->wanted_threads = 0;
    if (m->team->active_level >= m->settings.levels || m->team->level >= LEVELS_MAX)
        return 1;
    if (m->settings.dynamic && n > host_processors())
        n = host_processors();
    if (max_threads > 0 && n > max_threads)
        n = max_threads;
    return limit > 0 && n > limit ? limit : n;
}

static struct team *begin_team(struct thread *t, int size) {
    struct member *m = t->at;
    struct team *team = new_team(t, size);
    team->outer = m->team;
    team->forked_by = m;
    team->level = m->team->level + 1;
    team->active_level = m->team->active_level + (size > 1);
    team->settings = m->settings;
    if (team->level < threads_levels)
        team->settings.threads = threads_list[team->level];
    return team;
}

static void fork_team(struct thread *t, microtask body, int argc, void **argv) {
    int size = wanted(t);
    if (size > 1)
        size = 1 + workers(t, size - 1);
    struct team *team = begin_team(t, size);
    team->argv = argv;
    STORE(&team->left, size - 1);
    for (int i = 1; i < size; i++) {
        struct worker *w = t->workers[t->workers_busy + i - 1];
        w->team = team;
        w->tid = i;
        w->body = body;
        w->argc = argc;
        if (argc <= ARGS_NEAR)
            memcpy(w->args, argv, argc * sizeof *argv);
        ADD(&w->go, 1);
        if (LOAD(&w->asleep))
            __cloudskin_wake(&w->go, 1);
    }
    t->workers_busy += size - 1;
    take_part(t, team, 0, body, argc, argv);
    t->workers_busy -= size - 1;
    free_team(t, team);
}

static void gather(int argc, void **argv, va_list list) {
    if (argc >= ARGS_MAX)
        fail("a parallel region uses more than 63 variables from outside; put them into a struct");
    for (int i = 0; i < argc; i++)
        argv[i] = va_arg(list, void *);
}

void __kmpc_fork_call(ident_t *loc, kmp_int32 argc, microtask body, ...) {
    void *argv[ARGS_MAX];
    va_list list;
    va_start(list, body);
    gather(argc, argv, list);
    va_end(list);
    fork_team(self(), body, argc, argv);
}

void __kmpc_serialized_parallel(ident_t *loc, kmp_int32 gtid) {
    struct thread *t = self();
    t->wanted_threads = 0;
    enter(t, room(sizeof(struct member)), begin_team(t, 1), 0);
}

void __kmpc_end_serialized_parallel(ident_t *loc, kmp_int32 gtid) {
    struct thread *t = self();
    struct member *m = t->at;
    struct team *team = m->team;
    barrier(t);
    leave(t, m);
    free_team(t, team);
    free(m);
}

void __kmpc_fork_call_if(ident_t *loc, kmp_int32 argc, microtask body, kmp_int32 condition, void *args) {
    int gtid = self()->gtid, zero = 0;
    if (condition) {
        fork_team(self(), body, argc, &args);
        return;
    }
    __kmpc_serialized_parallel(loc, gtid);
    call(body, &gtid, &zero, argc, &args);
    __kmpc_end_serialized_parallel(loc, gtid);
}

/* A league's teams, one after the other: nothing may wait for another one. */
void __kmpc_fork_teams(ident_t *loc, kmp_int32 argc, microtask body, ...) {
    void *argv[ARGS_MAX];
    struct thread *t = self();
    const int count = t->wanted_teams > 0 ? t->wanted_teams : teams_count > 0 ? teams_count : 1;
    int gtid = t->gtid, zero = 0;
    va_list list;
    va_start(list, body);
    gather(argc, argv, list);
    va_end(list);
    t->wanted_teams = 0;
    t->league_size = count;
    for (t->league = 0; t->league < count; t->league++)
        call(body, &gtid, &zero, argc, argv);
    t->league = 0;
    t->league_size = 1;
    t->teams_limit = 0;
}

void __kmpc_push_num_teams(ident_t *loc, kmp_int32 gtid, kmp_int32 teams, kmp_int32 threads) {
    struct thread *t = self();
    t->wanted_teams = teams;
    t->teams_limit = threads > 0 ? threads : teams_thread_limit;
}

void __kmpc_push_num_teams_51(ident_t *loc, kmp_int32 gtid, kmp_int32 least, kmp_int32 most, kmp_int32 threads) {
    __kmpc_push_num_teams(loc, gtid, most > 0 ? most : least, threads);
}

void __kmpc_set_thread_limit(ident_t *loc, kmp_int32 gtid, kmp_int32 limit) {
    self()->teams_limit = limit;
}

void __kmpc_push_num_threads(ident_t *loc, kmp_int32 gtid, kmp_int32 count) {
    self()->wanted_threads = count;
}

void __kmpc_push_proc_bind(ident_t *loc, kmp_int32 gtid, int bind) {
}

kmp_int32 __kmpc_global_thread_num(ident_t *loc) {
    return self()->gtid;
}

kmp_int32 __kmpc_global_num_threads(ident_t *loc) {
    return LOAD(&threads_living);
}

kmp_int32 __kmpc_bound_thread_num(ident_t *loc) {
    return self()->at->tid;
}

kmp_int32 __kmpc_bound_num_threads(ident_t *loc) {
    return self()->at->team->size;
}

kmp_int32 __kmpc_ok_to_fork(ident_t *loc) {
    return 1;
}

kmp_int32 __kmpc_in_parallel(ident_t *loc) {
    return self()->at->team->active_level > 0;
}

void __kmpc_begin(ident_t *loc, kmp_int32 flags) {
}

void __kmpc_end(ident_t *loc) {
}

/* --- barriers, master, single, critical, reductions ------------------------------------------------------------------------------ */

void __kmpc_barrier(ident_t *loc, kmp_int32 gtid) {
    barrier(self());
}

void __kmpc_flush(ident_t *loc) {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

kmp_int32 __kmpc_cancel_barrier(ident_t *loc, kmp_int32 gtid) {
    struct thread *t = self();
    struct team *team = t->at->team;
    barrier(t);
    const int kind = cancelled(team);
    if (kind == 0)
        return 0;
    barrier(t);
    STORE(&team->cancel, 0);
    /* Not all have come to as many reductions. */
    STORE(&team->turn, 0);
    t->at->reductions = 0;
    barrier(t);
    return kind == CANCEL_PARALLEL;
}

kmp_int32 __kmpc_cancellationpoint(ident_t *loc, kmp_int32 gtid, kmp_int32 kind) {
    struct member *m = self()->at;
    if (!cancellation)
        return 0;
    if (kind == CANCEL_TASKGROUP)
        return m->now->group != NULL && LOAD(&m->now->group->cancelled);
    return cancelled(m->team) == kind;
}

kmp_int32 __kmpc_cancel(ident_t *loc, kmp_int32 gtid, kmp_int32 kind) {
    struct member *m = self()->at;
    int none = 0;
    if (!cancellation)
        return 0;
    if (kind == CANCEL_TASKGROUP) {
        if (m->now->group != NULL)
            STORE(&m->now->group->cancelled, 1);
        return m->now->group != NULL;
    }
    REPLACES(&m->team->cancel, &none, kind | (int)(m->reductions << CANCEL_BITS));
    tell(m->team);
    return cancelled(m->team) == kind;
}

kmp_int32 __kmpc_master(ident_t *loc, kmp_int32 gtid) {
    return self()->at->tid == 0;
}

void __kmpc_end_master(ident_t *loc, kmp_int32 gtid) {
}

kmp_int32 __kmpc_masked(ident_t *loc, kmp_int32 gtid, kmp_int32 filter) {
    return self()->at->tid == filter;
}

void __kmpc_end_masked(ident_t *loc, kmp_int32 gtid) {
}

kmp_int32 __kmpc_single(ident_t *loc, kmp_int32 gtid) {
    struct member *m = self()->at;
    unsigned before = m->singles++;
    return REPLACES(&m->team->singles, &before, m->singles);
}

void __kmpc_end_single(ident_t *loc, kmp_int32 gtid) {
}

void __kmpc_copyprivate(ident_t *loc, kmp_int32 gtid, size_t size, void *data, void (*copy)(void *, void *), kmp_int32 did_it) {
    struct thread *t = self();
    struct team *team = t->at->team;
    if (did_it)
        team->copyprivate = data;
    barrier(t);
    if (!did_it)
        copy(data, team->copyprivate);
    barrier(t);
}

/* The compiler gives eight ints, zero in the beginning, of which the first is the lock. */
void __kmpc_critical(ident_t *loc, kmp_int32 gtid, volatile int *name) {
    __cloudskin_lock(name);
}

void __kmpc_critical_with_hint(ident_t *loc, kmp_int32 gtid, volatile int *name, kmp_uint32 hint) {
    __cloudskin_lock(name);
}

void __kmpc_end_critical(ident_t *loc, kmp_int32 gtid, volatile int *name) {
    __cloudskin_unlock(name);
}

static volatile int atomic_lock;

void __kmpc_atomic_start(void) {
    __cloudskin_lock(&atomic_lock);
}

void __kmpc_atomic_end(void) {
    __cloudskin_unlock(&atomic_lock);
}

/* Its turn has come, or never will: who has cancelled the construct does not come to its reduction, whose result is nobody's then. */
static int may_reduce(void *p, kmp_uint64 turn) {
    struct team *team = p;
    const int cancel = LOAD(&team->cancel);
    return LOAD(&team->turn) == (unsigned)turn || (cancel != 0 && (unsigned)(turn >> 32) >= (unsigned)cancel >> CANCEL_BITS);
}

/* 1: combine what is yours with what is there, then say __kmpc_end_reduce. Turns come in the order of the threads' numbers. */
kmp_int32 __kmpc_reduce_nowait(ident_t *loc, kmp_int32 gtid, kmp_int32 n, size_t size, void *data, void (*f)(void *, void *), volatile int *lock) {
    struct thread *t = self();
    struct member *m = t->at;
    const unsigned turn = m->reductions * (unsigned)m->team->size + (unsigned)m->tid;
    if (m->team->size > 1)
        help_until(t, may_reduce, m->team, (kmp_uint64)m->reductions << 32 | turn, NONE);
    m->reductions++;
    return m->team->size == 1 || LOAD(&m->team->turn) == turn;
}

void __kmpc_end_reduce_nowait(ident_t *loc, kmp_int32 gtid, volatile int *lock) {
    struct team *team = self()->at->team;
    ADD(&team->turn, 1);
    tell(team);
}

kmp_int32 __kmpc_reduce(ident_t *loc, kmp_int32 gtid, kmp_int32 n, size_t size, void *data, void (*f)(void *, void *), volatile int *lock) {
    return __kmpc_reduce_nowait(loc, gtid, n, size, data, f, lock);
}

void __kmpc_end_reduce(ident_t *loc, kmp_int32 gtid, volatile int *lock) {
    __kmpc_end_reduce_nowait(loc, gtid, lock);
    barrier(self());
}

/* --- loops -------------------------------------------------------------------------------------------------------------------------- */

#define MODIFIERS (3 << 29)

/* A static loop: this thread's part is known at once. `kind` above 90: of a league's teams. */
#define STATIC_INIT(name, T, UT, ST)                                                                                               \
    void __kmpc_for_static_init_##name(ident_t *loc, kmp_int32 gtid, kmp_int32 kind, kmp_int32 *last, T *lower, T *upper,          \
                                       ST *stride, ST step, ST chunk) {                                                            \
        struct thread *t = self();                                                                                                 \
        UT tid = (UT)t->at->tid, n = (UT)t->at->team->size;                                                                        \
        kind &= ~MODIFIERS;                                                                                                        \
        if (kind > 90) {                                                                                                           \
            kind -= 91 - SCHED_STATIC_CHUNKED;                                                                                     \
            tid = (UT)t->league;                                                                                                   \
            n = (UT)t->league_size;                                                                                                \
        }                                                                                                                          \
        if (step > 0 ? *upper < *lower : *lower < *upper) {                                                                        \
            if (last != NULL)                                                                                                      \
                *last = 0;                                                                                                         \
            *stride = step;                                                                                                        \
            return;                                                                                                                \
        }                                                                                                                          \
        if (n == 1) {                                                                                                              \
            if (last != NULL)                                                                                                      \
                *last = 1;                                                                                                         \
            *stride = step > 0 ? (ST)(*upper - *lower + 1) : -(ST)(*lower - *upper + 1);                                           \
            return;                                                                                                                \
        }                                                                                                                          \
        UT trip = step == 1  ? (UT)*upper - (UT)*lower + 1                                                                         \
                  : step > 0 ? ((UT)*upper - (UT)*lower) / (UT)step + 1                                                            \
                             : ((UT)*lower - (UT)*upper) / ((UT)0 - (UT)step) + 1;                                                 \
        int is_last;                                                                                                               \
        if (kind == SCHED_STATIC_CHUNKED) {                                                                                        \
            UT each = chunk < 1 ? 1 : (UT)chunk > trip ? trip : (UT)chunk;                                                         \
            UT chunks = trip / each + (trip % each != 0);                                                                          \
            UT span = each * (UT)step;                                                                                             \
            *stride = (ST)(span * (chunks < n ? chunks : n));                                                                      \
            is_last = tid == (chunks - 1) % n;                                                                                     \
            if (tid < chunks) {                                                                                                    \
                *lower = (T)((UT)*lower + span * tid);                                                                             \
                *upper = (T)((UT)*lower + span - (UT)step);                                                                        \
            } else                                                                                                                 \
                *lower = (T)((UT)*upper + (UT)step);                                                                               \
        } else {                                                                                                                   \
            UT each = trip / n, more = trip % n;                                                                                   \
            *stride = (ST)trip;                                                                                                    \
            if (each > 0 || tid < more) {                                                                                          \
                UT begin = tid * each + (tid < more ? tid : more), count = each + (tid < more);                                    \
                *lower = (T)((UT)*lower + begin * (UT)step);                                                                       \
                *upper = (T)((UT)*lower + (count - 1) * (UT)step);                                                                 \
                is_last = begin + count == trip;                                                                                   \
            } else {                                                                                                               \
                *lower = (T)((UT)*upper + (UT)step);                                                                               \
                is_last = 0;                                                                                                       \
            }                                                                                                                      \
        }                                                                                                                          \
        if (last != NULL)                                                                                                          \
            *last = is_last;                                                                                                       \
    }

STATIC_INIT(4, kmp_int32, kmp_uint32, kmp_int32)
STATIC_INIT(4u, kmp_uint32, kmp_uint32, kmp_int32)
STATIC_INIT(8, kmp_int64, kmp_uint64, kmp_int64)
STATIC_INIT(8u, kmp_uint64, kmp_uint64, kmp_int64)

void __kmpc_for_static_fini(ident_t *loc, kmp_int32 gtid) {
}

static struct loop *open_loop(struct thread *t) {
    struct member *m = t->at;
    const unsigned number = m->loops++;
    struct loop *l = &m->team->loops[number % LOOPS];
    help_until(t, is, (void *)&l->turn, number, NONE);
    return l;
}

/* The last one that leaves a loop makes its record free for another. Called with the lock. */
static void close_loop(struct team *team, struct loop *l) {
    if (++l->done < team->size) {
        __cloudskin_unlock(&l->lock);
        return;
    }
    free((void *)l->flags);
    free(l->dims);
    l->flags = NULL;
    l->dims = NULL;
    l->ready = l->done = 0;
    __cloudskin_unlock(&l->lock);
    STORE(&l->turn, l->turn + LOOPS);
    tell(team);
}

static void begin_loop(struct thread *t, int kind, kmp_int64 lower, kmp_int64 stride, kmp_uint64 trip, kmp_uint64 chunk) {
    struct member *m = t->at;
    struct loop *l = open_loop(t);
    kind &= ~MODIFIERS;
    if (kind >= 160)
        kind -= 160 - 32;
    if (kind > 64 && kind < 91)
        kind -= 32; /* an ordered one goes the same way */
    if (kind == SCHED_RUNTIME || kind == 47) {
        static const int kinds[] = {SCHED_STATIC, SCHED_STATIC, SCHED_DYNAMIC, SCHED_GUIDED, SCHED_AUTO};
        kind = kinds[m->settings.kind & 7];
        chunk = m->settings.chunk > 0 ? (kmp_uint64)m->settings.chunk : kind == SCHED_STATIC ? 0 : 1;
        if (kind == SCHED_STATIC && chunk > 0)
            kind = SCHED_STATIC_CHUNKED;
    }
    if (kind == 44)
        kind = SCHED_DYNAMIC; /* what one steals from another is as well taken by turns */
    if (kind == SCHED_TRAPEZOIDAL || kind == 42 || kind == 43 || kind == 46)
        kind = SCHED_GUIDED;
    if (kind != SCHED_STATIC_CHUNKED && kind != SCHED_DYNAMIC && kind != SCHED_GUIDED)
        kind = SCHED_STATIC;
    __cloudskin_lock(&l->lock);
    if (!l->ready) {
        l->ready = 1;
        l->kind = kind;
        l->trip = trip;
        l->chunk = chunk > trip ? trip : chunk;
        l->chunk = l->chunk < 1 ? 1 : l->chunk;
        l->next = l->ordered = 0;
    }
    m->kind = l->kind;
    m->trip = l->trip;
    m->chunk = l->chunk;
    __cloudskin_unlock(&l->lock);
    /* Each thread may add once more when all is taken, and the sum must not come round. */
    m->adds = m->kind == SCHED_DYNAMIC && m->trip < (kmp_uint64)1 << 48;
    m->loop = l;
    m->lower = lower;
    m->stride = stride;
    m->mine = 0;
    m->bumped = 0;
}

/* The next iterations of this thread: the first and how many, 0 for no more. */
static kmp_uint64 next_part(struct member *m, kmp_uint64 *first) {
    struct loop *l = m->loop;
    const kmp_uint64 n = (kmp_uint64)m->team->size, tid = (kmp_uint64)m->tid, trip = m->trip, chunk = m->chunk;
    kmp_uint64 at, count;
    switch (m->kind) {
    case SCHED_STATIC: {
        const kmp_uint64 each = trip / n, more = trip % n;
        if (m->mine++ > 0)
            return 0;
        *first = tid * each + (tid < more ? tid : more);
        return each + (tid < more);
    }
    case SCHED_STATIC_CHUNKED: {
        const kmp_uint64 chunks = trip / chunk + (trip % chunk != 0), number = m->mine++ * n + tid;
        if (number >= chunks)
            return 0;
        *first = number * chunk;
        return trip - *first < chunk ? trip - *first : chunk;
    }
    default:
        /* What all threads take from is touched once; what they have in common and only read they have by themselves. */
        if (m->adds) {
            *first = at = ADD(&l->next, chunk);
            return at >= trip ? 0 : trip - at < chunk ? trip - at : chunk;
        }
        at = LOAD(&l->next);
        do {
            if (at >= trip)
                return 0;
            const kmp_uint64 rest = trip - at;
            count = m->kind == SCHED_GUIDED ? rest / (2 * n) : chunk;
            count = count < chunk ? chunk : count;
            count = count > rest ? rest : count;
        } while (!REPLACES(&l->next, &at, at + count));
        *first = at;
        return count;
    }
}

static int next_loop(kmp_int32 *last, kmp_uint64 *first, kmp_uint64 *count) {
    struct thread *t = self();
    struct member *m = t->at;
    struct loop *l = m->loop;
    if (l == NULL)
        return 0;
    *count = cancellation && LOAD(&m->team->cancel) != 0 ? 0 : next_part(m, first);
    if (*count == 0) {
        m->loop = NULL;
        __cloudskin_lock(&l->lock);
        close_loop(m->team, l);
        return 0;
    }
    m->lower_index = *first;
    m->bumped = 0;
    if (last != NULL)
        *last = *first + *count == m->trip;
    return 1;
}

/* An iteration of a loop with ordered parts has ended; if it had none, its turn passes nevertheless. */
static void end_iteration(void) {
    struct thread *t = self();
    struct member *m = t->at;
    if (m->loop == NULL)
        return;
    if (m->bumped) {
        m->bumped = 0;
        return;
    }
    help_until(t, reaches, (void *)&m->loop->ordered, m->lower_index, NONE);
    ADD(&m->loop->ordered, 1);
    tell(m->team);
}

#define DISPATCH(name, T, UT, ST)                                                                                                  \
    void __kmpc_dispatch_init_##name(ident_t *loc, kmp_int32 gtid, kmp_int32 kind, T lower, T upper, ST step, ST chunk) {          \
        kmp_uint64 trip = 0;                                                                                                       \
        if (step > 0 && lower <= upper)                                                                                            \
            trip = (kmp_uint64)((UT)upper - (UT)lower) / (kmp_uint64)step + 1;                                                     \
        else if (step < 0 && lower >= upper)                                                                                       \
            trip = (kmp_uint64)((UT)lower - (UT)upper) / (0 - (kmp_uint64)step) + 1;                                               \
        begin_loop(self(), kind, (kmp_int64)lower, step, trip, chunk < 1 ? 1 : (kmp_uint64)chunk);                                 \
    }                                                                                                                              \
    kmp_int32 __kmpc_dispatch_next_##name(ident_t *loc, kmp_int32 gtid, kmp_int32 *last, T *lower, T *upper, ST *step) {           \
        kmp_uint64 first, count;                                                                                                   \
        struct member *m = self()->at;                                                                                             \
        if (!next_loop(last, &first, &count))                                                                                      \
            return 0; /* who has had the last part looks at `last` afterwards */                                                   \
        *lower = (T)((kmp_uint64)m->lower + first * (kmp_uint64)m->stride);                                                        \
        *upper = (T)((kmp_uint64)m->lower + (first + count - 1) * (kmp_uint64)m->stride);                                          \
        if (step != NULL)                                                                                                          \
            *step = (ST)m->stride;                                                                                                 \
        return 1;                                                                                                                  \
    }                                                                                                                              \
    void __kmpc_dispatch_fini_##name(ident_t *loc, kmp_int32 gtid) {                                                               \
        end_iteration();                                                                                                           \
    }

DISPATCH(4, kmp_int32, kmp_uint32, kmp_int32)
DISPATCH(4u, kmp_uint32, kmp_uint32, kmp_int32)
DISPATCH(8, kmp_int64, kmp_uint64, kmp_int64)
DISPATCH(8u, kmp_uint64, kmp_uint64, kmp_int64)

void __kmpc_dispatch_deinit(ident_t *loc, kmp_int32 gtid) {
}

/* Sections are a dynamic loop over their numbers. */
kmp_int32 __kmpc_sections_init(ident_t *loc, kmp_int32 gtid) {
    return 0;
}

void __kmpc_ordered(ident_t *loc, kmp_int32 gtid) {
    struct thread *t = self();
    if (t->at->loop != NULL)
        help_until(t, reaches, (void *)&t->at->loop->ordered, t->at->lower_index, NONE);
}

void __kmpc_end_ordered(ident_t *loc, kmp_int32 gtid) {
    struct member *m = self()->at;
    if (m->loop == NULL)
        return;
    m->bumped = 1;
    ADD(&m->loop->ordered, 1);
    tell(m->team);
}

/* Loops whose iterations wait for earlier ones by name. */
struct dim {
    kmp_int64 lower, upper, stride;
};

void __kmpc_doacross_init(ident_t *loc, kmp_int32 gtid, kmp_int32 count, const struct dim *dims) {
    struct thread *t = self();
    struct member *m = t->at;
    if (m->team->size == 1) {
        m->across = NULL;
        return;
    }
    /* The loop itself comes next and has a record of its own. */
    struct loop *l = open_loop(t);
    __cloudskin_lock(&l->lock);
    if (!l->ready) {
        kmp_uint64 trip = 1;
        l->ready = 1;
        l->dims = room((size_t)count * 3 * sizeof(kmp_int64));
        l->dims_count = count;
        for (int i = 0; i < count; i++) {
            const struct dim *d = &dims[i];
            memcpy(&l->dims[3 * i], d, sizeof *d);
            const kmp_int64 range = d->stride > 0 ? (d->upper - d->lower) / d->stride : (d->lower - d->upper) / -d->stride;
            l->dims[3 * i + 1] = range + 1;
            trip *= range < 0 ? 0 : (kmp_uint64)range + 1;
        }
        l->flags = room((size_t)(trip / 32 + 1) * sizeof(unsigned));
    }
    __cloudskin_unlock(&l->lock);
    m->across = l;
}

/* The number of an iteration, or -1 outside of the loops. */
static kmp_int64 across(const struct loop *l, const kmp_int64 *at) {
    kmp_int64 number = 0;
    for (int i = 0; i < l->dims_count; i++) {
        const kmp_int64 lower = l->dims[3 * i], count = l->dims[3 * i + 1], stride = l->dims[3 * i + 2];
        const kmp_int64 here = stride > 0 ? at[i] - lower : lower - at[i];
        if (here < 0)
            return -1;
        const kmp_int64 index = here / (stride > 0 ? stride : -stride);
        if (index >= count)
            return -1;
        number = number * count + index;
    }
    return number;
}

static int has_posted(void *flags, kmp_uint64 number) {
    return LOAD(&((volatile unsigned *)flags)[number / 32]) >> number % 32 & 1;
}

void __kmpc_doacross_wait(ident_t *loc, kmp_int32 gtid, const kmp_int64 *at) {
    struct thread *t = self();
    struct loop *l = t->at->across;
    const kmp_int64 number = l != NULL ? across(l, at) : -1;
    if (number >= 0)
        help_until(t, has_posted, (void *)l->flags, (kmp_uint64)number, NONE);
}

void __kmpc_doacross_post(ident_t *loc, kmp_int32 gtid, const kmp_int64 *at) {
    struct member *m = self()->at;
    const kmp_int64 number = m->across != NULL ? across(m->across, at) : -1;
    if (number < 0)
        return;
    __atomic_fetch_or(&m->across->flags[number / 32], 1u << number % 32, __ATOMIC_SEQ_CST);
    tell(m->team);
}

void __kmpc_doacross_fini(ident_t *loc, kmp_int32 gtid) {
    struct member *m = self()->at;
    struct loop *l = m->across;
    m->across = NULL;
    if (l == NULL)
        return;
    __cloudskin_lock(&l->lock);
    close_loop(m->team, l);
}

/* --- tasks ---------------------------------------------------------------------------------------------------------------------------- */

/* A place in the order of a task's children, that may outlive the child. */
struct node {
    struct task *task; /* NULL when it is complete */
    volatile int lock;
    volatile int before; /* nodes that must be complete first, and one while it is being made */
    volatile int refs;
    int waits;           /* it stands for somebody who waits, and for no task */
    struct team *team;
    struct link *after;
    struct link *exclusive; /* entries that it must have alone */
};

struct link {
    struct link *next;
    union {
        struct node *node;
        struct entry *entry;
    };
};

enum { DEP_IN = 1, DEP_OUT = 2, DEP_MUTEX = 4, DEP_SET = 8, DEP_ALL = 0x80 };

/* What is known of an address: who wrote last, the set of those after it that may run together, and the set before that. */
struct entry {
    struct entry *next;
    void *address;
    struct node *out;
    struct link *set, *previous;
    int kind;
    volatile int taken;
};

#define BUCKETS 61

struct table {
    struct entry *entries[BUCKETS];
    struct node *all;
};

struct depend {
    void *address;
    size_t bytes;
    unsigned char kind;
};

static void drop(struct node *n) {
    if (n != NULL && ADD(&n->refs, -1) == 1) {
        for (struct link *l = n->exclusive, *next; l != NULL; l = next) {
            next = l->next;
            free(l);
        }
        free(n);
    }
}

static struct node *keep(struct node *n) {
    if (n != NULL)
        ADD(&n->refs, 1);
    return n;
}

static struct link *link_to(struct node *n, struct link *next) {
    struct link *l = room(sizeof *l);
    l->node = keep(n);
    l->next = next;
    return l;
}

static void free_links(struct link *l) {
    while (l != NULL) {
        struct link *next = l->next;
        drop(l->node);
        free(l);
        l = next;
    }
}

static void free_table(struct task *x) {
    struct table *table = x->table;
    x->table = NULL;
    if (table == NULL)
        return;
    for (int i = 0; i < BUCKETS; i++)
        for (struct entry *e = table->entries[i], *next; e != NULL; e = next) {
            next = e->next;
            drop(e->out);
            free_links(e->set);
            free_links(e->previous);
            free(e);
        }
    drop(table->all);
    free(table);
}

static void unref(struct task *x) {
    while (x != NULL && !x->implicit && ADD(&x->refs, -1) == 1) {
        struct task *parent = x->parent;
        free_table(x);
        free(x);
        x = parent;
    }
}

/* Called with the queue's lock: takes all that a task must have alone, or nothing. */
static int take_exclusive(struct task *x) {
    if (x->node == NULL || x->node->exclusive == NULL || x->holds)
        return 1;
    for (struct link *l = x->node->exclusive; l != NULL; l = l->next)
        if (l->entry->taken)
            return 0;
    for (struct link *l = x->node->exclusive; l != NULL; l = l->next)
        l->entry->taken = 1;
    x->holds = 1;
    return 1;
}

static int comes_from(struct task *x, struct task *above) {
    for (; x != NULL; x = x->parent)
        if (x == above)
            return 1;
    return 0;
}

static struct task *take(struct team *team, struct task *above) {
    struct task *x;
    __cloudskin_lock(&team->tasks_lock);
    for (x = team->newest; x != NULL; x = x->older)
        if ((above == NULL || comes_from(x, above)) && take_exclusive(x))
            break;
    if (x != NULL) {
        *(x->newer != NULL ? &x->newer->older : &team->newest) = x->older;
        *(x->older != NULL ? &x->older->newer : &team->oldest) = x->newer;
        ADD(&team->queued, -1);
    }
    __cloudskin_unlock(&team->tasks_lock);
    return x;
}

static void push(struct task *x) {
    struct team *team = x->team;
    __cloudskin_lock(&team->tasks_lock);
    struct task *newer = NULL, *older = team->newest;
    while (older != NULL && older->priority > x->priority) {
        newer = older;
        older = older->older;
    }
    x->newer = newer;
    x->older = older;
    *(newer != NULL ? &newer->older : &team->newest) = x;
    *(older != NULL ? &older->newer : &team->oldest) = x;
    ADD(&team->queued, 1);
    __cloudskin_unlock(&team->tasks_lock);
    tell(team);
}

static void complete(struct task *x) {
    struct team *team = x->team;
    struct node *n = x->node;
    if (n != NULL) {
        if (n->exclusive != NULL) {
            __cloudskin_lock(&team->tasks_lock);
            for (struct link *l = n->exclusive; l != NULL; l = l->next)
                l->entry->taken = 0;
            __cloudskin_unlock(&team->tasks_lock);
        }
        __cloudskin_lock(&n->lock);
        n->task = NULL;
        struct link *after = n->after;
        n->after = NULL;
        __cloudskin_unlock(&n->lock);
        for (struct link *l = after; l != NULL; l = l->next)
            if (ADD(&l->node->before, -1) == 1 && !l->node->waits)
                push(l->node->task);
        free_links(after);
        x->node = NULL;
        drop(n);
    }
    const int begun = x->begun;
    if (begun) {
        struct group *group = x->group;
        ADD(&x->parent->children, -1);
        if (group != NULL)
            ADD(&group->count, -1);
    }
    unref(x);
    /* Last: when no task is outstanding the barrier at the region's end is over, and what its threads had on their stacks is gone. The team is there until all have left that barrier, of whom
       the caller is one, or keeps it (omp_fulfill_event). */
    if (begun)
        ADD(&team->outstanding, -1);
    tell(team);
}

static void end_body(struct task *x) {
    int allowed = 1;
    if (x->flags & DESTRUCTORS)
        x->task.first.destructors(self()->gtid, &x->task);
    if (x->detach != 0 && REPLACES(&x->detach, &allowed, 3))
        return; /* omp_fulfill_event completes it */
    complete(x);
}

static void execute(struct thread *t, struct task *x) {
    struct member *m = t->at;
    struct task *before = m->now;
    m->now = x;
    if (x->group == NULL || !LOAD(&x->group->cancelled))
        x->task.routine(t->gtid, &x->task);
    m->now = before;
    if (!(x->flags & TIED) && ADD(&x->parts, -1) > 1)
        return; /* it goes on in another part */
    end_body(x);
}

kmp_task_t *__kmpc_omp_task_alloc(ident_t *loc, kmp_int32 gtid, kmp_int32 flags, size_t bytes, size_t shareds, kmp_int32 (*routine)(kmp_int32, kmp_task_t *)) {
    struct member *m = self()->at;
    const size_t at = (offsetof(struct task, task) + bytes + 15) & ~(size_t)15;
    struct task *x = room(at + shareds);
    x->parent = m->now;
    x->team = m->team;
    x->group = m->now->group;
    x->flags = flags | (m->now->flags & FINAL);
    x->bytes = at + shareds;
    x->shareds_at = shareds > 0 ? at : 0;
    x->refs = 1;
    x->task.routine = routine;
    x->task.shareds = shareds > 0 ? (char *)x + at : NULL;
    ADD(&m->now->refs, 1);
    return &x->task;
}

kmp_task_t *__kmpc_omp_target_task_alloc(ident_t *loc, kmp_int32 gtid, kmp_int32 flags, size_t bytes, size_t shareds, kmp_int32 (*routine)(kmp_int32, kmp_task_t *), kmp_int64 device) {
    return __kmpc_omp_task_alloc(loc, gtid, flags, bytes, shareds, routine);
}

static void begin(struct task *x) {
    x->begun = 1;
    if (x->flags & PRIORITY)
        x->priority = x->task.second.priority < max_priority ? x->task.second.priority : max_priority;
    ADD(&x->parent->children, 1);
    if (x->group != NULL)
        ADD(&x->group->count, 1);
    ADD(&x->team->outstanding, 1);
}

/* Whether it is done at once: there is nobody else, or more than enough, or it must be. */
static int at_once(struct task *x) {
    return x->team->size == 1 || x->parent->flags & FINAL || LOAD(&x->team->queued) >= QUEUED_MAX * x->team->size;
}

kmp_int32 __kmpc_omp_task(ident_t *loc, kmp_int32 gtid, kmp_task_t *task) {
    struct task *x = task_of(task);
    if (!(x->flags & TIED))
        ADD(&x->parts, 1);
    if (!x->begun)
        begin(x);
    if (at_once(x))
        execute(self(), x);
    else
        push(x);
    return 0;
}

kmp_int32 __kmpc_omp_task_parts(ident_t *loc, kmp_int32 gtid, kmp_task_t *task) {
    return __kmpc_omp_task(loc, gtid, task);
}

/* An undeferred task: the compiler calls its function between these two. */
void __kmpc_omp_task_begin_if0(ident_t *loc, kmp_int32 gtid, kmp_task_t *task) {
    struct task *x = task_of(task);
    begin(x);
    self()->at->now = x;
}

void __kmpc_omp_task_complete_if0(ident_t *loc, kmp_int32 gtid, kmp_task_t *task) {
    struct task *x = task_of(task);
    self()->at->now = x->parent;
    end_body(x);
}

kmp_int32 __kmpc_omp_taskwait(ident_t *loc, kmp_int32 gtid) {
    struct thread *t = self();
    help_until(t, is, (void *)&t->at->now->children, 0, BELOW);
    return 0;
}

kmp_int32 __kmpc_omp_taskyield(ident_t *loc, kmp_int32 gtid, int end) {
    struct thread *t = self();
    struct member *m = t->at;
    struct task *x = LOAD(&m->team->queued) > 0 ? take(m->team, m->now->implicit ? NULL : m->now) : NULL;
    if (x != NULL)
        execute(t, x);
    else
        sched_yield();
    return 0;
}

void *__kmpc_task_allow_completion_event(ident_t *loc, kmp_int32 gtid, kmp_task_t *task) {
    STORE(&task_of(task)->detach, 1);
    return task_of(task);
}

void omp_fulfill_event(omp_event_handle_t event) {
    struct task *x = (struct task *)event;
    int running = 1;
    if (REPLACES(&x->detach, &running, 2))
        return;
    /* This thread may be none of the team's, whose barrier may be over as soon as the task is complete. */
    struct team *team = x->team;
    ADD(&team->left, 1);
    complete(x);
    let_go(team);
}

/* --- dependences ------------------------------------------------------------------------------------------------------------------------ */

static void order(struct node *before, struct node *n) {
    if (before == NULL || before == n)
        return;
    __cloudskin_lock(&before->lock);
    if (before->task != NULL) {
        ADD(&n->before, 1);
        before->after = link_to(n, before->after);
    }
    __cloudskin_unlock(&before->lock);
}

static void order_all(struct link *set, struct node *n) {
    for (; set != NULL; set = set->next)
        order(set->node, n);
}

static struct entry *entry(struct table *table, void *address) {
    struct entry **p = &table->entries[((size_t)address >> 3 ^ (size_t)address >> 9) % BUCKETS];
    for (; *p != NULL; p = &(*p)->next)
        if ((*p)->address == address)
            return *p;
    *p = room(sizeof **p);
    (*p)->address = address;
    (*p)->out = keep(table->all);
    return *p;
}

static void depends(struct entry *e, struct node *n, int kind) {
    if (kind & DEP_OUT) {
        order_all(e->set, n);
        if (e->set == NULL)
            order(e->out, n);
        free_links(e->set);
        free_links(e->previous);
        drop(e->out);
        e->set = e->previous = NULL;
        e->out = keep(n);
        e->kind = DEP_OUT;
        return;
    }
    if (e->set != NULL && e->kind != kind) {
        free_links(e->previous);
        drop(e->out);
        e->out = NULL;
        e->previous = e->set;
        e->set = NULL;
    }
    order(e->out, n);
    order_all(e->previous, n);
    e->set = link_to(n, e->set);
    e->kind = kind;
    if (kind == DEP_MUTEX && !n->waits) {
        struct link *l = room(sizeof *l);
        l->entry = e;
        l->next = n->exclusive;
        n->exclusive = l;
    }
}

/* Puts a new node after all that its dependences name. */
static struct node *arrange(struct member *m, struct task *x, int count, const struct depend *list) {
    struct node *n = room(sizeof *n);
    struct table *table = m->now->table;
    if (table == NULL)
        table = m->now->table = room(sizeof *table);
    n->task = x;
    n->team = m->team;
    n->waits = x == NULL;
    n->before = n->refs = 1;
    for (int i = 0; i < count; i++) {
        if (list[i].kind & DEP_ALL || list[i].address == NULL) {
            for (int b = 0; b < BUCKETS; b++)
                for (struct entry *e = table->entries[b]; e != NULL; e = e->next)
                    depends(e, n, DEP_OUT);
            order(table->all, n);
            drop(table->all);
            table->all = keep(n);
        } else
            depends(entry(table, list[i].address), n, list[i].kind & 15);
    }
    return n;
}

kmp_int32 __kmpc_omp_task_with_deps(ident_t *loc, kmp_int32 gtid, kmp_task_t *task, kmp_int32 count, struct depend *list, kmp_int32 more, struct depend *others) {
    struct thread *t = self();
    struct task *x = task_of(task);
    if (x->parent->flags & FINAL || (count == 0 && more == 0))
        return __kmpc_omp_task(loc, gtid, task);
    begin(x);
    if (!(x->flags & TIED))
        ADD(&x->parts, 1);
    struct node *n = x->node = arrange(t->at, x, count, list);
    if (ADD(&n->before, -1) > 1)
        return 0; /* the last of those before it queues it */
    if (x->team->size == 1) {
        take_exclusive(x);
        execute(t, x);
    } else
        push(x);
    return 0;
}

void __kmpc_omp_taskwait_deps_51(ident_t *loc, kmp_int32 gtid, kmp_int32 count, struct depend *list, kmp_int32 more, struct depend *others, kmp_int32 no_wait) {
    struct thread *t = self();
    if (count == 0)
        return;
    struct node *n = arrange(t->at, NULL, count, list);
    help_until(t, is, (void *)&n->before, 1, BELOW);
    drop(n);
}

void __kmpc_omp_wait_deps(ident_t *loc, kmp_int32 gtid, kmp_int32 count, struct depend *list, kmp_int32 more, struct depend *others) {
    __kmpc_omp_taskwait_deps_51(loc, gtid, count, list, more, others, 0);
}

/* --- groups, their reductions, task loops --------------------------------------------------------------------------------------------------- */

struct reduction_input {
    void *shared, *original;
    size_t bytes;
    void (*init)(void *, void *);
    void (*end)(void *);
    void (*combine)(void *, void *);
    unsigned lazy;
};

struct reduction {
    struct reduction_input in;
    char *all;     /* every thread's, one behind the other */
    void **each;   /* lazy: every thread's, when it has one */
};

struct reductions {
    int count, threads;
    /* Of a whole team: other members' names for the same variables. */
    struct reductions *same_as;
    struct reduction item[];
};

static void *prepared(struct reduction *r, void *into) {
    if (r->in.init != NULL)
        r->in.init(into, r->in.original != NULL ? r->in.original : r->in.shared);
    return into;
}

static struct reductions *new_reductions(struct thread *t, int count, const struct reduction_input *in) {
    const int threads = t->at->team->size;
    struct reductions *all = room(sizeof *all + (size_t)count * sizeof(struct reduction));
    all->count = count;
    all->threads = threads;
    for (int i = 0; i < count; i++) {
        struct reduction *r = &all->item[i];
        r->in = in[i];
        if (in[i].lazy & 1)
            r->each = room((size_t)threads * sizeof(void *));
        else {
            r->all = room((size_t)threads * in[i].bytes);
            for (int k = 0; k < threads; k++)
                prepared(r, r->all + (size_t)k * in[i].bytes);
        }
    }
    return all;
}

/* Combines what all threads have with the variables that `names` has. */
static void reduce(struct reductions *all, struct reductions *names) {
    for (int i = 0; i < all->count; i++) {
        struct reduction *r = &all->item[i];
        for (int k = 0; k < all->threads; k++) {
            void *one = r->each != NULL ? r->each[k] : r->all + (size_t)k * r->in.bytes;
            if (one == NULL)
                continue;
            r->in.combine(names->item[i].in.shared, one);
            if (r->in.end != NULL)
                r->in.end(one);
            if (r->each != NULL)
                free(one);
        }
        free(r->each);
        free(r->all);
    }
}

void __kmpc_taskgroup(ident_t *loc, kmp_int32 gtid) {
    struct task *now = self()->at->now;
    struct group *g = room(sizeof *g);
    g->outer = now->group;
    now->group = g;
}

static void end_group(int which) {
    struct thread *t = self();
    struct member *m = t->at;
    struct group *g = m->now->group;
    help_until(t, is, (void *)&g->count, 0, BELOW);
    struct reductions *mine = g->reductions;
    if (mine != NULL && which < 0) {
        reduce(mine, mine);
        free(mine);
    } else if (mine != NULL) {
        /* The last member combines, with its own name for the variables: the region's or the loop's own reduction does the rest. */
        if (ADD(&m->team->reductions_left[which], -1) == 1) {
            struct reductions *all = mine->same_as;
            m->team->reductions[which] = NULL;
            reduce(all, mine);
            free(all);
        }
        free(mine);
    }
    m->now->group = g->outer;
    free(g);
}

void __kmpc_end_taskgroup(ident_t *loc, kmp_int32 gtid) {
    end_group(-1);
}

void *__kmpc_taskred_init(int gtid, int count, void *data) {
    struct thread *t = self();
    struct group *g = t->at->now->group;
    g->reductions = new_reductions(t, count, data);
    return g;
}

void *__kmpc_task_reduction_init(int gtid, int count, void *data) {
    return __kmpc_taskred_init(gtid, count, data);
}

void *__kmpc_taskred_modifier_init(ident_t *loc, int gtid, int loops, int count, void *data) {
    struct thread *t = self();
    struct team *team = t->at->team;
    __kmpc_taskgroup(loc, gtid);
    struct group *g = t->at->now->group;
    const int which = loops != 0;
    struct reductions *mine = room(sizeof *mine + (size_t)count * sizeof(struct reduction));
    mine->count = count;
    for (int i = 0; i < count; i++)
        mine->item[i].in = ((struct reduction_input *)data)[i];
    __cloudskin_lock(&team->reductions_lock);
    if (team->reductions[which] == NULL) {
        team->reductions[which] = new_reductions(t, count, data);
        team->reductions_left[which] = team->size;
    }
    mine->same_as = team->reductions[which];
    __cloudskin_unlock(&team->reductions_lock);
    g->reductions = mine;
    return g;
}

void *__kmpc_task_reduction_modifier_init(ident_t *loc, int gtid, int loops, int count, void *data) {
    return __kmpc_taskred_modifier_init(loc, gtid, loops, count, data);
}

void __kmpc_task_reduction_modifier_fini(ident_t *loc, int gtid, int loops) {
    end_group(loops != 0);
}

void *__kmpc_task_reduction_get_th_data(int gtid, void *group, void *data) {
    struct member *m = self()->at;
    for (struct group *g = group != NULL ? group : m->now->group; g != NULL; g = g->outer) {
        struct reductions *mine = g->reductions;
        if (mine == NULL)
            continue;
        struct reductions *all = mine->same_as != NULL ? mine->same_as : mine;
        for (int i = 0; i < all->count; i++) {
            struct reduction *r = &all->item[i];
            int found = data == r->in.shared || data == mine->item[i].in.shared;
            for (int k = 0; k < all->threads && !found; k++)
                found = r->each != NULL ? data == r->each[k] && data != NULL : (char *)data >= r->all && (char *)data < r->all + (size_t)all->threads * r->in.bytes;
            if (!found)
                continue;
            if (r->each == NULL)
                return r->all + (size_t)m->tid * r->in.bytes;
            if (r->each[m->tid] == NULL)
                r->each[m->tid] = prepared(r, room(r->in.bytes));
            return r->each[m->tid];
        }
    }
    fail("a task reduces a variable that no group around it reduces");
    return NULL;
}

static void taskloop(ident_t *loc, int gtid, kmp_task_t *task, int deferred, kmp_uint64 *lower, kmp_uint64 *upper, kmp_int64 step, int no_group, int kind,
                     kmp_uint64 grain, int strict, void (*dup)(kmp_task_t *, kmp_task_t *, int)) {
    struct thread *t = self();
    struct task *model = task_of(task);
    const size_t lower_at = (size_t)((char *)lower - (char *)task), upper_at = (size_t)((char *)upper - (char *)task);
    const kmp_uint64 from = *lower, to = *upper;
    const kmp_int64 range = step > 0 ? (kmp_int64)(to - from) : (kmp_int64)(from - to);
    /* Bounds may be unsigned: an empty loop is one whose end lies before its beginning either way. */
    const int empty = step > 0 ? (kmp_int64)to < (kmp_int64)from : (kmp_int64)from < (kmp_int64)to;
    if (!no_group)
        __kmpc_taskgroup(loc, gtid);
    if (!empty) {
        const kmp_uint64 trip = (kmp_uint64)range / (kmp_uint64)(step > 0 ? step : -step) + 1;
        kmp_uint64 tasks, each, extra;
        if (kind == 1 && strict) {
            each = grain < trip ? grain : trip;
            tasks = trip / each + (trip % each != 0);
            extra = 0;
        } else {
            tasks = kind == 1 ? (grain > trip ? 1 : trip / grain) : kind == 2 ? grain : (kmp_uint64)t->at->team->size * 10;
            tasks = tasks < 1 ? 1 : tasks > trip ? trip : tasks;
            each = trip / tasks;
            extra = trip % tasks;
        }
        kmp_uint64 at = 0;
        for (kmp_uint64 i = 0; i < tasks; i++) {
            kmp_uint64 count = each + (i < extra);
            count = count > trip - at ? trip - at : count;
            /* The same as the model, with other bounds. */
            struct task *x = task_of(__kmpc_omp_task_alloc(loc, gtid, model->flags, model->bytes - offsetof(struct task, task), 0, task->routine));
            memcpy(&x->task, &model->task, model->bytes - offsetof(struct task, task));
            x->bytes = model->bytes;
            x->shareds_at = model->shareds_at;
            x->task.shareds = model->shareds_at > 0 ? (char *)x + model->shareds_at : NULL;
            *(kmp_uint64 *)((char *)&x->task + lower_at) = from + at * (kmp_uint64)step;
            *(kmp_uint64 *)((char *)&x->task + upper_at) = from + (at + count - 1) * (kmp_uint64)step;
            at += count;
            if (dup != NULL)
                dup(&x->task, task, at == trip);
            else /* the flag of the last one lies behind the stride */
                *(kmp_int32 *)((char *)&x->task + upper_at + 2 * sizeof(kmp_uint64)) = at == trip;
            if (deferred)
                __kmpc_omp_task(loc, gtid, &x->task);
            else {
                if (!(x->flags & TIED))
                    ADD(&x->parts, 1);
                begin(x);
                execute(t, x);
            }
        }
    }
    if (model->flags & DESTRUCTORS)
        task->first.destructors(gtid, task);
    unref(model);
    if (!no_group)
        __kmpc_end_taskgroup(loc, gtid);
}

void __kmpc_taskloop(ident_t *loc, int gtid, kmp_task_t *task, int deferred, kmp_uint64 *lower, kmp_uint64 *upper, kmp_int64 step, int no_group, int kind,
                     kmp_uint64 grain, void *dup) {
    taskloop(loc, gtid, task, deferred, lower, upper, step, no_group, kind, grain, 0, (void (*)(kmp_task_t *, kmp_task_t *, int))dup);
}

void __kmpc_taskloop_5(ident_t *loc, int gtid, kmp_task_t *task, int deferred, kmp_uint64 *lower, kmp_uint64 *upper, kmp_int64 step, int no_group, int kind,
                       kmp_uint64 grain, int strict, void *dup) {
    taskloop(loc, gtid, task, deferred, lower, upper, step, no_group, kind, grain, strict, (void (*)(kmp_task_t *, kmp_task_t *, int))dup);
}

/* --- what programs call ------------------------------------------------------------------------------------------------------------------------ */

void omp_set_num_threads(int n) {
    if (n > 0)
        self()->at->settings.threads = n;
}

int omp_get_num_threads(void) {
    return self()->at->team->size;
}

int omp_get_max_threads(void) {
    struct member *m = self()->at;
    return m->settings.threads > 0 ? m->settings.threads : host_processors();
}

int omp_get_thread_num(void) {
    return self()->at->tid;
}

int omp_get_num_procs(void) {
    return host_processors();
}

int omp_in_parallel(void) {
    return self()->at->team->active_level > 0;
}

int omp_in_final(void) {
    return (self()->at->now->flags & FINAL) != 0;
}

void omp_set_dynamic(int on) {
    self()->at->settings.dynamic = on != 0;
}

int omp_get_dynamic(void) {
    return self()->at->settings.dynamic;
}

void omp_set_nested(int on) {
    self()->at->settings.levels = on ? LEVELS_MAX : 1;
}

int omp_get_nested(void) {
    return self()->at->settings.levels > 1;
}

int omp_get_cancellation(void) {
    return cancellation;
}

void omp_set_schedule(omp_sched_t kind, int chunk) {
    struct settings *s = &self()->at->settings;
    const int plain = kind & ~(int)omp_sched_monotonic;
    if (plain < omp_sched_static || plain > omp_sched_auto)
        return;
    s->kind = kind;
    s->chunk = chunk < 1 ? 0 : chunk;
}

void omp_get_schedule(omp_sched_t *kind, int *chunk) {
    const struct settings *s = &self()->at->settings;
    *kind = s->kind;
    *chunk = s->chunk < 1 && (s->kind & 7) != omp_sched_static && (s->kind & 7) != omp_sched_auto ? 1 : s->chunk;
}

int omp_get_thread_limit(void) {
    return max_threads > 0 ? max_threads : INT_MAX;
}

void omp_set_max_active_levels(int levels) {
    if (levels >= 0)
        self()->at->settings.levels = levels < LEVELS_MAX ? levels : LEVELS_MAX;
}

int omp_get_max_active_levels(void) {
    return self()->at->settings.levels;
}

int omp_get_supported_active_levels(void) {
    return LEVELS_MAX;
}

int omp_get_level(void) {
    return self()->at->team->level;
}

int omp_get_active_level(void) {
    return self()->at->team->active_level;
}

/* The member that this thread comes from, at an outer level. */
static struct member *ancestor(int level) {
    struct member *m = self()->at;
    if (level < 0 || level > m->team->level)
        return NULL;
    while (m->team->level > level)
        m = m->team->forked_by;
    return m;
}

int omp_get_ancestor_thread_num(int level) {
    struct member *m = ancestor(level);
    return m != NULL ? m->tid : -1;
}

int omp_get_team_size(int level) {
    struct member *m = ancestor(level);
    return m != NULL ? m->team->size : -1;
}

int omp_get_max_task_priority(void) {
    return max_priority;
}

static volatile int *word_of(omp_lock_t *l) {
    return (volatile int *)&l->_lk;
}

void omp_init_lock(omp_lock_t *l) {
    STORE(word_of(l), 0);
}

void omp_init_lock_with_hint(omp_lock_t *l, omp_sync_hint_t hint) {
    omp_init_lock(l);
}

void omp_destroy_lock(omp_lock_t *l) {
}

void omp_set_lock(omp_lock_t *l) {
    __cloudskin_lock(word_of(l));
}

void omp_unset_lock(omp_lock_t *l) {
    __cloudskin_unlock(word_of(l));
}

int omp_test_lock(omp_lock_t *l) {
    return __cloudskin_try_lock(word_of(l));
}

struct nest {
    volatile int lock;
    struct task *volatile owner;
    int depth;
};

void omp_init_nest_lock(omp_nest_lock_t *l) {
    l->_lk = room(sizeof(struct nest));
}

void omp_init_nest_lock_with_hint(omp_nest_lock_t *l, omp_sync_hint_t hint) {
    omp_init_nest_lock(l);
}

void omp_destroy_nest_lock(omp_nest_lock_t *l) {
    free(l->_lk);
}

int omp_test_nest_lock(omp_nest_lock_t *l) {
    struct nest *n = l->_lk;
    struct task *now = self()->at->now;
    if (n->owner == now)
        return ++n->depth;
    if (!__cloudskin_try_lock(&n->lock))
        return 0;
    n->owner = now;
    return n->depth = 1;
}

void omp_set_nest_lock(omp_nest_lock_t *l) {
    struct nest *n = l->_lk;
    struct task *now = self()->at->now;
    if (n->owner == now) {
        n->depth++;
        return;
    }
    __cloudskin_lock(&n->lock);
    n->owner = now;
    n->depth = 1;
}

void omp_unset_nest_lock(omp_nest_lock_t *l) {
    struct nest *n = l->_lk;
    if (--n->depth == 0) {
        n->owner = NULL;
        __cloudskin_unlock(&n->lock);
    }
}

double omp_get_wtime(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

double omp_get_wtick(void) {
    return 1e-9;
}

void omp_set_num_teams(int n) {
    if (n > 0)
        teams_count = n;
}

int omp_get_max_teams(void) {
    return teams_count;
}

void omp_set_teams_thread_limit(int n) {
    if (n > 0)
        teams_thread_limit = n;
}

int omp_get_teams_thread_limit(void) {
    return teams_thread_limit;
}

int omp_get_num_teams(void) {
    return self()->league_size;
}

int omp_get_team_num(void) {
    return self()->league;
}

int omp_get_num_devices(void) {
    return 0;
}

int omp_get_initial_device(void) {
    return 0;
}

int omp_get_device_num(void) {
    return 0;
}

int omp_get_default_device(void) {
    return 0;
}

void omp_set_default_device(int device) {
}

int omp_is_initial_device(void) {
    return 1;
}

/* Workers that have nothing to do sleep and hold no more than their stacks. */
int omp_pause_resource(omp_pause_resource_t kind, int device) {
    return device != 0;
}

int omp_pause_resource_all(omp_pause_resource_t kind) {
    return 0;
}

omp_proc_bind_t omp_get_proc_bind(void) {
    return omp_proc_bind_false;
}

int omp_get_num_places(void) {
    return 0;
}

int omp_get_place_num_procs(int place) {
    return 0;
}

void omp_get_place_proc_ids(int place, int *ids) {
}

int omp_get_place_num(void) {
    return -1;
}

int omp_get_partition_num_places(void) {
    return 0;
}

void omp_get_partition_place_nums(int *places) {
}

void omp_display_env(int verbose) {
    fprintf(stderr, "\nOPENMP DISPLAY ENVIRONMENT BEGIN\n  _OPENMP = '201811'\n  OMP_NUM_THREADS = '%d'\n  OMP_DYNAMIC = '%s'\n  OMP_MAX_ACTIVE_LEVELS = '%d'\n"
                    "  OMP_CANCELLATION = '%s'\n  OMP_WAIT_POLICY = '%s'\nOPENMP DISPLAY ENVIRONMENT END\n",
            omp_get_max_threads(), omp_get_dynamic() ? "TRUE" : "FALSE", omp_get_max_active_levels(), cancellation ? "TRUE" : "FALSE", passive ? "PASSIVE" : "ACTIVE");
}

/* --- allocators ---------------------------------------------------------------------------------------------------------------------------------- */

struct allocator {
    size_t pool;
    volatile size_t used;
    size_t align;
    int fallback;
    omp_allocator_handle_t other;
};

/* In front of each piece of memory. */
struct piece {
    struct allocator *from;
    void *block;
    size_t bytes, counted;
};

omp_allocator_handle_t omp_init_allocator(omp_memspace_handle_t space, int count, const omp_alloctrait_t traits[]) {
    if (space != omp_default_mem_space && space != omp_large_cap_mem_space && space != omp_const_mem_space)
        return omp_null_allocator; /* there is one kind of memory */
    struct allocator *a = room(sizeof *a);
    a->pool = SIZE_MAX;
    a->align = 16;
    a->fallback = omp_atv_default_mem_fb;
    for (int i = 0; i < count; i++) {
        const omp_uintptr_t v = traits[i].value;
        switch (traits[i].key) {
        case omp_atk_pool_size: a->pool = v; break;
        case omp_atk_alignment: a->align = v != omp_atv_default && v > 16 ? v : 16; break;
        case omp_atk_fallback: a->fallback = v != omp_atv_default ? (int)v : omp_atv_default_mem_fb; break;
        case omp_atk_fb_data: a->other = (omp_allocator_handle_t)v; break;
        default: break;
        }
    }
    return (omp_allocator_handle_t)(uintptr_t)a;
}

void omp_destroy_allocator(omp_allocator_handle_t a) {
    if ((uintptr_t)a > omp_thread_mem_alloc)
        free((void *)(uintptr_t)a);
}

void omp_set_default_allocator(omp_allocator_handle_t a) {
    if (a != omp_null_allocator)
        self()->at->settings.allocator = a;
}

omp_allocator_handle_t omp_get_default_allocator(void) {
    return self()->at->settings.allocator;
}

static void *allocate(size_t align, size_t bytes, omp_allocator_handle_t handle) {
    struct allocator *a = NULL;
    if (handle == omp_null_allocator)
        handle = omp_get_default_allocator();
    if ((uintptr_t)handle > omp_thread_mem_alloc)
        a = (struct allocator *)(uintptr_t)handle;
    if (a != NULL && align < a->align)
        align = a->align;
    if (align < 16)
        align = 16;
    if (bytes == 0 || bytes > SIZE_MAX / 2 || align > SIZE_MAX / 4)
        return NULL;
    const size_t whole = bytes + align + sizeof(struct piece);
    if (a != NULL) {
        if (__atomic_add_fetch(&a->used, whole, __ATOMIC_SEQ_CST) > a->pool) {
            __atomic_sub_fetch(&a->used, whole, __ATOMIC_SEQ_CST);
            switch (a->fallback) {
            case omp_atv_null_fb: return NULL;
            case omp_atv_abort_fb: fail("an allocator's pool is used up, and it is to abort then"); return NULL;
            case omp_atv_allocator_fb: return allocate(align, bytes, a->other);
            default: a = NULL; break;
            }
        }
    }
    char *block = malloc(whole);
    if (block == NULL) {
        if (a != NULL)
            __atomic_sub_fetch(&a->used, whole, __ATOMIC_SEQ_CST);
        return NULL;
    }
    char *p = (char *)(((uintptr_t)block + sizeof(struct piece) + align - 1) & ~(uintptr_t)(align - 1));
    ((struct piece *)p)[-1] = (struct piece){a, block, bytes, a != NULL ? whole : 0};
    return p;
}

void *omp_alloc(size_t bytes, omp_allocator_handle_t a) {
    return allocate(16, bytes, a);
}

void *omp_aligned_alloc(size_t align, size_t bytes, omp_allocator_handle_t a) {
    return allocate(align, bytes, a);
}

void *omp_aligned_calloc(size_t align, size_t n, size_t each, omp_allocator_handle_t a) {
    if (n == 0 || each == 0 || n > SIZE_MAX / 2 / each)
        return NULL;
    void *p = allocate(align, n * each, a);
    return p != NULL ? memset(p, 0, n * each) : NULL;
}

void *omp_calloc(size_t n, size_t each, omp_allocator_handle_t a) {
    return omp_aligned_calloc(16, n, each, a);
}

void omp_free(void *p, omp_allocator_handle_t a) {
    if (p == NULL)
        return;
    struct piece *piece = (struct piece *)p - 1;
    if (piece->from != NULL)
        __atomic_sub_fetch(&piece->from->used, piece->counted, __ATOMIC_SEQ_CST);
    free(piece->block);
}

void *omp_realloc(void *p, size_t bytes, omp_allocator_handle_t a, omp_allocator_handle_t from) {
    if (bytes == 0) {
        omp_free(p, from);
        return NULL;
    }
    void *new = omp_alloc(bytes, a);
    if (p != NULL && new != NULL) {
        const size_t had = ((struct piece *)p)[-1].bytes;
        memcpy(new, p, had < bytes ? had : bytes);
        omp_free(p, from);
    }
    return new;
}

void *__kmpc_alloc(int gtid, size_t bytes, omp_allocator_handle_t a) {
    return omp_alloc(bytes, a);
}

void *__kmpc_aligned_alloc(int gtid, size_t align, size_t bytes, omp_allocator_handle_t a) {
    return omp_aligned_alloc(align, bytes, a);
}

void __kmpc_free(int gtid, void *p, omp_allocator_handle_t a) {
    omp_free(p, a);
}

/* --- the environment -------------------------------------------------------------------------------------------------------------------------------- */

static int is_on(const char *name) {
    const char *value = getenv(name);
    return value != NULL && (strcasecmp(value, "true") == 0 || strcmp(value, "1") == 0 || strcasecmp(value, "yes") == 0 || strcasecmp(value, "on") == 0);
}

static int number(const char *name, int otherwise) {
    const char *value = getenv(name);
    const int n = value != NULL ? atoi(value) : 0;
    return n > 0 ? n : otherwise;
}

/* [modifier:]kind[,chunk] */
static void read_schedule(const char *value) {
    static const char *const names[] = {"static", "dynamic", "guided", "auto"};
    int modifier = 0;
    if (strncasecmp(value, "monotonic:", 10) == 0) {
        modifier = (int)omp_sched_monotonic;
        value += 10;
    } else if (strncasecmp(value, "nonmonotonic:", 13) == 0)
        value += 13;
    for (int i = 0; i < 4; i++) {
        const size_t n = strlen(names[i]);
        if (strncasecmp(value, names[i], n) != 0)
            continue;
        initial.kind = (omp_sched_t)((i + 1) | modifier);
        if (value[n] == ',' && atoi(value + n + 1) > 0)
            initial.chunk = atoi(value + n + 1);
    }
}

__attribute__((constructor(103))) static void read_environment(void) {
    const char *value;
    initial.levels = number("OMP_MAX_ACTIVE_LEVELS", is_on("OMP_NESTED") ? LEVELS_MAX : 1);
    initial.dynamic = is_on("OMP_DYNAMIC");
    initial.kind = omp_sched_static;
    initial.allocator = omp_default_mem_alloc;
    if ((value = getenv("OMP_NUM_THREADS")) != NULL) {
        for (; threads_levels < LEVELS_MAX && atoi(value) > 0; value++) {
            threads_list[threads_levels++] = atoi(value);
            if ((value = strchr(value, ',')) == NULL)
                break;
        }
        initial.threads = threads_list[0];
        if (threads_levels > 1 && initial.levels == 1)
            initial.levels = LEVELS_MAX;
    }
    if ((value = getenv("OMP_SCHEDULE")) != NULL)
        read_schedule(value);
    if ((value = getenv("OMP_STACKSIZE")) != NULL && atoi(value) > 0) {
        const char unit = value[strspn(value, "0123456789 ")];
        const long long bytes = atoll(value) << (unit == 'B' || unit == 'b' ? 0 : unit == 'M' || unit == 'm' ? 20 : unit == 'G' || unit == 'g' ? 30 : 10);
        if (bytes <= 1 << 30)
            stack_bytes = (int)bytes;
    }
    if ((value = getenv("OMP_WAIT_POLICY")) != NULL)
        passive = strcasecmp(value, "passive") == 0;
    cancellation = is_on("OMP_CANCELLATION");
    max_threads = number("OMP_THREAD_LIMIT", 0);
    max_priority = number("OMP_MAX_TASK_PRIORITY", 0);
    teams_count = number("OMP_NUM_TEAMS", 0);
    teams_thread_limit = number("OMP_TEAMS_THREAD_LIMIT", 0);
    if (is_on("OMP_DISPLAY_ENV"))
        omp_display_env(0);
}
