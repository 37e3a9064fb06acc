/* One file through several descriptors, as POSIX has it: two that append, one that reads what is being written, and one whose name is gone while it is open; and a folder that changes
   while it is read, with places in it to which the reader goes back. Each rank has its own; between the steps it works, so that it can be moved with all of them open. The first one tells.
   Argument: a folder. */
#include <dirent.h>
#include <fcntl.h>
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static volatile uint32_t x = 1;
static int me;

#define say(...) (me == 0 ? printf(__VA_ARGS__) : 0)

static void work(void) {
    for (int i = 0; i < 100; i++)
        for (int j = 0; j < 2000; j++) x = x * 1664525u + 1013904223u;
}

static void show(const char *what, const char *path) {
    struct stat s;
    if (stat(path, &s)) say("%s: nothing\n", what);
    else say("%s: %lld bytes\n", what, (long long)s.st_size);
}

/* More than the C library reads at once. */
#define NAMES 300

static void touch(const char *folder, const char *sort, int n) {
    char path[300];
    snprintf(path, sizeof path, "%s/%s-%03d", folder, sort, n);
    if (close(open(path, O_CREAT | O_EXCL | O_WRONLY, 0600))) MPI_Abort(MPI_COMM_WORLD, 4);
}

/* Which of the names that stay this is, or -1. */
static int which(const struct dirent *e) { return e && !strncmp(e->d_name, "stays-", 6) ? atoi(e->d_name + 6) : -1; }

/* Files that stay, and as many that go when half of the names have been read; others come then. */
static void a_folder_that_changes(const char *folder) {
    static long places[NAMES];
    static int seen[NAMES];
    int known = 0, once = 0, back = 0, again = 0, others = 0;
    if (mkdir(folder, 0700)) MPI_Abort(MPI_COMM_WORLD, 5);
    for (int n = 0; n < NAMES; n++) touch(folder, "stays", n), touch(folder, "goes", n);
    DIR *stream = opendir(folder);
    long before = telldir(stream);
    for (struct dirent *e; (e = readdir(stream)); before = telldir(stream)) {
        const int n = which(e);
        if (n >= 0) seen[n]++, places[n] = before;
        if (++known == NAMES) {
            for (int gone = 0; gone < NAMES; gone++) {
                char path[300];
                snprintf(path, sizeof path, "%s/goes-%03d", folder, gone);
                if (unlink(path)) MPI_Abort(MPI_COMM_WORLD, 6);
                if (gone % 3 == 0) touch(folder, "comes", gone);
                if (gone % 50 == 0) work();
            }
        }
    }
    for (int n = 0; n < NAMES; n++) once += seen[n] == 1;
    /* To and fro. What comes and goes may be behind a place, too. */
    for (int i = 0, n = 0; i < NAMES; i++, n = (n + 77) % NAMES) {
        seekdir(stream, places[n]);
        struct dirent *e = readdir(stream);
        while (e && which(e) < 0) e = readdir(stream);
        back += which(e) == n && telldir(stream) != places[n];
        if (i % 50 == 0) work();
    }
    rewinddir(stream);
    for (struct dirent *e; (e = readdir(stream));) {
        again += which(e) >= 0;
        others += !strncmp(e->d_name, "comes-", 6) - !strncmp(e->d_name, "goes-", 5);
    }
    seekdir(stream, places[NAMES / 2]);
    work();
    say("of %d names %d were read once, and %d found again; from the beginning: %d, and %d others\n", NAMES, once, back, again, others);
    closedir(stream);
}

int main(int argc, char **argv) {
    char log[256], gone[256], name[64], text[64];
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &me);
    snprintf(name, sizeof name, "twice%d.txt", me);
    snprintf(log, sizeof log, "%s/%s", argv[1], name);
    snprintf(gone, sizeof gone, "%s/gone%d-XXXXXX", argv[1], me);

    FILE *first = fopen(log, "w");
    for (int line = 0; line < 40; line++) {
        fprintf(first, "first %02d\n", line);
        fflush(first);
        FILE *second = fopen(log, "a");
        fprintf(second, "second %02d\n", line);
        work();
        if (fclose(second)) MPI_Abort(MPI_COMM_WORLD, 2);
        fseek(first, 0, SEEK_END);
    }
    show("written", log);
    int seen = 0;
    DIR *folder = opendir(argv[1]);
    for (struct dirent *e; (e = readdir(folder));) seen += !strcmp(e->d_name, name);
    closedir(folder);
    say("listed %d time(s)\n", seen);

    int reader = open(log, O_RDONLY), writer = open(log, O_WRONLY);
    pwrite(writer, "SECOND", 6, 9);
    work();
    ssize_t n = pread(reader, text, 19, 0);
    say("%.*s", (int)n, text);
    say("a reader writes: %zd\n", write(reader, "x", 1));
    close(reader);
    close(writer);

    int scratch = mkstemp(gone);
    write(scratch, "nobody finds this", 17);
    unlink(gone);
    show("gone", gone);
    work();
    n = pread(scratch, text, sizeof text, 7);
    say("%.*s\n", (int)n, text);
    int other = open(gone, O_CREAT | O_EXCL | O_RDWR, 0600);
    write(other, "another", 7);
    close(scratch);
    close(other);
    show("another", gone);
    unlink(gone);
    show("gone again", gone);

    snprintf(gone, sizeof gone, "%s/folder%d", argv[1], me);
    a_folder_that_changes(gone);

    fclose(first);
    FILE *all = fopen(log, "r");
    uint32_t sum = 0;
    for (int c; (c = getc(all)) != EOF;) sum = sum * 31 + (uint32_t)c;
    fclose(all);
    uint32_t sums = sum + x, total;
    MPI_Reduce(&sums, &total, 1, MPI_UINT32_T, MPI_SUM, 0, MPI_COMM_WORLD);
    say("%08x\n", (unsigned)total);
    MPI_Finalize();
    return 0;
}
