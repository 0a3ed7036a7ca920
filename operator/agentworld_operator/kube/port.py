"""What the reconcilers need of an API server, and nothing more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from agentworld_operator.resources.objects import Object


class KubeApi(Protocol):
    """Reads and writes objects; every method raises KubernetesError, AlreadyExists or Conflict."""

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """Returns an object as it is now, None when there is none."""
        ...

    async def find(self, kind: str, namespace: str | None, *, labels: Mapping[str, str] | None = None) -> list[Object]:
        """Returns the objects of a namespace, or of all, that carry the labels."""
        ...

    async def create(self, obj: Object) -> Object:
        """Stores a new object; raises AlreadyExists when the name is taken."""
        ...

    async def apply(self, obj: Object) -> Object:
        """Makes our fields of an object as given (server-side apply), and returns the whole object."""
        ...

    async def patch(self, kind: str, namespace: str, name: str, patch: Mapping[str, Any]) -> Object:
        """Merges a patch into an object."""
        ...

    async def patch_status(self, kind: str, namespace: str, name: str, patch: Mapping[str, Any]) -> Object:
        """Merges a patch into the status of an object."""
        ...

    async def delete(self, kind: str, namespace: str, name: str, *, uid: str) -> None:
        """Deletes that very object; one that is gone or has been replaced is left alone."""
        ...
