"""A write that was cut short is cut off and reported; damage of what had been durable is refused, byte by byte."""

import random

import pytest

from agentworld_node.storage.errors import CorruptLog, LogFailed
from agentworld_node.storage.wal import WriteAheadLog
from agentworld_node.storage.wal_format import RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES
from agentworld_node.storage.wal_notes import NOTE_SUFFIX
from tests.unit.storage.faults import CrashDisk, PowerCut

PAYLOADS = [b"", b"one", b"x" * 40, b"three", b"\0" * 30, b"5"]
FIRST = f"{1:020d}.wal"


def written(disk, folder, batches, *, segment_bytes=10**6):
    """Writes the payloads in batches of one sync each, closes, and returns the end of every record in its file."""
    with WriteAheadLog.open(folder, files=disk, segment_bytes=segment_bytes) as log:
        rest = iter(PAYLOADS)
        for size in batches:
            for _ in range(size):
                log.append(9, next(rest))
            log.sync_now()
    ends, end = [], SEGMENT_HEADER_BYTES
    for payload in PAYLOADS[: sum(batches)]:
        end += RECORD_HEADER_BYTES + len(payload)
        ends.append(end)
    return ends


def segments(disk, folder):
    return [folder / name for name in disk.names(folder) if name.endswith(".wal")]


def recovered(disk, folder):
    """Opens the log, checks that it goes on and opens again without a torn tail; returns what was there and torn."""
    with WriteAheadLog.open(folder, check_all=True, files=disk) as log:
        payloads = [record.payload for record in log.records()]
        torn = log.torn
        assert log.append(1, b"next") == len(payloads) + 1
        log.sync_now()
    disk.crash()
    with WriteAheadLog.open(folder, files=disk) as log:
        assert log.torn is None
        assert [record.payload for record in log.records()] == [*payloads, b"next"]
    return payloads, torn


def refused(disk, folder):
    """Opens the log, which must refuse and leave every byte as it was; returns the error."""
    before = {path: disk.read(path) for path in segments(disk, folder)}
    with pytest.raises(CorruptLog) as caught:
        WriteAheadLog.open(folder, check_all=True, files=disk)
    assert {path: disk.read(path) for path in segments(disk, folder)} == before
    error = caught.value
    assert error.code == "corrupt_log"
    for part in (error.file, str(error.offset), str(error.sequence), "sync from its peers"):
        assert part in str(error)
    return error


@pytest.fixture
def disk(tmp_path):
    return CrashDisk(tmp_path)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "wal"


@pytest.mark.box("S26.2", "damaged")
@pytest.mark.parametrize("batches", [[1, 1, 1, 1, 1, 1], [6], [1, 2, 3]])
def test_every_cut_keeps_the_whole_records_before_it(disk, folder, batches):
    ends = written(disk, folder, batches)
    data = disk.read(folder / FIRST)
    assert len(data) == ends[-1]
    for cut in range(len(data)):
        disk.put(folder / FIRST, data[:cut])
        if cut < SEGMENT_HEADER_BYTES:
            assert refused(disk, folder).offset == 0
            continue
        whole = sum(end <= cut for end in ends)
        payloads, torn = recovered(disk, folder)
        assert payloads == PAYLOADS[:whole]
        begin = ([SEGMENT_HEADER_BYTES, *ends])[whole]
        if cut == begin:
            assert torn is None
        else:
            assert torn is not None
            assert (torn.file, torn.offset, torn.sequence) == (f"wal/{FIRST}", begin, whole + 1)
            assert (torn.cut_bytes, torn.later_records) == (cut - begin, 0)


@pytest.mark.box("S26.2", "damaged")
@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
@pytest.mark.parametrize("batches", [[1, 1, 1, 1, 1, 1], [6], [1, 2, 3], [3, 2, 1]])
def test_every_flipped_byte_is_told_apart(disk, folder, batches, flip):
    """A flip is damage when a later write exists, else it may be the trace of the last write's interruption."""
    ends = written(disk, folder, batches)
    data = disk.read(folder / FIRST)
    proven = sum(batches[:-1])  # the last write shows that these were durable
    for position in range(len(data)):
        broken = bytearray(data)
        broken[position] ^= flip
        disk.put(folder / FIRST, bytes(broken))
        if position < SEGMENT_HEADER_BYTES:
            assert refused(disk, folder).offset == 0
            continue
        index = sum(end <= position for end in ends)
        begin = ([SEGMENT_HEADER_BYTES, *ends])[index]
        if index < proven:
            error = refused(disk, folder)
            assert (error.file, error.offset, error.sequence) == (f"wal/{FIRST}", begin, index + 1)
        else:
            payloads, torn = recovered(disk, folder)
            assert payloads == PAYLOADS[:index]
            assert torn is not None
            assert (torn.offset, torn.sequence, torn.cut_bytes) == (begin, index + 1, len(data) - begin)
            assert torn.later_records == len(PAYLOADS) - index - 1


