/* What `Native.java` declares, over the C library of the store. The library is opened by its path, so that this file is linked with nothing.
 *
 * Strings come as UTF-8 with a NUL at the end; a call that fails throws GedsException with the library's code and message, in the thread that called. */
#include <cloudskin_geds.h>
#include <dlfcn.h>
#include <jni.h>
#include <stdlib.h>
#include <string.h>

/* Bytes that are copied out of a Java array at a time. A call may wait for room, so the collector must not be held up meanwhile. */
#define COPY_BYTES (1 << 20)

static struct {
    __typeof__(geds_message) *message;
    __typeof__(geds_code) *code;
    __typeof__(geds_open) *open;
    __typeof__(geds_agent) *agent;
    __typeof__(geds_attach) *attach;
    __typeof__(geds_close) *close;
    __typeof__(geds_settle) *settle;
    __typeof__(geds_create_bucket) *create_bucket;
    __typeof__(geds_create) *create;
    __typeof__(geds_write) *write;
    __typeof__(geds_set_metadata) *set_metadata;
    __typeof__(geds_expire_after) *expire_after;
    __typeof__(geds_seal) *seal;
    __typeof__(geds_seal_here) *seal_here;
    __typeof__(geds_abort) *abort;
    __typeof__(geds_get) *get;
    __typeof__(geds_data) *data;
    __typeof__(geds_len) *len;
    __typeof__(geds_release) *release;
    __typeof__(geds_stat) *stat;
    __typeof__(geds_metadata) *metadata;
    __typeof__(geds_delete) *delete_;
    __typeof__(geds_rename) *rename;
    __typeof__(geds_delete_prefix) *delete_prefix;
    __typeof__(geds_rename_prefix) *rename_prefix;
    __typeof__(geds_list) *list;
    __typeof__(geds_lease_to) *lease_to;
    __typeof__(geds_read) *read;
    __typeof__(geds_copy) *copy;
    __typeof__(geds_copy_prefix) *copy_prefix;
    __typeof__(geds_flush) *flush;
    __typeof__(geds_wait_durable) *wait_durable;
    __typeof__(geds_spill) *spill;
    __typeof__(geds_keep_job) *keep_job;
    __typeof__(geds_drop_job) *drop_job;
    __typeof__(geds_watch) *watch;
    __typeof__(geds_appendable_open) *appendable_open;
    __typeof__(geds_appendable_len) *appendable_len;
    __typeof__(geds_append) *append;
    __typeof__(geds_appendable_read) *appendable_read;
    __typeof__(geds_appendable_sync) *appendable_sync;
    __typeof__(geds_appendable_seal) *appendable_seal;
    __typeof__(geds_appendable_discard) *appendable_discard;
    __typeof__(geds_appendable_close) *appendable_close;
    __typeof__(geds_list_appendables) *list_appendables;
    __typeof__(geds_follow) *follow;
    __typeof__(geds_follow_read) *follow_read;
    __typeof__(geds_follow_close) *follow_close;
} geds;

#define NATIVE(type, name) JNIEXPORT type JNICALL Java_cloudskin_geds_Native_##name

static void raise(JNIEnv *env, int code, const char *message) {
    jclass class = (*env)->FindClass(env, "cloudskin/geds/GedsException");
    if (!class) return;
    jmethodID make = (*env)->GetMethodID(env, class, "<init>", "(I[B)V");
    jsize len = (jsize)strlen(message);
    jbyteArray bytes = (*env)->NewByteArray(env, len);
    if (!make || !bytes) return;
    (*env)->SetByteArrayRegion(env, bytes, 0, len, (const jbyte *)message);
    jobject thrown = (*env)->NewObject(env, class, make, (jint)code, bytes);
    if (thrown) (*env)->Throw(env, thrown);
}

/* Throws what the last call of this thread has left. */
static void failed(JNIEnv *env) { raise(env, geds.code(), geds.message()); }

static void check(JNIEnv *env, int code) {
    if (code) failed(env);
}

