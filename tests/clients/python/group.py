"""Three leaders and three nodes, for those who watch what clients do when the one that leads dies: group.py BINARY HOME.

It says `group HOST:PORT HOST:PORT,HOST:PORT,HOST:PORT` once it serves: where orders are taken, and where clients are. An order is a
line, and so is its answer: `kill` kills the leader that leads, and says when by the clock of this boot; `start` starts it again and waits
until it follows, `spare N` lets another one lead than leader N. All of it ends with this process.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time

BINARY, HOME = sys.argv[1:3]
PEERS = NODES = range(1, 4)
# Addresses of this machine's loopback that are nobody else's, one for each leader, so that all have the same ports.
NET = f"127.{64 + os.getpid() % 63}.{os.getpid() // 63 % 256}"
HOSTS = {peer: f"{NET}.{peer}" for peer in PEERS}
running = {}
killed = None


def start(name, host, *args):
    said = open(f"{HOME}/{name}.log", "ab")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HATOKUSE_")}
    command = [BINARY, *args, "--config", "off", "--plain", "--stop-with-stdin", "--host", host]
    running[name] = subprocess.Popen(command, cwd=HOME, stdin=subprocess.PIPE, stdout=said, stderr=said, env=environment)


def start_peer(peer, *more):
    peers = ",".join(f"{one}={host}:5560" for one, host in HOSTS.items())
    here = ["--peer", str(peer), "--peers", peers, "--data-dir", f"{HOME}/peer-{peer}", "--http-port", "off", "--tolerance", "2"]
    start(f"peer-{peer}", HOSTS[peer], "leader", *here, *more, *os.environ.get("GROUP_ARGS", "").split())


def ask(peer, line):
    """The answer of the leader that this one passes lines on to; nothing if there is none."""
    try:
        with socket.create_connection((HOSTS[peer], 6666), 5) as stream:
            stream.sendall(f"{line}\n".encode())
            return stream.makefile("r").readline().rstrip("\n")
    except OSError:
        return ""


def status():
    """What PEERS says."""
    for peer in PEERS:
        if peer != killed and (answer := ask(peer, "PEERS")).startswith("{"):
            return json.loads(answer)
    return None


def wait(what, holds):
    for _ in range(600):
        if answer := holds():
            return answer
        time.sleep(0.05)
    raise AssertionError(f"waited 30 s for {what}")


def leader():
    return wait("a leader", lambda: (now := status()) and now["leader"])


def all_follow():
    def follow():
        now = status()
        return now and all(peer["role"] in ("leader", "standby") and (peer["matched"] or 0) + 100 > now["last"] for peer in now["peers"])

    wait("all leaders", follow)


def carry_out(order):
    global killed
    match order.split():
        case ["kill"]:
            killed = leader()
            when = time.monotonic()
            running[f"peer-{killed}"].send_signal(signal.SIGKILL)
            running[f"peer-{killed}"].wait()
            return f"killed {killed} {when}"
        case ["start"]:
            peer, killed = killed, None
            start_peer(peer)
            all_follow()
            return f"started {peer}"
        case ["spare", peer]:
            all_follow()
            if leader() == int(peer):
                ask(int(peer), "HANDOVER")
                wait("another leader", lambda: (now := status()) and now["leader"] not in (None, int(peer)))
            return f"leader {leader()}"


def serve(listener):
    """Takes orders for ever. Leaders and nodes end with their standard input, whose other end is here."""
    while True:
        stream, _ = listener.accept()
        with stream, stream.makefile("rw") as lines:
            for order in lines:
                try:
                    said = carry_out(order) or "what"
                except Exception as error:
                    said = f"failed: {error!r}"
                print(said, file=lines, flush=True)


start_peer(1, "--found")
for peer in PEERS[1:]:
    start_peer(peer)
leaders = ",".join(f"{host}:5550" for host in HOSTS.values())
for node in NODES:
    start(f"node-{node}", f"{NET}.{10 + node}", "node", "--id", str(node), "--port", "5555", "--data-dir", HOME, "--leader", leaders)
all_follow()
wait("a write", lambda: any(ask(peer, "SET ready 1") == "OK" for peer in PEERS))
listener = socket.create_server((HOSTS[1], 0))
print("group", f"{HOSTS[1]}:{listener.getsockname()[1]}", ",".join(f"{host}:6666" for host in HOSTS.values()), flush=True)
serve(listener)
