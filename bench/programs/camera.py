"""A camera of 720p at 30 pictures/s: a test picture as MPEG-TS on standard output, until COUNT pictures are made.

    camera.py COUNT TIMES

A line in the file TIMES for each: when the picture left the sensor, and when the encoder, ns since 1970.
"""

import sys
import time

import gi

gi.require_version("Gst", "1.0")
from gi.repository import Gst

count, times = int(sys.argv[1]), sys.argv[2]
Gst.init(None)
pipeline = Gst.parse_launch(
    f"videotestsrc name=sensor is-live=true pattern=smpte num-buffers={count} ! video/x-raw,width=1280,height=720,framerate=30/1"
    " ! openh264enc complexity=low gop-size=30 bitrate=4000000 max-bitrate=5000000 ! h264parse name=encoded ! mpegtsmux ! fdsink sync=false"
)
taken, encoded = [], []


def note(into):
    def probe(_pad, _info):
        into.append(time.time_ns())
        return Gst.PadProbeReturn.OK

    return probe


for name, into in (("sensor", taken), ("encoded", encoded)):
    pipeline.get_by_name(name).get_static_pad("src").add_probe(Gst.PadProbeType.BUFFER, note(into))
pipeline.set_state(Gst.State.PLAYING)
message = pipeline.get_bus().timed_pop_filtered(Gst.CLOCK_TIME_NONE, Gst.MessageType.EOS | Gst.MessageType.ERROR)
pipeline.set_state(Gst.State.NULL)
with open(times, "w") as out:
    out.writelines(f"{a} {b}\n" for a, b in zip(taken, encoded))
sys.exit(0 if message.type == Gst.MessageType.EOS and len(taken) == len(encoded) == count else 1)
