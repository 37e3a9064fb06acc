"""A training loop with checkpoints: a line is fitted to points by gradient descent, and every few steps the state is written down.

With the object store, a checkpoint is visible when `seal_here` returns and becomes durable behind the loop's back; with files, the loop waits for `fsync`. With `--kill` the
training runs in a process that is killed half-way and started again from the last checkpoint.
"""

import argparse
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cloudskin_geds as geds

FORMAT = struct.Struct("<Qdd")
# What a real model would weigh.
PADDING = bytes(4 << 20)


class Files:
    def __init__(self, folder):
        self.path = Path(folder) / "checkpoint"

    def save(self, state):
        half = self.path.with_name("half")
        with open(half, "wb") as file:
            file.write(state)
            file.write(PADDING)
            file.flush()
            os.fsync(file.fileno())
        half.rename(self.path)

    def load(self):
        return self.path.read_bytes()[: FORMAT.size] if self.path.exists() else None

    def close(self):
        pass


class Objects:
    def __init__(self, folder):
        self.store = geds.Store(folder, "trainer", limit="1GiB")

    def save(self, state):
        writer = self.store.create("checkpoints", "last")
        writer.write(state)
        writer.write(PADDING)
        writer.seal_here()

    def load(self):
        try:
            return bytes(self.store.get("checkpoints", "last").view[: FORMAT.size])
        except FileNotFoundError:
            return None

    def close(self):
        self.store.close()


def train(way, folder, steps, every):
    place = {"files": Files, "objects": Objects}[way](folder)
    state = place.load()
    step, slope, shift = FORMAT.unpack(state) if state else (0, 0.0, 0.0)
    begun_at, saving = step, 0.0
    while step < steps:
        # The same points for the same step, in whichever life it is done.
        points = random.Random(step)
        gradient = [0.0, 0.0]
        for _ in range(2000):
            x = points.uniform(-1, 1)
            miss = slope * x + shift - (3 * x - 1 + points.gauss(0, 0.1))
            gradient = [gradient[0] + miss * x, gradient[1] + miss]
        slope, shift, step = slope - gradient[0] / 1000, shift - gradient[1] / 1000, step + 1
        if step % every == 0:
            start = time.perf_counter()
            place.save(FORMAT.pack(step, slope, shift))
            saving += time.perf_counter() - start
            print(f"saved {step}", flush=True)
    start = time.perf_counter()
    place.close()
    print(f"end {begun_at} {saving:.4f} {time.perf_counter() - start:.4f} {slope!r} {shift!r}", flush=True)


def run(way, folder, options, kill):
    command = [sys.executable, __file__, "--inner", way, folder, "--steps", str(options.steps), "--every", str(options.every)]
    while True:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                words = line.split()
                if kill and words[0] == "saved" and int(words[1]) >= options.steps // 2:
                    os.kill(process.pid, signal.SIGKILL)
                    kill = False
                if words[0] == "end":
                    return words[1:]
            if process.wait() not in (0, -signal.SIGKILL):
                raise SystemExit(f"{way}: the training ended with {process.returncode}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--every", type=int, default=10, help="steps between two checkpoints")
    parser.add_argument("--kill", action="store_true", help="kill the training half-way, and let it go on")
    parser.add_argument("--inner", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inner:
        train(*options.inner, options.steps, options.every)
        raise SystemExit
    for way in ["files", "objects"]:
        with tempfile.TemporaryDirectory() as folder:
            undisturbed = run(way, folder, options, False)
        print(f"{way:8} {options.steps} steps: the loop waited {float(undisturbed[1]):7.3f} s for checkpoints, and {float(undisturbed[2]):.3f} s at its end")
        if options.kill:
            with tempfile.TemporaryDirectory() as folder:
                killed = run(way, folder, options, True)
            if killed[0] == "0" or killed[3:] != undisturbed[3:]:
                raise SystemExit(f"{way}: went on at step {killed[0]} and ended with {killed[3:]}, not {undisturbed[3:]}")
            print(f"{way:8} killed half-way: went on at step {killed[0]}, and ends with the same weights")
