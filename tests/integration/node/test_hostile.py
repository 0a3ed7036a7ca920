"""What is thrown at the sockets of a running node, and nodes that cannot start: nothing ends without a sentence."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import socket
from pathlib import Path

import pytest

from agentworld_core.codec import encode
from agentworld_core.consensus.drafts import draft_vote
from agentworld_core.messages import PREVOTE, Round
from agentworld_core.names import topic
from agentworld_core.signing import sign
from agentworld_node.network.libp2p import Libp2pConfig, Libp2pNetwork
from agentworld_node.network.port import Peer, RequestFailed
from agentworld_node.supervisor.ports import free_port
from tests.integration.node.cluster_of_nodes import Cluster, cluster, run_cli, until
from tests.unit.node.material import Material, agent, identity, peer_id, registrations, signer

TOPICS = (
    "action",
    "head",
    "membership",
    "membership.revoke",
    "consensus.vote",
    "consensus.proposal",
    "consensus.offer",
    "consensus.evidence",
)


async def throw(port: int, data: bytes, *, half: bool = False) -> bytes:
    """Sends bytes to a port and returns what comes back before the other side, or this one, ends it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        await writer.drain()
        if half:
            return b""
        writer.write_eof()
        async with asyncio.timeout(5):
            return await reader.read()
    except (OSError, TimeoutError):  # OSError: half-closing a socket that the node has reset is "not connected"
        return b""
    finally:
        writer.close()


class Outsider:
    """A libp2p network in the test's process under the identity of some name."""

    def __init__(self, world: Cluster, name: str):
        self.network = Libp2pNetwork(
            Libp2pConfig(seed=identity(name).seed, listen_port=free_port(), allow_unknown=True)
        )
        self._world = world

    async def __aenter__(self) -> Libp2pNetwork:
        running = [node for node in self._world.nodes.values() if node.runs]
        await self.network.start()
        for suffix in TOPICS:
            self.network.subscribe(topic("aurora", suffix), lambda _peer, _data: None)
        self.network.set_peers([Peer(peer_id(node.name), (f"127.0.0.1:{node.p2p_port}",)) for node in running])
        await until(lambda: len(self.network.connected()) == len(running), "the outsider is connected")
        return self.network

    async def __aexit__(self, *_rest: object) -> None:
        await self.network.stop()


async def test_garbage_on_every_socket_ends_nothing_and_is_counted(tmp_path: Path) -> None:
    async with cluster(Material(tmp_path)) as world:
        await world.start("v0", "v1", "v2")
        node = world["v0"]
        _, actions = registrations(3)
        await world.commit("v0", actions)

        garbage = [b"", b"\x00", b"\x13/multistream/1.0.0\n" + os.urandom(500), os.urandom(10_000), b"\xff" * 2_000_000]
        for data in garbage:
            await throw(node.p2p_port, data)
            await throw(node.p2p_port, data, half=True)
        requests = [
            b"GARBAGE\r\n\r\n",
            b"POST /v1/actions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nshort",
            b"POST /v1/actions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n" + b"x" * 100_000,
            b"POST /v1/actions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
            b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 100_000 + b"\r\n",
            b"GET /v1/events HTTP/1.1\r\nHost: x\r\nLast-Event-ID: \xff\xfe\r\n\r\n",
            os.urandom(100_000),
        ]
        for data in requests:
            await throw(node.http_port, data)
            await throw(node.http_port, data, half=True)

        async with Outsider(world, "v3") as network:
            for suffix in TOPICS:
                for data in (b"", b"garbage", os.urandom(2000), bytes(900_000)):
                    await network.publish(topic("aurora", suffix), data)
            for protocol in ("get_blocks", "get_revocations", "get_part", "nothing"):
                for data in (b"", b"garbage", bytes(1_000_000)):
                    with contextlib.suppress(RequestFailed):
                        await network.request(peer_id("v0"), f"/aw/rr/1.0.0/{protocol}", data, timeout=10)

            async def counted() -> bool:
                _, page = await node.get("/metrics")
                refused = [line for line in page.splitlines() if line.startswith("agentworld_messages_refused_total")]
                return all(any(f'topic="{name}"' in line for line in refused) for name in ("action", "head", "vote"))

            await until(counted, "refusals are counted")
        assert node.runs
        await world.commit("v0", registrations(3, prefix="b")[1])
        assert await node.metric("agentworld_http_malformed_total") >= 4
        assert "Traceback" not in node.log.read_text()


