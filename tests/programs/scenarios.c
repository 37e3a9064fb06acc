/* A cell as a door of the object store: the steps of bindings/scenarios.txt with files, in a folder of the bucket that holds the table: `scenarios FOLDER`. Prints the names of the scenarios that it has done, one a line, or says
 * which step gave something else and ends with 1. Runs on any machine with POSIX, too. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define WORDS 32
#define TEXT 4096

static const char *root;
static char scenario[64], answer[TEXT];
static struct {
    char name[16];
    int fd;
} held[8];
static int held_count;

static void fail(int line, const char *why) {
    fprintf(stderr, "scenarios.txt:%d: %s; last: %s\n", line, why, strerror(errno));
    exit(1);
}

static const char *path(const char *key) {
    static char paths[2][TEXT];
    static int n;
    snprintf(paths[n = !n], TEXT, "%s/%s%s%s", root, scenario, *key ? "/" : "", key);
    return paths[n];
}

static size_t decode(const char *word, char *out) {
    size_t n = 0;
    for (; *word; word++) {
        unsigned byte = (unsigned char)*word;
        if (byte == '%') {
            sscanf(word + 1, "%2x", &byte);
            word += 2;
        }
        out[n++] = (char)byte;
    }
    return n;
}

static void encode(const char *data, size_t len) {
    char *to = answer;
    for (size_t n = 0; n < len && to < answer + TEXT - 4; n++) {
        unsigned byte = (unsigned char)data[n];
        to += sprintf(to, byte > 0x20 && byte < 0x7f && byte != '%' ? "%c" : "%%%02X", byte);
    }
    *to = 0;
}

static unsigned char nth(size_t n) { return (unsigned char)((unsigned long long)n * 31 / 8); }

static int put(char **w, int words) {
    char data[TEXT];
    const char *verb = w[0];
    int fd = open(path(w[1]), O_WRONLY | O_CREAT | (strcmp(verb, "put-new") ? O_TRUNC : O_EXCL), 0644);
    if (fd < 0) return errno;
    if (!strcmp(verb, "put-large")) {
        size_t len = strtoull(w[2], NULL, 10);
        for (size_t at = 0; at < len;) {
            size_t n = 0;
            for (; n < sizeof data && at + n < len; n++) data[n] = (char)nth(at + n);
            if (write(fd, data, n) != (ssize_t)n) return errno;
            at += n;
        }
    } else if (!strcmp(verb, "put-at")) {
        for (int n = 2; n < words; n += 2) {
            size_t len = decode(w[n + 1], data);
            if (pwrite(fd, data, len, strtoull(w[n], NULL, 10)) != (ssize_t)len) return errno;
        }
    } else {
        size_t len = decode(w[2], data);
        if (write(fd, data, len) != (ssize_t)len) return errno;
    }
    return close(fd) ? errno : 0;
}

static int get(int fd, off_t offset, size_t room) {
    char data[TEXT];
    if (fd < 0) return errno;
    ssize_t n = pread(fd, data, room < sizeof data ? room : sizeof data, offset);
    if (n < 0) return errno;
    encode(data, (size_t)n);
    return 0;
}

static char names[64][256];
static int found;

/* All below a folder, or what is in it. */
static int walk(const char *folder, int deep) {
    char below[64][256];
    int n = 0;
    DIR *dir = opendir(path(folder));
    if (!dir) return errno;
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        snprintf(below[n++], sizeof *below, "%s%s%s", folder, *folder ? "/" : "", entry->d_name);
    }
    closedir(dir);
    for (int i = 0; i < n; i++) {
        struct stat status;
        if (stat(path(below[i]), &status)) return errno;
        int is_folder = S_ISDIR(status.st_mode);
        if (is_folder && deep) {
            int code = walk(below[i], 1);
            if (code) return code;
        } else {
            snprintf(names[found++], sizeof *names, "%s%s", below[i], is_folder ? "/" : "");
        }
    }
    return 0;
}

static int by_name(const void *a, const void *b) { return strcmp(a, b); }

