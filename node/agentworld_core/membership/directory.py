"""The membership directory: what one epoch must look like and what may follow it (design decisions 6 and 14).

All answers depend on the documents alone, so that everybody, at any time and offline, judges a chain the same way.
What a node has learned since (revocations it holds) is the business of ``membership.keyring``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from agentworld_core.errors import InvalidField, InvalidSignature, KeyRevoked, StateMismatch, Unauthorized, WrongWorld
from agentworld_core.ids import check_id
from agentworld_core.messages import Directory, KeyEntry, Member
from agentworld_core.signing import key_id_of, signed_bytes, unsigned_id, verify_bytes

BYZANTINE = "Byzantine"
CRASH = "Crash"
FIRST_EPOCH = 1
MAX_ACTIVATION_DELAY = 1024
_MAX_TOTAL_WEIGHT = 2**63 - 1


def directory_hash(directory: Directory) -> str:
    """Returns the content id that the next epoch and blocks name: the same whoever signed the directory."""
    return unsigned_id(directory)


def total_weight(directory: Directory) -> int:
    """Returns the weight of all members together."""
    return sum(member.weight for member in directory.members)


def quorum_weight(directory: Directory) -> int:
    """Returns the smallest weight that decides: more than two thirds (Byzantine) or more than half (Crash) of all."""
    total = total_weight(directory)
    if directory.fault_model == BYZANTINE:
        return total * 2 // 3 + 1
    if directory.fault_model == CRASH:
        return total // 2 + 1
    raise InvalidField("is not a fault model", field="fault_model", value=directory.fault_model, remedy=_MODELS)


def honest_weight(directory: Directory) -> int:
    """Returns the smallest weight whose word can be believed: more than may lie (Byzantine), or any at all (Crash)."""
    if directory.fault_model == CRASH:
        return 1
    return total_weight(directory) - quorum_weight(directory) + 1


def find_member(directory: Directory, member_id: str) -> Member | None:
    """Returns the member of that id, or None."""
    for member in directory.members:
        if member.member_id == member_id:
            return member
    return None


def key_in_directory(directory: Directory, member_id: str, key_id: str) -> KeyEntry:
    """Returns the key that this epoch trusts for the member; raises Unauthorized, or KeyRevoked when it is revoked."""
    member = find_member(directory, member_id)
    if member is None:
        raise Unauthorized(f"is not a member of epoch {directory.epoch}", field="member_id", value=member_id)
    if any(revoked.key_id == key_id for revoked in directory.revoked):
        raise KeyRevoked(f"is revoked by epoch {directory.epoch}", field="key_id", value=key_id)
    for key in member.keys:
        if key.key_id == key_id:
            return key
    raise Unauthorized(f"is not a key of {member_id} in epoch {directory.epoch}", field="key_id", value=key_id)


def usable_governance(directory: Directory, revoked_key_ids: Collection[str] = ()) -> tuple[KeyEntry, ...]:
    """Returns the governance keys of the epoch that neither it nor the given ids revoke."""
    revoked = {item.key_id for item in directory.revoked}.union(revoked_key_ids)
    return tuple(key for key in directory.governance if key.key_id not in revoked)


def check_first_directory(directory: Directory) -> None:
    """Raises a typed error unless the directory may begin a chain: well formed, epoch 1, signed by its governance."""
    if directory.epoch != FIRST_EPOCH:
        raise StateMismatch(f"the first epoch is {FIRST_EPOCH}", field="epoch", value=directory.epoch)
    if directory.previous_hash != "":
        raise StateMismatch("the first epoch has no predecessor", field="previous_hash", value=directory.previous_hash)
    _check_shape(directory)
    _check_signers(directory, directory.governance)
    _check_governance(directory, directory)


def check_next_directory(current: Directory, proposed: Directory) -> None:
    """Raises a typed error that names the field unless ``proposed`` may follow ``current``.

    It must be the next epoch of the same world on top of ``current``, well formed, keep every revocation, and be signed
    by the governance threshold of ``current``; also by its own where the governance keys or their threshold change.
    """
    if proposed.world_id != current.world_id:
        raise WrongWorld("is another world", field="world_id", value=proposed.world_id)
    if proposed.epoch != current.epoch + 1:
        raise StateMismatch(f"the next epoch is {current.epoch + 1}", field="epoch", value=proposed.epoch)
    expected = directory_hash(current)
    if proposed.previous_hash != expected:
        raise StateMismatch(f"must be {expected}", field="previous_hash", value=proposed.previous_hash)
    _check_shape(proposed)
    kept = {(item.key_id, item.statement) for item in proposed.revoked}
    for item in current.revoked:
        if (item.key_id, item.statement) not in kept:
            raise StateMismatch("a revocation cannot be undone", field="revoked", value=item.key_id)
    _check_signers(proposed, (*current.governance, *proposed.governance))
    _check_governance(proposed, current)
    if governance_changed(current, proposed):
        _check_governance(proposed, proposed)


def governance_changed(current: Directory, proposed: Directory) -> bool:
    """True when the two epochs do not name the same governance keys and threshold."""
    before = sorted(key.key_id for key in current.governance)
    after = sorted(key.key_id for key in proposed.governance)
    return before != after or current.governance_threshold != proposed.governance_threshold


def check_threshold(document: Any, directory: Directory, *, revoked_key_ids: Collection[str] = ()) -> None:
    """Raises InvalidSignature or Unauthorized unless enough usable governance keys of the directory signed it.

    Every signature must be by a governance key and verify; a document with a bad signature is refused as a whole.
    """
    _check_signers(document, directory.governance)
    _check_governance(document, directory, revoked_key_ids)


def is_expired(directory: Directory, now_ms: int) -> bool:
    """True when the directory was to be put in force before ``now_ms`` and must no longer be proposed."""
    return directory.expires_at_ms is not None and now_ms >= directory.expires_at_ms


_MODELS = f"use {BYZANTINE} or {CRASH}"


def _check_shape(directory: Directory) -> None:
    check_id(directory.world_id, field="world_id")
    if directory.fault_model not in (BYZANTINE, CRASH):
        raise InvalidField("is not a fault model", field="fault_model", value=directory.fault_model, remedy=_MODELS)
    if not 1 <= directory.activation_delay <= MAX_ACTIVATION_DELAY:
        says = f"must be 1 to {MAX_ACTIVATION_DELAY} blocks"
        raise InvalidField(says, field="activation_delay", value=directory.activation_delay)
    if directory.expires_at_ms is not None and directory.expires_at_ms <= directory.issued_at_ms:
        raise InvalidField("must be after issued_at_ms", field="expires_at_ms", value=directory.expires_at_ms)
    revoked = [item.key_id for item in directory.revoked]
    if revoked != sorted(set(revoked)):
        raise InvalidField("must be sorted by key id without duplicates", field="revoked")
    _check_members(directory, frozenset(revoked))
    _check_governance_keys(directory, frozenset(revoked))


def _check_members(directory: Directory, revoked: frozenset[str]) -> None:
    if not directory.members:
        raise InvalidField("must name at least one member", field="members")
    member_ids: dict[str, str] = {}
    peer_ids: dict[str, str] = {}
    key_ids: dict[str, str] = {}
    for index, member in enumerate(directory.members):
        field = f"members[{index}]"
        check_id(member.member_id, field=f"{field}.member_id")
        _claim(member_ids, member.member_id, f"{field}.member_id")
        if member.peer_id:
            _claim(peer_ids, member.peer_id, f"{field}.peer_id")
        if member.weight < 1:
            raise InvalidField("must be at least 1", field=f"{field}.weight", value=member.weight)
        if not member.keys:
            raise InvalidField("must hold at least one key", field=f"{field}.keys", remedy="or remove the member")
        for position, key in enumerate(member.keys):
            _check_key(key, f"{field}.keys[{position}]", revoked)
            _claim(key_ids, key.key_id, f"{field}.keys[{position}].key_id")
    if total_weight(directory) > _MAX_TOTAL_WEIGHT:
        raise InvalidField("the weights together must fit 63 bits", field="members")


def _check_governance_keys(directory: Directory, revoked: frozenset[str]) -> None:
    key_ids: dict[str, str] = {}
    for index, key in enumerate(directory.governance):
        _check_key(key, f"governance[{index}]", revoked)
        _claim(key_ids, key.key_id, f"governance[{index}].key_id")
    if not 1 <= directory.governance_threshold <= len(directory.governance):
        says = f"must be 1 to the number of governance keys ({len(directory.governance)})"
        raise InvalidField(says, field="governance_threshold", value=directory.governance_threshold)


def _check_key(key: KeyEntry, field: str, revoked: frozenset[str]) -> None:
    if len(key.public_key) != 32:
        raise InvalidField("must have 32 bytes", field=f"{field}.public_key", value=len(key.public_key))
    if key.key_id != key_id_of(key.public_key):
        raise InvalidField("is not the id of its public key", field=f"{field}.key_id", value=key.key_id)
    if key.key_id in revoked:
        raise KeyRevoked("is revoked by the same epoch", field=f"{field}.key_id", value=key.key_id)


def _claim(taken: dict[str, str], value: str, field: str) -> None:
    if value in taken:
        raise InvalidField(f"is already used at {taken[value]}", field=field, value=value)
    taken[value] = field


def _check_signers(document: Any, keys: Sequence[KeyEntry]) -> None:
    """Raises unless every signature is by one of the keys, once, and verifies."""
    by_id = {key.key_id: key for key in keys}
    data = signed_bytes(document)
    seen: dict[str, str] = {}
    for index, item in enumerate(document.signatures):
        field = f"signatures[{index}]"
        _claim(seen, item.key_id, f"{field}.key_id")
        key = by_id.get(item.key_id)
        if key is None:
            raise Unauthorized("is not a governance key", field=f"{field}.key_id", value=item.key_id)
        if not verify_bytes(key.public_key, item.signature, data):
            raise InvalidSignature("does not verify", field=f"{field}.signature", value=item.key_id)


def _check_governance(document: Any, directory: Directory, revoked_key_ids: Collection[str] = ()) -> None:
    """Raises Unauthorized unless the (already verified) signatures reach the directory's governance threshold."""
    usable = {key.key_id for key in usable_governance(directory, revoked_key_ids)}
    count = sum(1 for item in document.signatures if item.key_id in usable)
    if count < directory.governance_threshold:
        needed = f"{directory.governance_threshold} signatures of governance keys of epoch {directory.epoch}"
        raise Unauthorized(f"needs {needed}, has {count}", field="signatures")
