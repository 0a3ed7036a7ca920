"""What the benchmarks that start processes of their own share: free ports, processor time, and an orderly end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_POLL_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class LoadRun:
    """What a load came to: ``latencies`` and ``seconds`` by the clock, ``cpu`` seconds of all nodes together."""

    committed: int
    seconds: float
    cpu: float
    latencies: tuple[float, ...]

    @property
    def cost(self) -> float:
        """Seconds by the clock for each committed action."""
        return self.seconds / self.committed

    @property
    def cpu_cost(self) -> float:
        """Processor seconds of all nodes for each committed action."""
        return self.cpu / self.committed

    def latency(self, share: float) -> float:
        """The latency that so large a share of the actions does not exceed."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def free_ports(count: int, *, host: str = "127.0.0.1") -> list[int]:
    """Returns ports that nobody listens on, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind((host, 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def cpu_seconds(pids: Iterable[int]) -> float:
    """Returns the processor time that these processes have used so far, with all their threads."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS


def end_all(processes: Sequence[subprocess.Popen[bytes]], *, seconds: float = 10.0) -> None:
    """Ends processes: asked first, and killed when they do not."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + seconds
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(look: Callable[[], bool], what: str, *, seconds: float = 120.0) -> None:
    """Returns once the condition holds; raises TimeoutError that says what was waited for."""
    deadline = time.monotonic() + seconds
    while not look():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {seconds:g} s still waiting: {what}")
        time.sleep(_POLL_SECONDS)
