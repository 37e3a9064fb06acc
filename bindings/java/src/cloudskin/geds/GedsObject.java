package cloudskin.geds;

import java.lang.ref.Cleaner;
import java.nio.ByteBuffer;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * A sealed object, mapped. Its bytes are read in place, and stay as they are whatever happens to its key.
 *
 * <p>There is nothing to close: the object is let go when neither it nor any of its buffers, nor what was sliced from these, can be reached any more. So no buffer ever points to what is gone.
 */
public final class GedsObject {
    private static final Cleaner CLEANER = Cleaner.create();

    private final Hold hold;
    private final ByteBuffer[] parts;
    private final long length;
    private final int partBytes;

    /** A buffer has room for 2 GiB less a byte; this is a multiple of pages. */
    static final int PART_BYTES = 1 << 30;

    GedsObject(long handle) {
        this(handle, PART_BYTES);
    }

    GedsObject(long handle, int partBytes) {
        this.partBytes = partBytes;
        length = Native.length(handle);
        parts = new ByteBuffer[(int) ((length + partBytes - 1) / partBytes)];
        hold = new Hold(handle, parts.length + 1);
        CLEANER.register(this, hold);
        for (int n = 0; n < parts.length; n++) {
            long from = (long) n * partBytes;
            ByteBuffer root = Native.view(handle, from, (int) Math.min(partBytes, length - from));
            // What is sliced or duplicated keeps the buffer that it comes from, so this one is there as long as any of them.
            CLEANER.register(root, hold);
            parts[n] = root.asReadOnlyBuffer();
        }
    }

    /** Gives the handle back when all who may look at its bytes are gone. It must know none of them. */
    private static final class Hold implements Runnable {
        private final long handle;
        private final AtomicInteger holders;

        Hold(long handle, int holders) {
            this.handle = handle;
            this.holders = new AtomicInteger(holders);
        }

        @Override
        public void run() {
            if (holders.decrementAndGet() == 0) {
                Native.release(handle);
            }
        }
    }

    /** Bytes. */
    public long length() {
        return length;
    }

    /** All bytes, read-only. For an object of at most 1 GiB; of a larger one {@link #slice} gives a part. */
    public ByteBuffer bytes() {
        if (parts.length > 1) {
            throw new IllegalStateException("the object has " + length + " bytes, a buffer room for " + partBytes + "; use slice");
        }
        return parts.length == 0 ? ByteBuffer.allocateDirect(0).asReadOnlyBuffer() : parts[0].duplicate();
    }

    /** Bytes from {@code offset} on, read-only and in place: {@code len}, or fewer where the object or a stretch of 1 GiB ends. */
    public ByteBuffer slice(long offset, int len) {
        if (offset < 0 || len < 0 || offset > length) {
            throw new IndexOutOfBoundsException("bytes " + offset + " and on, " + len + " of them, of an object of " + length);
        }
        if (offset == length) {
            return ByteBuffer.allocateDirect(0).asReadOnlyBuffer();
        }
        ByteBuffer part = parts[(int) (offset / partBytes)];
        int from = (int) (offset % partBytes);
        return part.slice(from, Math.min(len, part.capacity() - from));
    }
}
