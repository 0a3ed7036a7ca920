"""A failing run is made small without becoming another failure, and what was made small can be read and drawn."""

from __future__ import annotations

import dataclasses
import functools
import xml.etree.ElementTree as ET

from tests.simulation.mutations import by_slug, run_with, setup_of
from tests.simulation.picture import draw_picture
from tests.simulation.runner import Run, run_seed
from tests.simulation.shrink import shrink
from tests.simulation.world import Setup

TRIES = 60
LONG = 150


def test_a_planted_bug_is_told_in_few_lines() -> None:
    bug = by_slug("votes-against-its-lock")
    assert bug is not None
    setup = dataclasses.replace(setup_of(bug), history=True)
    # Where it shows at once there is nothing to make small.
    seed = next(seed for seed in range(50) if is_long(run_with(bug, seed, setup)))
    smallest = shrink(functools.partial(run_with, bug, seed), setup_of(bug), most_tries=TRIES)
    assert smallest is not None
    assert smallest.run.violation is not None
    assert smallest.run.violation.invariant in bug.breaks
    assert smallest.tries <= TRIES
    assert smallest.lines_after < smallest.lines_before // 2
    again = run_with(bug, seed, Setup(bug.node_class, lambda _: smallest.run.world.scenario))
    assert str(again.violation) == str(smallest.run.violation)


def is_long(run: Run) -> bool:
    return run.violation is not None and sum(1 for _ in run.world.kernel.history.lines()) > LONG


def test_a_run_that_is_fine_is_not_shrunk() -> None:
    assert shrink(functools.partial(run_seed, 0), Setup()) is None


def test_the_history_of_a_run_can_be_read_and_drawn() -> None:
    run = run_seed(0, Setup(history=True))
    lines = list(run.world.kernel.history.lines())
    assert any(" commits " in line for line in lines)
    assert any(" vote " in line and " -> " in line for line in lines)
    times = [int(line.split()[0]) for line in lines]
    assert times == sorted(times)
    picture = ET.fromstring(draw_picture(run))
    kinds = [element.tag.rsplit("}", 1)[-1] for element in picture]
    assert kinds.count("circle") > 5
    assert kinds.count("line") > 100


def test_a_history_changes_nothing() -> None:
    assert run_seed(5).world.kernel.events == run_seed(5, Setup(history=True)).world.kernel.events
