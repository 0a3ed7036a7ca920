"""Random schedules of actions, proposals and modules, each made by one integer; run as a program, it prints digests."""

from __future__ import annotations

import random
import sys
from collections import Counter
from typing import Any

from agentworld_core.codec import encode, encode_value
from agentworld_core.hashing import content_id
from agentworld_core.messages import ActionEnvelope, EventSegment, ReceiptList
from agentworld_core.world.kernel import StepResult, replay_events
from agentworld_core.world.modules.records import ProposalCount, read_manifest
from agentworld_core.world.modules.sandbox import FAILURE_CODES, CallFailed
from agentworld_core.world.state import read
from tests.unit.core.world.agents import signer
from tests.unit.core.world.modules.governed import APPROVER, AUTHOR, LIMITS, GovernedWorld, a_receipt, manifest

MODULES = ("mod-a", "mod-b", "mod-c")
CODE = b"whims"
ARTIFACT = content_id(CODE)
EFFECTS = ("mail.send", "mail.burn", "bomb.drop")
VERDICTS: list[dict[str, Any]] = [
    {"verdict": "allow", "cost": {"power": 1}},
    {"verdict": "deny", "notes": "no"},
    {"verdict": "modify", "override_action": {"kind": "agent.move", "payload": {"to": [4, 4]}}},
    {"verdict": "modify", "override_action": {"kind": "trade.offer", "payload": {}}},
    {"verdict": "modify"},
]
SUBSCRIPTIONS: list[dict[str, Any]] = [
    {"action_kinds": ["*"]},
    {"action_kinds": ["trade.*"]},
    {"action_kinds": ["agent.*"], "stage": "post_action"},
    {"event_kinds": ["*"]},
    {"event_kinds": ["talk.*", "module.*"]},
    {"event_kinds": ["agent.moved"], "filters": [{"path": "/payload/to/0", "gt": 2}]},
]


def whimsical(seed: int) -> Any:
    """A program that does anything a module can do, also what it must not, as its input says."""

    def run(given: dict[str, Any]) -> Any:
        whim = int(content_id(encode_value({"seed": seed, "ctx": given["ctx"], "state": given.get("state", b"")})), 16)
        choice, whim = whim % 9, whim // 9
        if choice == 0:
            raise CallFailed(FAILURE_CODES[whim % len(FAILURE_CODES)], "whim")
        output: dict[str, Any] = {}
        if choice in (1, 2, 3):
            output["new_state"] = encode_value(whim % 5)
        if choice in (2, 4, 5):
            output["emits"] = [{"kind": ("talk.a", "talk.b")[whim % 2], "payload": whim % 7}] * (whim % 3)
        if choice in (5, 6) and "action" in given:
            decision = {"action_id": given["action"]["action_id"], **VERDICTS[whim % len(VERDICTS)]}
            output.setdefault("emits", []).append({"kind": "rule.decision", "payload": decision})
        if choice == 7:
            output["effects"] = [{"kind": EFFECTS[whim % 3], "params": 1, "cap_ref": "post", "expires_in": whim % 5}]
        return encode_value(output) if choice != 8 else bytes([whim % 256])

    return run


