"""What stops a node that cannot run the modules of its world: a fault of the node, never a result."""

from __future__ import annotations

from agentworld_core.world.modules.sandbox import SandboxFault


class SandboxMissing(SandboxFault):
    """The world has modules, and this node or tool was started without a sandbox that could run them."""

    code = "sandbox_missing"
