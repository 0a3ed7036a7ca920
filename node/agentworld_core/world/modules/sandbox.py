"""The port through which the kernel runs modules: what a call is given, what it may use, and what can come of it.

A result, also a failure, is a function of artifact, entry, input and limits alone: ``CallFailed`` is part of the world
and the same on every node. ``SandboxFault`` is not: the node that meets one stops, and nothing of it is recorded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from agentworld_core.errors import AgentWorldError


@dataclass(frozen=True, kw_only=True, slots=True)
class CallLimits:
    """What one call may use: fuel units, bytes of linear memory, bytes of output."""

    fuel: int
    memory_bytes: int
    output_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ModuleCall:
    """One call: the content id (BLAKE3) of the artifact, the exported entry, its input, and the limits."""

    artifact: str
    entry: str
    input: bytes
    limits: CallLimits


@dataclass(frozen=True, kw_only=True, slots=True)
class CallResult:
    """What a call returned, and the fuel that it used: both the same on every node."""

    output: bytes
    fuel_used: int


class CallFailed(AgentWorldError):
    """A call ended without a result, for a reason that is the same on every node: one of ``FAILURE_CODES``."""

    code = "module_call_failed"

    def __init__(self, reason_code: str, message: str):
        super().__init__(message)
        if reason_code not in FAILURE_CODES:
            raise ValueError(f"unknown failure code {reason_code!r}")
        self.reason_code = reason_code


FAILURE_CODES = (
    "out_of_fuel",
    "trap",
    "invalid_output",
    "output_too_large",
)
"""``trap`` covers memory and stack beyond their limits; ``invalid_output`` pointers that lie outside the memory."""


class InvalidModule(AgentWorldError):
    """Bytes are not a module that this sandbox would run: malformed, with imports, or without a needed export."""

    code = "invalid_module"


class SandboxFault(AgentWorldError):
    """The sandbox of this node failed, or a call took longer than its watchdog allows: never a result of the call."""

    code = "sandbox_fault"
    wire = "ERR_NOT_AVAILABLE"
    http_status = 503


class Sandbox(Protocol):
    """Runs modules. Artifacts are given once and kept by content id; what was forgotten is given again."""

    def check(self, code: bytes, entries: tuple[str, ...]) -> None:
        """Raises InvalidModule unless the bytes are a module with memory, ``alloc`` and these entries."""
        ...

    def has(self, artifact: str) -> bool:
        """Tells whether a call of this artifact needs no ``load`` before it."""
        ...

    def load(self, artifact: str, code: bytes) -> None:
        """Makes an artifact callable; raises HashMismatch for another content id, else as ``check``."""
        ...

    def call(self, call: ModuleCall) -> CallResult:
        """Runs one call on a fresh instance; raises CallFailed or SandboxFault, KeyError for what is not loaded."""
        ...
