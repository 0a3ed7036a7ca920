"""Turns watch events into worlds that need a reconcile, and knows when a watch has gone deaf.

An event says only that something happened; what is true is read fresh. Events that cannot matter (our own status
patches, renewals of Leases) are told apart by what is left when the noise is taken away.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from agentworld_core.topology.plan import WORLD_LABEL
from agentworld_operator.resources.objects import label, uid_of


class WorldKey(NamedTuple):
    """A world by the place of its World resource."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"world {self.namespace}/{self.name}"


OWN_KINDS = ("World", "Validator", "MembershipKey")


class WatchMemory:
    """What the watches have shown so far: one digest and one version for each object."""

    def __init__(self) -> None:
        self._digests: dict[tuple[str, str], tuple[object, ...]] = {}
        self._versions: dict[tuple[str, str], str] = {}
        self._suspects: dict[tuple[str, str], str] = {}
        self.events = 0
        self.deaf: tuple[str, ...] = ()

    def saw(self, kind: str, event: str, obj: Mapping[str, Any]) -> WorldKey | None:
        """Takes in one watch event; returns the world that it may concern, None when it cannot matter."""
        self.events += 1
        key = (kind, uid_of(obj))
        digest = _digest(kind, obj)
        news = event == "DELETED" or self._digests.get(key) != digest
        if event == "DELETED":
            self._digests.pop(key, None)
            self._versions.pop(key, None)
        else:
            self._digests[key] = digest
            self._versions[key] = str(obj["metadata"].get("resourceVersion", ""))
        return world_of(kind, obj) if news else None

    def check(self, kind: str, listed: Iterable[Mapping[str, Any]]) -> None:
        """Compares a fresh list with what the watch has shown.

        An object whose listed version the watch has not shown by the next check, although it has not changed since,
        was lost on the way: the watch of its kind is deaf.
        """
        missing = []
        for obj in listed:
            key, version = (kind, uid_of(obj)), str(obj["metadata"].get("resourceVersion", ""))
            if self._versions.get(key) == version:
                self._suspects.pop(key, None)
            elif self._suspects.get(key) == version:
                missing.append(kind)
            else:
                self._suspects[key] = version
        self.deaf = tuple(dict.fromkeys([*(name for name in self.deaf if name != kind), *missing]))


def world_of(kind: str, obj: Mapping[str, Any]) -> WorldKey | None:
    """Returns the world that an object belongs to, None when it names none."""
    namespace = str(obj["metadata"].get("namespace", ""))
    if kind == "World":
        return WorldKey(namespace, str(obj["metadata"]["name"]))
    named = str((obj.get("spec") or {}).get("world") or "")
    name = named if kind in OWN_KINDS else label(obj, WORLD_LABEL)
    return WorldKey(namespace, name) if name else None


def _digest(kind: str, obj: Mapping[str, Any]) -> tuple[object, ...]:
    """Returns what matters of an object: not its version, not our own status, not the renewal of a Lease."""
    metadata, status = obj["metadata"], obj.get("status") or {}
    common = (
        metadata.get("generation"),
        metadata.get("deletionTimestamp"),
        str(metadata.get("labels")),
        str(metadata.get("annotations")),
        str(metadata.get("finalizers")),
    )
    if kind == "Lease":
        spec = obj.get("spec") or {}
        return (spec.get("holderIdentity"), spec.get("leaseTransitions"), metadata.get("deletionTimestamp"))
    if kind == "Pod":
        containers = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
        waiting = [(item.get("state") or {}).get("waiting") for item in containers]
        conditions = [(item.get("type"), item.get("status")) for item in status.get("conditions") or []]
        return (*common, status.get("phase"), status.get("podIP"), str(conditions), str(waiting))
    if kind in OWN_KINDS:
        # A status that somebody took away has to be made anew.
        return (*common, bool(status))
    return common
