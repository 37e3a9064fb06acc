"""`python -m cloudskin_geds FOLDER`: the agent of a folder, until it is told to end (SIGTERM, Ctrl-C)."""

import argparse
import signal
import threading

from . import Store


def main():
    parser = argparse.ArgumentParser(prog="python -m cloudskin_geds", description="The agent of a folder: processes that attach to it share what it holds, without a copy.")
    parser.add_argument("folder", help="made if it isn't there; processes attach with Store(folder)")
    parser.add_argument("--site", default="agent", help="the agent's name among the nodes of the folder")
    parser.add_argument("--limit", default="1GiB", help="how much of the disk objects may use")
    parser.add_argument("--memory", default="0", help="how much memory objects may use that want to be there")
    parser.add_argument("--persist", help='where what is sealed is uploaded to: "file:<folder>", "s3://<bucket>", "gs://<bucket>" or "az://<container>"')
    given = parser.parse_args()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with Store.agent(given.folder, given.site, given.limit, given.memory, given.persist):
        print(f"processes attach with Store({given.folder!r})", flush=True)
        ended.wait()


main()
