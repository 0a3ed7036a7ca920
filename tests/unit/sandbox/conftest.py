"""One sandbox for the tests that change nothing about it."""

from __future__ import annotations

import pytest

from agentworld_node.sandbox import WasmSandbox


@pytest.fixture(scope="session")
def sandbox() -> WasmSandbox:
    return WasmSandbox()
