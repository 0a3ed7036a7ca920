"""What a node says of the progress of its world: over HTTP, in its status, and on the command line."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from agentworld_node import node_progress
from agentworld_node.cli import consensus
from agentworld_node.cli.app import FAILED, NO_ANSWER, app
from tests.unit.node.material import Material, registrations
from tests.unit.node.running import MemoryWorld, eventually, get, memory_world

assert consensus.consensus_app is not None, "importing it registers its commands"


async def seen(world: MemoryWorld, name: str) -> dict[str, Any]:
    async with world.nodes[name].client() as client:
        return await client.consensus()


async def tells(world: MemoryWorld, name: str, message: str) -> dict[str, Any]:
    """The document of a node once this is its verdict."""
    progress = world.nodes[name].node.progress
    await eventually(lambda: progress.verdict().message == message, what=f"{name} says: {message}")
    return await seen(world, name)


async def invoke(*words: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, app, ["consensus", "status", *words])


async def test_an_idle_world(tmp_path: Path) -> None:
    async with memory_world(Material(tmp_path, others=("g0",))) as world:
        writer = await eventually(world.writer, what="a writer")
        await world.commit("v0", registrations(2)[1])
        v0 = world.nodes["v0"].node
        await eventually(lambda: v0.lease is not None and v0.lease.view == (1, writer), what="v0 sees the lease")
        found = await tells(world, "v0", "idle: no actions wait")
        assert found["verdict"] == {
            "state": "Idle", "message": "idle: no actions wait", "stalled": False, "waited_ms": 0,
        }  # fmt: skip
        assert found["height"] == found["head"]["height"] + 1
        assert found["head"]["since_ms"] < 60_000
        assert found["votes"] is True
        assert (found["step"], found["pool"], found["proposal"]) == ("propose", {"actions": 0}, None)
        assert found["quorum"] == {"needed": 3, "total": 4, "prevotes": 0, "precommits": 0}
        lease = found["lease"]
        assert (lease["holder"], lease["term"], lease["store_answers"]) == (writer, 1, True)
        assert 0 < lease["expires_in_ms"] <= 3000
        async with world.nodes["v0"].client() as client:
            status = await client.status()
        assert status["consensus"] == {"state": "Idle", "message": "idle: no actions wait", "stalled": False}

        observer = await tells(world, "g0", "idle: no actions wait")
        assert (observer["votes"], observer["step"]) == (False, None)
        shown = await invoke("--gateway", world.nodes["g0"].url)
        assert shown.exit_code == 0, shown.output
        assert "ok idle: no actions wait" in shown.output
        assert "g0 does not vote; what a validator sees, it says itself: v0, v1, v2, v3" in shown.output
        assert len(shown.output.splitlines()) <= 24, "one screen"


async def test_too_few_validators_are_named_and_in_the_end_the_world_is_stalled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with memory_world(Material(tmp_path), start=False) as world:
        await world.start("v0", "v1")
        await eventually(world.writer, what="a writer")
        async with world.nodes["v0"].client() as client:
            await client.submit(registrations(1)[1])
        message = "2 of 4 validators are in touch and 3 are needed: no v2, v3"
        found = await tells(world, "v1", message)
        assert found["verdict"]["state"] == "NoQuorum"
        assert [row["in_touch"] for row in found["validators"]] == [True, True, False, False]
        assert found["pool"] == {"actions": 1}
        now = node_progress._now_ms
        monkeypatch.setattr(node_progress, "_now_ms", lambda: now() + 11_000)
        found = await seen(world, "v1")
        assert found["verdict"]["stalled"] is True
        assert found["verdict"]["waited_ms"] >= 11_000
        assert "agentworld_stalled 1\n" in (await get(world.nodes["v1"].url, "/metrics"))[1]
        shown = await invoke("--gateway", world.nodes["v1"].url)
        assert f"stalled {message} (for 1" in shown.output

        await world.start("v2")
        await world.height(1, "v0", "v1", "v2")
        found = await tells(world, "v1", "idle: no actions wait")
        assert found["verdict"]["stalled"] is False


async def test_votes_that_are_missing_are_named(tmp_path: Path) -> None:
    """The engine of one validator is held up, so that it is in touch and says nothing."""
    async with memory_world(Material(tmp_path), start=False) as world:
        await world.start("v0", "v1", "v2")
        writer = await eventually(world.writer, what="a writer")
        silent = next(name for name in ("v2", "v1") if name != writer)
        other = next(name for name in ("v0", "v1", "v2") if name not in (writer, silent))
        world.nodes[silent].node.validator._do = lambda effects: None  # type: ignore[method-assign]
        async with world.nodes[other].client() as client:
            await client.submit(registrations(1)[1])
        missing = sorted(("v3", silent))
        found = await tells(world, other, f"waits for 1 more of 3 prevotes: {', '.join(missing)} missing")
        assert found["verdict"]["state"] == "Prevotes"
        assert found["missing"]["prevotes"] == missing
        assert found["proposer"] == writer
        votes = {row["validator_id"]: row["prevote"] for row in found["validators"]}
        assert votes == {
            name: None if name in missing else {"block_hash": found["proposal"]} for name in ("v0", "v1", "v2", "v3")
        }
        shown = await invoke("--gateway", world.nodes[other].url)
        assert f"deciding {found['verdict']['message']}" in shown.output
        as_json = await invoke("--gateway", world.nodes[other].url, "--output", "json")
        assert json.loads(as_json.output)["height"] == 1


async def test_a_node_that_does_not_run_here_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv("AGENTWORLD_DATA", raising=False)
    result = await invoke("--node", "v9")
    assert result.exit_code == FAILED


async def test_a_node_that_does_not_answer_is_named_after_a_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen process still has its connections taken by the kernel, and never says a word."""
    monkeypatch.setattr(consensus, "ANSWER_SECONDS", 0.2)
    async with silent_server() as url:
        shown = await invoke("--gateway", url)
    assert shown.exit_code == NO_ANSWER, shown.output
    said = " ".join(shown.stderr.split())
    assert f"no answer from {url} in time" in said
    assert "it may be stopped, overloaded or cut off; ask another node" in said


@contextlib.asynccontextmanager
async def silent_server() -> AsyncIterator[str]:
    """The address of a port that takes connections and requests, and answers none."""
    ended = asyncio.Event()

    async def keep(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ended.wait()
        writer.close()

    async with await asyncio.start_server(keep, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}"
        ended.set()
