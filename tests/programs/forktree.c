/*
 * A tree of processes: each makes two until it is deep enough, works on memory of its own that it has from its parent, and gives the sum of its subtree by a pipe and its height by its status.
 * argv: depth (3).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int shared_before[4096];

static long grow(int depth, int place) {
    int ends[2][2];
    pid_t pids[2], me = getpid();
    long sum = 0;
    if (depth == 0) {
        for (int i = 0; i < 4096; i++)
            sum += shared_before[i] % 97;
        return sum + place;
    }
    for (int side = 0; side < 2; side++) {
        if (pipe(ends[side]) != 0)
            exit(101);
        pids[side] = fork();
        if (pids[side] < 0)
            exit(102);
        if (pids[side] == 0) {
            if (getppid() != me || getpid() == me)
                exit(103);
            close(ends[side][0]);
            /* The child's own: neither its parent nor its sister sees it. */
            for (int i = 0; i < 4096; i++)
                shared_before[i] += 2 * place + side;
            const long below = grow(depth - 1, 2 * place + side);
            if (write(ends[side][1], &below, sizeof below) != sizeof below)
                exit(104);
            exit(depth);
        }
        close(ends[side][1]);
        shared_before[place % 4096] ^= 1;
    }
    for (int side = 0; side < 2; side++) {
        long below;
        int status;
        if (read(ends[side][0], &below, sizeof below) != sizeof below || waitpid(pids[side], &status, 0) != pids[side])
            exit(105);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != depth)
            exit(106);
        close(ends[side][0]);
        sum += below;
    }
    return sum + shared_before[place % 4096];
}

int main(int argc, char **argv) {
    const int depth = argc > 1 ? atoi(argv[1]) : 3;
    for (int i = 0; i < 4096; i++)
        shared_before[i] = i * 7;
    fflush(stdout);
    printf("sum of a tree of depth %d: %ld\n", depth, grow(depth, 1));
    return 0;
}
