"""`make simulate` and `make mutations`: worlds by seed from the command line."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tests.simulation.picture import draw_picture
from tests.simulation.runner import Report, Run, again, run_seed, simulate_many, summary
from tests.simulation.shortcuts import install
from tests.simulation.world import Setup

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "simulation"
LAST_LINES = 60


def main(arguments: list[str]) -> int:
    """Does what the arguments say; returns the exit status: 0 when all went well, 1 for a violation."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this seed alone")
    parser.add_argument("--seeds", type=int, default=20, metavar="N", help="run N seeds (default: 20)")
    parser.add_argument("--from", type=int, default=0, dest="first", metavar="K", help="begin with seed K (default: 0)")
    parser.add_argument("--trace", type=int, default=0, metavar="LEVEL", help="1: the history; 2: with chatter")
    options = parser.parse_args(arguments)
    if options.seed is None:
        return simulate_many(options.first, options.seeds)
    install(setattr)
    return simulate_one(options.seed, Setup(history=options.trace > 0), chatter=options.trace > 1)


def simulate_one(seed: int, setup: Setup, *, chatter: bool = False) -> int:
    """Runs one seed and prints its history; returns the exit status."""
    began = time.monotonic()
    run = run_seed(seed, setup)
    show(run, chatter=chatter)
    report = Report(1, run.world.kernel.events, [(seed, str(run.violation))] if run.violation else [])
    if run.violation is not None:
        print(f"VIOLATION seed {seed}: {run.violation}")
        if not setup.history:
            print(f"  with all of its history: {again(seed)}")
    print(summary(report, time.monotonic() - began))
    return 1 if run.violation is not None else 0


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
    sys.exit(main(sys.argv[1:]))
