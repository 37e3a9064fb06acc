package cloudskin.geds;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.locks.ReentrantReadWriteLock;

/**
 * The object store: a folder that the programs of one user on one machine share, or the part of a site that its agent lends.
 *
 * <p>Calls may be made from any thread. Names are paths; a prefix ends at a segment: {@code foo} means {@code foo} and all below {@code foo/}. Objects that are open stay readable when the store is
 * closed.
 */
public final class Store implements AutoCloseable {
    /** Shared by calls, alone for the end: a handle that was given back is never used. */
    private final ReentrantReadWriteLock life = new ReentrantReadWriteLock();
    private long handle;

    private Store(long handle) {
        this.handle = handle;
    }

    /** A node of this process's own, with the name {@code site}, at most {@code limit} bytes of disk and {@code memory} bytes for objects that want to be there, or 0. */
    public static Store open(Path folder, String site, long limit, long memory) throws GedsException {
        return new Store(Native.open(path(folder), text("site", site), limit, memory));
    }

    /** The same, as the agent of the folder, to which others attach. {@code persist}: where to sealed objects are uploaded, such as {@code s3://bucket}; null: what CLOUDSKIN_GEDS__PERSIST says. */
    public static Store agent(Path folder, String site, long limit, long memory, String persist) throws GedsException {
        return new Store(Native.agent(path(folder), text("site", site), limit, memory, persist == null ? null : text("persist", persist)));
    }

    /** Attaches to the agent of a folder, or of a site ({@code cloudskin agent --data FOLDER}). */
    public static Store attach(Path folder) throws GedsException {
        return new Store(Native.attach(path(folder)));
    }

    private static byte[] path(Path folder) throws GedsException {
        return text("folder", folder.toString());
    }

    private static byte[] text(String what, String text) throws GedsException {
        return Native.text(what, text);
    }

    private interface Call<T> {
        T with(long handle) throws GedsException;
    }

    private <T> T call(Call<T> call) throws GedsException {
        life.readLock().lock();
        try {
            if (handle == 0) {
                throw new GedsException(GedsException.Kind.FAILED_PRECONDITION, "the store is closed; open it again");
            }
            return call.with(handle);
        } finally {
            life.readLock().unlock();
        }
    }

    /** Makes sure that the bucket exists. */
    public void createBucket(String bucket) throws GedsException {
        call(store -> {
            Native.createBucket(store, text("bucket", bucket));
            return null;
        });
    }

    /** Begins an object. With {@code ifAbsent} the seal fails with ALREADY_EXISTS if the key is taken by then; else it replaces. */
    public Writer create(String bucket, String key, boolean ifAbsent) throws GedsException {
        return new Writer(call(store -> Native.create(store, text("bucket", bucket), text("key", key), ifAbsent)));
    }

    /** Begins, writes and seals. */
    public void put(String bucket, String key, byte[] content) throws GedsException {
        put(bucket, key, ByteBuffer.wrap(content), false);
    }

    public void put(String bucket, String key, ByteBuffer content, boolean ifAbsent) throws GedsException {
        try (Writer writer = create(bucket, key, ifAbsent)) {
            writer.write(0, content.duplicate());
            writer.seal();
        }
    }

    /** Opens what has the key now. */
    public GedsObject get(String bucket, String key) throws GedsException {
        return new GedsObject(call(store -> Native.get(store, text("bucket", bucket), text("key", key))));
    }

    public Info stat(String bucket, String key) throws GedsException {
        long[] told = call(store -> Native.stat(store, text("bucket", bucket), text("key", key)));
        return new Info(told[0], told[1], told[2], told[3], told[4]);
    }

    public byte[] metadata(String bucket, String key) throws GedsException {
        return call(store -> Native.metadata(store, text("bucket", bucket), text("key", key)));
    }

    public void delete(String bucket, String key) throws GedsException {
        call(store -> {
            Native.delete(store, text("bucket", bucket), text("key", key));
            return null;
        });
    }

