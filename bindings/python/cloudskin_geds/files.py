"""Objects as files of Python: read from the mapping, written as a whole."""

import io


class Reader(io.RawIOBase):
    """Reads from the mapping."""

    def __init__(self, view):
        self._view, self._at = view, 0

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


class Sink(io.RawIOBase):
    """Sealed when it is closed; left by an exception or forgotten without being closed, nothing remains."""

    def __init__(self, writer):
        self._writer = writer

    def writable(self):
        return True

    def write(self, data):
        return self._writer.write(bytes(data))

    def close(self):
        if not self.closed:
            super().close()
            self._writer.seal()

    def discard(self):
        if not self.closed:
            super().close()
            self._writer.abort()

    # Python closes what nobody has any more; but who has not closed it has not said that all is written.
    def __del__(self):
        self.discard()

    # So smart_open calls it.
    terminate = discard

    def __exit__(self, kind, *_):
        self.discard() if kind is not None else self.close()
