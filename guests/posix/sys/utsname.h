/*
 * The C library has none. What the call says is in posix.c.
 */
#ifndef CLOUDSKIN_SYS_UTSNAME_H
#define CLOUDSKIN_SYS_UTSNAME_H

#ifdef __cplusplus
extern "C" {
#endif
struct utsname {
    char sysname[65], nodename[65], release[65], version[65], machine[65], domainname[65];
};
int uname(struct utsname *);
#ifdef __cplusplus
}
#endif

#endif
