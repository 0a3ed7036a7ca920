"""The border between a node and its modules: what modules return, and what the world and its agents hand to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from agentworld_core.codec import Value, decode_value, encode_value
from agentworld_core.errors import AgentWorldError
from agentworld_core.hashing import content_id
from agentworld_core.world.modules.documents import read_json
from agentworld_core.world.modules.manifest import ModuleManifest, parse_manifest
from agentworld_core.world.modules.output import (
    ActionView,
    Occasion,
    make_batch_input,
    make_input,
    parse_output,
    split_answers,
)
from agentworld_core.world.modules.sandbox import CallFailed, CallLimits, ModuleCall
from agentworld_node.sandbox import WasmSandbox

EXAMPLES = Path(__file__).parents[3] / "examples" / "modules"
ACTIONS: dict[str, tuple[str, dict[str, Value]]] = {
    "counter": ("counter.add", {"by": 5}),
    "gatekeeper": ("agent.move", {"to": [2000, 5]}),
}
BATCH = 5


class NoAnswers(Exception):
    """What a module has answered to a batch is no list of outputs."""


class Make(Protocol):
    """Makes a decoder (``tests.unit.fuzz.decoders.Decoder``)."""

    def __call__(self, name: str, seeds: tuple[bytes, ...], take: Any, *, typed: tuple[type[Exception], ...]) -> Any:
        """Returns the decoder."""
        ...


def module_decoders(make: Make) -> list[Any]:
    """Returns the decoders of this border."""
    sandbox = WasmSandbox()
    found = [make("answers of a module to a batch", _lists_of_outputs(), _take_answers, typed=(NoAnswers,))]
    for name in ACTIONS:
        border = _Border(sandbox, name)
        found += [
            make(f"output of {name}", (border.output,), border.take_output, typed=()),
            make(f"input of {name}", (border.input(),), border.take_input, typed=(CallFailed,)),
            make(f"batch for {name}", (border.batch(),), border.take_batch, typed=(CallFailed,)),
        ]
    return found


def _lists_of_outputs() -> tuple[bytes, ...]:
    one = encode_value({"emits": [{"kind": "talk.a", "payload": 1}], "new_state": b"s"})
    return encode_value([one]), encode_value([one, b"", one, b"\xff"]), encode_value([bytes(300)])


def _take_answers(data: bytes) -> bytes:
    answers = split_answers(data, most=4)
    try:
        value = decode_value(data)
    except AgentWorldError:
        value = None
    right = isinstance(value, list) and 1 <= len(value) <= 4 and all(isinstance(item, bytes) for item in value)
    assert answers == (value if right else None), "not what the codec makes of it"
    if answers is None:
        raise NoAnswers
    return encode_value(list[Value](answers))


class _Border:
    """One example module, and how it is called."""

    def __init__(self, sandbox: WasmSandbox, name: str):
        text = (EXAMPLES / name / "manifest.json").read_text(encoding="utf-8")
        code = (EXAMPLES / name / f"{name}.wasm").read_bytes()
        self._sandbox = sandbox
        self._manifest: ModuleManifest = parse_manifest(read_json(text, "manifest"))
        self._occasions = [self._occasion(name, number) for number in range(BATCH)]
        sandbox.load(content_id(code), code)
        self.output = self._call(self._manifest.entry, self.input())

    def _occasion(self, name: str, number: int) -> Occasion:
        kind, payload = ACTIONS[name]
        view = ActionView.of(f"{number:064x}", "ada", kind=kind, payload=payload)
        return Occasion.of_action(self._manifest.subscriptions[0].stage, view)

    def input(self) -> bytes:
        """What one call is given."""
        return make_input(self._manifest, self._occasions[0], clock=(7, 700), manifest_hash="0" * 64, state=b"")

    def batch(self) -> bytes:
        """What a call for a batch is given."""
        return make_batch_input(self._manifest, self._occasions, clock=(7, 700), manifest_hash="0" * 64, state=b"")

    def _call(self, entry: str, data: bytes) -> bytes:
        limits = self._manifest.limits
        bounds = CallLimits(fuel=limits.max_gas, memory_bytes=limits.max_mem_bytes, output_bytes=2**20)
        call = ModuleCall(artifact=self._manifest.wasm_hash, entry=entry, input=data, limits=bounds)
        return self._sandbox.call(call).output

    def take_output(self, data: bytes) -> None:
        """Reads bytes as what a call has returned."""
        parse_output(self._manifest, self._occasions[0], data)

    def take_input(self, data: bytes) -> None:
        """Calls the module with bytes that the kernel would never give it: it answers or fails, and no node does."""
        self._call(self._manifest.entry, data)

    def take_batch(self, data: bytes) -> None:
        """The same with its entry for batches."""
        self._call(self._manifest.batch_entry, data)
