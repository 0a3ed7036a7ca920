"""How the code of active modules gets from the state of a world into the sandbox of a node."""

from __future__ import annotations

from agentworld_core.errors import HashMismatch
from agentworld_core.world.modules.artifacts import read_artifact
from agentworld_core.world.modules.manifest import ModuleManifest
from agentworld_core.world.modules.sandbox import InvalidModule, Sandbox, SandboxFault
from agentworld_core.world.modules.table import open_table
from agentworld_core.world.tree import Tree


def warm_up(tree: Tree, sandbox: Sandbox) -> int:
    """Makes the active modules of a state callable, in order of their ids, and returns how many there are.

    Raises SandboxFault for the first that the sandbox does not take.
    """
    table = open_table(tree)
    modules = () if table is None else table.modules
    for module in modules:
        load(tree, sandbox, module)
    return len(modules)


def load(tree: Tree, sandbox: Sandbox, module: ModuleManifest) -> None:
    """Gives the sandbox the code of a module from the state, unless it has it."""
    if sandbox.has(module.wasm_hash):
        return
    code = read_artifact(tree, module.wasm_hash)
    if code is None:
        raise SandboxFault("the state lacks the code of an active module", field="artifact", value=module.wasm_hash)
    try:
        sandbox.load(module.wasm_hash, code)
    except (InvalidModule, HashMismatch) as error:
        # The ledger says that this code was checked: a sandbox that refuses it is not the one of the others.
        raise SandboxFault(
            f"the sandbox refuses the code of an active module: {error}", field="artifact", value=module.wasm_hash
        ) from error
