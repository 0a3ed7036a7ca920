"""Tells which actions are news to a node: neither waiting nor committed."""

from __future__ import annotations

from collections.abc import Sequence

from agentworld_core.messages import ActionEnvelope
from agentworld_core.ordering.mempool import Mempool
from agentworld_core.world.actions import Actors
from agentworld_node.ledger import Ledger

ACTORS_KEPT = 20_000


class Newcomers:
    """Compares actions with the mempool and the ledger; everything happens on one event loop."""

    def __init__(self, *, ledger: Ledger, mempool: Mempool):
        self._ledger = ledger
        self._mempool = mempool
        self._actors = Actors(ledger.chain.tree)

    def actors(self) -> Actors:
        """Returns the actors of the head's state: read once for all that comes while it is the head, up to a limit."""
        state = self._ledger.chain.tree
        if self._actors.state is not state or len(self._actors) > ACTORS_KEPT:
            self._actors = Actors(state)
        return self._actors

    def among(self, actions: Sequence[ActionEnvelope], *, since: int | None = None) -> list[ActionEnvelope]:
        """Returns the actions that neither wait nor are committed; none of those that were unknown at height ``since``
        can be committed as long as that is the height.

        The index is asked about those alone whose nonces are spent: whatever has been executed has used its nonce up.
        Who claims the id of another action counts as new here, and is found out when the action is judged.
        """
        fresh = [action for action in actions if action.action_id not in self._mempool]
        if since == self._ledger.height:
            return fresh
        nonces = self.actors().nonces
        spent = [one.action_id for one in fresh if not nonces(one.actor_id, one.public_key).usable(one.nonce)]
        if not spent:
            return fresh
        committed = self._ledger.committed(spent)
        return [action for action in fresh if action.action_id not in committed]
