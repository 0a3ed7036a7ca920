"""Packs: what is put comes back whatever happens to index, disk and process, and room that is freed is freed."""

import contextlib
import errno
import functools
import os
import random
import threading

import pytest

from agentworld_core.hashing import content_id
from agentworld_node.storage.blobs import FileBlobStore
from agentworld_node.storage.errors import BlobCorrupt, BlobNotFound, FolderLocked, StorageFailed, StorageFull
from agentworld_node.storage.files import LocalFiles
from agentworld_node.storage.pack_format import PACK_HEADER_BYTES, RECORD_HEADER_BYTES
from agentworld_node.storage.pack_index import PackIndex, Place, encode_index
from tests.unit.storage.blob_files import flip_blob, place_of, stored_bytes, wipe_blob
from tests.unit.storage.faults import CrashDisk, PowerCut

ABSENT = content_id(b"absent")


@pytest.fixture
def root(tmp_path):
    return tmp_path / "blobs"


def items_of(seed, count=30, size=200):
    rng = random.Random(seed)
    return [rng.randbytes(rng.randrange(1, size)) for _ in range(count)]


def filled(root, items, **options):
    """A store with these blobs, closed."""
    with contextlib.closing(FileBlobStore.open(root, **options)) as store:
        return store.put_many(items)


def packs(root, suffix="pack"):
    return sorted((root / "packs").glob(f"*.{suffix}"))


def holds(root, items, **options):
    store = FileBlobStore.open(root, **options)
    assert list(store.iterate()) == sorted({content_id(item) for item in items})
    assert all(store.get(content_id(item)) == item for item in items)
    return store


class TestWhereBlobsLie:
    @pytest.mark.box("S2.2", "layout")
    def test_small_ones_share_a_file_and_large_ones_have_their_own(self, root):
        small, large = items_of(1), [b"x" * 5000, b"y" * 5001]
        filled(root, [*small, *large], packed_bytes=4999)
        assert len(packs(root)) == len(packs(root, "index")) == 1
        assert [place_of(root, content_id(item))[0].name for item in large] == [content_id(item) for item in large]
        holds(root, [*small, *large])

    def test_a_pack_that_is_full_is_followed_by_another(self, root):
        items = items_of(2, count=100)
        filled(root, items, pack_bytes=1000)
        assert len(packs(root)) == len(packs(root, "index")) > 5
        holds(root, items)

    @pytest.mark.box("S2.2", "reopen")
    def test_a_folder_of_an_older_version_is_read_and_added_to(self, root):
        old, new = items_of(3), items_of(4)
        filled(root, old, packed_bytes=-1)
        assert not (root / "packs").exists()
        store = FileBlobStore.open(root)
        assert store.put_many(old) == [content_id(item) for item in old]
        assert store.counters.known == len(old)
        store.put_many(new)
        store.delete(content_id(old[0]))
        store.delete(content_id(new[0]))
        store.close()
        holds(root, [*old[1:], *new[1:]])

    def test_a_blob_that_is_both_counts_once_and_goes_as_a_whole(self, root):
        filled(root, [b"both"])
        loose = root / content_id(b"both")[:2] / content_id(b"both")[2:4] / content_id(b"both")
        loose.parent.mkdir(parents=True)
        loose.write_bytes(b"both")
        store = holds(root, [b"both"])
        assert [entry.size for entry in store.entries()] == [4]
        assert store.delete(content_id(b"both"))
        assert not store.has(content_id(b"both"))
        assert not loose.exists()


