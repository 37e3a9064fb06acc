/*
 * Producer and consumers: work goes to forked workers through one pipe, results come back through another, and a last one has standard output at its end.
 * argv: numbers to work on (2000), workers (4).
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct task { int32_t number; char padding[60]; };
struct result { int32_t worker, number; uint32_t hash; };

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static uint32_t work(uint32_t seed) {
    for (int i = 0; i < 20000; i++)
        seed = seed * 1664525u + 1013904223u;
    return seed;
}

static int all(int fd, void *into, size_t size) {
    size_t done = 0;
    while (done < size) {
        const ssize_t got = read(fd, (char *)into + done, size - done);
        if (got < 0)
            fail("read");
        if (got == 0)
            return done == 0 ? 0 : -1;
        done += (size_t)got;
    }
    return 1;
}

int main(int argc, char **argv) {
    const int count = argc > 1 ? atoi(argv[1]) : 2000, workers = argc > 2 ? atoi(argv[2]) : 4;
    int tasks[2], results[2], status;
    pid_t pids[16];
    if (pipe(tasks) != 0 || pipe(results) != 0)
        fail("pipe");
    fflush(stdout);
    for (int w = 0; w < workers; w++) {
        pids[w] = fork();
        if (pids[w] < 0)
            fail("fork");
        if (pids[w] == 0) {
            struct task t;
            int done = 0;
            close(tasks[1]);
            close(results[0]);
            while (all(tasks[0], &t, sizeof t) == 1) {
                const struct result r = {w, t.number, work((uint32_t)t.number)};
                if (write(results[1], &r, sizeof r) != sizeof r)
                    fail("write a result");
                done++;
            }
            _exit(done < 0 ? 1 : 10 + w);
        }
    }
    close(tasks[0]);
    close(results[1]);
    /* One more process feeds them, so that nobody waits for itself. */
    const pid_t feeder = fork();
    if (feeder == 0) {
        struct task t;
        memset(&t, 0, sizeof t);
        close(results[0]);
        for (t.number = 0; t.number < count; t.number++)
            if (write(tasks[1], &t, sizeof t) != sizeof t)
                fail("write a task");
        _exit(0);
    }
    close(tasks[1]);
    struct result r;
    int seen = 0, strange = 0;
    uint32_t sum = 0;
    char *once = calloc((size_t)count, 1);
    while (all(results[0], &r, sizeof r) == 1) {
        if (r.number < 0 || r.number >= count || once[r.number]++ || r.worker < 0 || r.worker >= workers || r.hash != work((uint32_t)r.number))
            strange++;
        sum ^= r.hash;
        seen++;
    }
    printf("%d results, %d strange, %08x\n", seen, strange, (unsigned)sum);
    for (int w = workers - 1; w >= 0; w--) {
        if (waitpid(pids[w], &status, 0) != pids[w] || !WIFEXITED(status))
            fail("waitpid");
        printf("worker %d ended with %d\n", w, WEXITSTATUS(status));
    }
    if (wait(&status) != feeder || status != 0)
        fail("wait");
    const pid_t none = wait(NULL);
    printf("nobody else: %d, %s\n", (int)none, errno == ECHILD ? "ECHILD" : "?");

    /* A large write through a small pipe, and standard output that is one. */
    int both[2];
    fflush(stdout);
    if (pipe(both) != 0)
        fail("pipe");
    if (fork() == 0) {
        close(both[0]);
        if (dup2(both[1], STDOUT_FILENO) != STDOUT_FILENO)
            fail("dup2");
        close(both[1]);
        char *large = malloc(300000);
        for (int i = 0; i < 300000; i++)
            large[i] = (char)('a' + i % 26);
        if (write(STDOUT_FILENO, large, 300000) != 300000)
            fail("write much");
        printf("and a line by printf\n");
        exit(0);
    }
    close(both[1]);
    static char buffer[1000];
    size_t bytes = 0;
    uint32_t hash = 5381;
    for (ssize_t got; (got = read(both[0], buffer, sizeof buffer)) > 0; bytes += (size_t)got)
        for (ssize_t i = 0; i < got; i++)
            hash = hash * 33 + (unsigned char)buffer[i];
    wait(&status);
    printf("%zu bytes came, %08x, %d\n", bytes, (unsigned)hash, status);
    return seen == count && strange == 0 ? 0 : 2;
}
