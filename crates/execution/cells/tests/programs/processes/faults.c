/* What goes wrong with processes, by the first argument. Prints the same natively, but where the test says otherwise. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __CLOUDSKIN__
#include <mpi.h>
#endif

#define SAYS(what, call, error) do { errno = 0; const long result = (long)(call); printf("%s: %ld %d\n", what, result, errno == (error)); } while (0)

static void how(const char *name, pid_t pid) {
    int status = 0;
    const pid_t got = waitpid(pid, &status, 0);
    if (got != pid)
        printf("%s: waitpid failed with %d\n", name, errno);
    else if (WIFSIGNALED(status))
        printf("%s: signal %d\n", name, WTERMSIG(status));
    else
        printf("%s: exit %d\n", name, WEXITSTATUS(status));
    fflush(stdout);
}

static volatile int zero = 0, *nowhere = (int *)0xfffffff0u;

/* Without end: children that wait until the parent has closed its end. */
static void many(void) {
    int gate[2], made = 0;
    char c;
    if (pipe(gate) != 0)
        exit(1);
    for (;;) {
        const pid_t pid = fork();
        if (pid < 0)
            break;
        if (pid == 0) {
            close(gate[1]);
            _exit(read(gate[0], &c, 1) == 0 ? 0 : 9);
        }
        made++;
    }
    printf("%d were made, then %s\n", made, errno == EAGAIN ? "EAGAIN" : "another error");
    printf("and again: %d\n", (int)fork());
    close(gate[1]);
    int status, good = 0;
    while (wait(&status) > 0)
        good += status == 0;
    printf("%d ended well\n", good);
    fflush(stdout);
    const pid_t pid = fork();
    if (pid == 0)
        _exit(3);
    how("one more", pid);
}

static void statuses(void) {
    pid_t pid;
    if ((pid = fork()) == 0)
        _exit(200);
    how("_exit", pid);
    if ((pid = fork()) == 0)
        exit(256 + 7);
    how("exit", pid);
    if ((pid = fork()) == 0)
        abort();
    how("abort", pid);
#ifdef __CLOUDSKIN__ /* natively the numbers depend on the machine */
    if ((pid = fork()) == 0)
        _exit(1000 / zero);
    how("division", pid);
    if ((pid = fork()) == 0)
        _exit(*nowhere);
    how("pointer", pid);
#endif
    if ((pid = fork()) == 0)
        for (;;)
            zero++;
    if (kill(pid, 0) != 0 || waitpid(pid, NULL, WNOHANG) != 0)
        printf("it runs\n");
    kill(pid, SIGTERM);
    how("loop", pid);
    if ((pid = fork()) == 0)
        for (;;)
            sleep(100);
    kill(pid, SIGKILL);
    how("sleep", pid);
    SAYS("kill of nobody", kill(pid, SIGTERM), ESRCH);
}

static void pipes(void) {
    int p[2], status;
    char buffer[200];
    signal(SIGPIPE, SIG_IGN);
    if (pipe(p) != 0)
        exit(1);
    close(p[0]);
    SAYS("no reader", write(p[1], "x", 1), EPIPE);
    close(p[1]);
    if (pipe2(p, O_NONBLOCK) != 0)
        exit(1);
    SAYS("empty", read(p[0], buffer, 10), EAGAIN);
    int filled = 0;
    for (ssize_t put; (put = write(p[1], buffer, sizeof buffer)) > 0;)
        filled += (int)put;
    printf("full: %d %d\n", filled > 60000, errno == EAGAIN);
    fcntl(p[0], F_SETFL, 0);
    printf("%d\n", (int)read(p[0], buffer, sizeof buffer));
    struct pollfd asked[2] = {{.fd = p[0], .events = POLLIN}, {.fd = p[1], .events = POLLOUT}};
    SAYS("poll", poll(asked, 1, 1000), 0);
    printf("readable: %d\n", asked[0].revents == POLLIN);
    close(p[1]);
    int left = 0;
    for (ssize_t got; (got = read(p[0], buffer, sizeof buffer)) > 0;)
        left += (int)got;
    printf("all: %d\n", left + 200 == filled);
    close(p[0]);
    SAYS("closed", read(p[0], buffer, 1), EBADF);

    if (pipe(p) != 0)
        exit(1);
    asked[0].fd = p[0];
    printf("nothing to read: %d\n", poll(asked, 1, 20));
    /* A reader that ends while the writer waits for room. */
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        close(p[1]);
        _exit(read(p[0], buffer, 1) == 1 ? 5 : 6);
    }
    close(p[0]);
    char *much = calloc(1, 200000);
    const ssize_t put = write(p[1], much, 200000);
    printf("cut short: %d\n", put < 200000);
    how("reader", pid);
    close(p[1]);

    /* Positions are shared, as are what one writes and the other. */
    const int fd = open("shared", O_RDWR | O_CREAT | O_TRUNC, 0600), same = dup(fd);
    if (fd < 0 || same < 0)
        exit(2);
    fflush(stdout);
    if ((pid = fork()) == 0)
        _exit(write(fd, "child ", 6) == 6 ? 0 : 1);
    waitpid(pid, &status, 0);
    if (write(same, "parent", 6) != 6 || lseek(fd, 0, SEEK_SET) != 0)
        exit(3);
    close(fd);
    const int got = (int)read(same, buffer, sizeof buffer);
    printf("%.*s\n", got, buffer);
    close(same);
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0)
        exit(4);
    fflush(stdout);
    if ((pid = fork()) == 0) {
        close(pair[0]);
        const int n = (int)recv(pair[1], buffer, sizeof buffer, 0);
        for (int i = 0; i < n; i++)
            buffer[i] ^= 0x20;
        send(pair[1], buffer, (size_t)n, 0);
        _exit(read(pair[1], buffer, 1) == 0 ? 0 : 1);
    }
    close(pair[1]);
    if (send(pair[0], "HELLO", 5, 0) != 5)
        exit(5);
    const int n = (int)recv(pair[0], buffer, sizeof buffer, 0);
    printf("%.*s\n", n, buffer);
    shutdown(pair[0], SHUT_WR);
    how("its reader", pid);
