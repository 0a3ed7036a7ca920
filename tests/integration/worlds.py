"""A whole world of real processes for a test: ``agentworld up`` on free ports, ended by the ids of what was started."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import yaml

from agentworld_client import keys
from agentworld_client.gateway import GatewayClient
from agentworld_client.submit import Agent
from agentworld_core.messages import ActionEnvelope
from agentworld_node.supervisor.control import ControlClient
from agentworld_node.supervisor.ports import LOOPBACK
from agentworld_node.supervisor.processes import start_time
from agentworld_node.supervisor.record import find_supervisor
from agentworld_node.supervisor.state import WorldState

T = TypeVar("T")
SECONDS = 90.0
POLL_SECONDS = 0.1
CLI = (sys.executable, "-m", "agentworld_node")

FAST = {
    "consensus": {"blockInterval": "100ms"},
    "sequencer": {"leaseDuration": "3s", "renewDeadline": "2s", "retryPeriod": "500ms"},
}
"""Blocks and takeovers that do not make a test wait; no test depends on how fast they are."""


def world(replicas: int, **spec: Any) -> dict[str, Any]:
    return resource("World", "aurora", validators={"replicas": replicas}, **{**FAST, **spec})


def key(name: str = "aurora-0", **spec: Any) -> dict[str, Any]:
    return resource("MembershipKey", name, world="aurora", **{"validator": "aurora-0", **spec})


def resource(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "agentworld.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


async def until(look: Callable[[], Awaitable[T | None]], what: str, *, seconds: float = SECONDS) -> T:
    """Returns the first result that is neither None nor False; fails with what was waited for after the deadline."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        found = await look()
        if found is not None and found is not False:
            return found
        assert loop.time() < deadline, f"after {seconds:.0f} s still waiting until {what}"
        await asyncio.sleep(POLL_SECONDS)


