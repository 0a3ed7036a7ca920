"""Validators as processes: killed, stopped, frozen and started again, and what their world makes of it."""

from __future__ import annotations

import asyncio
import resource
import signal
import time
from pathlib import Path

import pytest

from agentworld_client.gateway import GatewayClient
from agentworld_core.messages import BlockBundle
from agentworld_core.topology.node_config import LeaseConfig
from tests.integration.node.cluster_of_nodes import Cluster, as_json, cluster, run_cli, until
from tests.unit.node.material import QUICK_LEASE, Material, agent, member, next_epoch, registrations, revocation, signer

PATIENT_LEASE = LeaseConfig(duration_ms=120_000, renew_deadline_ms=90_000, retry_period_ms=500)
"""A lease that no test waits out: whoever writes next must have been handed it."""


async def all_blocks(client: GatewayClient) -> list[BlockBundle]:
    found: list[BlockBundle] = []
    while bundles := await client.blocks(len(found) + 1):
        found.extend(bundles)
    return found


async def check_history(world: Cluster, *names: str) -> None:
    """One hash for each height at every node, terms that only grow, every action exactly once."""
    hashes: dict[int, set[str]] = {}
    for name in names:
        async with world[name].client() as client:
            blocks = await all_blocks(client)
        for bundle in blocks:
            hashes.setdefault(bundle.block.height, set()).add(bundle.certificate.block_hash)
        terms = [bundle.block.term for bundle in blocks]
        assert terms == sorted(terms)
        actions = [action.action_id for bundle in blocks for action in bundle.batch.actions]
        assert len(set(actions)) == len(actions)
    assert all(len(seen) == 1 for seen in hashes.values())


@pytest.mark.box("S19.1", "restart")
@pytest.mark.box("S8.3", "nodes")
@pytest.mark.box("S5.3", "take-over")
async def test_a_writer_that_is_killed_is_replaced_and_comes_back_as_a_follower(tmp_path: Path) -> None:
    async with cluster(Material(tmp_path, others=("g0",))) as world:
        await world.start()
        agents, actions = registrations(200)
        await world.commit("g0", actions)
        writer, term = await world.writer()
        code, out, err = await run_cli("verify", "--replay", "--gateway", world["g0"].url, "--output", "json")
        assert code == 0, err
        head = await world.same_head()
        assert as_json(out)["state_root"] == head["state_root"]

        await world[writer].kill()
        killed = time.monotonic()
        await world.commit("g0", [agents[0].act("agent.move", {"to": [1, 1]})])
        print(f"next block {time.monotonic() - killed:.1f} s after SIGKILL of the writer, lease 3 s")
        _, new_term = await world.writer(other_than=writer)
        assert new_term > term

        for number in range(10):
            await world.commit("g0", [agents[1].act("agent.move", {"to": [number, 2]})])
        await world.start(writer)
        head = await world.same_head()
        assert head["term"] == new_term
        assert (await world[writer].status() or {})["writer"]["holder"] != writer
        await world.commit(writer, [agents[2].act("agent.move", {"to": [3, 3]})])
        await check_history(world, *world.nodes)


async def test_a_writer_that_is_stopped_cleanly_hands_over_at_once(tmp_path: Path) -> None:
    async with cluster(Material(tmp_path, lease=PATIENT_LEASE)) as world:
        await world.start()
        agents, actions = registrations(3)
        await world.commit("v0", actions)
        writer, _ = await world.writer()
        assert await world[writer].stop() == 0
        other = next(name for name in world.nodes if name != writer)
        await world.commit(other, [agents[0].act("agent.move", {"to": [1, 1]})])
        await world.writer(other_than=writer)
        assert "Traceback" not in world[writer].log.read_text()


