"""Writes some readings to a stream with Pravega's Python client (`pip install pravega`), and reads them back in a reader group.

    python3 readings.py [CONTROLLER]        such as 127.0.0.1:9090, where `cloudskin stream serve` or `cloudskin up` listens
"""

import asyncio
import sys

import pravega_client

SCOPE, STREAM = "field", "readings"


async def read(reader, count):
    found = []
    while len(found) < count:
        part = await reader.get_segment_slice_async()
        found.extend(event.data().decode() for event in part)
        reader.release_segment(part)
    return found


def main():
    controller = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9090"
    manager = pravega_client.StreamManager(f"tcp://{controller}")
    manager.create_scope(SCOPE)
    manager.create_stream(SCOPE, STREAM, 2)
    writer = manager.create_writer(SCOPE, STREAM)
    for n in range(10):
        # What has one key is read in the order in which it was written.
        writer.write_event(f"sensor-{n % 2} {20 + n}", routing_key=f"sensor-{n % 2}")
    # Behind this, all of it is on the server's disk.
    writer.flush()
    reader = manager.create_reader_group("printers", SCOPE, STREAM).create_reader("printer-1")
    for line in asyncio.run(read(reader, 10)):
        print(line)
    # Where it was is kept, and a group of the same name goes on there.
    reader.reader_offline()


if __name__ == "__main__":
    main()
