"""Reads untyped manifest data field by field and remembers everything that is wrong with it, not only the first thing.

A reader never raises: it notes a violation with the full path, the value and the remedy, and goes on with the default,
so that a person sees all mistakes of a manifest at once. The caller asks at the end whether there were any.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from agentworld_core.errors import InvalidField
from agentworld_core.ids import check_id
from agentworld_core.topology.durations import format_duration, parse_duration

_QUANTITY = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?")
MAX_TEXT = 4096


class InvalidManifest(InvalidField):
    """A manifest breaks one or more rules; ``violations`` lists them all, the message is that of the first."""

    code = "invalid_manifest"

    def __init__(self, subject: str, violations: Iterable[InvalidField]):
        self.subject = subject
        self.violations = tuple(violations)
        first = self.violations[0]
        super().__init__(first.message, field=first.field, value=first.value, remedy=first.remedy)

    def __str__(self) -> str:
        return f"{self.subject}: " + "; ".join(str(violation) for violation in self.violations)


class Fields:
    """One mapping of a manifest at a path; each method takes one field, checks it and gives its value or default."""

    def __init__(self, data: object, path: str, violations: list[InvalidField]):
        self.path = path
        self.violations = violations
        self._seen: list[str] = []
        if data is not None and not isinstance(data, Mapping):
            self._violate("", "must be a mapping", data)
            data = None
        self._data: Mapping[str, Any] = data or {}

    def at(self, name: str) -> str:
        """Returns the full path of a field."""
        return ".".join(part for part in (self.path, name) if part)

    def violate(self, name: str, message: str, *, value: object = None, remedy: str | None = None) -> None:
        """Notes that a field breaks a rule."""
        self._violate(name, message, value, remedy)

    def has(self, name: str) -> bool:
        """True when the field is given and not null."""
        return self._data.get(name) is not None

    def raw(self, name: str) -> Any:
        """Returns the field as it is, null when absent."""
        self._seen.append(name)
        return self._data.get(name)

    def text(self, name: str, default: str = "", *, required: bool = False, limit: int = MAX_TEXT) -> str:
        """Returns a text of at most ``limit`` characters."""
        value = self.raw(name)
        if value is None or value == "":
            if required:
                self._violate(name, "is required", None)
            return default
        if not isinstance(value, str) or len(value) > limit:
            self._violate(name, f"must be text of at most {limit} characters", value)
            return default
        return value

    def identifier(self, name: str, default: str = "", *, required: bool = False) -> str:
        """Returns an id by the grammar of ids."""
        value = self.text(name, default, required=required)
        if value:
            try:
                return check_id(value, field=self.at(name))
            except InvalidField as error:
                self.violations.append(error)
        return default

    def choice(self, name: str, choices: tuple[str, ...], default: str) -> str:
        """Returns one of the choices."""
        value = self.text(name, default)
        if value not in choices:
            self._violate(name, "is not a choice", value, f"use {' or '.join(choices)}")
            return default
        return value

    def integer(self, name: str, default: int, *, minimum: int = 0, maximum: int = 2**31 - 1) -> int:
        """Returns an integer between both bounds, inclusive."""
        value = self.raw(name)
        if value is None:
            return default
        if type(value) is not int:
            self._violate(name, "must be an integer", value)
            return default
        if not minimum <= value <= maximum:
            self._violate(name, "is out of range", value, f"use {minimum} to {maximum}")
            return default
        return value

    def boolean(self, name: str, default: bool = False) -> bool:
        """Returns true or false."""
        value = self.raw(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self._violate(name, "must be true or false", value)
            return default
        return value

    def duration(self, name: str, default_ms: int, *, minimum_ms: int, maximum_ms: int) -> int:
        """Returns a duration in milliseconds, between both bounds, inclusive."""
        value = self.raw(name)
        if value is None:
            return default_ms
        try:
            milliseconds = parse_duration(value, field=self.at(name))
        except InvalidField as error:
            self.violations.append(error)
            return default_ms
        if not minimum_ms <= milliseconds <= maximum_ms:
            bounds = f"{format_duration(minimum_ms)} to {format_duration(maximum_ms)}"
            self._violate(name, "is out of range", value, f"use {bounds}")
            return default_ms
        return milliseconds

    def quantity(self, name: str, default: str = "") -> str:
        """Returns a Kubernetes quantity such as ``10Gi`` as text."""
        value = self.raw(name)
        if value is None:
            return default
        text = str(value) if type(value) in (int, str) else ""
        if _QUANTITY.fullmatch(text) is None:
            self._violate(name, "is not a quantity", value, "use a number with a unit, such as 10Gi or 500m")
            return default
        return text

    def section(self, name: str) -> Fields:
        """Returns the reader of a nested mapping, empty when absent."""
        return Fields(self.raw(name), self.at(name), self.violations)

    def sections(self, name: str, *, limit: int = 256) -> list[Fields]:
        """Returns one reader for each item of a list of mappings."""
        return [
            Fields(item, f"{self.at(name)}[{n}]", self.violations) for n, item in enumerate(self._list(name, limit))
        ]

    def texts(self, name: str, default: tuple[str, ...] = (), *, limit: int = 256) -> tuple[str, ...]:
        """Returns a list of texts without duplicates."""
        if not self.has(name):
            self._seen.append(name)
            return default
        values = self._list(name, limit)
        if not all(isinstance(value, str) and value for value in values):
            self._violate(name, "must be a list of text", values)
            return default
        if len(dict.fromkeys(values)) != len(values):
            self._violate(name, "names something twice", values, "remove the duplicate")
        return tuple(dict.fromkeys(values))

    def mappings(self, name: str, *, limit: int = 256) -> tuple[Mapping[str, Any], ...]:
        """Returns a list of mappings that Kubernetes, not we, understands; they are passed on as they are."""
        values = self._list(name, limit)
        if not all(isinstance(value, Mapping) for value in values):
            self._violate(name, "must be a list of mappings", values)
            return ()
        return tuple(values)

    def mapping(self, name: str) -> Mapping[str, Any]:
        """Returns a mapping that is passed on as it is."""
        value = self.raw(name)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self._violate(name, "must be a mapping", value)
            return {}
        return value

    def labels(self, name: str) -> Mapping[str, str]:
        """Returns a mapping of text to text."""
        value: Mapping[Any, Any] = self.mapping(name)
        if not all(isinstance(key, str) and isinstance(item, str) for key, item in value.items()):
            self._violate(name, "must map text to text", dict(value))
            return {}
        return value

    def finish(self) -> None:
        """Notes every field that nobody has read: it is misspelt or belongs elsewhere."""
        for name in self._data:
            if name not in self._seen:
                known = ", ".join(sorted(dict.fromkeys(self._seen))) or "none"
                self._violate(str(name), "is not a field", None, f"remove it, or use one of: {known}")

    def _list(self, name: str, limit: int) -> list[Any]:
        value = self.raw(name)
        if value is None:
            return []
        if not isinstance(value, list | tuple) or len(value) > limit:
            self._violate(name, f"must be a list of at most {limit} items", value)
            return []
        return list(value)

    def _violate(self, name: str, message: str, value: object, remedy: str | None = None) -> None:
        self.violations.append(InvalidField(message, field=self.at(name), value=value, remedy=remedy))
