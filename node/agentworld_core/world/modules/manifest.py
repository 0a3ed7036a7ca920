"""The manifest of a module: what it is, which code it has, what it listens to, and what it may use (section 3.4).

It is a document of maps, lists, text and whole numbers, the same as JSON and as CBOR. ``parse_manifest`` reads it field
by field; what it returns is within its own bounds, but only ``governance`` can say whether a world would take it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from agentworld_core.codec import Value, encode_value
from agentworld_core.errors import InvalidField, MalformedEncoding
from agentworld_core.genesis_module import MAX_MANIFEST_BYTES
from agentworld_core.world.modules.documents import (
    take_choice,
    take_export,
    take_hash,
    take_id,
    take_list,
    take_map,
    take_number,
    take_pattern,
    take_text,
    take_version,
)
from agentworld_core.world.modules.filters import Filter, parse_filter

INTERFACE_VERSION = "wasm-1"
REDUCER = "reducer"
PURE = "pure"
ENTRIES = {REDUCER: "reduce", PURE: "call"}
BATCH_ENTRIES = {REDUCER: "reduce_batch", PURE: "call_batch"}
RULE = "rule"
ROLES = (RULE, "domain", "body", "agent_internal")
PRE_ACTION = "pre_action"
POST_ACTION = "post_action"
POST_EVENT = "post_event"
ACTION_STAGES = (PRE_ACTION, POST_ACTION)

MAX_SUBSCRIPTIONS = 16
MAX_KINDS = 16
MAX_CAPS = 16
_ANY_NUMBER = 2**63 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleLimits:
    """What one call of a module may use, how many calls it gets in a step, and how many of them may be made as one.

    0, the default, allows nothing.
    """

    max_mem_bytes: int = 0
    max_gas: int = 0
    max_call_rate: int = 0
    max_output_bytes: int = 0
    max_effects: int = 0
    max_emits: int = 0
    max_batch: int = 0

    def to_value(self) -> dict[str, Value]:
        """Returns the map that manifests and the context of calls hold; ``max_batch`` is in it unless it is 0.

        It came later: what a module that says nothing of batches is given must stay what it was.
        """
        value: dict[str, Value] = {field.name: getattr(self, field.name) for field in fields(self)}
        if not self.max_batch:
            del value["max_batch"]
        return value


SYSTEM_LIMITS = ModuleLimits(
    max_mem_bytes=64 * 1024 * 1024,
    max_gas=10_000_000,
    max_call_rate=4096,
    max_output_bytes=256 * 1024,
    max_effects=16,
    max_emits=64,
    max_batch=4096,
)
"""What no manifest may exceed. Outputs become events and state everywhere, hence less than a sandbox could return."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a module is called for: kinds of actions or events, at which stage, and only if the filter matches."""

    kinds: tuple[str, ...]
    stage: str
    filter: Filter | None

    def admits(self, document: Value) -> bool:
        """True when there is no filter, or the document passes it."""
        return self.filter is None or self.filter.matches(document)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleManifest:
    """A manifest that has been read; ``entry`` is the export for one call, ``batch_entry`` the one for many at once."""

    module_id: str
    name: str
    version: str
    kind: str
    role: str
    wasm_hash: str
    exports: tuple[str, ...]
    subscriptions: tuple[Subscription, ...]
    required_caps: tuple[str, ...]
    limits: ModuleLimits

    @property
    def entry(self) -> str:
        """The export that a call enters: ``reduce`` of a reducer, which keeps state, ``call`` of a pure module."""
        return ENTRIES[self.kind]

    @property
    def batch_entry(self) -> str:
        """The export that answers many calls at once; it is asked only when ``limits.max_batch`` is above 1."""
        return BATCH_ENTRIES[self.kind]


def parse_manifest(value: Value, field: str = "manifest") -> ModuleManifest:
    """Returns the manifest of a document; raises InvalidField that names the field, what is wrong and what is right."""
    try:
        size = len(encode_value(value))
    except MalformedEncoding as error:
        raise InvalidField("must hold text, whole numbers, booleans, lists and maps only", field=field) from error
    if size > MAX_MANIFEST_BYTES:
        raise InvalidField(f"{size} bytes exceed the limit of {MAX_MANIFEST_BYTES}", field=field)
    given = take_map(value, field, needed=_NEEDED, optional=_OPTIONAL)
    take_choice(given["interface_version"], f"{field}.interface_version", (INTERFACE_VERSION,))
    kind = take_choice(given["kind"], f"{field}.kind", ENTRIES)
    exports = take_list(given["exports"], f"{field}.exports", least=1, most=MAX_KINDS)
    names = tuple(take_export(item, f"{field}.exports[{index}]") for index, item in enumerate(exports))
    if ENTRIES[kind] not in names:
        raise InvalidField(f"must name {ENTRIES[kind]}, the entry of a {kind}", field=f"{field}.exports")
    limits = _limits(given.get("limits", {}), f"{field}.limits")
    if limits.max_batch and BATCH_ENTRIES[kind] not in names:
        raise InvalidField(
            f"must name {BATCH_ENTRIES[kind]}, the entry for batches of a {kind}, or limits.max_batch must be 0",
            field=f"{field}.exports",
        )
    subscriptions = take_list(given.get("subscriptions", []), f"{field}.subscriptions", most=MAX_SUBSCRIPTIONS)
    caps = take_list(given.get("required_caps", []), f"{field}.required_caps", most=MAX_CAPS)
    return ModuleManifest(
        module_id=take_id(given["module_id"], f"{field}.module_id"),
        name=take_text(given["name"], f"{field}.name", least=1, most=128),
        version=take_version(given["version"], f"{field}.version"),
        kind=kind,
        role=take_choice(given.get("role", "domain"), f"{field}.role", ROLES),
        wasm_hash=take_hash(given["wasm_hash"], f"{field}.wasm_hash"),
        exports=names,
        subscriptions=tuple(
            _subscription(item, f"{field}.subscriptions[{index}]") for index, item in enumerate(subscriptions)
        ),
        required_caps=tuple(take_id(item, f"{field}.required_caps[{index}]") for index, item in enumerate(caps)),
        limits=limits,
    )


def _limits(value: Value, field: str) -> ModuleLimits:
    names = [item.name for item in fields(ModuleLimits)]
    given = take_map(value, field, needed=(), optional=names)
    found = {name: take_number(item, f"{field}.{name}", most=_ANY_NUMBER) for name, item in given.items()}
    return ModuleLimits(**found)


def _subscription(value: Value, field: str) -> Subscription:
    given = take_map(value, field, needed=(), optional=("event_kinds", "action_kinds", "stage", "filters"))
    if ("event_kinds" in given) == ("action_kinds" in given):
        raise InvalidField("must have either event_kinds or action_kinds", field=field)
    name = "event_kinds" if "event_kinds" in given else "action_kinds"
    kinds = take_list(given[name], f"{field}.{name}", least=1, most=MAX_KINDS)
    stages = (POST_EVENT,) if name == "event_kinds" else ACTION_STAGES
    filters = given.get("filters")
    return Subscription(
        kinds=tuple(take_pattern(item, f"{field}.{name}[{index}]") for index, item in enumerate(kinds)),
        stage=take_choice(given.get("stage", stages[0]), f"{field}.stage", stages),
        filter=None if filters is None else parse_filter(filters, f"{field}.filters"),
    )


_NEEDED = ("module_id", "name", "version", "kind", "wasm_hash", "interface_version", "exports")
_OPTIONAL = ("role", "subscriptions", "required_caps", "limits")
