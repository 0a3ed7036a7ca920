"""A World from apply to deletion: it comes up, commits, verifies, survives, grows, and goes without a trace."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest

from agentworld_client import keys
from agentworld_client.gateway import GatewayClient
from agentworld_client.submit import Agent, submit_all
from agentworld_client.verifier import BundleStore, VerificationReport, Verifier
from agentworld_node.sandbox import WasmSandbox
from tests.e2e.kube import Body, Cluster, Namespace, Refused, RunningWorld, wait_until, world
from tests.e2e.traffic import Traffic, assert_each_once

LEASE_SECONDS = 15


async def act(url: str, count: int = 1) -> list[str]:
    """Commits actions of a new agent and returns their ids."""
    async with GatewayClient(url, patience=60) as client:
        signer = keys.generate()
        agent = Agent(signer, world_id=(await client.genesis()).world_id, actor_id=f"agent-{signer.key_id[:12]}")
        actions = [agent.act("agent.register", {"position": [0, 0]})]
        actions += [agent.act("agent.move", {"to": [n, n]}) for n in range(count - 1)]
        receipts = await submit_all(client, actions, wait=True)
    assert all(item.get("status") == "committed" and item["ok"] for item in receipts), receipts
    return [item["action_id"] for item in receipts]


async def verify(url: str) -> VerificationReport:
    """Replays the world from genesis with a store of its own."""
    with tempfile.TemporaryDirectory() as folder:
        async with GatewayClient(url, patience=60) as client:
            store, sandbox = BundleStore(Path(folder)), WasmSandbox()
            verifier = Verifier(await client.genesis(), replay=True, store=store, sandbox=sandbox)
            return await verifier.verify(client)


@pytest.mark.box("S7.3", "same-hash")
def test_a_short_manifest_becomes_a_world_that_verifies_from_outside(aurora: RunningWorld) -> None:
    namespace = aurora.namespace
    with aurora.gateway() as url:
        asyncio.run(act(url, 50))
        report = asyncio.run(verify(url))
    assert report.height >= 1
    aurora.wait(
        "the status shows the verified head",
        lambda: aurora.status.get("head", {}).get("stateRoot") == report.state_root,
        seconds=30,
    )
    row = namespace.kubectl("get", "aw", "aurora", "--no-headers").split()
    assert row[1] == "True"
    assert "4/4" in row
    assert aurora.writer()[0] in row
    described = namespace.kubectl("describe", "aw", "aurora")
    assert "QuorumAvailable" in described
    aurora.wait("it says that it moves", lambda: namespace.is_true("aw", "aurora", "Moving"), seconds=30)
    assert "WorldInitialized" in namespace.reasons()
    for pod, node in aurora.nodes().items():
        assert node["signing"]["voting"], pod


@pytest.mark.box("S5.3", "take-over")
def test_a_killed_writer_is_replaced_and_terms_only_grow(
    aurora: RunningWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    writer, term = aurora.writer()
    with aurora.gateway() as url:
        asyncio.run(act(url))
        aurora.kill(writer)

        def act_again() -> bool:
            asyncio.run(act(url))
            return True

        # Idle machines need the lease duration and a second; the deadline allows for busy ones.
        took = wait_until("the next block", act_again, seconds=4 * LEASE_SECONDS, explain=aurora.namespace.explain)
        with capsys.disabled():
            print(f" next block {took:.1f} s after SIGKILL of the writer, lease duration {LEASE_SECONDS} s ")
        assert aurora.writer()[1] > term
        aurora.wait_ready()
        asyncio.run(act(url))
        asyncio.run(verify(url))
    assert aurora.writer()[1] > term


@pytest.mark.parametrize("which", ["a follower", "the writer"])
def test_a_deleted_validator_pod_comes_back_and_nothing_is_lost(
    aurora: RunningWorld, which: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with aurora.gateway() as url, Traffic(url) as traffic:
        before = aurora.pod_identities()
        writer, term = aurora.writer()
        victim = writer if which == "the writer" else next(pod for pod in aurora.validators() if pod != writer)
        aurora.namespace.kubectl("delete", "pod", victim, "--wait=false")
        if victim == writer:
            took = aurora.wait(
                "another writer",
                lambda: aurora.writer()[0] not in ("", writer) and aurora.writer()[1] > term,
                seconds=4 * LEASE_SECONDS,
            )
            with capsys.disabled():
                print(f" another writer {took:.1f} s after its pod was deleted, lease duration {LEASE_SECONDS} s ")
        aurora.wait(
            "another pod in its place",
            lambda: aurora.pod_identities().get(victim, ("",))[0] not in ("", before[victim][0]),
            seconds=120,
        )
        aurora.wait(
            "it votes again", lambda: aurora.node(victim).get("sync", {}).get("state") == "in_sync", seconds=120
        )
        aurora.wait_ready()
        seen = len(traffic.committed)
        aurora.wait("actions go on", lambda: len(traffic.committed) > seen, seconds=60)
    with aurora.gateway() as url:
        assert_each_once(url, traffic.committed)


@pytest.mark.box("S8.2", "every-role")
def test_all_pods_deleted_at_once_come_back_with_the_same_head(aurora: RunningWorld) -> None:
    with aurora.gateway() as url:
        promised = asyncio.run(act(url, 30))
        before = asyncio.run(verify(url))
    gone = {uid for uid, _ in aurora.pod_identities().values()}
    aurora.namespace.kubectl("delete", "pods", "--all", "--grace-period=0", "--force", "--wait=false")

    def all_new() -> bool:
        found = {uid for uid, _ in aurora.pod_identities().values()}
        return len(found) == len(gone) and not found & gone

    aurora.wait("all pods are made again", all_new, seconds=120)
    aurora.wait("all are in sync", lambda: all(in_sync(node) for node in aurora.nodes().values()), seconds=240)
    aurora.wait_ready()
    with aurora.gateway() as url:
        # The gateway keeps nothing of its own: it has to fetch the chain again.
        aurora.wait("the gateway has the head", lambda: asyncio.run(height_at(url)) >= before.height, seconds=120)
        after = asyncio.run(verify(url))
        assert (after.height, after.state_root) == (before.height, before.state_root)
        assert_each_once(url, promised)
        asyncio.run(act(url))


async def height_at(url: str) -> int:
    """Returns the height of the head that a gateway serves."""
    async with GatewayClient(url, patience=60) as client:
        head = await client.head()
    return 0 if head is None else head.height


def in_sync(node: Body) -> bool:
    """True when a node answers and says that it is level with its peers."""
    return node.get("sync", {}).get("state") == "in_sync"


@pytest.mark.box("S27.1", "add")
def test_scaling_adds_a_validator_that_syncs_first_and_votes_later(aurora: RunningWorld) -> None:
    namespace = aurora.namespace
    epoch = aurora.status["directory"]["epoch"]
    namespace.kubectl("scale", "aw/aurora", "--replicas=5")
    aurora.wait(
        "a fifth validator votes", lambda: aurora.node("aurora-4").get("signing", {}).get("voting"), seconds=240
    )
    assert aurora.node("aurora-4")["sync"]["lag"] == 0
    aurora.wait("the epoch moved on", lambda: aurora.status["directory"]["epoch"] > epoch, seconds=60)
    aurora.wait("5/5", lambda: aurora.status["validators"].get("summary") == "5/5", seconds=60)
    namespace.kubectl("scale", "aw/aurora", "--replicas=4")
    aurora.wait("the fifth is gone", lambda: "aurora-4" not in aurora.validators(), seconds=240)
    aurora.wait_ready()
    with aurora.gateway() as url:
        asyncio.run(act(url))
        asyncio.run(verify(url))
    assert {"ValidatorJoined", "ValidatorLeft"} <= set(namespace.reasons())


def test_a_deleted_world_leaves_nothing_but_its_volumes(namespace: Namespace) -> None:
    namespace.apply(world("brief", validators={"replicas": 1}))
    brief = RunningWorld(namespace, "brief")
    brief.wait_ready()
    with brief.gateway() as url:
        asyncio.run(act(url))
    namespace.kubectl("delete", "aw", "brief", "--timeout=120s")
    kinds = (
        "aw,awv,awk,pods,services,deployments,configmaps,secrets,leases,roles,rolebindings,serviceaccounts,pdb,netpol"
    )

    def left() -> list[str]:
        given = {"kube-root-ca.crt", "default"}
        found = namespace.find(kinds)
        return [f"{item['kind']}/{item['metadata']['name']}" for item in found if item["metadata"]["name"] not in given]

    wait_until("everything is gone", lambda: not left(), seconds=120, explain=lambda: f"left: {left()}")
    volumes = [item["metadata"]["name"] for item in namespace.find("pvc")]
    assert volumes, "the volumes must stay: deletionPolicy is Retain"


def test_volumes_go_with_the_world_when_it_says_so(namespace: Namespace) -> None:
    namespace.apply(world("gone", validators={"replicas": 1}, deletionPolicy="Delete"))
    RunningWorld(namespace, "gone").wait_ready()
    namespace.kubectl("delete", "aw", "gone", "--timeout=120s")
    wait_until("volumes are gone", lambda: not namespace.find("pvc"), seconds=120, explain=namespace.explain)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"validators": {"replicas": -1}}, "replicas"),
        ({"sequencer": {"leaseDuration": "5s", "renewDeadline": "10s"}}, "renewDeadline"),
        ({"validators": {"replicas": 1}, "revocation": {"delivery": {"sinks": [{"pager": {}}]}}}, "sink"),
    ],
)
def test_an_invalid_world_is_refused_with_the_field(cluster: Cluster, spec: dict[str, object], says: str) -> None:
    with pytest.raises(Refused, match=says):
        cluster.kubectl("apply", "--dry-run=server", "-f", "-", given=world("wrong", **spec))


def test_what_cannot_start_says_why_and_does_not_harm(aurora: RunningWorld) -> None:
    namespace = aurora.namespace
    with pytest.raises(Refused, match="cannot be changed"):
        namespace.patch("aw", "aurora", {"worldId": "borealis"})
    namespace.apply(world("empty", validators={"replicas": 0}))
    wait_until(
        "a condition that says what to do",
        lambda: "replicas" in namespace.condition("aw", "empty", "Ready").get("message", ""),
        seconds=60,
        explain=namespace.explain,
    )
    assert namespace.condition("aw", "empty", "Ready")["reason"] == "InvalidSpec"
    namespace.apply(world("imageless", validators={"replicas": 1}, image={"repository": "localhost/none", "tag": "no"}))
    wait_until(
        "ImagePullFailed",
        lambda: namespace.condition("aw", "imageless", "Degraded").get("reason") == "ImagePullFailed",
        seconds=120,
        explain=namespace.explain,
    )
    for name in ("empty", "imageless"):
        namespace.kubectl("delete", "aw", name, "--timeout=60s")
    assert namespace.is_true("aw", "aurora", "Ready")


def test_a_foreign_object_under_our_name_is_left_alone(namespace: Namespace) -> None:
    foreign = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "taken-sequencer"},
        "spec": {"holderIdentity": "somebody"},
    }
    namespace.apply(foreign, world("taken", validators={"replicas": 1}))
    wait_until("an event", lambda: "ForeignObject" in namespace.reasons(), seconds=60, explain=namespace.explain)
    assert namespace.get("lease", "taken-sequencer")["spec"]["holderIdentity"] == "somebody"
    assert not namespace.is_true("aw", "taken", "Ready")
