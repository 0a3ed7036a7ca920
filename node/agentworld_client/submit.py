"""Signs an agent's actions and submits them so that each is taken once, whatever is tried again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from agentworld_client.errors import GatewayError, GatewayUnreachable
from agentworld_client.gateway import GatewayClient, unanswered
from agentworld_core.codec import Value, encode
from agentworld_core.messages import ActionEnvelope
from agentworld_core.signing import Ed25519Signer
from agentworld_core.world.actions import make_action, sign_action

SUBMIT_CHUNK = 256
SUBMIT_BYTES = 2 * 1024 * 1024


class Agent:
    """One agent of one world: an id, a key, and nonces that only grow.

    Nonces start at the current time in microseconds, so that an agent that is started again never uses one twice, and
    needs no file for it.
    """

    def __init__(
        self,
        signer: Ed25519Signer,
        *,
        world_id: str,
        actor_id: str,
        clock: Callable[[], int] = time.time_ns,
    ):
        self.signer = signer
        self.world_id = world_id
        self.actor_id = actor_id
        self._nonce = clock() // 1000

    def act(self, kind: str, payload: Mapping[str, Value]) -> ActionEnvelope:
        """Returns the next signed action of this agent."""
        self._nonce += 1
        action = make_action(
            world_id=self.world_id,
            actor_id=self.actor_id,
            kind=kind,
            payload=payload,
            nonce=self._nonce,
            timestamp_ms=time.time_ns() // 1_000_000,
        )
        return sign_action(action, self.signer)


async def submit_all(
    client: GatewayClient, actions: Sequence[ActionEnvelope], *, wait: bool = False
) -> list[dict[str, Any]]:
    """Submits any number of actions in requests that a gateway takes and returns their receipts in order.

    When a request fails as a whole no more is sent, and the error stands in the place of all further receipts; it is
    raised when there are none before.
    """
    receipts: list[dict[str, Any]] = []
    for chunk in _chunks(actions):
        try:
            receipts += await client.submit(chunk, wait=wait)
        except (GatewayError, GatewayUnreachable) as error:
            if not receipts:
                raise
            return receipts + unanswered(actions[len(receipts) :], error)
    return receipts


def _chunks(actions: Sequence[ActionEnvelope]) -> Iterator[list[ActionEnvelope]]:
    chunk: list[ActionEnvelope] = []
    size = 0
    for action in actions:
        length = len(encode(action))
        if chunk and (len(chunk) >= SUBMIT_CHUNK or size + length > SUBMIT_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(action)
        size += length
    if chunk:
        yield chunk
