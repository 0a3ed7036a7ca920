"""A clean stop loses nothing: what waits is written down, taken up again at the next start, and committed."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import pytest

from agentworld_core.ordering.mempool import MempoolLimits
from agentworld_core.world import actions as actions_module
from agentworld_node.pool_file import Kept, PoolFile
from agentworld_node.roles import acceptance, pool_keeper
from agentworld_node.roles import gateway as gateway_module
from agentworld_node.roles.gateway import GatewayRole
from agentworld_node.roles.pool_keeper import PoolKeeper
from tests.unit.core.ledger.chains import Chain
from tests.unit.core.world.agents import action, register
from tests.unit.node.material import Material, registrations
from tests.unit.node.rig import rig
from tests.unit.node.running import eventually, memory_world


def keeper(role: GatewayRole, file: PoolFile) -> PoolKeeper:
    return PoolKeeper(file, take=role.take_up, waiting=role.waiting)


def pool_file(folder: Path) -> PoolFile:
    return PoolFile(folder / "pool.cbor", "aurora")


def kept(*names: str) -> list[Kept]:
    return [Kept(action=register(name), source="client 192.0.2.1", waited_ms=50, own=True) for name in names]


@pytest.mark.box("S5.1", "kept-over-a-stop")
@pytest.mark.parametrize("validators", [("v0",), ("v0", "v1", "v2")])
async def test_what_could_not_be_committed_before_a_stop_is_committed_after_it(
    tmp_path: Path, validators: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway that reaches nobody is stopped twice; then it meets the validators."""
    monkeypatch.setattr(gateway_module, "REPEAT_SECONDS", 0.1)
    material = Material(tmp_path, validators=validators, others=("g0",))
    agents, actions = registrations(3)
    actions += [one.act("agent.move", {"to": [1, number]}) for number, one in enumerate(agents)]
    file = pool_file(material.node_folder("g0") / "data")
    async with memory_world(material, start=False) as world:
        (stuck,) = await world.start("g0")
        async with stuck.client() as client:
            receipts = await client.submit(actions)
        assert {receipt["status"] for receipt in receipts} == {"pooled"}
        await stuck.stop()
        assert [one.action for one in file.load()] == actions
        (again,) = await world.start("g0")
        assert again.node.mempool.actions() == actions
        assert not file.path.exists()
        await again.stop()
        await world.start(*validators, "g0")
        last = world.nodes["g0"].node
        await eventually(lambda: all(last.ledger.receipt(one.action_id) for one in actions), what="the receipts")
        # Who sends one again hears that it counts already.
        async with world.nodes["g0"].client() as client:
            (receipt,) = await client.submit(actions[:1])
        assert (receipt["status"], receipt["duplicate"]) == ("committed", True)
        assert len(last.mempool) == 0
        await world.stop()
    assert not file.path.exists()


@pytest.mark.box("S5.1", "kept-over-a-stop")
async def test_a_node_that_is_killed_promises_nothing_and_starts_all_the_same(tmp_path: Path) -> None:
    material = Material(tmp_path, validators=("v0",), others=("g0",))
    async with memory_world(material, start=False) as world:
        (stuck,) = await world.start("g0")
        async with stuck.client() as client:
            await client.submit(registrations(1)[1])
        await stuck.kill()
        assert not pool_file(material.node_folder("g0") / "data").path.exists()
        (again,) = await world.start("g0")
        assert len(again.node.mempool) == 0


@pytest.mark.box("S5.1", "kept-file")
async def test_a_node_with_a_damaged_file_starts_and_names_where_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    material = Material(tmp_path, validators=("v0",), others=("g0",))
    folder = material.node_folder("g0") / "data"
    folder.mkdir()
    pool_file(folder).path.write_bytes(b"garbage")
    async with memory_world(material, start=False) as world:
        (node,) = await world.start("g0")
        assert len(node.node.mempool) == 0
    assert (folder / "pool.cbor.damaged-1").read_bytes() == b"garbage"
    assert str(folder / "pool.cbor.damaged-1") in caplog.text


@pytest.mark.box("S5.1", "kept-over-a-stop")
async def test_the_file_is_there_until_everything_in_it_is_in_the_pool_and_twice_is_like_once(tmp_path: Path) -> None:
    file = pool_file(tmp_path)
    file.write(kept("ada", "bob"))
    before = file.path.read_bytes()
    async with rig(tmp_path / "data") as it:
        role = it.gateway()
        seen: list[bool] = []

        async def take(some: list[Kept]) -> list[Kept]:
            again = await role.take_up(some)
            seen.append(file.path.exists())
            return again

        pool = PoolKeeper(file, take=take, waiting=role.waiting)  # type: ignore[arg-type]
        await pool.take_up()
        assert (seen, file.path.exists()) == ([True], True), "the start may still fail"
        await pool.run()
        assert not file.path.exists()
        assert it.mempool.of_source("client 192.0.2.1") == 2
        # A crash before the file was gone: it is taken up again.
        file.path.write_bytes(before)
        pool = keeper(role, file)
        await pool.take_up()
        await pool.run()
        assert it.mempool.actions() == [register("ada"), register("bob")]
        assert it.mempool.of_source("client 192.0.2.1") == 2
        assert not file.path.exists()


