"""One contract for every blob store; then what only files can suffer."""

import contextlib
import errno
import random
import shutil
import threading
from pathlib import Path

import pytest

from agentworld_core.errors import InvalidField, TooLarge
from agentworld_core.hashing import content_id
from agentworld_node.storage.blob_store import BlobStore, MemoryBlobStore
from agentworld_node.storage.blobs import FileBlobStore
from agentworld_node.storage.errors import (
    BlobCorrupt,
    BlobHashMismatch,
    BlobNotFound,
    InvalidBlobHash,
    StorageFailed,
    StorageFull,
)
from agentworld_node.storage.files import LOCAL_FILES, LocalFiles
from tests.unit.storage.faults import CrashDisk, PowerCut

ABSENT = content_id(b"absent")


def path_of(root, blob_hash):
    return root / blob_hash[:2] / blob_hash[2:4] / blob_hash


def files_below(root):
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def loose_store(root, **options):
    """A store without packs."""
    return FileBlobStore.open(root, packed_bytes=-1, **options)


@pytest.fixture(params=["memory", "files", "packs", "mixed", "files, crash disk", "packs, crash disk"])
def store(request, tmp_path) -> BlobStore:
    if request.param == "memory":
        return MemoryBlobStore(blob_bytes=1000)
    packed, _, crash = request.param.partition(", ")
    return FileBlobStore.open(
        tmp_path / "blobs",
        blob_bytes=1000,
        packed_bytes={"files": -1, "mixed": 12, "packs": 1000}[packed],
        pack_bytes=600,
        files=CrashDisk(tmp_path) if crash else LOCAL_FILES,
    )


