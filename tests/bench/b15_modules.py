"""B15: calls of modules through the sandbox against bare wasmtime-py, the codec around them, the start from the cache.

The peer holds an instance ready and calls it by the classes of the binding, which is as little as a program can do; the
sandbox makes a fresh instance for each call, with limits and a watchdog. Fuel is on on both sides. The module is
written by hand and does hardly anything for an action, so that what is compared is the way there and back.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import wasmtime

from agentworld_core.hashing import content_id, digest
from agentworld_core.world.modules.documents import read_json
from agentworld_core.world.modules.manifest import parse_manifest
from agentworld_core.world.modules.output import (
    ActionView,
    Occasion,
    make_batch_input,
    parse_output,
    split_answers,
)
from agentworld_core.world.modules.sandbox import CallLimits, CallResult, ModuleCall
from agentworld_node.sandbox import WasmSandbox
from tests.bench.harness import Case, LeftOut, Setting, cpu

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "modules"
FUEL = 10_000_000
ACTION_BYTES = 64
SIZES = (1, 16, 256, 4096)
LIMITS = CallLimits(fuel=FUEL, memory_bytes=2**20, output_bytes=2**20)
MIX = """(module
  (memory (export "memory") 8)
  (func (export "alloc") (param i32) (result i32) (i32.const 1024))
  (func (export "reduce") (param $at i32) (param $len i32) (result i64)
    (local $end i32) (local $to i32) (local $word i32) (local $mix i64)
    (local.set $end (i32.add (local.get $at) (local.get $len)))
    (local.set $to (local.get $end))
    (block $done (loop $action
      (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
      (local.set $mix (i64.const 0))
      (local.set $word (i32.add (local.get $at) (i32.const 64)))
      (loop $next
        (local.set $mix (i64.mul (i64.xor (local.get $mix) (i64.load (local.get $at))) (i64.const 0x9e3779b97f4a7c15)))
        (local.set $at (i32.add (local.get $at) (i32.const 8)))
        (br_if $next (i32.lt_u (local.get $at) (local.get $word))))
      (i64.store (local.get $to) (local.get $mix))
      (local.set $to (i32.add (local.get $to) (i32.const 8)))
      (br $action)))
    (i64.or (i64.shl (i64.extend_i32_u (local.get $end)) (i64.const 32))
      (i64.extend_i32_u (i32.sub (local.get $to) (local.get $end))))))"""


def cases(setting: Setting) -> Iterator[Case | LeftOut]:
    """Yields calls of growing batches, a batch with the codec, the start from the cache, and fuel in two processes."""
    code = bytes(wasmtime.wat2wasm(MIX))
    sandbox = WasmSandbox()
    sandbox.load(content_id(code), code)
    for size in SIZES:
        yield _plain(sandbox, code, size, calls=setting.size(max(20, 4_000 // size), 2))
    yield _with_codec(sandbox, setting.size(256, 16), calls=setting.size(40, 2))
    yield _start(setting)
    yield Case(
        id="B15",
        case="fuel of 4,096 actions in this process",
        peer="in another one, started differently",
        ours=lambda: float(fuel_totals()["batch"]),
        theirs=lambda: float(_elsewhere()["batch"]),
        goal=1.0,
        kind="cost",
        unit="units",
        check=lambda: None if fuel_totals() == _elsewhere() else "fuel or outputs differ between two processes",
    )


class _Bare:
    """An instance of a module by the binding's classes, good for one call where memory is never given back."""

    def __init__(self, code: bytes, entry: str):
        config = wasmtime.Config()
        config.consume_fuel = True
        engine = wasmtime.Engine(config)
        self._module = wasmtime.Module(engine, code)
        self._engine = engine
        self._entry_name = entry
        self.renew()

    def renew(self) -> None:
        """Takes another instance."""
        self._store = wasmtime.Store(self._engine)
        self._store.set_fuel(FUEL)
        exports: Any = wasmtime.Instance(self._store, self._module, []).exports(self._store)
        self._memory, self._alloc, self._entry = exports["memory"], exports["alloc"], exports[self._entry_name]

    def call(self, data: bytes) -> CallResult:
        """Returns what the module answers, and its fuel."""
        store = self._store
        store.set_fuel(FUEL)
        at = self._alloc(store, len(data))
        self._memory.write(store, data, at)
        packed = self._entry(store, at, len(data))
        place, length = (packed >> 32) & 0xFFFF_FFFF, packed & 0xFFFF_FFFF
        output = bytes(self._memory.read(store, place, place + length))
        return CallResult(output=output, fuel_used=FUEL - store.get_fuel())


def _actions(count: int) -> bytes:
    return b"".join(digest(number.to_bytes(8, "big")) * (ACTION_BYTES // 32) for number in range(count))


def _plain(sandbox: WasmSandbox, code: bytes, size: int, *, calls: int) -> Case:
    """The same bytes to and from the same module, on both sides as they are."""
    data, bare = _actions(size), _Bare(code, "reduce")
    call = ModuleCall(artifact=content_id(code), entry="reduce", input=data, limits=LIMITS)

    def times(work: Callable[[], object]) -> Callable[[], None]:
        def repeated() -> None:
            for _ in range(calls):
                work()

        return repeated

    return Case(
        id="B15",
        case=f"{size:,} x {ACTION_BYTES} bytes a call, no codec",
        peer="bare wasmtime-py, one instance for all calls",
        ours=lambda: cpu(times(lambda: sandbox.call(call)), items=size * calls),
        theirs=lambda: cpu(times(lambda: bare.call(data)), items=size * calls),
        goal=0.8 if size == 256 else None,
        check=lambda: None if sandbox.call(call) == bare.call(data) else "output or fuel is not that of the peer",
    )


class Counter:
    """The counter of the examples and the occasions of so many actions."""

    def __init__(self, count: int):
        self.code = (EXAMPLES / "counter" / "counter.wasm").read_bytes()
        text = (EXAMPLES / "counter" / "manifest.json").read_text(encoding="utf-8")
        self.manifest = parse_manifest(read_json(text, "manifest"))
        self._count = count

    def occasions(self) -> list[Occasion]:
        """Occasions that nobody has encoded yet."""
        return [
            Occasion.of_action(
                "post_action",
                ActionView.of(f"{number:064x}", f"agent-{number % 16}", kind="counter.add", payload={"by": number}),
            )
            for number in range(self._count)
        ]

    def input(self, occasions: list[Occasion]) -> bytes:
        """The input of a batch, made as the kernel makes it."""
        return make_batch_input(self.manifest, occasions, clock=(7, 700), manifest_hash="0" * 64, state=b"")

    def call(self, data: bytes) -> ModuleCall:
        """The call of a batch."""
        return ModuleCall(artifact=self.manifest.wasm_hash, entry="reduce_batch", input=data, limits=LIMITS)


def _with_codec(sandbox: WasmSandbox, size: int, *, calls: int) -> Case:
    """From actions to checked outputs, against the bytes that come of it on instances that were made beforehand."""
    counter = Counter(size)
    sandbox.load(counter.manifest.wasm_hash, counter.code)
    data = counter.input(counter.occasions())
    bare = _Bare(counter.code, "reduce_batch")

    def whole(occasions: list[Occasion]) -> list[bytes]:
        answers = split_answers(sandbox.call(counter.call(counter.input(occasions))).output, most=size)
        assert answers is not None
        for occasion, answer in zip(occasions, answers, strict=True):
            parse_output(counter.manifest, occasion, answer)
        return answers

    def ours() -> float:
        rounds = [counter.occasions() for _ in range(calls)]
        return cpu(lambda: [whole(occasions) for occasions in rounds], items=size * calls)

    def theirs() -> float:
        seconds = 0.0
        for _ in range(calls):
            bare.renew()
            seconds += cpu(lambda: bare.call(data), items=size * calls)
        return seconds

    def wrong() -> str | None:
        bare.renew()
        same = whole(counter.occasions()) == split_answers(bare.call(data).output, most=size)
        return None if same else "the answers are not those of the peer"

    return Case(
        id="B15",
        case=f"{size} counter actions a call, with the codec",
        peer="bare wasmtime-py, the same bytes ready made",
        ours=ours,
        theirs=theirs,
        goal=0.25,
        check=wrong,
    )


def _start(setting: Setting) -> Case:
    """A module from the cache of native forms, against compiling it."""
    code = (EXAMPLES / "market" / "market.wasm").read_bytes()
    artifact = content_id(code)
    folder = setting.folder / "native"
    WasmSandbox(folder).load(artifact, code)

    def from_cache() -> float:
        sandbox = WasmSandbox(folder)
        return cpu(lambda: sandbox.load(artifact, code), items=1)

    def compiled() -> float:
        config = wasmtime.Config()
        config.consume_fuel = True
        engine = wasmtime.Engine(config)
        return cpu(lambda: wasmtime.Module(engine, code), items=1)

    def wrong() -> str | None:
        files = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
        sandbox = WasmSandbox(folder)
        sandbox.load(artifact, code)
        return None if sandbox.has(artifact) and len(files) == len(list(folder.iterdir())) == 1 else "was not cached"

    return Case(
        id="B15",
        case="a module from the cache of native forms",
        peer="bare wasmtime-py compiles it",
        ours=from_cache,
        theirs=compiled,
        goal=8.0,
        check=wrong,
    )


# Fuel


def fuel_totals() -> dict[str, Any]:
    """Returns the fuel of 4,096 actions for the counter in batches of 512, and a hash of the outputs."""
    counter, sandbox = Counter(SIZES[-1]), WasmSandbox()
    sandbox.load(counter.manifest.wasm_hash, counter.code)
    occasions = counter.occasions()
    parts = [occasions[start : start + 512] for start in range(0, len(occasions), 512)]
    results = [sandbox.call(counter.call(counter.input(part))) for part in parts]
    return {
        "batch": sum(result.fuel_used for result in results),
        "outputs": content_id(b"".join(result.output for result in results)),
        "engine": sandbox.engine,
    }


def _elsewhere() -> dict[str, Any]:
    """What another process finds: other hash seed, locale and time zone, and optimised away assertions."""
    script = "import json; from tests.bench.b15_modules import fuel_totals; print(json.dumps(fuel_totals()))"
    environment = {"PYTHONHASHSEED": "4711", "TZ": "Asia/Kathmandu", "LC_ALL": "C", "PYTHONOPTIMIZE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join([str(ROOT / "node"), str(ROOT)])},
        capture_output=True,
        check=True,
        text=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found
