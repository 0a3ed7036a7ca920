"""Signed actions and small states for tests of the world."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentworld_core.codec import encode_value
from agentworld_core.hashing import digest
from agentworld_core.messages import ActionEnvelope, Receipt, WorldEvent
from agentworld_core.signing import Ed25519Signer
from agentworld_core.world.actions import make_action, sign_action
from agentworld_core.world.kernel import StepInput, StepResult, step
from agentworld_core.world.state import META_KEY, Meta
from agentworld_core.world.tree import Tree

WORLD = "aurora"


def signer(name: str) -> Ed25519Signer:
    """The key that a name always has."""
    return Ed25519Signer(digest(name.encode()))


def action(
    actor: str, kind: str, payload: Mapping[str, Any], nonce: int, *, key: str = "", world: str = WORLD
) -> ActionEnvelope:
    """A signed action; the key is that of the actor's name unless another is named."""
    draft = make_action(
        world_id=world, actor_id=actor, kind=kind, payload=payload, nonce=nonce, timestamp_ms=1_000 + nonce
    )
    return sign_action(draft, signer(key or actor))


def register(actor: str, nonce: int = 0, *, at: tuple[int, int] = (0, 0), key: str = "") -> ActionEnvelope:
    """The action by which an agent enters the world."""
    return action(actor, "agent.register", {"position": list(at)}, nonce, key=key)


def empty_world() -> Tree:
    """A state before its first step."""
    return Tree.of({META_KEY: encode_value(Meta(tick=0, time_ms=0, next_event=1).to_value())})


class World:
    """A state that steps; remembers everything that happened."""

    def __init__(self) -> None:
        self.first = self.tree = empty_world()
        self.height = 0
        self.events: list[WorldEvent] = []

    def step(self, *actions: ActionEnvelope) -> StepResult:
        """Takes one step with these actions."""
        self.height += 1
        result = step(self.tree, StepInput(height=self.height, time_ms=self.height * 100, actions=actions))
        self.tree = result.tree
        self.events.extend(result.events)
        return result

    def do(self, *actions: ActionEnvelope) -> list[Receipt]:
        """Takes one step and returns the receipts."""
        return list(self.step(*actions).receipts)
