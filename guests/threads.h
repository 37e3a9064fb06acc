/*
 * What threads.c and openmp.c ask of the agent and of each other. Not for programs: those have <pthread.h> and <omp.h>.
 */
#ifndef CLOUDSKIN_THREADS_H
#define CLOUDSKIN_THREADS_H

#define HOST(name) __attribute__((import_module("cloudskin_thread"), import_name(name)))

/* What the agent is told of a thread. */
struct host_thread {
    /* 1: the agent's thread has ended. Written by the agent. */
    int gone;
    /* Where the thread's calls are kept while the cell is stopped. */
    void *area;
    unsigned area_bytes;
};

/* A new instance of this module over the same memory, on a thread of its own: its stack ends at `stack`, `__cloudskin_thread(thread)` is called in it. Not
   0: there is no thread to be had. */
HOST("spawn") int host_spawn(void *stack, void *thread, struct host_thread *host);
/* Sleeps while the word at p + offset is `value`, at most so many nanoseconds (below 0: without an end). 0: woken, 1: it is another value, 2: time is over.
   A cell that is stopped is woken; it looks again when it goes on. */
HOST("wait32") int host_wait32(volatile int *p, int value, long long ns, unsigned offset);
HOST("wait64") int host_wait64(volatile void *p, long long value, long long ns, unsigned offset);
/* Wakes up to `count` threads that sleep there; how many there were. */
HOST("notify") int host_notify(volatile void *p, unsigned count, unsigned offset);
/* More pages of memory: the number of pages before, or -1. */
HOST("grow") int host_grow(unsigned pages);
/* Ends the thread that calls it. */
HOST("exit") _Noreturn void host_exit(void);
/* How many processors the cell may use now. */
HOST("processors") int host_processors(void);

void __cloudskin_sleep_on(volatile int *p, int value);
void __cloudskin_wake(volatile int *p, unsigned count);
void __cloudskin_lock(volatile int *word);
int __cloudskin_try_lock(volatile int *word);
void __cloudskin_unlock(volatile int *word);

#endif
