"""CloudSkin's object store for Python: a thin layer over the C library `libcloudskin_geds`.

An object is written once and never changes; `Object.view` is its bytes, mapped, without a copy. The library is called through ctypes, which lets other
threads run during each call.
"""

import ctypes
import io
import os
import re
import threading
import time
from collections import namedtuple
from pathlib import Path

__all__ = ["Store", "Object", "Writer", "Appendable", "Follower", "Info", "Event", "Error", "NotFound", "AlreadyExists", "Denied", "Late"]


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


Event = namedtuple("Event", "seq what name epoch size")
Event.__doc__ = """What has happened in a bucket: its number, and "sealed" (the key `name` means another content now), "removed", "changed" (its metadata), "prefix-sealed" (all at `name` and below it may be new) or "prefix-removed"."""

_HAPPENED = {1: "sealed", 2: "removed", 3: "changed", 4: "prefix-sealed", 5: "prefix-removed"}


class _CEvent(ctypes.Structure):
    _fields_ = [("seq", ctypes.c_uint64), ("what", ctypes.c_int), ("name", ctypes.c_char_p), ("epoch", ctypes.c_uint64), ("size", ctypes.c_uint64)]

    def event(self):
        return Event(self.seq, _HAPPENED[self.what], self.name.decode(), self.epoch, self.size)


class _CInfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in Info._fields]

    def info(self):
        return Info(*(getattr(self, name) for name in Info._fields))


_EACH = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(_CInfo))
_EACH_EVENT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(_CEvent))


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
        ("lease_to", code, [handle, text]),
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
        ("read", code, [handle, text, text, number, handle, number, ctypes.POINTER(number)]),
        ("rename", code, [handle, text, text, text, text, code]),
        ("copy", code, [handle, text, text, text, text, code]),
        ("delete_prefix", code, [handle, text, text, *counts]),
        ("rename_prefix", code, [handle, text, text, text, text, code, *counts]),
        ("copy_prefix", code, [handle, text, text, text, text, *counts]),
        ("flush", code, [handle, text, text, number, *counts]),
        ("wait_durable", code, [handle, text, text, number]),
        ("spill", code, [handle, text, text, *counts]),
        ("keep_job", code, [handle, text, number]),
        ("drop_job", code, [handle, text, *counts]),
        ("list", code, [handle, text, text, code, _EACH, handle]),
        ("list_buckets", code, [handle, _EACH, handle]),
        ("watch", code, [handle, text, ctypes.POINTER(number), number, ctypes.POINTER(code), _EACH_EVENT, handle]),
        ("appendable_open", handle, [handle, text, text, code]),
        ("appendable_len", code, [handle, ctypes.POINTER(number)]),
        ("append", code, [handle, number, handle, number]),
        ("appendable_read", code, [handle, number, handle, number, ctypes.POINTER(number)]),
        ("appendable_sync", code, [handle]),
        ("appendable_seal", code, [handle]),
        ("appendable_discard", code, [handle]),
        ("appendable_close", None, [handle]),
        ("list_appendables", code, [handle, text, text, _EACH, handle]),
        ("follow", handle, [handle, text, text]),
        ("follow_read", code, [handle, number, handle, number, number, ctypes.POINTER(number), ctypes.POINTER(code)]),
        ("follow_close", None, [handle]),
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
        view = _plain(data)
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