def test_every_flip_and_every_cut_of_an_earlier_segment_is_damage(disk, folder):
    written(disk, folder, [1, 2, 3], segment_bytes=200)
    paths = segments(disk, folder)
    assert len(paths) > 1
    for path in paths[:-1]:
        data = disk.read(path)
        for position in range(len(data)):
            broken = bytearray(data)
            broken[position] ^= 0x10
            disk.put(path, bytes(broken))
            assert refused(disk, folder).file == f"wal/{path.name}"
            disk.put(path, data[:position])
            # A cut between two records is seen where the next segment does not continue.
            refused(disk, folder)
        disk.put(path, data)
    recovered(disk, folder)


def test_a_segment_that_is_gone_from_the_middle_is_damage(disk, folder):
    written(disk, folder, [1] * 6, segment_bytes=100)
    paths = segments(disk, folder)
    assert len(paths) > 2
    disk.remove(paths[1])
    error = refused(disk, folder)
    assert error.file == f"wal/{paths[2].name}"
    assert "does not continue" in error.reason


def test_a_segment_of_another_log_is_damage(disk, tmp_path):
    written(disk, tmp_path / "one", [1] * 6, segment_bytes=100)
    written(disk, tmp_path / "two", [1] * 6, segment_bytes=100)
    path = segments(disk, tmp_path / "one")[1]
    disk.put(path, disk.read(tmp_path / "two" / path.name))
    assert "another log" in refused(disk, tmp_path / "one").reason


def test_a_segment_under_the_name_of_another_is_damage(disk, folder):
    written(disk, folder, [1] * 6, segment_bytes=100)
    paths = segments(disk, folder)
    disk.put(paths[2], disk.read(paths[1]))
    refused(disk, folder)


def test_a_file_with_a_foreign_name_is_refused(disk, folder):
    written(disk, folder, [1])
    disk.put(folder / "1.wal", b"")
    assert refused(disk, folder).file == "wal/1.wal"


@pytest.mark.box("S8.2", "format")
@pytest.mark.box("S26.1", "version")
def test_another_format_is_refused(disk, folder):
    written(disk, folder, [1])
    disk.put(folder / FIRST, b"SQLite format 3\0" * 20)
    refused(disk, folder)


def test_whole_records_in_the_wrong_place_are_damage_even_at_the_end(disk, folder):
    ends = written(disk, folder, [1] * 6)
    data = disk.read(folder / FIRST)
    last = data[ends[-2] :]
    disk.put(folder / FIRST, data + last)
    error = refused(disk, folder)
    assert (error.offset, error.sequence) == (len(data), 7)
    assert "sequence 6" in error.reason
    disk.put(folder / FIRST, data[: ends[-3]] + last)
    assert refused(disk, folder).sequence == 5


def forget_note(disk, folder):
    """Removes the note of the first segment."""
    disk.remove((folder / FIRST).with_suffix(NOTE_SUFFIX))


def test_a_record_that_does_not_follow_its_predecessor_is_damage(disk, tmp_path):
    """Same log, same sequence, right CRC: only the hash of the record before shows that history was replaced."""
    folder = tmp_path / "one"
    ends = written(disk, folder, [1, 1])
    shared = disk.read(folder / FIRST)[: ends[0]]
    branches = []
    for payload in (b"left", b"right"):
        forget_note(disk, folder)
        disk.put(folder / FIRST, shared)
        with WriteAheadLog.open(folder, files=disk) as log:
            log.append(1, payload)
            log.sync_now()
            middle = disk.size(folder / FIRST)
            log.append(1, b"end")
        branches.append((middle, disk.read(folder / FIRST)))
    (left, left_data), (right, right_data) = branches
    disk.put(folder / FIRST, left_data[:left] + right_data[right:])
    error = refused(disk, folder)
    assert error.sequence == 3
    assert "does not follow" in error.reason


