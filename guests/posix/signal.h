/*
 * Continues the C library's header, which has `signal` and `raise` only, with the rest of POSIX's calls for signals within a program. What they do is in signals.c.
 */
#ifndef CLOUDSKIN_SIGNAL_H
#define CLOUDSKIN_SIGNAL_H
#pragma GCC system_header

#include_next <signal.h>
#include <sys/types.h>

/* The C library's own is a byte, and nothing of it uses it. It is defined now, since another of its headers would define it later, under the name below. Bit n - 1 is signal n. */
#define __NEED_sigset_t
#include <bits/alltypes.h>
typedef struct {
    unsigned long long __bits;
} __cloudskin_sigset_t;
#define sigset_t __cloudskin_sigset_t

#ifndef SIG_BLOCK
#define SIG_BLOCK 0
#define SIG_UNBLOCK 1
#define SIG_SETMASK 2
#endif
#ifndef SA_SIGINFO
#define SA_NOCLDSTOP 1
#define SA_NOCLDWAIT 2
#define SA_SIGINFO 4
#define SA_ONSTACK 0x08000000
#define SA_RESTART 0x10000000
#define SA_NODEFER 0x40000000
#define SA_RESETHAND 0x80000000
#endif
#ifndef SI_USER
#define SI_USER 0
#endif

#ifdef __cplusplus
extern "C" {
#endif
typedef struct {
    int si_signo, si_errno, si_code;
    pid_t si_pid;
    uid_t si_uid;
    int si_status;
    void *si_addr;
} siginfo_t;
struct sigaction {
    union {
        void (*sa_handler)(int);
        void (*sa_sigaction)(int, siginfo_t *, void *);
    } __sa_handler;
    sigset_t sa_mask;
    int sa_flags;
    void (*sa_restorer)(void);
};
#define sa_handler __sa_handler.sa_handler
#define sa_sigaction __sa_handler.sa_sigaction

int sigemptyset(sigset_t *);
int sigfillset(sigset_t *);
int sigaddset(sigset_t *, int);
int sigdelset(sigset_t *, int);
int sigismember(const sigset_t *, int);
int sigaction(int, const struct sigaction *, struct sigaction *);
int sigprocmask(int, const sigset_t *, sigset_t *);
int sigpending(sigset_t *);
int kill(pid_t, int);
int raise(int) __asm__("__cloudskin_raise");
void (*signal(int, void (*)(int)))(int) __asm__("__cloudskin_signal");
#ifdef __cplusplus
}
#endif

#endif