class Appendable:
    """An object that grows at its end and is read meanwhile. It is on this node only, and no object to the others, until it is sealed; it stays when the process ends."""

    def __init__(self, handle):
        self._handle, self._close = handle, _lib.geds_appendable_close

    def __del__(self):
        self._close(self._handle)

    def __len__(self):
        size = ctypes.c_uint64()
        _ok(_lib.geds_appendable_len(self._handle, ctypes.byref(size)))
        return size.value

    def append(self, data, offset=None):
        """Appends at the end; with an `offset` only if that is the end, so that two who append can't mix. Returns the new length. All of it is there or nothing, attached: of each 1 MiB."""
        view = _plain(data)
        offset = len(self) if offset is None else offset
        _ok(_lib.geds_append(self._handle, offset, _address(view) if view.nbytes else None, view.nbytes))
        return offset + view.nbytes

    def read(self, offset=0, size=-1):
        """Bytes from `offset` on, to the end without a `size`; none behind it."""
        if size < 0:
            size = max(len(self) - offset, 0)
        data, got = ctypes.create_string_buffer(size) if size else None, ctypes.c_uint64()
        _ok(_lib.geds_appendable_read(self._handle, offset, data, size, ctypes.byref(got)))
        return data.raw[: got.value] if data else b""

    def sync(self):
        """What was appended survives a power cut when it returns."""
        _ok(_lib.geds_appendable_sync(self._handle))

    def seal(self):
        """It becomes an ordinary object under its key."""
        _ok(_lib.geds_appendable_seal(self._handle))

    def discard(self):
        _ok(_lib.geds_appendable_discard(self._handle))


_FOLLOW_BYTES = 256 << 10
# What says that a site or the agent is away, and for how many seconds a follower waits for it.
_AWAY = (4, 14)
_AWAY_MAX = 20


class Follower(io.RawIOBase):
    """Reads what grows under a key at whichever node, or was sealed under it, as a binary file whose end comes when it is sealed: until then a read waits for the next bytes. Lines, too: `for line in follower`.

    `timeout`: seconds that a read waits before it raises `Late`, after which the next one goes on at the same place; None: for ever. While nobody says where it is, that is tried again for 20 s of it, then the error says who is away. It goes on when what it reads is sealed, spilled or moved, also when the key means something else by then."""

    def __init__(self, handle, offset, timeout):
        self._handle, self._at, self._ahead, self._timeout = handle, offset, b"", timeout
        # Who closes waits for a read that is under way: a second, and what an answer takes.
        self._turn, self._buffer = threading.Lock(), ctypes.create_string_buffer(_FOLLOW_BYTES)

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, offset, whence=io.SEEK_SET):
        if whence == io.SEEK_END:
            raise io.UnsupportedOperation("what grows has no end to count from")
        offset += self.tell() if whence == io.SEEK_CUR else 0
        if offset < 0:
            raise ValueError(f"there is no byte {offset}")
        self._at, self._ahead = offset, b""
        return offset

    def tell(self):
        return self._at - len(self._ahead)

    def _more(self):
        """What comes next; nothing at the end."""
        end = None if self._timeout is None else time.monotonic() + self._timeout
        got, sealed, away = ctypes.c_uint64(), ctypes.c_int(), None
        while True:
            # A second at a time, so that a signal is heard meanwhile.
            rest = 1 if end is None else max(min(end - time.monotonic(), 1), 0)
            with self._turn:
                if self._handle is None:
                    raise ValueError("this follower is closed")
                code = _lib.geds_follow_read(self._handle, self._at, self._buffer, _FOLLOW_BYTES, int(rest * 1000), ctypes.byref(got), ctypes.byref(sealed))
                if code in _AWAY:
                    # Its site, or the agent: it may come back.
                    now = time.monotonic()
                    away = now if away is None else away
                    if now - away > _AWAY_MAX or (end is not None and now >= end):
                        _fail()
                    continue
                _ok(code)
                away = None
                data = self._buffer.raw[: got.value]
            if data or sealed.value:
                self._at += len(data)
                return data
            if end is not None and time.monotonic() >= end:
                error = Late(f"nothing has been appended behind byte {self._at} within {self._timeout} s")
                error.code = 4
                raise error

    def readinto(self, into):
        view = memoryview(into).cast("B")
        if view.nbytes == 0:
            return 0
        if not self._ahead:
            self._ahead = self._more()
        some = self._ahead[: view.nbytes]
        view[: len(some)] = some
        self._ahead = self._ahead[len(some) :]
        return len(some)

    def readall(self):
        pieces = []
        try:
            while piece := self._ahead or self._more():
                pieces.append(piece)
                self._ahead = b""
        except Late:
            # The next read goes on where this one began.
            self._ahead = b"".join(pieces)
            raise
        return b"".join(pieces)

    def readline(self, size=-1):
        seen = 0
        while True:
            end = self._ahead.find(b"\n", seen) + 1
            if not end and (size is None or size < 0 or len(self._ahead) < size):
                seen = len(self._ahead)
                more = self._more()
                self._ahead += more
                if more:
                    continue
            end = end or len(self._ahead)
            end = end if size is None or size < 0 else min(end, size)
            line, self._ahead = self._ahead[:end], self._ahead[end:]
            return line

    def close(self):
        if not self.closed:
            with self._turn:
                handle, self._handle, self._ahead = self._handle, None, b""
            if handle is not None:
                _lib.geds_follow_close(handle)
        super().close()


