import cloudskin.geds.Appendable;
import cloudskin.geds.GedsException;
import cloudskin.geds.GedsException.Kind;
import cloudskin.geds.GedsObject;
import cloudskin.geds.Info;
import cloudskin.geds.Store;
import cloudskin.geds.Writer;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.List;

/**
 * The store through its jar: what a program in Java does with it, as a node of its own or, with a second argument, attached to an agent. What all doors do is in Scenarios; this is
 * what only Java can do wrong: buffers, collectors, threads. Prints nothing and ends with 0, or throws.
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
        // It is mapped, and nobody writes to it.
        try (Writer writer = store.create("data", "a", true)) {
            writer.write(bytes("sec")).write(bytes("ond")).seal();
        }
        GedsObject object = store.get("data", "a");
        check(object.length() == 6 && object.bytes().isDirect() && object.bytes().isReadOnly(), "it is mapped, and nobody writes to it");
        Info info = store.stat("data", "a");
        check(info.size() == 6 && info.epoch() > 0 && info.createdMs() > 0 && info.expiresMs() == 0, info.toString());
        ByteBuffer late = ByteBuffer.allocateDirect(4).put(bytes("late")).flip();
        try (Writer writer = store.create("data", "b", false)) {
            writer.write(4, late);
            check(!late.hasRemaining() && writer.length() == 8, "the buffer is taken");
            writer.seal();
        }
        check(text(store.get("data", "b")).equals("\0\0\0\0late"), text(store.get("data", "b")));
        // Who has closed his handle of what grows has none.
        Appendable growing = store.appendable("data", "grows");
        growing.append(bytes("one"));
        fails(Kind.ALREADY_EXISTS, () -> store.newAppendable("data", "grows"));
        growing.close();
        growing.close();
        fails(Kind.FAILED_PRECONDITION, growing::length);
        check(store.growing("data", "none") == null && store.growing("data", "grows").length() == 3, "it grows on");
        fails(Kind.INVALID_ARGUMENT, () -> store.read("data", "a", -1, 5));

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
