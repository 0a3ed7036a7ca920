"""Random blocks of many actions for modules that answer batches; run as a program, it prints what they came to."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any

from agentworld_core.codec import encode, encode_value
from agentworld_core.hashing import content_id
from agentworld_core.messages import ActionEnvelope, EventSegment, ReceiptList
from agentworld_core.world.kernel import replay_events
from agentworld_core.world.modules.sandbox import CallFailed
from tests.unit.core.world.modules.governed import AUTHOR, LIMITS, FakeSandbox, GovernedWorld

BLOCKS = 4
ACTORS = ("ada", "bob", "eve")
EFFECTS = [{"kind": "mail.send", "params": 1, "cap_ref": "post"}]
LIMITS_OF_CROWDS = {**LIMITS, "max_batch": 16, "max_gas": 100_000, "max_mem_bytes": 2**20}
MODULES: dict[str, dict[str, Any]] = {
    "book": {
        "kind": "reducer",
        "subscriptions": [{"action_kinds": ["agent.*", "trade.*"], "stage": "post_action"}],
    },
    "door": {
        "kind": "reducer",
        "subscriptions": [
            {"action_kinds": ["agent.move"]},
            {"action_kinds": ["agent.move"], "stage": "post_action", "filters": [{"path": "/payload/to/0", "gt": 3}]},
        ],
    },
    "ear": {"kind": "reducer", "subscriptions": [{"event_kinds": ["talk.*"]}]},
    "gate": {"kind": "pure", "role": "rule", "subscriptions": [{"action_kinds": ["agent.move", "trade.*"]}]},
    "late": {"kind": "reducer", "subscriptions": [{"action_kinds": ["trade.*"]}]},
}


def program(seed: int) -> Callable[[dict[str, Any]], Any]:
    """A program that mostly does what a module should, and seldom what it should not, as its input says."""

    def run(given: dict[str, Any]) -> Any:
        whim = int(content_id(encode_value([seed, given.get("action"), given.get("event"), given.get("state")])), 16)
        choice, whim = whim % 100, whim // 100
        if choice < 2:
            raise CallFailed("trap", "whim")
        if choice < 4:
            return bytes([whim % 256])
        output: dict[str, Any] = {}
        if "state" in given and choice < 80:
            output["new_state"] = encode_value(whim % 1000)
        if choice % 3 == 0:
            output["emits"] = [{"kind": ("talk.a", "talk.b")[number % 2], "payload": number} for number in range(4)]
        if given["ctx"]["module_id"] == "gate" and choice < 25:
            verdict: dict[str, Any] = {"action_id": given["action"]["action_id"], "verdict": "deny"}
            if choice < 15:
                instead = {"kind": "agent.move", "payload": {"to": [whim % 9, 0]}}
                verdict = {**verdict, "verdict": "modify", "override_action": instead}
            output["emits"] = [{"kind": "rule.decision", "payload": verdict}]
        if choice > 95:
            output["effects"] = EFFECTS
        return output

    return run


class Crowd:
    """One world and the blocks that happen in it, all chosen by a seed."""

    def __init__(self, seed: int, sandbox: FakeSandbox | None = None):
        self._random = random.Random(seed)
        self.world = GovernedWorld(sandbox=sandbox)
        self.world.enter(*ACTORS)
        for name, fields in MODULES.items():
            self.world.install(name, program(seed), limits=LIMITS_OF_CROWDS, **fields)

    def digest(self) -> str:
        """Takes the blocks and returns the content id of everything that came of them."""
        parts = []
        for _ in range(BLOCKS):
            result = self.world.step(*[self._action() for _ in range(self._random.randrange(40))])
            parts += [encode(EventSegment(result.events)), encode(ReceiptList(result.receipts))]
            parts.append(f"{result.tree.root} {result.exhausted}".encode())
        assert replay_events(self.world.first, self.world.events) == self.world.tree
        return content_id(b"".join(parts))

    def _action(self) -> ActionEnvelope:
        actor, number = self._random.choice(ACTORS), self._random.randrange(9)
        choices: list[tuple[str, str, dict[str, Any]]] = [
            *[(actor, "agent.move", {"to": [number, 0]})] * 5,
            *[(actor, "trade.offer", {"what": number})] * 5,
            (actor, "agent.move", {"to": number}),
            ("nobody", "trade.offer", {}),
            (AUTHOR, "resource.grant", {"agent_id": actor, "kind": "power", "amount": 1}),
        ]
        chosen, kind, payload = self._random.choice(choices)
        made = self.world.signed(chosen, kind, payload)
        if self._random.random() < 0.05:
            self.world.nonces[chosen] -= 1  # the next action of this actor comes with a nonce that is used
        return made


def digest_of(seed: int, *, batches: bool = True) -> tuple[str, int]:
    """Returns what a seed comes to, and how many calls of modules it took."""
    sandbox = FakeSandbox()
    sandbox.batches = batches
    return Crowd(seed, sandbox).digest(), len(sandbox.calls)


if __name__ == "__main__":
    for number in range(int(sys.argv[1]), int(sys.argv[2])):
        print(number, *digest_of(number))
