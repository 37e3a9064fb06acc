package cloudskin.geds;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
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

    /** Gives an object another key; what had that one is replaced. */
    public void rename(String bucket, String from, String to) throws GedsException {
        call(store -> {
            Native.rename(store, text("bucket", bucket), text("key", from), text("key", to));
            return null;
        });
    }

    /** Removes {@code prefix} and all below it in one step. */
    public Counted deletePrefix(String bucket, String prefix) throws GedsException {
        long[] told = call(store -> Native.prefix(store, text("bucket", bucket), text("prefix", prefix), null));
        return new Counted(told[0], told[1]);
    }

    /** Gives {@code from} and all below it the names at {@code to}, in one step. */
    public Counted renamePrefix(String bucket, String from, String to) throws GedsException {
        long[] told = call(store -> Native.prefix(store, text("bucket", bucket), text("prefix", from), text("prefix", to)));
        return new Counted(told[0], told[1]);
    }

    /** The objects with a prefix, in the order of their keys. With {@code folders}, what lies deeper is told as its folder. */
    public List<Entry> list(String bucket, String prefix, boolean folders) throws GedsException {
        List<Entry> all = new ArrayList<>();
        Native.Listing into = (name, folder, size, epoch, checksum, createdMs, expiresMs) -> {
            Info info = folder ? null : new Info(size, epoch, checksum, createdMs, expiresMs);
            all.add(new Entry(new String(name, StandardCharsets.UTF_8), info));
        };
        call(store -> {
            Native.list(store, text("bucket", bucket), text("prefix", prefix), folders, into);
            return null;
        });
        return all;
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
