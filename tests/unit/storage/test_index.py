"""The index: idempotent entries, first receipts, and a damaged file that gives way to an empty one."""

import itertools
import sqlite3
import threading

import pytest

from agentworld_core.errors import Busy, InvalidField, StateMismatch
from agentworld_core.hashing import content_id
from agentworld_node.storage import index as index_module
from agentworld_node.storage.errors import IndexConflict, IndexDamaged, IndexTooNew, StorageFailed, StorageFull
from agentworld_node.storage.index import Index
from agentworld_node.storage.index_schema import (
    BlockEntry,
    DirectoryEntry,
    ReceiptEntry,
    RevocationEntry,
    SnapshotEntry,
)


def name(*parts):
    return content_id(repr(parts).encode())


def block(height, *, fork=0):
    return BlockEntry(
        height=height,
        block_hash=name("block", height, fork),
        batch_hash=name("batch", height),
        certificate_hash=name("certificate", height),
        term=height // 3,
        time_ms=1_700_000_000_000 + height,
    )


def receipts(height, count=3):
    return [
        ReceiptEntry(
            name("action", height, place), height, place, place % 2 == 0, None if place % 2 == 0 else "refused"
        )
        for place in range(count)
    ]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data" / "index.sqlite"


@pytest.fixture
def index(path):
    opened, rebuilt = Index.open(path)
    assert not rebuilt
    with opened:
        yield opened


def reopened(path):
    opened, rebuilt = Index.open(path)
    with opened:
        return opened.tip(), rebuilt


def test_an_empty_index_answers_nothing(index):
    assert index.tip() is None
    assert index.block_at(1) is None
    assert index.block_by_hash(name("x")) is None
    assert index.receipt(name("x")) is None
    assert index.receipts_of(1) == []
    assert index.directories() == index.revocations() == index.snapshots() == []
    assert index.meta("x") is None


def test_blocks_are_found_by_height_and_hash_and_survive_reopening(path):
    index, _ = Index.open(path)
    for height in (2, 1, 3):
        index.put_block(block(height), receipts(height))
    index.close()
    index.close()
    index, rebuilt = Index.open(path)
    with index:
        assert not rebuilt
        assert index.tip() == block(3)
        assert index.block_at(2) == block(2)
        assert index.block_by_hash(block(1).block_hash) == block(1)
        assert index.receipts_of(2) == receipts(2)
        assert index.receipt(name("action", 3, 1)) == ReceiptEntry(name("action", 3, 1), 3, 1, ok=False, code="refused")


def test_receipts_are_ordered_by_position(index):
    index.put_block(block(1), reversed(receipts(1, count=20)))
    assert index.receipts_of(1) == receipts(1, count=20)


def test_putting_a_block_again_changes_nothing(index):
    for _ in range(3):
        index.put_block(block(1), receipts(1))
    assert index.tip() == block(1)
    assert index.receipts_of(1) == receipts(1)


def test_another_block_at_a_height_is_refused_and_leaves_no_trace(index):
    index.put_block(block(1), receipts(1))
    with pytest.raises(IndexConflict) as conflict:
        index.put_block(block(1, fork=1), [ReceiptEntry(name("other"), 1, 9, ok=True)])
    assert isinstance(conflict.value, StateMismatch)
    assert conflict.value.code == "index_conflict"
    assert index.block_at(1) == block(1)
    assert index.receipt(name("other")) is None


def test_one_block_at_two_heights_is_refused(index):
    index.put_block(block(1), [])
    moved = BlockEntry(2, block(1).block_hash, name("b"), name("c"), 0, 0)
    with pytest.raises(IndexConflict, match="another key"):
        index.put_block(moved, [])


def test_the_first_receipt_of_an_action_stays_in_whatever_order_blocks_come(path):
    action = name("action")
    places = [ReceiptEntry(action, height, 0, ok=height == 1, code=None) for height in (1, 2, 3)]
    for number, order in enumerate(itertools.permutations(places)):
        index, _ = Index.open(path.with_name(f"{number}.sqlite"))
        with index:
            for entry in order:
                index.put_block(block(entry.height), [entry])
            assert index.receipt(action) == places[0]


def test_all_or_nothing_when_a_receipt_is_invalid(index):
    bad = ReceiptEntry(name("action"), 1, 2**63, ok=True)
    with pytest.raises(InvalidField) as invalid:
        index.put_block(block(1), [*receipts(1), bad])
    assert invalid.value.field == "position"
    assert index.tip() is None
    assert index.receipts_of(1) == []


