"""``agentworld module``: what an author of a module sees when trying it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from agentworld_core.codec import encode_value
from agentworld_core.errors import InvalidField
from agentworld_core.hashing import content_id
from agentworld_node.cli import modules, plain_json
from agentworld_node.cli.app import FAILED, USAGE, app
from tests.unit.sandbox.wat import module

COMMANDS = modules
"""They register themselves when they are imported."""
EXAMPLE = Path(__file__).parents[3] / "examples" / "modules" / "counter"


def invoke(*words: object) -> Result:
    return CliRunner().invoke(app, ["module", *(str(word) for word in words)])


def test_check_prints_what_the_manifest_must_name() -> None:
    result = invoke("check", EXAMPLE / "counter.wasm", "-o", "json")
    manifest = json.loads((EXAMPLE / "manifest.json").read_text())
    assert json.loads(result.stdout) == {
        "wasm_hash": manifest["wasm_hash"],
        "bytes": (EXAMPLE / "counter.wasm").stat().st_size,
        "entry": "reduce",
        "batch_entry": "reduce_batch",
    }
    assert manifest["wasm_hash"] in invoke("check", EXAMPLE / "counter.wasm").stdout


def test_check_says_what_is_wrong(tmp_path: Path) -> None:
    for name, content, words in (("text", b"(module)", "binary"), ("other", module(), "call")):
        (tmp_path / name).write_bytes(content)
        result = invoke("check", tmp_path / name, "--entry", "call")
        assert result.exit_code == FAILED
        assert "invalid_module" in result.stderr
        assert words in result.stderr
    assert "cannot be read" in invoke("check", tmp_path / "missing").stderr


def test_run_keeps_the_state_between_calls(tmp_path: Path) -> None:
    words = ("run", EXAMPLE / "counter.wasm", "-i", EXAMPLE / "input.json", "--state", tmp_path / "state", "-o", "json")
    totals = []
    for _ in range(3):
        result = invoke(*words)
        assert result.exit_code == 0, result.stderr
        totals.append(json.loads(result.stdout)["output"]["emits"][0]["payload"]["total"])
    assert totals == [5, 10, 15]
    assert (tmp_path / "state").read_bytes() == encode_value([15, 3])


def test_run_prints_the_output_and_the_fuel() -> None:
    result = invoke("run", EXAMPLE / "counter.wasm", "-i", EXAMPLE / "input.json")
    assert "fuel used" in result.stdout
    assert '"total": 5' in result.stdout
    assert '"$cbor": [' in result.stdout


def batch_answering(body: str) -> bytes:
    """A module that says the same to every call, ``a0``, and to a batch what the body says."""
    data = '(data (i32.const 0) "\\a0\\81\\41\\a0\\81\\41\\a1\\83\\41\\a0\\41\\a0\\41\\a0")'
    entry = f'(func (export "reduce_batch") (param $at i32) (param $len i32) (result i64) {body})'
    return module("(call $pack (i32.const 0) (i32.const 1))", extra=data + entry)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("(call $pack (i32.const 1) (i32.const 3))", "the same outputs"),
        ("(call $pack (i32.const 4) (i32.const 3))", "answer 1 is another one than reduce gives"),
        ("(call $pack (i32.const 7) (i32.const 7))", "a list of 1 to 2 outputs"),
        ("(call $pack (local.get $at) (local.get $len))", "a list of 1 to 2 outputs"),
        ("(unreachable)", "reduce_batch: trap"),
    ],
)
def test_compare_compares_a_batch_with_calls_of_their_own(tmp_path: Path, answer: str, words: str) -> None:
    (tmp_path / "m.wasm").write_bytes(batch_answering(answer))
    result = invoke("compare", tmp_path / "m.wasm", "-i", EXAMPLE / "input.json", "--items", 2)
    assert words in result.stdout + result.stderr
    assert (result.exit_code == 0) == (words == "the same outputs")


def test_compare_gives_a_reducer_the_state_of_the_item_before(tmp_path: Path) -> None:
    words = ("compare", EXAMPLE / "counter.wasm", "-i", EXAMPLE / "input.json", "-o", "json", "--items", 30)
    shown = json.loads(invoke(*words).stdout)
    assert (shown["items"], shown["answers"]) == (30, 30)
    assert shown["fuel_of_batch"] < shown["fuel_of_calls"]
    (tmp_path / "raw").write_bytes(encode_value([1]))
    refused = invoke("compare", EXAMPLE / "counter.wasm", "-i", tmp_path / "raw")
    assert refused.exit_code == FAILED
    assert "--input" in refused.stderr


def test_run_takes_and_gives_bytes_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "echo.wasm").write_bytes(module())
    (tmp_path / "input.bin").write_bytes(b"\xff\xfe no document")
    result = invoke("run", tmp_path / "echo.wasm", "-i", tmp_path / "input.bin", "-o", "json")
    assert json.loads(result.stdout)["output"] == {"$hex": b"\xff\xfe no document".hex()}


def test_run_says_how_a_call_failed(tmp_path: Path) -> None:
    run = ("run", EXAMPLE / "counter.wasm", "-i", EXAMPLE / "input.json")
    for more, reason in ((("--fuel", 5), "out_of_fuel"), (("--entry", "call"), "exports")):
        result = invoke(*run, *more)
        assert result.exit_code == FAILED
        assert reason in result.stderr
        assert not result.stdout
    assert invoke(*run, "--fuel", -1).exit_code == USAGE
    assert "max_fuel" in invoke(*run, "--fuel", 2**70).stderr


@pytest.mark.parametrize(
    "text", ["", "{", '{"a": 1.5}', '{"$hex": "0"}', '{"$hex": 1}', "[1e400]", "[" * 100_000, "[NaN]"]
)
def test_an_input_that_stands_for_nothing_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "input.json").write_text(text)
    result = invoke("run", EXAMPLE / "counter.wasm", "-i", tmp_path / "input.json")
    assert result.exit_code == FAILED
    assert "--input" in result.stderr


def test_a_state_needs_an_input_that_is_a_map(tmp_path: Path) -> None:
    for name, content in (("a.json", b"[1]"), ("a.bin", b"\x01"), ("b.bin", b"\xff")):
        (tmp_path / name).write_bytes(content)
        result = invoke("run", EXAMPLE / "counter.wasm", "-i", tmp_path / name, "--state", tmp_path / "state")
        assert result.exit_code == FAILED
        assert "hold a state" in result.stderr


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -(2**63),
        2**64 - 1,
        "text",
        b"",
        b"\xff",
        [1, [b"\x01"]],
        {"a": {"b": b"\x00"}},
        encode_value([1, {"x": b""}]),
    ],
)
def test_the_json_form_of_a_value_stands_for_that_value(value: Any) -> None:
    assert plain_json.parse(json.dumps(plain_json.render(value)), field="x") == value


def test_an_integer_of_more_than_64_bits_has_no_form() -> None:
    with pytest.raises(InvalidField):
        plain_json.parse(str(2**64), field="x")


def test_the_hash_is_that_of_the_file() -> None:
    assert content_id((EXAMPLE / "counter.wasm").read_bytes()) in invoke("check", EXAMPLE / "counter.wasm").stdout