@pytest.mark.box("S5.1", "kept-over-a-stop")
async def test_what_a_lonely_validator_has_pooled_outlives_its_stop_and_is_committed_once(tmp_path: Path) -> None:
    async with cluster(Material(tmp_path, validators=("v0", "v1"))) as world:
        lonely = world["v0"]
        lonely.start()
        await until(lonely.status, "the node answers")
        _, actions = registrations(20)
        async with lonely.client() as client:
            assert {receipt["status"] for receipt in await client.submit(actions)} == {"pooled"}
        assert await lonely.stop() == 0
        data = str(world.material.node_folder("v0") / "data")
        code, out, err = await run_cli("store", "check", "--data", data, "--output", "json")
        assert (code, as_json(out)["waiting"]) == (0, 20), err
        await world.start()

        async def all_committed() -> bool:
            async with lonely.client() as client:
                found = [await client.receipt(action.action_id) for action in actions]
            return all(receipt["status"] == "committed" for receipt in found)

        await until(all_committed, "everything is committed without being sent again")
        assert not (Path(data) / "pool.cbor").exists()
        await check_history(world, "v0", "v1")


@pytest.mark.box("S5.3", "frozen-holder")
async def test_a_writer_that_is_frozen_past_its_lease_decides_nothing_when_it_wakes(tmp_path: Path) -> None:
    async with cluster(Material(tmp_path)) as world:
        await world.start()
        agents, actions = registrations(4)
        await world.commit("v0", actions)
        await world.same_head()
        writer, term = await world.writer()
        others = [name for name in world.nodes if name != writer]
        # It has work at hand, so that it wakes in the middle of writing.
        async with world[writer].client() as client:
            world[writer].signal(signal.SIGSTOP)
            frozen_at = time.monotonic()
            late = asyncio.create_task(client.submit([agents[0].act("agent.move", {"to": [9, 9]})]))
            for number in range(5):
                await world.commit(others[0], [agents[1].act("agent.move", {"to": [number, 1]})])
            _, new_term = await world.writer(other_than=writer, over=term)
            # Twice as long as the lease, whoever was how quick.
            await asyncio.sleep(max(0.0, frozen_at + 2 * QUICK_LEASE.duration_ms / 1000 - time.monotonic()))
            world[writer].signal(signal.SIGCONT)
            await late
            await world.commit(writer, [agents[2].act("agent.move", {"to": [7, 7]})])
        await world.same_head()
        status = await world[writer].status() or {}
        assert status["writer"]["term"] >= new_term
        await check_history(world, *world.nodes)
        for name in world.nodes:
            assert await world[name].metric("agentworld_evidence_total") == 0
        receipts = await world.commit(others[0], [agents[3].act("agent.move", {"to": [8, 8]})])
        assert receipts[0]["ok"]


@pytest.mark.box("S8.2", "every-role")
@pytest.mark.box("S26.3", "crash-anywhere")
async def test_all_killed_at_once_come_back_with_everything_that_was_committed(tmp_path: Path) -> None:
    async with cluster(Material(tmp_path)) as world:
        await world.start()
        agents, actions = registrations(20)
        await world.commit("v1", actions)
        moves = [one.act("agent.move", {"to": [number, 0]}) for number in range(50) for one in agents]

        async def under_way() -> bool:
            committed = await world["v0"].metric("agentworld_actions_committed_total")
            return committed > len(actions) or bool(await world["v0"].metric("agentworld_mempool_actions"))

        async with world["v0"].client(patience=0) as client:
            sending = asyncio.create_task(client.submit(moves, wait=True))
            await until(under_way, "the moves are taken, and some perhaps committed")
            await asyncio.gather(*(node.kill() for node in world.nodes.values()))
            await asyncio.gather(sending, return_exceptions=True)
        await world.start()
        await world.commit("v2", actions + moves)
        await world.same_head()
        await check_history(world, *world.nodes)


