"""`make simulate` and `make mutations`: worlds by seed from the command line."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
import time
from pathlib import Path

from tests.simulation.bugs import BUGS, Bug
from tests.simulation.mutations import by_slug, print_table, run_with, setup_of
from tests.simulation.picture import draw_picture
from tests.simulation.runner import Report, Run, run_seed, simulate_many, summary
from tests.simulation.shortcuts import install
from tests.simulation.shrink import shrink
from tests.simulation.world import Setup

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "simulation"


def main(arguments: list[str]) -> int:
    """Does what the arguments say; returns the exit status: 0 when all went well, 1 for a violation."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this seed alone")
    parser.add_argument("--seeds", type=int, default=20, metavar="N", help="run N seeds (default: 20)")
    parser.add_argument("--from", type=int, default=0, dest="first", metavar="K", help="begin with seed K (default: 0)")
    parser.add_argument("--bug", help="plant the bug of that name (see --mutations)")
    parser.add_argument("--shrink", action="store_true", help="make the failing seed's run small")
    parser.add_argument("--mutations", action="store_true", help="plant every bug and print the seeds that find it")
    parser.add_argument("--trace", type=int, default=0, metavar="LEVEL", help="1: the history; 2: with chatter")
    options = parser.parse_args(arguments)
    if options.mutations:
        return print_table()
    if options.seed is None:
        if options.bug or options.shrink or options.trace:
            parser.error("--bug, --shrink and --trace are for one seed: name it with --seed")
        return simulate_many(options.first, options.seeds)
    bug = by_slug(options.bug) if options.bug else None
    if options.bug and bug is None:
        parser.error(f"no bug is called {options.bug}; there are: {', '.join(bug.slug for bug in BUGS)}")
    if options.shrink:
        return shrink_one(options.seed, bug)
    return simulate_one(options.seed, bug, trace=options.trace)


def run_one(seed: int, bug: Bug | None, setup: Setup) -> Run:
    """Runs one seed, with the bug planted if there is one."""
    return run_seed(seed, setup) if bug is None else run_with(bug, seed, setup)


def simulate_one(seed: int, bug: Bug | None, *, trace: int) -> int:
    """Runs one seed and prints its history; returns the exit status."""
    began = time.monotonic()
    setup = Setup() if bug is None else setup_of(bug)
    run = run_one(seed, bug, dataclasses.replace(setup, history=trace > 0))
    show(run, chatter=trace > 1)
    report = Report(1, run.world.kernel.events, [(seed, str(run.violation))] if run.violation else [])
    if run.violation is not None:
        planted = f" BUG={bug.slug}" if bug is not None else ""
        print(f"VIOLATION seed {seed}: {run.violation}\n  made small: make simulate SEED={seed}{planted} SHRINK=1")
    print(summary(report, time.monotonic() - began))
    return 1 if run.violation is not None else 0


def shrink_one(seed: int, bug: Bug | None) -> int:
    """Makes the run of a failing seed small and prints its history; returns the exit status."""
    smallest = shrink(functools.partial(run_one, seed, bug), Setup() if bug is None else setup_of(bug))
    if smallest is None:
        print(f"simulate: seed {seed} violates nothing")
        return 0
    show(smallest.run)
    print(f"VIOLATION seed {seed}: {smallest.run.violation}")
    print(f"simulate: shrunk seed={seed} runs={smallest.tries} lines={smallest.lines_before} to {smallest.lines_after}")
    return 1


def show(run: Run, *, chatter: bool = False) -> None:
    """Prints the history of a run; a full one is also written down and drawn."""
    kernel = run.world.kernel
    lines = list(kernel.history.lines(chatter=chatter))
    for line in lines:
        print(line)
    print(f"fingerprint {kernel.digest}")
    if not kernel.history.full:
        return
    BUILD.mkdir(parents=True, exist_ok=True)
    text, picture = BUILD / f"seed-{kernel.seed}.txt", BUILD / f"seed-{kernel.seed}.svg"
    text.write_text("\n".join(lines) + "\n", encoding="utf-8")
    picture.write_text(draw_picture(run), encoding="utf-8")
    print(f"history {text.relative_to(ROOT)}, picture {picture.relative_to(ROOT)}")


if __name__ == "__main__":
    install(setattr)
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
