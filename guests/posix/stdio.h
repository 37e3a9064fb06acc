/*
 * Continues the C library's header with calls that start commands, of which there are none. What they say is in processes.c.
 */
#ifndef CLOUDSKIN_STDIO_H
#define CLOUDSKIN_STDIO_H
#pragma GCC system_header

#include_next <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif
FILE *popen(const char *, const char *);
int pclose(FILE *);
#ifdef __cplusplus
}
#endif

#endif
