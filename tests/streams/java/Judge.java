/*
 * Drives a stream server with Pravega's own Java client, as it comes from Maven Central.
 *
 *     java -cp '.setup/java/*' tests/streams/java/Judge.java URI COMMAND,COMMAND...
 *
 * `tls://` in the URI asks for TLS; TRUST names the authority's certificate, JUDGE_USER and JUDGE_PASSWORD a user. Each command makes streams of its own, prints
 * how long it took, and ends the program with a trace when something is not as it must be. What each does is what the Python and Rust programs beside it do,
 * and what only Java's client has: checkpoints, key-value tables, watermarks, retention that waits for a group, reading by segments.
 */

import io.pravega.client.BatchClientFactory;
import io.pravega.client.ByteStreamClientFactory;
import io.pravega.client.ClientConfig;
import io.pravega.client.EventStreamClientFactory;
import io.pravega.client.KeyValueTableFactory;
import io.pravega.client.SynchronizerClientFactory;
import io.pravega.client.admin.KeyValueTableManager;
import io.pravega.client.admin.ReaderGroupManager;
import io.pravega.client.admin.StreamManager;
import io.pravega.client.byteStream.ByteStreamReader;
import io.pravega.client.byteStream.ByteStreamWriter;
import io.pravega.client.control.impl.ControllerImpl;
import io.pravega.client.control.impl.ControllerImplConfig;
import io.pravega.client.state.RevisionedStreamClient;
import io.pravega.client.state.SynchronizerConfig;
import io.pravega.client.stream.*;
import io.pravega.client.stream.impl.ByteBufferSerializer;
import io.pravega.client.stream.impl.UTF8StringSerializer;
import io.pravega.client.tables.*;
import io.pravega.shared.security.auth.DefaultCredentials;
import java.net.URI;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

public class Judge {
    static final String SCOPE = "java";
    static final UTF8StringSerializer TEXT = new UTF8StringSerializer();
    static final ScheduledExecutorService THREADS = Executors.newScheduledThreadPool(2);
    static ClientConfig config;
    static StreamManager streams;

    static void check(Object found, Object expected, String what) {
        if (!Objects.equals(found, expected)) {
            throw new AssertionError(what + ": " + found + " instead of " + expected);
        }
    }

    static void create(String stream, int segments) {
        check(streams.createStream(SCOPE, stream, StreamConfiguration.builder().scalingPolicy(ScalingPolicy.fixed(segments)).build()), true, "a new stream " + stream);
    }

    static EventStreamClientFactory factory() {
        return EventStreamClientFactory.withScope(SCOPE, config);
    }

    static ReaderGroupManager groups() {
        return ReaderGroupManager.withScope(SCOPE, config);
    }

    static ReaderGroupConfig.ReaderGroupConfigBuilder from(String stream) {
        return ReaderGroupConfig.builder().disableAutomaticCheckpoints().stream(Stream.of(SCOPE, stream));
    }

    /** With a checkpoint each second: only at one do this client's readers go on behind a sealed segment, or give one away. Otherwise there is one in 30 seconds. */
    static ReaderGroupConfig over(String stream) {
        return ReaderGroupConfig.builder().automaticCheckpointIntervalMillis(1000).groupRefreshTimeMillis(500).stream(Stream.of(SCOPE, stream)).build();
    }

    /** Exactly so many events, or what came within the time. */
    static <T> List<T> read(EventStreamReader<T> reader, int count, int seconds) {
        List<T> events = new ArrayList<>();
        long end = System.nanoTime() + seconds * 1_000_000_000L;
        while (events.size() < count && System.nanoTime() < end) {
            T event = reader.readNextEvent(1000).getEvent();
            if (event != null) {
                events.add(event);
            }
        }
        return events;
    }

    /** So many events, and nothing behind them. */
    static List<String> readAll(String group, ReaderGroupConfig of, int count) {
        try (ReaderGroupManager groups = groups(); EventStreamClientFactory factory = factory()) {
            check(groups.createReaderGroup(group, of), true, "a new group");
            try (EventStreamReader<String> reader = factory.createReader("r-" + group, group, TEXT, ReaderConfig.builder().build())) {
                List<String> found = read(reader, count, 60);
                check(reader.readNextEvent(2000).getEvent(), null, "an event more");
                return found;
            }
        }
    }

