"""What a committed block costs as a chain grows, at each of several heights against a chain that has just begun.

``python -m tests.bench.heights --to 100000`` grows one ledger on the disk, with a block of one action at a time, and
stops at every power of ten (and thrice it) to commit blocks of 64 actions in turn with a second ledger, which starts at
height 100. It takes minutes where ``make bench`` may not, so it is a command of its own.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.harness import quartiles
from tests.bench.material import VALIDATOR
from tests.bench.scaling import PARAMETERS, Chain
from tests.unit.node.material import make_genesis

LOW = 100
PAIRS = 15


def stops(goal: int) -> Iterator[int]:
    """Yields the heights at which to measure, the goal last."""
    height = 1_000
    while height < goal:
        yield from (stop for stop in (height, 3 * height) if stop < goal)
        height *= 10
    yield goal


def compare(long: Chain, short: Chain) -> tuple[list[float], list[float]]:
    """Returns ratios of the cost of a block, by the clock and in processor time, of so many pairs."""
    walls: list[float] = []
    cpus: list[float] = []
    for _ in range(PAIRS):
        found = []
        for chain in (long, short):
            used = time.process_time()
            taken = chain.blocks()
            found.append((taken, time.process_time() - used))
        walls.append(found[0][0] / found[1][0])
        cpus.append(found[0][1] / found[1][1])
    return walls, cpus


def main() -> None:
    """Prints a line for each height."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=int, default=100_000, help="the last height")
    parser.add_argument("--folder", type=Path, default=None, help="where to write; on the disk that is measured")
    given = parser.parse_args()
    genesis = make_genesis((VALIDATOR,), PARAMETERS)
    with (
        tempfile.TemporaryDirectory(dir=given.folder) as folder,
        Chain(Path(folder) / "short", genesis, LOW) as short,
        Chain(Path(folder) / "long", genesis, LOW) as long,
    ):
        for height in (LOW, *stops(given.to)):
            began = time.monotonic()
            long.grow(height)
            grown = time.monotonic() - began
            walls, cpus = compare(long, short)
            wrong = long.wrong()
            print(
                f"height {height:>7,}: by the clock {_quartiles(walls)}, processor time {_quartiles(cpus)}"
                f" (grown in {grown:.0f} s; short chain at {short.height:,}){' WRONG: ' + wrong if wrong else ''}",
                flush=True,
            )


def _quartiles(ratios: list[float]) -> str:
    first, _, third = quartiles(ratios)
    return f"{statistics.median(ratios):.2f} ({first:.2f}–{third:.2f})"


if __name__ == "__main__":
    main()