/* A copy of a Java array, with an exception pending if it is NULL; NULL of Java stays NULL without one. */
static char *copy(JNIEnv *env, jbyteArray bytes) {
    if (!bytes) return NULL;
    jsize len = (*env)->GetArrayLength(env, bytes);
    char *text = malloc((size_t)len + 1);
    if (!text) {
        raise(env, GEDS_RESOURCE_EXHAUSTED, "no memory for a name");
        return NULL;
    }
    (*env)->GetByteArrayRegion(env, bytes, 0, len, (jbyte *)text);
    text[len] = 0;
    return text;
}

static jlongArray numbers(JNIEnv *env, const jlong *values, jsize count) {
    jlongArray array = (*env)->NewLongArray(env, count);
    if (array) (*env)->SetLongArrayRegion(env, array, 0, count, values);
    return array;
}

NATIVE(void, bind)(JNIEnv *env, jclass class, jbyteArray path) {
    (void)class;
    char *file = copy(env, path);
    if (!file) return;
    void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    free(file);
    if (!library) {
        raise(env, GEDS_UNAVAILABLE, dlerror());
        return;
    }
    struct {
        const char *name;
        void **place;
    } all[] = {
        {"geds_message", (void **)&geds.message}, {"geds_code", (void **)&geds.code}, {"geds_open", (void **)&geds.open}, {"geds_agent", (void **)&geds.agent},
        {"geds_attach", (void **)&geds.attach}, {"geds_close", (void **)&geds.close}, {"geds_settle", (void **)&geds.settle},
        {"geds_create_bucket", (void **)&geds.create_bucket}, {"geds_create", (void **)&geds.create}, {"geds_write", (void **)&geds.write},
        {"geds_set_metadata", (void **)&geds.set_metadata}, {"geds_expire_after", (void **)&geds.expire_after}, {"geds_seal", (void **)&geds.seal},
        {"geds_seal_here", (void **)&geds.seal_here}, {"geds_abort", (void **)&geds.abort}, {"geds_get", (void **)&geds.get}, {"geds_data", (void **)&geds.data},
        {"geds_len", (void **)&geds.len}, {"geds_release", (void **)&geds.release}, {"geds_stat", (void **)&geds.stat}, {"geds_metadata", (void **)&geds.metadata},
        {"geds_delete", (void **)&geds.delete_}, {"geds_rename", (void **)&geds.rename}, {"geds_delete_prefix", (void **)&geds.delete_prefix},
        {"geds_rename_prefix", (void **)&geds.rename_prefix}, {"geds_list", (void **)&geds.list},
        {"geds_lease_to", (void **)&geds.lease_to}, {"geds_read", (void **)&geds.read}, {"geds_copy", (void **)&geds.copy},
        {"geds_copy_prefix", (void **)&geds.copy_prefix}, {"geds_flush", (void **)&geds.flush}, {"geds_wait_durable", (void **)&geds.wait_durable},
        {"geds_spill", (void **)&geds.spill}, {"geds_keep_job", (void **)&geds.keep_job}, {"geds_drop_job", (void **)&geds.drop_job},
        {"geds_watch", (void **)&geds.watch}, {"geds_appendable_open", (void **)&geds.appendable_open}, {"geds_appendable_len", (void **)&geds.appendable_len},
        {"geds_append", (void **)&geds.append}, {"geds_appendable_read", (void **)&geds.appendable_read}, {"geds_appendable_sync", (void **)&geds.appendable_sync},
        {"geds_appendable_seal", (void **)&geds.appendable_seal}, {"geds_appendable_discard", (void **)&geds.appendable_discard},
        {"geds_appendable_close", (void **)&geds.appendable_close}, {"geds_list_appendables", (void **)&geds.list_appendables},
        {"geds_follow", (void **)&geds.follow}, {"geds_follow_read", (void **)&geds.follow_read}, {"geds_follow_close", (void **)&geds.follow_close},
    };
    for (size_t n = 0; n < sizeof all / sizeof *all; n++) {
        *all[n].place = dlsym(library, all[n].name);
        if (!*all[n].place) {
            raise(env, GEDS_UNIMPLEMENTED, dlerror());
            return;
        }
    }
}

