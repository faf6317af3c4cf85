"""What redis-py and valkey-py do when the leader dies, by Sentinel and by the address of one leader that passes on: sentinel.py NAME."""

import asyncio
import importlib
import os
import socket
import sys
import time

from tally import done, tally

NAME, _, REST = sys.argv[1].partition("-")
GROUP, LEADERS = os.environ["GROUP"], [(host, int(port)) for host, port in (one.split(":") for one in os.environ["LEADERS"].split(","))]
DEATHS = int(os.environ.get("DEATHS", "3"))
# What redis-py does by itself has pauses of up to a second.
MOST = 8 if NAME == "redis" else 5
PAUSE = 0.02


def order(line):
    """What becomes of an order to the group."""
    host, port = GROUP.split(":")
    with socket.create_connection((host, int(port)), 60) as stream:
        stream.sendall(f"{line}\n".encode())
        said = stream.makefile("r").readline().rstrip("\n")
    assert said and not said.startswith("failed"), said
    return said


class Writer:
    """Writes one id after another, whatever becomes of each, and notes what was acknowledged."""

    def __init__(self, kind, client):
        self.kind, self.client, self.n, self.kept, self.errors, self.last, self.ends = kind, client, 0, [], [], 0.0, False
        self.took = []

    async def write(self):
        while not self.ends:
            self.n += 1
            began, key = time.monotonic(), f"{NAME}{REST}:{self.kind}:{self.n}"
            try:
                assert await call(self.client.set, key, self.n)
                self.kept.append(self.n)
                self.last = began
            except Exception as error:
                self.errors.append(repr(error))
            await asyncio.sleep(PAUSE)

    async def again(self, since):
        """Seconds until something was acknowledged that was begun after a moment."""
        while self.last <= since:
            await asyncio.sleep(0.005)
            assert time.monotonic() < since + 30, (self.kind, self.errors[-3:])
        return time.monotonic() - since


async def call(function, *arguments):
    return await done(function(*arguments) if REST else await asyncio.to_thread(function, *arguments))


class Clients:
    def __init__(self):
        module = importlib.import_module(f"{NAME}.asyncio" if REST else NAME)
        sentinel = importlib.import_module(f"{NAME}.asyncio.sentinel" if REST else f"{NAME}.sentinel")
        self.sentinel = sentinel.Sentinel(LEADERS)
        plain = (module.Redis if NAME == "redis" else module.Valkey)(host=LEADERS[0][0], port=LEADERS[0][1])
        self.writers = [Writer("sentinel", self.sentinel.master_for("hatokuse")), Writer("plain", plain)]
        self.tasks = []


async def finds_who_leads(c):
    host, port = await call(c.sentinel.discover_master, "hatokuse")
    assert (host, port) in LEADERS, (host, port)
    others = await call(c.sentinel.discover_slaves, "hatokuse")
    assert sorted([(host, port), *others]) == LEADERS, others
    assert await call(c.sentinel.slave_for("hatokuse").get, "none") is None
    unknown = None
    try:
        await call(c.sentinel.discover_master, "other")
    except Exception as error:
        unknown = type(error).__name__
    assert unknown == "MasterNotFoundError", unknown
    c.tasks = [asyncio.create_task(writer.write()) for writer in c.writers]


async def a_leader_dies(c):
    # The plain client's own address stays.
    await asyncio.to_thread(order, "spare 1")
    for writer in c.writers:
        await writer.again(time.monotonic())
    since = float((await asyncio.to_thread(order, "kill")).split()[-1])
    for writer, took in zip(c.writers, await asyncio.gather(*(writer.again(since) for writer in c.writers))):
        writer.took.append(took)
    await asyncio.to_thread(order, "start")
    assert all(took[-1] < MOST for took in (writer.took for writer in c.writers)), [writer.took for writer in c.writers]


async def keeps_what_it_acknowledged(c):
    for writer in c.writers:
        writer.ends = True
    await asyncio.gather(*c.tasks)
    notes = []
    for writer in c.writers:
        for n in writer.kept:
            seen = await call(writer.client.get, f"{NAME}{REST}:{writer.kind}:{n}")
            assert seen == str(n).encode(), (writer.kind, n, seen)
        took = sorted(writer.took)
        notes.append(f"{writer.kind} {took[0]:.1f} to {took[-1]:.1f} s, {len(writer.errors)} errors")
        if os.environ.get("DEATHS"):
            print(writer.kind, " ".join(f"{one:.2f}" for one in took), set(writer.errors), file=sys.stderr)
    return ", ".join(notes)


CHECKS = [finds_who_leads, *[a_leader_dies] * DEATHS, keeps_what_it_acknowledged]
sys.exit(asyncio.run(tally(f"{NAME}{'-' + REST if REST else ''}, deaths of leaders", NAME, CHECKS, Clients())))
