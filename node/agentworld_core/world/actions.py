"""Actions: what an actor signs, which kinds there are, and what makes one admissible.

``check_envelope`` needs nothing but the action; whether it passes is the same for everybody and for ever, so a block
that holds an action which fails it is invalid. ``check_admission`` adds what can be said from a committed state; the
kernel judges again when the action's turn comes, because the state may have changed until then.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from agentworld_core.codec import Value, decode_value, encode, encode_value, encode_with
from agentworld_core.errors import (
    AgentWorldError,
    HashMismatch,
    InvalidField,
    InvalidSignature,
    MalformedEncoding,
    NonceUsed,
    TooLarge,
    Unauthorized,
    Unsupported,
    WrongWorld,
)
from agentworld_core.hashing import content_id
from agentworld_core.ids import is_id
from agentworld_core.messages import MAX_PAYLOAD_BYTES, ActionEnvelope
from agentworld_core.signing import Signer, key_id_of, signed_bytes, verify_bytes
from agentworld_core.world.errors import ActionRefused, FromTheFuture
from agentworld_core.world.modules.governance_actions import GOVERNANCE_FIELDS, OPTIONAL_FIELDS
from agentworld_core.world.modules.table import open_table
from agentworld_core.world.nonces import MAX_NONCE, NonceWindow
from agentworld_core.world.state import AgentRecord, read_agent, read_nonces
from agentworld_core.world.tree import Tree

AGENT_REGISTER = "agent.register"
AGENT_MOVE = "agent.move"
OBJECT_CREATE = "object.create"
OBJECT_UPDATE = "object.update"
MESSAGE_SEND = "message.send"
MAILBOX_CLEAR = "mailbox.clear"

MAX_OBJECT_BYTES = 16 * 1024
MAX_MESSAGE_BYTES = 1024
MAX_COORDINATE = 2**53 - 1
KEPT_PAYLOAD_BYTES = 256
"""Larger payloads are not kept decoded, which may take seventy times the memory."""
MAX_CLOCK_AHEAD_MS = 300_000

Payload = dict[str, Value]


def make_action(
    *, world_id: str, actor_id: str, kind: str, payload: Mapping[str, Value], nonce: int, timestamp_ms: int
) -> ActionEnvelope:
    """Returns an action that still has to be signed (``sign_action``)."""
    payload_cbor = encode_value(dict(payload))
    return ActionEnvelope(
        world_id=world_id,
        action_id="",
        actor_id=actor_id,
        action_kind=kind,
        payload_cbor=payload_cbor,
        payload_hash=content_id(payload_cbor),
        nonce=nonce,
        timestamp_ms=timestamp_ms,
        signature=b"",
        public_key=bytes(32),
    )


def sign_action(envelope: ActionEnvelope, signer: Signer) -> ActionEnvelope:
    """Returns the action with the signer's public key, its action id and its signature."""
    named = dataclasses.replace(envelope, public_key=signer.public_key, signature=b"")
    named = dataclasses.replace(named, action_id=action_id_of(named))
    return dataclasses.replace(named, signature=signer.sign(signed_bytes(named)))


def action_id_of(envelope: ActionEnvelope) -> str:
    """Returns the content id of the action without its id and signature: the same whatever the signature bytes are."""
    return content_id(encode_with(envelope, {"action_id": "", "signature": b""}))


def envelope_id(envelope: ActionEnvelope) -> str:
    """Returns the content id of the whole signed action: the only safe key for a cache of verified actions.

    It is made once for each envelope: a hash lets another thread run, which costs its caller more than the hash.
    """
    kept: str | None = getattr(envelope, "_content_id", None)
    if kept is None:
        kept = content_id(encode(envelope))
        object.__setattr__(envelope, "_content_id", kept)
    return kept


