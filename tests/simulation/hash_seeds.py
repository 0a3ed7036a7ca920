"""Whether the order of sets and the ids of objects show, in one process or another."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def outputs(code: str) -> set[str]:
    """Returns what the code prints in processes of their own, each with another hash seed of Python."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "node")])
    return {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
