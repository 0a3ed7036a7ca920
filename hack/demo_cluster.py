"""The demo on Kubernetes: install the operator, make a world, act in it, verify it, rotate and revoke a key.

It can be run again: the world of an earlier run is used as it is, and its keys are rotated once more. Every command
that a reader could type is printed before it is run. The last line is ``demo-cluster: ok ...``, or a reason with exit
code 1.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentworld_client import keys
from agentworld_client.gateway import GatewayClient
from agentworld_client.submit import Agent, submit_all

ROOT = Path(__file__).resolve().parent.parent
TOOL = str(ROOT / "hack/cluster/cluster")
SYSTEM_NAMESPACE = "agent-world"
NAMESPACE = "agent-world-demo"
WORLD = "aurora"
KEY = "aurora-0"
AGENTS = 10
ACTIONS = 1000
LOCAL_IMAGES = {"node": "localhost/agent-world/node:dev", "operator": "localhost/agent-world/operator:dev"}


class DemoFailed(Exception):
    """A step of the demo did not do what it should; the text says which and what was seen."""


class Cluster:
    """Runs kubectl and helm against the cluster that was chosen."""

    def __init__(self, *, current: bool):
        self.current = current
        self._kubectl = ["kubectl"] if current else [TOOL, "kubectl"]
        self._helm = ["helm"] if current else [TOOL, "helm"]
        if current and not (shutil.which("kubectl") and shutil.which("helm")):
            raise DemoFailed("CLUSTER=current needs kubectl and helm on the PATH")

    def prepare(self) -> dict[str, str]:
        """Starts the cluster, builds and loads the images, and returns their names by target."""
        if self.current:
            names = {target: os.environ.get(f"{target.upper()}_IMAGE", "") for target in LOCAL_IMAGES}
            if not all(names.values()):
                raise DemoFailed("CLUSTER=current needs NODE_IMAGE and OPERATOR_IMAGE that the cluster can pull")
            return names
        say("A cluster, and the images of node and operator in it")
        shown([TOOL, "up"])
        shown([TOOL, "image", *LOCAL_IMAGES])
        shown([TOOL, "load", *LOCAL_IMAGES.values()])
        return LOCAL_IMAGES

    def kubectl(self, *words: str, show: bool = True) -> str:
        """Runs kubectl in the demo's namespace and returns its output; printed as a reader would type it."""
        command = [*self._kubectl, "-n", NAMESPACE, *words]
        return shown(command, says=f"kubectl -n {NAMESPACE} {' '.join(quoted(word) for word in words)}", show=show)

    def install(self, images: dict[str, str]) -> None:
        """Installs or upgrades the chart and makes the namespace of the demo, restricted from the start."""
        say("The operator, with helm")
        settings: list[str] = []
        for target, prefix in (("operator", "image"), ("node", "node.image")):
            repository, _, tag = images[target].rpartition(":")
            settings += ["--set", f"{prefix}.repository={repository}", "--set", f"{prefix}.tag={tag}"]
        chart = str(ROOT / "charts/agent-world")
        install = ["upgrade", "--install", "agent-world", chart, "-n", SYSTEM_NAMESPACE, "--create-namespace"]
        shown([*self._helm, *install, *settings, "--wait", "--timeout", "180s"], says="helm " + " ".join(install))
        # An image that was built again under the same name is taken up only by a new pod.
        restart = [*self._kubectl, "-n", SYSTEM_NAMESPACE, "rollout"]
        shown([*restart, "restart", "deployment/agent-world"], show=False)
        shown([*restart, "status", "deployment/agent-world", "--timeout=180s"], show=False)
        namespace = {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        }
        subprocess.run([*self._kubectl, "apply", "-f", "-"], input=json.dumps(namespace), text=True, check=True)

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """Returns an object as it is now."""
        return dict(json.loads(self.kubectl("get", kind, name, "-o", "json", show=False)))

    def wait(self, what: str, check: Callable[[], bool], *, seconds: float = 180) -> float:
        """Waits until the check holds and returns how long that took; DemoFailed says what was waited for."""
        started = time.monotonic()
        while not check():
            if time.monotonic() - started > seconds:
                self.kubectl("get", "aw,awv,awk,pods")
                self.kubectl("describe", "aw", WORLD)
                raise DemoFailed(f"after {seconds:.0f} s still waiting for: {what}")
            time.sleep(0.5)
        took = time.monotonic() - started
        print(f"  {what}: {took:.1f} s", flush=True)
        return took

    def world(self) -> dict[str, Any]:
        """Returns the status of the world."""
        return dict(self.get("aw", WORLD).get("status") or {})

    @contextmanager
    def gateway(self) -> Iterator[str]:
        """Forwards a local port to the gateway Service and yields its URL."""
        command = [*self._kubectl, "-n", NAMESPACE, "port-forward", f"service/{WORLD}-gateway", ":8080"]
        print(f"\n$ kubectl -n {NAMESPACE} port-forward service/{WORLD}-gateway :8080 &", flush=True)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        try:
            line = process.stdout.readline() if process.stdout is not None else ""
            found = re.search(r"127\.0\.0\.1:(\d+)", line)
            if found is None:
                raise DemoFailed(f"port-forward said: {line.strip() or 'nothing'}")
            yield f"http://127.0.0.1:{found.group(1)}"
        finally:
            process.terminate()
            process.wait()


