"""packaging/systemd without systemd: what each unit starts, with its variables, settings files, folders and credentials, as a user that reads no key
of root's; and the units held against systemd's own rules, where there is a systemd-analyze."""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess

from machine import ROOT, USER, Machine, Network, Process, certificates, eventually, with_tls

UNITS = ROOT / "packaging/systemd"
CREDENTIALS = "/run/credentials"


class Unit:
    def __init__(self, machine: Machine, file: pathlib.Path, instance: str = ""):
        self.machine, self.instance = machine, instance
        self.name = file.name.removesuffix(".service") + instance
        self.lines = [line.split("=", 1) for line in file.read_text().splitlines() if re.match(r"\w+=", line)]
        for state in self.all("StateDirectory"):
            machine.volume(f"/var/lib/{state}")

    def all(self, key: str) -> list[str]:
        specifiers = {"%i": self.instance, "%d": f"{CREDENTIALS}/{self.name}", "%%": "%"}
        full = lambda value: re.sub(r"%.", lambda found: specifiers[found[0]], value)
        return [full(value) for name, value in self.lines if name == key]

    def start(self) -> Process:
        """Its credentials are copied for its user alone, as LoadCredential does."""
        folder = self.machine.network.work / "credentials" / self.name
        for credential in self.all("LoadCredential"):
            name, source = credential.split(":", 1)
            folder.mkdir(exist_ok=True)
            copy = folder / name
            shutil.copyfile(self.machine.root / source.lstrip("/"), copy)
            os.chown(copy, USER, USER)
            copy.chmod(0o400)
        env = dict(word.split("=", 1) for line in self.all("Environment") for word in shlex.split(line))
        [words] = self.all("ExecStart")
        self.process = self.machine.start(shlex.split(words), env, name=self.name)
        return self.process


def services(network: Network, say, tls: bool) -> None:
    units = network.work / "units"
    units.mkdir()
    for file in UNITS.glob("*.service"):
        (units / file.name).write_text(with_tls(file.read_text()) if tls else file.read_text())
    settings = network.work / "etc"
    settings.mkdir()
    for file in ("tolerance.conf", "packaging/leader.toml", "packaging/node.toml"):
        shutil.copy(ROOT / file, settings)
    if tls:
        made = [["peer", "--id", 1, "--host", "machine"], *[["node", "--id", n] for n in (1, 2, 3)]]
        shutil.copytree(certificates(network, made), settings / "tls")
    machine = network.machine("machine")
    machine.bind(settings, "/etc/hatokuse")
    machine.bind(units, "/etc/systemd/system")
    (network.work / "credentials").mkdir()
    machine.bind(network.work / "credentials", CREDENTIALS)
    leader = Unit(machine, units / "hatokuse-leader.service")
    nodes = [Unit(machine, units / "hatokuse-node@.service", str(n)) for n in (1, 2, 3)]
    if shutil.which("systemd-analyze"):
        say("systemd takes the units")
        names = ["hatokuse-leader.service", "hatokuse-node@1.service"]
        words = ["systemd-analyze", "verify", "--man=no", *[f"/etc/systemd/system/{name}" for name in names]]
        done = subprocess.run(["chroot", machine.root, *words], capture_output=True, text=True)
        # A key that it does not know is a line, and no failure.
        assert done.returncode == 0 and "hatokuse" not in done.stderr, done.stderr
    machine.seal()
    client = network.machine("client")
    if tls:
        client.bind(settings / "tls/ca.pem", "/etc/ca.pem")
    client.seal()
    # Without TLS the register is its machine's own.
    (asks, how) = (client, ["--addr", "machine:6667", "--tls", "--tls-ca", "/etc/ca.pem"]) if tls else (machine, [])
    ask = lambda *words: asks.run(["hatokuse", "client", *how, *words])
    say("what they start")
    for unit in [leader, *nodes]:
        unit.start()
    up = lambda: [node["state"] for node in json.loads(ask("STATUS"))["nodes"]] == ["up"] * 3
    eventually("three nodes are up", up)
    assert ask("SET", "greeting", "Merhaba") == "OK\n"
    assert machine.listens(6667) == tls and not machine.listens(6666), "open to others"
    leader.process.kill()
    leader.start()
    eventually("it is there again", lambda: ask("GET", "greeting") == "Merhaba\n")
    for unit in [leader, *nodes]:
        unit.process.stop()


STORIES = {
    "units": lambda network, say: services(network, say, False),
    "units, TLS": lambda network, say: services(network, say, True),
}
