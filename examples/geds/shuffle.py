"""A shuffle: each of N workers makes a part for each other one, then each reads the N parts that are for it, and checks them.

Once through the object store, where a reader maps what it reads, and once through files in a folder on the same disk. Prints the seconds of both.
"""

import argparse
import hashlib
import multiprocessing
import tempfile
import time
import zlib
from pathlib import Path

import cloudskin_geds as geds


def content(source, target, size):
    """Bytes that nobody else would make."""
    seed = hashlib.sha256(f"{source}->{target}".encode()).digest()
    return (seed * (size // len(seed) + 1))[:size]


class Files:
    def __init__(self, folder, worker):
        self.folder = Path(folder)

    def put(self, target, source, data):
        path = self.folder / f"{target}" / f"{source}"
        path.parent.mkdir(exist_ok=True)
        # As the store does it: whole or not at all.
        half = path.with_name(f".{source}")
        half.write_bytes(data)
        half.rename(path)

    def done(self):
        pass

    def read(self, target, source):
        return (self.folder / f"{target}" / f"{source}").read_bytes()

    def close(self):
        pass


class Objects:
    def __init__(self, folder, worker):
        self.store = geds.Store(folder, f"worker-{worker}", limit="1GiB")

    def put(self, target, source, data):
        writer = self.store.create("shuffle", f"{target}/{source}")
        writer.write(data)
        writer.seal_here()

    def done(self):
        self.store.settle()

    def read(self, target, source):
        return self.store.get("shuffle", f"{target}/{source}").view

    def close(self):
        self.store.close()


def work(way, folder, worker, workers, parts, size, barrier, took):
    place = {"files": Files, "objects": Objects}[way](folder, worker)
    data = [content(worker, target, size) for target in range(workers)]
    barrier.wait()
    start = time.perf_counter()
    for part in range(parts):
        for target in range(workers):
            place.put(target, f"{worker}-{part}", data[target])
    place.done()
    made = time.perf_counter()
    barrier.wait()
    begun = time.perf_counter()
    for part in range(parts):
        for source in range(workers):
            found = place.read(worker, f"{source}-{part}")
            assert zlib.crc32(found) == zlib.crc32(content(source, worker, size)), f"part {part} of {source} for {worker} is not what was written"
    took.put((made - start, time.perf_counter() - begun))
    barrier.wait()
    place.close()


def run(way, workers, parts, size):
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        barrier, took = context.Barrier(workers), context.Queue()
        processes = [context.Process(target=work, args=(way, folder, n, workers, parts, size, barrier, took)) for n in range(workers)]
        for process in processes:
            process.start()
        times = [took.get() for _ in processes]
        for process in processes:
            process.join()
            if process.exitcode != 0:
                raise SystemExit(f"a worker ended with {process.exitcode}")
        return max(t[0] for t in times), max(t[1] for t in times)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--parts", type=int, default=20, help="parts that each makes for each")
    parser.add_argument("--size", type=int, default=65536, help="bytes of a part")
    options = parser.parse_args()
    size = options.size
    total = options.workers**2 * options.parts * size
    for way in ["files", "objects"]:
        write, read = run(way, options.workers, options.parts, size)
        print(f"{way:8} write {write:7.3f} s   read and check {read:7.3f} s   ({total / 1e6:.0f} MB)", flush=True)
