"""Where a Docker daemon answers the same commands drive kind: which programs are called, with stand-ins for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.conftest import REPOSITORY, Tool

STAND_IN = """#!/bin/sh
printf '%s' "$(basename "$0")" >>"$CALLS"
for word in "$@"; do printf '\\t%s' "$word" >>"$CALLS"; done
echo >>"$CALLS"
case "$(basename "$0") $1 $2" in
  "kind get clusters") cat "$CLUSTERS" ;;
  "kind create cluster")
    echo mine >>"$CLUSTERS"
    for word in "$@"; do case $word in --kubeconfig=*) : >"${word#*=}" ;; esac; done ;;
  "kind delete cluster") : >"$CLUSTERS" ;;
  kubectl*) echo True ;;
esac
"""


class Machine:
    """A machine with a Docker daemon, as far as the tool can tell."""

    def __init__(self, folder: Path) -> None:
        self.calls, self.clusters, programs = folder / "calls", folder / "clusters", folder / "bin"
        self.clusters.touch()
        programs.mkdir()
        for name in ("docker", "kind", "kubectl", "helm"):
            (programs / name).write_text(STAND_IN)
            (programs / name).chmod(0o755)
        environment = {
            "PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin",
            "XDG_CACHE_HOME": str(folder),
            "CALLS": str(self.calls),
            "CLUSTERS": str(self.clusters),
            "CLUSTER_PROVIDER": "",
        }
        self.state = folder / "agent-world" / "cluster" / "state" / "mine"
        self.tool = Tool("mine", environment)

    def called(self, program: str) -> list[list[str]]:
        lines = [line.split("\t") for line in self.calls.read_text().splitlines()]
        return [words[1:] for words in lines if words[0] == program]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_docker_daemon_makes_kind_the_provider(machine: Machine) -> None:
    assert machine.tool.run("provider") == "kind\n"


def test_up_creates_once_and_down_deletes(machine: Machine) -> None:
    machine.tool.run("up", "--nodes", "2")
    machine.tool.run("up", "--nodes", "2")
    created = [words for words in machine.called("kind") if words[0] == "create"]
    assert len(created) == 1
    assert {"--name=mine", f"--kubeconfig={machine.state / 'kubeconfig'}"} <= set(created[0])
    assert machine.tool.run("kubeconfig").strip() == str(machine.state / "kubeconfig")
    assert machine.tool.try_run("status").returncode == 0
    machine.tool.run("down", "--purge")
    assert not machine.state.exists()
    assert machine.tool.try_run("status").returncode == 3
    machine.tool.run("down")
    assert len([words for words in machine.called("kind") if words[0] == "delete"]) == 1


def test_images_are_built_by_docker_and_loaded_by_kind(machine: Machine) -> None:
    machine.tool.run("up")
    assert machine.tool.run("image", "node", "--load") == "localhost/agent-world/node:dev\n"
    build = next(words for words in machine.called("docker") if words[0] == "build")
    assert {"--target=node", "--tag=localhost/agent-world/node:dev", str(REPOSITORY)} <= set(build)
    machine.tool.run("load", "some.tar")
    loads = [words for words in machine.called("kind") if words[0] == "load"]
    assert loads == [
        ["load", "docker-image", "localhost/agent-world/node:dev", "--name=mine"],
        ["load", "image-archive", "some.tar", "--name=mine"],
    ]


def test_kubectl_gets_its_words_untouched(machine: Machine) -> None:
    machine.tool.run("up")
    machine.tool.run("kubectl", "-n", "x", "get", "--name", "y z")
    assert machine.called("kubectl")[-1] == ["-n", "x", "get", "--name", "y z"]


def test_a_missing_program_is_named(machine: Machine) -> None:
    (Path(machine.tool.environment["PATH"].split(":")[0]) / "kind").unlink()
    done = machine.tool.try_run("up")
    assert done.returncode == 1
    assert "kind is not on the PATH" in done.stderr


def test_faults_are_left_to_docker(machine: Machine) -> None:
    done = machine.tool.try_run("fault", "freeze", "kube-apiserver")
    assert done.returncode == 1
    assert "with docker" in done.stderr


def test_an_unknown_target_is_refused(machine: Machine) -> None:
    done = machine.tool.try_run("image", "everything")
    assert done.returncode == 1
    assert "node, operator" in done.stderr
