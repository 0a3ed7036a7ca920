"""The ledger of a node: what it commits, what it answers, and what it brings back after a stop."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import gc
import os
import shutil
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from agentworld_core.codec import decode, encode
from agentworld_core.consensus.events import LockedValue
from agentworld_core.errors import AgentWorldError, InvalidField, NotFound, StateMismatch, Unauthorized
from agentworld_core.hashing import content_id
from agentworld_core.ledger.block import HeaderInput, execute
from agentworld_core.ledger.errors import ExecutionMismatch
from agentworld_core.ledger.genesis import chain_from_genesis
from agentworld_core.ledger.snapshot import load_manifest
from agentworld_core.ledger.validate import check_bundle
from agentworld_core.membership.builder import Changes
from agentworld_core.messages import PREVOTE, Blocks, Round
from agentworld_core.world.tree_proof import StateProof, verify_proof
from agentworld_node.ledger import Ledger
from agentworld_node.records import COMMIT, SNAPSHOT, VOTE_LOG
from agentworld_node.storage.blobs import FileBlobStore
from agentworld_node.storage.errors import (
    BlobNotFound,
    CorruptLog,
    FolderLocked,
    IndexDamaged,
    LogFailed,
    StorageFailed,
    StorageFull,
)
from agentworld_node.storage.index import Index
from agentworld_node.storage.wal import WriteAheadLog
from tests.unit.core.consensus.bench import proposal, vote
from tests.unit.core.ledger.chains import Chain, make_genesis, with_fields
from tests.unit.core.membership.worlds import first_directory, statement, successor
from tests.unit.core.world.agents import action, register
from tests.unit.node.running import eventually
from tests.unit.node.store.folders import flip_blob, lose_blob


@pytest.fixture
def chain() -> Chain:
    """Seven blocks: two agents enter and move, a snapshot at heights 3 and 6, an empty block in between."""
    made = Chain()
    made.commit(register("ada"), register("bob"))
    for nonce in range(1, 4):
        made.commit(action("ada", "agent.move", {"to": [nonce, 0]}, nonce))
    made.commit()
    made.commit(action("bob", "message.send", {"to": "ada", "body": "hello"}, 1))
    made.commit(action("bob", "agent.move", {"to": [7, 7]}, 2))
    return made


async def filled(folder: Path, chain: Chain, *, upto: int | None = None) -> Ledger:
    ledger = Ledger.open(folder, chain.genesis)
    for bundle in chain.bundles[:upto]:
        assert await ledger.apply(bundle)
        await ledger.settle()
    return ledger


def log_kinds(folder: Path) -> list[int]:
    with WriteAheadLog.open(folder / "log") as wal:
        return [record.kind for record in wal.records()]


class TestApply:
    @pytest.mark.box("S8.2", "state-kept")
    async def test_blocks_are_committed_in_order_and_survive_a_restart(self, tmp_path: Path, chain: Chain) -> None:
        ledger = await filled(tmp_path, chain)
        assert (ledger.height, ledger.chain.state_root) == (7, chain.state.state_root)
        ledger.close()
        again = Ledger.open(tmp_path, chain.genesis)
        assert dataclasses.replace(again.chain, tree=chain.state.tree, snapshot_tree=chain.state.snapshot_tree) == (
            chain.state
        )
        assert again.chain.state_root == chain.state.state_root
        assert [again.bundle(height) for height in range(1, 8)] == chain.bundles
        again.close()

    @pytest.mark.box("S18.2", "rollback")
    @pytest.mark.box("S8.2", "no-way-back")
    @pytest.mark.box("S25.2", "repeat", "never-lower")
    async def test_a_known_block_changes_nothing_and_a_later_one_is_refused(self, tmp_path: Path, chain: Chain) -> None:
        ledger = await filled(tmp_path, chain, upto=2)
        assert not await ledger.apply(chain.bundles[0])
        with pytest.raises(StateMismatch, match="next height"):
            await ledger.apply(chain.bundles[3])
        assert ledger.height == 2
        ledger.close()
        assert log_kinds(tmp_path).count(COMMIT) == 2

    @pytest.mark.box("S3.3", "kept")
    @pytest.mark.box("S3.2", "commit-point")
    @pytest.mark.box("S25.2", "uncertified-block")
    async def test_a_wrong_block_is_refused_before_anything_is_written(self, tmp_path: Path, chain: Chain) -> None:
        ledger = await filled(tmp_path, chain, upto=1)
        short = dataclasses.replace(
            chain.bundles[1],
            certificate=dataclasses.replace(chain.bundles[1].certificate, votes=chain.bundles[1].certificate.votes[:2]),
        )
        with pytest.raises(Unauthorized):
            await ledger.apply(short)
        with pytest.raises(AgentWorldError):
            await ledger.apply(with_fields(chain.bundles[1], "batch", timestamp_ms=1))
        assert (ledger.height, ledger.failure) == (1, None)
        assert await ledger.apply(chain.bundles[1])
        ledger.close()

    async def test_an_execution_of_the_own_engine_is_taken_as_it_is(self, tmp_path: Path, chain: Chain) -> None:
        ledger = Ledger.open(tmp_path, chain.genesis)
        bundle = chain.bundles[0]
        execution = execute(ledger.chain, bundle.batch, HeaderInput.of(bundle.block))
        assert await ledger.apply(bundle, execution=execution)
        assert ledger.chain.state_root == bundle.block.state_root
        ledger.close()

    @pytest.mark.box("S25.2", "repeat")
    async def test_two_who_bring_the_same_block_commit_it_once(self, tmp_path: Path, chain: Chain) -> None:
        ledger = Ledger.open(tmp_path, chain.genesis)
        outcomes = await asyncio.gather(*(ledger.apply(chain.bundles[0]) for _ in range(5)))
        assert sorted(outcomes) == [False] * 4 + [True]
        ledger.close()
        assert log_kinds(tmp_path) == [VOTE_LOG, COMMIT]

    async def test_a_commit_that_has_begun_is_finished_though_its_caller_is_cancelled(
        self, tmp_path: Path, chain: Chain
    ) -> None:
        ledger = Ledger.open(tmp_path, chain.genesis)
        heard: list[int] = []
        ledger.on_commit(lambda bundle: heard.append(bundle.block.height))
        task = asyncio.create_task(ledger.apply(chain.bundles[0]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await ledger.settle()
        assert (ledger.height, heard) == (1, [1])
        ledger.close()

    async def test_listeners_hear_of_every_commit_and_waiters_wake(self, tmp_path: Path, chain: Chain) -> None:
        ledger = Ledger.open(tmp_path, chain.genesis)
        heard: list[int] = []
        ledger.on_commit(lambda bundle: heard.append(bundle.block.height))
        waiting = asyncio.create_task(ledger.wait_height(2, seconds=20))
        assert not await ledger.wait_height(1, seconds=0.01)
        for bundle in chain.bundles[:3]:
            await ledger.apply(bundle)
        assert await waiting
        assert heard == [1, 2, 3]
        ledger.close()

    @pytest.mark.box("S3.3", "execution")
    async def test_a_certified_block_that_executes_to_something_else_stops_the_ledger(
        self, tmp_path: Path, chain: Chain
    ) -> None:
        wrong = Chain(chain.genesis).propose_with(
            lambda block: dataclasses.replace(block, state_root="a" * 64), register("ada")
        )
        ledger = Ledger.open(tmp_path, chain.genesis)
        broken = asyncio.create_task(ledger.broken())
        with pytest.raises(ExecutionMismatch):
            await ledger.apply(wrong)
        assert isinstance(await broken, ExecutionMismatch)
        with pytest.raises(ExecutionMismatch):
            await ledger.apply(chain.bundles[0])
        ledger.close()
        assert log_kinds(tmp_path) == [VOTE_LOG]


class TestReads:
    async def test_encoded_blocks_are_the_encoding_of_the_bundles(self, tmp_path: Path, chain: Chain) -> None:
        ledger = await filled(tmp_path, chain)
        whole = ledger.encoded_blocks(1, limit=64, max_bytes=10**9)
        assert whole == encode(Blocks(tuple(chain.bundles)))
        assert decode(Blocks, ledger.encoded_blocks(6, limit=1, max_bytes=10**9)).bundles == (chain.bundles[5],)
        assert decode(Blocks, ledger.encoded_blocks(3, limit=9, max_bytes=1)).bundles == (chain.bundles[2],)
        assert decode(Blocks, ledger.encoded_blocks(8, limit=9, max_bytes=1)).bundles == ()
        ledger.close()

    async def test_long_lists_of_blocks_are_encoded_like_short_ones(self, tmp_path: Path) -> None:
        chain = Chain()
        for _ in range(30):
            chain.commit()
        ledger = await filled(tmp_path, chain)
        assert ledger.encoded_blocks(1, limit=64, max_bytes=10**9) == encode(Blocks(tuple(chain.bundles)))
        ledger.close()

    async def test_blocks_receipts_and_directories_are_found(self, tmp_path: Path, chain: Chain) -> None:
        ledger = await filled(tmp_path, chain)
        block_hash = ledger.block_hash(2)
        assert block_hash == content_id(encode(chain.bundles[1].block))
        assert ledger.height_of(block_hash) == 2
        assert (ledger.height_of("a" * 64), ledger.block_hash(8), ledger.bundle(0)) == (None, None, None)
        assert ledger.certificate(2) == chain.bundles[1].certificate
        for bundle, execution in zip(chain.bundles, chain.executions, strict=True):
            for envelope, receipt in zip(bundle.batch.actions, execution.receipts, strict=True):
                assert ledger.receipt(envelope.action_id) == receipt
        assert ledger.receipt("b" * 64) is None
        assert ledger.directory(1) == ledger.directory(None) == chain.genesis.directory
        assert ledger.directory(2) is None
        ledger.close()

    @pytest.mark.box("S8.3", "proof")
    async def test_state_comes_with_a_proof_of_presence_or_absence(self, tmp_path: Path, chain: Chain) -> None:
        ledger = await filled(tmp_path, chain)
        answer = ledger.read_state("agent/ada", proof=True)
        assert answer["found"]
        assert answer["state_root"] == chain.state.state_root
        proof = decode(StateProof, bytes.fromhex(answer["proof"]))
        assert verify_proof(chain.state.state_root, b"agent/ada", proof) == bytes.fromhex(answer["value_cbor"])
        assert "proof" not in ledger.read_state("agent/ada", proof=False)
        absent = ledger.read_state("agent/eve", proof=True)
        assert not absent["found"]
        absence = decode(StateProof, bytes.fromhex(absent["proof"]))
        assert verify_proof(chain.state.state_root, b"agent/eve", absence) is None
        assert not ledger.read_state("x" * 5000, proof=False)["found"]
        ledger.close()

    async def test_events_of_a_block_are_those_of_its_execution(self, tmp_path: Path, chain: Chain) -> None:
        ledger = await filled(tmp_path, chain)
        document = ledger.block_events(1)
        assert [event["event_id"] for event in document["events"]] == [
            event.event_id for event in chain.executions[0].events
        ]
        with pytest.raises(NotFound):
            ledger.block_events(8)
        ledger.close()

    async def test_a_block_whose_blob_is_gone_or_damaged_is_stored_again_from_the_log(
        self, tmp_path: Path, chain: Chain
    ) -> None:
        ledger = await filled(tmp_path, chain)
        blobs = ledger._stores.blobs
        batch_hash = chain.bundles[3].block.action_root
        assert blobs.delete(batch_hash)
        flip_blob(tmp_path, ledger.block_hash(5) or "")
        assert ledger.bundle(4) == chain.bundles[3]
        assert ledger.bundle(5) == chain.bundles[4]
        assert blobs.has(batch_hash)
        ledger.close()


class TestRestart:
    @pytest.mark.box("S8.2", "suffix")
    @pytest.mark.box("S3.2", "cost")
    async def test_it_starts_from_the_last_snapshot_and_executes_only_the_suffix(
        self, tmp_path: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (await filled(tmp_path, chain)).close()
        assert log_kinds(tmp_path).count(SNAPSHOT) == 2
        executed = spy_on_execution(monkeypatch)
        ledger = Ledger.open(tmp_path, chain.genesis)
        assert executed == [7]
        assert ledger.chain.state_root == chain.state.state_root
        ledger.close()

    @pytest.mark.box("S8.2", "suffix")
    async def test_a_damaged_snapshot_falls_back_to_the_one_before(
        self, tmp_path: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (await filled(tmp_path, chain)).close()
        manifest_of_6 = chain.bundles[5].block.snapshot_ref or ""
        flip_blob(tmp_path, manifest_of_6)
        executed = spy_on_execution(monkeypatch)
        ledger = Ledger.open(tmp_path, chain.genesis)
        assert executed == [4, 5, 6, 7]
        assert ledger.chain.state_root == chain.state.state_root
        ledger.close()
        executed.clear()
        ledger = Ledger.open(tmp_path, chain.genesis)
        assert executed == [7], "executing the suffix has healed the snapshot"
        ledger.close()

    @pytest.mark.box("S8.2", "suffix")
    async def test_when_no_snapshot_is_whole_it_starts_from_genesis(
        self, tmp_path: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (await filled(tmp_path, chain)).close()
        for height in (3, 6):
            manifest = load_manifest(chain.bundles[height - 1].block.snapshot_ref or "", chain.blobs.__getitem__)
            for chunk in manifest.chunks:
                lose_blob(tmp_path, chunk.content_hash)
        executed = spy_on_execution(monkeypatch)
        ledger = Ledger.open(tmp_path, chain.genesis)
        assert executed == [1, 2, 3, 4, 5, 6, 7]
        ledger.close()

    @pytest.mark.box("S8.2", "index")
    @pytest.mark.parametrize("how", ["damaged", "gone", "empty"])
    async def test_the_index_is_built_again_from_the_log(self, tmp_path: Path, chain: Chain, how: str) -> None:
        (await filled(tmp_path, chain)).close()
        index = tmp_path / "index.sqlite"
        if how == "damaged":
            index.write_bytes(b"garbage" * 1000)
        else:
            index.unlink()
            if how == "empty":
                sqlite3.connect(index).close()
        ledger = Ledger.open(tmp_path, chain.genesis)
        assert [ledger.bundle(height) for height in range(1, 8)] == chain.bundles
        assert ledger.receipt(chain.bundles[0].batch.actions[0].action_id) == chain.executions[0].receipts[0]
        ledger.close()

    async def test_an_index_from_an_older_copy_does_not_hide_blocks(self, tmp_path: Path, chain: Chain) -> None:
        ledger = await filled(tmp_path, chain, upto=2)
        ledger.close()
        shutil.copy(tmp_path / "index.sqlite", tmp_path / "old")
        ledger = Ledger.open(tmp_path, chain.genesis)
        for bundle in chain.bundles[2:]:
            await ledger.apply(bundle)
        await ledger.settle()
        ledger.close()
        os.replace(tmp_path / "old", tmp_path / "index.sqlite")
        ledger = Ledger.open(tmp_path, chain.genesis)
        assert [ledger.bundle(height) for height in range(1, 8)] == chain.bundles
        ledger.close()

    @pytest.mark.box("S8.2", "state-kept")
    @pytest.mark.box("S26.3", "round-trip")
    async def test_directory_changes_survive_a_restart_from_a_snapshot(self, tmp_path: Path) -> None:
        chain = Chain()
        directory = successor(chain.genesis.directory, Changes())
        chain.commit(directory=directory)
        for _ in range(5):
            chain.commit()
        (await filled(tmp_path, chain)).close()
        ledger = Ledger.open(tmp_path, chain.genesis)
        assert ledger.chain.directories == chain.state.directories
        assert ledger.directory(None) == directory
        ledger.close()

    @pytest.mark.box("S8.2", "promises")
    @pytest.mark.box("S26.2", "comes-back")
    @pytest.mark.box("S26.1", "records", "pruned")
    async def test_votes_proposals_and_locks_of_the_open_height_come_back(self, tmp_path: Path, chain: Chain) -> None:
        ledger = await filled(tmp_path, chain, upto=1)
        old = vote("a", Round(0, 0), PREVOTE, None, height=1)
        body = proposal("a", Round(0, 0), height=2)
        mine = vote("a", Round(0, 0), PREVOTE, body, height=2)
        lock = LockedValue(Round(0, 0), body, (mine,))
        await ledger.store_vote(old, None)
        await ledger.store_proposal(body)
        await ledger.store_vote(mine, None)
        await ledger.store_vote(vote("a", Round(0, 0), 2, body, height=2), lock)
        ledger.close()
        again = Ledger.open(tmp_path, chain.genesis)
        durable = again.durable_votes
        assert [item.height for item in durable.votes] == [2, 2]
        assert durable.proposals == (body,)
        assert durable.locks == (lock,)
        await again.apply(chain.bundles[1])
        again.close()
        last = Ledger.open(tmp_path, chain.genesis)
        assert (last.durable_votes.votes, last.durable_votes.proposals) == ((), ())
        last.close()

    @pytest.mark.box("S8.2", "promises")
    async def test_revocations_come_back(self, tmp_path: Path, chain: Chain) -> None:
        ledger = await filled(tmp_path, chain, upto=1)
        said = statement("ab" * 16, "gov")
        await ledger.store_revocation(said)
        await ledger.apply(chain.bundles[1])
        ledger.close()
        again = Ledger.open(tmp_path, chain.genesis)
        assert again.revocations.get("ab" * 16) == said
        again.close()

    @pytest.mark.box("S8.2", "other-world")
    @pytest.mark.box("S26.2", "one-process")
    async def test_a_second_process_and_another_world_are_refused(self, tmp_path: Path, chain: Chain) -> None:
        ledger = await filled(tmp_path, chain, upto=1)
        with pytest.raises(FolderLocked):
            Ledger.open(tmp_path, chain.genesis)
        ledger.close()
        other = make_genesis(first_directory({"a": 1, "b": 1}))
        with pytest.raises(InvalidField, match="another genesis"):
            Ledger.open(tmp_path, other)
        (tmp_path / "index.sqlite").unlink()
        with pytest.raises(InvalidField, match="another genesis"):
            Ledger.open(tmp_path, other)
        assert Ledger.open(tmp_path, chain.genesis).height == 1

    @pytest.mark.box("S8.3", "software")
    async def test_software_that_executes_otherwise_says_so_and_writes_nothing(
        self, tmp_path: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (await filled(tmp_path, chain, upto=2)).close()

        def other_rules(state: Any, batch: Any, header: HeaderInput) -> Any:
            execution = execute(state, batch, header)
            return dataclasses.replace(execution, block=dataclasses.replace(execution.block, state_root="c" * 64))

        monkeypatch.setattr("agentworld_node.ledger_recovery.execute", other_rules)
        with pytest.raises(StateMismatch, match="does not give block 1") as caught:
            Ledger.open(tmp_path, chain.genesis)
        assert caught.value.remedy

    @pytest.mark.box("S3.2", "crash")
    async def test_what_a_crash_tears_is_the_same_as_if_there_had_been_none(self, tmp_path: Path, chain: Chain) -> None:
        """Blobs and index rows are written without waiting for the disk; any of them may be gone after a crash."""
        (await filled(tmp_path, chain, upto=5)).close()
        for bundle, execution in zip(chain.bundles[3:5], chain.executions[3:5], strict=True):
            for name in (content_id(encode(bundle.block)), content_id(encode(bundle.certificate)), *execution.blobs):
                lose_blob(tmp_path, name)
        with sqlite3.connect(tmp_path / "index.sqlite") as connection:
            connection.execute("DELETE FROM blocks WHERE height > 3")
            connection.execute("DELETE FROM receipts WHERE height > 3")
        connection.close()
        ledger = Ledger.open(tmp_path, chain.genesis)
        for bundle in chain.bundles[5:]:
            await ledger.apply(bundle)
        assert [ledger.bundle(height) for height in range(1, 8)] == chain.bundles
        assert ledger.block_events(4)["events"]
        assert ledger.receipt(chain.bundles[3].batch.actions[0].action_id) == chain.executions[3].receipts[0]
        ledger.close()


class TestRetention:
    @pytest.mark.box("S2.4", "retention")
    async def test_old_snapshots_go_and_what_newer_ones_share_stays(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chain = Chain()
        chain.commit(register("ada"))
        for nonce in range(1, 18):
            chain.commit(action("ada", "agent.move", {"to": [nonce, 0]}, nonce))
        ledger = Ledger.open(tmp_path, chain.genesis)
        ledger.retain_snapshots = 2
        for bundle in chain.bundles:
            await ledger.apply(bundle)
            await ledger.settle()
        blobs = ledger._stores.blobs
        kept = [height for height in range(3, 19, 3) if blobs.has(chain.bundles[height - 1].block.snapshot_ref or "")]
        assert kept == [15, 18]
        for height in kept:
            manifest = load_manifest(chain.bundles[height - 1].block.snapshot_ref or "", blobs.get)
            assert all(blobs.has(chunk.content_hash) for chunk in manifest.chunks)
        ledger.close()
        executed = spy_on_execution(monkeypatch)
        again = Ledger.open(tmp_path, chain.genesis)
        assert (executed, again.chain.state_root) == ([], chain.state.state_root)
        assert [again.bundle(height) for height in range(1, 19)] == chain.bundles
        again.close()

    @pytest.mark.box("S2.4", "retention")
    async def test_fewer_snapshots_are_kept_from_the_start_on(self, tmp_path: Path, chain: Chain) -> None:
        (await filled(tmp_path, chain)).close()
        ledger = Ledger.open(tmp_path, chain.genesis)
        ledger.retain(1)
        assert not ledger._stores.blobs.has(chain.bundles[2].block.snapshot_ref or "")
        assert ledger._stores.blobs.has(chain.bundles[5].block.snapshot_ref or "")
        ledger.close()
        again = Ledger.open(tmp_path, chain.genesis)
        assert again.chain.state_root == chain.state.state_root
        again.close()

    async def test_a_full_disk_keeps_no_node_from_starting_with_fewer_snapshots(
        self, tmp_path: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (await filled(tmp_path, chain)).close()
        ledger = Ledger.open(tmp_path, chain.genesis)
        fail(monkeypatch, Index, "set_meta", StorageFull("no room"))
        ledger.retain(1)
        assert ledger._stores.blobs.has(chain.bundles[2].block.snapshot_ref or "")
        ledger.close()

    async def test_removal_that_was_broken_off_is_finished_by_the_next(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chain = Chain()
        chain.commit(register("ada"))
        for nonce in range(1, 9):
            chain.commit(action("ada", "agent.move", {"to": [nonce, 0]}, nonce))
        ledger = Ledger.open(tmp_path, chain.genesis)
        ledger.retain_snapshots = 1
        for bundle in chain.bundles[:5]:
            await ledger.apply(bundle)
        await ledger.settle()
        old = ledger._snapshot_blobs(3)
        removed: list[str] = []
        delete = FileBlobStore.delete

        def second_fails(store: FileBlobStore, blob_hash: str) -> bool:
            if removed:
                raise StorageFailed("no more")
            removed.append(blob_hash)
            return delete(store, blob_hash)

        monkeypatch.setattr(FileBlobStore, "delete", second_fails)
        await ledger.apply(chain.bundles[5])
        await ledger.settle()
        monkeypatch.undo()
        ledger.close()

        again = Ledger.open(tmp_path, chain.genesis)
        again.retain_snapshots = 1
        for bundle in chain.bundles[6:]:
            await again.apply(bundle)
        await again.settle()
        assert len(old) > 1
        assert [blob for blob in old if again._stores.blobs.has(blob)] == []
        again.close()

    async def test_blocks_are_committed_while_it_is_looked_up_what_a_snapshot_makes_durable(
        self, tmp_path: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ledger = Ledger.open(tmp_path, chain.genesis)
        looking, go_on = threading.Event(), threading.Event()
        read = FileBlobStore.get

        def slowly(store: FileBlobStore, blob_hash: str) -> bytes:
            looking.set()
            go_on.wait()
            return read(store, blob_hash)

        try:
            monkeypatch.setattr(FileBlobStore, "get", slowly)
            for bundle in chain.bundles[:3]:
                await ledger.apply(bundle)
            await eventually(looking.is_set, what="the snapshot of height 3")
            await ledger.apply(chain.bundles[3])
            assert ledger.height == 4
            assert ledger._stores.index.snapshots() == []
        finally:
            go_on.set()
        await ledger.settle()
        assert [item.height for item in ledger._stores.index.snapshots()] == [3]
        ledger.close()

    async def test_an_old_snapshot_that_cannot_be_read_is_dropped_as_well(self, tmp_path: Path, chain: Chain) -> None:
        ledger = Ledger.open(tmp_path, chain.genesis)
        ledger.retain_snapshots = 1
        for bundle in chain.bundles[:5]:
            await ledger.apply(bundle)
        await ledger.settle()
        flip_blob(tmp_path, chain.bundles[2].block.snapshot_ref or "")
        await ledger.apply(chain.bundles[5])
        await ledger.settle()
        assert ledger.failure is None
        assert [item.height for item in ledger._stores.index.snapshots()] == [6]
        ledger.close()


@pytest.mark.box("S26.2", "lying-disk")
class TestLyingDisk:
    """A disk that said it had synced and had not, found out where something else remembers what it has lost."""

    async def lose_the_end(self, folder: Path, chain: Chain) -> None:
        """Leaves a folder whose log ends whole, with block 2 of 4 that were synced."""
        ledger = await filled(folder, chain, upto=2)
        (segment,) = (folder / "log").glob("*.wal")
        kept = segment.stat().st_size
        for bundle in chain.bundles[2:4]:
            await ledger.apply(bundle)
        await ledger.settle()
        ledger.close()
        os.truncate(segment, kept)

    async def test_a_log_that_ends_before_its_index_does_is_refused(self, tmp_path: Path, chain: Chain) -> None:
        await self.lose_the_end(tmp_path, chain)
        for note in (tmp_path / "log").glob("*.note"):
            note.unlink()
        with pytest.raises(CorruptLog, match="ends with block 2, and the index has block 4"):
            Ledger.open(tmp_path, chain.genesis)

    async def test_a_log_that_is_shorter_than_noted_is_refused(self, tmp_path: Path, chain: Chain) -> None:
        await self.lose_the_end(tmp_path, chain)
        for name in ("index.sqlite", "index.sqlite-wal", "index.sqlite-shm"):
            (tmp_path / name).unlink(missing_ok=True)
        with pytest.raises(CorruptLog, match="bytes that were synced"):
            Ledger.open(tmp_path, chain.genesis)


class TestFailingDisk:
    async def test_a_commit_that_fails_when_its_caller_is_gone_is_noted_and_no_riddle(
        self, tmp_path: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        riddles: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: riddles.append(context))
        ledger = Ledger.open(tmp_path, chain.genesis)
        fail(monkeypatch, WriteAheadLog, "sync_now", StorageFailed("input/output error"))
        task = asyncio.create_task(ledger.apply(chain.bundles[0]))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        del task
        await eventually(lambda: ledger.failure is not None)
        await ledger.settle()
        gc.collect()
        assert riddles == []

    async def test_a_full_log_is_waited_out(
        self, tmp_path: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ledger = Ledger.open(tmp_path, chain.genesis)
        ledger.room_retry_seconds = 0.01
        fault = fail(monkeypatch, WriteAheadLog, "sync_now", StorageFull("no room"))
        task = asyncio.create_task(ledger.apply(chain.bundles[0]))
        await eventually(lambda: ledger.full and fault.hits > 2)
        assert (ledger.height, ledger.failure) == (0, None)
        fault.active = False
        assert await task
        assert (ledger.height, ledger.full) == (1, False)
        ledger.close()
        assert log_kinds(tmp_path) == [VOTE_LOG, COMMIT]

    @pytest.mark.parametrize(("owner", "method"), [(FileBlobStore, "put_owed"), (Index, "put_block")])
    async def test_a_full_disk_behind_the_log_is_waited_out(
        self, tmp_path: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch, owner: type, method: str
    ) -> None:
        ledger = Ledger.open(tmp_path, chain.genesis)
        ledger.room_retry_seconds = 0.01
        fault = fail(monkeypatch, owner, method, StorageFull("no room"))
        task = asyncio.create_task(ledger.apply(chain.bundles[0]))
        await eventually(lambda: ledger.full and fault.hits > 2)
        fault.active = False
        assert await task
        assert not ledger.full
        assert ledger.bundle(1) == chain.bundles[0]
        ledger.close()
        assert log_kinds(tmp_path) == [VOTE_LOG, COMMIT]

    async def test_a_limit_on_blobs_makes_the_ledger_full_and_holds_no_commit_up(
        self, tmp_path: Path, chain: Chain
    ) -> None:
        ledger = await filled(tmp_path, chain, upto=1)
        ledger.limit_blobs(1)
        assert ledger.full
        assert await ledger.apply(chain.bundles[1])
        assert (ledger.height, ledger.full, ledger.bundle(2)) == (2, True, chain.bundles[1])
        ledger.limit_blobs(0)
        assert not ledger.full
        ledger.close()

    async def test_the_room_of_old_snapshots_ends_the_fullness(self, tmp_path: Path, chain: Chain) -> None:
        ledger = await filled(tmp_path, chain, upto=5)
        ledger.retain(1)
        used = sum(entry.size for entry in ledger._stores.blobs.entries())
        await ledger.apply(chain.bundles[5])
        await ledger.settle()
        after = sum(entry.size for entry in ledger._stores.blobs.entries())
        ledger.limit_blobs(after)
        assert ledger.full
        assert [item.height for item in ledger._stores.index.snapshots()] == [6]
        ledger.limit_blobs(after + used)
        assert not ledger.full
        ledger.close()

    async def test_a_snapshot_without_its_mark_does_not_count_as_one_that_is_kept(
        self, tmp_path: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ledger = await filled(tmp_path, chain, upto=5)
        append, refused = WriteAheadLog.append, []

        def no_mark(log: WriteAheadLog, kind: int, payload: bytes) -> int:
            if kind == SNAPSHOT:
                refused.append(kind)
                raise StorageFull("no room")
            return append(log, kind, payload)

        monkeypatch.setattr(WriteAheadLog, "append", no_mark)
        await ledger.apply(chain.bundles[5])
        await eventually(lambda: refused)
        monkeypatch.undo()
        ledger.close()

        again = Ledger.open(tmp_path, chain.genesis)
        again.retain(1)
        assert again._stores.blobs.has(chain.bundles[2].block.snapshot_ref or "")
        again.close()
        executed = spy_on_execution(monkeypatch)
        Ledger.open(tmp_path, chain.genesis).close()
        assert min(executed) > 3, "it begins at the snapshot of height 3"

    @pytest.mark.box("S3.2", "commit-point")
    @pytest.mark.box("S26.2", "sync-fails")
    async def test_a_log_that_fails_is_final(
        self, tmp_path: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ledger = await filled(tmp_path, chain, upto=1)
        broken = asyncio.create_task(ledger.broken())
        monkeypatch.setattr(
            "agentworld_node.storage.files.LocalFile.sync",
            lambda _self: (_ for _ in ()).throw(OSError(errno.EIO, os.strerror(errno.EIO))),
        )
        with pytest.raises(LogFailed):
            await ledger.store_vote(vote("a", Round(0, 0), PREVOTE, None, height=2), None)
        assert isinstance(await broken, LogFailed)
        with pytest.raises(LogFailed):
            await ledger.apply(chain.bundles[1])
        assert ledger.height == 1
        ledger.close()

    @pytest.mark.box("S3.2", "commit-point")
    async def test_a_block_that_is_in_the_log_and_not_in_the_index_is_committed_by_the_restart(
        self, tmp_path: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ledger = await filled(tmp_path, chain, upto=1)
        fault = fail(monkeypatch, Index, "put_block", StorageFailed("the index failed"))
        with pytest.raises(StorageFailed):
            await ledger.apply(chain.bundles[1])
        fault.active = False
        assert ledger.height == 1
        with pytest.raises(StorageFailed):
            await ledger.apply(chain.bundles[1])
        ledger.close()
        again = Ledger.open(tmp_path, chain.genesis)
        assert again.height == 2
        again.close()
        assert log_kinds(tmp_path).count(COMMIT) == 2

    async def test_an_index_found_damaged_while_reading_asks_for_a_restart(
        self, tmp_path: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ledger = await filled(tmp_path, chain, upto=2)
        fail(monkeypatch, Index, "block_at", IndexDamaged("malformed"))
        with pytest.raises(IndexDamaged):
            ledger.bundle(1)
        assert isinstance(ledger.failure, IndexDamaged)
        ledger.close()

    async def test_a_missing_journal_is_an_error_of_that_block_alone(self, tmp_path: Path, chain: Chain) -> None:
        ledger = await filled(tmp_path, chain)
        for segment in chain.bundles[0].block.segments:
            ledger._stores.blobs.delete(segment.content_hash)
        with pytest.raises(BlobNotFound):
            ledger.block_events(1)
        assert ledger.block_events(2)["height"] == 2
        assert ledger.failure is None
        ledger.close()

    async def test_a_snapshot_is_left_out_while_the_one_before_is_written(
        self, tmp_path: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ledger = Ledger.open(tmp_path, chain.genesis)
        ledger.room_retry_seconds = 0.01
        fault = fail(monkeypatch, Index, "checkpoint", StorageFull("no room"))
        for bundle in chain.bundles:
            await ledger.apply(bundle)
        assert ledger.height == 7, "blocks do not wait for a snapshot"
        fault.active = False
        await ledger.settle()
        ledger.close()
        assert log_kinds(tmp_path).count(SNAPSHOT) == 1


def test_the_chain_of_the_fixture_is_right(chain: Chain) -> None:
    state = chain_from_genesis(chain.genesis)
    for bundle in chain.bundles:
        state = check_bundle(state, bundle)
    assert state.state_root == chain.state.state_root


class Fault:
    """An operation that raises while ``active``."""

    def __init__(self) -> None:
        self.active = True
        self.hits = 0


def fail(monkeypatch: pytest.MonkeyPatch, owner: type, method: str, error: AgentWorldError) -> Fault:
    fault = Fault()
    real = getattr(owner, method)

    def faulty(*arguments: Any, **options: Any) -> Any:
        if fault.active:
            fault.hits += 1
            raise error
        return real(*arguments, **options)

    monkeypatch.setattr(owner, method, faulty)
    return fault


def spy_on_execution(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    executed: list[int] = []

    def spy(state: Any, batch: Any, header: HeaderInput) -> Any:
        executed.append(header.height)
        return execute(state, batch, header)

    monkeypatch.setattr("agentworld_node.ledger_recovery.execute", spy)
    return executed
