/* The object store of CloudSkin for C.
 *
 * A store is a folder that the programs of one user on one machine share. An object has a bucket and a key, is written by one, sealed, and
 * never changes again; who opens it gets its bytes mapped, without a copy, and keeps them until he lets go.
 *
 * Calls may be made from any thread, on the same store or object too; a writer belongs to one thread at a time. A call that fails returns NULL or a code of
 * `enum geds_code`, and geds_message() tells the calling thread why, with bucket and key. Names are UTF-8 and end with NUL. NULL for a name is GEDS_INVALID_ARGUMENT.
 */
#ifndef CLOUDSKIN_GEDS_H
#define CLOUDSKIN_GEDS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The numbers of google.rpc.Code. */
enum geds_code {
    GEDS_OK = 0,
    GEDS_INVALID_ARGUMENT = 3,
    GEDS_DEADLINE_EXCEEDED = 4,
    GEDS_NOT_FOUND = 5,
    GEDS_ALREADY_EXISTS = 6,
    GEDS_PERMISSION_DENIED = 7,
    GEDS_RESOURCE_EXHAUSTED = 8,
    GEDS_FAILED_PRECONDITION = 9,
    GEDS_UNIMPLEMENTED = 12,
    GEDS_INTERNAL = 13,
    GEDS_UNAVAILABLE = 14,
    GEDS_DATA_LOSS = 15,
    GEDS_UNAUTHENTICATED = 16
};

typedef struct geds_store geds_store;
typedef struct geds_writer geds_writer;
typedef struct geds_object geds_object;

typedef struct geds_info {
    uint64_t size;       /* bytes */
    uint64_t epoch;      /* rises with each writing */
    uint64_t checksum;   /* xxh3 of the content */
    uint64_t created_ms; /* Unix milliseconds */
    uint64_t expires_ms; /* 0: never */
} geds_info;

/* Why the last call of this thread failed; and its code. Valid until the thread's next call. */
const char *geds_message(void);
int geds_code(void);

/* Opens the store in `folder`, made if it isn't there, for the process that calls itself `site` (a word of small letters, digits and `-`; one process at a
 * time has a name). `limit`: bytes of disk for its objects; `memory`: bytes of memory for objects that want to be there, or 0. */
geds_store *geds_open(const char *folder, const char *site, uint64_t limit, uint64_t memory);
/* The same, and makes this process the agent of the folder: others attach to it, read what it holds without a copy and write through it, and what they have sealed is kept
 * and uploaded when they are gone. `persist`: where to, "file:<folder>", or "s3://<bucket>", "gs://<bucket>", "az://<container>" with the CLOUDSKIN_GEDS__S3_..., GS_... or AZ_... variables of the environment; NULL: what
 * CLOUDSKIN_GEDS__PERSIST says, if anything. One agent at a time has a folder; it lives until geds_close. */
geds_store *geds_agent(const char *folder, const char *site, uint64_t limit, uint64_t memory, const char *persist);
/* Attaches to the agent of a folder, or of a site (`cloudskin agent --data FOLDER`). The store is the agent's: nothing of it ends with this process but what is not sealed. A process that was forked attaches anew; what was open
 * before stays readable in it. */
geds_store *geds_attach(const char *folder);
/* Waits until what was sealed is published (for an agent: and uploaded), and frees. Objects that are open stay readable. */
int geds_close(geds_store *store);

/* Waits until everything that was sealed here before is durable and seen by all, or has failed to be. */
int geds_settle(geds_store *store);

/* Makes sure that the bucket exists. */
int geds_create_bucket(geds_store *store, const char *bucket);

/* Begins an object. With `if_absent` the seal fails with GEDS_ALREADY_EXISTS if the key is taken by then; else it replaces. */
geds_writer *geds_create(geds_store *store, const char *bucket, const char *key, int if_absent);
int geds_write(geds_writer *writer, uint64_t offset, const void *data, uint64_t len);
/* At most 16 KiB of your own that go with the name. */
int geds_set_metadata(geds_writer *writer, const void *data, uint64_t len);
/* The object goes by itself so many milliseconds from now. */
int geds_expire_after(geds_writer *writer, uint64_t ms);
/* Seals and frees the writer, whether it succeeds or not. When it returns, the object is durable and visible to all. */
int geds_seal(geds_writer *writer);
/* The same, but returns as soon as this process sees the object; all see it soon after. Not for `if_absent`. */
int geds_seal_here(geds_writer *writer);
/* Frees the writer; nothing of it remains. */
void geds_abort(geds_writer *writer);
/* Begins, writes and seals. */
int geds_put(geds_store *store, const char *bucket, const char *key, const void *data, uint64_t len, int if_absent);

/* Opens what has the key now. */
geds_object *geds_get(geds_store *store, const char *bucket, const char *key);
/* The bytes, mapped. They stay as they are until geds_release, whatever happens to the key. NULL if there are none. */
const void *geds_data(const geds_object *object);
uint64_t geds_len(const geds_object *object);
void geds_release(geds_object *object);

int geds_stat(geds_store *store, const char *bucket, const char *key, geds_info *info);
/* Copies at most `room` bytes of the metadata to `data`; `len` becomes how many there are. */
int geds_metadata(geds_store *store, const char *bucket, const char *key, void *data, uint64_t room, uint64_t *len);
int geds_delete(geds_store *store, const char *bucket, const char *key);
int geds_rename(geds_store *store, const char *bucket, const char *from, const char *to);
/* `prefix` is the key itself and all below `prefix/`; one step. The numbers may be NULL. */
int geds_delete_prefix(geds_store *store, const char *bucket, const char *prefix, uint64_t *objects, uint64_t *bytes);
int geds_rename_prefix(geds_store *store, const char *bucket, const char *from, const char *to, uint64_t *objects, uint64_t *bytes);

/* Calls `each` for the objects with a prefix, in the order of their keys; with `folders`, what lies deeper is told as its folder, with `/` at the end and
 * `info` NULL. Ends early when `each` returns another number than 0, which is then returned. Strings are valid during the call only. */
int geds_list(geds_store *store, const char *bucket, const char *prefix, int folders,
              int (*each)(void *context, const char *name, const geds_info *info), void *context);

#ifdef __cplusplus
}
#endif
#endif
