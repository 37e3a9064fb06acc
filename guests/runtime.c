/*
 * The part of CloudSkin that is linked into each cell: two pieces of memory whose addresses the agent must know (the
 * linker exports the address of each as an immutable global), and where relative paths begin.
 *
 * No poll is written in C: a call in a loop would keep LLVM from vectorising it. The polls are put into the linked module
 * (`cells::toolchain::instrument`).
 */

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* Word 0: stop at the next safe point, please. Word 1: die at once (the agent sets word 0 too). The rest is reserved. */
__attribute__((used, aligned(64))) volatile int __cloudskin_flags[16];

/* Where the call stack is kept while a cell is stopped; it starts with the two pointers {next free byte, end}. */
__attribute__((used, aligned(64))) unsigned char __cloudskin_unwind[8 * 1024 * 1024];

__attribute__((import_module("cloudskin"), import_name("poll"))) void __cloudskin_poll(void);

/* Only here so that the linked module has the import; the export is removed with the polls in place. */
void __cloudskin_keep(void) { __cloudskin_poll(); }

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

/* Memory for what MPI hands to the program's own functions, by the program's own allocator. The agent calls it. */
__attribute__((used)) void *__cloudskin_room(void *old, size_t bytes) {
    if (bytes > 0)
        return realloc(old, bytes);
    free(old);
    return NULL;
}
