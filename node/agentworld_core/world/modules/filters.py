"""Filters of subscriptions: JSON-pointer rules over what a module would be given, in time bounded by their size.

A rule is ``{"path": "/payload/to/0", OPERATOR: VALUE}`` with exactly one of ``eq ne gt gte lt lte glob``. A list of
rules matches when all do; ``{"all": [...], "any": [...]}`` when all of the first and one of the second do. A pointer
that leads nowhere matches no rule, ``ne`` included. Numbers are compared with numbers alone. There are no regular
expressions: their cost can explode and their meaning follows a library; ``glob`` knows ``*`` and ``?`` (ADR 0010).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agentworld_core.codec import Value
from agentworld_core.errors import InvalidField
from agentworld_core.world.modules.documents import take_list, take_map, take_text

MAX_RULES = 16
MAX_POINTER_LENGTH = 256
MAX_POINTER_DEPTH = 16
MAX_OPERAND_LENGTH = 256
MAX_GLOB_TEXT = 4096

_MISSING = object()


@dataclass(frozen=True, slots=True)
class Rule:
    """One comparison of the value that a pointer leads to."""

    path: tuple[str, ...]
    operator: str
    operand: Value


@dataclass(frozen=True, slots=True)
class Filter:
    """Matches when all of ``every`` match and, if ``some`` has any, one of these."""

    every: tuple[Rule, ...] = ()
    some: tuple[Rule, ...] = ()

    def matches(self, document: Value) -> bool:
        """True when the document passes."""
        if not all(_holds(rule, document) for rule in self.every):
            return False
        return not self.some or any(_holds(rule, document) for rule in self.some)


def parse_filter(value: Value, field: str) -> Filter:
    """Returns the filter of a document; raises InvalidField that names the place."""
    if isinstance(value, list):
        return Filter(every=_rules(value, field))
    group = take_map(value, field, needed=(), optional=("all", "any"))
    if not group:
        raise InvalidField("must be a list of rules, or a map with all or any", field=field)
    return Filter(_rules(group.get("all", []), f"{field}.all"), _rules(group.get("any", []), f"{field}.any"))


def _rules(value: Value, field: str) -> tuple[Rule, ...]:
    items = take_list(value, field, most=MAX_RULES)
    return tuple(_rule(item, f"{field}[{index}]") for index, item in enumerate(items))


def _rule(value: Value, field: str) -> Rule:
    rule = take_map(value, field, needed=("path",), optional=_OPERATORS)
    operators = [name for name in rule if name != "path"]
    if len(operators) != 1:
        raise InvalidField(f"must have exactly one of {', '.join(_OPERATORS)}", field=field)
    operator = operators[0]
    operand = rule[operator]
    if operator in _ORDERED and type(operand) is not int:
        raise InvalidField("must be a whole number", field=f"{field}.{operator}")
    if operator == "glob" or isinstance(operand, str):
        take_text(operand, f"{field}.{operator}", most=MAX_OPERAND_LENGTH)
    elif operand is not None and type(operand) not in (bool, int):
        raise InvalidField("must be null, a boolean, a whole number or text", field=f"{field}.{operator}")
    return Rule(_pointer(rule["path"], f"{field}.path"), operator, operand)


def _pointer(value: Value, field: str) -> tuple[str, ...]:
    """Returns the reference tokens of a JSON pointer (RFC 6901)."""
    pointer = take_text(value, field, most=MAX_POINTER_LENGTH)
    if pointer == "":
        return ()
    tokens = pointer.split("/")
    if tokens[0] != "" or len(tokens) > MAX_POINTER_DEPTH + 1 or not all(_is_token(token) for token in tokens):
        raise InvalidField(
            f"must be a JSON pointer of at most {MAX_POINTER_DEPTH} steps, such as /payload/to", field=field
        )
    return tuple(token.replace("~1", "/").replace("~0", "~") for token in tokens[1:])


def _is_token(token: str) -> bool:
    return "~" not in token.replace("~0", "").replace("~1", "")


def _follow(document: Value, path: tuple[str, ...]) -> Any:
    found: Any = document
    for token in path:
        if isinstance(found, dict) and token in found:
            found = found[token]
        elif isinstance(found, list) and _is_index(token) and int(token) < len(found):
            found = found[int(token)]
        else:
            return _MISSING
    return found


def _is_index(text: str) -> bool:
    return len(text) < 10 and text.isascii() and text.isdigit() and (text == "0" or text[0] != "0")


def _holds(rule: Rule, document: Value) -> bool:
    found = _follow(document, rule.path)
    return found is not _MISSING and _COMPARE[rule.operator](found, rule.operand)


def _equal(found: Any, operand: Any) -> bool:
    # True equals 1 in Python, but not in a document.
    return type(found) is type(operand) and found == operand


def _glob(found: Any, pattern: Any) -> bool:
    return type(found) is str and len(found) <= MAX_GLOB_TEXT and glob_matches(pattern, found)


def glob_matches(pattern: str, text: str) -> bool:
    """True when the whole text fits the pattern: ``*`` stands for any characters, ``?`` for one.

    Only the last ``*`` is ever tried again, so the cost is at most the product of both lengths.
    """
    at = star = mark = 0
    place = 0
    seen = False
    while place < len(text):
        if at < len(pattern) and pattern[at] == "*":
            seen, star, mark = True, at, place
            at += 1
        elif at < len(pattern) and pattern[at] in ("?", text[place]):
            at += 1
            place += 1
        elif seen:
            mark += 1
            at, place = star + 1, mark
        else:
            return False
    return all(character == "*" for character in pattern[at:])


def _ordered(compare: Callable[[int, int], bool]) -> Callable[[Any, Any], bool]:
    return lambda found, operand: type(found) is int and compare(found, operand)


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": _equal,
    "ne": lambda found, operand: not _equal(found, operand),
    "gt": _ordered(lambda found, operand: found > operand),
    "gte": _ordered(lambda found, operand: found >= operand),
    "lt": _ordered(lambda found, operand: found < operand),
    "lte": _ordered(lambda found, operand: found <= operand),
    "glob": _glob,
}
_OPERATORS = tuple(_COMPARE)
_ORDERED = ("gt", "gte", "lt", "lte")