def check_envelope(envelope: ActionEnvelope, world_id: str) -> None:
    """Raises a typed error unless the action is of this world, consistent and signed by its ``public_key``."""
    if envelope.world_id != world_id:
        raise WrongWorld("the action is of another world", field="world_id", value=envelope.world_id)
    if len(envelope.payload_cbor) > MAX_PAYLOAD_BYTES:
        raise TooLarge(
            f"{len(envelope.payload_cbor)} bytes exceed the limit of {MAX_PAYLOAD_BYTES}", field="payload_cbor"
        )
    if envelope.nonce > MAX_NONCE:
        raise InvalidField(f"must be at most {MAX_NONCE}", field="nonce", value=envelope.nonce)
    if content_id(envelope.payload_cbor) != envelope.payload_hash:
        raise HashMismatch("is not the content id of the payload", field="payload_hash", value=envelope.payload_hash)
    if action_id_of(envelope) != envelope.action_id:
        raise HashMismatch("is not the id of this action", field="action_id", value=envelope.action_id)
    if not verify_bytes(envelope.public_key, envelope.signature, signed_bytes(envelope)):
        raise InvalidSignature("the signature of this action does not verify", field="signature")


def check_admission(
    state: Tree, envelope: ActionEnvelope, *, world_id: str, now_ms: int | None = None, register_pending: bool = False
) -> None:
    """Raises a typed error unless the action passes ``check_envelope`` and, as far as this state can tell, will not be
    refused.

    ``now_ms``, when given, bounds how far ahead the action's time may be. ``register_pending`` says that a registration
    of the actor is known to wait, so that an actor the state does not know yet may already act.
    """
    check_envelope(envelope, world_id)
    check_prospects(Actors(state), envelope, now_ms=now_ms, register_pending=register_pending)


class Actors:
    """The actors of a state, each read once, however many of its actions are checked."""

    def __init__(self, state: Tree):
        self.state = state
        self._agents: dict[str, AgentRecord | None] = {}
        self._nonces: dict[tuple[str, bytes], NonceWindow] = {}

    def __len__(self) -> int:
        return len(self._agents) + len(self._nonces)

    def agent(self, actor_id: str) -> AgentRecord | None:
        """Returns the actor's record, None when it is not registered."""
        if actor_id not in self._agents:
            self._agents[actor_id] = read_agent(self.state, actor_id)
        return self._agents[actor_id]

    def nonces(self, actor_id: str, public_key: bytes) -> NonceWindow:
        """Returns which nonces the actor has used with a key."""
        window = self._nonces.get((actor_id, public_key))
        if window is None:
            window = self._nonces[actor_id, public_key] = read_nonces(self.state, actor_id, key_id_of(public_key))
        return window


def check_prospects(
    actors: Actors, envelope: ActionEnvelope, *, now_ms: int | None = None, register_pending: bool = False
) -> None:
    """Raises what ``check_admission`` raises for an action that is known to pass ``check_envelope``."""
    if now_ms is not None and envelope.timestamp_ms > now_ms + MAX_CLOCK_AHEAD_MS:
        raise FromTheFuture("lies too far in the future", field="timestamp_ms", value=envelope.timestamp_ms)
    check_actor(actors, envelope, register_pending=register_pending)
    try:
        parse_payload(envelope, custom=_is_custom(actors.state, envelope.action_kind))
    except ActionRefused as refused:
        raise _ADMISSION_ERRORS.get(refused.reason_code, InvalidField)(
            refused.message, field="payload_cbor"
        ) from refused


_ADMISSION_ERRORS: dict[str, type[AgentWorldError]] = {"too_large": TooLarge, "unsupported": Unsupported}


def check_actor(actors: Actors, envelope: ActionEnvelope, *, register_pending: bool = False) -> None:
    """Raises Unauthorized when the state binds the actor to another key or none, NonceUsed when the nonce is spent."""
    agent = actors.agent(envelope.actor_id)
    if agent is not None and agent.public_key != envelope.public_key:
        raise Unauthorized("another key signs for this actor", field="public_key", value=key_id_of(envelope.public_key))
    if agent is None and envelope.action_kind != AGENT_REGISTER and not register_pending:
        raise Unauthorized(
            "is not registered", field="actor_id", value=envelope.actor_id, remedy=f"send {AGENT_REGISTER} first"
        )
    if not actors.nonces(envelope.actor_id, envelope.public_key).usable(envelope.nonce):
        raise NonceUsed("is used or older than the window", field="nonce", value=envelope.nonce)


