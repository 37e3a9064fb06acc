/*
 * Signals, as far as there are any in a cell: those that the program sends to itself, and those by which it ends a process that it has made (processes.c). Nobody else sends any: a job that is cancelled ends without a word, and what a machine
 * would say by SIGSEGV or SIGFPE ends the rank with a backtrace. So a program that installs handlers for such days builds and runs, and what it raises
 * arrives as POSIX says: with the handler's mask, once where it is blocked, and when that ends.
 *
 * What a signal does where nothing has been installed is the C library's affair (its `signal` and `raise`). In a program with threads all share one mask.
 */

#include <bits/setjmp.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#define SIGNALS 64

/* The C library's own. */
extern int __real_raise(int) __asm__("raise");
extern void (*__real_signal(int, void (*)(int)))(int) __asm__("signal");

/* To another process (processes.c). */
extern int __cloudskin_kill(pid_t, int);

static struct sigaction installed[SIGNALS + 1];
static sigset_t blocked, pending;

static int valid(int number) {
    if (number >= 1 && number <= SIGNALS)
        return 1;
    errno = EINVAL;
    return 0;
}

static unsigned long long bit(int number) { return 1ull << (number - 1); }

__attribute__((weak)) int sigemptyset(sigset_t *set) {
    set->__bits = 0;
    return 0;
}

__attribute__((weak)) int sigfillset(sigset_t *set) {
    set->__bits = ~0ull;
    return 0;
}

__attribute__((weak)) int sigaddset(sigset_t *set, int number) {
    if (!valid(number))
        return -1;
    set->__bits |= bit(number);
    return 0;
}

__attribute__((weak)) int sigdelset(sigset_t *set, int number) {
    if (!valid(number))
        return -1;
    set->__bits &= ~bit(number);
    return 0;
}

__attribute__((weak)) int sigismember(const sigset_t *set, int number) {
    return valid(number) ? (set->__bits & bit(number)) != 0 : -1;
}

/* What the C library calls: the handler that the program has installed, with its mask. */
static void deliver(int number) {
    const struct sigaction action = installed[number];
    const sigset_t before = blocked;
    blocked.__bits |= action.sa_mask.__bits | (action.sa_flags & SA_NODEFER ? 0 : bit(number));
    if (action.sa_flags & SA_RESETHAND) {
        memset(&installed[number], 0, sizeof installed[number]);
        __real_signal(number, SIG_DFL);
    }
    if (action.sa_flags & SA_SIGINFO) {
        siginfo_t info = {.si_signo = number, .si_code = SI_USER, .si_pid = getpid(), .si_uid = getuid()};
        action.sa_sigaction(number, &info, NULL);
    } else
        action.sa_handler(number);
    sigprocmask(SIG_SETMASK, &before, NULL);
}

__attribute__((weak)) int sigaction(int number, const struct sigaction *new, struct sigaction *old) {
    if (!valid(number))
        return -1;
    if (new != NULL && (number == SIGKILL || number == SIGSTOP)) {
        errno = EINVAL;
        return -1;
    }
    if (old != NULL)
        *old = installed[number];
    if (new != NULL) {
        const int own = (new->sa_flags & SA_SIGINFO) || (new->sa_handler != SIG_DFL && new->sa_handler != SIG_IGN);
        if (__real_signal(number, own ? deliver : new->sa_handler) == SIG_ERR)
            return -1;
        installed[number] = *new;
    }
    return 0;
}

void (*__cloudskin_signal(int number, void (*handler)(int)))(int) {
    struct sigaction new = {.sa_flags = SA_RESTART}, old;
    new.sa_handler = handler;
    return sigaction(number, &new, &old) == 0 ? (old.sa_flags & SA_SIGINFO ? SIG_DFL : old.sa_handler) : SIG_ERR;
}

int __cloudskin_raise(int number) {
    if (!valid(number))
        return -1;
    if ((blocked.__bits & bit(number)) && number != SIGKILL && number != SIGSTOP) {
        pending.__bits |= bit(number);
        return 0;
    }
    return __real_raise(number);
}

__attribute__((weak)) int sigprocmask(int how, const sigset_t *set, sigset_t *old) {
    const sigset_t before = blocked;
    if (set != NULL) {
        switch (how) {
        case SIG_BLOCK:
            blocked.__bits |= set->__bits;
            break;
        case SIG_UNBLOCK:
            blocked.__bits &= ~set->__bits;
            break;
        case SIG_SETMASK:
            blocked = *set;
            break;
        default:
            errno = EINVAL;
            return -1;
        }
    }
    if (old != NULL)
        *old = before;
    for (int number = 1; number <= SIGNALS; number++) {
        if (pending.__bits & ~blocked.__bits & bit(number)) {
            pending.__bits &= ~bit(number);
            __real_raise(number);
        }
    }
    return 0;
}

/* As the C library's <setjmp.h> has it, which refuses to be read here: this file is also for programs that never jump. */
struct __jmp_buf_tag {
    __jmp_buf __jb;
    unsigned long __fl;
    unsigned long __ss[128 / sizeof(long)];
};

/* `sigsetjmp` and `siglongjmp` (posix/setjmp.h): the mask lies where the C library has a place for it. */
void __cloudskin_keep_mask(struct __jmp_buf_tag *where, int mask) {
    where->__fl = mask != 0;
    memcpy(where->__ss, &blocked, sizeof blocked);
}

void __cloudskin_give_mask(struct __jmp_buf_tag *where) {
    sigset_t kept;
    memcpy(&kept, where->__ss, sizeof kept);
    if (where->__fl)
        sigprocmask(SIG_SETMASK, &kept, NULL);
}

__attribute__((weak)) int sigpending(sigset_t *set) {
    *set = pending;
    return 0;
}

/* Number 0 asks only whether there is such a process. A group is the process alone. */
__attribute__((weak)) int kill(pid_t process, int number) {
    if (process != getpid() && process != 0 && process != -getpid())
        return __cloudskin_kill(process, number);
    return number == 0 ? 0 : __cloudskin_raise(number);
}
