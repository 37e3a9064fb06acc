/*
 * The part of CloudSkin that is linked into each cell: a piece of memory whose address the agent must know (the
 * linker exports it as an immutable global), and where relative paths begin.
 *
 * No poll is written in C: it would keep LLVM from vectorising the loop. The polls are put into the linked module
 * (`cells::toolchain::instrument`).
 */

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* Where the call stack is kept while a cell is stopped. */
__attribute__((used, aligned(64))) unsigned char __cloudskin_unwind[8 * 1024 * 1024];

/*
 * Relative paths begin where PWD says. By itself the C library takes them, and also each absolute path that is in no folder of the
 * cell, for paths below the folder that was opened as ".": writing to /etc/motd would write into the working directory. An agent
 * that sees this export opens no such folder, so that such a path is what it is: not there. The export also links the part of
 * the C library that minds `__wasilibc_cwd`.
 */
extern char *__wasilibc_cwd;
int __wasilibc_find_relpath_alloc(const char *, const char **, char **, size_t *, int);
__attribute__((used)) int (*const __cloudskin_workdir)(const char *, const char **, char **, size_t *, int) = __wasilibc_find_relpath_alloc;

__attribute__((constructor(101))) static void begin_in_workdir(void) {
    const char *folder = getenv("PWD");
    char *kept = folder != NULL && folder[0] == '/' ? strdup(folder) : NULL;
    if (kept != NULL)
        __wasilibc_cwd = kept;
}
