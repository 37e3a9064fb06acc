/*
 * setjmp and longjmp: nested, repeated, out of deep calls, with MPI calls and long loops between the place and the jump. Each rank writes
 * down what happens to it, and rank 0 prints that in order.
 */
#include <mpi.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int me, ranks;
static char told[1 << 16];
static size_t length;

static void tell(const char *format, ...) {
    va_list args;
    va_start(args, format);
    length += (size_t)vsnprintf(told + length, sizeof told - length, format, args);
    va_end(args);
}

static int around(int number) {
    int got = -1;
    MPI_Sendrecv(&number, 1, MPI_INT, (me + 1) % ranks, 3, &got, 1, MPI_INT, (me + ranks - 1) % ranks, 3, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    return got;
}

static unsigned work(unsigned from, int turns) {
    for (int i = 0; i < turns; i++) {
        from = from * 1664525u + 1013904223u;
        from ^= from >> (1 + from % 13);
    }
    return from;
}

static jmp_buf outer, inner, *chosen;

static void descend(int depth, int value) {
    if (depth == 0)
        longjmp(*chosen, around(value));
    descend(depth - 1, value);
    tell("nobody comes here\n");
}

/* A place that is set once and jumped to many times, from where it was left by other ways too. */
static void repeated(void) {
    volatile int turns = 0;
    volatile unsigned sum = 0;
    int value = setjmp(outer);
    sum = work(sum + (unsigned)value, 400);
    turns++;
    if (turns < 300) {
        chosen = &outer;
        descend(turns % 11, turns);
    }
    tell("repeated: %d turns, %u\n", turns, sum);
}

static void nested(void) {
    switch (setjmp(outer)) {
    case 0: {
        volatile int seen = 0;
        int value = setjmp(inner);
        if (value < 3) {
            seen += value;
            chosen = &inner;
            around(seen);
            descend(2, value + 1);
        }
        tell("inner: %d, seen %d\n", value, seen);
        chosen = &outer;
        descend(4, 7);
        break;
    }
    case 7:
        tell("outer: 7, then %d\n", around(1));
        break;
    default:
        tell("outer: something else\n");
    }
}

/* Each call has a place of its own, and jumps to that of the one before. */
static int chain(int depth, jmp_buf *before) {
    jmp_buf here;
    int value = setjmp(here);
    if (value == 0) {
        if (depth > 0)
            chain(depth - 1, &here);
        longjmp(*before, 1 + around(0));
    }
    if (before == NULL)
        return value;
    work((unsigned)depth, 3000);
    longjmp(*before, value + 1);
}

static int with_mask(void) {
    sigjmp_buf here;
    volatile int count = 0;
    int value = sigsetjmp(here, 1);
    if (value == 5)
        return count;
    count += value + 1;
    siglongjmp(here, value + 1);
}

static sigjmp_buf out_of_handler;
static volatile sig_atomic_t arrived;

static void leaves(int number) {
    arrived++;
    siglongjmp(out_of_handler, number);
}

/* A handler that is left by a jump: the mask is given back, so that the signal arrives the next time, too. Where no mask was kept it stays blocked. */
static void signals(void) {
    sigset_t mask;
    signal(SIGUSR1, leaves);
    for (int mine = 1; mine >= 0; mine--) {
        arrived = 0;
        for (volatile int i = 0; i < 3; i++) {
            if (sigsetjmp(out_of_handler, mine) == 0)
                raise(SIGUSR1);
        }
        sigprocmask(SIG_BLOCK, NULL, &mask);
        tell("mask kept: %d, arrived: %d, blocked: %d\n", mine, (int)arrived, sigismember(&mask, SIGUSR1));
    }
}

int main(int argc, char **argv) {
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &me);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    jmp_buf zero;
    int value = setjmp(zero);
    if (value == 0)
        longjmp(zero, 0);
    tell("0 becomes %d\n", value);
    nested();
    repeated();
    tell("chain: %d\n", chain(9, NULL));
    tell("with a mask: %d\n", with_mask());
    signals();
    if (me > 0) {
        MPI_Send(told, (int)length, MPI_CHAR, 0, 4, MPI_COMM_WORLD);
    } else {
        for (int rank = 0; rank < ranks; rank++) {
            if (rank > 0) {
                MPI_Status status;
                int size;
                MPI_Recv(told, sizeof told, MPI_CHAR, rank, 4, MPI_COMM_WORLD, &status);
                MPI_Get_count(&status, MPI_CHAR, &size);
                length = (size_t)size;
            }
            printf("rank %d\n%.*s", rank, (int)length, told);
        }
    }
    MPI_Finalize();
    return 0;
}
