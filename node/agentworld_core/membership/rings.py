"""The generations of a MembershipKey that exist in a home, and which of them should be the newest now."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass, field

from agentworld_core.membership.builder import key_entry
from agentworld_core.membership.rotation import KeyMaterial, Progress
from agentworld_core.messages import KeyEntry
from agentworld_core.signing import key_id_of
from agentworld_core.topology.member_specs import MembershipKeySpec


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One generation: its number, its public key, and the ``spec.generation`` for which it was made.

    The clock and revocations make generations that nobody asked for, so the number may be ahead of what was ``asked``.
    """

    number: int
    public_key: bytes
    asked: int

    @property
    def key_id(self) -> str:
        """The id of the key."""
        return key_id_of(self.public_key)

    @property
    def entry(self) -> KeyEntry:
        """The directory's entry of this key."""
        return key_entry(self.public_key, self.number)

    @property
    def material(self) -> KeyMaterial:
        """What the rotation plan needs of it."""
        return KeyMaterial(generation=self.number, public_key=self.public_key)


@dataclass(frozen=True, kw_only=True)
class KeyRing:
    """All generations of one MembershipKey in order, the key that signs, and how far its rotation is."""

    generations: tuple[Generation, ...] = ()
    active_key_id: str = ""
    progress: Progress = field(default_factory=Progress)

    @property
    def newest(self) -> Generation | None:
        """The generation with the highest number."""
        return self.generations[-1] if self.generations else None

    @property
    def active(self) -> Generation | None:
        """The generation that signs."""
        return self.by_id(self.active_key_id)

    def by_id(self, key_id: str) -> Generation | None:
        """Returns the generation with that key id."""
        return next((item for item in self.generations if item.key_id == key_id), None)

    def with_generation(self, generation: Generation) -> KeyRing:
        """Returns the ring with one more generation, or with this one in the place of the one of its number."""
        others = [item for item in self.generations if item.number != generation.number]
        ordered = tuple(sorted([*others, generation], key=lambda item: item.number))
        return dataclasses.replace(self, generations=ordered)


def wanted_generation(
    spec: MembershipKeySpec, ring: KeyRing, *, now_ms: int, replace_first: Collection[str] = ()
) -> int:
    """Returns the generation that a MembershipKey should be at; times are wall milliseconds.

    A person asks for the next one by raising ``spec.generation``, the clock when the newest has signed for
    ``spec.rotation.interval``, and a revocation that must wait for a replacement (``replace_first``) asks too.
    """
    newest = ring.newest
    if newest is None:
        return spec.generation
    if spec.generation > newest.asked:
        return max(newest.number + 1, spec.generation)
    if newest.key_id in replace_first:
        return newest.number + 1
    due = next_rotation_ms(spec, ring)
    return newest.number + 1 if due is not None and now_ms >= due else newest.number


def next_rotation_ms(spec: MembershipKeySpec, ring: KeyRing) -> int | None:
    """Returns when the clock asks for the next generation, None when it does not, or a rotation is under way."""
    newest, rotation, progress = ring.newest, spec.rotation, ring.progress
    if not rotation.interval_ms or rotation.suspend or newest is None:
        return None
    if progress.signing_key_id != newest.key_id or progress.signing_since_ms is None:
        return None
    return progress.signing_since_ms + rotation.interval_ms
