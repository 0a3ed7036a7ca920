"""What the state of a world holds about modules and their governance, under which keys, and in which form.

====================================  ==========================================================================
``artifact/<hash>``                   how many pieces of a module's code there are and have come (``ArtifactRecord``)
``artifact/<hash>/<index, 4 digits>`` one piece of it (``ArtifactPiece``)
``artifacts``                         how many bytes of artifacts the state holds (``ArtifactTotal``)
``module/<id>@<version>``             a registered manifest (``RegistryRecord``)
``active/<id>``                       the version that is in force (``ActiveRecord``)
``modstate/<id>``                     what a reducer keeps (``ModuleStateRecord``)
``previous/<id>``                     what a rollback brings back: version and state (``PreviousRecord``)
``manifest``                          version and content of the world's manifest (``ManifestRecord``)
``proposal/<n, 20 digits>``           a proposal and what became of it (``ProposalRecord``)
``proposal/<n>/changes``              what an open proposal would change (``ChangesRecord``)
``proposals``                         the next number, and how many are open (``ProposalCount``)
``capability/<id>``                   which kinds of effects a grant allows, and until when (``CapabilityRecord``)
``policies``                          the rules that effects must pass (``PolicyRecord``)
``resource/<agent id>/<kind>``        how much of a resource an agent has (``ResourceRecord``)
``effect/<n, 20 digits>``             an effect that waits for its receipt (``EffectRecord``)
``effect-due/<tick>/<n>``             that it expires after this tick, 20 digits each (``EffectDue``)
``effects``                           the next intent number, and how many wait (``EffectCount``)
====================================  ==========================================================================

A world in which none of this was ever used holds none of these keys.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, TypeVar

from agentworld_core.codec import Value, encode_value
from agentworld_core.errors import MalformedEncoding
from agentworld_core.hashing import content_id
from agentworld_core.world.state import Reader, read
from agentworld_core.world.tree import Tree

ACTIVE_PREFIX = b"active/"
MANIFEST_KEY = b"manifest"
PROPOSALS_KEY = b"proposals"
POLICIES_KEY = b"policies"
EFFECTS_KEY = b"effects"
EFFECT_DUE_PREFIX = b"effect-due/"
ARTIFACTS_KEY = b"artifacts"

PROPOSED = "proposed"
SHADOWED = "shadowed"
APPROVED = "approved"
APPLIED = "applied"
REJECTED = "rejected"
OPEN_STATES = (PROPOSED, SHADOWED, APPROVED)

MAX_RESOURCE_KIND = 32

_F = TypeVar("_F", bound="FlatRecord")
_TYPES: dict[str, type[Any]] = {
    "int": int,
    "str": str,
    "bytes": bytes,
    "list[Value]": list,
    "list[dict[str, Value]]": list,
    "dict[str, Value]": dict,
}


def artifact_key(artifact: str) -> bytes:
    """Returns the state key of an artifact."""
    return f"artifact/{artifact}".encode()


def piece_key(artifact: str, index: int) -> bytes:
    """Returns the state key of a piece of an artifact."""
    return f"artifact/{artifact}/{index:04d}".encode()


def registry_key(module_id: str, version: str) -> bytes:
    """Returns the state key of a registered version of a module."""
    return f"module/{module_id}@{version}".encode()


def active_key(module_id: str) -> bytes:
    """Returns the state key that says which version of a module is active."""
    return ACTIVE_PREFIX + module_id.encode()


def module_state_key(module_id: str) -> bytes:
    """Returns the state key of what a module keeps."""
    return b"modstate/" + module_id.encode()


def previous_key(module_id: str) -> bytes:
    """Returns the state key of what a module was before its active version changed last."""
    return b"previous/" + module_id.encode()


def proposal_key(number: int) -> bytes:
    """Returns the state key of a proposal."""
    return f"proposal/{number:020d}".encode()


def changes_key(number: int) -> bytes:
    """Returns the state key of what an open proposal would change."""
    return proposal_key(number) + b"/changes"


def capability_key(name: str) -> bytes:
    """Returns the state key of a capability."""
    return b"capability/" + name.encode()


def resource_key(agent_id: str, kind: str) -> bytes:
    """Returns the state key of an agent's amount of a resource (a name of at most ``MAX_RESOURCE_KIND``)."""
    return f"resource/{agent_id}/{kind}".encode()


def effect_key(number: int) -> bytes:
    """Returns the state key of an effect that waits for its receipt."""
    return f"effect/{number:020d}".encode()


def effect_due_key(tick: int, number: int) -> bytes:
    """Returns the state key that says when an effect expires; these keys are in the order in which effects do."""
    return EFFECT_DUE_PREFIX + f"{tick:020d}/{number:020d}".encode()