    /** At most {@code len} bytes from {@code offset} on, up to 64 MiB, copied: of what lies elsewhere only these are fetched where that can be. What is here is better opened ({@link #get}). */
    public byte[] read(String bucket, String key, long offset, int len) throws GedsException {
        if (offset < 0 || len < 0) {
            throw new GedsException(GedsException.Kind.INVALID_ARGUMENT, len + " bytes at " + offset + " of " + bucket + "/" + key + " can't be read");
        }
        return call(store -> Native.read(store, text("bucket", bucket), text("key", key), offset, len));
    }

    /** Gives an object another key; what had that one is replaced. */
    public void rename(String bucket, String from, String to) throws GedsException {
        rename(bucket, from, bucket, to, false);
    }

    /** The same, also into another bucket. With {@code ifAbsent} it fails with ALREADY_EXISTS if the key is taken, and changes nothing: looking and renaming is one step. */
    public void rename(String bucket, String from, String toBucket, String to, boolean ifAbsent) throws GedsException {
        call(store -> {
            Native.rename(store, text("bucket", bucket), text("key", from), text("bucket", toBucket), text("key", to), false, ifAbsent);
            return null;
        });
    }

    /** Gives an object another key, too: no data is copied, and it goes with its last name. */
    public void copy(String bucket, String from, String toBucket, String to, boolean ifAbsent) throws GedsException {
        call(store -> {
            Native.rename(store, text("bucket", bucket), text("key", from), text("bucket", toBucket), text("key", to), true, ifAbsent);
            return null;
        });
    }

    private static Counted counted(long[] told) {
        return new Counted(told[0], told[1]);
    }

    /** Removes {@code prefix} and all below it in one step. */
    public Counted deletePrefix(String bucket, String prefix) throws GedsException {
        return counted(call(store -> Native.deletePrefix(store, text("bucket", bucket), text("prefix", prefix))));
    }

    /** Gives {@code from} and all below it the names at {@code to}, in one step; what has them is replaced. */
    public Counted renamePrefix(String bucket, String from, String toBucket, String to) throws GedsException {
        return renamePrefix(bucket, from, toBucket, to, false);
    }

    /** The same; with {@code ifAbsent} it fails with ALREADY_EXISTS if anything lies at {@code to} or below it, and changes nothing: looking and renaming is one step. */
    public Counted renamePrefix(String bucket, String from, String toBucket, String to, boolean ifAbsent) throws GedsException {
        return counted(call(store -> Native.renamePrefix(store, text("bucket", bucket), text("prefix", from), text("bucket", toBucket), text("prefix", to), false, ifAbsent)));
    }

    /** The same, and the old names stay. */
    public Counted copyPrefix(String bucket, String from, String toBucket, String to) throws GedsException {
        return counted(call(store -> Native.renamePrefix(store, text("bucket", bucket), text("prefix", from), text("bucket", toBucket), text("prefix", to), true, false)));
    }

    /** Uploads this node's copies at a prefix and below it to the persistency tier, and keeps them. What this call uploaded. */
    public Counted flush(String bucket, String prefix, Duration within) throws GedsException {
        return counted(call(store -> Native.flush(store, text("bucket", bucket), text("prefix", prefix), within.toMillis())));
    }

    /** Waits until what has the key now is in the persistency tier. */
    public void waitDurable(String bucket, String key, Duration within) throws GedsException {
        call(store -> {
            Native.waitDurable(store, text("bucket", bucket), text("key", key), within.toMillis());
            return null;
        });
    }

    /** Moves this node's copies to the persistency tier; they are fetched again when they are opened. */
    public Counted spill(String bucket, String prefix) throws GedsException {
        return counted(call(store -> Native.spill(store, text("bucket", bucket), text("prefix", prefix))));
    }

    /** Begins a job's lease, or extends it: what is leased to it ({@link Writer#leaseTo}) goes when this time is over, unless it is extended again; null: with {@link #dropJob} only. */
    public void keepJob(String job, Duration time) throws GedsException {
        call(store -> {
            Native.keepJob(store, text("job", job), time == null ? 0 : Math.max(time.toMillis(), 1));
            return null;
        });
    }

