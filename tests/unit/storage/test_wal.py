"""What the log promises while nothing is damaged: order, durability, group commit, limits, refusals."""

import asyncio
import errno
import os
import threading

import pytest

from agentworld_core.errors import AgentWorldError, InvalidField
from agentworld_node.storage.errors import (
    FolderLocked,
    LogBusy,
    LogClosed,
    LogFailed,
    RecordTooLarge,
    StorageFailed,
    StorageFull,
)
from agentworld_node.storage.wal import WriteAheadLog
from tests.unit.storage.faults import CrashDisk


def contents(log, *, after=0):
    return [(record.sequence, record.kind, record.payload) for record in log.records(after=after)]


@pytest.fixture
def disk(tmp_path):
    return CrashDisk(tmp_path)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "wal"


@pytest.mark.box("S26.1", "records")
def test_records_come_back_in_order_from_a_real_disk(tmp_path):
    with WriteAheadLog.open(tmp_path / "deep" / "wal") as log:
        assert [log.append(7, b"one"), log.append(2**32 - 1, b""), log.append(0, b"x" * 70_000)] == [1, 2, 3]
    with WriteAheadLog.open(tmp_path / "deep" / "wal") as log:
        assert contents(log) == [(1, 7, b"one"), (2, 2**32 - 1, b""), (3, 0, b"x" * 70_000)]
        assert (log.first_sequence, log.last_sequence, log.durable_sequence, log.torn) == (1, 3, 3, None)
        assert log.append(1, b"four") == 4


def test_a_new_log_is_empty(disk, folder):
    log = WriteAheadLog.open(folder, files=disk)
    assert contents(log) == []
    assert (log.first_sequence, log.last_sequence, log.durable_sequence, log.torn) == (1, 0, 0, None)


async def test_only_synced_records_are_read_and_survive_a_crash(disk, folder):
    log = WriteAheadLog.open(folder, files=disk)
    log.append(1, b"durable")
    await log.sync()
    log.append(1, b"waiting")
    assert contents(log) == [(1, 1, b"durable")]
    assert (log.last_sequence, log.durable_sequence) == (2, 1)
    disk.crash()
    assert contents(WriteAheadLog.open(folder, files=disk)) == [(1, 1, b"durable")]


async def test_sync_without_new_records_does_not_touch_the_disk(disk, folder):
    log = WriteAheadLog.open(folder, files=disk)
    log.append(1, b"a")
    await log.sync()
    before = disk.operations
    await log.sync()
    log.sync_now()
    assert disk.operations == before


async def test_the_payload_is_taken_at_append(disk, folder):
    log = WriteAheadLog.open(folder, files=disk)
    payload = bytearray(b"first")
    log.append(1, payload)  # type: ignore[arg-type] # callers may hand over a buffer they use again
    payload[:] = b"later"
    await log.sync()
    assert contents(log) == [(1, 1, b"first")]


async def test_concurrent_callers_share_one_sync(disk, folder):
    log = WriteAheadLog.open(folder, files=disk)
    entered, leave = threading.Event(), threading.Event()

    def hold():
        entered.set()
        assert leave.wait(30)

    disk.before_sync = hold
    before = disk.file_syncs
    log.append(1, b"first")
    first = asyncio.ensure_future(log.sync())
    await asyncio.to_thread(entered.wait, 30)
    others = []
    for number in range(50):
        log.append(1, b"other %d" % number)
        others.append(asyncio.ensure_future(log.sync()))
    await asyncio.sleep(0)
    assert not first.done()
    leave.set()
    await asyncio.gather(first, *others)
    assert disk.file_syncs - before == 2
    assert log.durable_sequence == 51


async def test_those_whom_a_sync_wakes_share_the_next_one(disk, folder):
    log = WriteAheadLog.open(folder, files=disk)
    before = disk.file_syncs

    async def produce():
        for _ in range(3):
            log.append(1, b"record")
            await log.sync()

    await asyncio.gather(*(produce() for _ in range(16)))
    assert disk.file_syncs - before == 3
    log.close()


async def test_a_caller_that_gives_up_does_not_take_the_others_with_it(disk, folder):
    log = WriteAheadLog.open(folder, files=disk)
    entered, leave = threading.Event(), threading.Event()

    def hold():
        entered.set()
        assert leave.wait(30)

    disk.before_sync = hold
    log.append(1, b"a")
    impatient, patient = asyncio.ensure_future(log.sync()), asyncio.ensure_future(log.sync())
    await asyncio.to_thread(entered.wait, 30)
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    leave.set()
    await patient
    assert log.durable_sequence == 1