NATIVE(jlong, open)(JNIEnv *env, jclass class, jbyteArray folder, jbyteArray site, jlong limit, jlong memory) {
    (void)class;
    char *at = copy(env, folder), *name = copy(env, site);
    geds_store *store = geds.open(at, name, (uint64_t)limit, (uint64_t)memory);
    if (!store) failed(env);
    free(at), free(name);
    return (jlong)(intptr_t)store;
}

NATIVE(jlong, agent)(JNIEnv *env, jclass class, jbyteArray folder, jbyteArray site, jlong limit, jlong memory, jbyteArray persist) {
    (void)class;
    char *at = copy(env, folder), *name = copy(env, site), *to = copy(env, persist);
    geds_store *store = geds.agent(at, name, (uint64_t)limit, (uint64_t)memory, to);
    if (!store) failed(env);
    free(at), free(name), free(to);
    return (jlong)(intptr_t)store;
}

NATIVE(jlong, attach)(JNIEnv *env, jclass class, jbyteArray folder) {
    (void)class;
    char *at = copy(env, folder);
    geds_store *store = geds.attach(at);
    if (!store) failed(env);
    free(at);
    return (jlong)(intptr_t)store;
}

#define STORE ((geds_store *)(intptr_t)store)
#define WRITER ((geds_writer *)(intptr_t)writer)
#define OBJECT ((geds_object *)(intptr_t)object)

NATIVE(void, close)(JNIEnv *env, jclass class, jlong store) { (void)class; check(env, geds.close(STORE)); }
NATIVE(void, settle)(JNIEnv *env, jclass class, jlong store) { (void)class; check(env, geds.settle(STORE)); }

NATIVE(void, createBucket)(JNIEnv *env, jclass class, jlong store, jbyteArray bucket) {
    (void)class;
    char *b = copy(env, bucket);
    check(env, geds.create_bucket(STORE, b));
    free(b);
}

NATIVE(jlong, create)(JNIEnv *env, jclass class, jlong store, jbyteArray bucket, jbyteArray key, jboolean if_absent) {
    (void)class;
    char *b = copy(env, bucket), *k = copy(env, key);
    geds_writer *writer = geds.create(STORE, b, k, if_absent);
    if (!writer) failed(env);
    free(b), free(k);
    return (jlong)(intptr_t)writer;
}

NATIVE(void, write)(JNIEnv *env, jclass class, jlong writer, jlong offset, jbyteArray data, jint from, jint len) {
    (void)class;
    char *some = malloc(len < COPY_BYTES ? (size_t)len + 1 : COPY_BYTES);
    if (!some) {
        raise(env, GEDS_RESOURCE_EXHAUSTED, "no memory for bytes on their way");
        return;
    }
    for (jint done = 0; done < len;) {
        jint n = len - done < COPY_BYTES ? len - done : COPY_BYTES;
        (*env)->GetByteArrayRegion(env, data, from + done, n, (jbyte *)some);
        if ((*env)->ExceptionCheck(env)) break;
        if (geds.write(WRITER, (uint64_t)(offset + done), some, (uint64_t)n)) {
            failed(env);
            break;
        }
        done += n;
    }
    free(some);
}

/* `data` is direct, and its range was checked. */
NATIVE(void, writeDirect)(JNIEnv *env, jclass class, jlong writer, jlong offset, jobject data, jint from, jint len) {
    (void)class;
    const char *bytes = (*env)->GetDirectBufferAddress(env, data);
    if (!bytes) raise(env, GEDS_INVALID_ARGUMENT, "the buffer is not direct");
    else check(env, geds.write(WRITER, (uint64_t)offset, bytes + from, (uint64_t)len));
}

