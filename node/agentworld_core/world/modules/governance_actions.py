"""The actions by which governance puts code, rules and resources into a world, and the shape of their payloads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agentworld_core.codec import Value, encode_value
from agentworld_core.errors import AgentWorldError, InvalidField, TooLarge
from agentworld_core.ids import is_key_id
from agentworld_core.world.errors import ActionRefused
from agentworld_core.world.modules.artifacts import MAX_PIECE_BYTES, MAX_PIECES
from agentworld_core.world.modules.changes import parse_changes
from agentworld_core.world.modules.documents import (
    take_choice,
    take_export,
    take_hash,
    take_id,
    take_list,
    take_map,
    take_number,
    take_pattern,
    take_text,
)
from agentworld_core.world.modules.receipts import parse_receipt
from agentworld_core.world.modules.records import MAX_RESOURCE_KIND

ARTIFACT_PUT = "artifact.put"
ARTIFACT_REMOVE = "artifact.remove"
PROPOSAL_CREATE = "proposal.create"
PROPOSAL_SHADOW = "proposal.shadow"
PROPOSAL_APPROVE = "proposal.approve"
PROPOSAL_APPLY = "proposal.apply"
PROPOSAL_REJECT = "proposal.reject"
CAPABILITY_GRANT = "capability.grant"
CAPABILITY_REVOKE = "capability.revoke"
POLICY_SET = "policy.set"
RESOURCE_GRANT = "resource.grant"
EFFECT_SETTLE = "effect.settle"

ALLOW = "allow"
DENY = "deny"
ANY_MODULE = "*"

MAX_CHANGES_BYTES = 40 * 1024
MAX_REASON = 256
MAX_GRANT_KINDS = 16
MAX_POLICY_RULES = 64
MAX_POLICY_BYTES = 32 * 1024
MAX_AMOUNT = 2**53 - 1
MAX_SIGNERS = 16
_MAX_NUMBER = 2**63 - 1

Check = Callable[[str, Value], None]


def _checked(check: Callable[[Any, str], object]) -> Check:
    """Returns a check of a payload's field that refuses the action with what the document reader says."""

    def run(name: str, value: Value) -> None:
        try:
            check(value, name)
        except InvalidField as error:
            raise ActionRefused("invalid_field", f"{error.field}: {error.message}") from error

    return run


def _number(*, least: int, most: int) -> Check:
    return _checked(lambda value, name: take_number(value, name, least=least, most=most))


def _text(most: int) -> Check:
    return _checked(lambda value, name: take_text(value, name, most=most))


def _piece(name: str, value: Value) -> None:
    if not isinstance(value, bytes) or not value:
        raise ActionRefused("invalid_field", f"{name}: must be bytes, at least one")
    if len(value) > MAX_PIECE_BYTES:
        raise ActionRefused("too_large", f"{name}: {len(value)} bytes exceed the limit of {MAX_PIECE_BYTES}")


def _sized(limit: int) -> Check:
    def run(name: str, value: Value) -> None:
        try:
            # One map deeper than in the payload, as in the record that keeps it.
            size = len(encode_value({"value": {"value": value}}))
        except AgentWorldError as error:
            raise ActionRefused("invalid_field", f"{name}: is nested too deep") from error
        if size > limit:
            raise ActionRefused("too_large", f"{name}: {size} bytes exceed the limit of {limit}")

    return run


def _changes(name: str, value: Value) -> None:
    _sized(MAX_CHANGES_BYTES)(name, value)
    _checked(lambda value, _name: parse_changes(value))(name, value)


def _kinds(value: Value, field: str) -> None:
    for index, item in enumerate(take_list(value, field, least=1, most=MAX_GRANT_KINDS)):
        take_pattern(item, f"{field}[{index}]")


def _signers(value: Value, field: str) -> None:
    for index, item in enumerate(take_list(value, field, most=MAX_SIGNERS)):
        if not is_key_id(item):
            raise InvalidField("must be a key id (32 lower-case hex digits)", field=f"{field}[{index}]")


def _receipt(name: str, value: Value) -> None:
    try:
        parse_receipt(value, name)
    except (InvalidField, TooLarge) as error:
        raise ActionRefused(error.code, f"{error.field}: {error.message}") from error


def _policy(value: Value, field: str) -> None:
    for index, item in enumerate(take_list(value, field, most=MAX_POLICY_RULES)):
        place = f"{field}[{index}]"
        rule = take_map(item, place, needed=("effect", "module", "decision", "reason"))
        take_pattern(rule["effect"], f"{place}.effect")
        if rule["module"] != ANY_MODULE:
            take_id(rule["module"], f"{place}.module")
        take_choice(rule["decision"], f"{place}.decision", (ALLOW, DENY))
        take_text(rule["reason"], f"{place}.reason", most=MAX_REASON)


def take_resource(value: Value, field: str) -> str:
    """Returns the name of a resource; raises InvalidField."""
    take_text(value, field, least=1, most=MAX_RESOURCE_KIND)
    return take_export(value, field)


def _rules(name: str, value: Value) -> None:
    _sized(MAX_POLICY_BYTES)(name, value)
    _checked(_policy)(name, value)


_PROPOSAL = {"proposal": _number(least=1, most=_MAX_NUMBER)}

GOVERNANCE_FIELDS: dict[str, dict[str, Check]] = {
    ARTIFACT_PUT: {
        "artifact": _checked(take_hash),
        "index": _number(least=0, most=MAX_PIECES - 1),
        "count": _number(least=1, most=MAX_PIECES),
        "data": _piece,
    },
    ARTIFACT_REMOVE: {"artifact": _checked(take_hash)},
    PROPOSAL_CREATE: {"base": _checked(take_hash), "changes": _changes},
    PROPOSAL_SHADOW: _PROPOSAL,
    PROPOSAL_APPROVE: _PROPOSAL,
    PROPOSAL_APPLY: _PROPOSAL,
    PROPOSAL_REJECT: {**_PROPOSAL, "reason": _text(MAX_REASON)},
    CAPABILITY_GRANT: {
        "capability": _checked(take_id),
        "kinds": _checked(_kinds),
        "expires_tick": _number(least=0, most=_MAX_NUMBER),
        "signers": _checked(_signers),
    },
    CAPABILITY_REVOKE: {"capability": _checked(take_id)},
    POLICY_SET: {"rules": _rules},
    RESOURCE_GRANT: {
        "agent_id": _checked(take_id),
        "kind": _checked(take_resource),
        "amount": _number(least=1, most=MAX_AMOUNT),
    },
    EFFECT_SETTLE: {"receipt": _receipt},
}

OPTIONAL_FIELDS = {CAPABILITY_GRANT: frozenset({"signers"})}
"""The fields of a payload that may be left out."""
