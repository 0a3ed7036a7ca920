"""A node as a whole: how it starts, when it is ready, how it stops, and that it never ends without saying why."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from agentworld_core.codec import encode
from agentworld_core.errors import AgentWorldError, InvalidField, NotAvailable, NotFound, WrongWorld
from agentworld_node.lease.file import FileLeaseStore
from agentworld_node.node import Node
from agentworld_node.node_ending import NodeFailed
from agentworld_node.node_files import PeersFile, read_peers
from agentworld_node.storage.errors import CorruptLog, FolderLocked, LogFailed, StorageFull
from agentworld_node.storage.wal import WriteAheadLog
from tests.unit.node.material import Material, make_genesis, peer_id, registrations
from tests.unit.node.running import MemoryWorld, RunningNode, eventually, get, memory_world
from tests.unit.node.test_ledger import fail


def break_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("agentworld_node.storage.files.LocalFile.sync", refuse)


class TestStart:
    def node(self, material: Material, **changes: Any) -> Node:
        return Node(material.config("v0", **changes), network=MemoryWorld(material).network("v0"))

    def test_what_is_missing_or_wrong_is_named(self, tmp_path: Path) -> None:
        material = Material(tmp_path, validators=("v0",))
        with pytest.raises(NotFound, match="genesis"):
            self.node(material, genesis_file=str(tmp_path / "none"))
        with pytest.raises(NotFound, match="key file"):
            self.node(material, identity_file=str(tmp_path / "none"))
        with pytest.raises(InvalidField, match="genesis_file"):
            self.node(material, genesis_file=str(tmp_path))
        with pytest.raises(WrongWorld, match="genesis"):
            self.node(material, world_id="mars")
        garbage = tmp_path / "garbage"
        garbage.write_bytes(b"garbage")
        with pytest.raises(AgentWorldError):
            self.node(material, genesis_file=str(garbage))

    @pytest.mark.box("S19.1", "own-world")
    def test_a_genesis_that_governance_did_not_sign_is_refused(self, tmp_path: Path) -> None:
        material = Material(tmp_path, validators=("v0",))
        forged = dataclasses.replace(material.genesis, created_at_ms=1)
        material.genesis_file.write_bytes(encode(forged))
        with pytest.raises(AgentWorldError, match="signature"):
            self.node(material)

    @pytest.mark.box("S26.2", "damaged")
    async def test_a_folder_in_use_and_a_corrupt_log_are_told(self, tmp_path: Path) -> None:
        material = Material(tmp_path, validators=("v0",))
        async with memory_world(material) as world:
            await world.commit("v0", registrations(2)[1])
            with pytest.raises(FolderLocked) as caught:
                self.node(material)
            assert caught.value.remedy
        log_folder = material.node_folder("v0") / "data" / "log"
        for note in log_folder.glob("*.note"):
            note.unlink()  # a start reads only what no note tells of
        (segment,) = log_folder.glob("*.wal")
        data = bytearray(segment.read_bytes())
        data[100] ^= 1
        segment.write_bytes(data)
        with pytest.raises(CorruptLog):
            self.node(material)

    async def test_an_occupied_port_is_told_and_everything_closed(self, tmp_path: Path) -> None:
        material = Material(tmp_path, validators=("v0",))
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            node = self.node(material, http_port=taken.getsockname()[1])
            with pytest.raises(NotAvailable, match="cannot listen") as caught:
                await node.run()
            assert caught.value.remedy
        self.node(material).ledger.close()

    @pytest.mark.box("S19.1", "own-world")
    async def test_a_world_with_another_genesis_in_the_folder_is_refused(self, tmp_path: Path) -> None:
        material = Material(tmp_path, validators=("v0",))
        async with memory_world(material) as world:
            await world.commit("v0", registrations(1)[1])
        material.genesis_file.write_bytes(encode(make_genesis(("v0",))))
        with pytest.raises(InvalidField, match="another genesis"):
            self.node(material)


class TestReadiness:
    async def test_reasons_in_their_order(self, tmp_path: Path) -> None:
        async with memory_world(Material(tmp_path), start=False) as world:
            (node,) = await world.start("v0")
            assert await get(node.url, "/readyz") == (503, "no peer is connected\n")
            assert await get(node.url, "/livez") == (200, "ok\n")
            network = world.network("v1")
            await network.start()
            assert await get(node.url, "/readyz") == (503, "no peer has answered yet\n")
            await network.stop()
            await world.start("v1", "v2")
            await eventually(lambda: node.node.not_ready() is None)
            assert await get(node.url, "/readyz") == (200, "ok\n")
            node.node.sync.notice_decided(9)
            assert await get(node.url, "/readyz") == (503, "9 blocks behind\n")

    async def test_a_full_disk_is_told_waited_out_and_forgotten(
        self, node: RunningNode, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        node.node.ledger.room_retry_seconds = 0.01
        fault = fail(monkeypatch, WriteAheadLog, "sync_now", StorageFull("no room"))
        agents, actions = registrations(1)
        async with node.client(patience=0) as client:
            await client.submit(actions)
            await eventually(lambda: node.node.ledger.full)
            status, text = await get(node.url, "/readyz")
            assert (status, "full" in text) == (503, True)
            assert (await client.status())["storage"]["state"] == "full"
            late = agents[0].act("agent.move", {"to": [1, 1]})
            (refused,) = await client.submit([late])
            assert refused["error"]["code"] == "busy"
            assert "agentworld_storage_full 1" in (await get(node.url, "/metrics"))[1]
            fault.active = False
            await eventually(lambda: node.height == 1 and not node.node.ledger.full)
            assert (await get(node.url, "/readyz"))[0] == 200
            assert (await client.submit([late], wait=True))[0]["status"] == "committed"


class TestEnd:
    async def test_a_log_that_fails_ends_the_node_with_its_reason(
        self, node: RunningNode, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with node.client(patience=0) as client:
            break_the_disk(monkeypatch)
            await client.submit(registrations(1)[1])
            with pytest.raises(LogFailed) as caught:
                await asyncio.wait_for(node.task, 20)
        assert caught.value.remedy
        assert "log stopped" in (node.node.failure() or "")
        monkeypatch.undo()

    async def test_a_writer_whose_disk_fails_gives_the_lease_to_the_others_at_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with memory_world(Material(tmp_path)) as world:
            name = await eventually(world.writer, what="a writer")
            broken = world.nodes[name]
            broken.node.ledger.fail(LogFailed("the disk is gone"))
            with pytest.raises(LogFailed):
                await asyncio.wait_for(broken.task, 20)
            record = await FileLeaseStore(tmp_path / "lease.json").read()
            assert record is not None
            assert record.holder != name
            await eventually(lambda: world.writer() not in (None, name), what="another writer")
            other = next(one for one in world.nodes if one != name)
            await world.commit(other, registrations(3)[1])

    async def test_what_nobody_expected_ends_it_in_one_sentence(
        self, node: RunningNode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(node.node.validator._engine, "step", lambda *_arguments: 1 // 0)
        async with node.client(patience=0) as client:
            await client.submit(registrations(1)[1])
            with pytest.raises(NodeFailed, match="ZeroDivisionError"):
                await asyncio.wait_for(node.task, 20)
        assert "Traceback" in caplog.text, "the log has the details"

    async def test_a_clean_stop_hands_the_lease_over(self, tmp_path: Path) -> None:
        async with memory_world(Material(tmp_path)) as world:
            name = await eventually(world.writer, what="a writer")
            await world.nodes[name].stop()
            record = await FileLeaseStore(tmp_path / "lease.json").read()
            assert record is not None
            assert record.holder != name
            await eventually(lambda: world.writer() not in (None, name), what="another writer")

    async def test_stopping_while_the_disk_is_full_ends_all_the_same(
        self, node: RunningNode, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("agentworld_node.node.STOP_SECONDS", 0.2)
        fail(monkeypatch, WriteAheadLog, "sync_now", StorageFull("no room"))
        async with node.client(patience=0) as client:
            await client.submit(registrations(1)[1])
        await eventually(lambda: node.node.ledger.full)
        await asyncio.wait_for(node.stop(), 20)

    async def test_a_node_whose_supervisor_is_gone_stops(
        self, alone: MemoryWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AGENTWORLD_PARENT_PID", "1" if os.getppid() != 1 else "2")
        monkeypatch.setattr("agentworld_node.node.WATCH_SECONDS", 0.01)
        (node,) = await alone.start("v0")
        await asyncio.wait_for(node.task, 20)


class TestIdle:
    async def test_a_world_in_which_nobody_acts_writes_nothing_but_the_lease(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("agentworld_node.roles.sync.ANNOUNCE_SECONDS", 0.02)
        monkeypatch.setattr("agentworld_node.roles.membership.RECONCILE_SECONDS", 0.02)
        monkeypatch.setattr("agentworld_node.node.WATCH_SECONDS", 0.02)
        async with memory_world(Material(tmp_path)) as world:
            await eventually(world.writer, what="a writer")
            await world.commit("v0", registrations(2)[1])
            await world.height(1)
            head = world.nodes["v0"].height
            await asyncio.gather(*(one.node.ledger.settle() for one in world.nodes.values()))

            def files() -> dict[Path, tuple[int, int]]:
                data = [path for name in world.nodes for path in (tmp_path / name).rglob("*") if path.is_file()]
                return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in data}

            before, tasks = files(), len(asyncio.all_tasks())
            published = world.nodes["v0"].network.counters()["published"]
            await eventually(lambda: world.nodes["v0"].network.counters()["published"] > published + 100)
            assert files() == before
            assert {one.height for one in world.nodes.values()} == {head}
            assert len(asyncio.all_tasks()) <= tasks + 8
            for one in world.nodes.values():
                node = one.node
                assert (len(node.sync._claims), len(node.gateway._own), len(node.validator._timers)) == (0, 0, 0)


class TestPeersFile:
    def test_peers_are_read_sorted_and_without_the_node_itself(self, tmp_path: Path) -> None:
        material = Material(tmp_path, validators=("v0", "v1"))
        material.write_peers({"v0": 4001, "v1": 4002})
        (peer,) = read_peers(material.peers_file, own=peer_id("v0"))
        assert (peer.peer_id, peer.addresses) == (peer_id("v1"), ("127.0.0.1:4002",))

    @pytest.mark.parametrize(
        "text", ["", "{", "{}", "[1]", '[{"peer_id": "x"}]', '[{"peer_id": "x", "addresses": ["nowhere"]}]', None]
    )
    def test_a_wrong_file_changes_nothing_and_is_told_once(
        self, tmp_path: Path, text: str | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        material = Material(tmp_path, validators=("v0", "v1"))
        material.write_peers({"v0": 4001, "v1": 4002})
        taken: list[Any] = []
        peers = PeersFile(material.peers_file, own=peer_id("v0"), take=taken.append)
        peers.reload()
        if text is None:
            material.peers_file.unlink()
        else:
            material.peers_file.write_text(text)
        for _ in range(3):
            peers.reload()
        assert len(taken) == 1
        assert len(peers.peers) == 1
        assert len(caplog.records) == 1
        material.write_peers({"v0": 4001, "v1": 4003})
        peers.reload()
        assert len(taken) == 2

    def test_a_peer_that_the_network_refuses_is_told_and_tried_again(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        material = Material(tmp_path, validators=("v0", "v1"))
        material.write_peers({"v1": 4002})

        def refuse(_peers: Any) -> None:
            raise InvalidField("is not a peer id", field="peer_id")

        peers = PeersFile(material.peers_file, own=peer_id("v0"), take=refuse)
        peers.reload()
        peers.reload()
        assert peers.peers == ()
        assert len(caplog.records) == 1
