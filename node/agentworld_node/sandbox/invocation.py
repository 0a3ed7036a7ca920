"""One call of a module on an instance of its own, in the fewest steps that wasmtime's C interface allows.

The classes of the Python binding would ask for the type of every function and wrap every export again for each call,
which costs several times what the call itself does; the types were judged when the module was loaded.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref
from typing import Any

from wasmtime import TrapCode
from wasmtime import _bindings as native

from agentworld_core.world.modules.sandbox import CallFailed, CallResult, ModuleCall, SandboxFault
from agentworld_core.world.modules.structure import MAX_TABLE_ELEMENTS
from agentworld_node.sandbox.engine import ALLOC, MEMORY, CompiledModule, Engine

_TrapPointer = POINTER(native.wasm_trap_t)
_Values = native.wasmtime_val_raw_t * 2
_NO_FINALIZER = ctypes.cast(0, ctypes.CFUNCTYPE(None, ctypes.c_void_p))
_LOW_32 = 0xFFFF_FFFF

_TRAPS = {code.value: code.name.lower().replace("_", " ") for code in TrapCode}
_NO_FUEL = "the call used more than its fuel"
_OUT_OF_FUEL = TrapCode.OUT_OF_FUEL.value
_INTERRUPTED = TrapCode.INTERRUPT.value


def invoke(engine: Engine, compiled: CompiledModule, call: ModuleCall, deadline_ticks: int) -> CallResult:
    """Returns what the entry answers to the input; raises CallFailed, or SandboxFault when the deadline has passed."""
    store = native.wasmtime_store_new(engine.engine.ptr(), None, _NO_FINALIZER)
    try:
        return _Invocation(store, call, deadline_ticks).run(compiled)
    finally:
        native.wasmtime_store_delete(store)


class _Invocation:
    """The store of one call and what lives in it; of no use when the store is deleted."""

    __slots__ = (
        "_call",
        "_context",
        "_instance",
        "_item",
        "_memory",
        "_to_instance",
        "_to_item",
        "_to_trap",
        "_trap",
        "_values",
    )

    def __init__(self, store: Any, call: ModuleCall, deadline_ticks: int):
        self._call = call
        self._context = native.wasmtime_store_context(store)
        self._instance = native.wasmtime_instance_t()
        self._item = native.wasmtime_extern_t()
        self._trap: Any = _TrapPointer()
        self._values = _Values()
        self._to_instance = byref(self._instance)
        self._to_item = byref(self._item)
        self._to_trap = byref(self._trap)
        native.wasmtime_store_limiter(store, call.limits.memory_bytes, MAX_TABLE_ELEMENTS, 1, 1, 1)
        # Wasmtime looks at the fuel where a function or a round of a loop begins and counts on behind the last such
        # place: one unit more than allowed shows at the end whether what was used is within the limit.
        self._check(native.wasmtime_context_set_fuel(self._context, call.limits.fuel + 1))
        native.wasmtime_context_set_epoch_deadline(self._context, deadline_ticks)

    def run(self, compiled: CompiledModule) -> CallResult:
        self._check(
            native.wasmtime_instance_pre_instantiate(
                compiled.linked.ptr(), self._context, self._to_instance, self._to_trap
            )
        )
        memory = native.wasmtime_memory_t.from_buffer_copy(self._export(MEMORY).memory)
        self._memory = byref(memory)
        place = self._write(self._call.input)
        values = self._values
        values[0].i32 = place
        values[1].i32 = len(self._call.input)
        self._enter(self._call.entry)
        fuel_used = self._fuel_used()
        answer = values[0].i64
        output = self._read((answer >> 32) & _LOW_32, answer & _LOW_32)
        return CallResult(output=output, fuel_used=fuel_used)

    def _write(self, data: bytes) -> int:
        """Puts the input where the module wants it and returns where that is."""
        self._values[0].i32 = len(data)
        self._enter(ALLOC)
        place: int = self._values[0].i32 & _LOW_32
        base, size = self._extent()
        if place + len(data) > size:
            raise CallFailed("invalid_output", f"alloc({len(data)}) answered {place}, the memory ends at {size}")
        if data:
            ctypes.memmove(base + place, data, len(data))
        return place

    def _read(self, place: int, length: int) -> bytes:
        base, size = self._extent()
        if place + length > size:
            raise CallFailed("invalid_output", f"the output is {length} bytes at {place}, the memory ends at {size}")
        if length > self._call.limits.output_bytes:
            raise CallFailed(
                "output_too_large", f"the output has {length} bytes, the limit is {self._call.limits.output_bytes}"
            )
        return ctypes.string_at(base + place, length)

    def _extent(self) -> tuple[int, int]:
        """Returns the address and the length of the memory as it is now."""
        size = native.wasmtime_memory_data_size(self._context, self._memory)
        if not size:
            return 0, 0
        return ctypes.addressof(native.wasmtime_memory_data(self._context, self._memory).contents), size

    def _enter(self, name: str) -> None:
        """Calls an export with the values that were set; its type is one of the two that loading has checked."""
        function = self._export(name).func
        self._check(native.wasmtime_func_call_unchecked(self._context, byref(function), self._values, 2, self._to_trap))

    def _export(self, name: str) -> Any:
        encoded = name.encode()
        if not native.wasmtime_instance_export_get(
            self._context, self._to_instance, encoded, len(encoded), self._to_item
        ):
            raise SandboxFault("an export is gone that the loaded module has", field="entry", value=name)
        return self._item.of

    def _fuel_used(self) -> int:
        left = ctypes.c_uint64()
        self._check(native.wasmtime_context_get_fuel(self._context, byref(left)))
        if not left.value:
            raise CallFailed("out_of_fuel", _NO_FUEL)
        return self._call.limits.fuel + 1 - left.value

    def _check(self, error: Any) -> None:
        """Turns a trap into the failure of the call and an error of wasmtime into a fault of this node."""
        if self._trap:
            raise _ended(self._trap)
        if error:
            raise SandboxFault(f"wasmtime could not run the call: {_message(error)}")


def _ended(trap: Any) -> CallFailed | SandboxFault:
    """Returns what a trap means; its text names the kind alone, so that it is the same on every node."""
    code = ctypes.c_uint8()
    known = native.wasmtime_trap_code(trap, byref(code))
    native.wasm_trap_delete(trap)
    if not known or code.value not in _TRAPS:
        return SandboxFault("wasmtime ended the call for a reason of its own", field="trap", value=code.value)
    if code.value == _INTERRUPTED:
        return SandboxFault(
            "a call took longer than the watchdog allows", remedy="give the node more processor time, then restart it"
        )
    if code.value == _OUT_OF_FUEL:
        return CallFailed("out_of_fuel", _NO_FUEL)
    return CallFailed("trap", _TRAPS[code.value])


def _message(error: Any) -> str:
    """Returns the first line of an error's text and deletes the error."""
    text = native.wasm_byte_vec_t()
    native.wasmtime_error_message(error, byref(text))
    message = ctypes.string_at(text.data, text.size).decode("utf-8", "replace")
    native.wasm_byte_vec_delete(byref(text))
    native.wasmtime_error_delete(error)
    return message.partition("\n")[0][:300]