async def test_a_revoked_key_is_refused_at_once_and_a_new_one_votes_after_the_rotation(tmp_path: Path) -> None:
    async with cluster(Material(tmp_path)) as world:
        await world.start()
        agents, actions = registrations(2)
        await world.commit("v0", actions)
        key_id = signer("v3").key_id
        async with world["v0"].client() as client:
            await client.publish_revocation(revocation(key_id))

        async def known_by_all() -> bool:
            statuses = await asyncio.gather(*(node.status() for node in world.nodes.values()))
            return all(status is not None and key_id in status["revocations"]["key_ids"] for status in statuses)

        await until(known_by_all, "all know of the revocation")
        await world.commit("v0", [agents[0].act("agent.move", {"to": [1, 1]})])
        assert (await world["v3"].status() or {})["signing"]["voting"] is False
        await world.same_head()

        world.material.write_keys("v3", generations=(1, 2), active=2)
        async with world["v1"].client() as client:
            first = await client.directory()
            members = [member("v3", generations=(2,)) if one.member_id == "v3" else one for one in first.members]
            await client.publish_directory(next_epoch(first, members=members))

        async def rotated() -> bool:
            statuses = await asyncio.gather(*(node.status() for node in world.nodes.values()))
            return all(status is not None and status["directory"]["epoch"] == 2 for status in statuses)

        await until(rotated, "epoch 2 is in force")
        # Without v3 there is no quorum now, so its new key must have counted.
        await world["v2"].kill()
        await world.commit("v0", [agents[1].act("agent.move", {"to": [2, 2]})])
        await until(lambda: world["v3"].metric("agentworld_votes_signed_total"), "v3 votes")


async def test_a_node_without_room_waits_says_so_and_goes_on(tmp_path: Path) -> None:
    """A limit on the size of files takes the part of a full disk."""
    async with cluster(Material(tmp_path)) as world:
        full = world["v3"]
        await world.start()
        resource.prlimit(full.pid, resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
        agents, actions = registrations(20)
        await world.commit("v0", actions)

        async def is_full() -> bool:
            for _ in range(5):
                data = "x" * 8000
                await world.commit(
                    "v0",
                    [one.act("object.create", {"object_id": f"o{time.time_ns()}", "data": data}) for one in agents[:4]],
                )
            status, reason = await full.get("/readyz")
            return status == 503 and "full" in reason

        await until(is_full, "v3 says that its disk is full")
        assert (await full.get("/livez"))[0] == 200
        assert await full.metric("agentworld_storage_full") == 1
        resource.prlimit(full.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        await world.ready("v3")
        await world.same_head()
        assert full.runs


async def test_one_validator_alone_needs_nobody(tmp_path: Path) -> None:
    material = Material(tmp_path, validators=("v0",))
    async with cluster(material) as world:
        await world.start()
        await world.commit("v0", registrations(5)[1])
        await world["v0"].kill()
        await world.start()
        await world.commit("v0", [agent("b").act("agent.register", {"position": [0, 0]})])
        assert await world["v0"].stop() == 0


@pytest.mark.box("S19.1", "archive")
async def test_a_node_begins_with_an_archive_and_catches_up(tmp_path: Path) -> None:
    async with cluster(Material(tmp_path, others=("g0",))) as world:
        names = [name for name in world.nodes if name != "g0"]
        await world.start(*names)
        agents, actions = registrations(8)
        await world.commit("v0", actions)
        for number in range(6):
            await world.commit("v0", [agents[0].act("agent.move", {"to": [number, 1]})])
        await world.same_head(*names)
        archive, data = tmp_path / "world.tar", Path(world.material.config("g0").data_folder)
        code, out, err = await run_cli("export", str(archive), "--gateway", world["v1"].url, "--output", "json")
        assert code == 0, err
        exported = as_json(out)
        await world.commit("v0", [agents[1].act("agent.move", {"to": [9, 9]})])

        trust = ("--genesis-hash", exported["genesis_hash"])
        for words in (
            ("verify", str(archive), "--replay", *trust),
            ("import", str(archive), "--data", str(data), *trust),
        ):
            code, out, err = await run_cli(*words, "--output", "json")
            assert code == 0, err
            assert as_json(out)["state_root"] == exported["state_root"]
        code, out, err = await run_cli("verify", str(data), "--output", "json")
        assert (code, as_json(out)["height"]) == (0, exported["height"]), err
        await world.start("g0")
        head = await world.same_head()
        assert head["height"] > exported["height"]
        code, out, err = await run_cli(
            "diff", str(exported["height"]), str(head["height"]), "--gateway", world["g0"].url, "--output", "json"
        )
        changed = {item["key"]: item["after"] for item in as_json(out)["keys"] if item["group"] == "agent"}
        moved = f"agent/{agents[1].actor_id}"
        assert (list(changed), changed[moved]["position"]) == ([moved], [9, 9]), err
        await check_history(world, *world.nodes)
