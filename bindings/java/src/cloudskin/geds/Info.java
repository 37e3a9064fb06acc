package cloudskin.geds;

/** What an object is: bytes, a number that rises with each writing, the xxh3 of the content, and Unix milliseconds; {@code expiresMs} 0: never. */
public record Info(long size, long epoch, long checksum, long createdMs, long expiresMs) {}
