"""``agentworld module``: look at a module and try it, without a world."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from agentworld_core.codec import Value, decode_value, encode_value
from agentworld_core.errors import AgentWorldError, InvalidField, MalformedEncoding
from agentworld_core.hashing import content_id
from agentworld_core.world.modules.manifest import SYSTEM_LIMITS
from agentworld_core.world.modules.output import split_answers
from agentworld_core.world.modules.sandbox import CallFailed, CallLimits, CallResult, InvalidModule, ModuleCall
from agentworld_node.cli import plain_json
from agentworld_node.cli.app import OutputOption, app, run
from agentworld_node.cli.output import Output, print_json, print_pairs

module_app = typer.Typer(
    help="The modules of a world: try one without a world, bring it in, and look at those in force.",
    no_args_is_help=True,
)
app.add_typer(module_app, name="module")

ModuleFile = Annotated[Path, typer.Argument(help="A WebAssembly module.", metavar="FILE.wasm")]
Entry = Annotated[str, typer.Option("--entry", "-e", help="The export to call: reduce of a reducer, call of a rule.")]


InputFile = Annotated[
    Path, typer.Option("--input", "-i", help="The input: a .json document, or else the bytes as they are.")
]
_Call = Callable[[str, bytes], CallResult]


class ModuleRunFailed(AgentWorldError):
    """A module that was tried ended without a result."""

    code = "module_call_failed"


@module_app.command("check")
def check(file: ModuleFile, entry: Entry = "reduce", output: OutputOption = Output.table) -> None:
    """Tell whether a world would take this file as a module, and the hash that its manifest must name."""

    async def command() -> dict[str, Any]:
        from agentworld_node.sandbox import WasmSandbox

        code = _read(file, "FILE.wasm")
        sandbox = WasmSandbox()
        sandbox.check(code, (entry,))
        batch_entry = f"{entry}_batch"
        try:
            sandbox.check(code, (batch_entry,))
        except InvalidModule:
            batch_entry = ""
        return {"wasm_hash": content_id(code), "bytes": len(code), "entry": entry, "batch_entry": batch_entry}

    found = run(command, output=output)
    if output is Output.json:
        print_json(found)
    else:
        print_pairs(str(file), {**found, "batch_entry": found["batch_entry"] or "none"}.items())


@module_app.command("run")
def run_module(
    file: ModuleFile,
    input_file: InputFile,
    entry: Entry = "reduce",
    state: Annotated[
        Path | None, typer.Option("--state", help="Where the state is between calls; made by the first one.")
    ] = None,
    fuel: Annotated[int, typer.Option("--fuel", min=0, help="Fuel of the call.")] = 10_000_000,
    output: OutputOption = Output.table,
) -> None:
    """Call a module once and print its output, the fuel it used, or how it failed.

    In a .json input {"$hex": "00ff"} stands for bytes and {"$cbor": ...} for the bytes of an encoded value.
    """

    async def command() -> CallResult:
        given = _input(input_file, state)
        result = _caller(_read(file, "FILE.wasm"), fuel)(entry, given)
        if state is not None:
            _keep_state(state, result.output)
        return result

    result = run(command, output=output)
    shown = plain_json.render(_decoded(result.output))
    if output is Output.json:
        print_json({"fuel_used": result.fuel_used, "output": shown})
    else:
        print_pairs("call", [("fuel used", result.fuel_used), ("output bytes", len(result.output))])
        sys.stdout.write(json.dumps(shown, indent=2, ensure_ascii=False) + "\n")


@module_app.command("compare")
def compare(
    file: ModuleFile,
    input_file: InputFile,
    entry: Entry = "reduce",
    items: Annotated[int, typer.Option("--items", min=1, max=4096, help="How many of the input to give it.")] = 100,
    output: OutputOption = Output.table,
) -> None:
    """Give the entry for batches the same input many times, and fail unless it answers what single calls answer.

    The fuel is 10,000,000 units, the most that a manifest can allow.
    """

    async def command() -> dict[str, Any]:
        call = _caller(_read(file, "FILE.wasm"), SYSTEM_LIMITS.max_gas)
        return _compared(call, entry, given=_input(input_file, None), items=items)

    found = run(command, output=output)
    if output is Output.json:
        print_json(found)
    else:
        print_pairs("the same outputs", found.items())


def _caller(code: bytes, fuel: int) -> _Call:
    """Returns what calls an entry of the module with an input."""
    from agentworld_node.sandbox import SandboxSettings, WasmSandbox

    settings = SandboxSettings(max_fuel=max(fuel, 1))
    sandbox = WasmSandbox(settings=settings)
    limits = CallLimits(fuel=fuel, memory_bytes=settings.max_memory_bytes, output_bytes=settings.max_output_bytes)

    def call(entry: str, given: bytes) -> CallResult:
        sandbox.check(code, (entry,))
        try:
            return sandbox.call(ModuleCall(artifact=content_id(code), entry=entry, input=given, limits=limits))
        except CallFailed as failed:
            raise ModuleRunFailed(f"{entry}: {failed.reason_code}: {failed.message}") from None

    return call


def _compared(call: _Call, entry: str, *, given: bytes, items: int) -> dict[str, Any]:
    """Gives the entry for batches so many of an input; says how many it has answered, and what that and calls cost.

    Raises ModuleRunFailed unless the answers are those of as many calls of the entry itself.
    """
    value = decode_value(given)
    kind = next((name for name in ("action", "event") if isinstance(value, dict) and name in value), None)
    if kind is None or not isinstance(value, dict):
        raise InvalidField("must be a map with an action or an event to be given in a batch", field="--input")
    shared = {key: item for key, item in value.items() if key != kind}
    if isinstance(ctx := shared.get("ctx"), dict):
        shared["ctx"] = {key: item for key, item in ctx.items() if key not in ("trace_id", "origin")}
    together = call(f"{entry}_batch", encode_value({**shared, f"{kind}s": [value[kind]] * items}))
    answers = split_answers(together.output, most=items)
    if answers is None:
        raise ModuleRunFailed(f"{entry}_batch: has not answered with a list of 1 to {items} outputs")
    fuel = 0
    for number, answer in enumerate(answers, 1):
        single = call(entry, encode_value(value))
        fuel += single.fuel_used
        if single.output != answer:
            raise ModuleRunFailed(f"{entry}_batch: answer {number} is another one than {entry} gives")
        after = _decoded(single.output)
        if isinstance(after, dict) and "new_state" in after and "state" in value:
            value["state"] = after["new_state"]
    return {"items": items, "answers": len(answers), "fuel_of_batch": together.fuel_used, "fuel_of_calls": fuel}


def _input(file: Path, state: Path | None) -> bytes:
    content = _read(file, "--input")
    if file.suffix != ".json" and state is None:
        return content
    try:
        value = plain_json.parse(content, field="--input") if file.suffix == ".json" else decode_value(content)
    except MalformedEncoding as error:
        raise InvalidField(f"cannot hold a state: {error}", field="--input") from error
    if state is not None:
        if not isinstance(value, dict):
            raise InvalidField("must be a map to hold a state", field="--input")
        value["state"] = _read(state, "--state") if state.exists() else b""
    return encode_value(value)


def _keep_state(file: Path, output: bytes) -> None:
    value = _decoded(output)
    if isinstance(value, dict) and isinstance(new_state := value.get("new_state"), bytes):
        try:
            file.write_bytes(new_state)
        except OSError as error:
            raise InvalidField(f"cannot be written: {error.strerror}", field="--state", value=file) from error


def _decoded(output: bytes) -> Value:
    """Returns what the output encodes; bytes that are no deterministic encoding stay what they are."""
    try:
        return decode_value(output)
    except MalformedEncoding:
        return output


def _read(file: Path, field: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InvalidField(f"cannot be read: {error.strerror}", field=field, value=file) from error
