"""A node of a world with modules: it executes, restarts and verifies with a sandbox, and stops where that fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from agentworld_client.gateway import GatewayClient
from agentworld_client.verifier import BundleStore, Verifier
from agentworld_core.codec import encode
from agentworld_core.messages import Blocks, Round
from agentworld_core.world.modules import execution
from agentworld_core.world.modules.errors import SandboxMissing
from agentworld_core.world.modules.sandbox import SandboxFault
from agentworld_node.ledger import Ledger
from tests.unit.client.scripted import scripted
from tests.unit.core.ledger.chains import Chain, make_head
from tests.unit.core.ledger.module_chain import a_sandbox, module_chain
from tests.unit.core.world.agents import action
from tests.unit.core.world.modules.governed import FakeSandbox
from tests.unit.node.rig import rig
from tests.unit.node.test_executor import executor, proposed


@pytest.fixture(scope="module")
def chain() -> Chain:
    return module_chain()


def faulty(_given: dict[str, Any]) -> Any:
    raise SandboxFault("the watchdog bit")


def a_faulty_sandbox() -> FakeSandbox:
    sandbox = a_sandbox()
    sandbox.programs = dict.fromkeys(sandbox.programs, faulty)
    return sandbox


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
