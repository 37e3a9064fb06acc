"""Carries out the steps of bindings/scenarios.txt: `scenarios.py DOOR TABLE FOLDER`. Prints the names of the scenarios that it has done, one a line.

Doors: `python`, a node of its own; `python-attached`, which attaches to an agent of the same process; `fsspec`, the file system; `smart`, contents
that smart_open writes and reads; it has no words for names, ends and what grows, and they are those of `python`.
"""

import sys
import time
import urllib.parse

import cloudskin_geds as geds

WAIT = 60


def content(word):
    return urllib.parse.unquote_to_bytes(word)


def text(data):
    return "".join(chr(byte) if 0x20 < byte < 0x7F and byte != 0x25 else f"%{byte:02X}" for byte in bytes(data))


def large(size):
    return bytes(n * 31 // 8 % 256 for n in range(size))


def compared(found):
    return str(len(found)) if found == large(len(found)) else "other bytes"


def counted(numbers):
    return " ".join(map(str, numbers))


class Store:
    """Steps are the methods; `-` is `_`."""

    def __init__(self, store):
        self.store, self.held_, self.followers = store, {}, {}

    def begin(self, bucket):
        self.bucket = bucket
        self.held_.clear()
        self.followers.clear()
        for name in (bucket, bucket + "-2"):
            self.store.create_bucket(name)

    def at(self, key):
        return (self.bucket + "-2", key[1:]) if key.startswith("@") else (self.bucket, key)

    def put(self, key, word, **options):
        self.store.put(*self.at(key), content(word), **options)

    def put_new(self, key, word):
        self.put(key, word, if_absent=True)

    def put_with(self, key, word, metadata):
        self.put(key, word, metadata=content(metadata))

    def put_for(self, key, word, job):
        self.put(key, word, job=job)

    def put_ms(self, key, word, ms):
        self.put(key, word, ttl=int(ms) / 1000)

    def put_large(self, key, size):
        self.store.put(*self.at(key), large(int(size)))

    def put_here(self, key, word):
        writer = self.store.create(*self.at(key))
        writer.write(content(word))
        writer.seal_here()

    def put_at(self, key, *pieces):
        with self.store.create(*self.at(key)) as writer:
            for offset, word in zip(pieces[::2], pieces[1::2]):
                writer.write_at(int(offset), content(word))

    def abandon(self, key, word):
        writer = self.store.create(*self.at(key))
        writer.write(content(word))
        writer.abort()

    def get(self, key):
        return text(self.store.get(*self.at(key)).view)

    def get_large(self, key):
        return compared(bytes(self.store.get(*self.at(key))))

    def hold(self, name, key):
        self.held_[name] = self.store.get(*self.at(key)).view

    def held(self, name):
        return text(self.held_[name])

    def size(self, key):
        return str(self.store.stat(*self.at(key)).size)

    def metadata(self, key):
        return text(self.store.metadata(*self.at(key)))

    def read(self, key, offset, size):
        return text(self.store.read(*self.at(key), int(offset), int(size)))

    def list(self, prefix):
        return " ".join(name for name, _ in self.store.list(*self.at(prefix)))

    def folders(self, prefix):
        return " ".join(name for name, _ in self.store.list(*self.at(prefix), folders=True))

    def delete(self, key):
        self.store.delete(*self.at(key))

    def rename(self, old, new, **options):
        to_bucket, new = self.at(new)
        self.store.rename(*self.at(old), new, to_bucket, **options)

    def rename_new(self, old, new):
        self.rename(old, new, if_absent=True)

    def copy(self, old, new, **options):
        to_bucket, new = self.at(new)
        self.store.copy(*self.at(old), new, to_bucket, **options)

    def copy_new(self, old, new):
        self.copy(old, new, if_absent=True)

    def delete_all(self, prefix):
        return counted(self.store.delete_prefix(*self.at(prefix)))

    def rename_all(self, old, new, **options):
        to_bucket, new = self.at(new)
        return counted(self.store.rename_prefix(*self.at(old), new, to_bucket, **options))

    def rename_all_new(self, old, new):
        return self.rename_all(old, new, if_absent=True)

    def copy_all(self, old, new):
        to_bucket, new = self.at(new)
        return counted(self.store.copy_prefix(*self.at(old), new, to_bucket))

    def job(self, job):
        self.store.keep_job(job)

    def end_job(self, job):
        return counted(self.store.drop_job(job))

    def gone(self, key):
        end = time.monotonic() + WAIT
        while True:
            try:
                self.store.stat(*self.at(key))
            except geds.NotFound:
                return
            assert time.monotonic() < end, "it never went"
            time.sleep(0.02)

    def settle(self):
        self.store.settle()

    def flush(self, prefix):
        self.store.flush(self.bucket, prefix, WAIT)

    def durable(self, key):
        self.store.wait_durable(*self.at(key), WAIT)

    def spill(self, prefix):
        return counted(self.store.spill(self.bucket, prefix))

    def append(self, key, offset, word):
        growing = self.store.appendable(self.bucket, key)
        growing.append(content(word), int(offset))
        return str(len(growing))

    def grown(self, key, offset, size):
        return text(self.store.appendable(self.bucket, key, begin=False).read(int(offset), int(size)))

    def growing(self, prefix):
        return " ".join(name for name, _ in self.store.list_appendables(self.bucket, prefix))

    def sync(self, key):
        self.store.appendable(self.bucket, key, begin=False).sync()

    def seal(self, key):
        self.store.appendable(self.bucket, key, begin=False).seal()

    def discard(self, key):
        self.store.appendable(self.bucket, key, begin=False).discard()

    def follow(self, name, key):
        self.followers[name] = self.store.follow(self.bucket, key, timeout=WAIT)

    def followed(self, name, offset, size):
        self.followers[name].seek(int(offset))
        return text(self.followers[name].read(int(size)))

    def watch(self, token):
        events, _, resync = self.store.watch(self.bucket, 1 << 30 if token == "far" else int(token), 0)
        return "resync" if resync else " ".join(f"{event.what}:{event.name}" for event in events)


class Smart(Store):
    def __init__(self, store):
        import smart_open

        import cloudskin_geds.smart  # noqa: F401  registers the scheme

        super().__init__(store)
        self.smart_open = smart_open.open

    def open(self, key, mode, **options):
        return self.smart_open("geds://{}/{}".format(*self.at(key)), mode, transport_params={"store": self.store, **options})

    def put(self, key, word, **options):
        with self.open(key, "wb", **options) as file:
            file.write(content(word))

    # smart_open has no metadata, no leases and no ends.
    def put_with(self, key, word, metadata):
        super().put(key, word, metadata=content(metadata))

    def put_for(self, key, word, job):
        super().put(key, word, job=job)

    def put_ms(self, key, word, ms):
        super().put(key, word, ttl=int(ms) / 1000)

    def put_large(self, key, size):
        with self.open(key, "wb") as file:
            whole = large(int(size))
            for at in range(0, len(whole), 1 << 20):
                file.write(whole[at : at + (1 << 20)])

    def abandon(self, key, word):
        try:
            with self.open(key, "wb") as file:
                file.write(content(word))
                raise KeyError
        except KeyError:
            pass

    def get(self, key):
        with self.open(key, "rb") as file:
            return text(file.read())

    def get_large(self, key):
        with self.open(key, "rb") as file:
            return compared(b"".join(iter(lambda: file.read(100_000), b"")))

    def hold(self, name, key):
        self.held_[name] = self.open(key, "rb")

    def held(self, name):
        self.held_[name].seek(0)
        return text(self.held_[name].read())

    def size(self, key):
        with self.open(key, "rb") as file:
            return str(file.seek(0, 2))

    def read(self, key, offset, size):
        with self.open(key, "rb") as file:
            file.seek(int(offset))
            return text(file.read(int(size)))


class Files:
    def __init__(self, folder):
        import fsspec

        self.fs, self.held_ = fsspec.filesystem("geds", folder=folder, site="files", limit="64MiB"), {}
        self.store = self.fs.store

    def begin(self, bucket):
        self.bucket = bucket
        self.held_.clear()
        self.fs.mkdir(bucket)

    def at(self, key):
        return f"{self.bucket}/{key}"

    def put(self, key, word, mode="wb"):
        with self.fs.open(self.at(key), mode) as file:
            file.write(content(word))

    def put_new(self, key, word):
        self.put(key, word, "xb")

    def put_large(self, key, size):
        self.fs.pipe(self.at(key), large(int(size)))

    def abandon(self, key, word):
        file = self.fs.open(self.at(key), "wb")
        file.write(content(word))
        file.discard()

    def get(self, key):
        with self.fs.open(self.at(key)) as file:
            return text(file.read())

    def get_large(self, key):
        return compared(self.fs.cat(self.at(key)))

    def hold(self, name, key):
        self.held_[name] = self.fs.open(self.at(key))

    def held(self, name):
        self.held_[name].seek(0)
        return text(self.held_[name].read())

    def size(self, key):
        return str(self.fs.size(self.at(key)))

    def read(self, key, offset, size):
        return text(self.fs.cat_file(self.at(key), int(offset), int(offset) + int(size)))

    def list(self, prefix):
        return " ".join(path.partition("/")[2] for path in sorted(self.fs.find(self.at(prefix))))

    def folders(self, prefix):
        entries = self.fs.ls(self.at(prefix))
        names = (entry["name"].partition("/")[2] + "/" * (entry["type"] == "directory") for entry in entries)
        return " ".join(sorted(names))

    def delete(self, key):
        self.fs.rm(self.at(key))

    def rename(self, old, new):
        self.fs.mv(self.at(old), self.at(new))

    def copy(self, old, new):
        self.fs.copy(self.at(old), self.at(new))

    def delete_all(self, prefix):
        self.fs.rm(self.at(prefix), recursive=True)

    def rename_all(self, old, new):
        self.fs.mv(self.at(old), self.at(new), recursive=True)


KINDS = {3: "invalid_argument", 4: "deadline_exceeded", 5: "not_found", 6: "already_exists", 8: "resource_exhausted", 9: "failed_precondition"}


def given(door, words):
    try:
        return "=", getattr(door, words[0].replace("-", "_"))(*words[1:]) or ""
    except geds.Error as error:
        return "!", KINDS.get(error.code, str(error))
    except FileNotFoundError:
        return "!", "not_found"
    except ValueError as error:
        # What is no name at all, smart_open's addresses don't let through.
        return "!", "invalid_argument" if "is no object" in str(error) else str(error)


def main(name, table, folder):
    agent = None
    if name == "fsspec":
        door = Files(folder)
    else:
        agent = geds.Store.agent(folder, limit="64MiB", persist=f"file:{folder}-tier")
        door = Smart(agent) if name == "smart" else Store(agent if name == "python" else geds.Store(folder))
    scenario, skipped = None, True
    with open(table, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            words = ["" if word == "''" else word for word in line.split()]
            if not words or words[0].startswith("#"):
                continue
            if words[0] == "scenario":
                if not skipped:
                    print(scenario)
                scenario, skipped = words[1], False
                door.begin(scenario)
            elif words[0] == "without":
                skipped = skipped or name in words[1 : words.index(":")]
            elif not skipped:
                at = next((n for n, word in enumerate(words) if word in ("=", "!")), None)
                sort, expected = ("=", None) if at is None else (words[at], " ".join(words[at + 1 :]))
                answer = given(door, words[:at])
                if answer[0] != sort or expected not in (None, answer[1]):
                    raise SystemExit(f"{table}:{number}: {answer} and not {(sort, expected)}")
    if not skipped:
        print(scenario)
    door.store.close()
    if agent is not None:
        agent.close()


main(*sys.argv[1:])
