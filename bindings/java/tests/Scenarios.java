import cloudskin.geds.Appendable;
import cloudskin.geds.Counted;
import cloudskin.geds.Entry;
import cloudskin.geds.Follower;
import cloudskin.geds.GedsException;
import cloudskin.geds.GedsObject;
import cloudskin.geds.Store;
import cloudskin.geds.Watched;
import cloudskin.geds.Writer;
import java.nio.ByteBuffer;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.stream.Collectors;

/** The steps of bindings/scenarios.txt through the jar: {@code Scenarios DOOR TABLE FOLDER}. The door {@code java} is a node of its own, {@code java-attached} attaches to an agent of the same process. */
final class Scenarios implements Table.Door {
    private static final Duration MINUTE = Duration.ofMinutes(1);

    private final Store store;
    private final Map<String, GedsObject> held = new HashMap<>();
    private final Map<String, Follower> followers = new HashMap<>();
    private String bucket;

    private Scenarios(Store store) {
        this.store = store;
    }

    public static void main(String[] args) throws Exception {
        try (Store agent = Store.agent(Path.of(args[2]), "agent", 64 << 20, 0, "file:" + args[2] + "-tier")) {
            if (args[0].equals("java")) {
                Table.run(args[0], Path.of(args[1]), new Scenarios(agent));
            } else {
                try (Store attached = Store.attach(Path.of(args[2]))) {
                    Table.run(args[0], Path.of(args[1]), new Scenarios(attached));
                }
            }
        }
    }

    @Override
    public void begin(String bucket) throws GedsException {
        this.bucket = bucket;
        held.clear();
        followers.values().forEach(Follower::close);
        followers.clear();
        store.createBucket(bucket);
        store.createBucket(bucket + "-2");
    }

    @Override
    public String kind(Exception e) {
        return e instanceof GedsException ? ((GedsException) e).kind().name().toLowerCase(Locale.ROOT) : null;
    }

    private String in(String key) {
        return key.startsWith("@") ? bucket + "-2" : bucket;
    }

    private static String key(String key) {
        return key.startsWith("@") ? key.substring(1) : key;
    }

    private static byte[] bytes(GedsObject object) {
        ByteBuffer buffer = object.bytes();
        byte[] bytes = new byte[buffer.remaining()];
        buffer.get(bytes);
        return bytes;
    }

    private static String counted(Counted counted) {
        return counted.objects() + " " + counted.bytes();
    }

    private static String names(List<Entry> entries) {
        return entries.stream().map(Entry::name).collect(Collectors.joining(" "));
    }

    private void put(List<String> words) throws GedsException {
        String verb = words.get(0);
        String name = words.get(1);
        try (Writer writer = store.create(in(name), key(name), verb.equals("put-new"))) {
            if (verb.equals("put-at")) {
                for (int n = 2; n < words.size(); n += 2) {
                    byte[] piece = Table.content(words.get(n + 1));
                    writer.write(Long.parseLong(words.get(n)), piece, 0, piece.length);
                }
            } else {
                writer.write(verb.equals("put-large") ? Table.large(Integer.parseInt(words.get(2))) : Table.content(words.get(2)));
            }
            switch (verb) {
                case "put-with" -> writer.metadata(Table.content(words.get(3)));
                case "put-for" -> writer.leaseTo(words.get(3));
                case "put-ms" -> writer.expireAfter(Duration.ofMillis(Long.parseLong(words.get(3))));
                default -> { }
            }
            switch (verb) {
                case "abandon" -> { }
                case "put-here" -> writer.sealHere();
                default -> writer.seal();
            }
        }
    }

    private Appendable growing(String key) throws GedsException {
        Appendable growing = store.growing(bucket, key);
        if (growing == null) {
            // For its error.
            store.stat(bucket, key);
            throw new AssertionError(key + " is sealed");
        }
        return growing;
    }

