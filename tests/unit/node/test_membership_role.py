"""What governance has signed: taken once, kept before it is confirmed, passed on, whatever else is on the wire."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from agentworld_core.codec import decode, encode
from agentworld_core.errors import InvalidField, KeyRevoked, StateMismatch, TooLarge
from agentworld_core.membership.builder import Changes, next_directory
from agentworld_core.messages import Directory, Revocation, Revocations
from agentworld_core.names import topic
from agentworld_node.records import REVOCATION
from agentworld_node.roles import membership as membership_module
from agentworld_node.roles.membership import GET_REVOCATIONS
from agentworld_node.storage.wal import WriteAheadLog
from tests.unit.core.ledger.chains import Chain
from tests.unit.core.membership.worlds import signed, signer, statement, successor
from tests.unit.node.rig import ME, rig
from tests.unit.node.running import eventually

DIRECTORIES = topic("aurora", "membership")
REVOCATIONS = topic("aurora", "membership.revoke")
FIRST = Chain().genesis.directory
NEXT = successor(FIRST, Changes())
LEAKED = signer("leaked").key_id


def records(folder: Path, kind: int) -> int:
    with WriteAheadLog.open(folder / "log") as wal:
        return sum(record.kind == kind for record in wal.records())


class TestDirectories:
    async def test_the_next_epoch_waits_until_a_block_has_it(self, tmp_path: Path) -> None:
        chain = Chain()
        async with rig(tmp_path, chain) as it:
            role = it.membership()
            changes: list[int] = []
            role.on_change = lambda: changes.append(1)
            answer = await role.submit_directory(NEXT)
            assert (answer["epoch"], answer["status"], changes) == (2, "waiting", [1])
            assert (await role.submit_directory(NEXT))["status"] == "waiting"
            assert role.waiting_directory() == NEXT
            chain.commit(directory=NEXT)
            await it.apply(*chain.bundles)
            assert role.waiting_directory() is None
            assert (await role.submit_directory(NEXT))["status"] == "committed"

    async def test_a_second_one_of_the_same_epoch_is_refused(self, tmp_path: Path) -> None:
        async with rig(tmp_path) as it:
            role = it.membership()
            await role.submit_directory(NEXT)
            other = signed(next_directory(FIRST, Changes(), now_ms=2000, reason="another"), "gov")
            with pytest.raises(StateMismatch, match="another directory of this epoch waits"):
                await role.submit_directory(other)
            with pytest.raises(StateMismatch, match="already in the ledger"):
                await role.submit_directory(dataclasses.replace(FIRST, reason="another"))

    @pytest.mark.box("S27.1", "expires")
    async def test_one_that_has_expired_is_refused_or_forgotten(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with rig(tmp_path) as it:
            role = it.membership()
            now = 5_000
            monkeypatch.setattr(membership_module, "_now_ms", lambda: now)
            mortal = signed(next_directory(FIRST, Changes(), now_ms=2000, expires_at_ms=6_000), "gov")
            await role.submit_directory(mortal)
            assert role.waiting_directory() == mortal
            now = 6_000
            assert role.waiting_directory() is None
            with pytest.raises(InvalidField, match="expired"):
                await role.submit_directory(mortal)

    async def test_it_is_passed_on_again_and_again_while_it_waits(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(membership_module, "REPEAT_SECONDS", 0.02)
        async with rig(tmp_path) as it:
            role = it.membership()
            await role.submit_directory(NEXT)
            late = await it.peer("peer-late")
            heard: list[Directory] = []
            late.subscribe(DIRECTORIES, lambda _peer, data: heard.append(decode(Directory, data)))
            await eventually(lambda: len(heard) >= 2)
            assert heard[0] == NEXT

    async def test_one_from_gossip_waits_as_well(self, tmp_path: Path) -> None:
        async with rig(tmp_path) as it:
            role = it.membership()
            peer = await it.peer("peer-a")
            await peer.publish(DIRECTORIES, encode(NEXT))
            await eventually(lambda: role.waiting_directory() == NEXT)
            await peer.publish(DIRECTORIES, encode(FIRST))
            await peer.publish(DIRECTORIES, encode(NEXT))
            assert it.refused("membership") == {}

    async def test_garbage_is_counted_and_its_author_left_alone(self, tmp_path: Path) -> None:
        async with rig(tmp_path) as it:
            role = it.membership()
            liar, honest = await it.peer("peer-liar"), await it.peer("peer-honest")
            for _ in range(100):
                await liar.publish(DIRECTORIES, b"garbage")
            await eventually(lambda: it.refused("membership") == {"malformed_encoding": 1})
            await liar.publish(DIRECTORIES, encode(NEXT))
            await honest.publish(DIRECTORIES, encode(NEXT))
            await eventually(lambda: role.waiting_directory() == NEXT)

    async def test_a_governance_key_that_is_revoked_signs_nothing_new(self, tmp_path: Path) -> None:
        async with rig(tmp_path) as it:
            role = it.membership()
            await role.submit_directory(NEXT)
            await role.submit_revocation(statement(signer("gov").key_id, "gov"), force=True)
            assert role.waiting_directory() is None
            with pytest.raises(KeyRevoked):
                await role.submit_directory(NEXT)

    async def test_a_message_too_large_for_gossip_does_not_end_anything(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(membership_module, "REPEAT_SECONDS", 0.01)
        async with rig(tmp_path) as it:
            role = it.membership()
            tried: list[str] = []

            async def refuse(name: str, _payload: bytes) -> None:
                tried.append(name)
                raise TooLarge("too large")

            monkeypatch.setattr(it.network, "publish", refuse)
            assert (await role.submit_directory(NEXT))["status"] == "waiting"
            await eventually(lambda: len(tried) > 3)


class TestRevocations:
    async def test_it_counts_only_when_it_is_durable_and_survives_its_caller(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with rig(tmp_path) as it:
            role = it.membership()
            disk = asyncio.Event()
            store = it.ledger.store_revocation

            async def slow(said: Revocation) -> None:
                await disk.wait()
                await store(said)

            monkeypatch.setattr(it.ledger, "store_revocation", slow)
            request = asyncio.create_task(role.submit_revocation(statement(LEAKED, "gov"), force=False))
            await asyncio.sleep(0)
            assert LEAKED not in it.keyring.revoked_key_ids()
            request.cancel()
            await asyncio.gather(request, return_exceptions=True)
            disk.set()
            await eventually(lambda: LEAKED in it.keyring.revoked_key_ids())
        assert records(tmp_path, REVOCATION) == 1

    async def test_the_same_one_from_many_sides_is_stored_once(self, tmp_path: Path) -> None:
        async with rig(tmp_path) as it:
            role = it.membership()
            peers = [await it.peer(f"peer-{name}") for name in "abcd"]
            said = encode(statement(LEAKED, "gov"))
            for _ in range(50):
                for peer in peers:
                    await peer.publish(REVOCATIONS, said)
            answers = await asyncio.gather(
                *(role.submit_revocation(statement(LEAKED, "gov"), force=False) for _ in range(20))
            )
            assert len({answer["set_hash"] for answer in answers}) == 1
            await eventually(lambda: LEAKED in it.keyring.revoked_key_ids())
            assert len(role._keeping) == 0
        assert records(tmp_path, REVOCATION) == 1

    async def test_it_is_passed_on_more_than_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(membership_module, "REPEAT_SECONDS", 0.02)
        async with rig(tmp_path) as it:
            role = it.membership()
            await role.submit_revocation(statement(LEAKED, "gov"), force=False)
            late = await it.peer("peer-late")
            heard: list[bytes] = []
            late.subscribe(REVOCATIONS, lambda _peer, data: heard.append(data))
            await eventually(lambda: len(heard) >= 2)
            monkeypatch.setattr(membership_module, "REPEATED_FOR_SECONDS", 0)
            await eventually(lambda: not role._recent)

    @pytest.mark.parametrize("payload", [b"", b"garbage", encode(NEXT), encode(statement(LEAKED, "eve"))])
    async def test_what_proves_nothing_is_refused(self, tmp_path: Path, payload: bytes) -> None:
        async with rig(tmp_path) as it:
            it.membership()
            liar = await it.peer("peer-liar")
            for _ in range(20):
                await liar.publish(REVOCATIONS, payload)
            await eventually(lambda: sum(it.refused("membership.revoke").values()) == 1)
            assert not it.keyring.revoked_key_ids()

    async def test_what_gossip_has_lost_is_fetched(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(membership_module, "RECONCILE_SECONDS", 0.02)
        async with rig(tmp_path) as it:
            it.membership()
            peer = await it.peer("peer-a")
            asked: list[bytes] = []

            async def serve(_peer: str, payload: bytes) -> bytes:
                asked.append(payload)
                held = (statement(LEAKED, "gov"), statement(signer("other").key_id, "eve"))
                return encode(Revocations("aurora", held))

            peer.serve(GET_REVOCATIONS, serve)
            await eventually(lambda: LEAKED in it.keyring.revoked_key_ids())
            assert len(it.keyring.revocations) == 1, "what proves nothing is not taken from anybody"
            assert asked[0]

    async def test_who_asks_gets_them_unless_it_has_the_same(self, tmp_path: Path) -> None:
        async with rig(tmp_path) as it:
            role = it.membership()
            peer = await it.peer("peer-a")
            await role.submit_revocation(statement(LEAKED, "gov"), force=False)

            async def ask(payload: bytes) -> Any:
                return await peer.request(ME, GET_REVOCATIONS, payload, timeout=5)

            assert decode(Revocations, await ask(b"")).statements == (statement(LEAKED, "gov"),)
            assert await ask(it.keyring.revocations.hash.encode()) == b""
            assert decode(Revocations, await ask(b"\xff" * 1000)).statements

    async def test_what_peers_answer_wrongly_ends_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(membership_module, "RECONCILE_SECONDS", 0.01)
        async with rig(tmp_path) as it:
            it.membership()
            peer = await it.peer("peer-a")
            answers = 0

            async def serve(_peer: str, _payload: bytes) -> bytes:
                nonlocal answers
                answers += 1
                return b"garbage"

            peer.serve(GET_REVOCATIONS, serve)
            await eventually(lambda: answers >= 3)
            assert not it.keyring.revoked_key_ids()
