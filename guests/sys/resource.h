/*
 * The C library's own header has no limits, of which a cell has some; programs ask for the size of their stack. The rest is in threads.c.
 */
#ifndef CLOUDSKIN_SYS_RESOURCE_H
#define CLOUDSKIN_SYS_RESOURCE_H

#include_next <sys/resource.h>

#ifdef _REENTRANT
typedef unsigned long long rlim_t;
struct rlimit {
    rlim_t rlim_cur, rlim_max;
};
#define RLIM_INFINITY (~0ull)
#define RLIMIT_CPU 0
#define RLIMIT_FSIZE 1
#define RLIMIT_DATA 2
#define RLIMIT_STACK 3
#define RLIMIT_CORE 4
#define RLIMIT_NOFILE 7
#define RLIMIT_AS 9
#ifdef __cplusplus
extern "C" {
#endif
int getrlimit(int, struct rlimit *);
#ifdef __cplusplus
}
#endif
#endif

#endif
