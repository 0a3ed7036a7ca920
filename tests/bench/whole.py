"""One node executes signed actions end to end, and a profile says where its time goes.

A whole node with everything but libp2p and HTTP: actions are judged, pooled, gossiped to nobody, proposed, executed,
voted on, made durable and committed, until every one has its receipt. The peer is what nobody can avoid in pure form:
one verification of each signature, so the ratio says which part of a node's time that is.
"""

from __future__ import annotations

import asyncio
import cProfile
import itertools
import pstats
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from agentworld_core.messages import ActionEnvelope, Parameters
from agentworld_core.signing import signed_bytes, verify_bytes
from agentworld_core.world.actions import make_action, sign_action
from agentworld_core.world.modules.sandbox import Sandbox
from tests.bench.harness import Case, LeftOut, Setting, wall
from tests.bench.material import VALIDATOR, agent_signer, moves
from tests.unit.node.material import WORLD, Material
from tests.unit.node.running import RunningNode, eventually, memory_world

ACTORS = 64
CHUNK = 256
IN_FLIGHT = 4_096
PARAMETERS = Parameters(
    block_interval_ms=0,
    max_batch_actions=512,
    max_batch_bytes=512 * 1024,
    journal_events_per_segment=256,
    snapshot_interval=64,
    leaseless=True,
)
_numbers = itertools.count()


def cases(setting: Setting) -> Iterator[Case | LeftOut]:
    """Yields actions per second of one node, and writes ``profile.txt`` beside the results."""
    actions = _traffic(setting.size(100_000, 300))
    registrations, rest = actions[:ACTORS], actions[ACTORS:]
    share = setting.size(7_000, 100)  # an action is new only once, and a run may have to be repeated
    parts = iter([rest[start : start + share] for start in range(0, len(rest) - share + 1, share)])
    with WholeNode(setting.folder) as node:
        node.commit(registrations)
        state = {"committed": 0}

        def ours() -> float:
            part = next(parts)
            state["committed"] += len(part)
            return wall(lambda: node.commit(part), items=len(part))

        yield Case(
            id="whole",
            case=f"actions through one node, {share:,} at a time",
            peer="one signature verification each",
            ours=ours,
            theirs=lambda: wall(lambda: _verify(rest[: min(2_000, share)]), items=min(2_000, share)),
            goal=None,
            check=lambda: node.wrong(ACTORS + state["committed"]),
        )
    profile(setting, [registrations], rest[: setting.size(7_000, 100)])


def _traffic(count: int) -> list[ActionEnvelope]:
    """Signed actions: every actor's registration, then moves."""
    first = [
        sign_action(
            make_action(
                world_id=WORLD,
                actor_id=f"agent-{number}",
                kind="agent.register",
                payload={"position": [0, 0]},
                nonce=1,
                timestamp_ms=1_700_000_000_000,
            ),
            agent_signer(f"agent-{number}"),
        )
        for number in range(ACTORS)
    ]
    return first + moves(count - ACTORS, actors=ACTORS, first_nonce=2)


def _verify(actions: Sequence[ActionEnvelope]) -> None:
    for action in actions:
        assert verify_bytes(action.public_key, action.signature, signed_bytes(action))


class WholeNode:
    """A running node on an event loop in a thread of its own, so that the benchmark can be written straight on."""

    def __init__(self, folder: Path, *, sandbox: Sandbox | None = None):
        self._folder = folder / f"node-{next(_numbers)}"
        self._sandbox = sandbox
        self._ready = threading.Event()
        self._done = asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()))
        self._loop: asyncio.AbstractEventLoop
        self._running: RunningNode
        self._failure: BaseException | None = None

    def __enter__(self) -> WholeNode:
        self._folder.mkdir()
        self._thread.start()
        self._ready.wait(timeout=60)
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join(timeout=60)
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            material = Material(self._folder, validators=(VALIDATOR,), parameters=PARAMETERS)
            async with memory_world(material, start=False) as world:
                world.sandbox_of = lambda _name: self._sandbox
                (self._running,) = await world.start(VALIDATOR, mempool_max_per_actor=10_000, mempool_max_per_source=0)
                self._ready.set()
                await self._done.wait()
        except BaseException as error:
            self._failure = error
            self._ready.set()
            raise

    def commit(self, actions: Sequence[ActionEnvelope]) -> None:
        """Returns when all of these actions are committed."""
        asyncio.run_coroutine_threadsafe(self._commit(actions), self._loop).result(timeout=600)

    async def _commit(self, actions: Sequence[ActionEnvelope]) -> None:
        node = self._running.node
        for start in range(0, len(actions), CHUNK):
            await eventually(lambda: len(node.mempool) <= IN_FLIGHT, seconds=600, what="room in the mempool")
            for result in await node.gateway.submit(actions[start : start + CHUNK]):
                if isinstance(result, Exception):
                    raise result
        await eventually(lambda: not node.mempool, seconds=600, what="that everything is committed")

    def wrong(self, expected: int) -> str | None:
        """Looks for one receipt each, and for the actions in the blocks."""
        ledger = self._running.node.ledger

        async def count() -> int:
            bundles = (ledger.bundle(height) for height in range(1, ledger.height + 1))
            return sum(len(bundle.batch.actions) for bundle in bundles if bundle is not None)

        found = asyncio.run_coroutine_threadsafe(count(), self._loop).result(timeout=600)
        return None if found == expected else f"{found} actions are in blocks, {expected} were sent"