@pytest.mark.parametrize("garbage", [b"\0" * 4096, b"\xff" * 100, bytes(range(256)) * 3, b"x"])
def test_garbage_behind_the_last_record_is_cut(disk, folder, garbage):
    ends = written(disk, folder, [1, 2, 3])
    disk.put(folder / FIRST, disk.read(folder / FIRST) + garbage)
    payloads, torn = recovered(disk, folder)
    assert payloads == PAYLOADS
    assert torn is not None
    assert (torn.offset, torn.cut_bytes) == (ends[-1], len(garbage))


def test_a_payload_cannot_imitate_a_later_record(disk, folder, tmp_path):
    """Whoever knows the format but not the log's mark cannot make a torn tail look like damage."""
    written(disk, tmp_path / "foreign", [1] * 6)
    forged = disk.read(tmp_path / "foreign" / FIRST)
    ends = written(disk, folder, [1])
    with WriteAheadLog.open(folder, files=disk) as log:
        log.append(1, forged)
    forget_note(disk, folder)  # as a write that was torn is never noted
    disk.put(folder / FIRST, disk.read(folder / FIRST)[:-1])
    payloads, torn = recovered(disk, folder)
    assert payloads == PAYLOADS[:1]
    assert torn is not None
    assert torn.offset == ends[0]


def test_damage_is_found_again_while_reading(disk, folder):
    ends = written(disk, folder, [1, 2, 3])
    with WriteAheadLog.open(folder, files=disk) as log:
        data = bytearray(disk.read(folder / FIRST))
        data[ends[3]] ^= 1
        disk.put(folder / FIRST, bytes(data))
        read = log.records()
        assert [next(read).payload for _ in range(4)] == PAYLOADS[:4]
        with pytest.raises(CorruptLog):
            next(read)


def test_temporaries_of_an_interrupted_rotation_are_removed(disk, folder):
    written(disk, folder, [1])
    disk.put(folder / f"{2:020d}.new", b"half a header")
    recovered(disk, folder)
    assert not [name for name in disk.names(folder) if name.endswith(".new")]


def scenario(disk, folder, acknowledged):
    """A life of a log: batches, rotations, pruning, closing, opening; notes what was promised."""
    rng = random.Random(5)
    for _ in range(2):
        with WriteAheadLog.open(folder, files=disk, segment_bytes=250) as log:
            acknowledged[:] = acknowledged[: log.last_sequence]
            acknowledged += [record.payload for record in log.records(after=len(acknowledged))]
            for _ in range(4):
                batch = [rng.randbytes(rng.randrange(60)) for _ in range(rng.randrange(1, 4))]
                for payload in batch:
                    log.append(1, payload)
                log.sync_now()
                acknowledged += batch
            log.prune(log.last_sequence - 3)


@pytest.mark.parametrize("machine_too", [True, False])
def test_dying_at_any_operation_loses_nothing_acknowledged(tmp_path, machine_too):
    """Also what a new process acknowledges after the old one was killed is there when the machine dies later."""
    complete = CrashDisk(tmp_path)
    scenario(complete, tmp_path / "wal", [])
    rng = random.Random(1)
    for cut in range(1, complete.operations + 1):
        for _ in range(6):
            disk = CrashDisk(tmp_path, seed=rng.randrange(2**32))
            acknowledged: list[bytes] = []
            disk.cut_power_in(cut)
            with pytest.raises((PowerCut, LogFailed)):
                scenario(disk, tmp_path / "wal", acknowledged)
            if machine_too:
                disk.crash()
            else:
                disk.kill()
            with WriteAheadLog.open(tmp_path / "wal", files=disk, segment_bytes=250) as log:
                acknowledged += [record.payload for record in log.records(after=len(acknowledged))]
                log.append(1, b"after")
                acknowledged.append(b"after")
            disk.crash()
            with WriteAheadLog.open(tmp_path / "wal", files=disk, segment_bytes=250) as log:
                assert log.last_sequence == len(acknowledged)
                assert log.first_sequence <= max(1, len(acknowledged) - 3)
                expected = acknowledged[log.first_sequence - 1 :]
                assert [record.payload for record in log.records()] == expected
