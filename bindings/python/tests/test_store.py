"""The store as programs in Python use it."""

import array
import importlib.util
import multiprocessing
import os
import signal
import subprocess
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

    def test_what_grows_is_followed_by_lines_until_it_is_sealed(self):
        store = self.open()
        log = store.appendable("data", "log")
        log.append(b"first\nsec")
        lines = store.follow("data", "log", timeout=0.2)
        self.assertEqual((lines.readline(), lines.tell()), (b"first\n", 6))
        # What came of a line is not lost when the rest is late.
        with self.assertRaises(TimeoutError):
            lines.readline()
        with self.assertRaises(geds.Late):
            lines.readline()

        def write():
            for piece in [b"ond\nth", b"ird\n", b"last"]:
                time.sleep(0.05)
                log.append(piece)
            log.seal()

        writer = threading.Thread(target=write)
        with store.follow("data", "log", offset=6) as patient:
            writer.start()
            self.assertEqual(list(patient), [b"second\n", b"third\n", b"last"])
            self.assertEqual(patient.readline(), b"")
            patient.seek(3)
            self.assertEqual((patient.read(4), patient.readall()), (b"st\ns", b"econd\nthird\nlast"))
            patient.seek(8)
            self.assertEqual((patient.readline(2), patient.readline()), (b"co", b"nd\n"))
        writer.join()
        with self.assertRaises(ValueError):
            patient.read(1)
        self.assertEqual(lines.readall(), b"second\nthird\nlast")
        with self.assertRaises(FileNotFoundError):
            store.follow("data", "none")

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

    def test_what_grows_is_read_meanwhile(self):
        store = self.open()
        growing = store.appendable("data", "log")
        self.assertEqual([growing.append(data) for data in (b"one", bytearray(b"two"), memoryview(b"xxthree")[2:], b"")], [3, 6, 11, 11])
        self.assertEqual((growing.read(), growing.read(3, 3), growing.read(11), growing.read(5, 0)), (b"onetwothree", b"two", b"", b""))
        with self.assertRaisesRegex(geds.Error, "11") as caught:
            growing.append(b"x", offset=3)
        self.assertEqual(caught.exception.code, 9)
        with self.assertRaises(FileExistsError):
            store.appendable("data", "log", new=True)
        with self.assertRaises(FileNotFoundError):
            store.appendable("data", "none", begin=False)
        # It stays when the store is closed, and goes on.
        del growing
        store.close()
        store = self.open()
        self.assertEqual(store.list_appendables("data"), [("log", 11)])
        growing = store.appendable("data", "log", begin=False)
        growing.append(b"!")
        growing.seal()
        self.assertEqual(bytes(store.get("data", "log")), b"onetwothree!")

    def test_a_lease_that_nobody_extends_takes_its_objects_along(self):
        store = self.open()
        store.keep_job("train", ttl=0.3)
        store.put("data", "scratch", b"1", job="train")
        store.put("data", "kept", b"2")
        end = time.monotonic() + 60
        while len(store.list("data")) > 1:
            self.assertLess(time.monotonic(), end, "it never went")
            time.sleep(0.02)
        self.assertEqual([name for name, _ in store.list("data")], ["kept"])

    def test_a_watch_waits_and_its_token_is_good_later(self):
        store = self.open()
        store.create_bucket("data")
        events, token, resync = store.watch("data")
        self.assertEqual((events, resync), ([], False))
        threading.Timer(0.1, store.put, ("data", "a", b"123")).start()
        events, later, resync = store.watch("data", token, timeout=60)
        self.assertEqual(([(event.what, event.name, event.size) for event in events], resync), ([("sealed", "a", 3)], False))
        self.assertEqual(store.watch("data", later, timeout=0.01)[0], [])
        # As good after the namenode, which is this process, has begun anew.
        store.close()
        store = self.open()
        store.delete("data", "a")
        self.assertEqual([event.what for event in store.watch("data", token, 60)[0]], ["sealed", "removed"])

    def test_defect_12_other_threads_run_during_a_call(self):
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


def work_and_die(folder, ready):
    store = geds.Store(folder)
    found = store.get("data", "from/agent")
    store.put("data", "large", bytes(3 << 20))
    writer = store.create("data", "from/worker", metadata=b"m")
    writer.write(bytes(found))
    writer.seal_here()
    ready.put(sum(found.view))
    ready.close()
    ready.join_thread()
    os.kill(os.getpid(), signal.SIGKILL)


