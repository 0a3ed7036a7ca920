"""The sandbox of a node: artifacts in, compiled once, called on a fresh instance each time.

What the fields of a call mean is said by the port (agentworld_core.world.modules.sandbox), what a module must look like
by docs/modules.md.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from agentworld_core.errors import HashMismatch, InvalidField
from agentworld_core.hashing import content_id
from agentworld_core.world.modules.sandbox import (
    CallFailed,
    CallResult,
    InvalidModule,
    ModuleCall,
    SandboxFault,
)
from agentworld_core.world.modules.structure import MAX_MEMORY_BYTES, check_structure
from agentworld_node.sandbox.cache import NativeCache
from agentworld_node.sandbox.engine import ALLOC, CompiledModule, Engine
from agentworld_node.sandbox.invocation import invoke
from agentworld_node.sandbox.watchdog import Watchdog

MAX_FUEL = 2**62
"""What wasmtime can count; the time that a node has for a call is over long before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SandboxSettings:
    """What this node offers to calls and keeps for them; nothing here can change the result of a call.

    A call that asks for more than ``max_fuel``, ``max_memory_bytes`` or ``max_output_bytes`` is a SandboxFault, so they
    must not be below what the world allows, which for outputs is the 1 MiB of a batch. ``watchdog_ms`` must leave
    ``max_fuel`` ample time on a busy machine.
    """

    max_fuel: int = 10_000_000
    max_memory_bytes: int = MAX_MEMORY_BYTES
    max_output_bytes: int = 4 * 1024 * 1024
    watchdog_ms: int = 2_000
    cached_modules: int = 32
    cached_module_bytes: int = 256 * 1024 * 1024
    cache_folder_bytes: int = 256 * 1024 * 1024
    parallel_calls: int = 4

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise InvalidField("must be a positive integer", field=name, value=value)
        for name, most in (("max_memory_bytes", MAX_MEMORY_BYTES), ("max_fuel", MAX_FUEL), ("parallel_calls", 64)):
            if getattr(self, name) > most:
                raise InvalidField(f"must be at most {most}", field=name, value=getattr(self, name))


class WasmSandbox:
    """Runs modules with wasmtime; may be used from several threads."""

    def __init__(self, cache_folder: Path | None = None, settings: SandboxSettings = SandboxSettings()):
        self._settings = settings
        self._engine = Engine(parallel_calls=settings.parallel_calls)
        self._places: SimpleQueue[None] = SimpleQueue()
        for _ in range(settings.parallel_calls):
            self._places.put(None)
        self._watchdog = Watchdog(tick=self._engine.engine.increment_epoch, allowed_ms=settings.watchdog_ms)
        self._lock = threading.Lock()
        self._loaded: OrderedDict[str, CompiledModule] = OrderedDict()
        self._loaded_bytes = 0
        self._cache: NativeCache | None = None
        if cache_folder is not None:
            self._cache = NativeCache(
                cache_folder, engine_id=self._engine.engine_id, limit_bytes=settings.cache_folder_bytes
            )

    @property
    def engine(self) -> str:
        """Everything that results and fuel depend on besides the module, in one line; equal on nodes that agree."""
        return self._engine.description

    def check(self, code: bytes, entries: tuple[str, ...]) -> None:
        check_structure(code)
        compiled = self._prepared(content_id(code), code)
        for entry in entries:
            if entry not in compiled.entries or entry == ALLOC:
                raise InvalidModule(
                    f"must export a function {entry} that takes two i32 and returns an i64",
                    field="exports",
                    value=entry,
                )

    def has(self, artifact: str) -> bool:
        return artifact in self._loaded

    def load(self, artifact: str, code: bytes) -> None:
        actual = content_id(code)
        if actual != artifact:
            raise HashMismatch(
                f"is not the content id of the module, which is {actual}", field="artifact", value=artifact
            )
        self._prepared(artifact, code)

    def call(self, call: ModuleCall) -> CallResult:
        self._judge(call)
        with self._lock:
            compiled = self._loaded[call.artifact]
            self._loaded.move_to_end(call.artifact)
        if call.entry not in compiled.entries:
            raise CallFailed("trap", f"the module has no entry {call.entry}")
        if max(compiled.min_memory_bytes, len(call.input)) > call.limits.memory_bytes:
            raise CallFailed("trap", f"{call.limits.memory_bytes} bytes of memory do not hold the module and its input")
        self._places.get()
        try:
            with self._watchdog:
                return invoke(self._engine, compiled, call, self._watchdog.deadline)
        finally:
            self._places.put(None)

    def _judge(self, call: ModuleCall) -> None:
        """Refuses what this node cannot offer: the call may be right, and then the node is not."""
        for name, asked, offered in (
            ("fuel", call.limits.fuel, self._settings.max_fuel),
            ("memory_bytes", call.limits.memory_bytes, self._settings.max_memory_bytes),
            ("output_bytes", call.limits.output_bytes, self._settings.max_output_bytes),
        ):
            if not 0 <= asked <= offered:
                raise SandboxFault(f"this node offers at most {offered}", field=name, value=asked)

    def _prepared(self, artifact: str, code: bytes) -> CompiledModule:
        """Returns the module, kept in memory from now on; two threads that need it at once may both compile it."""
        with self._lock:
            compiled = self._loaded.get(artifact)
        return self._keep(artifact, compiled or self._revived(artifact) or self._compiled(artifact, code))

    def _revived(self, artifact: str) -> CompiledModule | None:
        form = self._cache.get(artifact) if self._cache else None
        if self._cache is None or form is None:
            return None
        try:
            return self._engine.revive(form)
        except SandboxFault:
            # Written by an engine that calls itself the same and is not: the next one shall not find it.
            self._cache.drop(artifact)
            return None

    def _compiled(self, artifact: str, code: bytes) -> CompiledModule:
        compiled, form = self._engine.compile(code)
        if self._cache:
            self._cache.put(artifact, form)
        return compiled

    def _keep(self, artifact: str, compiled: CompiledModule) -> CompiledModule:
        settings = self._settings
        with self._lock:
            if artifact not in self._loaded:
                self._loaded_bytes += compiled.native_bytes
            kept = self._loaded.setdefault(artifact, compiled)
            self._loaded.move_to_end(artifact)
            while len(self._loaded) > settings.cached_modules or (
                self._loaded_bytes > settings.cached_module_bytes and len(self._loaded) > 1
            ):
                _, forgotten = self._loaded.popitem(last=False)
                self._loaded_bytes -= forgotten.native_bytes
            return kept
