"""Starts processes that outlive this tool, and later stops those and no others.

A process is ours only while its id *and* its start time are the recorded ones, within one boot of the machine, because
the kernel uses ids again. Each also carries the place of its records in its environment, by which one is found that a
killed run had started and not yet recorded.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .commands import ClusterError, uninterrupted, wait_until

_MARK = "LOCAL_CLUSTER_PROCESSES"


@dataclass(frozen=True)
class Record:
    """A process as it was when it started; `start` is in clock ticks since the boot with that id."""

    pid: int
    start: int
    boot: str


@dataclass(frozen=True)
class Stat:
    """What the kernel says of a living process."""

    state: str
    parent: int
    session: int
    start: int


def stat_of(pid: int) -> Stat | None:
    """Reads /proc for a process; None when there is none or it is only waiting to be reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else Stat(fields[0], int(fields[1]), int(fields[3]), int(fields[19]))


def boot_id() -> str:
    """Names the present boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def everyone() -> Iterable[tuple[int, Stat]]:
    """All living processes."""
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (stat := stat_of(int(entry))) is not None:
            yield int(entry), stat


def signal_process(pid: int, number: signal.Signals) -> bool:
    """Sends a signal; False when the process was already gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


class Processes:
    """The processes of one cluster, by name, recorded in a folder."""

    def __init__(self, *, pids: Path, logs: Path, path: str) -> None:
        self.pids = pids
        self.logs = logs
        # nothing else of the user's environment: a proxy variable would keep the components from each other
        self.environment = {"PATH": path, "HOME": str(Path.home()), _MARK: str(pids)}
        self._children: list[subprocess.Popen[bytes]] = []  # those of this run, to be reaped

    def spawn(self, name: str, command: Sequence[str | Path], *, nested: bool = False) -> int:
        """Starts a command in a session of its own with its log in `<name>.log`, and returns its process id.

        With `nested` the command enters a process namespace, and it is the process inside that counts.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"{name}.log"
        if log.exists():
            log.replace(self.logs / f"{name}.previous.log")
        with log.open("wb") as output, uninterrupted():
            child = subprocess.Popen(
                [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                env=self.environment, start_new_session=True, cwd="/",
            )  # fmt: skip
            self._children.append(child)
            self.record(name, child.pid)
        if not nested:
            return child.pid
        pid = self._inner(name, child)
        self.record(name, pid)
        return pid

    def _inner(self, name: str, outer: "subprocess.Popen[bytes]") -> int:
        found: list[int] = []

        def entered() -> bool:
            if outer.poll() is not None:
                raise ClusterError(f"{name} ended at once:\n{self.tail(name)}")
            found.extend(pid for pid, stat in everyone() if stat.parent == outer.pid)
            return bool(found)

        wait_until(entered, what=f"{name} to start", seconds=10)
        return found[0]

    def record(self, name: str, pid: int) -> None:
        """Remembers a process as ours."""
        stat = stat_of(pid)
        if stat is None:
            raise ClusterError(f"{name} ended at once:\n{self.tail(name)}")
        self.pids.mkdir(parents=True, exist_ok=True)
        written = self.pids.with_name(f".pid-of-{name}")  # never half a record, whenever this run is killed
        written.write_text(f"{pid} {stat.start} {boot_id()}\n")
        written.replace(self.pids / name)

    def recorded(self, name: str) -> Record | None:
        """What was started under a name, alive or not."""
        path = self.pids / name
        fields = path.read_text().split() if path.exists() else []
        return Record(int(fields[0]), int(fields[1]), fields[2]) if len(fields) == 3 else None

    def alive(self, name: str) -> bool:
        """Tells whether what was started under this name still runs."""
        record = self.recorded(name)
        return record is not None and record.pid in _members(record)

    def pid(self, name: str) -> int:
        """The id of a running process; ClusterError when it does not run."""
        record = self.recorded(name)
        if record is None or not self.alive(name):
            raise ClusterError(f"{name} does not run:\n{self.tail(name)}")
        return record.pid

    def names(self) -> list[str]:
        """Everything that was started and not yet stopped, dead or alive."""
        return sorted(path.name for path in self.pids.iterdir()) if self.pids.is_dir() else []

    def tail(self, name: str, lines: int = 15) -> str:
        """The last lines of a component's log."""
        path = self.logs / f"{name}.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""

    def signal(self, name: str, number: signal.Signals) -> None:
        """Sends a signal to what runs under a name, with the rest of its session; ClusterError when nothing does."""
        record = self.recorded(name)
        members = [] if record is None else _members(record)
        if not members:
            raise ClusterError(f"{name} does not run; there are {', '.join(self.names()) or 'no components'}")
        for pid in members:
            signal_process(pid, number)

    def stop(self, names: Iterable[str], *, seconds: float) -> None:
        """Ends these together: SIGTERM, and SIGKILL after `seconds`; forgets them once they are gone."""
        records = {name: record for name in names if (record := self.recorded(name)) is not None}
        for record in records.values():
            if record.pid in _members(record):
                signal_process(record.pid, signal.SIGTERM)
        deadline = time.monotonic() + seconds
        while any(_members(record) for record in records.values()) and time.monotonic() < deadline:
            time.sleep(0.05)
        for record in records.values():
            for pid in _members(record):
                signal_process(pid, signal.SIGKILL)
        for name, record in records.items():
            wait_until(lambda record=record: not _members(record), what=f"{name} to end", seconds=10)  # type: ignore[misc]
            (self.pids / name).unlink()
        self._children = [child for child in self._children if child.poll() is None]

    def stop_unrecorded(self) -> None:
        """Ends what a run has started that was killed before it could record it; what nodes run within is theirs."""
        found = [record for name in self.names() if (record := self.recorded(name)) is not None]
        # Of what is nested the process inside is recorded; the one that waits for it outside leads its session.
        members = [pid for record in found for pid in _members(record)]
        recorded = {stat.session for pid in members if (stat := stat_of(pid)) is not None}
        here, mark = _process_namespace("self"), f"{_MARK}={self.pids}".encode()
        strays = {
            pid: stat.start
            for pid, stat in everyone()
            if stat.session not in recorded and mark in _environment(pid) and _process_namespace(pid) == here
        }
        for pid in strays:
            signal_process(pid, signal.SIGKILL)
        wait_until(
            lambda: not any((stat := stat_of(pid)) and stat.start == start for pid, start in strays.items()),
            what="unrecorded processes to end",
            seconds=10,
        )


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # gone, or of another user: not ours
        return []


def _process_namespace(pid: int | str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


def _members(record: Record) -> list[int]:
    """The recorded process and the rest of its session.

    The kernel gives no id away that a session still uses, so when the leader is gone the others are still its children;
    when another process has the id, the whole session is gone.
    """
    leader = stat_of(record.pid)
    if record.boot != boot_id() or (leader is not None and leader.start != record.start):
        return []
    return [pid for pid, stat in everyone() if pid == record.pid or stat.session == record.pid]
