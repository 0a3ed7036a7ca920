"""The simulated disk: what was synced stays, what was being written may be torn in every way the log must bear."""

from __future__ import annotations

import functools

from agentworld_core.codec import decode_value
from agentworld_core.messages import KeySignature
from agentworld_node.records import REVOCATION
from tests.simulation.disk import Disk
from tests.simulation.history import History
from tests.simulation.kernel import Kernel

RECORD = KeySignature(key_id="0" * 32, signature=bytes(64))
SYNCED_IN_TIME_MS = 1000


def crashed_disk(seed: int, *, torn_writes: bool) -> tuple[Kernel, Disk, int]:
    """A disk with a synced record, ten more in flight, and a crash; also how many were confirmed."""
    kernel = Kernel(seed, History())
    disk = Disk(kernel, "disk", torn_writes=torn_writes)
    confirmed: list[int] = []

    def confirm(number: int) -> None:
        confirmed.append(number)
        kernel.progress += 1

    for number in range(11):
        disk.append(REVOCATION, RECORD, functools.partial(confirm, number))
    kernel.run(SYNCED_IN_TIME_MS, done=lambda: bool(confirmed))
    disk.crash()
    kernel.run(2 * SYNCED_IN_TIME_MS)
    return kernel, disk, len(confirmed)


def test_what_is_confirmed_survives_and_the_rest_is_a_beginning() -> None:
    counts: dict[int, None] = {}
    for seed in range(60):
        _, disk, confirmed = crashed_disk(seed, torn_writes=True)
        records = disk.records()
        counts[len(records)] = None
        assert confirmed <= len(records) <= 11
        assert [record.sequence for record in records] == list(range(1, len(records) + 1))
        assert all(isinstance(decode_value(record.payload), list) for record in records)
    assert 1 in counts, "never lost all that was in flight"
    assert 11 in counts, "never kept all that was in flight"
    assert len(counts) > 2, "never kept a part of it"


def test_tears_reach_a_later_record_without_an_earlier_one() -> None:
    reached: dict[str, int] = {}
    for seed in range(200):
        kernel, disk, _ = crashed_disk(seed, torn_writes=True)
        disk.records()
        reached |= kernel.reached
    assert {"torn tail", "a later record without an earlier one"} <= reached.keys()


def test_a_log_that_was_cut_goes_on() -> None:
    for seed in range(20):
        kernel, disk, _ = crashed_disk(seed, torn_writes=True)
        before = len(disk.records())
        done: list[bool] = []
        disk.append(REVOCATION, RECORD, functools.partial(done.append, True))
        kernel.run(kernel.now + SYNCED_IN_TIME_MS)
        assert done
        assert len(disk.records()) == before + 1


def test_a_sync_that_fails_ends_the_process_and_confirms_nothing() -> None:
    kernel = Kernel(1, History())
    disk = Disk(kernel, "disk", torn_writes=False)
    confirmed: list[bool] = []
    failed: list[bool] = []

    def fail() -> None:
        failed.append(True)
        disk.crash()

    disk.fail_next = fail
    disk.append(REVOCATION, RECORD, lambda: confirmed.append(True))
    kernel.run(SYNCED_IN_TIME_MS)
    assert (failed, confirmed) == ([True], [])
