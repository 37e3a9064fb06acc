package cloudskin.geds;

/** How many objects an operation was about, and their bytes. */
public record Counted(long objects, long bytes) {}
