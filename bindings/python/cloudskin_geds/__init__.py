"""CloudSkin's object store for Python: a thin layer over the C library `libcloudskin_geds`.

An object is written once and never changes; `Object.view` is its bytes, mapped, without a copy. The library is called through ctypes, which lets other
threads run during each call.
"""

import ctypes
import os
import re
from collections import namedtuple
from pathlib import Path

__all__ = ["Store", "Object", "Writer", "Info", "Error", "NotFound", "AlreadyExists", "Denied", "Late"]


class Error(OSError):
    """What the store says, with bucket and key in it. `code` is one of google.rpc.Code."""

    code = 13


class NotFound(Error, FileNotFoundError):
    pass


class AlreadyExists(Error, FileExistsError):
    pass


class Denied(Error, PermissionError):
    pass


class Late(Error, TimeoutError):
    pass


_ERRORS = {4: Late, 5: NotFound, 6: AlreadyExists, 7: Denied}

Info = namedtuple("Info", "size epoch checksum created_ms expires_ms")
Info.__doc__ = "What an object is: bytes, number of its writing, xxh3, Unix milliseconds of its seal and of its end (0: none)."


class _CInfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in Info._fields]

    def info(self):
        return Info(*(getattr(self, name) for name in Info._fields))


_EACH = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(_CInfo))


def _load():
    named = os.environ.get("CLOUDSKIN_GEDS_LIBRARY")
    path = Path(named) if named else Path(__file__).parent / "libcloudskin_geds.so"
    lib = ctypes.CDLL(str(path))
    handle, text, number, code = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint64, ctypes.c_int
    counts = [ctypes.POINTER(number)] * 2
    for name, result, arguments in [
        ("message", text, []),
        ("code", code, []),
        ("open", handle, [text, text, number, number]),
        ("agent", handle, [text, text, number, number, text]),
        ("attach", handle, [text]),
        ("close", code, [handle]),
        ("settle", code, [handle]),
        ("create_bucket", code, [handle, text]),
        ("create", handle, [handle, text, text, code]),
        ("write", code, [handle, number, handle, number]),
        ("set_metadata", code, [handle, text, number]),
        ("expire_after", code, [handle, number]),
        ("seal", code, [handle]),
        ("seal_here", code, [handle]),
        ("abort", None, [handle]),
        ("get", handle, [handle, text, text]),
        ("data", handle, [handle]),
        ("len", number, [handle]),
        ("release", None, [handle]),
        ("stat", code, [handle, text, text, ctypes.POINTER(_CInfo)]),
        ("metadata", code, [handle, text, text, handle, number, ctypes.POINTER(number)]),
        ("delete", code, [handle, text, text]),
        ("rename", code, [handle, text, text, text]),
        ("delete_prefix", code, [handle, text, text, *counts]),
        ("rename_prefix", code, [handle, text, text, text, *counts]),
        ("list", code, [handle, text, text, code, _EACH, handle]),
    ]:
        function = getattr(lib, "geds_" + name)
        function.restype, function.argtypes = result, arguments
    return lib


_lib = _load()


def _fail():
    code = _lib.geds_code()
    error = _ERRORS.get(code, Error)(_lib.geds_message().decode())
    error.code = code
    raise error


def _ok(code):
    if code != 0:
        _fail()


def _made(handle):
    return handle if handle is not None else _fail()


def _text(name):
    if "\0" in name:
        raise ValueError(f"{name!r} has a NUL in it")
    return name.encode()


_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def _bytes(amount):
    """A number, or one with a unit, such as "64MiB"."""
    if isinstance(amount, int):
        return amount
    found = re.fullmatch(r"(\d+)([KMG]?i?B?)", amount.strip())
    if not found or found[2] not in _UNITS:
        raise ValueError(f"{amount!r} is no amount of bytes; write a number or one with a unit, such as \"64MiB\"")
    return int(found[1]) * _UNITS[found[2]]


class Object:
    """A sealed object that is open. `view` is a read-only memoryview of its bytes; it, and all that is made of it without a copy, keeps the object open."""

    def __init__(self, handle):
        size = _lib.geds_len(handle)
        self._owner = _Owner(handle)
        if size == 0:
            self.view = memoryview(b"")
            return
        bytes_ = (ctypes.c_ubyte * size).from_address(_lib.geds_data(handle))
        # A memoryview refers to what it views, and that to the handle.
        bytes_._owner = self._owner
        self.view = memoryview(bytes_).cast("B").toreadonly()

    def __len__(self):
        return len(self.view)

    def __bytes__(self):
        return bytes(self.view)


class _Owner:
    def __init__(self, handle):
        self._handle, self._release = handle, _lib.geds_release

    def __del__(self):
        self._release(self._handle)


class Writer:
    """An object being written. As a context it is sealed at the end of the block, or dropped by an exception."""

    def __init__(self, handle):
        self._handle, self._at = handle, 0

    def _alive(self):
        if self._handle is None:
            raise ValueError("this writer is sealed or dropped already")
        return self._handle

    def write(self, data):
        """Writes behind what was written last. Returns how many bytes."""
        n = self.write_at(self._at, data)
        self._at += n
        return n

    def write_at(self, offset, data):
        """Writes anywhere; a gap reads as zeros. Leaves the place of `write` alone."""
        view = memoryview(data)
        if not view.c_contiguous:
            view = memoryview(view.tobytes())
        view = view.cast("B") if view.nbytes else view
        if view.nbytes == 0:
            return 0
        _ok(_lib.geds_write(self._alive(), offset, _address(view), view.nbytes))
        return view.nbytes

    def seal(self):
        """Returns when the object is durable and all see it."""
        handle, self._handle = self._alive(), None
        _ok(_lib.geds_seal(handle))

    def seal_here(self):
        """Returns as soon as this process sees the object; all see it soon after."""
        handle, self._handle = self._alive(), None
        _ok(_lib.geds_seal_here(handle))

    def abort(self):
        handle, self._handle = self._handle, None
        if handle is not None:
            _lib.geds_abort(handle)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is not None:
            self.abort()
        elif self._handle is not None:
            self.seal()

    def __del__(self):
        self.abort()


