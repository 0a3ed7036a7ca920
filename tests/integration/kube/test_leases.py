"""The node's Leases on a real API server: compare-and-swap, terms that only grow, and no more rights than needed."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import suppress

import pykube
import pytest

from agentworld_core.errors import NotAvailable
from agentworld_core.ordering.lease import LeaseTimings, LeaseWrite
from agentworld_node.kube.leases import KubernetesLeases, KubernetesLeaseStore, renew_heartbeat
from agentworld_node.lease.loop import LeaseLoop
from tests.integration.kube.conftest import NAMESPACE, Kubernetes
from tests.unit.node import lease_contract as contract
from tests.unit.node.lease_contract import Check, Place
from tests.unit.node.running import eventually

TIMINGS = LeaseTimings(duration_ms=3000, renew_deadline_ms=2000, retry_ms=300)
_names = itertools.count()


@pytest.fixture
def name(kubernetes: Kubernetes) -> str:
    """A Lease that was never held."""
    made = f"aurora-sequencer-{next(_names)}"
    kubernetes.make_lease(made)
    return made


def leases(kubernetes: Kubernetes, token: str = "") -> KubernetesLeases:
    return KubernetesLeases(NAMESPACE, configure=lambda: kubernetes.config(token))


def store(kubernetes: Kubernetes, name: str) -> KubernetesLeaseStore:
    return KubernetesLeaseStore(leases(kubernetes), name)


def unreachable(kubernetes: Kubernetes) -> pykube.KubeConfig:
    config = kubernetes.config()
    config.doc["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    return config


def wanted(holder: str | None, term: int, version: str | None) -> LeaseWrite:
    return LeaseWrite(holder=holder, term=term, duration_ms=15_000, expected_version=version)


async def test_a_record_is_written_for_people_and_read_back(kubernetes: Kubernetes, name: str) -> None:
    ours = store(kubernetes, name)
    empty = await ours.read()
    assert empty is not None
    assert (empty.holder, empty.term) == (None, 0)
    first = await ours.write(wanted("v0", 1, empty.version))
    assert first is not None
    assert (first.holder, first.term, first.duration_ms) == ("v0", 1, 15_000)
    assert await store(kubernetes, name).read() == first
    body = kubernetes.lease(name)
    spec = body["spec"]
    assert (spec["holderIdentity"], spec["leaseTransitions"], spec["leaseDurationSeconds"]) == ("v0", 0, 15)
    assert spec["acquireTime"]
    assert spec["renewTime"]
    assert body["metadata"]["labels"] == {"agentworld.dev/world": "aurora"}, "what is not ours stays as it is"
    renewed = await ours.write(wanted("v0", 1, first.version))
    assert renewed is not None
    again = kubernetes.lease(name)["spec"]
    assert again["acquireTime"] == spec["acquireTime"]
    released = await ours.write(wanted(None, 1, renewed.version))
    assert released is not None
    assert (released.holder, released.term) == (None, 1)
    taken = await ours.write(wanted("v1", 2, released.version))
    assert taken is not None
    assert kubernetes.lease(name)["spec"]["leaseTransitions"] == 1


@pytest.mark.box("S5.3", "compare-and-swap", "lost-cannot-renew")
@pytest.mark.parametrize(
    "check", contract.EVERYWHERE + contract.WHERE_THE_PLACE_CAN_BE_GONE, ids=lambda check: check.__name__
)
async def test_it_keeps_what_every_store_promises(
    kubernetes: Kubernetes, name: str, monkeypatch: pytest.MonkeyPatch, check: Check
) -> None:
    monkeypatch.setattr("agentworld_node.kube.leases.CLIENT_SECONDS", 0.0)  # every call reads the configuration
    gone: list[str] = []

    def configure() -> pykube.KubeConfig:
        return unreachable(kubernetes) if gone else kubernetes.config()

    await check(
        Place(
            lambda: KubernetesLeaseStore(KubernetesLeases(NAMESPACE, configure=configure), name),
            cut_off=lambda: gone.append("the API server"),
        )
    )


async def test_nodes_hand_the_lease_from_one_to_the_other(kubernetes: Kubernetes, name: str) -> None:
    loops = [
        LeaseLoop(
            node_id=node,
            store=store(kubernetes, name),
            timings=TIMINGS,
            wanted=lambda: True,
            term_floor=lambda: 0,
        )
        for node in ("v0", "v1")
    ]
    tasks = [asyncio.create_task(loop.run()) for loop in loops]
    try:
        first = await eventually(lambda: next((loop for loop in loops if loop.is_held), None), what="a holder")
        second = next(loop for loop in loops if loop is not first)
        await eventually(lambda: second.view == first.view)
        successor = "v1" if loops[0] is first else "v0"
        assert await first.hand_over(successor) == 2
        assert await second.taken() == 2
        assert (first.is_held, second.is_held, first.view) == (False, True, (2, successor))
        spec = kubernetes.lease(name)["spec"]
        assert (spec["holderIdentity"], spec["leaseTransitions"]) == (successor, 1)
        await second.release()
        await eventually(lambda: first.is_held, what="the other one")
        assert (first.view[0], second.is_held) == (3, False)
        await eventually(lambda: first.view == second.view)
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_a_node_needs_get_watch_and_update_on_its_own_leases_and_can_do_no_more(
    kubernetes: Kubernetes, name: str
) -> None:
    kubernetes.make_lease("aurora-0-heartbeat")
    kubernetes.make_lease("somebody-elses")
    mine = leases(kubernetes, kubernetes.token_for("aurora-0", leases=[name, "aurora-0-heartbeat"]))
    record = await KubernetesLeaseStore(mine, name).read()
    assert record is not None
    writer = KubernetesLeaseStore(mine, name)
    await writer.read()
    assert await writer.write(wanted("aurora-0", 1, record.version)) is not None
    await renew_heartbeat(mine, "aurora-0-heartbeat", "aurora-0", duration_seconds=40)
    spec = kubernetes.lease("aurora-0-heartbeat")["spec"]
    assert (spec["holderIdentity"], spec["leaseDurationSeconds"]) == ("aurora-0", 40)
    for call in (
        KubernetesLeaseStore(mine, "somebody-elses").read(),
        renew_heartbeat(mine, "somebody-elses", "aurora-0", duration_seconds=40),
    ):
        with pytest.raises(NotAvailable, match="forbidden"):
            await call
    await asyncio.to_thread(next, mine.watch(name))
    for other in ("somebody-elses", ""):
        with pytest.raises(pykube.exceptions.HTTPError, match="forbidden"):
            await asyncio.to_thread(next, mine.watch(other))


async def test_a_node_is_told_what_others_write_at_once(kubernetes: Kubernetes, name: str) -> None:
    ours, watching = store(kubernetes, name), store(kubernetes, name)
    record = await ours.read()
    await watching.changed()  # the Lease as it is
    for term in range(1, 4):
        assert record is not None
        told = asyncio.create_task(watching.changed())
        record = await ours.write(wanted("v0", term, record.version))
        await told
        assert await watching.read() == record
    told = asyncio.create_task(watching.changed())
    await asyncio.sleep(0)
    told.cancel()
    with pytest.raises(asyncio.CancelledError):
        await told


async def test_without_the_right_to_watch_the_lease_is_still_kept(
    kubernetes: Kubernetes, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    token = kubernetes.token_for("older-role", leases=[name], verbs=["get", "update"])
    loop = LeaseLoop(
        node_id="v0",
        store=KubernetesLeaseStore(leases(kubernetes, token), name),
        timings=TIMINGS,
        wanted=lambda: True,
        term_floor=lambda: 0,
    )
    running = asyncio.create_task(loop.run())
    try:
        await eventually(lambda: f"{name} cannot be watched" in caplog.text, what="the message")
        version = kubernetes.lease(name)["metadata"]["resourceVersion"]
        await eventually(lambda: kubernetes.lease(name)["metadata"]["resourceVersion"] != version, what="a renewal")
        assert loop.is_held
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def test_what_is_not_there_is_told(kubernetes: Kubernetes) -> None:
    with pytest.raises(NotAvailable, match="no such Lease"):
        await store(kubernetes, "none").read()
    with pytest.raises(NotAvailable, match="no such Lease"):
        await renew_heartbeat(leases(kubernetes), "none", "v0", duration_seconds=40)


@pytest.mark.parametrize("trouble", ["nobody listens", "wrong token", "no configuration"])
async def test_an_api_server_that_does_not_answer_is_not_available(
    kubernetes: Kubernetes, name: str, trouble: str
) -> None:
    def configure() -> pykube.KubeConfig:
        if trouble == "no configuration":
            raise FileNotFoundError("token")
        if trouble == "nobody listens":
            return unreachable(kubernetes)
        return kubernetes.config("nobody")

    with pytest.raises(NotAvailable):
        await KubernetesLeaseStore(KubernetesLeases(NAMESPACE, configure=configure), name).read()


async def test_a_token_that_was_exchanged_is_read_again(kubernetes: Kubernetes, name: str) -> None:
    tokens: list[str] = ["expired", ""]

    def configure() -> pykube.KubeConfig:
        return kubernetes.config(tokens.pop(0) if len(tokens) > 1 else tokens[0])

    ours = KubernetesLeaseStore(KubernetesLeases(NAMESPACE, configure=configure), name)
    with pytest.raises(NotAvailable):
        await ours.read()
    assert await ours.read() is not None
