"""Modules for tests, written as text."""

from __future__ import annotations

import wasmtime

from agentworld_core.hashing import content_id
from agentworld_core.world.modules.sandbox import CallLimits, CallResult, ModuleCall
from agentworld_node.sandbox import WasmSandbox

LIMITS = CallLimits(fuel=1_000_000, memory_bytes=4 * 1024 * 1024, output_bytes=1024)

BUMP = """(global $top (mut i32) (i32.const 1024))
  (func (export "alloc") (param $len i32) (result i32) (local $at i32)
    (local.set $at (global.get $top))
    (global.set $top (i32.add (global.get $top) (local.get $len)))
    (local.get $at))"""
ECHO = "(call $pack (local.get $at) (local.get $len))"


def wasm(text: str) -> bytes:
    """Returns the binary form of a module's text."""
    return bytes(wasmtime.wat2wasm(text))


def module(reduce: str = ECHO, *, memory: str = "1", alloc: str = BUMP, extra: str = "") -> bytes:
    """Returns a module whose entry ``reduce`` has this body; ``$at`` and ``$len`` say where its input is."""
    return wasm(f"""(module
  (memory (export "memory") {memory})
  {alloc}
  (func $pack (param $at i32) (param $len i32) (result i64)
    (i64.or (i64.shl (i64.extend_i32_u (local.get $at)) (i64.const 32)) (i64.extend_i32_u (local.get $len))))
  (func $reduce (export "reduce") (param $at i32) (param $len i32) (result i64) {reduce})
  {extra})""")


def run(
    sandbox: WasmSandbox, code: bytes, data: bytes = b"", *, limits: CallLimits = LIMITS, entry: str = "reduce"
) -> CallResult:
    """Loads a module and calls it once."""
    artifact = content_id(code)
    sandbox.load(artifact, code)
    return sandbox.call(ModuleCall(artifact=artifact, entry=entry, input=data, limits=limits))
