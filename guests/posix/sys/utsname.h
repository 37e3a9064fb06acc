/*
 * The C library's call tells of itself, and of no host. What is called instead is in posix.c.
 */
#ifndef CLOUDSKIN_SYS_UTSNAME_H
#define CLOUDSKIN_SYS_UTSNAME_H

#ifdef __cplusplus
extern "C" {
#endif
struct utsname {
    char sysname[65], nodename[65], release[65], version[65], machine[65], domainname[65];
};
int uname(struct utsname *) __asm__("__cloudskin_uname");
#ifdef __cplusplus
}
#endif

#endif
