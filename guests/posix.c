/*
 * Calls of POSIX and C that programs make beside their work, and that a cell can answer by itself: files have no owners and no permissions
 * here, so both stay what they are, and a program that copies them from one file to another (a compressor) goes on. There is one user, 0, whom no list
 * has, and one host, `cell`, the same wherever the cell is. No other program can be started, so there is no command processor, which C allows: `system` says so.
 *
 * What a cell lacks and a program needs for its work (sockets to elsewhere) is not here: it does not link, and the compiler says why. What programs often
 * bring themselves for systems that lack it is weak.
 */

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#define BROUGHT __attribute__((weak))
static const char HOST[] = "cell";

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

/* Nothing has permissions, so this hides none; what was set before is given back. */
BROUGHT mode_t umask(mode_t mask) {
    static mode_t now = 022;
    const mode_t before = now;
    now = mask & 0777;
    return before;
}

BROUGHT uid_t getuid(void) { return 0; }
BROUGHT uid_t geteuid(void) { return 0; }
BROUGHT gid_t getgid(void) { return 0; }
BROUGHT gid_t getegid(void) { return 0; }

BROUGHT char *getlogin(void) {
    errno = ENXIO;
    return NULL;
}

BROUGHT struct passwd *getpwuid(uid_t user) {
    (void)user;
    return NULL;
}

BROUGHT struct passwd *getpwnam(const char *name) {
    (void)name;
    return NULL;
}

BROUGHT int gethostname(char *name, size_t size) {
    if (size < sizeof HOST) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(name, HOST, sizeof HOST);
    return 0;
}

int __cloudskin_uname(struct utsname *it) {
    memset(it, 0, sizeof *it);
    strcpy(it->sysname, "CloudSkin");
    strcpy(it->nodename, HOST);
    strcpy(it->release, "1");
    strcpy(it->version, "1");
    strcpy(it->machine, "wasm32");
    return 0;
}

/* Tries names until one is free: `make` makes it, or fails with EEXIST. */
static int with_a_free_name(char *template, int behind, int (*make)(const char *)) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    const size_t length = strlen(template);
    char *end = template + length - behind;
    if (behind < 0 || length < (size_t)behind + 6 || memcmp(end - 6, "XXXXXX", 6) != 0) {
        errno = EINVAL;
        return -1;
    }
    for (int tries = 0; tries < 100; tries++) {
        unsigned char random[6];
        if (getentropy(random, sizeof random) != 0)
            return -1;
        for (int n = 0; n < 6; n++)
            end[n - 6] = letters[random[n] % (sizeof letters - 1)];
        const int made = make(template);
        if (made >= 0 || errno != EEXIST)
            return made;
    }
    errno = EEXIST;
    return -1;
}

static int new_file(const char *path) { return open(path, O_RDWR | O_CREAT | O_EXCL, 0600); }
static int new_folder(const char *path) { return mkdir(path, 0700); }

BROUGHT int mkstemps(char *template, int behind) { return with_a_free_name(template, behind, new_file); }
BROUGHT int mkstemp(char *template) { return with_a_free_name(template, 0, new_file); }
BROUGHT char *mkdtemp(char *template) { return with_a_free_name(template, 0, new_folder) < 0 ? NULL : template; }

/* Linux's: from one file to another, at these offsets, which move on, or where the files are. */
BROUGHT ssize_t copy_file_range(int from, off_t *from_at, int to, off_t *to_at, size_t count, unsigned flags) {
    char buffer[1 << 14];
    size_t done = 0;
    if (flags != 0) {
        errno = EINVAL;
        return -1;
    }
    while (done < count) {
        const size_t want = count - done < sizeof buffer ? count - done : sizeof buffer;
        const ssize_t got = from_at != NULL ? pread(from, buffer, want, *from_at) : read(from, buffer, want);
        if (got <= 0)
            return got < 0 && done == 0 ? -1 : (ssize_t)done;
        const ssize_t put = to_at != NULL ? pwrite(to, buffer, (size_t)got, *to_at) : write(to, buffer, (size_t)got);
        if (from_at == NULL && put < got) /* what was read and not written is read again */
            (void)lseek(from, (put < 0 ? 0 : put) - got, SEEK_CUR);
        if (put < 0)
            return done == 0 ? -1 : (ssize_t)done;
        if (from_at != NULL)
            *from_at += put;
        if (to_at != NULL)
            *to_at += put;
        done += (size_t)put;
    }
    return (ssize_t)done;
}

/* Linux's too, and its header comes with the compiler. */
BROUGHT ssize_t sendfile(int to, int from, off_t *from_at, size_t count) { return copy_file_range(from, from_at, to, NULL, count, 0); }
