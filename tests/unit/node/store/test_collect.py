"""``gc`` and pins: what nothing needs goes, and nothing else ever does."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
from pathlib import Path

import pytest

from agentworld_core.errors import Busy, InvalidField, NotFound, StateMismatch
from agentworld_core.ledger.snapshot import load_manifest
from agentworld_node import ledger as ledger_module
from agentworld_node.ledger import Ledger
from agentworld_node.storage import pins as pins_module
from agentworld_node.storage.blobs import PACKED_BYTES, FileBlobStore
from agentworld_node.storage.errors import BlobCorrupt, BlobNotFound, FolderLocked, PinsDamaged, TooManyPins
from agentworld_node.storage.pins import PinStore
from agentworld_node.store.check import check
from agentworld_node.store.collect import collect
from agentworld_node.store.pinning import add_pin, list_pins, remove_pin
from agentworld_node.store.repair import repair
from tests.unit.core.ledger.chains import Chain
from tests.unit.node.running import eventually
from tests.unit.node.store.folders import contents, files_below, fill, flip_blob, lose_blob, needed_blobs
from tests.unit.storage.blob_files import is_stored, place_of


def litter(folder: Path, count: int = 20, *, packed_bytes: int = PACKED_BYTES) -> list[str]:
    """Blobs that nothing needs."""
    store = FileBlobStore.open(folder / "blobs", packed_bytes=packed_bytes)
    return store.put_many(random.Random(7).randbytes(50 + number) for number in range(count))


def snapshot_of(chain: Chain, height: int) -> set[str]:
    """Manifest and chunks of a snapshot."""
    reference = chain.bundles[height - 1].block.snapshot_ref or ""
    manifest = load_manifest(reference, chain.blobs.__getitem__)
    return {reference, *(chunk.content_hash for chunk in manifest.chunks)}


class TestCollect:
    @pytest.mark.box("S2.4", "prune")
    def test_what_nothing_needs_goes_and_all_else_stays(self, folder: Path, chain: Chain) -> None:
        before = contents(folder)
        loose = litter(folder)
        report = collect(folder)
        assert (report.removed.blobs, report.left.blobs) == (len(loose), len(before))
        assert contents(folder) == before
        assert check(folder).is_whole
        assert collect(folder).removed.blobs == 0
        ledger = Ledger.open(folder, chain.genesis)
        assert ledger.chain.state_root == chain.state.state_root
        ledger.close()

    def test_a_dry_run_says_the_same_and_removes_nothing(self, folder: Path) -> None:
        litter(folder)
        before = contents(folder)
        dry = collect(folder, dry_run=True, max_bytes=1)
        assert contents(folder) == before
        real = collect(folder, max_bytes=1)
        assert (dry.removed, dry.left) == (real.removed, real.left)

    def test_a_dry_run_writes_nothing_at_all(self, folder: Path) -> None:
        (folder / "pins.sqlite").unlink()
        before = files_below(folder)
        collect(folder, dry_run=True)
        assert files_below(folder) == before

    @pytest.mark.box("S2.4", "limit")
    @pytest.mark.parametrize("packed", [True, False])
    def test_a_limit_removes_no_more_than_it_must_least_recently_used_first(self, folder: Path, packed: bool) -> None:
        order = litter(folder) if packed else litter(folder, packed_bytes=-1)
        if not packed:
            # When one of these was read last, the system knows.
            order = random.Random(3).sample(order, len(order))
            for second, name in enumerate(order):
                os.utime(place_of(folder / "blobs", name)[0], ns=(second * 10**9, second * 10**9))
        check(folder)
        total = sum(map(len, contents(folder).values()))
        first = sum(place_of(folder / "blobs", name)[2] for name in order[:7])
        report = collect(folder, max_bytes=total - first)
        assert report.removed.as_dict() == {"blobs": 7, "bytes": first}
        assert [name for name in order if is_stored(folder / "blobs", name)] == order[7:]
        assert not report.is_over_limit

    def test_the_disk_gets_the_room_back(self, folder: Path) -> None:
        size = sum(path.stat().st_size for path in (folder / "blobs").rglob("*"))
        litter(folder, 2000)
        assert sum(path.stat().st_size for path in (folder / "blobs").rglob("*")) > size + 2_000_000
        assert collect(folder).packs_rewritten >= 1
        assert sum(path.stat().st_size for path in (folder / "blobs").rglob("*")) < size + 10_000

    @pytest.mark.box("S2.4", "needed")
    def test_what_is_needed_stays_whatever_the_limit(self, folder: Path) -> None:
        before = contents(folder)
        litter(folder)
        report = collect(folder, max_bytes=0)
        assert report.is_over_limit
        assert contents(folder) == before

    def test_leftovers_of_a_removal_that_was_broken_off_go(self, folder: Path, chain: Chain) -> None:
        """A snapshot that is no longer retained, and whose blobs a crash has brought back."""
        store = FileBlobStore.open(folder / "blobs")
        store.put_many(chain.blobs[name] for name in sorted(snapshot_of(chain, 6)))
        store.close()
        assert collect(folder).removed.blobs == len(snapshot_of(chain, 6) - snapshot_of(chain, 9))
        assert check(folder).is_whole

    @pytest.mark.box("S2.4", "unsure")
    @pytest.mark.parametrize("what", ["index", "manifest", "pins", "unfilled"])
    async def test_nothing_goes_while_it_cannot_be_told_what_is_needed(
        self, folder: Path, chain: Chain, what: str
    ) -> None:
        litter(folder)
        match what:
            case "index":
                (folder / "index.sqlite").write_bytes(b"garbage" * 1000)
            case "manifest":
                flip_blob(folder, needed_blobs(chain, 12)["manifest"])
            case "pins":
                (folder / "pins.sqlite").write_bytes(b"garbage" * 1000)
            case _:
                with sqlite3.connect(folder / "index.sqlite") as connection:
                    connection.execute("DELETE FROM meta WHERE key = 'genesis_hash'")
                connection.close()
        before = contents(folder)
        with pytest.raises(StateMismatch, match="cannot be told") as refused:
            collect(folder)
        assert "repair" in (refused.value.remedy or "")
        assert contents(folder) == before
        if what != "pins":
            assert (await repair(folder)).after.is_whole
            assert collect(folder).removed.blobs >= 20

    def test_a_folder_in_use_is_refused(self, folder: Path, chain: Chain) -> None:
        ledger = Ledger.open(folder, chain.genesis)
        with pytest.raises(FolderLocked):
            collect(folder)
        ledger.close()

    def test_damaged_files_that_were_set_aside_go_on_request(self, folder: Path) -> None:
        (loose,) = litter(folder, 1)
        flip_blob(folder, loose)
        FileBlobStore.open(folder / "blobs").set_aside(loose)
        assert collect(folder).quarantine.blobs == 0
        assert collect(folder, quarantine=True, dry_run=True).quarantine.blobs == 1
        assert collect(folder, quarantine=True).quarantine.blobs == 1
        assert check(folder).quarantined.blobs == 0


class TestPins:
    @pytest.mark.box("S2.4", "pinned")
    def test_a_pinned_blob_stays_until_the_pin_is_removed(self, folder: Path) -> None:
        loose = litter(folder)
        pinned = add_pin(folder, loose[0], note="mine")
        assert (pinned.pin.kind, pinned.blobs) == ("blob", 1)
        assert collect(folder, max_bytes=0).removed.blobs == len(loose) - 1
        assert [(item.pin.blob_hash, item.pin.note) for item in list_pins(folder)] == [(loose[0], "mine")]
        assert remove_pin(folder, loose[0]).note == "mine"
        assert list_pins(folder) == []
        assert collect(folder).removed.blobs == 1

    @pytest.mark.box("S2.4", "again", "parts")
    def test_a_pinned_block_keeps_all_its_parts(self, folder: Path, chain: Chain) -> None:
        wanted = set(needed_blobs(chain, 12).values()) | snapshot_of(chain, 12)
        wanted |= {segment.content_hash for segment in chain.bundles[11].block.segments}
        by_height = add_pin(folder, "12")
        assert by_height.pin.blob_hash == needed_blobs(chain, 12)["block"]
        with PinStore.open(folder / "pins.sqlite") as pins:
            assert {link.blob_hash for link in pins.links()} == wanted
        assert add_pin(folder, by_height.pin.blob_hash).blobs == by_height.blobs == len(wanted)
        assert len(list_pins(folder)) == 1
        assert remove_pin(folder, "12").kind == "block"

    @pytest.mark.box("S2.4", "parts", "retention")
    async def test_a_pinned_snapshot_outlives_its_retention(self, tmp_path: Path, chain: Chain) -> None:
        await fill(tmp_path, chain, retain=1, upto=4)
        first = add_pin(tmp_path, "3")
        assert not first.without_snapshot
        await fill(tmp_path, chain, retain=1)
        assert check(tmp_path).snapshots == (12,)
        held = contents(tmp_path)
        assert snapshot_of(chain, 3) <= set(held)
        assert not snapshot_of(chain, 6) - snapshot_of(chain, 12) - snapshot_of(chain, 3) & set(held)
        assert collect(tmp_path).removed.blobs == 0
        assert add_pin(tmp_path, "6").without_snapshot
        flip_blob(tmp_path, needed_blobs(chain, 3)["manifest"])
        assert not check(tmp_path).is_whole
        assert (await repair(tmp_path)).after.is_whole
        assert contents(tmp_path) == held

    @pytest.mark.box("S2.4", "parts")
    def test_a_snapshot_is_pinned_by_its_manifest(self, folder: Path, chain: Chain) -> None:
        pinned = add_pin(folder, needed_blobs(chain, 9)["manifest"])
        assert (pinned.pin.kind, pinned.pin.height) == ("manifest", 9)
        assert pinned.blobs == len(snapshot_of(chain, 9))

    @pytest.mark.box("S2.4", "durable")
    async def test_pins_are_made_while_a_node_runs(self, folder: Path, chain: Chain) -> None:
        ledger = Ledger.open(folder, chain.genesis)
        assert add_pin(folder, "9").blobs > 6
        assert len(list_pins(folder)) == 1
        ledger.close()
        assert check(folder).is_whole

    @pytest.mark.box("S2.4", "one-at-a-time")
    async def test_nobody_pins_what_is_being_removed(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pins_module, "_BUSY_SECONDS", 0.05)
        (loose,) = litter(folder, 1)
        with PinStore.open(folder / "pins.sqlite") as pins, pins.held(), pytest.raises(Busy):
            add_pin(folder, loose)
        assert add_pin(folder, loose).blobs == 1

    async def test_a_node_whose_pins_are_held_keeps_old_snapshots_for_now(
        self, tmp_path: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pins_module, "_BUSY_SECONDS", 0.05)
        with PinStore.open(tmp_path / "pins.sqlite") as pins, pins.held():
            await fill(tmp_path, chain, retain=1, upto=7)
        assert check(tmp_path).snapshots == (3, 6)
        await fill(tmp_path, chain, retain=1)
        assert check(tmp_path).snapshots == (12,)

    async def test_no_commit_waits_for_somebody_who_holds_the_pins(
        self, tmp_path: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Patient for an hour, and asking ten times a second.
        monkeypatch.setattr(pins_module, "_BUSY_SECONDS", 3_600)
        monkeypatch.setattr(ledger_module, "PINS_ATTEMPTS", 36_000)
        ledger = Ledger.open(tmp_path, chain.genesis)
        ledger.retain_snapshots = 1
        with PinStore.open(tmp_path / "pins.sqlite") as pins:
            with pins.held():
                for bundle in chain.bundles[:6]:
                    await ledger.apply(bundle)
                await eventually(lambda: ledger._marked == 6)
                await asyncio.wait_for(ledger.apply(chain.bundles[6]), 60)
                assert snapshot_of(chain, 3) <= set(ledger._stores.blobs.iterate()), "not while they are held"
            await ledger.settle()
        assert [item.height for item in ledger._stores.index.snapshots()] == [6]
        ledger.close()

    @pytest.mark.box("S2.4", "unsure")
    async def test_a_node_whose_pins_are_damaged_goes_on_and_removes_nothing(
        self, tmp_path: Path, chain: Chain
    ) -> None:
        (tmp_path / "pins.sqlite").write_bytes(b"garbage" * 1000)
        await fill(tmp_path, chain, retain=1)
        assert snapshot_of(chain, 3) <= set(contents(tmp_path))
        report = check(tmp_path)
        assert "pins cannot be read" in report.index_problems[0]
        with pytest.raises(PinsDamaged):
            list_pins(tmp_path)

    @pytest.mark.box("S2.4", "missing", "again")
    def test_what_is_not_there_is_not_pinned(self, folder: Path, chain: Chain) -> None:
        with pytest.raises(BlobNotFound):
            add_pin(folder, "a" * 64)
        with pytest.raises(NotFound):
            add_pin(folder, "99")
        for text in ("", "-1", "../x", "A" * 64):
            with pytest.raises(InvalidField):
                add_pin(folder, text)
        with pytest.raises(InvalidField):
            add_pin(folder, "3", note="x" * 201)
        lose_blob(folder, needed_blobs(chain, 4)["receipts"])
        with pytest.raises(BlobNotFound):
            add_pin(folder, "4")
        flip_blob(folder, needed_blobs(chain, 5)["receipts"])
        with pytest.raises(BlobCorrupt):
            add_pin(folder, "5")
        assert list_pins(folder) == []
        with pytest.raises(NotFound):
            remove_pin(folder, "4")

    def test_there_is_a_bound_on_pins(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pins_module, "MAX_PINS", 2)
        loose = litter(folder, 3)
        for name in loose[:2]:
            add_pin(folder, name)
        with pytest.raises(TooManyPins):
            add_pin(folder, loose[2])
        assert {item.pin.blob_hash for item in list_pins(folder)} == set(loose[:2])
