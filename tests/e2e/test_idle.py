"""A world in which nothing happens costs nothing: the operator writes nothing at all."""

from __future__ import annotations

import os
import threading

from tests.e2e.kube import Namespace, RunningWorld, world

# Ten minutes is what is promised; a shorter watch finds a loop as well, and leaves time for the other tests.
IDLE_SECONDS = float(os.environ.get("E2E_IDLE_SECONDS", "120"))
KINDS = (
    "aw,awv,awk,pods,pvc,services,deployments,configmaps,secrets,roles,rolebindings,serviceaccounts,pdb,netpol,events"
)


def versions(namespace: Namespace) -> dict[str, str]:
    """Returns the resource version of every object that the operator looks after."""
    return {
        f"{item['kind']}/{item['metadata']['name']}": item["metadata"]["resourceVersion"]
        for item in namespace.find(KINDS)
    }


def test_an_idle_world_is_written_by_nobody(namespace: Namespace) -> None:
    namespace.apply(world("still", validators={"replicas": 1}))
    still = RunningWorld(namespace, "still")
    still.wait_ready()
    settled: list[dict[str, str]] = []

    def quiet() -> bool:
        settled.append(versions(namespace))
        threading.Event().wait(5)
        return versions(namespace) == settled[-1]

    still.wait("the world has settled", quiet, seconds=120)
    threading.Event().wait(IDLE_SECONDS)
    after = versions(namespace)
    changed = {
        name: (settled[-1].get(name), version) for name, version in after.items() if settled[-1].get(name) != version
    }
    assert not changed, f"written while idle for {IDLE_SECONDS:.0f} s: {changed}"
