"""The planned hand-over of the writer lease between whole nodes, asked for at any of them, and all its refusals."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from agentworld_client.errors import GatewayError
from agentworld_client.keys import save
from agentworld_core.names import topic
from agentworld_core.ordering.transfer import WriterTransfer
from agentworld_core.signing import add_signature
from agentworld_core.topology.node_config import LeaseConfig
from agentworld_node.cli import writer as writer_commands
from agentworld_node.cli.app import FAILED, app
from agentworld_node.roles import handover
from agentworld_node.roles.handover import PREPARE_WRITER
from tests.unit.node.material import VALIDATORS, Material, now_ms, registrations, signer
from tests.unit.node.running import MemoryWorld, eventually, memory_world

assert writer_commands.writer_app is not None, "importing it registers its commands"

PATIENT_LEASE = LeaseConfig(duration_ms=120_000, renew_deadline_ms=90_000, retry_period_ms=20_000)
"""A lease that no test waits out, not even for a look at it: whoever writes next must have been told."""


def wish(target: str, term: int, *, by: str = "gov") -> WriterTransfer:
    plain = WriterTransfer(
        world_id="aurora", target_id=target, term=term, expires_at_ms=now_ms() + 30_000, signatures=()
    )
    return add_signature(plain, signer(by))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[MemoryWorld]:
    """Four validators with a lease, and a gateway that does not see it, as on Kubernetes."""
    async with memory_world(Material(tmp_path, others=("g0",), lease=PATIENT_LEASE), start=False) as made:
        await made.start("g0", lease=LeaseConfig())
        await made.start(*VALIDATORS)
        await eventually(lambda: all(made.nodes[name].node.not_ready() is None for name in VALIDATORS))
        for name in VALIDATORS:
            await look_now(made, name)
        yield made


async def look_now(world: MemoryWorld, name: str) -> None:
    lease = world.nodes[name].node.lease
    assert lease is not None
    lease.poke()
    await eventually(world.writer, what="a writer")
    await eventually(lambda: lease.view == (1, world.writer()), what="a look at the lease")


async def ask(world: MemoryWorld, name: str, given: WriterTransfer) -> dict[str, Any]:
    async with world.nodes[name].client(patience=0) as client:
        return await client.transfer_writer(given)


async def refusal(world: MemoryWorld, name: str, given: WriterTransfer) -> str:
    before = world.writer()
    with pytest.raises(GatewayError) as refused:
        await ask(world, name, given)
    assert world.writer() == before, "a refused wish changes nothing"
    return str(refused.value)


async def all_see(world: MemoryWorld, writer: str, term: int) -> None:
    """Waits until every validator has looked at the lease again, as it was told to."""
    nodes = [world.nodes[name].node for name in VALIDATORS]
    await eventually(lambda: all(node.writer() == (writer, term) for node in nodes), what=f"all see {writer}")


def others(world: MemoryWorld) -> list[str]:
    return [name for name in VALIDATORS if name != world.writer()]


@pytest.mark.box("S5.3", "hand-over")
async def test_any_node_takes_the_wish_and_the_world_goes_on_at_once(world: MemoryWorld) -> None:
    agents, actions = registrations(6)
    await world.commit("v0", actions)
    term = 1
    for asked in ("g0", "writer", "target", "other"):
        target, other, *_ = others(world)
        names = {"g0": "g0", "writer": world.writer() or "", "target": target, "other": other}
        async with world.nodes[names[asked]].client() as client:
            assert await client.writer() == {"holder_id": world.writer(), "term": term}
        done = await ask(world, names[asked], wish(target, term))
        term += 1
        assert done == {"holder_id": target, "term": term}
        assert world.writer() == target
        receipts = await world.commit("g0", [agents[term].act("agent.move", {"to": [term, 0]})])
        assert receipts[0]["ok"], receipts
        bundle = world.nodes["g0"].node.ledger.bundle(world.nodes["g0"].height)
        assert bundle is not None
        assert (bundle.block.proposer_id, bundle.block.term) == (target, term)
        await all_see(world, target, term)
        assert (await ask(world, "g0", wish(target, term - 1)))["term"] == term, "asking again changes nothing"
        assert "by now" in await refusal(world, "g0", wish(others(world)[0], term - 1)), "and the wish is spent"


@pytest.mark.box("S27.3", "not-auto-added")
async def test_what_may_not_be_is_refused_with_a_reason(world: MemoryWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "CATCH_UP_SECONDS", 0.0)
    writer = world.writer() or ""
    target, away, slow = others(world)
    assert "not a validator" in await refusal(world, "g0", wish("g0", 1))
    assert "not a governance key" in await refusal(world, "g0", wish(target, 1, by=target))
    forged = dataclasses.replace(wish(target, 1), target_id=slow)
    assert "does not verify" in await refusal(world, writer, forged)
    stopped = world.nodes[away]
    await stopped.stop()
    await eventually(lambda: stopped.network.peer_id not in world.nodes[writer].network.connected())
    assert "not in touch" in await refusal(world, writer, wish(away, 1))
    world.nodes[slow].node.ledger.full = True
    assert "full" in await refusal(world, writer, wish(slow, 1))
    world.nodes[slow].node.ledger.full = False
    ledger = world.nodes[writer].node.ledger
    ledger.chain = dataclasses.replace(ledger.chain, height=7)
    assert "7 blocks behind" in await refusal(world, writer, wish(slow, 1))


async def test_a_target_that_is_a_few_blocks_behind_is_waited_for(world: MemoryWorld) -> None:
    writer, slow = world.writer() or "", others(world)[0]
    ledger = world.nodes[writer].node.ledger
    at_first, heights = ledger.chain, []
    role = world.nodes[slow].node.handover

    async def catches_up(peer_id: str, payload: bytes) -> bytes:
        heights.append(ledger.chain.height)
        if len(heights) == 3:
            ledger.chain = at_first
        return await role._serve_prepare(peer_id, payload)

    world.nodes[slow].network.serve(PREPARE_WRITER, catches_up)
    ledger.chain = dataclasses.replace(at_first, height=at_first.height + 7)
    assert await ask(world, writer, wish(slow, 1)) == {"holder_id": slow, "term": 2}
    assert len(heights) == 3


async def test_a_clean_stop_tells_the_others_that_the_lease_is_free(world: MemoryWorld) -> None:
    agents, actions = registrations(1)
    await world.commit("v0", actions)
    writer = world.writer() or ""
    await world.nodes[writer].stop()
    await eventually(lambda: world.writer() not in (None, writer), what="another writer, long before they look again")
    await world.commit("g0", [agents[0].act("agent.move", {"to": [1, 1]})])


async def test_a_writer_that_is_stopped_lets_its_block_be_decided_before_the_lease_is_free(
    world: MemoryWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "FINISH_SECONDS", 30.0)
    agents, actions = registrations(1)
    await world.commit("v0", actions)
    writer = world.writer() or ""
    rest, stopped = others(world), world.nodes[writer].node
    height = stopped.ledger.height + 1

    def has_proposed() -> bool:
        view = stopped.engine.view()
        return view is not None and view.proposal is not None

    votes, gate = topic("aurora", "consensus.vote"), asyncio.Event()

    def late(publish: Callable[[str, bytes], Awaitable[None]]) -> Callable[[str, bytes], Awaitable[None]]:
        async def once_the_gate_is_open(name: str, data: bytes) -> None:
            if name == votes:
                await gate.wait()
            await publish(name, data)

        return once_the_gate_is_open

    for name in rest:
        monkeypatch.setattr(world.nodes[name].network, "publish", late(world.nodes[name].network.publish))
    committing = asyncio.create_task(world.commit(rest[0], [agents[0].act("agent.move", {"to": [1, 1]})]))
    await eventually(has_proposed, what="a proposal")
    stopping = asyncio.create_task(world.nodes[writer].stop())
    done, _ = await asyncio.wait([stopping], timeout=1.0)
    assert not done, "its block is not decided"
    gate.set()
    await stopping
    await committing
    bundle = world.nodes[rest[0]].node.ledger.bundle(height)
    assert bundle is not None
    assert (bundle.block.proposer_id, bundle.block.term) == (writer, 1)
    await eventually(lambda: world.writer() not in (None, writer), what="another writer")


async def test_on_the_command_line(world: MemoryWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv("AGENTWORLD_DATA", raising=False)
    key, wrong = tmp_path / "gov.pem", tmp_path / "wrong.pem"
    save(signer("gov"), key)
    save(signer("v1"), wrong)
    url = world.nodes["g0"].url

    async def invoke(*words: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, app, ["writer", "transfer", "--gateway", url, *words])

    before, target = world.writer(), others(world)[0]
    assert (await invoke("--to", target)).exit_code == FAILED, "no key"
    assert (await invoke("--to", target, "--key", str(wrong))).exit_code == FAILED
    assert (await invoke("--to", "g0", "--key", str(key))).exit_code == FAILED
    done = await invoke("--to", target, "--key", str(key), "--output", "json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert (found["from"], found["holder_id"], found["term"]) == (before, target, 2)
    again = await invoke("--to", target, "--key", str(key))
    assert f"{target} writes, term 2, as before" in again.output