def _plain(data):
    """A view of the bytes of what has a buffer, one behind the other."""
    view = memoryview(data)
    if not view.c_contiguous:
        view = memoryview(view.tobytes())
    return view.cast("B") if view.nbytes else view


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

    def create(self, bucket, key, if_absent=False, metadata=None, ttl=None, job=None):
        """Begins an object; the bucket is made if need be. With `if_absent` the seal fails if the key is taken. `ttl`: seconds after which it goes by itself; `job`: it goes when this job's lease ends."""
        if bucket not in self._buckets:
            self.create_bucket(bucket)
        writer = Writer(_made(_lib.geds_create(self._alive(), _text(bucket), _text(key), int(if_absent))))
        if metadata is not None:
            _ok(_lib.geds_set_metadata(writer._handle, bytes(metadata), len(metadata)))
        if ttl is not None:
            _ok(_lib.geds_expire_after(writer._handle, int(ttl * 1000)))
        if job is not None:
            _ok(_lib.geds_lease_to(writer._handle, _text(job)))
        return writer

    def put(self, bucket, key, data, **options):
        """Writes a whole object; options as of `create`."""
        with self.create(bucket, key, **options) as writer:
            writer.write(data)

    def get(self, bucket, key):
        """Opens what has the key now."""
        return Object(_made(_lib.geds_get(self._alive(), _text(bucket), _text(key))))

    def read(self, bucket, key, offset, size):
        """At most `size` bytes from `offset` on, up to 64 MiB, copied: of what lies elsewhere only these are fetched where that can be. What is here is better opened: `get(…).view[…]`."""
        data, got = ctypes.create_string_buffer(size) if size else None, ctypes.c_uint64()
        _ok(_lib.geds_read(self._alive(), _text(bucket), _text(key), offset, data, size, ctypes.byref(got)))
        return data.raw[: got.value] if data else b""

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

    def rename(self, bucket, old, new, to_bucket=None, if_absent=False):
        """In one step, also into another bucket. What had the new key is replaced, or with `if_absent` nothing is done and `AlreadyExists` raised. No data moves."""
        _ok(_lib.geds_rename(self._alive(), _text(bucket), _text(old), _text(to_bucket or bucket), _text(new), int(if_absent)))

    def copy(self, bucket, old, new, to_bucket=None, if_absent=False):
        """Another name for the same content, which goes with its last name. No data is copied."""
        _ok(_lib.geds_copy(self._alive(), _text(bucket), _text(old), _text(to_bucket or bucket), _text(new), int(if_absent)))

    def _counted(self, call, *names):
        objects, size = ctypes.c_uint64(), ctypes.c_uint64()
        _ok(call(self._alive(), *map(_text, names), ctypes.byref(objects), ctypes.byref(size)))
        return objects.value, size.value

    def delete_prefix(self, bucket, prefix):
        """Removes `prefix` and all below `prefix/`, in one step. Objects and bytes."""
        return self._counted(_lib.geds_delete_prefix, bucket, prefix)

    def rename_prefix(self, bucket, old, new, to_bucket=None, if_absent=False):
        """Gives all at `old` and below it the names at `new`, in one step. What has them is replaced, or with `if_absent` nothing is done and `AlreadyExists` raised if anything lies at `new` or below it. Objects and bytes."""
        objects, size = ctypes.c_uint64(), ctypes.c_uint64()
        names = map(_text, (bucket, old, to_bucket or bucket, new))
        _ok(_lib.geds_rename_prefix(self._alive(), *names, int(if_absent), ctypes.byref(objects), ctypes.byref(size)))
        return objects.value, size.value

    def copy_prefix(self, bucket, old, new, to_bucket=None):
        return self._counted(_lib.geds_copy_prefix, bucket, old, to_bucket or bucket, new)

    def flush(self, bucket, prefix="", timeout=600):
        """Uploads this node's copies at a prefix and below it to the persistency tier, and keeps them; `timeout`: seconds. Objects and bytes of what this call uploaded."""
        objects, size = ctypes.c_uint64(), ctypes.c_uint64()
        _ok(_lib.geds_flush(self._alive(), _text(bucket), _text(prefix), int(timeout * 1000), ctypes.byref(objects), ctypes.byref(size)))
        return objects.value, size.value

    def wait_durable(self, bucket, key, timeout=600):
        """Waits until what has the key now is in the persistency tier."""
        _ok(_lib.geds_wait_durable(self._alive(), _text(bucket), _text(key), int(timeout * 1000)))

    def spill(self, bucket, prefix=""):
        """Moves this node's copies to the persistency tier; they are fetched again when they are opened. Objects and bytes."""
        return self._counted(_lib.geds_spill, bucket, prefix)

    def keep_job(self, job, ttl=None):
        """Begins a job's lease, or extends it: what is written with `job=` goes `ttl` seconds from now, unless it is extended again, or with `drop_job`. So the objects of whoever dies go, too."""
        _ok(_lib.geds_keep_job(self._alive(), _text(job), 0 if ttl is None else max(int(ttl * 1000), 1)))

    def drop_job(self, job):
        """Ends a job's lease: its objects go, in one step. Objects and bytes."""
        return self._counted(_lib.geds_drop_job, job)

    def watch(self, bucket, after=None, timeout=30):
        """What has happened in a bucket after a token: a list of `Event`, the token to go on with, and whether the one that was given is too old, so that the bucket has to be listed anew. Waits up to `timeout` seconds (60 at most) for
        the first event. A token is good in other processes and after restarts; 0 is the bucket's beginning. Without one it says at once which is that of now."""
        found = []

        @_EACH_EVENT
        def each(_, event):
            found.append(event.contents.event())
            return 0

        token, resync = ctypes.c_uint64(2**64 - 1 if after is None else after), ctypes.c_int()
        _ok(_lib.geds_watch(self._alive(), _text(bucket), ctypes.byref(token), int(timeout * 1000), ctypes.byref(resync), each, None))
        return found, token.value, bool(resync.value) and after is not None

    def appendable(self, bucket, key, begin=True, new=False):
        """What grows under the key on this node; begun if nothing does, or without `begin` `NotFound`. With `new` it is `AlreadyExists` if something does, or if the key is taken."""
        if begin and bucket not in self._buckets:
            self.create_bucket(bucket)
        return Appendable(_made(_lib.geds_appendable_open(self._alive(), _text(bucket), _text(key), 2 if new else int(begin))))

    def follow(self, bucket, key, offset=0, timeout=None):
        """Opens for reading, from `offset` on, what grows under the key at whichever node, or was sealed under it: a `Follower`. To begin, all nodes that are there are asked."""
        return Follower(_made(_lib.geds_follow(self._alive(), _text(bucket), _text(key))), offset, timeout)

    def list(self, bucket, prefix="", folders=False):
        """Name and `Info` of each object, by name; with `folders`, what lies deeper is told as its folder, with `None`."""
        return self._listed(_lib.geds_list, _text(bucket), _text(prefix), int(folders))

    def buckets(self):
        """The names of all buckets."""
        return [name for name, _ in self._listed(_lib.geds_list_buckets)]

    def list_appendables(self, bucket, prefix=""):
        """Name and size of each object that grows on this node."""
        return [(name, info.size) for name, info in self._listed(_lib.geds_list_appendables, _text(bucket), _text(prefix))]

    def _listed(self, call, *what):
        found = []

        @_EACH
        def each(_, name, info):
            found.append((name.decode(), info.contents.info() if info else None))
            return 0

        _ok(call(self._alive(), *what, each, None))
        return found