class FlatRecord:
    """A record that is encoded as the map of its fields, each of exactly its type."""

    def to_value(self) -> Value:
        """Returns the map that is encoded into the state."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_value(cls: type[_F], value: Value) -> _F:
        """Returns the record of a map; raises MalformedEncoding for anything else."""
        fields = dataclasses.fields(cls)  # type: ignore[arg-type]
        if not isinstance(value, dict) or len(value) != len(fields):
            raise MalformedEncoding(f"is not a {cls.__name__}", field="state")
        for field in fields:
            if type(value.get(field.name)) is not _TYPES[str(field.type)]:
                raise MalformedEncoding(f"is not a {cls.__name__}", field=field.name)
        return cls(**value)


@dataclasses.dataclass(frozen=True, slots=True)
class ArtifactRecord(FlatRecord):
    """Of ``count`` pieces ``received`` have come, ``size`` bytes; ``uses`` registered versions need it."""

    count: int
    received: int = 0
    size: int = 0
    uses: int = 0

    @property
    def complete(self) -> bool:
        """True when all pieces have come, and so the content id has been checked."""
        return self.received == self.count


@dataclasses.dataclass(frozen=True, slots=True)
class ArtifactPiece(FlatRecord):
    """One piece of an artifact."""

    data: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class ArtifactTotal(FlatRecord):
    """How many bytes of artifacts the state holds."""

    size: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class RegistryRecord(FlatRecord):
    """A registered manifest: as it was given, when, and by which proposal."""

    manifest: dict[str, Value]
    tick: int
    proposal: int


@dataclasses.dataclass(frozen=True, slots=True)
class ActiveRecord(FlatRecord):
    """The version of a module that is in force."""

    version: str


@dataclasses.dataclass(frozen=True, slots=True)
class ModuleStateRecord(FlatRecord):
    """What a reducer keeps between calls."""

    state: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class PreviousRecord(FlatRecord):
    """What a module was until this tick: the version that was active (empty: none), and the state that it kept."""

    version: str
    state: bytes
    tick: int


@dataclasses.dataclass(frozen=True, slots=True)
class ManifestRecord(FlatRecord):
    """The world's manifest: version and content, and how many modules are active."""

    version: int = 1
    content: dict[str, Value] = dataclasses.field(default_factory=dict)
    active: int = 0

    @property
    def hash(self) -> str:
        """The content id of version and content: what a proposal names as its base."""
        return manifest_hash(self.version, self.content)


@dataclasses.dataclass(frozen=True, slots=True)
class ProposalRecord(FlatRecord):
    """A proposal: who made it on top of which manifest, its shadow report, and who approved it with which key."""

    state: str
    author: str
    key_id: str
    base: str
    report: dict[str, Value]
    approvals: list[dict[str, Value]]
    reason: str
    tick: int


@dataclasses.dataclass(frozen=True, slots=True)
class ChangesRecord(FlatRecord):
    """What an open proposal would change; of a closed one only the events still tell."""

    changes: dict[str, Value]


@dataclasses.dataclass(frozen=True, slots=True)
class ProposalCount(FlatRecord):
    """The number that the next proposal gets, and how many are open."""

    next: int = 1
    open: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class CapabilityRecord(FlatRecord):
    """A grant: patterns of the kinds of effects that it allows, and the last tick at which it holds (0: for ever).

    ``signers`` are the ids of the keys whose receipts settle effects under it, besides those of governance.
    """

    kinds: list[Value]
    expires_tick: int
    signers: list[Value] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class PolicyRecord(FlatRecord):
    """The rules that every effect must pass: the first that names it decides, none denies it."""

    rules: list[Value] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class ResourceRecord(FlatRecord):
    """How much of a resource an agent has."""

    amount: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class EffectRecord(FlatRecord):
    """An effect that waits for its receipt: what a module wants done outside of the world, since which tick.

    The parameters are in the event ``effect.queued`` of that tick. After ``expires_tick`` (0: never) no receipt counts.
    """

    module_id: str
    kind: str
    tick: int
    cap_ref: str
    params_hash: str
    expires_tick: int
    ref: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class EffectDue(FlatRecord):
    """The number of an effect, under the tick after which it expires."""

    intent: int


@dataclasses.dataclass(frozen=True, slots=True)
class EffectCount(FlatRecord):
    """The number that the next intent gets, and how many wait for their receipt."""

    next: int = 1
    pending: int = 0


def manifest_hash(version: int, content: dict[str, Value]) -> str:
    """Returns the content id of a manifest."""
    return content_id(encode_value({"version": version, "content": content}))


def read_manifest(reader: Reader) -> ManifestRecord:
    """Returns the world's manifest; that of a world without one has version 1 and no content."""
    return read(reader, MANIFEST_KEY, ManifestRecord) or ManifestRecord()


def all_proposals(tree: Tree) -> Iterator[tuple[int, ProposalRecord]]:
    """Yields every proposal of a state with its number, oldest first."""
    for key, _ in tree.items(b"proposal/"):
        parts = key.decode().split("/")
        record = read(tree, key, ProposalRecord) if len(parts) == 2 else None
        if record is not None:
            yield int(parts[1]), record


def read_proposal(reader: Reader, number: int) -> ProposalRecord | None:
    """Returns a proposal, or None when there is none of that number."""
    return read(reader, proposal_key(number), ProposalRecord)
