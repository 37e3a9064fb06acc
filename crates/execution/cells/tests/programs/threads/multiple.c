/* MPI_THREAD_MULTIPLE: threads of one rank send, receive, probe, reduce and make communicators at the same time, each with its like at the other ranks, and
 * some of them with each other. Each checks what it gets. Argument: rounds. Knows nothing of cells. */
#include <mpi.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS = 4, LARGE = 20000 };

static int rank, size, rounds, counted_copies, counted_deletes;
static pthread_mutex_t tell = PTHREAD_MUTEX_INITIALIZER;
static unsigned long long told;

static void must(int good, const char *what, int round) {
    if (!good) {
        printf("rank %d: wrong in round %d: %s\n", rank, round, what);
        MPI_Abort(MPI_COMM_WORLD, 9);
    }
}

static unsigned mix(unsigned x) { return x * 1664525u + 1013904223u; }

/* Not one of MPI's own, so that MPI calls the program. */
static void either(void *in, void *inout, int *n, MPI_Datatype *type) {
    unsigned *a = in, *b = inout;
    (void)type;
    for (int i = 0; i < *n; i++)
        b[i] = mix(a[i]) ^ mix(b[i]);
}

static int copied(MPI_Comm comm, int key, void *extra, void *in, void *out, int *flag) {
    (void)comm, (void)key, (void)extra;
    pthread_mutex_lock(&tell);
    counted_copies++;
    pthread_mutex_unlock(&tell);
    *(void **)out = (char *)in + 1;
    *flag = 1;
    return MPI_SUCCESS;
}

static int deleted(MPI_Comm comm, int key, void *value, void *extra) {
    (void)comm, (void)key, (void)value, (void)extra;
    pthread_mutex_lock(&tell);
    counted_deletes++;
    pthread_mutex_unlock(&tell);
    return MPI_SUCCESS;
}

struct with {
    int number;
    MPI_Comm comm;
    MPI_Op op;
    int key;
};

/* Messages of all sizes and modes around the ranks. */
static unsigned ring(struct with *w, int round) {
    static unsigned out[THREADS][LARGE], in[THREADS][LARGE];
    unsigned *o = out[w->number], *i = in[w->number], sum = 0;
    const int next = (rank + 1) % size, before = (rank + size - 1) % size;
    const int n = round % 7 == 6 ? LARGE : 1 + round * 13 % 300;
    for (int k = 0; k < n; k++)
        o[k] = (unsigned)(rank * 1000003 + w->number * 10007 + round * 101 + k);
    MPI_Request both[2];
    MPI_Status status;
    MPI_Irecv(i, LARGE, MPI_UNSIGNED, round % 2 ? before : MPI_ANY_SOURCE, round, w->comm, &both[0]);
    if (round % 3 == 0)
        MPI_Issend(o, n, MPI_UNSIGNED, next, round, w->comm, &both[1]);
    else
        MPI_Isend(o, n, MPI_UNSIGNED, next, round, w->comm, &both[1]);
    if (round % 5 == 4) {
        int done = 0;
        while (!done)
            MPI_Testall(2, both, &done, MPI_STATUSES_IGNORE);
    } else {
        MPI_Wait(&both[0], &status);
        int got;
        MPI_Get_count(&status, MPI_UNSIGNED, &got);
        must(got == n && status.MPI_SOURCE == before && status.MPI_TAG == round, "what came is what was sent", round);
        MPI_Wait(&both[1], MPI_STATUS_IGNORE);
    }
    for (int k = 0; k < n; k++) {
        must(i[k] == (unsigned)(before * 1000003 + w->number * 10007 + round * 101 + k), "each number of it", round);
        sum = mix(sum + i[k]);
    }
    return sum;
}

static unsigned together(struct with *w, int round) {
    unsigned mine[3] = {(unsigned)(rank + 1), (unsigned)round, (unsigned)w->number}, all[3], root = 0, seen = mix((unsigned)rank), made;
    MPI_Allreduce(mine, all, 3, MPI_UNSIGNED, MPI_SUM, w->comm);
    must(all[0] == (unsigned)(size * (size + 1) / 2) && all[1] == (unsigned)(round * size) && all[2] == (unsigned)(w->number * size), "a sum", round);
    if (rank == round % size)
        root = mix((unsigned)(round + w->number));
    MPI_Bcast(&root, 1, MPI_UNSIGNED, round % size, w->comm);
    must(root == mix((unsigned)(round + w->number)), "a broadcast", round);
    MPI_Allreduce(&seen, &made, 1, MPI_UNSIGNED, w->op, w->comm);
    MPI_Barrier(w->comm);
    return made ^ root;
}

/* A communicator of its own for a while, with what hangs on it. */
static unsigned makes(struct with *w, int round) {
    MPI_Comm other, half;
    void *value;
    int flag, of;
    MPI_Comm_dup(w->comm, &other);
    MPI_Comm_get_attr(other, w->key, &value, &flag);
    must(flag && value == (char *)&told + 1, "an attribute is copied by the program's function", round);
    MPI_Comm_split(other, rank % 2, -rank, &half);
    MPI_Comm_size(half, &of);
    unsigned one = 1, all;
    MPI_Allreduce(&one, &all, 1, MPI_UNSIGNED, MPI_SUM, half);
    must(all == (unsigned)of, "a communicator that was just made", round);
    MPI_Comm_free(&half);
    MPI_Comm_free(&other);
    return all;
}