class TestIndex:
    @pytest.mark.box("S2.2", "no-state")
    @pytest.mark.parametrize("how", ["gone", "empty", "cut", "garbage", "of another pack", "flipped"])
    def test_it_is_built_again_from_the_packs(self, root, tmp_path, how):
        items = items_of(5, count=60)
        filled(root, items, pack_bytes=2000)
        for number, path in enumerate(packs(root, "index")):
            match how:
                case "gone":
                    path.unlink()
                case "empty":
                    path.write_bytes(b"")
                case "cut":
                    path.write_bytes(path.read_bytes()[: -1 - number])
                case "garbage":
                    path.write_bytes(os.urandom(500))
                case "of another pack":
                    filled(tmp_path / "other", items_of(6))
                    path.write_bytes(packs(tmp_path / "other", "index")[0].read_bytes())
                case _:
                    data = bytearray(path.read_bytes())
                    data[random.Random(number).randrange(len(data))] ^= 8
                    path.write_bytes(data)
        store = holds(root, items, pack_bytes=2000)
        store.put(b"one more")
        store.close()
        for path in packs(root):
            PackIndex(path.with_suffix(".index").read_bytes())
        holds(root, [*items, b"one more"])

    def test_it_is_not_believed_beyond_what_the_pack_holds(self, root):
        items = items_of(7)
        filled(root, items)
        (pack,) = packs(root)
        path, offset, _ = place_of(root, content_id(items[-1]))
        assert path == pack
        os.truncate(pack, offset - RECORD_HEADER_BYTES)
        holds(root, items[:-1])

    def test_ids_that_begin_alike_are_told_apart(self):
        keys = [b"same" * 2 + bytes([number]) * 24 for number in range(9)]
        places = {key: Place(number, number, 7) for number, key in enumerate(keys[:-1])}
        index = PackIndex(encode_index(mark=b"m" * 8, covered=100, places=places, dead={3: 4}))
        assert [index.find(key) for key in keys] == [*places.values(), None]
        assert dict(index.items()) == places
        assert (index.covered, index.mark, index.dead, len(index)) == (100, b"m" * 8, {3: 4}, 8)

    def test_an_index_cut_or_flipped_anywhere_is_none(self):
        data = encode_index(mark=b"m" * 8, covered=1, places={b"k" * 32: Place(1, 2, 3)}, dead={1: 2})
        for position in range(len(data)):
            broken = bytearray(data)
            broken[position] ^= 1
            for wrong in (bytes(broken), data[:position]):
                with pytest.raises(ValueError, match=r"damaged|another version"):
                    PackIndex(wrong)


class TestDamage:
    @pytest.mark.box("S2.1", "verified")
    @pytest.mark.parametrize("durable", [False, True])
    def test_a_flipped_bit_is_set_aside_when_it_is_read_and_healed_by_storing_again(self, root, durable):
        items = items_of(8)
        filled(root, items)
        bad = content_id(items[5])
        flip_blob(root, bad)
        damaged = stored_bytes(root, bad)
        store = FileBlobStore.open(root)
        assert store.peek(bad) is None
        assert FileBlobStore.reading(root).peek(bad) is None
        with pytest.raises(BlobCorrupt) as corrupt:
            store.get(bad)
        assert (corrupt.value.blob_hash, corrupt.value.actual) == (bad, content_id(damaged))
        assert (root / "quarantine" / bad).read_bytes() == damaged
        with pytest.raises(BlobNotFound):
            store.get(bad)
        store.put(items[5], durable=durable)
        assert (store.counters.quarantined, store.counters.stored) == (1, 1)
        store.close()
        holds(root, items)

    @pytest.mark.box("S2.1", "healed")
    def test_storing_over_damage_that_nobody_has_read_heals(self, root):
        items = items_of(9)
        filled(root, items)
        for item in items[:7]:
            wipe_blob(root, content_id(item))
        store = FileBlobStore.open(root)
        store.put_many(items)
        assert (store.counters.healed, store.counters.quarantined) == (7, 7)
        store.close()
        holds(root, items)

    def test_a_store_that_only_reads_tells_damage_and_moves_nothing(self, root):
        filled(root, [b"payload"])
        flip_blob(root, content_id(b"payload"))
        before = packs(root)[0].read_bytes()
        with pytest.raises(BlobCorrupt):
            FileBlobStore.reading(root).get(content_id(b"payload"))
        assert packs(root)[0].read_bytes() == before
        assert list((root / "quarantine").iterdir()) == []

    def test_any_flipped_byte_costs_at_most_the_blob_that_it_hits(self, root):
        items = items_of(10, count=8, size=40)
        filled(root, items)
        (pack,) = packs(root)
        data = pack.read_bytes()
        packs(root, "index")[0].unlink()
        places = {content_id(item): place_of(root, content_id(item)) for item in items}
        for position in range(len(data)):
            pack.write_bytes(data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :])
            store = FileBlobStore.reading(root)
            for item in items:
                _, offset, size = places[content_id(item)]
                if offset - RECORD_HEADER_BYTES <= position < offset + size:
                    with pytest.raises((BlobCorrupt, BlobNotFound)):
                        store.get(content_id(item))
                else:
                    assert store.get(content_id(item)) == item

    def test_any_cut_costs_what_is_behind_it_and_nothing_else(self, root):
        items = items_of(11, count=6, size=40)
        filled(root, items)
        (pack,) = packs(root)
        data = pack.read_bytes()
        ends = [PACK_HEADER_BYTES]
        for item in items:
            ends.append(ends[-1] + RECORD_HEADER_BYTES + len(item))
        assert ends[-1] == len(data)
        for cut in range(len(data)):
            pack.write_bytes(data[:cut])
            packs(root, "index")[0].unlink(missing_ok=True)
            whole = [item for item, end in zip(items, ends[1:], strict=True) if end <= cut]
            holds(root, whole)
            filled(root, items)
            holds(root, items).close()
            pack.write_bytes(data)
            for other in packs(root)[1:]:
                other.unlink()

    def test_a_file_that_is_no_pack_is_left_alone(self, root):
        filled(root, [b"payload"])
        (root / "packs" / "0000000007.pack").write_bytes(b"garbage")
        (root / "packs" / "notes.txt").write_bytes(b"")
        filled(root, [b"another"], pack_bytes=10)
        assert [path.name for path in packs(root)] == ["0000000001.pack", "0000000007.pack", "0000000008.pack"]
        holds(root, [b"payload", b"another"])

    def test_a_pack_that_the_disk_cannot_read_is_damage(self, tmp_path, root):
        disk = CrashDisk(tmp_path)
        store = FileBlobStore.open(root, files=disk)
        store.put_many([b"one", b"two"])
        disk.unreadable.add(root / "packs" / "0000000001.pack")
        with pytest.raises(BlobCorrupt):
            store.get(content_id(b"one"))
        assert disk.names(root / "quarantine") == [content_id(b"one")]


