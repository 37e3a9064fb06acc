"""Sums an object's words through its mapping, once for each line that it is told, and prints how many nanoseconds that took, and the sum. Attached to an agent: scan.py FOLDER BUCKET KEY."""

import sys
import time

import cloudskin_geds
import numpy

with cloudskin_geds.Store(sys.argv[1]) as store:
    words = numpy.frombuffer(store.get(sys.argv[2], sys.argv[3]).view, dtype="<u8")
    for _ in sys.stdin:
        start = time.perf_counter_ns()
        total = words.sum(dtype="u8")
        print(time.perf_counter_ns() - start, total, flush=True)
    del words
