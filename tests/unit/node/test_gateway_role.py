"""How actions come into a node: from clients and from gossip, each once, until they are committed or cannot be."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest

from agentworld_core.codec import decode, encode
from agentworld_core.errors import (
    AgentWorldError,
    Busy,
    HashMismatch,
    InvalidSignature,
    NonceUsed,
    NotFound,
    Unauthorized,
)
from agentworld_core.messages import ActionEnvelope, Actions
from agentworld_core.names import topic
from agentworld_core.world import actions as actions_module
from agentworld_core.world.actions import envelope_id
from agentworld_node.network.memory import MemoryNetwork
from agentworld_node.roles import gateway as gateway_module
from agentworld_node.roles import gossip_queue, newcomers, verification
from tests.unit.core.ledger.chains import Chain
from tests.unit.core.world.agents import action, register
from tests.unit.node.rig import rig
from tests.unit.node.running import PATIENCE, eventually

TOPIC = topic("aurora", "action")


def listen(network: MemoryNetwork) -> list[ActionEnvelope]:
    heard: list[ActionEnvelope] = []
    network.subscribe(TOPIC, lambda _peer, data: heard.extend(decode(Actions, data).actions))
    return heard


def move(name: str) -> ActionEnvelope:
    return action(name, "agent.move", {"to": [1, 1]}, 1)


async def send(network: MemoryNetwork, *actions: ActionEnvelope) -> None:
    await network.publish(TOPIC, encode(Actions(actions)))


class TestGossip:
    async def test_actions_of_others_are_pooled_once(self, tmp_path: Path) -> None:
        async with rig(tmp_path) as it:
            role = it.gateway()
            changes: list[int] = []
            role.on_change = lambda: changes.append(1)
            peer = await it.peer("peer-gateway")
            for _ in range(3):
                await send(peer, register("ada"), register("bob"))
            await eventually(lambda: len(it.mempool) == 2)
            await send(peer, register("eve"))
            await eventually(lambda: len(it.mempool) == 3)
            assert changes
            assert it.refused("action") == {}
            assert role.is_verified(envelope_id(register("ada")))
            assert not role.is_verified(register("ada").action_id)

    @pytest.mark.box("S5.1", "dedup-in-state")
    async def test_what_is_in_a_block_is_not_pooled_again(self, tmp_path: Path) -> None:
        chain = Chain()
        chain.commit(register("ada"))
        async with rig(tmp_path, chain) as it:
            it.gateway()
            await it.apply(*chain.bundles)
            peer = await it.peer("peer-gateway")
            await send(peer, register("ada"), register("bob"))
            await eventually(lambda: len(it.mempool) == 1)
            assert it.mempool.actions() == [register("bob")]

    @pytest.mark.box("S7.1", "other-world")
    @pytest.mark.box("S5.1", "gossip-verified")
    @pytest.mark.parametrize(
        ("payload", "code"),
        [
            (b"garbage", "malformed_encoding"),
            (b"", "malformed_encoding"),
            (encode(register("ada")), "malformed_encoding"),
            (encode(Actions((dataclasses.replace(register("ada"), signature=bytes(64)),))), "invalid_signature"),
            (encode(Actions((dataclasses.replace(register("ada"), payload_hash="a" * 64),))), "hash_mismatch"),
            (encode(Actions((action("ada", "agent.move", {"to": [1, 1]}, 1, world="mars"),))), "wrong_world"),
        ],
    )
    async def test_what_no_honest_node_passes_on_is_counted_and_its_author_left_alone(
        self, tmp_path: Path, payload: bytes, code: str
    ) -> None:
        async with rig(tmp_path) as it:
            it.gateway()
            liar, honest = await it.peer("peer-liar"), await it.peer("peer-honest")
            await liar.publish(TOPIC, payload)
            await eventually(lambda: it.refused("action") == {code: 1})
            await send(liar, register("ada"))
            await eventually(lambda: it.refused("action").get("busy") == 1)
            await send(honest, register("bob"))
            await eventually(lambda: len(it.mempool) == 1)
            assert it.mempool.actions() == [register("bob")]

    @pytest.mark.box("S5.1", "gossip-verified")
    async def test_who_knows_less_of_the_state_is_no_liar(self, tmp_path: Path) -> None:
        chain = Chain()
        chain.commit(register("ada"))
        async with rig(tmp_path, chain) as it:
            it.gateway()
            await it.apply(*chain.bundles)
            peer = await it.peer("peer-gateway")
            await send(peer, action("ada", "agent.move", {"to": [1, 1]}, 0))
            await send(peer, action("nobody", "agent.move", {"to": [1, 1]}, 1))
            await eventually(lambda: it.refused("action") == {"nonce_used": 1, "unauthorized": 1})
            await send(peer, action("ada", "agent.move", {"to": [1, 1]}, 1))
            await eventually(lambda: len(it.mempool) == 1)

    @pytest.mark.box("S5.1", "gossip-bounded")
    async def test_what_waits_to_be_judged_is_bounded_in_messages_and_bytes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gossip_queue, "QUEUED_BYTES", 1000)
        async with rig(tmp_path) as it:
            role = it.gateway()
            for _ in range(50):
                role._on_gossip("peer-x", bytes(300))
            assert len(role._gossip) == 3
            assert it.refused("action") == {"busy": 47}
            monkeypatch.setattr(gossip_queue, "QUEUED_MESSAGES", 2)
            role._on_gossip("peer-x", b"")
            assert len(role._gossip) == 3

    @pytest.mark.box("S5.1", "gossip-verified")
    async def test_what_waits_is_judged_together_and_each_message_for_itself(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with rig(tmp_path) as it:
            role = it.gateway()
            turns: list[int] = []
            judge = role._judge

            async def counted(actions: Sequence[ActionEnvelope]) -> verification.Judged:
                turns.append(len(actions))
                return await judge(actions)

            monkeypatch.setattr(role, "_judge", counted)
            wrong = dataclasses.replace(register("eve"), signature=bytes(64))
            role._on_gossip("peer-a", encode(Actions((register("ada"), move("ada")))))
            role._on_gossip("peer-liar", encode(Actions((register("bob"), wrong, register("dan")))))
            role._on_gossip("peer-garbage", b"garbage")
            role._on_gossip("peer-b", encode(Actions((register("ada"), register("fay")))))
            await eventually(lambda: register("fay").action_id in it.mempool)
            assert it.mempool.actions() == [register("ada"), move("ada"), register("bob"), register("fay")]
            assert turns == [7]
            assert it.refused("action") == {"invalid_signature": 1, "malformed_encoding": 1}
            sources = {one.action.actor_id: one.source for one in it.mempool.waiting_now()}
            assert sources == {"ada": "peer peer-a", "bob": "peer peer-liar", "fay": "peer peer-b"}
            for struck in ("peer-liar", "peer-garbage"):
                role._on_gossip(struck, encode(Actions((register("guy"),))))
            assert it.refused("action")["busy"] == 2

    async def test_a_turn_takes_what_fits_beside_the_oldest_and_that_in_any_case(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gossip_queue, "TOGETHER_BYTES", 100)
        queue = gossip_queue.GossipQueue()
        for size in (300, 40, 60, 1, 99):
            assert queue.put("peer", bytes(size))
        turns = [[len(payload) for _, payload in await queue.take()] for _ in range(3)]
        assert turns == [[300], [40, 60], [1, 99]]
        assert (len(queue), queue._bytes) == (0, 0)


class TestSubmission:
    @pytest.mark.box("S7.1", "same-id")
    @pytest.mark.box("S7.1", "nothing-wrong-is-published")
    async def test_others_hear_what_was_taken_under_the_id_of_its_receipt_and_nothing_that_was_refused(
        self, tmp_path: Path
    ) -> None:
        async with rig(tmp_path) as it:
            role = it.gateway()
            heard = listen(await it.peer("peer-a"))
            wrong = (
                dataclasses.replace(register("ada"), signature=bytes(64)),
                dataclasses.replace(register("ada"), payload_hash="a" * 64),
                action("ada", "agent.move", {"to": [1, 1]}, 1, world="mars"),
                action("nobody", "agent.move", {"to": [1, 1]}, 1),
                action("ada", "dragon.summon", {}, 1),
            )
            refused = await role.submit(wrong)
            assert all(isinstance(item, AgentWorldError) for item in refused)
            (taken,) = await role.submit([register("bob")])
            assert isinstance(taken, dict)
            await eventually(lambda: heard)
            assert [item.action_id for item in heard] == [taken["action_id"]] == [register("bob").action_id]

    async def test_actions_are_passed_on_in_pieces_that_fit(self, tmp_path: Path) -> None:
        async with rig(tmp_path) as it:
            role = it.gateway()
            peer = await it.peer("peer-a")
            sizes: list[int] = []
            peer.subscribe(TOPIC, lambda _peer, data: sizes.append(len(data)))
            blob = "x" * 15_000
            actions = [register("ada")]
            actions += [action("ada", "object.create", {"object_id": f"o{n}", "data": blob}, n) for n in range(1, 60)]
            results = await role.submit(actions)
            assert all(isinstance(result, dict) and result["status"] == "pooled" for result in results)
            await eventually(lambda: len(sizes) >= 4)
            assert max(sizes) <= gateway_module.GOSSIP_BYTES

    @pytest.mark.box("S7.1", "repeated")
    async def test_own_actions_are_repeated_until_they_are_committed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gateway_module, "REPEAT_SECONDS", 0.02)
        chain = Chain()
        async with rig(tmp_path, chain) as it:
            role = it.gateway()
            await role.submit([register("ada"), register("bob")])
            heard = listen(await it.peer("peer-late"))
            await eventually(lambda: heard.count(register("ada")) >= 2 and heard.count(register("bob")) >= 2)
            chain.commit(register("ada"))
            await it.apply(*chain.bundles)
            count = heard.count(register("ada"))
            await eventually(lambda: heard.count(register("bob")) >= count + 3)
            assert heard.count(register("ada")) <= count + 1
            assert list(role._own) == [register("bob").action_id]

    @pytest.mark.box("S7.1", "repeated")
    async def test_a_turn_repeats_only_so_much_and_the_longest_waiting_first(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gateway_module, "REPEAT_ACTIONS", 3)
        async with rig(tmp_path) as it:
            role = it.gateway()
            actions = [register(f"a{number}") for number in range(5)]
            await role.submit(actions)
            start = next(iter(role._own.values()))
            assert role._to_repeat(start) == []
            later = start + gateway_module.REPEAT_SECONDS + 1
            assert role._to_repeat(later) == actions[:3]
            assert role._to_repeat(later) == actions[3:]
            assert role._to_repeat(later) == []

    async def test_an_actor_may_act_in_the_request_that_registers_it(self, tmp_path: Path) -> None:
        async with rig(tmp_path) as it:
            role = it.gateway()
            move = action("ada", "agent.move", {"to": [1, 1]}, 1)
            (refused,) = await role.submit([move])
            assert isinstance(refused, Unauthorized)
            results = await role.submit([register("ada"), move])
            assert [isinstance(result, dict) for result in results] == [True, True]
            (third,) = await role.submit([action("ada", "agent.move", {"to": [2, 2]}, 2)])
            assert isinstance(third, dict), "its registration waits in the mempool"

    async def test_when_work_is_refused_known_actions_still_get_their_receipts(self, tmp_path: Path) -> None:
        async with rig(tmp_path) as it:
            role = it.gateway()
            await role.submit([register("ada")])
            role.refuse_work = lambda: Busy("full")
            known, fresh = await role.submit([register("ada"), register("bob")])
            assert isinstance(known, dict)
            assert known["duplicate"]
            assert isinstance(fresh, Busy)
            assert len(it.mempool) == 1

    @pytest.mark.box("S5.1", "duplicate-before-signature")
    async def test_duplicates_are_found_before_any_signature_is_checked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chain = Chain()
        chain.commit(register("ada"))
        async with rig(tmp_path, chain) as it:
            role = it.gateway()
            await it.apply(*chain.bundles)
            await role.submit([register("bob")])
            checked: list[bytes] = []

            def verify(_key: bytes, signature: bytes, _data: bytes) -> bool:
                checked.append(signature)
                return True

            monkeypatch.setattr(actions_module, "verify_bytes", verify)
            committed, pooled = await role.submit([register("ada"), register("bob")])
            assert [isinstance(item, dict) and item["duplicate"] for item in (committed, pooled)] == [True, True]
            assert checked == []
            (fresh,) = await role.submit([register("eve")])
            assert isinstance(fresh, dict)
            assert (fresh["status"], "duplicate" in fresh) == ("pooled", False)
            assert len(checked) == 1

    async def test_the_cache_of_verified_actions_is_bounded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(verification, "VERIFIED_KEPT", 3)
        async with rig(tmp_path) as it:
            role = it.gateway()
            await role.submit([register(f"a{number}") for number in range(5)])
            assert len(role._verified) == 3
            # Also for what is refused, of which there may be any number.
            results = await role.submit([move(f"b{number}") for number in range(5)])
            assert all(isinstance(result, Unauthorized) for result in results)
            assert len(role._verified) == 3

    async def test_what_was_refused_for_the_state_is_known_to_be_signed_rightly(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with rig(tmp_path) as it:
            role = it.gateway()
            (refused,) = await role.submit([move("ada")])
            assert isinstance(refused, Unauthorized)
            assert refused.__traceback__ is None, "it would keep the whole request in memory"
            assert role.is_verified(envelope_id(move("ada")))
            (forged,) = await role.submit([dataclasses.replace(move("bob"), signature=bytes(64))])
            assert isinstance(forged, InvalidSignature)
            assert not role.is_verified(envelope_id(dataclasses.replace(move("bob"), signature=bytes(64))))

    async def test_a_copy_whose_original_is_dropped_meanwhile_is_not_taken_without_a_judgement(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with rig(tmp_path) as it:
            role = it.gateway()
            await role.submit([register("ada")])
            # The id does not cover the signature, so this is a copy of what waits.
            copy = dataclasses.replace(register("ada"), signature=bytes(64))
            judge = role._judge

            async def slow(actions: list[ActionEnvelope]) -> list[tuple[ActionEnvelope, AgentWorldError | None]]:
                it.mempool.remove([copy.action_id])
                return await judge(actions)

            monkeypatch.setattr(role, "_judge", slow)
            (result,) = await role.submit([copy])
            assert isinstance(result, Busy)
            assert len(it.mempool) == 0
            assert not role.is_verified(envelope_id(copy))

    async def test_what_a_judged_block_held_is_not_verified_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with rig(tmp_path) as it:
            role = it.gateway()
            role.note_verified([register("ada")])
            monkeypatch.setattr(actions_module, "verify_bytes", lambda _key, _signature, _data: False)
            known, strange = await role.submit([register("ada"), register("bob")])
            assert isinstance(known, dict)
            assert isinstance(strange, InvalidSignature)

    async def test_the_index_is_asked_once_about_those_whose_nonces_are_spent_and_about_nobody_else(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chain = Chain()
        done = [register("ada"), register("bob")]
        chain.commit(*done)
        async with rig(tmp_path, chain) as it:
            role = it.gateway()
            await it.apply(*chain.bundles)
            asked: list[int] = []
            index = it.ledger._stores.index
            rows = index._rows

            def counted(*given: str) -> object:
                asked.append(len(given))
                return rows(*given)

            monkeypatch.setattr(index, "_rows", counted)
            results = await role.submit([register(f"a{number}") for number in range(100)])
            assert all(isinstance(result, dict) and result["status"] == "pooled" for result in results)
            assert asked == []
            results = await role.submit([*done, register("eve")])
            assert [isinstance(result, dict) and result["status"] for result in results] == [
                "committed",
                "committed",
                "pooled",
            ]
            assert asked == [3]  # the statement and two ids
            assert it.ledger.committed([register("ada").action_id, "a" * 64]) == {register("ada").action_id}

    async def test_the_id_of_a_committed_action_opens_no_door_to_another(self, tmp_path: Path) -> None:
        chain = Chain()
        chain.commit(register("ada"))
        async with rig(tmp_path, chain) as it:
            role = it.gateway()
            await it.apply(*chain.bundles)
            forged = dataclasses.replace(move("ada"), action_id=register("ada").action_id)
            (result,) = await role.submit([forged])
            assert isinstance(result, HashMismatch)
            assert len(it.mempool) == 0

    async def test_the_actors_that_are_remembered_are_bounded_and_those_of_the_head(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(newcomers, "ACTORS_KEPT", 10)
        chain = Chain()
        async with rig(tmp_path, chain) as it:
            role = it.gateway()
            for number in range(30):
                await role.submit([register(f"a{number}")])
            assert len(role._new._actors) <= 12
            chain.commit(register("ada"))
            await it.apply(*chain.bundles)
            assert role._new.actors().agent("ada") is not None
            assert role._new.actors() is role._new.actors()


class TestAcceptance:
    @pytest.mark.box("S7.1", "receipt")
    async def test_a_receipt_says_when_this_node_first_took_the_action_as_long_as_it_waits(
        self, tmp_path: Path
    ) -> None:
        chain, now = Chain(), [1234]
        chain.commit(register("ada"))
        async with rig(tmp_path, chain) as it:
            role = it.gateway(clock_ms=lambda: now[0])
            action_id = register("ada").action_id
            accepted = {"action_id": action_id, "status": "pooled", "accepted_at_ms": 1234}
            assert await role.submit([register("ada")]) == [accepted]
            now[0] = 5000
            assert await role.submit([register("ada")]) == [{**accepted, "duplicate": True}]
            assert role.receipt(action_id) == accepted
            await it.apply(*chain.bundles)
            assert "accepted_at_ms" not in role.receipt(action_id), "what the ledger says is the same at every node"
            assert role.receipt(action_id)["status"] == "committed"

    async def test_what_came_by_gossip_was_accepted_when_this_node_took_it(self, tmp_path: Path) -> None:
        now = [1234]
        async with rig(tmp_path) as it:
            role = it.gateway(clock_ms=lambda: now[0])
            await send(await it.peer("peer-gateway"), register("ada"))
            await eventually(lambda: len(it.mempool) == 1)
            now[0] = 5000
            (receipt,) = await role.submit([register("ada")])
            assert isinstance(receipt, dict)
            assert (receipt["accepted_at_ms"], receipt["duplicate"]) == (1234, True)


class TestOutcome:
    @pytest.mark.box("S7.1", "receipt")
    @pytest.mark.box("S5.1", "remove")
    async def test_those_who_wait_get_the_receipt_when_the_block_is_committed(self, tmp_path: Path) -> None:
        chain = Chain()
        async with rig(tmp_path, chain) as it:
            role = it.gateway()
            results = await role.submit([register("ada")])
            waiting = asyncio.create_task(role.wait_committed(results, seconds=60))
            chain.commit(register("ada"))
            await it.apply(*chain.bundles)
            (receipt,) = await waiting
            assert isinstance(receipt, dict)
            assert (receipt["status"], receipt["height"]) == ("committed", 1)
            assert role.receipt(register("ada").action_id) == receipt
            assert len(it.mempool) == 0
            assert it.metrics.total("agentworld_actions_committed_total") == 1

    async def test_who_waits_is_let_go_with_what_is_known_and_nobody_waits_any_more(self, tmp_path: Path) -> None:
        async with rig(tmp_path) as it, asyncio.timeout(PATIENCE):
            role = it.gateway()
            ada, bob = await role.submit([register("ada"), register("bob")])
            waiting = [asyncio.create_task(role.wait_committed(each, seconds=3600)) for each in ([ada, bob], [bob])]
            await eventually(lambda: len(role._waiters) == 3)
            role.answer_waiting()
            assert await asyncio.gather(*waiting) == [[ada, bob], [bob]]
            assert await role.wait_committed([ada], seconds=3600) == [ada]
            assert (len(role._waiters), role._waiters._groups) == (0, {})

    @pytest.mark.box("S5.1", "stale")
    async def test_an_action_that_lost_its_nonce_is_dropped_and_whoever_waits_is_told_why(self, tmp_path: Path) -> None:
        chain = Chain()
        chain.commit(register("ada"))
        async with rig(tmp_path, chain) as it:
            role = it.gateway()
            await it.apply(*chain.bundles)
            here, there = (action("ada", "agent.move", {"to": [n, n]}, 1) for n in (1, 2))
            results = await role.submit([here])
            waiting = asyncio.create_task(role.wait_committed(results, seconds=60))
            chain.commit(there)
            await it.apply(chain.bundles[1])
            (outcome,) = await waiting
            assert isinstance(outcome, NonceUsed)
            with pytest.raises(NonceUsed):
                role.receipt(here.action_id)
            assert len(it.mempool) == 0
            assert dict(role._own) == {}

    async def test_what_is_unknown_is_not_found(self, tmp_path: Path) -> None:
        async with rig(tmp_path) as it:
            role = it.gateway()
            with pytest.raises(NotFound):
                role.receipt("a" * 64)

    async def test_an_action_that_is_committed_while_it_is_judged_is_not_pooled(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chain = Chain()
        async with rig(tmp_path, chain) as it:
            role = it.gateway()
            chain.commit(register("ada"))
            judge = role._judge

            async def slow(actions: list[ActionEnvelope]) -> list[tuple[ActionEnvelope, AgentWorldError | None]]:
                verdicts = await judge(actions)
                await it.apply(*chain.bundles)
                return verdicts

            monkeypatch.setattr(role, "_judge", slow)
            (result,) = await role.submit([register("ada")])
            assert isinstance(result, dict)
            assert result["status"] == "committed"
            assert len(it.mempool) == 0
