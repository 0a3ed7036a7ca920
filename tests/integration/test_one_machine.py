"""A world on one machine, with real processes: what it promises to who starts it, edits it, and depends on it."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from agentworld_client.keys import save
from agentworld_node.supervisor.ports import LOOPBACK
from agentworld_node.supervisor.record import is_running
from agentworld_node.supervisor.state import WorldState
from tests.integration.worlds import (
    LocalWorld,
    agents,
    key,
    moves,
    registrations,
    resource,
    run_cli,
    until,
    verify,
    world,
)


def generations(state: WorldState, name: str) -> list[tuple[int, str]]:
    found = next(item for item in state.keys if item.name == name)
    return [(generation["generation"], generation["state"]) for generation in found.generations]


def key_id(state: WorldState, name: str) -> str:
    return next(item.active_key_id for item in state.keys if item.name == name)


def pids(state: WorldState) -> dict[str, int | None]:
    return {node.node_id: node.pid for node in state.nodes}


async def test_a_key_is_rotated_while_actions_flow_and_everything_verifies(tmp_path: Path) -> None:
    signing = key("aurora-0-signing", rotation={"overlap": "1s"})
    async with LocalWorld(tmp_path, world(4), signing) as local:
        before = await local.up()
        actors = agents(4)
        async with local.client("aurora-gateway-0") as client:
            first = await client.submit(registrations(actors), wait=True)
            flowing = asyncio.create_task(flow(client, actors))
            output = await local.apply(world(4), key("aurora-0-signing", rotation={"overlap": "1s"}, generation=2))
            after = await local.when(
                lambda state: generations(state, "aurora-0-signing") == [(1, "Retired"), (2, "Active")],
                "the old key is retired",
            )
            receipts = first + await flowing
            report = await verify(client.url, "--genesis", before.genesis_hash)

        assert output == ["world/aurora unchanged", "membershipkey/aurora-0-signing configured"]
        assert all(receipt["status"] == "committed" and receipt["ok"] for receipt in receipts)
        assert after.epoch == before.epoch + 2, "one epoch trusts the new key, one drops the old"
        assert pids(after) == pids(before), "no process is restarted by a rotation"
        assert key_id(after, "aurora-0-signing") != key_id(before, "aurora-0-signing")
        head = await local.same_head([*local.validators(), "aurora-gateway-0"])
        assert report["height"] >= max(receipt["height"] for receipt in receipts)
        assert (head["height"], head["state_root"]) >= (report["height"], "")
        again = await verify(client.url)
        assert (again["height"], again["state_root"]) == (head["height"], head["state_root"])


async def flow(client: Any, actors: list[Any]) -> list[dict[str, Any]]:
    """Submits small batches, one after the other."""
    receipts: list[dict[str, Any]] = []
    for _ in range(10):
        receipts += await client.submit(moves(actors, 8), wait=True)
    return receipts


@pytest.mark.box("S27.4", "while-actions-flow")
async def test_members_and_revocations_follow_the_manifests(tmp_path: Path) -> None:
    async with LocalWorld(tmp_path, world(4, gateway={"replicas": 0})) as local:
        before = await local.up()
        actors = agents(2)
        async with local.client() as client:
            await client.submit(registrations(actors), wait=True)

            await local.apply(world(5, gateway={"replicas": 0}))
            joined = await local.settled()
            assert [node.phase for node in joined.nodes] == ["Voting"] * 5
            assert joined.members == 5

            lost = key_id(joined, "aurora-1")
            revoking = key("aurora-1", validator="aurora-1", revoked=[{"keyId": lost, "reason": "lost"}])
            await local.apply(revoking)
            revoked = await local.settled()
            assert generations(revoked, "aurora-1") == [(1, "Revoked"), (2, "Active")], "it is replaced at once"
            assert [(item.key_id, item.applied_by, item.pending_nodes) for item in revoked.revocations] == [
                (lost, 5, ())
            ]
            directory = await client.directory()
            assert [item.key_id for item in directory.revoked] == [lost]

            await local.apply(world(4, gateway={"replicas": 0}))
            four = [f"aurora-{n}" for n in range(4)]
            await local.when(
                lambda state: state.settled and [node.node_id for node in state.nodes] == four, "the fifth has left"
            )
            assert [member.member_id for member in (await client.directory()).members] == local.validators()
            assert "aurora-4" not in local.note_processes()

            receipts = await client.submit(moves(actors, 4), wait=True)
            assert all(receipt["ok"] for receipt in receipts)
            report = await verify(client.url, "--genesis", before.genesis_hash)
            assert report["height"] == (await local.same_head(local.validators()))["height"]


async def test_one_of_four_may_stand_still_two_may_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def suspended(number: int, suspend: bool) -> dict[str, Any]:
        return resource("Validator", f"aurora-{number}", world="aurora", suspend=suspend)

    without_gateway = world(4, gateway={"replicas": 0})
    async with LocalWorld(tmp_path, without_gateway) as local:
        state = await local.up()
        actors = agents(2)
        async with local.client("aurora-0") as client:
            await client.submit(registrations(actors), wait=True)

            # The governance keys of a world that runs here are found without being named.
            monkeypatch.setenv("AGENTWORLD_DATA", str(local.data))
            done = await run_cli("writer", "transfer", "--to", "aurora-1", "--gateway", state.gateway)
            assert "aurora-1 writes" in done.stdout, done.stderr
            await local.when(lambda state: state.writer == "aurora-1", "it is shown as the writer")

            await local.apply(suspended(3, True))
            await local.when(lambda state: state.voting == 3, "one stands still")
            receipts = await client.submit(moves(actors, 4), wait=True)
            assert [receipt["status"] for receipt in receipts] == ["committed"] * 4

            await local.apply(suspended(2, True), wait=False)
            stuck = await local.when(lambda state: state.phase == "NoQuorum", "two stand still")
            waiting = await client.submit(moves(actors, 2))
            assert [receipt["status"] for receipt in waiting] == ["pooled"] * 2
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(5):
                    await anext(client.events(stuck.height + 1))
            why = await client.consensus()
            assert why["verdict"]["state"] == "NoQuorum", why
            assert why["verdict"]["message"].endswith("3 are needed: no aurora-2, aurora-3")

            await local.apply(suspended(2, False), wait=False)
            await local.when(lambda state: state.height > stuck.height, "blocks go on")

            async def committed() -> bool:
                return all([(await client.receipt(item["action_id"]))["status"] == "committed" for item in waiting])

            await until(committed, "what waited is committed")


async def test_a_supervisor_that_is_killed_goes_on_and_a_second_one_is_refused(tmp_path: Path) -> None:
    async with LocalWorld(tmp_path, world(1)) as local:
        before = await local.up()
        second = await run_cli("up", "--data", str(local.data), "--port", "0")
        assert second.returncode == 1
        assert "runs the world of this folder already" in second.stderr
        actors = agents(1)
        async with local.client() as client:
            committed = await client.submit(registrations(actors), wait=True)

        local.kill_supervisor()
        assert not is_running(local.data)
        refused = await run_cli("apply", "-f", str(tmp_path / "manifests"), "--data", str(local.data))
        assert refused.returncode == 3
        assert "no supervisor runs the world" in refused.stderr

        after = await local.up()
        assert after.genesis_hash == before.genesis_hash
        assert key_id(after, "aurora-0") == key_id(before, "aurora-0")
        async with local.client() as client:
            found = await client.receipt(committed[0]["action_id"])
        assert (found["height"], found["position"]) == (committed[0]["height"], committed[0]["position"])

        await local.down()
        assert local.note_processes() == {}, "a clean stop ends every node"
        assert not (local.data / "supervisor.json").exists()


async def test_in_the_background_it_is_found_and_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    local = LocalWorld(tmp_path, world(1))
    local.data = tmp_path / "agentworld" / "aurora"
    try:
        started = await run_cli("up", "-f", str(tmp_path / "manifests"), "--port", "0", "--detach", "--output", "json")
        assert started.returncode == 0, started.stderr
        state = WorldState.from_dict(json.loads(started.stdout))
        assert (state.phase, state.data) == ("Running", str(local.data))

        status = await run_cli("status", "--gateway", state.gateway, "--output", "json")
        assert json.loads(status.stdout)["local_world"]["world"] == "aurora"
        shown = await run_cli("status", "--gateway", state.gateway)
        assert "World aurora: running" in shown.stdout
        assert "Node aurora-gateway-0" in shown.stdout
        assert "progress idle: no actions wait" in shown.stdout
        why = await run_cli("consensus", "status", "--node", "aurora-0")
        assert "ok idle: no actions wait" in why.stdout, why.stderr
        assert "World aurora as aurora-0 sees it" in why.stdout

        stopped = await run_cli("down")
        assert stopped.returncode == 0, stopped.stderr
        assert local.note_processes() == {}
        again = await run_cli("down", "aurora")
        assert again.returncode == 3
        assert "no supervisor runs the world of this folder" in again.stderr
    finally:
        await run_cli("down", "aurora")
        await local.kill()


@pytest.mark.box("S7.1", "rate")
async def test_a_rate_limit_holds_at_every_node_and_is_taken_away_while_the_world_runs(tmp_path: Path) -> None:
    nodes = ("aurora-0", "aurora-gateway-0")
    async with LocalWorld(tmp_path, world(1, gateway={"rateLimit": {"requestsPerSecond": 1, "burst": 2}})) as local:
        before = await local.up()
        for name in nodes:
            async with local.client(name, patience=0) as client:
                results = await client.submit(registrations(agents(9, prefix=f"at-{name}")))
            codes = [result.get("status") or result["error"]["code"] for result in results]
            # Whoever is slow enough may submit one more.
            assert (codes[:2], codes[-1]) == (["pooled"] * 2, "rate_limited")
        key_file = tmp_path / "ada.pem"
        save(agents(1)[0].signer, key_file)
        words = ["agent.register", '{"position": [0, 0]}', *["agent.move", '{"to": [1, 1]}'] * 3]
        sent = await run_cli("submit", *words, "-k", str(key_file), "-a", "ada", "--gateway", before.gateway)
        assert sent.returncode == 0, "the command line waits until all are taken: " + sent.stdout + sent.stderr

        await local.apply(world(1))
        after = await local.settled()
        assert all(pids(after)[name] != pids(before)[name] for name in nodes)
        for name in nodes:
            async with local.client(name) as client:
                results = await client.submit(registrations(agents(9, prefix=f"then-at-{name}")), wait=True)
            assert [result["status"] for result in results] == ["committed"] * 9


async def test_what_may_not_be_is_refused_and_the_world_runs_on(tmp_path: Path) -> None:
    async with LocalWorld(tmp_path, world(1), key(generation=1)) as local:
        before = await local.up()
        bad = [
            world(1, worldId="other"),
            key(generation=3),
            resource("MembershipKey", "stray", world="borealis", validator="x"),
        ]
        local.write(*bad)
        result = await run_cli("apply", "-f", str(tmp_path / "manifests"), "--data", str(local.data))

        assert result.returncode == 1
        assert "worldId cannot be changed" in result.stderr
        assert "generation grows by one at a time" in result.stderr
        after = await local.settled()
        assert (after.epoch, pids(after), after.world_id) == (before.epoch, pids(before), "aurora")

        local.write(world(0), key(generation=1))
        result = await run_cli(
            "apply", "-f", str(tmp_path / "manifests"), "--data", str(local.data), "--output", "json"
        )
        error = json.loads(result.stderr)["error"]
        assert error["code"] == "invalid_manifest"
        assert error["complaints"][0]["field"] == "spec.validators.replicas"
        assert error["complaints"][0]["remedy"]
        assert (await local.settled()).members == 1


async def test_a_taken_port_is_said_before_anything_is_made(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        local = LocalWorld(tmp_path, world(1))
        result = await run_cli("up", "-f", str(tmp_path / "manifests"), "--data", str(local.data), "--port", str(port))

    assert result.returncode == 1
    assert f"--port: is taken by another program (got '{port}')" in result.stderr
    assert not (local.data / "genesis.cbor").exists()


@pytest.mark.parametrize("words", [("up", "--port", "0"), ("apply",)])
async def test_broken_files_are_all_named(tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "a.yaml").write_text("kind: [World")
    (tmp_path / "b.yaml").write_text(
        "apiVersion: agentworld.dev/v1alpha1\nkind: World\nmetadata: {name: W}\nspec: {x: 1}"
    )

    result = await run_cli(*words, "-f", str(tmp_path), "--data", str(tmp_path / "world"))

    assert result.returncode == 1
    for part in (
        "a.yaml: is not YAML",
        "World (no name)",
        "metadata.name: is not an id (got 'W')",
        "spec.x: is not a field",
    ):
        assert part in result.stderr
    assert not (tmp_path / "world").exists()
