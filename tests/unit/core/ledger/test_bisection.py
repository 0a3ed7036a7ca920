"""The search for the first height at which two chains part: right everywhere, and never more probes than log2."""

from __future__ import annotations

import math

import pytest

from agentworld_core.ledger.bisection import Bisection, most_probes


def search(heights: int, parted: int) -> Bisection:
    found = Bisection(agreed=0, parted=heights)
    while (height := found.probe) is not None:
        found = found.learn(height, same=height < parted)
    return found


@pytest.mark.parametrize("heights", [1, 2, 3, 4, 5, 63, 64, 65, 300])
def test_every_place_is_found_within_the_bound(heights: int) -> None:
    bound = math.ceil(math.log2(heights))
    for parted in range(1, heights + 1):
        found = search(heights, parted)
        assert (found.agreed, found.parted) == (parted - 1, parted)
        assert found.probes <= bound == most_probes(heights)


def test_a_million_heights_need_twenty() -> None:
    assert max(search(10**6, parted).probes for parted in (1, 2, 499_999, 500_000, 777_777, 10**6)) == 20
    assert most_probes(10**6) == 20


def test_an_answer_to_another_question_is_refused() -> None:
    with pytest.raises(ValueError, match="was not asked for"):
        Bisection(agreed=0, parted=8).learn(3, same=True)