NATIVE(void, setMetadata)(JNIEnv *env, jclass class, jlong writer, jbyteArray data) {
    (void)class;
    char *bytes = copy(env, data);
    if (bytes) check(env, geds.set_metadata(WRITER, bytes, (uint64_t)(*env)->GetArrayLength(env, data)));
    free(bytes);
}

NATIVE(void, expireAfter)(JNIEnv *env, jclass class, jlong writer, jlong ms) { (void)class; check(env, geds.expire_after(WRITER, (uint64_t)ms)); }

NATIVE(void, leaseTo)(JNIEnv *env, jclass class, jlong writer, jbyteArray job) {
    (void)class;
    char *j = copy(env, job);
    check(env, geds.lease_to(WRITER, j));
    free(j);
}

NATIVE(void, seal)(JNIEnv *env, jclass class, jlong writer) { (void)class; check(env, geds.seal(WRITER)); }
NATIVE(void, sealHere)(JNIEnv *env, jclass class, jlong writer) { (void)class; check(env, geds.seal_here(WRITER)); }
NATIVE(void, abort)(JNIEnv *env, jclass class, jlong writer) { (void)env, (void)class; geds.abort(WRITER); }

NATIVE(jlong, get)(JNIEnv *env, jclass class, jlong store, jbyteArray bucket, jbyteArray key) {
    (void)class;
    char *b = copy(env, bucket), *k = copy(env, key);
    geds_object *object = geds.get(STORE, b, k);
    if (!object) failed(env);
    free(b), free(k);
    return (jlong)(intptr_t)object;
}

NATIVE(jlong, length)(JNIEnv *env, jclass class, jlong object) { (void)env, (void)class; return (jlong)geds.len(OBJECT); }
NATIVE(void, release)(JNIEnv *env, jclass class, jlong object) { (void)env, (void)class; geds.release(OBJECT); }

NATIVE(jobject, view)(JNIEnv *env, jclass class, jlong object, jlong offset, jint len) {
    (void)class;
    /* Nothing is written through it: Java has it read-only only. */
    return (*env)->NewDirectByteBuffer(env, (char *)geds.data(OBJECT) + offset, len);
}

NATIVE(jlongArray, stat)(JNIEnv *env, jclass class, jlong store, jbyteArray bucket, jbyteArray key) {
    (void)class;
    char *b = copy(env, bucket), *k = copy(env, key);
    geds_info info;
    int code = geds.stat(STORE, b, k, &info);
    if (code) failed(env);
    free(b), free(k);
    jlong values[] = {(jlong)info.size, (jlong)info.epoch, (jlong)info.checksum, (jlong)info.created_ms, (jlong)info.expires_ms};
    return code ? NULL : numbers(env, values, 5);
}

NATIVE(jbyteArray, metadata)(JNIEnv *env, jclass class, jlong store, jbyteArray bucket, jbyteArray key) {
    (void)class;
    char *b = copy(env, bucket), *k = copy(env, key);
    char data[16 << 10];
    uint64_t len = 0;
    int code = geds.metadata(STORE, b, k, data, sizeof data, &len);
    if (code) failed(env);
    free(b), free(k);
    jbyteArray bytes = code ? NULL : (*env)->NewByteArray(env, (jsize)len);
    if (bytes) (*env)->SetByteArrayRegion(env, bytes, 0, (jsize)len, (const jbyte *)data);
    return bytes;
}

NATIVE(void, delete)(JNIEnv *env, jclass class, jlong store, jbyteArray bucket, jbyteArray key) {
    (void)class;
    char *b = copy(env, bucket), *k = copy(env, key);
    check(env, geds.delete_(STORE, b, k));
    free(b), free(k);
}

NATIVE(void, rename)(JNIEnv *env, jclass class, jlong store, jbyteArray bucket, jbyteArray from, jbyteArray to_bucket, jbyteArray to, jboolean copies, jboolean if_absent) {
    (void)class;
    char *b = copy(env, bucket), *f = copy(env, from), *i = copy(env, to_bucket), *t = copy(env, to);
    check(env, copies ? geds.copy(STORE, b, f, i, t, if_absent) : geds.rename(STORE, b, f, i, t, if_absent));
    free(b), free(f), free(i), free(t);
}

