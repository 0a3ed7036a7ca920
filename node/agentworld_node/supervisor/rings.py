"""What is known of a MembershipKey's generations beside their private keys: why each was made, and how far a rotation is.

All of it may be lost: the waits of a rotation then begin anew, and nothing else changes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from agentworld_core.membership.rotation import KeyMaterial, Progress
from agentworld_core.topology.member_specs import MembershipKeySpec


@dataclasses.dataclass(frozen=True)
class Made:
    """Why and when a generation was made: ``asked`` is ``spec.generation`` at that time, which the clock may exceed."""

    asked: int
    made_ms: int


@dataclasses.dataclass(frozen=True)
class KeyRing:
    """The generations that were made, the key that signs for a governance key, and the progress of the rotation."""

    made: Mapping[int, Made] = dataclasses.field(default_factory=dict)
    active_key_id: str = ""
    progress: Progress = Progress()

    def with_made(self, generation: int, *, asked: int, now_ms: int) -> KeyRing:
        """Returns the ring with one more generation."""
        return dataclasses.replace(self, made={**self.made, generation: Made(asked, now_ms)})

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON; ``from_dict`` reads it back."""
        return {
            "made": {str(generation): dataclasses.asdict(made) for generation, made in self.made.items()},
            "active_key_id": self.active_key_id,
            "progress": dataclasses.asdict(self.progress),
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> KeyRing:
        """Returns the ring; what cannot be read counts as lost."""
        try:
            return KeyRing(
                made={int(number): Made(**made) for number, made in data.get("made", {}).items()},
                active_key_id=str(data.get("active_key_id", "")),
                progress=Progress(**data.get("progress", {})),
            )
        except (TypeError, ValueError, AttributeError):
            return KeyRing()


def wanted_generation(spec: MembershipKeySpec, ring: KeyRing, material: Sequence[KeyMaterial], *, now_ms: int) -> int:
    """Returns the generation that should sign: one more than the newest when a person or the clock asks for another.

    The clock counts from when the newest began to sign, so that one rotation ends before the next begins.
    """
    newest = max(material, key=lambda item: item.generation, default=None)
    if newest is None:
        return spec.generation
    made = ring.made.get(newest.generation)
    if spec.generation > (made.asked if made is not None else newest.generation):
        return max(newest.generation + 1, spec.generation)
    rotation, progress = spec.rotation, ring.progress
    by_the_clock = bool(rotation.interval_ms) and not rotation.suspend
    if by_the_clock and progress.signing_key_id == newest.key_id and progress.signing_since_ms is not None:
        return newest.generation + (now_ms >= progress.signing_since_ms + rotation.interval_ms)
    return newest.generation
