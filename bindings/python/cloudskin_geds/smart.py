"""The scheme `geds://bucket/key` of smart_open: `import cloudskin_geds.smart`, then `smart_open.open("geds://bucket/key", "rb")`.

Which store it is, `transport_params` say, with the options of `cloudskin_geds.Store`; without them `CLOUDSKIN_GEDS_FOLDER`, to whose agent this process attaches.
"""

import os
import sys
import threading

from smart_open import transport

from . import Store
from .files import opened

SCHEME = "geds"
URI_EXAMPLES = ("geds://bucket/key",)

_stores, _turn = {}, threading.Lock()


def _store(folder=None, site=None, limit="1GiB", memory=0):
    folder = folder or os.environ.get("CLOUDSKIN_GEDS_FOLDER")
    if not folder:
        raise ValueError("which store? give transport_params={'folder': ...} or set CLOUDSKIN_GEDS_FOLDER")
    # One for each process: what was forked attaches anew.
    name = (os.getpid(), str(folder), site)
    with _turn:
        if name not in _stores:
            _stores[name] = Store(folder, site, limit, memory)
        return _stores[name]


def parse_uri(uri):
    scheme, _, path = uri.partition("://")
    bucket, _, key = path.partition("/")
    if scheme != SCHEME or not bucket or not key:
        raise ValueError(f"{uri!r} is no object: write geds://bucket/key")
    return {"scheme": scheme, "bucket": bucket, "key": key}


def open_uri(uri, mode, transport_params):
    parsed = parse_uri(uri)
    return open(parsed["bucket"], parsed["key"], mode, **transport_params)


def open(bucket, key, mode, store=None, if_absent=False, **options):
    """`store`: one that is open already. `if_absent`: what is there is not replaced; smart_open has no mode "x"."""
    # From its name's end smart_open knows how it is compressed.
    return opened(store or _store(**options), bucket, key, mode, if_absent)


transport.register_transport(sys.modules[__name__])
