"""What a call is given and what it may return: the documents of the interface ``wasm-1``.

Input is the map ``ctx`` and ``action`` or ``event`` (encoded by itself), for a reducer also ``state``. Output is a map
of ``new_state``, ``effects`` and ``emits``, each of which may be left out. A call for a batch is given a list of
``actions`` or ``events`` and answers with a list of outputs, each encoded by itself. All are deterministic CBOR.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from agentworld_core.codec import Value, decode_value, encode_nested, encode_value
from agentworld_core.errors import AgentWorldError, InvalidField, MalformedEncoding
from agentworld_core.ids import is_kind
from agentworld_core.messages import WorldEvent
from agentworld_core.world.modules.documents import (
    take_choice,
    take_id,
    take_list,
    take_map,
    take_number,
    take_text,
)
from agentworld_core.world.modules.governance_actions import MAX_AMOUNT, take_resource
from agentworld_core.world.modules.manifest import PRE_ACTION, PURE, REDUCER, ModuleLimits, ModuleManifest
from agentworld_core.world.modules.sandbox import FAILURE_CODES

CALL_CODES = (
    *FAILURE_CODES,
    "call_rate_exceeded",
    "caps_denied",
    "effect_limit_exceeded",
    "emit_limit_exceeded",
    "policy_denied",
    "step_limit_exceeded",
)
"""Why a call of a module can fail: the ``code`` of ``module.call_failed``."""

RULE_DECISION = "rule.decision"
ALLOW = "allow"
DENY = "deny"
MODIFY = "modify"

MAX_STATE_BYTES = 60 * 1024
MAX_COSTS = 8
MAX_EXPIRES_IN = 2**32
MAX_REF = 64
MAX_NOTES = 256
_BYTES, _ARRAY = 2, 4
_LONGER = {24: (1, 24), 25: (2, 2**8), 26: (4, 2**16)}
_limits_of = lru_cache(maxsize=256)(ModuleLimits.to_value)
_KERNEL_WORDS = [
    "action",
    "agent",
    "artifact",
    "capability",
    "directory",
    "effect",
    "mailbox",
    "manifest",
    "message",
    "module",
    "nonces",
    "object",
    "policy",
    "proposal",
    "resources",
    "rule",
    "step",
]

Payload = dict[str, Value]


class ModuleFailed(AgentWorldError):
    """A call came to nothing, for one of ``CALL_CODES``; it becomes an event and never leaves the kernel."""

    code = "module_failed"

    def __init__(self, reason_code: str, message: str = ""):
        super().__init__(message)
        if reason_code not in CALL_CODES:
            raise ValueError(f"unknown failure code {reason_code!r}")
        self.reason_code = reason_code


@dataclass(frozen=True, slots=True)
class Effect:
    """What a module wants done outside of the world, by which capability, and within how many ticks (0: any).

    ``ref`` is the module's own name for it, which comes back with what became of it.
    """

    kind: str
    params: Value
    cap_ref: str
    expires_in: int = 0
    ref: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What a module says about an action before it is taken: a verdict, what it costs, and what to take instead."""

    verdict: str
    override: tuple[str, Payload] | None = None
    cost: dict[str, int]
    notes: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """What a call returned, within its limits."""

    new_state: bytes | None
    effects: tuple[Effect, ...]
    emits: tuple[tuple[str, Value], ...]
    decision: Decision | None


class Document:
    """What modules and filters see of an action or an event; encoded once, however many modules are given it."""

    __slots__ = ("_encoded", "value")

    def __init__(self, value: Payload):
        self.value = value
        self._encoded = b""

    @property
    def encoded(self) -> bytes:
        """The deterministic encoding of the document."""
        if not self._encoded:
            self._encoded = encode_nested(self.value)
        return self._encoded


@dataclass(frozen=True, slots=True)
class ActionView:
    """An action as modules see it, before it is taken or after."""

    action_id: str
    actor_id: str
    kind: str
    payload: Payload
    document: Document

    @classmethod
    def of(cls, action_id: str, actor_id: str, *, kind: str, payload: Payload) -> ActionView:
        """Returns the view of an action with this payload."""
        value: Payload = {"action_id": action_id, "actor_id": actor_id, "kind": kind, "payload": payload}
        return cls(action_id, actor_id, kind, payload, Document(value))


