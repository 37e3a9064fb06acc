package cloudskin.geds;

import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.Objects;

/**
 * An object being written, by one thread at a time. Sealed it is there as a whole; closed before, nothing of it remains.
 */
public final class Writer implements AutoCloseable {
    private long handle;
    private long length;

    Writer(long handle) {
        this.handle = handle;
    }

    private long handle() throws GedsException {
        if (handle == 0) {
            throw new GedsException(GedsException.Kind.FAILED_PRECONDITION, "this writer has sealed its object, or was closed; begin another one");
        }
        return handle;
    }

    private long take() throws GedsException {
        long taken = handle();
        handle = 0;
        return taken;
    }

    /** Bytes so far. */
    public synchronized long length() {
        return length;
    }

    /** Writes at the end. */
    public synchronized Writer write(byte[] data) throws GedsException {
        return write(length, data, 0, data.length);
    }

    /** Writes anywhere; a gap reads as zeros. */
    public synchronized Writer write(long offset, byte[] data, int from, int len) throws GedsException {
        Objects.checkFromIndexSize(from, len, data.length);
        check(offset);
        Native.write(handle(), offset, data, from, len);
        length = Math.max(length, offset + len);
        return this;
    }

    /** Writes what is left in a buffer at {@code offset}, and takes it: from a direct one without a copy. */
    public synchronized Writer write(long offset, ByteBuffer data) throws GedsException {
        int len = data.remaining();
        check(offset);
        if (data.isDirect()) {
            Native.writeDirect(handle(), offset, data, data.position(), len);
        } else {
            byte[] bytes = new byte[len];
            data.duplicate().get(bytes);
            Native.write(handle(), offset, bytes, 0, len);
        }
        data.position(data.limit());
        length = Math.max(length, offset + len);
        return this;
    }

    private static void check(long offset) throws GedsException {
        if (offset < 0) {
            throw new GedsException(GedsException.Kind.INVALID_ARGUMENT, "offset " + offset + " is not valid: an object begins at 0");
        }
    }

    /** At most 16 KiB of your own that go with the name. */
    public synchronized Writer metadata(byte[] data) throws GedsException {
        Native.setMetadata(handle(), data);
        return this;
    }

    /** The object goes by itself when this time has passed. */
    public synchronized Writer expireAfter(Duration time) throws GedsException {
        Native.expireAfter(handle(), time.toMillis());
        return this;
    }

    /** The object goes when this job's lease ends; see {@link Store#keepJob}. */
    public synchronized Writer leaseTo(String job) throws GedsException {
        Native.leaseTo(handle(), Native.text("job", job));
        return this;
    }

    /** When it returns, the object is durable and visible to all. Whether it succeeds or not, the writer is done. */
    public synchronized void seal() throws GedsException {
        Native.seal(take());
    }

    /** Returns as soon as this process sees the object; all see it soon after. */
    public synchronized void sealHere() throws GedsException {
        Native.sealHere(take());
    }

    @Override
    public synchronized void close() {
        if (handle != 0) {
            Native.abort(handle);
            handle = 0;
        }
    }
}
