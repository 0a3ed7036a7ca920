"""Conditions and statuses: written whole by the planner, compared with what is stored, patched where they differ."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

TRUE, FALSE, UNKNOWN = "True", "False", "Unknown"
MAX_MESSAGE = 2048


@dataclasses.dataclass(frozen=True, kw_only=True)
class Condition:
    """One statement about a resource, with a stable reason and a message that says what to do."""

    type: str
    status: str
    reason: str
    message: str = ""


def timestamp(milliseconds: int) -> str:
    """Returns a time as Kubernetes writes it, in whole seconds."""
    moment = datetime.datetime.fromtimestamp(milliseconds // 1000, tz=datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def milliseconds_of(text: object) -> int:
    """Returns the milliseconds of a time as Kubernetes writes it, 0 when it is none."""
    if not isinstance(text, str) or not text:
        return 0
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        return 0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return int(moment.timestamp() * 1000)


def conditions_of(obj: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Returns the stored conditions of an object by type."""
    stored = (obj.get("status") or {}).get("conditions") or []
    return {str(item.get("type")): item for item in stored if isinstance(item, Mapping)}


def merged_conditions(
    stored: Mapping[str, Mapping[str, Any]], wanted: Iterable[Condition], *, generation: int, now_ms: int
) -> list[dict[str, Any]]:
    """Returns the conditions to store; the transition time moves only when the status does."""
    result = []
    for condition in wanted:
        before = stored.get(condition.type, {})
        same = before.get("status") == condition.status and before.get("lastTransitionTime")
        result.append(
            {
                "type": condition.type,
                "status": condition.status,
                "observedGeneration": generation,
                "lastTransitionTime": before["lastTransitionTime"] if same else timestamp(now_ms),
                "reason": condition.reason,
                "message": condition.message[:MAX_MESSAGE],
            }
        )
    return result


def merge_patch(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the JSON merge patch that turns the stored status into the wanted one; empty when they are equal."""
    patch: dict[str, Any] = {key: None for key in stored if key not in wanted}
    for key, value in wanted.items():
        before = stored.get(key)
        if before == value:
            continue
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            patch[key] = merge_patch(before, value)
        else:
            patch[key] = value
    return patch


def without_empty(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the mapping without fields that say nothing; zero and false say something."""
    return {key: value for key, value in values.items() if value is not None and value not in ("", [], {})}


def listing(items: Sequence[str], *, limit: int = 5) -> str:
    """Returns names for a message, cut after a few."""
    text = ", ".join(items[:limit])
    return f"{text} and {len(items) - limit} more" if len(items) > limit else text
