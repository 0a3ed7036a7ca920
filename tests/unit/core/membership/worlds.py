"""A small signed world for tests: signers by name, directories, and their successors."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from agentworld_core.hashing import digest
from agentworld_core.membership.builder import Changes, key_entry, next_directory
from agentworld_core.membership.directory import BYZANTINE, FIRST_EPOCH
from agentworld_core.messages import Directory, Member, Revocation
from agentworld_core.signing import Ed25519Signer, add_signature

WORLD = "aurora"


@functools.cache
def signer(name: str) -> Ed25519Signer:
    """The key that a name always has."""
    return Ed25519Signer(digest(name.encode()))


def member(name: str, *, weight: int = 1, keys: Sequence[Ed25519Signer] | None = None) -> Member:
    """A member with one key of its name, or with these."""
    own = [signer(name)] if keys is None else keys
    return Member(
        member_id=name,
        peer_id=f"peer-{name}",
        keys=tuple(key_entry(key.public_key, generation) for generation, key in enumerate(own, 1)),
        weight=weight,
        roles=("validator",),
    )


def first_directory(
    weights: Mapping[str, int],
    *,
    fault_model: str = BYZANTINE,
    governance: Sequence[str] = ("gov",),
    threshold: int = 1,
) -> Directory:
    """A signed epoch 1 of members with these weights."""
    unsigned = Directory(
        world_id=WORLD,
        epoch=FIRST_EPOCH,
        previous_hash="",
        members=tuple(member(name, weight=weight) for name, weight in sorted(weights.items())),
        fault_model=fault_model,
        governance=tuple(key_entry(signer(name).public_key, 1) for name in governance),
        governance_threshold=threshold,
        revoked=(),
        activation_delay=2,
        issued_at_ms=1000,
        expires_at_ms=None,
        reason="genesis",
        signatures=(),
    )
    return signed(unsigned, *governance)


def signed(directory: Directory, *names: str) -> Directory:
    """The directory with the signatures of these names added."""
    for name in names:
        directory = add_signature(directory, signer(name))
    return directory


def successor(current: Directory, changes: Changes, *signers: str) -> Directory:
    """The next epoch, signed."""
    return signed(next_directory(current, changes, now_ms=2000), *(signers or ("gov",)))


def statement(key_id: str, *signers: str, reason: str = "leaked") -> Revocation:
    """A signed revocation of a key."""
    revocation = Revocation(
        world_id=WORLD,
        key_id=key_id,
        reason=reason,
        revoked_at_ms=3000,
        requester_id="operator",
        signatures=(),
    )
    for name in signers:
        revocation = add_signature(revocation, signer(name))
    return revocation
