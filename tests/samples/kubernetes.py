"""packaging/kubernetes: what docs/kubernetes.md says to do, from the installation on."""

import os
import pathlib
import re
import shutil
import urllib.error
import urllib.request

from cluster import Cluster, Encrypted, Plain, Pod
from machine import ROOT, Network, call, eventually, with_tls


def founding(cluster: Cluster, say) -> None:
    first, *others = cluster.leaders
    say("the first leader founds nothing while it is alone")
    first.start()
    eventually("it waits", lambda: "to found the group, this leader waits for 2=" in first.process.said())
    assert not any(first.data.rglob("vote"))
    say("all pods at once: they become ready")
    for pod in others + cluster.nodes:
        pod.start()
    cluster.all_ready()
    assert "has founded the group" in first.process.said()


def plain(network: Network, say) -> None:
    cluster = Plain(network)
    first, *others = cluster.leaders
    founding(cluster, say)
    cluster.everyone_answers("begun")

    say("who leads is killed, and started with the same command")
    killed = cluster.kill_who_leads()
    assert cluster.ask("GET", "begun-0") == f"Merhaba, {first.name} begun\n"
    killed.start()
    cluster.all_ready()
    say("the first leader is stopped as Kubernetes stops it, and does not found anew")
    first.stop()
    first.start()
    cluster.all_ready()
    assert "waits for" not in first.process.said() and "founded" not in first.process.said()
    cluster.everyone_answers("again")

    say("tolerance.conf changes in the ConfigMap")
    changed = cluster.settings | {"tolerance.conf": "tolerance=3\n"}
    cluster.folders["settings"].put(changed)
    eventually("the tolerance is 3", lambda: cluster.status()["tolerance"] == 3)
    cluster.folders["settings"].put(cluster.settings)
    eventually("the tolerance is 2", lambda: cluster.status()["tolerance"] == 2)

    say("the first leader loses its volume: it founds nothing beside the others, which go on")
    first.process.kill()
    empty(first.data)
    assert first.start().running.wait(timeout=60) == 1
    assert "is of a group already" in first.process.said(), first.process.said()
    assert cluster.ask("GET", "again-1") == f"Merhaba, {others[0].name} again\n"
    say("nor where all of them were down")
    for pod in others:
        pod.process.kill()
    empty(first.data)
    first.start()
    eventually("it waits", lambda: "waits for 2=" in first.process.said())
    for pod in others:
        pod.start()
    assert first.process.running.wait(timeout=60) == 1
    assert "is of a group already" in first.process.said(), first.process.said()
    say("it is replaced by one of a new number, at the same name")
    replace(cluster, first, 1, 4)
    assert cluster.ask("GET", "again-1") == f"Merhaba, {others[0].name} again\n"
    say("another one loses its volume: it is refused, and replaced")
    third = others[1]
    third.process.kill()
    empty(third.data)
    third.start()
    eventually("it is refused", lambda: "came with another folder" in cluster.ask("PEERS"))
    assert third.probe("livenessProbe") and not third.probe("readinessProbe")
    replace(cluster, third, 3, 5)
    cluster.kill_who_leads().start()
    cluster.all_ready()
    cluster.everyone_answers("replaced")

    say("a node loses its volume, and comes back with an empty one")
    lost = cluster.nodes[2]
    lost.process.kill()
    empty(lost.data)
    assert lost.start().running.wait(timeout=60) == 1
    assert "belongs to another folder" in lost.process.said()
    eventually("node 3 is down", lambda: cluster.node(3)["state"] == "down")
    assert cluster.ask("DRAIN", "3") == "OK\n"
    eventually("it is taken off", lambda: cluster.ask("REMOVE", "3") == "OK\n")
    lost.start()
    eventually("node 3 is up", lambda: cluster.node(3)["state"] == "up")

    say("a node more, and a node less")
    more = cluster.pod("hatokuse-node", 4)
    more.start()
    eventually("node 5 is up", lambda: cluster.node(5)["state"] == "up")
    assert cluster.ask("SET", "one-more", "message") == "OK\n"
    assert cluster.ask("DRAIN", "5") == "OK\n"
    eventually("node 5 is empty", lambda: cluster.node(5)["messages"] == 0)
    more.stop()
    eventually("it is taken off", lambda: cluster.ask("REMOVE", "5") == "OK\n")
    assert "bad=0 unknown=0" in cluster.ask("VERIFY")
    for pod in cluster.nodes + cluster.leaders:
        pod.process.running.terminate()
    for pod in cluster.nodes + cluster.leaders:
        assert pod.process.running.wait(timeout=30) == 0


def replace(cluster: Cluster, pod: Pod, old: int, new: int) -> None:
    """As the page says it."""
    eventually("it is removed", lambda: cluster.ask("PEER", "REMOVE", str(old)) == "OK\n")
    if pod.process.is_up():
        pod.stop()
    cluster.settings["peers"] = cluster.settings["peers"].replace(f"{old}={pod.name}.", f"{new}={pod.name}.")
    pod.start()
    at = f"{pod.name}.hatokuse-leader:5560"
    eventually("it is taken in", lambda: cluster.ask("PEER", "ADD", str(new), at) == "OK\n")
    cluster.all_ready()
    roles = eventually("all can be reached", lambda: roles_of(cluster))
    assert new in roles and old not in roles and sorted(roles.values()) == ["leader", "standby", "standby"], roles


