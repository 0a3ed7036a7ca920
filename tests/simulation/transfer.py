"""What one node does with a wish that another one writes: asks the target, stops building, writes the lease over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentworld_core.codec import encode
from agentworld_core.ordering.transfer import Readiness, Writer, WriterTransfer, check_term, check_transfer
from agentworld_core.signing import add_signature
from tests.unit.core.membership.worlds import WORLD, signer

if TYPE_CHECKING:
    from tests.simulation.node import SimNode

MOST_BEHIND = 2
FINISHES_MS = 500
GIVES_UP_MS = 2000
WISH_MS = 60_000


def wish_of(target: str, term: int, *, now_ms: int) -> WriterTransfer:
    """Returns the wish that the target writes, signed by governance."""
    unsigned = WriterTransfer(WORLD, target, term=term, expires_at_ms=now_ms + WISH_MS, signatures=())
    return add_signature(unsigned, signer("gov"))


class Transfer:
    """The hand-over that one node has in hand, if any; a crash forgets it."""

    def __init__(self, node: SimNode):
        self.node = node
        self.successor: str | None = None
        self._writes = False
        self._asked: str | None = None

    @property
    def builds(self) -> bool:
        """False while this node is about to give the lease away."""
        return self.successor is None

    @property
    def heir(self) -> str | None:
        """Who is to get the lease now."""
        return self.successor if self._writes else None

    def wished(self, wish: WriterTransfer) -> None:
        """Takes up a wish if this node holds the lease, and asks the target; the same errors as production."""
        node = self.node
        term, holder = node.keeper.view(node.now)
        if holder != node.name or not node.keeper.is_held(node.now):
            return
        directory = node.chain.keyring.at(node.chain.height + 1)
        check_transfer(wish, directory, revoked_key_ids=node.revoked(), now_ms=node.wall_time)
        check_term(wish, Writer(holder, term))
        if wish.target_id != node.name and self.successor is None:
            self._asked = wish.target_id
            self._send(wish.target_id, ("ready-wanted", encode(Writer(node.name, term))))

    def asked(self, source: str) -> None:
        """Answers whether this node could write."""
        node = self.node
        reason = None if node.engine.is_validator and node.up else "is no validator"
        node.world.net.send(node.end, source, ("ready", encode(Readiness(reason, node.chain.height))))

    def answered(self, source: str, readiness: Readiness) -> None:
        """Begins to hand over if the target could write; what is being decided gets half a second."""
        node, target = self.node, self._asked
        if target is None or readiness.reason is not None or readiness.height + MOST_BEHIND < node.chain.height:
            return
        if source not in self._ends_of(target):
            return
        self._asked, self.successor = None, target
        node.later(FINISHES_MS if node.engine.in_progress else 0, self._write)
        node.later(GIVES_UP_MS, self._end)

    def written(self, term: int) -> None:
        """The successor has the lease: everybody should look."""
        if self.successor is not None:
            self.node.kernel.reach("handed the lease over")
            self.node.send(("lease-changed", encode(Writer(self.successor, term))))
            self._end()

    def _write(self) -> None:
        if self.successor is not None:
            self._writes = True
            self.node.keep_lease()

    def _end(self) -> None:
        self.successor, self._writes = None, False

    def _send(self, name: str, frame: tuple[str, bytes]) -> None:
        for end in self._ends_of(name):
            self.node.world.net.send(self.node.end, end, frame)

    def _ends_of(self, name: str) -> list[str]:
        return [node.end for node in self.node.world.nodes if node.name == name]
