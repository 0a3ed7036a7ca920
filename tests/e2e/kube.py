"""A real cluster as the end-to-end tests use it: kubectl, the operator by helm, and worlds to look at and break."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
TOOL = str(REPOSITORY / "hack/cluster/cluster")
CHART = str(REPOSITORY / "charts/agent-world")
IMAGES = {"node": "localhost/agent-world/node:dev", "operator": "localhost/agent-world/operator:dev"}
SYSTEM = "agent-world"
OPERATOR = "app.kubernetes.io/name=agent-world"

POLL_SECONDS = 0.3

Body = dict[str, Any]


class Refused(Exception):
    """kubectl ended with an error; the text is what it said."""


def wait_until(what: str, check: Callable[[], bool], *, seconds: float, explain: Callable[[], object] = str) -> float:
    """Waits until the check holds and returns the seconds it took; fails with ``explain()`` when it is too late."""
    started = time.monotonic()
    while not check():
        if time.monotonic() - started > seconds:
            raise AssertionError(f"after {seconds:.0f} s still waiting for: {what}\n{explain()}")
        select.select([], [], [], POLL_SECONDS)
    return time.monotonic() - started


class Cluster:
    """One cluster by name."""

    def __init__(self, name: str):
        self.name = name

    def tool(self, *words: str) -> str:
        """Runs the cluster tool and returns its output."""
        return _run([TOOL, "--name", self.name, *words])

    def start(self) -> None:
        """Brings the cluster up with our images in it and the operator installed."""
        self.tool("up")
        self.tool("image", *IMAGES)
        self.tool("load", *IMAGES.values())
        settings: list[str] = []
        for target, prefix in (("operator", "image"), ("node", "node.image")):
            repository, _, tag = IMAGES[target].rpartition(":")
            settings += ["--set", f"{prefix}.repository={repository}", "--set", f"{prefix}.tag={tag}"]
        chart = ["upgrade", "--install", "agent-world", CHART, "-n", SYSTEM, "--create-namespace", *settings]
        self.tool("helm", *chart, "--wait", "--timeout", "180s")
        self.kubectl("-n", SYSTEM, "delete", "pod", "-l", OPERATOR, "--wait=true")
        self.kubectl("-n", SYSTEM, "rollout", "status", "deployment/agent-world", "--timeout=180s")

    def kubectl(self, *words: str, given: object = None) -> str:
        """Runs kubectl and returns its output; raises Refused with what it said."""
        text = None if given is None else json.dumps(given)
        return _run([TOOL, "--name", self.name, "kubectl", *words], text)

    def operator_pods(self) -> list[Body]:
        """Returns the operator's pods."""
        found = self.kubectl("-n", SYSTEM, "get", "pods", "-l", OPERATOR, "-o", "json")
        return list(json.loads(found)["items"])

    def kill_operator(self) -> None:
        """Ends the operator at once; its Deployment starts another."""
        for pod in self.operator_pods():
            name = pod["metadata"]["name"]
            self.kubectl("-n", SYSTEM, "delete", "pod", name, "--grace-period=0", "--force", "--wait=false")

    def operator_logs(self) -> str:
        """Returns the last lines of the operator's log."""
        return self.kubectl("-n", SYSTEM, "logs", "deployment/agent-world", "--tail=60")


class Namespace:
    """A namespace of one test, with the strictest Pod Security from the start."""

    def __init__(self, cluster: Cluster, name: str):
        self.cluster = cluster
        self.name = name

    def create(self) -> None:
        """Makes the namespace."""
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.name, "labels": labels}}
        self.cluster.kubectl("apply", "-f", "-", given=namespace)

    def kubectl(self, *words: str, given: object = None) -> str:
        """Runs kubectl in the namespace."""
        return self.cluster.kubectl("-n", self.name, *words, given=given)

    def apply(self, *objects: Body) -> None:
        """Applies objects as a user would."""
        self.kubectl("apply", "-f", "-", given={"apiVersion": "v1", "kind": "List", "items": list(objects)})

    def get(self, kind: str, name: str) -> Body:
        """Returns an object; raises Refused when there is none."""
        return dict(json.loads(self.kubectl("get", kind, name, "-o", "json")))

    def find(self, kinds: str, selector: str = "") -> list[Body]:
        """Returns all objects of some kinds."""
        words = ["-l", selector] if selector else []
        return list(json.loads(self.kubectl("get", kinds, *words, "-o", "json"))["items"])

    def patch(self, kind: str, name: str, spec: Body) -> None:
        """Changes fields of an object's spec."""
        self.kubectl("patch", kind, name, "--type=merge", "-p", json.dumps({"spec": spec}))

    def status(self, kind: str, name: str) -> Body:
        """Returns the status of an object."""
        return dict(self.get(kind, name).get("status") or {})

    def condition(self, kind: str, name: str, condition: str) -> Body:
        """Returns a condition of an object, empty when it has none of that type."""
        rows = self.status(kind, name).get("conditions", [])
        return next((row for row in rows if row["type"] == condition), {})

    def is_true(self, kind: str, name: str, condition: str) -> bool:
        """True when a condition is True for the present generation."""
        row = self.condition(kind, name, condition)
        generation = self.get(kind, name)["metadata"]["generation"]
        return row.get("status") == "True" and row.get("observedGeneration", generation) == generation

    def reasons(self) -> list[str]:
        """Returns the reasons of all events of our operator in the namespace."""
        events = self.find("events")
        return [event["reason"] for event in events if "agentworld" in str(event.get("reportingComponent", ""))]

    def explain(self) -> str:
        """Returns everything somebody would look at first when a test fails."""
        parts = []
        for words in (["get", "aw,awv,awk,pods,leases", "-o", "wide"], ["describe", "aw"], ["get", "events"]):
            try:
                parts.append(self.kubectl(*words))
            except Refused as error:
                parts.append(str(error))
        return "\n".join([*parts, self.cluster.operator_logs()])[-12_000:]


