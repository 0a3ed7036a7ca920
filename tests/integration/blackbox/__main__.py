"""`make blackbox` and `make handover`: a world of real processes under faults, and a judge of what was seen of it."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import sys
import time
from pathlib import Path

from tests.integration.blackbox import handover, isolation
from tests.integration.blackbox.checker import judge
from tests.integration.blackbox.nemesis import KINDS, plan
from tests.integration.blackbox.storm import Storm, note_accusations, note_errors, table
from tests.integration.blackbox.world import Running, Setup, running

BUILD = Path(__file__).parents[3] / "build" / "blackbox"
CANNOT = 2
SHORT_SECONDS = 1.0


def main(arguments: list[str]) -> int:
    """Does what the arguments say; returns 0 when all went well, 1 for a violation, 2 where it cannot run."""
    options = parse(arguments)
    if not isolation.is_inside():
        reason = isolation.prepare()
        if reason is not None:
            print(f"blackbox: cannot run: {reason}", file=sys.stderr)
            return CANNOT
        try:
            return isolation.run_inside("tests.integration.blackbox", arguments)
        finally:
            isolation.remove_leftovers(options.folder)
    folder = isolation.RunFolder(options.folder, f"seed-{options.seed}-{time.time_ns()}")
    with folder as path:
        status = asyncio.run(run(path, options))
        if status or options.keep:
            folder.keep()
            print(f"kept: {path}")
    return status


def parse(arguments: list[str]) -> argparse.Namespace:
    """Returns the options; argparse ends the process for wrong ones."""
    parser = argparse.ArgumentParser(prog="python -m tests.integration.blackbox", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="what is done, and to whom, follows from it")
    parser.add_argument("--minutes", type=float, default=30.0, help="for how long faults or hand-overs follow")
    parser.add_argument("--kinds", default="", help=f"faults, by comma (default: all of {', '.join(KINDS)})")
    parser.add_argument("--once", action="store_true", help="each fault once, alone and short, and no more")
    parser.add_argument("--hold", type=float, default=0.0, help="seconds that each fault lasts (default: drawn)")
    parser.add_argument("--nodes", type=int, default=4, help="validators (default: 4)")
    parser.add_argument("--clients", type=int, default=6, help="agents that act (default: 6)")
    parser.add_argument("--patience", type=float, default=30.0, help="seconds in which it has to be well again")
    parser.add_argument("--handover", type=int, default=0, metavar="COUNT", help="transfers, stops and crashes")
    parser.add_argument("--folder", type=Path, default=BUILD, help="where runs have their folders")
    parser.add_argument("--keep", action="store_true", help="keep logs and history of a run without violations too")
    options = parser.parse_args(arguments)
    unknown = [kind for kind in options.kinds.split(",") if kind and kind not in KINDS]
    if unknown:
        parser.error(f"--kinds: {unknown[0]} is not one of {', '.join(KINDS)}")
    return options


async def run(path: Path, options: argparse.Namespace) -> int:
    """Runs a world in a folder and judges it; prints as it goes, and a summary at the end."""
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:7.1f}  {text}", flush=True)

    setup = Setup(seed=options.seed, validators=options.nodes, clients=options.clients)
    say(f"seed {options.seed}, {options.nodes} validators, {options.clients} clients, load {os.getloadavg()[0]:.1f}")
    async with running(path, setup) as world:
        say("all are ready")
        measured: list[handover.Measured] = []
        if options.handover:
            until_time = time.monotonic() + 60 * options.minutes
            measured = await handover.run(
                world, count=options.handover, until_time=until_time, lease=setup.lease, say=say
            )
        else:
            await storm(world, options, say)
        await note_accusations(world)
        await world.finish(seconds=options.patience)
        used = {name: (node.memory_mb(), node.used_bytes() // 2**20) for name, node in world.cluster.machines.items()}
    note_errors(world)
    world.history.save(path / "history.json")
    violations = judge(world.history, patience=options.patience)
    for violation in violations:
        print(f"VIOLATION {violation}")
    print("\n".join([*handover.table(measured), handover.verdict(violations)] if measured else table(world)))
    print("memory and disk, MiB: " + ", ".join(f"{name} {rss}/{disk}" for name, (rss, disk) in used.items()))
    print("answers other than a commit: " + ", ".join(f"{k} {v}" for k, v in sorted(world.clients.refusals.items())))
    print(summary(world, options, violations=len(violations), seconds=time.monotonic() - began))
    return 1 if violations else 0


async def storm(world: Running, options: argparse.Namespace, say) -> None:
    """Brings faults about, for the minutes of the options or each of them once."""
    kinds = tuple(options.kinds.split(",")) if options.kinds else tuple(KINDS)
    faults = plan(options.seed, tuple(world.cluster.nodes), kinds)
    raging = Storm(world, options.patience, say)
    if options.once:
        raging.calm = 0.0
        once = [(pair[0].lasting(options.hold or SHORT_SECONDS),) for pair in itertools.islice(faults, len(kinds))]
        await raging.rage(once, until_time=float("inf"))
    else:
        if options.hold:
            faults = (tuple(fault.lasting(options.hold) for fault in pair) for pair in faults)
        await raging.rage(faults, until_time=time.monotonic() + 60 * options.minutes)


def summary(world: Running, options: argparse.Namespace, *, violations: int, seconds: float) -> str:
    """Returns the last line: what was run, and whether all went well."""
    history = world.history
    verdict = "ok" if not violations else f"violations={violations}"
    acknowledged = {ack.action_id for ack in history.acknowledged}
    ledger = max(history.ledgers.values(), key=len, default=[])
    return (
        f"blackbox: {verdict} seed={options.seed} nodes={options.nodes} seconds={seconds:.0f}"
        f" faults={len(history.troubles)} actions={len(history.sent)} acknowledged={len(acknowledged)}"
        f" blocks={len(ledger)} terms={ledger[-1].term if ledger else 0} reads={len(history.reads)}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
