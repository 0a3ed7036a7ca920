"""A step is a function of its input, and events are the whole state, whatever modules and governance do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from agentworld_core.world.modules.apply import MODULE_EVENTS
from tests.unit.core.world.modules.schedules import digest_of

ROOT = Path(__file__).parents[5]
SEEDS = 30
RARE = {"artifact.discarded", "artifact.removed", "capability.revoked", "proposal.rejected", "module.upgraded"}


def _elsewhere(seeds: int, **environment: str) -> str:
    """What another process prints for the same seeds."""
    path = os.pathsep.join([str(ROOT / "node"), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-m", "tests.unit.core.world.modules.schedules", "0", str(seeds)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        check=True,
        text=True,
        timeout=120,
    ).stdout


@pytest.mark.timeout(240)
def test_schedules_come_to_the_same_whatever_process_runs_them():
    found: Counter[str] = Counter()
    mine = ""
    for seed in range(SEEDS):
        digest, kinds = digest_of(seed)
        found += kinds
        mine += f"{seed} {digest}\n"
    assert set(MODULE_EVENTS) - set(found) == RARE
    assert mine == _elsewhere(SEEDS, PYTHONHASHSEED="7", TZ="Asia/Tokyo", LC_ALL="tr_TR.UTF-8")