/* Objects and bytes, or what went wrong. */
static jlongArray counted(JNIEnv *env, int code, uint64_t objects, uint64_t bytes) {
    if (code) {
        failed(env);
        return NULL;
    }
    jlong values[] = {(jlong)objects, (jlong)bytes};
    return numbers(env, values, 2);
}

NATIVE(jlongArray, deletePrefix)(JNIEnv *env, jclass class, jlong store, jbyteArray bucket, jbyteArray prefix) {
    (void)class;
    char *b = copy(env, bucket), *p = copy(env, prefix);
    uint64_t objects = 0, bytes = 0;
    int code = geds.delete_prefix(STORE, b, p, &objects, &bytes);
    free(b), free(p);
    return counted(env, code, objects, bytes);
}

NATIVE(jlongArray, renamePrefix)(JNIEnv *env, jclass class, jlong store, jbyteArray bucket, jbyteArray from, jbyteArray to_bucket, jbyteArray to, jboolean copies, jboolean if_absent) {
    (void)class;
    char *b = copy(env, bucket), *f = copy(env, from), *i = copy(env, to_bucket), *t = copy(env, to);
    uint64_t objects = 0, bytes = 0;
    int code = copies ? geds.copy_prefix(STORE, b, f, i, t, &objects, &bytes) : geds.rename_prefix(STORE, b, f, i, t, if_absent, &objects, &bytes);
    free(b), free(f), free(i), free(t);
    return counted(env, code, objects, bytes);
}

NATIVE(jlongArray, flush)(JNIEnv *env, jclass class, jlong store, jbyteArray bucket, jbyteArray prefix, jlong within_ms) {
    (void)class;
    char *b = copy(env, bucket), *p = copy(env, prefix);
    uint64_t objects = 0, bytes = 0;
    int code = geds.flush(STORE, b, p, (uint64_t)within_ms, &objects, &bytes);
    free(b), free(p);
    return counted(env, code, objects, bytes);
}

NATIVE(void, waitDurable)(JNIEnv *env, jclass class, jlong store, jbyteArray bucket, jbyteArray key, jlong within_ms) {
    (void)class;
    char *b = copy(env, bucket), *k = copy(env, key);
    check(env, geds.wait_durable(STORE, b, k, (uint64_t)within_ms));
    free(b), free(k);
}

NATIVE(jlongArray, spill)(JNIEnv *env, jclass class, jlong store, jbyteArray bucket, jbyteArray prefix) {
    (void)class;
    char *b = copy(env, bucket), *p = copy(env, prefix);
    uint64_t objects = 0, bytes = 0;
    int code = geds.spill(STORE, b, p, &objects, &bytes);
    free(b), free(p);
    return counted(env, code, objects, bytes);
}

NATIVE(void, keepJob)(JNIEnv *env, jclass class, jlong store, jbyteArray job, jlong ms) {
    (void)class;
    char *j = copy(env, job);
    check(env, geds.keep_job(STORE, j, (uint64_t)ms));
    free(j);
}

NATIVE(jlongArray, dropJob)(JNIEnv *env, jclass class, jlong store, jbyteArray job) {
    (void)class;
    char *j = copy(env, job);
    uint64_t objects = 0, bytes = 0;
    int code = geds.drop_job(STORE, j, &objects, &bytes);
    free(j);
    return counted(env, code, objects, bytes);
}

/* The first `len` of the bytes that were read, or what went wrong; frees them. */
static jbyteArray taken(JNIEnv *env, int code, void *data, uint64_t len) {
    if (code) failed(env);
    jbyteArray bytes = code ? NULL : (*env)->NewByteArray(env, (jsize)len);
    if (bytes) (*env)->SetByteArrayRegion(env, bytes, 0, (jsize)len, data);
    free(data);
    return bytes;
}

