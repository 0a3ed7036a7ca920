"""B7: leases in a file and on Kubernetes against etcd, the time to the first fenced write after a kill, and failovers.

etcd has its data on the same disk and is asked through its JSON gateway. Both sides do what makes the same promise: to
take a lease, or to take it over, is durable. A renewal of the file and of etcd is not; on Kubernetes it is another
write of the object, through an API server over the very etcd that is the peer. The write after a failover is one record
of the log under the new term on our side, and a put after the compare-and-swap on etcd's.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from agentworld_core.ordering.lease import LeaseRecord, LeaseWrite
from agentworld_node.lease.port import LeaseStore
from agentworld_node.storage.wal import WriteAheadLog
from tests.bench.apiserver import LeaseServer
from tests.bench.etcd_peer import Etcd, EtcdClient, EtcdMissing
from tests.bench.failovers import simulate
from tests.bench.harness import Case, LeftOut, Setting
from tests.bench.lease_holder import KEY, TIMINGS, TTL_SECONDS, lease_loop, open_store

SEED = 20_250_107
HOLDER = "tests.bench.lease_holder"
_chance = random.Random(SEED)


def cases(setting: Setting) -> Iterator[Case | LeftOut]:
    """Yields latencies, the time to the first fenced write, and simulated failovers."""
    yield _failovers(setting)
    try:
        for members in (1, 3):
            with tempfile.TemporaryDirectory(dir=setting.folder) as name, ExitStack() as stack:
                folder = Path(name)
                etcd = stack.enter_context(Etcd(folder, members=members))
                if members == 1:
                    yield from _against(setting, etcd, "lease in a file", _Files(folder))
                kubernetes = stack.enter_context(LeaseServer(folder, etcd))
                yield from _against(setting, etcd, "Lease of Kubernetes", _Objects(kubernetes))
    except EtcdMissing as missing:
        yield LeftOut(id="B7", case="leases against etcd", reason=str(missing))


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


class _Places(Protocol):
    """Where leases of ours are kept: every name is one that nobody has ever held."""

    def make(self, name: str) -> Sequence[str]:
        """Makes room for a lease and returns the words that name it to ``lease_holder.open_store``."""
        ...


class _Files:
    def __init__(self, folder: Path):
        self._folder = folder

    def make(self, name: str) -> Sequence[str]:
        return ["file", str(self._folder / f"{name}.json")]


class _Objects:
    def __init__(self, server: LeaseServer):
        self._server = server

    def make(self, name: str) -> Sequence[str]:
        self._server.make_lease(name)
        return ["kubernetes", str(self._server.kubeconfig), name]


def _against(setting: Setting, etcd: Etcd, ours: str, places: _Places) -> Iterator[Case]:
    """Latencies and the time of a takeover; on Kubernetes with three members the lease is replicated, as etcd's is."""
    members = len(etcd.ports)
    peer, goal = ("etcd, one member", 0.6) if members == 1 else (f"etcd, {members} members", 1.0)
    where = "" if members == 1 else f" over {members} members"
    rounds, kills = setting.size(60, 3), setting.size(3, 1)
    mine = [_Ours(open_store(places.make(name))) for name in ("acquire", "renew", "swap")]
    remote = _Remote(etcd.client(), ours.replace(" ", "-"))
    for name, step, other in (
        ("take a free lease", mine[0].acquire, remote.acquire),
        ("renew", mine[1].renew, remote.renew),
        ("take over by compare-and-swap", mine[2].swap, remote.swap),
    ):
        yield Case(
            id="B7",
            case=f"{ours}{where}, p50: {name}",
            peer=peer,
            ours=lambda step=step: _p50(step, rounds),  # type: ignore[misc]
            theirs=lambda step=other: _p50(step, rounds),  # type: ignore[misc]
            goal=goal,
            kind="cost",
        )
    numbers = itertools.count()
    yield Case(
        id="B7",
        case=f"{ours}{where}: kill of the holder to the first fenced write, {TTL_SECONDS} s leases",
        peer=f"{peer}, equal timers",
        ours=lambda: _p50(lambda: _killed(setting.folder, places.make(f"killed-{next(numbers)}")), kills),
        theirs=lambda: _p50(lambda: _killed_etcd(etcd), kills),
        goal=1.0,
        kind="cost",
    )


def _p50(step: Callable[[], float], rounds: int) -> float:
    return statistics.median(step() for _ in range(rounds))


class _Ours:
    """A lease of ours, driven as a node drives it: each write says which record it expects."""

    def __init__(self, store: LeaseStore):
        self._store = store
        self._loop = asyncio.new_event_loop()
        self._record = self._loop.run_until_complete(store.read())

    def acquire(self) -> float:
        took = self._timed("one", self._term() + 1)
        self._timed(None, self._term())
        return took

    def renew(self) -> float:
        if self._term() == 0:
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


@contextmanager
def _holder(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds the lease by the time this yields; killed at the latest at the end."""
    process = subprocess.Popen([sys.executable, "-m", HOLDER, *words], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _until_the_kill() -> float:
    """Seconds after which it comes anywhere between two renewals, of which the contender has seen one at least."""
    return TIMINGS.retry_ms / 1000 * (2 + _chance.random())


def _killed(folder: Path, where: Sequence[str]) -> float:
    """The holder, a process, is killed; a contender waits for the lease to expire, as on the other side."""

    async def contend(process: subprocess.Popen[bytes], wal: WriteAheadLog) -> float:
        loop = lease_loop(open_store(where), "contender")
        held = asyncio.Event()
        loop.on_view = lambda _term, holder: held.set() if holder == "contender" else None
        running = asyncio.create_task(loop.run())
        await asyncio.sleep(_until_the_kill())
        process.send_signal(signal.SIGKILL)
        killed = time.perf_counter()
        await held.wait()
        assert loop.is_held
        wal.append(1, str(loop.view[0]).encode())
        await wal.sync()
        took = time.perf_counter() - killed
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return took

    with _holder(*where) as process, tempfile.TemporaryDirectory(dir=folder) as log:
        wal = WriteAheadLog.open(Path(log) / "wal")
        try:
            return asyncio.run(contend(process, wal))
        finally:
            wal.close()


def _killed_etcd(etcd: Etcd) -> float:
    client = etcd.client()
    with _holder("etcd", str(etcd.ports[0])) as process:
        mine = client.grant(3_600)
        time.sleep(_until_the_kill())
        process.send_signal(signal.SIGKILL)
        killed = time.perf_counter()
        while not client.create(KEY, "contender", mine):
            time.sleep(0.01)
        client.put("written", "first")
        took = time.perf_counter() - killed
        client.revoke(mine)
    return took
