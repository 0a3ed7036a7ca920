"""Runs worlds by seed: one with its history, or many on all cores, and says how to see a failure again."""

from __future__ import annotations

import gc
import os
import signal
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field

from tests.simulation.kernel import Violation
from tests.simulation.shortcuts import install
from tests.simulation.world import Setup, World

CHUNK = 20
SEEDS_PER_REPEAT = 100
PROGRESS_SECONDS = 10.0


@dataclass(frozen=True)
class Run:
    """One world after it has run, with what was wrong, if anything."""

    world: World
    violation: Violation | None


@dataclass
class Report:
    """What became of many seeds."""

    seeds: int = 0
    events: int = 0
    violations: list[tuple[int, str]] = field(default_factory=list)
    reached: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)

    def add(self, other: Report) -> None:
        """Takes in another report."""
        self.seeds += other.seeds
        self.events += other.events
        self.violations.extend(other.violations)
        self.reached.update(other.reached)
        self.refused.update(other.refused)


def run_seed(seed: int, setup: Setup | None = None) -> Run:
    """Runs one world; an error that nobody caught is a violation as well."""
    world = World(seed, setup)
    try:
        world.run()
    except Violation as found:
        violation = found
    except Exception as error:  # noqa: BLE001 - whatever production raises here, it would have ended a node
        place = traceback.extract_tb(error.__traceback__)[-1]
        says = f"{type(error).__name__} at {os.path.basename(place.filename)}:{place.lineno}: {error}"
        violation = Violation("ERROR", says)
        violation.__cause__ = error
    else:
        return Run(world, None)
    world.kernel.note("world", "VIOLATION", str(violation))
    return Run(world, violation)


def run_chunk(first: int, count: int) -> Report:
    """Runs some seeds one after the other."""
    report = Report()
    for seed in range(first, first + count):
        run = run_seed(seed)
        report.seeds += 1
        report.events += run.world.kernel.events
        report.reached.update(run.world.kernel.reached)
        report.refused.update(run.world.refused)
        violation = run.violation or _check_repeats(run)
        if violation is not None:
            report.violations.append((seed, str(violation)))
    return report


def _check_repeats(run: Run) -> Violation | None:
    """Runs every hundredth seed once more, and compares the histories."""
    kernel = run.world.kernel
    if kernel.seed % SEEDS_PER_REPEAT or run_seed(kernel.seed).world.kernel.digest == kernel.digest:
        return None
    return Violation("SAME", "running it again gives another history")


def run_many(first: int, count: int, *, workers: int) -> Iterator[Report]:
    """Runs seeds on several cores; yields what there is so far whenever some are done."""
    chunks = [(start, min(CHUNK, first + count - start)) for start in range(first, first + count, CHUNK)]
    total = Report()
    with ProcessPoolExecutor(workers, initializer=_begin) as pool:
        try:
            for done in as_completed([pool.submit(run_chunk, *chunk) for chunk in chunks]):
                total.add(done.result())
                yield total
        finally:
            pool.shutdown(cancel_futures=True)  # whoever interrupts it does not wait for all the rest


def again(seed: int) -> str:
    """Returns the command that shows a seed's world again."""
    return f"make simulate SEED={seed} TRACE=1"


def summary(report: Report, seconds: float) -> str:
    """Returns the last line: what was run, how fast, and whether all went well."""
    verdict = "ok" if not report.violations else f"violations={len(report.violations)}"
    rate = round(report.events / max(seconds, 0.001))
    return (
        f"simulate: {verdict} seeds={report.seeds} events={report.events} "
        f"seconds={seconds:.1f} events_per_second={rate}"
    )


def simulate_many(first: int, count: int) -> int:
    """Runs seeds, prints progress, violations and a summary; returns the exit status."""
    workers = os.cpu_count() or 1
    print(f"simulate: seeds {first} to {first + count - 1} on {workers} cores", flush=True)
    began = told = time.monotonic()
    shown, report = 0, Report()
    for report in run_many(first, count, workers=workers):
        for seed, says in report.violations[shown:]:
            print(f"VIOLATION seed {seed}: {says}\n  again: {again(seed)}", flush=True)
        shown = len(report.violations)
        now = time.monotonic()
        if now - told > PROGRESS_SECONDS:
            told = now
            print(f"  {report.seeds} of {count} seeds, {shown} violations, {now - began:.0f} s", flush=True)
    if report.reached:
        print("reached: " + ", ".join(f"{name} {times}" for name, times in sorted(report.reached.items())))
    if report.refused:
        print("refused: " + ", ".join(f"{name} {times}" for name, times in sorted(report.refused.items())))
    print(summary(report, time.monotonic() - began))
    return 1 if report.violations else 0


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the pool
    # A world is dropped as a whole; looking all the time for what it has dropped so far costs a tenth.
    gc.set_threshold(100_000, 50, 100)
    install(setattr)
