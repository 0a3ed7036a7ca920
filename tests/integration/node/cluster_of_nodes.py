"""Nodes of one world as processes on loopback, without a supervisor: tests kill, stop and freeze them one by one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from agentworld_client.errors import GatewayError, GatewayUnreachable
from agentworld_client.gateway import GatewayClient
from agentworld_core.messages import ActionEnvelope
from agentworld_node.supervisor.ports import free_port
from tests.unit.node.material import Material

PATIENCE = 60.0
POLL_SECONDS = 0.1
CLI = (sys.executable, "-m", "agentworld_node")


async def until(look: Callable[[], Any], what: str, *, seconds: float = PATIENCE) -> Any:
    """Returns the first true result of a function or coroutine function; fails after the deadline."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < deadline, f"after {seconds:g} s still waiting: {what}"
        await asyncio.sleep(POLL_SECONDS)


class NodeProcess:
    """One node of the world as a process of its own."""

    def __init__(self, name: str, config: Path, ports: tuple[int, int], log: Path):
        self.name = name
        self.p2p_port, self.http_port = ports
        self.log = log
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        assert not self.runs
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                self.command(), stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=self.environment()
            )

    def command(self) -> Sequence[str]:
        return (*CLI, "node", "--config", str(self._config), "--log-level", "info")

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def ended(self, *, seconds: float = PATIENCE) -> int:
        """The exit code, once the process has ended."""
        assert self._process is not None
        return int(await asyncio.to_thread(self._process.wait, seconds))

    async def kill(self) -> None:
        self.signal(signal.SIGKILL)
        await self.ended()

    async def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return await self.ended()

    def end(self) -> None:
        """Ends the process, whatever state it is in."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)

    def client(self, **options: Any) -> GatewayClient:
        return GatewayClient(self.url, **options)

    async def status(self) -> dict[str, Any] | None:
        """The status document, None when there is no answer."""
        try:
            async with self.client(patience=0, request_timeout=5) as client:
                return await client.status()
        except (GatewayUnreachable, GatewayError):
            return None

    async def height(self) -> int:
        found = await self.status()
        return -1 if found is None else int(found["head"]["height"])

    async def get(self, path: str) -> tuple[int, str]:
        """Status and text of a plain request; (0, reason) when there is no answer."""
        try:
            timeout = aiohttp.ClientTimeout(total=5)
            async with aiohttp.ClientSession(timeout=timeout) as session, session.get(self.url + path) as response:
                return response.status, await response.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            return 0, str(error)

    async def is_ready(self) -> bool:
        return (await self.get("/readyz"))[0] == 200

    async def metric(self, name: str) -> float:
        """The value of a series as it stands on the metrics page, 0 when it is not there."""
        _, page = await self.get("/metrics")
        lines = [line for line in page.splitlines() if line.startswith(f"{name} ")]
        return float(lines[0].rsplit(" ", 1)[1]) if lines else 0.0


class Cluster:
    """All nodes of a world; ends every process that it started."""

    def __init__(self, material: Material):
        self.material = material
        ports = {name: (free_port(), free_port()) for name in material.names}
        material.write_peers({name: p2p for name, (p2p, _) in ports.items()})
        self.nodes: dict[str, NodeProcess] = {}
        for name in material.names:
            p2p, http = ports[name]
            config = material.write_config(material.config(name, p2p_port=p2p, http_port=http))
            self.nodes[name] = NodeProcess(name, config, (p2p, http), material.folder / f"{name}.log")

    def __getitem__(self, name: str) -> NodeProcess:
        return self.nodes[name]

    def end(self) -> None:
        for node in self.nodes.values():
            node.end()

    def logs(self) -> str:
        logs = [node.log for node in self.nodes.values() if node.log.exists()]
        return "".join(f"\n=== {log}\n{log.read_text()[-4000:]}" for log in logs)

    async def start(self, *names: str) -> None:
        """Starts nodes and waits until they are ready."""
        chosen = names or tuple(self.nodes)
        for name in chosen:
            self.nodes[name].start()
        await self.ready(*chosen)

    async def ready(self, *names: str) -> None:
        for name in names or tuple(self.nodes):
            await until(self.nodes[name].is_ready, f"{name} is ready")

    async def writer(self, *, other_than: str = "", over: int = 0) -> tuple[str, int]:
        """The writer and its term, as soon as a majority of the running nodes says so."""

        async def look() -> tuple[str, int] | None:
            seen: dict[tuple[str, int], int] = {}
            running = [node for node in self.nodes.values() if node.runs]
            for status in await asyncio.gather(*(node.status() for node in running)):
                if status is not None and status["writer"]["holder"]:
                    key = (status["writer"]["holder"], status["writer"]["term"])
                    seen[key] = seen.get(key, 0) + 1
            if not seen:
                return None
            best = max(seen, key=lambda key: (seen[key], key[1]))
            fits = best[0] != other_than and best[1] > over
            return best if fits and seen[best] * 2 > len(running) else None

        found: tuple[str, int] = await until(look, f"a writer other than {other_than or 'nobody'}")
        return found

    async def commit(self, name: str, actions: Sequence[ActionEnvelope]) -> list[dict[str, Any]]:
        """Submits actions at a node and returns the receipts once all are committed."""
        async with self.nodes[name].client(patience=PATIENCE) as client:

            async def look() -> list[dict[str, Any]] | None:
                receipts = await client.submit(actions, wait=True)
                done = [receipt.get("status") == "committed" for receipt in receipts]
                assert not any("error" in receipt for receipt in receipts), receipts
                return receipts if all(done) else None

            receipts: list[dict[str, Any]] = await until(look, "the actions are committed")
        return receipts

    async def same_head(self, *names: str) -> dict[str, Any]:
        """The head, once these nodes all have the same."""

        async def look() -> dict[str, Any] | None:
            statuses = [await self.nodes[name].status() for name in names or tuple(self.nodes)]
            heads = [status["head"] for status in statuses if status is not None]
            same = len(heads) == len(statuses) and len({head["block_hash"] for head in heads}) == 1
            return heads[0] if same else None

        head: dict[str, Any] = await until(look, "all have the same head")
        return head


@contextlib.asynccontextmanager
async def cluster(material: Material) -> AsyncIterator[Cluster]:
    """A cluster that is not started; shows the ends of the logs when the test fails."""
    made = Cluster(material)
    try:
        yield made
    except BaseException:
        sys.stderr.write(made.logs())
        raise
    finally:
        made.end()


async def run_cli(*words: str, seconds: float = PATIENCE) -> tuple[int, str, str]:
    """Runs a command to its end: exit code, standard output, standard error."""
    process = await asyncio.create_subprocess_exec(
        *CLI,
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"COLUMNS": "200"},
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), seconds)
    except BaseException:
        process.kill()
        await process.wait()
        raise
    return process.returncode or 0, out.decode(), err.decode()


def as_json(text: str) -> Any:
    return json.loads(text)
