"""Which of the revocations that people asked for are carried out now, which wait, and which are refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from agentworld_core.errors import StateMismatch
from agentworld_core.membership.directory import quorum_weight
from agentworld_core.membership.revocation import check_governance_remains
from agentworld_core.messages import Directory, Revocation
from agentworld_core.topology.resources import MembershipKey
from agentworld_operator.resources.objects import FORCE_REVOKE
from agentworld_operator.resources.status import milliseconds_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class RevocationPlan:
    """Statements to sign and publish, keys whose replacement must come first, and refusals by key id."""

    sign: tuple[Revocation, ...] = ()
    forced: tuple[str, ...] = ()
    replace_first: tuple[str, ...] = ()
    refused: Mapping[str, str] = dataclasses.field(default_factory=dict)


def plan_revocations(
    keys: Iterable[MembershipKey], directory: Directory, known: Iterable[str], *, now_ms: int
) -> RevocationPlan:
    """Returns what to do about every entry of ``spec.revoked`` that no statement covers yet.

    ``known`` are the key ids that are revoked already. A key that would take the last usable governance key, or the
    quorum, with it is not revoked at once: the first is refused unless forced, the second waits until the key has been
    replaced, because a world without a quorum could not even put the replacement in force.
    """
    revoked = list(dict.fromkeys([*known, *(item.key_id for item in directory.revoked)]))
    sign: list[Revocation] = []
    forced: list[str] = []
    replace_first: list[str] = []
    refused: dict[str, str] = {}
    for key in keys:
        force = key.metadata.annotations.get(FORCE_REVOKE) == "true"
        for entry in key.spec.revoked:
            if entry.key_id in revoked:
                continue
            if not force:
                try:
                    check_governance_remains(directory, entry.key_id, revoked_key_ids=revoked)
                except StateMismatch as error:
                    refused[entry.key_id] = (
                        f"{error.message}; raise spec.generation of the governance key first,"
                        f' or annotate MembershipKey {key.name} with {FORCE_REVOKE}: "true"'
                    )
                    continue
                if _breaks_quorum(directory, [*revoked, entry.key_id]):
                    replace_first.append(entry.key_id)
                    continue
            statement = Revocation(
                world_id=directory.world_id,
                key_id=entry.key_id,
                reason=entry.reason,
                revoked_at_ms=milliseconds_of(entry.at) or now_ms,
                requester_id=key.name,
                signatures=(),
            )
            sign.append(statement)
            revoked.append(entry.key_id)
            if force:
                forced.append(entry.key_id)
    return RevocationPlan(sign=tuple(sign), forced=tuple(forced), replace_first=tuple(replace_first), refused=refused)


def _breaks_quorum(directory: Directory, revoked: list[str]) -> bool:
    """True when it is the last of these keys that leaves too few members with a key that counts."""
    needed = quorum_weight(directory)
    return _able_weight(directory, revoked) < needed <= _able_weight(directory, revoked[:-1])


def _able_weight(directory: Directory, revoked: list[str]) -> int:
    return sum(member.weight for member in directory.members if any(key.key_id not in revoked for key in member.keys))
