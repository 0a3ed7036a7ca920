"""The actions of a step as modules see them: each is read once, when it is first needed, by its turn or ahead of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from agentworld_core.messages import ActionEnvelope
from agentworld_core.world.actions import parse_payload
from agentworld_core.world.errors import ActionRefused
from agentworld_core.world.modules.governance import GOVERNANCE_KINDS
from agentworld_core.world.modules.output import ActionView


class Upcoming:
    """The actions of one step; ``handles`` tells which kinds the modules take that the kernel has no rule for."""

    def __init__(self, actions: Sequence[ActionEnvelope], handles: Callable[[str], bool]):
        self._actions = actions
        self._handles = handles
        self._views: dict[int, ActionView | None] = {}

    def at(self, position: int) -> ActionView | None:
        """Returns the action at a position, None when its payload is refused."""
        if position not in self._views:
            self._views[position] = self._read(self._actions[position])
        return self._views[position]

    def after(self, position: int) -> Iterator[ActionView]:
        """Yields the actions behind a position that modules may be called for, as far as their payloads can tell."""
        for following in range(position + 1, len(self._actions)):
            view = self.at(following)
            if view is not None and view.kind not in GOVERNANCE_KINDS:
                yield view

    def _read(self, action: ActionEnvelope) -> ActionView | None:
        kind = action.action_kind
        try:
            payload = parse_payload(action, custom=self._handles(kind))
        except ActionRefused:
            return None
        return ActionView.of(action.action_id, action.actor_id, kind=kind, payload=payload)
