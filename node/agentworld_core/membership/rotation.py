"""Key rotation as small steps, each decided from what is there, so that a crash anywhere just continues.

    make the key → a directory that trusts it → nodes confirm → switch signing → old key retires for the overlap
    → a directory that drops it

Both homes run it for every MembershipKey, again and again; it never counts on having run before. What cannot be seen
in the world (since when a key has been trusted, or signed with) comes back in the result to be kept; where it is lost
the wait begins anew. A revoked key is replaced at once, under the next generation, without waiting for confirmations.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

from agentworld_core.membership.builder import Changes, key_entry, with_keys
from agentworld_core.membership.directory import find_member, quorum_weight
from agentworld_core.membership.steps import Done, MakeKey, PublishDirectory, Step, SwitchSigning, Wait
from agentworld_core.messages import Directory, KeyEntry, RevokedKey
from agentworld_core.signing import key_id_of


class Purpose(enum.Enum):
    """What a key signs for."""

    VALIDATOR = "Validator"
    GOVERNANCE = "Governance"


class KeyState(enum.Enum):
    """Where a generation of a key is in its life."""

    PENDING = "Pending"
    TRUSTED = "Trusted"
    ACTIVE = "Active"
    RETIRING = "Retiring"
    RETIRED = "Retired"
    REVOKED = "Revoked"


@dataclass(frozen=True)
class KeyMaterial:
    """A generation whose private key exists in this home."""

    generation: int
    public_key: bytes

    @property
    def key_id(self) -> str:
        """The id of the key."""
        return key_id_of(self.public_key)


@dataclass(frozen=True)
class Confirmation:
    """What a node last said of itself: the epoch that it has adopted and the key that it signs with.

    There is one for every node that is waited for; epoch 0 stands for a node that has not been heard of.
    """

    node_id: str
    epoch: int
    active_key_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class KeyPlan:
    """What is wished for one MembershipKey; times in milliseconds.

    After ``confirm_timeout_ms`` a quorum of the validators is enough to confirm a directory.
    """

    purpose: Purpose
    member_id: str | None
    generation: int
    overlap_ms: int
    confirm_timeout_ms: int = 60_000


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What is kept between runs; all of it may be lost."""

    trusted_key_id: str | None = None
    trusted_epoch: int | None = None
    trusted_since_ms: int | None = None
    signing_key_id: str | None = None
    signing_since_ms: int | None = None


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What there is now: ``current`` is in force, ``pending`` is submitted or committed but not in force.

    ``active_key_id`` is the key that the home has told the signer to use. ``revoked`` are all revocations known, those
    that no directory lists yet included. ``now_ms`` is wall time, as is all that is kept.
    """

    material: Sequence[KeyMaterial]
    active_key_id: str | None
    current: Directory
    pending: Directory | None
    confirmations: Sequence[Confirmation]
    revoked: Sequence[RevokedKey] = ()
    progress: Progress = field(default_factory=Progress)
    now_ms: int


@dataclass(frozen=True)
class KeyStatus:
    """One generation for the status of its MembershipKey."""

    key_id: str
    generation: int
    public_key: bytes
    state: KeyState


@dataclass(frozen=True)
class Rotation:
    """The next step, what to keep for the next run, and the state of every generation."""

    step: Step
    progress: Progress
    keys: tuple[KeyStatus, ...]


def plan_rotation(plan: KeyPlan, observed: Observed) -> Rotation:
    """Returns the next step towards the wished generation; the same input always gives the same step."""
    return _Run(plan, observed).result()


class _Run:
    """One decision; the methods are the steps in their order, each returning None when it has nothing to do."""

    def __init__(self, plan: KeyPlan, observed: Observed):
        self.plan = plan
        self.seen = observed
        self.by_generation = {item.generation: item for item in observed.material}
        self.revoked = {item.key_id for item in (*observed.revoked, *observed.current.revoked)}
        self.target = self._target()
        self.progress = observed.progress

    def result(self) -> Rotation:
        step = self._step()
        return Rotation(step, self.progress, self._statuses())

    def _step(self) -> Step:
        if not self._is_member():
            return Wait("NotAMember", (self.plan.member_id or "",))
        new = self.by_generation.get(self.target)
        if new is None:
            return MakeKey(self.target)
        trust = self._trust(new)
        if trust is not None:
            return trust
        self._note_trusted(new)
        return self._confirm(new) or self._switch(new) or self._retire(new) or Done()

    def _target(self) -> int:
        """The wished generation, or the first one after it that is not revoked."""
        target = self.plan.generation
        while target in self.by_generation and self.by_generation[target].key_id in self.revoked:
            target += 1
        return target

    def _is_member(self) -> bool:
        if self.plan.purpose is Purpose.GOVERNANCE:
            return True
        return self.plan.member_id is not None and find_member(self.seen.current, self.plan.member_id) is not None

    def _trust(self, new: KeyMaterial) -> Step | None:
        if _lists(self._keys_in(self.seen.current), new.key_id):
            return None
        if self.seen.pending is not None:
            ours = _lists(self._keys_in(self.seen.pending), new.key_id)
            return Wait("DirectoryPending" if ours else "AnotherChangePending")
        kept = [key for key in self._own_keys() if key.key_id not in self.revoked]
        return self._publish([*kept, key_entry(new.public_key, new.generation)], f"trust generation {new.generation}")

    def _confirm(self, new: KeyMaterial) -> Step | None:
        if self.seen.active_key_id == new.key_id or self._is_urgent():
            return None
        epoch = self.progress.trusted_epoch or self.seen.current.epoch
        missing = tuple(sorted(item.node_id for item in self.seen.confirmations if item.epoch < epoch))
        if not missing:
            return None
        deadline = (self.progress.trusted_since_ms or 0) + self.plan.confirm_timeout_ms
        if self.seen.now_ms >= deadline and self._quorum_confirms(epoch):
            return None
        return Wait("NodesToConfirm", missing, until_ms=deadline if self.seen.now_ms < deadline else None)

    def _switch(self, new: KeyMaterial) -> Step | None:
        if self.seen.active_key_id != new.key_id:
            return SwitchSigning(new.key_id)
        if self.progress.signing_key_id != new.key_id:
            self.progress = dataclasses.replace(
                self.progress, signing_key_id=new.key_id, signing_since_ms=self.seen.now_ms
            )
        if self.plan.purpose is Purpose.GOVERNANCE:
            return None
        said = [item.active_key_id for item in self.seen.confirmations if item.node_id == self.plan.member_id]
        if said == [new.key_id] or not self._leftovers(new):
            return None
        # Its old key must stay trusted until the node has the new one, however long it is away; a revoked one need not.
        if all(key.key_id in self.revoked for key in self._leftovers(new)):
            return None
        return Wait("SignerToSwitch", (self.plan.member_id or "",))

    def _retire(self, new: KeyMaterial) -> Step | None:
        leftovers = self._leftovers(new)
        if not leftovers:
            return None
        since = self.progress.signing_since_ms
        until = (self.seen.now_ms if since is None else since) + self.plan.overlap_ms
        urgent = any(key.key_id in self.revoked for key in leftovers)
        if self.seen.now_ms < until and not urgent:
            return Wait("Overlap", until_ms=until)
        if self.seen.pending is not None:
            gone = not self._leftovers(new, self.seen.pending)
            return Wait("DirectoryPending" if gone else "AnotherChangePending")
        expired = [key for key in leftovers if key.key_id in self.revoked or self.seen.now_ms >= until]
        kept = [key for key in self._own_keys() if not _lists(expired, key.key_id)]
        return self._publish(kept, f"drop generations before {new.generation}")

    # What is there

    def _keys_in(self, directory: Directory) -> Sequence[KeyEntry]:
        if self.plan.purpose is Purpose.GOVERNANCE:
            return directory.governance
        member = find_member(directory, self.plan.member_id or "")
        return member.keys if member is not None else ()

    def _own_keys(self, directory: Directory | None = None) -> list[KeyEntry]:
        """The keys of this MembershipKey: all of the member's, or of governance those that this home has made."""
        keys = self._keys_in(directory or self.seen.current)
        if self.plan.purpose is Purpose.VALIDATOR:
            return list(keys)
        made = {item.key_id for item in self.seen.material}
        return [key for key in keys if key.key_id in made]

    def _leftovers(self, new: KeyMaterial, directory: Directory | None = None) -> list[KeyEntry]:
        return [key for key in self._own_keys(directory) if key.key_id != new.key_id]

    def _is_urgent(self) -> bool:
        return self.seen.active_key_id is None or self.seen.active_key_id in self.revoked

    def _quorum_confirms(self, epoch: int) -> bool:
        confirmed = {item.node_id for item in self.seen.confirmations if item.epoch >= epoch}
        weight = sum(member.weight for member in self.seen.current.members if member.member_id in confirmed)
        return weight >= quorum_weight(self.seen.current)

    def _note_trusted(self, new: KeyMaterial) -> None:
        if self.progress.trusted_key_id != new.key_id:
            self.progress = dataclasses.replace(
                self.progress,
                trusted_key_id=new.key_id,
                trusted_epoch=self.seen.current.epoch,
                trusted_since_ms=self.seen.now_ms,
            )

    def _publish(self, own_keys: Sequence[KeyEntry], reason: str) -> PublishDirectory:
        current = self.seen.current
        if self.plan.purpose is Purpose.VALIDATOR:
            members = with_keys(current, self.plan.member_id or "", own_keys)
            return PublishDirectory(Changes(members=members, revoked=tuple(self.seen.revoked)), reason)
        ours = self._own_keys()
        others = [key for key in current.governance if not _lists(ours, key.key_id)]
        changes = Changes(governance=(*others, *own_keys), revoked=tuple(self.seen.revoked))
        return PublishDirectory(changes, reason)

    def _statuses(self) -> tuple[KeyStatus, ...]:
        active = next((item for item in self.seen.material if item.key_id == self.seen.active_key_id), None)
        ordered = sorted(self.seen.material, key=lambda item: item.generation)
        return tuple(KeyStatus(m.key_id, m.generation, m.public_key, self._state(m, active)) for m in ordered)

    def _state(self, item: KeyMaterial, active: KeyMaterial | None) -> KeyState:
        if item.key_id in self.revoked:
            return KeyState.REVOKED
        trusted = _lists(self._keys_in(self.seen.current), item.key_id)
        newer = active is None or item.generation > active.generation
        if not trusted:
            return KeyState.PENDING if newer or item == active else KeyState.RETIRED
        if item == active:
            return KeyState.ACTIVE
        return KeyState.TRUSTED if newer else KeyState.RETIRING


def _lists(keys: Sequence[KeyEntry], key_id: str) -> bool:
    return any(key.key_id == key_id for key in keys)
