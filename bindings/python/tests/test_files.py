"""Objects as files: what is half written is not there, and what fsspec and smart_open promise their users."""

import contextlib
import datetime
import gzip
import importlib.util
import os
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import cloudskin_geds as geds
from cloudskin_geds.files import opened

LIMIT = 4 << 20


class Case(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def names(self, store, prefix=""):
        return [name for name, _ in store.list("data", prefix)]


class Writing(Case):
    def setUp(self):
        super().setUp()
        self.store = geds.Store(self.folder, "main", limit=LIMIT)
        self.addCleanup(self.store.close)
        self.store.create_bucket("data")

    def sink(self, key="half", **options):
        return opened(self.store, "data", key, "wb", **options)

    def fails(self, file):
        """A write that the limit refuses."""
        file.write(b"first")
        with self.assertRaises(geds.Error) as caught:
            file.write(bytes(LIMIT + 1))
        self.assertEqual(caught.exception.code, 8)
        return caught.exception

    def test_after_a_write_that_failed_close_says_so_and_seals_nothing(self):
        file = self.sink()
        failed = self.fails(file)
        with self.assertRaises(geds.Error) as caught:
            file.close()
        self.assertIs(caught.exception, failed)
        self.assertTrue(file.closed)
        file.close()  # once is enough
        self.assertEqual(self.names(self.store), [])

    def test_after_a_write_that_failed_none_succeeds(self):
        file = self.sink()
        failed = self.fails(file)
        with self.assertRaises(geds.Error) as caught:
            file.write(b"last")
        self.assertIs(caught.exception, failed)
        with contextlib.suppress(geds.Error):
            file.close()
        self.assertEqual(self.names(self.store), [])
        with self.assertRaises(ValueError):
            file.write(b"more")

    def test_a_write_that_failed_leaves_what_had_the_key(self):
        self.store.put("data", "half", b"before")
        with self.assertRaises(geds.Error):
            file = self.sink()
            try:
                file.write(b"torn")
                file.write(bytes(LIMIT + 1))
            finally:
                file.close()
        self.assertEqual(bytes(self.store.get("data", "half")), b"before")

    def test_a_write_that_failed_gives_back_its_room_at_once(self):
        # Who waits with the close, as a traceback does that is kept, keeps nobody else from writing.
        file = self.sink()
        file.write(bytes(LIMIT * 3 // 4))
        with self.assertRaises(geds.Error):
            file.write(bytes(LIMIT + 1))
        self.store.put("data", "other", bytes(LIMIT // 2))

    def test_what_has_no_bytes_is_refused_and_nothing_is_lost_by_it(self):
        # So numpy.savetxt finds out whether a file takes text.
        with self.sink("a") as file:
            for wrong in ("text", 5, None, [1, 2]):
                with self.assertRaises(TypeError):
                    file.write(wrong)
            self.assertEqual((file.write(b"by"), file.tell(), file.write(memoryview(b"tes")), file.tell()), (2, 2, 3, 5))
        self.assertEqual(bytes(self.store.get("data", "a")), b"bytes")

    def test_an_exception_drops_what_is_left_by_it(self):
        with self.assertRaises(KeyError):
            with self.sink() as file:
                file.write(b"half")
                raise KeyError
        self.assertEqual((self.names(self.store), file.closed), ([], True))
        file.close()
        self.assertEqual(self.names(self.store), [])

    def test_a_file_that_is_deferred_is_there_when_it_is_committed(self):
        kept, dropped, open_still = (self.sink(key, deferred=True) for key in ("kept", "dropped", "open"))
        for file in (kept, dropped, open_still):
            file.write(b"1")
        kept.close()
        dropped.close()
        self.assertEqual(self.names(self.store), [])
        kept.commit()
        dropped.discard()
        with self.assertRaisesRegex(ValueError, "geds://data/open"):
            open_still.commit()
        self.assertEqual(self.names(self.store), ["kept"])

    def test_defect_12_a_read_by_pieces_keeps_its_place(self):
        content = b"first line\nsecond line\n\nlast"
        self.store.put("data", "a", content)
        with opened(self.store, "data", "a", "rb") as file:
            pieces = []
            while piece := file.read(3):
                pieces.append(piece)
                self.assertEqual(file.tell(), sum(map(len, pieces)))
            self.assertEqual((b"".join(pieces), file.read(), file.read(1)), (content, b"", b""))
            file.seek(0)
            self.assertEqual((file.readline(), file.readline(4), file.read(4), list(file)), (b"first line\n", b"seco", b"nd l", [b"ine\n", b"\n", b"last"]))
            file.seek(-4, os.SEEK_END)
            self.assertEqual((file.read(100), file.seek(5), file.read(0), file.read(2), file.tell()), (b"last", 5, b"", b" l", 7))
            self.assertEqual((file.size, file.name, file.mode), (len(content), "geds://data/a", "rb"))
        with opened(self.store, "data", "a", "rb").detach() as raw:
            self.assertEqual((raw.read(6), raw.read(4), raw.readall(), raw.readall()), (b"first ", b"line", content[10:], b""))

    def test_defect_12_metadata_that_nobody_gave_is_empty(self):
        self.store.put("data", "a", b"1")
        self.assertEqual(self.store.metadata("data", "a"), b"")


class FileSystem(Case):
    """What fsspec's documentation promises of every file system."""

    def setUp(self):
        super().setUp()
        import fsspec

        self.fs = fsspec.filesystem("geds", folder=self.folder / "store", site="files", limit=LIMIT)
        self.store = self.fs.store
        self.addCleanup(self.store.close)
        self.store.create_bucket("data")

    def fill(self, *keys):
        for key in keys or ("a.txt", "b.txt", "c.csv", "deep/d.txt", "deep/er/e.txt"):
            self.store.put("data", key, key.encode())

    def test_a_file_of_text_is_dropped_like_one_of_bytes(self):
        for mode, compression in [("w", None), ("w", "gzip"), ("wb", "gzip"), ("wb", "zip")]:
            with self.subTest(mode=mode, compression=compression):
                content = "x" if mode == "w" else b"x"
                with self.assertRaises(KeyError):
                    with self.fs.open("data/half", mode, compression=compression) as file:
                        file.write(content)
                        raise KeyError
                self.assertEqual(self.names(self.store), [])
                file = self.fs.open("data/half", mode, compression=compression)
                file.write(content)
                del file
                self.assertEqual(self.names(self.store), [], "forgotten")
                if compression == "zip":
                    continue  # it complains by itself when it can't write its end
                file = self.fs.open("data/half", mode, compression=compression)
                with self.assertRaises(geds.Error):
                    try:
                        # More than the limit, also when it is packed.
                        data = os.urandom(LIMIT * 5 // 4)
                        file.write(data.decode("latin-1") if mode == "w" else data)
                    finally:
                        file.close()
                del file
                self.assertEqual(self.names(self.store), [], "closed after a write that failed")

    def test_what_is_packed_is_there_when_it_is_closed(self):
        for mode, name, compression in [("wb", "b.gz", "gzip"), ("w", "t.gz", "infer"), ("xt", "b.bz2", "infer"), ("wb", "z.zip", "zip")]:
            with self.subTest(name=name):
                content = b"packed\n" * 1000
                with self.fs.open(f"data/{name}", mode, compression=compression) as file:
                    file.write(content if "b" in mode else content.decode())
                self.assertTrue(file.closed)
                with self.fs.open(f"data/{name}", "rb", compression=compression) as file:
                    self.assertEqual(file.read(), content)
        self.assertEqual(gzip.decompress(self.fs.cat("data/t.gz")), content)

    def test_a_transaction_commits_all_or_nothing(self):
        with self.fs.transaction:
            for n in range(2):
                with self.fs.open(f"data/{n}", "wb") as file:
                    file.write(b"1")
            self.assertEqual(self.names(self.store), [])
        self.assertEqual(self.names(self.store), ["0", "1"])
        with self.assertRaises(KeyError):
            with self.fs.transaction:
                with self.fs.open("data/none", "w") as file:
                    file.write("1")
                raise KeyError
        with self.fs.transaction:
            for name, compression in [("2", None), ("2.gz", "infer")]:
                with self.fs.open(f"data/{name}", "w", compression=compression) as file:
                    file.write("1")
                del file
        with self.fs.transaction:
            with contextlib.suppress(KeyError), self.fs.open("data/3", "wb") as file:
                raise KeyError
        self.assertEqual(self.names(self.store), ["0", "1", "2", "2.gz"])

    def test_a_file_of_fsspecs_open_is_there_when_it_is_closed(self):
        import fsspec

        options = {"folder": self.folder / "store", "site": "files", "limit": LIMIT}
        for name, mode in [("a", "wb"), ("b", "w"), ("c.gz", "w")]:
            with fsspec.open(f"geds://data/{name}", mode, compression="infer", **options) as file:
                file.write("1" if mode == "w" else b"1")
            with fsspec.open(f"geds://data/{name}", "rt", compression="infer", **options) as file:
                self.assertEqual(file.read(), "1")

    def test_patterns_find_buckets_and_folders(self):
        self.fs.pipe({"aa/1": b"1", "ab/folder/2": b"2", "b/folder/3": b"3"})
        with self.assertRaisesRegex(IsADirectoryError, "recursive"):
            self.fs.rm("b/f*")
        self.fs.rm("a*", recursive=True)
        self.assertEqual(self.fs.find(""), ["b/folder/3"])

    def test_text_that_can_not_be_encoded_leaves_nothing(self):
        file = self.fs.open("data/text", "w", encoding="ascii")
        file.write("before")
        with self.assertRaises(UnicodeEncodeError):
            file.write("ü")
        file.close()
        self.assertFalse(self.fs.exists("data/text"))

    def test_the_root_holds_the_buckets(self):
        self.fs.pipe({"data/a": b"1", "data/folder/b": b"22", "more/c": b"333"})
        self.fs.mkdir("empty")
        for root in ("", "/", "geds://"):
            self.assertEqual((self.fs.info(root)["type"], self.fs.isdir(root), self.fs.exists(root)), ("directory", True, True))
            self.assertEqual(self.fs.ls(root, detail=False), ["data", "empty", "more"])
            self.assertEqual([entry["type"] for entry in self.fs.ls(root)], ["directory"] * 3)
            self.assertEqual((self.fs.find(root), self.fs.du(root)), (["data/a", "data/folder/b", "more/c"], 6))
            self.assertEqual(self.fs.find(root, maxdepth=2), ["data/a", "more/c"])
            self.assertEqual(self.fs.glob(root + "*/a"), ["data/a"])
        self.assertEqual([(folder, folders, files) for folder, folders, files in self.fs.walk("")][0], ("", ["data", "empty", "more"], []))

    def test_a_bucket_that_holds_nothing_is_an_empty_folder(self):
        self.fs.mkdir("empty")
        self.assertEqual((self.fs.isdir("empty"), self.fs.ls("geds://empty"), self.fs.find("empty"), list(self.fs.walk("empty"))), (True, [], [], [("empty", [], [])]))
        self.assertEqual((self.fs.find("empty", withdirs=True), self.fs.find("none", withdirs=True)), (["empty"], []))
        self.fs.rm("empty", recursive=True)
        for call in (self.fs.ls, self.fs.info, lambda path: self.fs.rm(path, recursive=True)):
            with self.assertRaises(FileNotFoundError):
                call("none")
        self.assertEqual((self.fs.exists("none"), self.fs.exists("data/none"), self.fs.isdir("none"), self.fs.find("none")), (False, False, False, []))

    def test_patterns_are_removed_and_no_more(self):
        self.fill()
        self.fs.rm("data/*.txt")
        self.assertEqual(self.names(self.store), ["c.csv", "deep/d.txt", "deep/er/e.txt"])
        with self.assertRaises(FileNotFoundError):
            self.fs.rm("data/*.txt")
        # A pattern's folders stay, unless it is recursive.
        self.fs.rm("geds://data/*")
        self.assertEqual(self.names(self.store), ["deep/d.txt", "deep/er/e.txt"])
        with self.assertRaisesRegex(IsADirectoryError, "recursive"):
            self.fs.rm("data/deep")
        self.fs.rm("data/d*", recursive=True)
        self.assertEqual(self.names(self.store), [])
        self.fill()
        self.fs.rm(["data/a.txt", "data/b*", "data/deep/er"], recursive=True)
        self.assertEqual(self.names(self.store), ["c.csv", "deep/d.txt"])
        self.fs.rm("data/**", recursive=True)
        self.assertEqual(self.names(self.store), [])
        self.fill()
        self.fs.rm("data", recursive=True, maxdepth=1)
        self.assertEqual(self.names(self.store), ["deep/d.txt", "deep/er/e.txt"])
        self.fs.rm("data/deep/d.txt", recursive=True, maxdepth=1)
        self.assertEqual(self.names(self.store), ["deep/er/e.txt"])
        with self.assertRaises(FileNotFoundError):
            self.fs.rm("data/none", recursive=True)

    def test_looking_around(self):
        self.fill()
        fs = self.fs
        for path in ("data/deep", "data/deep/", "/data/deep", "geds://data/deep", "geds://data/deep/"):
            self.assertEqual(fs.find(path), ["data/deep/d.txt", "data/deep/er/e.txt"])
            self.assertEqual((fs.isdir(path), fs.isfile(path), fs.exists(path), fs.ls(path, detail=False)), (True, False, True, ["data/deep/d.txt", "data/deep/er"]))
        self.assertEqual(fs.glob("/data/*.txt"), ["data/a.txt", "data/b.txt"])
        self.assertEqual(fs.glob("geds://data/**/*.txt"), ["data/a.txt", "data/b.txt", "data/deep/d.txt", "data/deep/er/e.txt"])
        self.assertEqual((fs.glob("data/d*/"), fs.glob("data/none*")), (["data/deep"], []))
        self.assertEqual(fs.find("data", maxdepth=1, withdirs=True), ["data", "data/a.txt", "data/b.txt", "data/c.csv", "data/deep"])
        self.assertEqual(fs.find("data", maxdepth=2), ["data/a.txt", "data/b.txt", "data/c.csv", "data/deep/d.txt"])
        self.assertEqual(fs.find("data/deep", withdirs=True), ["data/deep", "data/deep/d.txt", "data/deep/er", "data/deep/er/e.txt"])
        self.assertEqual((fs.find("data/a.txt"), fs.find("data/none")), (["data/a.txt"], []))
        with self.assertRaises(ValueError):
            fs.find("data", maxdepth=0)
        self.assertEqual(list(fs.walk("data")), [("data", ["deep"], ["a.txt", "b.txt", "c.csv"]), ("data/deep", ["er"], ["d.txt"]), ("data/deep/er", [], ["e.txt"])])
        self.assertEqual((fs.du("data"), fs.du("data/deep", total=False)), (38, {"data/deep/d.txt": 10, "data/deep/er/e.txt": 13}))
        self.assertEqual((fs.isfile("data/a.txt"), fs.isdir("data/a.txt"), fs.exists("data/dee"), fs.isfile("data/none")), (True, False, False, False))
        # What `ls` says of a file is what `info` says.
        self.assertEqual(fs.ls("data/a.txt"), [fs.info("data/a.txt")])
        self.assertEqual([fs.info(entry["name"]) for entry in fs.ls("data")], fs.ls("data"))
        self.assertEqual(fs.find("data", detail=True)["data/deep/d.txt"], fs.info("data/deep/d.txt"))
        with self.assertRaisesRegex(FileNotFoundError, "data/none"):
            fs.info("data/none")

    def test_a_file_beside_the_folder_of_its_name(self):
        self.fill("x", "x/1")
        self.assertEqual((self.fs.find("data"), self.fs.find("data/x"), self.fs.isfile("data/x")), (["data/x", "data/x/1"], ["data/x/1"], True))
        self.fs.rm("data/*")
        self.assertEqual(self.names(self.store), ["x/1"])

    def test_times(self):
        before = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=1)
        self.fill()
        created = self.fs.created("data/a.txt")
        self.assertTrue(before < created < datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=1), created)
        self.assertEqual((self.fs.modified("geds://data/a.txt"), self.fs.info("data/a.txt")["mtime"]), (created, created.timestamp()))
        with self.assertRaises(FileNotFoundError):
            self.fs.modified("data/none")
        with self.assertRaises(IsADirectoryError):
            self.fs.created("data/deep")

    def test_contents(self):
        self.fill()
        fs = self.fs
        self.assertEqual(fs.cat(["data/a.txt", "geds://data/b.txt"]), {"data/a.txt": b"a.txt", "data/b.txt": b"b.txt"})
        self.assertEqual(fs.cat("data/*.txt"), {"data/a.txt": b"a.txt", "data/b.txt": b"b.txt"})
        self.assertEqual(fs.cat("data/deep", recursive=True, start=-5), {"data/deep/d.txt": b"d.txt", "data/deep/er/e.txt": b"e.txt"})
        self.assertEqual(fs.cat("data/deep", recursive=True), {"data/deep/d.txt": b"deep/d.txt", "data/deep/er/e.txt": b"deep/er/e.txt"})
        with self.assertRaises(FileNotFoundError):
            fs.cat("data/none", recursive=True)
        with self.assertRaises(FileNotFoundError):
            fs.cat(["data/a.txt", "data/none"])
        self.assertEqual(fs.cat(["data/a.txt", "data/none"], on_error="omit"), {"data/a.txt": b"a.txt"})
        cases = [(None, None, b"c.csv"), (2, None, b"csv"), (None, 2, b"c."), (1, 3, b".c"), (-3, None, b"csv"), (None, -3, b"c."), (-3, -1, b"cs"), (3, 100, b"sv"), (9, 12, b"")]
        for start, end, expected in cases:
            self.assertEqual(fs.cat_file("data/c.csv", start, end), expected, (start, end))
        self.assertEqual(fs.cat_ranges(["data/a.txt", "data/none"], 0, 1)[0], b"a")
        self.assertEqual((fs.read_block("data/c.csv", 2, 2), fs.head("data/a.txt", 2), fs.tail("data/a.txt", 3)), (b"cs", b"a.", b"txt"))
        fs.pipe({"data/p": b"1", "geds://data/q": b"22"})
        self.assertEqual((fs.sizes(["data/p", "data/q"]), fs.read_text("data/q")), ([1, 2], "22"))
        fs.write_text("data/ü", "ü", encoding="utf-8")
        self.assertEqual(fs.cat("data/ü"), "ü".encode())
        with self.assertRaises(FileExistsError):
            fs.pipe_file("data/p", b"2", mode="create")

    def test_names_move(self):
        fs, moves = self.fs, [
            ("data/a.txt", "data/new", False, ["b.txt", "c.csv", "deep/d.txt", "deep/er/e.txt", "new"]),
            ("data/a.txt", "data/new/", False, ["b.txt", "c.csv", "deep/d.txt", "deep/er/e.txt", "new/a.txt"]),
            ("geds://data/a.txt", "geds://data/deep", False, ["b.txt", "c.csv", "deep/a.txt", "deep/d.txt", "deep/er/e.txt"]),
            ("data/*.txt", "data/new/", False, ["c.csv", "deep/d.txt", "deep/er/e.txt", "new/a.txt", "new/b.txt"]),
            (["data/a.txt", "data/b.txt"], ["data/1", "data/2"], False, ["1", "2", "c.csv", "deep/d.txt", "deep/er/e.txt"]),
            ("data/deep", "data/new", True, ["a.txt", "b.txt", "c.csv", "new/d.txt", "new/er/e.txt"]),
            ("data/deep/", "data/deep/er", True, ["a.txt", "b.txt", "c.csv", "deep/er/d.txt", "deep/er/er/e.txt"]),
            ("data/deep/er", "data/deep", True, ["a.txt", "b.txt", "c.csv", "deep/d.txt", "deep/er/e.txt"]),
            ("data/deep/er/", "data/deep", True, ["a.txt", "b.txt", "c.csv", "deep/d.txt", "deep/e.txt"]),
            ("data/deep", "data/deep", True, ["a.txt", "b.txt", "c.csv", "deep/d.txt", "deep/er/e.txt"]),
            ("data/d*", "data/new/", True, ["a.txt", "b.txt", "c.csv", "new/d.txt", "new/er/e.txt"]),
        ]
        for path1, path2, recursive, expected in moves:
            with self.subTest(path1=path1, path2=path2):
                self.store.delete_prefix("data", "")
                self.fill()
                fs.mv(path1, path2, recursive=recursive)
                self.assertEqual(self.names(self.store), expected)
        with self.assertRaisesRegex(IsADirectoryError, "recursive"):
            fs.mv("data/new", "data/other")
        for recursive in (False, True):
            with self.assertRaises(FileNotFoundError):
                fs.mv("data/none", "data/other", recursive=recursive)
        fs.mv("data", "other", recursive=True)
        self.assertEqual((self.names(self.store), fs.ls("other", detail=False)), ([], ["other/a.txt", "other/b.txt", "other/c.csv", "other/new"]))

    def test_copies(self):
        fs = self.fs
        self.fill()
        fs.copy("data/deep", "data/twin", recursive=True)
        fs.copy("data/deep", "data/twin", recursive=True)  # into what is there
        fs.copy("data/*.txt", "other/")
        self.assertEqual(fs.find("data/twin"), ["data/twin/d.txt", "data/twin/deep/d.txt", "data/twin/deep/er/e.txt", "data/twin/er/e.txt"])
        self.assertEqual(fs.find("other"), ["other/a.txt", "other/b.txt"])
        for recursive in (False, True):
            with self.assertRaises(FileNotFoundError):
                fs.copy("data/none", "data/other", recursive=recursive)
        with self.assertRaises(FileNotFoundError):
            fs.copy(["data/none"], ["data/deep"])

    def test_to_and_from_local_folders(self):
        fs, here = self.fs, self.folder / "here"
        self.fill()
        fs.get("data/deep", f"{here}/", recursive=True)
        self.assertEqual(sorted(str(path.relative_to(here)) for path in here.rglob("*") if path.is_file()), ["deep/d.txt", "deep/er/e.txt"])
        fs.put(f"{here}/deep", "back", recursive=True)
        self.assertEqual((fs.find("back"), fs.cat("back/er/e.txt")), (["back/d.txt", "back/er/e.txt"], b"deep/er/e.txt"))
        fs.put(str(here / "deep" / "d.txt"), "back/copies/")
        self.assertEqual(fs.cat("back/copies/d.txt"), b"deep/d.txt")
        with self.assertRaises(FileExistsError):
            fs.put_file(here / "deep" / "d.txt", "back/d.txt", mode="create")
        with self.assertRaises(FileNotFoundError):
            fs.get("data/none", str(here / "none"))
        self.assertFalse((here / "none").exists())

    def test_modes_and_touch(self):
        self.fill()
        for mode in ("ab", "a", "r+b"):
            with self.assertRaisesRegex(NotImplementedError, "appendable"):
                self.fs.open("data/a.txt", mode)
        with self.assertRaisesRegex(FileExistsError, "data/a.txt"):
            self.fs.open("data/a.txt", "xb")  # before anything is written
        with self.fs.open("data/new", "x") as file:
            file.write("1")
        self.fs.touch("data/touched", truncate=False)
        self.fs.touch("data/new")
        self.assertEqual(self.fs.sizes(["data/touched", "data/new"]), [0, 0])
        with self.assertRaisesRegex(NotImplementedError, "data/a.txt"):
            self.fs.touch("data/a.txt", truncate=False)
        self.assertEqual(self.fs.cat("data/a.txt"), b"a.txt")

    def test_a_store_that_does_not_answer_is_not_an_empty_one(self):
        self.fill()
        # Of an agent that is away; it would be waited for.
        away = geds.Error("the agent does not answer")
        with mock.patch.object(self.store, "stat", side_effect=away), mock.patch.object(self.store, "list", side_effect=away):
            for call in (self.fs.exists, self.fs.find, self.fs.ls, lambda path: self.fs.glob(path + "/*"), lambda path: self.fs.rm(path + "/*")):
                with self.assertRaisesRegex(geds.Error, "does not answer"):
                    call("data/deep")
        self.assertFalse(self.fs.exists("no bucket's name/a"))


# setup/setup.sh says when it can't have it.
@unittest.skipUnless(importlib.util.find_spec("smart_open") and importlib.util.find_spec("wrapt"), "no smart_open")
class SmartOpen(Case):
    def setUp(self):
        super().setUp()
        import smart_open

        import cloudskin_geds.smart  # noqa: F401  registers the scheme

        self.store = geds.Store(self.folder, "main", limit=LIMIT)
        self.addCleanup(self.store.close)
        self.store.create_bucket("data")
        self.smart_open = smart_open.open

    def open(self, key, mode="rb", **options):
        return self.smart_open(f"geds://data/{key}", mode, transport_params={"store": self.store, **options})

    def test_after_a_write_that_failed_nothing_is_sealed(self):
        for name in ("half", "half.gz"):
            for mode in ("wb", "w"):
                with self.subTest(name=name, mode=mode):
                    file = self.open(name, mode)
                    with self.assertRaises(geds.Error) as caught:
                        try:
                            data = os.urandom(LIMIT * 5 // 4)
                            file.write(data.decode("latin-1") if mode == "w" else data)
                        finally:
                            file.close()
                    self.assertEqual(caught.exception.code, 8)
                    self.assertEqual(self.names(self.store), [])

    def test_once(self):
        with self.open("a", "wb", if_absent=True) as file:
            file.write(b"first")
        with self.assertRaisesRegex(FileExistsError, "data/a") as caught:
            self.open("a", "wb", if_absent=True)
        self.assertEqual(caught.exception.code, 6)
        # Also who began before it was there.
        late = self.open("b", "wb", if_absent=True)
        late.write(b"second")
        self.store.put("data", "b", b"first")
        with self.assertRaises(FileExistsError):
            late.close()
        self.assertEqual([bytes(self.store.get("data", key)) for key in "ab"], [b"first"] * 2)

    def test_errors_name_bucket_and_key(self):
        with self.assertRaisesRegex(FileNotFoundError, "data/none"):
            self.open("none")
        with self.assertRaisesRegex(NotImplementedError, "appendable"):
            self.open("none", "ab")

    def test_defect_12_a_read_by_pieces_keeps_its_place(self):
        self.store.put("data", "a", b"first line\nsecond line\n")
        with self.open("a") as file:
            self.assertEqual((file.read(2), file.read(3), file.tell(), file.readline(), file.readlines()), (b"fi", b"rst", 5, b" line\n", [b"second line\n"]))
        with self.open("a", "r") as file:
            self.assertEqual((file.readline(), file.read(6), list(file)), ("first line\n", "second", [" line\n"]))


if __name__ == "__main__":
    unittest.main()