def alone(network: Network, say) -> None:
    """Two of three leaders are lost for good, and then all."""
    cluster = Plain(network)
    founding(cluster, say)
    cluster.everyone_answers("begun")
    first, second, third = cluster.leaders
    say("two leaders lose their volumes; the third goes on alone")
    for pod in (first, second, third):
        pod.process.kill()
    for pod in (first, second):
        empty(pod.data)
    as_founded = cluster.settings["peers"]
    cluster.settings["peers"] = f"3={third.name}.hatokuse-leader:5560"
    settings = cluster.settings["leader.toml"]
    tell = lambda word: cluster.folders["settings"].put(cluster.settings | {"leader.toml": f'{settings}recover-alone = "{word}"\n'})
    tell("which")
    assert third.start().running.wait(timeout=60) == 1
    group = re.search(r"[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", third.process.said())
    assert group, third.process.said()
    tell(group[0])
    assert first.start().running.wait(timeout=60) == 2 and "is not in the list of leaders" in first.process.said()
    third.start()
    eventually("it is ready", third.is_ready)
    cluster.leaders = [third]
    assert cluster.ask("GET", "begun-0") == f"Merhaba, {first.name} begun\n"
    cluster.folders["settings"].put(cluster.settings)
    say("the two others come back with new numbers")
    for pod, number in ((first, 4), (second, 5)):
        cluster.settings["peers"] += f",{number}={pod.name}.hatokuse-leader:5560"
        pod.start()
        at = f"{pod.name}.hatokuse-leader:5560"
        eventually("it is taken in", lambda: cluster.ask("PEER", "ADD", str(number), at) == "OK\n")
    cluster.leaders = [first, second, third]
    cluster.all_ready()
    cluster.kill_who_leads().start()
    cluster.all_ready()
    cluster.everyone_answers("again")
    say("all three lose their volumes; new ones learn from the nodes")
    for pod in cluster.leaders:
        pod.process.kill()
        empty(pod.data)
    cluster.settings["peers"] = as_founded
    for pod in cluster.leaders:
        pod.start()
    cluster.all_ready()
    assert cluster.ask("GET", "again-2") == f"Merhaba, {third.name} again\n"
    assert "bad=0 unknown=0" in cluster.ask("VERIFY")


def by_the_page(network: Network) -> pathlib.Path:
    """The certificates that the page makes, by its own lines."""
    page = (ROOT / "docs/kubernetes.md").read_text()
    block = page.split("## With TLS", 1)[1].split("```sh\n", 1)[1].split("```", 1)[0]
    makes = [line for line in block.splitlines() if "--host" in line or "hatokuse cert" in line or line.startswith("mv ")]
    place = network.work / "page/here"
    place.mkdir(parents=True)
    programs = network.work / "bin"
    programs.mkdir()
    (programs / "hatokuse").symlink_to(network.binary)
    call("bash", "-euc", "\n".join(makes), cwd=place, env=os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"})
    assert not (place / "certs/ca-key.pem").exists()
    return place / "certs"


def encrypted(network: Network, say) -> None:
    certs = by_the_page(network)
    read = lambda *patterns: {file.name: file.read_bytes() for pattern in patterns for file in certs.glob(pattern)}
    access = {"password": "a password\n", "token": "a token\n"}
    secrets = {
        "hatokuse-leader-tls": {"ca.pem": (certs / "ca.pem").read_bytes()} | read("peer-*.pem"),
        "hatokuse-node-tls": {"ca.pem": (certs / "ca.pem").read_bytes()} | read("node-*.pem"),
        "hatokuse-access": access,
        "client": {"ca.pem": (certs / "ca.pem").read_bytes(), "password": access["password"]},
    }
    cluster = Encrypted(network, with_tls, secrets)
    founding(cluster, say)
    cluster.everyone_answers("begun")
    first = cluster.leaders[0]
    assert not first.machine.listens(6666), "there is a port without TLS"
    say("metrics are for who has the token")
    url = f"http://{first.machine.address}:7666/metrics"
    try:
        urllib.request.urlopen(url, timeout=5)
        raise AssertionError("metrics without a token")
    except urllib.error.HTTPError as error:
        assert error.code == 401, error
    page = urllib.request.urlopen(urllib.request.Request(url, headers={"Authorization": "Bearer a token"}), timeout=5).read()
    assert b"hatokuse_peer_leads" in page
    say("who leads is killed, and started with the same command")
    killed = cluster.kill_who_leads()
    killed.start()
    cluster.all_ready()
    cluster.everyone_answers("again")


def roles_of(cluster: Cluster) -> dict[int, str]:
    roles = {peer["id"]: peer["role"] for peer in cluster.peers()["peers"]}
    assert "unreachable" not in roles.values() and "learner" not in roles.values(), roles
    return roles


def empty(folder: pathlib.Path) -> None:
    for inner in folder.iterdir():
        shutil.rmtree(inner) if inner.is_dir() else inner.unlink()


STORIES = {"kubernetes": plain, "kubernetes, TLS": encrypted, "kubernetes, alone": alone}
