"""packaging/compose.yaml and compose.peers.yaml without a container runtime: each service's command in the image's folder and as its user, with the
variables, volumes and names that it has there, and its check of health."""

import json
import os
import pathlib
import re

import yaml
from machine import ROOT, USER, Network, call, eventually, with_tls

PACKAGING = ROOT / "packaging"


def image() -> tuple[list[str], str]:
    """What the Dockerfile says is run, and where."""
    said = (ROOT / "Dockerfile").read_text()
    assert f"\nUSER {USER}\n" in said
    return json.loads(re.search(r"^ENTRYPOINT (.*)$", said, re.M)[1]), re.search(r"^WORKDIR (/var.*)$", said, re.M)[1]


class Service:
    def __init__(self, network: Network, name: str, spec: dict, volumes: dict, tls: pathlib.Path | None):
        self.name, self.spec = name, spec
        self.machine = network.machine(name)
        for volume in spec["volumes"]:
            source, place, *read_only = volume.split(":")
            if source in volumes:
                self.machine.volume(place)
            else:
                assert read_only == ["ro"], volume
                self.machine.bind(tls if source == "./tls" else (PACKAGING / source).resolve(), place)
        self.machine.seal()

    def env(self, of: dict[str, str]) -> dict[str, str]:
        one = lambda found: of.get(found[1]) or found[2]
        return {key: re.sub(r"\$\{(\w+):-(.*?)\}", one, value) for key, value in self.spec["environment"].items()}

    def start(self, of: dict[str, str] = {}) -> None:
        entry, folder = image()
        self.process = self.machine.start(entry + self.spec["command"], self.env(of), cwd=folder)

    def is_healthy(self) -> bool:
        how, *words = self.spec["healthcheck"]["test"]
        assert how == "CMD"
        self.machine.run(words, self.env({}), cwd=image()[1])
        return True

    def ports_are_open(self) -> None:
        for port in self.spec["ports"]:
            assert self.machine.listens(int(port.rsplit(":", 1)[1])), port


class Composed:
    def __init__(self, network: Network, file: str, tls: bool):
        text = (PACKAGING / file).read_text()
        text, folder = (with_tls(text), by_the_page(network, text)) if tls else (text, None)
        spec = yaml.safe_load(text)
        self.services = {name: Service(network, name, one, spec["volumes"], folder) for name, one in spec["services"].items()}
        self.leaders = [one for name, one in self.services.items() if name.startswith("leader")]
        self.client = network.machine("client")
        if folder:
            self.client.bind(folder / "ca.pem", "/etc/ca.pem")
        self.client.seal()
        self.how = (6667, ["--tls", "--tls-ca", "/etc/ca.pem"]) if tls else (6666, [])

    def ask(self, leader: str, *words: str) -> str:
        port, how = self.how
        return self.client.run(["hatokuse", "client", "--addr", f"{leader}:{port}", *how, *words])

    def begin(self, of: dict[str, str]) -> None:
        for service in self.services.values():
            service.start(of)
        for leader in self.leaders:
            eventually(f"{leader.name} is healthy", leader.is_healthy)
            leader.ports_are_open()
        self.has_all(self.leaders[-1])
        assert self.ask(self.leaders[0].name, "SET", "greeting", "Merhaba") == "OK\n"
        assert self.ask(self.leaders[-1].name, "GET", "greeting") == "Merhaba\n"

    def has_all(self, leader: Service) -> None:
        up = lambda: [node["state"] for node in json.loads(self.ask(leader.name, "STATUS"))["nodes"]] == ["up"] * 4
        eventually("four nodes are up", up)

    def end(self) -> None:
        for service in self.services.values():
            service.process.stop()


def by_the_page(network: Network, text: str) -> pathlib.Path:
    """The certificates that the comment at the top of the file makes, by its own lines."""
    lines = [line.removeprefix("#   ") for line in text.splitlines() if line.startswith("#   ")]
    makes = [line for line in lines if "hatokuse cert" in line or "chown" in line]
    place = network.work / "packaging"
    place.mkdir()
    programs = network.work / "bin"
    programs.mkdir()
    (programs / "hatokuse").symlink_to(network.binary)
    call("bash", "-euc", "\n".join(makes), cwd=place, env=os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"})
    assert not (place / "tls/ca-key.pem").exists()
    return place / "tls"


def one(network: Network, say, tls: bool) -> None:
    composed = Composed(network, "compose.yaml", tls)
    say("up")
    composed.begin({})
    composed.end()


def several(network: Network, say, tls: bool) -> None:
    composed = Composed(network, "compose.peers.yaml", tls)
    say("up, with HATOKUSE_FOUND")
    composed.begin({"HATOKUSE_FOUND": "true"})
    first, second, third = composed.leaders
    say("each leader is killed, and started without HATOKUSE_FOUND")
    for leader, other in ((first, second), (second, third), (third, first)):
        leader.process.kill()
        message = f"without {leader.name}"
        eventually(message, lambda: composed.ask(other.name, "SET", "greeting", message) == "OK\n")
        leader.start()
        eventually(f"{leader.name} is healthy", leader.is_healthy)
        eventually("it answers", lambda: composed.ask(leader.name, "GET", "greeting") == f"{message}\n")
    composed.end()


STORIES = {
    "compose": lambda network, say: one(network, say, False),
    "compose, TLS": lambda network, say: one(network, say, True),
    "compose.peers": lambda network, say: several(network, say, False),
    "compose.peers, TLS": lambda network, say: several(network, say, True),
}