#ifdef __CLOUDSKIN__
    SAYS("another program", execl("/bin/true", "true", (char *)0), ENOSYS);
    SAYS("a network", socketpair(AF_INET, SOCK_STREAM, 0, pair), EAFNOSUPPORT);
#endif
}

/* Pipes and what is in them, shared positions and children that nobody has waited for, while it is moved about. */
static void travel(void) {
    int p[2], copies[2];
    uint32_t sum = 1;
    struct pollfd never;
    if (pipe(p) != 0 || (copies[0] = dup(p[0])) < 0 || (copies[1] = dup(p[1])) < 0)
        exit(1);
    close(p[0]);
    never = (struct pollfd){.fd = copies[0], .events = POLLIN};
    fflush(stdout);
    const pid_t pid = fork();
    if (pid == 0)
        _exit(77);
    for (int n = 0; n < 400; n++) {
        uint32_t in[64], out[64];
        for (int i = 0; i < 64; i++)
            in[i] = sum += (uint32_t)(i * n) * 2654435761u;
        if (poll(&never, 1, 1) != 0)
            exit(2);
        if (write(n % 2 ? p[1] : copies[1], in, sizeof in) != sizeof in)
            exit(3);
        for (int i = 0; i < 20000; i++)
            sum = sum * 1664525u + 1013904223u;
        if (poll(&never, 1, 1000) != 1 || read(copies[0], out, sizeof out) != sizeof out || memcmp(in, out, sizeof in) != 0)
            exit(4);
    }
    close(p[1]);
    close(copies[1]);
    printf("%08x, then %d\n", (unsigned)sum, (int)read(copies[0], &sum, 1));
    how("a child of before", pid);
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    int status;
    if (strcmp(what, "many") == 0)
        many();
    else if (strcmp(what, "statuses") == 0)
        statuses();
    else if (strcmp(what, "pipes") == 0)
        pipes();
    else if (strcmp(what, "travel") == 0)
        travel();
    else if (strcmp(what, "endless") == 0 || strcmp(what, "leaves") == 0 || strcmp(what, "fails") == 0) {
        /* One child loops, one waits for a pipe, one for a child of its own; the parent waits, or goes. */
        int p[2];
        if (pipe(p) != 0)
            return 1;
        for (int n = 0; n < 3; n++)
            if (fork() == 0) {
                if (n == 0)
                    for (;;)
                        zero++;
                if (n == 2 && fork() != 0)
                    _exit(wait(&status) > 0);
                char c;
                _exit((int)read(p[0], &c, 1));
            }
        printf("made\n");
        fflush(stdout);
        if (what[0] == 'f')
            abort();
        if (what[0] == 'e')
            return wait(&status) > 0;
        return 5;
    }
#ifdef __CLOUDSKIN__
    else if (strcmp(what, "mpi") == 0) {
        int me, size;
        MPI_Init(NULL, NULL);
        MPI_Comm_rank(MPI_COMM_WORLD, &me);
        const pid_t pid = fork();
        if (pid == 0) {
            if (MPI_Wtime() <= 0)
                _exit(1);
            MPI_Comm_size(MPI_COMM_WORLD, &size);
            _exit(0);
        }
        how("MPI in a child", pid);
        int token = me, other;
        MPI_Comm_size(MPI_COMM_WORLD, &size);
        MPI_Sendrecv(&token, 1, MPI_INT, (me + 1) % size, 0, &other, 1, MPI_INT, (me + size - 1) % size, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        printf("rank %d has %d\n", me, other);
        MPI_Finalize();
    } else if (strcmp(what, "memory") == 0) {
        /* 200 MiB that are touched: a rank of 1 GiB has room for a few. */
        char *much = malloc(200 << 20);
        memset(much, 1, 200 << 20);
        int gate[2], made = 0;
        if (pipe(gate) != 0)
            return 1;
        while (fork() > 0)
            if (++made > 20)
                return 2;
        if (getpid() != 42)
            _exit((int)read(gate[0], &much, 1));
        printf("%d were made, then %d\n", made, errno == ENOMEM);
    }
#endif
    else
        return 9;
    return 0;
}
