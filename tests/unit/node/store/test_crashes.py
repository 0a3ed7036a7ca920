"""Crashes at any moment of producing blocks, making and dropping snapshots, pinning, repairing and freeing space.

A life is cut off at a random operation of the disk, by the end of the process or by that of the power. Whatever comes
of it: nothing is missing that the settled part of the chain needs, and the last life reaches the state that a node
without crashes has. ``CRASH_SEEDS=200`` runs more of them, ``CRASH_SEED=7`` that one.
"""

from __future__ import annotations

import asyncio
import functools
import os
import random
import shutil
from pathlib import Path

import pytest

from agentworld_core.errors import AgentWorldError
from agentworld_node.ledger import Ledger
from agentworld_node.storage.blobs import FileBlobStore
from agentworld_node.storage.index import Index
from agentworld_node.storage.pins import PinStore
from agentworld_node.store.check import check
from agentworld_node.store.collect import collect
from agentworld_node.store.pinning import add_pin
from agentworld_node.store.repair import repair
from tests.unit.core.ledger.chains import Chain
from tests.unit.node.crashed import let_go
from tests.unit.node.store.folders import long_chain
from tests.unit.storage.faults import CrashDisk, PowerCut

LIVES = 6
LAST = 15
ONE = os.environ.get("CRASH_SEED")
SEEDS = [int(ONE)] if ONE else range(int(os.environ.get("CRASH_SEEDS", "40")))


@pytest.fixture(scope="module")
def chain() -> Chain:
    return long_chain(LAST)


class Machine:
    """A data folder on a disk that crashes; the index is on a real one and loses what no checkpoint has covered."""

    def __init__(self, folder: Path, chain: Chain, seed: int):
        self.rng = random.Random(seed)
        self.disk = CrashDisk(folder.parent, seed=seed, sector=64)
        self.folder = folder
        self.chain = chain
        self.saved = folder.parent / "index.saved"
        self.retain = self.rng.choice((1, 2, 3))
        self.pinned: set[str] = set()

    async def live(self) -> None:
        """Commits blocks and looks after the folder, in turns, until all blocks are there or the power is gone."""
        ledger: Ledger | None = None
        try:
            while True:
                ledger = Ledger.open(self.folder, self.chain.genesis, files=self.disk)
                ledger.retain(self.retain)
                await self.commit(ledger, self.rng.randrange(1, LAST))
                done = ledger.height == LAST
                ledger.close()
                if done:
                    return
                await self.look_after()
        finally:
            if ledger is not None:
                await let_go(ledger)

    async def commit(self, ledger: Ledger, count: int) -> None:
        for bundle in self.chain.bundles[ledger.height :][:count]:
            await ledger.apply(bundle)
            if self.rng.random() < 0.6:
                await ledger.settle()
                if ledger.failure is not None:
                    raise ledger.failure
        await ledger.settle()

    async def look_after(self) -> None:
        match self.rng.randrange(4):
            case 0:
                collect(self.folder, files=self.disk, max_bytes=self.rng.choice((None, 0, 20_000)))
            case 1:
                assert (await repair(self.folder, files=self.disk)).after.is_whole
            case 2:
                height = check(self.folder, files=self.disk).settled
                if height:
                    self.pinned.add(add_pin(self.folder, str(height), files=self.disk).pin.blob_hash)

    def crash(self) -> None:
        """Ends the life: either the process alone, or the whole machine."""
        if self.rng.random() < 0.3:
            self.disk.kill()
            return
        self.disk.crash()
        if self.saved.exists() and self.rng.random() < 0.6:
            for name in ("index.sqlite", "index.sqlite-wal", "index.sqlite-shm"):
                (self.folder / name).unlink(missing_ok=True)
            shutil.copy(self.saved, self.folder / "index.sqlite")


@pytest.mark.box("S8.2", "killed")
@pytest.mark.box("S3.2", "crash")
@pytest.mark.box("S2.4", "durable")
@pytest.mark.parametrize("seed", SEEDS)
def test_no_crash_loses_anything(tmp_path: Path, chain: Chain, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    print(f"seed {seed}: CRASH_SEED={seed} runs it alone")
    folder = tmp_path / "data"
    folder.mkdir()
    machine = Machine(folder, chain, seed)
    checkpoint = Index.checkpoint

    def saving(index: Index) -> None:
        checkpoint(index)
        shutil.copy(folder / "index.sqlite", machine.saved)

    monkeypatch.setattr(Index, "checkpoint", saving)
    # So small that packs are closed and rewritten all the time.
    pack_bytes = random.Random(seed).choice((2_000, 8_000, 10**6))
    small = functools.partial(FileBlobStore.open, pack_bytes=pack_bytes, packed_bytes=2_000)
    monkeypatch.setattr(FileBlobStore, "open", small)
    height = 0
    for life in range(LIVES + 1):
        if life < LIVES:
            machine.disk.cut_power_in(machine.rng.randrange(1, 500))
        try:
            asyncio.run(machine.live())
        except (PowerCut, AgentWorldError):
            assert machine.disk.is_off
            machine.crash()
        else:
            if life < LIVES:
                machine.disk.kill()
        if any(name.endswith(".wal") for name in machine.disk.names(folder / "log")):
            report = check(folder, files=machine.disk)
            assert report.is_whole, f"seed {seed}, life {life}: {report}"
            assert report.height >= height, f"seed {seed}, life {life}: blocks were lost"
            height = report.height
    ledger = Ledger.open(folder, chain.genesis, files=machine.disk)
    assert (ledger.height, ledger.chain.state_root) == (LAST, chain.state.state_root)
    assert [ledger.bundle(height) for height in range(1, LAST + 1)] == chain.bundles
    ledger.close()
    with PinStore.open(folder / "pins.sqlite") as pins:
        assert {pin.blob_hash for pin in pins.pins()} == machine.pinned
    collect(folder, files=machine.disk, max_bytes=0)
    report = check(folder, files=machine.disk)
    assert (report.is_whole, report.unsettled, report.unreferenced.blobs) == (True, 0, 0)
