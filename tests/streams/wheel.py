"""Drives a stream server with Pravega's own Python client, as it comes from PyPI.

    wheel.py CONTROLLER COMMAND ...

Commands print what the test reads, and fail with a traceback. The client stops its process on an answer that it doesn't know, so that ending
well says much.
"""

import asyncio
import os
import struct
import sys
import time

import pravega_client


def manager():
    """`tls://` in front of the address asks for TLS; the authority's certificate is where the client's own variable says."""
    tls = sys.argv[1].startswith("tls://")
    # The user and the password are in the client's own variables as well.
    user = "pravega_client_auth_method" in os.environ
    return pravega_client.StreamManager(sys.argv[1] if tls else "tcp://" + sys.argv[1], user, tls)


def check(found, expected, what):
    assert found == expected, f"{what}: {found!r} instead of {expected!r}"


async def read(reader, count, seconds=90):
    """Exactly `count` events, or what came within the time."""
    events = []
    end = time.monotonic() + seconds
    while len(events) < count and time.monotonic() < end:
        try:
            part = await asyncio.wait_for(reader.get_segment_slice_async(), 5)
        except asyncio.TimeoutError:
            continue
        for event in part:
            events.append(event.data())
        reader.release_segment(part)
    return events


def read_all(m, scope, stream, group, count, seconds=90):
    readers = m.create_reader_group(group, scope, stream)
    reader = readers.create_reader("r-" + group)
    events = asyncio.run(read(reader, count, seconds))
    reader.reader_offline()
    return events


def events(m):
    m.create_scope("s")
    check(m.create_stream("s", "plain", 3), True, "a new stream")
    check(m.create_stream("s", "plain", 3), False, "the same stream again")
    writer = m.create_writer("s", "plain")
    for i in range(1000):
        writer.write_event(f"{i % 10}:{i}", routing_key=str(i % 10))
    writer.flush()
    found = [e.decode() for e in read_all(m, "s", "plain", "plain-readers", 1000)]
    check(len(found), 1000, "events read")
    for key in range(10):
        mine = [int(e.split(":")[1]) for e in found if e.startswith(f"{key}:")]
        check(mine, list(range(key, 1000, 10)), f"events of key {key}")


def transactions(m):
    m.create_stream("s", "txn", 2)
    writer = m.create_transaction_writer("s", "txn", 1)
    kept = writer.begin_txn()
    for i in range(20):
        kept.write_event(f"kept {i}", "k")
    check(kept.is_open(), True, "an open transaction")
    dropped = writer.begin_txn()
    dropped.write_event("dropped", "k")
    dropped.abort()
    kept.commit()
    found = sorted(e.decode() for e in read_all(m, "s", "txn", "txn-readers", 21, 6))
    check(found, sorted(f"kept {i}" for i in range(20)), "events of the committed transaction")
    check(writer.get_txn(kept.get_txn_id()).is_open(), False, "the committed transaction")


def bytes_(m):
    m.create_stream("s", "bytes", 1)
    stream = m.create_byte_stream("s", "bytes")
    data = bytes(range(256)) * 4096
    check(stream.write(data), len(data), "bytes written")
    stream.flush()
    check(stream.current_tail_offset(), len(data), "tail")
    stream.seek(1000, 0)
    part = bytearray(5000)
    got = 0
    while got < len(part):
        rest = memoryview(part)[got:]
        buffer = bytearray(len(rest))
        n = stream.readinto(buffer)
        part[got : got + n] = buffer[:n]
        got += n
    check(bytes(part), data[1000:6000], "bytes in the middle")
    stream.truncate(4096)
    check(stream.current_head_offset(), 4096, "head after truncation")


def large(m):
    m.create_stream("s", "large", 1)
    writer = m.create_writer("s", "large")
    sizes = [3_000_000, 9_000_000, 17, 12_000_000]
    for n, size in enumerate(sizes):
        writer.write_event_bytes(bytes([n]) * size)
    writer.flush()
    found = read_all(m, "s", "large", "large-readers", len(sizes), 180)
    check([(e[0], len(e)) for e in found], list(enumerate(sizes)), "large events")


def cuts(m):
    m.create_stream("s", "cut", 1)
    writer = m.create_writer("s", "cut")
    for i in range(50):
        writer.write_event(f"{i}")
    writer.flush()
    group = m.create_reader_group("cut-first", "s", "cut")
    reader = group.create_reader("r1")
    check(len(asyncio.run(read(reader, 50))), 50, "events before the cut")
    reader.reader_offline()
    cut = group.get_streamcut()
    for i in range(50, 80):
        writer.write_event(f"{i}")
    writer.flush()
    second = m.create_reader_group("cut-second", "s", "cut", stream_cut=cut)
    found = asyncio.run(read(second.create_reader("r2"), 30))
    check([e.decode() for e in found], [str(i) for i in range(50, 80)], "events after the cut")
    tail = m.create_reader_group("cut-tail", "s", "cut", True)
    reader = tail.create_reader("r3")
    writer.write_event("newest")
    writer.flush()
    check(asyncio.run(read(reader, 1)), [b"newest"], "events from the tail")


def truncated(m):
    """After `cuts`, and after its stream was truncated where the first 50 events end."""
    left = [str(i) for i in range(50, 80)] + ["newest"]
    found = read_all(m, "s", "cut", "cut-late", len(left) + 1, 8)
    check([e.decode() for e in found], left, "events that are left")