class TestContract:
    @pytest.mark.box("S2.1", "round-trip")
    def test_what_is_put_comes_back_under_its_hash(self, store):
        assert store.put(b"hello-blob") == "aa5b020496d86b370c0e3da0be6ef9cf1b27c896f97c2ba73981ea9b6c99f417"
        assert store.get(content_id(b"hello-blob")) == b"hello-blob"
        assert store.has(content_id(b"hello-blob"))

    @pytest.mark.box("S2.1", "round-trip")
    @pytest.mark.parametrize("data", [b"", b"\0", bytes(range(256)) * 3])
    @pytest.mark.parametrize("durable", [False, True])
    def test_any_bytes_can_be_stored(self, store, data, durable):
        blob_hash = store.put(data, durable=durable)
        assert store.get(blob_hash) == data

    @pytest.mark.box("S2.1", "again")
    def test_putting_again_changes_nothing(self, store):
        assert store.put(b"a") == store.put(b"a", durable=True)
        assert list(store.iterate()) == [content_id(b"a")]
        assert (store.counters.stored, store.counters.known) == (1, 1)

    @pytest.mark.box("S2.1", "mismatch")
    @pytest.mark.box("S1.3", "kinds")
    def test_put_verified_stores_under_the_right_hash_only(self, store):
        store.put_verified(content_id(b"a"), b"a", durable=True)
        assert store.get(content_id(b"a")) == b"a"
        with pytest.raises(BlobHashMismatch) as mismatch:
            store.put_verified(content_id(b"b"), b"c")
        assert (mismatch.value.expected, mismatch.value.actual) == (content_id(b"b"), content_id(b"c"))
        assert mismatch.value.wire == "ERR_INVALID_HASH"
        assert list(store.iterate()) == [content_id(b"a")]

    def test_many_are_stored_in_order_and_once(self, store):
        items = [b"%d" % (number % 7) for number in range(20)]
        for durable in (False, True):
            assert store.put_many(iter(items), durable=durable) == [content_id(item) for item in items]
        assert len(list(store.iterate())) == 7
        assert store.put_many([]) == []

    @pytest.mark.box("S2.1", "missing")
    @pytest.mark.box("S1.3", "kinds")
    def test_what_is_not_there_is_told(self, store):
        with pytest.raises(BlobNotFound) as missing:
            store.get(ABSENT)
        assert (missing.value.blob_hash, missing.value.wire) == (ABSENT, "ERR_NOT_FOUND")
        assert not store.has(ABSENT)
        with pytest.raises(BlobNotFound):
            store.sync([ABSENT])

    @pytest.mark.box("S2.1", "missing")
    def test_deleted_blobs_are_gone(self, store):
        blob_hash = store.put(b"a")
        assert store.delete(blob_hash) is True
        assert store.delete(blob_hash) is False
        assert not store.has(blob_hash)
        assert list(store.iterate()) == []
        assert store.get(store.put(b"a")) == b"a"

    def test_iterate_yields_all_in_order(self, store):
        hashes = store.put_many(b"%d" % number for number in range(60))
        assert list(store.iterate()) == sorted(hashes)

    def test_entries_tell_the_size_of_every_blob_in_order(self, store):
        items = [b"x" * number for number in range(30)]
        store.put_many(items)
        assert [(entry.blob_hash, entry.size) for entry in store.entries()] == sorted(
            (content_id(item), len(item)) for item in items
        )

    def test_peeking_returns_what_is_there(self, store):
        assert store.peek(store.put(b"a")) == b"a"
        with pytest.raises(BlobNotFound):
            store.peek(ABSENT)

    @pytest.mark.box("S2.1", "size")
    def test_giants_are_refused(self, store):
        store.put(b"x" * 1000)
        for call in (
            lambda: store.put(b"x" * 1001),
            lambda: store.put_verified(content_id(b"x" * 1001), b"x" * 1001),
            lambda: store.put_many([b"x" * 1001]),
        ):
            with pytest.raises(TooLarge):
                call()
        assert len(list(store.iterate())) == 1

    @pytest.mark.box("S2.1", "hash-text")
    @pytest.mark.parametrize(
        "text",
        [
            "",
            "ab",
            "../" * 20 + "etc/passwd",
            "A" * 64,
            "g" * 64,
            "a" * 63,
            "a" * 65,
            "a" * 64 + "\n",
            "/" + "a" * 63,
            "..".ljust(64, "a"),
            "\0" * 64,
            "٠" * 64,
        ],
    )
    def test_only_a_content_id_is_a_name(self, store, text):
        calls = [
            store.get,
            store.peek,
            store.has,
            store.delete,
            lambda h: store.put_verified(h, b""),
            lambda h: store.sync([h]),
        ]
        for call in calls:
            with pytest.raises(InvalidBlobHash) as refused:
                call(text)
            assert isinstance(refused.value, InvalidField)
            assert refused.value.code == "blob_hash_invalid"

    def test_sync_of_stored_blobs_succeeds(self, store):
        hashes = store.put_many([b"a", b"b"])
        store.sync(hashes)
        store.sync([])
        assert [store.get(blob_hash) for blob_hash in hashes] == [b"a", b"b"]


DAMAGE = [b"", b"damaged", b"payloae", b"payload and more"]


@pytest.fixture
def root(tmp_path):
    return tmp_path / "blobs"


@pytest.mark.box("S2.2", "reopen", "layout")
def test_files_are_sharded_and_nothing_else_is_left(root):
    store = loose_store(root)
    blob_hash = store.put(b"payload", durable=True)
    assert files_below(root) == [f"{blob_hash[:2]}/{blob_hash[2:4]}/{blob_hash}"]
    assert loose_store(root).get(blob_hash) == b"payload"


@pytest.mark.box("S8.3", "damage")
@pytest.mark.box("S2.1", "verified")
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_on_reading_set_aside_and_healed_by_storing_again(root, damage):
    store = loose_store(root)
    blob_hash = store.put(b"payload")
    path_of(root, blob_hash).write_bytes(damage)
    with pytest.raises(BlobCorrupt) as corrupt:
        store.get(blob_hash)
    assert (corrupt.value.blob_hash, corrupt.value.actual) == (blob_hash, content_id(damage))
    assert (root / "quarantine" / blob_hash).read_bytes() == damage
    assert store.counters.quarantined == 1
    assert not store.has(blob_hash)
    with pytest.raises(BlobNotFound):
        store.get(blob_hash)
    store.put_verified(blob_hash, b"payload")
    assert store.get(blob_hash) == b"payload"


