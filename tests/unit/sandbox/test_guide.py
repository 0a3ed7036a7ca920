"""What docs/modules.md shows is what happens."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from agentworld_core.codec import decode_value, encode_value
from agentworld_core.hashing import content_id
from agentworld_core.world.modules import structure
from agentworld_core.world.modules.sandbox import FAILURE_CODES, CallLimits, ModuleCall
from agentworld_node.cli import plain_json
from agentworld_node.sandbox import SandboxSettings, WasmSandbox
from tests.unit.sandbox.wat import module, run

ROOT = Path(__file__).parents[3]
GUIDE = (ROOT / "docs" / "modules.md").read_text(encoding="utf-8")
COUNTER = ROOT / "examples" / "modules" / "counter"


def shown(what: str) -> str:
    found = re.search(rf"<!-- {what} of the counter -->\n```json\n(.*?)```", GUIDE, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_counter_answers_as_the_guide_says(sandbox: WasmSandbox) -> None:
    assert shown("input") == (COUNTER / "input.json").read_text(encoding="utf-8")
    code = (COUNTER / "counter.wasm").read_bytes()
    sandbox.load(content_id(code), code)
    call = ModuleCall(
        artifact=content_id(code),
        entry="reduce",
        input=encode_value(plain_json.parse(shown("input"), field="input")),
        limits=CallLimits(fuel=1_000_000, memory_bytes=2**20, output_bytes=4096),
    )
    result = sandbox.call(call)
    assert plain_json.render(decode_value(result.output)) == json.loads(shown("output"))
    assert result.fuel_used == 24_085


def test_the_guide_states_the_limits_that_hold() -> None:
    settings = SandboxSettings()
    for words in (
        f"at most {settings.max_fuel:,}",
        f"at most {settings.max_memory_bytes >> 20} MiB",
        f"larger than {structure.MAX_CODE_BYTES >> 20} MiB",
        f"{structure.MAX_FUNCTIONS:,} functions",
        f"{structure.MAX_FUNCTION_BYTES >> 10} KiB",
        f"{structure.MAX_LOCALS:,} locals",
        f"{structure.MAX_TYPES:,} types",
        f"{structure.MAX_GLOBALS:,} globals",
        f"{structure.MAX_EXPORTS:,} exports",
        f"{structure.MAX_SEGMENTS:,}",
        f"{structure.MAX_TABLE_ELEMENTS:,} elements",
        f"2^{structure.MAX_COMPILE_EFFORT.bit_length() - 1}",
        *(f"`{code}`" for code in FAILURE_CODES),
    ):
        assert re.search(re.escape(words).replace(r"\ ", r"\s+"), GUIDE), words


COSTS = {
    "": 0,
    "(nop)": 0,
    "(block (nop))": 0,
    "(drop (i32.const 1))": 1,
    "(drop (i64.div_u (i64.const 9) (i64.const 3)))": 3,
    "(drop (f64.sqrt (f64.const 2)))": 2,
    "(drop (i32.load (i32.const 0)))": 2,
    "(memory.fill (i32.const 0) (i32.const 0) (i32.const 1000))": 1004,
    "(memory.copy (i32.const 0) (i32.const 8) (i32.const 1000))": 1004,
    "(drop (memory.grow (i32.const 3)))": 5,
    "(if (i32.const 0) (then (nop)))": 2,
    "(drop (call $nothing (i32.const 1)))": 4,
}


@pytest.mark.parametrize("instructions", COSTS)
def test_what_instructions_cost_is_part_of_the_rules_of_worlds(sandbox: WasmSandbox, instructions: str) -> None:
    """A change here splits worlds whose nodes are not all changed at once: it needs a decision, not a new number."""
    extra = "(func $nothing (param i32) (result i32) (local.get 0))"
    empty = run(sandbox, module("(i64.const 0)", extra=extra)).fuel_used
    assert run(sandbox, module(f"{instructions} (i64.const 0)", extra=extra)).fuel_used - empty == COSTS[instructions]
