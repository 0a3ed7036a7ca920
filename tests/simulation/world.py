"""A whole world under one seed: which faults there are, how long, and then whether it recovers."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from agentworld_core.codec import decode
from agentworld_core.errors import AgentWorldError
from agentworld_core.membership.builder import Changes, with_member
from agentworld_core.membership.directory import BYZANTINE, CRASH
from agentworld_core.messages import ActionEnvelope, Directory
from tests.simulation.adversary import Liar, Twin
from tests.simulation.kernel import Kernel, Violation
from tests.simulation.lease_store import LeaseStore
from tests.simulation.net import Net, Weather
from tests.simulation.node import SimNode
from tests.simulation.oracles import Oracles
from tests.unit.core.membership.worlds import first_directory, member, signer, statement, successor
from tests.unit.core.ordering.actions import action

T = TypeVar("T")
CHAOS_MS = 12_000
RECOVERY_MS = 60_000


@dataclass
class Scenario:
    """Which faults a seed turns on: each run has some of them, so that each has room to do harm."""

    members: dict[str, int]
    fault_model: str
    faulty: list[str] = field(default_factory=list)
    lies: bool = False
    leaseless: bool = False
    block_interval_ms: int = 0
    weather: Weather = field(default_factory=Weather)
    partitions: bool = False
    crashes: bool = False
    pauses: bool = False
    lease_faults: bool = False
    lease_split: bool = False
    disasters: bool = False
    revocation: bool = False
    joining: bool = False

    @staticmethod
    def draw(rng: random.Random) -> Scenario:
        """Draws a scenario."""
        crash_model = rng.random() < 0.15
        count = rng.choice((1, 3, 5)) if crash_model else rng.choice((1, 4, 4, 4, 5, 7))
        names = [f"v{number}" for number in range(count)]
        weights = {name: rng.choice((1, 1, 1, 2)) if rng.random() < 0.3 else 1 for name in names}
        scenario = Scenario(members=weights, fault_model=CRASH if crash_model else BYZANTINE)
        if not crash_model and rng.random() < 0.6:
            spare = (sum(weights.values()) - 1) // 3
            if weights[names[-1]] <= spare:
                scenario.faulty = [names[-1]]
                scenario.lies = rng.random() < 0.5
        scenario.leaseless = rng.random() < 0.15
        scenario.block_interval_ms = rng.choice((0, 0, 200))
        if rng.random() < 0.8:
            scenario.weather = Weather(
                loss=rng.choice((0, 0.05, 0.2, 0.4)), repeat=rng.choice((0, 0.2)), slow=rng.choice((0, 0.05, 0.3))
            )
        for fault, chance in (
            ("partitions", 0.5),
            ("crashes", 0.6),
            ("pauses", 0.3),
            ("lease_faults", 0.4),
            ("lease_split", 0.15),
            ("disasters", 0.1),
            ("revocation", 0.4 if scenario.faulty else 0),
            ("joining", 0.25 if count > 1 else 0),
        ):
            setattr(scenario, fault, rng.random() < chance)
        return scenario


class World:
    """Nodes, network, lease service, clients and chaos of one seed."""

    def __init__(
        self, seed: int, *, node_class: type[SimNode] = SimNode, adjust: Callable[[Scenario], None] = lambda _: None
    ):
        self.kernel = Kernel(seed)
        self.rng = self.kernel.rng("world")
        self.scenario = Scenario.draw(self.kernel.rng("scenario"))
        adjust(self.scenario)
        self.first_directory: Directory = first_directory(self.scenario.members, fault_model=self.scenario.fault_model)
        self.net = Net(self.kernel, self.scenario.weather)
        self.lease_store = LeaseStore(self.kernel)
        self.faulty = self.scenario.faulty
        self.oracles = Oracles(self)
        self.refused: dict[str, int] = {}
        self._decoded: dict[tuple[type[Any], bytes], Any] = {}
        names = [name for name in self.scenario.members if name not in self.faulty]
        if self.scenario.joining:
            names.append("joiner")
        self.honest = [node_class(self, name, name) for name in names]
        self.twins = [Twin(self, f"{name}-{number}", name) for name in self.faulty for number in (1, 2)]
        self.liar = Liar(self, self.faulty[0]) if self.faulty and self.scenario.lies else None
        self.clients: list[ActionEnvelope] = []
        self.chaos = True

    @property
    def nodes(self) -> list[SimNode]:
        """All nodes."""
        return [*self.honest, *self.twins]

    def decode(self, cls: type[T], data: bytes) -> T:
        """Decodes once what many receive."""
        key = (cls, data)
        if key not in self._decoded:
            self._decoded[key] = decode(cls, data)
        decoded: T = self._decoded[key]
        return decoded

    def count_refused(self, kind: str, error: AgentWorldError) -> None:
        """Counts what nodes refuse."""
        key = f"{kind} {error.code}"
        self.refused[key] = self.refused.get(key, 0) + 1

    def run(self) -> None:
        """Runs chaos, heals, and requires progress; raises Violation."""
        self.kernel.note(f"scenario {self.scenario}")
        for node in self.nodes:
            node.boot()
        self._client(0)
        self._chaos()
        if self.scenario.revocation:
            self.kernel.after(self.rng.randrange(CHAOS_MS), self._revoke)
        if self.scenario.joining:
            self.kernel.after(self.rng.randrange(CHAOS_MS), self._let_join)
        self.kernel.run(CHAOS_MS)
        self._heal()
        self._require_progress()
        self.oracles.finish()

    # Clients

    def _client(self, number: int) -> None:
        """Hands in an action now and then, and again what is not acknowledged."""
        if not self.chaos:
            return
        made = action(f"actor-{number % 3}", number)
        self.clients.append(made)
        for waiting in self.clients:
            if waiting.action_id not in self.oracles.acks and self.rng.random() < 0.3:
                self._submit(waiting)
        self._submit(made)
        self.kernel.after(self.rng.choice((50, 400, 3000)), lambda: self._client(number + 1))

    def _submit(self, made: ActionEnvelope) -> None:
        node = self.rng.choice(self.honest)
        if node.up and node.paused_until <= self.kernel.now:
            node.submit(made)

    # Chaos

    def _chaos(self) -> None:
        if not self.chaos:
            return
        scenario, rng = self.scenario, self.rng
        kinds = ("partitions", "crashes", "pauses", "lease_faults", "lease_split", "disasters")
        enabled = [kind for kind in kinds if getattr(scenario, kind)]
        if enabled:
            getattr(self, f"_chaos_{rng.choice(enabled)}")()
        self.kernel.after(rng.randint(100, 2500), self._chaos)

    def _chaos_partitions(self) -> None:
        ends = self.net.ends
        self.rng.shuffle(ends)
        cut = self.rng.randint(0, len(ends))
        if cut in (0, len(ends)):
            self.net.join()
        else:
            self.net.split([ends[:cut], ends[cut:]])

    def _chaos_crashes(self) -> None:
        count = self.rng.choice((1, 1, 2, len(self.nodes)))
        for node in self.rng.sample(self.nodes, min(count, len(self.nodes))):
            if node.up:
                node.crash()
                self.kernel.after(self.rng.choice((1, 300, 3000)), node.boot_if_down)

    def _chaos_pauses(self) -> None:
        node = self.rng.choice(self.nodes)
        node.paused_until = self.kernel.now + self.rng.choice((500, 3000, 9000))
        self.kernel.note(f"{node.end} pauses")

    def _chaos_lease_faults(self) -> None:
        if self.rng.random() < 0.3:
            self.lease_store.lose()
        else:
            self.lease_store.away = not self.lease_store.away

    def _chaos_lease_split(self) -> None:
        if self.rng.random() < 0.5:
            self.lease_store.join()
        else:
            self.lease_store.split({node.name: self.rng.randrange(2) for node in self.nodes})

    def _chaos_disasters(self) -> None:
        """The power goes everywhere at once, and the lease is lost with it."""
        self.lease_store.lose()
        for node in self.nodes:
            if node.up:
                node.crash()
                self.kernel.after(self.rng.choice((100, 2000)), node.boot_if_down)

    def _revoke(self) -> None:
        key_id = signer(self.faulty[0]).key_id
        revocation = statement(key_id, "gov")
        for node in self.honest:
            if node.up:
                self.kernel.note(f"{node.end} is told of a revocation")
                node.handle_revocation(revocation)
                return
        self.kernel.after(100, self._revoke)

    def _let_join(self) -> None:
        newest = self.honest[0].chain.keyring.newest
        if newest.epoch == 1:
            proposed = successor(newest, Changes(members=with_member(newest, member("joiner"))))
            for node in self.honest:
                if node.up and node.chain.keyring.newest.epoch == 1:
                    node.handle_directory(proposed)
            self.kernel.after(2000, self._let_join)

    # Recovery

    def _heal(self) -> None:
        self.kernel.note("all is healed")
        self.chaos = False
        self.net.join()
        self.net.weather = Weather()
        self.lease_store.away = False
        self.lease_store.join()
        for node in self.nodes:
            node.paused_until = 0
            node.boot_if_down()

    def _require_progress(self) -> None:
        """After healing, an action handed in to one honest node must be committed by all of them in time."""
        last = action("last", 10**6)
        self._submit(last)

        def done() -> bool:
            return all(last.action_id in node.chain.applied for node in self.honest)

        if not self.kernel.run(CHAOS_MS + RECOVERY_MS, done=done):
            state = [f"{node.end}:{node.chain.height} in {node.engine.round}" for node in self.honest]
            raise Violation("LIVE", f"no progress after healing: {', '.join(state)}")
        took = self.kernel.now - CHAOS_MS
        self.kernel.note(f"progress after {took} ms")
