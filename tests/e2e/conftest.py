"""One cluster of the tests' own, with the operator installed, and one world that most tests share.

E2E_CLUSTER=NAME takes a cluster of that name and leaves it running, which saves minutes while working on a test.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.e2e.counter import COUNTER, make_counter
from tests.e2e.kube import Cluster, Namespace, RunningWorld, world

DEFAULT_NAME = "aw-e2e"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    kept = os.environ.get("E2E_CLUSTER")
    started = Cluster(kept or DEFAULT_NAME)
    try:
        started.start()
        yield started
    finally:
        if kept is None:
            started.tool("down", "--purge")


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """A namespace that goes with its test."""
    name = "t-" + request.node.name.split("[")[0].removeprefix("test_").replace("_", "-")[:50].strip("-")
    made = Namespace(cluster, name)
    made.create()
    yield made
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def aurora(cluster: Cluster) -> RunningWorld:
    """A world of four validators that begins with a module, made once; tests leave it as a world of four that works.

    The ConfigMap of the module is gone as soon as the world is initialized: everything after that does without it.
    """
    namespace = Namespace(cluster, "aurora")
    namespace.create()
    make_counter(namespace)
    namespace.apply(world("aurora", validators={"replicas": 4}, genesis={"modules": [COUNTER]}))
    running = RunningWorld(namespace, "aurora")
    running.wait("it is initialized", lambda: namespace.is_true("aw", "aurora", "Initialized"), seconds=120)
    namespace.kubectl("delete", "configmap", "counter")
    running.wait_ready()
    return running