class Agent(Case):
    def agent(self, **options):
        store = geds.Store.agent(self.folder.name, limit="64MiB", **options)
        self.addCleanup(store.close)
        return store

    def test_a_worker_shares_the_agents_store_and_what_it_wrote_outlives_it(self):
        context = multiprocessing.get_context("spawn")
        bucket = Path(self.folder.name) / "bucket"
        agent = self.agent(persist=f"file:{bucket}")
        agent.put("data", "from/agent", b"123")
        ready = context.Queue()
        worker = context.Process(target=work_and_die, args=(self.folder.name, ready))
        worker.start()
        self.assertEqual(ready.get(timeout=120), sum(b"123"))
        worker.join(120)
        self.assertEqual(worker.exitcode, -signal.SIGKILL)
        agent.settle()
        self.assertEqual(bytes(agent.get("data", "from/worker")), b"123")
        self.assertEqual(agent.metadata("data", "from/worker"), b"m")
        self.assertEqual(len(agent.get("data", "large")), 3 << 20)
        # The end of an agent brings away what it owes.
        agent.close()
        self.assertEqual(sorted(path.stat().st_size for path in bucket.rglob("*") if path.is_file()), [3, 3, 3 << 20])

    def test_an_agent_that_is_gone(self):
        agent = self.agent()
        store = geds.Store(self.folder.name)
        self.addCleanup(store.close)
        store.put("data", "a", b"1")
        view = store.get("data", "a").view
        with self.assertRaises(PermissionError):
            geds.Store.agent(self.folder.name, "second", limit="64MiB")
        agent.close()
        with self.assertRaises(geds.Error) as caught:
            store.put("data", "late", b"")
        self.assertEqual((caught.exception.code, bytes(view)), (14, b"1"))

    def test_a_child_that_is_forked(self):
        agent = self.agent()
        agent.put("data", "a", b"1")
        store = geds.Store(self.folder.name)
        self.addCleanup(store.close)
        view = store.get("data", "a").view
        child = os.fork()
        if child == 0:
            good = False
            try:
                good = bytes(view) == b"1"
                try:
                    store.get("data", "none")
                    good = False
                except geds.Error as error:
                    good = good and error.code == 9
                again = geds.Store(self.folder.name)
                good = good and bytes(again.get("data", "a")) == b"1"
                again.close()
                store.close()
            finally:
                os._exit(0 if good else 1)
        self.assertEqual(os.waitpid(child, 0)[1], 0)
        store.put("data", "b", view)
        self.assertEqual(bytes(store.get("data", "b")), b"1")

    def test_the_program(self):
        program = subprocess.Popen([sys.executable, "-m", "cloudskin_geds", self.folder.name, "--limit", "64MiB"], stdout=subprocess.PIPE)
        self.addCleanup(program.stdout.close)
        program.stdout.readline()
        with geds.Store(self.folder.name) as store:
            store.put("data", "a", b"1")
        program.terminate()
        self.assertEqual(program.wait(60), 0)
        # Another process takes the part over, under the same name.
        with geds.Store(self.folder.name, "agent", limit="64MiB") as store:
            self.assertEqual(bytes(store.get("data", "a")), b"1")


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
        # A copy is another name, in another bucket too.
        fs.copy("data/d", "other/e")
        self.assertEqual(len({fs.store.stat(*path).checksum for path in [("data", "d"), ("data", "e"), ("other", "e")]}), 1)
        fs.mv("other/e", "third/e")
        self.assertEqual((fs.cat("third/e"), fs.find("other")), (b"123", []))
        fs.rm("data/a", recursive=True)
        self.assertEqual(sorted(fs.find("data")), ["data/d", "data/e"])
        with self.assertRaises(FileExistsError):
            fs.open("data/d", "xb").close()

    def test_fsspec_attaches_where_no_site_is_named(self):
        import fsspec

        agent = geds.Store.agent(self.folder.name, limit="64MiB")
        self.addCleanup(agent.close)
        fs = fsspec.filesystem("geds", folder=self.folder.name)
        self.addCleanup(fs.store.close)
        fs.pipe("data/a", b"123")
        self.assertEqual(bytes(agent.get("data", "a")), b"123")

    def test_what_is_forgotten_half_written_is_not_there(self):
        import fsspec

        fs = fsspec.filesystem("geds", folder=self.folder.name, site="forgets", limit="64MiB")
        self.addCleanup(fs.store.close)
        file = fs.open("data/half", "wb")
        file.write(b"x")
        del file
        self.assertFalse(fs.exists("data/half"))

    # setup/setup.sh says when it can't have it.
    @unittest.skipUnless(importlib.util.find_spec("numpy"), "no numpy")
    def test_numpy(self):
        import numpy

        store = self.open()
        store.put("data", "numbers", numpy.arange(1000, dtype="<f8").reshape(10, 100))
        found = store.get("data", "numbers")
        numbers = numpy.frombuffer(found.view, dtype="<f8").reshape(10, 100)
        self.assertEqual(numbers.sum(), 499500.0)
        self.assertEqual((numbers.ctypes.data, numbers.flags.writeable), (numpy.frombuffer(found.view, dtype="u1").ctypes.data, False))
        # The array keeps the object open.
        del found
        store.delete("data", "numbers")
        self.assertEqual(numbers[9, 99], 999.0)

    # setup/setup.sh says when it can't have it.
    @unittest.skipUnless(importlib.util.find_spec("smart_open") and importlib.util.find_spec("wrapt"), "no smart_open")
    def test_smart_open(self):
        import smart_open

        import cloudskin_geds.smart  # noqa: F401  registers the scheme

        store = self.open()
        options = {"transport_params": {"store": store}}
        with smart_open.open("geds://data/a/b.txt", "w", **options) as file:
            file.write("first line\nsecond line\n")
        with smart_open.open("geds://data/a/b.txt", **options) as file:
            self.assertEqual(file.readline(), "first line\n")
            self.assertEqual(list(file), ["second line\n"])
        with smart_open.open("geds://data/a/b.txt", "rb", **options) as file:
            file.seek(-5, 2)
            self.assertEqual(file.read(), b"line\n")
        with smart_open.open("geds://data/c.gz", "wb", **options) as file:
            file.write(b"packed" * 1000)
        self.assertLess(store.stat("data", "c.gz").size, 1000)
        with smart_open.open("geds://data/c.gz", "rb", **options) as file:
            self.assertEqual(file.read(), b"packed" * 1000)
        for mode in ("wb", "w"):
            with self.assertRaises(RuntimeError):
                with smart_open.open("geds://data/half", mode, **options) as file:
                    file.write("x" if mode == "w" else b"x")
                    raise RuntimeError
            self.assertEqual([name for name, _ in store.list("data", "half")], [])
        with self.assertRaises(FileNotFoundError):
            smart_open.open("geds://data/none", "rb", **options)
        with self.assertRaises(ValueError):
            smart_open.open("geds://data", "rb", **options)


if __name__ == "__main__":
    unittest.main()
