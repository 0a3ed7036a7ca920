"""The search for the first height at which two chains part, in as many probes as the height has binary digits.

Each block names the one before it, so two chains whose blocks of a height are the same agree on everything before, and
once they differ they differ at every later height. State roots alone would not do: states that differ for a while may
become the same again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True, slots=True)
class Bisection:
    """Two chains are known to agree at height ``agreed`` and to differ at ``parted``; ``probes`` were needed so far."""

    agreed: int
    parted: int
    probes: int = 0

    @property
    def probe(self) -> int | None:
        """The height whose two blocks must be compared next; None once ``parted`` is the first that differs."""
        return (self.agreed + self.parted) // 2 if self.parted - self.agreed > 1 else None

    def learn(self, height: int, *, same: bool) -> Bisection:
        """Returns what is known once the blocks of a height have been compared; it must be the one asked for."""
        if height != self.probe:
            raise ValueError(f"height {height} was not asked for, {self.probe} was")
        narrowed = replace(self, agreed=height) if same else replace(self, parted=height)
        return replace(narrowed, probes=self.probes + 1)


def most_probes(heights: int) -> int:
    """Returns how many probes find the first of so many heights at the worst: the logarithm to base 2, rounded up."""
    return max(heights - 1, 0).bit_length()