/* Found by a probe, and by no other thread. */
static unsigned probed(struct with *w, int round) {
    unsigned out = mix((unsigned)(rank + round)), in = 0;
    MPI_Message message;
    MPI_Status status;
    MPI_Request sent;
    MPI_Isend(&out, 1, MPI_UNSIGNED, (rank + 1) % size, 77, w->comm, &sent);
    MPI_Mprobe(MPI_ANY_SOURCE, 77, w->comm, &message, &status);
    MPI_Mrecv(&in, 1, MPI_UNSIGNED, &message, MPI_STATUS_IGNORE);
    must(in == mix((unsigned)(status.MPI_SOURCE + round)), "a message that was probed for", round);
    MPI_Wait(&sent, MPI_STATUS_IGNORE);
    return in;
}

static void *works(void *argument) {
    struct with *w = argument;
    unsigned sum = 0;
    int is_main;
    MPI_Is_thread_main(&is_main);
    must(is_main == (w->number == 0), "who the main thread is", 0);
    for (int round = 0; round < rounds; round++) {
        sum = mix(sum ^ ring(w, round)) + together(w, round);
        sum += probed(w, round);
        if (round % 4 == w->number)
            sum += makes(w, round);
    }
    pthread_mutex_lock(&tell);
    told += (unsigned long long)sum * (unsigned)(w->number + 1);
    pthread_mutex_unlock(&tell);
    return NULL;
}

/* One thread waits in MPI for what another thread of the same rank sends, or completes. */
static void *answers(void *argument) {
    struct with *w = argument;
    for (int round = 0; round < rounds; round++) {
        int got;
        MPI_Recv(&got, 1, MPI_INT, 0, 1, w->comm, MPI_STATUS_IGNORE);
        must(got == round, "what the other thread has sent", round);
        got = -got;
        MPI_Ssend(&got, 1, MPI_INT, 0, 2, w->comm);
    }
    return NULL;
}

static int queried(void *extra, MPI_Status *status) {
    MPI_Status_set_elements(status, MPI_INT, 1);
    MPI_Status_set_cancelled(status, 0);
    status->MPI_SOURCE = *(int *)extra;
    status->MPI_TAG = 5;
    return MPI_SUCCESS;
}
static int freed(void *extra) { return extra ? MPI_SUCCESS : MPI_ERR_OTHER; }
static int cancelled(void *extra, int complete) { return extra && complete ? MPI_SUCCESS : MPI_SUCCESS; }

static void *completes(void *request) {
    for (volatile int i = 0; i < 100000; i++)
        ;
    MPI_Grequest_complete(*(MPI_Request *)request);
    return NULL;
}

int main(int argc, char **argv) {
    int provided;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
    rounds = argc > 1 ? atoi(argv[1]) : 40;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    must(provided == MPI_THREAD_MULTIPLE, "it is granted", 0);
    struct with with[THREADS];
    pthread_t threads[THREADS];
    int key;
    MPI_Op op;
    MPI_Op_create(either, 1, &op);
    MPI_Comm_create_keyval(copied, deleted, &key, NULL);
    for (int t = 0; t < THREADS; t++) {
        with[t] = (struct with){t, MPI_COMM_NULL, op, key};
        MPI_Comm_dup(MPI_COMM_WORLD, &with[t].comm);
        MPI_Comm_set_attr(with[t].comm, key, &told);
    }
    for (int t = 1; t < THREADS; t++)
        pthread_create(&threads[t], NULL, works, &with[t]);
    works(&with[0]);
    for (int t = 1; t < THREADS; t++)
        pthread_join(threads[t], NULL);

    struct with self = {0, MPI_COMM_SELF, op, key};
    pthread_create(&threads[1], NULL, answers, &self);
    for (int round = 0; round < rounds; round++) {
        int back;
        MPI_Send(&round, 1, MPI_INT, 0, 1, MPI_COMM_SELF);
        MPI_Recv(&back, 1, MPI_INT, 0, 2, MPI_COMM_SELF, MPI_STATUS_IGNORE);
        must(back == -round, "what the other thread has answered", round);
    }
    pthread_join(threads[1], NULL);

    for (int round = 0; round < 10; round++) {
        MPI_Request request;
        MPI_Status status;
        MPI_Grequest_start(queried, freed, cancelled, &rank, &request);
        MPI_Request named = request;
        pthread_create(&threads[1], NULL, completes, &named);
        MPI_Wait(&request, &status);
        must(status.MPI_SOURCE == rank && status.MPI_TAG == 5, "a request that another thread completes", round);
        pthread_join(threads[1], NULL);
    }

    unsigned long long all;
    MPI_Allreduce(&told, &all, 1, MPI_UNSIGNED_LONG_LONG, MPI_SUM, MPI_COMM_WORLD);
    if (rank == 0)
        printf("all %llu\n", all);
    for (int t = 0; t < THREADS; t++)
        MPI_Comm_free(&with[t].comm);
    must(counted_copies == rounds, "copies of attributes", rounds);
    must(counted_deletes == counted_copies + THREADS, "their ends", rounds);
    MPI_Comm_free_keyval(&key);
    MPI_Op_free(&op);
    MPI_Finalize();
    return 0;
}
