"""The receipt of an effect: what became of it, signed by who carried it out.

It repeats what the effect is (kind, hash of the parameters, last tick), so that by itself it says what its signer
claims to have done, and so that it cannot be taken for a receipt of anything else.
"""

from __future__ import annotations

from agentworld_core.codec import (
    U64,
    Hash,
    Id,
    Kind,
    PublicKey,
    ShortText,
    Signature,
    Value,
    decode,
    encode,
    encode_value,
    message,
)
from agentworld_core.errors import AgentWorldError, InvalidField, TooLarge
from agentworld_core.hashing import content_id
from agentworld_core.signing import Signer, sign
from agentworld_core.world.modules.records import EffectRecord

DONE = "done"
FAILED = "failed"
STATUSES = (DONE, FAILED)
MAX_RESULT_BYTES = 16 * 1024
MAX_RECEIPT_BYTES = MAX_RESULT_BYTES + 1024
MAX_COST_CENTS = 2**53 - 1


@message(50, "effect_receipt")
class EffectReceipt:
    """What became of an effect, signed by who carried it out; it names the effect's kind, parameters and last tick."""

    world_id: Id
    intent: U64
    kind: Kind
    params_hash: Hash
    expires_tick: U64
    status: ShortText
    result: Value
    cost_cents: U64 | None
    public_key: PublicKey
    signature: Signature


def params_hash_of(params: Value) -> str:
    """Returns the content id of the parameters of an effect, which its receipt names."""
    return content_id(encode_value(params))


def make_receipt(
    effect: EffectRecord, *, world_id: str, intent: int, status: str, result: Value, cost_cents: int | None = None
) -> EffectReceipt:
    """Returns a receipt that still has to be signed (``sign_receipt``)."""
    return EffectReceipt(
        world_id=world_id,
        intent=intent,
        kind=effect.kind,
        params_hash=effect.params_hash,
        expires_tick=effect.expires_tick,
        status=status,
        result=result,
        cost_cents=cost_cents,
        public_key=bytes(32),
        signature=b"",
    )


def sign_receipt(receipt: EffectReceipt, signer: Signer) -> bytes:
    """Returns the signed receipt as the action ``effect.settle`` carries it; raises what ``parse_receipt`` raises."""
    data = encode(sign(receipt, signer))
    parse_receipt(data)
    return data


def receipt_id(receipt: EffectReceipt) -> str:
    """Returns the content id of a signed receipt."""
    return content_id(encode(receipt))


def parse_receipt(data: Value, field: str = "receipt") -> EffectReceipt:
    """Returns the receipt of these bytes, whose signature is not looked at yet.

    Raises InvalidField for what is no receipt, TooLarge beyond ``MAX_RESULT_BYTES`` of result.
    """
    if not isinstance(data, bytes):
        raise InvalidField("must be the bytes of an effect_receipt", field=field)
    if len(data) > MAX_RECEIPT_BYTES:
        raise TooLarge(f"{len(data)} bytes exceed the limit of {MAX_RECEIPT_BYTES}", field=field)
    try:
        found = decode(EffectReceipt, data, limit=MAX_RECEIPT_BYTES)
    except AgentWorldError as error:
        # The text becomes part of the ledger, so it must not be that of a library.
        raise InvalidField("is not the encoding of an effect_receipt", field=field) from error
    if found.status not in STATUSES:
        raise InvalidField(f"must be {' or '.join(STATUSES)}", field=f"{field}.status")
    if found.cost_cents is not None and found.cost_cents > MAX_COST_CENTS:
        raise InvalidField(f"must be at most {MAX_COST_CENTS}", field=f"{field}.cost_cents")
    _check_result(found.result, f"{field}.result")
    return found


def same_effect(receipt: EffectReceipt, effect: EffectRecord) -> str | None:
    """Returns the first field in which a receipt is not about an effect, None when it is."""
    for name in ("kind", "params_hash", "expires_tick"):
        if getattr(receipt, name) != getattr(effect, name):
            return name
    return None


def _check_result(result: Value, field: str) -> None:
    try:
        # As deep as in the event that will hold it: what cannot be written must not be accepted.
        size = len(encode_value({"payload": {"result": result}}))
    except AgentWorldError as error:
        raise InvalidField("is nested too deep", field=field) from error
    if size > MAX_RESULT_BYTES:
        raise TooLarge(f"{size} bytes exceed the limit of {MAX_RESULT_BYTES}", field=field)