class Schedule:
    """One world and what happens in it, all chosen by a seed."""

    def __init__(self, seed: int):
        self._random = random.Random(seed)
        self.world = GovernedWorld()
        self.digests: list[str] = []
        self.world.sandbox.add(CODE, whimsical(seed))
        assert self.world.put(CODE) == ["ok"]
        signers = [signer("ada").key_id]
        grant = {"capability": "post", "kinds": ["mail.*"], "expires_tick": 20, "signers": signers}
        assert self.world.do(AUTHOR, "capability.grant", grant).ok
        rules = [
            {"effect": "mail.burn", "module": "*", "decision": "deny", "reason": "fire"},
            {"effect": "*", "module": "*", "decision": "allow", "reason": ""},
        ]
        assert self.world.do(APPROVER, "policy.set", {"rules": rules}).ok
        self.world.enter("ada")
        first = self._manifest("mod-0", "1", subscriptions=[SUBSCRIPTIONS[0], SUBSCRIPTIONS[3]])
        self.world.decide({"register": [first], "activate": [{"module_id": "mod-0", "version": "1"}]})

    def run(self, steps: int) -> None:
        """Takes steps of random actions, and now and then carries a whole proposal through."""
        for _ in range(steps):
            if self._random.random() < 0.3:
                self._proposal()
            self._step(*[self._action() for _ in range(self._random.randrange(6))])

    def _step(self, *actions: ActionEnvelope) -> StepResult:
        result = self.world.step(*actions)
        parts = encode(EventSegment(result.events)), encode(ReceiptList(result.receipts)), result.tree.root.encode()
        self.digests.append(content_id(b"".join(parts)))
        assert len(result.receipts) == len(actions)
        return result

    def _proposal(self) -> None:
        changes = self._changes()
        base = read_manifest(self.world.tree).hash
        self._step(self.world.signed(AUTHOR, "proposal.create", {"base": base, "changes": changes}))
        count = read(self.world.tree, b"proposals", ProposalCount)
        assert count is not None
        number = count.next - 1
        for actor, kind in ((AUTHOR, "shadow"), (APPROVER, "approve"), (AUTHOR, "apply")):
            self._step(self.world.signed(actor, f"proposal.{kind}", {"proposal": number}), self._action())

    def _changes(self) -> dict[str, Any]:
        pick = self._random.choice
        name, version = pick(MODULES), pick(["1", "2"])
        active = [{"module_id": name, "version": version}]
        return pick([
            {"register": [self._manifest(name, version)], "activate": active},
            {"register": [self._manifest(name, version)]},
            {"activate": active},
            {"deactivate": [{"module_id": name, "reason": "whim"}]},
            {"rollback": [{"module_id": name, "reason": "whim"}]},
            {"patch": [{"set": {"path": ["x"], "value": 1}}]},
        ])  # fmt: skip

    def _manifest(self, name: str, version: str, **fields: Any) -> dict[str, Any]:
        pick = self._random.choice
        chosen = {
            "kind": pick(["pure", "reducer", "reducer"]),
            "role": pick(["rule", "domain"]),
            "subscriptions": self._random.sample(SUBSCRIPTIONS, 2),
            "limits": {**LIMITS, "max_call_rate": pick([3, 30]), "max_batch": 30},
        }
        return manifest(name, ARTIFACT, version=version, required_caps=["post"], **{**chosen, **fields})

    def _action(self) -> ActionEnvelope:
        pick = self._random.choice
        actor = pick([AUTHOR, "ada", "ada", "bob"])
        number = self._random.randrange(1, 5)
        choices: list[tuple[str, dict[str, Any]]] = [
            ("agent.register", {}),
            ("agent.move", {"to": [number, 0]}),
            ("agent.move", {"to": [number, 0]}),
            ("trade.offer", {"what": "fish"}),
            ("object.create", {"object_id": f"lamp-{number}", "data": number}),
            ("resource.grant", {"agent_id": "ada", "kind": "power", "amount": 5}),
            ("effect.settle", {"receipt": a_receipt(self.world, number, key="ada" if number % 2 else AUTHOR)}),
            ("proposal.approve", {"proposal": number}),
        ]
        return self.world.signed(actor, *pick(choices))


def digest_of(seed: int, *, steps: int = 8) -> tuple[str, Counter[str]]:
    """Returns the content id of everything that a schedule came to, and how many events of each kind.

    Raises AssertionError when the events do not rebuild the state.
    """
    schedule = Schedule(seed)
    schedule.run(steps)
    world = schedule.world
    assert replay_events(world.first, world.events) == world.tree, f"seed {seed}"
    return content_id("".join(schedule.digests).encode()), Counter(event.kind for event in world.events)


if __name__ == "__main__":
    for number in range(int(sys.argv[1]), int(sys.argv[2])):
        print(number, digest_of(number)[0])
