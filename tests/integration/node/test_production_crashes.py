"""SIGKILL and disk errors at any operation of making blocks, snapshots, room and proposals: every restart comes back.

Each seed is a folder on which lives follow each other. After each of them the folder must be whole, have all that was
acknowledged, and come to the state root that a run without any crash has at that height. ``CRASH_RUNS=200`` runs more
seeds, ``CRASH_SEED=7`` that one.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentworld_node.ledger import Ledger
from agentworld_node.store.check import check
from tests.integration.node.production import FAILED, FAULT, KILL, WHOLE, History, a_sandbox

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[3]
LIVES = 4
ONE = os.environ.get("CRASH_SEED")
SEEDS = [int(ONE)] if ONE else range(int(os.environ.get("CRASH_RUNS", "4")))


class Producer:
    """The process that forks lives."""

    def __init__(self, process: subprocess.Popen[str]):
        self._process = process
        assert self._line() == "ready"

    def life(self, folder: Path, seed: int, mode: str, operation: int) -> tuple[int, int]:
        """Lives once; returns the exit code, negative for a signal, and the last height that was acknowledged."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{folder} {seed} {mode} {operation}\n")
        self._process.stdin.flush()
        acknowledged = 0
        while True:
            word, _, number = self._line().partition(" ")
            if word == "ended":
                return int(number), acknowledged
            acknowledged = int(number)

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.endswith("\n"), "the producer has ended"
        return line.strip()


@pytest.fixture(scope="module")
def history() -> History:
    return History()


@pytest.fixture(scope="module")
def producer() -> Iterator[Producer]:
    path = os.pathsep.join((str(ROOT / "node"), str(ROOT)))
    with subprocess.Popen(
        [sys.executable, "-m", "tests.integration.node.production"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        cwd=ROOT,
    ) as process:
        yield Producer(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0


def restarted(folder: Path, history: History) -> int:
    """Starts a ledger on the folder as it was left and returns its height; its state is that of a run without crash."""
    ledger = Ledger.open(folder, history.chain.genesis, sandbox=a_sandbox())
    try:
        assert ledger.chain.state_root == history.root(ledger.height)
        for height in range(1, ledger.height + 1):
            assert ledger.bundle(height) == history.chain.bundles[height - 1]
        return ledger.height
    finally:
        ledger.close()


@pytest.mark.box("S8.2", "killed")
@pytest.mark.box("S3.2", "crash")
@pytest.mark.box("S26.3", "crash-anywhere")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", SEEDS)
def test_every_restart_reaches_the_root_of_a_run_without_crash(
    tmp_path: Path, history: History, producer: Producer, seed: int
) -> None:
    print(f"seed {seed}: CRASH_SEED={seed} runs it alone")
    rng = random.Random(seed)
    folder = tmp_path / "data"
    height = 0
    for life in range(LIVES):
        mode, operation = rng.choice((KILL, KILL, FAULT)), rng.randrange(1, 400)
        code, acknowledged = producer.life(folder, seed, mode, operation)
        assert code in (0, -signal.SIGKILL if mode == KILL else FAILED), f"seed {seed}, life {life}: exit {code}"
        print(f"life {life}: {mode} at operation {operation}: exit {code}, height {acknowledged} acknowledged")
        height = max(height, acknowledged)
        found = restarted(folder, history)
        assert found >= height, f"seed {seed}, life {life}: height {height} was acknowledged, {found} is there"
        height = found
        assert check(folder).is_whole, f"seed {seed}, life {life}: {check(folder)}"
    assert producer.life(folder, seed, WHOLE, 1)[0] == 0
    assert restarted(folder, history) == history.last
