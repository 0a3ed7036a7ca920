"""Signs an agent's actions and submits them so that each is taken once, whatever is tried again."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

from agentworld_client.gateway import GatewayClient
from agentworld_core.codec import Value, encode_value
from agentworld_core.hashing import content_id
from agentworld_core.messages import ActionEnvelope
from agentworld_core.signing import Ed25519Signer, sign, unsigned_id

SUBMIT_CHUNK = 256


def sign_action(
    signer: Ed25519Signer, *, world_id: str, actor_id: str, kind: str, payload: Value, nonce: int
) -> ActionEnvelope:
    """Returns a signed action; the same arguments within one millisecond give the same action id."""
    return sign_envelope(
        signer,
        ActionEnvelope(
            world_id=world_id,
            action_id="",
            actor_id=actor_id,
            action_kind=kind,
            payload_cbor=encode_value(payload),
            payload_hash="",
            nonce=nonce,
            timestamp_ms=time.time_ns() // 1_000_000,
            signature=b"",
            public_key=signer.public_key,
        ),
    )


def sign_envelope(signer: Ed25519Signer, draft: ActionEnvelope) -> ActionEnvelope:
    """Returns the draft with payload hash, public key, action id and signature filled in."""
    prepared = dataclasses.replace(
        draft,
        action_id="",
        signature=b"",
        public_key=signer.public_key,
        payload_hash=content_id(draft.payload_cbor),
    )
    return sign(dataclasses.replace(prepared, action_id=unsigned_id(prepared)), signer)


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

    def act(self, kind: str, payload: Value) -> ActionEnvelope:
        """Returns the next signed action of this agent."""
        self._nonce += 1
        return sign_action(
            self.signer,
            world_id=self.world_id,
            actor_id=self.actor_id,
            kind=kind,
            payload=payload,
            nonce=self._nonce,
        )


async def submit_all(
    client: GatewayClient, actions: Sequence[ActionEnvelope], *, wait: bool = False
) -> list[dict[str, Any]]:
    """Submits any number of actions in requests of at most 256 and returns their receipts in order."""
    receipts: list[dict[str, Any]] = []
    for start in range(0, len(actions), SUBMIT_CHUNK):
        receipts += await client.submit(actions[start : start + SUBMIT_CHUNK], wait=wait)
    return receipts
