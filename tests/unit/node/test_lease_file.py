"""The lease of one machine: compare-and-swap on files, without a lock that a stopped process could hold."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from agentworld_core.errors import NotAvailable
from agentworld_core.ordering.lease import LeaseRecord, LeaseWrite
from agentworld_node.lease.file import LOOK_SECONDS, VERSIONS_KEPT, FileLeaseStore

ROOT = Path(__file__).parents[3]


def wanted(holder: str | None, term: int, version: str | None) -> LeaseWrite:
    return LeaseWrite(holder=holder, term=term, duration_ms=1000, expected_version=version)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lease.json"


async def test_a_record_is_read_as_it_was_written(path: Path) -> None:
    store = FileLeaseStore(path)
    assert await store.read() is None
    first = await store.write(wanted("a", 1, None))
    assert first == LeaseRecord(holder="a", term=1, duration_ms=1000, version="1")
    assert await FileLeaseStore(path).read() == first
    released = await store.write(wanted(None, 1, "1"))
    assert await store.read() == released == LeaseRecord(holder=None, term=1, duration_ms=1000, version="2")


@pytest.mark.box("S5.3", "lost-cannot-renew")
async def test_only_the_expected_version_is_replaced_and_terms_never_go_back(path: Path) -> None:
    store = FileLeaseStore(path)
    first = await store.write(wanted("a", 5, None))
    assert first is not None
    assert await store.write(wanted("b", 6, None)) is None
    assert await store.write(wanted("b", 6, "7")) is None
    assert await store.write(wanted("b", 4, first.version)) is None
    assert await store.read() == first


async def test_old_versions_are_cleared_away_and_nothing_else_is_left(path: Path) -> None:
    store = FileLeaseStore(path)
    version = None
    for _ in range(5 * VERSIONS_KEPT):
        record = await store.write(wanted("a", 1, version))
        assert record is not None
        version = record.version
    assert len(os.listdir(path.parent)) == VERSIONS_KEPT


async def test_a_record_that_an_earlier_version_wrote_as_a_file_is_read_and_replaced(path: Path) -> None:
    path.with_name("lease.json.000000000007").write_text('{"holder": "a", "term": 3, "duration_ms": 1000}')
    store = FileLeaseStore(path)
    assert await store.read() == LeaseRecord(holder="a", term=3, duration_ms=1000, version="7")
    assert await store.write(wanted("b", 4, "7")) == await store.read()


async def test_taking_the_lease_waits_for_one_sync_and_renewing_it_for_none(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.readlink(f"/proc/self/fd/{number}")))
    store = FileLeaseStore(path)
    taken = await store.write(wanted("a", 1, None))
    assert taken is not None
    assert synced == [str(path.parent)]
    assert await store.write(wanted("a", 1, taken.version)) is not None
    assert len(synced) == 1


async def test_a_writer_that_slept_over_many_versions_has_lost(path: Path) -> None:
    slow, quick = FileLeaseStore(path), FileLeaseStore(path)
    await quick.write(wanted("a", 1, None))
    stale = LeaseRecord(holder="slow", term=2, duration_ms=1000, version="2")
    version: str | None = "1"
    for _ in range(3 * VERSIONS_KEPT):
        record = await quick.write(wanted("a", 1, version))
        assert record is not None
        version = record.version
    current = await quick.read()
    assert not slow._link(stale, durable=True), "its number was free again, and yet it is not the record"
    assert await quick.read() == current
    assert len(os.listdir(path.parent)) == VERSIONS_KEPT


async def test_what_cannot_be_read_or_written_is_not_available(path: Path, tmp_path: Path) -> None:
    with pytest.raises(NotAvailable):
        await FileLeaseStore(tmp_path / "nowhere" / "lease.json").read()
    path.with_name("lease.json.000000000001").symlink_to("garbage")
    with pytest.raises(NotAvailable, match="cannot be read"):
        await FileLeaseStore(path).read()
    with pytest.raises(NotAvailable):
        await FileLeaseStore(path).write(wanted("a", 1, None))


@pytest.mark.parametrize(
    "text",
    [
        '{"holder":"a","term":1e999,"duration_ms":1000}',
        '{"holder":"a","term":1,"duration_ms":Infinity}',
        '{"holder":"a","term":18446744073709551617,"duration_ms":1000}',
        '{"holder":"a","term":"1","duration_ms":1000}',
        '{"holder":"a","term":true,"duration_ms":1000}',
        '{"holder":["a"],"term":1,"duration_ms":1000}',
        '{"holder":7,"term":1,"duration_ms":1000}',
        "[" * 2000,
        "[]",
    ],
)
async def test_nonsense_in_the_record_ends_no_node(path: Path, text: str) -> None:
    path.with_name("lease.json.000000000001").symlink_to(text)
    with pytest.raises(NotAvailable, match="cannot be read"):
        await FileLeaseStore(path).read()


async def test_what_another_writes_is_noticed_once(path: Path) -> None:
    watching = FileLeaseStore(path)
    os.utime(path.parent, ns=(1, 1))  # not a moment ago, which a coarse clock could take for the time of the write
    await watching.changed()  # so that it knows the folder
    noticed = asyncio.create_task(watching.changed())
    await asyncio.sleep(0)
    assert not noticed.done()
    assert await FileLeaseStore(path).write(wanted("a", 1, None)) is not None
    await noticed
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2 * LOOK_SECONDS):
            await watching.changed()


async def test_a_folder_that_is_gone_is_no_change(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2 * LOOK_SECONDS):
            await FileLeaseStore(tmp_path / "nowhere" / "lease.json").changed()


@pytest.mark.box("S5.3", "term-never-twice", "compare-and-swap")
async def test_processes_that_race_never_both_win(path: Path) -> None:
    rounds, names = 150, ("a", "b", "c")
    script = Path(__file__).with_name("lease_racer.py")
    racers = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            str(script),
            str(path),
            name,
            str(rounds),
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT / "node")},
        )
        for name in names
    ]
    outputs = [await racer.communicate() for racer in racers]
    won = [tuple(item) for out, _ in outputs for item in json.loads(out)]
    assert len({version for version, _ in won}) == len(won), "a version was written twice"
    assert len({term for _, term in won}) == len(won), "two holders had one term"
    record = await FileLeaseStore(path).read()
    assert record is not None
    assert int(record.version) == record.term == len(won) >= rounds
