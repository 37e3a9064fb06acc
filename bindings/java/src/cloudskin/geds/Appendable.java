package cloudskin.geds;

import java.util.Objects;

/**
 * An object that grows at its end and is read meanwhile. It is on this node only (of a store that attaches: the agent's), and no object to the others, until it is sealed; it stays when the process ends. Calls may be made from any thread.
 */
public final class Appendable implements AutoCloseable {
    private long handle;

    Appendable(long handle) {
        this.handle = handle;
    }

    private long handle() throws GedsException {
        if (handle == 0) {
            throw new GedsException(GedsException.Kind.FAILED_PRECONDITION, "this handle of what grows is closed; open it again");
        }
        return handle;
    }

    /** Bytes; what is below never changes. */
    public synchronized long length() throws GedsException {
        return Native.appendableLength(handle());
    }

    /** Appends at {@code offset}, which must be the length, else nothing is changed. All of it is there or nothing; of a store that attaches: of each 1 MiB. */
    public synchronized void append(long offset, byte[] data, int from, int len) throws GedsException {
        Objects.checkFromIndexSize(from, len, data.length);
        Native.append(handle(), offset, data, from, len);
    }

    /** Appends at the end. */
    public synchronized void append(byte[] data) throws GedsException {
        append(length(), data, 0, data.length);
    }

    /** Bytes from {@code offset} on: {@code len}, or fewer at the end. */
    public synchronized byte[] read(long offset, int len) throws GedsException {
        if (offset < 0 || len < 0) {
            throw new GedsException(GedsException.Kind.INVALID_ARGUMENT, len + " bytes at " + offset + " can't be read");
        }
        return Native.readAppendable(handle(), offset, len);
    }

    /** What was appended before survives a power cut when it returns. */
    public synchronized void sync() throws GedsException {
        Native.syncAppendable(handle());
    }

    /** It becomes an ordinary object under its key; nothing more can be appended. */
    public synchronized void seal() throws GedsException {
        Native.sealAppendable(handle());
    }

    /** It is removed. */
    public synchronized void discard() throws GedsException {
        Native.discardAppendable(handle());
    }

    /** Lets go of the handle. The object goes on growing. */
    @Override
    public synchronized void close() {
        if (handle != 0) {
            Native.closeAppendable(handle);
            handle = 0;
        }
    }
}