@pytest.mark.box("S25.1", "contradicting-vote")
async def test_a_member_that_votes_twice_leaves_evidence_on_every_node(tmp_path: Path) -> None:
    async with cluster(Material(tmp_path)) as world:
        await world.start("v0", "v1", "v2")
        await world.writer()
        votes = [
            sign(
                draft_vote(
                    world.material.genesis.directory,
                    validator_id="v3",
                    height=1,
                    round_=Round(1, 0),
                    phase=PREVOTE,
                    block_hash=letter * 64,
                ),
                signer("v3"),
            )
            for letter in "ab"
        ]
        async with Outsider(world, "v3") as network:

            async def seen_by_all() -> bool:
                for vote in votes:
                    await network.publish(topic("aurora", "consensus.vote"), encode(vote))
                nodes = [node for node in world.nodes.values() if node.runs]
                found = await asyncio.gather(*(node.status() for node in nodes))
                return all(status is not None and status["evidence"] for status in found)

            await until(seen_by_all, "all have the evidence")
        await world.commit("v0", registrations(2)[1])
        status = await world["v1"].status() or {}
        assert status["evidence"][0]["validator_id"] == "v3"
        key = status["evidence"][0]["hash"]
        saved = str(tmp_path / "proof")
        code, out, err = await run_cli("evidence", "show", key[:8], "--save", saved, "--gateway", world["v1"].url)
        assert (code, key in out) == (0, True), err

        # A node that was not there asks for it, and one that was killed has kept it.
        await world["v1"].kill()
        await world.start("v1")

        async def told_by(name: str) -> bool:
            found = await world[name].status()
            return found is not None and [item["hash"] for item in found["evidence"]] == [key]

        await until(lambda: told_by("v1"), "v1 has it still")
        await world.start("v3")
        await until(lambda: told_by("v3"), "v3 has fetched the proof against itself")
    code, out, err = await run_cli("evidence", "check", saved)
    assert (code, "v3" in out) == (0, True), err


@pytest.mark.box("S25.2", "forged-head")
async def test_heads_that_nobody_certified_make_no_node_unready(tmp_path: Path) -> None:
    async with cluster(Material(tmp_path)) as world:
        await world.start("v0", "v1", "v2")
        agents, actions = registrations(2)
        await world.commit("v0", actions)
        async with world["v0"].client() as client:
            head = await client.head()
        assert head is not None
        async with Outsider(world, "v3") as network:
            for epoch in (1, 9):
                lie = dataclasses.replace(head, height=10**9, directory_epoch=epoch)
                for _ in range(20):
                    await network.publish(topic("aurora", "head"), encode(lie))
            await until(
                lambda: world["v0"].metric('agentworld_messages_refused_total{code="state_mismatch",topic="head"}'),
                "the lie is refused",
            )
            for name in ("v0", "v1", "v2"):
                assert await world[name].is_ready(), await world[name].get("/readyz")
                assert await world[name].metric("agentworld_network_height") == head.height
            await world.commit("v1", [agents[0].act("agent.move", {"to": [1, 1]})])


class TestCannotStart:
    """Exit code 1, one line that says what to do, no traceback."""

    async def refused(self, config: Path, *words: str) -> str:
        code, out, err = await run_cli("node", "--config", str(config), *words)
        assert (code, out) == (1, ""), err
        assert "Traceback" not in err
        lines = [line for line in err.splitlines() if line.startswith("error ")]
        assert len(lines) == 1, err
        return lines[0]

    async def test_ports_folders_and_logs_that_cannot_be_used(self, tmp_path: Path) -> None:
        async with cluster(Material(tmp_path, validators=("v0",))) as world:
            material = world.material
            await world.start()
            await world.commit("v0", [agent("a").act("agent.register", {"position": [0, 0]})])
            locked = material.write_config(material.config("v0"))
            assert "another process has this log open" in await self.refused(locked)
            await world["v0"].kill()
            with socket.socket() as taken:
                taken.bind(("127.0.0.1", 0))
                taken.listen()
                port = taken.getsockname()[1]
                for field in ("http_port", "p2p_port"):
                    path = material.write_config(material.config("v0", **{field: port}))
                    assert "listen" in await self.refused(path)
            log_folder = material.node_folder("v0") / "data" / "log"
            for note in log_folder.glob("*.note"):
                note.unlink()  # a start reads only what no note tells of
            (segment,) = log_folder.glob("*.wal")
            data = bytearray(segment.read_bytes())
            data[100] ^= 1
            segment.write_bytes(data)
            assert "log is corrupt" in await self.refused(locked)
