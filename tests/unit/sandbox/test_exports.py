"""What is read of a module without an engine agrees with what the engine says about the same bytes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from agentworld_core.world.modules.exports import check_exports
from agentworld_core.world.modules.sandbox import InvalidModule
from agentworld_node.sandbox import WasmSandbox
from tests.unit.sandbox.wat import BUMP, module, wasm

EXAMPLES = Path(__file__).parents[3] / "examples" / "modules"
REDUCE = '(func (export "reduce") (param i32 i32) (result i64) (i64.const 0))'
MEMORY = '(memory (export "memory") 1)'


def verdict(check: object, code: bytes, *entries: str) -> tuple[str, str] | None:
    """Field and message of the refusal, None for a module that is taken."""
    assert callable(check)
    try:
        check(code, entries)
    except InvalidModule as error:
        return str(error.field), error.message
    return None


@pytest.fixture(scope="module")
def sandbox() -> WasmSandbox:
    return WasmSandbox()


@pytest.mark.parametrize("name", ["counter", "gatekeeper", "market"])
def test_the_examples_are_taken(sandbox: WasmSandbox, name: str) -> None:
    code = (EXAMPLES / name / f"{name}.wasm").read_bytes()
    entries = ("call",) if name == "gatekeeper" else ("reduce",)
    assert verdict(check_exports, code, *entries) is verdict(sandbox.check, code, *entries) is None


@pytest.mark.parametrize(
    "text",
    [
        f"(module {MEMORY} {BUMP} {REDUCE})",
        f"(module (memory 1) {BUMP} {REDUCE})",
        f"(module {MEMORY} {REDUCE})",
        f"(module {MEMORY} {BUMP})",
        f'(module {MEMORY} {BUMP} (func (export "reduce") (param i32 i32) (result i32) (i32.const 0)))',
        f'(module {MEMORY} {BUMP} (func (export "reduce") (param i32) (result i64) (i64.const 0)))',
        f'(module {MEMORY} {REDUCE} (func (export "alloc") (param i32) (result i64) (i64.const 0)))',
        f'(module {MEMORY} {BUMP} (global (export "reduce") i32 (i32.const 0)))',
        f'(module {REDUCE} {BUMP} (func (export "memory")))',
        f'(module (type (func (param funcref))) {MEMORY} {BUMP} {REDUCE} (func (export "é")))',
    ],
)
def test_exports_are_judged_as_the_engine_judges_them(sandbox: WasmSandbox, text: str) -> None:
    code = wasm(text)
    assert verdict(check_exports, code, "reduce") == verdict(sandbox.check, code, "reduce")


def test_alloc_is_no_entry(sandbox: WasmSandbox) -> None:
    assert verdict(check_exports, module(), "alloc") == verdict(sandbox.check, module(), "alloc") is not None


def test_whatever_is_wrong_is_refused_with_a_verdict_of_ours(sandbox: WasmSandbox) -> None:
    code, drawn = module(), random.Random(7)
    for size in range(len(code)):
        if verdict(check_exports, code[:size], "reduce") is None:
            assert verdict(sandbox.check, code[:size], "reduce") is None, "only what is whole without its last section"
    for _ in range(2000):
        mutated = bytearray(code)
        for _ in range(drawn.randint(1, 3)):
            mutated[drawn.randrange(len(code))] = drawn.randrange(256)
        verdict(check_exports, bytes(mutated), "reduce")


def test_what_the_engine_takes_is_taken(sandbox: WasmSandbox) -> None:
    """Of mutated modules, none that the engine takes is refused: no world would be kept from what its nodes can run."""
    code, drawn = module(), random.Random(11)
    taken = 0
    for _ in range(300):
        mutated = bytearray(code)
        mutated[drawn.randrange(len(code))] = drawn.randrange(256)
        if verdict(sandbox.check, bytes(mutated), "reduce") is None:
            taken += 1
            assert verdict(check_exports, bytes(mutated), "reduce") is None
    assert taken > 10
