/*
 * Continues the C library's header with calls that it leaves out because files here have no owners. What they do is in posix.c.
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
#ifdef __cplusplus
}
#endif

#endif
