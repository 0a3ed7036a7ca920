"""``check``: whatever is damaged or missing in a data folder is told, and nothing else is."""

from __future__ import annotations

import random
import shutil
import sqlite3
from pathlib import Path

import pytest

from agentworld_core.errors import NotFound
from agentworld_node.ledger import Ledger
from agentworld_node.records import VOTE
from agentworld_node.storage.blobs import FileBlobStore
from agentworld_node.storage.errors import FolderLocked
from agentworld_node.storage.index import Index
from agentworld_node.storage.pack_format import PACK_HEADER_BYTES, RECORD_HEADER_BYTES
from agentworld_node.storage.wal import WriteAheadLog
from agentworld_node.store.check import check
from agentworld_node.store.inventory import Problem
from tests.unit.core.ledger.chains import Chain
from tests.unit.node.store.folders import contents, files_below, flip_blob, lose_blob, needed_blobs
from tests.unit.storage.blob_files import place_of


def flip_bit(path: Path, offset: int, rng: random.Random) -> None:
    """Flips any bit of a byte of a file."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


class TestWhole:
    @pytest.mark.box("S3.2", "stored")
    def test_a_folder_of_a_node_that_stopped_is_whole(self, folder: Path) -> None:
        report = check(folder)
        assert report.is_whole
        assert (report.height, report.snapshots) == (13, (9, 12))
        assert (report.damaged, report.missing, report.unsettled, report.index_problem_count) == (0, 0, 0, 0)
        assert report.unreferenced.blobs == 0
        assert report.stored.blobs > 13 * 5

    def test_nothing_is_changed(self, folder: Path, chain: Chain) -> None:
        flip_blob(folder, needed_blobs(chain, 4)["batch"])
        before = files_below(folder)
        check(folder)
        assert files_below(folder) == before

    def test_an_empty_world_is_whole(self, tmp_path: Path, chain: Chain) -> None:
        Ledger.open(tmp_path, chain.genesis).close()
        report = check(tmp_path)
        assert (report.is_whole, report.stored.blobs, report.unreferenced.blobs) == (True, 1, 0)

    def test_a_first_start_that_was_cut_off_lacks_nothing(self, tmp_path: Path, chain: Chain) -> None:
        WriteAheadLog.open(tmp_path / "log").close()
        assert check(tmp_path).is_whole
        Index.open(tmp_path / "index.sqlite")[0].close()
        assert check(tmp_path).is_whole
        Ledger.open(tmp_path, chain.genesis).close()
        (tmp_path / "index.sqlite").write_bytes(b"garbage" * 1000)
        assert not check(tmp_path).is_whole

    def test_what_nothing_needs_is_counted_and_verified(self, folder: Path) -> None:
        store = FileBlobStore.open(folder / "blobs")
        kept, bad = store.put(b"nobody's"), store.put(b"nobody's either")
        assert check(folder).unreferenced.as_dict() == {"blobs": 2, "bytes": 23}
        flip_blob(folder, bad)
        report = check(folder)
        assert [(item.blob_hash, item.kind) for item in report.findings] == [(bad, "unreferenced")]
        assert store.has(kept)


class TestBlobs:
    @pytest.mark.box("S8.3", "damage")
    @pytest.mark.parametrize("problem", list(Problem))
    def test_every_kind_of_blob_is_looked_for(self, folder: Path, chain: Chain, problem: Problem) -> None:
        wanted = needed_blobs(chain, 2) | needed_blobs(chain, 12)
        assert len(wanted) == 9
        for blob_hash in wanted.values():
            if problem is Problem.missing:
                lose_blob(folder, blob_hash)
            else:
                flip_blob(folder, blob_hash)
        report = check(folder)
        assert not report.is_whole
        told = {item.kind: item.blob_hash for item in report.findings}
        # What a damaged manifest names is known from no other place.
        assert told == {kind: name for kind, name in wanted.items() if kind != "chunk"} | (
            {"unreferenced": wanted["chunk"]} if problem is Problem.damaged else {}
        )
        assert {item.problem for item in report.findings} == {problem}

    @pytest.mark.box("S8.3", "damage")
    @pytest.mark.parametrize("seed", range(8))
    def test_any_flipped_bit_of_a_blob_is_found(self, folder: Path, seed: int) -> None:
        rng = random.Random(seed)
        name = rng.choice(sorted(contents(folder)))
        path, offset, size = place_of(folder / "blobs", name)
        flip_bit(path, rng.randrange(offset - RECORD_HEADER_BYTES, offset + size), rng)
        report = check(folder)
        told = report.damaged + report.unsettled
        assert told == 1, f"seed {seed}, {name}"

    @pytest.mark.parametrize("seed", range(8))
    def test_flipped_bits_beside_the_blobs_cost_none(self, folder: Path, seed: int) -> None:
        rng = random.Random(seed)
        before = contents(folder)
        (index,) = (folder / "blobs" / "packs").glob("*.index")
        flip_bit(index, rng.randrange(index.stat().st_size), rng)
        (pack,) = (folder / "blobs" / "packs").glob("*.pack")
        flip_bit(pack, rng.randrange(PACK_HEADER_BYTES), rng)
        assert contents(folder) == before
        assert check(folder).is_whole

    def test_what_the_next_start_writes_again_is_counted_apart(self, folder: Path, chain: Chain) -> None:
        for blob_hash in needed_blobs(chain, 13).values():
            lose_blob(folder, blob_hash)
        report = check(folder)
        assert (report.is_whole, report.unsettled, report.missing) == (True, 6, 0)
        Ledger.open(folder, chain.genesis).close()
        assert check(folder).unsettled == 0

    def test_a_snapshot_that_retention_has_begun_to_remove_is_not_missed(self, folder: Path, chain: Chain) -> None:
        """A power cut may bring the rows of the index back that were removed last, but not the blobs."""
        with sqlite3.connect(folder / "index.sqlite") as connection:
            connection.execute("INSERT INTO snapshots VALUES (6, ?)", (chain.bundles[5].block.state_root,))
        connection.close()
        report = check(folder)
        assert (report.is_whole, report.snapshots) == (True, (9, 12))


class TestIndexAndLog:
    @pytest.mark.parametrize(
        ("statement", "says"),
        [
            ("DELETE FROM blocks WHERE height = 4", "lacks the block of height 4"),
            ("UPDATE blocks SET batch_hash = 'x' WHERE height = 4", "another block at height 4"),
            ("DELETE FROM receipts WHERE height = 5", "lacks the receipt of action"),
            ("DELETE FROM directories", "lacks directory epoch 2 of height 2"),
            ("DELETE FROM meta WHERE key = 'genesis_hash'", "never filled"),
        ],
    )
    def test_what_the_index_lacks_is_told(self, folder: Path, statement: str, says: str) -> None:
        with sqlite3.connect(folder / "index.sqlite") as connection:
            connection.execute(statement)
        connection.close()
        report = check(folder)
        assert not report.is_whole
        assert says in report.index_problems[0]

    @pytest.mark.parametrize("how", ["garbage", "gone", "marked"])
    def test_an_index_that_cannot_be_read_is_told_and_stays(self, folder: Path, how: str) -> None:
        index = folder / "index.sqlite"
        match how:
            case "garbage":
                index.write_bytes(b"garbage" * 1000)
            case "gone":
                index.unlink()
            case _:
                (folder / "index.sqlite.is-damaged").touch()
        report = check(folder)
        assert (report.index_problem_count, report.missing) == (1, 0)
        assert index.exists() == (how != "gone")

    def test_a_damaged_log_is_told_and_the_blobs_are_verified_all_the_same(self, folder: Path, chain: Chain) -> None:
        (log,) = (folder / "log").glob("*.wal")
        data = bytearray(log.read_bytes())
        data[len(data) // 3] ^= 1
        log.write_bytes(data)
        bad = needed_blobs(chain, 4)["batch"]
        flip_blob(folder, bad)
        report = check(folder)
        assert "log is corrupt" in report.log_problem
        assert [item.blob_hash for item in report.findings] == [bad]
        assert report.unreferenced.blobs == 0


class TestVotes:
    def test_votes_that_are_gone_are_told_and_nothing_is_made_in_their_place(self, folder: Path) -> None:
        shutil.rmtree(folder / "votes")
        before = files_below(folder)
        report = check(folder)
        assert str(folder / "votes") in report.votes_problem
        assert report.as_dict()["votes_problem"] == report.votes_problem
        assert (report.is_whole, report.is_mendable, report.height) == (False, False, 13)
        assert files_below(folder) == before

    def test_damaged_votes_are_told(self, folder: Path) -> None:
        (segment,) = (folder / "votes").glob("*.wal")
        segment.write_bytes(b"garbage" * 100)
        report = check(folder)
        assert "log is corrupt in file votes/" in report.votes_problem
        assert not report.is_whole

    def test_an_older_folder_has_none(self, folder: Path) -> None:
        shutil.rmtree(folder)
        with WriteAheadLog.open(folder / "log") as log:
            log.append(VOTE, b"of an older version")
        report = check(folder)
        assert (report.is_whole, report.votes_problem) == (True, "")


class TestRefusals:
    def test_a_folder_in_use_is_refused(self, folder: Path, chain: Chain) -> None:
        ledger = Ledger.open(folder, chain.genesis)
        with pytest.raises(FolderLocked):
            check(folder)
        ledger.close()
        assert check(folder).is_whole

    def test_a_folder_that_is_none_of_a_node_is_refused_and_stays_as_it_is(self, tmp_path: Path, folder: Path) -> None:
        empty = tmp_path / "empty"
        empty.mkdir()
        with pytest.raises(NotFound, match="not the data folder"):
            check(empty)
        assert list(empty.iterdir()) == []
        with pytest.raises(NotFound):
            check(tmp_path / "absent")

    def test_the_folder_of_a_world_names_those_of_its_nodes(self, tmp_path: Path, folder: Path) -> None:
        node = tmp_path / "world" / "nodes" / "v0"
        node.mkdir(parents=True)
        shutil.copytree(folder / "log", node / "data" / "log")
        with pytest.raises(NotFound) as refused:
            check(tmp_path / "world")
        assert str(node / "data") in (refused.value.remedy or "")
        with pytest.raises(NotFound) as refused:
            check(node)
        assert str(node / "data") in (refused.value.remedy or "")
