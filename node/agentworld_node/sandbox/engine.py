"""The one configuration of wasmtime in which a call has the same outcome and costs the same fuel on every node.

Whatever depends on the machine is off: the code is generated for the plain instruction set of the architecture and
not for the processor at hand, so that also the stack frames, and with them the depth at which a recursion ends, are
the same; NaNs have one form; and of the proposals only those are on that leave no choice to an implementation.
"""

from __future__ import annotations

import mmap
import platform
from importlib import metadata
from typing import Any

import wasmtime
from wasmtime import _bindings as native

from agentworld_core.hashing import content_id
from agentworld_core.world.modules.sandbox import InvalidModule, SandboxFault
from agentworld_core.world.modules.structure import (
    MAX_MEMORY_BYTES,
    MAX_TABLE_ELEMENTS,
    PAGE_BYTES,
    check_structure,
)

STACK_BYTES = 512 * 1024
KEPT_MEMORY_BYTES = 1024 * 1024
"""How much of a used memory is cleaned by writing zeros, and stays resident, instead of being given back."""

PLACE_BYTES = 5 * 1024**3
"""More addresses than one instance takes: those of 32 bits, so that no access needs a comparison, and guards."""

ALLOC = "alloc"
MEMORY = "memory"

_ON = ("consume_fuel", "epoch_interruption", "cranelift_nan_canonicalization")
_PROPOSALS_ON = ("wasm_bulk_memory", "wasm_multi_value", "wasm_reference_types")
_PROPOSALS_OFF = (
    "wasm_threads",
    "shared_memory",
    "wasm_simd",
    "wasm_relaxed_simd",
    "wasm_tail_call",
    "wasm_multi_memory",
    "wasm_memory64",
    "wasm_exceptions",
    "wasm_function_references",
    "wasm_gc",
    "gc_support",
    "wasm_wide_arithmetic",
    "wasm_custom_page_sizes",
    "wasm_stack_switching",
    "wasm_component_model",
)
_ALLOC_TYPE = (("i32",), ("i32",))
_ENTRY_TYPE = (("i32", "i32"), ("i64",))


class CompiledModule:
    """A module ready to run: linked, with the names of the functions that have the type of an entry."""

    __slots__ = ("entries", "linked", "min_memory_bytes", "module", "native_bytes")

    def __init__(self, module: wasmtime.Module, linked: wasmtime.InstancePre, native_bytes: int):
        self.module = module
        self.linked = linked
        self.native_bytes = native_bytes
        self.entries, self.min_memory_bytes = _exports_of(module)


class Engine:
    """Compiles modules; every engine of one version of this project and one architecture does it in the same way."""

    def __init__(self, *, parallel_calls: int):
        _check_address_space(parallel_calls)
        self.engine = wasmtime.Engine(_configuration(parallel_calls))
        self._linker = wasmtime.Linker(self.engine)
        self.description = (
            f"wasmtime {metadata.version('wasmtime')} {_target()} stack {STACK_BYTES} memory {MAX_MEMORY_BYTES}"
            f" table {MAX_TABLE_ELEMENTS} on {' '.join(_ON + _PROPOSALS_ON)} off {' '.join(_PROPOSALS_OFF)}"
        )
        self.engine_id = content_id(self.description.encode())

    def compile(self, code: bytes) -> tuple[CompiledModule, bytes]:
        """Returns the compiled module and its native form; raises InvalidModule unless it is one that can be called."""
        check_structure(code)
        try:
            module = wasmtime.Module(self.engine, code)
            linked = self._linker.instantiate_pre(module)
        except wasmtime.WasmtimeError as error:
            raise InvalidModule(f"is not a module of the features that are on: {_first_line(error)}") from None
        form = bytes(module.serialize())
        return CompiledModule(module, linked, len(form)), form

    def revive(self, form: bytes) -> CompiledModule:
        """Returns the module of a native form that ``compile`` has made; raises SandboxFault when it does not fit.

        The form is machine code that will be run: whoever calls must know where it has been since.
        """
        try:
            module = wasmtime.Module.deserialize(self.engine, form)
            return CompiledModule(module, self._linker.instantiate_pre(module), len(form))
        except wasmtime.WasmtimeError as error:
            raise SandboxFault(f"the native form of a module does not fit this engine: {_first_line(error)}") from None


