import cloudskin.geds.GedsObject;
import cloudskin.geds.Store;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.ByteOrder;
import java.nio.LongBuffer;
import java.nio.file.Path;

/** Sums an object through its direct buffer, once for each line that it is told, and prints how many nanoseconds that took, and the sum. Attached to an agent: Scan FOLDER BUCKET KEY. */
final class Scan {
    private static long sum(LongBuffer words) {
        long sum = 0;
        for (int n = 0; n < words.limit(); n++) {
            sum += words.get(n);
        }
        return sum;
    }

    public static void main(String[] args) throws Exception {
        try (Store store = Store.attach(Path.of(args[0]))) {
            GedsObject object = store.get(args[1], args[2]);
            LongBuffer words = object.bytes().order(ByteOrder.LITTLE_ENDIAN).asLongBuffer();
            BufferedReader told = new BufferedReader(new InputStreamReader(System.in));
            while (told.readLine() != null) {
                long start = System.nanoTime();
                long sum = sum(words);
                System.out.println((System.nanoTime() - start) + " " + sum);
            }
        }
    }
}