@pytest.mark.parametrize("value", [-1, 2**63])
def test_integers_that_do_not_fit_are_refused(index, value):
    with pytest.raises(InvalidField):
        index.put_block(BlockEntry(value, name(1), name(2), name(3), 0, 0), [])
    with pytest.raises(InvalidField):
        index.put_snapshot(SnapshotEntry(value, name(1)))


def test_the_largest_integer_fits(index):
    index.put_block(BlockEntry(2**63 - 1, name(1), name(2), name(3), 2**63 - 1, 0), [])
    tip = index.tip()
    assert tip is not None
    assert tip.term == 2**63 - 1


def test_directories_revocations_and_snapshots(index):
    directories = [DirectoryEntry(epoch, name("directory", epoch), epoch * 10) for epoch in range(3)]
    for entry in (*reversed(directories), *directories):
        index.put_directory(entry)
    assert index.directories() == directories
    with pytest.raises(IndexConflict):
        index.put_directory(DirectoryEntry(1, name("fork"), 10))

    index.put_revocation(RevocationEntry("k2", name("second")))
    index.put_revocation(RevocationEntry("k1", name("first")))
    index.put_revocation(RevocationEntry("k1", name("again")))
    assert index.revocations() == [RevocationEntry("k1", name("first")), RevocationEntry("k2", name("second"))]

    snapshots = [SnapshotEntry(height, name("root", height)) for height in (10, 20)]
    for snapshot in (*reversed(snapshots), *snapshots):
        index.put_snapshot(snapshot)
    assert index.snapshots() == snapshots
    with pytest.raises(IndexConflict):
        index.put_snapshot(SnapshotEntry(10, name("other root")))


def test_values_of_the_caller(index):
    index.set_meta("genesis", name("genesis"))
    index.set_meta("genesis", name("other"))
    assert index.meta("genesis") == name("other")
    with pytest.raises(InvalidField):
        index.set_meta("schema_version", "7")


def test_pruning_takes_the_oldest_first_and_a_bounded_number(index):
    for height in range(1, 11):
        index.put_block(block(height), receipts(height))
        index.put_snapshot(SnapshotEntry(height, name("root", height)))
    assert index.prune_snapshots(5) == 4
    assert [entry.height for entry in index.snapshots()] == [5, 6, 7, 8, 9, 10]
    assert index.prune_receipts(3, limit=4) == 4
    assert index.receipts_of(1) == []
    assert index.receipts_of(2) == receipts(2)[1:]
    assert index.prune_receipts(3) == 2
    assert index.block_at(1) == block(1)
    assert index.prune_blocks(6, limit=3) == 3
    assert index.block_at(3) is None
    assert index.block_at(4) == block(4)
    assert index.prune_blocks(6) == 2
    assert index.prune_blocks(6) == 0
    assert index.receipts_of(5) == []
    assert index.receipts_of(6) == receipts(6)
    assert index.tip() == block(10)


def test_a_checkpoint_moves_everything_into_the_one_file(path, index, tmp_path):
    index.put_block(block(1), receipts(1))
    index.checkpoint()
    copy = tmp_path / "copy.sqlite"
    copy.write_bytes(path.read_bytes())
    assert reopened(copy) == (block(1), False)


def test_a_checkpoint_that_a_reader_holds_up_is_told(path, index):
    index.put_block(block(1), [])
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM blocks").fetchall()
    index.put_block(block(2), [])
    with pytest.raises(Busy):
        index.checkpoint()
    reader.close()
    index.checkpoint()


def test_a_locked_file_is_told_as_busy(path, index):
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    with pytest.raises(Busy) as busy:
        index.put_block(block(1), [])
    assert busy.value.retryable
    writer.close()
    index.put_block(block(1), [])


def test_no_room_is_told_and_nothing_is_half_stored(index):
    index.put_block(block(1), receipts(1))
    (pages,) = index._connection.execute("PRAGMA page_count").fetchone()
    index._connection.execute(f"PRAGMA max_page_count={pages + 2}")
    with pytest.raises(StorageFull) as full:
        index.put_block(block(2), receipts(2, count=1000))
    assert full.value.code == "storage_full"
    assert index.tip() == block(1)
    index._connection.execute("PRAGMA max_page_count=100000")
    index.put_block(block(2), receipts(2, count=1000))
    assert len(index.receipts_of(2)) == 1000


def damage_header(data):
    data[:100] = bytes(100)


def damage_everything(data):
    data[:] = b"no database" * 1000


