"""What was said in statuses of which the API server has kept only a part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentworld_operator.resources.objects import Object, uid_of

REPORTED_KEPT = 4096


class Reported:
    """Remembers the statuses that were not kept as they were written, each with the version that this made.

    Definitions of an older release drop the fields that they do not know; without this memory such a status would
    differ, and be written, in every pass. Forgetting one costs one request.
    """

    def __init__(self) -> None:
        self._statuses: dict[str, tuple[str, Mapping[str, Any]]] = {}

    def seen(self, stored: Object) -> Object:
        """Returns the object with the status that we gave it, as long as it is what the API server made of that."""
        version, status = self._statuses.get(uid_of(stored), (None, None))
        return stored if version != stored["metadata"]["resourceVersion"] else {**stored, "status": status}

    def remember(self, answer: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        """Notes the object as the API server returned it for this status."""
        self._statuses.pop(uid_of(answer), None)
        if (answer.get("status") or {}) == status:
            return
        self._statuses[uid_of(answer)] = (answer["metadata"]["resourceVersion"], status)
        if len(self._statuses) > REPORTED_KEPT:
            del self._statuses[next(iter(self._statuses))]
