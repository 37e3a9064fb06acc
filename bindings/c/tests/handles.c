/* What only C can do wrong: handles that are NULL, text that is none, a second agent. As a node of its own or, with a second argument, attached to an agent. Prints nothing and ends with 0, or says what was wrong. */
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

static int stop(void *context, const char *name, const geds_info *info) {
    (void)info;
    strcat(context, name);
    return 7;
}

static int refuse(void *context, const geds_event *event) {
    (void)event;
    return ++*(int *)context;
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
    CHECK(geds_create_bucket(store, "data") == GEDS_OK && geds_create_bucket(store, "data") == GEDS_OK);
    CHECK(geds_put(store, "data", "a", "first", 5, 1) == GEDS_OK);
    CHECK(geds_put(store, "data", "a", "x", 1, 1) == GEDS_ALREADY_EXISTS);
    CHECK(strstr(geds_message(), "data/a") != NULL && geds_code() == GEDS_ALREADY_EXISTS);
    geds_object *object = geds_get(store, "data", "a");
    CHECK(object != NULL && geds_len(object) == 5);
    geds_info info;
    CHECK(geds_stat(store, "data", "a", &info) == GEDS_OK && info.size == 5 && info.epoch > 0 && info.expires_ms == 0);
    CHECK(geds_stat(store, "data", "a", NULL) == GEDS_OK);

    /* Metadata are cut to the room that there is. */
    geds_writer *writer = geds_create(store, "data", "words", 0);
    CHECK(writer != NULL && geds_set_metadata(writer, "colour=red", 10) == GEDS_OK && geds_seal(writer) == GEDS_OK);
    char few[3];
    uint64_t len = 99;
    CHECK(geds_metadata(store, "data", "words", few, sizeof few, &len) == GEDS_OK && len == 10 && memcmp(few, "col", 3) == 0);

    /* A function that has enough ends a list, and an event that it would not have comes again. */
    char names[64] = "";
    CHECK(geds_list(store, "data", "", 0, stop, names) == 7 && strcmp(names, "a") == 0);
    uint64_t token = 0;
    int refused = 0, resync = 9;
    CHECK(geds_watch(store, "data", &token, 0, &resync, refuse, &refused) == 1 && token == 0 && resync == 0);
    CHECK(geds_watch(store, "data", &token, 0, NULL, refuse, &refused) == 2 && token == 0);
    token = UINT64_MAX;
    CHECK(geds_watch(store, "data", &token, 0, &resync, refuse, &refused) == GEDS_OK && token == 2 && resync == 1);

    /* Where there is no persistency tier nothing is promised. */
    CHECK(geds_flush(store, "data", "", 1000, NULL, NULL) == GEDS_FAILED_PRECONDITION && strstr(geds_message(), "persist") != NULL);
    CHECK(geds_wait_durable(store, "data", "a", 1000) == GEDS_FAILED_PRECONDITION);

    /* Nonsense has an answer too. */
    CHECK(geds_put(store, "data", NULL, "x", 1, 0) == GEDS_INVALID_ARGUMENT);
    CHECK(geds_put(store, "data", "\xff", "x", 1, 0) == GEDS_INVALID_ARGUMENT);
    CHECK(geds_write(NULL, 0, "x", 1) == GEDS_INVALID_ARGUMENT && geds_lease_to(NULL, "job") == GEDS_INVALID_ARGUMENT);
    CHECK(geds_put(store, "data", "huge", "x", (uint64_t)1 << 63, 0) == GEDS_INVALID_ARGUMENT);
    CHECK(geds_read(store, "data", "a", 0, NULL, 5, &len) == GEDS_INVALID_ARGUMENT);
    CHECK(geds_read(store, "data", "a", 0, names, (uint64_t)1 << 40, &len) == GEDS_INVALID_ARGUMENT);
    CHECK(geds_rename(store, "data", "a", NULL, "b", 0) == GEDS_INVALID_ARGUMENT && geds_copy(store, "data", "a", "data", "../b", 0) == GEDS_INVALID_ARGUMENT);
    CHECK(geds_watch(store, "data", NULL, 0, NULL, refuse, &refused) == GEDS_INVALID_ARGUMENT && geds_watch(store, "data", &token, 0, NULL, NULL, NULL) == GEDS_INVALID_ARGUMENT);
    CHECK(geds_append(NULL, 0, "x", 1) == GEDS_INVALID_ARGUMENT && geds_appendable_seal(NULL) == GEDS_INVALID_ARGUMENT);
    geds_appendable_close(NULL), geds_release(NULL), geds_abort(NULL);
    CHECK(geds_appendable_open(store, "data", "grows", 0) == NULL && geds_code() == GEDS_NOT_FOUND);
    CHECK(geds_keep_job(store, NULL, 0) == GEDS_INVALID_ARGUMENT);
    CHECK(geds_get(NULL, "data", "a") == NULL && geds_code() == GEDS_INVALID_ARGUMENT);
    CHECK(geds_open(argv[1], "No Site", 1 << 20, 0) == NULL && strstr(geds_message(), "No Site") != NULL);
    CHECK(geds_open(argv[1], argc == 2 ? "in-c" : "agent", 1 << 20, 0) == NULL && strstr(geds_message(), "another node uses it") != NULL);

    CHECK(geds_close(store) == GEDS_OK && geds_close(NULL) == GEDS_OK);
    CHECK(agent == NULL || geds_close(agent) == GEDS_OK);
    CHECK(memcmp(geds_data(object), "first", 5) == 0);
    geds_release(object);
    return 0;
}
