package cloudskin.geds.hadoop;

import cloudskin.geds.Entry;
import cloudskin.geds.GedsException;
import cloudskin.geds.GedsObject;
import cloudskin.geds.Info;
import cloudskin.geds.Store;
import cloudskin.geds.Writer;
import java.io.EOFException;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.io.OutputStream;
import java.net.URI;
import java.nio.ByteBuffer;
import java.nio.file.Paths;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.ByteBufferReadable;
import org.apache.hadoop.fs.FSDataInputStream;
import org.apache.hadoop.fs.FSDataOutputStream;
import org.apache.hadoop.fs.FSInputStream;
import org.apache.hadoop.fs.FileAlreadyExistsException;
import org.apache.hadoop.fs.FileStatus;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.ParentNotDirectoryException;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.PathIsNotEmptyDirectoryException;
import org.apache.hadoop.fs.permission.FsPermission;
import org.apache.hadoop.util.Progressable;

/**
 * {@code geds://BUCKET/KEY} for programs that read and write through Hadoop, such as Spark.
 *
 * <pre>
 * fs.geds.impl     cloudskin.geds.hadoop.GedsFileSystem
 * fs.geds.folder   the folder of an agent, to which this process attaches; or, with fs.geds.site, of a store that it is a node of
 * fs.geds.site     the node's name
 * fs.geds.limit    bytes of disk that it may use (1 GiB)
 * </pre>
 *
 * <p>A file is a sealed object: it is there, for all, when its stream is closed, and as a whole. A folder is there while something lies in it, or an empty object with the name {@code .folder}. Renaming is
 * one step for a file and for a folder, and moves no data. Nothing can be appended to, and owners, permissions and times are not kept.
 *
 * <p>All file systems of a process with the same settings share one store.
 */
public final class GedsFileSystem extends FileSystem {
    public static final String SCHEME = "geds";
    private static final String MARK = ".folder";
    private static final long LIMIT = 1L << 30;
    /** What a reader would like to be given at a time, as the block size of files: an object lies at one place as a whole. */
    private static final long BLOCK_BYTES = 128L << 20;
    /** Bytes that are gathered before they are written. */
    private static final int BUFFER_BYTES = 1 << 20;

    /** Stores by their settings, and how many file systems have them. */
    private static final Map<List<String>, Shared> STORES = new HashMap<>();

    private static final class Shared {
        final Store store;
        int users;

        Shared(Store store) {
            this.store = store;
        }
    }

    private URI uri;
    private String bucket;
    private Path workingDirectory;
    private List<String> settings;
    private Store store;

    @Override
    public String getScheme() {
        return SCHEME;
    }

    @Override
    public URI getUri() {
        return uri;
    }

    @Override
    public void initialize(URI name, Configuration conf) throws IOException {
        super.initialize(name, conf);
        setConf(conf);
        bucket = name.getAuthority();
        if (bucket == null) {
            throw new IOException("file system " + name + " has no bucket: write geds://BUCKET/");
        }
        String folder = conf.getTrimmed("fs.geds.folder");
        if (folder == null || folder.isEmpty()) {
            throw new IOException("fs.geds.folder is not set: name the folder of an agent (`cloudskin agent --data FOLDER`) or of a store");
        }
        uri = URI.create(SCHEME + "://" + bucket);
        workingDirectory = new Path("/");
        settings = List.of(folder, conf.getTrimmed("fs.geds.site", ""), conf.getTrimmed("fs.geds.limit", Long.toString(LIMIT)));
        synchronized (STORES) {
            Shared shared = STORES.get(settings);
            if (shared == null) {
                java.nio.file.Path at = Paths.get(folder);
                String site = settings.get(1);
                shared = new Shared(site.isEmpty() ? Store.attach(at) : Store.open(at, site, conf.getLongBytes("fs.geds.limit", LIMIT), 0));
                STORES.put(settings, shared);
            }
            shared.users++;
            store = shared.store;
        }
        store.createBucket(bucket);
    }

    @Override
    public void close() throws IOException {
        super.close();
        synchronized (STORES) {
            Shared shared = settings == null ? null : STORES.get(settings);
            if (shared != null && store != null && --shared.users == 0) {
                STORES.remove(settings);
                shared.store.close();
            }
            store = null;
        }
    }

    // --- names -------------------------------------------------------------------------------------------------------------------

    /** The key of a path; the bucket itself is "". */
    private String key(Path path) {
        checkPath(path);
        String text = path.makeQualified(uri, workingDirectory).toUri().getPath();
        return text.substring(1);
    }

    private Path path(String key) {
        return new Path(uri.getScheme(), uri.getAuthority(), "/" + key);
    }

    private static String under(String folder, String name) {
        return folder.isEmpty() ? name : folder + "/" + name;
    }

    private static String parent(String key) {
        int slash = key.lastIndexOf('/');
        return slash < 0 ? "" : key.substring(0, slash);
    }

    private static boolean is(IOException e, GedsException.Kind kind) {
        return e instanceof GedsException && ((GedsException) e).kind() == kind;
    }

