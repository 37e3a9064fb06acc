import java.io.FileNotFoundException;
import java.io.IOException;
import java.net.URI;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import cloudskin.geds.GedsException;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.FSDataInputStream;
import org.apache.hadoop.fs.FSDataOutputStream;
import org.apache.hadoop.fs.FileAlreadyExistsException;
import org.apache.hadoop.fs.FileStatus;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.LocatedFileStatus;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.RemoteIterator;
import org.apache.hadoop.fs.permission.FsPermission;

/** The steps of bindings/scenarios.txt through the Hadoop file system: {@code HadoopScenarios TABLE FOLDER}. Files that are appended to are those of a file system with {@code fs.geds.append}. */
final class HadoopScenarios implements Table.Door {
    private final Configuration conf = new Configuration();
    private final Map<String, FSDataInputStream> held = new HashMap<>();
    private FileSystem files;
    private FileSystem appends;

    private HadoopScenarios(String folder) {
        conf.set("fs.geds.folder", folder);
        conf.set("fs.geds.site", "hadoop");
    }

    public static void main(String[] args) throws Exception {
        Table.run("hadoop", java.nio.file.Path.of(args[0]), new HadoopScenarios(args[1]));
        FileSystem.closeAll();
    }

    @Override
    public void begin(String bucket) throws IOException {
        held.clear();
        URI root = URI.create("geds://" + bucket + "/");
        files = FileSystem.newInstance(root, conf);
        Configuration growing = new Configuration(conf);
        growing.setBoolean("fs.geds.append", true);
        appends = FileSystem.newInstance(root, growing);
    }

    @Override
    public String kind(Exception e) {
        if (e instanceof FileNotFoundException) {
            return "not_found";
        }
        if (e instanceof FileAlreadyExistsException) {
            return "already_exists";
        }
        return e instanceof GedsException && ((GedsException) e).kind() == GedsException.Kind.FAILED_PRECONDITION ? "failed_precondition" : null;
    }

    private static Path at(String key) {
        return new Path("/" + key);
    }

    private static String name(FileStatus status) {
        return status.getPath().toUri().getPath().substring(1) + (status.isDirectory() ? "/" : "");
    }

    private void put(String key, byte[] content, boolean overwrite) throws IOException {
        try (FSDataOutputStream out = files.create(at(key), overwrite)) {
            out.write(content);
        }
    }

    private byte[] get(String key) throws IOException {
        try (FSDataInputStream in = files.open(at(key))) {
            return in.readAllBytes();
        }
    }

    /** At most so many bytes from a place on. */
    private static String read(FileSystem files, String key, long offset, int len) throws IOException {
        byte[] some = new byte[len];
        try (FSDataInputStream in = files.open(at(key))) {
            int n = in.read(offset, some, 0, len);
            return Table.text(Arrays.copyOf(some, Math.max(n, 0)));
        }
    }

    /** What Hadoop tells by false. */
    private static String must(boolean done, IOException otherwise) throws IOException {
        if (!done) {
            throw otherwise;
        }
        return "";
    }

    @Override
    public String does(List<String> w) throws Exception {
        String verb = w.get(0);
        String key = w.size() > 1 ? w.get(1) : "";
        switch (verb) {
            case "put", "put-new":
                put(key, Table.content(w.get(2)), verb.equals("put"));
                return "";
            case "put-large":
                put(key, Table.large(Integer.parseInt(w.get(2))), true);
                return "";
            case "get":
                return Table.text(get(key));
            case "get-large":
                return Table.compared(get(key));
            case "hold":
                held.put(key, files.open(at(w.get(2))));
                return "";
            case "held":
                held.get(key).seek(0);
                return Table.text(held.get(key).readAllBytes());
            case "size":
                return Long.toString(files.getFileStatus(at(key)).getLen());
            case "read":
                return read(files, key, Long.parseLong(w.get(2)), Integer.parseInt(w.get(3)));
            case "list":
                TreeSet<String> all = new TreeSet<>();
                for (RemoteIterator<LocatedFileStatus> each = files.listFiles(at(key), true); each.hasNext();) {
                    all.add(name(each.next()));
                }
                return String.join(" ", all);
            case "folders":
                TreeSet<String> names = new TreeSet<>();
                for (FileStatus status : files.listStatus(at(key))) {
                    names.add(name(status));
                }
                return String.join(" ", names);
            case "delete":
                return must(files.delete(at(key), false), new FileNotFoundException(key));
            case "delete-all":
                return must(files.delete(at(key), true), new FileNotFoundException(key));
            case "rename", "rename-all":
                return must(files.rename(at(key), at(w.get(2))), new FileNotFoundException(key));
            case "rename-new":
                return must(files.rename(at(key), at(w.get(2))), new FileAlreadyExistsException(key));
            case "append":
                if (!appends.exists(at(key))) {
                    appends.create(at(key), false).close();
                }
                try (FSDataOutputStream out = appends.append(at(key))) {
                    if (out.getPos() != Long.parseLong(w.get(2))) {
                        throw new AssertionError(key + " is at " + out.getPos());
                    }
                    out.write(Table.content(w.get(3)));
                }
                return Long.toString(appends.getFileStatus(at(key)).getLen());
            case "grown":
                return read(appends, key, Long.parseLong(w.get(2)), Integer.parseInt(w.get(3)));
            case "sync":
                try (FSDataOutputStream out = appends.append(at(key))) {
                    out.hsync();
                }
                return "";
            case "seal":
                appends.setPermission(at(key), new FsPermission((short) 0444));
                return "";
            case "discard":
                return must(appends.delete(at(key), false), new FileNotFoundException(key));
            default:
                throw new AssertionError(verb + " is no step");
        }
    }
}