def _check_address_space(parallel_calls: int) -> None:
    """Raises SandboxFault where wasmtime, which reserves addresses for all places at once, would end the process."""
    try:
        mmap.mmap(-1, parallel_calls * PLACE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=0).close()
    except OSError as error:
        raise SandboxFault(
            f"cannot reserve {parallel_calls * PLACE_BYTES} bytes of addresses: {error.strerror}",
            remedy="lift the limit of address space (ulimit -v); no memory is used by it",
        ) from error


def _configuration(parallel_calls: int) -> wasmtime.Config:
    config = wasmtime.Config()
    for name in _ON + _PROPOSALS_ON:
        setattr(config, name, True)
    for name in _PROPOSALS_OFF:
        setattr(config, name, False)
    config.max_wasm_stack = STACK_BYTES
    if (target := _target()) != "native":
        error: Any = native.wasmtime_config_target_set(config.ptr(), target.encode())
        if error:
            native.wasmtime_error_delete(error)
            raise SandboxFault("wasmtime cannot generate code for this machine", value=target)
    _use_pool(config, parallel_calls)
    return config


def _use_pool(config: wasmtime.Config, parallel_calls: int) -> None:
    """Lets instances come from places that are reserved once: a call then costs a third, and growth cannot fail."""
    pool = native.wasmtime_pooling_allocation_config_new()
    for what in ("total_core_instances", "total_memories", "total_tables"):
        getattr(native, f"wasmtime_pooling_allocation_config_{what}_set")(pool, parallel_calls)
    native.wasmtime_pooling_allocation_config_max_memory_size_set(pool, MAX_MEMORY_BYTES)
    native.wasmtime_pooling_allocation_config_table_elements_set(pool, MAX_TABLE_ELEMENTS)
    native.wasmtime_pooling_allocation_config_linear_memory_keep_resident_set(pool, KEPT_MEMORY_BYTES)
    native.wasmtime_pooling_allocation_config_table_keep_resident_set(pool, MAX_TABLE_ELEMENTS * 8)
    native.wasmtime_pooling_allocation_strategy_set(config.ptr(), pool)
    native.wasmtime_pooling_allocation_config_delete(pool)


def _target() -> str:
    """Returns the target that stands for the architecture alone; elsewhere than on Linux, what wasmtime makes of it."""
    return f"{platform.machine()}-unknown-linux-gnu" if platform.system() == "Linux" else "native"


def _exports_of(module: wasmtime.Module) -> tuple[frozenset[str], int]:
    """Returns the names that can be entries and the least bytes of memory; InvalidModule without memory or alloc."""
    entries = []
    min_memory = None
    has_alloc = False
    for export in module.exports:
        kind = export.type
        if isinstance(kind, wasmtime.MemoryType) and export.name == MEMORY:
            min_memory = kind.limits.min * PAGE_BYTES
        elif isinstance(kind, wasmtime.FuncType):
            signature = (tuple(map(str, kind.params)), tuple(map(str, kind.results)))
            if export.name == ALLOC:
                has_alloc = signature == _ALLOC_TYPE
            elif signature == _ENTRY_TYPE:
                entries.append(export.name)
    if min_memory is None:
        raise InvalidModule("must export its memory", field=MEMORY)
    if not has_alloc:
        raise InvalidModule("must export a function that takes an i32 and returns an i32", field=ALLOC)
    return frozenset(entries), min_memory


def _first_line(error: wasmtime.WasmtimeError) -> str:
    return " ".join(str(error).split())[:300]
