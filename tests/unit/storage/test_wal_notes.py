"""Notes: a log is opened without reading its history, whatever became of the notes, and damage is never handed out."""

import contextlib
import random

import pytest

from agentworld_core.errors import NotFound
from agentworld_node.storage.errors import CorruptLog, LogFailed
from agentworld_node.storage.wal import WriteAheadLog
from agentworld_node.storage.wal_format import SEGMENT_HEADER_BYTES, Link
from agentworld_node.storage.wal_notes import SegmentNote
from tests.unit.storage.faults import CrashDisk, PowerCut


class CountingDisk(CrashDisk):
    """Counts the bytes of the log's segments that are read."""

    bytes_read = 0

    def read(self, path, *, unnoticed=False):
        data = super().read(path, unnoticed=unnoticed)
        self.bytes_read += len(data) if path.suffix == ".wal" else 0
        return data

    def read_part(self, path, inode, offset, length):
        data = super().read_part(path, inode, offset, length)
        self.bytes_read += len(data) if path.suffix == ".wal" else 0
        return data


def payload(sequence):
    return random.Random(sequence).randbytes(sequence % 90)


def fill(disk, folder, records, *, segment_bytes=2_000, notes=True):
    """A log with so many records of four kinds; returns them."""
    with WriteAheadLog.open(folder, segment_bytes=segment_bytes, check_all=not notes, files=disk) as log:
        for sequence in range(log.last_sequence + 1, records + 1):
            log.append(sequence % 4, payload(sequence))
            if sequence % 3 == 0:
                log.sync_now()
    return [(sequence, sequence % 4, payload(sequence)) for sequence in range(1, records + 1)]


