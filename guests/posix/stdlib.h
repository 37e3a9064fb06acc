/*
 * Continues the C library's header with files of names that nobody has yet. They are made where the program says. What the calls do is in posix.c.
 */
#ifndef CLOUDSKIN_STDLIB_H
#define CLOUDSKIN_STDLIB_H
#pragma GCC system_header

#include_next <stdlib.h>

#ifdef __cplusplus
extern "C" {
#endif
int mkstemp(char *);
int mkstemps(char *, int);
char *mkdtemp(char *);
#ifdef __cplusplus
}
#endif

#endif