@dataclass(frozen=True, kw_only=True, slots=True)
class Occasion:
    """Why a module is called: the stage, what is handed over and its kind and id, and the action that caused it."""

    stage: str
    kind: str
    id: str
    document: Document
    caused_by: str

    @classmethod
    def of_action(cls, stage: str, action: ActionView) -> Occasion:
        """Returns the occasion that an action gives at a stage."""
        return cls(
            stage=stage, kind="action", id=action.action_id, document=action.document, caused_by=action.action_id
        )

    @classmethod
    def of_event(cls, stage: str, event: WorldEvent) -> Occasion:
        """Returns the occasion that an event gives at a stage."""
        value: Payload = {
            "event_id": event.event_id,
            "tick": event.tick,
            "caused_by": event.caused_by,
            "kind": event.kind,
            "payload": event.payload,
        }
        return cls(
            stage=stage, kind="event", id=str(event.event_id), document=Document(value), caused_by=event.caused_by
        )

    def trace_of(self, module_id: str) -> str:
        """Returns the name of this call in events."""
        return f"{self.kind}-{self.id}-{module_id}"


def make_input(
    module: ModuleManifest, occasion: Occasion, *, clock: tuple[int, int], manifest_hash: str, state: bytes
) -> bytes:
    """Returns the input of a call; ``clock`` is tick and milliseconds of the step."""
    ctx: Payload = {  # in the order of an encoding, which then need not be made
        "v": "wasm-1",
        "time": clock[0],
        "stage": occasion.stage,
        "limits": _limits_of(module.limits),
        "origin": {"id": occasion.id, "kind": occasion.kind},
        "time_ms": clock[1],
        "trace_id": occasion.trace_of(module.module_id),
        "module_id": module.module_id,
        "world_config_hash": manifest_hash,
    }
    given: Payload = {"ctx": ctx, "state": state} if module.kind == REDUCER else {"ctx": ctx}
    return encode_value({**given, occasion.kind: occasion.document.encoded})


def make_batch_input(
    module: ModuleManifest,
    occasions: Sequence[Occasion],
    *,
    clock: tuple[int, int],
    manifest_hash: str,
    state: bytes,
) -> bytes:
    """Returns the input of a call for many occasions of one stage and kind: what all have in common is in it once."""
    first = occasions[0]
    ctx: Payload = {
        "v": "wasm-1",
        "module_id": module.module_id,
        "stage": first.stage,
        "time": clock[0],
        "time_ms": clock[1],
        "limits": _limits_of(module.limits),
        "world_config_hash": manifest_hash,
    }
    given: Payload = {"ctx": ctx, f"{first.kind}s": [occasion.document.encoded for occasion in occasions]}
    return encode_value({**given, "state": state} if module.kind == REDUCER else given)


def split_answers(data: bytes, *, most: int) -> list[bytes] | None:
    """Returns the outputs that a call for a batch has answered with, one for each of its first occasions.

    None stands for whatever is no list of 1 to ``most`` byte strings in deterministic CBOR. It is read without making
    anything else of it, because what a module answers here is counted against no bound of the step.
    """
    count, at = _head(data, 0, _ARRAY)
    answers: list[bytes] = []
    while 0 <= len(answers) < count <= most:
        size, at = _head(data, at, _BYTES)
        if size < 0 or size > len(data) - at:
            return None
        answers.append(data[at : at + size])
        at += size
    return answers if answers and at == len(data) else None


def _head(data: bytes, at: int, kind: int) -> tuple[int, int]:
    """Returns the length that an item of a kind has and where it goes on; -1 for anything but the shortest form."""
    first = data[at] if at < len(data) else 0
    if first >> 5 != kind:
        return -1, at
    low = first & 31
    if low < 24:
        return low, at + 1
    size, least = _LONGER.get(low, (0, 0))
    value = int.from_bytes(data[at + 1 : at + 1 + size], "big")
    return (value, at + 1 + size) if size and value >= least and at + size < len(data) else (-1, at)


def parse_output(module: ModuleManifest, occasion: Occasion, data: bytes) -> Output:
    """Returns what the bytes say; raises ModuleFailed for anything that the interface or the limits do not allow."""
    limits = module.limits
    if len(data) > limits.max_output_bytes:
        raise ModuleFailed("output_too_large", f"{len(data)} bytes exceed the limit of {limits.max_output_bytes}")
    try:
        value = decode_value(data, limit=limits.max_output_bytes)
    except MalformedEncoding as error:
        raise ModuleFailed("invalid_output", "is not a deterministic encoding") from error
    try:
        return _output(module, occasion, value)
    except InvalidField as error:
        raise ModuleFailed("invalid_output", f"{error.field}: {error.message}") from error


