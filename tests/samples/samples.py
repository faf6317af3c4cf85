"""Runs the stories whose names begin with one of these: samples.py BINARY FOLDER NAME..."""

import pathlib
import sys
import time

import compose
import kubernetes
import units
from machine import Network, call

STORIES = kubernetes.STORIES | compose.STORIES | units.STORIES


def main() -> None:
    binary, work, *names = sys.argv[1:]
    call("mount", "--make-rprivate", "/")
    call("mount", "-t", "tmpfs", "tmpfs", "/run")
    assert any(name.startswith(one) for one in names for name in STORIES), f"there is no story {names}"
    for number, (name, story) in enumerate(STORIES.items()):
        if not any(name.startswith(one) for one in names):
            continue
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
