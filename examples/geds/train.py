"""A training loop with checkpoints: a line is fitted to points by gradient descent, and every few steps the state is written down. In the end the last one has to be in a bucket (here a folder).

With the object store, an agent (`python -m cloudskin_geds`) holds the checkpoints: one is there when `seal_here` returns, and the agent makes it durable and brings it to the bucket while the loop goes on. With files, the loop waits for
`fsync`, and copies the last one to the bucket itself. With `--kill` the training runs in a process that is killed (`kill -9`) half-way, and is started again from the last checkpoint.
"""

import argparse
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cloudskin_geds as geds

FORMAT = struct.Struct("<Qdd")


class Files:
    def __init__(self, folder, size):
        self.path, self.bucket, self.padding = Path(folder) / "checkpoint", Path(folder) / "bucket", bytes(size)
        self.bucket.mkdir(exist_ok=True)

    def save(self, state):
        half = self.path.with_name("half")
        with open(half, "wb") as file:
            file.write(state)
            file.write(self.padding)
            file.flush()
            os.fsync(file.fileno())
        half.rename(self.path)

    def load(self):
        return self.path.read_bytes()[: FORMAT.size] if self.path.exists() else None

    def close(self):
        shutil.copyfile(self.path, self.bucket / "checkpoint")


class Objects:
    def __init__(self, folder, size):
        # No part of its own: what it has sealed is the agent's, and stays when this process is killed.
        self.store, self.padding = geds.Store(folder), bytes(size)

    def save(self, state):
        writer = self.store.create("checkpoints", "last")
        writer.write(state)
        writer.write(self.padding)
        writer.seal_here()

    def load(self):
        try:
            return bytes(self.store.get("checkpoints", "last").view[: FORMAT.size])
        except FileNotFoundError:
            return None

    def close(self):
        self.store.wait_durable("checkpoints", "last")
        self.store.close()


def train(way, folder, steps, every, size):
    place = {"files": Files, "objects": Objects}[way](folder, size)
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


def start_agent(folder):
    command = [sys.executable, "-m", "cloudskin_geds", folder, "--persist", f"file:{folder}/bucket"]
    agent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    if not agent.stdout.readline():
        raise SystemExit("the agent did not start")
    return agent


def run(way, options, kill):
    """Trains to the end. What the training told: the step at which its last life began, seconds of waiting for checkpoints and at the end, and the weights."""
    with tempfile.TemporaryDirectory() as folder:
        agent = start_agent(folder) if way == "objects" else None
        told = lives(way, folder, options, kill)
        # What the bucket has now is what a machine that takes over would find.
        state = FORMAT.pack(options.steps, float(told[3]), float(told[4]))
        found = [path for path in Path(folder, "bucket").rglob("*") if path.is_file() and path.read_bytes() == state + bytes(options.size)]
        if len(found) != 1:
            raise SystemExit(f"{way}: the last checkpoint is not in the bucket")
        if agent is not None:
            agent.terminate()
            agent.stdout.close()
            if agent.wait() != 0:
                raise SystemExit(f"the agent ended with {agent.returncode}")
        return told


def lives(way, folder, options, kill):
    command = [sys.executable, __file__, "--inner", way, folder, "--steps", str(options.steps), "--every", str(options.every), "--size", str(options.size)]
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
    parser.add_argument("--size", type=int, default=4 << 20, help="bytes of a checkpoint, besides the weights")
    parser.add_argument("--kill", action="store_true", help="kill the training half-way, and let it go on")
    parser.add_argument("--inner", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inner:
        train(*options.inner, options.steps, options.every, options.size)
        raise SystemExit
    if options.steps % options.every:
        parser.error("the last step is to be a checkpoint: choose --steps as a multiple of --every")
    for way in ["files", "objects"]:
        undisturbed = run(way, options, False)
        print(f"{way:8} {options.steps} steps: the loop waited {float(undisturbed[1]):7.3f} s for checkpoints, and {float(undisturbed[2]):.3f} s at its end for the last one to be in the bucket")
        if options.kill:
            killed = run(way, options, True)
            if killed[0] == "0" or killed[3:] != undisturbed[3:]:
                raise SystemExit(f"{way}: went on at step {killed[0]} and ended with {killed[3:]}, not {undisturbed[3:]}")
            print(f"{way:8} killed half-way: went on at step {killed[0]}, and ends with the same weights")