class RunningWorld:
    """A World in a namespace, seen from outside."""

    def __init__(self, namespace: Namespace, name: str):
        self.namespace = namespace
        self.name = name

    @property
    def status(self) -> Body:
        """The status of the World."""
        return self.namespace.status("aw", self.name)

    def wait_ready(self, *, seconds: float = 240) -> float:
        """Waits until the World is Ready."""
        return self.wait("World is Ready", lambda: self.namespace.is_true("aw", self.name, "Ready"), seconds=seconds)

    def wait(self, what: str, check: Callable[[], bool], *, seconds: float) -> float:
        """Waits for something in this world; explains the namespace when it does not come."""
        return wait_until(what, check, seconds=seconds, explain=self.namespace.explain)

    def validators(self) -> list[str]:
        """Returns the names of the validator pods, in order."""
        selector = f"agentworld.dev/world={self.name},agentworld.dev/validator"
        return sorted(pod["metadata"]["name"] for pod in self.namespace.find("pods", selector))

    def node(self, pod: str) -> Body:
        """Returns what a node says of itself, through the API server's proxy; empty while it does not answer."""
        path = f"/api/v1/namespaces/{self.namespace.name}/pods/{pod}:8080/proxy/v1/status"
        try:
            return dict(json.loads(self.namespace.cluster.kubectl("get", "--raw", path)))
        except (Refused, ValueError):
            return {}

    def nodes(self) -> dict[str, Body]:
        """Returns what every validator says of itself."""
        return {pod: self.node(pod) for pod in self.validators()}

    def writer(self) -> tuple[str, int]:
        """Returns holder and term of the writer's Lease."""
        spec = self.namespace.get("lease", f"{self.name}-sequencer")["spec"]
        return spec.get("holderIdentity") or "", int(spec.get("leaseTransitions") or 0) + 1

    def pod_identities(self) -> dict[str, tuple[str, int]]:
        """Returns for every validator pod its uid and how often its container was restarted."""
        found = {}
        for pod in self.namespace.find("pods", f"agentworld.dev/world={self.name},agentworld.dev/validator"):
            restarts = sum(row["restartCount"] for row in pod["status"].get("containerStatuses", []))
            found[pod["metadata"]["name"]] = (pod["metadata"]["uid"], restarts)
        return found

    def kill(self, pod: str) -> None:
        """Sends SIGKILL to the node process of a pod, without telling Kubernetes."""
        self.signal(pod, signal.SIGKILL)

    @contextmanager
    def frozen(self, pod: str) -> Iterator[None]:
        """Stops the node process of a pod in its tracks, without telling Kubernetes, and lets it go on at the end."""
        self.signal(pod, signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(pod, signal.SIGCONT)

    def signal(self, pod: str, number: signal.Signals) -> None:
        """Sends a signal to the node process of a pod; it is a process of this machine."""
        uid = self.namespace.get("pod", pod)["metadata"]["uid"]
        found = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit() and _is_node_of(entry, uid)]
        assert found, f"no process of pod {pod} ({uid}) was found"
        for entry in found:
            os.kill(int(entry.name), number)

    def urls(self) -> dict[str, str]:
        """Returns where each validator answers this machine without the API server in between."""
        pods = self.namespace.find("pods", f"agentworld.dev/world={self.name},agentworld.dev/validator")
        return {pod["metadata"]["name"]: f"http://{pod['status']['podIP']}:8080" for pod in pods}

    def gateway_url(self) -> str:
        """Returns where the gateway's Service answers this machine without the API server in between."""
        spec = self.namespace.get("service", f"{self.name}-gateway")["spec"]
        return f"http://{spec['clusterIP']}:{spec['ports'][0]['port']}"

    def transfer(self, target: str) -> None:
        """Asks for another writer by the annotation."""
        self.namespace.kubectl("annotate", "aw", self.name, f"agentworld.dev/transfer-to={target}")

    @contextmanager
    def gateway(self) -> Iterator[str]:
        """Forwards a local port to the gateway's Service and yields the URL."""
        command = [TOOL, "--name", self.namespace.cluster.name, "kubectl", "-n", self.namespace.name, "port-forward"]
        words = [*command, f"service/{self.name}-gateway", ":8080"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                port = re.search(r"127\.0\.0\.1:(\d+)", line)
                assert port is not None, f"port-forward said {line!r}"
                yield f"http://127.0.0.1:{port.group(1)}"
            finally:
                os.killpg(process.pid, signal.SIGTERM)


def world(name: str, **spec: Any) -> Body:
    """Returns the manifest of a World."""
    return {"apiVersion": "agentworld.dev/v1alpha1", "kind": "World", "metadata": {"name": name}, "spec": spec}


def _is_node_of(entry: Path, uid: str) -> bool:
    try:
        cgroup = (entry / "cgroup").read_text()
        command = (entry / "cmdline").read_bytes()
    except OSError:
        return False
    return (uid in cgroup or uid.replace("-", "_") in cgroup) and b"agentworld" in command


def _run(command: list[str], given: str | None = None) -> str:
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode != 0:
        raise Refused(f"{' '.join(command[3:])}: {done.stderr.strip()}")
    return done.stdout
