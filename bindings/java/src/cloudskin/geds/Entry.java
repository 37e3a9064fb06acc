package cloudskin.geds;

/** A line of a listing: an object, or a folder, whose name ends with {@code /} and whose {@code info} is null. */
public record Entry(String name, Info info) {
    public boolean isFolder() {
        return info == null;
    }
}
