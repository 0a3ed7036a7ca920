"""What a world bears while actions flow: the world goes on, or stops safely and comes back by itself.

A world of its own, with a short lease, on two Kubernetes nodes: three validators on the first, and ``edge`` alone on
the second, which can be lost. E2E_API_SERVER_SECONDS says how long the API server is away at least, 60 is what is
promised; it stays away until validators have made blocks in turn.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pytest

from agentworld_client.gateway import GatewayClient
from agentworld_core.errors import AgentWorldError
from tests.e2e.history import assert_one_history
from tests.e2e.kube import Cluster, Namespace, RunningWorld, wait_until, world
from tests.e2e.test_world import in_sync, verify
from tests.e2e.traffic import BATCH, Traffic, silence_before

API_SERVER_SECONDS = float(os.environ.get("E2E_API_SERVER_SECONDS", "60"))
LEASE_SECONDS = 8
"""Long enough to be kept on a machine that is busy with other things."""
PATIENCE_SECONDS = 180
SEQUENCER = {"leaseDuration": f"{LEASE_SECONDS}s", "renewDeadline": "6s", "retryPeriod": "1s"}
NODE1, NODE2 = ({"kubernetes.io/hostname": name} for name in ("node1", "node2"))
TAINT = "agentworld-test/edge"
DRAIN = ("--ignore-daemonsets", "--delete-emptydir-data", f"--timeout={PATIENCE_SECONDS}s")
EDGE = {
    "apiVersion": "agentworld.dev/v1alpha1",
    "kind": "Validator",
    "metadata": {"name": "edge"},
    "spec": {"world": "storm", "nodeSelector": NODE2, "tolerations": [{"key": TAINT, "operator": "Exists"}]},
}


@pytest.fixture(scope="module")
def storm(cluster: Cluster) -> Iterator[RunningWorld]:
    """The world on two nodes; what the tests of other files run stays on the first."""
    cluster.tool("up", "--nodes", "2")
    cluster.kubectl("taint", "node", "node2", f"{TAINT}=yes:NoSchedule", "--overwrite")
    namespace = Namespace(cluster, "storm")
    namespace.create()
    validators = {"replicas": 3, "template": {"nodeSelector": NODE1}}
    namespace.apply(EDGE, world("storm", validators=validators, sequencer=SEQUENCER))
    running = RunningWorld(namespace, "storm")
    running.wait_ready()
    running.wait("four of four", lambda: running.status["validators"]["summary"] == "4/4", seconds=PATIENCE_SECONDS)
    yield running
    cluster.kubectl("delete", "namespace", "storm", "--wait=false")


@contextmanager
def acting(storm: RunningWorld) -> Iterator[Traffic]:
    """Lets actions flow, and judges the whole history once they have stopped."""
    url = storm.gateway_url()
    with Traffic(url) as traffic:
        goes_on(storm, traffic)
        yield traffic
        goes_on(storm, traffic)
    urls = [url, *storm.urls().values()]
    storm.wait("all are in sync", lambda: asyncio.run(are_in_sync(urls)), seconds=PATIENCE_SECONDS)
    assert_one_history(urls, traffic.committed)
    assert asyncio.run(verify(url)).height >= 1


def goes_on(storm: RunningWorld, traffic: Traffic, *, seconds: float = PATIENCE_SECONDS) -> float:
    """Waits until another action is committed; returns the seconds that took."""
    seen = len(traffic.committed)
    return storm.wait("actions go on", lambda: len(traffic.committed) > seen, seconds=seconds)


def writer_is(storm: RunningWorld, *names: str, after: int = 0) -> bool:
    """True when one of the named holds the Lease, in a term above."""
    holder, term = storm.writer()
    return holder in names and term > after


def make_writer(storm: RunningWorld, target: str) -> None:
    """Has a validator write, by the annotation, and waits until it does."""
    storm.transfer(target)
    storm.wait(f"{target} writes", lambda: writer_is(storm, target), seconds=PATIENCE_SECONDS)


def others(storm: RunningWorld, name: str) -> list[str]:
    return [other for other in storm.validators() if other != name]


def events(storm: RunningWorld, reason: str) -> str:
    """Returns the messages of all events of one reason."""
    return "\n".join(event["message"] for event in storm.namespace.find("events") if event["reason"] == reason)


def marks(storm: RunningWorld) -> str:
    """Returns the annotations of the World as text."""
    return str(storm.namespace.get("aw", storm.name)["metadata"].get("annotations"))


@pytest.mark.box("S5.3", "frozen-holder")
def test_a_writer_that_is_killed_and_one_that_is_frozen_lose_nothing_and_write_nothing_stale(
    storm: RunningWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    with acting(storm) as traffic:
        victim = storm.writer()[0]
        storm.kill(victim)
        killed = goes_on(storm, traffic)
        # One at a time: two of four are more than the quorum can lose.
        storm.wait("it is back", lambda: in_sync(storm.node(victim)), seconds=PATIENCE_SECONDS)
        holder, term = storm.writer()
        with storm.frozen(holder):
            rest = others(storm, holder)
            storm.wait("another one writes", lambda: writer_is(storm, *rest, after=term), seconds=PATIENCE_SECONDS)
            frozen = goes_on(storm, traffic)
        storm.wait("it is back", lambda: in_sync(storm.node(holder)), seconds=PATIENCE_SECONDS)
        assert storm.writer()[1] > term
    with capsys.disabled():
        print(f" goes on {killed:.1f} s after a kill, {frozen:.1f} s after a frozen writer's lease ", end="")


@pytest.mark.box("S27.4", "while-actions-flow")
@pytest.mark.box("S5.3", "hand-over")
def test_the_writer_is_transferred_by_annotation_and_by_draining_its_node(
    storm: RunningWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = storm.namespace.cluster
    with acting(storm) as traffic:
        make_writer(storm, "edge")
        storm.wait("an event", lambda: "edge writes" in events(storm, "WriterTransferred"), seconds=PATIENCE_SECONDS)
        storm.transfer("nobody")
        refusal = "no Validator of this World is called nobody"
        storm.wait("a refusal", lambda: refusal in events(storm, "TransferRefused"), seconds=PATIENCE_SECONDS)
        storm.wait("the annotation goes", lambda: "transfer-to" not in marks(storm), seconds=PATIENCE_SECONDS)
        term = storm.writer()[1]
        rest = others(storm, "edge")
        cluster.kubectl("drain", "node2", "--pod-selector=agentworld.dev/world=storm", *DRAIN)
        storm.wait("another one writes", lambda: writer_is(storm, *rest, after=term), seconds=PATIENCE_SECONDS)
        goes_on(storm, traffic)
        cluster.kubectl("uncordon", "node2")
        storm.wait("it is back", lambda: in_sync(storm.node("edge")), seconds=PATIENCE_SECONDS)
    url = storm.gateway_url()
    transferred, drained = (asyncio.run(silence_before(url, new)) for new in (term, term + 1))
    with capsys.disabled():
        print(f" {transferred:.1f} s without a block for the annotation, {drained:.1f} s for the drain ", end="")


def test_the_plug_of_the_writers_node_is_pulled(storm: RunningWorld) -> None:
    cluster = storm.namespace.cluster
    with acting(storm) as traffic:
        make_writer(storm, "edge")
        _, term = storm.writer()
        cluster.tool("fault", "kill", "node2")
        rest = others(storm, "edge")
        storm.wait("another one writes", lambda: writer_is(storm, *rest, after=term), seconds=PATIENCE_SECONDS)
        goes_on(storm, traffic)
        storm.wait(
            "it says who is away",
            lambda: "edge" in storm.namespace.condition("aw", "storm", "Degraded").get("message", ""),
            seconds=PATIENCE_SECONDS,
        )
        cluster.tool("up", "--nodes", "2")
        storm.wait("it is back", lambda: in_sync(storm.node("edge")), seconds=PATIENCE_SECONDS)


@pytest.mark.box("S5.3", "edited", "deleted")
def test_a_lease_edited_by_hand_is_explained_and_mended(storm: RunningWorld) -> None:
    lease = f"{storm.name}-sequencer"

    def edit(**spec: object) -> None:
        storm.namespace.patch("lease", lease, spec)

    with acting(storm) as traffic:
        edit(renewTime="2099-01-01T00:00:00.000000Z", acquireTime="2099-01-01T00:00:00.000000Z")
        goes_on(storm, traffic)
        term = storm.writer()[1]
        edit(leaseTransitions=0)
        storm.wait("a higher term", lambda: storm.writer()[1] > term, seconds=PATIENCE_SECONDS)
        goes_on(storm, traffic)
        term = storm.writer()[1]
        edit(holderIdentity="somebody", leaseDurationSeconds=2 * LEASE_SECONDS)  # Time enough to be seen.
        storm.wait(
            "a validator writes", lambda: writer_is(storm, *storm.validators(), after=term), seconds=PATIENCE_SECONDS
        )
        goes_on(storm, traffic)
        storm.wait("it says so", lambda: "somebody" in events(storm, "UnknownWriter"), seconds=PATIENCE_SECONDS)
        term = storm.writer()[1]
        storm.namespace.kubectl("delete", "lease", lease)
        storm.wait("an event", lambda: bool(events(storm, "LeaseMadeAgain")), seconds=PATIENCE_SECONDS)
        storm.wait("a higher term", lambda: writer_is(storm, *storm.validators(), after=term), seconds=PATIENCE_SECONDS)
        goes_on(storm, traffic)
    storm.wait(
        "no complaint is left", lambda: not storm.namespace.is_true("aw", "storm", "Degraded"), seconds=PATIENCE_SECONDS
    )


@pytest.mark.box("S5.3", "store-away")
def test_without_an_api_server_the_validators_propose_in_turn_until_it_is_back(
    storm: RunningWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster, url = storm.namespace.cluster, storm.urls()[storm.writer()[0]]
    began = time.monotonic()

    def passes(seconds: float) -> None:
        wait_until(f"{seconds:g} s", lambda: time.monotonic() - began > seconds, seconds=seconds + 5)

    with acting(storm) as traffic:
        with silent_api_server(cluster):
            says = "LeaseUnreachable"
            wait_until("the node says why", lambda: asyncio.run(verdict_at(url)) == says, seconds=PATIENCE_SECONDS)
            # The node says so at once, and holds the lease until its renew deadline has passed.
            passes(max(API_SERVER_SECONDS / 2, LEASE_SECONDS))
        try:
            ended = len(traffic.committed)
            # More than the block that was under way.
            went_on = wait_until("blocks", lambda: len(traffic.committed) > ended + BATCH, seconds=PATIENCE_SECONDS)
            passes(API_SERVER_SECONDS)
        finally:
            cluster.tool("up", "--nodes", "2")
        back = goes_on(storm, traffic)
        make_writer(storm, others(storm, storm.writer()[0])[0])
    storm.wait(
        "it says that it moves", lambda: storm.namespace.is_true("aw", "storm", "Moving"), seconds=PATIENCE_SECONDS
    )
    replayed = asyncio.run(verify(storm.gateway_url())).state_root
    storm.wait(
        "the status shows the replayed head",
        lambda: storm.status["head"]["stateRoot"] == replayed,
        seconds=PATIENCE_SECONDS,
    )
    with capsys.disabled():
        print(f" goes on without an API server {went_on:.0f} s later, {back:.1f} s after it is back ", end="")


@contextmanager
def silent_api_server(cluster: Cluster) -> Iterator[None]:
    """Has the API server answer nothing, and kills it at the end: to be silent and to refuse are two faults."""
    cluster.tool("fault", "freeze", "kube-apiserver")
    try:
        yield
    finally:
        cluster.tool("fault", "kill", "kube-apiserver")


async def are_in_sync(urls: Iterable[str]) -> bool:
    """True when all these nodes answer and say that they are level with their peers."""
    for url in urls:
        try:
            async with GatewayClient(url, patience=0, request_timeout=5) as client:
                if not in_sync(await client.status()):
                    return False
        except AgentWorldError:
            return False
    return True


async def verdict_at(url: str) -> str:
    """Returns the word by which a node says whether it makes blocks, and why not; empty when it does not answer."""
    try:
        async with GatewayClient(url, patience=0, request_timeout=5) as client:
            return str((await client.status())["consensus"]["state"])
    except AgentWorldError:
        return ""
