/* Carries out the steps of bindings/scenarios.txt through the C library: `scenarios DOOR TABLE FOLDER`. The door `c` is a node of its own, `c-attached` attaches to an agent of the same process. Prints the names of the
 * scenarios that it has done, one a line, or says which step gave something else and ends with 1. */
#include <cloudskin_geds.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define WORDS 32
#define TEXT 4096
#define WAIT_MS 60000

static geds_store *store;
static const char *bucket;
static char other[128], answer[TEXT];
static struct {
    char name[16];
    geds_object *object;
} held[8];
static int held_count;
static struct {
    char name[16];
    geds_follower *follower;
} followed[8];
static int followed_count;

static void fail(int line, const char *why) {
    fprintf(stderr, "scenarios.txt:%d: %s; last: %d %s\n", line, why, geds_code(), geds_message());
    exit(1);
}

/* The bucket of a key, which may be in the second one; moves the key on. */
static const char *place(const char **key) {
    if (**key != '@') return bucket;
    ++*key;
    return other;
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

static void encode(const void *data, size_t len) {
    char *to = answer;
    for (size_t n = 0; n < len && to < answer + TEXT - 4; n++) {
        unsigned byte = ((const unsigned char *)data)[n];
        to += sprintf(to, byte > 0x20 && byte < 0x7f && byte != '%' ? "%c" : "%%%02X", byte);
    }
    *to = 0;
}

static void append(const char *word) {
    if (*answer) strcat(answer, " ");
    strcat(answer, word);
}

static int name(void *context, const char *key, const geds_info *info) {
    (void)context, (void)info;
    append(key);
    return 0;
}

static int happened(void *context, const geds_event *event) {
    static const char *const words[] = {"", "sealed", "removed", "changed", "prefix-sealed", "prefix-removed"};
    char text[256];
    (void)context;
    snprintf(text, sizeof text, "%s:%s", words[event->what], event->name);
    append(text);
    return 0;
}

static const char *kind(int code) {
    switch (code) {
        case GEDS_INVALID_ARGUMENT: return "invalid_argument";
        case GEDS_DEADLINE_EXCEEDED: return "deadline_exceeded";
        case GEDS_NOT_FOUND: return "not_found";
        case GEDS_ALREADY_EXISTS: return "already_exists";
        case GEDS_RESOURCE_EXHAUSTED: return "resource_exhausted";
        case GEDS_FAILED_PRECONDITION: return "failed_precondition";
        default: return "another";
    }
}

static int counted(int code, const uint64_t *objects, const uint64_t *bytes) {
    sprintf(answer, "%llu %llu", (unsigned long long)*objects, (unsigned long long)*bytes);
    return code;
}

static unsigned char *large(size_t len) {
    unsigned char *bytes = malloc(len);
    for (size_t n = 0; bytes && n < len; n++) bytes[n] = (unsigned char)(n * 31 / 8);
    return bytes;
}

/* Begins an object, writes pieces and seals, or not. */
static int put(int line, char **w, int words) {
    char data[TEXT];
    const char *key = w[1], *in = place(&key), *verb = w[0] + 3;
    geds_writer *writer = geds_create(store, in, key, !strcmp(verb, "-new"));
    if (!writer) return geds_code();
    int at = !strcmp(verb, "-at"), code = 0;
    for (int n = 2; n < (at ? words : 3) && !code; n += 2) {
        size_t len = decode(w[at ? n + 1 : n], data);
        code = geds_write(writer, at ? strtoull(w[n], NULL, 10) : 0, data, len);
    }
    if (!code && !strcmp(verb, "-with")) code = geds_set_metadata(writer, w[3], strlen(w[3]));
    if (!code && !strcmp(verb, "-for")) code = geds_lease_to(writer, w[3]);
    if (!code && !strcmp(verb, "-ms")) code = geds_expire_after(writer, strtoull(w[3], NULL, 10));
    if (code) fail(line, "a piece can't be written");
    if (!strcmp(w[0], "abandon")) {
        geds_abort(writer);
        return 0;
    }
    return !strcmp(verb, "-here") ? geds_seal_here(writer) : geds_seal(writer);
}

static int grown(char **w) {
    char data[TEXT];
    uint64_t len = 0;
    const char *verb = w[0];
    geds_appendable *growing = geds_appendable_open(store, bucket, w[1], !strcmp(verb, "append"));
    if (!growing) return geds_code();
    int code;
    if (!strcmp(verb, "append")) {
        code = geds_append(growing, strtoull(w[2], NULL, 10), data, decode(w[3], data));
        if (!code) code = geds_appendable_len(growing, &len);
        if (!code) sprintf(answer, "%llu", (unsigned long long)len);
    } else if (!strcmp(verb, "grown")) {
        code = geds_appendable_read(growing, strtoull(w[2], NULL, 10), data, strtoull(w[3], NULL, 10), &len);
        if (!code) encode(data, len);
    } else if (!strcmp(verb, "sync")) {
        code = geds_appendable_sync(growing);
    } else if (!strcmp(verb, "seal")) {
        code = geds_appendable_seal(growing);
    } else {
        code = geds_appendable_discard(growing);
    }
    geds_appendable_close(growing);
    return code;
}

/* One step: its code; what it says is in `answer`. */
static int does(int line, char **w, int words) {
    const char *verb = w[0], *key = words > 1 ? w[1] : "", *in = place(&key);
    uint64_t objects = 0, bytes = 0;
    *answer = 0;
#define IS(word) !strcmp(verb, word)
    if (IS("put-large")) {
        size_t len = strtoull(w[2], NULL, 10);
        unsigned char *content = large(len);
        int code = geds_put(store, in, key, content, len, 0);
        free(content);
        return code;
    }
    if (!strncmp(verb, "put", 3) || IS("abandon")) return put(line, w, words);
    if (IS("get") || IS("get-large") || IS("hold")) {
        const char *of = IS("hold") ? w[2] : key;
        geds_object *object = geds_get(store, IS("hold") ? bucket : in, of);
        if (!object) return geds_code();
        if (IS("hold")) {
            strcpy(held[held_count].name, w[1]);
            held[held_count++].object = object;
            return 0;
        }
        if (IS("get")) {
            encode(geds_data(object), geds_len(object));
        } else {
            size_t len = geds_len(object);
            unsigned char *content = large(len);
            if (memcmp(content, geds_data(object), len)) fail(line, "other bytes");
            free(content);
            sprintf(answer, "%llu", (unsigned long long)len);
        }
        geds_release(object);
        return 0;
    }
    if (IS("held")) {
        for (int n = 0; n < held_count; n++)
            if (!strcmp(held[n].name, w[1])) encode(geds_data(held[n].object), geds_len(held[n].object));
        return 0;
    }
    if (IS("size")) {
        geds_info info = {0};
        int code = geds_stat(store, in, key, &info);
        sprintf(answer, "%llu", (unsigned long long)info.size);
        return code;
    }
    if (IS("metadata")) {
        char data[TEXT];
        int code = geds_metadata(store, in, key, data, sizeof data, &bytes);
        if (!code) encode(data, bytes);
        return code;
    }
    if (IS("read")) {
        char data[TEXT];
        int code = geds_read(store, in, key, strtoull(w[2], NULL, 10), data, strtoull(w[3], NULL, 10), &bytes);
        if (!code) encode(data, bytes);
        return code;
    }
    if (IS("list") || IS("folders")) return geds_list(store, in, key, IS("folders"), name, NULL);
    if (IS("growing")) return geds_list_appendables(store, in, key, name, NULL);
    if (IS("delete")) return geds_delete(store, in, key);
    if (IS("rename") || IS("rename-new") || IS("copy") || IS("copy-new")) {
        const char *to = w[2], *into = place(&to);
        int absent = strstr(verb, "-new") != NULL;
        return verb[0] == 'r' ? geds_rename(store, in, key, into, to, absent) : geds_copy(store, in, key, into, to, absent);
    }
    if (IS("delete-all")) return counted(geds_delete_prefix(store, in, key, &objects, &bytes), &objects, &bytes);
    if (IS("rename-all") || IS("rename-all-new") || IS("copy-all")) {
        const char *to = w[2], *into = place(&to);
        int code = verb[0] == 'r' ? geds_rename_prefix(store, in, key, into, to, IS("rename-all-new"), &objects, &bytes) : geds_copy_prefix(store, in, key, into, to, &objects, &bytes);
        return counted(code, &objects, &bytes);
    }
    if (IS("job")) return geds_keep_job(store, w[1], 0);
    if (IS("end-job")) return counted(geds_drop_job(store, w[1], &objects, &bytes), &objects, &bytes);
    if (IS("gone")) {
        geds_info info;
        struct timespec moment = {0, 20000000};
        for (int n = 0; n < WAIT_MS / 20; n++) {
            int code = geds_stat(store, in, key, &info);
            if (code == GEDS_NOT_FOUND) return 0;
            nanosleep(&moment, NULL);
        }
        fail(line, "it never went");
    }
    if (IS("settle")) return geds_settle(store);
    if (IS("flush")) return geds_flush(store, in, key, WAIT_MS, NULL, NULL);
    if (IS("durable")) return geds_wait_durable(store, in, key, WAIT_MS);
    if (IS("spill")) return counted(geds_spill(store, in, key, &objects, &bytes), &objects, &bytes);
    if (IS("watch")) {
        int resync = 0;
        uint64_t token = !strcmp(w[1], "far") ? 1 << 30 : strtoull(w[1], NULL, 10);
        int code = geds_watch(store, bucket, &token, 0, &resync, happened, NULL);
        if (resync) append("resync");
        return code;
    }
    if (IS("follow")) {
        geds_follower *follower = geds_follow(store, bucket, w[2]);
        if (!follower) return geds_code();
        strcpy(followed[followed_count].name, w[1]);
        followed[followed_count++].follower = follower;
        return 0;
    }
    if (IS("followed")) {
        char data[TEXT];
        int sealed = 0, code = GEDS_INTERNAL;
        for (int n = 0; n < followed_count; n++)
            if (!strcmp(followed[n].name, w[1])) code = geds_follow_read(followed[n].follower, strtoull(w[2], NULL, 10), data, strtoull(w[3], NULL, 10), WAIT_MS, &bytes, &sealed);
        if (!code && !bytes && !sealed) fail(line, "nothing came");
        if (!code) encode(data, bytes);
        return code;
    }
    if (IS("append") || IS("grown") || IS("sync") || IS("seal") || IS("discard")) return grown(w);
    fail(line, "an unknown step");
    return 0;
}

static int skips(const char *line, const char *door) {
    char doors[512];
    snprintf(doors, sizeof doors, "%.*s", (int)(strchr(line, ':') - line), line);
    for (char *word = strtok(doors, " "); word; word = strtok(NULL, " "))
        if (!strcmp(word, door)) return 1;
    return 0;
}

static void end_scenario(int ran) {
    for (int n = 0; n < held_count; n++) geds_release(held[n].object);
    for (int n = 0; n < followed_count; n++) geds_follow_close(followed[n].follower);
    held_count = followed_count = 0;
    if (ran) puts(bucket);
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    const char *door = argv[1];
    char text[TEXT], tier[TEXT], current[64] = "";
    snprintf(tier, sizeof tier, "file:%s-tier", argv[3]);
    geds_store *agent = geds_agent(argv[3], "agent", 64 << 20, 0, tier);
    store = strcmp(door, "c") ? geds_attach(argv[3]) : agent;
    FILE *table = fopen(argv[2], "r");
    if (!store || !table) fail(0, "no store, or no table");
    int skipped = 1;
    for (int line = 1; fgets(text, sizeof text, table); line++) {
        char kept[TEXT], *w[WORDS] = {0}, *expected = NULL;
        int words = 0;
        strcpy(kept, text);
        for (char *word = strtok(text, " \n"); word && words < WORDS - 1; word = strtok(NULL, " \n")) w[words++] = strcmp(word, "''") ? word : "";
        if (!words || *w[0] == '#') continue;
        if (!strcmp(w[0], "scenario")) {
            end_scenario(!skipped);
            strcpy(current, w[1]);
            bucket = current;
            snprintf(other, sizeof other, "%s-2", bucket);
            if (geds_create_bucket(store, bucket) || geds_create_bucket(store, other)) fail(line, "no bucket");
            skipped = 0;
            continue;
        }
        if (!strcmp(w[0], "without")) {
            skipped |= skips(kept, door);
            continue;
        }
        if (skipped) continue;
        int sort = 0, first = words;
        for (int n = 0; n < words && !sort; n++)
            if (!strcmp(w[n], "=") || !strcmp(w[n], "!")) sort = *w[n], first = n;
        char wanted[TEXT] = "";
        for (int n = first + 1; n < words; n++) strcat(strcat(wanted, n > first + 1 ? " " : ""), w[n]);
        expected = wanted;
        w[first] = NULL;
        int code = does(line, w, first);
        if (sort == '!' ? !code || strcmp(kind(code), expected) : code != 0) fail(line, code ? kind(code) : "it succeeds");
        if (sort == '=' && strcmp(answer, expected)) {
            fprintf(stderr, "scenarios.txt:%d: \"%s\" and not \"%s\"\n", line, answer, expected);
            return 1;
        }
    }
    end_scenario(!skipped);
    fclose(table);
    if (geds_close(store) || (store != agent && geds_close(agent))) fail(0, "it can't be closed");
    return 0;
}