class TestOneWriterManyReaders:
    @pytest.mark.box("S2.2", "concurrent")
    def test_a_second_writer_makes_files_and_removes_nothing_from_packs(self, root):
        first, second = FileBlobStore.open(root), FileBlobStore.open(root)
        first.put(b"first")
        second.put(b"second")
        assert second.get(content_id(b"first")) == b"first"
        assert first.get(content_id(b"second")) == b"second"
        assert place_of(root, content_id(b"second"))[0].name == content_id(b"second")
        with pytest.raises(FolderLocked):
            second.delete(content_id(b"first"))
        first.close()
        assert second.delete(content_id(b"first"))
        assert not FileBlobStore.reading(root).has(content_id(b"first"))

    def test_a_writer_that_nobody_refers_to_is_none(self, root):
        FileBlobStore.open(root).put(b"a")
        FileBlobStore.open(root).delete(content_id(b"a"))

    @pytest.mark.box("S2.2", "reopen")
    def test_readers_see_what_was_written_since_they_looked(self, root):
        writer, reader = FileBlobStore.open(root, pack_bytes=500), FileBlobStore.reading(root)
        for seed in range(20):
            items = items_of(seed, count=3)
            writer.put_many(items)
            if seed % 5 == 4:
                writer.delete(content_id(items[2]))
                items.pop()
            assert [reader.peek(content_id(item)) for item in items] == items
        assert list(reader.iterate()) == list(writer.iterate())

    def test_readers_follow_what_is_rewritten(self, root):
        items = items_of(12, count=50)
        filled(root, items, pack_bytes=1500)
        reader = FileBlobStore.reading(root)
        assert reader.has(content_id(items[0]))
        with contextlib.closing(FileBlobStore.open(root, pack_bytes=1500)) as writer:
            for item in items[::2]:
                writer.delete(content_id(item))
            assert writer.compact(dead_part=0.1, seal=True).packs > 2
        assert [reader.peek(content_id(item)) for item in items[1::2]] == items[1::2]

    def test_threads_read_whole_blobs_while_others_store_remove_and_rewrite(self, root):
        store = FileBlobStore.open(root, pack_bytes=5000)
        items = items_of(13, count=40)
        kept, moving = items[:20], items[20:]
        store.put_many(kept)
        stop = threading.Event()
        wrong, seen = [], threading.Semaphore(0)

        def read(seed):
            rng = random.Random(seed)
            while not stop.is_set():
                item = rng.choice(items)
                try:
                    assert store.get(content_id(item)) == item
                    seen.release()
                except BlobNotFound:
                    if item in kept:
                        wrong.append(item)
                except BaseException as error:
                    wrong.append(error)
                    raise

        threads = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        try:
            for turn in range(40):
                store.put_many(moving, durable=turn % 3 == 0)
                for item in moving:
                    store.delete(content_id(item))
                if turn % 4 == 0:
                    store.compact(dead_part=0.2)
            assert all(seen.acquire(timeout=30) for _ in range(20))
        finally:
            stop.set()
            for thread in threads:
                thread.join(30)
        assert wrong == []
        assert list(store.iterate()) == sorted(map(content_id, kept))

    def test_threads_that_store_the_same_store_it_once(self, root):
        store = FileBlobStore.open(root)
        items = items_of(14, count=60)
        threads = [threading.Thread(target=store.put_many, args=(items,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert store.counters.stored == len(set(items))
        store.close()
        holds(root, items)


class TestDurability:
    def test_callers_at_the_same_time_share_a_sync(self, tmp_path, root):
        disk = CrashDisk(tmp_path)
        store = FileBlobStore.open(root, files=disk)
        hashes = store.put_many(items_of(15))
        before = disk.file_syncs
        store.sync(hashes)
        store.sync(hashes[:3])
        store.put(items_of(15)[0], durable=True)
        assert disk.file_syncs == before + 1

    @pytest.mark.parametrize("seed", range(10))
    def test_a_blob_whose_sync_failed_is_never_taken_for_durable(self, tmp_path, root, seed):
        disk = CrashDisk(tmp_path, seed=seed)
        store = FileBlobStore.open(root, files=disk)
        store.put(b"before", durable=True)
        store.limit_total(200)
        disk.failing_syncs = 1
        with pytest.raises(StorageFailed):
            store.put(b"payload" * 10, durable=True)
        assert not store.has(content_id(b"payload" * 10))
        store.put(b"payload" * 10, durable=True)
        with pytest.raises(StorageFull):
            store.put(b"x" * 130)
        store.put(b"y" * 124)
        disk.crash()
        store = FileBlobStore.open(root, files=disk)
        assert (store.get(content_id(b"before")), store.get(content_id(b"payload" * 10))) == (
            b"before",
            b"payload" * 10,
        )

    @pytest.mark.parametrize("seed", range(10))
    def test_what_a_dead_process_left_in_the_page_cache_is_written_before_it_is_called_durable(
        self, tmp_path, root, seed
    ):
        """Its sync failed, and it died before it could cut that off; reads go on to see what never reached the disk."""
        disk = CrashDisk(tmp_path, seed=seed)
        store = FileBlobStore.open(root, files=disk)
        store.put(b"payload" * 10)
        disk.failing_syncs, disk.failing_truncates = 1, 1
        with pytest.raises(StorageFailed):
            store.sync([content_id(b"payload" * 10)])
        disk.kill()
        store = FileBlobStore.open(root, files=disk)
        store.put(b"payload" * 10, durable=True)
        disk.crash()
        assert FileBlobStore.open(root, files=disk).get(content_id(b"payload" * 10)) == b"payload" * 10

    def test_while_what_may_be_lost_cannot_be_cut_off_nothing_is_written_behind_it(self, tmp_path, root):
        disk = CrashDisk(tmp_path)
        store = FileBlobStore.open(root, files=disk)
        disk.failing_syncs, disk.failing_truncates = 1, 1
        with pytest.raises(StorageFailed):
            store.put(b"payload", durable=True)
        with pytest.raises(StorageFailed):
            store.put(b"another")
        assert not store.has(content_id(b"another"))
        disk.kill()
        assert FileBlobStore.open(root, files=disk).put(b"another", durable=True)

    def test_no_room_is_told_leaves_nothing_behind_and_removing_works(self, tmp_path, root):
        disk = CrashDisk(tmp_path)
        store = FileBlobStore.open(root, files=disk, pack_bytes=300)
        store.put_many([b"a" * 150, b"c" * 150])
        disk.capacity = disk.used() + 30
        with pytest.raises(StorageFull):
            store.put(b"b" * 100)
        assert list(store.iterate()) == sorted([content_id(b"a" * 150), content_id(b"c" * 150)])
        assert store.delete(content_id(b"a" * 150))
        assert store.delete(content_id(b"c" * 150))
        assert list(store.iterate()) == []
        assert store.compact(seal=True).packs == 1
        disk.capacity += 200
        assert store.get(store.put(b"b" * 100)) == b"b" * 100
        store.close()
        assert list(FileBlobStore.open(root, files=disk).iterate()) == [content_id(b"b" * 100)]

    @pytest.mark.box("S2.2", "durable")
    @pytest.mark.parametrize("seed", range(30))
    def test_whatever_is_cut_off_loses_no_durable_blob(self, tmp_path, root, seed):
        """Storing, removing, rewriting, closing and opening, in lives that end by power cut or by SIGKILL."""
        rng = random.Random(seed)
        disk = CrashDisk(tmp_path, seed=seed)
        small = functools.partial(
            FileBlobStore.open, root, files=disk, pack_bytes=rng.choice((300, 2000)), packed_bytes=150
        )
        items = items_of(seed, count=40)
        names = {content_id(item): item for item in items}
        durable: set[str] = set()

        def live():
            store = small()
            while True:
                match rng.randrange(6):
                    case 0:
                        chosen = rng.sample(items, 5)
                        durable.update(store.put_many(chosen, durable=True))
                    case 1:
                        store.put_many(rng.sample(items, 5))
                    case 2:
                        for name in rng.sample(sorted(names), 4):
                            durable.discard(name)
                            store.delete(name)
                    case 3:
                        store.compact(dead_part=rng.choice((0.1, 0.5)), seal=rng.random() < 0.5)
                    case 4:
                        store.close()
                    case _:
                        for name in durable:
                            assert store.get(name) == names[name]

        for _ in range(8):
            disk.cut_power_in(rng.randrange(1, 120))
            with pytest.raises(PowerCut):
                live()
            if rng.random() < 0.3:
                disk.kill()
            else:
                disk.crash()
            store = small()
            for name in durable:
                assert store.get(name) == names[name], f"seed {seed}"
            for name in list(store.iterate()):
                with contextlib.suppress(BlobCorrupt):
                    assert store.get(name) == names[name]
            store.close()

    def test_an_unexpected_error_of_the_disk_is_typed(self, root):
        class Broken(LocalFiles):
            def open_to_read(self, path):
                raise OSError(errno.EACCES, "Permission denied", str(path))

        filled(root, [b"a"])
        store = FileBlobStore.open(root, files=Broken())
        for call in (store.get, store.has, store.delete, lambda name: store.sync([name])):
            with pytest.raises(StorageFailed):
                call(content_id(b"a"))


class TestRewriting:
    def test_the_room_of_what_is_gone_is_freed_and_all_else_stays(self, root):
        items = items_of(16, count=200)
        filled(root, items, pack_bytes=4000)
        size = sum(path.stat().st_size for path in packs(root))
        store = FileBlobStore.open(root, pack_bytes=4000)
        gone, kept = items[:150], items[150:]
        for item in gone:
            store.delete(content_id(item))
        freed = store.compact(dead_part=0.3, seal=True)
        assert freed.packs > 3
        store.close()
        assert sum(path.stat().st_size for path in packs(root)) < size / 2
        holds(root, kept)

    def test_what_is_not_dead_enough_is_left_alone(self, root):
        items = items_of(17, count=100)
        filled(root, items, pack_bytes=4000)
        before = packs(root)
        with contextlib.closing(FileBlobStore.open(root, pack_bytes=4000)) as store:
            store.delete(content_id(items[0]))
            assert store.compact(dead_part=0.5).packs == 0
        assert packs(root)[: len(before)] == before

    def test_what_is_gone_stays_gone_when_the_pack_that_says_so_is_rewritten(self, root):
        items = items_of(18, count=30)
        filled(root, items, pack_bytes=10**6)
        with contextlib.closing(FileBlobStore.open(root, pack_bytes=10**6)) as store:
            store.own()
            store._packs.seal()
            store.put(b"another")
            store.delete(content_id(items[0]))
            store.delete(content_id(b"another"))
            assert store.compact(dead_part=0.7, seal=True).packs == 1
        holds(root, items[1:])

    def test_a_copy_keeps_when_its_blob_was_stored(self, root):
        items = items_of(19, count=40)
        filled(root, items)
        store = FileBlobStore.open(root)
        stamps = {entry.blob_hash: entry.used_ns for entry in store.entries()}
        assert [stamps[content_id(item)] for item in items] == sorted(stamps.values())
        for item in items[:30]:
            store.delete(content_id(item))
        assert store.compact(seal=True).packs == 1
        assert {entry.blob_hash: entry.used_ns for entry in store.entries()} == {
            content_id(item): stamps[content_id(item)] for item in items[30:]
        }

    def test_what_is_damaged_is_not_copied_but_set_aside(self, root):
        items = items_of(20, count=40)
        filled(root, items)
        flip_blob(root, content_id(items[39]))
        store = FileBlobStore.open(root)
        for item in items[:30]:
            store.delete(content_id(item))
        assert store.compact(seal=True).packs == 1
        assert list(store.quarantine()) == [content_id(items[39])]
        store.close()
        holds(root, items[30:39])

    def test_a_store_that_is_closed_ends_it(self, root, monkeypatch):
        filled(root, items_of(21, count=40), pack_bytes=500)
        store = FileBlobStore.open(root, pack_bytes=500)
        for item in items_of(21, count=40)[::2]:
            store.delete(content_id(item))
        copy = store._packs.copy

        def closing(*arguments, **options):
            copy(*arguments, **options)
            store.close()

        monkeypatch.setattr(store._packs, "copy", closing)
        assert store.compact(dead_part=0.1).packs == 0
        FileBlobStore.open(root).put(b"the lock is free")