/* One step: its error, or 0; what it says is in `answer`. */
static int does(int line, char **w, int words) {
    const char *verb = w[0];
    *answer = 0;
#define IS(word) !strcmp(verb, word)
    if (!strncmp(verb, "put", 3)) return put(w, words);
    if (IS("get") || IS("read")) {
        int fd = open(path(w[1]), O_RDONLY);
        int code = IS("get") ? get(fd, 0, TEXT) : get(fd, strtoull(w[2], NULL, 10), strtoull(w[3], NULL, 10));
        if (fd >= 0) close(fd);
        return code;
    }
    if (IS("get-large")) {
        FILE *file = fopen(path(w[1]), "rb");
        if (!file) return errno;
        size_t n = 0;
        for (int c; (c = getc(file)) != EOF; n++)
            if (c != nth(n)) fail(line, "other bytes");
        fclose(file);
        sprintf(answer, "%zu", n);
        return 0;
    }
    if (IS("hold")) {
        int fd = open(path(w[2]), O_RDONLY);
        if (fd < 0) return errno;
        strcpy(held[held_count].name, w[1]);
        held[held_count++].fd = fd;
        return 0;
    }
    if (IS("held")) {
        for (int n = 0; n < held_count; n++)
            if (!strcmp(held[n].name, w[1])) return get(held[n].fd, 0, TEXT);
        fail(line, "nothing is held under this name");
    }
    if (IS("size")) {
        struct stat status;
        if (stat(path(w[1]), &status)) return errno;
        sprintf(answer, "%lld", (long long)status.st_size);
        return 0;
    }
    if (IS("list") || IS("folders")) {
        found = 0;
        int code = walk(w[1], IS("list"));
        qsort(names, (size_t)found, sizeof *names, by_name);
        for (int n = 0; n < found; n++) strcat(strcat(answer, n ? " " : ""), names[n]);
        return code;
    }
    if (IS("delete")) return unlink(path(w[1])) ? errno : 0;
    if (IS("rename")) return rename(path(w[1]), path(w[2])) ? errno : 0;
    fail(line, "an unknown step");
    return 0;
}

static const char *kind(int error) {
    switch (error) {
        case ENOENT: return "not_found";
        case EEXIST: return "already_exists";
        case EINVAL: return "invalid_argument";
        default: return strerror(error);
    }
}

static void end_scenario(int ran) {
    for (int n = 0; n < held_count; n++) close(held[n].fd);
    held_count = 0;
    if (ran) puts(scenario);
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    char text[TEXT];
    root = argv[1];
    snprintf(text, sizeof text, "%s/scenarios.txt", root);
    FILE *table = fopen(text, "r");
    if (!table) fail(0, "no table");
    int skipped = 1;
    for (int line = 1; fgets(text, sizeof text, table); line++) {
        char *w[WORDS] = {0}, wanted[TEXT] = "";
        int words = 0, sort = 0;
        for (char *word = strtok(text, " \n"); word && words < WORDS - 1; word = strtok(NULL, " \n")) w[words++] = strcmp(word, "''") ? word : "";
        if (!words || *w[0] == '#') continue;
        if (!strcmp(w[0], "scenario")) {
            end_scenario(!skipped);
            strcpy(scenario, w[1]);
            skipped = 0;
            continue;
        }
        if (!strcmp(w[0], "without")) {
            for (int n = 1; n < words && strcmp(w[n], ":"); n++) skipped |= !strcmp(w[n], "cells");
            continue;
        }
        if (skipped) continue;
        int first = words;
        for (int n = 0; n < words && !sort; n++)
            if (!strcmp(w[n], "=") || !strcmp(w[n], "!")) sort = *w[n], first = n;
        for (int n = first + 1; n < words; n++) strcat(strcat(wanted, n > first + 1 ? " " : ""), w[n]);
        w[first] = NULL;
        errno = 0;
        int error = does(line, w, first);
        if (sort == '!' ? !error || strcmp(kind(error), wanted) : error != 0) fail(line, error ? kind(error) : "it succeeds");
        if (sort == '=' && strcmp(answer, wanted)) {
            fprintf(stderr, "scenarios.txt:%d: \"%s\" and not \"%s\"\n", line, answer, wanted);
            return 1;
        }
    }
    end_scenario(!skipped);
    fclose(table);
    return 0;
}
