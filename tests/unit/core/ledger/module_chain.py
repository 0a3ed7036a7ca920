"""A small committed chain of a world with a module, for tests of the ledger and of nodes."""

from __future__ import annotations

from typing import Any

from agentworld_core.ledger.block import Execution
from agentworld_core.world.modules.artifacts import split_artifact
from agentworld_core.world.modules.records import read_manifest
from tests.unit.core.ledger.chains import VOTERS, Chain, make_genesis
from tests.unit.core.membership.worlds import first_directory
from tests.unit.core.world.agents import action, register
from tests.unit.core.world.modules.governed import FakeSandbox, manifest

CODE = b"counter"


def count(given: dict[str, Any]) -> Any:
    """A reducer that counts its calls and tells everybody."""
    counted = int(given["state"] or b"0") + 1
    return {"new_state": str(counted).encode(), "emits": [{"kind": "count.is", "payload": counted}]}


def a_sandbox() -> FakeSandbox:
    """A sandbox that can run the module of the chain and has loaded nothing yet."""
    sandbox = FakeSandbox()
    sandbox.add(CODE, count)
    return sandbox


def module_chain() -> Chain:
    """Five blocks: two who govern enter and bring in a counter of moves, then ada, who moves."""
    sandbox = a_sandbox()
    artifact = sandbox.add(CODE, count)
    directory = first_directory(dict.fromkeys(VOTERS, 1), governance=("gov",))
    chain = Chain(make_genesis(directory), sandbox=sandbox)
    document = manifest("counter", artifact, kind="reducer", subscriptions=[{"event_kinds": ["agent.moved"]}])
    changes = {"register": [document], "activate": [{"module_id": "counter", "version": "1.0.0"}]}
    chain.commit(register("one", key="gov"), register("two", key="gov"), register("ada"))
    base = read_manifest(chain.state.tree).hash
    puts = [action("one", "artifact.put", piece, 1, key="gov") for piece in split_artifact(CODE)]
    chain.commit(*puts, action("one", "proposal.create", {"base": base, "changes": changes}, 2, key="gov"))
    chain.commit(
        action("one", "proposal.shadow", {"proposal": 1}, 3, key="gov"),
        action("two", "proposal.approve", {"proposal": 1}, 1, key="gov"),
        action("one", "proposal.apply", {"proposal": 1}, 4, key="gov"),
    )
    assert all_ok(chain), [execution.receipts for execution in chain.executions]
    for nonce in (1, 2):
        move(chain, nonce)
    assert all_ok(chain)
    return chain


def move(chain: Chain, nonce: int) -> Execution:
    """Commits a block in which ada moves."""
    return chain.commit(action("ada", "agent.move", {"to": [nonce, 0]}, nonce))


def all_ok(chain: Chain) -> bool:
    """True when no action of the chain was refused."""
    return all(receipt.ok for execution in chain.executions for receipt in execution.receipts)
