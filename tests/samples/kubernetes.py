"""packaging/kubernetes without a cluster: each pod's command, as the manifests have it, with the environment, the folders and the names that
Kubernetes gives it; then what docs/kubernetes.md says to do when something is lost."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import urllib.error
import urllib.request

import yaml
from machine import ROOT, USER, Machine, Network, Process, call, eventually, with_tls

NAMESPACE = "default"


def expand(text: str, env: dict[str, str]) -> str:
    """$(NAME) as Kubernetes does it: what is not known stays as it is."""

    def one(found: re.Match) -> str:
        return "$" if found[0] == "$$" else env.get(found[1], found[0])

    return re.sub(r"\$\$|\$\(([^()]*)\)", one, text)


class Folder:
    """A ConfigMap or a Secret as a kubelet shows it: links to files in a folder that is replaced as a whole."""

    def __init__(self, path: pathlib.Path, content: dict[str, str | bytes], mode: int):
        self.path, self.mode, self.turn = path, mode, 0
        path.mkdir()
        self.put(content)
        for name in content:
            (path / name).symlink_to(f"..data/{name}")

    def put(self, content: dict[str, str | bytes]) -> None:
        self.turn += 1
        inner = self.path / f"..{self.turn}"
        inner.mkdir()
        for name, what in content.items():
            file = inner / name
            file.write_bytes(what.encode() if isinstance(what, str) else what)
            os.chown(file, 0, USER)
            file.chmod(self.mode)
        (self.path / "..new").symlink_to(inner.name)
        (self.path / "..new").rename(self.path / "..data")


class Pod:
    def __init__(self, cluster: "Cluster", kind: dict, ordinal: int):
        self.cluster, self.spec = cluster, kind["spec"]["template"]["spec"]
        self.name = f"{kind['metadata']['name']}-{ordinal}"
        [self.container] = self.spec["containers"]
        service = kind["spec"]["serviceName"]
        names = [f"{self.name}.{service}", f"{self.name}.{service}.{NAMESPACE}.svc"]
        self.machine: Machine = cluster.network.machine(self.name, names)
        assert self.container["securityContext"]["readOnlyRootFilesystem"] and self.spec["securityContext"]["runAsUser"] == USER
        claims = [claim["metadata"]["name"] for claim in kind["spec"]["volumeClaimTemplates"]]
        volumes = {volume["name"]: volume for volume in self.spec["volumes"]}
        for mount in self.container["volumeMounts"]:
            if mount["name"] in claims:
                self.data = self.machine.volume(mount["mountPath"])
            else:
                self.machine.bind(cluster.folder(volumes[mount["name"]]), mount["mountPath"])
        self.machine.seal()
        self.process: Process | None = None
        self.ports = {port["name"]: port["containerPort"] for port in self.container["ports"]}

    def env(self) -> dict[str, str]:
        env = {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}
        fields = {"metadata.name": self.name, "metadata.namespace": NAMESPACE}
        for entry in self.container["env"]:
            source = entry.get("valueFrom", {})
            if "fieldRef" in source:
                env[entry["name"]] = fields[source["fieldRef"]["fieldPath"]]
            elif "configMapKeyRef" in source:
                env[entry["name"]] = self.cluster.settings[source["configMapKeyRef"]["key"]]
            else:
                env[entry["name"]] = expand(entry["value"], env)
        return env

    def start(self) -> Process:
        env = self.env()
        words = [expand(word, env) for word in self.container["command"] + self.container.get("args", [])]
        # The image's folder to work in.
        self.process = self.machine.start(words, env, cwd="/var/lib/hatokuse")
        return self.process

    def stop(self) -> None:
        if hook := self.container.get("lifecycle", {}).get("preStop"):
            self.machine.run(hook["exec"]["command"])
        took = self.process.stop()
        grace = self.spec["terminationGracePeriodSeconds"]
        assert took < grace / 2, f"{self.name} took {took} s of {grace} s to end"

    def probe(self, which: str) -> bool:
        probe = self.container[which]
        if http := probe.get("httpGet"):
            url = f"http://{self.machine.address}:{self.ports[http['port']]}{http['path']}"
            try:
                return urllib.request.urlopen(url, timeout=5).status == 200
            except urllib.error.HTTPError:
                return False
        if tcp := probe.get("tcpSocket"):
            return self.machine.listens(self.ports[tcp["port"]])
        # A request is a message of field 1, the service; the answer's field 1 is 1 for SERVING.
        service = probe["grpc"].get("service", "").encode()
        asked = bytes([10, len(service)]) + service if service else b""
        url = f"http://{self.machine.address}:{probe['grpc']['port']}/grpc.health.v1.Health/Check"
        answer = subprocess.run(
            ["curl", "-sS", "--max-time", "5", "--http2-prior-knowledge", "-H", "content-type: application/grpc", "-H", "te: trailers"]
            + ["--data-binary", "@-", url],
            input=b"\0" + len(asked).to_bytes(4, "big") + asked,
            capture_output=True,
            check=True,
        )
        return answer.stdout[5:] == b"\x08\x01"

    def is_ready(self) -> bool:
        return all(self.probe(which) for which in ("startupProbe", "livenessProbe", "readinessProbe"))


class Cluster:
    def __init__(self, network: Network, change=lambda text: text, secrets: dict[str, dict[str, str | bytes]] = {}):
        self.network, self.secrets, self.folders = network, secrets, {}
        files = sorted((ROOT / "packaging/kubernetes").glob("*.yaml"))
        self.kinds = [kind for file in files for kind in yaml.safe_load_all(change(file.read_text()))]
        [settings] = self.of_kind("ConfigMap")
        self.settings: dict[str, str] = settings["data"]
        self.sets = {kind["metadata"]["name"]: kind for kind in self.of_kind("StatefulSet")}
        self.ports_have_names()
        self.leaders = [self.pod("hatokuse-leader", n) for n in range(self.sets["hatokuse-leader"]["spec"]["replicas"])]
        self.nodes = [self.pod("hatokuse-node", n) for n in range(self.sets["hatokuse-node"]["spec"]["replicas"])]
        self.client = network.machine("client")
        self.client.bind(self.folder({"name": "of the client", "secret": {"secretName": "client"}}) if secrets else network.hosts, "/etc/client")
        self.client.seal()

    def of_kind(self, name: str) -> list[dict]:
        return [kind for kind in self.kinds if kind["kind"] == name]

    def pod(self, name: str, ordinal: int) -> Pod:
        return Pod(self, self.sets[name], ordinal)

    def folder(self, volume: dict) -> pathlib.Path:
        """What a volume shows; one for all pods that have it."""
        if volume["name"] == "settings":
            name, content, mode = "settings", self.settings, 0o644
        else:
            name, mode = volume["secret"]["secretName"], volume["secret"].get("defaultMode", 0o644)
            content = self.secrets[name]
        if name not in self.folders:
            self.folders[name] = Folder(self.network.work / f"volume-{name}", content, mode)
        return self.folders[name].path

    def ports_have_names(self) -> None:
        """Services and policies name ports that the pods have."""
        def pods(selector: dict) -> set:
            fitting = [kind for kind in self.sets.values() if selector.items() <= kind["spec"]["template"]["metadata"]["labels"].items()]
            assert fitting, f"nothing has the labels {selector}"
            ports = [port for kind in fitting for port in kind["spec"]["template"]["spec"]["containers"][0]["ports"]]
            return {port["name"] for port in ports} | {port["containerPort"] for port in ports}

        for service in self.of_kind("Service"):
            for port in service["spec"]["ports"]:
                assert port.get("targetPort", port["port"]) in pods(service["spec"]["selector"]), (service["metadata"]["name"], port)
        for policy in self.of_kind("NetworkPolicy"):
            for rule in policy["spec"]["ingress"]:
                for port in rule["ports"]:
                    assert port["port"] in pods(policy["spec"]["podSelector"]["matchLabels"]), (policy["metadata"]["name"], port)
        for budget in self.of_kind("PodDisruptionBudget"):
            pods(budget["spec"]["selector"]["matchLabels"])

    # ---- what people do ----

    def ask(self, *words: str, leader: str | None = None) -> str:
        """By the Service, which knows those that are ready; or through this one."""
        if leader is None:
            for pod in self.leaders:
                with contextlib.suppress(OSError):
                    if pod.process.is_up() and pod.probe("readinessProbe"):
                        leader = pod.name
                        break
            else:
                raise LookupError("no leader is ready")
        return self.client.run(["hatokuse", "client", "--addr", self.address(leader), *self.who, *words])

    def status(self) -> dict:
        return json.loads(self.ask("STATUS"))

    def node(self, number: int) -> dict:
        [node] = [node for node in self.status()["nodes"] if node["id"] == number]
        return node

    def peers(self) -> dict:
        return json.loads(self.ask("PEERS"))

    def leads(self) -> Pod:
        """The pod of the leader that leads."""
        peers = self.peers()
        at = next(peer["address"] for peer in peers["peers"] if peer["id"] == peers["leader"])
        return next(pod for pod in self.leaders if at.startswith(f"{pod.name}."))

    def all_ready(self) -> None:
        for pod in self.leaders + self.nodes:
            eventually(f"{pod.name} is ready", pod.is_ready)

    def everyone_answers(self, id: str) -> None:
        """What is written through one leader is read through all."""
        for n, pod in enumerate(self.leaders):
            message = f"Merhaba, {pod.name} {id}"
            assert self.ask("SET", f"{id}-{n}", message, leader=pod.name) == "OK\n"
            for other in self.leaders:
                assert self.ask("GET", f"{id}-{n}", leader=other.name) == f"{message}\n"

    def kill_who_leads(self) -> Pod:
        pod = self.leads()
        pod.process.kill()
        eventually("another one leads", lambda: self.leads() is not pod)
        return pod


class Plain(Cluster):
    who = ()

    def address(self, leader: str) -> str:
        return f"{leader}.hatokuse-leader:6666"


class Encrypted(Cluster):
    who = ("--tls", "--tls-ca", "/etc/client/ca.pem", "--password-file", "/etc/client/password")

    def address(self, leader: str) -> str:
        return f"{leader}.hatokuse-leader:6667"


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
