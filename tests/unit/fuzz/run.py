"""Gives mutated inputs to decoders: ``make fuzz COUNT=100000``, or ``python -m tests.unit.fuzz.run --help``.

An input follows from (decoder, seed, index), so a failure is found again by ``--decoder NAME --seed S --from INDEX``.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from agentworld_core.errors import AgentWorldError
from tests.unit.fuzz.decoders import Decoder, decoders

HANG_SECONDS = 10.0
GROWTH_KIB = 16 * 1024
"""How much the process may grow after its first tenth; allocators and caches of libraries settle in that."""


class Found(AssertionError):
    """An input for which a decoder did something else than to accept it rightly or to refuse it with a typed error."""


class _Hangs(Exception):
    pass


@dataclasses.dataclass
class Outcome:
    """What became of the inputs of one decoder."""

    inputs: int = 0
    accepted: int = 0
    refused: Counter[str] = dataclasses.field(default_factory=Counter)


def input_of(decoder: Decoder, *, seed: int, index: int) -> bytes:
    """Returns the input of a number."""
    return decoder.mutate(random.Random(f"{decoder.name}/{seed}/{index}"), decoder.seeds)


def judge(decoder: Decoder, data: bytes, outcome: Outcome) -> None:
    """Gives an input to a decoder and notes the outcome; raises AssertionError, or what a decoder should not raise."""
    outcome.inputs += 1
    try:
        again = decoder.take(data)
    except AgentWorldError as error:
        if type(error) is AgentWorldError:
            raise AssertionError("an error without a code of its own") from error
        outcome.refused[error.code] += 1
    except decoder.typed as error:
        outcome.refused[type(error).__name__] += 1
    else:
        outcome.accepted += 1
        assert again is None or again == data, "accepted, and encodes to other bytes"


def fuzz(decoder: Decoder, *, seed: int, first: int = 0, count: int, until: float = float("inf")) -> Outcome:
    """Returns the outcome of so many inputs, or of those that could be tried before a monotonic time; raises Found."""
    outcome = Outcome()
    previous = signal.signal(signal.SIGALRM, _hang)
    try:
        for index in range(first, first + count):
            if time.monotonic() > until:
                break
            data = input_of(decoder, seed=seed, index=index)
            signal.setitimer(signal.ITIMER_REAL, HANG_SECONDS)
            try:
                judge(decoder, data, outcome)
            except Exception as error:
                where = f"--decoder '{decoder.name}' --seed {seed} --from {index} --count 1"
                raise Found(f"{type(error).__name__}: {error}\n{where}\ninput {data.hex()[:4000]}") from error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    return outcome


def _hang(_number: int, _frame: object) -> None:
    raise _Hangs(f"more than {HANG_SECONDS:g} seconds for one input")


def _resident_kib() -> int:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.split("VmRSS:")[1].split()[0])


def main() -> int:
    """Fuzzes the chosen decoders and prints one line for each; the exit status says whether anything was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000, help="inputs for each decoder (default: 100000)")
    parser.add_argument("--seconds", type=float, default=0, help="stop after so long, shared between the decoders")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other inputs (default: 0)")
    parser.add_argument("--from", dest="first", type=int, default=0, metavar="INDEX", help="first input (default: 0)")
    parser.add_argument("--decoder", default="", help="only those whose name contains this")
    options = parser.parse_args()
    chosen = [decoder for name, decoder in decoders().items() if options.decoder in name]
    failures = 0
    for decoder in chosen:
        until = time.monotonic() + options.seconds / len(chosen) if options.seconds else float("inf")
        began = time.monotonic()
        tenth = max(1, options.count // 10)
        try:
            fuzz(decoder, seed=options.seed, first=options.first, count=tenth, until=until)
            before = _resident_kib()
            rest = options.count - tenth
            outcome = fuzz(decoder, seed=options.seed, first=options.first + tenth, count=rest, until=until)
            growth = _resident_kib() - before
            if growth > GROWTH_KIB:
                raise Found(f"the process grew by {growth} KiB")
        except Found as found:
            failures += 1
            print(f"FOUND {decoder.name}: {found}", flush=True)
            continue
        codes = ", ".join(f"{code} {number}" for code, number in sorted(outcome.refused.items()))
        seconds = time.monotonic() - began
        print(
            f"{decoder.name}: {outcome.inputs + tenth} inputs in {seconds:.0f} s, then {outcome.accepted} accepted,"
            f" {codes}; grew {growth} KiB",
            flush=True,
        )
    print(f"seed {options.seed}: {len(chosen)} decoders, {failures} with a failure")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