    static void write(String stream, int from, int to, int keys) {
        try (EventStreamClientFactory factory = factory();
                EventStreamWriter<String> writer = factory.createEventWriter(stream, TEXT, EventWriterConfig.builder().build())) {
            for (int i = from; i < to; i++) {
                writer.writeEvent("" + i % keys, i % keys + ":" + i);
            }
            writer.flush();
        }
    }

    /** Every number once, and those of one key in order. */
    static void inOrder(List<String> found, int from, int to, int keys) {
        check(found.size(), to - from, "events read");
        for (int key = 0; key < keys; key++) {
            String mine = key + ":";
            int rest = key;
            check(found.stream().filter(e -> e.startsWith(mine)).map(e -> Integer.parseInt(e.substring(mine.length()))).collect(Collectors.toList()),
                    IntStream.range(from, to).filter(i -> i % keys == rest).boxed().collect(Collectors.toList()), "events of key " + key);
        }
    }

    static void events() {
        check(streams.createScope(SCOPE), true, "a new scope");
        check(streams.createScope(SCOPE), false, "the same scope again");
        create("plain", 3);
        check(streams.checkStreamExists(SCOPE, "plain"), true, "a stream");
        write("plain", 0, 1000, 10);
        inOrder(readAll("plain-readers", from("plain").build(), 1000), 0, 1000, 10);
    }

    /** Two readers of one group share the segments; a checkpoint is where both were. */
    static void groupOfTwo() throws Exception {
        create("shared", 4);
        write("shared", 0, 400, 20);
        try (ReaderGroupManager groups = groups(); EventStreamClientFactory factory = factory()) {
            groups.createReaderGroup("two", over("shared"));
            ReaderGroup group = groups.getReaderGroup("two");
            Map<String, List<String>> seen = new ConcurrentHashMap<>();
            CountDownLatch checkpoints = new CountDownLatch(2);
            Set<String> left = ConcurrentHashMap.newKeySet();
            List<Future<?>> readers = new ArrayList<>();
            ExecutorService own = Executors.newCachedThreadPool();
            for (String name : List.of("a", "b")) {
                seen.put(name, Collections.synchronizedList(new ArrayList<>()));
                readers.add(own.submit(() -> {
                    try (EventStreamReader<String> reader = factory.createReader(name, "two", TEXT, ReaderConfig.builder().build())) {
                        while (left.isEmpty()) {
                            EventRead<String> next = reader.readNextEvent(500);
                            if (next.getEvent() != null) {
                                seen.get(name).add(next.getEvent());
                            } else if (next.isCheckpoint() && next.getCheckpointName().equals("here")) {
                                checkpoints.countDown();
                            }
                        }
                    }
                }));
            }
            until("400 events", () -> seen.values().stream().mapToInt(List::size).sum() >= 400);
            until("both readers to be known", () -> group.getOnlineReaders().size() == 2);
            until("both to have segments", () -> group.getReaderSegmentDistribution().getReaderSegmentDistribution().values().stream().filter(n -> n > 0).count() == 2);
            Checkpoint checkpoint = group.initiateCheckpoint("here", THREADS).get(60, TimeUnit.SECONDS);
            check(checkpoints.await(10, TimeUnit.SECONDS), true, "a checkpoint for each reader");
            write("shared", 400, 500, 20);
            until("500 events", () -> seen.values().stream().mapToInt(List::size).sum() >= 500);
            left.add("all");
            for (Future<?> reader : readers) {
                reader.get(30, TimeUnit.SECONDS);
            }
            own.shutdown();
            inOrder(seen.values().stream().flatMap(List::stream).sorted(Comparator.comparing(e -> Integer.parseInt(e.split(":")[1]))).collect(Collectors.toList()), 0, 500, 20);
            // Back to the checkpoint: what came since, and nothing else.
            group.resetReaderGroup(ReaderGroupConfig.builder().disableAutomaticCheckpoints().startFromCheckpoint(checkpoint).build());
            try (EventStreamReader<String> reader = factory.createReader("c", "two", TEXT, ReaderConfig.builder().build())) {
                List<String> again = read(reader, 100, 60);
                check(again.stream().map(e -> Integer.parseInt(e.split(":")[1])).collect(Collectors.toSet()), IntStream.range(400, 500).boxed().collect(Collectors.toSet()), "events since the checkpoint");
                check(reader.readNextEvent(500).getEvent(), null, "an event more");
            }
            groups.deleteReaderGroup("two");
        }
    }

