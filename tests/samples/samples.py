"""Runs the stories whose names are like this: samples.py BINARY FOLDER PATTERN"""

import fnmatch
import pathlib
import sys
import time

import compose
import kubernetes
import units
from machine import Network, call

STORIES = kubernetes.STORIES | compose.STORIES | units.STORIES


def main() -> None:
    binary, work, pattern = sys.argv[1:]
    call("mount", "--make-rprivate", "/")
    call("mount", "-t", "tmpfs", "tmpfs", "/run")
    told = {name: story for name, story in STORIES.items() if fnmatch.fnmatch(name, pattern)}
    assert told, f"no story is like {pattern}: there are {', '.join(STORIES)}"
    for number, (name, story) in enumerate(told.items()):
        began = time.monotonic()
        folder = pathlib.Path(work) / str(number)
        folder.mkdir()
        network = Network(folder, pathlib.Path(binary).resolve())
        try:
            story(network, lambda what: print(f"-- {name}: {what}", flush=True))
        except BaseException as error:
            print(f"samples: FAILED, {name}: {error}; what they said:\n{network.tell()}", file=sys.stderr)
            raise
        network.end()
        print(f"   {name}: all is well after {time.monotonic() - began:.0f} s", flush=True)


main()
