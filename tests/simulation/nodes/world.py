"""One simulated world of whole nodes: made from a seed, disturbed for a while, healed, and judged."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import hashlib
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentworld_core.codec import decode, encode
from agentworld_core.consensus.parts import ProposalOffer
from agentworld_core.hashing import content_id
from agentworld_core.messages import ActionEnvelope, BlockBundle, ProposalBody
from agentworld_node.ledger import Ledger
from tests.simulation.history import History, Mark
from tests.simulation.kernel import Violation
from tests.simulation.nodes.clients import Client, TrustingClient
from tests.simulation.nodes.faults import FAULTS, heal
from tests.simulation.nodes.governance import Governance
from tests.simulation.nodes.lease import LeaseService
from tests.simulation.nodes.liar import Liar
from tests.simulation.nodes.loop import SimulatedLoop, SimulatedTask
from tests.simulation.nodes.machine import Machine
from tests.simulation.nodes.network import SimulatedHub, SimulatedNetwork
from tests.simulation.nodes.oracles import Ballots, judge
from tests.simulation.nodes.scenario import Scenario
from tests.unit.node.material import PARAMETERS, QUICK_LEASE, Material
from tests.unit.storage.faults import PowerCut

RECOVERY_SECONDS = 90.0
"""After healing everything that was handed in must be committed by all within so much."""


class World:
    """The nodes of one seed, what is done to them, and what has been found wrong."""

    def __init__(self, seed: int, scenario: Scenario, folder: Path, loop: SimulatedLoop, *, full: bool = False):
        self.seed = seed
        self.scenario = scenario
        self.folder = folder
        self.loop = loop
        self.history = History(full=full)
        self.reached: Counter[str] = Counter()
        self.violation: Violation | None = None
        self._failed = asyncio.Event()
        self._digest = hashlib.sha256()
        self.calm = False
        self.over = False
        self.blocks: dict[int, str] = {}
        self.acknowledged: dict[str, int] = {}
        self.promised: dict[str, tuple[Machine, int]] = {}
        """Actions that a node has taken, and how often it had lost its memory by then."""
        self.ballots = Ballots(self)
        self.candidates = ("v4",)
        parameters = dataclasses.replace(
            PARAMETERS, leaseless=scenario.leaseless, block_interval_ms=scenario.block_interval_ms
        )
        self.material = Material(folder, others=(*self.candidates, "g0"), lease=QUICK_LEASE, parameters=parameters)
        for name in self.candidates:
            self.material.write_keys(name)
        self.hub = SimulatedHub(loop, self.rng("network"))
        self.lease = LeaseService(self.rng("lease"), lambda kind, text: self.note("lease", kind, text))
        self.liar = Liar(self, "v3") if scenario.liar else None
        self.hub.on_publish = self._published
        if self.liar is not None:
            self.hub.on_request = self.liar.overhear
        self.machines = {name: Machine(self, name) for name in self.material.names}
        self.governance = Governance(self)
        self.clients = [
            *(Client(self, f"a{number}") for number in range(scenario.clients)),
            *(TrustingClient(self, f"t{number}") for number in range(scenario.trusting_clients)),
        ]

    def rng(self, purpose: str) -> random.Random:
        """A stream of its own for every purpose, so that one more draw here changes nothing there."""
        return random.Random(f"{self.seed}/{purpose}")

    def note(self, lane: str, kind: str, text: str, *, height: int = 0) -> None:
        """Adds something that happened to the history."""
        now = int(self.loop.now * 1000)
        self._digest.update(f"{now} {lane} {kind} {text}\n".encode())
        self.history.add(Mark(now, lane, kind, text, height))

    @property
    def digest(self) -> str:
        """A fingerprint of everything noted so far, and of how many callbacks it took."""
        return f"{self._digest.hexdigest()[:32]}/{self.loop.events}"

    def reach(self, name: str) -> None:
        """Counts that a rare state was reached."""
        self.reached[name] += 1

    def fail(self, invariant: str, says: str) -> None:
        """Notes the first thing that is wrong, which ends the run."""
        if self.violation is None and not self.over:
            self.violation = Violation(invariant, says)
            self.note("world", "VIOLATION", str(self.violation))
            self._failed.set()

    def later(self, seconds: float, happen: Callable[[], None]) -> None:
        """Lets something happen outside of all processes."""
        self.loop.call_later(seconds, happen, context=self._context)

    async def run(self) -> None:
        """Runs from the start of the nodes to the verdict; ``violation`` says what was wrong."""
        self._context = contextvars.copy_context()
        self.loop.set_exception_handler(self._unhandled)
        body = asyncio.create_task(self._run(), name="world")
        failed = asyncio.create_task(self._failed.wait(), name="failed")
        await asyncio.wait({body, failed}, return_when=asyncio.FIRST_COMPLETED)
        if body.done() and not body.cancelled() and body.exception() is not None:
            error = body.exception()
            if isinstance(error, Violation):
                self.fail(error.invariant, error.says)
            else:
                raise error  # type: ignore[misc]
        self.over = True
        await self._clean_up(body, failed)

    async def _run(self) -> None:
        for name, machine in self.machines.items():
            rng = self.rng(f"clock/{name}")
            machine.rate = 1 + rng.uniform(-1, 1) * self.scenario.drift
            machine.start()
        working = [asyncio.create_task(client.run()) for client in self.clients]
        working.append(asyncio.create_task(self.governance.run()))
        if self.liar is not None:
            working.append(asyncio.create_task(self.liar.run()))
        await self._disturb()
        self.calm = True
        await heal(self)
        self.note("world", "healed", "")
        done, late = await asyncio.wait(working, timeout=RECOVERY_SECONDS)
        for task in done:
            task.result()
        if late:
            raise Violation("LIVE", f"{self._state()} {RECOVERY_SECONDS:g} s after healing, and actions still wait")
        await self._kept_promises()
        await self._in_step()
        await judge(self)

    async def _disturb(self) -> None:
        """Does one thing after another to the world, some of them at once, until the chaos is over."""
        rng, scenario = self.rng("chaos"), self.scenario
        end = self.loop.now + scenario.chaos_seconds
        self.hub.conditions = scenario.weather
        kinds = list(scenario.faults)
        async with asyncio.TaskGroup() as faults:
            while self.loop.now < end and kinds:
                await asyncio.sleep(rng.uniform(*scenario.every_seconds))
                kind = rng.choices(kinds, weights=[scenario.faults[name] for name in kinds])[0]
                self.reach(f"fault {kind}")
                faults.create_task(FAULTS[kind](self, rng), name=kind)

    async def _kept_promises(self) -> None:
        """Waits until everything is committed that was left to a node which has kept its memory, over clean stops."""
        deadline = self.loop.now + RECOVERY_SECONDS
        while open_ := [
            (action_id, machine)
            for action_id, (machine, losses) in self.promised.items()
            if machine.losses == losses and machine.node is not None and machine.node.ledger.receipt(action_id) is None
        ]:
            if self.loop.now > deadline:
                raise Violation("PROMISED", f"{open_[0][1].name} took {open_[0][0]}, and it was never committed")
            await asyncio.sleep(0.25)

    async def _in_step(self) -> None:
        """Waits until all have what anybody has."""
        deadline = self.loop.now + RECOVERY_SECONDS
        while True:
            heights = {m.name: m.node.ledger.height if m.node is not None else -1 for m in self.machines.values()}
            if min(heights.values()) >= max(self.blocks, default=0):
                return
            if self.loop.now > deadline:
                raise Violation("LIVE", f"not in step {RECOVERY_SECONDS:g} s after all was committed: {heights}")
            await asyncio.sleep(0.25)

    def _state(self) -> str:
        return ", ".join(
            f"{machine.name} {machine.node.ledger.height if machine.node else 'down'}"
            for machine in self.machines.values()
        )

    # What machines, clients and networks tell

    def acknowledge(self, client: str, machine: Machine, action: ActionEnvelope, receipt: dict[str, Any]) -> None:
        """Remembers that a client was told that its action is committed, where it must be for ever."""
        self.note(client, "is told", f"by {machine.name}: {action.action_id[:8]} is in block {receipt['height']}")
        if not receipt["ok"]:
            self.fail("ACKNOWLEDGED", f"{client}'s action was executed and refused: {receipt['message']}")
        self.acknowledged[action.action_id] = receipt["height"]

    def prepare(self, machine: Machine, network: SimulatedNetwork) -> None:
        """Lets a liar have its way with the network of its validator."""
        if self.liar is not None and machine.name == self.liar.name:
            self.liar.take(network)

    def committed(self, machine: Machine, bundle: BlockBundle) -> None:
        """Checks that a node commits what everybody commits."""
        height, block_hash = bundle.block.height, content_id(encode(bundle.block))
        known = self.blocks.setdefault(height, block_hash)
        round_ = f"{bundle.certificate.term}.{bundle.certificate.attempt}"
        text = f"{height} {block_hash[:8]} by {bundle.block.proposer_id} ({round_})"
        self.note(machine.name, "commits", f"{text}, {len(bundle.batch.actions)} actions", height=height)
        if known != block_hash:
            self.fail("AGREEMENT", f"{machine.name} committed {block_hash[:8]} at {height}, others {known[:8]}")

    def check_recovered(self, machine: Machine, ledger: Ledger) -> None:
        """Checks that a node still has what it had told somebody before it was killed."""
        if ledger.height < machine.height:
            self.fail("DURABLE", f"{machine.name} had told of {machine.height} and recovered {ledger.height}")
        for height in range(max(1, ledger.height - 3), ledger.height + 1):
            known, has = self.blocks.get(height), ledger.block_hash(height)
            if known is not None and has != known:
                self.fail("AGREEMENT", f"{machine.name} recovered {has} at {height}, others have {known}")
        lost = [key_id for key_id in machine.revoked if key_id not in ledger.revocations]
        if lost:
            self.fail("DURABLE", f"{machine.name} had taken the revocation of {lost[0]} and has forgotten it")

    def _published(self, peer_id: str, topic: str, payload: bytes) -> None:
        if self.liar is not None:
            self.liar.hear(topic, payload)
        if topic.endswith("consensus.vote"):
            self.ballots.cast(peer_id, topic, payload)
        elif topic.endswith("consensus.proposal"):
            self.ballots.propose(decode(ProposalBody, payload).proposal)
        elif topic.endswith("consensus.offer"):
            self.reach("proposal in parts")
            self.ballots.propose(decode(ProposalOffer, payload).proposal)

    def _unhandled(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error, task = context.get("exception"), context.get("future")
        if isinstance(task, SimulatedTask) and task.process is not None and not task.process.alive:
            return  # nobody was left to look at how it ended
        if not self.over and not isinstance(error, PowerCut):
            self.fail("ERROR", f"{context.get('message')}: {error!r}")

    async def _clean_up(self, *tasks: asyncio.Task[Any]) -> None:
        for task in tasks:
            task.cancel()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for machine in self.machines.values():
            machine.clean_up()
        for task in others:
            task.cancel()
        await asyncio.wait(others, timeout=600) if others else None
