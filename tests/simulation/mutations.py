"""The mutation gate: plants each bug and counts the seeds that it takes to find it."""

from __future__ import annotations

import itertools
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import pytest

from tests.simulation.bugs import BUGS, Bug
from tests.simulation.kernel import Violation
from tests.simulation.runner import Run, run_seed
from tests.simulation.shortcuts import install
from tests.simulation.world import Setup

BUDGET = 250
"""The seeds within which a bug must be found."""


@dataclass(frozen=True)
class Found:
    """What became of a bug: the seed that shows it, how many seeds it took, and the oracle that saw it."""

    bug: str
    seed: int | None
    seeds: int
    oracle: str
    says: str
    seconds: float


def run_with(bug: Bug, seed: int, setup: Setup | None = None) -> Run:
    """Runs a seed with the bug planted; what is broken is mended afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        bug.patch(patch)
        return run_seed(seed, setup or setup_of(bug))


def setup_of(bug: Bug, *, history: bool = False) -> Setup:
    """Returns what the bug's worlds are made with."""
    return Setup(node_class=bug.node_class, adjust=bug.where, history=history)


def search(bug: Bug, budget: int = BUDGET) -> Found:
    """Runs seeds from 0 until the bug breaks what it should break."""
    began, last = time.monotonic(), Violation("", "")
    for seed in range(budget):
        violation = run_with(bug, seed).violation
        if violation is not None and violation.invariant in bug.breaks:
            seconds = time.monotonic() - began
            return Found(bug.name, seed, seed + 1, violation.invariant, violation.says, seconds)
        last = violation or last
    return Found(bug.name, None, budget, last.invariant, last.says, time.monotonic() - began)


def search_numbered(number: int, budget: int) -> Found:
    """Searches for the bug of that number, which a process can be told where it cannot be told the bug."""
    return search(BUGS[number], budget)


def by_slug(slug: str) -> Bug | None:
    """Returns the bug of that name, or the first whose name begins with it."""
    return next((bug for bug in BUGS if bug.slug.startswith(slug)), None)


def print_table(budget: int = BUDGET) -> int:
    """Searches for all bugs on all cores and prints the table; returns the exit status."""
    began, missed, width = time.monotonic(), 0, max(len(bug.name) for bug in BUGS)
    print(f"{'a node that':<{width}}  seeds  seconds  oracle   what it said", flush=True)
    with ProcessPoolExecutor(os.cpu_count(), initializer=install, initargs=(setattr,)) as pool:
        for found in pool.map(search_numbered, range(len(BUGS)), itertools.repeat(budget)):
            missed += found.seed is None
            seeds = str(found.seeds) if found.seed is not None else f">{found.seeds}"
            print(
                f"{found.bug:<{width}}  {seeds:>5}  {found.seconds:>7.1f}  {found.oracle:<7}  {found.says[:100]}",
                flush=True,
            )
    verdict = "ok" if not missed else f"missed={missed}"
    print(f"mutations: {verdict} bugs={len(BUGS)} budget={budget} seconds={time.monotonic() - began:.1f}")
    return 1 if missed else 0
