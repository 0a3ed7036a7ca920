"""B4: durable append of 256-byte records, each acknowledged after its sync, against SQLite with the same producers.

A producer is a task that appends one record, waits until it is durable, and goes on. SQLite gets one transaction an
insert with ``synchronous=FULL``; LMDB one transaction a put with sync. One producer has no one to share a sync with, so
there the peer is a bare write and fdatasync. The ceiling writes 256 records at once and syncs them.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import lmdb

from agentworld_node.storage.wal import WriteAheadLog
from agentworld_node.storage.wal_format import RECORD_HEADER_BYTES
from tests.bench.harness import Case, LeftOut, Setting, quartiles, wall

RECORD_BYTES = 256
KIND = 1
_GROUP = 256
_numbers = itertools.count()

Append = Callable[[bytes], Awaitable[object]]


def cases(setting: Setting) -> Iterator[Case | LeftOut]:
    """Yields one producer against the bare disk, many against SQLite and LMDB, the tail, and growth."""
    quick = setting.quick
    yield Case(
        id="B4",
        case="1 producer",
        peer="bare write + fdatasync",
        ours=lambda: _ours(setting, producers=1, each=20 if quick else 400),
        theirs=lambda: _bare(setting.folder, group=1, records=20 if quick else 400),
        goal=0.9,
        check=lambda: _wrong(setting, producers=1),
    )
    for producers, goal in ((8, None), (64, 15.0), (512, 15.0)):
        yield _against_sqlite(setting, producers, goal)
    for producers, goal in ((64, 0.15), (512, 0.25)):
        yield _against_ceiling(setting, producers, goal)
    yield Case(
        id="B4",
        case="64 producers",
        peer="LMDB with sync",
        ours=lambda: _ours(setting, producers=64, each=2 if quick else 100),
        theirs=lambda: _lmdb(setting.folder, producers=64, each=2 if quick else 30),
        goal=None,
    )
    yield Case(
        id="B4",
        case="64 producers: p99 of an append",
        peer="p50 of fdatasync",
        ours=lambda: _tail(setting, producers=64, each=2 if quick else 100),
        theirs=lambda: _sync_p50(setting.folder, 20 if quick else 200),
        goal=12.0,
        kind="cost",
    )
    yield from _growth(setting)


def _against_sqlite(setting: Setting, producers: int, goal: float | None) -> Case:
    each = setting.size(20 if producers == 512 else 100, 2)
    fewer = max(1, each // 10)  # a transaction each takes its time
    return Case(
        id="B4",
        case=f"{producers} producers",
        peer="SQLite WAL, synchronous FULL",
        ours=lambda: _ours(setting, producers=producers, each=each),
        theirs=lambda: _sqlite(setting.folder, producers=producers, each=fewer),
        goal=goal,
        check=lambda: _wrong(setting, producers=producers),
    )


def _against_ceiling(setting: Setting, producers: int, goal: float) -> Case:
    each = setting.size(20_000 // producers, 2)
    return Case(
        id="B4",
        case=f"{producers} producers, as a part of the ceiling",
        peer="256 records at once + fdatasync",
        ours=lambda: _ours(setting, producers=producers, each=each),
        theirs=lambda: _bare(setting.folder, group=_GROUP, records=_GROUP * setting.size(40, 2)),
        goal=goal,
    )


def _growth(setting: Setting) -> Iterator[Case]:
    """The cost of an append to a long log against one to a short log."""
    long, short = setting.size(300_000, 2_000), 1_000
    with _log(setting.folder) as large, _log(setting.folder) as small:
        for log, records in ((large, long), (small, short)):
            for number in range(records):
                log.append(KIND, bytes(RECORD_BYTES))
                if number % 10_000 == 0:
                    log.sync_now()
            log.sync_now()

        def cost(log: WriteAheadLog) -> float:
            return _produce(_appending(log), producers=64, each=2 if setting.quick else 100)

        yield Case(
            id="B4",
            case=f"append to a log of {long:,} records",
            peer=f"the same with {short:,}",
            ours=lambda: cost(large),
            theirs=lambda: cost(small),
            goal=1.3,
            kind="cost",
        )


def _log(folder: Path) -> WriteAheadLog:
    return WriteAheadLog.open(folder / f"log-{next(_numbers)}")


def _appending(log: WriteAheadLog) -> Append:
    async def append(payload: bytes) -> None:
        log.append(KIND, payload)
        await log.sync()

    return append


def _payload(producer: int, number: int) -> bytes:
    return b"%d %d " % (producer, number) + bytes(RECORD_BYTES - len(b"%d %d " % (producer, number)))


def _produce(append: Append, *, producers: int, each: int, latencies: list[float] | None = None) -> float:
    """Returns the seconds a record takes when so many producers append so many each."""

    async def producer(index: int) -> None:
        for number in range(each):
            started = time.perf_counter()
            await append(_payload(index, number))
            if latencies is not None:
                latencies.append(time.perf_counter() - started)

    async def everybody() -> float:
        started = time.perf_counter()
        await asyncio.gather(*(producer(index) for index in range(producers)))
        return (time.perf_counter() - started) / (producers * each)

    return asyncio.run(everybody())


def _ours(setting: Setting, *, producers: int, each: int) -> float:
    with _log(setting.folder) as log:
        return _produce(_appending(log), producers=producers, each=each)


def _tail(setting: Setting, *, producers: int, each: int) -> float:
    latencies: list[float] = []
    with _log(setting.folder) as log:
        _produce(_appending(log), producers=producers, each=each, latencies=latencies)
    return sorted(latencies)[len(latencies) * 99 // 100]


def _in_thread(put: Callable[[bytes], object], *, producers: int, each: int) -> float:
    """The same producers in front of a store that blocks: one thread serves them, as its one writer lock would."""
    with ThreadPoolExecutor(max_workers=1) as worker:

        async def append(payload: bytes) -> None:
            await asyncio.get_running_loop().run_in_executor(worker, put, payload)

        return _produce(append, producers=producers, each=each)


def _sqlite(folder: Path, *, producers: int, each: int) -> float:
    path = folder / f"peer-{next(_numbers)}.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE journal (sequence INTEGER PRIMARY KEY, payload BLOB NOT NULL)")

        def put(payload: bytes) -> None:
            connection.execute("INSERT INTO journal (payload) VALUES (?)", (payload,))

        return _in_thread(put, producers=producers, each=each)


def _lmdb(folder: Path, *, producers: int, each: int) -> float:
    numbers = itertools.count()
    with lmdb.open(str(folder / f"peer-{next(_numbers)}.lmdb"), map_size=2**28) as environment:

        def put(payload: bytes) -> None:
            with environment.begin(write=True) as transaction:
                transaction.put(next(numbers).to_bytes(8, "big"), payload, append=True)

        return _in_thread(put, producers=producers, each=each)


def _bare(folder: Path, *, group: int, records: int) -> float:
    """Writes as many bytes as our records have on the disk, so many records at once, and syncs each group."""
    data = bytes(group * (RECORD_BYTES + RECORD_HEADER_BYTES))
    descriptor = os.open(folder / f"bare-{next(_numbers)}", os.O_RDWR | os.O_CREAT, 0o600)

    def run() -> None:
        for index in range(records // group):
            os.pwrite(descriptor, data, index * len(data))
            os.fdatasync(descriptor)

    try:
        return wall(run, items=records)
    finally:
        os.close(descriptor)


def _sync_p50(folder: Path, count: int) -> float:
    descriptor = os.open(folder / f"bare-{next(_numbers)}", os.O_RDWR | os.O_CREAT, 0o600)
    data = bytes(64 * (RECORD_BYTES + RECORD_HEADER_BYTES))
    times = []
    try:
        for index in range(count):
            os.pwrite(descriptor, data, index * len(data))
            started = time.perf_counter()
            os.fdatasync(descriptor)
            times.append(time.perf_counter() - started)
    finally:
        os.close(descriptor)
    return quartiles(times)[1]


def _wrong(setting: Setting, *, producers: int) -> str | None:
    """Looks for every record after the log was closed and opened again, each once and in its producer's order."""
    each = 3
    folder = setting.folder / f"log-{next(_numbers)}"
    with WriteAheadLog.open(folder) as log:
        _produce(_appending(log), producers=producers, each=each)
    with WriteAheadLog.open(folder) as log:
        found = [record.payload for record in log.records()]
    for producer in range(producers):
        own = [payload for payload in found if payload.startswith(b"%d " % producer)]
        if own != [_payload(producer, number) for number in range(each)]:
            return f"the records of producer {producer} do not come back"
    return None if len(found) == producers * each else f"{len(found)} records came back"