@pytest.mark.box("S2.1", "healed")
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("durable", [False, True])
def test_storing_over_damage_that_nobody_has_read_heals(root, damage, durable):
    store = loose_store(root)
    blob_hash = store.put(b"payload")
    path_of(root, blob_hash).write_bytes(damage)
    store.put(b"payload", durable=durable)
    assert store.get(blob_hash) == b"payload"
    assert (store.counters.healed, store.counters.quarantined) == (1, 1)


@pytest.mark.parametrize("damage", DAMAGE)
def test_peeking_at_damage_tells_it_and_leaves_it_where_it_is(root, damage):
    store = loose_store(root)
    blob_hash = store.put(b"payload")
    path_of(root, blob_hash).write_bytes(damage)
    assert store.peek(blob_hash) is None
    assert path_of(root, blob_hash).read_bytes() == damage
    assert store.counters.quarantined == 0


@pytest.mark.box("S2.2", "first-write")
def test_a_store_that_is_only_read_makes_no_folders(root):
    with pytest.raises(BlobNotFound):
        FileBlobStore.reading(root).peek(ABSENT)
    assert not root.exists()
    blob_hash = loose_store(root).put(b"payload")
    assert FileBlobStore.reading(root).peek(blob_hash) == b"payload"


def test_blobs_that_were_read_lately_are_known(tmp_path, root):
    store = loose_store(root, files=CrashDisk(tmp_path))
    first, second = store.put_many([b"first", b"second"])
    store.get(first)
    store.peek(second)
    used = {entry.blob_hash: entry.used_ns for entry in store.entries()}
    assert used[first] > used[second]


def test_damage_of_the_empty_blob_is_found_and_healed(root):
    store = loose_store(root)
    blob_hash = store.put(b"")
    path_of(root, blob_hash).write_bytes(b"x")
    with pytest.raises(BlobCorrupt):
        store.get(blob_hash)
    store.put(b"")
    assert store.get(blob_hash) == b""


@pytest.mark.box("S2.1", "verified")
def test_a_sector_that_cannot_be_read_is_damage(tmp_path, root):
    disk = CrashDisk(tmp_path)
    store = loose_store(root, files=disk)
    for blob_hash in store.put_many([b"one", b"two"]):
        disk.unreadable.add(path_of(root, blob_hash))
    with pytest.raises(BlobCorrupt):
        store.get(content_id(b"one"))
    assert disk.names(root / "quarantine") == [content_id(b"one")]
    assert store.put_many([b"one", b"two"]) == [content_id(b"one"), content_id(b"two")]
    assert (store.get(content_id(b"one")), store.get(content_id(b"two"))) == (b"one", b"two")


def test_a_blob_above_a_limit_that_was_lowered_is_left_alone(root):
    blob_hash = loose_store(root).put(b"x" * 100)
    with pytest.raises(TooLarge):
        loose_store(root, blob_bytes=50).get(blob_hash)
    assert loose_store(root).get(blob_hash) == b"x" * 100


def test_the_quarantine_is_bounded(root, monkeypatch):
    monkeypatch.setattr("agentworld_node.storage.quarantine._QUARANTINE_FILES", 3)
    store = loose_store(root)
    for blob_hash in store.put_many(b"%d" % number for number in range(6)):
        path_of(root, blob_hash).write_bytes(b"bad")
        with pytest.raises(BlobCorrupt):
            store.get(blob_hash)
    assert len(files_below(root / "quarantine")) == 3
    assert store.counters.quarantined == 6


