import cloudskin.geds.GedsException;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.net.URI;
import java.util.Arrays;
import java.util.Random;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.FSDataInputStream;
import org.apache.hadoop.fs.FSDataOutputStream;
import org.apache.hadoop.fs.FileAlreadyExistsException;
import org.apache.hadoop.fs.FileStatus;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.permission.FsAction;
import org.apache.hadoop.fs.permission.FsPermission;

/**
 * What Pravega's HDFS storage does with a chunk: makes it empty, then opens, appends at its length and closes for each write, looks at its length, reads at any place meanwhile, takes the right to write away, joins chunks, removes
 * them. {@code HadoopAppends FOLDER}. Prints nothing and ends with 0, or throws.
 */
final class HadoopAppends {
    private interface Call {
        void run() throws Exception;
    }

    private static void check(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError("not so: " + what);
        }
    }

    private static <T extends Exception> T fails(Class<T> with, Call call) throws Exception {
        try {
            call.run();
        } catch (Exception e) {
            check(with.isInstance(e), with + ", but " + e);
            return with.cast(e);
        }
        throw new AssertionError("it succeeds, and should be " + with);
    }

    /** One write of a chunk. */
    private static void write(FileSystem files, Path chunk, long offset, byte[] data) throws IOException {
        try (FSDataOutputStream stream = files.append(chunk)) {
            check(stream.getPos() == offset, chunk + " is at " + stream.getPos() + ", not " + offset);
            stream.write(data);
            stream.flush();
        }
    }

    private static byte[] read(FileSystem files, Path chunk, long offset, int len) throws IOException {
        byte[] some = new byte[len];
        try (FSDataInputStream stream = files.open(chunk)) {
            stream.readFully(offset, some);
        }
        return some;
    }

    public static void main(String[] args) throws Exception {
        Configuration conf = new Configuration();
        conf.set("fs.geds.folder", args[0]);
        conf.set("fs.geds.site", "pravega");
        conf.set("fs.geds.limit", "64m");
        URI root = URI.create("geds://chunks/");
        Path chunk = new Path("/scope/stream/0.#epoch.0/chunk-0");

        // Without the setting a file is sealed when it is closed, and who appends is told what to set.
        FileSystem plain = FileSystem.newInstance(root, conf);
        plain.create(new Path("/sealed"), false).close();
        check(fails(UnsupportedOperationException.class, () -> plain.append(new Path("/sealed"))).getMessage().contains("fs.geds.append"), "it says how");
        fails(UnsupportedOperationException.class, () -> plain.truncate(new Path("/sealed"), 0));
        fails(UnsupportedOperationException.class, () -> plain.concat(new Path("/sealed"), new Path[] {new Path("/sealed")}));
        fails(FileNotFoundException.class, () -> plain.open(new Path("/none")));

        conf.setBoolean("fs.geds.append", true);
        FileSystem files = FileSystem.newInstance(root, conf);
        files.create(chunk, new FsPermission(FsAction.READ_WRITE, FsAction.NONE, FsAction.NONE), false, 0, (short) 1, 1 << 20, null).close();
        check(files.exists(chunk) && files.getFileStatus(chunk).getLen() == 0, "it is there, and empty");
        fails(FileAlreadyExistsException.class, () -> files.create(chunk, false));
        fails(FileNotFoundException.class, () -> files.append(new Path("/none")));
        fails(FileNotFoundException.class, () -> files.append(new Path("/scope")));

        // Small writes and large ones, over several parts; read at any place between them, by another file system too.
        byte[] content = new byte[5_000_000];
        new Random(7).nextBytes(content);
        FileSystem other = FileSystem.newInstance(root, conf);
        int at = 0;
        for (int n = 1; at < content.length; n = n * 3 + 1) {
            int len = Math.min(n, content.length - at);
            write(files, chunk, at, Arrays.copyOfRange(content, at, at + len));
            at += len;
            check(other.getFileStatus(chunk).getLen() == at, "its length is that of all that was written");
            int from = at / 3;
            check(Arrays.equals(read(other, chunk, from, at - from), Arrays.copyOfRange(content, from, at)), "all of it can be read at " + at);
        }
        int end = at;
        fails(IOException.class, () -> read(files, chunk, end - 1, 2));

        // What is flushed can be read before the stream is closed; and two who append can't mix.
        FSDataOutputStream first = files.append(chunk);
        FSDataOutputStream second = other.append(chunk);
        check(first.hasCapability("hflush") && first.hasCapability("hsync"), "it can be asked");
        first.write("one".getBytes());
        check(files.getFileStatus(chunk).getLen() == end, "it is gathered");
        first.hflush();
        check(new String(read(files, chunk, end, 3)).equals("one"), "it is there");
        second.write("two".getBytes());
        check(fails(GedsException.class, second::hflush).kind() == GedsException.Kind.FAILED_PRECONDITION, "somebody has appended meanwhile");
        fails(IOException.class, second::close);
        first.hsync();
        first.close();
        check(files.getFileStatus(chunk).getLen() == end + 3, "only one of them is there");

        // Nothing is cut.
        check(files.truncate(chunk, end + 3), "it has that length");
        check(fails(UnsupportedOperationException.class, () -> files.truncate(chunk, end)).getMessage().contains("only grow"), "it says so");

        // Chunks are joined, and the sources are gone.
        Path[] sources = {new Path(chunk.getParent(), "chunk-1"), new Path(chunk.getParent(), "chunk-2")};
        for (Path source : sources) {
            files.create(source, false).close();
            write(files, source, 0, source.getName().getBytes());
        }
        check(files.listStatus(chunk.getParent()).length == 3, "three chunks");
        files.concat(chunk, sources);
        check(new String(read(files, chunk, end, 3 + 14)).equals("onechunk-1chunk-2") && !files.exists(sources[0]) && !files.exists(sources[1]), "they are one");
        check(files.listStatus(chunk.getParent()).length == 1, "one chunk");

        // The process ends, and begins again: what grew grows on.
        files.close();
        other.close();
        plain.close();
        FileSystem again = FileSystem.newInstance(root, conf);
        FileStatus[] listed = again.listStatus(new Path("/scope/stream"));
        check(listed.length == 1 && listed[0].isDirectory(), Arrays.toString(listed));
        check(Arrays.equals(read(again, chunk, 0, end), content), "all of it is there");
        write(again, chunk, end + 17, "end".getBytes());

        // Who may not write seals: it is an object like others, and nothing is appended any more.
        again.setPermission(chunk, new FsPermission(FsAction.READ, FsAction.READ, FsAction.READ));
        check(again.getFileStatus(chunk).getLen() == end + 20 && new String(read(again, chunk, end + 17, 3)).equals("end"), "it is the same");
        check(fails(GedsException.class, () -> again.append(chunk)).getMessage().contains("sealed"), "it says why");
        Path moved = new Path("/moved");
        again.create(moved, true).close();
        write(again, moved, 0, "x".getBytes());
        check(again.rename(moved, new Path("/renamed")) && again.getFileStatus(new Path("/renamed")).getLen() == 1 && !again.exists(moved), "a file that grows is sealed by a new name");
        again.create(new Path("/renamed"), true).close();
        check(again.getFileStatus(new Path("/renamed")).getLen() == 0, "begun anew");
        check(again.delete(chunk, true) && !again.exists(chunk) && again.delete(new Path("/renamed"), false) && !again.exists(new Path("/renamed")), "removed");
        check(!again.delete(chunk, false), "once");
        again.create(new Path("/scope/a/b"), false).close();
        check(again.delete(new Path("/scope"), true) && !again.exists(new Path("/scope")), "a folder with what grows in it");
        again.close();
    }
}
