"""The system on a Kubernetes cluster with Knative, around a Dolt server and an agent on this machine.

For tests/cluster and tools/bench/cluster.py. KUBECONFIG names the cluster; kubectl and kn are used as in the runbook.
Everything is in a namespace of its own, which is removed afterwards. BROKER=rabbitmq takes that overlay, with the
RabbitMQ at RABBITMQ_URL (http://user:password@host:15672, as pods reach it); otherwise the Broker is the cluster's own.
"""

import contextlib
import json
import os
import pathlib
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import yaml

from beads_dispatch import settings
from tools import toolchain
from tools.proxies import Proxy

KNATIVE = pathlib.Path(__file__).parent.parent / "knative"
_EXAMPLE = KNATIVE / "overlays" / "example"
_OVERLAYS = {"": "overlays/example", "rabbitmq": "overlays/rabbitmq"}  # by BROKER
DEFAULT_IMAGE = "dev.local/beads-dispatch:dev"
READY_SECONDS = 240  # images are there; a Trigger whose subscriber came later is checked again within a minute

_NEEDED = ("pingsources.sources.knative.dev", "services.serving.knative.dev", "brokers.eventing.knative.dev")
USERS = ("feeder", "dispatch", "reap", "operator")


class ClusterError(Exception):
    """The cluster cannot be reached or refuses: the text has the command and its output."""


def missing() -> str | None:
    """Why there is no cluster to use, in a line that says what to do; None when there is one."""
    for program in ("kubectl", "kn"):
        if shutil.which(program) is None:
            return f"{program} is not on PATH"
    try:
        found = _run("kubectl", "get", "crd", *_NEEDED, "--ignore-not-found", "-o", "name", "--request-timeout=5s")
    except ClusterError as exc:
        return f"no cluster answers; set KUBECONFIG to one with Knative Serving and Eventing ({exc})"
    absent = [name for name in _NEEDED if name not in found]
    return f"the cluster has no {', '.join(absent)}; install Knative Serving and Eventing" if absent else None


def image() -> str:
    """The image that IMAGE names, which the cluster has; or the default one."""
    return os.environ.get("IMAGE") or DEFAULT_IMAGE


def own_address() -> str:
    """The address of this machine that pods can reach: CLUSTER_HOST_ADDRESS, or the one it has towards the cluster.

    Raises ClusterError.
    """
    given = os.environ.get("CLUSTER_HOST_ADDRESS")
    if given:
        return given
    server = _run("kubectl", "config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}")
    parts = urlsplit(server)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((parts.hostname, parts.port or 443))
        address = str(probe.getsockname()[0])
    if address.startswith("127."):
        raise ClusterError(
            f"the API server is at {server}, which does not show how pods reach this machine."
            " Set CLUSTER_HOST_ADDRESS to an address of this machine that they can reach."
        )
    return address


