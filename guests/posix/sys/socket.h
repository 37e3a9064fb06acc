/*
 * Continues the C library's header with pairs of sockets between processes of one rank. What the call does is in processes.c.
 */
#ifndef CLOUDSKIN_SYS_SOCKET_H
#define CLOUDSKIN_SYS_SOCKET_H
#pragma GCC system_header

#include_next <sys/socket.h>

#ifdef __cplusplus
extern "C" {
#endif
int socketpair(int, int, int, int[2]);
#ifdef __cplusplus
}
#endif

#endif