    private static FileNotFoundException missing(Path path) {
        return new FileNotFoundException(path + " does not exist");
    }

    /** What an object is; null: there is none. */
    private Info object(String key) throws IOException {
        if (key.isEmpty()) {
            return null;
        }
        try {
            return store.stat(bucket, key);
        } catch (GedsException e) {
            if (is(e, GedsException.Kind.NOT_FOUND)) {
                return null;
            }
            throw e;
        }
    }

    /** What lies in a folder, its mark too; folders with a slash at the end. The object with the folder's own name is not in it. */
    private List<Entry> entries(String folder) throws IOException {
        List<Entry> found = new ArrayList<>();
        for (Entry entry : store.list(bucket, folder, true)) {
            if (!entry.name().equals(folder)) {
                found.add(entry);
            }
        }
        return found;
    }

    private boolean isFolder(String key) throws IOException {
        return key.isEmpty() || !entries(key).isEmpty();
    }

    /** A folder that has lost what was in it is there still. */
    private void keepFolder(String folder) throws IOException {
        if (!folder.isEmpty() && !isFolder(folder)) {
            store.put(bucket, under(folder, MARK), new byte[0]);
        }
    }

    private FileStatus status(String key, Info info) {
        if (info == null) {
            return new FileStatus(0, true, 1, 0, 0, path(key));
        }
        return new FileStatus(info.size(), false, 1, BLOCK_BYTES, info.createdMs(), path(key));
    }

    // --- looking -----------------------------------------------------------------------------------------------------------------

    @Override
    public FileStatus getFileStatus(Path path) throws IOException {
        String key = key(path);
        Info info = object(key);
        if (info == null && !isFolder(key)) {
            throw missing(path);
        }
        return status(key, info);
    }

    @Override
    public FileStatus[] listStatus(Path path) throws IOException {
        String key = key(path);
        Info info = object(key);
        if (info != null) {
            return new FileStatus[] {status(key, info)};
        }
        List<Entry> entries = entries(key);
        if (entries.isEmpty() && !key.isEmpty()) {
            throw missing(path);
        }
        List<FileStatus> found = new ArrayList<>();
        for (Entry entry : entries) {
            if (entry.isFolder()) {
                found.add(status(entry.name().substring(0, entry.name().length() - 1), null));
            } else if (!entry.name().equals(under(key, MARK))) {
                found.add(status(entry.name(), entry.info()));
            }
        }
        return found.toArray(new FileStatus[0]);
    }

    @Override
    public void setWorkingDirectory(Path path) {
        workingDirectory = path.makeQualified(uri, workingDirectory);
    }

    @Override
    public Path getWorkingDirectory() {
        return workingDirectory;
    }

    // --- reading -----------------------------------------------------------------------------------------------------------------

    @Override
    public FSDataInputStream open(Path path, int bufferSize) throws IOException {
        String key = key(path);
        try {
            return new FSDataInputStream(new Input(store.get(bucket, key)));
        } catch (GedsException e) {
            if (is(e, GedsException.Kind.NOT_FOUND) || key.isEmpty()) {
                throw isFolder(key) ? new FileNotFoundException(path + " is a folder") : missing(path);
            }
            throw e;
        }
    }

    /** Copies out of the mapping; nothing is read ahead, because everything is there. */
    private static final class Input extends FSInputStream implements ByteBufferReadable {
        private GedsObject object;
        private long at;

        Input(GedsObject object) {
            this.object = object;
        }

        private GedsObject object() throws IOException {
            if (object == null) {
                throw new IOException("the stream is closed");
            }
            return object;
        }

        @Override
        public synchronized int read() throws IOException {
            ByteBuffer one = object().slice(at, 1);
            if (!one.hasRemaining()) {
                return -1;
            }
            at++;
            return one.get() & 0xff;
        }

        @Override
        public synchronized int read(byte[] into, int from, int len) throws IOException {
            int n = read(at, into, from, len);
            at += Math.max(n, 0);
            return n;
        }

        @Override
        public synchronized int read(ByteBuffer into) throws IOException {
            if (!into.hasRemaining()) {
                return 0;
            }
            ByteBuffer some = object().slice(at, into.remaining());
            int n = some.remaining();
            into.put(some);
            at += n;
            return n == 0 ? -1 : n;
        }

        @Override
        public synchronized int read(long offset, byte[] into, int from, int len) throws IOException {
            validatePositionedReadArgs(offset, into, from, len);
            if (len == 0) {
                return 0;
            }
            if (offset >= object().length()) {
                return -1;
            }
            ByteBuffer some = object().slice(offset, len);
            int n = some.remaining();
            some.get(into, from, n);
            return n;
        }

        @Override
        public synchronized void seek(long offset) throws IOException {
            if (offset < 0 || offset > object().length()) {
                throw new EOFException("byte " + offset + " of an object of " + object().length());
            }
            at = offset;
        }

        @Override
        public synchronized long getPos() {
            return at;
        }

        @Override
        public boolean seekToNewSource(long offset) {
            return false;
        }

        @Override
        public synchronized int available() throws IOException {
            return (int) Math.min(Integer.MAX_VALUE, object().length() - at);
        }

