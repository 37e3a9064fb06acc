/*
 * Continues the C library's header with calls that it leaves out because there are no users and no hosts here. What they do is in posix.c.
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
#ifdef __cplusplus
}
#endif

#endif