def _is_custom(state: Tree, kind: str) -> bool:
    if kind in _FIELDS:
        return False
    table = open_table(state)
    return table is not None and table.handles(kind)


def parse_payload(envelope: ActionEnvelope, *, custom: bool = False) -> Payload:
    """Returns the payload of an action; raises ActionRefused for an unknown kind, and for wrong or missing fields.

    A small one is decoded once for each envelope, when it is admitted, and kept for the step: nobody may change it.
    ``custom`` says that modules take actions of this kind, so that one the kernel does not know may be any map.
    """
    fields = _FIELDS.get(envelope.action_kind)
    if fields is None and not custom:
        raise ActionRefused("unsupported", f"no rule for actions of kind {envelope.action_kind}")
    kept: Payload | None = getattr(envelope, "_payload", None)
    if kept is not None:
        return kept
    try:
        payload = decode_value(envelope.payload_cbor, limit=MAX_PAYLOAD_BYTES)
    except MalformedEncoding as error:
        # The text becomes part of the ledger, so it must not be that of a library.
        raise ActionRefused("invalid_field", "payload: is not a deterministic encoding") from error
    checked = check_payload(envelope.action_kind, payload)
    if len(envelope.payload_cbor) <= KEPT_PAYLOAD_BYTES:
        object.__setattr__(envelope, "_payload", checked)
    return checked


def check_payload(kind: str, payload: Value) -> Payload:
    """Returns the payload when it is one for actions of this kind, which is any map where the kernel has no rule."""
    fields = _FIELDS.get(kind)
    if fields is None:
        return _custom_payload(payload)
    optional = OPTIONAL_FIELDS.get(kind, frozenset())
    if not isinstance(payload, dict) or payload.keys() - optional != fields.keys() - optional:
        more = f", and maybe {', '.join(sorted(optional))}" if optional else ""
        needed = ", ".join(sorted(fields.keys() - optional))
        raise ActionRefused("invalid_field", f"payload: must be a map of exactly {needed}{more}")
    for name, check in fields.items():
        if name in payload:
            check(name, payload[name])
    return payload


def _custom_payload(payload: Value) -> Payload:
    if not isinstance(payload, dict):
        raise ActionRefused("invalid_field", "payload: must be a map")
    try:
        # As deep as in the event that will hold it: what cannot be written must not be accepted.
        encode_value({"payload": payload})
    except MalformedEncoding as error:
        raise ActionRefused("invalid_field", "payload: is nested too deep") from error
    return payload


def _is_position(name: str, value: Value) -> None:
    if not (
        isinstance(value, list)
        and len(value) == 2
        and all(type(item) is int and -MAX_COORDINATE <= item <= MAX_COORDINATE for item in value)
    ):
        raise ActionRefused("invalid_field", f"{name}: must be a list of two integers within ±{MAX_COORDINATE}")


def _is_id(name: str, value: Value) -> None:
    if not is_id(value):
        raise ActionRefused("invalid_field", f"{name}: must be an id")


def _is_sequence(name: str, value: Value) -> None:
    if type(value) is not int or value < 0:
        raise ActionRefused("invalid_field", f"{name}: must be a whole number from 0")


def _up_to(limit: int) -> Callable[[str, Value], None]:
    def check(name: str, value: Value) -> None:
        size = len(encode_value(value))
        if size > limit:
            raise ActionRefused("too_large", f"{name}: {size} bytes exceed the limit of {limit}")

    return check


_FIELDS: dict[str, dict[str, Callable[[str, Value], None]]] = {
    AGENT_REGISTER: {"position": _is_position},
    AGENT_MOVE: {"to": _is_position},
    OBJECT_CREATE: {"object_id": _is_id, "data": _up_to(MAX_OBJECT_BYTES)},
    OBJECT_UPDATE: {"object_id": _is_id, "data": _up_to(MAX_OBJECT_BYTES)},
    MESSAGE_SEND: {"to": _is_id, "body": _up_to(MAX_MESSAGE_BYTES)},
    MAILBOX_CLEAR: {"up_to": _is_sequence},
    **GOVERNANCE_FIELDS,
}

ACTION_KINDS = tuple(_FIELDS)
