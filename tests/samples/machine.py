"""Machines to try samples on: each with an address, a root that cannot be written, and folders of its own, and no container runtime.

It has to be root in namespaces of its own (network, mounts, processes): tests/samples/run makes them. What is started here
ends with them.
"""

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
USER = 6666  # as in the Dockerfile
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # as containers have it
PATIENCE = 60


def call(*words: object, **more) -> str:
    return subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True, **more).stdout


def eventually(what: str, look, patience: float = PATIENCE):
    """What `look` gives, once it is something; errors on the way are the reason if it never is."""
    until, why = time.monotonic() + patience, None
    while True:
        try:
            if found := look():
                return found
        except (OSError, AssertionError, subprocess.SubprocessError, LookupError, ValueError) as error:
            why = error
        if time.monotonic() > until:
            raise TimeoutError(f"{what}: not within {patience} s ({why})")
        time.sleep(0.1)


def with_tls(text: str) -> str:
    """As the samples say how: lines without TLS go, those that begin with ## are settings."""
    made = subprocess.run(["sed", "-e", "/# without TLS$/d", "-e", r"s/^\( *\)## /\1/"], input=text, capture_output=True, text=True, check=True)
    return made.stdout


class Process:
    def __init__(self, name: str, running: subprocess.Popen, said: pathlib.Path):
        self.name, self.running, self.said_in = name, running, said

    def said(self) -> str:
        return self.said_in.read_text(errors="replace")

    def kill(self) -> None:
        self.running.kill()
        self.running.wait()

    def stop(self) -> float:
        """By SIGTERM; how many seconds it took."""
        began = time.monotonic()
        self.running.send_signal(signal.SIGTERM)
        code = self.running.wait(timeout=PATIENCE)
        assert code == 0, f"{self.name} ended with {code} when it was stopped"
        return time.monotonic() - began

    def is_up(self) -> bool:
        return self.running.poll() is None


class Network:
    """Some machines, and the names by which they know one another."""

    def __init__(self, work: pathlib.Path, binary: pathlib.Path):
        self.work, self.binary = work, binary
        self.machines: dict[str, Machine] = {}
        self.hosts = work / "hosts"
        self.hosts.write_text("127.0.0.1 localhost\n::1 localhost\n")
        pathlib.Path("/run/netns").mkdir(exist_ok=True)
        (work / "roots").mkdir()
        call("mount", "-t", "tmpfs", "tmpfs", work / "roots")
        call("ip", "link", "set", "lo", "up")
        call("ip", "link", "add", "samples", "type", "bridge")
        call("ip", "address", "add", "10.91.0.254/24", "dev", "samples")
        call("ip", "link", "set", "samples", "up")

    def machine(self, name: str, names: list[str] = ()) -> "Machine":
        made = Machine(self, name, len(self.machines) + 1)
        self.machines[name] = made
        with self.hosts.open("a") as hosts:
            hosts.write("".join(f"{made.address} {other}\n" for other in [name, *names]))
        return made

    def end(self) -> None:
        """Kills what runs, and forgets the machines."""
        for machine in self.machines.values():
            machine.end()
        call("ip", "link", "delete", "samples")
        call("umount", "-R", self.work / "roots")

    def tell(self) -> str:
        """The last lines of all."""
        files = sorted(self.work.glob("*.said"))
        return "".join(f"-- {file.stem}\n" + "\n".join(file.read_text(errors='replace').splitlines()[-12:]) + "\n" for file in files)


class Machine:
    def __init__(self, network: Network, name: str, number: int):
        self.network, self.name = network, name
        self.address = f"10.91.0.{number}"
        self.processes: list[Process] = []
        self.mounted: set[str] = set()
        self.root = network.work / "roots" / name / "root"
        for folder in ("root", "upper", "work"):
            (self.root.parent / folder).mkdir(parents=True)
        layers = f"lowerdir=/,upperdir={self.root.parent}/upper,workdir={self.root.parent}/work"
        call("mount", "-t", "overlay", "-o", layers, "overlay", self.root)
        call("mount", "--rbind", "/dev", self.root / "dev")
        call("mount", "-t", "proc", "proc", self.root / "proc")
        self.bind(network.binary, "/usr/local/bin/hatokuse")
        self.bind(network.hosts, "/etc/hosts")
        call("ip", "netns", "add", name)
        call("ip", "link", "add", f"to{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
        call("ip", "link", "set", f"to{number}", "master", "samples", "up")
        inside = ["ip", "-netns", name]
        call(*inside, "address", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            call(*inside, "link", "set", device, "up")

    def bind(self, source: pathlib.Path, place: str, read_only: bool = True) -> None:
        """Has a file or folder appear in this machine; before it is sealed."""
        target = self.root / place.lstrip("/")
        if source.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
        call("mount", "--bind", source, target)
        if read_only:
            call("mount", "-o", "remount,bind,ro", target)

    def volume(self, place: str) -> pathlib.Path:
        """A folder that lasts, and is the user's, as volumes are."""
        folder = self.network.work / f"{self.name}{place.replace('/', '-')}"
        folder.mkdir()
        os.chown(folder, 0, USER)
        folder.chmod(0o2775)
        self.bind(folder, place, read_only=False)
        return folder

    def seal(self) -> None:
        call("mount", "-o", "remount,ro", self.root)

    def command(self, words: list[str], cwd: str = "/", user: int = USER) -> list[str]:
        rights = [f"--reuid={user}", f"--regid={user}", f"--groups={user}", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]
        place = [f"--net=/run/netns/{self.name}", "chroot", str(self.root)]
        return ["nsenter", *place, "setpriv", *rights, "env", "-C", cwd, *words]

    def start(self, words: list[str], env: dict[str, str], cwd: str = "/", name: str = "") -> Process:
        name = name or self.name
        said = self.network.work / f"{name}.said"
        env = {"PATH": PATH, "HOSTNAME": self.name, **env}
        with said.open("w") as out:
            running = subprocess.Popen(self.command(words, cwd), env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=out)
        process = Process(name, running, said)
        self.processes.append(process)
        return process

    def run(self, words: list[str], env: dict[str, str] = {}, cwd: str = "/") -> str:
        """Runs to its end, which has to be a good one; what it said on stdout."""
        env = {"PATH": PATH, **env}
        done = subprocess.run(self.command(words, cwd), env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, f"{words}: {done.returncode} {done.stdout}{done.stderr}"
        return done.stdout

    def listens(self, port: int) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((self.address, port), timeout=2):
            return True
        return False

    def end(self) -> None:
        for process in self.processes:
            if process.is_up():
                process.kill()
        call("ip", "netns", "delete", self.name)


def certificates(network: Network, made: list[list[str]]) -> pathlib.Path:
    """What `hatokuse cert` makes of each of these, in one folder."""
    folder = network.work / "certs"
    shutil.rmtree(folder, ignore_errors=True)
    for words in [["ca"], *made]:
        call(network.binary, "cert", words[0], folder, *words[1:])
    return folder