# Where the time goes

OTHER = "event loop and threads"
_SUBSYSTEMS = (
    ("signatures", ("cryptography", "ed25519", "signing.py")),
    ("codec", ("codec.py", "cbor2", "ids.py")),
    ("hashing", ("blake3", "hashing.py")),
    ("state tree", ("world/tree",)),
    ("sandbox", ("agentworld_node/sandbox", "wasmtime")),
    ("modules", ("agentworld_core/world/modules", "world/upcoming")),
    ("kernel", ("agentworld_core/world/",)),
    ("mempool and gateway", ("ordering/", "roles/gateway.py")),
    ("consensus", ("consensus/", "roles/validator.py", "roles/intake.py", "roles/executor.py")),
    ("blocks and ledger", ("agentworld_core/ledger", "agentworld_node/ledger", "records.py")),
    ("log", ("storage/wal", "fdatasync", "pwrite")),
    ("blobs", ("storage/blobs", "storage/loose", "storage/pack", "storage/files", "posix.", "pathlib")),
    ("index", ("storage/index", "sqlite3")),
    ("waiting", ("select.epoll", "acquire", "queue.SimpleQueue")),
)


def subsystem_of(place: str) -> str:
    """Returns the part of the product that a function belongs to, as its profile names it."""
    return next((name for name, marks in _SUBSYSTEMS if any(mark in place for mark in marks)), OTHER)


def profile(
    setting: Setting,
    before: Sequence[Sequence[ActionEnvelope]],
    actions: Sequence[ActionEnvelope],
    *,
    sandbox: Sandbox | None = None,
    name: str = "profile.txt",
) -> None:
    """Runs a node once more with every thread profiled; prints and writes the time by subsystem.

    What is to be committed before the actions is profiled too, so it should be little.
    """
    profiles: list[cProfile.Profile] = []
    original = threading.Thread.run

    def profiled(thread: threading.Thread) -> None:
        made = cProfile.Profile(time.thread_time)
        profiles.append(made)
        made.runcall(original, thread)

    threading.Thread.run = profiled  # type: ignore[method-assign, assignment]
    try:
        with WholeNode(setting.folder, sandbox=sandbox) as node:
            for part in [*before, actions]:
                node.commit(part)
    finally:
        threading.Thread.run = original  # type: ignore[method-assign]
    path = setting.folder.parent / name
    with path.open("w", encoding="utf-8") as out:
        stats = pstats.Stats(profiles[0], stream=out)
        for made in profiles[1:]:
            stats.add(made)
        lines = _summary(stats, len(actions))
        out.write("\n".join(lines) + "\n\n")
        stats.sort_stats("tottime").print_stats(60)
    print("\n".join([f"{'':5}{line}" for line in [*lines, f"details in {path}"]]), flush=True)


def _summary(stats: pstats.Stats, actions: int) -> list[str]:
    """Returns the processor time by subsystem; libraries and built-ins count for the part of ours that calls them."""
    table: dict[Any, Any] = stats.stats  # type: ignore[attr-defined]
    spent: dict[str, float] = {}

    def charge(function: tuple[str, int, str], seconds: float, depth: int) -> None:
        part = subsystem_of(f"{function[0]} {function[2]}")
        callers = {caller: times[2] for caller, times in table.get(function, (0, 0, 0, 0, {}))[4].items()}
        total = sum(callers.values())
        if part != OTHER or depth == 0 or total <= 0:
            spent[part] = spent.get(part, 0.0) + seconds
            return
        for caller, own in callers.items():
            if own > 0:
                charge(caller, seconds * own / total, depth - 1)

    for function, (_, _, own, _, _) in table.items():
        charge(function, own, 5)
    total = sum(spent.values())
    lines = [f"processor time of {actions:,} actions under the profiler, {total / actions * 1e6:.0f} us each:"]
    for part, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        lines.append(f"  {part:22} {seconds / total:6.1%} {seconds / actions * 1e6:8.1f} us an action")
    return lines
