"""The store as a file system of fsspec: `geds://bucket/key`.

A folder is there as long as something lies in it, a bucket from when it is made. What fsspec does with many calls the store does in one step where it can: moving, copying and removing folders, and finding what is in them.
"""

import contextlib
import datetime
import os
import threading
from glob import has_magic

from fsspec.callbacks import NoOpCallback
from fsspec.compression import compr
from fsspec.core import get_compression
from fsspec.spec import AbstractFileSystem

from . import Error, NotFound, Store
from .files import Packed, Text, opened

_INVALID = 3


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
    def _strip_protocol(cls, path):
        path = super()._strip_protocol(path)
        # As names are told, or patterns would not meet them.
        return path if isinstance(path, list) else path.lstrip("/")

    @classmethod
    def _split(cls, path):
        bucket, _, key = cls._strip_protocol(path).partition("/")
        return bucket, key

    def open(self, path, mode="rb", block_size=None, cache_options=None, compression=None, **options):
        if "r" in mode:
            return super().open(path, mode, block_size, cache_options, compression, **options)
        # fsspec's own layers would close the file when an exception leaves them, and that seals it.
        text = None if "b" in mode else {name: options.pop(name) for name in ("encoding", "errors", "newline") if name in options}
        file = super().open(path, mode if text is None else mode.replace("t", "") + "b", block_size, cache_options, **options)
        compression = get_compression(path, compression)
        if compression is not None:
            file = Packed(compr[compression](file, mode=mode[0]), file)
        return file if text is None else Text(file, **text)

    def _open(self, path, mode="rb", autocommit=True, **_):
        return opened(self.store, *self._split(path), mode, deferred=not autocommit)

    def cat_file(self, path, start=None, end=None, **_):
        return bytes(self.store.get(*self._split(path)).view[start:end])

    def cat(self, path, recursive=False, on_error="raise", **options):
        if not recursive:
            return super().cat(path, on_error=on_error, **options)
        # fsspec would want the content of the folders, too.
        files = [file for one in self.expand_path(path) for file in self.find(one)]
        return super().cat(files, on_error=on_error, assume_literal=True, **options)

    def pipe_file(self, path, value, mode="overwrite", **_):
        self.store.put(*self._split(path), value, if_absent=mode == "create")

    def put_file(self, lpath, rpath, callback=NoOpCallback(), mode="overwrite", **_):
        if os.path.isdir(lpath):
            return self.makedirs(rpath, exist_ok=True)
        # Not asked beforehand whether it is there: somebody may be faster.
        with open(lpath, "rb") as source, self.open(rpath, "xb" if mode == "create" else "wb") as sink:
            callback.set_size(os.fstat(source.fileno()).st_size)
            while data := source.read(self.blocksize):
                callback.relative_update(sink.write(data))

    def touch(self, path, truncate=True, **_):
        try:
            self.open(path, "wb" if truncate else "xb").close()
        except FileExistsError:
            raise NotImplementedError(f"{path} is there, and its time is that of its writing: `truncate=True` replaces it by an empty file") from None

    @staticmethod
    def _entry(bucket, name, info):
        name = f"{bucket}/{name}".strip("/")
        if info is None:
            return {"name": name, "size": 0, "type": "directory"}
        written = info.created_ms / 1000
        return {"name": name, "size": info.size, "type": "file", "epoch": info.epoch, "created": written, "mtime": written}

    def _list(self, bucket, key, folders=True):
        """What lies in a folder; without `folders` also in those in it."""
        if bucket:
            return self.store.list(bucket, f"{key}/" if key else "", folders)
        # At the root buckets are folders.
        one, _, key = key.partition("/")
        buckets = [one] if one else self.store.buckets()
        if folders and not one:
            return [(f"{bucket}/", None) for bucket in buckets]
        return [(f"{bucket}/{name}", info) for bucket in buckets for name, info in self._list(bucket, key, folders)]

    def info(self, path, **_):
        bucket, key = self._split(path)
        if key:
            with contextlib.suppress(NotFound):
                return self._entry(bucket, key, self.store.stat(bucket, key))
        if not bucket or self._list(bucket, key) or not key:
            return self._entry(bucket, key, None)
        raise FileNotFoundError(path)

    def exists(self, path, **_):
        try:
            self.info(path)
            return True
        except FileNotFoundError:
            return False
        except Error as error:
            # A store that does not answer has not said no.
            if error.code != _INVALID:
                raise
            return False

    def _written(self, path):
        info = self.info(path)
        if info["type"] == "directory":
            raise IsADirectoryError(f"{path} is a folder, which has no time")
        return datetime.datetime.fromtimestamp(info["created"], datetime.timezone.utc)

    def created(self, path):
        return self._written(path)

    def modified(self, path):
        return self._written(path)

    def ls(self, path, detail=True, **_):
        bucket, key = self._split(path)
        found = [self._entry(bucket, name, info) for name, info in self._list(bucket, key)]
        if not found and key:
            found = [self.info(path)]
        return found if detail else [entry["name"] for entry in found]

    def find(self, path, maxdepth=None, withdirs=False, detail=False, **_):
        """With one call for all, or for each folder where `maxdepth` spares some. `walk`, with which fsspec does it, leaves out what the store can't say."""
        if maxdepth is not None and maxdepth < 1:
            raise ValueError("maxdepth must be at least 1")
        bucket, key = self._split(path)
        found, left = {}, [(key, maxdepth)]
        with contextlib.suppress(NotFound):
            while left:
                folder, depth = left.pop()
                for name, info in self._list(bucket, folder, folders=depth is not None):
                    found[name] = info
                    if info is None and depth > 1:
                        left.append((name.rstrip("/"), depth - 1))
        if withdirs:
            first = len(key) + 1 if key else 0
            for name in list(found):
                ends = (n for n, letter in enumerate(name) if letter == "/" and n >= first)
                found.update((name[: end + 1], None) for end in ends)
        out = {}
        for name, info in found.items():
            # The file, where a folder has the same name.
            if info is not None or (withdirs and f"{bucket}/{name}".rstrip("/") not in out):
                entry = self._entry(bucket, name, info)
                out[entry["name"]] = entry
        if withdirs or (key and not found):
            with contextlib.suppress(FileNotFoundError):
                entry = self.info(path)
                out.setdefault(entry["name"], entry)
        names = sorted(out)
        return {name: out[name] for name in names} if detail else names

    def rm_file(self, path):
        self.store.delete(*self._split(path))

    @contextlib.contextmanager
    def _no_folder(self, path):
        try:
            yield
        except NotFound:
            if self.isdir(path):
                raise IsADirectoryError(f"{path} is a folder: say `recursive=True` if all of it is meant") from None
            raise

    def rm(self, path, recursive=False, maxdepth=None):
        for one in map(self._strip_protocol, [path] if isinstance(path, (str, os.PathLike)) else path):
            whole = recursive and maxdepth is None
            if has_magic(one) or (recursive and not whole):
                gone, folder = 0, None
                for name in self.expand_path(one, recursive=recursive and not whole, maxdepth=maxdepth):
                    bucket, key = self._split(name)
                    # Folders are found, too, also the bucket, and what was in one that is gone by now.
                    try:
                        if whole:
                            self.store.delete_prefix(bucket, key)
                        elif key:
                            self.store.delete(bucket, key)
                            gone += 1
                    except NotFound:
                        pass
                    if not gone:
                        folder = name
                # What somebody else has removed meanwhile is none.
                if folder is not None and not gone and not recursive and self.isdir(folder):
                    raise IsADirectoryError(f"{folder} is a folder: say `recursive=True` if all of it is meant")
            elif not whole:
                with self._no_folder(one):
                    self.rm_file(one)
            elif self.store.delete_prefix(*self._split(one))[0] == 0 and not self.exists(one):
                raise FileNotFoundError(one)

    def _target(self, path1, path2):
        """Source and target of what has one name, as fsspec says: to a folder that is there, or that ends with `/`, means into it. None for what has more."""
        if not (isinstance(path1, str) and isinstance(path2, str)) or has_magic(path1):
            return None
        source, target = self._strip_protocol(path1), self._strip_protocol(path2)
        if source != target and not path1.endswith("/") and (path2.endswith("/") or self.isdir(target)):
            target = f"{target}/{source.rpartition('/')[2]}"
        self.makedirs(target)
        return source, target, (*self._split(source), *reversed(self._split(target)))

    def mv(self, path1, path2, recursive=False, maxdepth=None, **_):
        """Names move, and no data: what has one name, also a folder, in one step."""
        one = self._target(path1, path2) if maxdepth is None else None
        if one is None:
            return super().copy(path1, path2, recursive, maxdepth, "raise", move=True)
        source, target, names = one
        if source == target:
            return None
        with self._no_folder(source):
            self.store.rename_prefix(*names) if recursive else self.store.rename(*names)

    def copy(self, path1, path2, recursive=False, maxdepth=None, on_error=None, **options):
        """Other names for the same content: a folder's in one step."""
        one = self._target(path1, path2) if recursive and maxdepth is None else None
        if one is None:
            return super().copy(path1, path2, recursive, maxdepth, on_error, **options)
        source, target, names = one
        if source != target and self.store.copy_prefix(*names)[0] == 0 and not self.exists(source):
            raise FileNotFoundError(source)

    def cp_file(self, path1, path2, move=False, **_):
        """Another name for the same content: no data is copied. Or the other name instead."""
        (bucket, old), (to_bucket, new) = self._split(path1), self._split(path2)
        self.store.create_bucket(to_bucket)
        try:
            (self.store.rename if move else self.store.copy)(bucket, old, new, to_bucket)
        except NotFound:
            # A folder is there when something lies in it, and goes with that.
            if not self.isdir(path1):
                raise

    def makedirs(self, path, exist_ok=False):
        """Folders are parts of keys; only a bucket is made."""
        self.store.create_bucket(self._split(path)[0])

    def mkdir(self, path, create_parents=True, **_):
        self.makedirs(path)
