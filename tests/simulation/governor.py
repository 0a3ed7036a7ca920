"""Governance of a running world: code is put on its ledger, proposed, judged, approved and applied, again and again.

The code runs in a stand-in for the sandbox, whose modules are Python functions; everything around it is production.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cbor2

from agentworld_core.codec import decode_value, encode_value
from agentworld_core.errors import HashMismatch
from agentworld_core.hashing import content_id
from agentworld_core.messages import ActionEnvelope
from agentworld_core.world.actions import AGENT_MOVE, AGENT_REGISTER, make_action, sign_action
from agentworld_core.world.modules import governance_actions as kinds
from agentworld_core.world.modules.artifacts import read_artifact, split_artifact
from agentworld_core.world.modules.records import (
    APPROVED,
    PROPOSALS_KEY,
    PROPOSED,
    SHADOWED,
    ProposalCount,
    read_manifest,
    read_proposal,
)
from agentworld_core.world.modules.sandbox import CallFailed, CallResult, InvalidModule, ModuleCall
from agentworld_core.world.state import read, read_agent
from agentworld_core.world.tree import Tree
from tests.unit.core.membership.worlds import WORLD, signer

if TYPE_CHECKING:
    from tests.simulation.world import World

AUTHOR, APPROVER = "author", "approver"
MODULE = "counter"
FUEL_OF_A_CALL = 10
TURN_MS = 200
LIMITS = {
    "max_mem_bytes": 65536,
    "max_gas": 1000,
    "max_call_rate": 100,
    "max_output_bytes": 1024,
    "max_effects": 4,
    "max_emits": 4,
}


def code_of(version: int) -> bytes:
    """Returns the bytes that stand for a version of the module."""
    return f"{MODULE} {version}".encode()


class StandIn:
    """The sandbox: every version counts the moves, in steps of its own number; every third one traps on odd counts."""

    def __init__(self) -> None:
        self._versions: dict[str, int] = {}

    def check(self, code: bytes, entries: tuple[str, ...]) -> None:
        """Takes any code of the module."""
        if not code.startswith(MODULE.encode()) or entries != ("reduce",):
            raise InvalidModule("is not the counter")

    def has(self, artifact: str) -> bool:
        """Tells whether the code was loaded."""
        return artifact in self._versions

    def load(self, artifact: str, code: bytes) -> None:
        """Loads the code."""
        if content_id(code) != artifact:
            raise HashMismatch("another content id")
        self._versions[artifact] = int(code.split()[1])

    def call(self, call: ModuleCall) -> CallResult:
        """Counts."""
        version = self._versions[call.artifact]
        given: Any = decode_value(call.input)
        count = cbor2.loads(given["state"]) if given["state"] else 0
        if version % 3 == 0 and count % 2:
            raise CallFailed("trap", "does not like odd numbers")
        return CallResult(output=encode_value({"new_state": encode_value(count + version)}), fuel_used=FUEL_OF_A_CALL)


def manifest(version: int) -> dict[str, Any]:
    """Returns the manifest of a version."""
    return {
        "module_id": MODULE,
        "name": "Counts moves",
        "version": f"{version}.0.0",
        "kind": "reducer",
        "role": "domain",
        "wasm_hash": content_id(code_of(version)),
        "interface_version": "wasm-1",
        "exports": ["reduce"],
        "subscriptions": [{"action_kinds": [AGENT_MOVE]}],
        "required_caps": [],
        "limits": dict(LIMITS),
    }


class Governor:
    """Two people who govern, each action after the one before was confirmed; tries again what nobody confirms."""

    def __init__(self, world: World):
        self.world = world
        self._nonces: dict[str, int] = {}
        self._waiting: ActionEnvelope | None = None

    def turn(self) -> None:
        """Hands in the next action, or the last one again."""
        world = self.world
        if not world.chaos.running:
            return
        world.kernel.after(TURN_MS, self.turn)
        if self._waiting is not None and self._waiting.action_id in world.oracles.acks:
            self._waiting = None
        if self._waiting is None:
            best = max((node.chain for node in world.honest), key=lambda chain: chain.height)
            self._waiting = self._signed(*self._next(best.state.tree))
            world.clients.by_id[self._waiting.action_id] = self._waiting
        world.submit(self._waiting)

    def _next(self, tree: Tree) -> tuple[str, str, dict[str, Any]]:
        """Returns who does what next, as far as a state can tell."""
        for name in (AUTHOR, APPROVER):
            if read_agent(tree, name) is None:
                return name, AGENT_REGISTER, {"position": [0, 0]}
        count = read(tree, PROPOSALS_KEY, ProposalCount) or ProposalCount()
        number = count.next - 1
        record = read_proposal(tree, number) if count.open else None
        if record is None:
            return self._begin(tree)
        self.world.kernel.reach(f"proposal {record.state}")
        who, kind = {
            PROPOSED: (AUTHOR, kinds.PROPOSAL_SHADOW),
            SHADOWED: (APPROVER, kinds.PROPOSAL_APPROVE),
            APPROVED: (AUTHOR, kinds.PROPOSAL_APPLY),
        }[record.state]
        return who, kind, {"proposal": number}

    def _begin(self, tree: Tree) -> tuple[str, str, dict[str, Any]]:
        """Returns the action that brings the next version, or proposes it once its code is there."""
        current = read_manifest(tree)
        version = current.version
        code = code_of(version)
        if read_artifact(tree, content_id(code)) is None:
            return AUTHOR, kinds.ARTIFACT_PUT, split_artifact(code)[0]
        document, name = manifest(version), f"{version}.0.0"
        changes: dict[str, Any] = {"activate": [{"module_id": MODULE, "version": name}]}
        if version == 1:
            changes["register"] = [document]
        else:
            self.world.kernel.reach("module upgraded")
            before = {"module_id": MODULE, "from_version": f"{version - 1}.0.0", "to_version": name}
            changes["upgrade"] = [{**before, "wasm_hash": document["wasm_hash"], "manifest": document}]
        return AUTHOR, kinds.PROPOSAL_CREATE, {"base": current.hash, "changes": changes}

    def _signed(self, actor: str, kind: str, payload: dict[str, Any]) -> ActionEnvelope:
        nonce = self._nonces[actor] = self._nonces.get(actor, -1) + 1
        made = make_action(world_id=WORLD, actor_id=actor, kind=kind, payload=payload, nonce=nonce, timestamp_ms=0)
        return sign_action(made, signer("gov"))