async def test_sync_now_from_threads_and_sync_from_the_loop_mix(disk, folder):
    log = WriteAheadLog.open(folder, files=disk, segment_bytes=600)

    async def produce(number):
        for step in range(20):
            sequence = log.append(number, b"%d" % step)
            if (number + step) % 3:
                await log.sync()
            else:
                await asyncio.to_thread(log.sync_now)
            assert log.durable_sequence >= sequence

    await asyncio.gather(*(produce(number) for number in range(8)))
    disk.crash()
    log = WriteAheadLog.open(folder, files=disk, segment_bytes=600)
    records = contents(log)
    assert [sequence for sequence, _, _ in records] == list(range(1, 161))
    for number in range(8):
        assert [payload for _, kind, payload in records if kind == number] == [b"%d" % step for step in range(20)]


def test_close_makes_what_waits_durable_and_releases_the_folder(disk, folder):
    log = WriteAheadLog.open(folder, files=disk)
    log.append(1, b"a")
    log.close()
    log.close()
    disk.crash()
    with WriteAheadLog.open(folder, files=disk) as log:
        assert contents(log) == [(1, 1, b"a")]


async def test_a_closed_log_refuses_everything(disk, folder):
    log = WriteAheadLog.open(folder, files=disk)
    log.append(1, b"a")
    await log.sync()
    log.close()
    for call in (lambda: log.append(1, b""), log.sync_now, lambda: list(log.records()), lambda: log.prune(1)):
        with pytest.raises(LogClosed):
            call()
    await log.sync()  # what was appended is durable, so this promise still holds


def test_a_second_opener_is_refused_until_the_first_closes(tmp_path):
    first = WriteAheadLog.open(tmp_path / "wal")
    with pytest.raises(FolderLocked) as refused:
        WriteAheadLog.open(tmp_path / "wal")
    assert str(tmp_path / "wal") in str(refused.value)
    assert refused.value.code == "folder_locked"
    first.close()
    WriteAheadLog.open(tmp_path / "wal").close()


def test_opening_where_no_folder_can_be_is_a_typed_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageFailed):
        WriteAheadLog.open(tmp_path / "file")


def test_limits_are_refused_before_anything_is_taken(disk, folder):
    log = WriteAheadLog.open(folder, files=disk, record_bytes=10, buffer_bytes=200)
    with pytest.raises(RecordTooLarge) as too_large:
        log.append(1, b"x" * 11)
    assert too_large.value.code == "too_large"
    for kind in (-1, 2**32):
        with pytest.raises(InvalidField):
            log.append(kind, b"")
    assert [log.append(1, b"x" * 10), log.append(1, b"y" * 10)] == [1, 2]
    with pytest.raises(LogBusy) as busy:
        log.append(1, b"z" * 10)
    assert busy.value.retryable
    log.sync_now()
    assert log.append(1, b"z" * 10) == 3


def test_one_record_is_always_taken_whatever_the_buffer(disk, folder):
    log = WriteAheadLog.open(folder, files=disk, buffer_bytes=1)
    log.append(1, b"x" * 100)
    log.sync_now()
    assert contents(log) == [(1, 1, b"x" * 100)]


def test_segments_rotate_and_are_read_across(disk, folder):
    log = WriteAheadLog.open(folder, files=disk, segment_bytes=300)
    expected = []
    for number in range(40):
        payload = b"p" * (number * 7 % 90)
        expected.append((log.append(number, payload), number, payload))
        if number % 4 == 0:
            log.sync_now()
    log.sync_now()
    assert log.segment_count > 5
    assert contents(log) == expected
    assert log.size_bytes == sum(disk.size(folder / name) for name in disk.names(folder) if name.endswith(".wal"))
    for after in (0, 1, 17, 39, 40, 99):
        assert contents(log, after=after) == [entry for entry in expected if entry[0] > after]
    disk.crash()
    log = WriteAheadLog.open(folder, files=disk, segment_bytes=300)
    assert contents(log) == expected
    assert log.append(1, b"") == 41


@pytest.mark.parametrize("segment_bytes", [1, 60, 61, 129])
def test_a_segment_takes_one_record_however_small_it_is(disk, folder, segment_bytes):
    log = WriteAheadLog.open(folder, files=disk, segment_bytes=segment_bytes)
    for number in range(5):
        log.append(number, b"x")
    log.sync_now()
    disk.crash()
    log = WriteAheadLog.open(folder, files=disk, segment_bytes=segment_bytes)
    assert contents(log) == [(number + 1, number, b"x") for number in range(5)]
    assert log.segment_count == 5