/* Room for what is read. It is filled before Java's own is made, so that the collector is not held up. */
static void *room(JNIEnv *env, jint len) {
    void *data = malloc((size_t)len + 1);
    if (!data) raise(env, GEDS_RESOURCE_EXHAUSTED, "no memory for what is read");
    return data;
}

NATIVE(jbyteArray, read)(JNIEnv *env, jclass class, jlong store, jbyteArray bucket, jbyteArray key, jlong offset, jint len) {
    (void)class;
    void *data = room(env, len);
    if (!data) return NULL;
    char *b = copy(env, bucket), *k = copy(env, key);
    uint64_t got = 0;
    int code = geds.read(STORE, b, k, (uint64_t)offset, data, (uint64_t)len, &got);
    free(b), free(k);
    return taken(env, code, data, got);
}

NATIVE(jlong, openAppendable)(JNIEnv *env, jclass class, jlong store, jbyteArray bucket, jbyteArray key, jint begin) {
    (void)class;
    char *b = copy(env, bucket), *k = copy(env, key);
    geds_appendable *appendable = geds.appendable_open(STORE, b, k, begin);
    if (!appendable) failed(env);
    free(b), free(k);
    return (jlong)(intptr_t)appendable;
}

#define APPENDABLE ((geds_appendable *)(intptr_t)appendable)

NATIVE(jlong, appendableLength)(JNIEnv *env, jclass class, jlong appendable) {
    (void)class;
    uint64_t len = 0;
    check(env, geds.appendable_len(APPENDABLE, &len));
    return (jlong)len;
}

/* As a whole: half of an append must not be there. */
NATIVE(void, append)(JNIEnv *env, jclass class, jlong appendable, jlong offset, jbyteArray data, jint from, jint len) {
    (void)class;
    char *bytes = room(env, len);
    if (!bytes) return;
    (*env)->GetByteArrayRegion(env, data, from, len, (jbyte *)bytes);
    if (!(*env)->ExceptionCheck(env)) check(env, geds.append(APPENDABLE, (uint64_t)offset, bytes, (uint64_t)len));
    free(bytes);
}

NATIVE(jbyteArray, readAppendable)(JNIEnv *env, jclass class, jlong appendable, jlong offset, jint len) {
    (void)class;
    void *data = room(env, len);
    if (!data) return NULL;
    uint64_t got = 0;
    int code = geds.appendable_read(APPENDABLE, (uint64_t)offset, data, (uint64_t)len, &got);
    return taken(env, code, data, got);
}

NATIVE(void, syncAppendable)(JNIEnv *env, jclass class, jlong appendable) { (void)class; check(env, geds.appendable_sync(APPENDABLE)); }
NATIVE(void, sealAppendable)(JNIEnv *env, jclass class, jlong appendable) { (void)class; check(env, geds.appendable_seal(APPENDABLE)); }
NATIVE(void, discardAppendable)(JNIEnv *env, jclass class, jlong appendable) { (void)class; check(env, geds.appendable_discard(APPENDABLE)); }
NATIVE(void, closeAppendable)(JNIEnv *env, jclass class, jlong appendable) { (void)env, (void)class; geds.appendable_close(APPENDABLE); }

NATIVE(jlong, follow)(JNIEnv *env, jclass class, jlong store, jbyteArray bucket, jbyteArray key) {
    (void)class;
    char *b = copy(env, bucket), *k = copy(env, key);
    geds_follower *follower = geds.follow(STORE, b, k);
    if (!follower) failed(env);
    free(b), free(k);
    return (jlong)(intptr_t)follower;
}

#define FOLLOWER ((geds_follower *)(intptr_t)follower)

/* The range was checked. */
NATIVE(jint, readFollowed)(JNIEnv *env, jclass class, jlong follower, jlong offset, jbyteArray into, jint from, jint len, jlong wait_ms) {
    (void)class;
    jint most = len < COPY_BYTES ? len : COPY_BYTES;
    void *data = room(env, most);
    if (!data) return 0;
    uint64_t got = 0;
    int sealed = 0, code = geds.follow_read(FOLLOWER, (uint64_t)offset, data, (uint64_t)most, (uint64_t)wait_ms, &got, &sealed);
    if (code) failed(env);
    else if (got) (*env)->SetByteArrayRegion(env, into, from, (jsize)got, data);
    free(data);
    return got || code ? (jint)got : sealed ? -1 : 0;
}