    interface Condition {
        boolean holds() throws Exception;
    }

    static void until(String what, Condition condition) throws Exception {
        long end = System.nanoTime() + 90_000_000_000L;
        while (!condition.holds()) {
            if (System.nanoTime() > end) {
                throw new AssertionError("waited in vain for " + what);
            }
            Thread.sleep(50);
        }
    }

    static void transactions() throws Exception {
        create("txn", 2);
        try (EventStreamClientFactory factory = factory();
                TransactionalEventStreamWriter<String> writer = factory.createTransactionalEventWriter("w", "txn", TEXT, EventWriterConfig.builder().transactionTimeoutTime(20_000).build())) {
            Transaction<String> kept = writer.beginTxn(), dropped = writer.beginTxn();
            for (int i = 0; i < 20; i++) {
                kept.writeEvent("" + i, "kept " + i);
                dropped.writeEvent("" + i, "dropped " + i);
            }
            kept.flush();
            check(kept.checkStatus(), Transaction.Status.OPEN, "an open transaction");
            check(writer.getTxn(kept.getTxnId()).checkStatus(), Transaction.Status.OPEN, "the same by its id");
            dropped.abort();
            until("the end of an aborted transaction", () -> dropped.checkStatus() == Transaction.Status.ABORTED);
            kept.commit();
            until("the end of a committed transaction", () -> kept.checkStatus() == Transaction.Status.COMMITTED);
            Set<UUID> ended = streams.listCompletedTransactions(Stream.of(SCOPE, "txn")).stream().map(TransactionInfo::getTransactionId).collect(Collectors.toSet());
            check(ended.containsAll(Set.of(kept.getTxnId(), dropped.getTxnId())), true, "the list of ended transactions");
            // One that is open while the stream is scaled.
            Transaction<String> over = writer.beginTxn();
            over.writeEvent("k", "over a scale");
            scale("txn", 3);
            over.writeEvent("k", "and on");
            over.commit();
            until("the end of a transaction over a scale", () -> over.checkStatus() == Transaction.Status.COMMITTED);
        }
        Set<String> expected = IntStream.range(0, 20).mapToObj(i -> "kept " + i).collect(Collectors.toCollection(HashSet::new));
        expected.addAll(Set.of("over a scale", "and on"));
        List<String> found = readAll("txn-readers", over("txn"), 22);
        check(new HashSet<>(found), expected, "events of committed transactions");
        check(found.size(), 22, "how many");
    }

    static void bytes() throws Exception {
        create("bytes", 1);
        byte[] data = new byte[1 << 20];
        for (int i = 0; i < data.length; i++) {
            data[i] = (byte) (i * 31 + i / 256);
        }
        try (ByteStreamClientFactory factory = ByteStreamClientFactory.withScope(SCOPE, config);
                ByteStreamWriter writer = factory.createByteStreamWriter("bytes");
                ByteStreamReader reader = factory.createByteStreamReader("bytes")) {
            writer.write(data);
            writer.flush();
            check(writer.fetchTailOffset(), (long) data.length, "tail");
            check(reader.fetchTailOffset(), (long) data.length, "tail as a reader sees it");
            reader.seekToOffset(1000);
            byte[] part = new byte[100_000];
            for (int at = 0; at < part.length;) {
                at += reader.read(part, at, part.length - at);
            }
            check(Arrays.equals(part, Arrays.copyOfRange(data, 1000, 101_000)), true, "bytes in the middle");
            // A reader at the tail gets what comes.
            reader.seekToOffset(data.length);
            CompletableFuture<Integer> next = CompletableFuture.supplyAsync(() -> {
                try {
                    return reader.read();
                } catch (Exception e) {
                    throw new CompletionException(e);
                }
            });
            Thread.sleep(300);
            check(next.isDone(), false, "a read at the tail, done before anything came");
            writer.write(77);
            writer.flush();
            check(next.get(20, TimeUnit.SECONDS), 77, "the byte that came");
            writer.truncateDataBefore(4096);
            check(reader.fetchHeadOffset(), 4096L, "head after truncation");
            try {
                reader.seekToOffset(0);
                reader.read();
                throw new AssertionError("a truncated byte was read");
            } catch (io.pravega.client.segment.impl.SegmentTruncatedException e) {
                // As it must be.
            }
            writer.closeAndSeal();
            reader.seekToOffset(data.length + 1);
            check(reader.read(), -1, "the end of a sealed stream");
        }
    }

