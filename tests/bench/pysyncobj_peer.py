"""PySyncObj as a peer: four Raft nodes as processes, in memory, with the settings that it ships with.

``python -m tests.bench.pysyncobj_peer OWN OTHER...`` runs one node. Told ``serial N`` or ``pipelined N`` on standard
input, it commits so many payloads of 250 bytes and prints the seconds that took, and how many its log has applied.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Self

from pysyncobj import SyncObj, SyncObjConf, replicated

from tests.bench.processes import end_all, free_ports

PAYLOAD_BYTES = 250
_IN_FLIGHT = 1_000


class _Node(SyncObj):  # type: ignore[misc]
    def __init__(self, own: str, others: list[str]):
        super().__init__(own, others, SyncObjConf(commandsQueueSize=200_000))
        self.applied = 0

    @replicated
    def take(self, _payload: bytes) -> int:
        self.applied += 1
        return self.applied


def _serial(node: _Node, count: int) -> None:
    for number in range(count):
        node.take(_payload(number), sync=True, timeout=60)


def _pipelined(node: _Node, count: int) -> None:
    room = threading.Semaphore(_IN_FLIGHT)
    failed: list[object] = []

    def done(_result: object, error: object) -> None:
        if error:
            failed.append(error)
        room.release()

    for number in range(count):
        room.acquire()
        node.take(_payload(number), callback=done)
    for _ in range(_IN_FLIGHT):
        room.acquire()
    if failed:
        raise RuntimeError(f"{len(failed)} commands failed: {failed[0]}")


def _payload(number: int) -> bytes:
    return number.to_bytes(8, "big") + bytes(PAYLOAD_BYTES - 8)


def _run(own: str, others: list[str]) -> None:
    node = _Node(own, others)
    while not node.isReady():
        time.sleep(0.05)
    print("ready", flush=True)
    work = {"serial": _serial, "pipelined": _pipelined}
    for line in sys.stdin:
        kind, count = line.split()
        started = time.perf_counter()
        work[kind](node, int(count))
        print(time.perf_counter() - started, node.applied, flush=True)


class PySyncObjNodes:
    """Four nodes; ended on exit."""

    def __init__(self, folder: Path, *, count: int = 4):
        self._folder = folder
        self._addresses = [f"127.0.0.1:{port}" for port in free_ports(count)]
        self._processes: list[subprocess.Popen[bytes]] = []
        self._sent = 0
        self.applied = 0

    def __enter__(self) -> Self:
        for number, own in enumerate(self._addresses):
            others = [address for address in self._addresses if address != own]
            with (self._folder / f"pysyncobj-{number}.log").open("wb") as log:
                command = [sys.executable, "-m", "tests.bench.pysyncobj_peer", own, *others]
                self._processes.append(
                    subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
                )
        for process in self._processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        end_all(self._processes)
        for process in self._processes:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def run(self, kind: str, count: int) -> float:
        """Returns the seconds that each of so many commands has taken, one after the other or many at a time."""
        driver = self._processes[0]
        assert driver.stdin is not None
        assert driver.stdout is not None
        driver.stdin.write(f"{kind} {count}\n".encode())
        driver.stdin.flush()
        seconds, applied = driver.stdout.readline().split()
        self._sent += count
        self.applied = int(applied)
        return float(seconds) / count

    def wrong(self) -> str | None:
        """Says whether the node that was asked has applied what it has acknowledged."""
        return None if self.applied == self._sent else f"{self.applied} commands are applied, {self._sent} were sent"


if __name__ == "__main__":
    _run(sys.argv[1], sys.argv[2:])
