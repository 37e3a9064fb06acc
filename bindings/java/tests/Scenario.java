import cloudskin.geds.Counted;
import cloudskin.geds.Entry;
import cloudskin.geds.GedsException;
import cloudskin.geds.GedsException.Kind;
import cloudskin.geds.GedsObject;
import cloudskin.geds.Info;
import cloudskin.geds.Store;
import cloudskin.geds.Writer;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;

/**
 * The store through its jar: what a program in Java does with it, as a node of its own or, with a second argument, attached to an agent. The steps are those of the C library's scenario. Prints
 * nothing and ends with 0, or throws.
 */
final class Scenario {
    private interface Call {
        void run() throws Exception;
    }

    private static void check(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError("not so: " + what);
        }
    }

    private static GedsException fails(Kind kind, Call call) throws Exception {
        try {
            call.run();
        } catch (GedsException e) {
            check(e.kind() == kind, kind + ", but " + e.kind() + ": " + e.getMessage());
            return e;
        }
        throw new AssertionError("it succeeds, and should be " + kind);
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private static String text(GedsObject object) {
        return StandardCharsets.UTF_8.decode(object.bytes()).toString();
    }

    public static void main(String[] args) throws Exception {
        Path folder = Path.of(args[0]);
        boolean attached = args.length > 1;
        Store agent = null;
        Store store;
        if (attached) {
            fails(Kind.UNAVAILABLE, () -> Store.attach(folder));
            agent = Store.agent(folder, "agent", 64 << 20, 0, null);
            fails(Kind.PERMISSION_DENIED, () -> Store.agent(folder, "second", 64 << 20, 0, null));
            store = Store.attach(folder);
        } else {
            store = Store.open(folder, "in-java", 64 << 20, 0);
        }
        store.createBucket("data");
        store.put("data", "run/a", bytes("first"));

        try (Writer writer = store.create("data", "run/b", true)) {
            writer.write(bytes("sec")).write(bytes("ond")).metadata(bytes("colour=red")).seal();
        }
        check(Arrays.equals(store.metadata("data", "run/b"), bytes("colour=red")), "metadata go with the name");
        GedsException taken = fails(Kind.ALREADY_EXISTS, () -> store.put("data", "run/b", ByteBuffer.wrap(bytes("x")), true));
        check(taken.getMessage().contains("data/run/b"), taken.getMessage());

        // What is open stays, whatever happens to its key.
        GedsObject object = store.get("data", "run/b");
        check(object.length() == 6 && object.bytes().isDirect() && object.bytes().isReadOnly(), "it is mapped, and nobody writes to it");
        store.put("data", "run/b", bytes("third"));
        check(text(object).equals("second"), text(object));
        check(text(store.get("data", "run/b")).equals("third"), "the newer one is found");
        Info info = store.stat("data", "run/b");
        check(info.size() == 5 && info.epoch() > 0 && info.expiresMs() == 0, info.toString());
        check(store.metadata("data", "run/b").length == 0, "what replaces has its own metadata");

        // A gap reads as zeros; a direct buffer is written without a copy, and is taken.
        ByteBuffer late = ByteBuffer.allocateDirect(6).put(bytes("-late-")).flip().position(1).limit(5);
        try (Writer writer = store.create("data", "runner", false)) {
            writer.write(4, late);
            check(!late.hasRemaining() && writer.length() == 8, "the buffer is taken");
            writer.sealHere();
        }
        check(text(store.get("data", "runner")).equals("\0\0\0\0late"), text(store.get("data", "runner")));
        store.settle();
        check(store.stat("data", "runner").epoch() > 0, "what was settled is published");
        store.create("data", "never", false).close();
        fails(Kind.NOT_FOUND, () -> store.get("data", "never"));

        List<Entry> top = store.list("data", "", true);
        check(top.stream().map(Entry::name).toList().equals(List.of("run/", "runner")) && top.get(0).isFolder() && !top.get(1).isFolder(), top.toString());
        Counted moved = store.renamePrefix("data", "run", "old");
        check(moved.equals(new Counted(2, 10)), moved.toString());
        fails(Kind.NOT_FOUND, () -> store.get("data", "run/a"));
        store.rename("data", "old/a", "a");
        check(store.deletePrefix("data", "old").objects() == 1, "one is left there");
        store.delete("data", "a");
        fails(Kind.NOT_FOUND, () -> store.delete("data", "a"));

        // Nonsense has an answer too.
        for (String key : new String[] {null, "a//b", "../a", "a\0b", ""}) {
            fails(Kind.INVALID_ARGUMENT, () -> store.put("data", key, bytes("x")));
        }
        fails(Kind.INVALID_ARGUMENT, () -> store.create("data", "huge", false).write(-1, bytes("x"), 0, 1));
        check(fails(Kind.INVALID_ARGUMENT, () -> Store.open(folder, "No Site", 1 << 20, 0)).getMessage().contains("No Site"), "it is named");
        String own = attached ? "agent" : "in-java";
        check(fails(Kind.INVALID_ARGUMENT, () -> Store.open(folder, own, 1 << 20, 0)).getMessage().contains("another node uses it"), "a name is one process's");

        // A key in any language, and an object larger than what is copied at a time, by an array and by a buffer.
        byte[] large = new byte[(3 << 20) + 5];
        for (int n = 0; n < large.length; n++) {
            large[n] = (byte) (n * 31 >> 3);
        }
        store.put("data", "größe/数据/🛰", large);
        store.put("data", "direct", ByteBuffer.allocateDirect(large.length).put(large).flip(), false);
        check(store.list("data", "größe", false).get(0).name().equals("größe/数据/🛰"), "its name comes back");
        for (String key : List.of("größe/数据/🛰", "direct")) {
            GedsObject found = store.get("data", key);
            check(found.length() == large.length && found.bytes().equals(ByteBuffer.wrap(large)), key);
            ByteBuffer piece = found.slice(large.length - 3, 10);
            check(piece.remaining() == 3 && piece.get(2) == large[large.length - 1], "a slice ends with the object");
        }

        // Whoever has only a slice has the bytes, although its object and its key are gone; and what nobody can reach is let go.
        ByteBuffer slice = store.get("data", "direct").slice(1 << 20, 1 << 20);
        store.delete("data", "direct");
        for (int n = 0; n < 20; n++) {
            System.gc();
            store.put("data", "noise", large);
        }
        check(slice.equals(ByteBuffer.wrap(large, 1 << 20, 1 << 20)), "a slice outlives its object");

        // From several threads.
        Thread[] threads = new Thread[4];
        Throwable[] wrong = new Throwable[1];
        for (int t = 0; t < threads.length; t++) {
            String name = "threads/" + t;
            threads[t] = new Thread(() -> {
                try {
                    for (int n = 0; n < 50; n++) {
                        store.put("data", name, bytes(name + n));
                        check(text(store.get("data", name)).equals(name + n), name);
                    }
                } catch (Throwable e) {
                    wrong[0] = e;
                }
            });
            threads[t].start();
        }
        for (Thread thread : threads) {
            thread.join();
        }
        if (wrong[0] != null) {
            throw new AssertionError(wrong[0]);
        }

        store.close();
        store.close();
        fails(Kind.FAILED_PRECONDITION, () -> store.get("data", "noise"));
        if (agent != null) {
            agent.close();
        }
        check(text(object).equals("second"), "what is open outlives the store");
    }
}