    static void large() {
        create("large", 2);
        int[] sizes = {3_000_000, 9_000_000, 17, 20_000_000};
        try (EventStreamClientFactory factory = factory()) {
            try (EventStreamWriter<ByteBuffer> writer = factory.createEventWriter("large", new ByteBufferSerializer(), EventWriterConfig.builder().enableLargeEvents(true).build())) {
                for (int n = 0; n < sizes.length; n++) {
                    byte[] event = new byte[sizes[n]];
                    Arrays.fill(event, (byte) (n + 1));
                    writer.writeEvent("one", ByteBuffer.wrap(event)).join();
                }
            }
            try (ReaderGroupManager groups = groups()) {
                groups.createReaderGroup("large-readers", from("large").build());
            }
            try (EventStreamReader<ByteBuffer> reader = factory.createReader("r", "large-readers", new ByteBufferSerializer(), ReaderConfig.builder().build())) {
                List<ByteBuffer> found = read(reader, sizes.length, 120);
                check(found.stream().map(ByteBuffer::remaining).collect(Collectors.toList()), Arrays.stream(sizes).boxed().collect(Collectors.toList()), "lengths of events");
                for (int n = 0; n < sizes.length; n++) {
                    ByteBuffer event = found.get(n);
                    while (event.hasRemaining()) {
                        if (event.get() != n + 1) {
                            throw new AssertionError("event " + n + " has other bytes");
                        }
                    }
                }
            }
        }
    }

    static ByteBuffer of(String text, int length) {
        byte[] bytes = Arrays.copyOf(text.getBytes(), length);
        return ByteBuffer.wrap(bytes);
    }

    /** Whether an update failed because a version was another one. */
    static boolean refused(CompletableFuture<?> update) throws Exception {
        try {
            update.get(30, TimeUnit.SECONDS);
            return false;
        } catch (ExecutionException e) {
            if (e.getCause() instanceof ConditionalTableUpdateException) {
                return true;
            }
            throw e;
        }
    }

    static void tables() throws Exception {
        try (KeyValueTableManager tables = KeyValueTableManager.create(config); KeyValueTableFactory factory = KeyValueTableFactory.withScope(SCOPE, config)) {
            KeyValueTableConfiguration of = KeyValueTableConfiguration.builder().partitionCount(2).primaryKeyLength(8).secondaryKeyLength(4).build();
            check(tables.createKeyValueTable(SCOPE, "table", of), true, "a new table");
            check(tables.createKeyValueTable(SCOPE, "table", of), false, "the same table again");
            KeyValueTable table = factory.forKeyValueTable("table", KeyValueTableClientConfiguration.builder().build());
            TableKey a = new TableKey(of("a", 8), of("1", 4)), b = new TableKey(of("a", 8), of("2", 4));
            Version first = table.update(new Insert(a, of("one", 3))).get(30, TimeUnit.SECONDS);
            check(refused(table.update(new Insert(a, of("two", 3)))), true, "an insert of what is there, refused");
            Version second = table.update(new Put(a, of("two", 3), first)).get(30, TimeUnit.SECONDS);
            check(refused(table.update(new Put(a, of("three", 5), first))), true, "an update of an old version, refused");
            // All or nothing, of keys that belong together.
            check(refused(table.update(List.of(new Insert(b, of("x", 1)), new Put(a, of("y", 1), first)))), true, "one of two, refused");
            check(table.exists(b).get(30, TimeUnit.SECONDS), false, "the other one of two");
            table.update(List.of(new Insert(b, of("both", 4)), new Put(a, of("both", 4), second))).get(30, TimeUnit.SECONDS);
            check(table.get(b).get(30, TimeUnit.SECONDS).getValue(), of("both", 4), "what was updated");
            for (int i = 0; i < 300; i++) {
                table.update(new Put(new TableKey(of("key" + i / 10, 8), of("" + i % 10, 4)), of("v" + i, 4))).get(30, TimeUnit.SECONDS);
            }
            check(table.getAll(List.of(a, new TableKey(of("none", 8), of("", 4)))).get(30, TimeUnit.SECONDS).stream().map(e -> e != null).collect(Collectors.toList()), List.of(true, false), "two at once");
            Set<ByteBuffer> found = new HashSet<>();
            table.iterator().maxIterationSize(20).all().entries().collectRemaining(items -> {
                items.getItems().forEach(e -> found.add(e.getValue()));
                return true;
            }).get(60, TimeUnit.SECONDS);
            check(found.size(), 301, "values of the whole table");
            List<TableKey> keys = new ArrayList<>();
            table.iterator().maxIterationSize(3).forPrimaryKey(of("key7", 8), of("2", 4), of("6", 4)).keys().collectRemaining(items -> keys.addAll(items.getItems()) || true).get(60, TimeUnit.SECONDS);
            check(keys.stream().map(k -> k.getSecondaryKey()).collect(Collectors.toList()), IntStream.rangeClosed(2, 6).mapToObj(i -> of("" + i, 4)).collect(Collectors.toList()), "keys of a range");
            table.update(new Remove(a)).get(30, TimeUnit.SECONDS);
            check(table.get(a).get(30, TimeUnit.SECONDS), null, "what was removed");
            table.close();
            check(tables.listKeyValueTables(SCOPE).next().getKeyValueTableName(), "table", "the list of tables");
            check(tables.deleteKeyValueTable(SCOPE, "table"), true, "a table, deleted");
        }
    }

