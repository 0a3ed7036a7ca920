"""What the network tests share: waiting on conditions, groups of networks, and nodes in processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from agentworld_node.network.libp2p import Libp2pConfig, Libp2pNetwork
from agentworld_node.network.libp2p.session import Session
from agentworld_node.network.memory import MemoryHub, MemoryNetwork
from agentworld_node.network.port import Limits, Network, Peer, PeerUnavailable
from agentworld_node.supervisor.ports import free_port

ROOT = Path(__file__).parents[3]
TOPIC = "aw.w.action"
PATIENCE = 60.0
ECHO = "/aw/rr/1.0.0/echo"

AnyNetwork = Libp2pNetwork | MemoryNetwork

_seeds = itertools.count(1)


def fresh_seed() -> bytes:
    return next(_seeds).to_bytes(4, "big") * 8


async def eventually(condition: Callable[[], bool], *, seconds: float = PATIENCE) -> None:
    """Waits until the condition holds; fails after a deadline that no healthy run comes near."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.01)


async def publish_until(network: Network, payload: bytes, condition: Callable[[], bool], *, topic: str = TOPIC) -> None:
    """Publishes again and again, as everybody must on lossy gossip, until the condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "the message did not arrive in time"
        await network.publish(topic, payload)
        for _ in range(20):
            if condition():
                return
            await asyncio.sleep(0.01)


async def ask_until(network: Network, peer_id: str, payload: bytes) -> bytes:
    """Asks a peer to echo, again and again while it is not reachable."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return await network.request(peer_id, ECHO, payload, timeout=10)
        except PeerUnavailable:
            assert time.monotonic() < deadline, "the peer did not become reachable in time"
            await asyncio.sleep(0.05)


class Group:
    """Networks of one kind that can be started, joined, stopped and started again under the same identity."""

    def __init__(self, kind: str):
        self.kind = kind
        self.hub = MemoryHub()
        self.networks: list[AnyNetwork] = []
        self._seeds: dict[str, bytes] = {}

    def make(
        self, *, limits: Limits | None = None, allow_unknown: bool = False, like: AnyNetwork | None = None
    ) -> AnyNetwork:
        """Makes a network that is not started; ``like`` gives its identity and port to it."""
        network: AnyNetwork
        if self.kind == "memory":
            name = like.peer_id if like is not None else f"peer-{len(self.networks)}"
            network = self.hub.network(name, allow_unknown=allow_unknown, limits=limits)
        else:
            seed = self._seeds[like.peer_id] if like is not None else fresh_seed()
            port = like.port if isinstance(like, Libp2pNetwork) else 0
            config = Libp2pConfig(seed=seed, listen_port=port, allow_unknown=allow_unknown)
            network = Libp2pNetwork(config, limits=limits)
            self._seeds[network.peer_id] = seed
        self.networks.append(network)
        network.serve(ECHO, echo)
        return network

    def peer(self, network: AnyNetwork) -> Peer:
        """How others reach a started network."""
        return Peer(network.peer_id, (f"127.0.0.1:{network.port}",) if isinstance(network, Libp2pNetwork) else ())

    def introduce(self, *networks: AnyNetwork) -> None:
        """Lists each network with all others."""
        for network in networks:
            network.set_peers([self.peer(other) for other in networks])

    async def mesh(self, count: int, *, limits: Limits | None = None) -> list[AnyNetwork]:
        """Starts networks that are all connected with each other."""
        networks = [self.make(limits=limits) for _ in range(count)]
        for network in networks:
            await network.start()
        self.introduce(*networks)
        await eventually(lambda: all(len(network.connected()) == count - 1 for network in networks))
        return networks

    async def close(self) -> None:
        await asyncio.gather(*(network.stop() for network in self.networks))


async def echo(_peer_id: str, payload: bytes) -> bytes:
    return payload


@asynccontextmanager
async def group(kind: str) -> AsyncIterator[Group]:
    """A group that must leave no thread and no socket behind."""
    threads, sockets = running_threads(), open_sockets()
    networks = Group(kind)
    try:
        yield networks
    finally:
        await networks.close()
    left_behind = (running_threads() - threads, open_sockets() - sockets)
    assert left_behind == (set(), set()), left_behind


def running_threads() -> set[threading.Thread]:
    # The event loop itself waits for child processes in threads of this name.
    return {thread for thread in threading.enumerate() if "waitpid" not in thread.name}


def open_sockets() -> set[str]:
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the descriptor of the listing itself
            found.add(str(descriptor.readlink()))
    return {name for name in found if name.startswith("socket:")}


async def in_network(network: AnyNetwork, work: Callable[[Session], Awaitable[Any]]) -> Any:
    """Runs something in the trio loop of a network; how tests make a peer misbehave."""
    assert isinstance(network, Libp2pNetwork)
    run = functools.partial(trio.from_thread.run, work, network._session, trio_token=network._token)
    done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    loop = asyncio.get_running_loop()

    def body() -> None:
        try:
            outcome = run()
        except Exception as error:  # noqa: BLE001 - handed to whoever asked
            loop.call_soon_threadsafe(done.set_exception, error)
        else:
            loop.call_soon_threadsafe(done.set_result, outcome)

    thread = threading.Thread(target=body)
    thread.start()
    try:
        return await done
    finally:
        thread.join()


class NodeProcess:
    """A node in a process of its own, told what to do in JSON lines."""

    def __init__(self, seed: bytes, port: int, peer_id: str):
        self.seed = seed
        self.port = port
        self.peer_id = peer_id
        self.received: list[tuple[str, bytes]] = []
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = itertools.count()
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    @property
    def peer(self) -> Peer:
        return Peer(self.peer_id, (f"127.0.0.1:{self.port}",))

    async def start(self, peers: Sequence[Peer]) -> None:
        script = Path(__file__).with_name("node_process.py")
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(script),
            self.seed.hex(),
            str(self.port),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT / "node")},
        )
        self._reader = asyncio.create_task(self._read())
        await self.ask("peers", peers=[[peer.peer_id, list(peer.addresses)] for peer in peers])

    async def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Sends a command and returns the answer; the process dying is a ConnectionError."""
        assert self._process is not None
        assert self._process.stdin is not None
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        line = json.dumps({"number": number, "command": command} | arguments)
        self._process.stdin.write(line.encode() + b"\n")
        return await asyncio.wait_for(answer, 30)

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            event = json.loads(line)
            if event["event"] == "message":
                self.received.append((event["author"], bytes.fromhex(event["payload"])))
            else:
                self._answers.pop(event["number"]).set_result(event)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(ConnectionError("the process ended"))

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def kill(self) -> None:
        """Ends the process with SIGKILL, frozen or not."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        if self._reader is not None:
            await self._reader


def make_process() -> NodeProcess:
    seed = fresh_seed()
    return NodeProcess(seed, free_port(), Libp2pNetwork(Libp2pConfig(seed=seed)).peer_id)
