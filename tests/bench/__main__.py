"""Runs the benchmarks: ``python -m tests.bench [--only B1,B4] [--quick] [--output build/bench.json]``."""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench import (
    b1_codec,
    b2_blobs,
    b4_journal,
    b5_recovery,
    b6_mempool,
    b7_lease,
    b8_consensus,
    b14_state,
    b15_modules,
    b17_simulator,
    scaling,
    whole,
    whole_modules,
)
from tests.bench.harness import Benchmark, LeftOut, Result, Setting, run_case
from tests.bench.report import headline, left_out, machine_line, row, write

BENCHMARKS: dict[str, Benchmark] = {
    "B1": b1_codec.cases,
    "B2": b2_blobs.cases,
    "B4": b4_journal.cases,
    "B5": b5_recovery.cases,
    "B6": b6_mempool.cases,
    "B7": b7_lease.cases,
    "B8": b8_consensus.cases,
    "B14": b14_state.cases,
    "B15": b15_modules.cases,
    "B17": b17_simulator.cases,
    "whole": whole.cases,
    "modules": whole_modules.cases,
    "scale": scaling.cases,
}


def chosen(text: str) -> list[str]:
    """Returns the names of the benchmarks to run, in their own order; all of them for an empty text."""
    by_upper = {name.upper(): name for name in BENCHMARKS}
    names = [by_upper.get(part.strip().upper(), part.strip()) for part in text.split(",") if part.strip()]
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        raise SystemExit(f"bench: there is no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    return [name for name in BENCHMARKS if not names or name in names]


def run(names: list[str], setting: Setting) -> Iterator[Result]:
    """Runs the benchmarks and yields the rows, each printed as soon as it is known."""
    machine = machine_line()
    print(machine, headline(), sep="\n", flush=True)
    for name in names:
        started = time.monotonic()
        for case in BENCHMARKS[name](setting):
            if isinstance(case, LeftOut):
                print(left_out(case), flush=True)
                continue
            result = run_case(case, setting, machine=machine)
            print(row(result), flush=True)
            yield result
        print(f"{name:5}took {time.monotonic() - started:.0f} s", flush=True)


def main() -> int:
    """Returns 1 when a result is incorrect; a goal that is missed is a finding, not a failure."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", default="", help="names of benchmarks, separated by commas")
    parser.add_argument("--quick", action="store_true", help="a smoke run of the harness; its figures mean nothing")
    parser.add_argument("--output", type=Path, default=Path("build/bench.json"))
    given = parser.parse_args()
    names = chosen(given.only)
    logging.basicConfig(level=logging.ERROR)  # what recovery says of injected faults is part of the check
    folder = given.output.parent.resolve() / "bench-work"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    results: list[Result] = []
    try:
        for result in run(names, Setting(folder, quick=given.quick)):
            results.append(result)
            write(results, given.output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    judged = [result for result in results if result.met is not None]
    met = sum(result.met is True for result in judged)
    print(f"bench: {met} of {len(judged)} goals met, {len(results)} rows in {given.output}")
    return 0 if all(result.correct for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