    static void scale(String stream, int segments) {
        ControllerImpl controller = new ControllerImpl(ControllerImplConfig.builder().clientConfig(config).build(), THREADS);
        List<Long> old = controller.getCurrentSegments(SCOPE, stream).join().getSegments().stream().map(s -> s.getSegmentId()).collect(Collectors.toList());
        Map<Double, Double> ranges = new HashMap<>();
        for (int i = 0; i < segments; i++) {
            ranges.put((double) i / segments, i + 1 == segments ? 1.0 : (double) (i + 1) / segments);
        }
        check(controller.scaleStream(Stream.of(SCOPE, stream), old, ranges, THREADS).getFuture().join(), true, "a scale");
        check(controller.getCurrentSegments(SCOPE, stream).join().getSegments().size(), segments, "segments after a scale");
        controller.close();
    }

    static void scaling() throws Exception {
        create("scaled", 1);
        try (ReaderGroupManager groups = groups(); EventStreamClientFactory factory = factory()) {
            groups.createReaderGroup("stayers", over("scaled"));
            try (EventStreamReader<String> reader = factory.createReader("stayer", "stayers", TEXT, ReaderConfig.builder().build());
                    EventStreamWriter<String> writer = factory.createEventWriter("scaled", TEXT, EventWriterConfig.builder().build())) {
                List<String> found = new ArrayList<>();
                int n = 0;
                for (int segments : new int[] {3, 1, 4, 2}) {
                    for (int i = 0; i < 100; i++, n++) {
                        writer.writeEvent("" + n % 7, n % 7 + ":" + n);
                    }
                    // Some are read before the scale, some are on their way while it happens.
                    found.addAll(read(reader, 40, 60));
                    scale("scaled", segments);
                }
                for (int i = 0; i < 100; i++, n++) {
                    writer.writeEvent("" + n % 7, n % 7 + ":" + n);
                }
                writer.flush();
                found.addAll(read(reader, n - found.size(), 90));
                inOrder(found, 0, n, 7);
            }
        }
    }