def _output(module: ModuleManifest, occasion: Occasion, value: Value) -> Output:
    given = take_map(value, "output", needed=(), optional=("new_state", "effects", "emits"))
    effects, emits = given.get("effects", []), given.get("emits", [])
    if isinstance(effects, list) and len(effects) > module.limits.max_effects:
        raise ModuleFailed("effect_limit_exceeded", f"{len(effects)} effects, at most {module.limits.max_effects}")
    if isinstance(emits, list) and len(emits) > module.limits.max_emits:
        raise ModuleFailed("emit_limit_exceeded", f"{len(emits)} emits, at most {module.limits.max_emits}")
    items = [_emit(item, f"emits[{index}]") for index, item in enumerate(take_list(emits, "emits", most=2**16))]
    decisions = [payload for kind, payload in items if kind == RULE_DECISION]
    if decisions and occasion.stage != PRE_ACTION:
        raise InvalidField(f"is only for {PRE_ACTION}", field=RULE_DECISION)
    if len(decisions) > 1:
        raise InvalidField("may be emitted once", field=RULE_DECISION)
    return Output(
        new_state=_new_state(module, given.get("new_state")),
        effects=tuple(
            _effect(item, f"effects[{index}]") for index, item in enumerate(take_list(effects, "effects", most=2**16))
        ),
        emits=tuple(item for item in items if item[0] != RULE_DECISION),
        decision=_decision(decisions[0], occasion.id) if decisions else None,
    )


def _new_state(module: ModuleManifest, value: Value) -> bytes | None:
    if value is None:
        return None
    if not isinstance(value, bytes):
        raise InvalidField("must be bytes", field="new_state")
    if module.kind == PURE:
        raise InvalidField("a pure module keeps no state", field="new_state")
    if len(value) > MAX_STATE_BYTES:
        raise ModuleFailed("output_too_large", f"new_state: {len(value)} bytes exceed the limit of {MAX_STATE_BYTES}")
    return value


def _emit(value: Value, field: str) -> tuple[str, Value]:
    given = take_map(value, field, needed=("kind", "payload"))
    kind = _kind(given["kind"], f"{field}.kind")
    if kind != RULE_DECISION and kind.split(".")[0] in _KERNEL_WORDS:
        raise InvalidField("is a kind of the kernel's own", field=f"{field}.kind")
    return kind, given["payload"]


def _effect(value: Value, field: str) -> Effect:
    given = take_map(value, field, needed=("kind", "params", "cap_ref"), optional=("expires_in", "ref"))
    return Effect(
        kind=_kind(given["kind"], f"{field}.kind"),
        params=given["params"],
        cap_ref=take_id(given["cap_ref"], f"{field}.cap_ref"),
        expires_in=take_number(given.get("expires_in", 0), f"{field}.expires_in", most=MAX_EXPIRES_IN),
        ref=take_text(given.get("ref", ""), f"{field}.ref", most=MAX_REF),
    )


def _decision(value: Value, action_id: str) -> Decision:
    field = RULE_DECISION
    given = take_map(value, field, needed=("action_id", "verdict"), optional=("override_action", "cost", "notes"))
    if given["action_id"] != action_id:
        raise InvalidField("is another action", field=f"{field}.action_id")
    verdict = take_choice(given["verdict"], f"{field}.verdict", (ALLOW, DENY, MODIFY))
    cost = given.get("cost", {})
    if not isinstance(cost, dict) or len(cost) > MAX_COSTS:
        raise InvalidField(f"must be a map of at most {MAX_COSTS} resources", field=f"{field}.cost")
    return Decision(
        verdict=verdict,
        override=_override(given.get("override_action"), f"{field}.override_action") if verdict == MODIFY else None,
        cost={
            take_resource(kind, f"{field}.cost"): take_number(amount, f"{field}.cost.{kind}", most=MAX_AMOUNT)
            for kind, amount in cost.items()
        },
        notes=take_text(given.get("notes", ""), f"{field}.notes", most=MAX_NOTES),
    )


def _override(value: Value, field: str) -> tuple[str, Payload] | None:
    if value is None:
        return None
    given = take_map(value, field, needed=("kind", "payload"))
    payload = given["payload"]
    if not isinstance(payload, dict):
        raise InvalidField("must be a map", field=f"{field}.payload")
    return _kind(given["kind"], f"{field}.kind"), payload


def _kind(value: Value, field: str) -> str:
    if not is_kind(value):
        raise InvalidField("must be a kind (dotted lower-case words)", field=field)
    return str(value)
