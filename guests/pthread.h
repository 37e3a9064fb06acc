/*
 * The C library's own header leaves out what threads that don't exist can't do. With -pthread they exist (threads.c).
 */
#ifndef CLOUDSKIN_PTHREAD_H
#define CLOUDSKIN_PTHREAD_H

#include_next <pthread.h>

#ifdef _REENTRANT
#ifdef __cplusplus
extern "C" {
#endif
void pthread_exit(void *) __attribute__((noreturn));
#ifdef __cplusplus
}
#endif
#endif

#endif
