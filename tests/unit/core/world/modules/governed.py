"""A world with modules for tests: a sandbox whose modules are Python functions, and governance that lets them in."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import cbor2

from agentworld_core.codec import decode_value, encode, encode_value
from agentworld_core.errors import HashMismatch
from agentworld_core.hashing import content_id
from agentworld_core.messages import ActionEnvelope, Receipt, WorldEvent
from agentworld_core.signing import sign
from agentworld_core.world.kernel import StepInput, StepResult, step
from agentworld_core.world.modules.artifacts import split_artifact
from agentworld_core.world.modules.governance import Governance
from agentworld_core.world.modules.receipts import make_receipt
from agentworld_core.world.modules.records import (
    EffectRecord,
    ProposalCount,
    effect_key,
    read_manifest,
    read_proposal,
)
from agentworld_core.world.modules.sandbox import CallFailed, CallResult, InvalidModule, ModuleCall
from agentworld_core.world.state import Draft, read
from tests.unit.core.world.agents import WORLD, action, empty_world, register, signer

Program = Callable[[dict[str, Any]], Any]
AUTHOR, APPROVER = "author", "approver"
LIMITS = {
    "max_mem_bytes": 65536,
    "max_gas": 1000,
    "max_call_rate": 100,
    "max_output_bytes": 65536,
    "max_effects": 4,
    "max_emits": 4,
}


def failing(reason: str) -> Program:
    """A program whose every call ends like that."""

    def run(_given: dict[str, Any]) -> Any:
        raise CallFailed(reason, reason)

    return run


class FakeSandbox:
    """Runs Python functions in place of code: the bytes of a module are the name of a program, and maybe padding."""

    def __init__(self) -> None:
        self.programs: dict[str, Program] = {}
        self.loaded: set[str] = set()
        self.calls: list[ModuleCall] = []
        self.together: dict[str, Callable[[list[Any]], Any]] = {}
        self.batches = True
        self.fuel = 10
        self.pretends = False
        self.forgets = 0

    def add(self, code: bytes, program: Program) -> str:
        """Makes the code runnable and returns its content id."""
        artifact = content_id(code)
        self.programs[artifact] = program
        return artifact

    def check(self, code: bytes, entries: tuple[str, ...]) -> None:
        if content_id(code) not in self.programs or "missing" in entries:
            raise InvalidModule("no program of that name")

    def has(self, artifact: str) -> bool:
        return self.pretends or artifact in self.loaded

    def load(self, artifact: str, code: bytes) -> None:
        if content_id(code) != artifact:
            raise HashMismatch("another content id")
        self.check(code, ())
        self.loaded.add(artifact)

    def call(self, call: ModuleCall) -> CallResult:
        if self.forgets:
            self.forgets -= 1
            self.loaded.discard(call.artifact)
        if call.artifact not in self.loaded:
            raise KeyError(call.artifact)
        self.calls.append(call)
        given = decode_value(call.input)
        assert isinstance(given, dict)
        if call.entry.endswith("_batch"):
            return self._call_together(call, given)
        for name in ("action", "event"):
            if name in given:
                given[name] = cbor2.loads(given[name])
        return CallResult(output=encoded(self.programs[call.artifact](given)), fuel_used=self.fuel)

    def _call_together(self, call: ModuleCall, given: dict[str, Any]) -> CallResult:
        """Gives the program one item after the other as if each were alone, up to one that fails."""
        if not self.batches:
            raise CallFailed("trap", "no batches")
        answers: list[bytes] = []
        for item in singles(given):
            try:
                output = self.programs[call.artifact](item)
            except CallFailed:
                if not answers:
                    raise
                break
            answers.append(encoded(output))
            if isinstance(output, bytes):
                break  # what the host makes of it is not for a module to know
            if "state" in given:
                given["state"] = output.get("new_state", given["state"])
        result: Any = self.together[call.artifact](answers) if call.artifact in self.together else answers
        return CallResult(output=encoded(result), fuel_used=self.fuel * len(answers))


def encoded(output: Any) -> bytes:
    """The bytes of an output; bytes stay what they are."""
    return output if isinstance(output, bytes) else encode_value(output)


def singles(given: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What a call of its own would be given for each item of a batch; ``state`` is read when an item is asked for."""
    kind = "action" if "actions" in given else "event"
    for document in given[f"{kind}s"]:
        item = cbor2.loads(document)
        number = str(item[f"{kind}_id"])
        ctx = {
            **given["ctx"],
            "origin": {"kind": kind, "id": number},
            "trace_id": f"{kind}-{number}-{given['ctx']['module_id']}",
        }
        yield {"ctx": ctx, kind: item, **({"state": given["state"]} if "state" in given else {})}


def manifest(module_id: str, artifact: str, **fields: Any) -> dict[str, Any]:
    """A manifest with generous limits, of a pure module that listens to moves before they happen."""
    kind = fields.get("kind", "pure")
    entry = {"reducer": "reduce", "pure": "call"}[kind]
    return {
        "module_id": module_id,
        "name": f"Module {module_id}",
        "version": "1.0.0",
        "kind": kind,
        "role": "domain",
        "wasm_hash": artifact,
        "interface_version": "wasm-1",
        "exports": [entry, f"{entry}_batch"],
        "subscriptions": [{"action_kinds": ["agent.move"]}],
        "required_caps": [],
        "limits": dict(LIMITS),
        **fields,
    }