@dataclass(frozen=True)
class Namespace:
    """kubectl and kn in one namespace. Every method raises ClusterError when the program fails."""

    name: str

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return _run("kubectl", "-n", self.name, *arguments, stdin=stdin)

    def kn(self, *arguments: str) -> str:
        return _run("kn", *arguments, "-n", self.name)

    def get(self, *arguments: str) -> Any:
        """What `kubectl get … -o json` prints."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def apply(self, *documents: Mapping[str, Any]) -> None:
        self.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": documents}))

    def function_pods(self, name: str | None = None) -> list[str]:
        """The names of the functions' pods, or of one function's, that are not ending."""
        selector = f"serving.knative.dev/service={name}" if name else "serving.knative.dev/service"
        pods = self.get("pods", "-l", selector)["items"]
        return [pod["metadata"]["name"] for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    def logs(self, app: str) -> list[dict[str, Any]]:
        """The log lines of the feeder or a function that are JSON, oldest first."""
        selector = "app=feeder" if app == "feeder" else f"serving.knative.dev/service={app}"
        text = self.kubectl("logs", "-l", selector, "-c", app, "--tail=-1", "--ignore-errors")
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    @contextlib.contextmanager
    def forwarded(self, service: str) -> Iterator[int]:
        """The port of this machine that leads to a Service's port 80, for as long as the block runs."""
        command = ["kubectl", "-n", self.name, "port-forward", f"service/{service}", ":80"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as forward:
            try:
                assert forward.stdout
                # Forwarding from 127.0.0.1:PORT -> 8080
                yield int(forward.stdout.readline().split()[2].rpartition(":")[2])
            finally:
                forward.terminate()

    @contextlib.contextmanager
    def console(self) -> Iterator[tuple[str, int]]:
        """The console's host name, and the port of this machine that leads to the ingress which serves it."""
        ingress = self.kubectl("get", "service", "console", "-o", "jsonpath={.spec.externalName}")
        with _forwarded(ingress) as port:
            yield f"console.{self.name}.svc.cluster.local", port

    @contextlib.contextmanager
    def broker(self) -> Iterator[str]:
        """The URL, on this machine, at which the Broker takes events."""
        address = urlsplit(self.get("broker", "default")["status"]["address"]["url"])
        with _forwarded(str(address.hostname)) as port:
            yield f"http://127.0.0.1:{port}{address.path}"

    def until_zero(self, seconds: float = 180) -> None:
        """Wait until no function has a pod, not even one that is ending."""
        deadline = time.monotonic() + seconds
        while self.get("pods", "-l", "serving.knative.dev/service")["items"]:
            if time.monotonic() > deadline:
                raise ClusterError(f"there are still function pods after {seconds:g} s: {self.function_pods()}")
            time.sleep(0.5)


@contextlib.contextmanager
def _forwarded(host: str) -> Iterator[int]:
    """The port of this machine that leads to port 80 of a Service, by its host name: service.namespace.svc.…"""
    service, namespace, *_ = host.split(".")
    with Namespace(namespace).forwarded(service) as port:
        yield port


class PodWatch:
    """Records every pod of a namespace that is created or changed, from the API server. Use as a context manager."""

    def __init__(self, namespace: Namespace, observe: Callable[[str, Mapping[str, Any]], None] | None = None) -> None:
        self.created: list[tuple[float, str]] = []  # when (time.time()) and the pod's name
        self._names = {pod["metadata"]["name"] for pod in namespace.get("pods")["items"]}
        self._observe = observe or (lambda kind, pod: None)
        self._child = subprocess.Popen(
            ["kubectl", "-n", namespace.name, "get", "pods", "--watch", "--output-watch-events", "-o", "json"],
            stdout=subprocess.PIPE,
            text=True,
        )
        self._thread = threading.Thread(target=self._read, name="pods", daemon=True)

    def __enter__(self) -> "PodWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._child.terminate()
        self._child.wait()
        self._thread.join(5)
        assert self._child.stdout
        self._child.stdout.close()

    def _read(self) -> None:
        assert self._child.stdout
        for line in self._child.stdout:  # a document each: kubectl indents a list, but not a watch
            event = json.loads(line)
            name = event["object"]["metadata"]["name"]
            if event["type"] == "ADDED" and name not in self._names:
                self.created.append((time.time(), name))
            self._names.add(name)
            self._observe(event["type"], event["object"])


@dataclass(frozen=True)
class Installation:
    """The system in a namespace: the example overlay with the addresses, settings and schedules of a test."""

    namespace: Namespace
    dolt: settings.DoltSettings  # an administrator's connection
    addresses: Mapping[str, tuple[str, int]]  # of Dolt and of the agent, where pods reach them
    passwords: Mapping[str, str]
    environment: Mapping[str, str]
    schedules: Mapping[str, str]

    def apply(self, image: str, knative: pathlib.Path = KNATIVE) -> None:
        """Install it, or upgrade it, and wait until everything is Ready. `knative`: that folder of the image's version.
        Raises ClusterError."""
        make_users(self.dolt, self.passwords, knative)
        broker = _broker()
        with tempfile.TemporaryDirectory(prefix="beads-overlay-") as name:
            folder = pathlib.Path(name)
            overlay = kustomization(
                folder, self.namespace.name, image, self.dolt.database, self.addresses, self.environment, self.schedules
            )
            if broker:
                where = "/spec/rabbitmqClusterReference/namespace"
                overlay["patches"].append(_replace("RabbitmqBrokerConfig", "rabbitmq", where, self.namespace.name))
            overlay["resources"] = [os.path.relpath(knative / _OVERLAYS[broker], folder.resolve())]
            (folder / "kustomization.yaml").write_text(json.dumps(overlay))
            _run("kubectl", "apply", "-k", name)
        until_ready(self.namespace)


@contextlib.contextmanager
def installation(
    dolt: settings.DoltSettings,
    agent_port: int,
    environment: Mapping[str, str] | None = None,
    schedules: Mapping[str, str] | None = None,
) -> Iterator[Installation]:
    """A namespace for the system, with its Secrets; see `Installation.apply`. It is removed afterwards.

    `dolt` is an administrator's connection to a server on this machine; `agent_port` is BeadBoard's, on 127.0.0.1.
    Functions are scaled to zero after 6 s instead of a minute. Raises ClusterError.
    """
    broker = _broker()
    namespace = Namespace(f"beads-test-{secrets.token_hex(3)}")
    address = own_address()
    with contextlib.ExitStack() as stack:
        addresses = {
            name: (address, stack.enter_context(contextlib.closing(Proxy(port, address))).port)
            for name, port in {"dolt": dolt.port, "agent": agent_port}.items()
        }
        passwords = {name: secrets.token_urlsafe(24) for name in USERS}
        print(f"deploying into namespace {namespace.name}; pods reach this machine at {address}")
        _run("kubectl", "create", "namespace", namespace.name)
        stack.callback(_run, "kubectl", "delete", "namespace", namespace.name, "--wait=false")
        # First what has queues in RabbitMQ, while its Secret is there: without it they are never deleted.
        stack.callback(namespace.kubectl, "delete", "trigger,broker", "--all", "--timeout=120s")
        _enforce(namespace, "restricted")
        namespace.apply(_secret("dolt", passwords))
        if broker:
            prepare_rabbitmq(namespace)
        yield Installation(namespace, dolt, addresses, passwords, environment or {}, schedules or {})


@contextlib.contextmanager
def deployed(
    dolt: settings.DoltSettings,
    agent_port: int,
    *,
    image: str = DEFAULT_IMAGE,
    environment: Mapping[str, str] | None = None,
    schedules: Mapping[str, str] | None = None,
    prepare: Callable[[Namespace], None] = lambda namespace: None,
) -> Iterator[Namespace]:
    """An installation with everything Ready. `prepare` is called with the namespace before anything of the system is in
    it. Raises ClusterError."""
    with installation(dolt, agent_port, environment, schedules) as system:
        prepare(system.namespace)
        system.apply(image)
        print("everything is Ready")
        yield system.namespace


def until_ready(namespace: Namespace, seconds: float = READY_SECONDS) -> None:
    """Wait until everything that has the condition is Ready. Raises ClusterError."""
    deadline = f"--timeout={seconds:g}s"
    namespace.kubectl("rollout", "status", "deployment/feeder", deadline)
    kinds = "broker,trigger,pingsource,sinkbinding,ksvc,eventtype"
    namespace.kubectl("wait", "--for=condition=Ready", deadline, kinds, "--all")


def make_users(dolt: settings.DoltSettings, passwords: Mapping[str, str], knative: pathlib.Path = KNATIVE) -> None:
    """Run knative/users.sql as the runbook does, and set these passwords where the users had others."""
    text = (knative / "users.sql").read_text().replace("`beads`.", f"`{dolt.database}`.")
    for name, password in passwords.items():
        if f"{name.upper()}_PASSWORD" not in text:
            continue  # an older version has fewer users
        text = text.replace(f"{name.upper()}_PASSWORD", password)
        text += f"\nALTER USER 'beads-{name}'@'%' IDENTIFIED BY '{password}';\n"
    where = ["--host", dolt.host, "--port", str(dolt.port), "--user", dolt.user, "--password", dolt.password]
    _run(str(toolchain.dolt()), *where, "--no-tls", "sql", stdin=text)


def _broker() -> str:
    broker = os.environ.get("BROKER", "")
    if broker not in _OVERLAYS:
        raise ClusterError(
            f"BROKER is {broker!r}, expected {' or '.join(name for name in _OVERLAYS if name)}, or nothing"
        )
    return broker


def prepare_rabbitmq(namespace: Namespace) -> None:
    """What the overlay `rabbitmq` needs: its Secret, from RABBITMQ_URL, and a level that admits the Broker's own pods,
    which run in the namespace. Raises ClusterError."""
    _enforce(namespace, "baseline")
    namespace.apply(_secret("rabbitmq", _rabbitmq()))


def _enforce(namespace: Namespace, level: str) -> None:
    """Have what that Pod Security level refuses refused here."""
    label = f"pod-security.kubernetes.io/enforce={level}"
    _run("kubectl", "label", "--overwrite", "namespace", namespace.name, label)


def _secret(name: str, values: Mapping[str, str]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": values}


def _rabbitmq() -> dict[str, str]:
    """RabbitMQ's address, as its Secret has it."""
    url = os.environ.get("RABBITMQ_URL", "")
    parts = urlsplit(url)
    if not (parts.username and parts.password and parts.hostname and parts.port):
        raise ClusterError("BROKER=rabbitmq needs RABBITMQ_URL=http://user:password@host:15672, as pods reach it")
    uri = f"{parts.scheme}://{parts.hostname}:{parts.port}"
    return {"uri": uri, "username": parts.username, "password": parts.password, "port": "5672"}


def kustomization(
    folder: pathlib.Path, namespace: str, image: str, database: str, addresses: Mapping[str, tuple[str, int]],
    environment: Mapping[str, str], schedules: Mapping[str, str],
) -> dict[str, Any]:  # fmt: skip
    """A kustomization for `folder`, `resources` aside, and its metadata.json; `addresses`: of Dolt and of the agent,
    where pods reach them."""
    (host, port), (agent_host, agent_port) = addresses["dolt"], addresses["agent"]
    metadata = json.loads((_EXAMPLE / "metadata.json").read_text())
    metadata |= {"dolt_server_host": host, "dolt_server_port": port, "dolt_database": database}
    (folder / "metadata.json").write_text(json.dumps(metadata))
    settings_of_all = {"BEADBOARD_URL": f"http://{agent_host}:{agent_port}", **environment}
    name, _, tag = image.rpartition(":")
    overlay: dict[str, Any] = yaml.safe_load(pathlib.Path(__file__).with_name("overlay.yaml").read_text())
    overlay["namespace"] = namespace
    overlay["images"] = [{"name": "dev.local/beads-dispatch", "newName": name, "newTag": tag}]
    overlay["configMapGenerator"][1]["literals"] = [f"{key}={value}" for key, value in settings_of_all.items()]
    for source, schedule in schedules.items():
        overlay["patches"].append(_replace("PingSource", source, "/spec/schedule", schedule))
    for whose, (host, port) in addresses.items():
        egress = [{"to": [{"ipBlock": {"cidr": f"{host}/32"}}], "ports": [{"port": port}]}]
        overlay["patches"].append(_replace("NetworkPolicy", f"beads-dispatch-{whose}", "/spec/egress", egress))
    return overlay


def _replace(kind: str, name: str, path: str, value: Any) -> dict[str, Any]:
    patch = [{"op": "replace", "path": path, "value": value}]
    return {"target": {"kind": kind, "name": name}, "patch": json.dumps(patch)}


def _run(*command: str, stdin: str | None = None) -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True)
    if done.returncode:
        printed = " ".join((done.stderr or done.stdout).split())
        raise ClusterError(f"{' '.join(command[:6])} … ended with {done.returncode}: {printed[-600:]}")
    return done.stdout
