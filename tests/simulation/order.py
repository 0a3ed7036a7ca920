"""What clients were told must fit one order of all actions, which is the one of the chain (oracle I7).

The chain is the witness, so there is no need to search for an order (Wing and Gong 1993): it is enough that it agrees
with time. An action that was confirmed before another one was handed in comes before it; a read gives the state of the
height that it names, and a gateway never shows less than what it has shown or confirmed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agentworld_core.messages import BlockBundle
from agentworld_core.world.state import read_agent
from agentworld_core.world.tree import Tree
from tests.simulation.kernel import Violation

Place = tuple[int, int] | None


@dataclass(frozen=True)
class Read:
    """What a gateway showed of an agent."""

    gateway: str
    height: int
    actor: str
    place: Place


def place_of(tree: Tree, actor: str) -> Place:
    """Returns where an agent is in a state, None where it is not registered."""
    agent = read_agent(tree, actor)
    return None if agent is None else (agent.x, agent.y)


class Order:
    """Every action with when it was handed in and confirmed, and every read."""

    def __init__(self) -> None:
        self._handed_in: dict[str, int] = {}
        self._confirmed: dict[str, int] = {}
        self._shown: dict[str, int] = {}
        self._reads: dict[int, list[Read]] = {}

    def handed_in(self, action_id: str, now: int) -> None:
        """A client hands in an action, maybe again."""
        self._handed_in.setdefault(action_id, now)

    def confirmed(self, action_id: str, now: int) -> None:
        """A client was told that its action is committed, maybe again."""
        self._confirmed.setdefault(action_id, now)

    def has_confirmed(self, gateway: str, height: int) -> None:
        """A gateway has told of a height."""
        self._shown[gateway] = max(height, self._shown.get(gateway, 0))

    def was_read(self, read: Read) -> None:
        """A client has read; raises Violation when the gateway has gone back."""
        shown = self._shown.get(read.gateway, 0)
        if read.height < shown:
            raise Violation("I7", f"{read.gateway} shows height {read.height} after {shown}")
        self.has_confirmed(read.gateway, read.height)
        self._reads.setdefault(read.height, []).append(read)

    def check_order(self, bundles: Iterable[BlockBundle]) -> None:
        """Raises Violation when the chain orders two actions against the order in which clients saw them."""
        latest, later = -1, ""
        placed: dict[str, None] = {}
        for bundle in bundles:
            for action in bundle.batch.actions:
                if action.action_id in placed:
                    continue  # a block may hold an action again, which is refused then
                placed[action.action_id] = None
                confirmed = self._confirmed.get(action.action_id)
                if confirmed is not None and confirmed < latest:
                    says = f"{action.action_id[:8]} was confirmed at {confirmed}, and comes after {later[:8]}"
                    raise Violation("I7", f"{says}, which was handed in at {latest}")
                handed_in = self._handed_in.get(action.action_id, -1)
                if handed_in > latest:
                    latest, later = handed_in, action.action_id

    def check_reads(self, height: int, tree: Tree) -> None:
        """Raises Violation when a read of this height shows anything but its state."""
        for read in self._reads.get(height, ()):
            expected = place_of(tree, read.actor)
            if read.place != expected:
                says = f"{read.gateway} shows {read.actor} at {read.place} in height {height}"
                raise Violation("I7", f"{says}, where it is at {expected}")
