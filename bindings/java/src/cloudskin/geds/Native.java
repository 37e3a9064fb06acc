package cloudskin.geds;

import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;

/**
 * The C library's calls. A handle is a number; who has given one back must not use it again, which {@link Store}, {@link Writer} and {@link GedsObject} see to.
 *
 * <p>The library is the one in the jar, or the file that CLOUDSKIN_GEDS_LIBRARY names.
 */
final class Native {
    private Native() {}

    static {
        try {
            load();
        } catch (IOException e) {
            throw new ExceptionInInitializerError(e);
        }
    }

    private static void load() throws IOException {
        // Names that are in nobody's way; the files are needed until they are loaded.
        Path folder = Files.createTempDirectory("cloudskin-geds");
        Path glue = folder.resolve("libcloudskin_geds_jni.so");
        Path library = folder.resolve("libcloudskin_geds.so");
        try {
            unpack(glue);
            System.load(glue.toString());
            String named = System.getenv("CLOUDSKIN_GEDS_LIBRARY");
            if (named == null || named.isEmpty()) {
                unpack(library);
                named = library.toString();
            }
            bind(text("library", named));
        } finally {
            Files.deleteIfExists(glue);
            Files.deleteIfExists(library);
            Files.deleteIfExists(folder);
        }
    }

    private static void unpack(Path to) throws IOException {
        String name = "native/" + to.getFileName();
        try (InputStream from = Native.class.getResourceAsStream(name)) {
            if (from == null) {
                throw new IOException("the jar of cloudskin.geds has no " + name + ": build it as bindings/java/README.md says, or set CLOUDSKIN_GEDS_LIBRARY");
            }
            Files.copy(from, to, StandardCopyOption.REPLACE_EXISTING);
        }
    }

    /** UTF-8 for the library, for which a NUL would be the end. */
    static byte[] text(String what, String text) throws GedsException {
        if (text == null || text.indexOf('\0') >= 0) {
            throw new GedsException(GedsException.Kind.INVALID_ARGUMENT, what + " " + (text == null ? "null" : "with a NUL") + " is not valid: give a string without NUL");
        }
        return text.getBytes(StandardCharsets.UTF_8);
    }

    static native void bind(byte[] path) throws GedsException;
    static native long open(byte[] folder, byte[] site, long limit, long memory) throws GedsException;
    static native long agent(byte[] folder, byte[] site, long limit, long memory, byte[] persist) throws GedsException;
    static native long attach(byte[] folder) throws GedsException;
    static native void close(long store) throws GedsException;
    static native void settle(long store) throws GedsException;
    static native void createBucket(long store, byte[] bucket) throws GedsException;
    static native long create(long store, byte[] bucket, byte[] key, boolean ifAbsent) throws GedsException;
    static native void write(long writer, long offset, byte[] data, int from, int len) throws GedsException;
    static native void writeDirect(long writer, long offset, ByteBuffer data, int from, int len) throws GedsException;
    static native void setMetadata(long writer, byte[] data) throws GedsException;
    static native void expireAfter(long writer, long ms) throws GedsException;
    static native void leaseTo(long writer, byte[] job) throws GedsException;
    static native void seal(long writer) throws GedsException;
    static native void sealHere(long writer) throws GedsException;
    static native void abort(long writer);
    static native long get(long store, byte[] bucket, byte[] key) throws GedsException;
    static native long length(long object);
    static native ByteBuffer view(long object, long offset, int len);
    static native void release(long object);
    static native long[] stat(long store, byte[] bucket, byte[] key) throws GedsException;
    static native byte[] metadata(long store, byte[] bucket, byte[] key) throws GedsException;
    static native void delete(long store, byte[] bucket, byte[] key) throws GedsException;
    static native byte[] read(long store, byte[] bucket, byte[] key, long offset, int len) throws GedsException;
    static native void rename(long store, byte[] bucket, byte[] from, byte[] toBucket, byte[] to, boolean copy, boolean ifAbsent) throws GedsException;
    static native long[] deletePrefix(long store, byte[] bucket, byte[] prefix) throws GedsException;
    static native long[] renamePrefix(long store, byte[] bucket, byte[] from, byte[] toBucket, byte[] to, boolean copy, boolean ifAbsent) throws GedsException;
    static native long[] flush(long store, byte[] bucket, byte[] prefix, long withinMs) throws GedsException;
    static native void waitDurable(long store, byte[] bucket, byte[] key, long withinMs) throws GedsException;
    static native long[] spill(long store, byte[] bucket, byte[] prefix) throws GedsException;
    static native void keepJob(long store, byte[] job, long ms) throws GedsException;
    static native long[] dropJob(long store, byte[] job) throws GedsException;
    static native void list(long store, byte[] bucket, byte[] prefix, boolean folders, Listing into) throws GedsException;
    /** The token of next, and 1 if the old one can't be gone on from. */
    static native long[] watch(long store, byte[] bucket, long token, long waitMs, Events into) throws GedsException;
    static native long openAppendable(long store, byte[] bucket, byte[] key, int begin) throws GedsException;
    static native long appendableLength(long appendable) throws GedsException;
    static native void append(long appendable, long offset, byte[] data, int from, int len) throws GedsException;
    static native byte[] readAppendable(long appendable, long offset, int len) throws GedsException;
    static native void syncAppendable(long appendable) throws GedsException;
    static native void sealAppendable(long appendable) throws GedsException;
    static native void discardAppendable(long appendable) throws GedsException;
    static native void closeAppendable(long appendable);
    static native void listAppendables(long store, byte[] bucket, byte[] prefix, Listing into) throws GedsException;

    static native long follow(long store, byte[] bucket, byte[] key) throws GedsException;
    /** How many bytes; 0: none came in that time; -1: none will. */
    static native int readFollowed(long follower, long offset, byte[] into, int from, int len, long waitMs) throws GedsException;
    static native void closeFollower(long follower);

    /** Takes what a watch tells. */
    interface Events {
        void add(long seq, int what, byte[] name, long epoch, long size);
    }

    /** Takes what a listing tells. */
    interface Listing {
        void add(byte[] name, boolean folder, long size, long epoch, long checksum, long createdMs, long expiresMs);
    }
}
