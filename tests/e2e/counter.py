"""The example module that worlds of these tests begin with, and the ConfigMap that it comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from agentworld_core.codec import Value
from tests.e2e.kube import Namespace

EXAMPLE = Path(__file__).parents[2] / "examples" / "modules" / "counter"
CODE = (EXAMPLE / "counter.wasm").read_bytes()
MANIFEST: dict[str, Value] = json.loads((EXAMPLE / "manifest.json").read_text())
COUNTER: dict[str, Any] = {
    "moduleId": "counter",
    "version": "1.0.0",
    "artifact": {"configMapKeyRef": {"name": "counter", "key": "counter.wasm"}},
}
"""What ``spec.genesis.modules`` says about it."""


def make_counter(namespace: Namespace) -> None:
    """Makes the ConfigMap as the documentation says."""
    files = [f"--from-file={EXAMPLE / name}" for name in ("counter.wasm", "manifest.json")]
    namespace.kubectl("create", "configmap", "counter", *files)