@pytest.mark.box("S5.1", "kept-over-a-stop")
async def test_what_the_state_refuses_by_now_is_dropped_and_told_and_what_is_in_a_block_is_no_news(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    chain = Chain()
    chain.commit(register("ada"), register("bob"))
    chain.commit(action("bob", "agent.move", {"to": [1, 1]}, 1))
    late = action("bob", "agent.move", {"to": [2, 2]}, 1)
    forged = dataclasses.replace(register("eve"), signature=bytes(64))
    good = action("ada", "agent.move", {"to": [1, 1]}, 1)
    file = pool_file(tmp_path)
    file.write([Kept(action=one, source="", waited_ms=0, own=True) for one in (register("ada"), late, forged, good)])
    async with rig(tmp_path / "data", chain) as it:
        role = it.gateway()
        await it.apply(*chain.bundles)
        pool = keeper(role, file)
        await pool.take_up()
        await pool.run()
        assert it.mempool.actions() == [good]
        assert late.action_id in caplog.text
        assert forged.action_id in caplog.text
        assert register("ada").action_id not in caplog.text
        assert role.receipt(register("ada").action_id)["status"] == "committed"
        assert not file.path.exists()


@pytest.mark.box("S5.1", "kept-over-a-stop")
async def test_a_start_while_the_clock_is_slow_keeps_what_seems_to_come_from_the_future(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_keeper, "RETRY_SECONDS", 0.01)
    chain = Chain()
    chain.commit(register("ada"))
    waits = action("ada", "agent.move", {"to": [1, 1]}, 1)
    file = pool_file(tmp_path)
    file.write([Kept(action=waits, source="", waited_ms=0, own=True)])
    async with rig(tmp_path / "data", chain) as it:
        role = it.gateway()
        await it.apply(*chain.bundles)
        pool = keeper(role, file)
        with monkeypatch.context() as clock:
            clock.setattr(time, "time_ns", lambda: 0)
            clock.setattr(actions_module, "MAX_CLOCK_AHEAD_MS", waits.timestamp_ms - 1)
            await pool.take_up()
            assert it.mempool.actions() == []
            await pool.write_down()
            assert [one.action for one in file.load()] == [waits]
        it.tasks.create_task(pool.run())
        await eventually(lambda: it.mempool.actions() == [waits], what="the action")


@pytest.mark.box("S5.1", "kept-over-a-stop")
async def test_what_finds_no_room_is_taken_up_when_there_is_some_and_is_in_no_danger_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_keeper, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(pool_keeper, "CHUNK", 2)
    names = ("ada", "bob", "eve", "joe", "kim")
    everything = [register(name) for name in names]
    file = pool_file(tmp_path)
    file.write(kept(*names))
    async with rig(tmp_path / "data") as it:
        it.mempool.limits = MempoolLimits(max_actions=3)
        role = it.gateway()
        pool = keeper(role, file)
        await pool.take_up()
        assert it.mempool.actions() == everything[:3]
        assert [one.action for one in file.load()] == everything
        it.tasks.create_task(pool.run())
        # Stopped now, it would keep what waits and what has found no room, in their order.
        await pool.write_down()
        assert [one.action for one in file.load()] == everything
        it.mempool.remove([register("ada").action_id, register("bob").action_id])
        await eventually(lambda: not file.path.exists())
        assert it.mempool.actions() == everything[2:]


@pytest.mark.box("S5.1", "kept-over-a-stop")
async def test_the_next_run_knows_who_brought_what_how_long_it_waited_and_what_it_has_to_pass_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = pool_file(tmp_path)
    async with rig(tmp_path / "one") as it:
        role = it.gateway(clock_ms=lambda: 1234)
        await role.submit([register("ada")], source="192.0.2.1")
        it.mempool.add(register("bob"), source="peer x", now_ms=acceptance._now_ms() - 5_000)
        first = keeper(role, file)
        await first.take_up()
        await first.write_down()
    ada, bob = file.load()
    assert (ada.action, ada.source, ada.own) == (register("ada"), "client 192.0.2.1", True)
    assert (bob.action, bob.source, bob.own) == (register("bob"), "peer x", False)
    assert 5_000 <= bob.waited_ms < 65_000
    assert ada.accepted_at_ms == 1234
    monkeypatch.setattr(gateway_module, "REPEAT_SECONDS", 0.02)
    async with rig(tmp_path / "two") as it:
        role = it.gateway()
        await keeper(role, file).take_up()
        assert list(role._own) == [register("ada").action_id]
        assert it.mempool.waiting_now()[1].since_ms <= acceptance._now_ms() - 5_000
        assert it.mempool.of_source("peer x") == 1
        assert role.receipt(register("ada").action_id)["accepted_at_ms"] == 1234, "not the time of the restart"


async def test_what_a_version_without_times_of_acceptance_kept_was_accepted_when_it_began_to_wait(
    tmp_path: Path,
) -> None:
    file = pool_file(tmp_path)
    file.write(kept("ada"))
    assert file.load()[0].accepted_at_ms is None
    async with rig(tmp_path) as it:
        role = it.gateway(clock_ms=lambda: 1234)
        await keeper(role, file).take_up()
        assert role.receipt(register("ada").action_id)["accepted_at_ms"] == 1234 - 50


@pytest.mark.box("S5.1", "kept-file")
async def test_a_full_disk_at_the_stop_is_told_and_a_run_that_took_nothing_up_overwrites_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = pool_file(tmp_path)
    file.write(kept("ada"))
    async with rig(tmp_path / "data") as it:
        role = it.gateway()
        await keeper(role, file).write_down()
        assert [one.action for one in file.load()] == [register("ada")]
        pool = keeper(role, file)
        await pool.take_up()

        def refuse(_kept: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(file, "write", refuse)
        await pool.write_down()
    assert "could not be kept for the next start" in caplog.text
