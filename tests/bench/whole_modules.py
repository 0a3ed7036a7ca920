"""One node executes signed actions that a module answers, with batches and by calls of their own, end to end.

Both nodes run the same world and the same actions, and differ in the manifest of the counter of the examples alone: one
says ``max_batch``. The ratio says what a batch is worth when everything else that a node does is in it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from agentworld_core.ledger.genesis import chain_from_genesis
from agentworld_core.messages import ActionEnvelope
from agentworld_core.world.actions import make_action, sign_action
from agentworld_core.world.modules.artifacts import split_artifact
from agentworld_core.world.modules.records import read_manifest
from agentworld_node.sandbox import WasmSandbox
from tests.bench.b15_modules import EXAMPLES
from tests.bench.harness import Case, LeftOut, Setting, cpu
from tests.bench.material import VALIDATOR, agent_signer
from tests.bench.whole import WholeNode, profile
from tests.unit.node.material import WORLD, make_genesis, signer

ACTORS = 64
MAX_BATCH = 4096


def cases(setting: Setting) -> Iterator[Case | LeftOut]:
    """Yields actions through a module with batches and without, and writes ``profile-modules.txt``."""
    share = setting.size(1_500, 100)
    actions = _additions(setting.size(15 * 1_500, 300))
    parts = [actions[start : start + share] for start in range(0, len(actions) - share + 1, share)]
    with contextlib.ExitStack() as stack:
        sides = [_Side(stack, setting, parts, max_batch=number) for number in (MAX_BATCH, 0)]
        yield Case(
            id="whole",
            case=f"actions for the counter, {share:,} at a time",
            peer="the same without batches",
            ours=sides[0].commit,
            theirs=sides[1].commit,
            goal=None,
            check=lambda: sides[0].wrong() or sides[1].wrong(),
        )
    profile(
        setting,
        _installation(MAX_BATCH),
        actions[: setting.size(1_500, 100)],
        sandbox=WasmSandbox(),
        name="profile-modules.txt",
    )


class _Side:
    """A node with the counter in force and the actions that it has not committed yet."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        setting: Setting,
        parts: Sequence[Sequence[ActionEnvelope]],
        *,
        max_batch: int,
    ):
        self._node = stack.enter_context(WholeNode(setting.folder, sandbox=WasmSandbox()))
        self._parts = iter(parts)
        self._committed = 0
        for part in _installation(max_batch):
            self._node.commit(part)
            self._committed += len(part)

    def commit(self) -> float:
        """Commits the next actions; what the idle node of the other side does meanwhile is hardly anything."""
        part = next(self._parts)
        self._committed += len(part)
        return cpu(lambda: self._node.commit(part), items=len(part))

    def wrong(self) -> str | None:
        """Looks for everything in the blocks."""
        return self._node.wrong(self._committed)


def _signed(actor: str, kind: str, payload: dict[str, Any], nonce: int) -> ActionEnvelope:
    draft = make_action(
        world_id=WORLD, actor_id=actor, kind=kind, payload=payload, nonce=nonce, timestamp_ms=1_700_000_000_000
    )
    return sign_action(draft, agent_signer(actor) if actor.startswith("agent-") else signer("gov"))


def _additions(count: int) -> list[ActionEnvelope]:
    return [
        _signed(f"agent-{number % ACTORS}", "counter.add", {"by": number % 1000}, 2 + number // ACTORS)
        for number in range(count)
    ]


def _installation(max_batch: int) -> list[list[ActionEnvelope]]:
    """What brings the actors and the counter into a world, in parts that are committed one after the other."""
    manifest = json.loads((EXAMPLES / "counter" / "manifest.json").read_text(encoding="utf-8"))
    manifest["limits"]["max_batch"] = max_batch
    code = (EXAMPLES / "counter" / "counter.wasm").read_bytes()
    names = ["author", "approver", *[f"agent-{number}" for number in range(ACTORS)]]
    base = read_manifest(chain_from_genesis(make_genesis((VALIDATOR,))).tree).hash
    active = {"module_id": "counter", "version": manifest["version"]}
    changes = {"register": [manifest], "activate": [active]}
    pieces = split_artifact(code)
    nonce = 1 + len(pieces)
    return [
        [_signed(name, "agent.register", {"position": [0, 0]}, 1) for name in names],
        [_signed("author", "artifact.put", piece, 2 + number) for number, piece in enumerate(pieces)],
        [_signed("author", "proposal.create", {"base": base, "changes": changes}, nonce + 1)],
        [_signed("author", "proposal.shadow", {"proposal": 1}, nonce + 2)],
        [_signed("approver", "proposal.approve", {"proposal": 1}, 2)],
        [_signed("author", "proposal.apply", {"proposal": 1}, nonce + 3)],
    ]
