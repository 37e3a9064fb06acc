/*
 * Calls of POSIX and C that programs make beside their work, and that a cell can answer by itself: files have no owners and no permissions
 * here, so both stay what they are, and a program that copies them from one file to another (a compressor) goes on. There is no other
 * process, so there is no command processor, which C allows: `system` says so.
 *
 * What a cell lacks and a program needs for its work (fork, sockets) is not here: it does not link, and the compiler says why.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

int __cloudskin_fchmod(int fd, mode_t mode) {
    struct stat s;
    (void)mode;
    return fstat(fd, &s);
}

int __cloudskin_fchmodat(int fd, const char *path, mode_t mode, int flags) {
    struct stat s;
    (void)mode;
    return fstatat(fd, path, &s, flags);
}

int __cloudskin_chmod(const char *path, mode_t mode) { return __cloudskin_fchmodat(AT_FDCWD, path, mode, 0); }

/* Each file is user 0's and group 0's, as `stat` says; -1 leaves it so. */
static int owned(uid_t user, gid_t group) {
    if ((user == 0 || user == (uid_t)-1) && (group == 0 || group == (gid_t)-1))
        return 0;
    errno = EPERM;
    return -1;
}

int fchown(int fd, uid_t user, gid_t group) {
    struct stat s;
    return fstat(fd, &s) != 0 ? -1 : owned(user, group);
}

int chown(const char *path, uid_t user, gid_t group) {
    struct stat s;
    return stat(path, &s) != 0 ? -1 : owned(user, group);
}

int lchown(const char *path, uid_t user, gid_t group) {
    struct stat s;
    return lstat(path, &s) != 0 ? -1 : owned(user, group);
}

int system(const char *command) {
    if (command == NULL)
        return 0;
    errno = ENOSYS;
    return -1;
}
