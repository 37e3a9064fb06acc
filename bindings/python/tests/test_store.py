"""The store as programs in Python use it."""

import array
import multiprocessing
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

import cloudskin_geds as geds


class Case(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def open(self, site="main", **options):
        store = geds.Store(self.folder.name, site, limit="64MiB", **options)
        self.addCleanup(store.close)
        return store


class Objects(Case):
    def test_what_has_a_buffer_is_written_and_read_without_a_copy(self):
        store = self.open()
        contents = [b"bytes", bytearray(b"bytearray"), memoryview(b"view")[1:], array.array("d", [1.5, 2.5]), memoryview(bytearray(range(9)))[::2], b""]
        for n, content in enumerate(contents):
            store.put("data", f"o/{n}", content)
            expected = memoryview(content).tobytes()
            found = store.get("data", f"o/{n}")
            self.assertEqual(bytes(found), expected)
            self.assertEqual(len(found), len(expected))
        view = store.get("data", "o/3").view
        self.assertTrue(view.readonly)
        self.assertEqual(list(view.cast("d")), [1.5, 2.5])
        # The view keeps the object, whatever happens to key, object and store.
        store.put("data", "o/3", b"replaced")
        store.delete("data", "o/3")
        store.close()
        self.assertEqual(list(view.cast("d")), [1.5, 2.5])

    def test_a_view_is_the_mapping_and_no_copy(self):
        store = self.open()
        store.put("data", "large", bytes(32 << 20))
        peak = lambda: int(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")).split()[1])
        before = peak()
        views = [store.get("data", "large").view for _ in range(20)]
        self.assertEqual(sum(view[12345] + view[-1] for view in views), 0)
        self.assertLess(peak() - before, 8 << 10, "KiB")

    def test_a_writer_is_sealed_by_its_block_and_dropped_by_an_exception(self):
        store = self.open()
        with store.create("data", "a", metadata=b"colour=red") as writer:
            writer.write(b"one ")
            writer.write(b"two")
            writer.write_at(0, b"ONE")
        self.assertEqual(bytes(store.get("data", "a")), b"ONE two")
        self.assertEqual(store.metadata("data", "a"), b"colour=red")
        with self.assertRaises(KeyError):
            with store.create("data", "b") as writer:
                writer.write(b"half")
                raise KeyError
        with self.assertRaises(FileNotFoundError):
            store.get("data", "b")
        with self.assertRaises(ValueError):
            writer.write(b"more")
        writer = store.create("data", "c")
        writer.write(b"here")
        writer.seal_here()
        self.assertEqual(bytes(store.get("data", "c")), b"here")

    def test_errors_are_pythons_own_and_name_bucket_and_key(self):
        store = self.open()
        store.put("data", "a", b"1", if_absent=True)
        with self.assertRaisesRegex(FileExistsError, "data/a") as caught:
            store.put("data", "a", b"2", if_absent=True)
        self.assertEqual((caught.exception.code, isinstance(caught.exception, geds.Error)), (6, True))
        with self.assertRaisesRegex(FileNotFoundError, "data/none"):
            store.get("data", "none")
        for key in ["", "../a", "a//b", "x" * 2000]:
            with self.assertRaises(geds.Error) as caught:
                store.put("data", key, b"")
            self.assertEqual(caught.exception.code, 3)
        with self.assertRaises(ValueError):
            store.put("data", "a\0b", b"")
        with self.assertRaisesRegex(geds.Error, "limit") as caught:
            store.put("data", "huge", bytes(65 << 20))
        self.assertEqual(caught.exception.code, 8)
        self.assertEqual(bytes(store.get("data", "a")), b"1", "nothing is lost by it")

    def test_prefixes_end_at_segments(self):
        store = self.open()
        for key in ["foo", "foo/1", "foo/2/x", "foobar"]:
            store.put("data", key, b"12345")
        self.assertEqual([(name, info and info.size) for name, info in store.list("data", "foo", folders=True)], [("foo", 5), ("foo/1", 5), ("foo/2/", None)])
        self.assertEqual(store.rename_prefix("data", "foo", "new"), (3, 15))
        self.assertEqual([name for name, _ in store.list("data")], ["foobar", "new", "new/1", "new/2/x"])
        self.assertEqual(store.delete_prefix("data", "new"), (3, 15))
        self.assertEqual([name for name, _ in store.list("data")], ["foobar"])

    def test_an_object_may_have_an_end(self):
        store = self.open()
        store.put("data", "short", b"1", ttl=1.0)
        info = store.stat("data", "short")
        self.assertGreater(info.expires_ms, info.created_ms)
        end = time.monotonic() + 60
        while store.list("data"):
            self.assertLess(time.monotonic(), end, "it never went")
            time.sleep(0.05)

    def test_other_threads_run_during_a_call(self):
        store = self.open()
        data, turns, over = bytes(24 << 20), [], threading.Event()

        def count():
            while not over.is_set():
                turns.append(1)
                time.sleep(0)

        # From here on the interpreter takes nothing away from a thread that does not give it.
        self.addCleanup(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(1000)
        thread = threading.Thread(target=count)
        thread.start()
        writer = store.create("data", "large")
        before = len(turns)
        writer.write_at(0, data)
        during = len(turns)
        writer.abort()
        over.set()
        thread.join()
        self.assertGreater(during, before)


def produce(folder, n, ready):
    with geds.Store(folder, f"worker-{n}", limit="64MiB") as store:
        for part in range(3):
            store.put("shuffle", f"{part}/from-{n}", f"{n}->{part};".encode() * 1000)
        ready.wait()
        mine = [store.get("shuffle", name).view for name, _ in store.list("shuffle", str(n))]
        assert len(mine) == 3 and all(bytes(view) == f"{k}->{n};".encode() * 1000 for k, view in enumerate(mine)), [len(v) for v in mine]
        ready.wait()


class Processes(Case):
    def test_processes_shuffle(self):
        context = multiprocessing.get_context("spawn")
        ready = context.Barrier(3)
        workers = [context.Process(target=produce, args=(self.folder.name, n, ready)) for n in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(120)
        self.assertEqual([worker.exitcode for worker in workers], [0, 0, 0])


class FileSystem(Case):
    def test_fsspec(self):
        import fsspec

        fs = fsspec.filesystem("geds", folder=self.folder.name, site="files", limit="64MiB")
        self.addCleanup(fs.store.close)
        with fs.open("geds://data/a/b.txt", "wb") as file:
            file.write(b"first line\n")
            file.write(b"second line\n")
        with fs.open("data/a/b.txt") as file:
            self.assertEqual(file.readline(), b"first line\n")
            file.seek(-5, 2)
            self.assertEqual(file.read(), b"line\n")
        with self.assertRaises(RuntimeError):
            with fs.open("data/a/half", "wb") as file:
                file.write(b"x")
                raise RuntimeError
        fs.pipe("data/a/c", b"123")
        self.assertEqual(fs.cat("data/a/c"), b"123")
        self.assertEqual(fs.ls("data", detail=False), ["data/a"])
        self.assertEqual(sorted(fs.find("data")), ["data/a/b.txt", "data/a/c"])
        self.assertEqual((fs.info("data/a")["type"], fs.info("data/a/c")["size"]), ("directory", 3))
        self.assertTrue(fs.exists("data/a/c") and not fs.exists("data/a/half"))
        fs.mv("data/a/c", "data/d")
        fs.copy("data/d", "data/e")
        fs.rm("data/a", recursive=True)
        self.assertEqual(sorted(fs.find("data")), ["data/d", "data/e"])
        with self.assertRaises(FileExistsError):
            fs.open("data/d", "xb").close()


if __name__ == "__main__":
    unittest.main()
