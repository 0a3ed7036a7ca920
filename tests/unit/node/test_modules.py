"""A node of a world with modules: it executes, restarts and verifies with a sandbox, and stops where that fails."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from agentworld_client.gateway import GatewayClient
from agentworld_client.submit import Agent
from agentworld_client.verifier import BundleStore, Verifier
from agentworld_core.codec import encode
from agentworld_core.hashing import content_id
from agentworld_core.messages import Blocks, Round
from agentworld_core.world.modules import execution
from agentworld_core.world.modules.artifacts import read_artifact, split_artifact
from agentworld_core.world.modules.errors import SandboxMissing
from agentworld_core.world.modules.loading import warm_up
from agentworld_core.world.modules.records import ModuleStateRecord, module_state_key, read_manifest
from agentworld_core.world.modules.sandbox import SandboxFault
from agentworld_core.world.state import read, read_meta
from agentworld_node.ledger import Ledger
from tests.unit.client.scripted import scripted
from tests.unit.core.ledger.chains import Chain, make_head
from tests.unit.core.ledger.module_chain import CODE, a_sandbox, module_chain
from tests.unit.core.world.agents import action
from tests.unit.core.world.modules.governed import FakeSandbox, Program, manifest
from tests.unit.node.material import WORLD, Material, agent, signer
from tests.unit.node.rig import rig
from tests.unit.node.running import MemoryWorld, RunningNode, eventually, memory_world
from tests.unit.node.test_executor import executor, proposed
from tests.unit.node.test_sync import Server
from tests.unit.node.test_sync import start as follow


@pytest.fixture(scope="module")
def chain() -> Chain:
    return module_chain()


def faulty(_given: dict[str, Any]) -> Any:
    raise SandboxFault("the watchdog bit")


def a_faulty_sandbox() -> FakeSandbox:
    sandbox = FakeSandbox()
    sandbox.add(CODE, faulty)
    return sandbox


@pytest.mark.box("S8.2", "state-kept")
async def test_a_restart_executes_the_log_again_with_the_code_of_the_state(tmp_path: Path, chain: Chain) -> None:
    ledger = Ledger.open(tmp_path, chain.genesis, sandbox=a_sandbox())
    for bundle in chain.bundles:
        assert await ledger.apply(bundle)
    await ledger.settle()
    ledger.close()
    with pytest.raises(SandboxMissing):
        Ledger.open(tmp_path, chain.genesis)
    with pytest.raises(SandboxFault):
        Ledger.open(tmp_path, chain.genesis, sandbox=a_faulty_sandbox())
    again = Ledger.open(tmp_path, chain.genesis, sandbox=a_sandbox())
    assert again.chain.state_root == chain.state.state_root
    again.close()


@pytest.mark.box("S17.2", "start")
async def test_s17_a_start_that_executes_nothing_has_the_active_modules_at_hand(tmp_path: Path, chain: Chain) -> None:
    grown = Chain(chain.genesis, sandbox=a_sandbox())
    for bundle in chain.bundles:
        grown.commit(*bundle.batch.actions)
    grown.commit()
    assert grown.bundles[-1].block.snapshot_ref is not None
    ledger = Ledger.open(tmp_path, grown.genesis, sandbox=a_sandbox())
    for bundle in grown.bundles:
        await ledger.apply(bundle)
    await ledger.settle()
    ledger.close()
    sandbox = a_sandbox()
    again = Ledger.open(tmp_path, grown.genesis, sandbox=sandbox)
    assert (sandbox.loaded, sandbox.calls) == ({content_id(CODE)}, [])
    assert warm_up(again.chain.tree, sandbox) == 1
    again.close()


@pytest.mark.box("S19.1", "same")
@pytest.mark.box("S16.2", "equal", "once")
async def test_s16_s19_a_node_that_had_nothing_has_the_state_the_code_and_the_journal_of_the_others(
    tmp_path: Path, chain: Chain
) -> None:
    newcomer = a_sandbox()
    empty = Chain(chain.genesis, sandbox=newcomer)
    async with rig(tmp_path, empty) as it:
        server = Server(await it.peer("peer-a"), chain.bundles)
        follow(it)
        await server.announce()
        await eventually(lambda: it.ledger.height == 5)
        own, others = it.ledger.chain.tree, chain.state.tree
        assert read_meta(own).next_event == read_meta(others).next_event
        assert read_manifest(own) == read_manifest(others)
        assert read_artifact(own, content_id(CODE)) == CODE
        assert own.root == others.root
    # What it has got it needs from nobody again.
    alone = a_sandbox()
    ledger = Ledger.open(tmp_path, chain.genesis, sandbox=alone)
    assert ledger.chain.state_root == others.root
    assert alone.loaded == {content_id(CODE)}
    ledger.close()


async def test_a_fault_while_a_committed_block_is_executed_ends_the_ledger(tmp_path: Path, chain: Chain) -> None:
    ledger = Ledger.open(tmp_path, chain.genesis, sandbox=a_faulty_sandbox())
    for bundle in chain.bundles[:3]:
        assert await ledger.apply(bundle)
    with pytest.raises(SandboxFault):
        await ledger.apply(chain.bundles[3])
    assert (await ledger.broken()).code == "sandbox_fault"
    assert ledger.height == 3
    ledger.close()


async def test_a_block_of_modules_is_built_and_judged(tmp_path: Path, chain: Chain) -> None:
    async with rig(tmp_path / "me", chain) as it, rig(tmp_path / "other", chain) as other:
        for one in (it, other):
            await one.apply(*chain.bundles)
        mine, theirs = executor(it, tmp_path / "me"), executor(other, tmp_path / "other")
        it.mempool.add(action("ada", "agent.move", {"to": [9, 9]}, 3))
        candidate, _ = await mine.build(6, Round(0, 0))
        assert candidate is not None
        assert await theirs.judge(proposed(it, *candidate)) == (True, "")


async def test_a_fault_gives_neither_block_nor_verdict_and_ends_the_node(tmp_path: Path, chain: Chain) -> None:
    async with rig(tmp_path / "me", chain) as it, rig(tmp_path / "other", chain) as other:
        for one in (it, other):
            await one.apply(*chain.bundles)
        mine, theirs = executor(it, tmp_path / "me"), executor(other, tmp_path / "other")
        it.mempool.add(action("ada", "agent.move", {"to": [9, 9]}, 3))
        candidate, _ = await mine.build(6, Round(0, 0))
        assert candidate is not None
        sandbox = chain.state.sandbox
        assert isinstance(sandbox, FakeSandbox)
        programs = sandbox.programs
        sandbox.programs = dict.fromkeys(programs, faulty)
        try:
            assert await theirs.judge(proposed(it, *candidate)) is None
            assert isinstance(other.ledger.failure, SandboxFault)
            assert await mine.build(6, Round(0, 1)) == (None, "")
            assert isinstance(it.ledger.failure, SandboxFault)
        finally:
            sandbox.programs = programs


async def test_a_proposer_leaves_to_the_next_block_what_modules_cannot_do_in_this_one(
    tmp_path: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rig(tmp_path, chain) as it:
        await it.apply(*chain.bundles)
        maker = executor(it, tmp_path)
        for nonce in range(3, 11):
            it.mempool.add(action("ada", "agent.move", {"to": [nonce, 0]}, nonce))
        monkeypatch.setattr(execution, "STEP_CALLS", 3)
        candidate, _ = await maker.build(6, Round(0, 0))
        assert candidate is not None
        assert len(candidate[1].actions) == 2


@pytest.mark.box("S7.3", "modules")
async def test_a_verifier_replays_modules_and_blames_nobody_when_it_cannot(tmp_path: Path, chain: Chain) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        documents = {"/v1/genesis": chain.genesis, "/v1/head": make_head(chain.bundles[-1])}
        if request.path in documents:
            return web.Response(body=encode(documents[request.path]))
        return web.Response(body=encode(Blocks(tuple(chain.bundles[int(request.query["from"]) - 1 :]))))

    async with scripted(answer) as gateway, GatewayClient(gateway.url, patience=0) as client:
        genesis = await client.genesis()
        verifier = Verifier(genesis, replay=True, store=BundleStore(tmp_path / "one"), sandbox=a_sandbox())
        report = await verifier.verify(client)
        assert (report.height, report.state_root) == (5, chain.state.state_root)
        with pytest.raises(SandboxMissing):
            await Verifier(genesis, replay=True, store=BundleStore(tmp_path / "two")).verify(client)


def adding(step: int) -> Program:
    """A reducer that adds to its state."""
    return lambda given: {"new_state": str(int(given["state"] or b"0") + step).encode()}


class Governors:
    """Two agents of the one governance key, and the actions by which they bring in modules."""

    def __init__(self, world: MemoryWorld):
        self.world = world
        self.one, self.two = (
            Agent(signer("gov"), world_id=WORLD, actor_id=name) for name in ("governor-one", "governor-two")
        )
        self.proposals = 0

    async def decide(self, changes: dict[str, Any]) -> None:
        self.proposals += 1
        number = {"proposal": self.proposals}
        base = read_manifest(self.world.nodes["v0"].node.ledger.chain.tree).hash
        steps: list[tuple[Agent, str, dict[str, Any]]] = [
            (self.one, "create", {"base": base, "changes": changes}),
            (self.one, "shadow", number),
            (self.two, "approve", number),
            (self.one, "apply", number),
        ]
        for actor, kind, payload in steps:
            (receipt,) = await self.world.commit("v0", [actor.act(f"proposal.{kind}", payload)])
            assert receipt["ok"], receipt
        await self.world.height(self.world.nodes["v0"].height)


def counted(running: RunningNode) -> bytes:
    record = read(running.node.ledger.chain.tree, module_state_key("market"), ModuleStateRecord)
    return b"" if record is None else record.state


@pytest.mark.box("S18.2", "active")
@pytest.mark.box("S16.2", "joining")
async def test_a_running_world_gets_a_module_and_an_upgrade_of_it_while_actions_flow(tmp_path: Path) -> None:
    """Nodes agree throughout, one that restarts comes back to the same state, and one that cannot run modules ends."""
    codes = {b"market one": 1, b"market two": 10}
    sandboxes: dict[str, FakeSandbox] = {}

    def sandbox(name: str) -> FakeSandbox:
        made = sandboxes[name] = FakeSandbox()
        for code, step in codes.items():
            made.add(code, adding(step))
        return made

    def market(code: bytes, version: str) -> dict[str, Any]:
        subscriptions = [{"action_kinds": ["trade.*"]}]
        return manifest("market", content_id(code), version=version, kind="reducer", subscriptions=subscriptions)

    async with memory_world(Material(tmp_path), start=False) as world:
        world.sandbox_of = sandbox
        await world.start()
        governors, trader = Governors(world), agent("trader")
        entries = [one.act("agent.register", {"position": [0, 0]}) for one in (governors.one, governors.two, trader)]
        await world.commit("v0", entries)
        puts = [governors.one.act("artifact.put", piece) for code in codes for piece in split_artifact(code)]
        assert all(receipt["ok"] for receipt in await world.commit("v1", puts))
        active = {"activate": [{"module_id": "market", "version": "1"}]}
        await governors.decide({"register": [market(b"market one", "1")], **active})
        receipts = await world.commit("v2", [trader.act("trade.offer", {"n": n}) for n in range(3)])
        assert [receipt["ok"] for receipt in receipts] == [True] * 3

        flowing = asyncio.create_task(world.commit("v1", [trader.act("trade.offer", {"n": n}) for n in range(40)]))
        upgrade = {
            "module_id": "market",
            "from_version": "1",
            "to_version": "2",
            "wasm_hash": content_id(b"market two"),
            "manifest": market(b"market two", "2"),
        }
        await governors.decide({"upgrade": [upgrade], "activate": [{"module_id": "market", "version": "2"}]})
        assert all(receipt["ok"] for receipt in await flowing)
        before = int(counted(world.nodes["v0"]))
        assert before >= 43
        await world.commit("v3", [trader.act("trade.offer", {})])
        await world.height(world.nodes["v3"].height)
        assert {counted(running) for running in world.nodes.values()} == {str(before + 10).encode()}

        await world.nodes["v1"].stop()
        await world.start("v1")
        assert counted(world.nodes["v1"]) == str(before + 10).encode()
        sandboxes["v3"].programs = dict.fromkeys(sandboxes["v3"].programs, faulty)
        await world.commit("v0", [trader.act("trade.offer", {})])
        await eventually(world.nodes["v3"].task.done)
        assert isinstance(world.nodes["v3"].task.exception(), SandboxFault)
        await world.height(world.nodes["v0"].height, "v0", "v1", "v2")