    @Override
    public String does(List<String> w) throws Exception {
        String verb = w.get(0);
        String first = w.size() > 1 ? w.get(1) : "";
        String in = in(first);
        String key = key(first);
        if (verb.startsWith("put") || verb.equals("abandon")) {
            put(w);
            return "";
        }
        switch (verb) {
            case "get":
                return Table.text(bytes(store.get(in, key)));
            case "get-large":
                return Table.compared(bytes(store.get(in, key)));
            case "hold":
                held.put(first, store.get(bucket, w.get(2)));
                return "";
            case "held":
                return Table.text(bytes(held.get(first)));
            case "size":
                return Long.toString(store.stat(in, key).size());
            case "metadata":
                return Table.text(store.metadata(in, key));
            case "read":
                return Table.text(store.read(in, key, Long.parseLong(w.get(2)), Integer.parseInt(w.get(3))));
            case "list":
                return names(store.list(in, key, false));
            case "folders":
                return names(store.list(in, key, true));
            case "delete":
                store.delete(in, key);
                return "";
            case "rename", "rename-new":
                store.rename(in, key, in(w.get(2)), key(w.get(2)), verb.equals("rename-new"));
                return "";
            case "copy", "copy-new":
                store.copy(in, key, in(w.get(2)), key(w.get(2)), verb.equals("copy-new"));
                return "";
            case "delete-all":
                return counted(store.deletePrefix(in, key));
            case "rename-all", "rename-all-new":
                return counted(store.renamePrefix(in, key, in(w.get(2)), key(w.get(2)), verb.equals("rename-all-new")));
            case "copy-all":
                return counted(store.copyPrefix(in, key, in(w.get(2)), key(w.get(2))));
            case "job":
                store.keepJob(first, null);
                return "";
            case "end-job":
                return counted(store.dropJob(first));
            case "gone":
                for (long end = System.nanoTime() + MINUTE.toNanos(); System.nanoTime() < end; Thread.sleep(20)) {
                    try {
                        store.stat(in, key);
                    } catch (GedsException e) {
                        if (e.kind() == GedsException.Kind.NOT_FOUND) {
                            return "";
                        }
                        throw e;
                    }
                }
                throw new AssertionError("it never went");
            case "settle":
                store.settle();
                return "";
            case "flush":
                store.flush(in, key, MINUTE);
                return "";
            case "durable":
                store.waitDurable(in, key, MINUTE);
                return "";
            case "spill":
                return counted(store.spill(in, key));
            case "watch":
                Watched watched = store.watch(bucket, first.equals("far") ? 1 << 30 : Long.parseLong(first), Duration.ZERO);
                return watched.resync() ? "resync"
                        : watched.events().stream().map(event -> event.what().name().toLowerCase(Locale.ROOT).replace('_', '-') + ":" + event.name()).collect(Collectors.joining(" "));
            case "follow":
                followers.put(first, store.follow(bucket, w.get(2), 0, MINUTE));
                return "";
            case "followed":
                byte[] some = new byte[Integer.parseInt(w.get(3))];
                followers.get(first).seek(Long.parseLong(w.get(2)));
                int came = followers.get(first).read(some);
                return Table.text(Arrays.copyOf(some, Math.max(came, 0)));
            case "growing":
                return names(store.listAppendables(bucket, first));
            case "append":
                try (Appendable growing = store.appendable(bucket, first)) {
                    byte[] piece = Table.content(w.get(3));
                    growing.append(Long.parseLong(w.get(2)), piece, 0, piece.length);
                    return Long.toString(growing.length());
                }
            case "grown":
                try (Appendable growing = growing(first)) {
                    return Table.text(growing.read(Long.parseLong(w.get(2)), Integer.parseInt(w.get(3))));
                }
            case "sync":
                try (Appendable growing = growing(first)) {
                    growing.sync();
                    return "";
                }
            case "seal":
                try (Appendable growing = growing(first)) {
                    growing.seal();
                    return "";
                }
            case "discard":
                try (Appendable growing = growing(first)) {
                    growing.discard();
                    return "";
                }
            default:
                throw new AssertionError(verb + " is no step");
        }
    }
}
