/*
 * Processes of POSIX: what is behind them is the agent's (`cells::processes`). A process knows its own number, so nobody is asked for it; a cell that has made no other is number 42, as the
 * C library says of each.
 *
 * No other program can be started: exec and popen say so, and a program that has them for days on which it runs elsewhere links. What programs often bring themselves is weak.
 */

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define BROUGHT __attribute__((weak))
#define AGENT(name) __attribute__((import_module("cloudskin_process"), import_name(#name)))

/* A number, or an errno as a negative one. */
AGENT(fork) int __cloudskin_process_fork(int *me);
AGENT(wait) int __cloudskin_process_wait(int pid, int *status, int options);
AGENT(duplicate) int __cloudskin_process_duplicate(int fd, int at);
/* An errno. */
AGENT(kill) int __cloudskin_process_kill(int pid, int number);
AGENT(pipe) int __cloudskin_process_pipe(int *fds, int socket, int nonblocking);

static pid_t me = 42, parent = 1;

static int number(int result) {
    if (result >= 0)
        return result;
    errno = -result;
    return -1;
}

static int done(int error) {
    if (error == 0)
        return 0;
    errno = error;
    return -1;
}

pid_t getpid(void) { return me; }
BROUGHT pid_t getppid(void) { return parent; }

BROUGHT pid_t fork(void) {
    int mine = 0;
    const int result = __cloudskin_process_fork(&mine);
    if (result == 0) {
        parent = me;
        me = mine;
    }
    return number(result);
}

/* The parent does not stand still meanwhile; nothing that POSIX allows a child here can tell. */
BROUGHT pid_t vfork(void) { return fork(); }

BROUGHT pid_t waitpid(pid_t pid, int *status, int options) { return number(__cloudskin_process_wait(pid, status, options)); }
BROUGHT pid_t wait(int *status) { return waitpid(-1, status, 0); }

/* Of signals.c's `kill`: to somebody else. */
int __cloudskin_kill(pid_t pid, int signal) { return done(__cloudskin_process_kill(pid, signal)); }

BROUGHT int pipe2(int fds[2], int flags) {
    if ((flags & ~(O_NONBLOCK | O_CLOEXEC)) != 0)
        return done(EINVAL);
    return done(__cloudskin_process_pipe(fds, 0, (flags & O_NONBLOCK) != 0));
}

BROUGHT int pipe(int fds[2]) { return pipe2(fds, 0); }

BROUGHT int socketpair(int domain, int type, int protocol, int fds[2]) {
    if (domain != AF_UNIX)
        return done(EAFNOSUPPORT);
    if ((type & ~(SOCK_NONBLOCK | SOCK_CLOEXEC)) != SOCK_STREAM || protocol != 0)
        return done(EPROTONOSUPPORT);
    return done(__cloudskin_process_pipe(fds, 1, (type & SOCK_NONBLOCK) != 0));
}

BROUGHT int dup(int fd) { return number(__cloudskin_process_duplicate(fd, -1)); }
BROUGHT int dup2(int fd, int at) { return at < 0 ? done(EBADF) : number(__cloudskin_process_duplicate(fd, at)); }
BROUGHT int dup3(int fd, int at, int flags) { return fd == at || (flags & ~O_CLOEXEC) != 0 ? done(EINVAL) : dup2(fd, at); }

BROUGHT int execve(const char *path, char *const args[], char *const env[]) {
    (void)path, (void)args, (void)env;
    return done(ENOSYS);
}
BROUGHT int execv(const char *path, char *const args[]) {
    (void)path, (void)args;
    return done(ENOSYS);
}
BROUGHT int execvp(const char *file, char *const args[]) {
    (void)file, (void)args;
    return done(ENOSYS);
}
BROUGHT int execl(const char *path, const char *arg, ...) {
    (void)path, (void)arg;
    return done(ENOSYS);
}
BROUGHT int execlp(const char *file, const char *arg, ...) {
    (void)file, (void)arg;
    return done(ENOSYS);
}
BROUGHT int execle(const char *path, const char *arg, ...) {
    (void)path, (void)arg;
    return done(ENOSYS);
}

BROUGHT FILE *popen(const char *command, const char *mode) {
    (void)command, (void)mode;
    errno = ENOSYS;
    return NULL;
}
BROUGHT int pclose(FILE *file) {
    (void)file;
    return done(ECHILD);
}
