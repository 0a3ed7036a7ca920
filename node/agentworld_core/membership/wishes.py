"""Which of the revocations that people asked for are carried out now, which wait, and which are refused."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from agentworld_core.errors import StateMismatch
from agentworld_core.membership.directory import quorum_weight
from agentworld_core.membership.revocation import check_governance_remains
from agentworld_core.messages import Directory
from agentworld_core.topology.member_specs import RevokedSpec
from agentworld_core.topology.resources import MembershipKey

FORCE_REVOKE = "agentworld.dev/force-revoke"
"""Set to ``true`` on a MembershipKey: its entries of ``revoked`` are carried out although the world may stop."""


@dataclass(frozen=True)
class Wish:
    """One entry of ``spec.revoked`` to carry out: of which MembershipKey, and whether a person forces it."""

    key: str
    entry: RevokedSpec
    forced: bool


@dataclass(frozen=True, kw_only=True)
class RevocationPlan:
    """Statements to sign, key ids whose replacement must come first, and refusals with the way out by key id."""

    sign: tuple[Wish, ...] = ()
    replace_first: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)


def plan_revocations(keys: Iterable[MembershipKey], directory: Directory, known: Collection[str]) -> RevocationPlan:
    """Returns what to do about every entry of ``spec.revoked`` that no statement covers yet.

    ``known`` are the key ids that are revoked already. A key that would take the last usable governance key, or the
    quorum, with it is not revoked at once: the first is refused unless forced, the second waits until the key has been
    replaced, because a world without a quorum could not even put the replacement in force.
    """
    revoked = list(dict.fromkeys([*known, *(item.key_id for item in directory.revoked)]))
    sign: list[Wish] = []
    replace_first: list[str] = []
    refused: dict[str, str] = {}
    for key in keys:
        forced = key.metadata.annotations.get(FORCE_REVOKE) == "true"
        for entry in key.spec.revoked:
            if entry.key_id in revoked:
                continue
            problem = "" if forced else _takes_governance(directory, entry.key_id, revoked)
            if problem:
                refused[entry.key_id] = f'{problem}, or annotate MembershipKey {key.name} with {FORCE_REVOKE}: "true"'
            elif not forced and _breaks_quorum(directory, [*revoked, entry.key_id]):
                replace_first.append(entry.key_id)
            else:
                sign.append(Wish(key.name, entry, forced))
                revoked.append(entry.key_id)
    return RevocationPlan(sign=tuple(sign), replace_first=tuple(replace_first), refused=refused)


def _takes_governance(directory: Directory, key_id: str, revoked: Collection[str]) -> str:
    try:
        check_governance_remains(directory, key_id, revoked_key_ids=revoked)
    except StateMismatch as error:
        return f"{error.message}; raise spec.generation of the governance key first"
    return ""


def _breaks_quorum(directory: Directory, revoked: list[str]) -> bool:
    """True when it is the last of these keys that leaves too few members with a key that counts."""
    needed = quorum_weight(directory)
    return _able_weight(directory, revoked) < needed <= _able_weight(directory, revoked[:-1])


def _able_weight(directory: Directory, revoked: list[str]) -> int:
    return sum(member.weight for member in directory.members if any(key.key_id not in revoked for key in member.keys))
