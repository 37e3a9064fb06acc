package cloudskin.geds;

import java.util.List;

/**
 * What has happened in a bucket after a token, and the token to go on with, which is good in other processes and after restarts. {@code resync}: the one that was given is too old, and events are missing; list the bucket, then
 * go on from {@code next}.
 */
public record Watched(List<Event> events, long next, boolean resync) {}
