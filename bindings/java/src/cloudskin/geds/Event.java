package cloudskin.geds;

/** Something that has happened in a bucket. {@code seq} counts the bucket's changes, without a gap; {@code name} is a key, or a prefix. */
public record Event(long seq, What what, String name, long epoch, long size) {
    public enum What {
        /** The key means another content now, of this epoch and size. */
        SEALED,
        REMOVED,
        /** The key's metadata are others. */
        CHANGED,
        /** All at the prefix and below it may be new. */
        PREFIX_SEALED,
        PREFIX_REMOVED
    }
}