NATIVE(void, closeFollower)(JNIEnv *env, jclass class, jlong follower) { (void)env, (void)class; geds.follow_close(FOLLOWER); }

struct sink {
    JNIEnv *env;
    jobject into;
    jmethodID add;
};

static int add(void *context, const char *name, const geds_info *info) {
    struct sink *sink = context;
    JNIEnv *env = sink->env;
    jsize len = (jsize)strlen(name);
    jbyteArray bytes = (*env)->NewByteArray(env, len);
    if (!bytes) return 1;
    (*env)->SetByteArrayRegion(env, bytes, 0, len, (const jbyte *)name);
    geds_info none = {0};
    const geds_info *told = info ? info : &none;
    (*env)->CallVoidMethod(env, sink->into, sink->add, bytes, (jboolean)!info, (jlong)told->size, (jlong)told->epoch, (jlong)told->checksum, (jlong)told->created_ms,
                           (jlong)told->expires_ms);
    (*env)->DeleteLocalRef(env, bytes);
    return (*env)->ExceptionCheck(env);
}

NATIVE(void, list)(JNIEnv *env, jclass class, jlong store, jbyteArray bucket, jbyteArray prefix, jboolean folders, jobject into) {
    (void)class;
    struct sink sink = {env, into, (*env)->GetMethodID(env, (*env)->GetObjectClass(env, into), "add", "([BZJJJJJ)V")};
    if (!sink.add) return;
    char *b = copy(env, bucket), *p = copy(env, prefix);
    int code = geds.list(STORE, b, p, folders, add, &sink);
    if (code && !(*env)->ExceptionCheck(env)) failed(env);
    free(b), free(p);
}

NATIVE(void, listAppendables)(JNIEnv *env, jclass class, jlong store, jbyteArray bucket, jbyteArray prefix, jobject into) {
    (void)class;
    struct sink sink = {env, into, (*env)->GetMethodID(env, (*env)->GetObjectClass(env, into), "add", "([BZJJJJJ)V")};
    if (!sink.add) return;
    char *b = copy(env, bucket), *p = copy(env, prefix);
    int code = geds.list_appendables(STORE, b, p, add, &sink);
    if (code && !(*env)->ExceptionCheck(env)) failed(env);
    free(b), free(p);
}

static int add_event(void *context, const geds_event *event) {
    struct sink *sink = context;
    JNIEnv *env = sink->env;
    jsize len = (jsize)strlen(event->name);
    jbyteArray bytes = (*env)->NewByteArray(env, len);
    if (!bytes) return 1;
    (*env)->SetByteArrayRegion(env, bytes, 0, len, (const jbyte *)event->name);
    (*env)->CallVoidMethod(env, sink->into, sink->add, (jlong)event->seq, (jint)event->what, bytes, (jlong)event->epoch, (jlong)event->size);
    (*env)->DeleteLocalRef(env, bytes);
    return (*env)->ExceptionCheck(env);
}

NATIVE(jlongArray, watch)(JNIEnv *env, jclass class, jlong store, jbyteArray bucket, jlong token, jlong wait_ms, jobject into) {
    (void)class;
    struct sink sink = {env, into, (*env)->GetMethodID(env, (*env)->GetObjectClass(env, into), "add", "(JI[BJJ)V")};
    if (!sink.add) return NULL;
    char *b = copy(env, bucket);
    uint64_t next = (uint64_t)token;
    int resync = 0, code = geds.watch(STORE, b, &next, (uint64_t)wait_ms, &resync, add_event, &sink);
    free(b);
    if ((*env)->ExceptionCheck(env)) return NULL;
    return counted(env, code, next, (uint64_t)resync);
}