def cut_in_half(data):
    del data[len(data) // 2 :]


def damage_pages(data):
    for offset in range(4096, len(data), 4096):
        data[offset : offset + 64] = b"\xa5" * 64


def damage_last_page(data):
    data[-4096:-4032] = b"\xa5" * 64


@pytest.mark.parametrize("damage", [damage_header, damage_everything, cut_in_half, damage_pages, damage_last_page])
def test_a_damaged_file_is_set_aside_and_an_empty_index_takes_its_place(path, damage, caplog):
    index, _ = Index.open(path)
    with index:
        for height in range(200):
            index.put_block(block(height), receipts(height))
    data = bytearray(path.read_bytes())
    damage(data)
    path.write_bytes(data)
    index, rebuilt = Index.open(path)
    with index:
        assert rebuilt
        assert "damaged" in caplog.text
        assert index.tip() is None
        index.put_block(block(1), receipts(1))
    assert path.with_name(path.name + ".damaged").read_bytes() == bytes(data)
    assert reopened(path) == (block(1), False)


def test_what_a_damaged_file_had_not_yet_taken_in_does_not_reach_the_new_one(path, tmp_path):
    """SQLite keeps the newest changes in a second file, which must go with the damaged one."""
    copy = tmp_path / "copy.sqlite"
    index, _ = Index.open(path)
    with index:
        index.checkpoint()
        index.put_block(block(1), receipts(1))
        copy.write_bytes(b"damaged" * 1000)
        newest = path.with_name(path.name + "-wal").read_bytes()
        copy.with_name(copy.name + "-wal").write_bytes(newest)
    assert newest
    assert reopened(copy) == (None, True)
    assert reopened(copy) == (None, False)


def test_a_second_damaged_file_replaces_the_first(path):
    for text in (b"first" * 100, b"second" * 100):
        Index.open(path)[0].close()
        path.write_bytes(text)
        assert reopened(path) == (None, True)
    assert path.with_name(path.name + ".damaged").read_bytes() == b"second" * 100
    assert len(list(path.parent.iterdir())) == 2


def test_damage_in_a_file_too_large_to_check_is_met_in_use_and_cured_by_reopening(path, monkeypatch):
    monkeypatch.setattr(index_module, "CHECKED_BYTES", 0)
    index, _ = Index.open(path)
    with index:
        for height in range(200):
            index.put_block(block(height), receipts(height))
    data = bytearray(path.read_bytes())
    for offset in range(4096 * 10, len(data), 4096):
        data[offset : offset + 64] = b"\xa5" * 64
    path.write_bytes(data)
    index, rebuilt = Index.open(path)
    assert not rebuilt

    def read_everything():
        for height in range(200):
            index.block_at(height)
            index.receipts_of(height)

    with index, pytest.raises(IndexDamaged) as damaged:
        read_everything()
    assert damaged.value.code == "index_damaged"
    assert damaged.value.remedy
    assert reopened(path) == (None, True)
    assert reopened(path) == (None, False)


@pytest.mark.parametrize(
    "change",
    [
        "DROP TABLE receipts",
        "DROP TABLE meta",
        "DELETE FROM meta",
        "UPDATE meta SET value = '0'",
        "UPDATE meta SET value = 'x'",
    ],
)
def test_a_file_that_is_not_an_index_is_set_aside(path, change):
    Index.open(path)[0].close()
    with sqlite3.connect(path) as connection:
        connection.execute(change)
    connection.close()
    assert reopened(path) == (None, True)


@pytest.mark.box("S8.2", "format")
def test_a_newer_version_is_refused_and_left_alone(path):
    index, _ = Index.open(path)
    with index:
        index.put_block(block(1), [])
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE meta SET value = '2'")
    connection.close()
    with pytest.raises(IndexTooNew) as refused:
        Index.open(path)
    assert refused.value.code == "index_too_new"
    assert "version 2" in str(refused.value)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE meta SET value = '1'")
    connection.close()
    assert reopened(path) == (block(1), False)


def test_a_folder_in_the_way_is_a_typed_error(path):
    path.mkdir(parents=True)
    with pytest.raises(StorageFailed):
        Index.open(path)


def test_a_closed_index_refuses(path):
    index, _ = Index.open(path)
    index.close()
    with pytest.raises(StorageFailed):
        index.tip()


def test_threads_share_one_index(index):
    def work(worker):
        for step in range(20):
            height = worker * 100 + step
            index.put_block(block(height), receipts(height))
            assert index.receipts_of(height) == receipts(height)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(index._rows("SELECT height FROM blocks")) == 80
    assert index.tip() == block(319)
