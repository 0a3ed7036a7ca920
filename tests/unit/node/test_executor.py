"""Making and judging blocks on immutable chain states, whatever happens beside it."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentworld_core.codec import encode
from agentworld_core.consensus.drafts import draft_proposal
from agentworld_core.hashing import content_id
from agentworld_core.ledger.validate import check_block
from agentworld_core.membership.builder import Changes, next_directory
from agentworld_core.messages import BlockBundle, ProposalBody, Round
from agentworld_core.signing import sign
from agentworld_node.keys import KeyFolder
from agentworld_node.roles import executor as executor_module
from agentworld_node.roles.executor import PROPOSAL_BYTES, Executor
from agentworld_node.roles.keyring import NodeKeyring
from tests.unit.core.ledger.chains import PARAMETERS, Chain, make_certificate, make_genesis
from tests.unit.core.membership.worlds import signed, signer, statement, successor
from tests.unit.core.world.agents import action, register
from tests.unit.node.rig import Rig, rig
from tests.unit.node.running import PATIENCE, eventually


def keys_of(folder: Path, *names: str, active: str) -> KeyFolder:
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names, 1):
        (folder / f"g{number}.pem").write_bytes(signer(name).pem())
    (folder / "active").write_text(signer(active).key_id)
    return KeyFolder(folder)


def keyring(it: Rig, folder: Path, *, name: str = "a") -> NodeKeyring:
    return NodeKeyring(
        node_id=name,
        folder=keys_of(folder, name, active=name),
        revocations=it.ledger.revocations,
        directory_at=it.ledger.directory_at,
    )


def executor(it: Rig, folder: Path, *, verified: Callable[[str], bool] = lambda _: False) -> Executor:
    return Executor(ledger=it.ledger, mempool=it.mempool, keyring=keyring(it, folder / "keys"), is_verified=verified)


def proposed(it: Rig, block: Any, batch: Any) -> ProposalBody:
    body = draft_proposal(
        it.chain.genesis.directory,
        (block, batch),
        block_hash=content_id(encode(block)),
        round_=Round(block.term, block.attempt),
        since=None,
        proposer_id=block.proposer_id,
    )
    return dataclasses.replace(body, proposal=sign(body.proposal, signer(block.proposer_id)))


class TestBuilding:
    @pytest.mark.box("S3.2", "signed")
    async def test_waiting_actions_become_a_signed_block_that_others_accept(self, tmp_path: Path) -> None:
        async with rig(tmp_path / "me") as it, rig(tmp_path / "other", it.chain) as other:
            mine, theirs = executor(it, tmp_path / "me"), executor(other, tmp_path / "other")
            it.mempool.add(register("ada"))
            candidate, block_hash = await mine.build(1, Round(3, 1))
            assert candidate is not None
            block, batch = candidate
            assert (block.term, block.attempt, batch.actions) == (3, 1, (register("ada"),))
            body = proposed(it, block, batch)
            assert body.proposal.block_hash == block_hash
            assert await theirs.judge(body) == (True, "")
            bundle = BlockBundle(block, batch, make_certificate(block))
            for one, ledger in ((mine, it.ledger), (theirs, other.ledger)):
                execution = await one.execution_of(bundle.block)
                assert execution is not None
                assert await ledger.apply(bundle, execution=execution)
            assert it.ledger.chain.state_root == other.ledger.chain.state_root

    @pytest.mark.box("S27.4", "expired")
    @pytest.mark.box("S27.3", "no-key-no-lease")
    @pytest.mark.box("S27.2", "lease-to-propose")
    @pytest.mark.box("S5.3", "frozen-holder")
    @pytest.mark.box("S5.2", "empty")
    async def test_nothing_is_built_without_work_key_lease_or_for_another_height(self, tmp_path: Path) -> None:
        async with rig(tmp_path) as it:
            maker = executor(it, tmp_path)
            nothing = (None, "")
            assert await maker.build(1, Round(1, 0)) == nothing
            it.mempool.add(register("ada"))
            assert await maker.build(2, Round(1, 0)) == nothing
            maker.may_write = lambda: False
            assert await maker.build(1, Round(1, 0)) == nothing
            maker.may_write = lambda: True
            it.ledger.revocations.add(statement(signer("a").key_id, "gov"))
            assert await maker.build(1, Round(1, 0)) == nothing

    async def test_a_chain_that_moves_on_meanwhile_does_no_harm(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with rig(tmp_path) as it:
            maker = executor(it, tmp_path)
            it.mempool.add(register("ada"))
            building = asyncio.create_task(maker.build(1, Round(0, 0)))
            await asyncio.sleep(0)
            it.chain.commit(register("bob"))
            await it.apply(*it.chain.bundles)
            candidate, _ = await building
            assert candidate is not None
            assert candidate[0].height == 1
            assert await maker.judge(proposed(it, *candidate)) is None

    @pytest.mark.box("S27.1", "open-proposals")
    async def test_a_directory_that_cannot_be_carried_is_left_out(self, tmp_path: Path) -> None:
        async with rig(tmp_path) as it:
            maker = executor(it, tmp_path)
            first = it.chain.genesis.directory
            expired = signed(next_directory(first, Changes(), now_ms=1000, expires_at_ms=1001), "gov")
            maker.proposed_directory = lambda: expired
            candidate, _ = await maker.build(1, Round(0, 0))
            assert candidate is not None
            assert (candidate[1].directory, candidate[0].directory_change) == (None, None)
            maker.proposed_directory = lambda: successor(first, Changes())
            candidate, _ = await maker.build(1, Round(0, 0))
            assert candidate is not None
            assert candidate[0].directory_change is not None

    @pytest.mark.box("S5.2", "in-one-message")
    async def test_a_block_fits_into_one_message_whatever_the_world_allows(self, tmp_path: Path) -> None:
        roomy = dataclasses.replace(PARAMETERS, max_batch_bytes=8 * 2**20, max_batch_actions=512)
        chain = Chain(make_genesis(parameters=roomy))
        async with rig(tmp_path, chain) as it:
            it.mempool.batch_limits = dataclasses.replace(it.mempool.batch_limits, max_bytes=8 * 2**20, max_actions=512)
            maker = executor(it, tmp_path)
            for number in range(160):
                name = f"a{number}"
                data = {"object_id": f"o{number}", "data": "x" * 15_000}
                it.mempool.add(action(name, "object.create", data, 1))
            candidate, _ = await maker.build(1, Round(0, 0))
            assert candidate is not None
            assert 0 < len(candidate[1].actions) < 160
            assert len(encode(proposed(it, *candidate))) <= PROPOSAL_BYTES + 1024


class TestJudging:
    @pytest.mark.box("S25.1", "executed-first")
    async def test_a_wrong_block_is_refused_with_the_reason(self, tmp_path: Path) -> None:
        async with rig(tmp_path) as it:
            judge = executor(it, tmp_path)
            wrong = it.chain.propose_with(lambda block: dataclasses.replace(block, state_root="e" * 64))
            verdict = await judge.judge(proposed(it, wrong.block, wrong.batch))
            assert verdict is not None
            assert verdict[0] is False
            assert "state_root" in verdict[1]

    @pytest.mark.box("S5.3", "clock-off")
    async def test_a_block_from_the_future_has_to_wait_and_few_may(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(executor_module, "CLOCK_RETRY_SECONDS", 0.01)
        async with rig(tmp_path) as it:
            judge = executor(it, tmp_path)
            now = 0
            monkeypatch.setattr(executor_module, "_now_ms", lambda: now)
            ahead = it.chain.propose_with(lambda block: dataclasses.replace(block, timestamp_ms=10**7))
            body = proposed(it, ahead.block, ahead.batch)
            waiting = [asyncio.create_task(judge.judge(body)) for _ in range(20)]
            await eventually(lambda: sum(task.done() for task in waiting) == 20 - executor_module.EARLY_BLOCKS)
            assert all(task.result() is None for task in waiting if task.done())
            now = 10**7
            verdicts = await asyncio.gather(*waiting)
            assert sum(verdict is not None for verdict in verdicts) == executor_module.EARLY_BLOCKS

    async def test_when_its_height_is_over_it_gets_no_verdict(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(executor_module, "CLOCK_RETRY_SECONDS", 0.01)
        async with rig(tmp_path) as it:
            judge = executor(it, tmp_path)
            monkeypatch.setattr(executor_module, "_now_ms", lambda: 0)
            ahead = it.chain.propose_with(lambda block: dataclasses.replace(block, timestamp_ms=10**7))
            waiting = asyncio.create_task(judge.judge(proposed(it, ahead.block, ahead.batch)))
            await eventually(lambda: judge._early == 1)
            it.chain.commit(register("ada"))
            await it.apply(*it.chain.bundles)
            assert await waiting is None
            assert judge._early == 0

    async def test_executions_are_kept_only_for_the_latest_blocks(self, tmp_path: Path) -> None:
        async with rig(tmp_path) as it:
            judge = executor(it, tmp_path)
            for number in range(10):
                bundle = it.chain.propose(register(f"a{number}"))
                assert await judge.judge(proposed(it, bundle.block, bundle.batch)) == (True, "")
            assert len(judge._executions) == executor_module.EXECUTIONS_KEPT


class TestKeyring:
    async def test_the_active_key_signs_if_it_counts_else_the_newest_that_does(self, tmp_path: Path) -> None:
        async with rig(tmp_path) as it:
            folder = tmp_path / "keys"
            ring = NodeKeyring(
                node_id="a",
                folder=keys_of(folder, "a", "a-next", active="a-next"),
                revocations=it.ledger.revocations,
                directory_at=it.ledger.directory_at,
            )
            chosen = ring.signer_at(1)
            assert chosen is not None
            assert chosen.key_id == signer("a").key_id, "the directory does not know the active key yet"
            it.ledger.revocations.add(statement(signer("a").key_id, "gov"))
            assert ring.signer_at(1) is None
            assert ring.revoked_key_ids() == {signer("a").key_id}

    @pytest.mark.box("S27.3", "no-key-no-lease")
    async def test_who_is_no_member_has_no_signer(self, tmp_path: Path) -> None:
        async with rig(tmp_path) as it:
            assert keyring(it, tmp_path / "keys", name="stranger").signer_at(1) is None


async def test_a_block_that_is_decided_while_it_is_judged_is_executed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rig(tmp_path / "me") as it, rig(tmp_path / "other", it.chain) as other:
        mine, theirs = executor(it, tmp_path / "me"), executor(other, tmp_path / "other")
        verified: list[str] = []
        theirs.on_verified = lambda actions: verified.extend(action.action_id for action in actions)
        it.mempool.add(register("ada"))
        candidate, _ = await mine.build(1, Round(3, 1))
        assert candidate is not None
        body = proposed(it, *candidate)
        begun, go_on = threading.Event(), threading.Event()
        executions: list[int] = []

        def slow(*given: Any, **options: Any) -> Any:
            executions.append(1)
            begun.set()
            assert go_on.wait(PATIENCE)
            return check_block(*given, **options)

        monkeypatch.setattr(executor_module, "check_block", slow)
        judging = asyncio.create_task(theirs.judge(body))
        await eventually(begun.is_set)
        wanted = asyncio.create_task(theirs.execution_of(body.block))
        go_on.set()
        execution = await wanted
        assert execution is not None
        assert await judging == (True, "")
        assert await theirs.execution_of(body.block) is execution
        assert executions == [1]
        assert verified == [register("ada").action_id]


async def test_a_block_that_fails_its_judgement_has_no_execution(tmp_path: Path) -> None:
    async with rig(tmp_path / "me") as it:
        mine = executor(it, tmp_path / "me")
        it.mempool.add(register("ada"))
        candidate, _ = await mine.build(1, Round(3, 1))
        assert candidate is not None
        block = dataclasses.replace(candidate[0], state_root="0" * 64)
        valid, reason = await mine.judge(proposed(it, block, candidate[1])) or (True, "")
        assert not valid
        assert reason
        assert await mine.execution_of(block) is None
