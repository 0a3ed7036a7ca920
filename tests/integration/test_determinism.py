"""The same histories in processes that differ in everything that must not matter: every byte is the same.

``make integration ARGS='-k determinism --histories 1000'`` tries more of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentworld_core.world.errors import REFUSAL_CODES

ROOT = Path(__file__).parents[2]
EVENTS = (
    "action.rejected", "agent.moved", "agent.registered", "directory.scheduled", "mailbox.cleared", "message.sent",
    "nonces.used", "object.created", "object.updated", "step.started",
)  # fmt: skip
# What only modules and their governance refuse; the schedules of tests/unit/core/world/modules have these.
OF_MODULES = (
    "already_settled", "denied", "expired", "hash_mismatch", "insufficient_resources", "invalid_signature",
    "invalid_state", "rule_failed", "shadow_failed", "stale_base", "wrong_world",
)  # fmt: skip
# What checks of actions and directories refuse, before anything is executed.
REFUSALS = (
    "directory_pending", "hash_mismatch", "invalid_field", "invalid_signature", "nonce_used", "state_mismatch",
    "unauthorized", "unsupported", "wrong_world",
)  # fmt: skip

VARIANTS: dict[str, tuple[dict[str, str], list[str]]] = {
    "one worker": (
        {"PYTHONHASHSEED": "0", "LC_ALL": "C", "LANG": "C", "TZ": "UTC", "PYTHONUTF8": "0"},
        ["--workers", "1"],
    ),
    "six workers, other orders, from snapshots": (
        {"PYTHONHASHSEED": "4294967295", "LC_ALL": "C.UTF-8", "LANG": "tr_TR.UTF-8", "TZ": "Pacific/Chatham",
         "PYTHONOPTIMIZE": "1"},
        ["--workers", "6", "--order", "1", "--restarts"],
    ),
}  # fmt: skip


def started(count: int, variant: str) -> subprocess.Popen[str]:
    environment, options = VARIANTS[variant]
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "LC_", "LANG", "TZ"))}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.integration.schedules", "--count", str(count), *options],
        env={**inherited, **environment, "PYTHONPATH": f"{ROOT / 'node'}:{ROOT}"},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


@pytest.mark.box("S3.2", "same")
@pytest.mark.timeout(1800)
def test_histories_are_the_same_byte_for_byte(request: pytest.FixtureRequest) -> None:
    count = request.config.getoption("--histories")
    began = time.monotonic()
    processes = {variant: started(count, variant) for variant in VARIANTS}
    lines: dict[str, list[str]] = {}
    try:
        for variant, process in processes.items():
            out, errors = process.communicate()
            assert process.returncode == 0, f"{variant}\n{errors}"
            lines[variant] = out.splitlines()
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    one, other = lines.values()
    for first, second in zip(one, other, strict=False):
        assert first == second, "the first line (seed, height, what, content id) that differs"
    assert len(one) == len(other)
    print(f"{count} histories, {len(one)} lines, {time.monotonic() - began:.0f} s")
    if count >= 100:
        seen = {line.removeprefix("seen ") for line in one if line.startswith("seen ")}
        refused = {f"receipt {code}" for code in REFUSAL_CODES if code not in OF_MODULES}
        wanted = {"receipt "} | refused | {f"event {kind}" for kind in EVENTS}
        wanted |= {f"error {code}" for code in REFUSALS} | {"directory"}
        assert wanted <= seen, f"nothing of this happened: {sorted(wanted - seen)}"
