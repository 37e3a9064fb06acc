"""The store as a file system of fsspec: `geds://bucket/key`."""

import io
import os
import threading

from fsspec.spec import AbstractFileSystem

from . import NotFound, Store
from .files import Reader, Sink


class GedsFileSystem(AbstractFileSystem):
    """Options: `folder`, `site`, `limit`, `memory`, as of `cloudskin_geds.Store`: without a `site` it attaches to the folder's agent."""

    protocol = "geds"
    _stores = {}
    _turn = threading.Lock()

    def __init__(self, folder, site=None, limit="1GiB", memory=0, **options):
        super().__init__(folder=folder, site=site, limit=limit, memory=memory, **options)
        with self._turn:
            # A process has a site once, however many file systems are made of it; one that was forked off has none of it.
            name = (os.getpid(), str(folder), site)
            if name not in self._stores:
                self._stores[name] = Store(folder, site, limit, memory)
            self.store = self._stores[name]

    @classmethod
    def _split(cls, path):
        bucket, _, key = cls._strip_protocol(path).strip("/").partition("/")
        return bucket, key

    def _open(self, path, mode="rb", **_):
        bucket, key = self._split(path)
        if mode == "rb":
            return io.BufferedReader(Reader(self.store.get(bucket, key).view))
        if mode in ("wb", "xb"):
            return Sink(self.store.create(bucket, key, if_absent=mode == "xb"))
        raise NotImplementedError(f"mode {mode!r}: an object is read (\"rb\") or written as a whole (\"wb\", \"xb\")")

    def cat_file(self, path, start=None, end=None, **_):
        return bytes(self.store.get(*self._split(path)).view[start:end])

    def pipe_file(self, path, value, mode="overwrite", **_):
        self.store.put(*self._split(path), value, if_absent=mode == "create")

    def info(self, path, **_):
        bucket, key = self._split(path)
        name = f"{bucket}/{key}".rstrip("/")
        if key:
            try:
                info = self.store.stat(bucket, key)
                return {"name": name, "size": info.size, "type": "file", "epoch": info.epoch, "created": info.created_ms / 1000}
            except NotFound:
                pass
        if self.store.list(bucket, key + "/" if key else "", folders=True):
            return {"name": name, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def ls(self, path, detail=True, **_):
        bucket, key = self._split(path)
        found = []
        for name, info in self.store.list(bucket, key + "/" if key else "", folders=True):
            whole = f"{bucket}/{name}".rstrip("/")
            found.append({"name": whole, "size": info.size if info else 0, "type": "file" if info else "directory"})
        if not found:
            found = [self.info(path)]
        return found if detail else [entry["name"] for entry in found]

    def rm_file(self, path):
        self.store.delete(*self._split(path))

    def rm(self, path, recursive=False, maxdepth=None):
        for one in [path] if isinstance(path, str) else path:
            if recursive and maxdepth is None:
                if self.store.delete_prefix(*self._split(one))[0] == 0:
                    raise FileNotFoundError(one)
            else:
                self.rm_file(one)

    def mv(self, path1, path2, recursive=False, **_):
        (bucket, old), (to_bucket, new) = self._split(path1), self._split(path2)
        self.store.create_bucket(to_bucket)
        self.store.rename_prefix(bucket, old, new, to_bucket) if recursive else self.store.rename(bucket, old, new, to_bucket)

    def cp_file(self, path1, path2, **_):
        """Another name for the same content: no data is copied."""
        (bucket, old), (to_bucket, new) = self._split(path1), self._split(path2)
        self.store.create_bucket(to_bucket)
        self.store.copy(bucket, old, new, to_bucket)

    def makedirs(self, path, exist_ok=False):
        """Folders are parts of keys; only a bucket is made."""
        self.store.create_bucket(self._split(path)[0])

    def mkdir(self, path, create_parents=True, **_):
        self.makedirs(path)