def main() -> int:
    """Runs the demo; returns the exit code."""
    try:
        cluster = Cluster(current=os.environ.get("CLUSTER") == "current")
        cluster.install(cluster.prepare())
        with make_world(cluster) as url:
            root = act_and_verify(cluster, url)
            epoch = rotate(cluster)
            revoke(cluster)
            say("Blocks go on, and everything since genesis still verifies")
            root = act_and_verify(cluster, url)
        say("What happened, as the cluster tells it")
        cluster.kubectl("get", "events", "--field-selector", "reportingComponent=agentworld-operator")
        cluster.kubectl("get", "aw,awv,awk")
        height = cluster.world()["head"]["height"]
    except (DemoFailed, subprocess.CalledProcessError) as error:
        print(f"\ndemo-cluster: failed: {error}", file=sys.stderr)
        return 1
    tool = "" if cluster.current else "hack/cluster/cluster "
    print(f"\nTry next: {tool}kubectl -n {NAMESPACE} scale aw/{WORLD} --replicas=5")
    print(f"          {tool}kubectl -n {NAMESPACE} describe aw {WORLD}")
    print(f"          {tool}kubectl -n {NAMESPACE} delete aw {WORLD}")
    if not cluster.current:
        print("          hack/cluster/cluster down --purge        (stops the cluster and leaves nothing behind)")
    print(f"demo-cluster: ok height={height} epoch={epoch} state_root={root}")
    return 0


@contextmanager
def make_world(cluster: Cluster) -> Iterator[str]:
    """Applies the six-line World, waits until it is ready, and yields the URL of its gateway."""
    say("A world of four validators")
    manifest = ROOT / "examples/kubernetes/world.yaml"
    print(manifest.read_text(), end="")
    cluster.kubectl("apply", "-f", str(manifest))
    cluster.wait("World is Ready", lambda: has_condition(cluster.get("aw", WORLD), "Ready"), seconds=300)
    cluster.kubectl("get", "aw", WORLD)
    with cluster.gateway() as url:
        yield url


def act_and_verify(cluster: Cluster, url: str) -> str:
    """Submits signed actions through the gateway, waits for them, and replays the world from genesis."""
    say(f"{ACTIONS} signed actions of {AGENTS} agents")
    took = asyncio.run(act(url))
    print(f"  committed, each exactly once, in {took:.1f} s", flush=True)
    say("Verification from outside: every hash, signature, certificate and state root from genesis on")
    command = [sys.executable, "-m", "agentworld_node", "verify", "--replay", "--gateway", url, "--output", "json"]
    report = json.loads(shown(command, says=f"agentworld verify --replay --gateway {url} --output json"))
    cluster.wait("status shows the verified head", lambda: head_of(cluster).get("stateRoot") == report["state_root"])
    cluster.kubectl("get", "aw", WORLD, "-o", "wide")
    return str(report["state_root"])