class LocalWorld:
    """One world under a folder; an async context manager that leaves no process behind."""

    def __init__(self, folder: Path, *manifests: dict[str, Any]):
        self.data = folder / "world"
        self._manifests = folder / "manifests"
        self._manifests.mkdir()
        self._out = folder / "up.log"
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._started: dict[int, str | None] = {}
        self.write(*manifests)

    async def __aenter__(self) -> LocalWorld:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.down()
        finally:
            await self.kill()
            if kind is not None:
                sys.stderr.write(self.logs())

    def write(self, *manifests: dict[str, Any]) -> None:
        """Makes the folder of manifests hold exactly these."""
        (self._manifests / "all.yaml").write_text(yaml.safe_dump_all(manifests))

    def logs(self) -> str:
        """Returns the end of every log, for the report of a test that failed."""
        paths = [self._out, self.data / "supervisor.log", *sorted(self.data.glob("nodes/*/log"))]
        return "".join(f"\n=== {path}\n{path.read_text()[-3000:]}" for path in paths if path.exists())

    # The supervisor

    async def up(self, *words: str, settled: bool = True) -> WorldState:
        """Starts the world and returns its state when it runs and all nodes are where they should be."""
        self.start(*words)
        return await (self.settled() if settled else self.when(lambda state: state.phase == "Running", "it runs"))

    def start(self, *words: str) -> None:
        """Starts the supervisor and does not wait."""
        assert self._supervisor is None or self._supervisor.poll() is not None
        command = [*CLI, "up", "-f", str(self._manifests), "--data", str(self.data), "--port", "0", *words]
        with self._out.open("ab") as out:
            self._supervisor = subprocess.Popen(
                command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True
            )

    async def down(self) -> None:
        """Stops the world cleanly; does nothing when it does not run."""
        if self._supervisor is None or self._supervisor.poll() is not None:
            return
        self.note_processes()
        self._supervisor.send_signal(signal.SIGTERM)
        await asyncio.to_thread(self._supervisor.wait, 60)

    def kill_supervisor(self) -> None:
        """Kills the supervisor alone, with SIGKILL."""
        assert self._supervisor is not None
        self.note_processes()
        self._supervisor.kill()
        self._supervisor.wait()

    async def kill(self) -> None:
        """Kills every process of the world with SIGKILL, as a power failure would; what was started before included."""
        self.note_processes()
        if self._supervisor is not None:
            # First, so that it does not start anything again.
            self._supervisor.kill()
            self._supervisor.wait()
            self.note_processes()
        for pid, started in self._started.items():
            if started is not None and start_time(pid) == started:
                os.kill(pid, signal.SIGKILL)

        async def gone() -> bool:
            return not any(started is not None and start_time(pid) == started for pid, started in self._started.items())

        await until(gone, "the killed processes are gone")

    def note_processes(self) -> dict[str, int]:
        """Remembers which processes are ours, and returns the ids of the nodes that run."""
        running = {}
        for path in self.data.glob("nodes/*/pid"):
            try:
                noted = json.loads(path.read_text())
            except (FileNotFoundError, ValueError):
                continue
            self._started[noted["pid"]] = noted["started"]
            if start_time(noted["pid"]) == noted["started"]:
                running[path.parent.name] = noted["pid"]
        return running

    def control(self) -> ControlClient:
        """Returns the client of the running supervisor."""
        record = find_supervisor(self.data)
        assert record is not None, "no supervisor runs"
        return ControlClient(record)

    async def when(self, check: Callable[[WorldState], bool], what: str) -> WorldState:
        """Returns the state of the world as soon as the check holds."""

        async def look() -> WorldState | None:
            assert self._supervisor is not None
            assert self._supervisor.poll() is None, f"the supervisor has ended: {self._out.read_text()[-2000:]}"
            if find_supervisor(self.data) is None:
                return None
            state = await self.control().world()
            return state if check(state) else None

        return await until(look, what)

    async def settled(self) -> WorldState:
        """Returns the state when there is nothing left to do or to wait for."""
        return await self.when(lambda state: state.settled and state.phase == "Running", "the world is settled")

    async def apply(self, *manifests: dict[str, Any], wait: bool = True) -> list[str]:
        """Applies manifests with the command line and returns what it printed, line by line."""
        self.write(*manifests)
        words = ["apply", "-f", str(self._manifests), "--data", str(self.data), *(["--wait"] if wait else [])]
        result = await run_cli(*words)
        assert result.returncode == 0, result.stderr
        return result.stdout.splitlines()

    # The nodes

    def client(self, node_id: str = "aurora-0", *, patience: float = 30.0) -> GatewayClient:
        """Returns a client of one node's HTTP API."""
        config = json.loads((self.data / "nodes" / node_id / "config.json").read_text())
        return GatewayClient(f"http://{LOOPBACK}:{config['http_port']}", patience=patience)

    def validators(self) -> list[str]:
        """Returns the ids of all validators that have a folder."""
        configs = [json.loads(path.read_text()) for path in sorted(self.data.glob("nodes/*/config.json"))]
        return [config["node_id"] for config in configs if "validator" in config["roles"]]

    async def same_head(self, node_ids: Sequence[str]) -> dict[str, Any]:
        """Returns the head once all these nodes have the same one."""

        async def look() -> dict[str, Any] | None:
            heads = []
            for node_id in node_ids:
                async with self.client(node_id) as client:
                    heads.append((await client.status())["head"])
            same = len({head["block_hash"] for head in heads}) == 1
            return heads[0] if same else None

        return await until(look, f"{', '.join(node_ids)} have the same head")


def agents(count: int, *, prefix: str = "agent") -> list[Agent]:
    return [Agent(keys.generate(), world_id="aurora", actor_id=f"{prefix}-{n}") for n in range(count)]


def registrations(actors: Sequence[Agent]) -> list[ActionEnvelope]:
    return [agent.act("agent.register", {"position": [n, 0]}) for n, agent in enumerate(actors)]


def moves(actors: Sequence[Agent], count: int) -> list[ActionEnvelope]:
    return [actors[n % len(actors)].act("agent.move", {"to": [n, n]}) for n in range(count)]


async def run_cli(*words: str) -> subprocess.CompletedProcess[str]:
    """Runs ``agentworld`` as a process of its own."""
    return await asyncio.to_thread(
        subprocess.run, [*CLI, *words], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=240
    )


async def verify(url: str, *words: str) -> dict[str, Any]:
    """Replays the world from its genesis in a process of its own and returns the report."""
    result = await run_cli("verify", "--replay", "--gateway", url, "--output", "json", *words)
    assert result.returncode == 0, result.stderr
    return dict(json.loads(result.stdout))
