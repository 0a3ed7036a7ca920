"""Who should be a member against who is one: the next change of the directory, one at a time.

A validator joins only after it has caught up, so that the larger quorum can be reached. It leaves the directory before
its node goes. Removing more weight than a quorum can lack is refused unless forced. So is removing a member, or giving
one another weight, when those who are there could not decide then: no later change could be decided either.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from agentworld_core.membership.builder import Changes
from agentworld_core.membership.directory import find_member, quorum_weight, total_weight
from agentworld_core.membership.steps import Done, PublishDirectory, Refused, Step, Wait
from agentworld_core.messages import Directory, Member, RevokedKey


@dataclass(frozen=True)
class WantedMember:
    """Somebody who should be a member, and whether it has caught up with the chain."""

    member: Member
    synced: bool


def plan_members(
    wanted: Sequence[WantedMember],
    current: Directory,
    pending: Directory | None,
    *,
    revoked: Sequence[RevokedKey] = (),
    force: bool = False,
) -> Step:
    """Returns the next step towards the wanted members.

    ``current`` is in force, ``pending`` submitted or committed but not in force yet. The keys of those who are members
    already are left to the rotation. ``revoked`` are all revocations known.
    """
    by_id = {item.member.member_id: item.member for item in wanted}
    leaving = tuple(member.member_id for member in current.members if member.member_id not in by_id)
    refused = _refused(current, leaving, force=force, nobody_left=not wanted)
    if refused is not None:
        return refused
    absent = [item for item in wanted if find_member(current, item.member.member_id) is None]
    joining = [item.member for item in absent if item.synced]
    kept = [_updated(member, by_id[member.member_id]) for member in current.members if member.member_id in by_id]
    if not kept and not joining:
        return Wait("JoiningToSync", tuple(item.member.member_id for item in absent))
    members = tuple(sorted((*kept, *joining), key=lambda member: member.member_id))
    if members == tuple(sorted(current.members, key=lambda member: member.member_id)):
        syncing = tuple(item.member.member_id for item in absent)
        return Wait("JoiningToSync", syncing) if syncing else Done()
    if pending is not None:
        return Wait("DirectoryPending")
    changed = dataclasses.replace(current, members=members)
    weighed = tuple(item.member_id for item in current.members if _has_other_weight(item, changed))
    if (leaving or weighed) and not force:
        stalls = why_it_stalls(changed, present=[item.member.member_id for item in wanted if item.synced])
        if stalls is not None:
            what = "may not leave" if leaving else "may not have another weight"
            return Refused("OthersAway", stalls, leaving or weighed, what)
    names = [*(f"add {member.member_id}" for member in joining), *(f"remove {name}" for name in leaving)]
    return PublishDirectory(Changes(members=members, revoked=tuple(revoked)), ", ".join(names) or "update members")


def why_it_stalls(changed: Directory, *, present: Collection[str]) -> str | None:
    """Returns why the members that are present could decide nothing under a directory; None when they could."""
    away = [member.member_id for member in changed.members if member.member_id not in present]
    needed, total = quorum_weight(changed), total_weight(changed)
    if sum(member.weight for member in changed.members if member.member_id in present) >= needed:
        return None
    are = f"{', '.join(away)} {'is' if len(away) == 1 else 'are'} away or behind"
    return f"weight {needed} of {total} would have to vote then, and {are}; wait until it is back, or force it"


def _updated(member: Member, wanted: Member) -> Member:
    return dataclasses.replace(member, peer_id=wanted.peer_id, weight=wanted.weight, roles=wanted.roles)


def _refused(current: Directory, leaving: tuple[str, ...], *, force: bool, nobody_left: bool) -> Refused | None:
    if nobody_left:
        return Refused("LastMember", "a world keeps at least one member; delete the world instead", leaving)
    weight = sum(member.weight for member in current.members if member.member_id in leaving)
    spare = total_weight(current) - quorum_weight(current)
    if weight > spare and not force:
        says = f"removing weight {weight} leaves no quorum, which can lack {spare}; remove fewer at a time, or force it"
        return Refused("TooManyLeaving", says, leaving)
    return None


def _has_other_weight(member: Member, changed: Directory) -> bool:
    found = find_member(changed, member.member_id)
    return found is not None and found.weight != member.weight
