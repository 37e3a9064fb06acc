/*
 * Continues the C library's header, whose chmod fails always. What is called instead is in posix.c.
 */
#ifndef CLOUDSKIN_SYS_STAT_H
#define CLOUDSKIN_SYS_STAT_H
#pragma GCC system_header

#include_next <sys/stat.h>

#ifdef __cplusplus
extern "C" {
#endif
int chmod(const char *, mode_t) __asm__("__cloudskin_chmod");
int fchmod(int, mode_t) __asm__("__cloudskin_fchmod");
int fchmodat(int, const char *, mode_t, int) __asm__("__cloudskin_fchmodat");
mode_t umask(mode_t);
#ifdef __cplusplus
}
#endif

#endif
