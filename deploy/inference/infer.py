"""Pictures of a video stream to a model, one after the other; what the model says becomes events of another stream.

    cloudskin stream map road/camera road/seen --binary -- python3 infer.py model.py

`model.py` has a function `answer(picture)`, which gives a string, bytes, something for JSON, or None for nothing to say. It is called for each picture, in the
order in which they were taken; `picture` has `rgb` (bytes, three for each point, line by line), `width`, `height` and `time` (seconds since 1970, UTC). Pictures that come
faster than the model answers are left out, the oldest first, unless CLOUDSKIN_INFER_ALL=1.

CLOUDSKIN_INFER_SIZE (such as 640x360) is what pictures are scaled to. GStreamer decodes.
"""

import collections
import heapq
import importlib.util
import json
import os
import struct
import subprocess
import sys
import threading

# TAI, in which frames have their time, is ahead of UTC.
TAI_AHEAD = 37
RANDOM_ACCESS = 2
WAITING_MAX = 4

Picture = collections.namedtuple("Picture", "rgb width height time")


def exactly(file, count):
    """So many bytes, or None at the end."""
    data = file.read(count)
    return data if data is not None and len(data) == count else None


def feed(decoder, times):
    """Frames from standard input to the decoder, from the first one that can be decoded alone."""
    begun, last = False, None
    while (head := exactly(sys.stdin.buffer, 4)) is not None:
        event = exactly(sys.stdin.buffer, struct.unpack(">I", head)[0])
        if event is None or len(event) < 12:
            break
        flags, tai = struct.unpack(">IQ", event[:12])
        begun = begun or bool(flags & RANDOM_ACCESS)
        if begun:
            # What came late of a picture has its time as well.
            if tai != last:
                with times.lock:
                    heapq.heappush(times.heap, tai)
            last = tai
            try:
                decoder.write(event[12:])
                decoder.flush()
            except BrokenPipeError:
                break
    decoder.close()


class Times:
    """Frames come as they are decoded, pictures as they are shown: the earliest time belongs to the next picture."""

    def __init__(self):
        self.heap, self.lock = [], threading.Lock()

    def next(self):
        with self.lock:
            return heapq.heappop(self.heap) / 1e9 - TAI_AHEAD if self.heap else 0.0


def tell(said):
    if said is None:
        return
    if isinstance(said, str):
        said = said.encode()
    elif not isinstance(said, (bytes, bytearray)):
        said = json.dumps(said).encode()
    sys.stdout.buffer.write(struct.pack(">I", len(said)) + said)
    sys.stdout.buffer.flush()


def main():
    spec = importlib.util.spec_from_file_location("model", sys.argv[1])
    model = importlib.util.module_from_spec(spec)
    # What a model prints would be taken for its answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    spec.loader.exec_module(model)
    width, height = (int(n) for n in os.environ.get("CLOUDSKIN_INFER_SIZE", "640x360").split("x"))
    form = f"video/x-raw,format=RGB,width={width},height={height}"
    # Lines of such a picture are filled up to four bytes.
    line = (3 * width + 3) // 4 * 4
    command = ["gst-launch-1.0", "-q", "fdsrc", "fd=0", "!", "tsdemux", "!", "decodebin", "!", "videoconvert", "!", "videoscale", "!", form, "!", "fdsink", "fd=1", "sync=false"]
    decoder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    times = Times()
    threading.Thread(target=feed, args=(decoder.stdin, times), daemon=True).start()
    waiting, rung, all_ = collections.deque(), threading.Condition(), os.environ.get("CLOUDSKIN_INFER_ALL") == "1"

    def take():
        while (data := exactly(decoder.stdout, line * height)) is not None:
            rgb = data if line == 3 * width else b"".join(data[at : at + 3 * width] for at in range(0, len(data), line))
            with rung:
                while all_ and len(waiting) >= WAITING_MAX:
                    rung.wait()
                if len(waiting) >= WAITING_MAX:
                    waiting.popleft()
                waiting.append(Picture(rgb, width, height, times.next()))
                rung.notify_all()
        with rung:
            waiting.append(None)
            rung.notify_all()

    threading.Thread(target=take, daemon=True).start()
    while True:
        with rung:
            while not waiting:
                rung.wait()
            picture = waiting.popleft()
            rung.notify_all()
        if picture is None:
            break
        said = model.answer(picture)
        sys.stdout = answers
        tell(said)
        sys.stdout = sys.stderr
    sys.exit(decoder.wait())


try:
    main()
except KeyboardInterrupt:
    # Stopped at a terminal, as is whoever hands pictures over.
    sys.exit(130)
