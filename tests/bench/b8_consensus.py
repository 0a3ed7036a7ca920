"""B8: committed actions of four validators against CometBFT and PySyncObj, and how the cost of a commit grows with n.

Ours are processes on loopback with libp2p, HTTP, a signature on every action and every vote, and fsync before every
vote and commit. Their blocks follow each other without a pause. CometBFT is as it ships, with its kvstore application,
which checks no signatures of transactions; it pauses for one second after a block, and fills blocks meanwhile.
PySyncObj has neither signatures nor durability. The load of each side comes from a process of its own.
"""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from agentworld_core.signing import signed_bytes, verify_bytes
from agentworld_core.world.actions import make_action, sign_action
from tests.bench.cometbft_peer import VERSION, CometBft, CometBftMissing
from tests.bench.harness import Case, LeftOut, Setting
from tests.bench.material import agent_signer
from tests.bench.processes import LoadRun
from tests.bench.pysyncobj_peer import PySyncObjNodes
from tests.bench.validators import Validators
from tests.unit.node.material import WORLD

VALIDATORS = 4
OTHERS = (7, 13)
CHUNK = 256
IN_FLIGHT = 6
COMETBFT_RATE = 1_000
CALM_RATE = 40
_numbers = itertools.count()


def cases(setting: Setting) -> Iterator[Case | LeftOut]:
    """Yields throughput, processor time and latency against both peers, the ceiling, and the growth with n."""
    with Validators(_folder(setting), count=VALIDATORS) as ours:
        try:
            with ExitStack() as stack:
                peer = CometBft(_folder(setting), validators=VALIDATORS, binaries=Path("build/peers"))
                yield from _cometbft(setting, ours, stack.enter_context(peer))
        except CometBftMissing as missing:
            yield LeftOut(id="B8", case="four validators against CometBFT", reason=str(missing))
        folder = _folder(setting)
        folder.mkdir()
        with PySyncObjNodes(folder, count=VALIDATORS) as nodes:
            yield from _pysyncobj(setting, ours, nodes)
    yield from _growth(setting)


