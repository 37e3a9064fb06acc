"""Objects as files of Python: read from the mapping, written as a whole.

Python's own files leave what there is, however they are left. These leave all or nothing: who was stopped half-way, by an exception or by a write that failed, has written nothing.
"""

import contextlib
import io

from . import AlreadyExists, NotFound


def opened(store, bucket, key, mode, if_absent=False, deferred=False):
    """A file of bytes. With `if_absent`, or the mode "xb", what is there is not replaced; `deferred`: see `Sink`."""
    name = f"geds://{bucket}/{key}"
    if mode == "rb":
        return Input(Reader(store.get(bucket, key).view, name))
    if mode not in ("wb", "xb"):
        raise NotImplementedError(f'mode {mode!r}: an object is read ("rb") or written as a whole ("wb", "xb"); what is to grow at its end is an `appendable` of the store')
    if_absent = if_absent or mode == "xb"
    if if_absent:
        # The seal asks again. But who can't have the key should know before all is written.
        with contextlib.suppress(NotFound):
            store.stat(bucket, key)
            error = AlreadyExists(f"object {bucket}/{key} exists already")
            error.code = 6
            raise error
    return Sink(store.create(bucket, key, if_absent=if_absent), name, deferred)


class Reader(io.RawIOBase):
    """Reads from the mapping."""

    mode = "rb"

    def __init__(self, view, name):
        self._view, self._at, self.name = view, 0, name

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, offset, whence=io.SEEK_SET):
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._view)}[whence]
        if start + offset < 0:
            raise ValueError(f"seek to {start + offset}")
        self._at = start + offset
        return self._at

    def tell(self):
        return self._at

    def readinto(self, into):
        part = self._view[self._at : self._at + len(into)]
        into[: len(part)] = part
        self._at += len(part)
        return len(part)

    def readall(self):
        part = bytes(self._view[self._at :])
        self._at += len(part)
        return part


class Input(io.BufferedReader):
    """A `Reader` with lines, and with the size that fsspec wants to know of a file."""

    @property
    def size(self):
        return len(self.raw._view)


class Sink(io.RawIOBase):
    """Sealed when it is closed; `deferred`, by `commit` after that. Left by an exception, forgotten without being closed, or closed after a write that failed, nothing remains."""

    mode = "wb"

    def __init__(self, writer, name, deferred=False):
        self._writer, self._failed, self._written = writer, None, 0
        self.name, self._deferred = name, deferred

    def writable(self):
        return True

    def _alive(self):
        if self.closed:
            raise ValueError(f"the stream of {self.name} is closed")
        if self._failed is not None:
            raise self._failed

    def write(self, data):
        # What has no bytes is refused before anything is lost by it: numpy.savetxt asks so whether a file takes text.
        data = memoryview(data)
        self._alive()
        try:
            self._writer.write(data)
        except BaseException as error:
            # What is sealed must not lack a piece in its middle.
            self._failed = error
            self._writer.abort()
            raise
        self._written += data.nbytes
        return data.nbytes

    def tell(self):
        self._alive()
        return self._written

    def close(self):
        """Raises what a write has raised, once."""
        if self.closed:
            return
        failed = self._failed
        if failed is not None:
            self.discard()
            raise failed
        super().close()
        if not self._deferred:
            self._writer.seal()

    def commit(self):
        """For a transaction of fsspec. What was left by an exception in it is nobody's any more."""
        if not self.closed:
            raise ValueError(f"the stream of {self.name} is not closed, so not all of it may be written")
        if self._deferred:
            self._deferred = False
            self._writer.seal()

    def discard(self):
        super().close()
        # An exception has its frames, and they have this file.
        self._deferred, self._failed = False, None
        self._writer.abort()

    # Python closes what nobody has any more; but who has not closed it has not said that all is written.
    def __del__(self):
        if not self.closed:
            self.discard()

    # So smart_open calls it.
    terminate = discard

    def __exit__(self, kind, *_):
        self.discard() if kind is not None else self.close()


class Packed(io.RawIOBase):
    """What is compressed on its way into a `Sink`. Python's compressors leave it to others to close where they write to, and at their end write what makes half a content look whole."""

    mode = "wb"

    def __init__(self, packer, sink):
        self._packer, self._sink, self.name = packer, sink, sink.name

    def writable(self):
        return True

    def write(self, data):
        data = memoryview(data).cast("B")
        self._packer.write(data)
        return data.nbytes

    def close(self):
        if self.closed:
            return
        super().close()
        try:
            self._packer.close()
        except BaseException:
            self._sink.discard()
            raise
        self._sink.close()

    def discard(self):
        super().close()
        # Its last words go where nothing is kept; some close where they write to, which then is no seal.
        self._sink._deferred = True
        with contextlib.suppress(Exception):
            self._packer.close()
        self._sink.discard()

    __del__, __exit__ = Sink.__del__, Sink.__exit__


class Text(io.TextIOWrapper):
    """Text on its way into a `Sink` or `Packed`."""

    def write(self, text):
        try:
            return super().write(text)
        except UnicodeError:
            # What is sealed must not lack a piece in its middle.
            self.discard()
            raise

    def discard(self):
        self.buffer.discard()

    def __del__(self):
        # One that was never made has no buffer.
        with contextlib.suppress(ValueError):
            Sink.__del__(self)

    __exit__ = Sink.__exit__
