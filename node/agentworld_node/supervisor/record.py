"""How a running supervisor is found: a lock that the system releases when it dies, and a file that says where it is."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any, ClassVar

from agentworld_core.errors import AgentWorldError, NotAvailable
from agentworld_node.supervisor.home import write_file

RECORD = "supervisor.json"
LOCK = "lock"


class AlreadyRuns(AgentWorldError):
    """Another supervisor runs the world of this folder."""

    code: ClassVar[str] = "already_runs"
    http_status: ClassVar[int] = 409


@dataclasses.dataclass(frozen=True, kw_only=True)
class SupervisorRecord:
    """Where a supervisor answers, with the secret that says a caller may read its folder."""

    pid: int
    url: str
    token: str
    world: str
    gateway: str
    version: str


class Lock:
    """Held by the one supervisor of a folder for as long as its process lives."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Takes the lock or raises AlreadyRuns that names the process that has it."""
        descriptor = os.open(self._folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not _locks(descriptor):
            owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            os.close(descriptor)
            raise AlreadyRuns(
                f"a supervisor (process {owner or 'unknown'}) runs the world of this folder already",
                field="--data",
                value=self._folder,
                remedy="change the world with `agentworld apply -f`, or stop it with `agentworld down`",
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Gives the lock back; the end of the process does the same."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def is_running(folder: Path) -> bool:
    """True while a supervisor holds the lock of a folder."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def write_record(folder: Path, record: SupervisorRecord) -> None:
    """Says where this supervisor answers, readable by its owner alone."""
    write_file(folder / RECORD, (json.dumps(dataclasses.asdict(record), indent=2) + "\n").encode())


def remove_record(folder: Path) -> None:
    """Takes the record away at the end."""
    (folder / RECORD).unlink(missing_ok=True)


def find_supervisor(folder: Path) -> SupervisorRecord | None:
    """Returns the record of the supervisor that runs in a folder; one that a dead supervisor left counts as none."""
    if not is_running(folder):
        return None
    fields = _read(folder / RECORD)
    # One that was killed leaves its record, which is still there when the next one has just taken the lock.
    return SupervisorRecord(**fields) if fields is not None and _lives(fields["pid"]) else None


def running_supervisor(folder: Path) -> SupervisorRecord:
    """Returns the record of the supervisor that runs in a folder, or raises NotAvailable that says how to start one."""
    record = find_supervisor(folder)
    if record is not None:
        return record
    if is_running(folder):
        raise NotAvailable("the supervisor is still starting", field="--data", value=folder, remedy="try again")
    raise NotAvailable(
        "no supervisor runs the world of this folder",
        field="--data",
        value=folder,
        remedy="start it with `agentworld up -f`, or name its folder with --data",
    )


def _locks(descriptor: int) -> bool:
    """Takes the exclusive lock; who only looks whether it is held has it shared for an instant, hence several tries."""
    for _ in range(10):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
        else:
            return True
    return False


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's
    return True


def _read(path: Path) -> dict[str, Any] | None:
    try:
        fields = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    known = {field.name for field in dataclasses.fields(SupervisorRecord)}
    return fields if isinstance(fields, dict) and set(fields) == known else None
