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
typedef struct geds_appendable geds_appendable;
typedef struct geds_follower geds_follower;

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
/* The object goes when the lease of this job ends. The seal fails with GEDS_FAILED_PRECONDITION if there is none: geds_keep_job begins it. */
int geds_lease_to(geds_writer *writer, const char *job);
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

/* Copies at most `room` bytes from `offset` on to `data`; `len` becomes how many: fewer only at the object's end. At most 64 MiB at once. For a part of what lies elsewhere: in a bucket that is bound to a place in the
 * persistency tier only these bytes are fetched. What is on this machine is better opened. */
int geds_read(geds_store *store, const char *bucket, const char *key, uint64_t offset, void *data, uint64_t room, uint64_t *len);

int geds_stat(geds_store *store, const char *bucket, const char *key, geds_info *info);
/* Copies at most `room` bytes of the metadata to `data`; `len` becomes how many there are. */
int geds_metadata(geds_store *store, const char *bucket, const char *key, void *data, uint64_t room, uint64_t *len);
int geds_delete(geds_store *store, const char *bucket, const char *key);
/* In one step, without moving data, also into another bucket. What had the key `to` is replaced, or with `if_absent` the call fails with GEDS_ALREADY_EXISTS and nothing is changed. */
int geds_rename(geds_store *store, const char *bucket, const char *from, const char *to_bucket, const char *to, int if_absent);
/* The same, and the old name stays: an object goes with its last name. */
int geds_copy(geds_store *store, const char *bucket, const char *from, const char *to_bucket, const char *to, int if_absent);
/* `prefix` is the key itself and all below `prefix/`; one step. The numbers may be NULL. With `if_absent` a rename fails with GEDS_ALREADY_EXISTS if anything lies at `to` or below it, and nothing is changed. */
int geds_delete_prefix(geds_store *store, const char *bucket, const char *prefix, uint64_t *objects, uint64_t *bytes);
int geds_rename_prefix(geds_store *store, const char *bucket, const char *from, const char *to_bucket, const char *to, int if_absent, uint64_t *objects, uint64_t *bytes);
int geds_copy_prefix(geds_store *store, const char *bucket, const char *from, const char *to_bucket, const char *to, uint64_t *objects, uint64_t *bytes);

/* For a store with a persistency tier (an agent's); else GEDS_FAILED_PRECONDITION. Times are milliseconds; what is not done by then is GEDS_DEADLINE_EXCEEDED, and nothing is lost.
 * Uploads the node's copies with a prefix that are not there yet, and keeps them. The numbers, which may be NULL, are of what was uploaded by this call. */
int geds_flush(geds_store *store, const char *bucket, const char *prefix, uint64_t within_ms, uint64_t *objects, uint64_t *bytes);
/* Waits until what has the key now is in the persistency tier. */
int geds_wait_durable(geds_store *store, const char *bucket, const char *key, uint64_t within_ms);
/* Moves the node's copies with a prefix there: they are fetched again when they are opened. */
int geds_spill(geds_store *store, const char *bucket, const char *prefix, uint64_t *objects, uint64_t *bytes);

/* Begins a job's lease, or extends it: what is leased to the job (geds_lease_to) goes so many milliseconds from now, unless it is extended again; 0: with geds_drop_job only. Jobs are the installation's, not the
 * process's: whoever dies leaves his lease to its end. On a platform the hub begins and ends those of its own jobs, and ends those that it doesn't know when it starts. */
int geds_keep_job(geds_store *store, const char *job, uint64_t ms);
/* Ends it: its objects go, in one step. A job without a lease has none. */
int geds_drop_job(geds_store *store, const char *job, uint64_t *objects, uint64_t *bytes);

/* Calls `each` for the objects with a prefix, in the order of their keys; with `folders`, what lies deeper is told as its folder, with `/` at the end and
 * `info` NULL. Ends early when `each` returns another number than 0, which is then returned. Strings are valid during the call only. */
int geds_list(geds_store *store, const char *bucket, const char *prefix, int folders,
              int (*each)(void *context, const char *name, const geds_info *info), void *context);
/* As geds_list, for all buckets; `info` is NULL. */
int geds_list_buckets(geds_store *store, int (*each)(void *context, const char *name, const geds_info *info), void *context);

