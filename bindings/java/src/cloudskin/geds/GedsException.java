package cloudskin.geds;

import java.io.IOException;
import java.nio.charset.StandardCharsets;

/** What went wrong, with bucket and key in its message. */
public final class GedsException extends IOException {
    private static final long serialVersionUID = 1;

    /** Of what sort it is; the numbers are those of google.rpc.Code. */
    public enum Kind {
        INVALID_ARGUMENT(3), DEADLINE_EXCEEDED(4), NOT_FOUND(5), ALREADY_EXISTS(6), PERMISSION_DENIED(7), RESOURCE_EXHAUSTED(8), FAILED_PRECONDITION(9), UNIMPLEMENTED(12),
        INTERNAL(13), UNAVAILABLE(14), DATA_LOSS(15), UNAUTHENTICATED(16);

        private final int code;

        Kind(int code) {
            this.code = code;
        }

        private static Kind of(int code) {
            for (Kind kind : values()) {
                if (kind.code == code) {
                    return kind;
                }
            }
            return INTERNAL;
        }
    }

    private final Kind kind;

    GedsException(Kind kind, String message) {
        super(message);
        this.kind = kind;
    }

    /** Called by the native half. */
    GedsException(int code, byte[] message) {
        this(Kind.of(code), new String(message, StandardCharsets.UTF_8));
    }

    public Kind kind() {
        return kind;
    }
}