def assert_holds(disk, folder, expected, **options):
    with WriteAheadLog.open(folder, files=disk, **options) as log:
        assert [(item.sequence, item.kind, item.payload) for item in log.records()] == expected
        for sequence, kind, data in expected[:: max(1, len(expected) // 20)]:
            found = log.record(sequence)
            assert (found.sequence, found.kind, found.payload) == (sequence, kind, data)
            after = [(item.sequence, item.kind, item.payload) for item in log.records(after=sequence)]
            assert after == expected[sequence:]
        for kind in range(5):
            assert list(log.sequences(kind)) == [sequence for sequence, found, _ in expected if found == kind]
        for sequence in (0, len(expected) + 1):
            with pytest.raises(NotFound):
                log.record(sequence)


def notes_of(disk, folder):
    return [folder / name for name in disk.names(folder) if name.endswith(".note")]


@pytest.fixture
def disk(tmp_path):
    return CountingDisk(tmp_path)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "wal"


def test_opening_reads_no_more_of_a_long_history_than_of_a_short_one(disk, folder):
    read = []
    for records in (100, 1_500):
        fill(disk, folder, records)
        disk.bytes_read = 0
        with WriteAheadLog.open(folder, files=disk) as log:
            assert log.last_sequence == records
            assert len(log.sequences(1)) == records // 4
            assert log.record(records).payload == payload(records)
            read.append((log.segment_count, disk.bytes_read))
    (few, short), (many, long) = read
    assert many > 10 * few
    assert long - short < (many - few) * (SEGMENT_HEADER_BYTES + 170), "a header and a record of each segment"


@pytest.mark.parametrize("how", ["kept", "gone", "last gone", "empty", "cut", "flipped", "swapped", "of another log"])
def test_whatever_becomes_of_the_notes_the_log_is_the_same(disk, folder, tmp_path, how):
    expected = fill(disk, folder, 200)
    notes = notes_of(disk, folder)
    assert len(notes) > 5
    fill(disk, tmp_path / "other", 200)
    for number, path in enumerate(notes):
        match how:
            case "gone":
                disk.remove(path)
            case "last gone" if path == notes[-1]:
                disk.remove(path)
            case "empty":
                disk.put(path, b"")
            case "cut":
                disk.put(path, disk.read(path)[: -1 - number])
            case "flipped":
                data = bytearray(disk.read(path))
                data[random.Random(number).randrange(len(data))] ^= 4
                disk.put(path, bytes(data))
            case "swapped":
                disk.put(path, disk.read(notes[(number + 1) % len(notes)]))
            case "of another log":
                disk.put(path, disk.read(tmp_path / "other" / path.name))
    assert_holds(disk, folder, expected)
    for path in notes_of(disk, folder):
        SegmentNote.decode(disk.read(path))
    assert len(notes_of(disk, folder)) == len(notes)
    assert_holds(disk, folder, expected)
    assert_holds(disk, folder, expected, check_all=True)


def read_all(disk, folder, expected):
    """Reads each record, then all in order, which raises CorruptLog; returns how many could be read."""
    whole = 0
    with WriteAheadLog.open(folder, files=disk) as log:
        for sequence, kind, data in expected:
            with contextlib.suppress(CorruptLog):
                found = log.record(sequence)
                assert (found.kind, found.payload) == (kind, data)
                whole += 1
        assert whole == len(expected) - 1
        for record in log.records():
            assert record.payload == payload(record.sequence)


def test_damage_that_a_note_covers_is_told_when_it_is_read_and_never_handed_out(disk, folder):
    expected = fill(disk, folder, 60, segment_bytes=1_000)
    paths = [folder / name for name in disk.names(folder) if name.endswith(".wal")]
    for path in paths[:-1]:
        data = disk.read(path)
        for position in range(SEGMENT_HEADER_BYTES, len(data), 7):
            broken = bytearray(data)
            broken[position] ^= 0x20
            disk.put(path, bytes(broken))
            with pytest.raises(CorruptLog):
                read_all(disk, folder, expected)
            with pytest.raises(CorruptLog):
                WriteAheadLog.open(folder, check_all=True, files=disk)
        disk.put(path, data)


def test_a_note_of_an_earlier_life_of_the_log_is_not_believed(disk, folder):
    """An older copy of the log went on otherwise, and became longer than what a note covers that came back to it."""
    fill(disk, folder, 10, segment_bytes=10**6)
    (path,) = [folder / name for name in disk.names(folder) if name.endswith(".wal")]
    older = disk.read(path)
    fill(disk, folder, 20, segment_bytes=10**6)
    (note,) = notes_of(disk, folder)
    stale = disk.read(note)
    disk.put(path, older)
    disk.remove(note)
    with WriteAheadLog.open(folder, files=disk) as log:
        for _ in range(30):
            log.append(3, b"another life")
        log.sync_now()
    disk.put(note, stale)
    expected = [(sequence, sequence % 4, payload(sequence)) for sequence in range(1, 11)]
    expected += [(sequence, 3, b"another life") for sequence in range(11, 41)]
    assert_holds(disk, folder, expected)


@pytest.mark.box("S26.2", "lying-disk")
def test_a_log_that_is_shorter_than_its_note_has_lost_what_was_synced(disk, folder):
    fill(disk, folder, 10, segment_bytes=10**6)
    (path,) = [folder / name for name in disk.names(folder) if name.endswith(".wal")]
    older = disk.read(path)
    fill(disk, folder, 20, segment_bytes=10**6)
    disk.put(path, older)
    with pytest.raises(CorruptLog, match=rf"has {len(older)} bytes, and \d+ are noted"):
        WriteAheadLog.open(folder, files=disk)
    assert disk.read(path) == older


def test_a_log_of_an_older_version_gets_its_notes_and_a_check_makes_none(disk, folder):
    expected = fill(disk, folder, 100, notes=False)
    assert notes_of(disk, folder) == []
    assert_holds(disk, folder, expected, check_all=True)
    assert notes_of(disk, folder) == []
    assert_holds(disk, folder, expected)
    assert len(notes_of(disk, folder)) > 3


def test_pruned_segments_take_their_notes_with_them(disk, folder):
    fill(disk, folder, 100)
    with WriteAheadLog.open(folder, segment_bytes=2_000, files=disk) as log:
        assert log.prune(60) > 0
        first = log.first_sequence
        with pytest.raises(NotFound):
            log.record(first - 1)
        assert log.record(first).payload == payload(first)
        assert min(log.sequences(2)) >= first
    names = disk.names(folder)
    assert {name.partition(".")[0] for name in names if name.endswith(".note")} <= {
        name.partition(".")[0] for name in names if name.endswith(".wal")
    }


def test_a_note_that_cannot_be_written_costs_nothing_but_time(disk, folder):
    fill(disk, folder, 50)
    log = WriteAheadLog.open(folder, segment_bytes=2_000, files=disk)
    log.append(2, payload(51))
    log.sync_now()
    disk.capacity = disk.used()
    log.keep_note()
    log.close()
    disk.capacity = None
    expected = [(sequence, sequence % 4, payload(sequence)) for sequence in range(1, 51)]
    assert_holds(disk, folder, [*expected, (51, 2, payload(51))])


def test_a_note_cut_or_flipped_anywhere_is_none():
    note = SegmentNote(mark=b"m" * 8, first=7, link=Link(6, bytes(32)), covered=60)
    note.add([(1, 60), (5, 130), (1, 200)], link=Link(9, b"h" * 32), covered=300)
    data = note.encode()
    again = SegmentNote.decode(data)
    assert (again.first, again.link, again.covered, len(again)) == (7, Link(9, b"h" * 32), 300, 3)
    assert [again.span(sequence) for sequence in (7, 8, 9)] == [(60, 130), (130, 200), (200, 300)]
    assert (list(again.sequences(1)), list(again.sequences(5)), list(again.sequences(2))) == ([7, 9], [8], [])
    again.add([(5, 300)], link=Link(10, b"i" * 32), covered=400)
    assert (again.span(10), list(again.sequences(5))) == ((300, 400), [8, 10])
    for position in range(len(data)):
        broken = bytearray(data)
        broken[position] ^= 1
        for wrong in (bytes(broken), data[:position]):
            with pytest.raises(ValueError, match=r"damaged|another version"):
                SegmentNote.decode(wrong)


@pytest.mark.parametrize("seed", range(20))
def test_crashes_between_log_and_notes_lose_nothing(tmp_path, folder, seed):
    rng = random.Random(seed)
    disk = CrashDisk(tmp_path, seed=seed)
    durable = 0

    def live():
        nonlocal durable
        log = WriteAheadLog.open(folder, segment_bytes=rng.choice((500, 3_000)), files=disk)
        assert log.last_sequence >= durable
        while True:
            for _ in range(rng.randrange(1, 4)):
                log.append((log.last_sequence + 1) % 4, payload(log.last_sequence + 1))
            log.sync_now()
            durable = log.last_sequence
            if rng.random() < 0.3:
                log.keep_note()

    for _ in range(8):
        disk.cut_power_in(rng.randrange(1, 60))
        with pytest.raises((PowerCut, LogFailed)):
            live()
        disk.crash()
    with WriteAheadLog.open(folder, files=disk) as log:
        last = log.last_sequence
    assert last >= durable
    assert_holds(disk, folder, [(sequence, sequence % 4, payload(sequence)) for sequence in range(1, last + 1)])
