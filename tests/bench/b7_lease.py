"""B7: the lease in a file against etcd, the time to the first fenced write after a kill, and failovers by the thousand.

etcd is one member with its data on the same disk, asked through its JSON gateway. Both sides do what makes the same
promise: to take a lease, or to take it over, is durable; a renewal is on neither side. The write after a failover is
one record of the log under the new term on our side, and a put after the compare-and-swap on etcd's.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from agentworld_core.ordering.lease import LeaseRecord, LeaseWrite
from agentworld_node.lease.file import FileLeaseStore
from agentworld_node.storage.wal import WriteAheadLog
from tests.bench.etcd_peer import Etcd, EtcdClient, EtcdMissing
from tests.bench.failovers import simulate
from tests.bench.harness import Case, LeftOut, Setting
from tests.bench.lease_holder import KEY, TIMINGS, TTL_SECONDS, file_loop

SEED = 20_250_107
HOLDER = "tests.bench.lease_holder"


def cases(setting: Setting) -> Iterator[Case | LeftOut]:
    """Yields latencies, the time to the first fenced write, and simulated failovers."""
    yield _failovers(setting)
    try:
        with tempfile.TemporaryDirectory(dir=setting.folder) as folder, Etcd(Path(folder)) as etcd:
            yield from _latencies(setting, Path(folder), etcd.client())
            yield _takeover(Path(folder), etcd)
    except EtcdMissing as missing:
        yield LeftOut(id="B7", case="lease against etcd", reason=str(missing))
    yield LeftOut(id="B7", case="a Lease of Kubernetes", reason="no API server is started for a benchmark")


def _failovers(setting: Setting) -> Case:
    """Stale writes that arrive at a resource: with the fence none may be taken, and without it there must be some."""
    count = setting.size(10_000, 100)
    seeds = range(SEED, SEED + count)
    # The same seeds give the same: the pairs of a run are one.
    outcome, unfenced = simulate(seeds), simulate(seeds, fenced=False)

    return Case(
        id="B7",
        case=f"stale writes in {count:,} simulated failovers",
        peer="stale writes without the fence",
        ours=lambda: float(outcome.stale_accepted),
        theirs=lambda: float(unfenced.stale_accepted),
        goal=0.0,
        kind="cost",
        unit="writes",
        check=outcome.wrong,
    )


def _latencies(setting: Setting, folder: Path, etcd: EtcdClient) -> Iterator[Case]:
    rounds = setting.size(60, 3)
    for name, ours, theirs in (
        ("take a free lease", _File(folder, "acquire").acquire, _Remote(etcd, "acquire").acquire),
        ("renew", _File(folder, "renew").renew, _Remote(etcd, "renew").renew),
        ("take over by compare-and-swap", _File(folder, "swap").swap, _Remote(etcd, "swap").swap),
    ):
        yield Case(
            id="B7",
            case=f"lease in a file, p50: {name}",
            peer="etcd, one member",
            ours=lambda step=ours: _p50(step, rounds),  # type: ignore[misc]
            theirs=lambda step=theirs: _p50(step, rounds),  # type: ignore[misc]
            goal=0.6,
            kind="cost",
        )


def _p50(step: Callable[[], float], rounds: int) -> float:
    return statistics.median(step() for _ in range(rounds))


class _File:
    """The lease in a file, driven as a node drives it: read, then write what it expects."""

    def __init__(self, folder: Path, name: str):
        self._store = FileLeaseStore(folder / f"{name}.json")
        self._loop = asyncio.new_event_loop()
        self._record: LeaseRecord | None = None

    def acquire(self) -> float:
        took = self._timed("one", self._term() + 1)
        self._timed(None, self._term())
        return took

    def renew(self) -> float:
        if self._record is None:
            self._timed("one", 1)
        return self._timed("one", self._term())

    def swap(self) -> float:
        holder = "two" if self._record is None or self._record.holder == "one" else "one"
        return self._timed(holder, self._term() + 1)

    def _term(self) -> int:
        return 0 if self._record is None else self._record.term

    def _timed(self, holder: str | None, term: int) -> float:
        started = time.perf_counter()
        self._record = self._loop.run_until_complete(self._write(holder, term))
        return time.perf_counter() - started

    async def _write(self, holder: str | None, term: int) -> LeaseRecord:
        version = None if self._record is None else self._record.version
        wish = LeaseWrite(holder=holder, term=term, duration_ms=TIMINGS.duration_ms, expected_version=version)
        stored = await self._store.write(wish)
        assert stored is not None
        return stored


class _Remote:
    """The same with etcd."""

    def __init__(self, client: EtcdClient, key: str):
        self._client = client
        self._key = key
        self._lease = client.grant(3_600)
        client.put(f"{key}-swap", "one")
        self._revision = client.revision(f"{key}-swap") or ""

    def acquire(self) -> float:
        started = time.perf_counter()
        lease = self._client.grant(3_600)
        assert self._client.create(self._key, "one", lease)
        took = time.perf_counter() - started
        self._client.revoke(lease)
        return took

    def renew(self) -> float:
        started = time.perf_counter()
        self._client.keep_alive(self._lease)
        return time.perf_counter() - started

    def swap(self) -> float:
        started = time.perf_counter()
        assert self._client.replace(f"{self._key}-swap", "two", self._revision)
        took = time.perf_counter() - started
        self._revision = self._client.revision(f"{self._key}-swap") or ""
        return took


def _takeover(folder: Path, etcd: Etcd) -> Case:
    """The holder, a process, is killed; both sides have a contender that waits for the lease to expire."""
    return Case(
        id="B7",
        case=f"kill of the holder to the first fenced write, {TTL_SECONDS} s leases",
        peer="etcd at equal timers",
        ours=lambda: _killed_file(Path(tempfile.mkdtemp(dir=folder))),
        theirs=lambda: _killed_etcd(etcd),
        goal=1.0,
        kind="cost",
    )


@contextmanager
def _holder(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds the lease by the time this yields; killed at the latest at the end."""
    process = subprocess.Popen([sys.executable, "-m", HOLDER, *words], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        # So that the kill comes anywhere between two renewals, and not always right after one.
        time.sleep(TIMINGS.retry_ms / 1000 * (1 + time.time() % 1))
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _killed_file(folder: Path) -> float:
    path = folder / "lease.json"

    async def contend(process: subprocess.Popen[bytes], wal: WriteAheadLog) -> float:
        loop = file_loop(path, "contender")
        running = asyncio.create_task(loop.run())
        await asyncio.sleep(TIMINGS.retry_ms / 1000)  # it has seen the record by then
        process.send_signal(signal.SIGKILL)
        killed = time.perf_counter()
        held = asyncio.Event()
        loop.on_view = lambda _term, holder: held.set() if holder == "contender" else None
        await held.wait()
        assert loop.is_held
        wal.append(1, str(loop.view[0]).encode())
        await wal.sync()
        took = time.perf_counter() - killed
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return took

    with _holder("file", str(path)) as process:
        wal = WriteAheadLog.open(folder / "wal")
        try:
            return asyncio.run(contend(process, wal))
        finally:
            wal.close()
            shutil.rmtree(folder, ignore_errors=True)


def _killed_etcd(etcd: Etcd) -> float:
    client = etcd.client()
    with _holder("etcd", str(etcd.port)) as process:
        mine = client.grant(3_600)
        process.send_signal(signal.SIGKILL)
        killed = time.perf_counter()
        while not client.create(KEY, "contender", mine):
            time.sleep(0.01)
        client.put("written", "first")
        took = time.perf_counter() - killed
        client.revoke(mine)
    return took
