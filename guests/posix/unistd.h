/*
 * Continues the C library's header with calls that it leaves out because there are no users, no hosts and no other programs here. What they do is in posix.c and processes.c.
 */
#ifndef CLOUDSKIN_UNISTD_H
#define CLOUDSKIN_UNISTD_H
#pragma GCC system_header

#include_next <unistd.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif
int chown(const char *, uid_t, gid_t);
int lchown(const char *, uid_t, gid_t);
int fchown(int, uid_t, gid_t);
uid_t getuid(void);
uid_t geteuid(void);
gid_t getgid(void);
gid_t getegid(void);
char *getlogin(void);
int gethostname(char *, size_t);
ssize_t copy_file_range(int, off_t *, int, off_t *, size_t, unsigned);
pid_t getpid(void) __asm__("__cloudskin_getpid"); /* the C library's own is the same for all */
pid_t fork(void);
pid_t vfork(void);
pid_t getppid(void);
int pipe(int[2]);
int pipe2(int[2], int);
int dup(int);
int dup2(int, int);
int dup3(int, int, int);
int execve(const char *, char *const[], char *const[]);
int execv(const char *, char *const[]);
int execvp(const char *, char *const[]);
int execl(const char *, const char *, ...);
int execlp(const char *, const char *, ...);
int execle(const char *, const char *, ...);
#ifdef __cplusplus
}
#endif

#endif
