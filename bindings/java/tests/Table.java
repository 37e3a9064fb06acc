import java.io.ByteArrayOutputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/** Reads bindings/scenarios.txt and has a door do its steps; says the names of the scenarios that it has done. */
final class Table {
    private Table() {}

    /** A door of the store's. */
    interface Door {
        void begin(String bucket) throws Exception;

        /** What a step says. */
        String does(List<String> words) throws Exception;

        /** The kind of an error, as the table has it; null: it is none of the store's. */
        String kind(Exception e);
    }

    static void run(String name, Path table, Door door) throws Exception {
        String scenario = null;
        boolean skipped = true;
        int number = 0;
        for (String line : Files.readAllLines(table)) {
            number++;
            List<String> words = new ArrayList<>();
            for (String word : line.trim().split("\\s+")) {
                words.add(word.equals("''") ? "" : word);
            }
            if (line.isBlank() || words.get(0).startsWith("#")) {
                continue;
            }
            if (words.get(0).equals("scenario")) {
                if (!skipped) {
                    System.out.println(scenario);
                }
                scenario = words.get(1);
                skipped = false;
                door.begin(scenario);
            } else if (words.get(0).equals("without")) {
                skipped |= words.subList(1, words.indexOf(":")).contains(name);
            } else if (!skipped) {
                step(table + ":" + number, words, door);
            }
        }
        if (!skipped) {
            System.out.println(scenario);
        }
    }

    private static void step(String where, List<String> words, Door door) throws Exception {
        int at = words.indexOf("=") >= 0 ? words.indexOf("=") : words.indexOf("!");
        List<String> step = at < 0 ? words : words.subList(0, at);
        String sort = at < 0 ? "" : words.get(at);
        String expected = at < 0 ? "" : String.join(" ", words.subList(at + 1, words.size()));
        String given;
        try {
            String said = door.does(step);
            given = sort.equals("=") ? "= " + said : "";
        } catch (Exception e) {
            String kind = door.kind(e);
            if (kind == null) {
                throw new AssertionError(where + ": " + step, e);
            }
            given = "! " + kind + " (" + e.getMessage() + ")";
        }
        boolean good = sort.equals("!") ? given.startsWith("! " + expected + " (") : given.equals(sort.isEmpty() ? "" : "= " + expected);
        if (!good) {
            throw new AssertionError(where + ": " + step + " gives \"" + given + "\" and not " + sort + " \"" + expected + "\"");
        }
    }

    static byte[] content(String word) {
        byte[] text = word.getBytes(StandardCharsets.UTF_8);
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        for (int n = 0; n < text.length; n++) {
            if (text[n] == '%') {
                out.write(Integer.parseInt(new String(text, n + 1, 2, StandardCharsets.US_ASCII), 16));
                n += 2;
            } else {
                out.write(text[n]);
            }
        }
        return out.toByteArray();
    }

    static String text(byte[] bytes) {
        StringBuilder out = new StringBuilder();
        for (byte one : bytes) {
            out.append(one > 0x20 && one < 0x7f && one != '%' ? String.valueOf((char) one) : String.format("%%%02X", one & 0xff));
        }
        return out.toString();
    }

    static byte[] large(int size) {
        byte[] bytes = new byte[size];
        for (int n = 0; n < size; n++) {
            bytes[n] = (byte) ((long) n * 31 / 8);
        }
        return bytes;
    }

    static String compared(byte[] found) {
        return Arrays.equals(found, large(found.length)) ? Integer.toString(found.length) : "other bytes";
    }
}
