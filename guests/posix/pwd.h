/*
 * There are no users in a cell, so none is found. What the calls do is in posix.c.
 */
#ifndef CLOUDSKIN_PWD_H
#define CLOUDSKIN_PWD_H

#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif
struct passwd {
    char *pw_name, *pw_passwd;
    uid_t pw_uid;
    gid_t pw_gid;
    char *pw_gecos, *pw_dir, *pw_shell;
};
struct passwd *getpwnam(const char *);
struct passwd *getpwuid(uid_t);
#ifdef __cplusplus
}
#endif

#endif
