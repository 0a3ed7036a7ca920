"""The local cluster for real: pods run, volumes bind, clusters leave each other alone, and nothing is left behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.conftest import Tool
from tests.cluster.remains import Remains

pytestmark = pytest.mark.usefixtures("root_only")

LOCAL = {"CLUSTER_PROVIDER": "local"}
POD = """
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 10Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: box}
spec:
  securityContext:
    {runAsNonRoot: true, runAsUser: 10001, runAsGroup: 10001, fsGroup: 10001, seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: box
      image: localhost/agent-world/busybox:1
      command: [sh, -c, "echo started >>/data/log; exec sleep 3600"]
      securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, readOnlyRootFilesystem: true}
      volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
"""


@pytest.fixture
def tool() -> Iterator[Tool]:
    """A cluster's name that nobody uses; whatever the test leaves under it is taken down."""
    one = Tool(f"test-a-{os.getpid()}", LOCAL)
    one.run("build")
    yield one
    one.run("down", "--purge")


@pytest.fixture
def other() -> Iterator[Tool]:
    two = Tool(f"test-b-{os.getpid()}", LOCAL)
    yield two
    two.run("down", "--purge")


def run_box(tool: Tool, folder: Path) -> None:
    manifest = folder / "box.yaml"
    manifest.write_text(POD)
    tool.run("kubectl", "apply", "--filename", str(manifest))
    tool.run("kubectl", "wait", "--for=condition=Ready", "pod/box", "--timeout=120s")


def test_pods_volumes_and_names_work_and_nothing_is_left_while_a_second_cluster_goes_on(
    tool: Tool, other: Tool, tmp_path: Path
) -> None:
    assert tool.run("provider") == "local\n"
    tool.run("up")
    other.run("up")
    mine, others = Remains(tool.name), Remains(other.name)
    assert not set(mine.processes) & set(others.processes)

    assert "already up" in tool.try_run("up").stderr
    assert "node1" in tool.run("status")
    run_box(tool, tmp_path)
    run_box(other, tmp_path)
    assert tool.run("kubectl", "exec", "box", "--", "cat", "/data/log") == "started\n"
    assert tool.run("kubectl", "get", "pvc", "data", "--output=jsonpath={.status.phase}") == "Bound"
    lookup = tool.run("kubectl", "exec", "box", "--", "nslookup", "kubernetes.default.svc.cluster.local")
    assert mine.addresses.kubernetes_ip in lookup

    mine = Remains(tool.name)
    assert mine.of_mounts(), "a running pod has mounts; the search must find them"
    tool.run("down", "--purge")
    assert mine.all() == {}
    assert not mine.folders.state.exists()
    assert tool.try_run("status").returncode == 3
    assert "down already" in tool.try_run("down").stderr

    assert other.try_run("status").returncode == 0
    assert other.run("kubectl", "exec", "box", "--", "cat", "/data/log") == "started\n"


def test_a_cluster_that_was_down_has_its_objects_and_volumes_again_and_can_grow(tool: Tool, tmp_path: Path) -> None:
    tool.run("up")
    run_box(tool, tmp_path)
    before = Remains(tool.name)
    tool.run("down")
    assert before.all() == {}
    assert before.folders.state.exists()

    tool.run("up", "--nodes", "2")
    assert len(tool.run("kubectl", "get", "nodes", "--output=name").split()) == 2
    restarted = "--for=jsonpath={.status.containerStatuses[0].restartCount}=1"
    tool.run("kubectl", "wait", restarted, "pod/box", "--timeout=120s")
    tool.run("kubectl", "wait", "--for=condition=Ready", "pod/box", "--timeout=120s")
    assert tool.run("kubectl", "exec", "box", "--", "cat", "/data/log") == "started\n" * 2


def test_up_starts_again_only_what_has_died(tool: Tool) -> None:
    tool.run("up", "--nodes", "2")
    pids = Remains(tool.name).folders.pids
    before = {path.name: path.read_text() for path in pids.iterdir()}
    tool.run("fault", "freeze", "kube-apiserver")
    assert tool.try_run("kubectl", "get", "nodes", "--request-timeout=1s").returncode != 0
    tool.run("fault", "thaw", "kube-apiserver")
    tool.run("kubectl", "get", "nodes", "--request-timeout=10s")
    for name in ("kube-scheduler", "node2"):
        tool.run("fault", "kill", name)
    assert tool.try_run("status").returncode == 3
    tool.run("up")
    after = {path.name: path.read_text() for path in pids.iterdir()}
    of_node = {name for name in before if name.startswith("node2")}
    assert {name for name in before if before[name] != after[name]} == {"kube-scheduler", *of_node}
    assert tool.try_run("status").returncode == 0


@pytest.mark.parametrize("step", ["certificates", "1 node", "API server"])
def test_an_interrupted_up_stops_what_it_had_started(tool: Tool, step: str) -> None:
    with tool.start("up") as process:
        assert process.stderr is not None
        for line in process.stderr:
            if f"✓ {step}" in line:
                break
        process.send_signal(signal.SIGTERM)
        errors = process.stderr.read()
    assert process.returncode == 130, errors
    assert Remains(tool.name).all() == {}


@pytest.mark.parametrize("step", ["certificates", "1 node", "API server"])
def test_down_finds_what_a_killed_up_had_started(tool: Tool, step: str) -> None:
    with tool.start("up") as process:
        assert process.stderr is not None
        for line in process.stderr:
            if f"✓ {step}" in line:
                break
        process.kill()
    remains = Remains(tool.name)
    assert remains.processes
    tool.run("down")
    assert remains.all() == {}