def test_prune_drops_whole_segments_of_old_records_only(disk, folder):
    log = WriteAheadLog.open(folder, files=disk, segment_bytes=200)
    for number in range(20):
        log.append(1, b"%d" % number)
        log.sync_now()
    assert log.prune(0) == log.prune(1) == 0
    assert log.prune(10) > 0
    assert 1 < log.first_sequence <= 10
    kept = contents(log)
    assert kept == [(n + 1, 1, b"%d" % n) for n in range(log.first_sequence - 1, 20)]
    disk.crash()
    log = WriteAheadLog.open(folder, files=disk, segment_bytes=200)
    assert contents(log) == kept
    log.prune(10_000)
    assert log.segment_count == 1
    assert log.append(1, b"") == 21


def test_prune_says_beforehand_whether_it_would_drop_anything(disk, folder):
    log = WriteAheadLog.open(folder, files=disk, segment_bytes=200)
    assert not log.can_prune(10_000)
    for _ in range(20):
        log.append(1, b"")
        log.sync_now()
    for before in range(22):
        expected = log.can_prune(before)
        assert (log.prune(before) > 0) == expected
    assert log.segment_count == 1


@pytest.mark.parametrize("suffix", [".wal", ".note"])
def test_where_removing_needs_room_nothing_is_lost_and_prune_may_try_again(disk, folder, suffix, monkeypatch):
    log = WriteAheadLog.open(folder, files=disk, segment_bytes=200)
    for number in range(20):
        log.append(1, b"%d" % number)
        log.sync_now()
    remove = disk.remove

    def refusing(path):
        if path.suffix == suffix:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        remove(path)

    monkeypatch.setattr(disk, "remove", refusing)
    before = contents(log)
    with pytest.raises(StorageFull):
        log.prune(15)
    assert contents(log) == before
    log.append(1, b"more")
    log.sync_now()
    monkeypatch.undo()
    assert log.prune(15) > 0
    assert contents(log)[-1] == (21, 1, b"more")


def test_a_reader_goes_on_when_what_it_has_not_read_is_pruned(disk, folder):
    log = WriteAheadLog.open(folder, files=disk, segment_bytes=200)
    for _ in range(20):
        log.append(1, b"")
        log.sync_now()
    reader = log.records()
    assert next(reader).sequence == 1
    log.prune(15)
    rest = [record.sequence for record in reader]
    assert rest[-1] == 20
    assert rest == sorted(rest)


@pytest.mark.box("S26.2", "sync-fails")
async def test_after_a_failed_sync_the_log_accepts_nothing(disk, folder):
    log = WriteAheadLog.open(folder, files=disk)
    log.append(1, b"durable")
    await log.sync()
    disk.failing_syncs = 1
    log.append(1, b"lost")
    waiters = await asyncio.gather(*(log.sync() for _ in range(5)), return_exceptions=True)
    assert [type(error) for error in waiters] == [LogFailed] * 5
    for call in (lambda: log.append(1, b""), log.sync_now, lambda: list(log.records()), lambda: log.prune(1)):
        with pytest.raises(LogFailed) as failed:
            call()
        assert failed.value.code == "log_failed"
        assert failed.value.remedy
    with pytest.raises(LogFailed):
        await log.sync()
    assert log.durable_sequence == 1
    log.close()


@pytest.mark.parametrize("seed", range(30))
def test_what_a_failed_sync_left_in_the_page_cache_is_really_durable_after_reopening(tmp_path, folder, seed):
    disk = CrashDisk(tmp_path, seed=seed)
    log = WriteAheadLog.open(folder, files=disk)
    log.append(1, b"a" * 50)
    log.sync_now()
    disk.failing_syncs = 1
    log.append(1, b"b" * 50)
    with pytest.raises(LogFailed):
        log.sync_now()
    disk.kill()
    log = WriteAheadLog.open(folder, files=disk)
    recovered = contents(log)
    assert recovered[:1] == [(1, 1, b"a" * 50)]
    disk.crash()
    assert contents(WriteAheadLog.open(folder, files=disk)) == recovered


def test_no_room_leaves_the_log_as_it_was_and_the_records_waiting(disk, folder):
    log = WriteAheadLog.open(folder, files=disk)
    log.append(1, b"a" * 100)
    log.sync_now()
    size = disk.used()
    disk.capacity = size + 90
    log.append(1, b"b" * 100)
    for _ in range(3):
        with pytest.raises(StorageFull, match="no room"):
            log.sync_now()
    assert disk.used() == size
    assert contents(log) == [(1, 1, b"a" * 100)]
    assert log.append(2, b"c") == 3
    disk.capacity = None
    log.sync_now()
    disk.crash()
    expected = [(1, 1, b"a" * 100), (2, 1, b"b" * 100), (3, 2, b"c")]
    assert contents(WriteAheadLog.open(folder, files=disk)) == expected