    static void truncation() throws Exception {
        create("cut", 2);
        write("cut", 0, 100, 10);
        StreamCut cut = streams.fetchStreamInfo(SCOPE, "cut").get(30, TimeUnit.SECONDS).getTailStreamCut();
        try (ReaderGroupManager groups = groups(); EventStreamClientFactory factory = factory()) {
            groups.createReaderGroup("late", from("cut").build());
            try (EventStreamReader<String> reader = factory.createReader("late", "late", TEXT, ReaderConfig.builder().build())) {
                check(read(reader, 1, 60).size(), 1, "the first event");
                write("cut", 100, 150, 10);
                check(streams.truncateStream(SCOPE, "cut", cut), true, "a truncation");
                // One that is behind hears of it, at the latest when what it has in memory ends, and goes on.
                int behind = 1;
                List<String> rest = new ArrayList<>();
                long end = System.nanoTime() + 60_000_000_000L;
                while (rest.size() < 50 && System.nanoTime() < end) {
                    try {
                        String event = reader.readNextEvent(1000).getEvent();
                        if (event != null && Integer.parseInt(event.split(":")[1]) < 100) {
                            behind++;
                        } else if (event != null) {
                            rest.add(event);
                        }
                    } catch (TruncatedDataException e) {
                        behind = 100;
                    }
                }
                check(behind <= 100, true, "events before the cut");
                inOrder(rest, 100, 150, 10);
            }
        }
        inOrder(readAll("after-cut", from("cut").build(), 50), 100, 150, 10);
        check(streams.fetchStreamInfo(SCOPE, "cut").get(30, TimeUnit.SECONDS).getHeadStreamCut(), cut, "where the stream begins");
        // From one cut to another.
        StreamCut later = streams.fetchStreamInfo(SCOPE, "cut").get(30, TimeUnit.SECONDS).getTailStreamCut();
        write("cut", 150, 160, 10);
        ReaderGroupConfig between = ReaderGroupConfig.builder().disableAutomaticCheckpoints().stream(Stream.of(SCOPE, "cut"), cut, later).build();
        inOrder(readAll("between", between, 50), 100, 150, 10);
        // And by segments, without a group.
        try (BatchClientFactory batch = BatchClientFactory.withScope(SCOPE, config)) {
            List<String> found = new ArrayList<>();
            batch.getSegments(Stream.of(SCOPE, "cut"), cut, later).getIterator().forEachRemaining(range -> batch.readSegment(range, TEXT).forEachRemaining(found::add));
            found.sort(Comparator.comparing(e -> Integer.parseInt(e.split(":")[1])));
            inOrder(found, 100, 150, 10);
        }
    }

    static void revisions() {
        create("revised", 1);
        try (SynchronizerClientFactory factory = SynchronizerClientFactory.withScope(SCOPE, config);
                RevisionedStreamClient<String> client = factory.createRevisionedStreamClient("revised", TEXT, SynchronizerConfig.builder().build())) {
            var before = client.fetchLatestRevision();
            var first = client.writeConditionally(before, "first");
            check(first != null, true, "a conditional write");
            check(client.writeConditionally(before, "second"), null, "one at an old revision");
            client.writeUnconditionally("third");
            check(client.compareAndSetMark(null, first), true, "a mark");
            check(client.compareAndSetMark(null, before), false, "a mark over a mark");
            check(client.getMark(), first, "the mark");
            List<String> found = new ArrayList<>();
            client.readFrom(client.fetchOldestRevision()).forEachRemaining(e -> found.add(e.getValue()));
            check(found, List.of("first", "third"), "what was written");
            client.truncateToRevision(first);
            check(client.fetchOldestRevision(), first, "the oldest revision");
        }
    }

    static void watermarks() throws Exception {
        create("timed", 1);
        Stream stream = Stream.of(SCOPE, "timed");
        try (ReaderGroupManager groups = groups(); EventStreamClientFactory factory = factory();
                EventStreamWriter<String> writer = factory.createEventWriter("timed", TEXT, EventWriterConfig.builder().build())) {
            groups.createReaderGroup("timed-readers", from("timed").build());
            try (EventStreamReader<String> reader = factory.createReader("r", "timed-readers", TEXT, ReaderConfig.builder().build())) {
                long time = 1_000;
                TimeWindow window = new TimeWindow(null, null);
                long end = System.nanoTime() + 120_000_000_000L;
                while (window.getLowerTimeBound() == null && System.nanoTime() < end) {
                    writer.writeEvent("k", "at " + time).join();
                    writer.noteTime(time);
                    time += 1_000;
                    reader.readNextEvent(500);
                    window = reader.getCurrentTimeWindow(stream);
                }
                check(window.getLowerTimeBound() != null, true, "a time below which nothing comes");
                check(window.getLowerTimeBound() >= 1_000 && window.getLowerTimeBound() < time, true, "the window " + window);
            }
        }
    }

