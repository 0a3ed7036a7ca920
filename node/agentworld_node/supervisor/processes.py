"""Keeps node processes running: starts them, starts them again when they end, and stops only what it started.

A supervisor that was killed leaves nodes behind, which end by themselves when they see that it is gone. The next
supervisor does not wait for that: it ends those whose process id and start time its folder names.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from agentworld_node.supervisor.home import write_file

log = logging.getLogger(__name__)

PARENT_VARIABLE = "AGENTWORLD_PARENT_PID"
STOP_SECONDS = 15.0
FIRST_BACKOFF_SECONDS = 0.25
MAX_BACKOFF_SECONDS = 15.0
STEADY_SECONDS = 30.0
MAX_LOG_BYTES = 32 * 1024 * 1024
POLL_SECONDS = 0.05


def node_command(config: Path) -> tuple[str, ...]:
    """Returns the command line of a node, run by the interpreter that runs us."""
    return (sys.executable, "-m", "agentworld_node", "node", "--config", str(config))


class NodeProcess:
    """One node as a child process; it is started again with growing pauses until it is told to stop."""

    def __init__(self, node_id: str, folder: Path, *, command: Sequence[str], prepare: Callable[[], None]):
        self.node_id = node_id
        self.log_file = folder / "log"
        self._pid_file = folder / "pid"
        self._command = command
        self._prepare = prepare
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._started_at = 0.0
        self.starts = 0
        self.last_exit: int | None = None
        self.trouble = ""

    @property
    def pid(self) -> int | None:
        """The process id while the node runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    @property
    def is_young(self) -> bool:
        """True while the node may not answer yet because it was started a moment ago."""
        return time.monotonic() - self._started_at < STEADY_SECONDS

    def start(self) -> None:
        """Starts the node and keeps it running."""
        self._keeper = asyncio.create_task(self._keep_running(), name=f"keep-{self.node_id}")

    async def stop(self) -> None:
        """Asks the node to end, waits, and ends it by force after 15 seconds."""
        self._stopping.set()
        process = self._process
        if process is not None and process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_SECONDS)
            except TimeoutError:
                log.warning("node %s did not stop in %d s and is killed", self.node_id, STOP_SECONDS)
                process.kill()
                await process.wait()
        if self._keeper is not None:
            # It ends by itself, unless it pauses before another start.
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        self._pid_file.unlink(missing_ok=True)

    async def _keep_running(self) -> None:
        backoff = FIRST_BACKOFF_SECONDS
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            started = loop.time()
            await self._run_once()
            if self._stopping.is_set():
                return
            backoff = FIRST_BACKOFF_SECONDS if loop.time() - started > STEADY_SECONDS else backoff
            self.trouble = f"ended with {_ending(self.last_exit)}: {last_line(self.log_file) or 'it said nothing'}"
            log.warning("node %s %s; it is started again in %.1f s", self.node_id, self.trouble, backoff)
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, MAX_BACKOFF_SECONDS)

    async def _run_once(self) -> None:
        self._prepare()
        if self.log_file.exists() and self.log_file.stat().st_size > MAX_LOG_BYTES:
            os.replace(self.log_file, self.log_file.with_name("log.1"))
        with self.log_file.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Of a session of its own, so that Ctrl-C reaches the supervisor alone; the node ends when it is gone.
                start_new_session=True,
                env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
            )
        pid = self._process.pid
        write_file(self._pid_file, json.dumps({"pid": pid, "started": start_time(pid)}).encode())
        self.starts += 1
        self._started_at = time.monotonic()
        self.last_exit = await self._process.wait()


async def end_leftover(folder: Path) -> bool:
    """Ends the node process that an earlier supervisor left behind in this node folder; True when there was one."""
    path = folder / "pid"
    try:
        noted = json.loads(path.read_text())
        pid, started = int(noted["pid"]), noted["started"]
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError):
        log.warning("%s is damaged; a node that still runs keeps its data folder locked", path)
        return False
    found = started is not None and start_time(pid) == started
    if found:
        await _end(pid, started)
    path.unlink(missing_ok=True)
    return found


def start_time(pid: int) -> str | None:
    """Returns when a process was started, in ticks since boot, so that a process id used again is told apart."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    # A zombie has ended; who started it has yet to notice.
    return None if fields[0] == "Z" else fields[19]


def last_line(path: Path, *, limit: int = 4096) -> str:
    """Returns the last line of a log that is not empty, cut to 200 characters."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - limit))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "")


async def _end(pid: int, started: str) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        deadline = loop.time() + STOP_SECONDS
        while start_time(pid) == started and loop.time() < deadline:  # noqa: ASYNC110 - not our child: no event
            await asyncio.sleep(POLL_SECONDS)


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"
