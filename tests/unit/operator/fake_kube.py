"""An API server in memory: resource versions, server-side apply, merge patches, status, finalizers, garbage collection.

Only what the operator relies on, and strictly: a write that would change nothing changes no resource version, an
immutable ConfigMap or pod spec refuses changes, and every write can be made to fail or to kill the operator.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from agentworld_operator.errors import AlreadyExists, Conflict, KubernetesError

Object = dict[str, Any]
Key = tuple[str, str, str]


class Killed(BaseException):
    """The operator process is gone; nothing in it may catch this."""


class FakeKube:
    """Implements ``KubeApi``; ``writes`` lists every write that was asked for, whether or not it changed anything."""

    def __init__(self) -> None:
        self.objects: dict[Key, Object] = {}
        self._applied: dict[Key, Object] = {}
        self._version = 0
        self._uid = 0
        self.writes: list[str] = []
        self.kill_at: int | None = None
        self.kill_before = True
        self.forbidden: list[str] = []
        self.time = "2026-01-01T00:00:00Z"
        self.prune: Callable[[Object], None] = lambda _wanted: None
        """Takes from a stored object what definitions of an older release do not know."""

    # What the operator calls

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        found = self.objects.get((kind, namespace, name))
        return _copy(found)

    async def find(self, kind: str, namespace: str | None, *, labels: Mapping[str, str] | None = None) -> list[Object]:
        return [
            _copy(obj)
            for (other, place, _), obj in sorted(self.objects.items())
            if other == kind and namespace in (None, place) and _carries(obj, labels or {})
        ]

    async def create(self, obj: Object) -> Object:
        with self._writing("create", obj["kind"], obj["metadata"]["name"]):
            return _copy(self.put(obj))

    async def apply(self, obj: Object) -> Object:
        with self._writing("apply", obj["kind"], obj["metadata"]["name"]):
            key = _key(obj)
            live = self.objects.get(key)
            if live is None:
                stored = self.put(obj)
            else:
                merged = _merge(_without(_copy(live), self._applied.get(key, {})), obj)
                stored = self._store(key, merged)
            self._applied[key] = _copy(obj)
            return _copy(stored)

    async def patch(self, kind: str, namespace: str, name: str, patch: Mapping[str, Any]) -> Object:
        with self._writing("patch", kind, name):
            return _copy(self.merge(kind, name, patch, namespace=namespace))

    async def patch_status(self, kind: str, namespace: str, name: str, patch: Mapping[str, Any]) -> Object:
        with self._writing("status", kind, name):
            return _copy(self.merge(kind, name, {"status": patch}, namespace=namespace))

    async def delete(self, kind: str, namespace: str, name: str, *, uid: str) -> None:
        with self._writing("delete", kind, name):
            live = self.objects.get((kind, namespace, name))
            if live is not None and live["metadata"]["uid"] == uid:
                self.remove(kind, name, namespace=namespace)

    # What a test or a controller does

    def put(self, obj: Object) -> Object:
        """Stores a new object."""
        key = _key(obj)
        if key in self.objects:
            raise AlreadyExists(f"{key} exists", status=409)
        self._uid += 1
        stored = _copy(obj)
        stored["metadata"].update(uid=f"uid-{self._uid:08d}", creationTimestamp=self.time, generation=1)
        self.objects[key] = stored
        return self._bump(stored)

    def read(self, kind: str, name: str, *, namespace: str = "default") -> Object:
        """Returns a stored object; a test fails when there is none."""
        return self.objects[(kind, namespace, name)]

    def names(self, kind: str) -> list[str]:
        """Returns the names of all objects of a kind."""
        return sorted(name for other, _, name in self.objects if other == kind)

    def merge(self, kind: str, name: str, patch: Mapping[str, Any], *, namespace: str = "default") -> Object:
        """Merges a patch into a stored object."""
        key = (kind, namespace, name)
        if key not in self.objects:
            raise KubernetesError(f"{key} not found", status=404)
        version = (patch.get("metadata") or {}).get("resourceVersion")
        if version is not None and version != self.objects[key]["metadata"]["resourceVersion"]:
            raise Conflict(f"{key} has changed", status=409)
        stored = self._store(key, _json_merge(_copy(self.objects[key]), _copy(patch)))
        if stored["metadata"].get("deletionTimestamp") and not stored["metadata"].get("finalizers"):
            self._drop(key)
        return stored

    def remove(self, kind: str, name: str, *, namespace: str = "default") -> None:
        """Deletes an object as a person would: finalizers hold it, dependents go after it."""
        key = (kind, namespace, name)
        if self.objects[key]["metadata"].get("finalizers"):
            self.objects[key]["metadata"]["deletionTimestamp"] = self.time
            self._bump(self.objects[key])
        else:
            self._drop(key)

    def _drop(self, key: Key) -> None:
        gone = self.objects.pop(key)
        self._applied.pop(key, None)
        uid = gone["metadata"]["uid"]
        for other, obj in list(self.objects.items()):
            owners = obj["metadata"].get("ownerReferences") or []
            if any(owner["uid"] == uid for owner in owners) and other in self.objects:
                self.remove(other[0], other[2], namespace=other[1])

    def _store(self, key: Key, wanted: Object) -> Object:
        live = self.objects[key]
        self.prune(wanted)
        if wanted == live:
            return live
        if key[0] == "Pod" and wanted.get("spec") != live.get("spec"):
            raise KubernetesError("pod updates may not change fields", status=422)
        if live.get("immutable") and _content(wanted) != _content(live):
            raise KubernetesError("immutable", status=422)
        if wanted.get("spec") != live.get("spec"):
            wanted["metadata"]["generation"] = live["metadata"]["generation"] + 1
        self.objects[key] = wanted
        return self._bump(wanted)

    def _bump(self, obj: Object) -> Object:
        self._version += 1
        obj["metadata"]["resourceVersion"] = str(self._version)
        return obj

    def _writing(self, verb: str, kind: str, name: str) -> "_Write":
        return _Write(self, f"{verb} {kind} {name}")


class _Write:
    """One write: counted, and the place where a test may kill the operator."""

    def __init__(self, kube: FakeKube, what: str):
        self._kube = kube
        self._what = what

    def __enter__(self) -> None:
        self._kube.writes.append(self._what)
        if self._what in self._kube.forbidden:
            raise KubernetesError(f"{self._what} is forbidden", status=403)
        if self._kube.kill_before:
            self._perhaps_kill()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and not self._kube.kill_before:
            self._perhaps_kill()

    def _perhaps_kill(self) -> None:
        if self._kube.kill_at is not None and len(self._kube.writes) >= self._kube.kill_at:
            self._kube.kill_at = None
            raise Killed(self._what)


def _copy(value: Any) -> Any:
    """Returns what the value looks like after a trip over the wire."""
    return json.loads(json.dumps(value))


def _key(obj: Object) -> Key:
    return (obj["kind"], obj["metadata"]["namespace"], obj["metadata"]["name"])


def _carries(obj: Object, labels: Mapping[str, str]) -> bool:
    have = obj["metadata"].get("labels") or {}
    return all(have.get(key) == value for key, value in labels.items())


def _content(obj: Object) -> tuple[Any, ...]:
    return (obj.get("data"), obj.get("binaryData"))


def _json_merge(target: Any, patch: Any) -> Any:
    if not isinstance(patch, Mapping):
        return _copy(patch)
    result = target if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _json_merge(result.get(key), value)
    return result


def _merge(target: Any, wanted: Any) -> Any:
    if not isinstance(wanted, Mapping) or not isinstance(target, dict):
        return _copy(wanted)
    for key, value in wanted.items():
        target[key] = _merge(target[key], value) if key in target else _copy(value)
    return target


def _without(live: Any, owned: Any) -> Any:
    """Returns the object without the leaves that an earlier apply owned; they come back if they are still wanted."""
    if not isinstance(live, dict) or not isinstance(owned, Mapping):
        return live
    for key, value in owned.items():
        if key not in live:
            continue
        if isinstance(value, Mapping) and value and isinstance(live[key], dict):
            _without(live[key], value)
        else:
            del live[key]
    return live
