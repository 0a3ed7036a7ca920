"""Two nodes are two processes with nothing in common: what a call gives and costs must still be the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

SCRIPT = """
import json, sys
from pathlib import Path
from agentworld_core.world.modules.sandbox import CallFailed, CallLimits, InvalidModule
from agentworld_node.sandbox import WasmSandbox
from tests.unit.sandbox.test_calls import FOREVER, TRAPS
from tests.unit.sandbox.wat import module, run

sandbox = WasmSandbox(Path(sys.argv[1]))
limits = CallLimits(fuel=10_000_000, memory_bytes=2**22, output_bytes=2**16)
outcomes = {"engine": sandbox.engine}

def record(name, code, data=b"input"):
    try:
        result = run(sandbox, code, data, limits=limits)
        outcomes[name] = [result.output.hex(), result.fuel_used]
    except (CallFailed, InvalidModule) as failed:
        outcomes[name] = [failed.code, getattr(failed, "reason_code", ""), str(failed)]

record("echo", module())
record("forever", module(FOREVER))
nan = "(f64.store (i32.const 0) (f64.div (f64.const 0) (f64.const 0)))"
record("nan", module(nan + "(call $pack (i32.const 0) (i32.const 8))"))
record("not a module", b"nothing")
for name, (body, extra) in TRAPS.items():
    record(name, module(body, extra=extra))

# What the examples answer to a batch, and what it costs.
import random
from tests.unit.sandbox.test_examples import Example, some_actions
for name in ("counter", "gatekeeper"):
    example = Example(sandbox, name)
    inputs = [example.input(*some_actions(name, random.Random(number)), f"agent-{number}") for number in range(200)]
    answers, fuel = example.together(inputs)
    outcomes[f"batch for {name}"] = [[answer.hex() for answer in answers], fuel]

from tests.unit.sandbox.test_worlds import history
outcomes["world"] = history(sandbox, 1)

# The deepest recursion that the stack allows is part of the outcome.
down = ("(func $down (param $n i32) (result i32) (if (result i32) (i32.eqz (local.get $n)) (then (i32.const 1))"
        " (else (i32.add (call $down (i32.sub (local.get $n) (i32.const 1))) (i32.const 1)))))")
low, high = 1, 1_000_000
while low + 1 < high:
    middle = (low + high) // 2
    body = f"(i64.extend_i32_u (i32.mul (call $down (i32.const {middle})) (i32.const 0)))"
    try:
        run(sandbox, module(body, extra=down), limits=limits)
        low = middle
    except CallFailed:
        high = middle
outcomes["depth"] = low
json.dump(outcomes, sys.stdout, sort_keys=True)
"""

ROOT = Path(__file__).parents[3]


def outcomes(cache: Path, **environment: str) -> dict[str, object]:
    paths = os.pathsep.join([str(ROOT / "node"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(cache)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": paths, **environment},
        capture_output=True,
        check=False,
        cwd="/",
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, object] = json.loads(done.stdout)
    return result


@pytest.mark.box("S0.3", "sandbox-same")
def test_outcomes_and_fuel_are_the_same_in_every_process(tmp_path: Path) -> None:
    plain = outcomes(tmp_path / "one", PYTHONHASHSEED="0", LC_ALL="C", TZ="UTC")
    other = outcomes(
        tmp_path / "two", PYTHONHASHSEED="4711", LC_ALL="tr_TR.UTF-8", TZ="Asia/Kathmandu", HOME="/nowhere"
    )
    cached = outcomes(tmp_path / "one", PYTHONHASHSEED="1", PYTHONDEVMODE="1")
    assert plain == other == cached
    assert len(plain) > 20
    assert isinstance(plain["depth"], int)
    assert 1_000 < plain["depth"] < 999_999


def test_too_little_address_space_is_a_fault_and_not_the_end_of_the_process() -> None:
    script = """
import resource
from agentworld_core.world.modules.sandbox import SandboxFault
from agentworld_node.sandbox import WasmSandbox
resource.setrlimit(resource.RLIMIT_AS, (8 * 1024**3, 8 * 1024**3))
try:
    WasmSandbox()
except SandboxFault as fault:
    print(fault)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "node")},
        capture_output=True,
        check=False,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    assert "ulimit -v" in done.stdout
