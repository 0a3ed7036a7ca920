"""An imported folder is the exported world, byte for byte; an import that does not succeed leaves nothing behind."""

from __future__ import annotations

import asyncio
import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentworld_client.errors import VerificationFailed
from agentworld_client.export import export
from agentworld_client.verifier import Verifier
from agentworld_core.codec import encode
from agentworld_core.errors import InvalidField
from agentworld_core.ledger.genesis import genesis_hash
from agentworld_node import archive_import
from agentworld_node.archive_import import import_archive
from agentworld_node.ledger import Ledger
from agentworld_node.offline import FolderSource
from agentworld_node.storage.blobs import FileBlobStore
from agentworld_node.storage.errors import FolderLocked, StorageFailed, StorageFull
from agentworld_node.storage.files import LOCAL_FILES, make_folders, sync_tree
from agentworld_node.storage.wal_segments import SegmentFolder
from tests.unit.client.chain_source import ChainSource, a_chain
from tests.unit.core.ledger.chains import Chain
from tests.unit.node.material import registrations
from tests.unit.node.running import MemoryWorld

HEIGHT = 8


@pytest.fixture(scope="module")
def chain() -> Chain:
    return a_chain()


@pytest.fixture
async def archive(chain: Chain, tmp_path: Path) -> Path:
    await export(ChainSource(chain), tmp_path / "world.tar")
    return tmp_path / "world.tar"


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) * 2 // 3] ^= 1
    path.write_bytes(data)


class TestWhatIsImported:
    @pytest.mark.box("S19.1", "archive", "same")
    async def test_the_state_and_every_block_are_those_of_the_source(
        self, chain: Chain, archive: Path, tmp_path: Path
    ) -> None:
        report = await import_archive(archive, tmp_path / "data", trusted_genesis=genesis_hash(chain.genesis))
        assert (report.height, report.state_root, report.replayed) == (HEIGHT, chain.state.state_root, True)
        assert names_in(tmp_path) == ["data", "world.tar"]
        ledger = Ledger.open(tmp_path / "data", chain.genesis)
        try:
            assert list(ledger.chain.tree.items()) == list(chain.state.tree.items())
            assert ledger.chain == chain.state
            assert [ledger.bundle(height) for height in range(1, HEIGHT + 1)] == chain.bundles
            for blob, data in chain.blobs.items():
                assert ledger.blob(blob) == data
            receipt = ledger.receipt(chain.bundles[6].batch.actions[0].action_id)
            assert receipt is not None
            assert receipt.code == "unauthorized"
        finally:
            ledger.close()

    async def test_it_can_be_verified_and_exported_again(self, archive: Path, tmp_path: Path) -> None:
        await import_archive(archive, tmp_path / "data")
        source = FolderSource(tmp_path / "data")
        assert (await Verifier(await source.genesis(), replay=True).verify(source)).height == HEIGHT
        await export(source, tmp_path / "again.tar")
        assert (tmp_path / "again.tar").read_bytes() == archive.read_bytes()  # noqa: ASYNC240

    async def test_a_world_without_blocks(self, chain: Chain, tmp_path: Path) -> None:
        await export(ChainSource(chain), tmp_path / "empty.tar", height=0)
        assert (await import_archive(tmp_path / "empty.tar", tmp_path / "data")).height == 0
        assert await FolderSource(tmp_path / "data").tip() is None

    @pytest.mark.box("S19.1", "archive")
    async def test_a_node_goes_on_from_it(self, alone: MemoryWorld, tmp_path: Path) -> None:
        (first,) = await alone.start("v0")
        agents, actions = registrations(3)
        await alone.commit("v0", actions)
        for number in range(4):
            await alone.commit("v0", [agents[0].act("agent.move", {"to": [number, 1]})])
        height, tree = first.height, first.node.ledger.chain.tree
        async with first.client() as client:
            report = await export(client, tmp_path / "world.tar")
        await first.stop()
        assert (report.height, report.state_root) == (height, tree.root)

        (tmp_path / "data").mkdir()
        await import_archive(tmp_path / "world.tar", tmp_path / "data")
        (again,) = await alone.start("v0", data_folder=str(tmp_path / "data"))
        assert (again.height, list(again.node.ledger.chain.tree.items())) == (height, list(tree.items()))
        await alone.commit("v0", [agents[0].act("agent.move", {"to": [9, 9]})])
        assert again.height == height + 1