async def test_no_room_reaches_every_waiter_and_none_is_told_a_lie(disk, folder):
    log = WriteAheadLog.open(folder, files=disk, segment_bytes=150)
    for _ in range(6):
        log.append(1, b"x" * 100)
    disk.capacity = disk.used() + 600
    results = await asyncio.gather(*(log.sync() for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [StorageFull] * 3
    durable = log.durable_sequence
    assert 0 < durable < 6
    assert len(contents(log)) == durable
    disk.crash()
    disk.capacity = None
    assert len(contents(WriteAheadLog.open(folder, files=disk))) >= durable


async def test_no_room_for_later_records_is_no_failure_of_those_that_are_durable(disk, folder):
    log = WriteAheadLog.open(folder, files=disk, segment_bytes=1)
    with log._writing:  # so that both records go into one attempt
        log.append(1, b"first")
        first = asyncio.ensure_future(log.sync())
        await asyncio.sleep(0)
        log.append(1, b"second")
        second = asyncio.ensure_future(log.sync())
        await asyncio.sleep(0)
        disk.capacity = disk.used() + 100
    await first
    with pytest.raises(StorageFull):
        await second
    assert contents(log) == [(1, 1, b"first")]


@pytest.mark.parametrize("free", range(0, 200, 7))
def test_no_room_for_a_new_segment_is_not_fatal(disk, folder, free):
    log = WriteAheadLog.open(folder, files=disk, segment_bytes=100)
    log.append(1, b"x" * 100)
    log.sync_now()
    log.append(1, b"y")
    disk.capacity = disk.used() + free
    if free < 130:
        with pytest.raises(StorageFull):
            log.sync_now()
    disk.capacity = None
    log.sync_now()
    assert contents(log) == [(1, 1, b"x" * 100), (2, 1, b"y")]
    disk.crash()
    assert contents(WriteAheadLog.open(folder, files=disk, segment_bytes=100)) == [(1, 1, b"x" * 100), (2, 1, b"y")]


def test_no_room_at_the_first_opening_is_told_and_heals(disk, folder):
    disk.capacity = 10
    with pytest.raises(StorageFull) as full:
        WriteAheadLog.open(folder, files=disk)
    assert (full.value.code, full.value.retryable) == ("storage_full", True)
    disk.capacity = None
    with WriteAheadLog.open(folder, files=disk) as log:
        assert log.append(1, b"") == 1


def test_a_half_written_record_that_cannot_be_taken_back_stops_the_log(disk, folder):
    log = WriteAheadLog.open(folder, files=disk)
    disk.capacity = disk.used() + 20
    disk.failing_truncates = 1
    log.append(1, b"x" * 100)
    with pytest.raises(LogFailed):
        log.sync_now()
    disk.capacity = None
    disk.crash()
    assert contents(WriteAheadLog.open(folder, files=disk)) == []


def test_no_room_said_by_a_sync_is_fatal_because_nobody_knows_what_was_written(disk, folder):
    log = WriteAheadLog.open(folder, files=disk)
    disk.failing_syncs, disk.sync_error = 1, 28
    log.append(1, b"x")
    with pytest.raises(LogFailed):
        log.sync_now()


def test_a_folder_sync_that_fails_stops_the_log(disk, folder):
    log = WriteAheadLog.open(folder, files=disk, segment_bytes=100)
    for _ in range(3):
        log.append(1, b"x" * 100)
    log.sync_now()
    disk.failing_folder_syncs = 1
    with pytest.raises(LogFailed):
        log.prune(3)
    with pytest.raises(LogFailed):
        log.append(1, b"")
    disk.crash()
    assert [s for s, _, _ in contents(WriteAheadLog.open(folder, files=disk))][-1] == 3


def test_close_tells_when_the_last_records_found_no_room_and_still_releases(disk, folder):
    log = WriteAheadLog.open(folder, files=disk)
    log.append(1, b"x" * 100)
    disk.capacity = disk.used()
    with pytest.raises(StorageFull):
        log.close()
    disk.capacity = None
    WriteAheadLog.open(folder, files=disk).close()


def test_a_failed_opening_releases_the_folder(disk, folder):
    disk.failing_folder_syncs = 2
    for _ in range(2):
        with pytest.raises(AgentWorldError):
            WriteAheadLog.open(folder, files=disk)
    WriteAheadLog.open(folder, files=disk).close()
