"""Signed actions for tests of the mempool and of batches."""

from __future__ import annotations

from agentworld_core.messages import ActionEnvelope
from agentworld_core.world.actions import make_action, sign_action
from tests.unit.core.membership.worlds import WORLD, signer


def action(actor: str, nonce: int, *, padding: int = 0) -> ActionEnvelope:
    """A signed action of an actor; ``padding`` bytes make it larger."""
    payload = {"to": "b", "text": "x" * padding}
    envelope = make_action(
        world_id=WORLD, actor_id=actor, kind="message.send", payload=payload, nonce=nonce, timestamp_ms=5
    )
    return sign_action(envelope, signer(actor))