async def act(url: str) -> float:
    """Returns the seconds until the last action was committed; DemoFailed if one was refused."""
    async with GatewayClient(url, patience=60) as client:
        world_id = (await client.genesis()).world_id
        stamp = time.time_ns() // 1_000_000
        agents = [Agent(keys.generate(), world_id=world_id, actor_id=f"agent-{stamp}-{n}") for n in range(AGENTS)]
        actions = [agent.act("agent.register", {"position": [n, 0]}) for n, agent in enumerate(agents)]
        actions += [agents[n % AGENTS].act("agent.move", {"to": [n, n]}) for n in range(ACTIONS - AGENTS)]
        started = time.monotonic()
        receipts = await submit_all(client, actions, wait=True)
        bad = [item for item in receipts if item.get("status") != "committed" or not item.get("ok")]
        if bad:
            raise DemoFailed(f"{len(bad)} of {len(actions)} actions were not committed, for instance {bad[0]}")
        return time.monotonic() - started


def rotate(cluster: Cluster) -> int:
    """Rotates a validator's key by its generation and returns the directory epoch after it; no pod restarts."""
    say("A new generation of a validator's key: the only thing to edit is a number")
    before = cluster.get("awk", KEY)
    restarts = pod_starts(cluster)
    epoch = int(cluster.world()["directory"]["epoch"])
    generation = before["spec"].get("generation", 1) + 1
    cluster.kubectl("patch", "awk", KEY, "--type=merge", "-p", json.dumps({"spec": {"generation": generation}}))
    old = before["status"]["activeKeyId"]
    cluster.wait("a new key signs", lambda: cluster.get("awk", KEY)["status"].get("activeKeyId") not in (old, None))
    cluster.wait("the directory epoch moved on", lambda: int(cluster.world()["directory"]["epoch"]) > epoch)
    if pod_starts(cluster) != restarts:
        raise DemoFailed("a pod was restarted by the rotation")
    cluster.kubectl("get", "awk")
    return int(cluster.world()["directory"]["epoch"])


def revoke(cluster: Cluster) -> None:
    """Revokes the oldest key that is still trusted but no longer signs, and waits until every node has confirmed it."""
    say("Revocation of the old key, which nobody can take back")
    key = cluster.get("awk", KEY)
    active = key["status"]["activeKeyId"]
    revoked = key["spec"].get("revoked", [])
    known = {item["keyId"] for item in revoked}
    old = [row["keyId"] for row in key["status"]["keys"] if row["keyId"] != active and row["keyId"] not in known]
    entries = [*revoked, {"keyId": old[0], "reason": "demonstration"}]
    cluster.kubectl("patch", "awk", KEY, "--type=merge", "-p", json.dumps({"spec": {"revoked": entries}}))

    def confirmed() -> bool:
        rows = {row["keyId"]: row for row in cluster.world().get("revocations", [])}
        return old[0] in rows and not rows[old[0]].get("pendingNodes")

    cluster.wait("every node has confirmed it", confirmed)


def head_of(cluster: Cluster) -> dict[str, Any]:
    """Returns the head in the status of the world."""
    return dict(cluster.world().get("head") or {})


def pod_starts(cluster: Cluster) -> dict[str, Any]:
    """Returns when each validator pod was started and how often."""
    pods = json.loads(cluster.kubectl("get", "pods", "-l", "agentworld.dev/validator", "-o", "json", show=False))
    return {
        pod["metadata"]["uid"]: [row["restartCount"] for row in pod["status"].get("containerStatuses", [])]
        for pod in pods["items"]
    }


def has_condition(found: dict[str, Any], kind: str) -> bool:
    """True when a condition of an object is True for its present generation."""
    rows = (found.get("status") or {}).get("conditions", [])
    wanted = found["metadata"]["generation"]
    return any(
        row["type"] == kind and row["status"] == "True" and row.get("observedGeneration", wanted) == wanted
        for row in rows
    )


def say(text: str) -> None:
    """Prints a heading."""
    print(f"\n── {text}", flush=True)


def shown(command: list[str], *, says: str = "", show: bool = True) -> str:
    """Prints a command as a reader would type it, runs it, prints and returns its output."""
    if show:
        print(
            f"\n$ {says or ' '.join(quoted(Path(word).name if word == TOOL else word) for word in command)}", flush=True
        )
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL, check=False)
    if show and result.stdout:
        print(result.stdout, end="", flush=True)
    if result.returncode:
        raise DemoFailed(f"exit code {result.returncode} from: {' '.join(command)}")
    return result.stdout


def quoted(word: str) -> str:
    """Returns a word as it would be typed in a shell."""
    return word if re.fullmatch(r"[\w@%+=:,./-]+", word) else "'" + word.replace("'", "'\\''") + "'"


if __name__ == "__main__":
    sys.exit(main())
