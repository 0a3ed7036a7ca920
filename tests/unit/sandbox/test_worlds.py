"""A world of the example modules, executed with the sandbox of a node: the same with batches and one by one."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from agentworld_core.codec import encode
from agentworld_core.hashing import content_id
from agentworld_core.messages import ActionEnvelope, EventSegment, ReceiptList
from agentworld_core.world.kernel import StepInput, replay_events, step
from agentworld_core.world.modules.artifacts import split_artifact
from agentworld_core.world.modules.sandbox import CallFailed, CallResult, ModuleCall
from agentworld_node.sandbox import WasmSandbox
from tests.unit.core.world.modules.governed import AUTHOR, GovernedWorld
from tests.unit.sandbox.test_examples import FOLDER

ACTORS = ("ada", "bob", "eve")


class OneByOne(WasmSandbox):
    """A sandbox in which every call for a batch traps."""

    def call(self, call: ModuleCall) -> CallResult:
        if call.entry.endswith("_batch"):
            raise CallFailed("trap", "no batches")
        return super().call(call)


class Counting(WasmSandbox):
    """A sandbox that says how many calls there were."""

    calls = 0

    def call(self, call: ModuleCall) -> CallResult:
        self.calls += 1
        return super().call(call)


class ExampleWorld(GovernedWorld):
    """A world with counter, gatekeeper and market in force."""

    def __init__(self, sandbox: WasmSandbox):
        self.wasm = sandbox
        super().__init__()
        self.enter(*ACTORS)
        for name in ("counter", "gatekeeper", "market"):
            for piece in split_artifact((FOLDER / name / f"{name}.wasm").read_bytes()):
                assert self.do(AUTHOR, "artifact.put", piece).ok
            manifest = json.loads((FOLDER / name / "manifest.json").read_text())
            active = {"module_id": name, "version": manifest["version"]}
            self.decide({"register": [manifest], "activate": [active]})
        for name in ACTORS:
            for kind, amount in (("electricity", 40), ("data", 20), ("hardware", 5)):
                assert self.do(AUTHOR, "resource.grant", {"agent_id": name, "kind": kind, "amount": amount}).ok

    def step(self, *actions: ActionEnvelope) -> Any:
        self.height += 1
        given = StepInput(height=self.height, time_ms=self.height * 100, actions=actions, governance=self.governance)
        result = step(self.tree, given, self.wasm)
        self.tree = result.tree
        self.events.extend(result.events)
        return result

    def some_action(self, chance: random.Random) -> ActionEnvelope:
        actor, number = chance.choice(ACTORS), chance.randrange(-2000, 2000)
        choices: list[tuple[str, dict[str, Any]]] = [
            *[("counter.add", {"by": number})] * 4,
            *[("agent.move", {"to": [number, number]})] * 4,
            ("counter.add", {"by": "a lot"}),
            ("message.send", {"to": chance.choice(ACTORS), "body": "x" * (abs(number) // 6)}),
            ("message.send", {"to": "nobody", "body": 7}),
            ("object.create", {"object_id": f"lamp-{number}", "data": 1}),
            ("market.join", {}),
            ("market.sell", {"amount": abs(number) // 200, "price": 3}),
            ("market.buy", {"amount": abs(number) // 200, "price": 4}),
        ]
        kind, payload = chance.choice(choices)
        return self.signed(actor if chance.random() > 0.03 else "nobody", kind, payload)


def history(sandbox: WasmSandbox, seed: int) -> str:
    """Returns the content id of everything that a history of a seed comes to."""
    chance = random.Random(seed)
    world = ExampleWorld(sandbox)
    parts = []
    for _ in range(3):
        result = world.step(*[world.some_action(chance) for _ in range(chance.randrange(80))])
        parts += [encode(EventSegment(result.events)), encode(ReceiptList(result.receipts)), result.tree.root.encode()]
    assert replay_events(world.first, world.events) == world.tree
    return content_id(b"".join(parts))


@pytest.mark.parametrize("seed", range(3))
def test_a_world_of_the_examples_is_the_same_with_batches_and_one_by_one(seed: int) -> None:
    batched, single = Counting(), OneByOne()
    assert history(batched, seed) == history(single, seed)
    other = Counting()
    assert history(other, seed) == history(batched, seed)
    assert batched.calls == 2 * other.calls
