package cloudskin.geds.hadoop;

import cloudskin.geds.Appendable;
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
import java.util.TreeMap;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.ByteBufferReadable;
import org.apache.hadoop.fs.FSDataInputStream;
import org.apache.hadoop.fs.FSDataOutputStream;
import org.apache.hadoop.fs.FSInputStream;
import org.apache.hadoop.fs.FileAlreadyExistsException;
import org.apache.hadoop.fs.FileStatus;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.StreamCapabilities;
import org.apache.hadoop.fs.Syncable;
import org.apache.hadoop.fs.ParentNotDirectoryException;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.PathIsNotEmptyDirectoryException;
import org.apache.hadoop.fs.permission.FsAction;
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
 * fs.geds.append   true: files can be appended to (false)
 * </pre>
 *
 * <p>A file is a sealed object: it is there, for all, when its stream is closed, and as a whole. A folder is there while something lies in it, or an empty object with the name {@code .folder}. Renaming is
 * one step for a file and for a folder, and moves no data. Owners, permissions and times are not kept.
 *
 * <p>With {@code fs.geds.append} a file that is created is an object that grows on this node (the agent's, where there is one): what is flushed can be read by others of the node, what is synced or closed survives a power cut, and it is
 * appended to for as long as nobody seals it. Taking the owner's right to write away seals it, and so does renaming it; from then on it is an object like others, seen everywhere. {@code concat} appends the sources' bytes, and then
 * removes them; it is not one step. Nothing is ever cut: {@code truncate} to another length than a file has is refused.
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
    /** Files grow. */
    private boolean appends;

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
        appends = conf.getBoolean("fs.geds.append", false);
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

    /** What a file is; null: there is none. */
    private Info object(String key) throws IOException {
        if (key.isEmpty()) {
            return null;
        }
        try {
            return store.stat(bucket, key);
        } catch (GedsException e) {
            if (!is(e, GedsException.Kind.NOT_FOUND)) {
                throw e;
            }
        }
        try (Appendable growing = growing(key)) {
            return growing == null ? null : new Info(growing.length(), 0, 0, 0, 0);
        } catch (GedsException e) {
            if (is(e, GedsException.Kind.NOT_FOUND)) {
                // Sealed or removed between the two looks.
                return null;
            }
            throw e;
        }
    }

    /** What grows under a key; null: nothing does, or nothing is to. */
    private Appendable growing(String key) throws IOException {
        return appends && !key.isEmpty() ? store.growing(bucket, key) : null;
    }

    /** The keys that grow at a prefix and below it. */
    private List<Entry> allGrowing(String prefix) throws IOException {
        return appends ? store.listAppendables(bucket, prefix) : List.of();
    }

    /** What lies in a folder, its mark too; folders with a slash at the end. The object with the folder's own name is not in it. */
    private List<Entry> entries(String folder) throws IOException {
        TreeMap<String, Entry> found = new TreeMap<>();
        for (Entry entry : store.list(bucket, folder, true)) {
            found.put(entry.name(), entry);
        }
        for (Entry entry : allGrowing(folder)) {
            int deeper = entry.name().indexOf('/', folder.isEmpty() ? 0 : folder.length() + 1);
            String name = deeper < 0 ? entry.name() : entry.name().substring(0, deeper + 1);
            found.put(name, deeper < 0 ? entry : new Entry(name, null));
        }
        found.remove(folder);
        return new ArrayList<>(found.values());
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
            Appendable growing = is(e, GedsException.Kind.NOT_FOUND) ? growing(key) : null;
            if (growing != null) {
                return new FSDataInputStream(new GrowingInput(growing));
            }
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

    /** Reads what grows, up to where it has come; what is appended later is there later. Sealed or removed meanwhile, it ends with an error. */
    private static final class GrowingInput extends FSInputStream {
        private final Appendable growing;
        private long at;

        GrowingInput(Appendable growing) {
            this.growing = growing;
        }

        @Override
        public synchronized int read() throws IOException {
            byte[] one = new byte[1];
            return read(one, 0, 1) < 0 ? -1 : one[0] & 0xff;
        }

        @Override
        public synchronized int read(byte[] into, int from, int len) throws IOException {
            int n = read(at, into, from, len);
            at += Math.max(n, 0);
            return n;
        }

        @Override
        public synchronized int read(long offset, byte[] into, int from, int len) throws IOException {
            validatePositionedReadArgs(offset, into, from, len);
            if (len == 0) {
                return 0;
            }
            byte[] some = growing.read(offset, Math.min(len, BUFFER_BYTES));
            System.arraycopy(some, 0, into, from, some.length);
            return some.length == 0 ? -1 : some.length;
        }

        @Override
        public synchronized void seek(long offset) throws IOException {
            if (offset < 0 || offset > growing.length()) {
                throw new EOFException("byte " + offset + " of a file of " + growing.length());
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
            return (int) Math.min(Integer.MAX_VALUE, Math.max(growing.length() - at, 0));
        }

        @Override
        public void close() {
            growing.close();
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
        if (appends) {
            return new FSDataOutputStream(new Appending(path, begin(path, key, overwrite), 0), statistics);
        }
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

    /** What is to grow, from nothing on. */
    private Appendable begin(Path path, String key, boolean overwrite) throws IOException {
        if (overwrite) {
            remove(key);
        }
        try {
            return store.newAppendable(bucket, key);
        } catch (GedsException e) {
            throw is(e, GedsException.Kind.ALREADY_EXISTS) ? new FileAlreadyExistsException(path + " exists already") : e;
        }
    }

    /** Appends what was gathered when it is flushed or enough. */
    private static final class Appending extends OutputStream implements Syncable, StreamCapabilities {
        private final Path path;
        private final byte[] buffer = new byte[BUFFER_BYTES];
        private int buffered;
        /** Where the next byte that is sent goes: whoever else appends meanwhile makes it fail. */
        private long at;
        private Appendable growing;
        private IOException failed;

        Appending(Path path, Appendable growing, long at) {
            this.path = path;
            this.growing = growing;
            this.at = at;
        }

        @Override
        public synchronized void write(int one) throws IOException {
            write(new byte[] {(byte) one}, 0, 1);
        }

        @Override
        public synchronized void write(byte[] data, int from, int len) throws IOException {
            while (len > 0) {
                if (buffered == buffer.length) {
                    hflush();
                }
                int some = Math.min(len, buffer.length - buffered);
                System.arraycopy(data, from, buffer, buffered, some);
                buffered += some;
                from += some;
                len -= some;
            }
        }

        @Override
        public synchronized void flush() throws IOException {
            hflush();
        }

        @Override
        public synchronized void hflush() throws IOException {
            if (growing == null) {
                throw new IOException("the stream of " + path + " is closed");
            }
            if (failed != null) {
                throw failed;
            }
            try {
                growing.append(at, buffer, 0, buffered);
            } catch (IOException e) {
                // What comes behind must not be there without it.
                failed = e;
                throw e;
            }
            at += buffered;
            buffered = 0;
        }

        @Override
        public synchronized void hsync() throws IOException {
            hflush();
            growing.sync();
        }

        @Override
        public boolean hasCapability(String capability) {
            return capability.equalsIgnoreCase("hflush") || capability.equalsIgnoreCase(StreamCapabilities.HSYNC);
        }

        @Override
        public synchronized void close() throws IOException {
            if (growing == null) {
                return;
            }
            try {
                hsync();
            } finally {
                growing.close();
                growing = null;
            }
        }
    }

    private UnsupportedOperationException noAppends(Path path) {
        return new UnsupportedOperationException("a file of geds:// is sealed when it is closed, and " + path + " can't be changed; with fs.geds.append = true files can be appended to");
    }

    /** What grows under a path, which is there. */
    private Appendable grows(Path path) throws IOException {
        if (!appends) {
            throw noAppends(path);
        }
        String key = key(path);
        Appendable growing = growing(key);
        if (growing != null) {
            return growing;
        }
        if (key.isEmpty() || object(key) == null) {
            throw isFolder(key) ? new FileNotFoundException(path + " is a folder") : missing(path);
        }
        // Says that it is sealed.
        return store.appendable(bucket, key);
    }

    @Override
    public FSDataOutputStream append(Path path, int bufferSize, Progressable progress) throws IOException {
        Appendable growing = grows(path);
        long at = growing.length();
        return new FSDataOutputStream(new Appending(path, growing, at), statistics, at);
    }

    /** Appends the sources' bytes in their order, and then removes them. Broken off, the sources are all there still, and the target may have some of their bytes. */
    @Override
    public void concat(Path target, Path[] sources) throws IOException {
        try (Appendable growing = grows(target)) {
            for (Path source : sources) {
                if (key(source).equals(key(target))) {
                    throw new IOException(target + " can't be appended to itself");
                }
            }
            for (Path source : sources) {
                byte[] piece = new byte[BUFFER_BYTES];
                try (FSDataInputStream in = open(source, BUFFER_BYTES)) {
                    for (int n = in.read(piece); n > 0; n = in.read(piece)) {
                        growing.append(growing.length(), piece, 0, n);
                    }
                }
            }
            growing.sync();
        }
        for (Path source : sources) {
            remove(key(source));
            keepFolder(parent(key(source)));
        }
    }

    /** Nothing is ever cut: true for the length that the file has. */
    @Override
    public boolean truncate(Path path, long length) throws IOException {
        if (!appends) {
            throw noAppends(path);
        }
        long now = getFileStatus(path).getLen();
        if (length != now) {
            throw new UnsupportedOperationException(path + " has " + now + " bytes; it can only grow, and not be cut to " + length);
        }
        return true;
    }

    /** Seals what grows when its owner may not write any more; else there are no permissions. */
    @Override
    public void setPermission(Path path, FsPermission permission) throws IOException {
        if (!permission.getUserAction().implies(FsAction.WRITE)) {
            try (Appendable growing = growing(key(path))) {
                if (growing != null) {
                    growing.seal();
                }
            }
        }
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
        seal(source);
        try {
            // Of a file, too: who came between has the name, with a file or with a folder.
            store.renamePrefix(bucket, source, bucket, target, true);
        } catch (GedsException e) {
            if (is(e, GedsException.Kind.ALREADY_EXISTS) || is(e, GedsException.Kind.NOT_FOUND)) {
                return false;
            }
            throw e;
        }
        keepFolder(parent(source));
        return true;
    }

    /** What grows at a prefix and below it has no name that could be changed before it is sealed. */
    private void seal(String prefix) throws IOException {
        for (Entry entry : allGrowing(prefix)) {
            try (Appendable growing = store.growing(bucket, entry.name())) {
                if (growing != null) {
                    growing.seal();
                }
            }
        }
    }

    /** Removes a file, sealed or growing. False: there is none. */
    private boolean remove(String key) throws IOException {
        try (Appendable growing = growing(key)) {
            if (growing != null) {
                growing.discard();
                return true;
            }
            store.delete(bucket, key);
            return true;
        } catch (GedsException e) {
            if (is(e, GedsException.Kind.NOT_FOUND)) {
                return false;
            }
            throw e;
        }
    }

    @Override
    public boolean delete(Path path, boolean recursive) throws IOException {
        String key = key(path);
        if (object(key) != null) {
            if (!remove(key)) {
                return false;
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
            for (Entry entry : allGrowing(key)) {
                remove(entry.name());
            }
            store.deletePrefix(bucket, key);
        }
        keepFolder(parent(key));
        return true;
    }
}
