/* The store through its C library: what a program in C does with it, as a node of its own or, with a second argument, attached to an agent. Prints nothing and ends with 0, or
 * says what was wrong. */
#include <cloudskin_geds.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(holds)                                                                                   \
    do {                                                                                               \
        if (!(holds)) {                                                                                \
            fprintf(stderr, "line %d: not %s; last: %d %s\n", __LINE__, #holds, geds_code(), geds_message()); \
            exit(1);                                                                                   \
        }                                                                                              \
    } while (0)

static int count(void *context, const char *name, const geds_info *info) {
    strcat(context, name);
    strcat(context, info ? ";" : "?");
    return 0;
}

int main(int argc, char **argv) {
    CHECK(argc == 2 || argc == 3);
    geds_store *agent = NULL, *store = NULL;
    if (argc == 2) {
        store = geds_open(argv[1], "in-c", 64 << 20, 0);
    } else {
        CHECK(geds_attach(argv[1]) == NULL && geds_code() == GEDS_UNAVAILABLE);
        agent = geds_agent(argv[1], "agent", 64 << 20, 0, NULL);
        CHECK(agent != NULL);
        CHECK(geds_agent(argv[1], "second", 64 << 20, 0, NULL) == NULL && geds_code() == GEDS_PERMISSION_DENIED);
        store = geds_attach(argv[1]);
    }
    CHECK(store != NULL);
    CHECK(geds_create_bucket(store, "data") == GEDS_OK);
    CHECK(geds_put(store, "data", "run/a", "first", 5, 0) == GEDS_OK);

    geds_writer *writer = geds_create(store, "data", "run/b", 1);
    CHECK(writer != NULL);
    CHECK(geds_write(writer, 0, "sec", 3) == GEDS_OK && geds_write(writer, 3, "ond", 3) == GEDS_OK);
    CHECK(geds_set_metadata(writer, "colour=red", 10) == GEDS_OK);
    CHECK(geds_seal(writer) == GEDS_OK);
    CHECK(geds_put(store, "data", "run/b", "x", 1, 1) == GEDS_ALREADY_EXISTS);
    CHECK(strstr(geds_message(), "data/run/b") != NULL && geds_code() == GEDS_ALREADY_EXISTS);

    /* What is open stays, whatever happens to its key. */
    geds_object *object = geds_get(store, "data", "run/b");
    CHECK(object != NULL && geds_len(object) == 6);
    CHECK(geds_put(store, "data", "run/b", "third", 5, 0) == GEDS_OK);
    CHECK(memcmp(geds_data(object), "second", 6) == 0);
    geds_object *newer = geds_get(store, "data", "run/b");
    CHECK(newer != NULL && geds_len(newer) == 5 && memcmp(geds_data(newer), "third", 5) == 0);
    geds_release(newer);

    geds_info info;
    CHECK(geds_stat(store, "data", "run/b", &info) == GEDS_OK && info.size == 5 && info.epoch > 0 && info.expires_ms == 0);
    char metadata[16];
    uint64_t len = 99;
    CHECK(geds_metadata(store, "data", "run/b", metadata, sizeof metadata, &len) == GEDS_OK && len == 0);

    writer = geds_create(store, "data", "runner", 0);
    CHECK(geds_write(writer, 4, "late", 4) == GEDS_OK && geds_seal_here(writer) == GEDS_OK);
    geds_object *here = geds_get(store, "data", "runner");
    CHECK(here != NULL && memcmp(geds_data(here), "\0\0\0\0late", 8) == 0);
    geds_release(here);
    CHECK(geds_settle(store) == GEDS_OK && geds_stat(store, "data", "runner", &info) == GEDS_OK && info.epoch > 0);
    geds_abort(geds_create(store, "data", "never", 0));

    char names[256] = "";
    CHECK(geds_list(store, "data", "", 1, count, names) == GEDS_OK);
    CHECK(strcmp(names, "run/?runner;") == 0);
    uint64_t objects = 0, bytes = 0;
    CHECK(geds_rename_prefix(store, "data", "run", "old", &objects, &bytes) == GEDS_OK && objects == 2 && bytes == 10);
    CHECK(geds_get(store, "data", "run/a") == NULL && geds_code() == GEDS_NOT_FOUND);
    CHECK(geds_rename(store, "data", "old/a", "a") == GEDS_OK);
    CHECK(geds_delete_prefix(store, "data", "old", &objects, NULL) == GEDS_OK && objects == 1);
    CHECK(geds_delete(store, "data", "a") == GEDS_OK && geds_delete(store, "data", "a") == GEDS_NOT_FOUND);

    /* Nonsense has an answer too. */
    CHECK(geds_put(store, "data", NULL, "x", 1, 0) == GEDS_INVALID_ARGUMENT);
    CHECK(geds_put(store, "data", "a//b", "x", 1, 0) == GEDS_INVALID_ARGUMENT);
    CHECK(geds_put(store, "data", "../a", "x", 1, 0) == GEDS_INVALID_ARGUMENT);
    CHECK(geds_write(NULL, 0, "x", 1) == GEDS_INVALID_ARGUMENT);
    CHECK(geds_put(store, "data", "huge", "x", (uint64_t)1 << 63, 0) == GEDS_INVALID_ARGUMENT);
    CHECK(geds_get(NULL, "data", "a") == NULL && geds_code() == GEDS_INVALID_ARGUMENT);
    CHECK(geds_open(argv[1], "No Site", 1 << 20, 0) == NULL && strstr(geds_message(), "No Site") != NULL);
    CHECK(geds_open(argv[1], argc == 2 ? "in-c" : "agent", 1 << 20, 0) == NULL && strstr(geds_message(), "another node uses it") != NULL);

    CHECK(geds_close(store) == GEDS_OK);
    CHECK(agent == NULL || geds_close(agent) == GEDS_OK);
    CHECK(memcmp(geds_data(object), "second", 6) == 0);
    geds_release(object);
    return 0;
}