def test_bytes_that_a_writer_healed_between_reading_and_setting_aside_are_returned(root):
    class Healing(LocalFiles):
        armed = False

        def read(self, path, *, unnoticed=False):
            data = super().read(path, unnoticed=unnoticed)
            if self.armed and path.parent.name != "quarantine":
                self.armed = False
                path.write_bytes(b"payload")
            return data

    files = Healing()
    store = loose_store(root, files=files)
    blob_hash = store.put(b"payload")
    path_of(root, blob_hash).write_bytes(b"damaged")
    files.armed = True
    assert store.get(blob_hash) == b"payload"
    assert store.get(blob_hash) == b"payload"
    assert files_below(root / "quarantine") == []
    assert store.counters.quarantined == 0


def test_two_readers_that_set_the_same_healed_bytes_aside_both_return_them(root):
    """The second one finds nothing to put back, because the first one has done it."""

    class Racing(LocalFiles):
        armed = False

        def read(self, path, *, unnoticed=False):
            data = super().read(path, unnoticed=unnoticed)
            if self.armed and path.parent.name != "quarantine":
                path.write_bytes(b"payload")
            elif self.armed:
                self.armed = False
                path.rename(path_of(root, path.name))
            return data

    files = Racing()
    store = loose_store(root, files=files)
    blob_hash = store.put(b"payload")
    path_of(root, blob_hash).write_bytes(b"damaged")
    files.armed = True
    assert store.get(blob_hash) == b"payload"
    assert store.get(blob_hash) == b"payload"


@pytest.mark.box("S2.2", "atomic")
def test_opening_removes_what_interrupted_writes_left(root):
    store = loose_store(root)
    store.put(b"a")
    (root / "tmp" / "half").write_bytes(b"half")
    store = loose_store(root)
    assert files_below(root) == [path_of(root, content_id(b"a")).relative_to(root).as_posix()]


@pytest.mark.box("S2.2", "concurrent")
def test_a_write_whose_temporary_another_process_cleaned_is_repeated(root):
    class Cleaned(LocalFiles):
        times = 0

        def rename(self, source, target):
            if self.times:
                self.times -= 1
                source.unlink()
            super().rename(source, target)

    files = Cleaned()
    store = loose_store(root, files=files)
    files.times = 2
    assert store.get(store.put(b"a")) == b"a"
    files.times = 3
    with pytest.raises(StorageFailed):
        store.put(b"b")
    assert files_below(root / "tmp") == []


def test_a_folder_that_somebody_has_removed_is_made_again(root):
    store = loose_store(root)
    blob_hash = store.put(b"a")
    shutil.rmtree(root / blob_hash[:2])
    assert store.get(store.put(b"a")) == b"a"
    assert files_below(root / "tmp") == []


def test_files_that_are_not_blobs_are_not_listed(root):
    store = loose_store(root)
    blob_hash = store.put(b"a")
    shard = path_of(root, blob_hash).parent
    (shard / "notes.txt").write_bytes(b"")
    (shard / ("0" * 64 if not blob_hash.startswith("0000") else "1" * 64)).write_bytes(b"")
    (root / "lost+found").mkdir()
    assert list(store.iterate()) == [blob_hash]


@pytest.mark.box("S2.2", "atomic")
def test_no_room_is_told_and_leaves_nothing_behind(tmp_path, root):
    disk = CrashDisk(tmp_path, capacity=150)
    store = loose_store(root, files=disk)
    store.put(b"a" * 100)
    with pytest.raises(StorageFull) as full:
        store.put(b"b" * 100)
    assert full.value.code == "storage_full"
    assert disk.names(root / "tmp") == []
    assert list(store.iterate()) == [content_id(b"a" * 100)]
    disk.capacity = None
    assert store.get(store.put(b"b" * 100)) == b"b" * 100