def _cometbft(setting: Setting, ours: Validators, peer: CometBft) -> Iterator[Case]:
    name = f"CometBFT {VERSION}, kvstore"
    # Some 12,000 are committed of what CometBFT is sent in four seconds, so that both have as long to get going.
    count, seconds = setting.size(12_000, 256), setting.size(4, 2)
    loads: list[tuple[LoadRun, LoadRun]] = []

    def mine() -> float:
        run = ours.load(count, chunk=CHUNK, in_flight=IN_FLIGHT)
        loads.append((run, run))
        return run.cost

    def theirs() -> float:
        run = peer.run(rate=COMETBFT_RATE, seconds=seconds)
        loads[-1] = (loads[-1][0], run)
        return run.cost

    yield Case(
        id="B8",
        case=f"{VALIDATORS} validators: committed actions under load",
        peer=name,
        ours=mine,
        theirs=theirs,
        goal=1.0,
        ceiling=_ceiling,
        ceiling_name=f"{VALIDATORS} verifications of each action on {os.cpu_count()} cores",
        check=lambda: ours.wrong() or peer.wrong(),
    )
    # The pairs of the case before, seen from other sides.
    yield _again("processor time of a committed action, all four", name, loads, lambda run: run.cpu_cost)
    calm: list[tuple[LoadRun, LoadRun]] = []
    for _ in range(setting.size(3, 1)):
        sent = setting.size(200, 20)
        quiet = ours.load(sent, chunk=1, in_flight=16, rate=CALM_RATE)
        calm.append((quiet, peer.run(rate=CALM_RATE // VALIDATORS, seconds=max(3, sent // CALM_RATE))))
    for share in (0.5, 0.99):
        yield _again(
            f"latency p{share * 100:g} at {CALM_RATE} actions a second",
            f"{name}, one second between blocks",
            calm,
            lambda run, share=share: run.latency(share),  # type: ignore[misc]
        )


def _again(case: str, peer: str, loads: list[tuple[LoadRun, LoadRun]], cost: Callable[[LoadRun], float]) -> Case:
    """A case without runs of its own: its pairs have been run already."""
    pairs = itertools.cycle(list(loads))
    current: list[LoadRun] = []

    def mine() -> float:
        current[:] = next(pairs)
        return cost(current[0])

    return Case(id="B8", case=case, peer=peer, ours=mine, theirs=lambda: cost(current[1]), goal=None)


def _ceiling() -> float:
    """Seconds for an action when all cores did nothing but verify it once for each validator."""
    signer = agent_signer("ceiling")
    made = make_action(
        world_id=WORLD, actor_id="agent-0", kind="agent.move", payload={"to": [1, 1]}, nonce=1, timestamp_ms=1
    )
    action = sign_action(made, signer)
    data = signed_bytes(action)
    started = time.process_time()
    for _ in range(500):
        assert verify_bytes(action.public_key, action.signature, data)
    return (time.process_time() - started) / 500 * VALIDATORS / (os.cpu_count() or 1)


def _pysyncobj(setting: Setting, ours: Validators, nodes: PySyncObjNodes) -> Iterator[Case]:
    one_by_one = setting.size(20, 3)
    yield Case(
        id="B8",
        case=f"{VALIDATORS} validators: one action after the other",
        peer="PySyncObj, 4 nodes in memory",
        ours=lambda: ours.load(one_by_one, chunk=1, in_flight=1, at=1).cost,
        theirs=lambda: nodes.run("serial", one_by_one),
        goal=10.0,
        check=lambda: ours.wrong() or nodes.wrong(),
    )
    many = setting.size(4_000, 256)
    yield Case(
        id="B8",
        case=f"{VALIDATORS} validators: many actions at a time",
        peer="PySyncObj, 4 nodes in memory",
        ours=lambda: ours.load(many, chunk=CHUNK, in_flight=IN_FLIGHT).cost,
        theirs=lambda: nodes.run("pipelined", many),
        goal=1.0,
        check=lambda: ours.wrong() or nodes.wrong(),
    )


def _growth(setting: Setting) -> Iterator[Case | LeftOut]:
    """Messages and processor time of a block of one action, per validator, with more of them."""
    commits = setting.size(12, 2)
    try:
        costs = {count: _per_commit(setting, count, commits) for count in (VALIDATORS, *OTHERS)}
    except TimeoutError as late:
        yield LeftOut(id="B8", case="growth with the number of validators", reason=str(late))
        return
    few_messages, few_cpu = costs[VALIDATORS]
    for count in OTHERS:
        messages, cpu = costs[count]
        for name, more, base, unit in (
            ("gossip messages published in a commit", messages, few_messages, "messages"),
            ("processor time of a commit", cpu, few_cpu, "s"),
        ):
            # Grown with n when it stays the same for each validator.
            yield Case(
                id="B8",
                case=f"{name}, each of {count}",
                peer=f"each of {VALIDATORS}",
                ours=lambda more=more, count=count: more / count,  # type: ignore[misc]
                theirs=lambda base=base: base / VALIDATORS,  # type: ignore[misc]
                goal=1.5 if unit == "messages" else None,
                kind="cost",
                unit=unit,
            )


def _per_commit(setting: Setting, count: int, commits: int) -> tuple[float, float]:
    """Returns the messages and the processor seconds of one commit, of all validators together."""
    with Validators(_folder(setting), count=count) as world:
        published = 'agentworld_network_total{name="published"}'
        before = world.counted(published)
        runs = [world.load(1, chunk=1, in_flight=1, at=1) for _ in range(commits)]
        messages = world.counted(published) - before
        wrong = world.wrong()
        if wrong is not None:
            raise AssertionError(wrong)
        return messages / commits, statistics.median(run.cpu for run in runs)


def _folder(setting: Setting) -> Path:
    return setting.folder / f"b8-{next(_numbers)}"
