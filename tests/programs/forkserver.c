/*
 * A server that makes a process for each request and goes on listening; clients are processes, too. Requests come by socket pairs, all of which the server watches by poll; some requests end the
 * process that serves them, and the server lives. argv: requests of each client (20), clients (3).
 */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define CLIENTS 8

static int served, crashed;

static void look(int options) {
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, options)) > 0;) {
        if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
            served++;
        else if (WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT)
            crashed++;
        else if (!(WIFEXITED(status) && WEXITSTATUS(status) == 50))
            printf("strange status %x\n", status);
    }
}

int main(int argc, char **argv) {
    const int requests = argc > 1 ? atoi(argv[1]) : 20, clients = argc > 2 ? atoi(argv[2]) : 3;
    int ends[CLIENTS];
    struct pollfd watched[CLIENTS];
    fflush(stdout);
    for (int c = 0; c < clients; c++) {
        int pair[2];
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) {
            perror("socketpair");
            return 1;
        }
        if (fork() == 0) {
            long sum = 0;
            char line[64];
            for (int other = 0; other < c; other++)
                close(ends[other]);
            close(pair[0]);
            for (int r = 0; r < requests; r++) {
                snprintf(line, sizeof line, "%s %d", r % 7 == 3 ? "crash" : "square", c * 100 + r);
                if (write(pair[1], line, sizeof line) != sizeof line)
                    _exit(51);
                if (r % 7 == 3)
                    continue;
                if (read(pair[1], line, sizeof line) != sizeof line)
                    _exit(52);
                sum += atol(line);
            }
            snprintf(line, sizeof line, "sum %ld", sum);
            if (write(pair[1], line, sizeof line) != sizeof line)
                _exit(53);
            _exit(50);
        }
        close(pair[1]);
        ends[c] = pair[0];
    }
    int open = clients;
    long sums[CLIENTS] = {0};
    while (open > 0) {
        for (int c = 0; c < clients; c++)
            watched[c] = (struct pollfd){.fd = ends[c], .events = POLLIN};
        if (poll(watched, (nfds_t)clients, 2000) < 0) {
            perror("poll");
            return 1;
        }
        for (int c = 0; c < clients; c++) {
            char line[64];
            if (ends[c] < 0 || (watched[c].revents & (POLLIN | POLLHUP)) == 0)
                continue;
            if (read(ends[c], line, sizeof line) != sizeof line) {
                close(ends[c]);
                ends[c] = -1;
                open--;
            } else if (strncmp(line, "sum ", 4) == 0) {
                sums[c] = atol(line + 4);
            } else if (fork() == 0) {
                if (line[0] == 'c')
                    abort();
                const long n = atol(line + 7);
                snprintf(line, sizeof line, "%ld", n * n);
                _exit(write(ends[c], line, sizeof line) == sizeof line ? 0 : 54);
            }
        }
        look(WNOHANG);
    }
    look(0);
    for (int c = 0; c < clients; c++)
        printf("client %d: %ld\n", c, sums[c]);
    printf("%d served, %d crashed\n", served, crashed);
    return 0;
}