@pytest.mark.box("S2.2", "limit")
def test_a_limit_refuses_what_is_too_much_and_takes_it_when_there_is_room(root):
    store = loose_store(root)
    first = store.put(b"a" * 60)
    store.limit_total(100)
    second = store.put(b"b" * 40)
    with pytest.raises(StorageFull) as full:
        store.put(b"c")
    assert full.value.field == "spec.storage.maxBlobBytes"
    assert store.put(b"a" * 60) == first, "what is there needs no room"
    store.delete(first)
    third = store.put(b"d" * 60)
    path_of(root, second).write_bytes(b"x" * 40)
    with pytest.raises(BlobCorrupt):
        store.get(second)
    assert store.put(b"e" * 40)
    with pytest.raises(StorageFull):
        store.put(b"f")
    store.limit_total(0)
    store.put(b"f")
    assert store.has(third)


def test_room_that_a_failed_write_had_taken_is_given_back(tmp_path, root):
    disk = CrashDisk(tmp_path, capacity=50)
    store = loose_store(root, files=disk)
    store.limit_total(100)
    for _ in range(3):
        with pytest.raises(StorageFull):
            store.put(b"a" * 90)
    disk.capacity = None
    assert store.put(b"a" * 90)


def test_room_of_a_blob_whose_sync_failed_is_given_back(tmp_path, root):
    disk = CrashDisk(tmp_path)
    store = loose_store(root, files=disk)
    store.limit_total(100)
    for _ in range(3):
        disk.failing_syncs = 1
        with pytest.raises(StorageFailed, match="syncing a blob"):
            store.put(b"a" * 90, durable=True)
    assert store.put(b"a" * 90, durable=True)


def test_opening_where_no_folder_can_be_is_a_typed_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageFailed):
        loose_store(tmp_path / "file")


@pytest.mark.box("S2.2", "durable")
@pytest.mark.parametrize("seed", range(20))
def test_durable_blobs_survive_a_crash_and_others_are_whole_or_told(tmp_path, root, seed):
    disk = CrashDisk(tmp_path, seed=seed)
    store = loose_store(root, files=disk)
    rng = random.Random(seed)
    items = [rng.randbytes(rng.randrange(200)) for _ in range(40)]
    durable = set(store.put_many(items[:10], durable=True))
    durable.add(store.put(items[10], durable=True))
    loose = store.put_many(items[11:30])
    store.sync(loose[:9])
    durable |= set(loose[:9])
    store.put_verified(content_id(items[30]), items[30])
    store.put(items[30], durable=True)
    durable.add(content_id(items[30]))
    store.put_many(items[31:])
    disk.crash()
    store = loose_store(root, files=disk)
    for item in items:
        try:
            assert store.get(content_id(item)) == item
        except (BlobNotFound, BlobCorrupt):
            assert content_id(item) not in durable
    store.put_many(items, durable=True)
    disk.crash()
    store = loose_store(root, files=disk)
    assert [store.get(content_id(item)) for item in items] == items


@pytest.mark.box("S2.2", "atomic")
def test_dying_at_any_operation_loses_no_durable_blob(tmp_path, root):
    items = [b"item %d" % number * 9 for number in range(4)]

    def scenario(disk, acknowledged):
        store = loose_store(root, files=disk)
        for item in items[:2]:
            acknowledged.append(store.put(item, durable=True))
        acknowledged.extend(store.put_many(items, durable=True))

    complete = CrashDisk(tmp_path)
    scenario(complete, [])
    for cut in range(1, complete.operations + 1):
        for seed in range(4):
            disk = CrashDisk(tmp_path, seed=seed)
            acknowledged: list[str] = []
            disk.cut_power_in(cut)
            with pytest.raises(PowerCut):
                scenario(disk, acknowledged)
            disk.crash()
            store = loose_store(root, files=disk)
            for blob_hash in acknowledged:
                assert content_id(store.get(blob_hash)) == blob_hash
            store.put_many(items, durable=True)
            assert sorted(store.iterate()) == sorted(map(content_id, items))


