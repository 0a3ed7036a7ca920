"""Runs modules with wasmtime behind the port of core (agentworld_core.world.modules.sandbox)."""

from agentworld_node.sandbox.sandbox import SandboxSettings, WasmSandbox

__all__ = ["SandboxSettings", "WasmSandbox"]