class TestWhatIsRefused:
    @pytest.mark.box("S19.1", "validated")
    async def test_a_wrong_archive_leaves_nothing(self, archive: Path, tmp_path: Path) -> None:
        with pytest.raises(VerificationFailed):
            await import_archive(archive, tmp_path / "data", trusted_genesis="a" * 64)
        damage(archive)
        with pytest.raises(VerificationFailed):
            await import_archive(archive, tmp_path / "data")
        assert names_in(tmp_path) == ["world.tar"]

    async def test_an_interrupted_import_leaves_nothing(self, chain: Chain, tmp_path: Path) -> None:
        await export(ChainSource(chain), tmp_path / "world.tar")

        def stop(done: int, _goal: int) -> None:
            if done == 5:
                raise asyncio.CancelledError

        with pytest.raises(asyncio.CancelledError):
            await import_archive(tmp_path / "world.tar", tmp_path / "data", progress=stop)
        assert names_in(tmp_path) == ["world.tar"]

    @pytest.mark.parametrize("part", ["blobs", "log"])
    async def test_a_full_disk_is_told_and_leaves_nothing(
        self, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
    ) -> None:
        def full(*_: object, **__: object) -> None:
            raise StorageFull("no space is left", field="path", value=tmp_path)

        if part == "blobs":
            monkeypatch.setattr(FileBlobStore, "put_many", full)
        else:
            monkeypatch.setattr(SegmentFolder, "append", full)
        with pytest.raises(StorageFull):
            await import_archive(archive, tmp_path / "data")
        assert names_in(tmp_path) == ["world.tar"]

    @pytest.mark.parametrize("what", ["file", "folder"])
    async def test_a_place_that_is_taken(self, archive: Path, tmp_path: Path, what: str) -> None:
        place = tmp_path / "data"
        if what == "file":
            place.write_text("mine")
        else:
            make_folders(LOCAL_FILES, place / "mine")
        before = names_in(tmp_path)
        with pytest.raises(InvalidField, match="not an empty folder"):
            await import_archive(archive, place)
        assert names_in(tmp_path) == before

    async def test_another_import_into_the_same_place(self, archive: Path, tmp_path: Path) -> None:
        make_folders(LOCAL_FILES, tmp_path / ".data.import" / "log")
        lock = LOCAL_FILES.lock(tmp_path / ".data.import" / "log" / "lock")
        with pytest.raises(FolderLocked):
            await import_archive(archive, tmp_path / "data")
        assert names_in(tmp_path) == [".data.import", "world.tar"]
        lock.close()
        await import_archive(archive, tmp_path / "data")
        assert names_in(tmp_path) == ["data", "world.tar"]


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from agentworld_node import archive_import
from agentworld_node.archive_import import import_archive

def die(done, goal):
    if done == 6:
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(import_archive(Path(sys.argv[1]), Path(sys.argv[2]), progress=die))
"""


async def test_a_killed_import_leaves_no_folder_and_the_next_one_begins_anew(
    chain: Chain, archive: Path, tmp_path: Path
) -> None:
    words: list[Any] = [sys.executable, "-c", KILLED, archive, tmp_path / "data"]
    ended = await asyncio.to_thread(subprocess.run, words, timeout=60)
    assert ended.returncode == -9
    assert "data" not in names_in(tmp_path)
    report = await import_archive(archive, tmp_path / "data")
    assert report.state_root == chain.state.state_root
    assert names_in(tmp_path) == ["data", "world.tar"]


async def test_the_genesis_is_kept_beside_the_log(chain: Chain, archive: Path, tmp_path: Path) -> None:
    await import_archive(archive, tmp_path / "data")
    assert await FolderSource(tmp_path / "data").genesis() == chain.genesis
    other = dataclasses.replace(chain.genesis, signatures=())
    assert encode(other) != encode(chain.genesis)
    with pytest.raises(InvalidField, match="another genesis"):
        Ledger.open(tmp_path / "data", other)
    assert await FolderSource(tmp_path / "data").genesis() == chain.genesis


async def test_the_folder_gets_its_name_only_when_all_of_it_is_on_the_disk(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[list[str]] = []

    def note(folder: Path) -> None:
        synced.append(names_in(tmp_path))
        sync_tree(folder)

    monkeypatch.setattr(archive_import, "sync_tree", note)
    await import_archive(archive, tmp_path / "data")
    assert synced == [[".data.import", "world.tar"]]

    def fail(folder: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(archive_import, "sync_tree", fail)
    with pytest.raises(StorageFailed):
        await import_archive(archive, tmp_path / "other")
    assert names_in(tmp_path) == ["data", "world.tar"]


async def test_a_folder_whose_name_may_not_survive_a_crash_is_taken_away_again(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync_folder = LOCAL_FILES.sync_folder

    def fail(folder: Path) -> None:
        if (tmp_path / "data").exists():
            raise OSError(5, "Input/output error")
        sync_folder(folder)

    monkeypatch.setattr(LOCAL_FILES, "sync_folder", fail)
    with pytest.raises(StorageFailed):
        await import_archive(archive, tmp_path / "data")
    assert names_in(tmp_path) == ["world.tar"]
    monkeypatch.undo()
    await import_archive(archive, tmp_path / "data")