        @Override
        public synchronized void close() {
            object = null;
        }
    }

    // --- writing -----------------------------------------------------------------------------------------------------------------

    @Override
    public FSDataOutputStream create(Path path, FsPermission permission, boolean overwrite, int bufferSize, short replication, long blockSize, Progressable progress)
            throws IOException {
        String key = key(path);
        if (isFolder(key)) {
            throw new FileAlreadyExistsException(path + " is a folder");
        }
        if (!overwrite && object(key) != null) {
            throw new FileAlreadyExistsException(path + " exists already");
        }
        noFileAbove(path, key);
        return new FSDataOutputStream(new Output(path, store.create(bucket, key, !overwrite)), statistics);
    }

    private void noFileAbove(Path path, String key) throws IOException {
        for (String above = parent(key); !above.isEmpty(); above = parent(above)) {
            if (object(above) != null) {
                throw new ParentNotDirectoryException(path + " can't be made: " + path(above) + " is a file");
            }
        }
    }

    /** Seals when it is closed. */
    private static final class Output extends OutputStream {
        private final Path path;
        private final byte[] buffer = new byte[BUFFER_BYTES];
        private int buffered;
        private Writer writer;
        private IOException failed;

        Output(Path path, Writer writer) {
            this.path = path;
            this.writer = writer;
        }

        private Writer writer() throws IOException {
            if (writer == null) {
                throw new IOException("the stream of " + path + " is closed");
            }
            if (failed != null) {
                throw failed;
            }
            return writer;
        }

        @Override
        public synchronized void write(int one) throws IOException {
            write(new byte[] {(byte) one}, 0, 1);
        }

        @Override
        public synchronized void write(byte[] data, int from, int len) throws IOException {
            writer();
            if (len > buffer.length - buffered) {
                drain();
            }
            if (len >= buffer.length) {
                send(data, from, len);
                return;
            }
            System.arraycopy(data, from, buffer, buffered, len);
            buffered += len;
        }

        private void drain() throws IOException {
            int n = buffered;
            buffered = 0;
            send(buffer, 0, n);
        }

        private void send(byte[] data, int from, int len) throws IOException {
            try {
                writer().write(writer().length(), data, from, len);
            } catch (IOException e) {
                // What is sealed must not lack a piece in its middle.
                failed = e;
                throw e;
            }
        }

        @Override
        public synchronized void close() throws IOException {
            if (writer == null) {
                return;
            }
            try (Writer last = writer) {
                drain();
                last.seal();
            } catch (GedsException e) {
                throw e.kind() == GedsException.Kind.ALREADY_EXISTS ? new FileAlreadyExistsException(path + " exists already") : e;
            } finally {
                writer = null;
            }
        }
    }

    @Override
    public FSDataOutputStream append(Path path, int bufferSize, Progressable progress) throws IOException {
        throw new UnsupportedOperationException("a file of geds:// is sealed when it is closed; " + path + " can't be appended to");
    }

    // --- changing ----------------------------------------------------------------------------------------------------------------

    @Override
    public boolean mkdirs(Path path, FsPermission permission) throws IOException {
        String key = key(path);
        if (key.isEmpty()) {
            return true;
        }
        if (object(key) != null) {
            throw new FileAlreadyExistsException(path + " is a file");
        }
        noFileAbove(path, key);
        if (!isFolder(key)) {
            store.put(bucket, under(key, MARK), new byte[0]);
        }
        return true;
    }

    @Override
    public boolean rename(Path from, Path to) throws IOException {
        String source = key(from);
        String target = key(to);
        Info file = object(source);
        if (source.isEmpty() || (file == null && !isFolder(source))) {
            return false;
        }
        if (isFolder(target)) {
            if (target.equals(source)) {
                return false;
            }
            target = under(target, source.substring(source.lastIndexOf('/') + 1));
        }
        if (target.equals(source)) {
            return file != null;
        }
        // Nothing is written over, and no folder is put into itself or below a file.
        if (target.startsWith(source + "/") || object(target) != null || isFolder(target) || object(parent(target)) != null || !isFolder(parent(target))) {
            return false;
        }
        if (file != null) {
            store.rename(bucket, source, target);
        } else {
            store.renamePrefix(bucket, source, target);
        }
        keepFolder(parent(source));
        return true;
    }

    @Override
    public boolean delete(Path path, boolean recursive) throws IOException {
        String key = key(path);
        if (object(key) != null) {
            try {
                store.delete(bucket, key);
            } catch (GedsException e) {
                if (is(e, GedsException.Kind.NOT_FOUND)) {
                    return false;
                }
                throw e;
            }
        } else {
            List<Entry> entries = entries(key);
            if (entries.isEmpty()) {
                return false;
            }
            boolean empty = entries.size() == 1 && entries.get(0).name().equals(under(key, MARK));
            if (!recursive && !empty) {
                throw new PathIsNotEmptyDirectoryException(path.toString());
            }
            store.deletePrefix(bucket, key);
        }
        keepFolder(parent(key));
        return true;
    }
}