@pytest.mark.box("S2.2", "durable")
@pytest.mark.parametrize("seed", range(10))
def test_a_blob_whose_sync_failed_is_never_taken_for_durable(tmp_path, root, seed):
    disk = CrashDisk(tmp_path, seed=seed)
    store = loose_store(root, files=disk)
    disk.failing_syncs = 1
    with pytest.raises(StorageFailed):
        store.put(b"payload" * 10, durable=True)
    assert not store.has(content_id(b"payload" * 10))
    blob_hash = store.put(b"payload" * 10, durable=True)
    disk.crash()
    assert loose_store(root, files=disk).get(blob_hash) == b"payload" * 10


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("packed_bytes", [0, 1000], ids=["loose", "packed"])
def test_a_sync_that_finds_no_room_can_be_tried_again(tmp_path, root, seed, times, packed_bytes):
    """Who waits for room has not got the bytes any more: the store must not lose them meanwhile."""
    disk = CrashDisk(tmp_path, seed=seed)
    store = FileBlobStore.open(root, files=disk, packed_bytes=packed_bytes)
    hashes = store.put_many([b"payload" * 10, b"other" * 10, b"third" * 10])
    disk.failing_syncs, disk.sync_error = times, errno.ENOSPC
    for _ in range(times):
        with pytest.raises(StorageFull):
            store.sync(hashes[:2])
    store.sync(hashes)
    disk.crash()
    again = FileBlobStore.open(root, files=disk, packed_bytes=packed_bytes)
    assert [again.get(blob_hash) for blob_hash in hashes] == [b"payload" * 10, b"other" * 10, b"third" * 10]
    store.close()
    again.delete(hashes[0])
    with pytest.raises(BlobNotFound):
        again.sync(hashes)


def test_a_folder_sync_that_fails_is_told(tmp_path, root):
    disk = CrashDisk(tmp_path)
    store = loose_store(root, files=disk)
    disk.failing_folder_syncs = 1
    with pytest.raises(StorageFailed):
        store.put(b"payload", durable=True)
    blob_hash = store.put(b"payload", durable=True)
    disk.crash()
    assert loose_store(root, files=disk).get(blob_hash) == b"payload"


def test_an_unexpected_error_of_the_disk_is_typed(root):
    class Broken(LocalFiles):
        def read(self, path, *, unnoticed=False):
            raise OSError(errno.EACCES, "Permission denied", str(path))

    store = loose_store(root, files=Broken())
    blob_hash = store.put(b"a")
    with pytest.raises(StorageFailed) as failed:
        store.get(blob_hash)
    assert failed.value.code == "storage_failed"
    assert store.has(blob_hash)


def test_a_file_that_goes_while_it_is_looked_at_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "is_file", lambda _path: True)
    assert LocalFiles().size(tmp_path / "gone") is None


@pytest.mark.box("S2.2", "concurrent")
def test_readers_see_whole_blobs_while_writers_store_delete_and_heal(root):
    store = loose_store(root)
    items = [b"%d" % number * 500 for number in range(8)]
    stop = threading.Event()
    seen = threading.Semaphore(0)

    def read(seed):
        rng = random.Random(seed)
        while not stop.is_set():
            item = rng.choice(items)
            with contextlib.suppress(BlobNotFound, BlobCorrupt):
                assert store.get(content_id(item)) == item
                seen.release()

    readers = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
    for reader in readers:
        reader.start()
    rng = random.Random(9)
    try:
        for _ in range(300):
            item = rng.choice(items)
            match rng.randrange(4):
                case 0:
                    store.delete(content_id(item))
                case 1 if path_of(root, content_id(item)).exists():
                    path_of(root, content_id(item)).write_bytes(b"damaged")
                case _:
                    store.put(item)
        store.put_many(items)
        assert all(seen.acquire(timeout=30) for _ in range(20))
    finally:
        stop.set()
        for reader in readers:
            reader.join(30)
    store.put_many(items)
    assert [store.get(content_id(item)) for item in items] == items
    assert files_below(root / "tmp") == []
