"""Pods without a cluster: each one's command, as the manifests have it, with the environment, the folders and the names that Kubernetes gives it."""

import contextlib
import json
import os
import pathlib
import re
import subprocess
import urllib.error
import urllib.request

import yaml
from machine import ROOT, USER, Machine, Network, Process, eventually

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
