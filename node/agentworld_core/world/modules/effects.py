"""Effects that wait for their receipts: who may say what became of one, and when it is too late to say so.

A module asks for an effect, a capability and a policy allow it, and it waits in the state. Somebody outside of the
world carries it out and signs a receipt, which any agent may bring onto the ledger. The first valid one settles the
effect; one that nobody settles in time expires. Either way the effect waits no longer, and the event is routed to the
modules. Rules do not judge receipts: they tell what has happened, which no rule can undo.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from agentworld_core.signing import key_id_of, signed_bytes, verify_bytes
from agentworld_core.world.errors import ActionRefused
from agentworld_core.world.modules.apply import EFFECT_EXPIRED, EFFECT_SETTLED, Payload
from agentworld_core.world.modules.artifacts import Produced
from agentworld_core.world.modules.receipts import EffectReceipt, receipt_id, same_effect
from agentworld_core.world.modules.records import (
    EFFECT_DUE_PREFIX,
    EFFECTS_KEY,
    CapabilityRecord,
    EffectCount,
    EffectDue,
    EffectRecord,
    capability_key,
    effect_key,
)
from agentworld_core.world.state import Draft, read
from agentworld_core.world.tree import Tree


def settle(draft: Draft, receipt: EffectReceipt, *, world_id: str, tick: int, governors: Collection[str]) -> Produced:
    """Returns the events of a receipt that settles an effect; ``governors`` are the key ids that govern the height.

    Raises ActionRefused: ``wrong_world``, ``invalid_signature``, ``not_found`` for an effect that never was,
    ``expired`` and ``already_settled`` for one that waits no longer, ``hash_mismatch`` for a receipt of another effect,
    ``unauthorized`` for a key that the effect's capability does not name.
    """
    number, key_id = receipt.intent, key_id_of(receipt.public_key)
    if receipt.world_id != world_id:
        raise ActionRefused("wrong_world", "receipt.world_id: is another world")
    if not verify_bytes(receipt.public_key, receipt.signature, signed_bytes(receipt)):
        raise ActionRefused("invalid_signature", "receipt.signature: does not verify")
    count = draft.record(EFFECTS_KEY, EffectCount) or EffectCount()
    if not 0 < number < count.next:
        raise ActionRefused("not_found", f"receipt.intent: there has been no effect {number}")
    effect = draft.record(effect_key(number), EffectRecord)
    if effect is None:
        raise _closed(receipt, tick)
    field = same_effect(receipt, effect)
    if field is not None:
        raise ActionRefused("hash_mismatch", f"receipt.{field}: is not that of effect {number}")
    grant = draft.record(capability_key(effect.cap_ref), CapabilityRecord)
    if key_id not in governors and (grant is None or key_id not in grant.signers):
        raise ActionRefused("unauthorized", f"receipt.public_key: {effect.cap_ref} does not name {key_id}")
    settled: Payload = {
        "intent": number,
        "module_id": effect.module_id,
        "kind": effect.kind,
        "ref": effect.ref,
        "status": receipt.status,
        "result": receipt.result,
        "cost_cents": receipt.cost_cents,
        "signer": key_id,
        "receipt": receipt_id(receipt),
    }
    return [(EFFECT_SETTLED, settled)]


def expired(tree: Tree, tick: int) -> Iterator[tuple[str, Payload]]:
    """Yields the events of the effects whose last tick is over when a step begins, in the order of these ticks."""
    count = read(tree, EFFECTS_KEY, EffectCount)
    if count is None or not count.pending:
        return
    for key, _ in tree.items(EFFECT_DUE_PREFIX):
        due = read(tree, key, EffectDue)
        last = int(key[len(EFFECT_DUE_PREFIX) :].partition(b"/")[0])
        if due is None or last >= tick:
            return
        effect = read(tree, effect_key(due.intent), EffectRecord)
        if effect is not None:
            told: Payload = {"module_id": effect.module_id, "kind": effect.kind, "ref": effect.ref}
            yield EFFECT_EXPIRED, {"intent": due.intent, **told, "expires_tick": last}


def _closed(receipt: EffectReceipt, tick: int) -> ActionRefused:
    """Returns why an effect waits no longer, as far as the receipt tells: the state keeps nothing of closed ones."""
    if receipt.expires_tick and tick > receipt.expires_tick:
        says = f"receipt.expires_tick: effect {receipt.intent} has expired, or was settled before"
        return ActionRefused("expired", says)
    return ActionRefused("already_settled", f"receipt.intent: effect {receipt.intent} has its receipt")
