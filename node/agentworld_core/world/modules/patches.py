"""Changes of the world's manifest: patches that set and remove at paths, made, merged and applied without ambiguity.

A path is a list of keys into maps. ``set`` makes the maps on its way; ``set`` on the empty path replaces everything;
``remove`` of what is not there is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agentworld_core.codec import Value, encode_value
from agentworld_core.errors import InvalidField, MalformedEncoding
from agentworld_core.world.modules.documents import take_list, take_map, take_text

MAX_OPERATIONS = 64
MAX_PATH = 8
MAX_KEY = 64
MAX_CONTENT_BYTES = 32 * 1024
RESERVED_KEY = "module_changes"

SAME_PATH = "same_path"
PREFIX_OVERLAP = "prefix_overlap"

Content = dict[str, Value]


@dataclass(frozen=True, slots=True)
class Operation:
    """Sets the value at a path, or removes it when ``remove`` is true."""

    path: tuple[str, ...]
    value: Value = None
    remove: bool = False

    def to_value(self) -> Value:
        """Returns the document that ``parse_patch`` reads."""
        if self.remove:
            return {"remove": {"path": list(self.path)}}
        return {"set": {"path": list(self.path), "value": self.value}}


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two patches that cannot be merged: the kind of conflict, and both paths."""

    kind: str
    one: tuple[str, ...]
    other: tuple[str, ...]


def parse_patch(value: Value, field: str) -> tuple[Operation, ...]:
    """Returns the operations of a patch document; raises InvalidField that names the place."""
    items = take_list(value, field, most=MAX_OPERATIONS)
    return tuple(_operation(item, f"{field}[{index}]") for index, item in enumerate(items))


def _operation(value: Value, field: str) -> Operation:
    given = take_map(value, field, needed=(), optional=("set", "remove"))
    if len(given) != 1:
        raise InvalidField("must be either set or remove", field=field)
    if "set" in given:
        body = take_map(given["set"], f"{field}.set", needed=("path", "value"))
        return Operation(_path(body["path"], f"{field}.set.path"), body["value"])
    body = take_map(given["remove"], f"{field}.remove", needed=("path",))
    return Operation(_path(body["path"], f"{field}.remove.path"), remove=True)


def _path(value: Value, field: str) -> tuple[str, ...]:
    keys = take_list(value, field, most=MAX_PATH)
    return tuple(take_text(key, f"{field}[{index}]", least=1, most=MAX_KEY) for index, key in enumerate(keys))


def apply_patch(content: Content, operations: Sequence[Operation], field: str = "patch") -> Content:
    """Returns the content after the operations; raises InvalidField for a misfit, or a result too large."""
    for index, operation in enumerate(operations):
        changed = _changed(content, operation, f"{field}[{index}]")
        if not isinstance(changed, dict):
            raise InvalidField("the content of a manifest must be a map", field=f"{field}[{index}]")
        content = changed
    if RESERVED_KEY in content:
        raise InvalidField(f"{RESERVED_KEY} is reserved for the changes of modules", field=field)
    try:
        # Two maps around it, as in the event that carries it: what cannot be written must not be accepted.
        size = len(encode_value({"payload": {"content": content}}))
    except MalformedEncoding as error:
        raise InvalidField("the content would be nested too deep", field=field) from error
    if size > MAX_CONTENT_BYTES:
        raise InvalidField(f"the content would have more than {MAX_CONTENT_BYTES} bytes", field=field)
    return content


def _changed(found: Any, operation: Operation, field: str, depth: int = 0) -> Any:
    if depth == len(operation.path):
        if operation.remove:
            raise InvalidField("the empty path cannot be removed", field=field)
        return operation.value
    key = operation.path[depth]
    last = depth + 1 == len(operation.path)
    if not isinstance(found, dict) or (operation.remove and key not in found):
        if operation.remove:
            raise InvalidField("there is nothing at this path", field=field)
        found = {}
    if operation.remove and last:
        return {name: item for name, item in found.items() if name != key}
    return {**found, key: _changed(found.get(key, {}), operation, field, depth + 1)}


def diff(before: Content, after: Content, path: tuple[str, ...] = ()) -> list[Operation]:
    """Returns the operations that turn one content into the other, in order of keys."""
    found: list[Operation] = []
    for key in sorted({**before, **after}):
        here = (*path, key)
        if key not in after:
            found.append(Operation(here, remove=True))
        elif key not in before or encode_value(before[key]) != encode_value(after[key]):
            one, other = before.get(key), after[key]
            if isinstance(one, dict) and isinstance(other, dict) and len(here) < MAX_PATH:
                found += diff(one, other, here)
            else:
                found.append(Operation(here, other))
    return found


def merge(one: Sequence[Operation], other: Sequence[Operation]) -> tuple[list[Operation], list[Conflict]]:
    """Returns both patches as one, and the conflicts: different operations at one path, or one inside of another.

    The merged patch means something only where there is no conflict.
    """
    conflicts: list[Conflict] = []
    merged = list(one)
    for theirs in other:
        clash = False
        for mine in one:
            if mine.path == theirs.path:
                clash = True
                if mine != theirs:
                    conflicts.append(Conflict(SAME_PATH, mine.path, theirs.path))
            elif _is_prefix(mine.path, theirs.path) or _is_prefix(theirs.path, mine.path):
                conflicts.append(Conflict(PREFIX_OVERLAP, mine.path, theirs.path))
        if not clash:
            merged.append(theirs)
    return merged, conflicts


def _is_prefix(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    return other[: len(one)] == one
