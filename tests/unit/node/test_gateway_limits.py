"""What the gateway takes from one source, for how long it keeps it, and how many threads check it."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from agentworld_core.errors import AgentWorldError, Busy, Expired, InvalidSignature, Unauthorized
from agentworld_core.messages import ActionEnvelope
from agentworld_core.ordering.mempool import MempoolLimits
from agentworld_core.signing import verify_bytes
from agentworld_core.world import actions as actions_module
from agentworld_core.world.actions import envelope_id
from agentworld_node.roles import acceptance, verification
from agentworld_node.roles import gateway as gateway_module
from agentworld_node.roles.verification import MOST_WORKERS, worker_count
from tests.unit.core.ledger.chains import Chain
from tests.unit.core.world.agents import action, register
from tests.unit.node.material import registrations
from tests.unit.node.rig import rig
from tests.unit.node.running import MemoryWorld, eventually
from tests.unit.node.test_gateway_role import listen, send


class TestSources:
    @pytest.mark.box("S5.1", "source-limit")
    async def test_one_address_with_many_actors_cannot_take_all_places(self, tmp_path: Path) -> None:
        async with rig(tmp_path) as it:
            it.mempool.limits = MempoolLimits(max_actions=4, max_per_source=2)
            role = it.gateway()
            first = await role.submit([register(f"a{number}") for number in range(3)], source="192.0.2.1")
            assert [isinstance(result, dict) for result in first] == [True, True, False]
            assert isinstance(first[2], Busy)
            (other,) = await role.submit([register("b")], source="192.0.2.2")
            assert isinstance(other, dict)
            # A duplicate needs no place.
            (again,) = await role.submit([register("a0")], source="192.0.2.1")
            assert isinstance(again, dict)

    @pytest.mark.box("S5.1", "source-limit")
    async def test_a_peer_has_its_share_and_is_no_liar_when_it_has_more(self, tmp_path: Path) -> None:
        async with rig(tmp_path) as it:
            it.mempool.limits = MempoolLimits(max_actions=10, max_per_source=2)
            role = it.gateway()
            await role.submit([register("own")], source="192.0.2.1")
            loud, quiet = await it.peer("peer-loud"), await it.peer("peer-quiet")
            # What this node has already does not count for the peer that repeats it.
            await send(loud, register("own"), register("a"), register("b"), register("c"), register("d"))
            await eventually(lambda: it.refused("action") == {"busy": 2})
            await send(quiet, register("c"))
            await eventually(lambda: len(it.mempool) == 4)
            assert [it.mempool.of_source(f"peer {name}") for name in ("peer-loud", "peer-quiet")] == [2, 1]
            it.mempool.remove([register("a").action_id])
            await send(loud, register("d"))
            await eventually(lambda: register("d").action_id in it.mempool)

    @pytest.mark.box("S5.1", "source-limit")
    async def test_over_http_the_source_is_the_address_of_the_client(self, alone: MemoryWorld) -> None:
        (stuck,) = await alone.start("g0", mempool_max_per_source=2)
        _, actions = registrations(3)
        async with stuck.client(patience=0) as client:
            results = await client.submit(actions)
        assert stuck.node.mempool.of_source("client 127.0.0.1") == 2
        assert [result.get("status") or result["error"]["code"] for result in results] == ["pooled", "pooled", "busy"]


class TestExpiry:
    @pytest.mark.box("S5.1", "expiry")
    async def test_who_waits_is_told_and_it_is_neither_repeated_nor_proposed_and_may_be_submitted_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gateway_module, "REPEAT_SECONDS", 0.02)
        now = [1_000_000]
        monkeypatch.setattr(acceptance, "_now_ms", lambda: now[0])
        chain = Chain()
        async with rig(tmp_path, chain) as it:
            it.mempool.limits = MempoolLimits(expiry_ms=60_000)
            role = it.gateway(clock_ms=lambda: now[0])
            changes: list[int] = []
            results = await role.submit([register("ada")])
            now[0] += 30_000
            await role.submit([register("bob")])
            waiting = asyncio.create_task(role.wait_committed(results, seconds=60))
            role.on_change = lambda: changes.append(len(it.mempool))
            now[0] += 30_001
            (outcome,) = await waiting
            assert isinstance(outcome, Expired)
            assert outcome.retryable
            assert "submit it again" in str(outcome)
            with pytest.raises(Expired):
                role.receipt(register("ada").action_id)
            assert it.mempool.take_batch() == (register("bob"),)
            assert changes == [1]
            assert it.metrics.total("agentworld_actions_expired_total") == 1
            heard = listen(await it.peer("peer-a"))
            await eventually(lambda: heard.count(register("bob")) >= 3)
            assert register("ada") not in heard
            # Again, and only once: here it is pooled, and its first copy may come back in a block.
            (again,) = await role.submit([register("ada")])
            assert again == {"action_id": register("ada").action_id, "status": "pooled", "accepted_at_ms": now[0]}
            chain.commit(register("ada"))
            await it.apply(*chain.bundles)
            assert role.receipt(register("ada").action_id)["status"] == "committed"
            assert it.mempool.actions() == [register("bob")]

    @pytest.mark.box("S5.1", "expiry")
    async def test_a_node_drops_what_its_configuration_says(
        self, alone: MemoryWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gateway_module, "REPEAT_SECONDS", 0.02)
        (stuck,) = await alone.start("g0", mempool_expiry_ms=50)
        _, (one,) = registrations(1)
        async with stuck.client(patience=0) as client:
            (result,) = await client.submit([one], wait=True)
            assert (result["error"]["code"], result["error"]["retryable"]) == ("action_expired", True)
        assert len(stuck.node.mempool) == 0


def wrong(name: str) -> ActionEnvelope:
    return dataclasses.replace(register(name), signature=bytes(64))


class TestWorkers:
    @pytest.mark.box("S5.1", "workers")
    @pytest.mark.parametrize("workers", [1, 2, 3, 8])
    @pytest.mark.parametrize("count", [1, 7, 16, 41])
    async def test_outcomes_are_in_the_order_of_the_request_however_many_threads_there_are(
        self, tmp_path: Path, workers: int, count: int
    ) -> None:
        kinds: list[tuple[Callable[[str], ActionEnvelope], type[AgentWorldError] | None]] = [
            (register, None),
            (wrong, InvalidSignature),
            (lambda name: action(name, "agent.move", {"to": [1, 1]}, 1), Unauthorized),
        ]
        made = [(kinds[number % 3][0](f"a{number}"), kinds[number % 3][1]) for number in range(count)]
        async with rig(tmp_path) as it:
            role = it.gateway(workers=workers, clock_ms=lambda: 1234)
            results = await role.submit([one for one, _ in made])
            for (one, expected), result in zip(made, results, strict=True):
                if expected is None:
                    assert result == {"action_id": one.action_id, "status": "pooled", "accepted_at_ms": 1234}
                else:
                    assert isinstance(result, expected)
                assert role.is_verified(envelope_id(one)) == (expected is not InvalidSignature)

    @pytest.mark.box("S5.1", "workers")
    async def test_the_signatures_of_one_request_are_checked_by_as_many_threads_as_there_may_be_at_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        meeting = threading.Barrier(3, timeout=30)
        met: set[str] = set()

        def verify_together(key: bytes, signature: bytes, data: bytes) -> bool:
            name = threading.current_thread().name
            if name not in met:
                # Nobody goes on before three threads have come here.
                meeting.wait()
                met.add(name)
            return verify_bytes(key, signature, data)

        monkeypatch.setattr(actions_module, "verify_bytes", verify_together)
        async with rig(tmp_path) as it:
            role = it.gateway(workers=3)
            results = await role.submit([register(f"a{number}") for number in range(48)])
            assert all(isinstance(result, dict) for result in results)
            assert len(met) == 3
            assert threading.current_thread().name not in met

    @pytest.mark.box("S5.1", "workers")
    async def test_what_is_verified_is_known_at_once_while_others_are_still_being_checked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        actions = [register(f"a{number}") for number in range(16)]
        go_on = threading.Event()

        def hold_the_last(key: bytes, signature: bytes, data: bytes) -> bool:
            if signature == actions[-1].signature:
                assert go_on.wait(30)
            return verify_bytes(key, signature, data)

        monkeypatch.setattr(actions_module, "verify_bytes", hold_the_last)
        async with rig(tmp_path) as it:
            role = it.gateway(workers=2)
            request = asyncio.create_task(role.submit(actions))
            await eventually(lambda: all(role.is_verified(envelope_id(one)) for one in actions[:-1]))
            assert not request.done()
            go_on.set()
            await request
            assert role.is_verified(envelope_id(actions[-1]))

    @pytest.mark.box("S5.1", "workers")
    async def test_what_it_remembers_is_bounded_with_many_threads_too(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(verification, "VERIFIED_KEPT", 5)
        async with rig(tmp_path) as it:
            role = it.gateway(workers=4)
            await role.submit([register(f"a{number}") for number in range(64)])
            assert len(role._verified) == 5

    @pytest.mark.box("S5.1", "workers")
    async def test_the_threads_end_with_the_node(self, alone: MemoryWorld) -> None:
        before = set(threading.enumerate())

        def threads() -> set[str]:
            return {one.name for one in set(threading.enumerate()) - before if one.name.startswith("verification")}

        (node,) = await alone.start("v0", verification_workers=2)
        assert node.node.gateway._verified.workers == 2
        await alone.commit("v0", registrations(40)[1])
        assert threads() == {"verification_0", "verification_1"}
        await node.stop()
        assert threads() == set()

    @pytest.mark.box("S5.1", "workers")
    @pytest.mark.parametrize(
        ("setting", "cores", "expected"), [(0, 2, 2), (0, 64, MOST_WORKERS), (0, None, 1), (1, 64, 1), (12, 2, 12)]
    )
    def test_without_a_setting_there_is_one_for_each_core_up_to_eight(
        self, monkeypatch: pytest.MonkeyPatch, setting: int, cores: int | None, expected: int
    ) -> None:
        monkeypatch.setattr("os.cpu_count", lambda: cores)
        assert worker_count(setting) == expected