class _PyBuffer(ctypes.Structure):
    _fields_ = [
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    ]


def _address(view):
    """Where the bytes of a view are, without a copy, read-only or not. The caller keeps the view for as long as the address is used."""
    buffer = _PyBuffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(view), ctypes.byref(buffer), 0)
    try:
        return ctypes.c_void_p(buffer.buf)
    finally:
        ctypes.pythonapi.PyBuffer_Release(ctypes.byref(buffer))


class Store:
    """The store in `folder`. With a `site`, a node of this process's own, which calls itself so; without, the one of the folder's agent (or of the site whose `cloudskin agent` has the folder), to which this process attaches."""

    def __init__(self, folder, site=None, limit="1GiB", memory=0):
        self._handle, self._buckets = None, set()
        folder = os.fsencode(os.fspath(folder))
        if site is None:
            self._handle = _made(_lib.geds_attach(folder))
        else:
            self._handle = _made(_lib.geds_open(folder, _text(site), _bytes(limit), _bytes(memory)))

    @classmethod
    def agent(cls, folder, site="agent", limit="1GiB", memory=0, persist=None):
        """A node of this process's own to which others attach, until it is closed. `persist`: what is sealed is uploaded there, "file:<folder>", "s3://<bucket>", "gs://<bucket>" or "az://<container>"."""
        store = cls.__new__(cls)
        store._handle, store._buckets = None, set()
        where = None if persist is None else _text(persist)
        store._handle = _made(_lib.geds_agent(os.fsencode(os.fspath(folder)), _text(site), _bytes(limit), _bytes(memory), where))
        return store

    def _alive(self):
        if self._handle is None:
            raise ValueError("this store is closed")
        return self._handle

    def close(self):
        """Waits until what was sealed is published. Open objects stay readable."""
        handle, self._handle = self._handle, None
        if handle is not None:
            _ok(_lib.geds_close(handle))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __del__(self):
        self.close()

    def settle(self):
        """Waits until everything that was sealed here before is durable and seen by all, or has failed to be."""
        _ok(_lib.geds_settle(self._alive()))

    def create_bucket(self, bucket):
        _ok(_lib.geds_create_bucket(self._alive(), _text(bucket)))
        self._buckets.add(bucket)

    def create(self, bucket, key, if_absent=False, metadata=None, ttl=None):
        """Begins an object; the bucket is made if need be. With `if_absent` the seal fails if the key is taken. `ttl`: seconds after which it goes by itself."""
        if bucket not in self._buckets:
            self.create_bucket(bucket)
        writer = Writer(_made(_lib.geds_create(self._alive(), _text(bucket), _text(key), int(if_absent))))
        if metadata is not None:
            _ok(_lib.geds_set_metadata(writer._handle, bytes(metadata), len(metadata)))
        if ttl is not None:
            _ok(_lib.geds_expire_after(writer._handle, int(ttl * 1000)))
        return writer

    def put(self, bucket, key, data, **options):
        """Writes a whole object; options as of `create`."""
        with self.create(bucket, key, **options) as writer:
            writer.write(data)

    def get(self, bucket, key):
        """Opens what has the key now."""
        return Object(_made(_lib.geds_get(self._alive(), _text(bucket), _text(key))))

    def stat(self, bucket, key):
        info = _CInfo()
        _ok(_lib.geds_stat(self._alive(), _text(bucket), _text(key), ctypes.byref(info)))
        return info.info()

    def metadata(self, bucket, key):
        data, size = ctypes.create_string_buffer(16 << 10), ctypes.c_uint64()
        _ok(_lib.geds_metadata(self._alive(), _text(bucket), _text(key), data, len(data), ctypes.byref(size)))
        return data.raw[: size.value]

    def delete(self, bucket, key):
        _ok(_lib.geds_delete(self._alive(), _text(bucket), _text(key)))

    def rename(self, bucket, old, new):
        """In one step; what had the new key is replaced. No data moves."""
        _ok(_lib.geds_rename(self._alive(), _text(bucket), _text(old), _text(new)))

    def _counted(self, call, *names):
        objects, size = ctypes.c_uint64(), ctypes.c_uint64()
        _ok(call(self._alive(), *map(_text, names), ctypes.byref(objects), ctypes.byref(size)))
        return objects.value, size.value

    def delete_prefix(self, bucket, prefix):
        """Removes `prefix` and all below `prefix/`, in one step. Objects and bytes."""
        return self._counted(_lib.geds_delete_prefix, bucket, prefix)

    def rename_prefix(self, bucket, old, new):
        return self._counted(_lib.geds_rename_prefix, bucket, old, new)

    def list(self, bucket, prefix="", folders=False):
        """Name and `Info` of each object, by name; with `folders`, what lies deeper is told as its folder, with `None`."""
        found = []

        @_EACH
        def each(_, name, info):
            found.append((name.decode(), info.contents.info() if info else None))
            return 0

        _ok(_lib.geds_list(self._alive(), _text(bucket), _text(prefix), int(folders), each, None))
        return found
