"""The tool's modules and command, and what must not remain of a cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TOOL = REPOSITORY / "hack" / "cluster" / "cluster"

if str(TOOL.parent) not in sys.path:
    sys.path.append(str(TOOL.parent))


@dataclass(frozen=True)
class Tool:
    """The command, with the provider and the name that a test gives it."""

    name: str
    environment: dict[str, str]

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [str(TOOL), "--name", self.name, *words]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env={**os.environ, **self.environment}, stdout=pipe, stderr=pipe, text=True)

    def try_run(self, *words: str) -> subprocess.CompletedProcess[str]:
        with self.start(*words) as process:
            output, errors = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def run(self, *words: str) -> str:
        """Returns standard output; fails the test with everything it printed when the command fails."""
        done = self.try_run(*words)
        assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="session")
def root_only() -> None:
    if os.geteuid() != 0:
        pytest.skip("a local cluster needs root")