def end(m):
    streams = {s.split("/")[-1] for s in m.list_stream("s")}
    assert {"plain", "txn", "bytes"} <= streams, streams
    m.create_stream_with_policy("s", "tagged", pravega_client.StreamScalingPolicy.fixed_scaling_policy(1), pravega_client.StreamRetentionPolicy.none(), ["blue"])
    check(m.get_stream_tags("s", "tagged"), ["blue"], "tags")
    writer = m.create_writer("s", "tagged")
    writer.write_event("last")
    writer.flush()
    m.seal_stream("s", "tagged")
    check(read_all(m, "s", "tagged", "sealed-readers", 1), [b"last"], "events of a sealed stream")
    m.delete_stream("s", "tagged")
    assert "tagged" not in str(m.list_stream("s"))
    m.create_scope("empty")
    check(m.delete_scope("empty"), True, "an empty scope")
    assert "s" in m.list_scope()


def hammer(m):
    """Writes without end, over whatever happens to the server, until the file is there. Prints how many events are durable."""
    m.create_scope("k")
    m.create_stream("k", "hammered", 3)
    writer = m.create_writer("k", "hammered")
    n = 0
    while not os.path.exists(sys.argv[3]):
        for _ in range(20):
            writer.write_event(f"{n % 7}:{n}:" + "x" * (n % 500), routing_key=str(n % 7))
            n += 1
        writer.flush()
        print(f"durable {n}", flush=True)


def audit(m):
    """Every event once, and each key's in order."""
    count = int(sys.argv[3])
    # One more of each key: whatever else were behind the last one would come before it.
    writer = m.create_writer("k", "hammered")
    for key in range(7):
        writer.write_event(f"{key}:end:", routing_key=str(key))
    writer.flush()
    found = [e.decode().split(":") for e in read_all(m, "k", "hammered", "auditors", count + 7, 120)]
    for key in range(7):
        check([e[1] for e in found if e[0] == str(key)], [str(n) for n in range(key, count, 7)] + ["end"], f"events of key {key}")
    check([e for e in found if e[1] != "end" and len(e[2]) != int(e[1]) % 500], [], "damaged events")


def stay(m):
    """Reads while the test scales the stream, until the number of events is there; prints them in the order in which they came."""
    reader = m.create_reader_group("stayers", "s", "scaled").create_reader("stayer")
    print("reading", flush=True)
    for event in asyncio.run(read(reader, int(sys.argv[3]), 120)):
        print(event.decode(), flush=True)


def plugin(m):
    """Reads a video as Pravega's GStreamer plugin does, by what it publishes of its format (gstreamer-pravega, pravega-video/src/event_serde.rs and index.rs):
    the index from its head to its tail, then the stream from the first entry's offset. What is reserved has to be 0, an entry's place has to be that of an event
    with the same time and flags, and between two entries times are those of the first one or later, and before the second one. Writes the packets to a file."""
    scope, stream, out = sys.argv[3:6]

    def whole(name, begin=None):
        reader = m.create_byte_stream(scope, name)
        at, tail = reader.current_head_offset() if begin is None else begin, reader.current_tail_offset()
        reader.seek(at, 0)
        data = bytearray()
        while len(data) < tail - at:
            piece = bytearray(min(1 << 20, tail - at - len(data)))
            data += piece[: reader.readinto(piece)]
        return at, bytes(data)

    # 20 bytes: flags of 32 bits, of which bit 1 is random access and bit 2 a discontinuity; time in ns of TAI; offset in the stream.
    _, data = whole(stream + "-index")
    index = list(struct.iter_unpack(">IQQ", data[: len(data) // 20 * 20]))
    assert len(index) >= 3, index
    for flags, at, _ in index:
        assert flags & ~0b110 == 0 and at > 0, ("reserved bits, or no time", flags, at)
    check(sorted({(t, o) for _, t, o in index}), [(t, o) for _, t, o in index], "times and offsets of the index grow")
    # Behind a type of 32 bits that is 0, and the length of what follows: flags, of which bit 0 says that it is in the index; time; payload.
    first, data = whole(stream, index[0][2])
    events, at = {}, 0
    while at + 8 <= len(data):
        kind, length = struct.unpack_from(">iI", data, at)
        assert kind == 0 and 12 <= length <= (8 << 20) - 8, (kind, length)
        if at + 8 + length > len(data):
            break
        flags, taken = struct.unpack_from(">IQ", data, at + 8)
        assert flags & ~0b111 == 0, ("reserved bits", flags)
        events[first + at] = (flags, taken, data[at + 20 : at + 8 + length])
        at += 8 + length
    for flags, taken, offset in index:
        if offset < first + at:
            check(events[offset][:2], (flags | 1, taken), f"the event at {offset}, of which the index tells")
    for (_, begin, offset), (_, until, end) in zip(index, index[1:]):
        times = [t for at, (_, t, _) in events.items() if offset <= at < end]
        assert times and all(begin <= t < until for t in times), (begin, until, times)
    check({at for at, (flags, *_) in events.items() if flags & 1 and at < index[-1][2]}, {o for *_, o in index[:-1]}, "events that say that the index has them")
    utc = index[-1][1] / 1e9 - 37
    assert abs(time.time() - utc) < 600, ("not a time of TAI", utc)
    with open(out, "wb") as file:
        file.write(b"".join(payload for *_, payload in events.values()))
    print(f"{len(index)} entries, {len(events)} events")


COMMANDS = {"events": events, "transactions": transactions, "bytes": bytes_, "large": large, "cuts": cuts, "truncated": truncated, "end": end, "hammer": hammer, "audit": audit, "stay": stay, "plugin": plugin}

if __name__ == "__main__":
    for name in sys.argv[2].split(","):
        began = time.monotonic()
        COMMANDS[name](manager())
        print(f"{name}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
    # Without Python's own end: the client's threads may still hold what that takes apart, and then it aborts.
    sys.stdout.flush()
    os._exit(0)
