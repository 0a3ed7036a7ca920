"""How many members a world can lose and still decide (decision 6 of the design); integers only."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuorumFacts:
    """The weights of a set of members, and how many of them may be lost, whichever they are."""

    members: int
    total_weight: int
    needed_weight: int
    tolerates: int


def needed_weight(total_weight: int, fault_model: str) -> int:
    """Returns the smallest weight that is strictly more than two thirds (Byzantine) or half (Crash) of the total."""
    return total_weight * 2 // 3 + 1 if fault_model == "Byzantine" else total_weight // 2 + 1


def quorum_facts(weights: Iterable[int], fault_model: str) -> QuorumFacts:
    """Returns the quorum of members with these weights; ``tolerates`` counts the heaviest first, so it always holds."""
    ordered = sorted(weights, reverse=True)
    total = sum(ordered)
    needed = needed_weight(total, fault_model)
    remaining, tolerates = total, 0
    for weight in ordered:
        remaining -= weight
        if remaining < needed:
            break
        tolerates += 1
    return QuorumFacts(members=len(ordered), total_weight=total, needed_weight=needed, tolerates=tolerates)