/* What has happened in a bucket. */
enum geds_happened {
    GEDS_SEALED = 1,         /* the key `name` means another content now: `epoch` and `size` are its */
    GEDS_REMOVED = 2,        /* the key is gone */
    GEDS_CHANGED = 3,        /* its metadata are others */
    GEDS_PREFIX_SEALED = 4,  /* all at `name` and below it may be new */
    GEDS_PREFIX_REMOVED = 5  /* all at `name` and below it is gone */
};
typedef struct geds_event {
    uint64_t seq; /* counts the bucket's changes, without a gap */
    int what;
    const char *name;
    uint64_t epoch, size;
} geds_event;
/* Calls `each` for what has happened after `*token`, in its order, and moves the token on; waits up to `wait_ms` (a minute at most) for the first of it, and returns GEDS_OK without one when there is none. A token is good in other
 * processes and after restarts; 0 is the bucket's beginning, UINT64_MAX asks for the one of now. When too much has happened since, or the bucket's past is not known any more, `*resync` becomes 1 and the token that of now: list the bucket
 * anew. When `each` returns another number than 0, that is returned, and the event comes again with the next call. */
int geds_watch(geds_store *store, const char *bucket, uint64_t *token, uint64_t wait_ms, int *resync, int (*each)(void *context, const geds_event *event), void *context);

/* An object that grows on this node (attached: the agent's), and on no other until it is sealed: geds_get, geds_stat and geds_list know nothing of it. It stays when the process ends, and is opened again. Handles may be used from any thread.
 * Opens what grows under the key, by `begin`: 0: or fails with GEDS_NOT_FOUND; 1: or begins it, GEDS_FAILED_PRECONDITION if the key has a sealed object; 2: begins it, GEDS_ALREADY_EXISTS if something grows there or the key is taken. */
geds_appendable *geds_appendable_open(geds_store *store, const char *bucket, const char *key, int begin);
int geds_appendable_len(geds_appendable *appendable, uint64_t *len);
/* Appends at `offset`, which must be its length, else GEDS_FAILED_PRECONDITION says the length and nothing is changed. All of it is there after the call, or nothing, also after a kill; attached, that holds for pieces of 1 MiB: after an
 * error look at the length. */
int geds_append(geds_appendable *appendable, uint64_t offset, const void *data, uint64_t len);
/* Copies at most `room` bytes from `offset` on to `data`; `len` becomes how many: fewer only at the end, and none behind it. */
int geds_appendable_read(geds_appendable *appendable, uint64_t offset, void *data, uint64_t room, uint64_t *len);
/* What was appended before survives a power cut when it returns. */
int geds_appendable_sync(geds_appendable *appendable);
/* It becomes an ordinary object under the key, durable and visible to all; nothing more can be appended. Needs room for a copy. */
int geds_appendable_seal(geds_appendable *appendable);
/* It is removed. */
int geds_appendable_discard(geds_appendable *appendable);
/* Frees the handle. The object goes on growing. */
void geds_appendable_close(geds_appendable *appendable);
/* As geds_list, for what grows on this node: `info` has the size only. */
int geds_list_appendables(geds_store *store, const char *bucket, const char *prefix, int (*each)(void *context, const char *name, const geds_info *info), void *context);

/* Reads what grows under the key at whichever node, or was sealed under it. It goes on when that is sealed, spilled or moved, also when the key means something else by then; removed without a seal, or sealed at a site that has been started anew since, it is GEDS_NOT_FOUND and never another one's bytes. To begin, all nodes that
 * are there are asked: begin seldom, read often. A handle may be used from any thread; its reads come one after another. */
geds_follower *geds_follow(geds_store *store, const char *bucket, const char *key);
/* Copies at most `room` bytes from `offset` on to `data`, 4 MiB at once (attached: 1 MiB); `len` becomes how many. Where there are none yet, waits up to `wait_ms` for the first of them, and as long for a site or an agent that is away, which
 * then is GEDS_UNAVAILABLE or GEDS_DEADLINE_EXCEEDED (an answer may take half a second more, or a second in all). `len` 0: none came; or, with `*sealed` 1, none will: that is
 * the end. Behind the end of what is sealed it is GEDS_INVALID_ARGUMENT. */
int geds_follow_read(geds_follower *follower, uint64_t offset, void *data, uint64_t room, uint64_t wait_ms, uint64_t *len, int *sealed);
void geds_follow_close(geds_follower *follower);

#ifdef __cplusplus
}
#endif
#endif
