"""What an API server does with our resources, without one: prune, default, check the schema, check the CEL rules.

`test_api_server.py` puts the same cases before a real API server, so that this stand-in cannot drift from it unseen.
"""

from __future__ import annotations

import copy
import datetime
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import celpy
import jsonschema  # type: ignore[import-untyped]
import yaml
from celpy.adapter import json_to_cel

ROOT = Path(__file__).parents[2]
FILES = {"World": "world.yaml", "Validator": "validator.yaml", "MembershipKey": "membershipkey.yaml"}

Schema = dict[str, Any]
Manifest = dict[str, Any]


@cache
def crd(kind: str) -> Manifest:
    document: Manifest = yaml.safe_load((ROOT / "crds" / FILES[kind]).read_text(encoding="utf-8"))
    return document


def version(kind: str) -> dict[str, Any]:
    only: dict[str, Any] = crd(kind)["spec"]["versions"][0]
    return only


def schema(kind: str) -> Schema:
    found: Schema = version(kind)["schema"]["openAPIV3Schema"]
    return found


def nodes(node: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Yields every schema below this one with its path, itself first."""
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    if "items" in node:
        yield from nodes(node["items"], f"{path}[]")
    if isinstance(node.get("additionalProperties"), dict):
        yield from nodes(node["additionalProperties"], f"{path}{{}}")


def pruned(value: Any, node: Schema) -> Any:
    """Returns the value without fields that the schema does not know."""
    if isinstance(value, dict) and "additionalProperties" in node:
        return {name: pruned(item, node["additionalProperties"]) for name, item in value.items()}
    if isinstance(value, dict):
        known = node.get("properties", {})
        return {name: pruned(item, known[name]) for name, item in value.items() if name in known}
    if isinstance(value, list):
        return [pruned(item, node["items"]) for item in value]
    return value


def defaulted(value: Any, node: Schema) -> Any:
    """Returns the value with the schema's defaults, those inside of defaulted objects included."""
    if isinstance(value, dict):
        filled = dict(value)
        for name, child in node.get("properties", {}).items():
            if name not in filled and "default" in child:
                filled[name] = copy.deepcopy(child["default"])
            if name in filled:
                filled[name] = defaulted(filled[name], child)
        return filled
    if isinstance(value, list):
        return [defaulted(item, node["items"]) for item in value]
    return value


def stored(manifest: Manifest) -> Manifest:
    """Returns what the API server would keep of a manifest."""
    kind = manifest["kind"]
    kept = defaulted(pruned(manifest, schema(kind)), schema(kind))
    return {**kept, "metadata": copy.deepcopy(manifest["metadata"])}


def refusals(manifest: Manifest, *, before: Manifest | None = None) -> list[str]:
    """Returns why a manifest is refused, as `path: message`; empty when it is taken."""
    kind = manifest["kind"]
    new = stored(manifest)
    old = None if before is None else stored(before)
    found = list(_schema_errors(new, kind))
    # The API server asks the rules only about what the schema allows.
    return found or list(_rule_errors(schema(kind), new, old))


def _schema_errors(manifest: Manifest, kind: str) -> Iterator[str]:
    checker = jsonschema.Draft7Validator(schema(kind), format_checker=_FORMATS)
    for error in checker.iter_errors(manifest):
        missing = [error.message.split("'")[1]] if error.validator == "required" else []
        yield f"{_path([*error.absolute_path, *missing])}: {error.message}"
    for path, value, node in _values(manifest, schema(kind)):
        if isinstance(value, list) and (twice := _duplicates(value, node)):
            yield f"{path}: Duplicate value: {twice}"


_FORMATS = jsonschema.FormatChecker(formats=())


@_FORMATS.checks("date-time", raises=ValueError)
def _is_time(value: object) -> bool:
    return not isinstance(value, str) or bool(datetime.datetime.fromisoformat(value).tzinfo)


def _path(parts: Any) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".")


def _values(value: Any, node: Schema, path: str = "") -> Iterator[tuple[str, Any, Schema]]:
    yield path, value, node
    if isinstance(value, dict):
        for name, child in node.get("properties", {}).items():
            if name in value:
                yield from _values(value[name], child, f"{path}.{name}".lstrip("."))
    if isinstance(value, list):
        for place, item in enumerate(value):
            yield from _values(item, node["items"], f"{path}[{place}]")


def _key(item: Any, node: Schema) -> Any:
    return tuple(item.get(name) for name in node["x-kubernetes-list-map-keys"])


def _duplicates(value: list[Any], node: Schema) -> list[Any]:
    kind = node["x-kubernetes-list-type"]
    keys = value if kind == "set" else [_key(item, node) for item in value] if kind == "map" else []
    return [key for place, key in enumerate(keys) if key in keys[:place]]


@dataclass(frozen=True)
class Quantity:
    """The part of Kubernetes' `quantity` library that the rules use."""

    amount: Decimal


_UNITS = {"": Decimal(1), "m": Decimal("0.001")}
_UNITS |= {unit: Decimal(1000) ** power for power, unit in enumerate(("k", "M", "G", "T", "P", "E"), 1)}
_UNITS |= {unit: Decimal(1024) ** power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)}


def _quantity(text: Any) -> Any:
    matched = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text))
    assert matched is not None, text
    return Quantity(Decimal(matched[1]) * _UNITS[matched[2]])


def _compare(left: Any, right: Any) -> Any:
    return celpy.celtypes.IntType((left.amount > right.amount) - (left.amount < right.amount))


@cache
def _program(rule: str) -> celpy.Runner:
    environment = celpy.Environment()
    return environment.program(environment.compile(rule), functions={"quantity": _quantity, "compareTo": _compare})


def holds(rule: str, value: Any, old: Any = None) -> bool:
    """Evaluates a CEL rule; one that speaks of `oldSelf` needs an old value."""
    names = {"self": json_to_cel(value)}
    if old is not None:
        names["oldSelf"] = json_to_cel(old)
    return bool(_program(rule).evaluate(names))


def _rule_errors(node: Schema, new: Any, old: Any, path: str = "") -> Iterator[str]:
    for rule in node.get("x-kubernetes-validations", []):
        about_change = "oldSelf" in rule["rule"]
        if about_change and old is None:
            continue
        if not holds(rule["rule"], new, old if about_change else None):
            yield f"{(path + rule.get('fieldPath', '')).lstrip('.')}: {rule['message']}"
    if isinstance(new, dict):
        for name, child in node.get("properties", {}).items():
            if name in new:
                before = old.get(name) if isinstance(old, dict) else None
                yield from _rule_errors(child, new[name], before, f"{path}.{name}")
    if isinstance(new, list):
        for place, item in enumerate(new):
            yield from _rule_errors(node["items"], item, _counterpart(item, old, node), f"{path}[{place}]")


def _counterpart(item: Any, old: Any, node: Schema) -> Any:
    """Finds the old item with the same key; only lists of type map have one."""
    if not isinstance(old, list) or node["x-kubernetes-list-type"] != "map":
        return None
    return next((other for other in old if _key(other, node) == _key(item, node)), None)
