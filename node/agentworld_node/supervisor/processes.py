"""Keeps node processes running: starts them, starts them again when they end, and stops only what it started."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

log = logging.getLogger(__name__)

PARENT_VARIABLE = "AGENTWORLD_PARENT_PID"
STOP_SECONDS = 15.0
FIRST_BACKOFF_SECONDS = 0.5
MAX_BACKOFF_SECONDS = 15.0
STEADY_SECONDS = 30.0


class NodeProcess:
    """One node as a child process; it is started again with growing pauses until it is told to stop."""

    def __init__(self, node_id: str, config: Path, log_file: Path):
        self.node_id = node_id
        self._command: Sequence[str] = (sys.executable, "-m", "agentworld_node", "node", "--config", str(config))
        self._log_file = log_file
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self.starts = 0
        self.last_exit: int | None = None

    @property
    def pid(self) -> int | None:
        """The process id while the node runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    def start(self) -> None:
        """Starts the node and keeps it running."""
        self._keeper = asyncio.create_task(self._keep_running(), name=f"keep-{self.node_id}")

    async def stop(self) -> None:
        """Asks the node to end, waits, and ends it by force after 15 seconds."""
        self._stopping.set()
        process = self._process
        if process is not None and process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), STOP_SECONDS)
            except TimeoutError:
                log.warning("node %s did not stop in %d s and is killed", self.node_id, STOP_SECONDS)
                process.kill()
                await process.wait()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)

    async def _keep_running(self) -> None:
        backoff = FIRST_BACKOFF_SECONDS
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            started = loop.time()
            await self._run_once()
            if self._stopping.is_set():
                return
            steady = loop.time() - started > STEADY_SECONDS
            backoff = FIRST_BACKOFF_SECONDS if steady else min(2 * backoff, MAX_BACKOFF_SECONDS)
            log.warning("node %s ended with %s; again in %.1f s", self.node_id, self.last_exit, backoff)
            await asyncio.sleep(backoff)

    async def _run_once(self) -> None:
        with self._log_file.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Of a session of its own, so that Ctrl-C reaches the supervisor alone; the node ends when it is gone.
                start_new_session=True,
                env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
            )
        self.starts += 1
        self.last_exit = await self._process.wait()
