package cloudskin.geds;

import java.io.IOException;
import java.io.InputStream;
import java.io.InterruptedIOException;
import java.time.Duration;
import java.util.Objects;

/**
 * What grows at whichever node, as a stream that ends when it is sealed: until then a read waits for the next bytes. It goes on when what it reads is sealed, spilled or moved, also when the key means something else by then.
 *
 * <p>A read that has waited for longer than its time fails with DEADLINE_EXCEEDED, one whose thread is interrupted with {@link InterruptedIOException}; the next one goes on at the same place. While nobody says where it is, that is tried again for 20 s of its time, then it fails with UNAVAILABLE, which says who is away. Who closes waits for a read that is under way: a second, and what an answer takes. What {@code readAllBytes} and the like had read before such a failure is lost, as with any stream.
 */
public final class Follower extends InputStream {
    /** A second at a time, so that an interrupt is heard meanwhile. */
    private static final long WAIT_MS = 1000;
    /** How long a site or the agent may be away. */
    private static final long AWAY_MAX_NS = 20_000_000_000L;

    private final Duration timeout;
    private long handle;
    private long at;

    Follower(long handle, long offset, Duration timeout) {
        this.handle = handle;
        this.at = offset;
        this.timeout = timeout;
    }

    /** Where the next byte comes from. */
    public synchronized long position() {
        return at;
    }

    /** Goes on at another byte. */
    public synchronized void seek(long offset) throws GedsException {
        if (offset < 0) {
            throw new GedsException(GedsException.Kind.INVALID_ARGUMENT, "byte " + offset + " can't be read");
        }
        at = offset;
    }

    @Override
    public int read() throws IOException {
        byte[] one = new byte[1];
        return read(one, 0, 1) < 0 ? -1 : one[0] & 0xff;
    }

    @Override
    public int read(byte[] into, int from, int len) throws IOException {
        Objects.checkFromIndexSize(from, len, into.length);
        long end = timeout == null ? Long.MAX_VALUE : System.nanoTime() + timeout.toNanos();
        long away = 0;
        while (len > 0) {
            long rest = timeout == null ? WAIT_MS : Math.max(0, Math.min(WAIT_MS, (end - System.nanoTime()) / 1_000_000));
            int n;
            try {
                n = readSome(into, from, len, rest);
                away = 0;
            } catch (GedsException e) {
                long now = System.nanoTime();
                boolean mayComeBack = e.kind() == GedsException.Kind.UNAVAILABLE || e.kind() == GedsException.Kind.DEADLINE_EXCEEDED;
                away = away == 0 ? now : away;
                if (!mayComeBack || now - away > AWAY_MAX_NS || (timeout != null && now - end >= 0)) {
                    throw e;
                }
                n = 0;
            }
            if (n != 0) {
                return n;
            }
            if (Thread.interrupted()) {
                throw new InterruptedIOException("interrupted while nothing was appended behind byte " + position());
            }
            if (timeout != null && System.nanoTime() - end >= 0) {
                throw new GedsException(GedsException.Kind.DEADLINE_EXCEEDED, "nothing has been appended behind byte " + position() + " within " + timeout);
            }
        }
        return 0;
    }

    private synchronized int readSome(byte[] into, int from, int len, long waitMs) throws IOException {
        if (handle == 0) {
            throw new IOException("this follower is closed");
        }
        int n = Native.readFollowed(handle, at, into, from, len, waitMs);
        at += Math.max(n, 0);
        return n;
    }

    @Override
    public synchronized void close() {
        if (handle != 0) {
            Native.closeFollower(handle);
            handle = 0;
        }
    }
}
