"""What whoever carries out effects needs: which ones wait, what they ask for, and how a receipt gets onto the ledger.

A worker holds a key that the capability of the effect names. It reads what a module asked for from the journal of the
block that queued it, which must have the hash that the state names, does it, signs a receipt, and brings it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from agentworld_client.errors import ActionNotTaken
from agentworld_client.gateway import GatewayClient
from agentworld_client.governor import read_value
from agentworld_client.history import fetch_events
from agentworld_client.submit import Agent
from agentworld_core.codec import Value
from agentworld_core.errors import HashMismatch, NotFound
from agentworld_core.world.actions import AGENT_REGISTER
from agentworld_core.world.modules.apply import EFFECT_QUEUED
from agentworld_core.world.modules.governance_actions import EFFECT_SETTLE
from agentworld_core.world.modules.receipts import make_receipt, params_hash_of, sign_receipt
from agentworld_core.world.modules.records import EffectRecord, effect_key
from agentworld_core.world.state import agent_key

_PREFIX = "effect/"


@dataclasses.dataclass(frozen=True, kw_only=True)
class WaitingEffect:
    """An effect that waits for its receipt, and under which number."""

    intent: int
    record: EffectRecord

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"intent": self.intent, **dataclasses.asdict(self.record)}


async def waiting_effects(client: GatewayClient) -> list[WaitingEffect]:
    """Returns the effects that wait, oldest first, as the node says."""
    return [
        WaitingEffect(intent=int(entry["key"].removeprefix(_PREFIX)), record=EffectRecord.from_value(entry["value"]))
        for entry in await client.state_entries(_PREFIX)
    ]


async def read_effect(client: GatewayClient, intent: int) -> EffectRecord:
    """Returns an effect that waits; raises NotFound for one that does not."""
    value = await read_value(client, effect_key(intent))
    if value is None:
        raise NotFound("no such effect waits for a receipt", field="effect", value=intent)
    return EffectRecord.from_value(value)


async def read_params(client: GatewayClient, intent: int, effect: EffectRecord) -> Value:
    """Returns what an effect asks for; raises HashMismatch unless it has the hash that the state names."""
    # A block is one tick, so the tick is the height.
    bundle = await client.block(effect.tick)
    for event in await fetch_events(client, bundle):
        payload = event.payload
        if event.kind == EFFECT_QUEUED and isinstance(payload, dict) and payload.get("intent") == intent:
            params: Value = payload["params"]
            if params_hash_of(params) != effect.params_hash:
                raise HashMismatch("are not those of the effect", field="params", value=effect.params_hash)
            return params
    raise NotFound(f"block {effect.tick} queues no such effect", field="effect", value=intent)


class EffectWorker:
    """One agent that brings receipts which its own key signs."""

    def __init__(self, client: GatewayClient, agent: Agent):
        self._client = client
        self._agent = agent

    async def register(self) -> None:
        """Makes the agent known to the world, unless it is."""
        if await read_value(self._client, agent_key(self._agent.actor_id)) is None:
            await self._take(AGENT_REGISTER, {"position": [0, 0]})

    async def settle(self, intent: int, *, status: str, result: Value, cost_cents: int | None = None) -> dict[str, Any]:
        """Signs what became of an effect and returns the receipt of the action that settled it.

        Raises NotFound when no such effect waits, ActionNotTaken with the code of the refusal when the world does not
        take it: ``unauthorized`` unless governance or the capability names the key.
        """
        effect = await read_effect(self._client, intent)
        receipt = make_receipt(
            effect,
            world_id=self._agent.world_id,
            intent=intent,
            status=status,
            result=result,
            cost_cents=cost_cents,
        )
        return await self.bring(sign_receipt(receipt, self._agent.signer))

    async def bring(self, receipt: bytes) -> dict[str, Any]:
        """Brings a receipt that somebody has signed; the same errors as ``settle``."""
        return await self._take(EFFECT_SETTLE, {"receipt": receipt})

    async def _take(self, kind: str, payload: dict[str, Value]) -> dict[str, Any]:
        (receipt,) = await self._client.submit([self._agent.act(kind, payload)], wait=True)
        refused = receipt.get("error", receipt if receipt.get("ok") is False else None)
        if refused is not None:
            raise ActionNotTaken(refused["code"], refused["message"])
        return receipt
