"""Makes objects as they should be, writes only what differs, and never touches an object that is not ours."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from agentworld_core.topology.resources import Metadata
from agentworld_operator.errors import AlreadyExists, KubernetesError
from agentworld_operator.kube.port import KubeApi
from agentworld_operator.resources.objects import (
    APPLIED,
    Object,
    annotation,
    belongs_to,
    digest_of,
    is_deleting,
    name_of,
    uid_of,
)

log = logging.getLogger(__name__)


class Settled:
    """Remembers what an object looked like right after we applied it.

    The API server may store a value in another form (a quantity, for one) than it was given; without this memory such
    an object would be applied again and again. Forgetting it costs one request.
    """

    def __init__(self) -> None:
        self._versions: dict[str, str] = {}

    def is_settled(self, live: Mapping[str, Any]) -> bool:
        """True when the object is exactly as it was after our last apply."""
        version = live["metadata"].get("resourceVersion")
        return version is not None and self._versions.get(uid_of(live)) == version

    def remember(self, live: Mapping[str, Any]) -> None:
        """Notes the object as the API server returned it."""
        self._versions[uid_of(live)] = str(live["metadata"].get("resourceVersion"))

    def forget(self, live: Mapping[str, Any]) -> None:
        """Drops what is known of an object that goes."""
        self._versions.pop(uid_of(live), None)


class Applier:
    """Makes the objects of one world during one reconcile; ``children`` is kept up to date with what was written."""

    def __init__(self, kube: KubeApi, world: Metadata, children: dict[str, dict[str, Object]], settled: Settled):
        self._kube = kube
        self._world = world
        self._settled = settled
        self.children = children
        self.foreign: list[str] = []
        self.refused: list[str] = []

    def live(self, kind: str, name: str) -> Object | None:
        """Returns an object of ours as it is, None when there is none."""
        return self.children.get(kind, {}).get(name)

    def ours(self, kind: str) -> dict[str, Object]:
        """Returns the objects of a kind that were made for this very World."""
        return {name: live for name, live in self.children.get(kind, {}).items() if self._is_ours(live)}

    async def ensure(self, desired: Object) -> Object | None:
        """Makes our fields of the object as desired; None when it is not ours or was refused."""
        desired = _with_digest(desired)
        kind, name = desired["kind"], name_of(desired)
        live = self.live(kind, name) or await self._stranger(desired)
        if live is not None:
            if not self._is_ours(live):
                self._reject(kind, name)
                return None
            if is_deleting(live):
                return None
            if annotation(live, APPLIED) == annotation(desired, APPLIED):
                if self._settled.is_settled(live) or covers(live, desired):
                    return live
                log.info("%s %s was changed by somebody else: put right", kind, name)
        return await self._write(desired, create=False)

    async def create(self, desired: Object) -> Object | None:
        """Makes the object unless it exists, and leaves it alone when it does; None when it is not ours."""
        kind, name = desired["kind"], name_of(desired)
        live = self.live(kind, name) or await self._stranger(desired)
        if live is not None:
            if self._is_ours(live):
                return live
            self._reject(kind, name)
            return None
        return await self._write(desired, create=True)

    async def annotate(self, live: Object, changes: Mapping[str, str]) -> Object:
        """Sets annotations of an object of ours where they differ."""
        if all(annotation(live, key) == value for key, value in changes.items()):
            return live
        kind, name = live["kind"], name_of(live)
        patch = {"metadata": {"annotations": dict(changes)}}
        stored = await self._kube.patch(kind, self._world.namespace, name, patch)
        return self._keep(kind, name, stored)

    async def patch(self, live: Object, patch: Mapping[str, Any]) -> Object:
        """Merges a patch into an object of ours."""
        kind, name = live["kind"], name_of(live)
        return self._keep(kind, name, await self._kube.patch(kind, self._world.namespace, name, patch))

    async def try_patch(self, live: Object, patch: Mapping[str, Any]) -> None:
        """Merges a patch that the API server may refuse for good; a refusal is noted."""
        try:
            await self.patch(live, patch)
        except KubernetesError as error:
            self._note_refusal(live["kind"], name_of(live), error)

    async def remove(self, live: Object) -> None:
        """Deletes an object of ours, once."""
        if is_deleting(live):
            return
        kind, name = live["kind"], name_of(live)
        log.info("delete %s %s/%s", kind, self._world.namespace, name)
        await self._kube.delete(kind, self._world.namespace, name, uid=uid_of(live))
        self._settled.forget(live)
        self.children.get(kind, {}).pop(name, None)

    async def remove_others(self, kind: str, keep: Iterable[str]) -> None:
        """Deletes the world's objects of a kind that are not among those to keep."""
        names = frozenset(keep)
        for name, live in self.ours(kind).items():
            if name not in names:
                await self.remove(live)

    async def _stranger(self, desired: Object) -> Object | None:
        """Returns what stands under the name without our labels; None leaves the way free."""
        return await self._kube.get(desired["kind"], self._world.namespace, name_of(desired))

    async def _write(self, desired: Object, *, create: bool) -> Object | None:
        kind, name = desired["kind"], name_of(desired)
        try:
            stored = await (self._kube.create(desired) if create else self._kube.apply(desired))
        except AlreadyExists:
            self._reject(kind, name)
            return None
        except KubernetesError as error:
            self._note_refusal(kind, name, error)
            return None
        log.info("%s %s %s/%s", "create" if create else "apply", kind, self._world.namespace, name)
        self._settled.remember(stored)
        return self._keep(kind, name, stored)

    def _note_refusal(self, kind: str, name: str, error: KubernetesError) -> None:
        """Notes a verdict on one object (quota, policy, schema) and goes on; raises what may pass by itself."""
        if not 400 <= error.status < 500 or error.status in (401, 409, 429):
            raise error
        log.warning("%s %s was refused: %s", kind, name, error)
        self.refused.append(f"{kind} {name}: {error.message}")

    def _keep(self, kind: str, name: str, stored: Object) -> Object:
        self.children.setdefault(kind, {})[name] = stored
        return stored

    def _is_ours(self, live: Mapping[str, Any]) -> bool:
        return belongs_to(live, self._world.uid)

    def _reject(self, kind: str, name: str) -> None:
        self.foreign.append(f"{kind} {name}")


def covers(live: Any, desired: Any) -> bool:
    """True when every field that we want has the wanted value; fields of others do not matter."""
    if isinstance(desired, Mapping):
        return isinstance(live, Mapping) and all(
            covers(live.get(key), value) for key, value in desired.items() if not _is_empty(value) or live.get(key)
        )
    if isinstance(desired, list):
        return (
            isinstance(live, list)
            and len(live) == len(desired)
            and all(covers(have, want) for have, want in zip(live, desired, strict=True))
        )
    return bool(live == desired)


def _is_empty(value: Any) -> bool:
    return value is None or value == {} or value == []


def _with_digest(desired: Object) -> Object:
    """Returns the object with a digest of what we want, by which a field that we no longer want is noticed."""
    meta = dict(desired["metadata"])
    meta["annotations"] = {**(meta.get("annotations") or {}), APPLIED: digest_of(desired)}
    return {**desired, "metadata": meta}
