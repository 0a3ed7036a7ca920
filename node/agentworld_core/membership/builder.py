"""Building the next epoch of a directory; it still has to be signed by the governance keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

from agentworld_core.membership.directory import directory_hash
from agentworld_core.messages import Directory, KeyEntry, Member, Revocation, RevokedKey
from agentworld_core.signing import key_id_of, unsigned_id

ACTIVATION_DELAY = 2


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What the next epoch is to change; None keeps what is there. Revocations are added to those there are."""

    members: Iterable[Member] | None = None
    governance: Iterable[KeyEntry] | None = None
    governance_threshold: int | None = None
    revoked: Iterable[RevokedKey] = ()
    fault_model: str | None = None


def next_directory(
    current: Directory,
    changes: Changes,
    *,
    now_ms: int,
    reason: str | None = None,
    expires_at_ms: int | None = None,
    activation_delay: int = ACTIVATION_DELAY,
) -> Directory:
    """Returns the unsigned successor of ``current``, in canonical order; revoked keys are taken out of it everywhere.

    ``now_ms`` is wall time. The result may still break a rule (a member without keys, a threshold without enough
    governance keys); ``check_next_directory`` says so after signing.
    """
    revoked = {item.key_id: item for item in (*changes.revoked, *current.revoked)}
    members = current.members if changes.members is None else changes.members
    governance = current.governance if changes.governance is None else changes.governance
    threshold = current.governance_threshold if changes.governance_threshold is None else changes.governance_threshold
    return dataclasses.replace(
        current,
        epoch=current.epoch + 1,
        previous_hash=directory_hash(current),
        members=tuple(sorted((_without(m, revoked) for m in members), key=lambda member: member.member_id)),
        fault_model=changes.fault_model or current.fault_model,
        governance=_usable(governance, revoked),
        governance_threshold=threshold,
        revoked=tuple(revoked[key_id] for key_id in sorted(revoked)),
        activation_delay=activation_delay,
        issued_at_ms=now_ms,
        expires_at_ms=expires_at_ms,
        reason=reason,
        signatures=(),
    )


def key_entry(public_key: bytes, generation: int) -> KeyEntry:
    """Returns the directory's entry of a public key."""
    return KeyEntry(key_id=key_id_of(public_key), public_key=public_key, generation=generation)


def revoked_key(statement: Revocation) -> RevokedKey:
    """Returns the directory's entry of a revocation statement."""
    return RevokedKey(key_id=statement.key_id, statement=unsigned_id(statement))


def with_member(directory: Directory, member: Member) -> tuple[Member, ...]:
    """Returns the members with this one added, or put in the place of the one of the same id."""
    others = tuple(item for item in directory.members if item.member_id != member.member_id)
    return tuple(sorted((*others, member), key=lambda item: item.member_id))


def without_member(directory: Directory, member_id: str) -> tuple[Member, ...]:
    """Returns the members without this one."""
    return tuple(item for item in directory.members if item.member_id != member_id)


def with_keys(directory: Directory, member_id: str, keys: Iterable[KeyEntry]) -> tuple[Member, ...]:
    """Returns the members with other keys for one of them."""
    ordered = tuple(sorted(keys, key=lambda key: (key.generation, key.key_id)))
    return tuple(
        dataclasses.replace(item, keys=ordered) if item.member_id == member_id else item for item in directory.members
    )


def _usable(keys: Iterable[KeyEntry], revoked: dict[str, RevokedKey]) -> tuple[KeyEntry, ...]:
    return tuple(sorted((key for key in keys if key.key_id not in revoked), key=lambda key: key.key_id))


def _without(member: Member, revoked: dict[str, RevokedKey]) -> Member:
    kept = tuple(key for key in member.keys if key.key_id not in revoked)
    return member if len(kept) == len(member.keys) else dataclasses.replace(member, keys=kept)