    /** Ends a job's lease: its objects go, in one step. */
    public Counted dropJob(String job) throws GedsException {
        return counted(call(store -> Native.dropJob(store, text("job", job))));
    }

    /** What has happened in a bucket after a token; waits up to {@code wait} (a minute at most) for the first of it. 0 is the bucket's beginning, -1 asks for the token of now, and says {@code resync}. */
    public Watched watch(String bucket, long after, Duration wait) throws GedsException {
        List<Event> events = new ArrayList<>();
        Native.Events into = (seq, what, name, epoch, size) -> events.add(new Event(seq, Event.What.values()[what - 1], new String(name, StandardCharsets.UTF_8), epoch, size));
        long[] told = call(store -> Native.watch(store, text("bucket", bucket), after, wait.toMillis(), into));
        return new Watched(List.copyOf(events), told[0], told[1] != 0);
    }

    /** What grows under the key on this node; null: nothing does. */
    public Appendable growing(String bucket, String key) throws GedsException {
        try {
            return appendable(bucket, key, 0);
        } catch (GedsException e) {
            if (e.kind() == GedsException.Kind.NOT_FOUND) {
                return null;
            }
            throw e;
        }
    }

    /** The same, begun if nothing does. FAILED_PRECONDITION if the key has a sealed object. */
    public Appendable appendable(String bucket, String key) throws GedsException {
        return appendable(bucket, key, 1);
    }

    /** Begins what is to grow; ALREADY_EXISTS if something does, or the key has a sealed object. */
    public Appendable newAppendable(String bucket, String key) throws GedsException {
        return appendable(bucket, key, 2);
    }

    private Appendable appendable(String bucket, String key, int begin) throws GedsException {
        return new Appendable(call(store -> Native.openAppendable(store, text("bucket", bucket), text("key", key), begin)));
    }

    /**
     * Reads, from {@code offset} on, what grows under the key at whichever node, or was sealed under it. {@code timeout}: how long a read waits for the next bytes; null: for ever. To begin, all nodes that are there are asked.
     */
    public Follower follow(String bucket, String key, long offset, Duration timeout) throws GedsException {
        if (offset < 0) {
            throw new GedsException(GedsException.Kind.INVALID_ARGUMENT, "byte " + offset + " of " + bucket + "/" + key + " can't be read");
        }
        return new Follower(call(store -> Native.follow(store, text("bucket", bucket), text("key", key))), offset, timeout);
    }

    /** What grows on this node at a prefix and below it; of the info only the size says something. */
    public List<Entry> listAppendables(String bucket, String prefix) throws GedsException {
        List<Entry> all = new ArrayList<>();
        call(store -> {
            Native.listAppendables(store, text("bucket", bucket), text("prefix", prefix), into(all));
            return null;
        });
        return all;
    }

    /** The objects with a prefix, in the order of their keys. With {@code folders}, what lies deeper is told as its folder. */
    public List<Entry> list(String bucket, String prefix, boolean folders) throws GedsException {
        List<Entry> all = new ArrayList<>();
        call(store -> {
            Native.list(store, text("bucket", bucket), text("prefix", prefix), folders, into(all));
            return null;
        });
        return all;
    }

    private static Native.Listing into(List<Entry> all) {
        return (name, folder, size, epoch, checksum, createdMs, expiresMs) -> {
            Info info = folder ? null : new Info(size, epoch, checksum, createdMs, expiresMs);
            all.add(new Entry(new String(name, StandardCharsets.UTF_8), info));
        };
    }

    /** Waits until everything that was sealed here before is durable and seen by all. */
    public void settle() throws GedsException {
        call(store -> {
            Native.settle(store);
            return null;
        });
    }

    /** Waits until what was sealed is published (for an agent: and uploaded). Twice is once. */
    @Override
    public void close() throws GedsException {
        life.writeLock().lock();
        try {
            long store = handle;
            handle = 0;
            if (store != 0) {
                Native.close(store);
            }
        } finally {
            life.writeLock().unlock();
        }
    }
}
