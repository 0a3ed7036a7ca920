"""`make simulate-nodes`: worlds of whole nodes by seed from the command line."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.nodes.bugs import BUDGET, BUGS, Bug, by_slug, run_with, search_numbered
from tests.simulation.nodes.runner import Run, run_seed


def main(arguments: list[str]) -> int:
    """Does what the arguments say; returns the exit status: 0 when all went well, 1 for a violation."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.nodes", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this seed alone and print its history")
    parser.add_argument("--seeds", type=int, default=20, metavar="N", help="run N seeds (default: 20)")
    parser.add_argument("--from", type=int, default=0, dest="first", metavar="K", help="begin with seed K (default: 0)")
    parser.add_argument("--bug", help="plant the bug of that name (see --mutations); for one seed")
    parser.add_argument("--mutations", action="store_true", help="plant every bug and print the seeds that find it")
    options = parser.parse_args(arguments)
    bug = by_slug(options.bug) if options.bug else None
    if options.bug and bug is None:
        parser.error(f"no bug is called {options.bug}; there are: {', '.join(bug.slug for bug in BUGS)}")
    if options.seed is None and options.bug:
        parser.error("--bug is for one seed: name it with --seed")
    if options.mutations:
        return print_table()
    if options.seed is not None:
        return simulate_one(options.seed, bug)
    return simulate_many(range(options.first, options.first + options.seeds))


def simulate_one(seed: int, bug: Bug | None) -> int:
    """Runs one seed and prints its history."""
    began = time.monotonic()
    run = run_seed(seed, full=True) if bug is None else run_with(bug, seed, full=True)
    for line in run.lines:
        print(line)
    print(f"fingerprint {run.digest}")
    return report([run], began)


def simulate_many(seeds: Iterable[int]) -> int:
    """Runs seeds on all cores, and prints what is violated as soon as it is found."""
    began, runs = time.monotonic(), []
    with ProcessPoolExecutor(os.cpu_count(), initializer=_begin) as pool:
        for run in pool.map(run_seed, seeds):
            runs.append(run)
            if run.violation:
                print(f"VIOLATION seed {run.seed}: {run.violation}\n  again: {again(run.seed)}", flush=True)
    return report(runs, began)


def again(seed: int) -> str:
    """Returns the command that shows a seed's world again."""
    return f"make simulate-nodes SEED={seed}"


def report(runs: list[Run], began: float) -> int:
    """Prints what was reached and a summary; returns the exit status."""
    reached: Counter[str] = sum((run.reached for run in runs), Counter())
    print("reached: " + ", ".join(f"{name} {times}" for name, times in sorted(reached.items())))
    violations = sum(run.violation is not None for run in runs)
    print(
        f"simulate-nodes: {f'violations={violations}' if violations else 'ok'} seeds={len(runs)}"
        f" events={sum(run.events for run in runs)} messages={sum(run.messages for run in runs)}"
        f" blocks={sum(run.blocks for run in runs)} virtual_seconds={sum(run.virtual_seconds for run in runs):.0f}"
        f" seconds={time.monotonic() - began:.1f}"
    )
    return 1 if violations else 0


def print_table() -> int:
    """Searches for all bugs on all cores and prints the table; returns the exit status."""
    began, missed, width = time.monotonic(), 0, max(len(bug.name) for bug in BUGS)
    print(f"{'a node that':<{width}}  seeds  seconds  oracle        what it said", flush=True)
    with ProcessPoolExecutor(os.cpu_count(), initializer=_begin) as pool:
        for found in pool.map(search_numbered, range(len(BUGS))):
            missed += found.invariant is None
            seeds = f">{found.seeds}" if found.invariant is None else str(found.seeds)
            row = f"{found.bug:<{width}}  {seeds:>5}  {found.seconds:>7.1f}  {found.invariant or '':<12}"
            print(f"{row}  {found.says[:90]}", flush=True)
    verdict = f"missed={missed}" if missed else "ok"
    print(f"mutations of nodes: {verdict} bugs={len(BUGS)} budget={BUDGET} seconds={time.monotonic() - began:.1f}")
    return 1 if missed else 0


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the pool


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
