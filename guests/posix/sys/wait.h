/*
 * How processes ended that `fork` has made. What the calls do is in processes.c.
 */
#ifndef CLOUDSKIN_SYS_WAIT_H
#define CLOUDSKIN_SYS_WAIT_H

#include <sys/types.h>

#define WNOHANG 1
#define WUNTRACED 2

#define WEXITSTATUS(status) (((status) & 0xff00) >> 8)
#define WTERMSIG(status) ((status) & 0x7f)
#define WIFEXITED(status) (WTERMSIG(status) == 0)
#define WIFSIGNALED(status) (WTERMSIG(status) != 0)
/* None is ever stopped, and none leaves a core. */
#define WIFSTOPPED(status) ((void)(status), 0)
#define WSTOPSIG(status) WEXITSTATUS(status)
#define WIFCONTINUED(status) ((void)(status), 0)
#define WCOREDUMP(status) ((void)(status), 0)

#ifdef __cplusplus
extern "C" {
#endif
pid_t wait(int *);
pid_t waitpid(pid_t, int *, int);
#ifdef __cplusplus
}
#endif

#endif
