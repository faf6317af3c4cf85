"""What all drivers in Python share: each check is a function, one that raises has failed, and the rest goes on."""

import asyncio
import importlib.metadata
import inspect
import os
import subprocess
import sys
import traceback

HOST, PORT = os.environ["REGISTER"].rsplit(":", 1)
# A way to the register on which the first reply to INCR of each id that ends in `:lost` gets lost.
LOSSY_HOST, LOSSY_PORT = os.environ["LOSSY"].rsplit(":", 1)


async def done(value):
    return await value if inspect.isawaitable(value) else value


async def call(function, *arguments):
    """What it returns, with asyncio or without: what blocks does so in a thread of its own."""
    return await done(await asyncio.to_thread(function, *arguments))


def cli(*words):
    return subprocess.run(["redis-cli", "-h", HOST, "-p", PORT, *words], capture_output=True, text=True, check=True).stdout


def kill():
    """The server closes the connections of all clients but redis-cli's own."""
    killed = cli("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    assert int(killed) > 0, killed


def forget():
    """The server knows no script any more, as after a restart."""
    assert cli("SCRIPT", "FLUSH") == "OK\n"


async def until(call, errors):
    """The first answer of `call`, and how many errors were before it."""
    for failed in range(100):
        try:
            return await done(call()), failed
        except errors:
            await asyncio.sleep(0.1)
    raise AssertionError("the client did not come back in 10 s")


async def refusal(call, error):
    """The text of the error with which a call was refused."""
    try:
        seen = await done(call())
    except error as refused:
        return str(refused)
    raise AssertionError(f"it should be refused, and gave {seen!r}")


async def tally(name, package, checks, *arguments):
    """Runs the checks, prints the line that tests/clients/run adds up, and gives the exit code."""
    passed = failed = 0
    notes = []
    for check in checks:
        try:
            note = await asyncio.wait_for(done(check(*arguments)), 60)
            notes += [note] if note else []
            passed += 1
        except Exception:
            failed += 1
            print(f"FAILED {name}, {check.__name__}: {traceback.format_exc()}", file=sys.stderr)
    said = f" ({'; '.join(notes)})" if notes else ""
    print(f"{name} {importlib.metadata.version(package)}: {passed} checks passed, {failed} failed{said}", flush=True)
    return failed > 0