class GovernedWorld:
    """A world of agents whose governance has two keys; remembers everything that happened."""

    def __init__(self, *, sandbox: FakeSandbox | None = None, keys: tuple[str, ...] = (AUTHOR, APPROVER)):
        self.sandbox = sandbox or FakeSandbox()
        self.governance = Governance(tuple(signer(name).key_id for name in keys))
        self.first = self.tree = empty_world()
        self.height = 0
        self.nonces: dict[str, int] = {}
        self.events: list[WorldEvent] = []
        assert all(self.codes(*[self.signed(name, "agent.register", {"position": [0, 0]}) for name in keys]))

    def signed(self, actor: str, kind: str, payload: Mapping[str, Any], *, key: str = "") -> ActionEnvelope:
        """The next action of an actor."""
        nonce = self.nonces[actor] = self.nonces.get(actor, -1) + 1
        if kind == "agent.register":
            return register(actor, nonce, key=key)
        return action(actor, kind, payload, nonce, key=key)

    def step(self, *actions: ActionEnvelope) -> StepResult:
        """Takes one step with these actions."""
        self.height += 1
        given = StepInput(height=self.height, time_ms=self.height * 100, actions=actions, governance=self.governance)
        result = step(self.tree, given, self.sandbox)
        self.tree = result.tree
        self.events.extend(result.events)
        return result

    def codes(self, *actions: ActionEnvelope) -> list[str]:
        """Takes one step; ``ok`` or the code for each action."""
        return [receipt.code or "ok" for receipt in self.step(*actions).receipts]

    def do(self, actor: str, kind: str, payload: Mapping[str, Any]) -> Receipt:
        """Takes one step with one action."""
        return self.step(self.signed(actor, kind, payload)).receipts[0]

    def put(self, code: bytes) -> list[str]:
        """Carries an artifact onto the ledger."""
        return self.codes(*[self.signed(AUTHOR, "artifact.put", piece) for piece in split_artifact(code)])

    def propose(self, changes: Mapping[str, Any]) -> int:
        """Makes a proposal and returns its number."""
        created = self.do(AUTHOR, "proposal.create", {"base": read_manifest(self.tree).hash, "changes": changes})
        assert created.ok, created
        count = read(self.tree, b"proposals", ProposalCount)
        assert count is not None
        return count.next - 1

    def decide(self, changes: Mapping[str, Any]) -> int:
        """Takes a proposal from its making to its application."""
        number = self.propose(changes)
        for actor, kind in ((AUTHOR, "shadow"), (APPROVER, "approve"), (AUTHOR, "apply")):
            receipt = self.do(actor, f"proposal.{kind}", {"proposal": number})
            assert receipt.ok, (receipt, self.report(number))
        return number

    def report(self, number: int) -> dict[str, Any]:
        """The shadow report of a proposal."""
        record = read_proposal(self.tree, number)
        assert record is not None
        return record.report

    def install(self, module_id: str, program: Program, **fields: Any) -> str:
        """Makes a module active and returns its artifact."""
        code = module_id.encode() + b" " + str(fields.get("version", "1.0.0")).encode()
        artifact = self.sandbox.add(code, program)
        assert self.put(code) == ["ok"]
        document = manifest(module_id, artifact, **fields)
        version = document["version"]
        self.decide({"register": [document], "activate": [{"module_id": module_id, "version": version}]})
        return artifact

    def enter(self, *names: str) -> None:
        """Registers agents."""
        assert self.codes(*[self.signed(name, "agent.register", {}) for name in names]) == ["ok"] * len(names)

    def move(self, name: str, x: int = 1) -> StepResult:
        """Takes one step with one move of an agent."""
        return self.step(self.signed(name, "agent.move", {"to": [x, 0]}))

    def draft(self) -> Draft:
        """A draft on top of the state."""
        return Draft(self.tree)


def a_receipt(world: GovernedWorld, intent: int, /, *, key: str, **fields: Any) -> bytes:
    """A receipt of an effect, signed by a name; ``fields`` take the place of what is right."""
    effect = read(world.tree, effect_key(intent), EffectRecord) or EffectRecord(
        "none", "mail.send", 1, "c", "0" * 64, 0
    )
    draft = make_receipt(effect, world_id=WORLD, intent=intent, status="done", result={"sent": True})
    return encode(sign(dataclasses.replace(draft, **fields), signer(key)))


def kinds(result: StepResult) -> list[str]:
    """The kinds of a step's events, without those that every step has."""
    return [event.kind for event in result.events if event.kind not in ("step.started", "nonces.used")]


def payload_of(result: StepResult, kind: str) -> dict[str, Any]:
    """The payload of the only event of a kind."""
    found = [event.payload for event in result.events if event.kind == kind]
    assert len(found) == 1, [event.kind for event in result.events]
    assert isinstance(found[0], dict)
    return found[0]
