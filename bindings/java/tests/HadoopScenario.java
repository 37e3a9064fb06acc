import java.io.FileNotFoundException;
import java.io.IOException;
import java.net.URI;
import java.nio.ByteBuffer;
import java.util.Arrays;
import java.util.List;
import java.util.TreeSet;
import java.util.concurrent.CyclicBarrier;
import java.util.concurrent.FutureTask;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.FSDataInputStream;
import org.apache.hadoop.fs.FSDataOutputStream;
import org.apache.hadoop.fs.FileAlreadyExistsException;
import org.apache.hadoop.fs.FileStatus;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.LocatedFileStatus;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.RemoteIterator;

/** What programs do with a Hadoop file system, on geds:// and, so that the two can't differ, with a second argument on Hadoop's own of local files. Prints nothing and ends with 0, or throws. */
final class HadoopScenario {
    private static FileSystem files;
    private static Path root;

    private interface Call {
        void run() throws Exception;
    }

    private static void check(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError("not so: " + what);
        }
    }

    private static void fails(Class<? extends IOException> with, Call call) throws Exception {
        try {
            call.run();
        } catch (IOException e) {
            check(with.isInstance(e), with + ", but " + e);
            return;
        }
        throw new AssertionError("it succeeds, and should be " + with);
    }

    private static Path at(String name) {
        return new Path(root, name);
    }

    private static void write(String name, byte[] content) throws IOException {
        try (FSDataOutputStream out = files.create(at(name), true)) {
            out.write(content);
        }
    }

    private static List<String> names(String folder) throws IOException {
        TreeSet<String> names = new TreeSet<>();
        for (FileStatus status : files.listStatus(at(folder))) {
            names.add(status.getPath().getName() + (status.isDirectory() ? "/" : ""));
        }
        return List.copyOf(names);
    }

    public static void main(String[] args) throws Exception {
        Configuration conf = new Configuration();
        if (args.length > 1) {
            files = FileSystem.getLocal(conf).getRaw();
            root = new Path(args[0]);
            files.mkdirs(root);
        } else {
            conf.set("fs.geds.folder", args[0]);
            conf.set("fs.geds.site", "hadoop");
            files = FileSystem.get(URI.create("geds://data/"), conf);
            check(files.getClass().getName().equals("cloudskin.geds.hadoop.GedsFileSystem"), "it is found by its scheme");
            root = new Path("geds://data/test");
            check(files.mkdirs(root), "the root");
        }

        byte[] large = new byte[5 << 20];
        for (int n = 0; n < large.length; n++) {
            large[n] = (byte) (n * 7 >> 2);
        }
        write("a/b/large", large);
        write("a/small", "small".getBytes());
        check(names("a").equals(List.of("b/", "small")), names("a").toString());
        FileStatus status = files.getFileStatus(at("a/b/large"));
        check(status.isFile() && status.getLen() == large.length, status.toString());
        check(files.getFileStatus(at("a/b")).isDirectory() && files.getFileStatus(at("a")).isDirectory(), "folders are there with what is in them");
        fails(FileNotFoundException.class, () -> files.getFileStatus(at("none")));
        fails(FileNotFoundException.class, () -> files.listStatus(at("none")));
        fails(FileNotFoundException.class, () -> files.open(at("none")));
        fails(FileNotFoundException.class, () -> files.open(at("a")).close());

        // Read from the front, at any place, and into a buffer.
        try (FSDataInputStream in = files.open(at("a/b/large"))) {
            byte[] all = new byte[large.length];
            in.readFully(all);
            check(Arrays.equals(all, large) && in.read() == -1, "all of it, then the end");
            in.seek(1234567);
            check(in.getPos() == 1234567 && in.read() == (large[1234567] & 0xff), "after a seek");
            byte[] piece = new byte[1000];
            in.readFully(4_000_000, piece);
            check(Arrays.equals(piece, Arrays.copyOfRange(large, 4_000_000, 4_001_000)) && in.getPos() == 1234568, "a place of its own");
            if (args.length == 1) {
                // Hadoop's own of local files can't.
                ByteBuffer some = ByteBuffer.allocateDirect(4096);
                int n = in.read(some);
                check(n > 0 && some.flip().equals(ByteBuffer.wrap(large, 1234568, n)), "into a direct buffer");
            }
        }

        // Created once, or over what is there; never over a folder, or below a file.
        fails(IOException.class, () -> files.create(at("a/small"), false).close());
        fails(IOException.class, () -> files.create(at("a"), true).close());
        fails(IOException.class, () -> files.create(at("a/small/x"), true).close());
        fails(IOException.class, () -> files.mkdirs(at("a/small")));
        write("a/small", "other".getBytes());
        try (FSDataInputStream in = files.open(at("a/small"))) {
            check(new String(in.readAllBytes()).equals("other"), "it was written over");
        }

        // Renamed: a file, a folder, into a folder; never over a file.
        check(files.rename(at("a/small"), at("a/renamed")), "a file");
        check(!files.exists(at("a/small")) && files.exists(at("a/renamed")), "it has the new name only");
        check(files.mkdirs(at("to/here")), "a folder");
        check(names("to").equals(List.of("here/")) && names("to/here").isEmpty(), "it is empty");
        check(files.rename(at("a"), at("to/here/moved")), "a folder with all that is in it");
        check(names("to/here/moved").equals(List.of("b/", "renamed")) && !files.exists(at("a")), "it is there");
        check(files.rename(at("to/here/moved/renamed"), at("to")), "into a folder");
        check(names("to").equals(List.of("here/", "renamed")), names("to").toString());

        // A name that begins like another's is another one.
        write("foo/x", new byte[] {1});
        write("foobar/x", new byte[] {2});
        check(files.rename(at("foo"), at("fuu")) && names("foobar").equals(List.of("x")), "it stays when the other is renamed");
        check(files.delete(at("fuu"), true) && files.delete(at("foobar"), true) && !files.exists(at("fuu")), "and when the other is removed");

        // As a job commits its output: written aside, then moved into place as one.
        for (int n = 0; n < 3; n++) {
            write("out/_temporary/0/task_" + n + "/part-" + n, ("part " + n).getBytes());
        }
        for (int n = 0; n < 3; n++) {
            check(files.rename(at("out/_temporary/0/task_" + n + "/part-" + n), at("out/part-" + n)), "part " + n);
        }
        check(files.delete(at("out/_temporary"), true), "what is left of it");
        write("out/_SUCCESS", new byte[0]);
        check(names("out").equals(List.of("_SUCCESS", "part-0", "part-1", "part-2")), names("out").toString());
        int files_found = 0;
        for (RemoteIterator<LocatedFileStatus> each = files.listFiles(root, true); each.hasNext(); each.next()) {
            files_found++;
        }
        check(files_found == 6, files_found + " files in all");

        // Removed: a folder only with what is in it if that was said; and a folder stays when its last file goes.
        fails(IOException.class, () -> files.delete(at("to"), false));
        check(files.delete(at("to/renamed"), false) && !files.delete(at("to/renamed"), false), "a file, once");
        check(files.delete(at("to/here/moved/b/large"), false), "the last in its folder");
        check(files.getFileStatus(at("to/here/moved/b")).isDirectory() && names("to/here/moved/b").isEmpty(), "the folder stays");
        check(files.delete(at("to/here/moved/b"), false) && !files.exists(at("to/here/moved/b")), "an empty folder");
        check(files.delete(at("to"), true) && !files.exists(at("to")), "all of it");

        if (args.length == 1) {
            race();
            // Nobody sees half a file: it is there when its stream is closed.
            FSDataOutputStream out = files.create(at("late"), false);
            out.write(large);
            check(!files.exists(at("late")), "it is not there yet");
            write("late", "first".getBytes());
            fails(FileAlreadyExistsException.class, out::close);
            check(files.getFileStatus(at("late")).getLen() == 5, "who was first has it");
            try {
                files.append(at("late"));
                throw new AssertionError("a sealed object is appended to");
            } catch (UnsupportedOperationException e) {
                check(e.getMessage().contains("late"), e.getMessage());
            }
        }
        files.close();
    }

    private static String content(String name) throws IOException {
        try (FSDataInputStream in = files.open(at(name))) {
            return new String(in.readAllBytes());
        }
    }

    /** A folder is renamed while another one makes a file at its new name: who is first has it, and what the other has is not written over. */
    private static void race() throws Exception {
        for (int n = 0; n < 100; n++) {
            String from = "race/from-" + n;
            String to = "race/to-" + n;
            write(from + "/x", "renamed".getBytes());
            CyclicBarrier begin = new CyclicBarrier(2);
            FutureTask<Boolean> other = new FutureTask<>(() -> {
                begin.await();
                try (FSDataOutputStream out = files.create(at(to + "/x"), false)) {
                    out.write("other".getBytes());
                } catch (FileAlreadyExistsException e) {
                    return false;
                }
                return true;
            });
            new Thread(other).start();
            begin.await();
            boolean renamed = files.rename(at(from), at(to));
            // Who looks after the other one has come puts it into the folder that is there by then.
            String moved = other.get() ? to + "/from-" + n + "/x" : to + "/x";
            check(!other.get() || content(to + "/x").equals("other"), "round " + n + ": what was made is there");
            check(content(renamed ? moved : from + "/x").equals("renamed"), "round " + n + ": what was renamed is there, or has stayed");
            check(!renamed || !files.exists(at(from)), "round " + n + ": it has one name");
        }
    }
}
