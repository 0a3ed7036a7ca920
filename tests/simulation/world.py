"""A whole world under one seed: chaos for a while, and then whether it recovers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from agentworld_core.codec import decode
from agentworld_core.errors import AgentWorldError
from agentworld_core.messages import ActionEnvelope, Directory
from tests.simulation.adversary import Liar, Twin
from tests.simulation.chain import Admissions, Executions, action, beginning
from tests.simulation.chaos import Chaos
from tests.simulation.governor import Governor, StandIn
from tests.simulation.history import History
from tests.simulation.kernel import Kernel, Violation
from tests.simulation.lease_store import LeaseStore
from tests.simulation.net import Net
from tests.simulation.node import SimNode
from tests.simulation.oracles import Oracles
from tests.simulation.order import Read
from tests.simulation.scenario import CALM, Scenario, draw
from tests.unit.core.membership.worlds import first_directory

T = TypeVar("T")
RETRIED_AT_ONCE = 4
JOINERS = ("j1", "j2")
Adjust = Callable[[Scenario], Scenario]


def as_drawn(scenario: Scenario) -> Scenario:
    """Changes nothing."""
    return scenario


@dataclass(frozen=True)
class Setup:
    """What a world is made with besides its seed: another kind of node, changes of the scenario, a full history."""

    node_class: type[SimNode] = SimNode
    adjust: Adjust = as_drawn
    history: bool = False


@dataclass
class Clients:
    """The actions that were handed in, and those of them that nobody has acknowledged yet."""

    made: int = 0
    by_id: dict[str, ActionEnvelope] = field(default_factory=dict)
    waiting: dict[str, ActionEnvelope] = field(default_factory=dict)


class World:
    """Nodes, network, lease service, clients and chaos of one seed."""

    def __init__(self, seed: int, setup: Setup | None = None):
        setup = setup or Setup()
        self.kernel = Kernel(seed, History(full=setup.history))
        self.rng = self.kernel.rng("world")
        self.scenario = setup.adjust(draw(self.kernel.rng("scenario")))
        self.first_directory: Directory = first_directory(self.scenario.members, fault_model=self.scenario.fault_model)
        self.sandbox = StandIn()
        self.beginning = beginning(self.first_directory, leaseless=self.scenario.leaseless, sandbox=self.sandbox)
        self.executions = Executions()
        self.admissions = Admissions()
        self.net = Net(self.kernel, self.scenario.weather)
        self.lease_store = LeaseStore(self.kernel)
        self.faulty = self.scenario.faulty
        self.oracles = Oracles(self)
        self.refused: dict[str, int] = {}
        self._decoded: dict[tuple[type[Any], bytes], Any] = {}
        names = [name for name in self.scenario.members if name not in self.faulty]
        if "membership" in self.scenario.faults:
            names.extend(JOINERS)
        self.honest = [setup.node_class(self, name, name) for name in names]
        self.twins = [Twin(self, f"{name}-{number}", name) for name in self.faulty for number in (1, 2)]
        self.nodes: list[SimNode] = [*self.honest, *self.twins]
        self.liars = [Liar(self, name) for name in self.faulty if self.scenario.lies]
        self.clients = Clients()
        self.chaos = Chaos(self)

    def decode(self, cls: type[T], data: bytes) -> T:
        """Decodes once what many receive."""
        key = (cls, data)
        decoded: T | None = self._decoded.get(key)
        if decoded is None:
            decoded = self._decoded[key] = decode(cls, data)
        return decoded

    def count_refused(self, kind: str, error: AgentWorldError) -> None:
        """Counts what nodes refuse."""
        key = f"{kind} {error.code}"
        self.refused[key] = self.refused.get(key, 0) + 1

    def run(self) -> None:
        """Runs chaos, heals, and requires progress; raises Violation."""
        for line in self.scenario.describe():
            self.kernel.note("world", "scenario", line)
        for node in self.nodes:
            node.boot()
        for liar in self.liars:
            liar.start()
        self._client()
        if self.scenario.governs:
            Governor(self).turn()
        self.kernel.after(self.rng.randint(0, 500), self.chaos.step)
        self.kernel.run(self.scenario.chaos_ms)
        self.chaos.stop()
        self.net.set_weather(CALM)
        self._require_progress()
        self.oracles.finish()

    # Clients

    def _client(self) -> None:
        """Hands in an action now and then, and again what is not acknowledged."""
        if not self.chaos.running:
            return
        clients = self.clients
        self.kernel.after(self.rng.choice(self.scenario.pauses_between_actions), self._client)
        for waiting in list(itertools.islice(clients.waiting.values(), RETRIED_AT_ONCE)):
            if waiting.action_id in self.oracles.acks:
                del clients.waiting[waiting.action_id]
            elif self.rng.random() < 0.3:
                self.submit(waiting)
        if self.rng.random() < 0.3:
            self._read()
        if self.scenario.most_actions is not None and clients.made >= self.scenario.most_actions:
            return
        made = action(f"actor-{clients.made % self.scenario.actors}", clients.made // self.scenario.actors)
        clients.made += 1
        clients.by_id[made.action_id] = made
        clients.waiting[made.action_id] = made
        self.submit(made)

    def submit(self, made: ActionEnvelope) -> None:
        """Hands an action in to somebody."""
        node = self.rng.choice(self.honest)
        if node.up and node.paused_until <= self.kernel.now:
            self.oracles.order.handed_in(made.action_id, self.kernel.now)
            node.submit(made)

    def _read(self) -> None:
        node = self.rng.choice(self.honest)
        if node.up and node.paused_until <= self.kernel.now:
            actor = f"actor-{self.rng.randrange(self.scenario.actors)}"
            height, place = node.read(actor)
            self.oracles.order.was_read(Read(node.end, height, actor, place))

    # Recovery

    def _require_progress(self) -> None:
        """After healing, an action handed in to one honest node must be committed by all of them in time."""
        healed = self.kernel.now
        within = self.scenario.recovery_ms
        last = action("last", 0)
        self.clients.by_id[last.action_id] = last

        def submit() -> None:
            # A client tries again, elsewhere, what it has no answer to: the first node may be full or fall behind.
            self.submit(last)
            self.kernel.after(1000, submit)

        def done() -> bool:
            return all(last.action_id in node.chain.applied for node in self.honest)

        def informed() -> bool:
            known = [node.chain.keyring.revoked_key_ids for node in self.honest]
            return all(keys == known[0] for keys in known) and self.oracles.accusations.all_named(self.honest)

        submit()
        if not self.kernel.run(healed + within, done=done):
            state = [f"{node.end}:{node.chain.height} in {node.engine.round}" for node in self.honest]
            raise Violation("LIVE", f"no progress after healing: {', '.join(state)}")
        self.kernel.run(healed + within, done=informed)
        self.kernel.note("world", "recovered", f"after {self.kernel.now - healed} ms")