    static void retention() throws Exception {
        StreamConfiguration of = StreamConfiguration.builder().scalingPolicy(ScalingPolicy.fixed(1)).retentionPolicy(RetentionPolicy.bySizeBytes(1, 1 << 30)).build();
        check(streams.createStream(SCOPE, "retained", of), true, "a new stream");
        try (ReaderGroupManager groups = groups()) {
            groups.createReaderGroup("keeper", ReaderGroupConfig.builder().disableAutomaticCheckpoints().stream(Stream.of(SCOPE, "retained"))
                    .retentionType(ReaderGroupConfig.StreamDataRetention.MANUAL_RELEASE_AT_USER_STREAMCUT).build());
            write("retained", 0, 100, 1);
            StreamCut cut = streams.fetchStreamInfo(SCOPE, "retained").get(30, TimeUnit.SECONDS).getTailStreamCut();
            write("retained", 100, 120, 1);
            StreamCut head = streams.fetchStreamInfo(SCOPE, "retained").get(30, TimeUnit.SECONDS).getHeadStreamCut();
            groups.getReaderGroup("keeper").updateRetentionStreamCut(Map.of(Stream.of(SCOPE, "retained"), cut));
            until("the stream to begin where its group needs it", () -> streams.fetchStreamInfo(SCOPE, "retained").get(30, TimeUnit.SECONDS).getHeadStreamCut().equals(cut));
            check(head.equals(cut), false, "the head before");
        }
        inOrder(readAll("retained-readers", from("retained").build(), 20), 100, 120, 1);
    }

    static void end() throws Exception {
        check(streams.createStream(SCOPE, "tagged", StreamConfiguration.builder().scalingPolicy(ScalingPolicy.byEventRate(1000, 2, 1)).tags(List.of("blue")).build()), true, "a tagged stream");
        check(new HashSet<>(streams.getStreamTags(SCOPE, "tagged")), Set.of("blue"), "tags");
        Set<String> tagged = new HashSet<>(), all = new HashSet<>();
        streams.listStreams(SCOPE, "blue").forEachRemaining(s -> tagged.add(s.getStreamName()));
        check(tagged, Set.of("tagged"), "streams with a tag");
        check(streams.updateStream(SCOPE, "tagged", StreamConfiguration.builder().scalingPolicy(ScalingPolicy.fixed(1)).build()), true, "another policy");
        write("tagged", 0, 10, 1);
        check(streams.sealStream(SCOPE, "tagged"), true, "a sealed stream");
        check(streams.fetchStreamInfo(SCOPE, "tagged").get(30, TimeUnit.SECONDS).isSealed(), true, "sealed, as it is told");
        inOrder(readAll("sealed-readers", from("tagged").build(), 10), 0, 10, 1);
        check(streams.deleteStream(SCOPE, "tagged"), true, "a deleted stream");
        streams.listStreams(SCOPE).forEachRemaining(s -> all.add(s.getStreamName()));
        check(all.contains("tagged"), false, "a deleted stream in the list");
        check(streams.createScope("empty"), true, "a scope");
        check(streams.deleteScope("empty"), true, "an empty scope, deleted");
        check(streams.deleteScopeRecursive(SCOPE), true, "a scope with all that is in it, deleted");
        check(streams.checkScopeExists(SCOPE), false, "the scope");
    }

    interface Command {
        void run() throws Exception;
    }

    public static void main(String[] arguments) throws Exception {
        ClientConfig.ClientConfigBuilder of = ClientConfig.builder().controllerURI(URI.create(arguments[0]));
        if (System.getenv("TRUST") != null) {
            of.trustStore(System.getenv("TRUST")).validateHostName(true);
        }
        if (System.getenv("JUDGE_USER") != null) {
            of.credentials(new DefaultCredentials(System.getenv("JUDGE_PASSWORD"), System.getenv("JUDGE_USER")));
        }
        config = of.build();
        streams = StreamManager.create(config);
        Map<String, Command> commands = new LinkedHashMap<>();
        commands.put("events", Judge::events);
        commands.put("group", Judge::groupOfTwo);
        commands.put("transactions", Judge::transactions);
        commands.put("bytes", Judge::bytes);
        commands.put("large", Judge::large);
        commands.put("tables", Judge::tables);
        commands.put("scaling", Judge::scaling);
        commands.put("truncation", Judge::truncation);
        commands.put("revisions", Judge::revisions);
        commands.put("watermarks", Judge::watermarks);
        commands.put("retention", Judge::retention);
        commands.put("end", Judge::end);
        int code = 0;
        for (String name : arguments[1].equals("all") ? List.copyOf(commands.keySet()) : List.of(arguments[1].split(","))) {
            long began = System.nanoTime();
            try {
                commands.get(name).run();
                System.err.printf("%s: %.1f s%n", name, (System.nanoTime() - began) / 1e9);
            } catch (Throwable e) {
                System.err.println(name + " failed");
                e.printStackTrace();
                code = 1;
            }
        }
        // Without the client's own end: its threads may take their time.
        System.err.flush();
        Runtime.getRuntime().halt(code);
    }
}
