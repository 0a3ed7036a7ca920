"""The change set of a proposal: modules to register, upgrade, activate, deactivate and roll back, and a patch of the
manifest.

``parse_changes`` reads its structure; whether it may be applied to a state is said by ``shadow``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

from agentworld_core.codec import Value
from agentworld_core.errors import InvalidField
from agentworld_core.world.modules.documents import (
    take_hash,
    take_id,
    take_list,
    take_map,
    take_number,
    take_text,
    take_version,
)
from agentworld_core.world.modules.patches import RESERVED_KEY, Content, Operation, apply_patch, parse_patch
from agentworld_core.world.modules.records import ManifestRecord, manifest_hash

MAX_MODULES = 16
MAX_REASON = 256
_LISTS = ("register", "upgrade", "activate", "deactivate", "rollback")


@dataclass(frozen=True, slots=True)
class Registration:
    """A manifest to register, not judged yet; ``upgrade_from`` and ``wasm_hash`` are what an upgrade says about it."""

    module_id: str
    version: str
    manifest: dict[str, Value]
    upgrade_from: str = ""
    wasm_hash: str = ""


@dataclass(frozen=True, slots=True)
class Activation:
    """A version of a module to put in force."""

    module_id: str
    version: str


@dataclass(frozen=True, slots=True)
class Deactivation:
    """A module to take out of force, and why."""

    module_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Rollback:
    """A module to put back to what it was before its active version changed last, and why."""

    module_id: str
    reason: str


_T = TypeVar("_T", Registration, Activation, Deactivation, Rollback)


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """A change set; every list is in order of module ids, in which it is applied."""

    register: tuple[Registration, ...]
    upgrade: tuple[Registration, ...]
    activate: tuple[Activation, ...]
    deactivate: tuple[Deactivation, ...]
    rollback: tuple[Rollback, ...]
    patch: tuple[Operation, ...]
    new_version: int | None

    def content_after(self, manifest: ManifestRecord) -> tuple[int, Content]:
        """Returns version and content of the manifest after the patch; raises InvalidField when it does not fit."""
        version = manifest.version + 1 if self.new_version is None else self.new_version
        if version <= manifest.version:
            raise InvalidField(f"must be above {manifest.version}", field="changes.new_version")
        return version, apply_patch(manifest.content, self.patch, "changes.patch")


def parse_changes(value: Value) -> Changes:
    """Returns the change set of a document; raises InvalidField that names the place.

    Manifests are taken as maps that name their module and version: whether they are right is for ``shadow`` to say.
    """
    given = take_map(value, "changes", needed=(), optional=(*_LISTS, "patch", "new_version"))
    if not given:
        raise InvalidField("must change something", field="changes")
    lists = {name: take_list(given.get(name, []), f"changes.{name}", most=MAX_MODULES) for name in _LISTS}
    new_version = given.get("new_version")
    return Changes(
        register=_ordered("register", [_registration(*item) for item in _named("register", lists["register"])]),
        upgrade=_ordered("upgrade", [_upgrade(*item) for item in _named("upgrade", lists["upgrade"])]),
        activate=_ordered("activate", [_activation(*item) for item in _named("activate", lists["activate"])]),
        deactivate=_ordered("deactivate", [_deactivation(*item) for item in _named("deactivate", lists["deactivate"])]),
        rollback=_ordered("rollback", [_rollback(*item) for item in _named("rollback", lists["rollback"])]),
        patch=parse_patch(given.get("patch", []), "changes.patch"),
        new_version=None
        if new_version is None
        else take_number(new_version, "changes.new_version", least=1, most=2**63 - 1),
    )


def shadow_hash(manifest: ManifestRecord, changes: Changes, document: dict[str, Value]) -> str:
    """Returns the hash of the full manifest that a proposal stands for: patched, and with its changes of modules.

    It equals the hash after the proposal is applied when no modules are changed.
    """
    version, content = changes.content_after(manifest)
    modules = {name: document[name] for name in _LISTS if document.get(name)}
    return manifest_hash(version, {**content, RESERVED_KEY: modules} if modules else content)


def _named(name: str, items: Iterable[Value]) -> Iterator[tuple[Value, str]]:
    return zip(items, (f"changes.{name}[{index}]" for index in count()), strict=False)


def _ordered(name: str, items: list[_T]) -> tuple[_T, ...]:
    ids = [item.module_id for item in items]
    for index, module_id in enumerate(ids):
        if module_id in ids[:index]:
            raise InvalidField("names a module twice", field=f"changes.{name}[{index}].module_id")
    return tuple(sorted(items, key=lambda item: item.module_id))


def _registration(value: Value, field: str) -> Registration:
    if not isinstance(value, dict):
        raise InvalidField("must be a map", field=field)
    module_id = take_id(value.get("module_id"), f"{field}.module_id")
    return Registration(module_id, take_version(value.get("version"), f"{field}.version"), value)


def _upgrade(value: Value, field: str) -> Registration:
    given = take_map(value, field, needed=("module_id", "from_version", "to_version", "wasm_hash", "manifest"))
    if not isinstance(given["manifest"], dict):
        raise InvalidField("must be a map", field=f"{field}.manifest")
    return Registration(
        take_id(given["module_id"], f"{field}.module_id"),
        take_version(given["to_version"], f"{field}.to_version"),
        given["manifest"],
        take_version(given["from_version"], f"{field}.from_version"),
        take_hash(given["wasm_hash"], f"{field}.wasm_hash"),
    )


def _activation(value: Value, field: str) -> Activation:
    given = take_map(value, field, needed=("module_id", "version"))
    return Activation(
        take_id(given["module_id"], f"{field}.module_id"), take_version(given["version"], f"{field}.version")
    )


def _deactivation(value: Value, field: str) -> Deactivation:
    given = take_map(value, field, needed=("module_id", "reason"))
    return Deactivation(
        take_id(given["module_id"], f"{field}.module_id"),
        take_text(given["reason"], f"{field}.reason", most=MAX_REASON),
    )


def _rollback(value: Value, field: str) -> Rollback:
    given = take_map(value, field, needed=("module_id", "reason"))
    return Rollback(
        take_id(given["module_id"], f"{field}.module_id"),
        take_text(given["reason"], f"{field}.reason", most=MAX_REASON),
    )
